/* kernels: the list of all kernels, and how one is declared.
 *
 * Every kernel takes one plain struct by value and is named in the list of its
 * family's header as X(name, args). The lists are the only place that knows all
 * kernels: ids, the driver's look-up by name and the lane runner's table come of
 * them. Plain C11 and CUDA alike; addresses are gpu_ptr. */
#ifndef KERNELS_CUDA_KERNELS_H
#define KERNELS_CUDA_KERNELS_H

#include "kernels/cuda/args_attention.h"
#include "kernels/cuda/args_experts.h"
#include "kernels/cuda/args_head.h"
#include "kernels/cuda/args_indexer.h"
#include "kernels/cuda/args_kv.h"
#include "kernels/cuda/args_matmul.h"
#include "kernels/cuda/args_memory.h"
#include "kernels/cuda/args_prefill.h"
#include "kernels/cuda/args_rows.h"
#include "kernels/cuda/args_weights.h"

#define CUDA_KERNELS(X)                                                       \
    CUDA_KERNELS_ROWS(X) CUDA_KERNELS_MATMUL(X) CUDA_KERNELS_PREFILL(X)       \
    CUDA_KERNELS_EXPERTS(X) CUDA_KERNELS_KV(X) CUDA_KERNELS_INDEXER(X)        \
    CUDA_KERNELS_ATTENTION(X) CUDA_KERNELS_HEAD(X) CUDA_KERNELS_WEIGHTS(X)    \
    CUDA_KERNELS_MEMORY(X)

#define CUDA_KERNEL_ID(name, args) CUDA_##name,
typedef enum { CUDA_KERNELS(CUDA_KERNEL_ID) CUDA_KERNEL_COUNT } cuda_kernel_id;

#endif
