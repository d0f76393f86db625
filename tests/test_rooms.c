/* Every room against a naive float64 reference written from the definition, and its gradient against central
   differences of that reference (not of the float code), over random and awkward shapes.

   The list of operations drives the tests: for each name in cnn_ops there must be a row in the table `rooms` below,
   with a generator of cases and a reference. A row that names no operation fails as well. */
#include "cnn.h"
#include "inside.h"
#include "test.h"

enum { MAX_IN = CNN_MAX_INPUTS, ELEMENTS = 16 };     /* of a gradient that one case checks; two references each */

/* One random case of one operation: what the generator chose, and the operands' values in float64. */
typedef struct {
    cnn_graph  *g;
    int         max_n, n;                       /* max_batch, and the batch that is run */
    cnn_tensor *y;
    int         n_in;
    cnn_shape   s[MAX_IN], ys;                  /* shapes at batch n; ys is what the definition says */
    double     *v[MAX_IN], *own[MAX_IN];
    int         names;                          /* parameters named so far */
    bool        train;
    int         kept;                           /* batch norm: its statistics are frozen */
    double      gap;                            /* > 0: operand 0 has no ties and stays away from 0 and operand 1 */
    double      shift;                          /* added to operand 0, for functions of positive numbers */
    int         reduction;
    bool        far, unit;                      /* operand 1 stays away from 0; lies in 0..1 */
    int kh, kw, sh, sw, ph, pw, eh, ew, dh, dw, groups, ceil_mode, no_count_pad, bias, axes, classes, ignore;   /* ignore: -2, none */
    double a, b;                                /* real options: slope, factor, p, eps, momentum, smoothing */
    const double *mask;                         /* dropout: what was kept */
    char        text[256];                      /* for messages */
} one;

typedef struct {
    const char *name;
    int         cases;
    cnn_tensor *(*build)(one *);                                    /* draw options, record operands and operation */
    void       (*reference)(const one *, double *const *v, double *y);
    double      tolerance;
} room;

/* ---- Operands ---- */

static inline int at4(cnn_shape s, int n, int c, int h, int w) { return ((n * s.c + c) * s.h + h) * s.w + w; }
static int count4(cnn_shape s) { return s.n * s.c * s.h * s.w; }
static cnn_shape shape4(int n, int c, int h, int w) { cnn_shape s = { n, c, h, w }; return s; }

static cnn_tensor *unbatched(one *k, int n, int c, int h, int w)
{
    char name[16];
    snprintf(name, sizeof name, "p%d", k->names++);
    return cnn_param(k->g, name, shape4(n, c, h, w));
}
/* An operand with a batch whose gradient can be read: an input, or a node (an input plus a parameter that is zero). */
static cnn_tensor *batched(one *k, int c, int h, int w)
{
    if (test_chance(30)) return cnn_input(k->g, c, h, w, .grad = 1);
    cnn_tensor *zero = unbatched(k, 1, 1, 1, 1);
    return cnn_add(cnn_input(k->g, c, h, w), zero);
}

static int small(void) { return test_chance(30) ? 1 : test_int(2, 6); }

/* ---- Generators and references ---- */

/* Windows: kernel, stride, pad before and behind, dilation, and an extent in which at least one window fits. */
static void draw_window(int *k, int *s, int *p, int *e, int *d, int *in, bool pool)
{
    *k = test_int(1, 5), *s = test_int(1, 4), *d = test_int(1, 3);
    *p = pool ? test_int(0, *k / 2) : test_chance(50) ? 0 : test_int(0, *k + 1);
    *e = test_chance(50) ? *p : pool ? test_int(0, *k / 2) : test_int(0, *k + 1);
    int least = *d * (*k - 1) + 1 - *p - *e;
    *in = (least < 1 ? 1 : least) + (test_chance(30) ? 0 : test_int(0, 7));
}
static int out_floor(int in, int k, int s, int p, int e, int d) { return (in + p + e - (d * (k - 1) + 1)) / s + 1; }

static cnn_tensor *build_conv2d(one *k)
{
    int h, w, icg = test_int(1, 4), ocg = test_int(1, 4), kind = test_int(0, 5);
    draw_window(&k->kh, &k->sh, &k->ph, &k->eh, &k->dh, &h, false);
    draw_window(&k->kw, &k->sw, &k->pw, &k->ew, &k->dw, &w, false);
    k->groups = kind == 0 ? test_int(2, 4) : 1;
    if (kind == 1) k->groups = test_int(2, 9), icg = 1, ocg = 1;                        /* depthwise */
    if (kind == 2) k->groups = test_int(2, 5), icg = 1, ocg = 2;                        /* with a multiplier */
    if (kind == 3) k->kh = k->kw = 1, k->sh = k->sw = 1, k->ph = k->pw = 0, k->eh = k->ew = test_int(0, 9) / 9,
                   icg = test_int(1, 40), ocg = test_int(1, 40);
    if (kind == 4) k->kh = k->kw = 3, k->sh = k->sw = 1, k->dh = k->dw = 1, k->ph = k->pw = k->eh = k->ew = 1, icg = test_int(1, 20), ocg = test_int(1, 36),
                   h = test_int(1, 15), w = test_int(1, 35);
    const int one_d = kind == 5 ? test_int(1, 3) : 0;                                   /* 3: causal */
    if (one_d) k->kh = k->sh = k->dh = h = 1, k->ph = k->eh = 0;
    if (one_d == 3) k->pw = k->dw * (k->kw - 1), k->ew = 0;
    if (kind < 3 && test_chance(40)) {                                                  /* the fast 3x3, padded unevenly */
        k->kh = k->kw = 3, k->sh = k->sw = k->dh = k->dw = 1, h = test_int(2, 12), w = test_int(2, 40);
        k->ph = test_int(0, 3), k->pw = test_int(0, 3), k->eh = test_int(1, 3), k->ew = test_int(1, 3);
        if (kind == 0) k->groups = 1, icg = test_int(16, 20), ocg = test_int(16, 20);
    }
    int c = k->groups * icg, oc = k->groups * ocg;
    k->bias = test_chance(60);
    k->ys = shape4(k->n, oc, out_floor(h, k->kh, k->sh, k->ph, k->eh, k->dh), out_floor(w, k->kw, k->sw, k->pw, k->ew, k->dw));
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) channels %d kernel %dx%d stride %d,%d pad %d,%d %d,%d dilation %d,%d groups %d "
             "bias %d 1d %d", k->n, c, h, w, oc, k->kh, k->kw, k->sh, k->sw, k->ph, k->eh, k->pw, k->ew, k->dh, k->dw, k->groups, k->bias,
             one_d);
    if (one_d == 3) return cnn_conv1d(batched(k, c, 1, w), oc, k->kw, .stride = k->sw, .dilation = k->dw, .causal = 1,
                                      .groups = k->groups, .no_bias = !k->bias);
    if (one_d) return cnn_conv1d(batched(k, c, 1, w), oc, k->kw, .stride = k->sw, .pad = k->pw, .pad_right = k->ew, .dilation = k->dw,
                                 .groups = k->groups, .no_bias = !k->bias);
    if (k->ph != k->eh || k->pw != k->ew)
        return cnn_conv2d(batched(k, c, h, w), oc, k->kh, .kernel_w = k->kw, .stride_h = k->sh, .stride_w = k->sw, .pad = k->ph, .pad_bottom = k->eh,
                          .pad_w = k->pw, .pad_right = k->ew, .dilation_h = k->dh, .dilation_w = k->dw, .groups = k->groups, .no_bias = !k->bias);
    if (k->kh == k->kw && k->sh == k->sw && k->ph == k->pw && k->dh == k->dw)
        return cnn_conv2d(batched(k, c, h, w), oc, k->kh, .stride = k->sh, .pad = k->ph, .dilation = k->dh, .groups = k->groups, .no_bias = !k->bias);
    return cnn_conv2d(batched(k, c, h, w), oc, k->kh, .kernel_w = k->kw, .stride_h = k->sh, .stride_w = k->sw, .pad_h = k->ph, .pad_w = k->pw,
                      .dilation_h = k->dh, .dilation_w = k->dw, .groups = k->groups, .no_bias = !k->bias);
}
static void ref_conv2d(const one *k, double *const *v, double *y)
{
    cnn_shape x = k->s[0], o = k->ys;
    int icg = x.c / k->groups, ocg = o.c / k->groups;
    cnn_shape ws = shape4(o.c, icg, k->kh, k->kw);
    for (int n = 0; n < o.n; n++) for (int oc = 0; oc < o.c; oc++) for (int oh = 0; oh < o.h; oh++) for (int ow = 0; ow < o.w; ow++) {
        double s = k->bias ? v[2][oc] : 0;
        for (int ic = 0; ic < icg; ic++) for (int i = 0; i < k->kh; i++) for (int j = 0; j < k->kw; j++) {
            int h = oh * k->sh - k->ph + i * k->dh, w = ow * k->sw - k->pw + j * k->dw;
            if (h >= 0 && h < x.h && w >= 0 && w < x.w) s += v[0][at4(x, n, oc / ocg * icg + ic, h, w)] * v[1][at4(ws, oc, ic, i, j)];
        }
        y[at4(o, n, oc, oh, ow)] = s;
    }
}

static cnn_tensor *build_dense(one *k)
{
    int c = small(), h = small(), w = small(), units = test_chance(20) ? 1 : test_int(2, 40);
    k->bias = test_chance(60);
    k->ys = shape4(k->n, units, 1, 1);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) units %d bias %d", k->n, c, h, w, units, k->bias);
    return cnn_dense(batched(k, c, h, w), units, .no_bias = !k->bias);
}
static void ref_dense(const one *k, double *const *v, double *y)
{
    int K = count4(k->s[0]) / k->s[0].n;
    for (int n = 0; n < k->ys.n; n++) for (int u = 0; u < k->ys.c; u++) {
        double s = k->bias ? v[2][u] : 0;
        for (int i = 0; i < K; i++) s += v[0][n * K + i] * v[1][u * K + i];
        y[n * k->ys.c + u] = s;
    }
}

static cnn_tensor *build_matmul(one *k)
{
    int M = test_int(1, 9), K = test_int(1, 40), P = test_int(1, 30);
    bool b = test_chance(60);
    if (b) M = k->n;
    k->ys = shape4(M, P, 1, 1);
    snprintf(k->text, sizeof k->text, "(%d,%d) x (%d,%d)%s", M, K, K, P, b ? ", batched" : "");
    return cnn_matmul(b ? batched(k, K, 1, 1) : unbatched(k, M, K, 1, 1), unbatched(k, K, P, 1, 1));
}
static void ref_matmul(const one *k, double *const *v, double *y)
{
    int M = k->ys.n, P = k->ys.c, K = k->s[0].c;
    for (int i = 0; i < M; i++) for (int j = 0; j < P; j++) {
        double s = 0;
        for (int l = 0; l < K; l++) s += v[0][i * K + l] * v[1][l * P + j];
        y[i * P + j] = s;
    }
}

/* PyTorch's rule: in ceil mode a last window that would start in the right padding is dropped. */
static int out_pool(int in, int k, int s, int p, int e, int d, int ceil_mode)
{
    int span = in + p + e - (d * (k - 1) + 1), o = span / s + 1;
    if (ceil_mode && span % s) o++;
    if (ceil_mode && (o - 1) * s >= in + p) o--;
    return o;
}
static cnn_tensor *build_pool(one *k, bool max)
{
    int h, w, c = small();
    draw_window(&k->kh, &k->sh, &k->ph, &k->eh, &k->dh, &h, true);
    draw_window(&k->kw, &k->sw, &k->pw, &k->ew, &k->dw, &w, true);
    if (!max || test_chance(50)) k->dh = k->dw = 1;
    if (k->kh == 2 && k->ph == 1 && h < k->dh) h = k->dh;                       /* else a window would miss x */
    if (k->kw == 2 && k->pw == 1 && w < k->dw) w = k->dw;
    k->ceil_mode = test_chance(50), k->no_count_pad = !max && test_chance(50);
    k->gap = max ? 0.05 : 0;
    bool square = k->kh == k->kw && k->ph == k->pw && k->dh == k->dw && k->ph == k->eh && k->pw == k->ew, whole = square && test_chance(50);
    if (whole) k->sh = k->sw = k->kh;                                           /* the default stride */
    const bool one_d = !whole && test_chance(20);
    if (one_d) k->kh = k->sh = h = k->dh = 1, k->ph = k->eh = 0;
    k->ys = shape4(k->n, c, out_pool(h, k->kh, k->sh, k->ph, k->eh, k->dh, k->ceil_mode),
                   out_pool(w, k->kw, k->sw, k->pw, k->ew, k->dw, k->ceil_mode));
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) kernel %dx%d stride %d,%d pad %d,%d %d,%d dilation %d,%d ceil %d "
             "no_count_pad %d", k->n, c, h, w, k->kh, k->kw, k->sh, k->sw, k->ph, k->eh, k->pw, k->ew, k->dh, k->dw, k->ceil_mode,
             k->no_count_pad);
    cnn_tensor *x = batched(k, c, h, w);
    if (one_d && max) return cnn_max_pool1d(x, k->kw, .stride = k->sw, .pad = k->pw, .pad_right = k->ew, .dilation = k->dw,
                                            .ceil_mode = k->ceil_mode);
    if (one_d) return cnn_avg_pool1d(x, k->kw, .stride = k->sw, .pad_left = k->pw, .pad_right = k->ew, .ceil_mode = k->ceil_mode,
                                     .no_count_pad = k->no_count_pad);
    if (max && whole) return cnn_max_pool(x, k->kh, .pad = k->ph, .dilation = k->dh, .ceil_mode = k->ceil_mode);
    if (max) return cnn_max_pool(x, k->kh, .kernel_w = k->kw, .stride_h = k->sh, .stride_w = k->sw, .pad_h = k->ph,
                                 .pad_bottom = k->eh, .pad_left = k->pw, .pad_right = k->ew, .dilation_h = k->dh, .dilation_w = k->dw, .ceil_mode = k->ceil_mode);
    if (whole) return cnn_avg_pool(x, k->kh, .pad = k->ph, .ceil_mode = k->ceil_mode, .no_count_pad = k->no_count_pad);
    return cnn_avg_pool(x, k->kh, .kernel_w = k->kw, .stride_h = k->sh, .stride_w = k->sw, .pad_top = k->ph, .pad_bottom = k->eh,
                        .pad_w = k->pw, .pad_right = k->ew, .ceil_mode = k->ceil_mode, .no_count_pad = k->no_count_pad);
}
static cnn_tensor *build_max_pool(one *k) { return build_pool(k, true); }
static cnn_tensor *build_avg_pool(one *k) { return build_pool(k, false); }
static void ref_pool(const one *k, double *const *v, double *y, bool max)
{
    cnn_shape x = k->s[0], o = k->ys;
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int oh = 0; oh < o.h; oh++) for (int ow = 0; ow < o.w; ow++) {
        double best = -INFINITY, sum = 0;
        int inside = 0, padded = 0;
        for (int i = 0; i < k->kh; i++) for (int j = 0; j < k->kw; j++) {
            int h = oh * k->sh - k->ph + i * k->dh, w = ow * k->sw - k->pw + j * k->dw;
            if (h < x.h + k->eh && w < x.w + k->ew) padded++;
            if (h < 0 || h >= x.h || w < 0 || w >= x.w) continue;
            double e = v[0][at4(x, n, c, h, w)];
            inside++, sum += e;
            if (e > best) best = e;
        }
        y[at4(o, n, c, oh, ow)] = max ? best : sum / (k->no_count_pad ? inside : padded);
    }
}
static void ref_max_pool(const one *k, double *const *v, double *y) { ref_pool(k, v, y, true); }
static void ref_avg_pool(const one *k, double *const *v, double *y) { ref_pool(k, v, y, false); }

static cnn_tensor *build_global_avg_pool(one *k)
{
    int c = small(), h = test_int(1, 9), w = test_int(1, 9);
    k->ys = shape4(k->n, c, 1, 1);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d)", k->n, c, h, w);
    return cnn_global_avg_pool(batched(k, c, h, w));
}
static void ref_global_avg_pool(const one *k, double *const *v, double *y)
{
    int plane = k->s[0].h * k->s[0].w;
    for (int i = 0; i < k->ys.n * k->ys.c; i++) {
        y[i] = 0;
        for (int j = 0; j < plane; j++) y[i] += v[0][i * plane + j] / plane;
    }
}

/* Broadcasting: every axis of either operand may have extent 1. Some operands have no batch; x op x happens too. */
static cnn_tensor *build_binary(one *k, cnn_tensor *(*f)(const char *, cnn_tensor *, cnn_tensor *))
{
    int full[3] = { small(), small(), test_chance(20) ? 17 : small() }, a[3], b[3];
    for (int i = 0; i < 3; i++) {
        int stretch = test_int(0, 9);
        a[i] = stretch == 0 || stretch == 9 ? 1 : full[i];
        b[i] = stretch == 1 || stretch == 9 ? 1 : full[i];
    }
    int batches = test_int(0, 4);           /* 0, 1: both; 2: a; 3: b; 4: neither, but n = 3 against 1 or 3 */
    if (test_chance(8)) {
        cnn_tensor *x = batched(k, full[0], full[1], full[2]);
        k->ys = shape4(k->n, full[0], full[1], full[2]);
        snprintf(k->text, sizeof k->text, "x op x (%d,%d,%d,%d)", k->n, full[0], full[1], full[2]);
        return f(CNN_HERE, x, x);
    }
    int an = test_chance(50) ? 3 : 1, bn = test_chance(50) ? 3 : 1;
    if (batches == 2) bn = 1;
    if (batches == 3) an = 1;
    k->ys = shape4(batches == 4 ? (an > bn ? an : bn) : k->n, a[0] > b[0] ? a[0] : b[0], a[1] > b[1] ? a[1] : b[1], a[2] > b[2] ? a[2] : b[2]);
    snprintf(k->text, sizeof k->text, "(%s%d,%d,%d,%d) op (%s%d,%d,%d,%d) batch %d", batches < 3 ? "N|" : "", an, a[0], a[1], a[2],
             batches < 2 || batches == 3 ? "N|" : "", bn, b[0], b[1], b[2], k->n);
    cnn_tensor *u = batches < 3 ? batched(k, a[0], a[1], a[2]) : unbatched(k, an, a[0], a[1], a[2]);
    cnn_tensor *v = batches < 2 || batches == 3 ? batched(k, b[0], b[1], b[2]) : unbatched(k, bn, b[0], b[1], b[2]);
    return f(CNN_HERE, u, v);
}
static cnn_tensor *build_add(one *k) { return build_binary(k, cnn_add_); }
static cnn_tensor *build_sub(one *k) { return build_binary(k, cnn_sub_); }
static cnn_tensor *build_mul(one *k) { return build_binary(k, cnn_mul_); }
static cnn_tensor *build_div(one *k)
{
    cnn_tensor *y = build_binary(k, cnn_div_);
    k->far = true;
    return y;
}
static cnn_tensor *build_maximum(one *k) { k->gap = 0.02; return build_binary(k, cnn_maximum_); }
static cnn_tensor *build_minimum(one *k) { k->gap = 0.02; return build_binary(k, cnn_minimum_); }
static cnn_tensor *build_pow(one *k)
{
    cnn_tensor *y = build_binary(k, cnn_pow_);
    k->shift = 1.5;
    return y;
}
static void ref_binary(const one *k, double *const *v, double *y, char op)
{
    cnn_shape o = k->ys, a = k->s[0], b = k->s[1];
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int h = 0; h < o.h; h++) for (int w = 0; w < o.w; w++) {
        double p = v[0][at4(a, n % a.n, c % a.c, h % a.h, w % a.w)], q = v[1][at4(b, n % b.n, c % b.c, h % b.h, w % b.w)];
        y[at4(o, n, c, h, w)] = op == '+' ? p + q : op == '-' ? p - q : op == '*' ? p * q : op == '/' ? p / q
                              : op == '>' ? fmax(p, q) : op == '<' ? fmin(p, q) : pow(p, q);
    }
}
static void ref_add(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '+'); }
static void ref_sub(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '-'); }
static void ref_mul(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '*'); }
static void ref_div(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '/'); }
static void ref_maximum(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '>'); }
static void ref_minimum(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '<'); }
static void ref_pow(const one *k, double *const *v, double *y) { ref_binary(k, v, y, '^'); }

/* An operand of any shape, with a batch or without, for operations that keep the shape. */
static cnn_tensor *any(one *k)
{
    int n = test_int(1, 3), c = small(), h = small(), w = test_chance(20) ? test_int(17, 40) : small();
    bool b = test_chance(80);
    k->ys = shape4(b ? k->n : n, c, h, w);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d)%s", k->ys.n, c, h, w, b ? "" : ", no batch");
    return b ? batched(k, c, h, w) : unbatched(k, n, c, h, w);
}

static cnn_tensor *build_scale(one *k)
{
    cnn_tensor *x = any(k);
    k->a = test_uniform(-2, 2), k->b = test_uniform(-2, 2);
    return cnn_scale(x, (float)k->a, (float)k->b);
}
static void ref_scale(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = k->a * v[0][i] + k->b;
}

/* The axis, 1 to 3, is in k->axes. */
static cnn_tensor *build_concat(one *k)
{
    int n_in = test_int(1, MAX_IN), e[4] = { test_int(1, 3), small(), small(), small() }, sum = 0;
    bool b = test_chance(80);
    cnn_tensor *x[MAX_IN];
    k->axes = test_chance(50) ? 1 : test_int(1, 3);
    for (int i = 0; i < n_in; i++) {
        e[k->axes] = small();
        x[i] = i && test_chance(10) ? x[i - 1] : b ? batched(k, e[1], e[2], e[3]) : unbatched(k, e[0], e[1], e[2], e[3]);
        sum += k->axes == 1 ? x[i]->shape.c : k->axes == 2 ? x[i]->shape.h : x[i]->shape.w;
    }
    e[k->axes] = sum;
    k->ys = shape4(b ? k->n : e[0], e[1], e[2], e[3]);
    snprintf(k->text, sizeof k->text, "%d operands (%d,%d,%d,%d) axis %d", n_in, k->ys.n, e[1], e[2], e[3], k->axes);
    return k->axes == 1 && test_chance(50) ? cnn_concat_(CNN_HERE, x, n_in) : cnn_concat_along_(CNN_HERE, 1u << k->axes, x, n_in);
}
static void ref_concat(const one *k, double *const *v, double *y)
{
    int first[4] = { 0 };
    for (int i = 0; i < k->n_in; i++) {
        cnn_shape s = k->s[i];
        for (int n = 0; n < s.n; n++) for (int c = 0; c < s.c; c++) for (int h = 0; h < s.h; h++) for (int w = 0; w < s.w; w++)
            y[at4(k->ys, n, first[1] + c, first[2] + h, first[3] + w)] = v[i][at4(s, n, c, h, w)];
        first[k->axes] += k->axes == 1 ? s.c : k->axes == 2 ? s.h : s.w;
    }
}

static cnn_tensor *build_reshape(one *k)
{
    cnn_tensor *x = any(k);
    int c = k->ys.c, h = k->ys.h, w = k->ys.w, way = test_int(0, 3);
    k->ys = way == 0 ? shape4(k->ys.n, w, c, h) : way == 1 ? shape4(k->ys.n, 1, h, c * w) : shape4(k->ys.n, c * h * w, 1, 1);
    if (way == 2) return cnn_flatten(x);
    if (way == 3) return cnn_reshape(x, k->ys.c);
    return cnn_reshape(x, k->ys.c, k->ys.h, k->ys.w);
}
static void ref_reshape(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = v[0][i];
}

static cnn_tensor *build_reduce(one *k, cnn_tensor *(*f)(cnn_reduce_args))
{
    cnn_tensor *x = any(k);
    k->axes = test_int(0, 15);
    int axes = k->axes ? k->axes : 15;
    if (axes & CNN_N) k->ys.n = 1;
    if (axes & CNN_C) k->ys.c = 1;
    if (axes & CNN_H) k->ys.h = 1;
    if (axes & CNN_W) k->ys.w = 1;
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " axes %d", k->axes);
    return f((cnn_reduce_args){ .at = CNN_HERE, .x = x, .axes = (unsigned)k->axes });
}
static cnn_tensor *build_sum(one *k)  { return build_reduce(k, cnn_sum_); }
static cnn_tensor *build_mean(one *k) { return build_reduce(k, cnn_mean_); }
static cnn_tensor *build_amax(one *k) { k->gap = 0.01; return build_reduce(k, cnn_amax_); }
static cnn_tensor *build_amin(one *k) { k->gap = 0.01; return build_reduce(k, cnn_amin_); }
static void ref_sum(const one *k, double *const *v, double *y)
{
    cnn_shape x = k->s[0], o = k->ys;
    for (int i = 0; i < count4(o); i++) y[i] = 0;
    for (int n = 0; n < x.n; n++) for (int c = 0; c < x.c; c++) for (int h = 0; h < x.h; h++) for (int w = 0; w < x.w; w++)
        y[at4(o, n % o.n, c % o.c, h % o.h, w % o.w)] += v[0][at4(x, n, c, h, w)];
}
static void ref_mean(const one *k, double *const *v, double *y)
{
    ref_sum(k, v, y);
    for (int i = 0; i < count4(k->ys); i++) y[i] *= (double)count4(k->ys) / count4(k->s[0]);
}

static void ref_most(const one *k, double *const *v, double *y, double sign)
{
    cnn_shape x = k->s[0], o = k->ys;
    for (int i = 0; i < count4(o); i++) y[i] = -sign * INFINITY;
    for (int n = 0; n < x.n; n++) for (int c = 0; c < x.c; c++) for (int h = 0; h < x.h; h++) for (int w = 0; w < x.w; w++) {
        double *to = &y[at4(o, n % o.n, c % o.c, h % o.h, w % o.w)], e = v[0][at4(x, n, c, h, w)];
        if (sign * e > sign * *to) *to = e;
    }
}
static void ref_amax(const one *k, double *const *v, double *y) { ref_most(k, v, y, 1); }
static void ref_amin(const one *k, double *const *v, double *y) { ref_most(k, v, y, -1); }

static cnn_tensor *build_relu(one *k) { k->gap = 0.05; return cnn_relu(any(k)); }
static void ref_relu(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = v[0][i] > 0 ? v[0][i] : 0;
}
static cnn_tensor *build_leaky_relu(one *k)
{
    cnn_tensor *x = any(k);
    k->gap = 0.05;
    k->a = test_chance(30) ? 0.01 : test_uniform(0.02, 0.5);
    return k->a == 0.01 ? cnn_leaky_relu(x) : cnn_leaky_relu(x, (float)k->a);
}
static void ref_leaky_relu(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = v[0][i] > 0 ? v[0][i] : k->a * v[0][i];
}
static cnn_tensor *build_sigmoid(one *k) { k->gap = test_chance(30) ? 0.3 : 0; return cnn_sigmoid(any(k)); }    /* large ones too */
static void ref_sigmoid(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = 1 / (1 + exp(-v[0][i]));
}
static cnn_tensor *build_tanh(one *k) { k->gap = test_chance(30) ? 0.3 : 0; return cnn_tanh(any(k)); }
static void ref_tanh(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = tanh(v[0][i]);
}

/* The axis, 1 to 3, is in k->axes. */
static cnn_tensor *soft(one *k, bool logarithm)
{
    cnn_tensor *x = any(k);
    k->gap = test_chance(30) ? 0.3 : 0, k->axes = test_chance(50) ? 1 : test_int(1, 3);
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " axis %d", k->axes);
    if (k->axes == 1 && test_chance(50)) return logarithm ? cnn_log_softmax(x) : cnn_softmax(x);
    return logarithm ? cnn_log_softmax(x, .axis = 1u << k->axes) : cnn_softmax(x, 1u << k->axes);
}
static cnn_tensor *build_softmax(one *k)     { return soft(k, false); }
static cnn_tensor *build_log_softmax(one *k) { return soft(k, true); }
static void ref_soft(const one *k, double *const *v, double *y, bool logarithm)
{
    cnn_shape s = k->ys;
    for (int n = 0; n < s.n; n++) for (int c = 0; c < s.c; c++) for (int h = 0; h < s.h; h++) for (int w = 0; w < s.w; w++) {
        double sum = 0, x = v[0][at4(s, n, c, h, w)];
        for (int i = 0; i < (k->axes == 1 ? s.c : k->axes == 2 ? s.h : s.w); i++)
            sum += exp(v[0][k->axes == 1 ? at4(s, n, i, h, w) : k->axes == 2 ? at4(s, n, c, i, w) : at4(s, n, c, h, i)] - x);
        y[at4(s, n, c, h, w)] = logarithm ? -log(sum) : 1 / sum;
    }
}
static void ref_softmax(const one *k, double *const *v, double *y)     { ref_soft(k, v, y, false); }
static void ref_log_softmax(const one *k, double *const *v, double *y) { ref_soft(k, v, y, true); }

static cnn_tensor *build_dropout(one *k)
{
    cnn_tensor *x = any(k);
    k->a = test_uniform(0.1, 0.9), k->gap = 0.05;                               /* no zeros: the mask is read from y */
    return cnn_dropout(x, (float)k->a);
}
static void ref_dropout(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) y[i] = !k->train ? v[0][i] : k->mask[i] != 0 ? v[0][i] / (1 - k->a) : 0;
}

/* Operands x, [weight, bias,] running mean, running variance. */
static cnn_tensor *build_batch_norm(one *k)
{
    int c = small(), h = small(), w = small();
    k->kept = test_chance(30);
    if (k->n * h * w < 2 && !k->kept) w = 2;
    k->a = test_chance(50) ? 1e-5 : test_uniform(0.01, 0.5), k->b = test_chance(50) ? 0.1 : test_uniform(0.01, 0.9);
    k->bias = test_chance(70);
    k->ys = shape4(k->n, c, h, w);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) affine %d eps %g momentum %g eval %d", k->n, c, h, w, k->bias, k->a, k->b, k->kept);
    return cnn_batch_norm(batched(k, c, h, w), .eps = (float)k->a, .momentum = (float)k->b, .no_affine = !k->bias, .eval = k->kept);
}
static void ref_batch_norm(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->ys;
    int running = k->bias ? 3 : 1, plane = s.h * s.w;
    for (int c = 0; c < s.c; c++) {
        double mean = 0, var = 0, m = (double)s.n * plane;
        for (int n = 0; n < s.n; n++) for (int i = 0; i < plane; i++) mean += v[0][(n * s.c + c) * plane + i] / m;
        for (int n = 0; n < s.n; n++) for (int i = 0; i < plane; i++) var += pow(v[0][(n * s.c + c) * plane + i] - mean, 2) / m;
        if (!k->train || k->kept) mean = v[running][c], var = v[running + 1][c];
        for (int n = 0; n < s.n; n++) for (int i = 0; i < plane; i++) {
            double e = (v[0][(n * s.c + c) * plane + i] - mean) / sqrt(var + k->a);
            y[(n * s.c + c) * plane + i] = k->bias ? e * v[1][c] + v[2][c] : e;
        }
    }
}

static cnn_tensor *class_weights(one *k, int c)
{
    float ones[16];
    for (int i = 0; i < 16; i++) ones[i] = 1;
    return cnn_const(k->g, shape4(1, c, 1, 1), ones);
}
/* What .reduction makes of n terms f, whose mean is their sum / count; shape: that of the terms. */
static int draw_reduction(one *k, cnn_shape shape)
{
    k->reduction = test_chance(50) ? CNN_MEAN : test_int(CNN_SUM, CNN_NONE);
    k->ys = k->reduction == CNN_NONE ? shape : shape4(1, 1, 1, 1);
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " reduction %d", k->reduction);
    return k->reduction;
}
static void reduced(const one *k, double *y, int i, double f, double count)
{
    if (i == 0 && k->reduction != CNN_NONE) y[0] = 0;
    if (k->reduction == CNN_NONE)     y[i] = f;
    else if (k->reduction == CNN_SUM) y[0] += f;
    else if (count > 0)               y[0] += f / count;
}
static cnn_tensor *build_softmax_cross_entropy(one *k)
{
    int c = test_int(2, 12), h = test_chance(60) ? 1 : test_int(1, 4), w = test_chance(60) ? 1 : test_int(1, 4);
    k->classes = c, k->a = test_chance(50) ? 0 : test_uniform(0.05, 0.5), k->gap = test_chance(20) ? 0.5 : 0;
    k->ignore = test_chance(60) ? -2 : test_chance(50) ? -100 : test_int(0, c - 1), k->bias = test_chance(40);
    snprintf(k->text, sizeof k->text, "logits (%d,%d,%d,%d) smoothing %g ignore %d weights %d", k->n, c, h, w, k->a, k->ignore, k->bias);
    const bool soft = k->ignore == -2 && test_chance(50);            /* labels of any numbers: the formula is linear in them */
    return cnn_softmax_cross_entropy(batched(k, c, h, w), soft ? batched(k, c, h, w) : cnn_labels(k->g, h, w), .smoothing = (float)k->a, .ignore_index = k->ignore,
                                     .class_weights = k->bias ? class_weights(k, c) : NULL, .reduction = draw_reduction(k, shape4(k->n, 1, h, w)));
}
/* What the labels weigh. */
static double label_count(const one *k, double *const *v)
{
    const int n = count4(k->s[1]) / k->s[1].c;
    double    count = 0;
    for (int i = 0; i < n; i++) {
        const int label = k->s[1].c > 1 ? -1 : (int)v[1][i];
        if (label != k->ignore) count += k->bias && label >= 0 ? v[2][label] : 1;
    }
    return count;
}
static void ref_softmax_cross_entropy(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->s[0];
    const double count = label_count(k, v);
    int row = 0;
    for (int n = 0; n < s.n; n++) for (int h = 0; h < s.h; h++) for (int w = 0; w < s.w; w++) {
        double most = -INFINITY, sum = 0, total = 0;
        const bool soft = k->s[1].c > 1;
        int label = soft ? -1 : (int)v[1][at4(k->s[1], n, 0, h, w)];
        if (label == k->ignore) { reduced(k, y, row++, 0, count); continue; }
        for (int c = 0; c < s.c; c++) most = fmax(most, v[0][at4(s, n, c, h, w)]);
        for (int c = 0; c < s.c; c++) sum += exp(v[0][at4(s, n, c, h, w)] - most);
        for (int c = 0; c < s.c; c++) {         /* target: (1 - smoothing) at the label, plus smoothing / C everywhere */
            double target = (soft ? (1 - k->a) * v[1][at4(s, n, c, h, w)] : c == label ? 1 - k->a : 0) + k->a / s.c;
            total -= (k->bias ? v[2][c] : 1) * target * (v[0][at4(s, n, c, h, w)] - most - log(sum));
        }
        reduced(k, y, row++, total, count);
    }
}

static cnn_tensor *build_mse(one *k)
{
    cnn_tensor *x = any(k);
    cnn_shape s = k->ys;
    draw_reduction(k, k->ys);
    if (test_chance(10)) return cnn_mse(x, x, .reduction = k->reduction);
    return cnn_mse(x, x->batched ? batched(k, s.c, s.h, s.w) : unbatched(k, s.n, s.c, s.h, s.w), .reduction = k->reduction);
}
static void ref_mse(const one *k, double *const *v, double *y)
{
    for (int i = 0, m = count4(k->s[0]); i < m; i++) reduced(k, y, i, pow(v[0][i] - v[1][i], 2), m);
}

#include "rooms_more.h"

#define ROOM(name, cases, tolerance) { #name, cases, build_##name, ref_##name, tolerance }
static const room rooms[] = {
    ROOM(conv2d, 300, 1e-4), ROOM(dense, 60, 1e-4), ROOM(matmul, 60, 1e-4), ROOM(max_pool, 150, 1e-5), ROOM(avg_pool, 150, 1e-5),
    ROOM(global_avg_pool, 40, 1e-5), ROOM(add, 100, 1e-5), ROOM(sub, 100, 1e-5), ROOM(mul, 100, 1e-5), ROOM(scale, 40, 1e-5),
    ROOM(div, 100, 1e-5), ROOM(maximum, 100, 1e-6), ROOM(minimum, 100, 1e-6), ROOM(pow, 100, 2e-5), ROOM(amax, 80, 1e-6),
    ROOM(amin, 80, 1e-6),
    ROOM(concat, 60, 1e-6), ROOM(reshape, 40, 1e-6), ROOM(sum, 80, 1e-5), ROOM(mean, 80, 1e-5), ROOM(relu, 40, 1e-6),
    ROOM(leaky_relu, 40, 1e-5), ROOM(sigmoid, 40, 1e-5), ROOM(tanh, 40, 1e-5), ROOM(softmax, 60, 1e-5), ROOM(dropout, 60, 1e-5),
    ROOM(batch_norm, 80, 2e-4), ROOM(softmax_cross_entropy, 80, 2e-5), ROOM(mse, 40, 2e-5),
    ROOMS_MORE
};
enum { N_ROOMS = sizeof rooms / sizeof rooms[0] };

/* ---- The driver ---- */

static cnn_isa isa[6] = { CNN_ISA_AUTO };       /* those that this machine has */
static int     n_isa = 1;

static void find_isas(void)
{
    static const cnn_isa all[] = { CNN_ISA_PLAIN, CNN_ISA_C, CNN_ISA_NEON, CNN_ISA_AVX2, CNN_ISA_AVX512 };
    for (int i = 0; i < 4; i++) {
        cnn_graph *g = cnn_new(.isa = all[i]);
        if (g && !cnn_error(g)) isa[n_isa++] = all[i];
        cnn_free(g);
    }
}

/* Nothing may rest on what the arenas happen to hold: everything that is not a parameter or a buffer becomes NaN. */
static void poison(cnn_graph *g)
{
    static const cnn_arena which[] = { CNN_ARENA_GRADS, CNN_ARENA_INPUTS, CNN_ARENA_ACTIVATIONS, CNN_ARENA_SCRATCH };
    for (int i = 0; i < 4; i++) if (g->arena_bytes[which[i]]) memset(g->arena[which[i]], 0xff, g->arena_bytes[which[i]]);
    if (g->loss->needs_grad) g->arena[CNN_ARENA_ACTIVATIONS][g->loss->grad_at] = 1;         /* written once, at compile */
}

static double *doubles(size_t n)
{
    double *d = test_alloc(n * sizeof *d);
    for (size_t i = 0; i < n; i++) d[i] = 0;
    return d;
}

/* Draw the values of operand i and set them. Operands that are the same tensor share their values. */
static void set_operand(one *k, int i)
{
    cnn_tensor *t = k->y->in[i], *leaf = t->kind == CNN_NODE ? t->in[0] : t;
    k->s[i] = t->shape;
    if (t->batched) k->s[i].n = k->n;
    for (int j = 0; j < i; j++) if (k->y->in[j] == t) { k->v[i] = k->v[j]; return; }
    int n = count4(k->s[i]);
    float *f = test_floats((size_t)n);
    if (leaf->kind == CNN_LABELS)      for (int j = 0; j < n; j++) f[j] = (float)(k->ignore != -2 && test_chance(30) ? k->ignore : test_int(0, k->classes - 1));
    else if (leaf->kind == CNN_BUFFER || leaf->kind == CNN_CONST) test_fill(f, (size_t)n, 0.5, 1.5);
    else if (k->gap > 0 && i == 0)     test_fill_apart(f, (size_t)n, k->gap);
    else                               test_fill(f, (size_t)n, -1, 1);
    for (int j = 0; i == 0 && j < n; j++) f[j] += (float)k->shift;
    for (int j = 0; i == 1 && k->gap > 0 && leaf->kind != CNN_LABELS && j < n; j++)
        f[j] = (float)(k->gap * round((double)f[j] / k->gap));
    for (int j = 0; k->unit && i == 1 && leaf->kind != CNN_LABELS && j < n; j++) f[j] = 0.5f + 0.45f * f[j];
    for (int j = 0; k->far && j < n; j++) f[j] += f[j] < 0 ? -0.5f : 0.5f;
    CHECK(cnn_set(leaf, f, (size_t)n));
    k->v[i] = k->own[i] = doubles((size_t)n);
    for (int j = 0; j < n; j++) k->v[i][j] = (double)f[j];
    free(f);
}

static double scalarised(const one *k, const room *r, const double *dy, double *y)
{
    r->reference(k, k->v, y);
    double s = 0;
    for (int i = 0; i < count4(k->ys); i++) s += y[i] * dy[i];
    return s;
}

static void one_case(const room *r, int number)
{
    one k;
    memset(&k, 0, sizeof k);
    k.max_n = test_chance(30) ? 1 : test_int(2, 5), k.n = test_chance(50) ? k.max_n : test_int(1, k.max_n);
    k.train = true;
    k.g = cnn_new(.max_batch = k.max_n, .seed = test_bits(), .keep_grads = 1, .threads = test_int(1, 3), .isa = isa[test_int(0, n_isa - 1)]);
    cnn_tensor *y = k.y = r->build(&k);
    if (!CHECK_MSG(!cnn_error(k.g), "case %d: %s: %s", number, k.text, cnn_error(k.g))) { cnn_free(k.g); return; }
    CHECK_STR(y->op->name, r->name);

    /* J = sum(dy * y), and in some cases operand 0 is used a second time, before or after: J += sum(dx2 * x). */
    int ny = y->batched ? k.max_n * k.ys.c * k.ys.h * k.ys.w : count4(k.ys);
    float *dyf = test_floats((size_t)ny), *dx2f = NULL;
    test_fill(dyf, (size_t)ny, -1, 1);
    cnn_tensor *dy = y->batched ? cnn_input(k.g, k.ys.c, k.ys.h, k.ys.w) : cnn_const(k.g, k.ys, dyf), *dx2 = NULL;
    cnn_tensor *x = y->in[0], *loss = cnn_sum(cnn_mul(y, dy));
    int twice = test_int(0, 3);
    if (twice >= 2) {
        int nx = k.max_n * x->shape.c * x->shape.h * x->shape.w;
        if (!x->batched) nx = count4(x->shape);
        dx2f = test_floats((size_t)nx);
        test_fill(dx2f, (size_t)nx, -1, 1);
        dx2 = x->batched ? cnn_input(k.g, x->shape.c, x->shape.h, x->shape.w) : cnn_const(k.g, x->shape, dx2f);
        cnn_tensor *more = cnn_sum(cnn_mul(x, dx2));
        loss = twice == 2 ? cnn_add(loss, more) : cnn_add(more, loss);
    }
    if (!CHECK_MSG(cnn_compile(k.g, loss), "case %d: %s: %s", number, k.text, cnn_error(k.g))) { free(dyf), free(dx2f), cnn_free(k.g); return; }
    poison(k.g);
    k.n_in = y->n_in;
    CHECK(cnn_set_batch(k.g, k.n));
    for (int i = 0; i < k.n_in; i++) set_operand(&k, i);
    cnn_shape xs = k.s[0];
    if (y->batched) CHECK(cnn_set(dy, dyf, (size_t)count4(k.ys)));
    if (dx2 && x->batched) CHECK(cnn_set(dx2, dx2f, (size_t)count4(xs)));
    CHECK_INT(cnn_batch(k.g), k.n);

    /* Forward. */
    ny = count4(k.ys);
    cnn_shape got = y->shape;
    if (y->batched) got.n = k.n;
    CHECK_MSG(got.n == k.ys.n && got.c == k.ys.c && got.h == k.ys.h && got.w == k.ys.w, "case %d: %s: shape (%d,%d,%d,%d), not (%d,%d,%d,%d)",
              number, k.text, got.n, got.c, got.h, got.w, k.ys.n, k.ys.c, k.ys.h, k.ys.w);
    float *yf = test_floats((size_t)ny), *ye = test_floats((size_t)ny);
    double *yd = doubles((size_t)ny), *dyd = doubles((size_t)ny), *mask = doubles((size_t)ny);
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);       /* a step before: nothing of it may show below */
    float J = cnn_forward(loss, CNN_TRAIN);
    bool ok = CHECK_MSG(cnn_get(y, yf, (size_t)ny), "case %d: %s: %s", number, k.text, cnn_error(k.g) ? cnn_error(k.g) : "?");
    for (int i = 0; i < ny; i++) mask[i] = ok ? (double)yf[i] : 0, dyd[i] = (double)dyf[i];
    k.mask = mask;
    double Jd = ok ? scalarised(&k, r, dyd, yd) : 0;
    for (int i = 0; ok && i < ny; i++)
        ok = CHECK_MSG(test__near((double)yf[i], yd[i], r->tolerance), "case %d: %s: y[%d] is %.9g, not %.9g", number, k.text, i, (double)yf[i], yd[i]);
    if (dx2) for (int i = 0; i < count4(xs); i++) Jd += k.v[0][i] * (double)dx2f[i];
    CHECK_MSG(test__near((double)J, Jd, 1e-3), "case %d: %s: J is %g, not %g", number, k.text, (double)J, Jd);

    /* Backward. */
    cnn_backward(loss);
    for (int i = 0; ok && i < k.n_in; i++) {
        cnn_tensor *t = y->in[i];
        int m = count4(k.s[i]), tries = m <= ELEMENTS ? m : ELEMENTS;
        if (!t->needs_grad) continue;
        float *df = test_floats((size_t)m);
        ok = CHECK_MSG(cnn_get_grad(t, df, (size_t)m), "case %d: %s: gradient %d: %s", number, k.text, i, cnn_error(k.g) ? cnn_error(k.g) : "?");
        for (int q = 0; ok && q < tries; q++) {
            int e = m <= ELEMENTS ? q : test_int(0, m - 1);
            double keep = k.v[i][e], step = 1e-4, up, down;
            k.v[i][e] = keep + step, up = scalarised(&k, r, dyd, yd);
            k.v[i][e] = keep - step, down = scalarised(&k, r, dyd, yd);
            k.v[i][e] = keep;
            double want = (up - down) / (2 * step);
            if (dx2 && t == x) want += (double)dx2f[e];
            ok = CHECK_MSG(test__near((double)df[e], want, 3 * r->tolerance), "case %d: %s: d/din[%d][%d] is %.9g, not %.9g", number, k.text, i, e,
                           (double)df[e], want);
        }
        free(df);
    }

    /* Evaluation: its own formula for batch norm and dropout, the same bits for all others. Running statistics have
       moved: read them again. */
    k.train = false;
    for (int i = 0; i < k.n_in; i++) if (y->in[i]->kind == CNN_BUFFER) {
        float *f = test_floats((size_t)count4(k.s[i]));
        CHECK(cnn_get(y->in[i], f, (size_t)count4(k.s[i])));
        for (int j = 0; j < count4(k.s[i]); j++) k.v[i][j] = (double)f[j];
        free(f);
    }
    cnn_forward(y, CNN_EVAL);
    ok = CHECK_MSG(cnn_get(y, ye, (size_t)ny), "case %d: %s: %s", number, k.text, cnn_error(k.g) ? cnn_error(k.g) : "?");
    if (ok && strcmp(r->name, "batch_norm") && strcmp(r->name, "dropout"))
        CHECK_MSG(memcmp(yf, ye, (size_t)ny * sizeof *ye) == 0, "case %d: %s: evaluation differs from training", number, k.text);
    r->reference(&k, k.v, yd);
    for (int i = 0; ok && i < ny; i++)
        ok = CHECK_MSG(test__near((double)ye[i], yd[i], r->tolerance), "case %d: %s: evaluated y[%d] is %.9g, not %.9g", number, k.text, i, (double)ye[i], yd[i]);
    CHECK_MSG(!cnn_error(k.g), "case %d: %s", number, cnn_error(k.g));
    for (int i = 0; i < k.n_in; i++) free(k.own[i]);
    free(dyf), free(dx2f), free(yf), free(ye), free(yd), free(dyd), free(mask);
    cnn_free(k.g);
}

/* A graph for inference runs a large batch in micro-batches, here because of a large value beside y; which is not
   there for all samples then. */
static void in_micro_batches(const room *r, int number)
{
    one k;
    memset(&k, 0, sizeof k);
    k.max_n = test_int(9, 20), k.n = test_int(9, k.max_n);
    k.g = cnn_new(.max_batch = k.max_n, .seed = test_bits(), .threads = test_int(1, 3), .inference = 1, .isa = isa[test_int(0, n_isa - 1)]);
    cnn_tensor *y = k.y = cnn_keep(r->build(&k)), *x = cnn_input(k.g, 1, 1, 2), *large = cnn_pad(x, .right = 524, .bottom = 524);
    cnn_tensor *last = cnn_amax(cnn_slice(large, CNN_W, 0, 9), CNN_C | CNN_H | CNN_W);
    if (!CHECK_MSG(cnn_compile(k.g, last), "case %d: %s: %s", number, k.text, cnn_error(k.g))) { cnn_free(k.g); return; }
    poison(k.g);
    k.n_in = y->n_in;
    CHECK(cnn_set_batch(k.g, k.n));
    for (int i = 0; i < k.n_in; i++) set_operand(&k, i);
    const int ny = count4(k.ys);
    float    *yf = test_floats((size_t)ny), *xf = test_floats((size_t)(2 * k.n)), *most = test_floats((size_t)k.n);
    double   *yd = doubles((size_t)ny);
    test_fill(xf, (size_t)(2 * k.n), 0, 1);
    CHECK(cnn_set(x, xf, (size_t)(2 * k.n)));
    CHECK(k.g->cpu.isa == CNN_ISA_PLAIN ? k.g->n_micro == 0 : k.g->n_micro > 0 && k.g->micro_batch == 8);
    for (int run = 0; run < 2; run++) cnn_forward(last, CNN_EVAL), cnn_forward(y, CNN_EVAL);
    bool ok = CHECK_MSG(cnn_get(y, yf, (size_t)ny), "case %d: %s: %s", number, k.text, cnn_error(k.g) ? cnn_error(k.g) : "?");
    r->reference(&k, k.v, yd);
    for (int i = 0; ok && i < ny; i++)
        ok = CHECK_MSG(test__near((double)yf[i], yd[i], r->tolerance), "case %d: %s: y[%d] is %.9g, not %.9g", number, k.text, i, (double)yf[i], yd[i]);
    cnn_forward(last, CNN_EVAL);
    CHECK(cnn_get(last, most, (size_t)k.n));
    for (int i = 0; i < k.n; i++) CHECK(most[i] == fmaxf(xf[2 * i], xf[2 * i + 1]));
    CHECK(k.g->n_micro == 0 || !cnn_map_read(large));
    CHECK(cnn_clear_error(k.g));
    for (int i = 0; i < k.n_in; i++) free(k.own[i]);
    free(yf), free(xf), free(most), free(yd);
    cnn_free(k.g);
}

static void every_operation_has_a_row(void)
{
    int n;
    const cnn_op *const *ops = cnn_ops(&n);
    CHECK(n > 0);
    for (int i = 0; i < n; i++) {
        int rows = 0;
        for (int j = 0; j < N_ROOMS; j++) rows += strcmp(rooms[j].name, ops[i]->name) == 0;
        CHECK_MSG(rows == 1, "operation %s has %d rows in tests/test_rooms.c: write a generator and a float64 reference", ops[i]->name, rows);
    }
    for (int j = 0; j < N_ROOMS; j++) {
        int found = 0;
        for (int i = 0; i < n; i++) found += strcmp(rooms[j].name, ops[i]->name) == 0;
        CHECK_MSG(found == 1, "row %s: no such operation", rooms[j].name);
    }
}

/* ---- What the table cannot say ---- */

/* relu, sigmoid, tanh, scale, dropout in place of their operand, in a chain: same values and gradients as without. */
static void chains_in_place(void)
{
    for (int number = 0; number < 60; number++) {
        int batch = test_int(1, 4), c = test_int(1, 5), hw = test_int(3, 6), length = test_int(1, 5), kinds[5];
        uint64_t seed = test_bits();
        float x[4 * 5 * 36], w[2][5 * 5 * 9], grad[2][5 * 5 * 9], loss[2], eval[2];
        for (int i = 0; i < length; i++) kinds[i] = test_int(0, 6);
        test_fill(x, (size_t)(batch * c * hw * hw), -1, 1);
        for (int keep = 0; keep < 2; keep++) {
            cnn_graph *g = cnn_new(.max_batch = batch, .seed = seed, .keep_grads = keep);
            cnn_tensor *in = cnn_input(g, c, hw, hw), *conv = cnn_conv2d(in, c, 3, .pad = 1, .no_bias = 1), *h = conv;
            for (int i = 0; i < length; i++)
                switch (kinds[i]) {
                case 0: h = cnn_relu(h); break;
                case 1: h = cnn_sigmoid(h); break;
                case 2: h = cnn_tanh(h); break;
                case 3: h = cnn_scale(h, -1.5f, 0.25f); break;
                case 4: h = cnn_leaky_relu(h); break;
                case 5: h = cnn_mul(h, h); break;
                case 6: h = cnn_flatten(h); break;
                }
            cnn_tensor *J = cnn_mean(cnn_mul(h, h));
            if (!CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g))) { cnn_free(g); return; }
            poison(g);
            cnn_set(in, x, (size_t)(batch * c * hw * hw));
            loss[keep] = cnn_forward(J, CNN_TRAIN);
            cnn_backward(J);
            size_t n = (size_t)(c * c * 9);
            CHECK(cnn_get(conv->in[1], w[keep], n) && cnn_get_grad(conv->in[1], grad[keep], n));
            eval[keep] = cnn_forward(J, CNN_EVAL);
            CHECK_MSG(!cnn_error(g), "%s", cnn_error(g));
            cnn_free(g);
        }
        CHECK_SAME_BITS(&loss[0], &loss[1], 1);
        CHECK_SAME_BITS(&loss[0], &eval[0], 1);
        CHECK_SAME_BITS(&loss[0], &eval[1], 1);
        CHECK_SAME_BITS(w[0], w[1], c * c * 9);
        CHECK_SAME_BITS(grad[0], grad[1], c * c * 9);
    }
}

/* The share of zeros is p within 5 standard deviations, forward and backward use one mask, each training forward has
   its own, the same seed gives the same masks, evaluation changes nothing. */
static void dropout_statistics(void)
{
    enum { N = 20000 };
    float *x = test_floats(N), *y = test_floats(N), *first = test_floats(N), *dx = test_floats(N);
    test_fill(x, N, 0.5, 1.5);
    static const float ps[] = { 0.1f, 0.5f, 0.8f };
    for (int q = 0; q < 3; q++) {
        for (int again = 0; again < 2; again++) {
            double p = (double)ps[q];
            cnn_graph *g = cnn_new(.max_batch = 2, .seed = 7, .keep_grads = 1);
            cnn_tensor *in = cnn_input(g, N / 2), *shift = cnn_param(g, "shift", shape4(1, 1, 1, 1));
            cnn_tensor *h = cnn_add(in, shift), *d = cnn_dropout(h, ps[q]), *J = cnn_sum(d);
            if (!CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g))) { cnn_free(g); break; }
            cnn_set(in, x, N);
            cnn_forward(J, CNN_TRAIN), cnn_backward(J);
            CHECK(cnn_get(d, y, N) && cnn_get_grad(h, dx, N));
            int zeros = 0, halves[2] = { 0, 0 };
            for (int i = 0; i < N; i++) {
                if (y[i] == 0) zeros++, halves[i >= N / 2]++;
                if (!CHECK_NEAR((double)y[i], y[i] == 0 ? 0 : (double)x[i] / (1 - p), 1e-5)) break;
                if (!CHECK_NEAR((double)dx[i], y[i] == 0 ? 0 : 1 / (1 - p), 1e-5)) break;
            }
            double deviation = sqrt(p * (1 - p) * N);
            CHECK_MSG(fabs(zeros - p * N) < 5 * deviation, "%d zeros of %d at p = %g", zeros, N, p);
            CHECK_MSG(abs(halves[0] - halves[1]) < 7 * deviation && halves[0] != 0, "%d and %d zeros", halves[0], halves[1]);
            if (again) CHECK_SAME_BITS(y, first, N);
            memcpy(first, y, N * sizeof *y);
            cnn_forward(J, CNN_TRAIN);
            CHECK(cnn_get(d, y, N));
            int differ = 0;
            for (int i = 0; i < N; i++) differ += (y[i] == 0) != (first[i] == 0);
            CHECK_MSG(fabs(differ - 2 * p * (1 - p) * N) < 6 * sqrt((double)N) , "%d of %d masked differently in the second step", differ, N);
            cnn_forward(J, CNN_EVAL);
            CHECK(cnn_get(d, y, N));
            CHECK_SAME_BITS(y, x, N);
            cnn_free(g);
        }
    }
    free(x), free(y), free(first), free(dx);
}

/* Two dropouts in one net draw different masks. */
static void dropouts_are_independent(void)
{
    enum { N = 4000 };
    float *x = test_floats(N), *a = test_floats(N), *b = test_floats(N);
    cnn_graph *g = cnn_new(.seed = 3, .keep_grads = 1);
    cnn_tensor *in = cnn_input(g, N), *shift = cnn_param(g, "shift", shape4(1, 1, 1, 1)), *h = cnn_add(in, shift);
    cnn_tensor *d = cnn_dropout(h, 0.5f), *e = cnn_dropout(h, 0.5f), *J = cnn_sum(cnn_mul(d, e));
    test_fill(x, N, 0.5, 1.5);
    CHECK(cnn_compile(g, J)), cnn_set(in, x, N), cnn_forward(J, CNN_TRAIN);
    CHECK(cnn_get(d, a, N) && cnn_get(e, b, N));
    int differ = 0;
    for (int i = 0; i < N; i++) differ += (a[i] == 0) != (b[i] == 0);
    CHECK_MSG(abs(differ - N / 2) < 200, "%d of %d masked differently", differ, N);
    cnn_free(g);
    free(x), free(a), free(b);
}

/* running = (1 - momentum) running + momentum batch, with the unbiased variance, as PyTorch; from 0 and 1. */
static void batch_norm_running_statistics(void)
{
    for (int number = 0; number < 20; number++) {
        int batch = test_int(2, 4), c = test_int(1, 3), h = test_int(1, 3), w = test_int(1, 3), n = batch * c * h * w;
        double momentum = test_chance(50) ? 0.1 : test_uniform(0.05, 0.95), mean[3] = { 0, 0, 0 }, var[3] = { 1, 1, 1 };
        cnn_graph *g = cnn_new(.max_batch = batch);
        cnn_tensor *in = cnn_input(g, c, h, w), *bn = cnn_batch_norm(in, .momentum = (float)momentum, .name = "bn"), *J = cnn_mean(bn);
        if (!CHECK_MSG(cnn_compile(g, J), "%s", cnn_error(g))) { cnn_free(g); return; }
        cnn_tensor *rm = cnn_find(g, "bn.running_mean"), *rv = cnn_find(g, "bn.running_var");
        CHECK(rm && rv && cnn_find(g, "bn.weight") && cnn_find(g, "bn.bias"));
        float x[4 * 3 * 9], got[3];
        for (int step = 0; step < 4; step++) {
            test_fill(x, (size_t)n, -2, 3);
            cnn_set(in, x, (size_t)n);
            cnn_forward(J, CNN_TRAIN);
            int m = batch * h * w;
            for (int i = 0; i < c; i++) {
                double s = 0, q = 0;
                for (int b = 0; b < batch; b++) for (int j = 0; j < h * w; j++) s += (double)x[(b * c + i) * h * w + j];
                for (int b = 0; b < batch; b++) for (int j = 0; j < h * w; j++) q += pow((double)x[(b * c + i) * h * w + j] - s / m, 2);
                mean[i] = (1 - momentum) * mean[i] + momentum * s / m;
                var[i] = (1 - momentum) * var[i] + momentum * q / (m - 1);
            }
            CHECK(cnn_get(rm, got, (size_t)c));
            CHECK_ALL_NEAR(got, mean, c, 1e-5);
            CHECK(cnn_get(rv, got, (size_t)c));
            CHECK_ALL_NEAR(got, var, c, 1e-5);
            cnn_forward(J, CNN_EVAL);
            CHECK(cnn_get(rm, got, (size_t)c));
            CHECK_ALL_NEAR(got, mean, c, 1e-5);
        }
        cnn_free(g);
    }
}

/* Losses and activations far out: finite and right. */
static void extremes(void)
{
    float logits[2][3] = { { 1000, -1000, 0 }, { -1e30f, 88, 89 } }, grad[6], p[6];
    int labels[2] = { 0, 1 };
    cnn_graph *g = cnn_new(.max_batch = 2, .keep_grads = 1);
    cnn_tensor *in = cnn_input(g, 3), *z = cnn_add(in, cnn_param(g, "zero", shape4(1, 1, 1, 1))), *t = cnn_labels(g);
    cnn_tensor *J = cnn_softmax_cross_entropy(z, t), *soft = cnn_softmax(z);
    CHECK(cnn_compile(g, J)), cnn_set(in, logits[0], 6), cnn_set_labels(t, labels, 2);
    CHECK_NEAR(cnn_forward(J, CNN_TRAIN), (0 + log(1 + exp(1))) / 2, 1e-6);
    cnn_backward(J);
    CHECK(cnn_get_grad(z, grad, 6));
    double e = exp(1) / (1 + exp(1)), want[6] = { 0, 0, 0, 0, -e / 2, e / 2 };
    CHECK_ALL_NEAR(grad, want, 6, 1e-6);
    (void)soft, (void)p;
    cnn_free(g);

    static const float x[8] = { -1e30f, -1000, -89, -20, 20, 89, 1000, 1e30f };
    float y[8];
    for (int which = 0; which < 3; which++) {
        g = cnn_new(.inference = 1);
        in = cnn_input(g, 8);
        cnn_tensor *h = which == 0 ? cnn_sigmoid(in) : which == 1 ? cnn_tanh(in) : cnn_softmax(in);
        CHECK(cnn_compile(g, h)), cnn_set(in, x, 8), cnn_forward(h, CNN_EVAL);
        CHECK(cnn_get(h, y, 8));
        for (int i = 0; i < 8; i++) {
            double want_y = which == 0 ? 1 / (1 + exp(-(double)x[i])) : which == 1 ? tanh((double)x[i]) : i == 7;
            CHECK_NEAR(y[i], want_y, 1e-6);
        }
        cnn_free(g);
    }
}

/* A NaN is not cut to a finite gradient, and who lost a comparison has none, not 0 times an infinite one. */
static void gradients_that_are_not_finite(void)
{
    const float values[4] = { NAN, -5, 0.25f, 5 };
    float       grad[4];
    cnn_graph  *g = cnn_new(.keep_grads = 1);
    cnn_tensor *x = cnn_input(g, 4), *z = cnn_add(x, cnn_param(g, "zero", shape4(1, 1, 1, 1)));
    cnn_tensor *J = cnn_huber(z, cnn_scale(x, 0), .reduction = CNN_SUM);
    CHECK(cnn_compile(g, J)), cnn_set(x, values, 4), cnn_forward(J, CNN_TRAIN), cnn_backward(J);
    CHECK(cnn_get_grad(z, grad, 4));
    CHECK(isnan(grad[0]) && grad[1] == -1 && grad[3] == 1);
    cnn_free(g);

    for (int way = 0; way < 2; way++) {
        g = cnn_new(.keep_grads = 1);
        x = cnn_input(g, 4), z = cnn_param(g, "z", shape4(1, 4, 1, 1));
        cnn_tensor *o = cnn_scale(z, 1, 1);
        J = cnn_sum(cnn_scale(cnn_scale(way ? cnn_minimum(z, o) : cnn_maximum(z, o), 3e38f), 10));
        CHECK(cnn_compile(g, J)), cnn_forward(J, CNN_TRAIN), cnn_backward(J);
        CHECK(cnn_get_grad(o, grad, 4));
        for (int i = 0; i < 4; i++) CHECK(way ? grad[i] == 0 : isinf(grad[i]));
        cnn_free(g);
    }
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    find_isas();
    RUN(every_operation_has_a_row);
    for (int j = 0; j < N_ROOMS; j++)
        if (test_begin("room %s", rooms[j].name))
            for (int i = 0; i < rooms[j].cases && test__bad < 8; i++) one_case(&rooms[j], i);
    for (int j = 0; j < N_ROOMS; j++)
        if (test_begin("room %s in micro-batches", rooms[j].name))
            for (int i = 0; i < 4 && test__bad < 8; i++) in_micro_batches(&rooms[j], i);
    RUN(chains_in_place);
    RUN(dropout_statistics);
    RUN(dropouts_are_independent);
    RUN(batch_norm_running_statistics);
    RUN(extremes);
    RUN(gradients_that_are_not_finite);
    return test_end();
}
