/* matmul_codes: activations in codes, by the rules of src/quant: Q8_0 and Q8_1 round to
 * 32 numbers' largest, their scale to binary16; Q8_K to 256 numbers' and keeps a float. */
#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_matmul.h"

/* 1/d, but 0 where that is not finite. */
DEVICE float finite_inverse(float d)
{
    const float r = 1.0f / d;
    return r - r == 0.0f ? r : 0.0f;
}

/* Sums over the 16 lanes that this one belongs to. */
DEVICE int sum_of_16(int v)
{
    for (int m = 8; m > 0; m /= 2) v += __shfl_xor_sync(FULL_MASK, v, m);
    return v;
}

/* Where a warp's block of activations goes. */
struct codes_place {
    int8_t  *codes;
    float   *scale;
    int16_t *sum;
};

DEVICE codes_place codes_at(const gpu_codes &q, int row, int column)
{
    const int64_t at = (int64_t)row * q.cols + column;
    codes_place p;
    p.codes = gpu_at<int8_t>(q.codes) + at;
    p.scale = gpu_at<float>(q.scale) + at / 32;
    p.sum = gpu_at<int16_t>(q.sum) + at / 16;
    return p;
}

/* 32 numbers, x the lane's: halves are rounded away from zero. */
DEVICE void codes_of_32(float x, const codes_place &p)
{
    const int lane = lane_id();
    const float d = warp_max(fabsf(x)) / 127.0f, v = roundf(x * finite_inverse(d));
    const int code = v == v ? (int)v : 0;
    const int sum = sum_of_16(code);
    p.codes[lane] = (int8_t)code;
    if (lane == 0) p.scale[0] = half_bits_to_float(float_to_half_bits(d));
    if (lane % 16 == 0) p.sum[lane / 16] = (int16_t)sum;
}

/* 256 numbers, x[i] is element 32*i + lane: the one of greatest magnitude, the first of several, becomes -127. */
DEVICE void codes_of_256(const float (&x)[8], const codes_place &p)
{
    const int lane = lane_id();
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(x[i]));
    most = warp_max(most);

    unsigned negative = 0, found = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const unsigned here = __ballot_sync(FULL_MASK, fabsf(x[i]) == most);
        const unsigned below = __ballot_sync(FULL_MASK, x[i] < 0.0f);
        if (!found && here) negative = below >> (__ffs((int)here) - 1) & 1u;
        found |= here;
    }
    const float r = -127.0f / (negative ? -most : most), is = r - r == 0.0f ? r : 0.0f, d = finite_inverse(is);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float v = rintf(is * x[i]);
        const int code = !(v > -127.0f) ? -127 : v >= 127.0f ? 127 : (int)v;
        const int sum = sum_of_16(code);
        p.codes[32 * i + lane] = (int8_t)code;
        if (lane % 16 == 0) p.sum[2 * i + lane / 16] = (int16_t)sum;
    }
    if (lane < 8) p.scale[lane] = d;
}

/* grid: (blocks of a row / warps of a block, rows); element e of row t is number(t, e) */
template <class F> DEVICE void codes_32(const gpu_codes &q, F number)
{
    const int t = (int)blockIdx.y, column = ((int)(blockIdx.x * (blockDim.x / WARP)) + warp_id()) * 32;
    if (column < q.cols) codes_of_32(number(t, column + lane_id()), codes_at(q, t, column));
}
template <class F> DEVICE void codes_256(const gpu_codes &q, F number)
{
    const int t = (int)blockIdx.y, column = ((int)(blockIdx.x * (blockDim.x / WARP)) + warp_id()) * 256;
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
