/* select: the k largest of many floats, by one block.
 *
 * Floats become integers in the same order (both zeros are one, NaN is the smallest);
 * histograms of 11, 11 and 10 bits settle the k-th largest key from the top, and a last
 * pass hands out the chosen ones in their order. Only integers are counted, so that
 * nothing depends on the order of threads. Ties go to the lower index.
 *
 * More than SELECT_SLICE numbers are cut into slices: the k best of all are among the k
 * best of every slice. */
#ifndef KERNELS_CUDA_SELECT_CUH
#define KERNELS_CUDA_SELECT_CUH

#include "kernels/cuda/dialect.cuh"

enum { SELECT_BITS = 11, SELECT_BINS = 1 << SELECT_BITS };

/* Shared memory of a selection. */
typedef struct {
    uint32_t count[SELECT_BINS];
    int      warp[2][WARP];
    int      bin, left;
} select_room;

DEVICE uint32_t select_key(float x)
{
    uint32_t u = as_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) u = 0xff800000u;
    if (u == 0x80000000u) u = 0;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

DEVICE int warp_prefix(int v)
{
    for (int d = 1; d < WARP; d *= 2) {
        const int below = __shfl_up_sync(FULL_MASK, v, (unsigned)d);
        if (lane_id() >= d) v += below;
    }
    return v;
}

/* Sum of v over this thread and those before it. */
DEVICE int block_prefix(int v, int *room, int *total)
{
    const int warps = (int)blockDim.x / WARP;
    v = warp_prefix(v);
    __syncthreads();
    if (lane_id() == WARP - 1) room[warp_id()] = v;
    __syncthreads();
    const int of_warps = warp_prefix(lane_id() < warps ? room[lane_id()] : 0);
    *total = __shfl_sync(FULL_MASK, of_warps, WARP - 1);
    const int before = __shfl_sync(FULL_MASK, of_warps, warp_id() > 0 ? warp_id() - 1 : 0);
    return warp_id() > 0 ? v + before : v;
}

/* The k-th largest key, and how many of those equal to it are among the k. */
typedef struct { uint32_t least; int n_equal; } select_bound;

/* 0 < k <= n; at most SELECT_BINS threads, a power of two. All threads get the result. */
DEVICE select_bound select_bound_of(const uint32_t *key, int n, int k, select_room *room)
{
    const int threads = (int)blockDim.x, each = SELECT_BINS / threads, mine = (int)threadIdx.x * each;
    uint32_t found = 0, settled = 0;
    for (int shift = 32 - SELECT_BITS; settled != 0xffffffffu; shift = shift > SELECT_BITS ? shift - SELECT_BITS : 0) {
        const uint32_t mask = shift ? SELECT_BINS - 1u : (1u << (32 - 2 * SELECT_BITS)) - 1u;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < SELECT_BINS; i += threads) room->count[i] = 0;
        __syncthreads();
        /* Scores crowd in few bins: the first lane's is counted once for all lanes that share it. */
        for (int first = warp_id() * WARP; first < n; first += threads) {
            const int i = first + lane_id();
            const uint32_t v = i < n ? key[i] : 0, bin = v >> shift & mask;
            const bool in = i < n && (v & settled) == found;
            const uint32_t shared_bin = __shfl_sync(FULL_MASK, bin, 0);
            const unsigned same = __ballot_sync(FULL_MASK, in && bin == shared_bin);
            if (lane_id() == 0 && same) atomicAdd(&room->count[bin], (uint32_t)__popc(same));
            if (in && bin != shared_bin) atomicAdd(&room->count[bin], 1u);
        }
        __syncthreads();

        int sum = 0, total;
        for (int j = 0; j < each; j++) sum += (int)room->count[mine + j];
        int above = block_prefix(sum, room->warp[0], &total);
        above = total - above;                          /* in the bins of later threads */
        if (above < k && above + sum >= k) {
            int bin = mine + each - 1;
            while (above + (int)room->count[bin] < k) above += (int)room->count[bin--];
            room->bin = bin;
            room->left = k - above;
        }
        __syncthreads();
        k = room->left;
        found |= (uint32_t)room->bin << shift;
        settled |= mask << shift;
    }
    const select_bound b = { found, k };
    return b;
}

/* Calls give(position, index) for all that the bound keeps, positions by ascending index. */
template <class F> DEVICE void select_give(const uint32_t *key, int n, select_bound b, select_room *room, F give)
{
    const int warps = (int)blockDim.x / WARP, tiles = (n + WARP - 1) / WARP, each = (tiles + warps - 1) / warps;
    const int begin = warp_id() * each * WARP, end = min(begin + each * WARP, n);
    const unsigned before = (1u << lane_id()) - 1u;
    int more = 0, equal = 0;
    for (int first = begin; first < end; first += WARP) {
        const uint32_t v = first + lane_id() < n ? key[first + lane_id()] : 0;
        more += __popc(__ballot_sync(FULL_MASK, v > b.least));
        equal += __popc(__ballot_sync(FULL_MASK, v == b.least));
    }
    if (lane_id() == 0) {                               /* nobody reads these since select_bound_of's last barrier */
        room->warp[0][warp_id()] = more;
        room->warp[1][warp_id()] = equal;
    }
    __syncthreads();
    const int in = lane_id() < warps;
    const int all_more = warp_prefix(in ? room->warp[0][lane_id()] : 0);
    const int all_equal = warp_prefix(in ? room->warp[1][lane_id()] : 0);
    more = __shfl_sync(FULL_MASK, all_more, warp_id()) - more;
    equal = __shfl_sync(FULL_MASK, all_equal, warp_id()) - equal;

    for (int first = begin; first < end; first += WARP) {
        const int i = first + lane_id();
        const uint32_t v = i < n ? key[i] : 0;
        const unsigned larger = __ballot_sync(FULL_MASK, v > b.least), tied = __ballot_sync(FULL_MASK, v == b.least);
        const int n_tied = equal + __popc(tied & before);
        if (v > b.least || (v == b.least && n_tied < b.n_equal))
            give(more + __popc(larger & before) + min(n_tied, b.n_equal), i);
        more += __popc(larger);
        equal += __popc(tied);
    }
}

/* The k best of n keys, all when there are fewer; says how many. */
template <class F> DEVICE int select_best(const uint32_t *key, int n, int k, select_room *room, F give)
{
    if (n <= k) {
        for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) give(i, i);
        return n;
    }
    select_give(key, n, select_bound_of(key, n, k, room), room, give);
    return k;
}

/* Candidates of all slices of a row: k of every full one, as many as there are up to k of the last. */
DEVICE int select_candidates(int n, int k, int slice) { return n / slice * k + min(n % slice, k); }

#endif
