/* lenet.c - LeNet-5 learns to read handwritten digits.

     cc -std=c99 -O2 examples/lenet.c -o lenet -lm && ./lenet

   Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
   1998. As is usual today, C3 sees all six maps of S2 (the paper connects some of them, to save time),
   pooling has no weights of its own, and the output is softmax with cross-entropy instead of radial
   basis functions.

     ./lenet                               the 5,000 + 1,000 digits of examples/data: some seconds
     ./lenet IMAGES LABELS IMAGES LABELS   full MNIST, not gzipped: training files, then test files

   Leaves lenet.safetensors (the model), lenet.svg and lenet.csv (the curves) in build/, or here if there
   is none. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

/* The digits in examples/data, seen from the root of the repository, or else beside this source file. */
static cnn_dataset load_sample(const char *set)
{
    const char *slash = strrchr(__FILE__, '/'), *place[2] = { "examples/", __FILE__ };
    int         length[2] = { 9, slash ? (int)(slash - __FILE__) + 1 : 0 };
    cnn_dataset d = { 0 };
    for (int i = 0; i < 2 && !d.count; i++) {
        char images[600], labels[600];
        snprintf(images, sizeof images, "%.*sdata/%s-images-idx3-ubyte", length[i], place[i], set);
        snprintf(labels, sizeof labels, "%.*sdata/%s-labels-idx1-ubyte", length[i], place[i], set);
        d = cnn_load_idx(images, labels);
    }
    return d;
}

/* Where results go: build/ where it exists, else here. */
static const char *result(char path[64], const char *name)
{
    snprintf(path, 64, "build/%s", name);
    FILE *f = fopen(path, "ab");
    if (f) fclose(f);
    else snprintf(path, 64, "%s", name);
    return path;
}

int main(int argc, char **argv)
{
    if (argc != 1 && argc != 5)
        return fprintf(stderr, "usage: %s [TRAIN_IMAGES TRAIN_LABELS TEST_IMAGES TEST_LABELS]\n", argv[0]), 2;
    bool full = argc == 5;
    cnn_dataset train = full ? cnn_load_idx(argv[1], argv[2]) : load_sample("train");
    cnn_dataset test  = full ? cnn_load_idx(argv[3], argv[4]) : load_sample("test");
    if (!train.count) return fprintf(stderr, "%s\n", train.error), 1;
    if (!test.count)  return fprintf(stderr, "%s\n", test.error), 1;

    cnn_graph  *g = cnn_new(.max_batch = 16, .seed = 1);
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *h = x;

    h = cnn_scale(h, 1 / 0.3081f, -0.1307f / 0.3081f);              /* MNIST: mean 0.1307, deviation 0.3081 */
    h = cnn_tanh(cnn_conv2d(h,  6, 5, .pad = 2, .name = "c1"));     /* C1  (N, 6,28,28)      156 weights */
    h = cnn_avg_pool(h, 2);                                         /* S2  (N, 6,14,14) */
    h = cnn_tanh(cnn_conv2d(h, 16, 5, .name = "c3"));               /* C3  (N,16,10,10)    2,416 */
    h = cnn_avg_pool(h, 2);                                         /* S4  (N,16, 5, 5) */
    h = cnn_tanh(cnn_dense(h, 120, .name = "c5"));                  /* C5  (N,120)        48,120 */
    h = cnn_tanh(cnn_dense(h,  84, .name = "f6"));                  /* F6  (N, 84)        10,164 */
    cnn_tensor *logits = cnn_dense(h, 10, .name = "output");        /*     (N, 10)           850 */
    cnn_tensor *loss   = cnn_softmax_cross_entropy(logits, t);      /*                    61,706 in all */

    cnn_history history = { 0 };
    cnn_score   score   = { 0 };
    char        model[64] = "", svg[64] = "", csv[64] = "";

    if (cnn_compile(g, loss)) {
        cnn_summary(g, stdout), fflush(stdout);
        cnn_fit(loss, logits, &train, .epochs = full ? 5 : 12, .lr = 0.02f, .lr_end = 0.0002f,
                .momentum = 0.9f, .nesterov = 1, .weight_decay = 0.0005f, .validation = &test,
                .progress = cnn_print_progress, .history = &history);
        score = cnn_evaluate(loss, logits, &test);
        cnn_save(g, result(model, "lenet.safetensors"));
        result(svg, "lenet.svg"), result(csv, "lenet.csv");
    }
    bool ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));
    else if (!cnn_history_svg(&history, svg) || !cnn_history_csv(&history, csv))
        ok = false, fprintf(stderr, "cannot write %s or %s\n", svg, csv);
    else printf("wrote %s, %s, %s\ntest accuracy %.2f %%\n", model, svg, csv, 100 * score.accuracy);
    if (fflush(stdout) || ferror(stdout)) ok = false, fprintf(stderr, "stdout: cannot be written\n");

    cnn_history_free(&history), cnn_dataset_free(&train), cnn_dataset_free(&test), cnn_free(g);
    return ok ? 0 : 1;
}
