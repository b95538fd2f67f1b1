/* experts_ffn: the routed experts of up to 16 rows, with activations in codes [4.14], any type. */
#include "kernels/cuda/experts_ffn.cuh"

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
    KERNEL_RESIDENT(experts_up_##type, experts_up_args, EXPERTS_WARPS * WARP, 1) \
    {                                                                         \
        typedef weight_##type W;                                              \
        SHARED(W::entry, room, book_room<W>::entries);                        \
        const W::entry *at = book<W, (W::entries > 0)>::load(room);           \
        launch_wait();                                                        \
        launch_next();                                                        \
        experts_up<W, 3>(a, at);                                              \
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
