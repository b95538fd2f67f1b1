/* card: says which card the kernels' tests would run on; status 77 where there is none. */
#include <stdio.h>

#include "kernels/cuda/device.h"

int main(void)
{
    gpu_info i;
    uint64_t available;
    ds4_error err;
    if (gpu_driver_probe(&i, 0, &available, &err)) {
        printf("%s\n", err.message);
        return 77;
    }
    printf("%s, sm_%d, driver for CUDA %d.%d, %d multiprocessors, %.1f of %.1f GiB free\n", i.name, i.arch,
           i.driver / 1000, i.driver % 1000 / 10, i.n_sm, (double)available / (1 << 30), (double)i.total_bytes / (1 << 30));
    return 0;
}
