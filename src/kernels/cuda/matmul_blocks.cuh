/* matmul_blocks: the product of weights in blocks with activations in codes. */
#ifndef KERNELS_CUDA_MATMUL_BLOCKS_CUH
#define KERNELS_CUDA_MATMUL_BLOCKS_CUH

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_units.cuh"

/* One unit of ROWS rows of the weight with TOKENS rows of activations. */
template <class W, int TOKENS, int ROWS> struct block_product {
    typedef unit_of<W> U;
    typedef typename U::raw raw;

    gpu_weight w;
    gpu_codes  x;
    planes     at;                      /* the first of the rows that load() reads           */
    int        ahead[ROWS];             /* units from there to each: behind the last is the last */
    int        x_row[TOKENS], units, group_rows, column;
    float      sum[TOKENS * ROWS];      /* [t][r] */

    __device__ __forceinline__ block_product(const gpu_weight &weight, const gpu_codes &codes, int token,
                                             int rows_of_group)
        : w(weight), x(codes), units(weight.cols / (16 * U::groups)), group_rows(rows_of_group)
    {
#pragma unroll
        for (int t = 0; t < TOKENS; t++) x_row[t] = min(token + t, x.rows - 1);
    }
    __device__ __forceinline__ void aim(int row)
    {
        const int from = min(row, w.rows - 1);
        at = planes_of_row<W::type>(w, from);
#pragma unroll
        for (int r = 0; r < ROWS; r++) ahead[r] = (min(row + r, w.rows - 1) - from) * units;
    }
    __device__ __forceinline__ void load(raw (&to)[ROWS], int u) const
    {
#pragma unroll
        for (int r = 0; r < ROWS; r++) to[r] = U::load(at, ahead[r] + u);
    }
    __device__ __forceinline__ void begin(int row)
    {
        column = min(row, w.rows - 1) / group_rows * w.cols;
#pragma unroll
        for (int i = 0; i < TOKENS * ROWS; i++) sum[i] = 0.0f;
    }

    __device__ __forceinline__ void add(const raw (&from)[ROWS], int u)
    {
        add_units<W, TOKENS, ROWS>(sum, from, x, x_row, column, u);
    }
};

template <class W, int TOKENS, int ROWS> DEVICE void matmul_blocks(const matmul_args_codes &a, float *part)
{
    const matmul_place p = place_of_warp<ROWS>(TOKENS, a.slices);
    block_product<W, TOKENS, ROWS> product(a.w[p.job], a.x, p.token, a.group_rows);
    matmul_tiles<block_product<W, TOKENS, ROWS>, TOKENS, ROWS>(product, p, product.units, part, a.y[p.job],
                                                               a.w[p.job].rows);
}

#define MATMUL_KERNEL(name, W, TOKENS, ROWS, BLOCKS)                          \
    KERNEL_RESIDENT(name, matmul_args_codes, MATMUL_WARPS * WARP, BLOCKS)     \
    {                                                                         \
        SHARED(float, part, MATMUL_WARPS * TOKENS * ROWS);                    \
        matmul_blocks<W, TOKENS, ROWS>(a, part);                              \
    }

/* One of MATMUL_TUNED, and one of MATMUL_GENERAL, whose units fill more registers. */
#define MATMUL_TUNED_KERNEL(type, TOKENS, ROWS) \
    MATMUL_KERNEL(matmul_##type##_##TOKENS, weight_##type, TOKENS, ROWS, MATMUL_RESIDENT(TOKENS))
#define MATMUL_TUNED_KERNELS(type, rows, r16)                                 \
    MATMUL_TUNED_KERNEL(type, 1, rows)                                        \
    MATMUL_TUNED_KERNEL(type, 2, rows)                                        \
    MATMUL_TUNED_KERNEL(type, 4, rows)                                        \
    MATMUL_TUNED_KERNEL(type, 8, rows)                                        \
    MATMUL_TUNED_KERNEL(type, 16, r16)
#define MATMUL_GENERAL_KERNELS(type)                                          \
    MATMUL_KERNEL(matmul_##type##_1, weight_##type, 1, 2, MATMUL_RESIDENT(4)) \
    MATMUL_KERNEL(matmul_##type##_4, weight_##type, 4, 2, MATMUL_RESIDENT(4))

#endif
