/* bench_nets.c - whole networks: images per second in training and in inference, on noise.
   Prints `name threads value unit` (median); spreads go to stderr.
     cc -O2 -std=c99 -fopenmp -I. bench_nets.c -lm && ./a.out [threads [part of a name]]
   BENCH_SECONDS is the time per case (default 0.4). The networks and batches are those of the peers' programs. */
#define _POSIX_C_SOURCE 199309L
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

typedef cnn_tensor T;

static T *lenet(T *x)
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 16, 5)), 2);
    return cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 120)), 84)), 10);
}
static T *keras(T *x)
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 32, 3)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 64, 3)), 2);
    return cnn_dense(cnn_dropout(cnn_flatten(h), 0.5f), 10);
}
static T *conv_bn(T *x, int channels, int kernel, int stride)
{
    return cnn_batch_norm(cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .no_bias = 1));
}
static T *skip(T *x, int channels, int stride)
{
    return stride != 1 || x->shape.c != channels ? conv_bn(x, channels, 1, stride) : x;
}
static T *resnet18(T *x)                     /* for 32x32: a 3x3 stem and no pooling */
{
    T *h = cnn_relu(conv_bn(x, 64, 3, 1));
    for (int i = 0; i < 8; i++) {
        int channels = 64 << i / 2, stride = i % 2 == 0 && i > 0 ? 2 : 1;
        T  *f = conv_bn(cnn_relu(conv_bn(h, channels, 3, stride)), channels, 3, 1);
        h = cnn_relu(cnn_add(f, skip(h, channels, stride)));
    }
    return cnn_dense(cnn_global_avg_pool(h), 10);
}
static T *resnet50(T *x)
{
    static const int blocks[4] = { 3, 4, 6, 3 };
    T *h = cnn_max_pool(cnn_relu(conv_bn(x, 64, 7, 2)), 3, .stride = 2, .pad = 1);
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < blocks[s]; i++) {
            int stride = s > 0 && i == 0 ? 2 : 1;
            T  *f = cnn_relu(conv_bn(cnn_relu(conv_bn(h, 64 << s, 1, 1)), 64 << s, 3, stride));
            h = cnn_relu(cnn_add(conv_bn(f, 256 << s, 1, 1), skip(h, 256 << s, stride)));
        }
    return cnn_dense(cnn_global_avg_pool(h), 1000);
}
static T *alexnet(T *x)
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 96, 11, .stride = 4)), 3, .stride = 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 256, 5, .pad = 2)), 3, .stride = 2);
    h = cnn_relu(cnn_conv2d(cnn_relu(cnn_conv2d(h, 384, 3, .pad = 1)), 384, 3, .pad = 1));
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 256, 3, .pad = 1)), 3, .stride = 2);
    return cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 4096)), 4096)), 1000);
}
static T *vgg16(T *h)
{
    static const int convs[5] = { 2, 2, 3, 3, 3 }, channels[5] = { 64, 128, 256, 512, 512 };
    for (int s = 0; s < 5; s++) {
        for (int i = 0; i < convs[s]; i++) h = cnn_relu(cnn_conv2d(h, channels[s], 3, .pad = 1));
        h = cnn_max_pool(h, 2);
    }
    return cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 4096)), 4096)), 1000);
}

static const struct net { const char *name; T *(*build)(T *); int c, h, train, batch; } cases[] = {
    { "lenet",    lenet,    1,  28, 1,  64 }, { "lenet",    lenet,    1,  28, 0,   1 }, { "lenet", lenet, 1, 28, 0, 128 },
    { "keras",    keras,    1,  28, 1, 128 }, { "resnet18", resnet18, 3,  32, 1,  32 }, { "resnet18", resnet18, 3, 32, 0, 32 },
    { "alexnet",  alexnet,  3, 227, 0,   1 }, { "vgg16",    vgg16,    3, 224, 0,   1 }, { "resnet50", resnet50, 3, 224, 0, 1 },
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run(cnn_graph *g, T *y, T *loss, int train)
{
    if (!train) { cnn_forward(y, CNN_EVAL); return; }
    cnn_forward(loss, CNN_TRAIN);
    cnn_backward(loss);
    cnn_step(g, .lr = 0.001f, .momentum = 0.9f);
}

static int measure(const struct net *n, const char *name, int threads, double seconds)
{
    enum { SAMPLES = 7 };
    cnn_graph *g = cnn_new(.max_batch = n->batch, .seed = 1, .threads = threads, .inference = !n->train);
    T *x = cnn_input(g, n->c, n->h, n->h), *y = n->build(x), *t = NULL, *loss = y;
    if (n->train) t = cnn_labels(g), loss = cnn_softmax_cross_entropy(y, t);
    if (!cnn_compile(g, loss)) return fprintf(stderr, "%s\n", cnn_error(g)), cnn_free(g), 1;
    float *pixel = cnn_map_write(x), *label = t ? cnn_map_write(t) : NULL;
    unsigned noise = 1;
    for (size_t i = 0; pixel && i < cnn_count(x); i++) noise = noise * 1664525u + 1013904223u, pixel[i] = (float)(noise >> 8) / 16777216.0f;
    for (int i = 0; label && i < n->batch; i++) label[i] = (float)(i % 10);

    double v[SAMPLES], start = now();
    long   times = 1;
    run(g, y, loss, n->train);
    for (double s; (s = now(), run(g, y, loss, n->train), now() - s) * (double)times < seconds / SAMPLES && times < 100000; ) times *= 2;
    int samples = 0;
    for (; samples < SAMPLES && (samples < 3 || now() - start < 10 * seconds); samples++) {
        double s = now();
        for (long i = 0; i < times; i++) run(g, y, loss, n->train);
        v[samples] = (double)n->batch * (double)times / (now() - s);
    }
    qsort(v, (size_t)samples, sizeof *v, by_size);
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    printf("cnn_%s %d %.4g img/s\n", name, threads, v[samples / 2]);
    printf("cnn_%s_peak_rss %d %ld MiB\n", name, threads, r.ru_maxrss / 1024);     /* of the process so far */
    fflush(stdout);
    fprintf(stderr, "# cnn_%s %d %.4g %.4g\n", name, threads, v[0], v[samples - 1]);
    int failed = cnn_error(g) != NULL;
    if (failed) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return failed;
}

int main(int argc, char **argv)
{
    const char *part = argc > 2 ? argv[2] : "", *time = getenv("BENCH_SECONDS");
    int failed = 0;
    for (int threads = 1; threads <= 2; threads++) {
        if (argc > 1 && atoi(argv[1]) != threads) continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s_b%d", cases[i].name, cases[i].train ? "train" : "infer", cases[i].batch);
            if (strstr(name, part)) failed += measure(&cases[i], name, threads, time ? atof(time) : 0.4);
        }
    }
    return failed != 0;
}
