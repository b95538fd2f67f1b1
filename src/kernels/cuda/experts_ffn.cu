/* experts_ffn: the routed experts of up to 16 rows, with activations in codes [4.14].
 *
 * A warp works out single numbers: its lanes share a row of weights, 32 columns at a time. What
 * lane adds what in which order depends on the shape alone, so a row's numbers are the same
 * whatever else is in the batch. */
#include "kernels/cuda/unpack.cuh"

#include "kernels/cuda/args_experts.h"

/* Room for a codebook, or for nothing. */
template <class W> struct book_room {
    static constexpr int entries = W::entries ? W::entries : 1;
};

/* The codebook, in shared memory where there is one. Before launch_wait: it never changes. */
template <class W, bool some> struct book;
template <class W> struct book<W, true> {
    DEVICE_MEMBER const typename W::entry *load(typename W::entry *room)
    {
        grid_copy<W>(room);
        __syncthreads();
        return room;
    }
};
template <class W> struct book<W, false> {
    DEVICE_MEMBER const typename W::entry *load(typename W::entry *) { return nullptr; }
};

/* Row `row` of the matrix at `at`. */
template <class W> DEVICE planes expert_row(gpu_ptr at, const gpu_experts &e, int row)
{
    const uint64_t each = (uint64_t)(e.cols / plane_table<W::type>::block_len);
    return planes_from<W::type>(at, (uint64_t)e.rows * each, (uint64_t)row * each);
}

/* 32 activations. */
struct codes32 {
    uint32_t code[8];
    float    d;
    int      sum[2];
};

template <class W> DEVICE codes32 codes_at(const gpu_codes &x, int row, int i)
{
    const int64_t at = (int64_t)row * x.cols + 32 * i;
    codes32 c;
    words_of(c.code, load_16(gpu_at<const uint8_t>(x.codes) + at));
    words_of(c.code + 4, load_16(gpu_at<const uint8_t>(x.codes) + at + 16));
    c.d = __ldg(gpu_at<const float>(x.scale) + at / 32);
    const uint32_t sums = W::affine ? load_u32(gpu_at<const uint8_t>(x.sum) + at / 16 * 2) : 0u;
    c.sum[0] = (int)(int16_t)sums;
    c.sum[1] = (int)(int16_t)(sums >> 16);
    return c;
}

/* One row of gate and up for `n` pairs, at most N, of one expert. */
template <class W, int N>
DEVICE void up_row(const experts_up_args &a, const planes &gate, const planes &up, int row, const int32_t *pair, int n,
                   const typename W::entry *book)
{
    const int lane = lane_id(), used = a.groups.used;
    float g[N], u[N];
    int   of[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        g[j] = u[j] = 0.0f;
        of[j] = pair[j < n ? j : 0];
    }
#pragma unroll (N == 1 ? 2 : 1)
    for (int i = lane; i < a.gate.cols / 32; i += WARP) {
        const weights32 wg = W::load(gate, i / W::subs, i % W::subs, book), wu = W::load(up, i / W::subs, i % W::subs, book);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const codes32 x = codes_at<W>(a.codes, of[j] / used, i);
            g[j] = add_product<W>(g[j], wg, x.code, x.d, x.sum);
            u[j] = add_product<W>(u[j], wu, x.code, x.d, x.sum);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float gate_sum = warp_sum(g[j]), up_sum = warp_sum(u[j]);
        if (lane != 0 || j >= n) continue;
        const float weight = gpu_at<const float>(a.weights.at)[of[j] / used * a.weights.stride + of[j] % used];
        gpu_at<float>(a.mid.at)[of[j] * a.mid.stride + row] = weight * formula_swiglu(gate_sum, up_sum, a.limit);
    }
}

template <class W> DEVICE void experts_up(const experts_up_args &a, const typename W::entry *book)
{
    const int nth = (int)blockIdx.y;
    if (nth >= *gpu_at<const int32_t>(a.groups.n_active)) return;
    const int expert = gpu_at<const int32_t>(a.groups.active)[nth];
    const int begin = gpu_at<const int32_t>(a.groups.first)[expert], end = gpu_at<const int32_t>(a.groups.first)[expert + 1];
    const int32_t *pair = gpu_at<const int32_t>(a.groups.pair);
    const gpu_ptr gate = gpu_at<const gpu_ptr>(a.gate.table)[expert], up = gpu_at<const gpu_ptr>(a.up.table)[expert];

    for (int r = warp_id(); r < EXPERTS_UP_ROWS; r += EXPERTS_WARPS) {
        const int row = (int)blockIdx.x * EXPERTS_UP_ROWS + r;
        if (row >= a.gate.rows) return;
        const planes at_gate = expert_row<W>(gate, a.gate, row), at_up = expert_row<W>(up, a.up, row);
        int i = begin;
        for (; end - i > 1; i += 4) up_row<W, 4>(a, at_gate, at_up, row, pair + i, min(end - i, 4), book);
        if (end - i == 1) up_row<W, 1>(a, at_gate, at_up, row, pair + i, 1, book);
    }
}

template <class W> DEVICE void experts_down(const experts_down_args &a, const typename W::entry *book)
{
    const int t = (int)blockIdx.x, row = (int)blockIdx.y * EXPERTS_DOWN_ROWS + warp_id(), lane = lane_id();
    if (row >= a.down.rows) return;
    const int used = a.ids.cols;
    const int32_t *ids = gpu_at<const int32_t>(a.ids.at) + t * a.ids.stride;
    const gpu_ptr *table = gpu_at<const gpu_ptr>(a.down.table);
    float sum = 0.0f;
    for (int slot = 0; slot < used; slot++) {
        const planes at = expert_row<W>(table[ids[slot]], a.down, row);
#pragma unroll 2
        for (int i = lane; i < a.down.cols / 32; i += WARP) {
            const weights32 w = W::load(at, i / W::subs, i % W::subs, book);
            const codes32 x = codes_at<W>(a.codes, t * used + slot, i);
            sum = add_product<W>(sum, w, x.code, x.d, x.sum);
        }
    }
    sum = warp_sum(sum);
    if (lane != 0) return;
    if (a.add.at) sum += gpu_at<const float>(a.add.at)[t * a.add.stride + row];
    gpu_at<float>(a.y.at)[t * a.y.stride + row] = sum;
}

#define EXPERTS_KERNELS(X, type)                                              \
    KERNEL(experts_up_##type, experts_up_args, EXPERTS_WARPS * WARP)          \
    {                                                                         \
        typedef weight_##type W;                                              \
        SHARED(W::entry, room, book_room<W>::entries);                        \
        const W::entry *at = book<W, (W::entries > 0)>::load(room);           \
        launch_wait();                                                        \
        launch_next();                                                        \
        experts_up<W>(a, at);                                                 \
    }                                                                         \
    KERNEL(experts_down_##type, experts_down_args, EXPERTS_DOWN_ROWS * WARP)  \
    {                                                                         \
        typedef weight_##type W;                                              \
        SHARED(W::entry, room, book_room<W>::entries);                        \
        const W::entry *at = book<W, (W::entries > 0)>::load(room);           \
        launch_wait();                                                        \
        launch_next();                                                        \
        experts_down<W>(a, at);                                               \
    }
EXPERTS_BLOCK_TYPES(EXPERTS_KERNELS, )
