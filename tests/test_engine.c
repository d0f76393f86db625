/* test_engine.c - the engine as a net sees it: what it does in one pass, in place or packed is what the plain loops
   do one after the other. Each test here was a fault that no test of a kernel shows. */
#include "cnn.h"
#include "test.h"

typedef cnn_tensor T;
static const cnn_isa fast[] = { CNN_ISA_C, CNN_ISA_AUTO };           /* beside CNN_ISA_PLAIN */

/* max |a - b| / max |b| */
static double far_apart(const float *a, const float *b, size_t n)
{
    double most = 0, size = 1e-30;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i])), size = fmax(size, fabs((double)b[i]));
    return most / size;
}

/* Every function of one number before a max pooling: only relu's backward can be done by the pooling. */
static void functions_before_a_pooling(void)
{
    enum { B = 2, N = B * 2 * 9 * 9, FUNCTIONS = 10 };
    float x_values[N];
    test_fill(x_values, N, -2, 2);
    for (int which = 0; which < FUNCTIONS; which++) {
        float  want[2][256];
        size_t n = 0;
        for (int i = 0; i < 3; i++) {
            cnn_graph *g = cnn_new(.max_batch = B, .seed = 3, .isa = i ? fast[i - 1] : CNN_ISA_PLAIN);
            T *x = cnn_input(g, 2, 9, 9), *h = cnn_conv2d(x, 4, 3);
            switch (which) {
            case 0: h = cnn_relu(h); break;
            case 1: h = cnn_silu(h); break;
            case 2: h = cnn_gelu(h); break;
            case 3: h = cnn_hard_swish(h); break;
            case 4: h = cnn_mish(h); break;
            case 5: h = cnn_elu(h); break;
            case 6: h = cnn_leaky_relu(h, 0.3f); break;
            case 7: h = cnn_selu(h); break;
            case 8: h = cnn_relu6(h); break;
            case 9: h = cnn_hard_sigmoid(h); break;
            }
            T *y = cnn_max_pool(h, 3, .stride = 2, .pad = 1), *J = cnn_mean(cnn_mul(y, y));
            CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g));
            cnn_set(x, x_values, N), cnn_forward(J, CNN_TRAIN), cnn_backward(J);
            const float *dw = cnn_flat_grads(g, &n);
            if (i == 0) memcpy(want[0], dw, n * sizeof *dw);
            else CHECK_MSG(far_apart(dw, want[0], n) < 1e-5, "%s, isa %d: off by %g", h->op->name, (int)fast[i - 1], far_apart(dw, want[0], n));
            cnn_free(g);
        }
    }
}

/* A loss that is itself a pooling of relus: the gradient 1 of the loss stays, also where relu's is 0. */
static void a_loss_that_selects(void)
{
    for (int i = 0; i < 3; i++) {
        cnn_graph *g = cnn_new(.isa = i ? fast[i - 1] : CNN_ISA_PLAIN);
        T *w = cnn_param(g, "w", { 1, 1, 2, 2 }), *J = cnn_global_max_pool(cnn_relu(cnn_scale(w, 2)));
        CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g));
        for (int k = 0; k < 3; k++) {                   /* below 0 in the second run alone */
            const float at[4] = { -1, -3, k == 1 ? -2.0f : 2.0f, -1 };
            float dw[4];
            cnn_set(w, at, 4), cnn_forward(J, CNN_TRAIN), cnn_backward(J), cnn_get_grad(w, dw, 4);
            CHECK_NEAR(dw[2], k == 1 ? 0 : 2, 0);
        }
        CHECK_STR(cnn_error(g), NULL);
        cnn_free(g);
    }
}

/* A batch norm whose statistics are frozen is a factor and a shift: the gradient of its x is that of y, times the
   factor, also where x is Inf. */
static void a_frozen_norm_of_infinity(void)
{
    for (int i = 0; i < 3; i++) {
        cnn_graph  *g = cnn_new(.max_batch = 1, .isa = i ? fast[i - 1] : CNN_ISA_PLAIN);
        T          *x = cnn_input(g, 2, 1, 3, .grad = 1), *J = cnn_sum(cnn_batch_norm(x, .eval = 1, .eps = 3));
        const float values[6] = { 1, INFINITY, 2, -1, -INFINITY, 3 };
        float       dx[6];
        CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g));
        cnn_set(x, values, 6), cnn_forward(J, CNN_TRAIN), cnn_backward(J), cnn_get_grad(x, dx, 6);
        for (int k = 0; k < 6; k++) CHECK_NEAR(dx[k], 0.5, 1e-6);
        cnn_free(g);
    }
}

/* An option that is given counts, also as 0: .ignore_index = 0 leaves out class 0. torch.nn.functional.cross_entropy(x,
   [0, 2], ignore_index=0) and its gradient; nll_loss of log_softmax is the same. */
static void ignored_class_0(void)
{
    static const float logits[6] = { 1, 2, 3, 0.5f, -1, 0.25f }, want[6] = { 0, 0, 0, 0.4995177f, 0.1114575f, -0.6109752f };
    static const int   classes[2] = { 0, 2 };
    const int          none = 0;
    char               file[4096];
    for (int i = 0; i < 4; i++) {
        cnn_graph *g = cnn_new(.max_batch = 2);
        T *x = cnn_input(g, 3, .grad = 1), *t = cnn_labels(g), *J = NULL;
        switch (i) {
        case 0: J = cnn_softmax_cross_entropy(x, t, .ignore_index = none); break;
        case 1: J = cnn_nll(cnn_log_softmax(x), t, .ignore_index = 0); break;
        case 2: J = cnn_softmax_cross_entropy(x, t); break;                           /* not given: none */
        case 3: J = cnn_softmax_cross_entropy(x, t, .ignore_index = 0); break;        /* from a file */
        }
        CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g));
        if (i == 3) {
            const size_t n = cnn_save_memory(g, file, sizeof file);
            cnn_free(g), g = cnn_load_memory(file, n, (cnn_load_args){ .at = "here", .max_batch = 2 });
            CHECK_STR(cnn_error(g), NULL);
            J = cnn_loss(g), x = J->in[0], t = J->in[1];
        }
        float dx[6];
        cnn_set(x, logits, 6), cnn_set_labels(t, classes, 2);
        CHECK_NEAR(cnn_forward(J, CNN_TRAIN), i == 2 ? (2.4076059 + 0.9441122) / 2 : 0.9441122, 1e-6);
        cnn_backward(J);
        if (i < 2 && cnn_get_grad(x, dx, 6)) CHECK_ALL_NEAR(dx, want, 6, 1e-6);
        cnn_dataset     d = cnn_data(2, 3, .floats = logits, .labels = classes);
        const cnn_score s = cnn_evaluate(J, i == 1 ? J->in[0]->in[0] : x, &d);      /* class 0 is not judged either */
        CHECK_NEAR(s.accuracy, 0, 0);
        CHECK_NEAR(s.loss, i == 2 ? (2.4076059 + 0.9441122) / 2 : 0.9441122, 1e-6);
        CHECK_STR(cnn_error(g), NULL);
        cnn_dataset_free(&d), cnn_free(g);
    }
    /* all pixels but those of class 1 are left out: 1 - (2 * 0.6 + 1) / (0.6 + 1 + 1) and 1 - 1 / (0.4 + 1) */
    cnn_graph  *g = cnn_new();
    T          *p = cnn_input(g, 2, 1, 2), *t = cnn_labels(g, 1, 2), *J = cnn_dice(p, t, 1, .ignore_index = 0);
    const float y[4] = { 0.8f, 0.4f, 0.2f, 0.6f };
    CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g));
    cnn_set(p, y, 4), cnn_set_labels(t, (const int[]){ 0, 1 }, 2);
    CHECK_NEAR(cnn_forward(J, CNN_EVAL), ((1 - 2.2 / 2.6) + (1 - 1 / 1.4)) / 2, 1e-6);
    cnn_free(g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(functions_before_a_pooling);
    RUN(a_loss_that_selects);
    RUN(a_frozen_norm_of_infinity);
    RUN(ignored_class_0);
    return test_end();
}
