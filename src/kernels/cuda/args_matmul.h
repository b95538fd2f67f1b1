/* args_matmul: what the kernels of matmul.cu take. */
#ifndef KERNELS_CUDA_ARGS_MATMUL_H
#define KERNELS_CUDA_ARGS_MATMUL_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_MATMUL(X)

#endif
