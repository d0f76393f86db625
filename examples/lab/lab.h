/* lab.h - the judge of the exercises in this directory: shapes, right answers, points, speed, and a net that
   learns with your function inside. Nothing here is to be changed; nothing here is the solution either: what
   is right is what cnn.h computes with its plain loops (.isa = CNN_ISA_PLAIN).

     cc -std=c99 -O2 examples/lab/03_conv2d_forward.c -o lab03 -lm && ./lab03

   cnn.h takes some 15 seconds to compile. Do that once, and each exercise takes one:

     cc -std=c99 -O2 -DCNN_IMPLEMENTATION -x c -c cnn.h -o cnn.o
     cc -std=c99 -O2 -DLAB_LINKED examples/lab/03_conv2d_forward.c cnn.o -o lab03 -lm && ./lab03

   ./lab03 judge     leaves out speed and training;
   ./lab04 judge data     and ./lab04 judge weights judge one of that exercise's functions.
   All exercises at once, from the top: make grade, or sh examples/lab/grade.sh 03 04.

   Order of this file: report, arrays, time, the net that learns, then a judge for each exercise. */
#ifndef LAB_H
#define LAB_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L                                 /* clock_gettime */
#endif
#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wunused-parameter"             /* a blank uses none of its parameters */
#endif
#ifndef LAB_LINKED
#define CNN_STATIC
#define CNN_IMPLEMENTATION
#endif
#include "../../cnn.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What a blank returns, and what an answer does. */
typedef enum { NOT_DONE, DONE } lab_answer;

/* ---- Report: one line a test for people, one object a test for an autograder (file LAB_JSON) ---- */

static struct {
    int      number;
    const char *title;
    bool     judge_only, quiet;                                 /* quiet: another process speaks */
    int      rank, ranks;                                       /* of MPI's processes, exercise 12 */
    double   points, most;
    char     why[640];                                          /* the first difference */
    uint64_t random;
    float   *store[64];                                         /* arrays of the present test */
    int      stored;
} lab;

static inline void lab_quote(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        if ((unsigned char)*s >= ' ') fputc(*s, f);
        else fputs("\\n", f);
    }
}
/* One test: what came out, for how many points. */
static inline void lab_tell(const char *name, const char *what, double got, double most, const char *output)
{
    const char *json = getenv("LAB_JSON");
    lab.points += got, lab.most += most;
    if (lab.quiet) return;
    FILE *f = json && *json ? fopen(json, "a") : NULL;
    printf("  %-9s %3.0f/%-3.0f  %s\n", what, got, most, name);
    if (output[0]) printf("                     %s\n", output);
    fflush(stdout);
    if (!f) return;
    fprintf(f, "{\"name\": \"%d ", lab.number), lab_quote(f, lab.title);
    fprintf(f, ": "), lab_quote(f, name);
    fprintf(f, "\", \"score\": %g, \"max_score\": %g, \"status\": \"%s\", \"output\": \"%s%s", got, most,
            got < most ? "failed" : "passed", what, output[0] ? ". " : "");
    lab_quote(f, output), fprintf(f, "\"},\n"), fclose(f);
}
typedef enum { LAB_RIGHT, LAB_WRONG, LAB_NOT_DONE } lab_verdict;
static inline bool lab_result(const char *name, lab_verdict v, double most)
{
    static const char *const words[] = { "right", "WRONG", "not done" };
    lab_tell(name, words[v], v == LAB_RIGHT ? most : 0, most, v == LAB_WRONG ? lab.why : "");
    return v == LAB_RIGHT;
}
static inline void lab_begin(int argc, char **argv, int number, const char *title)
{
    lab.number = number, lab.title = title, lab.random = (uint64_t)number;
    lab.judge_only = argc > 1 && strcmp(argv[1], "judge") == 0;
    if (!lab.quiet) printf("Exercise %d: %s\n\n", number, title);
}
static inline int lab_end(void)
{
    if (!lab.quiet) printf("\nExercise %d: %.0f of %.0f points\n", lab.number, lab.points, lab.most);
    return lab.points < lab.most;
}

/* ---- Arrays: filled by a generator with a fixed seed, watched on both sides ---- */

/* So many elements on each side: a loop that takes H for OH must not damage what malloc keeps there. */
static inline size_t lab_guard(size_t n) { return 64 + (n <= 300000 ? 4 * n : 0); }
typedef struct { const char *name; int dims, shape[4]; size_t n; float *at; } lab_array;

static inline double lab_uniform(void)                          /* [0,1): splitmix64 */
{
    uint64_t z = lab.random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}
static inline int lab_int(int low, int high) { return low + (int)(lab_uniform() * (high - low + 1)); }

static inline float *lab_memory(size_t floats)                  /* until lab_clear */
{
    float *p = malloc(floats * sizeof *p);
    if (!p || lab.stored == 64) fprintf(stderr, "lab: out of memory\n"), exit(2);
    return lab.store[lab.stored++] = p;
}
static inline void lab_clear(void) { while (lab.stored) free(lab.store[--lab.stored]); }

/* An array of 1 to 4 dimensions (0 ends them), with values in -1..1. */
static inline lab_array lab_new(const char *name, int a, int b, int c, int d)
{
    lab_array v = { name, 0, { a, b, c, d }, 1, NULL };
    while (v.dims < 4 && v.shape[v.dims]) v.n *= (size_t)v.shape[v.dims++];
    const size_t guard = lab_guard(v.n);
    v.at = lab_memory(v.n + 2 * guard) + guard;
    for (size_t i = 0; i < v.n; i++) v.at[i] = (float)(2 * lab_uniform() - 1);
    for (size_t i = 0; i < guard; i++) (v.at - guard)[i] = v.at[v.n + i] = 1234.5f;
    return v;
}
static inline lab_array lab_copy(const lab_array *a)
{
    lab_array    v = *a;
    const size_t guard = lab_guard(v.n);
    v.at = lab_memory(v.n + 2 * guard) + guard;
    memcpy(v.at - guard, a->at - guard, (v.n + 2 * guard) * sizeof(float));
    return v;
}
/* For what forward writes: NaN, so that an element that is left out shows. */
static inline lab_array lab_unset(const char *name, int a, int b, int c, int d)
{
    lab_array v = lab_new(name, a, b, c, d);
    for (size_t i = 0; i < v.n; i++) v.at[i] = NAN;
    return v;
}
static inline const char *lab_index(const lab_array *a, size_t i, char text[64])
{
    size_t rest = a->n, used = 0;
    text[0] = 0;
    for (int d = 0; d < a->dims; d++) {
        rest /= (size_t)a->shape[d];
        used += (size_t)snprintf(text + used, 64 - used, "[%d]", (int)(i / rest % (size_t)a->shape[d]));
    }
    return text;
}
/* Is `yours` right? Sums in another order round differently: a 10,000th of the values' size is free. */
static inline bool lab_same(const lab_array *yours, const float *right, const char *where)
{
    double squares = 0, most = 0;
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < yours->n; i++) squares += (double)right[i] * (double)right[i];
    const double size = sqrt(squares / (double)yours->n);
    for (size_t i = 0; i < yours->n; i++) {
        const double d = fabs((double)yours->at[i] - (double)right[i]);
        if (d <= 1e-4 * (size + fabs((double)right[i])) + 1e-7) continue;
        if (wrong++ == 0) first = i;
        if (!(d <= most)) most = d;
    }
    const char *outside = "";
    for (size_t i = 0, guard = lab_guard(yours->n); i < guard && !outside[0]; i++)
        outside = (yours->at - guard)[i] != 1234.5f ? "in front of"
                  : yours->at[yours->n + i] != 1234.5f ? "behind" : "";
    if (!wrong && !outside[0]) return true;
    char index[64], text[200] = "is right, but";
    if (wrong)
        snprintf(text, sizeof text, "%s is %.7g, right is %.7g; %d of %d are wrong, by up to %.3g;",
                 lab_index(yours, first, index), (double)yours->at[first], (double)right[first], (int)wrong,
                 (int)yours->n, most);
    if (!outside[0]) *strrchr(text, ';') = 0;
    snprintf(lab.why, sizeof lab.why, "%s\n                     %s%s%s%s%s%s", where, yours->name,
             wrong ? "" : " ", text, outside[0] ? " you also wrote " : "", outside, outside[0] ? " it" : "");
    return false;
}
/* Gradients are added to what is there: right = before + gradient. */
static inline bool lab_added(const lab_array *yours, const lab_array *before, const float *gradient,
                             const char *where)
{
    float *right = lab_memory(yours->n);
    for (size_t i = 0; i < yours->n; i++) right[i] = before->at[i] + gradient[i];
    return lab_same(yours, right, where);
}

/* ---- Time ---- */

static inline double lab_seconds(void)
{
#ifdef CLOCK_MONOTONIC
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}
#ifndef LAB_PATIENCE
#define LAB_PATIENCE 0.5                                        /* seconds to measure a speed */
#endif
/* The median of 1 to 101 runs, after one to warm up, in about LAB_PATIENCE. before: NULL, or what has to run
   before each, and does not count. */
static inline double lab_median_after(void (*before)(void *), void (*run)(void *), void *user)
{
    double t[101], start = lab_seconds();
    int    n = -1;
    for (; n < 101 && (n < 1 || lab_seconds() - start < LAB_PATIENCE); n++) {
        if (before) before(user);
        const double now = lab_seconds();
        run(user);
        double d = lab_seconds() - now;
        int    i = n;
        for (; i > 0 && t[i - 1] > d; i--) t[i] = t[i - 1];
        if (i >= 0) t[i] = d;
    }
    return t[n / 2] > 0 ? t[n / 2] : 1e-9;
}
static inline double lab_median(void (*run)(void *), void *user) { return lab_median_after(NULL, run, user); }
/* What is divided by the time: operations; or bytes, each counted once, where memory sets the floor. */
typedef enum { LAB_FLOPS, LAB_BYTES } lab_unit;
/* yours, plain, own in seconds; the two others may have names of their own. */
typedef struct { double yours, plain, own; const char *plain_name, *own_name; } lab_times;
/* How fast: the line that people read. */
static inline void lab_speed(const char *what, double amount, lab_unit unit, lab_times t)
{
    printf("  speed              %s: %.3g ms, %.3g %s\n"
           "                     %.3g x %s (%.3g ms), %.3g %% of %s (%.3g ms)\n",
           what, 1e3 * t.yours, 1e-9 * amount / t.yours, unit == LAB_BYTES ? "GB/s" : "GFLOP/s",
           t.plain / t.yours, t.plain_name ? t.plain_name : "the plain loops", 1e3 * t.plain,
           100 * t.own / t.yours, t.own_name ? t.own_name : "cnn.h's own kernel", 1e3 * t.own);
}

/* ---- The net that learns: LeNet-5 with relu, 2,000 of the digits in examples/data, two epochs ---- */

static inline cnn_dataset lab_digits(const char *set)
{
    const char *slash = strrchr(__FILE__, '/');
    const int   length = slash ? (int)(slash - __FILE__) + 1 : 0;
    char images[600], labels[600];
    snprintf(images, sizeof images, "%.*s../data/%s-images-idx3-ubyte", length, __FILE__, set);
    snprintf(labels, sizeof labels, "%.*s../data/%s-labels-idx1-ubyte", length, __FILE__, set);
    return cnn_load_idx(images, labels);
}
typedef struct { double accuracy, seconds; char error[CNN_ERROR_SIZE]; } lab_run;
/* Of each batch, ranks * per rank samples, this rank's part. */
typedef struct { cnn_dataset all; int batch, ranks; } lab_part;
static inline bool lab_deal(cnn_request *r, void *user)
{
    const lab_part *u = user;
    for (int i = 0; i < r->n; i++) {
        const int k = r->index[i], from = (k / u->batch * u->ranks + lab.rank) * u->batch + k % u->batch;
        if (r->bytes) memcpy(r->bytes + (size_t)i * 784, u->all.bytes + (size_t)from * 784, 784);
        if (r->labels) r->labels[i] = u->all.labels[from];
    }
    return true;
}
/* ranks: so many processes share each batch of 16, in the order of the file. */
static inline lab_run lab_train(const cnn_kernel *rows, const cnn_optimizer *rule, bool norm, int ranks)
{
    const int   batch = ranks < 16 ? 16 / ranks : 1, count = 2000 / ranks / batch * batch;
    lab_run     r = { .accuracy = 0 };
    cnn_dataset test = lab_digits("test");
    lab_part    part = { lab_digits("train"), batch, ranks };
    cnn_dataset train = ranks == 1 ? cnn_split(&part.all, 0, count)
                        : cnn_data(count, 1, 28, 28, .fill = lab_deal, .user = &part, .type = CNN_U8,
                                   .target_type = CNN_I32);
    const bool  adam = rule && rule->slots == 2;
    cnn_graph  *g = cnn_new(.max_batch = batch, .seed = 1, .rows = rows, .optimizer = rule,
                            .threads = lab.ranks > 1 ? 1 : 0);
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g);
    cnn_tensor *h = cnn_conv2d(cnn_scale(x, 1 / 0.3081f, -0.1307f / 0.3081f), 6, 5, .pad = 2);
    h = cnn_max_pool(cnn_relu(norm ? cnn_batch_norm(h) : h), 2);
    h = cnn_conv2d(h, 16, 5);
    h = cnn_max_pool(cnn_relu(norm ? cnn_batch_norm(h) : h), 2);
    h = cnn_dense(cnn_relu(cnn_dense(h, 84)), 10);
    cnn_tensor  *loss = cnn_softmax_cross_entropy(h, t);
    const double start = lab_seconds();
    if (cnn_compile(g, loss)) {
        if (adam) cnn_fit(loss, h, &train, .epochs = 2, .lr = 0.002f);
        else      cnn_fit(loss, h, &train, .epochs = 2, .lr = 0.01f, .momentum = 0.9f,
                          .no_shuffle = lab.ranks > 1);
    }
    r.seconds = lab_seconds() - start;
    r.accuracy = cnn_evaluate(loss, h, &test).accuracy;
    if (cnn_error(g)) snprintf(r.error, sizeof r.error, "%s", cnn_error(g));
    cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&part.all), cnn_dataset_free(&test);
    return r;
}
/* The points for a training: as good with your function as without? */
static inline void lab_compare(const char *name, double points, const lab_run *with, const lab_run *without)
{
    snprintf(lab.why, sizeof lab.why,
             "%.1f %% of the test digits in %.2f s with your function, %.1f %% in %.2f s without%s%.100s",
             100 * with->accuracy, with->seconds, 100 * without->accuracy, without->seconds,
             with->error[0] ? ": " : "", with->error);
    const bool ok = !with->error[0] && fabs(with->accuracy - without->accuracy) <= 0.03;
    lab_tell(name, ok ? "right" : "WRONG", ok ? points : 0, points, lab.why);
}
static inline void lab_not_yet(const char *name, double points, const lab_run *without)
{
    lab_result(name, LAB_NOT_DONE, points);
    if (!lab.quiet)
        printf("                     until then with cnn.h's own kernel: %.1f %% of the test digits, "
               "%.2f s\n", 100 * without->accuracy, without->seconds);
}
/* Train with your function and without. `done`: the function is there (else the net learns without it). */
static inline void lab_fit(bool done, const cnn_kernel *rows, const cnn_optimizer *rule, bool norm,
                           double points)
{
    if (lab.judge_only) return;
    const char    *name = "inside cnn_fit: LeNet-5 learns 2,000 digits";
    const lab_run  a = lab_train(NULL, rule && rule->slots == 2 ? cnn_adam() : NULL, norm, 1);
    if (a.error[0]) {
        if (!lab.quiet) printf("  without:  %s\n", a.error);
        return;
    }
    if (!done) {
        lab_not_yet(name, points, &a);
        return;
    }
    const lab_run b = lab_train(rows, rule, norm, lab.ranks > 1 ? lab.ranks : 1);
    lab_compare(name, points, &b, &a);
}

/* ---- Right answers: a graph with one operation; its gradients by dy = r, J = sum y r ---- */

typedef struct { cnn_graph *g; cnn_tensor *x, *y, *r, *loss; } lab_net;
/* Compile a net that ends with y. r: the gradient of y, an input, or NULL for inference. */
static inline lab_net lab_close(cnn_tensor *x, cnn_tensor *y, bool grads)
{
    lab_net n = { y->graph, x, y, NULL, y };
    if (grads) {
        n.r = cnn_input(n.g, y->shape.c, y->shape.h, y->shape.w);
        n.loss = cnn_sum(cnn_mul(y, n.r));
    }
    if (!cnn_compile(n.g, n.loss)) fprintf(stderr, "lab: %s\n", cnn_error(n.g)), exit(2);
    return n;
}
static inline void lab_set(cnn_tensor *t, const float *values) { cnn_set(t, values, cnn_count(t)); }
static inline void lab_inputs(const lab_net *n, const float *x, const float *w, const float *b,
                              const float *dy)
{
    cnn_set_batch(n->g, n->x->shape.n);
    lab_set(n->x, x);
    if (w) lab_set(n->y->in[1], w);
    if (b) lab_set(n->y->in[2], b);
    if (dy && n->r) lab_set(n->r, dy);
}
static inline const float *lab_forward(const lab_net *n)
{
    cnn_forward(n->loss, n->r ? CNN_TRAIN : CNN_EVAL);
    if (n->r) cnn_backward(n->loss);
    if (cnn_error(n->g)) fprintf(stderr, "lab: %s\n", cnn_error(n->g)), exit(2);
    return n->r ? NULL : cnn_map_read(n->y);
}
static inline void lab_run_forward(void *user)
{
    const lab_net *n = user;
    cnn_forward(n->loss, n->r ? CNN_TRAIN : CNN_EVAL);
}
static inline void lab_run_backward(void *user) { cnn_backward(((const lab_net *)user)->loss); }
static inline double lab_time_net(lab_net *n, bool back)
{
    return back ? lab_median_after(lab_run_forward, lab_run_backward, n) : lab_median(lab_run_forward, n);
}
/* One operation on x of shape s; backward without what makes its dy, which takes a net of that alone. */
typedef cnn_tensor *lab_builder(cnn_tensor *x);
static inline double lab_time_op(cnn_shape s, lab_builder *build, cnn_isa isa, const cnn_kernel *rows,
                                 bool back)
{
    double t[2] = { 0 };
    for (int alone = 0; alone < (back ? 2 : 1); alone++) {
        cnn_graph  *g = cnn_new(.max_batch = s.n, .seed = 1, .isa = isa, .inference = !back, .rows = rows);
        cnn_tensor *x = cnn_input(g, s.c, s.h, s.w, .grad = back);
        lab_net     n = lab_close(x, alone ? x : build(x), back);
        const cnn_shape y = n.y->shape;
        lab_inputs(&n, lab_new("x", s.n, s.c, s.h, s.w).at, NULL, NULL,
                   lab_new("dy", y.n, y.c, y.h, y.w).at);
        t[alone] = lab_time_net(&n, back);
        cnn_free(g), lab_clear();
        s = y;
    }
    return t[0] > t[1] ? t[0] - t[1] : 1e-9;
}
/* The speed of one operation: with your function, with the plain loops, with cnn.h's own kernel. */
static inline lab_times lab_time(const char *what, double amount, lab_unit unit, cnn_shape s,
                                 lab_builder *build, const cnn_kernel *rows, bool back)
{
    const lab_times t = { lab_time_op(s, build, CNN_ISA_AUTO, rows, back),
                          lab_time_op(s, build, CNN_ISA_PLAIN, NULL, back),
                          lab_time_op(s, build, CNN_ISA_AUTO, NULL, back), NULL, NULL };
    lab_speed(what, amount, unit, t);
    return t;
}

/* ---- 3, 4, 9: conv2d ---- */

typedef lab_answer lab_conv_forward_fn(float *y, const float *x, const float *w, const float *b, int N, int C,
                                       int H, int W, int O, int K, int stride, int pad);
typedef lab_answer lab_conv_data_fn(float *dx, const float *dy, const float *w, int N, int C, int H, int W,
                                    int O, int K, int stride, int pad);
typedef lab_answer lab_conv_weights_fn(float *dw, float *db, const float *dy, const float *x, int N, int C,
                                       int H, int W, int O, int K, int stride, int pad);
typedef struct { const char *name; int n, c, h, w, o, k, stride, pad; } lab_conv;
typedef struct { const char *name; int count; lab_conv shape[4]; } lab_family;

static const lab_family lab_families[] = {
    { "LeNet-5 on pictures of 28 x 28 and 86 x 86", 4, {
        { "c1 at 28", 4, 1, 28, 28, 6, 5, 1, 2 },   { "c3 at 28", 4, 6, 14, 14, 16, 5, 1, 0 },
        { "c1 at 86", 2, 1, 86, 86, 4, 7, 1, 0 },   { "c3 at 86", 2, 4, 40, 40, 16, 7, 1, 0 } } },
    { "VGG16 on CIFAR-10", 3, {
        { "conv1_1", 2, 3, 32, 32, 64, 3, 1, 1 },   { "conv3_1", 1, 128, 8, 8, 256, 3, 1, 1 },
        { "conv5_1", 1, 512, 2, 2, 512, 3, 1, 1 } } },
    { "ResNet-18", 3, {
        { "layer2.0.downsample", 1, 64, 56, 56, 128, 1, 2, 0 },
        { "conv1, of 112 x 112", 1, 3, 112, 112, 64, 7, 2, 3 },
        { "layer2.0.conv1, of 28 x 28", 1, 64, 28, 28, 128, 3, 2, 1 } } } };
enum { LAB_FAMILIES = 3, LAB_RANDOM = 12 };

static inline int lab_out(int size, int k, int stride, int pad) { return (size + 2 * pad - k) / stride + 1; }
static inline const char *lab_conv_text(const lab_conv *t)
{
    static char text[160];
    snprintf(text, sizeof text, "%s: x (%d,%d,%d,%d), w (%d,%d,%d,%d), stride %d, pad %d", t->name, t->n,
             t->c, t->h, t->w, t->o, t->c, t->k, t->k, t->stride, t->pad);
    return text;
}
static inline lab_conv lab_random_conv(void)
{
    const int k = lab_int(1, 5);
    return (lab_conv){ "random", lab_int(1, 3), lab_int(1, 5), lab_int(k, 12), lab_int(k, 12), lab_int(1, 6),
                       k, lab_int(1, 3), lab_int(0, k / 2) };
}
/* The gradients that are wanted; 0: forward alone. */
enum { LAB_DATA = 1, LAB_WEIGHTS = 2 };
static inline lab_net lab_conv_net(cnn_isa isa, const lab_conv *t, int grads)
{
    cnn_graph  *g = cnn_new(.max_batch = t->n, .isa = isa, .inference = !grads);
    cnn_tensor *x = cnn_input(g, t->c, t->h, t->w, .grad = grads & LAB_DATA);
    cnn_tensor *y = cnn_conv2d(x, t->o, t->k, .stride = t->stride, .pad = t->pad);
    if (grads == LAB_DATA) cnn_freeze(y->in[1]), cnn_freeze(y->in[2]);
    return lab_close(x, y, grads != 0);
}
typedef struct { lab_array x, w, b, y, dy, dx, dw, db; } lab_conv_arrays;
static inline lab_conv_arrays lab_conv_new(const lab_conv *t)
{
    const int oh = lab_out(t->h, t->k, t->stride, t->pad), ow = lab_out(t->w, t->k, t->stride, t->pad);
    return (lab_conv_arrays){ lab_new("x", t->n, t->c, t->h, t->w), lab_new("w", t->o, t->c, t->k, t->k),
                              lab_new("b", t->o, 0, 0, 0), lab_unset("y", t->n, t->o, oh, ow),
                              lab_new("dy", t->n, t->o, oh, ow), lab_new("dx", t->n, t->c, t->h, t->w),
                              lab_new("dw", t->o, t->c, t->k, t->k), lab_new("db", t->o, 0, 0, 0) };
}
#define LAB_SIZES(t) (t)->n, (t)->c, (t)->h, (t)->w, (t)->o, (t)->k, (t)->stride, (t)->pad

static lab_conv_forward_fn *lab_f;
static lab_conv_data_fn    *lab_d;
static lab_conv_weights_fn *lab_w;

static inline lab_verdict lab_judge_forward(const lab_conv *t)
{
    lab_conv_arrays a = lab_conv_new(t);
    if (lab_f(a.y.at, a.x.at, a.w.at, a.b.at, LAB_SIZES(t)) == NOT_DONE) return LAB_NOT_DONE;
    lab_net n = lab_conv_net(CNN_ISA_PLAIN, t, 0);
    lab_inputs(&n, a.x.at, a.w.at, a.b.at, NULL);
    const bool ok = lab_same(&a.y, lab_forward(&n), lab_conv_text(t));
    cnn_free(n.g);
    return ok ? LAB_RIGHT : LAB_WRONG;
}
static inline lab_verdict lab_judge_data(const lab_conv *t)
{
    lab_conv_arrays a = lab_conv_new(t);
    lab_array       before = lab_copy(&a.dx);
    if (lab_d(a.dx.at, a.dy.at, a.w.at, LAB_SIZES(t)) == NOT_DONE) return LAB_NOT_DONE;
    lab_net n = lab_conv_net(CNN_ISA_PLAIN, t, LAB_DATA);
    lab_inputs(&n, a.x.at, a.w.at, a.b.at, a.dy.at), lab_forward(&n);
    const bool ok = lab_added(&a.dx, &before, cnn_map_grad(n.x), lab_conv_text(t));
    cnn_free(n.g);
    return ok ? LAB_RIGHT : LAB_WRONG;
}
static inline lab_verdict lab_judge_weights(const lab_conv *t)
{
    lab_conv_arrays a = lab_conv_new(t);
    lab_array       dw = lab_copy(&a.dw), db = lab_copy(&a.db);
    if (lab_w(a.dw.at, a.db.at, a.dy.at, a.x.at, LAB_SIZES(t)) == NOT_DONE) return LAB_NOT_DONE;
    lab_net n = lab_conv_net(CNN_ISA_PLAIN, t, LAB_WEIGHTS);
    lab_inputs(&n, a.x.at, a.w.at, a.b.at, a.dy.at), lab_forward(&n);
    const bool ok = lab_added(&a.dw, &dw, cnn_map_grad(n.y->in[1]), lab_conv_text(t))
                    && lab_added(&a.db, &db, cnn_map_grad(n.y->in[2]), lab_conv_text(t));
    cnn_free(n.g);
    return ok ? LAB_RIGHT : LAB_WRONG;
}
/* All shapes, most points for each family; stops at the first wrong shape of a family. True: all is right. */
static inline bool lab_conv_tests(const char *what, lab_verdict (*judge)(const lab_conv *), double points,
                                  bool *done)
{
    bool all = true;
    char name[160];
    for (int f = 0; f <= LAB_FAMILIES; f++) {
        const lab_family *family = &lab_families[f < LAB_FAMILIES ? f : 0];
        lab_verdict       v = LAB_RIGHT;
        for (int i = 0; i < (f < LAB_FAMILIES ? family->count : LAB_RANDOM) && v == LAB_RIGHT; i++) {
            const lab_conv t = f < LAB_FAMILIES ? family->shape[i] : lab_random_conv();
            v = judge(&t);
            lab_clear();
        }
        snprintf(name, sizeof name, "%s%s", what, f < LAB_FAMILIES ? family->name : "12 random shapes");
        all = lab_result(name, v, points) && all;
        *done = v != LAB_NOT_DONE;
    }
    return all;
}

static inline lab_conv lab_conv_of(const cnn_tensor *y)
{
    const cnn_conv2d_args *a = y->args;
    const cnn_shape        x = y->in[0]->shape;
    return (lab_conv){ y->name, x.n, x.c, x.h, x.w, y->shape.c, a->kernel_h, a->stride_h, a->pad_h };
}
static inline bool lab_row_forward(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    const lab_conv t = lab_conv_of(y);
    (void)none, (void)mode;
    return lab_f(y->data, y->in[0]->data, y->in[1]->data, y->in[2]->data, LAB_SIZES(&t)) == DONE;
}
static inline bool lab_row_backward(cnn_backend *none, cnn_tensor *y)
{
    const lab_conv t = lab_conv_of(y);
    (void)none;
    return (!y->in[0]->grad || lab_d(y->in[0]->grad, y->grad, y->in[1]->data, LAB_SIZES(&t)) == DONE)
           && lab_w(y->in[1]->grad, y->in[2]->grad, y->grad, y->in[0]->data, LAB_SIZES(&t)) == DONE;
}

/* Speed on VGG16's conv1_2 for CIFAR: a picture of 32 x 32, 64 channels to 64: 75 MFLOP for each product. */
static inline cnn_tensor *lab_conv1_2(cnn_tensor *x) { return cnn_conv2d(x, 64, 3, .pad = 1); }
static inline lab_times lab_conv_time(const cnn_kernel *rows, bool back)
{
    return lab_time("VGG16 conv1_2", 2.0 * 64 * 32 * 32 * 64 * 9 * (back ? 2 : 1), LAB_FLOPS,
                    (cnn_shape){ 1, 64, 32, 32 }, lab_conv1_2, rows, back);
}

static inline int lab_conv2d_forward(int argc, char **argv, lab_conv_forward_fn *f)
{
    static const cnn_kernel rows[] = { { &cnn_op_conv2d, NULL, lab_row_forward, NULL }, { 0 } };
    bool done;
    lab_begin(argc, argv, 3, "conv2d, forward");
    lab_f = f;
    lab_conv_tests("", lab_judge_forward, 20, &done);
    if (done && !lab.judge_only) lab_conv_time(rows, false);
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}
static inline int lab_conv2d_backward(int argc, char **argv, lab_conv_data_fn *data,
                                      lab_conv_weights_fn *weights)
{
    static const cnn_kernel rows[] = { { &cnn_op_conv2d, NULL, NULL, lab_row_backward }, { 0 } };
    bool done_data = false, done_weights = false;
    lab_begin(argc, argv, 4, "conv2d, backward");
    lab_d = data, lab_w = weights;
    const char *only = lab.judge_only && argc > 2 ? argv[2] : "";
    if (strcmp(only, "weights") != 0) lab_conv_tests("data: ", lab_judge_data, 10, &done_data);
    if (strcmp(only, "data") != 0)    lab_conv_tests("weights: ", lab_judge_weights, 10, &done_weights);
    const bool done = done_data && done_weights;
    if (done && !lab.judge_only) lab_conv_time(rows, true);
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}
/* 60 points for speed: none at 4 times the plain loops, which sum in double; all at 64 times; a quarter for
   each doubling between. */
static inline void lab_speed_points(const char *name, lab_times s)
{
    const double ratio = s.plain / s.yours;
    const double share = ratio <= 4 ? 0 : ratio >= 64 ? 1 : log(ratio / 4) / log(16);
    const double points = 60;
    char text[120];
    snprintf(text, sizeof text, "%.1f x the plain loops; points from 4 x on, all at 64 x", ratio);
    lab_tell(name, share >= 1 ? "fast" : share > 0 ? "faster" : "slow", floor(points * share), points, text);
}
static inline int lab_conv2d_fast(int argc, char **argv, lab_conv_forward_fn *f)
{
    static const cnn_kernel rows[] = { { &cnn_op_conv2d, NULL, lab_row_forward, NULL }, { 0 } };
    bool done;
    lab_begin(argc, argv, 9, "conv2d, fast");
    lab_f = f;
    const bool right = lab_conv_tests("", lab_judge_forward, 8, &done);
    if (lab.judge_only) return lab_end();
    if (right) lab_speed_points("speed", lab_conv_time(rows, false));
    else       lab_tell("speed", done ? "WRONG" : "not done", 0, 60, done ? "first the right sums" : "");
    lab_fit(done, rows, NULL, false, 8);
    return lab_end();
}

/* ---- 2: dense ---- */

typedef lab_answer lab_dense_forward_fn(float *y, const float *x, const float *w, const float *b, int N,
                                        int K, int M);
typedef lab_answer lab_dense_data_fn(float *dx, const float *dy, const float *w, int N, int K, int M);
typedef lab_answer lab_dense_weights_fn(float *dw, float *db, const float *dy, const float *x, int N, int K,
                                        int M);
static lab_dense_forward_fn *lab_dense_f;
static lab_dense_data_fn    *lab_dense_d;
static lab_dense_weights_fn *lab_dense_w;

static inline bool lab_row_dense(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    (void)none, (void)mode;
    return lab_dense_f(y->data, y->in[0]->data, y->in[1]->data, y->in[2]->data, y->shape.n, y->in[1]->shape.c,
                       y->shape.c) == DONE;
}
static inline bool lab_row_dense_back(cnn_backend *none, cnn_tensor *y)
{
    const int n = y->shape.n, k = y->in[1]->shape.c, m = y->shape.c;
    (void)none;
    return (!y->in[0]->grad || lab_dense_d(y->in[0]->grad, y->grad, y->in[1]->data, n, k, m) == DONE)
           && lab_dense_w(y->in[1]->grad, y->in[2]->grad, y->grad, y->in[0]->data, n, k, m) == DONE;
}
/* part: 0 forward, 1 data, 2 weights */
static inline lab_verdict lab_judge_dense(int part, int n, int k, int m)
{
    lab_array  x = lab_new("x", n, k, 0, 0), w = lab_new("w", m, k, 0, 0), b = lab_new("b", m, 0, 0, 0);
    lab_array  y = lab_unset("y", n, m, 0, 0), dy = lab_new("dy", n, m, 0, 0), dx = lab_new("dx", n, k, 0, 0);
    lab_array  dw = lab_new("dw", m, k, 0, 0), db = lab_new("db", m, 0, 0, 0);
    lab_array  dx0 = lab_copy(&dx), dw0 = lab_copy(&dw), db0 = lab_copy(&db);
    lab_answer a = part == 0 ? lab_dense_f(y.at, x.at, w.at, b.at, n, k, m)
                   : part == 1 ? lab_dense_d(dx.at, dy.at, w.at, n, k, m)
                               : lab_dense_w(dw.at, db.at, dy.at, x.at, n, k, m);
    if (a == NOT_DONE) return lab_clear(), LAB_NOT_DONE;
    char where[80];
    snprintf(where, sizeof where, "x (%d,%d), w (%d,%d)", n, k, m, k);
    cnn_graph  *g = cnn_new(.max_batch = n, .isa = CNN_ISA_PLAIN, .inference = part == 0);
    cnn_tensor *in = cnn_input(g, k, .grad = part != 0);
    lab_net     net = lab_close(in, cnn_dense(in, m), part != 0);
    lab_inputs(&net, x.at, w.at, b.at, dy.at);
    const float *right = lab_forward(&net);
    const bool   ok = part == 0 ? lab_same(&y, right, where)
                      : part == 1 ? lab_added(&dx, &dx0, cnn_map_grad(net.x), where)
                                  : lab_added(&dw, &dw0, cnn_map_grad(net.y->in[1]), where)
                                    && lab_added(&db, &db0, cnn_map_grad(net.y->in[2]), where);
    cnn_free(g), lab_clear();
    return ok ? LAB_RIGHT : LAB_WRONG;
}
static inline cnn_tensor *lab_dense_120(cnn_tensor *x) { return cnn_dense(x, 120); }
static inline int lab_dense(int argc, char **argv, lab_dense_forward_fn *f, lab_dense_data_fn *d,
                            lab_dense_weights_fn *w)
{
    static const cnn_kernel rows[] = { { &cnn_op_dense, NULL, lab_row_dense, lab_row_dense_back }, { 0 } };
    static const char *const parts[] = { "forward", "backward, data", "backward, weights" };
    /* LeNet-5, VGG16 on CIFAR */
    static const int fixed[3][3] = { { 1, 2, 2 }, { 32, 400, 120 }, { 16, 512, 10 } };
    bool done = true;
    lab_begin(argc, argv, 2, "dense, forward and backward");
    lab_dense_f = f, lab_dense_d = d, lab_dense_w = w;
    for (int part = 0; part < 3; part++)
        for (int random = 0; random < 2; random++) {
            lab_verdict v = LAB_RIGHT;
            char        name[80];
            for (int i = 0; i < (random ? 8 : 3) && v == LAB_RIGHT; i++)
                v = random ? lab_judge_dense(part, lab_int(1, 9), lab_int(1, 40), lab_int(1, 40))
                           : lab_judge_dense(part, fixed[i][0], fixed[i][1], fixed[i][2]);
            snprintf(name, sizeof name, "%s: %s", parts[part],
                     random ? "8 random shapes" : "layers of LeNet-5 and VGG16");
            lab_result(name, v, part == 1 ? 15 : 12.5 + (random ? 0.5 : -0.5));
            done = done && v != LAB_NOT_DONE;
        }
    for (int back = 0; done && !lab.judge_only && back < 2; back++)
        lab_time(back ? "LeNet-5 c5, backward" : "LeNet-5 c5, forward", 2.0 * 32 * 400 * 120 * (1 + back),
                 LAB_FLOPS, (cnn_shape){ 32, 400, 1, 1 }, lab_dense_120, rows, back);
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}

/* ---- 5: max pooling ---- */

typedef lab_answer lab_pool_forward_fn(float *y, int *where, const float *x, int N, int C, int H, int W,
                                       int K, int stride);
typedef lab_answer lab_pool_backward_fn(float *dx, const float *dy, const int *where, int N, int C, int H,
                                        int W, int K, int stride);
static lab_pool_forward_fn  *lab_pool_f;
static lab_pool_backward_fn *lab_pool_b;

static inline bool lab_row_pool(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    const cnn_pool_args *a = y->args;
    const cnn_shape      x = y->in[0]->shape;
    /* In CNN_EVAL nothing is kept. */
    int *where = y->saved ? y->saved : malloc(cnn_count(y) * sizeof *where);
    (void)none, (void)mode;
    const bool ok = where && lab_pool_f(y->data, where, y->in[0]->data, x.n, x.c, x.h, x.w, a->kernel_h,
                                        a->stride_h) == DONE;
    if (!y->saved) free(where);
    return ok;
}
static inline bool lab_row_pool_back(cnn_backend *none, cnn_tensor *y)
{
    const cnn_pool_args *a = y->args;
    const cnn_shape      x = y->in[0]->shape;
    (void)none;
    return lab_pool_b(y->in[0]->grad, y->grad, y->saved, x.n, x.c, x.h, x.w, a->kernel_h,
                      a->stride_h) == DONE;
}
typedef enum { LAB_VALUES, LAB_PLACES, LAB_BACK } lab_pool_part;
/* ties: x holds -3, -2 and -1 alone, so that windows have equals (and a maximum that starts from 0 shows). */
static inline lab_verdict lab_judge_pool(lab_pool_part part, bool ties, int n, int c, int h, int w, int k,
                                         int stride)
{
    const int oh = lab_out(h, k, stride, 0), ow = lab_out(w, k, stride, 0);
    lab_array x = lab_new("x", n, c, h, w);
    lab_array y = lab_unset("y", n, c, oh, ow), dy = lab_new("dy", n, c, oh, ow);
    lab_array dx = lab_new("dx", n, c, h, w), dx0 = lab_copy(&dx), place = lab_unset("where", n, c, oh, ow);
    int      *where = malloc((y.n + 1) * sizeof *where);
    bool      ok = where != NULL;
    char      text[120];
    for (size_t i = 0; ties && i < x.n; i++) x.at[i] = floorf(1.5f * x.at[i] - 1.5f);
    for (size_t i = 0; ok && i <= y.n; i++) where[i] = -1;
    snprintf(text, sizeof text, "x (%d,%d,%d,%d)%s, kernel %d, stride %d", n, c, h, w,
             ties ? " with ties" : "", k, stride);
    cnn_graph  *g = cnn_new(.max_batch = n, .isa = CNN_ISA_PLAIN);
    cnn_tensor *in = cnn_input(g, c, h, w, .grad = 1);
    lab_net     net = lab_close(in, cnn_keep(cnn_max_pool(in, k, .stride = stride)), true);
    lab_inputs(&net, x.at, NULL, NULL, dy.at), lab_forward(&net);
    /* The right places: where a gradient of a single window lands; found through cnn.h alone. */
    if (ok && part != LAB_VALUES) {
        lab_array one = lab_new("one", n, c, oh, ow);
        float    *right = lab_memory(y.n);
        const int apart = (k - 1) / stride + 1;             /* windows so far apart do not overlap */
        for (int from = 0; from < apart * apart; from++) {
            const int top = from / apart, left = from % apart;
            for (int i = 0; i < n * c * oh * ow; i++)
                one.at[i] = i / ow % oh % apart == top && i % ow % apart == left ? 1.0f : 0.0f;
            lab_set(net.r, one.at), lab_forward(&net);
            const float *grad = cnn_map_grad(net.x);
            for (int j = 0; j < n * c * h * w; j++) {
                if (grad[j] == 0) continue;
                const int r = j / w % h, s = j % w;             /* of the windows taken, the last before it */
                const int i = top + (r / stride - top) / apart * apart;
                const int l = left + (s / stride - left) / apart * apart;
                right[(j / (h * w) * oh + i) * ow + l] = (float)(r * w + s);
            }
        }
        lab_set(net.r, dy.at), lab_forward(&net);
        if (part == LAB_BACK) {
            for (size_t i = 0; i < y.n; i++) where[i] = (int)right[i];
            ok = lab_pool_b(dx.at, dy.at, where, n, c, h, w, k, stride) == DONE;
            if (ok) ok = lab_added(&dx, &dx0, cnn_map_grad(net.x), text);
            else    { free(where), cnn_free(g), lab_clear(); return LAB_NOT_DONE; }
        } else {
            lab_answer a = lab_pool_f(y.at, where, x.at, n, c, h, w, k, stride);
            if (a == NOT_DONE) { free(where), cnn_free(g), lab_clear(); return LAB_NOT_DONE; }
            for (size_t i = 0; i < y.n; i++) place.at[i] = (float)where[i];
            ok = lab_same(&place, right, text);
        }
    } else if (ok) {
        lab_answer a = lab_pool_f(y.at, where, x.at, n, c, h, w, k, stride);
        if (a == NOT_DONE) { free(where), cnn_free(g), lab_clear(); return LAB_NOT_DONE; }
        ok = lab_same(&y, cnn_map_read(net.y), text);
    }
    free(where), cnn_free(g), lab_clear();
    return ok ? LAB_RIGHT : LAB_WRONG;
}
static inline cnn_tensor *lab_pool_2(cnn_tensor *x) { return cnn_max_pool(x, 2); }
static inline int lab_max_pool(int argc, char **argv, lab_pool_forward_fn *f, lab_pool_backward_fn *b)
{
    static const cnn_kernel rows[] = { { &cnn_op_max_pool, NULL, lab_row_pool, lab_row_pool_back }, { 0 } };
    static const int fixed[4][6] = {                /* LeNet-5 at 28 and 86; the last without its border */
        { 2, 6, 28, 28, 2, 2 }, { 1, 4, 80, 80, 2, 2 }, { 1, 64, 32, 32, 2, 2 }, { 1, 64, 28, 28, 3, 2 } };
    static const char *const parts[] = { "forward, values: ", "forward, places: ", "backward: " };
    bool done = true;
    lab_begin(argc, argv, 5, "max pooling, and ties");
    lab_pool_f = f, lab_pool_b = b;
    for (int part = 0; part < 3; part++)
        for (int random = 0; random < 2; random++) {
            lab_verdict v = LAB_RIGHT;
            char        name[80];
            for (int i = 0; i < (random ? 12 : 4) && v == LAB_RIGHT; i++) {
                const int *s = fixed[random ? 0 : i], k = lab_int(1, 3);
                v = random ? lab_judge_pool((lab_pool_part)part, i % 2 == 0, lab_int(1, 2), lab_int(1, 3),
                                            lab_int(k, 9), lab_int(k, 9), k, lab_int(1, 3))
                           : lab_judge_pool((lab_pool_part)part, false, s[0], s[1], s[2], s[3], s[4], s[5]);
            }
            snprintf(name, sizeof name, "%s%s", parts[part],
                     random ? "12 random shapes, half with ties" : "LeNet-5, VGG16, ResNet-18");
            lab_result(name, v, part == 1 ? random ? 20 : 10 : random ? 15 : 10);
            done = done && v != LAB_NOT_DONE;
        }
    for (int back = 0; done && !lab.judge_only && back < 2; back++)
        lab_time(back ? "VGG16 pool1, backward" : "VGG16 pool1, forward",
                 8.0 * 64 * 16 * 16 * 4 * (back ? 10 : 6),          /* x, y, where; dx twice, dy, where */
                 LAB_BYTES, (cnn_shape){ 8, 64, 32, 32 }, lab_pool_2, rows, back);
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}

/* ---- 7: softmax with cross-entropy ---- */

typedef lab_answer lab_loss_forward_fn(float *J, float *p, const float *z, const int *label, int N, int C);
typedef lab_answer lab_loss_backward_fn(float *dz, const float *p, const int *label, int N, int C);
static lab_loss_forward_fn  *lab_loss_f;
static lab_loss_backward_fn *lab_loss_b;

enum { LAB_MOST_LABELS = 64, LAB_MOST_CLASSES = 1000 };
static float lab_p[LAB_MOST_LABELS * LAB_MOST_CLASSES];         /* forward's probabilities, for backward */
static inline void lab_labels_of(const cnn_tensor *y, int label[LAB_MOST_LABELS])
{
    for (int i = 0; i < y->in[0]->shape.n; i++) label[i] = (int)y->in[1]->data[i];
}
static inline bool lab_row_loss(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    int label[LAB_MOST_LABELS];
    (void)none, (void)mode;
    lab_labels_of(y, label);
    return lab_loss_f(y->data, lab_p, y->in[0]->data, label, y->in[0]->shape.n, y->in[0]->shape.c) == DONE;
}
static inline bool lab_row_loss_back(cnn_backend *none, cnn_tensor *y)
{
    int label[LAB_MOST_LABELS];
    (void)none;
    lab_labels_of(y, label);
    return lab_loss_b(y->in[0]->grad, lab_p, label, y->in[0]->shape.n, y->in[0]->shape.c) == DONE;
}
/* large: logits up to 1,000, whose exponentials are no floats */
static inline lab_verdict lab_judge_loss(bool back, bool large, int n, int c)
{
    lab_array z = lab_new("z", n, c, 0, 0), p = lab_unset("p", n, c, 0, 0), J = lab_unset("J", 1, 0, 0, 0);
    lab_array dz = lab_new("dz", n, c, 0, 0), dz0 = lab_copy(&dz);
    int       label[LAB_MOST_LABELS];
    char      text[80];
    for (int i = 0; i < n; i++) label[i] = lab_int(0, c - 1);
    for (size_t i = 0; i < z.n; i++) z.at[i] *= large ? 1000.0f : 3.0f;
    snprintf(text, sizeof text, "z (%d,%d)%s", n, c, large ? " up to 1000" : "");

    cnn_graph  *s = cnn_new(.max_batch = n, .isa = CNN_ISA_PLAIN, .inference = 1);
    cnn_tensor *in = cnn_input(s, c);
    lab_net     soft = lab_close(in, cnn_softmax(in), false);
    lab_inputs(&soft, z.at, NULL, NULL, NULL);
    const float *right = lab_forward(&soft);
    cnn_graph   *g = cnn_new(.max_batch = n, .isa = CNN_ISA_PLAIN);
    cnn_tensor  *x = cnn_input(g, c, .grad = 1), *t = cnn_labels(g), *loss = cnn_softmax_cross_entropy(x, t);
    cnn_compile(g, loss), cnn_set(x, z.at, z.n), cnn_set_labels(t, label, (size_t)n);
    const float J_right = cnn_forward(loss, CNN_TRAIN);
    cnn_backward(loss);
    const lab_answer a = back ? lab_loss_b(dz.at, right, label, n, c)
                              : lab_loss_f(J.at, p.at, z.at, label, n, c);
    const bool ok = a == DONE && (back ? lab_added(&dz, &dz0, cnn_map_grad(x), text)
                                       : lab_same(&J, &J_right, text) && lab_same(&p, right, text));
    cnn_free(g), cnn_free(s), lab_clear();
    return a == NOT_DONE ? LAB_NOT_DONE : ok ? LAB_RIGHT : LAB_WRONG;
}
/* Speed on ImageNet's 1,000 classes. Forward: 5 operations a logit, exp counted as one. Backward reads p and
   dz and writes dz. */
typedef struct { float *J, *p, *z, *dz; int label[LAB_MOST_LABELS]; bool back; } lab_loss_work;
static inline void lab_run_loss(void *user)
{
    lab_loss_work *u = user;
    if (u->back) lab_loss_b(u->dz, u->p, u->label, LAB_MOST_LABELS, LAB_MOST_CLASSES);
    else         lab_loss_f(u->J, u->p, u->z, u->label, LAB_MOST_LABELS, LAB_MOST_CLASSES);
}
static inline void lab_time_loss(void)
{
    enum { N = LAB_MOST_LABELS, C = LAB_MOST_CLASSES };
    lab_loss_work u = { lab_new("J", 1, 0, 0, 0).at, lab_new("p", N, C, 0, 0).at, lab_new("z", N, C, 0, 0).at,
                        lab_new("dz", N, C, 0, 0).at, { 0 }, false };
    for (int i = 0; i < N; i++) u.label[i] = lab_int(0, C - 1);
    for (int back = 0; back < 2; back++) {
        lab_times t = { 0 };
        u.back = back;
        t.yours = lab_median(lab_run_loss, &u);
        for (int own = 0; own < 2; own++) {
            cnn_graph  *g = cnn_new(.max_batch = N, .isa = own ? CNN_ISA_AUTO : CNN_ISA_PLAIN);
            cnn_tensor *x = cnn_input(g, C, .grad = 1), *label = cnn_labels(g);
            lab_net     n = { g, x, cnn_softmax_cross_entropy(x, label), x, NULL };
            cnn_compile(g, n.loss = n.y), lab_set(x, u.z), cnn_set_labels(label, u.label, N);
            *(own ? &t.own : &t.plain) = lab_time_net(&n, back);
            cnn_free(g);
        }
        if (back) lab_speed("64 samples of 1,000 classes, backward", 12.0 * N * C, LAB_BYTES, t);
        else      lab_speed("64 samples of 1,000 classes, forward", 5.0 * N * C, LAB_FLOPS, t);
    }
    lab_clear();
}
static inline int lab_softmax_cross_entropy(int argc, char **argv, lab_loss_forward_fn *f,
                                            lab_loss_backward_fn *b)
{
    static const cnn_kernel rows[] = {
        { &cnn_op_softmax_cross_entropy, NULL, lab_row_loss, lab_row_loss_back }, { 0 } };
    static const char *const names[] = { "forward: digits, CIFAR, ImageNet, random shapes",
                                         "forward: large logits",
                                         "backward: digits, CIFAR, ImageNet, random shapes" };
    static const double points[] = { 30, 20, 30 };
    bool done = true;
    lab_begin(argc, argv, 7, "softmax with cross-entropy");
    lab_loss_f = f, lab_loss_b = b;
    for (int part = 0; part < 3; part++) {
        lab_verdict v = LAB_RIGHT;
        for (int i = 0; i < 12 && v == LAB_RIGHT; i++)
            v = i == 0 ? lab_judge_loss(part == 2, part == 1, 32, 10)
                : i == 1 ? lab_judge_loss(part == 2, part == 1, 4, 1000)
                : lab_judge_loss(part == 2, part == 1, lab_int(1, 40), lab_int(2, 30));
        lab_result(names[part], v, points[part]);
        done = done && v != LAB_NOT_DONE;
    }
    if (done && !lab.judge_only) lab_time_loss();
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}

/* ---- 8: SGD with momentum, Adam ---- */

typedef lab_answer lab_sgd_fn(float *w, float *v, const float *dw, int n, float lr, float momentum);
typedef lab_answer lab_adam_fn(float *w, float *m, float *v, const float *dw, int n, float lr, float beta1,
                               float beta2, float eps, int t);
static lab_sgd_fn  *lab_sgd_rule;
static lab_adam_fn *lab_adam_rule;

static inline void lab_update_sgd(float *w, const float *dw, float *const *slot, size_t n,
                                  const cnn_step_args *a, long step)
{
    (void)step;
    lab_sgd_rule(w, slot[0], dw, (int)n, a->lr, a->momentum);
}
static inline void lab_update_adam(float *w, const float *dw, float *const *slot, size_t n,
                                   const cnn_step_args *a, long step)
{
    lab_adam_rule(w, slot[0], slot[1], dw, (int)n, a->lr, a->beta1, a->beta2, a->eps, (int)step + 1);
}
/* 20 updates, with a learning rate that changes and gradients from 1e-6 to 1, beside cnn.h's optimizer. */
static inline lab_verdict lab_judge_rule(bool adam, bool tiny, int n)
{
    const cnn_optimizer *right = adam ? cnn_adam() : cnn_sgd();
    lab_array w = lab_new("w", n, 0, 0, 0), s = lab_new(adam ? "m" : "v", n, 0, 0, 0);
    lab_array v = lab_new("v", n, 0, 0, 0);
    for (int i = 0; i < n; i++) s.at[i] = v.at[i] = 0;
    lab_array w0 = lab_copy(&w), s0 = lab_copy(&s), v0 = lab_copy(&v), dw = lab_new("dw", n, 0, 0, 0);
    float *const slots[CNN_MAX_SLOTS] = { s0.at, adam ? v0.at : NULL, NULL };
    bool   ok = true;
    for (int t = 1; t <= 20 && ok; t++) {
        const cnn_step_args a = { .lr = 0.1f / (float)t, .momentum = 0.9f, .beta1 = 0.9f, .beta2 = 0.999f,
                                  .eps = 1e-3f };
        char text[80];
        for (int i = 0; i < n; i++) dw.at[i] = (float)(2 * lab_uniform() - 1) * (tiny ? 1e-3f : 1.0f);
        lab_answer done = adam ? lab_adam_rule(w.at, s.at, v.at, dw.at, n, a.lr, a.beta1, a.beta2, a.eps, t)
                               : lab_sgd_rule(w.at, s.at, dw.at, n, a.lr, a.momentum);
        if (done == NOT_DONE) return lab_clear(), LAB_NOT_DONE;
        right->update(w0.at, dw.at, slots, (size_t)n, &a, t - 1);
        snprintf(text, sizeof text, "update %d of %d weights", t, n);
        ok = lab_same(&w, w0.at, text) && lab_same(&s, s0.at, text) && (!adam || lab_same(&v, v0.at, text));
    }
    lab_clear();
    return ok ? LAB_RIGHT : LAB_WRONG;
}
/* Speed: a million weights, which no cache near the core holds. cnn.h's own rule is a plain loop, too. */
typedef struct { float *w, *m, *v, *dw; const cnn_optimizer *own; bool adam; int n; } lab_rule_work;
static inline void lab_run_rule(void *user)
{
    lab_rule_work      *u = user;
    float *const        slots[CNN_MAX_SLOTS] = { u->m, u->adam ? u->v : NULL, NULL };
    const cnn_step_args a = { .lr = 1e-3f, .momentum = 0.9f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f };
    if (u->own)       u->own->update(u->w, u->dw, slots, (size_t)u->n, &a, 9);
    else if (u->adam) lab_adam_rule(u->w, u->m, u->v, u->dw, u->n, a.lr, a.beta1, a.beta2, a.eps, 10);
    else              lab_sgd_rule(u->w, u->m, u->dw, u->n, a.lr, a.momentum);
}
static inline void lab_time_rule(bool adam)
{
    enum { N = 1000000 };
    lab_rule_work u = { lab_new("w", N, 0, 0, 0).at, lab_new("m", N, 0, 0, 0).at, lab_new("v", N, 0, 0, 0).at,
                        lab_new("dw", N, 0, 0, 0).at, NULL, adam, N };
    lab_times     t = { .own_name = "cnn.h's own, which is that loop" };
    for (int i = 0; i < N; i++) u.v[i] = u.v[i] * u.v[i];
    t.yours = lab_median(lab_run_rule, &u);
    u.own = adam ? cnn_adam() : cnn_sgd();
    t.plain = t.own = lab_median(lab_run_rule, &u);
    lab_speed("a million weights", (adam ? 28.0 : 20.0) * N, LAB_BYTES, t);
    lab_clear();
}
static inline int lab_optimizers(int argc, char **argv, lab_sgd_fn *sgd, lab_adam_fn *adam)
{
    const cnn_optimizer mine[2] = { { "my_sgd", 1, lab_update_sgd, cnn_sgd()->fields, NULL },
                                    { "my_adam", 2, lab_update_adam, cnn_adam()->fields, NULL } };
    static const char *const names[2][2] = { { "SGD with momentum", "SGD with momentum: small gradients" },
                                             { "Adam", "Adam: small gradients" } };
    lab_begin(argc, argv, 8, "SGD with momentum, then Adam");
    lab_sgd_rule = sgd, lab_adam_rule = adam;
    for (int rule = 0; rule < 2; rule++) {
        lab_verdict v = LAB_RIGHT;
        for (int tiny = 0; tiny < 2; tiny++) {
            v = LAB_RIGHT;
            for (int i = 0; i < 5 && v == LAB_RIGHT; i++)
                v = lab_judge_rule(rule == 1, tiny == 1, i < 4 ? lab_int(1, 40) : 1000);
            lab_result(names[rule][tiny], v, 20);
        }
        if (v != LAB_NOT_DONE && !lab.judge_only) lab_time_rule(rule == 1);
        lab_fit(v != LAB_NOT_DONE, NULL, &mine[rule], false, 10);
    }
    return lab_end();
}

/* ---- 1: the lecture's graph ---- */

typedef lab_answer lab_lecture_forward_fn(float *h, float *o, float *J, const float *x, const float *t,
                                          const float *W1, const float *b1, const float *W2, const float *b2,
                                          int I, int H, int O);
typedef lab_answer lab_lecture_backward_fn(float *gW1, float *gb1, float *gW2, float *gb2, const float *x,
                                           const float *t, const float *h, const float *o, const float *W2,
                                           int I, int H, int O);
static lab_lecture_forward_fn  *lab_lecture_f;
static lab_lecture_backward_fn *lab_lecture_b;

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *W1, *b1, *W2, *b2, *h, *o, *J; } lab_lecture_net;
static inline lab_lecture_net lab_lecture_new(cnn_isa isa, int I, int H, int O)
{
    lab_lecture_net n = { .g = cnn_new(.isa = isa) };
    n.x = cnn_input(n.g, I), n.t = cnn_input(n.g, O);
    cnn_tensor *z1 = cnn_dense(n.x, H);
    n.h = cnn_keep(cnn_sigmoid(z1));
    cnn_tensor *z2 = cnn_dense(n.h, O);
    n.o = cnn_keep(cnn_sigmoid(z2));
    n.J = cnn_scale(cnn_mse(n.o, n.t), 0.5f * (float)O);
    if (!cnn_compile(n.g, n.J)) fprintf(stderr, "lab: %s\n", cnn_error(n.g)), exit(2);
    n.W1 = z1->in[1], n.b1 = z1->in[2], n.W2 = z2->in[1], n.b2 = z2->in[2];
    return n;
}
typedef struct { lab_array x, t, W1, b1, W2, b2, h, o, J, gW1, gb1, gW2, gb2; } lab_lecture_arrays;
static inline lab_lecture_arrays lab_lecture_fill(int I, int H, int O)
{
    return (lab_lecture_arrays){
        lab_new("x", I, 0, 0, 0), lab_new("t", O, 0, 0, 0),
        lab_new("W1", H, I, 0, 0), lab_new("b1", H, 0, 0, 0),
        lab_new("W2", O, H, 0, 0), lab_new("b2", O, 0, 0, 0),
        lab_unset("h", H, 0, 0, 0), lab_unset("o", O, 0, 0, 0),
        lab_unset("J", 1, 0, 0, 0), lab_unset("gW1", H, I, 0, 0), lab_unset("gb1", H, 0, 0, 0),
        lab_unset("gW2", O, H, 0, 0), lab_unset("gb2", O, 0, 0, 0) };
}
static inline lab_answer lab_lecture_run(const lab_lecture_arrays *a, bool back, const float *h,
                                         const float *o, int I, int H, int O)
{
    return back ? lab_lecture_b(a->gW1.at, a->gb1.at, a->gW2.at, a->gb2.at, a->x.at, a->t.at, h, o, a->W2.at,
                                I, H, O)
                : lab_lecture_f(a->h.at, a->o.at, a->J.at, a->x.at, a->t.at, a->W1.at, a->b1.at, a->W2.at,
                                a->b2.at, I, H, O);
}
/* The perceptron of the lecture (the numbers are M. Mazur's, 2015), with the values that are published. */
static inline lab_verdict lab_judge_lecture(bool back)
{
    static const float x[] = { 0.05f, 0.10f }, t[] = { 0.01f, 0.99f }, b1[] = { 0.35f, 0.35f };
    static const float b2[] = { 0.6f, 0.6f };
    static const float W1[] = { 0.15f, 0.20f, 0.25f, 0.30f }, W2[] = { 0.40f, 0.45f, 0.50f, 0.55f };
    static const float h[] = { 0.5932699921f, 0.5968843783f }, o[] = { 0.7513650696f, 0.7729284653f };
    static const float J[] = { 0.2983711088f };
    static const float gW2[] = { 0.08216704056f, 0.08266762785f, -0.02260254048f, -0.02274024222f };
    static const float gW1[] = { 0.0004385677345f, 0.0008771354689f, 0.0004977127353f, 0.0009954254705f };
    static const float gb2[] = { 0.13849856163f, -0.03809823652f };
    static const float gb1[] = { 0.008771354689f, 0.009954254705f };
    const char        *where = "the lecture's perceptron, 2-2-2";
    lab_lecture_arrays a = lab_lecture_fill(2, 2, 2);
    memcpy(a.x.at, x, sizeof x), memcpy(a.t.at, t, sizeof t), memcpy(a.W1.at, W1, sizeof W1);
    memcpy(a.b1.at, b1, sizeof b1), memcpy(a.W2.at, W2, sizeof W2), memcpy(a.b2.at, b2, sizeof b2);
    if (lab_lecture_run(&a, back, h, o, 2, 2, 2) == NOT_DONE) return lab_clear(), LAB_NOT_DONE;
    const bool ok = back ? lab_same(&a.gW2, gW2, where) && lab_same(&a.gb2, gb2, where)
                           && lab_same(&a.gW1, gW1, where)
                           && lab_same(&a.gb1, gb1, where)
                         : lab_same(&a.h, h, where) && lab_same(&a.o, o, where) && lab_same(&a.J, J, where);
    return lab_clear(), ok ? LAB_RIGHT : LAB_WRONG;
}
static inline lab_verdict lab_judge_perceptron(bool back, int I, int H, int O)
{
    char where[80];
    snprintf(where, sizeof where, "a perceptron, %d-%d-%d", I, H, O);
    lab_lecture_arrays a = lab_lecture_fill(I, H, O);
    lab_lecture_net    n = lab_lecture_new(CNN_ISA_PLAIN, I, H, O);
    lab_set(n.x, a.x.at), lab_set(n.t, a.t.at), lab_set(n.W1, a.W1.at), lab_set(n.b1, a.b1.at);
    lab_set(n.W2, a.W2.at), lab_set(n.b2, a.b2.at);
    const float      J = cnn_forward(n.J, CNN_TRAIN);
    cnn_backward(n.J);
    const lab_answer done = lab_lecture_run(&a, back, cnn_map_read(n.h), cnn_map_read(n.o), I, H, O);
    const bool ok = done == DONE
        && (back ? lab_same(&a.gW2, cnn_map_grad(n.W2), where) && lab_same(&a.gb2, cnn_map_grad(n.b2), where)
                   && lab_same(&a.gW1, cnn_map_grad(n.W1), where)
                   && lab_same(&a.gb1, cnn_map_grad(n.b1), where)
                 : lab_same(&a.h, cnn_map_read(n.h), where) && lab_same(&a.o, cnn_map_read(n.o), where)
                   && lab_same(&a.J, &J, where));
    cnn_free(n.g), lab_clear();
    return done == NOT_DONE ? LAB_NOT_DONE : ok ? LAB_RIGHT : LAB_WRONG;
}
/* XOR by your two functions alone: 2-8-1, 2,000 times the four samples. */
static inline void lab_learn_xor(bool done)
{
    const char *name = "XOR, learned by your functions alone";
    if (!done) { lab_result(name, LAB_NOT_DONE, 10); return; }
    lab_lecture_arrays a = lab_lecture_fill(2, 8, 1);
    const lab_array   *w[4] = { &a.W1, &a.b1, &a.W2, &a.b2 }, *g[4] = { &a.gW1, &a.gb1, &a.gW2, &a.gb2 };
    double first = 0, sum = 0;
    for (int step = 0; step < 8000; step++) {
        if (step % 4 == 0) sum = 0;
        a.x.at[0] = (float)(step & 1), a.x.at[1] = (float)(step >> 1 & 1);
        a.t.at[0] = (float)((step ^ step >> 1) & 1);
        lab_lecture_run(&a, false, NULL, NULL, 2, 8, 1), lab_lecture_run(&a, true, a.h.at, a.o.at, 2, 8, 1);
        sum += (double)a.J.at[0];
        for (int k = 0; k < 4; k++)
            for (size_t i = 0; i < w[k]->n; i++) w[k]->at[i] -= 2 * g[k]->at[i];
        if (step == 3) first = sum;
    }
    lab_clear();
    snprintf(lab.why, sizeof lab.why, "the sum of the four losses went from %.4f to %.4f", first, sum);
    const bool ok = sum < 0.02;
    lab_tell(name, ok ? "right" : "WRONG", ok ? 10 : 0, 10, lab.why);
}
/* Inside cnn_fit: an operation whose forward and backward are your two functions, a sample at a time.
   Operands: o (of cnn.h's own net with the same weights, for the accuracy), t, x, W1, b1, W2, b2. y: the
   mean J. */
static inline bool lab_lecture_shape(cnn_tensor *y)
{
    y->shape = (cnn_shape){ 1, 1, 1, 1 }, y->batched = false;
    return true;
}
static inline size_t lab_lecture_saved(const cnn_tensor *y)    /* h, o of all samples; a sample's gradients */
{
    const int I = y->in[3]->shape.c, H = y->in[4]->shape.c, O = y->in[6]->shape.c;
    return ((size_t)y->in[0]->shape.n * (size_t)(H + O) + (size_t)(H * I + H + O * H + O)) * sizeof(float);
}
static inline void lab_lecture_op(cnn_tensor *y, bool back)
{
    float *const *grads = (float *[]){ y->in[3]->grad, y->in[4]->grad, y->in[5]->grad, y->in[6]->grad };
    const int     N = y->in[0]->shape.n, I = y->in[3]->shape.c, H = y->in[4]->shape.c, O = y->in[6]->shape.c;
    const int     size[4] = { H * I, H, O * H, O };
    float        *h = y->saved, *o = h + N * H, *g[5] = { o + N * O }, J, sum = 0;
    for (int k = 0; k < 4; k++) g[k + 1] = g[k] + size[k];
    for (int n = 0; n < N; n++, h += H, o += O) {
        const float *x = y->in[2]->data + n * I, *t = y->in[1]->data + n * O, *W2 = y->in[5]->data;
        if (!back) {
            lab_lecture_f(h, o, &J, x, t, y->in[3]->data, y->in[4]->data, W2, y->in[6]->data, I, H, O);
            sum += J / (float)N;
            continue;
        }
        lab_lecture_b(g[0], g[1], g[2], g[3], x, t, h, o, W2, I, H, O);
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < size[k]; i++) grads[k][i] += y->grad[0] / (float)N * g[k][i];
    }
    if (!back) y->data[0] = sum;
}
static inline void lab_lecture_op_forward(cnn_tensor *y, cnn_mode mode)
{
    if (mode == CNN_TRAIN) lab_lecture_op(y, false);
    else                   y->data[0] = 0;                     /* keeps nothing; o is what is judged */
}
static inline void lab_lecture_op_backward(cnn_tensor *y) { lab_lecture_op(y, true); }
static inline lab_run lab_train_lecture(bool mine)
{
    static const cnn_op op = { .name = "lecture", .shape = lab_lecture_shape,
                               .forward = lab_lecture_op_forward, .backward = lab_lecture_op_backward,
                               .saved = lab_lecture_saved, .flags = CNN_READS_X | CNN_LOSS };
    lab_run      r = { .accuracy = 0 };
    cnn_dataset  all = lab_digits("train"), test = lab_digits("test"), train = cnn_split(&all, 0, 2000);
    cnn_graph   *g = cnn_new(.max_batch = 16, .seed = 1);
    cnn_tensor  *x = cnn_input(g, 1, 28, 28), *t = cnn_input(g, 10);
    cnn_tensor  *z1 = cnn_dense(x, 32), *z2 = cnn_dense(cnn_sigmoid(z1), 10), *o = cnn_sigmoid(z2);
    cnn_tensor  *in[7] = { o, t, x, z1->in[1], z1->in[2], z2->in[1], z2->in[2] };
    cnn_tensor  *loss = mine ? cnn_apply(&op, in, 7, NULL, CNN_HERE) : cnn_scale(cnn_mse(o, t), 5);
    const double start = lab_seconds();
    if (cnn_compile(g, loss)) cnn_fit(loss, o, &train, .epochs = 4, .lr = 0.5f, .momentum = 0.5f);
    r.seconds = lab_seconds() - start;
    r.accuracy = cnn_top_k(o, &test, 1);
    if (cnn_error(g)) snprintf(r.error, sizeof r.error, "%s", cnn_error(g));
    cnn_free(g), cnn_dataset_free(&all), cnn_dataset_free(&test), cnn_dataset_free(&train);
    return r;
}
static inline void lab_fit_lecture(bool done)
{
    const char   *name = "inside cnn_fit: 784-32-10 learns 2,000 digits";
    const lab_run a = lab_train_lecture(false);
    if (a.error[0]) printf("  without:  %s\n", a.error);
    else if (!done) lab_not_yet(name, 10, &a);
    else {
        const lab_run b = lab_train_lecture(true);
        lab_compare(name, 10, &b, &a);
    }
}
/* Speed on one digit. Bytes: forward reads each weight once; backward reads W2 and writes both gradients. */
typedef struct { lab_lecture_arrays a; bool back; } lab_lecture_work;
enum { LAB_IN = 784, LAB_HIDDEN = 128, LAB_OUT = 10 };
static inline void lab_run_lecture(void *user)
{
    const lab_lecture_work *u = user;
    lab_lecture_run(&u->a, u->back, u->a.h.at, u->a.o.at, LAB_IN, LAB_HIDDEN, LAB_OUT);
}
static inline void lab_time_lecture(void)
{
    lab_lecture_work u = { lab_lecture_fill(LAB_IN, LAB_HIDDEN, LAB_OUT), false };
    for (int back = 0; back < 2; back++) {
        lab_times t = { 0 };
        u.back = back;
        t.yours = lab_median(lab_run_lecture, &u);
        for (int own = 0; own < 2; own++) {
            const cnn_isa   isa = own ? CNN_ISA_AUTO : CNN_ISA_PLAIN;
            lab_lecture_net l = lab_lecture_new(isa, LAB_IN, LAB_HIDDEN, LAB_OUT);
            lab_net         n = { l.g, l.x, l.J, l.x, l.J };
            lab_set(l.x, u.a.x.at), lab_set(l.t, u.a.t.at);
            *(own ? &t.own : &t.plain) = lab_time_net(&n, back);
            cnn_free(l.g);
        }
        lab_speed(back ? "784-128-10, backward" : "784-128-10, forward",
                  4.0 * LAB_HIDDEN * (LAB_IN + (back ? 2 : 1) * LAB_OUT), LAB_BYTES, t);
    }
    lab_clear();
}
static inline int lab_lecture(int argc, char **argv, lab_lecture_forward_fn *f, lab_lecture_backward_fn *b)
{
    bool done = true;
    lab_begin(argc, argv, 1, "the lecture's graph by hand");
    lab_lecture_f = f, lab_lecture_b = b;
    for (int back = 0; back < 2; back++) {
        lab_verdict v = lab_judge_lecture(back);
        lab_result(back ? "backward: the lecture's numbers" : "forward: the lecture's numbers", v, 20);
        done = done && v != LAB_NOT_DONE;
        for (int i = 0; i < 10 && v != LAB_NOT_DONE; i++)
            if ((v = lab_judge_perceptron(back, lab_int(1, 9), lab_int(1, 9), lab_int(1, 9))) != LAB_RIGHT)
                break;
        lab_result(back ? "backward: 10 random shapes" : "forward: 10 random shapes", v, 20);
    }
    if (lab.judge_only) return lab_end();
    lab_learn_xor(done);
    if (done) lab_time_lecture();
    lab_fit_lecture(done);
    return lab_end();
}

/* ---- 6: batch norm ---- */

typedef lab_answer lab_norm_fn(float *dx, float *dw, float *db, const float *dy, const float *x,
                               const float *mean, const float *rstd, const float *w, int N, int C, int HW);
static lab_norm_fn *lab_norm_b;

static inline void lab_moments(float *mean, float *rstd, const float *x, int n, int c, int hw, float eps)
{
    for (int k = 0; k < c; k++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < n * hw; i++) sum += (double)x[(i / hw * c + k) * hw + i % hw];
        sum /= (double)n * hw;
        for (int i = 0; i < n * hw; i++) {
            const double d = (double)x[(i / hw * c + k) * hw + i % hw] - sum;
            squares += d * d;
        }
        mean[k] = (float)sum, rstd[k] = (float)(1 / sqrt(squares / ((double)n * hw) + (double)eps));
    }
}
static inline bool lab_row_norm(cnn_backend *none, cnn_tensor *y)
{
    float           mean[512], rstd[512];
    const cnn_shape s = y->shape;
    const cnn_batch_norm_args *a = y->args;
    (void)none;
    lab_moments(mean, rstd, y->in[0]->data, s.n, s.c, s.h * s.w, a->eps);
    return lab_norm_b(y->in[0]->grad, y->in[1]->grad, y->in[2]->grad, y->grad, y->in[0]->data, mean, rstd,
                      y->in[1]->data, s.n, s.c, s.h * s.w) == DONE;
}
static inline lab_verdict lab_judge_norm(int N, int C, int H, int W)
{
    lab_array x = lab_new("x", N, C, H, W), dy = lab_new("dy", N, C, H, W), w = lab_new("w", C, 0, 0, 0);
    lab_array dx = lab_new("dx", N, C, H, W), dw = lab_new("dw", C, 0, 0, 0), db = lab_new("db", C, 0, 0, 0);
    lab_array dx0 = lab_copy(&dx), dw0 = lab_copy(&dw), db0 = lab_copy(&db), m = lab_new("mean", C, 0, 0, 0);
    lab_array r = lab_new("rstd", C, 0, 0, 0);
    char      where[80];
    for (size_t i = 0; i < x.n; i++) x.at[i] = 3 * x.at[i] + 1, dy.at[i] += 0.5f;
    lab_moments(m.at, r.at, x.at, N, C, H * W, 1e-5f);
    snprintf(where, sizeof where, "x (%d,%d,%d,%d)", N, C, H, W);
    if (lab_norm_b(dx.at, dw.at, db.at, dy.at, x.at, m.at, r.at, w.at, N, C, H * W) == NOT_DONE)
        return lab_clear(), LAB_NOT_DONE;
    cnn_graph  *g = cnn_new(.max_batch = N, .isa = CNN_ISA_PLAIN);
    cnn_tensor *in = cnn_input(g, C, H, W, .grad = 1);
    lab_net     n = lab_close(in, cnn_batch_norm(in), true);
    lab_inputs(&n, x.at, w.at, NULL, dy.at), lab_forward(&n);
    const bool ok = lab_added(&db, &db0, cnn_map_grad(n.y->in[2]), where)
                    && lab_added(&dw, &dw0, cnn_map_grad(n.y->in[1]), where)
                    && lab_added(&dx, &dx0, cnn_map_grad(n.x), where);
    cnn_free(g), lab_clear();
    return ok ? LAB_RIGHT : LAB_WRONG;
}
/* Speed: of bytes, x and dy counted once, dx read and written. */
typedef struct { lab_array x, dy, dx, dw, db, mean, rstd, w; } lab_norm_work;
static inline void lab_run_norm(void *user)
{
    const lab_norm_work *u = user;
    lab_norm_b(u->dx.at, u->dw.at, u->db.at, u->dy.at, u->x.at, u->mean.at, u->rstd.at, u->w.at,
               u->x.shape[0], u->x.shape[1], u->x.shape[2] * u->x.shape[3]);
}
static inline cnn_tensor *lab_norm(cnn_tensor *x) { return cnn_batch_norm(x); }
static inline void lab_time_norm(void)
{
    const cnn_shape s = { 8, 64, 32, 32 };
    const int       n = s.n, c = s.c, h = s.h, w = s.w;
    lab_norm_work   u = { lab_new("x", n, c, h, w), lab_new("dy", n, c, h, w), lab_new("dx", n, c, h, w),
                          lab_new("dw", c, 0, 0, 0), lab_new("db", c, 0, 0, 0), lab_new("mean", c, 0, 0, 0),
                          lab_new("rstd", c, 0, 0, 0), lab_new("w", c, 0, 0, 0) };
    lab_times t = { .yours = lab_median(lab_run_norm, &u) };
    lab_clear();
    t.plain = lab_time_op(s, lab_norm, CNN_ISA_PLAIN, NULL, true);
    t.own = lab_time_op(s, lab_norm, CNN_ISA_AUTO, NULL, true);
    lab_speed("8 samples of (64,32,32)", 16.0 * n * c * h * w, LAB_BYTES, t);
}
static inline int lab_batch_norm_backward(int argc, char **argv, lab_norm_fn *f)
{
    static const cnn_kernel rows[] = { { &cnn_op_batch_norm, NULL, NULL, lab_row_norm }, { 0 } };
    static const int fixed[3][4] = { { 8, 6, 28, 28 }, { 2, 64, 28, 28 }, { 32, 16, 1, 1 } };
    lab_verdict v = LAB_RIGHT;
    lab_begin(argc, argv, 6, "batch norm, backward");
    lab_norm_b = f;
    for (int i = 0; i < 3 && v == LAB_RIGHT; i++)
        v = lab_judge_norm(fixed[i][0], fixed[i][1], fixed[i][2], fixed[i][3]);
    lab_result("LeNet-5, ResNet-18, behind a dense layer", v, 40);
    if (v == LAB_WRONG) v = LAB_RIGHT;
    for (int i = 0; i < 12 && v == LAB_RIGHT; i++)
        v = lab_judge_norm(lab_int(2, 6), lab_int(1, 6), lab_int(1, 7), lab_int(1, 7));
    lab_result("12 random shapes", v, 40);
    if (v != LAB_NOT_DONE && !lab.judge_only) lab_time_norm();
    lab_fit(v != LAB_NOT_DONE, rows, NULL, true, 20);
    return lab_end();
}

/* ---- 10: the matrix product ---- */

typedef lab_answer lab_gemm_fn(float *c, const float *a, const float *b, int M, int N, int K);
static lab_gemm_fn *lab_gemm_f;

static inline lab_net lab_gemm_net(cnn_isa isa, const float *b, int M, int N, int K)
{
    cnn_graph  *g = cnn_new(.max_batch = M, .isa = isa, .inference = 1);
    cnn_tensor *x = cnn_input(g, K);
    return lab_close(x, cnn_matmul(x, cnn_const(g, ((cnn_shape){ K, N, 1, 1 }), b)), false);
}
static inline lab_verdict lab_judge_gemm(int M, int N, int K)
{
    lab_array a = lab_new("a", M, K, 0, 0), b = lab_new("b", K, N, 0, 0), c = lab_unset("c", M, N, 0, 0);
    char      where[80];
    snprintf(where, sizeof where, "a (%d,%d), b (%d,%d)", M, K, K, N);
    if (lab_gemm_f(c.at, a.at, b.at, M, N, K) == NOT_DONE) return lab_clear(), LAB_NOT_DONE;
    lab_net n = lab_gemm_net(CNN_ISA_PLAIN, b.at, M, N, K);
    lab_inputs(&n, a.at, NULL, NULL, NULL);
    const bool ok = lab_same(&c, lab_forward(&n), where);
    cnn_free(n.g), lab_clear();
    return ok ? LAB_RIGHT : LAB_WRONG;
}
typedef struct { lab_array a, b, c; int size; } lab_gemm_work;
static inline void lab_run_gemm(void *user)
{
    lab_gemm_work *u = user;
    lab_gemm_f(u->c.at, u->a.at, u->b.at, u->size, u->size, u->size);
}
static inline lab_times lab_gemm_time(void)
{
    enum { SIZE = 320 };
    lab_gemm_work u = { lab_new("a", SIZE, SIZE, 0, 0), lab_new("b", SIZE, SIZE, 0, 0),
                        lab_new("c", SIZE, SIZE, 0, 0), SIZE };
    lab_times     s = { .yours = lab_median(lab_run_gemm, &u) };
    for (int i = 0; i < 2; i++) {
        lab_net n = lab_gemm_net(i ? CNN_ISA_AUTO : CNN_ISA_PLAIN, u.b.at, SIZE, SIZE, SIZE);
        lab_inputs(&n, u.a.at, NULL, NULL, NULL);
        *(i ? &s.own : &s.plain) = lab_median(lab_run_forward, &n);
        cnn_free(n.g);
    }
    lab_clear();
    lab_speed("320 x 320 x 320", 2.0 * SIZE * SIZE * SIZE, LAB_FLOPS, s);
    return s;
}
/* Of dense: y = x w^T + b. */
static inline bool lab_row_gemm(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    const int n = y->shape.n, k = y->in[1]->shape.c, m = y->shape.c;
    float    *wt = malloc((size_t)k * (size_t)m * sizeof *wt);
    (void)none, (void)mode;
    for (int i = 0; wt && i < k * m; i++) wt[i] = y->in[1]->data[i % m * k + i / m];
    const bool ok = wt && lab_gemm_f(y->data, y->in[0]->data, wt, n, m, k) == DONE;
    for (int i = 0; ok && i < n * m; i++) y->data[i] += y->in[2]->data[i % m];
    free(wt);
    return ok;
}
static inline int lab_gemm(int argc, char **argv, lab_gemm_fn *f)
{
    static const cnn_kernel rows[] = { { &cnn_op_dense, NULL, lab_row_gemm, NULL }, { 0 } };
    static const int fixed[3][3] = { { 4, 4, 4 }, { 32, 120, 400 }, { 64, 196, 576 } };
    lab_begin(argc, argv, 10, "GEMM, fast");
    lab_gemm_f = f;
    bool all = true, done = true;
    for (int random = 0; random < 2; random++) {
        lab_verdict v = LAB_RIGHT;
        for (int i = 0; i < (random ? 12 : 3) && v == LAB_RIGHT; i++)
            v = random ? lab_judge_gemm(lab_int(1, 70), lab_int(1, 70), lab_int(1, 70))
                       : lab_judge_gemm(fixed[i][0], fixed[i][1], fixed[i][2]);
        all = lab_result(random ? "12 random shapes" : "4 x 4 x 4, LeNet-5, ResNet-18", v, 15) && all;
        done = v != LAB_NOT_DONE;
    }
    if (lab.judge_only) return lab_end();
    if (all) lab_speed_points("speed", lab_gemm_time());
    else     lab_tell("speed", done ? "WRONG" : "not done", 0, 60, done ? "first the right sums" : "");
    lab_fit(done, rows, NULL, false, 10);
    return lab_end();
}

/* ---- 11: conv2d in OpenCL ---- */

static inline int lab_conv2d_opencl(int argc, char **argv, lab_conv_forward_fn *f)
{
    static const cnn_kernel rows[] = { { &cnn_op_conv2d, NULL, lab_row_forward, NULL }, { 0 } };
    bool done;
    lab_begin(argc, argv, 11, "conv2d as an OpenCL kernel");
    lab_f = f;
    lab_conv_tests("", lab_judge_forward, 20, &done);
    if (done && !lab.judge_only) lab_conv_time(rows, false);
    lab_fit(done, rows, NULL, false, 20);
    return lab_end();
}

/* ---- 12: MPI ---- */

#ifdef LAB_MPI
typedef lab_answer lab_add_fn(float *grads, int count, float share);
static lab_add_fn *lab_add;

/* The worst verdict of all ranks, with the words of the first that is not content. */
static inline lab_verdict lab_agree(lab_verdict mine)
{
    int worst = (int)mine, from = mine == LAB_RIGHT ? lab.ranks : lab.rank;
    MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &from, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (from < lab.ranks) MPI_Bcast(lab.why, sizeof lab.why, MPI_CHAR, from, MPI_COMM_WORLD);
    return (lab_verdict)worst;
}
/* Every rank draws the arrays of all. weight[r]: samples of rank r. */
static inline lab_verdict lab_judge_sum(int count, const int *weight)
{
    float    *right = lab_memory((size_t)count);
    lab_array mine = lab_new("grads", count, 0, 0, 0);
    int       all = 0;
    for (int r = 0; r < lab.ranks; r++) all += weight[r];
    for (int i = 0; i < count; i++) right[i] = 0;
    for (int r = 0; r < lab.ranks; r++)
        for (int i = 0; i < count; i++) {
            const float v = (float)(2 * lab_uniform() - 1);
            if (weight[r]) right[i] += v * (float)weight[r] / (float)all;
            if (r == lab.rank) mine.at[i] = weight[r] ? v : NAN;
        }
    const lab_answer a = lab_add(mine.at, count, (float)weight[lab.rank] / (float)all);
    char where[80];
    snprintf(where, sizeof where, "%d gradients, rank %d of %d", count, lab.rank, lab.ranks);
    const bool ok = a == DONE && lab_same(&mine, right, where);
    lab_clear();
    return lab_agree(a == NOT_DONE ? LAB_NOT_DONE : ok ? LAB_RIGHT : LAB_WRONG);
}
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *logits, *loss; } lab_mpi_net;
static inline lab_mpi_net lab_mpi_build(int batch)              /* smooth: rounding cannot tip a relu */
{
    lab_mpi_net n = { .g = cnn_new(.max_batch = batch, .seed = 1, .threads = 1) };
    n.x = cnn_input(n.g, 1, 28, 28), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(n.x, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    n.logits = cnn_dense(cnn_tanh(cnn_dense(h, 84)), 10);
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    cnn_compile(n.g, n.loss);
    return n;
}
/* Ten batches of 8 samples a rank, the last with 5 in all; beside it a net that sees the whole batches. */
static inline lab_verdict lab_judge_training(void)
{
    const int   part = 8, whole = part * lab.ranks, samples = 9 * whole + 5;
    cnn_dataset all = lab_digits("train"), train = cnn_split(&all, 0, samples);
    lab_mpi_net mine = lab_mpi_build(part), one = lab_mpi_build(whole);
    lab_answer  a = DONE;
    for (int first = 0; first < samples && a == DONE; first += whole) {
        const int batch = samples - first < whole ? samples - first : whole;
        const int at = first + lab.rank * part, n = at < samples ? cnn_feed(mine.x, mine.t, &train, at) : 0;
        size_t    count;
        if (n) cnn_forward(mine.loss, CNN_TRAIN), cnn_backward(mine.loss);
        float *grads = cnn_flat_grads(mine.g, &count);
        if (!grads) { snprintf(lab.why, sizeof lab.why, "%s", cnn_error(mine.g)); break; }
        for (size_t i = 0; !n && i < count; i++) grads[i] = NAN;
        a = lab_add(grads, (int)count, (float)n / (float)batch);
        cnn_step(mine.g, .lr = 0.02f, .momentum = 0.9f);
        cnn_feed(one.x, one.t, &train, first);
        cnn_forward(one.loss, CNN_TRAIN), cnn_backward(one.loss);
        cnn_step(one.g, .lr = 0.02f, .momentum = 0.9f);
    }
    size_t       count = 0;
    const float *w = cnn_flat_params(mine.g, &count), *right = cnn_flat_params(one.g, &count);
    bool         ok = w && right;
    if (ok) {
        lab_array v = lab_new("weights", (int)count, 0, 0, 0);
        memcpy(v.at, w, count * sizeof *w);
        ok = lab_same(&v, right, "after ten updates");
    }
    cnn_free(mine.g), cnn_free(one.g), cnn_dataset_free(&train), cnn_dataset_free(&all), lab_clear();
    return lab_agree(a == NOT_DONE ? LAB_NOT_DONE : ok ? LAB_RIGHT : LAB_WRONG);
}
/* Speed: a million gradients. Beside it one rank that collects, adds and sends out; and MPI's sum alone. */
enum { LAB_SUMMED = 1000000 };
typedef struct { float *grads, *all; int what; } lab_sum_work;
static inline void lab_run_sum(const lab_sum_work *u)
{
    if (u->what == 0) lab_add(u->grads, LAB_SUMMED, 1.0f / (float)lab.ranks);
    if (u->what == 2) MPI_Allreduce(MPI_IN_PLACE, u->grads, LAB_SUMMED, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (u->what != 1) return;
    MPI_Gather(u->grads, LAB_SUMMED, MPI_FLOAT, u->all, LAB_SUMMED, MPI_FLOAT, 0, MPI_COMM_WORLD);
    for (int r = 1; lab.rank == 0 && r < lab.ranks; r++)
        for (int i = 0; i < LAB_SUMMED; i++) u->grads[i] += u->all[(size_t)r * LAB_SUMMED + (size_t)i];
    MPI_Bcast(u->grads, LAB_SUMMED, MPI_FLOAT, 0, MPI_COMM_WORLD);
}
static inline void lab_time_sum(void)
{
    enum { RUNS = 15 };
    lab_sum_work u = { lab_new("grads", LAB_SUMMED, 0, 0, 0).at,
                       lab.rank == 0 ? lab_memory((size_t)LAB_SUMMED * (size_t)lab.ranks) : NULL, 0 };
    double median[3], t[RUNS];
    for (; u.what < 3; u.what++) {
        for (int i = 0; i < LAB_SUMMED; i++) u.grads[i] = 1e-6f;
        for (int run = -1; run < RUNS; run++) {                 /* the slowest rank's time; one to warm up */
            MPI_Barrier(MPI_COMM_WORLD);
            double d = lab_seconds();
            lab_run_sum(&u);
            d = lab_seconds() - d;
            MPI_Allreduce(MPI_IN_PLACE, &d, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
            int i = run;
            for (; i > 0 && t[i - 1] > d; i--) t[i] = t[i - 1];
            if (i >= 0) t[i] = d;
        }
        median[u.what] = t[RUNS / 2];
    }
    lab_clear();
    if (!lab.quiet)
        lab_speed("a million gradients", 4.0 * LAB_SUMMED, LAB_BYTES,
                  (lab_times){ median[0], median[1], median[2], "a sum on rank 0", "MPI_Allreduce alone" });
}
/* Inside cnn_fit, which each rank calls with its part of the digits: SGD by what you make of dw. */
static inline void lab_update_sum(float *w, const float *dw, float *const *slot, size_t n,
                                  const cnn_step_args *a, long step)
{
    float *sum = lab_memory(n);
    memcpy(sum, dw, n * sizeof *sum);
    lab_add(sum, (int)n, 1.0f / (float)lab.ranks);
    cnn_sgd()->update(w, sum, slot, n, a, step);
    free(lab.store[--lab.stored]);
}
static inline int lab_mpi(int argc, char **argv, lab_add_fn *f)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &lab.rank), MPI_Comm_size(MPI_COMM_WORLD, &lab.ranks);
    lab.quiet = lab.rank > 0, lab_add = f;
    lab_begin(argc, argv, 12, "data-parallel training with MPI");
    if (lab.ranks < 2 || lab.ranks > 64) {
        if (!lab.quiet) printf("  2 to 64 ranks, please: mpirun -n 2 %s\n", argv[0]);
        MPI_Finalize();
        return 2;
    }
    int  weight[3][64];
    bool all = true;
    for (int r = 0; r < lab.ranks; r++)
        weight[0][r] = 8, weight[1][r] = r + 1, weight[2][r] = r == lab.ranks - 1 ? 0 : r + 3;
    static const char *const names[] = { "equal parts", "unequal parts", "a rank without samples" };
    for (int i = 0; i < 3; i++) {
        lab_verdict v = lab_judge_sum(1, weight[i]);
        if (v == LAB_RIGHT) v = lab_judge_sum(61706, weight[i]);
        all = lab_result(names[i], v, 20) && all;
    }
    const lab_verdict v = lab_judge_training();
    all = lab_result("ten updates of LeNet-5 beside one process", v, 20) && all;
    const cnn_optimizer rule = { "sgd_of_all", 1, lab_update_sum, cnn_sgd()->fields, NULL };
    if (all && !lab.judge_only) lab_time_sum();
    /* Wrong sums may stop one rank alone, for which the others would wait. */
    if (all || v == LAB_NOT_DONE) lab_fit(all, NULL, &rule, false, 20);
    else if (!lab.judge_only) lab_tell("inside cnn_fit", "WRONG", 0, 20, "first the right sums");
    MPI_Finalize();
    lab_end();
    return 0;                                           /* mpirun makes a page of words of anything else */
}
#endif

#endif
