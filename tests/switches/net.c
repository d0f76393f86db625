/* XOR and a small convolution net, trained; returns 0 if both learned. Built with every switch of the library:
   -DONE_FILE puts the implementation here, else it is linked from impl.c. No stdio, so that CNN_NO_STDIO can be set. */
#include "cnn.h"                     /* first the declarations, as a header of the program might include them */
#ifdef ONE_FILE
#define CNN_IMPLEMENTATION
#include "cnn.h"
#endif
#include "cnn.h"

static int learn_xor(void)
{
    static const float in[4][2] = { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } }, out[4] = { 0, 1, 1, 0 };
    cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 1);
    cnn_tensor *x = cnn_input(g, 2), *t = cnn_input(g, 1), *h = cnn_tanh(cnn_dense(x, 8));
    cnn_tensor *loss = cnn_mse(cnn_dense(cnn_clamp(h, -INFINITY, 2), 1), t);        /* needs no <math.h> */
    if (!cnn_compile(g, loss)) return cnn_free(g), 1;
    cnn_set(x, in[0], 8), cnn_set(t, out, 4);
    for (int i = 0; i < 1000; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f, .momentum = 0.9f);
    float error = cnn_forward(loss, CNN_EVAL);
    int   bad = cnn_error(g) || !(error < 1e-3f) ? 2 : 0;
    cnn_free(g);
    return bad;
}

static int learn_stripes(void)           /* rows against columns, 8x8 */
{
    enum { N = 8 };
    float image[N * 64], first = 0, last = 0;
    int   label[N];
    for (int n = 0; n < N; n++) {
        label[n] = n % 2;
        for (int i = 0; i < 64; i++) image[n * 64 + i] = (float)(((n % 2 ? i : i / 8) + n / 2) % 2);
    }
    cnn_graph  *g = cnn_new(.max_batch = N, .seed = 2);
    cnn_tensor *x = cnn_input(g, 1, 8, 8), *t = cnn_labels(g), *h = x;
    h = cnn_relu(cnn_batch_norm(cnn_conv2d(h, 4, 3, .pad = 1)));
    h = cnn_dense(cnn_max_pool(h, 2), 2);
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    if (!cnn_compile(g, loss)) return cnn_free(g), 3;
    cnn_set(x, image, N * 64), cnn_set_labels(t, label, N);
    for (int i = 0; i < 60; i++) {
        last = cnn_forward(loss, CNN_TRAIN);
        if (i == 0) first = last;
        cnn_backward(loss), cnn_step(g, .lr = 0.05f, .momentum = 0.9f);
    }
    int bad = cnn_error(g) || !(last < 0.1f * first) ? 4 : 0;
    /* The model in memory, and back. */
    unsigned char file[40000];
    size_t size = cnn_save_memory(g, file, sizeof file);
    if (!size || size > sizeof file || !cnn_load_weights_memory(file, size, (cnn_load_weights_args){ .g = g })) bad = 5;
    cnn_free(g);
    return bad;
}

int main(void)
{
    int bad = learn_xor();
    return bad ? bad : learn_stripes();
}
