#include "serve/server.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/status.h"

enum { TICK_MS = 20, PAGE_BYTES = 4 << 20, GRACE_MS = 5000, MAX_SLOTS = 256 };

serve_options serve_defaults(void)
{
    return (serve_options){ .limits = http_limits_defaults(), .loopback = true, .keepalive_ms = 5000,
                            .stream_defer_ms = 300,
                            .nonstream_first_ms = 20000, .version = "" };
}

/* ---- refusals that need no body --------------------------------------------------------------- */

static const char *const what_exists = "POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages and "
    "/v1/messages/count_tokens, GET /v1/models, /health and /metrics exist";

static bool refuse_path(const http_request *h, const route *r, api_error *e)
{
    const int n = h->path.len > 120 ? 120 : (int)h->path.len;
    if (r->kind == ROUTE_UNSUPPORTED)
        return !api_refuse(e, 404, "invalid_request_error", "unsupported_endpoint", NULL,
                           "%.*s is not supported by this server; %s",
                           n, h->path.data, what_exists);
    return !api_refuse(e, 404, "invalid_request_error", "unknown_url", NULL, "unknown path %.*s; %s", n, h->path.data,
                       what_exists);
}

static bool key_ok(const server *s, const http_request *h)
{
    const access_credentials c = { http_header_of(h, "authorization"), http_header_of(h, "x-api-key"),
                                   http_header_of(h, "api-key") };
    return access_key_ok(&s->access, &c);
}

static bool encoded(const http_request *h)
{
    const slice e = http_header_of(h, "content-encoding");
    return e.len > 0 && !slice_is(e, "identity");
}

/* True: e says why this request gets no further. */
static bool refused(const server *s, const http_request *h, const route *r, unsigned method, api_error *e)
{
    const bool hidden = r->debug && s->o.no_debug_endpoints;
    const bool open = r->open || (r->kind == ROUTE_METRICS && s->o.metrics_public);
    if (!access_origin_ok(&s->access, http_header_of(h, "origin"), http_header_of(h, "host")))
        return !api_refuse(e, 403, "permission_error", NULL, NULL,
                           "this origin may not use the server; --cors or --allow-origin lets it");
    if (!open && !key_ok(s, h))
        return !api_refuse(e, 401, "authentication_error", "invalid_api_key", NULL,
                           "no valid API key in Authorization or x-api-key");
    if (r->kind == ROUTE_UNKNOWN || r->kind == ROUTE_UNSUPPORTED || hidden) return refuse_path(h, r, e);
    if (!route_allows(r, method))
        return !api_refuse(e, 405, "invalid_request_error", "method_not_allowed", NULL,
                           "%s does not take this method", r->label);
    if (encoded(h))
        return !api_refuse(e, 415, "invalid_request_error", NULL, NULL, "compressed request bodies are not supported");
    if (!r->before_ready && s->state != SERVE_READY) return !api_refuse_unavailable(e, s->state == SERVE_LOADING);
    return false;
}

static void on_headers(void *ctx, http_exchange *x)
{
    server *s = ctx;
    const http_request *h = http_exchange_request(x);
    const route *r = route_find(h->path).route;
    const unsigned method = route_method(h->method);
    char id[REQUEST_ID_BYTES];
    api_error e = { 0 };
    if (method == METHOD_OPTIONS) {
        server_new_id(id);
        server_respond(s, x, r, id, 204, NULL, "", (slice){ 0 });
    } else if (refused(s, h, r, method, &e)) {
        server_new_id(id);
        server_refuse(s, x, r, id, &e);
    }
}

/* ---- pages ---------------------------------------------------------------------------------- */

static const char text_format[] = "text/plain; version=0.0.4; charset=utf-8";

static int slots_now(const server *s, sched_slot_status *slots)
{
    return s->model ? sched_status(s->model->sched, slots, MAX_SLOTS) : 0;
}

static void write_metrics(const server *s, bytes *out)
{
    static const sched_slot_status empty;
    sched_slot_status slots[MAX_SLOTS] = { empty };
    size_t resident = 0;
    uv_resident_set_memory(&resident);
    const serve_model *m = s->model;
    const metrics_view v = {
        .model = m ? m->api.model : "", .version = s->o.version, .backend = m ? m->backend : "",
        .quant = m ? m->api.quant : "",
        .ctx = m ? m->api.ctx : 0, .load_seconds = m ? m->o.load_seconds : 0, .started = s->started,
        .resident_bytes = resident,
        .engine = s->metrics, .http = &s->http_metrics, .disk = serve_model_disk(m), .slots = slots,
        .n_slots = slots_now(s, slots),
    };
    metrics_page(&v, out);
}

static void write_props(const server *s, bytes *out)
{
    const serve_model *m = s->model;
    const props_view v = {
        .model = m->api.model, .display_name = m->api.display_name, .quant = m->api.quant, .backend = m->backend,
        .version = s->o.version, .effort_profile = m->api.profile == EFFORT_PROFILE_0731 ? "0731" : "preview",
        .kv_dir = m->o.disk.dir, .ctx = m->api.ctx, .slots = m->o.sched.n_slots, .vocab_size = m->api.vocab_size,
        .disk = serve_model_disk(m), .uptime_s = (double)(clock_ns() - s->started_ns) / 1e9,
        .load_s = m->o.load_seconds,
    };
    page_props(&v, out);
}

static serve_state health(const server *s)
{
    return s->state == SERVE_READY && sched_lost(s->model->sched, NULL) ? SERVE_LOST : s->state;
}

/* What was told before the device was lost is of an earlier upload. */
static double loaded(const server *s)
{
    const bool now = atomic_load(&s->loaded_losses) == counter_get(&s->metrics->device_losses);
    return now ? atomic_load(&s->loaded_permille) / 1000.0 : 0;
}

/* Answers without a worker. False: e says why not. */
static bool write_page(server *s, const http_request *h, route_match m, bytes *out, api_error *e)
{
    sched_slot_status slots[MAX_SLOTS];
    bytes id;
    bool ok = true;
    switch (m.route->kind) {
    case ROUTE_ROOT:    page_root(out); break;
    case ROUTE_HEALTH:  page_health(health(s), loaded(s), out); break;
    case ROUTE_METRICS: write_metrics(s, out); break;
    case ROUTE_PROPS:   write_props(s, out); break;
    case ROUTE_SLOTS:
        page_slots(slots, slots_now(s, slots), clock_ns(), (int64_t)clock_unix_seconds(), out);
        break;
    case ROUTE_MODELS:  api_models_body(&s->model->api, out); break;
    default:
        bytes_init(&id, h->path.len + 1);
        route_decode(m.id, &id);
        ok = m.route->kind == ROUTE_MODEL
            ? api_model_body(&s->model->api, (slice){ id.data, id.len }, out, e)
            : api_stored_response(&s->model->api, h->method, (slice){ id.data, id.len }, m.rest, out, e);
        bytes_free(&id);
    }
    if (ok && out->failed) ok = api_refuse_failed(e, "no memory for this page");
    return ok;
}

static void answer_page(server *s, http_exchange *x, route_match m)
{
    bytes out;
    api_error e = { 0 };
    char id[REQUEST_ID_BYTES];
    server_new_id(id);
    bytes_init(&out, m.route->kind == ROUTE_STORED ? (size_t)256 << 20 : PAGE_BYTES);
    if (!write_page(s, http_exchange_request(x), m, &out, &e)) server_refuse(s, x, m.route, id, &e);
    else {
        const bool unwell = m.route->kind == ROUTE_HEALTH && health(s) != SERVE_READY;
        const char *type = m.route->kind == ROUTE_METRICS ? text_format : "application/json";
        server_respond(s, x, m.route, id, unwell ? 503 : 200, type, unwell ? "Retry-After: 2\r\n" : "",
                       (slice){ out.data, out.len });
    }
    bytes_free(&out);
}

/* ---- the handler ------------------------------------------------------------------------------ */

static bool needs_worker(route_kind k)
{
    return k == ROUTE_GENERATE || k == ROUTE_COUNT_TOKENS || k == ROUTE_TOKENIZE || k == ROUTE_DETOKENIZE
        || k == ROUTE_TEMPLATE;
}

/* The state may have changed while the body came. */
static void on_request(void *ctx, http_exchange *x)
{
    server *s = ctx;
    const route_match m = route_find(http_exchange_request(x)->path);
    api_error e = { 0 };
    if (!m.route->before_ready && s->state != SERVE_READY) {
        char id[REQUEST_ID_BYTES];
        server_new_id(id);
        api_refuse_unavailable(&e, s->state == SERVE_LOADING);
        server_refuse(s, x, m.route, id, &e);
        return;
    }
    if (!needs_worker(m.route->kind)) {
        answer_page(s, x, m);
        return;
    }
    request_begin(s, x, m.route);
    if (!uv_is_active((uv_handle_t *)&s->tick)) uv_timer_again(&s->tick);
}

static void on_gone(void *ctx, http_exchange *x)
{
    (void)ctx;
    request *r = http_exchange_user(x);
    if (r) request_gone(r);
}

static void on_drained(void *ctx, http_exchange *x)
{
    (void)ctx;
    request *r = http_exchange_user(x);
    if (r) request_drained(r);
}

static void on_error(void *ctx, const http_request *h, int status, const char *why, bytes *headers, bytes *body)
{
    server *s = ctx;
    const route *r = route_find(h->path).route;
    const api_dialect d = server_dialect(r, h);
    char id[REQUEST_ID_BYTES];
    api_error e = { 0 };
    server_new_id(id);
    const char *type = status >= 500 ? "server_error" : "invalid_request_error";
    api_refuse(&e, status, type, status == 413 ? "request_too_large" : NULL, NULL, "%s", why);
    server_headers(s, h, d, id, "application/json", headers);
    api_error_body(d, &e, id, body);
    http_metrics_count(&s->http_metrics, r, status);
    server_log(s, &(request_record){ .id = id, .route = r->label, .session = "", .status = status, .error = why });
}

/* ---- life -------------------------------------------------------------------------------------- */

static void on_wake(uv_async_t *handle)
{
    request_wake(handle->data);
}

static void check_end(server *s);

static void on_tick(uv_timer_t *handle)
{
    server *s = handle->data;
    request_tick(s, clock_ns());
    check_end(s);
}

static void free_server(server *s)
{
    access_free(&s->access);
    if (!s->metrics_kept) free(s->metrics);
    free(s);
}

ds4_status serve_open(server **out, uv_loop_t *loop, const serve_options *o, ds4_error *err)
{
    *out = NULL;
    server *s = calloc(1, sizeof *s);
    if (s) s->metrics = malloc(sizeof *s->metrics);
    if (!s || !s->metrics) {
        free(s);
        return ds4_fail(err, DS4_EMEMORY, "no memory for the server");
    }
    s->loop = loop;
    s->o = *o;
    s->started = (int64_t)clock_unix_seconds();
    s->started_ns = clock_ns();
    s->access.cors = o->cors;
    s->access.origins = o->origins;
    s->access.n_origins = o->n_origins;
    s->access.guard = o->loopback;
    server_metrics_init(s->metrics);

    const http_handler handler = {
        .ctx = s, .on_headers = on_headers, .on_request = on_request, .on_gone = on_gone, .on_drained = on_drained,
        .on_error = on_error
    };
    ds4_status st = access_set_keys(&s->access, o->keys, o->n_keys, err);
    if (!st) st = http_server_open(&s->http, loop, &o->limits, &handler, err);
    if (!st && uv_async_init(loop, &s->wake, on_wake)) {
        http_server_close(s->http);
        st = ds4_fail(err, DS4_EIO, "no file descriptor to wake the server with");
    }
    if (st) {
        free_server(s);
        return st;
    }
    uv_timer_init(loop, &s->tick);
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    uv_timer_stop(&s->tick);
    s->wake.data = s->tick.data = s;
    s->open_handles = 2;
    *out = s;
    return DS4_OK;
}

ds4_status serve_listen(server *s, const char *host, int port, int *bound, ds4_error *err)
{
    return http_server_listen(s->http, host, port, bound, err);
}

ds4_status serve_listen_unix(server *s, const char *path, ds4_error *err)
{
    return http_server_listen_unix(s->http, path, err);
}

void serve_loading(server *s, double progress)
{
    atomic_store(&s->loaded_permille, (int)(progress * 1000));
    atomic_store(&s->loaded_losses, counter_get(&s->metrics->device_losses));
}

ds4_status serve_set_keys(server *s, const char *const *keys, int n, ds4_error *err)
{
    return access_set_keys(&s->access, keys, n, err);
}

void serve_attach(server *s, serve_model *m)
{
    s->model = m;
    if (s->state == SERVE_LOADING) s->state = SERVE_READY;
}

/* ---- the end ----------------------------------------------------------------------------------- */

static void drain_scheduler(uv_work_t *work)
{
    const server *s = work->data;
    sched_drain(s->model->sched, clock_ns() + (uint64_t)s->drain_ms * 1000000u);
}

static void scheduler_drained(uv_work_t *work, int status)
{
    (void)status;
    server *s = work->data;
    s->draining = false;
    s->drain_done = true;
    s->drain_give_up_ns = clock_ns() + GRACE_MS * 1000000ull;
}

void serve_refuse_all(server *s)
{
    s->state = SERVE_DRAINING;
}

void serve_drain(server *s, int deadline_ms, void (*done)(void *ctx), void *ctx)
{
    s->state = SERVE_DRAINING;
    s->drain_ms = deadline_ms;
    s->on_drained = done;
    s->on_drained_ctx = ctx;
    s->drain.data = s;
    http_server_stop_listening(s->http);
    uv_timer_again(&s->tick);
    s->draining = true;
    const bool at_work = s->model && !uv_queue_work(s->loop, &s->drain, drain_scheduler, scheduler_drained);
    if (!at_work) scheduler_drained(&s->drain, 0);
}

static void on_handle_closed(uv_handle_t *handle)
{
    server *s = handle->data;
    if (--s->open_handles) return;
    void (*done)(void *) = s->on_closed;
    void *ctx = s->on_closed_ctx;
    free_server(s);
    if (done) done(ctx);
}

static void close_handles(server *s)
{
    if (uv_is_closing((uv_handle_t *)&s->wake)) return;
    uv_close((uv_handle_t *)&s->wake, on_handle_closed);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
}

void serve_close(server *s, void (*done)(void *ctx), void *ctx)
{
    s->closing = true;
    s->on_closed = done;
    s->on_closed_ctx = ctx;
    http_server_close(s->http);
    s->http = NULL;
    request_end_all(s);
    uv_timer_again(&s->tick);
}

/* Some request or work may have ended: is the server done? */
static void check_end(server *s)
{
    if (s->closing) {
        if (!s->first && !s->draining) close_handles(s);
        return;
    }
    const bool idle = !s->first && http_server_exchanges(s->http) == 0;
    if (s->drain_done && s->on_drained && (idle || clock_ns() > s->drain_give_up_ns)) {
        void (*done)(void *) = s->on_drained;
        s->on_drained = NULL;
        done(s->on_drained_ctx);
        return;
    }
    if (!s->first && s->state != SERVE_DRAINING) uv_timer_stop(&s->tick);
}
