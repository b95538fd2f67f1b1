/* attn_kernels: the inner loops of attention and of the indexer, a part of the
 * table of cpu_kernels.
 *
 * Attention meets stored rows in tiles: ATTN_TILE rows are unpacked once into
 * floats and used by many heads, in prefill by several queries too. Softmax goes
 * tile by tile with a running maximum (Milakov & Gimelshein 2018), so that a row is
 * unpacked once. Every number of a head's result comes from a chain of operations
 * that depends on that head's query and on its rows alone, never on how many
 * heads or rows share a call.
 *
 * ref.c's side is the definition, in double. Other rungs differ from it in the
 * order of float additions and by an exponential within 2 ulp. Any thread. */
#ifndef KERNELS_CPU_ATTN_KERNELS_H
#define KERNELS_CPU_ATTN_KERNELS_H

#include "kernels/kv_row.h"

enum { ATTN_TILE = 32, INDEX_TILE = 64 };

/* Floats from one row of a tile to the next: rows 2 KiB apart would share few sets
 * of a first-level cache, so there is a gap. */
static inline int attn_row_stride(int K) { return ((K + 15) & ~15) + 16; }

/* ---- the indexer's numbers as integers ----
 * An E2M1 code doubled is one of 0 1 2 3 4 6 8 12 or its negative, so the dot product of
 * a group of 32 is exact in integers and its scale a power of two. */

/* A query whose heads ROUND_HADAMARD_FP4 went over. */
typedef struct {
    int      n_heads, width, groups;    /* groups of a head: width / 32                */
    int8_t  *codes;                     /* [n_heads][width], doubled                   */
    float   *scale;                     /* [n_heads][groups], a quarter of the group's */
    int32_t *start;                     /* [n_heads][groups] -12 * sum of the codes    */
    float   *weight;                    /* [n_heads]                                   */
} index_query;

/* Up to INDEX_TILE packed rows, 16 of them side by side in the lanes of a register:
 * number i of row 16b + j is byte ((b * width/4 + i/4) * 16 + j) * 4 + i%4, doubled
 * and 12 added, so that it is not negative; its group's scale is at (b * groups + i/32)
 * * 16 + j. Rows that fill up the last 16 are zeros of scale 0. */
typedef struct {
    uint8_t *codes;                     /* [INDEX_TILE][width], 64-byte aligned        */
    float   *scale;                     /* [INDEX_TILE][groups]                        */
} index_keys;

typedef struct {
    /* Rounds one row as it will be stored [docs/model.md 4.12]: FP8 the first n_round
     * numbers, FP4 all of them after the Hadamard transform. To the bit. */
    void (*round)(kv_row r, float *x);

    /* kv_row_unpack, to the bit. */
    void (*unpack)(kv_row r, float *restrict y, const void *restrict row);

    /* s[h][r] = q_h . row_r for the tile's first n_rows rows; s is [n_heads][ATTN_TILE],
     * q [n_heads][K], rows attn_row_stride(K) apart. */
    void (*scores)(float *restrict s, const float *restrict q, int n_heads, const float *restrict rows, int n_rows,
                   int K);

    /* Takes a tile's scores into the softmax of each head: s becomes exp(scale*s - top)
     * with the new maximum top, sum their running sum, and keep what everything
     * summed before must be multiplied by. What lies behind s[h][n_rows] is scratch. */
    void (*weigh)(float *restrict s, int n_heads, int n_rows, float scale, float *restrict top, float *restrict sum,
                  float *restrict keep);

    /* acc_h = keep_h * acc_h + sum_r s[h][r] * row_r; acc is [n_heads][K]. */
    void (*mix)(float *restrict acc, const float *restrict keep, const float *restrict s, int n_heads,
                const float *restrict rows, int n_rows, int K);

    /* z[c] = sum_i softmax_i(score[i][c]) * value[i][c]: the compressor's pooling of n
     * tokens, a softmax for each of d channels [docs/model.md 4.8]. Near. */
    void (*pool)(float *restrict z, const float *const *value, const float *const *score, int n, int d);

    /* A query's integers from floats that `round` left. To the bit. */
    void (*index_fill)(const index_query *q, const float *x, const float *weights, float scale);

    /* Packed FP4 rows, `stride` bytes apart, width a multiple of 32; n <= INDEX_TILE. */
    void (*index_unpack)(const index_keys *to, kv_row r, const uint8_t *rows, uint64_t stride, int n);

    /* score[k] = sum_h weight[h] * max(0, q_h . key k) for the first n keys, in floats:
     * q_h . k adds its groups' exact products in order, the sum its heads. No fused
     * operations: all rungs give the same bits. */
    void (*index_scores)(float *restrict score, const index_query *q, const index_keys *keys, int n);

    /* index = the numbers i in first .. end-1 with x[i] > least, ascending; says how many.
     * index has room for end - first. */
    int  (*above)(int32_t *restrict index, const float *restrict x, int first, int end, float least);

    /* y = a * x */
    void (*scale)(float *y, float a, const float *x, int n);    /* y may be x */
} attn_kernels;

/* Where they lie in a piece of memory, 64-byte aligned and so long. */
uint64_t index_query_bytes(int n_heads, int width);
uint64_t index_keys_bytes(int width);
index_query index_query_at(void *memory, int n_heads, int width);
index_keys  index_keys_at(void *memory, int width);

/* The definition of `round`, for rows that a rung has no way for. */
void attn_round(kv_row r, float *x);

void attn_kernels_ref(attn_kernels *k);
void attn_kernels_avx2(attn_kernels *k);
void attn_kernels_avx512(attn_kernels *k);
void attn_kernels_neon(attn_kernels *k);
void index_kernels_avx2(attn_kernels *k);
void index_kernels_avx512(attn_kernels *k);

#endif
