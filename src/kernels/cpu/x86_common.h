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
