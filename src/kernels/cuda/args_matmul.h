/* args_matmul: what the kernels of matmul*.cu take. */
#ifndef KERNELS_CUDA_ARGS_MATMUL_H
#define KERNELS_CUDA_ARGS_MATMUL_H

#include "kernels/cuda/device_types.h"

enum { MATMUL_WARPS = 8, MATMUL_JOBS = 2, CODES_WARPS = 4 };

/* Blocks of a kernel for so many rows of x that a multiprocessor's registers have room for. */
#define MATMUL_RESIDENT(tokens) ((tokens) > 4 ? 1 : (tokens) > 1 ? 2 : 3)

/* y = w x for up to MATMUL_JOBS weights of one type and width with the same x; the grid's z says which.
 * Row o of a weight meets columns (o / group_rows) * w.cols on of x. slices: warps that share a row, a
 * divisor of MATMUL_WARPS. */
typedef struct {
    gpu_weight w[MATMUL_JOBS];
    gpu_rows   y[MATMUL_JOBS];
    gpu_codes  x;
    int32_t    group_rows, slices;
} matmul_args_codes;

/* The same with floats. aligned: rows of weights and of x begin at multiples of 16 bytes. */
typedef struct {
    gpu_weight w[MATMUL_JOBS];
    gpu_rows   y[MATMUL_JOBS];
    gpu_rows   x;
    int32_t    group_rows, slices, aligned;
} matmul_args_float;

/* One weight of any type with floats, the straight way. */
typedef struct {
    gpu_weight w;
    gpu_rows   x, y;
    int32_t    group_rows;
} matmul_exact_args;

/* q = codes of x, or of swiglu(x, up) */
typedef struct {
    gpu_rows  x, up;
    gpu_codes q;
    float     limit;
} codes_args;

/* Weight types by how many rows of x their kernels are made for: 1, 2, 4, 8 and 16, or 1 and 4. */
#define MATMUL_TUNED(M, X)   M(X, Q8_0) M(X, Q2_K) M(X, Q4_K) M(X, IQ2_XXS)
#define MATMUL_FLOATS(M, X)  M(X, F32) M(X, F16) M(X, BF16)
#define MATMUL_GENERAL(M, X)                                                  \
    M(X, Q4_0) M(X, Q4_1) M(X, Q5_0) M(X, Q5_1) M(X, IQ4_NL) M(X, MXFP4)      \
    M(X, NVFP4) M(X, Q3_K) M(X, Q5_K) M(X, Q6_K) M(X, IQ2_XS) M(X, IQ2_S)     \
    M(X, IQ3_XXS) M(X, IQ3_S) M(X, IQ1_S) M(X, IQ4_XS)

#define MATMUL_BY_FIVE(X, type, args)                                         \
    X(matmul_##type##_1, args) X(matmul_##type##_2, args) X(matmul_##type##_4, args) \
    X(matmul_##type##_8, args) X(matmul_##type##_16, args)
#define MATMUL_TUNED_OF(X, type)   MATMUL_BY_FIVE(X, type, matmul_args_codes)
#define MATMUL_FLOATS_OF(X, type)  MATMUL_BY_FIVE(X, type, matmul_args_float)
#define MATMUL_GENERAL_OF(X, type) X(matmul_##type##_1, matmul_args_codes) X(matmul_##type##_4, matmul_args_codes)
#define MATMUL_EXACT_OF(X, type)   X(matmul_exact_##type, matmul_exact_args)

#define CUDA_KERNELS_MATMUL(X)                                                \
    X(codes_by_32, codes_args) X(codes_by_256, codes_args)                    \
    X(swiglu_codes_by_32, codes_args) X(swiglu_codes_by_256, codes_args)      \
    MATMUL_TUNED(MATMUL_TUNED_OF, X) MATMUL_FLOATS(MATMUL_FLOATS_OF, X)       \
    MATMUL_GENERAL(MATMUL_GENERAL_OF, X)                                      \
    MATMUL_TUNED(MATMUL_EXACT_OF, X) MATMUL_GENERAL(MATMUL_EXACT_OF, X)

#endif
