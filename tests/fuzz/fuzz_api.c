/* Any bytes, as the body of a request: the first byte picks the dialect and the server's switches. What is taken
 * renders or is refused, and its answer is valid UTF-8 in both forms. */
#include <stdlib.h>

#include "api/api.h"
#include "api/scrub.h"
#include "base/checked.h"
#include "base/utf8.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void zeros(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    memset(out, 0, n);
}

static void check(bool good)
{
    if (!good) abort();
}

static void encode(const api_request *r, const api_config *c, bytes *out)
{
    static const char text[] = "a \"b\" \xC3\xA9";
    const answer_logprob top[2] = { { 5, -0.5f }, { 6, -1.5f } };
    const answer_token token = { top[0], top, 2 };
    const slice bytes_of_it = { text, sizeof text - 1 };
    const answer_event events[] = {
        { .kind = ANSWER_REASONING, .bytes = bytes_of_it, .tokens = &token, .n_tokens = r->logprobs },
        { .kind = ANSWER_TEXT, .bytes = bytes_of_it, .tokens = &token, .n_tokens = r->logprobs },
        { .kind = ANSWER_CALL_BEGIN, .id = slice_of("call_1"),
          .name = r->n_callable ? r->callable[0].name : bytes_of_it },
        { .kind = ANSWER_CALL_ARGS, .bytes = slice_of("{\"a\":1}") },
        { .kind = ANSWER_CALL_END },
        { .kind = ANSWER_FINISH, .finish = FINISH_TOOL_CALLS },
    };
    const answer_usage usage = { .prompt_tokens = 9, .cached_tokens = 3, .completion_tokens = 4 };
    const api_answer_info info = { "req_1", 1767225600 };
    api_encoder *e = api_encoder_new(r, c, &info);
    check(e != NULL);
    const bool raw = r->dialect == API_COMPLETIONS;
    api_encode_start(e, &usage, out);
    for (size_t i = 0; i < countof(events); i++) {
        if (!raw || events[i].kind == ANSWER_TEXT || events[i].kind == ANSWER_FINISH) api_encode(e, &events[i], out);
    }
    api_encode_keepalive(e, out);
    api_encode_end(e, &usage, out);
    check(!out->failed && utf8_valid(out->data, out->len) && api_encoder_status(e) == DS4_OK);
    api_encoder_free(e);
}

static void render(const api_request *r, const api_config *c)
{
    chat_prompt p;
    ds4_error err;
    chat_prompt_init(&p, c->vocab, 1u << 24);
    if (chat_render(&p, &r->chat, &err)) check(err.message[0] != 0);
    chat_prompt_free(&p);
}

static const vocab *tiny_vocab(void)
{
    static vocab *v;
    text_source s = text_tiny_source();
    if (!v) text_source_open(&v, &s, NULL);
    text_source_free(&s);
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static scrub_list *scrubs;
    static const char *const rule = "[0-9]+=N";
    const uint8_t pick = size ? data[0] : 0;
    const slice body = { (const char *)data + (size > 0), size - (size > 0) };
    if (!scrubs) scrub_open(&scrubs, &rule, 1, NULL);
    const vocab *v = tiny_vocab();
    const api_config c = {
        .model = "m", .ctx = 1000, .vocab = v, .vocab_size = vocab_size(v), .default_tokens = 100,
        .temperature = 1, .top_p = 1, .random = zeros, .scrubs = scrubs,
        .strict_model = pick & 16, .reject_media = pick & 32,
        .responses_summary = pick & 64, .anthropic_redact = pick & 128,
    };
    const api_dialect d = (api_dialect)(pick & 3);
    const bool count = (pick & 12) == 12;
    api_request *r;
    api_error e = { .status = 0 };
    bytes out;
    bytes_init(&out, 1u << 26);
    char *copy = malloc(body.len + 1);
    if (!copy) abort();
    memcpy(copy, body.data, body.len);
    const slice own = { copy, body.len };
    const bool good = count ? api_parse_count_tokens(&r, own, &c, &e) : api_parse(&r, d, own, &c, &e);
    free(copy);                             /* a request keeps nothing of its body */
    if (good) {
        if (r->dialect != API_COMPLETIONS) render(r, &c);
        if (!count) encode(r, &c, &out);
        api_request_free(r);
    } else {
        check(r == NULL && e.status >= 400 && e.message[0] && utf8_valid(e.message, strlen(e.message)));
        api_error_body(d, &e, "req_1", &out);
        check(utf8_valid(out.data, out.len));
    }
    if ((pick & 12) == 4) {
        bytes_clear(&out);
        if (pick & 1) api_tokenize(body, &c, &out, &e);
        else api_detokenize(body, &c, &out, &e);
    }
    bytes_free(&out);
    return 0;
}
