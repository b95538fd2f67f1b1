/* prefill_experts: the routed experts of many rows.
 *
 * Pairs that chose the same expert are worked on together, so that an expert's weights are read once for
 * 64 of them. How the pairs are spread is known on the device alone: the grid is for as many tiles as
 * there can be, and blocks of empty ones end at once. */
#include "kernels/cuda/prefill_general.cuh"

/* Tile `at`: n of groups.pair, from first on; the same for all threads. The thread whose expert has it tells the others. */
DEVICE pair_tile tile_of(const gpu_groups &groups, int at, pair_tile *room)
{
    const int32_t *first = gpu_at<const int32_t>(groups.first);
    for (int e = (int)threadIdx.x; e < groups.n_experts; e += PREFILL_THREADS) {
        const int begin = first[e], end = first[e + 1], nth = at - (begin / PREFILL_TOKENS + e);
        const bool last = e + 1 == groups.n_experts;
        if (nth < 0 || (!last && at >= end / PREFILL_TOKENS + e + 1)) continue;
        room->expert = e;
        room->first = begin + PREFILL_TOKENS * nth;
        room->n = max(0, min(PREFILL_TOKENS, end - room->first));
    }
    __syncthreads();
    return *room;
}

/* mid = weight * swiglu(gate, up). Half of the warps work on gate, the others on the same rows of up. */
template <class W> DEVICE void experts_up(const prefill_up_args &a, prefill_room<W> &r)
{
    const int half = PREFILL_THREADS / WARP / 2, is_up = warp_id() / half;
    const int row0 = (int)blockIdx.y * PREFILL_UP_ROWS + 16 * (warp_id() % half);
    launch_wait();
    const pair_tile tile = tile_of(a.groups, (int)blockIdx.x, &r.tile);
    if (tile.n == 0) return;
    const int32_t *pair = gpu_at<const int32_t>(a.groups.pair) + tile.first;
    const int used = a.groups.used;
    if (threadIdx.x < PREFILL_TOKENS) r.row_of[threadIdx.x] = pair[min((int)threadIdx.x, tile.n - 1)] / used;
    W::prepare(r.own);
    __syncthreads();

    const gpu_ptr at = gpu_at<const gpu_ptr>(is_up ? a.up.table : a.gate.table)[tile.expert];
    const prefill_matrix m = { at, a.gate.type, a.gate.rows, a.gate.cols, row0, a.gate.rows - 1 };
    float acc[TOKEN_TILES][4] = {};
    prefill_work<W>::products(acc, m, codes_of(a.x), r.row_of, r.stage, r.own);
    launch_next();

    float *gate = reinterpret_cast<float *>(r.stage) + threadIdx.x % (PREFILL_THREADS / 2);
    __syncthreads();                    /* the stages are free */
#pragma unroll
    for (int i = 0; i < 4 * TOKEN_TILES; i++)
        if (!is_up) gate[i * (PREFILL_THREADS / 2)] = acc[i / 4][i % 4];
    __syncthreads();
    if (!is_up) return;

    const float *weights = gpu_at<const float>(a.weights.at);
    float *mid = gpu_at<float>(a.mid.at);
    each_result(tile.n, row0, a.gate.rows, [&](int token, int row, int t, int e) {
        const int p = pair[token];
        const float weight = weights[p / used * a.weights.stride + p % used];
        mid[p * a.mid.stride + row] = weight * formula_swiglu(gate[(4 * t + e) * (PREFILL_THREADS / 2)], acc[t][e], a.limit);
    });
}

template <class W> DEVICE void experts_down(const prefill_down_args &a, prefill_room<W> &r)
{
    const int row0 = (int)blockIdx.y * PREFILL_ROWS + 16 * warp_id();
    launch_wait();
    const pair_tile tile = tile_of(a.groups, (int)blockIdx.x, &r.tile);
    if (tile.n == 0) return;
    const int32_t *pair = gpu_at<const int32_t>(a.groups.pair) + tile.first;
    if (threadIdx.x < PREFILL_TOKENS) r.row_of[threadIdx.x] = pair[min((int)threadIdx.x, tile.n - 1)];
    W::prepare(r.own);
    __syncthreads();

    const prefill_matrix m = { gpu_at<const gpu_ptr>(a.down.table)[tile.expert], a.down.type, a.down.rows, a.down.cols,
                               a.row0 + row0, a.down.rows - 1 };
    float acc[TOKEN_TILES][4] = {};
    prefill_work<W>::products(acc, m, codes_of(a.mid), r.row_of, r.stage, r.own);
    launch_next();

    float *part = gpu_at<float>(a.part.at);
    each_result(tile.n, row0, a.part.cols, [&](int token, int row, int t, int e) {
        part[r.row_of[token] * a.part.stride + row] = acc[t][e];
    });
}

#define EXPERTS(name, unused)                                                 \
    KERNEL_PACKED(prefill_up_##name, prefill_up_args, PREFILL_THREADS, PREFILL_BLOCKS)     \
    {                                                                         \
        SHARED(prefill_room<fragments_##name>, room, 1);                      \
        experts_up<fragments_##name>(a, *room);                               \
    }                                                                         \
    KERNEL_PACKED(prefill_down_##name, prefill_down_args, PREFILL_THREADS, PREFILL_BLOCKS) \
    {                                                                         \
        SHARED(prefill_room<fragments_##name>, room, 1);                      \
        experts_down<fragments_##name>(a, *room);                             \
    }
PREFILL_TYPES(EXPERTS, )

KERNEL_PACKED(prefill_up_general, prefill_up_args, PREFILL_THREADS, 2)
{
    SHARED_DYNAMIC(prefill_room<fragments_general>, room);
    experts_up<fragments_general>(a, *room);
}
KERNEL_PACKED(prefill_down_general, prefill_down_args, PREFILL_THREADS, 2)
{
    SHARED_DYNAMIC(prefill_room<fragments_general>, room);
    experts_down<fragments_general>(a, *room);
}

/* y = the results of a row's experts, added in the order of its slots. */
KERNEL(prefill_sum, prefill_sum_args, PREFILL_SUM_THREADS)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x), t = (int)blockIdx.y;
    launch_wait();
    launch_next();
    if (c >= a.part.cols) return;
    const float *part = gpu_at<const float>(a.part.at) + (int64_t)t * a.used * a.part.stride + c;
    float sum = 0.0f;
    for (int i = 0; i < a.used; i++) sum += part[i * a.part.stride];
    gpu_at<float>(a.y.at)[t * a.y.stride + c] = sum;
}
