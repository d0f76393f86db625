/* The graph: errors word by word, every allocation made to fail in turn, the same bits for any number of threads, the
   memory plan, the caller's memory, inference, partial batches, shared weights, operations from outside, and backends
   by way of a mirror (device memory is a second malloc). */
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

static cnn_shape shape4(int n, int c, int h, int w) { cnn_shape s = { n, c, h, w }; return s; }

/* The error must be this, word by word: after the place of the call, which stands on the same line; after another
   place; or with none. */
#define EXPECT_HERE(g, message)   CHECK_STR(cnn_error(g), CNN_HERE ": " message)
#define EXPECT(g, message)        CHECK_STR(cnn_error(g), message)
#define EXPECT_AT(g, at, message) do { \
        char test__text[700]; \
        const char *test__place = cnn_error(g) ? strstr(cnn_error(g), " (called at ") : NULL; \
        snprintf(test__text, sizeof test__text, "%s: %s%s", at, message, test__place ? test__place : ""); \
        CHECK_STR(cnn_error(g), test__text); } while (0)

/* Nothing may rest on what the arenas happen to hold. */
static void poison(cnn_graph *g)
{
    static const cnn_arena which[] = { CNN_ARENA_GRADS, CNN_ARENA_INPUTS, CNN_ARENA_ACTIVATIONS, CNN_ARENA_SCRATCH };
    for (int i = 0; i < 4; i++) if (g->arena_bytes[which[i]]) memset(g->arena[which[i]], 0xff, g->arena_bytes[which[i]]);
    if (g->loss->needs_grad) g->arena[CNN_ARENA_ACTIVATIONS][g->loss->grad_at] = 1;         /* written once, at compile */
}
static bool compiled(cnn_graph *g, cnn_tensor *loss) { return CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g)); }
static void no_error(cnn_graph *g) { CHECK_MSG(!cnn_error(g), "%s", cnn_error(g)); cnn_free(g); }

/* ---- A small net with most operations, and its data ---- */

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *logits, *loss; int batch; } net;
enum { SIDE = 8, CLASSES = 4, MAX_BATCH = 6 };

static net small_net(cnn_config config)
{
    net n;
    if (!config.max_batch) config.max_batch = MAX_BATCH;
    n.batch = config.max_batch;
    n.g = cnn_new_(config);
    n.x = cnn_input(n.g, 2, SIDE, SIDE), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 6, 3, .pad = 1, .name = "first")));
    cnn_tensor *a = cnn_conv2d(h, 6, 3, .pad = 1, .groups = 2), *b = cnn_leaky_relu(cnn_conv2d(h, 6, 1));
    h = cnn_max_pool(cnn_relu(cnn_add(a, b)), 2);
    h = cnn_concat(cnn_avg_pool(h, 2), cnn_tanh(cnn_conv2d(h, 3, 3, .stride = 2, .pad = 1)));
    h = cnn_sigmoid(cnn_dense(cnn_dropout(cnn_flatten(h), 0.25f), 10));
    n.logits = cnn_dense(cnn_scale(h, 2, -0.5f), CLASSES, .name = "last");
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    return n;
}
static void feed(net n, int batch, uint64_t which)
{
    float image[MAX_BATCH * 2 * SIDE * SIDE];
    int   label[MAX_BATCH];
    uint64_t keep = test__state;
    test__state = which * 77 + 5;
    test_fill(image, (size_t)(batch * 2 * SIDE * SIDE), -1, 1);
    for (int i = 0; i < batch; i++) label[i] = test_int(0, CLASSES - 1);
    test__state = keep;
    cnn_set(n.x, image, (size_t)(batch * 2 * SIDE * SIDE)), cnn_set_labels(n.t, label, (size_t)batch);
}
static float train_step_of(net n, uint64_t which, float momentum)
{
    feed(n, n.batch, which);
    float loss = cnn_forward(n.loss, CNN_TRAIN);
    cnn_backward(n.loss), cnn_step(n.g, .lr = 0.05f, .momentum = momentum, .weight_decay = 1e-4f);
    return loss;
}
static float train_step(net n, uint64_t which) { return train_step_of(n, which, 0.9f); }

/* ---- Errors: the first one stays, word by word ---- */

#define NET cnn_graph *g = cnn_new(.max_batch = 4); cnn_tensor *x = cnn_input(g, 6, 5, 5); (void)x
#define DONE cnn_free(g)

static void errors_of_null(void)
{
    float v[4] = { 0 };
    CHECK_STR(cnn_error(NULL), "cnn_new: out of memory");
    cnn_tensor *x = cnn_input(NULL, 1), *t = cnn_labels(NULL), *y = cnn_dense(cnn_relu(x), 3), *loss = cnn_softmax_cross_entropy(y, t);
    CHECK(!cnn_compile(NULL, loss) && !cnn_step(NULL, .lr = 1));
    CHECK(isnan(cnn_forward(loss, CNN_TRAIN)));
    cnn_backward(loss), cnn_backward_add(loss);
    CHECK(!cnn_set(x, v, 1) && !cnn_get(y, v, 3) && !cnn_get_grad(y, v, 3) && !cnn_set_labels(t, NULL, 1));
    CHECK(!cnn_map_read(x) && !cnn_map_write(x) && !cnn_map_grad(x) && !cnn_flat_params(NULL, NULL) && !cnn_flat_grads(NULL, NULL));
    CHECK(cnn_count(x) == 0 && cnn_batch(NULL) == 0 && !cnn_set_batch(NULL, 1) && !cnn_find(NULL, "x"));
    CHECK(cnn_plan(NULL, loss).total == 0 && cnn_param_count(NULL) == 0 && cnn_multiply_adds(NULL) == 0);
    CHECK(cnn_forward(NULL, CNN_EVAL) != 0 && !cnn_on_device(NULL));
    CHECK(cnn_name(NULL, "a") == NULL && cnn_keep(NULL) == NULL && cnn_freeze(NULL) == NULL);
    CHECK(cnn_save_memory(NULL, NULL, 0) == 0 && !cnn_load_weights_memory(v, 4, (cnn_load_weights_args){ .g = NULL, .path = "memory" }));
    CHECK(!cnn_save(NULL, "build/none") && cnn_loss(NULL)->op == NULL && cnn_output(NULL)->op == NULL);
    CHECK(cnn_copies(NULL).uploads == 0);
    cnn_free(NULL);
}

static void errors_of_nil_chains(void)
{
    NET;
    cnn_tensor *bad = cnn_conv2d(x, 4, 7); const char *at = CNN_HERE;
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_max_pool(bad, 9))), *y = cnn_dense(cnn_flatten(cnn_concat(h, h, x)), 0);
    cnn_tensor *loss = cnn_mse(cnn_add(y, cnn_mul(y, cnn_sub(x, y))), cnn_matmul(y, cnn_dropout(cnn_softmax(y), 7)));
    CHECK(bad != NULL && loss != NULL && bad->op == NULL);
    CHECK(!cnn_compile(g, loss));
    CHECK(isnan(cnn_forward(loss, CNN_TRAIN)));
    cnn_backward(loss);
    CHECK(!cnn_step(g, .lr = 1));
    EXPECT_AT(g, at, "conv2d: kernel 7 does not fit input (N,6,5,5) with pad 0,0: (5 + 0 + 0 - 7)/1 + 1 < 1");
    DONE;
}

static void errors_in_shapes(void)
{
    { NET; cnn_conv2d(x, 4, 7, .name = "c3"); EXPECT_HERE(g, "conv2d \"c3\": kernel 7 does not fit input (N,6,5,5) with pad 0,0: (5 + 0 + 0 - 7)/1 + 1 < 1"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .dilation = 3, .pad = 0); EXPECT_HERE(g, "conv2d: kernel 3 with dilation 3 does not fit input (N,6,5,5) with pad 0,0: (5 + 0 + 0 - 7)/1 + 1 < 1"); DONE; }
    { NET; cnn_conv2d(x, 0, 3); EXPECT_HERE(g, "conv2d: channels is 0: it must be the number of outputs, in [1,2147483647]"); DONE; }
    { NET; cnn_conv2d(x, 4, 0); EXPECT_HERE(g, "conv2d: kernel is 0: it must be the size of the window, in [1,16777216]"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .stride = -1); EXPECT_HERE(g, "conv2d: stride is -1: it must be in [1,16777216]"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .pad = -1); EXPECT_HERE(g, "conv2d: pad is -1: it must be in [0,16777216]"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .groups = 4); EXPECT_HERE(g, "conv2d: groups 4 must divide the 6 channels of input (N,6,5,5) and the 4 of the output"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .groups = 3); EXPECT_HERE(g, "conv2d: groups 3 must divide the 6 channels of input (N,6,5,5) and the 4 of the output"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .weight = cnn_param(g, "w", shape4(4, 6, 5, 3))); EXPECT_HERE(g, "conv2d: weight (4,6,5,3) does not fit input (N,6,5,5): it must be (4,6,3,3)"); DONE; }
    { NET; cnn_conv2d(x, 50000000, 3); EXPECT_HERE(g, "conv2d: weight (50000000,6,3,3) would have more than 2^31 - 1 elements"); DONE; }
    { NET; cnn_conv2d(x, 4, 2147483647); EXPECT_HERE(g, "conv2d: kernel is 2147483647: it must be the size of the window, in [1,16777216]"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .pad = 2147483647); EXPECT_HERE(g, "conv2d: pad is 2147483647: it must be in [0,16777216]"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .dilation = 2147483647); EXPECT_HERE(g, "conv2d: dilation is 2147483647: it must be in [1,16777216]"); DONE; }
    { NET; cnn_conv2d(cnn_input(g, 1024, 1, 1), 1, 3, .stride = 2, .pad_h = 1, .pad_w = 1048575); EXPECT_HERE(g, "conv2d: 1024 channels of (1,1), padded to (3,2097151), have more than 2^31 - 1 elements"); DONE; }
    { NET; cnn_dense(x, 0); EXPECT_HERE(g, "dense: units is 0: it must be the number of outputs, in [1,2147483647]"); DONE; }
    { NET; cnn_dense(x, -3); EXPECT_HERE(g, "dense: units is -3: it must be the number of outputs, in [1,2147483647]"); DONE; }
    { NET; cnn_dense(x, 3, .bias = cnn_param(g, "b", shape4(1, 4, 1, 1))); EXPECT_HERE(g, "dense: bias (1,4,1,1) does not fit input (N,6,5,5): it must be (1,3,1,1)"); DONE; }
    { NET; cnn_max_pool(x, 6); EXPECT_HERE(g, "max_pool: kernel 6 does not fit input (N,6,5,5) with pad 0,0: (5 + 0 + 0 - 6)/6 + 1 < 1"); DONE; }
    { NET; cnn_max_pool(x, 0); EXPECT_HERE(g, "max_pool: kernel is 0: it must be the size of the window, in [1,16777216]"); DONE; }
    { NET; cnn_avg_pool(x, 3, .pad = 3); EXPECT_HERE(g, "avg_pool: input (N,6,5,5), kernel 3,3, dilation 1,1, pad 3,3 above and below, 3,3 beside: a window would see nothing but padding"); DONE; }
    { NET; cnn_max_pool(x, 3, .dilation = 3); EXPECT_HERE(g, "max_pool: kernel 3 with dilation 3 does not fit input (N,6,5,5) with pad 0,0: (5 + 0 + 0 - 7)/3 + 1 < 1"); DONE; }
    { NET; cnn_max_pool(x, 2, .pad = 1, .dilation_w = 6); EXPECT_HERE(g, "max_pool: input (N,6,5,5), kernel 2,2, dilation 1,6, pad 1,1 above and below, 1,1 beside: a window would see nothing but padding"); DONE; }
    { NET; cnn_avg_pool(x, 3, .stride = -2); EXPECT_HERE(g, "avg_pool: stride is -2: it must be in [1,16777216]"); DONE; }
    { NET; cnn_add(x, cnn_input(g, 6, 5, 4)); EXPECT_HERE(g, "add: (N,6,5,5) and (N,6,5,4) do not fit: each extent must be equal, or 1 in one of them"); DONE; }
    { NET; cnn_mul(x, cnn_param(g, "w", shape4(3, 1, 1, 1))); EXPECT_HERE(g, "mul: (N,6,5,5) and (3,1,1,1) do not fit: each extent must be equal, or 1 in one of them"); DONE; }
    { NET; cnn_matmul(x, x); EXPECT_HERE(g, "matmul: (N,6,5,5) times (N,6,5,5): it must be (M,K,1,1) times (K,P,1,1), the second without the batch"); DONE; }
    { NET; cnn_matmul(cnn_flatten(x), cnn_param(g, "w", shape4(149, 3, 1, 1))); EXPECT_HERE(g, "matmul: (N,150,1,1) times (149,3,1,1): it must be (M,K,1,1) times (K,P,1,1), the second without the batch"); DONE; }
    { NET; cnn_concat(x, cnn_input(g, 1, 5, 4)); EXPECT_HERE(g, "concat: operand 2 is (N,1,5,4), the first is (N,6,5,5): they may differ in C only"); DONE; }
    { NET; cnn_concat(x, x, x, x, x, x, x, x, x); EXPECT_HERE(g, "concat: 9 operands: there must be 1 to 8"); DONE; }
    { NET; cnn_reshape(x, 7, 5, 5); EXPECT_HERE(g, "reshape: (7,5,5) does not have the 150 elements that a sample of (N,6,5,5) has"); DONE; }
    { NET; cnn_reshape(x, -1, 5, 5); EXPECT_HERE(g, "reshape: (-1,5,5) does not have the 150 elements that a sample of (N,6,5,5) has"); DONE; }
    { NET; cnn_sum(x, 16); EXPECT_HERE(g, "sum: axes is 16: it must be made of CNN_N | CNN_C | CNN_H | CNN_W, in [1,15]"); DONE; }
    { NET; cnn_slice(x, CNN_C, INT_MIN, 3); EXPECT_HERE(g, "slice: from -2147483648 to 3 of input (N,6,5,5) holds nothing, or leaves the extent 6 of its axis"); DONE; }
    { NET; cnn_dropout(x, -1); EXPECT_HERE(g, "dropout: p is -1: it must be the probability of a zero, in [0,1)"); DONE; }
    { NET; cnn_conv1d(x, 4, 3); EXPECT_HERE(g, "conv2d: input (N,6,5,5): a signal is (N,C,1,W), from cnn_input(g, C, 1, W), padded along W alone"); DONE; }
    { NET; cnn_conv1d(cnn_input(g, 2, 1, 9), 4, 3, .pad_top = 1); EXPECT_HERE(g, "conv2d: input (N,2,1,9): a signal is (N,C,1,W), from cnn_input(g, C, 1, W), padded along W alone"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .causal = 1, .dilation = 16777216); EXPECT_HERE(g, "conv2d: causal: pad_left would be 33554432: at most 16777216"); DONE; }
    { NET; cnn_conv2d(x, 4, 7, .pad_bottom = 1); EXPECT_HERE(g, "conv2d: kernel 7 does not fit input (N,6,5,5) with pad 0,1: (5 + 0 + 1 - 7)/1 + 1 < 1"); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .pad_left = -1); EXPECT_HERE(g, "conv2d: pad_left is -1: it must be in [0,16777216]"); DONE; }
    { NET; cnn_max_pool(x, 2, .pad_right = 3, .stride = 1); EXPECT_HERE(g, "max_pool: input (N,6,5,5), kernel 2,2, dilation 1,1, pad 0,0 above and below, 0,3 beside: a window would see nothing but padding"); DONE; }
    { NET; cnn_adaptive_avg_pool(x, 0); EXPECT_HERE(g, "adaptive_avg_pool: height is 0: it must be in [1,16777216]"); DONE; }
    { NET; cnn_softmax(x, .axis = CNN_N); EXPECT_HERE(g, "softmax: axis is 1: it must be CNN_C, CNN_H or CNN_W"); DONE; }
    { NET; cnn_log_softmax(x, CNN_H | CNN_W); EXPECT_HERE(g, "log_softmax: axis is 12: it must be CNN_C, CNN_H or CNN_W"); DONE; }
    { NET; cnn_concat_along(CNN_W, x, cnn_input(g, 6, 4, 5)); EXPECT_HERE(g, "concat: operand 2 is (N,6,4,5), the first is (N,6,5,5): they may differ in W only"); DONE; }
    { NET; cnn_concat_along(0, x, x); EXPECT_HERE(g, "concat: axis is 0: it must be CNN_C, CNN_H or CNN_W"); DONE; }
    { NET; cnn_pad(x, 5, .mode = CNN_PAD_REFLECT); EXPECT_HERE(g, "pad: input (N,6,5,5) in the mirror, without its edge, is less than what is added at a side"); DONE; }
    { NET; cnn_pad(x, 5, .mode = 3); EXPECT_HERE(g, "pad: mode is 3: it must be in [0,2]"); DONE; }
    { NET; cnn_permute(x, CNN_C, CNN_W, CNN_W); EXPECT_HERE(g, "permute: axes 2, 8, 8: they must be CNN_C, CNN_H and CNN_W in some order"); DONE; }
    { NET; cnn_transpose(x, CNN_N, CNN_W); EXPECT_HERE(g, "permute: axes 2, 4, 1: they must be CNN_C, CNN_H and CNN_W in some order"); DONE; }
    { NET; cnn_depth_to_space(x, 2); EXPECT_HERE(g, "depth_to_space: block 2: its square must divide the 6 channels of input (N,6,5,5)"); DONE; }
    { NET; cnn_space_to_depth(x, 2); EXPECT_HERE(g, "space_to_depth: block 2 must divide the rows and columns of input (N,6,5,5)"); DONE; }
    { NET; cnn_channel_shuffle(x, 4); EXPECT_HERE(g, "channel_shuffle: groups 4 must divide the 6 channels of input (N,6,5,5)"); DONE; }
    { NET; cnn_dropout(x, 1); EXPECT_HERE(g, "dropout: p is 1: it must be the probability of a zero, in [0,1)"); DONE; }
    { NET; cnn_batch_norm(x, .eps = -1); EXPECT_HERE(g, "batch_norm: eps is -1: it must be in (0,inf)"); DONE; }
    { NET; cnn_softmax_cross_entropy(x, cnn_labels(g)); EXPECT_HERE(g, "softmax_cross_entropy: labels (N,1,1,1) do not fit logits (N,6,5,5): there must be one label per sample and pixel, so C is 1 and the rest is equal"); DONE; }
    { NET; cnn_softmax_cross_entropy(cnn_flatten(x), cnn_labels(g), .smoothing = 1); EXPECT_HERE(g, "softmax_cross_entropy: smoothing is 1: it must be in [0,1)"); DONE; }
    { NET; cnn_mse(x, cnn_flatten(x)); EXPECT_HERE(g, "mse: target (N,150,1,1) must have the shape of the output, (N,6,5,5)"); DONE; }
    { NET; cnn_input(g, 0); EXPECT_HERE(g, "tensor: shape (N,0,1,1): every extent must be at least 1, and a tensor holds at most 2^31 - 1 elements (N = 4)"); DONE; }
    { NET; cnn_input(g, 100000, 100000); EXPECT_HERE(g, "tensor: shape (N,100000,100000,1): every extent must be at least 1, and a tensor holds at most 2^31 - 1 elements (N = 4)"); DONE; }
    { NET; cnn_param(g, "w", shape4(1, -1, 1, 1)); EXPECT_HERE(g, "tensor \"w\": shape (1,-1,1,1): every extent must be at least 1, and a tensor holds at most 2^31 - 1 elements (N = 1)"); DONE; }
    { NET; cnn_param(g, "w", shape4(2, 3, 1, 1), .init = CNN_INIT_HE, .fan_in = -3); EXPECT_HERE(g, "tensor \"w\": fan_in -3, fan_out 0: they must not be negative"); DONE; }
    { NET; cnn_param(g, "w", shape4(2, 3, 1, 1), .init = (cnn_init)77); EXPECT_HERE(g, "tensor \"w\": init is 77: it must be one of CNN_INIT_..."); DONE; }
    { NET; cnn_conv2d(x, 4, 3, .gain = INFINITY); EXPECT_HERE(g, "tensor: gain is inf: it must be a finite number"); DONE; }
    { NET; cnn_const(g, shape4(1, 1, 1, 1), NULL); EXPECT_HERE(g, "tensor: no values were given"); DONE; }
    { NET; cnn_freeze(x); EXPECT_HERE(g, "tensor: cannot be frozen: it is no parameter, and has none below it"); DONE; }
    { NET; cnn_graph *other = cnn_new(); cnn_add(x, cnn_input(other, 6, 5, 5)); EXPECT_HERE(g, "add: operand 2 belongs to another graph"); cnn_free(other); DONE; }
    { NET; cnn_add(x, NULL); EXPECT_HERE(g, "add: operand 2 is not a tensor"); DONE; }
}

static void errors_of_new(void)
{
    cnn_graph *g = cnn_new(.max_batch = -1); EXPECT_HERE(g, "cnn_new: max_batch is -1: it must be positive"); DONE;
    g = cnn_new(.threads = -2); EXPECT_HERE(g, "cnn_new: threads is -2: it must be 1 to 1024, or 0 for the default"); DONE;
    g = cnn_new(.threads = 1025); EXPECT_HERE(g, "cnn_new: threads is 1025: it must be 1 to 1024, or 0 for the default"); DONE;
#if defined(__x86_64__)
    g = cnn_new(.isa = CNN_ISA_NEON); EXPECT_HERE(g, "cnn_new: this CPU or this build lacks the instruction set asked for (.isa = 3)"); DONE;
#endif
}

static void errors_of_compile(void)
{
    { NET; CHECK(!cnn_compile(g, NULL)); EXPECT_HERE(g, "compile: the loss is NULL or nil: a call that records it was given NULL for a tensor"); DONE; }
    { NET; cnn_tensor *y = cnn_dense(x, 2); const char *at = CNN_HERE; CHECK(!cnn_compile(g, y)); EXPECT_AT(g, at, "compile: the loss has shape (N,2,1,1): it must be one number, (1,1,1,1); for prediction alone say cnn_new(.inference = 1)"); DONE; }
    { NET; cnn_graph *h = cnn_new(); cnn_tensor *y = cnn_sum(cnn_dense(x, 2)); CHECK(!cnn_compile(h, y)); EXPECT_HERE(h, "compile: the loss is not a tensor of this graph"); cnn_free(h); DONE; }
    { NET; cnn_tensor *y = cnn_sum(cnn_dense(x, 2)); CHECK(cnn_compile(g, y)); CHECK(!cnn_compile(g, y)); EXPECT_HERE(g, "compile: the graph is compiled already"); DONE; }
    { NET; cnn_tensor *y = cnn_sum(cnn_dense(x, 2)); CHECK(cnn_compile(g, y)); cnn_relu(y); EXPECT_HERE(g, "graph: it is compiled already: no more nodes can be recorded"); DONE; }
    { NET; const char *at = CNN_HERE; cnn_tensor *y = cnn_dense(cnn_dense(x, 2, .name = "fc"), 2, .name = "fc"); CHECK(!cnn_compile(g, cnn_sum(y))); (void)at; EXPECT_AT(g, at, "tensor \"fc.weight\": another node has the same name, recorded at " CNN_HERE); DONE; }
    { NET; const char *at = CNN_HERE; CHECK(!cnn_compile(g, cnn_param(g, "w", shape4(1, 1, 1, 1)))); EXPECT_AT(g, at, "compile: no operation computes the loss: there is nothing to train"); (void)x; DONE; }
    { NET; cnn_tensor *y = cnn_sum(cnn_dense(x, 2)); char memory[64]; CHECK(!cnn_compile_in(g, y, memory + (64 - (uintptr_t)memory % 64) % 64, 1)); CHECK(cnn_error(g) != NULL); DONE; }
}

/* Names may be of any length: none is cut, and a message keeps its end. */
static void long_names(void)
{
    char a[700], b[700], weight[720];
    memset(a, 'a', sizeof a - 1), a[sizeof a - 1] = 0;
    memcpy(b, a, sizeof b), b[sizeof b - 2] = 'b';
    cnn_graph  *g = cnn_new();
    cnn_tensor *y = cnn_dense(cnn_dense(cnn_input(g, 3), 4, .name = a), 2, .name = b), *loss = cnn_sum(y);
    if (compiled(g, loss)) {
        snprintf(weight, sizeof weight, "%s.weight", b);
        CHECK(cnn_find(g, weight) == y->in[1]);
        CHECK(!cnn_get(y->in[1], NULL, 7));
        CHECK_MSG(strstr(cnn_error(g), "get: 7 values were given for shape (2,4,1,1), which has 8"), "%s", cnn_error(g));
    }
    cnn_free(g);
}

/* A graph that is compiled, with its loss just computed in evaluation. */
#define RUNNING NET; cnn_tensor *c = cnn_conv2d(x, 3, 3), *r = cnn_relu(c), *y = cnn_dense(r, 2), *t = cnn_labels(g), \
    *loss = cnn_softmax_cross_entropy(y, t); (void)c, (void)r, (void)y, (void)t; const char *at = CNN_HERE; (void)at; \
    CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g)); float v[600] = { 0 }; int classes[4] = { 0, 1, 0, 1 }; (void)v, (void)classes

static void errors_while_running(void)
{
    { NET; cnn_tensor *y = cnn_sum(cnn_dense(x, 2)); const char *at = CNN_HERE; CHECK(isnan(cnn_forward(y, CNN_TRAIN))); EXPECT_AT(g, at, "sum: forward: call cnn_compile first"); DONE; }
    { NET; float v[1]; const char *at = g->node[0]->t.at; CHECK(!cnn_get(x, v, 1)); EXPECT_AT(g, at, "tensor: read: call cnn_compile first"); DONE; }
    { RUNNING; CHECK(isnan(cnn_forward(loss, CNN_TRAIN))); EXPECT_AT(g, x->at, "tensor \"labels\": it has no values yet: call cnn_set or cnn_feed before cnn_forward"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); CHECK(isnan(cnn_forward(loss, CNN_TRAIN))); EXPECT_AT(g, at, "tensor \"labels\": it has no values yet: call cnn_set or cnn_feed before cnn_forward"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 450)); CHECK(cnn_set_labels(t, classes, 4)); CHECK(isnan(cnn_forward(loss, CNN_TRAIN))); EXPECT_AT(g, x->at, "tensor \"input\": it holds 3 samples, but the batch is 4"); DONE; }
    { RUNNING; CHECK(!cnn_set(x, v, 151)); EXPECT_AT(g, x->at, "tensor \"input\": set: 151 values: shape (N,6,5,5) takes a multiple of 150, up to max_batch = 4 samples"); DONE; }
    { RUNNING; CHECK(!cnn_set(x, v, 0)); EXPECT_AT(g, x->at, "tensor \"input\": set: 0 values: shape (N,6,5,5) takes a multiple of 150, up to max_batch = 4 samples"); DONE; }
    { RUNNING; float *big = test_floats(750); CHECK(!cnn_set(x, big, 750)); EXPECT_AT(g, x->at, "tensor \"input\": set: 750 values: shape (N,6,5,5) takes a multiple of 150, up to max_batch = 4 samples"); free(big); DONE; }
    { RUNNING; CHECK(!cnn_set_labels(t, classes, 5)); EXPECT_AT(g, at, "tensor \"labels\": set_labels: 5 values: shape (N,1,1,1) takes a multiple of 1, up to max_batch = 4 samples"); DONE; }
    { RUNNING; CHECK(!cnn_set_labels(x, classes, 4)); EXPECT_AT(g, x->at, "tensor \"input\": set_labels: it was not made by cnn_labels"); DONE; }
    { RUNNING; CHECK(!cnn_set(y->in[1], v, 3)); EXPECT_AT(g, at, "tensor \"dense1.weight\": set: 3 values were given for shape (2,27,1,1), which has 54"); DONE; }
    { RUNNING; CHECK(!cnn_set(y, v, 8)); EXPECT_AT(g, at, "dense \"dense1\": write: it is computed by the graph; only inputs, labels, parameters, buffers and constants can be written"); DONE; }
    { RUNNING; classes[2] = 2; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); CHECK(isnan(cnn_forward(loss, CNN_TRAIN))); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": label 2 of sample 2 is not a class: logits (N,2,1,1) have the classes 0 to 1"); DONE; }
    { RUNNING; classes[1] = -1; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); CHECK(isnan(cnn_forward(loss, CNN_EVAL))); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": label -1 of sample 1 is not a class: logits (N,2,1,1) have the classes 0 to 1"); DONE; }
    { RUNNING; v[0] = 0.5f; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set(t, v, 4)); CHECK(isnan(cnn_forward(loss, CNN_EVAL))); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": label 0.5 of sample 0 is not a class: logits (N,2,1,1) have the classes 0 to 1"); DONE; }
    { RUNNING; v[0] = NAN; CHECK(cnn_set(x, v + 1, 450)); CHECK(cnn_set(t, v, 3)); CHECK(isnan(cnn_forward(loss, CNN_EVAL))); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": label nan of sample 0 is not a class: logits (N,2,1,1) have the classes 0 to 1"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); CHECK(isfinite(cnn_forward(loss, CNN_EVAL))); cnn_backward(loss); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": backward: it must be the compiled loss, just computed by cnn_forward(loss, CNN_TRAIN), and no tensor written since"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); cnn_forward(loss, CNN_TRAIN); cnn_backward(y); EXPECT_AT(g, at, "dense \"dense1\": backward: it must be the compiled loss, just computed by cnn_forward(loss, CNN_TRAIN), and no tensor written since"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); cnn_forward(loss, CNN_TRAIN); cnn_backward(loss), cnn_backward(loss); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": backward: it must be the compiled loss, just computed by cnn_forward(loss, CNN_TRAIN), and no tensor written since"); DONE; }
    /* What backward would index by was checked by forward alone. */
    { RUNNING; CHECK(cnn_set(x, v, 600)); CHECK(cnn_set_labels(t, classes, 4)); cnn_forward(loss, CNN_TRAIN); classes[0] = 100000000; CHECK(cnn_set_labels(t, classes, 4)); cnn_backward(loss); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": backward: it must be the compiled loss, just computed by cnn_forward(loss, CNN_TRAIN), and no tensor written since"); DONE; }
    { RUNNING; CHECK(!cnn_get(y, v, 8)); EXPECT_AT(g, at, "dense \"dense1\": read: the last cnn_forward did not compute it"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 300)); cnn_forward(y, CNN_EVAL); CHECK(cnn_set_batch(g, 4)); CHECK(!cnn_get(y, v, 8)); EXPECT_AT(g, at, "dense \"dense1\": read: it was computed for 2 samples, and now the batch is 4"); DONE; }
    { NET; cnn_tensor *in = cnn_input(g, 3, .grad = 1), *loss = cnn_mean(cnn_dense(in, 2)); float v[12] = { 0 }; (void)x; CHECK(cnn_compile(g, loss)); CHECK(cnn_set(in, v, 6)); cnn_forward(loss, CNN_TRAIN), cnn_backward(loss); CHECK(cnn_get_grad(in, v, 6)); CHECK(cnn_set(in, v, 12)); CHECK(!cnn_get_grad(in, v, 12)); EXPECT_AT(g, in->at, "tensor \"input\": gradient: it was computed for 2 samples, and now the batch is 4"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); cnn_forward(y, CNN_EVAL); CHECK(!cnn_get(c, v, 108)); EXPECT_AT(g, at, "conv2d \"conv2d1\": read: its memory has been used again; cnn_keep it before cnn_compile, or forward it itself"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); cnn_forward(y, CNN_EVAL); CHECK(!cnn_get(loss, v, 1)); EXPECT_AT(g, at, "softmax_cross_entropy \"softmax_cross_entropy1\": read: the last cnn_forward did not compute it"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); cnn_forward(y, CNN_EVAL); CHECK(!cnn_get(y, v, 7)); EXPECT_AT(g, at, "dense \"dense1\": get: 7 values were given for shape (N,2,1,1), which has 8"); DONE; }
    { RUNNING; CHECK(cnn_set(x, v, 600)); cnn_forward(y, CNN_EVAL); CHECK(!cnn_get_grad(y, v, 8)); EXPECT_AT(g, at, "dense \"dense1\": gradient: the last call was not cnn_backward"); DONE; }
    { RUNNING; CHECK(!cnn_get_grad(x, v, 600)); EXPECT_AT(g, x->at, "tensor \"input\": gradient: it was not asked for: say cnn_input(..., .grad = 1)"); DONE; }
    { RUNNING; CHECK(!cnn_step(g)); EXPECT_HERE(g, "step: lr 0: the learning rate is required and must be positive, such as .lr = 0.01f"); DONE; }
    { RUNNING; CHECK(!cnn_step(g, .lr = -1)); EXPECT_HERE(g, "step: lr -1: the learning rate is required and must be positive, such as .lr = 0.01f"); DONE; }
    { RUNNING; CHECK(!cnn_step(g, .lr = 1)); EXPECT_HERE(g, "step: no gradients yet: call cnn_forward(loss, CNN_TRAIN) and cnn_backward(loss) first"); DONE; }
    { RUNNING; CHECK(!cnn_set_batch(g, 5)); EXPECT_AT(g, g->config.at, "batch: 5 samples: the batch must be 1 to max_batch = 4"); DONE; }
    { RUNNING; cnn_keep(y); EXPECT_AT(g, at, "dense \"dense1\": cannot be kept: the graph is compiled"); DONE; }
    { cnn_graph *g = cnn_new(.inference = 1); cnn_tensor *x = cnn_input(g, 3), *y = cnn_dense(x, 2); const char *at = CNN_HERE; float v[3] = { 1, 2, 3 };
      CHECK(cnn_compile(g, y)); cnn_set(x, v, 3), CHECK(isnan(cnn_forward(y, CNN_TRAIN))); EXPECT_AT(g, at, "dense \"dense1\": forward: the graph is for inference: it runs CNN_EVAL only"); DONE; }
}

/* ---- Every allocation made to fail in turn ---- */

/* The life of a program that allocates wherever the library does. True if nothing failed; false after exactly one message. */
static bool whole_life(void)
{
    static const char path[] = "build/test_graph.safetensors";
    static unsigned char file[100000];
    unsigned char pixels[10 * 2 * SIDE * SIDE], classes[10];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (unsigned char)(i * 7);
    for (int i = 0; i < 10; i++) classes[i] = (unsigned char)(i % CLASSES);
    cnn_config config = { .seed = 3, .at = CNN_HERE };
    net         n = small_net(config);
    cnn_history history = { 0 };
    cnn_dataset data = cnn_bytes(pixels, classes, 10, 2, SIDE, SIDE), part = cnn_split(&data, 0, 5);
    bool        ok = cnn_compile(n.g, n.loss);
    int         messages = 0;
    train_step(n, 1);
    cnn_shuffle(&data, 1), cnn_standardize(&data, &data), cnn_standardize(&part, &data);
    ok = cnn_fit(n.loss, n.logits, &data, .epochs = 2, .lr = 0.01f, .validation = &part, .history = &history) && ok;
    cnn_evaluate(n.loss, n.logits, &data);
    size_t size = cnn_save_memory(n.g, file, sizeof file);
    ok = cnn_save(n.g, path) && ok;
    FILE *sink = fopen("build/test_graph.txt", "w");
    if (sink) cnn_summary(n.g, sink), cnn_dot(n.g, sink), fclose(sink);
    cnn_gradient_check(n.loss, 1);
    cnn_history_csv(&history, "build/test_graph.csv"), cnn_history_svg(&history, "build/test_graph.svg");
    if (ok) {
        cnn_load_args args = { .at = CNN_HERE, .path = "memory" };
        cnn_graph *copy = cnn_load_memory(file, size, args);
        if (cnn_error(copy)) messages++, ok = false;
        cnn_free(copy);
    }
    if (ok) {
        cnn_graph *copy = cnn_load(path, .max_batch = 2);
        if (cnn_error(copy)) messages++, ok = false;
        cnn_free(copy);
    }
    if (ok) ok = cnn_load_weights(n.g, path) && cnn_load_weights_memory(file, size, (cnn_load_weights_args){ .g = n.g, .path = "memory" });
    if (cnn_error(n.g)) {
        messages++, ok = false;
        CHECK_MSG(strstr(cnn_error(n.g), "out of memory") != NULL, "%s", cnn_error(n.g));
    }
    if (data.error[0] || part.error[0]) ok = false, messages++;
    CHECK_MSG(ok ? messages == 0 : messages >= 1, "success %d, %d messages", ok, messages);
    cnn_dataset_free(&part), cnn_dataset_free(&data), cnn_history_free(&history), cnn_free(n.g);
    return ok;
}

static void every_allocation_fails(void)
{
    alloc_fail = 0, alloc_count = 0;
    long before = alloc_live;
    CHECK(whole_life());
    long total = alloc_count, failures = 0;
    CHECK_INT(alloc_live, before);
    for (long i = 1; i <= total && test__bad < 5; i++) {
        alloc_fail = i, alloc_count = 0;
        if (!whole_life()) failures++;
        CHECK_MSG(alloc_live == before, "allocation %ld of %ld failed: %ld blocks leaked", i, total, alloc_live - before);
    }
    alloc_fail = 0;
    CHECK_MSG(failures > total / 2, "%ld of %ld failed allocations were reported", failures, total);
    alloc_live = before;
}

/* ---- Any number of threads ---- */

static void same_bits_for_any_number_of_threads(void)
{
    static const int threads[] = { 1, 2, 3, 8 };
    enum { B = 9, C = 8, S = 20, N = 4 };
    float *image = test_floats(B * C * S * S), *first = NULL, *grads = NULL, loss[N];
    int   classes[B];
    size_t count = 0;
    test_fill(image, B * C * S * S, -1, 1);
    for (int i = 0; i < B; i++) classes[i] = i % 5;
    for (int k = 0; k < N; k++) {
        cnn_graph  *g = cnn_new(.max_batch = B, .seed = 11, .threads = threads[k]);
        cnn_tensor *x = cnn_input(g, C, S, S), *t = cnn_labels(g), *h = x;
        h = cnn_relu(cnn_batch_norm(cnn_conv2d(h, 24, 3, .pad = 1)));
        h = cnn_add(h, cnn_leaky_relu(cnn_conv2d(h, 24, 3, .pad = 1, .groups = 24)));
        h = cnn_max_pool(cnn_conv2d(h, 32, 5, .stride = 1, .pad = 2), 2);
        h = cnn_concat(cnn_avg_pool(h, 2), cnn_tanh(cnn_conv2d(h, 16, 1, .stride = 2)));
        h = cnn_dropout(cnn_sigmoid(cnn_dense(h, 300)), 0.4f);
        cnn_tensor *y = cnn_softmax(cnn_dense(h, 5)), *z = cnn_dense(h, 5);
        cnn_tensor *J = cnn_add(cnn_softmax_cross_entropy(z, t), cnn_mean(cnn_mul(y, cnn_sub(y, cnn_mean(y, CNN_N | CNN_C)))));
        if (!compiled(g, J)) { cnn_free(g); continue; }
        poison(g);
        cnn_set(x, image, B * C * S * S), cnn_set_labels(t, classes, B);
        for (int step = 0; step < 3; step++) {
            if (step == 2) cnn_set(x, image, 5 * C * S * S), cnn_set_labels(t, classes, 5);
            cnn_forward(J, CNN_TRAIN), cnn_backward(J), cnn_step(g, .lr = 0.05f, .momentum = 0.9f, .nesterov = 1);
        }
        loss[k] = cnn_forward(J, CNN_EVAL);
        size_t m;
        const float *w = cnn_flat_params(g, &m), *dw = cnn_flat_grads(g, &m);
        if (k == 0) first = test_floats(m), grads = test_floats(m), memcpy(first, w, m * sizeof *w), memcpy(grads, dw, m * sizeof *w), count = m;
        CHECK_INT(m, count);
        CHECK(isfinite(loss[k]));
        CHECK_MSG(memcmp(first, w, m * sizeof *w) == 0, "parameters with %d threads differ from 1 thread", threads[k]);
        CHECK_MSG(memcmp(grads, dw, m * sizeof *w) == 0, "gradients with %d threads differ from 1 thread", threads[k]);
        CHECK_SAME_BITS(&loss[0], &loss[k], 1);
        no_error(g);
    }
    free(image), free(first), free(grads);
}

/* ---- The memory plan ---- */

/* A random net with joins: the same for the same state of the generator. pool receives every node. */
static cnn_tensor *random_net(cnn_graph *g, cnn_tensor *x, cnn_tensor **pool, int *n_pool)
{
    int n = 0;
    pool[n++] = cnn_conv2d(x, test_int(1, 4), 3, .pad = 1);
    for (int steps = test_int(4, 14); steps > 0; steps--) {
        cnn_tensor *a = pool[test_int(n > 4 ? n - 4 : 0, n - 1)], *b = pool[test_int(0, n - 1)], *y = NULL;
        int c = a->shape.c;
        switch (test_int(0, 20)) {
        case 0: y = cnn_relu(a); break;
        case 1: y = cnn_sigmoid(a); break;
        case 2: y = cnn_tanh(a); break;
        case 3: y = cnn_leaky_relu(a); break;
        case 4: y = cnn_scale(a, 0.7f, 0.1f); break;
        case 5: y = cnn_dropout(a, 0.3f); break;
        case 6: y = cnn_batch_norm(a); break;
        case 7: y = cnn_conv2d(a, test_int(1, 4), 3, .pad = 1); break;
        case 8: y = cnn_conv2d(a, c, 3, .pad = 1, .groups = c, .no_bias = 1); break;
        case 9: y = cnn_max_pool(a, 2, .stride = 1, .pad = 1, .ceil_mode = 0), y = cnn_conv2d(y, c, 2); break;
        case 10: y = cnn_avg_pool(a, 3, .stride = 1, .pad = 1); break;
        case 11: y = cnn_softmax(a); break;
        case 12: y = b->shape.c == c ? cnn_add(a, b) : cnn_add(a, cnn_conv2d(b, c, 1)); break;
        case 13: y = b->shape.c == c ? cnn_mul(a, b) : cnn_mul(a, cnn_global_avg_pool(a)); break;
        case 14: y = b->shape.c == c ? cnn_sub(b, a) : cnn_sub(a, cnn_mean(a, CNN_C)); break;
        case 15: y = c + b->shape.c <= 8 ? cnn_concat(a, b) : cnn_add(a, a); break;
        case 17: y = cnn_batch_norm(cnn_conv2d(a, c, 3, .pad = 1, .no_bias = 1)), y = cnn_relu(b->shape.c == c ? cnn_add(y, b) : y); break;
        case 18: y = cnn_leaky_relu(cnn_clamp(cnn_batch_norm(a), .low = -1, .high = 0.7f)); break;
        case 19: y = cnn_relu(b->shape.c == c ? cnn_mul(a, b) : cnn_sub(a, cnn_mean(a, CNN_C))); break;
        case 16: y = cnn_reshape(cnn_relu(cnn_flatten(a)), c, a->shape.h, a->shape.w); break;
        case 20: y = cnn_max_pool(cnn_relu(cnn_conv2d(a, c, 3, .pad = 1)), 3, .stride = 1, .pad = 1); break;
        }
        pool[n++] = y;
    }
    *n_pool = n;
    cnn_tensor *last = pool[n - 1], *other = pool[test_int(0, n - 1)];
    (void)g;
    return cnn_add(cnn_mean(cnn_mul(last, last)), cnn_mean(other));
}

/* The plan (liveness, in place) must not show in any result: compare with gradients kept and with everything kept. */
static void plans_do_not_change_results(void)
{
    enum { B = 3, C = 2, S = 5, POOL = 20 };
    int gated = 0, kept = 0;                    /* relus whose backward is done by a pooling */
    for (int number = 0; number < 150 && test__bad == 0; number++) {
        uint64_t seed = test_bits(), keep = test__state;
        float image[2][B * C * S * S], loss[4][3], *w[4] = { NULL }, *value[POOL] = { NULL };
        size_t m = 0;
        test_fill(image[0], 2 * B * C * S * S, -1, 1);
        for (int way = 0; way < 4; way++) {     /* 0: everything kept; 1: plain; 2: gradients kept; 3: inputs with gradient */
            test__state = seed;
            cnn_graph  *g = cnn_new(.max_batch = B, .seed = 5, .keep_grads = way == 2 || way == 0);
            cnn_tensor *x = cnn_input(g, C, S, S, .grad = way == 3), *pool[POOL];
            int         n;
            cnn_tensor *J = random_net(g, x, pool, &n);
            for (int i = 0; i < n && way == 0; i++) cnn_keep(pool[i]);
            if (!compiled(g, J)) { cnn_free(g); break; }
            CHECK_INT(cnn_plan(g, J).total, g->memory.total);
            for (int i = 0; i < g->n_order; i++) *(g->config.keep_grads ? &kept : &gated) += g->order[i]->gate != NULL;
            poison(g);
            for (int step = 0; step < 2; step++) {
                cnn_set(x, image[step], (size_t)((B - step) * C * S * S));
                loss[way][step] = cnn_forward(J, CNN_TRAIN);
                cnn_backward(J), cnn_step(g, .lr = 0.01f, .momentum = 0.5f);
            }
            loss[way][2] = cnn_forward(J, CNN_EVAL);
            const float *p = cnn_flat_params(g, &m);
            w[way] = test_floats(m), memcpy(w[way], p, m * sizeof *p);
            for (int i = 0; i < n; i++) {                        /* every node that the loss needs, asked for alone */
                if (pool[i]->index < 0 || pool[i]->index > J->index) continue;
                size_t count = cnn_count(pool[i]);
                float *v = test_floats(count);
                if (way > 0) poison(g), cnn_set(x, image[1], (size_t)((B - 1) * C * S * S)), cnn_forward(pool[i], CNN_EVAL);
                CHECK_MSG(cnn_get(pool[i], v, count), "net %d: %s", number, cnn_error(g) ? cnn_error(g) : "?");
                if (way == 0) value[i] = v;
                else if (value[i]) CHECK_MSG(memcmp(v, value[i], count * sizeof *v) == 0, "net %d: value of node %d (%s) differs", number, i, pool[i]->name);
                if (way > 0) free(v);
            }
            if (way > 0) {
                CHECK_MSG(memcmp(loss[0], loss[way], sizeof loss[0]) == 0, "net %d: losses %g %g %g differ from %g %g %g (way %d)", number, (double)loss[way][0],
                          (double)loss[way][1], (double)loss[way][2], (double)loss[0][0], (double)loss[0][1], (double)loss[0][2], way);
                CHECK_MSG(memcmp(w[0], w[way], m * sizeof *p) == 0, "net %d: parameters differ (way %d)", number, way);
            }
            CHECK(isfinite(loss[way][1]));
            no_error(g);
        }
        for (int way = 0; way < 4; way++) free(w[way]);
        for (int i = 0; i < POOL; i++) free(value[i]);
        test__state = keep;
    }
    CHECK_MSG(gated > 20 && !kept, "%d relus before a pooling, %d with gradients kept", gated, kept);
}

/* Batch norm, add and rectifiers in one pass (see cnn__joins): the bits of the rooms, on planes of several pieces, for
   any number of threads; and only what the plan has given up is out of reach. */
static void joined_nodes(void)
{
    enum { B = 3, C = 5, H = 53, W = 47, N = B * C * H * W };
    float *image = test_floats(N), *value[4], loss[4][3], w[4][2 * 64 + 64];
    size_t m = 0;
    test_fill(image, N, -2, 2);
    for (int way = 0; way < 4; way++) {                 /* 0: all kept; 1: joined; 2: on two threads; 3: in portable C */
        cnn_graph  *g = cnn_new(.max_batch = B, .seed = 3, .threads = way == 2 ? 2 : 1, .isa = way == 3 ? CNN_ISA_C : CNN_ISA_AUTO);
        cnn_tensor *x = cnn_input(g, C, H, W), *s = cnn_scale(x, 0.5f, 0.1f), *bn = cnn_batch_norm(x), *sum = cnn_add(bn, s);
        cnn_tensor *y = cnn_clamp(cnn_leaky_relu(sum), .low = -0.005f, .high = 1), *J = cnn_mean(cnn_mul(y, y));
        if (way == 0) cnn_keep(bn), cnn_keep(sum), cnn_keep(y->in[0]);
        if (!compiled(g, J)) { cnn_free(g); return; }
        poison(g);
        for (int step = 0; step < 2; step++) {
            cnn_set(x, image, N);
            loss[way][step] = cnn_forward(J, CNN_TRAIN);
            CHECK_INT(cnn__of(y)->stamp, g->run);
            cnn_backward(J), cnn_step(g, .lr = 0.1f);
        }
        loss[way][2] = cnn_forward(J, CNN_EVAL);
        const float *p = cnn_flat_params(g, &m);
        CHECK(m <= sizeof w[0] / sizeof *p), memcpy(w[way], p, m * sizeof *p);
        value[way] = test_floats(2 * N);
        cnn_forward(y, CNN_EVAL), CHECK(cnn_get(y, value[way], N));
        cnn_forward(bn, CNN_EVAL), CHECK(cnn_get(bn, value[way] + N, N));       /* asked for alone: not joined */
        if (way == 1) {
            cnn_forward(y, CNN_EVAL), CHECK(!cnn_map_read(bn));
            CHECK(cnn_error(g) && strstr(cnn_error(g), "its memory has been used again"));
            cnn_free(g);
        } else no_error(g);
        CHECK_MSG(memcmp(loss[0], loss[way], sizeof loss[0]) == 0 && memcmp(w[0], w[way], m * sizeof *p) == 0, "way %d", way);
        CHECK_MSG(memcmp(value[0], value[way], 2 * N * sizeof *image) == 0, "values differ (way %d)", way);
    }
    for (int way = 0; way < 4; way++) free(value[way]);
    free(image);
}

/* Every formula of one number behind every operation that can take it, and sub and mul as the second: the bits of the
   rooms, which run where the result before it is kept. */
static cnn_tensor *formula_number(cnn_tensor *x, int i)
{
    switch (i) {
    case 0:  return cnn_relu(x);
    case 1:  return cnn_leaky_relu(x, 0.2f);
    case 2:  return cnn_sigmoid(x);
    case 3:  return cnn_tanh(x);
    case 4:  return cnn_clamp(x, -0.5f, 0.7f);
    case 5:  return cnn_elu(x, 0.8f);
    case 6:  return cnn_gelu(x);
    case 7:  return cnn_gelu(x, .tanh = 1);
    case 8:  return cnn_silu(x);
    case 9:  return cnn_softplus(x, .beta = 2);
    case 10: return cnn_hard_swish(x);
    case 11: return cnn_exp(x);
    case 12: return cnn_log(x);
    case 13: return cnn_sqrt(x);
    case 14: return cnn_abs(x);
    case 15: return cnn_scale(x, 1.5f, -0.2f);
    case 16: return cnn_selu(x);
    case 17: return cnn_mish(x);
    case 18: return cnn_hard_sigmoid(x);
    case 19: return cnn_softsign(x);
    case 20: return cnn_erf(x);
    case 21: return cnn_power(x, 3);
    case 22: return cnn_div(x, x->in[0]);
    case 23: return cnn_maximum(x, x->in[0]);
    case 24: return cnn_minimum(x, x->in[0]);
    case 25: return cnn_pow(x, x->in[0]);
    case 26: return cnn_sub(x, x->in[0]);
    default: return cnn_mul(x, x->in[0]);
    }
}
static void joined_formulas(void)
{
    enum { B = 2, C = 3, H = 31, W = 37, N = B * C * H * W };
    float *image = test_floats(N), *value[2] = { test_floats(N), test_floats(N) };
    test_fill(image, N, -2, 2);
    for (int i = 0; i < 28; i++)
        for (int head = 0; head < 4; head++) {
            bool joined = false;
            for (int way = 0; way < 2; way++) {
                cnn_graph  *g = cnn_new(.max_batch = B, .threads = 1, .inference = 1);
                cnn_tensor *x = cnn_input(g, C, H, W), *s = cnn_scale(x, 0.5f, 0.1f), *a = cnn_scale(x, 2);
                cnn_tensor *h = head == 0 ? cnn_batch_norm(a) : head == 1 ? cnn_add(a, s) : head == 2 ? cnn_sub(a, s)
                                                                                              : cnn_mul(a, s);
                cnn_tensor *y = formula_number(h, i);
                if (way == 0) cnn_keep(h);
                if (!compiled(g, cnn_mean(cnn_keep(y)))) { cnn_free(g); return; }
                cnn_set(x, image, N), cnn_forward(y, CNN_EVAL);
                CHECK(cnn_get(y, value[way], N));
                if (way == 1) joined = cnn__of(h)->joined[CNN_EVAL] == cnn__of(y);
                cnn_free(g);
            }
            CHECK_MSG(joined, "formula %d is not joined to %d", i, head);
            CHECK_MSG(memcmp(value[0], value[1], N * sizeof *image) == 0, "formula %d behind %d", i, head);
        }
    free(image), free(value[0]), free(value[1]);
}

/* A layer as a user writes it: y = w x + shift, w (1,C,1,1) its own, shift an option with default and range. */
typedef struct { const char *at, *said; cnn_tensor *x, *weight; float shift, twin; } gain_args;
static bool gain_shape(cnn_tensor *y) { return y->shape = y->in[0]->shape, true; }
static cnn_shape gain_weight(const cnn_tensor *y) { return shape4(1, y->shape.c, 1, 1); }
static void gain_forward(cnn_tensor *y, cnn_mode mode)
{
    const gain_args *a = y->args;
    (void)mode;
    for (int i = 0; i < y->shape.n * y->shape.c; i++)
        y->data[i] = cnn_operand(y, "weight")->data[i % y->shape.c] * y->in[0]->data[i] + a->shift;
}
static const cnn_field gain_fields[] = {
    CNN_FIELD('f', gain_args, shift, .preset = -0.5, .range = "(-1.25,inf)", .what = "a shift"),
    CNN_FIELD('f', gain_args, twin, .like = "shift"), { 0 } };
static const cnn_owned gain_owned[] = {
    { .suffix = "weight", .kind = CNN_PARAM, .shape = gain_weight, .start = 3, .given = offsetof(gain_args, weight) },
    { 0 } };
static const cnn_op gain_op = { .name = "gain", .shape = gain_shape, .forward = gain_forward, .args_size = sizeof(gain_args),
                                .fields = gain_fields, .owned = gain_owned };
static cnn_tensor *gain(gain_args a) { return cnn_layer(&gain_op, &a.x, 1, &a, a.at, "g1"); }

static void a_row_knows(void)
{
    { NET; gain((gain_args){ .at = CNN_HERE, .x = x, .shift = -1.25f }); EXPECT_HERE(g, "gain \"g1\": shift is -1.25: it must be a shift, in (-1.25,inf)"); DONE; }
    { NET; gain((gain_args){ .at = CNN_HERE, .x = x, .weight = cnn_param(g, "w", shape4(1, 5, 1, 1)) }); EXPECT_HERE(g, "gain \"g1\": weight (1,5,1,1) does not fit input (N,6,5,5): it must be (1,6,1,1)"); DONE; }
    { NET; cnn_apply(&gain_op, &x, 1, NULL, CNN_HERE); EXPECT_HERE(g, "gain: 1 operands: it takes 2"); DONE; }
    { NET; gain((gain_args){ .at = CNN_HERE, .x = x, .twin = NAN }); EXPECT_HERE(g, "gain \"g1\": twin is nan: it must be in [-inf,inf]"); DONE; }
    static const cnn_field required[] = { CNN_FIELD('f', gain_args, twin, .preset = CNN_REQUIRED), { 0 } };
    cnn_op strict = gain_op;
    strict.fields = required;
    { NET; cnn_layer(&strict, &x, 1, NULL, CNN_HERE, NULL); EXPECT_HERE(g, "gain: twin is missing: it must be in [-inf,inf]"); DONE; }
    cnn_graph  *g = cnn_new(.max_batch = 2, .inference = 1);
    cnn_tensor *x = cnn_input(g, 3), *y = gain((gain_args){ .at = CNN_HERE, .x = x });
    const float in[6] = { 0, 1, 2, 3, 4, 5 };
    float       out[6];
    CHECK(compiled(g, y) && cnn_set(x, in, 6)), cnn_forward(y, CNN_EVAL);
    CHECK(cnn_get(y, out, 6));
    for (int i = 0; i < 6; i++) CHECK(out[i] == 3 * in[i] - 0.5f);
    CHECK(((const gain_args *)y->args)->twin == -0.5f);
    CHECK_STR(cnn_operand(y, "weight")->name, "g1.weight");
    CHECK(cnn_operand(y, "bias") == NULL && cnn_operand(x, "weight") == NULL);
    cnn_free(g);

    g = cnn_new(.max_batch = 2);
    const cnn_conv2d_args *c = cnn_conv2d(cnn_input(g, 4, 9, 9), 2, 3, .kernel_w = 5, .stride = 2, .pad_h = 1)->args;
    const cnn_pool_args   *p = cnn_max_pool(cnn_input(g, 4, 9, 9), 2, .kernel_h = 3)->args;
    CHECK(c->kernel_h == 3 && c->kernel_w == 5 && c->stride_h == 2 && c->stride_w == 2 && c->pad_h == 1 && c->pad_w == 0);
    CHECK(c->dilation_h == 1 && c->dilation_w == 1 && c->groups == 1);
    CHECK(p->kernel_h == 3 && p->kernel_w == 2 && p->stride_h == 3 && p->stride_w == 2 && p->dilation_h == 1);
    no_error(g);
}

/* What cnn_plan says is what compile takes, and nothing is allocated while running. */
static void plan_is_what_compile_takes(void)
{
    cnn_config config = { .seed = 1 };
    net n = small_net(config);
    long before = alloc_count;
    cnn_memory m = cnn_plan(n.g, n.loss);
    CHECK_INT(m.params + m.grads + m.optimizer + m.buffers + m.inputs + m.activations + m.scratch, m.total);
    CHECK(m.params >= 4 * cnn_param_count(n.g) && m.grads == m.params && m.optimizer == m.params && m.activations_eval <= m.activations);
    alloc_largest = 0;
    CHECK(compiled(n.g, n.loss));
    CHECK_INT(alloc_largest, m.total + 64);
    CHECK_INT(cnn_plan(n.g, n.loss).total, m.total);
    CHECK(alloc_count > before);
    before = alloc_count;
    for (uint64_t i = 0; i < 3; i++) train_step(n, i);
    cnn_forward(n.logits, CNN_EVAL);
    CHECK_INT(alloc_count, before);
    no_error(n.g);
}

static void memory_of_the_caller(void)
{
    cnn_config config = { .seed = 1 };
    net a = small_net(config), b = small_net(config);
    size_t total = cnn_plan(a.g, a.loss).total;
    CHECK(total % 64 == 0);
    char *raw = test_alloc(total + 192), *at = raw + 64 + (64 - (uintptr_t)raw % 64) % 64;
    memset(raw, 0x5a, total + 192);
    alloc_largest = 0;
    CHECK_MSG(cnn_compile_in(a.g, a.loss, at, total), "%s", cnn_error(a.g));
    CHECK(alloc_largest < total / 2);
    CHECK(compiled(b.g, b.loss));
    for (uint64_t i = 0; i < 3; i++) {
        float la = train_step(a, i), lb = train_step(b, i);
        CHECK_SAME_BITS(&la, &lb, 1);
    }
    for (int i = 0; i < 64; i++) CHECK(at[-1 - i] == 0x5a && at[total + (size_t)i] == 0x5a);
    no_error(a.g), no_error(b.g);
    a = small_net(config);
    CHECK(!cnn_compile_in(a.g, a.loss, at, total - 1));
    CHECK(cnn_error(a.g) && strstr(cnn_error(a.g), "aligned to 64, are needed"));
    cnn_free(a.g);
    a = small_net(config);
    CHECK(!cnn_compile_in(a.g, a.loss, at + 4, total + 64));
    CHECK(cnn_error(a.g) && strstr(cnn_error(a.g), "aligned to 64, are needed"));
    cnn_free(a.g);
    free(raw);
}

static void inference_takes_less(void)
{
    cnn_config train = { .seed = 1 }, infer = { .seed = 1, .inference = 1 };
    net a = small_net(train), b = small_net(infer);
    cnn_memory ma = cnn_plan(a.g, a.loss), mb = cnn_plan(b.g, b.logits);
    CHECK(mb.grads == 0 && mb.optimizer == 0 && mb.activations == mb.activations_eval && mb.activations < ma.activations);
    CHECK(compiled(a.g, a.loss) && compiled(b.g, b.logits));
    /* Without labels: logits can be computed. The same initial weights, since names and order are the same. */
    float image[MAX_BATCH * 2 * SIDE * SIDE], la[MAX_BATCH * CLASSES], lb[MAX_BATCH * CLASSES];
    test_fill(image, MAX_BATCH * 2 * SIDE * SIDE, -1, 1);
    CHECK(cnn_set(a.x, image, MAX_BATCH * 2 * SIDE * SIDE) && cnn_set(b.x, image, MAX_BATCH * 2 * SIDE * SIDE));
    cnn_forward(a.logits, CNN_EVAL), cnn_forward(b.logits, CNN_EVAL);
    CHECK(cnn_get(a.logits, la, MAX_BATCH * CLASSES) && cnn_get(b.logits, lb, MAX_BATCH * CLASSES));
    CHECK_ALL_NEAR(la, lb, MAX_BATCH * CLASSES, 1e-5);          /* batch norm is folded into the convolution */
    CHECK(cnn_find(b.g, "labels") == NULL && cnn_find(b.g, "first.weight") != NULL);
    no_error(a.g), no_error(b.g);
}

/* A smaller batch is a prefix: evaluated results are those of the same samples in a full batch. */
static void partial_batches(void)
{
    cnn_config config = { .seed = 1 };
    net n = small_net(config);
    if (compiled(n.g, n.loss)) {
        for (uint64_t i = 0; i < 3; i++) train_step(n, i);
        float image[MAX_BATCH * 2 * SIDE * SIDE], full[MAX_BATCH * CLASSES], part[MAX_BATCH * CLASSES];
        test_fill(image, MAX_BATCH * 2 * SIDE * SIDE, -1, 1);
        cnn_set(n.x, image, MAX_BATCH * 2 * SIDE * SIDE), cnn_forward(n.logits, CNN_EVAL);
        CHECK(cnn_get(n.logits, full, MAX_BATCH * CLASSES));
        for (int b = 1; b < MAX_BATCH; b++) {
            poison(n.g);
            CHECK(cnn_set(n.x, image, (size_t)(b * 2 * SIDE * SIDE)));
            CHECK_INT(cnn_batch(n.g), b);
            CHECK_INT(cnn_count(n.logits), b * CLASSES);
            cnn_forward(n.logits, CNN_EVAL);
            CHECK(cnn_get(n.logits, part, (size_t)(b * CLASSES)));
            CHECK_ALL_NEAR(part, full, b * CLASSES, 1e-5);
        }
    }
    no_error(n.g);
}

static void caches_and_kept_values(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 4), *a = cnn_relu(cnn_dense(x, 5)), *b = cnn_dense(a, 3), *side = cnn_tanh(a), *loss = cnn_sum(cnn_mul(b, b));
    cnn_keep(a), cnn_keep(side), cnn_name(b, "out");
    if (compiled(g, loss)) {
        float v[8], got[10], s[10];
        test_fill(v, 8, -1, 1);
        cnn_set(x, v, 8);
        cnn_forward(loss, CNN_EVAL);
        CHECK(cnn_get(a, got, 10));
        cnn_forward(side, CNN_EVAL);
        CHECK(cnn_get(side, s, 10));
        for (int i = 0; i < 10; i++) CHECK_NEAR(s[i], tanh((double)got[i]), 1e-6);
        CHECK(cnn_find(g, "out") == b && cnn_find(g, "dense1.weight") && cnn_find(g, "dense1") && cnn_find(g, "out.bias") && cnn_find(g, "input") == x);
        CHECK(cnn_find(g, "nothing") == NULL && cnn_find(g, NULL) == NULL);
        /* Write a parameter through the map; read it back. */
        float *w = cnn_map_write(b->in[2]);
        CHECK(w != NULL);
        if (w) for (int i = 0; i < 3; i++) w[i] = (float)(i + 1);
        CHECK(cnn_get(b->in[2], got, 3));
        CHECK(got[0] == 1 && got[1] == 2 && got[2] == 3);
    }
    no_error(g);
}

/* ---- Order and names ---- */

/* C leaves the order of evaluation of arguments open: nothing may depend on it. */
static void creation_order_does_not_matter(void)
{
    float w[2][64], loss[2];
    for (int way = 0; way < 2; way++) {
        cnn_graph  *g = cnn_new(.max_batch = 2, .seed = 9);
        cnn_tensor *x = cnn_input(g, 3), *a, *b;
        if (way == 0) a = cnn_dense(x, 4), b = cnn_dense(x, 4);
        else          b = cnn_dense(x, 4), a = cnn_dense(x, 4);
        cnn_tensor *loss_t = cnn_mean(cnn_dropout(cnn_mul(cnn_tanh(a), cnn_sigmoid(b)), 0.5f));
        if (compiled(g, loss_t)) {
            float v[6] = { 1, 2, 3, 4, 5, 6 };
            cnn_set(x, v, 6);
            loss[way] = cnn_forward(loss_t, CNN_TRAIN);
            CHECK_STR(a->name, "dense1");
            CHECK(cnn_get(a->in[1], w[way], 12) && cnn_get(b->in[1], w[way] + 12, 12));
        }
        no_error(g);
    }
    CHECK_SAME_BITS(w[0], w[1], 24);
    CHECK_SAME_BITS(&loss[0], &loss[1], 1);
    int differ = 0;
    for (int i = 0; i < 12; i++) differ += w[0][i] != w[0][12 + i];
    CHECK_INT(differ, 12);
}

static void seeds(void)
{
    float w[3][12];
    static const uint64_t seed[3] = { 0, 1, (uint64_t)1 << 40 };
    for (int i = 0; i < 3; i++) {
        cnn_graph *g = cnn_new(.seed = seed[i]);
        cnn_tensor *y = cnn_dense(cnn_input(g, 3), 4), *loss = cnn_sum(y);
        CHECK(compiled(g, loss) && cnn_get(y->in[1], w[i], 12));
        for (int j = 0; j < 12; j++) CHECK(w[i][j] != 0 && fabsf(w[i][j]) <= 1.0f);
        no_error(g);
    }
    CHECK(memcmp(w[0], w[1], sizeof w[0]) != 0 && memcmp(w[1], w[2], sizeof w[0]) != 0 && memcmp(w[0], w[2], sizeof w[0]) != 0);
    /* The first numbers, for ever: same seed, same bits on every machine. */
    uint32_t out[4];
    cnn__philox(out, 0, 0, 0);                  /* known answers of Random123, kat_vectors */
    CHECK(out[0] == 0x6627e8d5u && out[1] == 0xe169c58du && out[2] == 0xbc57ac4cu && out[3] == 0x9b00dbd8u);
    cnn__philox(out, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0);
    CHECK(out[0] == 0x408f276du && out[1] == 0x41c83b0eu && out[2] == 0xa20bc7c6u && out[3] == 0x6d5451fdu);
}

static void deep_chain(void)
{
    cnn_graph  *g = cnn_new();
    cnn_tensor *x = cnn_input(g, 3, .grad = 1), *h = x;
    for (int i = 0; i < 3000; i++) h = cnn_scale(h, i % 2 ? 0.5f : 2.0f, 0);
    cnn_tensor *loss = cnn_sum(h);
    if (compiled(g, loss)) {
        float v[3] = { 1, 2, 3 }, d[3];
        cnn_set(x, v, 3);
        CHECK_NEAR(cnn_forward(loss, CNN_TRAIN), 6, 1e-6);
        cnn_backward(loss);
        CHECK(cnn_get_grad(x, d, 3) && d[0] == 1 && d[1] == 1 && d[2] == 1);
        CHECK(cnn_plan(g, loss).activations < 2048);
    }
    no_error(g);
}

/* ---- Sharing, accumulation, frozen parameters ---- */

/* One weight used twice: its gradient is the sum of the gradients of two copies. */
static void shared_weights(void)
{
    float v[2 * 2 * 36], w[2 * 2 * 9], together[36], apart[2][36];
    test_fill(v, 2 * 2 * 36, -1, 1), test_fill(w, 36, -1, 1);
    for (int shared = 0; shared < 2; shared++) {
        cnn_graph  *g = cnn_new(.max_batch = 2);
        cnn_tensor *x = cnn_input(g, 2, 6, 6), *W = cnn_param(g, "W", shape4(2, 2, 3, 3));
        cnn_tensor *a = cnn_tanh(cnn_conv2d(x, 2, 3, .pad = 1, .weight = W, .no_bias = 1)), *b;
        if (shared) b = cnn_conv2d(a, 2, 3, .weight = W, .no_bias = 1);
        else        b = cnn_conv2d(a, 2, 3, .no_bias = 1);
        cnn_tensor *W2 = b->in[1], *loss = cnn_mean(cnn_mul(b, b));
        if (compiled(g, loss)) {
            cnn_set(x, v, 2 * 2 * 36), cnn_set(W, w, 36), cnn_set(W2, w, 36);
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            if (shared) CHECK(W2 == W && cnn_get_grad(W, together, 36) && cnn_param_count(g) == 36);
            else        CHECK(cnn_get_grad(W, apart[0], 36) && cnn_get_grad(W2, apart[1], 36) && cnn_param_count(g) == 72);
        }
        no_error(g);
    }
    for (int i = 0; i < 36; i++) CHECK_NEAR(together[i], (double)apart[0][i] + (double)apart[1][i], 1e-5);
}

/* A weight from a layer that the loss does not need is the borrower's: in names, summary, picture, views, doctor. */
static void borrowed_weights(void)
{
    float v[6], w[15];
    int   classes[2] = { 0, 1 };
    test_fill(v, 6, -1, 1);
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3), *t = cnn_labels(g), *a = cnn_dense(x, 5), *b = cnn_dense(x, 5, .weight = a->in[1]);
    cnn_tensor *other = cnn_dense(x, 2), *lost = cnn_keep(other->in[1]), *loss = cnn_softmax_cross_entropy(b, t);
    if (compiled(g, loss)) {
        CHECK_STR(b->in[1]->name, "dense1.weight");
        CHECK_STR(lost->name, "param1");                                    /* nobody reads it */
        const char path[] = "build/test_borrowed.txt";
        char  text[4000] = "";
        FILE *f = fopen(path, "w+");
        if (f) {
            cnn_summary(g, f), cnn_dot(g, f), rewind(f);
            text[fread(text, 1, sizeof text - 1, f)] = 0;
            fclose(f), remove(path);
            CHECK_MSG(strstr(text, "dense units=5          (N,5,1,1)          20") != NULL, "%s", text);
            CHECK(!strstr(text, "n-1"));
        }
        cnn_graph *view = cnn_share(g);
        CHECK(cnn_get(cnn_find(view, "dense1.weight"), w, 15));
        CHECK(cnn__of(cnn_find(view, "dense1.weight"))->owner == cnn__of(cnn_find(view, "dense1")));
        cnn_free(view);
        CHECK(cnn_doctor(g, 1) && cnn_set(x, v, 6) && cnn_set_labels(t, classes, 2));
        cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
        float *dw = cnn_flat_grads(g, NULL);
        if (dw) dw[0] = INFINITY;
        CHECK(!cnn_step(g, .lr = 1));
        CHECK_MSG(cnn_doctor_report(g) && strstr(cnn_doctor_report(g), "update of dense \"dense1\""), "%s", cnn_error(g));
    }
    cnn_free(g);
}

/* Two half batches with cnn_backward_add make the gradient of the whole batch, times two. */
static void accumulated_gradients(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 4);
    cnn_tensor *x = cnn_input(g, 5), *t = cnn_input(g, 2), *y = cnn_dense(cnn_tanh(cnn_dense(x, 6)), 2), *loss = cnn_mse(y, t);
    if (compiled(g, loss)) {
        float v[20], u[8];
        size_t m;
        test_fill(v, 20, -1, 1), test_fill(u, 8, -1, 1);
        cnn_set(x, v, 20), cnn_set(t, u, 8), cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
        const float *d = cnn_flat_grads(g, &m);
        float *whole = test_floats(m);
        memcpy(whole, d, m * sizeof *d);
        cnn_set(x, v, 10), cnn_set(t, u, 4), cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
        cnn_set(x, v + 10, 10), cnn_set(t, u + 4, 4), cnn_forward(loss, CNN_TRAIN), cnn_backward_add(loss);
        d = cnn_flat_grads(g, &m);
        for (size_t i = 0; i < m; i++) CHECK_NEAR(d[i], 2 * (double)whole[i], 1e-5);
        free(whole);
    }
    no_error(g);
}

static void frozen_parameters(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 2);
    cnn_tensor *x = cnn_input(g, 3), *a = cnn_dense(x, 4), *y = cnn_dense(cnn_tanh(a), 1), *loss = cnn_mean(cnn_mul(y, y));
    cnn_freeze(a->in[1]);
    if (compiled(g, loss)) {
        float v[6] = { 1, -2, 3, 1, 1, 1 }, before[12], after[12], b0[4], b1[4];
        cnn_set(x, v, 6);
        CHECK(cnn_get(a->in[1], before, 12) && cnn_get(a->in[2], b0, 4));
        cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f, .weight_decay = 0.1f);
        CHECK(cnn_get(a->in[1], after, 12) && cnn_get(a->in[2], b1, 4));
        CHECK_SAME_BITS(before, after, 12);
        CHECK(memcmp(b0, b1, sizeof b0) != 0);
        CHECK_INT(cnn_param_count(g), 12 + 4 + 4 + 1);
        CHECK_INT(cnn_plan(g, loss).grads, 3 * 64);
    }
    no_error(g);
}

/* ---- Operations from outside ---- */

/* swish(x) = x / (1 + e^-bx), with an option; reads x. */
typedef struct { const char *at, *said; float b; } swish_args;
static bool swish_shape(cnn_tensor *y)
{
    const swish_args *a = y->args;
    if (!(a->b > 0)) return cnn_fail(y, "b is %g: it must be positive", (double)a->b);
    y->shape = y->in[0]->shape;
    return true;
}
static void swish_forward(cnn_tensor *y, cnn_mode mode)
{
    const swish_args *a = y->args;
    (void)mode;
    for (int i = 0; i < y->shape.n * y->shape.c * y->shape.h * y->shape.w; i++)
        y->data[i] = y->in[0]->data[i] / (1 + expf(-a->b * y->in[0]->data[i]));
}
static void swish_backward(cnn_tensor *y)
{
    const swish_args *a = y->args;
    for (int i = 0; i < y->shape.n * y->shape.c * y->shape.h * y->shape.w; i++) {
        float x = y->in[0]->data[i], s = 1 / (1 + expf(-a->b * x));
        y->in[0]->grad[i] += y->grad[i] * (s + a->b * x * s * (1 - s));
    }
}
static const cnn_field swish_fields[] = { CNN_FIELD('f', swish_args, b), { 0 } };
static const cnn_op swish_op = { .name = "swish", .shape = swish_shape, .forward = swish_forward, .backward = swish_backward, .flags = CNN_READS_X,
                                 .args_size = sizeof(swish_args), .fields = swish_fields };

/* log cosh loss of y - target: mean of log(cosh(d)). Scratch and saved state are asked for, to test both. */
static bool logcosh_shape(cnn_tensor *y)
{
    y->shape = shape4(1, 1, 1, 1), y->batched = false;
    return cnn_count(y->in[0]) == cnn_count(y->in[1]) ? true : cnn_fail(y, "sizes differ");
}
static size_t logcosh_bytes(const cnn_tensor *y) { return (size_t)y->in[0]->shape.n * (size_t)y->in[0]->shape.c * sizeof(float); }
static void logcosh_forward(cnn_tensor *y, cnn_mode mode)
{
    float *d = cnn_scratch(y), *keep = y->saved;
    int    n = y->in[0]->shape.n * y->in[0]->shape.c;
    double s = 0;
    for (int i = 0; i < n; i++) d[i] = y->in[0]->data[i] - y->in[1]->data[i];
    for (int i = 0; i < n; i++) s += log(cosh((double)d[i]));
    if (mode == CNN_TRAIN) memcpy(keep, d, (size_t)n * sizeof *d);
    y->data[0] = (float)(s / n);
}
static void logcosh_backward(cnn_tensor *y)
{
    const float *d = y->saved;
    int n = y->in[0]->shape.n * y->in[0]->shape.c;
    for (int i = 0; i < n; i++) {
        float e = y->grad[0] * tanhf(d[i]) / (float)n;
        if (y->in[0]->needs_grad) y->in[0]->grad[i] += e;
        if (y->in[1]->needs_grad) y->in[1]->grad[i] -= e;
    }
}
static const cnn_op logcosh_op = { .name = "logcosh", .shape = logcosh_shape, .forward = logcosh_forward, .backward = logcosh_backward,
                                   .scratch = logcosh_bytes, .saved = logcosh_bytes, .flags = CNN_LOSS };

static cnn_tensor *swish(cnn_tensor *x, float b) { swish_args a = { CNN_HERE, NULL, b }; return cnn_apply(&swish_op, &x, 1, &a, CNN_HERE); }

static void operations_from_outside(void)
{
    cnn_graph  *g = cnn_new(.max_batch = 3);
    cnn_tensor *x = cnn_input(g, 4), *t = cnn_input(g, 2), *y = cnn_dense(swish(cnn_dense(x, 6), 1.5f), 2);
    cnn_tensor *both[2] = { y, t }, *loss = cnn_apply(&logcosh_op, both, 2, NULL, CNN_HERE);
    if (compiled(g, loss)) {
        float v[12], u[6];
        test_fill(v, 12, -1, 1), test_fill(u, 6, -1, 1);
        cnn_set(x, v, 12), cnn_set(t, u, 6);
        float first = cnn_forward(loss, CNN_TRAIN);
        cnn_check check = cnn_gradient_check(loss, 0);
        CHECK_MSG(check.checked > 20 && check.worst < 1e-3, "worst %g at %s[%d]: %g against %g", check.worst, check.param, check.index, check.analytic, check.numeric);
        for (int i = 0; i < 300; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.3f, .momentum = 0.9f);
        CHECK(cnn_forward(loss, CNN_EVAL) < 0.01f * first);
        CHECK(cnn_output(g) == y && cnn_loss(g) == loss);
        CHECK_STR(cnn_find(g, "swish1")->op->name, "swish");
    }
    no_error(g);
    g = cnn_new();
    x = cnn_input(g, 4);
    swish_args bad = { CNN_HERE, NULL, -1 };
    cnn_apply(&swish_op, &x, 1, &bad, "here.c:7");
    EXPECT(g, "here.c:7: swish: b is -1: it must be positive");
    cnn_free(g);
}

/* ---- The mirror backend: device memory is a second malloc ----

   Its rows run the rooms themselves on the device's arrays, so results must have the CPU's bits. Before that they make
   the host copies of what they wrote unusable (NaN): whoever reads one without a download will show it. Fresh device
   memory is NaN too. Reads of stale device copies show as wrong bits, since every step has other data. */

enum { MIRROR_ROWS = 128 };                          /* at least as many as there are operations */
typedef struct {
    cnn_backend b;
    cnn_kernel  row[MIRROR_ROWS];
    long        buffers, uploads, downloads, clears, updates, calls, fail_at;   /* fail_at: the call that fails */
    const char *refuse;                 /* a name of a node that `accepts` turns down */
    bool        on_cpu_update, closed;
    double      squares;
    int         correct;
} mirror;

static bool mirror_fails(cnn_backend *b)
{
    mirror *m = (mirror *)b;
    if (++m->calls != m->fail_at) return false;
    snprintf(b->error, sizeof b->error, "the mirror broke at call %ld", m->calls);
    return true;
}
static void *mirror_alloc(cnn_backend *b, size_t bytes)
{
    if (mirror_fails(b)) return NULL;
    CHECK_MSG(!b->max_bytes || bytes <= b->max_bytes, "a buffer of %zu bytes, and %zu are the most", bytes, b->max_bytes);
    void *p = test_alloc(bytes);
    memset(p, 0xff, bytes);
    ((mirror *)b)->buffers++;
    return p;
}
static void mirror_release(cnn_backend *b, void *p) { ((mirror *)b)->buffers--; free(p); }
static bool mirror_upload(cnn_backend *b, void *buffer, size_t at, const void *from, size_t bytes)
{
    ((mirror *)b)->uploads++;
    memcpy((char *)buffer + at, from, bytes);
    return !mirror_fails(b);
}
static bool mirror_download(cnn_backend *b, void *buffer, size_t at, void *to, size_t bytes)
{
    ((mirror *)b)->downloads++;
    memcpy(to, (char *)buffer + at, bytes);
    return !mirror_fails(b);
}
static bool mirror_clear(cnn_backend *b, void *buffer, size_t at, size_t bytes)
{
    ((mirror *)b)->clears++;
    memset((char *)buffer + at, 0, bytes);
    return !mirror_fails(b);
}
static float *mirror_floats(cnn_place p) { return (float *)p.buffer + p.at; }
static bool mirror_update(cnn_backend *b, const cnn_optimizer *o, cnn_place w, cnn_place dw, cnn_place slots, size_t n,
                          size_t stride, const cnn_step_args *a, long step)
{
    mirror *m = (mirror *)b;
    if (m->on_cpu_update) return false;
    m->updates++;
    float *slot[CNN_MAX_SLOTS] = { NULL };
    for (int i = 0; i < o->slots; i++) slot[i] = mirror_floats(slots) + (size_t)i * stride;
    o->update(mirror_floats(w), mirror_floats(dw), slot, n, a, step);
    return !mirror_fails(b);
}
static bool mirror_scale(cnn_backend *b, cnn_place x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++) mirror_floats(x)[i] *= factor;
    return !mirror_fails(b);
}
static bool mirror_mix(cnn_backend *b, cnn_place a, cnn_place x, size_t n, float share)
{
    for (size_t i = 0; i < n; i++) mirror_floats(a)[i] += share * (mirror_floats(x)[i] - mirror_floats(a)[i]);
    return !mirror_fails(b);
}
static bool mirror_squares(cnn_backend *b, cnn_place x, size_t n, bool anew, double *take)
{
    mirror *m = (mirror *)b;
    if (anew) m->squares = 0;
    if (n) m->squares += cnn__sum_of_squares(&(cnn__cpu){ .threads = 1 }, mirror_floats(x), n);
    if (take) *take = m->squares;
    return !mirror_fails(b);
}
static bool mirror_correct(cnn_backend *b, cnn_place logits, cnn_shape shape, cnn_place labels, bool anew, int *take)
{
    mirror *m = (mirror *)b;
    if (anew) m->correct = 0;
    m->correct += cnn__correct(mirror_floats(logits), shape, mirror_floats(labels), INT_MIN);
    if (take) *take = m->correct;
    return !mirror_fails(b);
}
static void mirror_close(cnn_backend *b) { ((mirror *)b)->closed = true; }

static size_t length(const cnn_tensor *t) { return (size_t)t->shape.n * (size_t)t->shape.c * (size_t)t->shape.h * (size_t)t->shape.w; }
static void   spoil(void *p, size_t bytes) { if (p) memset(p, 0xff, bytes); }

/* Point a tensor's arrays to the device, or back. */
typedef struct { float *data, *grad; void *saved; } places;
static places to_device(cnn_tensor *t)
{
    places old = { t->data, t->grad, t->saved };
    t->data = (float *)cnn_place_data(t).buffer + cnn_place_data(t).at;
    if (t->grad) t->grad = (float *)cnn_place_grad(t).buffer + cnn_place_grad(t).at;
    if (t->saved) t->saved = (float *)cnn_place_saved(t).buffer + cnn_place_saved(t).at;
    return old;
}
static bool mirror_run(cnn_backend *b, cnn_tensor *y, cnn_mode mode, bool backward)
{
    places own = { y->data, y->grad, y->saved }, old[CNN_MAX_INPUTS];
    bool   first[CNN_MAX_INPUTS];
    to_device(y);
    for (int i = 0; i < y->n_in; i++) {
        first[i] = true;
        for (int j = 0; j < i; j++) first[i] = first[i] && y->in[j] != y->in[i];
        if (first[i]) old[i] = to_device(y->in[i]);
    }
    if (backward) y->op->backward(y);
    else          y->op->forward(y, mode);
    for (int i = 0; i < y->n_in; i++) if (first[i]) y->in[i]->data = old[i].data, y->in[i]->grad = old[i].grad, y->in[i]->saved = old[i].saved;
    y->data = own.data, y->grad = own.grad, y->saved = own.saved;
    if (!backward) spoil(y->data, length(y) * sizeof(float)), spoil(y->saved, y->saved ? y->op->saved(y) : 0);
    for (int i = 0; i < y->n_in; i++) {
        if (backward && y->in[i]->grad) spoil(y->in[i]->grad, length(y->in[i]) * sizeof(float));
        if (!backward && mode == CNN_TRAIN && y->in[i]->kind == CNN_BUFFER) spoil(y->in[i]->data, length(y->in[i]) * sizeof(float));
    }
    return !mirror_fails(b);
}
static bool mirror_forward(cnn_backend *b, cnn_tensor *y, cnn_mode mode) { return mirror_run(b, y, mode, false); }
static bool mirror_backward(cnn_backend *b, cnn_tensor *y) { return mirror_run(b, y, CNN_TRAIN, true); }
static bool mirror_accepts(const cnn_backend *b, const cnn_tensor *y)
{
    const mirror *m = (const mirror *)b;
    return !m->refuse || strcmp(m->refuse, y->name) != 0;
}

/* Rows for every operation whose bit in without[2] is not set, counting along cnn_ops; NULL: for all. */
static void mirror_open(mirror *m, const uint64_t *without, bool no_backward)
{
    int n, rows = 0;
    const cnn_op *const *ops = cnn_ops(&n);
    memset(m, 0, sizeof *m);
    CHECK(n <= MIRROR_ROWS);
    for (int i = 0; i < n && i < MIRROR_ROWS; i++) {
        if (without && without[i / 64] >> i % 64 & 1) continue;
        cnn_kernel k = { ops[i], mirror_accepts, mirror_forward, no_backward ? NULL : mirror_backward };
        m->row[rows++] = k;
    }
    cnn_backend b = { .name = "mirror", .alloc = mirror_alloc, .release = mirror_release, .upload = mirror_upload, .download = mirror_download,
                      .clear = mirror_clear, .update = mirror_update, .scale = mirror_scale, .mix = mirror_mix, .squares = mirror_squares,
                      .correct = mirror_correct, .close = mirror_close, .kernels = m->row, .n_kernels = rows };
    m->b = b;
}

/* Train 4 steps; the results of one life, for comparison. */
typedef struct { float loss[5], eval[MAX_BATCH * CLASSES], *w, *dw; size_t n; bool ok; char error[CNN_ERROR_SIZE]; cnn_traffic step; } life;
static void free_life(life *a) { free(a->w), free(a->dw), a->w = a->dw = NULL; }
static life live(cnn_backend *b, bool reach_in, int keep_grads)
{
    life l;
    memset(&l, 0, sizeof l);
    cnn_config config = { .seed = 21, .backend = b, .keep_grads = keep_grads, .at = CNN_HERE };
    net n = small_net(config);
    l.ok = cnn_compile(n.g, n.loss);
    for (uint64_t i = 0; i < 4; i++) {
        cnn_traffic before = cnn_copies(n.g);
        l.loss[i] = train_step(n, i);
        l.step.uploads = cnn_copies(n.g).uploads - before.uploads, l.step.downloads = cnn_copies(n.g).downloads - before.downloads;
        if (reach_in && i == 1) {               /* read and write in the middle: the newest copies must be found */
            cnn_tensor *w = cnn_find(n.g, "last.weight");
            float v[CLASSES * 10];
            if (w && cnn_get(w, v, CLASSES * 10)) {
                for (int k = 0; k < CLASSES * 10; k++) v[k] *= 1.5f;
                cnn_set(w, v, CLASSES * 10);
            }
            size_t m;
            float *p = cnn_flat_params(n.g, &m);
            if (p) p[0] += 0.25f;
        }
        if (reach_in && i == 2) {
            size_t m;
            feed(n, 4, 100);
            cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss);
            float *d = cnn_flat_grads(n.g, &m);
            for (size_t k = 0; d && k < m; k++) d[k] *= 0.5f;       /* what an MPI_Allreduce does */
            cnn_step(n.g, .lr = 0.02f);
        }
    }
    feed(n, MAX_BATCH, 99);
    l.loss[4] = cnn_forward(n.loss, CNN_EVAL);
    cnn_get(n.logits, l.eval, MAX_BATCH * CLASSES);
    const float *p = cnn_flat_params(n.g, &l.n);
    if (p) {
        l.w = test_floats(l.n), l.dw = test_floats(l.n), memcpy(l.w, p, l.n * sizeof *p);
        p = cnn_flat_grads(n.g, &l.n);
        if (p) memcpy(l.dw, p, l.n * sizeof *p);
    }
    if (cnn_error(n.g)) snprintf(l.error, sizeof l.error, "%s", cnn_error(n.g)), l.ok = false;
    cnn_free(n.g);
    return l;
}
static void same_life(const life *a, const life *b, const char *what)
{
    CHECK_MSG(b->ok, "%s: %s", what, b->error);
    CHECK_MSG(memcmp(a->loss, b->loss, sizeof a->loss) == 0, "%s: losses %g %g %g %g %g, not %g %g %g %g %g", what, (double)b->loss[0], (double)b->loss[1],
              (double)b->loss[2], (double)b->loss[3], (double)b->loss[4], (double)a->loss[0], (double)a->loss[1], (double)a->loss[2], (double)a->loss[3], (double)a->loss[4]);
    CHECK_MSG(memcmp(a->eval, b->eval, sizeof a->eval) == 0, "%s: logits differ", what);
    CHECK_MSG(a->w && b->w && memcmp(a->w, b->w, a->n * sizeof *a->w) == 0, "%s: parameters differ", what);
    CHECK_MSG(a->dw && b->dw && memcmp(a->dw, b->dw, a->n * sizeof *a->dw) == 0, "%s: gradients differ", what);
}

static void mirror_resident(void)
{
    mirror m;
    life cpu = live(NULL, false, 0);
    mirror_open(&m, NULL, false);
    life dev = live(&m.b, false, 0);
    same_life(&cpu, &dev, "everything on the device");
    CHECK_INT(dev.step.uploads, 2);             /* the batch goes up, */
    CHECK_INT(dev.step.downloads, 1);           /* the loss comes down */
    CHECK_INT(m.updates, 4);
    CHECK_INT(m.buffers, 0);
    CHECK(m.closed);
    free_life(&cpu), free_life(&dev);
}

static void mirror_mixed(void)
{
    for (int reach = 0; reach < 2; reach++)
        for (int keep = 0; keep < 2; keep++) {
            life cpu = live(NULL, reach, keep);
            int  n;
            const cnn_op *const *ops = cnn_ops(&n);
            CHECK_MSG(cpu.ok, "%s", cpu.error);
            for (int i = 0; i <= n + 24; i++) {     /* none missing; each missing; random sets; rows without backward */
                mirror m;
                char   what[80];
                uint64_t without[2] = { 0, 0 };
                if (i >= 1 && i <= n) without[(i - 1) / 64] = (uint64_t)1 << (i - 1) % 64;
                if (i > n)            without[0] = test_bits(), without[1] = test_bits();
                mirror_open(&m, without, i > n + 16);
                m.on_cpu_update = i % 3 == 1;
                if (i % 5 == 4) m.refuse = "first";
                snprintf(what, sizeof what, "mirror without %s (%#llx, %#llx), reach %d, keep %d", i >= 1 && i <= n ? ops[i - 1]->name : "some",
                         (unsigned long long)without[0], (unsigned long long)without[1], reach, keep);
                life dev = live(&m.b, reach, keep);
                same_life(&cpu, &dev, what);
                CHECK_INT(m.buffers, 0);
                free_life(&dev);
                if (test__bad) break;
            }
            free_life(&cpu);
        }
}

/* LeNet-5 on a device whose largest buffer is most; 0: no limit, or no device. The losses of 4 steps, then the weights. */
enum { LENET_BATCH = 32, LENET_PIXELS = LENET_BATCH * 28 * 28 };
static float *train_lenet(cnn_backend *b, size_t most, size_t *count, int *chunks, char *error)
{
    cnn_graph  *g = cnn_new_((cnn_config){ .seed = 5, .max_batch = LENET_BATCH, .backend = b, .at = "lenet.c:1" });
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g);
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_dense(cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84)), 10);
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    float *image = test_floats(LENET_PIXELS), *result = NULL;
    int    label[LENET_BATCH];
    if (b) b->max_bytes = most;
    *chunks = 0, *count = 0, error[0] = 0;
    if (cnn_compile(g, loss)) {
        const float *w = cnn_flat_params(g, count);
        result = test_floats(*count + 4), *chunks = g->n_chunks, test__state = 77;
        for (int step = 0; step < 4; step++) {
            test_fill(image, LENET_PIXELS, -1, 1);
            for (int i = 0; i < LENET_BATCH; i++) label[i] = (i + step) % 10;
            cnn_set(x, image, LENET_PIXELS), cnn_set_labels(t, label, LENET_BATCH);
            result[step] = cnn_forward(loss, CNN_TRAIN);
            cnn_backward(loss), cnn_step(g, .lr = 0.05f, .momentum = 0.9f);
        }
        if ((w = cnn_flat_params(g, count)) != NULL) memcpy(result + 4, w, *count * sizeof *w);
    }
    if (cnn_error(g)) snprintf(error, CNN_ERROR_SIZE, "%s", cnn_error(g));
    cnn_free(g), free(image);
    return result;
}
/* conv2d1 has 32 * 6 * 28 * 28 floats, 602112 bytes; all parameters 247,552 bytes. */
static void mirror_in_chunks(void)
{
    char   error[CNN_ERROR_SIZE];
    size_t n, m;
    int    chunks, before = 1;
    float *cpu = train_lenet(NULL, 0, &n, &chunks, error);
    static const size_t most[] = { 0, 1500000, 1000001, 700000, 602112 };
    for (int i = 0; i < 5; i++, before = chunks) {
        mirror dev;
        mirror_open(&dev, NULL, false);
        float *w = train_lenet(&dev.b, most[i], &m, &chunks, error);
        CHECK_MSG(!error[0], "%s", error);
        CHECK_MSG(i ? chunks > 1 && chunks >= before : chunks == 1, "%d chunks of %zu bytes", chunks, most[i]);
        CHECK(w && m == n && memcmp(w, cpu, (n + 4) * sizeof *w) == 0);
        CHECK_INT(dev.buffers, 0);
        free(w);
    }
    CHECK_MSG(before >= 3, "%d chunks", before);
    for (int small = 0; small < 2; small++) {
        mirror dev;
        mirror_open(&dev, NULL, false);
        free(train_lenet(&dev.b, small ? 1000 : 602048, &m, &chunks, error));
        CHECK_STR(test_words(error), small ? "tensor \"input\": with max_batch 32 it has an array of 100352 bytes, "
                                             "and the largest buffer of mirror has 960"
                                           : "conv2d \"conv2d1\": with max_batch 32 it has an array of 602112 bytes, "
                                             "and the largest buffer of mirror has 602048");
        CHECK_INT(dev.buffers, 0);
    }
    free(cpu);
}
/* VGG16 at batch 32 on 8 GB, of which a quarter is the largest buffer: the activations need two, and little is lost. */
static cnn_memory plan_vgg16(size_t most)
{
    static const int channels[] = { 64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0 };
    mirror dev;
    mirror_open(&dev, NULL, false);
    dev.b.max_bytes = most, dev.b.sets_grads = true;
    cnn_graph  *g = cnn_new_((cnn_config){ .max_batch = 32, .backend = &dev.b, .at = CNN_HERE });
    cnn_tensor *h = cnn_input(g, 3, 224, 224), *t = cnn_labels(g);
    for (int i = 0; i < 18; i++)
        h = channels[i] ? cnn_relu(cnn_conv2d(h, channels[i], 3, .pad = 1)) : cnn_max_pool(h, 2);
    for (int i = 0; i < 2; i++) h = cnn_dropout(cnn_relu(cnn_dense(h, 4096)), 0.5f);
    const cnn_memory m = cnn_plan(g, cnn_softmax_cross_entropy(cnn_dense(h, 1000), t));
    CHECK_MSG(!cnn_error(g), "%s", cnn_error(g));
    cnn_free(g);
    return m;
}
static void mirror_of_vgg16(void)
{
    const size_t     quarter = (size_t)1 << 31;
    const cnn_memory whole = plan_vgg16(0), parts = plan_vgg16(quarter);
    CHECK(whole.activations > quarter && whole.params < quarter);
    CHECK_MSG(parts.activations > quarter && parts.activations < whole.activations + whole.activations / 50,
              "%zu bytes of activations, in one buffer %zu", parts.activations, whole.activations);
}
static void mirror_parameters_too_large(void)
{
    mirror dev;
    mirror_open(&dev, NULL, false);
    dev.b.max_bytes = 64 * 1000;
    cnn_graph *g = cnn_new_((cnn_config){ .backend = &dev.b, .at = "here.c:1" });
    cnn_tensor *x = cnn_input(g, 100), *t = cnn_labels(g), *h = cnn_dense(cnn_dense(x, 100), 100);
    CHECK(!cnn_compile(g, cnn_softmax_cross_entropy(h, t)));
    CHECK_STR(test_words(cnn_error(g)), "compile: mirror: 80896 bytes for the parameters, and its largest buffer has 64000");
    cnn_free(g);
    CHECK_INT(dev.buffers, 0);
}

/* Two epochs of cnn_fit with two learning rates and clipping, then one step by hand; leave: between the two the
   device is left for the CPU. The parameters, and how right the net was. */
typedef struct { float *w; size_t n; double accuracy, loss; cnn_traffic traffic; } fitted;
static fitted fit_net(cnn_backend *b, const cnn_optimizer *o, bool leave, float clip, cnn_progress_fn progress)
{
    enum { IMAGES = 20, PIXELS = 2 * SIDE * SIDE };
    float images[IMAGES * PIXELS];
    unsigned char labels[IMAGES];
    fitted f = { NULL, 0, 0, 0, { 0, 0, 0 } };
    cnn_config config = { .seed = 21, .backend = b, .optimizer = o, .at = CNN_HERE };
    cnn_history history = { 0 };
    net n = small_net(config);
    test__state = 1234, test_fill(images, IMAGES * PIXELS, -1, 1);
    for (int i = 0; i < IMAGES; i++) labels[i] = (unsigned char)((images[i * PIXELS] > 0) + 2 * (images[i * PIXELS + 1] > 0));
    cnn_dataset d = cnn_floats(images, labels, IMAGES, 2, SIDE, SIDE);
    CHECK(cnn_compile(n.g, n.loss) && cnn_set_lr_scale(n.g, "last.*", 0.5f) && cnn_set_lr_scale(n.g, "first.bias", 0));
    CHECK_MSG(cnn_fit(n.loss, n.logits, &d, .epochs = 2, .lr = 0.01f, .clip = clip, .no_shuffle = 1, .validation = &d,
                      .history = &history, .progress = progress), "%s", cnn_error(n.g));
    f.traffic = cnn_copies(n.g);
    if (leave) CHECK(cnn_leave_device(n.g) && !n.g->config.backend && cnn_copies(n.g).downloads == 0);
    train_step_of(n, 3, 0);
    f.loss = (double)train_step_of(n, 4, 0);
    const float *p = cnn_flat_params(n.g, &f.n);
    if (CHECK_MSG(p != NULL, "%s", cnn_error(n.g))) f.w = test_floats(f.n), memcpy(f.w, p, f.n * sizeof *p);
    if (CHECK_INT(history.count, 2)) f.accuracy = history.epoch[1].accuracy + 10 * history.epoch[1].validation_accuracy;
    cnn_history_free(&history), cnn_dataset_free(&d), cnn_free(n.g);
    return f;
}
static bool watch(const cnn_progress *p, void *user) { return (void)p, (void)user, true; }

static void mirror_fits(void)
{
    const cnn_optimizer *const optimizers[] = { cnn_sgd(), cnn_adam(), cnn_adamw(), cnn_rmsprop(),
                                                cnn_rmsprop_centered(), cnn_adagrad() };
    for (int i = 0; i < 6; i++)
        for (int way = 0; way < 4; way++) {
            mirror m;
            mirror_open(&m, NULL, false);
            if (way == 1) m.b.update = NULL, m.b.squares = NULL, m.b.correct = NULL;
            float  clip = way == 3 ? 0 : 0.5f;
            fitted a = fit_net(NULL, optimizers[i], false, clip, NULL), b = fit_net(&m.b, optimizers[i], way == 2, clip, NULL);
            CHECK_MSG(a.loss == b.loss && a.accuracy == b.accuracy, "%s, way %d: loss %.9g %.9g, accuracy %.9g %.9g", optimizers[i]->name, way, a.loss, b.loss, a.accuracy, b.accuracy);
            CHECK_MSG(a.w && b.w && memcmp(a.w, b.w, a.n * sizeof *a.w) == 0, "%s, way %d", optimizers[i]->name, way);
            CHECK_INT(m.buffers, 0);
            CHECK(m.closed);
            /* 8 batches of training and 8 of validation: the loss of each, and the count at the end of each pass */
            if (way == 3) CHECK_INT(b.traffic.downloads, 16 + 4);
            if (way == 0) CHECK_INT(b.traffic.downloads, 16 + 4 + 8);                       /* and the lengths */
            free(a.w), free(b.w);
        }
    mirror m;
    mirror_open(&m, NULL, false);
    fitted a = fit_net(NULL, cnn_sgd(), false, 0, watch), b = fit_net(&m.b, cnn_sgd(), false, 0, watch);
    CHECK(a.accuracy == b.accuracy);
    CHECK_INT(b.traffic.downloads, 16 + 8 + 2);                 /* a count for each batch that is watched */
    free(a.w), free(b.w);
}

/* The average of six steps, exchanged twice on the way; leave: on the CPU for the last two. What one call copies. */
static fitted averaged(cnn_backend *b, bool leave)
{
    fitted f = { NULL, 0, 0, 0, { 0, 0, 0 } };
    net    n = small_net((cnn_config){ .seed = 21, .backend = b, .at = CNN_HERE });
    CHECK(compiled(n.g, n.loss));
    for (uint64_t i = 0; i < 6; i++) {
        if (i == 4 && leave) CHECK(cnn_leave_device(n.g));
        train_step(n, i);
        f.traffic = cnn_copies(n.g);
        CHECK_MSG(cnn_average(n.g, i % 2 ? 0.75f : 0.5f), "%s", cnn_error(n.g));
        f.traffic.uploads = cnn_copies(n.g).uploads - f.traffic.uploads;
        f.traffic.downloads = cnn_copies(n.g).downloads - f.traffic.downloads;
        if (i == 2) CHECK(cnn_swap_average(n.g) && cnn_swap_average(n.g));
    }
    CHECK(cnn_swap_average(n.g));
    feed(n, MAX_BATCH, 99);
    f.loss = (double)cnn_forward(n.loss, CNN_EVAL);                     /* by the averages of the running statistics */
    const float *p = cnn_flat_params(n.g, &f.n);
    if (CHECK_MSG(p != NULL, "%s", cnn_error(n.g))) f.w = test_floats(f.n), memcpy(f.w, p, f.n * sizeof *p);
    cnn_free(n.g);
    return f;
}
static void mirror_averages(void)
{
    fitted cpu = averaged(NULL, false);
    long   calls = 0;
    for (int way = 0; way < 3; way++) {
        mirror m;
        mirror_open(&m, NULL, false);
        if (way == 1) m.b.mix = NULL;
        fitted f = averaged(&m.b, way == 2);
        CHECK_MSG(f.w && cpu.w && memcmp(f.w, cpu.w, f.n * sizeof *f.w) == 0, "way %d", way);
        CHECK(f.loss == cpu.loss);
        if (way == 0) CHECK_INT(f.traffic.uploads + f.traffic.downloads, 0);
        if (way == 1) CHECK(f.traffic.downloads > 4);
        CHECK_INT(m.buffers, 0);
        calls = way == 0 ? m.calls : calls;
        free(f.w);
    }
    free(cpu.w);
    for (long i = 1; i <= calls; i++) {                                 /* each call fails in turn, and it is left */
        mirror m;
        mirror_open(&m, NULL, false);
        m.fail_at = i;
        net n = small_net((cnn_config){ .seed = 21, .backend = &m.b, .at = CNN_HERE });
        bool good = cnn_compile(n.g, n.loss);
        for (uint64_t k = 0; k < 4; k++) train_step(n, k), good = cnn_average(n.g, 0.5f) && good;
        good = cnn_swap_average(n.g) && good;
        CHECK_MSG(good == (m.calls < i) && good == !cnn_error(n.g), "call %ld", i);
        if (!good && n.g->compiled) {
            CHECK(cnn_leave_device(n.g));
            train_step(n, 5);
            CHECK(cnn_average(n.g, 0.5f) && cnn_swap_average(n.g) && isfinite(cnn_forward(n.loss, CNN_EVAL)));
        }
        cnn_free(n.g);
        CHECK_INT(m.buffers, 0);
        if (good) break;
    }
}

/* After an error of the device, the training is fetched and goes on; after another error it is not. */
static void mirror_is_left(void)
{
    mirror m;
    net    n;
    float  w[CLASSES * 10];
    mirror_open(&m, NULL, false);
    n = small_net((cnn_config){ .seed = 3, .backend = &m.b, .at = CNN_HERE });
    CHECK(compiled(n.g, n.loss));
    train_step(n, 1);
    m.fail_at = m.calls + 30;
    CHECK(train_step(n, 2) != train_step(n, 2) && cnn_error(n.g));
    CHECK(cnn_get(cnn_find(n.g, "last.weight"), w, CLASSES * 10));            /* what can be read, can be read */
    m.fail_at = m.calls + 3;
    CHECK(!cnn_leave_device(n.g) && strstr(cnn_error(n.g), "the mirror broke") && !m.closed);
    CHECK(cnn_leave_device(n.g) && !cnn_error(n.g) && m.closed && m.buffers == 0);
    CHECK(cnn_get(cnn_find(n.g, "last.weight"), w, CLASSES * 10) && w[0] == w[0]);
    CHECK(isfinite(train_step(n, 2)));
    CHECK(!cnn_leave_device(n.g) && !cnn_error(n.g));                               /* it is on the CPU already */
    cnn_free(n.g);

    mirror_open(&m, NULL, false);
    n = small_net((cnn_config){ .seed = 3, .backend = &m.b, .at = CNN_HERE });
    CHECK(compiled(n.g, n.loss));
    cnn_fail(n.x, "something else");
    CHECK(!cnn_leave_device(n.g) && strstr(cnn_error(n.g), "something else") && !m.closed);
    cnn_free(n.g);
    CHECK(!cnn_leave_device(NULL));
}

static void mirror_breaks(void)
{
    mirror m;
    mirror_open(&m, (const uint64_t[2]){ 0x421 }, false);
    life dev = live(&m.b, true, 0);
    long calls = m.calls, reported = 0;
    free_life(&dev);
    for (long i = 1; i <= calls; i++) {
        mirror_open(&m, (const uint64_t[2]){ 0x421 }, false);
        m.fail_at = i;
        dev = live(&m.b, true, 0);
        if (!dev.ok) reported++, CHECK_MSG(strstr(dev.error, "the mirror broke at call"), "call %ld: %s", i, dev.error);
        CHECK_INT(m.buffers, 0);
        free_life(&dev);
    }
    CHECK_INT(reported, calls);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(errors_of_null);
    RUN(errors_of_nil_chains);
    RUN(errors_in_shapes);
    RUN(errors_of_new);
    RUN(errors_of_compile);
    RUN(long_names);
    RUN(errors_while_running);
    RUN(every_allocation_fails);
    RUN(same_bits_for_any_number_of_threads);
    RUN(plans_do_not_change_results);
    RUN(joined_nodes);
    RUN(joined_formulas);
    RUN(a_row_knows);
    RUN(plan_is_what_compile_takes);
    RUN(memory_of_the_caller);
    RUN(inference_takes_less);
    RUN(partial_batches);
    RUN(caches_and_kept_values);
    RUN(creation_order_does_not_matter);
    RUN(seeds);
    RUN(deep_chain);
    RUN(shared_weights);
    RUN(borrowed_weights);
    RUN(accumulated_gradients);
    RUN(frozen_parameters);
    RUN(operations_from_outside);
    RUN(mirror_resident);
    RUN(mirror_mixed);
    RUN(mirror_breaks);
    RUN(mirror_in_chunks);
    RUN(mirror_of_vgg16);
    RUN(mirror_parameters_too_large);
    RUN(mirror_fits);
    RUN(mirror_averages);
    RUN(mirror_is_left);
    return test_end();
}
