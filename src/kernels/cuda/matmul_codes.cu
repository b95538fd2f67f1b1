/* matmul_codes: rows of activations in codes, in launches of their own. */
#include "kernels/cuda/codes.cuh"

#include "kernels/cuda/args_matmul.h"

/* grid: (rows, blocks of a row / warps of a block), since there may be more than 65535 pairs of experts; element
 * e of row t is number(t, e) */
template <class F> DEVICE void codes_32(const gpu_codes &q, F number)
{
    const int t = (int)blockIdx.x, column = ((int)(blockIdx.y * (blockDim.x / WARP)) + warp_id()) * 32;
    if (column < q.cols) codes_of_32(number(t, column + lane_id()), codes_at(q, t, column));
}
template <class F> DEVICE void codes_256(const gpu_codes &q, F number)
{
    const int t = (int)blockIdx.x, column = ((int)(blockIdx.y * (blockDim.x / WARP)) + warp_id()) * 256;
    if (column >= q.cols) return;
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = number(t, column + 32 * i + lane_id());
    codes_of_256(x, codes_at(q, t, column));
}

struct plain_number {
    gpu_rows x;
    __device__ __forceinline__ float operator()(int t, int e) const
    {
        return gpu_at<const float>(x.at)[t * x.stride + e];
    }
};
struct swiglu_number {
    gpu_rows gate, up;
    float    limit;
    __device__ __forceinline__ float operator()(int t, int e) const
    {
        return formula_swiglu(gpu_at<const float>(gate.at)[t * gate.stride + e],
                              gpu_at<const float>(up.at)[t * up.stride + e], limit);
    }
};

KERNEL(codes_by_32, codes_args, CODES_WARPS * WARP)
{
    launch_wait();
    launch_next();
    codes_32(a.q, plain_number{ a.x });
}
KERNEL(codes_by_256, codes_args, CODES_WARPS * WARP)
{
    launch_wait();
    launch_next();
    codes_256(a.q, plain_number{ a.x });
}
/* The same of swiglu(x, up). */
KERNEL(swiglu_codes_by_32, codes_args, CODES_WARPS * WARP)
{
    launch_wait();
    launch_next();
    codes_32(a.q, swiglu_number{ a.x, a.up, a.limit });
}
KERNEL(swiglu_codes_by_256, codes_args, CODES_WARPS * WARP)
{
    launch_wait();
    launch_next();
    codes_256(a.q, swiglu_number{ a.x, a.up, a.limit });
}
