/* fake_device: the seam of kernels/cuda/device.h over the lane runner. Kernels run on the CPU, so the
 * driver's own logic runs anywhere. */
#ifndef TESTS_GPU_HOST_FAKE_DEVICE_H
#define TESTS_GPU_HOST_FAKE_DEVICE_H

#include "kernels/cuda/device.h"
#include "lane_runner.h"

typedef struct {
    lane_order order;
    uint64_t   total_bytes;     /* of the card; 0: 1 GiB */
} fake_options;

ds4_status fake_device_open(gpu_device **out, const fake_options *o, ds4_error *err);

#endif
