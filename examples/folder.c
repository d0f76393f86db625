/* folder.c - your own pictures: a folder with a folder for each class.

     cc -std=c99 -O2 examples/folder.c -o folder -lm && ./folder PICTURES [EPOCHS]

     PICTURES/cat/1.ppm  PICTURES/cat/2.ppm ...  PICTURES/dog/1.ppm ...

   Binary PPM and PGM are read as they are. For JPEG and PNG take stb_image.h (public domain), put these lines
   before main, and say .decode = decode where the folder is loaded:

     #define STB_IMAGE_IMPLEMENTATION
     #include "stb_image.h"
     static const char *decode(cnn_picture *p, const char *path, int channels, void *user)
     {
         p->pixels = stbi_load(path, &p->w, &p->h, NULL, channels), p->release = stbi_image_free;
         return (void)user, p->pixels ? NULL : stbi_failure_reason();
     }

   A fifth of the pictures is held back to judge by. The model file, folder.safetensors, has the names of the
   classes, and how pictures are normalised. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

enum { SIZE = 32, BATCH = 16 };

static cnn_tensor *block(cnn_tensor *x, int channels)
{
    return cnn_max_pool(cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .no_bias = 1))), 2);
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) return fprintf(stderr, "usage: %s PICTURES [EPOCHS]\n", argv[0]), 2;
    int status = 1, epochs = argc > 2 ? atoi(argv[2]) : 20;

    cnn_dataset all = cnn_load_folder(argv[1], 3, SIZE, SIZE), train, test;
    if (!all.count) return fprintf(stderr, "%s\n", all.error), cnn_dataset_free(&all), 1;
    cnn_shuffle(&all, 1);
    const int held = all.count / 5;
    test = cnn_split(&all, 0, held), train = cnn_split(&all, held, all.count - held);
    cnn_standardize(&test, &train), cnn_standardize(&train, &train);
    printf("%d pictures of %d classes\n", all.count, all.classes);

    /* mixup makes soft labels: so the labels go to an input with a channel for each class */
    cnn_graph  *g = cnn_new(.max_batch = BATCH, .seed = 1, .optimizer = cnn_adamw());
    cnn_tensor *x = cnn_input(g, 3, SIZE, SIZE), *t = cnn_input(g, all.classes, .name = "target");
    cnn_tensor *h = block(block(block(x, 16), 32), 64);                     /* (N,64,4,4) */
    cnn_tensor *logits = cnn_dense(cnn_dropout(cnn_global_avg_pool(h), 0.1f), all.classes);
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, t);
    cnn_compile(g, loss);
    cnn_fit(loss, logits, &train, .epochs = epochs, .lr = 0.003f, .schedule = cnn_one_cycle,
            .validation = &test,
            .augment = { .shift = 3, .reflect = 1, .flip = CNN_FLIP_RANDOM, .mixup = 0.1f },
            .drop_last = train.count >= BATCH, .progress = cnn_print_progress);

    int *taken = calloc((size_t)all.classes * (size_t)all.classes, sizeof *taken);
    if (taken && cnn_confusion(logits, &test, taken) && cnn_save(g, "folder.safetensors")) {
        for (int k = 0; k < all.classes; k++) {
            cnn_class_score s = cnn_precision_recall(taken, all.classes, k);
            printf("%-16s precision %.2f  recall %.2f  of %d\n", all.names[k], s.precision, s.recall,
                   s.count);
        }
        status = 0;
    }
    if (cnn_error(g)) fprintf(stderr, "%s\n", cnn_error(g));
    free(taken), cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&test), cnn_dataset_free(&all);
    return status;
}
