#include "net/http_conn.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include "base/checked.h"
#include "base/status.h"
#include "net/listener.h"

enum {
    PROGRESS     = 1024,        /* bytes of a body per body_slack_ms                             */
    KEEPALIVE_S  = 60,          /* TCP's own probes, for clients whose machine is gone           */
    TICK_MIN_MS  = 10,
    TICK_MAX_MS  = 1000,
    DEFAULT_MAX_CONNECTIONS = 4096
};

typedef struct port {
    listener     l;
    http_server *server;
    struct port *next;
    bool         waiting;       /* has a connection that was not accepted yet */
    bool         closing;
} port;

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

/* ---- exchanges and connections come and go -------------------------------------- */

void conn_end_exchange(conn *c)
{
    http_exchange *x = c->x;
    if (!x) return;
    c->x = NULL;
    c->server->body_bytes -= x->body.len;
    bytes_free(&x->body);
    free(x);
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
    conn_free_output(c);
    free(c);
    s->n_handles--;
    accept_waiting(s);
    free_when_closed(s);
}

void conn_forget_kept(conn *c)
{
    c->server->body_bytes -= c->kept.len;
    bytes_free(&c->kept);
}

void conn_drop(conn *c)
{
    http_server *s = c->server;
    if (c->phase == CLOSED) return;
    c->phase = CLOSED;
    s->n_conns--;
    if (c->x && c->x->seen) s->handler.on_gone(s->handler.ctx, c->x);
    conn_end_exchange(c);
    conn_forget_kept(c);
    bytes_free(&c->in);
    uv_close(&c->handle, on_conn_closed);
    set_timer(s);
}

static void on_idle(uv_idle_t *idle)
{
    http_server *s = idle->data;
    uv_idle_stop(idle);
    for (conn *c = s->conns; c; c = c->next) {
        if (!c->soon || c->phase == CLOSED) continue;
        c->soon = false;
        if (c->doomed) conn_drop(c);
        else conn_go_on(c);
    }
}

void conn_do_soon(conn *c)
{
    c->soon = true;
    uv_idle_start(&c->server->idle, on_idle);
}

void conn_drop_soon(conn *c)
{
    c->doomed = true;
    conn_do_soon(c);
}

/* ---- time ---------------------------------------------------------------------- */

static void on_body_deadline(conn *c)
{
    const http_server *s = c->server;
    http_exchange *x = c->x;
    if (x->body.len - x->mark < PROGRESS) {
        conn_refuse(c, (http_fault){ 408, "the body of the request came too slowly" });
        return;
    }
    x->mark = x->body.len;
    c->deadline = conn_in_ms(c, s->limits.body_slack_ms);
}

static void on_deadline(conn *c)
{
    switch (c->phase) {
    case HEAD:
        conn_refuse(c, (http_fault){ 408, "the head of the request came too slowly" });
        break;
    case BODY:
        on_body_deadline(c);
        break;
    case IDLE:
    case LINGER:
        conn_drop(c);
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
            o->deadline = conn_in_ms(c, s->limits.write_timeout_ms);
        } else if (o && now >= o->deadline) {
            conn_drop(c);
            continue;
        }
        if (now >= c->deadline) on_deadline(c);
    }
    accept_waiting(s);
}

/* The timer runs only while there is something to look at, and as often as the shortest limit asks for. */
static void set_timer(http_server *s)
{
    const http_limits *l = &s->limits;
    const int reading = min_int(l->head_timeout_ms, l->body_slack_ms);
    const int shortest = min_int(reading, min_int(l->idle_timeout_ms, l->write_timeout_ms));
    int period = max_int(TICK_MIN_MS, min_int(shortest / 8, TICK_MAX_MS));
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
    c->deadline = conn_in_ms(c, s->limits.idle_timeout_ms);
    if (uv_accept(&p->l.stream, &c->stream)) {
        conn_drop(c);
        return;
    }
    if (tcp) {
        uv_tcp_nodelay(&c->tcp, 1);
        uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    }
    if (uv_read_start(&c->stream, conn_on_alloc, conn_on_read)) conn_drop(c);
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
    for (conn *c = s->conns; c; c = c->next) conn_drop(c);
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
