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

enum { ATTN_TILE = 32 };

/* Floats from one row of a tile to the next: rows 2 KiB apart would share few sets
 * of a first-level cache, so there is a gap. */
static inline int attn_row_stride(int K) { return ((K + 15) & ~15) + 16; }

typedef struct {
    /* kv_row_unpack, to the bit. */
    void (*unpack)(kv_row r, float *restrict y, const void *restrict row);

    /* s[h][r] = q_h . row_r for the tile's first n_rows rows; s is [n_heads][ATTN_TILE],
     * q [n_heads][K], rows attn_row_stride(K) apart. */
    void (*scores)(float *restrict s, const float *restrict q, int n_heads, const float *restrict rows, int n_rows, int K);

    /* Takes a tile's scores into the softmax of each head: s becomes exp(scale*s - top)
     * with the new maximum top, sum their running sum, and keep what everything
     * summed before must be multiplied by. What lies behind s[h][n_rows] is scratch. */
    void (*weigh)(float *restrict s, int n_heads, int n_rows, float scale, float *restrict top, float *restrict sum,
                  float *restrict keep);

    /* acc_h = keep_h * acc_h + sum_r s[h][r] * row_r; acc is [n_heads][K]. */
    void (*mix)(float *restrict acc, const float *restrict keep, const float *restrict s, int n_heads,
                const float *restrict rows, int n_rows, int K);

    /* y = a * x */
    void (*scale)(float *y, float a, const float *x, int n);    /* y may be x */
} attn_kernels;

void attn_kernels_ref(attn_kernels *k);
void attn_kernels_avx2(attn_kernels *k);
void attn_kernels_avx512(attn_kernels *k);

#endif
