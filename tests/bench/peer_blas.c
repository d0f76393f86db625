/* peer_blas.c - one product of row-major float matrices by a BLAS that is loaded at run time; used by peers.py.
     cc -O2 -I. peer_blas.c -ldl -lm && OPENBLAS_NUM_THREADS=1 ./a.out LIBRARY NAME M N K THREADS
   Prints like the other benchmarks: see bench.h. */
#define _POSIX_C_SOURCE 200112L
#define BENCH_PREFIX "blas_"
#include "bench.h"
#include <dlfcn.h>

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
typedef struct { sgemm_fn *f; int m, n, k, ta, tb; float *a, *b, *c; } product;

static void run(void *arg)
{
    const product *p = arg;
    p->f(101, p->ta ? 112 : 111, p->tb ? 112 : 111, p->m, p->n, p->k, 1, p->a, p->ta ? p->m : p->k, p->b,
         p->tb ? p->k : p->n, 0, p->c, p->n);
}
static float *filled(size_t n)
{
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; p && i < n; i++) p[i] = (float)((int)(i % 13) - 6) * 0.01f;
    return p;
}
int main(int argc, char **argv)
{
    product p = { 0 };
    void *library = argc > 6 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (!library) return fprintf(stderr, "usage: %s LIBRARY NAME M N K THREADS; %s\n", argv[0], argc > 6 ? dlerror() : ""), 2;
    *(void **)&p.f = dlsym(library, "cblas_sgemm");
    if (!p.f) *(void **)&p.f = dlsym(library, "scipy_cblas_sgemm");         /* scipy-openblas32, from PyPI */
    if (!p.f) return fprintf(stderr, "no cblas_sgemm in %s\n", argv[1]), 2;
    p.m = atoi(argv[3]), p.n = atoi(argv[4]), p.k = atoi(argv[5]);
    const char *name = argv[2];
    for (const char *s = name; *s; s++)
        if (*s == '_') p.ta = s[2] == 'a', p.tb = s[2] == 'b' || s[3] == 'b';       /* _ta, _tb, _tab */
    p.a = filled((size_t)(p.m * p.k)), p.b = filled((size_t)(p.k * p.n)), p.c = filled((size_t)(p.m * p.n));
    if (!p.a || !p.b || !p.c) return 2;
    bench_case(name, atoi(argv[6]), 2e-9 * p.m * p.n * p.k, "GFLOP/s", run, &p);
    free(p.a), free(p.b), free(p.c);
    return 0;
}
