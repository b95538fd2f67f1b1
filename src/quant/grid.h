/* grid: finding the codebook entry for a point (IQ1, IQ2, IQ3 encoders).
 *
 * A point has eight coordinates of levels 0..2, or four of levels 0..7. Points
 * that are no entry have a list of near entries, worked out once per codebook
 * at its first use (tens of milliseconds) and immutable afterwards: the only
 * mutable state of this module. Any thread. */
#ifndef QUANT_GRID_H
#define QUANT_GRID_H

#include <stdint.h>

typedef struct {
    int             n;              /* entries                                         */
    int             width;          /* coordinates: 8 or 4                             */
    int             top;            /* largest level: 2 or 7                           */
    const float    *q;              /* [n][width] coordinates for searching, 2*level+1 */
    const int32_t  *slot;           /* by point number: entry, or ~(start in near)     */
    const uint16_t *near;           /* lists: count, then entries, nearest first       */
} quant_grid;

const quant_grid *grid_iq2_xxs(void);
const quant_grid *grid_iq2_xs(void);
const quant_grid *grid_iq2_s(void);
const quant_grid *grid_iq1_s(void);
const quant_grid *grid_iq3_xxs(void);
const quant_grid *grid_iq3_s(void);

/* Level of coordinate j of an entry. */
static inline int grid_level(const quant_grid *g, int entry, int j)
{
    return (int)g->q[entry * g->width + j] >> 1;
}

/* The number of a point, its levels the digits of it (base top + 1). */
int grid_point(const quant_grid *g, const int *level);

/* The entry for x ~ s*q with id = 1/s: that of the nearest point if it is one,
 * else of the near ones the entry with the least sum a*(s*q - x)^2. */
int grid_snap(const quant_grid *g, const float *x, const float *a, float s, float id, int *on_grid);

#endif
