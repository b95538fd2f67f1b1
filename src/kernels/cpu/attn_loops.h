/* attn_loops: the float loops of attn_kernels.h, written once for vector registers
 * of any width. Included by the file of each instruction set, which says first:
 *
 *   LANES             floats in a register, 4 to 16
 *   xor_lanes(v, s)   lane i of the result is lane i ^ s of v, s a power of two
 *   FMA(a, b, c)      a*b + c, fused
 *   BLOCK_HEADS, BLOCK_ROWS   results of `scores` that are in registers at once
 *   MIX_HEADS         and heads of `mix`, each with MIX_VECS registers
 *
 * Faster than the definitions because each register that is loaded meets several
 * others. Any K, any number of heads and rows; a row's gap is never read. The
 * remainders run through the same chains of additions as the blocks. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/attn_kernels.h"
#include "kernels/cpu/block_bits.h"
#include "kernels/shared/formulas.h"

typedef float   vec  __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef float   vec_in_memory __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec  load(const float *p)          { return *(const vec_in_memory *)p; }
INLINE void store(float *p, vec v)        { *(vec_in_memory *)p = v; }
INLINE vec  splat(float a)                { return a - (vec){ 0 }; }
INLINE vec  either(ivec m, vec a, vec b)  { return (vec)((m & (ivec)a) | (~m & (ivec)b)); }

/* Lanes i and i + n/2 are added until one is left. */
INLINE float sum_lanes(vec v)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) x[i] += x[i + n];
    return x[0];
}

INLINE float largest_lane(vec v)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int i = 1; i < LANES; i++) x[0] = x[i] > x[0] ? x[i] : x[0];
    return x[0];
}

/* e^x for x <= 0: 2^n * e^r with |r| <= ln(2)/2 and the series of e^r; 0 below
 * -88, NaN stays. n is found by adding 1.5 * 2^23, where floats have no fraction. */
INLINE vec exp_negative(vec x)
{
    x = either(x < splat(-88.0f), splat(-88.0f), x);
    const vec t = FMA(x, splat(1.44269504f), splat(12582912.0f)), n = t - splat(12582912.0f);
    vec r = FMA(n, splat(-0.693359375f), x);        /* ln(2) in two parts, the first with 9 bits */
    r = FMA(n, splat(2.12194440e-4f), r);
    vec p = splat(1.0f / 5040);
    p = FMA(p, r, splat(1.0f / 720));
    p = FMA(p, r, splat(1.0f / 120));
    p = FMA(p, r, splat(1.0f / 24));
    p = FMA(p, r, splat(1.0f / 6));
    p = FMA(p, r, splat(0.5f));
    p = FMA(p, r, splat(1.0f));
    p = FMA(p, r, splat(1.0f));
    return p * (vec)(((ivec)t - 0x4b400000 + 127) << 23);
}

/* ---- rounding -------------------------------------------------------------------- */

INLINE vec magnitude(vec x)               { return (vec)((ivec)x & 0x7fffffff); }
INLINE vec with_sign(vec a, vec x)        { return (vec)((ivec)a | ((ivec)x & INT32_MIN)); }
INLINE vec nearest(vec a)                 { return (a + splat(12582912.0f)) - splat(12582912.0f); }
INLINE vec clamp(vec x, float limit)
{
    return either(x > splat(limit), splat(limit), either(x < splat(-limit), splat(-limit), x));
}

/* NaN counts as nothing. n is a multiple of LANES. */
INLINE float largest_of(const float *x, int n)
{
    vec most = { 0 };
    for (int i = 0; i < n; i += LANES) {
        const vec m = magnitude(load(x + i));
        most = either(m > most, m, most);
    }
    return largest_lane(most);
}

/* formula_round_e4m3 */
INLINE vec round_e4m3(vec x)
{
    const vec a = magnitude(x);
    const ivec bits = (ivec)a, kept = (bits + 0x7ffff + ((bits >> 20) & 1)) & (int32_t)0xfff00000;
    const vec rounded = either(a < splat(0.015625f), nearest(a * splat(512.0f)) * splat(0.001953125f), (vec)kept);
    return with_sign(either(a <= splat(448.0f), rounded, x), x);
}

/* formula_round_e2m1: steps of a half, of one and of two. */
INLINE vec round_e2m1(vec x)
{
    const vec a = magnitude(x);
    const vec large = either(a < splat(4.0f), nearest(a), nearest(a * splat(0.5f)) * splat(2.0f));
    return with_sign(either(a < splat(2.0f), nearest(a * splat(2.0f)) * splat(0.5f), large), x);
}

/* The butterflies of the definition in its order; within a register a partner's lane
 * is turned in, and the upper one of a pair subtracts. */
INLINE void hadamard(float *x, int n)
{
    static const int32_t count[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    ivec lane;
    memcpy(&lane, count, sizeof lane);
    for (int i = 0; i < n; i += LANES) {
        vec v = load(x + i);
        UNROLL
        for (int s = 1; s < LANES; s *= 2) v = xor_lanes(v, s) + (vec)((ivec)v ^ (((lane & s) != 0) & INT32_MIN));
        store(x + i, v);
    }
    for (int s = LANES; s < n; s *= 2)
        for (int i = 0; i < n; i += 2 * s)
            for (int j = i; j < i + s; j += LANES) {
                const vec a = load(x + j), b = load(x + j + s);
                store(x + j, a + b);
                store(x + j + s, a - b);
            }
    const vec scale = splat((float)(1.0 / sqrt((double)n)));
    for (int i = 0; i < n; i += LANES) store(x + i, load(x + i) * scale);
}

/* Rows whose groups are not whole are left to the definition. */
static void round_row(kv_row r, float *x)
{
    const bool fp8 = r.kind == KV_ROW_FP8;
    const int group = fp8 ? KV_FP8_GROUP : KV_FP4_GROUP, n = fp8 ? r.n_round : r.width;
    if (r.kind == KV_ROW_F32 || n % group) {
        attn_round(r, x);
        return;
    }
    if (!fp8) hadamard(x, n);
    for (int first = 0; first < n; first += group) {
        const float most = largest_of(x + first, group), scale = fp8 ? formula_fp8_scale(most) : formula_fp4_scale(most);
        const vec s = splat(scale), inverse = splat(1.0f / scale);  /* powers of two: as good as a division */
        for (int i = first; i < first + group; i += LANES) {
            const vec v = load(x + i) * inverse;
            store(x + i, s * (fp8 ? round_e4m3(clamp(v, 448.0f)) : round_e2m1(clamp(v, 6.0f))));
        }
    }
}

/* ---- scores ---------------------------------------------------------------------- */

#ifndef SUM_BLOCK
/* s[h][r] = the lanes' sum of acc[h * BLOCK_ROWS + r] */
INLINE void SUM_BLOCK(float *s, const vec *acc)
{
    UNROLL
    for (int h = 0; h < BLOCK_HEADS; h++)
        UNROLL
        for (int r = 0; r < BLOCK_ROWS; r++) s[h * ATTN_TILE + r] = sum_lanes(acc[h * BLOCK_ROWS + r]);
}
#endif

INLINE void score_block(float *s, const float *q, const float *rows, int K, int n_heads, int n_rows)
{
    const int stride = attn_row_stride(K);
    vec acc[BLOCK_HEADS * BLOCK_ROWS] = { 0 };
    int i = 0;
    for (; i + LANES <= K; i += LANES) {
        vec x[BLOCK_ROWS];
        UNROLL
        for (int r = 0; r < n_rows; r++) x[r] = load(rows + r * stride + i);
        UNROLL
        for (int h = 0; h < n_heads; h++) {
            const vec a = load(q + h * K + i);
            UNROLL
            for (int r = 0; r < n_rows; r++) acc[h * n_rows + r] = FMA(a, x[r], acc[h * n_rows + r]);
        }
    }
    if (n_heads == BLOCK_HEADS && n_rows == BLOCK_ROWS) SUM_BLOCK(s, acc);
    else
        UNROLL
        for (int h = 0; h < n_heads; h++)
            UNROLL
            for (int r = 0; r < n_rows; r++) s[h * ATTN_TILE + r] = sum_lanes(acc[h * n_rows + r]);

    for (; i < K; i++)
        for (int h = 0; h < n_heads; h++)
            for (int r = 0; r < n_rows; r++) s[h * ATTN_TILE + r] += q[h * K + i] * rows[r * stride + i];
}

static void scores(float *restrict s, const float *restrict q, int n_heads, const float *restrict rows, int n_rows, int K)
{
    const int stride = attn_row_stride(K);
    int r = 0;
    for (; r + BLOCK_ROWS <= n_rows; r += BLOCK_ROWS) {
        int h = 0;
        for (; h + BLOCK_HEADS <= n_heads; h += BLOCK_HEADS)
            score_block(s + h * ATTN_TILE + r, q + h * K, rows + r * stride, K, BLOCK_HEADS, BLOCK_ROWS);
        for (; h < n_heads; h++) score_block(s + h * ATTN_TILE + r, q + h * K, rows + r * stride, K, 1, BLOCK_ROWS);
    }
    for (; r < n_rows; r++) {
        int h = 0;
        for (; h + BLOCK_HEADS <= n_heads; h += BLOCK_HEADS)
            score_block(s + h * ATTN_TILE + r, q + h * K, rows + r * stride, K, BLOCK_HEADS, 1);
        for (; h < n_heads; h++) score_block(s + h * ATTN_TILE + r, q + h * K, rows + r * stride, K, 1, 1);
    }
}

/* ---- softmax --------------------------------------------------------------------- */

static void weigh(float *restrict s, int n_heads, int n_rows, float scale, float *restrict top, float *restrict sum,
                  float *restrict keep)
{
    const int n = (n_rows + LANES - 1) / LANES * LANES;
    for (int h = 0; h < n_heads; h++, s += ATTN_TILE) {
        for (int r = n_rows; r < n; r++) s[r] = -__builtin_inff();
        const vec before = splat(top[h]);
        vec most = before;
        for (int r = 0; r < n; r += LANES) {
            const vec v = load(s + r) * splat(scale);
            most = either(v > most, v, most);
        }
        top[h] = largest_lane(most);

        const vec now = splat(top[h]);
        vec total = { 0 };
        for (int r = 0; r < n; r += LANES) {
            const vec e = exp_negative(load(s + r) * splat(scale) - now);
            store(s + r, e);
            total += e;
        }
        keep[h] = exp_negative(before - now)[0];
        sum[h] = sum[h] * keep[h] + sum_lanes(total);
    }
}

/* ---- weighted sum ------------------------------------------------------------------ */

INLINE void mix_block(float *acc, const float *keep, const float *s, const float *rows, int n_rows, int K, int n_heads,
                      int n_vecs)
{
    const int stride = attn_row_stride(K);
    vec a[MIX_HEADS * MIX_VECS];
    UNROLL
    for (int h = 0; h < n_heads; h++)
        UNROLL
        for (int v = 0; v < n_vecs; v++) a[h * n_vecs + v] = load(acc + h * K + v * LANES) * splat(keep[h]);

    for (int r = 0; r < n_rows; r++, rows += stride) {
        vec x[MIX_VECS];
        UNROLL
        for (int v = 0; v < n_vecs; v++) x[v] = load(rows + v * LANES);
        UNROLL
        for (int h = 0; h < n_heads; h++) {
            const vec w = splat(s[h * ATTN_TILE + r]);
            UNROLL
            for (int v = 0; v < n_vecs; v++) a[h * n_vecs + v] = FMA(w, x[v], a[h * n_vecs + v]);
        }
    }
    UNROLL
    for (int h = 0; h < n_heads; h++)
        UNROLL
        for (int v = 0; v < n_vecs; v++) store(acc + h * K + v * LANES, a[h * n_vecs + v]);
}

/* One strip of channels for all heads, so that the strip stays in the nearest cache. */
INLINE void mix_strip(float *acc, const float *keep, const float *s, int n_heads, const float *rows, int n_rows, int K,
                      int n_vecs)
{
    int h = 0;
    for (; h + MIX_HEADS <= n_heads; h += MIX_HEADS)
        mix_block(acc + h * K, keep + h, s + h * ATTN_TILE, rows, n_rows, K, MIX_HEADS, n_vecs);
    for (; h < n_heads; h++) mix_block(acc + h * K, keep + h, s + h * ATTN_TILE, rows, n_rows, K, 1, n_vecs);
}

static void mix(float *restrict acc, const float *restrict keep, const float *restrict s, int n_heads,
                const float *restrict rows, int n_rows, int K)
{
    int i = 0;
    for (; i + MIX_VECS * LANES <= K; i += MIX_VECS * LANES)
        mix_strip(acc + i, keep, s, n_heads, rows + i, n_rows, K, MIX_VECS);
    for (; i + LANES <= K; i += LANES) mix_strip(acc + i, keep, s, n_heads, rows + i, n_rows, K, 1);
    for (; i < K; i++)
        for (int h = 0; h < n_heads; h++) {
            float sum = acc[h * K + i] * keep[h];
            for (int r = 0; r < n_rows; r++) sum += s[h * ATTN_TILE + r] * rows[r * attn_row_stride(K) + i];
            acc[h * K + i] = sum;
        }
}

/* ---- the compressor's pooling ---------------------------------------------------------- */

INLINE vec pool_lanes(const float *const *value, const float *const *score, int n, int c)
{
    vec top = load(score[0] + c), sum = { 0 }, acc = { 0 };
    for (int i = 1; i < n; i++) {
        const vec s = load(score[i] + c);
        top = either(s > top, s, top);
    }
    for (int i = 0; i < n; i++) {
        const vec e = exp_negative(load(score[i] + c) - top);
        sum += e;
        acc = FMA(e, load(value[i] + c), acc);
    }
    return acc / sum;
}

static void pool(float *restrict z, const float *const *value, const float *const *score, int n, int d)
{
    int c = 0;
    for (; c + LANES <= d; c += LANES) store(z + c, pool_lanes(value, score, n, c));
    for (; c < d; c++) {
        float top = score[0][c], sum = 0.0f, acc = 0.0f;
        for (int i = 1; i < n; i++) top = fmaxf(top, score[i][c]);
        for (int i = 0; i < n; i++) {
            const float e = expf(score[i][c] - top);
            sum += e;
            acc += e * value[i][c];
        }
        z[c] = acc / sum;
    }
}

/* ---- the indexer's query ------------------------------------------------------------- */

static void index_fill(const index_query *q, const float *x, const float *weights, float scale)
{
    typedef int8_t bytes_in_memory __attribute__((vector_size(LANES), aligned(1), may_alias));
    int8_t *code = q->codes;
    for (int g = 0; g < q->n_heads * q->groups; g++, x += KV_FP4_GROUP, code += KV_FP4_GROUP) {
        const float s = formula_fp4_scale(largest_of(x, KV_FP4_GROUP));
        vec sum = { 0 };
        for (int i = 0; i < KV_FP4_GROUP; i += LANES) {
            vec v = load(x + i) * splat(2.0f / s);
            v = either(v > splat(12.0f), splat(12.0f), either(v > splat(-12.0f), v, splat(-12.0f)));
            const ivec whole = __builtin_convertvector(v, ivec);
            *(bytes_in_memory *)(code + i) = __builtin_convertvector(whole, bytes_in_memory);
            sum += __builtin_convertvector(whole, vec);
        }
        q->scale[g] = 0.25f * s;
        q->start[g] = -12 * (int32_t)sum_lanes(sum);
    }
    for (int h = 0; h < q->n_heads; h++) q->weight[h] = weights[h] * scale;
}

static void scale_row(float *y, float a, const float *x, int n)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(y + i, load(x + i) * splat(a));
    for (; i < n; i++) y[i] = a * x[i];
}
