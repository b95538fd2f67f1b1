/* matmul: products of matrices with a few rows of activations.
 *
 * Bound by the bytes of the weights: a warp takes ROWS rows of the matrix at once, lane
 * after lane along the columns, and meets every weight it loads with TOKENS rows of x.
 * The next units are under way while the present ones are worked on. Matrices of few
 * rows are cut along the columns too: `slices` warps of a block share the rows, so that
 * every multiprocessor has work. The sum of one output is the lanes' sums in a fixed
 * tree, then the slices' in order: neither ROWS nor TOKENS nor the other rows of x have
 * a part in it. */
#ifndef KERNELS_CUDA_MATMUL_CUH
#define KERNELS_CUDA_MATMUL_CUH

#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_matmul.h"

/* Halves v[0..N-1] between the lanes that differ in bit M, then goes on with M / 2. */
template <int N, int M, int SIZE> DEVICE void fold_lanes(float (&v)[SIZE])
{
    if constexpr (N > 1) {
        const bool upper = lane_id() & M;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float give = upper ? v[i] : v[i + N / 2];
            v[i] = (upper ? v[i + N / 2] : v[i]) + __shfl_xor_sync(FULL_MASK, give, M);
        }
    } else {
        v[0] += __shfl_xor_sync(FULL_MASK, v[0], M);
    }
    if constexpr (M > 1) fold_lanes<(N > 1 ? N / 2 : 1), M / 2>(v);
}

/* Sums over the lanes of N values at once, N a power of two up to 32: lane l gets that of value
 * l*N/32, added in warp_sum's order. */
template <int N> DEVICE float warp_sums(float (&v)[N])
{
    fold_lanes<N, WARP / 2>(v);
    return v[0];
}

/* This warp's place in the grid: (rows, TOKENS of x each, jobs). */
struct matmul_place {
    int job, row, token;        /* the first of each */
    int slice, slices;
};

template <int TOKENS, int ROWS> DEVICE matmul_place place_of_warp(int slices)
{
    matmul_place p;
    p.job = (int)blockIdx.z;
    p.row = (int)(blockIdx.x * (MATMUL_WARPS / slices) + warp_id() / slices) * ROWS;
    p.token = (int)blockIdx.y * TOKENS;
    p.slice = warp_id() % slices;
    p.slices = slices;
    return p;
}

/* Adds the slices up and stores. Every thread of the block; part: float [MATMUL_WARPS * TOKENS * ROWS] shared. */
template <int TOKENS, int ROWS>
DEVICE void store_sums(const matmul_place &p, float (&sum)[TOKENS * ROWS], float *part, const gpu_rows &y, int rows)
{
    constexpr int N = TOKENS * ROWS, TURN = N < WARP ? N : WARP;
#pragma unroll
    for (int first = 0; first < N; first += TURN) {
        float some[TURN];
#pragma unroll
        for (int i = 0; i < TURN; i++) some[i] = sum[first + i];
        const float all = warp_sums(some);
        if (lane_id() % (WARP / TURN) == 0) part[warp_id() * N + first + lane_id() / (WARP / TURN)] = all;
    }
    __syncthreads();
    const int row0 = (int)(blockIdx.x * (MATMUL_WARPS / p.slices)) * ROWS;
    for (int i = (int)threadIdx.x; i < MATMUL_WARPS / p.slices * N; i += (int)blockDim.x) {
        /* neighbouring threads, neighbouring rows of the weight */
        const int per_token = MATMUL_WARPS / p.slices * ROWS;
        const int t = i / per_token, r = i % per_token, row = row0 + r;
        if (row >= rows || p.token + t >= y.rows) continue;
        const float *from = part + r / ROWS * p.slices * N + t * ROWS + r % ROWS;
        float total = from[0];
        for (int s = 1; s < p.slices; s++) total += from[s * N];
        gpu_at<float>(y.at)[(int64_t)(p.token + t) * y.stride + row] = total;
    }
}

#endif
