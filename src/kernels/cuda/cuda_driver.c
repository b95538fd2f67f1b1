/* cuda_driver: the seam over NVIDIA's driver, which is found at run time. */
#include "kernels/cuda/device.h"

#include "base/status.h"

ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err)
{
    (void)index;
    *out = NULL;
    return ds4_fail(err, DS4_EUNSUPPORTED, "this program was built without CUDA kernels; `make cuda` builds one with them");
}
