/* cuda_order: which op runs on which stream, and what it waits for.
 *
 * Ops declare the memory they read and write. An op that follows from the latest op of the main stream
 * goes there; one that depends on older ops alone runs beside it, on a side stream. It waits for the
 * ops of other streams that wrote what it reads, or touched what it writes.
 *
 * Each stream remembers only its latest ops. Of what came before nothing is known but its end, so
 * every op of another stream comes after it. */
#include "kernels/cuda/cuda_step.h"

#include <string.h>

#include "base/checked.h"

static const int ring_size[GPU_COMPUTE_STREAMS] = { ORDER_MAIN_OPS, ORDER_SIDE_OPS, ORDER_SIDE_OPS };
static const int ring_first[GPU_COMPUTE_STREAMS] = { 0, ORDER_MAIN_OPS, ORDER_MAIN_OPS + ORDER_SIDE_OPS };

/* Place of a stream's op n among all remembered ones, and its event. */
static int slot_of(int stream, uint64_t n) { return ring_first[stream] + (int)(n % (uint64_t)ring_size[stream]); }

static void forget(cuda_order *o, int stream)
{
    const uint64_t size = (uint64_t)ring_size[stream];
    if (o->latest[stream] > size && o->forgotten[stream] < o->latest[stream] - size)
        o->forgotten[stream] = o->latest[stream] - size;
}

/* ---- what is declared ------------------------------------------------------------------------ */

static bool meets(const order_op *a, const order_op *b)
{
    if (a->everything || b->everything) return true;
    for (int i = 0; i < a->n; i++)
        for (int j = 0; j < b->n; j++)
            if ((a->range[i].writes || b->range[j].writes) && a->range[i].first < b->range[j].end &&
                b->range[j].first < a->range[i].end)
                return true;
    return false;
}

/* Of each stream the latest remembered op that `a` must come after. */
static void needs(const cuda_order *o, const order_op *a, uint64_t need[GPU_COMPUTE_STREAMS])
{
    for (int s = 0; s < GPU_COMPUTE_STREAMS; s++) {
        need[s] = 0;
        for (uint64_t n = o->latest[s]; n > o->forgotten[s] && !need[s]; n--)
            if (meets(a, &o->ops[slot_of(s, n)])) need[s] = n;
    }
}

/* The op's stream comes after `need` and after all that is forgotten. */
static ds4_status wait_for(cuda_backend *b, const uint64_t need[GPU_COMPUTE_STREAMS], ds4_error *err)
{
    cuda_order *o = &b->step->order;
    uint64_t *over = o->over[o->stream];
    for (int s = 0; s < GPU_COMPUTE_STREAMS; s++) {
        const uint64_t n = need[s] > o->forgotten[s] ? need[s] : o->forgotten[s];
        if (s == o->stream || n <= over[s]) continue;
        const uint64_t oldest = o->latest[s] >= (uint64_t)ring_size[s] ? o->latest[s] - (uint64_t)ring_size[s] + 1 : 1;
        const uint64_t seen = n > oldest ? n : oldest;         /* events of older ones are used again */
        const ds4_status st = b->device->wait(b->device, o->stream, slot_of(s, seen), err);
        if (st) return st;
        const order_op *op = &o->ops[slot_of(s, seen)];
        for (int i = 0; i < GPU_COMPUTE_STREAMS; i++)
            if (over[i] < op->over[i]) over[i] = op->over[i];
    }
    return DS4_OK;
}

static void declare(cuda_backend *b, uint64_t first, uint64_t end, bool writes)
{
    cuda_order *o = &b->step->order;
    if (writes) cuda_codes_forget(b, first, end - first);
    if (!o->on || !o->open || first == end) return;
    if (o->now.n == ORDER_RANGES) o->now.everything = true;
    else o->now.range[o->now.n++] = (order_range){ first, end, writes };
    if (!o->placed) return;

    /* The op runs already: what it does from here on waits. */
    const order_op late = { .n = 1, .everything = o->now.everything, .range = { { first, end, writes } } };
    uint64_t need[GPU_COMPUTE_STREAMS];
    needs(o, &late, need);
    if (!o->late) o->late = wait_for(b, need, &o->late_error);
}

static void declare_view(cuda_backend *b, view v, bool writes)
{
    if (!view_present(v) || v.rows == 0 || cuda_buf_of(v)->planes || v.buf->mapped) return;    /* weights never change */
    const uint64_t at = cuda_at(v);
    declare(b, at, at + (uint64_t)(v.rows - 1) * v.stride + view_row_bytes(v), writes);
}

/* Memory of sessions has addresses of its own, below those of any device: all segments of a step are in
 * every op that touches a layer's, so only the layer and what of it matter. */
static void declare_memory(cuda_backend *b, int layer, unsigned which, bool writes)
{
    for (unsigned bit = 0; which >> bit; bit++) {
        const uint64_t at = (uint64_t)layer * 8 + bit + 1;
        if (which >> bit & 1u) declare(b, at, at + 1, writes);
    }
}

void cuda_reads(cuda_backend *b, view v) { declare_view(b, v, false); }
void cuda_writes(cuda_backend *b, view v) { declare_view(b, v, true); }
void cuda_reads_at(cuda_backend *b, gpu_ptr at, uint64_t bytes) { declare(b, at, at + bytes, false); }
void cuda_writes_at(cuda_backend *b, gpu_ptr at, uint64_t bytes) { declare(b, at, at + bytes, true); }

void cuda_reads_memory(cuda_backend *b, int layer, unsigned which) { declare_memory(b, layer, which, false); }
void cuda_writes_memory(cuda_backend *b, int layer, unsigned which) { declare_memory(b, layer, which, true); }

/* ---- an op ---------------------------------------------------------------------------------------- */

static ds4_status close_op(cuda_backend *b, ds4_error *err)
{
    cuda_order *o = &b->step->order;
    const bool placed = o->on && o->open && o->placed;
    o->open = o->placed = false;
    if (!placed) return DS4_OK;
    const int s = o->stream;
    const uint64_t n = ++o->latest[s];
    forget(o, s);
    o->over[s][s] = n;
    memcpy(o->now.over, o->over[s], sizeof o->now.over);
    o->ops[slot_of(s, n)] = o->now;
    return b->device->record(b->device, s, slot_of(s, n), err);
}

void cuda_op(cuda_backend *b)
{
    cuda_order *o = &b->step->order;
    const ds4_status before = b->expansion.waits ? cuda_expand_now(b) : DS4_OK;
    o->late = o->open ? close_op(b, &o->late_error) : DS4_OK;
    if (before) {
        o->late = before;
        o->late_error = b->base.queue.error;
    }
    o->open = true;
    o->placed = false;
    o->pieces = 0;
    o->now.n = 0;
    o->now.everything = false;
}

static int choose(const cuda_order *o, const uint64_t need[GPU_COMPUTE_STREAMS])
{
    const bool first = o->latest[GPU_MAIN] == o->forgotten[GPU_MAIN];  /* only the step's begin is before it */
    if (first || need[GPU_MAIN] == o->latest[GPU_MAIN]) return GPU_MAIN;
    int idle = GPU_MAIN + 1;
    for (int s = GPU_MAIN + 1; s < GPU_COMPUTE_STREAMS; s++) {
        if (need[s] && need[s] == o->latest[s]) return s;
        if (o->used[s] < o->used[idle]) idle = s;
    }
    return idle;
}

ds4_status order_place(cuda_backend *b, int *stream, ds4_error *err)
{
    cuda_order *o = &b->step->order;
    *stream = GPU_MAIN;
    if (!o->on) return DS4_OK;
    if (!o->open) {                             /* work that nobody declared comes after all and before all */
        cuda_op(b);
        o->now.everything = true;
    }
    if (!o->placed) {
        uint64_t need[GPU_COMPUTE_STREAMS];
        needs(o, &o->now, need);
        o->stream = choose(o, need);
        o->placed = true;
        o->used[o->stream] = ++o->clock;
        const ds4_status st = wait_for(b, need, err);
        if (st) {
            o->placed = false;                  /* nothing of it is on the stream, which may not belong to the step */
            return st;
        }
    }
    *stream = o->stream;
    o->pieces++;
    return DS4_OK;
}

void cuda_op_made(cuda_backend *b, gpu_ptr at, uint64_t bytes)
{
    cuda_order *o = &b->step->order;
    if (!o->on || !o->open || o->pieces != 1) return;
    const ds4_status st = close_op(b, &o->late_error);
    if (!o->late) o->late = st;
    o->open = true;
    for (int i = 0; i < o->now.n; i++)
        if (o->now.range[i].first == at && o->now.range[i].end == at + bytes) o->now.range[i].writes = false;
}

ds4_status cuda_done(queue *dev, ds4_status st)
{
    cuda_backend *b = cuda_of(dev);
    cuda_order *o = &b->step->order;
    ds4_error err;
    const ds4_status closed = close_op(b, &err);
    if (!st && o->late) st = cuda_fail(dev, o->late, &o->late_error);
    if (!st && closed) st = cuda_fail(dev, closed, &err);
    o->failed |= st != DS4_OK;
    return st;
}

/* ---- a step ----------------------------------------------------------------------------------------- */

ds4_status order_begin(cuda_backend *b, bool on, ds4_error *err)
{
    cuda_order *o = &b->step->order;
    o->on = on;
    o->open = o->placed = o->failed = false;
    memset(o->used, 0, sizeof o->used);     /* the same choices for the same ops */
    o->late = DS4_OK;
    if (!on) return DS4_OK;

    const uint64_t n = ++o->latest[GPU_MAIN];
    for (int s = 0; s < GPU_COMPUTE_STREAMS; s++) {
        o->forgotten[s] = o->latest[s];
        o->over[GPU_MAIN][s] = o->latest[s];
        for (int side = GPU_MAIN + 1; side < GPU_COMPUTE_STREAMS; side++)      /* but for the begin itself */
            o->over[side][s] = s == GPU_MAIN ? n - 1 : o->latest[s];
    }
    order_op *begin = &o->ops[slot_of(GPU_MAIN, n)];
    begin->n = 0;
    begin->everything = false;
    memcpy(begin->over, o->over[GPU_MAIN], sizeof begin->over);
    return b->device->record(b->device, GPU_MAIN, slot_of(GPU_MAIN, n), err);
}

ds4_status order_end(cuda_backend *b, ds4_error *err)
{
    cuda_order *o = &b->step->order;
    if (!o->on) return DS4_OK;
    ds4_status st = close_op(b, err);
    for (int s = GPU_MAIN + 1; s < GPU_COMPUTE_STREAMS && !st; s++)
        if (o->over[GPU_MAIN][s] < o->latest[s]) st = b->device->wait(b->device, GPU_MAIN, slot_of(s, o->latest[s]), err);
    o->on = false;
    return st;
}
