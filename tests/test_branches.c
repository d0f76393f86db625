/* test_branches.c - the less trodden ways: refusals that no other test asks for, hints of the doctor, extreme draws, sizes
   at their limits. `make coverage` says which branches are left. */
#define _XOPEN_SOURCE 700
#include "alloc.h"
#include "cnn.h"
#include "inside.h"
#include "test.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef cnn_tensor T;

/* The graph's error contains these words; it is forgotten. */
static void says_(cnn_graph *g, const char *words, int line)
{
    const char *error = cnn_error(g);
    CHECK_MSG(error && strstr(error, words), "line %d: the message is\n        %s\n    without\n        %s", line,
              error ? error : "NULL", words);
    cnn_clear_error(g);
}
#define SAYS(g, words) says_((g), (words), __LINE__)
/* The same of a data set, which is freed. */
static void data_says_(cnn_dataset d, const char *words, int line)
{
    CHECK_MSG(strstr(d.error, words), "line %d: the message is\n        %s\n    without\n        %s", line, d.error, words);
    cnn_dataset_free(&d);
}
#define DATA_SAYS(d, words) data_says_((d), (words), __LINE__)

/* ---- A graph from its options ---- */

static bool closed;
static void close_device(cnn_backend *dev) { (void)dev, closed = true; }

static void what_a_graph_is_made_of(void)
{
    /* An optimizer without its parentheses, each of them. */
#define AS_OPTIMIZER(name) (const cnn_optimizer *)(uintptr_t)cnn_##name,
    const cnn_optimizer *const functions[] = { CNN_OPTIMIZERS(AS_OPTIMIZER) };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        cnn_graph *g = cnn_new(.optimizer = functions[i]);
        SAYS(g, "the optimizer is a function: call it");
        cnn_free(g);
    }
    cnn_optimizer greedy = *cnn_sgd();
    greedy.slots = CNN_MAX_SLOTS + 1;
    cnn_graph *g = cnn_new(.optimizer = &greedy);
    SAYS(g, "wants 4 slots: at most 3");
    cnn_free(g);
    greedy.slots = -1;
    SAYS(g = cnn_new(.optimizer = &greedy), "wants -1 slots");
    cnn_free(g);

    /* The instruction set of the environment: none of these; one of them; empty is as if it were not set. */
    const char *before = getenv("CNN_ISA");
    char        kept[20] = "";
    if (before) snprintf(kept, sizeof kept, "%s", before);
    setenv("CNN_ISA", "sse9", 1);
    SAYS(g = cnn_new(.max_batch = 1), "CNN_ISA=sse9: not one of ");
    cnn_free(g);
    for (int k = 0; k < 2; k++) {
        setenv("CNN_ISA", k ? "plain" : "", 1);
        g = cnn_new(.max_batch = 1);
        T *y = cnn_conv2d(cnn_input(g, 1, 4, 4), 1, 3, .name = "c");
        FILE *f = tmpfile();
        char  text[2000] = "";
        CHECK(!cnn_error(g) && cnn_compile(g, cnn_sum(y)) && f);
        cnn_summary(g, f), rewind(f);
        CHECK(fread(text, 1, sizeof text - 1, f) > 100 && (strstr(text, "cpu plain") != NULL) == k);
        fclose(f), cnn_free(g);
    }
    if (before) setenv("CNN_ISA", kept, 1);
    else        unsetenv("CNN_ISA");

    /* A device is closed, too, where there is no memory for the graph, and its error is the graph's. */
    cnn_backend dev = { .name = "mirror", .close = close_device };
    alloc_fail = alloc_count + 1;
    CHECK(!cnn_new(.backend = &dev) && closed);
    alloc_fail = alloc_count + 1, closed = false;
    CHECK(!cnn_new(.max_batch = 1) && !closed);
    alloc_fail = 0;
    snprintf(dev.error, sizeof dev.error, "the device burns");
    dev.close = NULL;
    g = cnn_new(.backend = &dev);
    SAYS(g, "the device burns");
    cnn_free(g);
}

/* ---- Recording ---- */

static void operations_refuse(void)
{
    enum { HUGE_EXTENT = INT_MAX, UNARY = 6 };
    /* Operations of one operand with two, as a program of a file or of a third party may ask. */
    const cnn_pad_args             pad = { .left = 1 };
    const cnn_block_args           block = { .block = 2 };
    const cnn_slice_args           slice = { .axis = CNN_C, .to = 1 };
    const cnn_permute_args         permute = { .c = CNN_C, .h = CNN_W, .w = CNN_H };
    const cnn_channel_shuffle_args shuffle = { .groups = 2 };
    const cnn_op *const op[UNARY] = { &cnn_op_pad, &cnn_op_depth_to_space, &cnn_op_space_to_depth, &cnn_op_slice, &cnn_op_permute,
                                      &cnn_op_channel_shuffle };
    const void *const   args[UNARY] = { &pad, &block, &block, &slice, &permute, &shuffle };
    for (int i = 0; i < UNARY; i++) {
        cnn_graph *g = cnn_new(.max_batch = 2);
        T *x = cnn_input(g, 4, 2, 2), *two[2] = { x, x };
        CHECK(cnn_apply(op[i], two, 1, args[i], CNN_HERE)->graph == g);
        cnn_apply(op[i], two, 2, args[i], CNN_HERE);
        SAYS(g, "2 operands: it takes 1");
        cnn_free(g);
    }

    /* Sizes at their limits: each axis alone. */
    for (int axis = 0; axis < 3; axis++) {
        cnn_graph *g = cnn_new(.max_batch = 1);
        cnn_pad(cnn_input(g, axis == 0 ? HUGE_EXTENT : 1, axis == 1 ? HUGE_EXTENT : 1, axis == 2 ? HUGE_EXTENT : 1), .left = 1);
        SAYS(g, "is too large");
        cnn_free(g);
        if (axis == 0) continue;
        g = cnn_new(.max_batch = 1);
        cnn_depth_to_space(cnn_param(g, "w", { 1, 1, axis == 1 ? HUGE_EXTENT : 1, axis == 2 ? HUGE_EXTENT : 1 }), 1);
        CHECK(!cnn_error(g));                                     /* a block of 1 changes nothing */
        cnn_free(g);
        g = cnn_new(.max_batch = 1);
        cnn_depth_to_space(cnn_input(g, 4, axis == 1 ? HUGE_EXTENT / 4 : 1, axis == 2 ? HUGE_EXTENT / 4 : 1), 2);
        CHECK(!cnn_error(g));
        cnn_free(g);
    }

    /* A mirror is smaller than what is added: each side alone. */
    for (int side = 0; side < 6; side++) {
        cnn_graph *g = cnn_new(.max_batch = 1);
        cnn_pad_args a = { .at = CNN_HERE, .x = cnn_input(g, 2, 2, 2), .mode = CNN_PAD_REFLECT };
        int *const amount[] = { &a.front, &a.back, &a.top, &a.bottom, &a.left, &a.right };
        *amount[side] = 1;
        CHECK(cnn_pad_(a)->graph == g);
        *amount[side] = 2;
        cnn_pad_(a);
        SAYS(g, "in the mirror, without its edge, is less");
        cnn_free(g);
    }

    cnn_graph *g = cnn_new(.max_batch = 1);
    cnn_space_to_depth(cnn_input(g, 1, 3, 4), 2);
    SAYS(g, "block 2 must divide the rows and columns");
    cnn_free(g);
    SAYS((cnn_space_to_depth(cnn_input(g = cnn_new(.max_batch = 1), 1, 4, 3), 2), g), "block 2 must divide the rows and columns");
    cnn_free(g);
    SAYS((cnn_depth_to_space(cnn_input(g = cnn_new(.max_batch = 1), 6, 2, 2), 2), g), "its square must divide the 6 channels");
    cnn_free(g);
    SAYS((cnn_channel_shuffle(cnn_input(g = cnn_new(.max_batch = 1), 6), 4), g), "groups 4 must divide the 6 channels");
    cnn_free(g);

    /* Together more than 2^31 - 1 channels; and a sample beside a batch. */
    g = cnn_new(.max_batch = 1);
    T *wide = cnn_input(g, 1 << 30), *three[3] = { wide, wide, wide };
    cnn_concat_(CNN_HERE, three, 3);
    SAYS(g, "is empty or larger than 2^31 - 1 elements");
    cnn_free(g);
    g = cnn_new(.max_batch = 1);
    cnn_concat(cnn_input(g, 2), cnn_param(g, "p", { 1, 2, 1, 1 }));
    SAYS(g, "operand 2 is");
    cnn_free(g);

    /* Two tensors without a batch, whose first axes differ. */
    g = cnn_new(.max_batch = 1);
    cnn_add(cnn_param(g, "a", { 2, 3, 1, 1 }), cnn_param(g, "b", { 3, 3, 1, 1 }));
    SAYS(g, "each extent must be equal, or 1 in one of them");
    cnn_free(g);
}

/* Two nodes of one name: where the first was recorded is said, if it is known. */
static void twins(void)
{
    for (int known = 0; known < 2; known++) {
        cnn_graph *g = cnn_new(.max_batch = 1);
        T *x = cnn_input(g, 2), *a = cnn_apply(&cnn_op_relu, &x, 1, NULL, known ? "here.c:1" : NULL);
        T *b = cnn_apply(&cnn_op_relu, &a, 1, NULL, "here.c:2"), *c = cnn_tanh(b);
        cnn_name(a, "twin"), cnn_name(b, "twin"), cnn_name(c, "other"), cnn_name(x, "other");
        CHECK(!cnn_compile(g, cnn_sum(c)));
        const char *error = cnn_error(g);
        CHECK(error && strstr(error, "another node has the same name") && (strstr(error, ", recorded at here.c:1") != NULL) == known);
        cnn_free(g);
    }
}

static bool no_forward(cnn_backend *none, T *y, cnn_mode mode) { return (void)none, (void)y, (void)mode, true; }
static bool never(const cnn_backend *none, const T *y) { return (void)none, (void)y, false; }
static bool no_backward(cnn_backend *none, T *y) { return (void)none, (void)y, true; }

/* A row that replaces the forward of an operation that saves something must replace its backward. */
static void half_a_row(void)
{
    const struct { cnn_kernel row; bool train, good; } cases[] = {
        { { &cnn_op_max_pool, .forward = no_forward }, true, false },
        { { &cnn_op_max_pool, .forward = no_forward }, false, true },                      /* nothing runs backward */
        { { &cnn_op_max_pool, .forward = no_forward, .backward = no_backward }, true, true },
        { { &cnn_op_max_pool, .backward = no_backward }, true, true },
        { { &cnn_op_max_pool, .accepts = never, .forward = no_forward }, true, true },
        { { &cnn_op_tanh, .forward = no_forward }, true, true } };                        /* saves nothing */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const cnn_kernel rows[2] = { cases[i].row, { .op = NULL } };
        cnn_graph *g = cnn_new(.max_batch = 1, .rows = rows, .inference = !cases[i].train);
        T *loss = cnn_sum(cnn_tanh(cnn_max_pool(cnn_conv2d(cnn_input(g, 1, 4, 4), 1, 3), 2)));
        CHECK(cnn_compile(g, loss) == cases[i].good);
        if (!cases[i].good) SAYS(g, "a row that replaces forward must replace backward as well");
        cnn_free(g);
    }
}

/* Why a gradient cannot be read. */
static void no_gradient(void)
{
    cnn_graph *g = cnn_new(.max_batch = 2);
    T *x = cnn_input(g, 2), *asked = cnn_input(g, 2, .name = "asked", .grad = 1), *y = cnn_add(cnn_dense(x, 2, .name = "d"), asked);
    T *loss = cnn_sum(cnn_mul(y, y));
    const float v[4] = { 1, 2, 3, 4 };
    float got[4];
    CHECK(!cnn_map_grad(NULL) && !cnn_map_grad(asked));
    SAYS(g, "gradient: call cnn_compile first");
    cnn_free(g);

    g = cnn_new(.max_batch = 2, .seed = 3);
    x = cnn_input(g, 2), asked = cnn_input(g, 2, .name = "asked", .grad = 1), y = cnn_add(cnn_dense(x, 2, .name = "d"), asked);
    loss = cnn_sum(cnn_mul(y, y));
    CHECK(cnn_compile(g, loss) && cnn_set(x, v, 4) && cnn_set(asked, v, 4));
    CHECK(!cnn_map_grad(x));
    SAYS(g, "it was not asked for: say cnn_input(..., .grad = 1)");
    CHECK(!cnn_map_grad(asked));
    SAYS(g, "the last call was not cnn_backward");
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK(cnn_get_grad(asked, got, 4));                            /* 2 y */
    float value[4];
    CHECK(!cnn_map_grad(y));
    SAYS(g, "it is not kept; say cnn_new(.keep_grads = 1)");
    for (int i = 0; i < 4; i++) value[i] = got[i] / 2 - v[i];     /* the dense layer alone */
    float w[4], b[2];
    CHECK(cnn_get(cnn_find(g, "d.weight"), w, 4) && cnn_get(cnn_find(g, "d.bias"), b, 2));
    for (int n = 0; n < 2; n++)
        for (int o = 0; o < 2; o++) CHECK_NEAR(value[2 * n + o], w[2 * o] * v[2 * n] + w[2 * o + 1] * v[2 * n + 1] + b[o], 1e-5);
    CHECK(cnn_set_batch(g, 1) && !cnn_map_grad(asked));
    SAYS(g, "it was computed for 2 samples, and now the batch is 1");
    CHECK(cnn_get_grad(loss, got, 1) && got[0] == 1);
    cnn_free(g);
}

/* ---- Data: what files may hold, and memory that ends ---- */

static size_t put_npy(unsigned char *to, int version, const char *header, const void *values, size_t bytes)
{
    const size_t n = strlen(header), head = version > 1 ? 12 : 10;
    memcpy(to, "\x93NUMPY", 6), to[6] = (unsigned char)version, to[7] = 0;
    for (size_t i = 0; i < head - 8; i++) to[8 + i] = (unsigned char)(n >> 8 * i);
    memcpy(to + head, header, n), memcpy(to + head + n, values, bytes);
    return head + n + bytes;
}

static void odd_files(void)
{
    /* IDX: images without rows, volumes without columns. */
    unsigned char idx[64] = { 0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6 };
    cnn_dataset   d = cnn_idx_memory(idx, 18, NULL, 0);
    CHECK(!d.error[0] && d.count == 2 && d.shape.c == 3 && d.shape.h == 1 && d.shape.w == 1 && d.bytes[5] == 6);
    cnn_dataset_free(&d);
    const unsigned char four[] = { 0, 0, 8, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 9, 8, 7, 6, 5, 4 };
    d = cnn_idx_memory(four, sizeof four, NULL, 0);
    CHECK(!d.error[0] && d.count == 1 && d.shape.c == 2 && d.shape.h == 1 && d.shape.w == 3 && d.bytes[0] == 9);
    cnn_dataset_free(&d);

    /* .npy: the long header of version 2, cut off within its length; a double above every float; a half Inf. */
    unsigned char npy[200];
    const float   two[2] = { 1.5f, -2 };
    size_t        n = put_npy(npy, 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", two, sizeof two);
    d = cnn_npy_memory(npy, n, NULL, 0);
    CHECK(!d.error[0] && d.count == 2 && d.floats[0] == 1.5f && d.floats[1] == -2);
    cnn_dataset_free(&d);
    DATA_SAYS(cnn_npy_memory(npy, 11, NULL, 0), "truncated: the header has ");
    DATA_SAYS(cnn_npy_memory(npy, n - 9, NULL, 0), "truncated: the header has ");
    const double large[2] = { 1, 1e39 };
    n = put_npy(npy, 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", large, sizeof large);
    DATA_SAYS(cnn_npy_memory(npy, n, NULL, 0), "element 1 is 1e+39: too large for a float");
    const uint16_t half[4] = { 0x7C00, 0xFC00, 0x7E00, 0x0001 };
    n = put_npy(npy, 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (4,), }", half, sizeof half);
    d = cnn_npy_memory(npy, n, NULL, 0);
    CHECK(!d.error[0] && d.count == 4);
    if (d.count == 4) {
        uint32_t bits[4];
        for (int i = 0; i < 4; i++) bits[i] = cnn__bits_of_float(d.floats[i]);
        CHECK(bits[0] == 0x7F800000 && bits[1] == 0xFF800000 && (bits[2] & 0x7FFFFFFF) > 0x7F800000);
        CHECK_NEAR(d.floats[3] * 16777216.0, 1, 1e-9);                        /* 2^-24 */
    }
    cnn_dataset_free(&d);

    /* CSV: numbers of ten thousand digits; columns that do not make a sample. */
    static char long_number[25000];
    memset(long_number, '0', 10100), memcpy(long_number, "0.", 2), strcpy(long_number + 10100, "7,1\n");
    d = cnn_csv_memory(long_number, strlen(long_number), (cnn_csv_args){ .label = -1 });
    CHECK(!d.error[0] && d.count == 1 && d.floats[0] == 0 && d.labels[0] == 1);       /* 7e-10099 */
    cnn_dataset_free(&d);
    memset(long_number, '9', 10100);
    DATA_SAYS(cnn_csv_memory(long_number, strlen(long_number), (cnn_csv_args){ .label = -1 }), "is no number that fits");
    memset(long_number, '1', 40), memset(long_number + 40, '0', 10), strcpy(long_number + 50, ".5e-40,1\n");
    d = cnn_csv_memory(long_number, strlen(long_number), (cnn_csv_args){ .label = -1 });
    CHECK(!d.error[0]);
    if (!d.error[0]) CHECK_NEAR(d.floats[0] * 1e-10, 0.1111111111, 1e-6);     /* 50 digits, 40 places back */
    cnn_dataset_free(&d);
    DATA_SAYS(cnn_csv_memory("1,2,3\n", 6, (cnn_csv_args){ .c = 2 }), "samples of (2,1,1), but the first line has 3 values");
    DATA_SAYS(cnn_csv_memory("1\n", 2, (cnn_csv_args){ .label = 1 }), "samples of (0,1,1), but the first line has 0 values");
    d = cnn_csv_memory("1,2,3,4,5,6\n", 12, (cnn_csv_args){ .h = 2, .w = 3 });
    CHECK(!d.error[0] && d.shape.c == 1 && d.shape.h == 2 && d.shape.w == 3);
    cnn_dataset_free(&d);
}

/* Every allocation of every loader fails once: a message, and nothing is left. */
enum { LOADERS = 8 };
static char folder_of_pictures[40];
static bool fill_zeros(cnn_request *want, void *user)
{
    const int values = *(const int *)user;
    for (int i = 0; i < want->n * values; i++) {
        if (want->floats) want->floats[i] = (float)want->index[i / values];
        else              want->bytes[i] = (unsigned char)want->index[i / values];
    }
    for (int i = 0; want->labels && i < want->n; i++) want->labels[i] = want->index[i] % 3;
    return true;
}
static int one_value = 1;
static cnn_dataset load_number(int k)
{
    static const unsigned char images[] = { 0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 1, 1, 2 }, labels[] = { 0, 0, 8, 1, 0, 0, 0, 2, 0, 1 };
    static unsigned char cifar[2 * 3073], npy[200];
    const float          four[4] = { 1, 2, 3, 4 };
    const unsigned char  mark[2] = { 0, 1 };
    const size_t n = put_npy(npy, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", four, sizeof four);
    if (k == 0) return cnn_idx_memory(images, sizeof images, labels, sizeof labels);
    if (k == 1) return cnn_cifar_memory(cifar, sizeof cifar, 10);
    if (k == 2) return cnn_csv_memory("1,2\n3,4\n", 8, (cnn_csv_args){ .label = 2 });
    if (k == 3) return cnn_csv_memory("1,2\n3,4\n", 8, (cnn_csv_args){ .target = 1 });
    if (k == 4) return cnn_npy_memory(npy, n, npy, n);
    if (k == 5) return cnn_load_folder(folder_of_pictures, 1, 2, 2, .shorter = 3);
    if (k == 6) return cnn_load_folder(folder_of_pictures, 3, 2, 2, .stream = 1);
    return cnn_bytes(mark, mark, 2, 1, 1, 1);
}

/* A folder with two classes, one picture in each. */
static void make_pictures(void)
{
    snprintf(folder_of_pictures, sizeof folder_of_pictures, "/tmp/cnn-branches-XXXXXX");
    CHECK(mkdtemp(folder_of_pictures) != NULL);
    for (int k = 0; k < 2; k++) {
        char path[80];
        snprintf(path, sizeof path, "%s/class%d", folder_of_pictures, k);
        CHECK(mkdir(path, 0700) == 0);
        strcat(path, "/a.pgm");
        FILE *f = fopen(path, "wb");
        if (CHECK(f != NULL)) fputs("P5 2 3 255\nabcdef", f), fclose(f);
    }
}
static void drop_pictures(void)
{
    for (int k = 0; k < 2; k++) {
        char path[80];
        snprintf(path, sizeof path, "%s/class%d/a.pgm", folder_of_pictures, k);
        remove(path), *strrchr(path, '/') = 0, remove(path);
    }
    CHECK(remove(folder_of_pictures) == 0);
}

static void memory_ends(void)
{
    make_pictures();
    for (int k = 0; k < LOADERS; k++) {
        const long live = alloc_live, before = alloc_count;
        cnn_dataset d = load_number(k);
        const long  needed = alloc_count - before;
        CHECK_MSG(!d.error[0], "loader %d: %s", k, d.error);
        cnn_dataset_free(&d);
        CHECK(needed > 0 && alloc_live == live);
        for (long i = 1; i <= needed; i++) {
            alloc_fail = alloc_count + i;
            d = load_number(k);
            alloc_fail = 0;
            CHECK_MSG(strstr(d.error, "out of memory") != NULL, "loader %d, allocation %ld: \"%s\"", k, i, d.error);
            cnn_dataset_free(&d);
            CHECK_MSG(alloc_live == live, "loader %d, allocation %ld: %ld blocks left", k, i, alloc_live - live);
        }
    }
    drop_pictures();

    /* A stream's batches, wherever they are read. */
    cnn_dataset all = cnn_data(6, 1, .fill = fill_zeros, .user = &one_value, .target_type = CNN_I32), own;
    all.classes = 3;
    cnn_graph *g = cnn_new(.max_batch = 2, .seed = 1, .threads = 1);
    T *x = cnn_input(g, 1), *t = cnn_labels(g), *y = cnn_dense(x, 3, .name = "d"), *loss = cnn_softmax_cross_entropy(y, t);
    CHECK(cnn_compile(g, loss));
    int matrix[9];
#define FAILS(call) (alloc_fail = alloc_count + 1, (void)(call), alloc_fail = 0)
    FAILS(cnn_feed(x, t, &all, 0));
    SAYS(g, "feed: data set: out of memory");
    FAILS(cnn_evaluate(loss, y, &all));
    SAYS(g, "evaluate: data set: out of memory");
    FAILS(cnn_evaluate_flipped(loss, y, &all));
    SAYS(g, "evaluate: out of memory");
    FAILS(cnn_confusion(y, &all, matrix));
    SAYS(g, "confusion: data set: out of memory");
    FAILS(cnn_fit(loss, y, &all, .epochs = 1));
    SAYS(g, "fit: ");
    own = cnn_data(6, 1, .fill = fill_zeros, .user = &one_value);
    FAILS(cnn_standardize(&own, &all));
    DATA_SAYS(own, "standardize: out of memory");
    own = cnn_data(6, 1, .fill = fill_zeros, .user = &one_value);
    cnn_standardize(&own, &all);                                   /* 0, 1, ..., 5 */
    CHECK(!own.error[0]);
    CHECK_NEAR(own.mean[0], 2.5, 1e-6);
    CHECK_NEAR(own.deviation[0], sqrt(35.0 / 12), 1e-6);
    FAILS(cnn_remember(g, &own));
    SAYS(g, "remember: out of memory");
    CHECK(cnn_remember(g, &own) && cnn_remember(g, &all));         /* nothing is known of `all`: forgotten again */
    cnn_dataset_free(&own), cnn_dataset_free(&all), cnn_free(g);
}

/* Each way in which data do not fit what they are fed to. */
static void data_that_do_not_fit(void)
{
    static const float value[24] = { 0 };
    static const int   label[24] = { 0, 1, 2 };
    cnn_graph *g = cnn_new(.max_batch = 2, .seed = 1), *other = cnn_new(.max_batch = 2);
    T *x = cnn_input(g, 1, 2, 2), *t = cnn_labels(g), *y = cnn_dense(x, 3), *loss = cnn_softmax_cross_entropy(y, t);
    T *p = cnn_param(g, "p", { 1, 1, 1, 1 }), *stranger = cnn_labels(other);
    CHECK(cnn_compile(g, cnn_add(loss, cnn_scale(p, 0))));
    const struct { int c, h, w; } wrong[3] = { { 2, 2, 2 }, { 1, 1, 2 }, { 1, 2, 1 } };
    for (int i = 0; i < 3; i++) {
        cnn_dataset d = cnn_data(2, wrong[i].c, wrong[i].h, wrong[i].w, .floats = value, .labels = label);
        CHECK(cnn_feed(x, t, &d, 0) == 0);
        SAYS(g, "feed: the samples have shape (");
        cnn_dataset_free(&d);
    }
    cnn_dataset d = cnn_data(3, 1, 2, 2, .floats = value, .labels = label);
    T *const no_target[4] = { stranger, x, y, p };
    for (int i = 0; i < 4; i++) {
        CHECK(cnn_feed(x, no_target[i], &d, 0) == 0);
        SAYS(g, "targets go to a tensor made by cnn_labels or by another cnn_input");
    }
    CHECK(cnn_feed(x, t, &d, 0) == 2 && cnn_feed(x, t, &d, 2) == 1 && cnn_feed(x, t, &d, 3) == 0 && !cnn_error(g));
    CHECK(cnn_feed(x, t, NULL, 0) == 0);
    SAYS(g, "the data set is NULL");
    CHECK(cnn_feed(x, t, &d, -1) == 0);
    SAYS(g, "first is -1");
    for (int axis = 1; axis < 4; axis++) {                        /* labels, of another extent */
        cnn_dataset pixels = cnn_data(2, 1, 2, 2, .floats = value, .targets = value, .target_c = axis == 1 ? 2 : 1,
                                      .target_h = axis == 2 ? 2 : 1, .target_w = axis == 3 ? 2 : 1);
        CHECK(cnn_feed(x, t, &pixels, 0) == 0);
        SAYS(g, "feed: the targets have shape (");
        cnn_dataset_free(&pixels);
    }

    /* What does not fit the pictures: each field of the augmentation. */
    const float nan = (float)NAN, inf = (float)INFINITY;
    const struct { cnn_augment a; const char *why; } bad[] = {
        { { .shift = -1 }, "augment.shift is -1" }, { { .shift = 3 }, "augment.shift is 3" },
        { { .shift = 2, .reflect = 1 }, "augment.shift is 2: samples of 2x2 pixels allow 0 to 1" },
        { { .flip = -1 }, "augment.flip is -1" }, { { .flip = 3 }, "augment.flip is 3" },
        { { .cutout = -1 }, "augment.cutout is -1" }, { { .cutout = 5 }, "augment.cutout is 5" },
        { { .mixup = -1 }, "augment.mixup is -1" }, { { .mixup = nan }, "must not be negative" },
        { { .mixup = inf }, "must not be negative" }, { { .cutmix = nan }, "must not be negative" },
        { { .cutmix = inf }, "must not be negative" }, { { .mixup = 1 }, "mix labels" }, { { .cutmix = 1 }, "mix labels" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(cnn_feed_augmented(x, t, &d, 0, bad[i].a, 0) == 0);
        SAYS(g, bad[i].why);
    }
    CHECK(cnn_feed_augmented(x, t, &d, 0, (cnn_augment){ .shift = 2, .flip = CNN_FLIP_ALTERNATE, .cutout = 4 }, 0) == 2);
    for (int tall = 0; tall < 2; tall++) {                        /* a side above 65,535 */
        static float band[65536];
        cnn_graph *h = cnn_new(.max_batch = 1);
        T *in = cnn_input(h, 1, tall ? 65536 : 1, tall ? 1 : 65536);
        cnn_dataset one = cnn_data(1, 1, tall ? 65536 : 1, tall ? 1 : 65536, .floats = band);
        CHECK(cnn_compile(h, cnn_sum(cnn_mul(in, cnn_param(h, "w", { 1, 1, 1, 1 })))));
        CHECK(cnn_feed(in, NULL, &one, 0) == 1 && cnn_feed_augmented(in, NULL, &one, 0, (cnn_augment){ .flip = 1 }, 0) == 0);
        SAYS(h, "65536");
        cnn_dataset_free(&one), cnn_free(h);
    }
    cnn_dataset_free(&d), cnn_free(g), cnn_free(other);
}

/* ---- mixup: the shares are Beta(alpha, alpha) ---- */

typedef struct { int count; double mean, variance; int zeros, ones, halves; } shares;
/* The shares that sample 1 of two keeps, over so many epochs; where it is mixed with itself, they are not seen. */
static shares draw_shares(float alpha, int epochs)
{
    static const float value[2] = { 0, 0 }, target[2] = { 0, 1 };
    shares      s = { 0 };
    double      squares = 0;
    cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 11);
    T *x = cnn_input(g, 1), *t = cnn_input(g, 1, .name = "t"), *y = cnn_dense(x, 1), *loss = cnn_mse(y, t);
    cnn_dataset d = cnn_data(2, 1, .floats = value, .targets = target);
    CHECK(cnn_compile(g, loss));
    for (int e = 0; e < epochs; e++) {
        float got[2];
        if (!CHECK(cnn_feed_augmented(x, t, &d, 0, (cnn_augment){ .mixup = alpha }, e) == 2 && cnn_get(t, got, 2))) break;
        /* sample 0 has 1 - l of 1, or is mixed with itself; sample 1 has l, or 1 */
        for (int i = 0; i < 2; i++) {
            const double l = i ? (double)got[1] : 1 - (double)got[0];
            if (!CHECK(l >= 0 && l <= 1)) return s;
            s.zeros += l == 0, s.ones += l == 1, s.halves += l == 0.5;
            if (l != 1) s.count++, s.mean += l, squares += (l - 0.5) * (l - 0.5);
        }
    }
    s.mean /= s.count, s.variance = squares / s.count;
    cnn_dataset_free(&d), cnn_free(g);
    return s;
}
static void mixup_draws_from_beta(void)
{
    enum { EPOCHS = 3000 };
    for (int i = 0; i < 3; i++) {                                  /* variance 1 / (4 (2 alpha + 1)) */
        const float  alpha = i == 0 ? 0.5f : i == 1 ? 1 : 4;
        const shares s = draw_shares(alpha, EPOCHS);
        CHECK(s.count > EPOCHS / 2 && s.count < 3 * EPOCHS / 2);    /* half of the partners are the other one */
        CHECK_NEAR(s.mean, 0.5, 0.03);
        CHECK_NEAR(s.variance, 1 / (4 * (2 * (double)alpha + 1)), 0.01);
    }
    const shares tiny = draw_shares(1e-30f, 400), vast = draw_shares(1e30f, 400);
    CHECK_INT(tiny.zeros + tiny.ones, 800);                        /* all or nothing, either as often */
    CHECK(tiny.zeros > 140 && tiny.zeros < 260);
    CHECK_INT(vast.halves + vast.ones, 800);                       /* one half, or mixed with itself */
    CHECK(vast.halves > 320 && vast.halves < 480);
}

/* ---- Judging ---- */

static void what_cannot_be_judged(void)
{
    static const float value[24] = { 0 };
    static const int   label[24] = { 0, 1, 2, 3 };
    cnn_graph *g = cnn_new(.max_batch = 2, .seed = 1);
    T *x = cnn_input(g, 1, 2, 2), *t = cnn_labels(g), *y = cnn_dense(x, 3, .name = "y"), *map = cnn_conv2d(x, 3, 1, .name = "map");
    T *two = cnn_input(g, 3, .name = "two"), *both = cnn_add(y, two), *row = cnn_keep(cnn_mean(both, CNN_N));
    T *loss = cnn_softmax_cross_entropy(cnn_add(both, cnn_mean(map, CNN_H | CNN_W)), t);
    CHECK(cnn_compile(g, loss));
    int           matrix[9];
    cnn_dataset   d = cnn_data(2, 1, 2, 2, .floats = value, .labels = label), none = { 0 }, broken = { 0 };
    cnn_dataset   untold = cnn_data(2, 1, 2, 2, .floats = value), wide = cnn_data(4, 1, 2, 2, .floats = value, .labels = label);
    cnn_dataset   pixels = cnn_data(2, 1, 2, 2, .floats = value, .labels = label, .target_h = 2, .target_w = 2);
    cnn_dataset   numbers = cnn_data(2, 1, 2, 2, .floats = value, .targets = value);
    cnn_dataset   flat = cnn_data(2, 4, .floats = value, .labels = label);
    snprintf(broken.error, sizeof broken.error, "it is broken");
    const struct { T *of; const cnn_dataset *d; const char *why; } cases[] = {
        { y, NULL, "confusion: data set: it is NULL" }, { y, &broken, "confusion: data set: it is broken" },
        { y, &none, "confusion: data set: it is empty" }, { y, &untold, "the data set has no labels, one for each sample" },
        { y, &numbers, "the data set has no labels, one for each sample" },
        { y, &pixels, "the data set has no labels, one for each sample" }, { y, &wide, "and 4 classes: one label for a sample needs" },
        { map, &d, "one label for a sample needs the shape (N,classes,1,1)" }, { both, &d, "the logits come from 2 inputs" },
        { row, &d, "the logits come from 2 inputs" }, { y, &flat, "confusion: the samples have shape (4,1,1)" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(!cnn_confusion(cases[i].of, cases[i].d, matrix));
        SAYS(g, cases[i].why);
    }
    CHECK(!cnn_confusion(y, &d, NULL));
    SAYS(g, "the matrix is NULL");
    CHECK(isnan(cnn_top_k(y, &d, 0)));
    SAYS(g, "k is 0: it must be positive");
    CHECK(!cnn_confusion(NULL, &d, matrix) && isnan(cnn_top_k(NULL, &d, 1)));

    /* The mean over N of one input: logits without a batch. */
    cnn_graph *h = cnn_new(.max_batch = 2, .seed = 1);
    T *in = cnn_input(h, 1, 2, 2), *alone = cnn_mean(cnn_dense(in, 3), CNN_N), *sum = cnn_sum(alone);
    CHECK(cnn_compile(h, sum) && !cnn_confusion(alone, &d, matrix));
    SAYS(h, "one label for a sample needs the shape (N,classes,1,1)");
    CHECK(cnn_predict(in, alone, value, NULL) == -1);
    SAYS(h, "one class for a sample needs the shape (N,classes,1,1)");
    cnn_free(h);

    /* Labels below 0 are left out: they count in no row. */
    static const int some[4] = { 0, -1, 2, 0 };
    cnn_dataset left = cnn_data(4, 1, 2, 2, .floats = value, .labels = some);
    CHECK(cnn_confusion(y, &left, matrix));
    int all = 0;
    for (int i = 0; i < 9; i++) all += matrix[i];
    CHECK_INT(all, 3);
    CHECK_INT(matrix[0] + matrix[1] + matrix[2], 2);
    CHECK_INT(matrix[3] + matrix[4] + matrix[5], 0);

    /* What a matrix says: of 3 samples of class 0 two are found, and one of class 1 is taken for it. */
    const int by_hand[9] = { 2, 1, 0, 1, 3, 0, 0, 0, 0 };
    const cnn_class_score zero = cnn_precision_recall(by_hand, 3, 0), empty = cnn_precision_recall(by_hand, 3, 2);
    CHECK_NEAR(zero.precision, 2.0 / 3, 1e-12);
    CHECK_NEAR(zero.recall, 2.0 / 3, 1e-12);
    CHECK_NEAR(zero.f1, 2.0 / 3, 1e-12);
    CHECK(zero.count == 3 && empty.count == 0 && empty.precision == 0 && empty.recall == 0 && empty.f1 == 0);
    const int never_said[4] = { 0, 5, 0, 0 };
    const cnn_class_score unsaid = cnn_precision_recall(never_said, 2, 0);
    CHECK(unsaid.precision == 0 && unsaid.recall == 0 && unsaid.count == 5);
    CHECK(cnn_precision_recall(NULL, 3, 0).count == 0 && cnn_precision_recall(by_hand, 3, 3).count == 0 &&
          cnn_precision_recall(by_hand, 3, -1).count == 0);

    /* Prediction. */
    float p[3];
    CHECK(cnn_predict(NULL, y, value, p) == -1 && cnn_predict(x, NULL, value, p) == -1);
    CHECK(cnn_predict(x, y, NULL, p) == -1);
    SAYS(g, "predict: the values are NULL");
    CHECK(cnn_predict(x, map, value, p) == -1);
    SAYS(g, "one class for a sample needs the shape (N,classes,1,1)");
    CHECK(cnn_predict(x, both, value, p) == -1);                   /* the other input has one sample more */
    CHECK(cnn_error(g) && cnn_clear_error(g));
    CHECK(cnn_predict(x, y, value, p) >= 0);
    CHECK_NEAR(p[0] + p[1] + p[2], 1, 1e-6);

    /* Logits and labels that do not go together. */
    CHECK(cnn_correct(map, t) == 0);
    SAYS(g, "they must be (N,C,H,W) and (N,1,H,W)");
    CHECK(cnn_correct(NULL, t) == 0 && cnn_correct(y, NULL) == 0);
    CHECK(cnn_correct(y, two) == 0);
    SAYS(g, "they must be (N,C,H,W) and (N,1,H,W)");
    CHECK(cnn_correct(y, row) == 0);
    SAYS(g, "they must be (N,C,H,W) and (N,1,H,W)");
    cnn_dataset_free(&d), cnn_dataset_free(&untold), cnn_dataset_free(&wide), cnn_dataset_free(&pixels);
    cnn_dataset_free(&numbers), cnn_dataset_free(&flat), cnn_dataset_free(&left), cnn_free(g);
}

/* ---- The doctor's hints: each operation's own, and where it has none ---- */

typedef T *(*layer)(T *);
static T *exp_of(T *x)  { return cnn_exp(x); }
static T *log_of(T *x)  { return cnn_log(x); }
static T *sqrt_of(T *x) { return cnn_sqrt(x); }
static T *two_of(T *x, float a, float b)
{
    const cnn_shape s = { 1, 2, 1, 1 };
    const float     v[2] = { a, b };
    return cnn_const(x->graph, s, v);
}
static T *pow_of(T *x)  { return cnn_pow(x, two_of(x, 0.5f, 30)); }
static T *div_of(T *x)  { return cnn_div(x, two_of(x, 1, 0)); }
static T *huge_of(T *x) { return cnn_scale(x, 1e38f); }
static T *steep_of(T *x) { return cnn_scale(cnn_log(x), 2e38f); }
static T *root_of(T *x) { return cnn_scale(cnn_sqrt(x), 3e38f); }

static void hints(void)
{
    const struct { const char *name; layer of; float a, b; const char *phase, *hint; } cases[] = {
        { "exp", exp_of, 1, 89, "forward", "exp overflows above 88.7" },
        { "log", log_of, 1, -1, "forward", "the log of a number that is not positive" },
        { "log", log_of, 1, 1e-39f, "backward", "the derivative of log, 1 / x, is too large near 0" },
        { "log", steep_of, 1, 0.3f, "backward", "the gradients explode" },
        { "sqrt", sqrt_of, 1, -1, "forward", "the square root of a negative number: cnn_clamp it at 0" },
        { "sqrt", sqrt_of, 1, 0, "backward", "divides by zero at 0: add a small constant" },
        { "sqrt", root_of, 1, 0.01f, "backward", "the gradients explode" },
        { "pow", pow_of, -1, 1, "forward", "a power of a number that is not positive" },
        { "pow", pow_of, 1, 1e16f, "forward", "the values explode: normalise the data" },
        { "pow", pow_of, 1, 1e14f, "forward", "the operation made it of finite numbers" },
        { "div", div_of, 1, 1, "forward", "a division by zero, or nearly" },
        { "scale", huge_of, 1, 1e2f, "forward", "the operation made it of finite numbers" },
        { "scale", huge_of, 1, 1e16f, "forward", "the values explode" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cnn_graph *g = cnn_new(.max_batch = 1);
        T *x = cnn_input(g, 2, .grad = 1), *loss = cnn_sum(cases[i].of(x));
        CHECK(cnn_compile(g, loss) && cnn_doctor(g, 1) && cnn_set(x, (float[]){ cases[i].a, cases[i].b }, 2));
        cnn_forward(loss, CNN_TRAIN);
        if (!cnn_error(g)) cnn_backward(loss);
        const char *error = cnn_error(g);
        char        where[60];
        snprintf(where, sizeof where, "(%s, after 0 updates)", cases[i].phase);
        CHECK_MSG(error && strstr(error, cases[i].name) && strstr(error, where) && strstr(error, cases[i].hint),
                  "case %zu, %s: %s", i, cases[i].name, error ? error : "NULL");
        CHECK(error && strstr(cnn_doctor_report(g), cases[i].hint));
        cnn_free(g);
    }

    /* Two ill inputs: the first is named. A node that says nothing of where it was recorded. */
    cnn_graph *g = cnn_new(.max_batch = 1, .inference = 1);
    T *a = cnn_input(g, 1, .name = "a"), *b = cnn_input(g, 1, .name = "b"), *in[2] = { a, b }, *y;
    y = cnn_name(cnn_apply(&cnn_op_add, in, 2, NULL, NULL), "y");
    const float nan = (float)NAN;
    CHECK(cnn_compile(g, y) && cnn_doctor(g, 1) && cnn_set(a, &nan, 1) && cnn_set(b, &nan, 1));
    cnn_forward(y, CNN_EVAL);
    const char *report = cnn_doctor_report(g);
    CHECK_MSG(strstr(report, "NaN in the forward of add \"y\", after 0 updates: the value of \"a\"") != NULL, "%s", report);
    CHECK(strstr(report, "hint      the data are ill"));
    cnn_free(g);

    /* A bare parameter that an update makes ill has no layer: it stands for itself. */
    g = cnn_new(.max_batch = 1);
    T *w = cnn_param(g, "w", { 1, 1, 1, 1 }, CNN_INIT_CONSTANT, 1), *loss = cnn_mul(w, w);
    CHECK(cnn_compile(g, loss) && cnn_doctor(g, 1));
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK(!cnn_step(g, .lr = 3e38f));                              /* 1 - 6e38 */
    SAYS(g, "Inf in the value of \"w\" (update, after 1 updates): the update was too large");
    CHECK(strstr(cnn_doctor_report(g), "in the update of parameter \"w\""));
    cnn_free(g);
}

/* ---- Pictures ---- */

static void pictures_that_are_none(void)
{
    static const float v[12] = { 0 };
    const char *path = "build/branches.pgm";
    const struct { cnn_write_image_args a; bool good; } cases[] = {
        { { .path = path, .values = v, .shape = { 1, 1, 2, 2 } }, true },
        { { .path = path, .shape = { 1, 1, 2, 2 } }, false }, { { .path = path, .values = v, .shape = { 1, 2, 2, 2 } }, false },
        { { .path = path, .values = v, .shape = { 0, 1, 2, 2 } }, false },
        { { .path = path, .values = v, .shape = { 1, 1, 2, 2 }, .scale = -1 }, false },
        { { .path = path, .values = v, .shape = { 1, 1, 2, 2 }, .columns = -1 }, false },
        { { .path = "build/branches", .values = v, .shape = { 1, 1, 2, 2 } }, false },
        { { .path = NULL, .values = v, .shape = { 1, 1, 2, 2 } }, false },
        { { .path = path, .values = v, .shape = { 1, 3, 2, 2 } }, false },                   /* colour is .ppm */
        { { .path = path, .values = v, .shape = { 1, 1, 2, 2 }, .scale = 40000 }, false },    /* 80,000 pixels wide */
        { { .path = path, .values = v, .shape = { 1, 1, 12, 1 }, .scale = 60000 }, false },   /* 43 GB */
        { { .path = path, .values = v, .shape = { 3, 1, 2, 2 }, .columns = 7 }, true } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        errno = 0;
        CHECK_MSG(cnn_write_image_(cases[i].a) == cases[i].good, "case %zu", i);
        CHECK_MSG(cases[i].good || errno == EINVAL, "case %zu: errno %d", i, errno);
    }
    remove(path);
    cnn_graph *g = cnn_new(.max_batch = 1);
    T *x = cnn_input(g, 2), *y = cnn_tanh(x), *two = cnn_matmul(cnn_dense(x, 2, .name = "d"), cnn_param(g, "m", { 2, 2, 1, 1 }));
    CHECK(cnn_compile(g, cnn_sum(cnn_add(y, two))) && !cnn_write_filters(y, path, 1));
    SAYS(g, "filters: it has no weight");
    CHECK(!cnn_write_filters(NULL, path, 1));
    cnn_free(g);
}

/* ---- Options as text: what is given stands outside of strings ---- */

static void options_in_strings(void)
{
    const float v[2] = { -1, 2 };
    float       got[2];
    cnn_graph  *g = cnn_new(.max_batch = 1, .inference = 1);
    T *x = cnn_input(g, 2);
    T *given = cnn_leaky_relu(x, .name = "a\", .slope", .slope = 0);      /* behind a string with a quote: given, and 0 */
    T *not_given = cnn_leaky_relu(given, .name = "b, .slope = 0");        /* within a string: the default, 0.01 */
    T *sum = cnn_add(given, cnn_leaky_relu(x, .name = v[0] > ')' ? "" : "c"));      /* a bracket that is a character */
    CHECK_STR(given->name, "a\", .slope");
    CHECK(cnn_compile(g, cnn_add(not_given, sum)) && cnn_set(x, v, 2));
    cnn_forward(cnn_loss(g), CNN_EVAL);
    CHECK(cnn_get(cnn_loss(g), got, 2));
    CHECK_NEAR(got[0], 0 + 0 - 0.01, 1e-7);
    CHECK_NEAR(got[1], 2 + 2 + 2, 1e-6);
    cnn_free(g);

    /* A text that ends within a string, as a third party may hand over. */
    g = cnn_new(.max_batch = 1);
    cnn_leaky_relu_((cnn_leaky_relu_args){ .at = CNN_HERE, .said = "x, .name = \"open", .x = cnn_input(g, 1), .slope = 0 });
    CHECK(!cnn_error(g));
    cnn_free(g);
}

/* ---- Messages ---- */

static void messages_of_any_length(void)
{
    cnn_graph *g = cnn_new(.max_batch = 1);
    CHECK(!cnn_fail(cnn_input(g, 1), "%s", ""));
    CHECK(cnn_error(g) && strlen(cnn_error(g)) > 0);
    cnn_free(g);
    char name[300], at[300];
    memset(name, 'n', sizeof name - 1), name[sizeof name - 1] = 0, memset(at, 'p', sizeof at - 1), strcpy(at + 280, "/end.c:5");
    g = cnn_new(.max_batch = 1);
    T *x = cnn_input(g, 1);
    CHECK(!cnn_fail(cnn_layer(&cnn_op_relu, &x, 1, NULL, at, name), "first %d\n\x1b[2J", 7));
    CHECK(!cnn_fail(x, "second"));
    const char *e = cnn_error(g);
    CHECK(strlen(e) < CNN_ERROR_SIZE && strstr(e, "/end.c:5: relu \"nnn") && strstr(e, "first 7\n?[2J") && !strstr(e, "second"));
    cnn_free(g);
}

/* ---- Losses and layers where only one side learns ---- */

/* Each term by itself, (x - t)^2, weighted: dx = 2 u (x - t), dt = -dx, whichever of them is wanted. */
static void mse_of_each_term(void)
{
    const float a[3] = { 1, -2, 3 }, b[3] = { 0.5f, 2, -1 }, u[3] = { 1, 2, -3 };
    for (int wanted = 1; wanted < 4; wanted++)
        for (int how = 0; how < 2; how++) {
            cnn_graph *g = cnn_new(.max_batch = 1);
            T *x = cnn_input(g, 3, .name = "x", .grad = wanted & 1), *t = cnn_input(g, 3, .name = "t", .grad = wanted >> 1);
            T *w = cnn_input(g, 3, .name = "w");
            T *loss = how ? cnn_mse(x, t) : cnn_sum(cnn_mul(cnn_mse(x, t, .reduction = CNN_NONE), w));
            float dx[3], dt[3];
            CHECK(cnn_compile(g, loss) && cnn_set(x, a, 3) && cnn_set(t, b, 3) && (how || cnn_set(w, u, 3)));
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            CHECK(!(wanted & 1) || cnn_get_grad(x, dx, 3));
            CHECK(!(wanted & 2) || cnn_get_grad(t, dt, 3));
            for (int i = 0; i < 3; i++) {
                const double want = 2 * (how ? 1.0 / 3 : (double)u[i]) * ((double)a[i] - (double)b[i]);
                if (wanted & 1) CHECK_NEAR(dx[i], want, 1e-5);
                if (wanted & 2) CHECK_NEAR(dt[i], -want, 1e-5);
            }
            cnn_free(g);
        }
}

/* A convolution whose weight is frozen still learns its bias: the sum of dy. And the other way round. */
static void half_frozen(void)
{
    float v[2 * 16];
    for (int i = 0; i < 32; i++) v[i] = (float)i / 16 - 1;
    for (int frozen = 1; frozen < 3; frozen++)
        for (int transposed = 0; transposed < 2; transposed++) {
            cnn_graph *g = cnn_new(.max_batch = 2, .seed = 2);
            T *x = cnn_input(g, 1, 4, 4), *y = transposed ? cnn_conv_transpose2d(x, 2, 3, .name = "c") : cnn_conv2d(x, 2, 3, .name = "c");
            cnn_freeze(y->in[frozen]);
            T *loss = cnn_sum(y);
            float db[2];
            CHECK(cnn_compile(g, loss) && cnn_set(x, v, 32));
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            T *w = cnn_find(g, frozen == 1 ? "c.bias" : "c.weight");
            CHECK(!cnn_map_grad(cnn_find(g, frozen == 1 ? "c.weight" : "c.bias")));
            SAYS(g, "no gradient flows to it");
            const float *dw = cnn_map_grad(w);
            if (frozen == 1) {
                CHECK(dw && cnn_get_grad(w, db, 2) && db[0] == (float)(2 * y->shape.h * y->shape.w) && db[1] == db[0]);
            } else if (CHECK(dw != NULL)) {
                double want = 0;                                       /* tap (0,0): the sum of the x that it meets */
                for (int n = 0; n < 2; n++)
                    for (int i = 0; i < (transposed ? 16 : 4); i++)
                        want += (double)v[16 * n + (transposed ? i : i / 2 * 4 + i % 2)];
                CHECK_NEAR(dw[0], want, 1e-5);
            }
            cnn_free(g);
        }
}

/* A NaN wins every window that it is in, the last of several; its place takes the gradient. On each instruction set, for
   windows of each kind. */
static void max_pool_of_nan(void)
{
    enum { H = 7, W = 45 };
    static const struct { int kernel, stride, pad, dilation; } window[] = { { 2, 2, 0, 1 }, { 3, 2, 1, 1 }, { 3, 1, 1, 1 }, { 2, 1, 0, 2 }, { 5, 3, 2, 1 } };
    for (int isa = CNN_ISA_PLAIN; isa <= CNN_ISA_WASM; isa++)
        for (size_t k = 0; k < sizeof window / sizeof *window; k++) {
            cnn_graph *g = cnn_new(.max_batch = 1, .isa = (cnn_isa)isa);
            if (cnn_error(g)) { cnn_free(g); break; }
            const int kernel = window[k].kernel, stride = window[k].stride, pad = window[k].pad, dilation = window[k].dilation;
            T *x = cnn_input(g, 1, H, W, .grad = 1);
            T *y = cnn_max_pool(x, kernel, .stride = stride, .pad = pad, .dilation = dilation), *loss = cnn_sum(cnn_keep(y));
            float v[H * W], got[H * W], dx[H * W], want[H * W] = { 0 };
            for (int i = 0; i < H * W; i++) v[i] = (float)(i * 7 % 11);
            v[2 * W + 10] = v[2 * W + 11] = v[3 * W + 11] = v[4 * W + 30] = v[0] = (float)NAN;
            const int oh = y->shape.h, ow = y->shape.w;
            CHECK(cnn_compile(g, loss) && cnn_set(x, v, H * W));
            cnn_forward(loss, CNN_TRAIN);
            CHECK(cnn_get(y, got, (size_t)(oh * ow)));
            cnn_backward(loss);
            CHECK(cnn_get_grad(x, dx, H * W));
            for (int o = 0; o < oh * ow; o++) {
                int best = -1;
                for (int i = 0; i < kernel * kernel; i++) {
                    const int r = o / ow * stride - pad + i / kernel * dilation, c = o % ow * stride - pad + i % kernel * dilation;
                    if (r < 0 || r >= H || c < 0 || c >= W) continue;
                    if (best < 0 || isnan(v[r * W + c]) || v[r * W + c] > v[best]) best = r * W + c;
                }
                want[best]++;
                CHECK_MSG(isnan(v[best]) ? isnan(got[o]) : got[o] == v[best], "isa %d, kernel %d: window %d is %g, not %g", isa, kernel,
                          o, (double)got[o], (double)v[best]);
            }
            for (int i = 0; i < H * W; i++)
                CHECK_MSG(dx[i] == want[i], "isa %d, kernel %d: dx[%d] is %g, not %g", isa, kernel, i, (double)dx[i], (double)want[i]);
            cnn_free(g);
        }
}

/* ---- Folders: what may lie in them, and decoders that go wrong ---- */

static const struct { int h, w, pixels; } strange_picture[] = { { 0, 2, 1 }, { 2, 0, 1 }, { 65536, 2, 1 }, { 2, 65536, 1 }, { 2, 2, 0 } };
static const char *decode_strangely(cnn_picture *p, const char *path, int channels, void *user)
{
    static unsigned char pixels[12];
    const int k = *(const int *)user;
    (void)path, (void)channels;
    p->h = strange_picture[k].h, p->w = strange_picture[k].w, p->pixels = strange_picture[k].pixels ? pixels : NULL;
    return NULL;
}

static void strange_folders(void)
{
    make_pictures();
    const char *dir = folder_of_pictures;
    for (int k = 0; k < 5; k++)
        DATA_SAYS(cnn_load_folder(dir, 1, 2, 2, .decode = decode_strangely, .user = &k), "the decoder gave no picture with sides of 1 to 65535");
    const struct { int c, h, w, shorter; const char *why; } bad[] = {
        { 2, 2, 2, 0, "pictures of (2,2,2)" }, { 1, 0, 2, 0, "pictures of (1,0,2)" }, { 1, 2, 0, 0, "pictures of (1,2,0)" },
        { 1, 65536, 1, 0, "pictures of (1,65536,1)" }, { 3, 40000, 40000, 0, "pictures of (3,40000,40000)" },
        { 1, 4, 5, 4, "shorter is 4: it must be 5 to 65535" }, { 1, 4, 5, 65536, "shorter is 65536" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        DATA_SAYS(cnn_load_folder(dir, bad[i].c, bad[i].h, bad[i].w, .shorter = bad[i].shorter), bad[i].why);
    DATA_SAYS(cnn_load_folder(NULL, 1, 2, 2), "no path was given");

    /* A slash at the end of the path makes no difference to what is read. */
    char slash[60], path[120], target[120];
    snprintf(slash, sizeof slash, "%s/", dir);
    cnn_dataset d = cnn_load_folder(slash, 1, 3, 2);
    CHECK(!d.error[0] && d.count == 2 && d.classes == 2 && memcmp(d.bytes, "abcdefabcdef", 12) == 0 && !strcmp(d.names[1], "class1"));
    cnn_dataset_free(&d);

    /* A strip of 1 x 20,000,000 pixels cannot be given a side of 2; a pipe or a dead link is no picture. */
    snprintf(path, sizeof path, "%s/class0/b.pgm", dir);
    FILE *f = fopen(path, "wb");
    if (CHECK(f != NULL)) fputs("P5 65000 1 255\n", f), fseek(f, 65000 - 1, SEEK_CUR), fputc(0, f), fclose(f);
    DATA_SAYS(cnn_load_folder(dir, 1, 300, 300, .shorter = 300), "its sides are too unequal to be resized");
    remove(path);
    CHECK(mkfifo(path, 0600) == 0);
    DATA_SAYS(cnn_load_folder(dir, 1, 2, 2), "b.pgm is no file: a class holds nothing else");
    remove(path), snprintf(target, sizeof target, "%s/nowhere", dir);
    CHECK(symlink(target, path) == 0);
    DATA_SAYS(cnn_load_folder(dir, 1, 2, 2), "b.pgm is no file: a class holds nothing else");
    remove(path);

    /* The end of a long path is shown. */
    char longer[200];
    snprintf(longer, sizeof longer, "%s/class0/%0120d.pgm", dir, 1);
    f = fopen(longer, "wb");
    if (CHECK(f != NULL)) fputs("P9", f), fclose(f);
    d = cnn_load_folder(dir, 1, 2, 2);
    CHECK_MSG(strstr(d.error, "00001.pgm: ") != NULL && !strstr(d.error, "class0"), "%s", d.error);
    cnn_dataset_free(&d), remove(longer);
    drop_pictures();
}

/* Twenty files, so that the list of names grows, and each of its allocations fails. */
static void many_files(void)
{
    make_pictures();
    for (int k = 0; k < 20; k++) {
        char path[80];
        snprintf(path, sizeof path, "%s/class1/p%02d.pgm", folder_of_pictures, k);
        FILE *f = fopen(path, "wb");
        if (CHECK(f != NULL)) fprintf(f, "P5 1 1 255\n%c", 'a' + k), fclose(f);
    }
    const long live = alloc_live, before = alloc_count;
    cnn_dataset d = cnn_load_folder(folder_of_pictures, 1, 1, 1);
    const long  needed = alloc_count - before;
    CHECK(!d.error[0] && d.count == 22 && d.labels[1] == 1 && d.bytes[2] == 'a' && d.bytes[21] == 'a' + 19);
    cnn_dataset_free(&d);
    for (long i = 1; i <= needed; i++) {
        alloc_fail = alloc_count + i;
        d = cnn_load_folder(folder_of_pictures, 1, 1, 1);
        alloc_fail = 0;
        CHECK_MSG(strstr(d.error, "out of memory") != NULL, "allocation %ld: \"%s\"", i, d.error);
        cnn_dataset_free(&d);
    }
    CHECK(alloc_live == live);
    for (int k = 0; k < 20; k++) {
        char path[80];
        snprintf(path, sizeof path, "%s/class1/p%02d.pgm", folder_of_pictures, k), remove(path);
    }
    drop_pictures();
}

/* ---- Saving ---- */

/* What another process left is removed when it is ours by its name, nobody's by its process, and old. */
static void leftovers(void)
{
    char dir[] = "/tmp/cnn-branches-XXXXXX", path[80];
    CHECK(mkdtemp(dir) != NULL);
    const struct { const char *format; bool alive, old, stays; } files[] = {
        { "cnn-save-%ld-3.tmp", false, true, false }, { "cnn-save-%ld-4.tmp", false, false, true }, { "cnn-save-%ld-5.tmp", true, true, true },
        { "cnn-save-%ld-6.tmp.bak", false, true, true }, { "cnn-save-%ld.tmp", false, true, true }, { "cnn-save-%ld-7.tm", false, true, true } };
    enum { FILES = sizeof files / sizeof *files };
    char name[FILES][80];
    for (int i = 0; i < FILES; i++) {
        char own[40];
        snprintf(own, sizeof own, files[i].format, files[i].alive ? (long)getpid() : 2147483600L);
        snprintf(name[i], sizeof name[i], "%s/%s", dir, own);
        FILE *f = fopen(name[i], "wb");
        if (CHECK(f != NULL)) fclose(f);
        const struct timespec when[2] = { { .tv_sec = time(NULL) - (files[i].old ? 120 : 0) }, { .tv_sec = time(NULL) - (files[i].old ? 120 : 0) } };
        CHECK(utimensat(AT_FDCWD, name[i], when, 0) == 0);
    }
    cnn_graph *g = cnn_new(.max_batch = 1);
    CHECK(cnn_compile(g, cnn_sum(cnn_dense(cnn_input(g, 2), 1))));
    snprintf(path, sizeof path, "%s/net", dir);
    CHECK(cnn_save(g, path));
    for (int i = 0; i < FILES; i++) CHECK_MSG((access(name[i], F_OK) == 0) == files[i].stays, "%s", name[i]);
    for (int i = 0; i < FILES; i++) remove(name[i]);
    remove(path), remove(dir), cnn_free(g);

    /* A disk that is full: at the end, or, with more than stdio keeps, on the way. */
    FILE *full = fopen("/dev/full", "wb");
    if (!full) return;
    fclose(full);
    for (int k = 0; k < 3; k++) {
        g = cnn_new(.max_batch = 1);
        T *x = cnn_input(g, k == 1 ? 5000 : 2), *y = cnn_dense(x, 1);
        for (int i = 0; k == 2 && i < 200; i++) y = cnn_tanh(y);
        CHECK(cnn_compile(g, cnn_sum(y)) && !cnn_save(g, "/dev/full"));
        CHECK_STR(cnn_error(g), "save \"/dev/full\": No space left on device");
        CHECK(cnn_save(g, "/dev/null") && !cnn_error(g));
        cnn_free(g);
    }
}

/* ---- Files of others, and nothing trapped ---- */

static void files_of_others(void)
{
    static const struct { const char *bytes; size_t n; const char *what; } file[] = {
        { "PK\3\4 and so on", 13, "a zip, perhaps of torch.save" }, { "\200\2\212\n and so on", 13, "a pickle, perhaps of torch.save" },
        { "\037\213\b and so on", 12, "gzipped: gunzip it first" }, { "\211HDF and so on", 13, "HDF5, perhaps of Keras" } };
    cnn_graph *g = cnn_new(.max_batch = 1, .seed = 4);
    T *w = cnn_dense(cnn_input(g, 2), 1, .name = "d")->in[1];
    float before[2], after[2];
    CHECK(cnn_compile(g, cnn_sum(cnn_mul(w, w))) && cnn_get(w, before, 2));
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        cnn_graph *h = cnn_load_memory(file[i].bytes, file[i].n, (cnn_load_args){ .path = "net.pt" });
        SAYS(h, file[i].what);
        cnn_free(h);
        CHECK(!cnn_load_weights_memory(file[i].bytes, file[i].n, (cnn_load_weights_args){ .g = g, .path = "net.pt" }));
        SAYS(g, file[i].what);
    }
    CHECK(cnn_get(w, after, 2) && memcmp(before, after, sizeof before) == 0);
    cnn_free(g);
}

/* A call that is refused leaves saving as it was; a checkpoint is a net for cnn_load, too. */
static void refused_calls_leave_saving(void)
{
    static unsigned char file[3][20000];
    const float v[2] = { 1, 2 };
    float       loss[2];
    cnn_graph  *g = cnn_new(.max_batch = 1, .seed = 4, .optimizer = cnn_adam());
    T *x = cnn_input(g, 2), *y = cnn_dense(x, 3, .name = "d"), *mean = cnn_mean(cnn_mul(y, y));
    CHECK(cnn_compile(g, mean) && cnn_set(x, v, 2));
    cnn_forward(mean, CNN_TRAIN), cnn_backward(mean);
    CHECK(cnn_step(g, .lr = 0.1f));
    loss[0] = cnn_forward(mean, CNN_EVAL);
    const size_t n = cnn_save_memory(g, file[0], sizeof file[0]);
    CHECK(n > 0 && n < sizeof file[0]);
    CHECK(!cnn_softmax(y)->graph);                                 /* recorded after cnn_compile */
    CHECK(cnn_error(g) && isnan(cnn_forward(mean, CNN_EVAL)));
    CHECK(cnn_save_memory(g, file[1], sizeof file[1]) == n && memcmp(file[0], file[1], n) == 0);
    CHECK(cnn_error(g) != NULL);                                   /* a save that works does not hide it */
    const size_t all = cnn_save_checkpoint_memory(g, file[2], sizeof file[2]);
    CHECK(all > n && all < sizeof file[2] && cnn_clear_error(g) && cnn_forward(mean, CNN_EVAL) == loss[0]);
    cnn_free(g);
    for (int inference = 0; inference < 2; inference++) {
        g = cnn_load_memory(file[2], all, (cnn_load_args){ .inference = inference });
        CHECK_MSG(!cnn_error(g) && cnn_set(cnn_find(g, "input"), v, 2), "%s", cnn_error(g));
        loss[1] = cnn_forward(cnn_loss(g), CNN_EVAL);
        CHECK_NEAR(loss[1], loss[0], inference ? 1e-6 : 0);        /* packed weights may round otherwise */
        cnn_free(g);
    }
}

/* dropout with p = 0 is the identity, forward and backward (torch.nn.Dropout(0)). */
static void dropout_of_nothing(void)
{
    const float v[4] = { 1, -2, 3, 0.5f }, u[4] = { 1, 2, 3, 4 };
    float       got[4], dx[4];
    for (int isa = CNN_ISA_PLAIN; isa <= CNN_ISA_C; isa++) {
        cnn_graph *g = cnn_new(.max_batch = 1, .isa = (cnn_isa)isa);
        T *x = cnn_input(g, 4, .grad = 1), *w = cnn_input(g, 4), *y = cnn_keep(cnn_dropout(x, 0)), *loss = cnn_sum(cnn_mul(y, w));
        CHECK(cnn_compile(g, loss) && cnn_set(x, v, 4) && cnn_set(w, u, 4));
        cnn_forward(loss, CNN_TRAIN);
        CHECK(cnn_get(y, got, 4));
        cnn_backward(loss);
        CHECK(cnn_get_grad(x, dx, 4) && memcmp(got, v, sizeof v) == 0 && memcmp(dx, u, sizeof u) == 0);
        cnn_free(g);
    }
}

/* ---- Training: what ends it, what is written of it ---- */

typedef struct { cnn_graph *g; T *x, *t, *y, *loss; cnn_dataset d; } fitted;
static const float fit_values[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, fit_targets[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
static fitted to_fit(int max_batch)
{
    fitted f = { 0 };
    f.g = cnn_new(.max_batch = max_batch, .seed = 2, .optimizer = cnn_sgd());
    f.x = cnn_input(f.g, 1), f.t = cnn_input(f.g, 1, .name = "t"), f.y = cnn_dense(f.x, 1, .name = "d"), f.loss = cnn_mse(f.y, f.t);
    f.d = cnn_data(8, 1, .floats = fit_values, .targets = fit_targets);
    CHECK(cnn_compile(f.g, f.loss));
    return f;
}
static void drop_fit(fitted *f) { cnn_dataset_free(&f->d), cnn_free(f->g); }

static void why_a_training_ends(void)
{
    fitted f = to_fit(4);
    float  bad[8];
    memcpy(bad, fit_values, sizeof bad), bad[5] = INFINITY;
    cnn_dataset infinite = cnn_data(8, 1, .floats = bad, .targets = fit_targets);
    CHECK(!cnn_fit(f.loss, f.y, &infinite, .lr = 0.01f, .no_shuffle = 1));
    SAYS(f.g, "in epoch 1, batch 2: the data of this batch hold 0 NaN and 1 Inf");
    CHECK(!cnn_fit(f.loss, f.y, &f.d, .lr = 1e-4f, .validation = &infinite));
    SAYS(f.g, "after epoch 1: NaN or Inf in the validation data");
    drop_fit(&f);

    float vast[8];
    for (int i = 0; i < 8; i++) vast[i] = 1e30f;
    f = to_fit(4);
    cnn_dataset wide = cnn_data(8, 1, .floats = vast, .targets = fit_targets);
    CHECK(!cnn_fit(f.loss, f.y, &wide, .lr = 0.01f));
    SAYS(f.g, "the loss became infinite in epoch 1, batch 1: no weight was updated yet; inputs of smaller range");
    CHECK(!cnn_fit(f.loss, f.y, &f.d, .lr = 1e15f, .epochs = 9));
    SAYS(f.g, "training diverged; a smaller .lr (now 1e+15)");
    cnn_clear_error(f.g), cnn_dataset_free(&infinite), cnn_dataset_free(&wide), drop_fit(&f);

    /* One sample in the last batch: no matter where batch norm keeps its statistics, or has several pixels. */
    for (int way = 0; way < 3; way++) {
        static const float pixels[5 * 4] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
        cnn_graph *g = cnn_new(.max_batch = 2, .seed = 1);
        T *x = cnn_input(g, 1, way == 1 ? 4 : 1), *t = cnn_input(g, 1, .name = "t"), *h = cnn_batch_norm(x);
        if (way == 2) cnn_freeze(h);
        T *y = cnn_dense(h, 1), *loss = cnn_mse(y, t);
        cnn_dataset d = cnn_data(5, 1, way == 1 ? 4 : 1, 1, .floats = pixels, .targets = fit_targets);
        CHECK(cnn_compile(g, loss) && cnn_fit(loss, y, &d, .lr = 0.001f) == (way != 0));
        if (way == 0) SAYS(g, "the last batch has one sample, of which batch_norm");
        cnn_dataset_free(&d), cnn_free(g);
    }
}

/* On a terminal the bar is drawn over itself; elsewhere there are lines. Times of hours and more. */
static void progress_on_a_terminal(void)
{
    cnn_progress p = { 0 };
    p.epoch = 1, p.epochs = 2, p.batch = 5, p.batches = 10, p.loss = 0.5, p.accuracy = 0.25, p.mae = p.r2 = NAN;
    p.validation_loss = p.validation_accuracy = p.validation_mae = p.validation_r2 = NAN;
    p.seconds = 10, p.seconds_left = 3723, p.samples_per_second = 100;
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) { test_skip("no pseudo-terminals"); return; }
    const int slave = open(ptsname(master), O_RDWR | O_NOCTTY), stderr_before = dup(2);
    char      text[400] = "";
    if (CHECK(slave >= 0 && stderr_before >= 0 && dup2(slave, 2) == 2)) {
        const bool shown = cnn_print_progress(&p, NULL);
        dup2(stderr_before, 2);
        CHECK(shown && write(slave, "$", 1) == 1);                 /* the end: what was written comes in pieces */
        for (size_t n = 0, more = 1; more && n + 1 < sizeof text && !strchr(text, '$'); n += more) {
            const ssize_t got = read(master, text + n, sizeof text - 1 - n);
            more = got > 0 ? (size_t)got : 0;
        }
        CHECK(strchr(text, '$') != NULL);
        CHECK_MSG(strstr(text, "\repoch 1/2 [############............]  50 %  loss 0.5000  accuracy 25.00 %") == text, "\"%s\"", text);
        CHECK(strstr(text, "left 1:02:03"));
    }
    close(slave), close(stderr_before), close(master);

    /* Not yet due at ten lines a second, due at every batch where no time has passed. */
    FILE *f = tmpfile();
    if (!CHECK(f != NULL)) return;
    p.batch = 1, p.batches = 1000, p.seconds = 0.001;
    CHECK(cnn_print_progress(&p, f) && ftell(f) == 0);
    p.seconds = 0;
    CHECK(cnn_print_progress(&p, f) && ftell(f) > 0);
    rewind(f), p.epoch_done = 1, p.seconds = 1e12, p.validation_loss = 0.75, p.accuracy = NAN, p.mae = 0.125, p.r2 = 0.5;
    CHECK(cnn_print_progress(&p, f));
    const long n = ftell(f);
    rewind(f), memset(text, 0, sizeof text);
    CHECK(fread(text, 1, (size_t)n, f) == (size_t)n && strstr(text, "epoch 1/2  loss 0.5000  error 0.125  R2 0.5000  validation loss 0.7500"));
    CHECK_MSG(strstr(text, "100000:00:00") != NULL, "\"%s\"", text);        /* at most 3.6e8 s are shown */
    CHECK(!cnn_print_progress(NULL, f));
    fclose(f);
}

/* A checkpoint whose bytes were changed: each part of what cnn_fit reads is looked at before anything is taken. */
static bool change(unsigned char *file, size_t n, const char *from, const char *to)
{
    const size_t m = strlen(from);
    for (size_t i = 0; i + m <= n; i++)
        if (memcmp(file + i, from, m) == 0) return memcpy(file + i, to, strlen(to)), true;
    return false;
}
static void changed_checkpoints(void)
{
    const char *path = "build/branches.safetensors";
    fitted      f = to_fit(4);
    cnn_history h = { 0 };
    remove(path);
    CHECK(cnn_fit(f.loss, f.y, &f.d, .lr = 0.01f, .epochs = 2, .checkpoint = path, .history = &h, .per_update = 1));
    CHECK(h.count == 2 && h.updates == 4);
    cnn_history_free(&h), drop_fit(&f);
    size_t         n;
    char           why[100];
    unsigned char *whole = cnn__read_file(path, &n, why, sizeof why), *file = test_alloc(n);
    const struct { const char *from, *to, *why; } cases[] = {
        { "\"cnn.fit\"", "\"cnn.fiT\"", "there is no tensor \"cnn.fit\" of a checkpoint" },
        { "\"cnn.errors\"", "\"cnn.errorS\"", "there is no tensor \"cnn.errors\" of a checkpoint" },
        { "\"cnn.history\"", "\"cnn.historY\"", "there is no tensor \"cnn.history\" of a checkpoint" },
        { "\"cnn.updates\":{", "\"cnn.updateS\":{", "there is no tensor \"cnn.updates\" of a checkpoint" },
        { "\"cnn.fit\":{\"dtype\":\"F64\"", "\"cnn.fit\":{\"dtype\":\"I64\"", "there is no tensor \"cnn.fit\" of a checkpoint" },
        { "\"cnn.updates\":{\"dtype\":\"F64\"", "\"cnn.updates\":{\"dtype\":\"U64\"", "there is no tensor \"cnn.updates\" of a checkpoint" },
        { "\"cnn.epoch_step\":\"2\"", "\"cnn.epoch_step\":\"9\"", "its numbers contradict each other" },
        { "\"cnn.optimizer\":\"sgd\"", "\"cnn.optimizeR\":\"sgd\"", "it is not a checkpoint of cnn_fit" },
        { "\"cnn.seed\"", "\"cnn.seeD\"", "it is not a checkpoint of cnn_fit" } };
    for (size_t i = 0; whole && i < sizeof cases / sizeof *cases; i++) {
        memcpy(file, whole, n);
        if (!CHECK_MSG(change(file, n, cases[i].from, cases[i].to), "there is no %s in the file", cases[i].from)) continue;
        FILE *out = fopen(path, "wb");
        CHECK(out && fwrite(file, 1, n, out) == n);
        if (out) fclose(out);
        f = to_fit(4);
        float before[1], after[1];
        CHECK(cnn_get(cnn_find(f.g, "d.weight"), before, 1));
        CHECK(!cnn_fit(f.loss, f.y, &f.d, .lr = 0.01f, .epochs = 3, .checkpoint = path, .resume = 1));
        SAYS(f.g, cases[i].why);
        CHECK(cnn_get(cnn_find(f.g, "d.weight"), after, 1) && before[0] == after[0]);
        drop_fit(&f);
    }

    /* The whole one goes on, with each allocation failing once: none is silent. */
    FILE *out = fopen(path, "wb");
    CHECK(out && whole && fwrite(whole, 1, n, out) == n);
    if (out) fclose(out);
    f = to_fit(4);
    CHECK(cnn_fit(f.loss, f.y, &f.d, .lr = 0.01f, .epochs = 2, .checkpoint = path, .resume = 1, .history = &h, .per_update = 1));
    CHECK(h.count == 2 && h.updates == 4);
    cnn_history_free(&h), drop_fit(&f);
    for (long k = 1, refused = 1; refused; k++) {
        f = to_fit(4), out = fopen(path, "wb");
        CHECK(out && fwrite(whole, 1, n, out) == n);
        if (out) fclose(out);
        alloc_fail = alloc_count + k;
        const bool fine = cnn_fit(f.loss, f.y, &f.d, .lr = 0.01f, .epochs = 2, .checkpoint = path, .resume = 1, .history = &h, .per_update = 1);
        refused = alloc_count >= alloc_fail && alloc_fail > 0, alloc_fail = 0;
        CHECK_MSG(fine || strstr(cnn_error(f.g), "memory"), "allocation %ld: %s", k, cnn_error(f.g));
        cnn_history_free(&h), drop_fit(&f);
        if (!CHECK(k < 300)) break;
    }
    remove(path), free(file), alloc_free(whole);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(what_a_graph_is_made_of);
    RUN(operations_refuse);
    RUN(twins);
    RUN(half_a_row);
    RUN(no_gradient);
    RUN(odd_files);
    RUN(memory_ends);
    RUN(data_that_do_not_fit);
    RUN(mixup_draws_from_beta);
    RUN(what_cannot_be_judged);
    RUN(hints);
    RUN(pictures_that_are_none);
    RUN(options_in_strings);
    RUN(messages_of_any_length);
    RUN(mse_of_each_term);
    RUN(half_frozen);
    RUN(max_pool_of_nan);
    RUN(strange_folders);
    RUN(many_files);
    RUN(leftovers);
    RUN(files_of_others);
    RUN(refused_calls_leave_saving);
    RUN(dropout_of_nothing);
    RUN(why_a_training_ends);
    RUN(progress_on_a_terminal);
    RUN(changed_checkpoints);
    return test_end();
}
