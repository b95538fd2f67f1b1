/* device_types: plain types that the host's C and the kernels share. */
#ifndef KERNELS_CUDA_DEVICE_TYPES_H
#define KERNELS_CUDA_DEVICE_TYPES_H

#include <stdint.h>

/* An address on the device. The host must not follow it. */
typedef uint64_t gpu_ptr;

/* Rows of floats (or I32) on the device. */
typedef struct {
    gpu_ptr at;                 /* row 0; 0: absent       */
    int64_t stride;             /* elements between rows  */
    int32_t rows, cols;
} gpu_rows;

/* Rotation of the last n_rot channels [docs/model.md 4.7]; passed by value. */
enum { GPU_MAX_ROT = 128 };
typedef struct {
    float   freq[GPU_MAX_ROT / 2];
    int32_t n_rot;
    int32_t inverse;
} gpu_rope;

/* ---- weights ---------------------------------------------------------------------- *
 * Blocks of a type are cut into planes (planes.h): plane p of a matrix holds bytes
 * first_p .. first_p+len_p-1 of its blocks, one block after another, rows after rows,
 * so that 16-byte loads are aligned. Planes follow each other in the matrix' memory,
 * each at a multiple of 256 bytes. Float types have one plane and blocks of one. */
typedef struct {
    gpu_ptr at;                 /* the matrix                                     */
    int32_t type;               /* quant_type                                     */
    int32_t matrix_rows;        /* of the whole matrix: where its planes begin    */
    int32_t row0, rows, cols;   /* the rows meant                                 */
} gpu_weight;

/* A stack of experts' matrices of one shape: expert e's lies at table[e], on the card or
 * in host memory that the card reads. */
typedef struct {
    gpu_ptr table;              /* gpu_ptr[n_experts] */
    int32_t type, rows, cols;   /* of one expert's matrix */
} gpu_experts;

/* ---- activations ------------------------------------------------------------------ *
 * Rows as integer products read them. Whatever the weight's dot_type (Q8_0, Q8_1: a
 * scale per 32; Q8_K: one per 256) the layout is one: codes, a scale per 32 numbers,
 * sums of 16 codes. Only the rule that makes them differs. */
typedef struct {
    gpu_ptr codes;              /* int8  [T][n]      16-byte aligned rows */
    gpu_ptr scale;              /* float [T][n/32]                        */
    gpu_ptr sum;                /* int16 [T][n/16]                        */
    int32_t rows, cols;
} gpu_codes;

/* ---- the rows of a step ------------------------------------------------------------ */

typedef struct {
    int32_t first, n, pos;      /* as in ops.h                            */
    int32_t now, ahead;         /* of its compressor states               */
    int32_t pad;
    gpu_ptr blocks[2];          /* int32: block tables of ratio 4 and 128 */
} gpu_segment;

/* One session's memory of one layer. */
typedef struct {
    gpu_ptr ring, pool, index_pool;
    gpu_ptr value[2][2], score[2][2];   /* [main, index][copy] F32 */
    int32_t ring_rows, block_rows;
    int32_t state_rows[2];              /* main, index             */
} gpu_kv_layer;

typedef struct {
    gpu_ptr pos, token, segment_of;     /* int32 [n]                                            */
    gpu_ptr segment;                    /* gpu_segment [n_segments]                             */
    gpu_ptr layer;                      /* gpu_kv_layer of this op's layer; segment s's is      */
    int32_t layer_step;                 /* layer_step records further on                        */
    int32_t n, n_segments;
} gpu_batch;

/* How a row of session memory is stored: kv_row.h, with its sizes worked out. */
typedef struct {
    int32_t kind;                       /* kv_row_kind               */
    int32_t width, n_round;
    int32_t bytes, scales, tail;        /* of a row; offsets in it   */
} gpu_kv_row;

#endif
