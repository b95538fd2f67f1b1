/* cuda_weights: the way of weights onto the card. */
#include "kernels/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* Cuts blocks into planes on the host. */
static void cut(const planes_of_type *t, const uint8_t *blocks, int64_t n, uint8_t *to)
{
    for (int p = 0; p < t->n; p++) {
        uint8_t *out = to + planes_offset(t, n, p);
        const size_t len = (size_t)t->plane[p].len;
        for (int64_t i = 0; i < n; i++) memcpy(out + (size_t)i * len, blocks + i * t->block_bytes + t->plane[p].first, len);
    }
}

ds4_status cuda_adopt(backend *base, view *w, weight_use use, int64_t rows_each, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    const planes_of_type *t = planes_of((int)w->type);
    const bool planes = t && (use == WEIGHT_MATRIX || use == WEIGHT_EXPERTS);
    const int64_t n = planes ? w->rows / rows_each : 1;
    const uint64_t file_bytes = (uint64_t)w->rows * w->stride;
    const int64_t blocks = planes ? rows_each * (w->cols / t->block_len) : 0;
    const uint64_t each = planes ? planes_bytes(t, blocks) : file_bytes;
    uint8_t *from = view_at(*w, 0), *staging = calloc(each ? each : 1, 1);
    gpu_ptr *table = calloc((size_t)n, sizeof *table);
    cuda_buf *m = calloc(1, sizeof *m);
    ds4_status st = DS4_OK;

    if (!m || !staging || !table) {
        free(m);
        free(staging);
        free(table);
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory to take a weight over", base->name);
    }
    *m = (cuda_buf){ .base = { .host = from, .bytes = file_bytes, .mapped = 1 }, .planes = planes, .rows_each = rows_each };
    st = b->device->alloc(b->device, GPU_LOCAL, each * (uint64_t)n, &m->at, NULL, err);
    for (int64_t e = 0; e < n && !st; e++) {
        if (planes) cut(t, from + (uint64_t)e * (uint64_t)rows_each * w->stride, blocks, staging);
        table[e] = m->at + (uint64_t)e * each;
        const gpu_piece piece = { table[e], planes ? staging : from, each };
        st = b->device->transfer(b->device, true, &piece, 1, err);
    }
    if (!st && use == WEIGHT_EXPERTS) {
        st = b->device->alloc(b->device, GPU_LOCAL, (uint64_t)n * sizeof *table, &m->table, NULL, err);
        const gpu_piece piece = { m->table, table, (uint64_t)n * sizeof *table };
        if (!st) st = b->device->transfer(b->device, true, &piece, 1, err);
    }
    free(staging);
    free(table);
    if (st) {
        cuda_buf_release(b, m);
        return st;
    }
    w->buf = &m->base;
    w->offset = 0;
    return DS4_OK;
}

ds4_status cuda_residency_open(cuda_backend *b, ds4_error *err)
{
    (void)b, (void)err;
    return DS4_OK;
}

void cuda_residency_close(cuda_backend *b) { (void)b; }
