/* experts_tuned: gate, up and down of the types that most bytes of a model have, where a row fills a warp.
 *
 * A lane takes units of 16 bytes (matmul_units.cuh) at addresses next to its neighbours', and the units of
 * its next turns are under way while it works on the present one, over the ends of rows and of
 * experts. What lane adds what in which order depends on the shape alone. */
#include "kernels/cuda/experts_ffn.cuh"
#include "kernels/cuda/matmul_units.cuh"

/* A lane's next unit: of `units` of item `at`, then of the item `step` further. */
struct unit_cursor {
    int u, at;

    __device__ __forceinline__ bool next(int units, int step)       /* whether an item has ended */
    {
        u += WARP;
        if (u - lane_id() < units) return false;
        u = lane_id();
        at += step;
        return true;
    }
};

/* ---- down ------------------------------------------------------------------------------- */

/* A warp has ROWS rows of down for one row of x: the experts' turns, ascending. */
template <class W, int ROWS, int AHEAD> struct down_turns {
    typedef unit_of<W> U;
    typedef typename U::raw raw;

    const experts_down_args &a;
    const gpu_ptr *expert;              /* [used], shared memory */
    int   row, units, first_x, next_row[ROWS];
    unit_cursor ahead, here;            /* items are slots */
    float sum[ROWS];

    __device__ __forceinline__ down_turns(const experts_down_args &args, const gpu_ptr *experts, int t, int first_row)
        : a(args), expert(experts), row(first_row), units(args.down.cols / (16 * U::groups)), first_x(t * args.ids.cols),
          ahead{ lane_id(), 0 }, here{ lane_id(), 0 }
    {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            next_row[r] = (min(row + r, a.down.rows - 1) - row) * units;
            sum[r] = 0.0f;
        }
    }
    __device__ __forceinline__ void load(raw (&to)[ROWS])
    {
        if (ahead.at >= a.ids.cols) return;
        if (ahead.u < units) {
            const planes at = expert_row<W>(expert[ahead.at], a.down, row);
#pragma unroll
            for (int r = 0; r < ROWS; r++) to[r] = U::load(at, next_row[r] + ahead.u);
        }
        ahead.next(units, 1);
    }
    __device__ __forceinline__ void add(const raw (&from)[ROWS])
    {
        const int x_row[1] = { first_x + here.at };
        if (here.at >= a.ids.cols) return;
        if (here.u < units) add_units<W, 1, ROWS>(sum, from, a.codes, x_row, 0, here.u);
        here.next(units, 1);
    }
    __device__ __forceinline__ void run()
    {
        raw next[AHEAD][ROWS] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; i++) load(next[i]);
#pragma unroll 1
        while (here.at < a.ids.cols) {
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                raw now[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) now[r] = next[i][r];
                load(next[i]);
                add(now);
            }
        }
    }
};

template <class W, int AHEAD> DEVICE void tuned_down(const experts_down_args &a, gpu_ptr *expert)
{
    enum { ROWS = EXPERTS_TUNED_DOWN_ROWS / EXPERTS_WARPS };
    const int t = (int)blockIdx.x, row = (int)blockIdx.y * EXPERTS_TUNED_DOWN_ROWS + warp_id() * ROWS;
    const int32_t *ids = gpu_at<const int32_t>(a.ids.at) + t * a.ids.stride;
    for (int i = (int)threadIdx.x; i < a.ids.cols; i += (int)blockDim.x)
        expert[i] = gpu_at<const gpu_ptr>(a.down.table)[ids[i]];
    __syncthreads();
    if (row >= a.down.rows) return;
    down_turns<W, ROWS, AHEAD> down(a, expert, t, row);
    down.run();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float y = warp_sum(down.sum[r]);
        if (lane_id() != 0 || row + r >= a.down.rows) continue;
        if (a.add.at) y += gpu_at<const float>(a.add.at)[t * a.add.stride + row + r];
        gpu_at<float>(a.y.at)[t * a.y.stride + row + r] = y;
    }
}

/* ---- gate and up -------------------------------------------------------------------------- */

/* A warp has some rows of gate and up of one expert for `n` pairs, at most N: row after row. */
template <class W, int N, int AHEAD> struct up_turns {
    typedef unit_of<W> U;
    typedef typename U::raw raw;

    const experts_up_args &a;
    gpu_ptr gate, up;
    const int32_t *pair;
    int   n, row_end, units, t[N];
    unit_cursor ahead, here;            /* items are rows, EXPERTS_WARPS apart */
    float sum[2 * N];                   /* [pair][gate, up] */

    __device__ __forceinline__ up_turns(const experts_up_args &args, const expert_turn &e, int first_pair, int n_pairs)
        : a(args), gate(e.gate), up(e.up), pair(e.pair + first_pair), n(n_pairs), row_end(e.row_end),
          units(args.gate.cols / (16 * U::groups)), ahead{ lane_id(), e.row + warp_id() },
          here{ lane_id(), e.row + warp_id() }
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            t[j] = pair[j < n ? j : 0] / a.groups.used;
            sum[2 * j] = sum[2 * j + 1] = 0.0f;
        }
    }
    __device__ __forceinline__ void load(raw (&to)[2])
    {
        if (ahead.at >= row_end) return;
        if (ahead.u < units) {
            to[0] = U::load(expert_row<W>(gate, a.gate, ahead.at), ahead.u);
            to[1] = U::load(expert_row<W>(up, a.up, ahead.at), ahead.u);
        }
        ahead.next(units, EXPERTS_WARPS);
    }
    __device__ __forceinline__ void add(const raw (&from)[2])
    {
        const int row = here.at;
        if (row >= row_end) return;
        if (here.u < units) add_units<W, N, 2>(sum, from, a.codes, t, 0, here.u);
        if (here.next(units, EXPERTS_WARPS)) store(row);
    }
    __device__ __forceinline__ void store(int row)
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float g = warp_sum(sum[2 * j]), u = warp_sum(sum[2 * j + 1]);
            sum[2 * j] = sum[2 * j + 1] = 0.0f;
            if (lane_id() == 0 && j < n) store_mid(a, t[j], pair[j], row, g, u);
        }
    }
    __device__ __forceinline__ void run()
    {
        raw next[AHEAD][2] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; i++) load(next[i]);
#pragma unroll 1
        while (here.at < row_end) {
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const raw now[2] = { next[i][0], next[i][1] };
                load(next[i]);
                add(now);
            }
        }
    }
};

/* One pair alone, or N that meet a weight while it is in registers. */
template <class W, int N, int AHEAD> DEVICE void tuned_up(const experts_up_args &a)
{
    expert_turn e;
    if (!expert_turn_of(a, &e)) return;
    int i = 0;
    for (; e.n - i > 1; i += N) {
        up_turns<W, N, AHEAD> turns(a, e, i, min(e.n - i, N));
        turns.run();
    }
    if (i >= e.n) return;
    up_turns<W, 1, AHEAD> turns(a, e, i, 1);
    turns.run();
}

#define TUNED_DOWN(type, AHEAD)                                               \
    KERNEL_RESIDENT(experts_down_tuned_##type, experts_down_args, EXPERTS_WARPS * WARP, 2) \
    {                                                                         \
        SHARED(gpu_ptr, expert, EXPERTS_MOST_USED);                           \
        launch_wait();                                                        \
        launch_next();                                                        \
        tuned_down<weight_##type, AHEAD>(a, expert);                          \
    }
#define TUNED_UP(type, N, AHEAD)                                              \
    KERNEL_RESIDENT(experts_up_tuned_##type, experts_up_args, EXPERTS_WARPS * WARP, 2) \
    {                                                                         \
        launch_wait();                                                        \
        launch_next();                                                        \
        tuned_up<weight_##type, N, AHEAD>(a);                                 \
    }
TUNED_DOWN(Q2_K, 3)
TUNED_DOWN(Q4_K, 3)
TUNED_UP(Q4_K, 2, 2)
