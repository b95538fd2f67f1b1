/* plain: F32, F16 and BF16. A block is one element, each rounded by itself, so
 * importance changes nothing. There are no integer blocks for a dot product to
 * be exact with; its sums are in double. */
#include <string.h>
#include "quant/formats.h"

static void f32_copy(float *dst, const void *src, int64_t n)
{
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

static void f32_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    memcpy(dst, src, (size_t)n * sizeof *src);
}

static float f32_dot(const void *w, const void *x, int64_t n)
{
    const float *a = w, *b = x;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return (float)sum;
}

static void f16_to_float(float *dst, const void *src, int64_t n)
{
    const uint16_t *h = src;
    for (int64_t i = 0; i < n; i++) dst[i] = half_to_float(h[i]);
}

static void f16_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    uint16_t *h = dst;
    for (int64_t i = 0; i < n; i++) h[i] = float_to_half(src[i]);
}

static float f16_dot(const void *w, const void *x, int64_t n)
{
    const uint16_t *a = w;
    const float *b = x;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)half_to_float(a[i]) * b[i];
    return (float)sum;
}

static void bf16_row_to_float(float *dst, const void *src, int64_t n)
{
    const uint16_t *h = src;
    for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_float(h[i]);
}

static void bf16_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    uint16_t *h = dst;
    for (int64_t i = 0; i < n; i++) h[i] = float_to_bf16(src[i]);
}

static float bf16_dot(const void *w, const void *x, int64_t n)
{
    const uint16_t *a = w;
    const float *b = x;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)bf16_to_float(a[i]) * b[i];
    return (float)sum;
}

FROM_FLOAT_WITHOUT_IMPORTANCE(f32)
FROM_FLOAT_WITHOUT_IMPORTANCE(f16)
FROM_FLOAT_WITHOUT_IMPORTANCE(bf16)

const quant_info quant_f32 = {
    "F32", 1, 4, QUANT_F32, f32_copy, f32_from_float, f32_encode, f32_dot };
const quant_info quant_f16 = {
    "F16", 1, 2, QUANT_F32, f16_to_float, f16_from_float, f16_encode, f16_dot };
const quant_info quant_bf16 = {
    "BF16", 1, 2, QUANT_F32, bf16_row_to_float, bf16_from_float, bf16_encode, bf16_dot };
