/* kv_row: how one row of a session's memory is stored [docs/model.md 4.12].
 *
 * A row that the trained rounding went over holds few distinct numbers, so it is
 * kept as their codes. width numbers, all scales powers of two 2^(byte - 127):
 *
 *   KV_ROW_F32   f32[width]
 *   KV_ROW_FP8   e4m3[n_round] | scale of each 64 of them | zeros up to 8 bytes
 *                | f16[width - n_round], the rotary tail | zeros up to 8 bytes
 *   KV_ROW_FP4   e2m1[width], two to a byte | scale of each 32 of them
 *
 * In a group of 32 E2M1 codes, byte i holds number i (low four bits) and number
 * i + 16. The last group of an FP8 row may be short; an FP4 row narrower than 32
 * is one group, cut in half alike.
 *
 * Example: width 512, n_round 448 takes 448 + 7 + 1 + 128 = 584 bytes; an
 * indexer row of width 128 takes 64 + 4 = 68.
 *
 * What is lossless: packing numbers that ROUND_FP8 or ROUND_HADAMARD_FP4 left
 * (kv_round) and unpacking them gives the same numbers, to the bit. The tail is
 * rounded to F16, which is finer than the bf16 that the model was trained with.
 * Numbers that were not rounded before are rounded by packing.
 *
 * The functions here are the definition for all backends and for files. They are
 * total: any bytes unpack to something, any floats pack to something. */
#ifndef KERNELS_KV_ROW_H
#define KERNELS_KV_ROW_H

#include <stdint.h>

typedef enum { KV_ROW_F32, KV_ROW_FP8, KV_ROW_FP4 } kv_row_kind;

typedef struct {
    kv_row_kind kind;
    int         width;          /* numbers; FP4: a power of two           */
    int         n_round;        /* FP8: so many in front have codes       */
} kv_row;

enum { KV_FP8_GROUP = 64, KV_FP4_GROUP = 32 };

static inline int kv_row_fp4_group(kv_row r) { return r.width < KV_FP4_GROUP ? r.width : KV_FP4_GROUP; }

/* Byte offsets within a row. */
static inline int kv_row_scales(kv_row r) { return r.kind == KV_ROW_FP8 ? r.n_round : r.width / 2; }
static inline int kv_row_tail(kv_row r)
{
    return (r.n_round + (r.n_round + KV_FP8_GROUP - 1) / KV_FP8_GROUP + 7) & ~7;
}

static inline int kv_row_bytes(kv_row r)
{
    return r.kind == KV_ROW_FP8 ? (kv_row_tail(r) + 2 * (r.width - r.n_round) + 7) & ~7
         : r.kind == KV_ROW_FP4 ? r.width / 2 + r.width / kv_row_fp4_group(r)
         : r.width * 4;
}

void  kv_row_pack(kv_row r, void *restrict to, const float *restrict x);
void  kv_row_unpack(kv_row r, float *restrict y, const void *restrict from);

/* Distance of number i of a stored row to the next one its format knows; 0 for F32. */
float kv_row_step(kv_row r, const void *row, int i);

#endif
