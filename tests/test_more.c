/* The operations beyond those of LeNet and ResNet: what tests/test_rooms.c cannot ask. Model files with all of them, the
   bits of several threads, messages, and numbers far out. */
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

/* Each of them once. */
static cnn_tensor *everything(cnn_tensor *x, cnn_tensor *t)
{
    cnn_graph  *g = x->graph;
    cnn_tensor *h = cnn_lrn(cnn_conv2d(x, 6, 3, .pad = 1), 5, .alpha = 0.5f, .k = 2), *down = cnn_max_pool(h, 2);
    down = cnn_prelu(cnn_group_norm(cnn_elu(down, 0.7f), 3), .per_channel = 1);
    h = cnn_conv_transpose2d(down, 6, 3, .stride = 2, .pad = 1, .output_pad = 1, .groups = 2);
    h = cnn_add(cnn_silu(h), cnn_upsample(cnn_gelu(down), 2, .bilinear = 1));
    h = cnn_add(cnn_instance_norm(h, .affine = 1), cnn_upsample(cnn_hard_swish(down), 2));
    h = cnn_pad(cnn_slice(h, CNN_C, 1, -1), 1, 2, 0, 1, 1, 1, .value = 0.5f);
    h = cnn_relu6(cnn_layer_norm(cnn_clamp(cnn_clamp(h, -1, INFINITY), -INFINITY, 2)));
    h = cnn_log(cnn_sqrt(cnn_exp(cnn_softplus(cnn_abs(cnn_sub(h, cnn_global_max_pool(h)))))));
    h = cnn_add(h, cnn_erf(cnn_softsign(cnn_selu(cnn_mish(cnn_power(cnn_hard_sigmoid(h), 1.5f))))));
    h = cnn_layer_norm(cnn_rms_norm(h, .axes = CNN_H | CNN_W), .axes = CNN_W);
    h = cnn_maximum(cnn_minimum(h, cnn_amax(h, CNN_N)), cnn_scale(cnn_amin(h, CNN_H), 2));
    h = cnn_pow(cnn_scale(cnn_abs(h), 1, 0.5f), cnn_div(h, cnn_scale(cnn_abs(h), 1, 1)));
    h = cnn_dense(h, 4, .name = "logits");
    static const float weights[4] = { 1, 0.5f, 2, 0 };
    cnn_tensor *w = cnn_const(g, (cnn_shape){ 1, 4, 1, 1 }, weights), *half = cnn_scale(h, 0.5f);
    cnn_tensor *J = cnn_softmax_cross_entropy(h, t, .smoothing = 0.1f, .class_weights = w, .ignore_index = -100);
    J = cnn_add(J, cnn_nll(cnn_log_softmax(h), t, .class_weights = w, .ignore_index = -100));
    return cnn_add(cnn_add(J, cnn_l1(h, half)), cnn_add(cnn_huber(h, half, .delta = 0.3f), cnn_bce_with_logits(h, cnn_sigmoid(half))));
}

enum { N = 3, SIZE = 3 * 2 * 12 * 12 };
static const int labels[N] = { 2, -100, 0 };

static float train(cnn_graph *g, cnn_tensor *x, cnn_tensor *t, cnn_tensor *J)
{
    float pixels[SIZE];
    test__state = 7;
    test_fill(pixels, SIZE, -1, 1);
    cnn_set(x, pixels, SIZE), cnn_set_labels(t, labels, N);
    for (int i = 0; i < 3; i++) cnn_forward(J, CNN_TRAIN), cnn_backward(J), cnn_step(g, .lr = 0.01f, .momentum = 0.9f);
    return cnn_forward(J, CNN_TRAIN);
}
static cnn_graph *net(int threads, cnn_tensor **x, cnn_tensor **t, cnn_tensor **J)
{
    cnn_graph *g = cnn_new(.max_batch = N, .seed = 3, .threads = threads);
    *x = cnn_input(g, 2, 12, 12), *t = cnn_labels(g), *J = everything(*x, *t);
    CHECK_MSG(cnn_compile(g, *J), "%s", cnn_error(g));
    return g;
}

/* Saved and loaded again, the net goes on to the same bits. */
static void model_files(void)
{
    cnn_tensor *x, *t, *J;
    cnn_graph  *g = net(1, &x, &t, &J);
    train(g, x, t, J);
    size_t size = cnn_save_checkpoint_memory(g, NULL, 0);
    void  *file = test_alloc(size);
    CHECK(cnn_save_checkpoint_memory(g, file, size) == size);
    cnn_graph *again = cnn_load_memory(file, size, (cnn_load_args){ .path = "memory", .max_batch = N });
    CHECK_MSG(!cnn_error(again), "%s", cnn_error(again));
    float a = train(g, x, t, J), b = train(again, cnn_find(again, x->name), cnn_find(again, t->name), cnn_loss(again));
    CHECK_MSG(!cnn_error(again), "%s", cnn_error(again));
    CHECK(isfinite(a));
    CHECK_SAME_BITS(&a, &b, 1);
    free(file), cnn_free(again), cnn_free(g);
}

static void threads_give_the_same_bits(void)
{
    float loss[3];
    for (int i = 0; i < 3; i++) {
        cnn_tensor *x, *t, *J;
        cnn_graph  *g = net(i + 1, &x, &t, &J);
        loss[i] = train(g, x, t, J);
        CHECK_MSG(!cnn_error(g), "%s", cnn_error(g));
        cnn_free(g);
    }
    CHECK_SAME_BITS(&loss[0], &loss[1], 1);
    CHECK_SAME_BITS(&loss[0], &loss[2], 1);
}

/* Every rule says what is wrong; only the part behind the place is compared. */
static void messages(void)
{
    for (int i = 0; ; i++) {
        cnn_graph  *g = cnn_new(.max_batch = 2);
        cnn_tensor *x = cnn_input(g, 4, 5, 6), *y = cnn_input(g, 4, 5, 5), *t = cnn_labels(g), *flat = cnn_input(g, 4);
        const char *want = NULL;
        switch (i) {
        case 0:  cnn_conv_transpose2d(x, 3, 2, .pad = 6);           want = "conv_transpose2d: input (N,4,5,6): (5 - 1)*1 - 6 - 6 + 1*(2 - 1) + 0 + 1 = -6 is no extent"; break;
        case 1:  cnn_conv_transpose2d(x, 3, 2, .output_pad = 1);    want = "conv_transpose2d: output_pad is 1: it must be less than the stride, 1, or the dilation, 1"; break;
        case 2:  cnn_conv_transpose2d(x, 3, 2, .groups = 2);        want = "conv_transpose2d: groups 2 must divide the 4 channels of input (N,4,5,6) and the 3 of the output"; break;
        case 3:  cnn_conv_transpose2d(x, 4, INT_MAX);               want = "conv_transpose2d: kernel is 2147483647: it must be the size of the window, in [1,16777216]"; break;
        case 4:  cnn_lrn(x, 0);                                     want = "lrn: size is 0: it must be the channels of a window, in [1,16777216]"; break;
        case 5:  cnn_group_norm(x, 3);                              want = "group_norm: groups is 3: it must divide the 4 channels of input (N,4,5,6)"; break;
        case 6:  cnn_upsample(x, -2);                               want = "upsample: scale -2,-2 of input (N,4,5,6): it must be positive, and no extent larger than 2^24"; break;
        case 7:  cnn_pad(x, 0, -1);                                 want = "pad: right is -1: it must be in [0,16777216]"; break;
        case 8:  cnn_slice(x, CNN_H, 3, 3);                         want = "slice: from 3 to 3 of input (N,4,5,6) holds nothing, or leaves the extent 5 of its axis"; break;
        case 9:  cnn_slice(x, CNN_N, 0, 1);                         want = "slice: axis is 1: it must be one of CNN_C, CNN_H, CNN_W, or CNN_N without a batch"; break;
        case 10: cnn_slice(x, CNN_W, INT_MIN, INT_MAX, .step = -1); want = "slice: step is -1: it must be in [1,2147483647]"; break;
        case 11: cnn_clamp(x);                                      want = "clamp: low and high are missing"; break;
        case 12: cnn_elu(x, -1);                                    want = "elu: alpha is -1: it must be in [0,inf)"; break;
        case 13: cnn_l1(x, y);                                      want = "l1: target (N,4,5,5) must have the shape of the output, (N,4,5,6)"; break;
        case 14: cnn_huber(x, x, -1);                               want = "huber: delta is -1: it must be in [0,inf]"; break;
        case 15: cnn_nll(x, t);                                     want = "nll: labels (N,1,1,1) do not fit logits (N,4,5,6): there must be one label per sample and pixel, so C is 1 and the rest is equal"; break;
        case 16: cnn_softmax_cross_entropy(flat, t, .class_weights = cnn_param(g, "w", (cnn_shape){ 1, 4, 1, 1 }));
                 want = "softmax_cross_entropy: class weights must not be learned: use cnn_const"; break;
        case 17: cnn_softmax_cross_entropy(flat, t, .class_weights = cnn_param(g, "w", (cnn_shape){ 1, 3, 1, 1 }));
                 want = "softmax_cross_entropy: class weights (1,3,1,1) does not fit input (N,4,1,1): it must be (1,4,1,1)"; break;
        case 18: cnn_prelu(x, .weight = cnn_param(g, "w", (cnn_shape){ 1, 3, 1, 1 }));
                 want = "prelu: weight (1,3,1,1) does not fit input (N,4,5,6): it must be (1,4,1,1)"; break;
        case 19: cnn_layer_norm(x, .eps = -1);                      want = "layer_norm: eps is -1: it must be in (0,inf)"; break;
        case 20: cnn_softplus(x, .beta = -1);                       want = "softplus: beta is -1: it must be in (0,inf)"; break;
        case 21: cnn_softplus(x, .threshold = -1);                  want = "softplus: threshold is -1: it must be in [0,inf]"; break;
        case 22: cnn_upsample(x, 2, .align_corners = 1);            want = "upsample: align_corners is for bilinear; nearest has no corners to align"; break;
        case 23: cnn_upsample(x, .height = -1, .width = 2);         want = "upsample: height is -1: it must be in [0,16777216]"; break;
        case 24: cnn_upsample(x, .height = 3, .width = INT_MAX);    want = "upsample: width is 2147483647: it must be in [0,16777216]"; break;
        case 25: cnn_bce_with_logits(x, x, .pos_weight = cnn_param(g, "w", (cnn_shape){ 1, 4, 1, 1 }));
                 want = "bce_with_logits: pos_weight must not be learned: use cnn_const"; break;
        case 26: cnn_bce_with_logits(x, x, .weight = cnn_param(g, "w", (cnn_shape){ 1, 3, 1, 1 }));
                 want = "bce_with_logits: weight (1,3,1,1) does not fit input (N,4,5,6): it must be (1,4,1,1)"; break;
        case 27: cnn_smooth_l1(x, x, -1);                           want = "huber: delta is -1: it must be in [0,inf]"; break;
        case 29: cnn_layer_norm(x, .axes = CNN_C | CNN_W);
                 want = "layer_norm: axes is 10: it must be the last ones, CNN_C | CNN_H | CNN_W, CNN_H | CNN_W or CNN_W"; break;
        case 28: cnn_conv_transpose2d(cnn_input(g, 1, 1, 1 << 20), 1024, 3, .stride = 2, .pad_h = 1, .pad_w = 1 << 20);
                 want = "conv_transpose2d: 1024 channels of (1,1), padded to (3,2097153), have more than 2^31 - 1 elements"; break;
        }
        const char *got = cnn_error(g), *rest = got ? strstr(got, ": ") : NULL;
        if (want) CHECK_STR(rest ? rest + 2 : got, want);
        cnn_free(g);
        if (!want) return;
    }
}

/* Far from zero: no overflow where there is a value, NaN stays NaN. */
static void extremes(void)
{
    static const float x[8] = { -1e30f, -1000, -89, -20, 20, 89, 1000, NAN };
    static const char *const names[] = { "relu6", "elu", "gelu", "silu", "softplus", "hard_swish", "mish" };
    for (int which = 0; which < 7; which++) {
        cnn_graph  *g = cnn_new(.keep_grads = 1);
        cnn_tensor *in = cnn_input(g, 8, .grad = 1);
        cnn_tensor *h = which == 0 ? cnn_relu6(in) : which == 1 ? cnn_elu(in) : which == 2 ? cnn_gelu(in) : which == 3 ? cnn_silu(in)
                      : which == 4 ? cnn_softplus(in) : which == 5 ? cnn_hard_swish(in) : cnn_mish(in);
        cnn_tensor *J = cnn_sum(h);
        float y[8], dx[8];
        CHECK(cnn_compile(g, J)), cnn_set(in, x, 8), cnn_forward(J, CNN_TRAIN), cnn_backward(J);
        CHECK(cnn_get(h, y, 8) && cnn_get_grad(in, dx, 8));
        for (int i = 0; i < 7; i++) {
            double positive = which == 0 ? 6 : (double)x[i], negative = which == 1 ? -1 : 0;
            CHECK_MSG(test__near((double)y[i], x[i] > 0 ? positive : negative, 1e-6), "%s(%g) is %g", names[which], (double)x[i], (double)y[i]);
            CHECK_MSG(test__near((double)dx[i], x[i] > 0 && which != 0, 1e-6), "%s'(%g) is %g", names[which], (double)x[i], (double)dx[i]);
        }
        CHECK_MSG(isnan(y[7]), "%s(NaN) is %g", names[which], (double)y[7]);
        cnn_free(g);
    }
}

/* Equal numbers share the gradient, as in PyTorch; NaN wins over every number. */
static void ties(void)
{
    static const float x[6] = { 3, 1, 3, 3, -2, -2 }, u[6] = { 3, 0, 4, NAN, -2, -3 };
    static const double larger[6] = { 0.5, 1, 0, 1, 0.5, 1 }, smaller[6] = { 0.5, 0, 1, 1, 0.5, 0 };
    float dx[6], y[6], most[2];
    for (int which = 0; which < 4; which++) {
        cnn_graph  *g = cnn_new(.keep_grads = 1);
        cnn_tensor *in = cnn_input(g, 6, .grad = 1), *other = cnn_const(g, (cnn_shape){ 1, 6, 1, 1 }, u);
        cnn_tensor *h = which == 0 ? cnn_amax(in) : which == 1 ? cnn_amin(in) : which == 2 ? cnn_maximum(in, other)
                      : cnn_minimum(in, other), *J = cnn_sum(h);
        CHECK(cnn_compile(g, J)), cnn_set(in, x, 6), cnn_forward(J, CNN_TRAIN), cnn_backward(J);
        CHECK(cnn_get_grad(in, dx, 6) && cnn_get(h, which < 2 ? most : y, which < 2 ? 1 : 6));
        for (int i = 0; i < 6; i++) {
            double want = which == 2 ? larger[i] : which == 3 ? smaller[i] : which == 0 ? (x[i] == 3) / 3.0 : (x[i] == -2) / 2.0;
            CHECK_MSG(test__near((double)dx[i], want, 1e-6), "which %d: dx[%d] is %g, not %g", which, i, (double)dx[i], want);
        }
        if (which < 2) CHECK(most[0] == (which ? -2 : 3));
        else           CHECK(isnan(y[3]));
        if (which < 2) {
            float bad[6] = { 1, 2, NAN, 4, -INFINITY, 0 };
            cnn_set(in, bad, 6), cnn_forward(J, CNN_EVAL);
            CHECK(cnn_get(h, most, 1) && isnan(most[0]));
        }
        cnn_free(g);
    }
}

/* If no label counts, there is nothing to learn: zero, not 0/0. A label that is neither a class nor ignored is an error. */
static void ignored_labels(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3), *t = cnn_labels(g), *J = cnn_softmax_cross_entropy(cnn_dense(x, 3), t, .ignore_index = 255);
    float values[6] = { 1, 2, 3, 4, 5, 6 }, dw[9];
    int   none[2] = { 255, 255 }, wrong[2] = { 0, -1 };
    CHECK(cnn_compile(g, J)), cnn_set(x, values, 6), cnn_set_labels(t, none, 2);
    CHECK_NEAR(cnn_forward(J, CNN_TRAIN), 0, 0);
    cnn_backward(J);
    CHECK(cnn_get_grad(J->in[0]->in[1], dw, 9));
    for (int i = 0; i < 9; i++) CHECK_NEAR(dw[i], 0, 0);
    cnn_set_labels(t, wrong, 2), cnn_forward(J, CNN_TRAIN);
    CHECK(cnn_error(g) && strstr(cnn_error(g), "label -1 of sample 1 is not a class"));
    cnn_free(g);
}

/* ---- Random nets of random options, many of them senseless: a message, or a net that runs ----
   Which come first depends on the compiler, since the order of arguments does. */

static int any_int(void)                            /* rarely sensible */
{
    static const int edges[] = { 0, 1, 16, 31, 1000, 65535, 65536, 1 << 20, 1 << 24, (1 << 24) + 1, 1 << 30, INT_MAX - 1,
                                 INT_MAX, -1, -2, -7, -100000, INT_MIN + 1, INT_MIN };
    return edges[test_int(0, (int)(sizeof edges / sizeof *edges) - 1)];
}
static int   option(void) { return test_chance(94) ? test_chance(12) ? 0 : test_int(1, 4) : any_int(); }
static int   extent(void) { return test_chance(90) ? test_int(1, 12) : any_int(); }
static int   axis(void)   { return 1 << test_int(0, 4); }
static float rate(void)
{
    static const float edges[] = { 1, -1, 0.5f, 1e-30f, 1e30f, INFINITY, -INFINITY, NAN, 2, 0.1f };
    return test_chance(60) ? 0.01f : edges[test_int(0, 9)];
}
static bool flag(void) { return test_chance(50); }

static cnn_tensor *random_layer(cnn_tensor *h)
{
    cnn_graph *g = h->graph;
    cnn_shape  s = { extent(), extent(), extent(), extent() };
    switch (test_int(0, 21)) {
    case 0:  case 1:
             return cnn_conv2d(h, option(), option(), .kernel_h = option(), .stride = option(), .stride_w = option(), .pad = option(), .pad_h = option(),
                               .dilation = option(), .dilation_w = option(), .groups = flag() ? 0 : option(), .gain = rate());
    case 2:  case 3:
             return cnn_conv_transpose2d(h, option(), option(), .stride = option(), .stride_w = option(), .pad = option(), .dilation = option(),
                                         .output_pad = flag() ? 0 : option(), .groups = flag() ? 0 : option());
    case 4:  return cnn_max_pool(h, option(), .kernel_w = option(), .stride = option(), .pad = option(), .dilation = option(), .ceil_mode = flag());
    case 5:  return cnn_avg_pool(h, option(), .kernel_w = option(), .stride = option(), .pad = option(), .ceil_mode = flag(), .no_count_pad = flag());
    case 6:  return cnn_dense(h, extent(), .no_bias = flag(), .gain = rate());
    case 7:  return cnn_upsample(h, option(), .scale_h = option(), .height = flag() ? 0 : extent(), .width = flag() ? 0 : extent(), .bilinear = flag(),
                                 .align_corners = flag());
    case 8:  return cnn_pad(h, .left = option(), .right = option(), .top = option(), .bottom = option(), .front = option(), .back = option(), .value = rate());
    case 9:  return cnn_slice(h, (unsigned)axis(), any_int(), any_int(), .step = option());
    case 10: return cnn_reshape(h, s.c, s.h, s.w);
    case 11: return cnn_group_norm(h, option(), .eps = rate());
    case 12: return cnn_layer_norm(h, .eps = rate());
    case 13: return cnn_lrn(h, option(), .alpha = rate(), .beta = rate(), .k = rate());
    case 14: return cnn_batch_norm(h, .eps = rate(), .momentum = rate());
    case 15: return cnn_sum(h, .axes = (unsigned)test_int(0, 17));
    case 16: return cnn_dropout(h, rate());
    case 17: return cnn_concat(h, h, cnn_relu(h));
    case 18: return cnn_add(h, cnn_param(g, NULL, s));
    case 19: return cnn_matmul(cnn_flatten(h), cnn_param(g, NULL, ((cnn_shape){ h->shape.c * h->shape.h * h->shape.w, s.c, 1, 1 })));
    case 20: return cnn_clamp(h, rate(), rate());
    default: return cnn_prelu(h, .per_channel = 1, .start = rate());
    }
}

static void random_options(void)
{
    enum { NETS = 10000, SMALL = 4 << 20, FEW = 2000000 };       /* bytes, multiply-adds */
    int refused = 0, ran = 0;
    for (int i = 0; i < NETS; i++) {
        cnn_graph  *g = cnn_new(.max_batch = test_chance(90) ? test_int(1, 4) : any_int(), .inference = flag(), .threads = test_int(0, 2),
                                .isa = flag() ? CNN_ISA_C : CNN_ISA_AUTO);
        cnn_tensor *x = cnn_input(g, extent(), extent(), extent()), *y = x;
        for (int k = 0; k < 2 && !cnn_error(g); k++) y = random_layer(y);
        if (flag() || !cnn_error(g)) y = cnn_mean(y);           /* of what was refused, too */
        const cnn_memory m = cnn_plan(g, y);
        CHECK((m.total > 0) == !cnn_error(g));
        if (cnn_error(g)) {
            refused++;
            CHECK_MSG(strncmp(cnn_error(g), __FILE__, strlen(__FILE__)) == 0 && !strstr(cnn_error(g), "nil"), "%s", cnn_error(g));
        } else if (m.total < SMALL && cnn_multiply_adds(g) < FEW) {
            CHECK(cnn_compile(g, y));
            const size_t n = cnn_count(x);
            float *pixels = test_floats(n);
            test_fill(pixels, n, -1, 1);
            CHECK(cnn_set(x, pixels, n));
            if (!g->config.inference) cnn_forward(y, CNN_TRAIN), cnn_backward(y), cnn_step(g, .lr = 0.01f);
            cnn_forward(y, CNN_EVAL);
            CHECK_MSG(!cnn_error(g) || strstr(cnn_error(g), "training needs at least two"), "%s", cnn_error(g));   /* batch_norm */
            free(pixels), ran++;
        }
        cnn_free(g);
    }
    CHECK_MSG(refused > NETS / 4 && ran > NETS / 12, "%d refused, %d ran", refused, ran);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    alloc_most = SIZE_MAX;
    RUN(model_files);
    RUN(threads_give_the_same_bits);
    RUN(messages);
    RUN(extremes);
    RUN(ties);
    RUN(ignored_labels);
    RUN(random_options);
    return test_end();
}
