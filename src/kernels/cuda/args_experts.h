/* args_experts: what the kernels of experts.cu take. */
#ifndef KERNELS_CUDA_ARGS_EXPERTS_H
#define KERNELS_CUDA_ARGS_EXPERTS_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_EXPERTS(X)

#endif
