/* Portions of a batch (see >>fusion): a convolution and the max pooling behind it, run for 16 samples after the other,
   give what the plain loops give for the batch at once, values and gradients; the same bits for any number of threads;
   what only the last portion is left of cannot be read; infinities reach what they reach otherwise. And micro-batches. */
#include "cnn.h"
#include "test.h"

enum { SIDE = 28, PIXELS = SIDE * SIDE, BATCH = 71, CHANNELS = 32 };       /* 32 26x26 planes for 71 samples: more than 4 MB */
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *act, *h, *y, *loss; } net;
/* BEHIND another convolution, so that x wants a gradient; LOUD: a gradient is infinite. */
enum { RELU = 1, BEHIND = 2, KEEP = 4, LOUD = 8 };

static net net_of(cnn_isa isa, int threads, int how, int pad)
{
    net n = { .g = cnn_new(.max_batch = BATCH, .seed = 5, .threads = threads, .isa = isa) };
    n.x = cnn_input(n.g, 1, SIDE, SIDE), n.t = cnn_labels(n.g);
    cnn_tensor *h = how & BEHIND ? cnn_conv2d(n.x, 3, 3, .pad = 1) : n.x;
    n.act = cnn_conv2d(h, CHANNELS, 3, .pad = pad, .name = "conv");
    if (how & RELU) n.act = cnn_relu(n.act);
    if (how & KEEP) cnn_keep(n.act);
    n.h = cnn_keep(cnn_max_pool(n.act, 2));
    n.y = cnn_dense(n.h, 10);
    float *factor = test_alloc(CHANNELS * 14 * 14 * sizeof *factor);
    for (int i = 0; i < CHANNELS * 14 * 14; i++) factor[i] = i ? 1 : INFINITY;
    n.loss = how & LOUD ? cnn_mean(cnn_mul(n.h, cnn_const(n.g, ((cnn_shape){ 1, CHANNELS, 14, 14 }), factor)))
                        : cnn_softmax_cross_entropy(n.y, n.t);
    free(factor);
    cnn_compile(n.g, n.loss);
    return n;
}
static void feed(net n, int batch, float special)
{
    static float x[BATCH * PIXELS];
    int labels[BATCH];
    for (int i = 0; i < batch * PIXELS; i++) x[i] = (float)(i * 7919 % 1009) / 500 - 1;
    if (special != 0) x[(batch - 2) * PIXELS + 30] = special;
    for (int i = 0; i < batch; i++) labels[i] = i % 10;
    cnn_set(n.x, x, (size_t)(batch * PIXELS)), cnn_set_labels(n.t, labels, (size_t)batch);
}
static void near(const char *what, const float *a, const float *b, size_t n, double tolerance)
{
    double largest = 0, most = 0;
    for (size_t i = 0; a && b && i < n; i++)
        largest = fmax(largest, fabs((double)b[i])), most = fmax(most, fabs((double)a[i] - (double)b[i]));
    CHECK_MSG(a && b && most <= tolerance * largest, "%s: error %g of %g", what, most, largest);
}

/* Two nets, the second without portions: values, in both modes, and gradients. */
static void same(net a, net b, int batch, float special, double tolerance)
{
    static const char *const names[] = { "conv.weight", "conv.bias" };
    feed(a, batch, special), feed(b, batch, special);
    for (int mode = 0; mode < 2; mode++) {
        cnn_forward(a.loss, mode ? CNN_TRAIN : CNN_EVAL), cnn_forward(b.loss, mode ? CNN_TRAIN : CNN_EVAL);
        near("the pooling", cnn_map_read(a.h), cnn_map_read(b.h), special != 0 ? 0 : cnn_count(b.h), tolerance);
        near("logits", cnn_map_read(a.y), cnn_map_read(b.y), special != 0 ? 0 : cnn_count(b.y), tolerance);
    }
    cnn_backward(a.loss), cnn_backward(b.loss);
    for (int i = 0; i < 2; i++) {
        cnn_tensor  *w = cnn_find(a.g, names[i]), *v = cnn_find(b.g, names[i]);
        const float *p = cnn_map_grad(w), *q = cnn_map_grad(v);
        bool finite = true;
        for (size_t k = 0; p && q && k < cnn_count(v); k++) {
            CHECK_MSG(isfinite(p[k]) == isfinite(q[k]), "%s[%d]: %g, %g", names[i], (int)k, (double)p[k], (double)q[k]);
            finite = finite && isfinite(q[k]);
        }
        if (finite) near(names[i], p, q, cnn_count(v), tolerance);
    }
    CHECK_STR(cnn_error(a.g), NULL), CHECK_STR(cnn_error(b.g), NULL);
}

static void as_a_whole(void)
{
    for (int how = 0; how < 4; how++)
        for (int pad = 0; pad < 2; pad++) {
            net a = net_of(CNN_ISA_AUTO, 1, how, pad), b = net_of(CNN_ISA_AUTO, 1, how | KEEP, pad);
            for (int batch = BATCH; batch > 60; batch -= 7) same(a, b, batch, 0, 2e-5);
            same(a, b, 3, 0, 2e-5);                                                 /* too few: at once */
            cnn_free(a.g), cnn_free(b.g);
        }
    static const cnn_isa isa[] = { CNN_ISA_C, CNN_ISA_NEON, CNN_ISA_AVX2, CNN_ISA_AVX512 };
    for (int i = 0; i < 4; i++) {
        net a = net_of(isa[i], 1, RELU, 0), b = net_of(CNN_ISA_PLAIN, 1, RELU, 0);
        if (!cnn_error(a.g)) same(a, b, BATCH, 0, 1e-4);
        cnn_free(a.g), cnn_free(b.g);
    }
}

static void same_bits(void)
{
    float w[2][CHANNELS * 9];
    for (int i = 0; i < 2; i++) {
        net a = net_of(CNN_ISA_AUTO, i ? 3 : 1, RELU, 1);
        feed(a, BATCH, 0);
        for (int step = 0; step < 3; step++)
            cnn_forward(a.loss, CNN_TRAIN), cnn_backward(a.loss), cnn_step(a.g, .lr = 0.1f);
        CHECK(cnn_get(cnn_find(a.g, "conv.weight"), w[i], CHANNELS * 9));
        cnn_free(a.g);
    }
    CHECK(!memcmp(w[0], w[1], sizeof w[0]));
}

/* What the portions leave is not to be read, but everything else; who asks for the value itself gets it. */
static void reading(void)
{
    net a = net_of(CNN_ISA_AUTO, 1, RELU, 0), b = net_of(CNN_ISA_AUTO, 1, RELU | KEEP, 0);
    feed(a, BATCH, 0), feed(b, BATCH, 0);
    cnn_forward(a.loss, CNN_TRAIN), cnn_forward(b.loss, CNN_TRAIN);
    CHECK(cnn_map_read(b.act) && !cnn_map_read(a.act));
    CHECK(cnn_error(a.g) && strstr(cnn_error(a.g), "its memory has been used again"));
    cnn_clear_error(a.g);
    CHECK(cnn_map_read(a.h) && cnn_map_read(a.y));
    cnn_forward(a.act, CNN_TRAIN);
    near("the value", cnn_map_read(a.act), cnn_map_read(b.act), cnn_count(b.act), 1e-6);
    cnn_forward(a.loss, CNN_TRAIN);                     /* again in portions; nor are they where somebody looks on */
    CHECK(!cnn_map_read(a.act));
    cnn_clear_error(a.g);
    feed(a, 16, 0), feed(b, 16, 0);
    cnn_forward(a.loss, CNN_TRAIN), cnn_forward(b.loss, CNN_TRAIN);
    near("of few", cnn_map_read(a.act), cnn_map_read(b.act), cnn_count(b.act), 1e-6);
    CHECK_STR(cnn_error(a.g), NULL);
    cnn_free(a.g), cnn_free(b.g);
}

/* An infinity: the gradients that are finite otherwise are finite here. */
static void infinities(void)
{
    for (int how = 0; how < 2; how++) {
        net a = net_of(CNN_ISA_AUTO, 1, how, 1), b = net_of(CNN_ISA_AUTO, 1, how | KEEP, 1);
        same(a, b, BATCH, INFINITY, 1e-5), same(a, b, BATCH, -INFINITY, 1e-5), same(a, b, BATCH, NAN, 1e-5);
        cnn_free(a.g), cnn_free(b.g);
    }
    /* All pixels are 0, so that an infinite gradient meets the first pixel of each image: the taps that meet the
       padding there have the gradient 0, the others 0 times infinity. */
    static float zero[BATCH * PIXELS];
    net a = net_of(CNN_ISA_AUTO, 2, LOUD, 1);
    CHECK(cnn_set(a.x, zero, BATCH * PIXELS));
    cnn_forward(a.loss, CNN_TRAIN), cnn_backward(a.loss);
    const float *dw = cnn_map_grad(cnn_find(a.g, "conv.weight"));
    for (int i = 0; dw && i < CHANNELS * 9; i++)
        CHECK_MSG(i < 9 && i > 3 && i != 6 ? isnan(dw[i]) : dw[i] == 0, "dw[%d] is %g", i, (double)dw[i]);
    CHECK_STR(cnn_error(a.g), NULL);
    cnn_free(a.g);
}

/* ---- Micro-batches: a graph for inference, whose values are larger than 2 MB a sample ---- */

enum { WIDE = 160, MOST = 21, WIDE_PIXELS = 3 * WIDE * WIDE };
typedef struct { cnn_graph *g; cnn_tensor *x, *kept, *inside, *logits, *y; } large;

/* An operation of somebody else's: on the batch as a whole, or, if it says so, sample by sample. */
static int calls, samples_seen;
static bool same_shape(cnn_tensor *y) { y->shape = y->in[0]->shape; return true; }
static void copies(cnn_tensor *y, cnn_mode mode)
{
    (void)mode;
    calls++, samples_seen += y->shape.n;
    memcpy(y->data, y->in[0]->data, (size_t)y->shape.n * (size_t)(y->shape.c * y->shape.h * y->shape.w) * sizeof(float));
}
static const cnn_op together = { .name = "together", .shape = same_shape, .forward = copies };
static const cnn_op each = { .name = "each", .shape = same_shape, .forward = copies, .flags = CNN_BY_SAMPLE };

/* whole: for training, so that nothing is in micro-batches; 2: without packed weights, to the same bits. */
static large large_of(cnn_isa isa, int threads, int max_batch, const cnn_op *own, int whole)
{
    large n = { .g = cnn_new(.max_batch = max_batch, .seed = 5, .threads = threads, .isa = isa, .inference = whole != 1,
                            .no_packed = whole == 2) };
    n.x = cnn_input(n.g, 3, WIDE, WIDE);
    cnn_tensor *one = cnn_param(n.g, "one", ((cnn_shape){ 1, 24, 1, 1 }), .init = CNN_INIT_CONSTANT, .gain = 1);
    cnn_tensor *scale = cnn_relu(cnn_scale(one, 0.5f));                        /* of no sample */
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 24, 3, .pad = 1, .no_bias = 1)));
    n.inside = cnn_mul(h, scale);
    h = cnn_max_pool(cnn_relu(cnn_add(n.inside, cnn_conv2d(n.inside, 24, 1))), 2);
    n.kept = h = cnn_keep(cnn_relu(cnn_conv2d(h, 8, 3, .stride = 2)));
    if (own) h = cnn_apply(own, &h, 1, NULL, CNN_HERE);
    n.logits = cnn_dense(cnn_global_avg_pool(h), 5);
    n.y = cnn_softmax(n.logits);
    if (whole == 1) n.y = cnn_mean(n.logits);
    const bool compiled = cnn_compile(n.g, n.y);
    CHECK_MSG(compiled || (cnn_error(n.g) && strstr(cnn_error(n.g), "lacks the instruction set")), "%s", cnn_error(n.g));
    return n;
}
static void feed_large(large n, int from, int batch)
{
    static float x[MOST * WIDE_PIXELS];
    for (int i = 0; i < batch * WIDE_PIXELS; i++) x[i] = (float)((i + from * WIDE_PIXELS) * 7919LL % 1009) / 500 - 1;
    CHECK(cnn_set(n.x, x, (size_t)(batch * WIDE_PIXELS)));
}

/* Batches of every kind of rest beside one sample at a time; inputs, kept values and results are whole. */
static void micro_batches(void)
{
    static const cnn_isa isa[] = { CNN_ISA_AUTO, CNN_ISA_C, CNN_ISA_NEON, CNN_ISA_AVX2, CNN_ISA_AVX512 };
    static const int     batch[] = { MOST, 9, 8, 16, 3, 17 };
    float kept[MOST][2], y[MOST][5];
    for (int k = 0; k < 5; k++) {
        large one = large_of(isa[k], 1, 1, NULL, 0), all = large_of(isa[k], 2, MOST, NULL, 0);
        const bool lacks = cnn_error(one.g) != NULL;
        for (int i = 0; i < MOST && !lacks; i++) {
            feed_large(one, i, 1), cnn_forward(one.y, CNN_EVAL);
            CHECK(cnn_get(one.y, y[i], 5));
            memcpy(kept[i], cnn_map_read(one.kept), sizeof kept[i]);
        }
        for (int b = 0; b < 6 && !lacks; b++) {
            feed_large(all, 0, batch[b]), cnn_forward(all.y, CNN_EVAL);
            const size_t sample = cnn_count(all.kept) / (size_t)batch[b];
            near("results", cnn_map_read(all.y), y[0], cnn_count(all.y), 1e-5);
            for (int i = 0; i < batch[b]; i++) near("kept", cnn_map_read(all.kept) + (size_t)i * sample, kept[i], 2, 1e-5);
            CHECK_STR(cnn_error(all.g), NULL);
        }
        cnn_free(one.g), cnn_free(all.g);
    }
}

/* The same bits for any number of threads, and in a view; an operation of somebody else's gets all samples,
   unless it says that it needs them one by one; what passes cannot be read, and takes less memory. */
static void of_micro_batches(void)
{
    float y[4][MOST * 5];
    for (int i = 0; i < 3; i++) {
        large n = large_of(CNN_ISA_AUTO, i ? 3 : 1, MOST, i < 2 ? NULL : &together, 0);
        cnn_graph *view = cnn_share(n.g, .threads = 2);
        feed_large(n, 0, MOST), calls = samples_seen = 0;
        cnn_forward(n.y, CNN_EVAL);
        CHECK(cnn_get(n.y, y[i], MOST * 5));
        if (i == 2) CHECK_INT(calls, 1), CHECK_INT(samples_seen, MOST);
        large v = { view, cnn_find(view, n.x->name), NULL, NULL, NULL, cnn_find(view, n.y->name) };
        feed_large(v, 0, MOST), cnn_forward(v.y, CNN_EVAL);
        CHECK(cnn_get(v.y, y[3], MOST * 5) && !memcmp(y[3], y[i], sizeof y[3]));
        CHECK_STR(cnn_error(view), NULL);
        cnn_free(view);
        for (int k = 0; k < 2; k++) {                                           /* asked for itself, too */
            CHECK(!cnn_map_read(n.inside) && strstr(cnn_error(n.g), "cnn_keep it before cnn_compile") && !strstr(cnn_error(n.g), "itself"));
            cnn_clear_error(n.g), cnn_forward(n.inside, CNN_EVAL);
        }
        feed_large(n, 0, 2), cnn_forward(n.inside, CNN_EVAL);
        CHECK(cnn_map_read(n.inside));
        CHECK_STR(cnn_error(n.g), NULL);
        large few = large_of(CNN_ISA_AUTO, 1, 8, NULL, 0);
        CHECK(cnn_plan(n.g, n.y).activations < cnn_plan(few.g, few.y).activations * 3 / 2);
        cnn_free(n.g), cnn_free(few.g);
    }
    CHECK(!memcmp(y[0], y[1], sizeof y[0]));
    large n = large_of(CNN_ISA_AUTO, 1, MOST, &each, 0);
    feed_large(n, 0, MOST), calls = samples_seen = 0;
    cnn_forward(n.y, CNN_EVAL);
    CHECK(cnn_get(n.y, y[1], MOST * 5));
    CHECK_INT(calls, 3), CHECK_INT(samples_seen, MOST);                       /* 7, 7, 7 */
    near("an operation of somebody else's", y[2], y[1], MOST * 5, 1e-6);
    cnn_free(n.g);
}

/* A convolution and its pooling in portions, within micro-batches of 112 samples, beside one sample at a time. */
static void portions_of_micro_batches(void)
{
    enum { MANY = 201 };
    static float x[MANY * PIXELS], one[CHANNELS * 13 * 13];
    cnn_tensor *in[2], *h[2];
    cnn_graph  *g[2];
    for (int i = 0; i < 2; i++) {
        g[i] = cnn_new(.max_batch = i ? 1 : MANY, .seed = 5, .inference = 1);
        in[i] = cnn_input(g[i], 1, SIDE, SIDE);
        h[i] = cnn_keep(cnn_max_pool(cnn_relu(cnn_conv2d(in[i], CHANNELS, 3)), 2));
        CHECK_MSG(cnn_compile(g[i], cnn_dense(h[i], 10)), "no memory");
    }
    test_fill(x, MANY * PIXELS, -1, 1);
    CHECK(cnn_set(in[0], x, MANY * PIXELS));
    cnn_forward(cnn_loss(g[0]), CNN_EVAL);
    const float *all = cnn_map_read(h[0]);
    for (int i = 0; i < MANY && all; i++) {
        CHECK(cnn_set(in[1], x + i * PIXELS, PIXELS));
        cnn_forward(h[1], CNN_EVAL);
        CHECK(cnn_get(h[1], one, CHANNELS * 13 * 13));
        near("a sample", all + (size_t)i * CHANNELS * 13 * 13, one, CHANNELS * 13 * 13, 2e-5);
    }
    for (int i = 0; i < 2; i++) CHECK_STR(cnn_error(g[i]), NULL), cnn_free(g[i]);
}

/* Whose bits are promised to be those of a graph for training runs at once, as that does. */
static void at_once(void)
{
    enum { FEW = 12 };
    float y[3][FEW * 5];
    for (int i = 0; i < 3; i++) {                           /* a graph for training, a view of it; .no_packed */
        large      n = large_of(CNN_ISA_AUTO, 1, FEW, NULL, i < 2 ? 1 : 2);
        cnn_graph *view = i == 1 ? cnn_share(n.g) : NULL;
        large      of = { .g = view ? view : n.g, .x = n.x, .logits = n.logits, .inside = n.inside };
        if (view) of.x = cnn_find(view, n.x->name), of.logits = cnn_find(view, n.logits->name), of.inside = cnn_find(view, n.inside->name);
        feed_large(of, 0, FEW), cnn_forward(of.logits, CNN_EVAL);
        CHECK(cnn_get(of.logits, y[i], FEW * 5));
        cnn_forward(of.inside, CNN_EVAL);
        CHECK(cnn_map_read(of.inside));
        CHECK_STR(cnn_error(of.g), NULL);
        cnn_free(view), cnn_free(n.g);
    }
    CHECK(!memcmp(y[0], y[1], sizeof y[0]) && !memcmp(y[0], y[2], sizeof y[0]));
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(as_a_whole);
    RUN(same_bits);
    RUN(reading);
    RUN(infinities);
    RUN(micro_batches);
    RUN(of_micro_batches);
    RUN(portions_of_micro_batches);
    RUN(at_once);
    return test_end();
}
