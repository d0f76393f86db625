/* answers.h - what tests/lab.sh puts into the blanks of examples/lab: cnn.h's own kernels, not code to hand
   out. LAB_MISTAKE = 1 to 5 spoils operands or results of the function LAB_ONLY as students do; without, all
   is right. */
#ifndef ANSWERS_H
#define ANSWERS_H

static const char *blank;                                       /* the function whose blank is being filled */
static inline int mistake(void)                                 /* in function LAB_ONLY alone */
{
    const char *s = getenv("LAB_MISTAKE"), *only = getenv("LAB_ONLY");
    return s && (!only || !strcmp(only, blank)) ? atoi(s) : 0;
}
/* A copy that may be spoiled, until the blank has been filled. */
static float *kept[16];
static int    n_kept;
static inline float *spoil(const float *x, size_t n)
{
    float *p = kept[n_kept++] = malloc((n + 1) * sizeof *p);
    if (!p) exit(2);
    if (x) memcpy(p, x, n * sizeof *p);
    else   memset(p, 0, n * sizeof *p);
    return p;
}
static inline lab_answer finish(cnn_graph *g)
{
    while (n_kept) free(kept[--n_kept]);
    cnn_free(g);
    return DONE;
}
/* to = what was there (or, by a common mistake, not) + gradient */
static inline void put(float *to, const float *gradient, size_t n, bool forgets)
{
    for (size_t i = 0; i < n; i++) to[i] = forgets ? gradient[i] : to[i] + gradient[i];
}
/* A transposed matrix. */
static inline void swap_axes(float *w, const float *from, int rows, int columns)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            w[i * columns + j] = from[j % rows * columns + (i + j / rows) % columns];
}
/* Each k x k kernel flipped or transposed. */
static inline float *turn(const float *w, int n, int k, bool flip)
{
    float *t = spoil(w, (size_t)(n * k * k));
    for (int i = 0; i < n * k * k; i++) {
        const int at = i % (k * k), base = i - at;
        t[i] = w[base + (flip ? k * k - 1 - at : at % k * k + at / k)];
    }
    return t;
}

/* ---- 3, 4, 9 ---- */

/* 1 convolution instead of correlation, 2 no bias, 3 kernel transposed, 4 = instead of += : the last channel
   alone, 5 the last row is left out; 6 one element too many */
static lab_answer own_conv_forward(float *y, const float *x, const float *w, const float *b, lab_conv t)
{
    const int m = mistake(), kk = t.k * t.k;
    float    *w2 = m == 1 || m == 3 ? turn(w, t.o * t.c, t.k, m == 1) : spoil(w, (size_t)(t.o * t.c * kk));
    for (int i = 0; m == 4 && i < t.o * t.c * kk; i++) if (i / kk % t.c < t.c - 1) w2[i] = 0;
    lab_net n = lab_conv_net(CNN_ISA_AUTO, &t, 0);
    lab_inputs(&n, x, w2, m == 2 ? spoil(NULL, (size_t)t.o) : b, NULL);
    const float *right = lab_forward(&n);
    const cnn_shape s = n.y->shape;
    for (int i = 0; i < s.n * s.c * s.h * s.w; i++) if (m != 5 || i / s.w % s.h < s.h - 1) y[i] = right[i];
    if (m == 6) y[s.n * s.c * s.h * s.w] = 0;
    return finish(n.g);
}
static inline float *first_sample(const float *dy, lab_conv t, size_t count)
{
    float *p = spoil(dy, count);
    for (size_t i = count / (size_t)t.n; i < count; i++) p[i] = 0;
    return p;
}
/* 1 sets instead of adds, 2 kernel flipped, 3 kernel transposed, 4 the first sample alone, 5 the sums of dy
   start a column late */
static lab_answer own_conv_data(float *dx, const float *dy, const float *w, lab_conv t)
{
    const int m = mistake();
    lab_net   n = lab_conv_net(CNN_ISA_AUTO, &t, LAB_DATA);
    const size_t ny = cnn_count(n.y), nx = cnn_count(n.x);
    float    *d = m == 4 ? first_sample(dy, t, ny) : spoil(dy, ny);
    for (size_t i = 0; m == 5 && i < ny; i += (size_t)n.y->shape.w) d[i] = 0;
    lab_inputs(&n, spoil(NULL, nx), m == 2 || m == 3 ? turn(w, t.o * t.c, t.k, m == 2) : w, NULL, d);
    lab_forward(&n);
    put(dx, cnn_map_grad(n.x), nx, m == 1);
    return finish(n.g);
}
/* 1 sets instead of adds, 2 the mean over the batch, 3 no bias gradient, 4 flipped, 5 the first sample alone
   */
static lab_answer own_conv_weights(float *dw, float *db, const float *dy, const float *x, lab_conv t)
{
    const int m = mistake();
    lab_net   n = lab_conv_net(CNN_ISA_AUTO, &t, LAB_WEIGHTS);
    const size_t ny = cnn_count(n.y), nw = cnn_count(n.y->in[1]);
    float    *d = m == 5 ? first_sample(dy, t, ny) : spoil(dy, ny);
    for (size_t i = 0; m == 2 && i < ny; i++) d[i] /= (float)t.n;
    lab_inputs(&n, x, NULL, NULL, d), lab_forward(&n);
    const float *grad = cnn_map_grad(n.y->in[1]);
    put(dw, m == 4 ? turn(grad, t.o * t.c, t.k, true) : grad, nw, m == 1);
    if (m != 3) put(db, cnn_map_grad(n.y->in[2]), (size_t)t.o, m == 1);
    return finish(n.g);
}
#define CONV (lab_conv){ "own", N, C, H, W, O, K, stride, pad }
#define ANSWER_conv2d_forward          blank = __func__; return own_conv_forward(y, x, w, b, CONV)
#define ANSWER_conv2d_fast             blank = __func__; return own_conv_forward(y, x, w, b, CONV)
#define ANSWER_conv2d_backward_data    blank = __func__; return own_conv_data(dx, dy, w, CONV)
#define ANSWER_conv2d_backward_weights blank = __func__; return own_conv_weights(dw, db, dy, x, CONV)

/* ---- 2 ---- */

/* forward: 1 w read as its transpose, 2 no bias, 3 the last sample is left out, 4 the last term of the sum, 5
   b[n];
   backward: 1 sets, 2 the mean over the batch, 3 w (dw) transposed, 4 the first sample alone, 5 data: the
   last unit is left out, weights: no bias gradient */
static lab_answer own_dense(int part, float *to, float *db, const float *x, const float *dy, const float *w,
                            const float *b, int N, int K, int M)
{
    const int   m = mistake();
    cnn_graph  *g = cnn_new(.max_batch = N, .inference = part == 0);
    cnn_tensor *in = cnn_input(g, K, .grad = part != 0);
    lab_net     n = lab_close(in, cnn_dense(in, M), part != 0);
    float      *w2 = spoil(w, (size_t)(M * K)), *b2 = spoil(b, (size_t)M), *d = spoil(dy, (size_t)(N * M));
    if (w && (part == 0 ? m == 1 : m == 3)) swap_axes(w2, w, M, K);
    for (int i = 0; part == 0 && m == 4 && i < M; i++) w2[i * K + K - 1] = 0;
    for (int i = 0; part == 0 && i < M; i++) b2[i] = m == 2 ? 0 : m == 5 ? b[0] : b2[i];
    for (int i = 0; part && i < N * M; i++) {
        if (m == 2) d[i] /= (float)N;
        if ((m == 4 && i >= M) || (m == 5 && part == 1 && i % M == M - 1)) d[i] = 0;
    }
    lab_inputs(&n, x ? x : spoil(NULL, (size_t)(N * K)), w2, b2, part ? d : NULL);
    const float *right = lab_forward(&n);
    if (part == 0) memcpy(to, right, (size_t)((m == 3 ? N - 1 : N) * M) * sizeof *to);
    if (part == 1) put(to, cnn_map_grad(n.x), (size_t)(N * K), m == 1);
    if (part == 2) {
        float *dw = spoil(cnn_map_grad(n.y->in[1]), (size_t)(M * K));
        if (m == 3) swap_axes(dw, cnn_map_grad(n.y->in[1]), M, K);
        put(to, dw, (size_t)(M * K), m == 1);
        if (m != 5) put(db, cnn_map_grad(n.y->in[2]), (size_t)M, m == 1);
    }
    return finish(g);
}
#define ANSWER_dense_forward          blank = __func__; return own_dense(0, y, NULL, x, NULL, w, b, N, K, M)
#define ANSWER_dense_backward_data    \
    blank = __func__; return own_dense(1, dx, NULL, NULL, dy, w, NULL, N, K, M)
#define ANSWER_dense_backward_weights \
    blank = __func__; return own_dense(2, dw, db, x, dy, NULL, NULL, N, K, M)

/* ---- 5 ---- */

/* 1 a maximum that starts at 0, 2 the last of equals, 3 the place within the window, 4 stride = K, 5 columns
   numbered by OW instead of W */
static lab_answer own_pool(float *y, int *where, const float *x, int N, int C, int H, int W, int K,
                           int stride)
{
    const int m = mistake(), oh = lab_out(H, K, stride, 0), ow = lab_out(W, K, stride, 0),
        step = m == 4 ? K : stride;
    for (int i = 0; i < N * C * oh * ow; i++) {
        const float *plane = x + (size_t)(i / (oh * ow)) * (size_t)(H * W);
        const int    top = i / ow % oh * step, left = i % ow * step;
        int          best = -1;
        for (int t = 0; t < K * K; t++) {
            const int r = top + t / K, s = left + t % K, at = r * W + s;
            if (r >= H || s >= W) continue;
            if (best < 0 || plane[at] > plane[best] || (m == 2 && plane[at] == plane[best])) best = at;
        }
        if (best < 0) best = 0;
        y[i] = m == 1 && plane[best] < 0 ? 0 : plane[best];
        where[i] = m == 3 ? (best / W - top) * K + best % W - left : m == 5 ? best / W * ow + best % W : best;
    }
    return DONE;
}
/* 1 sets instead of adds, 2 all planes into the first, 3 the last window of a plane left out, 4 divided by K
   K, 5 every gradient at the top left of the plane */
static lab_answer own_unpool(float *dx, const float *dy, const int *where, int N, int C, int H, int W, int K,
                             int stride)
{
    const int m = mistake(), plane = lab_out(H, K, stride, 0) * lab_out(W, K, stride, 0);
    for (int i = 0; i < N * C * plane; i++) {
        float *to = dx + (m == 2 ? 0 : (size_t)(i / plane) * (size_t)(H * W)) + (m == 5 ? 0 : where[i]);
        if (m == 3 && i % plane == plane - 1) continue;
        *to = (m == 1 ? 0 : *to) + (m == 4 ? dy[i] / (float)(K * K) : dy[i]);
    }
    return DONE;
}
#define ANSWER_max_pool_forward  blank = __func__; return own_pool(y, where, x, N, C, H, W, K, stride)
#define ANSWER_max_pool_backward blank = __func__; return own_unpool(dx, dy, where, N, C, H, W, K, stride)

/* ---- 7 ---- */

/* 1 exp of the logits as they are, 2 the sum instead of the mean, 3 p not divided by its sum, 4 the label's
   neighbour, 5 p and loss without the logarithm's sign */
static lab_answer own_loss(float *J, float *p, const float *z, const int *label, int N, int C)
{
    const int   m = mistake();
    cnn_graph  *g = cnn_new(.max_batch = N, .inference = 1), *s = cnn_new(.max_batch = N, .inference = 1);
    cnn_tensor *x = cnn_input(g, C), *t = cnn_labels(g), *loss = cnn_softmax_cross_entropy(x, t);
    cnn_tensor *in = cnn_input(s, C);
    lab_net     soft = lab_close(in, cnn_softmax(in), false);
    cnn_compile(g, loss), cnn_set(x, z, (size_t)(N * C)), cnn_set_labels(t, label, (size_t)N);
    float *from = spoil(NULL, (size_t)N);
    for (int n = 0; m == 4 && n < N; n++) from[n] = (float)((label[n] + 1) % C);
    if (m == 4) memcpy(cnn_map_write(t), from, (size_t)N * sizeof *from);
    *J = cnn_forward(loss, CNN_EVAL) * (m == 2 ? (float)N : m == 5 ? -1.0f : 1.0f);
    lab_inputs(&soft, z, NULL, NULL, NULL);
    memcpy(p, lab_forward(&soft), (size_t)(N * C) * sizeof *p);
    for (int i = 0; (m == 1 || m == 3) && i < N * C; i++) {
        float sum = 0;
        for (int c = 0; c < C; c++) sum += expf(z[i / C * C + c]);
        p[i] = expf(z[i]) / (m == 1 ? sum : 1);
    }
    cnn_free(s);
    return finish(g);
}
/* 1 sets instead of adds, 2 not divided by N, 3 p alone, 4 the other sign, 5 the label's element alone */
static lab_answer own_loss_back(float *dz, const float *p, const int *label, int N, int C)
{
    const int m = mistake();
    for (int i = 0; i < N * C; i++) {
        const bool  hit = i % C == label[i / C];
        const float d = (p[i] - (hit && m != 3 ? 1.0f : 0.0f)) / (m == 2 ? 1.0f : (float)N);
        dz[i] = (m == 1 ? 0 : dz[i]) + (m == 5 && !hit ? 0 : m == 4 ? -d : d);
    }
    return DONE;
}
#define ANSWER_softmax_cross_entropy_forward  blank = __func__; return own_loss(J, p, z, label, N, C)
#define ANSWER_softmax_cross_entropy_backward blank = __func__; return own_loss_back(dz, p, label, N, C)

/* ---- 8 ---- */

/* 1 no momentum, 2 lr within v, 3 uphill, 4 v as a mean (1 - momentum) dw, 5 w by the v of before */
static lab_answer own_sgd(float *w, float *v, const float *dw, int n, float lr, float momentum)
{
    const int m = mistake();
    float    *before = spoil(v, (size_t)n), *g = spoil(dw, (size_t)n), *slot[CNN_MAX_SLOTS] = { v };
    for (int i = 0; i < n; i++) g[i] *= m == 2 ? lr : m == 3 ? -1.0f : m == 4 ? 1 - momentum : 1.0f;
    cnn_sgd()->update(w, g, slot, (size_t)n, &(cnn_step_args){ .lr = m == 2 ? 1 : lr,
                                                               .momentum = m == 1 ? 0 : momentum }, 0);
    for (int i = 0; m == 5 && i < n; i++) w[i] += lr * (v[i] - before[i]);
    return finish(NULL);
}
/* 1 no bias correction, 2 eps within the root, 3 t from 0, 4 v by |dw|, 5 beta1 and beta2 exchanged */
static lab_answer own_adam(float *w, float *m, float *v, const float *dw, int n, float lr, float beta1,
                           float beta2, float eps, int t)
{
    const int wrong = mistake();
    float    *w0 = spoil(w, (size_t)n), *slot[CNN_MAX_SLOTS] = { m, v }, *v0 = spoil(v, (size_t)n);
    cnn_step_args a = { .lr = lr, .beta1 = wrong == 5 ? beta2 : beta1, .beta2 = wrong == 5 ? beta1 : beta2,
                        .eps = eps };
    cnn_adam()->update(w, dw, slot, (size_t)n, &a, wrong == 1 ? 1000000 : wrong == 3 ? t : t - 1);
    for (int i = 0; i < n; i++) {
        if (wrong == 2)
            w[i] = w0[i] - lr * m[i] / (1 - powf(beta1, (float)t))
                           / sqrtf(v[i] / (1 - powf(beta2, (float)t)) + eps);
        if (wrong == 4) v[i] = beta2 * v0[i] + (1 - beta2) * fabsf(dw[i]);
    }
    return finish(NULL);
}
#define ANSWER_sgd  blank = __func__; return own_sgd(w, v, dw, n, lr, momentum)
#define ANSWER_adam blank = __func__; return own_adam(w, m, v, dw, n, lr, beta1, beta2, eps, t)

/* ---- 1 ---- */

/* 1 no bias, 2 weights transposed, 3 J without 1/2, 4 J as a mean, 5 the output without sigmoid */
static lab_answer own_lecture(float *h, float *o, float *J, const float *x, const float *t, const float *W1,
                              const float *b1, const float *W2, const float *b2, int I, int H, int O)
{
    const int       m = mistake();
    lab_lecture_net n = lab_lecture_new(CNN_ISA_AUTO, I, H, O);
    float          *w = spoil(W1, (size_t)(I * H)), *zero = spoil(NULL, (size_t)(H + O));
    if (m == 2) swap_axes(w, W1, H, I);
    lab_set(n.x, x), lab_set(n.t, t), lab_set(n.W1, w), lab_set(n.b1, m == 1 ? zero : b1), lab_set(n.W2, W2);
    lab_set(n.b2, m == 1 ? zero : b2);
    *J = cnn_forward(n.J, CNN_EVAL) * (m == 3 ? 2.0f : m == 4 ? 1.0f / (float)O : 1.0f);
    memcpy(h, cnn_map_read(n.h), (size_t)H * sizeof *h), memcpy(o, cnn_map_read(n.o), (size_t)O * sizeof *o);
    for (int i = 0; m == 5 && i < O; i++) o[i] = logf(o[i] / (1 - o[i]));
    return finish(n.g);
}
/* 1 no derivative of the sigmoid at the output, 2 uphill, 3 none in the hidden layer, 4 (as the lecture
   prints it) the first input for all, 5 W2 transposed */
static lab_answer own_lecture_back(float *gW1, float *gb1, float *gW2, float *gb2, const float *x,
                                   const float *t, const float *h, const float *o, const float *W2, int I,
                                   int H, int O)
{
    const int m = mistake();
    for (int k = 0; k < O; k++) {
        gb2[k] = (m == 2 ? t[k] - o[k] : o[k] - t[k]) * (m == 1 ? 1 : o[k] * (1 - o[k]));
        for (int j = 0; j < H; j++) gW2[k * H + j] = gb2[k] * h[j];
    }
    for (int j = 0; j < H; j++) {
        gb1[j] = 0;
        for (int k = 0; k < O; k++) gb1[j] += gb2[k] * W2[m == 5 ? j * O + k : k * H + j];
        gb1[j] *= m == 3 ? 1 : h[j] * (1 - h[j]);
        for (int i = 0; i < I; i++) gW1[j * I + i] = gb1[j] * x[m == 4 ? 0 : i];
    }
    return DONE;
}
#define ANSWER_lecture_forward  blank = __func__; return own_lecture(h, o, J, x, t, W1, b1, W2, b2, I, H, O)
#define ANSWER_lecture_backward \
    blank = __func__; return own_lecture_back(gW1, gb1, gW2, gb2, x, t, h, o, W2, I, H, O)

/* ---- 6 ---- */

/* 1 sets instead of adds, 2 mean(dy) forgotten, 3 X mean(dy X) forgotten, 4 w forgotten, 5 means over N alone
   */
static lab_answer own_norm(float *dx, float *dw, float *db, const float *dy, const float *x,
                           const float *mean, const float *rstd, const float *w, int N, int C, int HW)
{
    const int m = mistake();
    for (int c = 0; c < C; c++) {
        double sum = 0, product = 0;
        for (int i = 0; i < N * HW; i++) {
            const int at = (i / HW * C + c) * HW + i % HW;
            sum += (double)dy[at], product += (double)(dy[at] * (x[at] - mean[c]) * rstd[c]);
        }
        const float count = (float)(m == 5 ? N : N * HW);
        for (int i = 0; i < N * HW; i++) {
            const int   at = (i / HW * C + c) * HW + i % HW;
            const float X = (x[at] - mean[c]) * rstd[c];
            const float d = dy[at] - (m == 2 ? 0 : (float)sum / count)
                            - (m == 3 ? 0 : X * (float)product / count);
            dx[at] = (m == 1 ? 0 : dx[at]) + d * rstd[c] * (m == 4 ? 1 : w[c]);
        }
        dw[c] += (float)product, db[c] += (float)sum;
    }
    return DONE;
}
#define ANSWER_batch_norm_backward \
    blank = __func__; return own_norm(dx, dw, db, dy, x, mean, rstd, w, N, C, HW)

/* ---- 10 ---- */

/* 1 b transposed, 2 adds to c, 3 the last term of each sum, 4 the columns beyond the last full block of four,
   5 a transposed */
static lab_answer own_gemm(float *c, const float *a, const float *b, int M, int N, int K)
{
    const int m = mistake();
    float    *a2 = spoil(a, (size_t)(M * K)), *b2 = spoil(b, (size_t)(K * N));
    if (m == 5) swap_axes(a2, a, M, K);
    if (m == 1) swap_axes(b2, b, K, N);
    for (int i = 0; m == 3 && i < M; i++) a2[i * K + K - 1] = 0;
    lab_net n = lab_gemm_net(CNN_ISA_AUTO, b2, M, N, K);
    lab_inputs(&n, a2, NULL, NULL, NULL);
    const float *right = lab_forward(&n);
    for (int i = 0; i < M * N; i++)
        if (m != 4 || i % N < N / 4 * 4) c[i] = (m == 2 ? c[i] : 0) + right[i];
    return finish(n.g);
}
#define ANSWER_gemm blank = __func__; return own_gemm(c, a, b, M, N, K)

/* ---- 12 ---- */

/* 1 not weighted, 2 by 1/R, 3 rank 0 alone has the sum, 4 the sum weighted instead of its terms, 5 0 times
   NaN */
#ifdef LAB_MPI
static lab_answer own_add(float *grads, int count, float share)
{
    const int m = mistake();
    int       ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    float *mine = spoil(grads, (size_t)count);
    for (int i = 0; i < count; i++)
        mine[i] = share > 0 || m == 5
                  ? mine[i] * (m == 1 || m == 4 ? 1 : m == 2 ? 1 / (float)ranks : share) : 0;
    if (m == 3) MPI_Reduce(mine, grads, count, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
    else        MPI_Allreduce(mine, grads, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; m == 4 && i < count; i++) grads[i] *= share;
    return finish(NULL);
}
#define ANSWER_add_gradients blank = __func__; return own_add(grads, count, share)
#endif

#endif
