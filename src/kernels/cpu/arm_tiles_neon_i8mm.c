/* arm_tiles_neon_i8mm: tiles of block formats with the matrix instructions: one of
 * them multiplies eight columns of two rows by eight columns of two activations.
 * Needs ARMv8.2 with dot product and i8mm. */
#include <stddef.h>
#include "kernels/cpu/arm_tiles.h"

/* Of the pair p of activations and the pair h of rows, v[2p + h]: two activations with
 * the first row, then with the second. */
typedef struct { int32x4_t v[4]; } quad_sums;

ALWAYS_INLINE int8x16_t first_eights(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

ALWAYS_INLINE int8x16_t second_eights(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

/* A vector has eight columns of two rows. */
ALWAYS_INLINE void pack_columns(int8x16_t to[4], const int8x16_t v[QUAD])
{
    to[0] = first_eights(v[0], v[1]);
    to[1] = first_eights(v[2], v[3]);
    to[2] = second_eights(v[0], v[1]);
    to[3] = second_eights(v[2], v[3]);
}

/* An activation without a partner is its own. */
ALWAYS_INLINE void add_products(quad_sums *s, const int8x16_t w[4], const int8_t *const *x, int at, const int n)
{
    UNROLL
    for (int c = 0; c < n; c += 2) {
        const int8x16_t a = vld1q_s8(x[c] + at), b = c + 1 < n ? vld1q_s8(x[c + 1] + at) : a;
        const int8x16_t first = first_eights(a, b), second = second_eights(a, b);
        s->v[c] = vmmlaq_s32(vmmlaq_s32(s->v[c], w[0], first), w[2], second);
        s->v[c + 1] = vmmlaq_s32(vmmlaq_s32(s->v[c + 1], w[1], first), w[3], second);
    }
}

ALWAYS_INLINE int32x4_t sums_of(const quad_sums *s, int c)
{
    const int32x4_t low = s->v[c & ~1], high = s->v[c | 1];
    return c % 2 ? vuzp2q_s32(low, high) : vuzp1q_s32(low, high);
}

#include "kernels/cpu/arm_k.h"
#include "kernels/cpu/arm_k_types.h"
#include "kernels/cpu/arm_q32.h"

void cpu_kernels_neon_i8mm(cpu_kernels *k)
{
    q32_tiles(k);
    k_tiles(k);
}
