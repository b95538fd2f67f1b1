/* experts_route: the pairs of a step by expert, made by one block. */
#ifndef KERNELS_CUDA_EXPERTS_ROUTE_CUH
#define KERNELS_CUDA_EXPERTS_ROUTE_CUH

#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_experts.h"

/* Sum of v over this lane and those below. */
DEVICE int sum_to_lane(int v)
{
    for (int d = 1; d < WARP; d *= 2) {
        const int below = __shfl_up_sync(FULL_MASK, v, (unsigned)d);
        if (lane_id() >= d) v += below;
    }
    return v;
}

/* The lanes whose e is this lane's. Numbers below n. */
DEVICE unsigned lanes_equal(int e, int n)
{
    unsigned same = FULL_MASK;
    for (int bit = 1; bit < n; bit *= 2) {
        const unsigned set = __ballot_sync(FULL_MASK, e & bit);
        same &= e & bit ? set : ~set;
    }
    return same;
}

DEVICE int pair_expert(const gpu_rows &ids, int used, int pair)
{
    return gpu_at<const int32_t>(ids.at)[pair / used * ids.stride + pair % used];
}

/* A stable counting sort: warp w has the w-th part of the pairs. count: shared memory of
 * n_experts times the block's warps. All threads take part. */
DEVICE void group_pairs_of(const gpu_rows &ids, const gpu_groups &g, int32_t *count)
{
    const int warps = (int)blockDim.x / WARP, E = g.n_experts, lane = lane_id();
    const int part = (g.n_pairs + warps - 1) / warps;
    const int begin = min(warp_id() * part, g.n_pairs), end = min(begin + part, g.n_pairs);
    int32_t *mine = count + warp_id() * E;

    for (int i = (int)threadIdx.x; i < warps * E; i += (int)blockDim.x) count[i] = 0;
    __syncthreads();
    for (int p0 = begin; p0 < end; p0 += WARP) {
        const bool here = p0 + lane < end;
        const int e = here ? pair_expert(ids, g.used, p0 + lane) : E;
        const unsigned same = lanes_equal(e, E + 1);
        if (here && (same & ((1u << lane) - 1)) == 0) mine[e] += __popc(same);
        __syncwarp();
    }
    __syncthreads();

    if (warp_id() == 0) {       /* counts become places, experts after experts, warps after warps */
        int32_t *first = gpu_at<int32_t>(g.first), *active = gpu_at<int32_t>(g.active);
        uint32_t *uses = gpu_at<uint32_t>(g.uses);
        int place = 0, n_active = 0;
        for (int e0 = 0; e0 < E; e0 += WARP) {
            const int e = e0 + lane;
            int n = 0;
            for (int w = 0; w < warps && e < E; w++) n += count[w * E + e];
            const int to = sum_to_lane(n);
            const unsigned some = __ballot_sync(FULL_MASK, n > 0);
            int at = place + to - n;
            if (e < E) first[e] = at;
            if (n > 0) active[n_active + __popc(some & ((1u << lane) - 1))] = e;
            if (n > 0 && g.uses) uses[e] += 1;
            for (int w = 0; w < warps && e < E; w++) {
                const int here = count[w * E + e];
                count[w * E + e] = at;
                at += here;
            }
            place += __shfl_sync(FULL_MASK, to, WARP - 1);
            n_active += __popc(some);
        }
        if (lane == 0) {
            first[E] = place;
            *gpu_at<int32_t>(g.n_active) = n_active;
        }
    }
    __syncthreads();

    int32_t *pair = gpu_at<int32_t>(g.pair);
    for (int p0 = begin; p0 < end; p0 += WARP) {
        const bool here = p0 + lane < end;
        const int e = here ? pair_expert(ids, g.used, p0 + lane) : E;
        const unsigned same = lanes_equal(e, E + 1), before = same & ((1u << lane) - 1);
        if (here) pair[mine[e] + __popc(before)] = p0 + lane;
        __syncwarp();
        if (here && before == 0) mine[e] += __popc(same);
        __syncwarp();
    }
}

#endif
