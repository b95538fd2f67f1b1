/* args_weights: what the kernels of weights.cu take. */
#ifndef KERNELS_CUDA_ARGS_WEIGHTS_H
#define KERNELS_CUDA_ARGS_WEIGHTS_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_WEIGHTS(X)

#endif
