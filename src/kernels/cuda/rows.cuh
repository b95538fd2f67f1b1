/* rows: reading and writing rows of floats four at a time, where they allow it. */
#ifndef KERNELS_CUDA_ROWS_CUH
#define KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/dialect.cuh"

/* W numbers at p: 4 from a multiple of 16 bytes, or 1. */
template <int W> DEVICE void load_floats(float (&v)[W], const float *p)
{
    if constexpr (W == 4) {
        const float4 x = *reinterpret_cast<const float4 *>(p);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    } else {
        v[0] = *p;
    }
}
template <int W> DEVICE void store_floats(float *p, const float (&v)[W])
{
    if constexpr (W == 4) *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    else *p = v[0];
}

/* Row t of some rows. */
DEVICE const float *row_of(const gpu_rows &v, int64_t t) { return gpu_at<const float>(v.at) + t * v.stride; }
DEVICE float *row_to(const gpu_rows &v, int64_t t) { return gpu_at<float>(v.at) + t * v.stride; }

/* What x is divided by in an RMS norm, inverted. */
DEVICE float norm_scale(float squares, int n, float eps) { return 1.0f / sqrtf(squares / (float)n + eps); }

/* y = x * scale * weight, without weight where that is NULL; a thread has the same elements as in the sum. */
template <int W> DEVICE void put_normed(float *y, const float *x, const float *weight, float scale, int n)
{
    for (int i = (int)threadIdx.x * W; i < n; i += (int)blockDim.x * W) {
        float v[W], g[W];
        load_floats<W>(v, x + i);
        if (weight) load_floats<W>(g, weight + i);
        for (int j = 0; j < W; j++) v[j] *= weight ? scale * g[j] : scale;
        store_floats<W>(y + i, v);
    }
}

#endif
