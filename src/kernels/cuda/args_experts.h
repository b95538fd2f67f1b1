/* args_experts: what the kernels of experts*.cu take.
 *
 * A pair is a row's choice of one expert: number row * used + slot. */
#ifndef KERNELS_CUDA_ARGS_EXPERTS_H
#define KERNELS_CUDA_ARGS_EXPERTS_H

#include "kernels/cuda/device_types.h"

/* The pairs of an op by expert, in scratch at fixed addresses; made on the device (cuda_group_pairs,
 * cuda_route), never looked at by the host. */
typedef struct {
    gpu_ptr first;              /* int32 [n_experts+1]: expert e has pair[first[e]] .. pair[first[e+1]-1]    */
    gpu_ptr pair;               /* int32 [n_pairs], by expert, ascending within one                           */
    gpu_ptr active;             /* int32 [n_experts]: the experts that have pairs, ascending                  */
    gpu_ptr n_active;           /* int32                                                                      */
    gpu_ptr uses;               /* uint32 [n_experts], this layer's counters of reads (cuda_residency); or 0  */
    int32_t n_experts, used, n_pairs;
} gpu_groups;

/* Rows of a group that the router's own block makes: one warp a row, then the pairs. */
enum { ROUTER_ROWS = 16, EXPERTS_MOST_USED = 64 };

/* Grid: rows / warps of a block. Dynamic shared memory: router_bytes. */
typedef struct {
    gpu_rows logits, ids, weights;
    gpu_ptr  bias;              /* float [n_experts]; 0: none                    */
    gpu_rows hash;              /* int32 [V][used]; at 0: choice by score        */
    gpu_ptr  token;             /* int32 [rows], for hash                        */
    gpu_groups groups;          /* first 0: not made; else all rows in one block */
    float    scale;
} router_kernel_args;

/* One block. Dynamic shared memory: group_bytes. */
typedef struct {
    gpu_rows   ids;
    gpu_groups groups;
} group_pairs_args;

/* mid[pair] = weight * swiglu(gate x, up x). Grid: rows of a matrix / rows_each, most active
 * experts. x: codes, or floats in the exact kernel. */
enum { EXPERTS_MOST_ROWS = 16, EXPERTS_WARPS = 8, EXPERTS_UP_ROWS = 16, EXPERTS_DOWN_ROWS = EXPERTS_WARPS,
       EXPERTS_WIDE_WARPS = 16, EXPERTS_TUNED_DOWN_ROWS = 16 };
typedef struct {
    gpu_experts gate, up;
    gpu_codes   codes;
    gpu_rows    x, weights, mid;
    gpu_groups  groups;
    int32_t     rows_each;              /* rows of a matrix per block */
    float       limit;
} experts_up_args;

/* y[t] = sum over slots of down[ids[t][slot]] mid[t*used + slot], + add[t]. Grid: rows of x, rows of a
 * matrix / EXPERTS_DOWN_ROWS. */
typedef struct {
    gpu_experts down;
    gpu_codes   codes;
    gpu_rows    mid, ids, y, add;       /* add at 0: none */
} experts_down_args;

/* Weight types with integer products; the exact kernels take these and floats. */
#define EXPERTS_BLOCK_TYPES(M, X)                                             \
    M(X, Q4_0) M(X, Q4_1) M(X, Q5_0) M(X, Q5_1) M(X, Q8_0) M(X, IQ4_NL)       \
    M(X, MXFP4) M(X, NVFP4) M(X, Q2_K) M(X, Q3_K) M(X, Q4_K) M(X, Q5_K)       \
    M(X, Q6_K) M(X, IQ2_XXS) M(X, IQ2_XS) M(X, IQ2_S) M(X, IQ3_XXS)           \
    M(X, IQ3_S) M(X, IQ1_S) M(X, IQ4_XS)
#define EXPERTS_KERNELS_OF(X, type)                                           \
    X(experts_up_##type, experts_up_args) X(experts_down_##type, experts_down_args)

#define CUDA_KERNELS_EXPERTS(X)                                               \
    X(router, router_kernel_args) X(group_pairs, group_pairs_args)            \
    EXPERTS_BLOCK_TYPES(EXPERTS_KERNELS_OF, X)                                \
    X(experts_up_wide_IQ2_XXS, experts_up_args) X(experts_up_tuned_Q4_K, experts_up_args) \
    X(experts_down_tuned_Q2_K, experts_down_args) X(experts_down_tuned_Q4_K, experts_down_args) \
    X(experts_up_exact, experts_up_args) X(experts_down_exact, experts_down_args)

#endif
