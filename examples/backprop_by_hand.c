/* backprop_by_hand.c - the lecture's two worked examples of backpropagation, and its exercise, node by
   node.

     cc -std=c99 -O2 examples/backprop_by_hand.c -o backprop_by_hand -lm && ./backprop_by_hand

   Each number is computed twice: by cnn.h, which differentiates the recorded graph in float, and by
   hand, with the formulas of the lecture written out below in double. Beside them stands what the
   lecture prints, where it does print the number to six digits. Read the code under "by hand" with a
   pencil; then change a number and foretell the output. The program fails if cnn.h and the hand
   disagree.

   The chain rule, in one line: the gradient of a node is the sum, over the arrows that leave it, of the
   gradient at the arrow's end times the local derivative of the arrow. Here d_x means dJ/dx, J the loss. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

static double worst;                                  /* the largest |cnn.h - by hand| so far */

static void head(const char *title)
{
    printf("  %-34s %12s %12s   %s\n", title, "cnn.h", "by hand", "lecture");
}

static void row(const char *name, double library, double hand, const char *lecture)
{
    printf("  %-34s %12.6f %12.6f   %s\n", name, library, hand, lecture);
    const double difference = fabs(library - hand);
    if (difference > worst || isnan(difference)) worst = difference;            /* once NAN, always NAN */
}

/* One row per element, numbered from first; lecture may be NULL. name: "h" becomes h1, h2, ... */
static void rows_from(int first, const char *name, const float *library, const double *hand, int count,
                      const char *const *lecture)
{
    for (int i = 0; i < count; i++) {
        char label[40];
        snprintf(label, sizeof label, "%s%d", name, first + i);
        row(label, library ? (double)library[i] : NAN, hand[i], lecture ? lecture[i] : "");
    }
}

static void rows(const char *name, const float *library, const double *hand, int count,
                 const char *const *lecture)
{
    rows_from(1, name, library, hand, count, lecture);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* cnn.h's values and gradients; NULL, after an error, becomes a row of nan and fails the program. */
static const float *value(cnn_tensor *t) { return cnn_map_read(t); }
static const float *grad (cnn_tensor *t) { return cnn_map_grad(t); }

/* ---- 1. The 2-2-2 perceptron ----------------------------------------------------------------------------

   i1, i2 -> h1, h2 -> o1, o2, all sigmoids; E = 1/2 sum_k (t_k - o_k)^2; w <- w - 0.5 dE/dw; biases stay.
   (The numbers are Matt Mazur's "A step by step backpropagation example", 2015.) */
static bool perceptron(void)
{
    static const float i[2] = { 0.05f, 0.10f }, t[2] = { 0.01f, 0.99f };
    static const float w1[4] = { 0.15f, 0.20f, 0.25f, 0.30f }, b1[2] = { 0.35f, 0.35f };  /* to h1, to h2 */
    static const float w2[4] = { 0.40f, 0.45f, 0.50f, 0.55f }, b2[2] = { 0.60f, 0.60f };  /* to o1, to o2 */
    const double lr = 0.5;

    /* the graph */
    cnn_graph  *g  = cnn_new(.keep_grads = 1);
    cnn_tensor *I  = cnn_input(g, 2), *T = cnn_input(g, 2, .name = "target");
    cnn_shape   two_by_two = { 2, 2, 1, 1 }, two = { 1, 2, 1, 1 };
    cnn_tensor *W1 = cnn_param(g, "W1", two_by_two), *B1 = cnn_const(g, two, b1);
    cnn_tensor *W2 = cnn_param(g, "W2", two_by_two), *B2 = cnn_const(g, two, b2);
    cnn_tensor *N1 = cnn_keep(cnn_dense(I, 2, .weight = W1, .bias = B1)), *H = cnn_keep(cnn_sigmoid(N1));
    cnn_tensor *N2 = cnn_keep(cnn_dense(H, 2, .weight = W2, .bias = B2)), *O = cnn_keep(cnn_sigmoid(N2));
    cnn_tensor *E  = cnn_mse(O, T);                   /* the mean of two: the lecture's half of the sum */
    bool ok = cnn_compile(g, E) && cnn_set(W1, w1, 4) && cnn_set(W2, w2, 4) && cnn_set(I, i, 2) &&
              cnn_set(T, t, 2);
    float loss = cnn_forward(E, CNN_TRAIN);
    cnn_backward(E);
    if (!ok || cnn_error(g)) return fprintf(stderr, "%s\n", cnn_error(g)), cnn_free(g), false;

    /* by hand, forward */
    double n1[2], h[2], n2[2], o[2], e = 0;
    for (int k = 0; k < 2; k++) n1[k] = .05 * (.15 + .1 * k) + .10 * (.20 + .1 * k) + .35;
    for (int k = 0; k < 2; k++) h[k]  = sigmoid(n1[k]);
    for (int k = 0; k < 2; k++) n2[k] = h[0] * (.40 + .1 * k) + h[1] * (.45 + .1 * k) + .60;
    for (int k = 0; k < 2; k++) o[k]  = sigmoid(n2[k]);
    for (int k = 0; k < 2; k++) e += 0.5 * pow((k ? .99 : .01) - o[k], 2);

    /* by hand, backward: from E to the weights */
    double d_o[2], d_n2[2], d_w2[4], d_h[2], d_n1[2], d_w1[4], w1_new[4], w2_new[4];
    for (int k = 0; k < 2; k++) d_o[k]  = o[k] - (k ? .99 : .01);          /* E = 1/2 (t - o)^2 */
    for (int k = 0; k < 2; k++) d_n2[k] = d_o[k] * o[k] * (1 - o[k]);      /* o = sigmoid(n2) */
    for (int k = 0; k < 4; k++) d_w2[k] = d_n2[k / 2] * h[k % 2];        /* n2 = W2 h + b: an outer product */
    for (int k = 0; k < 2; k++) d_h[k]  = d_n2[0] * (.40 + .05 * k) + d_n2[1] * (.50 + .05 * k);
    for (int k = 0; k < 2; k++) d_n1[k] = d_h[k] * h[k] * (1 - h[k]);
    for (int k = 0; k < 4; k++) d_w1[k] = d_n1[k / 2] * (k % 2 ? .10 : .05);
    for (int k = 0; k < 4; k++) w1_new[k] = .15 + .05 * k - lr * d_w1[k];
    for (int k = 0; k < 4; k++) w2_new[k] = .40 + .05 * k - lr * d_w2[k];

    static const char *const new_1[4] = { "0.149780", "0.199781 *", "0.249751", "0.299502" };
    static const char *const new_2[4] = { "0.358916", "0.408666", "0.511301", "0.561370" };
    printf("1. The 2-2-2 sigmoid perceptron\n\n");
    head("forward");
    rows("hidden, weighted sum  n1.", value(N1), n1, 2, NULL);
    rows("hidden, output        h", value(H), h, 2, NULL);
    rows("output, weighted sum  n2.", value(N2), n2, 2, NULL);
    rows("output                o", value(O), o, 2, NULL);
    row("error                 E", (double)loss, e, "0.298371");
    head("backward");
    rows("d_o", grad(O), d_o, 2, NULL);
    rows("d_n2.", grad(N2), d_n2, 2, NULL);
    rows_from(5, "d_w", grad(W2), d_w2, 4, NULL);
    rows("d_h", grad(H), d_h, 2, NULL);
    rows("d_n1.", grad(N1), d_n1, 2, NULL);
    rows("d_w", grad(W1), d_w1, 4, NULL);
    head("update, w - 0.5 d_w");
    cnn_step(g, .lr = (float)lr);
    rows("w", value(W1), w1_new, 4, new_1);
    rows_from(5, "w", value(W2), w2_new, 4, new_2);
    printf("\n  * A slip of the lecture: it multiplies grad_w2 by i1, though w2 leads from i2, and so gets\n"
           "    0.20 - 0.5 * %.6f * 0.05 = %.8f. The exact w2 is %.8f.\n"
           "    (Of w1, 0.14978072, it prints the first six digits without rounding.)\n\n",
           d_n1[0], .20 - lr * d_n1[0] * .05, w1_new[1]);
    ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return ok;
}

/* Y = X * F as neural networks mean it: the filter is not turned round (mathematicians say correlation). */
static void correlate(const double *x, int size, const double *f, int k, double *y)
{
    int out = size - k + 1;
    for (int p = 0; p < out; p++)
        for (int q = 0; q < out; q++) {
            double sum = 0;
            for (int i = 0; i < k; i++)
                for (int j = 0; j < k; j++) sum += x[(p + i) * size + q + j] * f[i * k + j];
            y[p * out + q] = sum;
        }
}

/* Its gradients for a 3x3 input, a 2x2 filter and a 2x2 output. What went out comes back the same way:
   from      y[p][q]        += x[p+i][q+j] f[i][j]
   follow    d_f[i][j]      += d_y[p][q] x[p+i][q+j]
   and       d_x[p+i][q+j]  += d_y[p][q] f[i][j].
   So d_F = X * d_Y, a convolution again, and d_X is d_Y with a border of zeros, convolved with F turned by
   180 degrees. */
static void correlate_back(const double *x, const double *f, const double *d_y, double *d_x, double *d_f)
{
    for (int k = 0; k < 9; k++) d_x[k] = 0;
    correlate(x, 3, d_y, 2, d_f);
    for (int p = 0; p < 2; p++)
        for (int q = 0; q < 2; q++)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++) d_x[(p + i) * 3 + q + j] += d_y[p * 2 + q] * f[i * 2 + j];
}

/* ---- 2. The 3x3 convolution net -------------------------------------------------------------------------

   X (3x3) -> C = X * F + b (2x2) -> H = Wh C + bh (2) -> Z = Wo H + bo (2) -> softmax -> J = -log P[class 1].
   Everything learns, the rate is 0.5. X does not, but .grad lets us look at its gradient too. */
static bool convolution_net(void)
{
    static const float x[9] = { 1, 0, 1,  0, 1, 0,  1, 0, 1 };
    static const float f[4] = { 0.9f, 0.1f,  0.1f, 0.9f }, b[1] = { 0.1f };
    static const float wh[8] = { 0.1f, 0.2f, 0.3f, 0.4f,  0.5f, 0.6f, 0.7f, 0.8f }, bh[2] = { 0.2f, 0.2f };
    static const float wo[4] = { 0.1f, 0.2f,  0.3f, 0.4f }, bo[2] = { 0.3f, 0.3f };
    static const int   truth[1] = { 0 };                                        /* class 1 has the number 0 */
    const double lr = 0.5;

    /* the graph */
    cnn_graph  *g  = cnn_new(.keep_grads = 1);
    cnn_tensor *X  = cnn_input(g, 1, 3, 3, .grad = 1), *T = cnn_labels(g);
    cnn_tensor *F  = cnn_param(g, "F",  (cnn_shape){ 1, 1, 2, 2 });
    cnn_tensor *B  = cnn_param(g, "b",  (cnn_shape){ 1, 1, 1, 1 });
    cnn_tensor *Wh = cnn_param(g, "Wh", (cnn_shape){ 2, 4, 1, 1 });
    cnn_tensor *Bh = cnn_param(g, "bh", (cnn_shape){ 1, 2, 1, 1 });
    cnn_tensor *Wo = cnn_param(g, "Wo", (cnn_shape){ 2, 2, 1, 1 });
    cnn_tensor *Bo = cnn_param(g, "bo", (cnn_shape){ 1, 2, 1, 1 });
    cnn_tensor *C  = cnn_keep(cnn_conv2d(X, 1, 2, .weight = F, .bias = B));
    cnn_tensor *H  = cnn_keep(cnn_dense(C, 2, .weight = Wh, .bias = Bh));
    cnn_tensor *Z  = cnn_keep(cnn_dense(H, 2, .weight = Wo, .bias = Bo));
    cnn_tensor *J  = cnn_softmax_cross_entropy(Z, T);
    bool ok = cnn_compile(g, J) && cnn_set(X, x, 9) && cnn_set_labels(T, truth, 1) && cnn_set(F, f, 4) &&
              cnn_set(B, b, 1) && cnn_set(Wh, wh, 8) && cnn_set(Bh, bh, 2) && cnn_set(Wo, wo, 4) &&
              cnn_set(Bo, bo, 2);
    float loss = cnn_forward(J, CNN_TRAIN);
    cnn_backward(J);
    if (!ok || cnn_error(g)) return fprintf(stderr, "%s\n", cnn_error(g)), cnn_free(g), false;

    /* by hand, forward */
    const double X_[9] = { 1, 0, 1,  0, 1, 0,  1, 0, 1 }, F_[4] = { .9, .1, .1, .9 };
    double c[4], h[2], z[2], p[2];
    correlate(X_, 3, F_, 2, c);
    for (int k = 0; k < 4; k++) c[k] += 0.1;
    for (int k = 0; k < 2; k++)
        h[k] = .2 + (.1 + .4 * k) * c[0] + (.2 + .4 * k) * c[1] + (.3 + .4 * k) * c[2] + (.4 + .4 * k) * c[3];
    for (int k = 0; k < 2; k++) z[k] = .3 + (.1 + .2 * k) * h[0] + (.2 + .2 * k) * h[1];
    for (int k = 0; k < 2; k++) p[k] = exp(z[k]) / (exp(z[0]) + exp(z[1]));

    /* by hand, backward */
    double d_z[2], d_wo[4], d_h[2], d_wh[8], d_c[4], d_f[4], d_x[9], d_b = 0;
    for (int k = 0; k < 2; k++) d_z[k]  = p[k] - (k == 0);                 /* softmax and -log: P - T */
    for (int k = 0; k < 4; k++) d_wo[k] = d_z[k / 2] * h[k % 2];           /* Z = Wo H + bo; d_bo = d_z */
    for (int k = 0; k < 2; k++) d_h[k]  = (.1 + .1 * k) * d_z[0] + (.3 + .1 * k) * d_z[1];   /* Wo^T d_z */
    for (int k = 0; k < 8; k++) d_wh[k] = d_h[k / 4] * c[k % 4];           /* H = Wh C + bh; d_bh = d_h */
    for (int k = 0; k < 4; k++) d_c[k]  = (.1 + .1 * k) * d_h[0] + (.5 + .1 * k) * d_h[1];   /* Wh^T d_h */
    for (int k = 0; k < 4; k++) d_b    += d_c[k];                          /* b is added in each place */
    correlate_back(X_, F_, d_c, d_x, d_f);

    double wo_new[4], wh_new[8], f_new[4], bo_new[2], bh_new[2], b_new[1] = { .1 - lr * d_b };
    for (int k = 0; k < 2; k++) bo_new[k] = .3 - lr * d_z[k], bh_new[k] = .2 - lr * d_h[k];
    for (int k = 0; k < 4; k++) wo_new[k] = .1 + .1 * k - lr * d_wo[k], f_new[k] = F_[k] - lr * d_f[k];
    for (int k = 0; k < 8; k++) wh_new[k] = .1 + .1 * k - lr * d_wh[k];

    static const char *const print_p[2] = { "0.294838", "0.705162" };
    static const char *const print_f[4] = { "0.773071", "-0.026929", "-0.026929", "0.773071" };
    static const char *const print_b[1] = { "-0.153858" }, *const print_bo[2] = { "", "another figure *" };
    const float *logit = value(Z);
    double e0 = exp((double)logit[0]), e1 = exp((double)logit[1]);
    const float P[2] = { (float)(e0 / (e0 + e1)), (float)(e1 / (e0 + e1)) };
    printf("2. The 3x3 convolution net\n\n");
    head("forward");
    rows("feature map   C = X * F + b    c", value(C), c, 4, NULL);
    rows("hidden        H = Wh C + bh  h", value(H), h, 2, NULL);
    rows("logits        Z = Wo H + bo  z", logit, z, 2, NULL);
    rows("softmax                      p", P, p, 2, print_p);
    row("loss          J = -log p1", (double)loss, -log(p[0]), "");
    head("backward");
    rows("d_z = P - T         d_z", grad(Z), d_z, 2, NULL);
    rows("d_Wo = d_z H^T      d_wo", grad(Wo), d_wo, 4, NULL);
    rows("d_H = Wo^T d_z      d_h", grad(H), d_h, 2, NULL);
    rows("d_Wh = d_H C^T      d_wh", grad(Wh), d_wh, 8, NULL);
    rows("d_C = Wh^T d_H      d_c", grad(C), d_c, 4, NULL);
    rows("d_F = X * d_C       d_f", grad(F), d_f, 4, NULL);
    rows("d_b = sum of d_C    d_b", grad(B), &d_b, 1, NULL);
    rows("d_X                 d_x", grad(X), d_x, 9, NULL);
    head("update, w - 0.5 d_w");
    cnn_step(g, .lr = (float)lr);
    rows("wo", value(Wo), wo_new, 4, NULL);
    rows("bo", value(Bo), bo_new, 2, print_bo);
    rows("wh", value(Wh), wh_new, 8, NULL);
    rows("bh", value(Bh), bh_new, 2, NULL);
    rows("f", value(F), f_new, 4, print_f);
    rows("b", value(B), b_new, 1, print_b);
    printf("\n  * A slip of the lecture: the exact bo2 is 0.3 - 0.5 * %.6f = %.4f, not what it prints.\n\n",
           d_z[1], bo_new[1]);
    ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return ok;
}

/* ---- 3. The exercise: gradients of one convolution -------------------------------------------------------

   Given X, F and d_Y, find d_F and d_X. To hand d_Y to the library, take J = sum of (Y d_Y): its gradient by
   Y is d_Y. (Our X, F and d_Y are small numbers that lead to the exercise's answers.) */
static bool exercise(void)
{
    static const float x[9] = { 0, 1, 2,  0, 1, 0,  1, 0, 0 }, f[4] = { 1, -2,  -3, -1 };
    static const float d_y[4] = { 0.2f, -0.2f,  -0.1f, 0.1f };
    cnn_graph  *g  = cnn_new(.keep_grads = 1);
    cnn_tensor *X  = cnn_input(g, 1, 3, 3, .grad = 1), *F = cnn_param(g, "F", (cnn_shape){ 1, 1, 2, 2 });
    cnn_tensor *Y  = cnn_conv2d(X, 1, 2, .weight = F, .no_bias = 1);
    cnn_tensor *J  = cnn_sum(cnn_mul(Y, cnn_const(g, (cnn_shape){ 1, 1, 2, 2 }, d_y)));
    bool ok = cnn_compile(g, J) && cnn_set(X, x, 9) && cnn_set(F, f, 4);
    cnn_forward(J, CNN_TRAIN);
    cnn_backward(J);
    if (!ok || cnn_error(g)) return fprintf(stderr, "%s\n", cnn_error(g)), cnn_free(g), false;

    static const char *const answer_f[4] = { "-0.1", "-0.3", "-0.3", "0.2" };
    static const char *const answer_x[9] = { "0.2", "-0.6", "0.4",  "-0.7", "0.7", "0.0",
                                             "0.3", "-0.2", "-0.1" };
    double X_[9], F_[4], D_[4], d_f[4], d_x[9];
    for (int k = 0; k < 9; k++) X_[k] = (double)x[k];
    for (int k = 0; k < 4; k++) F_[k] = (double)f[k], D_[k] = (double)d_y[k];
    correlate_back(X_, F_, D_, d_x, d_f);
    printf("3. The exercise\n\n");
    head("d_F = X * d_Y");
    rows("d_f", grad(F), d_f, 4, answer_f);
    head("d_X = d_Y, padded, * F turned");
    rows("d_x", grad(X), d_x, 9, answer_x);
    ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return ok;
}

int main(void)
{
    if (!perceptron() || !convolution_net() || !exercise()) return 1;
    printf("\nThe largest difference between cnn.h and the hand: %.1e\n", worst);
    if (fflush(stdout) || ferror(stdout)) return fprintf(stderr, "stdout: cannot be written\n"), 1;
    return worst < 1e-6 ? 0 : 1;
}
