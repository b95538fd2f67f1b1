/* matmul_exact: products of any type with float activations: the judge of the others, and
 * what runs where float activations were asked for. One warp a row of the weight. */
#include "kernels/cuda/unpack.cuh"

#include "kernels/cuda/args_matmul.h"

/* grid: (rows / warps of a block, rows of x) */
template <class W> DEVICE void exact_row(const matmul_exact_args &a)
{
    const int row = (int)(blockIdx.x * (blockDim.x / WARP)) + warp_id(), lane = lane_id();
    if (row >= a.w.rows) return;
    const float *x = gpu_at<const float>(a.x.at) + blockIdx.y * a.x.stride + (int64_t)(row / a.group_rows) * a.w.cols;
    const planes at = planes_of_row<W::type>(a.w, row);
    float sum = 0.0f;
    for (int i = lane; i < a.w.cols / 32; i += WARP) {
        const weights32 w = W::load(at, i / W::subs, i % W::subs, W::grid());
        for (int e = 0; e < 32; e++) {
            const float v = fmaf(weights_scale(w, e / 16), code_of(w, e), weights_min(w, e / 16));
            sum = fmaf(v, x[32 * i + e], sum);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) gpu_at<float>(a.y.at)[blockIdx.y * a.y.stride + row] = sum;
}

#define EXACT_KERNEL(X, type)                                                 \
    KERNEL(matmul_exact_##type, matmul_exact_args, 256)                       \
    {                                                                         \
        launch_wait();                                                        \
        exact_row<weight_##type>(a);                                          \
    }
MATMUL_TUNED(EXACT_KERNEL, )
MATMUL_GENERAL(EXACT_KERNEL, )
