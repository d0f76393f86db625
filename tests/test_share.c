/* Views (cnn_share): the same bits as the net itself in every order of calls, for every batch; nothing of the
   net is written; an error of a view is its own; every allocation made to fail in turn. Several threads at
   once are in tests/switches/threads.c, which runs under ThreadSanitizer. */
#include "cnn.h"
#include "alloc.h"
#include "test.h"

enum { BATCH = 4, SIDE = 8, CLASSES = 3, PIXELS = 2 * SIDE * SIDE, MOST = 7 };

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *mid, *logits, *loss; } net;

/* Trained a little, so that running statistics and weights are not those of the start; with a kept tensor, a
   frozen parameter, shared weights, a constant, and a reduction over the batch in the loss. */
static net trained(void)
{
    net n;
    n.g = cnn_new(.max_batch = BATCH, .seed = 3, .threads = 2);
    n.x = cnn_input(n.g, 2, SIDE, SIDE), n.t = cnn_labels(n.g);
    const float shift[2] = { 0.25f, -0.5f };
    cnn_tensor *h = cnn_add(n.x, cnn_const(n.g, ((cnn_shape){ 1, 2, 1, 1 }), shift));
    h = cnn_relu(cnn_batch_norm(cnn_conv2d(h, 6, 3, .pad = 1, .name = "c1")));
    cnn_tensor *w = cnn_param(n.g, "shared", ((cnn_shape){ 6, 6, 3, 3 }), .init = CNN_INIT_HE, .fan_in = 54);
    h = cnn_tanh(cnn_conv2d(h, 6, 3, .pad = 1, .weight = w));
    n.mid = h = cnn_keep(cnn_add(h, cnn_conv2d(h, 6, 3, .pad = 1, .weight = w)));
    h = cnn_dropout(cnn_max_pool(h, 2), 0.25f);
    cnn_tensor *frozen = cnn_freeze(cnn_param(n.g, "frozen", ((cnn_shape){ 10, 6 * 16, 1, 1 }),
                                              .init = CNN_INIT_LECUN,
                                              .fan_in = 96));
    h = cnn_relu(cnn_dense(h, 10, .weight = frozen));
    n.logits = cnn_dense(h, CLASSES);
    cnn_tensor *penalty = cnn_scale(cnn_mean(cnn_mul(n.logits, n.logits)), 0.01f);
    n.loss = cnn_add(cnn_softmax_cross_entropy(n.logits, n.t), penalty);
    if (!cnn_compile(n.g, n.loss)) return n;
    float x[BATCH * PIXELS];
    int   t[BATCH];
    for (int step = 0; step < 5; step++) {
        test_fill(x, BATCH * PIXELS, -1, 1);
        for (int i = 0; i < BATCH; i++) t[i] = test_int(0, CLASSES - 1);
        cnn_set(n.x, x, BATCH * PIXELS), cnn_set_labels(n.t, t, BATCH);
        cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss), cnn_step(n.g, .lr = 0.05f);
    }
    return n;
}

static bool infer(cnn_tensor *x, cnn_tensor *logits, const float *values, int batch, float *y)
{
    return cnn_set(x, values, (size_t)batch * PIXELS) && (cnn_forward(logits, CNN_EVAL), true)
        && cnn_get(logits, y, (size_t)batch * CLASSES);
}

static void views_compute_the_same_bits(void)
{
    net n = trained();
    cnn_graph *view[3] = { cnn_share(n.g), cnn_share(n.g, .max_batch = MOST, .threads = 2), NULL };
    view[2] = cnn_share(view[1], .max_batch = 1);                               /* a view of a view */
    float x[3][MOST * PIXELS], y[MOST * CLASSES], own[MOST * CLASSES];
    for (int round = 0; round < 6; round++) {
        int batch[3] = { test_int(1, BATCH), test_int(1, MOST), 1 };
        for (int i = 0; i < 3; i++) {            /* all are set before any runs: they have their own inputs */
            test_fill(x[i], MOST * PIXELS, -1, 1);
            CHECK(cnn_set(cnn_find(view[i], n.x->name), x[i], (size_t)(batch[i] * PIXELS)));
        }
        for (int i = 2; i >= 0; i--) cnn_forward(cnn_output(view[i]), CNN_EVAL);
        for (int i = 0; i < 3; i++) {
            CHECK_INT(cnn_batch(view[i]), batch[i]);
            CHECK(cnn_get(cnn_output(view[i]), y, (size_t)(batch[i] * CLASSES)));
            for (int k = 0; k < batch[i]; k += BATCH) {
                int part = batch[i] - k < BATCH ? batch[i] - k : BATCH;
                CHECK(infer(n.x, n.logits, x[i] + k * PIXELS, part, own + k * CLASSES));
            }
            if (batch[i] <= BATCH) CHECK_SAME_BITS(y, own, batch[i] * CLASSES);
            else CHECK_ALL_NEAR(y, own, batch[i] * CLASSES, 1e-5);       /* another batch, another kernel */
        }
    }
    for (int i = 0; i < 3; i++) CHECK_STR(cnn_error(view[i]), NULL);
    CHECK_STR(cnn_error(n.g), NULL);
    for (int i = 2; i >= 0; i--) cnn_free(view[i]);
    cnn_free(n.g);
    CHECK_INT(alloc_live, 0);
}

static void kept_tensors_and_the_loss_are_there(void)
{
    net n = trained();
    cnn_graph *view = cnn_share(n.g);
    enum { MID = BATCH * 6 * SIDE * SIDE };
    float x[BATCH * PIXELS], mid[MID], own[MID];
    int   t[BATCH] = { 0, 2, 1, 1 };
    test_fill(x, BATCH * PIXELS, -1, 1);
    cnn_set(n.x, x, BATCH * PIXELS), cnn_set_labels(n.t, t, BATCH);
    cnn_set(cnn_find(view, n.x->name), x, BATCH * PIXELS);
    cnn_set_labels(cnn_find(view, n.t->name), t, BATCH);
    float loss = cnn_forward(n.loss, CNN_EVAL), again = cnn_forward(cnn_loss(view), CNN_EVAL);
    CHECK(loss > 0);
    CHECK_SAME_BITS(&loss, &again, 1);
    cnn_get(n.mid, own, MID), cnn_get(cnn_find(view, n.mid->name), mid, MID);
    CHECK_SAME_BITS(own, mid, MID);
    CHECK_INT(cnn_param_count(view), cnn_param_count(n.g));
    CHECK(cnn_plan(view, cnn_loss(view)).total < cnn_plan(n.g, n.loss).total);
    CHECK_INT(cnn_plan(view, cnn_loss(view)).params, 0);
    size_t of_view = cnn_save_memory(view, NULL, 0);           /* without the state of the training */
    CHECK(of_view > 0 && of_view <= cnn_save_memory(n.g, NULL, 0));
    CHECK_STR(cnn_error(view), NULL);

    cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss);
    cnn_step(n.g, .lr = 0.1f);                                 /* views see what g learns */
    loss = cnn_forward(n.loss, CNN_EVAL);
    CHECK(loss != again);
    again = cnn_forward(cnn_loss(view), CNN_EVAL);
    CHECK_SAME_BITS(&loss, &again, 1);
    cnn_free(view), cnn_free(n.g);
}

/* Data sets are fed to a view as to any net. */
static void views_are_evaluated(void)
{
    enum { SAMPLES = 2 * BATCH + 1 };
    net         n = trained();
    cnn_graph  *view = cnn_share(n.g, .max_batch = 3);
    static float values[SAMPLES * PIXELS];
    unsigned char label[SAMPLES];
    int         matrix[2][CLASSES * CLASSES];
    test_fill(values, SAMPLES * PIXELS, -1, 1);
    for (int i = 0; i < SAMPLES; i++) label[i] = (unsigned char)(i % CLASSES);
    cnn_dataset data = cnn_floats(values, label, SAMPLES, 2, SIDE, SIDE);
    cnn_score   own = cnn_evaluate(n.loss, n.logits, &data);
    cnn_score   score = cnn_evaluate(cnn_loss(view), cnn_output(view), &data);
    CHECK_STR(cnn_error(view), NULL);
    CHECK_INT(score.count, SAMPLES);
    CHECK(score.accuracy == own.accuracy);
    CHECK(cnn_confusion(n.logits, &data, matrix[0]) && cnn_confusion(cnn_output(view), &data, matrix[1]));
    CHECK(memcmp(matrix[0], matrix[1], sizeof matrix[0]) == 0);
    CHECK(cnn_top_k(cnn_output(view), &data, 1) == own.accuracy);
    for (int i = 0; i < SAMPLES; i++)
        CHECK_INT(cnn_predict(cnn_find(view, "input"), cnn_output(view), values + i * PIXELS, NULL),
                  cnn_predict(n.x, n.logits, values + i * PIXELS, NULL));
    CHECK_STR(cnn_error(view), NULL);
    cnn_dataset_free(&data), cnn_free(view), cnn_free(n.g);
}

static void errors_belong_to_the_view(void)
{
    net   n = trained();
    float x[PIXELS * BATCH], w[6 * 54] = { 0 }, before[6 * 54], after[6 * 54];
    test_fill(x, PIXELS * BATCH, -1, 1);
    cnn_get(cnn_find(n.g, "shared"), before, 6 * 54);
    const char *written[] = { "shared", "frozen", "batch_norm1.running_mean", "const1", NULL };
    for (int i = 0; written[i]; i++) {
        cnn_graph  *view = cnn_share(n.g);
        cnn_tensor *t = cnn_find(view, written[i]);
        CHECK_MSG(t != NULL, "%s", written[i]);
        CHECK(!cnn_map_write(t));
        const char *message = "write: it belongs to the net that this view shares";
        CHECK(cnn_error(view) && strstr(cnn_error(view), message));
        cnn_free(view);
    }
    cnn_graph *view = cnn_share(n.g);
    CHECK(!cnn_set(cnn_find(view, "shared"), w, 6 * 54));
    cnn_forward(cnn_output(view), CNN_EVAL);                                    /* does nothing any more */
    CHECK_STR(cnn_error(n.g), NULL);
    cnn_get(cnn_find(n.g, "shared"), after, 6 * 54);
    CHECK_SAME_BITS(before, after, 6 * 54);
    cnn_free(view);

    view = cnn_share(n.g);
    cnn_set(cnn_find(view, n.x->name), x, PIXELS);
    CHECK(isnan(cnn_forward(cnn_output(view), CNN_TRAIN)));
    CHECK(strstr(cnn_error(view), "for inference"));
    cnn_free(view);
    view = cnn_share(n.g);
    CHECK(!cnn_step(view, .lr = 1));
    CHECK_STR(cnn_error(n.g), NULL);
    cnn_free(view);

    view = cnn_share(n.g, .max_batch = -1);
    CHECK(cnn_error(view) && strstr(cnn_error(view), "max_batch is -1"));
    cnn_free(view);
    view = cnn_share(n.g, .max_batch = INT_MAX);
    CHECK(cnn_error(view) && strstr(cnn_error(view), "2^31 - 1"));
    cnn_free(view);
    cnn_graph *raw = cnn_new(.max_batch = 1);
    view = cnn_share(raw);
    CHECK(strstr(cnn_error(view), "share: the net is not compiled"));
    cnn_free(view);
    cnn_input(raw, -1, 1, 1);
    view = cnn_share(raw);
    CHECK(strstr(cnn_error(view), "share: the net has an error: "));
    CHECK(strstr(cnn_error(view), cnn_error(raw)));
    cnn_free(view), cnn_free(raw);
    CHECK(cnn_share(NULL) == NULL);
    cnn_free(n.g);
}

static void every_allocation_fails(void)
{
    net   n = trained();
    long  before = alloc_live, first = alloc_count;
    cnn_free(cnn_share(n.g));
    long  total = alloc_count - first;
    CHECK(total > 3);
    for (long i = 1; i <= total; i++) {
        alloc_fail = alloc_count + i;
        cnn_graph *view = cnn_share(n.g);
        alloc_fail = 0;
        CHECK_MSG(cnn_error(view) && strstr(cnn_error(view), "out of memory"), "allocation %ld: %s", i,
                  cnn_error(view) ? cnn_error(view) : "no error");
        cnn_free(view);
        CHECK_INT(alloc_live, before);
        CHECK_STR(cnn_error(n.g), NULL);
    }
    cnn_free(n.g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(views_compute_the_same_bits);
    RUN(kept_tensors_and_the_loss_are_there);
    RUN(views_are_evaluated);
    RUN(errors_belong_to_the_view);
    RUN(every_allocation_fails);
    return test_end();
}
