/* cnn_exchange.h: nets with random weights and running statistics are exported, compiled as freestanding C99
   with every warning an error, held against the list of functions that they may call, and run: their outputs
   must be cnn.h's. The compiler is $CC, else cc; without one what needs it is skipped. Then messages, and
   every allocation made to fail.

       make build/test_export && build/test_export */
#include "alloc.h"
#define CNN_EXCHANGE_IMPLEMENTATION            /* and no implementation of cnn.h: it is built on what that declares */
#include "cnn_exchange.h"
#include "test.h"
#include <errno.h>

typedef cnn_tensor T;

/* ---- The compiler ---- */

static const char *compiler(void) { const char *cc = getenv("CC"); return cc && *cc ? cc : "cc"; }

static const char *folder(void)                            /* build/ where it exists, else here */
{
    FILE *f = fopen("build/export_probe", "wb");
    if (!f) return "./";
    fclose(f), remove("build/export_probe");
    return "build/";
}

static char *text_of(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    size_t n = 0, room = 1 << 24;
    char  *s = test_alloc(room);
    n = fread(s, 1, room - 1, f);
    s[n] = 0;
    fclose(f);
    return s;
}

/* Run a shell command. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static bool run(const char *format, ...)
{
    char    command[2000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    fflush(stdout);
    return system(command) == 0;
}

static bool can_compile(void)
{
    static int can = -1;
    if (can < 0) {
        char path[64];
        snprintf(path, sizeof path, "%sexport_probe.c", folder());
        FILE *f = fopen(path, "wb");
        if (f) fputs("int probe(void);\nint probe(void) { return 0; }\n", f), fclose(f);
        can = f && system(NULL) && run("%s -std=c99 -c %s -o %s.o >/dev/null 2>&1", compiler(), path, path);
        run("rm -f %s %s.o", path, path);
    }
    return can == 1;
}

/* ---- One net: export, compile, symbols, run, compare ---- */

static void randomise(cnn_graph *g)
{
    T *t;
    for (int i = 0; (t = cnn_node(g, i)) != NULL; i++) {
        if (t->kind != CNN_PARAM && t->kind != CNN_BUFFER) continue;
        float *w = cnn_map_write(t);
        size_t n = cnn_count(t);
        const bool variance = strstr(t->name, "running_var") != NULL;
        if (t->kind == CNN_BUFFER)  test_fill(w, n, variance ? 0.3 : -0.7, variance ? 2.5 : 0.7);
        else if (t->shape.n == 1)   test_fill(w, n, 0.4, 1.6);        /* scales, biases, slopes */
        else                        for (size_t k = 0; k < n; k++) w[k] *= 1.3f;
    }
}

/* What a generated file may call of the C library; gcc may make memcpy and memset out of loops. */
static bool may_call(const char *symbol)
{
    static const char *const known[] = { "memcpy", "memset", "memmove", "expf", "expm1f", "logf", "log1pf",
                                         "sqrtf", "tanhf", "erfcf", "erff", "powf" };
    while (*symbol == '_') symbol++;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) if (strcmp(symbol, known[i]) == 0) return true;
    return false;
}

/* libm: the functions that the net needs, separated by blanks; "" for none. */
static void check_symbols(const char *object, const char *libm)
{
    char list[240];
    snprintf(list, sizeof list, "%s.nm", object);
    if (!run("nm %s > %s 2>/dev/null", object, list)) return;
    FILE *f = fopen(list, "r");
    char  line[300], kind, name[200];
    int   defined = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, " %c %199s", &kind, name) == 2 && kind == 'U') {
            CHECK_MSG(may_call(name), "%s needs %s", object, name);
            if (strncmp(name, "mem", 3) != 0)
                CHECK_MSG(strstr(libm, name) != NULL, "%s needs %s, not in \"%s\"", object, name, libm);
        } else if (sscanf(line, "%*s %c %199s", &kind, name) == 2 && strchr("TDBCdb", kind)) {
            defined += kind == 'T';
            CHECK_MSG(kind == 'T', "%s has %s, which can be written", object, name);
        }
    }
    CHECK_INT(defined, 1);
    if (f) fclose(f);
    remove(list);
}

/* A program that reads the inputs from one file and writes y to another; guards around y and work. */
static void write_driver(const char *path, const char *prefix, T *const *x, int n_x, int y, int work)
{
    FILE *f = fopen(path, "w");
    fprintf(f, "#include <stdio.h>\n#include <string.h>\nvoid %s_predict(", prefix);
    for (int i = 0; i < n_x; i++) fprintf(f, "const float *, ");
    fprintf(f, "float *, float *);\nenum { Y = %d, WORK = %d };\nstatic float y[Y + 16], work[WORK + 16];\n",
            y, work);
    for (int i = 0; i < n_x; i++)
        fprintf(f, "static float x%d[%d];\n", i, x[i]->shape.c * x[i]->shape.h * x[i]->shape.w);
    fprintf(f, "int main(int argc, char **argv)\n{\n    FILE *in = fopen(argv[argc - 2], \"rb\");\n"
               "    FILE *out = fopen(argv[argc - 1], \"wb\");\n");
    for (int i = 0; i < n_x; i++) fprintf(f, "    if (fread(x%d, sizeof x%d, 1, in) != 1) return 2;\n", i, i);
    fprintf(f, "    memset(y, 0xff, sizeof y), memset(work, 0xff, sizeof work);\n    %s_predict(", prefix);
    for (int i = 0; i < n_x; i++) fprintf(f, "x%d, ", i);
    fprintf(f, "y, work);\n    for (int i = 0; i < (int)sizeof(float) * 16; i++)\n"
               "        if (((unsigned char *)(y + Y))[i] != 0xff\n"
               "            || ((unsigned char *)(work + WORK))[i] != 0xff) return 3;\n"
               "    return fwrite(y, sizeof *y, Y, out) == Y && fclose(out) == 0 ? 0 : 4;\n}\n");
    fclose(f);
}

static double largest_error;                   /* of all nets so far, relative to the largest output */

/* The graph ends at y; x are its inputs, in the order of the graph. */
static void holds(const char *prefix, cnn_graph *g, T *const *x, int n_x, T *y, const char *libm)
{
    if (!CHECK_MSG(cnn_compile(g, y), "%s", cnn_error(g))) { cnn_free(g); return; }
    randomise(g);
    const size_t n = cnn_count(y);
    float *expected = test_floats(n), *got = test_floats(n);
    char   path[200], in[220], out[220], log[220], exe[220];
    snprintf(path, sizeof path, "%sexport_%s.c", folder(), prefix);
    snprintf(in, sizeof in, "%s.in", path), snprintf(out, sizeof out, "%s.out", path);
    snprintf(log, sizeof log, "%s.log", path), snprintf(exe, sizeof exe, "%s.exe", path);
    FILE *f = fopen(in, "wb");
    for (int i = 0; i < n_x; i++) {
        const size_t m = cnn_count(x[i]);
        float       *v = test_floats(m);
        test_fill(v, m, -1, 1);
        cnn_set(x[i], v, m), fwrite(v, sizeof *v, m, f);
        free(v);
    }
    fclose(f);
    cnn_forward(y, CNN_EVAL);
    cnn_get(y, expected, n);
    double size = 0, low = 1e30, high = -1e30;
    for (size_t i = 0; i < n; i++) {
        size = fabs((double)expected[i]) > size ? fabs((double)expected[i]) : size;
        low = (double)expected[i] < low ? (double)expected[i] : low;
        high = (double)expected[i] > high ? (double)expected[i] : high;
    }
    CHECK_MSG(size > 0 && size < 1e6 && (n == 1 || high > low), "%s: outputs %g to %g prove nothing", prefix,
              low, high);

    CHECK_MSG(cnn_export_c(y, path, .prefix = prefix), "%s", cnn_error(g));
    char *text = text_of(path), *define = text ? strstr(text, "_WORK ") : NULL;
    define = define ? strstr(define, "\n#define ") : NULL;
    int   work = 0;
    if (CHECK(define && sscanf(define, "\n#define %*s %d", &work) == 1)) {
        CHECK(!strchr(text, '\t'));
        CHECK(!strstr(text, "malloc") && !strstr(text, "#include <") && !strstr(text, "dropout("));
        CHECK_MSG(run("%s -std=c99 -O2 -ffreestanding -fno-builtin -Wall -Wextra -Wpedantic -Wshadow "
                      "-Wconversion -Werror -c %s -o %s.o > %s 2>&1", compiler(), path, path, log),
                  "%s: see %s", path, log);
        char object[220];
        snprintf(object, sizeof object, "%s.o", path);
        check_symbols(object, libm);
        char driver[220];
        snprintf(driver, sizeof driver, "%s.main.c", path);
        write_driver(driver, prefix, x, n_x, (int)n, work);
        if (CHECK_MSG(run("%s -std=c99 -O1 %s %s -o %s -lm >> %s 2>&1", compiler(), driver, object, exe, log),
                      "see %s", log)
            && CHECK_MSG(run("./%s %s %s", exe, in, out), "%s failed", exe)) {
            f = fopen(out, "rb");
            CHECK(f && fread(got, sizeof *got, n, f) == n);
            if (f) fclose(f);
            for (size_t i = 0; i < n; i++) {
                const double error = fabs((double)got[i] - (double)expected[i]) / size;
                largest_error = error > largest_error ? error : largest_error;
                if (!CHECK_MSG(error <= 1e-5, "%s[%d] is %.9g, not %.9g", prefix, (int)i, (double)got[i],
                               (double)expected[i])) break;
            }
        }
    }
    if (!test__bad) run("rm -f %s %s.*", path, path);      /* what failed is left to be looked at */
    free(text), free(expected), free(got);
    cnn_free(g);
}
static void holds_one(const char *prefix, T *x, T *y, const char *libm)
{
    holds(prefix, y->graph, &x, 1, y, libm);
}
static T *input(int c, int h, int w)
{
    return cnn_input(cnn_new(.max_batch = 1, .seed = 7, .inference = 1), c, h, w);
}

/* ---- Whole nets, with what the zoo is made of ---- */

static T *conv_bn(T *x, int channels, int kernel, int stride, int groups)
{
    return cnn_batch_norm(cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2,
                                     .groups = groups, .no_bias = 1));
}
static T *basic_block(T *x, int channels, int stride)
{
    T *h = conv_bn(cnn_relu(conv_bn(x, channels, 3, stride, 1)), channels, 3, 1, 1);
    return cnn_relu(cnn_add(h, stride == 1 ? x : conv_bn(x, channels, 1, stride, 1)));
}
static T *inverted_residual(T *x, int wide, int channels, int stride)
{
    T *h = cnn_relu6(conv_bn(x, wide, 1, 1, 1));
    h = conv_bn(cnn_relu6(conv_bn(h, wide, 3, stride, wide)), channels, 1, 1, 1);
    return stride == 1 && x->shape.c == channels ? cnn_add(h, x) : h;
}
static T *inception(T *x)
{
    T *a = cnn_relu(conv_bn(x, 4, 1, 1, 1));
    T *b = cnn_relu(conv_bn(cnn_relu(conv_bn(x, 3, 1, 1, 1)), 6, 3, 1, 1));
    T *c = cnn_relu(conv_bn(cnn_relu(conv_bn(x, 2, 1, 1, 1)), 5, 5, 1, 1));
    T *d = cnn_relu(conv_bn(cnn_max_pool(x, 3, .stride = 1, .pad = 1, .ceil_mode = 1), 3, 1, 1, 1));
    return cnn_concat(a, b, c, d);
}

static void lenet(void)
{
    T *x = input(1, 28, 28), *h = cnn_scale(x, 3.2456f, -0.4242f);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84));
    holds_one("lenet", x, cnn_softmax(cnn_dense(h, 10)), "expf tanhf");
}
static void mlp(void)
{
    T *x = input(784, 1, 1), *h = cnn_relu(cnn_batch_norm(cnn_dense(x, 16)));
    holds_one("mlp", x, cnn_dense(cnn_dropout(cnn_relu(cnn_dense(h, 16)), 0.5f), 10), "");
}
static void alexnet(void)
{
    T *x = input(3, 47, 39), *h = cnn_relu(cnn_conv2d(x, 8, 7, .stride = 3));
    h = cnn_lrn(h, 5, .alpha = 5e-2f, .k = 2);
    h = cnn_lrn(cnn_relu(cnn_conv2d(cnn_max_pool(h, 3, .stride = 2), 10, 5, .pad = 2, .groups = 2)), 4,
                .beta = 0.6f);
    h = cnn_dropout(cnn_relu(cnn_dense(cnn_max_pool(h, 3, .stride = 2), 20)), 0.5f);
    holds_one("alexnet", x, cnn_dense(h, 7), "powf");
}
static void resnet(void)
{
    T *x = input(3, 21, 17), *h = cnn_max_pool(cnn_relu(conv_bn(x, 8, 7, 2, 1)), 3, .stride = 2, .pad = 1);
    h = basic_block(basic_block(h, 8, 1), 12, 2);
    holds_one("resnet", x, cnn_dense(cnn_global_avg_pool(h), 5), "");
}
static void mobilenet(void)
{
    T *x = input(3, 19, 23), *h = cnn_relu6(conv_bn(x, 6, 3, 2, 1));
    h = inverted_residual(inverted_residual(inverted_residual(h, 12, 6, 1), 18, 9, 2), 27, 9, 1);
    holds_one("mobilenet", x, cnn_dense(cnn_dropout(cnn_global_avg_pool(h), 0.2f), 6), "");
}
static void googlenet(void)
{
    T *x = input(3, 20, 20), *h = cnn_relu(conv_bn(x, 8, 7, 2, 1));
    h = cnn_max_pool(h, 3, .stride = 2, .ceil_mode = 1);
    h = inception(cnn_max_pool(inception(h), 2, .stride = 2, .ceil_mode = 1));
    holds_one("googlenet", x, cnn_dense(cnn_dropout(cnn_global_avg_pool(h), 0.2f), 9), "");
}
static void unet(void)
{
    T *x = input(1, 16, 12), *down = cnn_relu(cnn_conv2d(x, 4, 3, .pad = 1));
    T *h = cnn_relu(cnn_conv2d(cnn_max_pool(down, 2), 6, 3));
    h = cnn_relu(cnn_batch_norm(cnn_conv_transpose2d(h, 4, 2, .stride = 2)));
    h = cnn_concat(cnn_slice(cnn_slice(down, CNN_H, 2, 14), CNN_W, 2, -2), h);
    holds_one("unet", x, cnn_log_softmax(cnn_conv2d(h, 3, 1)), "expf logf");
}

/* ---- Each operation, in several forms ---- */

static void convolutions(void)
{
    T *x = input(4, 11, 9), *h = cnn_conv2d(x, 6, 3, .stride_h = 2, .pad_w = 2, .dilation_w = 2, .groups = 2);
    h = cnn_batch_norm(h, .no_affine = 1, .eps = 1e-3f);
    h = cnn_conv2d(h, 6, 3, .kernel_w = 1, .groups = 6, .pad = 3, .no_bias = 1); /* some see padding alone */
    holds_one("convolutions", x, cnn_relu(h), "");
    x = input(3, 5, 1);                                      /* 1x1 with a stride that the extent hides */
    holds_one("column", x, cnn_conv2d(cnn_conv2d(x, 2, 1, .stride_w = 2), 4, 1), "");
}
static void transposed(void)
{
    T *x = input(6, 5, 4);
    T *h = cnn_conv_transpose2d(x, 4, 3, .stride = 2, .pad = 1, .output_pad = 1, .groups = 2);
    h = cnn_relu(cnn_batch_norm(h));
    h = cnn_conv_transpose2d(h, 3, 3, .kernel_h = 2, .stride_w = 3, .dilation_h = 2, .pad_w = 2,
                             .no_bias = 1);
    holds_one("transposed", x, h, "");
}
static void pools(void)
{
    T *x = input(3, 10, 13), *a = cnn_max_pool(x, 3, .stride = 2, .pad = 1, .ceil_mode = 1);
    T *b = cnn_avg_pool(x, 3, .stride = 2, .pad = 1, .ceil_mode = 1);
    T *c = cnn_avg_pool(x, 3, .stride = 2, .pad = 1, .ceil_mode = 1, .no_count_pad = 1);
    T *d = cnn_concat(a, b, c);
    holds_one("pools", x, cnn_concat(cnn_global_avg_pool(d), cnn_global_max_pool(d)), "");
    x = input(2, 5, 7);
    holds_one("windows", x, cnn_concat(cnn_max_pool(x, 2, .kernel_w = 3), cnn_avg_pool(x, 2, .kernel_w = 3)),
              "");
    x = input(2, 7, 9);
    holds_one("dilated", x, cnn_max_pool(x, 3, .kernel_w = 2, .stride = 1, .pad = 1, .dilation_h = 2,
                                                 .dilation_w = 4), "");
}
static void matrices(void)
{
    T *x = input(7, 2, 3), *h = cnn_reshape(cnn_dense(x, 12, .no_bias = 1), 3, 2, 2);
    h = cnn_batch_norm(cnn_dropout(cnn_flatten(h), 0.3f));
    float m[12 * 5];
    test_fill(m, 60, -1, 1);
    h = cnn_matmul(h, cnn_const(x->graph, ((cnn_shape){ 12, 5, 1, 1 }), m));
    holds_one("matrices", x, h, "");
}
static void pointwise(void)
{
    T *x = input(2, 3, 5), *a = cnn_add(cnn_leaky_relu(x, .slope = 0.2f), cnn_sigmoid(x));
    a = cnn_add(a, cnn_add(cnn_silu(x), cnn_softplus(cnn_scale(x, 9))));
    a = cnn_add(a, cnn_add(cnn_elu(x, .alpha = 0.7f), cnn_gelu(cnn_scale(x, 3))));
    a = cnn_add(a, cnn_add(cnn_hard_swish(cnn_scale(x, 4)), cnn_exp(x)));
    a = cnn_concat(a, cnn_gelu(cnn_scale(x, 3), .tanh = 1), cnn_softplus(cnn_scale(x, 3), 1.5f, 2));
    T *positive = cnn_clamp(cnn_clamp(cnn_abs(x), 0.1f, INFINITY), -INFINITY, 0.8f);
    a = cnn_concat(a, cnn_log(positive), cnn_sqrt(positive), cnn_prelu(x));
    a = cnn_concat(a, cnn_prelu(cnn_tanh(x), .per_channel = 1), cnn_selu(cnn_scale(x, 3)), cnn_mish(cnn_scale(x, 3)));
    a = cnn_concat(a, cnn_hard_sigmoid(cnn_scale(x, 5)), cnn_softsign(x), cnn_erf(x), cnn_power(x, 3), cnn_power(positive, -0.6f));
    holds_one("pointwise", x, a, "expf expm1f logf log1pf sqrtf tanhf erfcf erff powf");
}
static void stretched(void)
{
    T    *x = input(3, 4, 5);
    T    *rows = cnn_mean(x, .axes = CNN_W), *channels = cnn_sum(x, .axes = CNN_H | CNN_W);
    float k[3] = { 0.5f, -2, 0.25f };
    T    *c = cnn_const(x->graph, ((cnn_shape){ 1, 3, 1, 1 }), k), *p = cnn_param(x->graph, "p",
            ((cnn_shape){ 1, 3, 4, 5 }));
    T    *h = cnn_mul(cnn_sub(x, rows), cnn_add(channels, c));
    h = cnn_sub(cnn_sub(c, h), cnn_mul(cnn_mean(x, .axes = CNN_C | CNN_H | CNN_W), p));
    h = cnn_maximum(cnn_minimum(h, cnn_amax(h, .axes = CNN_H)), cnn_scale(cnn_amin(h, .axes = CNN_C | CNN_W), 0.5f));
    h = cnn_pow(cnn_clamp(cnn_div(h, cnn_scale(cnn_abs(rows), 1, 2)), 0.1f, 2), cnn_add(c, cnn_amax(x, .axes = 15 & ~CNN_N)));
    holds_one("stretched", x, cnn_mul(h, cnn_mean(h, .axes = CNN_C)), "powf");
}
static void places(void)
{
    T *x = input(4, 5, 6);
    T *h = cnn_pad(x, .left = 1, .right = 2, .top = 3, .bottom = 1, .front = 2, .back = 1, .value = -0.5f);
    h = cnn_add(h, cnn_slice(h, CNN_C, 0));
    h = cnn_concat(cnn_slice(h, CNN_C, 1, .step = 3), cnn_slice(h, CNN_C, -2));
    h = cnn_slice(cnn_slice(h, CNN_H, 1, -1, .step = 2), CNN_W, -7, .step = 3);
    h = cnn_concat(cnn_upsample(h, 2, .scale_w = 3), cnn_upsample(h, 2, .scale_w = 3, .bilinear = 1));
    h = cnn_upsample(cnn_upsample(h, .height = 7, .width = 11), .height = 5, .width = 13, .bilinear = 1);
    h = cnn_upsample(h, .height = 9, .width = 6, .bilinear = 1, .align_corners = 1);
    holds_one("places", x, h, "");
}
static void moves(void)
{
    T *x = input(4, 5, 6), *h = cnn_concat_along(CNN_W, x, cnn_slice(x, CNN_W, 1, 4), x);
    h = cnn_pad(cnn_transpose(h, CNN_C, CNN_W), 2, 3, 1, 0, 3, 1, .mode = CNN_PAD_REFLECT);
    h = cnn_pad(cnn_concat_along(CNN_H, h, h), 1, 2, 3, 4, .mode = CNN_PAD_REPLICATE);
    h = cnn_adaptive_avg_pool(cnn_softmax(cnn_scale(h, 3), CNN_W), 8, 6);
    h = cnn_channel_shuffle(cnn_space_to_depth(cnn_slice(h, CNN_C, 0, 18), 2), 6);
    h = cnn_log_softmax(cnn_depth_to_space(cnn_permute(h, CNN_C, CNN_W, CNN_H), 3), .axis = CNN_H);
    holds_one("moves", x, h, "expf logf");
}
static void uneven(void)                                                     /* padding; and signals */
{
    T *x = input(3, 9, 11), *h = cnn_conv2d(x, 4, 3, .pad_top = 2, .pad_right = 1, .stride = 2);
    h = cnn_conv_transpose2d(h, 3, 3, .stride = 2, .pad_bottom = 1, .pad_left = 1);
    h = cnn_avg_pool(cnn_conv2d(h, 4, 1, .pad_bottom = 1), 3, .pad_left = 1, .pad_bottom = 2, .ceil_mode = 1);
    holds_one("uneven", x, cnn_max_pool(h, 2, .stride = 1, .pad_top = 1), "");
    x = input(2, 1, 30);
    h = cnn_relu(cnn_batch_norm(cnn_conv1d(x, 6, 3, .dilation = 2, .causal = 1)));
    h = cnn_avg_pool1d(cnn_max_pool1d(cnn_conv1d(h, 4, 5, .pad = 2, .stride = 2, .groups = 2), 2), 3, .pad = 1);
    holds_one("signals", x, cnn_dense(h, 3), "");
}
static void norms(void)
{
    T *x = input(6, 3, 4), *h = cnn_batch_norm(x);                       /* nothing before it to be part of */
    h = cnn_add(cnn_layer_norm(h), cnn_group_norm(h, 3));
    h = cnn_add(cnn_rms_norm(cnn_layer_norm(h, .axes = CNN_W)), cnn_layer_norm(cnn_rms_norm(h, .axes = CNN_H | CNN_W), .axes = CNN_H | CNN_W));
    h = cnn_add(cnn_add(h, cnn_instance_norm(h, .affine = 1)), cnn_add(cnn_instance_norm(x), cnn_layer_norm(x,
            .no_affine = 1)));
    holds_one("norms", x, cnn_relu(cnn_batch_norm(cnn_tanh(h), .no_affine = 1)), "sqrtf tanhf");
}

/* What is read twice must not be part of a call or run in place. */
static void read_twice(void)
{
    T *x = input(3, 6, 6), *c = cnn_conv2d(x, 4, 3, .pad = 1), *b = cnn_batch_norm(c), *r = cnn_relu(b),
         *t = cnn_tanh(c);
    T *d = cnn_dropout(r, 0.5f), *e = cnn_sigmoid(d);         /* r by another name, still read below */
    T *h = cnn_add(cnn_add(b, t), cnn_mul(e, r));
    h = cnn_add(h, cnn_sub(cnn_relu(h), cnn_conv2d(x, 4, 1)));
    holds_one("read_twice", x, cnn_mul(h, h), "expf tanhf");
    x = input(2, 4, 4), c = cnn_relu(cnn_conv2d(x, 3, 3));
    holds_one("relu_first", x, cnn_relu(cnn_batch_norm(c)), "");
    x = input(2, 4, 4), c = cnn_conv2d(x, 3, 3, .name = "tied");          /* one weight, two norms */
    T *again = cnn_conv2d(cnn_scale(x, 0.5f), 3, 3, .weight = cnn_keep(c)->in[1], .bias = c->in[2]);
    holds_one("tied", x, cnn_concat(cnn_batch_norm(c), cnn_batch_norm(again)), "");
}

static void several_inputs_and_none_changed(void)
{
    cnn_graph *g = cnn_new(.max_batch = 1, .inference = 1);
    T *a = cnn_input(g, 2, 3, 3, .name = "left*/ \"x\""), *b = cnn_input(g, 2, 3, 3, .name = "right");
    T *x[2] = { a, b };
    holds("two", g, x, 2, cnn_sub(cnn_relu(a), cnn_mul(b, a)), "");
    T *only = input(2, 3, 3);
    holds_one("same", only, cnn_dropout(cnn_flatten(only), 0.5f), "");
}

/* An exported tensor may lie inside a larger net, here one for training, and at any batch. */
static void from_a_net_for_training(void)
{
    cnn_graph *g = cnn_new(.max_batch = 3, .seed = 2);
    T *x = cnn_input(g, 2, 6, 6), *t = cnn_labels(g);
    T *h = cnn_keep(cnn_relu(cnn_batch_norm(cnn_conv2d(x, 3, 3))));
    T *logits = cnn_dense(h, 4);
    CHECK(cnn_compile(g, cnn_softmax_cross_entropy(logits, t)));
    char path[80];
    snprintf(path, sizeof path, "%sexport_inner.c", folder());
    float pixels[3 * 72] = { 0 };
    int   classes[3] = { 0, 1, 3 };
    cnn_set(x, pixels, 3 * 72), cnn_set_labels(t, classes, 3);
    cnn_forward(cnn_loss(g), CNN_TRAIN);
    unsigned char bytes[2 * 72] = { 1, 2, 3 }, labels[2] = { 0, 1 };
    cnn_dataset   data = cnn_bytes(bytes, labels, 2, 2, 6, 6);
    cnn_standardize(&data, &data);
    CHECK_MSG(cnn_export_c(cnn_output(g), path, .data = &data), "%s", cnn_error(g));
    char *text = text_of(path);
    char  line[100];
    snprintf(line, sizeof line, "channel 0: mean %.9g, deviation %.9g\n", (double)data.mean[0],
             (double)data.deviation[0]);
    CHECK(text && strstr(text, "void net_predict(const float *x, float *y, float *work);"));
    CHECK(text && strstr(text, line));
    CHECK(text && strstr(text, "x     72 floats, (2,6,6)") && strstr(text, "y     4 floats, (4,1,1)"));
    CHECK(text && strstr(text, "calls nothing") && strstr(text, ", with batch_norm1, with relu1 */"));
    cnn_graph *view = cnn_share(g);                            /* a view of the net is written as the net */
    CHECK_MSG(cnn_export_c(cnn_output(view), path, .data = &data), "%s", cnn_error(view));
    char *same = text_of(path);
    CHECK(text && same && strcmp(text, same) == 0);
    free(text), free(same), cnn_free(view);
    CHECK(cnn_export_c(h, path, .prefix = "hidden"));
    text = text_of(path);
    CHECK(text && strstr(text, "void hidden_predict(") && strstr(text, "y     48 floats, (3,4,4)")
          && !strstr(text, "dense"));
    free(text);
    cnn_dataset_free(&data), cnn_free(g);
    remove(path);
}

/* Of logits the file can give the softmax: the same text as with a softmax in the graph. */
static void softmax_of_logits(void)
{
    char path[80];
    snprintf(path, sizeof path, "%sexport_softmax.c", folder());
    T *x = input(3, 4, 4), *logits = cnn_keep(cnn_dense(x, 5)), *y = cnn_softmax(logits);
    CHECK(cnn_compile(x->graph, cnn_name(y, "softmax")));
    CHECK_MSG(cnn_export_c(y, path), "%s", cnn_error(x->graph));
    char *recorded = text_of(path);
    CHECK_MSG(cnn_export_c(logits, path, .softmax = 1), "%s", cnn_error(x->graph));
    char *asked = text_of(path);
    CHECK(recorded && asked && strcmp(recorded, asked) == 0 && strstr(asked, "net_softmax("));
    free(recorded), free(asked);
    CHECK(cnn_export_c(logits, path));
    char *without = text_of(path);
    CHECK(without && !strstr(without, "softmax"));
    CHECK(!cnn_export_c(y, path, .softmax = 1) && strstr(cnn_error(x->graph), "is a softmax already"));
    free(without), remove(path), cnn_free(x->graph);
}

/* After training: what is refused traps nothing, neither training nor saving. */
static void a_failed_export_stops_nothing(void)
{
    cnn_graph *g = cnn_new(.max_batch = 2);
    T *x = cnn_input(g, 3), *t = cnn_labels(g), *logits = cnn_dense(x, 2);
    T *loss = cnn_softmax_cross_entropy(logits, t);
    char path[80];
    snprintf(path, sizeof path, "%sexport_trained", folder());
    CHECK(cnn_compile(g, loss));
    cnn_set(x, (float[]){ 1, 2, 3, 4, 5, 6 }, 6), cnn_set_labels(t, (int[]){ 0, 1 }, 2);
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK(!cnn_export_c(logits, "no/such/x.c"));
    CHECK(cnn_error(g) && strstr(cnn_error(g), "test_export.c:"));
    CHECK(cnn_error(g) && strstr(cnn_error(g), "export_c \"no/such/x.c\": No such file or directory"));
    CHECK(!cnn_export_c(loss, path) && strstr(cnn_error(g), "it is a loss; export what the loss judges"));
    CHECK(cnn_step(g, .lr = 0.1f) && cnn_save(g, path));
    CHECK_STR(cnn_error(g), NULL);
    CHECK(!cnn_export_c(loss, path) && cnn_error(g));
    CHECK_MSG(cnn_export_c(logits, path, .softmax = 1), "%s", cnn_error(g));
    CHECK_STR(cnn_error(g), NULL);
    CHECK(cnn_softmax(logits) != logits && cnn_error(g));              /* too late, and no reason to lose it */
    CHECK(cnn_export_c(logits, path));
    CHECK(cnn_clear_error(g));
    remove(path), cnn_free(g);
}

/* ---- What the companion wants of cnn.h: nodes in order, and files that are whole or not there ---- */

static void nodes_in_order(void)
{
    T *x = input(3, 4, 4), *y = cnn_relu(cnn_conv2d(x, 2, 3)), *t;
    CHECK(!cnn_node(NULL, 0) && !cnn_node(x->graph, 0));
    CHECK(cnn_compile(x->graph, y));
    int n = 0, params = 0;
    for (; (t = cnn_node(x->graph, n)) != NULL; n++) {
        CHECK_INT(t->index, n);
        params += t->kind == CNN_PARAM;
        for (int k = 0; k < t->n_in; k++)
            CHECK(t->in[k]->index < n && cnn_node(x->graph, t->in[k]->index) == t->in[k]);
    }
    CHECK(n == 5 && params == 2 && cnn_node(x->graph, n - 1) == y && !cnn_node(x->graph, -1));
    cnn_free(x->graph);
}

static bool write_text(FILE *f, void *user)
{
    const char *text = user;
    return fputs(text, f) >= 0 && strcmp(text, "half") != 0;
}
static void whole_files(void)
{
    char path[80];
    snprintf(path, sizeof path, "%sexport_whole", folder());
    CHECK(cnn_write_file(path, write_text, "first"));
    CHECK(!cnn_write_file(path, write_text, "half") && errno == 0);
    char *text = text_of(path);
    CHECK_STR(text, "first");
    free(text);
    CHECK(cnn_write_file(path, write_text, "second"));
    CHECK_STR(text = text_of(path), "second");
    free(text), remove(path);
    CHECK(!cnn_write_file(path, write_text, "half"));
    CHECK(!text_of(path));
    CHECK(!cnn_write_file("no/such/file", write_text, "first") && errno == ENOENT);
    CHECK(!cnn_write_file(NULL, write_text, "first") && errno == EINVAL);
}

/* ---- Every operation has a row, or is a loss ---- */

static void every_operation_but_losses(void)
{
    int n;
    const cnn_op *const *op = cnn_ops(&n);
    for (int i = 0; i < n; i++)
        CHECK_MSG((cnnx_row_of(op[i]) != NULL) != ((op[i]->flags & CNN_LOSS) != 0), "%s", op[i]->name);
}

/* Weights survive to the bit: read back by the compiler that the tests have, or by strtof. */
static void constants_are_exact(void)
{
    char path[80];
    snprintf(path, sizeof path, "%sexport_constants", folder());
    for (int i = 0; i < 2000; i++) {
        static const float special[] = { 0, -0.0f, 1, -1, 0.5f, 3.40282347e38f, 1.17549435e-38f,
                                         1.40129846e-45f, 1.1754942e-38f, INFINITY, -INFINITY, NAN };
        uint32_t bits = (uint32_t)test_bits();
        float    v, back;
        memcpy(&v, &bits, sizeof v);
        if (i < 12) v = special[i];
        FILE *f = fopen(path, "wb");
        cnnx_put_float(f, v), fclose(f);
        char *text = text_of(path);
        if (!isfinite(v)) {                              /* no literal can be so */
            CHECK_STR(text, isnan(v) ? "(0.0f / 0.0f)" : v > 0 ? "(1 / 0.0f)" : "(-1 / 0.0f)");
            free(text);
            continue;
        }
        back = strtof(text, NULL);
        if (!CHECK_MSG(memcmp(&back, &v, sizeof v) == 0 && text[strlen(text) - 1] == 'f',
                       "%s is %.9g, not %.9g", text,
                       (double)back, (double)v)) i = 2000;
        free(text);
    }
    remove(path);
}

/* ---- Messages ---- */

static bool square_shape(T *y) { y->shape = y->in[0]->shape; return true; }
static void square_forward(T *y, cnn_mode mode)
{
    (void)mode, memcpy(y->data, y->in[0]->data, cnn_count(y) * sizeof(float));
}
static const cnn_op op_square = { .name = "square", .shape = square_shape, .forward = square_forward };

static void fails(T *y, const char *path, const char *prefix, const char *message)
{
    cnn_graph *g = y->graph;
    if (!cnn_node(g, 0) && strcmp(message, "call cnn_compile first") != 0)
        CHECK_MSG(cnn_compile(g, y), "%s", cnn_error(g));
    CHECK(!cnn_export_c(y, path, .prefix = prefix));
    CHECK_MSG(cnn_error(g) && strstr(cnn_error(g), message) && strstr(cnn_error(g), "test_export.c:"),
              "the message is\n        %s\n"
              "    without\n        %s", cnn_error(g) ? cnn_error(g) : "none", message);
    cnn_free(g);
}
static void messages(void)
{
    char path[80];
    snprintf(path, sizeof path, "%sexport_none.c", folder());
    remove(path);
    T *x = input(2, 3, 3);
    fails(cnn_relu(x), path, "1st", "prefix \"1st\" is not a C identifier");
    x = input(2, 3, 3), fails(cnn_relu(x), path, "a-b", "prefix \"a-b\" is not a C identifier");
    x = input(2, 3, 3), fails(cnn_relu(x), path, "", "prefix \"\" is not a C identifier");
    x = input(2, 3, 3), fails(cnn_relu(x), path, "net", "call cnn_compile first");
    x = input(2, 3, 3), fails(cnn_apply(&op_square, &x, 1, NULL, CNN_HERE), path, NULL,
                              "square \"square1\" (");
    x = input(2, 3, 3), fails(cnn_apply(&op_square, &x, 1, NULL, CNN_HERE), path, NULL,
                              "its operation has no row in cnn_exchange.h");
    x = input(2, 3, 3), fails(cnn_mse(x, cnn_relu(x)), path, NULL, "mse \"mse1\" (");
    x = input(2, 3, 3), fails(cnn_mean(x), path, NULL, "it is computed from the whole batch");
    x = input(2, 3, 3);
    T *w = cnn_param(x->graph, "w", ((cnn_shape){ 3, 2, 1, 1 }));
    fails(cnn_conv2d(x, 3, 1, .weight = cnn_tanh(w)), path, NULL, "its N is its own");
    x = input(2, 3, 3), w = cnn_param(x->graph, "w", ((cnn_shape){ 1, 2, 1, 1 }));
    fails(cnn_conv2d(x, 1, 1, .weight = cnn_tanh(w)), path, NULL, "its weights are computed, not stored");
    x = input(2, 3, 3), w = cnn_conv2d(x, 3, 3, .name = "odd");
    CHECK(cnn_compile(x->graph, w));
    cnn_map_write(cnn_find(x->graph, "odd.weight"))[5] = (float)NAN;
    fails(w, path, NULL, "conv2d \"odd\" (");
    FILE *left = fopen(path, "rb");                                        /* nothing half is left behind */
    CHECK(!left);
    if (left) fclose(left);
    x = input(2, 3, 3), fails(cnn_relu(x), NULL, NULL, "no path was given");
    x = input(2, 3, 3), fails(cnn_relu(x), "no/such/folder/net.c", NULL, "net.c\": ");
    x = input(2, 3, 3), fails(cnn_relu(x), folder(), NULL, "export_c");
    CHECK(!cnn_export_c(NULL, path));
    FILE *full = fopen("/dev/full", "wb");                     /* a device without room, where there is one */
    if (full) fclose(full), x = input(2, 3, 3), fails(cnn_relu(x), "/dev/full", NULL, "full\": ");
    x = input(2, 3, 3);                                        /* an output outside the graph */
    T *other = cnn_relu(x), *root = cnn_tanh(x);
    CHECK(cnn_compile(x->graph, root));
    fails(other, path, NULL, "neither the loss nor a kept tensor depends on y");
    x = input(2, 3, 3), w = cnn_relu(x);
    CHECK(cnn_compile(x->graph, w));
    cnn_dataset none = { 0 };
    CHECK(!cnn_export_c(w, path, .data = &none));
    CHECK(strstr(cnn_error(x->graph), "the data set is empty"));
    cnn_free(x->graph);
}

static void every_allocation_fails(void)
{
    char path[80];
    snprintf(path, sizeof path, "%sexport_memory.c", folder());
    long before = alloc_live, total = 0;
    for (long i = 0; i <= total; i++) {
        T *x = input(2, 5, 5), *y = cnn_dense(cnn_relu(cnn_batch_norm(cnn_conv2d(x, 3, 3))), 2);
        CHECK(cnn_compile(x->graph, y));
        long start = alloc_count;
        if (i) alloc_fail = alloc_count + i;
        bool done = cnn_export_c(y, path);
        alloc_fail = 0;
        if (i == 0) total = alloc_count - start;
        CHECK(done == (i == 0));
        if (i) CHECK_MSG(cnn_error(x->graph) && strstr(cnn_error(x->graph), "out of memory"),
                         "allocation %ld: %s", i,
                         cnn_error(x->graph) ? cnn_error(x->graph) : "no error");
        FILE *f = fopen(path, "rb");
        CHECK((f != NULL) == (i == 0));
        if (f) fclose(f), remove(path);
        cnn_free(x->graph);
        CHECK_INT(alloc_live, before);
    }
    CHECK(total >= 2);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    static const struct { const char *name; void (*test)(void); } compiled[] = {
        { "lenet", lenet }, { "mlp", mlp }, { "alexnet", alexnet }, { "resnet", resnet },
        { "mobilenet", mobilenet }, { "googlenet", googlenet }, { "unet", unet },
        { "convolutions", convolutions }, { "transposed", transposed }, { "pools", pools },
        { "matrices", matrices }, { "pointwise", pointwise }, { "stretched", stretched },
        { "places", places }, { "moves", moves }, { "uneven", uneven }, { "norms", norms }, { "read_twice", read_twice },
        { "several_inputs_and_none_changed", several_inputs_and_none_changed } };
    for (size_t i = 0; i < sizeof compiled / sizeof *compiled; i++) {
        if (!test_begin("%s", compiled[i].name)) continue;
        if (can_compile()) compiled[i].test();
        else               test_skip("no C compiler could be run; CC says which");
    }
    RUN(from_a_net_for_training);
    RUN(softmax_of_logits);
    RUN(a_failed_export_stops_nothing);
    RUN(nodes_in_order);
    RUN(whole_files);
    RUN(every_operation_but_losses);
    RUN(constants_are_exact);
    RUN(messages);
    RUN(every_allocation_fails);
    if (largest_error > 0)
        printf("largest error, relative to the largest output of its net: %.2g\n", largest_error);
    return test_end();
}
