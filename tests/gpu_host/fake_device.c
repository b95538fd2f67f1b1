#include "fake_device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "fake_queue.h"
#include "kernels/cuda/kernels.h"

/* Before every allocation; a list of them. */
typedef struct header {
    struct header *next;
    uint64_t   bytes;
    gpu_memory kind;
    uint8_t    pad[256 - 24];
} header;

typedef struct {
    gpu_device      base;
    fake_options    o;
    fake_queue      q;
    header         *memory;
    pthread_mutex_t lock;       /* of used, allocations, lost: transfer comes from any thread */
    uint64_t        used;
    int             allocations;
    bool            lost;
} fake_device;

static fake_device *of(gpu_device *d) { return (fake_device *)d; }

void *fake_device_at(gpu_ptr p)
{
    if (!(p & LANE_ADDRESS)) fake_mistake("%llx is no device address", (unsigned long long)p);
    return (void *)(uintptr_t)(p & ~LANE_ADDRESS);
}

static ds4_status usable(fake_device *f, ds4_error *err)
{
    pthread_mutex_lock(&f->lock);
    const bool lost = f->lost;
    pthread_mutex_unlock(&f->lock);
    return lost ? ds4_fail(err, DS4_EDEVICE, "fake: kernel %d lost the device", f->o.fail_launch) : DS4_OK;
}

/* After work was done. */
static ds4_status outcome(fake_device *f, ds4_error *err)
{
    pthread_mutex_lock(&f->lock);
    f->lost |= f->q.lost;
    pthread_mutex_unlock(&f->lock);
    return usable(f, err);
}

/* ---- memory ------------------------------------------------------------------------------- */

static ds4_status memory(gpu_device *d, uint64_t *available, uint64_t *total, ds4_error *err)
{
    fake_device *f = of(d);
    (void)err;
    pthread_mutex_lock(&f->lock);
    *available = f->o.total_bytes - f->used;
    *total = f->o.total_bytes;
    pthread_mutex_unlock(&f->lock);
    return DS4_OK;
}

static ds4_status alloc(gpu_device *d, gpu_memory kind, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err)
{
    fake_device *f = of(d);
    *out = 0;
    const ds4_status st = usable(f, err);
    if (st) return st;
    if (f->q.recording) fake_mistake("an allocation within a recording");
    if (++f->allocations == f->o.fail_alloc || (kind == GPU_LOCAL && bytes > f->o.total_bytes - f->used))
        return ds4_fail(err, DS4_EMEMORY, "fake: %llu bytes were asked for, %llu are free", (unsigned long long)bytes,
                        (unsigned long long)(f->o.total_bytes - f->used));
    header *h = aligned_alloc(256, sizeof *h + (bytes + 255) / 256 * 256);
    if (!h) return ds4_fail(err, DS4_EMEMORY, "fake: no memory on the host for %llu bytes", (unsigned long long)bytes);
    *h = (header){ .next = f->memory, .bytes = bytes, .kind = kind };
    f->memory = h;
    if (kind == GPU_LOCAL) f->used += bytes;
    memset(h + 1, 0xee, bytes);
    *out = (gpu_ptr)(uintptr_t)(h + 1) | LANE_ADDRESS;
    if (host) *host = kind == GPU_PINNED ? h + 1 : NULL;
    return DS4_OK;
}

static void free_memory(gpu_device *d, gpu_memory kind, gpu_ptr p)
{
    fake_device *f = of(d);
    header *h = (header *)fake_device_at(p) - 1, **at = &f->memory;
    while (*at && *at != h) at = &(*at)->next;
    if (!*at) fake_mistake("%llx was never allocated, or is freed twice", (unsigned long long)p);
    if (h->kind != kind) fake_mistake("memory is freed as another kind than it was allocated as");
    if (!f->lost && !fake_queue_idle(&f->q)) fake_mistake("memory is freed while work is under way; sync first");
    *at = h->next;
    if (kind == GPU_LOCAL) f->used -= h->bytes;
    memset(h + 1, 0xdd, h->bytes);
    free(h);
}

static bool pinned(fake_device *f, const void *host)
{
    const uint8_t *p = host;
    for (const header *h = f->memory; h; h = h->next)
        if (h->kind == GPU_PINNED && p >= (const uint8_t *)(h + 1) && p < (const uint8_t *)(h + 1) + h->bytes)
            return true;
    return false;
}

/* ---- work of streams ---------------------------------------------------------------------- */

static void check_stream(int stream)
{
    if (stream < 0 || stream >= GPU_STREAMS) fake_mistake("there is no stream %d", stream);
}

static ds4_status add(fake_device *f, fake_job job, ds4_error *err)
{
    const ds4_status st = usable(f, err);
    if (st) {
        free(job.own);
        return st;
    }
    check_stream(job.stream);
    fake_queue_add(&f->q, job);
    return DS4_OK;
}

static uint8_t *kept(const void *from, uint64_t bytes)
{
    uint8_t *own = malloc(bytes ? bytes : 1);
    if (!own) fake_mistake("no memory on the host");
    memcpy(own, from, bytes);
    return own;
}

static ds4_status fill(gpu_device *d, int stream, gpu_ptr to, uint8_t value, uint64_t bytes, ds4_error *err)
{
    return add(of(d), (fake_job){ .kind = JOB_FILL, .stream = stream, .to = fake_device_at(to), .value = value,
                                  .bytes = bytes }, err);
}

static ds4_status to_device(gpu_device *d, int stream, gpu_ptr to, const void *from, uint64_t bytes, ds4_error *err)
{
    fake_device *f = of(d);
    const bool now = !pinned(f, from);
    if (now && f->q.recording) fake_mistake("a recording copies from memory that is not pinned");
    return add(f, (fake_job){ .kind = JOB_COPY, .stream = stream, .to = fake_device_at(to), .from = from, .bytes = bytes,
                              .own = now ? kept(from, bytes) : NULL }, err);
}

static ds4_status to_host(gpu_device *d, int stream, void *to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    fake_device *f = of(d);
    const bool now = !pinned(f, to);
    if (now && f->q.recording) fake_mistake("a recording copies to memory that is not pinned");
    const ds4_status st = add(f, (fake_job){ .kind = JOB_COPY, .stream = stream, .to = to, .from = fake_device_at(from),
                                             .bytes = bytes }, err);
    if (st || !now) return st;
    fake_queue_drain(&f->q, stream);
    return outcome(f, err);
}

static ds4_status copy(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    return add(of(d), (fake_job){ .kind = JOB_COPY, .stream = stream, .to = fake_device_at(to),
                                  .from = fake_device_at(from), .bytes = bytes }, err);
}

static ds4_status launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    fake_device *f = of(d);
    if (l->kernel < 0 || l->kernel >= CUDA_KERNEL_COUNT) fake_mistake("there is no kernel %d", l->kernel);
    const lane_kernel_entry *k = &lane_kernels[l->kernel];
    if (k->args_bytes != l->args_bytes)
        fake_mistake("kernel %s takes %zu bytes of arguments, not %zu", k->name, k->args_bytes, l->args_bytes);
    if (l->args_bytes > 4096)
        fake_mistake("kernel %s takes %zu bytes of arguments; a launch has 4096", k->name, l->args_bytes);
    if (!l->grid[0] || !l->grid[1] || !l->grid[2] || l->grid[0] > 0x7fffffff || l->grid[1] > 65535 || l->grid[2] > 65535)
        fake_mistake("kernel %s: a grid of %u x %u x %u", k->name, l->grid[0], l->grid[1], l->grid[2]);
    if (!l->block || l->block % 32 || l->block > 1024) fake_mistake("kernel %s: blocks of %u threads", k->name, l->block);
    if (l->shared > (unsigned)f->base.info.shared_bytes)
        fake_mistake("kernel %s asks for %u bytes of shared memory; the card gives a block %d", k->name, l->shared,
                     f->base.info.shared_bytes);
    const ds4_status st = add(f, (fake_job){ .kind = JOB_LAUNCH, .stream = stream, .launch = *l,
                                             .own = kept(l->args, l->args_bytes) }, err);
    return st || !f->o.eager ? st : outcome(f, err);
}

static ds4_status record(gpu_device *d, int stream, int event, ds4_error *err)
{
    const ds4_status st = usable(of(d), err);
    if (!st) fake_queue_record(&of(d)->q, stream, event);
    return st;
}

static ds4_status wait(gpu_device *d, int stream, int event, ds4_error *err)
{
    const ds4_status st = usable(of(d), err);
    if (!st) fake_queue_wait(&of(d)->q, stream, event);
    return st;
}

static ds4_status sync_stream(gpu_device *d, int stream, ds4_error *err)
{
    fake_device *f = of(d);
    const ds4_status st = usable(f, err);
    if (st) return st;
    if (stream >= GPU_STREAMS) fake_mistake("there is no stream %d", stream);
    if (f->q.recording) {
        f->q.spoilt = true;
        return ds4_fail(err, DS4_EDEVICE, "fake: a wait for work that is being recorded");
    }
    fake_queue_drain(&f->q, stream);
    return outcome(f, err);
}

static ds4_status elapsed(gpu_device *d, int from, int to, float *ms, ds4_error *err)
{
    const fake_mark *a = of(d)->q.event[from], *b = of(d)->q.event[to];
    *ms = 0.0f;
    if (!a || !b || !a->done || !b->done) return ds4_fail(err, DS4_EDEVICE, "fake: the events are not over");
    *ms = (float)((double)b->at - (double)a->at) * 1e-3f;
    return DS4_OK;
}

/* ---- recordings --------------------------------------------------------------------------- */

static ds4_status graph_begin(gpu_device *d, ds4_error *err)
{
    fake_device *f = of(d);
    const ds4_status st = usable(f, err);
    if (st) return st;
    if (f->o.no_graphs) return ds4_fail(err, DS4_EUNSUPPORTED, "fake: no graphs");
    if (f->q.recording) fake_mistake("a recording within a recording");
    fake_queue_begin(&f->q);
    return DS4_OK;
}

static ds4_status graph_end(gpu_device *d, gpu_graph **out, ds4_error *err)
{
    if (!of(d)->q.recording) fake_mistake("the end of a recording that was not begun");
    return fake_queue_end(&of(d)->q, out, err);
}

static void graph_abandon(gpu_device *d)
{
    fake_queue *q = &of(d)->q;
    if (q->recording) fake_graph_free(q->recording);
    q->recording = NULL;
}

static ds4_status graph_run(gpu_device *d, gpu_graph *g, ds4_error *err)
{
    if (of(d)->q.recording) fake_mistake("a recording is run within a recording");
    g->pending++;
    const ds4_status st = add(of(d), (fake_job){ .kind = JOB_GRAPH, .stream = GPU_MAIN, .graph = g }, err);
    if (st) g->pending--;
    return st;
}

static void graph_free(gpu_device *d, gpu_graph *g)
{
    if (!g) return;
    if (g->pending && !of(d)->lost) fake_mistake("a recording is freed while it is under way; sync first");
    fake_graph_free(g);
}

/* ---- the rest ----------------------------------------------------------------------------- */

/* On a stream of its own: work of the others that nobody has waited for stays undone. */
static ds4_status transfer(gpu_device *d, bool to_dev, const gpu_piece *pieces, int n, ds4_error *err)
{
    const ds4_status st = usable(of(d), err);
    for (int i = 0; i < n && !st; i++) {
        void *at = fake_device_at(pieces[i].device);
        if (to_dev) memcpy(at, pieces[i].host, pieces[i].bytes);
        else memcpy(pieces[i].host, at, pieces[i].bytes);
    }
    return st;
}

/* Memory that nobody freed stays, so that a leak checker tells who took it. */
static void close_device(gpu_device *d)
{
    fake_device *f = of(d);
    if (!f) return;
    fake_queue_free(&f->q);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

ds4_status fake_device_open(gpu_device **out, const fake_options *o, ds4_error *err)
{
    fake_device *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return ds4_fail(err, DS4_EMEMORY, "fake: no memory");
    f->o = *o;
    if (!f->o.total_bytes) f->o.total_bytes = 1ull << 30;
    pthread_mutex_init(&f->lock, NULL);
    fake_queue_init(&f->q, &f->o);
    f->base = (gpu_device){ .info = { .name = "lanes", .arch = o->arch ? o->arch : 90, .driver = 13000,
                                      .n_sm = o->n_sm ? o->n_sm : 4, .unified = o->unified,
                                      .shared_bytes = o->shared_bytes ? o->shared_bytes : 227 * 1024,
                                      .total_bytes = f->o.total_bytes, .l2_bytes = 1 << 20 },
                            .memory = memory, .alloc = alloc, .free = free_memory, .fill = fill, .to_device = to_device,
                            .to_host = to_host, .copy = copy, .launch = launch, .record = record, .wait = wait,
                            .sync = sync_stream, .graph_begin = graph_begin, .graph_end = graph_end,
                            .graph_abandon = graph_abandon, .graph_run = graph_run, .graph_free = graph_free,
                            .elapsed = elapsed, .transfer = transfer, .close = close_device };
    *out = &f->base;
    return DS4_OK;
}
