/* x86_kq_avx2: the K types, unpacked for the tiles of super-blocks. Layouts are
 * told in src/quant/kquants.c. */
#include <stddef.h>
#include "kernels/cpu/x86_tiles_avx2.h"

/* Sixteen bytes to numbers of 16 bits. */
static inline void put_16(int16_t out[16], __m128i bytes) { put32(out, _mm256_cvtepu8_epi16(bytes)); }

/* Eight bytes, each for two groups of 16. */
static inline void put_8_twice(int16_t out[16], const uint8_t *bytes)
{
    const __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)bytes);
    put_16(out, _mm_unpacklo_epi8(x, x));
}

ALWAYS_INLINE void unpack_q2_k(k_row *out, const void *block)
{
    const block_q2_k *w = block;
    UNROLL
    for (int k = 0; k < 8; k++)
        put32(out->codes + 32 * k, bytes_and(_mm256_srli_epi16(load32(w->codes + k / 4 * 32), k % 4 * 2), 3));
    const __m128i s = load16(w->scales), low = _mm_set1_epi8(15);
    put_16(out->scale, _mm_and_si128(s, low));
    put_16(out->offset, _mm_and_si128(_mm_srli_epi16(s, 4), low));
}

/* Two bits and above them the high one: code + 4. */
ALWAYS_INLINE void unpack_q3_k(k_row *out, const void *block)
{
    const block_q3_k *w = block;
    const __m256i high = load32(w->high);
    uint8_t stored[16];
    UNROLL
    for (int k = 0; k < 8; k++) {
        const __m256i low = bytes_and(_mm256_srli_epi16(load32(w->codes + k / 4 * 32), k % 4 * 2), 3);
        const __m256i third = _mm256_slli_epi16(bytes_and(_mm256_srli_epi16(high, k), 1), 2);
        put32(out->codes + 32 * k, _mm256_or_si256(low, third));
    }
    unpack_q3_k_scales(stored, w->scales);
    put32(out->scale, _mm256_sub_epi16(_mm256_cvtepu8_epi16(load16(stored)), _mm256_set1_epi16(32)));
}

ALWAYS_INLINE void unpack_q4_k(k_row *out, const void *block)
{
    const block_q4_k *w = block;
    uint8_t packed[16];
    UNROLL
    for (int g = 0; g < 8; g++)
        put32(out->codes + 32 * g, bytes_and(_mm256_srli_epi16(load32(w->codes + g / 2 * 32), g % 2 * 4), 15));
    unpack_6bit(packed, w->scales);
    put_8_twice(out->scale, packed);
    put_8_twice(out->offset, packed + 8);
}

ALWAYS_INLINE void unpack_q5_k(k_row *out, const void *block)
{
    const block_q5_k *w = block;
    const __m256i high = load32(w->high);
    uint8_t packed[16];
    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i low = bytes_and(_mm256_srli_epi16(load32(w->codes + g / 2 * 32), g % 2 * 4), 15);
        const __m256i fifth = _mm256_slli_epi16(bytes_and(_mm256_srli_epi16(high, g), 1), 4);
        put32(out->codes + 32 * g, _mm256_or_si256(low, fifth));
    }
    unpack_6bit(packed, w->scales);
    put_8_twice(out->scale, packed);
    put_8_twice(out->offset, packed + 8);
}

ALWAYS_INLINE void unpack_q6_k(k_row *out, const void *block)
{
    const block_q6_k *w = block;
    UNROLL
    for (int k = 0; k < 8; k++) {
        const int h = k / 4, q = k % 4;
        const __m256i low = bytes_and(_mm256_srli_epi16(load32(w->low + 64 * h + 32 * (q % 2)), q / 2 * 4), 15);
        const __m256i high = bytes_and(_mm256_srli_epi16(load32(w->high + 32 * h), 2 * q), 3);
        put32(out->codes + 32 * k, _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
    }
    put32(out->scale, _mm256_cvtepi8_epi16(load16(w->scales)));
}

/* The greatest codes: 3, 7, 15, 31, 63. */
K_TILE(q2_k, offsetof(block_q2_k, d), offsetof(block_q2_k, dmin), AFFINE, 4, 0, 1.0f, 3)
K_TILE(q3_k, offsetof(block_q3_k, d), 0, SIGNED, 4, 4, 1.0f, 1)
K_TILE(q4_k, offsetof(block_q4_k, d), offsetof(block_q4_k, dmin), AFFINE, 8, 0, 1.0f, 3)
K_TILE(q5_k, offsetof(block_q5_k, d), offsetof(block_q5_k, dmin), AFFINE, 4, 0, 1.0f, 2)
K_TILE(q6_k, offsetof(block_q6_k, d), 0, SIGNED, 2, 32, 1.0f, 2)

void cpu_tiles_kq_avx2(cpu_kernels *k)
{
    k->tile[QUANT_Q2_K] = tile_q2_k;
    k->tile[QUANT_Q3_K] = tile_q3_k;
    k->tile[QUANT_Q4_K] = tile_q4_k;
    k->tile[QUANT_Q5_K] = tile_q5_k;
    k->tile[QUANT_Q6_K] = tile_q6_k;
}
