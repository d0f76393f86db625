/* test_faults.c - nothing silent, nothing trapped: one test for each kind of fault that outsiders found. */
#include "cnn.h"
#include "test.h"

/* A small net, compiled, with data in its inputs. */
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *y, *loss; } net;
static net small_net(void)
{
    static const float x[6] = { 1, -1, 0.5f, 2, 0, -2 };
    static const int   label[2] = { 0, 2 };
    net n = { 0 };
    n.g = cnn_new(.max_batch = 2, .seed = 1);
    n.x = cnn_input(n.g, 3), n.t = cnn_labels(n.g), n.y = cnn_dense(n.x, 3, .name = "fc");
    n.loss = cnn_softmax_cross_entropy(n.y, n.t);
    CHECK(cnn_compile(n.g, n.loss) && cnn_set(n.x, x, 6) && cnn_set_labels(n.t, label, 2));
    return n;
}

/* A wrong call after cnn_compile stops runs, but what was learned can be read, and runs go on when it is cleared. */
static void refused_calls_trap_nothing(void)
{
    net        n = small_net();
    cnn_tensor *w = cnn_find(n.g, "fc.weight");
    float       before[9], after[9];
    const float first = cnn_forward(n.loss, CNN_TRAIN);
    CHECK(cnn_get(w, before, 9));
    CHECK(!cnn_get(w, after, 8));                                           /* the wrong count */
    CHECK(cnn_error(n.g) && strstr(cnn_error(n.g), "8 values"));
    CHECK(isnan(cnn_forward(n.loss, CNN_TRAIN)));
    CHECK(!cnn_step(n.g, .lr = 1));
    CHECK(cnn_get(w, after, 9) && memcmp(before, after, sizeof before) == 0);
    CHECK(cnn_clear_error(n.g) && !cnn_error(n.g));
    CHECK(cnn_forward(n.loss, CNN_TRAIN) == first);
    cnn_backward(n.loss);
    CHECK(cnn_step(n.g, .lr = 1));
    cnn_free(n.g);

    cnn_graph *g = cnn_new(.max_batch = 0);
    cnn_dense(cnn_input(g, 3), 0);
    CHECK(cnn_error(g) && !cnn_clear_error(g) && cnn_error(g));            /* what was not recorded is missing */
    cnn_free(g);
    CHECK(!cnn_clear_error(NULL));
}

static void null_is_a_message(void)
{
    net n = small_net();
    cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss);
    cnn_tensor *w = cnn_find(n.g, "fc.weight");
    CHECK(!cnn_set(n.x, NULL, 6) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_set_labels(n.t, NULL, 2) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_get(w, NULL, 9) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_get_grad(w, NULL, 9) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_set(NULL, NULL, 1) && !cnn_get(NULL, NULL, 1));
    cnn_free(n.g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(refused_calls_trap_nothing);
    RUN(null_is_a_message);
    return test_end();
}
