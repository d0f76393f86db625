/* test_backend.c - a backend and rows as a third party writes them: this file includes cnn.h WITHOUT its
   implementation (tests/cnn.c holds that), so what it uses is the public interface.

   The device's memory is malloc'd, so that a host pointer taken for a device's shows at once; its rows compute
   conv2d (groups 1, dilation 1) and relu in plain loops, and it updates by SGD with momentum. LeNet-5 trains on it
   beside the CPU. Then the same loops as rows on the CPU, with cnn_new(.rows = ...). */
#include "cnn.h"
#include "test.h"

/* ---- The loops: plain pointers ---- */

typedef struct { int n, ic, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw; } window;
static window window_of(const cnn_tensor *y)
{
    const cnn_conv2d_args *a = y->args;
    const cnn_shape        x = y->in[0]->shape;
    return (window){ x.n, x.c, x.h, x.w, y->shape.c, y->shape.h, y->shape.w, a->kernel_h, a->kernel_w, a->stride_h,
                     a->stride_w, a->pad_h, a->pad_w };
}
static bool is_simple(const cnn_backend *b, const cnn_tensor *y)
{
    const cnn_conv2d_args *a = y->args;
    (void)b;
    return a->groups == 1 && a->dilation_h == 1 && a->dilation_w == 1;
}
#define EACH_TERM(v, ...)                                                                                              \
    for (int n = 0; n < v.n; n++) for (int o = 0; o < v.oc; o++) for (int i = 0; i < v.oh; i++)                        \
    for (int j = 0; j < v.ow; j++) for (int c = 0; c < v.ic; c++) for (int k = 0; k < v.kh; k++)                       \
    for (int l = 0; l < v.kw; l++) {                                                                                   \
        const int r = i * v.sh - v.ph + k, s = j * v.sw - v.pw + l;                                                    \
        if (r < 0 || r >= v.h || s < 0 || s >= v.w) continue;                                                          \
        const int at_y = ((n * v.oc + o) * v.oh + i) * v.ow + j, at_x = ((n * v.ic + c) * v.h + r) * v.w + s;          \
        const int at_w = ((o * v.ic + c) * v.kh + k) * v.kw + l;                                                       \
        __VA_ARGS__;                                                                                                   \
    }
static void conv_forward(const window v, float *y, const float *x, const float *w, const float *b)
{
    const int plane = v.oh * v.ow;
    for (int i = 0; i < v.n * v.oc * plane; i++) y[i] = b ? b[i / plane % v.oc] : 0.0f;
    EACH_TERM(v, y[at_y] += w[at_w] * x[at_x])
}
static void conv_backward(const window v, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w)
{
    const int plane = v.oh * v.ow;
    if (dx) EACH_TERM(v, dx[at_x] += w[at_w] * dy[at_y])
    if (dw) EACH_TERM(v, dw[at_w] += x[at_x] * dy[at_y])
    for (int i = 0; db && i < v.n * v.oc * plane; i++) db[i / plane % v.oc] += dy[i];
}
static void relu_forward(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0.0f;
}
static void relu_backward(float *dx, const float *dy, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) dx[i] += y[i] > 0 ? dy[i] : 0.0f;
}

/* ---- The device ---- */

static int updates, calls;
static void *dev_alloc(cnn_backend *b, size_t bytes) { (void)b; return malloc(bytes); }
static void dev_release(cnn_backend *b, void *buffer) { (void)b; free(buffer); }
static bool dev_upload(cnn_backend *b, void *buffer, size_t at, const void *from, size_t bytes)
{
    (void)b, memcpy((char *)buffer + at, from, bytes);
    return true;
}
static bool dev_download(cnn_backend *b, void *buffer, size_t at, void *to, size_t bytes)
{
    (void)b, memcpy(to, (char *)buffer + at, bytes);
    return true;
}
static bool dev_clear(cnn_backend *b, void *buffer, size_t at, size_t bytes)
{
    (void)b, memset((char *)buffer + at, 0, bytes);
    return true;
}
static float *at(cnn_place p) { return (float *)p.buffer + p.at; }
static float *grad_at(const cnn_tensor *t) { return t && t->needs_grad ? at(cnn_place_grad(t)) : NULL; }

static bool dev_conv_forward(cnn_backend *b, cnn_tensor *y, cnn_mode mode)
{
    (void)b, (void)mode, calls++;
    conv_forward(window_of(y), at(cnn_place_data(y)), at(cnn_place_data(y->in[0])), at(cnn_place_data(y->in[1])),
                 y->n_in > 2 ? at(cnn_place_data(y->in[2])) : NULL);
    return true;
}
static bool dev_conv_backward(cnn_backend *b, cnn_tensor *y)
{
    (void)b, calls++;
    conv_backward(window_of(y), grad_at(y->in[0]), grad_at(y->in[1]), grad_at(y->n_in > 2 ? y->in[2] : NULL),
                  at(cnn_place_grad(y)), at(cnn_place_data(y->in[0])), at(cnn_place_data(y->in[1])));
    return true;
}
/* Runs of relu that the convolution before it could have done as well. */
static int in_place;
static bool dev_relu_forward(cnn_backend *b, cnn_tensor *y, cnn_mode mode)
{
    (void)b, (void)mode, calls++;
    in_place += cnn_next_in_place(y->in[0]) == y;
    relu_forward(at(cnn_place_data(y)), at(cnn_place_data(y->in[0])), cnn_count(y));
    return true;
}
static bool dev_relu_backward(cnn_backend *b, cnn_tensor *y)
{
    (void)b, calls++;
    relu_backward(grad_at(y->in[0]), at(cnn_place_grad(y)), at(cnn_place_data(y)), cnn_count(y));
    return true;
}
static bool dev_update(cnn_backend *b, const cnn_optimizer *rule, cnn_place w, cnn_place dw, cnn_place slots, size_t n,
                       size_t slot_stride, const cnn_step_args *a, long step)
{
    (void)b, (void)slot_stride, (void)step;
    if (rule != cnn_sgd() || a->nesterov || a->dampening != 0) return false;            /* the CPU does it */
    for (size_t i = 0; i < n; i++) {
        const float d = at(dw)[i] + a->weight_decay * at(w)[i];
        at(slots)[i] = a->momentum * at(slots)[i] + d;
        at(w)[i] -= a->lr * at(slots)[i];
    }
    updates++;
    return true;
}
static const cnn_kernel device_rows[] = {
    { &cnn_op_conv2d, is_simple, dev_conv_forward, dev_conv_backward },
    { &cnn_op_relu, NULL, dev_relu_forward, dev_relu_backward } };
static cnn_backend device(void)
{
    return (cnn_backend){ .name = "third party", .alloc = dev_alloc, .release = dev_release, .upload = dev_upload,
                          .download = dev_download, .clear = dev_clear, .update = dev_update, .kernels = device_rows,
                          .n_kernels = 2 };
}

/* ---- The same loops as rows on the CPU: no memory, no copies ---- */

static bool my_conv_forward(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    (void)mode, calls++;
    if (none) return false;
    conv_forward(window_of(y), y->data, y->in[0]->data, y->in[1]->data, y->n_in > 2 ? y->in[2]->data : NULL);
    return true;
}
static bool my_conv_backward(cnn_backend *none, cnn_tensor *y)
{
    (void)none, calls++;
    conv_backward(window_of(y), y->in[0]->grad, y->in[1]->grad, y->n_in > 2 ? y->in[2]->grad : NULL, y->grad,
                  y->in[0]->data, y->in[1]->data);
    return true;
}
static bool my_relu_backward(cnn_backend *none, cnn_tensor *y)
{
    (void)none, calls++;
    relu_backward(y->in[0]->grad, y->grad, y->data, cnn_count(y));
    return true;
}
static bool my_max_pool_backward(cnn_backend *none, cnn_tensor *y)              /* kernel 2, stride 2, no padding */
{
    const cnn_shape s = y->shape, x = y->in[0]->shape;
    (void)none, calls++;
    for (int i = 0; y->in[0]->grad && i < s.n * s.c * s.h * s.w; i++) {
        const int plane = i / (s.h * s.w), first = plane * x.h * x.w + i / s.w % s.h * 2 * x.w + i % s.w * 2;
        int       best = first;
        for (int k = 1; k < 4; k++)
            if (y->in[0]->data[first + k / 2 * x.w + k % 2] > y->in[0]->data[best]) best = first + k / 2 * x.w + k % 2;
        y->in[0]->grad[best] += y->grad[i];
    }
    return true;
}
static bool refuse(cnn_backend *none, cnn_tensor *y, cnn_mode mode)
{
    (void)none, (void)y, (void)mode;
    return false;
}

/* ---- LeNet-5 with relu, 20 steps ---- */

typedef struct { float loss[20]; size_t n; float *w; cnn_traffic copies; } run;
static run train(cnn_backend *b, const cnn_kernel *rows)
{
    run         r = { .n = 0 };
    cnn_graph  *g = cnn_new(.max_batch = 8, .seed = 5, .backend = b, .rows = rows);
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *h = x;
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 6, 5, .pad = 2)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 120)), 84)), 10);
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g));
    float pixels[8 * 784];
    int   labels[8];
    test__state = 99;
    for (int step = 0; step < 20 && !cnn_error(g); step++) {
        test_fill(pixels, 8 * 784, -1, 1);
        for (int i = 0; i < 8; i++) labels[i] = (i + step) % 10;
        cnn_set(x, pixels, 8 * 784), cnn_set_labels(t, labels, 8);
        r.loss[step] = cnn_forward(loss, CNN_TRAIN);
        cnn_backward(loss);
        cnn_step(g, .lr = 0.05f, .momentum = 0.9f);
    }
    r.copies = cnn_copies(g);
    const float *w = cnn_flat_params(g, &r.n);
    CHECK_STR(cnn_error(g), NULL);
    r.w = test_alloc(r.n * sizeof *w);
    if (w) memcpy(r.w, w, r.n * sizeof *w);
    cnn_free(g);
    return r;
}

static void same(const run *a, const run *b)
{
    double most = 0;
    CHECK(a->n == b->n);
    for (int i = 0; i < 20; i++) CHECK_NEAR(a->loss[i], b->loss[i], 1e-4);
    for (size_t i = 0; i < a->n; i++) most = fmax(most, fabs((double)a->w[i] - (double)b->w[i]));
    CHECK_MSG(most < 1e-3, "weights differ by %g", most);
}

static void lenet_on_a_third_partys_device(void)
{
    run         cpu = train(NULL, NULL);
    cnn_backend b = device();
    updates = calls = 0;
    run dev = train(&b, NULL);
    same(&cpu, &dev);
    CHECK_INT(in_place, 20 * 2);                                 /* not behind dense layers, which run on the CPU */
    CHECK_INT(updates, 20);                                      /* parameters stay on the device */
    CHECK_INT(calls, 20 * 2 * 6);                                /* two convolutions and four relus, both ways */
    CHECK(cpu.copies.uploads == 0 && dev.copies.uploads > 0);
    free(cpu.w), free(dev.w);
}

/* ---- A device whose call number `fuse` fails: a message, never a crash, and the net comes home if it can ---- */

static long fuse;
static bool works(cnn_backend *b)
{
    if (--fuse == 0) strcpy(b->error, "the fuse has blown");
    return fuse != 0;
}
static void *weak_alloc(cnn_backend *b, size_t bytes) { return works(b) ? dev_alloc(b, bytes) : NULL; }
static bool weak_upload(cnn_backend *b, void *to, size_t at_byte, const void *from, size_t n)
{
    return works(b) && dev_upload(b, to, at_byte, from, n);
}
static bool weak_download(cnn_backend *b, void *from, size_t at_byte, void *to, size_t n)
{
    return works(b) && dev_download(b, from, at_byte, to, n);
}
static bool weak_clear(cnn_backend *b, void *buffer, size_t at_byte, size_t n) { return works(b) && dev_clear(b, buffer, at_byte, n); }
static bool weak_forward(cnn_backend *b, cnn_tensor *y, cnn_mode mode) { return works(b) && dev_relu_forward(b, y, mode); }
static bool weak_backward(cnn_backend *b, cnn_tensor *y) { return works(b) && dev_relu_backward(b, y); }
static bool weak_squares(cnn_backend *b, cnn_place x, size_t n, bool anew, double *sum)
{
    static double so_far;
    if (anew) so_far = 0;
    for (size_t i = 0; i < n; i++) so_far += (double)at(x)[i] * (double)at(x)[i];
    if (sum) *sum = so_far;
    return works(b);
}
static bool weak_scale(cnn_backend *b, cnn_place x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++) at(x)[i] *= factor;
    return works(b);
}
static bool weak_mix(cnn_backend *b, cnn_place average, cnn_place w, size_t n, float share)
{
    for (size_t i = 0; i < n; i++) at(average)[i] += share * (at(w)[i] - at(average)[i]);
    return works(b);
}

static void a_device_that_fails(void)
{
    static const cnn_kernel rows[] = { { &cnn_op_relu, NULL, weak_forward, weak_backward } };
    static const float         points[16] = { 1, -1, 2, -2, 0.5f, 3, 0, 1, 2, 1 };
    static const unsigned char kinds[4] = { 0, 2, 1, 1 };
    FILE       *f = tmpfile();
    cnn_dataset data = cnn_floats(points, kinds, 4, 4, 1, 1);
    bool        whole = false;
    for (long k = 1; k < 4000 && !whole; k++) {
        cnn_backend b = device();
        b.alloc = weak_alloc, b.upload = weak_upload, b.download = weak_download, b.clear = weak_clear;
        b.squares = weak_squares, b.scale = weak_scale, b.mix = weak_mix, b.kernels = rows, b.n_kernels = 1;
        fuse = k;
        cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 5, .backend = &b);
        cnn_tensor *x = cnn_input(g, 4), *t = cnn_labels(g), *h = cnn_dropout(cnn_relu(cnn_dense(x, 6)), 0.3f);
        cnn_tensor *loss = cnn_softmax_cross_entropy(cnn_dense(cnn_relu(cnn_batch_norm(cnn_dense(h, 5))), 3), t);
        const int   labels[2] = { 0, 2 };
        float       v[8] = { 1, -1, 2, -2, 0.5f, 3, 0, 1 }, out[6];
        int         matrix[9];
        char        text[300];
        if (cnn_compile(g, loss)) {
            cnn_set(x, v, 8), cnn_set_labels(t, labels, 2), cnn_trace(loss, 1, f), cnn_summary(g, f), cnn_dot(g, f);
            cnn_doctor(g, 1), cnn_checkup(loss, text, sizeof text), cnn_profile(loss, 1, f);
            for (int i = 0; i < 2; i++) {
                cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_clip_grads(g, 0.01f);
                cnn_step(g, .lr = 0.1f, .momentum = 0.9f), cnn_average(g, 0.9f);
            }
            cnn_swap_average(g), cnn_gradient_check(loss, 1), cnn_correct(loss->in[0], t), cnn_get(loss->in[0], out, 6);
            cnn_set_lr_scale(g, "dense1.*", 0), cnn_clip_grads(g, 1), cnn_save_checkpoint_memory(g, NULL, 0);
            cnn_evaluate(loss, loss->in[0], &data), cnn_evaluate_flipped(loss, loss->in[0], &data);
            cnn_confusion(loss->in[0], &data, matrix), cnn_top_k(loss->in[0], &data, 2);
            cnn_fit(loss, loss->in[0], &data, .lr = 0.1f, .epochs = 2, .validation = &data, .patience = 2, .average = 0.5f,
                    .clip = 0.1f, .accumulate = 2, .history = NULL);
        }
        const char *why = cnn_error(g);
        whole = fuse > 0;
        CHECK_MSG(whole ? !why : why && strstr(why, "fuse"), "call %ld: %s", k, why ? why : "no error");
        const bool home = cnn_leave_device(g);
        if (home) CHECK(cnn_set(x, v, 8) && cnn_set_labels(t, labels, 2) && isfinite(cnn_forward(loss, CNN_EVAL)));
        cnn_free(g);
    }
    CHECK(whole);
    if (f) fclose(f);
    cnn_dataset_free(&data);
}

/* ---- A device that is closed belongs to one graph at a time ---- */

static int closed;
static void dev_close(cnn_backend *b) { (void)b, closed++; }

static void a_device_for_two_graphs(void)
{
    cnn_backend b = device();
    b.close = dev_close, closed = 0;
    for (int i = 0; i < 2; i++) {
        cnn_graph *g = cnn_new(.backend = &b), *other = cnn_new(.backend = &b);
        CHECK_STR(cnn_error(g), NULL);
        CHECK_STR(test_words(cnn_error(other)), "cnn_new: the backend belongs to another graph");
        cnn_free(other);
        CHECK_INT(closed, i);
        cnn_free(g);
        CHECK_INT(closed, i + 1);
    }
}

/* ---- A device that is not all there: half a row, a function that is missing, a failure without a word ---- */

static bool mute_forward(cnn_backend *b, cnn_tensor *y, cnn_mode mode) { return (void)b, (void)y, (void)mode, false; }

static void devices_that_are_not_whole(void)
{
    static const cnn_kernel halves[][2] = {              /* what a row leaves out is done on the CPU */
        { { &cnn_op_conv2d, is_simple, dev_conv_forward, NULL }, { &cnn_op_relu, NULL, NULL, dev_relu_backward } },
        { { &cnn_op_conv2d, is_simple, NULL, dev_conv_backward }, { &cnn_op_relu, NULL, dev_relu_forward, NULL } },
        { { &cnn_op_conv2d, NULL, NULL, NULL }, { NULL, NULL, NULL, NULL } } };
    run cpu = train(NULL, NULL);
    for (int i = 0; i < 4; i++) {
        cnn_backend b = device();
        b.kernels = i < 3 ? halves[i] : NULL;
        run dev = train(&b, NULL);
        same(&cpu, &dev);
        free(dev.w);
    }
    free(cpu.w);

    for (int i = 0; i < 7; i++) {
        static const cnn_kernel mute[] = { { &cnn_op_relu, NULL, mute_forward, NULL } };
        cnn_backend b = device();
        switch (i) {
        case 0: b.name = NULL; break;
        case 1: b.alloc = NULL; break;
        case 2: b.release = NULL; break;
        case 3: b.upload = NULL; break;
        case 4: b.download = NULL; break;
        case 5: b.clear = NULL; break;
        case 6: b.kernels = mute, b.n_kernels = 1; break;
        }
        cnn_graph  *g = cnn_new(.backend = &b);
        cnn_tensor *x = cnn_input(g, 1, 4, 4), *h = cnn_dense(cnn_max_pool(cnn_relu(cnn_conv2d(x, 2, 1)), 2), 1);
        cnn_tensor *loss = cnn_mean(h);
        const float v[16] = { 1 };
        CHECK(cnn_compile(g, loss) == (i == 6));
        cnn_set(x, v, 16), cnn_forward(loss, CNN_TRAIN);
        CHECK_STR(test_words(cnn_error(g)), i < 6 ? "cnn_new: a backend has a name, alloc, release, upload, download and "
                  "clear: one of these is NULL" : "relu \"relu1\": the device failed and does not say why");
        CHECK(cnn_leave_device(g) == (i == 6));          /* the weights are whole */
        if (i == 6) CHECK(cnn_set(x, v, 16) && isfinite(cnn_forward(loss, CNN_TRAIN)));
        cnn_free(g);
    }
}

static void rows_on_the_cpu(void)
{
    static const cnn_kernel mine[] = { { &cnn_op_conv2d, is_simple, my_conv_forward, my_conv_backward },
                                       { &cnn_op_relu, NULL, NULL, my_relu_backward },
                                       { &cnn_op_max_pool, NULL, NULL, my_max_pool_backward }, { 0 } };
    run cpu = train(NULL, NULL);
    calls = 0;
    run own = train(NULL, mine);
    same(&cpu, &own);
    CHECK_INT(calls, 20 * (2 * 2 + 4 + 2));
    CHECK(own.copies.uploads == 0);
    free(cpu.w), free(own.w);

    static const cnn_kernel bad[] = { { &cnn_op_relu, NULL, refuse, NULL }, { 0 } };
    cnn_graph  *g = cnn_new(.inference = 1, .rows = bad);
    cnn_tensor *x = cnn_input(g, 3), *y = cnn_relu(x);
    CHECK(cnn_compile(g, y) && cnn_set(x, (const float[]){ 1, 2, 3 }, 3));
    cnn_graph *view = cnn_share(g);                    /* has them, too */
    for (int k = 0; k < 2; k++) {
        cnn_graph *of = k ? view : g;
        CHECK(cnn_set(cnn_find(of, "input"), (const float[]){ 1, 2, 3 }, 3));
        cnn_forward(cnn_output(of), CNN_EVAL);
        CHECK(cnn_error(of) && strstr(cnn_error(of), "relu") && strstr(cnn_error(of), "row"));
    }
    cnn_free(view), cnn_free(g);

    cnn_backend b = device();
    g = cnn_new(.backend = &b, .rows = mine);
    CHECK(cnn_error(g) && strstr(cnn_error(g), ".rows"));
    cnn_free(g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(lenet_on_a_third_partys_device);
    RUN(a_device_that_fails);
    RUN(a_device_for_two_graphs);
    RUN(devices_that_are_not_whole);
    RUN(rows_on_the_cpu);
    return test_end();
}
