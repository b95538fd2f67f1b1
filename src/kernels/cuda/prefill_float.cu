/* prefill_float: products of float weights with many rows, on the matrix unit's 19-bit floats.
 *
 * F16 and BF16 weights are such floats. Activations, and F32 weights, are split into two of them,
 * 22 bits together; the product of two second parts is left out. */
#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_prefill.h"

enum {
    DEPTH = 32,                 /* columns of a step                                              */
    PITCH = DEPTH + 4,          /* floats of a row in shared memory: eight rows by four lanes meet all banks */
    TILES = PREFILL_TOKENS / 8
};

struct float_stage { float x[PREFILL_TOKENS * PITCH], w[PREFILL_ROWS * PITCH]; };

struct half_bits { uint16_t u; };
struct bfloat_bits { uint16_t u; };

/* A number of a weight; how many parts it has. */
DEVICE float as_number(float v) { return v; }
DEVICE float as_number(half_bits v) { return half_bits_to_float(v.u); }
DEVICE float as_number(bfloat_bits v) { return as_float((uint32_t)v.u << 16); }
template <class W> struct parts_of { static constexpr int n = 1; };
template <> struct parts_of<float> { static constexpr int n = 2; };

/* The first part of v, and of what it leaves over. */
DEVICE void split(float v, uint32_t &first, uint32_t &second)
{
    first = float_to_tf32(v);
    second = float_to_tf32(v - as_float(first));
}

/* A thread's part of a step: one column of every fourth row. */
enum { HELD = PREFILL_TOKENS / (PREFILL_THREADS / WARP) };
struct float_held { float x[HELD], w[HELD]; };

template <class W> DEVICE void hold(float_held &h, const prefill_float_args &a, int token0, int row0, int k, int end)
{
    const float *x = gpu_at<const float>(a.x.at);
    const W *w = gpu_at<const W>(a.w.at);
    const int c = k + lane_id();
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        const int at = warp_id() + j * (PREFILL_THREADS / WARP);
        const int64_t token = min(token0 + at, a.x.rows - 1), row = a.w.row0 + min(row0 + at, a.w.rows - 1);
        h.x[j] = c < end ? x[token * a.x.stride + c] : 0.0f;
        h.w[j] = c < end ? as_number(w[row * a.w.cols + c]) : 0.0f;
    }
}

DEVICE void keep(float_stage &s, const float_held &h)
{
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        const int at = (warp_id() + j * (PREFILL_THREADS / WARP)) * PITCH + lane_id();
        s.x[at] = h.x[j];
        s.w[at] = h.w[j];
    }
}

/* Eight columns from c on. */
template <class W> DEVICE void add_products(float acc[TILES][4], const float_stage &s, int c)
{
    const int g = lane_id() / 4, i = lane_id() % 4;
    const float *w = s.w + (16 * warp_id() + g) * PITCH + c + i;
    uint32_t first[4], second[4];
    split(w[0], first[0], second[0]);
    split(w[8 * PITCH], first[1], second[1]);
    split(w[4], first[2], second[2]);
    split(w[8 * PITCH + 4], first[3], second[3]);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        const float *x = s.x + (8 * t + g) * PITCH + c + i;
        uint32_t high[2], low[2];
        split(x[0], high[0], low[0]);
        split(x[4], high[1], low[1]);
        mma_tf32_k8(acc[t], first, low);
        if (parts_of<W>::n == 2) mma_tf32_k8(acc[t], second, high);
        mma_tf32_k8(acc[t], first, high);
    }
}

template <class W> DEVICE void products(const prefill_float_args &a, float_stage &s)
{
    const int token0 = (int)blockIdx.x * PREFILL_TOKENS, row0 = (int)blockIdx.y * PREFILL_ROWS;
    float acc[TILES][4] = {};
    float_held held;
    launch_wait();
    const int begin = (int)blockIdx.z * a.split_cols, end = min(begin + a.split_cols, a.w.cols);
    hold<W>(held, a, token0, row0, begin, end);
    for (int k = begin; k < end; k += DEPTH) {
        __syncthreads();
        keep(s, held);
        __syncthreads();
        if (k + DEPTH < end) hold<W>(held, a, token0, row0, k + DEPTH, end);
#pragma unroll
        for (int c = 0; c < DEPTH; c += 8) add_products<W>(acc, s, c);
    }
    launch_next();

    float *y = gpu_at<float>(a.y.at) + (int64_t)blockIdx.z * a.split_step;
    const int row = row0 + 16 * warp_id() + lane_id() / 4;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = token0 + 8 * t + 2 * (lane_id() % 4) + e % 2, at = row + 8 * (e / 2);
            if (token < a.x.rows && at < a.w.rows) y[token * a.y.stride + at] = acc[t][e];
        }
}

#define FLOAT_PRODUCTS(name, weight)                                          \
    KERNEL(prefill_##name, prefill_float_args, PREFILL_THREADS)               \
    {                                                                         \
        SHARED(float_stage, s, 1);                                            \
        products<weight>(a, *s);                                              \
    }
FLOAT_PRODUCTS(f32, float)
FLOAT_PRODUCTS(f16, half_bits)
FLOAT_PRODUCTS(bf16, bfloat_bits)
