/* x86_attn_avx2: attention's inner loops in 256-bit registers. */
#include <immintrin.h>
#include <string.h>

#define LANES       8
#define FMA(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define BLOCK_HEADS 2
#define BLOCK_ROWS  4
#define MIX_HEADS   2
#define MIX_VECS    4
#define SUM_BLOCK   sum_block

#include "kernels/cpu/attn_kernels.h"

/* Four sums at once in the order of sum_lanes: lanes 4, 2 and 1 apart. */
static inline __attribute__((always_inline)) void sum_block(float *s, const void *acc)
{
    __m256 a[8];
    memcpy(a, acc, sizeof a);
    for (int h = 0; h < 2; h++) {
        __m128 x[4];
        for (int r = 0; r < 4; r++)
            x[r] = _mm_add_ps(_mm256_castps256_ps128(a[4 * h + r]), _mm256_extractf128_ps(a[4 * h + r], 1));
        const __m128 y0 = _mm_add_ps(_mm_unpacklo_ps(x[0], x[1]), _mm_unpackhi_ps(x[0], x[1]));
        const __m128 y1 = _mm_add_ps(_mm_unpacklo_ps(x[2], x[3]), _mm_unpackhi_ps(x[2], x[3]));
        _mm_storeu_ps(s + h * ATTN_TILE, _mm_add_ps(_mm_movelh_ps(y0, y1), _mm_movehl_ps(y1, y0)));
    }
}

/* s is a constant once the loop around it is written out. */
static inline __attribute__((always_inline)) __m256 xor_lanes(__m256 v, int s)
{
    return s == 1 ? _mm256_permute_ps(v, 0xb1) : s == 2 ? _mm256_permute_ps(v, 0x4e) : _mm256_permute2f128_ps(v, v, 1);
}

#include "kernels/cpu/attn_loops.h"

/* An E4M3 code is the upper half of a half float with 8 less in the exponent, so the
 * processor's conversion does it, subnormals too. NaN and scales at the ends of
 * their range are left to the definition. */
static void unpack(kv_row r, float *restrict y, const void *restrict row)
{
    const uint8_t *codes = row, *scales = codes + kv_row_scales(r), *tail = codes + kv_row_tail(r);
    if (r.kind != KV_ROW_FP8 || r.n_round % KV_FP8_GROUP || (r.width - r.n_round) % 8) {
        kv_row_unpack(r, y, row);
        return;
    }
    const __m128i sign = _mm_set1_epi8(-128), ones = _mm_set1_epi8(-1);
    for (int i = 0; i < r.n_round; i += 16) {
        const __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(codes + i));
        const int e = scales[i / KV_FP8_GROUP];
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(c, sign), ones)) || e < 1 || e > 240) {
            kv_row_unpack(r, y, row);
            return;
        }
        const __m256 scale = _mm256_castsi256_ps(_mm256_set1_epi32((e + 8) << 23));
        const __m256i w = _mm256_cvtepu8_epi16(c);
        const __m256i magnitude = _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16(0x3f80));
        const __m256i half = _mm256_or_si256(magnitude, _mm256_and_si256(_mm256_slli_epi16(w, 8),
                                                                         _mm256_set1_epi16(-32768)));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(scale, _mm256_cvtph_ps(_mm256_castsi256_si128(half))));
        _mm256_storeu_ps(y + i + 8, _mm256_mul_ps(scale, _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))));
    }
    for (int i = r.n_round; i < r.width; i += 8, tail += 16)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)tail)));
}

static int above(int32_t *restrict index, const float *restrict x, int first, int end, float least)
{
    int count = 0, i = first;
    for (; i + 8 <= end; i += 8) {
        unsigned more = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(least),
                                                                   _CMP_GT_OQ));
        for (; more; more &= more - 1) index[count++] = i + __builtin_ctz(more);
    }
    for (; i < end; i++)
        if (x[i] > least) index[count++] = i;
    return count;
}

void attn_kernels_avx2(attn_kernels *k)
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
