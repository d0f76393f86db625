/* Two graphs in two threads at once, without OpenMP, for ThreadSanitizer: no mutable global, so no race; and both
   compute what one alone computes. */
#define CNN_IMPLEMENTATION
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

int main(void)
{
    RUN(two_graphs_in_two_threads);
    return test_end();
}
