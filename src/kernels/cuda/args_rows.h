/* args_rows: what the kernels of rows.cu take. */
#ifndef KERNELS_CUDA_ARGS_ROWS_H
#define KERNELS_CUDA_ARGS_ROWS_H

#include "kernels/cuda/device_types.h"

/* One block a row. */
typedef struct {
    gpu_rows x, y;
    gpu_ptr  weight;            /* float [cols]; 0: ones */
    float    eps;
} rms_norm_kernel_args;

#define CUDA_KERNELS_ROWS(X)                                                  \
    X(rms_norm, rms_norm_kernel_args)

#endif
