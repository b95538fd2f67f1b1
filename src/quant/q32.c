/* q32: blocks of 32 with one scale: Q4_0 to Q5_1, Q8_0, and Q8_1 for activations.
 *
 *   Q4_0, Q5_0   x = (code - N) * d      N = 8, 16: symmetric
 *   Q4_1, Q5_1   x = code * d + m        affine
 *   Q8_0         x = code * d            signed codes
 *
 * Low four code bits: element j < 16 is the low nibble of byte j, element
 * j + 16 the high nibble. Fifth bit of element e: bit e of `high`. */
#include <math.h>
#include <string.h>
#include "quant/formats.h"
#include "quant/search.h"

enum { N = 32 };

static void unpack4(int8_t code[N], const uint8_t nibbles[16], int shift)
{
    for (int j = 0; j < 16; j++) {
        code[j] = (int8_t)((nibbles[j] & 15) - shift);
        code[j + 16] = (int8_t)((nibbles[j] >> 4) - shift);
    }
}

static void unpack5(int8_t code[N], const uint8_t nibbles[16], const uint8_t high[4], int shift)
{
    unpack4(code, nibbles, shift);
    for (int e = 0; e < N; e++) code[e] = (int8_t)(code[e] + 16 * (high[e / 8] >> e % 8 & 1));
}

static void pack4(uint8_t nibbles[16], const uint8_t code[N])
{
    for (int j = 0; j < 16; j++)
        nibbles[j] = (uint8_t)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static void pack5(uint8_t nibbles[16], uint8_t high[4], const uint8_t code[N])
{
    pack4(nibbles, code);
    memset(high, 0, 4);
    for (int e = 0; e < N; e++) high[e / 8] |= (uint8_t)((code[e] >> 4) << e % 8);
}

/* ---- decoding ------------------------------------------------------------- */

static void scaled(float *dst, const int8_t code[N], float d)
{
    for (int e = 0; e < N; e++) dst[e] = (float)code[e] * d;
}

static void scaled_shifted(float *dst, const int8_t code[N], float d, float m)
{
    for (int e = 0; e < N; e++) dst[e] = (float)code[e] * d + m;
}

static void q4_0_to_float(float *dst, const void *src, int64_t n)
{
    const block_q4_0 *b = src;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack4(code, b[i].codes, 8);
        scaled(dst + i * N, code, half_to_float(b[i].d));
    }
}

static void q4_1_to_float(float *dst, const void *src, int64_t n)
{
    const block_q4_1 *b = src;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack4(code, b[i].codes, 0);
        scaled_shifted(dst + i * N, code, half_to_float(b[i].d), half_to_float(b[i].m));
    }
}

static void q5_0_to_float(float *dst, const void *src, int64_t n)
{
    const block_q5_0 *b = src;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack5(code, b[i].codes, b[i].high, 16);
        scaled(dst + i * N, code, half_to_float(b[i].d));
    }
}

static void q5_1_to_float(float *dst, const void *src, int64_t n)
{
    const block_q5_1 *b = src;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack5(code, b[i].codes, b[i].high, 0);
        scaled_shifted(dst + i * N, code, half_to_float(b[i].d), half_to_float(b[i].m));
    }
}

static void q8_0_to_float(float *dst, const void *src, int64_t n)
{
    const block_q8_0 *b = src;
    for (int64_t i = 0; i < n / N; i++) scaled(dst + i * N, b[i].codes, half_to_float(b[i].d));
}

static void q8_1_to_float(float *dst, const void *src, int64_t n)
{
    const block_q8_1 *b = src;
    for (int64_t i = 0; i < n / N; i++) scaled(dst + i * N, b[i].codes, half_to_float(b[i].d));
}

/* ---- dot products against Q8_0 (symmetric) and Q8_1 (affine) -------------- *
 * Symmetric: d_w*d_a * [sum code*a].  Affine: the same + m_w * s_a, where
 * s_a = d_a * sum a came with the activation. */

static float q4_0_dot(const void *w, const void *x, int64_t n)
{
    const block_q4_0 *b = w;
    const block_q8_0 *a = x;
    float sum = 0.0f;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack4(code, b[i].codes, 8);
        sum += half_to_float(b[i].d) * half_to_float(a[i].d) * (float)dot_i8(code, a[i].codes, N);
    }
    return sum;
}

static float q5_0_dot(const void *w, const void *x, int64_t n)
{
    const block_q5_0 *b = w;
    const block_q8_0 *a = x;
    float sum = 0.0f;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack5(code, b[i].codes, b[i].high, 16);
        sum += half_to_float(b[i].d) * half_to_float(a[i].d) * (float)dot_i8(code, a[i].codes, N);
    }
    return sum;
}

static float q8_0_dot(const void *w, const void *x, int64_t n)
{
    const block_q8_0 *b = w, *a = x;
    float sum = 0.0f;
    for (int64_t i = 0; i < n / N; i++)
        sum += half_to_float(b[i].d) * half_to_float(a[i].d)
             * (float)dot_i8(b[i].codes, a[i].codes, N);
    return sum;
}

static float q4_1_dot(const void *w, const void *x, int64_t n)
{
    const block_q4_1 *b = w;
    const block_q8_1 *a = x;
    float sum = 0.0f;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack4(code, b[i].codes, 0);
        sum += half_to_float(b[i].d) * half_to_float(a[i].d) * (float)dot_i8(code, a[i].codes, N)
             + half_to_float(b[i].m) * half_to_float(a[i].s);
    }
    return sum;
}

static float q5_1_dot(const void *w, const void *x, int64_t n)
{
    const block_q5_1 *b = w;
    const block_q8_1 *a = x;
    float sum = 0.0f;
    int8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        unpack5(code, b[i].codes, b[i].high, 0);
        sum += half_to_float(b[i].d) * half_to_float(a[i].d) * (float)dot_i8(code, a[i].codes, N)
             + half_to_float(b[i].m) * half_to_float(a[i].s);
    }
    return sum;
}

/* ---- encoding -------------------------------------------------------------- */

/* Symmetric codes 0..2*half-1 of one block; returns d. The element of greatest
 * magnitude gets code 0, so that the range reaches it exactly. */
static float encode_symmetric(uint8_t code[N], const float *x, int half)
{
    const float d = signed_max(x, N) / -(float)half, id = inverse(d);
    for (int e = 0; e < N; e++)
        code[e] = (uint8_t)truncated(x[e] * id + (float)half + 0.5f, 2 * half - 1);
    return d;
}

/* Affine codes 0..top of one block; returns d and *m. */
static float encode_affine(uint8_t code[N], const float *x, int top, float *m)
{
    float low = x[0], high = x[0];
    for (int e = 1; e < N; e++) {
        if (x[e] < low) low = x[e];
        if (x[e] > high) high = x[e];
    }
    const float d = (high - low) / (float)top, id = inverse(d);
    for (int e = 0; e < N; e++) code[e] = (uint8_t)truncated((x[e] - low) * id + 0.5f, top);
    *m = low;
    return d;
}

/* One block; s2 is the mean square of the whole row. */
static float symmetric_block(uint8_t code[N], const float *x, const float *importance,
                             float s2, int half)
{
    if (!importance) return encode_symmetric(code, x, half);
    float w[N];
    importance_weights(w, x, importance, s2, N);
    return search_symmetric(N, half, x, w, code);
}

static float affine_block(uint8_t code[N], const float *x, const float *importance,
                          float s2, int top, float *m)
{
    if (!importance) return encode_affine(code, x, top, m);
    static const affine_grid grid = { -0.9f, 0.05f, 36, 0 };
    float w[N], offset;
    importance_weights(w, x, importance, s2, N);
    const float d = search_affine(N, top, x, w, grid, code, &offset);
    *m = -offset;
    return d;
}

/* Each encoder walks the row's blocks; c is the block's slice of importance. */

static void q4_0_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q4_0 *b = dst;
    const float s2 = mean_square(src, n);
    uint8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        const float *c = importance ? importance + i * N : NULL;
        b[i].d = float_to_half(symmetric_block(code, src + i * N, c, s2, 8));
        pack4(b[i].codes, code);
    }
}

static void q5_0_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q5_0 *b = dst;
    const float s2 = mean_square(src, n);
    uint8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        const float *c = importance ? importance + i * N : NULL;
        b[i].d = float_to_half(symmetric_block(code, src + i * N, c, s2, 16));
        pack5(b[i].codes, b[i].high, code);
    }
}

static void q4_1_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q4_1 *b = dst;
    const float s2 = mean_square(src, n);
    uint8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        const float *c = importance ? importance + i * N : NULL;
        float m;
        b[i].d = float_to_half(affine_block(code, src + i * N, c, s2, 15, &m));
        b[i].m = float_to_half(m);
        pack4(b[i].codes, code);
    }
}

static void q5_1_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q5_1 *b = dst;
    const float s2 = mean_square(src, n);
    uint8_t code[N];
    for (int64_t i = 0; i < n / N; i++) {
        const float *c = importance ? importance + i * N : NULL;
        float m;
        b[i].d = float_to_half(affine_block(code, src + i * N, c, s2, 31, &m));
        b[i].m = float_to_half(m);
        pack5(b[i].codes, b[i].high, code);
    }
}

/* Codes -127..127 of one block, halves away from zero; returns d. */
static float encode_signed(int8_t code[N], const float *x)
{
    const float d = fabsf(signed_max(x, N)) / 127.0f, id = inverse(d);
    for (int e = 0; e < N; e++) code[e] = (int8_t)roundf(x[e] * id);
    return d;
}

static void q8_0_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    block_q8_0 *b = dst;
    for (int64_t i = 0; i < n / N; i++)
        b[i].d = float_to_half(encode_signed(b[i].codes, src + i * N));
}

static void q8_1_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    block_q8_1 *b = dst;
    for (int64_t i = 0; i < n / N; i++) {
        const float d = encode_signed(b[i].codes, src + i * N);
        int sum = 0;
        for (int e = 0; e < N; e++) sum += b[i].codes[e];
        b[i].d = float_to_half(d);
        b[i].s = float_to_half((float)sum * d);
    }
}

FROM_FLOAT_WITHOUT_IMPORTANCE(q4_0)
FROM_FLOAT_WITHOUT_IMPORTANCE(q4_1)
FROM_FLOAT_WITHOUT_IMPORTANCE(q5_0)
FROM_FLOAT_WITHOUT_IMPORTANCE(q5_1)
FROM_FLOAT_WITHOUT_IMPORTANCE(q8_0)
FROM_FLOAT_WITHOUT_IMPORTANCE(q8_1)

const quant_info quant_q4_0 = { "Q4_0", N, sizeof(block_q4_0), QUANT_Q8_0,
                                q4_0_to_float, q4_0_from_float, q4_0_encode, q4_0_dot };
const quant_info quant_q4_1 = { "Q4_1", N, sizeof(block_q4_1), QUANT_Q8_1,
                                q4_1_to_float, q4_1_from_float, q4_1_encode, q4_1_dot };
const quant_info quant_q5_0 = { "Q5_0", N, sizeof(block_q5_0), QUANT_Q8_0,
                                q5_0_to_float, q5_0_from_float, q5_0_encode, q5_0_dot };
const quant_info quant_q5_1 = { "Q5_1", N, sizeof(block_q5_1), QUANT_Q8_1,
                                q5_1_to_float, q5_1_from_float, q5_1_encode, q5_1_dot };
const quant_info quant_q8_0 = { "Q8_0", N, sizeof(block_q8_0), QUANT_Q8_0,
                                q8_0_to_float, q8_0_from_float, q8_0_encode, q8_0_dot };
const quant_info quant_q8_1 = { "Q8_1", N, sizeof(block_q8_1), QUANT_Q8_1,
                                q8_1_to_float, q8_1_from_float, q8_1_encode, NULL };
