/* prefill_experts: the routed experts of many rows.
 *
 * Pairs that chose the same expert are worked on together, so that an expert's weights are read once for
 * 64 of them. How the pairs are spread is known on the device alone: the grid is for as many tiles as
 * there can be, and blocks of empty ones end at once. */
#include "kernels/cuda/prefill_general.cuh"

/* Tile `at`: n of groups.pair, from first on; the same for all threads. The thread whose expert has it tells
 * the others. */
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

/* Finds the block's tile; false where it is empty. Tokens beyond it repeat its last pair. */
template <class W> DEVICE bool begin(const gpu_groups &groups, prefill_room<W> &r)
{
    const int thread = (int)threadIdx.x;
    launch_wait();
    const pair_tile tile = tile_of(groups, (int)blockIdx.x, &r.tile);
    if (tile.n == 0) return false;
    const int32_t *pair = gpu_at<const int32_t>(groups.pair) + tile.first;
    if (thread < PREFILL_TOKENS) r.pair[thread] = pair[min(thread, tile.n - 1)];
    W::prepare(r.own);
    return true;
}

/* mid = weight * swiglu(gate, up). Half of the warps work on gate, the others on the same rows of up. */
template <class W, int TILES> DEVICE void up_tile(const prefill_up_args &a, prefill_room<W> &r)
{
    const int half = PREFILL_THREADS / WARP / 2, is_up = warp_id() / half;
    const int row0 = (int)blockIdx.y * PREFILL_UP_ROWS + 16 * (warp_id() % half);
    const gpu_ptr at = gpu_at<const gpu_ptr>(is_up ? a.up.table : a.gate.table)[r.tile.expert];
    const prefill_matrix m = { at, a.gate.type, a.gate.rows, a.gate.cols, row0, a.gate.rows - 1 };
    float acc[TILES][4] = {};
    prefill_work<W, TILES>::products(acc, m, codes_of(a.x), r.row_of, r.stage, r.own);
    launch_next();

    float *gate = reinterpret_cast<float *>(r.stage) + threadIdx.x % (PREFILL_THREADS / 2);
    __syncthreads();                    /* the stages are free */
#pragma unroll
    for (int i = 0; i < 4 * TILES; i++)
        if (!is_up) gate[i * (PREFILL_THREADS / 2)] = acc[i / 4][i % 4];
    __syncthreads();
    if (!is_up) return;

    float *mid = gpu_at<float>(a.mid.at);
    each_result<TILES>(r.tile.n, row0, a.gate.rows, [&](int token, int row, int t, int e) {
        const float v = formula_swiglu(gate[(4 * t + e) * (PREFILL_THREADS / 2)], acc[t][e], a.limit);
        mid[r.pair[token] * a.mid.stride + row] = r.weight[token] * v;
    });
}

template <class W, int TILES> DEVICE void down_tile(const prefill_down_args &a, prefill_room<W> &r)
{
    const int row0 = (int)blockIdx.y * PREFILL_ROWS + 16 * warp_id();
    const gpu_ptr at = gpu_at<const gpu_ptr>(a.down.table)[r.tile.expert];
    const prefill_matrix m = { at, a.down.type, a.down.rows, a.down.cols, a.row0 + row0, a.down.rows - 1 };
    float acc[TILES][4] = {};
    prefill_work<W, TILES>::products(acc, m, codes_of(a.mid), r.pair, r.stage, r.own);
    launch_next();

    float *part = gpu_at<float>(a.part.at);
    each_result<TILES>(r.tile.n, row0, a.part.cols, [&](int token, int row, int t, int e) {
        part[r.pair[token] * a.part.stride + row] = acc[t][e];
    });
}

/* Tiles of few pairs, of which short chunks have many, cost less. */
template <class W> DEVICE void experts_up(const prefill_up_args &a, prefill_room<W> &r)
{
    if (!begin<W>(a.groups, r)) return;
    if (threadIdx.x < PREFILL_TOKENS) {
        const int pair = r.pair[threadIdx.x], used = a.groups.used;
        r.row_of[threadIdx.x] = pair / used;
        r.weight[threadIdx.x] = gpu_at<const float>(a.weights.at)[pair / used * a.weights.stride + pair % used];
    }
    __syncthreads();
    if (r.tile.n <= 8 * FEW_TILES) up_tile<W, FEW_TILES>(a, r);
    else up_tile<W, TOKEN_TILES>(a, r);
}
template <class W> DEVICE void experts_down(const prefill_down_args &a, prefill_room<W> &r)
{
    if (!begin<W>(a.groups, r)) return;
    __syncthreads();
    if (r.tile.n <= 8 * FEW_TILES) down_tile<W, FEW_TILES>(a, r);
    else down_tile<W, TOKEN_TILES>(a, r);
}

#define EXPERTS(name, unused)                                                 \
    KERNEL_RESIDENT(prefill_up_##name, prefill_up_args, PREFILL_THREADS, PREFILL_BLOCKS)     \
    {                                                                         \
        SHARED(prefill_room<fragments_##name>, room, 1);                      \
        experts_up<fragments_##name>(a, *room);                               \
    }                                                                         \
    KERNEL_RESIDENT(prefill_down_##name, prefill_down_args, PREFILL_THREADS, PREFILL_BLOCKS) \
    {                                                                         \
        SHARED(prefill_room<fragments_##name>, room, 1);                      \
        experts_down<fragments_##name>(a, *room);                             \
    }
PREFILL_TYPES(EXPERTS, )

KERNEL_RESIDENT(prefill_up_general, prefill_up_args, PREFILL_THREADS, 2)
{
    SHARED_DYNAMIC(prefill_room<fragments_general>, room);
    experts_up<fragments_general>(a, *room);
}
KERNEL_RESIDENT(prefill_down_general, prefill_down_args, PREFILL_THREADS, 2)
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
