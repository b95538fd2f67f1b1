/* x86_index_avx2: the indexer's integer dot products, eight keys to a register. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/attn_kernels.h"
#include "kernels/cpu/block_bits.h"

/* Four rows at a time: a group's 16 bytes of each are turned so that four numbers of
 * one row stand beside the same four of the next, then codes become numbers by a
 * table of 16. */
static void index_unpack(const index_keys *to, kv_row r, const uint8_t *rows, uint64_t stride, int n)
{
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    const __m128i low = _mm_set1_epi8(15);
    const int groups = r.width / KV_FP4_GROUP, words = r.width / 4;
    static const uint8_t nothing[16];

    for (int k = 0; k < (n + 15) / 16 * 16; k += 4) {
        const uint8_t *row[4];
        for (int j = 0; j < 4; j++) row[j] = k + j < n ? rows + (uint64_t)(k + j) * stride : NULL;
        uint8_t *codes = to->codes + ((size_t)(k / 16 * words) * 16 + (size_t)(k % 16)) * 4;
        for (int g = 0; g < groups; g++) {
            __m128i x[4];
            UNROLL
            for (int j = 0; j < 4; j++)
                x[j] = _mm_loadu_si128((const __m128i *)(const void *)(row[j] ? row[j] + 16 * g : nothing));
            const __m128i a = _mm_unpacklo_epi32(x[0], x[1]), b = _mm_unpacklo_epi32(x[2], x[3]);
            const __m128i c = _mm_unpackhi_epi32(x[0], x[1]), d = _mm_unpackhi_epi32(x[2], x[3]);
            const __m128i word[4] = { _mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b),
                                      _mm_unpacklo_epi64(c, d), _mm_unpackhi_epi64(c, d) };
            UNROLL
            for (int w = 0; w < 4; w++) {
                uint8_t *out = codes + 64 * (8 * g + w);
                const __m128i high = _mm_and_si128(_mm_srli_epi16(word[w], 4), low);
                _mm_storeu_si128((__m128i *)(void *)out, _mm_shuffle_epi8(table, _mm_and_si128(word[w], low)));
                _mm_storeu_si128((__m128i *)(void *)(out + 4 * 64), _mm_shuffle_epi8(table, high));
            }
        }
        for (int j = 0; j < 4; j++)
            for (int g = 0; g < groups; g++) {
                const uint32_t bits = row[j] ? (uint32_t)row[j][kv_row_scales(r) + g] << 23 : 0;
                memcpy(&to->scale[(k / 16 * groups + g) * 16 + (k + j) % 16], &bits, 4);
            }
    }
}

/* Eight keys with one head: pairs of products add up to 16 bits within a group, at
 * most 32 * 24 * 12 in all. */
static inline __attribute__((always_inline)) __m256 head_dot(const index_query *q, int h, const uint8_t *codes,
                                                             const float *scale)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 dot = _mm256_setzero_ps();
    for (int g = 0; g < q->groups; g++) {
        const int8_t *x = q->codes + h * q->width + 32 * g;
        __m256i sum = _mm256_setzero_si256();
        UNROLL
        for (int w = 0; w < 8; w++) {
            const __m256i key = _mm256_load_si256((const __m256i *)(const void *)(codes + 64 * (8 * g + w)));
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(key, _mm256_set1_epi32((int)word_at(x, w))));
        }
        const __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(sum, ones),
                                               _mm256_set1_epi32(q->start[h * q->groups + g]));
        const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_loadu_ps(scale + 16 * g));
        dot = _mm256_add_ps(dot, _mm256_mul_ps(part, _mm256_set1_ps(q->scale[h * q->groups + g])));
    }
    return _mm256_max_ps(dot, _mm256_setzero_ps());     /* NaN: 0, as in the definition */
}

static void index_scores(float *restrict score, const index_query *q, const index_keys *keys, int n)
{
    for (int k = 0; k < n; k += 8) {
        const uint8_t *codes = keys->codes + (size_t)(k / 16) * (size_t)q->width * 16 + 4 * (k % 16);
        const float *scale = keys->scale + k / 16 * q->groups * 16 + k % 16;
        __m256 total = _mm256_setzero_ps();
        for (int h = 0; h < q->n_heads; h++)
            total = _mm256_add_ps(total, _mm256_mul_ps(_mm256_set1_ps(q->weight[h]), head_dot(q, h, codes, scale)));
        float eight[8];
        _mm256_storeu_ps(n - k >= 8 ? score + k : eight, total);
        if (n - k < 8) memcpy(score + k, eight, (size_t)(n - k) * sizeof *score);
    }
}

void index_kernels_avx2(attn_kernels *k)
{
    k->index_unpack = index_unpack;
    k->index_scores = index_scores;
}
