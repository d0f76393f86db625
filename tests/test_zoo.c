/* examples/zoo.c: parameters and multiply-adds as published, AlexNet layer by layer, U-Net by its formula, four
   nets with torchvision's names and logits (tests/torch/make_zoo.py), and a training step of the small ones. */
#define main zoo_main
#include "zoo.h"                     /* examples/zoo.c without the implementation: see Makefile */
#undef main
#include "alloc.h"
#include "inside.h"
#include "test.h"

static const struct net *net(const char *name)
{
    for (int i = 0; i < N_NETS; i++)
        if (strcmp(nets[i].name, name) == 0) return &nets[i];
    fprintf(stderr, "test_zoo: there is no net %s\n", name), exit(2);
}

/* multiply_adds 0: only thousands of millions are published, with three digits. All rows from VGG16 on, but
   googlenet_aux and CIFAR's, are of torchvision 0.29 (num_params, _ops). */
static void as_published(void)
{
    static const struct { const char *name; int params; double multiply_adds, giga; } published[] = {
        { "mlp", 13002, 12960, 0 }, { "lenet5", 61706, 416520, 0 }, { "keras", 34826, 0, 0 },
        { "alexnet", 62378344, 1135256096, 0 }, { "alexnet_lrn", 60965224, 0, 0 },
        { "vgg16", 138357544, 15470264320, 15.470 }, { "vgg19", 143667240, 0, 19.632 },
        { "googlenet", 6624904, 1498376192, 1.498 }, { "googlenet_aux", 13004888, 0, 0 },
        { "resnet18", 11689512, 1814073344, 1.814 }, { "resnet34", 21797672, 0, 3.664 },
        { "resnet50", 25557032, 4089184256, 4.089 }, { "resnet101", 44549160, 0, 7.801 },
        { "resnet152", 60192808, 0, 11.514 }, { "resnet20", 269722, 0, 0 }, { "resnet56", 853018, 0, 0 },
        { "mobilenet_v2", 3504872, 0, 0.301 } };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        const struct net *n = net(published[i].name);
        T *x, *y, *t, *root;
        cnn_graph *g = build(n, n->build_heads == NULL, &x, &y, &t, &root);
        cnn_plan(g, root);
        CHECK_STR(cnn_error(g), NULL);
        CHECK_MSG(cnn_param_count(g) == (size_t)published[i].params, "%s has %zu parameters, not %d", n->name,
                  cnn_param_count(g), published[i].params);
        double macs = cnn_multiply_adds(g), want = published[i].multiply_adds, giga = published[i].giga;
        CHECK_MSG(want == 0 || macs == want, "%s has %.0f multiply-adds, not %.0f", n->name, macs, want);
        CHECK_MSG(giga == 0 || fabs(macs / 1e9 - giga) <= 0.0005, "%s has %.0f multiply-adds, not %.3fe9",
                  n->name, macs, giga);
        cnn_free(g);
    }
}

static void alexnet_layer_by_layer(void)
{
    static const struct { int side, channels, params; } want[] = {
        { 55,  96,    34944 }, { 27,  96, 0 },                                     /* conv, pool */
        { 27, 256,   614656 }, { 13, 256, 0 },
        { 13, 384,   885120 }, { 13, 384, 1327488 }, { 13, 256, 884992 }, { 6, 256, 0 },
        {  1, 4096, 37752832 }, { 1, 4096, 16781312 }, { 1, 1000, 4097000 } };     /* dense */
    T *x, *y, *t, *root;
    cnn_graph *g = build(net("alexnet"), 1, &x, &y, &t, &root);
    int layer = 0;
    cnn_plan(g, root);
    for (int i = 0; i < g->n_order; i++) {
        const T *l = &g->order[i]->t;
        size_t   params = 0;
        if (l->op != &cnn_op_conv2d && l->op != &cnn_op_max_pool && l->op != &cnn_op_dense) continue;
        if (!CHECK(layer < 11)) break;
        for (int k = 1; k < l->n_in; k++) params += cnn_count(l->in[k]);
        CHECK_INT(l->shape.h, want[layer].side);
        CHECK_INT(l->shape.w, want[layer].side);
        CHECK_INT(l->shape.c, want[layer].channels);
        CHECK_INT(params, want[layer].params);
        layer++;
    }
    CHECK_INT(layer, 11);
    cnn_free(g);
}

static int conv_params(int from, int to, int kernel) { return kernel * kernel * from * to + to; }
static void unet_by_its_formula(void)        /* figure 1 of the paper */
{
    T *x, *y, *t, *root;
    cnn_graph *g = build(net("unet"), 1, &x, &y, &t, &root);
    int want = conv_params(1, 64, 3) + conv_params(64, 64, 3) + conv_params(64, 2, 1);
    for (int c = 64; c < 1024; c *= 2)
        want += conv_params(c, 2 * c, 3) + conv_params(2 * c, 2 * c, 3) + conv_params(2 * c, c, 2)
              + conv_params(2 * c, c, 3) + conv_params(c, c, 3);
    cnn_plan(g, root);
    CHECK_INT(cnn_param_count(g), want);
    CHECK_INT(y->shape.c, 2);
    CHECK_INT(y->shape.h, 388);
    CHECK_INT(y->shape.w, 388);
    cnn_free(g);
}

/* ---- torchvision: the same function of names as in make_zoo.py ---- */

static double mixed(const char *name, size_t i)
{
    uint32_t z = 2166136261u;
    for (; *name; name++) z = (z ^ (unsigned char)*name) * 16777619u;
    z += (uint32_t)i;
    z = (z ^ z >> 16) * 0x7FEB352Du;
    z = (z ^ z >> 15) * 0x846CA68Bu;
    z ^= z >> 16;
    return (z >> 8) / 8388608.0 - 1;
}
static bool ends(const char *name, const char *with)
{
    size_t n = strlen(name), k = strlen(with);
    return n >= k && strcmp(name + n - k, with) == 0;
}
static void set_by_name(T *t)
{
    size_t n = cnn_count(t), fan_in = n / (size_t)t->shape.n;
    double factor = 0.1, offset = 0;
    float *v = cnn_map_write(t);
    if (t->shape.n > 1) factor = sqrt(6.0 / (double)fan_in);
    else if (ends(t->name, ".running_var")) factor = 0.5,  offset = 1;
    else if (ends(t->name, ".weight"))      factor = 0.25, offset = 0.75;
    for (size_t i = 0; v && i < n; i++) v[i] = (float)(offset + factor * mixed(t->name, i));
}
static void torchvision(const char *name, const float *want)
{
    enum { CLASSES = 1000 };
    T *x, *y, *t, *root;
    float  logits[CLASSES] = { 0 };
    double off = 0, size = 0;
    cnn_graph *g = build(net(name), 1, &x, &y, &t, &root);
    if (CHECK_MSG(cnn_compile(g, root), "%s", cnn_error(g))) {
        for (int i = 0; i < g->n_order; i++)
            for (int k = 0; k < g->order[i]->t.n_in; k++) {
                T *operand = g->order[i]->t.in[k];
                if (operand->kind == CNN_PARAM || operand->kind == CNN_BUFFER) set_by_name(operand);
            }
        float *pixels = cnn_map_write(x);
        for (size_t i = 0; pixels && i < cnn_count(x); i++) pixels[i] = (float)mixed("x", i);
        cnn_forward(y, CNN_EVAL);
        CHECK(cnn_get(y, logits, CLASSES));
    }
    for (int i = 0; i < CLASSES; i++) {
        off  = fmax(off, fabs((double)logits[i] - (double)want[i]));
        size = fmax(size, fabs((double)want[i]));
    }
    CHECK_MSG(size > 0 && off <= 1e-5 * size, "logits are %.1e of the largest apart", off / size);
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

/* ---- Training ---- */

static void a_step_lowers_the_loss(const char *name)
{
    T *x, *y, *t, *root;
    cnn_graph *g = build(net(name), 0, &x, &y, &t, &root);
    if (CHECK_MSG(cnn_compile(g, root), "%s", cnn_error(g))) {
        float *pixels = cnn_map_write(x);
        test_fill(pixels, cnn_count(x), -1, 1);
        cnn_set_labels(t, (int[]){ 0, 1 }, 2);
        float before = cnn_forward(root, CNN_TRAIN);
        cnn_backward(root), cnn_step(g, .lr = 0.01f);
        float after = cnn_forward(root, CNN_TRAIN);
        CHECK_MSG(after < before, "the loss was %g and is %g", (double)before, (double)after);
    }
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    alloc_most = SIZE_MAX;
    RUN(as_published);
    RUN(alexnet_layer_by_layer);
    RUN(unet_by_its_formula);
    cnn_dataset golden = cnn_load_npy("tests/torch/zoo.npy", NULL);
    static const char *const order[] = { "googlenet", "resnet18", "resnet50", "mobilenet_v2" };
    for (int i = 0; i < 4; i++)
        if (test_begin("torchvision's %s", order[i])
            && CHECK_MSG(golden.count == 4 && golden.shape.c == 1000, "%s (run from the top of the repository)",
                         golden.error))
            torchvision(order[i], golden.floats + 1000 * i);
    cnn_dataset_free(&golden);
    static const char *const small[] = { "mlp", "lenet5", "codelab", "resnet20", "resnet56" };
    for (int i = 0; i < 5; i++)
        if (test_begin("a step of %s lowers the loss", small[i])) a_step_lowers_the_loss(small[i]);
    return test_end();
}
