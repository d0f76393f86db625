/* Several threads at once, without OpenMP, for ThreadSanitizer: two graphs that train, and views of one net
   that infer while the net itself does; no mutable global and no write to what is shared, so no race; and
   each computes what one alone computes. */
#include "cnn.h"
#include "test.h"
#include <pthread.h>

typedef struct { uint64_t seed; float loss; const char *error; } job;

static void *train(void *p)
{
    job *j = p;
    cnn_graph  *g = cnn_new(.max_batch = 4, .seed = j->seed);
    cnn_tensor *x = cnn_input(g, 1, 8, 8), *t = cnn_labels(g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, 4, 3, .pad = 1)));
    h = cnn_dense(cnn_dropout(cnn_max_pool(h, 2), 0.3f), 3);
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    if (!cnn_compile(g, loss)) j->error = "compile";
    float image[4 * 64];
    int   label[4] = { 0, 1, 2, 1 };
    for (int i = 0; i < 4 * 64; i++) image[i] = (float)(i * 37 % 64) / 64;
    cnn_set(x, image, 4 * 64), cnn_set_labels(t, label, 4);
    for (int i = 0; i < 20; i++) j->loss = cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.05f, .momentum = 0.9f);
    if (cnn_error(g)) j->error = "training";
    cnn_free(g);
    return NULL;
}

static void two_graphs_in_two_threads(void)
{
    job alone[2] = { { 1, 0, NULL }, { 2, 0, NULL } }, together[2] = { { 1, 0, NULL }, { 2, 0, NULL } };
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) train(&alone[i]);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&thread[i], NULL, train, &together[i]) == 0);
    for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        CHECK_STR(alone[i].error, NULL);
        CHECK_STR(together[i].error, NULL);
        CHECK_SAME_BITS(&alone[i].loss, &together[i].loss, 1);
    }
    CHECK(alone[0].loss != alone[1].loss);
}

/* ---- One net, its views made and used in their threads ---- */

enum { VIEWS = 4, ROUNDS = 20, PIXELS = 64, OUT = 3 };

static void infer(cnn_tensor *x, cnn_tensor *y, int which, float (*out)[OUT])
{
    float image[PIXELS];
    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < PIXELS; i++) image[i] = (float)((i + 1) * (which + 3) * (r + 7) % 61) / 61;
        cnn_set(x, image, PIXELS), cnn_forward(y, CNN_EVAL), cnn_get(y, out[r], OUT);
    }
}

typedef struct { const cnn_graph *net; int which; float out[ROUNDS][OUT]; const char *error; } reader;

static void *read_along(void *p)
{
    reader    *r = p;
    cnn_graph *view = cnn_share(r->net);
    infer(cnn_find(view, "input"), cnn_output(view), r->which, r->out);
    if (r->which == VIEWS - 1) cnn_set(cnn_find(view, "input"), r->out[0], 1);       /* an error of its own */
    if ((cnn_error(view) != NULL) != (r->which == VIEWS - 1)) r->error = "wrong error";
    cnn_free(view);
    return NULL;
}

static void views_of_one_net_in_their_threads(void)
{
    static reader job[VIEWS];
    static float  alone[ROUNDS][OUT], meanwhile[ROUNDS][OUT];
    cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 5);
    cnn_tensor *x = cnn_input(g, 1, 8, 8), *t = cnn_labels(g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, 8, 3, .pad = 1)));
    h = cnn_dense(cnn_dropout(cnn_lrn(cnn_max_pool(h, 2), 3), 0.3f), OUT);
    CHECK(cnn_compile(g, cnn_softmax_cross_entropy(h, t)));
    pthread_t thread[VIEWS];
    for (int i = 0; i < VIEWS; i++) job[i].net = g, job[i].which = i;
    for (int i = 0; i < VIEWS; i++) CHECK(pthread_create(&thread[i], NULL, read_along, &job[i]) == 0);
    infer(x, h, VIEWS, meanwhile);
    for (int i = 0; i < VIEWS; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < VIEWS; i++) {
        infer(x, h, i, alone);
        CHECK_STR(job[i].error, NULL);
        CHECK_SAME_BITS(alone, job[i].out, ROUNDS);
        CHECK(memcmp(alone, job[(i + 1) % VIEWS].out, sizeof alone) != 0);
    }
    infer(x, h, VIEWS, alone);
    CHECK_SAME_BITS(alone, meanwhile, ROUNDS);
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

/* ---- A stream is read one batch ahead, in a thread, while the net computes with the batch before ---- */

enum { STREAMED = 41, WIDE = 8 };
static float   streamed[STREAMED * WIDE], wanted[STREAMED];
static pthread_t filled_by[2];                     /* of the first batch, and of the last one */

static bool fill(cnn_request *want, void *user)
{
    int *calls = user;
    filled_by[(*calls)++ > 0] = pthread_self();
    for (int i = 0; i < want->n; i++) {
        memcpy(want->floats + i * WIDE, streamed + want->index[i] * WIDE, WIDE * sizeof(float));
        want->targets[i] = wanted[want->index[i]];
    }
    return true;
}

static void a_stream_is_read_ahead(void)
{
    float  loss[2];
    int    calls = 0;
    for (int i = 0; i < STREAMED * WIDE; i++) streamed[i] = (float)(i * 37 % 64) / 64 - 0.5f;
    for (int i = 0; i < STREAMED; i++) wanted[i] = streamed[i * WIDE] - 2 * streamed[i * WIDE + 3];
    for (int way = 0; way < 2; way++) {
        cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 3);
        cnn_tensor *y = cnn_dense(cnn_tanh(cnn_dense(cnn_input(g, WIDE), 8)), 1), *J = cnn_mse(y, cnn_input(g, 1));
        cnn_dataset d = way ? cnn_data(STREAMED, WIDE, .fill = fill, .user = &calls, .target_type = CNN_F32)
                            : cnn_data(STREAMED, WIDE, .floats = streamed, .targets = wanted);
        CHECK(cnn_compile(g, J));
        CHECK(cnn_fit(J, y, &d, .epochs = 5, .lr = 0.05f, .validation = &d));
        CHECK_STR(cnn_error(g), NULL);
        loss[way] = (float)cnn_evaluate(J, y, &d).loss;
        cnn_free(g), cnn_dataset_free(&d);
    }
    CHECK_SAME_BITS(&loss[0], &loss[1], 1);
    CHECK_INT(calls, 11 * 11);
#if defined(__SANITIZE_THREAD__)                 /* then the library is built with -pthread, too */
    CHECK(pthread_equal(filled_by[0], pthread_self()) && !pthread_equal(filled_by[1], pthread_self()));
#endif
}

int main(void)
{
    RUN(two_graphs_in_two_threads);
    RUN(views_of_one_net_in_their_threads);
    RUN(a_stream_is_read_ahead);
    return test_end();
}
