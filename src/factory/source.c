#include "factory/source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "quant/blocks.h"
#include "quant/float_formats.h"

#define TILE      128           /* F8_E4M3: rows and columns that share a scale */
#define FP4_GROUP 32            /* FP4: inputs that share a scale               */

/* ---- opening ----------------------------------------------------------- */

/* A vector of one may be stored as a scalar. */
static bool has_shape(const stored_tensor *t, int n_dims, uint64_t rows, uint64_t cols)
{
    if (n_dims == 1) return (t->n_dims == 1 && t->dims[0] == cols) || (t->n_dims == 0 && cols == 1);
    return t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols;
}

static ds4_status wrong_shape(const stored_tensor *t, int n_dims, uint64_t rows, uint64_t cols, ds4_error *err)
{
    char got[160], want[64];
    stored_shape_text(t, got, sizeof got);
    if (n_dims == 1) snprintf(want, sizeof want, "[%llu]", (unsigned long long)cols);
    else snprintf(want, sizeof want, "[%llu, %llu]", (unsigned long long)rows, (unsigned long long)cols);
    return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s has shape %s, the configuration says %s", t->path, t->name,
                    got, want);
}

static ds4_status wrong_type(const stored_tensor *t, const char *want, ds4_error *err)
{
    return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s has dtype %s, expected %s", t->path, t->name,
                    stored_type_name(t->type), want);
}

/* "X.weight" is scaled by "X.scale" (V4) or "X.weight_scale_inv" (V3). */
static const stored_tensor *find_scales(const checkpoint *c, const char *name)
{
    char other[256];
    const size_t n = strlen(name), tail = strlen(".weight");
    if (n <= tail || strcmp(name + n - tail, ".weight")) return NULL;
    snprintf(other, sizeof other, "%.*s.scale", (int)(n - tail), name);
    const stored_tensor *t = checkpoint_find(c, other);
    if (t) return t;
    snprintf(other, sizeof other, "%s_scale_inv", name);
    return checkpoint_find(c, other);
}

static ds4_status open_scaled(source *s, const checkpoint *c, ds4_error *err)
{
    const stored_tensor *t = s->values;
    s->packed = t->type != STORED_F8_E4M3;
    s->scales = find_scales(c, t->name);
    if (!s->scales)
        return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s is %s without a scale tensor", t->path, t->name,
                        stored_type_name(t->type));

    const uint64_t rows = s->packed ? s->n_rows : (s->n_rows + TILE - 1) / TILE;
    const uint64_t cols = s->packed ? s->n_cols / FP4_GROUP : (s->n_cols + TILE - 1) / TILE;
    if (!has_shape(s->scales, 2, rows, cols)) return wrong_shape(s->scales, 2, rows, cols, err);
    if (s->scales->type == STORED_F8_E8M0 || (!s->packed && s->scales->type == STORED_F32)) return DS4_OK;
    return wrong_type(s->scales, s->packed ? "F8_E8M0" : "F8_E8M0 or F32", err);
}

static ds4_status find(source *s, const checkpoint *c, const char *name, uint64_t n_rows, uint64_t n_cols,
                       ds4_error *err)
{
    *s = (source){ .values = checkpoint_find(c, name), .n_rows = n_rows, .n_cols = n_cols };
    if (s->values) return DS4_OK;
    return ds4_fail(err, DS4_EFORMAT, "tensor %s is missing from the checkpoint", name);
}

ds4_status source_open(source *s, const checkpoint *c, const char *name, int n_dims, uint64_t n_rows,
                       uint64_t n_cols, ds4_error *err)
{
    const ds4_status st = find(s, c, name, n_rows, n_cols, err);
    if (st) return st;
    const stored_tensor *t = s->values;

    switch (t->type) {
    case STORED_F32: case STORED_F16: case STORED_BF16:
        return has_shape(t, n_dims, n_rows, n_cols) ? DS4_OK : wrong_shape(t, n_dims, n_rows, n_cols, err);
    case STORED_F8_E4M3:
        if (n_dims != 2 || !has_shape(t, 2, n_rows, n_cols)) return wrong_shape(t, n_dims, n_rows, n_cols, err);
        return open_scaled(s, c, err);
    case STORED_I8: case STORED_U8:
        if (n_dims != 2 || n_cols % FP4_GROUP || !has_shape(t, 2, n_rows, n_cols / 2))
            return wrong_shape(t, n_dims, n_rows, n_cols / 2, err);
        return open_scaled(s, c, err);
    default:
        return wrong_type(t, "F32, F16, BF16, F8_E4M3 or packed FP4", err);
    }
}

ds4_status source_open_table(source *s, const checkpoint *c, const char *name, uint64_t n_rows,
                             uint64_t n_cols, ds4_error *err)
{
    const ds4_status st = find(s, c, name, n_rows, n_cols, err);
    if (st) return st;
    if (s->values->type != STORED_I64 && s->values->type != STORED_I32) return wrong_type(s->values, "I64 or I32", err);
    return has_shape(s->values, 2, n_rows, n_cols) ? DS4_OK : wrong_shape(s->values, 2, n_rows, n_cols, err);
}

/* ---- reading ----------------------------------------------------------- */

/* Data in a shard may start at any byte. */
static uint16_t half_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void read_plain(const source *s, uint64_t row, float *dst)
{
    const uint64_t n = s->n_cols;
    const uint8_t *p = s->values->data + row * n * (s->values->type == STORED_F32 ? 4 : 2);
    if (s->values->type == STORED_F32) memcpy(dst, p, (size_t)n * sizeof *dst);
    else if (s->values->type == STORED_F16) for (uint64_t i = 0; i < n; i++) dst[i] = half_to_float(half_at(p + 2 * i));
    else for (uint64_t i = 0; i < n; i++) dst[i] = bf16_to_float(half_at(p + 2 * i));
}

static float tile_scale(const source *s, uint64_t row, uint64_t tile)
{
    const uint64_t at = row / TILE * ((s->n_cols + TILE - 1) / TILE) + tile;
    if (s->scales->type == STORED_F8_E8M0) return e8m0_to_float(s->scales->data[at]);
    float v;
    memcpy(&v, s->scales->data + at * sizeof v, sizeof v);
    return v;
}

static void read_fp8(const source *s, uint64_t row, float *dst)
{
    const uint8_t *code = s->values->data + row * s->n_cols;
    for (uint64_t i = 0; i < s->n_cols; i += TILE) {
        const float    scale = tile_scale(s, row, i / TILE);
        const uint64_t end = i + TILE < s->n_cols ? i + TILE : s->n_cols;
        for (uint64_t j = i; j < end; j++) dst[j] = e4m3_to_float(code[j]) * scale;
    }
}

static void read_fp4(const source *s, uint64_t row, float *dst)
{
    const uint8_t *code = s->values->data + row * (s->n_cols / 2);
    const uint8_t *scales = s->scales->data + row * (s->n_cols / FP4_GROUP);
    for (uint64_t g = 0; g < s->n_cols / FP4_GROUP; g++) {
        const float scale = e8m0_to_float(scales[g]);
        for (int j = 0; j < FP4_GROUP / 2; j++) {
            const int pair = *code++;
            *dst++ = e2m1_to_float(pair & 15) * scale;       /* low nibble: even input */
            *dst++ = e2m1_to_float(pair >> 4) * scale;
        }
    }
}

static ds4_status check_finite(const source *s, uint64_t row, const float *values, ds4_error *err)
{
    for (uint64_t i = 0; i < s->n_cols; i++)
        if (!isfinite(values[i]))
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s holds a NaN or an infinity at row %llu, column %llu%s",
                            s->values->path, s->values->name, (unsigned long long)row, (unsigned long long)i,
                            s->scales ? " (its code or its scale)" : "");
    return DS4_OK;
}

ds4_status source_rows(const source *s, uint64_t first, uint64_t n, float *dst, ds4_error *err)
{
    for (uint64_t row = first; row < first + n; row++, dst += s->n_cols) {
        if (!s->scales) read_plain(s, row, dst);
        else if (s->packed) read_fp4(s, row, dst);
        else read_fp8(s, row, dst);
        const ds4_status st = check_finite(s, row, dst, err);
        if (st) return st;
    }
    return DS4_OK;
}

ds4_status source_mxfp4_rows(const source *s, uint64_t first, uint64_t n, uint8_t *dst, ds4_error *err)
{
    const uint64_t groups = s->n_cols / FP4_GROUP;
    block_mxfp4 *b = (block_mxfp4 *)dst;
    for (uint64_t i = first * groups; i < (first + n) * groups; i++, b++) {
        const uint8_t *pairs = s->values->data + i * (FP4_GROUP / 2);
        b->e = s->scales->data[i];
        if (b->e == 255)
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s holds a NaN at row %llu, group %llu",
                            s->scales->path, s->scales->name, (unsigned long long)(i / groups),
                            (unsigned long long)(i % groups));
        /* Stored: inputs 2j, 2j+1 in byte j. Block: inputs j, j+16 in byte j. */
        for (int j = 0; j < 16; j++) {
            const int shift = 4 * (j & 1);
            const int low = pairs[j / 2] >> shift & 15, high = pairs[8 + j / 2] >> shift & 15;
            b->codes[j] = (uint8_t)(low | high << 4);
        }
    }
    return DS4_OK;
}

static int64_t table_entry(const stored_tensor *t, uint64_t i)
{
    if (t->type == STORED_I64) {
        int64_t v;
        memcpy(&v, t->data + i * sizeof v, sizeof v);
        return v;
    }
    int32_t v;
    memcpy(&v, t->data + i * sizeof v, sizeof v);
    return v;
}

ds4_status source_table_rows(const source *s, uint64_t first, uint64_t n, int32_t limit, int32_t *dst,
                             ds4_error *err)
{
    for (uint64_t i = first * s->n_cols; i < (first + n) * s->n_cols; i++) {
        const int64_t v = table_entry(s->values, i);
        if (v < 0 || v >= limit)
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s: entry %lld of row %llu is not one of %d experts",
                            s->values->path, s->values->name, (long long)v,
                            (unsigned long long)(i / s->n_cols), limit);
        *dst++ = (int32_t)v;
    }
    return DS4_OK;
}

void source_release(const source *s, uint64_t first, uint64_t n)
{
    const uint64_t row_bytes = s->n_rows ? s->values->bytes / s->n_rows : 0;
    stored_release(s->values, first * row_bytes, n * row_bytes);
    if (s->scales && first + n == s->n_rows) stored_release(s->scales, 0, s->scales->bytes);
}
