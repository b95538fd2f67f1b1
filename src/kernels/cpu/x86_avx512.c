/* x86_avx512: rows of floats, sixteen at a time with masks for tails, and the rung.
 * Needs AVX-512 F, BW, VL, DQ and VNNI; what is not here stays with AVX2. */
#include "kernels/cpu/x86_avx512.h"
#include "quant/float_formats.h"
#include "quant/tables.h"

/* ---- pieces ---------------------------------------------------------------- */

static inline float sum16(__m512 v)
{
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

/* ---- float rows ------------------------------------------------------------------- */

/* The first `left` of sixteen elements. */
static inline __mmask16 first(int left) { return (__mmask16)((1u << left) - 1u); }

static inline __m512 load_f32(const float *p)     { return _mm512_loadu_ps(p); }
static inline __m512 load_f16(const uint16_t *p)  { return _mm512_cvtph_ps(load32(p)); }
static inline __m512 load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load32(p)), 16));
}

static inline __m512 part_f32(__mmask16 m, const float *p)     { return _mm512_maskz_loadu_ps(m, p); }
static inline __m512 part_f16(__mmask16 m, const uint16_t *p)  { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
static inline __m512 part_bf16(__mmask16 m, const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

/* Faster: 64 products in flight, and the tail is one masked step. Assumes that a
 * float sum of n/64 terms per lane is precise enough. */
#define FLOAT_DOT(name, type, load, part)                                           \
    static inline float name(const type *a, const float *b, int n)                  \
    {                                                                               \
        __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;                 \
        int i = 0;                                                                  \
        for (; i + 64 <= n; i += 64) {                                              \
            s0 = _mm512_fmadd_ps(load(a + i),      load_f32(b + i),      s0);       \
            s1 = _mm512_fmadd_ps(load(a + i + 16), load_f32(b + i + 16), s1);       \
            s2 = _mm512_fmadd_ps(load(a + i + 32), load_f32(b + i + 32), s2);       \
            s3 = _mm512_fmadd_ps(load(a + i + 48), load_f32(b + i + 48), s3);       \
        }                                                                           \
        for (; i + 16 <= n; i += 16)                                                \
            s0 = _mm512_fmadd_ps(load(a + i), load_f32(b + i), s0);                 \
        const __mmask16 m = first(n - i);                                           \
        s1 = _mm512_fmadd_ps(part(m, a + i), part_f32(m, b + i), s1);               \
        return sum16(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));  \
    }

FLOAT_DOT(products_f32, float, load_f32, part_f32)
FLOAT_DOT(products_f16, uint16_t, load_f16, part_f16)
FLOAT_DOT(products_bf16, uint16_t, load_bf16, part_bf16)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return products_f32(a, b, n); }
static float dot_f16(const uint16_t *restrict a, const float *restrict b, int n) { return products_f16(a, b, n); }
static float dot_row_f32(const void *restrict w, const void *restrict x, int n)  { return products_f32(w, x, n); }
static float dot_row_f16(const void *restrict w, const void *restrict x, int n)  { return products_f16(w, x, n); }
static float dot_row_bf16(const void *restrict w, const void *restrict x, int n) { return products_bf16(w, x, n); }

/* Faster: sixteen squares at a time, in double as the definition. Assumes nothing. */
static double sum_squares(const float *restrict x, int n)
{
    __m512d s0 = _mm512_setzero_pd(), s1 = s0;
    for (int i = 0; i < n; i += 16) {
        const __m512 v = n - i >= 16 ? load_f32(x + i) : part_f32(first(n - i), x + i);
        const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
        const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        s0 = _mm512_fmadd_pd(a, a, s0);
        s1 = _mm512_fmadd_pd(b, b, s1);
    }
    const __m512d s = _mm512_add_pd(s0, s1);
    return sum4_double(_mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1)));
}

/* The four below are faster by width only and give the definition's bits: the
 * product in axpy is rounded before it is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    const __m512 f = _mm512_set1_ps(a);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_add_ps(load_f32(y + i), _mm512_mul_ps(f, load_f32(x + i))));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(part_f32(m, y + i), _mm512_mul_ps(f, part_f32(m, x + i))));
}

static void axpy_f16(float *restrict y, float a, const uint16_t *restrict x, int n)
{
    const __m512 f = _mm512_set1_ps(a);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_add_ps(load_f32(y + i), _mm512_mul_ps(f, load_f16(x + i))));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(part_f32(m, y + i), _mm512_mul_ps(f, part_f16(m, x + i))));
}

static void f16_to_f32(float *restrict y, const uint16_t *restrict x, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, load_f16(x + i));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, part_f16(m, x + i));
}

static void f32_to_f16(uint16_t *restrict y, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtps_ph(load_f32(x + i), _MM_FROUND_TO_NEAREST_INT));
    const __mmask16 m = first(n - i);
    _mm256_mask_storeu_epi16(y + i, m, _mm512_cvtps_ph(part_f32(m, x + i), _MM_FROUND_TO_NEAREST_INT));
}

/* ---- the rung ----------------------------------------------------------------------- */

void cpu_kernels_avx512(cpu_kernels *k)
{
    k->dot[QUANT_F32] = dot_row_f32;
    k->dot[QUANT_F16] = dot_row_f16;
    k->dot[QUANT_BF16] = dot_row_bf16;

    cpu_q32_avx512(k);
    cpu_kq_avx512(k);

    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->f16_to_f32 = f16_to_f32;
    k->f32_to_f16 = f32_to_f16;
}
