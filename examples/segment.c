/* segment.c - a small U-Net finds shapes, pixel by pixel.

     cc -std=c99 -O2 examples/segment.c -o segment -lm && ./segment [BATCHES [SEED]]

   The pictures are drawn here: discs, rectangles and triangles, which may overlap, of random grey on random
   grey, with noise. The net says for each pixel which of the four classes it belongs to (Ronneberger,
   Fischer, Brox 2015: "U-Net"); the loss is the cross-entropy of every pixel. Judged is what it does with
   256 pictures that it has not seen, by intersection over union: of the pixels that are of a class, or taken
   for it, the share that are both. At the end build/segment.png (or segment.png) shows eight of them, a row
   each: picture, truth, and what the net made of it. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"
#include <time.h>

enum { SIZE = 48, PIXELS = SIZE * SIZE, CLASSES = 4, BATCH = 16, TESTS = 256, SHOWN = 8 };
static const char *const name[CLASSES] = { "background", "disc", "rectangle", "triangle" };

/* ---- Pictures ---- */

typedef struct { uint64_t state; } dice;

static float roll(dice *d)                 /* uniform in [0,1): splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = d->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (float)((z ^ (z >> 31)) >> 40) / 16777216.0f;
}
static float between(dice *d, float low, float high) { return low + (high - low) * roll(d); }

/* Is (x,y), seen from the middle of the shape and turned with it, inside? Each has about the same area. */
static bool inside(int shape, float x, float y, float size, float aspect)
{
    if (shape == 1) return x * x + y * y < size * size;
    if (shape == 2) return fabsf(x) < size * aspect && fabsf(y) < 0.8f * size / aspect;
    return y > -0.8f * size && 1.8f * fabsf(x) + y < 1.55f * size;
}

/* Two or three shapes, the later ones over the earlier. */
static void draw(dice *d, float *picture, int *truth)
{
    float grey = between(d, -0.5f, 0.5f);
    int   shapes = 2 + (roll(d) < 0.5f);
    for (int i = 0; i < PIXELS; i++) picture[i] = grey, truth[i] = 0;
    for (int s = 0; s < shapes; s++) {
        int   shape = 1 + (int)(roll(d) * 3);
        float size = between(d, 5, 10), aspect = between(d, 0.8f, 1.25f), turn = between(d, 0, 6.2831853f);
        float cx = between(d, 8, SIZE - 8), cy = between(d, 8, SIZE - 8), contrast = between(d, 0.4f, 0.9f);
        float ink = grey > 0 ? grey - contrast : grey + contrast;
        for (int i = 0; i < PIXELS; i++) {
            float x = (float)(i % SIZE) - cx, y = (float)(i / SIZE) - cy;
            float u = x * cosf(turn) + y * sinf(turn), v = y * cosf(turn) - x * sinf(turn);
            if (inside(shape, u, v, size, aspect)) picture[i] = ink, truth[i] = shape;
        }
    }
    for (int i = 0; i < PIXELS; i++)                   /* the sum of four is nearly normal, deviation 0.1 */
        picture[i] += 0.1732f * (roll(d) + roll(d) + roll(d) + roll(d) - 2);
}

static void draw_batch(dice *d, float *picture, int *truth)
{
    for (int n = 0; n < BATCH; n++) draw(d, picture + n * PIXELS, truth + n * PIXELS);
}

/* ---- The net: three floors. On the way up it is told what was seen on the way down ---- */

static cnn_tensor *conv(cnn_tensor *x, int channels)
{
    return cnn_relu(cnn_batch_norm(cnn_conv2d(x, channels, 3, .pad = 1, .no_bias = 1)));
}

static cnn_tensor *unet(cnn_tensor *x)
{
    cnn_tensor *down[3], *h = x;
    for (int i = 0; i < 3; i++) h = cnn_max_pool(down[i] = conv(conv(h, 8 << i), 8 << i), 2);
    h = conv(conv(h, 64), 64);
    for (int i = 2; i >= 0; i--) {
        h = cnn_conv_transpose2d(h, 8 << i, 2, .stride = 2);
        h = conv(conv(cnn_concat(down[i], h), 8 << i), 8 << i);
    }
    return cnn_conv2d(h, CLASSES, 1);
}

static void classify(const float *logits, int *class_of)       /* of BATCH pictures */
{
    for (int i = 0; i < BATCH * PIXELS; i++) {
        const float *at = logits + (i / PIXELS) * CLASSES * PIXELS + i % PIXELS;
        class_of[i] = 0;
        for (int k = 1; k < CLASSES; k++) if (at[k * PIXELS] > at[class_of[i] * PIXELS]) class_of[i] = k;
    }
}

/* ---- A row of three colour pictures: input | truth | what the net says ---- */

static void paint(float *row, const float *picture, const int *truth, const int *found)
{
    static const float colour[CLASSES][3] = { { 0.1f, 0.1f, 0.14f }, { 0.95f, 0.6f, 0.15f },
                                              { 0.25f, 0.6f, 0.95f }, { 0.35f, 0.8f, 0.4f } };
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < PIXELS; i++) {
            row[(0 + c) * PIXELS + i] = (picture[i] + 1.5f) / 3;
            row[(3 + c) * PIXELS + i] = colour[truth[i]][c];
            row[(6 + c) * PIXELS + i] = colour[found[i]][c];
        }
}

static bool write_masks(const float *rows)
{
    const cnn_shape s = { 3 * SHOWN, 3, SIZE, SIZE };
    const char *path = "build/segment.png";
    bool done = cnn_write_image(path, rows, s, .columns = 3, .scale = 3, .raw = 1) ||
                cnn_write_image(path = "segment.png", rows, s, .columns = 3, .scale = 3, .raw = 1);
    if (!done) return perror(path), false;
    printf("wrote %s: picture | truth | found\n", path);
    return true;
}

/* The pictures of one batch, the classes of their pixels, and what the net says. */
typedef struct { float picture[BATCH * PIXELS], logits[BATCH * PIXELS * CLASSES], rows[SHOWN * 9 * PIXELS];
                 int   truth[BATCH * PIXELS], found[BATCH * PIXELS]; } work;

static bool judge(cnn_tensor *x, cnn_tensor *logits, work *w, uint64_t seed)
{
    double both[CLASSES] = { 0 }, either[CLASSES] = { 0 }, right = 0, mean = 0;
    dice   d = { ~seed };                              /* pictures that are not those of the training */
    for (int b = 0; b < TESTS / BATCH; b++) {
        draw_batch(&d, w->picture, w->truth);
        cnn_set(x, w->picture, BATCH * PIXELS);
        cnn_forward(logits, CNN_EVAL);
        if (!cnn_get(logits, w->logits, BATCH * PIXELS * CLASSES)) return false;
        classify(w->logits, w->found);
        for (int i = 0; i < BATCH * PIXELS; i++) {
            int t = w->truth[i], f = w->found[i];
            if (t == f) both[t]++, either[t]++, right++;
            else        either[t]++, either[f]++;
        }
        for (int n = 0; b == 0 && n < SHOWN; n++)
            paint(w->rows + n * 9 * PIXELS, w->picture + n * PIXELS, w->truth + n * PIXELS,
                  w->found + n * PIXELS);
    }
    printf("%d new pictures: %.2f %% of the pixels are right; intersection over union:\n", (int)TESTS,
           100 * right / ((double)TESTS * PIXELS));
    for (int k = 0; k < CLASSES; k++) {
        double iou = either[k] > 0 ? both[k] / either[k] : 0;
        printf("  %-10s  %.3f\n", name[k], iou);
        mean += iou / CLASSES;
    }
    printf("  %-10s  %.3f\n", "mean", mean);
    return write_masks(w->rows);
}

int main(int argc, char **argv)
{
    int      batches = argc > 1 ? atoi(argv[1]) : 1000, status = 1;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    bool     good = batches > 0 && (argc < 3 || !argv[2][strspn(argv[2], "0123456789")]);
    if (argc > 3 || !good) return fprintf(stderr, "usage: %s [BATCHES [SEED]]\n", argv[0]), 2;

    work       *w = malloc(sizeof *w);
    cnn_graph  *g = cnn_new(.max_batch = BATCH, .seed = seed, .optimizer = cnn_adam());
    cnn_tensor *x = cnn_input(g, 1, SIZE, SIZE), *t = cnn_labels(g, SIZE, SIZE), *logits = unet(x);
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, t);
    dice        d = { seed };
    double      mean = 0;
    time_t      start = time(NULL);
    if (!w) { fprintf(stderr, "out of memory\n"); goto done; }
    cnn_compile(g, loss);
    printf("U-Net of %zu parameters, %.1f million multiply-adds a picture, %d batches of %d\n",
           cnn_param_count(g), 1e-6 * cnn_multiply_adds(g), batches, (int)BATCH);
    for (int b = 1; b <= batches && !cnn_error(g); b++) {
        draw_batch(&d, w->picture, w->truth);
        cnn_set(x, w->picture, BATCH * PIXELS), cnn_set_labels(t, w->truth, BATCH * PIXELS);
        mean += (double)cnn_forward(loss, CNN_TRAIN);
        cnn_backward(loss);
        cnn_step(g, .lr = 0.005f * cnn_one_cycle((float)(b - 1) / (float)batches, NULL));
        if (b % 100 && b < batches) continue;
        int since = b % 100 ? b % 100 : 100;
        printf("batch %4d  loss %.4f  %3.0f s\n", b, mean / since, difftime(time(NULL), start));
        fflush(stdout), mean = 0;
    }
    if (!cnn_error(g) && judge(x, logits, w, seed)) status = 0;
    if (cnn_error(g)) fprintf(stderr, "%s\n", cnn_error(g));
    if (fflush(stdout) || ferror(stdout)) status = 1, fprintf(stderr, "stdout: cannot be written\n");
done:
    free(w), cnn_free(g);
    return status;
}
