/* rows: kernels that treat each row of the batch on its own. */
#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_rows.h"

/* y = x / sqrt(mean(x^2) + eps) * weight [4.2] */
KERNEL(rms_norm, rms_norm_kernel_args, 1024)
{
    SHARED(double, room, 32);
    const float *x = gpu_at<const float>(a.x.at) + blockIdx.x * a.x.stride;
    float *y = gpu_at<float>(a.y.at) + blockIdx.x * a.y.stride;
    const float *weight = gpu_at<const float>(a.weight);
    launch_wait();

    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < a.x.cols; i += (int)blockDim.x) sum += (double)x[i] * x[i];
    sum = block_sum(sum, room);
    const float scale = (float)(1.0 / sqrt(sum / a.x.cols + (double)a.eps));
    for (int i = (int)threadIdx.x; i < a.x.cols; i += (int)blockDim.x)
        y[i] = a.weight ? x[i] * scale * weight[i] : x[i] * scale;
}
