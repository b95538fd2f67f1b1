#include "base/histogram.h"

void histogram_init(histogram *h, const double *bounds, int n)
{
    h->bounds = bounds;
    h->n = n < HISTOGRAM_MAX_BOUNDS ? n : HISTOGRAM_MAX_BOUNDS;
    for (int i = 0; i <= HISTOGRAM_MAX_BOUNDS; i++) atomic_init(&h->count[i], 0);
    atomic_init(&h->sum_millionths, 0);
}

void histogram_add(histogram *h, double value)
{
    if (!(value >= 0)) return;
    int i = 0;
    while (i < h->n && value > h->bounds[i]) i++;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_millionths, (uint64_t)(value * 1e6 + 0.5), memory_order_relaxed);
}

uint64_t histogram_below(const histogram *h, int i)
{
    uint64_t sum = 0;
    for (int k = 0; k <= i && k <= h->n; k++) sum += atomic_load_explicit(&h->count[k], memory_order_relaxed);
    return sum;
}

double histogram_sum(const histogram *h)
{
    return (double)atomic_load_explicit(&h->sum_millionths, memory_order_relaxed) / 1e6;
}
