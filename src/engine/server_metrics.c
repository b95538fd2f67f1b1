#include "engine/server_metrics.h"

#include <string.h>

static const double latency[] = { 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280 };
static const double per_token[] = { 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5 };
static const double sizes[] = { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6 };

#define BOUNDS(h, list) histogram_init(h, list, (int)(sizeof list / sizeof list[0]))

void server_metrics_init(server_metrics *m)
{
    memset(m, 0, sizeof *m);
    histogram *const seconds[] = { &m->ttft, &m->e2e, &m->queue, &m->prefill, &m->decode, &m->kv_load };
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) BOUNDS(seconds[i], latency);
    for (int i = 0; i < METRIC_SAVE_REASONS; i++) BOUNDS(&m->kv_save[i], latency);
    BOUNDS(&m->inter_token, per_token);
    BOUNDS(&m->per_output_token, per_token);
    BOUNDS(&m->prompt_sizes, sizes);
    BOUNDS(&m->generation_sizes, sizes);
}
