/* args_kv: what the kernels of kv.cu take. */
#ifndef KERNELS_CUDA_ARGS_KV_H
#define KERNELS_CUDA_ARGS_KV_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_KV(X)

#endif
