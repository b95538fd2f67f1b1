/* cuda_driver: the seam over NVIDIA's driver, which is found at run time: cards, memory, opening. */
#include "kernels/cuda/cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"

/* ---- cards -------------------------------------------------------------------------------- */

/* Whether one entry of cuda_image_set.archs runs on a card: machine code within a generation, of a later
 * card's too where it is not bound to one by its letter; what is compiled further on all later ones. */
static bool entry_serves(const char *entry, int arch, int *made_for)
{
    const bool further = strncmp(entry, "ptx", 3) == 0;
    char *rest;
    *made_for = (int)strtol(entry + (further ? 3 : 0), &rest, 10);
    if (*rest == 'a') return *made_for == arch;
    return further ? *made_for <= arch : *made_for / 10 == arch / 10 && *made_for <= arch;
}

/* The architecture that the kernels which a card would run were written for; 0: there are none. */
static int serving_arch(const cuda_image_set *images, int arch)
{
    const char *at = images->archs;
    int newest = 0, made_for, n;
    char entry[16];
    for (; sscanf(at, " %15s%n", entry, &n) == 1; at += n)
        if (entry_serves(entry, arch, &made_for) && made_for > newest) newest = made_for;
    return newest;
}

static ds4_status attribute(const cuda_api *api, int what, cu_card card, int *out, ds4_error *err)
{
    return driver_says(api, api->cuDeviceGetAttribute(out, what, card), err, "asking for attribute %d of a card", what);
}

/* Driver and card, before anything is taken. */
static ds4_status find_card(gpu_info *out, cu_card *card, const cuda_api *api, const cuda_image_set *images, int index,
                            ds4_error *err)
{
    ds4_status st;
    int n = 0, major = 0, minor = 0, integrated = 0, mode = 0, l2 = 0;
    size_t total = 0;
    gpu_info i = { .name = "" };
    if ((st = driver_says(api, api->cuInit(0), err, "starting the driver"))) return st;
    if ((st = driver_says(api, api->cuDriverGetVersion(&i.driver), err, "asking for the driver's version"))) return st;
    const int needed = images->toolkit / 1000 * 1000;
    if (i.driver < needed)
        return ds4_fail(err, DS4_EDEVICE,
                        "cuda: the driver is for CUDA %d.%d, the kernels need %d.0 or later; install a newer "
                                          "driver, or build with an older CUDA compiler (make cuda)",
                        i.driver / 1000, i.driver % 1000 / 10, needed / 1000);
    if ((st = driver_says(api, api->cuDeviceGetCount(&n), err, "counting cards"))) return st;
    if (n == 0) return driver_says(api, CU_NO_DEVICE, err, "counting cards");
    if (index < 0 || index >= n)
        return ds4_fail(err, DS4_ENOTFOUND, "cuda: there is no card %d; there %s %d, counted from 0", index,
                        n == 1 ? "is" : "are", n);
    if ((st = driver_says(api, api->cuDeviceGet(card, index), err, "finding card %d", index))) return st;
    if ((st = driver_says(api, api->cuDeviceGetName(i.name, (int)sizeof i.name, *card), err,
                          "asking card %d for its name", index))) return st;
    if ((st = driver_says(api, api->cuDeviceTotalMem_v2(&total, *card), err, "asking %s for its memory", i.name)))
        return st;
    if ((st = attribute(api, CU_ATTRIBUTE_MAJOR, *card, &major, err)) ||
        (st = attribute(api, CU_ATTRIBUTE_MINOR, *card, &minor, err)) ||
        (st = attribute(api, CU_ATTRIBUTE_SM, *card, &i.n_sm, err)) ||
        (st = attribute(api, CU_ATTRIBUTE_SHARED, *card, &i.shared_bytes, err)) ||
        (st = attribute(api, CU_ATTRIBUTE_L2, *card, &l2, err)) || (st = attribute(api, CU_ATTRIBUTE_MODE, *card, &mode, err)) ||
        (st = attribute(api, CU_ATTRIBUTE_INTEGRATED, *card, &integrated, err)))
        return st;
    i.arch = 10 * major + minor;
    i.total_bytes = total;
    i.l2_bytes = (uint64_t)l2;
    i.unified = integrated != 0;
    if (!serving_arch(images, i.arch))
        return ds4_fail(err, DS4_EDEVICE, "cuda: %s is of architecture sm_%d; this program has kernels for %s (make cuda "
                                          "CUDA_ARCHS=... builds others, from 80 on)", i.name, i.arch, images->archs);
    if (mode == CU_MODE_PROHIBITED)
        return ds4_fail(err, DS4_EDEVICE, "cuda: %s does not allow computing; `nvidia-smi -c DEFAULT` changes that",
                        i.name);
    *out = i;
    return DS4_OK;
}

static ds4_status take_context(cu_context *context, const cuda_api *api, cu_card card, const char *name, ds4_error *err)
{
    ds4_status st = driver_says(api, api->cuDevicePrimaryCtxRetain(context, card), err, "opening %s", name);
    if (st) return st;
    st = driver_says(api, api->cuCtxSetCurrent(*context), err, "entering the context of %s", name);
    if (st) api->cuDevicePrimaryCtxRelease_v2(card);
    return st;
}

ds4_status driver_probe(gpu_info *out, const cuda_api *api, const cuda_image_set *images, int index, uint64_t *available,
                        ds4_error *err)
{
    cu_card card;
    cu_context context;
    size_t free_bytes = 0, total = 0;
    ds4_status st = find_card(out, &card, api, images, index, err);
    if (st || !available) return st;
    if ((st = take_context(&context, api, card, out->name, err))) return st;
    st = driver_says(api, api->cuMemGetInfo_v2(&free_bytes, &total), err, "asking %s for its free memory", out->name);
    api->cuCtxSetCurrent(NULL);
    api->cuDevicePrimaryCtxRelease_v2(card);
    *available = free_bytes;
    return st;
}

/* ---- memory ------------------------------------------------------------------------------- */

static ds4_status memory(gpu_device *base, uint64_t *available, uint64_t *total, ds4_error *err)
{
    driver_device *d = driver_of(base);
    size_t free_bytes = 0, all = 0;
    ds4_status st = driver_enter(d, err);
    if (!st)
        st = driver_result(d, d->api.cuMemGetInfo_v2(&free_bytes, &all), err, "asking %s for its free memory",
                           base->info.name);
    *available = free_bytes;
    *total = all;
    return st;
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

static ds4_status out_of_memory(driver_device *d, uint64_t bytes, ds4_error *err)
{
    size_t available = 0, total = 0;
    d->api.cuMemGetInfo_v2(&available, &total);
    return driver_says(&d->api, CU_OUT_OF_MEMORY, err, "%.1f MiB asked of %.40s, %.1f of %.1f MiB are free", mib(bytes),
                       d->base.info.name, mib(available), mib(total));
}

static ds4_status alloc_pinned(driver_device *d, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err)
{
    driver_pinned *p = malloc(sizeof *p);
    void *at = NULL;
    if (!p) return ds4_fail(err, DS4_EMEMORY, "cuda: no memory to keep account of pinned memory");
    const cu_result r = d->api.cuMemHostAlloc(&at, bytes, CU_HOST_PORTABLE | CU_HOST_MAPPED);
    ds4_status st = driver_result(d, r, err, "pinning %.1f MiB of the host's memory", mib(bytes));
    if (r == CU_OUT_OF_MEMORY)
        ds4_fail(err, st, "cuda: %.1f MiB of the host's memory could not be pinned, %.1f MiB of it can be had; a shorter "
                 "context or fewer sessions need less, --backend cpu none", mib(bytes), mib(memory_available()));
    if (!st)
        st = driver_result(d, d->api.cuMemHostGetDevicePointer_v2(out, at, 0), err,
                           "mapping %.1f MiB of the host's memory", mib(bytes));
    if (st) {
        if (at) d->api.cuMemFreeHost(at);
        free(p);
        return st;
    }
    pthread_mutex_lock(&d->lock);
    *p = (driver_pinned){ d->pinned, at, *out, bytes };
    d->pinned = p;
    pthread_mutex_unlock(&d->lock);
    if (host) *host = at;
    return DS4_OK;
}

static ds4_status alloc(gpu_device *base, gpu_memory kind, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err)
{
    driver_device *d = driver_of(base);
    *out = 0;
    if (host) *host = NULL;
    const ds4_status st = driver_enter(d, err);
    if (st) return st;
    if (kind == GPU_PINNED) return alloc_pinned(d, bytes, out, host, err);
    const cu_result r = d->api.cuMemAlloc_v2(out, bytes);
    if (r == CU_OUT_OF_MEMORY) return out_of_memory(d, bytes, err);
    return driver_result(d, r, err, "allocating %.1f MiB", mib(bytes));
}

static void free_memory(gpu_device *base, gpu_memory kind, gpu_ptr p)
{
    driver_device *d = driver_of(base);
    if (!p) return;
    d->api.cuCtxSetCurrent(d->context);
    if (kind == GPU_LOCAL) {
        d->api.cuMemFree_v2(p);
        return;
    }
    pthread_mutex_lock(&d->lock);
    driver_pinned **at = &d->pinned, *found;
    while (*at && (*at)->device != p) at = &(*at)->next;
    found = *at;
    if (found) *at = found->next;
    pthread_mutex_unlock(&d->lock);
    if (found) d->api.cuMemFreeHost(found->host);
    free(found);
}

bool driver_is_pinned(driver_device *d, const void *host, uint64_t bytes)
{
    const uint8_t *p = host;
    bool found = false;
    pthread_mutex_lock(&d->lock);
    for (const driver_pinned *m = d->pinned; m && !found; m = m->next)
        found = p >= m->host && p + bytes <= m->host + m->bytes;
    pthread_mutex_unlock(&d->lock);
    return found;
}

/* ---- open and close ------------------------------------------------------------------------ */

static void close_device(gpu_device *base)
{
    driver_device *d = driver_of(base);
    if (!d) return;
    const cuda_api *api = &d->api;
    api->cuCtxSetCurrent(d->context);
    driver_transfer_close(d);
    while (d->pinned) free_memory(base, GPU_PINNED, d->pinned->device);
    for (int i = 0; i < GPU_EVENTS; i++) {
        if (d->event[i]) api->cuEventDestroy_v2(d->event[i]);
        if (d->kept[i]) api->cuEventDestroy_v2(d->kept[i]);
    }
    for (int i = 0; i < GPU_STREAMS; i++)
        if (d->stream[i]) api->cuStreamDestroy_v2(d->stream[i]);
    if (d->transfers) api->cuStreamDestroy_v2(d->transfers);
    for (int i = 0; i < d->n_modules; i++) api->cuModuleUnload(d->module[i]);
    api->cuCtxSetCurrent(NULL);
    /* A context that has failed goes, so that the card can be opened anew. */
    if (d->lost) api->cuDevicePrimaryCtxReset_v2(d->card);
    api->cuDevicePrimaryCtxRelease_v2(d->card);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->transfer_lock);
    free(d->module);
    free(d);
}

static ds4_status make_streams(driver_device *d, ds4_error *err)
{
    const cuda_api *api = &d->api;
    ds4_status st = DS4_OK;
    for (int i = 0; i < GPU_STREAMS && !st; i++)
        st = driver_result(d, api->cuStreamCreate(&d->stream[i], CU_STREAM_NON_BLOCKING), err, "making stream %d", i);
    if (!st)
        st = driver_result(d, api->cuStreamCreate(&d->transfers, CU_STREAM_NON_BLOCKING), err,
                           "making the stream of transfers");
    for (int i = 0; i < GPU_EVENTS && !st; i++) {
        st = driver_result(d, api->cuEventCreate(&d->event[i], 0), err, "making event %d", i);
        if (!st)
            st = driver_result(d, api->cuEventCreate(&d->kept[i], CU_EVENT_NO_TIMING), err,
                               "making event %d of recordings", i);
    }
    return st;
}

ds4_status driver_open(gpu_device **out, const cuda_api *api, const cuda_image_set *images, int index, ds4_error *err)
{
    gpu_info info;
    cu_card card;
    *out = NULL;
    ds4_status st = find_card(&info, &card, api, images, index, err);
    if (st) return st;
    driver_device *d = calloc(1, sizeof *d);
    if (d) d->module = calloc((size_t)images->n + 1, sizeof *d->module);
    if (!d || !d->module) {
        free(d);
        return ds4_fail(err, DS4_EMEMORY, "cuda: no memory for the device");
    }
    if ((st = take_context(&d->context, api, card, info.name, err))) {
        free(d->module);
        free(d);
        return st;
    }
    d->api = *api;
    d->images = images;
    d->card = card;
    /* Kernels that know how to wait; early launches within recordings are sound from driver 12.3 on. */
    const bool early = serving_arch(images, info.arch) >= 90 && info.driver >= 12030 && api->cuLaunchKernelEx;
    d->early[false] = d->early[true] = early;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->transfer_lock, NULL);
    d->base = (gpu_device){ .info = info, .memory = memory, .alloc = alloc, .free = free_memory,
                            .transfer = driver_transfer, .close = close_device };
    driver_work(&d->base);
    if ((st = make_streams(d, err))) {
        close_device(&d->base);
        return st;
    }
    *out = &d->base;
    return DS4_OK;
}

/* ---- this program's ------------------------------------------------------------------------ */

static ds4_status find_driver(cuda_api *api, ds4_error *err)
{
    if (cuda_images.n == 0)
        return ds4_fail(err, DS4_EUNSUPPORTED,
                        "cuda: this program was built without CUDA kernels; `make cuda` builds one with them");
    return cuda_api_load(api, err);
}

ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err)
{
    cuda_api api;
    *out = NULL;
    const ds4_status st = find_driver(&api, err);
    return st ? st : driver_open(out, &api, &cuda_images, index, err);
}

ds4_status gpu_driver_probe(gpu_info *out, int index, uint64_t *available, ds4_error *err)
{
    cuda_api api;
    const ds4_status st = find_driver(&api, err);
    return st ? st : driver_probe(out, &api, &cuda_images, index, available, err);
}
