/* bench_kernels.c - GEMM and convolution of cnn.h on the shapes of the peers' programs; see bench.h.
     cc -O2 -std=c99 -I. bench_kernels.c -lm && ./a.out [threads [part of a name [batch [isa]]]]
   threads: 0 or nothing: 1, then 2. A name behind = is the whole of it. `./a.out list` prints the cases and their sizes,
   for peers.py. */
#define _POSIX_C_SOURCE 200112L
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "bench.h"

static cnn__cpu cpu;

static float *filled(size_t n)
{
    float *p = malloc((n + 16) * sizeof *p + 64);      /* never freed: the program ends with its cases */
    if (!p) exit(2);
    p += (64 - (uintptr_t)p % 64) / 4;
    for (size_t i = 0; i < n; i++) p[i] = (float)((int)(i % 13) - 6) * 0.01f;
    return p;
}

typedef struct { int kind, m, n, k, ta, tb; cnn__conv c; float *x, *w, *y, *b; void *scratch; } work;
static void run(void *arg)
{
    const work *q = arg;
    if (q->kind == 3) cnn__gemm(&cpu, q->y, q->n, 0, q->x, q->ta ? q->m : q->k, q->ta, q->w, q->tb ? q->k : q->n, q->tb, q->m, q->n, q->k, q->scratch);
    if (q->kind == 0) cnn__conv_forward(&cpu, &q->c, q->y, q->x, q->w, q->b, NULL, q->scratch, NULL);
    if (q->kind == 1) cnn__conv_backward_data(&cpu, &q->c, q->x, q->y, q->w, true, q->scratch);
    if (q->kind == 2) cnn__conv_backward_weights(&cpu, &q->c, q->w, q->b, q->x, q->y, q->scratch);
}

static bool wanted(const char *name, const char *only)
{
    return only[0] == '=' ? strcmp(name, only + 1) == 0 : strstr(name, only) != NULL;
}

static void bench(const char *only, int batch)
{
    const bool list = batch == 0;
    static const int gemm[][3] = { { 1024, 1024, 1024 }, { 256, 256, 256 }, { 64, 784, 150 }, { 64, 3136, 576 }, { 128, 784, 1152 },
        { 256, 196, 2304 }, { 512, 49, 4608 }, { 6, 784, 25 }, { 16, 100, 150 }, { 128, 120, 400 }, { 128, 84, 120 }, { 64, 120, 400 }, { 120, 400, 64 }, { 1, 4096, 4096 } };
    static const struct { const char *name; int ic, oc, hw, k, s, p, g; } layer[] = {
        { "3x3s1_64-64@56", 64, 64, 56, 3, 1, 1, 1 },     { "3x3s1_128-128@28", 128, 128, 28, 3, 1, 1, 1 },
        { "3x3s1_256-256@14", 256, 256, 14, 3, 1, 1, 1 }, { "3x3s1_512-512@7", 512, 512, 7, 3, 1, 1, 1 },
        { "1x1s1_256-64@56", 256, 64, 56, 1, 1, 0, 1 },   { "3x3s2_64-128@56", 64, 128, 56, 3, 2, 1, 1 },
        { "7x7s2_3-64@224", 3, 64, 224, 7, 2, 3, 1 },     { "5x5s1_1-6@28", 1, 6, 28, 5, 1, 2, 1 },
        { "5x5s1_6-16@14", 6, 16, 14, 5, 1, 0, 1 },       { "dw3x3s1_128@28", 128, 128, 28, 3, 1, 1, 128 },
        { "3x3s1_1-32@28", 1, 32, 28, 3, 1, 0, 1 },       { "3x3s1_32-64@13", 32, 64, 13, 3, 1, 0, 1 },
        /* more of ResNet-50 and MobileNetV2 */
        { "1x1s1_64-256@56", 64, 256, 56, 1, 1, 0, 1 },   { "1x1s1_512-128@28", 512, 128, 28, 1, 1, 0, 1 },
        { "1x1s1_256-1024@14", 256, 1024, 14, 1, 1, 0, 1 }, { "1x1s1_2048-512@7", 2048, 512, 7, 1, 1, 0, 1 },
        { "1x1s1_512-2048@7", 512, 2048, 7, 1, 1, 0, 1 }, { "1x1s2_256-512@56", 256, 512, 56, 1, 2, 0, 1 },
        { "1x1s2_1024-2048@14", 1024, 2048, 14, 1, 2, 0, 1 },
        { "3x3s2_512-512@14", 512, 512, 14, 3, 2, 1, 1 }, { "3x3s2_3-32@224", 3, 32, 224, 3, 2, 1, 1 },
        { "1x1s1_16-96@112", 16, 96, 112, 1, 1, 0, 1 },   { "1x1s1_144-24@56", 144, 24, 56, 1, 1, 0, 1 },
        { "1x1s1_576-96@14", 576, 96, 14, 1, 1, 0, 1 },   { "dw3x3s1_32@112", 32, 32, 112, 3, 1, 1, 32 },
        { "dw3x3s2_96@112", 96, 96, 112, 3, 2, 1, 96 },   { "dw3x3s2_576@14", 576, 576, 14, 3, 2, 1, 576 },
        { "dw3x3s1_960@7", 960, 960, 7, 3, 1, 1, 960 } };
    static const char *const pass[] = { "fwd", "bwd_d", "bwd_w" };
    for (size_t i = 0; i < sizeof gemm / sizeof *gemm; i++)
        for (int t = 0; t < (i == 0 || i > 8 ? 4 : 1); t++) {
            const int m = gemm[i][0], n = gemm[i][1], k = gemm[i][2];
            char name[64];
            snprintf(name, sizeof name, "%dx%dx%d%s", m, n, k, t == 0 ? "" : t == 1 ? "_ta" : t == 2 ? "_tb" : "_tab");
            if (list) { printf("gemm %s %d %d %d\n", name, m, n, k); continue; }
            if (!wanted(name, only)) continue;
            work q = { 3, m, n, k, t & 1, t & 2, { 0 }, filled((size_t)(m * k)), filled((size_t)(k * n)), filled((size_t)(m * n)), NULL,
                             filled(cnn__gemm_scratch(&cpu, m, n, k) / 4 + 16) };
            bench_case(name, cpu.threads, 2e-9 * m * n * k, "GFLOP/s", run, &q);
        }
    for (size_t i = 0; i < sizeof layer / sizeof *layer; i++)
        for (int p = 0; p < 3; p++) {
            const int ic = layer[i].ic, oc = layer[i].oc, hw = layer[i].hw, k = layer[i].k, s = layer[i].s, g = layer[i].g;
            const int o = (hw + 2 * layer[i].p - k) / s + 1;
            const cnn__conv c = { batch, ic, hw, hw, oc, o, o, k, k, s, s, layer[i].p, layer[i].p, 1, 1, g };
            char name[64];
            snprintf(name, sizeof name, "%s_%s", layer[i].name, pass[p]);
            if (list) { printf("conv %s %d %d %d %d %d %d %d\n", name, ic, oc, hw, k, s, layer[i].p, g); continue; }
            if (!wanted(name, only)) continue;
            work q = { p, 0, 0, 0, 0, 0, c, filled((size_t)(batch * ic * hw * hw)), filled((size_t)(oc * (ic / g) * k * k)),
                             filled((size_t)(batch * oc * o * o)), filled((size_t)oc), filled(cnn__conv_scratch(&cpu, &c) / 4 + 16) };
            fprintf(stderr, "# cnn_%s: %s\n", name, cnn__conv_algorithm(&cpu, &c, p));
            bench_case(name, cpu.threads, 2e-9 * batch * oc * o * o * (ic / g) * k * k, "GFLOP/s", run, &q);
        }
}

int main(int argc, char **argv)
{
    char names[80];
    const int threads = argc > 1 ? atoi(argv[1]) : 0;
    if (argc > 1 && strcmp(argv[1], "list") == 0) return bench("", 0), 0;
    cpu.isa = cnn__best_isa();
    if (argc > 4 && strcmp(argv[4], "auto")) cpu.isa = cnn__isa_named(argv[4], names, sizeof names);
    for (cpu.threads = threads ? threads : 1; cpu.threads <= (threads ? threads : 2); cpu.threads++) {
        cpu.team = NULL;
        if (cpu.threads > 1 && !cnn__open_team(&cpu)) return 1;
        bench(argc > 2 ? argv[2] : "", argc > 3 ? atoi(argv[3]) : 16);
        cnn__close_team(&cpu);
    }
    return 0;
}
