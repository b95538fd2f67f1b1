/* attn_ref: the definitions of attn_kernels.h. */
#include "kernels/cpu/attn_kernels.h"

#include <math.h>

#include "base/checked.h"
#include "kernels/shared/formulas.h"
#include "quant/float_formats.h"


/* ---- rounding ---------------------------------------------------------------------- */

static float largest_magnitude(const float *x, int n)
{
    float m = 0.0f;
    for (int i = 0; i < n; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}

/* A block that does not divide the width leaves a shorter last one. */
static void round_fp8(float *x, int n)
{
    for (int first = 0; first < n; first += KV_FP8_GROUP) {
        const int len = min_int(KV_FP8_GROUP, n - first);
        float *v = x + first;
        const float scale = formula_fp8_scale(largest_magnitude(v, len));
        for (int i = 0; i < len; i++)
            v[i] = scale * formula_round_e4m3(formula_clamp(v[i] / scale, 448.0f));
    }
}

static void round_fp4(float *x, int n)
{
    for (int first = 0; first < n; first += KV_FP4_GROUP) {
        const int len = min_int(KV_FP4_GROUP, n - first);
        float *v = x + first;
        const float scale = formula_fp4_scale(largest_magnitude(v, len));
        for (int i = 0; i < len; i++)
            v[i] = scale * formula_round_e2m1(formula_clamp(v[i] / scale, 6.0f));
    }
}

/* Orthonormal Walsh-Hadamard transform in Sylvester order; n is a power of two. */
static void hadamard(float *x, int n)
{
    for (int stride = 1; stride < n; stride *= 2)
        for (int i = 0; i < n; i += 2 * stride)
            for (int j = i; j < i + stride; j++) {
                const float a = x[j], b = x[j + stride];
                x[j] = a + b;
                x[j + stride] = a - b;
            }
    const float scale = (float)(1.0 / sqrt((double)n));
    for (int i = 0; i < n; i++) x[i] *= scale;
}

void attn_round(kv_row r, float *x)
{
    if (r.kind == KV_ROW_FP8) round_fp8(x, r.n_round);
    if (r.kind == KV_ROW_FP4) {
        hadamard(x, r.width);
        round_fp4(x, r.width);
    }
}

/* ---- attention --------------------------------------------------------------------- */

static void scores(float *restrict s, const float *restrict q, int n_heads, const float *restrict rows, int n_rows, int K)
{
    for (int h = 0; h < n_heads; h++)
        for (int r = 0; r < n_rows; r++) {
            double sum = 0.0;
            for (int i = 0; i < K; i++) sum += (double)q[h * K + i] * rows[r * attn_row_stride(K) + i];
            s[h * ATTN_TILE + r] = (float)sum;
        }
}

static void weigh(float *restrict s, int n_heads, int n_rows, float scale, float *restrict top, float *restrict sum,
                  float *restrict keep)
{
    for (int h = 0; h < n_heads; h++, s += ATTN_TILE) {
        const float before = top[h];
        for (int r = 0; r < n_rows; r++) top[h] = fmaxf(top[h], scale * s[r]);
        keep[h] = expf(before - top[h]);

        double total = (double)sum[h] * keep[h];
        for (int r = 0; r < n_rows; r++) total += s[r] = expf(scale * s[r] - top[h]);
        sum[h] = (float)total;
    }
}

static void mix(float *restrict acc, const float *restrict keep, const float *restrict s, int n_heads,
                const float *restrict rows, int n_rows, int K)
{
    for (int h = 0; h < n_heads; h++)
        for (int i = 0; i < K; i++) {
            double sum = (double)keep[h] * acc[h * K + i];
            for (int r = 0; r < n_rows; r++) sum += (double)s[h * ATTN_TILE + r] * rows[r * attn_row_stride(K) + i];
            acc[h * K + i] = (float)sum;
        }
}

static void pool(float *restrict z, const float *const *value, const float *const *score, int n, int d)
{
    for (int c = 0; c < d; c++) {
        float top = -INFINITY, sum = 0.0f, acc = 0.0f;
        for (int i = 0; i < n; i++) top = fmaxf(top, score[i][c]);
        for (int i = 0; i < n; i++) {
            const float e = expf(score[i][c] - top);
            sum += e;
            acc += e * value[i][c];
        }
        z[c] = acc / sum;
    }
}

/* ---- indexer ---------------------------------------------------------------------- */

static uint64_t to_64(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

uint64_t index_query_bytes(int n_heads, int width)
{
    const uint64_t H = (uint64_t)n_heads, per_group = H * (uint64_t)(width / KV_FP4_GROUP) * 4;
    return to_64(H * (uint64_t)width) + 2 * to_64(per_group) + to_64(H * 4);
}

index_query index_query_at(void *memory, int n_heads, int width)
{
    const int groups = width / KV_FP4_GROUP;
    uint8_t *codes = memory, *scale = codes + to_64((uint64_t)n_heads * (uint64_t)width);
    uint8_t *start = scale + to_64((uint64_t)n_heads * (uint64_t)groups * 4);
    uint8_t *weight = start + to_64((uint64_t)n_heads * (uint64_t)groups * 4);
    return (index_query){ n_heads, width, groups, (int8_t *)codes, (float *)(void *)scale,
                          (int32_t *)(void *)start, (float *)(void *)weight };
}

uint64_t index_keys_bytes(int width)
{
    return to_64((uint64_t)INDEX_TILE * (uint64_t)width) + to_64((uint64_t)INDEX_TILE * (uint64_t)(width / KV_FP4_GROUP) * 4);
}

index_keys index_keys_at(void *memory, int width)
{
    uint8_t *codes = memory;
    return (index_keys){ codes, (float *)(void *)(codes + to_64((uint64_t)INDEX_TILE * (uint64_t)width)) };
}

/* Rounding picked a scale at least as coarse as the one found here, so that every
 * quotient is a code. */
static void index_fill(const index_query *q, const float *x, const float *weights, float scale)
{
    int8_t *code = q->codes;
    for (int g = 0; g < q->n_heads * q->groups; g++, x += KV_FP4_GROUP, code += KV_FP4_GROUP) {
        float most = 0.0f;
        for (int i = 0; i < KV_FP4_GROUP; i++) most = fmaxf(most, fabsf(x[i]));
        const float s = formula_fp4_scale(most), doubled = 2.0f / s;
        int sum = 0;
        for (int i = 0; i < KV_FP4_GROUP; i++) {
            const float v = x[i] * doubled;         /* a whole number; NaN becomes an end */
            code[i] = (int8_t)(v > 12.0f ? 12.0f : v > -12.0f ? v : -12.0f);
            sum += code[i];
        }
        q->scale[g] = 0.25f * s;
        q->start[g] = -12 * sum;
    }
    for (int h = 0; h < q->n_heads; h++) q->weight[h] = weights[h] * scale;
}

static void index_unpack(const index_keys *to, kv_row r, const uint8_t *rows, uint64_t stride, int n)
{
    const int groups = r.width / KV_FP4_GROUP;
    for (int k = 0; k < (n + 15) / 16 * 16; k++) {
        const uint8_t *row = rows + (uint64_t)k * stride;
        for (int i = 0; i < r.width; i++) {
            const int byte = k < n ? row[i / 32 * 16 + i % 16] : 0, code = i % 32 < 16 ? byte & 15 : byte >> 4;
            to->codes[((k / 16 * (r.width / 4) + i / 4) * 16 + k % 16) * 4 + i % 4] = (uint8_t)(e2m1_doubled(code) + 12);
        }
        for (int g = 0; g < groups; g++)
            to->scale[(k / 16 * groups + g) * 16 + k % 16] =
                k < n ? float_from_bits((uint32_t)row[kv_row_scales(r) + g] << 23) : 0.0f;
    }
}

static void index_scores(float *restrict score, const index_query *q, const index_keys *keys, int n)
{
    for (int k = 0; k < n; k++) {
        const uint8_t *codes = keys->codes + (size_t)(k / 16) * (size_t)q->width * 16 + 4 * (k % 16);
        float total = 0.0f;
        for (int h = 0; h < q->n_heads; h++) {
            float dot = 0.0f;
            for (int g = 0; g < q->groups; g++) {
                int sum = 0;
                for (int i = 32 * g; i < 32 * g + 32; i++)
                    sum += q->codes[h * q->width + i] * (codes[i / 4 * 64 + i % 4] - 12);
                dot += (float)sum * keys->scale[(k / 16 * q->groups + g) * 16 + k % 16] * q->scale[h * q->groups + g];
            }
            total += q->weight[h] * (dot > 0.0f ? dot : 0.0f);
        }
        score[k] = total;
    }
}

static int above(int32_t *restrict index, const float *restrict x, int first, int end, float least)
{
    int count = 0;
    for (int i = first; i < end; i++)
        if (x[i] > least) index[count++] = i;
    return count;
}

static void scale_row(float *y, float a, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = a * x[i];
}

void attn_kernels_ref(attn_kernels *k)
{
    *k = (attn_kernels){ .round = attn_round, .unpack = kv_row_unpack, .scores = scores, .weigh = weigh, .mix = mix,
                         .pool = pool,
                         .index_fill = index_fill, .index_unpack = index_unpack, .index_scores = index_scores,
                         .above = above, .scale = scale_row };
}
