/* row_encoder: matrices from a checkpoint into blocks of a quant type, a bounded
 * piece at a time on all threads of a pool.
 *
 * Rows are independent, so neither the number of threads nor the size of a
 * piece changes a byte. Owns its buffers. One caller at a time. */
#ifndef FACTORY_ROW_ENCODER_H
#define FACTORY_ROW_ENCODER_H

#include "base/pool.h"
#include "ds4_status.h"
#include "factory/source.h"
#include "quant/quant.h"

typedef struct {
    pool      *threads;             /* borrowed                                  */
    float     *scratch;             /* [threads][piece] decoded rows             */
    size_t     scratch_len;
    uint8_t   *out;                 /* one block of encoded rows                 */
    size_t     out_bytes;
    float     *importance;          /* [n_cols] of the current matrix, where its type needs it */
    float     *partial;             /* [pieces][n_cols] sums on the way there    */
    size_t     importance_len, partial_len;
    ds4_status *results;            /* [pieces] of the current block             */
    size_t     results_len;
} row_encoder;

void row_encoder_init(row_encoder *e, pool *threads);
void row_encoder_free(row_encoder *e);

/* Encodes s whole and hands the bytes on in order; sink's failure ends it. FP4
 * becomes MXFP4 without passing through floats. */
typedef ds4_status row_sink(void *ctx, const void *data, size_t n, ds4_error *err);
ds4_status row_encoder_matrix(row_encoder *e, const source *s, quant_type type, row_sink *sink, void *ctx,
                              ds4_error *err);

/* The same for a table of expert numbers below limit, to I32. */
ds4_status row_encoder_table(row_encoder *e, const source *s, int32_t limit, row_sink *sink, void *ctx,
                             ds4_error *err);

#endif
