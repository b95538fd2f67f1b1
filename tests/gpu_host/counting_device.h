/* counting_device: the seam of kernels/cuda/device.h over no device at all.
 *
 * Memory is addresses alone, so a model of any size fits; nothing is computed. What remains is the order of
 * the work: every launch, copy and fill is noted with the work that it must come after, and a clock of
 * predictions tells when each could begin and end if every one took as long as `cost` says. One thread. */
#ifndef TESTS_GPU_HOST_COUNTING_DEVICE_H
#define TESTS_GPU_HOST_COUNTING_DEVICE_H

#include "kernels/cuda/device.h"

typedef struct {
    int      kernel;            /* of kernels.h; -1: a copy or a fill                             */
    int      stream, layer;
    unsigned blocks, block, shared;
    bool     joins;             /* waits for work of another stream                               */
    uint64_t bytes, macs;       /* what `cost` found                                              */
    double   us, end;           /* as predicted: how long, and when it is over                    */
    int      after;             /* the work that it began behind: number, or -1                   */
} counted_work;

typedef struct {
    gpu_info info;
    /* Fills bytes, macs and us of a launch; w has the rest. */
    void   (*cost)(void *ctx, const gpu_launch *l, counted_work *w);
    void    *ctx;
} counting_options;

ds4_status counting_device_open(gpu_device **out, const counting_options *o, ds4_error *err);

/* Forgets what was noted. */
void                counting_clear(gpu_device *d);
/* Of the work that comes. */
void                counting_layer(gpu_device *d, int layer);
const counted_work *counting_work(const gpu_device *d, int *n);
/* Bytes of the card that were asked for since it was opened. */
uint64_t            counting_taken(const gpu_device *d);

#endif
