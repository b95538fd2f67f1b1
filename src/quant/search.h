/* search: choosing integer levels and a scale for a few values.
 *
 * The routines every searching encoder is made of: least squares over a list of
 * candidate scales. Values x and weights w >= 0 have n elements, n <= 32.
 * Arithmetic is float in the order written, so that the same input gives the
 * same bytes on every machine; a later candidate must be strictly better. */
#ifndef QUANT_SEARCH_H
#define QUANT_SEARCH_H

#include <stdint.h>

#define SEARCH_MAX 32

/* Symmetric: x ~ scale * l, l in -nmax..nmax-1. Stores shifted levels l + nmax
 * and returns the scale, which may be negative. w NULL: weights are x^2. */
float search_symmetric(int n, int nmax, const float *x, const float *w, uint8_t *shifted);

/* The same, refined by coordinate descent and with weights x^2 (Q3_K). */
float search_symmetric_descent(int n, int nmax, const float *x, uint8_t *shifted);

typedef struct {
    float first, step;      /* candidate k adds first + step*k to the top level   */
    int   steps;            /* k = 0..steps                                       */
    int   absolute;         /* the error is |.| and not its square                */
} affine_grid;

/* Affine: x ~ scale * l - offset, l in 0..nmax, scale >= 0, *offset >= 0. */
float search_affine(int n, int nmax, const float *x, const float *w, affine_grid grid,
                    uint8_t *level, float *offset);

/* Non-negative: x ~ scale * l, l in 0..nmax. For scales of scales. */
float search_positive(int n, int nmax, const float *x, const float *w, uint8_t *level);

#endif
