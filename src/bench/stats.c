#include "bench/stats.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double stats_percentile(const double *sorted, int n, double share)
{
    const double at = share * (n - 1);
    const int below = (int)at;
    if (below + 1 >= n) return sorted[n - 1];
    return sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]);
}

/* |x - centre| of sorted x in ascending order is a merge of two runs that start
 * at the centre; its median is what is wanted, so half of the merge is enough. */
static double median_deviation(const double *sorted, int n, double centre)
{
    int right = 0;
    while (right < n && sorted[right] < centre) right++;
    int left = right - 1;
    double now = 0, before = 0;
    for (int taken = 0; taken <= n / 2; taken++) {
        const double down = left >= 0 ? centre - sorted[left] : INFINITY;
        const double up = right < n ? sorted[right] - centre : INFINITY;
        before = now;
        if (down <= up) now = down, left--;
        else            now = up, right++;
    }
    return n % 2 ? now : (before + now) / 2;
}

/* The k-th smallest and k-th largest enclose the median unless k or more values
 * of n fall on one side beyond them: 1 - 2 * P(Binomial(n, 1/2) < k). */
static int rank_of_interval(int n)
{
    double term = pow(0.5, n), below = 0;
    int k = 0;
    while (k < n / 2 && below + term <= 0.025) {
        below += term;
        k++;
        term *= (double)(n - k + 1) / k;
    }
    return k;
}

void stats_of(double *x, int n, stats *out)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    const double p50 = stats_percentile(x, n, 0.5);
    const int k = max_int(rank_of_interval(n), 1);
    *out = (stats){ .n = n, .p50 = p50, .p10 = stats_percentile(x, n, 0.1), .p90 = stats_percentile(x, n, 0.9),
                    .min = x[0], .max = x[n - 1], .mad = median_deviation(x, n, p50),
                    .ci_low = x[k - 1], .ci_high = x[n - k] };
}

bool stats_settled(const stats *s, double share)
{
    return s->n > 1 && s->ci_high - s->p50 < share * s->p50 && s->p50 - s->ci_low < share * s->p50;
}

double stats_mean_deviation(const double *x, int n, double centre)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += fabs(x[i] - centre);
    return sum / n;
}

bool stats_outlier(const stats *s, double mean_dev, double x)
{
    const double away = fabs(x - s->p50);
    if (s->mad > 0) return 0.6745 * away / s->mad > 3.5;
    return mean_dev > 0 && away / (1.253314 * mean_dev) > 3.5;
}
