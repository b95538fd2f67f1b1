#include "counting_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { ADDRESS_FIRST = 1, ADDRESS_STEP = 4096, MOST_PINNED = 64 };
#define COPY_US 2.5

/* The work that something must come after, and when that is over. */
typedef struct { int work; double end; } mark;

typedef struct {
    gpu_device       base;
    counting_options o;
    uint64_t         next;      /* address, in steps */
    uint64_t         taken;
    void            *pinned[MOST_PINNED];
    int              n_pinned, layer;
    counted_work    *work;      /* [cap] owned */
    int              n, cap;
    mark             last[GPU_STREAMS], gate[GPU_STREAMS], event[GPU_EVENTS];
} counting_device;

static counting_device *of(gpu_device *d) { return (counting_device *)d; }

/* ---- memory ------------------------------------------------------------------------------- */

static ds4_status memory(gpu_device *d, uint64_t *available, uint64_t *total, ds4_error *err)
{
    (void)err;
    *available = *total = d->info.total_bytes;
    return DS4_OK;
}

static ds4_status alloc(gpu_device *d, gpu_memory kind, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err)
{
    counting_device *c = of(d);
    *out = c->next * ADDRESS_STEP;
    c->next += bytes / ADDRESS_STEP + 1;
    if (host) *host = NULL;
    if (kind == GPU_LOCAL) {
        c->taken += bytes;
        return DS4_OK;
    }
    void *p = c->n_pinned < MOST_PINNED ? calloc(1, bytes ? bytes : 1) : NULL;
    if (!p) return ds4_fail(err, DS4_EMEMORY, "counting: no pinned memory");
    c->pinned[c->n_pinned++] = p;
    if (host) *host = p;
    return DS4_OK;
}

static void free_memory(gpu_device *d, gpu_memory kind, gpu_ptr p) { (void)d, (void)kind, (void)p; }

static ds4_status transfer(gpu_device *d, bool to_device, const gpu_piece *pieces, int n, ds4_error *err)
{
    (void)d, (void)err;
    for (int i = 0; i < n && !to_device; i++) memset(pieces[i].host, 0, pieces[i].bytes);
    return DS4_OK;
}

/* ---- work --------------------------------------------------------------------------------- */

static mark later(mark a, mark b) { return b.end > a.end ? b : a; }

static ds4_status note(counting_device *c, int stream, const gpu_launch *l, ds4_error *err)
{
    if (c->n == c->cap) {
        const int cap = c->cap ? 2 * c->cap : 4096;
        counted_work *more = realloc(c->work, (size_t)cap * sizeof *more);
        if (!more) return ds4_fail(err, DS4_EMEMORY, "counting: no memory for a note");
        c->work = more;
        c->cap = cap;
    }
    counted_work *w = &c->work[c->n];
    *w = (counted_work){ .kernel = -1, .stream = stream, .layer = c->layer, .us = COPY_US,
                         .joins = c->gate[stream].end > c->last[stream].end };
    const mark before = later(c->last[stream], c->gate[stream]);
    w->after = before.work;
    if (l) {
        w->kernel = l->kernel;
        w->blocks = l->grid[0] * l->grid[1] * l->grid[2];
        w->block = l->block;
        w->shared = l->shared;
        c->o.cost(c->o.ctx, l, w);
    }
    w->end = before.end + w->us;
    c->last[stream] = (mark){ c->n++, w->end };
    c->gate[stream] = (mark){ -1, 0.0 };
    return DS4_OK;
}

static ds4_status launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    return note(of(d), stream, l, err);
}

static ds4_status fill(gpu_device *d, int stream, gpu_ptr to, uint8_t value, uint64_t bytes, ds4_error *err)
{
    (void)to, (void)value, (void)bytes;
    return note(of(d), stream, NULL, err);
}

static ds4_status to_device(gpu_device *d, int stream, gpu_ptr to, const void *from, uint64_t bytes, ds4_error *err)
{
    (void)to, (void)from, (void)bytes;
    return note(of(d), stream, NULL, err);
}

static ds4_status to_host(gpu_device *d, int stream, void *to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    (void)from;
    memset(to, 0, bytes);
    return note(of(d), stream, NULL, err);
}

static ds4_status copy(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    (void)to, (void)from, (void)bytes;
    return note(of(d), stream, NULL, err);
}

static ds4_status record(gpu_device *d, int stream, int event, ds4_error *err)
{
    counting_device *c = of(d);
    (void)err;
    c->event[event] = later(c->last[stream], c->gate[stream]);
    return DS4_OK;
}

static ds4_status wait(gpu_device *d, int stream, int event, ds4_error *err)
{
    counting_device *c = of(d);
    (void)err;
    c->gate[stream] = later(c->gate[stream], c->event[event]);
    return DS4_OK;
}

static ds4_status sync_stream(gpu_device *d, int stream, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    return DS4_OK;
}

/* ---- the rest ----------------------------------------------------------------------------- */

static ds4_status graph_begin(gpu_device *d, ds4_error *err)
{
    (void)d;
    return ds4_fail(err, DS4_EUNSUPPORTED, "counting: no graphs");
}

static ds4_status elapsed(gpu_device *d, int from, int to, float *ms, ds4_error *err)
{
    (void)d, (void)from, (void)to;
    *ms = 0.0f;
    return ds4_fail(err, DS4_EUNSUPPORTED, "counting: no time passes");
}

static void close_device(gpu_device *d)
{
    counting_device *c = of(d);
    if (!c) return;
    for (int i = 0; i < c->n_pinned; i++) free(c->pinned[i]);
    free(c->work);
    free(c);
}

void counting_clear(gpu_device *d)
{
    counting_device *c = of(d);
    c->n = 0;
    for (int i = 0; i < GPU_STREAMS; i++) c->last[i] = c->gate[i] = (mark){ -1, 0.0 };
    for (int i = 0; i < GPU_EVENTS; i++) c->event[i] = (mark){ -1, 0.0 };
}

void counting_layer(gpu_device *d, int layer) { of(d)->layer = layer; }

const counted_work *counting_work(const gpu_device *d, int *n)
{
    const counting_device *c = (const counting_device *)d;
    *n = c->n;
    return c->work;
}

uint64_t counting_taken(const gpu_device *d) { return ((const counting_device *)d)->taken; }

ds4_status counting_device_open(gpu_device **out, const counting_options *o, ds4_error *err)
{
    counting_device *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return ds4_fail(err, DS4_EMEMORY, "counting: no memory");
    c->o = *o;
    c->next = ADDRESS_FIRST;
    c->base = (gpu_device){ .info = o->info, .memory = memory, .alloc = alloc, .free = free_memory, .fill = fill,
                            .to_device = to_device, .to_host = to_host, .copy = copy, .launch = launch,
                            .record = record, .wait = wait, .sync = sync_stream, .graph_begin = graph_begin,
                            .elapsed = elapsed, .transfer = transfer, .close = close_device };
    counting_clear(&c->base);
    *out = &c->base;
    return DS4_OK;
}
