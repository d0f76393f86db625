/* convolution.c - what a convolution does to a picture, and to shapes.

     cc -std=c99 -O2 examples/convolution.c -o convolution -lm && ./convolution [PICTURE.pgm or .ppm]

   Blurs, sharpens and finds edges with the fixed 3x3 kernels of every lecture, and writes each result as
   a picture into build/ (or here, if there is no build/). Without a picture it draws one. Then it shows
   by example how size, padding and stride of a convolution make the size of its output. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

typedef struct { int c, h, w; float *pixel; } image;       /* (C,H,W), 0..1, C = 1 grey or 3 colours */

/* ---- PGM and PPM: "P5" or "P6", width, height, largest value, one white space, then the bytes ---- */

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

static bool read_image(image *im, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return fprintf(stderr, "%s: cannot be opened\n", path), false;
    int kind = fgetc(f) == 'P' ? fgetc(f) : 0;
    im->c = kind == '6' ? 3 : 1, im->w = read_number(f), im->h = read_number(f);
    int  top = read_number(f);
    bool ok  = (kind == '5' || kind == '6') && top > 0 && top < 256 &&
               im->w > 0 && im->w <= 8192 && im->h > 0 && im->h <= 8192;
    if (!ok) fprintf(stderr, "%s: not a PGM (P5) or PPM (P6) of one byte a value, at most 8192x8192\n", path);
    else if (!(im->pixel = malloc((size_t)(im->c * im->h * im->w) * sizeof *im->pixel)))
        ok = false, fprintf(stderr, "out of memory\n");
    for (int i = 0; ok && i < im->h * im->w; i++)          /* colours: interleaved there, planes here */
        for (int c = 0; ok && c < im->c; c++) {
            int byte = fgetc(f);
            im->pixel[c * im->h * im->w + i] = (float)byte / (float)top;
            if (byte != EOF) continue;
            ok = false, fprintf(stderr, "%s: ends after %d of %d pixels\n", path, i, im->h * im->w);
        }
    fclose(f);
    return ok;
}

static bool write_image(const image *im, const char *name)
{
    const cnn_shape shape = { 1, im->c, im->h, im->w };
    char path[80];
    snprintf(path, sizeof path, "build/%s.png", name);
    bool done = cnn_write_image(path, im->pixel, shape, .raw = 1);     /* beyond black and white: cut off */
    if (!done) snprintf(path, sizeof path, "%s.png", name);
    if (!done && !cnn_write_image(path, im->pixel, shape, .raw = 1)) return perror(path), false;
    printf("  wrote %s\n", path);
    return true;
}

/* A disc, a ring, a grating and a slope of grey: each kernel has something to find. */
static bool draw_image(image *im)
{
    im->c = 1, im->h = 160, im->w = 240;
    im->pixel = malloc((size_t)(im->h * im->w) * sizeof *im->pixel);
    if (!im->pixel) return fprintf(stderr, "out of memory\n"), false;
    for (int y = 0; y < im->h; y++)
        for (int x = 0; x < im->w; x++) {
            float disc = hypotf((float)x - 60, (float)y - 60), ring = hypotf((float)x - 110, (float)y - 105);
            float v = 0.25f + 0.5f * (float)x / 240;
            if (disc < 40) v = 0.9f;
            if (ring > 28 && ring < 38) v = 0.1f;
            if (x > 160 && x < 224 && y > 20 && y < 80) v = (x / 4) % 2 ? 0.2f : 0.8f;
            if (x > 160 && x < 224 && y > 96 && y < 140) v = abs(x - 192) < 2 * (y - 96) / 3 ? 0.95f : 0.3f;
            im->pixel[y * im->w + x] = v;
        }
    return true;
}

/* ---- One kernel over one picture: a graph of one convolution, whose weights are constants ---- */

/* Every colour is filtered by itself: as many groups as channels. pad = 1 keeps the size; the zeros that it
   puts around the picture are why the rim comes out dark, or as an edge. */
static bool filter(const image *from, const float kernel[9], float *to)
{
    float weight[3 * 9];                                   /* (channels, 1, 3, 3) */
    for (int i = 0; i < 9 * from->c; i++) weight[i] = kernel[i % 9];

    cnn_graph  *g = cnn_new(.max_batch = 1, .inference = 1);
    cnn_tensor *x = cnn_input(g, from->c, from->h, from->w);
    cnn_tensor *y = cnn_conv2d(x, from->c, 3, .pad = 1, .groups = from->c, .no_bias = 1,
                               .weight = cnn_const(g, (cnn_shape){ from->c, 1, 3, 3 }, weight));
    size_t count = (size_t)(from->c * from->h * from->w);
    cnn_compile(g, y);
    cnn_set(x, from->pixel, count);
    cnn_forward(y, CNN_EVAL);
    cnn_get(y, to, count);                                 /* after an error all of these do nothing ... */
    bool ok = !cnn_error(g);
    if (!ok) fprintf(stderr, "%s\n", cnn_error(g));        /* ... and this is the first one's message */
    cnn_free(g);
    return ok;
}

static bool filters(const image *im)
{
    static const struct { const char *name; float kernel[9]; } k[] = {
        { "blur-box",   { 1/9.f, 1/9.f, 1/9.f,   1/9.f, 1/9.f, 1/9.f,   1/9.f, 1/9.f, 1/9.f } },
        { "blur-gauss", { 1/16.f, 2/16.f, 1/16.f,  2/16.f, 4/16.f, 2/16.f,  1/16.f, 2/16.f, 1/16.f } },
        { "sharpen",    {  0, -1,  0,   -1,  5, -1,    0, -1,  0 } },    /* itself minus its Laplacian */
        { "edges",      { -1, -1, -1,   -1,  8, -1,   -1, -1, -1 } },    /* zero where all is even */
        { "sobel-x",    { -1,  0,  1,   -2,  0,  2,   -1,  0,  1 } },    /* slope to the right */
        { "sobel-y",    { -1, -2, -1,    0,  0,  0,    1,  2,  1 } },    /* slope downwards */
    };
    int    count = im->c * im->h * im->w;
    image  out = *im, size = *im;                          /* size: of the gradient, from both slopes */
    out.pixel  = malloc((size_t)count * sizeof(float));
    size.pixel = calloc((size_t)count, sizeof(float));
    bool ok = out.pixel && size.pixel;
    if (!ok) fprintf(stderr, "out of memory\n");
    for (int i = 0; ok && i < (int)(sizeof k / sizeof *k); i++) {
        ok = filter(im, k[i].kernel, out.pixel);
        bool slope = k[i].name[0] == 's' && k[i].name[1] == 'o';
        for (int p = 0; ok && slope && p < count; p++) {
            size.pixel[p] = hypotf(size.pixel[p], out.pixel[p]);
            out.pixel[p]  = 0.5f + out.pixel[p] / 8;       /* a slope has a sign: grey is none */
        }
        ok = ok && write_image(&out, k[i].name);
    }
    for (int p = 0; ok && p < count; p++) size.pixel[p] /= 4;
    ok = ok && write_image(&size, "sobel");
    free(out.pixel), free(size.pixel);
    return ok;
}

/* ---- Sizes: out = (in + 2 pad - kernel) / stride + 1, rounded down. Recorded, not run ---- */

static void show_size(int size, int c, int channels, int kernel, int stride, int pad)
{
    cnn_graph  *g = cnn_new(.max_batch = 1);
    cnn_tensor *x = cnn_input(g, c, size, size);
    cnn_tensor *y = cnn_conv2d(x, channels, kernel, .stride = stride, .pad = pad);
    char input[32], filters[32];
    snprintf(input, sizeof input, "%dx%dx%d", size, size, c);
    snprintf(filters, sizeof filters, "%d of %dx%dx%d", channels, kernel, kernel, c);
    printf("  %-9s by %-13s stride %d, pad %d:  ", input, filters, stride, pad);
    if (cnn_error(g)) printf("an error,\n    %s\n", cnn_error(g));
    else printf("%dx%dx%d\n", y->shape.h, y->shape.w, y->shape.c);
    cnn_free(g);
}

int main(int argc, char **argv)
{
    image im = { 0 };
    if (argc > 2) return fprintf(stderr, "usage: %s [PICTURE.pgm or .ppm]\n", argv[0]), 2;
    bool ok = argc == 2 ? read_image(&im, argv[1]) : draw_image(&im);
    if (ok) {
        printf("A picture of %dx%d and what six 3x3 kernels make of it:\n", im.w, im.h);
        ok = write_image(&im, "picture") && filters(&im);
    }
    free(im.pixel);
    if (!ok) return 1;

    printf("\nSizes, as height x width x channels:\n");
    show_size(  7, 1,  1,  5, 1, 0);                       /* the border is lost: 3x3 */
    show_size(  7, 1,  1,  5, 1, 2);                       /* pad = (kernel - 1) / 2 keeps the size */
    show_size(  7, 1,  1,  3, 2, 0);                       /* every second place */
    show_size( 32, 3, 10,  5, 1, 2);
    show_size(227, 3, 96, 11, 4, 0);                   /* AlexNet's first layer (Krizhevsky et al. 2012) */
    show_size(  5, 1,  1,  7, 1, 0);                       /* larger than the input */
    if (fflush(stdout) || ferror(stdout)) return fprintf(stderr, "stdout: cannot be written\n"), 1;
    return 0;
}
