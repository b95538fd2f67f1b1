/* Requests and answers of all dialects while memory runs out: refused or remembered, never half done. */
#include "api/api.h"
#include "api/scrub.h"
#include "base/status.h"
#include "fault/alloc.h"
#include "text_vocab.h"

typedef struct {
    const vocab      *v;
    const scrub_list *scrubs;
    api_dialect       dialect;
    const char       *body;
} work;

static void zeros(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    memset(out, 0, n);
}

static void send_events(api_encoder *e, const api_request *r, bytes *out)
{
    char long_text[3000];
    const answer_logprob top[2] = { { 5, -0.5f }, { 6, -1.5f } };
    const answer_token token = { top[0], top, 2 };
    const answer_event events[] = {
        { .kind = ANSWER_REASONING, .bytes = slice_of("because"), .tokens = &token, .n_tokens = r->logprobs },
        { .kind = ANSWER_TEXT, .bytes = { long_text, sizeof long_text }, .tokens = &token, .n_tokens = r->logprobs },
        { .kind = ANSWER_CALL_BEGIN, .id = slice_of("call_1"), .name = slice_of("f") },
        { .kind = ANSWER_CALL_ARGS, .bytes = slice_of("{\"a\":1}") },
        { .kind = ANSWER_CALL_END },
        { .kind = ANSWER_FINISH, .finish = FINISH_TOOL_CALLS },
    };
    memset(long_text, 'x', sizeof long_text);
    for (size_t i = 0; i < countof(events); i++) {
        const bool raw = r->dialect == API_COMPLETIONS;
        if (!raw || events[i].kind == ANSWER_TEXT || events[i].kind == ANSWER_FINISH) api_encode(e, &events[i], out);
    }
}

static ds4_status encode(const api_request *r, const api_config *c, ds4_error *err)
{
    const api_answer_info info = { "req_1", 1767225600 };
    const answer_usage usage = { .prompt_tokens = 9, .completion_tokens = 4 };
    bytes out;
    api_encoder *e = api_encoder_new(r, c, &info);
    if (!e) return ds4_fail(err, DS4_EMEMORY, "no encoder");
    bytes_init(&out, 1u << 20);
    api_encode_start(e, &usage, &out);
    send_events(e, r, &out);
    api_encode_end(e, &usage, &out);
    const bool failed = out.failed || api_encoder_status(e) != DS4_OK;
    if (!failed) EXPECT(out.len > 3000);
    api_encoder_free(e);
    bytes_free(&out);
    return failed ? ds4_fail(err, DS4_EMEMORY, "the answer is not whole") : DS4_OK;
}

static ds4_status run(void *ctx, ds4_error *err)
{
    const work *w = ctx;
    const api_config c = {
        .model = "m", .ctx = 1000, .vocab = w->v, .vocab_size = vocab_size(w->v), .default_tokens = 100,
        .temperature = 1, .top_p = 1, .random = zeros, .scrubs = w->scrubs,
    };
    api_request *r;
    api_error e = { .message = "" };
    if (!api_parse(&r, w->dialect, slice_of(w->body), &c, &e)) {
        EXPECT(r == NULL);
        EXPECT_INT(e.status, 500);
        return ds4_fail(err, DS4_EMEMORY, "%s", e.message);
    }
    const ds4_status st = encode(r, &c, err);
    api_request_free(r);
    return st;
}

static void run_out_of_memory(api_dialect d, const char *body)
{
    static const char *const rule = "[0-9]=N";
    vocab *v = text_tiny_vocab();
    scrub_list *scrubs;
    ds4_error err;
    REQUIRE_OK(scrub_open(&scrubs, &rule, 1, &err), err);
    work w = { v, scrubs, d, body };
    fault_each(run, &w);
    scrub_close(scrubs);
    vocab_close(v);
}

#define CHAT_BODY \
    "\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"day 1\"},\"S\"]}," \
    "{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]},{\"role\":\"assistant\",\"content\":\"a\"," \
    "\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}," \
    "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"r\"}]," \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]," \
    "\"stop\":[\"x\"],\"logit_bias\":{\"5\":1},\"prompt_cache_key\":\"k\",\"logprobs\":true,\"top_logprobs\":2"

TEST(chat_without_memory)
{
    run_out_of_memory(API_CHAT, "{" CHAT_BODY "}");
    run_out_of_memory(API_CHAT, "{" CHAT_BODY ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

TEST(completions_without_memory)
{
    run_out_of_memory(API_COMPLETIONS, "{\"prompt\":[[1,2],[3]],\"logprobs\":2}");
    run_out_of_memory(API_COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":2,\"stream\":true}");
}

#define RESPONSES_BODY \
    "\"instructions\":\"I\",\"input\":[{\"role\":\"user\",\"content\":\"q\"},{\"type\":\"reasoning\",\"summary\":[]," \
    "\"content\":[{\"type\":\"reasoning_text\",\"text\":\"r\"}]},{\"type\":\"function_call\",\"call_id\":\"c\"," \
    "\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"o\"}]," \
    "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}]," \
    "\"include\":[\"reasoning.encrypted_content\"],\"metadata\":{\"a\":\"b\"}"

TEST(responses_without_memory)
{
    run_out_of_memory(API_RESPONSES, "{" RESPONSES_BODY "}");
    run_out_of_memory(API_RESPONSES, "{" RESPONSES_BODY ",\"stream\":true}");
}

#define MESSAGES_BODY \
    "\"max_tokens\":9,\"system\":[{\"type\":\"text\",\"text\":\"S 1\"}],\"messages\":[{\"role\":\"user\"," \
    "\"content\":\"q\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"t\"}," \
    "{\"type\":\"tool_use\",\"id\":\"c\",\"name\":\"f\",\"input\":{\"a\":1}}]},{\"role\":\"user\",\"content\":" \
    "[{\"type\":\"tool_result\",\"tool_use_id\":\"c\",\"content\":\"r\"}]}]," \
    "\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}],\"metadata\":{\"user_id\":\"u_session_1\"}"

TEST(messages_without_memory)
{
    run_out_of_memory(API_MESSAGES, "{" MESSAGES_BODY "}");
    run_out_of_memory(API_MESSAGES, "{" MESSAGES_BODY ",\"stream\":true}");
}
