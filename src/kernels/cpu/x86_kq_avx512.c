/* K quants: a panel from a block of each of sixteen rows. The layouts are told in
 * src/quant/kquants.c; four neighbouring columns of it always share a word, so once
 * the words of a row are spread over vectors, codes need only shifts and masks. */
#include <stddef.h>
#include "kernels/cpu/x86_q8k_avx512.h"
#include "quant/tables.h"

enum { Q3_SHIFT = 4, Q6_SHIFT = 32, IQ4_SHIFT = 128 };       /* to unsigned codes */

/* Bytes i and j of every word as 16-bit numbers. */
INLINE __m512i two_bytes(__m512i x, int i, int j)
{
    const int from = (int)(0x80008000u | (unsigned)j << 16 | (unsigned)i), next = 0x00040004;
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi32(from, from + next, from + 2 * next,
                                                                        from + 3 * next)));
}

/* Byte j of every word as a number. */
INLINE __m512i byte_of(__m512i x, int j)
{
    return _mm512_and_si512(_mm512_srli_epi32(x, (unsigned)(8 * j)), _mm512_set1_epi32(255));
}

/* Bit `from` of every byte moved to bit `to`, its neighbours along with it. */
INLINE __m512i to_bit(__m512i x, int from, int to)
{
    return from > to ? _mm512_srli_epi32(x, (unsigned)(from - to)) : _mm512_slli_epi32(x, (unsigned)(to - from));
}

/* a | (b & mask of bytes) */
INLINE __m512i merge(__m512i a, __m512i b, int mask)
{
    return _mm512_ternarylogic_epi64(a, b, _mm512_set1_epi8((char)mask), 0xf8);
}

/* Groups of 16, so four vectors to a sum. In a panel codes contain the scales: at most
 * 3 * 15, still a byte, and one 16-bit product makes two of them. */
INLINE void spread_q2_k(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    const __m512i d = dwords16(row, offsetof(block_q2_k, d));
    __m512i scales[4], word[4];
    s->d = low_halves(d);
    s->dmin = high_halves(d);
    words_of_rows(scales, row, offsetof(block_q2_k, scales));
    UNROLL
    for (int i = 0; i < 8; i++)
        q8k_offsets(s, n_x, i, two_bytes(bytes_and(_mm512_srli_epi16(scales[i / 2], 4), 15), i % 2 * 2, i % 2 * 2 + 1));

    UNROLL
    for (int part = 0; part < 4; part++) {      /* sixteen bytes of codes */
        words_of_rows(word, row, offsetof(block_q2_k, codes) + 16 * part);
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int g = part / 2 * 8 + 2 * q + part % 2;
            const __m512i low = bytes_and(scales[g / 4], 15), twice_scale = two_bytes(low, g % 4, g % 4);
            q8k_dots dot = q8k_begin(s, n_x, g, 0);
            UNROLL
            for (int j = 0; j < 4; j++) {
                const __m512i code = bytes_and(_mm512_srli_epi32(word[j], (unsigned)(2 * q)), 3);
                q8k_take(s, n_x, &dot, 4 * g + j, n_x == 0 ? _mm512_mullo_epi16(code, twice_scale) : code);
            }
            if (n_x > 0) q8k_end(s, n_x, &dot, g, byte_of(low, g % 4));
        }
    }
}

/* Q4_K, Q5_K: d, dmin, scales and offsets of the first sixteen bytes. */
INLINE void header_of_rows(q8k_sink *s, int n_x, __m512i scale[8], const uint8_t *const row[16])
{
    __m512i h[4];
    words_of_rows(h, row, 0);
    const __m512i a = h[1], b = h[2], c = h[3];
    const __m512i scales[2] = { bytes_and(a, 63), merge(bytes_and(c, 15), _mm512_srli_epi32(a, 2), 48) };
    const __m512i offsets[2] = { bytes_and(b, 63), merge(bytes_and(_mm512_srli_epi32(c, 4), 15),
                                                         _mm512_srli_epi32(b, 2), 48) };
    s->d = low_halves(h[0]);
    s->dmin = high_halves(h[0]);
    UNROLL
    for (int g = 0; g < 8; g++) {
        scale[g] = byte_of(scales[g / 4], g % 4);
        q8k_offsets(s, n_x, g, two_bytes(offsets[g / 4], g % 4, g % 4));     /* of both halves of the group */
    }
}

INLINE void spread_q4_k(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    __m512i scale[8];
    header_of_rows(s, n_x, scale, row);
    UNROLL
    for (int g = 0; g < 8; g += 2) {            /* low nibbles: group g; high: the next */
        q8k_dots low = q8k_begin(s, n_x, g, 0), high = q8k_begin(s, n_x, g + 1, 0);
        __m512i word[8];
        words_of_rows(word, row, offsetof(block_q4_k, codes) + 16 * g);
        words_of_rows(word + 4, row, offsetof(block_q4_k, codes) + 16 * g + 16);
        UNROLL
        for (int j = 0; j < 8; j++) {
            q8k_take(s, n_x, &low, 8 * g + j, bytes_and(word[j], 15));
            q8k_take(s, n_x, &high, 8 * g + 8 + j, bytes_and(_mm512_srli_epi32(word[j], 4), 15));
        }
        q8k_end(s, n_x, &low, g, scale[g]);
        q8k_end(s, n_x, &high, g + 1, scale[g + 1]);
    }
}

/* As Q4_K; the fifth bits of all groups come with the same column of `high`. */
INLINE void spread_q5_k(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    __m512i scale[8], top[8];
    header_of_rows(s, n_x, scale, row);
    words_of_rows(top, row, offsetof(block_q5_k, high));
    words_of_rows(top + 4, row, offsetof(block_q5_k, high) + 16);
    UNROLL
    for (int g = 0; g < 8; g += 2) {
        q8k_dots low = q8k_begin(s, n_x, g, 0), high = q8k_begin(s, n_x, g + 1, 0);
        __m512i word[8];
        words_of_rows(word, row, offsetof(block_q5_k, codes) + 16 * g);
        words_of_rows(word + 4, row, offsetof(block_q5_k, codes) + 16 * g + 16);
        UNROLL
        for (int j = 0; j < 8; j++) {
            q8k_take(s, n_x, &low, 8 * g + j, merge(bytes_and(word[j], 15), to_bit(top[j], g, 4), 16));
            q8k_take(s, n_x, &high, 8 * g + 8 + j,
                            merge(bytes_and(_mm512_srli_epi32(word[j], 4), 15), to_bit(top[j], g + 1, 4), 16));
        }
        q8k_end(s, n_x, &low, g, scale[g]);
        q8k_end(s, n_x, &high, g + 1, scale[g + 1]);
    }
}

/* The twelve bytes of scales and d, the last of the block, lie two bytes off the words
 * of the last sixteen. */
INLINE void q3_k_scales(q8k_sink *s, __m512i stored[4], const uint8_t *const row[16])
{
    __m512i end[4], word[3];
    words_of_rows(end, row, sizeof(block_q3_k) - 16);
    s->d = high_halves(end[3]);
    UNROLL
    for (int j = 0; j < 3; j++)
        word[j] = _mm512_or_si512(_mm512_srli_epi32(end[j], 16), _mm512_slli_epi32(end[j + 1], 16));
    UNROLL
    for (int i = 0; i < 4; i++)
        stored[i] = merge(bytes_and(_mm512_srli_epi32(word[i % 2], (unsigned)(i / 2 * 4)), 15),
                          to_bit(word[2], 2 * i, 4), 48);
}

INLINE void spread_q3_k(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    __m512i stored[4], top[8];
    q3_k_scales(s, stored, row);
    words_of_rows(top, row, offsetof(block_q3_k, high));
    words_of_rows(top + 4, row, offsetof(block_q3_k, high) + 16);
    UNROLL
    for (int part = 0; part < 4; part++) {
        __m512i word[4];
        words_of_rows(word, row, offsetof(block_q3_k, codes) + 16 * part);
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int g = part / 2 * 8 + 2 * q + part % 2;
            q8k_dots dot = q8k_begin(s, n_x, g, Q3_SHIFT);
            UNROLL
            for (int j = 0; j < 4; j++)
                q8k_take(s, n_x, &dot, 4 * g + j, merge(bytes_and(_mm512_srli_epi32(word[j], (unsigned)(2 * q)), 3),
                                                        to_bit(top[part % 2 * 4 + j], g / 2, 2), 4));
            q8k_end(s, n_x, &dot, g, _mm512_sub_epi32(byte_of(stored[g / 4], g % 4), _mm512_set1_epi32(32)));
        }
    }
}

INLINE void spread_q6_k(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    __m512i scales[4];
    words_of_rows(scales, row, offsetof(block_q6_k, scales));
    s->d = high_halves(dwords16(row, sizeof(block_q6_k) - 4));

    UNROLL
    for (int part = 0; part < 4; part++) {      /* columns 128h + 16half on, and those 32, 64, 96 after */
        const int h = part / 2, half = part % 2;
        __m512i top[4], low[2][4];
        words_of_rows(top, row, (int)offsetof(block_q6_k, high) + 32 * h + 16 * half);
        words_of_rows(low[0], row, 64 * h + 16 * half);
        words_of_rows(low[1], row, 64 * h + 32 + 16 * half);
        UNROLL
        for (int k = 0; k < 4; k++) {
            const int g = 8 * h + 2 * k + half;
            q8k_dots dot = q8k_begin(s, n_x, g, Q6_SHIFT);
            UNROLL
            for (int j = 0; j < 4; j++)
                q8k_take(s, n_x, &dot, 4 * g + j,
                         merge(bytes_and(_mm512_srli_epi32(low[k % 2][j], (unsigned)(k / 2 * 4)), 15),
                               to_bit(top[j], 2 * k, 4), 48));
            q8k_end(s, n_x, &dot, g, _mm512_srai_epi32(_mm512_slli_epi32(scales[g / 4], 24 - g % 4 * 8), 24));
        }
    }
}

INLINE void spread_iq4_xs(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    const __m512i levels = _mm512_broadcast_i32x4(_mm_add_epi8(load16(quant_iq4_levels), _mm_set1_epi8((char)IQ4_SHIFT)));
    const __m512i first = dwords16(row, 0), low = dwords16(row, offsetof(block_iq4_xs, scales_low));
    s->d = low_halves(first);

    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m512i four_bits = _mm512_and_si512(_mm512_srli_epi32(low, (unsigned)(4 * g)), _mm512_set1_epi32(15));
        const __m512i two_bits = _mm512_and_si512(_mm512_srli_epi32(first, (unsigned)(12 + 2 * g)),
                                                  _mm512_set1_epi32(48));
        const __m512i scale = _mm512_sub_epi32(_mm512_or_si512(four_bits, two_bits), _mm512_set1_epi32(32));
        q8k_dots dot = q8k_begin(s, n_x, g, IQ4_SHIFT);
        __m512i word[4];
        words_of_rows(word, row, offsetof(block_iq4_xs, codes) + 16 * g);
        UNROLL
        for (int j = 0; j < 4; j++)
            q8k_take(s, n_x, &dot, 8 * g + j, _mm512_shuffle_epi8(levels, bytes_and(word[j], 15)));
        UNROLL
        for (int j = 0; j < 4; j++)
            q8k_take(s, n_x, &dot, 8 * g + 4 + j,
                           _mm512_shuffle_epi8(levels, bytes_and(_mm512_srli_epi32(word[j], 4), 15)));
        q8k_end(s, n_x, &dot, g, scale);
    }
}

Q8K_TILE(q2_k, QK, 0, true, 1.0f)
Q8K_TILE(q3_k, 16, Q3_SHIFT, false, 1.0f)
Q8K_TILE(q4_k, 32, 0, true, 1.0f)
Q8K_TILE(q5_k, 32, 0, true, 1.0f)
Q8K_TILE(q6_k, 16, Q6_SHIFT, false, 1.0f)
Q8K_TILE(iq4_xs, 32, IQ4_SHIFT, false, 1.0f)

void cpu_kq_avx512(cpu_kernels *k)
{
    k->tile[QUANT_Q2_K] = tile_q2_k;
    k->tile[QUANT_Q3_K] = tile_q3_k;
    k->tile[QUANT_Q4_K] = tile_q4_k;
    k->tile[QUANT_Q5_K] = tile_q5_k;
    k->tile[QUANT_Q6_K] = tile_q6_k;
    k->tile[QUANT_IQ4_XS] = tile_iq4_xs;
}
