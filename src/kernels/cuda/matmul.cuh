/* matmul: products of matrices with a few rows of activations.
 *
 * Bound by the bytes of the weights: a warp takes ROWS rows of the matrix at once, lane
 * after lane along the columns, and meets every weight it loads with TOKENS rows of x.
 * The next units are under way while the present ones are worked on. A block takes one
 * tile of rows after another, so that what it takes to begin is spread over many bytes. Matrices of few
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

/* This warp's place. Grid: (tiles of rows, TOKENS rows of x each, jobs); a block goes on with the tile
 * gridDim.x further until there are none. */
struct matmul_place {
    int job, token;
    int slice, slices;          /* of the columns                    */
    int row, tile_rows;         /* in a tile; of a tile              */
};

template <int ROWS> DEVICE matmul_place place_of_warp(int tokens, int slices)
{
    matmul_place p;
    p.job = (int)blockIdx.z;
    p.token = (int)blockIdx.y * tokens;
    p.slice = warp_id() % slices;
    p.slices = slices;
    p.row = warp_id() / slices * ROWS;
    p.tile_rows = MATMUL_WARPS / slices * ROWS;
    return p;
}

/* Adds up a tile's sums, [t][r] of each lane, and stores them. Every thread of the block; part: float
 * [MATMUL_WARPS * TOKENS * ROWS], shared. */
template <int TOKENS, int ROWS>
DEVICE void store_sums(const matmul_place &p, int tile, const float (&sum)[TOKENS * ROWS], float *part,
                       const gpu_rows &y, int rows)
{
    constexpr int N = TOKENS * ROWS, TURN = N < WARP ? N : WARP;
    const int row0 = tile * p.tile_rows;
#pragma unroll
    for (int first = 0; first < N; first += TURN) {
        float some[TURN];
#pragma unroll
        for (int i = 0; i < TURN; i++) some[i] = sum[first + i];
        const float all = warp_sums(some);
        const int i = first + lane_id() / (WARP / TURN), t = p.token + i / ROWS, row = row0 + p.row + i % ROWS;
        if (lane_id() % (WARP / TURN)) continue;
        if (p.slices > 1) part[warp_id() * N + i] = all;
        else if (row < rows && t < y.rows) gpu_at<float>(y.at)[(int64_t)t * y.stride + row] = all;
    }
    if (p.slices == 1) return;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < p.tile_rows * TOKENS; i += (int)blockDim.x) {
        const int t = i / p.tile_rows, r = i % p.tile_rows;     /* neighbouring threads, neighbouring rows */
        if (row0 + r >= rows || p.token + t >= y.rows) continue;
        const float *from = part + r / ROWS * p.slices * N + t * ROWS + r % ROWS;
        float total = from[0];
        for (int s = 1; s < p.slices; s++) total += from[s * N];
        gpu_at<float>(y.at)[(int64_t)(p.token + t) * y.stride + row0 + r] = total;
    }
    __syncthreads();
}

/* All tiles of a block. P holds the operands: aim(row) turns to the ROWS rows of the weight from there
 * on, load(raw, u) fetches unit u of each, begin(row) clears sum[] and turns to those rows' columns of x,
 * add(raw, u) adds the products. What a tile begins with is loaded before the one before is summed up. */
template <class P, int TOKENS, int ROWS>
DEVICE void matmul_tiles(P &product, const matmul_place &p, int units, float *part, const gpu_rows &y, int rows)
{
    const int tiles = (rows + p.tile_rows - 1) / p.tile_rows;
    const int step = WARP * p.slices, first = p.slice * WARP + lane_id(), turns = (units + step - 1) / step;
    typename P::raw next[ROWS] = {};
    int tile = (int)blockIdx.x, turn = 0;
    if (tile >= tiles) return;
    product.aim(tile * p.tile_rows + p.row);
    if (first < units) product.load(next, first);
    launch_wait();                              /* weights were there before: the first are on their way */
    launch_next();
    product.begin(tile * p.tile_rows + p.row);
#pragma unroll 1
    for (;;) {
        typename P::raw now[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) now[r] = next[r];
        const int u = first + turn * step, after = tile + (int)gridDim.x;
        const bool last = ++turn == turns;
        if (last && after < tiles) product.aim(after * p.tile_rows + p.row);
        const int ahead = last ? first : u + step;
        if (ahead < units && (!last || after < tiles)) product.load(next, ahead);
        if (u < units) product.add(now, u);
        if (!last) continue;
        store_sums<TOKENS, ROWS>(p, tile, product.sum, part, y, rows);
        if (after >= tiles) break;
        tile = after;
        turn = 0;
        product.begin(tile * p.tile_rows + p.row);
    }
}

#endif
