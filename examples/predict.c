/* predict.c - a model file classifies a picture.

     cc -std=c99 -O2 examples/predict.c -o predict -lm && ./predict            (after ./lenet)

     ./predict                      digit 0 of the test set, by lenet.safetensors, in build/ or here
     ./predict MODEL 17             digit 17 of the test set
     ./predict MODEL PICTURE.pgm    a picture of your own (P5), dark on light or light on dark, of any size

   The file holds the architecture as well as the weights, so nothing here says "LeNet". A picture that
   has not the size of the model's input is prepared as MNIST's digits were: the ink is cut out, brought
   to 5/7 of the size with its proportions kept, and laid with its centre of mass in the middle. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

/* ---- Pictures ---- */

typedef struct { int h, w; float *pixel; } image;          /* 0 paper .. 1 ink */

static int read_number(FILE *f)                    /* the next number of the header; -1 if there is none */
{
    int c = fgetc(f), n = 0;
    while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
        if (c == '#') while (c != '\n' && c != EOF) c = fgetc(f);      /* a comment, to the end of the line */
        c = fgetc(f);
    }
    if (c < '0' || c > '9') return -1;
    for (; c >= '0' && c <= '9'; c = fgetc(f)) if ((n = 10 * n + c - '0') > 65535) return -1;
    return n;                                              /* the white space behind it has been read, too */
}

/* The paper is what the rim shows; ink is whatever differs from it, the most different pixel being 1. */
static bool read_pgm(image *im, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return fprintf(stderr, "%s: cannot be opened\n", path), false;
    bool ok = fgetc(f) == 'P' && fgetc(f) == '5';
    im->w = read_number(f), im->h = read_number(f);
    int top = read_number(f), count = 0;
    ok = ok && im->w > 0 && im->h > 0 && im->w <= 8192 && im->h <= 8192 && top > 0 && top < 256;
    if (ok) count = im->h * im->w, im->pixel = malloc((size_t)count * sizeof(float));
    if (!ok) fprintf(stderr, "%s: not a binary PGM (P5) of at most 8192x8192 pixels of one byte\n", path);
    else if (!im->pixel) ok = false, fprintf(stderr, "out of memory\n");

    float paper = 0, rim = 0, most = 0;
    for (int i = 0; ok && i < count; i++) {
        int byte = fgetc(f), y = i / im->w, x = i % im->w;
        if (byte == EOF) ok = false, fprintf(stderr, "%s: ends after %d of %d pixels\n", path, i, count);
        im->pixel[i] = (float)byte / (float)top;
        if (y == 0 || x == 0 || y == im->h - 1 || x == im->w - 1) paper += im->pixel[i], rim++;
    }
    fclose(f);
    if (!ok) return false;
    paper /= rim;
    for (int i = 0; i < count; i++) {
        im->pixel[i] = fmaxf(0, paper > 0.5f ? paper - im->pixel[i] : im->pixel[i] - paper);
        most = fmaxf(most, im->pixel[i]);
    }
    for (int i = 0; i < count && most > 0; i++) im->pixel[i] /= most;
    return true;
}

/* The mean ink in the rectangle of the picture from (x0,y0) to (x1,y1), which may stick out. */
static float mean_ink(const image *im, float x0, float y0, float x1, float y1)
{
    float sum = 0, n = 0;
    for (int y = (int)floorf(y0); y == (int)floorf(y0) || (float)y < y1; y++)
        for (int x = (int)floorf(x0); x == (int)floorf(x0) || (float)x < x1; x++, n++)
            if (x >= 0 && y >= 0 && x < im->w && y < im->h) sum += im->pixel[y * im->w + x];
    return sum / n;
}

/* Cut out, scale, centre: see above. to: h x w pixels. */
static void prepare(const image *im, float *to, int h, int w)
{
    int   x0 = im->w, y0 = im->h, x1 = -1, y1 = -1;
    float mass = 0, mx = 0, my = 0;
    for (int y = 0; y < im->h; y++)
        for (int x = 0; x < im->w; x++) {
            float ink = im->pixel[y * im->w + x];
            if (ink < 0.3f) continue;                      /* paper and shadows */
            if (x < x0) x0 = x;
            if (x > x1) x1 = x;
            if (y < y0) y0 = y;
            if (y > y1) y1 = y;
            mass += ink, mx += ink * (float)x, my += ink * (float)y;
        }
    if (mass == 0) mass = 1, x0 = y0 = 0, x1 = y1 = 0;     /* an empty page */
    float step  = fmaxf((float)(x1 - x0 + 1) / (float)w, (float)(y1 - y0 + 1) / (float)h) * 7 / 5;
    float left  = mx / mass + 0.5f - step * (float)w / 2, above = my / mass + 0.5f - step * (float)h / 2;
    for (int i = 0; i < h * w; i++) {
        float x = left + step * (float)(i % w), y = above + step * (float)(i / w);
        to[i] = mean_ink(im, x, y, x + step, y + step);
    }
}

/* ---- What the terminal shows ---- */

static void draw(const float *pixel, int h, int w)
{
    static const char ink[] = " .:-=+*#%@";
    for (int y = 0; y < h; y++, putchar('\n'))
        for (int x = 0; x < w; x++) {
            int k = (int)(fminf(1, fmaxf(0, pixel[y * w + x])) * 9 + 0.5f);
            putchar(ink[k]), putchar(ink[k]);              /* twice: characters are higher than wide */
        }
}

/* The most probable five, by the names of the classes where the model file has them; p is used up. */
static void bars(const cnn_graph *g, float *p, int classes)
{
    for (int k = 0; k < 5 && k < classes; k++) {
        int best = 0;
        for (int c = 1; c < classes; c++) if (p[c] > p[best]) best = c;
        if (cnn_class_name(g, best)) printf("%12s", cnn_class_name(g, best));
        else                         printf("%4d", best);
        printf("  %6.2f %%  ", 100 * (double)p[best]);
        for (int i = 0; i < (int)(40 * p[best] + 0.5f); i++) putchar('#');
        putchar('\n'), p[best] = -1;
    }
}

static const char *trained(void)                            /* where ./lenet and make run leave the model */
{
    static const char *const path[] = { "build/lenet.safetensors", "lenet.safetensors" };
    FILE *f = fopen(path[0], "rb");
    if (f) fclose(f);
    return path[f == NULL];
}

int main(int argc, char **argv)
{
    const char *model = argc > 1 ? argv[1] : trained(), *what = argc > 2 ? argv[2] : "0";
    if (argc > 3) return fprintf(stderr, "usage: %s [MODEL [NUMBER or PICTURE.pgm]]\n", argv[0]), 2;

    cnn_graph  *g = cnn_load(model, .inference = 1);       /* builds the net from the file alone */
    cnn_tensor *x = cnn_find(g, "input"), *logits = cnn_output(g);
    float      *pixel = NULL, *input = NULL, *p = NULL;
    image       im = { 0, 0, NULL };
    cnn_dataset test = { 0 }, data = { 0 };
    int         status = 1, truth = -1;
    if (cnn_error(g)) { fprintf(stderr, "%s\n", cnn_error(g)); goto done; }
    if (!x || x->shape.c != 1) {
        fprintf(stderr, "%s: the input is not one grey picture\n", model);
        goto done;
    }

    int h = x->shape.h, w = x->shape.w, classes = logits->shape.c;
    pixel = malloc((size_t)(h * w) * sizeof(float)), input = malloc((size_t)(h * w) * sizeof(float));
    p = malloc((size_t)classes * sizeof(float));
    if (!pixel || !input || !p) { fprintf(stderr, "out of memory\n"); goto done; }

    if (what[strspn(what, "0123456789")] == 0) {           /* a number: an image of the test set */
        long i = strtol(what, NULL, 10);
        test = cnn_load_idx("examples/data/test-images-idx3-ubyte", "examples/data/test-labels-idx1-ubyte");
        if (!test.count) { fprintf(stderr, "%s\n", test.error); goto done; }
        bool fits = test.shape.h == h && test.shape.w == w;
        if (!fits) fprintf(stderr, "%s: reads pictures of %dx%d, not those of the test set\n", model, h, w);
        else if (i >= test.count) fprintf(stderr, "%s: the test set has 0 to %d\n", what, test.count - 1);
        if (!fits || i >= test.count) goto done;
        truth = test.labels[i];
        for (int k = 0; k < h * w; k++) pixel[k] = (float)test.bytes[i * h * w + k] / 255;
    } else {
        if (!read_pgm(&im, what)) goto done;
        if (im.h == h && im.w == w) memcpy(pixel, im.pixel, (size_t)(h * w) * sizeof(float));
        else prepare(&im, pixel, h, w);
    }

    data = cnn_data(1, 1, h, w, .floats = pixel);          /* inputs are normalised as in training */
    cnn_recall(g, &data);
    for (int i = 0; i < h * w; i++) input[i] = (pixel[i] - data.mean[0]) / data.deviation[0];
    int best = cnn_predict(x, logits, input, p);
    if (best < 0) { fprintf(stderr, "%s\n", cnn_error(g)); goto done; }
    draw(pixel, h, w);
    bars(g, p, classes);
    if (truth >= 0) printf("It is a %d: %s.\n", truth, best == truth ? "right" : "wrong");
    if (fflush(stdout) || ferror(stdout)) fprintf(stderr, "stdout: cannot be written\n");
    else status = 0;
done:
    free(pixel), free(input), free(p), free(im.pixel);
    cnn_dataset_free(&test), cnn_dataset_free(&data), cnn_free(g);
    return status;
}
