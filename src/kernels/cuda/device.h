/* device: the thin seam between the CUDA backend and the machine.
 *
 * Memory, copies, launches, events and graphs of one GPU, and nothing that knows
 * about models. Two implementations: cuda_driver.c (the CUDA driver, found at run
 * time) and tests/gpu_host/fake_device.c (the same kernels on the CPU, lane by
 * lane). Whatever has logic stands above it.
 *
 * Calls on streams return before the work is done; work of one stream is done in
 * order, work of two streams only where an event says so. An error that the device
 * meets later is returned by a later call, as DS4_EDEVICE; the device is unusable
 * from then on and can only be closed.
 *
 * One thread at a time, except gpu_device.transfer (any thread). */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"
#include "kernels/cuda/device_types.h"

typedef struct {
    char     name[96];          /* "NVIDIA H200"                                          */
    int      arch;              /* compute capability, 90 for 9.0                         */
    int      driver;            /* version of the driver's interface, 13000 for 13.0      */
    int      n_sm;              /* multiprocessors                                        */
    int      shared_bytes;      /* most shared memory of one block                        */
    uint64_t total_bytes, l2_bytes;
    bool     unified;           /* shares its memory with the host (GB10)                 */
} gpu_info;

typedef enum {
    GPU_LOCAL,                  /* on the card                                            */
    GPU_PINNED                  /* in host memory; both sides may address it              */
} gpu_memory;

/* Streams by number. Kernels run on 0..GPU_COMPUTE_STREAMS-1. */
enum { GPU_MAIN = 0, GPU_COMPUTE_STREAMS = 3, GPU_COPY = 3, GPU_STREAMS = 4 };
enum { GPU_EVENTS = 64 };

/* One kernel over a grid of blocks; `args` is copied before launch returns. */
typedef struct {
    int         kernel;         /* cuda_kernel_id of kernels.h */
    unsigned    grid[3], block; /* threads of a block: a multiple of 32 */
    unsigned    shared;         /* bytes of dynamic shared memory */
    const void *args;
    size_t      args_bytes;
} gpu_launch;

typedef struct gpu_graph gpu_graph;
typedef struct gpu_piece gpu_piece;
typedef struct gpu_device gpu_device;

struct gpu_device {
    gpu_info info;

    /* Bytes that an allocation could get now, and of the whole card. */
    ds4_status (*memory)(gpu_device *d, uint64_t *available, uint64_t *total, ds4_error *err);
    /* At least 256-byte aligned; not cleared. host (GPU_PINNED) may be NULL for GPU_LOCAL. */
    ds4_status (*alloc)(gpu_device *d, gpu_memory kind, uint64_t bytes, gpu_ptr *out, void **host, ds4_error *err);
    void       (*free)(gpu_device *d, gpu_memory kind, gpu_ptr p);      /* waits for nothing: sync first */

    ds4_status (*fill)(gpu_device *d, int stream, gpu_ptr to, uint8_t value, uint64_t bytes, ds4_error *err);
    /* Host memory that is not pinned is copied or filled before the call returns. */
    ds4_status (*to_device)(gpu_device *d, int stream, gpu_ptr to, const void *from, uint64_t bytes, ds4_error *err);
    ds4_status (*to_host)(gpu_device *d, int stream, void *to, gpu_ptr from, uint64_t bytes, ds4_error *err);
    ds4_status (*copy)(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err);
    ds4_status (*launch)(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err);

    /* What `stream` does after wait comes after what the event's stream did before its
     * latest record. An event that was never recorded is over. */
    ds4_status (*record)(gpu_device *d, int stream, int event, ds4_error *err);
    ds4_status (*wait)(gpu_device *d, int stream, int event, ds4_error *err);
    ds4_status (*sync)(gpu_device *d, int stream, ds4_error *err);      /* stream < 0: all */

    /* Between begin and end nothing is done; the work of GPU_MAIN, and of the streams that wait
     * for its events, is kept. The other streams must be joined again before end; events waited for
     * are recorded in between too, copies are from and to pinned memory, nothing is allocated or synced.
     * begin fails where there are no graphs (DS4_EUNSUPPORTED). abandon ends a recording that failed, which
     * may succeed the next time: the device may have given something up for it. A recording that does not
     * run has done nothing; after each of these failures sync tells whether the device is usable. */
    ds4_status (*graph_begin)(gpu_device *d, ds4_error *err);
    ds4_status (*graph_end)(gpu_device *d, gpu_graph **out, ds4_error *err);
    void       (*graph_abandon)(gpu_device *d);
    ds4_status (*graph_run)(gpu_device *d, gpu_graph *g, ds4_error *err);       /* on GPU_MAIN */
    void       (*graph_free)(gpu_device *d, gpu_graph *g);

    /* Milliseconds between two recorded events that are over (docs/backend-cuda.md, bench). */
    ds4_status (*elapsed)(gpu_device *d, int from, int to, float *ms, ds4_error *err);

    /* Copies n pieces between host and device on a stream of its own and waits. Any thread. */
    ds4_status (*transfer)(gpu_device *d, bool to_device, const gpu_piece *pieces, int n, ds4_error *err);
    void       (*close)(gpu_device *d);

    /* Set by whoever opened it: no kernel begins before the one ahead of it is over. */
    bool       careful;

    /* What it gave up and does otherwise from now on; "": nothing. Whoever tells it empties it. */
    char       remark[320];
};

struct gpu_piece {
    gpu_ptr  device;
    void    *host;              /* only read when to_device */
    uint64_t bytes;
};

/* The CUDA driver's device `index` with this program's kernels. DS4_EUNSUPPORTED when the program was
 * built without them, DS4_ENOTFOUND without driver or card, DS4_EDEVICE when the card can not be used; the
 * sentence says what to do. */
ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err);

/* What gpu_driver_open would find, with its errors; takes no memory of the card. available, which may be
 * NULL: bytes that an allocation could get now; to know it takes as long as opening. Any thread. */
ds4_status gpu_driver_probe(gpu_info *out, int index, uint64_t *available, ds4_error *err);

#endif
