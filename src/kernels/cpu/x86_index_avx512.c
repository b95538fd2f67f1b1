/* x86_index_avx512: the indexer's integer dot products by VNNI, sixteen keys to a
 * register. Unpacking stays with AVX2. */
#include <immintrin.h>

#include "kernels/cpu/attn_kernels.h"
#include "kernels/cpu/block_bits.h"

#define HEADS 8                 /* independent sums that hide the instruction's latency */

/* Sixteen keys with some heads; a key's register meets all of them. */
static inline __attribute__((always_inline)) __m512 heads_dot(__m512 total, const index_query *q, int h0,
                                                              const uint8_t *codes, const float *scale, int n_heads)
{
    __m512 dot[HEADS];
    UNROLL
    for (int h = 0; h < n_heads; h++) dot[h] = _mm512_setzero_ps();
    for (int g = 0; g < q->groups; g++) {
        __m512i sum[HEADS];
        UNROLL
        for (int h = 0; h < n_heads; h++) sum[h] = _mm512_set1_epi32(q->start[(h0 + h) * q->groups + g]);
        UNROLL
        for (int w = 0; w < 8; w++) {
            const __m512i key = _mm512_load_si512(codes + 64 * (8 * g + w));
            UNROLL
            for (int h = 0; h < n_heads; h++)
                sum[h] = _mm512_dpbusd_epi32(
                    sum[h], key, _mm512_set1_epi32((int)word_at(q->codes + (h0 + h) * q->width + 32 * g, w)));
        }
        const __m512 s = _mm512_loadu_ps(scale + 16 * g);
        UNROLL
        for (int h = 0; h < n_heads; h++) {
            const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[h]), s);
            dot[h] = _mm512_add_ps(dot[h], _mm512_mul_ps(part, _mm512_set1_ps(q->scale[(h0 + h) * q->groups + g])));
        }
    }
    UNROLL
    for (int h = 0; h < n_heads; h++)                   /* NaN: 0, as in the definition */
        total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_set1_ps(q->weight[h0 + h]),
                                                   _mm512_max_ps(dot[h], _mm512_setzero_ps())));
    return total;
}

static void index_scores(float *restrict score, const index_query *q, const index_keys *keys, int n)
{
    for (int k = 0; k < n; k += 16) {
        const uint8_t *codes = keys->codes + (size_t)k * (size_t)q->width;
        const float *scale = keys->scale + k * q->groups;
        __m512 total = _mm512_setzero_ps();
        int h = 0;
        for (; h + HEADS <= q->n_heads; h += HEADS) total = heads_dot(total, q, h, codes, scale, HEADS);
        for (; h < q->n_heads; h++) total = heads_dot(total, q, h, codes, scale, 1);
        const __mmask16 some = n - k >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - k)) - 1);
        _mm512_mask_storeu_ps(score + k, some, total);
    }
}

void index_kernels_avx512(attn_kernels *k) { k->index_scores = index_scores; }
