/* view: rows of numbers in a backend's memory.
 *
 * A small value: copy it freely. Owns nothing; good as long as its buffer. The
 * shape letters are those of the whole tree: T tokens, D model width, H heads,
 * K head width, E experts, F expert width, R compressed rows, V vocabulary,
 * S streams. */
#ifndef KERNELS_VIEW_H
#define KERNELS_VIEW_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include "quant/quant.h"

/* Memory on a device, handed out by a backend. */
typedef struct buf {
    uint8_t *host;              /* where the host may address it, or has a copy of it (backend.mirror), else NULL */
    uint64_t bytes;
    int      mapped;            /* belongs to somebody else: only the record is freed */
} buf;

typedef struct {
    buf       *buf;             /* NULL: no view                      */
    uint64_t   offset;          /* bytes to row 0                     */
    int64_t    rows;
    int        cols;            /* elements in a row                  */
    uint64_t   stride;          /* bytes from one row to the next     */
    quant_type type;
} view;

static inline int view_present(view v) { return v.buf != NULL; }

/* Bytes of a row's numbers; the stride may be longer. */
static inline uint64_t view_row_bytes(view v)
{
    const quant_info *q = quant_get(v.type);
    return (uint64_t)(v.cols / q->block_len) * (uint64_t)q->block_bytes;
}

/* Rows first..first+n-1. */
static inline view view_rows(view v, int64_t first, int64_t n)
{
    assert(first >= 0 && n >= 0 && first + n <= v.rows);
    v.offset += (uint64_t)first * v.stride;
    v.rows = n;
    return v;
}

/* Columns first..first+n-1 of every row; only for types without blocks. */
static inline view view_cols(view v, int first, int n)
{
    const quant_info *q = quant_get(v.type);
    assert(q->block_len == 1 && first >= 0 && n >= 0 && first + n <= v.cols);
    v.offset += (uint64_t)first * (uint64_t)q->block_bytes;
    v.cols = n;
    return v;
}

/* [T][H*K] seen as [T*H][K]; the rows must follow each other without a gap. */
static inline view view_split(view v, int cols)
{
    const quant_info *q = quant_get(v.type);
    assert(v.cols % cols == 0 && v.stride == (uint64_t)v.cols * (uint64_t)q->block_bytes);
    v.rows *= v.cols / cols;
    v.cols = cols;
    v.stride = (uint64_t)cols * (uint64_t)q->block_bytes;
    return v;
}

/* Host address of a row; only on backends whose memory the host can address. */
static inline void *view_at(view v, int64_t row)
{
    assert(v.buf && v.buf->host);
    return v.buf->host + v.offset + (uint64_t)row * v.stride;
}

static inline float *view_f32(view v, int64_t row)
{
    assert(v.type == QUANT_F32);
    return (float *)view_at(v, row);
}

static inline int32_t *view_i32(view v, int64_t row)
{
    assert(v.type == QUANT_I32);
    return (int32_t *)view_at(v, row);
}

#endif
