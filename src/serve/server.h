/* server: what the files of this module share. The contract is serve.h. Loop thread. */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include <stdatomic.h>
#include "serve/access.h"
#include "serve/metrics_page.h"
#include "serve/pages.h"
#include "serve/prepare.h"
#include "serve/request_log.h"
#include "serve/serve.h"

enum { REQUEST_ID_BYTES = 32 };         /* "req_" and 24 hex digits */

typedef struct request request;

struct server {
    uv_loop_t     *loop;
    serve_options  o;
    access_rules   access;
    http_server   *http;
    http_metrics   http_metrics;
    server_metrics *metrics;
    bool           metrics_kept;        /* by the model, whose threads outlive the server */
    serve_state    state;
    _Atomic int    loaded_permille;
    counter        loaded_losses;       /* losses of the device when that was told */
    serve_model   *model;               /* NULL while loading */
    int64_t        started;             /* Unix seconds */
    uint64_t       started_ns;

    uv_async_t     wake;                /* from the engine thread: some ticket has something */
    uv_timer_t     tick;                /* while requests or an end are under way */
    request       *first;               /* all requests that have not ended, in no order */

    uv_work_t      drain;               /* the engine's queue ends on a worker: it may take long */
    int            drain_ms;
    bool           draining, drain_done;        /* the worker is at it; it was */
    uint64_t       drain_give_up_ns;
    void         (*on_drained)(void *ctx);
    void          *on_drained_ctx;

    bool           told_effort;         /* the warning about lowered efforts was given */
    bool           closing;
    int            open_handles;
    void         (*on_closed)(void *ctx);
    void          *on_closed_ctx;
};

struct serve_model {
    serve_model_options o;
    server_metrics *metrics;            /* owned */
    char           display_name[64], backend[64];
    api_config     api;
    replay_memory *replay;
    kvstore       *store;
    scheduler     *sched;
    prepare_context prepare;
};

/* ---- answers (answer.c) --------------------------------------------------------------------- */

void server_new_id(char out[REQUEST_ID_BYTES]);

/* In whose words this request is told of an error. */
api_dialect server_dialect(const route *r, const http_request *h);

/* The usual lines beside Content-Length, Date and Connection. h: the request, for CORS. */
void server_headers(const server *s, const http_request *h, api_dialect d, const char *id, const char *content_type,
                    bytes *out);

/* Whole answers; x is gone afterwards. They are counted, and refusals logged. more: further header lines. */
void server_respond(server *s, http_exchange *x, const route *r, const char *id, int status, const char *content_type,
                    const char *more,
                    slice body);
void server_refuse(server *s, http_exchange *x, const route *r, const char *id, const api_error *e);

/* The line of a request, when somebody wants them. */
void server_log(server *s, const request_record *r);

/* ---- requests (request.c) ------------------------------------------------------------------- */

/* Takes a complete request that needs a worker. */
void request_begin(server *s, http_exchange *x, const route *r);
void request_wake(server *s);           /* looks at every ticket */
void request_tick(server *s, uint64_t now_ns);
void request_gone(request *r);          /* the client has left */
void request_drained(request *r);       /* the stream has room */
void request_end_all(server *s);        /* the server closes: cancels */

#endif
