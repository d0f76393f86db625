/* cifar10.c - small pictures in ten classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
   truck.

     cc -std=c99 -O2 examples/cifar10.c -o cifar10 -lm
     ./cifar10 RECIPE DIRECTORY [SEED [EPOCHS]]           RECIPE: fast, best, resnet20

   DIRECTORY holds data_batch_1.bin ... data_batch_5.bin and test_batch.bin, which is CIFAR-10's "binary
   version (suitable for C programs)" from https://www.cs.toronto.edu/~kriz/cifar.html, unpacked (Krizhevsky
   2009).

   fast and best are one short, wide net without skips, trained in few epochs at a high learning rate (Page
   2018, "How to train your ResNet"; Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"): its
   first layer is not learned but computed, so that what leaves it is white; each convolution starts as the
   identity; biases learn 64 times as fast as weights. resnet20 is the net of He et al. 2015 with the usual
   augmentation.
   The weights judged are those at the end of the last epoch (of fast and best: their moving average), once,
   on the 10,000 test pictures. The answer to a picture is the mean over six views of it, as Jordan does; two
   more figures say what the picture and its mirror image, and the picture alone, give. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"
#include <time.h>

typedef cnn_tensor T;
enum { IN = 3, PATCH = 12, WHITE = 2 * PATCH,             /* a patch is 2x2 pixels of 3 colours */
       BATCH = 512 };                                     /* the largest of the recipes */

typedef struct recipe {
    const char *name;
    T         *(*net)(cnn_graph *, T *x, const struct recipe *, const float *whiten);
    int         width[3], epochs, batch;
    float       lr, momentum, decay, smoothing, bias_lr, average;
    cnn_augment augment;
} recipe;

/* ---- The short, wide net ---- */

/* Eigenvectors of a symmetric matrix by Jacobi's rotations (1846): a becomes diagonal, v holds them in its
   columns. */
static void eigen(double a[PATCH][PATCH], double v[PATCH][PATCH])
{
    for (int i = 0; i < PATCH; i++)
        for (int j = 0; j < PATCH; j++) v[i][j] = i == j;
    for (int sweep = 0; sweep < 30; sweep++)
        for (int p = 0; p < PATCH; p++)
            for (int q = p + 1; q < PATCH; q++) {
                if (fabs(a[p][q]) < 1e-15) continue;
                const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
                const double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
                const double c = 1 / sqrt(t * t + 1), s = t * c;
                for (int k = 0; k < PATCH; k++) {
                    const double x = a[k][p], y = a[k][q];
                    a[k][p] = c * x - s * y, a[k][q] = s * x + c * y;
                }
                for (int k = 0; k < PATCH; k++) {
                    const double x = a[p][k], y = a[q][k];
                    a[p][k] = c * x - s * y, a[q][k] = s * x + c * y;
                }
                for (int k = 0; k < PATCH; k++) {
                    const double x = v[k][p], y = v[k][q];
                    v[k][p] = c * x - s * y, v[k][q] = s * x + c * y;
                }
            }
}

/* Filters (WHITE,3,2,2) whose answers to the patches of the first pictures are uncorrelated and of deviation
   1: the eigenvectors of the patches' covariance, each divided by the root of its eigenvalue, and each once
   more negated. */
static bool whitening(const cnn_dataset *d, float *filter)
{
    enum { PICTURES = 2000 };
    static const double tiny = 5e-4;
    double     cov[PATCH][PATCH] = { { 0 } }, v[PATCH][PATCH];
    const int  h = d->shape.h, w = d->shape.w, n = d->count < PICTURES ? d->count : PICTURES;
    cnn_graph *g = cnn_new(.max_batch = n);
    T         *x = cnn_input(g, IN, h, w);
    cnn_compile(g, cnn_mean(x));
    cnn_feed(x, NULL, d, 0);
    const float *pixel = cnn_map_read(x);
    for (int k = 0; pixel && k < n; k++)
        for (int y = 0; y + 1 < h; y++)
            for (int z = 0; z + 1 < w; z++) {
                float patch[PATCH];
                for (int i = 0; i < PATCH; i++)
                    patch[i] = pixel[((k * IN + i / 4) * h + y + i / 2 % 2) * w + z + i % 2];
                for (int i = 0; i < PATCH; i++)
                    for (int j = 0; j < PATCH; j++) cov[i][j] += (double)(patch[i] * patch[j]);
            }
    const bool read = pixel != NULL;
    cnn_free(g);
    for (int i = 0; i < PATCH; i++)
        for (int j = 0; j < PATCH; j++) cov[i][j] /= (double)n * (h - 1) * (w - 1);
    eigen(cov, v);
    for (int e = 0; e < PATCH; e++)
        for (int i = 0; i < PATCH; i++) {
            filter[e * PATCH + i] = (float)(v[i][e] / sqrt(cov[e][e] + tiny));
            filter[(PATCH + e) * PATCH + i] = -filter[e * PATCH + i];
        }
    return read;
}

static T *conv_bn(T *x, int channels)
{
    return cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .no_bias = 1), .momentum = 0.4f);
}

static T *wide(cnn_graph *g, T *x, const recipe *r, const float *whiten)
{
    T *white = cnn_const(g, (cnn_shape){ WHITE, IN, 2, 2 }, whiten);
    T *h = cnn_silu(cnn_conv2d(x, WHITE, 2, .weight = white));                          /* (N,24,31,31) */
    for (int i = 0; i < 3; i++) {                                                  /* 31 -> 15 -> 7 -> 3 */
        h = cnn_conv2d(h, r->width[i], 3, .pad = 1, .no_bias = 1);
        h = cnn_silu(cnn_batch_norm(cnn_max_pool(h, 2), .momentum = 0.4f));
        h = cnn_silu(conv_bn(h, r->width[i]));
    }
    return cnn_scale(cnn_dense(cnn_max_pool(h, 3), 10, .no_bias = 1), 1 / 9.0f);
}

/* Each 3x3 filter k < C becomes the identity of channel k: what comes in goes through (Zagoruyko, Komodakis
   2017). */
static void start_as_identity(cnn_graph *g)
{
    for (int layer = 2; ; layer++) {
        char name[40];
        snprintf(name, sizeof name, "conv2d%d.weight", layer);
        T *w = cnn_find(g, name);
        float *v = w ? cnn_map_write(w) : NULL;
        if (!v) return;
        const cnn_shape s = w->shape;
        for (int k = 0; k < s.n && k < s.c; k++)
            for (int i = 0; i < s.c * 9; i++) v[k * s.c * 9 + i] = i == k * 9 + 4;
    }
}

/* ---- ResNet-20 ---- */

static T *resnet20(cnn_graph *g, T *x, const recipe *r, const float *whiten)
{
    (void)g, (void)whiten;
    T *h = cnn_relu(conv_bn(x, r->width[0]));
    for (int i = 0; i < 9; i++) {
        const int channels = r->width[i / 3], stride = i == 3 || i == 6 ? 2 : 1;
        T *f = cnn_relu(cnn_batch_norm(cnn_conv2d(h, channels, 3, .stride = stride, .pad = 1, .no_bias = 1)));
        if (stride == 2)                    /* the skip without parameters: every other pixel, then zeros */
            h = cnn_pad(cnn_slice(cnn_slice(h, CNN_H, 0, .step = 2), CNN_W, 0, .step = 2),
                        .back = channels - r->width[i / 3 - 1]);
        h = cnn_relu(cnn_add(conv_bn(f, channels), h));
    }
    return cnn_dense(cnn_global_avg_pool(h), 10);
}

static const recipe recipes[] = {
    { "fast", wide, { 32, 128, 128 }, 8, BATCH, 0.75f, 0.85f, 0.00133f, 0.2f, 64, 0.99f,
      { .shift = 2, .reflect = 1, .flip = CNN_FLIP_ALTERNATE } },
    { "best", wide, { 64, 256, 256 }, 14, BATCH, 0.75f, 0.85f, 0.00133f, 0.2f, 64, 0.99f,
      { .shift = 2, .reflect = 1, .flip = CNN_FLIP_ALTERNATE } },
    { "resnet20", resnet20, { 16, 32, 64 }, 30, 128, 0.1f, 0.9f, 5e-4f, 0, 1, 0,
      { .shift = 4, .flip = CNN_FLIP_RANDOM } },
};

/* ---- Training and judging ---- */

/* The learning rate: from 0.2 up to 1 in the first quarter, then down to 0.07. */
static float triangle(float p, void *user)
{
    (void)user;
    return p < 0.23f ? 0.2f + 0.8f * p / 0.23f : 1 - 0.93f * (p - 0.23f) / 0.77f;
}

/* What pictures look like moved by (move,move) pixels; what comes in is the picture mirrored at its edge. */
static void view(float *to, const float *from, int planes, cnn_shape s, int move, bool mirror)
{
    for (int k = 0; k < planes; k++, from += s.h * s.w)
        for (int y = 0; y < s.h; y++)
            for (int x = 0; x < s.w; x++) {
                int i = abs(y - move), j = abs((mirror ? s.w - 1 - x : x) - move);
                if (i >= s.h) i = 2 * (s.h - 1) - i;
                if (j >= s.w) j = 2 * (s.w - 1) - j;
                *to++ = from[i * s.w + j];
            }
}

/* The share of pictures whose class has the largest sum of logits over the first `views` of: the picture, its
   mirror image; both moved by a pixel up and left; both moved down and right. The first two count twice. */
static double judge(T *x, T *t, T *logits, const cnn_dataset *test, int views)
{
    static const int move[] = { 0, 0, -1, -1, 1, 1 }, weight[] = { 2, 2, 1, 1, 1, 1 };
    enum { CLASSES = 10 };
    static float picture[BATCH * IN * 32 * 32], sum[BATCH * CLASSES];
    int right = 0, done = 0, n;
    for (; (n = cnn_feed(x, t, test, done)) > 0; done += n) {
        const float *pixel = cnn_map_read(x), *label = cnn_map_read(t);
        if (!pixel || !label) break;
        memcpy(picture, pixel, cnn_count(x) * sizeof *picture);
        memset(sum, 0, sizeof sum);
        for (int v = 0; v < views; v++) {
            float *changed = cnn_map_write(x);
            if (changed) view(changed, picture, n * IN, x->shape, move[v], v % 2);
            cnn_forward(logits, CNN_EVAL);
            const float *z = cnn_map_read(logits);
            for (int i = 0; z && i < n * CLASSES; i++) sum[i] += (float)weight[v] * z[i];
        }
        for (int k = 0; k < n; k++) {
            int best = 0;
            for (int c = 1; c < CLASSES; c++)
                if (sum[k * CLASSES + c] > sum[k * CLASSES + best]) best = c;
            right += best == (int)label[k];
        }
    }
    return done ? (double)right / done : NAN;
}

static int train(const recipe *r, cnn_dataset *data, const cnn_dataset *test, uint64_t seed, int epochs)
{
    static float whiten[WHITE * PATCH];
    if (!whitening(data, whiten)) return fprintf(stderr, "out of memory\n"), 1;
    cnn_graph *g = cnn_new(.max_batch = r->batch, .seed = seed);
    T *x = cnn_input(g, IN, 32, 32), *t = cnn_labels(g), *logits = r->net(g, x, r, whiten);
    T *loss = cnn_softmax_cross_entropy(logits, t, .smoothing = r->smoothing);
    if (cnn_compile(g, loss)) {
        printf("%s: %zu weights, %.1f million multiply-adds a picture, %d epochs, seed %llu\n", r->name,
               cnn_param_count(g), cnn_multiply_adds(g) / 1e6, epochs, (unsigned long long)seed);
        fflush(stdout);
        if (r->net == wide) start_as_identity(g);
        cnn_set_lr_scale(g, "batch_norm*.bias", r->bias_lr);
        cnn_set_decay_scale(g, "batch_norm*.bias", 1 / r->bias_lr);  /* rate times decay is one for all */
        if (r->net == wide) cnn_set_lr_scale(g, "batch_norm*.weight", 0);
    }
    cnn_history  history = { 0 };
    const time_t begin = time(NULL);
    cnn_fit(loss, logits, data, .epochs = epochs, .lr = r->lr, .schedule = triangle, .momentum = r->momentum,
            .nesterov = 1, .weight_decay = r->decay, .augment = r->augment, .average = r->average,
            .progress = cnn_print_progress, .history = &history);
    const double seconds = difftime(time(NULL), begin);
    if (r->average > 0) cnn_swap_average(g);
    const double six = judge(x, t, logits, test, 6), two = judge(x, t, logits, test, 2);
    const double one = cnn_evaluate(loss, logits, test).accuracy;
    int          failed = cnn_error(g) != NULL;
    if (failed) fprintf(stderr, "%s\n", cnn_error(g));
    else {
        printf("%s, seed %llu: test accuracy %.2f %% (picture and mirror image %.2f %%, picture alone "
               "%.2f %%), trained in %.0f s\n", r->name, (unsigned long long)seed, 100 * six, 100 * two,
               100 * one, seconds);
        if (!cnn_save(g, "cifar10.safetensors")) failed = 1, fprintf(stderr, "%s\n", cnn_error(g));
        else if (!cnn_history_svg(&history, "cifar10.svg")) failed = 1, perror("cifar10.svg");
        else printf("wrote cifar10.safetensors and cifar10.svg, the curves of the training\n");
    }
    if (fflush(stdout) || ferror(stdout)) failed = 1, fprintf(stderr, "stdout: cannot be written\n");
    cnn_history_free(&history);
    cnn_free(g);
    return failed;
}

int main(int argc, char **argv)
{
    const recipe *r = NULL;
    for (size_t i = 0; argc > 2 && i < sizeof recipes / sizeof *recipes; i++)
        if (strcmp(argv[1], recipes[i].name) == 0) r = &recipes[i];
    bool numbers = true;
    for (int i = 3; i < argc; i++) numbers = numbers && !argv[i][strspn(argv[i], "0123456789")];
    if (!r || argc > 5 || !numbers || (argc == 5 && atoi(argv[4]) < 1))
        return fprintf(stderr, "usage: %s fast|best|resnet20 DIRECTORY [SEED [EPOCHS]]\n", argv[0]), 2;

    char        path[6][1024];
    const char *paths[6];
    for (int i = 0; i < 6; i++) {
        if (i < 5) snprintf(path[i], sizeof path[i], "%s/data_batch_%d.bin", argv[2], i + 1);
        else       snprintf(path[i], sizeof path[i], "%s/test_batch.bin", argv[2]);
        paths[i] = path[i];
    }
    cnn_dataset data = cnn_load_cifar(paths, 5, 10), test = cnn_load_cifar(paths + 5, 1, 10);
    const char *error = !data.count ? data.error : !test.count ? test.error : NULL;
    int         status = 1;
    if (error) fprintf(stderr, "%s (the head of cifar10.c says where CIFAR-10 is to be had)\n", error);
    else {
        cnn_standardize(&data, &data), cnn_standardize(&test, &data);
        status = train(r, &data, &test, argc > 3 ? strtoull(argv[3], NULL, 10) : 1,
                       argc > 4 ? atoi(argv[4]) : r->epochs);
    }
    cnn_dataset_free(&data), cnn_dataset_free(&test);
    return status;
}
