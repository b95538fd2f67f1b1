/* args_attention: what the kernels of attention*.cu take. */
#ifndef KERNELS_CUDA_ARGS_ATTENTION_H
#define KERNELS_CUDA_ARGS_ATTENTION_H

#include "kernels/cuda/device_types.h"

enum {
    ATTEND_TILE = 32,           /* rows unpacked at once                        */
    ATTEND_PLAIN_HEADS = 8,     /* heads of a block: a warp each                */
    ATTEND_PLAIN_WIDTH = 512,   /* the widest row                               */
    ATTEND_UNIT_HEADS = 16,     /* heads of a block that uses the matrix units  */
    ATTEND_UNIT_WIDTH = 512, ATTEND_UNIT_ROUND = 448,       /* the one shape    */
    ATTEND_UNIT_SHARED = 79808, /* bytes of shared memory that it takes         */
    ATTEND_SHORT_ROWS = 16,     /* up to so many rows are cut alike             */
    ATTEND_SPLITS = 16,         /* most splits of a row                         */
    ATTEND_SPLIT_ROWS = ATTEND_SHORT_ROWS * ATTEND_SPLITS   /* most splits of a batch */
};

/* Blocks (heads, split, row). */
typedef struct {
    gpu_rows   q, heads;        /* [T][H*K]; may be the same                    */
    gpu_rows   selected;        /* int32 [T][k]; at 0: all visible              */
    gpu_ptr    sinks;           /* float [H]                                    */
    gpu_ptr    mixed;           /* float [T][splits][H][K]: what each split has */
    gpu_ptr    norm;            /* float2 [T][splits][H]: its largest logit, and the sum
                                   of exponentials over that; -inf, 0: no rows  */
    gpu_batch  batch;
    gpu_kv_row row;
    int32_t    n_heads, width, n_swa, ratio;
    int32_t    splits;          /* 1: heads are written at once                 */
    float      scale;
} attend_kernel_args;

#define CUDA_KERNELS_ATTENTION(X)                                             \
    X(attend_narrow, attend_kernel_args) X(attend_wide, attend_kernel_args)   \
    X(attend_units, attend_kernel_args) X(attend_join, attend_kernel_args)

#endif
