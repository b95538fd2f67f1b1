#include "kernels/wrap.h"

#include <stdio.h>

static backend *inner_of(backend *b) { return ((wrapper *)b)->inner; }

static ds4_status alloc_inner(backend *b, uint64_t bytes, buf **out, ds4_error *err)
{
    return inner_of(b)->buf_alloc(inner_of(b), bytes, out, err);
}

static ds4_status map_inner(backend *b, const void *host, uint64_t bytes, buf **out, ds4_error *err)
{
    return inner_of(b)->buf_map(inner_of(b), host, bytes, out, err);
}

static void free_inner(backend *b, buf *m)
{
    inner_of(b)->buf_free(inner_of(b), m);
}

static ds4_status upload_inner(backend *b, view to, const void *from, ds4_error *err)
{
    return inner_of(b)->upload(inner_of(b), to, from, err);
}

static ds4_status download_inner(backend *b, void *to, view from, ds4_error *err)
{
    return inner_of(b)->download(inner_of(b), to, from, err);
}

static ds4_status move_inner(backend *b, bool to_device, const move_piece *pieces, int n, ds4_error *err)
{
    return inner_of(b)->move(inner_of(b), to_device, pieces, n, err);
}

static ds4_status wait_inner(backend *b, ds4_error *err)
{
    return inner_of(b)->wait(inner_of(b), err);
}

static ds4_status copy_inner(backend *b, view to, view from, ds4_error *err)
{
    return inner_of(b)->copy(inner_of(b), to, from, err);
}

static ds4_status adopt_inner(backend *b, view *w, weight_use use, int64_t rows_each, ds4_error *err)
{
    return inner_of(b)->adopt(inner_of(b), w, use, rows_each, err);
}

static ds4_status mirror_inner(backend *b, view v, ds4_error *err)
{
    return inner_of(b)->mirror(inner_of(b), v, err);
}

static ds4_status device_inner(backend *b, backend_device *out, ds4_error *err)
{
    return inner_of(b)->device_now(inner_of(b), out, err);
}

static ds4_status read_speed_inner(backend *b, uint64_t bytes, double *gbs, int n, ds4_error *err)
{
    return inner_of(b)->read_speed(inner_of(b), bytes, gbs, n, err);
}

static backend_expert_counts counts_inner(const backend *b)
{
    const backend *inner = ((const wrapper *)b)->inner;
    return inner->expert_counts(inner);
}

void wrap_init(wrapper *w, backend *inner, const char *prefix)
{
    w->inner = inner;
    ops_default_stages(&w->defaults);
    snprintf(w->base.name, sizeof w->base.name, "%s:%.50s", prefix, inner->name);
    w->base.queue = (queue){ .ops = &w->base.ops, .backend = &w->base };
    w->base.buf_alloc = alloc_inner;
    w->base.buf_map = map_inner;
    w->base.buf_free = free_inner;
    w->base.upload = upload_inner;
    w->base.download = download_inner;
    w->base.move = move_inner;
    w->base.copy = copy_inner;
    w->base.wait = wait_inner;
    if (inner->adopt) w->base.adopt = adopt_inner;
    if (inner->mirror) w->base.mirror = mirror_inner;
    if (inner->device_now) w->base.device_now = device_inner;
    if (inner->read_speed) w->base.read_speed = read_speed_inner;
    if (inner->expert_counts) w->base.expert_counts = counts_inner;
}

ds4_status wrap_status(queue *dev, ds4_status st)
{
    if (st) dev->error = wrapper_of(dev)->inner->queue.error;
    return st;
}
