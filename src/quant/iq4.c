/* iq4: 4-bit codes into sixteen uneven levels, close together near zero.
 *
 *   IQ4_NL   32 elements    x = d * level[code]
 *   IQ4_XS   256 elements   x = d * t * level[code], 6-bit signed t per 32 */
#include <math.h>
#include <string.h>
#include "quant/formats.h"
#include "quant/tables.h"

enum { N = 32, GROUPS = QK / N };

static const int8_t *const level = quant_iq4_levels;

/* Element j is the low nibble of byte j, element j + 16 the high nibble. */
static void unpack(int8_t value[N], const uint8_t nibbles[16])
{
    for (int j = 0; j < 16; j++) {
        value[j] = level[nibbles[j] & 15];
        value[j + 16] = level[nibbles[j] >> 4];
    }
}

static int group_scale(const block_iq4_xs *b, int g)
{
    const int low = b->scales_low[g / 2] >> g % 2 * 4 & 15, high = b->scales_high >> 2 * g & 3;
    return (low | high << 4) - 32;
}

static void iq4_nl_to_float(float *dst, const void *src, int64_t n)
{
    const block_iq4_nl *b = src;
    int8_t value[N];
    for (int64_t i = 0; i < n / N; i++) {
        const float d = half_to_float(b[i].d);
        unpack(value, b[i].codes);
        for (int e = 0; e < N; e++) dst[i * N + e] = d * (float)value[e];
    }
}

static float iq4_nl_dot(const void *w, const void *x, int64_t n)
{
    const block_iq4_nl *b = w;
    const block_q8_0 *a = x;
    int8_t value[N];
    float sum = 0.0f;
    for (int64_t i = 0; i < n / N; i++) {
        unpack(value, b[i].codes);
        sum += half_to_float(b[i].d) * half_to_float(a[i].d)
             * (float)dot_i8(value, a[i].codes, N);
    }
    return sum;
}

static void iq4_xs_to_float(float *dst, const void *src, int64_t n)
{
    const block_iq4_xs *b = src;
    int8_t value[N];
    for (int64_t i = 0; i < n / N; i++) {
        const block_iq4_xs *block = b + i / GROUPS;
        const int g = (int)(i % GROUPS);
        const float d = half_to_float(block->d) * (float)group_scale(block, g);
        unpack(value, block->codes + g * 16);
        for (int e = 0; e < N; e++) dst[i * N + e] = d * (float)value[e];
    }
}

static float iq4_xs_dot(const void *w, const void *x, int64_t n)
{
    const block_iq4_xs *b = w;
    const block_q8_k *a = x;
    int8_t value[N];
    float sum = 0.0f;
    for (int64_t i = 0; i < n / QK; i++) {
        int32_t bracket = 0;
        for (int g = 0; g < GROUPS; g++) {
            unpack(value, b[i].codes + g * 16);
            bracket += group_scale(&b[i], g) * dot_i8(value, a[i].codes + g * N, N);
        }
        sum += a[i].d * half_to_float(b[i].d) * (float)bracket;
    }
    return sum;
}

/* ---- encoding ---------------------------------------------------------------- */

/* The code of the level nearest to t; the upper one of two equally near. */
static int nearest_code(float t)
{
    if (!(t > (float)level[0])) return 0;
    for (int c = 1; c < 16; c++)
        if (t < (float)level[c])
            return t - (float)level[c - 1] < (float)level[c] - t ? c - 1 : c;
    return 15;
}

static void weights(float w[N], const float *x, const float *importance, float s2)
{
    if (importance) importance_weights(w, x, importance, s2, N);
    else for (int e = 0; e < N; e++) w[e] = x[e] * x[e];
}

/* The scale d for x ~ d * level, by least squares over a list of inverse scales:
 * the largest element first at 127, beyond the upper levels, then around the
 * lowest level, -127. 0 where x is as good as zero. */
static float search_scale(const float *x, const float *w)
{
    const float v = signed_max(x, N);
    if (fabsf(v) < 1e-15f) return 0.0f;

    float scale = 0.0f, best = 0.0f;
    for (int k = -8; k <= 7; k++) {
        const int first = k == -8;
        const float id = first ? 1.0f / (v / 127.0f) : ((float)k - 127.0f) / v;
        float wxl = 0.0f, wll = 0.0f;
        for (int e = 0; e < N; e++) {
            const float l = (float)level[nearest_code(id * x[e])];
            wxl += w[e] * l * x[e];
            wll += w[e] * l * l;
        }
        if (wll > 0.0f && (first || wxl * wxl > best * wll)) {
            scale = wxl / wll;
            best = scale * wxl;
        }
    }
    return scale;
}

static void pack(uint8_t nibbles[16], const float *x, float d)
{
    const float id = inverse(d);
    for (int j = 0; j < 16; j++)
        nibbles[j] = (uint8_t)(nearest_code(id * x[j]) | nearest_code(id * x[j + 16]) << 4);
}

static void iq4_nl_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_iq4_nl *b = dst;
    for (int64_t i = 0; i < n / N; i++) {
        const float *x = src + i * N;
        float w[N];
        weights(w, x, importance ? importance + i * N : NULL, 2.0f * mean_square(x, N));
        const float d = search_scale(x, w);
        b[i].d = float_to_half(d);
        pack(b[i].codes, x, d);         /* without a scale: the level nearest to 0 */
    }
}

static void iq4_xs_block(block_iq4_xs *b, const float *x, const float *importance)
{
    const float s2 = 2.0f * mean_square(x, QK);
    float scale[GROUPS], w[N];
    for (int g = 0; g < GROUPS; g++) {
        weights(w, x + g * N, importance ? importance + g * N : NULL, s2);
        scale[g] = search_scale(x + g * N, w);
    }
    const float d = -signed_max(scale, GROUPS) / 32.0f, id = inverse(d);
    b->d = float_to_half(d);
    b->scales_high = 0;
    memset(b->scales_low, 0, sizeof b->scales_low);
    for (int g = 0; g < GROUPS; g++) {
        const int l = level_of(id * scale[g], -32, 31), t = l + 32;
        b->scales_low[g / 2] |= (uint8_t)((t & 15) << g % 2 * 4);
        b->scales_high = (uint16_t)(b->scales_high | (t >> 4) << 2 * g);
        pack(b->codes + g * 16, x + g * N, d * (float)l);
    }
}

static void iq4_xs_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_iq4_xs *b = dst;
    for (int64_t i = 0; i < n / QK; i++)
        iq4_xs_block(&b[i], src + i * QK, importance ? importance + i * QK : NULL);
}

FROM_FLOAT_WITHOUT_IMPORTANCE(iq4_nl)
FROM_FLOAT_WITHOUT_IMPORTANCE(iq4_xs)

const quant_info quant_iq4_nl = { "IQ4_NL", N, sizeof(block_iq4_nl), QUANT_Q8_0,
                                  iq4_nl_to_float, iq4_nl_from_float, iq4_nl_encode, iq4_nl_dot };
const quant_info quant_iq4_xs = { "IQ4_XS", QK, sizeof(block_iq4_xs), QUANT_Q8_K,
                                  iq4_xs_to_float, iq4_xs_from_float, iq4_xs_encode, iq4_xs_dot };
