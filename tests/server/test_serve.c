/* The whole server over loopback and an engine without a model. One thread: a client that waits runs the
 * server's loop meanwhile. Steps of the engine stop at a gate where a test wants to look. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/random.h"
#include "fake_engine.h"
#include "../prometheus.h"
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

static setup defaults(void)
{
    setup s = { .serve = serve_defaults(), .slots = 1, .max_queue = 64, .ctx = 4096 };
    s.serve.version = "test";
    return s;
}

static void on_line(void *ctx, const char *line)
{
    (void)ctx;
    snprintf(t.last_line, sizeof t.last_line, "%s", line);
    t.lines++;
}

static void on_flag(void *ctx) { *(bool *)ctx = true; }

static bool open_engine(int ctx, ds4_error *err)
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

static void up(const setup *s)
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

static void spin(void)
{
    uv_run(&t.loop, UV_RUN_NOWAIT);
    usleep(500);
}

/* Opens the gate, so that nothing is stuck. */
static void down(void)
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

static client connect_to(const struct sockaddr *address, socklen_t n, int family)
{
    client c = { .fd = socket(family, SOCK_STREAM, 0) };
    bytes_init(&c.in, (size_t)64 << 20);
    if (connect(c.fd, address, n)) test_fail(__FILE__, __LINE__, "connect: %s", strerror(errno));
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

static client dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)t.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    return connect_to((struct sockaddr *)&a, sizeof a, AF_INET);
}

static void hang_up(client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    bytes_free(&c->in);
}

static void read_some(client *c)
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
static bool wait_for(client *c, const char *word)
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

static void expect_words(int line, client *c, const char *word)
{
    if (wait_for(c, word)) return;
    test_fail(__FILE__, line, "no %s in: %.600s", word ? word : "end", text_of(c));
}
#define WAIT_FOR(c, word) expect_words(__LINE__, c, word)
#define WAIT_UNTIL(cond) \
    do { const uint64_t end_ = uv_hrtime() + PATIENCE_MS * UINT64_C(1000000); \
         while (!(cond) && uv_hrtime() < end_) spin(); \
         if (!(cond)) test_fail(__FILE__, __LINE__, "never: %s", #cond); } while (0)

static void send_all(client *c, const char *data, size_t n)
{
    while (n) {
        const ssize_t sent = write(c->fd, data, n);
        if (sent > 0) data += sent, n -= (size_t)sent;
        else if (errno != EAGAIN) return;
        else spin();
    }
}

/* The connection ends with the answer. headers: whole lines. */
static client ask_with(const char *method, const char *path, const char *headers, const char *body)
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

static int status_of(const client *c)
{
    int status = 0;
    sscanf(text_of(c), "HTTP/1.1 %d", &status);
    return status;
}

/* Asks, waits for the end, and expects a status and words in the answer (up to a NULL). */
static void expect_answer(int line, client c, int status, const char *const *words)
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
static bool slot_is(const char *state)
{
    client c = GET("/slots");
    char want[64];
    snprintf(want, sizeof want, "\"state\":\"%s\"", state);
    const bool is = wait_for(&c, NULL) && strstr(text_of(&c), want);
    hang_up(&c);
    return is;
}

static bool is_healthy(void)
{
    client c = GET("/health");
    const bool is = wait_for(&c, NULL) && strstr(text_of(&c), "\"ok\"");
    hang_up(&c);
    return is;
}

/* ---- pages ------------------------------------------------------------------------------- */

TEST(the_pages_answer)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(GET("/"), 200, "{\"name\":\"ds4-server\",\"status\":\"ok\"}", "X-Request-Id: req_",
                  "application/json");
    EXPECT_ANSWER(GET("/health?x=1"), 200, "{\"status\":\"ok\"}");
    EXPECT_ANSWER(GET("/v1/models"), 200, "\"id\":\"deepseek-v4-flash\"", "\"has_more\":false");
    EXPECT_ANSWER(GET("/models/any%2Fname"), 200, "\"object\":\"model\"");
    EXPECT_ANSWER(GET("/props"), 200, "\"slots\":1", "\"ctx\":4096");
    EXPECT_ANSWER(GET("/slots"), 200, "\"state\":\"empty\"");
    EXPECT_ANSWER(GET("/metrics"), 200, "text/plain; version=0.0.4",
                  "vllm:num_requests_running{model_name=\"deepseek-v4-flash\"} 0",
                  "ds4_http_requests_total{model_name=\"deepseek-v4-flash\",path=\"/slots\",code=\"200\"} 1",
                  "vllm:time_to_first_token_seconds_bucket{model_name=\"deepseek-v4-flash\",le=\"+Inf\"} 0",
                  "process_resident_memory_bytes",
                  "ds4_cache_miss_total{model_name=\"deepseek-v4-flash\",reason=\"other-session\"} 0");
    down();
}

TEST(head_is_get_without_a_body)
{
    const setup s = defaults();
    up(&s);
    client c = ask_with("HEAD", "/", "", "");
    WAIT_FOR(&c, NULL);
    EXPECT_INT(status_of(&c), 200);
    EXPECT(strstr(text_of(&c), "Content-Length: 35") != NULL);
    EXPECT(strstr(text_of(&c), "ds4-server") == NULL);
    hang_up(&c);
    down();
}

TEST(helpers_of_the_tokenizer_answer)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/tokenize", "{\"content\":\"hello\"}"), 200, "{\"tokens\":[");
    EXPECT_ANSWER(post("/detokenize", "{\"tokens\":[55]}"), 200, "{\"content\":");
    EXPECT_ANSWER(post("/apply-template", CHAT("hello")), 200, "{\"prompt\":");
    EXPECT_ANSWER(post("/v1/messages/count_tokens?beta=true", CHAT("hello")), 200, "{\"input_tokens\":");
    down();
}

/* ---- refusals -------------------------------------------------------------------------------- */

TEST(paths_and_methods_that_do_not_exist_are_told_apart)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(GET("/nope"), 404, "unknown_url");
    EXPECT_ANSWER(post("/v1/embeddings", "{}"), 404, "unsupported_endpoint", "/v1/chat/completions");
    EXPECT_ANSWER(GET("/v1/chat/completions"), 405, "Allow: POST, OPTIONS");
    EXPECT_ANSWER(ask_with("OPTIONS", "/v1/messages", "", ""), 204, "X-Request-Id");
    EXPECT_ANSWER(ask_with("POST", "/v1/messages", "Content-Encoding: gzip\r\n", "{}"), 415, "invalid_request_error");
    EXPECT_ANSWER(GET("/v1/responses/resp_x"), 404, "\"error\"");
    down();
}

TEST(errors_are_told_in_the_callers_dialect)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions", "{"), 400, "{\"error\":{\"message\":",
                  "\"type\":\"invalid_request_error\"");
    EXPECT_ANSWER(post("/v1/responses", "{\"input\":3}"), 400, "{\"error\":{\"message\":", "\"param\":\"input\"");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello") "x"), 400, "{\"type\":\"error\",\"error\":{",
                  "\"request_id\":\"req_", "request-id: req_");
    EXPECT_ANSWER(post("/v1/messages", CHAT("hello")), 400, "max_tokens");
    EXPECT_ANSWER(post("/v1/completions", "{\"prompt\":\"x\",\"suffix\":\"y\"}"), 400, "suffix");
    down();
}

TEST(a_prompt_that_does_not_fit_is_refused_in_the_words_that_clients_parse)
{
    setup s = defaults();
    s.ctx = 64;
    up(&s);
    char body[2000], words[1001];
    memset(words, 'z', 1000);
    words[1000] = 0;
    snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":9}", words);
    EXPECT_ANSWER(post("/v1/messages", body), 400, "prompt is too long: ", " tokens > 64 maximum");
    EXPECT_ANSWER(post("/v1/chat/completions", body), 400,
                  "maximum context length is 64 tokens. However, your messages resulted in ",
                  "context_length_exceeded");
    down();
}

TEST(while_the_model_loads_only_the_health_page_knows)
{
    setup s = defaults();
    s.loading = true;
    up(&s);
    serve_loading(t.server, 0.42);
    EXPECT_ANSWER(GET("/health"), 503, "{\"status\":\"loading\",\"progress\":0.42}", "Retry-After: 2");
    EXPECT_ANSWER(GET("/"), 200, "ds4-server");
    EXPECT_ANSWER(GET("/metrics"), 200, "process_start_time_seconds");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 503, "\"code\":\"loading\"", "Retry-After: 2");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 503, "api_error");
    serve_refuse_all(t.server);                 /* told to end while it loads */
    EXPECT_ANSWER(GET("/health"), 503, "{\"status\":\"shutting_down\"}");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 503, "\"code\":\"shutting_down\"");
    down();
}

TEST(keys_guard_all_but_the_open_pages)
{
    static const char *const keys[] = { "secret" }, *const fresh[] = { "other" };
    setup s = defaults();
    s.serve.keys = keys;
    s.serve.n_keys = 1;
    up(&s);
    EXPECT_ANSWER(GET("/"), 200, "ok");
    EXPECT_ANSWER(GET("/health"), 200, "ok");
    EXPECT_ANSWER(GET("/metrics"), 401, "invalid_api_key");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 401, "authentication_error", "\"type\":\"error\"");
    EXPECT_ANSWER(ask_with("POST", "/v1/messages", "x-api-key: secret\r\n", MESSAGE("hello")), 200, "Hello there.");
    EXPECT_ANSWER(ask_with("GET", "/v1/models", "Authorization: Bearer secret\r\n", ""), 200, "deepseek");
    ds4_error err;
    EXPECT_OK(serve_set_keys(t.server, fresh, 1, &err), err);
    EXPECT_ANSWER(ask_with("GET", "/v1/models", "Authorization: Bearer secret\r\n", ""), 401, "invalid_api_key");
    EXPECT_ANSWER(ask_with("GET", "/v1/models", "api-key: other\r\n", ""), 200, "deepseek");
    down();
}

TEST(pages_of_other_sites_are_refused_unless_cors_lets_them)
{
    setup s = defaults();
    up(&s);
    EXPECT_ANSWER(ask_with("POST", "/v1/chat/completions", "Origin: https://evil.example\r\n", CHAT("hello")), 403,
                  "permission_error");
    EXPECT_ANSWER(ask_with("GET", "/health", "Origin: http://127.0.0.1:3000\r\n", ""), 200, "ok");
    down();
    s.serve.cors = "*";
    up(&s);
    EXPECT_ANSWER(ask_with("GET", "/health", "Origin: https://evil.example\r\n", ""), 200,
                  "Access-Control-Allow-Origin: *");
    EXPECT_ANSWER(ask_with("OPTIONS", "/v1/messages",
                           "Origin: https://a.example\r\nAccess-Control-Request-Headers: x-api-key\r\n", ""), 204,
                  "Access-Control-Allow-Headers: x-api-key", "Access-Control-Max-Age: 86400");
    down();
}

/* ---- answers --------------------------------------------------------------------------------- */

TEST(every_dialect_gets_its_answer)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "\"content\":\"Hello there.\"",
                  "\"reasoning_content\":\"Somebody greets.\"", "\"finish_reason\":\"stop\"");
    EXPECT(strstr(t.last_line, " status=200 prompt=") && strstr(t.last_line, " finish=stop "));
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 200, "\"text\":\"Hello there.\"",
                  "\"stop_reason\":\"end_turn\"");
    EXPECT_ANSWER(post("/v1/responses", "{\"input\":\"hello\"}"), 200, "\"text\":\"Hello there.\"",
                  "\"status\":\"completed\"");
    EXPECT_ANSWER(post("/v1/completions", "{\"prompt\":\"" RAW("hello") "\",\"temperature\":0}"), 200,
                  "\"text\":\"Hello there.\"");
    down();
}

TEST(every_dialect_streams)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT_STREAM("hello")), 200, "text/event-stream; charset=utf-8",
                  "X-Accel-Buffering: no",
                  "Transfer-Encoding: chunked", "\"delta\":{\"role\":\"assistant\"", "data: [DONE]\n\n");
    EXPECT_ANSWER(post("/v1/messages?beta=true", MESSAGE_STREAM("hello")), 200, "event: message_start",
                  "event: message_stop");
    EXPECT_ANSWER(post("/v1/responses", "{\"input\":\"hello\",\"stream\":true}"), 200, "response.created",
                  "response.completed");
    EXPECT_ANSWER(post("/v1/completions", "{\"prompt\":\"" RAW("hello") "\",\"stream\":true}"), 200,
                  "text_completion", "data: [DONE]");
    down();
}

TEST(a_connection_serves_again_after_an_answer_and_after_a_stream)
{
    const setup s = defaults();
    up(&s);
    client c = dial();
    char request[1000];
    static const char *const bodies[] = { CHAT("hello"), CHAT_STREAM("hello"), CHAT("count") };
    static const char *const ends[] = { "Hello there.", "[DONE]\n\n\r\n0\r\n\r\n", "nine ten" };
    for (int i = 0; i < 3; i++) {
        snprintf(request, sizeof request,
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", strlen(bodies[i]),
                 bodies[i]);
        send_all(&c, request, strlen(request));
        WAIT_FOR(&c, ends[i]);
    }
    hang_up(&c);
    down();
}

TEST(prompts_of_one_request_are_answered_one_after_another)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/completions",
                       "{\"prompt\":[\"" RAW("hello") "\",\"" RAW("count") "\"],\"n\":2,\"temperature\":0,\"max_tokens\":40}"),
                  200, "\"index\":0", "\"index\":1,\"text\":\"Hello there.\"", "\"index\":3,\"text\":\"one two");
    EXPECT_ANSWER(post("/v1/completions", "{\"prompt\":\"" RAW("hello") "\",\"echo\":true,\"temperature\":0}"), 200,
                  "</think>Hello there.");
    down();
}

TEST(the_length_of_an_answer_is_limited)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/messages",
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"count\"}],\"max_tokens\":2,\"temperature\":0}"), 200,
                  "\"stop_reason\":\"max_tokens\"");
    down();
}

/* ---- waiting --------------------------------------------------------------------------------- */

TEST(a_stream_is_never_silent_while_the_engine_is_busy)
{
    setup s = defaults();
    s.serve.stream_defer_ms = 50;
    s.serve.keepalive_ms = 100;
    s.slots = 3;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client chat = post("/v1/chat/completions", CHAT_STREAM("hello"));
    client message = post("/v1/messages", MESSAGE_STREAM("hello"));
    client response = post("/v1/responses", "{\"input\":\"hello\",\"stream\":true}");
    WAIT_FOR(&chat, ": keepalive\n\n");
    WAIT_FOR(&message, "event: message_start");
    WAIT_FOR(&message, "event: ping");
    WAIT_FOR(&response, "event: response.in_progress");
    EXPECT(strstr(text_of(&response), ": keepalive") == NULL);
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&chat, "[DONE]");
    WAIT_FOR(&message, "message_stop");
    WAIT_FOR(&response, "response.completed");
    hang_up(&chat);
    hang_up(&message);
    hang_up(&response);
    down();
}

TEST(an_answer_that_is_not_streamed_can_begin_with_blanks)
{
    setup s = defaults();
    s.serve.nonstream_keepalive = true;
    s.serve.nonstream_first_ms = 50;
    s.serve.keepalive_ms = 50;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client c = post("/v1/chat/completions", CHAT("hello"));
    WAIT_FOR(&c, "\r\n1\r\n \r\n1\r\n \r\n");
    EXPECT(strstr(text_of(&c), "Content-Type: application/json") != NULL);
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&c, "Hello there.");
    WAIT_FOR(&c, "\r\n0\r\n\r\n");
    hang_up(&c);
    down();
}

TEST(progress_is_told_to_who_asks)
{
    setup s = defaults();
    s.serve.stream_defer_ms = 0;
    s.ctx = 32768;
    up(&s);
    bytes body;
    bytes_init(&body, 1 << 20);
    bytes_text(&body, "{\"stream\":true,\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 9000; i++) bytes_text(&body, " hello");
    bytes_text(&body, "\"}]}");
    fake_allow_steps(t.engine, 0);
    client c = ask_with("POST", "/v1/chat/completions", "X-DS4-Progress: 1\r\n", body.data);
    WAIT_FOR(&c, "HTTP/1.1 200");
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&c, ": prefill ");
    WAIT_FOR(&c, "[DONE]");
    hang_up(&c);
    bytes_free(&body);
    down();
}

TEST(counting_tokens_does_not_wait_for_the_engine)
{
    const setup s = defaults();
    up(&s);
    fake_allow_steps(t.engine, 0);
    client busy = post("/v1/chat/completions", CHAT("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    EXPECT_ANSWER(post("/v1/messages/count_tokens", CHAT("hello")), 200, "input_tokens");
    EXPECT_ANSWER(post("/tokenize", "{\"content\":\"hello\"}"), 200, "tokens");
    EXPECT_ANSWER(GET("/metrics"), 200, "ds4_slots_busy");
    hang_up(&busy);
    down();
}

TEST(a_lost_device_is_told_and_requests_come_again_later)
{
    const setup s = defaults();
    up(&s);
    fake_lose_device(t.engine, 3);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 500, "server_error", "fake device failed");
    EXPECT_ANSWER(GET("/health"), 503, "device_lost", "\"progress\":0.00", "Retry-After: ");
    EXPECT_ANSWER(GET("/metrics"), 200, "\nds4_device_up{model_name=\"deepseek-v4-flash\"} 0\n",
                  "\nds4_device_losses_total{model_name=\"deepseek-v4-flash\"} 1\n");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 503, "device_lost", "server_error", "Retry-After: ");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 503, "opened again", "Retry-After: ");
    WAIT_UNTIL(is_healthy());
    EXPECT_ANSWER(GET("/metrics"), 200, "\nds4_device_up{model_name=\"deepseek-v4-flash\"} 1\n");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "Hello there.");
    down();
}

TEST(who_waits_for_a_device_that_does_not_come_back_is_told_to_come_later)
{
    const setup s = defaults();
    up(&s);
    fake_allow_steps(t.engine, 0);
    client running = post("/v1/chat/completions", CHAT("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    client waiting = post("/v1/chat/completions", CHAT("hello"));
    for (int i = 0; i < 100; i++) spin();
    fake_lose_device(t.engine, 1);
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&running, "HTTP/1.1 500");
    WAIT_FOR(&waiting, "HTTP/1.1 503");
    WAIT_FOR(&waiting, "Retry-After: ");
    WAIT_FOR(&waiting, "device_lost");
    WAIT_UNTIL(is_healthy());
    hang_up(&running);
    hang_up(&waiting);
    down();
}

TEST(a_full_queue_sends_clients_away_for_a_while)
{
    setup s = defaults();
    s.max_queue = 1;
    s.serve.stream_defer_ms = 0;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client running = post("/v1/chat/completions", CHAT_STREAM("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    client waiting = post("/v1/chat/completions", CHAT_STREAM("hello"));
    WAIT_FOR(&waiting, "HTTP/1.1 200");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 429, "queue_full", "rate_limit_error", "Retry-After: ");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 529, "overloaded_error", "Retry-After: ");
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&running, "[DONE]");
    WAIT_FOR(&waiting, "[DONE]");
    hang_up(&running);
    hang_up(&waiting);
    down();
}

/* ---- clients that leave ------------------------------------------------------------------------ */

TEST(a_client_that_leaves_the_queue_is_forgotten)
{
    setup s = defaults();
    s.max_queue = 1;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client running = post("/v1/chat/completions", CHAT("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    client waiting = post("/v1/chat/completions", CHAT("hello"));
    for (int i = 0; i < 100; i++) spin();
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 429, "queue_full");
    hang_up(&waiting);
    WAIT_UNTIL(strstr(t.last_line, "cancelled-queue") != NULL);
    client next = post("/v1/chat/completions", CHAT("count"));
    for (int i = 0; i < 100; i++) spin();
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&running, "Hello there.");
    WAIT_FOR(&next, "nine ten");
    hang_up(&running);
    hang_up(&next);
    down();
}

/* What a worker is about to fill in is nobody else's: a thread sanitizer sees who looks. */
TEST(clients_that_leave_while_their_bodies_are_read_are_forgotten)
{
    enum { CLIENTS = 20, WORDS = 20000 };
    const setup s = defaults();
    up(&s);
    bytes body;
    bytes_init(&body, (size_t)1 << 20);
    bytes_text(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < WORDS; i++) bytes_text(&body, "hello ");
    bytes_text(&body, "\"}]}");
    for (int i = 0; i < CLIENTS; i++) {
        client c = post("/v1/chat/completions", body.data);
        hang_up(&c);
    }
    WAIT_UNTIL(t.lines == CLIENTS);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "Hello there.");
    bytes_free(&body);
    down();
}

/* One more step is allowed: then the slot must be free. */
static void leave_and_expect_a_free_slot(client *c, const char *phase, bool half)
{
    if (half) shutdown(c->fd, SHUT_WR);
    else hang_up(c);
    WAIT_UNTIL(strstr(t.last_line, phase) != NULL);
    fake_allow_steps(t.engine, 1);
    WAIT_UNTIL(slot_is("idle") || slot_is("empty"));
    if (half) hang_up(c);
}

TEST(a_client_that_leaves_during_the_prefill_frees_its_slot_within_a_step)
{
    const setup s = defaults();
    up(&s);
    fake_allow_steps(t.engine, 0);
    client c = post("/v1/chat/completions", CHAT("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    leave_and_expect_a_free_slot(&c, "cancelled", false);
    down();
}

TEST(a_client_that_leaves_during_the_answer_frees_its_slot_within_a_step)
{
    for (int half = 0; half < 2; half++) {
        const setup s = defaults();
        up(&s);
        fake_allow_steps(t.engine, 4);
        client c = post("/v1/chat/completions", CHAT_STREAM("count"));
        WAIT_UNTIL(slot_is("decode"));
        WAIT_FOR(&c, "HTTP/1.1 200");
        leave_and_expect_a_free_slot(&c, "cancelled", half);
        down();
    }
}

TEST(a_client_that_does_not_read_is_dropped_and_delays_nobody)
{
    setup s = defaults();
    s.slots = 2;
    s.ctx = 8192;
    s.serve.limits.write_timeout_ms = 500;
    s.serve.limits.max_output_bytes = 16 << 10;
    up(&s);
    bytes much;
    bytes_init(&much, 1 << 20);
    bytes_text(&much, "</think>");
    for (int i = 0; i < 4000; i++) bytes_text(&much,
                                              " one");        /* 12 MB with its logprobs: more than sockets hold */
    fake_rule(t.engine, "flood", 0, much.data);
    bytes_free(&much);

    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"flood\"}],\"max_tokens\":5000,\"temperature\":0,\"stream\":true,"
        "\"logprobs\":true,\"top_logprobs\":20}";
    char request[400];
    client lazy = dial();
    const int small = 4096;
    setsockopt(lazy.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    snprintf(request, sizeof request,
             "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", sizeof body - 1, body);
    send_all(&lazy, request, strlen(request));
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "Hello there.");
    WAIT_UNTIL(strstr(t.last_line, "cancelled") || strstr(t.last_line, "error"));
    WAIT_UNTIL(!slot_is("decode"));
    hang_up(&lazy);
    down();
}

/* ---- failures ---------------------------------------------------------------------------------- */

static ds4_token token_of(const char *text)
{
    ds4_token tokens[16];
    size_t n = 0;
    ds4_error err;
    EXPECT_OK(ds4_tokenize(t.engine, text, strlen(text), false, tokens, 16, &n, &err), err);
    return n ? tokens[n - 1] : -1;
}

TEST(what_fails_early_has_a_status_and_what_fails_late_an_event)
{
    setup s = defaults();
    up(&s);
    fake_fail_on(t.engine, token_of("hello"));
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT_STREAM("hello")), 500, "server_error");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE("hello")), 500, "api_error");
    fake_fail_on(t.engine, token_of("one two three four"));
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT_STREAM("count")), 200, "data: {\"error\":", "data: [DONE]");
    EXPECT_ANSWER(post("/v1/messages", MESSAGE_STREAM("count")), 200, "event: error");
    EXPECT_ANSWER(post("/v1/responses", "{\"input\":\"count\",\"stream\":true,\"temperature\":0}"), 200,
                  "response.failed");
    fake_fail_on(t.engine, -1);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("count")), 200, "nine ten");
    down();
}

/* ---- many ------------------------------------------------------------------------------------- */

/* A request of some kind, whole or broken off; some clients leave before their answer. */
static client some_request(random_stream *r)
{
    static const char *const paths[] = {
        "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions", "/v1/messages/count_tokens",
        "/tokenize", "/detokenize",
        "/apply-template", "/v1/models", "/health", "/metrics", "/slots", "/props", "/nope", "/v1/embeddings",
        "/v1/responses/resp_1"
    };
    static const char *const bodies[] = {
        CHAT("hello"), CHAT_STREAM("hello"), CHAT_STREAM("count"), MESSAGE("count"), MESSAGE_STREAM("hello"),
            "{\"input\":\"hello\",\"stream\":true}",
        "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":3}",
        "{\"prompt\":[1,2,3],\"stream\":true,\"max_tokens\":3}", "{", "[]", "null", "",
        "{\"messages\":[]}", "{\"messages\":\"x\",\"max_tokens\":-1}", "{\"content\":\"hello\"}",
        "{\"tokens\":[1,2,-3]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}",
        "{\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"x\",\"output\":\"y\"}]}",
        "{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"hello\"}],\"max_tokens\":4,\"n\":3,\"logprobs\":true,\"top_logprobs\":2}"
    };
    const char *path = paths[random_below(r, sizeof paths / sizeof *paths)];
    const char *body = bodies[random_below(r, sizeof bodies / sizeof *bodies)];
    const char *method = random_below(r, 8) ? *body && random_below(r, 8) ? "POST" : "GET" : "PUT";
    return ask_with(method, path, random_below(r, 10) ? "" : "anthropic-version: 2023-06-01\r\nX-DS4-Session: a\r\n",
                    body);
}

/* ---- what is counted -------------------------------------------------------------------------- */

static prom_page page;

static void scrape(void)
{
    client c = GET("/metrics");
    WAIT_FOR(&c, NULL);
    const char *body = strstr(text_of(&c), "\r\n\r\n");
    const char *why = body ? prom_read(&page, body + 4) : "no page";
    EXPECT_TEXT(why ? why : "", "");
    hang_up(&c);
}

#define EXPECT_COUNT(name, label, want) \
    do { const double v_ = prom_value(&page, name, label); \
         if (v_ != (want)) test_fail(__FILE__, __LINE__, "%s %s is %g, want %g", name, label, v_, (double)(want)); } while (0)

TEST(counters_tell_what_a_series_of_requests_was)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "Hello there.");
    scrape();
    const double prompt = prom_value(&page, "vllm:prompt_tokens_total", ""),
                 tokens = prom_value(&page, "vllm:generation_tokens_total", "");
    EXPECT(prompt > 0 && tokens > 2);
    EXPECT_COUNT("ds4_prefill_tokens_total", "", prompt);
    EXPECT_COUNT("ds4_cache_miss_total", "reason=\"empty\"", 1);
    EXPECT_COUNT("vllm:time_to_first_token_seconds_count", "", 1);
    EXPECT_COUNT("vllm:inter_token_latency_seconds_count", "", tokens);       /* its end is sampled too */
    EXPECT_COUNT("vllm:request_time_per_output_token_seconds_count", "", 1);

    EXPECT_ANSWER(post("/v1/messages", MESSAGE_STREAM("hello")), 200, "Hello");         /* the same once more */
    EXPECT_ANSWER(post("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"count\"}],"
                       "\"temperature\":0,\"max_tokens\":3}"), 200, "\"length\"");
    EXPECT_ANSWER(post("/v1/chat/completions", "{"), 400, "JSON");
    scrape();
    EXPECT_COUNT("vllm:request_success_total", "finished_reason=\"stop\"", 2);
    EXPECT_COUNT("vllm:request_success_total", "finished_reason=\"length\"", 1);
    EXPECT_COUNT("vllm:request_success_total", "finished_reason=\"error\"", 0);
    EXPECT_COUNT("vllm:time_to_first_token_seconds_count", "", 3);
    EXPECT_COUNT("ds4_time_to_first_token_seconds_count", "", 3);
    EXPECT_COUNT("vllm:request_queue_time_seconds_count", "", 3);
    EXPECT_COUNT("vllm:e2e_request_latency_seconds_count", "", 3);
    EXPECT_COUNT("vllm:request_generation_tokens_sum", "", prom_value(&page, "vllm:generation_tokens_total", ""));
    EXPECT_COUNT("vllm:request_prompt_tokens_sum", "", prom_value(&page, "vllm:prompt_tokens_total", ""));
    EXPECT_COUNT("vllm:prefix_cache_queries_total", "", prom_value(&page, "vllm:prompt_tokens_total", ""));
    const double hits = prom_value(&page, "vllm:prefix_cache_hits_total", "");
    EXPECT(hits >= prompt);
    EXPECT_COUNT("ds4_prompt_tokens_cached_total", "", hits);
    EXPECT_COUNT("ds4_prefill_tokens_total", "", prom_value(&page, "vllm:prompt_tokens_total", "") - hits);
    EXPECT_COUNT("ds4_http_requests_total", "path=\"/v1/chat/completions\",code=\"200\"", 2);
    EXPECT_COUNT("ds4_http_requests_total", "path=\"/v1/chat/completions\",code=\"400\"", 1);
    EXPECT_COUNT("ds4_http_requests_total", "path=\"/v1/messages\",code=\"200\"", 1);
    EXPECT_COUNT("vllm:num_requests_running", "", 0);
    EXPECT_COUNT("ds4_slots_total", "", 1);
    EXPECT(prom_value(&page, "vllm:kv_cache_usage_perc", "") > 0 && prom_value(&page, "vllm:kv_cache_usage_perc", "") < 1);
    down();
}

TEST(any_mixture_of_requests_leaves_the_server_as_it_was)
{
    enum { ROUNDS = 120, AT_ONCE = 16 };
    setup s = defaults();
    s.slots = 2;
    s.max_queue = 6;
    s.serve.stream_defer_ms = 1;
    up(&s);
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < ROUNDS; i++) {
        client clients[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++) clients[k] = some_request(&r);
        for (int k = 0; k < AT_ONCE; k++) {
            if (random_below(&r, 5) == 0) continue;         /* left without a word */
            WAIT_FOR(&clients[k], NULL);
            EXPECT(status_of(&clients[k]) >= 200 && status_of(&clients[k]) < 600 && status_of(&clients[k]) != 500);
        }
        for (int k = 0; k < AT_ONCE; k++) hang_up(&clients[k]);
    }
    WAIT_UNTIL(!slot_is("decode") && !slot_is("prefill"));
    EXPECT_ANSWER(GET("/metrics"), 200, "vllm:num_requests_running{model_name=\"deepseek-v4-flash\"} 0",
                  "vllm:num_requests_waiting{model_name=\"deepseek-v4-flash\"} 0");
    EXPECT_ANSWER(post("/v1/chat/completions", CHAT("hello")), 200, "Hello there.");
    down();
}

/* ---- the end ------------------------------------------------------------------------------------ */

TEST(a_shutdown_lets_what_runs_finish_and_refuses_what_waits)
{
    setup s = defaults();
    s.serve.stream_defer_ms = 0;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client running = post("/v1/chat/completions", CHAT_STREAM("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    client waiting = post("/v1/chat/completions", CHAT("hello"));
    client open = dial();
    send_all(&open, "GET /health HTTP/1.1\r\nHost: x\r\n", 31);
    for (int i = 0; i < 100; i++) spin();

    serve_drain(t.server, 10000, on_flag, &t.drained);
    send_all(&open, "\r\n", 2);
    WAIT_FOR(&open, "shutting_down");
    EXPECT_INT(status_of(&open), 503);
    fake_allow_steps(t.engine, 1);              /* the queue ends between two steps */
    WAIT_FOR(&waiting, "\"code\":\"shutting_down\"");
    EXPECT_INT(status_of(&waiting), 503);
    EXPECT(!t.drained);
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&running, "\"finish_reason\":\"stop\"");
    WAIT_FOR(&running, "[DONE]");
    WAIT_UNTIL(t.drained);
    hang_up(&open);
    hang_up(&running);
    hang_up(&waiting);
    down();
}

TEST(a_shutdown_ends_by_length_what_does_not_finish_in_time)
{
    setup s = defaults();
    up(&s);
    fake_allow_steps(t.engine, 4);
    client running = post("/v1/chat/completions", CHAT_STREAM("count"));
    WAIT_UNTIL(slot_is("decode"));
    serve_drain(t.server, 50, on_flag, &t.drained);
    for (int i = 0; i < 200; i++) spin();
    fake_allow_steps(t.engine, -1);
    WAIT_FOR(&running, "[DONE]");
    WAIT_UNTIL(t.drained);
    hang_up(&running);
    down();
}

TEST(closing_with_requests_in_every_phase_leaves_nothing)
{
    setup s = defaults();
    s.serve.stream_defer_ms = 0;
    up(&s);
    fake_allow_steps(t.engine, 0);
    client clients[4];
    for (int i = 0; i < 4; i++) clients[i] = post("/v1/chat/completions", i & 1 ? CHAT("hello") : CHAT_STREAM("hello"));
    WAIT_UNTIL(slot_is("prefill"));
    down();
    for (int i = 0; i < 4; i++) hang_up(&clients[i]);
}

TEST(a_socket_file_serves_like_a_port)
{
    const setup s = defaults();
    up(&s);
    ds4_error err;
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s", test_scratch("ds4.sock"));
    EXPECT_OK(serve_listen_unix(t.server, a.sun_path, &err), err);
    client c = connect_to((struct sockaddr *)&a, sizeof a, AF_UNIX);
    static const char request[] = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    send_all(&c, request, sizeof request - 1);
    EXPECT_ANSWER(c, 200, "{\"status\":\"ok\"}");
    down();
}

TEST(a_request_line_stays_one_line)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions", "{\"messages\":[{\"role\":\"a\\n\\u001b[2Jb\\\"\",\"content\":\"x\"}]}"), 400, "role");
    EXPECT(strchr(t.last_line, '\n') == NULL && strchr(t.last_line, 27) == NULL);
    EXPECT(strstr(t.last_line, "status=400") && strstr(t.last_line, " error=\""));
    down();
}

TEST(request_lines_can_be_json)
{
    setup s = defaults();
    s.serve.log_json = true;
    up(&s);
    EXPECT_ANSWER(ask_with("POST", "/v1/chat/completions", "X-DS4-Session: abc\r\n", CHAT("hello")), 200,
                  "Hello there.");
    EXPECT(t.last_line[0] == '{' && strstr(t.last_line, "\"finish\":\"stop\"")
           && strstr(t.last_line, "\"session\":\""));
    EXPECT(strstr(t.last_line, "hello") == NULL && strstr(t.last_line, "Hello") == NULL);
    down();
}

TEST(an_effort_that_the_context_does_not_allow_is_told_in_a_header)
{
    const setup s = defaults();
    up(&s);
    EXPECT_ANSWER(post("/v1/chat/completions",
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"reasoning_effort\":\"max\"}"), 200,
                  "X-DS4-Effort: high");
    down();
}
