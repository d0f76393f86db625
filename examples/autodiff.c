/* autodiff.c - the raw graph: no layers, only products, functions and the chain rule. It learns XOR.

     cc -std=c99 -O2 examples/autodiff.c -o autodiff -lm && ./autodiff

   Z = X W,  A = f(Z),  G = A W',  O = f(G),  J = 1/(2N) |O - Y|^2,  f the sigmoid. Backwards:

     d_O  = (O - Y) / N
     d_G  = d_O . O (1 - O)        . is element by element
     d_W' = A^T d_G
     d_A  = d_G W'^T
     d_Z  = d_A . A (1 - A)
     d_W  = X^T d_Z

   These lines stand below in plain C, and the library's gradients are compared with them: that is what
   automatic differentiation is, the same lines, found by walking the recorded graph from J back to the
   parameters. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

enum { N = 4, IN = 3, HIDDEN = 4 };     /* samples; inputs, the last a constant 1, so that W holds a bias */

static const float X[N][IN] = { { 0, 0, 1 }, { 0, 1, 1 }, { 1, 0, 1 }, { 1, 1, 1 } }, Y[N] = { 0, 1, 1, 0 };

/* The six lines by hand, in double. */
static void by_hand(const float *W, const float *W2, double d_W[IN][HIDDEN], double d_W2[HIDDEN])
{
    double A[N][HIDDEN], O[N], d_G[N], d_Z[N][HIDDEN];
    for (int n = 0; n < N; n++) {
        double G = 0;
        for (int j = 0; j < HIDDEN; j++) {
            double Z = 0;
            for (int i = 0; i < IN; i++) Z += (double)X[n][i] * (double)W[i * HIDDEN + j];
            A[n][j] = 1 / (1 + exp(-Z)), G += A[n][j] * (double)W2[j];
        }
        O[n]   = 1 / (1 + exp(-G));
        d_G[n] = (O[n] - (double)Y[n]) / N * O[n] * (1 - O[n]);
        for (int j = 0; j < HIDDEN; j++) d_Z[n][j] = d_G[n] * (double)W2[j] * A[n][j] * (1 - A[n][j]);
    }
    for (int j = 0; j < HIDDEN; j++) {
        d_W2[j] = 0;
        for (int n = 0; n < N; n++) d_W2[j] += A[n][j] * d_G[n];
        for (int i = 0; i < IN; i++) {
            d_W[i][j] = 0;
            for (int n = 0; n < N; n++) d_W[i][j] += (double)X[n][i] * d_Z[n][j];
        }
    }
}

int main(void)
{
    cnn_graph  *g  = cnn_new(.max_batch = N, .seed = 3);
    cnn_tensor *x  = cnn_input(g, IN), *y = cnn_input(g, 1, .name = "target");
    cnn_tensor *W  = cnn_param(g, "W",  (cnn_shape){ IN, HIDDEN, 1, 1 }, .init = CNN_INIT_UNIFORM, .gain = 1);
    cnn_tensor *W2 = cnn_param(g, "W'", (cnn_shape){ HIDDEN, 1, 1, 1 },  .init = CNN_INIT_UNIFORM, .gain = 1);

    cnn_tensor *Z = cnn_matmul(x, W);                       /* (N,4) */
    cnn_tensor *A = cnn_sigmoid(Z);
    cnn_tensor *G = cnn_matmul(A, W2);                      /* (N,1) */
    cnn_tensor *O = cnn_sigmoid(G);
    cnn_tensor *J = cnn_scale(cnn_mse(O, y), 0.5f);         /* cnn_mse does not halve */

    double d_W[IN][HIDDEN], d_W2[HIDDEN], worst = 0;
    float  got[IN * HIDDEN], got2[HIDDEN], w[IN * HIDDEN], w2[HIDDEN], o[N];
    int    status = 1;
    if (!cnn_compile(g, J)) goto done;

    cnn_set(x, X[0], N * IN), cnn_set(y, Y, N);
    cnn_forward(J, CNN_TRAIN), cnn_backward(J);
    cnn_get(W, w, IN * HIDDEN), cnn_get(W2, w2, HIDDEN);
    cnn_get_grad(W, got, IN * HIDDEN), cnn_get_grad(W2, got2, HIDDEN);
    if (cnn_error(g)) goto done;                            /* the first error stays: one check for all */

    by_hand(w, w2, d_W, d_W2);
    printf("gradient    cnn.h   by hand\n");
    for (int i = 0; i < IN * HIDDEN + HIDDEN; i++) {
        bool   first = i < IN * HIDDEN;
        int    k = first ? i : i - IN * HIDDEN;
        double lib = (double)(first ? got[k] : got2[k]), hand = first ? d_W[k / HIDDEN][k % HIDDEN] : d_W2[k];
        if (first) printf("d_W [%d][%d] %9.6f %9.6f\n", k / HIDDEN, k % HIDDEN, lib, hand);
        else       printf("d_W'[%d]    %9.6f %9.6f\n", k, lib, hand);
        worst = fmax(worst, fabs(lib - hand));
    }
    cnn_check check = cnn_gradient_check(J, 0);             /* against (J(w + h) - J(w - h)) / 2h */
    printf("largest difference: by hand %.1e, from central differences %.1e (%d elements)\n\n",
           worst, check.worst, check.checked);

    for (int step = 0; step <= 2000; step++) {
        float loss = cnn_forward(J, CNN_TRAIN);
        if (step % 400 == 0) printf("step %4d  J = %.6f\n", step, (double)loss);
        cnn_backward(J);
        cnn_step(g, .lr = 2, .momentum = 0.9f);
    }
    cnn_forward(O, CNN_EVAL);                               /* needs x only, not y */
    if (!cnn_get(O, o, N)) goto done;

    printf("\n");
    int right = 0;
    for (int n = 0; n < N; n++) {
        printf("%g xor %g = %.3f\n", (double)X[n][0], (double)X[n][1], (double)o[n]);
        right += (o[n] > 0.5f) == (Y[n] > 0.5f);
    }
    status = worst < 1e-6 && check.worst < 1e-2 && right == N ? 0 : 1;
    if (fflush(stdout) || ferror(stdout)) status = 1, fprintf(stderr, "stdout: cannot be written\n");
done:
    if (cnn_error(g)) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return status;
}
