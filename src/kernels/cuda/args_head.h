/* args_head: what the kernels of head.cu take. */
#ifndef KERNELS_CUDA_ARGS_HEAD_H
#define KERNELS_CUDA_ARGS_HEAD_H

#include "kernels/cuda/device_types.h"

enum { TOP_LOGITS_SLICE = 8192, TOP_LOGITS_MOST = 1024 };    /* logits of a block; largest k */

/* A block a slice of a row (grid: slices, rows), then a block a row. */
typedef struct {
    gpu_rows logits, ids, values, norm;
    gpu_ptr  key, id;           /* uint32, int32 [rows][slices*k]: candidates by slice */
    gpu_ptr  part;              /* float2 [rows][slices]: largest, sum of exponentials */
    int32_t  k, slices;
} top_logits_kernel_args;

#define CUDA_KERNELS_HEAD(X)                                                  \
    X(top_logits_slice, top_logits_kernel_args)                               \
    X(top_logits_merge, top_logits_kernel_args)

#endif
