/* Pages, refusals and answers of the server, what it counts, and how it ends. */
#include "serve_rig.h"

#include <sys/un.h>

#include "../prometheus.h"
#include "base/random.h"

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

/* ---- what is counted -------------------------------------------------------------------------- */

/* A request of some kind, whole or broken off; some clients leave before their answer. */
static client some_request(random_stream *r)
{
    static const char *const paths[] = {
        "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions", "/v1/messages/count_tokens",
        "/tokenize", "/detokenize", "/apply-template", "/v1/models", "/health", "/metrics", "/slots", "/props", "/nope",
        "/v1/embeddings", "/v1/responses/resp_1"
    };
    static const char *const bodies[] = {
        CHAT("hello"), CHAT_STREAM("hello"), CHAT_STREAM("count"), MESSAGE("count"), MESSAGE_STREAM("hello"),
        "{\"input\":\"hello\",\"stream\":true}", "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":3}",
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
    EXPECT(prom_value(&page, "vllm:kv_cache_usage_perc", "") > 0 &&
           prom_value(&page, "vllm:kv_cache_usage_perc", "") < 1);
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
    EXPECT_ANSWER(post("/v1/chat/completions", "{\"messages\":[{\"role\":\"a\\n\\u001b[2Jb\\\"\",\"content\":\"x\"}]}"),
                  400, "role");
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
