/* x86_quantise_avx512: activation rows: the definition's bytes, planes included.
 *
 * Faster: a block's codes are two or sixteen vectors, and what a block needs once,
 * its scale and the inverse, is made for sixteen blocks together. Assumes finite
 * numbers and the default rounding mode. */
#include "kernels/cpu/x86_avx512.h"

INLINE int min_of(int a, int b) { return a < b ? a : b; }

/* a/d where that is finite, else 0. */
INLINE __m512 quotients_or_0(float a, __m512 d)
{
    const __m512 r = _mm512_div_ps(_mm512_set1_ps(a), d);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_sub_ps(r, r), _mm512_setzero_ps(), _CMP_EQ_OQ), r);
}

/* ---- Q8_0 and Q8_1 ---------------------------------------------------------------- */

/* Nearest whole number, halves away from zero: the largest float below 1/2 is added
 * with v's sign and the fraction dropped. 1/2 itself would carry the number just
 * below 1/2 up to 1. */
INLINE __m128i codes_away(__m512 v)
{
    const __m512 sign = _mm512_and_ps(v, _mm512_set1_ps(-0.0f));
    const __m512 nearly_half = _mm512_or_ps(sign, _mm512_set1_ps(0x1.fffffep-2f));
    return _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(_mm512_add_ps(v, nearly_half)));
}

INLINE int32_t sum_codes(__m256i codes)
{
    const __m256i lanes = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Up to sixteen blocks. with_s: Q8_1, whose blocks hold d and s before the codes. */
INLINE void quantise_16(uint8_t *block, bool with_s, int8_t *codes, float *d, int32_t *sums, const float *x, int blocks)
{
    const size_t header = with_s ? 4 : 2, bytes = header + 32;
    _Alignas(64) float largest[16] = { 0 }, inverse[16];
    _Alignas(64) int32_t sum[16] = { 0 };
    _Alignas(32) uint16_t scale[16], s[16];

    for (int b = 0; b < blocks; b++)
        largest[b] = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + 32 * b)),
                                                        _mm512_abs_ps(_mm512_loadu_ps(x + 32 * b + 16))));
    const __m512 exact = _mm512_div_ps(_mm512_load_ps(largest), _mm512_set1_ps(127.0f));
    const __m256i rounded = _mm512_cvtps_ph(exact, _MM_FROUND_TO_NEAREST_INT);
    const __mmask16 there = (__mmask16)((1u << blocks) - 1u);
    _mm512_store_ps(inverse, quotients_or_0(1.0f, exact));
    _mm256_store_si256((__m256i *)scale, rounded);
    _mm512_mask_storeu_ps(d, there, _mm512_cvtph_ps(rounded));

    for (int b = 0; b < blocks; b++) {
        const __m512 id = _mm512_set1_ps(inverse[b]);
        const __m128i low = codes_away(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * b), id));
        const __m128i high = codes_away(_mm512_mul_ps(_mm512_loadu_ps(x + 32 * b + 16), id));
        const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
        _mm256_storeu_si256((__m256i *)(codes + 32 * b), both);
        _mm256_storeu_si256((__m256i *)(block + (size_t)b * bytes + header), both);
        memcpy(block + (size_t)b * bytes, &scale[b], sizeof scale[b]);
        sum[b] = sum_codes(both);
    }
    const __m512i all = _mm512_load_si512(sum);
    _mm512_mask_storeu_epi32(sums, there, all);
    if (!with_s) return;
    const __m512 products = _mm512_mul_ps(_mm512_cvtepi32_ps(all), exact);
    _mm256_store_si256((__m256i *)s, _mm512_cvtps_ph(products, _MM_FROUND_TO_NEAREST_INT));
    for (int b = 0; b < blocks; b++) memcpy(block + (size_t)b * bytes + 2, &s[b], sizeof s[b]);
}

INLINE void quantise_row(quant_type type, uint8_t *row, const float *x, int n)
{
    const activation_planes p = activation_planes_of(row, type, n);
    int8_t *codes = (int8_t *)(uintptr_t)p.codes;
    float *d = (float *)(uintptr_t)p.d;
    int32_t *sums = (int32_t *)(uintptr_t)p.sums;
    const size_t bytes = type == QUANT_Q8_1 ? sizeof(block_q8_1) : sizeof(block_q8_0);
    for (int b = 0; b < n / 32; b += 16)
        quantise_16(row + (size_t)b * bytes, type == QUANT_Q8_1, codes + 32 * b, d + b, sums + b, x + 32 * b,
                    min_of(16, n / 32 - b));
}

static void quantise_q8_0(void *restrict dst, const float *restrict src, int n) { quantise_row(QUANT_Q8_0, dst, src, n); }
static void quantise_q8_1(void *restrict dst, const float *restrict src, int n) { quantise_row(QUANT_Q8_1, dst, src, n); }

/* ---- Q8_K ---------------------------------------------------------------------------- */

/* The first element of the greatest magnitude, with its sign; 0 if all are. */
INLINE float signed_max(const float *x)
{
    __m512 m = _mm512_setzero_ps();
    for (int i = 0; i < QK; i += 16) m = _mm512_max_ps(m, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(m));
    for (int i = 0; i < QK; i += 16) {
        const __mmask16 found = _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_loadu_ps(x + i)), largest, _CMP_EQ_OQ);
        if (found) return x[i + __builtin_ctz((unsigned)found)];
    }
    return 0.0f;
}

/* Limited before it is rounded: a code of NaN is -127, as in the definition. */
INLINE __m512i codes_even64(const float *x, __m512 is)
{
    __m512i c[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512 v = _mm512_max_ps(_mm512_mul_ps(is, _mm512_loadu_ps(x + 16 * i)), _mm512_set1_ps(-127.0f));
        c[i] = _mm512_cvtps_epi32(_mm512_min_ps(v, _mm512_set1_ps(127.0f)));
    }
    /* Packed within quarters: dword j of quarter q is dword q of quarter j. */
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(_mm512_packs_epi32(c[0], c[1]),
                                                                 _mm512_packs_epi32(c[2], c[3])));
}

static void quantise_q8_k(void *restrict dst, const float *restrict src, int n)
{
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    block_q8_k *block = dst;
    for (int i = 0; i < n / QK; i++) {
        const float *x = src + i * QK;
        const float is = quotient_or_0(-127.0f, signed_max(x));
        const __m512 f = _mm512_set1_ps(is);
        __m512i s[4];
        UNROLL
        for (int k = 0; k < 4; k++) {
            const __m512i codes = codes_even64(x + 64 * k, f);
            _mm512_storeu_si512(block[i].codes + 64 * k, codes);
            s[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
        }
        const __m512i sums = _mm512_permutexvar_epi32(in_order, sums_of_quarters(s));
        _mm256_storeu_si256((__m256i *)block[i].sums, _mm512_cvtepi32_epi16(sums));
        block[i].d = quotient_or_0(1.0f, is);
    }
}

void cpu_quantise_avx512(cpu_kernels *k)
{
    k->quantise[QUANT_Q8_0] = quantise_q8_0;
    k->quantise[QUANT_Q8_1] = quantise_q8_1;
    k->quantise[QUANT_Q8_K] = quantise_q8_k;
}
