#include "engine/server_metrics.h"

#include <string.h>

static const double latency[] = { 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280 };
static const double per_token[] = { 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5 };
static const double sizes[] = { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6 };

/* A factor of 2^(1/3) from 1 ms to 131 s. */
#define OCTAVE(x) (x), (x) * 1.2599210498948732, (x) * 1.5874010519681994
static const double narrow[] = {
    OCTAVE(0.001), OCTAVE(0.002), OCTAVE(0.004), OCTAVE(0.008), OCTAVE(0.016), OCTAVE(0.032), OCTAVE(0.064),
    OCTAVE(0.128), OCTAVE(0.256), OCTAVE(0.512), OCTAVE(1.024), OCTAVE(2.048), OCTAVE(4.096), OCTAVE(8.192),
    OCTAVE(16.384), OCTAVE(32.768), OCTAVE(65.536),
    131.072,
};

#define COUNT(list) ((int)(sizeof list / sizeof list[0]))
#define BOUNDS(h, list) histogram_init(h, list, COUNT(list))

_Static_assert(COUNT(narrow) <= HISTOGRAM_MAX_BOUNDS, "all bounds have a bucket");

static void timing_init(timing *t, const double *usual, int n)
{
    histogram_init(&t->usual, usual, n);
    BOUNDS(&t->narrow, narrow);
}

void timing_add(timing *t, double seconds)
{
    histogram_add(&t->usual, seconds);
    histogram_add(&t->narrow, seconds);
}

void server_metrics_init(server_metrics *m)
{
    memset(m, 0, sizeof *m);
    timing *const requests[] = { &m->ttft, &m->e2e, &m->queue, &m->prefill, &m->decode };
    for (int i = 0; i < COUNT(requests); i++) timing_init(requests[i], latency, COUNT(latency));
    timing_init(&m->inter_token, per_token, COUNT(per_token));
    timing_init(&m->per_output_token, per_token, COUNT(per_token));
    for (int i = 0; i < METRIC_SAVE_REASONS; i++) BOUNDS(&m->kv_save[i], latency);
    BOUNDS(&m->kv_load, latency);
    BOUNDS(&m->prompt_sizes, sizes);
    BOUNDS(&m->generation_sizes, sizes);
}
