/* web.c - LeNet-5 in the browser: what index.html calls. `make web` compiles it to WebAssembly:

     clang --target=wasm32-wasi -mexec-model=reactor -std=c99 -O2 -msimd128 examples/web/web.c -o web.wasm

   Each function that returns a text returns NULL when all is well, else what went wrong. The net is that of
   ../lenet.c; nothing here knows the page. */
#define CNN_STATIC
#define CNN_NO_STDIO
#define CNN_IMPLEMENTATION
#include "../../cnn.h"

#define EXPORT(name) __attribute__((export_name(#name))) name

enum { BATCH = 16, PIXELS = 28 * 28, CLASSES = 10, LAYERS = 7 };

static cnn_graph  *g;
static cnn_tensor *x, *t, *logits, *loss, *layer[LAYERS], *filters[2];
static cnn_dataset train, test;
static float       pixels[PIXELS], probabilities[CLASSES];

/* Bytes for the page to write to or to read from; the page frees them. */
void *EXPORT(take)(size_t bytes) { return malloc(bytes); }
void  EXPORT(drop)(void *p) { free(p); }

/* A new net with random weights. */
const char *EXPORT(start)(unsigned seed)
{
    cnn_free(g);
    g = cnn_new(.max_batch = BATCH, .seed = seed);
    x = cnn_input(g, 1, 28, 28), t = cnn_labels(g);
    cnn_tensor *h = cnn_scale(x, 1 / 0.3081f, -0.1307f / 0.3081f);  /* MNIST: mean 0.1307, deviation 0.3081 */
    cnn_tensor *c1 = cnn_conv2d(h, 6, 5, .pad = 2, .name = "c1");
    layer[0] = h = cnn_keep(cnn_tanh(c1));                          /* C1  6 maps of 28x28 */
    layer[1] = h = cnn_keep(cnn_avg_pool(h, 2));                    /* S2  6 of 14x14 */
    cnn_tensor *c3 = cnn_conv2d(h, 16, 5, .name = "c3");
    layer[2] = h = cnn_keep(cnn_tanh(c3));                          /* C3  16 of 10x10 */
    layer[3] = h = cnn_keep(cnn_avg_pool(h, 2));                    /* S4  16 of 5x5 */
    layer[4] = h = cnn_keep(cnn_tanh(cnn_dense(h, 120, .name = "c5")));
    layer[5] = h = cnn_keep(cnn_tanh(cnn_dense(h, 84, .name = "f6")));
    layer[6] = logits = cnn_dense(h, CLASSES, .name = "output");
    loss = cnn_softmax_cross_entropy(logits, t);
    cnn_compile(g, loss);
    filters[0] = c1->in[1], filters[1] = c3->in[1];
    return cnn_error(g);
}

/* IDX files in memory, which are copied: the digits to learn, and those to be tested with. */
const char *EXPORT(digits)(const void *images, size_t bytes, const void *labels, size_t label_bytes,
                           int for_test)
{
    cnn_dataset *d = for_test ? &test : &train;
    *d = cnn_idx_memory(images, bytes, labels, label_bytes);
    return d->count ? NULL : d->error;
}
int EXPORT(count)(int of_test) { return of_test ? test.count : train.count; }

/* One batch, from sample number `first` on (which is shuffled at 0): its size, 0 at the end of the epoch. */
static float batch_loss;
int EXPORT(learn)(int first, int epoch, float lr)
{
    if (first == 0) cnn_shuffle(&train, (uint64_t)epoch);
    const int n = cnn_feed(x, t, &train, first);
    if (!n) return 0;
    batch_loss = cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    return cnn_step(g, .lr = lr, .momentum = 0.9f, .weight_decay = 0.0005f) ? n : 0;
}
float EXPORT(last_loss)(void) { return batch_loss; }

/* What class the net takes each test digit for, and the share that is right. */
double EXPORT(judge)(unsigned char *taken_for)
{
    int right = 0, n;
    for (int i = 0; (n = cnn_feed(x, t, &test, i)) > 0; i += n) {
        cnn_forward(logits, CNN_EVAL);
        const float *y = cnn_map_read(logits), *label = cnn_map_read(t);
        for (int k = 0; y && k < n; k++, y += CLASSES) {
            int best = 0;
            for (int c = 1; c < CLASSES; c++) best = y[c] > y[best] ? c : best;
            taken_for[i + k] = (unsigned char)best, right += best == (int)label[k];
        }
    }
    return test.count ? (double)right / test.count : 0;
}

/* The picture, which the page writes (28x28, 0 paper .. 1 ink); what it is taken for; the probabilities. */
float *EXPORT(picture)(void) { return pixels; }
float *EXPORT(sure)(void) { return probabilities; }
int EXPORT(look)(void) { return cnn_predict(x, logits, pixels, probabilities); }

/* After look: layer i (C1, S2, C3, S4, C5, F6, output), and the weights of C1 (6,1,5,5) and C3 (16,6,5,5). */
const float *EXPORT(values)(int i) { return cnn_map_read(layer[i]); }
const float *EXPORT(weights)(int i) { return cnn_map_read(filters[i]); }

/* A safetensors file. save: its size; out may be NULL. */
size_t EXPORT(save)(void *out, size_t bytes) { return cnn_save_memory(g, out, bytes); }
const char *EXPORT(load)(const void *file, size_t bytes)
{
    static char why[CNN_ERROR_SIZE];
    const cnn_load_weights_args into = { .g = g, .path = "this file" };
    if (cnn_load_weights_memory(file, bytes, into)) return NULL;
    strcpy(why, cnn_error(g)), cnn_clear_error(g);
    return why;
}
const char *EXPORT(error)(void) { return cnn_error(g); }
