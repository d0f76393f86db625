/* test_faults.c - nothing silent, nothing trapped: one test for each kind of fault that outsiders found. */
#include "cnn.h"
#include "test.h"
#include <time.h>
#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif
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

    /* a gain of 0 makes zeros of what would be drawn */
    g = cnn_new();
    x = cnn_input(g, 2), t = cnn_dense(x, 2, .gain = zero, .name = "none");
    bn = cnn_dense(t, 2, .init = CNN_INIT_HE, .name = "some"), loss = cnn_sum(cnn_mul(bn, cnn_param(g, "p", { 1, 2, 1, 1 }, .init = CNN_INIT_UNIFORM, .gain = 0)));
    CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
    CHECK(cnn_map_read(cnn_find(g, "none.weight"))[0] == 0 && cnn_map_read(cnn_find(g, "some.weight"))[0] != 0);
    CHECK(cnn_map_read(cnn_find(g, "p"))[1] == 0);
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

/* A net whose logits are its input times 1, so that losses are known; class weights 1, 3; data of 5 samples. */
typedef struct { cnn_graph *g; cnn_tensor *y, *loss; } judged;
static judged weighted_net(int max_batch, int ignore, int reduction)
{
    static const float weight[3] = { 1, 3, 0.5f };
    judged n = { 0 };
    n.g = cnn_new(.max_batch = max_batch, .seed = 1);
    cnn_tensor *x = cnn_input(n.g, 3), *t = cnn_labels(n.g);
    n.y = cnn_add(x, cnn_param(n.g, "bias", { 1, 3, 1, 1 }));
    n.loss = cnn_softmax_cross_entropy(n.y, t, .class_weights = cnn_const(n.g, ((cnn_shape){ 1, 3, 1, 1 }), weight),
                                       .ignore_index = ignore, .reduction = reduction);
    CHECK_MSG(cnn_compile(n.g, n.loss), "%s", cnn_error(n.g));
    return n;
}
static const float five[15] = { 1, 0, -1, 0.5f, 0.25f, 0, -2, 1, 0, 3, 0, 1, 0, 2, 0.5f };

/* A loss that is a sum over the batch: told as the sum over all samples / their number, and learned from, whatever
   the batch. which: CNN_SUM, half of it and another, the terms of CNN_NONE summed or averaged,
   squares made by hand, a sum within each sample. */
enum { SUMS = 7 };
static cnn_tensor *sum_loss(int which, cnn_tensor *y, cnn_tensor *t)
{
    cnn_tensor *d = cnn_sub(y, t);
    switch (which) {
    case 0:  return cnn_mse(y, t, .reduction = CNN_SUM);
    case 1:  return cnn_scale(cnn_add(cnn_mse(y, t, .reduction = CNN_SUM), cnn_l1(y, t, .reduction = CNN_SUM)), 0.5f);
    case 2:  return cnn_sum(cnn_mse(y, t, .reduction = CNN_NONE));
    case 3:  return cnn_mean(cnn_mse(y, t, .reduction = CNN_NONE));
    case 4:  return cnn_sum(cnn_mul(d, d));
    case 5:  return cnn_mean(cnn_sum(cnn_mul(d, d), .axes = CNN_C));
    default: return cnn_sum(cnn_mean(cnn_mul(d, d), .axes = CNN_C));
    }
}
static void sums_are_over_all_samples(void)
{
    static const float truth[15] = { 0.5f, 1, -1, 2, 0, 0.25f, 1, 1, -2, 0, 0.5f, 3, -1, 0, 0 };
    double squares = 0, distance = 0, slope[3] = { 0 }, sign[3] = { 0 };
    for (int i = 0; i < 15; i++) {
        const double d = (double)five[i] - (double)truth[i];
        squares += d * d, distance += fabs(d), slope[i % 3] += 2 * d, sign[i % 3] += (d > 0) - (d < 0);
    }
    for (int which = 0; which < SUMS; which++)
        for (int max_batch = 1; max_batch <= 5; max_batch++) {
            const double all = which == 1 ? (squares + distance) / 2 : which == 3 || which == 6 ? squares / 3 : squares;
            const double parts = which == 3 || which == 5 ? 5 : 1;  /* a gradient of a mean over the samples */
            cnn_graph   *g = cnn_new(.max_batch = max_batch, .seed = 1);
            cnn_tensor  *x = cnn_input(g, 3), *t = cnn_input(g, 3), *b = cnn_param(g, "bias", { 1, 3, 1, 1 });
            cnn_tensor  *y = cnn_keep(cnn_add(x, b)), *loss = sum_loss(which, y, t);
            cnn_dataset  data = cnn_data(5, 3, .floats = five, .targets = truth, .target_c = 3);
            cnn_history  history = { 0 };
            float        bias[3];
            CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
            CHECK_NEAR(cnn_evaluate(loss, y, &data).loss, all / 5, 1e-6 * all);
            CHECK_MSG(cnn_fit(loss, y, &data, .lr = 1e-6f, .no_shuffle = 1, .accumulate = 5, .history = &history,
                              .per_update = 1, .validation = &data), "%s", cnn_error(g));
            CHECK(history.count == 1 && history.updates == 1);
            CHECK_NEAR(history.epoch[0].loss, all / 5, 1e-5 * all);
            CHECK_NEAR(history.epoch[0].validation_loss, all / 5, 1e-4 * all);
            CHECK_NEAR(history.update[0].loss, all / 5, 1e-5 * all);
            CHECK(cnn_get(b, bias, 3));
            for (int k = 0; k < 3; k++) {
                const double want = which == 1 ? (slope[k] + sign[k]) / 2 : which == 3 || which == 6 ? slope[k] / 3 : slope[k];
                CHECK_NEAR(bias[k], -1e-6 * want / parts, 1e-11);
            }
            cnn_history_free(&history), cnn_dataset_free(&data), cnn_free(g);
        }
}

/* The loss of a data set, and a step over several batches, are means over all samples, by the weights of these. */
static void weighted_means_are_over_all_samples(void)
{
    static const unsigned char labels[5] = { 1, 0, 1, 2, 255 };
    /* torch.nn.functional.cross_entropy(five, [1,0,1,2,-100], weight=[1,3,0.5], ignore_index=-100), and its gradient
       for a bias, by double arithmetic */
    double sum = 0, all = 0, want[3] = { 0 };
    const double weight[3] = { 1, 3, 0.5 };
    for (int i = 0; i < 4; i++) {
        const float *z = five + 3 * i;
        const double e = exp((double)z[0]) + exp((double)z[1]) + exp((double)z[2]), w = weight[labels[i]];
        sum += w * (log(e) - (double)z[labels[i]]), all += w;
        for (int k = 0; k < 3; k++) want[k] += w * (exp((double)z[k]) / e - (k == labels[i]));
    }
    for (int max_batch = 1; max_batch <= 5; max_batch++) {
        judged      n = weighted_net(max_batch, 255, CNN_MEAN);
        cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1);
        CHECK_NEAR(cnn_evaluate(n.loss, n.y, &d).loss, sum / all, 1e-6);
        CHECK_MSG(cnn_fit(n.loss, n.y, &d, .lr = 1, .accumulate = 5, .no_shuffle = 1), "%s", cnn_error(n.g));
        float bias[3];
        CHECK(cnn_get(cnn_find(n.g, "bias"), bias, 3));
        for (int k = 0; k < 3; k++) CHECK_NEAR(bias[k], -want[k] / all, 1e-6);
        cnn_dataset_free(&d);
        cnn_free(n.g);
    }
    for (int max_batch = 1; max_batch <= 5; max_batch++) {         /* a sum has no count to be divided by */
        judged      n = weighted_net(max_batch, 255, CNN_SUM);
        cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1);
        cnn_history h = { .count = 0 };
        CHECK_NEAR(cnn_evaluate(n.loss, n.y, &d).loss, sum / 5, 1e-6);
        CHECK_MSG(cnn_fit(n.loss, n.y, &d, .lr = 1, .accumulate = 5, .no_shuffle = 1, .history = &h, .per_update = 1), "%s", cnn_error(n.g));
        CHECK_NEAR(h.epoch[0].loss, sum / 5, 1e-6);
        CHECK_NEAR(h.update[0].loss, sum / 5, 1e-6);
        float bias[3];
        CHECK(cnn_get(cnn_find(n.g, "bias"), bias, 3));
        for (int k = 0; k < 3; k++) CHECK_NEAR(bias[k], -want[k], 1e-5);
        cnn_dataset_free(&d), cnn_history_free(&h);
        cnn_free(n.g);
    }
    sums_are_over_all_samples();
    judged      n = weighted_net(2, -1, CNN_MEAN);                            /* without ignore_index 255 is no class */
    cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1);
    CHECK(!cnn_fit(n.loss, n.y, &d, .lr = 1) && strstr(cnn_error(n.g), "labels 0..255"));
    cnn_dataset_free(&d);
    cnn_free(n.g);
}

static void nan_in_validation_is_an_error(void)
{
    static const unsigned char labels[5] = { 1, 0, 1, 2, 0 };
    float bad[15];
    memcpy(bad, five, sizeof bad), bad[4] = NAN;
    judged      n = weighted_net(2, -1, CNN_MEAN);
    cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1), v = cnn_floats(bad, labels, 5, 3, 1, 1);
    float before[3], after[3];
    for (int average = 0; average < 2; average++) {
        CHECK(!cnn_fit(n.loss, n.y, &d, .lr = 0.1f, .epochs = 9, .patience = 2, .validation = &v,
                       .average = average ? 0.5f : 0));
        CHECK(cnn_error(n.g) && strstr(cnn_error(n.g), "validation loss is NaN after epoch 1"));
        CHECK(cnn_clear_error(n.g));
    }
    CHECK(cnn_get(cnn_find(n.g, "bias"), before, 3) && cnn_swap_average(n.g));     /* the weights, not the averages */
    CHECK(cnn_get(cnn_find(n.g, "bias"), after, 3) && memcmp(before, after, sizeof before) != 0);
    cnn_dataset_free(&d), cnn_dataset_free(&v);
    cnn_free(n.g);
}

/* A last batch of one sample under batch norm of vectors: said before the first batch; drop_last leaves it out. */
static void a_last_batch_of_one_is_known(void)
{
    static const unsigned char labels[5] = { 1, 0, 1, 2, 0 };
    cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 1);
    cnn_tensor *x = cnn_input(g, 3), *t = cnn_labels(g), *y = cnn_dense(cnn_batch_norm(cnn_dense(x, 4)), 3);
    cnn_tensor *loss = cnn_softmax_cross_entropy(y, t);
    CHECK(cnn_compile(g, loss));
    cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1);
    float before[12], after[12];
    cnn_history h = { 0 };
    CHECK(cnn_get(cnn_find(g, "dense1.weight"), before, 12));
    CHECK(!cnn_fit(loss, y, &d, .lr = 0.1f) && strstr(cnn_error(g), "drop_last"));
    CHECK(cnn_get(cnn_find(g, "dense1.weight"), after, 12) && memcmp(before, after, sizeof before) == 0);
    CHECK(cnn_clear_error(g));
    CHECK_MSG(cnn_fit(loss, y, &d, .lr = 0.1f, .epochs = 3, .drop_last = 1, .history = &h), "%s", cnn_error(g));
    CHECK(h.count == 3);
    cnn_dataset two = cnn_split(&d, 0, 1);
    CHECK(!cnn_fit(loss, y, &two, .lr = 0.1f, .drop_last = 1) && strstr(cnn_error(g), "leaves nothing"));
    cnn_history_free(&h);
    cnn_dataset_free(&two), cnn_dataset_free(&d);
    cnn_free(g);
}

/* What PyTorch, ONNX and numpy allow: pools beside their formula, on every instruction set of this CPU. */
static void pools_by_their_formula(void)
{
    const cnn_isa isa[] = { CNN_ISA_PLAIN, CNN_ISA_C, CNN_ISA_AUTO };
    for (int round = 0; round < 300; round++) {
        const int h = test_int(1, 9), w = test_int(1, 40), avg = round % 2, ceil_mode = test_int(0, 1), no_count = test_int(0, 1);
        const int k[2] = { test_int(1, 5), test_int(1, 5) }, s[2] = { test_int(1, 4), test_int(1, 4) };
        const int d[2] = { test_int(1, 3), test_int(1, 3) }, p[2] = { test_int(0, k[0] - 1), test_int(0, k[1] - 1) };
        float x[360], y[3000], plain[3000];
        test_fill(x, 360, -1, 1);
        cnn_pool_args a = { .at = CNN_HERE, .kernel_h = k[0], .kernel_w = k[1], .stride_h = s[0], .stride_w = s[1],
                            .dilation_h = d[0], .dilation_w = d[1], .pad_h = p[0], .pad_w = p[1],
                            .ceil_mode = ceil_mode, .no_count_pad = no_count };
        for (int i = 0; i < 3; i++) {
            cnn_graph *g = cnn_new(.isa = isa[i], .seed = 1);
            cnn_tensor *in = a.x = cnn_input(g, 1, h, w, .grad = 1), *out = avg ? cnn_avg_pool_(a) : cnn_max_pool_(a);
            if (!out->graph) { cnn_free(g); break; }                           /* a window would see only padding */
            cnn_tensor *loss = cnn_sum(cnn_mul(out, out));
            const int oh = out->shape.h, ow = out->shape.w;
            CHECK_MSG(cnn_compile(g, loss) && cnn_set(in, x, (size_t)(h * w)), "%s", cnn_error(g));
            cnn_forward(loss, CNN_TRAIN);
            float got[360], want[360] = { 0 };
            cnn_forward(out, CNN_EVAL);
            CHECK(cnn_get(out, y, (size_t)(oh * ow)));
            for (int oy = 0; oy < oh; oy++)
            for (int ox = 0; ox < ow; ox++) {
                double sum = 0, most = -9;
                int    n = 0, at = 0;
                for (int j = 0; j < k[0]; j++)
                for (int l = 0; l < k[1]; l++) {
                    const int iy = oy * s[0] - p[0] + j * d[0], ix = ox * s[1] - p[1] + l * d[1];
                    const bool inside = iy >= 0 && iy < h && ix >= 0 && ix < w;
                    n += inside || (!no_count && iy < h + p[0] && ix < w + p[1]);
                    if (inside) sum += (double)x[iy * w + ix];
                    if (inside && (double)x[iy * w + ix] > most) most = (double)x[iy * w + ix], at = iy * w + ix;
                }
                const double v = avg ? sum / n : most;
                plain[oy * ow + ox] = (float)v;
                if (!avg) want[at] += 2 * (float)v;
                else for (int j = 0; j < k[0] * k[1]; j++) {
                    const int iy = oy * s[0] - p[0] + j / k[1] * d[0], ix = ox * s[1] - p[1] + j % k[1] * d[1];
                    if (iy >= 0 && iy < h && ix >= 0 && ix < w) want[iy * w + ix] += (float)(2 * v / n);
                }
            }
            CHECK_ALL_NEAR(y, plain, oh * ow, 1e-5);
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            CHECK_MSG(cnn_get_grad(in, got, (size_t)(h * w)), "%s", cnn_error(g));
            CHECK_ALL_NEAR(got, want, h * w, 1e-4);
            cnn_free(g);
        }
    }
    cnn_graph  *g = cnn_new();                   /* torch.nn.MaxPool2d(3, 2, ceil_mode=True)(2x2): 1x1, without: an error */
    cnn_tensor *x = cnn_input(g, 1, 2, 2);
    CHECK(cnn_max_pool(x, 3, .stride = 2, .ceil_mode = 1)->shape.h == 1);
    CHECK(cnn_max_pool(x, 3, .stride = 2)->graph == NULL);
    cnn_free(g);
}

/* torch.nn.ConvTranspose2d(1, 1, 2, stride=1, dilation=3, output_padding=2): below the dilation, above the stride. */
static void output_pad_below_the_dilation(void)
{
    const cnn_isa isa[] = { CNN_ISA_PLAIN, CNN_ISA_C, CNN_ISA_AUTO };
    const float   in[6] = { 1, 2, 3, 4, 5, 6 }, kernel[4] = { 1, 10, 100, 1000 };
    for (int i = 0; i < 3; i++) {
        cnn_graph  *g = cnn_new(.isa = isa[i]);
        cnn_tensor *x = cnn_input(g, 1, 2, 3), *w = cnn_const(g, ((cnn_shape){ 1, 1, 2, 2 }), kernel);
        cnn_tensor *b = cnn_param(g, "b", { 1, 1, 1, 1 }, CNN_INIT_CONSTANT, 0.5f);
        cnn_tensor *y = cnn_conv_transpose2d(x, 1, 2, .dilation = 3, .output_pad = 2, .weight = w, .bias = b);
        float got[7 * 8], want[7 * 8];
        CHECK_MSG(y->shape.h == 7 && y->shape.w == 8, "%s", cnn_error(g));
        for (int k = 0; k < 56; k++) want[k] = 0.5f;
        for (int k = 0; k < 24; k++)
            want[(k / 4 / 3 + k % 4 / 2 * 3) * 8 + k / 4 % 3 + k % 2 * 3] += in[k / 4] * kernel[k % 4];
        CHECK_MSG(cnn_compile(g, cnn_sum(cnn_keep(y))) && cnn_set(x, in, 6), "%s", cnn_error(g));
        cnn_forward(y, CNN_EVAL);
        CHECK(cnn_get(y, got, 56));
        CHECK_ALL_NEAR(got, want, 56, 1e-6);
        CHECK(cnn_gradient_check(cnn_loss(g), 0).worst < 1e-2);
        CHECK(!cnn_conv_transpose2d(x, 1, 2, .dilation = 3, .output_pad = 3)->graph);
        cnn_free(g);
    }
}
static cnn_tensor *clamp_high_wins(cnn_tensor *x) { return cnn_clamp(x, 3, -2); }
static cnn_tensor *clamp_to_one(cnn_tensor *x)    { return cnn_clamp(x, 1, 1); }
static cnn_tensor *clamp_nothing(cnn_tensor *x)   { return cnn_clamp(x, -INFINITY, INFINITY); }
static void clamps(void)                                                       /* numpy.clip(-1, 3, -2) is -2 */
{
    CHECK_NEAR(of_minus_one(clamp_high_wins), -2, 0);
    CHECK_NEAR(of_minus_one(clamp_to_one), 1, 0);
    CHECK_NEAR(of_minus_one(clamp_nothing), -1, 0);
    cnn_graph *g = cnn_new();
    CHECK(!cnn_clamp(cnn_input(g, 1), NAN, 1)->graph && strstr(cnn_error(g), "low is nan"));
    cnn_free(g);
}

/* Counts of a net that could not be recorded: 0, and no size overflows. */
static void counts_after_a_failed_builder(void)
{
    for (int i = 0; i < 3; i++) {
        cnn_graph  *g = cnn_new(.max_batch = 2);
        cnn_tensor *x = cnn_input(g, 3, 8, 8), *in[2] = { cnn_conv2d(x, 4, 3), NULL };
        if (i == 0)      cnn_param(g, "w", { 65536, 65536, 1, 1 });
        else if (i == 1) cnn_apply(&cnn_op_matmul, in, 2, NULL, CNN_HERE);
        else             cnn_conv2d(x, 4, 9);
        CHECK(cnn_error(g) && cnn_param_count(g) == 0 && cnn_multiply_adds(g) == 0);
        cnn_summary(g, NULL), cnn_dot(g, NULL);
        FILE *f = tmpfile();
        if (f) cnn_summary(g, f), cnn_dot(g, f), fclose(f);
        cnn_free(g);
    }
}

/* Every public function is given NULL, and the nil tensor, where a pointer must be. */
static void null_everywhere(void)
{
    cnn_tensor *tensor[2] = { NULL, cnn_dense(NULL, 3) }, *none[2] = { NULL, NULL };
    float       v[4] = { 0 };
    int         k[9] = { 0 };
    FILE       *out = tmpfile();
    CHECK(tensor[1] && !tensor[1]->graph);
    cnn_dataset bad = cnn_bytes(NULL, NULL, 3, 1, 1, 1);
    CHECK(bad.error[0] && bad.count == 0);
    for (int i = 0; i < 2; i++) {
        cnn_tensor *t = tensor[i];
        cnn_forward(t, CNN_EVAL), cnn_backward(t), cnn_backward_add(t);
        cnn_name(t, "n"), cnn_keep(t), cnn_freeze(t);
        CHECK(!cnn_set(t, v, 4) && !cnn_set_labels(t, k, 4) && !cnn_get(t, v, 4) && !cnn_get_grad(t, v, 4));
        CHECK(!cnn_map_read(t) && !cnn_map_write(t) && !cnn_map_grad(t) && !cnn_count(t));
        const cnn_tensor *y[] = {
            cnn_conv2d(t, 1, 1), cnn_conv_transpose2d(t, 1, 1), cnn_dense(t, 1), cnn_matmul(t, t), cnn_max_pool(t, 1),
            cnn_avg_pool(t, 1), cnn_global_avg_pool(t), cnn_global_max_pool(t), cnn_batch_norm(t), cnn_layer_norm(t),
            cnn_rms_norm(t),
            cnn_group_norm(t, 1), cnn_instance_norm(t), cnn_lrn(t, 1), cnn_relu(t), cnn_leaky_relu(t), cnn_sigmoid(t),
            cnn_tanh(t), cnn_relu6(t), cnn_elu(t), cnn_gelu(t), cnn_silu(t), cnn_softplus(t), cnn_hard_swish(t),
            cnn_selu(t), cnn_mish(t), cnn_hard_sigmoid(t), cnn_softsign(t), cnn_erf(t), cnn_power(t, 2),
            cnn_prelu(t), cnn_exp(t), cnn_log(t), cnn_sqrt(t), cnn_abs(t), cnn_softmax(t), cnn_log_softmax(t),
            cnn_dropout(t, 0.5f), cnn_reshape(t, 1), cnn_flatten(t), cnn_concat(t, t), cnn_concat_(CNN_HERE, NULL, 2),
            cnn_pad(t, 1), cnn_slice(t, CNN_C, 0), cnn_upsample(t, 2), cnn_add(t, t), cnn_sub(t, t), cnn_mul(t, t),
            cnn_div(t, t), cnn_maximum(t, t), cnn_minimum(t, t), cnn_pow(t, t), cnn_amax(t), cnn_amin(t),
            cnn_scale(t, 2), cnn_sum(t), cnn_mean(t), cnn_softmax_cross_entropy(t, t), cnn_nll(t, t), cnn_mse(t, t),
            cnn_l1(t, t), cnn_huber(t, t), cnn_smooth_l1(t, t), cnn_sigmoid_focal(t, t), cnn_dice(t, t), cnn_bce_with_logits(t, t, .weight = t),
            cnn_apply(&cnn_op_relu, &t, 1, NULL, NULL), cnn_layer(NULL, &t, 1, NULL, NULL, NULL),
            cnn_apply(&cnn_op_relu, NULL, 1, NULL, NULL) };
        for (size_t j = 0; j < sizeof y / sizeof *y; j++) CHECK(y[j] && !y[j]->graph);
        CHECK(cnn_feed(t, t, &bad, 0) == 0 && cnn_feed_augmented(t, t, NULL, 0, (cnn_augment){ 0 }, 0) == 0);
        CHECK(cnn_correct(t, t) == 0 && !cnn_fit(t, t, &bad, .lr = 1) && cnn_evaluate(t, t, NULL).count == 0);
        CHECK(cnn_evaluate_flipped(t, t, &bad).count == 0 && !cnn_confusion(t, &bad, k) && isnan(cnn_top_k(t, NULL, 1)));
        CHECK(cnn_predict(t, t, v, v) == -1 && isnan(cnn_gradient_check(t, 0).worst) && cnn_checkup(t, (char *)v, 4) == -1);
        CHECK(isnan(cnn_profile(t, 1, out)) && !cnn_trace(t, 1, out) && !cnn_on_device(t));
        CHECK(!cnn_write_filters(t, "build/x.png", 1) && !cnn_write_maps(t, 0, "build/x.png", 1));
        CHECK(!cnn_operand(t, "weight") && !cnn_fail(t, "x") && cnn_shape_text(t).s[0]);
    }
    cnn_notice(NULL, "x"), cnn_free(NULL), cnn_dataset_free(NULL), cnn_history_free(NULL);
    CHECK(cnn_error(NULL) && !cnn_plan(NULL, NULL).total && !cnn_compile(NULL, NULL));
    CHECK(!cnn_compile_in(NULL, NULL, NULL, 0) && !cnn_share(NULL) && !cnn_input(NULL, 1)->graph);
    CHECK(!cnn_labels(NULL)->graph && !cnn_param(NULL, "w", { 1, 1, 1, 1 })->graph);
    CHECK(!cnn_const(NULL, ((cnn_shape){ 1, 1, 1, 1 }), v)->graph && !cnn_find(NULL, "x") && !cnn_node(NULL, 0));
    CHECK(!cnn_loss(NULL)->graph && !cnn_output(NULL)->graph && !cnn_batch(NULL) && !cnn_set_batch(NULL, 1));
    CHECK(!cnn_flat_params(NULL, NULL) && !cnn_flat_grads(NULL, NULL) && !cnn_step(NULL, .lr = 1));
    CHECK(isnan(cnn_clip_grads(NULL, 1)) && !cnn_set_lr_scale(NULL, "*", 1) && !cnn_set_decay_scale(NULL, "*", 1));
    CHECK(!cnn_average(NULL, 0.5f) && !cnn_swap_average(NULL) && !cnn_doctor(NULL, 1) && cnn_doctor_report(NULL));
    CHECK(cnn_floats(NULL, NULL, 1, 1, 1, 1).error[0] && cnn_idx_memory(NULL, 9, NULL, 9).error[0]);
    CHECK(cnn_cifar_memory(NULL, 3073, 10).error[0] && cnn_csv_memory(NULL, 9, (cnn_csv_args){ 0 }).error[0]);
    CHECK(cnn_npy_memory(NULL, 99, NULL, 99).error[0] && cnn_load_idx(NULL, NULL).error[0]);
    CHECK(cnn_load_cifar(NULL, 1, 10).error[0] && cnn_load_csv(NULL).error[0] && cnn_load_npy(NULL, NULL).error[0]);
    const char *no_path = NULL;
    CHECK(cnn_load_cifar(&no_path, 1, 10).error[0]);
    cnn_shuffle(NULL, 1), cnn_shuffle(&bad, 1), cnn_standardize(NULL, NULL), cnn_standardize(&bad, NULL);
    CHECK(cnn_split(NULL, 0, 1).error[0] && cnn_split(&bad, 0, 1).error[0] && cnn_precision_recall(NULL, 1, 0).count == 0);
    CHECK(!cnn_print_progress(NULL, NULL) && !cnn_history_csv(NULL, NULL) && !cnn_history_svg(NULL, NULL));
    cnn_graph *g = cnn_load_memory(NULL, 9, (cnn_load_args){ .path = NULL });
    CHECK(cnn_error(g)), cnn_free(g);
    g = cnn_load(NULL);
    CHECK(cnn_error(g)), cnn_free(g);
    CHECK(!cnn_load_weights_memory(NULL, 9, (cnn_load_weights_args){ .g = NULL }) && !cnn_load_weights(NULL, NULL));
    CHECK(!cnn_save_memory(NULL, NULL, 0) && !cnn_save_checkpoint_memory(NULL, NULL, 0) && !cnn_save(NULL, NULL));
    CHECK(!cnn_save_checkpoint(NULL, NULL) && !cnn_write_file(NULL, NULL, NULL) && !cnn_write_file("build/x", NULL, NULL));
    CHECK(!cnn_param_count(NULL) && cnn_multiply_adds(NULL) == 0 && cnn_stats_of(NULL, 4).count == 0);
    cnn_summary(NULL, out), cnn_dot(NULL, out);
    CHECK(!cnn_write_image(NULL, NULL, { 1, 1, 1, 1 }) && !cnn_write_image("build/x.png", NULL, { 1, 1, 1, 1 }));
    CHECK(!cnn_leave_device(NULL) && cnn_copies(NULL).uploads == 0);
    CHECK(cnn_ops(NULL) && cnn_optimizers(NULL) && !cnn_set(none[0], NULL, 0));
    cnn_dataset_free(&bad);
    if (out) fclose(out);

    /* A graph that is fine, and NULL for the rest. */
    net n = small_net();
    cnn_forward(n.loss, CNN_TRAIN);
    CHECK(!cnn_find(n.g, NULL) && cnn_flat_params(n.g, NULL) && cnn_name(n.x, NULL) == n.x);
    CHECK(cnn_evaluate(n.loss, n.y, NULL).count == 0 && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(cnn_evaluate(n.loss, NULL, NULL).count == 0 && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(!cnn_fit(n.loss, n.y, NULL, .lr = 1) && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(!cnn_confusion(n.y, NULL, k) && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(!cnn_confusion(n.y, NULL, NULL) && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(isnan(cnn_top_k(n.y, NULL, 1)) && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(cnn_predict(n.x, n.y, NULL, NULL) == -1 && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(cnn_feed(n.x, n.t, NULL, 0) == 0 && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(!cnn_set_lr_scale(n.g, NULL, 1) && cnn_error(n.g) && cnn_clear_error(n.g));
    CHECK(!cnn_save(n.g, NULL) && !cnn_save_checkpoint(n.g, NULL) && !cnn_load_weights(n.g, NULL));
    CHECK(cnn_error(n.g) && cnn_clear_error(n.g) && !cnn_load_weights_memory(NULL, 9, (cnn_load_weights_args){ .g = n.g }));
    CHECK(cnn_error(n.g) && cnn_clear_error(n.g));
    cnn_checkup(n.loss, NULL, 9), cnn_profile(n.loss, 1, NULL), cnn_trace(n.loss, 1, NULL), cnn_summary(n.g, NULL);
    cnn_clear_error(n.g);
    CHECK(!cnn_operand(n.y, NULL) && !cnn_write_maps(n.x, 0, NULL, 1) && !cnn_write_filters(n.y, NULL, 1));
    cnn_free(n.g);
}

/* What a training would get wrong in silence is said before it begins. */
static void said_before_training(void)
{
    static const unsigned char labels[5] = { 1, 0, 1, 2, 0 };
    judged      n = weighted_net(2, -1, CNN_MEAN);
    cnn_dataset d = cnn_floats(five, labels, 5, 3, 1, 1), v = cnn_floats(five, labels, 5, 3, 1, 1);
    cnn_standardize(&d, &d);
    CHECK(!cnn_fit(n.loss, n.y, &d, .lr = 1, .validation = &v) && strstr(cnn_error(n.g), "cnn_standardize(&validation"));
    cnn_standardize(&v, &d);
    CHECK(cnn_clear_error(n.g) && cnn_fit(n.loss, n.y, &d, .lr = 0.1f, .validation = &v));
    cnn_free(n.g);

    for (int said = 0; said < 2; said++) {                                      /* max_batch forgotten */
        n = weighted_net(said, -1, CNN_MEAN);
        CHECK(cnn_fit(n.loss, n.y, &d, .lr = 0.1f) == (said == 1));
        CHECK(said || strstr(cnn_error(n.g), "max_batch was not said"));
        cnn_free(n.g);
    }
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3), *t = cnn_labels(g);
    cnn_softmax_cross_entropy(cnn_dense(x, 1), t);
    CHECK(cnn_error(g) && strstr(cnn_error(g), "cnn_bce_with_logits"));
    cnn_free(g);

    g = cnn_new();
    CHECK(!cnn_compile(g, cnn_mean(cnn_dense(NULL, 3))) && strstr(cnn_error(g), "NULL for a tensor"));
    cnn_free(g);

    g = cnn_new();
    cnn_tensor *w = cnn_freeze(cnn_param(g, "w", { 1, 1, 1, 1 })), *y = cnn_input(g, 1, .grad = 1), *loss = cnn_mean(cnn_mul(y, w));
    CHECK(cnn_compile(g, loss) && cnn_set(y, five, 1));
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK(!cnn_step(g, .lr = 1) && strstr(cnn_error(g), "every parameter is frozen"));
    cnn_free(g);
    cnn_dataset_free(&d), cnn_dataset_free(&v);
}

/* Messages say what is the matter, and where. */
static cnn_dataset csv(const char *text, char separator)
{
    return cnn_csv_memory(text, strlen(text), (cnn_csv_args){ .path = "a.csv", .separator = separator });
}
static void messages_say_what_to_do(void)
{
    cnn_dataset d = csv("1;2\n3;4\n", 0);
    CHECK_MSG(strstr(d.error, "separator = ';'"), "%s", d.error), cnn_dataset_free(&d);
    d = csv("1,5;2\n3,5;4\n", 0);
    CHECK_MSG(strstr(d.error, "separator = ';'"), "%s", d.error), cnn_dataset_free(&d);
    d = csv("1,5;2\n3,5;4\n", ';');
    CHECK_MSG(strstr(d.error, "decimal comma"), "%s", d.error), cnn_dataset_free(&d);
    d = csv("a,b\n3,4\n", 0);
    CHECK_MSG(strstr(d.error, "heading"), "%s", d.error), cnn_dataset_free(&d);
    d = cnn_npy_memory("\x1f\x8b\x08 gzip and more", 16, NULL, 0);
    CHECK_MSG(strstr(d.error, "gzipped"), "%s", d.error), cnn_dataset_free(&d);
    static const char scalar[] = "\x93NUMPY\1\0\x36\0{'descr': '<f4', 'fortran_order': False, 'shape': (), }\0\0\0\0";
    d = cnn_npy_memory(scalar, sizeof scalar, NULL, 0);
    CHECK_MSG(strstr(d.error, "one number, of shape ()"), "%s", d.error), cnn_dataset_free(&d);

    static const unsigned char labels[5] = { 1, 0, 1, 2, 0 };                  /* NaN in the data is no high rate */
    float bad[15];
    memcpy(bad, five, sizeof bad), bad[4] = NAN;
    judged n = weighted_net(2, -1, CNN_MEAN);
    d = cnn_floats(bad, labels, 5, 3, 1, 1);
    CHECK(!cnn_fit(n.loss, n.y, &d, .lr = 0.1f) && strstr(cnn_error(n.g), "the data of this batch hold 1 NaN"));
    CHECK(cnn_clear_error(n.g) && !cnn_fit(n.y, n.loss, &d, .lr = 0.1f) && strstr(cnn_error(n.g), "swapped"));
    CHECK(cnn_clear_error(n.g) && isnan(cnn_evaluate(n.y, n.loss, &d).loss) && strstr(cnn_error(n.g), "swapped"));
    cnn_dataset_free(&d);

    /* The place of the call, beside that of the layer. */
    CHECK(cnn_clear_error(n.g));
    CHECK(!cnn_get(n.y, bad, 99)); const char *here = "called at " CNN_HERE;
    CHECK_MSG(strstr(cnn_error(n.g), here), "%s", cnn_error(n.g));
    CHECK(cnn_clear_error(n.g));
    CHECK(cnn_correct(n.y, n.y) == 0); here = CNN_HERE ": correct";
    CHECK_MSG(strstr(cnn_error(n.g), here) == cnn_error(n.g), "%s", cnn_error(n.g));
    CHECK(cnn_clear_error(n.g));
    CHECK(!cnn_set_lr_scale(n.g, "nothing.*", 0)); here = CNN_HERE ": lr_scale";            /* refused, not fatal */
    CHECK_MSG(strstr(cnn_error(n.g), here) == cnn_error(n.g), "%s", cnn_error(n.g));
    CHECK(cnn_clear_error(n.g) && cnn_set_lr_scale(n.g, "bias", 0.5f));
    cnn_free(n.g);

    cnn_graph  *g = cnn_new(.max_batch = 2);                                   /* (28,28) read as 28 channels */
    cnn_tensor *x = cnn_input(g, 28, 28), *t = cnn_labels(g), *y = cnn_dense(x, 10), *loss = cnn_softmax_cross_entropy(y, t);
    static unsigned char pixels[28 * 28];
    d = cnn_bytes(pixels, labels, 1, 1, 28, 28);
    CHECK(cnn_compile(g, loss) && !cnn_feed(x, t, &d, 0) && strstr(cnn_error(g), "channels, height, width"));
    cnn_free(g), cnn_dataset_free(&d);

    g = cnn_new(.max_batch = 1);                                               /* weights that start at zero */
    x = cnn_input(g, 2), y = cnn_dense(cnn_tanh(cnn_dense(x, 3, .init = CNN_INIT_CONSTANT, .gain = 0, .name = "a")), 2,
                                       .init = CNN_INIT_CONSTANT, .gain = 0, .name = "b");
    loss = cnn_softmax_cross_entropy(y, t = cnn_labels(g));
    char text[2000];
    CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, five, 2) && cnn_set_labels(t, (int[]){ 1 }, 1), "%s", cnn_error(g));
    CHECK(cnn_checkup(loss, text, sizeof text) > 0 && strstr(text, "weight is zero everywhere"));
    CHECK_MSG(!strstr(text, "saturated"), "%s", text);
    cnn_free(g);
}

/* A net of 20,000 nodes is planned in about its size, by one of 2,000 in about ten times less. Other work on the machine
   can slow one of them: the least of up to three times counts. */
static double planning(int n, size_t *bytes)
{
    cnn_graph  *g = cnn_new(.max_batch = 4);
    cnn_tensor *x = cnn_input(g, 3), *h = cnn_dense(x, 4);
    for (int i = 0; i < n; i++) h = cnn_scale(cnn_tanh(h), 0.5f);
    const clock_t start = clock();
    CHECK_MSG(cnn_compile(g, cnn_mean(h)), "%s", cnn_error(g));
    const double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    *bytes = cnn_plan(g, cnn_loss(g)).activations;
    cnn_free(g);
    return took;
}
static void a_net_of_many_nodes(void)
{
    double took[2] = { 1e9, 1e9 };
    size_t bytes[2];
    for (int tries = 0; tries < 3 && (!tries || took[1] >= 30 * (took[0] + 0.05)); tries++)
        for (int k = 0; k < 2; k++) {
            const double t = planning(k ? 20000 : 2000, &bytes[k]);
            if (t < took[k]) took[k] = t;
        }
    CHECK_MSG(took[1] < 30 * (took[0] + 0.05), "%g s, %g s", took[0], took[1]);
    CHECK_MSG(bytes[1] < 11 * bytes[0], "%zu, %zu", bytes[0], bytes[1]);
    if (getenv("SHOW")) printf("%g s, %g s; %zu, %zu bytes\n", took[0], took[1], bytes[0], bytes[1]);
}

#if defined(__unix__)
/* fork after a run with threads: the child goes on alone, to the same bits, and does not hang. */
static void fork_after_threads(void)
{
    static float image[32 * 64 * 64];
    cnn_graph  *g = cnn_new(.threads = 2, .seed = 1);
    cnn_tensor *x = cnn_input(g, 32, 64, 64), *y = cnn_conv2d(cnn_conv2d(x, 64, 3), 64, 3, .stride = 2), *loss = cnn_mean(cnn_mul(y, y));
    test_fill(image, sizeof image / sizeof *image, -1, 1);
    CHECK(cnn_compile(g, loss) && cnn_set(x, image, sizeof image / sizeof *image));
    const float here = cnn_forward(loss, CNN_TRAIN);
    cnn_backward(loss);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        const bool fine = cnn_forward(loss, CNN_TRAIN) == here && (cnn_backward(loss), cnn_step(g, .lr = 0.1f));
        _exit(fine ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(cnn_forward(loss, CNN_TRAIN) == here);
    cnn_free(g);
}
#endif

/* .optimizer = cnn_adam, without (): C warns only. */
static void a_function_is_no_optimizer(void)
{
    const cnn_optimizer *(*const function)(void) = cnn_adam;
    const cnn_optimizer *wrong;
    memcpy(&wrong, &function, sizeof wrong);
    cnn_graph *g = cnn_new(.optimizer = wrong);
    CHECK(cnn_error(g) && strstr(cnn_error(g), "cnn_adam()"));
    CHECK(!cnn_compile(g, cnn_sum(cnn_input(g, 1))));
    cnn_free(g);
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

/* ---- 30. The gradient of weights at infinity: zeros between and around the images are no terms of the sum ---- */

typedef struct { int c, side, out, kernel, stride, pad, groups, transposed; } layer_of;
/* dw of one layer, where element `at` of x, or of dy, is not finite: to be freed. */
static float *weight_gradient(cnn_isa isa, int threads, const layer_of *l, bool in_dy, size_t at, float strange, size_t *count)
{
    enum { N = 3 };
    cnn_graph  *g = cnn_new(.max_batch = N, .seed = 7, .isa = isa, .threads = threads);
    cnn_tensor *x = cnn_input(g, l->c, l->side, l->side);
    cnn_tensor *y = l->transposed ? cnn_conv_transpose2d(x, l->out, l->kernel, .stride = l->stride, .pad = l->pad, .groups = l->groups, .name = "l")
                                  : cnn_conv2d(x, l->out, l->kernel, .stride = l->stride, .pad = l->pad, .groups = l->groups, .name = "l");
    cnn_tensor *dy = cnn_input(g, y->shape.c, y->shape.h, y->shape.w, .name = "dy"), *loss = cnn_sum(cnn_mul(y, dy));
    CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
    for (int k = 0; k < 2; k++) {
        cnn_tensor *t = k ? dy : x;
        float      *v = cnn_map_write(t);
        const size_t n = cnn_count(t);
        for (size_t i = 0; i < n; i++) v[i] = (float)((double)(i * 7919 % 211) / 105 - 1);
        if (in_dy == (k == 1)) v[at % n] = strange;
    }
    cnn_tensor *w = cnn_find(g, "l.weight");
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    *count = cnn_count(w);
    float *got = malloc(*count * sizeof *got);
    CHECK(got && cnn_get_grad(w, got, *count));
    cnn_free(g);
    return got;
}

static void infinity_stays_where_it_belongs(void)
{
    /* (1x1 plane, kernel 3, pad 1): all taps but the middle one meet nothing but padding. */
    const layer_of one = { 2, 1, 3, 3, 1, 1, 1, 0 };
    size_t count;
    for (int isa = CNN_ISA_PLAIN; isa <= CNN_ISA_WASM; isa++) {
        cnn_graph *g = cnn_new(.isa = (cnn_isa)isa);
        const bool here = !cnn_error(g);
        cnn_free(g);
        if (!here) continue;
        float *dw = weight_gradient((cnn_isa)isa, 1, &one, false, 1, INFINITY, &count);
        for (size_t i = 0; i < count; i++)
            CHECK_MSG(i % 9 != 4 ? dw[i] == 0 : isfinite(dw[i]) == (i / 9 % 2 == 0), "isa %d: dw[%zu] is %g", isa, i, (double)dw[i]);
        free(dw);

        /* The algorithms: Winograd 4x4 and 2x2, many channels, few, strides, groups, depthwise, transposed. What is not finite, and
           what is, as in the plain loop; the same bits for two threads. */
        const layer_of layers[] = {
            { 32, 9, 32, 3, 1, 1, 1, 0 }, { 16, 8, 16, 3, 1, 1, 1, 0 }, { 16, 7, 16, 5, 1, 2, 1, 0 }, { 64, 4, 48, 3, 1, 1, 1, 0 }, { 3, 11, 8, 3, 2, 1, 1, 0 },
            { 8, 6, 8, 3, 1, 1, 8, 0 }, { 8, 7, 8, 3, 2, 1, 8, 0 }, { 8, 7, 8, 5, 2, 2, 8, 0 }, { 6, 5, 12, 3, 1, 2, 3, 0 }, { 4, 5, 6, 3, 2, 1, 1, 1 },
            { 16, 8, 16, 3, 1, 1, 1, 1 }, { 8, 5, 8, 4, 2, 1, 8, 1 }, { 12, 6, 20, 1, 1, 0, 1, 0 }, { 12, 6, 20, 1, 2, 0, 1, 0 } };
        for (size_t k = 0; k < sizeof layers / sizeof *layers; k++)
            for (int way = 0; way < 6; way++) {
                const float  strange[3] = { INFINITY, -INFINITY, NAN };
                const size_t at = way == 0 ? 0 : (size_t)test_int(0, 1 << 20);
                float *want = weight_gradient(CNN_ISA_PLAIN, 1, &layers[k], way % 2, at, strange[way / 2], &count);
                float *got = weight_gradient((cnn_isa)isa, 1, &layers[k], way % 2, at, strange[way / 2], &count);
                float *two = weight_gradient((cnn_isa)isa, 2, &layers[k], way % 2, at, strange[way / 2], &count);
                size_t wrong = 0, finite = 0;
                for (size_t i = 0; i < count; i++) {
                    finite += (size_t)(isfinite(want[i]) != 0);
                    wrong += isfinite(want[i]) ? !(fabs((double)got[i] - (double)want[i]) < 1e-3) : isfinite(got[i]) != 0;
                }
                const bool all_met = layers[k].stride <= layers[k].kernel;      /* else x may be where nothing looks */
                CHECK_MSG(wrong == 0 && (finite < count || !all_met), "isa %d, layer %zu, way %d: %zu of %zu are wrong, %zu should be finite", isa, k,
                          way, wrong, count, finite);
                for (size_t i = 0; i < count; i++)
                    if (isfinite(got[i]) ? memcmp(&got[i], &two[i], sizeof *got) != 0 : isfinite(two[i]) != 0) {
                        CHECK_MSG(false, "isa %d, layer %zu: two threads differ", isa, k);
                        break;
                    }
                free(want), free(got), free(two);
            }
    }
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
    RUN(weighted_means_are_over_all_samples);
    RUN(nan_in_validation_is_an_error);
    RUN(a_last_batch_of_one_is_known);
    RUN(the_check_names_the_suspect);
    RUN(a_probe_sees_every_node);
    RUN(zero_is_a_value);
    RUN(zero_is_a_value_in_steps);
    RUN(counts_after_a_failed_builder);
    RUN(null_everywhere);
    RUN(a_function_is_no_optimizer);
    RUN(said_before_training);
#if defined(__unix__)
    RUN(fork_after_threads);
#endif
    RUN(a_net_of_many_nodes);
    RUN(messages_say_what_to_do);
    RUN(pools_by_their_formula);
    RUN(output_pad_below_the_dilation);
    RUN(clamps);
    RUN(exp_covers_all_floats);
    RUN(long_sums_are_exact);
    RUN(norms_of_large_values);
    RUN(momentum_1_forgets);
    RUN(infinity_stays_where_it_belongs);
    RUN(relu_at_nan);
    RUN(exact_convolutions);
    return test_end();
}
