// cnn.h and its companions included from C++11 and later: the same calls as in C, to the same results.
#include "cnn.h"
#include "cnn_exchange.h"
#ifdef OPENCL
#include "cnn_opencl.h"
#endif
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

static int failed = 0;
#define CHECK(yes) ((yes) ? (void)0 : (void)(failed++, std::fprintf(stderr, "%d: %s\n", __LINE__, #yes)))

static cnn::graph made(int batch) { return cnn::graph(cnn_new(cnn::max_batch(batch), cnn::seed(1))); }

// XOR, by every kind of call: options in any order, of every type, by position; an owner that moves.
static void training()
{
    const float in[8] = { 0, 0, 0, 1, 1, 0, 1, 1 }, out[4] = { 0, 1, 1, 0 };
    const double rate = 0.1;
    cnn::graph first = made(4), g = std::move(first);
    cnn_tensor *x = cnn_input(g, 2), *t = cnn_input(g, 1, cnn::name("target"));
    cnn_tensor *hidden = cnn_tanh(cnn_dense(x, 8, cnn::gain(1), cnn::init(CNN_INIT_LECUN), cnn::name("hidden")));
    cnn_tensor *y = cnn_dense(hidden, 1), *loss = cnn_mse(y, t);
    cnn_keep(cnn_smooth_l1(y, t, cnn::delta(0.5)));
    CHECK(cnn_compile(g, loss));
    CHECK(cnn_set(x, in, 8) && cnn_set(t, out, 4));
    for (int i = 0; i < 1000; i++)
        cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, rate, cnn::momentum(0.9f), cnn::weight_decay(0));
    CHECK(cnn_forward(loss, CNN_EVAL) < 1e-3f);
    CHECK(!cnn_error(g) && cnn_find(g, "hidden.weight") && cnn_find(g, "target") == t);
    cnn::graph view(cnn_share(g, cnn::max_batch(2)));
    CHECK(!cnn_error(view) && cnn_find(view, "hidden.weight"));
    CHECK(!cnn_error(first = std::move(g)) && cnn_count(x) == 8);
}

// An option that is given counts, also as 0, by name, by position, and from a variable; one that is not has its default.
static void zeros()
{
    const float in[4] = { -1, 1, -2, 2 };
    float       v[6];
    cnn::graph  g = made(1);
    cnn_tensor *x = cnn_input(g, 1, 1, 4);
    const auto  none = cnn::slope(0);
    cnn_tensor *y[6] = { cnn_scale(x, 0), cnn_scale(x, cnn::factor(0)), cnn_scale(x), cnn_leaky_relu(x, none),
                         cnn_leaky_relu(x), cnn_scale(x, cnn::offset(3), cnn::factor(0.f)) };
    cnn_tensor *all = cnn_mean(cnn_concat(y[0], y[1], y[2], y[3], y[4], y[5]), CNN_H | CNN_W);
    CHECK(cnn_compile(g, cnn_sum(all, cnn::axes(CNN_N | CNN_C))) && cnn_set(x, in, 4));
    const float want[6] = { 0, 0, 0, 0.75f, 0.7425f, 3 };
    cnn_forward(all, CNN_EVAL);
    CHECK(cnn_get(all, v, 6));
    for (int i = 0; i < 6; i++) CHECK(std::fabs(v[i] - want[i]) < 1e-6f);
}

// The place of a call, a shape, a constant, an error by name, structs that were filled by hand.
static void messages()
{
    cnn::graph g = made(1);
    const int  line = __LINE__ + 1;
    cnn_tensor *w = cnn_param(g, "w", cnn_shape{ 1, 2, 1, 1 }), *bad = cnn_conv2d(w, 4, 3, cnn::stride(-1));
    char want[64];
    std::snprintf(want, sizeof want, "cpp.cc:%d: conv2d", line);
    CHECK(cnn_error(g) && std::strstr(cnn_error(g), want) && std::strstr(cnn_error(g), "stride is -1"));
    CHECK(!cnn_compile(g, bad));
    cnn::graph h = made(1);
    const float v[2] = { 1, 2 };
    cnn_dense_args a = cnn_dense_args();
    a.at = CNN_HERE, a.x = cnn_const(h, { 1, 2, 1, 1 }, v), a.units = 3;
    CHECK(cnn_compile(h, cnn_sum(cnn_dense_(a))));
}

static bool stop(const cnn_progress *, void *user) { return ++*static_cast<int *>(user), true; }

// A data set that frees itself, a function, a pointer and a struct as options; a file and back.
static cnn::dataset loaded(const char *text) { return cnn_csv_memory(text, std::strlen(text), cnn_csv_args()); }
static void data()
{
    cnn::dataset read = loaded("1,2\n3,4\n"), moved = std::move(read);
    CHECK(moved.count == 2 && !read.count && moved.floats && !read.own[0]);
    unsigned char pixels[8] = { 0, 255, 1, 254, 2, 253, 3, 252 }, labels[4] = { 0, 1, 0, 1 };
    cnn_dataset d = cnn_bytes(pixels, labels, 4, 2, 1, 1);
    cnn::graph  g = made(2);
    cnn_tensor *logits = cnn_dense(cnn_input(g, 2), 2), *loss = cnn_softmax_cross_entropy(logits, cnn_labels(g));
    int         calls = 0;
    cnn_augment augment = cnn_augment();
    augment.flip = CNN_FLIP_RANDOM;
    CHECK(cnn_compile(g, loss));
    CHECK(cnn_fit(loss, logits, &d, 3, cnn::lr(0.1), cnn::progress(stop), cnn::user(&calls), cnn::augment(augment),
                  cnn::schedule([](float p, void *) { return 1 - p; })));
    CHECK(calls >= 3);
    char file[4096];
    const size_t bytes = cnn_save_memory(g, file, sizeof file);
    cnn_load_args a = cnn_load_args();
    a.inference = 1;
    cnn::graph k(cnn_load_memory(file, bytes, a)), missing(cnn_load("no/such/file", cnn::inference(1)));
    CHECK(!cnn_error(k) && cnn_error(missing));
}

// C++20: the options of C, all of them named; as there, one that is given counts also as 0.
static void designated()
{
#if __cplusplus >= 202002L
    const float in[4] = { -1, 1, -2, 2 };
    float       v[3];
    cnn::graph  g(CNN_WITH(cnn_new, .max_batch = 2, .seed = 1));
    cnn_tensor *x = CNN_WITH(cnn_input, .g = g, .c = 1, .h = 1, .w = 4, .name = "x");
    cnn_tensor *y[3] = { cnn_sum(CNN_WITH(cnn_leaky_relu, .x = x, .slope = 0)), cnn_sum(CNN_WITH(cnn_leaky_relu, .x = x)),
                         cnn_sum(CNN_WITH(cnn_conv2d, .x = x, .channels = 1, .kernel_h = 1, .kernel_w = 3, .pad_w = 1,
                                          .no_bias = 1, .init = CNN_INIT_CONSTANT, .gain = 1, .name = "conv")) };
    cnn_tensor *all = cnn_concat(y[0], y[1], y[2]), *loss = CNN_WITH(cnn_sum, .x = all, .axes = CNN_N | CNN_C | CNN_H | CNN_W);
    CHECK(cnn_compile(g, loss) && cnn_set_batch(g, 1) && cnn_set(x, in, 4));
    cnn_forward(all, CNN_EVAL), cnn_get(all, v, 3);
    const float want[3] = { 3, 2.97f, 0 + -2 + 1 + 0 };
    for (int i = 0; i < 3; i++) CHECK(std::fabs(v[i] - want[i]) < 1e-6f);
    cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    CHECK(CNN_WITH(cnn_step, .g = g, .lr = 0.1f, .momentum = 0.9f) && cnn_find(g, "conv.weight"));
    cnn::graph  h = made(1);
    const int   line = __LINE__ + 1;
    cnn_tensor *bad = CNN_WITH(cnn_conv2d, .x = cnn_input(h, 1, 8, 8), .channels = 1, .kernel = 3, .stride = -1);
    char        place[64];
    std::snprintf(place, sizeof place, "cpp.cc:%d: conv2d: stride is -1", line);
    CHECK(bad && cnn_error(h) && std::strstr(cnn_error(h), place));
#endif
}

#ifdef OPENCL
static cnn_backend *device() { return cnn_opencl(cnn::type(CNN_OPENCL_CPU), cnn::no_check(1)); }
#endif

int main()
{
    training(), zeros(), messages(), data(), designated();
#ifdef OPENCL
    (void)device;
#endif
    return failed != 0;
}
