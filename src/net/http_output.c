#include "net/http_conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- what waits to be sent ------------------------------------------------------- */

void conn_free_output(conn *c)
{
    if (!c->out) return;
    bytes_free(&c->out->flying);
    bytes_free(&c->out->waiting);
    free(c->out);
    c->out = NULL;
}

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
    o->deadline = conn_in_ms(c, c->server->limits.write_timeout_ms);
    o->req.data = c;
    const uv_buf_t buf = uv_buf_init(o->flying.data, (unsigned)o->flying.len);
    if (uv_write(&o->req, &c->stream, &buf, 1, on_written)) conn_drop_soon(c);
}

/* All is sent; the next request may be here already. */
static void flushed(conn *c)
{
    http_server *s = c->server;
    uv_os_fd_t fd;
    if (!c->close && !c->eof) {
        c->phase = IDLE;
        c->deadline = conn_in_ms(c, s->limits.idle_timeout_ms);
        if (!c->taking && c->kept.len) conn_do_soon(c);
        return;
    }
    c->phase = LINGER;
    c->last = conn_in_ms(c, s->limits.write_timeout_ms);
    c->deadline = conn_in_ms(c, HTTP_LINGER_MS);
    conn_forget_kept(c);
    if (c->eof || uv_fileno(&c->handle, &fd) || shutdown(fd, SHUT_WR)) conn_drop_soon(c);
}

static void on_written(uv_write_t *req, int status)
{
    conn *c = req->data;
    http_server *s = c->server;
    if (c->phase == CLOSED) return;
    if (status < 0) {
        conn_drop(c);
        return;
    }
    bytes_free(&c->out->flying);
    if (c->out->waiting.len) start_write(c);
    else conn_free_output(c);

    if (c->phase == FLUSH && !c->out) {
        flushed(c);
    } else if (c->phase == BUSY && c->x->refused && output_bytes(c) <= s->limits.max_output_bytes / 2) {
        c->x->refused = false;
        s->handler.on_drained(s->handler.ctx, c->x);
    }
}

/* Sends what the socket takes now and keeps the rest. A socket's error shows later, in on_written or on_read. */
void conn_send(conn *c, const slice *parts, int n)
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
            conn_drop_soon(c);
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
    if (c->out->waiting.failed) conn_drop_soon(c);
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
    if (head.failed) conn_drop_soon(c);
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
    if (!head.failed) conn_send(c, parts, with_body && status != 204 && body.len ? 2 : 1);
    bytes_free(&head);
    finish(c);
}

void http_respond(http_exchange *x, int status, slice headers, slice body)
{
    conn *c = x->c;
    const bool head_only = is_head(&x->head.request);
    if (c->phase == BODY && (x->head.chunked || x->missing)) c->close = true;  /* the rest of its body would follow */
    conn_end_exchange(c);
    answer(c, status, headers, body, !head_only);
}

void http_stream_begin(http_exchange *x, int status, slice headers)
{
    conn *c = x->c;
    bytes head = response_head(c, status, headers, x->head.request.http10 ? "" : "Transfer-Encoding: chunked\r\n");
    const slice part = { head.data, head.len };
    if (!head.failed) conn_send(c, &part, 1);
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
    if (x->head.request.http10) conn_send(c, &data, 1);
    else conn_send(c, parts, 3);
    return true;
}

void http_stream_end(http_exchange *x)
{
    conn *c = x->c;
    const slice last = slice_of("0\r\n\r\n");
    if (!x->head.request.http10 && !is_head(&x->head.request)) conn_send(c, &last, 1);
    conn_end_exchange(c);
    finish(c);
}

/* The server's own answer to what is no request. */
void conn_refuse(conn *c, http_fault f)
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
        conn_end_exchange(c);
        bytes_free(&c->in);
        c->close = true;
        answer(c, f.status, (slice){ headers.data, headers.len }, (slice){ body.data, body.len }, with_body);
    }
    bytes_free(&headers);
    bytes_free(&body);
}
