/* x86_attn_avx512: attention's inner loops in 512-bit registers. */
#include <immintrin.h>
#include <string.h>

#define LANES       16
#define FMA(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define BLOCK_HEADS 4
#define BLOCK_ROWS  4
#define MIX_HEADS   4
#define MIX_VECS    4
#define SUM_BLOCK   sum_block

#include "kernels/cpu/attn_kernels.h"

/* Sixteen sums at once: two registers become one with half the lanes of each to
 * go, in the order of sum_lanes. Level by level the lanes that meet are 8, 4, 2
 * and 1 apart. */
static inline __m512 fold_8(__m512 a, __m512 b)     /* a0+a2 a1+a3 b0+b2 b1+b3, four lanes each */
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
static inline __m512 fold_4(__m512 a, __m512 b)     /* the same within pairs: a0+a1 a2+a3 b0+b1 b2+b3 */
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
static inline __m512 fold_2(__m512 a, __m512 b)     /* in each four lanes: a0+a2 b0+b2 a1+a3 b1+b3 */
{
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}
static inline __m512 fold_1(__m512 a, __m512 b)     /* a0+a2 a1+a3 b0+b2 b1+b3 */
{
    const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    const __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    return _mm512_add_ps(low, high);
}

/* Result h, r is in acc[4h + r]. Head by head through fold_8 and fold_4, so that four
 * lanes of a register belong to one pair of head and row. */
static inline __attribute__((always_inline)) void sum_block(float *s, const void *acc)
{
    __m512 a[16], four[4];
    memcpy(a, acc, sizeof a);
    for (int r = 0; r < 4; r++)                     /* four lanes of h 0, 1, 2, 3 in this order */
        four[r] = fold_4(fold_8(a[r], a[4 + r]), fold_8(a[8 + r], a[12 + r]));
    const __m512 sums = fold_1(fold_2(four[0], four[1]), fold_2(four[2], four[3]));
    for (int h = 0; h < 4; h++)
        _mm_storeu_ps(s + h * ATTN_TILE, h == 0 ? _mm512_castps512_ps128(sums) : h == 1 ? _mm512_extractf32x4_ps(sums, 1)
                                       : h == 2 ? _mm512_extractf32x4_ps(sums, 2) : _mm512_extractf32x4_ps(sums, 3));
}

/* s is a constant once the loop around it is written out. */
static inline __attribute__((always_inline)) __m512 xor_lanes(__m512 v, int s)
{
    return s == 1 ? _mm512_permute_ps(v, 0xb1) : s == 2 ? _mm512_permute_ps(v, 0x4e)
         : s == 4 ? _mm512_shuffle_f32x4(v, v, 0xb1) : _mm512_shuffle_f32x4(v, v, 0x4e);
}

#include "kernels/cpu/attn_loops.h"

/* An E4M3 code is the upper half of a half float with 8 less in the exponent, so the
 * processor's conversion does it, subnormals too. NaN and scales at the ends of
 * their range are left to the definition. */
static void unpack(kv_row r, float *restrict y, const void *restrict row)
{
    const uint8_t *codes = row, *scales = codes + kv_row_scales(r), *tail = codes + kv_row_tail(r);
    const int groups = r.n_round / KV_FP8_GROUP;
    if (r.kind != KV_ROW_FP8 || r.n_round % KV_FP8_GROUP || (r.width - r.n_round) % 16) {
        kv_row_unpack(r, y, row);
        return;
    }
    const __m512i sign = _mm512_set1_epi8(-128), ones = _mm512_set1_epi8(-1);
    for (int g = 0; g < groups; g++) {
        const __m512i c = _mm512_loadu_si512(codes + 64 * g);
        if (_mm512_cmpeq_epi8_mask(_mm512_or_si512(c, sign), ones) || scales[g] < 1 || scales[g] > 240) {
            kv_row_unpack(r, y, row);
            return;
        }
        const __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((scales[g] + 8) << 23));
        for (int i = 0; i < 2; i++) {
            const __m512i w = _mm512_cvtepu8_epi16(i ? _mm512_extracti64x4_epi64(c, 1) : _mm512_castsi512_si256(c));
            const __m512i magnitude = _mm512_and_si512(_mm512_slli_epi16(w, 7), _mm512_set1_epi16(0x3f80));
            const __m512i half = _mm512_ternarylogic_epi32(magnitude, _mm512_slli_epi16(w, 8),
                                                           _mm512_set1_epi16(-32768), 0xf8);
            float *to = y + 64 * g + 32 * i;
            _mm512_storeu_ps(to, _mm512_mul_ps(scale, _mm512_cvtph_ps(_mm512_castsi512_si256(half))));
            _mm512_storeu_ps(to + 16, _mm512_mul_ps(scale, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1))));
        }
    }
    for (int i = r.n_round; i < r.width; i += 16, tail += 32)
        _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)tail)));
}

static int above(int32_t *restrict index, const float *restrict x, int first, int end, float least)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int i = first; i < end; i += 16) {
        const __mmask16 inside = end - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (end - i)) - 1);
        const __mmask16 more = _mm512_mask_cmp_ps_mask(inside, _mm512_maskz_loadu_ps(inside, x + i),
                                                       _mm512_set1_ps(least), _CMP_GT_OQ);
        if (!more) continue;
        _mm512_mask_compressstoreu_epi32(index + count, more, _mm512_add_epi32(lanes, _mm512_set1_epi32(i)));
        count += __builtin_popcount(more);
    }
    return count;
}

void attn_kernels_avx512(attn_kernels *k)
{
    k->round = round_row;
    k->unpack = unpack;
    k->index_fill = index_fill;
    k->above = above;
    k->scores = scores;
    k->weigh = weigh;
    k->mix = mix;
    k->pool = pool;
    k->scale = scale_row;
}
