/* fp4: blocks of 4-bit floats (E2M1) with small float scales.
 *
 *   MXFP4   32 elements, scale 2^(e-127)           (OCP Microscaling 1.0)
 *   NVFP4   64 elements, per 16 an unsigned E4M3 scale
 *
 * Values are doubled and scales halved, so that products stay whole numbers. */
#include <math.h>
#include "quant/formats.h"

enum { MX = 32, NV = 64, SUB = 16 };

/* Element j is the low nibble of byte j, element j + half the high nibble. */
static void unpack(int8_t *value, const uint8_t *nibbles, int half)
{
    for (int j = 0; j < half; j++) {
        value[j] = (int8_t)e2m1_doubled(nibbles[j] & 15);
        value[j + half] = (int8_t)e2m1_doubled(nibbles[j] >> 4);
    }
}

/* The code whose value is nearest to x, the lowest one of several. */
static int nearest_code(float x, float halved_scale)
{
    int best = 0;
    float best_error = fabsf(x);
    for (int code = 1; code < 16; code++) {
        const float error = fabsf((float)e2m1_doubled(code) * halved_scale - x);
        if (error < best_error) {
            best_error = error;
            best = code;
        }
    }
    return best;
}

static void pack(uint8_t *nibbles, const float *x, float halved_scale, int half)
{
    for (int j = 0; j < half; j++)
        nibbles[j] = (uint8_t)(nearest_code(x[j], halved_scale)
                             | nearest_code(x[j + half], halved_scale) << 4);
}

/* ---- MXFP4 ------------------------------------------------------------------ */

static void mxfp4_to_float(float *dst, const void *src, int64_t n)
{
    const block_mxfp4 *b = src;
    int8_t value[MX];
    for (int64_t i = 0; i < n / MX; i++) {
        const float d = e8m0_to_float_halved(b[i].e);
        unpack(value, b[i].codes, MX / 2);
        for (int e = 0; e < MX; e++) dst[i * MX + e] = (float)value[e] * d;
    }
}

static float mxfp4_dot(const void *w, const void *x, int64_t n)
{
    const block_mxfp4 *b = w;
    const block_q8_0 *a = x;
    int8_t value[MX];
    float sum = 0.0f;
    for (int64_t i = 0; i < n / MX; i++) {
        unpack(value, b[i].codes, MX / 2);
        sum += e8m0_to_float_halved(b[i].e) * half_to_float(a[i].d)
             * (float)dot_i8(value, a[i].codes, MX);
    }
    return sum;
}

/* floor(log2 a) - 2, from the exponent field: 6 = 1.5 * 2^2 is the largest value. */
static uint8_t mxfp4_scale(float a)
{
    const int e = (int)(float_bits(a) >> 23) - 2;
    return (uint8_t)(e < 0 ? 0 : e);
}

static void mxfp4_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    block_mxfp4 *b = dst;
    for (int64_t i = 0; i < n / MX; i++) {
        const float *x = src + i * MX;
        b[i].e = mxfp4_scale(fabsf(signed_max(x, MX)));
        pack(b[i].codes, x, e8m0_to_float_halved(b[i].e), MX / 2);
    }
}

/* ---- NVFP4 ------------------------------------------------------------------ */

static void nvfp4_to_float(float *dst, const void *src, int64_t n)
{
    const block_nvfp4 *b = src;
    int8_t value[SUB];
    for (int64_t i = 0; i < n / SUB; i++) {
        const block_nvfp4 *block = b + i / 4;
        const int s = (int)(i % 4);
        const float d = 0.5f * ue4m3_to_float(block->scales[s]);
        unpack(value, block->codes + s * 8, SUB / 2);
        for (int e = 0; e < SUB; e++) dst[i * SUB + e] = (float)value[e] * d;
    }
}

/* A sub-block of 16 meets half a Q8_0 block. */
static float nvfp4_dot(const void *w, const void *x, int64_t n)
{
    const block_nvfp4 *b = w;
    const block_q8_0 *a = x;
    int8_t value[SUB];
    float sum = 0.0f;
    for (int64_t i = 0; i < n / SUB; i++) {
        const block_nvfp4 *block = b + i / 4;
        const int s = (int)(i % 4);
        unpack(value, block->codes + s * 8, SUB / 2);
        sum += 0.5f * ue4m3_to_float(block->scales[s]) * half_to_float(a[i / 2].d)
             * (float)dot_i8(value, a[i / 2].codes + i % 2 * SUB, SUB);
    }
    return sum;
}

static void nvfp4_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    block_nvfp4 *b = dst;
    for (int64_t i = 0; i < n / SUB; i++) {
        const float *x = src + i * SUB;
        block_nvfp4 *block = b + i / 4;
        const int s = (int)(i % 4);
        block->scales[s] = float_to_ue4m3(fabsf(signed_max(x, SUB)) / 6.0f);
        pack(block->codes + s * 8, x, 0.5f * ue4m3_to_float(block->scales[s]), SUB / 2);
    }
}

FROM_FLOAT_WITHOUT_IMPORTANCE(mxfp4)
FROM_FLOAT_WITHOUT_IMPORTANCE(nvfp4)

const quant_info quant_mxfp4 = { "MXFP4", MX, sizeof(block_mxfp4), QUANT_Q8_0,
                                 mxfp4_to_float, mxfp4_from_float, mxfp4_encode, mxfp4_dot };
const quant_info quant_nvfp4 = { "NVFP4", NV, sizeof(block_nvfp4), QUANT_Q8_0,
                                 nvfp4_to_float, nvfp4_from_float, nvfp4_encode, nvfp4_dot };
