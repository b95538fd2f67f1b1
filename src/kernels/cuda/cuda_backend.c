/* cuda_backend: memory, addresses and the table of ops of the CUDA backend. */
#include "kernels/cuda/cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* ---- addresses ---------------------------------------------------------------------------- */

gpu_ptr cuda_at(view v)
{
    assert(v.buf && !cuda_buf_of(v)->planes);
    return cuda_buf_of(v)->at + v.offset;
}

gpu_rows cuda_rows(view v)
{
    if (!view_present(v)) return (gpu_rows){ 0 };
    const uint64_t element = (uint64_t)quant_get(v.type)->block_bytes;
    assert(quant_get(v.type)->block_len == 1 && v.stride % element == 0);
    return (gpu_rows){ cuda_at(v), (int64_t)(v.stride / element), (int32_t)v.rows, v.cols };
}

gpu_weight cuda_weight(view v)
{
    const cuda_buf *m = cuda_buf_of(v);
    assert(m->planes && !m->table && v.offset % v.stride == 0);
    return (gpu_weight){ m->at, (int32_t)v.type, (int32_t)m->rows_each, (int32_t)(v.offset / v.stride), (int32_t)v.rows,
                         v.cols };
}

gpu_experts cuda_experts(view v)
{
    const cuda_buf *m = cuda_buf_of(v);
    assert(m->planes && m->table && v.offset == 0);
    return (gpu_experts){ m->table, (int32_t)v.type, (int32_t)m->rows_each, v.cols };
}

gpu_rope cuda_rope(rope r, bool inverse)
{
    gpu_rope g = { .n_rot = r.n_rot, .inverse = inverse };
    assert(r.n_rot <= GPU_MAX_ROT);
    memcpy(g.freq, r.freq, (size_t)(r.n_rot / 2) * sizeof *g.freq);
    return g;
}

gpu_kv_row cuda_kv_row(kv_row r)
{
    return (gpu_kv_row){ (int32_t)r.kind, r.width, r.n_round, kv_row_bytes(r), kv_row_scales(r), kv_row_tail(r) };
}

ds4_status cuda_fail(queue *dev, ds4_status st, const ds4_error *err)
{
    return queue_fail(dev, st, "%s", err->message);
}

uint64_t cuda_take(uint64_t *used, uint64_t n, uint64_t size)
{
    const uint64_t at = *used;
    *used += round_up(n * size, PLANE_ALIGN);
    return at;
}

/* ---- memory ------------------------------------------------------------------------------- */

void cuda_buf_release(cuda_backend *b, cuda_buf *m)
{
    if (m->at) b->device->free(b->device, m->kind, m->at);
    if (m->table) b->device->free(b->device, GPU_LOCAL, m->table);
    if (m->stack) cuda_residency_release(b);
    if (m->owns_host) free(m->base.host);
    free(m);
}

static ds4_status buf_alloc(backend *base, uint64_t bytes, buf **out, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    *out = NULL;
    cuda_buf *m = calloc(1, sizeof *m);
    if (!m) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a buffer record", base->name);
    m->base.bytes = bytes;
    ds4_status st = b->device->alloc(b->device, GPU_LOCAL, bytes ? bytes : 1, &m->at, NULL, err);
    if (!st) st = b->device->fill(b->device, GPU_MAIN, m->at, 0, bytes, err);
    if (!st) st = b->device->sync(b->device, GPU_MAIN, err);    /* transfers are not in the stream's order */
    if (!st && b->o.mirrored) {
        m->owns_host = true;
        m->base.host = calloc(bytes ? bytes : 1, 1);
        if (!m->base.host)
            st = ds4_fail(err, DS4_EMEMORY, "%s: no memory to mirror %llu bytes", base->name,
                          (unsigned long long)bytes);
    }
    if (st) {
        cuda_buf_release(b, m);
        return st;
    }
    *out = &m->base;
    return DS4_OK;
}

/* The file's bytes stay with the host until they are adopted. */
static ds4_status buf_map(backend *base, const void *host, uint64_t bytes, buf **out, ds4_error *err)
{
    cuda_buf *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a buffer record", base->name);
    m->base = (buf){ .host = (uint8_t *)(uintptr_t)host, .bytes = bytes, .mapped = 1 };
    *out = &m->base;
    return DS4_OK;
}

static void buf_free(backend *base, buf *m)
{
    cuda_backend *b = (cuda_backend *)base;
    if (!m) return;
    b->device->sync(b->device, -1, NULL);
    cuda_buf_release(b, (cuda_buf *)m);
}

/* A view as pieces of memory without gaps; pieces NULL only counts them. */
static int cut_view(view v, void *host, gpu_piece *pieces)
{
    const uint64_t row = view_row_bytes(v);
    const int n = v.rows == 0 ? 0 : v.stride == row ? 1 : (int)v.rows;
    const uint64_t each = n == 1 ? row * (uint64_t)v.rows : row;
    for (int i = 0; i < n && pieces; i++)
        pieces[i] = (gpu_piece){ cuda_at(v) + (uint64_t)i * v.stride, (uint8_t *)host + (uint64_t)i * row, each };
    return n;
}

static ds4_status move(backend *base, bool to_device, const move_piece *p, int n, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    size_t total = 0;
    for (int i = 0; i < n; i++) total += (size_t)cut_view(p[i].at, p[i].host, NULL);
    gpu_piece one = { 0 }, *pieces = total > 1 ? malloc(total * sizeof *pieces) : &one;
    if (!pieces) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to move %zu pieces", base->name, total);
    for (size_t at = 0, i = 0; i < (size_t)n; i++) {
        const view v = p[i].at;
        const uint64_t row = view_row_bytes(v);
        at += (size_t)cut_view(v, p[i].host, pieces + at);
        for (int64_t r = 0; r < v.rows && to_device && b->o.mirrored; r++)
            memcpy(view_at(v, r), (const uint8_t *)p[i].host + (uint64_t)r * row, row);
    }
    const ds4_status st = b->device->transfer(b->device, to_device, pieces, (int)total, err);
    if (pieces != &one) free(pieces);
    return st;
}

static ds4_status upload(backend *base, view to, const void *from, ds4_error *err)
{
    return move(base, true, &(move_piece){ to, (void *)(uintptr_t)from }, 1, err);
}

static ds4_status download(backend *base, void *to, view from, ds4_error *err)
{
    return move(base, false, &(move_piece){ from, to }, 1, err);
}

static ds4_status mirror(backend *base, view v, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    const bool dense = v.stride == view_row_bytes(v);
    const int64_t n = dense && v.rows > 0 ? 1 : v.rows;
    const uint64_t each = dense ? v.stride * (uint64_t)v.rows : view_row_bytes(v);
    ds4_status st = b->device->sync(b->device, -1, err);
    for (int64_t i = 0; i < n && !st; i++) {
        const gpu_piece one = { cuda_at(v) + (uint64_t)i * v.stride, view_at(v, i), each };
        st = b->device->transfer(b->device, false, &one, 1, err);
    }
    return st;
}

static ds4_status wait_done(backend *base, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    const ds4_status st = b->device->sync(b->device, -1, err);
    if (!st) cuda_step_waited(b);
    return st;
}

/* ---- open ----------------------------------------------------------------------------------- */

static const struct {
    uint64_t (*scratch)(const backend_limits *l);   /* NULL: needs none         */
    void     (*ops)(ops *o);                        /* NULL: has none of its own */
} families[CUDA_FAMILIES] = {
    [CUDA_FAMILY_ROWS] = { cuda_rows_scratch, cuda_rows_ops },
    [CUDA_FAMILY_MATMUL] = { cuda_matmul_scratch, cuda_matmul_ops },
    [CUDA_FAMILY_PREFILL] = { cuda_prefill_scratch, NULL },
    [CUDA_FAMILY_EXPERTS] = { cuda_experts_scratch, cuda_experts_ops },
    [CUDA_FAMILY_KV] = { NULL, cuda_kv_ops },
    [CUDA_FAMILY_INDEXER] = { cuda_indexer_scratch, cuda_indexer_ops },
    [CUDA_FAMILY_ATTENTION] = { cuda_attention_scratch, cuda_attention_ops },
    [CUDA_FAMILY_HEAD] = { cuda_head_scratch, cuda_head_ops },
};

static uint64_t scratch_of(int family, const backend_limits *l)
{
    return families[family].scratch ? round_up(families[family].scratch(l), PLANE_ALIGN) : 0;
}

uint64_t backend_cuda_scratch_bytes(const backend_options *o)
{
    uint64_t n = cuda_step_bytes(&o->limits);
    for (int i = 0; i < CUDA_FAMILIES; i++) n += scratch_of(i, &o->limits);
    return n;
}

static ds4_status take_scratch(cuda_backend *b, ds4_error *err)
{
    uint64_t n = 0;
    for (int i = 0; i < CUDA_FAMILIES; i++) {
        b->scratch[i] = n;
        n += scratch_of(i, &b->o.limits);
    }
    const ds4_status st = b->device->alloc(b->device, GPU_LOCAL, n ? n : 1, &b->scratch_store, NULL, err);
    for (int i = 0; i < CUDA_FAMILIES; i++) b->scratch[i] += b->scratch_store;
    return st ? st : b->device->fill(b->device, GPU_MAIN, b->scratch_store, 0, n, err);
}

static void cuda_close(backend *base)
{
    cuda_backend *b = (cuda_backend *)base;
    if (!b) return;
    if (b->device) {
        b->device->sync(b->device, -1, NULL);
        cuda_step_close(b);
        cuda_residency_close(b);
        if (b->scratch_store) b->device->free(b->device, GPU_LOCAL, b->scratch_store);
        b->device->close(b->device);
    }
    free(b);
}

/* Rows of a step go into a grid's second or third dimension. */
enum { GRID_ROWS = 65535 };

ds4_status cuda_open_on(backend **out, gpu_device *d, const backend_options *o, ds4_error *err)
{
    *out = NULL;
    if (o->limits.max_rows > GRID_ROWS) {
        d->close(d);
        return ds4_fail(err, DS4_EUNSUPPORTED, "cuda: a step of %d rows; the most that a card takes are %d",
                        o->limits.max_rows, GRID_ROWS);
    }
    cuda_backend *b = calloc(1, sizeof *b);
    if (!b) {
        d->close(d);
        return ds4_fail(err, DS4_EMEMORY, "cuda: no memory for the backend");
    }
    b->device = d;
    b->o = *o;
    b->o.name = NULL;
    d->careful = o->careful;
    snprintf(b->base.name, sizeof b->base.name, "cuda (%.40s, sm_%d)", d->info.name, d->info.arch);
    b->base.buf_alloc = buf_alloc;
    b->base.buf_map = buf_map;
    b->base.buf_free = buf_free;
    b->base.upload = upload;
    b->base.download = download;
    b->base.move = move;
    b->base.copy = cuda_copy;
    b->base.wait = wait_done;
    b->base.close = cuda_close;
    b->base.adopt = cuda_adopt;
    b->base.step_begin = cuda_step_begin;
    b->base.step_end = cuda_step_end;
    b->base.device_now = cuda_device_now;
    b->base.read_speed = cuda_read_speed;
    b->base.expert_counts = cuda_residency_counts;
    if (o->mirrored) b->base.mirror = mirror;
    ops_default_stages(&b->base.ops);
    for (int i = 0; i < CUDA_FAMILIES; i++)
        if (families[i].ops) families[i].ops(&b->base.ops);
    cuda_indexer_stages(b);
    b->base.queue = (queue){ .ops = &b->base.ops, .backend = &b->base };

    ds4_status st = take_scratch(b, err);
    if (!st) st = cuda_step_open(b, err);
    if (!st) st = cuda_residency_open(b, err);
    if (st) {
        cuda_close(&b->base);
        return st;
    }
    *out = &b->base;
    return DS4_OK;
}

ds4_status backend_cuda_open(backend **out, const backend_options *o, ds4_error *err)
{
    gpu_device *d;
    *out = NULL;
    const ds4_status st = gpu_driver_open(&d, o->device, err);
    return st ? st : cuda_open_on(out, d, o, err);
}

ds4_status backend_cuda_probe(backend_device *out, const backend_options *o, ds4_error *err)
{
    gpu_info info;
    const ds4_status st = gpu_driver_probe(&info, o->device, &out->available, err);
    if (st) return st;
    snprintf(out->name, sizeof out->name, "%s", info.name);
    out->available = cuda_available(&info, out->available);
    out->total = info.total_bytes;
    out->unified = info.unified;
    return DS4_OK;
}
