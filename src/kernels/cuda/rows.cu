/* rows: kernels that treat each element, or each row, on its own. */
#include "kernels/cuda/rows.cuh"

#include "kernels/cuda/args_rows.h"
#include "kernels/cuda/codes.cuh"

/* ---- norm --------------------------------------------------------------------------- */

template <int W> DEVICE void rms_norm_row(const rms_norm_kernel_args &a, float *room)
{
    const float *x = row_of(a.x, blockIdx.x);
    float *y = row_to(a.y, blockIdx.x);
    const float *weight = gpu_at<const float>(a.weight);
    const int step = (int)blockDim.x * W;
    launch_wait();
    launch_next();

    /* A thread adds a few squares, the rest of the sum is a tree: float keeps all but the last bits. */
    float sum = 0.0f;
    for (int i = (int)threadIdx.x * W; i < a.x.cols; i += step) {
        float v[W];
        load_floats<W>(v, x + i);
        for (int j = 0; j < W; j++) sum = fmaf(v[j], v[j], sum);
    }
    put_normed<W>(y, x, weight, norm_scale(block_sum(sum, room), a.x.cols, a.eps), a.x.cols);
}

/* y = x / sqrt(mean(x^2) + eps) * weight [4.2] */
KERNEL(rms_norm, rms_norm_kernel_args, 1024)
{
    SHARED(float, room, WARP);
    if (a.wide) rms_norm_row<4>(a, room);
    else rms_norm_row<1>(a, room);
    codes_of_row(row_of(a.y, blockIdx.x), (int)blockIdx.x, a.by_32, a.by_256);
}

/* ---- pairs --------------------------------------------------------------------------- */

template <int W, class F> DEVICE void for_pairs(const pair_kernel_args &a, F f)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x) * W;
    launch_wait();
    launch_next();
    if (i >= a.y.cols) return;
    float u[W], v[W];
    load_floats<W>(u, row_of(a.a, blockIdx.y) + i);
    load_floats<W>(v, row_of(a.b, blockIdx.y) + i);
    for (int j = 0; j < W; j++) u[j] = f(u[j], v[j]);
    store_floats<W>(row_to(a.y, blockIdx.y) + i, u);
}

/* y = silu(min(gate, limit)) * clamp(up, -limit, limit) [4.14] */
KERNEL(swiglu, pair_kernel_args, 256)
{
    const float limit = a.limit;
    if (a.wide) for_pairs<4>(a, [=](float gate, float up) { return formula_swiglu(gate, up, limit); });
    else for_pairs<1>(a, [=](float gate, float up) { return formula_swiglu(gate, up, limit); });
}

KERNEL(add, pair_kernel_args, 256)
{
    if (a.wide) for_pairs<4>(a, [](float u, float v) { return u + v; });
    else for_pairs<1>(a, [](float u, float v) { return u + v; });
}
