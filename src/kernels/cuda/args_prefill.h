/* args_prefill: what the kernels of prefill.cu take. */
#ifndef KERNELS_CUDA_ARGS_PREFILL_H
#define KERNELS_CUDA_ARGS_PREFILL_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_PREFILL(X)

#endif
