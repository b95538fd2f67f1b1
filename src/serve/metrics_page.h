/* metrics_page: the counters of a server as Prometheus text 0.0.4 (docs/server.md lists them).
 *
 * Reads atomics and a copy of the slots' states; takes no lock of the engine. */
#ifndef SERVE_METRICS_PAGE_H
#define SERVE_METRICS_PAGE_H

#include <stdatomic.h>
#include "base/bytes.h"
#include "engine/scheduler.h"
#include "engine/server_metrics.h"
#include "serve/routes.h"

enum { HTTP_CODES = 18, HTTP_ROUTES = 24 };

/* What the HTTP side counts. */
typedef struct {
    counter requests[HTTP_ROUTES][HTTP_CODES];
    counter reasoning_tokens;
} http_metrics;

void http_metrics_count(http_metrics *m, const route *r, int status);

typedef struct {
    const char *model, *version, *backend, *quant;
    int         ctx;
    double      load_seconds;
    int64_t     started;                    /* Unix seconds; also the `_created` of all series  */
    uint64_t    resident_bytes;
    const server_metrics *engine;
    const http_metrics   *http;
    kvstore_size          disk;
    const sched_slot_status *slots;         /* [n_slots] */
    int         n_slots;
} metrics_view;

void metrics_page(const metrics_view *v, bytes *out);

#endif
