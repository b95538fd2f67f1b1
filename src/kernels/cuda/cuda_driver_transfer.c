/* cuda_driver_transfer: bytes between host and card beside the work of steps.
 *
 * The card copies asynchronously from pinned memory alone, so other memory goes through three pinned
 * buffers: while the card copies one, this thread fills or empties another. Pieces that follow each other
 * on the card become one copy. */
#include "kernels/cuda/cuda_driver.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

static ds4_status open_bounces(driver_device *d, ds4_error *err)
{
    if (d->bounce) return DS4_OK;
    driver_bounce *all = calloc(BOUNCES, sizeof *all);
    if (!all) return ds4_fail(err, DS4_EMEMORY, "cuda: no memory for transfers");
    d->bounce = all;
    ds4_status st = DS4_OK;
    for (int i = 0; i < BOUNCES && !st; i++) {
        st = driver_result(d, d->api.cuMemHostAlloc((void **)&all[i].at, BOUNCE_BYTES, CU_HOST_PORTABLE), err,
                           "pinning %llu bytes for transfers", (unsigned long long)BOUNCE_BYTES);
        if (!st) st = driver_result(d, d->api.cuEventCreate(&all[i].done, 0), err, "making an event for transfers");
    }
    if (st) driver_transfer_close(d);
    return st;
}

void driver_transfer_close(driver_device *d)
{
    for (int i = 0; i < BOUNCES && d->bounce; i++) {
        if (d->bounce[i].done) d->api.cuEventDestroy_v2(d->bounce[i].done);
        if (d->bounce[i].at) d->api.cuMemFreeHost(d->bounce[i].at);
    }
    free(d->bounce);
    d->bounce = NULL;
}

static ds4_status copy_run(driver_device *d, bool to_device, gpu_ptr device, void *host, uint64_t bytes, ds4_error *err)
{
    const cu_result r = to_device ? d->api.cuMemcpyHtoDAsync_v2(device, host, bytes, d->transfers)
                                  : d->api.cuMemcpyDtoHAsync_v2(host, device, bytes, d->transfers);
    return driver_result(d, r, err, "moving %llu bytes %s the card", (unsigned long long)bytes,
                         to_device ? "to" : "from");
}

/* Waits until the card is through with b, and hands out what came. */
static ds4_status finish(driver_device *d, driver_bounce *b, ds4_error *err)
{
    if (b->used == 0) return DS4_OK;
    const ds4_status st = driver_result(d, d->api.cuEventSynchronize(b->done), err, "waiting for a transfer");
    for (int i = 0; i < b->n_parts && !st; i++) memcpy(b->part[i].host, b->at + b->part[i].offset, b->part[i].bytes);
    b->used = 0;
    b->n_runs = b->n_parts = 0;
    return st;
}

/* Hands b's copies to the card. */
static ds4_status start(driver_device *d, bool to_device, driver_bounce *b, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < b->n_runs && !st; i++)
        st = copy_run(d, to_device, b->run[i].device, b->at + b->run[i].offset, b->run[i].bytes, err);
    if (!st) st = driver_result(d, d->api.cuEventRecord(b->done, d->transfers), err, "recording a transfer");
    return st;
}

static bool is_full(const driver_bounce *b)
{
    return b->used == BOUNCE_BYTES || b->n_runs == BOUNCE_RUNS || b->n_parts == BOUNCE_RUNS;
}

/* As much of a piece as b has room for; returns how much. */
static uint64_t put(driver_bounce *b, bool to_device, gpu_ptr device, uint8_t *host, uint64_t bytes)
{
    const uint64_t n = min_u64(bytes, BOUNCE_BYTES - b->used);
    const int last = b->n_runs - 1;
    if (last >= 0 && b->run[last].device + b->run[last].bytes == device) {
        b->run[last].bytes += n;
    } else {
        b->run[b->n_runs].device = device;
        b->run[b->n_runs].offset = b->used;
        b->run[b->n_runs++].bytes = n;
    }
    if (to_device) {
        memcpy(b->at + b->used, host, n);
    } else {
        b->part[b->n_parts].host = host;
        b->part[b->n_parts].offset = b->used;
        b->part[b->n_parts++].bytes = n;
    }
    b->used += n;
    return n;
}

static ds4_status move(driver_device *d, bool to_device, const gpu_piece *pieces, int n, ds4_error *err)
{
    int at = 0;
    ds4_status st = open_bounces(d, err);
    for (int i = 0; i < n && !st; i++) {
        const gpu_piece *p = &pieces[i];
        if (p->bytes == 0) continue;
        if (driver_is_pinned(d, p->host, p->bytes)) {
            st = copy_run(d, to_device, p->device, p->host, p->bytes, err);
            continue;
        }
        for (uint64_t done = 0; done < p->bytes && !st;) {
            driver_bounce *b = &d->bounce[at];
            done += put(b, to_device, p->device + done, (uint8_t *)p->host + done, p->bytes - done);
            if (!is_full(b)) continue;
            st = start(d, to_device, b, err);
            at = (at + 1) % BOUNCES;
            if (!st) st = finish(d, &d->bounce[at], err);
        }
    }
    if (!st && d->bounce[at].used) st = start(d, to_device, &d->bounce[at], err);
    for (int i = 1; i <= BOUNCES && !st; i++) st = finish(d, &d->bounce[(at + i) % BOUNCES], err);
    if (!st) st = driver_result(d, d->api.cuStreamSynchronize(d->transfers), err, "waiting for a transfer");
    return st;
}

ds4_status driver_transfer(gpu_device *base, bool to_device, const gpu_piece *pieces, int n, ds4_error *err)
{
    driver_device *d = driver_of(base);
    ds4_status st = driver_enter(d, err);
    if (st) return st;
    pthread_mutex_lock(&d->transfer_lock);
    st = move(d, to_device, pieces, n, err);
    if (st && d->bounce) {              /* the next transfer begins with empty buffers that nobody uses */
        d->api.cuStreamSynchronize(d->transfers);
        for (int i = 0; i < BOUNCES; i++) d->bounce[i].used = 0, d->bounce[i].n_runs = d->bounce[i].n_parts = 0;
    }
    pthread_mutex_unlock(&d->transfer_lock);
    return st;
}
