/* args_prefill: what the kernels of prefill*.cu take.
 *
 * A block works out some rows of a matrix for PREFILL_TOKENS rows of activations, which are called
 * tokens here whatever they are. */
#ifndef KERNELS_CUDA_ARGS_PREFILL_H
#define KERNELS_CUDA_ARGS_PREFILL_H

#include "kernels/cuda/args_experts.h"
#include "kernels/cuda/device_types.h"

enum {
    PREFILL_THREADS = 128, PREFILL_BLOCKS = 3,      /* of a multiprocessor: 168 registers a thread */
    PREFILL_ROWS = 16 * PREFILL_THREADS / 32,
    PREFILL_TOKENS = 64,
    PREFILL_UP_ROWS = PREFILL_ROWS / 2      /* of gate and of up each */
};

/* y = w x. Grid: tiles of tokens, tiles of rows, splits of split_cols columns (a multiple of 256), the sum of each
 * split_step numbers behind that of the one before. */
typedef struct {
    gpu_weight w;
    gpu_codes  x;
    gpu_rows   y;
    int32_t    split_cols, split_step;
} prefill_args;

/* The same for float weights, from floats. */
typedef struct {
    gpu_weight w;
    gpu_rows   x, y;
    int32_t    split_cols, split_step;
} prefill_float_args;

/* Tiles of PREFILL_TOKENS pairs that meet the same expert; expert e's begin at
 * groups.first[e] / PREFILL_TOKENS + e, so that no two experts share one, whatever the others have, and
 * n_pairs / PREFILL_TOKENS + n_experts are enough. */

/* mid[pair] = weight * swiglu(gate x, up x). Grid: tiles of pairs, tiles of PREFILL_UP_ROWS rows. */
typedef struct {
    gpu_experts gate, up;
    gpu_codes   x;
    gpu_rows    weights, mid;
    gpu_groups  groups;
    float       limit;
} prefill_up_args;

/* part[pair][c] = row row0 + c of down[expert] times mid[pair]. Grid: tiles of pairs, tiles of rows. */
typedef struct {
    gpu_experts down;
    gpu_codes   mid;
    gpu_rows    part;
    gpu_groups  groups;
    int32_t     row0;
} prefill_down_args;

/* y[t][c] = sum over slots, in their order, of part[t*used + slot][c]: of a row's experts, or of splits. Grid:
 * columns by threads, rows. */
enum { PREFILL_SUM_THREADS = 256 };
typedef struct {
    gpu_rows part, y;
    int32_t  used;
} prefill_sum_args;

/* Weight types with kernels of their own. The others with blocks share the `general` ones, whose blocks have
 * PREFILL_GENERAL_BYTES of dynamic shared memory. */
#define PREFILL_TYPES(X, list) X(q8_0, list) X(q2_k, list) X(q4_k, list) X(iq2_xxs, list)
#define PREFILL_KERNELS_OF(name, X)                                           \
    X(prefill_##name, prefill_args) X(prefill_up_##name, prefill_up_args) X(prefill_down_##name, prefill_down_args)
enum { PREFILL_GENERAL_BYTES = 53008 };

#define CUDA_KERNELS_PREFILL(X)                                               \
    PREFILL_TYPES(PREFILL_KERNELS_OF, X) PREFILL_KERNELS_OF(general, X)       \
    X(prefill_f32, prefill_float_args) X(prefill_f16, prefill_float_args) X(prefill_bf16, prefill_float_args) \
    X(prefill_sum, prefill_sum_args)

#endif
