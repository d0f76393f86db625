/* peer_peak.c - what the machine can do, so that floors can be stated: multiply-adds in registers (GFLOP/s) and
   reading of memory beyond the caches (GB/s), by each number of threads.
     cc -O2 -march=native -std=gnu99 -fopenmp -I. peer_peak.c && ./a.out [threads]      0 or nothing: 1, then 2
   It is compiled for this machine alone, with vectors as wide as it has, in as many registers as are left by a and b.
   Not -std=c99, with which gcc makes no fused multiply-adds. */
#define _POSIX_C_SOURCE 200112L
#define BENCH_PREFIX "machine_"
#include "bench.h"

#ifdef __AVX512F__
enum { WIDTH = 16, CHAINS = 20 };
#else
enum { WIDTH = 8, CHAINS = 12 };
#endif
enum { STEPS = 100000, FLOATS = 1 << 26 };                       /* 256 MB are read */
typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef struct { int threads; float *x, sink[64]; } machine;

static void fma_peak(void *arg)
{
    machine *m = arg;
    #pragma omp parallel for num_threads(m->threads) schedule(static, 1)
    for (int i = 0; i < m->threads; i++) {
        lanes t[CHAINS], a, b;
        for (int l = 0; l < WIDTH; l++) a[l] = 0.999f, b[l] = 1e-3f;
        for (int c = 0; c < CHAINS; c++) t[c] = b + (float)c;
        for (int s = 0; s < STEPS; s++) {
            #pragma GCC unroll 20
            for (int c = 0; c < CHAINS; c++) t[c] = t[c] * a + b;
        }
        for (int c = 1; c < CHAINS; c++) t[0] += t[c];
        m->sink[i % 64] = t[0][0];
    }
}
static void read_peak(void *arg)
{
    machine *m = arg;
    #pragma omp parallel for num_threads(m->threads) schedule(static, 1)
    for (int i = 0; i < m->threads; i++) {
        const lanes *x = (const lanes *)(const void *)m->x;
        const long n = FLOATS / WIDTH, from = n * i / m->threads / 8 * 8, to = n * (i + 1) / m->threads / 8 * 8;
        lanes t[8] = { { 0 } };
        for (long k = from; k < to; k += 8)
            for (int c = 0; c < 8; c++) t[c] += x[k + c];
        for (int c = 1; c < 8; c++) t[0] += t[c];
        m->sink[i % 64] = t[0][0];
    }
}

int main(int argc, char **argv)
{
    const int only = argc > 1 ? atoi(argv[1]) : 0;
    machine   m = { 0 };
    void     *raw = malloc(sizeof *m.x * FLOATS + 64);
    if (!raw) return 1;
    m.x = (float *)(void *)((char *)raw + 64 - (size_t)raw % 64);
    for (long i = 0; i < FLOATS; i++) m.x[i] = (float)(i % 7);
    for (m.threads = only ? only : 1; m.threads <= (only ? only : 2); m.threads++) {
        bench_case("fma_peak", m.threads, 2e-9 * m.threads * CHAINS * STEPS * WIDTH, "GFLOP/s", fma_peak, &m);
        bench_case("read_peak", m.threads, 4e-9 * FLOATS, "GB/s", read_peak, &m);
    }
    free(raw);
    return 0;
}
