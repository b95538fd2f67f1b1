#include "fake_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "kernels/cuda/kernels.h"

typedef struct {
    gpu_device   base;
    fake_options o;
    uint64_t     used;
} fake_device;

/* Before every allocation. */
typedef struct { uint64_t bytes, pad[31]; } header;

static ds4_status memory(gpu_device *d, uint64_t *available, uint64_t *total, ds4_error *err)
{
    fake_device *f = (fake_device *)d;
    (void)err;
    *available = f->o.total_bytes - f->used;
    *total = f->o.total_bytes;
    return DS4_OK;
}

static ds4_status alloc(gpu_device *d, gpu_memory kind, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err)
{
    fake_device *f = (fake_device *)d;
    *out = 0;
    if (kind == GPU_LOCAL && bytes > f->o.total_bytes - f->used)
        return ds4_fail(err, DS4_EMEMORY, "fake: %llu bytes were asked for, %llu are free", (unsigned long long)bytes,
                        (unsigned long long)(f->o.total_bytes - f->used));
    header *h = aligned_alloc(256, (sizeof *h + bytes + 255) / 256 * 256);
    if (!h) return ds4_fail(err, DS4_EMEMORY, "fake: no memory");
    h->bytes = kind == GPU_LOCAL ? bytes : 0;
    f->used += h->bytes;
    memset(h + 1, 0xee, bytes);
    *out = (gpu_ptr)(uintptr_t)(h + 1);
    if (host) *host = h + 1;
    return DS4_OK;
}

static void free_memory(gpu_device *d, gpu_memory kind, gpu_ptr p)
{
    (void)kind;
    header *h = (header *)(uintptr_t)p - 1;
    ((fake_device *)d)->used -= h->bytes;
    free(h);
}

static ds4_status fill(gpu_device *d, int stream, gpu_ptr to, uint8_t value, uint64_t bytes, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    memset((void *)(uintptr_t)to, value, bytes);
    return DS4_OK;
}

static ds4_status to_device(gpu_device *d, int stream, gpu_ptr to, const void *from, uint64_t bytes, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return DS4_OK;
}

static ds4_status to_host(gpu_device *d, int stream, void *to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return DS4_OK;
}

static ds4_status copy(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    memmove((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
    return DS4_OK;
}

static ds4_status launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    (void)stream, (void)err;
    const lane_kernel_entry *k = &lane_kernels[l->kernel];
    if (k->args_bytes != l->args_bytes) {
        fprintf(stderr, "fake: kernel %s takes %zu bytes of arguments, not %zu\n", k->name, k->args_bytes, l->args_bytes);
        abort();
    }
    lane_run(k, l->grid, l->block, l->shared, l->args, ((fake_device *)d)->o.order);
    return DS4_OK;
}

static ds4_status event(gpu_device *d, int stream, int number, ds4_error *err)
{
    (void)d, (void)stream, (void)number, (void)err;
    return DS4_OK;
}

static ds4_status sync_stream(gpu_device *d, int stream, ds4_error *err)
{
    (void)d, (void)stream, (void)err;
    return DS4_OK;
}

static ds4_status no_graphs(gpu_device *d, ds4_error *err)
{
    (void)d;
    return ds4_fail(err, DS4_EUNSUPPORTED, "fake: no graphs");
}

static ds4_status transfer(gpu_device *d, bool to_dev, const gpu_piece *pieces, int n, ds4_error *err)
{
    (void)d, (void)err;
    for (int i = 0; i < n; i++) {
        void *at = (void *)(uintptr_t)pieces[i].device;
        if (to_dev) memcpy(at, pieces[i].host, pieces[i].bytes);
        else memcpy(pieces[i].host, at, pieces[i].bytes);
    }
    return DS4_OK;
}

static void close_device(gpu_device *d) { free(d); }

ds4_status fake_device_open(gpu_device **out, const fake_options *o, ds4_error *err)
{
    fake_device *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f) return ds4_fail(err, DS4_EMEMORY, "fake: no memory");
    f->o = *o;
    if (!f->o.total_bytes) f->o.total_bytes = 1ull << 30;
    f->base = (gpu_device){ .info = { .name = "lanes", .arch = 90, .driver = 13000, .n_sm = 4, .shared_bytes = 227 * 1024,
                                      .total_bytes = f->o.total_bytes, .l2_bytes = 1 << 20 },
                            .memory = memory, .alloc = alloc, .free = free_memory, .fill = fill, .to_device = to_device,
                            .to_host = to_host, .copy = copy, .launch = launch, .record = event, .wait = event,
                            .sync = sync_stream, .graph_begin = no_graphs, .transfer = transfer, .close = close_device };
    *out = &f->base;
    return DS4_OK;
}
