#include "net/http_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include "base/status.h"
#include "net/listener.h"

/* A connection's life, in phases:
 *
 *   IDLE -> HEAD -> BODY -> BUSY -> FLUSH -> IDLE ...      one request after the other
 *                     any of them -> FLUSH -> LINGER       the last answer of the connection
 *                                        any -> CLOSED     the handle is closing
 *
 * IDLE    nothing of a request is here
 * HEAD    its first bytes are, in c->in
 * BODY    the head is parsed (c->x exists), the body comes
 * BUSY    the handler has the request
 * FLUSH   the response is complete (c->x is gone), output waits for the client
 * LINGER  all is sent, also the FIN; what the client still sends is dropped, so that no reset
 *         overtakes the answer on its way */
typedef enum { IDLE, HEAD, BODY, BUSY, FLUSH, LINGER, CLOSED } phase;

enum {
    READ_BYTES   = 64 << 10,    /* of the loop's buffer, which all connections share             */
    KEEP_BYTES   = 256 << 10,   /* of following requests: with more the connection ends after its response */
    PROGRESS     = 1024,        /* bytes of a body per body_slack_ms                             */
    LINGER_MS    = 2000,        /* without a byte                                                */
    KEEPALIVE_S  = 60,          /* TCP's own probes, for clients whose machine is gone           */
    TICK_MIN_MS  = 10,
    TICK_MAX_MS  = 1000,
    DEFAULT_MAX_CONNECTIONS = 4096
};

typedef struct conn conn;

struct http_exchange {
    conn        *c;
    void        *user;
    http_head    head;
    bytes        body;
    uint64_t     missing;       /* bytes of a body of known length */
    http_chunked chunks;
    size_t       mark;          /* body bytes when the progress was last looked at */
    bool         seen;          /* by the handler, so on_gone is due  */
    bool         refused;       /* a write, so on_drained is due      */
    http_header  headers[];     /* then the bytes of the head         */
};

/* What could not be sent at once: `flying` belongs to libuv until it is written, `waiting` is next. */
typedef struct {
    uv_write_t req;
    bytes      flying, waiting;
    size_t     left;            /* unsent, when last looked at */
    uint64_t   deadline;        /* for the next byte           */
} output;

struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t    tcp;
        uv_pipe_t   pipe;
    };
    http_server   *server;
    conn          *prev, *next;
    http_exchange *x;
    output        *out;         /* NULL: nothing waits */
    bytes          in;          /* the head so far                */
    bytes          kept;        /* what came behind a request that is not answered yet */
    http_scan      scan;
    uint64_t       deadline;    /* of IDLE, HEAD, BODY, LINGER    */
    uint64_t       last;        /* of LINGER, whatever comes      */
    uint8_t        phase;
    bool           taking;      /* take() is running: it goes on by itself */
    bool           close;       /* after the response; what comes meanwhile is dropped */
    bool           eof;         /* the client sends no more       */
    bool           soon;        /* is on the idle handle's list   */
    bool           doomed;
};

typedef struct port {
    listener     l;
    http_server *server;
    struct port *next;
    bool         waiting;       /* has a connection that was not accepted yet */
    bool         closing;
} port;

struct http_server {
    uv_loop_t   *loop;
    http_limits  limits;
    http_handler handler;
    port        *ports;
    conn        *conns;         /* closing ones too, until they are closed */
    int          n_conns;       /* without those    */
    int          n_handles;     /* libuv's          */
    bool         stopping, closing;
    size_t       body_bytes;    /* of all exchanges, and what is kept of following requests */
    int          period_ms;     /* of the timer; 0: it rests */
    uv_timer_t   timer;
    uv_idle_t    idle;          /* for what must not happen within a caller's call */
    time_t       date_at;
    char         date[32];
    char         buffer[READ_BYTES];
};

http_limits http_limits_defaults(void)
{
    return (http_limits){
        .max_head_bytes   = 64 << 10,
        .max_headers      = 200,
        .max_body_bytes   = 64 << 20,
        .max_bodies_bytes = 512 << 20,
        .max_output_bytes = 8 << 20,
        .head_timeout_ms  = 10 * 1000,
        .body_slack_ms    = 10 * 1000,
        .idle_timeout_ms  = 75 * 1000,
        .write_timeout_ms = 30 * 1000,
        .max_connections  = DEFAULT_MAX_CONNECTIONS,
    };
}

static uint64_t in_ms(const http_server *s, int ms)
{
    return uv_now(s->loop) + (uint64_t)ms;
}

/* ---- exchanges and connections come and go -------------------------------------- */

static void forget_body(http_exchange *x)
{
    x->c->server->body_bytes -= x->body.len;
    bytes_free(&x->body);
}

/* The response is complete or never will be. */
static void end_exchange(conn *c)
{
    http_exchange *x = c->x;
    if (!x) return;
    c->x = NULL;
    forget_body(x);
    free(x);
}

static void free_output(conn *c)
{
    if (!c->out) return;
    bytes_free(&c->out->flying);
    bytes_free(&c->out->waiting);
    free(c->out);
    c->out = NULL;
}

static void free_when_closed(http_server *s)
{
    if (s->closing && s->n_handles == 0) free(s);
}

static void accept_waiting(http_server *s);
static void set_timer(http_server *s);

static void on_conn_closed(uv_handle_t *h)
{
    conn *c = h->data;
    http_server *s = c->server;
    if (c->prev) c->prev->next = c->next;
    else s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    free_output(c);
    free(c);
    s->n_handles--;
    accept_waiting(s);
    free_when_closed(s);
}

static void forget_kept(conn *c)
{
    c->server->body_bytes -= c->kept.len;
    bytes_free(&c->kept);
}

static void drop(conn *c)
{
    http_server *s = c->server;
    if (c->phase == CLOSED) return;
    c->phase = CLOSED;
    s->n_conns--;
    if (c->x && c->x->seen) s->handler.on_gone(s->handler.ctx, c->x);
    end_exchange(c);
    forget_kept(c);
    bytes_free(&c->in);
    uv_close(&c->handle, on_conn_closed);
    set_timer(s);
}

static void on_idle(uv_idle_t *idle);

/* Asks for work on c when the caller's call is over. */
static void do_soon(conn *c)
{
    c->soon = true;
    uv_idle_start(&c->server->idle, on_idle);
}

static void drop_soon(conn *c)
{
    c->doomed = true;
    do_soon(c);
}

/* ---- output -------------------------------------------------------------------- */

static void flushed(conn *c);
static void on_written(uv_write_t *req, int status);

static size_t output_bytes(const conn *c)
{
    return c->out ? c->out->flying.len + c->out->waiting.len : 0;
}

static void start_write(conn *c)
{
    output *o = c->out;
    const bytes empty = o->flying;
    o->flying = o->waiting;
    o->waiting = empty;
    o->deadline = in_ms(c->server, c->server->limits.write_timeout_ms);
    o->req.data = c;
    const uv_buf_t buf = uv_buf_init(o->flying.data, (unsigned)o->flying.len);
    if (uv_write(&o->req, &c->stream, &buf, 1, on_written)) drop_soon(c);
}

static void on_written(uv_write_t *req, int status)
{
    conn *c = req->data;
    http_server *s = c->server;
    if (c->phase == CLOSED) return;
    if (status < 0) {
        drop(c);
        return;
    }
    bytes_free(&c->out->flying);
    if (c->out->waiting.len) start_write(c);
    else free_output(c);

    if (c->phase == FLUSH && !c->out) {
        flushed(c);
    } else if (c->phase == BUSY && c->x->refused && output_bytes(c) <= s->limits.max_output_bytes / 2) {
        c->x->refused = false;
        s->handler.on_drained(s->handler.ctx, c->x);
    }
}

/* Sends what the socket takes now and keeps the rest. A socket's error shows later, in on_written or on_read. */
static void send_parts(conn *c, const slice *parts, int n)
{
    uv_buf_t bufs[4];
    size_t sum = 0, sent = 0;
    for (int i = 0; i < n; i++) {
        bufs[i] = uv_buf_init((char *)parts[i].data, (unsigned)parts[i].len);
        sum += parts[i].len;
    }
    if (c->doomed) return;
    if (!c->out) {
        const int took = sum <= INT32_MAX ? uv_try_write(&c->stream, bufs, (unsigned)n) : 0;
        if (took > 0) sent = (size_t)took;
        if (sent == sum) return;
        c->out = calloc(1, sizeof *c->out);
        if (!c->out) {
            drop_soon(c);
            return;
        }
        bytes_init(&c->out->flying, UINT32_MAX >> 1);
        bytes_init(&c->out->waiting, UINT32_MAX >> 1);
    }
    bytes_reserve(&c->out->waiting, sum - sent);
    for (int i = 0; i < n; i++) {
        const size_t skip = sent < parts[i].len ? sent : parts[i].len;
        bytes_append(&c->out->waiting, parts[i].data + skip, parts[i].len - skip);
        sent -= skip;
    }
    if (c->out->waiting.failed) drop_soon(c);
    else if (!c->out->flying.len) start_write(c);
}

/* ---- responses ----------------------------------------------------------------- */

static const char *reason_of(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    case 529: return "Overloaded";
    default:  return status < 400 ? "OK" : "Error";
    }
}

/* Sun, 06 Nov 1994 08:49:37 GMT, in English whatever the locale. */
static const char *date_now(http_server *s)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const time_t now = time(NULL);
    struct tm t;
    if (now != s->date_at && gmtime_r(&now, &t)) {
        snprintf(s->date, sizeof s->date, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days + 3 * t.tm_wday,
                 t.tm_mday % 100u, months + 3 * t.tm_mon, (t.tm_year + 1900u) % 10000u, t.tm_hour % 100u,
                 t.tm_min % 100u, t.tm_sec % 100u);
        s->date_at = now;
    }
    return s->date;
}

/* Status line and headers; framing is the line that tells where the body ends, "" when the connection's end does. */
static bytes response_head(conn *c, int status, slice headers, const char *framing)
{
    bytes head;
    http_server *s = c->server;
    if (s->stopping) c->close = true;
    bytes_init(&head, (64 << 10) + headers.len);
    bytes_printf(&head, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason_of(status), date_now(s));
    if (c->close) bytes_text(&head, "Connection: close\r\n");
    else bytes_printf(&head, "Connection: keep-alive\r\nKeep-Alive: timeout=%d\r\n", s->limits.idle_timeout_ms / 1000);
    bytes_text(&head, framing);
    bytes_append(&head, headers.data, headers.len);
    bytes_text(&head, "\r\n");
    if (head.failed) drop_soon(c);
    return head;
}

static bool is_head(const http_request *r)
{
    return slice_is(r->method, "HEAD");
}

/* The response is complete; x is gone. */
static void finish(conn *c)
{
    c->phase = FLUSH;
    if (!c->out) flushed(c);
}

static void answer(conn *c, int status, slice headers, slice body, bool with_body)
{
    char framing[64] = "";
    if (status != 204) snprintf(framing, sizeof framing, "Content-Length: %zu\r\n", body.len);
    bytes head = response_head(c, status, headers, framing);
    const slice parts[] = { { head.data, head.len }, body };
    if (!head.failed) send_parts(c, parts, with_body && status != 204 && body.len ? 2 : 1);
    bytes_free(&head);
    finish(c);
}

void http_respond(http_exchange *x, int status, slice headers, slice body)
{
    conn *c = x->c;
    const bool head_only = is_head(&x->head.request);
    if (c->phase == BODY && (x->head.chunked || x->missing)) c->close = true;  /* the rest of its body would follow */
    end_exchange(c);
    answer(c, status, headers, body, !head_only);
}

void http_stream_begin(http_exchange *x, int status, slice headers)
{
    conn *c = x->c;
    bytes head = response_head(c, status, headers, x->head.request.http10 ? "" : "Transfer-Encoding: chunked\r\n");
    const slice part = { head.data, head.len };
    if (!head.failed) send_parts(c, &part, 1);
    bytes_free(&head);
}

bool http_stream_write(http_exchange *x, slice data)
{
    conn *c = x->c;
    char size[24];
    if (!data.len || is_head(&x->head.request)) return true;    /* an empty chunk would be the last */
    const size_t held = output_bytes(c), most = c->server->limits.max_output_bytes;
    if (c->doomed || (held && (held >= most || data.len > most - held))) {
        x->refused = true;
        return false;
    }
    snprintf(size, sizeof size, "%zx\r\n", data.len);
    const slice parts[] = { slice_of(size), data, slice_of("\r\n") };
    if (x->head.request.http10) send_parts(c, &data, 1);
    else send_parts(c, parts, 3);
    return true;
}

void http_stream_end(http_exchange *x)
{
    conn *c = x->c;
    const slice last = slice_of("0\r\n\r\n");
    if (!x->head.request.http10 && !is_head(&x->head.request)) send_parts(c, &last, 1);
    end_exchange(c);
    finish(c);
}

/* The server's own answer to what is no request. */
static void refuse(conn *c, http_fault f)
{
    http_server *s = c->server;
    bytes headers, body;
    bytes_init(&headers, 64 << 10);
    bytes_init(&body, 64 << 10);

    /* Without an exchange there may be a request line and some headers. */
    http_header few[16];
    http_head partial;
    http_fault ignored;
    const http_request *r = &partial.request;
    const size_t begin = c->scan.begin < c->in.len ? c->scan.begin : c->in.len;
    if (c->x) r = &c->x->head.request;
    else http_head_parse(&partial, few, 16, (slice){ c->in.data + begin, c->in.len - begin }, &ignored);

    const bool with_body = !is_head(r);
    if (s->handler.on_error) s->handler.on_error(s->handler.ctx, r, f.status, f.why, &headers, &body);
    else bytes_text(&body, f.why);
    if (c->phase != CLOSED) {
        if (c->x && c->x->seen) s->handler.on_gone(s->handler.ctx, c->x);
        end_exchange(c);
        bytes_free(&c->in);
        c->close = true;
        answer(c, f.status, (slice){ headers.data, headers.len }, (slice){ body.data, body.len }, with_body);
    }
    bytes_free(&headers);
    bytes_free(&body);
}

/* ---- input --------------------------------------------------------------------- */

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

/* Reads of all connections share one buffer: on_read is done with it before the next read. */
static void on_alloc(uv_handle_t *h, size_t wanted, uv_buf_t *buf)
{
    http_server *s = ((conn *)h->data)->server;
    (void)wanted;
    *buf = uv_buf_init(s->buffer, sizeof s->buffer);
}

/* All is sent; the next request may be here already. */
static void flushed(conn *c)
{
    http_server *s = c->server;
    uv_os_fd_t fd;
    if (!c->close && !c->eof) {
        c->phase = IDLE;
        c->deadline = in_ms(s, s->limits.idle_timeout_ms);
        if (!c->taking && c->kept.len) do_soon(c);
        return;
    }
    c->phase = LINGER;
    c->last = in_ms(s, s->limits.write_timeout_ms);
    c->deadline = in_ms(s, LINGER_MS);
    forget_kept(c);
    if (c->eof || uv_fileno(&c->handle, &fd) || shutdown(fd, SHUT_WR)) drop_soon(c);
}

static void deliver(conn *c)
{
    http_server *s = c->server;
    http_exchange *x = c->x;
    x->head.request.body = (slice){ x->body.data, x->body.len };
    x->seen = true;
    c->phase = BUSY;
    s->handler.on_request(s->handler.ctx, x);
}

static void take_body(conn *c, slice *in)
{
    http_server *s = c->server;
    http_exchange *x = c->x;
    http_fault fault = { 0, NULL };
    http_parse p = HTTP_MORE;
    slice run;
    do {
        if (x->head.chunked) {
            p = http_chunked_next(&x->chunks, in, &run, &fault);
        } else {
            run = (slice){ in->data, x->missing < in->len ? (size_t)x->missing : in->len };
            in->data += run.len;
            in->len -= run.len;
            x->missing -= run.len;
            if (!x->missing) p = HTTP_DONE;
        }
        if (p == HTTP_WRONG) break;
        if (run.len > s->limits.max_body_bytes - x->body.len)
            fault = (http_fault){ 413, "the body of the request is too large" };
        else if (run.len > s->limits.max_bodies_bytes - s->body_bytes || !bytes_append(&x->body, run.data, run.len))
            fault = (http_fault){ 503, "the server has no room for the request" };
        else
            s->body_bytes += run.len;
    } while (!fault.status && p == HTTP_MORE && run.len);

    if (fault.status) refuse(c, fault);
    else if (p == HTTP_DONE) deliver(c);
}

/* The exchange with its own copy of the head, so that views stay good while c->in goes on. */
static http_exchange *new_exchange(conn *c)
{
    const size_t n = c->scan.at - c->scan.begin;
    const size_t table = (size_t)(c->scan.lines + 1) * sizeof(http_header);
    http_exchange *x = calloc(1, sizeof *x + table + n);
    if (!x) return NULL;
    x->c = c;
    bytes_init(&x->body, c->server->limits.max_body_bytes);
    memcpy((char *)x->headers + table, c->in.data + c->scan.begin, n);
    return x;
}

static void begin_body(conn *c, bool more_is_here)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    http_server *s = c->server;
    http_exchange *x = c->x;
    const http_head *h = &x->head;
    if (!h->chunked && h->length > s->limits.max_body_bytes) {
        refuse(c, (http_fault){ 413, "the body of the request is too large" });
        return;
    }
    c->close = h->close;
    c->deadline = in_ms(s, s->limits.body_slack_ms);
    x->missing = h->length;
    if (s->handler.on_headers) {
        x->seen = true;
        s->handler.on_headers(s->handler.ctx, x);
        if (c->phase != BODY || c->x != x) return;
    }
    if (!h->chunked && !h->length) {
        deliver(c);
    } else if (h->expects_continue && !more_is_here) {
        const slice part = slice_of(go_on);
        send_parts(c, &part, 1);
    }
}

static void take_head(conn *c, slice *in)
{
    http_server *s = c->server;
    http_fault fault;
    const size_t before = c->in.len, room = s->limits.max_head_bytes - before;
    if (!bytes_append(&c->in, in->data, in->len < room ? in->len : room)) {
        drop(c);
        return;
    }
    http_parse p = http_head_scan(&c->scan, (slice){ c->in.data, c->in.len }, &fault);
    const size_t used = (p == HTTP_DONE ? c->scan.at : c->in.len) - before;
    in->data += used;
    in->len -= used;
    if (p == HTTP_MORE && c->in.len < s->limits.max_head_bytes) return;
    if (p == HTTP_MORE) {
        fault = (http_fault){ 431, "the head of the request is too large" };
    } else if (p == HTTP_DONE && c->scan.lines - 1 > s->limits.max_headers) {
        fault = (http_fault){ 431, "the request has too many headers" };
    } else if (p == HTTP_DONE) {
        http_exchange *x = new_exchange(c);
        if (!x) {
            drop(c);
            return;
        }
        const int n = c->scan.lines;
        const slice head = { (char *)(x->headers + n + 1), c->scan.at - c->scan.begin };
        c->x = x;
        bytes_free(&c->in);
        c->phase = BODY;
        if (http_head_parse(&x->head, x->headers, n, head, &fault) == HTTP_DONE) {
            begin_body(c, in->len > 0);
            return;
        }
    }
    refuse(c, fault);
}

/* Reading never stops: the end of a connection shows only behind all that the client sent before it. */
static void keep(conn *c, slice in)
{
    http_server *s = c->server;
    if (!c->kept.data) bytes_init(&c->kept, KEEP_BYTES);
    if (in.len > s->limits.max_bodies_bytes - s->body_bytes || !bytes_append(&c->kept, in.data, in.len)) {
        forget_kept(c);
        c->close = true;
        return;
    }
    s->body_bytes += in.len;
}

/* Gives the bytes to whatever phase c is in, until they are used up or kept. */
static void take(conn *c, slice in)
{
    http_server *s = c->server;
    c->taking = true;
    while (in.len && !c->doomed && c->phase < BUSY) {
        if (c->phase == IDLE) {
            c->phase = HEAD;
            c->close = false;
            c->scan = (http_scan){ 0 };
            c->deadline = in_ms(s, s->limits.head_timeout_ms);
            bytes_free(&c->in);
            bytes_init(&c->in, s->limits.max_head_bytes);
        }
        if (c->phase == HEAD) take_head(c, &in);
        else take_body(c, &in);
    }
    c->taking = false;
    if (c->phase == LINGER) {
        const uint64_t quiet = in_ms(s, LINGER_MS);
        c->deadline = quiet < c->last ? quiet : c->last;
    }
    if ((c->phase == BUSY || c->phase == FLUSH) && !c->close && in.len) keep(c, in);
}

/* The following request, once the answer before it is sent. */
static void go_on(conn *c)
{
    bytes kept = c->kept;
    if (c->phase != IDLE || !kept.len) return;
    c->server->body_bytes -= kept.len;
    c->kept = (bytes){ .data = NULL };
    take(c, (slice){ kept.data, kept.len });
    bytes_free(&kept);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    conn *c = stream->data;
    if (n > 0) go_on(c);             /* what came before comes first */
    if (c->phase == CLOSED || n == 0) return;
    if (n > 0) {
        take(c, (slice){ buf->base, (size_t)n });
        return;
    }
    c->eof = true;
    if (n != UV_EOF || c->phase != FLUSH) drop(c);      /* an answer that is complete goes out */
}

static void on_idle(uv_idle_t *idle)
{
    http_server *s = idle->data;
    uv_idle_stop(idle);
    for (conn *c = s->conns; c; c = c->next) {
        if (!c->soon || c->phase == CLOSED) continue;
        c->soon = false;
        if (c->doomed) drop(c);
        else go_on(c);
    }
}

/* ---- time ---------------------------------------------------------------------- */

static void on_body_deadline(conn *c)
{
    const http_server *s = c->server;
    http_exchange *x = c->x;
    if (x->body.len - x->mark < PROGRESS) {
        refuse(c, (http_fault){ 408, "the body of the request came too slowly" });
        return;
    }
    x->mark = x->body.len;
    c->deadline = in_ms(s, s->limits.body_slack_ms);
}

static void on_deadline(conn *c)
{
    switch (c->phase) {
    case HEAD:
        refuse(c, (http_fault){ 408, "the head of the request came too slowly" });
        break;
    case BODY:
        on_body_deadline(c);
        break;
    case IDLE:
    case LINGER:
        drop(c);
        break;
    default:
        break;
    }
}

/* Bytes on their way that the client's machine has not confirmed. The kernel's own are counted too: it asks for more
 * only when a good part of them is gone, which takes a slow client longer than a write timeout. */
static size_t unsent_bytes(const conn *c)
{
    int held = 0;
    uv_os_fd_t fd;
#ifdef TIOCOUTQ
    if (uv_fileno(&c->handle, &fd) || ioctl(fd, TIOCOUTQ, &held)) held = 0;
#else
    (void)fd;
#endif
    return uv_stream_get_write_queue_size(&c->stream) + (size_t)held;
}

static void on_timer(uv_timer_t *timer)
{
    http_server *s = timer->data;
    const uint64_t now = uv_now(s->loop);
    for (conn *c = s->conns; c; c = c->next) {
        if (c->phase == CLOSED) continue;
        output *o = c->out;
        const size_t left = o ? unsent_bytes(c) : 0;
        if (o && left != o->left) {
            o->left = left;
            o->deadline = in_ms(s, s->limits.write_timeout_ms);
        } else if (o && now >= o->deadline) {
            drop(c);
            continue;
        }
        if (now >= c->deadline) on_deadline(c);
    }
    accept_waiting(s);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* The timer runs only while there is something to look at, and as often as the shortest limit asks for. */
static void set_timer(http_server *s)
{
    const http_limits *l = &s->limits;
    int period = least(least(l->head_timeout_ms, l->body_slack_ms), least(l->idle_timeout_ms, l->write_timeout_ms)) / 8;
    period = period < TICK_MIN_MS ? TICK_MIN_MS : least(period, TICK_MAX_MS);
    bool waiting = false;
    for (const port *p = s->ports; p; p = p->next) waiting |= p->waiting;
    if ((!s->n_conns && !waiting) || s->closing) period = 0;
    if (period == s->period_ms) return;

    s->period_ms = period;
    if (period) uv_timer_start(&s->timer, on_timer, (uint64_t)period, (uint64_t)period);
    else uv_timer_stop(&s->timer);
}

/* ---- listening ----------------------------------------------------------------- */

static void accept_one(port *p)
{
    http_server *s = p->server;
    conn *c = s->n_conns < s->limits.max_connections ? calloc(1, sizeof *c) : NULL;
    p->waiting = !c;
    if (!c) {
        set_timer(s);
        return;
    }
    const bool tcp = p->l.handle.type == UV_TCP;
    if (tcp) uv_tcp_init(s->loop, &c->tcp);
    else uv_pipe_init(s->loop, &c->pipe, 0);
    c->handle.data = c;
    c->server = s;
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    s->n_handles++;
    s->n_conns++;
    c->deadline = in_ms(s, s->limits.idle_timeout_ms);
    if (uv_accept(&p->l.stream, &c->stream)) {
        drop(c);
        return;
    }
    if (tcp) {
        uv_tcp_nodelay(&c->tcp, 1);
        uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    }
    if (uv_read_start(&c->stream, on_alloc, on_read)) drop(c);
    set_timer(s);
}

static void on_connection(uv_stream_t *stream, int status)
{
    port *p = stream->data;
    if (status == 0 && !p->closing) accept_one(p);
}

static void accept_waiting(http_server *s)
{
    for (port *p = s->ports; p; p = p->next)
        if (p->waiting && !p->closing) accept_one(p);
}

static void on_port_closed(uv_handle_t *h)
{
    port *p = h->data, **at;
    http_server *s = p->server;
    for (at = &s->ports; *at != p; at = &(*at)->next) {}
    *at = p->next;
    free(p);
    s->n_handles--;
    free_when_closed(s);
}

static port *new_port(http_server *s)
{
    port *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->server = s;
    p->l.handle.data = p;
    p->next = s->ports;
    s->ports = p;
    s->n_handles++;
    return p;
}

ds4_status http_server_listen(http_server *s, const char *host, int port_number, int *bound, ds4_error *err)
{
    port *p = new_port(s);
    if (!p) return ds4_fail(err, DS4_EMEMORY, "no memory for a listener");
    const ds4_status st = listener_open_tcp(&p->l, s->loop, host, port_number, bound, on_connection, on_port_closed,
                                            err);
    p->closing = st != DS4_OK;
    return st;
}

ds4_status http_server_listen_unix(http_server *s, const char *path, ds4_error *err)
{
    port *p = new_port(s);
    if (!p) return ds4_fail(err, DS4_EMEMORY, "no memory for a listener");
    const ds4_status st = listener_open_unix(&p->l, s->loop, path, on_connection, on_port_closed, err);
    p->closing = st != DS4_OK;
    return st;
}

void http_server_stop_listening(http_server *s)
{
    s->stopping = true;
    for (port *p = s->ports; p; p = p->next) {
        if (p->closing) continue;
        p->closing = true;
        p->waiting = false;
        uv_close(&p->l.handle, on_port_closed);
    }
}

/* ---- the server ---------------------------------------------------------------- */

ds4_status http_server_open(http_server **out, uv_loop_t *loop, const http_limits *limits, const http_handler *h,
                            ds4_error *err)
{
    *out = NULL;
    http_server *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for the HTTP server");
    s->loop = loop;
    s->limits = *limits;
    if (s->limits.max_bodies_bytes < limits->max_body_bytes) s->limits.max_bodies_bytes = limits->max_body_bytes;
    s->handler = *h;
    uv_timer_init(loop, &s->timer);
    uv_idle_init(loop, &s->idle);
    s->timer.data = s->idle.data = s;
    s->n_handles = 2;
    *out = s;
    return DS4_OK;
}

int http_server_connections(const http_server *s)
{
    return s->n_conns;
}

int http_server_exchanges(const http_server *s)
{
    int n = 0;
    for (const conn *c = s->conns; c; c = c->next)
        n += c->phase == BUSY || c->phase == FLUSH || (c->phase == BODY && c->x->seen);
    return n;
}

static void on_own_closed(uv_handle_t *h)
{
    http_server *s = h->data;
    s->n_handles--;
    free_when_closed(s);
}

void http_server_close(http_server *s)
{
    if (!s || s->closing) return;
    http_server_stop_listening(s);
    s->closing = true;
    for (conn *c = s->conns; c; c = c->next) drop(c);
    set_timer(s);
    uv_close((uv_handle_t *)&s->timer, on_own_closed);
    uv_close((uv_handle_t *)&s->idle, on_own_closed);
}

/* ---- what an exchange tells ------------------------------------------------------ */

const http_request *http_exchange_request(const http_exchange *x)
{
    return &x->head.request;
}

void http_exchange_set_user(http_exchange *x, void *user)
{
    x->user = user;
}

void *http_exchange_user(const http_exchange *x)
{
    return x->user;
}
