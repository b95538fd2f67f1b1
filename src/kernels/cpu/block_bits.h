/* block_bits: packed scales of the block formats, four at a time in
 * one word; what all instruction sets share. Layouts are told in src/quant. */
#ifndef KERNELS_CPU_BLOCK_BITS_H
#define KERNELS_CPU_BLOCK_BITS_H

#include <stdint.h>
#include <string.h>
#include "quant/blocks.h"

/* Before a short loop whose index becomes shift counts and shuffle patterns: they
 * are constants only when it is written out. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static inline uint32_t word_at(const void *bytes, int i)
{
    uint32_t w;
    memcpy(&w, (const uint8_t *)bytes + 4 * i, sizeof w);
    return w;
}

/* Q4_K, Q5_K: out[0..7] the scales, out[8..15] the offsets, 0..63. */
static inline void unpack_6bit(uint8_t out[16], const uint8_t packed[12])
{
    const uint32_t a = word_at(packed, 0), b = word_at(packed, 1), c = word_at(packed, 2);
    const uint32_t word[4] = {
        a & 0x3f3f3f3f, (c & 0x0f0f0f0f)      | (a >> 2 & 0x30303030),
        b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030),
    };
    memcpy(out, word, sizeof word);
}

/* Q3_K: the sixteen scales as stored, 0..63; the value used is 32 less. */
static inline void unpack_q3_k_scales(uint8_t out[16], const uint8_t packed[12])
{
    const uint32_t a = word_at(packed, 0), b = word_at(packed, 1), c = word_at(packed, 2);
    const uint32_t word[4] = {
        (a & 0x0f0f0f0f)      | (c << 4 & 0x30303030), (b & 0x0f0f0f0f)      | (c << 2 & 0x30303030),
        (a >> 4 & 0x0f0f0f0f) | (c & 0x30303030),      (b >> 4 & 0x0f0f0f0f) | (c >> 2 & 0x30303030),
    };
    memcpy(out, word, sizeof word);
}

/* IQ4_XS: the scale of a group of 32, -32..31. */
static inline int iq4_xs_scale(const block_iq4_xs *b, int g)
{
    const int low = b->scales_low[g / 2] >> g % 2 * 4 & 15, high = b->scales_high >> 2 * g & 3;
    return (low | high << 4) - 32;
}

/* 1/d and a/d for encoders: 0 where the quotient is not finite. */
static inline float quotient_or_0(float a, float d)
{
    const float r = a / d;
    return r - r == 0.0f ? r : 0.0f;
}

#endif
