/* cuda_step: begins and ends steps, and puts an op's work where its order wants it. */
#include "kernels/cuda/cuda_step.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

uint64_t cuda_step_bytes(const backend_limits *l) { return tables_bytes(l); }

ds4_status cuda_step_open(cuda_backend *b, ds4_error *err)
{
    b->step = calloc(1, sizeof *b->step);
    if (!b->step) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a step's tables", b->base.name);
    b->step->records.unsupported = b->o.careful;
    return tables_open(b, &b->step->tables, err);
}

void cuda_step_close(cuda_backend *b)
{
    cuda_step *s = b->step;
    if (!s) return;
    records_close(b, &s->records);
    tables_close(b, &s->tables);
    free(s);
}

void cuda_step_waited(cuda_backend *b)
{
    for (int i = 0; b->step && i < 2; i++) b->step->tables.copy[i].under_way = false;
}

/* The step's own work failed: a recording of it can not be kept, and may be told why. */
static void failed(cuda_backend *b, ds4_status st, const ds4_error *err)
{
    b->step->order.failed = true;
    if (err) cuda_fail(&b->base.queue, st, err);
}

ds4_status cuda_step_begin(backend *base, const step_shape *shape, bool *done, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    cuda_step *s = b->step;
    *done = false;
    cuda_codes_keep(b, true);
    ds4_status st = cuda_residency_step(b, err);
    if (!st) st = tables_fill(b, &s->tables, shape->rows, 0, b->o.limits.n_layer, err);
    if (!st) st = records_begin(b, shape, done, err);
    if (!st) s->tables.rows = shape->rows;
    if (!st && !*done && (st = order_begin(b, shape->rows->n <= CUDA_STEP_ROWS && !b->o.careful, err)))
        failed(b, st, err);
    if (!st) return DS4_OK;
    bool again;
    cuda_step_end(base, false, &again, NULL);   /* the caller does not end what could not be begun */
    return again ? cuda_step_begin(base, shape, done, err) : st;
}

ds4_status cuda_step_end(backend *base, bool complete, bool *again, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    *again = false;
    ds4_status st = complete ? cuda_expand_now(b) : DS4_OK;
    if (st) ds4_fail(err, st, "%s", b->base.queue.error.message);
    b->expansion.waits = false;
    cuda_codes_keep(b, false);
    b->step->tables.rows = NULL;
    const ds4_status joined = order_end(b, st ? NULL : err);
    if (joined && !st) failed(b, st = joined, err);
    b->step->order.failed |= st != DS4_OK;
    const ds4_status ended = records_end(b, complete && !st, again, st ? NULL : err);
    if (b->device->remark[0]) cuda_warn(b, "%s", b->device->remark);
    b->device->remark[0] = 0;
    return *again ? DS4_OK : st ? st : ended;
}

/* ---- work of an op ------------------------------------------------------------------------- */

ds4_status cuda_op_stream(queue *dev, int *stream)
{
    ds4_error err;
    const ds4_status st = order_place(cuda_of(dev), stream, &err);
    return st ? cuda_fail(dev, st, &err) : DS4_OK;
}

ds4_status cuda_launch(queue *dev, int kernel, cuda_dim grid, unsigned block, unsigned shared, const void *args, size_t n)
{
    cuda_backend *b = cuda_of(dev);
    ds4_error err;
    int stream;
    const gpu_launch l = { kernel, { grid.x, grid.y, grid.z }, block, shared, args, n };
    const unsigned shape[] = { grid.x, grid.y, grid.z, block, shared };
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return DS4_OK;
    ds4_status st = order_place(b, &stream, &err);
    if (!st) st = records_note(b, kernel, stream, shape, sizeof shape, args, n, &err);
    if (!st) st = b->device->launch(b->device, stream, &l, &err);
    return st ? cuda_fail(dev, st, &err) : DS4_OK;
}

static ds4_status copy_piece(cuda_backend *b, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    const uint64_t args[] = { to, from, bytes };
    const ds4_status st = records_note(b, -1, stream, NULL, 0, args, sizeof args, err);
    return st ? st : b->device->copy(b->device, stream, to, from, bytes, err);
}

ds4_status cuda_copy(backend *base, view to, view from, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    const uint64_t row = view_row_bytes(to);
    const bool dense = to.stride == row && from.stride == row;
    int stream;
    if (to.rows == 0) return DS4_OK;
    cuda_op(b);
    cuda_reads(b, from);
    cuda_writes(b, to);
    ds4_error own;
    ds4_status st = order_place(b, &stream, &own);
    if (!st && dense) st = copy_piece(b, stream, cuda_at(to), cuda_at(from), (uint64_t)to.rows * row, &own);
    for (int64_t i = 0; i < to.rows && !st && !dense; i++)
        st = copy_piece(b, stream, cuda_at(view_rows(to, i, 1)), cuda_at(view_rows(from, i, 1)), row, &own);
    for (int64_t i = 0; i < to.rows && !st && b->o.mirrored; i++) memcpy(view_at(to, i), view_at(from, i), row);
    st = cuda_done(&b->base.queue, st ? cuda_fail(&b->base.queue, st, &own) : DS4_OK);
    return st ? ds4_fail(err, st, "%s", b->base.queue.error.message) : DS4_OK;
}
