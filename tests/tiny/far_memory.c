#include "tiny/far_memory.h"

#include <string.h>

#include "base/status.h"

far_memory far;

static void look(void) { if (far.watch) far.watch(); }

void far_reset(void) { far = (far_memory){ .total = 1ull << 30, .available = 1ull << 30 }; }

/* The CPU's backend with a few functions of ours. */
static backend *shown;                              /* the one that is open */
static ds4_status (*cpu_download)(backend *b, void *to, view from, ds4_error *err);
static void (*cpu_free)(backend *b, buf *m);

static ds4_status lost(ds4_error *err)
{
    return ds4_fail(err, DS4_EDEVICE, "the far device stopped answering");
}

static ds4_status adopt(backend *b, view *w, weight_use use, int64_t rows_each, ds4_error *err)
{
    if (rows_each < 1 || w->rows % rows_each)
        return ds4_fail(err, DS4_EARG, "%lld rows of %lld", (long long)rows_each, (long long)w->rows);
    far.adopted++;
    far.expert_adopted += use == WEIGHT_EXPERTS;
    const ds4_status st = b->buf_map(b, view_at(*w, 0), (uint64_t)w->rows * w->stride, &w->buf, err);
    w->offset = 0;
    return st;
}

static void free_buf(backend *b, buf *m)
{
    far.freed += m != NULL;
    cpu_free(b, m);
}

static ds4_status download(backend *b, void *to, view from, ds4_error *err)
{
    if (far.lost) return lost(err);
    if (from.cols == far.n_vocab) far.rows_brought += (int)from.rows;
    return cpu_download(b, to, from, err);
}

static ds4_status step_begin(backend *b, const step_shape *s, bool *done, ds4_error *err)
{
    (void)b, (void)s, (void)err;
    far.steps++;
    *done = false;
    return DS4_OK;
}

/* Devices tell late. */
static ds4_status step_end(backend *b, bool complete, bool *again, ds4_error *err)
{
    (void)b;
    look();
    *again = false;
    if (complete && far.fail_step > 0 && --far.fail_step == 0) {
        far.lost = true;
        far.fail_opens += far.fail_opens_later;
    }
    return far.lost ? lost(err) : DS4_OK;
}

ds4_status backend_cuda_open(backend **out, const backend_options *o, ds4_error *err)
{
    *out = NULL;
    look();
    if (far.no_device) return ds4_fail(err, far.no_device, "no far device");
    if (far.fail_opens > 0) {
        far.fail_opens--;
        return ds4_fail(err, DS4_EDEVICE, "the far device does not come back");
    }
    const ds4_status st = backend_cpu_open(out, o, err);
    if (st) return st;
    shown = *out;
    cpu_download = shown->download;
    cpu_free = shown->buf_free;
    shown->download = download;
    shown->buf_free = free_buf;
    shown->adopt = adopt;
    shown->step_begin = step_begin;
    shown->step_end = step_end;
    strcpy(shown->name, "far");
    far.opened++;
    far.expert_bytes = o->expert_bytes;
    far.careful = o->careful;
    far.lost = false;
    return DS4_OK;
}

ds4_status backend_cuda_probe(backend_device *out, const backend_options *o, ds4_error *err)
{
    (void)o;
    if (far.no_device) return ds4_fail(err, far.no_device, "no far device");
    *out = (backend_device){ .name = "Far", .available = far.available, .total = far.total, .unified = far.unified };
    return DS4_OK;
}

uint64_t backend_cuda_scratch_bytes(const backend_options *o) { return backend_cpu_scratch_bytes(o); }
