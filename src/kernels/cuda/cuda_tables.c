/* cuda_tables: the rows of a step and their sessions' memory, as kernels find them.
 *
 * Whatever differs from one step of a shape to the next lies here, at addresses that the numbers of
 * rows and segments alone decide, so that launches have the same arguments every time. */
#include "kernels/cuda/cuda_step.h"

#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* Entries of one block table. */
static int blocks_each(const backend_limits *l) { return l->block_tokens ? l->max_tokens / l->block_tokens + 1 : 1; }

static table_layout lay_out(const backend_limits *l, int rows, int segments)
{
    table_layout t = { 0 };
    const uint64_t T = (uint64_t)rows, G = (uint64_t)max_int(segments, 1);
    t.pos = cuda_take(&t.bytes, T, sizeof(int32_t));
    t.token = cuda_take(&t.bytes, T, sizeof(int32_t));
    t.segment_of = cuda_take(&t.bytes, T, sizeof(int32_t));
    t.segment = cuda_take(&t.bytes, G, sizeof(gpu_segment));
    t.layer = cuda_take(&t.bytes, G * (uint64_t)max_int(l->n_layer, 1), sizeof(gpu_kv_layer));
    t.blocks = cuda_take(&t.bytes, 2 * G * (uint64_t)blocks_each(l), sizeof(int32_t));
    return t;
}

uint64_t tables_bytes(const backend_limits *l) { return lay_out(l, l->max_rows, l->max_segments).bytes; }

ds4_status tables_open(cuda_backend *b, cuda_tables *t, ds4_error *err)
{
    const uint64_t bytes = tables_bytes(&b->o.limits);
    t->blocks_each = blocks_each(&b->o.limits);
    ds4_status st = b->device->alloc(b->device, GPU_LOCAL, bytes, &t->store, NULL, err);
    for (int i = 0; i < 2 && !st; i++) {
        st = b->device->alloc(b->device, GPU_PINNED, bytes, &t->copy[i].at, (void **)&t->copy[i].host, err);
        if (!st) memset(t->copy[i].host, 0, bytes);
    }
    return st;
}

void tables_close(cuda_backend *b, cuda_tables *t)
{
    if (t->store) b->device->free(b->device, GPU_LOCAL, t->store);
    for (int i = 0; i < 2; i++)
        if (t->copy[i].at) b->device->free(b->device, GPU_PINNED, t->copy[i].at);
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

/* Segment i's record, layers first..end-1 and their block tables, into the host's copy. */
static ds4_status fill_segment(const cuda_backend *b, const cuda_tables *t, uint8_t *host, const segment *g, int i,
                               int first, int end, ds4_error *err)
{
    const table_layout *at = &t->layout;
    const int n_layer = max_int(b->o.limits.n_layer, 1);
    const uint64_t each = (uint64_t)t->blocks_each * sizeof(int32_t);
    const uint64_t tables[2] = { at->blocks + 2u * (uint64_t)i * each, at->blocks + (2u * (uint64_t)i + 1) * each };
    gpu_segment *out = (gpu_segment *)(void *)(host + at->segment) + i;
    gpu_kv_layer *layer = (gpu_kv_layer *)(void *)(host + at->layer) + (int64_t)i * n_layer;
    bool copied[2] = { false, false };

    *out = (gpu_segment){ .first = g->first, .n = g->n, .pos = g->pos, .now = g->kv ? g->kv->now : 0,
                          .ahead = g->kv ? g->kv->ahead : 0,
                          .blocks = { t->store + tables[0], t->store + tables[1] } };
    for (int j = first; j < end && g->kv; j++) {
        const kv_layer *l = &g->kv->layer[j];
        const int kind = l->ratio != 4;
        layer[j] = layer_of(l);
        if (l->ratio == 0 || copied[kind]) continue;
        copied[kind] = true;
        const int n = blocks_of(g, l);
        if (n > t->blocks_each)
            return ds4_fail(err, DS4_EARG, "%s: a session of %d tokens; the backend was opened for %d", b->base.name,
                            g->pos + g->n, b->o.limits.max_tokens);
        memcpy(host + tables[kind], l->blocks, (size_t)n * sizeof(int32_t));
    }
    return DS4_OK;
}

ds4_status tables_fill(cuda_backend *b, cuda_tables *t, const batch_rows *rows, int first, int end, ds4_error *err)
{
    const backend_limits *l = &b->o.limits;
    if (rows->n > l->max_rows || rows->n_segments > max_int(l->max_segments, 1))
        return ds4_fail(err, DS4_EARG, "%s: %d rows of %d sessions in a step made for %d of %d", b->base.name, rows->n,
                        rows->n_segments, l->max_rows, l->max_segments);
    table_copy *c = &t->copy[t->turn ^= 1];
    ds4_status st = c->under_way ? b->base.wait(&b->base, err) : DS4_OK;
    if (st) return st;

    t->layout = lay_out(l, rows->n, rows->n_segments);
    memcpy(c->host + t->layout.pos, rows->pos, (size_t)rows->n * sizeof(int32_t));
    if (rows->token) memcpy(c->host + t->layout.token, rows->token, (size_t)rows->n * sizeof(int32_t));
    if (rows->segment_of) memcpy(c->host + t->layout.segment_of, rows->segment_of, (size_t)rows->n * sizeof(int32_t));
    for (int i = 0; i < rows->n_segments && !st; i++)
        st = fill_segment(b, t, c->host, &rows->segment[i], i, first, end, err);
    if (st) return st;
    c->under_way = true;
    return b->device->to_device(b->device, GPU_MAIN, t->store, c->host, t->layout.bytes, err);
}

ds4_status cuda_batch(queue *dev, const batch_rows *rows, int layer, gpu_batch *out)
{
    cuda_backend *b = cuda_of(dev);
    cuda_tables *t = &b->step->tables;
    const int n_layer = max_int(b->o.limits.n_layer, 1);
    assert(layer < n_layer);
    if (t->rows && t->rows != rows) return queue_fail(dev, DS4_EARG, "%s: rows that are not the step's", b->base.name);
    if (!t->rows) {
        ds4_error err;
        const ds4_status st = tables_fill(b, t, rows, max_int(layer, 0), layer + 1, &err);
        if (st) return cuda_fail(dev, st, &err);
    }
    const gpu_ptr at = t->store;
    *out = (gpu_batch){ .pos = at + t->layout.pos, .token = at + t->layout.token,
                        .segment_of = at + t->layout.segment_of, .segment = at + t->layout.segment,
                        .layer = at + t->layout.layer + (uint64_t)max_int(layer, 0) * sizeof(gpu_kv_layer),
                        .layer_step = n_layer, .n = rows->n, .n_segments = rows->n_segments };
    return DS4_OK;
}
