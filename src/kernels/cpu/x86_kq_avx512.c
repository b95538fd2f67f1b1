/* K quants: a panel from a block of each of sixteen rows. The layouts are told in
 * src/quant/kquants.c; four neighbouring columns of it always share a word, so once
 * the words of a row are spread over vectors, codes need only shifts and masks. */
#include <stddef.h>
#include "kernels/cpu/x86_q8k_avx512.h"
#include "quant/tables.h"

/* Bytes i and j of every word as 16-bit numbers. */
static inline __m512i two_bytes(__m512i x, int i, int j)
{
    const int from = (int)(0x80008000u | (unsigned)j << 16 | (unsigned)i), next = 0x00040004;
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi32(from, from + next, from + 2 * next, from + 3 * next)));
}

static inline __m512i bytes_low(__m512i x)            { return _mm512_and_si512(x, _mm512_set1_epi32(255)); }
static inline __m512i either(__m512i a, __m512i b)    { return _mm512_or_si512(a, b); }

/* Bit `from` of every byte moved to bit `to`, its neighbours along with it. */
static inline __m512i to_bit(__m512i x, int from, int to)
{
    return from > to ? _mm512_srli_epi32(x, (unsigned)(from - to)) : _mm512_slli_epi32(x, (unsigned)(to - from));
}

/* a | (b & mask of bytes) */
static inline __m512i merge(__m512i a, __m512i b, int mask)
{
    return _mm512_ternarylogic_epi64(a, b, _mm512_set1_epi8((char)mask), 0xf8);
}

/* A code of at most 3 times a scale of at most 15 is still a byte, and a 16-bit
 * product makes two of them. */
static void unpack_q2_k(q8k_panel *p, const uint8_t *const row[16])
{
    const __m512i three = _mm512_set1_epi8(3);
    __m512i scales[4], word[4];

    words_of_rows(scales, row, offsetof(block_q2_k, scales));
    for (int i = 0; i < 8; i++)
        p->offset[i] = two_bytes(bytes_and(_mm512_srli_epi16(scales[i / 2], 4), 15), i % 2 * 2, i % 2 * 2 + 1);

    UNROLL
    for (int part = 0; part < 4; part++) {      /* sixteen bytes of codes */
        words_of_rows(word, row, (int)offsetof(block_q2_k, codes) + 16 * part);
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int g = part / 2 * 8 + 2 * q + part % 2;
            const __m512i scale = two_bytes(bytes_and(scales[g / 4], 15), g % 4, g % 4);
            UNROLL
            for (int j = 0; j < 4; j++) {
                const __m512i code = _mm512_and_si512(_mm512_srli_epi32(word[j], 2 * q), three);
                p->code[4 * g + j] = _mm512_mullo_epi16(code, scale);
            }
        }
    }
    const __m512i d = dwords16(row, offsetof(block_q2_k, d));
    p->d = low_halves(d);
    p->dmin = high_halves(d);
}

/* Byte j of every word as a number. */
static inline __m512i byte_of(__m512i x, int j) { return bytes_low(_mm512_srli_epi32(x, 8 * j)); }

/* Q4_K, Q5_K: d, dmin, scales and offsets of the first sixteen bytes. */
static inline void unpack_header(q8k_panel *p, const uint8_t *const row[16])
{
    __m512i h[4];
    words_of_rows(h, row, 0);
    const __m512i a = h[1], b = h[2], c = h[3];
    const __m512i scale[2] = { bytes_and(a, 63), either(bytes_and(c, 15), bytes_and(_mm512_srli_epi32(a, 2), 48)) };
    const __m512i offset[2] = { bytes_and(b, 63), either(bytes_and(_mm512_srli_epi32(c, 4), 15),
                                                         bytes_and(_mm512_srli_epi32(b, 2), 48)) };
    UNROLL
    for (int g = 0; g < 8; g++) {
        p->scale[g] = byte_of(scale[g / 4], g % 4);
        p->offset[g] = two_bytes(offset[g / 4], g % 4, g % 4);      /* of both halves of the group */
    }
    p->d = low_halves(h[0]);
    p->dmin = high_halves(h[0]);
}

static void unpack_q4_k(q8k_panel *p, const uint8_t *const row[16])
{
    unpack_header(p, row);
    for (int part = 0; part < 8; part++) {      /* sixteen bytes: half of one group and of the next */
        __m512i word[4], *low = p->code + part / 2 * 16 + part % 2 * 4, *high = low + 8;
        words_of_rows(word, row, (int)offsetof(block_q4_k, codes) + 16 * part);
        UNROLL
        for (int j = 0; j < 4; j++) {
            low[j] = bytes_and(word[j], 15);
            high[j] = bytes_and(_mm512_srli_epi32(word[j], 4), 15);
        }
    }
}

/* As Q4_K; the fifth bits of all groups come with the same column of `high`. */
static void unpack_q5_k(q8k_panel *p, const uint8_t *const row[16])
{
    unpack_header(p, row);
    for (int half = 0; half < 2; half++) {
        __m512i top[4];
        words_of_rows(top, row, (int)offsetof(block_q5_k, high) + 16 * half);
        UNROLL
        for (int c = 0; c < 4; c++) {
            __m512i word[4], *low = p->code + 16 * c + 4 * half, *high = low + 8;
            words_of_rows(word, row, (int)offsetof(block_q5_k, codes) + 32 * c + 16 * half);
            UNROLL
            for (int j = 0; j < 4; j++) {
                low[j] = merge(bytes_and(word[j], 15), to_bit(top[j], 2 * c, 4), 16);
                high[j] = merge(bytes_and(_mm512_srli_epi32(word[j], 4), 15), to_bit(top[j], 2 * c + 1, 4), 16);
            }
        }
    }
}

/* The twelve bytes of scales and d, the last of the block, lie two bytes off the words
 * of the last sixteen. */
static void unpack_q3_k(q8k_panel *p, const uint8_t *const row[16])
{
    __m512i end[4], word[3], stored[4];
    words_of_rows(end, row, (int)sizeof(block_q3_k) - 16);
    for (int j = 0; j < 3; j++) word[j] = either(_mm512_srli_epi32(end[j], 16), _mm512_slli_epi32(end[j + 1], 16));
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_srli_epi32(word[i % 2], i / 2 * 4);
        stored[i] = either(bytes_and(low, 15), bytes_and(_mm512_slli_epi32(_mm512_srli_epi32(word[2], 2 * i), 4), 48));
    }
    UNROLL
    for (int g = 0; g < 16; g++)
        p->scale[g] = _mm512_sub_epi32(byte_of(stored[g / 4], g % 4), _mm512_set1_epi32(32));
    p->d = high_halves(end[3]);

    UNROLL
    for (int half = 0; half < 2; half++) {
        __m512i top[4];
        words_of_rows(top, row, (int)offsetof(block_q3_k, high) + 16 * half);
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m512i code[4];
            words_of_rows(code, row, (int)offsetof(block_q3_k, codes) + 32 * h + 16 * half);
            UNROLL
            for (int q = 0; q < 4; q++) {
                UNROLL
                for (int j = 0; j < 4; j++)
                    p->code[32 * h + 8 * q + 4 * half + j] =
                        merge(bytes_and(_mm512_srli_epi32(code[j], 2 * q), 3), to_bit(top[j], 4 * h + q, 2), 4);
            }
        }
    }
}

static void unpack_q6_k(q8k_panel *p, const uint8_t *const row[16])
{
    __m512i scales[4];
    words_of_rows(scales, row, offsetof(block_q6_k, scales));
    UNROLL
    for (int g = 0; g < 16; g++)
        p->scale[g] = _mm512_srai_epi32(_mm512_slli_epi32(scales[g / 4], 24 - g % 4 * 8), 24);
    p->d = high_halves(dwords16(row, sizeof(block_q6_k) - 4));

    for (int part = 0; part < 4; part++) {      /* columns 128h + 16half on, and those 32, 64, 96 after */
        const int h = part / 2, half = part % 2;
        __m512i top[4], low[2][4], *code = p->code + 32 * h + 4 * half;
        words_of_rows(top, row, (int)offsetof(block_q6_k, high) + 32 * h + 16 * half);
        words_of_rows(low[0], row, 64 * h + 16 * half);
        words_of_rows(low[1], row, 64 * h + 32 + 16 * half);
        UNROLL
        for (int k = 0; k < 4; k++) {
            UNROLL
            for (int j = 0; j < 4; j++)
                code[8 * k + j] = merge(bytes_and(_mm512_srli_epi32(low[k % 2][j], k / 2 * 4), 15),
                                        to_bit(top[j], 2 * k, 4), 48);
        }
    }
}

static void unpack_iq4_xs(q8k_panel *p, const uint8_t *const row[16])
{
    const __m128i level = _mm_add_epi8(load16(quant_iq4_levels), _mm_set1_epi8((char)128));
    const __m512i levels = _mm512_broadcast_i32x4(level);
    const __m512i first = dwords16(row, 0), low = dwords16(row, offsetof(block_iq4_xs, scales_low));
    p->d = low_halves(first);

    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m512i high = _mm512_and_si512(_mm512_srli_epi32(first, 12 + 2 * g), _mm512_set1_epi32(48));
        const __m512i scale = either(_mm512_and_si512(_mm512_srli_epi32(low, 4 * g), _mm512_set1_epi32(15)), high);
        p->scale[g] = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
    }
    for (int g = 0; g < 8; g++) {
        __m512i word[4];
        words_of_rows(word, row, (int)offsetof(block_iq4_xs, codes) + 16 * g);
        UNROLL
        for (int j = 0; j < 4; j++) {
            p->code[8 * g + j] = _mm512_shuffle_epi8(levels, bytes_and(word[j], 15));
            p->code[8 * g + j + 4] = _mm512_shuffle_epi8(levels, bytes_and(_mm512_srli_epi32(word[j], 4), 15));
        }
    }
}

#define K_TILE(type, group_, shift_, affine_)                                               \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        (void)k;                                                                            \
        static const q8k_type t = { unpack_##type, sizeof(block_##type), group_, shift_, affine_, 1.0f }; \
        q8k_tile(&t, a);                                                                    \
    }

K_TILE(q2_k, QK, 0, true)
K_TILE(q3_k, 16, 4, false)
K_TILE(q4_k, 32, 0, true)
K_TILE(q5_k, 32, 0, true)
K_TILE(q6_k, 16, 32, false)
K_TILE(iq4_xs, 32, 128, false)

void cpu_kq_avx512(cpu_kernels *k)
{
    k->tile[QUANT_Q2_K] = tile_q2_k;
    k->tile[QUANT_Q3_K] = tile_q3_k;
    k->tile[QUANT_Q4_K] = tile_q4_k;
    k->tile[QUANT_Q5_K] = tile_q5_k;
    k->tile[QUANT_Q6_K] = tile_q6_k;
    k->tile[QUANT_IQ4_XS] = tile_iq4_xs;
}
