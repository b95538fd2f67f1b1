/* arm_tiles: rows of weights side by side, for the tiles of the NEON rungs. Private
 * to their files.
 *
 * A vector of 32-bit lanes holds one number of each of four rows (a quad), so that
 * after exact integer sums one conversion, two products and one addition in the
 * definition's order serve four results. There are two ways to the sums:
 *
 * - One activation: a row's block is multiplied as it lies, and the partial lanes of
 *   four rows are added crosswise (lanes_to_rows).
 * - More: 256 columns of eight rows are unpacked once into signed bytes (a panel) and
 *   meet up to four activations at a time.
 *
 * Sixteen columns of a quad are four vectors of the panel. How they lie there and
 * what multiplies them is the rung's; its file says it before it includes arm_q32.h
 * and arm_k.h:
 *
 *   quad_sums                sums of four rows with up to four activations
 *   pack_columns(to, v)      16 columns as they lie in each of four rows
 *   add_products(s, w, x, at, n)   s += 16 columns of a quad times those from `at` on of n activations
 *   sums_of(s, c)            of activation c, a row to a lane
 *
 * Bytes are multiplied as signed ones and summed in 32 bits throughout, so sums are
 * exact for every bit pattern. */
#ifndef KERNELS_CPU_ARM_TILES_H
#define KERNELS_CPU_ARM_TILES_H

#include <arm_neon.h>
#include "kernels/cpu/block_bits.h"
#include "kernels/cpu/cpu_kernels.h"
#include "quant/float_formats.h"
#include "quant/tables.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { QUAD = 4, SIDE = 8, PANEL_BATCH = 64 };  /* rows of a vector, of a panel; activations that share one */

/* ---- numbers -------------------------------------------------------------- */

/* The compiler's half type converts in one instruction, ties to even. */
static inline float half(uint16_t h)
{
    __fp16 f;
    memcpy(&f, &h, sizeof f);
    return (float)f;
}

static inline uint16_t to_half(float f)
{
    const __fp16 narrow = (__fp16)f;
    uint16_t h;
    memcpy(&h, &narrow, sizeof h);
    return h;
}

/* ---- codes ---------------------------------------------------------------- */

/* 32 codes, the first sixteen and the others. */
typedef struct { int8x16_t low, high; } codes32;

static inline codes32 signed_codes(uint8x16_t low, uint8x16_t high)
{
    return (codes32){ vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high) };
}

/* Low nibbles of 16 bytes first, then the high ones. */
static inline codes32 nibbles(const uint8_t bytes[16])
{
    const uint8x16_t x = vld1q_u8(bytes);
    return signed_codes(vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4));
}

static inline codes32 less(codes32 c, int shift)
{
    const int8x16_t s = vdupq_n_s8((int8_t)shift);
    return (codes32){ vsubq_s8(c.low, s), vsubq_s8(c.high, s) };
}

static inline codes32 looked_up(const int8_t levels[16], const uint8_t bytes[16])
{
    const int8x16_t table = vld1q_s8(levels);
    const codes32 c = nibbles(bytes);
    return (codes32){ vqtbl1q_s8(table, vreinterpretq_u8_s8(c.low)),
                      vqtbl1q_s8(table, vreinterpretq_u8_s8(c.high)) };
}

/* Byte e is 0xff where bit e of the two bytes is set. */
static inline uint8x16_t spread(uint8_t b0, uint8_t b1)
{
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    return vtstq_u8(vcombine_u8(vdup_n_u8(b0), vdup_n_u8(b1)), bit);
}

/* Bytes shifted right by a number that is no constant. */
static inline uint8x16_t shifted(uint8x16_t x, int right)
{
    return vshlq_u8(x, vdupq_n_s8((int8_t)-right));
}

static inline uint8x16_t bytes_and(uint8x16_t x, int mask)
{
    return vandq_u8(x, vdupq_n_u8((uint8_t)mask));
}

/* Sum of products of 16 and of 32 codes in four lanes. */
static inline int32x4_t dot16(int8x16_t c, const int8_t *a)
{
    return vdotq_s32(vdupq_n_s32(0), c, vld1q_s8(a));
}

static inline int32x4_t dot32(codes32 c, const int8_t *a)
{
    return vdotq_s32(dot16(c.low, a), c.high, vld1q_s8(a + 16));
}

/* ---- rows ------------------------------------------------------------------ */

/* The next rows of a tile; the last one again where there are fewer. */
static inline void rows_at(const uint8_t **row, int count, const tile_args *a, int first)
{
    for (int r = 0; r < count; r++) {
        const int at = first + r < a->rows ? first + r : a->rows - 1;
        row[r] = a->w + (uint64_t)at * a->w_stride;
    }
}

/* A quad's results that belong to rows of the tile. */
static inline void store_quad(const tile_args *a, int first, int c, float32x4_t v)
{
    float *y = a->y + (uint64_t)c * a->y_stride + (uint64_t)first, four[QUAD];
    if (first + QUAD <= a->rows) {
        vst1q_f32(y, v);
        return;
    }
    vst1q_f32(four, v);
    for (int r = 0; first + r < a->rows; r++) y[r] = four[r];
}

/* Four rows' partial sums to four sums. */
static inline int32x4_t lanes_to_rows(const int32x4_t v[QUAD])
{
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* Row r's word j becomes lane r of vector j. */
ALWAYS_INLINE void transpose4(int32x4_t v[QUAD])
{
    const int32x4_t a = vzip1q_s32(v[0], v[2]), b = vzip1q_s32(v[1], v[3]);
    const int32x4_t c = vzip2q_s32(v[0], v[2]), d = vzip2q_s32(v[1], v[3]);
    v[0] = vzip1q_s32(a, b);
    v[1] = vzip2q_s32(a, b);
    v[2] = vzip1q_s32(c, d);
    v[3] = vzip2q_s32(c, d);
}

/* Four rows' binary16 numbers, `at` bytes from where each row begins. */
ALWAYS_INLINE float32x4_t halves_at(const uint8_t *const row[QUAD], size_t at)
{
    uint16_t h[QUAD];
    UNROLL
    for (int r = 0; r < QUAD; r++) memcpy(&h[r], row[r] + at, sizeof h[r]);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h)));
}

/* ---- the parts of the rungs -------------------------------------------------- */

void cpu_tiles_neon(cpu_kernels *k);

#endif
