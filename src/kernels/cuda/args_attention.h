/* args_attention: what the kernels of attention.cu take. */
#ifndef KERNELS_CUDA_ARGS_ATTENTION_H
#define KERNELS_CUDA_ARGS_ATTENTION_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_ATTENTION(X)

#endif
