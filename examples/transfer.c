/* transfer.c - transfer learning: MobileNetV2, trained on ImageNet's 1000 classes, learns yours from a folder of pictures
   (Sandler et al. 2018). Only a new head is trained; the body is frozen, and needs neither gradients nor memory for them.

       cc -std=c99 -O2 examples/transfer.c -o transfer -lm
       python3 -c "import torchvision as v, safetensors.torch as s; s.save_file(v.models.mobilenet_v2(
           weights='DEFAULT').state_dict(), 'mobilenet_v2.safetensors')"
       ./transfer mobilenet_v2.safetensors pictures        (pictures/cat/1.ppm ..., pictures/dog/..., one folder a class)

   PPM is read as it is; for JPEG and PNG hand cnn_load_folder a .decode around stb_image.h. The net that was learned is
   written to transfer.safetensors, with the names of the classes, as predict.c wants it. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

static cnn_tensor *conv_bn(cnn_tensor *x, int channels, int kernel, int stride, int groups, const char *conv, const char *bn)
{
    x = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = kernel / 2, .groups = groups, .no_bias = 1, .name = conv);
    return cnn_batch_norm(x, .name = bn);
}

static cnn_tensor *block(cnn_tensor *x, int expand, int channels, int stride, int number)  /* an inverted residual */
{
    static const char *const part[2][6] = { { "0.0", "0.1", "1.0", "1.1", "2", "3" }, { "", "", "0.0", "0.1", "1", "2" } };
    const int from = x->shape.c, wide = from * expand;
    char      name[6][40];                                  /* torchvision's; without expansion, parts move up by one */
    for (int i = 0; i < 6; i++) sprintf(name[i], "features.%d.conv.%s", number, part[expand == 1][i]);
    cnn_tensor *h = x;
    if (expand > 1) h = cnn_relu6(conv_bn(h, wide, 1, 1, 1, name[0], name[1]));
    h = cnn_relu6(conv_bn(h, wide, 3, stride, wide, name[2], name[3]));     /* depthwise */
    h = conv_bn(h, channels, 1, 1, 1, name[4], name[5]);
    return stride == 1 && from == channels ? cnn_add(h, x) : h;
}

int main(int argc, char **argv)
{
    if (argc < 3) return fprintf(stderr, "usage: %s weights.safetensors folder [size [epochs]]\n", argv[0]), 1;
    const int   size = argc > 3 ? atoi(argv[3]) : 224, epochs = argc > 4 ? atoi(argv[4]) : 5;
    cnn_dataset data = cnn_load_folder(argv[2], 3, size, size, .shorter = size);
    if (data.error[0]) return fprintf(stderr, "%s\n", data.error), 1;
    for (int c = 0; c < 3; c++)                                             /* as torchvision normalises */
        data.mean[c] = (float[]){ 0.485f, 0.456f, 0.406f }[c], data.deviation[c] = (float[]){ 0.229f, 0.224f, 0.225f }[c];

    static const int stage[7][4] = { { 1, 16, 1, 1 }, { 6, 24, 2, 2 }, { 6, 32, 3, 2 }, { 6, 64, 4, 2 }, { 6, 96, 3, 1 },
                                     { 6, 160, 3, 2 }, { 6, 320, 1, 1 } };  /* expand, channels, blocks, stride */
    cnn_graph  *g = cnn_new(.max_batch = 16, .seed = 1);
    cnn_tensor *h = cnn_relu6(conv_bn(cnn_input(g, 3, size, size), 32, 3, 2, 1, "features.0.0", "features.0.1"));
    for (int s = 0, number = 1; s < 7; s++)
        for (int i = 0; i < stage[s][2]; i++) h = block(h, stage[s][0], stage[s][1], i ? 1 : stage[s][3], number++);
    h = cnn_freeze(cnn_global_avg_pool(cnn_relu6(conv_bn(h, 1280, 1, 1, 1, "features.18.0", "features.18.1"))));
    cnn_tensor *logits = cnn_dense(cnn_dropout(h, 0.2f), data.classes, .name = "head");
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, cnn_labels(g));

    if (cnn_compile(g, loss) && cnn_load_weights(g, argv[1], .skip = "head.*|classifier.*"))
        cnn_fit(loss, logits, &data, epochs, .lr = 0.05f, .momentum = 0.9f, .schedule = cnn_cosine,
                .progress = cnn_print_progress);
    if (cnn_error(g) || !cnn_save(g, "transfer.safetensors")) return fprintf(stderr, "%s\n", cnn_error(g)), 1;
    cnn_free(g), cnn_dataset_free(&data);
}
