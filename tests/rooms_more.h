/* Generators and float64 references for the operations of 61_layers_more; included by test_rooms.c. */

static cnn_tensor *build_conv_transpose2d(one *k)
{
    int h = test_int(1, 5), w = test_int(1, 5), icg = test_int(1, 4), ocg = test_int(1, 4), d, op = 0;
    draw_window(&k->kh, &k->sh, &k->ph, &k->eh, &k->dh, &d, false);
    draw_window(&k->kw, &k->sw, &k->pw, &k->ew, &k->dw, &d, false);
    k->groups = test_chance(30) ? test_int(2, 4) : 1;
    bool same = test_chance(40);
    if (same) k->kw = k->kh, k->sw = k->sh, k->pw = k->ew = k->eh = k->ph, k->dw = k->dh;
    int oph = test_int(0, k->sh - 1), opw = same ? oph : test_int(0, k->sw - 1);
    while ((h - 1) * k->sh - k->ph - k->eh + k->dh * (k->kh - 1) + oph + 1 < 1) h++;
    while ((w - 1) * k->sw - k->pw - k->ew + k->dw * (k->kw - 1) + opw + 1 < 1) w++;
    k->bias = test_chance(60);
    int c = icg * k->groups, o = ocg * k->groups;
    k->ys = shape4(k->n, o, (h - 1) * k->sh - k->ph - k->eh + k->dh * (k->kh - 1) + oph + 1,
                   (w - 1) * k->sw - k->pw - k->ew + k->dw * (k->kw - 1) + opw + 1);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) channels %d kernel %dx%d stride %d,%d pad %d,%d %d,%d dilation %d,%d output_pad %d,%d "
             "groups %d bias %d", k->n, c, h, w, o, k->kh, k->kw, k->sh, k->sw, k->ph, k->eh, k->pw, k->ew, k->dh, k->dw, oph, opw, k->groups, k->bias);
    (void)op;
    if (same) return cnn_conv_transpose2d(batched(k, c, h, w), o, k->kh, .stride = k->sh, .pad = k->ph, .dilation = k->dh,
                                          .output_pad = oph, .groups = k->groups, .no_bias = !k->bias);
    return cnn_conv_transpose2d(batched(k, c, h, w), o, k->kh, .kernel_w = k->kw, .stride_h = k->sh, .stride_w = k->sw,
                                .pad_h = k->ph, .pad_bottom = k->eh, .pad_w = k->pw, .pad_right = k->ew, .dilation_h = k->dh, .dilation_w = k->dw, .output_pad_h = oph,
                                .output_pad_w = opw, .groups = k->groups, .no_bias = !k->bias);
}
static void ref_conv_transpose2d(const one *k, double *const *v, double *y)
{
    cnn_shape x = k->s[0], o = k->ys;
    int icg = x.c / k->groups, ocg = o.c / k->groups;
    cnn_shape ws = shape4(x.c, ocg, k->kh, k->kw);
    for (int i = 0; i < count4(o); i++) y[i] = k->bias ? v[2][i / (o.h * o.w) % o.c] : 0;
    for (int n = 0; n < x.n; n++) for (int c = 0; c < x.c; c++) for (int h = 0; h < x.h; h++) for (int w = 0; w < x.w; w++)
        for (int q = 0; q < ocg; q++) for (int i = 0; i < k->kh; i++) for (int j = 0; j < k->kw; j++) {
            int oy = h * k->sh - k->ph + i * k->dh, ox = w * k->sw - k->pw + j * k->dw;
            if (oy >= 0 && oy < o.h && ox >= 0 && ox < o.w)
                y[at4(o, n, c / icg * ocg + q, oy, ox)] += v[0][at4(x, n, c, h, w)] * v[1][at4(ws, c, q, i, j)];
        }
}

static cnn_tensor *build_lrn(one *k)
{
    cnn_tensor *x = any(k);
    k->kh = test_int(1, 7), k->shift = test_chance(50) ? 0 : 2;
    bool plain = test_chance(30);
    k->a = plain ? 1e-4 : test_uniform(0.1, 2), k->b = plain || test_chance(50) ? 0.75 : test_uniform(0.2, 1.5);
    k->kw = plain ? 1 : test_int(1, 3);
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " size %d alpha %g beta %g k %d", k->kh, k->a, k->b, k->kw);
    if (plain) return cnn_lrn(x, k->kh);
    return cnn_lrn(x, k->kh, .alpha = (float)k->a, .beta = (float)k->b, .k = (float)k->kw);
}
static void ref_lrn(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->ys;
    for (int n = 0; n < s.n; n++) for (int c = 0; c < s.c; c++) for (int h = 0; h < s.h; h++) for (int w = 0; w < s.w; w++) {
        double sum = 0;
        for (int j = 0; j < k->kh; j++) {
            int q = c - k->kh / 2 + j;
            if (q >= 0 && q < s.c) sum += pow(v[0][at4(s, n, q, h, w)], 2);
        }
        y[at4(s, n, c, h, w)] = v[0][at4(s, n, c, h, w)] / pow(k->kw + k->a / k->kh * sum, k->b);
    }
}

/* groups in k->groups; whether each element has its own weight in k->axes. At least three elements: over two, X is the
   sign of a difference, whose slope is a rounding error's. */
static cnn_tensor *build_sample_norm(one *k, int which)
{
    int groups = test_int(1, 4), c = groups * test_int(1, 3), h = small(), w = test_int(3, 7);
    static const unsigned last[] = { CNN_C | CNN_H | CNN_W, CNN_H | CNN_W, CNN_W };
    const int outer = which == 0 || which == 3 ? test_int(0, 2) : 0;
    k->axes = which == 0 || which == 3, k->ignore = which == 3;
    k->groups = k->axes ? (outer > 0 ? c : 1) * (outer > 1 ? h : 1) : which == 1 ? groups : c;
    k->bias = test_chance(60), k->a = test_chance(50) ? 1e-5 : test_uniform(0.01, 0.5), k->shift = test_chance(30) ? 3 : 0;
    k->ys = shape4(k->n, c, h, w);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) groups %d affine %d eps %g", k->n, c, h, w, k->groups, k->bias, k->a);
    cnn_tensor *x = batched(k, c, h, w);
    const float eps = (float)k->a;
    if (which == 3) return cnn_rms_norm(x, .eps = eps, .axes = last[outer], .no_affine = !k->bias);
    if (k->a == 1e-5 && which == 0 && outer == 0) return cnn_layer_norm(x, .no_affine = !k->bias);
    if (k->a == 1e-5 && which == 0) return cnn_layer_norm(x, .no_affine = !k->bias, .axes = last[outer]);
    if (k->a == 1e-5 && which == 1) return cnn_group_norm(x, groups, .no_affine = !k->bias);
    if (k->a == 1e-5) return cnn_instance_norm(x, .affine = k->bias);
    if (which == 0) return cnn_layer_norm(x, .axes = last[outer], .eps = eps, .no_affine = !k->bias);
    if (which == 1) return cnn_group_norm(x, groups, .eps = eps, .no_affine = !k->bias);
    return cnn_instance_norm(x, .eps = eps, .affine = k->bias);
}
static cnn_tensor *build_layer_norm(one *k)    { return build_sample_norm(k, 0); }
static cnn_tensor *build_rms_norm(one *k)      { return build_sample_norm(k, 3); }
static cnn_tensor *build_group_norm(one *k)    { return build_sample_norm(k, 1); }
static cnn_tensor *build_instance_norm(one *k) { return build_sample_norm(k, 2); }
static void ref_sample_norm(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->ys;
    int plane = s.h * s.w, m = s.c * plane / k->groups;
    for (int row = 0; row < s.n * k->groups; row++) {
        const double *x = v[0] + row * m;
        double mean = 0, var = 0;
        for (int i = 0; i < m && !k->ignore; i++) mean += x[i] / m;
        for (int i = 0; i < m; i++) var += (x[i] - mean) * (x[i] - mean) / m;
        for (int i = 0; i < m; i++) {
            int e = row % k->groups * m + i, p = k->axes ? i : e / plane;
            double z = (x[i] - mean) / sqrt(var + k->a);
            y[row * m + i] = k->bias ? z * v[1][p] + (k->ignore ? 0 : v[2][p]) : z;
        }
    }
}
#define ref_layer_norm    ref_sample_norm
#define ref_rms_norm      ref_sample_norm
#define ref_group_norm    ref_sample_norm
#define ref_instance_norm ref_sample_norm

static cnn_tensor *build_upsample(one *k)
{
    cnn_tensor *x = any(k);
    k->sh = test_int(1, 4), k->sw = test_chance(50) ? k->sh : test_int(1, 4), k->bias = test_chance(60);
    k->ys.h *= k->sh, k->ys.w *= k->sw, k->ceil_mode = k->bias && test_chance(40);
    const bool sized = test_chance(40);
    if (sized) k->ys.h = test_int(1, 9), k->ys.w = test_int(1, 20);
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " to %d,%d bilinear %d aligned %d", k->ys.h, k->ys.w,
             k->bias, k->ceil_mode);
    if (sized) return cnn_upsample(x, .height = k->ys.h, .width = k->ys.w, .bilinear = k->bias, .align_corners = k->ceil_mode);
    if (k->ceil_mode) return cnn_upsample(x, .scale_h = k->sh, .scale_w = k->sw, .bilinear = 1, .align_corners = 1);
    if (k->sh == k->sw) return cnn_upsample(x, k->sh, .bilinear = k->bias);
    return cnn_upsample(x, .scale_h = k->sh, .scale_w = k->sw, .bilinear = k->bias);
}
/* Bilinear from its other definition: each pixel of x spreads a hat of width 1 around its centre, the border pixels
   reach outwards without end. */
static double hat(const one *k, int to, int out, int i, int size)
{
    double at = k->ceil_mode ? (out > 1 ? to * (size - 1.0) / (out - 1) : 0) : (to + 0.5) * size / out - 0.5;
    at = fmin(fmax(at, 0), size - 1);
    return fmax(0, 1 - fabs(at - i));
}
static void ref_upsample(const one *k, double *const *v, double *y)
{
    cnn_shape o = k->ys, x = k->s[0];
    for (int p = 0; p < o.n * o.c; p++) for (int i = 0; i < o.h; i++) for (int j = 0; j < o.w; j++) {
        double s = 0;
        for (int a = 0; k->bias && a < x.h; a++) {
            const double tall = hat(k, i, o.h, a, x.h);
            for (int b = 0; tall > 0 && b < x.w; b++) s += v[0][(p * x.h + a) * x.w + b] * tall * hat(k, j, o.w, b, x.w);
        }
        y[(p * o.h + i) * o.w + j] = k->bias ? s : v[0][(p * x.h + i * x.h / o.h) * x.w + j * x.w / o.w];
    }
}

/* Left, right in pw, ew; top, bottom in ph, eh; front, back in dh, dw; the mode in k->kh. */
static cnn_tensor *build_pad(one *k)
{
    cnn_tensor *x = any(k);
    k->kh = test_chance(40) ? CNN_PAD_CONSTANT : test_int(1, 2);
    int most[3] = { 3, 3, 2 }, e[3] = { k->ys.w, k->ys.h, k->ys.c };
    for (int i = 0; i < 3; i++) if (k->kh == CNN_PAD_REFLECT && most[i] > e[i] - 1) most[i] = e[i] - 1;
    k->pw = test_int(0, most[0]), k->ew = test_int(0, most[0]), k->ph = test_int(0, most[1]), k->eh = test_int(0, most[1]),
    k->dh = test_int(0, most[2]), k->dw = test_int(0, most[2]), k->a = test_chance(50) ? 0 : test_uniform(-1, 1), k->a = (double)(float)k->a;
    k->ys.w += k->pw + k->ew, k->ys.h += k->ph + k->eh, k->ys.c += k->dh + k->dw;
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " pad %d,%d %d,%d %d,%d mode %d", k->pw, k->ew, k->ph, k->eh, k->dh,
             k->dw, k->kh);
    if (k->kh) return cnn_pad(x, k->pw, k->ew, k->ph, k->eh, k->dh, k->dw, .mode = k->kh);
    return cnn_pad(x, k->pw, k->ew, k->ph, k->eh, k->dh, k->dw, .value = (float)k->a);
}
/* numpy's pad: by walking back from the edge, one step at a time. */
static int pad_place(const one *k, int i, int size)
{
    int at = i < 0 ? 0 : i < size ? i : size - 1, steps = i < 0 ? -i : i < size ? 0 : i - size + 1;
    for (; k->kh == CNN_PAD_REFLECT && steps > 0; steps--) at += i < 0 ? 1 : -1;
    return at;
}
static void ref_pad(const one *k, double *const *v, double *y)
{
    cnn_shape o = k->ys, x = k->s[0];
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int h = 0; h < o.h; h++) for (int w = 0; w < o.w; w++) {
        int xc = c - k->dh, xh = h - k->ph, xw = w - k->pw;
        bool in = xc >= 0 && xc < x.c && xh >= 0 && xh < x.h && xw >= 0 && xw < x.w;
        y[at4(o, n, c, h, w)] = in ? v[0][at4(x, n, xc, xh, xw)] : k->kh == CNN_PAD_CONSTANT ? k->a
                              : v[0][at4(x, n, pad_place(k, xc, x.c), pad_place(k, xh, x.h), pad_place(k, xw, x.w))];
    }
}

/* What each axis of y was in x is in kh, kw, sh. */
static cnn_tensor *build_permute(one *k)
{
    cnn_tensor *x = any(k);
    static const int orders[6][3] = { { 1, 2, 3 }, { 1, 3, 2 }, { 2, 1, 3 }, { 2, 3, 1 }, { 3, 1, 2 }, { 3, 2, 1 } };
    const int *o = orders[test_int(0, 5)], e[4] = { 0, k->ys.c, k->ys.h, k->ys.w };
    k->kh = o[0], k->kw = o[1], k->sh = o[2];
    k->ys = shape4(k->ys.n, e[o[0]], e[o[1]], e[o[2]]);
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " axes %d%d%d", o[0], o[1], o[2]);
    if (test_chance(50) && o[0] == 1 && o[1] == 3) return cnn_transpose(x, CNN_H, CNN_W);
    if (test_chance(50) && o[0] == 3 && o[1] == 2) return cnn_transpose(x, CNN_W, CNN_C);
    return cnn_permute(x, 1u << o[0], 1u << o[1], 1u << o[2]);
}
static void ref_permute(const one *k, double *const *v, double *y)
{
    cnn_shape o = k->ys;
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int h = 0; h < o.h; h++) for (int w = 0; w < o.w; w++) {
        int i[4] = { n, 0, 0, 0 };
        i[k->kh] = c, i[k->kw] = h, i[k->sh] = w;
        y[at4(o, n, c, h, w)] = v[0][at4(k->s[0], i[0], i[1], i[2], i[3])];
    }
}

/* The block in k->kh; k->kw: space_to_depth. */
static cnn_tensor *build_block(one *k, bool deep)
{
    int r = test_int(1, 3), c = test_int(1, 4), h = test_int(1, 5), w = test_chance(20) ? test_int(9, 20) : test_int(1, 5), n = test_int(1, 3);
    const bool b = test_chance(80);
    k->kh = r, k->kw = deep;
    if (b) n = k->n;
    k->ys = deep ? shape4(n, c * r * r, h, w) : shape4(n, c, h * r, w * r);
    if (deep) h *= r, w *= r;
    else      c *= r * r;
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) block %d", n, c, h, w, r);
    cnn_tensor *x = b ? batched(k, c, h, w) : unbatched(k, n, c, h, w);
    return deep ? cnn_space_to_depth(x, r) : cnn_depth_to_space(x, .block = r);
}
static cnn_tensor *build_depth_to_space(one *k) { return build_block(k, false); }
static cnn_tensor *build_space_to_depth(one *k) { return build_block(k, true); }
static void ref_block(const one *k, double *const *v, double *y)
{
    cnn_shape x = k->s[0], flat = k->kw ? x : k->ys, deep = k->kw ? k->ys : x;
    const int r = k->kh;
    for (int n = 0; n < deep.n; n++) for (int c = 0; c < flat.c; c++) for (int i = 0; i < r; i++) for (int j = 0; j < r; j++)
        for (int h = 0; h < deep.h; h++) for (int w = 0; w < deep.w; w++) {
            const int a = at4(deep, n, (c * r + i) * r + j, h, w), f = at4(flat, n, c, h * r + i, w * r + j);
            if (k->kw) y[a] = v[0][f];
            else       y[f] = v[0][a];
        }
}
#define ref_depth_to_space ref_block
#define ref_space_to_depth ref_block

static cnn_tensor *build_channel_shuffle(one *k)
{
    int g = test_int(1, 4), c = g * test_int(1, 4), h = small(), w = small();
    k->groups = g, k->ys = shape4(k->n, c, h, w);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) groups %d", k->n, c, h, w, g);
    return cnn_channel_shuffle(batched(k, c, h, w), g);
}
static void ref_channel_shuffle(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->ys;
    for (int n = 0; n < s.n; n++) for (int g = 0; g < k->groups; g++) for (int i = 0; i < s.c / k->groups; i++)
        for (int p = 0; p < s.h * s.w; p++)
            y[(n * s.c + i * k->groups + g) * s.h * s.w + p] = v[0][(n * s.c + g * (s.c / k->groups) + i) * s.h * s.w + p];
}

static cnn_tensor *build_adaptive_avg_pool(one *k)
{
    int c = small(), h = test_int(1, 12), w = test_int(1, 12), oh = test_int(1, 7), ow = test_chance(40) ? oh : test_int(1, 14);
    k->ys = shape4(k->n, c, oh, ow);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d) to %d,%d", k->n, c, h, w, oh, ow);
    cnn_tensor *x = batched(k, c, h, w);
    return oh == ow ? cnn_adaptive_avg_pool(x, oh) : cnn_adaptive_avg_pool(x, oh, ow);
}
static void ref_adaptive_avg_pool(const one *k, double *const *v, double *y)
{
    cnn_shape o = k->ys, x = k->s[0];
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int i = 0; i < o.h; i++) for (int j = 0; j < o.w; j++) {
        double sum = 0, size = 0;
        for (int h = 0; h < x.h; h++) for (int w = 0; w < x.w; w++) {      /* pixels that overlap the bin's span in part */
            if ((h + 1) * o.h <= i * x.h || h * o.h >= (i + 1) * x.h) continue;
            if ((w + 1) * o.w <= j * x.w || w * o.w >= (j + 1) * x.w) continue;
            sum += v[0][at4(x, n, c, h, w)], size++;
        }
        y[at4(o, n, c, i, j)] = sum / size;
    }
}

/* axis in k->axes (0..3), first place in k->kh, step in k->sh. */
static cnn_tensor *build_slice(one *k)
{
    cnn_tensor *x = any(k);
    int *extent[4] = { &k->ys.n, &k->ys.c, &k->ys.h, &k->ys.w };
    k->axes = test_int(x->batched ? 1 : 0, 3), k->sh = test_chance(50) ? 1 : test_int(1, 4);
    int size = *extent[k->axes], from = test_int(0, size - 1), to = test_int(from + 1, size);
    k->kh = from;
    *extent[k->axes] = (to - from + k->sh - 1) / k->sh;
    if (test_chance(30)) from -= size;
    const bool to_the_end = to == size && test_chance(50);
    if (to_the_end) to = 0;
    else if (to < size && test_chance(30)) to -= size;
    snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " axis %d from %d to %d step %d", k->axes, from, to, k->sh);
    if (to_the_end) return cnn_slice(x, 1u << k->axes, from, .step = k->sh);
    if (k->sh == 1) return cnn_slice(x, 1u << k->axes, from, to);
    return cnn_slice(x, 1u << k->axes, from, to, .step = k->sh);
}
static void ref_slice(const one *k, double *const *v, double *y)
{
    cnn_shape o = k->ys, x = k->s[0];
    int step[4] = { 1, 1, 1, 1 }, first[4] = { 0 };
    step[k->axes] = k->sh, first[k->axes] = k->kh;
    for (int n = 0; n < o.n; n++) for (int c = 0; c < o.c; c++) for (int h = 0; h < o.h; h++) for (int w = 0; w < o.w; w++)
        y[at4(o, n, c, h, w)] = v[0][at4(x, first[0] + n * step[0], first[1] + c * step[1], first[2] + h * step[2], first[3] + w * step[3])];
}

static cnn_tensor *build_global_max_pool(one *k)
{
    int c = small(), h = test_int(1, 9), w = test_int(1, 9);
    k->gap = 0.05;
    k->ys = shape4(k->n, c, 1, 1);
    snprintf(k->text, sizeof k->text, "x (%d,%d,%d,%d)", k->n, c, h, w);
    return cnn_global_max_pool(batched(k, c, h, w));
}
static void ref_global_max_pool(const one *k, double *const *v, double *y)
{
    int plane = k->s[0].h * k->s[0].w;
    for (int i = 0; i < k->ys.n * k->ys.c; i++) {
        y[i] = -INFINITY;
        for (int j = 0; j < plane; j++) y[i] = fmax(y[i], v[0][i * plane + j]);
    }
}

/* Functions of one number: reference as a formula in x. Values with a gap lie on odd multiples of half of it. */
#define EACH(name, formula)                                                                          \
    static void ref_##name(const one *k, double *const *v, double *y)                                \
    {                                                                                                \
        for (int i = 0; i < count4(k->ys); i++) { double x = v[0][i]; y[i] = (formula); }            \
    }
static cnn_tensor *build_clamp(one *k)
{
    cnn_tensor *x = any(k);
    k->gap = test_chance(50) ? 0.25 : 0.5;
    bool six = test_chance(30);
    k->a = six ? 0 : k->gap * test_int(-8, 4), k->b = six ? 6 : k->a + k->gap * test_int(1, 12);
    return six ? cnn_relu6(x) : cnn_clamp(x, (float)k->a, (float)k->b);
}
EACH(clamp, fmin(fmax(x, k->a), k->b))
static cnn_tensor *build_elu(one *k)
{
    cnn_tensor *x = any(k);
    k->gap = test_chance(50) ? 0.05 : 0.5, k->a = test_chance(30) ? 1 : (double)(float)test_uniform(0.1, 2);
    return k->a == 1 ? cnn_elu(x) : cnn_elu(x, (float)k->a);
}
EACH(elu, x > 0 ? x : k->a * expm1(x))
static cnn_tensor *build_gelu(one *k)
{
    k->gap = test_chance(50) ? 0.1 : 0, k->bias = test_chance(50);
    cnn_tensor *x = any(k);
    return k->bias ? cnn_gelu(x, .tanh = 1) : cnn_gelu(x);
}
EACH(gelu, 0.5 * x * (1 + (k->bias ? tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)) : erf(x / sqrt(2)))))
static cnn_tensor *build_silu(one *k) { k->gap = test_chance(50) ? 0.1 : 0; return cnn_silu(any(k)); }
EACH(silu, x / (1 + exp(-x)))
static cnn_tensor *build_selu(one *k) { k->gap = test_chance(50) ? 0.05 : 0.5; return cnn_selu(any(k)); }
EACH(selu, 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * expm1(x)))
static cnn_tensor *build_mish(one *k) { k->gap = test_chance(50) ? 0.1 : 0; return cnn_mish(any(k)); }
EACH(mish, x * tanh(log1p(exp(x))))
static cnn_tensor *build_hard_sigmoid(one *k) { k->gap = test_chance(50) ? 0.5 : 0.05; return cnn_hard_sigmoid(any(k)); }
EACH(hard_sigmoid, fmin(fmax(x + 3, 0), 6) / 6)
static cnn_tensor *build_softsign(one *k) { k->gap = test_chance(50) ? 0.5 : 0.05; return cnn_softsign(any(k)); }
EACH(softsign, x / (1 + fabs(x)))
/* A low threshold makes y jump: at an even multiple of half the gap, which no x is near. */
static cnn_tensor *build_softplus(one *k)
{
    cnn_tensor *x = any(k);
    const bool jump = test_chance(30), own = jump || test_chance(50);
    k->gap = jump || test_chance(50) ? 0.1 : 0;
    k->a = own ? (double)(float)test_uniform(0.3, 3) : 1, k->b = jump ? k->a * 0.1 * test_int(1, 8) : 20;
    return jump ? cnn_softplus(x, (float)k->a, (float)k->b) : own ? cnn_softplus(x, .beta = (float)k->a) : cnn_softplus(x);
}
EACH(softplus, k->a * x > k->b ? x : log1p(exp(k->a * x)) / k->a)
static cnn_tensor *build_hard_swish(one *k) { k->gap = test_chance(50) ? 0.5 : 0.05; return cnn_hard_swish(any(k)); }
EACH(hard_swish, x * fmin(fmax(x + 3, 0), 6) / 6)
static cnn_tensor *build_exp(one *k) { k->gap = test_chance(50) ? 0.01 : 0; return cnn_exp(any(k)); }
EACH(exp, exp(x))
static cnn_tensor *build_log(one *k) { k->shift = 1.5; return cnn_log(any(k)); }
EACH(log, log(x))
static cnn_tensor *build_sqrt(one *k) { k->shift = 1.5; return cnn_sqrt(any(k)); }
EACH(sqrt, sqrt(x))
static cnn_tensor *build_abs(one *k) { k->gap = 0.05; return cnn_abs(any(k)); }
EACH(abs, fabs(x))
static cnn_tensor *build_erf(one *k) { k->gap = test_chance(50) ? 0.1 : 0; return cnn_erf(any(k)); }
EACH(erf, erf(x))
/* Whole exponents of numbers of both signs, others of positive ones. */
static cnn_tensor *build_power(one *k)
{
    cnn_tensor *x = any(k);
    const bool whole = test_chance(50);
    k->shift = whole ? 0 : 1.5, k->gap = whole ? 0.1 : 0;
    k->a = whole ? test_int(0, 3) : (double)(float)test_uniform(-2, 3);
    return cnn_power(x, (float)k->a);
}
EACH(power, pow(x, k->a))

static cnn_tensor *build_prelu(one *k)
{
    cnn_tensor *x = any(k);
    k->gap = 0.01, k->groups = test_chance(50) ? 1 : k->ys.c;
    if (test_chance(50)) return cnn_prelu(x, .per_channel = k->groups > 1);
    return cnn_prelu(x, .weight = unbatched(k, 1, k->groups, 1, 1));
}
static void ref_prelu(const one *k, double *const *v, double *y)
{
    for (int i = 0; i < count4(k->ys); i++) {
        int c = i / (k->ys.h * k->ys.w) % k->ys.c;
        y[i] = v[0][i] > 0 ? v[0][i] : v[1][k->groups > 1 ? c : 0] * v[0][i];
    }
}

static cnn_tensor *build_nll(one *k)
{
    int c = test_int(2, 12), h = test_chance(60) ? 1 : test_int(1, 4), w = test_chance(60) ? 1 : test_int(1, 4);
    k->classes = c, k->bias = test_chance(40), k->ignore = test_chance(60) ? -2 : test_chance(50) ? -100 : test_int(0, c - 1);
    snprintf(k->text, sizeof k->text, "log p (%d,%d,%d,%d) ignore %d weights %d", k->n, c, h, w, k->ignore, k->bias);
    return cnn_nll(batched(k, c, h, w), cnn_labels(k->g, h, w), .ignore_index = k->ignore,
                   .class_weights = k->bias ? class_weights(k, c) : NULL, .reduction = draw_reduction(k, shape4(k->n, 1, h, w)));
}
static void ref_nll(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->s[0];
    const double count = label_count(k, v);
    int row = 0;
    for (int n = 0; n < s.n; n++) for (int h = 0; h < s.h; h++) for (int w = 0; w < s.w; w++) {
        int label = (int)v[1][at4(k->s[1], n, 0, h, w)];
        const bool out = label == k->ignore;
        reduced(k, y, row++, out ? 0 : -(k->bias ? v[2][label] : 1) * v[0][at4(s, n, label, h, w)], count);
    }
}

/* l1: outputs at least 1.25 from zero, targets within 1 of it. */
static cnn_tensor *build_pair_loss(one *k, char which)
{
    cnn_tensor *x = any(k);
    cnn_shape s = k->ys;
    draw_reduction(k, k->ys);
    k->unit = which == 'f';
    k->gap = which == 'l' ? 2.5 : test_chance(50) ? 0.1 : 0;
    k->a = test_chance(30) ? 1 : (double)(float)test_uniform(0.3, 2);
    cnn_tensor *t = which != 'l' && which != 'f' && test_chance(10) ? x : x->batched ? batched(k, s.c, s.h, s.w) : unbatched(k, s.n, s.c, s.h, s.w);
    const int how = k->reduction;
    if (which == 'l') return cnn_l1(x, t, .reduction = how);
    if (which == 'f') {
        k->bias = test_chance(30), k->a = test_chance(30) ? -1 : test_chance(30) ? 0.25 : test_uniform(0, 1);
        k->b = test_chance(30) ? 2 : test_uniform(0, 3), k->a = (double)(float)k->a, k->b = (double)(float)k->b;
        if (k->a == 0.25 && k->b == 2) return cnn_sigmoid_focal(x, t, .reduction = how);
        return cnn_sigmoid_focal(x, t, (float)k->a, (float)k->b, how);
    }
    if (which == 'b') {
        k->bias = test_chance(40), k->ceil_mode = test_chance(40), k->classes = s.c;
        snprintf(k->text + strlen(k->text), sizeof k->text - strlen(k->text), " pos_weight %d weight %d", k->bias, k->ceil_mode);
        return cnn_bce_with_logits(x, t, .pos_weight = k->bias ? class_weights(k, s.c) : NULL,
                                   .weight = k->ceil_mode ? class_weights(k, s.c) : NULL, .reduction = how);
    }
    k->bias = test_chance(40);
    if (k->bias) return k->a == 1 ? cnn_smooth_l1(x, t, .reduction = how) : cnn_smooth_l1(x, t, (float)k->a, .reduction = how);
    return k->a == 1 ? cnn_huber(x, t, .reduction = how) : cnn_huber(x, t, (float)k->a, .reduction = how);
}
static void ref_pair_loss(const one *k, double *const *v, double *y, char which)
{
    for (int i = 0, m = count4(k->s[0]); i < m; i++) {
        double x = v[0][i], t = v[1][i], d = fabs(x - t), f = d, truth = t / (1 + exp(-x)) + (1 - t) / (1 + exp(x));
        int    c = i / (k->s[0].h * k->s[0].w) % k->s[0].c;
        if (which == 'b') f = (k->bias || k->ceil_mode ? v[2][c] : 1) * t * log1p(exp(-x)) + (1 - t) * log1p(exp(x));
        if (which == 'b' && k->ceil_mode) f *= v[3][c];
        if (which == 'h') f = (d <= k->a ? d * d / 2 : k->a * (d - k->a / 2)) / (k->bias ? k->a : 1);
        if (which == 'f') f = (t * log1p(exp(-x)) + (1 - t) * log1p(exp(x))) * pow(1 - truth, k->b)
                              * (k->a < 0 ? 1 : t * k->a + (1 - t) * (1 - k->a));
        reduced(k, y, i, f, m);
    }
}
static cnn_tensor *build_sigmoid_focal(one *k)   { return build_pair_loss(k, 'f'); }
static void ref_sigmoid_focal(const one *k, double *const *v, double *y) { ref_pair_loss(k, v, y, 'f'); }

/* Of masks, or of labels, of which some are ignored. */
static cnn_tensor *build_dice(one *k)
{
    int c = test_int(2, 5), h = test_int(1, 5), w = test_int(1, 5);
    bool labels = test_chance(50);
    k->unit = true, k->shift = 1.05, k->classes = c, k->ignore = labels && test_chance(40) ? test_int(0, c - 1) : labels && test_chance(40) ? 255 : -2;
    k->a = test_chance(50) ? 1e-5 : test_uniform(0.1, 2);
    snprintf(k->text, sizeof k->text, "p (%d,%d,%d,%d) labels %d ignore %d smooth %g", k->n, c, h, w, labels, k->ignore, k->a);
    const int how = draw_reduction(k, shape4(k->n, c, 1, 1));
    cnn_tensor *p = batched(k, c, h, w), *t = labels ? cnn_labels(k->g, h, w) : batched(k, c, h, w);
    if (k->a == 1e-5) return cnn_dice(p, t, .ignore_index = k->ignore, .reduction = how);
    return cnn_dice(p, t, (float)k->a, .ignore_index = k->ignore, .reduction = how);
}
static void ref_dice(const one *k, double *const *v, double *y)
{
    cnn_shape s = k->s[0];
    int plane = s.h * s.w;
    for (int i = 0; i < s.n * s.c; i++) {
        double both = 0, sum = 0;
        for (int j = 0; j < plane; j++) {
            double p = v[0][i * plane + j], t = k->s[1].c == s.c ? v[1][i * plane + j] : v[1][i / s.c * plane + j] == i % s.c;
            if (v[1][i / s.c * plane + j] == k->ignore) continue;
            both += p * t, sum += p + t;
        }
        reduced(k, y, i, 1 - (2 * both + k->a) / (sum + k->a), s.n * s.c);
    }
}
static cnn_tensor *build_l1(one *k)              { return build_pair_loss(k, 'l'); }
static cnn_tensor *build_huber(one *k)           { return build_pair_loss(k, 'h'); }
static cnn_tensor *build_bce_with_logits(one *k) { return build_pair_loss(k, 'b'); }
static void ref_l1(const one *k, double *const *v, double *y)              { ref_pair_loss(k, v, y, 'l'); }
static void ref_huber(const one *k, double *const *v, double *y)           { ref_pair_loss(k, v, y, 'h'); }
static void ref_bce_with_logits(const one *k, double *const *v, double *y) { ref_pair_loss(k, v, y, 'b'); }

#define ROOMS_MORE                                                                                                       \
    ROOM(conv_transpose2d, 200, 1e-4), ROOM(lrn, 80, 1e-5), ROOM(layer_norm, 90, 2e-4), ROOM(rms_norm, 60, 2e-4), ROOM(group_norm, 60, 2e-4),      \
    ROOM(instance_norm, 60, 2e-4), ROOM(upsample, 80, 1e-5), ROOM(pad, 120, 1e-6), ROOM(slice, 80, 1e-6), ROOM(permute, 80, 1e-6), ROOM(depth_to_space, 60, 1e-6), \
    ROOM(space_to_depth, 60, 1e-6), ROOM(channel_shuffle, 40, 1e-6), ROOM(adaptive_avg_pool, 80, 1e-5),                 \
    ROOM(global_max_pool, 40, 1e-6), ROOM(clamp, 40, 1e-6), ROOM(elu, 40, 1e-5), ROOM(gelu, 40, 1e-5), ROOM(silu, 40, 1e-5), \
    ROOM(selu, 40, 1e-5), ROOM(mish, 40, 1e-5), ROOM(hard_sigmoid, 40, 1e-5), ROOM(softsign, 40, 1e-5), ROOM(erf, 40, 1e-5), \
    ROOM(power, 60, 1e-5), \
    ROOM(softplus, 40, 1e-5), ROOM(hard_swish, 40, 1e-5), ROOM(exp, 40, 1e-5), ROOM(log, 40, 1e-5), ROOM(sqrt, 40, 1e-5), \
    ROOM(abs, 40, 1e-6), ROOM(prelu, 60, 1e-4), ROOM(log_softmax, 60, 1e-5), ROOM(nll, 60, 2e-5), ROOM(l1, 40, 2e-5), ROOM(huber, 40, 2e-5),  \
    ROOM(bce_with_logits, 80, 2e-5), ROOM(sigmoid_focal, 80, 2e-5), ROOM(dice, 80, 2e-5),
