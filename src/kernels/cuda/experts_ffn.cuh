/* experts_ffn: rows of gate and up with activations in codes.
 *
 * A warp works out single numbers: its lanes share a row of weights, 32 columns at a time. What
 * lane adds what in which order depends on the shape alone, so a row's numbers are the same
 * whatever else is in the batch. */
#ifndef KERNELS_CUDA_EXPERTS_FFN_CUH
#define KERNELS_CUDA_EXPERTS_FFN_CUH

#include "kernels/cuda/unpack.cuh"

#include "kernels/cuda/args_experts.h"

/* Row `row` of the matrix at `at`. */
template <class W> DEVICE planes expert_row(gpu_ptr at, const gpu_experts &e, int row)
{
    const uint64_t each = (uint64_t)(e.cols / plane_table<W::type>::block_len);
    return planes_from<W::type>(at, (uint64_t)e.rows * each, (uint64_t)row * each);
}

/* Of gate and up: a block's expert, its pairs of a row and a slot, and the block's rows of the matrices. */
struct expert_turn {
    gpu_ptr        gate, up;
    const int32_t *pair;        /* [n] */
    int            n, row, row_end;
};

/* False where fewer experts were chosen than there is room for. */
DEVICE bool expert_turn_of(const experts_up_args &a, expert_turn *out)
{
    if ((int)blockIdx.y >= *gpu_at<const int32_t>(a.groups.n_active)) return false;
    const int expert = gpu_at<const int32_t>(a.groups.active)[blockIdx.y];
    const int32_t *first = gpu_at<const int32_t>(a.groups.first) + expert;
    out->gate = gpu_at<const gpu_ptr>(a.gate.table)[expert];
    out->up = gpu_at<const gpu_ptr>(a.up.table)[expert];
    out->pair = gpu_at<const int32_t>(a.groups.pair) + first[0];
    out->n = first[1] - first[0];
    out->row = (int)blockIdx.x * a.rows_each;
    out->row_end = min(out->row + a.rows_each, a.gate.rows);
    return true;
}

/* A number of mid from its sums of gate and up, by one lane: of row t's pair. */
DEVICE void store_mid(const experts_up_args &a, int t, int pair, int row, float gate, float up)
{
    const float weight = gpu_at<const float>(a.weights.at)[t * a.weights.stride + pair % a.groups.used];
    gpu_at<float>(a.mid.at)[pair * a.mid.stride + row] = weight * formula_swiglu(gate, up, a.limit);
}

/* 32 activations. Not by __ldg: the kernel ahead may write them while this one has begun. */
struct codes32 {
    uint32_t code[8];
    float    d;
    int      sum[2];
};

template <class W> DEVICE codes32 codes_at(const gpu_codes &x, int row, int i)
{
    const int64_t at = (int64_t)row * x.cols + 32 * i;
    codes32 c;
    words_of(c.code, *gpu_at<const uint4>(x.codes, (uint64_t)at));
    words_of(c.code + 4, *gpu_at<const uint4>(x.codes, (uint64_t)at + 16));
    c.d = gpu_at<const float>(x.scale)[at / 32];
    const uint32_t sums = W::affine ? *gpu_at<const uint32_t>(x.sum, (uint64_t)at / 16 * 2) : 0u;
    c.sum[0] = (int)(int16_t)sums;
    c.sum[1] = (int)(int16_t)(sums >> 16);
    return c;
}

/* One row of gate and up for `n` pairs, at most N, of one expert. */
template <class W, int N>
DEVICE void up_row(const experts_up_args &a, const planes &gate, const planes &up, int row, const int32_t *pair, int n,
                   const typename W::entry *book)
{
    const int lane = lane_id(), used = a.groups.used, units = a.gate.cols / 32;
    float g[N], u[N];
    int   t[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        g[j] = u[j] = 0.0f;
        t[j] = pair[j < n ? j : 0] / used;
    }
#pragma unroll (N == 1 ? 2 : 1)
    for (int i = lane; i < units; i += WARP) {
        const weights32 wg = W::load(gate, i / W::subs, i % W::subs, book);
        const weights32 wu = W::load(up, i / W::subs, i % W::subs, book);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const codes32 x = codes_at<W>(a.codes, t[j], i);
            g[j] = add_product<W>(g[j], wg, x.code, x.d, x.sum);
            u[j] = add_product<W>(u[j], wu, x.code, x.d, x.sum);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float gate_sum = warp_sum(g[j]), up_sum = warp_sum(u[j]);
        if (lane == 0 && j < n) store_mid(a, t[j], pair[j], row, gate_sum, up_sum);
    }
}

/* N: most pairs that meet a weight while it is in registers. */
template <class W, int N> DEVICE void experts_up(const experts_up_args &a, const typename W::entry *book)
{
    expert_turn e;
    if (!expert_turn_of(a, &e)) return;
    for (int row = e.row + warp_id(); row < e.row_end; row += (int)blockDim.x / WARP) {
        const planes gate = expert_row<W>(e.gate, a.gate, row), up = expert_row<W>(e.up, a.up, row);
        int i = 0;
        for (; N > 1 && e.n - i > 1; i += N) up_row<W, N>(a, gate, up, row, e.pair + i, min(e.n - i, N), book);
        for (; i < e.n; i++) up_row<W, 1>(a, gate, up, row, e.pair + i, 1, book);
    }
}

#endif
