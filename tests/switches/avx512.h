/* AVX-512 without an AVX-512 machine: SIMDe (libsimde-dev) stands in for the intrinsics that cnn.h uses. Included
   before anything else in tests/test_kernels.c, together with a copy of cnn.h whose target and run-time check are
   AVX2's. It checks the logic of these kernels, not their speed; where the machine has AVX-512 the tests run them as
   they are. */
#include <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/* Two that SIMDe 0.7 lacks. */
static inline float test_reduce_add_ps(simde__m512 v)
{
    float x[16];
    simde_mm512_storeu_ps(x, v);
    for (int n = 8; n > 0; n /= 2)
        for (int i = 0; i < n; i++) x[i] += x[i + n];
    return x[0];
}
static inline simde__m512 test_maskz_loadu_ps(unsigned mask, const float *p)
{
    float x[16];
    for (int i = 0; i < 16; i++) x[i] = mask >> i & 1 ? p[i] : 0.0f;
    return simde_mm512_loadu_ps(x);
}
#undef _mm512_reduce_add_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_reduce_add_ps(v) test_reduce_add_ps(v)
#define _mm512_maskz_loadu_ps(mask, p) test_maskz_loadu_ps(mask, p)
