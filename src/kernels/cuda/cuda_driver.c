/* cuda_driver: the seam over NVIDIA's driver, which is found at run time. */
#include "kernels/cuda/device.h"

#include "base/status.h"

static ds4_status no_kernels(ds4_error *err)
{
    return ds4_fail(err, DS4_EUNSUPPORTED, "this program was built without CUDA kernels; `make cuda` builds one with them");
}

ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err)
{
    (void)index;
    *out = NULL;
    return no_kernels(err);
}

ds4_status gpu_driver_probe(gpu_info *out, int index, uint64_t *available, ds4_error *err)
{
    (void)out, (void)index, (void)available;
    return no_kernels(err);
}
