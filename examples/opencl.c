/* opencl.c - LeNet-5 trains on a GPU, with the whole training step on the device.

     cc -std=c99 -O2 examples/opencl.c -o opencl -lm
     ./opencl               on the first GPU, then accelerator, else on the CPU without OpenCL
     ./opencl list          what there is
     ./opencl cpu           a device by its kind, number or name

   Compiling needs OpenCL's headers (Debian: opencl-c-headers); the libraries are looked for when the program
   runs, so it starts on a machine without them, says so, and trains on the CPU. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#define CNN_OPENCL_IMPLEMENTATION
#include "../cnn.h"
#include "../cnn_opencl.h"
#include <time.h>

/* The file examples/data/NAME, seen from the root of the repository or from wherever this source file is. */
static cnn_dataset load_sample(const char *set)
{
    char path[2][600];
    cnn_dataset d = { 0 };
    for (int from_here = 0; from_here < 2; from_here++) {
        const char *end = from_here ? strrchr(__FILE__, '/') : NULL;
        int length = end ? (int)(end - __FILE__) : 0;
        for (int i = 0; i < 2; i++)
            snprintf(path[i], sizeof path[i], "%.*s%s/%s-%s-ubyte", length, __FILE__,
                     from_here ? (end ? "/data" : "data") : "examples/data", set,
                     i ? "labels-idx1" : "images-idx3");
        d = cnn_load_idx(path[0], path[1]);
        if (d.count) break;
    }
    return d;
}

/* Seconds. C99 alone knows only the processor's time. */
static double now(void)
{
#ifdef TIME_UTC
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static int list_devices(void)
{
    cnn_opencl_device device[64];
    int n = cnn_opencl_devices(device, 64);
    if (!n) printf("OpenCL finds no device on this machine\n");
    for (int i = 0; i < n; i++)
        printf("%d: %s, %s, %s, %d units, %.1f GiB%s\n", i, device[i].name, device[i].version,
               device[i].platform, device[i].units, (double)device[i].memory / (1 << 30),
               device[i].type == CNN_OPENCL_CPU ? ", a CPU" : "");
    return 0;
}

/* "cpu", "gpu", "1" or a part of a name: as CNN_OPENCL_DEVICE, which is asked where nothing is said. */
static cnn_backend *open_device(const char *wish)
{
    if (!wish) return cnn_opencl();
    if (strcmp(wish, "cpu") == 0) return cnn_opencl(.type = CNN_OPENCL_CPU);
    if (strcmp(wish, "gpu") == 0) return cnn_opencl(.type = CNN_OPENCL_GPU);
    if (*wish >= '0' && *wish <= '9') return cnn_opencl(.type = CNN_OPENCL_ALL, .device = atoi(wish));
    return cnn_opencl(.name = wish);
}

int main(int argc, char **argv)
{
    if (argc > 2) return fprintf(stderr, "usage: %s [list or DEVICE]\n", argv[0]), 2;
    if (argc > 1 && strcmp(argv[1], "list") == 0) return list_devices();
    cnn_dataset train = load_sample("train"), test = load_sample("test");
    if (!train.count) return fprintf(stderr, "%s\n", train.error), 1;
    if (!test.count)  return fprintf(stderr, "%s\n", test.error), 1;

    cnn_backend *device = open_device(argc > 1 ? argv[1] : NULL);
    if (cnn_opencl_error(device)) {
        printf("%s; training on the CPU\n", cnn_opencl_error(device));
        cnn_opencl_close(device), device = NULL;
    } else
        printf("device: %s\n", cnn_opencl_report(device));

    cnn_graph  *g = cnn_new(.max_batch = 32, .seed = 1, .backend = device);   /* the one changed line */
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *h = x;

    h = cnn_scale(h, 1.275f, -0.1f);                              /* ink 1.175, paper -0.1, as in the paper */
    h = cnn_tanh(cnn_conv2d(h,  6, 5, .pad = 2, .name = "c1"));   /* C1  (N, 6,28,28)      156 weights      */
    h = cnn_avg_pool(h, 2);                                       /* S2  (N, 6,14,14)                       */
    h = cnn_tanh(cnn_conv2d(h, 16, 5, .name = "c3"));             /* C3  (N,16,10,10)    2,416              */
    h = cnn_avg_pool(h, 2);                                       /* S4  (N,16, 5, 5)                       */
    h = cnn_tanh(cnn_dense(h, 120, .name = "c5"));                /* C5  (N,120)        48,120              */
    h = cnn_tanh(cnn_dense(h,  84, .name = "f6"));                /* F6  (N, 84)        10,164              */
    cnn_tensor *logits = cnn_dense(h, 10, .name = "output");      /*     (N, 10)           850              */
    cnn_tensor *loss   = cnn_softmax_cross_entropy(logits, t);    /*                    61,706 in all       */

    if (cnn_compile(g, loss)) cnn_summary(g, stdout);                   /* says where each node runs */
    if (device) printf("operations left to the CPU: %ld\n", cnn_copies(g).host_nodes);
    enum { EPOCHS = 5 };
    for (int epoch = 1; epoch <= EPOCHS && !cnn_error(g); epoch++) {
        cnn_traffic before = { 0, 0, 0 };
        double      sum = 0, start = now();
        int         n, steps = -1;
        cnn_shuffle(&train, (uint64_t)epoch);
        for (int first = 0; (n = cnn_feed(x, t, &train, first)) > 0; first += n) {
            sum += (double)cnn_forward(loss, CNN_TRAIN) * n;
            cnn_backward(loss);
            cnn_step(g, .lr = 0.05f / (float)epoch, .momentum = 0.9f, .nesterov = 1);
            if (++steps == 0) before = cnn_copies(g);       /* the first step also takes the parameters up */
        }
        double      images = train.count / (now() - start);
        cnn_traffic after = cnn_copies(g);
        printf("epoch %d: loss %.4f, test accuracy %.2f %%, %.0f images/s", epoch, sum / train.count,
               100 * cnn_evaluate(loss, logits, &test).accuracy, images);
        if (device)
            printf(", copies per step %.2f up, %.2f down", (double)(after.uploads - before.uploads) / steps,
                   (double)(after.downloads - before.downloads) / steps);
        printf("\n"), fflush(stdout);
    }
    bool ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));
    if (fflush(stdout) || ferror(stdout)) ok = false, fprintf(stderr, "stdout: cannot be written\n");
    cnn_dataset_free(&train), cnn_dataset_free(&test), cnn_free(g);
    return ok ? 0 : 1;
}
