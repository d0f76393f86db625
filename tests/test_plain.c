/* test_plain.c - whole nets on the plain loops (CNN_ISA_PLAIN), 20 training steps beside the fast kernels of each
   instruction set that this machine has: LeNet-5, ResNet-20 and MobileNetV2, each with an optimizer of its own.
   The loss of each step must agree, and in the end how far every parameter has moved. */
#define main zoo_main
#include "zoo.h"                     /* examples/zoo.c without the implementation: see Makefile */
#undef main
#include "test.h"

enum { STEPS = 20 };
typedef struct { double loss[STEPS], eval; float *w0, *w; size_t n; } run;

static run train(cnn_isa isa, T *(*net_of)(T *), cnn_shape s, int classes, const cnn_optimizer *rule, float lr)
{
    run        r = { { 0 }, NAN, NULL, NULL, 0 };
    cnn_graph *g = cnn_new(.max_batch = s.n, .seed = 3, .isa = isa, .optimizer = rule);
    T         *x = cnn_input(g, s.c, s.h, s.w), *t = cnn_labels(g);
    T         *loss = cnn_softmax_cross_entropy(net_of(x), t);
    uint32_t   noise = 5;
    CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
    const float *w = cnn_flat_params(g, &r.n);
    r.w0 = test_alloc(r.n * sizeof *w), r.w = test_alloc(r.n * sizeof *w);
    if (w) memcpy(r.w0, w, r.n * sizeof *w);
    for (int step = 0; step < STEPS && !cnn_error(g); step++) {
        float *pixel = cnn_map_write(x), *label = cnn_map_write(t);
        for (size_t i = 0; i < cnn_count(x); i++) {
            noise = noise * 1664525u + 1013904223u;
            pixel[i] = (float)(noise >> 8) / 8388608.0f - 1;
        }
        for (size_t i = 0; i < cnn_count(t); i++) label[i] = (float)((i + (size_t)step) % (size_t)classes);
        r.loss[step] = (double)cnn_forward(loss, CNN_TRAIN);
        cnn_backward(loss);
        cnn_step(g, .lr = lr, .weight_decay = 1e-4f);
    }
    r.eval = (double)cnn_forward(loss, CNN_EVAL);
    w = cnn_flat_params(g, NULL);
    CHECK_STR(cnn_error(g), NULL);
    if (w) memcpy(r.w, w, r.n * sizeof *w);
    cnn_free(g);
    return r;
}

/* How far b's weights are from a's, as a share of how far a's have moved. */
static double apart(const run *a, const run *b)
{
    double moved = 0, differ = 0;
    for (size_t i = 0; i < a->n; i++) {
        moved += pow((double)a->w[i] - (double)a->w0[i], 2);
        differ += pow((double)a->w[i] - (double)b->w[i], 2);
    }
    return sqrt(differ / moved);
}

static void compare(const char *name, T *(*net_of)(T *), cnn_shape s, int classes, const cnn_optimizer *rule, float lr,
                    double tolerance)
{
    static const struct { const char *name; cnn_isa isa; } fast[] = {
        { "c", CNN_ISA_C }, { "neon", CNN_ISA_NEON }, { "avx2", CNN_ISA_AVX2 }, { "avx512", CNN_ISA_AVX512 } };
    if (!test_begin("%s, %d steps on the plain loops", name, STEPS)) return;
    run plain = train(CNN_ISA_PLAIN, net_of, s, classes, rule, lr);
    CHECK(plain.loss[STEPS - 1] != plain.loss[0]);
    for (size_t i = 0; i < sizeof fast / sizeof *fast; i++) {
        cnn_graph *g = cnn_new(.isa = fast[i].isa);
        bool       lacks = cnn_error(g) != NULL;
        cnn_free(g);
        if (lacks || !test_begin("%s, %d steps on %s", name, STEPS, fast[i].name)) continue;
        run r = train(fast[i].isa, net_of, s, classes, rule, lr);
        for (int step = 0; step < STEPS; step++) CHECK_NEAR(r.loss[step], plain.loss[step], tolerance * (1 + plain.loss[step]));
        CHECK_NEAR(r.eval, plain.eval, 10 * tolerance * (1 + plain.eval));
        const double far = apart(&plain, &r);
        CHECK_MSG(far < 20 * tolerance, "the weights are %.2g of their way apart", far);
        if (getenv("VERBOSE")) printf("%s %s: %.2g apart, last loss %.7f %.7f\n", name, fast[i].name, far, r.loss[STEPS - 1], plain.loss[STEPS - 1]);
        free(r.w0), free(r.w);
    }
    free(plain.w0), free(plain.w);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    compare("LeNet-5", lenet5, (cnn_shape){ 4, 1, 28, 28 }, 10, cnn_sgd(), 0.05f, 1e-4);
    compare("ResNet-20", resnet20, (cnn_shape){ 4, 3, 16, 16 }, 10, cnn_sgd(), atof(getenv("LR1")), 1e-4);
    compare("MobileNetV2", mobilenet_v2, (cnn_shape){ 2, 3, 64, 64 }, 10, cnn_sgd(), atof(getenv("LR2")), 1e-4);
    return test_end();
}
