/* args_indexer: what the kernels of indexer.cu take. */
#ifndef KERNELS_CUDA_ARGS_INDEXER_H
#define KERNELS_CUDA_ARGS_INDEXER_H

#include "kernels/cuda/device_types.h"

#define CUDA_KERNELS_INDEXER(X)

#endif
