/* The zoo: the networks of the lectures, each one C function, in the order of their history.
       cc -std=c99 -O2 examples/zoo.c -o zoo -lm
       ./zoo                     a table of all: parameters, multiply-adds, bytes
       ./zoo resnet18            build one, print its summary, run it once on noise
       ./zoo resnet18 --train    one training step on noise
   "Multiply-adds" are those of convolutions and matrix products for one image. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"
#include <stdarg.h>
#include <string.h>
#include <time.h>

typedef cnn_tensor T;

/* The name of a layer, which cnn.h copies. VGG, GoogLeNet, ResNet and MobileNetV2 name theirs as torchvision
   does: cnn_load_weights takes its state_dicts. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static const char *path_in(char name[64], const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, 64, format, ap);
    va_end(ap);
    return name;
}
#define PATH(...) path_in((char[64]){ 0 }, __VA_ARGS__)

/* ---- 1986-1998: perceptrons and LeNet; and two nets of later tutorials for the same digits ---- */

static T *mlp(T *x)                          /* 784-16-16-10, the network of many a first lecture */
{
    T *h = cnn_sigmoid(cnn_dense(x, 16));
    h = cnn_sigmoid(cnn_dense(h, 16));
    return cnn_dense(h, 10);
}

static T *lenet5(T *x)                       /* LeCun, Bottou, Bengio, Haffner 1998; x (N,1,28,28) */
{
    T *h = cnn_tanh(cnn_conv2d(x, 6, 5, .pad = 2));
    h = cnn_avg_pool(h, 2);
    h = cnn_tanh(cnn_conv2d(h, 16, 5));
    h = cnn_avg_pool(h, 2);
    h = cnn_tanh(cnn_dense(h, 120));
    h = cnn_tanh(cnn_dense(h, 84));
    return cnn_dense(h, 10);
}

static T *codelab(T *x)                      /* the MNIST net of the "TensorFlow without a PhD" codelab */
{
    T *h = cnn_relu(cnn_conv2d(x, 12, 3, .pad = 1));
    h = cnn_relu(cnn_conv2d(h, 24, 6, .stride = 2, .pad = 2));
    h = cnn_relu(cnn_conv2d(h, 32, 6, .stride = 2, .pad = 2));
    h = cnn_relu(cnn_dense(h, 200));
    return cnn_dense(h, 10);
}

static T *keras_mnist(T *x)                  /* the convnet of the Keras tutorial (Chollet) */
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 32, 3)), 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 64, 3)), 2);
    return cnn_dense(cnn_dropout(cnn_flatten(h), 0.5f), 10);
}

/* ---- 2012: AlexNet ---- */

static T *alexnet(T *x)                      /* Krizhevsky, Sutskever, Hinton 2012, in one tower */
{
    T *h = cnn_max_pool(cnn_relu(cnn_conv2d(x, 96, 11, .stride = 4)), 3, .stride = 2);
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 256, 5, .pad = 2)), 3, .stride = 2);
    h = cnn_relu(cnn_conv2d(h, 384, 3, .pad = 1));
    h = cnn_relu(cnn_conv2d(h, 384, 3, .pad = 1));
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 256, 3, .pad = 1)), 3, .stride = 2);
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096)), 0.5f);
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096)), 0.5f);
    return cnn_dense(h, 1000);
}

/* As published: two groups, one for each graphics card, and responses normalised. The paper's alpha, 1e-4,
   multiplies the plain sum; cnn_lrn, as PyTorch, divides it by the size. */
static T *alexnet_lrn(T *x)
{
    T *h = cnn_lrn(cnn_relu(cnn_conv2d(x, 96, 11, .stride = 4)), 5, .alpha = 5e-4f, .k = 2);
    h = cnn_max_pool(h, 3, .stride = 2);
    h = cnn_lrn(cnn_relu(cnn_conv2d(h, 256, 5, .pad = 2, .groups = 2)), 5, .alpha = 5e-4f, .k = 2);
    h = cnn_max_pool(h, 3, .stride = 2);
    h = cnn_relu(cnn_conv2d(h, 384, 3, .pad = 1));
    h = cnn_relu(cnn_conv2d(h, 384, 3, .pad = 1, .groups = 2));
    h = cnn_max_pool(cnn_relu(cnn_conv2d(h, 256, 3, .pad = 1, .groups = 2)), 3, .stride = 2);
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096)), 0.5f);
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096)), 0.5f);
    return cnn_dense(h, 1000);
}

/* ---- 2014: VGG and GoogLeNet ---- */

static T *vgg(T *h, const int *convs)        /* Simonyan, Zisserman 2014: five stages of 3x3 convolutions */
{
    static const int channels[5] = { 64, 128, 256, 512, 512 };
    int at = 0;                              /* torchvision's number, which relu and pooling have too */
    for (int s = 0; s < 5; s++) {
        for (int i = 0; i < convs[s]; i++, at += 2)
            h = cnn_relu(cnn_conv2d(h, channels[s], 3, .pad = 1, .name = PATH("features.%d", at)));
        h = cnn_max_pool(h, 2), at++;
    }
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096, .name = "classifier.0")), 0.5f);
    h = cnn_dropout(cnn_relu(cnn_dense(h, 4096, .name = "classifier.3")), 0.5f);
    return cnn_dense(h, 1000, .name = "classifier.6");
}
static T *vgg16(T *x) { return vgg(x, (const int[]){ 2, 2, 3, 3, 3 }); }
static T *vgg19(T *x) { return vgg(x, (const int[]){ 2, 2, 4, 4, 4 }); }

/* Szegedy et al. 2014, as torchvision builds it: with batch norm, and 3x3 where the paper has 5x5. */
static T *basic_conv(T *x, int channels, int kernel, int stride, const char *name)
{
    x = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .no_bias = 1,
                   .name = PATH("%s.conv", name));
    return cnn_relu(cnn_batch_norm(x, .eps = 1e-3f, .name = PATH("%s.bn", name)));
}
static T *inception(T *x, const char *name, int n1, int r3, int n3, int r5, int n5, int np)
{
    T *a = basic_conv(x, n1, 1, 1, PATH("%s.branch1", name));
    T *b = basic_conv(x, r3, 1, 1, PATH("%s.branch2.0", name));
    T *c = basic_conv(x, r5, 1, 1, PATH("%s.branch3.0", name));
    T *d = cnn_max_pool(x, 3, .stride = 1, .pad = 1, .ceil_mode = 1);
    b = basic_conv(b, n3, 3, 1, PATH("%s.branch2.1", name));
    c = basic_conv(c, n5, 3, 1, PATH("%s.branch3.1", name));
    d = basic_conv(d, np, 1, 1, PATH("%s.branch4.1", name));
    return cnn_concat(a, b, c, d);
}
/* Two small classifiers on the way, so that gradients reach the early layers by a short path. */
static T *auxiliary(T *x, const char *name)
{
    T *h = cnn_avg_pool(x, 5, .stride = 3);                                          /* to 4x4 */
    h = basic_conv(h, 128, 1, 1, PATH("%s.conv", name));
    h = cnn_dropout(cnn_relu(cnn_dense(h, 1024, .name = PATH("%s.fc1", name))), 0.7f);
    return cnn_dense(h, 1000, .name = PATH("%s.fc2", name));
}
static T *googlenet_heads(T *x, T **aux)     /* aux: the logits of the two, or NULL */
{
    T *h = cnn_max_pool(basic_conv(x, 64, 7, 2, "conv1"), 3, .stride = 2, .ceil_mode = 1);
    h = basic_conv(basic_conv(h, 64, 1, 1, "conv2"), 192, 3, 1, "conv3");
    h = cnn_max_pool(h, 3, .stride = 2, .ceil_mode = 1);
    h = inception(h, "inception3a",  64,  96, 128, 16,  32,  32);
    h = inception(h, "inception3b", 128, 128, 192, 32,  96,  64);
    h = cnn_max_pool(h, 3, .stride = 2, .ceil_mode = 1);
    h = inception(h, "inception4a", 192,  96, 208, 16,  48,  64);
    if (aux) aux[0] = auxiliary(h, "aux1");
    h = inception(h, "inception4b", 160, 112, 224, 24,  64,  64);
    h = inception(h, "inception4c", 128, 128, 256, 24,  64,  64);
    h = inception(h, "inception4d", 112, 144, 288, 32,  64,  64);
    if (aux) aux[1] = auxiliary(h, "aux2");
    h = inception(h, "inception4e", 256, 160, 320, 32, 128, 128);
    h = cnn_max_pool(h, 2, .stride = 2, .ceil_mode = 1);
    h = inception(h, "inception5a", 256, 160, 320, 32, 128, 128);
    h = inception(h, "inception5b", 384, 192, 384, 48, 128, 128);
    return cnn_dense(cnn_dropout(cnn_global_avg_pool(h), 0.2f), 1000, .name = "fc");
}
static T *googlenet(T *x) { return googlenet_heads(x, NULL); }

/* ---- 2015: U-Net (Ronneberger, Fischer, Brox 2015), a class for each pixel ---- */

static T *two_convs(T *x, int channels)      /* without padding: each takes a pixel off every side */
{
    return cnn_relu(cnn_conv2d(cnn_relu(cnn_conv2d(x, channels, 3)), channels, 3));
}
static T *crop(T *x, int h, int w)           /* the middle */
{
    int top = (x->shape.h - h) / 2, left = (x->shape.w - w) / 2;
    return cnn_slice(cnn_slice(x, CNN_H, top, top + h), CNN_W, left, left + w);
}
static T *unet(T *x)                         /* x (N,1,572,572), y (N,2,388,388) */
{
    T *down[4], *h = x;
    for (int i = 0; i < 4; i++) h = cnn_max_pool(down[i] = two_convs(h, 64 << i), 2);
    h = two_convs(h, 1024);
    for (int i = 3; i >= 0; i--) {           /* up again; what was seen on the way down lends the detail */
        h = cnn_conv_transpose2d(h, 64 << i, 2, .stride = 2);
        h = two_convs(cnn_concat(crop(down[i], h->shape.h, h->shape.w), h), 64 << i);
    }
    return cnn_conv2d(h, 2, 1);
}

/* ---- 2015: residual networks (He, Zhang, Ren, Sun 2015) ---- */

static T *part(T *x, int channels, int kernel, int stride, const char *block, int i)
{
    x = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .no_bias = 1,
                   .name = PATH("%sconv%d", block, i));
    return cnn_batch_norm(x, .name = PATH("%sbn%d", block, i));
}
static T *shortcut(T *x, int channels, int stride, const char *block)
{
    if (stride == 1 && x->shape.c == channels) return x;
    x = cnn_conv2d(x, channels, 1, .stride = stride, .no_bias = 1, .name = PATH("%sdownsample.0", block));
    return cnn_batch_norm(x, .name = PATH("%sdownsample.1", block));
}
static T *basic_block(T *x, int channels, int stride, const char *name)
{
    T *h = part(cnn_relu(part(x, channels, 3, stride, name, 1)), channels, 3, 1, name, 2);
    return cnn_relu(cnn_add(h, shortcut(x, channels, stride, name)));
}
static T *bottleneck(T *x, int channels, int stride, const char *name)
{                                            /* stride in the 3x3, as torchvision does */
    T *h = cnn_relu(part(cnn_relu(part(x, channels, 1, 1, name, 1)), channels, 3, stride, name, 2));
    return cnn_relu(cnn_add(part(h, 4 * channels, 1, 1, name, 3), shortcut(x, 4 * channels, stride, name)));
}
static T *resnet(T *x, T *(*block)(T *, int, int, const char *), const int *blocks)
{
    T *h = cnn_max_pool(cnn_relu(part(x, 64, 7, 2, "", 1)), 3, .stride = 2, .pad = 1);
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < blocks[s]; i++)
            h = block(h, 64 << s, s > 0 && i == 0 ? 2 : 1, PATH("layer%d.%d.", s + 1, i));
    return cnn_dense(cnn_global_avg_pool(h), 1000, .name = "fc");
}
static T *resnet18 (T *x) { return resnet(x, basic_block, (const int[]){ 2, 2,  2, 2 }); }
static T *resnet34 (T *x) { return resnet(x, basic_block, (const int[]){ 3, 4,  6, 3 }); }
static T *resnet50 (T *x) { return resnet(x, bottleneck,  (const int[]){ 3, 4,  6, 3 }); }
static T *resnet101(T *x) { return resnet(x, bottleneck,  (const int[]){ 3, 4, 23, 3 }); }
static T *resnet152(T *x) { return resnet(x, bottleneck,  (const int[]){ 3, 8, 36, 3 }); }

/* For CIFAR: three stages of n blocks, 16, 32, 64 channels; shortcuts without parameters (option A): every
   other pixel, and zeros for the channels that are new. A fixed 1x1 convolution does both. */
static T *shortcut_a(T *x, int channels, int stride)
{
    if (stride == 1) return x;
    float pick[64 * 32] = { 0 };
    int   from = x->shape.c, first = (channels - from) / 2;
    for (int i = 0; i < from && i < 32 && channels <= 64; i++) pick[(first + i) * from + i] = 1;
    return cnn_conv2d(x, channels, 1, .stride = stride, .no_bias = 1,
                      .weight = cnn_const(x->graph, (cnn_shape){ channels, from, 1, 1 }, pick));
}
static T *resnet_cifar(T *x, int n)
{
    T *h = cnn_relu(part(x, 16, 3, 1, "", 1));
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < n; i++) {
            int stride = s > 0 && i == 0 ? 2 : 1, channels = 16 << s;
            const char *name = PATH("layer%d.%d.", s + 1, i);
            T *f = part(cnn_relu(part(h, channels, 3, stride, name, 1)), channels, 3, 1, name, 2);
            h = cnn_relu(cnn_add(f, shortcut_a(h, channels, stride)));
        }
    return cnn_dense(cnn_global_avg_pool(h), 10, .name = "fc");
}
static T *resnet20(T *x) { return resnet_cifar(x, 3); }
static T *resnet56(T *x) { return resnet_cifar(x, 9); }

/* ---- 2018: MobileNetV2 (Sandler et al. 2018), as torchvision builds it ---- */

static T *numbered(T *x, int channels, int kernel, int stride, int groups, const char *in, int i)
{                                            /* in.i and in.(i+1) */
    x = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .groups = groups, .no_bias = 1,
                   .name = PATH("%s.%d", in, i));
    return cnn_batch_norm(x, .name = PATH("%s.%d", in, i + 1));
}
static T *inverted_residual(T *x, int expand, int channels, int stride, const char *name)
{                                            /* wide in the middle, where it is depthwise */
    int from = x->shape.c, wide = from * expand, i = 0;
    T  *h = x;
    if (expand != 1) h = cnn_relu6(numbered(h, wide, 1, 1, 1, PATH("%s.%d", name, i++), 0));
    h = cnn_relu6(numbered(h, wide, 3, stride, wide, PATH("%s.%d", name, i++), 0));
    h = numbered(h, channels, 1, 1, 1, name, i);
    return stride == 1 && from == channels ? cnn_add(h, x) : h;
}
static T *mobilenet_v2(T *x)
{
    static const struct { int expand, channels, blocks, stride; } stage[7] = {
        { 1, 16, 1, 1 }, { 6, 24, 2, 2 }, { 6, 32, 3, 2 }, { 6, 64, 4, 2 }, { 6, 96, 3, 1 }, { 6, 160, 3, 2 },
        { 6, 320, 1, 1 } };
    T  *h = cnn_relu6(numbered(x, 32, 3, 2, 1, "features.0", 0));
    int at = 1;
    for (int s = 0; s < 7; s++)
        for (int i = 0; i < stage[s].blocks; i++)
            h = inverted_residual(h, stage[s].expand, stage[s].channels, i == 0 ? stage[s].stride : 1,
                                  PATH("features.%d.conv", at++));
    h = cnn_relu6(numbered(h, 1280, 1, 1, 1, "features.18", 0));
    return cnn_dense(cnn_dropout(cnn_global_avg_pool(h), 0.2f), 1000, .name = "classifier.1");
}

/* ---- The table ---- */

static const struct net {
    const char *name, *year;
    int c, h, w;                             /* of the picture */
    T *(*build)(T *);
    T *(*build_heads)(T *, T **aux);         /* with the auxiliary heads, which only training has; or NULL */
} nets[] = {
    { "mlp",           "1986", 1,  28,  28, mlp, NULL },
    { "lenet5",        "1998", 1,  28,  28, lenet5, NULL },
    { "codelab",       "2016", 1,  28,  28, codelab, NULL },
    { "keras",         "2015", 1,  28,  28, keras_mnist, NULL },
    { "alexnet",       "2012", 3, 227, 227, alexnet, NULL },
    { "alexnet_lrn",   "2012", 3, 227, 227, alexnet_lrn, NULL },
    { "vgg16",         "2014", 3, 224, 224, vgg16, NULL },
    { "vgg19",         "2014", 3, 224, 224, vgg19, NULL },
    { "googlenet",     "2014", 3, 224, 224, googlenet, NULL },
    { "googlenet_aux", "2014", 3, 224, 224, googlenet, googlenet_heads },
    { "unet",          "2015", 1, 572, 572, unet, NULL },
    { "resnet18",      "2015", 3, 224, 224, resnet18, NULL },
    { "resnet34",      "2015", 3, 224, 224, resnet34, NULL },
    { "resnet50",      "2015", 3, 224, 224, resnet50, NULL },
    { "resnet101",     "2015", 3, 224, 224, resnet101, NULL },
    { "resnet152",     "2015", 3, 224, 224, resnet152, NULL },
    { "resnet20",      "2015", 3,  32,  32, resnet20, NULL },
    { "resnet56",      "2015", 3,  32,  32, resnet56, NULL },
    { "mobilenet_v2",  "2018", 3, 224, 224, mobilenet_v2, NULL },
};
enum { N_NETS = sizeof nets / sizeof *nets };

static int fail(cnn_graph *g)
{
    fprintf(stderr, "%s\n", cnn_error(g));
    cnn_free(g);
    return 1;
}

/* One net for one image: for inference, or with a loss for training. */
static cnn_graph *build(const struct net *n, int inference, T **x, T **y, T **t, T **root)
{
    cnn_graph *g = cnn_new(.max_batch = inference ? 1 : 2, .seed = 1, .inference = inference);
    *x = cnn_input(g, n->c, n->h, n->w);
    *t = NULL;
    if (inference) {
        *y = *root = n->build(*x);
        return g;
    }
    T *aux[2];
    *y = n->build_heads ? n->build_heads(*x, aux) : n->build(*x);
    *t = cnn_labels(g, (*y)->shape.h, (*y)->shape.w);
    *root = cnn_softmax_cross_entropy(*y, *t);
    for (int i = 0; n->build_heads && i < 2; i++)
        *root = cnn_add(*root, cnn_scale(cnn_softmax_cross_entropy(aux[i], *t), 0.3f));
    return g;
}

static int table(void)
{
    printf("%-13s %4s %14s %16s %14s %14s  %s\n", "net", "year", "parameters", "multiply-adds",
           "MiB inference", "MiB training", "output");
    for (int i = 0; i < N_NETS; i++) {
        T *x, *y, *t, *root;
        cnn_graph *g = build(&nets[i], 1, &x, &y, &t, &root);
        cnn_memory infer = cnn_plan(g, root);
        if (cnn_error(g)) return fail(g);
        double    macs = cnn_multiply_adds(g);
        cnn_shape out = y->shape;
        cnn_free(g);
        g = build(&nets[i], 0, &x, &y, &t, &root);
        cnn_memory train = cnn_plan(g, root);
        if (cnn_error(g)) return fail(g);
        size_t params = cnn_param_count(g);
        cnn_free(g);
        printf("%-13s %4s %14zu %16.0f %14.1f %14.1f  (N,%d,%d,%d)\n", nets[i].name, nets[i].year, params,
               macs, (double)infer.total / 1048576, (double)train.total / 1048576, out.c, out.h, out.w);
    }
    return 0;
}

static int one(const struct net *n, int train)
{
    T *x, *y, *t, *root;
    cnn_graph *g = build(n, !train, &x, &y, &t, &root);
    if (!cnn_compile(g, root)) return fail(g);
    cnn_summary(g, stdout);
    float *pixels = cnn_map_write(x);
    uint32_t noise = 1;
    for (size_t i = 0; pixels && i < cnn_count(x); i++) {
        noise = noise * 1664525u + 1013904223u;
        pixels[i] = (float)(noise >> 8) / 8388608.0f - 1.0f;
    }
    clock_t start = clock();
    if (train) {
        float *labels = cnn_map_write(t);
        for (size_t i = 0; labels && i < cnn_count(t); i++) labels[i] = (float)(i % 2);
        printf("loss before the step %.4f", (double)cnn_forward(root, CNN_TRAIN));
        cnn_backward(root);
        cnn_clip_grads(g, 1), cnn_step(g, .lr = 0.01f);
        printf(", after it %.4f\n", (double)cnn_forward(root, CNN_TRAIN));
    } else {
        cnn_forward(y, CNN_EVAL);
    }
    printf("%.3f s of processor time\n", (double)(clock() - start) / CLOCKS_PER_SEC);
    if (cnn_error(g)) return fail(g);
    cnn_free(g);
    return 0;
}

int main(int argc, char **argv)
{
    const int train = argc == 3 && strcmp(argv[2], "--train") == 0;
    int i = 0, status;
    if (argc > 3 || (argc == 3 && !train)) return fprintf(stderr, "usage: %s [NET [--train]]\n", argv[0]), 2;
    while (argc > 1 && i < N_NETS && strcmp(argv[1], nets[i].name) != 0) i++;
    if (i == N_NETS) {
        fprintf(stderr, "%s: no such net; they are:", argv[1]);
        for (i = 0; i < N_NETS; i++) fprintf(stderr, " %s", nets[i].name);
        return fprintf(stderr, "\n"), 2;
    }
    status = argc < 2 ? table() : one(&nets[i], train);
    if (fflush(stdout) || ferror(stdout)) status = 1, fprintf(stderr, "stdout: cannot be written\n");
    return status;
}
