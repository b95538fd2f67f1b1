#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "api/scrub.h"
#include "base/checked.h"
#include "runner.h"
#include "text_vocab.h"

/* ---- a server to parse for ------------------------------------------------------------------ */

static void count_up(void *ctx, uint8_t *out, size_t n)
{
    uint8_t *counter = ctx;
    for (size_t i = 0; i < n; i++) out[i] = (*counter)++;
}

static api_config server(const vocab *v)
{
    static uint8_t counter;
    counter = 0;
    return (api_config){
        .model = "deepseek-v4-flash", .display_name = "DeepSeek V4 Flash", .quant = "q2", .ctx = 100000,
        .vocab = v, .vocab_size = vocab_size(v), .started = 1767225600, .default_tokens = 393216,
        .think_budget = 700, .temperature = 0.6f, .top_p = 0.95f, .top_k = 40, .min_p = 0.05f,
        .random = count_up, .random_ctx = &counter,
    };
}

/* Parses and says why not. */
static api_request *parse(api_dialect d, const api_config *c, const char *body)
{
    api_request *r;
    api_error e = { .message = "" };
    char *copy = strdup(body);
    if (!api_parse(&r, d, slice_of(copy), c, &e)) test_fail(__FILE__, __LINE__, "refused: %s", e.message);
    free(copy);
    return r;
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]"
#define TOOL(name) "{\"type\":\"function\",\"function\":{\"name\":\"" name "\"}}"

static bool is(slice s, const char *text)
{
    return slice_is(s, text);
}

/* ---- what a request asks for ---------------------------------------------------------------- */

TEST(fields_that_are_absent_have_the_servers_values)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_request *r = parse(API_CHAT, &c, "{" MESSAGES "}");
    REQUIRE(r);
    EXPECT(is(r->model, "deepseek-v4-flash"));
    EXPECT(!r->stream && !r->include_usage && !r->logprobs && !r->has_seed && !r->max_tokens_given && !r->one_call);
    EXPECT(r->temperature == 0.6f && r->top_p == 0.95f && r->top_k == 40 && r->min_p == 0.05f);
    EXPECT(r->repetition_penalty == 1 && r->frequency_penalty == 0 && r->presence_penalty == 0);
    EXPECT_INT(r->max_tokens, 393216);
    EXPECT_INT(r->n, 1);
    EXPECT_INT(r->think_budget, 700);
    EXPECT_INT(r->choice, API_TOOLS_AUTO);
    EXPECT_INT(r->chat.n_messages, 1);
    EXPECT_INT(r->chat.ctx, 100000);
    EXPECT(!r->chat.no_thinking && r->chat.effort == EFFORT_UNSET);
    api_request_free(r);
    api_request_free(NULL);

    r = parse(API_COMPLETIONS, &c, "{\"prompt\":\"\"}");
    REQUIRE(r);
    EXPECT_INT(r->max_tokens, 16);
    EXPECT_INT(r->think_budget, 0);
    EXPECT_INT(r->prompts[0].n_ids, -1);
    api_request_free(r);
    vocab_close(v);
}

TEST(fields_that_are_given_are_taken)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_request *r = parse(API_CHAT, &c,
        "{" MESSAGES ",\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"temperature\":0,\"top_p\":0.5,\"top_k\":7,\"min_p\":0,\"seed\":12345678901234567890,"
        "\"presence_penalty\":-2,\"frequency_penalty\":1.5,\"repetition_penalty\":1.25,"
        "\"logit_bias\":{\"7\":-100,\"0\":2.5},\"max_completion_tokens\":9,\"max_tokens\":5,\"n\":8,"
        "\"logprobs\":true,\"top_logprobs\":20,\"stop\":[\"a\",\"\",\"b\"],\"include_stop_str_in_output\":true,"
        "\"parallel_tool_calls\":false,\"thinking_token_budget\":55,\"prompt_cache_key\":\"key\"}");
    REQUIRE(r);
    EXPECT(is(r->model, "m") && r->stream && r->include_usage && !r->continuous_usage);
    EXPECT(r->temperature == 0 && r->top_p == 0.5f && r->top_k == 7 && r->min_p == 0);
    EXPECT(r->has_seed && r->seed == 12345678901234567890u);
    EXPECT(r->presence_penalty == -2 && r->frequency_penalty == 1.5f && r->repetition_penalty == 1.25f);
    EXPECT_INT(r->n_bias, 2);
    EXPECT(r->bias[0].token == 7 && r->bias[0].bias == -100 && r->bias[1].token == 0 && r->bias[1].bias == 2.5f);
    EXPECT(r->max_tokens == 9 && r->max_tokens_given && r->n == 8);
    EXPECT(r->logprobs && r->top_logprobs == 20);
    EXPECT_INT(r->n_stops, 2);
    EXPECT(is(r->stops[0], "a") && is(r->stops[1], "b") && r->include_stop);
    EXPECT(r->one_call && r->think_budget == 55);
    EXPECT(r->n_hints == 1 && is(r->hints[0], "key"));
    api_request_free(r);
    vocab_close(v);
}

TEST(numbers_are_read_as_json_writes_them)
{
    static const struct { const char *text; double value; } cases[] = {
        { "0.5", 0.5 }, { "5e-1", 0.5 }, { "0.0000000005E+9", 0.5 }, { "500000e-6", 0.5 }, { "2", 2 }, { "-0", 0 },
        { "0e999999999999999999999", 0 }, { "1e-999999999999999999999", 0 },
        { "0.500000000000000000000000000000000000000000000000000000000000000000000000000001", 0.5 },
        { "0.00000000000000000000000000000000000000000000000000000000000005e61", 0.5 },
        { "5000000000000000000000000000000000000000000000000000000000000000000e-67", 0.5 },
    };
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    for (size_t i = 0; i < countof(cases); i++) {
        char body[300];
        snprintf(body, sizeof body, "{" MESSAGES ",\"temperature\":%s}", cases[i].text);
        api_request *r = parse(API_CHAT, &c, body);
        REQUIRE(r);
        if (r->temperature != (float)cases[i].value) {
            test_fail(__FILE__, __LINE__, "%s is %g", cases[i].text, r->temperature);
        }
        api_request_free(r);
    }
    api_request *r = parse(API_CHAT, &c,
                           "{" MESSAGES ",\"max_tokens\":9007199254740992,\"seed\":-9223372036854775807}");
    REQUIRE(r);
    EXPECT_INT(r->max_tokens, INT32_MAX);
    EXPECT(r->seed == (uint64_t)-9223372036854775807);
    api_request_free(r);
    vocab_close(v);
}

TEST(the_official_policy_ignores_sampling_of_requests_that_think)
{
    vocab *v = text_tiny_vocab();
    api_config c = server(v);
    c.official_sampling = true;
    api_request *r = parse(API_CHAT, &c,
                           "{" MESSAGES ",\"temperature\":0,\"top_k\":1,\"presence_penalty\":2,\"seed\":5}");
    REQUIRE(r);
    EXPECT(r->temperature == 0.6f && r->top_k == 40 && r->presence_penalty == 0 && r->seed == 5);
    api_request_free(r);
    r = parse(API_CHAT, &c, "{" MESSAGES ",\"temperature\":0,\"thinking\":{\"type\":\"disabled\"}}");
    REQUIRE(r);
    EXPECT(r->temperature == 0);
    api_request_free(r);
    vocab_close(v);
}

/* Rules 1 to 5 of the mode, and where the effort comes from. */
TEST(the_first_rule_that_speaks_decides_whether_the_model_thinks)
{
    static const struct { int mode; const char *model, *fields; bool thinks; chat_effort effort; } cases[] = {
        { 0, "x", "", true, EFFORT_UNSET },
        { 1, "x", "", true, EFFORT_MAX },
        { 2, "x", "", false, EFFORT_UNSET },
        { 2, "x", ",\"thinking\":{\"type\":\"adaptive\"}", true, EFFORT_UNSET },
        { 2, "x", ",\"thinking\":{\"budget_tokens\":5}", true, EFFORT_UNSET },
        { 0, "x", ",\"thinking\":false", false, EFFORT_UNSET },
        { 0, "x", ",\"think\":false,\"enable_thinking\":true", false, EFFORT_UNSET },
        { 0, "x", ",\"chat_template_kwargs\":{\"enable_thinking\":false}", false, EFFORT_UNSET },
        { 0, "x", ",\"reasoning_effort\":\"none\"", false, EFFORT_UNSET },
        { 0, "x", ",\"reasoning_effort\":\"off\",\"think\":true", true, EFFORT_UNSET },
        { 0, "x", ",\"reasoning_effort\":\"minimal\"", true, EFFORT_LOW },
        { 0, "x", ",\"reasoning_effort\":\"medium\"", true, EFFORT_HIGH },
        { 0, "x", ",\"reasoning_effort\":\"7\"", true, EFFORT_HIGH },
        { 1, "x", ",\"reasoning_effort\":\"low\"", true, EFFORT_LOW },
        { 2, "x", ",\"reasoning_effort\":\"ultra\"", false, EFFORT_MAX },
        { 0, "deepseek-chat", "", false, EFFORT_UNSET },
        { 2, "deepseek-reasoner", "", true, EFFORT_UNSET },
        { 2, "deepseek-chat", ",\"think\":true", true, EFFORT_UNSET },
        { 0, "deepseek-v4-flash-nothink", "", false, EFFORT_UNSET },
        { 2, "deepseek-v4-flash-think", "", true, EFFORT_UNSET },
        { 2, "deepseek-v4-flash-max", "", true, EFFORT_MAX },
        { 0, "deepseek-v4-flash-max", ",\"reasoning_effort\":\"low\"", true, EFFORT_LOW },
        { 2, "fast-think", "", true, EFFORT_UNSET },
        { 2, "other-think", "", false, EFFORT_UNSET },
        { 2, "-max", "", false, EFFORT_UNSET },
    };
    static const char *const aliases[] = { "fast" };
    vocab *v = text_tiny_vocab();
    api_config c = server(v);
    c.aliases = aliases;
    c.n_aliases = 1;
    for (size_t i = 0; i < countof(cases); i++) {
        char body[400];
        c.mode = cases[i].mode;
        snprintf(body, sizeof body, "{\"model\":\"%s\"," MESSAGES "%s}", cases[i].model, cases[i].fields);
        api_request *r = parse(API_CHAT, &c, body);
        REQUIRE(r);
        if (r->chat.no_thinking == cases[i].thinks || r->chat.effort != cases[i].effort) {
            test_fail(__FILE__, __LINE__, "mode %d, %s%s: thinks %d, effort %d", cases[i].mode, cases[i].model,
                      cases[i].fields, !r->chat.no_thinking, (int)r->chat.effort);
        }
        api_request_free(r);
    }
    vocab_close(v);
}

TEST(a_choice_of_tools_is_one_of_five)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    static const struct { const char *choice; api_tool_choice want; const char *name; int n_callable; } cases[] = {
        { "null", API_TOOLS_AUTO, "", 3 }, { "\"auto\"", API_TOOLS_AUTO, "", 3 }, { "\"none\"", API_TOOLS_NONE, "", 3 },
        { "\"required\"", API_TOOLS_REQUIRED, "", 3 },
        { "{\"type\":\"function\",\"function\":{\"name\":\"b\"}}", API_TOOLS_NAMED, "b", 3 },
        { "{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"required\",\"tools\":[" TOOL("c") "]}}",
          API_TOOLS_NAMED, "c", 1 },
        { "{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"required\",\"tools\":["
          TOOL("c") "," TOOL("a") "]}}", API_TOOLS_REQUIRED, "", 2 },
        { "{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[" TOOL("c") "]}}",
          API_TOOLS_AUTO, "", 1 },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        char body[600];
        snprintf(body, sizeof body, "{" MESSAGES ",\"tools\":[" TOOL("a") "," TOOL("b") "," TOOL("c") "],"
                 "\"tool_choice\":%s}", cases[i].choice);
        api_request *r = parse(API_CHAT, &c, body);
        REQUIRE(r);
        EXPECT_INT(r->choice, cases[i].want);
        EXPECT_INT(r->chat.n_tools, 3);
        EXPECT_INT(r->n_callable, cases[i].n_callable);
        EXPECT(slice_equal(r->chosen_tool, slice_of(cases[i].name)));
        api_request_free(r);
    }
    vocab_close(v);
}

TEST(results_behind_the_last_answer_are_told)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_request *r = parse(API_CHAT, &c,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"old\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":\"\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"\"}]}");
    REQUIRE(r);
    EXPECT_INT(r->n_results, 2);
    EXPECT(is(r->result_ids[0], "c2") && is(r->result_ids[1], "c1"));
    api_request_free(r);

    r = parse(API_CHAT, &c, "{" MESSAGES "}");
    REQUIRE(r);
    EXPECT_INT(r->n_results, 0);
    api_request_free(r);
    vocab_close(v);
}

TEST(a_short_question_without_tools_is_a_side_request)
{
    static const struct { const char *fields; bool side; } cases[] = {
        { "", false }, { ",\"max_tokens\":1024", true }, { ",\"max_tokens\":1025", false },
        { ",\"max_tokens\":10,\"tools\":[" TOOL("a") "]", false },
    };
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    for (size_t i = 0; i < countof(cases); i++) {
        char body[300];
        snprintf(body, sizeof body, "{" MESSAGES "%s}", cases[i].fields);
        api_request *r = parse(API_CHAT, &c, body);
        REQUIRE(r);
        EXPECT_INT(r->side, cases[i].side);
        api_request_free(r);
    }
    vocab_close(v);
}

TEST(what_is_left_out_is_told_once_and_bounded)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_request *r = parse(API_CHAT, &c,
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"},{\"type\":\"x\"},{\"type\":\"x\"},"
        "{\"type\":\"x\"},{\"type\":\"x\"},{\"type\":\"x\"},{\"type\":\"x\"},{\"type\":\"x\"},{\"type\":\"x\"}]}],"
        "\"tools\":[{\"type\":\"web_search\"}]}");
    REQUIRE(r);
    EXPECT_INT(r->n_warnings, 8);
    EXPECT(is(r->warnings[0], "a part of type image_url is not supported"));
    EXPECT_INT(r->chat.n_tools, 0);
    api_request_free(r);
    vocab_close(v);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void expect_body(api_dialect d, const api_error *e, const char *want)
{
    bytes out;
    bytes_init(&out, 10000);
    api_error_body(d, e, "req_1", &out);
    EXPECT_TEXT(out.data, want);
    bytes_free(&out);
}

TEST(each_situation_has_its_words_in_both_forms)
{
    api_error e;
    api_refuse_too_long(&e, API_CHAT, 120000, 100000);
    EXPECT_INT(e.status, 400);
    expect_body(API_CHAT, &e, "{\"error\":{\"message\":\"This model's maximum context length is 100000 tokens. "
        "However, your messages resulted in 120000 tokens. Please reduce the length of the messages.\","
        "\"type\":\"invalid_request_error\",\"param\":\"messages\",\"code\":\"context_length_exceeded\","
        "\"n_prompt_tokens\":120000,\"n_ctx\":100000}}");
    api_refuse_too_long(&e, API_MESSAGES, 120000, 100000);
    expect_body(API_MESSAGES, &e, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":"
        "\"prompt is too long: 120000 tokens > 100000 maximum\"},\"request_id\":\"req_1\"}");

    api_refuse_queue_full(&e, API_CHAT, 7);
    EXPECT(e.status == 429 && e.retry_after == 7);
    expect_body(API_CHAT, &e, "{\"error\":{\"message\":\"Too many requests are waiting; try again in 7 s.\","
        "\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"queue_full\"}}");
    api_refuse_queue_full(&e, API_MESSAGES, 7);
    EXPECT_INT(e.status, 529);
    expect_body(API_MESSAGES, &e, "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":"
        "\"Too many requests are waiting; try again in 7 s.\"},\"request_id\":\"req_1\"}");

    api_refuse_unavailable(&e, true);
    EXPECT(e.status == 503 && e.retry_after == 2 && !strcmp(e.code, "loading"));
    api_refuse_unavailable(&e, false);
    EXPECT(e.status == 503 && e.retry_after == 2 && !strcmp(e.code, "shutting_down"));
    expect_body(API_MESSAGES, &e, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":"
        "\"The server is shutting down.\"},\"request_id\":\"req_1\"}");
    api_refuse_failed(&e, "It broke.");
    expect_body(API_RESPONSES, &e, "{\"error\":{\"message\":\"It broke.\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":null}}");
}

TEST(anthropic_names_an_error_by_its_status)
{
    static const struct { int status; const char *name; } cases[] = {
        { 400, "invalid_request_error" }, { 401, "authentication_error" }, { 403, "permission_error" },
        { 404, "not_found_error" }, { 413, "request_too_large" }, { 429, "rate_limit_error" },
        { 500, "api_error" }, { 503, "api_error" }, { 529, "overloaded_error" }, { 415, "invalid_request_error" },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        api_error e;
        char want[200];
        EXPECT(!api_refuse(&e, cases[i].status, "any", NULL, NULL, "m"));
        snprintf(want, sizeof want, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"m\"},"
                 "\"request_id\":\"req_1\"}", cases[i].name);
        expect_body(API_MESSAGES, &e, want);
    }
}

TEST(a_sentence_that_begins_with_its_field_names_it)
{
    api_error e;
    api_refuse_field(&e, "tools[3].name: 1 to 128 characters");
    EXPECT_TEXT(e.param, "tools[3].name");
    EXPECT_TEXT(e.message, "tools[3].name: 1 to 128 characters");
    api_refuse_field(&e, "no field here: none");
    EXPECT_TEXT(e.param, "");
    EXPECT(!api_refuse_field(NULL, "x: y"));
}

TEST(long_refusals_are_cut_between_characters)
{
    api_error e;
    char text[2000];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3) memcpy(text + i, "€", 4);
        api_refuse(&e, 400, "t", NULL, text, "%s", text);
        EXPECT(utf8_valid(e.message, strlen(e.message)) && strlen(e.message) > 500);
        EXPECT(utf8_valid(e.param, strlen(e.param)) && strlen(e.param) > 120);
    }
}

TEST(a_body_of_too_many_values_is_refused)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_request *r;
    api_error e;
    bytes body;
    bytes_init(&body, 1u << 26);
    bytes_text(&body, "{\"prompt\":[1");
    for (int i = 0; i < 4000000; i++) bytes_append(&body, ",1", 2);
    bytes_text(&body, "]}");
    EXPECT(!api_parse(&r, API_COMPLETIONS, (slice){ body.data, body.len }, &c, &e));
    EXPECT(r == NULL && e.status == 400 && strstr(e.message, "too many values"));
    bytes_free(&body);
    vocab_close(v);
}

/* ---- the tokenizer's endpoints -------------------------------------------------------------- */

typedef bool body_call(slice body, const api_config *c, bytes *out, api_error *e);

static void expect_answer(body_call *call, const char *body, const char *want)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_error e = { .message = "" };
    bytes out;
    bytes_init(&out, 100000);
    if (call(slice_of(body), &c, &out, &e)) EXPECT_TEXT(out.data, want);
    else EXPECT_TEXT(e.message, want);
    bytes_free(&out);
    vocab_close(v);
}

TEST(text_becomes_tokens_and_tokens_text)
{
    expect_answer(api_tokenize, "{\"content\":\"abc\"}", "{\"tokens\":[260]}");
    expect_answer(api_tokenize, "{\"content\":\"\"}", "{\"tokens\":[]}");
    expect_answer(api_tokenize, "{\"content\":\"<think>abc\",\"add_special\":true}", "{\"tokens\":[272,273,260]}");
    expect_answer(api_detokenize, "{\"tokens\":[273,260]}", "{\"content\":\"<think>abc\"}");
    expect_answer(api_detokenize, "{\"tokens\":[]}", "{\"content\":\"\"}");
    expect_answer(api_tokenize, "{}", "content: this field is required");
    expect_answer(api_tokenize, "{\"content\":\"a\",\"parse_special\":1}", "parse_special: true or false is expected");
    expect_answer(api_detokenize, "{\"tokens\":[-1]}", "tokens[0]: an integer from 0 to 276 is expected");
    expect_answer(api_detokenize, "{\"tokens\":\"a\"}", "tokens: an array is expected");
    expect_answer(api_detokenize, "[]", "The body is JSON, but not an object.");
}

TEST(control_tokens_are_plain_text_when_asked)
{
    vocab *v = text_tiny_vocab();
    const api_config c = server(v);
    api_error e;
    bytes out;
    bytes_init(&out, 1000);
    REQUIRE(api_tokenize(slice_of("{\"content\":\"<think>\",\"parse_special\":false}"), &c, &out, &e));
    EXPECT(!strstr(out.data, "273"));
    bytes_clear(&out);
    api_template_body(slice_of("<think>\"\n"), &out);
    EXPECT_TEXT(out.data, "{\"prompt\":\"<think>\\\"\\n\"}");
    bytes_free(&out);
    vocab_close(v);
}

/* ---- scrubs --------------------------------------------------------------------------------- */

static void expect_scrubbed(const char *rule, const char *text, const char *want)
{
    scrub_list *s;
    ds4_error err = { .message = "" };
    bytes out;
    bytes_init(&out, 1u << 20);
    REQUIRE_OK(scrub_open(&s, &rule, 1, &err), err);
    const bool changed = scrub_apply(s, slice_of(text), &out);
    EXPECT_INT(changed, want != NULL);
    if (changed && want) EXPECT_TEXT(out.data, want);
    scrub_close(s);
    bytes_free(&out);
}

TEST(scrubs_rewrite_line_by_line)
{
    expect_scrubbed("[0-9]+=N", "a 12 b 3\n4\n", "a N b N\nN\n");
    expect_scrubbed("^Date: .*$=Date: today", "x\nDate: 5\ny Date: 6", "x\nDate: today\ny Date: 6");
    expect_scrubbed("^a=", "aab", "ab");                /* the line begins once */
    expect_scrubbed("a\\=b=c", "a=b", "c");
    expect_scrubbed("x*=y", "abc", NULL);               /* nothing matched is nothing to rewrite */
    expect_scrubbed("q=r", "abc", NULL);
    expect_scrubbed("q=r", "", NULL);
    expect_scrubbed("a=b", "aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbaaaa");     /* at most 16 in a line */
}

TEST(scrubs_follow_each_other)
{
    static const char *const rules[] = { "a=b", "b=c" };
    scrub_list *s;
    ds4_error err = { .message = "" };
    bytes out;
    bytes_init(&out, 1000);
    REQUIRE_OK(scrub_open(&s, rules, 2, &err), err);
    EXPECT(scrub_apply(s, slice_of("ab"), &out));
    EXPECT_TEXT(out.data, "cc");
    scrub_close(s);
    bytes_free(&out);
}

TEST(wrong_scrubs_are_refused)
{
    static const char *const wrong[] = { "", "abc", "=x", "a\\=b", "(=x" };
    for (size_t i = 0; i < countof(wrong); i++) {
        scrub_list *s;
        ds4_error err;
        EXPECT_INT(scrub_open(&s, &wrong[i], 1, &err), DS4_EARG);
        EXPECT(s == NULL);
    }
}
