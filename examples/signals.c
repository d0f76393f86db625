/* signals.c - windows of a signal from a CSV file: which movement is it?

   cc -std=c99 -O2 examples/signals.c -o signals -lm && ./signals [FILE.csv]

   One window a line: 64 values of the x axis of an accelerometer, 64 of y, 64 of z, and last the class, from
   0. Without a file, signals.csv is made first: walking, running, and a fall, which is one hit at some time
   in random noise. The net is three 1-D convolutions: signals are (N,C,1,W), as PyTorch's (N,C,W). */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

enum { AXES = 3, WINDOW = 64, CLASSES = 3, WINDOWS = 900 };
static const char *const name[CLASSES + 1] = { "walking", "running", "fall", NULL };

static float roll(uint64_t *state)                 /* uniform in [-1,1): splitmix64 (Steele et al. 2014) */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (float)((z ^ (z >> 31)) >> 40) / 8388608.0f - 1;
}

static bool make(const char *path)
{
    uint64_t state = 1;
    FILE    *f = fopen(path, "w");
    if (!f) return perror(path), false;
    for (int i = 0; i < WINDOWS; i++) {
        int   kind = i % CLASSES, hit = 32 + (int)(24 * roll(&state));
        float phase = 3 * roll(&state), step = (kind == 1 ? 0.65f : 0.35f) + 0.1f * roll(&state);
        for (int axis = 0; axis < AXES; axis++)
            for (int k = 0; k < WINDOW; k++) {
                float v = 0.6f * roll(&state) + (axis == 2);               /* z feels the earth */
                if (kind < 2) v += 0.7f * sinf(step * (float)k + phase + (float)axis);
                else          v += 1.5f * (float)(k == hit) - 1.5f * (float)(k == hit + 1 + axis);
                fprintf(f, "%.3f,", (double)v);
            }
        fprintf(f, "%d\n", kind);
    }
    return fclose(f) == 0;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "signals.csv";
    if (argc > 2) return fprintf(stderr, "usage: %s [FILE.csv]\n", argv[0]), 2;
    if (argc == 1 && !make(path)) return 1;

    cnn_dataset all = cnn_load_csv(path, .label = -1, .c = AXES, .h = 1, .w = WINDOW), train, test;
    if (!all.count) return fprintf(stderr, "%s\n", all.error), 1;
    if (argc == 1) all.names = name;                                       /* they go into the model file */
    cnn_shuffle(&all, 1);
    const int held = all.count / 4;
    test = cnn_split(&all, 0, held), train = cnn_split(&all, held, all.count - held);
    cnn_standardize(&test, &train), cnn_standardize(&train, &train);       /* axis by axis */

    cnn_graph  *g = cnn_new(.max_batch = 32, .seed = 1, .optimizer = cnn_adam());
    cnn_tensor *x = cnn_input(g, AXES, 1, WINDOW), *t = cnn_labels(g);
    cnn_tensor *h = cnn_max_pool1d(cnn_relu(cnn_conv1d(x, 16, 5, .pad = 2)), 2);    /* (N,16,1,32) */
    h = cnn_max_pool1d(cnn_relu(cnn_conv1d(h, 32, 5, .pad = 2)), 2);                /* (N,32,1,16) */
    h = cnn_relu(cnn_conv1d(h, 32, 3, .pad = 1));
    cnn_tensor *logits = cnn_dense(cnn_global_max_pool(h), all.classes);
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, t);
    cnn_compile(g, loss);
    cnn_fit(loss, logits, &train, .epochs = 12, .lr = 0.003f, .schedule = cnn_one_cycle, .validation = &test,
            .progress = cnn_print_progress);

    int *taken = calloc((size_t)all.classes * (size_t)all.classes, sizeof *taken), status = 1;
    if (taken && cnn_confusion(logits, &test, taken) && cnn_save(g, "signals.safetensors")) status = 0;
    for (int k = 0; status == 0 && k < all.classes; k++) {
        printf("%-8s taken for", cnn_class_name(g, k) ? cnn_class_name(g, k) : "");
        for (int c = 0; c < all.classes; c++) printf(" %4d", taken[k * all.classes + c]);
        putchar('\n');
    }
    if (cnn_error(g)) fprintf(stderr, "%s\n", cnn_error(g));
    free(taken), cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&test), cnn_dataset_free(&all);
    return status;
}
