/* float_tiles: tiles of rows of floats, for any rung that has products_NAME(y, w, x, count, n): one row of
 * weights with `count` activations, 1 to 3, in an order of additions that does not depend on count. */
#ifndef KERNELS_CPU_FLOAT_TILES_H
#define KERNELS_CPU_FLOAT_TILES_H

#include "kernels/cpu/cpu_kernels.h"

#define FLOAT_TILE(name, type)                                                                      \
    static float dot_row_##name(const void *restrict w, const void *restrict x, int n)              \
    {                                                                                               \
        const float *one = x;                                                                       \
        float y;                                                                                    \
        products_##name(&y, w, &one, 1, n);                                                         \
        return y;                                                                                   \
    }                                                                                               \
    static void tile_##name(const cpu_kernels *kernels, const tile_args *a)                         \
    {                                                                                               \
        (void)kernels;                                                                              \
        for (int r = 0; r < a->rows; r++) {                                                         \
            const type *w = (const type *)(const void *)(a->w + (uint64_t)r * a->w_stride);         \
            const float *const *x = (const float *const *)(const void *)a->x;                       \
            float y[3];                                                                             \
            for (int c = 0; c < a->batch; c += 3) {                                                 \
                const int count = a->batch - c < 3 ? a->batch - c : 3;                              \
                if (count == 3) products_##name(y, w, x + c, 3, a->n);                              \
                if (count == 2) products_##name(y, w, x + c, 2, a->n);                              \
                if (count == 1) products_##name(y, w, x + c, 1, a->n);                              \
                for (int i = 0; i < count; i++) a->y[(uint64_t)(c + i) * a->y_stride + (uint64_t)r] = y[i]; \
            }                                                                                       \
        }                                                                                           \
    }

#endif
