/* args_head: what the kernels of head.cu take. */
#ifndef KERNELS_CUDA_ARGS_HEAD_H
#define KERNELS_CUDA_ARGS_HEAD_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_HEAD(X)

#endif
