/* args_indexer: what the kernels of indexer.cu and indexer_top.cu take. */
#ifndef KERNELS_CUDA_ARGS_INDEXER_H
#define KERNELS_CUDA_ARGS_INDEXER_H

#include "kernels/cuda/device_types.h"

/* ---- queries as integers ---- *
 * Heads come in tiles of 8, columns in groups of 32; missing heads are zeros. A query is
 *
 *   uint32 codes[tiles][32 lanes][groups][2]     a lane's fragment b of mma_s8_k32: E2M1 codes, doubled
 *   float  scale[tiles][groups][8 heads][2]      a quarter of the group's scale; -12582912 times that
 */
enum { INDEX_HEADS_TILE = 8, INDEX_GROUP = 32, INDEX_KEYS_TILE = 16 };
#define INDEX_MAGIC 12582912.0f /* 1.5 * 2^23: added to a whole number it keeps the number in its low bits */
#define INDEX_CODES_BYTES(tiles, groups) ((uint64_t)(tiles) * INDEX_HEADS_TILE * (groups) * INDEX_GROUP)
#define INDEX_SCALE_BYTES(tiles, groups) ((uint64_t)(tiles) * INDEX_HEADS_TILE * (groups) * 8)
#define INDEX_QUERY_BYTES(tiles, groups) (INDEX_CODES_BYTES(tiles, groups) + INDEX_SCALE_BYTES(tiles, groups))

typedef struct {
    gpu_rows q;                 /* [n][n_heads*width] */
    gpu_ptr  query;             /* [n] queries        */
    int32_t  n_heads, tiles, groups;
} index_query_kernel_args;

typedef struct {
    index_query_kernel_args to; /* q is rotated and rounded in place */
    gpu_ptr  pos;               /* int32 [n]                         */
    gpu_rope rope;
} index_query_round_kernel_args;

/* A warp a tile of keys after another; grid: some blocks, rows. */
typedef struct {
    gpu_rows   q, weights, scores;
    gpu_ptr    query;           /* of q's row 0; 0: keys are met as floats */
    gpu_batch  batch;
    gpu_kv_row key;
    int32_t    first, ratio, n_heads, tiles, groups;
    float      scale;
} index_scores_kernel_args;

/* ---- the choice ---- */

enum { TOP_SLICE = 8192 };      /* scores of a block */

/* A block a slice of a row, then a block a row where there are several slices. */
typedef struct {
    gpu_rows scores, selected;
    gpu_ptr  pos;               /* int32 [n]                                   */
    gpu_ptr  key, row;          /* uint32, int32 [n][slices*k]: by slice       */
    int32_t  ratio, slices;
} top_k_kernel_args;

#define CUDA_KERNELS_INDEXER(X)                                               \
    X(index_query, index_query_kernel_args)                                   \
    X(index_query_round, index_query_round_kernel_args)                       \
    X(index_scores_full, index_scores_kernel_args)                            \
    X(index_scores_1, index_scores_kernel_args)                               \
    X(index_scores_2, index_scores_kernel_args)                               \
    X(index_scores_4, index_scores_kernel_args)                               \
    X(index_scores_8, index_scores_kernel_args)                               \
    X(index_scores_floats, index_scores_kernel_args)                          \
    X(top_k_slice, top_k_kernel_args)                                         \
    X(top_k_merge, top_k_kernel_args)

#endif
