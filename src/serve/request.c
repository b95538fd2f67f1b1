/* One request on its way: prepared on a worker, submitted, and its events turned into bytes.
 *
 * While the client's buffer is full no event is taken from the ticket, so a slow reader costs a bounded
 * queue and nothing else. Headers of a stream wait a moment, so that what fails early still gets an
 * HTTP status. A request lives until its exchange has ended and no worker holds it. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "serve/submission.h"

#define MS 1000000ull
enum { COALESCE_MS = 20, PIECE_BYTES = 128 << 10, HEADER_BYTES = 80 * 1024 };
#define OUT_BYTES ((size_t)512 << 20)           /* a whole answer, or one long event */

struct request {
    server        *s;
    http_exchange *x;                   /* NULL: the client is gone */
    request       *next, *previous;
    const route   *route;
    api_dialect    dialect;
    char           id[REQUEST_ID_BYTES], session[20];
    bool           wants_progress;

    uv_work_t      work;
    bool           working;
    char          *body;
    prepared       p;

    sched_ticket  *ticket;
    int            next_prompt;
    api_encoder   *encoder;
    bytes          out;                 /* encoded and not yet sent */
    size_t         sent;                /* of it */
    bool           begun;               /* headers are out */
    bool           opened;              /* api_encode_start was called */
    bool           blocked;             /* until request_drained */
    bool           ending;              /* nothing follows what is in out */

    answer_usage   before, usage;       /* of finished prompts; with the present one */
    int            calls;
    const char    *finish, *error;
    char           error_text[512];
    reuse_method   method;
    sched_times    times;               /* the engine's, of all prompts */
    bool           admitted, answering;
    uint64_t       arrived_ns, submitted_ns, last_output_ns;
};

static bool is_stream(const request *r) { return r->p.request && r->p.request->stream; }

/* ---- life --------------------------------------------------------------------------------- */

static void free_request(request *r)
{
    if (r->previous) r->previous->next = r->next;
    else r->s->first = r->next;
    if (r->next) r->next->previous = r->previous;
    sched_release(r->ticket);
    api_encoder_free(r->encoder);
    prepare_free(&r->p);
    bytes_free(&r->out);
    free(r->body);
    free(r);
}

static void log_end(request *r, int status)
{
    const request_record record = {
        .id = r->id, .route = r->route->label, .session = r->session, .source = reuse_method_name(r->method),
        .status = status, .usage = r->usage, .calls = r->calls, .finish = r->finish,
        .queue_s = r->times.queue_s, .prefill_s = r->times.prefill_s,
        .decode_s = r->times.decode_s, .total_s = (double)(clock_ns() - r->arrived_ns) / 1e9, .error = r->error,
    };
    server_log(r->s, &record);
    counter_add(&r->s->http_metrics.reasoning_tokens, (uint64_t)r->usage.reasoning_tokens);
}

/* The exchange has its answer; r is gone. */
static void end(request *r, int status)
{
    log_end(r, status);
    free_request(r);
}

static void refuse(request *r, const api_error *e)
{
    server_refuse(r->s, r->x, r->route, r->id, e);
    free_request(r);
}

/* ---- output -------------------------------------------------------------------------------- */

/* The effort that a prompt has, where it is not the one that was asked for. */
static const char *effort_header(const request *r)
{
    return r->p.lowered ? "X-DS4-Effort: high\r\n" : "";
}

static void begin_stream(request *r, const char *content_type)
{
    bytes headers;
    bytes_init(&headers, HEADER_BYTES);
    server_headers(r->s, http_exchange_request(r->x), r->dialect, r->id, content_type, &headers);
    bytes_text(&headers, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    bytes_text(&headers, effort_header(r));
    http_stream_begin(r->x, 200, (slice){ headers.data, headers.len });
    http_metrics_count(&r->s->http_metrics, r->route, 200);
    bytes_free(&headers);
    r->begun = true;
    r->last_output_ns = clock_ns();
}

static void open_stream(request *r)
{
    if (!r->begun) begin_stream(r, "text/event-stream; charset=utf-8");
    if (r->opened) return;
    r->opened = true;
    api_encode_start(r->encoder, &r->usage, &r->out);
}

/* Sends what there is. False: that was the end, r is gone. */
static bool flush(request *r)
{
    while (r->sent < r->out.len) {
        const size_t left = r->out.len - r->sent, n = left < PIECE_BYTES ? left : PIECE_BYTES;
        if (!http_stream_write(r->x, (slice){ r->out.data + r->sent, n })) {
            r->blocked = true;
            return true;
        }
        r->sent += n;
        r->last_output_ns = clock_ns();
    }
    bytes_clear(&r->out);
    r->sent = 0;
    if (!r->ending) return true;
    http_stream_end(r->x);
    end(r, 200);
    return false;
}

/* Once headers are out an error is an event, before it is an answer. r is gone afterwards, or ends when
 * its output is sent. */
static void fail(request *r, const api_error *e)
{
    sched_release(r->ticket);
    r->ticket = NULL;
    snprintf(r->error_text, sizeof r->error_text, "%s", e->message);
    r->error = r->error_text;
    if (!r->begun) {
        refuse(r, e);
        return;
    }
    if (is_stream(r)) {
        open_stream(r);
        api_encode_failure(r->encoder, e, &r->out);
    } else {
        api_error_body(r->dialect, e, r->id, &r->out);
    }
    r->finish = "error";
    r->ending = true;
    flush(r);
}

static void fail_status(request *r, ds4_status st, const char *message)
{
    api_error e = { 0 };
    int retry_s;
    const bool waited = r->submitted_ns && !r->admitted;        /* for a device that did not come back */
    if (st == DS4_ECANCELLED) api_refuse_unavailable(&e, false);
    else if (st == DS4_EDEVICE && waited && sched_lost(r->s->model->sched, &retry_s))
        api_refuse_lost(&e, retry_s, message);
    else api_refuse_failed(&e, message);
    fail(r, &e);
}

/* All prompts are answered. False: r is gone. */
static bool finish(request *r)
{
    if (is_stream(r)) open_stream(r);
    api_encode_end(r->encoder, &r->usage, &r->out);
    if (api_encoder_status(r->encoder) || r->out.failed) {
        bytes_clear(&r->out);
        r->sent = 0;
        fail_status(r, DS4_EMEMORY, "the answer is larger than this server can keep");
        return false;
    }
    r->ending = true;
    if (r->begun) return flush(r);
    http_exchange *x = r->x;
    server_respond(r->s, x, r->route, r->id, 200, "application/json", effort_header(r),
                   (slice){ r->out.data, r->out.len });
    end(r, 200);
    return false;
}

/* ---- submission ------------------------------------------------------------------------------ */

static void wake(void *ctx)
{
    server *s = ctx;
    uv_async_send(&s->wake);
}

static ds4_status submit_with(request *r, const ds4_logit_bias *bias, int *retry_s, ds4_error *err)
{
    const serve_model *m = r->s->model;
    sched_request q = submission_of(&r->p, r->next_prompt, r->dialect, bias);
    q.id = r->id;
    q.unclosed = m->o.unclosed;
    q.wake = wake;
    q.wake_ctx = r->s;
    r->usage.prompt_tokens = r->before.prompt_tokens + (int)q.prompt->tokens.n;
    return sched_submit(m->sched, &q, &r->ticket, retry_s, err);
}

/* False: r is gone or ends. */
static bool submit(request *r)
{
    const api_request *a = r->p.request;
    ds4_error err = { 0 };
    int retry_s = 1;
    ds4_status st = DS4_EMEMORY;
    ds4_logit_bias *bias = a->n_bias ? malloc((size_t)a->n_bias * sizeof *bias) : NULL;
    for (int i = 0; bias && i < a->n_bias; i++) bias[i] = (ds4_logit_bias){ a->bias[i].token, a->bias[i].bias };
    snprintf(err.message, sizeof err.message, "no memory for this request");
    if (bias || a->n_bias == 0) st = submit_with(r, bias, &retry_s, &err);
    free(bias);
    if (!st) {
        if (!r->submitted_ns) r->submitted_ns = clock_ns();
        return true;
    }
    api_error e = { 0 };
    if (st == DS4_EFULL) api_refuse_queue_full(&e, r->dialect, retry_s);
    else if (st == DS4_ECANCELLED) api_refuse_unavailable(&e, false);
    else if (st == DS4_EDEVICE) api_refuse_lost(&e, retry_s, err.message);
    else if (st == DS4_EARG) api_refuse(&e, 400, "invalid_request_error", NULL, NULL, "%s", err.message);
    else api_refuse_failed(&e, err.message);
    fail(r, &e);
    return false;
}

/* ---- events ----------------------------------------------------------------------------------- */

static const char *const finish_names[] = { "stop", "stop-string", "length", "context", "tool-calls", "cancelled" };

static answer_usage plus(answer_usage a, const answer_usage *b)
{
    a.prompt_tokens += b->prompt_tokens;
    a.cached_tokens += b->cached_tokens;
    a.stored_tokens += b->stored_tokens;
    a.completion_tokens += b->completion_tokens;
    a.reasoning_tokens += b->reasoning_tokens;
    return a;
}

/* The prompt's own text comes before the first answer to it, for each of its choices. */
static void echo(request *r, const sched_event *e)
{
    const api_request *a = r->p.request;
    const int n = a->n > 0 ? a->n : 1, prompt = r->next_prompt;
    if (is_stream(r)) open_stream(r);
    for (int i = 0; i < n; i++)
        api_encode_echo(r->encoder, prompt * n + i, e ? e->answer.tokens : NULL, e ? e->answer.n_tokens : 0,
                        r->p.texts[prompt], &r->out);
}

static void take_answer(request *r, const sched_event *e)
{
    r->answering = true;
    if (e->usage.prompt_tokens) r->usage = plus(r->before, &e->usage);
    if (is_stream(r)) open_stream(r);
    api_encode_usage(r->encoder, &r->usage);
    api_encode(r->encoder, &e->answer, &r->out);
    if (e->answer.kind == ANSWER_CALL_BEGIN) r->calls++;
    if (e->answer.kind == ANSWER_FINISH) r->finish = finish_names[e->answer.finish];
}

/* The first prompt's usage is known, the others follow. False: r is gone or ends. */
static bool take_done(request *r, const sched_event *e)
{
    r->usage = r->before = plus(r->before, &e->usage);
    r->times.queue_s += e->times.queue_s;
    r->times.prefill_s += e->times.prefill_s;
    r->times.decode_s += e->times.decode_s;
    sched_release(r->ticket);
    r->ticket = NULL;
    if (++r->next_prompt == r->p.n_prompts) return finish(r);
    return submit(r);
}

/* False: r is gone or ends. */
static bool take(request *r, const sched_event *e)
{
    const api_request *a = r->p.request;
    switch (e->kind) {
    case SCHED_ADMITTED:
        r->admitted = true;
        r->method = e->method;
        r->usage = plus(r->before, &e->usage);
        if (a->echo && !a->logprobs) echo(r, NULL);
        return true;
    case SCHED_ECHO:
        echo(r, e);
        return true;
    case SCHED_PREFILL:
        if (r->wants_progress && is_stream(r) && r->opened) api_encode_progress(r->encoder, e->done, e->total, &r->out);
        return true;
    case SCHED_ANSWER:
        take_answer(r, e);
        return true;
    case SCHED_DONE:
        return take_done(r, e);
    case SCHED_FAILED:
        fail_status(r, e->error.status, e->error.message);
        return false;
    default:
        return true;
    }
}

/* Takes events while there is room for their bytes. */
static void pump(request *r)
{
    sched_event e;
    while (r->ticket && !r->blocked && sched_next(r->ticket, &e) != SCHED_NOTHING) {
        if (!take(r, &e)) return;
        if (r->out.len - r->sent > PIECE_BYTES && r->begun && !flush(r)) return;
    }
    const bool due = clock_ns() - r->last_output_ns >= COALESCE_MS * MS;
    if (r->begun && r->out.len && due && !r->blocked) flush(r);
}

void request_wake(server *s)
{
    for (request *r = s->first, *next; r; r = next) {
        next = r->next;
        if (r->ticket) pump(r);
    }
}

void request_drained(request *r)
{
    r->blocked = false;
    if (flush(r)) pump(r);
}

/* ---- time ------------------------------------------------------------------------------------- */

/* Blanks in front of a JSON answer are legal, and keep a client's patience. */
static void keep_waiting(request *r, uint64_t now)
{
    if (!r->s->o.nonstream_keepalive || now - r->submitted_ns < (uint64_t)r->s->o.nonstream_first_ms * MS) return;
    if (!r->begun) begin_stream(r, "application/json");
    else if (now - r->last_output_ns < (uint64_t)r->s->o.keepalive_ms * MS) return;
    bytes_char(&r->out, ' ');
    flush(r);
}

static void tick_stream(request *r, uint64_t now)
{
    if (!r->begun) {
        if (now - r->submitted_ns < (uint64_t)r->s->o.stream_defer_ms * MS) return;
        open_stream(r);
        flush(r);
        return;
    }
    if (!r->out.len && now - r->last_output_ns >= (uint64_t)r->s->o.keepalive_ms * MS)
        api_encode_keepalive(r->encoder, &r->out);
    if (r->out.len && now - r->last_output_ns >= COALESCE_MS * MS) flush(r);
}

void request_tick(server *s, uint64_t now)
{
    for (request *r = s->first, *next; r; r = next) {
        next = r->next;
        if (!r->x || r->working || r->blocked || !r->submitted_ns) continue;
        if (is_stream(r)) tick_stream(r, now);
        else keep_waiting(r, now);
    }
}

/* ---- the beginning and the end ------------------------------------------------------------------ */

static const char *phase_of(const request *r)
{
    if (!r->admitted) return "cancelled-queue";
    return r->answering ? "cancelled-decode" : "cancelled-prefill";
}

void request_gone(request *r)
{
    r->x = NULL;
    r->error = "the client went away";
    if (r->working) return;             /* r->p is the worker's until it is done */
    r->finish = r->p.request ? phase_of(r) : NULL;
    log_end(r, r->begun ? 200 : 499);
    free_request(r);
}

void request_end_all(server *s)
{
    for (request *r = s->first, *next; r; r = next) {
        next = r->next;
        r->x = NULL;
        if (!r->working) free_request(r);
    }
}

static void on_work(uv_work_t *work)
{
    request *r = work->data;
    prepare_run(&r->p);
}

/* What of the request is not followed; the client is not told. */
static void tell_warnings(const request *r)
{
    const api_request *a = r->p.request;
    for (int i = 0; i < a->n_warnings; i++)
        log_line(&r->s->o.log, LOG_INFO, "id=%s %.*s", r->id, (int)a->warnings[i].len, a->warnings[i].data);
    if (r->p.lowered && !r->s->told_effort) {
        r->s->told_effort = true;
        log_line(&r->s->o.log, LOG_WARNING,
                 "id=%s effort max needs a longer context and becomes high (--think-max-min-ctx); told once",
                 r->id);
    }
}

/* A worker is done with the request. */
static void on_worked(uv_work_t *work, int status)
{
    (void)status;
    request *r = work->data;
    r->working = false;
    if (!r->x) {
        if (!r->s->closing) log_end(r, 499);
        free_request(r);
        return;
    }
    if (r->p.refused) {
        refuse(r, &r->p.error);
        return;
    }
    if (r->route->kind != ROUTE_GENERATE) {
        server_respond(r->s, r->x, r->route, r->id, 200, "application/json", "",
                       (slice){ r->p.answer.data, r->p.answer.len });
        end(r, 200);
        return;
    }
    tell_warnings(r);
    const api_answer_info info = { .request_id = r->id, .created = (int64_t)clock_unix_seconds() };
    r->encoder = api_encoder_new(r->p.request, &r->s->model->api, &info);
    if (!r->encoder) fail_status(r, DS4_EMEMORY, "no memory for the answer");
    else submit(r);
}

/* Sessions as clients tell of them in headers; strongest first. */
static void read_hints(request *r, const http_request *h)
{
    static const char *const names[] = { "x-ds4-session", "session-id", "session_id", "x-session-id",
                                         "x-session-affinity", "x-claude-code-session-id" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const slice value = http_header_of(h, names[i]);
        if (value.len) r->p.hints[r->p.n_hints++] = prepare_hint(value);
    }
    if (r->p.n_hints) snprintf(r->session, sizeof r->session, "%016" PRIx64, r->p.hints[0]);
}

void request_begin(server *s, http_exchange *x, const route *rt)
{
    const http_request *h = http_exchange_request(x);
    char id[REQUEST_ID_BYTES];
    server_new_id(id);
    request *r = calloc(1, sizeof *r);
    if (r && !(r->body = malloc(h->body.len + 1))) {
        free(r);
        r = NULL;
    }
    if (!r) {
        api_error e = { 0 };
        api_refuse_failed(&e, "no memory for this request");
        server_refuse(s, x, rt, id, &e);
        return;
    }
    memcpy(r->id, id, sizeof id);
    if (h->body.len) memcpy(r->body, h->body.data, h->body.len);
    r->body[h->body.len] = 0;
    r->s = s;
    r->x = x;
    r->route = rt;
    r->dialect = server_dialect(rt, h);
    r->arrived_ns = clock_ns();
    r->wants_progress = slice_is(http_header_of(h, "x-ds4-progress"), "1");
    bytes_init(&r->out, OUT_BYTES);
    prepare_init(&r->p);
    read_hints(r, h);
    r->p.context = &s->model->prepare;
    r->p.route = rt;
    r->p.id = r->id;
    r->p.body = (slice){ r->body, h->body.len };
    r->next = s->first;
    if (r->next) r->next->previous = r;
    s->first = r;
    http_exchange_set_user(x, r);
    r->work.data = r;
    r->working = true;
    uv_queue_work(s->loop, &r->work, on_work, on_worked);
}
