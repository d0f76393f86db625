/* mnist.c - four small networks learn MNIST or Fashion-MNIST: the accuracies of tests/bench/README.md.

     cc -std=c99 -O2 examples/mnist.c -o mnist -lm
     ./mnist NET DIRECTORY [SEED ...]                         NET: mlp, lenet, keras, fashion; seed: default 1

   DIRECTORY holds the four files of either data set, unpacked with gunzip: train-images-idx3-ubyte,
   train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte. Fashion-MNIST (Xiao, Rasul,
   Vollgraf 2017) is the Debian package dataset-fashion-mnist.

   Every recipe is SGD with Nesterov momentum under one cycle of the learning rate. The whole training set is
   learned, no part of the test set chooses anything, and the weights judged are those of the last epoch. With
   several seeds the last line is their median. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"
#include <time.h>

typedef cnn_tensor T;

static T *mlp(T *x)                                                /* 13,002 weights */
{
    T *h = cnn_relu(cnn_dense(x, 16));
    h = cnn_relu(cnn_dense(h, 16));
    return cnn_dense(h, 10);
}

static T *lenet(T *x)                                              /* 61,706; see lenet.c */
{
    T *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_tanh(cnn_dense(h, 120));
    h = cnn_tanh(cnn_dense(h, 84));
    return cnn_dense(h, 10);
}

static T *keras(T *x)                                              /* 34,826: the Keras tutorial's */
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 32, 3)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 64, 3)), 2);
    return cnn_dense(cnn_dropout(cnn_flatten(h), 0.5f), 10);
}

static T *conv_bn_relu(T *x, int channels)
{
    return cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .no_bias = 1)));
}

static T *fashion(T *x)                                            /* 60,922 */
{
    T *h = cnn_max_pool(conv_bn_relu(x, 16), 2);                   /* (N,16,14,14) */
    h = cnn_max_pool(conv_bn_relu(conv_bn_relu(h, 32), 32), 2);    /* (N,32, 7, 7) */
    h = conv_bn_relu(conv_bn_relu(h, 64), 48);                     /* (N,48, 7, 7) */
    return cnn_dense(cnn_dropout(cnn_max_pool(h, 7), 0.2f), 10);
}

static const struct recipe { const char *name; T *(*net)(T *); int epochs, batch; float lr, decay; }
recipes[] = {
    { "mlp",     mlp,     10, 32, 0.05f, 1e-5f },
    { "lenet",   lenet,    3, 16, 0.03f, 5e-4f },
    { "keras",   keras,    6, 32, 0.05f, 1e-4f },
    { "fashion", fashion,  8, 64, 0.10f, 5e-4f },
};

/* Train with this seed; the accuracy on the test set in percent, or -1 after a message. */
static double run(const struct recipe *r, cnn_dataset *train, const cnn_dataset *test, uint64_t seed)
{
    const clock_t begin = clock();
    cnn_graph    *g = cnn_new(.max_batch = r->batch, .seed = seed);
    cnn_tensor   *x = cnn_input(g, 1, 28, 28), *labels = cnn_labels(g);
    cnn_tensor   *logits = r->net(x), *loss = cnn_softmax_cross_entropy(logits, labels);
    cnn_score     score = { 0 };
    if (cnn_compile(g, loss)) {
        cnn_fit(loss, logits, train, .epochs = r->epochs, .lr = r->lr, .schedule = cnn_one_cycle,
                .momentum = 0.9f, .nesterov = 1, .weight_decay = r->decay, .progress = cnn_print_progress);
        score = cnn_evaluate(loss, logits, test);
    }
    const char *error = cnn_error(g);
    if (error) fprintf(stderr, "%s\n", error);
    else printf("%s: %zu weights, %d epochs, seed %llu: test accuracy %.2f %%, %.0f s of processor time\n",
                r->name, cnn_param_count(g), r->epochs, (unsigned long long)seed, 100 * score.accuracy,
                (double)(clock() - begin) / CLOCKS_PER_SEC), fflush(stdout);
    cnn_free(g);
    return error ? -1 : 100 * score.accuracy;
}

static cnn_dataset load(const char *directory, const char *set)
{
    char images[1024], labels[1024];
    snprintf(images, sizeof images, "%s/%s-images-idx3-ubyte", directory, set);
    snprintf(labels, sizeof labels, "%s/%s-labels-idx1-ubyte", directory, set);
    return cnn_load_idx(images, labels);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    enum { MOST = 16 };
    const struct recipe *r = NULL;
    for (size_t i = 0; argc > 2 && i < sizeof recipes / sizeof *recipes; i++)
        if (strcmp(argv[1], recipes[i].name) == 0) r = &recipes[i];
    bool numbers = true;                                           /* a seed that is none is a slip */
    for (int i = 3; i < argc; i++) numbers = numbers && !argv[i][strspn(argv[i], "0123456789")];
    if (!r || argc > 3 + MOST || !numbers)
        return fprintf(stderr, "usage: %s mlp|lenet|keras|fashion DIRECTORY [SEED ...]\n", argv[0]), 2;

    cnn_dataset train = load(argv[2], "train"), test = load(argv[2], "t10k");
    const char *error = !train.count ? train.error : !test.count ? test.error : NULL;
    if (error) fprintf(stderr, "%s (are the files unpacked? gunzip *.gz)\n", error);
    else cnn_standardize(&train, &train), cnn_standardize(&test, &train);

    double    accuracy[MOST];
    const int n = argc > 3 ? argc - 3 : 1;
    bool      ok = !error;
    for (int i = 0; ok && i < n; i++) {
        accuracy[i] = run(r, &train, &test, argc > 3 ? strtoull(argv[3 + i], NULL, 10) : 1);
        ok = accuracy[i] >= 0;
    }
    if (ok && n > 1) {
        qsort(accuracy, (size_t)n, sizeof *accuracy, ascending);
        printf("%s: median of %d seeds %.2f %%\n", r->name, n, (accuracy[(n - 1) / 2] + accuracy[n / 2]) / 2);
    }
    if (fflush(stdout) || ferror(stdout)) ok = false, fprintf(stderr, "stdout: cannot be written\n");
    cnn_dataset_free(&train), cnn_dataset_free(&test);
    return ok ? 0 : 1;
}
