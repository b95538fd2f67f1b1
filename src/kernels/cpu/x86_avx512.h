/* x86_avx512: the parts of the AVX-512 rung and small pieces that they share.
 * Included only by files compiled for it. */
#ifndef KERNELS_CPU_X86_AVX512_H
#define KERNELS_CPU_X86_AVX512_H

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/x86_common.h"

/* Functions whose arguments choose the code: a copy for every use. */
#define INLINE static inline __attribute__((always_inline))

/* Each sets its rows of the table. */
void cpu_q32_avx512(cpu_kernels *k);        /* tiles of types with blocks of 32 or 64 */
void cpu_kq_avx512(cpu_kernels *k);         /* of K quants and IQ4_XS                 */
void cpu_float_avx512(cpu_kernels *k);      /* float types, and the loops over one row */
void cpu_quantise_avx512(cpu_kernels *k);   /* activation rows                        */

INLINE __m512i load64(const void *p) { return _mm512_loadu_si512(p); }

/* 16 bytes from each of four places, a quarter each. */
INLINE __m512i quarters(const void *p0, const void *p1, const void *p2, const void *p3)
{
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p0)), load16(p1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p2)), load16(p3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Element r of every quarter: the sum of that quarter of s[r]. */
INLINE __m512i sums_of_quarters(const __m512i s[4])
{
    const __m512i s01 = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
    const __m512i s23 = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
}

/* Within every quarter: element i of t[j] is element j of z[i]. */
INLINE void transpose_quarters(__m512i t[4], const __m512i z[4])
{
    const __m512i low01 = _mm512_unpacklo_epi32(z[0], z[1]), high01 = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(z[2], z[3]), high23 = _mm512_unpackhi_epi32(z[2], z[3]);
    t[0] = _mm512_unpacklo_epi64(low01, low23);
    t[1] = _mm512_unpackhi_epi64(low01, low23);
    t[2] = _mm512_unpacklo_epi64(high01, high23);
    t[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* The halfwords at p[i] + at. */
INLINE __m128i words8(const uint8_t *const p[8], size_t at)
{
    uint16_t w[8];
    UNROLL
    for (int i = 0; i < 8; i++) memcpy(&w[i], p[i] + at, sizeof w[i]);
    __m128i v = _mm_cvtsi32_si128(w[0]);
    v = _mm_insert_epi16(v, w[1], 1);
    v = _mm_insert_epi16(v, w[2], 2);
    v = _mm_insert_epi16(v, w[3], 3);
    v = _mm_insert_epi16(v, w[4], 4);
    v = _mm_insert_epi16(v, w[5], 5);
    v = _mm_insert_epi16(v, w[6], 6);
    return _mm_insert_epi16(v, w[7], 7);
}

INLINE __m256i words16(const uint8_t *const p[16], size_t at)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(words8(p, at)), words8(p + 8, at), 1);
}

/* The words at p[i] + at. */
INLINE __m128i dwords4(const uint8_t *const p[4], size_t at)
{
    __m128i v = _mm_cvtsi32_si128((int)word_at(p[0] + at, 0));
    v = _mm_insert_epi32(v, (int)word_at(p[1] + at, 0), 1);
    v = _mm_insert_epi32(v, (int)word_at(p[2] + at, 0), 2);
    return _mm_insert_epi32(v, (int)word_at(p[3] + at, 0), 3);
}

INLINE __m512i dwords16(const uint8_t *const p[16], size_t at)
{
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(dwords4(p, at)), dwords4(p + 4, at), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(dwords4(p + 8, at)), dwords4(p + 12, at), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

#endif
