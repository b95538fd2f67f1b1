/* histogram: how often values fell below given bounds, as Prometheus counts them.
 *
 * Bounds are borrowed and ascending. Adding and reading: any thread, without locks; a reader may see
 * a value's bucket before its sum. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_MAX_BOUNDS 52

typedef struct {
    const double    *bounds;
    int              n;
    _Atomic uint64_t count[HISTOGRAM_MAX_BOUNDS + 1];   /* of its own bucket; the last: above all bounds */
    _Atomic uint64_t sum_millionths;
} histogram;

void     histogram_init(histogram *h, const double *bounds, int n);
void     histogram_add(histogram *h, double value);     /* >= 0 */
uint64_t histogram_below(const histogram *h, int i);    /* values <= bounds[i]; i == n: all */
double   histogram_sum(const histogram *h);

#endif
