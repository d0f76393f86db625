/* test_inspect.c - the doctor, the checkup, profile, trace and pictures: that they name the right layer, and that
   their numbers are those that can be computed by hand. */
#include <errno.h>
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

static char *slurp(FILE *f)                     /* from the beginning, as a string; closes */
{
    char *s = test_alloc(1 << 16);
    rewind(f);
    size_t n = fread(s, 1, (1 << 16) - 1, f);
    s[n] = 0, fclose(f);
    return s;
}
static bool has(const char *s, const char *part)
{
    return CHECK_MSG(s && strstr(s, part), "\"%s\" is not in\n%s", part, s ? s : "NULL");
}

/* y = fc(x), 2 -> 2, with known weights; then an operation; then the mean. */
typedef struct { cnn_graph *g; cnn_tensor *x, *fc, *y, *loss; } net;
static net small(cnn_tensor *(*op)(const char *, cnn_tensor *), float w00)
{
    net n;
    n.g = cnn_new(.max_batch = 2, .seed = 1);
    n.x = cnn_input(n.g, 2, 1, 1);
    n.fc = cnn_dense(n.x, 2, .name = "fc");
    n.y = cnn_name(op("here.c:7", n.fc), "act");
    n.loss = cnn_mean(n.y);
    CHECK(cnn_compile(n.g, n.loss));
    const float w[4] = { w00, 0, 0, 1 }, b[2] = { 0, 0 };
    CHECK(cnn_set(cnn_find(n.g, "fc.weight"), w, 4) && cnn_set(cnn_find(n.g, "fc.bias"), b, 2));
    return n;
}
static void run(net *n, float a, float b)
{
    const float x[4] = { a, b, a, b };
    cnn_set(n->x, x, 4);
    cnn_forward(n->loss, CNN_TRAIN), cnn_backward(n->loss);
}

static void statistics(void)
{
    const float v[7] = { 1, -2, 0, NAN, 5, INFINITY, -INFINITY };
    cnn_stats s = cnn_stats_of(v, 7);
    CHECK(s.count == 7 && s.nans == 1 && s.infs == 2 && s.zeros == 1);
    CHECK_NEAR(s.min, -2, 0), CHECK_NEAR(s.max, 5, 0), CHECK_NEAR(s.mean, 1, 1e-15);
    CHECK_NEAR(s.deviation, sqrt(26.0 / 4), 1e-15);
    s = cnn_stats_of(v + 3, 1);
    CHECK(s.nans == 1 && s.min == 0 && s.mean == 0 && s.deviation == 0);
    s = cnn_stats_of(NULL, 3);
    CHECK(s.count == 0 && s.mean == 0);
    float far[1000];                            /* the deviation does not drown in the mean */
    for (int i = 0; i < 1000; i++) far[i] = 4096 + (float)(i % 2);
    CHECK_NEAR(cnn_stats_of(far, 1000).deviation, 0.5, 1e-12);
}

static void doctor_forward(void)
{
    net n = small(cnn_log_, 1);
    CHECK(cnn_doctor(n.g, 1));
    run(&n, 1, 2);
    CHECK(!cnn_error(n.g) && strcmp(cnn_doctor_report(n.g), "healthy so far") == 0);
    run(&n, -3, 2);
    const char *r = cnn_doctor_report(n.g), *e = cnn_error(n.g);
    has(e, "here.c:7: log \"act\": doctor: NaN in the output of \"act\" (forward, after 0 updates)");
    has(e, "cnn_log_softmax");
    has(r, "NaN in the forward of log \"act\" (here.c:7), after 0 updates: the output of \"act\"\n");
    has(r, "output    act (N,2,1,1): 4 values, 2 NaN, 0 Inf; min 0.693147, max 0.693147, mean 0.693147, deviation 0\n");
    has(r, "input     fc (N,2,1,1): 4 values, 0 NaN, 0 Inf; min -3, max 2, mean -0.5, deviation 2.5\n");
    has(r, "gradient  act (N,2,1,1): 4 values, 0 NaN, 0 Inf; min 0.25, max 0.25,");    /* of the run before */
    cnn_free(n.g);

    n = small(cnn_exp_, 1);
    CHECK(cnn_doctor(n.g, 1));
    run(&n, 100, 0);
    has(cnn_doctor_report(n.g), "Inf in the forward of exp \"act\"");
    has(cnn_error(n.g), "exp overflows above 88.7");
    cnn_free(n.g);

    n = small(cnn_relu_, 1);                    /* relu may run in place: its input's statistics must survive */
    CHECK(cnn_doctor(n.g, 1));
    run(&n, NAN, 1);
    has(cnn_error(n.g), "dense \"fc\": doctor: NaN in the value of \"input\"");
    has(cnn_error(n.g), "the data are ill");
    has(cnn_doctor_report(n.g), "input     input (N,2,1,1): 4 values, 2 NaN");
    has(cnn_doctor_report(n.g), "weight    fc.weight (2,2,1,1): 4 values, 0 NaN, 0 Inf; min 0, max 1, mean 0.5,");
    cnn_free(n.g);

    n = small(cnn_relu_, NAN);
    CHECK(cnn_doctor(n.g, 1));
    run(&n, 1, 1);
    has(cnn_error(n.g), "dense \"fc\": doctor: NaN in the value of \"fc.weight\" (forward");
    has(cnn_error(n.g), "the weight was ill before this run");
    cnn_free(n.g);

    n = small(cnn_log_, 1);                     /* off: nothing is said */
    CHECK(cnn_doctor(n.g, 1) && cnn_doctor(n.g, 0));
    run(&n, -3, 2);
    CHECK(!cnn_error(n.g) && strcmp(cnn_doctor_report(n.g), "healthy so far") == 0);
    cnn_free(n.g);
}

static void doctor_backward(void)
{
    net n = small(cnn_sqrt_, 1);
    CHECK(cnn_doctor(n.g, 1));
    run(&n, 0, 4);
    has(cnn_error(n.g), "here.c:7: sqrt \"act\": doctor: Inf in the gradient of \"fc\" (backward");
    has(cnn_error(n.g), "1 / (2 sqrt x)");
    has(cnn_doctor_report(n.g), "gradient  fc (N,2,1,1): 4 values, 0 NaN, 2 Inf; min 0.0625, max 0.0625,");
    CHECK(!cnn_step(n.g, .lr = 1));
    cnn_free(n.g);
}

static void doctor_update(void)
{
    net n = small(cnn_relu_, 1);
    CHECK(cnn_doctor(n.g, 1));
    run(&n, 1, 2);
    CHECK(cnn_step(n.g, .lr = 0.1f));
    run(&n, 3e20f, 2);
    CHECK(!cnn_step(n.g, .lr = 3e20f));
    has(cnn_error(n.g), "dense \"fc\": doctor: Inf in the value of \"fc.weight\" (update, after 2 updates)");
    has(cnn_error(n.g), "lower the learning rate");
    has(cnn_doctor_report(n.g), "Inf in the update of dense \"fc\" (");
    has(cnn_doctor_report(n.g), "gradient  fc.weight (2,2,1,1): 4 values, 0 NaN, 0 Inf; min ");
    cnn_free(n.g);
    CHECK(!cnn_doctor(NULL, 1) && strstr(cnn_doctor_report(NULL), "not on"));
    cnn_graph *g = cnn_new();
    CHECK(!cnn_doctor(g, 1));
    has(cnn_error(g), "doctor: call cnn_compile first");
    cnn_free(g);
}

static void checkup(void)
{
    char text[2000], few[30];
    net n = small(cnn_relu_, -1);               /* channel 0 is dead for positive x: half is not more than half */
    const float b[2] = { 0, -900 };
    run(&n, 1, 2);
    CHECK_INT(cnn_checkup(n.loss, text, sizeof text), 0);
    CHECK_STR(text, "");
    CHECK(cnn_set(cnn_find(n.g, "fc.bias"), b, 2));
    run(&n, 1, 250);
    CHECK_INT(cnn_checkup(n.loss, text, sizeof text), 4);
    has(text, "input: values from 1 to 250: normalise");
    has(text, "act (here.c:7): 2 of 2 channels are zero for the whole batch");
    has(text, "fc.weight: its gradient is zero"), has(text, "fc.bias: its gradient is zero");
    const float one[4] = { 1, 250, 1, 1000 };   /* channel 1 lives in the second sample alone: half are dead */
    CHECK(cnn_set(n.x, one, 4));
    CHECK_INT(cnn_checkup(n.loss, text, sizeof text), 1);
    CHECK(!strstr(text, "dead;"));
    run(&n, 1, 250);
    memset(few, 'x', sizeof few);
    CHECK_INT(cnn_checkup(n.loss, few, 20), 4);
    CHECK(strlen(few) == 19 && few[20] == 'x');
    CHECK_INT(cnn_checkup(n.loss, NULL, 0), 4);
    CHECK(!cnn_error(n.g) && n.g->probe == NULL);
    CHECK_INT(cnn_checkup(n.x, text, sizeof text), -1);
    has(cnn_error(n.g), "checkup: it must be the compiled loss");
    cnn_free(n.g);

    cnn_graph  *g = cnn_new(.max_batch = 4);    /* softmax twice; all labels alike; a loss that stands still */
    cnn_tensor *x = cnn_input(g, 3, 1, 1), *t = cnn_labels(g);
    cnn_tensor *loss = cnn_softmax_cross_entropy(cnn_softmax(cnn_dense(x, 3)), t, .name = "ce");
    CHECK(cnn_compile(g, loss) && cnn_doctor(g, 1));
    const int   k[4] = { 1, 1, 1, 1 };
    float       v[12];
    test_fill(v, 12, -1, 1);
    CHECK(cnn_set(x, v, 12) && cnn_set_labels(t, k, 4));
    for (int i = 0; i < 39; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 1e-9f);
    CHECK_INT(cnn_checkup(loss, text, sizeof text), 2);
    has(text, "softmax_cross_entropy gets the output of softmax, but expects logits: leave that out"), has(text, "all 4 labels of this batch are 1");
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 1e-9f);
    CHECK_INT(cnn_checkup(loss, text, sizeof text), 3);
    has(text, "the loss does not move");
    cnn_free(g);

    g = cnn_new(.max_batch = 1);                /* ten sigmoids: 1/4 each, and weights of 1/8 */
    cnn_tensor *h = x = cnn_input(g, 1, 1, 1);
    for (int i = 0; i < 10; i++) h = cnn_sigmoid(cnn_dense(h, 1, .no_bias = 1, .init = CNN_INIT_CONSTANT, .gain = 0.125f));
    CHECK(cnn_compile(g, loss = cnn_mean(h)));
    v[0] = 1;
    CHECK(cnn_set(x, v, 1));
    CHECK_INT(cnn_checkup(loss, text, sizeof text), 1);
    has(text, "dense1.weight: the gradients vanish"), has(text, "of dense10.weight");
    cnn_free(g);

    n = small(cnn_exp_, 1);                     /* dw = 2 samples * 8 exp 8 / 4, db = 2 exp 8 / 4, and those of exp 0 */
    run(&n, 8, 0);
    CHECK_INT(cnn_checkup(n.loss, text, sizeof text), 1);
    has(text, "fc.weight: the gradients explode: all together have length 1.2e+04");
    cnn_free(n.g);
}

/* Nothing but gradients changes: running statistics, dropout's draws, weights. */
static void visits_leave_no_trace(void)
{
    float mean[2][4], value[2];
    char  text[500];
    FILE *f = tmpfile();
    for (int look = 0; look < 2; look++) {
        cnn_graph  *g = cnn_new(.max_batch = 3, .seed = 5);
        cnn_tensor *x = cnn_input(g, 4, 1, 1);
        cnn_tensor *loss = cnn_mean(cnn_dropout(cnn_tanh(cnn_batch_norm(x, .name = "bn")), 0.5f));
        float v[12];
        for (int i = 0; i < 12; i++) v[i] = sinf((float)i);
        CHECK(cnn_compile(g, loss) && cnn_set(x, v, 12));
        cnn_forward(loss, CNN_TRAIN);
        if (look) {
            CHECK(cnn_checkup(loss, text, sizeof text) >= 0);
            CHECK(cnn_profile(loss, 2, f) > 0);
            CHECK(cnn_trace(loss, 3, f));
        }
        value[look] = cnn_forward(loss, CNN_TRAIN);
        CHECK(cnn_get(cnn_find(g, "bn.running_mean"), mean[look], 4));
        cnn_free(g);
    }
    CHECK_SAME_BITS(&value[0], &value[1], 1);
    CHECK_SAME_BITS(mean[0], mean[1], 4);
    fclose(f);
}

/* Nor when the visit ends with an error: a label that is no class is found after batch norm has run. */
static void failed_visits_leave_no_trace(void)
{
    const float x[4] = { 1, 2, 3, 5 };
    const int   label[2] = { 0, 9 };
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *in = cnn_input(g, 2), *t = cnn_labels(g), *y = cnn_batch_norm(cnn_dense(in, 2), .name = "bn");
    cnn_tensor *J = cnn_softmax_cross_entropy(y, t);
    float       before[2], after[2];
    CHECK(cnn_compile(g, J));
    cnn_get(cnn_find(g, "bn.running_mean"), before, 2);
    for (int k = 0; k < 2; k++) {
        cnn_set(in, x, 4), cnn_set_labels(t, label, 2);
        if (k == 0) CHECK(isnan(cnn_gradient_check(J, 2).worst));
        else        CHECK(cnn_checkup(J, NULL, 0) == -1);
        CHECK(cnn_error(g) && strstr(cnn_error(g), "label 9 of sample 1 is not a class"));
        cnn_clear_error(g);
        cnn_get(cnn_find(g, "bn.running_mean"), after, 2);
        CHECK(memcmp(before, after, sizeof before) == 0);
    }
    cnn_free(g);
}

static void profile(void)
{
    for (int inference = 0; inference < 2; inference++) {
        cnn_graph  *g = cnn_new(.max_batch = 3, .inference = inference);
        cnn_tensor *x = cnn_input(g, 2, 9, 9), *h = cnn_conv2d(x, 4, 3, .name = "c");
        cnn_tensor *y = cnn_dense(cnn_relu(h), 5, .name = "d"), *loss = inference ? y : cnn_mean(y);
        CHECK(cnn_compile(g, loss));
        float v[2 * 162];
        test_fill(v, 324, -1, 1);
        CHECK(cnn_set(x, v, 324));
        FILE *f = tmpfile();
        double whole = cnn_profile(loss, 3, f), ms[2], rate[2], sum = 0, all = 0;
        char *s = slurp(f), *p = strstr(s, "\nc "), name[20];
        CHECK(whole > 0 && p);
        if (p && !inference) {                  /* 7*7*4 outputs of 18 products, a batch of 2; backward: dw alone */
            CHECK_INT(sscanf(p, " c conv2d %lf %lf %lf %lf", &ms[0], &rate[0], &ms[1], &rate[1]), 4);
            for (int b = 0; b < 2; b++)         /* printed to 0.001 ms and 0.01 GFLOP/s */
                CHECK_MSG(fabs(rate[b] * ms[b] * 1e6 - 2.0 * 2 * 49 * 4 * 18) <= 0.0006e6 * rate[b] + 0.006e6 * ms[b],
                          "%g GFLOP/s in %g ms", rate[b], ms[b]);
            p = strstr(s, "\nd ");              /* 196 inputs, 5 outputs; backward: dx and dw */
            CHECK(p && sscanf(p, " d dense %lf %lf %lf %lf", &ms[0], &rate[0], &ms[1], &rate[1]) == 4);
            CHECK_MSG(fabs(rate[1] * ms[1] * 1e6 - 2.0 * 2 * 2 * 196 * 5) <= 0.0006e6 * rate[1] + 0.006e6 * ms[1],
                      "%g GFLOP/s in %g ms", rate[1], ms[1]);
        }
        for (p = s; (p = strchr(p, '\n')) && sscanf(p + 1, "%19s", name) == 1; p++) {
            char *end = strchr(p + 1, '%');     /* the share is the number before % */
            if (!end || end > strchr(p + 1, '\n')) continue;
            for (end -= 2; end[-1] != ' '; end--) {}
            if (!strcmp(name, "all")) all = atof(end);
            else sum += atof(end);
        }
        CHECK_MSG(fabs(sum - all) < 0.6 && all > 0 && all <= 100, "shares %g, all %g", sum, all);
        has(s, "one run of 2 samples takes");
        free(s);
        CHECK(isnan(cnn_profile(loss, 1, NULL)) && !cnn_error(g));
        cnn_free(g);
    }
    CHECK(isnan(cnn_profile(NULL, 1, stdout)));
}

static void trace(void)
{
    net n = small(cnn_sigmoid_, 1);             /* out = sigmoid(x), J = mean */
    run(&n, 0, 0);
    FILE *f = tmpfile();
    CHECK(cnn_trace(n.loss, 3, f));
    char *s = slurp(f);
    CHECK_STR(s, "given\n"
                 "  input (N,2,1,1): 0 0 0 ... (4 in all)\n"
                 "  fc.weight (2,2,1,1): 1 0 0 ... (4 in all)\n"
                 "  fc.bias (1,2,1,1): 0 0\n"
                 "forward\n"
                 "  fc = dense units=2(input, fc.weight, fc.bias) (N,2,1,1): 0 0 0 ... (4 in all)\n"
                 "  act = sigmoid(fc) (N,2,1,1): 0.5 0.5 0.5 ... (4 in all)\n"
                 "  mean1 = mean(act) (1,1,1,1): 0.5\n"
                 "backward: d_x is dJ/dx, J = mean1; a gradient that comes from several nodes is their sum so far\n"
                 "  d_mean1: 1\n"
                 "  d_act from mean1: 0.25 0.25 0.25 ... (4 in all)\n"
                 "  d_fc from act: 0.0625 0.0625 0.0625 ... (4 in all)\n"
                 "  d_fc.weight from fc: 0 0 0 ... (4 in all)\n"
                 "  d_fc.bias from fc: 0.125 0.125\n");
    free(s);
    CHECK(!cnn_trace(NULL, 0, stdout) && !cnn_trace(n.loss, 0, NULL) && !cnn_error(n.g));
    cnn_free(n.g);

    cnn_graph  *g = cnn_new(.max_batch = 1);    /* x^2 + 3x at 2: a gradient that is a sum, 4 and 3 */
    cnn_tensor *x = cnn_input(g, 1, 1, 1, .grad = 1), *loss = cnn_sum(cnn_add(cnn_mul(x, x), cnn_scale(x, 3)));
    const float two = 2;
    CHECK(cnn_compile(g, loss) && cnn_set(x, &two, 1));
    f = tmpfile();
    CHECK(cnn_trace(loss, 0, f));
    s = slurp(f);
    has(s, " add1 = add(mul1, scale1) (N,1,1,1): 10\n");
    const char *last = NULL, *p = s;
    while ((p = strstr(p, "  d_input from "))) last = p++;
    CHECK(last && strchr(last, ':') && atof(strchr(last, ':') + 1) == 7);
    free(s), cnn_free(g);

    g = cnn_new(.inference = 1);                /* forward alone */
    x = cnn_input(g, 2, 1, 1);
    CHECK(cnn_compile(g, loss = cnn_relu(x)));
    const float v[2] = { -1, 4 };
    CHECK(cnn_set(x, v, 2));
    f = tmpfile();
    CHECK(cnn_trace(loss, 0, f));
    s = slurp(f);
    CHECK_STR(s, "given\n  input (N,2,1,1): -1 4\nforward\n  relu1 = relu(input) (N,2,1,1): 0 4\n");
    free(s), cnn_free(g);
}

/* ---- Pictures: read back by a reader of our own ---- */

typedef struct { unsigned char *pixel; int h, w, c; } picture;
static uint32_t be32(const unsigned char *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }
static uint32_t crc_by_division(const unsigned char *p, size_t n)      /* polynomial division, most significant bit first */
{
    uint32_t r = 0xFFFFFFFFu, out = 0;
    for (size_t i = 0; i < n; i++)
        for (int b = 0; b < 8; b++) {
            uint32_t top = r >> 31 ^ ((uint32_t)p[i] >> b & 1);
            r = r << 1 ^ (top ? 0x04C11DB7u : 0);
        }
    for (int b = 0; b < 32; b++) out |= (r >> b & 1) << (31 - b);
    return ~out;
}
static picture read_png(const char *path)
{
    picture im = { NULL, 0, 0, 0 };
    static unsigned char file[1 << 20];
    FILE  *f = fopen(path, "rb");
    size_t n = f ? fread(file, 1, sizeof file, f) : 0;
    if (f) fclose(f);
    if (!CHECK(n > 57 && !memcmp(file, "\x89PNG\r\n\x1a\n", 8) && !memcmp(file + 12, "IHDR", 4))) return im;
    im.w = (int)be32(file + 16), im.h = (int)be32(file + 20), im.c = file[25] == 2 ? 3 : 1;
    CHECK(file[24] == 8 && (file[25] == 2 || file[25] == 0));
    size_t at = 8, idat = 0, length = 0;
    for (size_t next; at + 12 <= n; at = next) {
        next = at + 12 + be32(file + at);
        if (!CHECK(next <= n)) return im;
        CHECK(crc_by_division(file + at + 4, be32(file + at) + 4) == be32(file + next - 4));
        if (!memcmp(file + at + 4, "IDAT", 4)) idat = at + 8, length = be32(file + at);
    }
    CHECK(at == n && !memcmp(file + n - 8, "IEND", 4) && idat);
    size_t row = (size_t)(im.w * im.c) + 1, raw = 0, p = idat + 2;
    unsigned char *data = test_alloc(row * (size_t)im.h + 1);
    CHECK((file[idat] * 256 + file[idat + 1]) % 31 == 0 && (file[idat] & 15) == 8);
    for (int last = 0; !last; ) {
        size_t len = file[p + 1] | (size_t)file[p + 2] << 8;
        CHECK((len ^ 0xFFFF) == (size_t)(file[p + 3] | file[p + 4] << 8) && file[p] < 2);
        last = file[p], p += 5;
        if (!CHECK(raw + len <= row * (size_t)im.h)) break;
        memcpy(data + raw, file + p, len), raw += len, p += len;
    }
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < raw; i++) a = (a + data[i]) % 65521, b = (b + a) % 65521;
    CHECK(raw == row * (size_t)im.h && be32(file + p) == (b << 16 | a) && p + 4 == idat + length);
    im.pixel = test_alloc(raw + 1);
    for (int y = 0; y < im.h; y++) {
        CHECK_INT(data[(size_t)y * row], 0);
        memcpy(im.pixel + (size_t)y * (row - 1), data + (size_t)y * row + 1, row - 1);
    }
    free(data);
    return im;
}

static void pictures(void)
{
    const char *path = "test_inspect.png";
    /* three pictures of 1x2: normalised each by itself, 2 columns, doubled: 2*2+1 high, 2*4+1 wide */
    const float v[6] = { -1, 3,  5, 5,  NAN, 2 };
    CHECK(cnn_write_image(path, v, { 3, 1, 1, 2 }, .scale = 2));
    picture im = read_png(path);
    static const unsigned char must[5][9] = {
        { 0, 0, 255, 255, 128, 0, 0, 0, 0 }, { 0, 0, 255, 255, 128, 0, 0, 0, 0 },
        { 128, 128, 128, 128, 128, 128, 128, 128, 128 },
        { 0, 0, 0, 0, 128, 128, 128, 128, 128 }, { 0, 0, 0, 0, 128, 128, 128, 128, 128 } };
    CHECK(im.h == 5 && im.w == 9 && im.c == 1);
    if (im.pixel && im.h == 5 && im.w == 9) CHECK_SAME_BITS(im.pixel, must[0], 45);
    free(im.pixel);

    const float rgb[6] = { 0, 1,  0.5f, -1,  2, 0.2f };          /* planes: (0,.5,2) and (1,-1,.2) */
    CHECK(cnn_write_image(path, rgb, { 1, 3, 1, 2 }, .raw = 1));
    im = read_png(path);
    CHECK(im.c == 3 && im.w == 2 && im.h == 1);
    if (im.pixel) CHECK_SAME_BITS(im.pixel, "\x00\x80\xff\xff\x00\x33", 6);
    free(im.pixel);
    CHECK(cnn_write_image("test_inspect.ppm", rgb, { 1, 3, 1, 2 }, .raw = 1));
    FILE *f = fopen("test_inspect.ppm", "rb");
    char  head[32] = "";
    CHECK(f && fread(head, 1, 32, f) == 17 && !memcmp(head, "P6\n2 1\n255\n\x00\x80\xff\xff\x00\x33", 17));
    if (f) fclose(f);
    CHECK(cnn_write_image("test_inspect.pgm", v, { 1, 1, 2, 3 }, .raw = 1));
    remove("test_inspect.ppm"), remove("test_inspect.pgm");

    float *big = test_floats(70000);            /* larger than one stored block; and a row that is too long */
    test_fill(big, 70000, 0, 1);
    CHECK(cnn_write_image(path, big, { 1, 1, 280, 250 }, .raw = 1));
    im = read_png(path);
    bool same = im.pixel != NULL;
    for (int i = 0; i < 70000 && same; i++) same = im.pixel[i] == (int)(255 * (double)big[i] + 0.5);
    CHECK(same);
    free(im.pixel);
    errno = 0;
    CHECK(!cnn_write_image(path, big, { 1, 1, 1, 70000 }) && errno == EINVAL);
    free(big);
    const cnn_shape bad[] = { { 1, 2, 1, 1 }, { 0, 1, 1, 1 }, { 1, 1, -1, 1 }, { INT_MAX, 3, 1, 1 } };
    for (int i = 0; i < 4; i++) errno = 0, CHECK(!cnn_write_image(path, v, bad[i]) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image(path, v, { 1, 1, 1, 1 }, .scale = INT_MAX) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image(path, NULL, { 1, 1, 1, 1 }) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image(NULL, v, { 1, 1, 1, 1 }) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image("x.jpg", v, { 1, 1, 1, 1 }) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image("x.ppm", v, { 1, 1, 1, 1 }) && errno == EINVAL);
    errno = 0, CHECK(!cnn_write_image("no/such/x.png", v, { 1, 1, 1, 1 }) && errno == ENOENT);
    alloc_left = 0, errno = 0, CHECK(!cnn_write_image(path, v, { 1, 1, 1, 1 }) && errno == ENOMEM);
    alloc_left = -1;
    remove(path);
    CHECK_INT(alloc_live, 0);
}

static void filters_and_maps(void)
{
    const char *path = "test_inspect.png";
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3, 4, 4), *c1 = cnn_conv2d(x, 5, 3, .name = "c1");
    cnn_tensor *r = cnn_relu(c1), *c2 = cnn_conv2d(r, 2, 2), *loss = cnn_mean(c2);
    float v[96], y[40];
    test_fill(v, 96, -1, 1);
    CHECK(cnn_compile(g, loss) && cnn_set(x, v, 96));
    cnn_forward(c1, CNN_EVAL);
    CHECK(cnn_write_filters(c1, path, 2));
    picture im = read_png(path);                /* 5 of 3x3 colours, 3 columns */
    CHECK(im.c == 3 && im.w == 3 * 7 - 1 && im.h == 2 * 7 - 1);
    free(im.pixel);
    CHECK(cnn_write_filters(c2, path, 0));
    im = read_png(path);                        /* 2 rows of 5 */
    CHECK(im.c == 1 && im.w == 5 * 3 - 1 && im.h == 2 * 3 - 1);
    free(im.pixel);
    CHECK(cnn_write_maps(c1, 1, path, 1) && cnn_get(c1, y, 40));
    im = read_png(path);                        /* 5 of 2x2, 3 columns: channel 4 lies in row 1, column 1 */
    CHECK(im.c == 1 && im.w == 8 && im.h == 5);
    cnn_stats s = cnn_stats_of(y + 36, 4);
    for (int i = 0; i < 4 && im.pixel; i++)
        CHECK_INT(im.pixel[(3 + i / 2) * 8 + 3 + i % 2], 255 * ((double)y[36 + i] - s.min) / (s.max - s.min) + 0.5);
    free(im.pixel);
    CHECK(!cnn_write_maps(c1, 0, "no/such/x.png", 1) && errno == ENOENT && !cnn_error(g));
    CHECK(!cnn_write_maps(c1, 2, path, 1));
    has(cnn_error(g), "maps: sample 2 is not within");
    cnn_free(g);
    g = cnn_new();
    x = cnn_input(g, 1, 2, 2);
    CHECK(cnn_compile(g, cnn_mean(r = cnn_relu(x))) && !cnn_write_filters(r, path, 1));
    has(cnn_error(g), "filters: it has no weight");
    cnn_free(g);
    g = cnn_new();                              /* a dense layer shows what it looks for in the picture */
    x = cnn_input(g, 1, 4, 6);
    cnn_tensor *dense = cnn_dense(cnn_flatten(x), 5), *next = cnn_dense(dense, 2);
    CHECK(cnn_compile(g, cnn_mean(next)) && cnn_write_filters(dense, path, 1));
    im = read_png(path);                        /* 5 of 4x6, 3 columns */
    CHECK(im.c == 1 && im.w == 3 * 7 - 1 && im.h == 2 * 5 - 1);
    const float *weight = cnn_map_read(dense->in[1]);
    s = cnn_stats_of(weight + 24, 24);          /* of unit 1 */
    for (int i = 0; i < 24 && im.pixel; i++)
        CHECK_INT(im.pixel[i / 6 * 20 + 7 + i % 6], 255 * ((double)weight[24 + i] - s.min) / (s.max - s.min) + 0.5);
    free(im.pixel);
    CHECK(cnn_write_filters(next, path, 1));
    im = read_png(path);                        /* of a vector: 2 rows of 5 numbers */
    CHECK(im.c == 1 && im.w == 5 * 2 - 1 && im.h == 2 * 2 - 1);
    free(im.pixel);
    cnn_free(g), remove(path);
}

/* ---- Small gaps ---- */

static void a_failed_save_stops_nothing(void)
{
    net n = small(cnn_relu_, 1);
    run(&n, 1, 2);
    CHECK(!cnn_save(n.g, "no/such/x.safetensors"));
    CHECK_STR(cnn_error(n.g), "save \"no/such/x.safetensors\": No such file or directory");
    CHECK(cnn_step(n.g, .lr = 0.1f));
    CHECK(cnn_save(n.g, "test_inspect.safetensors"));
    CHECK_STR(cnn_error(n.g), NULL);
    cnn_notice(n.g, "so says a companion");
    CHECK_STR(cnn_error(n.g), "so says a companion");
    CHECK(cnn_step(n.g, .lr = 0.1f));
    alloc_left = 0;
    CHECK_INT(cnn_save_memory(n.g, NULL, 0), 0);
    alloc_left = -1;
    CHECK(strstr(cnn_error(n.g), "save: out of memory"));
    CHECK(cnn_step(n.g, .lr = 0.1f) && cnn_save_memory(n.g, NULL, 0) > 0);
    CHECK_STR(cnn_error(n.g), NULL);
    remove("test_inspect.safetensors"), cnn_free(n.g);
}

static void hints_and_texts(void)
{
    net   n = small(cnn_relu_, 1);
    float d[4];
    CHECK_STR(cnn_shape_text(n.x).s, "(N,2,1,1)");
    CHECK_STR(cnn_shape_text(n.loss).s, "(1,1,1,1)");
    cnn_shape_text(NULL);
    run(&n, 1, 2);
    CHECK(!cnn_get_grad(n.x, d, 4));
    has(cnn_error(n.g), "tensor \"input\": gradient: "), has(cnn_error(n.g), "say cnn_input(..., .grad = 1)");
    cnn_free(n.g);
    cnn_history h = { 0 };
    errno = 0, CHECK(!cnn_history_csv(&h, "no/such/x.csv") && errno == ENOENT);
    errno = 0, CHECK(!cnn_history_svg(&h, NULL) && errno == EINVAL);
}

/* Every allocation of every tool fails once: a message, and nothing leaks. */
static void no_memory(void)
{
    FILE *f = tmpfile();
    for (int tool = 0; tool < 4; tool++) {
        int failures = 0;
        for (long left = 0; left < 20; left++) {
            net n = small(cnn_relu_, 1);
            run(&n, 1, 2);
            alloc_left = left;
            char text[100];
            bool ok = tool == 0 ? cnn_doctor(n.g, 1) : tool == 1 ? cnn_checkup(n.loss, text, sizeof text) >= 0
                    : tool == 2 ? cnn_profile(n.loss, 1, f) > 0 : cnn_trace(n.loss, 1, f);
            alloc_left = -1;
            failures += !ok;
            CHECK(ok == !cnn_error(n.g));
            if (!ok) has(cnn_error(n.g), "out of memory");
            cnn_free(n.g);
            CHECK_INT(alloc_live, 0);
            if (ok) break;
        }
        static const int must[4] = { 1, 2, 2, 1 };
        CHECK_INT(failures, must[tool]);
    }
    fclose(f);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(statistics);
    RUN(doctor_forward);
    RUN(doctor_backward);
    RUN(doctor_update);
    RUN(checkup);
    RUN(visits_leave_no_trace);
    RUN(failed_visits_leave_no_trace);
    RUN(profile);
    RUN(trace);
    RUN(pictures);
    RUN(filters_and_maps);
    RUN(a_failed_save_stops_nothing);
    RUN(hints_and_texts);
    RUN(no_memory);
    return test_end();
}
