/* cuda_step: the rows of a step on the device, and the order of ops.
 *
 * Everything that differs from one step of a shape to the next lies in tables at fixed
 * addresses, so that launches have the same arguments every time. */
#include "kernels/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

struct cuda_step {
    gpu_ptr  store;             /* the tables on the device                     */
    uint8_t *host;              /* the same in pinned memory                    */
    gpu_ptr  pinned;
    uint64_t pos, token, segment_of, segment, layer, blocks;    /* offsets       */
    uint64_t bytes;
    int      blocks_each;       /* entries of one block table                   */
    const batch_rows *rows;     /* that the tables hold, within a step; else NULL */
};

/* ---- tables of rows --------------------------------------------------------------------- */

static uint64_t take(uint64_t *used, uint64_t n, uint64_t size)
{
    const uint64_t at = *used;
    *used += (n * size + 255) / 256 * 256;
    return at;
}

static cuda_step lay_out(const backend_limits *l)
{
    cuda_step s = { 0 };
    const uint64_t T = (uint64_t)l->max_rows, G = (uint64_t)max_int(l->max_segments, 1);
    s.blocks_each = l->block_tokens ? l->max_tokens / l->block_tokens + 1 : 1;
    s.pos = take(&s.bytes, T, sizeof(int32_t));
    s.token = take(&s.bytes, T, sizeof(int32_t));
    s.segment_of = take(&s.bytes, T, sizeof(int32_t));
    s.segment = take(&s.bytes, G, sizeof(gpu_segment));
    s.layer = take(&s.bytes, G * (uint64_t)max_int(l->n_layer, 1), sizeof(gpu_kv_layer));
    s.blocks = take(&s.bytes, 2 * G * (uint64_t)s.blocks_each, sizeof(int32_t));
    return s;
}

uint64_t cuda_step_bytes(const backend_limits *l) { return lay_out(l).bytes; }

ds4_status cuda_step_open(cuda_backend *b, ds4_error *err)
{
    cuda_step *s = malloc(sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a step's tables", b->base.name);
    *s = lay_out(&b->o.limits);
    b->step = s;
    const ds4_status st = b->device->alloc(b->device, GPU_LOCAL, s->bytes, &s->store, NULL, err);
    return st ? st : b->device->alloc(b->device, GPU_PINNED, s->bytes, &s->pinned, (void **)&s->host, err);
}

void cuda_step_close(cuda_backend *b)
{
    cuda_step *s = b->step;
    if (!s) return;
    if (s->store) b->device->free(b->device, GPU_LOCAL, s->store);
    if (s->pinned) b->device->free(b->device, GPU_PINNED, s->pinned);
    free(s);
}

static gpu_ptr at_if(view v) { return view_present(v) ? cuda_at(v) : 0; }

static gpu_kv_layer layer_of(const kv_layer *l)
{
    gpu_kv_layer g = { .ring = at_if(l->ring), .pool = at_if(l->pool), .index_pool = at_if(l->index_pool),
                       .ring_rows = (int32_t)l->ring.rows, .block_rows = l->block_rows };
    const compressor_state *states[] = { &l->main, &l->index };
    for (int i = 0; i < 2; i++) {
        g.state_rows[i] = (int32_t)states[i]->value[0].rows;
        for (int copy = 0; copy < 2; copy++) {
            g.value[i][copy] = at_if(states[i]->value[copy]);
            g.score[i][copy] = at_if(states[i]->score[copy]);
        }
    }
    return g;
}

/* Blocks of this ratio's table that rows up to the end of the segment need. */
static int blocks_of(const segment *g, const kv_layer *l)
{
    const int rows = (g->pos + g->n) / l->ratio;
    return (rows + l->block_rows - 1) / l->block_rows;
}

/* Layers first..end-1 of every segment. */
static ds4_status fill_tables(cuda_backend *b, const batch_rows *rows, int first, int end, ds4_error *err)
{
    cuda_step *s = b->step;
    const backend_limits *l = &b->o.limits;
    if (rows->n > l->max_rows || rows->n_segments > max_int(l->max_segments, 1))
        return ds4_fail(err, DS4_EARG, "%s: %d rows of %d sessions in a step made for %d of %d", b->base.name, rows->n,
                        rows->n_segments, l->max_rows, l->max_segments);
    memcpy(s->host + s->pos, rows->pos, (size_t)rows->n * sizeof(int32_t));
    if (rows->token) memcpy(s->host + s->token, rows->token, (size_t)rows->n * sizeof(int32_t));
    if (rows->segment_of) memcpy(s->host + s->segment_of, rows->segment_of, (size_t)rows->n * sizeof(int32_t));

    gpu_segment *out = (gpu_segment *)(void *)(s->host + s->segment);
    gpu_kv_layer *layer = (gpu_kv_layer *)(void *)(s->host + s->layer);
    for (int i = 0; i < rows->n_segments; i++) {
        const segment *g = &rows->segment[i];
        const uint64_t tables = s->blocks + 2ull * (uint64_t)i * (uint64_t)s->blocks_each * sizeof(int32_t);
        const uint64_t second = tables + (uint64_t)s->blocks_each * sizeof(int32_t);
        out[i] = (gpu_segment){ .first = g->first, .n = g->n, .pos = g->pos, .now = g->kv ? g->kv->now : 0,
                                    .ahead = g->kv ? g->kv->ahead : 0, .blocks = { s->store + tables, s->store + second } };
        bool copied[2] = { false, false };
        for (int j = first; j < end && g->kv; j++) {
            const kv_layer *kl = &g->kv->layer[j];
            layer[i * max_int(l->n_layer, 1) + j] = layer_of(kl);
            const int kind = kl->ratio != 4;
            if (kl->ratio == 0 || copied[kind]) continue;
            copied[kind] = true;
            const int n = blocks_of(g, kl);
            if (n > s->blocks_each)
                return ds4_fail(err, DS4_EARG, "%s: a session of %d tokens; the backend was opened for %d", b->base.name,
                                g->pos + g->n, l->max_tokens);
            memcpy(s->host + (kind ? second : tables), kl->blocks, (size_t)n * sizeof(int32_t));
        }
    }
    return b->device->to_device(b->device, GPU_MAIN, s->store, s->host, s->bytes, err);
}

ds4_status cuda_batch(queue *dev, const batch_rows *rows, int layer, gpu_batch *out)
{
    cuda_backend *b = cuda_of(dev);
    const cuda_step *s = b->step;
    const int n_layer = max_int(b->o.limits.n_layer, 1);
    assert(layer < n_layer);
    if (s->rows != rows) {
        ds4_error err;
        ds4_status st = b->device->sync(b->device, -1, &err);       /* the pinned tables may still be on their way */
        if (!st) st = fill_tables(b, rows, layer < 0 ? 0 : layer, layer < 0 ? 0 : layer + 1, &err);
        if (st) return cuda_fail(dev, st, &err);
    }
    *out = (gpu_batch){ .pos = s->store + s->pos, .token = s->store + s->token, .segment_of = s->store + s->segment_of,
                        .segment = s->store + s->segment,
                        .layer = s->store + s->layer + (uint64_t)max_int(layer, 0) * sizeof(gpu_kv_layer),
                        .layer_step = n_layer, .n = rows->n, .n_segments = rows->n_segments };
    return DS4_OK;
}

bool cuda_is_prefill(const cuda_backend *b, int rows)
{
    (void)b;
    return rows > 64;
}

ds4_status cuda_step_begin(backend *base, const step_shape *shape, bool *done, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    *done = false;
    ds4_status st = b->device->sync(b->device, -1, err);
    if (!st) st = fill_tables(b, shape->rows, 0, b->o.limits.n_layer, err);
    if (!st) b->step->rows = shape->rows;
    return st;
}

ds4_status cuda_step_end(backend *base, bool complete, bool *again, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    (void)complete, (void)err;
    *again = false;
    b->step->rows = NULL;
    return DS4_OK;
}

/* ---- order of ops ------------------------------------------------------------------------- */

void cuda_op(cuda_backend *b) { (void)b; }
void cuda_reads(cuda_backend *b, view v) { (void)b, (void)v; }
void cuda_writes(cuda_backend *b, view v) { (void)b, (void)v; }
void cuda_reads_at(cuda_backend *b, gpu_ptr at, uint64_t bytes) { (void)b, (void)at, (void)bytes; }
void cuda_writes_at(cuda_backend *b, gpu_ptr at, uint64_t bytes) { (void)b, (void)at, (void)bytes; }
void cuda_reads_memory(cuda_backend *b, const batch_rows *rows, int layer, unsigned which)
{
    (void)b, (void)rows, (void)layer, (void)which;
}
void cuda_writes_memory(cuda_backend *b, const batch_rows *rows, int layer, unsigned which)
{
    (void)b, (void)rows, (void)layer, (void)which;
}

ds4_status cuda_launch(queue *dev, int kernel, cuda_dim grid, unsigned block, unsigned shared, const void *args, size_t n)
{
    cuda_backend *b = cuda_of(dev);
    ds4_error err;
    const gpu_launch l = { kernel, { grid.x, grid.y, grid.z }, block, shared, args, n };
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return DS4_OK;
    const ds4_status st = b->device->launch(b->device, GPU_MAIN, &l, &err);
    return st ? cuda_fail(dev, st, &err) : DS4_OK;
}

ds4_status cuda_done(queue *dev, ds4_status st)
{
    (void)dev;
    return st;
}

ds4_status cuda_copy(backend *base, view to, view from, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    const uint64_t row = (uint64_t)to.cols * (uint64_t)quant_get(to.type)->block_bytes;
    ds4_status st = DS4_OK;
    for (int64_t i = 0; i < to.rows && !st; i++)
        st = b->device->copy(b->device, GPU_MAIN, cuda_at(view_rows(to, i, 1)), cuda_at(view_rows(from, i, 1)), row, err);
    for (int64_t i = 0; i < to.rows && !st && b->o.mirrored; i++) memcpy(view_at(to, i), view_at(from, i), row);
    return st;
}
