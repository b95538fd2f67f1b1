/* x86_iq_avx2: the IQ types of 256, unpacked for the tiles of super-blocks. Layouts
 * are told in src/quant/iquants.c, iq1.c and iq4.c.
 *
 * Magnitudes come from codebooks, a word at a time; signs are spread from bits to
 * bytes; and a bias makes all codes unsigned. */
#include <stddef.h>
#include "kernels/cpu/x86_tiles_avx2.h"
#include "quant/tables.h"

enum { IQ2_BIAS = 43, IQ3_XXS_BIAS = 62, IQ3_S_BIAS = 15, IQ1_BIAS = 1 };   /* greatest magnitudes */

/* 32 magnitudes with their signs, the same 32 bits in all eight words; made unsigned. */
static inline void put_signed(uint8_t out[32], __m256i magnitude, __m256i signs, int bias)
{
    const __m256i value = negate_where(magnitude, spread(signs));
    put32(out, _mm256_add_epi8(value, _mm256_set1_epi8((char)bias)));
}

static inline __m256i four_words(const uint64_t *table, unsigned a, unsigned b, unsigned c, unsigned d)
{
    return _mm256_set_epi64x((long long)table[d], (long long)table[c], (long long)table[b], (long long)table[a]);
}

static inline __m256i eight_words(const uint32_t *table, const unsigned i[8])
{
    return _mm256_setr_epi32((int)table[i[0]], (int)table[i[1]], (int)table[i[2]], (int)table[i[3]],
                             (int)table[i[4]], (int)table[i[5]], (int)table[i[6]], (int)table[i[7]]);
}

/* Eight scales of 16 bits, each for two groups of 16. */
static inline void put_8_twice(int16_t out[16], __m128i s)
{
    put32(out, _mm256_set_m128i(_mm_unpackhi_epi16(s, s), _mm_unpacklo_epi16(s, s)));
}

/* 2s + 1 for sixteen groups, two 4-bit s to a byte, the low one first. */
static inline void put_odd_scales(int16_t out[16], const uint8_t nibble_pairs[8])
{
    const __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)nibble_pairs);
    const __m128i s = _mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16(x, 4)), _mm_set1_epi8(15));
    put32(out, _mm256_cvtepu8_epi16(_mm_or_si128(_mm_add_epi8(s, s), _mm_set1_epi8(1))));
}

ALWAYS_INLINE void unpack_iq2_xxs(k_row *out, const void *block)
{
    const uint8_t *bytes = (const uint8_t *)((const block_iq2_xxs *)block)->groups;
    const __m256i words = iq2_xxs_sign_words(bytes), signs = sign_masks8(words);
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *i = bytes + 8 * g;
        put_signed(out->codes + 32 * g, four_words(quant_iq2_xxs_grid, i[0], i[1], i[2], i[3]),
                   word_to_all(signs, g), IQ2_BIAS);
    }
    put32(out->scale, odd_scales8(words));
}

ALWAYS_INLINE void unpack_iq2_xs(k_row *out, const void *block)
{
    const block_iq2_xs *w = block;
    uint32_t index[8];
    for (int g = 0; g < 8; g++) {
        const uint16_t *p = w->parts + 4 * g;
        index[g] = (uint32_t)p[0] >> 9 | (uint32_t)(p[1] >> 9) << 7 | (uint32_t)(p[2] >> 9) << 14
                 | (uint32_t)(p[3] >> 9) << 21;
    }
    const __m256i signs = sign_masks8(load32(index));
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint16_t *p = w->parts + 4 * g;
        put_signed(out->codes + 32 * g, four_words(quant_iq2_xs_grid, p[0] & 511, p[1] & 511, p[2] & 511, p[3] & 511),
                   word_to_all(signs, g), IQ2_BIAS);
    }
    put_odd_scales(out->scale, w->scales);
}

ALWAYS_INLINE void unpack_iq2_s(k_row *out, const void *block)
{
    const block_iq2_s *w = block;
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *i = w->index + 4 * g;
        const unsigned h = w->high[g];
        put_signed(out->codes + 32 * g,
                   four_words(quant_iq2_s_grid, i[0] | (h & 3) << 8, i[1] | (h >> 2 & 3) << 8,
                              i[2] | (h >> 4 & 3) << 8, i[3] | h >> 6 << 8),
                   word_of(w->signs + 4 * g), IQ2_BIAS);
    }
    put_odd_scales(out->scale, w->scales);
}

ALWAYS_INLINE void unpack_iq3_xxs(k_row *out, const void *block)
{
    const block_iq3_xxs *w = block;
    const __m256i words = load32(w->signs), signs = sign_masks8(words);
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *b = w->index + 8 * g;
        const unsigned i[8] = { b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7] };
        put_signed(out->codes + 32 * g, eight_words(quant_iq3_xxs_grid, i), word_to_all(signs, g), IQ3_XXS_BIAS);
    }
    put32(out->scale, odd_scales8(words));
}

ALWAYS_INLINE void unpack_iq3_s(k_row *out, const void *block)
{
    const block_iq3_s *w = block;
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *b = w->index + 8 * g;
        const unsigned h = (unsigned)w->high[g] << 8;
        const unsigned i[8] = { b[0] | (h & 256),      b[1] | (h >> 1 & 256), b[2] | (h >> 2 & 256),
                                b[3] | (h >> 3 & 256), b[4] | (h >> 4 & 256), b[5] | (h >> 5 & 256),
                                b[6] | (h >> 6 & 256), b[7] | (h >> 7 & 256) };
        put_signed(out->codes + 32 * g, eight_words(quant_iq3_s_grid, i), word_of(w->signs + 4 * g), IQ3_S_BIAS);
    }
    const __m128i x = _mm_cvtsi32_si128((int)word_at(w->scales, 0)), low = _mm_set1_epi8(15);
    const __m128i s = _mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16(x, 4)), low);
    put_8_twice(out->scale, _mm_cvtepu8_epi16(_mm_or_si128(_mm_add_epi8(s, s), _mm_set1_epi8(1))));
}

/* Offsets are the scales with the sign of the shift. */
ALWAYS_INLINE void unpack_iq1_s(k_row *out, const void *block)
{
    const block_iq1_s *w = block;
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *i = w->index + 4 * g;
        const unsigned word = w->groups[g];
        const __m256i value = four_words(quant_iq1_s_grid, i[0] | (word & 7) << 8, i[1] | (word >> 3 & 7) << 8,
                                         i[2] | (word >> 6 & 7) << 8, i[3] | (word >> 9 & 7) << 8);
        put32(out->codes + 32 * g, _mm256_add_epi8(value, _mm256_set1_epi8(IQ1_BIAS)));
    }
    const __m128i words = load16(w->groups), twice_s = _mm_and_si128(_mm_srli_epi16(words, 11), _mm_set1_epi16(14));
    const __m128i scale = _mm_or_si128(twice_s, _mm_set1_epi16(1));
    put_8_twice(out->scale, scale);
    put_8_twice(out->offset, _mm_sign_epi16(scale, _mm_or_si128(words, _mm_set1_epi16(1))));
}

/* Levels reach beyond seven bits: wide, that is plus 128. */
ALWAYS_INLINE void unpack_iq4_xs(k_row *out, const void *block)
{
    const block_iq4_xs *w = block;
    const __m256i level = _mm256_xor_si256(twice(load16(quant_iq4_levels)), _mm256_set1_epi8(-128));
    UNROLL
    for (int g = 0; g < 8; g++) put32(out->codes + 32 * g, _mm256_shuffle_epi8(level, nibbles(w->codes + 16 * g)));

    const __m128i x = _mm_cvtsi32_si128((int)word_at(w->scales_low, 0));
    const __m128i low = _mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16(x, 4)), _mm_set1_epi8(15));
    const __m128i to_top = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    const __m128i high = _mm_srli_epi16(_mm_mullo_epi16(_mm_set1_epi16((short)w->scales_high), to_top), 14);
    put_8_twice(out->scale, _mm_sub_epi16(_mm_or_si128(_mm_cvtepu8_epi16(low), _mm_slli_epi16(high, 4)),
                                          _mm_set1_epi16(32)));
}

/* The greatest codes: 86 three times, 124, 30, 2. */
K_TILE(iq2_xxs, offsetof(block_iq2_xxs, d), 0, SIGNED, 1, IQ2_BIAS, 0.125f, 1)
K_TILE(iq2_xs, offsetof(block_iq2_xs, d), 0, SIGNED, 1, IQ2_BIAS, 0.125f, 1)
K_TILE(iq2_s, offsetof(block_iq2_s, d), 0, SIGNED, 1, IQ2_BIAS, 0.125f, 1)
K_TILE(iq3_xxs, offsetof(block_iq3_xxs, d), 0, SIGNED, 1, IQ3_XXS_BIAS, 0.25f, 1)
K_TILE(iq3_s, offsetof(block_iq3_s, d), 0, SIGNED, 4, IQ3_S_BIAS, 1.0f, 1)
K_TILE(iq1_s, offsetof(block_iq1_s, d), 0, SHIFTED, 4, IQ1_BIAS, 1.0f, 1)
K_TILE(iq4_xs, offsetof(block_iq4_xs, d), 0, SIGNED, 0, 128, 1.0f, 2)

void cpu_tiles_iq_avx2(cpu_kernels *k)
{
    k->tile[QUANT_IQ2_XXS] = tile_iq2_xxs;
    k->tile[QUANT_IQ2_XS] = tile_iq2_xs;
    k->tile[QUANT_IQ2_S] = tile_iq2_s;
    k->tile[QUANT_IQ3_XXS] = tile_iq3_xxs;
    k->tile[QUANT_IQ3_S] = tile_iq3_s;
    k->tile[QUANT_IQ1_S] = tile_iq1_s;
    k->tile[QUANT_IQ4_XS] = tile_iq4_xs;
}
