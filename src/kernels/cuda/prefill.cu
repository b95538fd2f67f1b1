/* prefill: products of quantised weights with many rows. */
#include "kernels/cuda/prefill_general.cuh"

template <class W> DEVICE void products(const prefill_args &a, prefill_room<W> &r)
{
    const int token0 = (int)blockIdx.x * PREFILL_TOKENS, row0 = (int)blockIdx.y * PREFILL_ROWS + 16 * warp_id();
    launch_wait();
    if (threadIdx.x < PREFILL_TOKENS) r.row_of[threadIdx.x] = min(token0 + (int)threadIdx.x, a.x.rows - 1);
    W::prepare(r.own);
    __syncthreads();

    const prefill_matrix m = { a.w.at, a.w.type, a.w.matrix_rows, a.w.cols, a.w.row0 + row0, a.w.row0 + a.w.rows - 1 };
    prefill_codes x = codes_of(a.x);
    x.begin = (int)blockIdx.z * a.split_cols;
    x.end = min(x.begin + a.split_cols, x.cols);
    float acc[TOKEN_TILES][4] = {};
    prefill_work<W, TOKEN_TILES>::products(acc, m, x, r.row_of, r.stage, r.own);
    launch_next();

    float *y = gpu_at<float>(a.y.at) + token0 * a.y.stride + (int64_t)blockIdx.z * a.split_step;
    each_result<TOKEN_TILES>(a.x.rows - token0, row0, a.w.rows, [&](int token, int row, int t, int e) {
        y[token * a.y.stride + row] = acc[t][e];
    });
}

#define PRODUCTS(name, unused)                                                \
    KERNEL_RESIDENT(prefill_##name, prefill_args, PREFILL_THREADS, PREFILL_BLOCKS)           \
    {                                                                         \
        SHARED(prefill_room<fragments_##name>, room, 1);                      \
        products<fragments_##name>(a, *room);                                 \
    }
PREFILL_TYPES(PRODUCTS, )

KERNEL_RESIDENT(prefill_general, prefill_args, PREFILL_THREADS, 2)
{
    SHARED_DYNAMIC(prefill_room<fragments_general>, room);
    products<fragments_general>(a, *room);
}
