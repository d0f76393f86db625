/* The OpenCL companion on whatever device CNN_OPENCL_DEVICE names, else on PoCL or another CPU device: every
   operation against its float64 reference (the table of test_rooms.c, run again on the device), whole nets
   beside the CPU's, each operation left to the CPU in turn, failures of every kind.

   Without OpenCL's headers, or without a device, all of it is skipped. */
#if defined(__has_include)
#if __has_include(<CL/cl.h>) || __has_include(<OpenCL/cl.h>)
#define HAVE_OPENCL_HEADERS
#endif
#endif

#ifndef HAVE_OPENCL_HEADERS
#include <stdio.h>
int main(void) { return puts("    skipped: opencl: its headers are not installed\n0 passed, 0 failed"), 0; }
#else

#include <stdbool.h>
#include "alloc.h"

/* The libraries as the companion sees them: a library or a function can be missing, calls are counted, call
   number call_fail fails, and the objects that live are counted. */
#define CL_TARGET_OPENCL_VERSION 120
#ifdef __APPLE__
#include <OpenCL/cl.h>
#else
#include <CL/cl.h>
#endif
#include <dlfcn.h>
#include <string.h>

static long        call_count, call_fail, cl_live, calls_of_finish, calls_of_set, calls_of_run,
    calls_of_flush;
static const char *hidden_library, *hidden_function;      /* parts of names */
static bool call_fails(void) { return ++call_count == call_fail; }

#define CALL(name, count, parameters, arguments)                                                             \
    static cl_int (CL_API_CALL *real_##name) parameters;                                                     \
    static cl_int CL_API_CALL test_##name parameters                                                         \
    {                                                                                                        \
        count++;                                                                                             \
        return call_fails() ? CL_OUT_OF_RESOURCES : real_##name arguments;                                   \
    }
#define CREATE(type, name, parameters, arguments)                                                            \
    static type (CL_API_CALL *real_##name) parameters;                                                       \
    static type CL_API_CALL test_##name parameters                                                           \
    {                                                                                                        \
        if (call_fails()) return *e = CL_OUT_OF_HOST_MEMORY, (type)NULL;                                     \
        type made = real_##name arguments;                                                                   \
        return cl_live += made != NULL, made;                                                                \
    }
#define RELEASE(type, name)                                                                                  \
    static cl_int (CL_API_CALL *real_##name)(type);                                                          \
    static cl_int CL_API_CALL test_##name(type object) { return cl_live--, real_##name(object); }

static long calls_of_others;
CREATE(cl_context, clCreateContext, (const cl_context_properties *p, cl_uint n, const cl_device_id *id,
       void (CL_CALLBACK *f)(const char *, const void *, size_t, void *), void *u, cl_int *e),
           (p, n, id, f, u, e))
CREATE(cl_command_queue, clCreateCommandQueue, (cl_context c, cl_device_id id, cl_command_queue_properties p,
                                                cl_int *e), (c, id, p, e))
/* A compiler that refuses the sources with this word in them. */
static const char *refused_word;
static cl_uint     sources_used = 64;                          /* the sources behind these are left out */
static const char **refuse(const char **text, cl_uint n)
{
    static const char *changed[64];
    for (cl_uint i = 0; i < n && i < 64; i++)
        changed[i] = i >= sources_used ? ""
                   : refused_word && strstr(text[i], refused_word) ? "refused by the test;" : text[i];
    return changed;
}
CREATE(cl_program, clCreateProgramWithSource, (cl_context c, cl_uint n, const char **text, const size_t *size,
                                               cl_int *e), (c, n, refuse(text, n), size, e))
CREATE(cl_program, clCreateProgramWithBinary, (cl_context c, cl_uint n, const cl_device_id *id,
                                               const size_t *size, const unsigned char **binary,
                                               cl_int *status, cl_int *e),
       (c, n, id, size, binary, status, e))
CREATE(cl_kernel, clCreateKernel, (cl_program p, const char *name, cl_int *e), (p, name, e))
CREATE(cl_mem, clCreateBuffer, (cl_context c, cl_mem_flags f, size_t n, void *p, cl_int *e), (c, f, n, p, e))
RELEASE(cl_context, clReleaseContext)
RELEASE(cl_command_queue, clReleaseCommandQueue)
RELEASE(cl_program, clReleaseProgram)
RELEASE(cl_kernel, clReleaseKernel)
RELEASE(cl_mem, clReleaseMemObject)
/* A device whose local memory is its own, or not; 0: as it says itself. */
static cl_device_local_mem_type local_memory;
static cl_int (CL_API_CALL *real_clGetDeviceInfo)(cl_device_id, cl_device_info, size_t, void *, size_t *);
static cl_int CL_API_CALL test_clGetDeviceInfo(cl_device_id id, cl_device_info what, size_t n, void *to, size_t *got)
{
    const cl_int e = real_clGetDeviceInfo(id, what, n, to, got);
    if (e == CL_SUCCESS && what == CL_DEVICE_LOCAL_MEM_TYPE && local_memory) memcpy(to, &local_memory, n);
    return e;
}
/* A driver that gives no binary; and how often it was asked, as PoCL compiles every kernel once more to answer. */
static bool no_binaries;
static long calls_of_binary;
static cl_int (CL_API_CALL *real_clGetProgramInfo)(cl_program, cl_program_info, size_t, void *, size_t *);
static cl_int CL_API_CALL test_clGetProgramInfo(cl_program p, cl_program_info what, size_t n, void *to, size_t *got)
{
    calls_of_binary++;
    return no_binaries ? CL_INVALID_VALUE : real_clGetProgramInfo(p, what, n, to, got);
}
CALL(clBuildProgram, calls_of_others, (cl_program p, cl_uint n, const cl_device_id *id, const char *o,
     void (CL_CALLBACK *f)(cl_program, void *), void *u), (p, n, id, o, f, u))
CALL(clSetKernelArg, calls_of_set, (cl_kernel k, cl_uint i, size_t n, const void *v), (k, i, n, v))
CALL(clEnqueueNDRangeKernel, calls_of_run, (cl_command_queue q, cl_kernel k, cl_uint dim, const size_t *at,
                                            const size_t *all, const size_t *group, cl_uint n,
                                            const cl_event *w, cl_event *e),
     (q, k, dim, at, all, group, n, w, e))
CALL(clEnqueueReadBuffer, calls_of_others, (cl_command_queue q, cl_mem m, cl_bool b, size_t at, size_t size,
                                            void *to, cl_uint n, const cl_event *w, cl_event *e),
     (q, m, b, at, size, to, n, w, e))
static long blocking_writes;
CALL(clEnqueueWriteBuffer, blocking_writes += b == CL_TRUE; calls_of_others, (cl_command_queue q, cl_mem m, cl_bool b,
     size_t at, size_t size, const void *from, cl_uint n, const cl_event *w, cl_event *e),
     (q, m, b, at, size, from, n, w, e))
CALL(clWaitForEvents, calls_of_others, (cl_uint n, const cl_event *e), (n, e))
CALL(clFlush, calls_of_flush, (cl_command_queue q), (q))
CALL(clFinish, calls_of_finish, (cl_command_queue q), (q))
/* CLBlast: wrong products, always or until its direct kernel is forced, all or large ones; or it fails. */
enum { RIGHT, WRONG_INDIRECT, WRONG, WRONG_LARGE, FAILS };
static int products_are;
static int (*real_CLBlastSgemm)(int, int, int, size_t, size_t, size_t, float, cl_mem, size_t, size_t, cl_mem,
                                size_t, size_t, float, cl_mem, size_t, size_t, cl_command_queue *,
                                cl_event *);
static int test_CLBlastSgemm(int layout, int ta, int tb, size_t m, size_t n, size_t k, float alpha, cl_mem a,
                             size_t a_at, size_t lda, cl_mem b, size_t b_at, size_t ldb, float beta, cl_mem c,
                             size_t c_at, size_t ldc, cl_command_queue *q, cl_event *e)
{
    if (products_are == FAILS) return -4;
    if (products_are != RIGHT && (products_are != WRONG_LARGE || m * n * k >= (size_t)1152 * 1152 * 1152)) beta = 2;
    return real_CLBlastSgemm(layout, ta, tb, m, n, k, alpha, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc,
                             q, e);
}
static int (*real_CLBlastOverrideParameters)(cl_device_id, const char *, int, size_t, const char **,
                                             const size_t *);
static int test_CLBlastOverrideParameters(cl_device_id id, const char *kernel, int precision, size_t n,
                                          const char **name, const size_t *value)
{
    bool direct = strcmp(name[0], "XGEMM_MIN_INDIRECT_SIZE") == 0 && value[0] == 1 << 20;
    if ((products_are == WRONG_INDIRECT || products_are == WRONG_LARGE) && direct) products_are = RIGHT;
    return real_CLBlastOverrideParameters(id, kernel, precision, n, name, value);
}

static void *test_dlopen(const char *name, int how)
{
    return hidden_library && strstr(name, hidden_library) ? NULL : dlopen(name, how);
}
#define WRAPPED(f)                                                                                           \
    if (found && strcmp(name, #f) == 0) {                                                                    \
        void (*mine)(void) = (void (*)(void))test_##f;                                                       \
        memcpy(&real_##f, &found, sizeof found), memcpy(&found, &mine, sizeof found);                        \
        return found;                                                                                        \
    }
static bool asked_for_fill;                          /* Apple's driver reads its pattern late */
static void *test_dlsym(void *library, const char *name)
{
    asked_for_fill = asked_for_fill || strstr(name, "Fill");
    void *found = hidden_function && strcmp(name, hidden_function) == 0 ? NULL : dlsym(library, name);

    WRAPPED(clCreateContext)
    WRAPPED(clCreateCommandQueue)
    WRAPPED(clCreateProgramWithSource)
    WRAPPED(clCreateProgramWithBinary)
    WRAPPED(clCreateKernel)
    WRAPPED(clCreateBuffer)
    WRAPPED(clReleaseContext)
    WRAPPED(clReleaseCommandQueue)
    WRAPPED(clReleaseProgram)
    WRAPPED(clReleaseKernel)
    WRAPPED(clReleaseMemObject)
    WRAPPED(clGetDeviceInfo)
    WRAPPED(clGetProgramInfo)
    WRAPPED(clBuildProgram)
    WRAPPED(clSetKernelArg)
    WRAPPED(clEnqueueNDRangeKernel)
    WRAPPED(clEnqueueReadBuffer)
    WRAPPED(clEnqueueWriteBuffer)
    WRAPPED(clWaitForEvents)
    WRAPPED(clFlush)
    WRAPPED(clFinish)
    WRAPPED(CLBlastSgemm)
    WRAPPED(CLBlastOverrideParameters)
    return found;
}

static const char *device_wish;                               /* instead of the environment's; "": none */
static char *test_getenv(const char *name)
{
    if (device_wish && strcmp(name, "CNN_OPENCL_DEVICE") == 0)
        return *device_wish ? (char *)(uintptr_t)device_wish : NULL;
    return getenv(name);
}
#define getenv(name)          test_getenv(name)
#define dlopen(name, how)     test_dlopen(name, how)
#define dlsym(library, name)  test_dlsym(library, name)

#define CNN_OPENCL_IMPLEMENTATION
#include "cnn_opencl.h"
#include "inside.h"
#include "bench/opencl_counts.h"

/* One device serves many graphs in turn here, so cnn_free must not close it; its buffers begin as NaN. */
static cnn_backend *shared;
static void        *(*device_alloc)(cnn_backend *, size_t);
static void        (*device_close)(cnn_backend *);

static void *poisoned_alloc(cnn_backend *dev, size_t bytes)
{
    void *p = device_alloc(dev, bytes);
    long  count = call_count, fail = call_fail;         /* this is no call of the library's */
    call_fail = 0;
    if (p) cnncl_fill(cnncl_of(dev), (cnn_place){ p, 0 }, bytes / sizeof(float), NAN);
    call_count = count, call_fail = fail;
    return p;
}
static cnn_config on_device(cnn_config c) { c.backend = shared; return c; }

/* The graphs of test_rooms.c run on the device: this is all that is changed. */
#undef cnn_new
#define cnn_new(...) cnn_new_(on_device((cnn_config){ .at = CNN_HERE, __VA_ARGS__ }))
#define main rooms_main
int rooms_main(int, char **);
/* ... and that what was left to the CPU is counted. */
static long nodes_left;
static void count_and_free(cnn_graph *g)
{
    nodes_left += cnn_copies(g).host_nodes;
    cnn_free(g);
}
#define cnn_free(g) count_and_free(g)
#include "test_rooms.c"
#undef cnn_free
#undef main

/* The nets of the zoo on the device: nothing is changed here either. */
#define main  zoo_main
#define one   zoo_one
#define build zoo_build
#define resnet zoo_resnet
int zoo_main(int, char **);
#include "zoo.h"                     /* examples/zoo.c without the implementation: see Makefile */
#undef main
#undef one
#undef build
#undef resnet

#if defined(__SANITIZE_ADDRESS__)
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libpocl\nleak:libLLVM\nleak:libclang\nleak:libOpenCL\n";
}
/* the closing line is the last one */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void) { return "print_suppressions=0"; }
#endif

static bool share(cnn_backend *dev)
{
    if (cnn_opencl_error(dev)) return cnn_opencl_close(dev), false;
    shared = dev, device_alloc = dev->alloc, device_close = dev->close;
    dev->alloc = poisoned_alloc, dev->close = NULL;
    return true;
}
static void unshare(void)
{
    if (!shared) return;
    shared->close = device_close;
    cnn_opencl_close(shared), shared = NULL;
}
static void recover(void) { shared->error[0] = 0; }           /* after an error that a test has made */

static const char *program;                                   /* this one's path */

static unsigned wanted(void) { return getenv("CNN_OPENCL_DEVICE") ? 0 : CNN_OPENCL_ALL; }

/* ---- Nets: on the CPU when dev is NULL ---- */

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *loss; int c, side; float lr; } net;
enum { BATCH = 6 };

static const cnn_optimizer *optimizer;                        /* of the next LeNet-5 */
static net lenet(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 3, .backend = dev, .optimizer = optimizer }),
              NULL, NULL, NULL, 1, 28, 0.05f };
    n.x = cnn_input(n.g, 1, 28, 28), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(n.x, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84));
    n.loss = cnn_softmax_cross_entropy(cnn_dense(h, 10), n.t);
    return n;
}

static cnn_tensor *block(cnn_tensor *x, int channels, int stride)
{
    cnn_tensor *h =
        cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .stride = stride, .no_bias = 1)));
    h = cnn_batch_norm(cnn_conv2d(h, channels, 3, .pad = 1, .no_bias = 1));
    if (stride > 1) x = cnn_batch_norm(cnn_conv2d(x, channels, 1, .stride = stride, .no_bias = 1), .eval = 1);
    return cnn_relu(cnn_add(h, x));
}
static net resnet(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 4, .backend = dev }), NULL, NULL, NULL, 3,
              16, 0.005f };
    n.x = cnn_input(n.g, 3, 16, 16), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 8, 3, .pad = 1, .no_bias = 1)));
    h = block(block(block(h, 8, 1), 16, 2), 32, 2);
    n.loss = cnn_softmax_cross_entropy(cnn_dense(cnn_global_avg_pool(h), 5), n.t, .smoothing = 0.1f);
    return n;
}

/* (A larger rate lets rounding grow from step to step, on any device.) */
static net deep_resnet(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 4, .backend = dev }), NULL, NULL, NULL, 3,
              16, 2e-4f };
    n.x = cnn_input(n.g, 3, 16, 16), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 16, 3, .pad = 1, .no_bias = 1)));
    for (int i = 0; i < 9; i++) h = block(h, 16 << i / 3, i && i % 3 == 0 ? 2 : 1);
    n.loss = cnn_softmax_cross_entropy(cnn_dense(cnn_global_avg_pool(h), 5), n.t);
    return n;
}
/* The inverted residuals of MobileNetV2: expanded, depthwise, projected. The seed is one at which no relu6 comes so near
   to its kink that rounding decides: with seed 6, data larger by 1e-7 moves the CPU's own losses by 2e-2. */
static net small_mobilenet(cnn_backend *dev)
{
    static const struct { int channels, stride; } blocks[] = { { 8, 1 }, { 12, 2 }, { 12, 1 }, { 16, 2 }, { 16, 1 } };
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 1, .backend = dev }), NULL, NULL, NULL, 3, 20, 0.005f };
    n.x = cnn_input(n.g, 3, 20, 20), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_clamp(cnn_batch_norm(cnn_conv2d(n.x, 8, 3, .pad = 1, .no_bias = 1)), 0, 6);
    for (int i = 0; i < 5; i++) {
        const int   c = h->shape.c;
        cnn_tensor *z = cnn_clamp(cnn_batch_norm(cnn_conv2d(h, 6 * c, 1, .no_bias = 1)), 0, 6);
        z = cnn_conv2d(z, 6 * c, 3, .pad = 1, .groups = 6 * c, .stride = blocks[i].stride, .no_bias = 1);
        z = cnn_batch_norm(cnn_conv2d(cnn_clamp(cnn_batch_norm(z), 0, 6), blocks[i].channels, 1, .no_bias = 1));
        h = blocks[i].stride == 1 && c == blocks[i].channels ? cnn_add(z, h) : z;
    }
    n.loss = cnn_softmax_cross_entropy(cnn_dense(cnn_global_avg_pool(h), 5), n.t);
    return n;
}

/* Every operation of CNN_OPS at least once, in two nets. */
static net everything(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 5, .backend = dev }), NULL, NULL, NULL, 2, 8,
              0.02f };
    n.x = cnn_input(n.g, 2, 8, 8), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 6, 3, .pad = 1)));
    h = cnn_channel_shuffle(cnn_space_to_depth(cnn_transpose(h, CNN_H, CNN_W), 2), 3);
    h = cnn_depth_to_space(h, 2);
    cnn_tensor *a = cnn_conv2d(h, 6, 3, .pad = 1, .groups = 2), *b = cnn_leaky_relu(cnn_conv2d(h, 6, 1));
    cnn_tensor *gate = cnn_sigmoid(cnn_global_avg_pool(h));
    h = cnn_max_pool(cnn_mul(cnn_add(a, b), gate), 3, .stride = 2, .pad = 1);
    h = cnn_concat(cnn_avg_pool(h, 2), cnn_tanh(cnn_conv2d(h, 3, 3, .stride = 2, .pad = 1)));
    h = cnn_sub(h, cnn_mean(h, CNN_N));
    h = cnn_dropout(cnn_flatten(h), 0.25f);
    h = cnn_matmul(h, cnn_param(n.g, "mix", shape4(36, 10, 1, 1), CNN_INIT_GLOROT));
    cnn_tensor *logits = cnn_dense(cnn_scale(h, 2, -0.5f), 4);
    cnn_tensor *small = cnn_scale(cnn_sum(cnn_mul(logits, logits)), 0.01f);
    cnn_tensor *soft = cnn_mse(cnn_softmax(logits), cnn_scale(cnn_softmax(cnn_scale(logits, 0.5f)), 1));
    n.loss = cnn_add(cnn_add(cnn_softmax_cross_entropy(logits, n.t), small), soft);
    return n;
}

static net more(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 6, .backend = dev }), NULL, NULL, NULL, 2, 8,
              0.005f };
    n.x = cnn_input(n.g, 2, 8, 8), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_prelu(cnn_lrn(cnn_conv2d(n.x, 6, 3, .pad = 1), 3, .alpha = 0.5f), .per_channel = 1);
    h = cnn_elu(cnn_slice(cnn_pad(h, 1, 1, 1, 1), CNN_H, 1, 9));
    h = cnn_instance_norm(cnn_group_norm(cnn_layer_norm(cnn_conv_transpose2d(h, 4, 3, .stride = 2)), 2),
                          .affine = 1);
    cnn_tensor *v = cnn_global_max_pool(cnn_upsample(cnn_adaptive_avg_pool(cnn_gelu(h), 5, 7), 2, .bilinear = 1)),
        *shift = cnn_param(n.g, "shift", shape4(1, 1, 1, 1));
    v = cnn_silu(cnn_dense(cnn_hard_swish(v), 8));
    v = cnn_div(cnn_maximum(v, cnn_amin(v, CNN_C)), cnn_scale(cnn_pow(cnn_scale(cnn_abs(v), 1, 1),
                                                                         cnn_minimum(v, shift)), 1, 1));
    v = cnn_rms_norm(cnn_sub(v, cnn_amax(v, CNN_C)));
    v = cnn_add(cnn_selu(cnn_softsign(v)), cnn_mish(cnn_erf(cnn_power(cnn_hard_sigmoid(v), 1.5f))));
    cnn_tensor *logits = cnn_dense(v, 4), *t = cnn_clamp(cnn_scale(logits, 0.5f, 0.5f), 0, 1);
    cnn_tensor *root = cnn_sqrt(cnn_scale(cnn_exp(cnn_scale(logits, 0.1f)), 1, 0.5f)),
        *log = cnn_log(cnn_scale(cnn_abs(logits), 1, 0.5f));
    n.loss = cnn_add(cnn_softmax_cross_entropy(cnn_log_softmax(logits), n.t), cnn_l1(root, log));
    static const float weights[] = { 1, 0.5f, 0, 2 };
    cnn_tensor *cw = cnn_const(n.g, shape4(1, 4, 1, 1), weights);
    n.loss = cnn_add(n.loss, cnn_nll(cnn_log_softmax(logits), n.t, .class_weights = cw, .ignore_index = 3));
    n.loss = cnn_add(n.loss, cnn_softmax_cross_entropy(logits, n.t, .class_weights = cw, .ignore_index = 1,
                                                       .smoothing = 0.2f));
    n.loss = cnn_add(n.loss, cnn_add(cnn_huber(cnn_softplus(logits), root, 0.3f),
                                     cnn_bce_with_logits(logits, cnn_sub(t, shift))));
    n.loss = cnn_add(n.loss, cnn_sigmoid_focal(logits, t));
    n.loss = cnn_add(n.loss, cnn_dice(cnn_softmax(logits), n.t));
    n.loss = cnn_add(n.loss, cnn_mean(cnn_softmax_cross_entropy(logits, cnn_softmax(root), .reduction = CNN_NONE)));
    return n;
}

/* `steps` steps with batches of changing size; the losses to `losses`. */
static bool train(net n, int steps, float *losses)
{
    if (!n.loss->graph || (!cnn_error(n.g) && !cnn_batch(n.g))) return false;
    size_t sample = (size_t)(n.c * n.side * n.side);
    float *x = test_floats(BATCH * sample);
    int    t[BATCH];
    test__state = 99;
    for (int s = 0; s < steps; s++) {
        int batch = s % 5 == 4 ? BATCH / 2 : BATCH;
        test_fill(x, BATCH * sample, -1, 1);
        for (int i = 0; i < BATCH; i++)
            t[i] = (int)(x[(size_t)i * sample] > 0) + 2 * (int)(x[(size_t)i * sample + 1] > 0);
        cnn_set(n.x, x, (size_t)batch * sample), cnn_set_labels(n.t, t, (size_t)batch);
        losses[s] = cnn_forward(n.loss, CNN_TRAIN);
        cnn_backward(n.loss);
        cnn_step(n.g, .lr = n.lr, .momentum = 0.9f, .weight_decay = 1e-4f, .nesterov = s % 2);
    }
    free(x);
    return !cnn_error(n.g);
}

static void beside_the_cpu(net (*build)(cnn_backend *), int steps, double tolerance)
{
    float cpu[32], device[32];
    net   a = build(NULL), b = build(shared);
    CHECK_MSG(cnn_compile(a.g, a.loss) && train(a, steps, cpu), "%s", cnn_error(a.g) ? cnn_error(a.g) : "?");
    CHECK_MSG(cnn_compile(b.g, b.loss) &&
              train(b, steps, device), "%s", cnn_error(b.g) ? cnn_error(b.g) : "?");
    if (!cnn_error(a.g) && !cnn_error(b.g)) {
        for (int i = 0; i < steps; i++)
            printf("%s%.5f|%.5f", i % 5 ? "  " : i ? "\n    " : "    ", (double)cpu[i], (double)device[i]);
        printf("\n");
        CHECK_ALL_NEAR(device, cpu, steps, tolerance);
        CHECK(device[steps - 1] == device[steps - 1]);
        /* the trained weights, and one gradient each */
        for (int i = 0; i < a.g->n_order; i++) {
            cnn_tensor *p = &a.g->order[i]->t, *q = cnn_find(b.g, p->name);
            if (p->op || p->batched) continue;
            const float *u = cnn_map_read(p), *v = cnn_map_read(q);
            if (CHECK(u && v)) CHECK_ALL_NEAR(v, u, cnn_count(p), 20 * tolerance);
        }
    }
    cnn_free(a.g), cnn_free(b.g);
}

/* Convolutions with tails on every side of every tile: y, and the gradients of x, w and b, beside the CPU. */
static void awkward_convolutions(int number)
{
    static const struct { int n, ic, h, w, oc, kh, kw, sh, sw, pad, dh, dw, groups, turned; } shapes[] = {
        { 2, 5, 13, 9, 7, 3, 3, 1, 1, 1, 1, 1, 1, 0 }, { 1, 19, 12, 11, 133, 3, 3, 1, 1, 0, 1, 1, 1, 0 },
        { 3, 6, 17, 10, 35, 5, 3, 2, 3, 2, 1, 2, 1, 0 }, { 2, 8, 9, 14, 12, 2, 3, 3, 2, 1, 2, 1, 4, 0 },
        { 2, 40, 6, 7, 70, 1, 1, 1, 1, 0, 1, 1, 1, 0 }, { 2, 9, 11, 8, 18, 3, 9, 2, 1, 4, 1, 1, 9, 0 },
        { 3, 4, 15, 15, 6, 1, 1, 2, 2, 0, 1, 1, 2, 0 }, { 2, 7, 6, 9, 33, 3, 3, 1, 1, 2, 1, 1, 1, 1 },
        { 2, 6, 5, 4, 10, 4, 3, 3, 2, 1, 1, 2, 2, 1 }, { 2, 3, 30, 31, 65, 3, 3, 1, 1, 1, 1, 1, 1, 0 } };
    const int    k = number % 10;
    const size_t nx = (size_t)(shapes[k].n * shapes[k].ic * shapes[k].h * shapes[k].w);
    float       *v = test_floats(nx);
    cnn_graph   *g[2];
    cnn_tensor  *x[2], *y[2];
    test_fill(v, nx, -1, 1);
    for (int i = 0; i < 2; i++) {
        g[i] = cnn_new_((cnn_config){ .max_batch = shapes[k].n, .seed = 9, .backend = i ? shared : NULL });
        x[i] = cnn_input(g[i], shapes[k].ic, shapes[k].h, shapes[k].w, .grad = 1);
        y[i] = !shapes[k].turned
            ? cnn_conv2d(x[i], shapes[k].oc, 1, .kernel_h = shapes[k].kh, .kernel_w = shapes[k].kw, .stride_h = shapes[k].sh,
                         .stride_w = shapes[k].sw, .pad = shapes[k].pad, .dilation_h = shapes[k].dh,
                         .dilation_w = shapes[k].dw, .groups = shapes[k].groups)
            : cnn_conv_transpose2d(x[i], shapes[k].oc, 1, .kernel_h = shapes[k].kh, .kernel_w = shapes[k].kw,
                                   .stride_h = shapes[k].sh, .stride_w = shapes[k].sw, .pad = shapes[k].pad,
                                   .dilation_h = shapes[k].dh, .dilation_w = shapes[k].dw, .groups = shapes[k].groups);
        y[i] = cnn_keep(number % 3 ? cnn_relu(y[i]) : cnn_tanh(y[i]));
        cnn_tensor *loss = cnn_mean(cnn_mul(y[i], y[i]));
        if (!CHECK_MSG(cnn_compile(g[i], loss), "%s", cnn_error(g[i]))) break;
        cnn_set(x[i], v, nx), cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
    }
    if (CHECK_MSG(!cnn_error(g[0]) && !cnn_error(g[1]), "shape %d: %s", k, cnn_error(g[1]))) {
        CHECK_ALL_NEAR(cnn_map_read(y[1]), cnn_map_read(y[0]), cnn_count(y[0]), 1e-4);
        for (int i = 0; i < g[0]->n_order; i++) {
            cnn_tensor *p = &g[0]->order[i]->t, *q = &g[1]->order[i]->t;
            if (p->op || !p->needs_grad) continue;
            CHECK_ALL_NEAR(cnn_map_grad(q), cnn_map_grad(p), cnn_count(p), 1e-4);
        }
    }
    cnn_free(g[0]), cnn_free(g[1]), free(v);
}

/* Long sums, each made by many groups: the loss and the gradient beside the CPU, and the same bits again. */
static cnn_tensor *long_sum(int k, cnn_graph *g, cnn_tensor *x, cnn_tensor *t)
{
    static const float v[] = { 1, 0.5f, 2, 0.25f, 0, 3 };
    cnn_tensor *w = cnn_const(g, shape4(1, 6, 1, 1), v), *s = cnn_sigmoid(x), *z = cnn_scale(s, 2, -1);
    switch (k) {
    case 0:  return cnn_scale(cnn_sum(s), 1e-3f);
    case 1:  return cnn_add(cnn_amax(x, 0), cnn_sum(cnn_amin(x, CNN_N | CNN_H | CNN_W)));
    case 2:  return cnn_mean(cnn_mul(z, cnn_mean(z, CNN_N | CNN_H | CNN_W)));
    case 3:  return cnn_mean(cnn_prelu(cnn_prelu(z, .per_channel = 1)));
    case 4:  return cnn_mean(cnn_mul(cnn_add(cnn_instance_norm(z, .affine = 1), cnn_group_norm(z, 2)), s));
    case 5:  return cnn_softmax_cross_entropy(x, t, 0.1f, w, .ignore_index = 2);
    case 6:  return cnn_scale(cnn_softmax_cross_entropy(x, t, .reduction = CNN_SUM), 1e-3f);
    case 7:  return cnn_mean(cnn_softmax_cross_entropy(x, s, 0.1f, w, .reduction = CNN_NONE));
    case 8:  return cnn_nll(cnn_log_softmax(x), t, w, 3);
    case 9:  return cnn_mse(s, z);
    case 10: return cnn_mean(cnn_huber(s, z, 0.3f, .reduction = CNN_NONE));
    case 11: return cnn_add(cnn_l1(s, z), cnn_scale(cnn_sigmoid_focal(x, s, .reduction = CNN_SUM), 1e-3f));
    case 12: return cnn_bce_with_logits(x, s, w, w);
    case 13: return cnn_mean(cnn_mul(cnn_add(cnn_layer_norm(z), cnn_rms_norm(x)), s));
    case 14: return cnn_add(cnn_dice(s, t), cnn_dice(s, cnn_sigmoid(z), 1, .reduction = CNN_SUM));
    }
    return cnn_add(cnn_mean(cnn_mul(cnn_softmax(cnn_flatten(x)), cnn_flatten(z))),
                   cnn_softmax_cross_entropy(cnn_flatten(x), cnn_labels(g)));       /* few rows, each long */
}
static void sums_by_many_groups(void)
{
    enum { N = 2, C = 6, SIDE = 96, COUNT = N * C * SIDE * SIDE, KINDS = 16 };
    cnncl     *d = cnncl_of(shared);
    const int  units = d->units;
    float     *v = test_floats(COUNT);
    long       more = 0;
    int        labels[N * SIDE * SIDE];
    test_fill(v, COUNT, -2, 2);
    for (int i = 0; i < N * SIDE * SIDE; i++) labels[i] = i * 7 % 11 % C;
    for (int k = 0; k < KINDS; k++) {
        cnn_graph  *g[4];
        cnn_tensor *x[4];
        float       loss[4];
        long        runs[4];
        for (int i = 0; i < 4; i++) {                           /* the CPU; twice with 40 units; never two groups */
            cnn_tensor *t, *J;
            g[i] = cnn_new_((cnn_config){ .max_batch = N, .seed = 2, .backend = i ? shared : NULL });
            x[i] = cnn_input(g[i], C, SIDE, SIDE, .grad = 1), t = cnn_labels(g[i], SIDE, SIDE);
            J = long_sum(k, g[i], x[i], t), d->units = i < 3 ? 40 : 0;
            CHECK(cnn_compile(g[i], J) && cnn_set(x[i], v, COUNT));
            for (int j = 0; (t = cnn_node(g[i], j)) != NULL; j++)
                if (t->kind == CNN_LABELS) cnn_set_labels(t, labels, (size_t)(N * t->shape.h * t->shape.w));
            calls_of_run = 0;
            loss[i] = cnn_forward(J, CNN_TRAIN), cnn_backward(J), runs[i] = calls_of_run;
            CHECK_INT(cnn_copies(g[i]).host_nodes, 0);
        }
        CHECK_MSG(!cnn_error(g[1]), "%d: %s", k, cnn_error(g[1]));
        CHECK_MSG(fabsf(loss[1] - loss[0]) <= 2e-5f * (1 + fabsf(loss[0])), "%d: %g, not %g", k, (double)loss[1], (double)loss[0]);
        for (int i = 0; i < g[0]->n_order; i++) {
            cnn_tensor *p = &g[0]->order[i]->t;
            if (p->op || !p->needs_grad) continue;
            const float *a = cnn_map_grad(p), *b = cnn_map_grad(&g[1]->order[i]->t), *c = cnn_map_grad(&g[2]->order[i]->t);
            double       most = 0, off = 0;
            for (size_t q = 0; q < cnn_count(p); q++) {
                const double e = fabs((double)b[q] - (double)a[q]), size = fabs((double)a[q]);
                most = size > most ? size : most, off = e > off || e != e ? e : off;
            }
            CHECK_MSG(off <= 2e-5 * most, "%d: the gradient of %s is off by %g, the largest is %g", k, p->name, off, most);
            CHECK_SAME_BITS(b, c, cnn_count(p));
        }
        CHECK(loss[1] == loss[2] && runs[1] == runs[2] && runs[3] <= runs[1]);
        more += runs[1] - runs[3];
        for (int i = 0; i < 4; i++) cnn_free(g[i]);
    }
    CHECK_MSG(more > 25, "only %ld launches are the second step of a sum", more);
    d->units = units, free(v);
}

/* Each tile, and Winograd wherever it can, in turn; with local memory, or without. */
static void every_tile(cl_device_local_mem_type local)
{
    local_memory = local;
    bool open = CHECK(share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1, .workspace = 1 << 16)));
    local_memory = 0;
    if (!open) return;
    cnncl *d = cnncl_of(shared);
    CHECK_INT(d->has_local, local == CL_LOCAL);
    for (d->tile = local == CL_LOCAL ? 0 : CNNCL_NO_LOCAL; d->tile < (local == CL_LOCAL ? CNNCL_NO_LOCAL : CNNCL_TILES); d->tile++)
        for (d->winograd = -1; d->winograd < 2; d->winograd += 2) {
            d->units = d->winograd > 0 ? 1 : 40;                     /* also with sums in slices */
            for (int k = 0; k < 10; k++) awkward_convolutions(k + d->tile);
            CHECK(cnncl_check_gemm(d));
        }
    unshare();
}
static void every_tile_of_groups(void) { every_tile(CL_LOCAL); }
static void every_tile_of_items(void)  { every_tile(CL_GLOBAL); }

static void same_bits_again(void)
{
    float first[8], again[8];
    net a = everything(shared), b = everything(shared);
    CHECK(cnn_compile(a.g, a.loss) && train(a, 8, first)), cnn_free(a.g);
    CHECK(cnn_compile(b.g, b.loss) && train(b, 8, again)), cnn_free(b.g);
    CHECK_SAME_BITS(first, again, 8);
}

/* The batch and its labels go up, the loss comes down, and nothing else moves. */
static void copies_per_step(void)
{
    net (*const build[])(cnn_backend *) = { lenet, resnet, everything, more };
    for (int k = 0; k < 4; k++) {
        net   n = build[k](shared);
        float losses[10];
        CHECK(cnn_compile(n.g, n.loss));
        CHECK(train(n, 2, losses));
        cnn_traffic before = cnn_copies(n.g);
        CHECK(train(n, 10, losses));
        cnn_traffic after = cnn_copies(n.g);
        CHECK_INT(after.uploads - before.uploads, 20);
        CHECK_INT(after.downloads - before.downloads, 10);
        CHECK_INT(after.host_nodes, 0);
        for (int i = 0; i < n.g->n_order; i++)
            CHECK(!n.g->order[i]->t.op || cnn_on_device(&n.g->order[i]->t));
        cnn_free(n.g);
    }
}

/* In the second step of a kind no argument is set again, and the host waits for nothing but the loss. */
static void arguments_are_set_once(void)
{
    float   losses[4];
    int     functions = 0, sums = 0;
    cnncl *d = cnncl_of(shared);
    net     n = lenet(shared);
    cnncl_forget_launches(d);
    CHECK(cnn_compile(n.g, n.loss) && train(n, 2, losses));
    cnn_step(n.g, .lr = n.lr, .momentum = 0.9f, .weight_decay = 1e-4f, .nesterov = 0);
    calls_of_set = calls_of_run = calls_of_finish = calls_of_flush = blocking_writes = 0;
    CHECK(train(n, 1, losses));
    CHECK_INT(calls_of_set, 0);
    CHECK_INT(calls_of_finish, 0);
    CHECK_INT(blocking_writes, 0);
    CHECK(calls_of_run > 20 && calls_of_flush > 0);
    for (int i = 0; i < CNNCL_LAUNCHES; i++) {
        int op = 0;
        const cnncl_launch *l = &d->launch[i];
        if (!l->object || l->kernel != CNNCL_stretch) continue;
        memcpy(&op, counts__value(l, "op"), sizeof op);
        functions += op != CNNCL_SLOPE && !counts__given(l, "b");
        sums += op != CNNCL_SLOPE && counts__given(l, "b") != 0;
    }
    /* each tanh, for the largest batch, is one kernel: no bias is added but by the tile */
    CHECK_INT(functions, 4);
    CHECK_INT(sums, 0);
    cnn_free(n.g);
}

/* Residual blocks with 1x1 convolutions, as in ResNet-50: no kernel object is made and no argument set after the
   first steps, however many images there are. */
static void pointwise_in_one_launch(void)
{
    enum { N = 24 };
    float      *v = test_floats(N * 3 * 32 * 32);
    int         labels[N];
    cnn_graph  *g = cnn_new_((cnn_config){ .max_batch = N, .seed = 3, .backend = shared });
    cnn_tensor *x = cnn_input(g, 3, 32, 32), *t = cnn_labels(g), *h = cnn_relu(cnn_conv2d(x, 24, 1));
    for (int i = 0; i < 4; i++) h = cnn_relu(cnn_add(h, cnn_conv2d(cnn_relu(cnn_conv2d(h, 8, 1)), 24, 1)));
    cnn_tensor *loss = cnn_softmax_cross_entropy(cnn_dense(cnn_global_avg_pool(h), 10), t);
    test_fill(v, N * 3 * 32 * 32, -1, 1);
    for (int i = 0; i < N; i++) labels[i] = i % 10;
    CHECK(cnn_compile(g, loss));
    for (int step = 0; step < 4; step++) {
        const long objects = cl_live;
        calls_of_set = calls_of_run = 0;
        cnn_set(x, v, N * 3 * 32 * 32), cnn_set_labels(t, labels, N);
        cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.01f);
        if (step < 2) continue;
        CHECK_INT(calls_of_set, 0);
        CHECK_INT(cl_live, objects);
        CHECK_MSG(calls_of_run < 150, "%ld launches", calls_of_run);
    }
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g), free(v);
}

/* More launches than there is room for: the oldest objects give way, and none is lost. */
static void many_launches(void)
{
    enum { FLOATS = CNNCL_LAUNCHES + CNNCL_LAUNCHES / 4 };
    cnncl  *d = cnncl_of(shared);
    cnn_place p = { shared->alloc(shared, FLOATS * sizeof(float)), 0 };
    float    *got = test_floats(FLOATS);
    long      live = cl_live;
    if (CHECK(p.buffer && shared->clear(shared, p.buffer, 0, FLOATS * sizeof(float)))) {
        for (int again = 0; again < 2; again++)
            for (size_t i = 0; i < FLOATS; i++)
                cnncl_spread(d, cnncl_row(cnncl_place_at(p, i), 1), 1, 0, cnncl_row(p, 1), (float)i);
        CHECK(shared->download(shared, p.buffer, 0, got, FLOATS * sizeof(float)));
        int wrong = 0;
        for (size_t i = 0; i < FLOATS; i++) wrong += got[i] != 2 * (float)i;
        CHECK_INT(wrong, 0);
        CHECK(cl_live > live && cl_live <= live + CNNCL_LAUNCHES);
        shared->release(shared, p.buffer);
    }
    free(got);
}

/* Every optimizer, with clipping and two learning rates, beside the CPU; and only the loss and the length
   come down. */
static void updates_on_the_device(void)
{
    const cnn_optimizer *const optimizers[] = { cnn_sgd(), cnn_adam(), cnn_adamw(), cnn_rmsprop(),
                                                cnn_rmsprop_centered(), cnn_adagrad() };
    for (int k = 0; k < 6; k++) {
        optimizer = optimizers[k];
        net   n[2] = { lenet(NULL), lenet(shared) };
        float x[28 * 28 * BATCH], loss[2][6];
        int   label[BATCH];
        for (int i = 0; i < 2; i++) {
            CHECK(cnn_compile(n[i].g, n[i].loss) && cnn_set_lr_scale(n[i].g, "conv*", 0.5f) &&
                  cnn_set_lr_scale(n[i].g, "dense1.bias", 0));
            cnn_traffic before = { 0, 0, 0 }, after = before;
            test__state = 5;
            for (int s = 0; s < 6; s++) {
                test_fill(x, 28 * 28 * BATCH, -1, 1);
                for (int b = 0; b < BATCH; b++) label[b] = (s + b) % 10;
                before = after;
                cnn_set(n[i].x, x, 28 * 28 * BATCH), cnn_set_labels(n[i].t, label, BATCH);
                loss[i][s] = cnn_forward(n[i].loss, CNN_TRAIN);
                cnn_backward(n[i].loss);
                double length = cnn_clip_grads(n[i].g, 0.3f);
                CHECK(length > 0.3);
                cnn_step(n[i].g, .lr = 0.01f, .eps = k ? 0.01f : 0, .weight_decay = 1e-3f,
                         .momentum = k == 0 || k == 3 ? 0.5f : 0, .dampening = k == 0 ? 0.3f : 0);
                after = cnn_copies(n[i].g);
            }
            CHECK_MSG(!cnn_error(n[i].g), "%s", cnn_error(n[i].g));
            if (i) CHECK_INT(after.uploads - before.uploads, 2);
            if (i) CHECK_INT(after.downloads - before.downloads, 2);
        }
        CHECK_ALL_NEAR(loss[1], loss[0], 6, 1e-4);
        size_t count[2];
        const float *w = cnn_flat_params(n[0].g, &count[0]), *v = cnn_flat_params(n[1].g, &count[1]);
        if (CHECK(w && v && count[0] == count[1])) CHECK_ALL_NEAR(v, w, count[0], 1e-4);
        cnn_free(n[0].g), cnn_free(n[1].g);
    }
    optimizer = NULL;
}

/* cnn_fit and cnn_evaluate count what is right on the device: the logits stay there. */
static void fit_and_evaluate(void)
{
    enum { IMAGES = 50, BATCHES = (IMAGES + BATCH - 1) / BATCH };
    float         *x = test_floats(IMAGES * 28 * 28);
    unsigned char label[IMAGES];
    cnn_history   history[2] = { { 0 } };
    cnn_score     score[2];
    test_fill(x, IMAGES * 28 * 28, -1, 1);
    for (int i = 0; i < IMAGES; i++) label[i] = (unsigned char)(i % 3);
    for (int i = 0; i < 2; i++) {
        net         n = lenet(i ? shared : NULL);
        cnn_dataset d = cnn_floats(x, label, IMAGES, 1, 28, 28);
        CHECK(cnn_compile(n.g, n.loss));
        cnn_tensor *logits = cnn_output(n.g);
        CHECK_MSG(cnn_fit(n.loss, logits, &d, .epochs = 1, .lr = 0.01f), "%s", cnn_error(n.g));
        cnn_traffic before = cnn_copies(n.g);
        CHECK_MSG(cnn_fit(n.loss, logits, &d, .epochs = 2, .lr = 0.01f, .history = &history[i]), "%s",
                  cnn_error(n.g));
        cnn_traffic after = cnn_copies(n.g);
        if (i) CHECK_INT(after.uploads - before.uploads, 2 * 2 * BATCHES);
        if (i) CHECK_INT(after.downloads - before.downloads, 2 * (BATCHES + 1));
        score[i] = cnn_evaluate(n.loss, logits, &d);
        if (i) CHECK_INT(cnn_copies(n.g).downloads - after.downloads, BATCHES + 1);
        cnn_dataset_free(&d), cnn_free(n.g);
    }
    CHECK(history[0].count == 2 && history[1].count == 2 &&
          history[0].epoch[1].accuracy == history[1].epoch[1].accuracy);
    CHECK(score[0].accuracy == score[1].accuracy && score[0].accuracy > 0 &&
          score[0].count == score[1].count);
    CHECK_NEAR(score[1].loss, score[0].loss, 1e-4);
    cnn_history_free(&history[0]), cnn_history_free(&history[1]), free(x);
}

/* The summary counts the operations left to the CPU. */
static void summary_says(cnn_graph *g, int left)
{
    char  line[300], wanted_text[80];
    bool  said = false;
    FILE *f = tmpfile();
    if (!CHECK(f != NULL)) return;
    cnn_summary(g, f), rewind(f);
    snprintf(wanted_text, sizeof wanted_text, "; %d of the operations fall back to the cpu", left);
    while (fgets(line, sizeof line, f)) said = said || (strstr(line, "backend") && strstr(line, wanted_text));
    CHECK_MSG(said, "the summary does not say \"%s\"", wanted_text);
    fclose(f);
}

/* The moving average is mixed on the device; it survives an exchange, a checkpoint's reading and leaving. */
static void averages_on_the_device(void)
{
    bool (*const mix)(cnn_backend *, cnn_place, cnn_place, size_t, float) = shared->mix;
    for (int way = 0; way < 3; way++) {                       /* 1: without a kernel; 2: the device is left */
        net   n[2] = { resnet(NULL), resnet(shared) };
        float losses[2];
        for (int i = 0; i < 2; i++) {
            if (way == 1) shared->mix = NULL;
            CHECK(cnn_compile(n[i].g, n[i].loss));
            for (int step = 0; step < 6; step++) {
                CHECK(train(n[i], 1, losses));
                cnn_traffic before = cnn_copies(n[i].g);
                CHECK_MSG(cnn_average(n[i].g, step % 2 ? 0.75f : 0.5f), "%s", cnn_error(n[i].g));
                if (way != 1 && step > 1 && step != 4) {
                    CHECK_INT(cnn_copies(n[i].g).uploads - before.uploads, 0);
                    CHECK_INT(cnn_copies(n[i].g).downloads - before.downloads, 0);
                }
                if (step == 3) CHECK(cnn_swap_average(n[i].g) && cnn_swap_average(n[i].g));
            }
            if (way == 2 && i) {
                void (*close)(cnn_backend *) = shared->close;
                CHECK(cnn_leave_device(n[i].g) && shared->close == close && train(n[i], 1, losses));
                CHECK(cnn_average(n[i].g, 0.5f));
            } else if (way == 2) CHECK(train(n[i], 1, losses) && cnn_average(n[i].g, 0.5f));
            CHECK(cnn_swap_average(n[i].g));
        }
        shared->mix = mix;
        for (int i = 0; i < n[0].g->n_order; i++) {
            cnn_tensor  *p = &n[0].g->order[i]->t;
            const float *u, *v;
            if (!cnn__trains(p)) continue;
            u = cnn_map_read(p), v = cnn_map_read(cnn_find(n[1].g, p->name));
            if (CHECK(u && v)) CHECK_ALL_NEAR(v, u, cnn_count(p), 1e-3);
        }
        cnn_free(n[0].g), cnn_free(n[1].g);
    }
}

/* Two epochs at once, and two with a break after three batches: the same bits, averages included. */
static bool stop_at_third(const cnn_progress *p, void *user) { return (void)user, p->batch < 3; }
static void checkpoints(void)
{
    enum { IMAGES = 20 };
    float         x[IMAGES * 3 * 16 * 16], *w[2];
    unsigned char label[IMAGES];
    char          path[700];
    size_t        n = 0;
    snprintf(path, sizeof path, "%s.checkpoint", program);
    remove(path);
    test_fill(x, IMAGES * 3 * 16 * 16, -1, 1);
    for (int i = 0; i < IMAGES; i++) label[i] = (unsigned char)(i % 5);
    for (int way = 0; way < 2; way++) {
        cnn_dataset d = cnn_floats(x, label, IMAGES, 3, 16, 16);
        net         r = { 0 };
        for (int part = 0; part <= way; part++) {
            if (part) cnn_free(r.g);
            r = resnet(shared);
            CHECK(cnn_compile(r.g, r.loss));
            CHECK_MSG(cnn_fit(r.loss, cnn_output(r.g), &d, .epochs = 2, .lr = 0.01f, .momentum = 0.9f,
                              .average = 0.5f, .checkpoint = way ? path : NULL, .resume = part,
                              .progress = part < way ? stop_at_third : NULL), "%s", cnn_error(r.g));
        }
        CHECK(cnn_swap_average(r.g));
        const float *p = cnn_flat_params(r.g, &n);
        w[way] = test_floats(n);
        if (CHECK(p != NULL)) memcpy(w[way], p, n * sizeof *p);
        cnn_dataset_free(&d), cnn_free(r.g);
    }
    CHECK_SAME_BITS(w[1], w[0], n);
    free(w[0]), free(w[1]), remove(path);
}

/* ---- The zoo ---- */

/* Two steps of training and a prediction: the losses, then some logits. */
enum { RESULTS = 2 + 20 };
static bool run_net(const struct net *z, cnn_backend *dev, float *result)
{
    cnn_tensor  *x, *y, *t, *loss;
    cnn_backend *keep = shared;
    shared = dev;
    cnn_graph   *g = zoo_build(z, 0, &x, &y, &t, &loss);
    shared = keep;
    if (CHECK_MSG(cnn_compile(g, loss), "%s: %s", z->name, cnn_error(g))) {
        CHECK_INT(cnn_copies(g).host_nodes, 0);
        for (int step = 0; step < 2; step++) {
            float *pixels = cnn_map_write(x), *label = cnn_map_write(t);
            test__state = 7;
            test_fill(pixels, cnn_count(x), -1, 1);
            for (size_t i = 0; i < cnn_count(t); i++) label[i] = (float)(i % 2);
            result[step] = cnn_forward(loss, CNN_TRAIN);
            cnn_backward(loss), cnn_step(g, .lr = 1e-3f, .momentum = 0.9f);
        }
        cnn_forward(y, CNN_EVAL);
        const float *logits = cnn_map_read(y);
        for (size_t i = 2; logits && i < RESULTS; i++) result[i] = logits[i * 7 % cnn_count(y)];
    }
    bool done = CHECK_MSG(!cnn_error(g), "%s: %s", z->name, cnn_error(g));
    cnn_free(g);
    return done;
}
static void zoo_net(const struct net *z)
{
    const double macs_to_run = 4e8;
    cnn_tensor *x, *y, *t, *loss;
    float       cpu[RESULTS], device[RESULTS];
    cnn_graph  *g = zoo_build(z, 0, &x, &y, &t, &loss);
    cnn_plan(g, loss);
    CHECK_MSG(!cnn_error(g) && g->n_order > 0, "%s", cnn_error(g));
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *v = &g->order[i]->t;
        CHECK_MSG(!v->op || cnn__find_kernel(shared, v), "%s has no kernel", v->name);
    }
    bool small = cnn_multiply_adds(g) < macs_to_run;
    cnn_free(g);
    if (!small || !run_net(z, NULL, cpu) || !run_net(z, shared, device)) return;
    CHECK_ALL_NEAR(device, cpu, RESULTS, 2e-3);
}

/* Operation number `which` runs on the CPU between two copies, and nothing else changes. */
static void left_to_the_cpu(const cnn_op *op)
{
    float      cpu[4], device[4];
    cnn_kernel row[128];
    int        rows = shared->n_kernels, kept = 0;
    cnncl   *d = cnncl_of(shared);
    memcpy(row, d->row, sizeof row);
    for (int i = 0; i < rows; i++)
        if (row[i].op != op) d->row[kept++] = row[i];
    shared->n_kernels = kept;
    CHECK_INT(kept, rows - 1);
    int held = 0;
    for (int i = 0; i < 2; i++) {
        net a = i ? more(NULL) : everything(NULL), b = i ? more(shared) : everything(shared);
        int here = 0;
        for (int k = 0; k < b.g->n_nodes; k++) here += b.g->node[k]->t.op == op;
        held += here;
        if (!here) {
            cnn_free(a.g), cnn_free(b.g);
            continue;
        }
        CHECK(cnn_compile(a.g, a.loss) && train(a, 4, cpu));
        CHECK_MSG(cnn_compile(b.g, b.loss) &&
                  train(b, 4, device), "%s", cnn_error(b.g) ? cnn_error(b.g) : "?");
        CHECK_ALL_NEAR(device, cpu, 4, 1e-4);
        CHECK_INT(cnn_copies(b.g).host_nodes, here);
        summary_says(b.g, here);
        cnn_free(a.g), cnn_free(b.g);
    }
    CHECK_MSG(held > 0, "neither net holds %s", op->name);
    memcpy(d->row, row, sizeof row);
    shared->n_kernels = rows;
}

/* ---- Failures ---- */

static long fail_at, calls;
static void *(*good_alloc)(cnn_backend *, size_t);
static bool (*good_upload)(cnn_backend *, void *, size_t, const void *, size_t);
static bool (*good_download)(cnn_backend *, void *, size_t, void *, size_t);
static bool broken(cnn_backend *dev)
{
    if (++calls != fail_at) return false;
    snprintf(dev->error, sizeof dev->error, "call %ld was made to fail", calls);
    return true;
}
static void *bad_alloc(cnn_backend *d, size_t n) { return broken(d) ? NULL : good_alloc(d, n); }
static bool bad_upload(cnn_backend *d, void *b, size_t at, const void *from, size_t n)
{
    return !broken(d) && good_upload(d, b, at, from, n);
}
static bool bad_download(cnn_backend *d, void *b, size_t at, void *to, size_t n)
{
    return !broken(d) && good_download(d, b, at, to, n);
}

/* Each call into the device fails in turn: one message on the graph, nothing lost. */
static void a_device_that_fails(void)
{
    float losses[3];
    bool  failed = true;
    good_alloc = shared->alloc, good_upload = shared->upload, good_download = shared->download;
    shared->alloc = bad_alloc, shared->upload = bad_upload, shared->download = bad_download;
    for (fail_at = 1; failed && fail_at < 200; fail_at++) {
        long live = alloc_live;
        calls = 0;
        net n = everything(shared);
        failed = !(cnn_compile(n.g, n.loss) && train(n, 3, losses));
        CHECK(failed == (calls >= fail_at));
        if (failed) CHECK_MSG(cnn_error(n.g) &&
                              strstr(cnn_error(n.g), "was made to fail"), "%s", cnn_error(n.g)
                              ? cnn_error(n.g) : "?");
        cnn_free(n.g);
        CHECK_INT(alloc_live, live);
        recover();
    }
    CHECK(fail_at > 10);
    shared->alloc = good_alloc, shared->upload = good_upload, shared->download = good_download;
}

/* Each call of OpenCL fails in turn: one message, nothing lost, and the training goes on on the CPU with the
   parameters that the device still gives. */
static void calls_that_fail(void)
{
    float losses[3], w[64];
    long  fails = 0, left = 0;
    for (long at = 1; ; at += 1 + at / 16) {
        long objects, memory = alloc_live;
        cnncl_forget_launches(cnncl_of(shared));
        objects = cl_live;
        call_count = 0, call_fail = at;
        net  n = everything(shared);
        bool done = cnn_compile(n.g, n.loss) && train(n, 3, losses), failed = call_count >= at;
        call_fail = 0;
        CHECK(done != failed);
        if (failed) {
            fails++;
            bool answers = n.g->compiled;
            CHECK_MSG(cnn_error(n.g) &&
                      strstr(cnn_error(n.g), "OpenCL error"), "%s", cnn_error(n.g) ? cnn_error(n.g) : "?");
            CHECK(cnn_leave_device(n.g) == answers && (cnn_error(n.g) != NULL) == !answers);
            cnn_tensor *p = cnn_find(n.g, "conv2d1.bias");
            if (answers) left++, CHECK(cnn_get(p, w, 6) && w[0] == w[0] && w[5] == w[5] &&
                                       train(n, 2, losses) && isfinite(losses[1]));
        }
        cnn_free(n.g);
        cnncl_forget_launches(cnncl_of(shared));
        CHECK_INT(cl_live, objects);
        CHECK_INT(alloc_live, memory);
        recover();
        if (!failed || test__bad > 4) break;
    }
    CHECK(fails > 50 && left > 40);
    call_fail = 0;
}

static void calls_that_fail_while_opening(void)
{
    long at = 1, fails = 0;
    for (bool failed = true; failed && test__bad < 4; at += 1 + at / 4) {
        long objects = cl_live, memory = alloc_live;
        call_count = 0, call_fail = at;
        cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN);
        failed = call_count >= at;
        call_fail = 0, fails += failed;
        /* a failure in the check of a row */
        bool refused = strstr(cnn_opencl_report(dev), "left to the CPU") || strstr(cnn_opencl_report(dev), "wrong here");
        CHECK_MSG(failed == (cnn_opencl_error(dev) || refused), "call %ld: %s", at, cnn_opencl_report(dev));
        cnn_opencl_close(dev);
        CHECK_INT(cl_live, objects);
        CHECK_INT(alloc_live, memory);
    }
    CHECK(fails > 20);
}

static void libraries_that_are_missing(void)
{
    cnn_opencl_device list[1];
    hidden_library = "OpenCL";
    cnn_backend *dev = cnn_opencl();
    CHECK(cnn_opencl_error(dev) && strstr(cnn_opencl_error(dev), "libOpenCL was not found"));
    CHECK_INT(cnn_opencl_devices(list, 1), 0);
    cnn_opencl_close(dev);
    hidden_library = NULL, hidden_function = "clFlush";
    dev = cnn_opencl();
    CHECK(cnn_opencl_error(dev) && strstr(cnn_opencl_error(dev), "lacks clFlush"));
    cnn_opencl_close(dev);
    hidden_function = "CLBlastClearCache";
    for (int i = 0; i < 2; i++) {
        dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_CLBLAST, .no_check = 1);
        CHECK_MSG(!cnn_opencl_error(dev) &&
                  strstr(cnn_opencl_report(dev), "CLBlast is not installed"), "%s", cnn_opencl_report(dev));
        cnn_opencl_close(dev);
        hidden_function = NULL, hidden_library = "clblast";
    }
    hidden_library = NULL;
}

/* ---- Compiled kernels on disk ---- */

static bool opens_from(const char *dir, bool cached)
{
    cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1, .cache = dir);
    bool right = CHECK_MSG(!cnn_opencl_error(dev) &&
                           cached == (strstr(cnn_opencl_report(dev), "cached kernels") != NULL), "%s",
                           cnn_opencl_report(dev));
    cnn_opencl_close(dev);
    return right;
}
static void write_file(const char *path, const unsigned char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}
static void compiled_kernels(void)
{
    char dir[600], path[700], command[1500], why[100];
    snprintf(dir, sizeof dir, "%s.cache", program);
    snprintf(command, sizeof command, "rm -rf '%s' && mkdir '%s'", dir, dir);
    CHECK(system(command) == 0);
    /* without a directory no binary is asked for; with one, the first sources will do: products need no more */
    calls_of_binary = 0, opens_from(NULL, false);
    CHECK_INT(calls_of_binary, 0);
    sources_used = 30;
    cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1, .cache = dir);
    uint64_t     key = cnn_opencl_error(dev) ? 0 : cnncl_key(cnncl_of(dev));
    cnn_opencl_close(dev);
    opens_from(dir, true);
    snprintf(path, sizeof path, "%s/cnn_opencl-%016llx.bin", dir, (unsigned long long)key);
    size_t         n;
    unsigned char *good = cnn__read_file(path, &n, why, sizeof why), *bad = good ? malloc(n + 1) : NULL;
    if (!CHECK(good && bad && n > 1000)) return;
    const size_t lengths[] = { 0, 8, 31, 32, 33, n / 2, n - 1, n + 1 },
        changed[] = { 0, 9, 17, 25, 32, n / 3, n - 1 };
    for (int i = 0; i < 8 && test__bad < 4; i++) {
        memcpy(bad, good, n), bad[n] = 0;
        write_file(path, bad, lengths[i]);
        opens_from(dir, false), opens_from(dir, true);
    }
    for (int i = 0; i < 7 && test__bad < 4; i++) {
        memcpy(bad, good, n), bad[changed[i]] ^= 4;
        write_file(path, bad, n);
        opens_from(dir, false), opens_from(dir, true);
    }
    /* the driver refuses it */
    memset(bad, 'x', n), cnncl_head(bad, key, bad + CNNCL_HEAD, n - CNNCL_HEAD);
    write_file(path, bad, n);
    opens_from(dir, false), opens_from(dir, true);
    /* another driver's */
    cnncl_head(good, key + 1, good + CNNCL_HEAD, n - CNNCL_HEAD);
    write_file(path, good, n);
    opens_from(dir, false), opens_from(dir, true);
    snprintf(command, sizeof command, "test \"$(ls '%s')\" = cnn_opencl-%016llx.bin && rm -r '%s'", dir,
             (unsigned long long)key, dir);
    /* nothing else was left */
    CHECK(system(command) == 0);
    /* no directory: no error */
    opens_from(dir, false), opens_from("/dev/null", false);
    sources_used = 64, CNN_FREE(good), free(bad);
}

/* ---- .tune ---- */

/* A convolution for Winograd or a tile, one for tiles, a depthwise one without a choice, a transposed one, a product. */
static net tunable(cnn_backend *dev)
{
    net n = { cnn_new_((cnn_config){ .max_batch = BATCH, .seed = 3, .backend = dev }), NULL, NULL, NULL, 3, 14, 0.01f };
    n.x = cnn_input(n.g, 3, 14, 14), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_conv2d(n.x, 16, 3, .stride = 2, .pad = 1));
    h = cnn_relu(cnn_conv2d(cnn_conv2d(h, 16, 3, .pad = 1, .groups = 16), 18, 3, .pad = 1));
    h = cnn_tanh(cnn_conv_transpose2d(h, 5, 3, .stride = 2));
    n.loss = cnn_softmax_cross_entropy(cnn_dense(h, 10), n.t);
    return n;
}
/* Convolutions to y, w, x where the input wants a gradient, and as many products. */
enum { CHOICES = 2 + 3 + 3 + 3 };

/* Times as if one way were the fastest: its kernels take little. -1: as they are. */
static int favoured = -1;
static struct { cl_event event; int kernel; } timed[64];
static long n_timed;
static cl_int (CL_API_CALL *real_time)(cl_event, cl_profiling_info, size_t, void *, size_t *);
static cl_int CL_API_CALL timed_run(cl_command_queue q, cl_kernel k, cl_uint dim, const size_t *at, const size_t *all,
                                    const size_t *group, cl_uint n, const cl_event *w, cl_event *e)
{
    const cl_int status = test_clEnqueueNDRangeKernel(q, k, dim, at, all, group, n, w, e);
    const cnncl *d = cnncl_of(shared);
    for (int i = 0; e && i < CNNCL_LAUNCHES; i++)
        if (d->launch[i].object == k)
            timed[n_timed % 64].event = *e, timed[n_timed++ % 64].kernel = d->launch[i].kernel;
    return status;
}
static cl_int CL_API_CALL made_up_time(cl_event e, cl_profiling_info what, size_t n, void *to, size_t *got)
{
    cl_ulong time = (cl_ulong)1 << 30;
    int      k = -1;
    if (favoured < 0) return real_time(e, what, n, to, got);
    for (long i = n_timed; i > 0 && i > n_timed - 64 && k < 0; i--)
        if (timed[(i - 1) % 64].event == e) k = timed[(i - 1) % 64].kernel;
    const bool little = k == CNNCL_add_slices || k == CNNCL_fold ||
        (favoured < CNNCL_TILES ? k == CNNCL_conv_128 + favoured || k == CNNCL_weights_128 + favoured ||
                                  k == CNNCL_product_128 + favoured
                                : k == CNNCL_wino_in || k == CNNCL_wino_out || k == CNNCL_wino_dw ||
                                  (k >= CNNCL_product_128 && k < CNNCL_product_128 + CNNCL_TILES));
    if (what == CL_PROFILING_COMMAND_END) time += little ? 1000 : 1000000;
    return memcpy(to, &time, sizeof time), CL_SUCCESS;
}

/* A device with local memory, so that there are tiles to choose from. */
static bool opens_to_tune(const char *dir)
{
    local_memory = CL_LOCAL, no_binaries = true;                  /* the choices are kept all the same */
    const bool open = share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1, .cache = dir, .tune = 1));
    return local_memory = 0, no_binaries = false, CHECK(open);
}

/* Four steps of it on a device that was opened with .tune; the losses, and how many choices were measured and kept. */
static bool tuned_run(const char *dir, float *losses, int *measured, uint64_t (*choice)[2])
{
    bool done = false;
    if (!opens_to_tune(dir)) return false;
    cnncl *d = cnncl_of(shared);
    real_time = d->cl.clGetEventProfilingInfo, d->cl.clGetEventProfilingInfo = made_up_time;
    d->cl.clEnqueueNDRangeKernel = timed_run, n_timed = 0;
    net n = tunable(shared);
    done = CHECK_MSG(cnn_compile(n.g, n.loss) && train(n, 5, losses), "%s", cnn_error(n.g) ? cnn_error(n.g) : "?");
    CHECK(!d->timing && d->tile == -1);
    *measured = d->measured;
    if (choice) memcpy(choice, d->tuned, sizeof d->tuned);
    CHECK_INT(d->n_tuned, CHOICES);
    cnn_free(n.g), unshare();
    return done;
}
static void empty_directory(char *dir, size_t length)
{
    char command[1500];
    snprintf(dir, length, "%s.tuned", program);
    snprintf(command, sizeof command, "rm -rf '%s' && mkdir '%s'", dir, dir);
    CHECK(system(command) == 0);
}

static void tuned_choices_are_kept(void)
{
    static uint64_t choice[3][CNNCL_TUNED][2];
    char  dir[600];
    float cpu[5], losses[3][5];
    int   measured;
    empty_directory(dir, sizeof dir);
    net n = tunable(NULL);
    CHECK(cnn_compile(n.g, n.loss) && train(n, 5, cpu)), cnn_free(n.g);
    for (int i = 0; i < 3; i++) {
        if (!CHECK(tuned_run(dir, losses[i], &measured, choice[i]))) return;
        CHECK_INT(measured, i ? 0 : CHOICES);
        CHECK_ALL_NEAR(losses[i], cpu, 5, 1e-4);
        CHECK(memcmp(choice[i], choice[0], sizeof *choice) == 0);
        CHECK_SAME_BITS(losses[i], losses[0], 5);
        favoured = i;                                             /* what would be measured now does not count */
    }
    favoured = -1;
}
/* The least time decides, and what was chosen is what runs. */
static void the_fastest_is_taken(void)
{
    static uint64_t choice[CNNCL_TUNED][2];
    char  dir[600];
    float losses[5];
    int   measured;
    for (favoured = 0; favoured <= CNNCL_WINOGRAD; favoured++) {
        int ways = 0;
        if (favoured == CNNCL_NO_LOCAL) continue;
        empty_directory(dir, sizeof dir);
        if (!tuned_run(dir, losses, &measured, choice)) break;
        for (int i = 0; i < CHOICES; i++) ways += choice[i][1] == (uint64_t)favoured;
        CHECK_INT(ways, favoured == CNNCL_WINOGRAD ? 3 : CHOICES);
        if (!opens_to_tune(dir)) break;
        cnncl *d = cnncl_of(shared);
        net    n = tunable(shared);
        int    tiles = 0, others = 0, winograd = 0;
        CHECK(cnn_compile(n.g, n.loss) && train(n, 1, losses));
        for (int i = 0; i < CNNCL_LAUNCHES; i++) {
            const int k = d->launch[i].object ? d->launch[i].kernel : CNNCL_COUNT;
            tiles += k < CNNCL_add_slices && k % CNNCL_TILES == favoured;
            others += k < CNNCL_add_slices && k % CNNCL_TILES != favoured;
            winograd += k == CNNCL_wino_in;
        }
        if (favoured == CNNCL_WINOGRAD) CHECK_INT(winograd, 3);
        else                            CHECK_MSG(tiles == CHOICES && !others && !winograd, "%d of %d", tiles, CHOICES);
        cnn_free(n.g), unshare();
    }
    favoured = -1;
}

/* A file that was cut or changed, another device's, or one of ways that there are none: measured again. */
static void damaged_choices(void)
{
    char   dir[600], path[700], why[100];
    float  losses[5];
    int    measured;
    size_t n;
    empty_directory(dir, sizeof dir);
    if (!tuned_run(dir, losses, &measured, NULL)) return;
    local_memory = CL_LOCAL, no_binaries = true;
    cnn_backend   *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1, .cache = dir);
    local_memory = 0, no_binaries = false;
    const uint64_t key = cnncl_key(cnncl_of(dev));
    CHECK_INT(cnncl_of(dev)->n_tuned, 0);                         /* not asked for: the rule */
    cnn_opencl_close(dev);
    snprintf(path, sizeof path, "%s/cnn_opencl-%016llx.tune", dir, (unsigned long long)key);
    unsigned char *good = cnn__read_file(path, &n, why, sizeof why), *bad = good ? malloc(n + 1) : NULL;
    if (!CHECK(bad && n == CNNCL_HEAD + CHOICES * 16)) return;
    for (int i = 0; i < 7; i++) {
        size_t length = n;
        memcpy(bad, good, n), bad[n] = 0;
        if (i == 0) length = 0;
        if (i == 1) length = n - 1;
        if (i == 2) length = n + 1;
        if (i == 3) bad[9] ^= 4;
        if (i == 4) bad[n - 8] ^= 1;
        if (i == 5) cnncl_head(bad, key + 1, bad + CNNCL_HEAD, n - CNNCL_HEAD);
        if (i == 6) {
            for (int k = 0; k < CHOICES; k++) bad[CNNCL_HEAD + 16 * k + 8] = (unsigned char)(k % 2 ? CNNCL_NO_LOCAL : 5 + k);
            cnncl_head(bad, key, bad + CNNCL_HEAD, n - CNNCL_HEAD);
        }
        write_file(path, bad, length);
        CHECK(tuned_run(dir, losses, &measured, NULL));
        CHECK_INT(measured, CHOICES);
        CHECK(tuned_run(dir, losses, &measured, NULL));           /* written again */
        CHECK_INT(measured, 0);
    }
    CNN_FREE(good), free(bad);
}
/* No memory for the trials, or no queue that measures: the rule, and no error. */
static void tuning_that_fails(void)
{
    float losses[2];
    int   lost = 0;
    if (!opens_to_tune(NULL)) return;
    cnncl *d = cnncl_of(shared);
    for (long at = 1; at < 400 && test__bad < 4; at += 1 + at / 6) {
        net  n = tunable(shared);
        long objects = cl_live;
        cnn_plan(n.g, n.loss);
        d->n_tuned = 0, shared->alloc = device_alloc, call_count = 0, call_fail = at;
        const bool compiled = cnn_compile(n.g, n.loss), failed = call_count >= at;
        call_fail = 0;
        CHECK_MSG(compiled && !shared->error[0], "call %ld: %s", at, cnn_error(n.g) ? cnn_error(n.g) : "?");
        CHECK_MSG(failed && d->n_tuned >= CHOICES - 1, "call %ld: %d choices", at, d->n_tuned);
        lost += d->n_tuned < CHOICES;
        CHECK(!d->timing && train(n, 1, losses));
        cnn_free(n.g), cnncl_forget_launches(d);
        CHECK(cl_live <= objects);
        shared->alloc = poisoned_alloc;
    }
    unshare();
    CHECK_MSG(lost > 10, "%d", lost);
}

/* Each allocation of the host fails in turn. */
static void out_of_memory(void)
{
    float losses[2];
    bool  failed = true;
    for (long at = 1; failed && at < 1000; at++) {
        long live = alloc_live;
        alloc_count = 0, alloc_fail = at;
        net n = everything(shared);
        failed = !n.g || !(cnn_compile(n.g, n.loss) && train(n, 2, losses));
        if (failed) CHECK(cnn_error(n.g) != NULL);
        alloc_fail = 0;
        cnn_free(n.g);
        CHECK_INT(alloc_live, live);
        recover();
    }
    CHECK(!failed);
}

static void out_of_memory_while_opening(void)
{
    static const long ats[] = { 1, 2, 3, 4, 11, 18, 25, 32, 50, 77, 200, 777, 1500, 1000000 };
    int               errors = 0;
    for (int i = 0; i < (int)(sizeof ats / sizeof *ats); i++) {
        long live = alloc_live;
        alloc_count = 0, alloc_fail = ats[i];
        cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN);
        bool failed = alloc_count >= alloc_fail;
        alloc_fail = 0;
        CHECK(dev != NULL);
        /* an upload goes on without a copy aside */
        CHECK_MSG(failed || !cnn_opencl_error(dev), "allocation %ld: %s", ats[i], cnn_opencl_report(dev));
        errors += cnn_opencl_error(dev) != NULL;
        if (cnn_opencl_error(dev)) {
            cnn_graph *g = cnn_new_((cnn_config){ .at = "here", .backend = dev });
            CHECK(cnn_error(g) && strstr(cnn_error(g), "out of memory"));
            cnn_free(g);
        } else cnn_opencl_close(dev);
        CHECK_INT(alloc_live, live);
    }
    CHECK(errors > 8);
}

/* A label that is no class: the same message as on the CPU, and no access outside the array. */
static void wrong_label(void)
{
    char message[2][CNN_ERROR_SIZE];
    for (int k = 0; k < 2; k++) {
        net   n = lenet(k ? shared : NULL);
        float x[28 * 28] = { 0 };
        int   label = 10;
        CHECK(cnn_compile(n.g, n.loss));
        cnn_set(n.x, x, 28 * 28), cnn_set_labels(n.t, &label, 1);
        CHECK(cnn_forward(n.loss, CNN_TRAIN) != cnn_forward(n.loss, CNN_TRAIN));
        CHECK(cnn_error(n.g) != NULL);
        snprintf(message[k], sizeof message[k], "%s", cnn_error(n.g) ? cnn_error(n.g) : "?");
        cnn_free(n.g);
        recover();
    }
    CHECK_STR(message[1], message[0]);
}

/* A device whose largest buffer is smaller: the same bits from several, or a message. */
static void activations_in_several_buffers(void)
{
    const size_t keep = shared->max_bytes;
    net (*const build[])(cnn_backend *) = { deep_resnet, small_mobilenet };
    for (int k = 0; k < 2; k++) {
        float whole[6], parts[6], *w = NULL;
        for (int way = 0; way < 2; way++) {
            net        n = build[k](shared);
            size_t     count;
            cnn_memory m = cnn_plan(n.g, n.loss);
            cnn_free(n.g);
            if (way) shared->max_bytes = m.params > m.activations / 4 ? m.params : m.activations / 4;
            n = build[k](shared);
            const bool done = cnn_compile(n.g, n.loss) && train(n, 6, way ? parts : whole);
            CHECK_MSG(done, "%s", cnn_error(n.g));
            CHECK_MSG(way ? n.g->n_chunks > 1 : n.g->n_chunks == 1, "%d buffers of %zu bytes", n.g->n_chunks, shared->max_bytes);
            const float *p = cnn_flat_params(n.g, &count);
            if (CHECK(p != NULL) && !way) w = test_floats(count), memcpy(w, p, count * sizeof *p);
            if (p && way) CHECK_SAME_BITS(p, w, count);
            shared->max_bytes = keep;
            cnn_free(n.g);
        }
        CHECK_SAME_BITS(parts, whole, 6);
        free(w);
    }
    shared->max_bytes = 1000;
    net n = lenet(shared);
    CHECK(!cnn_compile(n.g, n.loss) && strstr(cnn_error(n.g), "has an array of "));
    cnn_free(n.g);
    shared->max_bytes = keep;
    recover();
}

/* Options whose products no int holds: 641 * 6700417 = 2^32 + 1 (Euler 1732), 65536 * 65536 = 2^32. */
static void vast_options(void)
{
    float v[32], value[2][3] = { { 0 } };
    test_fill(v, 32, 1, 2);
    for (int k = 0; k < 2; k++) {
        cnn_graph  *g = cnn_new_((cnn_config){ .seed = 2, .backend = k ? shared : NULL });
        cnn_tensor *x = cnn_input(g, 2, 4, 4);
        cnn_tensor *y = cnn_keep(cnn_conv2d(x, 1, 1, .stride_h = 641, .stride_w = 6700417));
        cnn_tensor *z = cnn_keep(cnn_avg_pool(x, 65536, .pad = 32768)), *J = cnn_sum(cnn_concat(y, z));
        CHECK(cnn_compile(g, J) && cnn_set(x, v, 32));
        cnn_forward(J, CNN_EVAL);
        CHECK(cnn_get(y, &value[k][0], 1) && cnn_get(z, &value[k][1], 2));
        CHECK_MSG(!cnn_error(g), "%s", cnn_error(g));
        cnn_free(g);
    }
    for (int i = 0; i < 3; i++) CHECK_NEAR(value[1][i] / value[0][i], 1, 1e-5);
}

/* More rows than a float can count. */
static void many_rows(void)
{
    const int n = (1 << 24) + 3;
    const size_t bytes = (size_t)n * sizeof(float);
    int count = 0;
    void *zeros = device_alloc(shared, bytes);              /* logits of the one class there is, and labels */
    if (!zeros) { recover(), test_skip("no memory for it on the device"); return; }
    CHECK(shared->clear(shared, zeros, 0, bytes) &&
          shared->correct(shared, (cnn_place){ zeros, 0 }, (cnn_shape){ 1, 1, 1, n }, (cnn_place){ zeros, 0 }, true,
                          &count));
    CHECK_INT(count, n);
    shared->release(shared, zeros);
}

/* Kernels that do not build: the log is in the message. */
static void program_build_log(void)
{
    cnncl    *d = cnncl_of(shared);
    cl_program  keep = d->program;
    const char *source = "__kernel void broken(int i) { nonsense }";
    cl_int      e;
    d->program = d->cl.clCreateProgramWithSource(d->context, 1, &source, NULL, &e);
    CHECK(d->program && cnncl_build_program(d) == CL_BUILD_PROGRAM_FAILURE);
    CHECK_MSG(strstr(shared->error, "nonsense") != NULL, "%s", shared->error);
    d->cl.clReleaseProgram(d->program);
    d->program = keep;
    recover();
}

/* A driver that computes nonsense: the check at opening time leaves that operation to the CPU and says so. */
static bool nonsense(cnn_backend *dev, cnn_tensor *y, cnn_mode mode)
{
    cnn_place p = cnn_place_data(y);
    (void)mode;
    return dev->clear(dev, p.buffer, p.at * sizeof(float), (size_t)cnn__len(y->shape) * sizeof(float));
}
static void a_wrong_kernel(void)
{
    cnncl   *d = cnncl_of(shared);
    cnn_kernel row[128];
    int        rows = shared->n_kernels;
    CHECK(cnncl_check_rows(d));
    CHECK_INT(shared->n_kernels, rows);
    memcpy(row, d->row, sizeof row);
    for (int i = 0; i < rows; i++) if (row[i].op == &cnn_op_tanh ||
                                       row[i].op == &cnn_op_conv2d) d->row[i].forward = nonsense;
    CHECK(cnncl_check_rows(d));
    CHECK_INT(shared->n_kernels, rows - 2);
    CHECK_MSG(strstr(d->report, "left to the CPU: conv2d") &&
              strstr(d->report, "left to the CPU: tanh"), "%s", d->report);
    memcpy(d->row, row, sizeof row);
    shared->n_kernels = rows;
}
static bool no_update(cnn_backend *dev, const cnn_optimizer *o, cnn_place w, cnn_place dw, cnn_place slots,
                      size_t n, size_t slot_stride, const cnn_step_args *a, long step)
{
    (void)dev, (void)o, (void)w, (void)dw, (void)slots, (void)n, (void)slot_stride, (void)a, (void)step;
    return true;
}
static void a_wrong_update(void)
{
    cnncl    *d = cnncl_of(shared);
    cnn_backend keep = *shared;
    CHECK(cnncl_check_training(d) && shared->update && !strstr(d->report, "updates"));
    shared->update = no_update;
    CHECK(cnncl_check_training(d) && !shared->update && !shared->correct);
    CHECK_MSG(strstr(d->report, "left to the CPU: updates"), "%s", d->report);
    *shared = keep;
}
/* The compiler refuses the source of some kernels: those rows are left to the CPU, the others stay. Nothing
   goes without the first sources. */
static void a_kernel_that_does_not_build(void)
{
    refused_word = "lrn_backward(";
    cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1);
    CHECK_MSG(!cnn_opencl_error(dev) && strstr(cnn_opencl_report(dev), "left to the CPU: lrn"), "%s",
              cnn_opencl_report(dev));
    CHECK(strstr(cnn_opencl_report(dev), "left to the CPU: upsample") != NULL);       /* in the same source */
    CHECK_INT(dev->n_kernels, (int)(sizeof cnncl_rows / sizeof *cnncl_rows) - 2);
    cnn_opencl_close(dev);
    refused_word = "stretch(";
    dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN);
    CHECK_MSG(cnn_opencl_error(dev) && strstr(cnn_opencl_error(dev), "refused"), "%s", cnn_opencl_report(dev));
    cnn_opencl_close(dev), refused_word = NULL;
}

/* While somebody looks, no function is joined to the layer before it: an Inf that tanh hides is found. */
static void doctor_sees_each_value(void)
{
    char message[2][CNN_ERROR_SIZE];
    for (int k = 0; k < 2; k++) {
        cnn_graph  *g = cnn_new_((cnn_config){ .seed = 1, .backend = k ? shared : NULL });
        cnn_tensor *x = cnn_input(g, 2, 3, 3), *y = cnn_tanh(cnn_dense(x, 3)), *t = cnn_labels(g);
        cnn_tensor *loss = cnn_softmax_cross_entropy(y, t);
        float       v[18];
        for (int i = 0; i < 18; i++) v[i] = 3e38f * (i % 2 ? 1.0f : -1.0f);
        CHECK(cnn_compile(g, loss) && cnn_doctor(g, 1));
        size_t n;
        float *w = cnn_flat_params(g, &n);
        for (size_t i = 0; w && i < n; i++) w[i] = i % 2 ? 2.0f : -2.0f;
        CHECK(cnn_set(x, v, 18) && cnn_set_labels(t, (const int[]){ 1 }, 1));
        cnn_forward(loss, CNN_TRAIN);
        snprintf(message[k], sizeof message[k], "%s", cnn_error(g) ? cnn_error(g) : "nothing found");
        cnn_free(g);
        recover();
    }
    CHECK_MSG(strstr(message[1], "Inf in the output of \"dense1\""), "%s", message[1]);
    CHECK_STR(message[1], message[0]);
}

/* Batch norm, sum and function are one kernel; but whoever looks on sees the values of each, as on the CPU. */
static cnn_tensor *three_in_one(cnn_graph *g, cnn_tensor **x)
{
    *x = cnn_input(g, 4, 5, 5, .grad = 1);
    cnn_tensor *h = cnn_conv2d(*x, 4, 3, .pad = 1, .no_bias = 1), *r = cnn_relu(cnn_conv2d(*x, 4, 1));
    h = cnn_relu(cnn_add(cnn_batch_norm(h), r));
    h = cnn_clamp(cnn_sub(cnn_batch_norm(cnn_conv2d(h, 4, 3, .pad = 1)), h), -1, 0.5f);
    h = cnn_relu(cnn_add(cnn_conv2d(h, 4, 1, .no_bias = 1), cnn_batch_norm(h)));
    return cnn_mean(cnn_mul(h, h));
}
static void values_of_joined_nodes(void)
{
    FILE       *f[2] = { tmpfile(), tmpfile() };
    cnn_graph  *g[2];
    cnn_tensor *x[2], *loss[2];
    float       v[3 * 100];
    test_fill(v, 300, -1, 1);
    for (int i = 0; i < 2; i++) {
        g[i] = cnn_new_((cnn_config){ .max_batch = 3, .seed = 8, .backend = i ? shared : NULL });
        loss[i] = three_in_one(g[i], &x[i]);
        CHECK(cnn_compile(g[i], loss[i]) && cnn_set(x[i], v, 300));
        for (int step = 0; step < 3; step++) {
            cnn_set(x[i], v, 300), cnn_forward(loss[i], CNN_TRAIN), cnn_backward(loss[i]);
            cnn_step(g[i], .lr = 0.1f);
        }
        CHECK(cnn_set(x[i], v, 300)), cnn_trace(loss[i], 12, f[i]), rewind(f[i]);
        CHECK_MSG(!cnn_error(g[i]), "%s", cnn_error(g[i]));
    }
    char word[2][200];
    int  numbers = 0;
    while (fscanf(f[0], "%199s", word[0]) == 1 && CHECK(fscanf(f[1], "%199s", word[1]) == 1)) {
        char *end[2];
        const double a = strtod(word[0], &end[0]), b = strtod(word[1], &end[1]);
        if (end[0] == word[0]) CHECK_STR(word[1], word[0]);
        else numbers++, CHECK_MSG(fabs(a - b) <= 2e-3 * (1 + fabs(a)), "%s is not %s", word[1], word[0]);
    }
    CHECK_MSG(numbers > 200, "%d numbers", numbers);
    for (int i = 0; i < g[0]->n_order; i++) {
        cnn_tensor *p = &g[0]->order[i]->t, *q = &g[1]->order[i]->t;
        if (!p->op && p->needs_grad) CHECK_ALL_NEAR(cnn_map_read(q), cnn_map_read(p), cnn_count(p), 1e-3);
    }
    for (int i = 0; i < 2; i++) cnn_free(g[i]), fclose(f[i]);
}

/* Kernels of a training step, as a large GPU runs it. */
static cnn_tensor *relu_lenet(cnn_tensor *x)
{
    cnn_tensor *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 16, 5)), 2);
    return cnn_dense(cnn_relu(cnn_dense(cnn_relu(cnn_dense(h, 120)), 84)), 10);
}
static cnn_tensor *wide_resnet(cnn_tensor *x)
{
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, 64, 3, .pad = 1, .no_bias = 1)));
    for (int i = 0; i < 8; i++) h = block(h, 64 << i / 2, i && i % 2 == 0 ? 2 : 1);
    return cnn_dense(cnn_global_avg_pool(h), 10);
}
/* The third step, as a GPU of 132 units with local memory and a cache of 50 MiB has it. */
typedef struct { long launches, objects, sets; cnn_traffic copies; double bytes, cached; } step_counts;
static step_counts dry_step(cnn_tensor *(*build)(cnn_tensor *), int batch, int c, int side, bool more)
{
    cnncl       *d = cnncl_of(shared);
    const int    units = d->units;
    const size_t workspace = d->workspace, largest = shared->max_bytes;
    const bool   has_local = d->has_local;
    cnn_graph   *g = cnn_new_((cnn_config){ .max_batch = batch, .backend = shared });
    cnn_tensor  *x = cnn_input(g, c, side, side), *t = cnn_labels(g), *loss = cnn_softmax_cross_entropy(build(x), t);
    step_counts  counts = { 0 };
    shared->alloc = device_alloc;
    const cnncl_api keep = dry_begin(d);
    d->units = 132, d->workspace = (size_t)50 << 20, d->workspace = d->workspace / 4 * 3, d->has_local = true;
    shared->max_bytes = 0;
    const size_t bytes = cnn_plan(g, loss).total;
    char        *memory = malloc(bytes + 64);              /* more than alloc.h gives */
    const bool   compiled = cnn_compile_in(g, loss, memory + (64 - (uintptr_t)memory % 64) % 64, bytes);
    if (CHECK_MSG(compiled, "%s", cnn_error(g))) {
        for (int step = 0; step < 3; step++) {
            const cnn_traffic before = cnn_copies(g);
            dry_launches = dry_objects = dry_sets = 0, dry_bytes = dry_cached = 0;
            cnn_map_write(x), cnn_map_write(t);
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            if (more) cnn_clip_grads(g, 1);
            cnn_step(g, .lr = 0.1f, .momentum = 0.9f);
            if (more) cnn_average(g, 0.9f);
            counts = (step_counts){ dry_launches, dry_objects, dry_sets, cnn_copies(g), dry_bytes, dry_cached };
            counts.copies.uploads -= before.uploads, counts.copies.downloads -= before.downloads;
        }
        CHECK_MSG(!cnn_error(g), "%s", cnn_error(g));
        CHECK_STR(dry_unknown, NULL);
    }
    cnn_free(g), free(memory), recover();
    dry_end(d, &keep);
    shared->alloc = poisoned_alloc;
    d->units = units, d->workspace = workspace, d->has_local = has_local, shared->max_bytes = largest;
    return counts;
}
static void launches_of_a_step(void)
{
    const step_counts lenet_5 = dry_step(relu_lenet, 64, 1, 28, false), resnet = dry_step(wide_resnet, 32, 3, 32, false);
    const step_counts more = dry_step(wide_resnet, 32, 3, 32, true);
    printf("    %ld, %ld, %ld launches; %.4f, %.4f, %.4f GB; %.4f GB more in the cache\n", lenet_5.launches, resnet.launches,
           more.launches, lenet_5.bytes / 1e9, resnet.bytes / 1e9, more.bytes / 1e9, resnet.cached / 1e9);
    CHECK_MSG(lenet_5.launches > 20 && lenet_5.launches <= 35, "LeNet-5: %ld launches", lenet_5.launches);
    CHECK_MSG(resnet.launches > 100 && resnet.launches <= 260, "ResNet-18: %ld launches", resnet.launches);
    CHECK_MSG(more.launches > resnet.launches && more.launches <= resnet.launches + 4, "with clipping and averages: %ld of %ld",
              more.launches, resnet.launches);
    CHECK_MSG(lenet_5.bytes > 0.016e9 && lenet_5.bytes < 0.0192e9, "LeNet-5: %.0f bytes", lenet_5.bytes);
    CHECK_MSG(resnet.bytes > 1.6e9 && resnet.bytes < 1.9e9, "ResNet-18: %.0f bytes", resnet.bytes);
    CHECK_MSG(resnet.cached > 2e9 && resnet.cached < 2.5e9, "ResNet-18: %.0f bytes in the cache", resnet.cached);
    CHECK_MSG(more.bytes - resnet.bytes < 0.19e9, "clipping and averages: %.0f bytes", more.bytes - resnet.bytes);
}

/* The counting itself, against numbers by hand: kernels' bytes in a step of a net that is small. */
static struct { const char *kernel; double bytes; } seen[40];
static int n_seen;
static void see(const counted *c) { if (n_seen < 40) seen[n_seen].kernel = c->kernel, seen[n_seen++].bytes = c->bytes; }
static double seen_bytes(const char *kernel)
{
    double sum = 0;
    for (int i = 0; i < n_seen; i++) sum += strncmp(seen[i].kernel, kernel, strlen(kernel)) == 0 ? seen[i].bytes : 0;
    return sum / 4;                                                   /* floats */
}
static void counted_bytes(void)
{
    enum { X = 2 * 3 * 7 * 7, W = 5 * 3 * 9, Y = 2 * 5 * 4 * 4, PARAMS = 144 + 16 + 16 + 320 + 16 };   /* rounded up to 64 bytes */
    cnncl      *d = cnncl_of(shared);
    cnn_graph  *g = cnn_new_((cnn_config){ .max_batch = 2, .backend = shared });
    cnn_tensor *x = cnn_input(g, 3, 7, 7), *h = cnn_conv2d(x, 5, 3, .stride = 2, .pad = 1, .no_bias = 1);
    cnn_tensor *t = cnn_input(g, 4), *loss = cnn_mse(cnn_dense(cnn_relu(cnn_batch_norm(h)), 4, .no_bias = 1), t);
    shared->alloc = device_alloc;
    const cnncl_api keep = dry_begin(d);
    if (CHECK_MSG(cnn_compile(g, loss), "%s", cnn_error(g))) {
        cnn_map_write(x), cnn_map_write(t);
        n_seen = 0, dry_each = see;
        cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f);
        dry_each = NULL;
        CHECK_NEAR(seen_bytes("conv_"), X + W + Y, 0);                /* the input wants no gradient */
        CHECK_NEAR(seen_bytes("weights_"), X + Y + 2 * W, 0);
        CHECK_NEAR(seen_bytes("norm_statistics"), 0, 0);              /* so few are one slice: norm_forward does it */
        CHECK_NEAR(seen_bytes("norm_forward"), 2 * Y, 0);
        CHECK_NEAR(seen_bytes("norm_sums"), 3 * Y, 0);                /* x, y and dy */
        CHECK_NEAR(seen_bytes("norm_backward"), 4 * Y, 0);
        CHECK_NEAR(seen_bytes("product_"), 2 * (2 * 80 + 80 * 4 + 2 * 4) + (2 * 80 + 2 * 80 * 4 + 2 * 4), 0);
        CHECK_NEAR(seen_bytes("update"), 3 * (PARAMS - 16), 0);
        CHECK_STR(dry_unknown, NULL);
        CHECK_STR(cnn_error(g), NULL);
    }
    cnn_free(g), recover();
    dry_end(d, &keep);
    shared->alloc = poisoned_alloc;
}
/* In the dry run of ResNet-50, no kernel object is made and no argument set in the third step; the pictures and labels go
   up, the loss comes down. */
static void nothing_anew_in_resnet50(void)
{
    const step_counts c = dry_step(resnet50, 16, 3, 224, false);
    printf("    %ld launches, %.2f GB\n", c.launches, c.bytes / 1e9);
    CHECK_MSG(c.launches > 300 && c.launches < 700, "%ld launches", c.launches);
    CHECK_INT(c.objects, 0);
    CHECK_INT(c.sets, 0);
    CHECK_INT(c.copies.uploads, 2);
    CHECK_INT(c.copies.downloads, 1);
}

/* cnn_profile gives each layer the time of its kernels, and then measures no more. */
static void times_of_kernels(void)
{
    cnncl *d = cnncl_of(shared);
    net    n = lenet(shared);
    float  loss[2];
    char   line[300];
    int    layers = 0;
    double share = 0;
    FILE  *f = tmpfile();
    CHECK(cnn_compile(n.g, n.loss) && train(n, 1, loss));
    CHECK(cnn_profile(n.loss, 2, f) > 0 && !d->timing && d->events == 0);
    rewind(f);
    while (fgets(line, sizeof line, f)) {
        double forward, speed, backward;
        layers += sscanf(line, "conv2d%*d conv2d %lf %lf %lf", &forward, &speed, &backward) == 3 &&
                  forward > 0 && speed > 0 && backward > 0;
        if (strncmp(line, "all ", 4) == 0) share = atof(line + strlen(line) - 8);
    }
    CHECK_INT(layers, 2);
    CHECK_MSG(share > 1 && share <= 100, "all kernels take %g %% of the time", share);
    CHECK_MSG(!cnn_error(n.g), "%s", cnn_error(n.g));
    CHECK(train(n, 1, loss));
    fclose(f), cnn_free(n.g);
}

/* A mean gradient of several batches is made where the gradients are. */
static void accumulated_on_the_device(void)
{
    unsigned char *pixels = calloc(40, 28 * 28), labels[40] = { 0 };
    cnn_traffic    copies[2];
    float          w[2] = { 0 };
    for (int i = 0; i < 40 * 28 * 28; i++) pixels[i] = (unsigned char)(i * 37 % 251);
    for (int i = 0; i < 40; i++) labels[i] = (unsigned char)(i % 10);
    for (int k = 0; k < 3; k++) {
        cnn_dataset data = cnn_bytes(pixels, labels, 40, 1, 28, 28);
        net         n = lenet(k < 2 ? shared : NULL);
        if (!CHECK(cnn_compile(n.g, n.loss))) break;
        CHECK_MSG(cnn_fit(n.loss, cnn_output(n.g), &data, .epochs = 2, .lr = 0.01f, .accumulate = k ? 3 : 1), "%s",
                  cnn_error(n.g));
        if (k < 2) copies[k] = cnn_copies(n.g);
        if (k) w[k - 1] = (float)cnn_stats_of(cnn_flat_params(n.g, &(size_t){ 0 }), 100).mean;
        cnn_free(n.g);
        cnn_dataset_free(&data);
    }
    CHECK(copies[1].uploads <= copies[0].uploads && copies[1].downloads <= copies[0].downloads);
    CHECK_NEAR(w[0], w[1], 1e-5);
    free(pixels);
}

static void every_operation_has_a_kernel(void)
{
    int n;
    const cnn_op *const *ops = cnn_ops(&n);
    for (int i = 0; i < n; i++) {
        int found = 0;
        for (int k = 0; k < shared->n_kernels; k++) found += shared->kernels[k].op == ops[i];
        CHECK_MSG(found == 1, "%s has %d rows in cnn_opencl.h", ops[i]->name, found);
    }
}

static int wrong_sgemm(int layout, int ta, int tb, size_t m, size_t n, size_t k, float alpha, cl_mem a,
                       size_t a_at, size_t lda, cl_mem b, size_t b_at, size_t ldb, float beta, cl_mem c,
                       size_t c_at, size_t ldc, cl_command_queue *q, cl_event *e)
{
    (void)layout, (void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)a_at, (void)lda,
        (void)b, (void)b_at;
    (void)ldb, (void)beta, (void)c, (void)c_at, (void)ldc, (void)q, (void)e;
    return 0;
}
static void a_wrong_clblast(void)
{
    cnncl *d = cnncl_of(shared);
    CHECK(cnncl_check_gemm(d));
    d->clblast = true, d->clblast_tiles = 1, d->blas.CLBlastSgemm = wrong_sgemm;
    CHECK(!cnncl_check_gemm(d));
    d->clblast = false;
}

/* CLBlast fails, while opening or later: our own kernel goes on. */
static void clblast_fails(void)
{
    products_are = FAILS;
    cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_CLBLAST, .no_check = 1);
    CHECK_MSG(!cnn_opencl_error(dev) && strstr(cnn_opencl_report(dev), "our own GEMM (CLBlast fails here)"), "%s",
              cnn_opencl_report(dev));
    cnn_opencl_close(dev), products_are = RIGHT;
    if (!CHECK(share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_CLBLAST, .no_check = 1)))) return;
    CHECK(cnncl_of(shared)->clblast);
    products_are = FAILS, cnncl_of(shared)->clblast_tiles = 1;
    beside_the_cpu(lenet, 5, 1e-4);
    CHECK(!cnncl_of(shared)->clblast);
    unshare(), products_are = RIGHT;
}

static int wrong_products_of(const char *report)
{
    return strstr(report, "direct: its indirect way gave wrong products") ? WRONG_INDIRECT
         : strstr(report, "our own GEMM (CLBlast gave wrong products)") ? WRONG : RIGHT;
}
/* CLBlast is held to the products of whole numbers: its direct kernel is tried, then our own. */
static void wrong_products(void)
{
    for (int wrong = RIGHT; wrong <= WRONG_LARGE; wrong++) {
        products_are = wrong;
        cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_CLBLAST, .no_check = 1);
        const int found = wrong == WRONG_LARGE ? WRONG_INDIRECT : wrong;
        CHECK_MSG(!cnn_opencl_error(dev) && wrong_products_of(cnn_opencl_report(dev)) == found, "%s",
                  cnn_opencl_report(dev));
        if (wrong == RIGHT) {
            const char *names[] = { "XGEMM_MIN_INDIRECT_SIZE" }, *none[] = { "NO_SUCH_PARAMETER" };
            size_t      value[] = { 1 << 20 };
            CHECK(cnn_opencl_tune(dev, "GemmRoutine", 1, names, value));
            CHECK(!cnn_opencl_tune(dev, "GemmRoutine", 1, none, value));
        }
        cnn_opencl_close(dev), products_are = RIGHT;
    }
}
/* On a GPU of Intel's the direct kernel is forced before the first product. */
static cl_int CL_API_CALL intel_info(cl_device_id id, cl_device_info what, size_t size, void *to, size_t *got)
{
    (void)id, (void)got;
    if (what == CL_DEVICE_VENDOR) snprintf(to, size, "Intel(R) Corporation");
    return CL_SUCCESS;
}
static void a_gpu_of_intel(void)
{
    cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .no_check = 1);
    cnncl     *d = cnncl_of(dev);
    const cnn_opencl_args   args = { .gemm = CNN_OPENCL_AUTO };
    const cnn_opencl_device gpu = { .type = CNN_OPENCL_GPU };
    const char *says = "";
    if (CHECK_MSG(!cnn_opencl_error(dev), "%s", cnn_opencl_report(dev))) {
        d->cl.clGetDeviceInfo = intel_info, products_are = WRONG_INDIRECT;
        CHECK(cnncl_choose_gemm(d, &args, &gpu, &says) && d->clblast && products_are == RIGHT);
        CHECK_STR(says, "CLBlast (direct)");
        products_are = RIGHT;
    }
    cnn_opencl_close(dev);
}

/* Two platforms: the first has a CPU alone, the second an accelerator and two GPUs. Where there is none of a
   type the count stays unwritten. */
static int    platforms;
static cl_int CL_API_CALL two_platforms(cl_uint n, cl_platform_id *list, cl_uint *count)
{
    if (!platforms) return -1001;                             /* CL_PLATFORM_NOT_FOUND_KHR */
    *count = (cl_uint)platforms;
    for (cl_uint i = 0; i < n && i < *count; i++) list[i] = (cl_platform_id)(uintptr_t)(i + 1);
    return CL_SUCCESS;
}
static cl_int CL_API_CALL four_devices(cl_platform_id p, cl_device_type type, cl_uint n, cl_device_id *list,
                                       cl_uint *count)
{
    const uintptr_t first = (uintptr_t)p == 1 ? (type == CL_DEVICE_TYPE_CPU ? 1 : 0)
                          : type == CL_DEVICE_TYPE_ACCELERATOR ? 2 : type == CL_DEVICE_TYPE_GPU ? 3 : 0;
    if (!first) return CL_DEVICE_NOT_FOUND;
    *count = first == 3 ? 2 : 1;
    for (cl_uint i = 0; i < n && i < *count; i++) list[i] = (cl_device_id)(first + i);
    return CL_SUCCESS;
}
static uintptr_t integrated;
static cl_int CL_API_CALL named_device(cl_device_id id, cl_device_info what, size_t size, void *to,
                                       size_t *got)
{
    static const char *const names[] = { "", "Processor", "Board", "Radiant", "GeFast" };
    (void)got;
    if (what == CL_DEVICE_HOST_UNIFIED_MEMORY) *(cl_bool *)to = (uintptr_t)id == integrated;
    if (what == CL_DEVICE_NAME) snprintf(to, size, "%s", names[(uintptr_t)id]);
    if (what == CL_DEVICE_VERSION && size < 100) return CL_INVALID_VALUE;         /* longer than our field */
    if (what == CL_DEVICE_VERSION) snprintf(to, size, "OpenCL 1.2 %090d", 7);
    return CL_SUCCESS;
}
static cl_int CL_API_CALL named_platform(cl_platform_id id, cl_platform_info what, size_t size, void *to,
                                         size_t *got)
{
    (void)what, (void)got;
    snprintf(to, size, (uintptr_t)id == 1 ? "Host" : "Vendor's");
    return CL_SUCCESS;
}
static const char *chosen(const cnncl_device *list, int n, cnn_opencl_args a)
{
    cnncl_wish(&a);
    const cnncl_device *d = cnncl_choose(list, n, &a);
    return d ? d->about.name : "none";
}
static void order_of_devices(void)
{
    static const char *const order[] = { "Radiant", "GeFast", "Board", "Processor" };
    cnncl_device    *list = malloc(CNNCL_MAX_DEVICES * sizeof *list);
    const cnncl_api cl = { .clGetPlatformIDs = two_platforms, .clGetDeviceIDs = four_devices,
                             .clGetDeviceInfo = named_device, .clGetPlatformInfo = named_platform };
    if (!CHECK(list != NULL)) return;
    device_wish = "", platforms = 0;
    CHECK_INT(cnncl_list(&cl, list), 0);
    platforms = 2;
    if (CHECK_INT(cnncl_list(&cl, list), 4)) {
        for (int i = 0; i < 4; i++) CHECK_STR(list[i].about.name, order[i]);
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ 0 }), "Radiant");
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .device = 2 }), "Board");
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .device = 3 }), "none");         /* not asked for */
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .type = CNN_OPENCL_CPU }), "Processor");
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .name = "gefast" }), "GeFast");
        CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .name = "vendor", .type = CNN_OPENCL_ACCELERATOR }),
                  "Board");
        CHECK_STR(chosen(list + 2, 2, (cnn_opencl_args){ 0 }), "Board");              /* no GPU here */
        CHECK_STR(chosen(list + 3, 1, (cnn_opencl_args){ 0 }), "none");
        static const char *const wishes[][2] = { { "gpu", "Radiant" }, { "accelerator", "Board" },
            { "cpu", "Processor" }, { "all", "Radiant" }, { "1", "GeFast" }, { "3", "Processor" },
            { "4", "none" }, { "board", "Board" }, { "host", "Processor" } };
        for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
            device_wish = wishes[i][0];
            CHECK_STR(chosen(list, 4, (cnn_opencl_args){ 0 }), wishes[i][1]);
            /* the program's own wish counts more */
            CHECK_STR(chosen(list, 4, (cnn_opencl_args){ .type = CNN_OPENCL_ACCELERATOR }), "Board");
        }
    }
    integrated = 3;                                   /* the first GPU shares the host's memory: so it comes second */
    if (CHECK_INT(cnncl_list(&cl, list), 4)) {
        CHECK_STR(list[0].about.name, "GeFast"), CHECK_STR(list[1].about.name, "Radiant");
        CHECK_STR(list[2].about.name, "Board");
        CHECK_INT(strlen(list[0].about.version), sizeof list[0].about.version - 1);
        CHECK(strncmp(list[0].about.version, "OpenCL 1.2 0", 12) == 0);
    }
    device_wish = NULL;
    free(list);
}

static void choosing_a_device(void)
{
    cnn_opencl_device list[4];
    int n = cnn_opencl_devices(list, 4);
    CHECK(n > 0 && list[0].name[0] && list[0].units > 0 && list[0].memory > 0);
    cnn_backend *dev = cnn_opencl(.type = CNN_OPENCL_ALL, .device = 1000);
    CHECK(cnn_opencl_error(dev) && strstr(cnn_opencl_error(dev), "none as asked for"));
    cnn_graph *g = cnn_new_((cnn_config){ .at = "here", .backend = dev });
    CHECK(cnn_error(g) && strstr(cnn_error(g), "none as asked for"));
    cnn_free(g);
    dev = cnn_opencl(.name = "no device has this name");
    CHECK(cnn_opencl_error(dev) != NULL), cnn_opencl_close(dev);
    char part[8] = { list[0].name[0], list[0].name[1], list[0].name[2], list[0].name[3] };
    dev = cnn_opencl(.name = part, .without = "relu,conv2d,none", .gemm = CNN_OPENCL_OWN, .no_check = 1);
    CHECK_MSG(!cnn_opencl_error(dev), "%s", cnn_opencl_error(dev) ? cnn_opencl_error(dev) : "");
    CHECK_INT(dev->n_kernels, (int)(sizeof cnncl_rows / sizeof *cnncl_rows) - 2);
    CHECK(strstr(cnn_opencl_report(dev), "GEMM"));
    CHECK(!cnn_opencl_tune(dev, "GemmRoutine", 0, NULL, NULL));
    cnn_opencl_close(dev);
    bool gpu = list[0].type == CNN_OPENCL_GPU;
    dev = cnn_opencl(.type = CNN_OPENCL_GPU);
    CHECK(gpu == !cnn_opencl_error(dev)), cnn_opencl_close(dev);
}

/* Run again as another process, since libraries read their environment once. */
static void in_another_environment(const char *environment, const char *part)
{
    char command[1000];
    snprintf(command, sizeof command, "%s '%s' --%s", environment, program, part);
    fflush(stdout);
    CHECK(system(command) == 0);
}
static void no_platform(void)       { in_another_environment("OCL_ICD_VENDORS=/nonexistent", "none"); }
static void a_name_that_is_not(void){ in_another_environment("CNN_OPENCL_DEVICE=nosuchdevice", "none"); }
static void wish_cpu(void)          { in_another_environment("CNN_OPENCL_DEVICE=cpu", "some"); }
static void wish_number(void)       { in_another_environment("CNN_OPENCL_DEVICE=0", "some"); }
static void no_wish(void)           { in_another_environment("env -u CNN_OPENCL_DEVICE", "default"); }

static int child(const char *part)
{
    cnn_backend *dev = cnn_opencl(.gemm = CNN_OPENCL_OWN);
    const char  *error = cnn_opencl_error(dev);
    cnn_opencl_device list[1];
    bool gpu = cnn_opencl_devices(list, 1) > 0 && list[0].type != CNN_OPENCL_CPU;
    bool open = strcmp(part, "--some") == 0 ||
        (strcmp(part, "--default") == 0 && gpu), right = open == !error;
    float loss[2];
    if (error) printf("    %s\n", error);
    cnn_opencl_close(dev);
    /* and the CPU works without a device */
    net n = lenet(NULL);
    right = right && cnn_compile(n.g, n.loss) && train(n, 2, loss);
    cnn_free(n.g);
    return !right;
}

/* ---- All of it, in several ways of working ---- */

static void all_rooms(const char *way, int share_of_cases)
{
    for (int j = 0; j < N_ROOMS; j++)
        if (test_begin("%s: %s", way, rooms[j].name)) {
            nodes_left = 0;
            for (int i = 0; i < (rooms[j].cases + share_of_cases - 1) / share_of_cases &&
                 test__bad < 8; i++) one_case(&rooms[j], i);
            CHECK_INT(nodes_left, 0);
        }
    if (test_begin("%s: LeNet-5", way))        beside_the_cpu(lenet, 20, 1e-4);
    if (test_begin("%s: ResNet", way))         beside_the_cpu(resnet, 20, 1e-3);
    if (share_of_cases == 4 && test_begin("ResNet-20"))   beside_the_cpu(deep_resnet, 20, 1e-3);
    if (share_of_cases == 4 && test_begin("MobileNetV2")) beside_the_cpu(small_mobilenet, 20, 1e-3);
    if (test_begin("%s: every operation", way))
        beside_the_cpu(everything, 10, 1e-3), beside_the_cpu(more, 10, 1e-3);
}

/* PoCL's threads live to the end, and LeakSanitizer's tracer has crashed on them after the last line: our own counters
   tell what leaks. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return 1; }
static void nothing_is_left(void)
{
    CHECK_INT(alloc_live, 0);
    CHECK_INT(cl_live, 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && argv[1][0] == '-') return child(argv[1]);
    program = argv[0];
    test_args(argc, argv);
    if (!share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN, .workspace = 20000))) {
        cnn_backend *dev = cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN);
        if (cnn_opencl_devices(NULL, 0) == 0) printf("    skipped: opencl: %s\n", cnn_opencl_error(dev));
        else if (test_begin("a device opens"))
            CHECK_MSG(false, "%s", cnn_opencl_error(dev) ? cnn_opencl_error(dev) : "not the first time");
        cnn_opencl_close(dev);
        return test_end();
    }
    printf("    device: %s\n", cnn_opencl_report(shared));
    all_rooms("small workspace", 8);
    unshare();

    if (share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_OWN))) {
        all_rooms("copies", 4);
        RUN(chains_in_place);
        RUN(dropout_statistics);
        RUN(dropouts_are_independent);
        RUN(batch_norm_running_statistics);
        RUN(extremes);
        RUN(gradients_that_are_not_finite);
        RUN(same_bits_again);
        RUN(copies_per_step);
        RUN(arguments_are_set_once);
        RUN(pointwise_in_one_launch);
        RUN(many_launches);
        RUN(updates_on_the_device);
        RUN(averages_on_the_device);
        RUN(checkpoints);
        RUN(fit_and_evaluate);
        for (int i = 0; i < shared->n_kernels; i++)
            if (test_begin("left to the CPU: %s", shared->kernels[i].op->name))
                left_to_the_cpu(shared->kernels[i].op);
        for (int i = 0; i < N_NETS; i++)
            if (test_begin("zoo: %s", nets[i].name)) zoo_net(&nets[i]);
        RUN(a_device_that_fails);
        RUN(calls_that_fail);
        RUN(out_of_memory);
        RUN(wrong_label);
        RUN(activations_in_several_buffers);
        RUN(vast_options);
        RUN(many_rows);
        RUN(sums_by_many_groups);
        RUN(program_build_log);
        RUN(every_operation_has_a_kernel);
        RUN(a_wrong_kernel);
        RUN(a_wrong_update);
        RUN(doctor_sees_each_value);
        RUN(values_of_joined_nodes);
        RUN(launches_of_a_step);
        RUN(counted_bytes);
        RUN(nothing_anew_in_resnet50);
        RUN(times_of_kernels);
        RUN(accumulated_on_the_device);
        if (test_begin("no fill of the driver's")) CHECK(!asked_for_fill);
        RUN(a_wrong_clblast);
        unshare();
    }
    RUN(every_tile_of_groups);
    RUN(every_tile_of_items);
    RUN(a_kernel_that_does_not_build);
    RUN(out_of_memory_while_opening);
    RUN(calls_that_fail_while_opening);
    RUN(libraries_that_are_missing);
    RUN(compiled_kernels);
    RUN(tuned_choices_are_kept);
    RUN(the_fastest_is_taken);
    RUN(damaged_choices);
    RUN(tuning_that_fails);
    RUN(order_of_devices);
    RUN(choosing_a_device);
    RUN(no_platform);
    RUN(a_name_that_is_not);
    RUN(wish_cpu);
    RUN(wish_number);
    RUN(no_wish);

    cnncl_blas_api blas;
    if (!cnncl_load_clblast(&blas)) printf("    skipped: CLBlast is not installed\n");
    else if (test_begin("CLBlast") &&
             CHECK(share(cnn_opencl(.type = wanted(), .gemm = CNN_OPENCL_CLBLAST)))) {
        printf("    %s\n", cnn_opencl_report(shared));
        CHECK(cnncl_of(shared)->clblast);
        cnncl_of(shared)->clblast_tiles = 1;
        all_rooms("CLBlast", 20);
        unshare();
    }
    if (cnncl_load_clblast(&blas)) {
        RUN(clblast_fails);
        RUN(wrong_products);
        RUN(a_gpu_of_intel);
    }
    RUN(nothing_is_left);
    return test_end();
}
#endif
