/* x86_common: small pieces that the x86 rungs share. Needs AVX2, FMA and F16C;
 * included only by files compiled for them. */
#ifndef KERNELS_CPU_X86_COMMON_H
#define KERNELS_CPU_X86_COMMON_H

#include <immintrin.h>
#include <stdint.h>
#include "kernels/cpu/block_bits.h"

static inline float half(uint16_t h) { return _cvtsh_ss(h); }

static inline __m128i load16(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
static inline __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline __m256i twice(__m128i x)      { return _mm256_broadcastsi128_si256(x); }

/* 32 codes of 16 bytes: low nibbles first, then the high ones. */
static inline __m256i nibbles(const uint8_t bytes[16])
{
    const __m128i x = load16(bytes);
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(x), _mm_srli_epi16(x, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* IQ2_XXS: the eight words that hold signs and scales, every second one of 64 bytes. */
static inline __m256i iq2_xxs_sign_words(const uint8_t groups[64])
{
    const __m256 a = _mm256_castsi256_ps(load32(groups)), b = _mm256_castsi256_ps(load32(groups + 32));
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8);
}

/* Per word: four 7-bit sign indices (bits 7k) to four sign masks, one a byte. Bit
 * 7 makes the number of ones even, so it is the parity of the other seven. */
static inline __m256i sign_masks8(__m256i s)
{
    __m256i m = _mm256_and_si256(s, _mm256_set1_epi32(0x7f)), odd;
    m = _mm256_or_si256(m, _mm256_and_si256(_mm256_slli_epi32(s, 1), _mm256_set1_epi32(0x7f00)));
    m = _mm256_or_si256(m, _mm256_and_si256(_mm256_slli_epi32(s, 2), _mm256_set1_epi32(0x7f0000)));
    m = _mm256_or_si256(m, _mm256_and_si256(_mm256_slli_epi32(s, 3), _mm256_set1_epi32(0x7f000000)));

    const __m256i parity = _mm256_setr_epi64x(      /* of the nibbles 0..15 */
        (long long)0x8000008000808000ull, (long long)0x0080800080000080ull,
        (long long)0x8000008000808000ull, (long long)0x0080800080000080ull);
    const __m256i nibble = _mm256_set1_epi8(15);
    odd = _mm256_shuffle_epi8(parity, _mm256_and_si256(m, nibble));
    odd = _mm256_xor_si256(odd, _mm256_shuffle_epi8(parity, _mm256_and_si256(_mm256_srli_epi16(m, 4), nibble)));
    return _mm256_or_si256(m, odd);
}

/* Per word: 2s + 1 in both 16-bit halves, s in the top four bits. */
static inline __m256i odd_scales8(__m256i s)
{
    const __m256i twice_s = _mm256_and_si256(_mm256_srli_epi32(s, 27), _mm256_set1_epi32(30));
    const __m256i odd = _mm256_or_si256(twice_s, _mm256_set1_epi32(1));
    return _mm256_or_si256(odd, _mm256_slli_epi32(odd, 16));
}

static inline float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline double sum4_double(__m256d v)
{
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

#endif
