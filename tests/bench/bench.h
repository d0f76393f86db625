/* bench.h - what the benchmarks share: a clock, and the median of several samples of a case.
   A program prints `name threads value unit`, one line a case; the smallest and largest sample go to stderr after `#`.
   BENCH_SECONDS is the time per case (default 0.4). With BENCH_CPU=1 the time is the processor's, not the clock's: for
   one thread on a machine that has other work. Define _POSIX_C_SOURCE 200112L or later before any #include. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifndef BENCH_PREFIX
#define BENCH_PREFIX "cnn_"
#endif

static double bench_now(void)
{
    struct timespec t;
    clock_gettime(getenv("BENCH_CPU") ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int bench_ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void bench_print(const char *name, int threads, double *sample, int samples, const char *unit)
{
    qsort(sample, (size_t)samples, sizeof *sample, bench_ascending);
    printf(BENCH_PREFIX "%s %d %.4g %s\n", name, threads, sample[samples / 2], unit);
    fflush(stdout);
    fprintf(stderr, "# " BENCH_PREFIX "%s %d %.4g %.4g\n", name, threads, sample[0], sample[samples - 1]);
}
/* How many `units` run(arg) does in a second: the median of up to 7 samples, fewer where one call takes long. */
static void bench_case(const char *name, int threads, double units, const char *unit, void (*run)(void *), void *arg)
{
    enum { SAMPLES = 7 };
    const char  *env = getenv("BENCH_SECONDS");
    const double seconds = env && atof(env) > 0 ? atof(env) : 0.4, begin = bench_now();
    double       sample[SAMPLES], t;
    long         times = 1;
    int          n = 0;
    run(arg);                                                     /* pages, caches, the processor's clock */
    for (;;) {
        t = bench_now();
        for (long i = 0; i < times; i++) run(arg);
        t = bench_now() - t;
        if (t > 0.5 * seconds / SAMPLES) break;
        times = t > 1e-5 ? (long)((double)times * seconds / SAMPLES / t) + 1 : times * 10;
    }
    while (n < SAMPLES && (n < 3 || bench_now() - begin < 5 * seconds)) {
        t = bench_now();
        for (long i = 0; i < times; i++) run(arg);
        sample[n++] = units * (double)times / (bench_now() - t);
    }
    bench_print(name, threads, sample, n, unit);
}
