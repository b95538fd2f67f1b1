#include "net/http_conn.h"

#include <stdlib.h>

enum { KEEP_BYTES = 256 << 10 };    /* of following requests: with more the connection ends after its response */

/* Reads of all connections share one buffer: on_read is done with it before the next read. */
void conn_on_alloc(uv_handle_t *h, size_t wanted, uv_buf_t *buf)
{
    http_server *s = ((conn *)h->data)->server;
    (void)wanted;
    *buf = uv_buf_init(s->buffer, sizeof s->buffer);
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

    if (fault.status) conn_refuse(c, fault);
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
        conn_refuse(c, (http_fault){ 413, "the body of the request is too large" });
        return;
    }
    c->close = h->close;
    c->deadline = conn_in_ms(c, s->limits.body_slack_ms);
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
        conn_send(c, &part, 1);
    }
}

static void take_head(conn *c, slice *in)
{
    http_server *s = c->server;
    http_fault fault;
    const size_t before = c->in.len, room = s->limits.max_head_bytes - before;
    if (!bytes_append(&c->in, in->data, in->len < room ? in->len : room)) {
        conn_drop(c);
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
            conn_drop(c);
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
    conn_refuse(c, fault);
}

/* Reading never stops: the end of a connection shows only behind all that the client sent before it. */
static void keep(conn *c, slice in)
{
    http_server *s = c->server;
    if (!c->kept.data) bytes_init(&c->kept, KEEP_BYTES);
    if (in.len > s->limits.max_bodies_bytes - s->body_bytes || !bytes_append(&c->kept, in.data, in.len)) {
        conn_forget_kept(c);
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
            c->deadline = conn_in_ms(c, s->limits.head_timeout_ms);
            bytes_free(&c->in);
            bytes_init(&c->in, s->limits.max_head_bytes);
        }
        if (c->phase == HEAD) take_head(c, &in);
        else take_body(c, &in);
    }
    c->taking = false;
    if (c->phase == LINGER) {
        const uint64_t quiet = conn_in_ms(c, HTTP_LINGER_MS);
        c->deadline = quiet < c->last ? quiet : c->last;
    }
    if ((c->phase == BUSY || c->phase == FLUSH) && !c->close && in.len) keep(c, in);
}

/* The following request, once the answer before it is sent. */
void conn_go_on(conn *c)
{
    bytes kept = c->kept;
    if (c->phase != IDLE || !kept.len) return;
    c->server->body_bytes -= kept.len;
    c->kept = (bytes){ .data = NULL };
    take(c, (slice){ kept.data, kept.len });
    bytes_free(&kept);
}

void conn_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    conn *c = stream->data;
    if (n > 0) conn_go_on(c);   /* what came before comes first */
    if (c->phase == CLOSED || n == 0) return;
    if (n > 0) {
        take(c, (slice){ buf->base, (size_t)n });
        return;
    }
    c->eof = true;
    if (n != UV_EOF || c->phase != FLUSH) conn_drop(c);      /* an answer that is complete goes out */
}
