/* codes: activations in codes, by the rules of src/quant: Q8_0 and Q8_1 round to
 * 32 numbers' largest, their scale to binary16; Q8_K to 256 numbers' and keeps a float.
 * A warp's work each time. */
#ifndef KERNELS_CUDA_CODES_CUH
#define KERNELS_CUDA_CODES_CUH

#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/device_types.h"

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

/* Row t, x, which the block has written, by both rules where they are wanted (codes at 0: not). All threads of
 * the block call it. */
DEVICE void codes_of_row(const float *x, int t, const gpu_codes &by_32, const gpu_codes &by_256)
{
    const int warps = (int)blockDim.x / WARP, lane = lane_id();
    if (!by_32.codes && !by_256.codes) return;
    __syncthreads();
    if (by_32.codes)
        for (int c = warp_id() * 32; c < by_32.cols; c += warps * 32) codes_of_32(x[c + lane], codes_at(by_32, t, c));
    if (!by_256.codes) return;
#pragma unroll 1
    for (int c = warp_id() * 256; c < by_256.cols; c += warps * 256) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = x[c + 32 * i + lane];
        codes_of_256(v, codes_at(by_256, t, c));
    }
}

#endif
