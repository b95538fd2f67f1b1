/* args_matmul: what the kernels of matmul*.cu take. */
#ifndef KERNELS_CUDA_ARGS_MATMUL_H
#define KERNELS_CUDA_ARGS_MATMUL_H

#include "kernels/cuda/device_types.h"

/* y[t][o] = row o of w times columns (o / group_rows) * w.cols ... of x[t], in floats. */
typedef struct {
    gpu_weight w;
    gpu_rows   x, y;
    int32_t    group_rows;
} matmul_exact_args;

/* Types with blocks: each has one kernel of every kind. */
#define MATMUL_BLOCK_TYPES(M, X)                                              \
    M(X, Q4_0) M(X, Q4_1) M(X, Q5_0) M(X, Q5_1) M(X, Q8_0) M(X, IQ4_NL)       \
    M(X, MXFP4) M(X, NVFP4) M(X, Q2_K) M(X, Q3_K) M(X, Q4_K) M(X, Q5_K)       \
    M(X, Q6_K) M(X, IQ2_XXS) M(X, IQ2_XS) M(X, IQ2_S) M(X, IQ3_XXS)           \
    M(X, IQ3_S) M(X, IQ1_S) M(X, IQ4_XS)

#define MATMUL_EXACT(X, type) X(matmul_exact_##type, matmul_exact_args)

#define CUDA_KERNELS_MATMUL(X)                                                \
    MATMUL_BLOCK_TYPES(MATMUL_EXACT, X)

#endif
