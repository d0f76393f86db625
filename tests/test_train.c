/* Optimizer, training loop, history files, gradient check and summary.

   The optimizer is held to a float64 loop written here and to the published numbers of CS231n; everything else to
   what 10_api says: exact messages, exact totals, the same bits for any number of threads. */
#include "cnn.h"
#include "inside.h"
#include "test.h"
#include <locale.h>

/* ---- A loss with a known gradient: J = sum_i (a_i w_i^2 / 2 + c_i w_i), so dJ/dw_i = a_i w_i + c_i ---- */

static bool bowl_shape(cnn_tensor *y)
{
    cnn_shape one = { 1, 1, 1, 1 };
    y->shape = one;
    return true;
}
static void bowl_forward(cnn_tensor *y, cnn_mode mode)
{
    double sum = 0;
    (void)mode;
    for (size_t i = 0; i < cnn_count(y->in[0]); i++) {
        double w = (double)y->in[0]->data[i];
        sum += 0.5 * (double)y->in[1]->data[i] * w * w + (double)y->in[2]->data[i] * w;
    }
    y->data[0] = (float)sum;
}
static void bowl_backward(cnn_tensor *y)
{
    for (size_t i = 0; i < cnn_count(y->in[0]); i++)
        y->in[0]->grad[i] += y->grad[0] * (y->in[1]->data[i] * y->in[0]->data[i] + y->in[2]->data[i]);
}
static void bowl_backward_wrong(cnn_tensor *y)                        /* forgets c */
{
    for (size_t i = 0; i < cnn_count(y->in[0]); i++)
        y->in[0]->grad[i] += y->grad[0] * y->in[1]->data[i] * y->in[0]->data[i];
}
static const cnn_op bowl  = { .name = "bowl",  .shape = bowl_shape, .forward = bowl_forward, .backward = bowl_backward,
                              .flags = CNN_READS_X | CNN_LOSS };
static const cnn_op wrong = { .name = "wrong", .shape = bowl_shape, .forward = bowl_forward, .backward = bowl_backward_wrong,
                              .flags = CNN_READS_X | CNN_LOSS };

typedef struct { cnn_graph *g; cnn_tensor *w, *loss; int n; } hill;
static hill new_hill(const cnn_op *op, cnn_config config, int n, const float *w, const float *a, const float *c)
{
    hill h;
    cnn_shape s = { 1, n, 1, 1 };
    h.n = n;
    h.g = cnn_new_(config);
    h.w = cnn_param(h.g, "w", s);
    cnn_tensor *in[3] = { h.w, cnn_const(h.g, s, a), cnn_const(h.g, s, c) };
    h.loss = cnn_apply(op, in, 3, NULL, NULL);
    cnn_compile(h.g, h.loss);
    cnn_set(h.w, w, (size_t)n);
    return h;
}
static void run_hill(hill *h) { cnn_forward(h->loss, CNN_TRAIN), cnn_backward(h->loss); }

/* ---- Optimizer ---- */

/* CS231n 2016, assignment 2, sgd_momentum: v = mu v - lr dw, w += v; as published, to 8 digits. In the form used
   here, b = -v / lr. */
static void sgd_momentum_cs231n(void)
{
    static const double next_w[20] = { 0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789, 0.47454737, 0.54133684,
        0.60812632, 0.67491579, 0.74170526, 0.80849474, 0.87528421, 0.94207368, 1.00886316, 1.07565263, 1.14244211,
        1.20923158, 1.27602105, 1.34281053, 1.4096 };
    static const double next_v[20] = { 0.5406, 0.55475789, 0.56891579, 0.58307368, 0.59723158, 0.61138947, 0.62554737,
        0.63970526, 0.65386316, 0.66802105, 0.68217895, 0.69633684, 0.71049474, 0.72465263, 0.73881053, 0.75296842,
        0.76712632, 0.78128421, 0.79544211, 0.8096 };
    float w[20], a[20] = { 0 }, dw[20], got[20];
    for (int i = 0; i < 20; i++) w[i] = (float)(-0.4 + i / 19.0), dw[i] = (float)(-0.6 + i / 19.0);
    hill h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 20, w, a, dw);
    float *b = h.g->arena[CNN_ARENA_OPTIMIZER];
    for (int i = 0; i < 20; i++) b[i] = (float)(-(0.6 + 0.3 * i / 19) / 1e-3);
    run_hill(&h);
    CHECK(cnn_step(h.g, .lr = 1e-3f, .momentum = 0.9f));
    CHECK(cnn_get(h.w, got, 20));
    CHECK_ALL_NEAR(got, next_w, 20, 2e-7);
    for (int i = 0; i < 20; i++) CHECK_NEAR(-1e-3 * (double)b[i], next_v[i], 1e-7);
    cnn_free(h.g);
}

/* Ten steps against the formulas in float64, for lengths around the blocks and several numbers of threads. */
static void sgd_against_float64(void)
{
    static const struct { float momentum, decay; int nesterov; } rule[] = { { 0, 0, 0 }, { 0, 0.01f, 0 }, { 0.9f, 0, 0 },
        { 0.9f, 0.01f, 0 }, { 0.9f, 0, 1 }, { 0.8f, 0.02f, 1 } };
    static const int length[] = { 1, 17, 1000, 150001 };
    for (size_t l = 0; l < sizeof length / sizeof *length; l++) {
        int    n = length[l];
        size_t size = (size_t)n;
        float *w = test_floats(size), *a = test_floats(size), *c = test_floats(size), *got = test_floats(size), *first = test_floats(size);
        double *rw = test_alloc(size * sizeof *rw), *rb = test_alloc(size * sizeof *rb);
        test_fill(w, size, -1, 1), test_fill(a, size, 0, 2), test_fill(c, size, -1, 1);
        for (size_t r = 0; r < sizeof rule / sizeof *rule; r++) {
            float lr = 0.05f;
            for (int i = 0; i < n; i++) rw[i] = (double)w[i], rb[i] = 0;
            for (int step = 0; step < 10; step++)
                for (int i = 0; i < n; i++) {
                    double d = (double)a[i] * rw[i] + (double)c[i] + (double)rule[r].decay * rw[i];
                    rb[i] = step ? (double)rule[r].momentum * rb[i] + d : d;                   /* PyTorch's first step: b = d */
                    rw[i] -= (double)lr * (rule[r].nesterov ? d + (double)rule[r].momentum * rb[i] : rb[i]);
                }
            for (int threads = 1; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
                hill h = new_hill(&bowl, (cnn_config){ .seed = 1, .threads = threads }, n, w, a, c);
                for (int step = 0; step < 10; step++) {
                    run_hill(&h);
                    CHECK(cnn_step(h.g, .lr = lr, .momentum = rule[r].momentum, .weight_decay = rule[r].decay,
                                   .nesterov = rule[r].nesterov));
                }
                CHECK(cnn_get(h.w, got, size));
                CHECK_ALL_NEAR(got, rw, n, 5e-6);
                if (threads == 1) memcpy(first, got, size * sizeof *got);
                CHECK_SAME_BITS(got, first, size);
                CHECK_INT(h.g->step, 10);
                CHECK_STR(cnn_error(h.g), NULL);
                cnn_free(h.g);
            }
        }
        free(w), free(a), free(c), free(got), free(first), free(rw), free(rb);
    }
}

/* CS231n 2016, assignment 2, rmsprop and adam: next_w as published, to 8 digits. */
static void rmsprop_cs231n(void)
{
    static const double next_w[20] = { -0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247,
        -0.13273700, -0.08078555, -0.02881884, 0.02316247, 0.07515774, 0.12716641, 0.17918792, 0.23122175,
        0.28326742, 0.33532447, 0.38739248, 0.43947102, 0.49155973, 0.54365823, 0.59576619 };
    float w[20], a[20] = { 0 }, dw[20], got[20];
    for (int i = 0; i < 20; i++) w[i] = (float)(-0.4 + i / 19.0), dw[i] = (float)(-0.6 + i / 19.0);
    hill h = new_hill(&bowl, (cnn_config){ .optimizer = cnn_rmsprop() }, 20, w, a, dw);
    for (int i = 0; i < 20; i++) h.g->arena[CNN_ARENA_OPTIMIZER][i] = (float)(0.6 + 0.3 * i / 19);
    run_hill(&h);
    CHECK(cnn_step(h.g, .lr = 1e-2f));
    CHECK(cnn_get(h.w, got, 20));
    CHECK_ALL_NEAR(got, next_w, 20, 2e-7);
    cnn_free(h.g);
}
static void adam_cs231n(void)
{
    static const double next_w[20] = { -0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977,
        -0.13802740, -0.08544591, -0.03286534, 0.01971428, 0.07229290, 0.12487050, 0.17744702, 0.23002243,
        0.28259667, 0.33516969, 0.38774145, 0.44031188, 0.49288093, 0.54544852, 0.59801459 };
    float w[20], a[20] = { 0 }, dw[20], got[20];
    for (int i = 0; i < 20; i++) w[i] = (float)(-0.4 + i / 19.0), dw[i] = (float)(-0.6 + i / 19.0);
    hill h = new_hill(&bowl, (cnn_config){ .optimizer = cnn_adam() }, 20, w, a, dw);
    float *m = h.g->arena[CNN_ARENA_OPTIMIZER], *v = m + h.g->n_trained;
    for (int i = 0; i < 20; i++) m[i] = (float)(0.6 + 0.3 * i / 19), v[i] = (float)(0.7 - 0.2 * i / 19);
    cnn__of(h.w)->steps = 5;                                              /* the notebook's t becomes 6 */
    run_hill(&h);
    CHECK(cnn_step(h.g, .lr = 1e-2f));
    CHECK(cnn_get(h.w, got, 20));
    CHECK_ALL_NEAR(got, next_w, 20, 2e-7);
    cnn_free(h.g);
}

/* Ten steps of each optimizer against PyTorch's formulas in float64. */
static void optimizers_against_float64(void)
{
    static const int length[] = { 1, 17, 150001 };
    const cnn_optimizer *const all[] = { cnn_adam(), cnn_adamw(), cnn_rmsprop(), cnn_rmsprop_centered(), cnn_adagrad() };
    for (int k = 0; k < 5 * 3 * 2; k++) {
        const cnn_optimizer *o = all[k % 5];
        bool   rmsprop = o == cnn_rmsprop() || o == cnn_rmsprop_centered();
        int    n = length[k / 5 % 3], said = k / 15;                      /* said: the options, else their defaults */
        size_t size = (size_t)n;
        float *w = test_floats(size), *a = test_floats(size), *c = test_floats(size), *got = test_floats(size), *first = test_floats(size);
        double *rw = test_alloc(size * sizeof *rw), *p = test_alloc(size * sizeof *p), *q = test_alloc(size * sizeof *q), *m = test_alloc(size * sizeof *m);
        test_fill(w, size, -1, 1), test_fill(a, size, 0.1, 2), test_fill(c, size, 0.5, 1);
        cnn_step_args s = { .lr = 0.01f };
        if (said) s.weight_decay = 0.1f, s.eps = 1e-3f;
        if (said && rmsprop) s.momentum = 0.5f, s.alpha = 0.9f;
        if (said && (o == cnn_adam() || o == cnn_adamw())) s.beta1 = 0.8f, s.beta2 = 0.95f;
        double lr = (double)s.lr, decay = (double)s.weight_decay, eps = said ? (double)s.eps : o == cnn_adagrad() ? 1e-10 : 1e-8;
        double b1 = said ? (double)s.beta1 : 0.9, b2 = said ? (double)s.beta2 : 0.999, alpha = said ? (double)s.alpha : 0.99;
        for (int i = 0; i < n; i++) rw[i] = (double)w[i], p[i] = q[i] = m[i] = 0;
        for (int t = 1; t <= 10; t++)
            for (int i = 0; i < n; i++) {
                double d = (double)a[i] * rw[i] + (double)c[i];
                if (o == cnn_adamw()) rw[i] *= 1 - lr * (said ? decay : 0.01);
                else d += decay * rw[i];
                if (o == cnn_adam() || o == cnn_adamw()) {
                    p[i] = b1 * p[i] + (1 - b1) * d, q[i] = b2 * q[i] + (1 - b2) * d * d;
                    rw[i] -= lr * (p[i] / (1 - pow(b1, t))) / (sqrt(q[i] / (1 - pow(b2, t))) + eps);
                } else if (rmsprop) {
                    p[i] = alpha * p[i] + (1 - alpha) * d * d;
                    if (o == cnn_rmsprop_centered()) m[i] = alpha * m[i] + (1 - alpha) * d;
                    q[i] = (double)s.momentum * q[i] + d / (sqrt(p[i] - m[i] * m[i]) + eps);
                    rw[i] -= lr * q[i];
                } else {
                    p[i] += d * d;
                    rw[i] -= lr * d / (sqrt(p[i]) + eps);
                }
            }
        for (int threads = 1; threads <= 3; threads++) {
            hill h = new_hill(&bowl, (cnn_config){ .threads = threads, .optimizer = o }, n, w, a, c);
            s.g = h.g;
            for (int t = 0; t < 10; t++) run_hill(&h), CHECK(cnn_step_(s));
            CHECK(cnn_get(h.w, got, size));
            CHECK_ALL_NEAR(got, rw, n, 2e-5);
            if (threads == 1) memcpy(first, got, size * sizeof *got);
            CHECK_SAME_BITS(got, first, size);
            CHECK_STR(cnn_error(h.g), NULL);
            cnn_free(h.g);
        }
        free(w), free(a), free(c), free(got), free(first), free(rw), free(p), free(q), free(m);
    }
}

static void clip_and_average(void)
{
    float  w[40], a[40] = { 0 }, c[40], got[40], grad[40];
    double sum = 0;
    test_fill(w, 40, -1, 1), test_fill(c, 40, -1, 1);
    for (int i = 0; i < 40; i++) sum += (double)c[i] * (double)c[i];
    hill h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 40, w, a, c);
    run_hill(&h);
    double norm = cnn_clip_grads(h.g, 100);                               /* CHECK_NEAR evaluates twice */
    CHECK_NEAR(norm, sqrt(sum), 1e-12);
    CHECK(cnn_get_grad(h.w, grad, 40));
    CHECK_SAME_BITS(grad, c, 40);
    norm = cnn_clip_grads(h.g, 0.5f);
    CHECK_NEAR(norm, sqrt(sum), 1e-12);
    norm = cnn_clip_grads(h.g, 10);
    CHECK_NEAR(norm, 0.5, 1e-5);
    CHECK(cnn_average(h.g, 0.75f));                                       /* w, then a quarter of the way to w - c, ... */
    run_hill(&h), cnn_step(h.g, .lr = 1);
    CHECK(cnn_average(h.g, 0.75f) && cnn_swap_average(h.g) && cnn_get(h.w, got, 40));
    for (int i = 0; i < 40; i++) CHECK_NEAR(got[i], (double)w[i] - 0.25 * (double)c[i], 1e-6);
    CHECK(cnn_swap_average(h.g) && cnn_get(h.w, got, 40));
    for (int i = 0; i < 40; i++) CHECK_NEAR(got[i], (double)w[i] - (double)c[i], 1e-6);
    CHECK(isnan(cnn_clip_grads(h.g, 0)));
    CHECK_STR(test_words(cnn_error(h.g)), "clip: max_norm 0 must be positive");
    cnn_free(h.g);
    h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 40, w, a, c);
    CHECK(isnan(cnn_clip_grads(h.g, 1)) && cnn_error(h.g));
    cnn_free(h.g);
    h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 40, w, a, c);
    CHECK(!cnn_swap_average(h.g));
    CHECK_STR(test_words(cnn_error(h.g)), "swap_average: there is no average: call cnn_average after each cnn_step");
    cnn_free(h.g);
    h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 40, w, a, c);
    CHECK(!cnn_average(h.g, 1));
    CHECK_STR(test_words(cnn_error(h.g)), "average: decay 1 is outside [0,1)");
    cnn_free(h.g);
}

static void lr_scale_by_name(void)
{
    cnn_graph  *g = cnn_new(.seed = 3, .max_batch = 1);
    cnn_shape   s = { 1, 37, 1, 1 };
    float       zero[37] = { 0 }, one[37], before[3][37], after[3][37];
    for (int i = 0; i < 37; i++) one[i] = 1;
    cnn_tensor *p[3] = { cnn_param(g, "a.weight", s), cnn_param(g, "b.weight", s), cnn_param(g, "b.bias", s) };
    cnn_tensor *in[3] = { cnn_add(cnn_add(p[0], p[1]), p[2]), cnn_const(g, s, zero), cnn_const(g, s, one) };
    cnn_tensor *loss = cnn_apply(&bowl, in, 3, NULL, NULL);
    CHECK(cnn_compile(g, loss));
    CHECK(cnn_set_lr_scale(g, "b.*", 0.1f) && cnn_set_lr_scale(g, "*.bias", 0));
    for (int i = 0; i < 3; i++) CHECK(cnn_get(p[i], before[i], 37));
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK_NEAR(cnn_clip_grads(g, 1000), sqrt(74.0), 1e-12);
    CHECK(cnn_step(g, .lr = 0.5f));
    static const double moved[3] = { 0.5, 0.05, 0 };
    for (int i = 0; i < 3; i++) {
        CHECK(cnn_get(p[i], after[i], 37));
        for (int k = 0; k < 37; k++) CHECK_NEAR(before[i][k] - after[i][k], moved[i], 1e-6);
    }
    CHECK(!cnn_set_lr_scale(g, "c*", 1));
    CHECK(strstr(cnn_error(g), "lr_scale: no parameter that is trained has a name like \"c*\""));
    cnn_free(g);
    CHECK(cnn__matches("*", "") && cnn__matches("a*c*", "abcabd") && !cnn__matches("a*c", "abca") && !cnn__matches("a", "ab"));
}

/* A parameter that is let go after nine updates learns as if the training had begun there: its moments have seen
   nothing. So PyTorch, whose state is the parameter's own. And the first move is PyTorch's: Adam's is lr. */
static void late_parameters(void)
{
    int n;
    const cnn_optimizer *const *all = cnn_optimizers(&n);
    CHECK_INT(n, 6);
    for (int o = 0; o < n; o++) {
        const bool  sgd = all[o] == cnn_sgd(), centered = all[o] == cnn_rmsprop_centered();
        cnn_shape   s = { 1, 37, 1, 1 }, both = { 1, 74, 1, 1 };
        float       a[74], c[74], w[37], got[2][3][37];
        cnn_step_args step = { .lr = 0.01f, .momentum = sgd ? 0.9f : 0, .dampening = sgd ? 0.5f : 0 };
        test_fill(a, 74, 0, 2), test_fill(c, 74, 3, 4), test_fill(w, 37, -1, 1);
        for (int late = 0; late < 2; late++) {
            cnn_graph  *g = step.g = cnn_new(.optimizer = all[o]);
            cnn_tensor *p = cnn_param(g, "p", s), *q = cnn_param(g, "q", s);
            cnn_tensor *in[3] = { cnn_concat(p, q), cnn_const(g, both, a), cnn_const(g, both, c) };
            cnn_tensor *loss = cnn_apply(&bowl, in, 3, NULL, NULL);
            CHECK(cnn_compile(g, loss) && cnn_set(q, w, 37) && cnn_set_lr_scale(g, "q", late ? 0 : 1));
            for (int k = late ? -9 : 0; k < 3; k++) {
                if (k == 0) CHECK(cnn_set_lr_scale(g, "q", 1));
                cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
                CHECK(cnn_step_(step));
                if (k >= 0) CHECK(cnn_get(q, got[late][k], 37));
            }
            CHECK_INT(cnn__of(p)->steps, late ? 12 : 3);
            CHECK_INT(cnn__of(q)->steps, 3);
            CHECK_INT(g->step, late ? 12 : 3);
            cnn_free(g);
        }
        CHECK(memcmp(got[0], got[1], sizeof *got) == 0);
        for (int i = 0; i < 37; i++) {
            double d = (double)a[37 + i] * (double)w[i] + (double)c[37 + i], decay = all[o] == cnn_adamw() ? 1e-4 : 0;
            double move = sgd ? d : centered ? 1 / sqrt(0.01 - 1e-4) : all[o] == cnn_rmsprop() ? 10 : 1;
            CHECK_NEAR((double)w[i] * (1 - decay) - (double)got[1][0][i], 0.01 * move, 1e-6);
        }
    }
}

static void frozen_stays(void)
{
    cnn_graph  *g = cnn_new(.seed = 3);
    cnn_shape   s = { 1, 5, 1, 1 };
    float       a[5] = { 1, 1, 1, 1, 1 }, before[5], after[5];
    cnn_tensor *u = cnn_param(g, "u", s, .init = CNN_INIT_UNIFORM), *v = cnn_freeze(cnn_param(g, "v", s, .init = CNN_INIT_UNIFORM));
    cnn_tensor *in[3] = { cnn_add(u, v), cnn_const(g, s, a), cnn_const(g, s, a) };
    cnn_tensor *loss = cnn_apply(&bowl, in, 3, NULL, NULL);
    CHECK(cnn_compile(g, loss));
    CHECK(cnn_get(v, before, 5));
    for (int i = 0; i < 3; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f, .weight_decay = 0.1f);
    CHECK(cnn_get(v, after, 5));
    CHECK_SAME_BITS(before, after, 5);
    CHECK_INT(cnn_param_count(g), 10);
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

/* The message of one wrong cnn_step. after: 0 = before compile, 1 = before backward, 2 = after it. */
static void step_error(int after, bool inference, cnn_step_args a, const char *message)
{
    cnn_graph  *g = cnn_new(.inference = inference);
    cnn_shape   s = { 1, 2, 1, 1 };
    float       one[2] = { 1, 1 };
    cnn_tensor *in[3] = { cnn_param(g, "w", s), cnn_const(g, s, one), cnn_const(g, s, one) };
    cnn_tensor *loss = cnn_apply(&bowl, in, 3, NULL, NULL);
    if (after >= 1) cnn_compile(g, loss);
    if (after >= 2) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    a.g = g, a.at = "here.c:7";
    CHECK(!cnn_step_(a));
    CHECK_STR(cnn_error(g), message);
    cnn_free(g);
}
static void step_errors(void)
{
    const char *no_lr = "here.c:7: step: lr 0: the learning rate is required and must be positive, such as .lr = 0.01f";
    step_error(2, false, (cnn_step_args){ .lr = 0 }, no_lr);
    step_error(2, false, (cnn_step_args){ .lr = -0.5f },
               "here.c:7: step: lr -0.5: the learning rate is required and must be positive, such as .lr = 0.01f");
    step_error(2, false, (cnn_step_args){ .lr = INFINITY },
               "here.c:7: step: lr inf: the learning rate is required and must be positive, such as .lr = 0.01f");
    step_error(2, false, (cnn_step_args){ .lr = 1, .momentum = 1 }, "here.c:7: step: momentum is 1: it must be in [0,1)");
    step_error(2, false, (cnn_step_args){ .lr = 1, .momentum = -0.5f }, "here.c:7: step: momentum is -0.5: it must be in [0,1)");
    step_error(2, false, (cnn_step_args){ .lr = 1, .weight_decay = -1 }, "here.c:7: step: weight_decay is -1: it must be in [0,inf)");
    step_error(2, false, (cnn_step_args){ .lr = 1, .momentum = 0.9f, .dampening = 2 },
               "here.c:7: step: dampening is 2: it must be in [0,1]");
    step_error(2, false, (cnn_step_args){ .lr = 1, .dampening = 0.5f },
               "here.c:7: step: dampening is for sgd with a momentum, not Nesterov's");
    step_error(2, false, (cnn_step_args){ .lr = 1, .beta1 = 0.9f },
               "here.c:7: step: beta1 is for adam, adamw; this graph's optimizer is sgd");
    step_error(2, false, (cnn_step_args){ .lr = 1, .alpha = 0.9f },
               "here.c:7: step: alpha is for rmsprop, rmsprop_centered; this graph's optimizer is sgd");
    step_error(2, false, (cnn_step_args){ .lr = 1, .nesterov = 1 },
               "here.c:7: step: nesterov needs a momentum, such as .momentum = 0.9f");
    step_error(0, false, (cnn_step_args){ .lr = 1 }, "here.c:7: step: the graph is not compiled");
    step_error(1, false, (cnn_step_args){ .lr = 1 },
               "here.c:7: step: no gradients yet: call cnn_forward(loss, CNN_TRAIN) and cnn_backward(loss) first");
    step_error(1, true, (cnn_step_args){ .lr = 1 },
               "here.c:7: step: the graph was made with .inference = 1: it has no gradients");
    cnn_step_args no_graph = { .lr = NAN };
    CHECK(!cnn_step_(no_graph));
    CHECK(strcmp(cnn_sgd()->name, "sgd") == 0);
}

/* ---- A device that is a second malloc, has no rows, and may update ---- */

static void *mirror_alloc(cnn_backend *d, size_t bytes) { (void)d; return malloc(bytes); }
static void  mirror_release(cnn_backend *d, void *buffer) { (void)d, free(buffer); }
static bool  mirror_upload(cnn_backend *d, void *buffer, size_t at, const void *from, size_t bytes)
{
    (void)d, memcpy((char *)buffer + at, from, bytes);
    return true;
}
static bool  mirror_download(cnn_backend *d, void *buffer, size_t at, void *to, size_t bytes)
{
    (void)d, memcpy(to, (char *)buffer + at, bytes);
    return true;
}
static bool  mirror_clear(cnn_backend *d, void *buffer, size_t at, size_t bytes)
{
    (void)d, memset((char *)buffer + at, 0, bytes);
    return true;
}
static int updates, update_mode;                                          /* 0: update, 1: leave it to the host, 2: fail */
static bool mirror_update(cnn_backend *d, const cnn_optimizer *o, cnn_place w, cnn_place dw, cnn_place slots, size_t n,
                          size_t stride, const cnn_step_args *a, long step)
{
    float *slot[CNN_MAX_SLOTS] = { (float *)slots.buffer + slots.at };
    (void)stride;
    if (update_mode == 2) strcpy(d->error, "lost");
    if (update_mode) return false;
    updates++;
    o->update((float *)w.buffer + w.at, (float *)dw.buffer + dw.at, slot, n, a, step);
    return true;
}
static void step_on_a_device(void)
{
    float w[40], a[40], c[40], cpu[40], dev[40];
    test_fill(w, 40, -1, 1), test_fill(a, 40, 0, 2), test_fill(c, 40, -1, 1);
    for (int way = 0; way < 3; way++) {                                   /* always there; never; by turns */
        cnn_backend mirror = { .name = "mirror", .alloc = mirror_alloc, .release = mirror_release, .upload = mirror_upload,
                               .download = mirror_download, .clear = mirror_clear, .update = mirror_update };
        hill h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 40, w, a, c);
        hill d = new_hill(&bowl, (cnn_config){ .seed = 1, .backend = &mirror }, 40, w, a, c);
        updates = 0;
        for (int i = 0; i < 6; i++) {
            update_mode = way == 2 ? i / 2 % 2 : way;
            run_hill(&h), run_hill(&d);
            CHECK(cnn_step(h.g, .lr = 0.1f, .momentum = 0.9f) && cnn_step(d.g, .lr = 0.1f, .momentum = 0.9f));
        }
        CHECK_INT(updates, way == 0 ? 6 : way == 1 ? 0 : 4);
        CHECK(cnn_get(h.w, cpu, 40) && cnn_get(d.w, dev, 40));
        CHECK_SAME_BITS(cpu, dev, 40);
        if (way == 2) {
            update_mode = 2;
            run_hill(&d);
            CHECK(!cnn_step_((cnn_step_args){ .at = "here.c:7", .g = d.g, .lr = 0.1f }));
            CHECK_STR(cnn_error(d.g), "here.c:7: step: mirror: lost");
        }
        cnn_free(h.g), cnn_free(d.g);
    }
}

/* ---- A small task: which quarter of an 8x8 picture is bright? ---- */

enum { SIDE = 8, PIXELS = SIDE * SIDE, SAMPLES = 203, CLASSES = 4 };
typedef struct { unsigned char pixels[SAMPLES * PIXELS], labels[SAMPLES]; cnn_dataset data; } quarters;
static quarters *new_quarters(int count)
{
    quarters *q = test_alloc(sizeof *q);
    for (int i = 0; i < SAMPLES; i++) {
        int k = i % CLASSES;
        q->labels[i] = (unsigned char)k;
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                q->pixels[i * PIXELS + y * SIDE + x] =
                    (unsigned char)(test_int(0, 150) + (y / 4 == k / 2 && x / 4 == k % 2 ? 100 : 0));
    }
    q->data = cnn_bytes(q->pixels, q->labels, count, 1, SIDE, SIDE);
    return q;
}
static void free_quarters(quarters *q) { cnn_dataset_free(&q->data), free(q); }

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *logits, *loss; } net;
static net new_net_for(cnn_config config, bool noisy)
{
    net n;
    n.g = cnn_new_(config);
    n.x = cnn_input(n.g, 1, SIDE, SIDE);
    n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_conv2d(n.x, 4, 3, .pad = 1);
    if (noisy) h = cnn_batch_norm(h);
    h = cnn_avg_pool(cnn_tanh(h), 2);
    if (noisy) h = cnn_dropout(h, 0.25f);
    n.logits = cnn_dense(h, CLASSES);
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    if (!cnn_compile(n.g, n.loss)) printf("    %s\n", cnn_error(n.g));
    return n;
}
static net new_net(void) { return new_net_for((cnn_config){ .max_batch = 16, .seed = 5 }, false); }

static bool same_params(cnn_graph *a, cnn_graph *b)
{
    size_t n = 0, m = 0;
    const float *p = cnn_flat_params(a, &n), *q = cnn_flat_params(b, &m);
    return p && q && n == m && memcmp(p, q, n * sizeof *p) == 0;
}

/* ---- Training loop ---- */

static void fit_learns(void)
{
    quarters *train = new_quarters(SAMPLES), *test = new_quarters(50);
    cnn_history h = { 0 };
    net n = new_net();
    CHECK(cnn_fit(n.loss, n.logits, &train->data, .epochs = 6, .lr = 0.05f, .momentum = 0.9f, .validation = &test->data,
                  .history = &h));
    CHECK_STR(cnn_error(n.g), NULL);
    CHECK_INT(h.count, 6);
    CHECK_INT(n.g->step, 6 * 13);                                         /* 203 samples in batches of 16 */
    if (h.count == 6) {
        CHECK(h.epoch[5].loss < h.epoch[0].loss);
        CHECK(h.epoch[5].accuracy > 0.95);
        CHECK(h.epoch[5].validation_accuracy > 0.95);
        CHECK(h.epoch[0].seconds >= 0);
        cnn_score s = cnn_evaluate(n.loss, n.logits, &test->data);
        CHECK_INT(s.count, 50);
        CHECK_NEAR(s.loss, h.epoch[5].validation_loss, 0);
        CHECK_NEAR(s.accuracy, h.epoch[5].validation_accuracy, 0);
    }
    cnn_history_free(&h);
    CHECK(h.epoch == NULL && h.count == 0);
    cnn_free(n.g), free_quarters(train), free_quarters(test);
}

/* Two calls of one epoch are one call of two; the same bits for any number of threads. */
static void fit_same_bits(void)
{
    quarters *q = new_quarters(75);
    net two = new_net_for((cnn_config){ .max_batch = 16, .seed = 5 }, true);
    CHECK(cnn_fit(two.loss, two.logits, &q->data, .epochs = 2, .lr = 0.05f, .momentum = 0.9f, .nesterov = 1));
    for (int threads = 1; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
        net one = new_net_for((cnn_config){ .max_batch = 16, .seed = 5, .threads = threads }, true);
        CHECK(cnn_fit(one.loss, one.logits, &q->data, .lr = 0.05f, .momentum = 0.9f, .nesterov = 1));
        CHECK(!same_params(one.g, two.g));
        CHECK(cnn_fit(one.loss, one.logits, &q->data, .lr = 0.05f, .momentum = 0.9f, .nesterov = 1));
        CHECK(same_params(one.g, two.g));
        cnn_free(one.g);
    }
    cnn_free(two.g), free_quarters(q);
}

/* cnn_fit without shuffling is the loop that one would write. */
static void fit_is_the_loop(void)
{
    quarters *q = new_quarters(SAMPLES);
    net a = new_net(), b = new_net();
    cnn_history h = { 0 };
    double sum = 0, right = 0;
    CHECK(cnn_fit(a.loss, a.logits, &q->data, .lr = 0.03f, .weight_decay = 0.001f, .no_shuffle = 1, .history = &h));
    for (int i = 0, n; (n = cnn_feed(b.x, b.t, &q->data, i)) > 0; i += n) {
        sum += n * (double)cnn_forward(b.loss, CNN_TRAIN);
        right += cnn_correct(b.logits, b.t);
        cnn_backward(b.loss), cnn_step(b.g, .lr = 0.03f, .weight_decay = 0.001f);
    }
    CHECK(same_params(a.g, b.g));
    CHECK_INT(h.count, 1);
    if (h.count == 1) {
        CHECK_NEAR(h.epoch[0].loss, sum / SAMPLES, 1e-12);
        CHECK_NEAR(h.epoch[0].accuracy, right / SAMPLES, 1e-12);
        CHECK(isnan(h.epoch[0].validation_loss));
    }
    cnn_history_free(&h), cnn_free(a.g), cnn_free(b.g), free_quarters(q);
}

/* An optimizer that writes down the learning rates into its only parameter's memory would be too clever: it keeps
   them in a static array, which a test may. */
static float rates[256];
static void note_rate(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a, long step)
{
    (void)w, (void)dw, (void)slot, (void)n;
    if (step >= 0 && step < 256) rates[step] = a->lr;
}
static void fit_schedule(void)
{
    static const cnn_optimizer note = { "note", 0, note_rate, NULL, NULL };
    quarters *q = new_quarters(64);
    net n = new_net_for((cnn_config){ .max_batch = 16, .optimizer = &note }, false);
    CHECK_INT(cnn_plan(n.g, n.loss).optimizer, 0);
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 3, .lr = 0.5f, .lr_end = 0.1f));
    for (int i = 0; i < 12; i++) CHECK_NEAR(rates[i], 0.5 - 0.4 * i / 11, 1e-7);
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .lr = 0.25f));
    for (int i = 12; i < 16; i++) CHECK_NEAR(rates[i], 0.25, 0);
    cnn_history h = { .count = 0 };
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .lr = 0.3f, .lr_end = 0, .history = &h, .per_update = 1));   /* given: to 0 */
    for (int i = 0; i < 4; i++) CHECK_NEAR(h.update[i].lr, 0.3 - 0.1 * i, 1e-7);
    cnn_history_free(&h), cnn_free(n.g), free_quarters(q);
}

/* Adam's state goes through a checkpoint: the training continues to the bit when cnn_load is given the same optimizer. */
static void adam_is_saved(void)
{
    quarters *q = new_quarters(64);
    net n = new_net_for((cnn_config){ .max_batch = 16, .seed = 5, .optimizer = cnn_adam() }, false);
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 2, .lr = 0.01f));
    size_t size = cnn_save_checkpoint_memory(n.g, NULL, 0);
    char  *file = test_alloc(size);
    CHECK(size > 0 && cnn_save_checkpoint_memory(n.g, file, size) == size);
    cnn_graph *g = cnn_load_memory(file, size, (cnn_load_args){ .path = "memory", .max_batch = 16, .optimizer = cnn_adam() });
    CHECK_STR(cnn_error(g), NULL);
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .lr = 0.01f) && cnn_fit(cnn_loss(g), cnn_output(g), &q->data, .lr = 0.01f));
    CHECK(same_params(n.g, g));
    cnn_free(n.g), cnn_free(g), free(file), free_quarters(q);
}

/* A file that another optimizer trained has no moments: the first step is a first step, and Adam moves by lr. Counts
   of updates go through a checkpoint: what learned and what stood still go on to the bit. */
static void counts_are_saved(void)
{
    int n_all;
    const cnn_optimizer *const *all = cnn_optimizers(&n_all);
    quarters *q = new_quarters(64);
    for (int o = 0; o < n_all; o++)
        for (int other = 0; other < 2; other++) {
            net n = new_net_for((cnn_config){ .max_batch = 16, .seed = 5, .optimizer = other ? cnn_sgd() : all[o] }, false);
            cnn_fit_args a = { .train = &q->data, .lr = 0.01f, .no_shuffle = 1 };
            CHECK(cnn_set_lr_scale(n.g, "*.bias", 0));
            CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 5, .lr = 0.01f));
            size_t size = cnn_save_checkpoint_memory(n.g, NULL, 0);
            char  *file = test_alloc(size);
            CHECK(cnn_save_checkpoint_memory(n.g, file, size) == size);
            cnn_graph *g = cnn_load_memory(file, size, (cnn_load_args){ .path = "memory", .max_batch = 16, .optimizer = all[o] });
            CHECK_STR(cnn_error(g), NULL);
            const bool same = !other || all[o] == cnn_sgd();
            for (int i = 0; i < g->n_order; i++) {
                cnn_tensor *t = &g->order[i]->t;
                if (t->kind == CNN_PARAM) CHECK_INT(g->order[i]->steps, same && !strstr(t->name, "bias") ? 20 : 0);
            }
            if (same) {
                CHECK(cnn_set_lr_scale(n.g, "*.bias", 1));
                a.loss = n.loss, a.logits = n.logits;
                CHECK(cnn_fit_(a));
                a.loss = cnn_loss(g), a.logits = cnn_output(g);
                CHECK(cnn_fit_(a));
                CHECK(same_params(n.g, g));
            } else if (all[o] == cnn_adam()) {
                float before[8], after[8], grad[8];
                cnn_tensor *w = cnn_find(g, "dense1.weight");
                CHECK(cnn_feed(cnn_find(g, n.x->name), cnn_find(g, n.t->name), &q->data, 0) == 16);
                cnn_forward(cnn_loss(g), CNN_TRAIN), cnn_backward(cnn_loss(g));
                memcpy(before, cnn_map_read(w), sizeof before), memcpy(grad, cnn_map_grad(w), sizeof grad);
                CHECK(cnn_step(g, .lr = 0.01f));
                memcpy(after, cnn_map_read(w), sizeof after);
                for (int i = 0; i < 8; i++)
                    CHECK_NEAR(before[i] - after[i], grad[i] > 0 ? 0.01 : -0.01, 1e-5);
            }
            cnn_free(n.g), cnn_free(g), free(file);
        }
    free_quarters(q);
}

static float half(float progress, void *user) { return *(float *)user * (1 - progress); }
static void fit_schedules(void)
{
    static const cnn_optimizer note = { "note", 0, note_rate, NULL, NULL };
    quarters *q = new_quarters(64);
    net   n = new_net_for((cnn_config){ .max_batch = 16, .optimizer = &note }, false);
    float factor = 0.5f;
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 3, .lr = 0.5f, .schedule = cnn_cosine, .warmup = 4));
    for (int i = 0; i < 12; i++) {
        double lr = 0.25 + 0.25 * cos(3.14159265358979 * i / 11);
        CHECK_NEAR(rates[i], i == 11 ? rates[i] : i < 4 ? lr * (i + 1) / 4 : lr, 1e-6);
    }
    CHECK_INT(n.g->step, 12);
    for (int i = 0; i < n.g->n_order; i++) n.g->order[i]->steps = 0;
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 3, .lr = 0.5f, .lr_end = 0.1f, .schedule = half, .schedule_user = &factor));
    for (int i = 0; i < 12; i++) CHECK_NEAR(rates[i], 0.1 + 0.4 * 0.5 * (1 - i / 11.0), 1e-6);
    factor = -1;
    CHECK(!cnn_fit(n.loss, n.logits, &q->data, .lr = 0.5f, .schedule = half, .schedule_user = &factor));
    CHECK(cnn_error(n.g) && strstr(cnn_error(n.g), "fit: the schedule gave the learning rate -0.5 in epoch 1, batch 1"));
    CHECK_NEAR(cnn_linear(0.25f, NULL), 0.75, 0);
    CHECK_NEAR(cnn_one_cycle(0, NULL), 0.04, 1e-7);
    CHECK_NEAR(cnn_one_cycle(0.3f, NULL), 1, 1e-6);
    CHECK_NEAR(cnn_one_cycle(1, NULL), 0, 1e-6);
    CHECK_NEAR(cnn_staircase(0, NULL) + cnn_staircase(0.5f, NULL) + cnn_staircase(1, NULL), 1.11, 1e-6);
    cnn_free(n.g), free_quarters(q);
}

/* Clipping in fit is the loop with cnn_clip_grads; Adam learns, too. */
static void fit_clips(void)
{
    quarters *q = new_quarters(SAMPLES);
    cnn_config config = { .max_batch = 16, .seed = 5, .optimizer = cnn_adam() };
    net a = new_net_for(config, false), b = new_net_for(config, false);
    CHECK(cnn_fit(a.loss, a.logits, &q->data, .lr = 0.01f, .beta1 = 0.8f, .clip = 0.1f, .no_shuffle = 1));
    for (int i = 0, n; (n = cnn_feed(b.x, b.t, &q->data, i)) > 0; i += n) {
        cnn_forward(b.loss, CNN_TRAIN), cnn_backward(b.loss);
        CHECK(cnn_clip_grads(b.g, 0.1f) > 0);
        CHECK(cnn_step(b.g, .lr = 0.01f, .beta1 = 0.8f));
    }
    CHECK(same_params(a.g, b.g));
    CHECK(cnn_fit(a.loss, a.logits, &q->data, .epochs = 8, .lr = 0.01f));
    CHECK(cnn_evaluate(a.loss, a.logits, &q->data).accuracy > 0.95);
    cnn_free(a.g), cnn_free(b.g), free_quarters(q);
}

/* A rate that ruins the net after a good start: training stops early and the best epoch comes back. */
static float ruin(float progress, void *user) { return (void)user, progress < 0.3f ? 0.0005f : 1; }
static void fit_stops_early(void)
{
    quarters *q = new_quarters(SAMPLES), *v = new_quarters(80);
    cnn_history h = { 0 };
    net n = new_net_for((cnn_config){ .max_batch = 16, .seed = 5 }, true);
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 10, .lr = 100, .schedule = ruin, .validation = &v->data, .patience = 2,
                  .history = &h));
    CHECK_STR(cnn_error(n.g), NULL);
    int best = 0;
    for (int i = 1; i < h.count; i++) if (h.epoch[i].validation_loss < h.epoch[best].validation_loss) best = i;
    CHECK_INT(h.count, best + 1 + 2);
    CHECK(h.count < 10);
    cnn_score s = cnn_evaluate(n.loss, n.logits, &v->data);
    CHECK_NEAR(s.loss, h.epoch[best].validation_loss, 0);
    CHECK(!cnn_fit(n.loss, n.logits, &q->data, .lr = 1, .patience = 1));
    CHECK(cnn_error(n.g) && strstr(cnn_error(n.g), "fit: patience needs a validation set: .validation = &data"));
    cnn_history_free(&h), cnn_free(n.g), free_quarters(q), free_quarters(v);
}

static void confusion(void)
{
    quarters *q = new_quarters(SAMPLES);
    net n = new_net();
    int m[CLASSES * CLASSES], all = 0, right = 0;
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 2, .lr = 0.02f));
    CHECK(cnn_confusion(n.logits, &q->data, m));
    for (int i = 0; i < CLASSES * CLASSES; i++) all += m[i], right += i / CLASSES == i % CLASSES ? m[i] : 0;
    cnn_score s = cnn_evaluate(n.loss, n.logits, &q->data);
    CHECK_INT(all, SAMPLES);
    CHECK_NEAR(s.accuracy, (double)right / SAMPLES, 1e-12);
    CHECK_NEAR(cnn_top_k(n.logits, &q->data, 1), s.accuracy, 1e-12);
    CHECK(cnn_top_k(n.logits, &q->data, 2) >= s.accuracy);
    CHECK_NEAR(cnn_top_k(n.logits, &q->data, CLASSES), 1, 0);
    CHECK(isnan(cnn_top_k(n.logits, &q->data, 0)));
    CHECK_STR(test_words(cnn_error(n.g)), "top_k: k is 0: it must be positive");
    CHECK(!cnn_confusion(n.logits, &q->data, m) && !cnn_confusion(NULL, &q->data, m));
    cnn_free(n.g), free_quarters(q);
    static const int two[4] = { 6, 2, 1, 0 };
    cnn_class_score c = cnn_precision_recall(two, 2, 0);
    CHECK_NEAR(c.precision, 6.0 / 7, 1e-12);
    CHECK_NEAR(c.recall, 0.75, 1e-12);
    CHECK_NEAR(c.f1, 0.8, 1e-12);
    CHECK_INT(c.count, 8);
    c = cnn_precision_recall(two, 2, 1);
    CHECK_NEAR(c.precision + c.recall + c.f1, 0, 0);
    for (int of = -1; of <= 2; of += 3) CHECK_INT(cnn_precision_recall(two, 2, of).count, 0);       /* no such class */
    CHECK_INT(cnn_precision_recall(NULL, 2, 0).count, 0);
}

typedef struct { int calls, ends, stop_at; cnn_progress last; bool sane; } watch;
static bool watching(const cnn_progress *p, void *user)
{
    watch *w = user;
    w->sane = w->sane && p->epoch >= 1 && p->epoch <= p->epochs && p->batch >= 1 && p->batch <= p->batches && p->loss > 0 &&
              p->accuracy >= 0 && p->accuracy <= 1 && p->seconds >= w->last.seconds && p->seconds_left >= 0 &&
              p->samples_per_second >= 0 && isnan(p->validation_loss) == !p->epoch_done;
    w->calls++, w->ends += p->epoch_done, w->last = *p;
    return w->calls != w->stop_at;
}
static void fit_progress(void)
{
    quarters *q = new_quarters(100);
    watch w = { .sane = true };
    cnn_history h = { 0 };
    net n = new_net();
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 3, .lr = 0.01f, .validation = &q->data, .progress = watching, .user = &w));
    CHECK(w.sane);
    CHECK_INT(w.calls, 3 * (7 + 1));
    CHECK_INT(w.ends, 3);
    CHECK_INT(w.last.batches, 7);
    CHECK_NEAR(w.last.seconds_left, 0, 0);
    cnn_free(n.g);

    w = (watch){ .sane = true, .stop_at = 8 + 3 };                        /* in the second epoch, after its third batch */
    n = new_net();
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 3, .lr = 0.01f, .validation = &q->data, .progress = watching, .user = &w,
                  .history = &h));
    CHECK_INT(w.calls, 11);
    CHECK_INT(n.g->step, 10);
    CHECK_INT(h.count, 1);
    CHECK_STR(cnn_error(n.g), NULL);
    cnn_history_free(&h), cnn_free(n.g), free_quarters(q);
}

static void evaluate_weighs_batches(void)
{
    quarters *q = new_quarters(37);                                       /* 16 + 16 + 5 */
    net small = new_net(), large = new_net_for((cnn_config){ .max_batch = 64, .seed = 5 }, false);
    cnn_score a = cnn_evaluate(small.loss, small.logits, &q->data), b = cnn_evaluate(large.loss, large.logits, &q->data);
    CHECK_INT(a.count, 37);
    CHECK_NEAR(a.loss, b.loss, 1e-6);
    CHECK_NEAR(a.accuracy, b.accuracy, 1e-12);
    cnn_dataset bad = cnn_load_idx("no/such/file", "no/such/labels");
    cnn_score c = cnn_evaluate(small.loss, small.logits, &bad);
    CHECK(isnan(c.loss) && isnan(c.accuracy) && c.count == 0);
    CHECK(cnn_error(small.g) != NULL);
    cnn_free(small.g), cnn_free(large.g), free_quarters(q);
}

static void predict(void)
{
    quarters *q = new_quarters(SAMPLES);
    net n = new_net();
    CHECK(cnn_fit(n.loss, n.logits, &q->data, .epochs = 6, .lr = 0.05f, .momentum = 0.9f));
    float x[PIXELS], p[CLASSES], z[CLASSES];
    int right = 0;
    for (int i = 0; i < 20; i++) {
        for (int k = 0; k < PIXELS; k++) x[k] = (float)q->pixels[i * PIXELS + k] / 255.0f;
        int best = cnn_predict(n.x, n.logits, x, p);
        double sum = 0, reference = 0;
        for (int k = 0; k < CLASSES; k++) sum += (double)p[k];
        CHECK_NEAR(sum, 1, 1e-6);
        CHECK(best >= 0 && best < CLASSES);
        CHECK(cnn_get(n.logits, z, CLASSES));
        for (int k = 0; k < CLASSES; k++) reference += exp((double)z[k]);
        for (int k = 0; k < CLASSES; k++) CHECK_NEAR(p[k], exp((double)z[k]) / reference, 1e-6), CHECK(p[k] <= p[best]);
        CHECK_INT(cnn_predict(n.x, n.logits, x, NULL), best);
        right += best == q->labels[i];
    }
    CHECK(right >= 18);
    CHECK_INT(cnn_batch(n.g), 1);
    cnn_free(n.g);

    n = new_net();
    net other = new_net();
    CHECK_INT(cnn_predict(other.x, n.logits, x, NULL), -1);
    CHECK_STR(test_words(cnn_error(other.g)), "predict: x and logits belong to two graphs");
    cnn_free(other.g), cnn_free(n.g);

    n = new_net();                                                        /* logits of 1000 do not overflow */
    cnn_tensor *bias = cnn_find(n.g, "dense1.bias");
    float huge[CLASSES] = { 1000, 999, -1000, 0 };
    CHECK(bias && cnn_set(bias, huge, CLASSES));
    for (int k = 0; k < PIXELS; k++) x[k] = 0;
    CHECK_INT(cnn_predict(n.x, n.logits, x, p), 0);
    CHECK_NEAR(p[0], 0.7310585786, 1e-6);
    CHECK_NEAR(p[2], 0, 0);
    CHECK_INT(cnn_predict(n.x, n.logits, NULL, p), -1);
    CHECK_STR(test_words(cnn_error(n.g)), "predict: the values are NULL");
    CHECK_INT(cnn_predict(n.x, n.logits, x, p), -1);
    CHECK_INT(cnn_predict(NULL, NULL, x, p), -1);
    cnn_free(n.g), free_quarters(q);

    cnn_graph *g = cnn_new(.inference = 1);
    cnn_tensor *in = cnn_input(g, 1, 4, 4), *map = cnn_conv2d(in, 3, 3);
    CHECK(cnn_compile(g, map));
    CHECK_INT(cnn_predict(in, map, x, p), -1);
    CHECK_STR(test_words(cnn_error(g)), "predict: logits (N,3,2,2): one class for a sample needs the shape (N,classes,1,1)");
    cnn_free(g);
}

/* ---- Messages of cnn_fit ---- */

static void fit_says(net n, cnn_fit_args a, const char *message)
{
    a.at = "here.c:9";
    CHECK(!cnn_fit_(a));
    CHECK_STR(cnn_error(n.g), message);
    cnn_free(n.g);
}
static void fit_errors(void)
{
    quarters *q = new_quarters(40);
    cnn_dataset none = q->data, many = q->data;
    net n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data },
             "here.c:9: fit: lr 0: the learning rate is required and must be positive, such as .lr = 0.01f");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1, .nesterov = 1 },
             "here.c:9: fit: nesterov needs a momentum, such as .momentum = 0.9f");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1, .lr_end = -1 },
             "here.c:9: fit: lr_end is -1: it must be in [0,inf)");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1, .epochs = -2 },
             "here.c:9: fit: epochs is -2: it must be in [1,2147483647]");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1, .said = "n.loss, .epochs = 0" },
             "here.c:9: fit: epochs is 0: it must be in [1,2147483647]");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .lr = 1 }, "here.c:9: fit: the data set is NULL");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .train = &q->data, .lr = 1 }, "here.c:9: fit: loss or logits is NULL or nil");
    none.count = 0;
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &none, .lr = 1 },
             "here.c:9: fit: the data set is empty");
    strcpy(none.error, "train-images: no such file");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &none, .lr = 1 },
             "here.c:9: fit: data set: train-images: no such file");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .validation = &none, .lr = 1 },
             "here.c:9: fit, validation: data set: train-images: no such file");
    int five[40] = { 0 };
    five[7] = 4, many.labels = five;
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &many, .lr = 1 },
             "here.c:9: fit: the data set has labels 0..4, but the logits (N,4,1,1) tell only 4 classes apart");
    cnn_dataset other = cnn_bytes(q->pixels, q->labels, 10, 1, SIDE, SIDE / 2), bare = cnn_bytes(q->pixels, NULL, 10, 1, SIDE, SIDE);
    n = new_net();                                                        /* said before the first epoch, not after it */
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .validation = &other, .lr = 1 },
             "here.c:9: fit, validation: the samples have shape (1,8,4), the input has (N,1,8,8)");
    n = new_net();
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &bare, .lr = 1 },
             "here.c:9: fit: the data set has no labels");
    n = new_net();
    int m4[CLASSES * CLASSES];
    CHECK(!cnn_confusion(n.logits, &bare, m4));
    CHECK_STR(test_words(cnn_error(n.g)), "confusion: the data set has no labels, one for each sample");
    cnn_free(n.g), cnn_dataset_free(&other), cnn_dataset_free(&bare);
    n = new_net();
    float bad[CLASSES] = { 0, NAN, 0, 0 };
    CHECK(cnn_set(cnn_find(n.g, "dense1.bias"), bad, CLASSES));
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 0.5f },
             "here.c:9: fit: the loss became NaN in epoch 1, batch 1: no weight was updated yet; "
             "inputs of smaller range (now 0 to 0.980392) may help; cnn_doctor says where it began");

    n.g = cnn_new(.max_batch = 4);                                        /* not compiled */
    n.x = cnn_input(n.g, 1, SIDE, SIDE), n.t = cnn_labels(n.g), n.logits = cnn_dense(n.x, CLASSES);
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1 },
             "here.c:9: fit: the graph is not compiled");

    n.g = cnn_new(.max_batch = 4);                                        /* two inputs */
    n.x = cnn_input(n.g, 1, SIDE, SIDE), n.t = cnn_labels(n.g);
    n.logits = cnn_dense(cnn_add(n.x, cnn_input(n.g, 1, SIDE, SIDE)), CLASSES);
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    cnn_compile(n.g, n.loss);
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1 },
             "here.c:9: fit: the logits come from 2 inputs, and a data set feeds exactly one: "
             "write the loop with cnn_set, cnn_forward, cnn_backward, cnn_step");

    n.g = cnn_new(.max_batch = 4);                                        /* two targets */
    n.x = cnn_input(n.g, 1, SIDE, SIDE), n.logits = cnn_dense(n.x, CLASSES);
    n.loss = cnn_add(cnn_mse(n.logits, cnn_input(n.g, CLASSES, 1, 1)), cnn_softmax_cross_entropy(n.logits, cnn_labels(n.g)));
    cnn_compile(n.g, n.loss);
    fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = n.logits, .train = &q->data, .lr = 1 },
             "here.c:9: fit: the loss comes from 2 targets, and a data set feeds at most one: "
             "write the loop with cnn_set, cnn_forward, cnn_backward, cnn_step");

    n = new_net();
    net m = new_net();
    cnn_free((fit_says(n, (cnn_fit_args){ .loss = n.loss, .logits = m.logits, .train = &q->data, .lr = 1 },
                       "here.c:9: fit: loss and logits belong to two graphs"), m.g));
    CHECK(!cnn_fit(NULL, NULL, &q->data, .lr = 1));
    free_quarters(q);
}

/* ---- Files ---- */

static char *slurp(FILE *f)
{
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long  n = ftell(f);
    char *s = test_alloc((size_t)n + 1);
    rewind(f);
    s[fread(s, 1, (size_t)n, f)] = 0;
    fclose(f);
    return s;
}

/* Are the tags of this XML closed in order, are the attributes quoted, is there no stray & or < ? */
static bool well_formed(const char *s)
{
    const char *open[32];
    size_t      length[32];
    int         depth = 0, roots = 0;
    while (*s) {
        if (*s == '&' || *s == '>') return false;
        if (*s != '<') { s++; continue; }
        bool closing = s[1] == '/';
        const char *name = s + 1 + closing, *p = name;
        size_t n = strcspn(name, " \t\n/>");
        for (bool quoted = false; *p && (quoted || *p != '>'); p++) {
            if (*p == '"') quoted = !quoted;
            else if (*p == '<') return false;
        }
        if (!*p || n == 0) return false;
        if (closing) {
            if (depth == 0 || length[depth - 1] != n || strncmp(open[depth - 1], name, n)) return false;
            depth--;
        } else if (p[-1] != '/') {
            if (depth == 0) roots++;
            if (depth == 32) return false;
            open[depth] = name, length[depth++] = n;
        }
        s = p + 1;
    }
    return depth == 0 && roots == 1;
}

static bool has_nan(const char *s)                                       /* "dominant-baseline" has the letters, too */
{
    return strstr(s, "\"nan") || strstr(s, ">nan") || strstr(s, "-nan") || strstr(s, "\"inf") || strstr(s, ">inf") || strstr(s, "-inf");
}

static void history_files(void)
{
    cnn_epoch e[3] = { { 0.5, 0.75, 0.625, 0.7, 1.5, NAN, NAN, NAN, NAN }, { 0.25, 0.9, NAN, NAN, 3, NAN, NAN, NAN, NAN },
                       { 0.125, 0.984375, INFINITY, 0.96, 123.4567, 0.25, -1.5, 0.125, 1 } };
    cnn_history h = { .epoch = e, .count = 3 };
    static const char *const locales[] = { "C", "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8" };
    for (size_t i = 0; i < sizeof locales / sizeof *locales; i++) {
        if (!setlocale(LC_NUMERIC, locales[i])) continue;
        CHECK(cnn_history_csv(&h, "build/test_train.csv"));
        char *s = slurp(fopen("build/test_train.csv", "r"));
        CHECK_STR(s, "epoch,loss,accuracy,validation_loss,validation_accuracy,seconds,mae,r2,validation_mae,validation_r2\n"
                     "1,0.500000,0.750000,0.625000,0.700000,1.500,,,,\n"
                     "2,0.250000,0.900000,,,3.000,,,,\n"
                     "3,0.125000,0.984375,,0.960000,123.457,0.250000,-1.500000,0.125000,1.000000\n");
        free(s);
        for (h.count = 0; h.count <= 3; h.count++) {
            CHECK(cnn_history_svg(&h, "build/test_train.svg"));
            s = slurp(fopen("build/test_train.svg", "r"));
            CHECK(s && well_formed(s));
            CHECK(s && strncmp(s, "<svg xmlns=\"http://www.w3.org/2000/svg\"", 39) == 0);
            CHECK(s && !has_nan(s));
            free(s);
        }
        h.count = 3;
    }
    setlocale(LC_NUMERIC, "C");
    remove("build/test_train.csv"), remove("build/test_train.svg");
    CHECK(!cnn_history_csv(&h, "no/such/directory/h.csv"));
    CHECK(!cnn_history_svg(&h, "no/such/directory/h.svg"));
    CHECK(!cnn_history_svg(NULL, "x") && !cnn_history_csv(&h, NULL));
    CHECK(well_formed("<a><b c=\"<\"/>text</a>") == false && well_formed("<a><b c=\"1\"/>text</a>") && !well_formed("<a><b></a></b>"));
}

/* Numbers of every size in the picture; it must stay well-formed and free of NaN. */
static void history_extremes(void)
{
    static const double value[] = { 0, 1e-12, 1e-3, 0.5, 1, 7, 1e6, 1e30, -3, NAN, INFINITY };
    enum { N = sizeof value / sizeof *value };
    cnn_epoch e[60];
    for (int k = 0; k < 200; k++) {
        cnn_history h = { .epoch = e, .count = test_int(1, 60) };
        for (int i = 0; i < h.count; i++) {
            int a = k < N ? k : test_int(0, N - 1), b = k < N ? k : test_int(0, N - 1);
            e[i] = (cnn_epoch){ value[a], k & 1 ? NAN : test_uniform(0, 1), value[b], test_chance(50) ? NAN : 1, value[a], value[b],
                                value[a], value[a], value[b] };
        }
        CHECK(cnn_history_svg(&h, "build/test_train.svg") && cnn_history_csv(&h, "build/test_train.csv"));
        char *s = slurp(fopen("build/test_train.svg", "r"));
        CHECK(s && well_formed(s) && !has_nan(s) && strlen(s) < 60000);
        free(s);
    }
    remove("build/test_train.csv"), remove("build/test_train.svg");
}

/* Digits behind the point are as many as asked for, also where a double has no more to round. */
static void decimals(void)
{
    static const struct { double v; int digits; const char *text; } is[] = {
        { 0.9999999, 6, "1.000000" }, { -0.25, 2, "-0.25" }, { 1.005, 0, "1" }, { -1e-9, 3, "0.000" }, { NAN, 2, "" },
        { 999999999.9999999, 6, "1000000000.000000" }, { 1000000000.9999999, 6, "1000000001.000000" },
        { 3e20, 1, "1000000000000000.0" }, { -0.0, 0, "0" }, { -3e-3, 2, "0.00" } };
    for (size_t i = 0; i < sizeof is / sizeof *is; i++) CHECK_STR(cnn__decimal(is[i].v, is[i].digits).s, is[i].text);
}

static void progress_line(void)
{
    FILE *f = tmpfile();
    if (!f) { test_skip("no temporary files"); return; }
    cnn_progress p = { .epoch = 2, .epochs = 5, .batch = 5, .batches = 10, .loss = 0.4231, .accuracy = 0.8712,
                       .validation_loss = NAN, .validation_accuracy = NAN, .samples_per_second = 10234, .seconds = 3, .seconds_left = 67 };
    cnn__print_bar(f, &p);
    p.epoch_done = 1, p.batch = 10, p.validation_loss = 0.31, p.validation_accuracy = 0.9;
    cnn__print_bar(f, &p);
    char *s = slurp(f);
    CHECK_STR(s, "\repoch 2/5 [############............]  50 %  loss 0.4231  accuracy 87.12 %  10234 samples/s  left 1:07   "
                 "\repoch 2/5  loss 0.4231  accuracy 87.12 %  validation loss 0.3100  accuracy 90.00 %  10234 samples/s  0:03        \n");
    free(s);

    f = tmpfile();                                     /* no terminal: lines; and values, which have no accuracy */
    p.accuracy = p.validation_accuracy = NAN, p.mae = 0.25, p.r2 = 0.75, p.validation_mae = 1234.5, p.validation_r2 = -1;
    CHECK(cnn_print_progress(&p, f) && !cnn_print_progress(NULL, f));
    p.epoch_done = 0, p.batch = 9, p.seconds = 25;
    p.validation_loss = NAN;
    CHECK(cnn_print_progress(&p, f));
    p.batch = 10;
    CHECK(cnn_print_progress(&p, f));
    s = slurp(f);
    CHECK_STR(s, "epoch 2/5  loss 0.4231  error 0.25  R2 0.7500  validation loss 0.3100  error 1234  R2 -1.0000  10234 samples/s  0:03\n");
    free(s);

    f = tmpfile();                                                        /* 10,000 batches a second: about ten lines of them */
    int lines = 0;
    p = (cnn_progress){ .epoch = 1, .epochs = 1, .batches = 10000, .loss = 1 };
    for (p.batch = 1; p.batch <= 10000; p.batch++) p.seconds = p.batch / 10000.0, cnn__print_bar(f, &p);
    s = slurp(f);
    for (const char *c = s; c && *c; c++) lines += *c == '\r';
    CHECK_MSG(lines >= 5 && lines <= 30, "%d lines", lines);
    free(s);

    f = tmpfile(), lines = 0;                                             /* 100 batches a second, no terminal */
    for (p.batch = 1; p.batch <= 10000; p.batch++) p.seconds = p.batch / 100.0, cnn_print_progress(&p, f);
    s = slurp(f);
    for (const char *c = s; c && *c; c++) lines += *c == '\n';
    CHECK_MSG(lines >= 5 && lines <= 15, "%d lines", lines);
    free(s);
}

/* ---- Inspection ---- */

static cnn_tensor *lenet(cnn_graph *g, cnn_tensor *x)
{
    (void)g;
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(x, 6, 5, .pad = 2, .name = "c1")), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5, .name = "c3")), 2);
    return cnn_dense(cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120, .name = "c5")), 84, .name = "f6")), 10, .name = "out");
}

static void summary_of_lenet(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 64, .seed = 1);
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *logits = lenet(g, x), *loss = cnn_softmax_cross_entropy(logits, cnn_labels(g));
    FILE *f = tmpfile();
    if (!f) { cnn_free(g), test_skip("no temporary files"); return; }
    cnn_summary(g, f);
    char *s = slurp(f);
    CHECK_STR(s, "the graph has no plan yet: call cnn_plan or cnn_compile first\n");
    free(s);
    CHECK_INT(cnn_param_count(g), 61706);
    CHECK_NEAR(cnn_multiply_adds(g), 416520, 0);
    CHECK(cnn_plan(g, loss).total > 0);
    for (int compiled = 0; compiled < 2; compiled++) {
        cnn_summary(g, f = tmpfile());
        s = slurp(f);
        CHECK(strstr(s, "parameters     61,706\n"));
        CHECK(strstr(s, "multiply-adds  416,520 per sample\n"));
        static const char *const cell[] = { "c1 ", "conv2d ", "(N,6,28,28)", "156 ", "117,600 ", "(N,16,10,10)", "2,416 ",
            "240,000 ", "(N,120,1,1)", "48,120 ", "48,000 ", "10,164 ", "10,080 ", "850 ", "840 ", "(N,1,28,28)", "200,704", "  cpu ", ", direct\n" };
        for (size_t i = 0; i < sizeof cell / sizeof *cell; i++) CHECK_MSG(strstr(s, cell[i]), "no \"%s\" in\n%s", cell[i], s);
        CHECK(!strstr(s, "c1.weight"));
        free(s);
        CHECK_INT(cnn_param_count(g), 61706);
        CHECK_NEAR(cnn_multiply_adds(g), 416520, 0);
        if (!compiled) CHECK(cnn_compile(g, loss));
    }
    float image[784] = { 0 };                                             /* and it does not depend on the batch last run */
    CHECK_INT(cnn_predict(x, logits, image, NULL) >= 0, 1);
    CHECK_NEAR(cnn_multiply_adds(g), 416520, 0);
    cnn_summary(g, NULL);
    cnn_free(g);

    g = cnn_new(.max_batch = 0 - 1);
    cnn_summary(g, f = tmpfile());
    s = slurp(f);
    CHECK(s && cnn_error(g) && strncmp(s, cnn_error(g), strlen(cnn_error(g))) == 0);
    free(s), cnn_free(g);
    cnn_summary(NULL, f = tmpfile());
    free(slurp(f));
    CHECK_INT(cnn_param_count(NULL), 0);
}

static void dot_of_a_residual(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3, 4, 4, .name = "a \"quoted\" name"), *h = cnn_relu(cnn_conv2d(x, 3, 3, .pad = 1));
    h = cnn_global_avg_pool(cnn_add(h, x));
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, cnn_labels(g));
    CHECK(cnn_compile(g, loss));
    FILE *f = tmpfile();
    if (!f) { cnn_free(g), test_skip("no temporary files"); return; }
    cnn_dot(g, f);
    char *s = slurp(f);
    int edges = 0, depth = 0;
    for (const char *c = s; *c; c++) edges += c[0] == '-' && c[1] == '>', depth += (*c == '{') - (*c == '}');
    CHECK_INT(edges, 1 + 1 + 2 + 1 + 2);
    CHECK_INT(depth, 0);
    CHECK(strncmp(s, "digraph", 7) == 0 && strstr(s, "a \\\"quoted\\\" name") && strstr(s, "(N,3,4,4)"));
    free(s), cnn_free(g);
}

static void gradient_check_right_and_wrong(void)
{
    float w[3] = { 0.5f, -1, 3 }, a[3] = { 1, 2, 0.5f }, c[3] = { 0.25f, -0.5f, 1 }, after[3];
    hill h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 3, w, a, c);
    cnn_check k = cnn_gradient_check(h.loss, 0);
    CHECK_INT(k.checked, 3);
    CHECK_MSG(k.worst < 1e-4, "%g", k.worst);
    CHECK_STR(k.param, "w");
    CHECK(cnn_get(h.w, after, 3));
    CHECK_SAME_BITS(w, after, 3);
    CHECK_INT(cnn_gradient_check(h.loss, 2).checked, 2);
    cnn_free(h.g);

    h = new_hill(&wrong, (cnn_config){ .seed = 1 }, 3, w, a, c);
    k = cnn_gradient_check(h.loss, 0);
    CHECK_MSG(k.worst > 0.1, "%g", k.worst);
    cnn_free(h.g);

    h = new_hill(&bowl, (cnn_config){ .seed = 1, .inference = 1 }, 3, w, a, c);
    CHECK(isnan(cnn_gradient_check(h.loss, 0).worst));
    CHECK(cnn_error(h.g) != NULL);
    cnn_free(h.g);
    CHECK(isnan(cnn_gradient_check(NULL, 0).worst));
}

/* Wrong by a factor where gradients are small: the check must not be lenient there. */
static void gradient_check_is_relative(void)
{
    float w[4] = { 0.5f, -1, 1, 0.25f }, a[4], c[4];
    for (int i = 0; i < 4; i++) a[i] = 0.01f, c[i] = 0.02f * (float)(i + 1);
    hill h = new_hill(&bowl, (cnn_config){ .seed = 1 }, 4, w, a, c);
    cnn_check k = cnn_gradient_check(h.loss, 0);
    CHECK_MSG(k.worst < 1e-2, "%g", k.worst);
    cnn_free(h.g);
    h = new_hill(&wrong, (cnn_config){ .seed = 1 }, 4, w, a, c);
    k = cnn_gradient_check(h.loss, 0);
    CHECK_MSG(k.worst > 0.1, "%g", k.worst);
    cnn_free(h.g);
}

/* Dropout and batch norm: the mask is fixed during the check, and nothing that trains has moved after it. */
static void gradient_check_leaves_no_trace(void)
{
    quarters *q = new_quarters(40);
    net a = new_net_for((cnn_config){ .max_batch = 16, .seed = 5 }, true), b = new_net_for((cnn_config){ .max_batch = 16, .seed = 5 }, true);
    CHECK(cnn_fit(a.loss, a.logits, &q->data, .epochs = 2, .lr = 0.05f) && cnn_fit(b.loss, b.logits, &q->data, .epochs = 2, .lr = 0.05f));
    cnn_feed(a.x, a.t, &q->data, 0);
    cnn_check k = cnn_gradient_check(a.loss, 50);
    CHECK_MSG(k.worst < 1e-2, "%g at %s[%d]: %g, %g", k.worst, k.param, k.index, k.analytic, k.numeric);
    CHECK(k.checked > 50 + 2 * 4);
    CHECK(same_params(a.g, b.g));
    float m[4], v[4];
    CHECK(cnn_get(cnn_find(a.g, "batch_norm1.running_mean"), m, 4) && cnn_get(cnn_find(b.g, "batch_norm1.running_mean"), v, 4));
    CHECK_SAME_BITS(m, v, 4);
    CHECK(cnn_fit(a.loss, a.logits, &q->data, .lr = 0.05f) && cnn_fit(b.loss, b.logits, &q->data, .lr = 0.05f));
    CHECK(same_params(a.g, b.g));
    CHECK_STR(cnn_error(a.g), NULL);
    cnn_free(a.g), cnn_free(b.g), free_quarters(q);
}

static void gradient_check_of_lenet(void)
{
    for (int seed = 1; seed <= 3; seed++) {
        cnn_graph  *g = cnn_new(.max_batch = 8, .seed = (uint64_t)seed, .threads = 1);
        cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *loss = cnn_softmax_cross_entropy(lenet(g, x), t);
        CHECK(cnn_compile(g, loss));
        float image[8 * 784];
        int   label[8];
        test_fill(image, 8 * 784, 0, 1);
        for (int i = 0; i < 8; i++) label[i] = test_int(0, 9);
        CHECK(cnn_set(x, image, 8 * 784) && cnn_set_labels(t, label, 8));
        cnn_check k = cnn_gradient_check(loss, 20);
        CHECK_MSG(k.worst < 1e-2, "%g at %s[%d]: %g, %g", k.worst, k.param, k.index, k.analytic, k.numeric);
        CHECK_INT(k.checked, 7 * 20 + 6 + 16 + 10);
        cnn_free(g);
    }
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(sgd_momentum_cs231n);
    RUN(sgd_against_float64);
    RUN(rmsprop_cs231n);
    RUN(adam_cs231n);
    RUN(optimizers_against_float64);
    RUN(clip_and_average);
    RUN(lr_scale_by_name);
    RUN(late_parameters);
    RUN(frozen_stays);
    RUN(step_errors);
    RUN(step_on_a_device);
    RUN(fit_learns);
    RUN(fit_same_bits);
    RUN(fit_is_the_loop);
    RUN(fit_schedule);
    RUN(adam_is_saved);
    RUN(counts_are_saved);
    RUN(fit_schedules);
    RUN(fit_clips);
    RUN(fit_stops_early);
    RUN(confusion);
    RUN(fit_progress);
    RUN(evaluate_weighs_batches);
    RUN(predict);
    RUN(fit_errors);
    RUN(history_files);
    RUN(history_extremes);
    RUN(decimals);
    RUN(progress_line);
    RUN(summary_of_lenet);
    RUN(dot_of_a_residual);
    RUN(gradient_check_right_and_wrong);
    RUN(gradient_check_is_relative);
    RUN(gradient_check_leaves_no_trace);
    RUN(gradient_check_of_lenet);
    return test_end();
}
