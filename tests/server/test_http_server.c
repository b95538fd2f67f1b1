/* A live server and raw sockets, on one thread: a client that waits runs the server's loop meanwhile. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/random.h"
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

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static void hold(http_exchange *x)
{
    t.held[t.n_held++] = x;
}

static void let_go(http_exchange *x)
{
    for (int i = 0; i < t.n_held; i++) {
        if (t.held[i] != x) continue;
        memmove(t.held + i, t.held + i + 1, (size_t)(t.n_held - i - 1) * sizeof *t.held);
        t.n_held--;
        free(http_exchange_user(x));
        return;
    }
}

static void flood(http_exchange *x)
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

static void on_headers(void *ctx, http_exchange *x)
{
    (void)ctx;
    t.headers++;
    if (slice_is(http_exchange_request(x)->path, "/deny"))
        http_respond(x, 401, slice_of("X-Why: no key\r\n"), slice_of("denied"));
}

static void echo(http_exchange *x)
{
    const http_request *r = http_exchange_request(x);
    bytes body;
    bytes_init(&body, SIZE_MAX);
    bytes_printf(&body, "%.*s %.*s [%.*s]", (int)r->method.len, r->method.data, (int)r->target.len, r->target.data,
                 (int)r->body.len, r->body.data);
    http_respond(x, 200, slice_of("Content-Type: text/plain\r\n"), (slice){ body.data, body.len });
    bytes_free(&body);
}

static void on_request(void *ctx, http_exchange *x)
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

static void on_gone(void *ctx, http_exchange *x)
{
    (void)ctx;
    t.gone++;
    t.gone_at = now_ms();
    let_go(x);
}

static void on_drained(void *ctx, http_exchange *x)
{
    (void)ctx;
    flood(x);
}

static void on_error(void *ctx, const http_request *r, int status, const char *why, bytes *headers, bytes *body)
{
    (void)ctx;
    bytes_text(headers, "X-Own: yes\r\n");
    bytes_printf(body, "%d %.*s %s", status, (int)r->path.len, r->path.data, why);
}

/* A piece for each ticking stream, as a scheduler would give out tokens. */
static void on_tick(uv_timer_t *timer)
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

static http_limits short_limits(void)
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

static bool start_with(http_limits l, http_handler h)
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

static bool start(http_limits l)
{
    return start_with(l, whole_handler);
}

static void stop(void)
{
    http_server_close(t.server);
    uv_close((uv_handle_t *)&t.ticker, NULL);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    EXPECT_INT(t.n_held, 0);
    EXPECT_INT(uv_loop_close(&t.loop), 0);
}

static void run_loop(int ms)
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

static client connect_client(void)
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

static void hang_up(client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    bytes_free(&c->got);
}

static void listen_once(client *c)
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

static void say_bytes(client *c, const char *data, size_t n)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (n && now_ms() < end) {
        const ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent > 0) data += sent, n -= (size_t)sent;
        else if (errno != EAGAIN) return;
        else uv_run(&t.loop, UV_RUN_NOWAIT);
    }
}

static void say(client *c, const char *text)
{
    say_bytes(c, text, strlen(text));
}

/* Waits until the client has read that text; what was read up to its end is forgotten. */
static bool hears(client *c, const char *text)
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

static bool hears_end(client *c)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (!c->eof && !c->reset && now_ms() < end) {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        listen_once(c);
        usleep(100);
    }
    return c->eof && !c->reset;
}

static bool comes_to(const int *value, int want)
{
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (*value != want && now_ms() < end) {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        usleep(100);
    }
    return *value == want;
}

#define H "Host: h\r\n\r\n"

static void answer_held(const char *body)
{
    http_exchange *x = t.held[0];
    let_go(x);
    http_respond(x, 200, slice_of(""), slice_of(body));
}

/* ---- requests and answers -------------------------------------------------------------- */

TEST(requests_are_answered_one_after_the_other)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /a?b HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 200 OK\r\nDate: "));
    EXPECT(hears(&c, " GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=2\r\nContent-Length: 11\r\n"
                     "Content-Type: text/plain\r\n\r\nGET /a?b []"));
    for (const char *p = "POST /b HTTP/1.1\r\nContent-Length: 3\r\n" H "abc"; *p; p++) {
        say_bytes(&c, p, 1);
        uv_run(&t.loop, UV_RUN_NOWAIT);
    }
    EXPECT(hears(&c, "\r\n\r\nPOST /b [abc]"));
    EXPECT_INT(http_server_connections(t.server), 1);
    EXPECT_INT(http_server_exchanges(t.server), 0);
    hang_up(&c);
    stop();
}

TEST(bytes_of_following_requests_are_kept)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /hold HTTP/1.1\r\nContent-Length: 1\r\n" H "1GET /2 HTTP/1.1\r\n" H
            "GET /hold HTTP/1.1\r\n" H "GET /4 H");
    REQUIRE(comes_to(&t.n_held, 1));
    EXPECT_INT(http_server_exchanges(t.server), 1);
    answer_held("first");
    EXPECT(hears(&c, "\r\n\r\nfirst"));
    EXPECT(hears(&c, "\r\n\r\nGET /2 []"));
    REQUIRE(comes_to(&t.n_held, 1));
    say(&c, "TTP/1.1\r\n" H);
    run_loop(10);
    answer_held("third");
    EXPECT(hears(&c, "\r\n\r\nthird"));
    EXPECT(hears(&c, "\r\n\r\nGET /4 []"));
    hang_up(&c);
    stop();
}

/* The answer is given between two reads of the loop's one turn. */
TEST(kept_bytes_come_before_what_is_read_later)
{
    if (!start(short_limits())) return;
    client a = connect_client(), b = connect_client();
    say(&a, "GET /hold HTTP/1.1\r\n" H "GET /kept HT");
    REQUIRE(comes_to(&t.n_held, 1));
    run_loop(5);
    say(&b, "GET /release HTTP/1.1\r\n" H);
    say(&a, "TP/1.1\r\n" H);
    EXPECT(hears(&a, "\r\n\r\nreleased"));
    EXPECT(hears(&a, "\r\n\r\nGET /kept []"));
    hang_up(&a);
    hang_up(&b);
    stop();
}

TEST(many_requests_at_once_lose_nothing)
{
    enum { N = 5000 };
    if (!start(short_limits())) return;
    client c = connect_client();
    bytes all;
    bytes_init(&all, SIZE_MAX);
    bytes_text(&all, "GET /hold HTTP/1.1\r\n" H);
    for (int i = 0; i < N; i++) bytes_printf(&all, "GET /%d HTTP/1.1\r\n" H, i);
    const char *at = all.data;
    size_t left = all.len;
    bool answered = false;
    int heard = 0;
    const uint64_t end = now_ms() + 4 * PATIENCE_MS;
    while (heard < N && now_ms() < end) {
        const ssize_t sent = left ? send(c.fd, at, left, MSG_NOSIGNAL) : 0;
        if (sent > 0) at += sent, left -= (size_t)sent;
        run_loop(1);
        if (!answered && t.n_held) {
            run_loop(100);
            answer_held("held");
            answered = true;
        }
        char want[32];
        listen_once(&c);
        const char *p = c.got.data, *found;
        while (snprintf(want, sizeof want, "\r\n\r\nGET /%d []", heard), (found = strstr(p, want)) && heard < N) {
            p = found + strlen(want);
            heard++;
        }
        const size_t used = (size_t)(p - c.got.data);
        memmove(c.got.data, p, c.got.len - used + 1);
        c.got.len -= used;
    }
    EXPECT_INT(heard, N);
    bytes_free(&all);
    hang_up(&c);
    stop();
}

TEST(more_than_is_kept_ends_the_connection_after_the_answer)
{
    if (!start(short_limits())) return;
    static char more[1 << 20];
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    memset(more, 'x', sizeof more);
    say_bytes(&c, more, sizeof more);
    run_loop(20);
    answer_held("held");
    EXPECT(hears(&c, "Connection: close\r\n"));
    EXPECT(hears(&c, "\r\n\r\nheld"));
    EXPECT(hears_end(&c));
    EXPECT_INT(c.got.len, 0);
    hang_up(&c);
    stop();
}

TEST(the_connection_ends_where_the_client_asks_for_it)
{
    static const char *const requests[] = {
        "GET /x HTTP/1.0\r\n\r\n",
        "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /x HTTP/1.1\r\nConnection: close\r\n" H,
    };
    if (!start(short_limits())) return;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        client c = connect_client();
        say(&c, requests[i]);
        EXPECT(hears(&c, "Connection: close\r\nContent-Length: 9\r\n"));
        EXPECT(hears(&c, "\r\n\r\nGET /x []"));
        EXPECT(hears_end(&c));
        hang_up(&c);
    }
    stop();
}

TEST(head_tells_the_length_and_sends_no_body)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "HEAD /x HTTP/1.1\r\n" H "HEAD /stream HTTP/1.1\r\n" H "GET /none HTTP/1.1\r\n" H "GET /y HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "Content-Length: 10\r\nContent-Type: text/plain\r\n\r\nHTTP/1.1 200 OK\r\n"));
    EXPECT(hears(&c, "chunked\r\nContent-Type: text/event-stream\r\n\r\nHTTP/1.1 204 No Content\r\n"));
    EXPECT(hears(&c, "Keep-Alive: timeout=2\r\n\r\nHTTP/1.1 200 OK\r\n"));
    EXPECT(hears(&c, "GET /y []"));
    hang_up(&c);
    stop();
}

TEST(bodies_come_and_go_in_chunks)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n");
    EXPECT(hears(&c, "\r\n\r\nPOST /x [abc]"));
    say(&c, "GET /stream HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
                     "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
    say(&c, "GET /x HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "\r\n\r\nGET /x []"));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /stream HTTP/1.0\r\n\r\n");
    EXPECT(hears(&c, "Connection: close\r\nContent-Type: text/event-stream\r\n\r\nonetwo"));
    EXPECT(hears_end(&c));
    EXPECT_INT(c.got.len, 0);
    hang_up(&c);
    stop();
}

TEST(a_client_that_expects_continue_is_told_to_go_on)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    say(&c, "ab");
    EXPECT(hears(&c, "\r\n\r\nPOST /x [ab]"));
    say(&c, "POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H "cd");
    EXPECT(hears(&c, "HTTP/1.1 "));
    EXPECT(strncmp(c.got.data, "200", 3) == 0);     /* it did not wait */
    EXPECT(hears(&c, "\r\n\r\nPOST /x [cd]"));
    say(&c, "POST /deny HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 401 Unauthorized\r\n"));
    EXPECT(hears(&c, "\r\n\r\ndenied"));
    EXPECT(hears_end(&c));
    hang_up(&c);
    stop();
}

/* The client is still sending when the answer comes: no reset may overtake it. */
TEST(a_refusal_reaches_a_client_that_uploads)
{
    if (!start(short_limits())) return;
    static char block[4 << 20];
    client c = connect_client();
    say(&c, "POST /deny HTTP/1.1\r\nContent-Length: 4194304\r\n" H);
    say_bytes(&c, block, sizeof block);
    EXPECT(hears(&c, "Connection: close\r\n"));
    EXPECT(hears(&c, "X-Why: no key\r\n\r\ndenied"));
    EXPECT(hears_end(&c));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /deny HTTP/1.1\r\n" H "GET /x HTTP/1.1\r\n" H);      /* nothing would follow: it may stay */
    EXPECT(hears(&c, "\r\n\r\ndenied"));
    EXPECT(hears(&c, "\r\n\r\nGET /x []"));
    hang_up(&c);
    EXPECT_INT(t.gone, 0);
    stop();
}

/* ---- what is refused --------------------------------------------------------------------- */

TEST(what_is_no_request_gets_its_status_and_the_connection_ends)
{
    static const struct { const char *in; int status; const char *path; } bad[] = {
        { "GET / HTTP/1.1\r\n\r\n", 400, "/" },
        { "POST /v1/messages HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" H "xx", 400, "/v1/messages" },
        { "POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: y\r\n z\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX : y\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: y\n", 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: a\rb", 400, "/a" },
        { "nonsense\r\n\r\n", 400, "" },
        { "\x16\x03\x01\x02", 0, "" },
        { "GET /a HTTP/2.0\r\n" H, 505, "" },
        { "POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" H, 501, "/a" },
        { "POST /a HTTP/1.1\r\nExpect: tea\r\nContent-Length: 1\r\n" H, 417, "/a" },
        { "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "zz\r\n", 400, "/a" },
        { "POST /a HTTP/1.1\r\nContent-Length: 67108865\r\n" H, 413, "/a" },
        { "POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n" H, 413, "/a" },
    };
    if (!start(short_limits())) return;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[32], body[64];
        client c = connect_client();
        say_bytes(&c, bad[i].in, strlen(bad[i].in) + (bad[i].status == 0));     /* 0: with the NUL behind it */
        const int status = bad[i].status ? bad[i].status : 400;
        snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
        snprintf(body, sizeof body, "X-Own: yes\r\n\r\n%d %s ", status, bad[i].path);
        if (!hears(&c, line) || !hears(&c, "Connection: close\r\n") || !hears(&c, body) || !hears_end(&c))
            test_fail(__FILE__, __LINE__, "input %zu: want %d %s", i, status, bad[i].path);
        hang_up(&c);
    }
    EXPECT_INT(t.gone, 1);          /* the broken chunk: its head was fine, so the handler knew of it */
    stop();
}

TEST(limits_of_heads_and_bodies_hold)
{
    http_limits l = short_limits();
    l.max_head_bytes = 1000;
    l.max_headers = 5;
    l.max_body_bytes = 100;
    l.max_bodies_bytes = 150;
    if (!start(l)) return;
    char giant[1200];
    memset(giant, 'a', sizeof giant);
    client c = connect_client();
    say(&c, "GET /p HTTP/1.1\r\nX: ");
    say_bytes(&c, giant, sizeof giant);
    EXPECT(hears(&c, "431 /p"));
    EXPECT(hears_end(&c));
    hang_up(&c);

    c = connect_client();
    say_bytes(&c, giant, sizeof giant);
    EXPECT(hears(&c, "431 "));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /p HTTP/1.1\r\na:1\r\na:1\r\na:1\r\na:1\r\n" H
            "GET /p HTTP/1.1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\n" H);
    EXPECT(hears(&c, "GET /p []"));
    EXPECT(hears(&c, "431 /p"));
    hang_up(&c);

    c = connect_client();
    say(&c, "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "60\r\n");
    say_bytes(&c, giant, 0x60);
    say(&c, "\r\n4\r\naaaa\r\n0\r\n\r\n");
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    say(&c, "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "60\r\n");
    say_bytes(&c, giant, 0x60);
    say(&c, "\r\n5\r\naaaaa\r\n0\r\n\r\n");
    EXPECT(hears(&c, "HTTP/1.1 413 "));
    hang_up(&c);

    client held = connect_client();
    c = connect_client();
    say(&held, "POST /hold HTTP/1.1\r\nContent-Length: 100\r\n" H);
    say_bytes(&held, giant, 100);
    REQUIRE(comes_to(&t.n_held, 1));
    say(&c, "POST /p HTTP/1.1\r\nContent-Length: 51\r\n" H);
    say_bytes(&c, giant, 51);
    EXPECT(hears(&c, "503 /p"));
    hang_up(&c);
    answer_held("");
    c = connect_client();
    say(&c, "POST /p HTTP/1.1\r\nContent-Length: 51\r\n" H);
    say_bytes(&c, giant, 51);
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    hang_up(&held);
    hang_up(&c);
    stop();
}

/* ---- time ---------------------------------------------------------------------------- */

TEST(slow_heads_and_bodies_are_cut_off)
{
    http_limits l = short_limits();
    l.idle_timeout_ms = 400;
    if (!start(l)) return;
    client head = connect_client(), body = connect_client(), idle = connect_client(), used = connect_client();
    client stalled = connect_client();
    static char good_start[5000];
    say(&used, "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&used, "GET / []"));
    const uint64_t begin = now_ms();
    say(&head, "GET /slow HTTP/1.1\r\nHo");
    say(&body, "POST /slow HTTP/1.1\r\nContent-Length: 100\r\n" H "abc");
    memset(good_start, 'b', sizeof good_start);
    say(&stalled, "POST /stalled HTTP/1.1\r\nContent-Length: 9000\r\n" H);
    say_bytes(&stalled, good_start, sizeof good_start);
    run_loop(100);
    say(&head, "s");                                    /* a byte now and then is no progress */
    say(&body, "d");
    EXPECT(hears(&head, "HTTP/1.1 408 "));
    EXPECT(hears(&head, "408 /slow"));
    EXPECT(hears(&body, "HTTP/1.1 408 "));
    EXPECT(now_ms() - begin >= 190);
    EXPECT(now_ms() - begin < 3000);
    EXPECT_INT(t.gone, 1);
    EXPECT(hears(&stalled, "HTTP/1.1 408 "));
    EXPECT(hears_end(&idle));                           /* without a word */
    EXPECT(hears_end(&used));
    EXPECT(now_ms() - begin >= 350);
    EXPECT_INT(idle.taken, 0);
    client *all[] = { &head, &body, &stalled, &idle, &used };
    for (int i = 0; i < 5; i++) hang_up(all[i]);
    stop();
}

TEST(a_body_that_makes_progress_may_take_its_time)
{
    if (!start(short_limits())) return;
    static char block[1100];
    client c = connect_client();
    memset(block, 'b', sizeof block);
    say(&c, "POST /x HTTP/1.1\r\nContent-Length: 5500\r\n" H);
    for (int i = 0; i < 5; i++) {
        say_bytes(&c, block, sizeof block);
        run_loop(120);
    }
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    hang_up(&c);
    stop();
}

TEST(a_client_that_lingers_is_cut_off)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /x HTTP/1.0\r\n\r\n");
    EXPECT(hears_end(&c));
    EXPECT_INT(http_server_connections(t.server), 1);
    const uint64_t end = now_ms() + PATIENCE_MS;        /* write_timeout_ms in all, whatever it still sends */
    while (http_server_connections(t.server) && now_ms() < end) {
        say(&c, "x");
        run_loop(10);
    }
    EXPECT_INT(http_server_connections(t.server), 0);
    hang_up(&c);
    stop();
}

/* ---- clients that vanish ----------------------------------------------------------- */

typedef enum { CLOSE, HALF, RESET } way;

static void vanish(client *c, way how)
{
    const struct linger now = { 1, 0 };
    if (how == HALF) {
        shutdown(c->fd, SHUT_WR);
        return;
    }
    if (how == RESET) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c->fd);
    c->fd = -1;
}

TEST(a_client_that_vanishes_is_noticed_in_every_state)
{
    static char more[600 << 10];                        /* following requests, more than is kept */
    static const struct { const char *in; bool more, held; } states[] = {
        { "POST /x HTTP/1.1\r\nContent-Length: 5\r\n" H "ab", false, false },
        { "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "5\r\nab", false, false },
        { "POST /hold HTTP/1.1\r\nContent-Length: 2\r\n" H "ab", false, true },
        { "GET /hold HTTP/1.1\r\n" H, true, true },
        { "GET /hold HTTP/1.0\r\n\r\n", false, true },
        { "GET /tick HTTP/1.1\r\n" H, false, true },
        { "GET /tick HTTP/1.1\r\n" H, true, true },
        { "GET /flood?100000000 HTTP/1.1\r\n" H, false, true },
        { "GET /flood?100000000 HTTP/1.1\r\n" H, true, true },
    };
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    memset(more, 'x', sizeof more);
    int gone = 0, late = 0;
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        for (way how = CLOSE; how <= RESET; how++) {
            client c = connect_client();
            const int before = t.headers;
            say(&c, states[i].in);
            EXPECT(comes_to(states[i].held ? &t.n_held : &t.headers, states[i].held ? 1 : before + 1));
            if (states[i].more) say_bytes(&c, more, sizeof more);
            run_loop(30);
            const uint64_t begin = now_ms();
            vanish(&c, how);
            EXPECT(comes_to(&t.gone, ++gone));
            late += t.gone_at - begin > 100;
            EXPECT_INT(http_server_exchanges(t.server), 0);
            hang_up(&c);
            gone = t.gone;
        }
    }
    EXPECT(late < 3);       /* one or two: the machine was busy with something else */
    /* Nothing of theirs is left, and nobody is told of what the handler never saw. */
    client c = connect_client();
    say(&c, "GET /x HT");
    run_loop(10);
    vanish(&c, CLOSE);
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (http_server_connections(t.server) && now_ms() < end) run_loop(1);
    EXPECT_INT(http_server_connections(t.server), 0);
    EXPECT_INT(t.gone, gone);
    hang_up(&c);
    stop();
}

TEST(an_answer_that_is_complete_still_reaches_a_client_that_sends_no_more)
{
    http_limits l = short_limits();
    l.idle_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    static char body[6 << 20];
    memset(body, 'b', sizeof body);
    http_exchange *x = t.held[0];
    let_go(x);
    http_respond(x, 200, slice_of(""), (slice){ body, sizeof body });
    EXPECT_INT(http_server_exchanges(t.server), 1);
    vanish(&c, HALF);
    run_loop(20);
    const uint64_t begin = now_ms();
    EXPECT(hears_end(&c));
    EXPECT(c.taken > sizeof body);
    EXPECT(now_ms() - begin < 4000);                    /* idle_timeout_ms has nothing to do with it */
    EXPECT_INT(t.gone, 0);
    hang_up(&c);
    stop();
}

/* ---- output ---------------------------------------------------------------------------- */

TEST(a_stream_is_held_back_and_loses_nothing)
{
    enum { N = 20000000 };
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /flood?20000000 HTTP/1.0\r\n\r\n");
    EXPECT(hears_end(&c));
    const char *body = strstr(c.got.data, "\r\n\r\n");
    REQUIRE(body);
    EXPECT_INT(c.taken - (size_t)(body + 4 - c.got.data), N);
    EXPECT(t.refused > 0);
    EXPECT_INT(t.gone, 0);
    hang_up(&c);
    stop();
}

TEST(a_client_that_does_not_read_is_cut_off_and_delays_nobody)
{
    if (!start(short_limits())) return;
    client deaf = connect_client(), reader = connect_client();
    uv_timer_start(&t.ticker, on_tick, 5, 5);
    say(&deaf, "GET /flood?1000000000 HTTP/1.1\r\n" H);
    say(&reader, "GET /tick HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 2));
    const uint64_t begin = now_ms();
    uint64_t last = begin, gap = 0;
    size_t taken = reader.taken;
    while (!t.gone && now_ms() < begin + PATIENCE_MS) {
        run_loop(1);
        listen_once(&reader);
        if (reader.taken == taken) continue;
        taken = reader.taken;
        gap = now_ms() - last > gap ? now_ms() - last : gap;
        last = now_ms();
    }
    EXPECT_INT(t.gone, 1);
    EXPECT(now_ms() - begin >= 290);
    EXPECT(gap < 1000);
    EXPECT(!reader.eof);
    EXPECT_INT(t.n_held, 1);
    hang_up(&deaf);
    hang_up(&reader);
    stop();
}

TEST(a_client_that_reads_slowly_gets_all)
{
    if (!start(short_limits())) return;
    static char body[8 << 20], buf[256 << 10];
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    http_exchange *x = t.held[0];
    let_go(x);
    memset(body, 'b', sizeof body);
    http_respond(x, 200, slice_of(""), (slice){ body, sizeof body });
    const uint64_t begin = now_ms(), end = begin + 2 * PATIENCE_MS;
    while (c.taken <= sizeof body && !c.eof && !c.reset && now_ms() < end) {
        const ssize_t n = recv(c.fd, buf, sizeof buf, 0);
        if (n > 0) c.taken += (size_t)n;
        c.eof = n == 0;
        c.reset = n < 0 && errno != EAGAIN;
        run_loop(now_ms() - begin < 1000 ? 60 : 1);
    }
    EXPECT(c.taken > sizeof body);
    EXPECT(now_ms() - begin > 900);                     /* three times write_timeout_ms */
    hang_up(&c);
    stop();
}

TEST(a_handler_may_leave_out_what_it_does_not_need)
{
    http_handler h = whole_handler;
    h.on_headers = NULL;
    h.on_error = NULL;
    if (!start_with(short_limits(), h)) return;
    client c = connect_client();
    say(&c, "GET /x\r\n\r\n");
    EXPECT(hears(&c, "\r\n\r\nthe request line does not end with a version such as HTTP/1.1"));
    hang_up(&c);
    c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nContent-Length: 2\r\n" H "a");
    run_loop(10);
    hang_up(&c);
    c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    hang_up(&c);
    EXPECT(comes_to(&t.gone, 1));
    EXPECT_INT(t.n_held, 0);
    run_loop(10);
    EXPECT_INT(t.gone, 1);                              /* of the half request nobody knew */
    stop();
}

TEST(a_piece_larger_than_the_buffer_is_taken_when_nothing_waits)
{
    http_limits l = short_limits();
    l.max_output_bytes = 1000;
    if (!start(l)) return;
    static char piece[8 << 20];
    client c = connect_client();
    say(&c, "GET /tick HTTP/1.0\r\n\r\n");
    REQUIRE(comes_to(&t.n_held, 1));
    memset(piece, 'p', sizeof piece);
    EXPECT(http_stream_write(t.held[0], (slice){ piece, sizeof piece }));
    EXPECT(!http_stream_write(t.held[0], slice_of("x")));
    EXPECT(hears(&c, "\r\n\r\n"));
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (c.taken < sizeof piece && now_ms() < end) {
        run_loop(1);
        listen_once(&c);
    }
    EXPECT(c.taken > sizeof piece);
    hang_up(&c);
    stop();
}

/* ---- many ---------------------------------------------------------------------------------- */

/* 0: it cannot be told. */
static size_t heap_bytes(void)
{
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    return mallinfo2().uordblks;
#else
    return 0;
#endif
}

TEST(idle_connections_are_small)
{
    enum { N = 500 };
    if (!start(short_limits())) return;
    static client c[N];
    client first = connect_client();
    say(&first, "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&first, "GET / []"));
    const size_t before = heap_bytes();
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], "POST / HTTP/1.1\r\nContent-Length: 2\r\n" H "ab");
        EXPECT(hears(&c[i], "POST / [ab]"));
        bytes_free(&c[i].got);
    }
    EXPECT_INT(http_server_connections(t.server), N + 1);
    const size_t each = (heap_bytes() - before) / N;
    if (each) printf("one idle connection: %zu bytes\n", each);
    EXPECT(each < 1024);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    hang_up(&first);
    stop();
}

TEST(two_hundred_streams_at_once_all_get_their_pieces)
{
    enum { N = 200 };
    if (!start(short_limits())) return;
    static client c[N];
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], "GET /tick HTTP/1.1\r\n" H);
    }
    REQUIRE(comes_to(&t.n_held, N));
    uv_timer_start(&t.ticker, on_tick, 5, 5);
    int heard = 0;
    for (int i = 0; i < N; i++) heard += hears(&c[i], "data: 20\n\n");
    EXPECT_INT(heard, N);
    for (int i = 0; i < N; i += 2) vanish(&c[i], i % 4 ? RESET : CLOSE);
    EXPECT(comes_to(&t.gone, N / 2));
    heard = 0;
    for (int i = 1; i < N; i += 2) heard += hears(&c[i], "data: 60\n\n");
    EXPECT_INT(heard, N / 2);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    stop();
}

/* The client's ends are in this process too, so twice as many files must be allowed. */
TEST(two_thousand_idle_and_two_hundred_streaming_connections_stay_small_and_prompt)
{
    enum { IDLE_ONES = 2000, READ = 180, DEAF = 20, ALL = IDLE_ONES + READ + DEAF, SECONDS = 2 };
    struct rlimit files;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
    if (files.rlim_cur < 2 * ALL + 100) {
        files.rlim_cur = 2 * ALL + 100;
        if (setrlimit(RLIMIT_NOFILE, &files)) {
            test_skip("this needs %d open files", 2 * ALL + 100);
            return;
        }
    }
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    static client c[ALL];
    const size_t before = heap_bytes();
    for (int i = 0; i < ALL; i++) {
        c[i] = connect_client();
        say(&c[i], i < IDLE_ONES         ? "GET / HTTP/1.1\r\n" H
                   : i < IDLE_ONES + READ ? "GET /tick HTTP/1.1\r\n" H
                                         : "GET /flood?1000000000 HTTP/1.1\r\n" H);
        if (i < IDLE_ONES) EXPECT(hears(&c[i], "GET / []"));
        bytes_free(&c[i].got);
    }
    EXPECT(comes_to(&t.n_held, READ + DEAF));
    uv_timer_start(&t.ticker, on_tick, 10, 10);

    uint64_t last[ALL] = { 0 }, gap = 0;
    const uint64_t begin = now_ms();
    size_t most = 0;
    while (now_ms() < begin + SECONDS * 1000) {
        run_loop(1);
        most = heap_bytes() > most ? heap_bytes() : most;
        for (int i = IDLE_ONES; i < IDLE_ONES + READ; i++) {
            char drop[4096];
            if (recv(c[i].fd, drop, sizeof drop, 0) <= 0) continue;
            const uint64_t now = now_ms();
            if (last[i] && now - last[i] > gap) gap = now - last[i];
            last[i] = now;
        }
    }
    for (int i = IDLE_ONES; i < IDLE_ONES + READ; i++) EXPECT(last[i] > begin + SECONDS * 1000 - 500);
    EXPECT_INT(http_server_connections(t.server), ALL);
    EXPECT_INT(t.gone, 0);
    EXPECT(gap < 1000);
    EXPECT(most - before < ALL * 2000 + DEAF * 3 * l.max_output_bytes);
    printf("%d connections: %zu bytes of heap, largest gap of a stream that is read every 10 ms: %d ms\n", ALL,
           most - before, (int)gap);
    for (int i = 0; i < ALL; i++) hang_up(&c[i]);
    stop();
}

TEST(connections_beyond_the_most_wait_their_turn)
{
    http_limits l = short_limits();
    l.max_connections = 2;
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    client a = connect_client(), b = connect_client(), c = connect_client(), d = connect_client();
    client *all[] = { &a, &b, &c, &d };
    for (int i = 0; i < 4; i++) say(all[i], "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&a, "GET / []"));
    EXPECT(hears(&b, "GET / []"));
    run_loop(50);
    listen_once(&c);
    EXPECT_INT(c.taken, 0);
    EXPECT_INT(http_server_connections(t.server), 2);
    const uint64_t begin = now_ms();
    hang_up(&a);
    EXPECT(hears(&c, "GET / []"));
    EXPECT(now_ms() - begin < 500);                     /* at once, not at the timer's next look */
    hang_up(&b);
    EXPECT(hears(&d, "GET / []"));
    hang_up(&c);
    hang_up(&d);
    stop();
}

/* ---- anything ------------------------------------------------------------------------------ */

/* What a random client says next: good requests, bad ones, pieces of either, noise. */
static void say_anything(client *c, random_stream *r)
{
    static const char *const pieces[] = {
        "GET / HTTP/1.1\r\n" H, "GET /hold HTTP/1.1\r\n" H, "GET /tick HTTP/1.1\r\n" H, "HEAD /stream HTTP/1.1\r\n" H,
        "GET /stream HTTP/1.0\r\n\r\n", "GET /flood?3000000 HTTP/1.1\r\n" H, "GET /deny HTTP/1.1\r\n" H,
        "POST /deny HTTP/1.1\r\nContent-Length: 100000\r\n" H, "POST /a HTTP/1.1\r\nContent-Length: 3\r\n" H "abc",
        "POST /hold HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "3\r\nabc\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n" H, "abc", "3\r\nabc\r\n", "0\r\n\r\n",
        "\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: 900000\r\n" H, "GET /a HTTP/1.1\r\nConnection: close\r\n" H, "GET /", "zz",
        "POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" H, "X: y\n", "Host : h\r\n",
    };
    static char noise[9000];
    if (random_below(r, 20) == 0) {
        for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)random_u64(r);
        send(c->fd, noise, sizeof noise, MSG_NOSIGNAL);
        return;
    }
    const char *piece = pieces[random_below(r, sizeof pieces / sizeof *pieces)];
    const size_t n = strlen(piece);
    send(c->fd, piece, random_below(r, 4) ? n : (size_t)random_below(r, n + 1), MSG_NOSIGNAL);
}

TEST(random_clients_leave_nothing_behind)
{
    enum { AT_ONCE = 40, TURNS = 10000 };
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.write_timeout_ms = 80;
    l.max_body_bytes = 200000;
    l.max_bodies_bytes = 400000;
    if (!start(l)) return;
    random_stream r;
    random_seed(&r, test_seed());
    static client c[AT_ONCE];
    memset(c, 0, sizeof c);
    for (int turn = 0; turn < TURNS; turn++) {
        const int i = (int)random_below(&r, AT_ONCE);
        if (!c[i].got.data) c[i] = connect_client();
        switch (random_below(&r, 8)) {
        case 0:
            vanish(&c[i], (way)random_below(&r, 3));
            hang_up(&c[i]);
            break;
        case 1:
            c[i].got.len = c[i].got.max;            /* what it hears is of no interest */
            listen_once(&c[i]);
            break;
        case 2:
            if (t.n_held && !http_exchange_user(t.held[0])) answer_held("random");
            break;
        case 3:
            on_tick(&t.ticker);
            break;
        default:
            say_anything(&c[i], &r);
        }
        uv_run(&t.loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < AT_ONCE; i++)
        if (c[i].got.data) hang_up(&c[i]);
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (http_server_connections(t.server) && now_ms() < end) run_loop(1);
    EXPECT_INT(http_server_connections(t.server), 0);
    EXPECT_INT(http_server_exchanges(t.server), 0);
    EXPECT_INT(t.n_held, 0);

    /* All room for bodies has come back. */
    client two[2] = { connect_client(), connect_client() };
    static char body[200000];
    memset(body, 'b', sizeof body);
    for (int i = 0; i < 2; i++) {
        say(&two[i], "POST /hold HTTP/1.1\r\nContent-Length: 200000\r\n" H);
        say_bytes(&two[i], body, sizeof body);
    }
    EXPECT(comes_to(&t.n_held, 2));
    hang_up(&two[0]);
    hang_up(&two[1]);
    stop();
}

/* ---- listening, stopping ------------------------------------------------------------------------- */

TEST(a_port_that_is_taken_is_named)
{
    if (!start(short_limits())) return;
    ds4_error err;
    char want[64];
    int other = 0;
    EXPECT(http_server_listen(t.server, "127.0.0.1", t.port, NULL, &err) == DS4_EIO);
    snprintf(want, sizeof want, "127.0.0.1:%d is in use", t.port);
    EXPECT_TEXT(err.message, want);
    EXPECT(http_server_listen(t.server, "127.0.0.1", 65536, NULL, &err) == DS4_EARG);
    EXPECT_OK(http_server_listen(t.server, "localhost", 0, &other, &err), err);
    EXPECT(other > 0 && other != t.port);
    stop();
}

static client connect_unix(const char *path)
{
    client c = { .fd = socket(AF_UNIX, SOCK_STREAM, 0) };
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    bytes_init(&c.got, 1 << 20);
    bytes_text(&c.got, "");
    EXPECT(connect(c.fd, (const struct sockaddr *)&a, sizeof a) == 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

TEST(a_unix_socket_is_private_and_replaces_a_stale_one)
{
    if (!start(short_limits())) return;
    ds4_error err;
    struct stat s;
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    const char *path = test_scratch("ds4.sock");
    REQUIRE(strlen(path) < sizeof a.sun_path);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    const int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(bind(stale, (const struct sockaddr *)&a, sizeof a) == 0);
    close(stale);

    EXPECT_OK(http_server_listen_unix(t.server, path, &err), err);
    EXPECT(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    client c = connect_unix(path);
    say(&c, "GET /x HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "GET /x []"));
    EXPECT(http_server_listen_unix(t.server, path, &err) == DS4_EIO);
    EXPECT(strstr(err.message, "is in use"));
    hang_up(&c);
    http_server_stop_listening(t.server);
    run_loop(1);
    EXPECT(stat(path, &s) != 0);

    FILE *f = fopen(path, "w");
    REQUIRE(f);
    fclose(f);
    EXPECT(http_server_listen_unix(t.server, path, &err) == DS4_EIO);
    EXPECT(strstr(err.message, "is not a socket"));
    EXPECT(stat(path, &s) == 0);
    unlink(path);

    char endless[300];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    EXPECT(http_server_listen_unix(t.server, endless, &err) == DS4_EARG);
    stop();
}

TEST(after_listening_stops_each_connection_gets_one_more_answer)
{
    if (!start(short_limits())) return;
    client idle = connect_client(), held = connect_client();
    say(&idle, "GET / HTTP/1.1\r\n" H);
    say(&held, "GET /hold HTTP/1.1\r\n" H);
    EXPECT(hears(&idle, "GET / []"));
    REQUIRE(comes_to(&t.n_held, 1));
    http_server_stop_listening(t.server);
    run_loop(5);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)t.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    EXPECT(connect(fd, (const struct sockaddr *)&a, sizeof a) != 0);
    close(fd);
    say(&idle, "GET /again HTTP/1.1\r\n" H);
    EXPECT(hears(&idle, "Connection: close\r\n"));
    EXPECT(hears(&idle, "GET /again []"));
    EXPECT(hears_end(&idle));
    EXPECT_INT(http_server_exchanges(t.server), 1);
    answer_held("late");
    EXPECT(hears(&held, "\r\n\r\nlate"));
    EXPECT(hears_end(&held));
    EXPECT_INT(http_server_exchanges(t.server), 0);
    hang_up(&idle);
    hang_up(&held);
    stop();
}

TEST(closing_the_server_ends_every_exchange)
{
    if (!start(short_limits())) return;
    static const char *const requests[] = {
        "GET /hold HTTP/1.1\r\n" H, "GET /tick HTTP/1.1\r\n" H, "GET /flood?100000000 HTTP/1.1\r\n" H,
        "POST /x HTTP/1.1\r\nContent-Length: 9\r\n" H, "GET /", "",
    };
    enum { N = sizeof requests / sizeof *requests };
    client c[N];
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], requests[i]);
    }
    REQUIRE(comes_to(&t.n_held, 3));
    run_loop(20);
    stop();
    EXPECT_INT(t.gone, 4);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
}
