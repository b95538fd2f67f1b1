/* matmul_blocks: the product of weights in blocks with activations in codes. */
#ifndef KERNELS_CUDA_MATMUL_BLOCKS_CUH
#define KERNELS_CUDA_MATMUL_BLOCKS_CUH

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_units.cuh"

/* One unit of ROWS rows of the weight with TOKENS rows of activations. */
template <class W, int TOKENS, int ROWS> struct block_product {
    typedef unit_of<W> U;

    gpu_codes x;                        /* at the first column of this row of weights */
    int       row[TOKENS];
    float     sum[TOKENS * ROWS];       /* [t][r] */

    /* Rows of x behind the last are taken for the last. */
    __device__ __forceinline__ void begin(const gpu_codes &all, int token, int column)
    {
        x = all;
        x.codes += (gpu_ptr)column;
        x.scale += (gpu_ptr)(column / 32) * sizeof(float);
        x.sum += (gpu_ptr)(column / 16) * sizeof(int16_t);
#pragma unroll
        for (int t = 0; t < TOKENS; t++) row[t] = min(token + t, all.rows - 1);
#pragma unroll
        for (int i = 0; i < TOKENS * ROWS; i++) sum[i] = 0.0f;
    }

    /* sum_k scale_k * dot_k and sum_k offset_k * sum of 16, in whole numbers where they have room. */
    __device__ __forceinline__ void add(const typename U::raw (&raw)[ROWS], int u)
    {
        int   whole[TOKENS * ROWS], offsets[TOKENS * ROWS];
        float wide[TOKENS * ROWS];
#pragma unroll
        for (int i = 0; i < TOKENS * ROWS; i++) {
            whole[i] = offsets[i] = 0;
            wide[i] = 0.0f;
        }
#pragma unroll (TOKENS < 16 ? U::groups : 1)
        for (int k = 0; k < U::groups; k++) {
            const int column = U::column(u, k);
            uint32_t c[ROWS][4];
            int scale[ROWS], offset[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                U::code(raw[r], u, k, c[r]);
                scale[r] = U::scale(raw[r], u, k);
                offset[r] = U::offset(raw[r], u, k);
            }
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                const int64_t first = (int64_t)row[t] * x.cols;
                const uint4 a = *gpu_at<const uint4>(x.codes, first + column);
                const int s16 = W::affine ? *gpu_at<const int16_t>(x.sum, (first + column) / 16 * 2) : 0;
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    int dot = __dp4a((int)c[r][0], (int)a.x, 0);
                    dot = __dp4a((int)c[r][1], (int)a.y, dot);
                    dot = __dp4a((int)c[r][2], (int)a.z, dot);
                    dot = __dp4a((int)c[r][3], (int)a.w, dot);
                    if (W::wide) wide[t * ROWS + r] = fmaf((float)scale[r], (float)dot, wide[t * ROWS + r]);
                    else whole[t * ROWS + r] += scale[r] * dot;
                    if (W::affine) offsets[t * ROWS + r] += offset[r] * s16;
                }
            }
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const float da = *gpu_at<const float>(x.scale, ((int64_t)row[t] * x.cols + U::column(u, 0)) / 32 * 4);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float &to = sum[t * ROWS + r];
                to = fmaf(da * U::d(raw[r]), W::wide ? wide[t * ROWS + r] : (float)whole[t * ROWS + r], to);
                if (W::affine) to = fmaf(da * U::m(raw[r]), (float)offsets[t * ROWS + r], to);
            }
        }
    }
};

template <class W, int TOKENS, int ROWS> DEVICE void matmul_blocks(const matmul_args_codes &a, float *part)
{
    typedef unit_of<W> U;
    const matmul_place p = place_of_warp<TOKENS, ROWS>(a.slices);
    const gpu_weight &w = a.w[p.job];
    planes at[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) at[r] = planes_of_row<W::type>(w, min(p.row + r, w.rows - 1));

    block_product<W, TOKENS, ROWS> product;
    product.begin(a.x, p.token, min(p.row, w.rows - 1) / a.group_rows * w.cols);
    const int units = w.cols / (16 * U::groups), step = WARP * p.slices;
    int u = p.slice * WARP + lane_id();
    typename U::raw now[ROWS], next[ROWS];
    if (u < units) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) next[r] = U::load(at[r], u);
    }
    for (; u < units; u += step) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) now[r] = next[r];
        if (u + step < units) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) next[r] = U::load(at[r], u + step);
        }
        product.add(now, u);
    }
    launch_next();
    store_sums<TOKENS, ROWS>(p, product.sum, part, a.y[p.job], w.rows);
}

#define MATMUL_KERNEL(name, W, TOKENS, ROWS)                                  \
    KERNEL(name, matmul_args_codes, MATMUL_WARPS * WARP)                      \
    {                                                                         \
        SHARED(float, part, MATMUL_WARPS * TOKENS * ROWS);                    \
        launch_wait();                                                        \
        matmul_blocks<W, TOKENS, ROWS>(a, part);                              \
    }

/* One of MATMUL_TUNED and one of MATMUL_GENERAL. */
#define MATMUL_TUNED_KERNELS(type, r8, r16)                                   \
    MATMUL_KERNEL(matmul_##type##_1, weight_##type, 1, 2)                     \
    MATMUL_KERNEL(matmul_##type##_2, weight_##type, 2, 2)                     \
    MATMUL_KERNEL(matmul_##type##_4, weight_##type, 4, 2)                     \
    MATMUL_KERNEL(matmul_##type##_8, weight_##type, 8, r8)                    \
    MATMUL_KERNEL(matmul_##type##_16, weight_##type, 16, r16)
#define MATMUL_GENERAL_KERNELS(type)                                          \
    MATMUL_KERNEL(matmul_##type##_1, weight_##type, 1, 2)                     \
    MATMUL_KERNEL(matmul_##type##_4, weight_##type, 4, 2)

#endif
