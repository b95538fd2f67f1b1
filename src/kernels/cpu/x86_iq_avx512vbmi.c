/* IQ types: a panel from a block of each of sixteen rows. The layouts are told in
 * src/quant. Needs AVX-512 VBMI and GFNI beside what x86_q8k_avx512.h needs.
 *
 * An index is looked up 64 at a time and gives the levels of its columns, two bits
 * each, not their bytes: 256 entries of a byte lie in four registers. Then vpmultishiftqb
 * brings a column's level and sign to its byte of the panel, and vpermb makes the
 * code of both. */
#include "kernels/cpu/x86_q8k_avx512.h"
#include "quant/tables.h"

enum { SHIFT = 64 };            /* to unsigned: codes are within -62..62 */

/* The same eight bytes in every quadword. */
static inline __m512i eight_bytes(int a, int b, int c, int d, int e, int f, int g, int h)
{
    return _mm512_set1_epi64((long long)((uint64_t)(uint8_t)a | (uint64_t)(uint8_t)b << 8 | (uint64_t)(uint8_t)c << 16 |
                                         (uint64_t)(uint8_t)d << 24 | (uint64_t)(uint8_t)e << 32 | (uint64_t)(uint8_t)f << 40 |
                                         (uint64_t)(uint8_t)g << 48 | (uint64_t)(uint8_t)h << 56));
}

/* Bytes 0..3 of each word of x: the eight bits from `at`, at + step, ... on. */
static inline __m512i spread(__m512i x, int at, int step)
{
    return _mm512_multishift_epi64_epi8(
        eight_bytes(at & 63, (at + step) & 63, (at + 2 * step) & 63, (at + 3 * step) & 63, (at + 32) & 63,
                    (at + step + 32) & 63, (at + 2 * step + 32) & 63, (at + 3 * step + 32) & 63), x);
}

/* table[i] for 64 bytes i. */
static inline __m512i look_up_256(const uint8_t table[256], __m512i i)
{
    const __m512i low = _mm512_permutex2var_epi8(load64(table), i, load64(table + 64));
    const __m512i high = _mm512_permutex2var_epi8(load64(table + 128), i, load64(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(i), low, high);
}

/* Words of four 7-bit sign indices (bits 7k) to four sign masks: bit 7 makes the number
 * of ones even, which is one linear map of the bits. */
static inline __m512i masks_of_indices(__m512i words)
{
    return _mm512_gf2p8affine_epi64_epi8(spread(words, 0, 7), _mm512_set1_epi64(0x010204081020407f), 0);
}

/* Codes by level (bits 0, 1) and sign (bit 2); higher bits do not count. */
static inline __m512i iq2_codes(void)
{
    return eight_bytes(SHIFT + 8, SHIFT + 25, SHIFT + 43, 0, SHIFT - 8, SHIFT - 25, SHIFT - 43, 0);
}

/* Columns 8k + 4h .. + 3 of a group of 32: k names the byte in levels and masks. */
static inline __m512i iq2_columns(__m512i levels, __m512i masks, int k, int h)
{
    const __m512i level = spread(levels, 8 * k, 2), sign = spread(masks, 8 * k + 4 * h - 2, 1);
    const __m512i both = _mm512_ternarylogic_epi64(_mm512_set1_epi8(4), sign, level, 0xca);     /* 4 ? sign : level */
    return _mm512_permutexvar_epi8(both, iq2_codes());
}

/* 2s + 1 */
static inline __m512i odd(__m512i s)
{
    return _mm512_or_si512(_mm512_add_epi32(s, s), _mm512_set1_epi32(1));
}

INLINE void spread_iq2_xxs(q8k_sink *s, const uint8_t *const row[16])
{
    s->d = low_halves(dwords16(row, 0));
    for (int g = 0; g < 8; g += 2) {
        __m512i word[4];                /* indices, signs and scale; the same of the next group */
        words_of_rows(word, row, 2 + 8 * g);
        UNROLL
        for (int i = 0; i < 2; i++) {
            const __m512i index = word[2 * i], rest = word[2 * i + 1];
            const __m512i low = look_up_256(quant_iq2_xxs_levels[0], index);
            const __m512i high = look_up_256(quant_iq2_xxs_levels[1], index);
            const __m512i masks = masks_of_indices(rest);
            __m512i dot = q8k_begin(s, g + i, SHIFT);
            UNROLL
            for (int k = 0; k < 4; k++) {
                dot = q8k_take(s, dot, 8 * (g + i) + 2 * k, iq2_columns(low, masks, k, 0));
                dot = q8k_take(s, dot, 8 * (g + i) + 2 * k + 1, iq2_columns(high, masks, k, 1));
            }
            q8k_end(s, dot, g + i, odd(_mm512_srli_epi32(rest, 28)));
        }
    }
}

Q8K_TILE(iq2_xxs, 32, SHIFT, false, 0.125f)

void cpu_kernels_avx512vbmi(cpu_kernels *k)
{
    k->tile[QUANT_IQ2_XXS] = tile_iq2_xxs;
}
