#include <stdio.h>
#include <stdlib.h>

#include "api/api_common.h"
#include "net/sse.h"

/* ---- requests ------------------------------------------------------------------------------- */

typedef bool dialect_parse(api_reader *rd);

static bool fill(api_request *r, slice body, const api_config *c, dialect_parse *parse, api_error *e)
{
    json_tree tree;
    if (!api_read_body(&tree, body, e)) return false;
    api_reader rd = { .tree = &tree, .config = c, .memory = r->memory, .r = r, .error = e };
    const bool good = parse(&rd);
    api_keep_strings(r->memory, &tree);
    if (api_memory_failed(r->memory)) return api_refuse_failed(e, "There is no memory for this request.");
    return good;
}

static bool parse_with(api_request **out, api_dialect d, slice body, const api_config *c, dialect_parse *parse,
                       api_error *e)
{
    *out = NULL;
    api_memory *memory = api_memory_new();
    api_request *r = memory ? api_take(memory, 1, sizeof *r) : NULL;
    if (!r) {
        api_memory_free(memory);
        return api_refuse_failed(e, "There is no memory for this request.");
    }
    *r = (api_request){
        .dialect = d, .chat = chat_request_defaults(), .model = slice_of(c->model),
        .temperature = c->temperature, .top_p = c->top_p, .top_k = c->top_k, .min_p = c->min_p,
        .repetition_penalty = 1, .max_tokens = c->default_tokens, .n = 1, .think_budget = c->think_budget,
        .memory = memory,
    };
    if (!fill(r, body, c, parse, e)) {
        api_memory_free(memory);
        return false;
    }
    *out = r;
    return true;
}

bool api_parse(api_request **out, api_dialect d, slice body, const api_config *c, api_error *e)
{
    static dialect_parse *const parsers[] = {
        [API_CHAT] = chat_parse, [API_COMPLETIONS] = completions_parse,
        [API_RESPONSES] = responses_parse, [API_MESSAGES] = messages_parse,
    };
    return parse_with(out, d, body, c, parsers[d], e);
}

bool api_parse_count_tokens(api_request **out, slice body, const api_config *c, api_error *e)
{
    return parse_with(out, API_MESSAGES, body, c, count_tokens_parse, e);
}

bool api_parse_template(api_request **out, slice body, const api_config *c, api_error *e)
{
    return parse_with(out, API_CHAT, body, c, chat_parse, e);
}

void api_request_free(api_request *r)
{
    if (r) api_memory_free(r->memory);      /* r itself lies in there */
}

/* ---- answers -------------------------------------------------------------------------------- */

api_encoder *api_encoder_new(const api_request *r, const api_config *c, const api_answer_info *info)
{
    api_encoder *e = NULL;
    switch (r->dialect) {
    case API_CHAT:        e = chat_encoder(r, c);        break;
    case API_COMPLETIONS: e = completions_encoder(r, c); break;
    case API_RESPONSES:   e = responses_encoder(r, c);   break;
    case API_MESSAGES:    e = messages_encoder(r, c);    break;
    }
    if (!e) return NULL;
    e->r = r;
    e->c = c;
    e->created = info->created;
    snprintf(e->request_id, sizeof e->request_id, "%s", info->request_id ? info->request_id : "");
    return e;
}

void api_encoder_free(api_encoder *e)
{
    if (e) e->form->free(e);
}

static void ensure_started(api_encoder *e, bytes *out)
{
    if (e->started) return;
    e->started = true;
    if (e->form->start) e->form->start(e, out);
}

void api_encode_start(api_encoder *e, const answer_usage *usage, bytes *out)
{
    if (usage) e->usage = *usage;
    ensure_started(e, out);
}

void api_encode_usage(api_encoder *e, const answer_usage *usage)
{
    e->usage = *usage;
}

void api_encode(api_encoder *e, const answer_event *event, bytes *out)
{
    ensure_started(e, out);
    e->form->event(e, event, out);
}

void api_encode_echo(api_encoder *e, int choice, const answer_token *tokens, int n_tokens, slice text, bytes *out)
{
    ensure_started(e, out);
    if (e->form->echo) e->form->echo(e, choice, tokens, n_tokens, text, out);
}

void api_encode_keepalive(api_encoder *e, bytes *out)
{
    if (!e->r->stream) return;
    if (e->form->keepalive) {
        ensure_started(e, out);
        e->form->keepalive(e, out);
    } else {
        sse_comment(out, "keepalive");
    }
}

void api_encode_progress(api_encoder *e, int done, int total, bytes *out)
{
    char text[64];
    if (!e->r->stream) return;
    snprintf(text, sizeof text, "prefill %d/%d", done, total);
    sse_comment(out, text);
}

void api_encode_end(api_encoder *e, const answer_usage *usage, bytes *out)
{
    if (usage) e->usage = *usage;
    ensure_started(e, out);
    e->form->end(e, out);
}

void api_encode_failure(api_encoder *e, const api_error *why, bytes *out)
{
    if (!e->r->stream) return;
    ensure_started(e, out);
    e->form->failure(e, why, out);
}

ds4_status api_encoder_status(const api_encoder *e)
{
    return e->status;
}

/* ---- what encoders share -------------------------------------------------------------------- */

void api_keep(api_encoder *e, bytes *kept, slice text)
{
    if (!text.len || kept->failed) return;
    if (!kept->max) bytes_init(kept, API_TEXT_MAX);
    if (bytes_append(kept, text.data, text.len)) return;
    e->status = text.len > kept->max - kept->len ? DS4_EFULL : DS4_EMEMORY;
}

void api_hex_id(const api_config *c, const char *prefix, int n, char *out, size_t cap)
{
    uint8_t random[32];
    const size_t n_random = ((size_t)n + 1) / 2;
    c->random(c->random_ctx, random, n_random < sizeof random ? n_random : sizeof random);
    size_t at = (size_t)snprintf(out, cap, "%s", prefix);
    for (int i = 0; i < n && at + 1 < cap; i++) {
        out[at++] = "0123456789abcdef"[random[i / 2] >> (i % 2 ? 0 : 4) & 15];
    }
    out[at < cap ? at : cap - 1] = 0;
}

void json_slice(json_writer *w, slice text)
{
    json_string(w, text.data, text.len);
}

void json_put_slice(json_writer *w, const char *key, slice text)
{
    json_key(w, key);
    json_slice(w, text);
}

void api_write_usage(json_writer *w, const answer_usage *u)
{
    json_object(w);
    json_put_int(w, "prompt_tokens", u->prompt_tokens);
    json_put_int(w, "completion_tokens", u->completion_tokens);
    json_put_int(w, "total_tokens", (int64_t)u->prompt_tokens + u->completion_tokens);
    json_key(w, "prompt_tokens_details");
    json_object(w);
    json_put_int(w, "cached_tokens", u->cached_tokens);
    json_object_end(w);
    json_key(w, "completion_tokens_details");
    json_object(w);
    json_put_int(w, "reasoning_tokens", u->reasoning_tokens);
    json_object_end(w);
    json_put_int(w, "prompt_cache_hit_tokens", u->cached_tokens);
    json_put_int(w, "prompt_cache_miss_tokens", u->prompt_tokens - u->cached_tokens);
    json_object_end(w);
}

void api_data_event(bytes *out, const char *name, bytes *json)
{
    if (json->failed) out->failed = true;
    else sse_event(out, name, (slice){ json->data, json->len });
    bytes_clear(json);
}

void api_openai_failure(const api_error *why, bytes *out)
{
    bytes json;
    json_writer w;
    bytes_init(&json, 1u << 16);
    json_init(&w, &json);
    api_write_error(&w, why);
    api_data_event(out, NULL, &json);
    sse_event(out, NULL, slice_of("[DONE]"));
    bytes_free(&json);
}

slice api_token_text(const api_config *c, int32_t token)
{
    size_t n;
    const char *data = vocab_bytes(c->vocab, token, &n);
    return data ? (slice){ data, n } : (slice){ "", 0 };
}

double api_logprob(float logprob)
{
    return logprob > -9999.0f ? (double)logprob : -9999.0;
}
