/* http_rig: a live server and raw sockets, on one thread: a client that waits runs the server's loop meanwhile. */
#ifndef TESTS_SERVER_HTTP_RIG_H
#define TESTS_SERVER_HTTP_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_server.h"
#include "runner.h"

enum { PATIENCE_MS = 5000, MANY = 4096 };

/* ---- the server under test ---------------------------------------------------- */

typedef struct {
    size_t to_send, sent;       /* of a flood */
    int    chunks;              /* of a ticking stream */
} job;

static struct {
    uv_loop_t      loop;
    uv_timer_t     ticker;
    http_server   *server;
    int            port;
    http_exchange *held[MANY];  /* in the handler's hands, in order */
    int            n_held;
    int            gone, headers, refused;
    uint64_t       gone_at;     /* ms */
} t;

static inline uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static inline void hold(http_exchange *x)
{
    t.held[t.n_held++] = x;
}

static inline void let_go(http_exchange *x)
{
    for (int i = 0; i < t.n_held; i++) {
        if (t.held[i] != x) continue;
        memmove(t.held + i, t.held + i + 1, (size_t)(t.n_held - i - 1) * sizeof *t.held);
        t.n_held--;
        free(http_exchange_user(x));
        return;
    }
}

static inline void flood(http_exchange *x)
{
    static char block[10000];
    job *j = http_exchange_user(x);
    memset(block, 'x', sizeof block);
    while (j->sent < j->to_send) {
        const size_t left = j->to_send - j->sent, n = left < sizeof block ? left : sizeof block;
        if (!http_stream_write(x, (slice){ block, n })) {
            t.refused++;
            return;
        }
        j->sent += n;
    }
    let_go(x);
    http_stream_end(x);
}

static inline void on_headers(void *ctx, http_exchange *x)
{
    (void)ctx;
    t.headers++;
    if (slice_is(http_exchange_request(x)->path, "/deny"))
        http_respond(x, 401, slice_of("X-Why: no key\r\n"), slice_of("denied"));
}

static inline void echo(http_exchange *x)
{
    const http_request *r = http_exchange_request(x);
    bytes body;
    bytes_init(&body, SIZE_MAX);
    bytes_printf(&body, "%.*s %.*s [%.*s]", (int)r->method.len, r->method.data, (int)r->target.len, r->target.data,
                 (int)r->body.len, r->body.data);
    http_respond(x, 200, slice_of("Content-Type: text/plain\r\n"), (slice){ body.data, body.len });
    bytes_free(&body);
}

static inline void on_request(void *ctx, http_exchange *x)
{
    (void)ctx;
    const http_request *r = http_exchange_request(x);
    if (slice_is(r->path, "/hold")) {
        hold(x);
    } else if (slice_is(r->path, "/release")) {
        http_exchange *held = t.held[0];
        let_go(held);
        http_respond(held, 200, slice_of(""), slice_of("released"));
        echo(x);
    } else if (slice_is(r->path, "/none")) {
        http_respond(x, 204, slice_of(""), slice_of(""));
    } else if (slice_is(r->path, "/stream")) {
        http_stream_begin(x, 200, slice_of("Content-Type: text/event-stream\r\n"));
        http_stream_write(x, slice_of("one"));
        http_stream_write(x, slice_of(""));
        http_stream_write(x, slice_of("two"));
        http_stream_end(x);
    } else if (slice_is(r->path, "/flood") || slice_is(r->path, "/tick")) {
        job *j = calloc(1, sizeof *j);
        j->to_send = r->query.len ? strtoul(r->query.data, NULL, 10) : 0;
        http_exchange_set_user(x, j);
        hold(x);
        http_stream_begin(x, 200, slice_of(""));
        if (slice_is(r->path, "/flood")) flood(x);
    } else {
        echo(x);
    }
}

static inline void on_gone(void *ctx, http_exchange *x)
{
    (void)ctx;
    t.gone++;
    t.gone_at = now_ms();
    let_go(x);
}

static inline void on_drained(void *ctx, http_exchange *x)
{
    (void)ctx;
    flood(x);
}

static inline void on_error(void *ctx, const http_request *r, int status, const char *why, bytes *headers, bytes *body)
{
    (void)ctx;
    bytes_text(headers, "X-Own: yes\r\n");
    bytes_printf(body, "%d %.*s %s", status, (int)r->path.len, r->path.data, why);
}

/* A piece for each ticking stream, as a scheduler would give out tokens. */
static inline void on_tick(uv_timer_t *timer)
{
    (void)timer;
    for (int i = 0; i < t.n_held; i++) {
        job *j = http_exchange_user(t.held[i]);
        if (!j || j->to_send) continue;
        char event[32];
        snprintf(event, sizeof event, "data: %d\n\n", j->chunks++);
        http_stream_write(t.held[i], slice_of(event));
    }
}

static inline http_limits short_limits(void)
{
    http_limits l = http_limits_defaults();
    l.head_timeout_ms = l.body_slack_ms = 200;
    l.idle_timeout_ms = 2000;
    l.write_timeout_ms = 300;
    l.max_output_bytes = 256 << 10;
    return l;
}

static const http_handler whole_handler = {
    .on_headers = on_headers, .on_request = on_request, .on_gone = on_gone, .on_drained = on_drained,
    .on_error = on_error,
};

static inline bool start_with(http_limits l, http_handler h)
{
    ds4_error err = { DS4_OK, "" };
    signal(SIGPIPE, SIG_IGN);
    memset(&t, 0, sizeof t);
    uv_loop_init(&t.loop);
    uv_timer_init(&t.loop, &t.ticker);
    EXPECT_OK(http_server_open(&t.server, &t.loop, &l, &h, &err), err);
    const ds4_status st = http_server_listen(t.server, "127.0.0.1", 0, &t.port, &err);
    EXPECT_OK(st, err);
    return st == DS4_OK;
}

static inline bool start(http_limits l)
{
    return start_with(l, whole_handler);
}

static inline void stop(void)
{
    http_server_close(t.server);
    uv_close((uv_handle_t *)&t.ticker, NULL);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    EXPECT_INT(t.n_held, 0);
    EXPECT_INT(uv_loop_close(&t.loop), 0);
}

static inline void run_loop(int ms)
{
    const uint64_t end = now_ms() + (uint64_t)ms;
    do {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        usleep(200);
    } while (now_ms() < end);
}

/* ---- clients --------------------------------------------------------------------- */

typedef struct {
    int    fd;
    bytes  got;
    bool   eof, reset;
    size_t taken;               /* bytes that were read, kept in got or not */
} client;

static inline client connect_client(void)
{
    client c = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)t.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    bytes_init(&c.got, 1 << 20);
    bytes_text(&c.got, "");
    EXPECT(connect(c.fd, (const struct sockaddr *)&a, sizeof a) == 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

static inline void hang_up(client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    bytes_free(&c->got);
}

static inline void listen_once(client *c)
{
    static char buf[64 << 10];
    ssize_t n;
    while ((n = recv(c->fd, buf, sizeof buf, 0)) > 0) {
        c->taken += (size_t)n;
        if (c->got.len + (size_t)n <= c->got.max) bytes_append(&c->got, buf, (size_t)n);
    }
    c->eof |= n == 0;
    c->reset |= n < 0 && errno == ECONNRESET;
}

static inline void say_bytes(client *c, const char *data, size_t n)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (n && now_ms() < end) {
        const ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent > 0) data += sent, n -= (size_t)sent;
        else if (errno != EAGAIN) return;
        else uv_run(&t.loop, UV_RUN_NOWAIT);
    }
}

static inline void say(client *c, const char *text)
{
    say_bytes(c, text, strlen(text));
}

/* Waits until the client has read that text; what was read up to its end is forgotten. */
static inline bool hears(client *c, const char *text)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (now_ms() < end) {
        listen_once(c);
        const char *at = strstr(c->got.data, text);
        if (at) {
            const size_t used = (size_t)(at - c->got.data) + strlen(text);
            memmove(c->got.data, c->got.data + used, c->got.len - used + 1);
            c->got.len -= used;
            return true;
        }
        if (c->eof || c->reset) break;
        uv_run(&t.loop, UV_RUN_NOWAIT);
        usleep(100);
    }
    return false;
}

static inline bool hears_end(client *c)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (!c->eof && !c->reset && now_ms() < end) {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        listen_once(c);
        usleep(100);
    }
    return c->eof && !c->reset;
}

static inline bool comes_to(const int *value, int want)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (*value != want && now_ms() < end) {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        usleep(100);
    }
    return *value == want;
}

#define H "Host: h\r\n\r\n"

static inline void answer_held(const char *body)
{
    http_exchange *x = t.held[0];
    let_go(x);
    http_respond(x, 200, slice_of(""), slice_of(body));
}

#endif
