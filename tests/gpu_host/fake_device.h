/* fake_device: the seam of kernels/cuda/device.h over the lane runner, as unhelpful as a device may be.
 *
 * Kernels run on the CPU, so the driver's own logic runs anywhere. Work waits in its stream until
 * somebody waits for it, and streams advance in an order of the seed's that only events restrict: a
 * missing wait, or a range that an op did not declare, gives wrong numbers. Copies from pinned memory
 * read it when they run. Device addresses are no host addresses: what follows one outside of a kernel's
 * gpu_at ends at once. With DS4_TEST_DEVICE=ptx in the environment kernels run as nvcc compiled them
 * (ptx_run.h), in place of the lanes. What only our own mistake can bring about (memory freed under work, a
 * recording that waits for an event from outside it, a launch that no card takes) ends the process with
 * a sentence. */
#ifndef TESTS_GPU_HOST_FAKE_DEVICE_H
#define TESTS_GPU_HOST_FAKE_DEVICE_H

#include "kernels/cuda/device.h"
#include "lane_runner.h"

typedef struct {
    lane_order order;           /* of lanes within a kernel                                  */
    uint64_t   total_bytes;     /* of the card; 0: 1 GiB                                     */
    uint64_t   seed;            /* of the order of streams                                   */
    bool       eager;           /* every call does its work before it returns                */
    bool       no_graphs, unified;
    int        fail_alloc;      /* the n-th allocation from 1 on finds no memory             */
    int        fail_launch;     /* the n-th kernel from 1 on that runs loses the device      */
    int        arch, n_sm;      /* 0: 90, 4                                                  */
    int        shared_bytes;    /* 0: 227 KB                                                 */
} fake_options;

ds4_status fake_device_open(gpu_device **out, const fake_options *o, ds4_error *err);

/* What lies behind a device address; for tests that look at it after a sync. */
void *fake_device_at(gpu_ptr p);

#endif
