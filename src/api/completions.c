/* POST /v1/completions: raw prompts, no template, no reasoning and no tools. */
#include <math.h>
#include <stdlib.h>

#include "api/api_common.h"
#include "base/utf8.h"
#include "net/sse.h"

enum { MAX_PROMPTS = 256 };

/* ---- the request ---------------------------------------------------------------------------- */

static bool read_ids(api_reader *rd, const api_value *list, api_prompt *out)
{
    const int n = api_count(rd, list);
    int32_t *ids = api_take(rd->memory, (size_t)n, sizeof *ids);
    if (!ids) return true;
    int i = 0;
    for (api_value v = api_first(rd, list); v.node; v = api_after(rd, v)) {
        int64_t id;
        if (!api_to_int(rd, &v, 0, rd->config->vocab_size - 1, &id)) return false;
        ids[i++] = (int32_t)id;
    }
    *out = (api_prompt){ .ids = ids, .n_ids = n };
    return true;
}

static bool read_prompt(api_reader *rd, const api_value *v, api_prompt *out)
{
    if (api_is_array(rd, v)) return read_ids(rd, v, out);
    if (!api_is_string(rd, v)) return api_wrong(rd, v, "a string or an array of token ids is expected");
    *out = (api_prompt){ .text = api_raw(rd, v), .n_ids = -1 };
    return true;
}

/* A string, [strings], [ids] or [[ids]]. */
static bool read_prompts(api_reader *rd, const api_value *body)
{
    const api_value v = api_field(rd, body, "prompt"), first = api_first(rd, &v);
    const bool one = !api_is_array(rd, &v) || api_kind(rd, &first) == JSON_TREE_NUMBER;
    const int n = one ? 1 : api_count(rd, &v);
    if (!v.node) return api_wrong(rd, &v, "this field is required");
    if (n == 0) return api_wrong(rd, &v, "at least one prompt is required");
    if (n > MAX_PROMPTS) return api_wrong(rd, &v, "at most %d prompts are possible", MAX_PROMPTS);
    api_prompt *prompts = api_take(rd->memory, (size_t)n, sizeof *prompts);
    if (!prompts) return true;
    rd->r->prompts = prompts;
    rd->r->n_prompts = n;
    if (one) return read_prompt(rd, &v, prompts);
    for (api_value p = first; p.node; p = api_after(rd, p)) {
        if (!read_prompt(rd, &p, prompts++)) return false;
    }
    return true;
}

static bool read_logprobs(api_reader *rd, const api_value *body)
{
    const api_value v = api_field(rd, body, "logprobs");
    int64_t top = 0;
    if (api_kind(rd, &v) == JSON_TREE_FALSE || !api_given(rd, &v)) return true;
    if (!api_to_int(rd, &v, 0, 20, &top)) return false;
    rd->r->logprobs = true;
    rd->r->top_logprobs = (int)top;
    return true;
}

static bool refuse_suffix(api_reader *rd, const api_value *body)
{
    const api_value v = api_field(rd, body, "suffix");
    slice suffix = { "", 0 };
    if (!api_get_string(rd, body, "suffix", &suffix)) return false;
    return !suffix.len || api_wrong(rd, &v, "this model does not fill in the middle");
}

static bool refuse_best_of(api_reader *rd, const api_value *body)
{
    const api_value v = api_field(rd, body, "best_of");
    int64_t best = rd->r->n;
    if (!api_get_int(rd, body, "best_of", 1, API_MAX_CHOICES, &best)) return false;
    return best == rd->r->n || api_wrong(rd, &v, "only the value of n is possible");
}

bool completions_parse(api_reader *rd)
{
    static const char *const limits[] = { "max_tokens", NULL };
    const api_value body = api_body();
    api_request *r = rd->r;
    slice hint = { "", 0 };
    r->max_tokens = 16;
    r->think_budget = 0;
    const bool good = api_model(rd) && read_prompts(rd, &body)
        && api_get_bool(rd, &body, "echo", &r->echo)
        && api_sampling(rd, true) && api_stops(rd, "stop") && api_max_tokens(rd, limits, r->echo ? 0 : 1)
        && api_get_bool(rd, &body, "include_stop_str_in_output", &r->include_stop)
        && api_choices(rd, &body) && read_logprobs(rd, &body) && api_stream_fields(rd, &body)
        && api_no_constraints(rd, &body) && refuse_suffix(rd, &body) && refuse_best_of(rd, &body)
        && api_get_string(rd, &body, "prompt_cache_key", &hint);
    if (!good) return false;
    api_hint(rd, hint);
    return true;
}

/* ---- the answer ----------------------------------------------------------------------------- */

/* The four parallel arrays of logprobs, as items without brackets. */
typedef struct {
    bytes tokens, logprobs, tops, offsets;
} legacy_arrays;

typedef struct {
    bytes         text;
    legacy_arrays arrays;
    size_t        offset;       /* characters of the tokens so far; control tokens are not in the text */
    answer_finish finish;
} completion;

typedef struct {
    api_encoder base;
    char        id[48];
    bytes       json;
    completion *choices;
    int         n_choices;
} completions_state;

static void arrays_init(legacy_arrays *a)
{
    bytes_init(&a->tokens, API_TEXT_MAX);
    bytes_init(&a->logprobs, API_TEXT_MAX);
    bytes_init(&a->tops, API_TEXT_MAX);
    bytes_init(&a->offsets, API_TEXT_MAX);
}

static void arrays_free(legacy_arrays *a)
{
    bytes_free(&a->tokens);
    bytes_free(&a->logprobs);
    bytes_free(&a->tops);
    bytes_free(&a->offsets);
}

static bool arrays_failed(const legacy_arrays *a)
{
    return a->tokens.failed || a->logprobs.failed || a->tops.failed || a->offsets.failed;
}

static json_writer item(bytes *out)
{
    json_writer w;
    json_init(&w, out);
    if (out->len) bytes_char(out, ',');
    return w;
}

/* Tokens that are no whole characters, or that a key can not hold, get names of their own: several of them must
 * not become one key. */
static void write_token_name(bytes *out, slice text)
{
    if (utf8_valid(text.data, text.len) && !memchr(text.data, 0, text.len)) {
        bytes_append(out, text.data, text.len);
        return;
    }
    bytes_text(out, "bytes:");
    for (size_t i = 0; i < text.len; i++) bytes_printf(out, "\\x%02x", (unsigned char)text.data[i]);
}

static void token_name(const api_config *c, int32_t token, bytes *name)
{
    bytes_clear(name);
    write_token_name(name, api_token_text(c, token));
}

static size_t characters(slice text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) n += ((unsigned char)text.data[i] & 0xC0) != 0x80;
    return n;
}

static void write_top(const api_config *c, const answer_token *t, bytes *name, bytes *out)
{
    json_writer w = item(out);
    if (isnan(t->self.logprob)) {
        json_null(&w);
        return;
    }
    json_object(&w);
    for (int i = 0; i < t->n_top; i++) {
        token_name(c, t->top[i].token, name);
        json_put_double(&w, name->data ? name->data : "", api_logprob(t->top[i].logprob), 7);
    }
    json_object_end(&w);
}

static void add_tokens(const api_config *c, completion *k, const answer_token *tokens, int n, legacy_arrays *a)
{
    bytes name;
    bytes_init(&name, 1u << 20);
    for (int i = 0; i < n; i++) {
        const answer_token *t = &tokens[i];
        json_writer w;
        token_name(c, t->self.token, &name);
        w = item(&a->tokens);
        json_string(&w, name.data ? name.data : "", name.len);
        w = item(&a->logprobs);
        if (isnan(t->self.logprob)) json_null(&w);
        else json_double(&w, api_logprob(t->self.logprob), 7);
        write_top(c, t, &name, &a->tops);
        w = item(&a->offsets);
        json_int(&w, (int64_t)k->offset);
        if (!vocab_hidden(c->vocab, t->self.token)) k->offset += characters(api_token_text(c, t->self.token));
    }
    if (name.failed) a->tokens.failed = true;
    bytes_free(&name);
}

static void write_array(json_writer *w, const char *key, const bytes *items)
{
    json_key(w, key);
    json_array(w);
    if (items->len) json_raw(w, items->data, items->len);
    json_array_end(w);
}

static void write_arrays(json_writer *w, const api_request *r, const legacy_arrays *a)
{
    json_key(w, "logprobs");
    if (!r->logprobs) {
        json_null(w);
        return;
    }
    json_object(w);
    write_array(w, "tokens", &a->tokens);
    write_array(w, "token_logprobs", &a->logprobs);
    if (r->top_logprobs) {
        write_array(w, "top_logprobs", &a->tops);
    } else {
        json_key(w, "top_logprobs");
        json_null(w);
    }
    write_array(w, "text_offset", &a->offsets);
    json_object_end(w);
}

static void write_head(const completions_state *s, json_writer *w)
{
    json_object(w);
    json_put_text(w, "id", s->id);
    json_put_text(w, "object", "text_completion");
    json_put_int(w, "created", s->base.created);
    json_put_slice(w, "model", s->base.r->model);
}

/* Echoed prompts and limits of 0 end by length. */
static const char *finish_name(answer_finish finish)
{
    return finish == FINISH_LENGTH || finish == FINISH_CONTEXT || finish == FINISH_CANCELLED ? "length" : "stop";
}

static void write_choice(const completions_state *s, json_writer *w, int index, slice text, const legacy_arrays *arrays,
                         const char *finish)
{
    json_object(w);
    json_put_int(w, "index", index);
    json_put_slice(w, "text", text);
    write_arrays(w, s->base.r, arrays);
    json_put_text(w, "finish_reason", finish);
    json_object_end(w);
}

static void write_usage_member(const completions_state *s, json_writer *w)
{
    json_key(w, "usage");
    api_write_usage(w, &s->base.usage);
}

static void send_chunk(completions_state *s, int index, slice text, const answer_token *tokens, int n_tokens,
                       const char *finish, bytes *out)
{
    legacy_arrays arrays;
    json_writer w;
    arrays_init(&arrays);
    if (s->base.r->logprobs) add_tokens(s->base.c, &s->choices[index], tokens, n_tokens, &arrays);
    json_init(&w, &s->json);
    write_head(s, &w);
    json_key(&w, "choices");
    json_array(&w);
    write_choice(s, &w, index, text, &arrays, finish);
    json_array_end(&w);
    if (s->base.r->continuous_usage) write_usage_member(s, &w);
    json_object_end(&w);
    if (arrays_failed(&arrays)) s->json.failed = true;
    arrays_free(&arrays);
    api_data_event(out, NULL, &s->json);
}

/* Text and tokens of an answer or of the echoed prompt. */
static void add_text(completions_state *s, int index, slice text, const answer_token *tokens, int n_tokens, bytes *out)
{
    completion *k = &s->choices[index];
    if (s->base.r->stream) {
        if (text.len || n_tokens) send_chunk(s, index, text, tokens, n_tokens, NULL, out);
        return;
    }
    api_keep(&s->base, &k->text, text);
    if (s->base.r->logprobs) add_tokens(s->base.c, k, tokens, n_tokens, &k->arrays);
    if (arrays_failed(&k->arrays)) s->base.status = DS4_EFULL;
}

static void encode_event(api_encoder *e, const answer_event *event, bytes *out)
{
    completions_state *s = (completions_state *)e;
    if (event->choice < 0 || event->choice >= s->n_choices) return;
    if (event->kind == ANSWER_TEXT) {
        add_text(s, event->choice, event->bytes, event->tokens, event->n_tokens, out);
    } else if (event->kind == ANSWER_FINISH) {
        s->choices[event->choice].finish = event->finish;
        if (e->r->stream) send_chunk(s, event->choice, (slice){ "", 0 }, NULL, 0, finish_name(event->finish), out);
    }
}

static void encode_echo(api_encoder *e, int choice, const answer_token *tokens, int n_tokens, slice text, bytes *out)
{
    completions_state *s = (completions_state *)e;
    if (choice >= 0 && choice < s->n_choices) add_text(s, choice, text, tokens, n_tokens, out);
}

static void end_stream(completions_state *s, bytes *out)
{
    if (s->base.r->include_usage) {
        json_writer w;
        json_init(&w, &s->json);
        write_head(s, &w);
        json_key(&w, "choices");
        json_array(&w);
        json_array_end(&w);
        write_usage_member(s, &w);
        json_object_end(&w);
        api_data_event(out, NULL, &s->json);
    }
    sse_event(out, NULL, slice_of("[DONE]"));
}

static void write_whole(const completions_state *s, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    write_head(s, &w);
    json_put_text(&w, "system_fingerprint", API_FINGERPRINT);
    json_key(&w, "choices");
    json_array(&w);
    for (int i = 0; i < s->n_choices; i++) {
        const completion *k = &s->choices[i];
        const slice text = { k->text.data ? k->text.data : "", k->text.len };
        write_choice(s, &w, i, text, &k->arrays, finish_name(k->finish));
    }
    json_array_end(&w);
    write_usage_member(s, &w);
    json_object_end(&w);
}

static void encode_end(api_encoder *e, bytes *out)
{
    completions_state *s = (completions_state *)e;
    if (e->r->stream) end_stream(s, out);
    else write_whole(s, out);
}

static void encode_failure(api_encoder *e, const api_error *why, bytes *out)
{
    (void)e;
    api_openai_failure(why, out);
}

static void encoder_free(api_encoder *e)
{
    completions_state *s = (completions_state *)e;
    for (int i = 0; s->choices && i < s->n_choices; i++) {
        bytes_free(&s->choices[i].text);
        arrays_free(&s->choices[i].arrays);
    }
    free(s->choices);
    bytes_free(&s->json);
    free(s);
}

api_encoder *completions_encoder(const api_request *r, const api_config *c)
{
    static const api_encoder_form form = {
        .event = encode_event, .echo = encode_echo, .end = encode_end, .failure = encode_failure, .free = encoder_free,
    };
    completions_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->base.form = &form;
    s->n_choices = r->n_prompts * r->n;
    s->choices = calloc((size_t)s->n_choices, sizeof *s->choices);
    if (!s->choices) {
        encoder_free(&s->base);
        return NULL;
    }
    for (int i = 0; i < s->n_choices; i++) arrays_init(&s->choices[i].arrays);
    bytes_init(&s->json, API_TEXT_MAX);
    api_hex_id(c, "cmpl-", 24, s->id, sizeof s->id);
    return &s->base;
}
