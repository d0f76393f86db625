/* Data sets and model files: round trips to the bit, PyTorch's layouts, and hostile files: truncated
   everywhere, mutated 10^5 times, and one lie at a time with the exact message.

       cc -std=c99 -O2 -I. -o build/test_files tests/test_files.c -lm && build/test_files */

#define _POSIX_C_SOURCE 200809L                 /* for the tests of disks and processes alone */
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

#include <locale.h>
#ifdef __unix__
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>
#endif

/* ---- A custom operation with every kind of option: y = gain x + shift, in place of its zeros ---- */

typedef struct { const char *at, *said; float gain; int shift; unsigned mask; } affine_args;
static const cnn_field affine_fields[] = {
    CNN_FIELD('f', affine_args, gain), CNN_FIELD('i', affine_args, shift), CNN_FIELD('u', affine_args, mask),
    { 0 } };
static bool affine_shape(cnn_tensor *y)
{
    if (y->n_in != 1) return cnn_fail(y, "one operand");
    y->shape = y->in[0]->shape;
    return true;
}
static int affine_len(const cnn_tensor *y) { return y->shape.n * y->shape.c * y->shape.h * y->shape.w; }
static void affine_forward(cnn_tensor *y, cnn_mode mode)
{
    const affine_args *a = y->args;
    (void)mode;
    for (int i = 0; i < affine_len(y); i++)
        y->data[i] = a->gain * y->in[0]->data[i] + (float)a->shift + (float)(a->mask & 1);
}
static void affine_backward(cnn_tensor *y)
{
    const affine_args *a = y->args;
    for (int i = 0; i < affine_len(y) && y->in[0]->needs_grad; i++) y->in[0]->grad[i] += a->gain * y->grad[i];
}
static const cnn_op affine = { .name = "my affine=%", .shape = affine_shape, .forward = affine_forward,
    .backward = affine_backward, .args_size = sizeof(affine_args), .fields = affine_fields };
static const cnn_op *const own_ops[] = { &affine };

/* ---- A net with some of everything, and its training ---- */

enum { BATCH = 4, CLASSES = 3 };
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *logits, *loss; } net;

static net build(int everything)
{
    net n;
    n.g = cnn_new(.max_batch = BATCH, .seed = 11, .threads = 1);
    n.x = cnn_input(n.g, 2, 6, 6), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_conv2d(n.x, 3, 3, .pad = 1, .name = "conv1");
    h = cnn_relu(cnn_batch_norm(h, .name = "bn1", .momentum = 0.3f));
    h = cnn_max_pool(h, 2);
    if (everything) {
        static const float values[3] = { 0.5f, -0.0f, 1e-42f };
        affine_args a = { .at = CNN_HERE, .gain = 0.7f, .shift = -2, .mask = 0x80000001u };
        cnn_tensor *p = cnn_param(n.g, "scale \"1\" \xC3\xA9", { 1, 3, 1, 1 }, .init = CNN_INIT_CONSTANT,
                                  .gain = 0.9f);
        h = cnn_add(h, cnn_const(n.g, (cnn_shape){ 1, 3, 1, 1 }, values));
        h = cnn_mul(h, p);
        h = cnn_apply(&affine, &h, 1, &a, CNN_HERE);
        h = cnn_leaky_relu(h, .slope = 0.123f, .name = "leaky");
        h = cnn_concat(h, cnn_scale(h, .factor = -1.5f, .offset = 0.1f));
        cnn_tensor *w = cnn_conv2d(h, 4, 3, .groups = 2, .pad = 1, .stride_h = 2, .no_bias = 1);
        h = cnn_dropout(cnn_keep(w), .p = 0.25f);
    }
    n.logits = cnn_dense(h, CLASSES, .name = "fc");
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t, .smoothing = everything ? 0.1f : 0.0f);
    cnn_compile(n.g, n.loss);
    return n;
}

static net found(cnn_graph *g)
{
    net n = { g, cnn_find(g, "input"), cnn_find(g, "labels"), cnn_output(g), cnn_loss(g) };
    return n;
}

static float loss_of(const net *n, cnn_mode mode, int step)
{
    float x[BATCH * 72];
    int   t[BATCH];
    for (int i = 0; i < BATCH * 72; i++) x[i] = (float)((i * 37 + step * 101) % 64) / 32.0f - 1;
    for (int i = 0; i < BATCH; i++) t[i] = (i + step) % CLASSES;
    cnn_set(n->x, x, BATCH * 72);
    cnn_set_labels(n->t, t, BATCH);
    return cnn_forward(n->loss, mode);
}

static void train(const net *n, int from, int to)
{
    for (int i = from; i < to; i++) {
        loss_of(n, CNN_TRAIN, i);
        cnn_backward(n->loss);
        cnn_step(n->g, .lr = 0.05f, .momentum = 0.9f, .weight_decay = 0.01f);
    }
}

typedef struct { unsigned char *p; size_t n; } bytes;

static bytes saved_as(cnn_graph *g, size_t (*save)(cnn_graph *, void *, size_t))
{
    bytes b = { NULL, save(g, NULL, 0) };
    b.p = test_alloc(b.n);
    CHECK_INT(save(g, b.p, b.n), b.n);
    return b;
}
static bytes saved(cnn_graph *g)      { return saved_as(g, cnn_save_memory); }
static bytes checkpoint(cnn_graph *g) { return saved_as(g, cnn_save_checkpoint_memory); }

static cnn_graph *loaded(const unsigned char *file, size_t n)
{
    cnn_load_args a = { .at = "here.c:1", .path = "net.safetensors", .max_batch = BATCH, .threads = 1,
                        .ops = own_ops, .n_ops = 1 };
    return cnn_load_memory(file, n, a);
}

static bool same_weights(cnn_graph *a, cnn_graph *b)
{
    bool same = a->n_order == b->n_order;
    for (int i = 0; i < a->n_order && same; i++) {
        cnn_tensor *p = &a->order[i]->t, *q = &b->order[i]->t;
        same = strcmp(p->name, q->name) == 0 && p->kind == q->kind && p->shape.c == q->shape.c &&
            p->frozen == q->frozen &&
               p->kept == q->kept;
        if (same && !p->op && !p->batched)
            same = memcmp(cnn_map_read(p), cnn_map_read(q), cnn_count(p) * sizeof(float)) == 0;
    }
    return same;
}

/* ---- Round trips ---- */

static void file_round_trip(void)
{
    for (int way = 0; way < 4; way++) {
        size_t (*save)(cnn_graph *, void *, size_t) = way / 2 ? cnn_save_checkpoint_memory : cnn_save_memory;
        net   n = build(way % 2);
        train(&n, 0, 5);
        CHECK_STR(cnn_error(n.g), NULL);
        bytes b = saved_as(n.g, save);
        CHECK_INT((b.p[0] + 256 * b.p[1]) % 8, 0);
        cnn_graph *g = loaded(b.p, b.n);
        CHECK_STR(cnn_error(g), NULL);
        CHECK(same_weights(n.g, g));
        net   m = found(g);
        float x = loss_of(&n, CNN_EVAL, 9), y = loss_of(&m, CNN_EVAL, 9);
        CHECK_SAME_BITS(&x, &y, 1);
        bytes c = saved_as(g, save);
        CHECK(b.n == c.n && memcmp(b.p, c.p, b.n) == 0);

        unsigned char part[100];                       /* less room than the file takes */
        memset(part, 7, sizeof part);
        CHECK_INT(save(g, part, 90), b.n);
        CHECK(memcmp(part, b.p, 90) == 0 && part[90] == 7 && part[99] == 7);
        cnn_free(n.g), cnn_free(g), free(b.p), free(c.p);
    }
}

static void load_then_continue_training(void)
{
    net   n = build(1);
    train(&n, 0, 4);
    CHECK(cnn_average(n.g, 0.5f));
    train(&n, 4, 5);
    CHECK(cnn_average(n.g, 0.5f));
    bytes b = checkpoint(n.g);
    cnn_graph *g = loaded(b.p, b.n);
    net   m = found(g);
    CHECK_STR(cnn_error(g), NULL);
    train(&n, 5, 9), train(&m, 5, 9);
    CHECK(cnn_average(n.g, 0.5f) && cnn_average(g, 0.5f));
    CHECK_STR(cnn_error(g), NULL);
    CHECK(same_weights(n.g, g));
    bytes c = checkpoint(n.g), d = checkpoint(g);
    CHECK(c.n == d.n && memcmp(c.p, d.p, c.n) == 0);
    CHECK(cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = m.g, .path = "a checkpoint" }));     /* its weights alone */
    CHECK_INT(m.g->step, 9);
    cnn_free(n.g), cnn_free(g), free(b.p), free(c.p), free(d.p);

    /* A plain file has no vectors: the optimizer starts from zero. And no tensor that PyTorch does not know. */
    n = build(0), train(&n, 0, 4), b = saved(n.g), c = checkpoint(n.g), g = loaded(b.p, b.n);
    CHECK_INT(g->step, 4);
    CHECK(cnn__slots_of(g) == 0 && cnn__slots_of(n.g) == 1);
    cnn__file f = cnn__file_of(g, NULL, "read", NULL);
    if (CHECK(cnn__open_file(&f, b.p, b.n)))
        for (size_t i = 0; i < f.n; i++) CHECK(strncmp(f.entry[i].name, "cnn.", 4) != 0);
    cnn__close_file(&f);
    f = cnn__file_of(g, NULL, "read", NULL);
    if (CHECK(cnn__open_file(&f, c.p, c.n))) CHECK(cnn__lookup(&f, "cnn.slot0.", "conv1.weight") != NULL);
    cnn__close_file(&f);
    cnn_free(n.g), cnn_free(g), free(b.p), free(c.p);
}

static void load_for_inference(void)
{
    net   n = build(0);
    train(&n, 0, 3);
    bytes b = checkpoint(n.g);
    cnn_load_args a = { .path = "x", .max_batch = 2, .inference = 1, .seed = 5 };
    cnn_graph    *g = cnn_load_memory(b.p, b.n, a);
    CHECK_STR(cnn_error(g), NULL);
    CHECK(same_weights(n.g, g));
    bytes c = checkpoint(g);
    CHECK_MSG(c.n < b.n, "the state of the training should be gone");
    cnn_free(g), free(c.p);

    cnn_graph  *p = cnn_new(.inference = 1);           /* a net without a loss */
    cnn_tensor *x = cnn_input(p, 3), *y = cnn_softmax(cnn_dense(x, 2));
    CHECK(cnn_compile(p, y));
    c = saved(p);
    g = loaded(c.p, c.n);
    CHECK_STR(cnn_error(g), NULL);
    CHECK(cnn_output(g) == cnn_loss(g) && strcmp(cnn_output(g)->name, "softmax1") == 0);
    cnn_free(n.g), cnn_free(g), cnn_free(p), free(b.p), free(c.p);
}

static void output_is_what_the_loss_judges(void)
{
    net n = build(0);
    CHECK(cnn_output(n.g) == n.logits && cnn_loss(n.g) == n.loss);
    cnn_free(n.g);
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *h = cnn_dense(cnn_input(g, 3), 2), *t = cnn_input(g, 2);
    CHECK(cnn_compile(g, cnn_add(cnn_mse(h, t), cnn_mean(cnn_mul(h, h)))));
    CHECK(cnn_output(g) == h);
    cnn_free(g);
    CHECK_STR(cnn_loss(NULL)->name, "nil");
    CHECK_STR(cnn_output(NULL)->name, "nil");
}

/* ---- Files made by hand ---- */

static const char *no_null(const char *s) { return s ? s : ""; }

static bytes make_file(const char *header, const void *data, size_t n)
{
    size_t h = strlen(header);
    bytes  b = { test_alloc(8 + h + n + 1), 8 + h + n };
    for (int i = 0; i < 8; i++) b.p[i] = (unsigned char)((uint64_t)h >> 8 * i);
    memcpy(b.p + 8, header, h);
    if (n) memcpy(b.p + 8 + h, data, n);
    return b;
}

/* As PyTorch writes it: vectors, an int64 counter, other types of floats, keys and names in any order and
   escaped. */
static void weights_from_pytorch(void)
{
    cnn_graph  *g = cnn_new();
    cnn_tensor *x = cnn_input(g, 1, 2, 2), *t = cnn_labels(g);
    cnn_tensor *h = cnn_conv2d(x, 2, 2, .name = "conv1");
    cnn_tensor *loss = cnn_softmax_cross_entropy(cnn_dense(cnn_batch_norm(h, .name = "bn1"), 2, .name = "fc"),
                                                 t);
    CHECK(cnn_compile(g, loss));
    unsigned char data[256];
    size_t at = 0;
    for (int i = 0; i < 8; i++, at += 4) {             /* F32 conv1.weight: 1..8 */
        uint32_t bits = cnn__bits_of_float((float)(i + 1));
        for (int k = 0; k < 4; k++) data[at + (size_t)k] = (unsigned char)(bits >> 8 * k);
    }
    const unsigned char rest[] = {
        0x00, 0x3c, 0x01, 0x80,                        /* F16 conv1.bias: 1, -2^-24 */
        0x80, 0x3f, 0x20, 0xc0,                        /* BF16 bn1.weight: 1, -2.5 */
        0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0, 0, 0, 0, 0, 0, 0xf0, 0xbf,  /* F64 bn1.bias: 0.5, -1 */
        7, 0, 0, 0, 0, 0, 0, 0,                        /* I64 bn1.num_batches_tracked */
        0xff, 0x7b, 0x00, 0x04,                        /* F16 running_mean: 65504, 2^-14 */
        0x00, 0x3c, 0x00, 0x40,                        /* F16 running_var: 1, 2 */
        0, 0x34, 0, 0x35, 0, 0x36, 0, 0x37,            /* F16 fc.weight: 0.25 0.3125 0.375 0.4375 */
        0, 0, 0, 0x80 };                               /* F16 fc.bias: 0, -0 */
    memcpy(data + at, rest, sizeof rest);
    at += sizeof rest;
    bytes b =
        make_file("{ \"bn1.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[56,64]},\n"
        "\t\"conv1.weight\" : {\"shape\":[2 , 1,2,2],\"data_offsets\":[0,32],\"dtype\":\"F32\"},"
        "\"\\u0063onv1\\u002ebias\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[32,36]},"
        "\"bn1.weight\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[36,40]},"
        "\"bn1.bias\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[40,56]},"
        "\"bn1.running_mean\":{\"dtype\":\"F16\",\"shape\":[1,2,1,1],\"data_offsets\":[64,68]},"
        "\"bn1.running_var\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[68,72]},"
        "\"__metadata__\":{\"format\":\"pt\"},"
        "\"fc.weight\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[72,80]},"
        "\"fc.bias\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[80,84]}}   ", data, at);
    CHECK(cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = g, .path = "torch.safetensors" }));
    CHECK_STR(cnn_error(g), NULL);
    const struct { const char *name; int n; float v[8]; } want[] = {
        { "conv1.weight", 8, { 1, 2, 3, 4, 5, 6, 7, 8 } }, { "conv1.bias", 2, { 1, -1.0f / 16777216 } },
        { "bn1.weight", 2, { 1, -2.5f } }, { "bn1.bias", 2, { 0.5f, -1 } },
            { "bn1.running_mean", 2, { 65504, 1.0f / 16384 } },
        { "bn1.running_var", 2, { 1, 2 } }, { "fc.weight", 4, { 0.25f, 0.3125f, 0.375f, 0.4375f } },
        { "fc.bias", 2, { 0, -0.0f } } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        float v[8] = { 0 };
        CHECK(cnn_get(cnn_find(g, want[i].name), v, (size_t)want[i].n));
        CHECK_MSG(memcmp(v, want[i].v, (size_t)want[i].n * 4) == 0, "%s", want[i].name);
    }
    cnn_graph *no = loaded(b.p, b.n);
    CHECK_STR(cnn_error(no),
              "here.c:1: load \"net.safetensors\": it has weights but no \"cnn.graph\" in its metadata: "
              "build the net, then cnn_load_weights");
    cnn_free(no), cnn_free(g), free(b.p);
}

/* The ranks that PyTorch expects, also where extents are 1. */
static void ranks_in_the_file(void)
{
    cnn_graph  *g = cnn_new();
    cnn_tensor *h = cnn_conv2d(cnn_input(g, 1, 3, 3), 1, 1, .name = "c");
    h = cnn_batch_norm(h, .name = "b");
    h = cnn_dense(cnn_dense(h, 1, .name = "d1"), 1, .name = "d2");
    h = cnn_mul(h, cnn_param(g, "p", { 1, 1, 1, 1 }));
    h = cnn_add(h, cnn_mean(cnn_conv1d(cnn_input(g, 2, 1, 5), 3, 2, .groups = 1, .name = "s")));
    h = cnn_mul(h, cnn_const(g, (cnn_shape){ 1, 1, 1, 1 }, (const float[]){ 1.5f }));
    CHECK(cnn_compile(g, cnn_mean(cnn_add(h, cnn_param(g, "q", { 1, 2, 3, 1 })))));
    bytes b = saved(g);
    b.p[b.n - 1] = 0;
    const char *json = (const char *)b.p + 8;
    static const char *const want[] = { "\"c.weight\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1],",
        "\"c.bias\":{\"dtype\":\"F32\",\"shape\":[1],",
        "\"b.running_var\":{\"dtype\":\"F32\",\"shape\":[1],",
            "\"d1.weight\":{\"dtype\":\"F32\",\"shape\":[1,9],", "\"s.weight\":{\"dtype\":\"F32\",\"shape\":[3,2,2],",
        "\"d2.weight\":{\"dtype\":\"F32\",\"shape\":[1,1],", "\"d2.bias\":{\"dtype\":\"F32\",\"shape\":[1],",
        "\"p\":{\"dtype\":\"F32\",\"shape\":[1],", "\"q\":{\"dtype\":\"F32\",\"shape\":[1,2,3]," };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        CHECK_MSG(strstr(json, want[i]) != NULL, "%s in %s", want[i], json);
    CHECK(strstr(json, "\\nconst const1 1,1,1,1 x3fc00000\\n") && !strstr(json, "\"const1\""));     /* no tensor */
    static const char start[] = "{\"__metadata__\":{\"format\":\"pt\",\"cnn.version\":\"" CNN_VERSION "\","
                                "\"cnn.graph\":\"cnn 1\\ninput ";
    CHECK(strncmp(json, start, sizeof start - 1) == 0);
    cnn_free(g), free(b.p);
}

static cnn_graph *tiny(void)                           /* parameters w (2) and v (1) */
{
    cnn_graph *g = cnn_new();
    cnn_compile(g, cnn_sum(cnn_add(cnn_param(g, "w", { 1, 2, 1, 1 }), cnn_param(g, "v", { 1, 1, 1, 1 }))));
    return g;
}

#define V ",\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}"
#define W "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
static const struct { const char *header; size_t data; const char *message; } lies[] = {
    { W V, 12, NULL },
    { W ",\"w.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}" V, 16,
        "the net has nothing for 1 tensors of the file: \"w.bias\" (.extra_ok = 1 leaves them out)" },
    { "{}", 0, "there is no tensor \"w\"; the file has 0: none" },
    { "  ", 0, "header, byte 2: '{' expected" },
    { "[]", 0, "header, byte 0: '{' expected" },
    { W, 8, "header, byte 53: '}' expected" },
    { W V "x", 12, "header, byte 108: the end of the header expected" },
    { W V, 11, "tensor \"v\": bytes 8 to 12 are not within the 11 bytes of data: truncated or damaged" },
    { W V, 13, "bytes 12 to 13 of the data belong to no tensor" },
    { W "}", 8, "there is no tensor \"v\"; the file has 1: \"w\"" },
    { W ",\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
        "tensors \"w\" and \"v\" overlap" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}" V, 12,
        "bytes 4 to 8 of the data belong to no tensor" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}" V, 12,
      "tensor \"w\": bytes 8 to 0 are not within the 12 bytes of data: truncated or damaged" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[18446744073709551608,0]}" V, 12,
      "tensor \"w\": bytes 18446744073709551608 to 0 are not within the 12 bytes of data: truncated or "
      "damaged" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}" V, 12,
        "tensor \"w\": shape [3] of F32 does not fill bytes 0 to 8" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967298],\"data_offsets\":[0,8]}" V, 12,
      "tensor \"w\": shape [4294967296,4294967298] of F32 does not fill bytes 0 to 8" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,2],\"data_offsets\":[0,0]}" V, 12,
      "tensor \"w\": shape [4611686018427387904,2] of F32 does not fill bytes 0 to 0" },
    { "{\"w\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}" V, 12,
        "tensor \"w\": shape [3] of F4 does not fill bytes 0 to 1" },
    { "{\"w\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}" V, 12,
      "tensor \"w\" has dtype I32: only F32, F64, F16 and BF16 become floats" },
    { "{\"w\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}" V, 12,
        "tensor \"w\": unknown dtype \"F31\"" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16,
      "tensor \"w\" has shape [2,2] in the file and (1,2,1,1) in the graph" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
        "tensor \"w\" has shape [] in the file and (1,2,1,1) in the graph" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,2,2,2,2],\"data_offsets\":[0,128]}}", 128,
      "tensor \"w\" has shape [2,2,2,2,2] in the file and (1,2,1,1) in the graph" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[0,2],\"data_offsets\":[0,0]}}", 0,
        "tensor \"w\" has shape [0,2] in the file and (1,2,1,1) in the graph" },
    { W ",\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12,
        "tensor \"w\" is there twice" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 0,
        "tensor \"w\": it needs dtype, shape and data_offsets" },
    { "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0,
        "tensor \"w\": key \"dtype\" is unknown or there twice" },
    { "{\"w\":{\"deep\":[[[[[[[[]]]]]]]]}}", 0, "tensor \"w\": key \"deep\" is unknown or there twice" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
        "header, byte 29: whole number expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]}}", 8,
        "header, byte 29: whole number expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8,
        "header, byte 30: ']' expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2e0],\"data_offsets\":[0,8]}}", 8,
        "header, byte 30: ']' expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,],\"data_offsets\":[0,8]}}", 8,
        "header, byte 31: whole number expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,8]}}", 8,
        "header, byte 29: whole number expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "header, byte 49: ',' expected" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8,
        "header, byte 51: ']' expected" },
    { "{\"w\":{},}", 0, "tensor \"w\": it needs dtype, shape and data_offsets" },
    { "{\"w\":3}", 0, "header, byte 5: '{' expected" },
    { "{\"w", 0, "header, byte 3: control character in a string" },
    { "{\"w\\", 0, "header, byte 4: bad escape in a string" },
    { "{\"\\x\"", 0, "header, byte 3: bad escape in a string" },
    { "{\"\\u12g4\"", 0, "header, byte 4: bad escape in a string" },
    { "{\"\\u0000\"", 0, "header, byte 8: bad escape in a string" },
    { "{\"\\ud800\"", 0, "header, byte 8: bad escape in a string" },
    { "{\"\\udc00\"", 0, "header, byte 4: bad escape in a string" },
    { "{\"\\ud83d\\u0041\"", 0, "header, byte 8: bad escape in a string" },
    { "{\"a\nb\"", 0, "header, byte 3: control character in a string" },
    { "{\"\\ud83d\\ude00\\u00e9\\u20ac\":3}", 0, "header, byte 28: '{' expected" },
    { "{\"__metadata__\":{\"a\":1}}", 0, "header, byte 21: '\"' expected" },
    { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "the header has \"__metadata__\" twice" },
    { "{\"__metadata__\":{\"cnn.graph\":\"\",\"cnn.graph\":\"\"}}", 0,
        "the metadata has \"cnn.graph\" twice" },
};

static void hostile_headers(void)
{
    static const unsigned char zeros[128];
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        cnn_graph *g = tiny();
        bytes      b = make_file(lies[i].header, zeros, lies[i].data);
        char       want[512];
        bool       done = cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = g, .path = "w.st" });
        snprintf(want, sizeof want, "load_weights \"w.st\": %s", no_null(lies[i].message));
        CHECK(done == !lies[i].message);
        CHECK_STR(cnn_error(g), lies[i].message ? want : NULL);
        cnn_free(g), free(b.p);
    }
    static const struct { unsigned char p[12]; size_t n; const char *message; } starts[] = {
        { { 0 }, 0, "load_weights: truncated: a safetensors file begins with 8 bytes, this has 0" },
        { { 1 }, 7, "load_weights: truncated: a safetensors file begins with 8 bytes, this has 7" },
        { { 9 }, 12, "load_weights: truncated: the header should have 9 bytes, the file has 4" },
        { { 1, 225, 245, 5 }, 12,
            "load_weights: not a safetensors file: its header would have 100000001 bytes, and 2 to "
            "100000000 are allowed" },
        { { 255, 255, 255, 255, 255, 255, 255, 255 }, 12,
          "load_weights: not a safetensors file: its header would have 18446744073709551615 bytes, and 2 to "
          "100000000 are allowed" },
        { { 0 }, 12, "load_weights: not a safetensors file: its header would have 0 bytes, and 2 to "
          "100000000 are allowed" },
        { { 0x80, 2, 0x8a, 10 }, 12, "load_weights: not a safetensors file but a pickle, perhaps of torch.save: "
          "use safetensors.torch.save_file" },
        { { 'P', 'K', 3, 4 }, 12,
            "load_weights: not a safetensors file but a zip, perhaps of torch.save: use "
            "safetensors.torch.save_file" },
        { { 0x1f, 0x8b, 8 }, 12, "load_weights: not a safetensors file but gzipped: gunzip it first" } };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        cnn_graph *g = tiny();
        unsigned char *copy = test_alloc(starts[i].n);               /* exactly so long, for the address
                                                                        sanitizer */
        memcpy(copy, starts[i].p, starts[i].n);
        CHECK(!cnn_load_weights_memory(copy, starts[i].n, (cnn_load_weights_args){ .g = g }));
        CHECK_STR(cnn_error(g), starts[i].message);
        cnn_free(g), free(copy);
    }
}

/* Tensors that are no floats and that no node has are ignored, however large, and not written again. Damaged files:
   no prefix is taken, and no file with a byte of its header changed does harm. */
static void other_types(void)
{
    static const char both[] =
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
        "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[ 1, 3 ],\"data_offsets\":[12,15]},"
        "\"a\\\"b\\n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[15,23]},"
        "\"none\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[23,23]}}";
    static const unsigned char data[23] = { [12] = 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8 };
    bytes b = make_file(both, data, sizeof data);
    cnn_graph *g = tiny();
    CHECK(cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = g }));
    bytes c = saved(g);
    cnn__file f = cnn__file_of(g, NULL, "read", NULL);
    if (CHECK(cnn__open_file(&f, c.p, c.n))) CHECK_INT(f.n, 2);
    cnn__close_file(&f);
    cnn_free(g), free(c.p);

    for (size_t n = 0; n < b.n; n++) {
        cnn_graph *h = tiny();
        unsigned char *copy = test_alloc(n);
        memcpy(copy, b.p, n);
        CHECK(!cnn_load_weights_memory(copy, n, (cnn_load_weights_args){ .g = h }));
        cnn_free(h), free(copy);
    }
    for (int i = 0; i < 5000; i++) {
        cnn_graph *h = tiny();
        unsigned char *copy = test_alloc(b.n);
        memcpy(copy, b.p, b.n);
        copy[test_int(8, (int)b.n - 1)] = (unsigned char)test_int(0, 255);
        if (cnn_load_weights_memory(copy, b.n, (cnn_load_weights_args){ .g = h })) {
            bytes d = saved(h);
            cnn_graph *k = tiny();
            CHECK_MSG(cnn_load_weights_memory(d.p, d.n, (cnn_load_weights_args){ .g = k }), "%s", no_null(cnn_error(k)));
            cnn_free(k), free(d.p);
        }
        cnn_free(h), free(copy);
    }
    free(b.p);
}

/* num_batches_tracked: made up if no file brought it, else counted on. */
static void batches_are_counted(void)
{
    cnn_graph  *g = cnn_new();
    cnn_tensor *h = cnn_batch_norm(cnn_input(g, 2, 2, 2), .name = "b\"n");
    cnn_tensor *loss = cnn_mean(cnn_batch_norm(h, .name = "other"));
    CHECK(cnn_compile(g, loss));
    const long  want[] = { 0, 2, 2, 3 };
    const float x[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    cnn_graph *from = g;
    for (int round = 0; round < 4; round++) {
        CHECK(cnn_set(cnn_find(from, "input"), x, 8));
        for (int k = 0; k < 3 && round == 1; k++) cnn_forward(loss, k < 2 ? CNN_TRAIN : CNN_EVAL);
        if (round == 3) cnn_forward(cnn_loss(from), CNN_TRAIN);
        bytes b = saved(from);
        cnn__file f = cnn__file_of(from, NULL, "read", NULL);
        int found = 0;
        if (CHECK(cnn__open_file(&f, b.p, b.n)))
            for (size_t i = 0; i < f.n; i++)
                if (strcmp(f.entry[i].name, "b\"n.num_batches_tracked") == 0 ||
                    strcmp(f.entry[i].name, "other.num_batches_tracked") == 0) {
                    CHECK_INT(f.entry[i].dtype, CNN__I64);
                    CHECK_INT(cnn__le64(f.data + f.entry[i].begin), want[round]);
                    found++;
                }
        CHECK_INT(found, 2);
        cnn__close_file(&f);
        if (round == 1) from = loaded(b.p, b.n);
        CHECK_STR(cnn_error(from), NULL);
        free(b.p);
    }
    cnn_free(from), cnn_free(g);
}

/* A file that does not fit leaves the weights as they were. */
static void all_or_nothing(void)
{
    cnn_graph *g = tiny();
    float      w[2] = { 1, 2 }, again[2];
    CHECK(cnn_set(cnn_find(g, "w"), w, 2));
    bytes b = make_file(W "}", "12345678", 8);
    CHECK(!cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = g, .path = "w.st" }));
    memcpy(again, cnn_find(g, "w")->data, sizeof again);
    CHECK_SAME_BITS(w, again, 2);
    cnn_free(g), free(b.p);
}

/* The text of the graph, one lie at a time. %s stands where the text stands in the file. */
static const struct { const char *text, *message; } false_graphs[] = {
    { "cnn 1\\ninput x 2,1,1\\nparam w 1,2,1,1 frozen\\nop y mul 0,1\\nop s sum 2\\nroot 3\\n", NULL },
    { "", "cnn.graph, line 1: the root is missing" },
    { "cnn 1", "cnn.graph, line 1: it is cut off" },
    { "cnn 2\\n", "cnn.graph has version \"cnn 2\", not \"cnn 1\"" },
    { "cnn 1\\n", "cnn.graph, line 2: the root is missing" },
    { "cnn 1\\nroot 0\\n", "cnn.graph, line 2: bad root \"0\"" },
    { "cnn 1\\ninput x 2,1,1\\nroot -1\\n", "cnn.graph, line 3: bad root \"-1\"" },
    { "cnn 1\\ninput x 2,1,1\\nroot 0\\nroot 0\\n", "cnn.graph, line 3: bad root \"0\"" },
    { "cnn 1\\ninput x 2,1,1\\nroot 0 0\\n", "cnn.graph, line 3: bad root \"0\"" },
    { "cnn 1\\n\\nroot 0\\n", "cnn.graph, line 2: kind and name expected" },
    { "cnn 1\\ninput\\nroot 0\\n", "cnn.graph, line 2: kind and name expected" },
    { "cnn 1\\ntensor x 2,1,1\\nroot 0\\n", "cnn.graph, line 2: unknown kind \"tensor\"" },
    { "cnn 1\\ninput %4 2,1,1\\nroot 0\\n", "cnn.graph, line 2: bad name \"%4\"" },
    { "cnn 1\\ninput %00 2,1,1\\nroot 0\\n", "cnn.graph, line 2: bad name \"%00\"" },
    { "cnn 1\\ninput x\\nroot 0\\n", "cnn.graph, line 2: bad extents" },
    { "cnn 1\\ninput x 2,1\\nroot 0\\n", "cnn.graph, line 2: bad extents \"2,1\"" },
    { "cnn 1\\ninput x 2,1,1,1\\nroot 0\\n", "cnn.graph, line 2: bad extents \"2,1,1,1\"" },
    { "cnn 1\\ninput x 2,1,+1\\nroot 0\\n", "cnn.graph, line 2: bad extents \"2,1,+1\"" },
    { "cnn 1\\ninput x 2,1,2147483648\\nroot 0\\n", "cnn.graph, line 2: bad extents \"2,1,2147483648\"" },
    { "cnn 1\\ninput x 2,1,1 frozen\\nroot 0\\n", "cnn.graph, line 2: bad word \"frozen\"" },
    { "cnn 1\\nparam w 1,2,1,2\\nroot 0\\n",
        "tensor \"w\" has shape [2] in the file and (1,2,1,2) in the graph" },
    { "cnn 1\\nconst c 1,2,1,1\\nroot 0\\n", "there is no tensor \"c\"; the file has 1: \"w\"" },
    { "cnn 1\\nconst c 1,2,1,1 x3f8000004000000\\nroot 0\\n", "cnn.graph, line 2: bad values" },
    { "cnn 1\\nconst c 1,2,1,1 x3f8000004000000000000000\\nroot 0\\n", "cnn.graph, line 2: bad values" },
    { "cnn 1\\nconst c 1,2,1,1 x3f8000004000000g\\nroot 0\\n", "cnn.graph, line 2: bad values" },
    { "cnn 1\\nconst c 1,2,1,1 x3f80000040000000 frozen\\nroot 0\\n", "cnn.graph, line 2: bad word \"frozen\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y\\nroot 1\\n", "cnn.graph, line 3: operation or operands missing" },
    { "cnn 1\\ninput x 2,1,1\\nop y relu\\nroot 1\\n", "cnn.graph, line 3: operation or operands missing" },
    { "cnn 1\\ninput x 2,1,1\\nop y relu 0,0,0,0,0,0,0,0,0\\nroot 1\\n",
        "cnn.graph, line 3: operation or operands missing" },
    { "cnn 1\\ninput x 2,1,1\\nop y relu 1\\nroot 1\\n",
        "cnn.graph, line 3: operands that are no earlier lines \"1\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y relu -1\\nroot 1\\n",
        "cnn.graph, line 3: operands that are no earlier lines \"-1\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y swish 0\\nroot 1\\n",
      "cnn.graph, line 3: unknown operation (your own: hand it to cnn_load in .ops) \"swish\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y relu 0 slope=1\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"slope=1\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y leaky_relu 0 slope\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"slope\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y leaky_relu 0 slope=0.5\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"slope=0.5\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y leaky_relu 0 slope=x3f0000000\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"slope=x3f0000000\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y leaky_relu 0 slope=x7f80000\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"slope=x7f80000\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y my%20affine%3D%25 0 shift=1.5\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"shift=1.5\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y my%20affine%3D%25 0 mask=-1\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"mask=-1\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y my%20affine%3D%25 0 at=1\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"at=1\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y scale 0 factor=x40000000 factor=x40000000\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"factor=x40000000\"" },
    { "cnn 1\\ninput x 2,1,1\\nop y scale 0 factor=x7fc00000\\nroot 1\\n",
        "cnn.graph, line 3: bad option \"factor=x7fc00000\"" },
};

#define TWO_W "\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"

static void hostile_graphs(void)
{
    for (size_t i = 0; i < sizeof false_graphs / sizeof *false_graphs; i++) {
        char header[1024], want[512];
        snprintf(header, sizeof header, "{\"__metadata__\":{\"cnn.graph\":\"%s\"}," TWO_W,
                 false_graphs[i].text);
        bytes      b = make_file(header, "\0\0\0\0\0\0\0\0", 8);
        cnn_graph *g = loaded(b.p, b.n);
        snprintf(want, sizeof want, "here.c:1: load \"net.safetensors\": %s",
                 no_null(false_graphs[i].message));
        CHECK_STR(cnn_error(g), false_graphs[i].message ? want : NULL);
        if (!false_graphs[i].message) CHECK(cnn_find(g, "w")->frozen);
        cnn_free(g), free(b.p);
    }
    /* Constants of older files are tensors. */
    const float two[2] = { 3, -0.25f };
    float       got[2] = { 0, 0 };
    bytes       old = make_file("{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\nconst w 1,2,1,1\\nop y relu 0\\nroot 1\\n\"},"
                                TWO_W, two, 8);
    cnn_graph  *of_old = loaded(old.p, old.n);
    CHECK(cnn_get(cnn_find(of_old, "w"), got, 2) && memcmp(got, two, sizeof two) == 0);
    cnn_free(of_old), free(old.p);
    /* Every operation with 1 to 8 operands that it may not expect: its shape rule has to look. */
    int n;
    const cnn_op *const *ops = cnn_ops(&n);
    for (int k = 0; k < n; k++)
        for (int n_in = 1; n_in <= CNN_MAX_INPUTS; n_in++)
            for (int first = 0; first < 3; first++) {
                char header[1024], ids[32] = "";
                for (int i = 0; i < n_in; i++)
                    ids[2 * i] = (char)('0' + (first + i) % 3), ids[2 * i + 1] = i + 1 < n_in ? ',' : 0;
                snprintf(header, sizeof header, "{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 2,1,1\\n"
                         "labels t 1,1,1\\nparam w 1,2,1,1\\nop y %s %s\\nop s sum 3\\nroot 4\\n\"}," TWO_W,
                         ops[k]->name, ids);
                bytes      b = make_file(header, "\0\0\0\0\0\0\0\0", 8);
                cnn_graph *g = loaded(b.p, b.n);
                if (!cnn_error(g)) {
                    float x[2 * BATCH] = { 0 };
                    if (cnn_find(g, "x")) cnn_set(cnn_find(g, "x"), x, 2 * BATCH);
                    if (cnn_find(g, "t")) cnn_set(cnn_find(g, "t"), x, BATCH);
                    cnn_forward(cnn_loss(g), g->config.inference ? CNN_EVAL : CNN_TRAIN);
                    if (!g->config.inference) cnn_backward(cnn_loss(g));
                }
                cnn_free(g), free(b.p);
            }
    CHECK_INT(alloc_live, 0);
}

static void hostile_state(void)
{
#define S3 "\"cnn.seed\":\"1\",\"cnn.step\":\"2\",\"cnn.draw\":\"3\""
#define SLOT ",\"cnn.slot0.w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}" STEPS("16,24")
#define STEPS(at) ",\"cnn.steps.w\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[" at "]}"
    static const struct { const char *numbers, *more, *message; } lie[] = {
        { S3, "", NULL }, { S3 ",\"cnn.optimizer\":\"other\"", "", NULL },
        { S3 ",\"cnn.optimizer\":\"sgd\",\"cnn.slots\":\"1\"", SLOT, NULL },
        { S3 ",\"cnn.optimizer\":\"sgd\",\"cnn.slots\":\"1\"", "",
          "there is no count \"cnn.steps.w\" of at most cnn.step" },
        { S3 ",\"cnn.optimizer\":\"sgd\",\"cnn.slots\":\"1\"", STEPS("8,16"),
          "there is no tensor \"cnn.slot0.w\"; the file has 2: \"cnn.steps.w\", \"w\"" },
        { "\"cnn.step\":\"0\",\"cnn.optimizer\":\"sgd\",\"cnn.slots\":\"0\"", STEPS("8,16"),
          "there is no count \"cnn.steps.w\" of at most cnn.step" },
        { S3 ",\"cnn.optimizer\":\"sgd\",\"cnn.slots\":\"2\"", SLOT,
          "it has 2 vectors of the optimizer sgd, which keeps 1" },
        { S3 ",\"cnn.slots\":\"9\"", "", "cnn.slots: bad number \"9\"" },
        { S3 ",\"cnn.optimizer\":\"other\",\"cnn.slots\":\"1\"", SLOT,
          "it was trained by the optimizer \"other\": hand it to cnn_load in .optimizer" },
        { S3 ",\"cnn.step\":\"2\"", "", "the metadata has \"cnn.step\" twice" },
        { "\"cnn.step\":\"\"", "", "cnn.step: bad number \"\"" },
        { "\"cnn.step\":\"-2\"", "", "cnn.step: bad number \"-2\"" },
        { "\"cnn.step\":\"2 \"", "", "cnn.step: bad number \"2 \"" },
        { "\"cnn.step\":\"9223372036854775807\"", "", "cnn.step: bad number \"9223372036854775807\"" },
        { "\"cnn.seed\":\"18446744073709551616\"", "", "cnn.seed: bad number \"18446744073709551616\"" },
        { "\"cnn.draw\":\"4294967296\"", "", "cnn.draw: bad number \"4294967296\"" } };
    for (size_t i = 0; i < sizeof lie / sizeof *lie; i++) {
        char header[1024], want[512];
        snprintf(header, sizeof header, "{\"__metadata__\":{%s,\"cnn.graph\":\"cnn 1\\nparam w 1,2,1,1\\n"
                 "op s sum 0\\nroot 1\\n\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}%s}",
                 lie[i].numbers, lie[i].more);
        static const unsigned char one[16] = { [8] = 1 }, data[24] = { [8] = 1, [10] = 0x80, [11] = 0x3F, [16] = 1 };
        const bool slot = strstr(lie[i].more, "slot0") != NULL;
        bytes      b = make_file(header, slot ? data : one, !lie[i].more[0] ? 8 : slot ? 24 : 16);
        cnn_graph *g = loaded(b.p, b.n);
        snprintf(want, sizeof want, "here.c:1: load \"net.safetensors\": %s", no_null(lie[i].message));
        CHECK_STR(cnn_error(g), lie[i].message ? want : NULL);
        if (!lie[i].message) CHECK(g->step == 2 && g->draw == 3 && g->config.seed == 1);
        if (i == 2) CHECK(g->arena[CNN_ARENA_OPTIMIZER][0] > 1 && cnn__of(cnn_find(g, "w"))->steps == 1);
        cnn_free(g), free(b.p);
    }
}

/* Names that no reader takes, or that would command a terminal, are refused when the net is compiled. */
static void names(void)
{
    static const struct { const char *name, *why; } bad[] = {
        { "__metadata__", "files keep this name for themselves" }, { "a\033[2J", "its name has a control character" },
        { "a\n", "its name has a control character" }, { "\177", "its name has a control character" },
        { "\xC2\x85", "its name has a control character" }, { "\xE4hm", "its name is not UTF-8" },
        { "\x80", "its name is not UTF-8" }, { "\xC3", "its name is not UTF-8" },
        { "\xC0\x80", "its name is not UTF-8" }, { "\xED\xA0\x80", "its name is not UTF-8" },
        { "\xF4\x90\x80\x80", "its name is not UTF-8" }, { "\xF8\x88\x80\x80\x80", "its name is not UTF-8" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cnn_graph *g = cnn_new();
        CHECK(!cnn_compile(g, cnn_sum(cnn_param(g, bad[i].name, { 1, 2, 1, 1 }))));
        CHECK(strstr(cnn_error(g), ": tensor \"") && strstr(cnn_error(g), bad[i].why) && !strchr(cnn_error(g), 27));
        cnn_free(g);
    }
    static const char *const good[] = { "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "cnn.0.weight", "a b/c:d" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cnn_graph *g = cnn_new();
        CHECK(cnn_compile(g, cnn_sum(cnn_param(g, good[i], { 1, 2, 1, 1 }))));
        bytes b = saved(g);
        cnn_graph *h = loaded(b.p, b.n);
        CHECK_STR(cnn_error(h), NULL);
        CHECK(cnn_find(h, good[i]) != NULL);
        cnn_free(g), cnn_free(h), free(b.p);
    }
    cnn_graph *g = cnn_new();                          /* a parameter with the name of another one's vector */
    cnn_tensor *w = cnn_param(g, "w", { 1, 2, 1, 1 }, .init = CNN_INIT_CONSTANT, .gain = 1);
    cnn_tensor *loss = cnn_sum(cnn_mul(w, cnn_param(g, "cnn.slot0.w", { 1, 2, 1, 1 })));
    CHECK(cnn_compile(g, loss));
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f, .momentum = 0.5f);
    CHECK(cnn_save_memory(g, NULL, 0) > 0 && cnn_save_checkpoint_memory(g, NULL, 0) == 0);
    CHECK(strstr(cnn_error(g), "a checkpoint has another tensor of this name"));
    cnn_free(g);
}

/* What a file may cost: seconds and memory grow with its bytes, and what is no model is left at once. */
static void costs(void)
{
    const char *graph = "{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 30000,10000,10\\nop y relu 0\\nroot 1\\n\"}}";
    bytes b = make_file(graph, NULL, 0);
    cnn_graph *g = loaded(b.p, b.n);
    CHECK_MSG(strstr(no_null(cnn_error(g)), "elements") || strstr(no_null(cnn_error(g)), ".max_bytes"), "%s",
              no_null(cnn_error(g)));
    cnn_free(g), free(b.p);
    b = make_file("{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 1000,100,100\\nop y relu 0\\nroot 1\\n\"}}", NULL, 0);
    for (int k = 0; k < 2; k++) {
        cnn_load_args a = { .path = "x", .max_bytes = k ? 30000000 : 100000000 };
        g = cnn_load_memory(b.p, b.n, a);
        if (k == 0) CHECK_STR(cnn_error(g), NULL);
        else CHECK(strstr(no_null(cnn_error(g)), "load \"x\": the net takes ") && strstr(cnn_error(g), ": .max_bytes"));
        cnn_free(g);
    }
    free(b.p);

    enum { NODES = 60000 };                            /* once a minute */
    size_t n = 0, room = 100 + NODES * 30;
    char  *text = test_alloc(room);
    n += (size_t)snprintf(text, room, "{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 1,1,1\\n");
    for (int i = 0; i < NODES; i++) n += (size_t)snprintf(text + n, room - n, "op r%d relu %d\\n", i, i);
    snprintf(text + n, room - n, "root %d\\n\"}}", NODES);
    b = make_file(text, NULL, 0);
    clock_t start = clock();
    cnn_load_args a = { .inference = 1, .threads = 1 };
    g = cnn_load_memory(b.p, b.n, a);
    CHECK_STR(cnn_error(g), NULL);
    CHECK_MSG((double)(clock() - start) / CLOCKS_PER_SEC < 10, "%.1f s", (double)(clock() - start) / CLOCKS_PER_SEC);
    cnn_free(g), free(b.p);
    n = (size_t)snprintf(text, room, "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                         "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}");
    for (int i = 0; i < 20000; i++)
        n += (size_t)snprintf(text + n, room - n, ",\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[12,12]}", i);
    snprintf(text + n, room - n, "}");
    b = make_file(text, "\0\0\0\0\0\0\0\0\0\0\0\0", 12), start = clock(), g = tiny();
    CHECK(cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = g }));
    CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 5);
    cnn_free(g), free(b.p), free(text);
#ifdef __linux__
    g = cnn_load("/dev/zero");
    CHECK(strstr(no_null(cnn_error(g)), "not a safetensors file"));
    cnn_free(g);
    g = cnn_load("/dev/null");
    CHECK(strstr(no_null(cnn_error(g)), "truncated: a safetensors file begins with 8 bytes, this has 0"));
    cnn_free(g);
#endif
    FILE *f = fopen("test_files.caffemodel", "wb");
    CHECK(f && fwrite("\n\016AlexNet and so on", 1, 19, f) == 19);
    if (f) fclose(f);
    g = cnn_load("test_files.caffemodel");
    CHECK(strstr(no_null(cnn_error(g)), "not a safetensors file but perhaps a .caffemodel"));
    cnn_free(g), remove("test_files.caffemodel");
    CHECK_INT(alloc_live, 0);
}

/* Statistics that no training makes. */
static void hostile_statistics(void)
{
    cnn_graph *g = cnn_new();
    CHECK(cnn_compile(g, cnn_mean(cnn_batch_norm(cnn_input(g, 2, 2, 2), .name = "b"))));
    bytes b = saved(g);
    unsigned char *last = b.p + b.n - 1;               /* the last float is running_var's */
    CHECK(*last == 0x3F);
    *last = 0xBF;
    cnn_graph *h = loaded(b.p, b.n);
    CHECK(strstr(no_null(cnn_error(h)), "tensor \"b.running_var\": a variance is negative"));
    cnn_free(h), cnn_free(g), free(b.p);
    b = make_file("{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 2,1,1\\nbuffer w 1,2,1,1\\n"
                  "op y batch_norm 0,1,1\\nroot 2\\n\"}," TWO_W, "\0\0\0\0\0\0\0\0", 8);
    h = loaded(b.p, b.n);
    CHECK(strstr(no_null(cnn_error(h)), "running_mean and running_var are one buffer"));
    cnn_free(h), free(b.p);
    b = make_file("{\"__metadata__\":{\"cnn.graph\":\"cnn 1\\ninput x 2,1,1\\nop y elu 0 alpha=x7f800000\\nroot 1\\n\"}}", NULL, 0);
    h = loaded(b.p, b.n);
    CHECK_STR(cnn_error(h), "net.safetensors: elu \"y\": alpha is inf: it must be in [0,inf)");
    cnn_free(h), free(b.p);
}

/* ---- Truncated and mutated ---- */

/* A copy of exactly n bytes, so that the address sanitizer sees one byte too many. */
static void try_model(const unsigned char *file, size_t n, bool must_fail)
{
    unsigned char *copy = test_alloc(n);
    if (n) memcpy(copy, file, n);
    cnn_graph *g = loaded(copy, n);
    if (must_fail) CHECK_MSG(cnn_error(g) != NULL, "%zu bytes were taken for a model", n);
    if (!cnn_error(g) && test_chance(10)) {            /* whatever was loaded must run, or say why not */
        for (int i = 0; i < g->n_order; i++) {
            cnn_tensor *t = &g->order[i]->t;
            if (!t->batched || t->op) continue;
            float *x = cnn_map_write(t);
            for (size_t k = 0; x && k < cnn_count(t); k++) x[k] = (float)(k % 2);
        }
        cnn_forward(cnn_loss(g), g->config.inference ? CNN_EVAL : CNN_TRAIN);
        if (!g->config.inference) cnn_backward(cnn_loss(g));
        cnn_step(g, .lr = 0.1f, .momentum = 0.5f);
        cnn_save_memory(g, NULL, 0);
    }
    cnn_free(g);
    free(copy);
}

static void truncated_everywhere(void)
{
    net   n = build(1);
    train(&n, 0, 2);
    bytes b = checkpoint(n.g);
    for (size_t k = 0; k < b.n; k++) try_model(b.p, k, true);
    for (size_t k = 0; k < b.n; k += 7) {
        net m = build(0);
        unsigned char *copy = test_alloc(k);
        memcpy(copy, b.p, k);
        CHECK(!cnn_load_weights_memory(copy, k, (cnn_load_weights_args){ .g = m.g, .path = "cut" }));
        cnn_free(m.g), free(copy);
    }
    cnn_free(n.g), free(b.p);
    CHECK_INT(alloc_live, 0);
}

/* One to four changes: a bit, a byte, a digit, a piece removed, a piece doubled. Most hit the header, for it
   is what can lie; its length is set right again every second time. */
static void mutated(void)
{
    net   n = build(1);
    train(&n, 0, 1);
    CHECK(cnn_average(n.g, 0.5f));
    bytes b = checkpoint(n.g);
    cnn_free(n.g);
    size_t header = b.p[0] + 256u * b.p[1], taken = 0;
    unsigned char *m = test_alloc(2 * b.n);
    alloc_most = (size_t)1 << 22;
    for (int round = 0; round < 100000; round++) {
        size_t size = b.n;
        memcpy(m, b.p, size);
        for (int k = test_int(1, 4); k > 0; k--) {
            size_t at = test_chance(90) ? 8 + (size_t)test_int(0, (int)header - 1)
                : (size_t)test_int(0, (int)b.n - 1);
            size_t length = (size_t)test_int(1, 12);
            if (at + length > size) continue;
            switch (test_int(0, 5)) {
            case 0: m[at] = (unsigned char)(m[at] ^ 1 << test_int(0, 7)); break;
            case 1: m[at] = (unsigned char)test_int(0, 255); break;
            case 2: memmove(m + at, m + at + length, size - at - length), size -= length; break;
            case 3: if (size + length <= 2 * b.n) memmove(m + at + length, m + at, size - at), size += length;
                    break;
            default:
                while (at < size && !(m[at] >= '0' && m[at] <= '9')) at++;
                if (at < size) m[at] = (unsigned char)('0' + test_int(0, 9));
                break;
            }
        }
        if (test_chance(50) && size > 8) {
            uint64_t h = header + (size - b.n);
            for (int i = 0; i < 8; i++) m[i] = (unsigned char)(h >> 8 * i);
        }
        try_model(m, size, false);
        taken += size == b.n && memcmp(m, b.p, size) == 0;
    }
    CHECK(taken < 10000);
    alloc_most = (size_t)1 << 28;
    free(m), free(b.p);
    CHECK_INT(alloc_live, 0);
}

/* ---- Memory that runs out ---- */

static void allocations_fail_one_by_one(void)
{
    net   n = build(1);
    train(&n, 0, 2);
    CHECK(cnn_average(n.g, 0.5f));
    bytes b = checkpoint(n.g);
    cnn_free(n.g);
    long before = alloc_live;
    for (long k = 0; ; k++) {
        alloc_left = k;
        cnn_graph *g = loaded(b.p, b.n);
        alloc_left = -1;
        bool done = g && !cnn_error(g);
        if (!done)
            CHECK_MSG(strstr(cnn_error(g), "out of memory") != NULL, "allocation %ld: %s", k, cnn_error(g));
        cnn_free(g);
        CHECK_INT(alloc_live, before);
        if (done) break;
    }
    for (long k = 0; ; k++) {
        net m = build(0);
        before = alloc_live;
        alloc_left = k;
        size_t size = cnn_save_checkpoint_memory(m.g, NULL, 0);
        bool   done = size && cnn_load_weights_memory(b.p, 0, (cnn_load_weights_args){ .g = m.g, .path = "x" });
        alloc_left = -1;
        CHECK(!done && cnn_error(m.g));
        bool   end = size != 0;
        if (!end) CHECK(strstr(cnn_error(m.g), "out of memory") != NULL);
        CHECK_INT(alloc_live, before);
        cnn_free(m.g);
        if (end) break;
    }
    free(b.p);
    CHECK_INT(alloc_live, 0);
}

/* ---- Files on the disk ---- */

static bytes read_whole(const char *path)
{
    char why[128];
    bytes b = { NULL, 0 };
    unsigned char *p = cnn__read_file(path, &b.n, why, sizeof why);
    if (p) b.p = test_alloc(b.n), memcpy(b.p, p, b.n);
    CNN_FREE(p);
    return b;
}

static void save_is_atomic(void)
{
    static const char path[] = "test_files.safetensors";
    net   n = build(1);
    train(&n, 0, 2);
    CHECK(cnn_save(n.g, path));
    bytes b = saved(n.g), c = read_whole(path);
    CHECK(c.p && b.n == c.n && memcmp(b.p, c.p, b.n) == 0);
    for (size_t k = 0; k <= b.n + 1; k += k < 16 ? 1 : k + 40 < b.n ? 37 : 1) {
        FILE *f = fopen("test_files.cut", "wb");
        if (CHECK(f)) CHECK(fwrite(b.p, 1, k < b.n ? k : b.n, f) + (k > b.n ? fwrite("x", 1, 1, f) : 0) == k), fclose(f);
        cnn_graph *cut = cnn_load("test_files.cut", .max_batch = BATCH, .ops = own_ops, .n_ops = 1);
        CHECK_MSG(!cnn_error(cut) == (k == b.n), "%zu of %zu bytes: %s", k, b.n, no_null(cnn_error(cut)));
        cnn_free(cut);
    }
    remove("test_files.cut");
    cnn_graph *g = cnn_load(path, .max_batch = BATCH, .ops = own_ops, .n_ops = 1);
    CHECK_STR(cnn_error(g), NULL);
    CHECK(same_weights(n.g, g));
    train(&n, 2, 3);
    CHECK(cnn_save(n.g, path) && cnn_load_weights(g, path) && same_weights(n.g, g));
    CHECK(cnn_save_checkpoint(n.g, path) && cnn_load_weights(g, path));
    CHECK(cnn_save(n.g, path));
    cnn_graph  *less = cnn_new();                       /* a part of the net */
    cnn_tensor *body = cnn_conv2d(cnn_input(less, 2, 6, 6), 3, 3, .name = "conv1");
    CHECK(cnn_compile(less, cnn_mean(body)) && cnn_load_weights(less, path, .extra_ok = 1));
    CHECK_SAME_BITS(cnn_map_read(cnn_find(less, "conv1.weight")), cnn_map_read(cnn_find(n.g, "conv1.weight")), 54);
    CHECK(!cnn_load_weights(less, path));
    CHECK(strstr(cnn_error(less), "test_files.c:") && strstr(cnn_error(less), "the net has nothing for "));
    cnn_free(less);
    cnn_free(g);

    net m = build(0);
    CHECK(!cnn_set(m.x, NULL, 5) && cnn_error(m.g));    /* a refused call does not lock up what was learned */
    CHECK(cnn_save(m.g, path) && cnn_save_checkpoint(m.g, path) && cnn_save_memory(m.g, NULL, 0) > 0);
    CHECK(strstr(no_null(cnn_error(m.g)), "set: "));
    CHECK(cnn_save(n.g, path) && cnn_clear_error(m.g));
    CHECK(!cnn_save(m.g, "no/such/directory/x.safetensors"));
    CHECK_STR(cnn_error(m.g), "save \"no/such/directory/x.safetensors\": No such file or directory");
    cnn_free(m.g);
#ifdef __unix__
    CHECK(cnn_save(n.g, path));
    bytes old = read_whole(path);
    train(&n, 3, 4);
    struct rlimit limit, small = { 2000, 2000 };
    getrlimit(RLIMIT_FSIZE, &limit);
    small.rlim_max = limit.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    bool done = cnn_save(n.g, path);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(!done);
    CHECK_STR(cnn_error(n.g), "save \"test_files.safetensors\": File too large");
    bytes now = read_whole(path);
    CHECK(old.n == now.n && memcmp(old.p, now.p, now.n) == 0);
    free(old.p), free(now.p);
#ifdef __linux__
    m = build(0);
    CHECK(!cnn_save(m.g, "/dev/full"));
    CHECK_STR(cnn_error(m.g), "save \"/dev/full\": No space left on device");
    cnn_free(m.g);
#endif
#endif
    cnn_graph *empty = cnn_new();
    CHECK(!cnn_save(empty, path));
    CHECK_STR(cnn_error(empty), "save \"test_files.safetensors\": call cnn_compile first");
    cnn_free(empty);
    remove(path);
    g = cnn_load("test_files.none");
    CHECK(strstr(cnn_error(g), "test_files.c:") &&
          strstr(cnn_error(g), ": load \"test_files.none\": No such file or directory"));
    cnn_free(g);
    g = cnn_load(".");
    CHECK(strstr(cnn_error(g), ": load \".\": it cannot be read: Is a directory"));
    cnn_free(g);
    g = cnn_load(NULL);
    CHECK(strstr(cnn_error(g), ": load: no path was given"));
    cnn_free(g);
    CHECK(!cnn_save(NULL, path) && !cnn_load_weights(NULL, path) && !cnn_save_memory(NULL, NULL, 0));
    cnn_free(n.g), free(b.p), free(c.p);
    CHECK_INT(alloc_live, 0);
}

#ifdef __unix__
static bool exists(const char *path) { return access(path, F_OK) == 0; }
#endif

/* Rights and links stay, long names work, twins do not meet, and what killed ones left is removed. */
static void saves_leave_no_trace(void)
{
#ifdef __unix__
    static const char dir[] = "test_files.dir";
    char   path[400], link_path[] = "test_files.dir/link", left[64], name[256];
    struct stat s;
    net    n = build(0);
    CHECK(mkdir(dir, 0777) == 0);
    memset(name, 'x', 255), name[255] = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(cnn_save(n.g, path) && exists(path));
    CHECK(chmod(path, 0600) == 0 && cnn_save(n.g, path) && stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    CHECK(symlink(name, link_path) == 0 && remove(path) == 0);
    FILE *f = fopen(path, "wb");
    if (CHECK(f)) fclose(f);
    CHECK(cnn_save(n.g, link_path) && lstat(link_path, &s) == 0 && S_ISLNK(s.st_mode));
    CHECK(stat(path, &s) == 0 && s.st_size > 100);

    pid_t gone = fork();                               /* a process that is no more */
    if (gone == 0) _exit(0);
    CHECK(waitpid(gone, NULL, 0) == gone);
    for (int k = 0; k < 3; k++) {                      /* its file, just written; its file; one of a live one */
        snprintf(left, sizeof left, "%s/cnn-save-%ld-0.tmp", dir, (long)(k < 2 ? gone : getppid()));
        f = fopen(left, "wb");
        if (CHECK(f)) fclose(f);
        struct utimbuf old = { time(NULL) - 100, time(NULL) - 100 };
        if (k) CHECK(utime(left, &old) == 0);
        CHECK(cnn_save(n.g, path) && exists(left) == (k != 1));
        remove(left);
    }
    pid_t child[8];
    int   bad = 0;
    for (int i = 0; i < 8; i++)
        if ((child[i] = fork()) == 0) {
            for (int k = 0; k < 20; k++) bad += !cnn_save(n.g, path);
            _exit(bad);
        }
    for (int i = 0, status; i < 8; i++)
        CHECK(waitpid(child[i], &status, 0) == child[i] && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cnn_graph *g = cnn_load(path);
    CHECK_STR(cnn_error(g), NULL);
    remove(link_path), remove(path);
    CHECK_MSG(rmdir(dir) == 0, "something is left in %s", dir);
    cnn_free(g), cnn_free(n.g);
#else
    test_skip("no fork here");
#endif
}

/* A seed that is given counts, also as 0; else it is that of the file. */
static void seeds(void)
{
#ifndef CNN_NO_STDIO
    const char *path = "test_files.seed";
    net n = build(0);
    CHECK(cnn_save(n.g, path));
    cnn_graph *g = cnn_load(path), *h = cnn_load(path, .seed = 0), *k = cnn_load(path, .seed = 5);
    CHECK(g->config.seed == n.g->config.seed && h->config.seed == 0 && k->config.seed == 5);
    cnn_free(g), cnn_free(h), cnn_free(k), cnn_free(n.g), remove(path);
#endif
}

/* A locale whose numbers have a comma changes nothing. */
static void any_locale(void)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8",
        "nl_NL.UTF-8" };
    net    n = build(1);
    bytes  b = saved(n.g);
    size_t i = 0;
    while (i < sizeof names / sizeof *names && !setlocale(LC_ALL, names[i])) i++;
    if (i == sizeof names / sizeof *names) {
        cnn_free(n.g), free(b.p);
        test_skip("no locale with a decimal comma is installed");
        return;
    }
    bytes      c = saved(n.g);
    cnn_graph *g = loaded(b.p, b.n);
    CHECK(b.n == c.n && memcmp(b.p, c.p, b.n) == 0);
    CHECK_STR(cnn_error(g), NULL);
    CHECK(same_weights(n.g, g));
    setlocale(LC_ALL, "C");
    cnn_free(n.g), cnn_free(g), free(b.p), free(c.p);
}

/* ---- Data sets ---- */

static const unsigned char images[4 + 12 + 12] = { 0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2,
                                                   0, 51, 102, 255, 1, 2, 3, 4, 5, 6, 7, 8 };
static const unsigned char labels[4 + 4 + 3] = { 0, 0, 8, 1, 0, 0, 0, 3, 4, 0, 9 };

static void try_idx(const unsigned char *a, size_t n, const unsigned char *b, size_t m, const char *message)
{
    unsigned char *p = test_alloc(n), *q = b ? test_alloc(m) : NULL;
    if (n) memcpy(p, a, n);
    if (q && m) memcpy(q, b, m);
    cnn_dataset d = cnn_idx_memory(p, n, q, m);
    CHECK((d.count > 0) == !d.error[0]);
    if (message) CHECK_STR(d.error, message);
    if (d.count > 0) {                                 /* read all that it promises */
        long sum = 0;
        for (int i = 0; i < d.count; i++) {
            sum += d.labels ? d.labels[i] : 0;
            for (int k = 0; k < d.shape.c * d.shape.h * d.shape.w; k++)
                sum += d.bytes[(size_t)i * (size_t)(d.shape.c * d.shape.h * d.shape.w) + (size_t)k];
        }
        CHECK(sum >= 0);
    }
    cnn_dataset_free(&d);
    free(p), free(q);
}

static void idx_files(void)
{
    try_idx(images, sizeof images, labels, sizeof labels, "");
    try_idx(images, sizeof images, NULL, 0, "");
    cnn_dataset d = cnn_idx_memory(images, sizeof images, labels, sizeof labels);
    CHECK_INT(d.count, 3), CHECK_INT(d.classes, 10), CHECK_INT(d.shape.c, 1), CHECK_INT(d.shape.h, 2),
        CHECK_INT(d.shape.w, 2);
    CHECK(d.bytes[3] == 255 && d.labels[2] == 9 && d.order[2] == 2);
    cnn_dataset_free(&d);

    for (size_t n = 0; n < sizeof images; n++) try_idx(images, n, labels, sizeof labels, NULL);
    for (size_t n = 0; n < sizeof labels; n++) try_idx(images, sizeof images, labels, n, NULL);
    try_idx(images, 20, labels, sizeof labels,
            "images: truncated: the header promises 12 pixel bytes, the file has 4");
    try_idx(images, 9, labels, sizeof labels, "images: truncated: the header has 16 bytes, the file has 9");
    try_idx(images, 3, labels, sizeof labels,
            "images: truncated: an IDX file begins with 4 bytes, the file has 3");
    try_idx(images, sizeof images, labels, 9,
            "labels: truncated: the header promises 3 label bytes, the file has 1");

    static const struct { int at; unsigned char v; const char *message; } image_lies[] = {
        { 0, 1, "images: not an IDX file: it begins with 01 00, not with 00 00" },
        { 2, 13, "images: elements of type 0x0d: only unsigned bytes, 0x08, can be read" },
        { 3, 1, "images: 1 dimensions: pixel files have 2 to 4" },
            { 3, 5, "images: 5 dimensions: pixel files have 2 to 4" },
        { 7, 4, "images: truncated: the header promises 16 pixel bytes, the file has 12" },
        { 7, 2, "images: the header promises 8 pixel bytes, the file has 4 more" },
        { 7, 0, "images: dimension 1 is 0: it must be 1 to 2147483647" },
        { 8, 255, "images: dimension 2 is 4278190082: it must be 1 to 2147483647" },
        { 3, 2, "images: the header promises 6 pixel bytes, the file has 10 more" } };
    for (size_t i = 0; i < sizeof image_lies / sizeof *image_lies; i++) {
        unsigned char m[sizeof images];
        memcpy(m, images, sizeof m);
        m[image_lies[i].at] = image_lies[i].v;
        try_idx(m, sizeof m, labels, sizeof labels, image_lies[i].message);
    }
    static const unsigned char huge[] = { 0, 0, 8, 3, 127, 255, 255, 255, 127, 255, 255, 255, 127, 255, 255,
        255, 0 };
    char want[256];
    snprintf(want, sizeof want, "images: truncated: the header promises %zu pixel bytes, the file has 1",
             (size_t)SIZE_MAX);
    try_idx(huge, sizeof huge, NULL, 0, want);
    unsigned char two[sizeof labels];
    memcpy(two, labels, sizeof two);
    two[7] = 2;
    try_idx(images, sizeof images, two, sizeof two - 1, "images has 3 images, but labels has 2 labels");
    two[0] = 0x1f, two[1] = 0x8b;
    try_idx(images, sizeof images, two, sizeof two, "labels is gzipped: gunzip it first");

    for (int round = 0; round < 40000; round++) {
        unsigned char a[sizeof images], b[sizeof labels];
        memcpy(a, images, sizeof a), memcpy(b, labels, sizeof b);
        for (int k = test_int(1, 3); k > 0; k--) {
            a[test_int(0, (int)sizeof a - 1)] = (unsigned char)test_int(0, test_chance(50) ? 9 : 255);
            if (test_chance(30)) b[test_int(0, (int)sizeof b - 1)] = (unsigned char)test_int(0, 255);
        }
        try_idx(a, sizeof a - (size_t)test_int(0, 1), b, sizeof b, NULL);
    }
    CHECK_INT(alloc_live, 0);

    static const char image_path[] = "test_files_images", label_path[] = "test_files_labels";
    FILE *f = fopen(image_path, "wb"), *h = fopen(label_path, "wb");
    CHECK(f && fwrite(images, 1, sizeof images, f) == sizeof images && h &&
          fwrite(labels, 1, sizeof labels, h) == sizeof labels);
    if (f) fclose(f);
    if (h) fclose(h);
    d = cnn_load_idx(image_path, label_path);
    CHECK_STR(d.error, "");
    CHECK_INT(d.count, 3);
    cnn_dataset_free(&d);
    d = cnn_load_idx(label_path, label_path);
    CHECK_STR(d.error, "test_files_labels: 1 dimensions: pixel files have 2 to 4");
    cnn_dataset_free(&d);
    d = cnn_load_idx(image_path, "test_files_none");
    CHECK_STR(d.error, "test_files_none: No such file or directory");
    CHECK_INT(d.count, 0);
    cnn_dataset_free(&d);
    d = cnn_load_idx(NULL, NULL);
    CHECK_STR(d.error, "cnn_load_idx: no path was given");
    cnn_dataset_free(&d);
    remove(image_path), remove(label_path);
    CHECK_INT(alloc_live, 0);
}

static void order_and_splits(void)
{
    enum { N = 1000 };
    static unsigned char pixel[N], label[N];
    for (int i = 0; i < N; i++) label[i] = (unsigned char)(i % 7);
    cnn_dataset d = cnn_bytes(pixel, label, N, 1, 1, 1);
    CHECK_INT(d.count, N), CHECK_INT(d.classes, 7);
    int order[N], seen[N] = { 0 }, moved = 0;
    cnn_shuffle(&d, 3);
    memcpy(order, d.order, sizeof order);
    for (int i = 0; i < N; i++) seen[order[i]]++, moved += order[i] != i;
    for (int i = 0; i < N; i++) CHECK_INT(seen[i], 1);
    CHECK(moved > 950);
    cnn_shuffle(&d, 4);
    CHECK(memcmp(order, d.order, sizeof order) != 0);
    cnn_shuffle(&d, 3);
    CHECK_SAME_BITS(order, d.order, N);

    cnn_dataset a = cnn_split(&d, 0, 800), b = cnn_split(&d, 800, 200), moved_to = b;
    CHECK_SAME_BITS(a.order, order, 800);
    CHECK_SAME_BITS(moved_to.order, order + 800, 200);
    cnn_shuffle(&a, 9);
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < 800; i++) seen[a.order[i]]++;
    for (int i = 0; i < 800; i++) CHECK_INT(seen[order[i]], 1);
    cnn_dataset none = cnn_split(&d, 801, 200), of_none = cnn_split(&none, 0, 1);
    CHECK_STR(none.error, "split: 200 samples from sample 801 on: the data set has 1000");
    CHECK_STR(of_none.error, none.error);
    CHECK_INT(none.count, 0);
    cnn_dataset_free(&none), cnn_dataset_free(&of_none), cnn_dataset_free(&a), cnn_dataset_free(&b),
        cnn_dataset_free(&d);
    cnn_dataset_free(&d), cnn_dataset_free(NULL);

    long count[6] = { 0 };                             /* all 3! orders, equally often */
    for (uint64_t seed = 0; seed < 6000; seed++) {
        cnn_dataset s = cnn_bytes(pixel, NULL, 3, 1, 1, 1);
        cnn_shuffle(&s, seed);
        count[s.order[0] * 2 + (s.order[1] > s.order[2])]++;
        cnn_dataset_free(&s);
    }
    for (int i = 0; i < 6; i++)
        CHECK_MSG(count[i] > 880 && count[i] < 1120, "order %d came %ld times", i, count[i]);

    cnn_dataset bad = cnn_bytes(NULL, NULL, 3, 1, 1, 1);
    CHECK_STR(bad.error, "data set: the values are NULL");
    bad = cnn_bytes(pixel, NULL, 0, 1, 1, 1);
    CHECK_STR(bad.error, "data set: 0 samples: there must be at least one");
    bad = cnn_bytes(pixel, NULL, 1, 1 << 16, 1 << 16, 1);
    CHECK_STR(bad.error,
              "data set: samples of (65536,65536,1): every extent must be at least 1, and the product at most "
              "2^31 - 1");
    CHECK_INT(alloc_live, 0);
}

static void feeding(void)
{
    static const unsigned char pixel[2 * 5 * 2] = { 0, 255, 51, 51, 102, 153, 204, 51, 255, 255, 0, 51, 51,
        102, 102, 0, 0, 0, 255, 0 };
    static const unsigned char label[2] = { 1, 2 };
    cnn_dataset d = cnn_bytes(pixel, label, 2, 5, 2, 1);
    cnn_graph  *g = cnn_new(.max_batch = 8);
    cnn_tensor *x = cnn_input(g, 5, 2), *t = cnn_labels(g), *h = cnn_dense(x, 3);
    CHECK(cnn_compile(g, cnn_softmax_cross_entropy(h, t)));
    float v[20], c[2];
    CHECK_INT(cnn_feed(x, t, &d, 0), 2);
    CHECK_INT(cnn_batch(g), 2);
    CHECK(cnn_get(x, v, 20) && cnn_get(t, c, 2));
    for (int i = 0; i < 20; i++) CHECK(v[i] == (float)pixel[i] / 255.0f);
    CHECK(c[0] == 1 && c[1] == 2);
    CHECK_INT(cnn_feed(x, NULL, &d, 1), 1);
    CHECK_INT(cnn_feed(x, NULL, &d, 2), 0);
    CHECK_STR(cnn_error(g), NULL);

    cnn_standardize(&d, &d);                           /* channels 0, 1, 2; then 3 and 4 together */
    CHECK_INT(cnn_feed(x, t, &d, 0), 2);
    CHECK(cnn_get(x, v, 20));
    for (int k = 0; k < 4; k++) {
        double sum = 0, squares = 0, n = 0;
        for (int i = 0; i < 2; i++)
            for (int j = k * 2; j < (k < 3 ? k * 2 + 2 : 10); j++)
                sum += (double)v[i * 10 + j], squares += (double)(v[i * 10 + j] * v[i * 10 + j]), n++;
        CHECK_NEAR(sum / n, 0, 1e-6);
        CHECK_NEAR(squares / n, 1, 1e-5);
    }
    cnn_dataset f = cnn_floats(v, label, 2, 5, 2, 1);
    float again[20];
    CHECK_INT(cnn_feed(x, t, &f, 0), 2);
    CHECK(cnn_get(x, again, 20));
    CHECK_SAME_BITS(v, again, 20);
    cnn_standardize(&f, &f);
    CHECK_NEAR(f.mean[1], 0, 1e-6);
    CHECK_NEAR(f.deviation[3], 1, 1e-5);

    static const unsigned char same[4] = { 9, 9, 9, 9 };
    cnn_dataset flat = cnn_bytes(same, NULL, 2, 1, 2, 1);
    cnn_standardize(&flat, &flat);
    CHECK(flat.deviation[0] == 1 && flat.mean[0] == 9 / 255.0f);
    CHECK_INT(cnn_feed(x, NULL, &flat, 0), 0);
    CHECK_STR(test_words(cnn_error(g)), "feed: the samples have shape (1,2,1), the input has (N,5,2,1)");
    cnn_standardize(&flat, &f);
    CHECK_STR(flat.error, "standardize: 1 channels, the other data set has 5");
    static const float with_nan[4] = { 1, 2, NAN, 4 };
    cnn_dataset ill = cnn_floats(with_nan, NULL, 2, 2, 1, 1);
    cnn_standardize(&ill, &ill);
    CHECK_STR(ill.error, "standardize: channel 0 holds NaN or Inf");
    CHECK_INT(ill.count, 0);
    cnn_dataset_free(&ill);
    CHECK_INT(flat.count, 0);
    cnn_free(g);

    for (int k = 0; k < 5; k++) {
        g = cnn_new(.max_batch = 8);
        x = cnn_input(g, 5, 2), t = cnn_labels(g), h = cnn_dense(x, 3);
        CHECK(cnn_compile(g, cnn_softmax_cross_entropy(h, t)));
        cnn_dataset no_labels = cnn_bytes(pixel, NULL, 2, 5, 2, 1);
        static const char *const want[] = { "feed: the data set is NULL",
            "feed: data set: standardize: 1 channels, the other data set has 5",
            "feed: the data set has no labels", "feed: first is -1: samples are counted from 0",
            "feed: targets go to a tensor made by cnn_labels or by another cnn_input in the graph of the input" };
        int got = k == 0 ? cnn_feed(x, t, NULL, 0) : k == 1 ? cnn_feed(x, t, &flat, 0) : k == 2
            ? cnn_feed(x, t, &no_labels, 0)
                : k == 3 ? cnn_feed(x, t, &d, -1) : cnn_feed(x, x, &d, 0);
        CHECK_INT(got, 0);
        CHECK_STR(test_words(cnn_error(g)), want[k]);
        CHECK_INT(cnn_feed(x, t, &d, 0), 0);
        cnn_free(g), cnn_dataset_free(&no_labels);
    }
    cnn_dataset_free(&d), cnn_dataset_free(&f), cnn_dataset_free(&flat);
    CHECK_INT(alloc_live, 0);
}

static void correct_counts(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 4);
    cnn_tensor *z = cnn_input(g, 3, 1, 2), *t = cnn_labels(g, .w = 2);
    cnn_tensor *h = cnn_mul(z, cnn_param(g, "p", { 1, 1, 1, 1 }, .init = CNN_INIT_CONSTANT, .gain = 1));
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    CHECK(cnn_compile(g, loss));
    const float logits[3 * 6] = { 1, 5, 2, 4, 0, 4,    /* pixel 0: class 1; pixel 1: class 0 */
                                  7, 2, 7, 2, 7, 2,    /* ties: class 0 */
                                  (float)NAN, 1, 0, 2, 0, 3 };
    const int label[6] = { 1, 0, 0, 1, 0, 2 };
    CHECK(cnn_set(z, logits, 18) && cnn_set_labels(t, label, 6));
    cnn_forward(loss, CNN_EVAL);
    CHECK_INT(cnn_correct(h, t), 4);
    CHECK_INT(cnn_correct(loss, t), 0);
    CHECK(strstr(cnn_error(g),
                 "correct: logits (1,1,1,1) and labels (N,1,1,2): they must be (N,C,H,W) and (N,1,H,W)"));
    cnn_free(g);
    CHECK_INT(alloc_live, 0);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(file_round_trip);
    RUN(load_then_continue_training);
    RUN(load_for_inference);
    RUN(output_is_what_the_loss_judges);
    RUN(weights_from_pytorch);
    RUN(ranks_in_the_file);
    RUN(hostile_headers);
    RUN(other_types);
    RUN(batches_are_counted);
    RUN(all_or_nothing);
    RUN(hostile_graphs);
    RUN(hostile_state);
    RUN(names);
    RUN(hostile_statistics);
    RUN(costs);
    RUN(truncated_everywhere);
    RUN(mutated);
    RUN(allocations_fail_one_by_one);
    RUN(save_is_atomic);
    RUN(saves_leave_no_trace);
    RUN(seeds);
    RUN(any_locale);
    RUN(idx_files);
    RUN(order_and_splits);
    RUN(feeding);
    RUN(correct_counts);
    return test_end();
}
