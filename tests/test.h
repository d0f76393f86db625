/* test.h - a tiny test harness, for one .c file per program.

       #include "test.h"
       static void adds(void) { CHECK(1 + 1 == 2); CHECK_INT(1 + 1, 2); CHECK_NEAR(0.1 + 0.2, 0.3, 1e-12); }
       int main(void) { RUN(adds); return test_end(); }

   A test is what stands between two test_begin; RUN(f) begins a test named f and calls it. A test fails when one of
   its checks fails; the first checks to fail print file, line and values. The program ends with the line
   `N passed, N failed` (tests, not checks) and returns 1 if any failed. Random numbers are seeded per test by its
   name, so that a test draws the same numbers whether it runs alone or not: an argument on the command line runs
   only the tests whose names contain it (hand main's arguments to test_args). */
#ifndef CNN_TEST_H
#define CNN_TEST_H

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TEST_SHOW
#define TEST_SHOW 5                             /* failed checks of one test that are shown */
#endif
static char        test__name[160];             /* of the test that runs; "" if none */
static const char *test__only;
static int         test__passed, test__failed, test__skipped, test__bad;    /* bad: failed checks of this test */
static long        test__checks;
static uint64_t    test__state = 1;

/* ---- Tests and checks ---- */

static inline void test__close(void)
{
    if (!test__name[0]) return;
    if (test__bad) test__failed++;
    else           test__passed++;
    if (test__bad > TEST_SHOW) printf("    ... %d checks of \"%s\" failed\n", test__bad, test__name);
    test__name[0] = 0, test__bad = 0;
}

static inline void test_args(int argc, char **argv) { test__only = argc > 1 ? argv[1] : NULL; }

/* Begin a test. False if the command line asks for others: then skip its body. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static inline bool test_begin(const char *format, ...)
{
    test__close();
    va_list ap;
    va_start(ap, format);
    vsnprintf(test__name, sizeof test__name, format, ap);
    va_end(ap);
    test__state = 14695981039346656037u;                                     /* FNV-1a of the name */
    for (const char *s = test__name; *s; s++) test__state = (test__state ^ (unsigned char)*s) * 1099511628211u;
    if (test__only && !strstr(test__name, test__only)) return test__name[0] = 0, false;
    return true;
}

/* The open test cannot run here: it counts neither way. */
static inline void test_skip(const char *why)
{
    printf("    skipped: %s: %s\n", test__name, why);
    test__skipped++, test__name[0] = 0, test__bad = 0;
}

#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
static inline bool test__check(bool ok, const char *file, int line, const char *format, ...)
{
    test__checks++;
    if (ok) return true;
    if (test__bad++ < TEST_SHOW) {
        va_list ap;
        va_start(ap, format);
        printf("    %s:%d: \"%s\": ", file, line, test__name);
        vprintf(format, ap);
        putchar('\n');
        va_end(ap);
        fflush(stdout);
    }
    return false;
}

static inline bool test__same(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }
static inline bool test__near(double a, double b, double tolerance)          /* relative above 1, absolute below; NaN is never near */
{
    double size = fabs(b) > 1 ? fabs(b) : 1;
    return fabs(a - b) <= tolerance * size;
}

static inline bool test__check_str(const char *a, const char *b, const char *file, int line, const char *what)
{
    return test__check(test__same(a, b), file, line, "%s is\n        %s\n    not\n        %s", what, a ? a : "NULL", b ? b : "NULL");
}

/* A message without the places: "lenet.c:14: feed: why (called at lenet.c:20)" is "feed: why". */
static inline const char *test_words(const char *message)
{
    static char words[600];
    if (!message) return NULL;
    const char *colon = strstr(message, ".c:"), *blank = strchr(message, ' ');
    snprintf(words, sizeof words, "%s", colon && blank && colon < blank ? blank + 1 : message);
    char *call = strstr(words, " (called at ");
    if (call) *call = 0;
    return words;
}

/* Each check is an expression: true if it held. */
#define CHECK(condition)        test__check((condition), __FILE__, __LINE__, "%s", #condition)
#define CHECK_MSG(condition, ...) test__check((condition), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_INT(a, b)         test__check((long long)(a) == (long long)(b), __FILE__, __LINE__, \
                                            "%s is %lld, not %lld", #a, (long long)(a), (long long)(b))
#define CHECK_NEAR(a, b, tol)   test__check(test__near((a), (b), (tol)), __FILE__, __LINE__, \
                                            "%s is %.9g, not %.9g", #a, (double)(a), (double)(b))
#define CHECK_STR(a, b)         test__check_str((a), (b), __FILE__, __LINE__, #a)
/* n floats against n floats or doubles, and n floats bit by bit. */
#define CHECK_ALL_NEAR(a, b, n, tol) do { \
        for (int test__i = 0; test__i < (int)(n); test__i++) \
            if (!test__check(test__near((double)(a)[test__i], (double)(b)[test__i], (tol)), __FILE__, __LINE__, \
                             "%s[%d] is %.9g, not %.9g", #a, test__i, (double)(a)[test__i], (double)(b)[test__i])) break; \
    } while (0)
#define CHECK_SAME_BITS(a, b, n) test__check(memcmp((a), (b), (size_t)(n) * sizeof *(a)) == 0, __FILE__, __LINE__, \
                                             "%s and %s differ", #a, #b)
#define RUN(f) do { if (test_begin("%s", #f)) f(); } while (0)

/* The last line, and what main returns. */
static inline int test_end(void)
{
    test__close();
    if (test__skipped) printf("%ld checks, %d tests skipped\n", test__checks, test__skipped);
    else               printf("%ld checks\n", test__checks);
    printf("%d passed, %d failed\n", test__passed, test__failed);
    return test__failed > 0;
}

/* ---- Random numbers: splitmix64 (Steele, Lea, Flood 2014), independent of the library's ---- */

static inline uint64_t test_bits(void)
{
    uint64_t z = test__state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline int    test_int(int low, int high) { return low + (int)(test_bits() % (uint64_t)(high - low + 1)); }   /* both included */
static inline bool   test_chance(int percent) { return test_int(1, 100) <= percent; }
static inline double test_uniform(double low, double high) { return low + (high - low) * (double)(test_bits() >> 11) / 9007199254740992.0; }
static inline void   test_fill(float *x, size_t n, double low, double high)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)test_uniform(low, high);
}

/* n values without ties, in random order, symmetric about zero and none within gap/2 of it: neighbours in size are
   gap apart. For relu and max, whose kinks central differences must not cross. */
static inline void test_fill_apart(float *x, size_t n, double gap)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)(gap * ((double)i + 0.5 - (double)(n / 2)));
    for (size_t i = n; i-- > 1; ) {
        size_t j = (size_t)(test_bits() % (i + 1));
        float swap = x[i];
        x[i] = x[j], x[j] = swap;
    }
}

/* Memory of a test; it ends the program when there is none. */
static inline void *test_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) fprintf(stderr, "test: out of memory: %zu bytes\n", bytes), exit(2);
    return p;
}
static inline float *test_floats(size_t n) { return test_alloc(n * sizeof(float)); }

#endif
