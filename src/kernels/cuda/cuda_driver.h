/* cuda_driver: what the files of the driver's device share. Private to them. */
#ifndef KERNELS_CUDA_CUDA_DRIVER_H
#define KERNELS_CUDA_CUDA_DRIVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/cuda_image.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

enum { BOUNCES = 3, BOUNCE_RUNS = 1024 };
#define BOUNCE_BYTES ((uint64_t)4 << 20)

typedef struct {
    cu_function f;
    unsigned    shared;         /* dynamic shared memory that it may use */
} driver_kernel;

/* Pinned memory on its way between other memory of the host and the card. */
typedef struct {
    uint8_t *at;
    cu_event done;
    uint64_t used;
    int      n_runs, n_parts;
    struct { gpu_ptr device; uint64_t offset, bytes; } run[BOUNCE_RUNS];    /* one copy each         */
    struct { uint8_t *host; uint64_t offset, bytes; } part[BOUNCE_RUNS];    /* to host: where they go */
} driver_bounce;

/* Memory of the host that the card may address. */
typedef struct driver_pinned {
    struct driver_pinned *next;
    uint8_t *host;
    gpu_ptr  device;
    uint64_t bytes;
} driver_pinned;

typedef struct {
    gpu_device     base;
    cuda_api       api;
    const cuda_image_set *images;
    cu_card        card;
    cu_context     context;
    cu_stream      stream[GPU_STREAMS], transfers;
    cu_event       event[GPU_EVENTS];
    cu_event       kept[GPU_EVENTS];    /* their likes within recordings, which must not mix with them */
    cu_module     *module;              /* [images->n], of which n_modules are loaded */
    int            n_modules;
    driver_kernel  kernel[CUDA_KERNEL_COUNT];
    bool           early[2];            /* kernels may begin before the one ahead of them is over: in  */
                                        /* streams, in recordings                                      */
    bool           after_kernel[GPU_STREAMS];   /* the stream's latest work is a kernel                */
    bool           recording;
    bool           recorded_early;      /* the recording has kernels that begin early                  */

    pthread_mutex_t lock;               /* of lost_error and pinned */
    atomic_bool    lost;
    ds4_error      lost_error;
    driver_pinned *pinned;

    pthread_mutex_t transfer_lock;      /* of transfers and bounces */
    driver_bounce  *bounce;             /* [BOUNCES], from the first transfer on */
} driver_device;

struct gpu_graph { cu_exec exec; bool early; };

static inline driver_device *driver_of(gpu_device *d) { return (driver_device *)d; }

/* DS4_OK for CU_OK; else a sentence: what was done, the driver's name for the error, the remedy. */
ds4_status driver_says(const cuda_api *api, cu_result r, ds4_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same of an open device, which errors that leave no way on make unusable. */
ds4_status driver_result(driver_device *d, cu_result r, ds4_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Whether the device is usable after r, where driver_result has not been told of it. */
bool driver_survives(cu_result r);
/* To begin with in every call: whether the device is usable, from this thread. */
ds4_status driver_enter(driver_device *d, ds4_error *err);
/* Whether the card can address these bytes of the host. */
bool driver_is_pinned(driver_device *d, const void *host, uint64_t bytes);

void driver_work(gpu_device *d);            /* fills in: work of streams and recordings (cuda_driver_work.c) */
ds4_status driver_transfer(gpu_device *d, bool to_device, const gpu_piece *pieces, int n, ds4_error *err);
void driver_transfer_close(driver_device *d);

/* gpu_driver_open and gpu_driver_probe over any driver and any kernels. */
ds4_status driver_open(gpu_device **out, const cuda_api *api, const cuda_image_set *images, int index, ds4_error *err);
ds4_status driver_probe(gpu_info *out, const cuda_api *api, const cuda_image_set *images, int index, uint64_t *available,
                        ds4_error *err);

#endif
