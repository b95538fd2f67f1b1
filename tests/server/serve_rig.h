/* serve_rig: a whole server over the scripted engine, on one thread with the clients that ask it. */
#ifndef TESTS_SERVER_SERVE_RIG_H
#define TESTS_SERVER_SERVE_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_engine.h"
#include "runner.h"
#include "serve/serve.h"

enum { PATIENCE_MS = 20000 };

/* ---- the server under test ---------------------------------------------------------------- */

static struct {
    uv_loop_t     loop;
    server       *server;
    serve_model  *model;
    ds4_engine   *engine;
    int           port;
    bool          closed, drained;
    char          last_line[1024];
    int           lines;
} t;

typedef struct {
    serve_options serve;
    int           slots, max_queue, ctx;
    bool          loading;              /* listen only */
} setup;

static inline setup defaults(void)
{
    setup s = { .serve = serve_defaults(), .slots = 1, .max_queue = 64, .ctx = 4096 };
    s.serve.version = "test";
    return s;
}

static inline void on_line(void *ctx, const char *line)
{
    (void)ctx;
    snprintf(t.last_line, sizeof t.last_line, "%s", line);
    t.lines++;
}

static void on_flag(void *ctx) { *(bool *)ctx = true; }

static inline bool open_engine(int ctx, ds4_error *err)
{
    ds4_engine_options e = ds4_engine_defaults();
    e.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    e.max_sessions = 8;
    e.max_tokens = ctx;
    e.rewind_points = 8;
    if (ds4_engine_open(&t.engine, &e, err)) return false;
    fake_rule(t.engine, "hello", 0, "Somebody greets.</think>Hello there.");
    fake_rule(t.engine, "count", 0, "</think>one two three four five six seven eight nine ten");
    return true;
}

static inline void up(const setup *s)
{
    ds4_error err = { 0 };
    memset(&t, 0, sizeof t);
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&t.loop);
    serve_options o = s->serve;
    o.request_line = on_line;
    EXPECT_OK(serve_open(&t.server, &t.loop, &o, &err), err);
    EXPECT_OK(serve_listen(t.server, "127.0.0.1", 0, &t.port, &err), err);
    if (s->loading) return;
    if (!open_engine(s->ctx, &err)) test_fail(__FILE__, __LINE__, "engine: %s", err.message);
    serve_model_options m = {
        .api = { .model = "deepseek-v4-flash", .think_max_min_ctx = 393216, .quant = "q2", .default_tokens = 256,
                 .temperature = 1, .top_p = 1, .min_p = 0.05f },
        .sched = sched_defaults(), .replay_max_ids = 1000,
    };
    m.sched.n_slots = s->slots;
    m.sched.max_queue = s->max_queue;
    EXPECT_OK(serve_model_open(&t.model, t.server, t.engine, &m, &err), err);
    serve_attach(t.server, t.model);
}

static inline void spin(void)
{
    uv_run(&t.loop, UV_RUN_NOWAIT);
    usleep(500);
}

/* Opens the gate, so that nothing is stuck. */
static inline void down(void)
{
    if (t.engine) fake_allow_steps(t.engine, -1);
    serve_close(t.server, on_flag, &t.closed);
    while (!t.closed) spin();
    uv_run(&t.loop, UV_RUN_DEFAULT);
    serve_model_close(t.model);
    ds4_engine_close(t.engine);
    EXPECT_INT(uv_loop_close(&t.loop), 0);
}

/* ---- clients ---------------------------------------------------------------------------- */

typedef struct {
    int   fd;
    bytes in;
    bool  over;                 /* the server has closed */
} client;

static inline client connect_to(const struct sockaddr *address, socklen_t n, int family)
{
    client c = { .fd = socket(family, SOCK_STREAM, 0) };
    bytes_init(&c.in, (size_t)64 << 20);
    if (connect(c.fd, address, n)) test_fail(__FILE__, __LINE__, "connect: %s", strerror(errno));
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

static inline client dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)t.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    return connect_to((struct sockaddr *)&a, sizeof a, AF_INET);
}

static inline void hang_up(client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    bytes_free(&c->in);
}

static inline void read_some(client *c)
{
    char buffer[65536];
    for (;;) {
        const ssize_t n = read(c->fd, buffer, sizeof buffer);
        if (n > 0) bytes_append(&c->in, buffer, (size_t)n);
        if (n == 0 || (n < 0 && errno != EAGAIN)) c->over = true;
        if (n <= 0) return;
    }
}

static const char *text_of(const client *c) { return c->in.data ? c->in.data : ""; }

/* Until the answer holds `word`; NULL: until the server has closed. */
static inline bool wait_for(client *c, const char *word)
{
    const uint64_t end = uv_hrtime() + PATIENCE_MS * UINT64_C(1000000);
    while (uv_hrtime() < end) {
        spin();
        read_some(c);
        if (word ? strstr(text_of(c), word) != NULL : c->over) return true;
        if (c->over) return false;
    }
    return false;
}

static inline void expect_words(int line, client *c, const char *word)
{
    if (wait_for(c, word)) return;
    test_fail(__FILE__, line, "no %s in: %.600s", word ? word : "end", text_of(c));
}
#define WAIT_FOR(c, word) expect_words(__LINE__, c, word)
#define WAIT_UNTIL(cond) \
    do { const uint64_t end_ = uv_hrtime() + PATIENCE_MS * UINT64_C(1000000); \
         while (!(cond) && uv_hrtime() < end_) spin(); \
         if (!(cond)) test_fail(__FILE__, __LINE__, "never: %s", #cond); } while (0)

static inline void send_all(client *c, const char *data, size_t n)
{
    while (n) {
        const ssize_t sent = write(c->fd, data, n);
        if (sent > 0) data += sent, n -= (size_t)sent;
        else if (errno != EAGAIN) return;
        else spin();
    }
}

/* The connection ends with the answer. headers: whole lines. */
static inline client ask_with(const char *method, const char *path, const char *headers, const char *body)
{
    client c = dial();
    bytes out;
    bytes_init(&out, (size_t)64 << 20);
    bytes_printf(&out, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s",
                 method, path,
                 headers, strlen(body), body);
    send_all(&c, out.data, out.len);
    bytes_free(&out);
    return c;
}

static client post(const char *path, const char *body) { return ask_with("POST", path, "", body); }

static inline int status_of(const client *c)
{
    int status = 0;
    sscanf(text_of(c), "HTTP/1.1 %d", &status);
    return status;
}

/* Asks, waits for the end, and expects a status and words in the answer (up to a NULL). */
static inline void expect_answer(int line, client c, int status, const char *const *words)
{
    if (!wait_for(&c, NULL)) test_fail(__FILE__, line, "no end: %.300s", text_of(&c));
    if (status_of(&c) != status) test_fail(__FILE__, line, "status %d, want %d: %.600s", status_of(&c), status,
                                           text_of(&c));
    for (; *words; words++) {
        if (!strstr(text_of(&c), *words)) test_fail(__FILE__, line, "no %s in: %.900s", *words, text_of(&c));
    }
    hang_up(&c);
}

#define EXPECT_ANSWER(c, status, ...) expect_answer(__LINE__, c, status, (const char *const[]){ __VA_ARGS__, NULL })
#define GET(path) ask_with("GET", path, "", "")

#define CHAT(words) "{\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}],\"temperature\":0}"
#define CHAT_STREAM(words) \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}],\"temperature\":0,\"stream\":true}"
#define MESSAGE(words) \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}],\"max_tokens\":99,\"temperature\":0}"
/* A raw prompt that spells a turn. */
#define RAW(words) "<｜User｜>" words "<｜Assistant｜></think>"
#define MESSAGE_STREAM(words) \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}],\"max_tokens\":99,\"temperature\":0,\"stream\":true}"

/* The slot's state as /slots tells it. */
static inline bool slot_is(const char *state)
{
    client c = GET("/slots");
    char want[64];
    snprintf(want, sizeof want, "\"state\":\"%s\"", state);
    const bool is = wait_for(&c, NULL) && strstr(text_of(&c), want);
    hang_up(&c);
    return is;
}

static inline bool is_healthy(void)
{
    client c = GET("/health");
    const bool is = wait_for(&c, NULL) && strstr(text_of(&c), "\"ok\"");
    hang_up(&c);
    return is;
}

#endif
