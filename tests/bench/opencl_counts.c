/* opencl_counts.c - every kernel of a training step of the zoo's nets, as a GPU would be given them: nothing
   is computed, so any device with OpenCL will do, PoCL too.
     opencl_counts GPU:UNITS:CACHE [...]      CACHE in bytes; tests/bench/opencl_model.py calls it so
   prints `gpu net batch kernel groups operations bytes cached` for each launch of the second step, and behind
   it `gpu net batch step multiply-adds 0 0 0`: those of the layers' forward and backward passes by the
   definition of a convolution. */
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
#include "opencl_counts.h"

static cnn_backend *device;
static int          batch;
static cnn_config on_device(cnn_config c) { return c.backend = device, c.max_batch = batch, c; }
#undef cnn_new
#define cnn_new(...) cnn_new_(on_device((cnn_config){ .at = CNN_HERE, __VA_ARGS__ }))
#define main zoo_main
int zoo_main(int, char **);
#include "../../examples/zoo.c"
#undef main

/* ResNet-18 for pictures of 32 x 32: a 3x3 stem, and no pool behind it. */
static T *small_block(T *x, int channels, int stride)
{
    T *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .stride = stride, .no_bias = 1)));
    h = cnn_batch_norm(cnn_conv2d(h, channels, 3, .pad = 1, .no_bias = 1));
    if (stride > 1) x = cnn_batch_norm(cnn_conv2d(x, channels, 1, .stride = stride, .no_bias = 1));
    return cnn_relu(cnn_add(h, x));
}
static T *small_resnet18(T *x)
{
    T *h = cnn_relu(cnn_batch_norm(cnn_conv2d(x, 64, 3, .pad = 1, .no_bias = 1)));
    for (int i = 0; i < 8; i++) h = small_block(h, 64 << i / 2, i && i % 2 == 0 ? 2 : 1);
    return cnn_dense(cnn_global_avg_pool(h), 10);
}

static const char *gpu, *net_name;
static void print(const counted *c)
{
    printf("%s %s %d %s %.0f %.0f %.0f %.0f\n", gpu, net_name, batch, c->kernel, c->groups, c->done, c->bytes,
           c->cached);
}

/* Multiply-adds of a step by the definition: forward, and backward to what wants a gradient. */
static double by_definition(const cnn_graph *g)
{
    const cnn_tensor *y;
    double sum = 0;
    for (int i = 0; (y = cnn_node(g, i)) != NULL; i++)
        if (y->op == &cnn_op_conv2d || y->op == &cnn_op_dense)
            sum += (double)cnn_count(y) * (double)cnn_count(y->in[1]) / y->in[1]->shape.n *
                   (1 + y->in[0]->needs_grad + y->in[1]->needs_grad);
    return sum;
}

static bool run(const struct net *n, cnncl *d, int gpus, char **gpu_of)
{
    T *x, *y, *t, *loss;
    cnn_graph *g = build(n, 0, &x, &y, &t, &loss);
    bool good = cnn_compile(g, loss);
    net_name = n->name;
    for (int i = 0; i < gpus && good; i++) {
        const char *numbers = strchr(gpu_of[i], ':');
        char        name[40];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(gpu_of[i], ":"), gpu_of[i]);
        gpu = name, d->units = numbers ? atoi(numbers + 1) : 1, d->clblast_tiles = 2 * d->units;
        const char *cache = numbers ? strchr(numbers + 1, ':') : NULL;
        d->workspace = cache ? (size_t)(atof(cache + 1) * 0.75) : 0;
        for (int step = 0; step < 2; step++) {
            dry_each = step ? print : NULL;
            cnn_map_write(x), cnn_map_write(t);
            cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.01f, .momentum = 0.9f);
        }
        dry_each = NULL;
        printf("%s %s %d step %.0f 0 0 0\n", gpu, n->name, batch, by_definition(g));
    }
    good = good && !cnn_error(g);
    if (!good) fprintf(stderr, "# %s: %s\n", n->name, cnn_error(g));
    return cnn_free(g), good;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int batch; } which[] = { { "lenet5", 64 }, { "resnet20", 128 },
        { "googlenet", 32 }, { "resnet50", 32 }, { "mobilenet_v2", 32 }, { "vgg16", 32 } };
    static const struct net own = { "resnet18/32", "2015", 3, 32, 32, small_resnet18, NULL };
    device = cnn_opencl(.type = getenv("CNN_OPENCL_DEVICE") ? 0 : CNN_OPENCL_ALL, .gemm = CNN_OPENCL_OWN,
                        .no_check = 1);
    if (cnn_opencl_error(device))
        return fprintf(stderr, "# %s\n", cnn_opencl_error(device)), cnn_opencl_close(device), 0;
    cnncl *d = cnncl_of(device);
    void (*close)(cnn_backend *) = device->close;
    const cnncl_api keep = dry_begin(d);
    device->close = NULL, device->max_bytes = 0, d->has_local = true;
    batch = 32;
    bool good = run(&own, d, argc - 1, argv + 1);
    for (size_t k = 0; k < sizeof which / sizeof *which; k++)
        for (int i = 0; i < N_NETS; i++)
            if (strcmp(nets[i].name, which[k].name) == 0)
                batch = which[k].batch, good = run(&nets[i], d, argc - 1, argv + 1) && good;
    if (dry_unknown) good = false, fprintf(stderr, "# %s is not counted in opencl_counts.h\n", dry_unknown);
    dry_end(d, &keep), device->close = close;
    return cnn_opencl_close(device), !good;
}
#endif
