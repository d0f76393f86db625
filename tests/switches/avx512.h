/* AVX-512 without an AVX-512 machine: SIMDe (libsimde-dev) stands in for the intrinsics that cnn.h uses. Included
   before anything else in tests/test_kernels.c, together with a copy of cnn.h whose target and run-time check are
   AVX2's. It checks the logic of these kernels, not their speed; where the machine has AVX-512 the tests run them as
   they are. */
#include <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/* Three that SIMDe 0.7 lacks. */
static inline float test_reduce_add_ps(simde__m512 v)
{
    float x[16];
    simde_mm512_storeu_ps(x, v);
    for (int n = 8; n > 0; n /= 2)
        for (int i = 0; i < n; i++) x[i] += x[i + n];
    return x[0];
}
static inline simde__m512 test_mask_loadu_ps(simde__m512 rest, unsigned mask, const float *p)
{
    float x[16];
    simde_mm512_storeu_ps(x, rest);
    for (int i = 0; i < 16; i++) if (mask >> i & 1) x[i] = p[i];
    return simde_mm512_loadu_ps(x);
}
static inline void test_mask_storeu_ps(float *p, unsigned mask, simde__m512 v)
{
    float x[16];
    simde_mm512_storeu_ps(x, v);
    for (int i = 0; i < 16; i++) if (mask >> i & 1) p[i] = x[i];
}
#undef _mm512_reduce_add_ps
#undef _mm512_mask_loadu_ps
#undef _mm512_mask_storeu_ps
#define _mm512_reduce_add_ps(v) test_reduce_add_ps(v)
#define _mm512_mask_loadu_ps(rest, mask, p) test_mask_loadu_ps(rest, mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) test_mask_storeu_ps(p, mask, v)
