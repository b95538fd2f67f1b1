/* source: rows of a checkpoint's tensor as float32, whatever it is stored as.
 *
 * F32, F16, BF16 as they are; F8_E4M3 with one scale per 128 x 128 tile; FP4
 * (I8, two values a byte) with one E8M0 scale per 32 inputs. Pairing, dtypes
 * and shapes are checked by source_open; values while rows are read: a NaN code,
 * a NaN scale or an infinity is an error that names tensor, file and place.
 * Immutable once open: rows may be read on any thread. */
#ifndef FACTORY_SOURCE_H
#define FACTORY_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"
#include "factory/checkpoint.h"

typedef struct {
    const stored_tensor *values;
    const stored_tensor *scales;    /* NULL where the dtype needs none   */
    bool                 packed;    /* FP4: two values per stored byte   */
    uint64_t             n_rows, n_cols;
} source;

/* The tensor `name` must be a matrix of n_rows x n_cols, or for n_dims 1 a
 * vector of n_cols (n_rows 1). DS4_EFORMAT: missing, wrong shape or dtype. */
ds4_status source_open(source *s, const checkpoint *c, const char *name, int n_dims, uint64_t n_rows,
                       uint64_t n_cols, ds4_error *err);

/* dst[n][n_cols] = rows [first, first + n). */
ds4_status source_rows(const source *s, uint64_t first, uint64_t n, float *dst, ds4_error *err);

/* A table of integers (I64 or I32), each in [0, limit). */
ds4_status source_open_table(source *s, const checkpoint *c, const char *name, uint64_t n_rows,
                             uint64_t n_cols, ds4_error *err);
ds4_status source_table_rows(const source *s, uint64_t first, uint64_t n, int32_t limit, int32_t *dst,
                             ds4_error *err);

/* FP4 rows as MXFP4 blocks: scales as they are, nibbles in the
 * other order. Only for packed sources. A NaN scale is an error. */
ds4_status source_mxfp4_rows(const source *s, uint64_t first, uint64_t n, uint8_t *dst, ds4_error *err);

/* Lets the system drop the pages of rows that will not be read soon. */
void source_release(const source *s, uint64_t first, uint64_t n);

#endif
