/* bench_opencl.c - GEMM, training and prediction on an OpenCL device; see bench.h. The number behind the name
   is that of the device's compute units.
     cc -O2 -std=c99 -I. tests/bench/bench_opencl.c -lm && ./a.out
   CNN_OPENCL_DEVICE chooses the device. Each kind of layer tells its GFLOP/s in a whole training step (the products
   that it needs, however they are made: Winograd makes fewer) and its share of the device's peak: what a loop of
   multiply-adds in registers reaches, or BENCH_PEAK, GFLOP/s as the maker gives them. On a CPU device (PoCL) the
   numbers say nothing: it proves that the kernels are right, not that they are fast. */
#define _POSIX_C_SOURCE 200112L
#if defined(__has_include)
#if __has_include(<CL/cl.h>) || __has_include(<OpenCL/cl.h>)
#define HAVE_OPENCL_HEADERS
#endif
#endif
#ifndef HAVE_OPENCL_HEADERS
#include <stdio.h>
int main(void) { return fputs("# opencl: its headers are not installed\n", stderr), 0; }
#else

#define CNN_IMPLEMENTATION
#define CNN_OPENCL_IMPLEMENTATION
#include "cnn.h"
#include "cnn_opencl.h"
#include "bench.h"

/* A case runs so many steps, or products, and waits for the last: a device is kept busy from one to the
   next. */
enum { TIMES = 8 };
static int units;

/* ---- Nets ---- */

typedef struct {
    cnn_graph  *g;
    cnn_tensor *x, *t, *logits, *loss;
    float      *images;
    int        *labels, batch;
    size_t      sample;
} net;

static cnn_tensor *block(cnn_tensor *x, int channels, int stride)
{
    cnn_tensor *h =
        cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .stride = stride, .no_bias = 1)));
    h = cnn_batch_norm(cnn_conv2d(h, channels, 3, .pad = 1, .no_bias = 1));
    if (stride > 1) x = cnn_batch_norm(cnn_conv2d(x, channels, 1, .stride = stride, .no_bias = 1));
    return cnn_relu(cnn_add(h, x));
}
static cnn_tensor *lenet(cnn_tensor *x)
{
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(x, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    return cnn_dense(cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84)), 10);
}
/* For 32 x 32 images: a 3x3 stem and no pool after it. */
static cnn_tensor *resnet18(cnn_tensor *x)
{
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, 64, 3, .pad = 1, .no_bias = 1)));
    for (int i = 0; i < 8; i++) h = block(h, 64 << i / 2, i && i % 2 == 0 ? 2 : 1);
    return cnn_dense(cnn_global_avg_pool(h), 10);
}

/* One kind of layer, four times over: forward, and backward to data and weights. */
#define LAYERS(name, ...)                                                                                    \
    static cnn_tensor *name(cnn_tensor *x)                                                                   \
    {                                                                                                        \
        for (int i = 0; i < 4; i++) x = __VA_ARGS__;                                                         \
        return cnn_dense(cnn_global_avg_pool(x), 10);                                                        \
    }
LAYERS(conv3x3, cnn_conv2d(x, x->shape.c, 3, .pad = 1))
LAYERS(conv5x5, cnn_conv2d(x, x->shape.c, 5, .pad = 2))
LAYERS(conv1x1, cnn_conv2d(x, x->shape.c, 1))
LAYERS(strided, cnn_conv_transpose2d(cnn_conv2d(x, x->shape.c, 3, .stride = 2, .pad = 1), x->shape.c, 2, .stride = 2))
LAYERS(depthwise, cnn_conv2d(x, x->shape.c, 3, .pad = 1, .groups = x->shape.c))
LAYERS(products, cnn_dense(x, 2048))

static net make(cnn_tensor *(*build)(cnn_tensor *), int batch, int c, int side, cnn_backend *dev)
{
    net n = { cnn_new(.max_batch = batch, .seed = 1, .backend = dev), NULL, NULL, NULL, NULL, NULL, NULL,
              batch, (size_t)(c * side * side) };
    n.x = cnn_input(n.g, c, side, side), n.t = cnn_labels(n.g);
    n.logits = build(n.x), n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    n.images = malloc((size_t)batch * n.sample * sizeof *n.images);
    n.labels = malloc((size_t)batch * sizeof *n.labels);
    for (size_t i = 0; n.images && i < (size_t)batch * n.sample; i++)
        n.images[i] = (float)(i % 13) / 13 - 0.5f;
    for (int i = 0; n.labels && i < batch; i++) n.labels[i] = i % 10;
    cnn_compile(n.g, n.loss);
    return n;
}
static void train(void *user)
{
    const net *n = user;
    for (int i = 0; i < TIMES; i++) {
        cnn_set(n->x, n->images, (size_t)n->batch * n->sample);
        cnn_set_labels(n->t, n->labels, (size_t)n->batch);
        cnn_forward(n->loss, CNN_TRAIN), cnn_backward(n->loss), cnn_step(n->g, .lr = 1e-4f, .momentum = 0.9f);
    }
    cnn_map_read(cnn_find(n->g, "dense1.bias"));            /* waits for the last update */
}
static void predict(void *user)
{
    const net *n = user;
    for (int i = 0; i < TIMES; i++) {
        cnn_set(n->x, n->images, (size_t)n->batch * n->sample);
        cnn_forward(n->logits, CNN_EVAL);
    }
    cnn_map_read(n->logits);
}

/* GFLOP of a training step: a product forward, and one back for each operand that wants its gradient. */
static double step_gflop(const cnn_graph *g)
{
    const cnn_tensor *y;
    double            sum = 0;
    for (int i = 0; (y = cnn_node(g, i)) != NULL; i++)
        if (y->op && y->op->macs)
            sum += 2e-9 * y->op->macs(y) * (1 + y->in[0]->needs_grad + y->in[1]->needs_grad);
    return sum;
}

/* ---- The peak: 16 float4 of each item, multiplied and added to without end ---- */

enum { PEAK_ROUNDS = 512, PEAK_FLOPS = 16 * 4 * 2 };
typedef struct { cnncl *d; cl_kernel kernel; cl_mem to; size_t items; } peak;
static void multiply_add(void *user)
{
    const peak  *p = user;
    const size_t local = CNNCL_LOCAL;
    for (int i = 0; i < TIMES; i++)
        p->d->cl.clEnqueueNDRangeKernel(p->d->queue, p->kernel, 1, NULL, &p->items, &local, 0, NULL, NULL);
    p->d->cl.clFinish(p->d->queue);
}
/* GFLOP/s; 0: it could not be measured. */
static double measured_peak(cnncl *d)
{
    const char *source =
        "#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)\n"
        "#define BEGIN(i) float4 s##i = (float4)(i, a, b, get_global_id(0));\n"
        "#define STEP(i) s##i = mad(s##i, a, b);\n"
        "#define ADD(i) sum += s##i;\n"
        "__kernel void peak(__global float *to, float a, float b, int rounds) {\n"
        "    float4 sum = 0.0f; EACH(BEGIN)\n"
        "    for (int r = 0; r < rounds; r++) { EACH(STEP) }\n"
        "    EACH(ADD) to[get_global_id(0)] = sum.x + sum.y + sum.z + sum.w;\n}\n";
    const cl_float a = 0.5f, b = 0.25f;
    const cl_int   rounds = PEAK_ROUNDS;
    peak           p = { d, NULL, NULL, (size_t)units * 4096 };
    cl_program     program = d->cl.clCreateProgramWithSource(d->context, 1, &source, NULL, NULL);
    double         most = 0;
    if (!program || d->cl.clBuildProgram(program, 1, &d->device, "", NULL, NULL) != CL_SUCCESS) return 0;
    p.kernel = d->cl.clCreateKernel(program, "peak", NULL);
    p.to = d->cl.clCreateBuffer(d->context, CL_MEM_READ_WRITE, p.items * sizeof(float), NULL, NULL);
    if (!p.kernel || !p.to) return 0;
    d->cl.clSetKernelArg(p.kernel, 0, sizeof p.to, &p.to), d->cl.clSetKernelArg(p.kernel, 1, sizeof a, &a);
    d->cl.clSetKernelArg(p.kernel, 2, sizeof b, &b), d->cl.clSetKernelArg(p.kernel, 3, sizeof rounds, &rounds);
    for (int i = 0; i < 8; i++) {
        const double start = bench_now(), gflop = 1e-9 * TIMES * (double)p.items * PEAK_ROUNDS * PEAK_FLOPS;
        multiply_add(&p);
        const double speed = gflop / (bench_now() - start);
        most = i && speed > most ? speed : most;                       /* the first warms up */
    }
    d->cl.clReleaseMemObject(p.to), d->cl.clReleaseKernel(p.kernel), d->cl.clReleaseProgram(program);
    return most;
}

/* ---- Matrix products ---- */

typedef struct { cnncl *d; cnn_place p; int m, n, k; bool own; float *host; } product;
static void multiply(void *user)
{
    const product *p = user;
    cnn_place a = p->p, b = cnncl_place_at(a, (size_t)p->m * (size_t)p->k);
    cnn_place c = cnncl_place_at(b, (size_t)p->k * (size_t)p->n);
    const cnncl_product t = { .c = c, .ldc = p->n, .a = a, .a_row = p->k, .a_col = 1, .b = b, .b_row = p->n,
                              .b_col = 1, .m = p->m, .n = p->n, .k = p->k };
    for (int i = 0; i < TIMES; i++)
        if (p->own) cnncl_own_gemm(p->d, t);
        else        cnncl_gemm(p->d, t);
    p->d->base.download(&p->d->base, c.buffer, c.at * sizeof(float), p->host, sizeof(float));
}

int main(void)
{
    cnn_opencl_device list[64];
    cnn_backend *dev = cnn_opencl(.type = getenv("CNN_OPENCL_DEVICE") ? 0 : CNN_OPENCL_ALL);
    int devices = cnn_opencl_devices(list, 64);
    if (cnn_opencl_error(dev))
        return fprintf(stderr, "# %s\n", cnn_opencl_error(dev)), cnn_opencl_close(dev), 0;
    for (int i = 0; i < devices && i < 64; i++)
        if (strcmp(list[i].name, dev->name) == 0) units = list[i].units;
    fprintf(stderr, "# %s\n", cnn_opencl_report(dev));

    static const int sizes[][3] = { { 512, 512, 512 }, { 1024, 1024, 1024 }, { 4096, 4096, 4096 },
                                    { 64, 65536, 576 }, { 64, 576, 65536 }, { 16, 150, 6400 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float   one;
        product p = { cnncl_of(dev), { NULL, 0 }, sizes[i][0], sizes[i][1], sizes[i][2], false, &one };
        size_t  m = (size_t)p.m, n = (size_t)p.n, k = (size_t)p.k,
            bytes = (m * k + k * n + m * n) * sizeof(float);
        if (list[0].type == CNN_OPENCL_CPU && m * n * k > (size_t)1 << 28) continue;
        p.p.buffer = dev->alloc(dev, bytes);
        if (!p.p.buffer || !dev->clear(dev, p.p.buffer, 0, bytes)) break;
        for (int own = 0; own < 2; own++) {
            char name[64];
            p.own = own;
            snprintf(name, sizeof name, "opencl_gemm_%s_%dx%dx%d", own ? "own" : "chosen", p.m, p.n, p.k);
            bench_case(name, units, TIMES * 2e-9 * (double)m * (double)n * (double)k, "GFLOP/s", multiply,
                       &p);
        }
        dev->release(dev, p.p.buffer);
    }

    static const struct { const char *name; cnn_tensor *(*build)(cnn_tensor *); int batch, c, side; } layers[] = {
        { "conv3x3", conv3x3, 32, 64, 56 },   { "conv3x3_deep", conv3x3, 32, 256, 14 },
        { "conv5x5", conv5x5, 32, 64, 28 },   { "conv1x1", conv1x1, 32, 256, 28 },
        { "strided", strided, 32, 64, 56 },   { "depthwise", depthwise, 32, 128, 56 },
        { "dense", products, 128, 2048, 1 } };
    static const struct { const char *name; cnn_tensor *(*build)(cnn_tensor *); int batch, c, side;
        } nets[] = {
        { "lenet", lenet, 64, 1, 28 }, { "lenet", lenet, 128, 1, 28 }, { "resnet18", resnet18, 128, 3, 32 } };
    bool failed = false;
    void (*close)(cnn_backend *) = dev->close;
    dev->close = NULL;                                      /* one device for several graphs in turn */
    const double most = getenv("BENCH_PEAK") ? atof(getenv("BENCH_PEAK")) : measured_peak(cnncl_of(dev));
    printf("cnn_opencl_peak %d %.4g GFLOP/s\n", units, most);
    for (size_t i = 0; i < sizeof layers / sizeof *layers && !failed; i++) {
        char         name[64];
        const int    cpu = list[0].type == CNN_OPENCL_CPU, batch = cpu ? 1 : layers[i].batch;
        net          n = make(layers[i].build, batch, cpu ? 16 : layers[i].c, cpu && layers[i].side > 1 ? 14 : layers[i].side,
                              dev);
        const double flops = TIMES * step_gflop(n.g);
        snprintf(name, sizeof name, "opencl_%s", layers[i].name);
        bench_case(name, units, flops, "GFLOP/s", train, &n);
        snprintf(name, sizeof name, "opencl_%s_of_peak", layers[i].name);
        if (most > 0) bench_case(name, units, 100 * flops / most, "%", train, &n);
        if (cnn_error(n.g)) failed = true, fprintf(stderr, "# %s\n", cnn_error(n.g));
        cnn_free(n.g), free(n.images), free(n.labels);
    }
    for (size_t i = 0; i < sizeof nets / sizeof *nets && !failed; i++) {
        char name[64];
        if (list[0].type == CNN_OPENCL_CPU && nets[i].side > 28) continue;
        net n = make(nets[i].build, nets[i].batch, nets[i].c, nets[i].side, dev);
        snprintf(name, sizeof name, "opencl_%s_train_b%d", nets[i].name, nets[i].batch);
        bench_case(name, units, TIMES * nets[i].batch, "images/s", train, &n);
        snprintf(name, sizeof name, "opencl_%s_predict_b%d", nets[i].name, nets[i].batch);
        bench_case(name, units, TIMES * nets[i].batch, "images/s", predict, &n);
        if (cnn_error(n.g)) failed = true, fprintf(stderr, "# %s\n", cnn_error(n.g));
        cnn_free(n.g), free(n.images), free(n.labels);
    }
    dev->close = close;
    cnn_opencl_close(dev);
    return failed;
}
#endif
