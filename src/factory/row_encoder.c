#include "factory/row_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* A piece is what one task decodes; a block is what is written at once. Large
 * enough to hide the hand-out, small enough that all of it is a few tens of MB. */
#define PIECE_VALUES (64 * 1024)
#define BLOCK_BYTES  (16u << 20)

void row_encoder_init(row_encoder *e, pool *threads)
{
    *e = (row_encoder){ .threads = threads };
}

void row_encoder_free(row_encoder *e)
{
    free(e->scratch);
    free(e->out);
    free(e->importance);
    free(e->partial);
    free(e->results);
    row_encoder_init(e, NULL);
}

/* A buffer of at least n elements in place of old, whose content may go. NULL:
 * no memory, and old is gone. */
static void *reserve(void *old, size_t *len, size_t n, size_t element)
{
    size_t size;
    if (old && *len >= n) return old;
    free(old);
    void *fresh = checked_mul_size(n, element, &size) ? malloc(size) : NULL;
    *len = fresh ? n : 0;
    return fresh;
}

/* ---- one piece --------------------------------------------------------- */

typedef struct {
    row_encoder      *e;
    const source     *s;
    const quant_info *type;
    bool              weighted;     /* the type can not do without importance */
    uint64_t          first, n_rows;    /* the block's rows                   */
    uint64_t          piece_rows;
    uint64_t          row_bytes;
    float             limit;        /* greatest magnitude the type can hold   */
} job;

static void piece_range(const job *j, int index, uint64_t *first, uint64_t *n)
{
    const uint64_t skip = (uint64_t)index * j->piece_rows;
    *first = j->first + skip;
    *n = j->n_rows - skip < j->piece_rows ? j->n_rows - skip : j->piece_rows;
}

static ds4_status check_range(const job *j, uint64_t first, const float *x, uint64_t n, ds4_error *err)
{
    for (uint64_t i = 0; i < n; i++)
        if (fabsf(x[i]) > j->limit)
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s: %g in row %llu is out of the range of %s",
                            j->s->values->path, j->s->values->name, (double)x[i],
                            (unsigned long long)(first + i / j->s->n_cols), j->type->name);
    return DS4_OK;
}

static ds4_status encode_piece(const job *j, int index, float *x, ds4_error *err)
{
    uint64_t first, n;
    ds4_status st;
    const uint64_t cols = j->s->n_cols;
    piece_range(j, index, &first, &n);
    uint8_t *dst = j->e->out + (first - j->first) * j->row_bytes;
    if (j->s->packed && j->type == quant_get(QUANT_MXFP4)) return source_mxfp4_rows(j->s, first, n, dst, err);
    if ((st = source_rows(j->s, first, n, x, err))) return st;
    if ((st = check_range(j, first, x, n * cols, err))) return st;

    for (uint64_t r = 0; r < n; r++, dst += j->row_bytes, x += cols) {
        if (j->weighted) j->type->from_float_weighted(dst, x, j->e->importance, (int64_t)cols);
        else j->type->from_float(dst, x, (int64_t)cols);
    }
    return DS4_OK;
}

/* Sums of squares per column over one piece. */
static ds4_status weigh_piece(const job *j, int index, float *x, ds4_error *err)
{
    uint64_t first, n;
    const uint64_t cols = j->s->n_cols;
    piece_range(j, index, &first, &n);
    const ds4_status st = source_rows(j->s, first, n, x, err);
    if (st) return st;

    float *sum = j->e->partial + (uint64_t)index * cols;
    memset(sum, 0, cols * sizeof *sum);
    for (uint64_t r = 0; r < n; r++, x += cols)
        for (uint64_t c = 0; c < cols; c++) sum[c] += x[c] * x[c];
    return DS4_OK;
}

static float *thread_scratch(const job *j, int thread)
{
    return j->e->scratch + (size_t)thread * j->piece_rows * j->s->n_cols;
}

static void encode_task(void *ctx, int index, int thread)
{
    const job *j = ctx;
    j->e->results[index] = encode_piece(j, index, thread_scratch(j, thread), NULL);
}

static void weigh_task(void *ctx, int index, int thread)
{
    const job *j = ctx;
    j->e->results[index] = weigh_piece(j, index, thread_scratch(j, thread), NULL);
}

/* Runs all pieces of the block. The first that failed is run again here, where
 * its sentence can be kept. */
static ds4_status run_pieces(job *j, pool_task *task, ds4_error *err)
{
    const int n = (int)((j->n_rows + j->piece_rows - 1) / j->piece_rows);
    pool_run(j->e->threads, task, j, n);
    for (int i = 0; i < n; i++)
        if (j->e->results[i])
            return (task == encode_task ? encode_piece : weigh_piece)(j, i, j->e->scratch, err);
    return DS4_OK;
}

/* ---- a matrix ---------------------------------------------------------- */

/* Without measured importance a column counts by its energy in the matrix,
 * and never for nothing. */
static ds4_status measure_importance(job *j, ds4_error *err)
{
    const uint64_t cols = j->s->n_cols;
    j->first  = 0;
    j->n_rows = j->s->n_rows;
    const ds4_status st = run_pieces(j, weigh_task, err);
    if (st) return st;

    const uint64_t pieces = (j->n_rows + j->piece_rows - 1) / j->piece_rows;
    double total = 0;
    for (uint64_t c = 0; c < cols; c++) {
        double sum = 0;
        for (uint64_t p = 0; p < pieces; p++) sum += j->e->partial[p * cols + c];
        j->e->importance[c] = (float)(sum / (double)j->n_rows);
        total += j->e->importance[c];
    }
    const float least = (float)(total / (double)cols * 1e-6);
    for (uint64_t c = 0; c < cols; c++) j->e->importance[c] += least;
    return DS4_OK;
}

static float greatest(quant_type type)
{
    /* The others store halves, of values or of scales. */
    return type == QUANT_F32 || type == QUANT_BF16 || type == QUANT_MXFP4 ? INFINITY : 65504.f;
}

static bool prepare(job *j, uint64_t block_rows)
{
    row_encoder   *e = j->e;
    const uint64_t cols = j->s->n_cols;
    const size_t   pieces = (size_t)((j->s->n_rows + j->piece_rows - 1) / j->piece_rows);
    e->scratch = reserve(e->scratch, &e->scratch_len, (size_t)pool_threads(e->threads) * j->piece_rows * cols,
                         sizeof(float));
    e->out     = reserve(e->out, &e->out_bytes, block_rows * j->row_bytes, 1);
    e->results = reserve(e->results, &e->results_len, pieces, sizeof *e->results);
    if (!e->scratch || !e->out || !e->results) return false;
    if (!j->weighted) return true;
    e->importance = reserve(e->importance, &e->importance_len, cols, sizeof(float));
    e->partial    = reserve(e->partial, &e->partial_len, pieces * cols, sizeof(float));
    return e->importance && e->partial;
}

ds4_status row_encoder_matrix(row_encoder *e, const source *s, quant_type type, row_sink *sink, void *ctx,
                              ds4_error *err)
{
    job j = { .e = e, .s = s, .type = quant_get(type), .limit = greatest(type) };
    ds4_status st;
    if (!j.type || (!j.type->from_float && !j.type->from_float_weighted))
        return ds4_fail(err, DS4_EUNSUPPORTED, "%s: there is no encoder for %s", s->values->name,
                        j.type ? j.type->name : "this type");
    if (!quant_row_bytes(type, s->n_cols, &j.row_bytes))
        return ds4_fail(err, DS4_EARG, "%s: rows of %llu do not fill %s blocks", s->values->name,
                        (unsigned long long)s->n_cols, j.type->name);

    j.weighted   = !j.type->from_float;
    j.piece_rows = PIECE_VALUES / s->n_cols ? PIECE_VALUES / s->n_cols : 1;
    uint64_t block = BLOCK_BYTES / j.row_bytes ? BLOCK_BYTES / j.row_bytes : 1;
    if (block > s->n_rows) block = s->n_rows;
    if (!prepare(&j, block))
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for rows of %llu", s->values->name,
                        (unsigned long long)s->n_cols);
    if (j.weighted && (st = measure_importance(&j, err))) return st;

    for (uint64_t row = 0; row < s->n_rows; row += j.n_rows) {
        j.first  = row;
        j.n_rows = s->n_rows - row < block ? s->n_rows - row : block;
        if ((st = run_pieces(&j, encode_task, err))) return st;
        source_release(s, j.first, j.n_rows);
        if ((st = sink(ctx, e->out, j.n_rows * j.row_bytes, err))) return st;
    }
    return DS4_OK;
}

ds4_status row_encoder_table(row_encoder *e, const source *s, int32_t limit, row_sink *sink, void *ctx,
                             ds4_error *err)
{
    const uint64_t row_bytes = s->n_cols * sizeof(int32_t);
    const uint64_t block = BLOCK_BYTES / row_bytes ? BLOCK_BYTES / row_bytes : 1;
    e->out = reserve(e->out, &e->out_bytes, block * row_bytes, 1);
    if (!e->out)
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its rows", s->values->name);
    for (uint64_t row = 0, n; row < s->n_rows; row += n) {
        n = s->n_rows - row < block ? s->n_rows - row : block;
        ds4_status st = source_table_rows(s, row, n, limit, (int32_t *)e->out, err);
        source_release(s, row, n);
        if (!st) st = sink(ctx, e->out, n * row_bytes, err);
        if (st) return st;
    }
    return DS4_OK;
}
