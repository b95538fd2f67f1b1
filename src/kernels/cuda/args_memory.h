/* args_memory: what the kernel of memory.cu takes. */
#ifndef KERNELS_CUDA_ARGS_MEMORY_H
#define KERNELS_CUDA_ARGS_MEMORY_H

#include "kernels/cuda/device_types.h"

enum { READ_THREADS = 512, READ_BLOCKS_PER_SM = 4 };

/* Reads n pieces of 16 bytes at `from`. Any grid. */
typedef struct {
    gpu_ptr  from;
    gpu_ptr  sum;               /* where a sum goes that memory filled with zeros does not have */
    int64_t  n;
} read_memory_args;

#define CUDA_KERNELS_MEMORY(X) X(read_memory, read_memory_args)

#endif
