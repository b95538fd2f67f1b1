/* The HTTP server while memory runs out: connections may end, the server does not, and nothing leaks. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fault/alloc.h"
#include "net/http_server.h"
#include "runner.h"

enum { CLIENTS = 4 };

typedef struct {
    int open;           /* exchanges that the handler saw and neither ended nor lost */
    http_exchange *stream;
} told;

static void on_headers(void *ctx, http_exchange *x)
{
    told *t = ctx;
    (void)x;
    t->open++;
}

static void on_request(void *ctx, http_exchange *x)
{
    static char big[3 << 20];
    told *t = ctx;
    if (slice_is(http_exchange_request(x)->path, "/stream")) {
        http_stream_begin(x, 200, slice_of("A: b\r\n"));
        t->stream = x;
        while (http_stream_write(x, (slice){ big, 300000 })) {}
        return;
    }
    t->open--;
    http_respond(x, 200, slice_of(""), (slice){ big, sizeof big });
}

static void on_gone(void *ctx, http_exchange *x)
{
    told *t = ctx;
    t->open--;
    if (t->stream == x) t->stream = NULL;
}

static void on_drained(void *ctx, http_exchange *x)
{
    told *t = ctx;
    t->open--;
    t->stream = NULL;
    http_stream_end(x);
}

static void on_error(void *ctx, const http_request *r, int status, const char *why, bytes *headers, bytes *body)
{
    (void)ctx;
    (void)r;
    (void)headers;
    bytes_printf(body, "%d %s", status, why);
}

static int connect_client(int port, const char *text)
{
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    EXPECT(connect(fd, (const struct sockaddr *)&a, sizeof a) == 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    EXPECT(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
    return fd;
}

static void talk(uv_loop_t *loop, int port)
{
    static const char *const texts[CLIENTS] = {
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        "GET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /stream HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n",
        "nonsense\r\n\r\n",
        "POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
    };
    static char drop[1 << 16];
    int fd[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) fd[i] = connect_client(port, texts[i]);
    for (int turn = 0; turn < 60; turn++) {
        uv_run(loop, UV_RUN_NOWAIT);
        for (int i = 0; i < CLIENTS; i++)
            while (recv(fd[i], drop, sizeof drop, 0) > 0) {}
    }
    for (int i = 0; i < CLIENTS; i++) close(fd[i]);
    for (int turn = 0; turn < 10; turn++) uv_run(loop, UV_RUN_NOWAIT);
}

static ds4_status serve(void *ctx, ds4_error *err)
{
    told t = { .open = 0 };
    uv_loop_t loop;
    http_server *s;
    int port = 0;
    http_limits l = http_limits_defaults();
    const http_handler h = { &t, on_headers, on_request, on_gone, on_drained, on_error };
    (void)ctx;
    l.max_output_bytes = 1 << 20;
    uv_loop_init(&loop);
    ds4_status st = http_server_open(&s, &loop, &l, &h, err);
    if (!st) st = http_server_listen(s, "127.0.0.1", 0, &port, err);
    if (!st) talk(&loop, port);
    http_server_close(s);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
    EXPECT_INT(t.open, 0);
    return st;
}

TEST(a_server_without_memory_drops_connections_and_nothing_else)
{
    signal(SIGPIPE, SIG_IGN);
    fault_each(serve, NULL);
}
