/* bench_nets.c - whole networks: images per second in training and in inference, on noise, and the peak of memory;
   and the seconds in which LeNet-5 learns MNIST to 99 %. See bench.h.
     cc -O2 -std=c99 -I. bench_nets.c -lm && ./a.out [threads [part of a name]]
   threads: 0 or nothing: 1, then 2. A name behind = is the whole of it. The networks are those of
   examples/zoo.c, LeNet-5 with relu, and a ResNet-18 for CIFAR-10 (cifar18). MNIST_DIR is the folder of MNIST's four
   unpacked files; without it mnist99 is left out. Each case is a process of its own, so that its peak is its own. */
#define _POSIX_C_SOURCE 200112L
#define _DEFAULT_SOURCE             /* wait4 */
#define main zoo_main               /* the nets, and the implementation */
#include "examples/zoo.c"
#undef main
#include "bench.h"
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static T *lenet(T *x)
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 16, 5)), 2);
    return cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 120)), 84)), 10);
}
static T *conv_norm(T *x, int channels, int kernel, int stride)
{
    return cnn_batch_norm(cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .no_bias = 1));
}
static T *skip(T *x, int channels, int stride)
{
    return stride != 1 || x->shape.c != channels ? conv_norm(x, channels, 1, stride) : x;
}
static T *cifar18(T *x)                      /* for 32x32: a 3x3 stem and no pooling */
{
    T *h = cnn_relu(conv_norm(x, 64, 3, 1));
    for (int i = 0; i < 8; i++) {
        int channels = 64 << i / 2, stride = i % 2 == 0 && i > 0 ? 2 : 1;
        T  *f = conv_norm(cnn_relu(conv_norm(h, channels, 3, stride)), channels, 3, 1);
        h = cnn_relu(cnn_add(f, skip(h, channels, stride)));
    }
    return cnn_dense(cnn_global_avg_pool(h), 10);
}
enum { INFER, TRAIN };
static const struct trial { const char *name; T *(*build)(T *); int c, h, train, batch, adam; } cases[] = {
    { "lenet",     lenet,       1,  28, TRAIN, 64, 0 }, { "lenet",     lenet,        1,  28, INFER, 1, 0 },
    { "lenet",     lenet,       1,  28, INFER, 128, 0 }, { "keras",    keras_mnist,  1,  28, TRAIN, 128, 1 },
    { "cifar18",   cifar18,     3,  32, TRAIN, 32, 0 }, { "cifar18",   cifar18,      3,  32, INFER, 32, 0 },
    { "resnet50",  resnet50,    3, 224, TRAIN, 8, 0 },  { "mobilenet", mobilenet_v2, 3, 224, TRAIN, 8, 0 },
    { "resnet50",  resnet50,    3, 224, INFER, 1, 0 },  { "mobilenet", mobilenet_v2, 3, 224, INFER, 1, 0 },
    { "googlenet", googlenet,   3, 224, INFER, 1, 0 },  { "resnet18",  resnet18,     3, 224, INFER, 1, 0 },
    { "vgg16",     vgg16,       3, 224, INFER, 1, 0 },  { "alexnet",   alexnet,      3, 227, INFER, 1, 0 },
    { "resnet50",  resnet50,    3, 224, INFER, 32, 0 }, { "mobilenet", mobilenet_v2, 3, 224, INFER, 32, 0 },
};

typedef struct { cnn_graph *g; T *y, *loss; int train, adam; } step;
static void run(void *arg)
{
    const step *s = arg;
    if (!s->train) { cnn_forward(s->y, CNN_EVAL); return; }
    cnn_forward(s->loss, CNN_TRAIN);
    cnn_backward(s->loss);
    if (s->adam) cnn_step(s->g, .lr = 0.001f);
    else cnn_step(s->g, .lr = 0.001f, .momentum = 0.9f);
}

static int speed(const struct trial *n, const char *name, int threads)
{
    cnn_graph *g = cnn_new(.max_batch = n->batch, .seed = 1, .threads = threads, .inference = !n->train,
                             .optimizer = n->adam ? cnn_adam() : NULL);
    T *x = cnn_input(g, n->c, n->h, n->h), *y = n->build(x), *t = NULL, *loss = y;
    if (n->train) t = cnn_labels(g), loss = cnn_softmax_cross_entropy(y, t);
    cnn_compile(g, loss);
    float *pixel = cnn_map_write(x), *label = t ? cnn_map_write(t) : NULL;
    unsigned noise = 1;
    for (size_t i = 0; pixel && i < cnn_count(x); i++)
        noise = noise * 1664525u + 1013904223u, pixel[i] = (float)(noise >> 8) / 16777216.0f;
    for (int i = 0; label && i < n->batch; i++) label[i] = (float)(i % 10);
    step s = { g, y, loss, n->train, n->adam };
    if (!cnn_error(g)) bench_case(name, threads, n->batch, "img/s", run, &s);
    const int failed = cnn_error(g) != NULL;
    if (failed) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return failed;
}

/* LeNet-5 as above, batch 64, one cycle of Nesterov's momentum: seconds from opening the files to the last step, and
   the accuracy of the last weights. Both are medians over five seeds. */
enum { EPOCHS = 3, SEEDS = 5 };
static int mnist99(const char *name, int threads)
{
    const char *dir = getenv("MNIST_DIR");
    double seconds[SEEDS], accuracy[SEEDS];
    char   path[4][1024], title[80];
    static const char *const file[4] = { "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
                                         "t10k-labels-idx1-ubyte" };
    if (!dir) return fprintf(stderr, "# cnn_%s: MNIST_DIR is not set\n", name), 0;
    for (int i = 0; i < 4; i++) snprintf(path[i], sizeof path[i], "%s/%s", dir, file[i]);
    for (int s = 0; s < SEEDS; s++) {
        const double begin = bench_now();
        cnn_dataset  train = cnn_load_idx(path[0], path[1]);
        cnn_standardize(&train, &train);
        cnn_graph *g = cnn_new(.max_batch = 64, .seed = (uint64_t)s + 1, .threads = threads);
        T *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *y = lenet(x), *loss = cnn_softmax_cross_entropy(y, t);
        cnn_compile(g, loss);
        cnn_fit(loss, y, &train, .epochs = EPOCHS, .lr = 0.1f, .schedule = cnn_one_cycle, .momentum = 0.9f,
                .nesterov = 1, .weight_decay = 5e-4f);
        seconds[s] = bench_now() - begin;
        cnn_dataset test = cnn_load_idx(path[2], path[3]);
        cnn_standardize(&test, &train);
        accuracy[s] = 100 * cnn_evaluate(loss, y, &test).accuracy;
        const char *error = !train.count ? train.error : !test.count ? test.error : cnn_error(g);
        if (error) fprintf(stderr, "%s\n", error);
        cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&test);
        if (error) return 1;
    }
    snprintf(title, sizeof title, "%s_seconds", name);
    bench_print(title, threads, seconds, SEEDS, "s");
    snprintf(title, sizeof title, "%s_accuracy", name);
    bench_print(title, threads, accuracy, SEEDS, "%");
    return 0;
}

/* Run a case in a process of its own and print its peak memory. */
static int measure(const struct trial *n, const char *name, int threads)
{
    int           status = 0;
    struct rusage r;
    fflush(stdout);
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) exit(n ? speed(n, name, threads) : mnist99(name, threads));
    if (wait4(child, &status, 0, &r) < 0 || status != 0) return 1;
    if (n) printf("cnn_%s_peak_rss %d %ld MiB\n", name, threads, r.ru_maxrss / 1024), fflush(stdout);
    return 0;
}

/* part: a part of the case's name, or = and the whole of it */
static bool wanted(const char *name, const char *part)
{
    return part[0] == '=' ? strcmp(name, part + 1) == 0 : strstr(name, part) != NULL;
}

int main(int argc, char **argv)
{
    const int   only = argc > 1 ? atoi(argv[1]) : 0;
    const char *part = argc > 2 ? argv[2] : "";
    int failed = 0;
    for (int threads = only ? only : 1; threads <= (only ? only : 2); threads++) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s_b%d", cases[i].name, cases[i].train ? "train" : "infer", cases[i].batch);
            if (wanted(name, part)) failed += measure(&cases[i], name, threads);
        }
        if (wanted("mnist99", part)) failed += measure(NULL, "mnist99", threads);
    }
    return failed != 0;
}
