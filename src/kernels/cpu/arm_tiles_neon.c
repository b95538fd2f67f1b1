/* arm_tiles_neon: tiles of block formats with the dot product instructions: one of
 * them multiplies four columns of four rows by four columns of an activation. */
#include <stddef.h>
#include "kernels/cpu/arm_tiles.h"

/* A vector for each activation. */
typedef struct { int32x4_t v[4]; } quad_sums;

/* A vector has four columns of each row. */
ALWAYS_INLINE void pack_columns(int8x16_t to[4], const int8x16_t v[QUAD])
{
    int32x4_t word[QUAD];
    UNROLL
    for (int r = 0; r < QUAD; r++) word[r] = vreinterpretq_s32_s8(v[r]);
    transpose4(word);
    UNROLL
    for (int j = 0; j < 4; j++) to[j] = vreinterpretq_s8_s32(word[j]);
}

ALWAYS_INLINE void add_products(quad_sums *s, const int8x16_t w[4], const int8_t *const *x, int at, const int n)
{
    UNROLL
    for (int c = 0; c < n; c++) {
        const int8x16_t a = vld1q_s8(x[c] + at);
        s->v[c] = vdotq_laneq_s32(s->v[c], w[0], a, 0);
        s->v[c] = vdotq_laneq_s32(s->v[c], w[1], a, 1);
        s->v[c] = vdotq_laneq_s32(s->v[c], w[2], a, 2);
        s->v[c] = vdotq_laneq_s32(s->v[c], w[3], a, 3);
    }
}

ALWAYS_INLINE int32x4_t sums_of(const quad_sums *s, int c) { return s->v[c]; }

#include "kernels/cpu/arm_k.h"
#include "kernels/cpu/arm_k_types.h"
#include "kernels/cpu/arm_q32.h"

void cpu_tiles_neon(cpu_kernels *k)
{
    q32_tiles(k);
    k_tiles(k);
}
