/* serve: what ds4-server is: routes, keys, workers, the pump from engine to client, metrics, shutdown.
 *
 * A server first listens and says that it is loading; serve_attach gives it a model, and from then on
 * it answers. Requests are parsed, rendered and tokenised on libuv's workers, so that
 * whatever is to be refused is refused before it waits. All functions and callbacks belong to the loop's
 * thread, unless they say "any thread". */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include <uv.h>
#include "api/api.h"
#include "base/log.h"
#include "ds4.h"
#include "engine/scheduler.h"
#include "net/http_server.h"

typedef struct server      server;
typedef struct serve_model serve_model;

/* Texts are borrowed until serve_close. */
typedef struct {
    http_limits        limits;
    const char *const *keys;            /* [n_keys], copied; none: everybody may ask             */
    int                n_keys;
    const char        *cors;            /* NULL: off; "*" or one origin                          */
    const char *const *origins;         /* [n_origins] allowed besides the server's own          */
    int                n_origins;
    bool               loopback;        /* reachable from this machine only: other sites' pages are refused */
    bool               metrics_public, no_debug_endpoints, nonstream_keepalive;
    int                keepalive_ms, stream_defer_ms;
    int                nonstream_first_ms;  /* with nonstream_keepalive: headers go out after so long */
    bool               log_json;        /* form of the request lines                             */
    void             (*request_line)(void *ctx, const char *line);  /* one per request; NULL: none */
    void              *request_line_ctx;
    log_sink           log;
    const char        *version;
} serve_options;
serve_options serve_defaults(void);

ds4_status serve_open(server **out, uv_loop_t *loop, const serve_options *o, ds4_error *err);
ds4_status serve_listen(server *s, const char *host, int port, int *bound, ds4_error *err);
ds4_status serve_listen_unix(server *s, const char *path, ds4_error *err);

/* 0 to 1, for /health. Any thread. */
void       serve_loading(server *s, double progress);
ds4_status serve_set_keys(server *s, const char *const *keys, int n, ds4_error *err);

/* ---- the model ---------------------------------------------------------------------------- */

typedef struct {
    api_config      api;                /* vocab, ctx and vocab_size are the engine's            */
    sched_options   sched;              /* store, replay and metrics are filled in here          */
    kvstore_options disk;               /* dir NULL: none                                        */
    int             replay_max_ids;
    unclosed_think  unclosed;
    double          load_seconds;
} serve_model_options;

/* Opens the scheduler and what it stands on. The engine is borrowed until serve_model_close and belongs
 * to the scheduler's thread from now on. Any thread. */
ds4_status serve_model_open(serve_model **out, server *s, ds4_engine *e, const serve_model_options *o, ds4_error *err);
void       serve_model_close(serve_model *m);       /* after serve_close; NULL is fine */
kvstore_size serve_model_disk(const serve_model *m);

/* From here on requests are answered. The model is borrowed until serve_close is through. */
void       serve_attach(server *s, serve_model *m);

/* ---- the end --------------------------------------------------------------------------------- */

/* From now on /health says shutting_down and everything else 503; for an end that waits until loading stops. */
void       serve_refuse_all(server *s);

/* Stops listening and refuses what comes and what waits; what runs may go on until the deadline. on_drained
 * is called once, when nothing is under way any more. */
void       serve_drain(server *s, int deadline_ms, void (*on_drained)(void *ctx), void *ctx);
/* Cancels what is under way. Run the loop until on_closed; s is gone then. */
void       serve_close(server *s, void (*on_closed)(void *ctx), void *ctx);

#endif
