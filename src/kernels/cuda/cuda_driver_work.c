/* cuda_driver_work: copies, launches, events and recordings of the driver's device. */
#include "kernels/cuda/cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

#define NAME(name, args) #name,
static const char *const kernel_names[] = { CUDA_KERNELS(NAME) };

/* ---- kernels ------------------------------------------------------------------------------ */

static ds4_status load_next(driver_device *d, ds4_error *err)
{
    const cuda_image *image = &d->images->image[d->n_modules];
    const ds4_status st = driver_result(d, d->api.cuModuleLoadData(&d->module[d->n_modules], image->data), err,
                                        "loading the kernels of %s", image->name);
    if (!st) d->n_modules++;
    return st;
}

/* A kernel by its id. Which image has it is found by asking; images are loaded when the ones before
 * do not have it. */
static ds4_status find_kernel(driver_device *d, int id, ds4_error *err)
{
    driver_kernel *k = &d->kernel[id];
    for (int i = 0; !k->f; i++) {
        ds4_status st = DS4_OK;
        if (i == d->images->n)
            return ds4_fail(err, DS4_EDEVICE, "cuda: this program has no kernel %s; make cuda builds it",
                            kernel_names[id]);
        if (i == d->n_modules && (st = load_next(d, err))) return st;
        const cu_result r = d->api.cuModuleGetFunction(&k->f, d->module[i], kernel_names[id]);
        if (r == CU_OK) break;
        k->f = NULL;
        if (r != CU_NOT_FOUND) return driver_result(d, r, err, "looking for kernel %s", kernel_names[id]);
    }
    return DS4_OK;
}

static ds4_status load_kernels(driver_device *d, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int id = 0; id < CUDA_KERNEL_COUNT && !st; id++) st = find_kernel(d, id, err);
    return st;
}

static ds4_status allow_shared(driver_device *d, driver_kernel *k, const gpu_launch *l, ds4_error *err)
{
    if (l->shared <= k->shared) return DS4_OK;
    const ds4_status st = driver_result(d, d->api.cuFuncSetAttribute(k->f, CU_FUNCTION_DYNAMIC_SHARED, (int)l->shared),
                                        err, "%u bytes of shared memory for %s (a block may have %d)", l->shared,
                                        kernel_names[l->kernel], d->base.info.shared_bytes);
    if (!st) k->shared = l->shared;
    return st;
}

/* Something with early launches was refused, maybe for that: from now on it is done without. */
static void no_longer_early(driver_device *d, bool in_recordings, cu_result r)
{
    ds4_error err;
    if (!d->early[in_recordings] || !driver_survives(r)) return;
    d->early[in_recordings] = false;
    driver_says(&d->api, r, &err, "letting kernels begin early%s", in_recordings ? " in recordings" : "");
    snprintf(d->base.remark, sizeof d->base.remark, "%.250s; each begins when the one ahead is over", err.message);
}

static ds4_status launch(gpu_device *base, int stream, const gpu_launch *l, ds4_error *err)
{
    driver_device *d = driver_of(base);
    driver_kernel *k = &d->kernel[l->kernel];
    void *args[] = { (void *)(uintptr_t)l->args };
    ds4_status st = driver_enter(d, err);
    if (!st) st = find_kernel(d, l->kernel, err);
    if (!st) st = allow_shared(d, k, l, err);
    if (st) return st;
    cu_result r = CU_NOT_SUPPORTED, refused = CU_OK;
    if (d->early[d->recording] && d->after_kernel[stream] && !base->careful) {
        cu_launch_attribute early = { .id = CU_LAUNCH_SERIAL_EARLY, .value.allowed = 1 };
        const cu_launch_config c = { { l->grid[0], l->grid[1], l->grid[2] }, { l->block, 1, 1 }, l->shared,
                                     d->stream[stream], &early, 1 };
        refused = r = d->api.cuLaunchKernelEx(&c, k->f, args, NULL);
        d->recorded_early |= d->recording;
    }
    if (r != CU_OK && driver_survives(refused))
        r = d->api.cuLaunchKernel(k->f, l->grid[0], l->grid[1], l->grid[2], l->block, 1, 1, l->shared,
                                  d->stream[stream], args, NULL);
    if (refused != CU_OK && (r == CU_OK || d->recording)) no_longer_early(d, d->recording, refused);
    d->after_kernel[stream] = true;
    return driver_result(d, r, err, "launching %s (%u x %u x %u blocks of %u, %u bytes)", kernel_names[l->kernel],
                         l->grid[0], l->grid[1], l->grid[2], l->block, l->shared);
}

/* ---- copies ------------------------------------------------------------------------------- */

/* Work that is no kernel: the next kernel may not begin early. */
static ds4_status enter_plain(driver_device *d, int stream, ds4_error *err)
{
    d->after_kernel[stream] = false;
    return driver_enter(d, err);
}

static ds4_status fill(gpu_device *base, int stream, gpu_ptr to, uint8_t value, uint64_t bytes, ds4_error *err)
{
    driver_device *d = driver_of(base);
    const ds4_status st = enter_plain(d, stream, err);
    if (st || bytes == 0) return st;
    return driver_result(d, d->api.cuMemsetD8Async(to, value, bytes, d->stream[stream]), err, "filling %llu bytes",
                         (unsigned long long)bytes);
}

static ds4_status to_device(gpu_device *base, int stream, gpu_ptr to, const void *from, uint64_t bytes, ds4_error *err)
{
    driver_device *d = driver_of(base);
    ds4_status st = enter_plain(d, stream, err);
    if (st || bytes == 0) return st;
    st = driver_result(d, d->api.cuMemcpyHtoDAsync_v2(to, from, bytes, d->stream[stream]), err,
                       "copying %llu bytes to the card", (unsigned long long)bytes);
    if (st || driver_is_pinned(d, from, bytes)) return st;
    /* Whether the driver has taken other memory with it when the call returns is left open by its manual. */
    return driver_result(d, d->api.cuStreamSynchronize(d->stream[stream]), err, "waiting for %llu bytes to the card",
                         (unsigned long long)bytes);
}

static ds4_status to_host(gpu_device *base, int stream, void *to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    driver_device *d = driver_of(base);
    ds4_status st = enter_plain(d, stream, err);
    if (st || bytes == 0) return st;
    st = driver_result(d, d->api.cuMemcpyDtoHAsync_v2(to, from, bytes, d->stream[stream]), err,
                       "copying %llu bytes from the card", (unsigned long long)bytes);
    if (st || driver_is_pinned(d, to, bytes)) return st;
    return driver_result(d, d->api.cuStreamSynchronize(d->stream[stream]), err, "waiting for %llu bytes from the card",
                         (unsigned long long)bytes);
}

static ds4_status copy(gpu_device *base, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    driver_device *d = driver_of(base);
    const ds4_status st = enter_plain(d, stream, err);
    if (st || bytes == 0) return st;
    return driver_result(d, d->api.cuMemcpyDtoDAsync_v2(to, from, bytes, d->stream[stream]), err,
                         "copying %llu bytes on the card", (unsigned long long)bytes);
}

/* ---- events ------------------------------------------------------------------------------- */

static cu_event event_of(const driver_device *d, int event) { return d->recording ? d->kept[event] : d->event[event]; }

static ds4_status record(gpu_device *base, int stream, int event, ds4_error *err)
{
    driver_device *d = driver_of(base);
    /* in a recording an event is no work: the next kernel may begin early all the same */
    const ds4_status st = d->recording ? driver_enter(d, err) : enter_plain(d, stream, err);
    return st ? st : driver_result(d, d->api.cuEventRecord(event_of(d, event), d->stream[stream]), err,
                                   "recording event %d", event);
}

static ds4_status wait(gpu_device *base, int stream, int event, ds4_error *err)
{
    driver_device *d = driver_of(base);
    const ds4_status st = enter_plain(d, stream, err);
    return st ? st : driver_result(d, d->api.cuStreamWaitEvent(d->stream[stream], event_of(d, event), 0), err,
                                   "having stream %d wait for event %d", stream, event);
}

static ds4_status sync_streams(gpu_device *base, int stream, ds4_error *err)
{
    driver_device *d = driver_of(base);
    ds4_status st = driver_enter(d, err);
    for (int i = 0; i < GPU_STREAMS && !st; i++)
        if (stream < 0 || stream == i)
            st = driver_result(d, d->api.cuStreamSynchronize(d->stream[i]), err, "waiting for work");
    return st;
}

static ds4_status elapsed(gpu_device *base, int from, int to, float *ms, ds4_error *err)
{
    driver_device *d = driver_of(base);
    *ms = 0.0f;
    const ds4_status st = driver_enter(d, err);
    return st ? st : driver_result(d, d->api.cuEventElapsedTime(ms, d->event[from], d->event[to]), err,
                                   "taking the time from event %d to %d", from, to);
}

/* ---- recordings --------------------------------------------------------------------------- */

static void no_kernel_ahead(driver_device *d)
{
    for (int i = 0; i < GPU_STREAMS; i++) d->after_kernel[i] = false;
}

/* Kernels are loaded before: loading may wait for the device, which a recording must not. */
static ds4_status graph_begin(gpu_device *base, ds4_error *err)
{
    driver_device *d = driver_of(base);
    ds4_status st = driver_enter(d, err);
    if (!st) st = load_kernels(d, err);
    if (!st)
        st = driver_result(d, d->api.cuStreamBeginCapture_v2(d->stream[GPU_MAIN], CU_CAPTURE_RELAXED), err,
                           "beginning a recording");
    if (!st) d->recording = true;
    d->recorded_early = false;
    no_kernel_ahead(d);
    return st;
}

static void graph_abandon(gpu_device *base)
{
    driver_device *d = driver_of(base);
    cu_graph plan = NULL;
    if (!d->recording) return;
    d->recording = false;
    no_kernel_ahead(d);
    d->api.cuCtxSetCurrent(d->context);
    d->api.cuStreamEndCapture(d->stream[GPU_MAIN], &plan);
    if (plan) d->api.cuGraphDestroy(plan);
}

static ds4_status not_kept(driver_device *d, bool early, cu_result r, ds4_error *err, const char *doing)
{
    if (early && r != CU_OUT_OF_MEMORY) no_longer_early(d, true, r);
    return driver_result(d, r, err, "%s", doing);
}

static ds4_status graph_end(gpu_device *base, gpu_graph **out, ds4_error *err)
{
    driver_device *d = driver_of(base);
    cu_graph plan = NULL;
    *out = NULL;
    ds4_status st = driver_enter(d, err);
    if (st) {
        graph_abandon(base);
        return st;
    }
    d->recording = false;
    no_kernel_ahead(d);
    cu_result r = d->api.cuStreamEndCapture(d->stream[GPU_MAIN], &plan);
    if (r == CU_OK && !plan) r = CU_CAPTURE_INVALIDATED;
    if (r != CU_OK) return not_kept(d, d->recorded_early, r, err, "ending a recording");
    gpu_graph *g = calloc(1, sizeof *g);
    if (!g) st = ds4_fail(err, DS4_EMEMORY, "cuda: no memory for a recording");
    else if ((r = d->api.cuGraphInstantiateWithFlags(&g->exec, plan, 0)) != CU_OK)
        st = not_kept(d, d->recorded_early, r, err, "making a recording ready to run");
    d->api.cuGraphDestroy(plan);
    if (st) {
        free(g);
        return st;
    }
    g->early = d->recorded_early;
    *out = g;
    return DS4_OK;
}

static ds4_status graph_run(gpu_device *base, gpu_graph *g, ds4_error *err)
{
    driver_device *d = driver_of(base);
    const ds4_status st = enter_plain(d, GPU_MAIN, err);
    if (st) return st;
    const cu_result r = d->api.cuGraphLaunch(g->exec, d->stream[GPU_MAIN]);
    return r == CU_OK ? DS4_OK : not_kept(d, g->early, r, err, "running a recording");
}

static void graph_free(gpu_device *base, gpu_graph *g)
{
    driver_device *d = driver_of(base);
    if (!g) return;
    d->api.cuCtxSetCurrent(d->context);
    d->api.cuGraphExecDestroy(g->exec);
    free(g);
}

void driver_work(gpu_device *d)
{
    d->fill = fill;
    d->to_device = to_device;
    d->to_host = to_host;
    d->copy = copy;
    d->launch = launch;
    d->record = record;
    d->wait = wait;
    d->sync = sync_streams;
    d->graph_begin = graph_begin;
    d->graph_end = graph_end;
    d->graph_abandon = graph_abandon;
    d->graph_run = graph_run;
    d->graph_free = graph_free;
    d->elapsed = elapsed;
}
