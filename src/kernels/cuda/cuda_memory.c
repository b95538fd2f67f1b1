/* cuda_memory: what the card's memory is like: how much there is, how fast it is read. */
#include "kernels/cuda/cuda_internal.h"

#include <stdio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"

/* What is read is many times what the card keeps in its cache, and little of what is free: other processes may
 * want some too. */
enum { TIMES_CACHE = 4, SHARE_OF_FREE = 8, PASSES = 4 };

uint64_t cuda_available(const gpu_info *info, uint64_t available)
{
    const uint64_t system = info->unified ? min_u64(memory_available(), info->total_bytes) : 0;
    return system > available ? system : available;
}

ds4_status cuda_device_now(backend *base, backend_device *out, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    *out = (backend_device){ .unified = b->device->info.unified };
    snprintf(out->name, sizeof out->name, "%s", b->device->info.name);
    const ds4_status st = b->device->memory(b->device, &out->available, &out->total, err);
    out->available = cuda_available(&b->device->info, out->available);
    return st;
}

/* Several passes between two waits, so that the waits do not count. */
static ds4_status read_times(gpu_device *d, const read_memory_args *a, int passes, uint64_t *ns, ds4_error *err)
{
    const gpu_launch l = { CUDA_read_memory, { (unsigned)(d->info.n_sm * READ_BLOCKS_PER_SM), 1, 1 }, READ_THREADS, 0,
                           a, sizeof *a };
    const uint64_t start = clock_ns();
    ds4_status st = DS4_OK;
    for (int i = 0; i < passes && !st; i++) st = d->launch(d, GPU_MAIN, &l, err);
    if (!st) st = d->sync(d, GPU_MAIN, err);
    *ns = clock_ns() - start;
    return st;
}

ds4_status cuda_read_speed(backend *base, uint64_t bytes, double *gbs, int n, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    gpu_device *d = b->device;
    uint64_t available, total, ns;
    gpu_ptr at = 0;
    ds4_status st = d->memory(d, &available, &total, err);
    if (st) return st;
    if (bytes > available / SHARE_OF_FREE) bytes = available / SHARE_OF_FREE;
    bytes &= ~(uint64_t)15;
    if (bytes < 16 || bytes < TIMES_CACHE * d->info.l2_bytes)
        return ds4_fail(err, DS4_EMEMORY, "%s: %.0f MiB are free, too little to measure how fast memory is read",
                        base->name, (double)available / (1 << 20));
    st = d->alloc(d, GPU_LOCAL, bytes + 16, &at, NULL, err);
    if (st) return st;
    const read_memory_args a = { .from = at, .sum = at + bytes, .n = (int64_t)(bytes / 16) };
    st = d->fill(d, GPU_MAIN, at, 0, bytes + 16, err);
    if (!st) st = read_times(d, &a, 1, &ns, err);
    for (int i = 0; i < n && !st; i++) {
        st = read_times(d, &a, PASSES, &ns, err);
        gbs[i] = (double)bytes * PASSES / (double)(ns ? ns : 1);
    }
    d->free(d, GPU_LOCAL, at);
    return st;
}
