/* stats: what a handful of measurements says, without believing it too much.
 *
 * Medians and ranks only: a stall of the machine moves a mean and hardly a
 * median. Nothing is ever dropped; outliers are named. Any thread. */
#ifndef BENCH_STATS_H
#define BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    int    n;
    double p50, p10, p90, min, max;
    double mad;                 /* median of |x - p50|                             */
    double ci_low, ci_high;     /* of the median, at least 95 % where n allows it
                                   (n >= 6), else the whole range                  */
} stats;

/* Sorts x. n >= 1. */
void   stats_of(double *x, int n, stats *out);

/* Between the two nearest ranks of sorted x (0 <= share <= 1), n >= 1. */
double stats_percentile(const double *sorted, int n, double share);

/* The median is known to within `share` of itself on both sides. */
bool   stats_settled(const stats *s, double share);

/* Modified z-score above 3.5 (Iglewicz & Hoaglin 1993). mean_dev is the mean of
 * |x - p50|, which takes over where more than half of the values are equal. */
bool   stats_outlier(const stats *s, double mean_dev, double x);
double stats_mean_deviation(const double *x, int n, double centre);

#endif
