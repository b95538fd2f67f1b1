/* args_rows: what the kernels of rows.cu, rows_embed.cu and rows_hc.cu take.
 *
 * wide: rows begin at multiples of 16 bytes and have whole groups of four numbers. */
#ifndef KERNELS_CUDA_ARGS_ROWS_H
#define KERNELS_CUDA_ARGS_ROWS_H

#include "kernels/cuda/args_matmul.h"
#include "kernels/cuda/planes.h"

/* One block a row. */
typedef struct {
    gpu_rows x, y;
    gpu_ptr  weight;            /* float [cols]; 0: ones */
    gpu_codes by_32, by_256;    /* y once more; codes at 0: not made */
    float    eps;
    int32_t  wide;
} rms_norm_kernel_args;

/* y = f(a, b), a thread an element or four; grid: parts of a row, rows. */
typedef struct {
    gpu_rows a, b, y;
    float    limit;
    int32_t  wide;
} pair_kernel_args;

/* The rows of tokens `token`, in a table of plain rows as in the file. */
typedef struct {
    gpu_ptr  table, token;      /* bytes; int32 [T] */
    int64_t  row_bytes;
    gpu_rows streams;           /* rows meant: T    */
    int32_t  cols, n_streams;
    int32_t  type;
    gpu_ptr  cut;               /* types with blocks: these rows' planes       */
} embed_kernel_args;

/* Blocks of rows as in the file to planes. grid: rows. */
typedef struct {
    gpu_ptr  table, token;
    int64_t  row_bytes;
    gpu_ptr  plane[PLANES_MAX]; /* of all rows of the grid                     */
    int32_t  first[PLANES_MAX], len[PLANES_MAX];
    int32_t  planes, blocks, block_bytes;       /* blocks: of a row            */
} embed_cut_kernel_args;

/* Sums of slices of a row of all streams with the rows of fn; its sum of squares is one more.
 * grid: slices, groups of rows. */
typedef struct {
    gpu_rows streams;
    gpu_ptr  fn;                /* [n_mix][cols]                     */
    int64_t  fn_stride;         /* elements                          */
    int32_t  fn_type, n_mix;
    gpu_ptr  part;              /* float [T][n_mix + 1][slices]      */
    int32_t  slice, slices;     /* columns of a slice; how many      */
} hc_sums_kernel_args;

/* grid: rows, then 1 for x and y alone or 2 for post and comb as well. */
typedef struct {
    gpu_rows streams, x, post, comb;
    gpu_rows y;                 /* the norm of x; at 0: none         */
    gpu_codes by_32, by_256;    /* y once more; codes at 0: not made */
    gpu_ptr  base, scale;       /* float [n_mix], [3] or [1]         */
    gpu_ptr  weight;            /* of the norm; 0: ones              */
    gpu_ptr  part;
    float    eps, hc_eps, norm_eps;
    int32_t  n_streams, n_iterations, n_mix, slices;
    int32_t  wide;
} hc_mix_kernel_args;

typedef struct {
    gpu_rows y, streams, post, comb;
    int32_t  n_streams, wide;
} hc_expand_kernel_args;

enum { HC_MAX_STREAMS = 8 };

/* The expansion of 4 streams and the next mix' sums over them: slices are HC_BOTH_CHANNELS channels of all
 * streams. Wide rows, float rows of fn too. Grid: slices, some of the rows. */
enum { HC_BOTH_STREAMS = 4, HC_BOTH_CHANNELS = 32, HC_BOTH_ROWS = 4 };
typedef struct {
    hc_expand_kernel_args expand;
    hc_sums_kernel_args   sums;
} hc_both_kernel_args;

/* Tables of blocks. */
#define EMBED_TYPES(M, X) MATMUL_TUNED(M, X) MATMUL_GENERAL(M, X)
#define EMBED_KERNEL_ID(X, type) X(embed_##type, embed_kernel_args)

#define CUDA_KERNELS_ROWS(X)                                                  \
    EMBED_TYPES(EMBED_KERNEL_ID, X)                                           \
    X(embed_cut, embed_cut_kernel_args)                                       \
    X(rms_norm, rms_norm_kernel_args)                                         \
    X(swiglu, pair_kernel_args)                                               \
    X(add, pair_kernel_args)                                                  \
    X(embed_floats, embed_kernel_args)                                        \
    X(hc_sums_1, hc_sums_kernel_args)                                         \
    X(hc_sums_8, hc_sums_kernel_args)                                         \
    X(hc_sums_any, hc_sums_kernel_args)                                       \
    X(hc_mix, hc_mix_kernel_args)                                             \
    X(hc_expand, hc_expand_kernel_args)                                       \
    X(hc_expand_sums, hc_both_kernel_args)

#endif
