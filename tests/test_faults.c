/* test_faults.c - nothing silent, nothing trapped: one test for each kind of fault that outsiders found. */
#include "cnn.h"
#include "test.h"
#include <float.h>

/* A small net, compiled, with data in its inputs. */
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *y, *loss; } net;
static net small_net(void)
{
    static const float x[6] = { 1, -1, 0.5f, 2, 0, -2 };
    static const int   label[2] = { 0, 2 };
    net n = { 0 };
    n.g = cnn_new(.max_batch = 2, .seed = 1);
    n.x = cnn_input(n.g, 3), n.t = cnn_labels(n.g), n.y = cnn_dense(n.x, 3, .name = "fc");
    n.loss = cnn_softmax_cross_entropy(n.y, n.t);
    CHECK(cnn_compile(n.g, n.loss) && cnn_set(n.x, x, 6) && cnn_set_labels(n.t, label, 2));
    return n;
}

/* A wrong call after cnn_compile stops runs, but what was learned can be read, and runs go on when it is cleared. */
static void refused_calls_trap_nothing(void)
{
    net        n = small_net();
    cnn_tensor *w = cnn_find(n.g, "fc.weight");
    float       before[9], after[9];
    const float first = cnn_forward(n.loss, CNN_TRAIN);
    CHECK(cnn_get(w, before, 9));
    CHECK(!cnn_get(w, after, 8));                                           /* the wrong count */
    CHECK(cnn_error(n.g) && strstr(cnn_error(n.g), "8 values"));
    CHECK(isnan(cnn_forward(n.loss, CNN_TRAIN)));
    CHECK(!cnn_step(n.g, .lr = 1));
    CHECK(cnn_get(w, after, 9) && memcmp(before, after, sizeof before) == 0);
    CHECK(cnn_clear_error(n.g) && !cnn_error(n.g));
    CHECK(cnn_forward(n.loss, CNN_TRAIN) == first);
    cnn_backward(n.loss);
    CHECK(cnn_step(n.g, .lr = 1));
    cnn_free(n.g);

    cnn_graph *g = cnn_new(.max_batch = 0);
    cnn_dense(cnn_input(g, 3), 0);
    CHECK(cnn_error(g) && !cnn_clear_error(g) && cnn_error(g));            /* what was not recorded is missing */
    cnn_free(g);
    CHECK(!cnn_clear_error(NULL));
}

static void null_is_a_message(void)
{
    net n = small_net();
    cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss);
    cnn_tensor *w = cnn_find(n.g, "fc.weight");
    CHECK(!cnn_set(n.x, NULL, 6) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_set_labels(n.t, NULL, 2) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_get(w, NULL, 9) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_get_grad(w, NULL, 9) && strstr(cnn_error(n.g), "NULL") && cnn_clear_error(n.g));
    CHECK(!cnn_set(NULL, NULL, 1) && !cnn_get(NULL, NULL, 1));
    cnn_free(n.g);
}

/* ---- 17. The gradient check names whose backward is wrong ---- */

static const char *ill, *ill_operand;                                   /* the node whose backward errs, and where */
static bool errs(cnn_backend *none, cnn_tensor *y)
{
    (void)none;
    y->op->backward(y);
    for (int k = 0; k < y->n_in && !strcmp(y->name, ill); k++) {
        cnn_tensor *x = y->in[k];
        const char *dot = strrchr(x->name, '.');
        if (x->needs_grad && !strcmp(ill_operand, dot && k ? dot + 1 : "input"))
            for (size_t i = 0; i < cnn_count(x); i += 2) x->grad[i] *= 1.5f;
    }
    return true;
}

static void the_check_names_the_suspect(void)
{
    const cnn_kernel rows[] = { { .op = &cnn_op_conv2d, .backward = errs }, { .op = &cnn_op_dense, .backward = errs },
                                { NULL } };
    static const char *const plants[][2] = { { "none", "" }, { "c3", "input" }, { "c2", "bias" }, { "c2", "input" },
                                             { "c1", "input" }, { "c1", "weight" }, { "fc", "input" }, { "fc", "weight" } };
    for (size_t p = 0; p < sizeof plants / sizeof *plants; p++) {
        ill = plants[p][0], ill_operand = plants[p][1];
        cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 3, .rows = rows);
        cnn_tensor *x = cnn_input(g, 2, 12, 12, .grad = 1), *mask = cnn_input(g, 4), *t = cnn_labels(g), *h = x;
        h = cnn_max_pool(cnn_relu(cnn_batch_norm(cnn_conv2d(h, 4, 3, .name = "c1"))), 2);
        h = cnn_relu(cnn_conv2d(h, 6, 3, .name = "c2"));
        h = cnn_tanh(cnn_conv2d(cnn_dropout(h, 0.2f), 6, 3, .name = "c3"));
        cnn_tensor *loss = cnn_softmax_cross_entropy(cnn_add(cnn_dense(h, 4, .name = "fc"), mask), t);
        float       v[4 * 288], zero[16] = { 0 };
        const int   label[4] = { 0, 1, 2, 3 };
        test_fill(v, 4 * 288, -1, 1);
        CHECK(cnn_compile(g, loss) && cnn_set(x, v, 4 * 288) && cnn_set(mask, zero, 16) && cnn_set_labels(t, label, 4));
        const cnn_check c = cnn_gradient_check(loss, 0);
        CHECK_STR(cnn_error(g), NULL);
        CHECK_STR(c.suspect, p ? ill : NULL);
        CHECK(p ? c.worst > 0.05 : c.worst < 0.03);
        char line[80];
        snprintf(line, sizeof line, "to its %s\n", ill_operand);
        CHECK_MSG(!p || strstr(c.report, line), "%s", c.report);
        static const char *const leaves[] = { "input: ", "input2: not checked", "c1.weight: ", "c1.bias: ", "batch_norm1.weight: ",
                                              "c2.weight: ", "c3.bias: ", "fc.bias: right" };
        for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++)
            CHECK_MSG(strstr(c.report, leaves[i]), "%s is not in\n%s", leaves[i], c.report);
        cnn_free(g);
    }
}

/* ---- 19. What a probe looks at is not joined: each node's own values ---- */

static void a_probe_sees_every_node(void)
{
    char *text[2];
    for (int plain = 0; plain < 2; plain++) {                           /* plain loops join nothing */
        cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 3, .isa = plain ? CNN_ISA_PLAIN : CNN_ISA_C);
        cnn_tensor *x = cnn_input(g, 2, 4, 4), *h = cnn_batch_norm(cnn_add(cnn_relu(x), x));
        cnn_tensor *loss = cnn_mean(cnn_relu(cnn_add(cnn_scale(cnn_relu(h), -2), x)));
        float       v[64];
        for (int i = 0; i < 64; i++) v[i] = (float)(i % 7 - 3);
        CHECK(cnn_compile(g, loss) && cnn_set(x, v, 64));
        FILE *f = tmpfile();
        if (!f) { cnn_free(g), test_skip("no temporary files"); return; }
        const float before = cnn_forward(loss, CNN_TRAIN);              /* joined, where that is possible */
        CHECK(cnn_trace(loss, 64, f));
        CHECK_NEAR((double)cnn_forward(loss, CNN_TRAIN), (double)before, 0);
        text[plain] = test_alloc(1 << 16), rewind(f);
        text[plain][fread(text[plain], 1, (1 << 16) - 1, f)] = 0;
        fclose(f), cnn_free(g);
    }
    CHECK_STR(text[0], text[1]);
    CHECK(strstr(text[0], "batch_norm1 = ") && strstr(text[0], "relu2 = ") && strstr(text[0], "scale1 = "));
    free(text[0]), free(text[1]);
}

/* An option that is given as 0 counts, also by a variable; one that is not given has its default. */
static float of_minus_one(cnn_tensor *(*f)(cnn_tensor *))
{
    cnn_graph  *g = cnn_new(.inference = 1);
    cnn_tensor *x = cnn_input(g, 1), *y = f(x);
    float       v = -1;
    CHECK_MSG(cnn_compile(g, y) && cnn_set(x, &v, 1), "%s", cnn_error(g));
    cnn_forward(y, CNN_EVAL);
    CHECK(cnn_get(y, &v, 1));
    cnn_free(g);
    return v;
}
static float zero;
static cnn_tensor *scale_zero(cnn_tensor *x)   { return cnn_scale(x, zero); }
static cnn_tensor *scale_named(cnn_tensor *x)  { return cnn_scale(x, .factor = zero, .offset = 3); }
static cnn_tensor *scale_offset(cnn_tensor *x) { return cnn_scale(x, .offset = 3); }
static cnn_tensor *leaky_zero(cnn_tensor *x)   { return cnn_leaky_relu(x, .slope = zero); }
static cnn_tensor *leaky_place(cnn_tensor *x)  { return cnn_leaky_relu(x, zero); }
static cnn_tensor *leaky(cnn_tensor *x)        { return cnn_leaky_relu(x); }
static cnn_tensor *elu_zero(cnn_tensor *x)     { return cnn_elu(x, .alpha = 0); }
static cnn_tensor *nested(cnn_tensor *x)       { return cnn_scale(cnn_leaky_relu(x, .slope = 0), .offset = 1); }
static cnn_tensor *in_a_name(cnn_tensor *x)    { return cnn_leaky_relu(x, .name = ", .slope = (\"") ; }

static void zero_is_a_value(void)
{
    CHECK_NEAR(of_minus_one(scale_zero), 0, 0);
    CHECK_NEAR(of_minus_one(scale_named), 3, 0);
    CHECK_NEAR(of_minus_one(scale_offset), 2, 0);
    CHECK_NEAR(of_minus_one(leaky_zero), 0, 0);
    CHECK_NEAR(of_minus_one(leaky_place), 0, 0);
    CHECK_NEAR(of_minus_one(leaky), -0.01, 1e-9);
    CHECK_NEAR(of_minus_one(elu_zero), 0, 0);
    CHECK_NEAR(of_minus_one(nested), 1, 0);                        /* .slope is the inner call's: factor stays 1 */
    CHECK_NEAR(of_minus_one(in_a_name), -0.01, 1e-9);              /* a string is no option */

    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 1, 4, 4);
    CHECK(cnn_conv2d(x, 1, 3, .pad = 1, .pad_h = 0)->shape.h == 2);
    CHECK(cnn_conv2d(x, 1, 3, .pad = 1)->shape.h == 4);
    CHECK(cnn_max_pool(x, 2, .stride = 0)->graph == NULL && strstr(cnn_error(g), "stride is 0"));
    cnn_free(g);
    g = cnn_new();
    CHECK(cnn_dropout(cnn_input(g, 1))->graph == NULL && strstr(cnn_error(g), "missing"));
    cnn_free(g);

    /* batch norm's momentum 0 leaves the running statistics alone; smooth_l1's beta 0 is l1 */
    g = cnn_new(.max_batch = 2);
    x = cnn_input(g, 1);
    cnn_tensor *t = cnn_input(g, 1), *bn = cnn_batch_norm(x, .momentum = zero, .name = "bn");
    cnn_tensor *loss = cnn_smooth_l1(bn, t, zero);
    const float in[2] = { 1, 3 }, target[2] = { 0, 5 };
    float mean = 9;
    CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, in, 2) && cnn_set(t, target, 2), "%s", cnn_error(g));
    CHECK_NEAR(cnn_forward(loss, CNN_TRAIN), (1 + 4) / 2.0, 1e-4);
    CHECK(cnn_get(cnn_find(g, "bn.running_mean"), &mean, 1) && mean == 0);
    cnn_free(g);
}

/* The same in optimizers: PyTorch's AdamW without decay, Adam without momentum of the gradient. */
static void zero_is_a_value_in_steps(void)
{
    const cnn_optimizer *rules[] = { cnn_adamw(), cnn_adam() };
    for (int k = 0; k < 2; k++) {
        cnn_graph  *g = cnn_new(.optimizer = rules[k]);
        cnn_tensor *w = cnn_param(g, "w", { 1, 1, 1, 1 }, CNN_INIT_CONSTANT, 2);
        cnn_tensor *x = cnn_input(g, 1), *loss = cnn_sum(cnn_mul(x, w));
        float       v = 1, got;
        CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
        for (int step = 0; step < 3; step++) {
            v = step == 0 ? 1.0f : 0.0f;
            cnn_set(x, &v, 1), cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            if (k == 0) CHECK(cnn_step(g, .lr = 0.1f, .weight_decay = zero, .beta1 = zero));
            else        CHECK(cnn_step(g, .lr = 0.1f, .beta1 = zero));
        }
        CHECK(cnn_get(w, &got, 1));
        CHECK_NEAR(got, 1.9, 1e-6);      /* the first step moves by lr; without momentum the others do not move */
        cnn_free(g);
    }
}

/* ---- Numbers ---- */

/* Run loss on these values of x; what of a parameter or x: its gradient into got. */
static void gradient_of(cnn_graph *g, cnn_tensor *loss, cnn_tensor *x, const float *values, const char *name,
                        float *got, size_t count)
{
    CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, values, cnn_count(x)), "%s", cnn_error(g));
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK_MSG(cnn_get_grad(name ? cnn_find(g, name) : x, got, count), "%s", cnn_error(g));
}
static float *filled(size_t n, float value)
{
    float *v = test_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = value;
    return v;
}

/* e^x in float64; e^88.7 is below FLT_MAX, e^-100 denormal. A program that flushes denormals may see 0 there. */
static void exp_covers_all_floats(void)
{
    const float in[] = { 1, 88.1f, 88.7f, 88.72f, 88.73f, 200, -87.3f, -87.5f, -100, -103.9f, -105, -INFINITY, INFINITY };
    enum { N = sizeof in / sizeof *in };
    float       got[N];
    cnn_graph  *g = cnn_new(.inference = 1);
    cnn_tensor *x = cnn_input(g, N), *y = cnn_exp(x);
    CHECK(cnn_compile(g, y) && cnn_set(x, in, N));
    cnn_forward(y, CNN_EVAL);
    CHECK(cnn_get(y, got, N));
    for (int i = 0; i < N; i++) {
        const double want = exp((double)in[i]);
        if (want > (double)FLT_MAX) CHECK(got[i] > FLT_MAX);
        else CHECK_NEAR(got[i], want, 2e-7 * want + (want < 1.2e-38 ? 1.5e-45 + want * 1e-7 : 0));
    }
    cnn_free(g);
}

/* PyTorch's errors: 1e-7, 1e-7, 3e-7. */
static void long_sums_are_exact(void)
{
    enum { N = 50, C = 100, H = 100, W = 2, BATCH = 8200 };
    const double tenth = (double)0.1f, terms = (double)N * C * H;
    float       *v = filled((size_t)N * C * H * W, 0.1f), got[3];
    cnn_graph   *g = cnn_new(.max_batch = N);
    cnn_tensor  *x = cnn_input(g, C, H, W), *p = cnn_param(g, "p", { 1, 1, 1, W }, CNN_INIT_CONSTANT, 1);
    cnn_tensor  *mean = cnn_mean(x, .axes = CNN_N | CNN_C | CNN_H), *loss = cnn_sum(cnn_mul(x, p));
    gradient_of(g, cnn_add(loss, cnn_sum(mean)), x, v, "p", got, W);
    CHECK_NEAR(got[1], terms * tenth, 1e-7 * terms * tenth);
    cnn_free(g);

    g = cnn_new(.max_batch = N, .inference = 1);
    x = cnn_input(g, C, H, W), mean = cnn_mean(x, .axes = CNN_N | CNN_C | CNN_H);
    CHECK(cnn_compile(g, mean) && cnn_set(x, v, cnn_count(x)));
    cnn_forward(mean, CNN_EVAL);
    CHECK(cnn_get(mean, got, W));
    CHECK_NEAR(got[0], tenth, 1.5e-7 * tenth);
    cnn_free(g);

    double sum = 0;
    for (int i = 0; i < BATCH; i++) v[i] = (float)test_uniform(0, 1), sum += (double)v[i];
    g = cnn_new(.max_batch = BATCH);
    x = cnn_input(g, 1);
    gradient_of(g, cnn_sum(cnn_mul(cnn_dense(x, 3, .name = "fc"), x)), x, v, "fc.bias", got, 3);
    CHECK_NEAR(got[0], sum, 3e-7 * sum);
    cnn_free(g), free(v);
}

/* 10^6 + {0,1}: float64 gives (d - 0.3) / sqrt(0.21 + 1e-5); a mean rounded to float errs by 0.1. */
static void norms_of_large_values(void)
{
    enum { N = 40 };
    float v[N], y[N];
    for (int i = 0; i < N; i++) v[i] = i % 10 < 3 ? 1000001.0f : 1000000.0f;
    for (int layer = 0; layer < 2; layer++) {
        cnn_graph  *g = cnn_new(.max_batch = layer ? 1 : N);
        cnn_tensor *x = cnn_input(g, layer ? N : 1, .grad = 1);
        cnn_tensor *n = cnn_keep(layer ? cnn_layer_norm(x, .name = "n") : cnn_batch_norm(x, .name = "n"));
        cnn_tensor *loss = cnn_mean(cnn_mul(n, n));
        CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, v, N), "%s", cnn_error(g));
        cnn_forward(loss, CNN_TRAIN);
        CHECK(cnn_get(n, y, N));
        for (int i = 0; i < N; i++)
            CHECK_NEAR(y[i], ((i % 10 < 3 ? 1 : 0) - 0.3) / sqrt(0.21 + 1e-5), 1e-6);
        cnn_backward(loss);
        CHECK(cnn_get_grad(cnn_find(g, "n.weight"), y, layer ? N : 1));         /* mean of 2 y^2; for each element */
        CHECK_NEAR(y[0], layer ? 2 * 0.49 / 0.21001 / N : 2 * 0.21 / 0.21001, 1e-6);
        cnn_free(g);
    }
}

/* PyTorch: 2e-6 to the last bit; the old variance, 1, leaves nothing. */
static void momentum_1_forgets(void)
{
    const float v[2] = { 1e-3f, -1e-3f };
    float       got;
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 1), *loss = cnn_sum(cnn_batch_norm(x, .momentum = 1, .name = "bn"));
    CHECK(cnn_compile(g, loss) && cnn_set(x, v, 2));
    cnn_forward(loss, CNN_TRAIN);
    CHECK(cnn_get(cnn_find(g, "bn.running_var"), &got, 1));
    CHECK_NEAR(got, 2e-6, 1e-12);
    cnn_free(g);
}

/* PyTorch: relu's gradient is 0 where x <= 0, so 1 at NaN. */
static void relu_at_nan(void)
{
    const float v[4] = { -1, 0, 2, NAN };
    float       got[4];
    cnn_graph  *g = cnn_new();
    cnn_tensor *x = cnn_input(g, 4, .grad = 1);
    gradient_of(g, cnn_sum(cnn_relu(x)), x, v, NULL, got, 4);
    CHECK(got[0] == 0 && got[1] == 0 && got[2] == 1 && got[3] == 1);
    cnn_free(g);
}

/* The direct sum: no error beyond that of float, no overflow on the way. */
static void exact_convolutions(void)
{
    enum { C = 32, S = 16 };
    float *v = filled(C * S * S, 1e37f), *w = filled(C * C * 9, 1e-10f), *y = filled(C * S * S, 0);
    cnn_graph  *g = cnn_new(.inference = 1, .exact = 1);
    cnn_tensor *x = cnn_input(g, C, S, S), *conv = cnn_conv2d(x, C, 3, .pad = 1, .no_bias = 1, .name = "c");
    CHECK(cnn_compile(g, conv) && cnn_set(x, v, C * S * S) && cnn_set(cnn_find(g, "c.weight"), w, C * C * 9));
    cnn_forward(conv, CNN_EVAL);
    CHECK(cnn_get(conv, y, C * S * S));
    const double want = C * 9 * (double)1e37f * (double)1e-10f;
    CHECK_NEAR(y[S + 1], want, 1e-6 * want);
    cnn_free(g), free(v), free(w), free(y);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(refused_calls_trap_nothing);
    RUN(null_is_a_message);
    RUN(the_check_names_the_suspect);
    RUN(a_probe_sees_every_node);
    RUN(zero_is_a_value);
    RUN(zero_is_a_value_in_steps);
    RUN(exp_covers_all_floats);
    RUN(long_sums_are_exact);
    RUN(norms_of_large_values);
    RUN(momentum_1_forgets);
    RUN(relu_at_nan);
    RUN(exact_convolutions);
    return test_end();
}
