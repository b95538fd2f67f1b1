/* Clients of the server that wait, leave or meet a failure. */
#include "serve_rig.h"

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
