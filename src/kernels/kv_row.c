#include "kernels/kv_row.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/shared/formulas.h"
#include "quant/float_formats.h"


static float largest_magnitude(const float *x, int n)
{
    float m = 0.0f;
    for (int i = 0; i < n; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}

/* Scales are powers of two: their exponent field says all. */
static uint8_t scale_code(float scale) { return (uint8_t)(float_bits(scale) >> 23); }
static float   scale_of(uint8_t code)  { return float_from_bits((uint32_t)code << 23); }

/* ---- FP8 ---------------------------------------------------------------------- */

static void pack_fp8(kv_row r, uint8_t *to, const float *x)
{
    uint8_t *scales = to + kv_row_scales(r), *tail = to + kv_row_tail(r);
    memset(to, 0, (size_t)kv_row_bytes(r));
    for (int first = 0; first < r.n_round; first += KV_FP8_GROUP) {
        const int n = min_int(KV_FP8_GROUP, r.n_round - first);
        const float scale = formula_fp8_scale(largest_magnitude(x + first, n));
        for (int i = first; i < first + n; i++) to[i] = float_to_e4m3(x[i] / scale);
        *scales++ = scale_code(scale);
    }
    for (int i = r.n_round; i < r.width; i++, tail += 2) {
        const uint16_t half = float_to_half(x[i]);
        memcpy(tail, &half, sizeof half);
    }
}

static void unpack_fp8(kv_row r, float *y, const uint8_t *from)
{
    const uint8_t *scales = from + kv_row_scales(r), *tail = from + kv_row_tail(r);
    for (int i = 0; i < r.n_round; i++) y[i] = e4m3_to_float(from[i]) * scale_of(scales[i / KV_FP8_GROUP]);
    for (int i = r.n_round; i < r.width; i++, tail += 2) {
        uint16_t half;
        memcpy(&half, tail, sizeof half);
        y[i] = half_to_float(half);
    }
}

/* ---- FP4 ---------------------------------------------------------------------- */

static int fp4_code(kv_row r, const uint8_t *row, int i)
{
    const int group = kv_row_fp4_group(r), half = group / 2;
    const int byte = row[i / group * half + i % half];
    return i % group < half ? byte & 15 : byte >> 4;
}

static void pack_fp4(kv_row r, uint8_t *to, const float *x)
{
    uint8_t *scales = to + kv_row_scales(r);
    const int group = kv_row_fp4_group(r), half = group / 2;
    for (int g = 0; g < r.width / group; g++, x += group, to += half) {
        const float scale = formula_fp4_scale(largest_magnitude(x, group));
        for (int i = 0; i < half; i++)
            to[i] = (uint8_t)(float_to_e2m1(x[i] / scale) | float_to_e2m1(x[i + half] / scale) << 4);
        scales[g] = scale_code(scale);
    }
}

static void unpack_fp4(kv_row r, float *y, const uint8_t *from)
{
    const uint8_t *scales = from + kv_row_scales(r);
    for (int i = 0; i < r.width; i++)
        y[i] = e2m1_to_float(fp4_code(r, from, i)) * scale_of(scales[i / kv_row_fp4_group(r)]);
}

/* ---- all ---------------------------------------------------------------------- */

void kv_row_pack(kv_row r, void *restrict to, const float *restrict x)
{
    if (r.kind == KV_ROW_FP8) pack_fp8(r, to, x);
    else if (r.kind == KV_ROW_FP4) pack_fp4(r, to, x);
    else memcpy(to, x, (size_t)r.width * sizeof *x);
}

void kv_row_unpack(kv_row r, float *restrict y, const void *restrict from)
{
    if (r.kind == KV_ROW_FP8) unpack_fp8(r, y, from);
    else if (r.kind == KV_ROW_FP4) unpack_fp4(r, y, from);
    else memcpy(y, from, (size_t)r.width * sizeof *y);
}

float kv_row_step(kv_row r, const void *row, int i)
{
    const uint8_t *bytes = row;
    if (r.kind == KV_ROW_FP8 && i < r.n_round) {    /* 2^-9 up to code 16, then doubling every 8 codes */
        const int exponent = (bytes[i] >> 3) & 15;
        return ldexpf(scale_of(bytes[kv_row_scales(r) + i / KV_FP8_GROUP]), (exponent > 1 ? exponent : 1) - 10);
    }
    if (r.kind == KV_ROW_FP4) {
        const int magnitude = fp4_code(r, bytes, i) & 7;
        return scale_of(bytes[kv_row_scales(r) + i / kv_row_fp4_group(r)]) *
               (magnitude < 4 ? 0.5f : magnitude < 6 ? 1.0f : 2.0f);
    }
    if (r.kind == KV_ROW_FP8) {                     /* the tail's halves */
        uint16_t half;
        memcpy(&half, bytes + kv_row_tail(r) + 2 * (i - r.n_round), sizeof half);
        const int exponent = (half >> 10) & 31;
        return ldexpf(1.0f, (exponent > 1 ? exponent : 1) - 25);
    }
    return 0.0f;
}
