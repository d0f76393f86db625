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

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(functions_before_a_pooling);
    RUN(a_loss_that_selects);
    return test_end();
}
