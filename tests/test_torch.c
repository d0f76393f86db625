/* Against PyTorch: every operation and its options, nets by their state_dict, and optimizers, as tests/torch/
   make_golden.py wrote them down;
       no Python here. An array agrees if no element is further off than 1e-5 of the
   largest magnitude in it. (PyTorch computed in float64, so all of that is cnn.h's rounding.)

       make build/test_torch && build/test_torch
       build/test_torch --save DIR       writes what tests/torch/check_saved.py reads */
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

typedef cnn_tensor T;
typedef struct { const float *v; size_t n; int dim[4], dims; } array;    /* v: NULL if there is none */

/* ---- Golden files: cnn.h's own reader of headers ---- */

typedef struct { cnn_graph *g; cnn__file f; unsigned char *bytes; float *floats; } golden;

static bool open_golden(golden *a, const char *path)
{
    char   why[128] = "";
    size_t n = 0;
    memset(a, 0, sizeof *a);
    a->g = cnn_new();
    a->f = cnn__file_of(a->g, NULL, "read", path);
    a->bytes = cnn__read_file(path, &n, why, sizeof why);
    if (!CHECK_MSG(a->bytes != NULL, "%s: %s (run from the top of the repository)", path, why)) return false;
    if (!CHECK_MSG(cnn__open_file(&a->f, a->bytes, n), "%s", cnn_error(a->g))) return false;
    a->floats = malloc(a->f.bytes + 1);
    for (size_t i = 0; i < a->f.n; i++)
        if (a->f.entry[i].dtype == CNN__F32)
            for (size_t k = 0; k < a->f.entry[i].count; k++)
                a->floats[a->f.entry[i].begin / 4 + k] = (float)cnn__element(&a->f, &a->f.entry[i], k);
    return true;
}
static void close_golden(golden *a)
{
    cnn__close_file(&a->f);
    CNN_FREE(a->bytes), free(a->floats), cnn_free(a->g);
}

static array get(const golden *a, const char *of, const char *what,
    const char *name)       /* "conv/grad.l.bias" */
{
    char  key[160];
    array r = { NULL, 0, { 1, 1, 1, 1 }, 0 };
    snprintf(key, sizeof key, "%s/%s%s", of, what, name);
    const cnn__entry *e = cnn__lookup(&a->f, "", key);
    if (!e) return r;
    r.v = a->floats + e->begin / 4, r.n = e->count;
    for (const char *s = e->shape + 1; *s != ']' && r.dims < 4;
        s += *s == ',') r.dim[r.dims++] = (int)strtol(s, (char **)&s, 10);
    return r;
}

/* ---- Comparison ---- */

static double largest(array a)
{
    double most = 0;
    for (size_t i = 0; i < a.n; i++) if (fabs((double)a.v[i]) > most) most = fabs((double)a.v[i]);
    return most;
}
static void agree(const char *what, const char *name, const float *v, size_t n, array want, double at_least)
{
    double worst = 0, size = largest(want);
    size_t at = 0;
    if (size < at_least) size = at_least;
    if (!CHECK_MSG(want.v && v && n == want.n, "%s%s: %zu values here, %zu in the golden file", what, name,
        v ? n : 0, want.n))
        return;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)v[i] - (double)want.v[i]);
        if (!(off <= worst)) worst = off, at = i;
    }
    CHECK_MSG(worst <= 1e-5 * size, "%s%s[%zu] is %.9g, PyTorch has %.9g: %.1e of the largest", what, name,
        at,
              (double)v[at], (double)want.v[at], worst / size);
}

/* ---- Operations: the names of make_golden.py; layers are called l ---- */

#define OPERATIONS(X) \
    X(conv,                  cnn_conv2d(x, 5, 3, .name = "l")) \
    X(conv_1x1,              cnn_conv2d(x, 3, 1, .no_bias = 1, .name = "l")) \
    X(conv_stride,           cnn_conv2d(x, 4, 3, .kernel_w = 5, .stride_h = 2, .stride_w = 3, .pad_h = 1, \
        .pad_w = 2, .name = "l")) \
    X(conv_dilation,         cnn_conv2d(x, 3, 3, .pad_h = 2, .pad_w = 1, .dilation_h = 2, .name = "l")) \
    X(conv_groups,           cnn_conv2d(x, 9, 3, .pad = 1, .groups = 3, .name = "l")) \
    X(conv_depthwise,        cnn_conv2d(x, 5, 3, .stride = 2, .pad = 1, .groups = 5, .no_bias = 1, \
        .name = "l")) \
    X(conv_all,              cnn_conv2d(x, 6, 2, .kernel_w = 3, .stride_w = 2, .pad_h = 1, .pad_w = 2, \
        .dilation_h = 3, \
                                        .dilation_w = 2, .groups = 2, .name = "l")) \
    X(conv_transpose,        cnn_conv_transpose2d(x, 4, 3, .name = "l")) \
    X(conv_transpose_stride, cnn_conv_transpose2d(x, 2, 3, .kernel_w = 4, .stride_h = 2, .stride_w = 3, \
        .pad_h = 1, .pad_w = 2, \
                                                  .output_pad_h = 1, .output_pad_w = 2, .name = "l")) \
    X(conv_transpose_all,    cnn_conv_transpose2d(x, 6, 2, .kernel_w = 3, .stride_h = 2, .pad_h = 1, \
        .dilation_h = 2, \
                                                  .dilation_w = 3, .output_pad_h = 1, .groups = 2, \
                                                      .no_bias = 1, .name = "l")) \
    X(dense,                 cnn_dense(x, 7, .name = "l")) \
    X(dense_no_bias,         cnn_dense(x, 4, .no_bias = 1, .name = "l")) \
    X(batch_norm,            cnn_batch_norm(x, .name = "l")) \
    X(batch_norm_options,    cnn_batch_norm(x, .eps = 0.01f, .momentum = 0.25f, .no_affine = 1, \
        .name = "l")) \
    X(layer_norm,            cnn_layer_norm(x, .name = "l")) \
    X(layer_norm_plain,      cnn_layer_norm(x, .eps = 0.01f, .no_affine = 1)) \
    X(group_norm,            cnn_group_norm(x, 3, .name = "l")) \
    X(group_norm_plain,      cnn_group_norm(x, 2, .eps = 0.01f, .no_affine = 1)) \
    X(instance_norm,         cnn_instance_norm(x)) \
    X(instance_norm_affine,  cnn_instance_norm(x, .eps = 0.01f, .affine = 1, .name = "l")) \
    X(prelu,                 cnn_prelu(x, .name = "l")) \
    X(prelu_channels,        cnn_prelu(x, .per_channel = 1, .name = "l")) \
    X(max_pool,              cnn_max_pool(x, 2)) \
    X(max_pool_options,      cnn_max_pool(x, 3, .kernel_w = 2, .stride_h = 2, .stride_w = 3, .pad = 1)) \
    X(max_pool_dilation,     cnn_max_pool(x, 3, .kernel_w = 2, .stride_h = 1, .stride_w = 2, .pad = 1, \
        .dilation_h = 2, .dilation_w = 3, .ceil_mode = 1)) \
    X(max_pool_ceil,         cnn_max_pool(x, 3, .stride = 2, .ceil_mode = 1)) \
    X(avg_pool,              cnn_avg_pool(x, 2)) \
    X(avg_pool_pad,          cnn_avg_pool(x, 3, .stride = 2, .pad = 1)) \
    X(avg_pool_no_count_pad, cnn_avg_pool(x, 3, .stride = 2, .pad = 1, .no_count_pad = 1)) \
    X(avg_pool_ceil,         cnn_avg_pool(x, 3, .kernel_w = 2, .stride = 2, .pad_h = 1, .ceil_mode = 1)) \
    X(avg_pool_ceil_no_count_pad, cnn_avg_pool(x, 3, .stride = 2, .pad = 1, .ceil_mode = 1, \
        .no_count_pad = 1)) \
    X(global_avg_pool,       cnn_global_avg_pool(x)) \
    X(global_max_pool,       cnn_global_max_pool(x)) \
    X(upsample_nearest,      cnn_upsample(x, 3, .scale_w = 2)) \
    X(upsample_bilinear,     cnn_upsample(x, 2, .scale_w = 3, .bilinear = 1)) \
    X(pad,                   cnn_pad(x, .left = 1, .right = 2, .top = 3, .front = 1, .value = 0.5f)) \
    X(slice,                 cnn_slice(x, CNN_H, 1, 8, .step = 3)) \
    X(concat,                cnn_concat(x, x2)) \
    X(lrn,                   cnn_lrn(x, 5, .alpha = 0.3f, .beta = 0.6f, .k = 1.5f)) \
    X(lrn_even,              cnn_lrn(x, 4, .alpha = 0.3f)) \
    X(relu,                  cnn_relu(x)) \
    X(leaky_relu,            cnn_leaky_relu(x, .slope = 0.2f)) \
    X(sigmoid,               cnn_sigmoid(x)) \
    X(tanh,                  cnn_tanh(x)) \
    X(elu,                   cnn_elu(x, .alpha = 0.7f)) \
    X(gelu,                  cnn_gelu(x)) \
    X(silu,                  cnn_silu(x)) \
    X(softplus,              cnn_softplus(x)) \
    X(hard_swish,            cnn_hard_swish(x)) \
    X(exp,                   cnn_exp(x)) \
    X(abs,                   cnn_abs(x)) \
    X(clamp,                 cnn_clamp(x, -0.5f, 1.2f)) \
    X(relu6,                 cnn_relu6(x)) \
    X(softmax,               cnn_softmax(x)) \
    X(log_softmax,           cnn_log_softmax(x)) \
    X(scale,                 cnn_scale(x, 1.5f, -0.25f)) \
    X(sum_hw,                cnn_sum(x, CNN_H | CNN_W)) \
    X(mean_c,                cnn_mean(x, CNN_C)) \
    X(log,                   cnn_log(x)) \
    X(sqrt,                  cnn_sqrt(x)) \
    X(add,                   cnn_add(x, x2)) \
    X(sub,                   cnn_sub(x, x2)) \
    X(mul,                   cnn_mul(x, x2)) \
    X(cross_entropy,         cnn_softmax_cross_entropy(x, t)) \
    X(cross_entropy_pixels,  cnn_softmax_cross_entropy(x, t)) \
    X(cross_entropy_smoothing, cnn_softmax_cross_entropy(x, t, .smoothing = 0.15f)) \
    X(cross_entropy_ignore,  cnn_softmax_cross_entropy(x, t, .ignore_index = -100)) \
    X(cross_entropy_weights, cnn_softmax_cross_entropy(x, t, .class_weights = w)) \
    X(cross_entropy_all,     cnn_softmax_cross_entropy(x, t, .class_weights = w, .smoothing = 0.2f, \
        .ignore_index = -100)) \
    X(nll,                   cnn_nll(x, t)) \
    X(nll_all,               cnn_nll(x, t, .class_weights = w, .ignore_index = -100)) \
    X(mse,                   cnn_mse(x, x2)) \
    X(l1,                    cnn_l1(x, x2)) \
    X(huber,                 cnn_huber(x, x2, .delta = 0.7f)) \
    X(bce_with_logits,       cnn_bce_with_logits(x, x2)) \
    X(gelu_tanh,             cnn_gelu(x, .tanh = 1)) \
    X(softplus_beta,         cnn_softplus(x, .beta = 1.7f)) \
    X(softplus_threshold,    cnn_softplus(x, 0.6f, 1.1f)) \
    X(bce_pos_weight,        cnn_bce_with_logits(x, x2, .pos_weight = p)) \
    X(bce_weight,            cnn_bce_with_logits(x, x2, .weight = w)) \
    X(bce_all,               cnn_bce_with_logits(x, x2, .weight = w, .pos_weight = p)) \
    X(smooth_l1,             cnn_smooth_l1(x, x2)) \
    X(smooth_l1_beta,        cnn_smooth_l1(x, x2, 0.4f)) \
    X(upsample_nearest_to,   cnn_upsample(x, .height = 7, .width = 3)) \
    X(upsample_bilinear_to,  cnn_upsample(x, .height = 3, .width = 11, .bilinear = 1)) \
    X(upsample_aligned,      cnn_upsample(x, 2, .scale_w = 3, .bilinear = 1, .align_corners = 1)) \
    X(upsample_aligned_to,   cnn_upsample(x, .height = 1, .width = 9, .bilinear = 1, .align_corners = 1))

/* Those of arithmetic.safetensors. */
#define ARITHMETIC(X) \
    X(selu,                  cnn_selu(x)) \
    X(mish,                  cnn_mish(x)) \
    X(hard_sigmoid,          cnn_hard_sigmoid(x)) \
    X(softsign,              cnn_softsign(x)) \
    X(erf,                   cnn_erf(x)) \
    X(power_3,               cnn_power(x, 3)) \
    X(power_0,               cnn_power(x, 0)) \
    X(power_root,            cnn_power(x, -0.6f)) \
    X(div,                   cnn_div(x, x2)) \
    X(pow,                   cnn_pow(x, x2)) \
    X(maximum,               cnn_maximum(x, x2)) \
    X(minimum,               cnn_minimum(x, x2)) \
    X(amax,                  cnn_amax(x, CNN_C | CNN_W)) \
    X(amin,                  cnn_amin(x, CNN_H)) \
    X(layer_norm_hw,         cnn_layer_norm(x, .axes = CNN_H | CNN_W, .eps = 0.01f, .name = "l")) \
    X(layer_norm_w,          cnn_layer_norm(x, .axes = CNN_W, .name = "l")) \
    X(rms_norm,              cnn_rms_norm(x, .name = "l")) \
    X(rms_norm_w,            cnn_rms_norm(x, .axes = CNN_W, .eps = 0.01f, .name = "l")) \
    X(amax_all,              cnn_amax(x))

/* Those of shapes.safetensors. */
#define SHAPES(X) \
    X(conv1d,                cnn_conv1d(x, 6, 3, .stride = 2, .pad = 2, .dilation = 2, .groups = 2, .name = "l")) \
    X(conv1d_causal,         cnn_conv1d(x, 5, 3, .dilation = 2, .causal = 1, .name = "l")) \
    X(max_pool1d,            cnn_max_pool1d(x, 3, .stride = 2, .pad = 1)) \
    X(avg_pool1d,            cnn_avg_pool1d(x, 4, .stride = 3, .pad = 2, .ceil_mode = 1)) \
    X(conv_uneven,           cnn_conv2d(x, 4, 3, .pad_bottom = 2, .pad_left = 1, .pad_right = 3, .name = "l")) \
    X(conv_uneven_1x1,       cnn_conv2d(x, 4, 1, .pad_bottom = 2, .pad_right = 1, .name = "l")) \
    X(conv_uneven_depthwise, cnn_conv2d(x, 3, 3, .groups = 3, .pad_h = 1, .pad_top = 2, .pad_right = 1, .name = "l")) \
    X(max_pool_uneven,       cnn_max_pool(x, 3, .stride = 2, .pad_bottom = 2, .pad_right = 1)) \
    X(avg_pool_uneven,       cnn_avg_pool(x, 3, .stride = 2, .pad_bottom = 2, .pad_left = 1)) \
    X(conv_transpose_uneven, cnn_conv_transpose2d(x, 4, 3, .stride = 2, .pad_top = 2, .pad_right = 1, .name = "l")) \
    X(softmax_w,             cnn_softmax(x, .axis = CNN_W)) \
    X(log_softmax_h,         cnn_log_softmax(x, CNN_H)) \
    X(transpose,             cnn_transpose(x, CNN_W, CNN_C)) \
    X(permute,               cnn_permute(x, CNN_H, CNN_W, CNN_C)) \
    X(depth_to_space,        cnn_depth_to_space(x, 3)) \
    X(space_to_depth,        cnn_space_to_depth(x, 2)) \
    X(channel_shuffle,       cnn_channel_shuffle(x, 3)) \
    X(pad_reflect,           cnn_pad(x, 2, 3, 1, .mode = CNN_PAD_REFLECT)) \
    X(pad_replicate,         cnn_pad(x, 2, 3, 1, 6, .mode = CNN_PAD_REPLICATE)) \
    X(pad_replicate_all,     cnn_pad(x, 2, 0, 1, 1, 2, 3, .mode = CNN_PAD_REPLICATE)) \
    X(adaptive_avg_pool,     cnn_adaptive_avg_pool(x, 3)) \
    X(adaptive_avg_pool_larger, cnn_adaptive_avg_pool(x, 3, 8)) \
    X(concat_w,              cnn_concat_along(CNN_W, x, x2))

#define FUNCTION(name, ...) \
    static T *op_##name(T *x, T *x2, T *t, T *w, T *p) \
    { \
        (void)x2, (void)t, (void)w, (void)p; \
        return __VA_ARGS__; \
    }
#define ROW(name, ...) { #name, op_##name },
OPERATIONS(FUNCTION)
ARITHMETIC(FUNCTION)
SHAPES(FUNCTION)
typedef struct { const char *name; T *(*build)(T *x, T *x2, T *t, T *w, T *p); } op_row;
static const op_row operations[] = { OPERATIONS(ROW) }, arithmetic[] = { ARITHMETIC(ROW) },
    shapes[] = { SHAPES(ROW) };
static const struct { const char *path; const op_row *rows; int n; } files[] = {
    { "tests/torch/ops.safetensors", operations, sizeof operations / sizeof *operations },
    { "tests/torch/arithmetic.safetensors", arithmetic, sizeof arithmetic / sizeof *arithmetic },
    { "tests/torch/shapes.safetensors", shapes, sizeof shapes / sizeof *shapes } };
enum { N_FILES = sizeof files / sizeof *files };

static T *input(cnn_graph *g, const char *name, array a)
{
    return a.v ? cnn_input(g, a.dim[1], a.dim[2], a.dim[3], .name = name, .grad = 1) : NULL;
}
static void operation(const golden *a, const char *name, T *(*build)(T *, T *, T *, T *, T *))
{
    array      ax = get(a, name, "", "x"), ax2 = get(a, name, "", "x2"), at = get(a, name, "", "t");
    array      aw = get(a, name, "", "weights"), ap = get(a, name, "", "pos_weight");
    array      agy = get(a, name, "", "gy");
    cnn_graph *g = cnn_new(.max_batch = ax.dim[0], .keep_grads = 1);
    T *x = input(g, "x", ax), *x2 = input(g, "x2", ax2);
    T *t = at.v ? cnn_labels(g, at.dim[1], at.dim[2]) : NULL;
    T *w = aw.v ? cnn_const(g, (cnn_shape){ 1, (int)aw.n, 1, 1 }, aw.v) : NULL;
    T *p = ap.v ? cnn_const(g, (cnn_shape){ 1, (int)ap.n, 1, 1 }, ap.v) : NULL;
    T *y = build(x, x2, t, w, p), *gy = NULL, *loss = y;
    if (agy.n > 1) loss = cnn_sum(cnn_mul(cnn_keep(y), gy = cnn_input(g, y->shape.c, y->shape.h, y->shape.w,
        .name = "gy")));
    bool good = ax.v && agy.v && cnn_compile(g, loss);
    good = good && cnn_set(x, ax.v, ax.n) && (!x2 || cnn_set(x2, ax2.v, ax2.n)) && (!t || cnn_set(t, at.v,
        at.n)) &&
           (!gy || cnn_set(gy, agy.v, agy.n));
    for (int i = 0; i < g->n_order && good; i++) {
        T *q = &g->order[i]->t;
        if (!cnn__is_learned(q)) continue;
        array v = get(a, name, "", q->name);
        good = CHECK_MSG(v.v != NULL, "no %s in the golden file", q->name) && cnn_set(q, v.v, v.n);
    }
    if (good) cnn_forward(loss, CNN_TRAIN);
    if (good) agree("y", "", cnn_map_read(y), cnn_count(y), get(a, name, "", "y"), 0);
    if (good) cnn_backward(loss);
    for (int i = 0; i < g->n_order && good; i++) {
        T *q = &g->order[i]->t;
        if (q == x || q == x2 || q->kind == CNN_PARAM)
            agree("gradient of ", q->name, cnn_map_grad(q), cnn_count(q), get(a, name, "grad.", q->name), 0);
        if (q->kind == CNN_BUFFER)
            agree("after the forward ", q->name, cnn_map_read(q), cnn_count(q), get(a, name, "after.",
                q->name), 0);
    }
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

/* ---- Nets: nets.py in C ---- */

static T *lenet(T *x)
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 6, 5, .pad = 2, .name = "conv1")), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 16, 5, .name = "conv2")), 2);
    h = cnn_relu(cnn_dense(h, 120, .name = "fc1"));
    return cnn_dense(cnn_relu(cnn_dense(h, 84, .name = "fc2")), 10, .name = "fc3");
}

static const char *join(const char *a,
    const char *b)     /* good until the fourth call from here: names are copied */
{
    static char text[4][64];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(text[turn], sizeof text[turn], "%s%s", a, b);
    return text[turn];
}
static T *conv_bn(T *x, int channels, int kernel, int stride, const char *in, const char *conv,
    const char *bn)
{
    x = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .no_bias = 1, .name = join(in,
        conv));
    return cnn_batch_norm(x, .name = join(in, bn));
}
static T *block(T *x, int channels, int stride, const char *name)
{
    T *h = cnn_relu(conv_bn(x, channels, 3, stride, name, ".conv1", ".bn1"));
    h = conv_bn(h, channels, 3, 1, name, ".conv2", ".bn2");
    if (stride != 1 || x->shape.c != channels)
        x = conv_bn(x, channels, 1, stride, name, ".downsample.0", ".downsample.1");
    return cnn_relu(cnn_add(h, x));
}
static T *resnet(T *x)
{
    T *h = block(cnn_relu(conv_bn(x, 6, 3, 1, "", "conv1", "bn1")), 6, 1, "layer1.0");
    h = block(block(h, 10, 2, "layer2.0"), 10, 1, "layer2.1");
    return cnn_dense(cnn_global_avg_pool(h), 5, .name = "fc");
}
static T *bnnet(T *x)
{
    T *h = cnn_batch_norm(cnn_conv2d(x, 5, 3, .name = "net.0"), .eps = 1e-3f, .momentum = 0.3f,
        .name = "net.1");
    h = cnn_conv_transpose2d(cnn_tanh(h), 4, 1, .name = "net.3");
    h = cnn_prelu(cnn_batch_norm(h, .no_affine = 1, .name = "net.4"), .per_channel = 1, .name = "net.5");
    return cnn_dense(cnn_layer_norm(h, .name = "net.6"), 3, .name = "net.8");
}
static T *mobile(T *x)                      /* without its dropout, which has no parameters */
{
    T *h = cnn_relu6(conv_bn(x, 24, 1, 1, "conv.0", ".0", ".1"));
    h = cnn_conv2d(h, 24, 3, .pad = 1, .groups = 24, .no_bias = 1, .name = "conv.1.0");
    h = cnn_relu6(cnn_batch_norm(h, .name = "conv.1.1"));
    h = conv_bn(h, 4, 1, 1, "conv", ".2", ".3");
    return cnn_dense(cnn_global_avg_pool(cnn_add(x, h)), 3, .name = "classifier.1");
}

static T *signal_net(T *x)
{
    const float half = 0.5f;
    T *h = cnn_mul(x, cnn_const(x->graph, ((cnn_shape){ 1, 1, 1, 1 }), &half));      /* not in PyTorch's state */
    h = cnn_relu(cnn_batch_norm(cnn_conv1d(h, 6, 5, .pad = 2, .name = "conv1"), .name = "bn1"));
    h = cnn_conv1d(cnn_max_pool1d(h, 2), 4, 3, .dilation = 2, .causal = 1, .name = "conv2");
    return cnn_dense(cnn_avg_pool1d(cnn_relu(h), 2), 3, .name = "fc");
}

static const struct net { const char *name; T *(*build)(T *); } nets[] = {
    { "lenet", lenet }, { "resnet", resnet }, { "bnnet", bnnet }, { "mobile", mobile }, { "signal", signal_net } };
enum { N_NETS = sizeof nets / sizeof *nets };

typedef struct { cnn_graph *g; T *x, *t, *y, *loss; char path[64]; } model;

static bool build(model *m, const golden *a,
    const struct net *net)          /* with the batch of the golden file */
{
    array x = get(a, net->name, "", "x"), t = get(a, net->name, "", "t");
    snprintf(m->path, sizeof m->path, "tests/torch/%s.safetensors", net->name);
    m->g = cnn_new(.max_batch = x.dim[0], .seed = 3);
    m->x = cnn_input(m->g, x.dim[1], x.dim[2], x.dim[3]);
    m->t = cnn_labels(m->g);
    m->loss = cnn_softmax_cross_entropy(m->y = cnn_keep(net->build(m->x)), m->t);
    return x.v && t.v && cnn_compile(m->g, m->loss) && cnn_set(m->x, x.v, x.n) && cnn_set(m->t, t.v, t.n);
}

static unsigned char *saved(cnn_graph *g, size_t *n)
{
    *n = cnn_save_memory(g, NULL, 0);
    unsigned char *p = malloc(*n + 1);
    *n = p ? cnn_save_memory(g, p, *n) : 0;
    return p;
}

/* A file saved anew has what PyTorch's file had, to the bit: the same names, types, shapes, and no more. */
static void same_state_dict(cnn_graph *g, const char *path)
{
    golden    a;
    size_t    n;
    unsigned char *again = saved(g, &n);
    cnn__file f = cnn__file_of(g, NULL, "read", "memory");
    if (open_golden(&a, path) && CHECK(cnn__open_file(&f, again, n)) && CHECK_INT(f.n, a.f.n))
        for (size_t i = 0; i < f.n; i++) {
            const cnn__entry *p = &f.entry[i], *q = &a.f.entry[i];
            if (!CHECK_STR(p->name, q->name)) break;
            char shape[2][64], dtype[2][8];
            for (int k = 0; k < 2; k++) {
                /* "[6, 1,5]" and "[6,1,5]" are one */
                const cnn__entry *e = k ? q : p;
                size_t to = 0;
                for (const char *s = e->shape; *s && to < 62; s++) {
                    if (*s != ' ') shape[k][to++] = *s;
                    if (*s == ']') break;
                }
                shape[k][to] = 0;
                snprintf(dtype[k], sizeof dtype[k], "%s", inside_dtype_of(e->dtype).name);
            }
            CHECK_MSG(strcmp(shape[0], shape[1]) == 0, "%s: %s, PyTorch %s", p->name, shape[0], shape[1]);
            CHECK_STR(dtype[0], dtype[1]);
            CHECK_MSG(p->end - p->begin == q->end - q->begin &&
                      memcmp(f.data + p->begin, a.f.data + q->begin, p->end - p->begin) == 0,
                          "%s: bytes differ", p->name);
        }
    cnn__close_file(&f);
    close_golden(&a);
    free(again);
}

static void check_net(const golden *a, const struct net *net)
{
    model  m;
    double most = 0;
    bool   good = build(&m, a, net) && cnn_load_weights(m.g, m.path);
    if (good) same_state_dict(m.g, m.path);
    if (good) cnn_forward(m.y, CNN_EVAL);
    if (good) agree("logits", "", cnn_map_read(m.y), cnn_count(m.y), get(a, net->name, "", "logits"), 0);
    if (good) cnn_forward(m.loss, CNN_TRAIN);
    if (good) agree("loss", "", cnn_map_read(m.loss), 1, get(a, net->name, "", "loss"), 0);
    if (good) cnn_backward(m.loss);
    for (int i = 0; i < m.g->n_order; i++)
        if (m.g->order[i]->t.kind == CNN_PARAM) most = fmax(most, largest(get(a, net->name, "grad.",
            m.g->order[i]->t.name)));
    /* A bias before a batch norm has no gradient but rounding: so a tenth of the net's largest counts too. */
    int compared = 0;
    for (int i = 0; i < m.g->n_order && good; i++) {
        T    *p = &m.g->order[i]->t;
        array want = get(a, net->name, p->kind == CNN_PARAM ? "grad." : "after.", p->name);
        if (!cnn__is_learned(p) || (!want.v && cnn_count(p) > 2500)) continue;
            /* large ones are not in the file */
        if (p->kind == CNN_PARAM) agree("gradient of ", p->name, cnn_map_grad(p), cnn_count(p), want,
            most / 10), compared++;
        else                      agree("after the forward ", p->name, cnn_map_read(p), cnn_count(p), want,
            0);
    }
    CHECK(compared > 3);
    CHECK_STR(cnn_error(m.g), NULL);
    cnn_free(m.g);
}

/* ---- Optimizers ---- */

#define STEP(...) .step = { .lr = __VA_ARGS__ }
static const struct { const char *name; const cnn_optimizer *(*optimizer)(void); cnn_step_args step;
    } optimizers[] = {
    { "sgd",             cnn_sgd,     STEP(0.1f) },
    { "sgd_decay",       cnn_sgd,     STEP(0.1f, .weight_decay = 0.03f) },
    { "sgd_momentum",    cnn_sgd,     STEP(0.1f, .momentum = 0.8f, .weight_decay = 0.02f) },
    { "sgd_nesterov",    cnn_sgd,     STEP(0.1f, .momentum = 0.8f, .weight_decay = 0.02f, .nesterov = 1) },
    { "sgd_dampening",   cnn_sgd,     STEP(0.1f, .momentum = 0.8f, .weight_decay = 0.02f, .dampening = 0.3f) },
    { "adam",            cnn_adam,    STEP(0.02f) },
    { "adam_options",    cnn_adam,    STEP(0.02f, .beta1 = 0.7f, .beta2 = 0.95f, .eps = 1e-3f,
        .weight_decay = 0.1f) },
    { "adamw",           cnn_adamw,   STEP(0.02f) },
    { "adamw_options",   cnn_adamw,   STEP(0.02f, .beta1 = 0.8f, .beta2 = 0.9f, .eps = 1e-4f,
        .weight_decay = 0.2f) },
    { "rmsprop",         cnn_rmsprop, STEP(0.02f) },
    { "rmsprop_options", cnn_rmsprop, STEP(0.02f, .alpha = 0.9f, .eps = 1e-3f, .momentum = 0.6f,
        .weight_decay = 0.1f) },
    { "rmsprop_centered", cnn_rmsprop_centered, STEP(0.02f) },
    { "rmsprop_centered_options", cnn_rmsprop_centered, STEP(0.02f, .alpha = 0.9f, .eps = 1e-3f,
        .momentum = 0.6f, .weight_decay = 0.1f) },
    { "adagrad",         cnn_adagrad, STEP(0.1f) },
    { "adagrad_options", cnn_adagrad, STEP(0.1f, .eps = 1e-3f, .weight_decay = 0.1f) } };
enum { N_OPTIMIZERS = sizeof optimizers / sizeof *optimizers };

static void trajectory(const golden *a, int o)               /* loss = sum(w x): its gradient is x */
{
    array w0 = get(a, optimizers[o].name, "", "w0"), grads = get(a, optimizers[o].name, "", "g");
    array want = get(a, optimizers[o].name, "", "w");
    const int  n = (int)w0.n;
    cnn_graph *g = cnn_new(.optimizer = optimizers[o].optimizer());
    T *x = cnn_input(g, n), *w = cnn_param(g, "w", { 1, n, 1, 1 }), *loss = cnn_sum(cnn_mul(x, w));
    cnn_step_args step = optimizers[o].step;
    step.g = g;
    if (CHECK(w0.v && grads.v && want.v && cnn_compile(g, loss) && cnn_set(w, w0.v, w0.n)))
        for (int k = 0; k < grads.dim[0]; k++) {
            array row = want;
            row.v += k * n, row.n = (size_t)n;
            CHECK(cnn_set(x, grads.v + k * n, (size_t)n));
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step_(step);
            agree("weights after step ", &"0123456789"[k], cnn_map_read(w), (size_t)n, row, 0);
        }
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g);
}

/* ---- For check_saved.py: nets trained here for a step, and PyTorch's after they went through ---- */

static bool write_floats(const char *dir, const char *net, const char *what, T *t)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.%s", dir, net, what);
    FILE *f = fopen(path, "wb");
    const float *v = cnn_map_read(t);
    bool  good = f && v && fwrite(v, sizeof *v, cnn_count(t), f) == cnn_count(t);
    return f && fclose(f) == 0 && good;
}
static bool save_net(const golden *a, const struct net *net, const char *dir)
{
    model m;
    char  path[512];
    bool  good = build(&m, a, net);
    if (good) cnn_forward(m.loss, CNN_TRAIN), cnn_backward(m.loss), cnn_step(m.g, 0.05f);
    if (good) cnn_forward(m.y, CNN_EVAL);
    snprintf(path, sizeof path, "%s/%s.safetensors", dir, net->name);
    good = good && write_floats(dir, net->name, "x", m.x) && write_floats(dir, net->name, "y", m.y) &&
        cnn_save(m.g, path);
    good = good && cnn_load_weights(m.g, m.path);
    snprintf(path, sizeof path, "%s/%s.through.safetensors", dir, net->name);
    good = good && cnn_save(m.g, path);
    if (!good) fprintf(stderr, "%s: %s\n", net->name, cnn_error(m.g) ?
        cnn_error(m.g) : "it cannot be written");
    cnn_free(m.g);
    return good;
}

int main(int argc, char **argv)
{
    golden a;
    if (argc == 3 && strcmp(argv[1], "--save") == 0) {
        bool good = open_golden(&a, "tests/torch/nets.safetensors");
        for (int i = 0; i < N_NETS && good; i++) good = save_net(&a, &nets[i], argv[2]);
        close_golden(&a);
        return !good;
    }
    test_args(argc, argv);
    for (int k = 0; k < N_FILES; k++) {
        if (test_begin("each case of %s has its row", files[k].path)) {
            int cases = 0;
            if (open_golden(&a, files[k].path))
                for (size_t i = 0; i < a.f.n; i++) {
                    const char *slash = strchr(a.f.entry[i].name, '/');
                    cases += slash && strcmp(slash, "/gy") == 0;
                }
            CHECK_INT(cases, files[k].n);
            close_golden(&a);
        }
        if (open_golden(&a, files[k].path))
            for (int i = 0; i < files[k].n; i++)
                if (test_begin("operation %s", files[k].rows[i].name))
                    operation(&a, files[k].rows[i].name, files[k].rows[i].build);
        close_golden(&a);
    }
    if (open_golden(&a, "tests/torch/nets.safetensors"))
        for (int i = 0; i < N_NETS; i++)
            if (test_begin("net %s", nets[i].name)) check_net(&a, &nets[i]);
    close_golden(&a);
    if (open_golden(&a, "tests/torch/optim.safetensors"))
        for (int i = 0; i < N_OPTIMIZERS; i++)
            if (test_begin("optimizer %s", optimizers[i].name)) trajectory(&a, i);
    close_golden(&a);
    return test_end();
}
