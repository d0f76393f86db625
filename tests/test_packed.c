/* Weights packed once (graphs for inference, and views): the result of those that are packed in every run, for every
   algorithm of convolution and batch, after each way in which a weight changes; the bytes are counted in the plan; every
   allocation made to fail in turn. */
#include "cnn.h"
#include "alloc.h"
#include "test.h"
#include "inside.h"

enum { SIDE = 16, PIXELS = 3 * SIDE * SIDE, CLASSES = 5, MOST = 32 };
typedef struct { cnn_graph *g; cnn_tensor *x, *y; } net;

static cnn_tensor *unit(cnn_tensor *x, int channels, int kernel, int stride, int groups)
{
    return cnn_batch_norm(cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .groups = groups));
}

/* Convolutions of all kinds, most of them with batch norm behind; what follows that: nothing, relu, add and relu. */
static net net_of(cnn_config config)
{
    net n = { .g = cnn_new_(config) };
    n.x = cnn_input(n.g, 3, SIDE, SIDE);
    cnn_tensor *h = cnn_relu(unit(n.x, 16, 3, 1, 1));                            /* direct */
    h = cnn_relu(cnn_add(unit(h, 16, 3, 1, 1), h));                             /* winograd 4x4 */
    h = cnn_relu(cnn_add(h, unit(h, 16, 5, 1, 1)));                             /* winograd 2x2 */
    h = cnn_relu6(unit(unit(h, 32, 1, 1, 1), 32, 3, 1, 32));                     /* 1x1 gemm, depthwise rows */
    h = cnn_add(unit(h, 32, 3, 2, 32), cnn_conv2d(h, 32, 1, .stride = 2));       /* depthwise; direct, no norm */
    h = cnn_leaky_relu(cnn_keep(unit(h, 12, 3, 2, 4)));                         /* groups; what is read stays */
    cnn_tensor *c = cnn_keep(cnn_conv2d(h, 40, 3, .pad = 1, .name = "kept"));   /* images side by side */
    h = cnn_relu(cnn_batch_norm(c));
    n.y = cnn_dense(h, CLASSES, .name = "out");
    cnn_compile(n.g, config.inference ? n.y : cnn_mean(cnn_mul(n.y, n.y)));
    return n;
}
static net inference(int batch, int no_packed)
{
    return net_of((cnn_config){ .at = CNN_HERE, .max_batch = batch, .seed = 3, .threads = 2, .inference = 1,
                                .no_packed = no_packed });
}

static const float *run(net n, int batch)
{
    static float x[MOST * PIXELS];
    for (int i = 0; i < batch * PIXELS; i++) x[i] = (float)(i * 7919 % 1000) / 500 - 1;
    cnn_set(n.x, x, (size_t)(batch * PIXELS));
    cnn_forward(n.y, CNN_EVAL);
    return cnn_map_read(n.y);
}

/* The same but for rounding, which is of the size of the largest. */
static void near(cnn_tensor *u, cnn_tensor *v)
{
    const float *p = cnn_map_read(u), *q = cnn_map_read(v);
    double largest = 0, most = 0;
    for (size_t i = 0; p && q && i < cnn_count(v); i++)
        largest = fmax(largest, fabs((double)q[i])), most = fmax(most, fabs((double)p[i] - (double)q[i]));
    CHECK_MSG(p && q && most <= 1e-5 * largest, "%s: error %g of %g", v->name, most, largest);
}

/* Both give the same, and something else than before. */
static void both(net a, net b, int batch, float *before, const char *what)
{
    const float *p = run(a, batch), *q = run(b, batch);
    CHECK_STR(cnn_error(a.g), NULL), CHECK_STR(cnn_error(b.g), NULL);
    if (!p || !q) return;
    double largest = 0, most = 0, change = 0;
    for (int i = 0; i < batch * CLASSES; i++) {
        largest = fmax(largest, fabs((double)q[i])), most = fmax(most, fabs((double)p[i] - (double)q[i]));
        if (i < CLASSES) change = fmax(change, fabs((double)p[i] - (double)before[i])), before[i] = p[i];
    }
    CHECK_MSG(most <= 1e-5 * largest && change > 0, "%s, batch %d: error %g of %g, change %g", what,
              batch, most, largest, change);
}

/* Running statistics and factors that are not those of the start, the same in both. */
static void stir(cnn_graph *g)
{
    unsigned k = 1;
    for (int i = 0; cnn_node(g, i); i++) {
        cnn_tensor *t = cnn_node(g, i);
        if (t->kind != CNN_BUFFER && (t->kind != CNN_PARAM || t->shape.n != 1)) continue;
        float *v = cnn_map_write(t);
        for (size_t e = 0; e < cnn_count(t); e++)
            k = k * 1664525u + 1013904223u, v[e] = 0.5f + (float)(k >> 8) / 16777216.0f;
    }
}

static void each_way_of_writing_a_weight(void)
{
    static const int batch[] = { 1, 2, 8, MOST };
    for (int k = 0; k < 4; k++) {
        net a = inference(batch[k], 0), b = inference(batch[k], 1), c = inference(batch[k], 0);
        float before[CLASSES] = { 0 }, w[16 * 3 * 9];
        stir(a.g), stir(b.g), both(a, b, batch[k], before, "stirred");
        stir(c.g);
        for (int i = 0; i < 16 * 3 * 9; i++) w[i] = (float)(i % 7) - 3;
        for (int i = 0; i < 2; i++) cnn_set(cnn_find(i ? a.g : b.g, "conv2d1.weight"), w, 16 * 3 * 9);
        both(a, b, batch[k], before, "cnn_set");
        static const char *const names[] = { "conv2d2.weight", "conv2d3.weight", "conv2d4.weight", "conv2d5.weight",
            "conv2d6.weight", "conv2d7.weight", "conv2d8.weight", "kept.weight", "conv2d2.bias", "batch_norm2.weight",
            "batch_norm3.bias", "batch_norm4.running_mean", "batch_norm5.running_var", "out.bias" };
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            cnn_tensor *p = cnn_find(a.g, names[i]), *q = cnn_find(b.g, names[i]);
            if (!CHECK_MSG(p && q, "%s", names[i])) continue;
            cnn_map_write(p)[0] += 1, cnn_map_write(q)[0] += 1;
            both(a, b, batch[k], before, names[i]);
        }
        const size_t bytes = cnn_save_memory(c.g, NULL, 0);
        void *file = test_alloc(bytes);
        cnn_save_memory(c.g, file, bytes);
        CHECK(cnn_load_weights_memory(file, bytes, (cnn_load_weights_args){ .g = a.g, .path = "" }) && cnn_load_weights_memory(file, bytes, (cnn_load_weights_args){ .g = b.g, .path = "" }));
        both(a, b, batch[k], before, "loaded");
        for (int part = batch[k]; part > 1; part -= part / 2) before[0]++, both(a, b, part, before, "a part of the batch");
        free(file), cnn_free(a.g), cnn_free(b.g), cnn_free(c.g);
    }
}

/* What a training graph learns reaches its views: by cnn_step, the running statistics of CNN_TRAIN, the flat vector and
   the average. */
static void what_a_net_learns_reaches_its_views(void)
{
    net n = net_of((cnn_config){ .at = CNN_HERE, .max_batch = 8, .seed = 3, .threads = 2 });
    cnn_graph *g = cnn_share(n.g), *again = cnn_share(g);
    net view = { g, cnn_find(g, n.x->name), cnn_find(g, n.y->name) };
    net second = { again, cnn_find(again, n.x->name), cnn_find(again, n.y->name) };
    float before[CLASSES] = { 0 };
    size_t count;
    for (int i = 0; i < 5; i++) {
        run(n, 8);
        if (i < 2) cnn_forward(cnn_loss(n.g), CNN_TRAIN);
        if (i == 1) cnn_backward(cnn_loss(n.g)), cnn_step(n.g, .lr = 0.1f), cnn_average(n.g, 0.5f);
        if (i == 2) cnn_flat_params(n.g, &count)[0] += 1;
        if (i == 3) CHECK(cnn_swap_average(n.g));
        if (i == 4) cnn_map_write(cnn_find(n.g, "conv2d1.weight"))[5] += 1;
        both(view, n, 8, before, "a view");
        CHECK_SAME_BITS(run(second, 8), run(view, 8), 8 * CLASSES);
        CHECK_SAME_BITS(run(view, 8), run(n, 8), 8 * CLASSES);
    }
    cnn_free(again), cnn_free(g), cnn_free(n.g);
}

/* Every algorithm of convolution is among those that the tests above have run. */
static void every_algorithm_is_met(void)
{
    static const char *const want[] = { "winograd 4x4", "winograd 2x2", "depthwise rows", "direct, images side by side",
                                        "1x1 gemm", "depthwise", "direct" };
    bool met[7] = { false };
    for (int batch = 1; batch <= MOST; batch *= 2) {
        net n = inference(batch, 0);
        if (n.g->cpu.isa == CNN_ISA_PLAIN) { cnn_free(n.g); return; }
        for (int i = 0; cnn_node(n.g, i); i++) {
            const cnn_tensor *t = cnn_node(n.g, i);
            for (int k = 0; k < 7 && t->op && t->op->algorithm; k++) met[k] |= !strcmp(t->op->algorithm(t), want[k]);
        }
        cnn_free(n.g);
    }
    for (int k = 0; k < 7; k++) CHECK_MSG(met[k], "%s", want[k]);
}

/* The plan counts them; nothing without inference, with no_packed, or on the plain loops; and a tensor in between, a
   kept one, and a run that is looked on are right. */
static void the_plan_counts_them(void)
{
    net a = inference(4, 0), b = inference(4, 1), t = net_of((cnn_config){ .at = CNN_HERE, .max_batch = 4 });
    net p = net_of((cnn_config){ .at = CNN_HERE, .max_batch = 4, .isa = CNN_ISA_PLAIN, .inference = 1 });
    const cnn_memory m = cnn_plan(a.g, a.y), none = cnn_plan(b.g, b.y);
    CHECK(none.packed == 0 && cnn_plan(p.g, p.y).packed == 0 && cnn_plan(t.g, cnn_loss(t.g)).packed == 0);
    if (a.g->cpu.isa != CNN_ISA_PLAIN) CHECK(m.packed > 0);
    CHECK_INT(m.total, m.params + m.buffers + m.inputs + m.activations + m.packed + m.scratch);
    stir(a.g), stir(b.g);
    for (int i = 0; cnn_node(b.g, i); i++) {
        cnn_tensor *u = cnn_node(a.g, i), *v = cnn_node(b.g, i);
        if (!v->op) continue;
        run(a, 4), run(b, 4);                                                   /* as a whole, then up to here */
        cnn_forward(u, CNN_EVAL), cnn_forward(v, CNN_EVAL);
        near(u, v);
    }
    run(a, 4), run(b, 4);
    for (int i = 0; cnn_node(b.g, i); i++)
        if (cnn_node(b.g, i)->kept)
            near(cnn_node(a.g, i), cnn_node(b.g, i));
    FILE *null = tmpfile();
    CHECK(null && cnn_profile(a.y, 2, null) >= 0 && !fclose(null));
    float before[CLASSES] = { 0 };
    both(a, b, 4, before, "after a profile");
    cnn_free(a.g), cnn_free(b.g), cnn_free(t.g), cnn_free(p.g);
}

static void every_allocation_fails(void)
{
    net n = inference(2, 0);
    const long live = alloc_live, first = alloc_count;
    cnn_free(inference(2, 0).g);
    const long count = alloc_count - first;
    for (long i = 1; i <= count; i++) {
        alloc_fail = alloc_count + i;
        net f = inference(2, 0);
        alloc_fail = 0;
        CHECK_MSG(cnn_error(f.g) && strstr(cnn_error(f.g), "out of memory"), "allocation %ld", i);
        cnn_free(f.g);
        CHECK_INT(alloc_live, live);
    }
    const long compiled = alloc_count;
    run(n, 2), run(n, 1);
    CHECK_INT(alloc_count, compiled);                                           /* a run allocates nothing */
    cnn_free(n.g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(each_way_of_writing_a_weight);
    RUN(what_a_net_learns_reaches_its_views);
    RUN(every_algorithm_is_met);
    RUN(the_plan_counts_them);
    RUN(every_allocation_fails);
    return test_end();
}
