/* args_weights: what the kernels of weights.cu take. */
#ifndef KERNELS_CUDA_ARGS_WEIGHTS_H
#define KERNELS_CUDA_ARGS_WEIGHTS_H

#include "kernels/cuda/device_types.h"

/* A block of threads cuts this many blocks of weights: a multiple of 16, so that its bytes are one too. */
enum { CUT_BLOCKS = 64, CUT_MOST_BYTES = 256, CUT_PLANES = 5, CUT_THREADS = 256 };

/* Blocks as they lie in a file, into their planes. Grid: blocks / CUT_BLOCKS. */
typedef struct {
    gpu_ptr from;               /* 16-byte aligned                            */
    gpu_ptr to[CUT_PLANES];     /* where plane p of the first block goes      */
    int32_t first[CUT_PLANES], len[CUT_PLANES];
    int32_t planes, block_bytes;
    int64_t blocks;
} cut_planes_args;

/* Entries of tables of experts that change between two steps. One warp. */
enum { MOVED_MOST = 12 };
typedef struct {
    gpu_ptr entry[MOVED_MOST], value[MOVED_MOST];
    int32_t n;
} move_experts_args;

#define CUDA_KERNELS_WEIGHTS(X)                                               \
    X(cut_planes, cut_planes_args) X(move_experts, move_experts_args)

#endif
