/* args_kv: what the kernels of kv.cu take. */
#ifndef KERNELS_CUDA_ARGS_KV_H
#define KERNELS_CUDA_ARGS_KV_H

#include "kernels/cuda/device_types.h"

/* A row is rounded by one warp that holds it in registers, up to this width. */
enum { GPU_MAX_HADAMARD = 512 };

/* round_kind of ops.h. */
enum { GPU_ROUND_NONE, GPU_ROUND_FP8, GPU_ROUND_FP4 };

/* Blocks (some heads of a row, row). */
typedef struct {
    gpu_rows x;                 /* [T][n_heads*width] in place          */
    gpu_ptr  pos;               /* int32 [T]                            */
    gpu_rope rope;
    int32_t  n_heads, width;
    float    eps;               /* head_norm_rope: of each head's norm  */
} rope_kernel_args;

/* rope_tail's work and codes of the rows, by 32, in one pass. A warp for each 32 numbers: width and n_rot are
 * multiples of that. Blocks (parts of a row, row). */
typedef struct {
    rope_kernel_args rope;
    gpu_codes        q;
} rope_codes_args;

/* A warp for each group of 64 (FP8) or each row (FP4). */
typedef struct {
    gpu_rows x;
    int32_t  n_round;
} kv_round_kernel_args;

/* A block for each row of the batch. */
typedef struct {
    gpu_rows   x;
    gpu_batch  batch;
    gpu_kv_row row;             /* of the ring                          */
} kv_write_kernel_args;

/* What happens to a row of K on its way into memory. */
typedef struct {
    gpu_ptr  norm;              /* float [width]                        */
    gpu_rope rope;
    float    eps;
    int32_t  kind, n_round;     /* GPU_ROUND_...                        */
} kv_finish;

typedef struct {
    gpu_rows   x;               /* products with the kv matrix, in place */
    gpu_batch  batch;
    gpu_kv_row row;
    kv_finish  finish;
} kv_store_kernel_args;

/* Blocks (compressed row of the segment, segment), and for compress_keep (share of the tokens, segment). */
typedef struct {
    gpu_rows   value, score;    /* [T][series*width]                    */
    gpu_rows   ape;             /* [ratio][series*width]                */
    int32_t    ape_bits;        /* 32: float, 16: binary16, 17: bfloat16 */
    int32_t    index, ratio, width;
    int32_t    keep;            /* the block also does compress_keep's work for its segment */
    gpu_batch  batch;
    gpu_kv_row row;             /* of the pool                          */
    kv_finish  finish;
} compress_kernel_args;

#define CUDA_KERNELS_KV(X)                                                    \
    X(rope_tail, rope_kernel_args) X(rope_codes, rope_codes_args) X(head_norm_rope, rope_kernel_args)        \
    X(kv_round_fp8, kv_round_kernel_args) X(kv_round_fp4, kv_round_kernel_args) \
    X(kv_write, kv_write_kernel_args) X(kv_store, kv_store_kernel_args)       \
    X(compress, compress_kernel_args) X(compress_keep, compress_kernel_args)

#endif
