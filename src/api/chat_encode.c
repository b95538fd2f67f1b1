/* POST /v1/chat/completions: the answer, as chunks or as one object. */
#include <stdlib.h>

#include "api/api_common.h"
#include "net/sse.h"

typedef struct {
    bytes id, name, arguments;
    bool  complete;
} kept_call;

/* A choice of an answer that goes out in one piece. */
typedef struct {
    bytes         text, reasoning;
    bytes         text_logprobs, reasoning_logprobs;    /* items of JSON arrays */
    kept_call    *calls;
    int           n_calls, cap_calls;
    answer_finish finish;
} kept_choice;

typedef struct {
    api_encoder  base;
    char         id[48];
    bytes        json;          /* the chunk being written */
    kept_choice *choices;       /* [base.r->n]             */
} chat_encoder_state;

/* ---- pieces of JSON ------------------------------------------------------------------------- */

static const char *finish_name(const api_request *r, answer_finish finish)
{
    switch (finish) {
    case FINISH_TOOL_CALLS: return r->legacy_functions ? "function_call" : "tool_calls";
    case FINISH_STOP:
    case FINISH_STOP_STRING: return "stop";
    default:                 return "length";
    }
}

static void write_head(const chat_encoder_state *s, json_writer *w, const char *object)
{
    json_object(w);
    json_put_text(w, "id", s->id);
    json_put_text(w, "object", object);
    json_put_int(w, "created", s->base.created);
    json_put_slice(w, "model", s->base.r->model);
    json_put_text(w, "system_fingerprint", API_FINGERPRINT);
}

static void write_logprob(json_writer *w, const api_config *c, const answer_logprob *l, const answer_token *with_top)
{
    const slice text = api_token_text(c, l->token);
    json_object(w);
    json_put_slice(w, "token", text);
    json_put_double(w, "logprob", api_logprob(l->logprob), 7);
    json_key(w, "bytes");
    json_array(w);
    for (size_t i = 0; i < text.len; i++) json_int(w, (unsigned char)text.data[i]);
    json_array_end(w);
    if (with_top) {
        json_key(w, "top_logprobs");
        json_array(w);
        for (int i = 0; i < with_top->n_top; i++) write_logprob(w, c, &with_top->top[i], NULL);
        json_array_end(w);
    }
    json_object_end(w);
}

/* The items of an array, without its brackets. */
static void write_logprob_items(const api_config *c, const answer_event *event, bytes *out)
{
    for (int i = 0; i < event->n_tokens; i++) {
        json_writer w;
        json_init(&w, out);
        if (out->len) bytes_char(out, ',');
        write_logprob(&w, c, &event->tokens[i].self, &event->tokens[i]);
    }
}

static void write_items(json_writer *w, const char *key, const bytes *items, bool given)
{
    json_key(w, key);
    if (!given) {
        json_null(w);
        return;
    }
    json_array(w);
    if (items->len) json_raw(w, items->data, items->len);
    json_array_end(w);
}

static void write_logprobs(json_writer *w, const bytes *text, bool has_text, const bytes *reasoning, bool has_reasoning)
{
    json_key(w, "logprobs");
    json_object(w);
    write_items(w, "content", text, has_text);
    json_key(w, "refusal");
    json_null(w);
    if (has_reasoning) write_items(w, "reasoning_content", reasoning, true);
    json_object_end(w);
}

static void write_reasoning(json_writer *w, const api_config *c, slice text)
{
    const bool both = c->reasoning_field == REASONING_FIELD_BOTH;
    if (both || c->reasoning_field == REASONING_FIELD_CONTENT) json_put_slice(w, "reasoning_content", text);
    if (both || c->reasoning_field == REASONING_FIELD_REASONING) json_put_slice(w, "reasoning", text);
}

/* ---- chunks --------------------------------------------------------------------------------- */

static void chunk_begin(chat_encoder_state *s, json_writer *w, int choice)
{
    json_init(w, &s->json);
    write_head(s, w, "chat.completion.chunk");
    json_key(w, "choices");
    json_array(w);
    json_object(w);
    json_put_int(w, "index", choice);
    json_key(w, "delta");
    json_object(w);
}

/* From the open delta to the sent event; event NULL: no logprobs. */
static void chunk_end(chat_encoder_state *s, json_writer *w, const answer_event *event, const char *finish, bytes *out)
{
    json_object_end(w);
    if (event && event->n_tokens) {
        const bool reasoning = event->kind == ANSWER_REASONING;
        bytes items;
        bytes_init(&items, API_TEXT_MAX);
        write_logprob_items(s->base.c, event, &items);
        write_logprobs(w, &items, !reasoning, &items, reasoning);
        if (items.failed) s->json.failed = true;
        bytes_free(&items);
    } else {
        json_key(w, "logprobs");
        json_null(w);
    }
    json_put_text(w, "finish_reason", finish);
    json_object_end(w);
    json_array_end(w);
    if (s->base.r->continuous_usage) {
        json_key(w, "usage");
        api_write_usage(w, &s->base.usage);
    }
    json_object_end(w);
    api_data_event(out, NULL, &s->json);
}

/* Legacy functions have one call and no ids. */
static void write_call_delta(json_writer *w, const api_request *r, const answer_event *event)
{
    const bool begin = event->kind == ANSWER_CALL_BEGIN;
    if (!r->legacy_functions) {
        json_key(w, "tool_calls");
        json_array(w);
        json_object(w);
        json_put_int(w, "index", event->call);
        if (begin) {
            json_put_slice(w, "id", event->id);
            json_put_text(w, "type", "function");
        }
    }
    json_key(w, r->legacy_functions ? "function_call" : "function");
    json_object(w);
    if (begin) json_put_slice(w, "name", event->name);
    json_put_slice(w, "arguments", begin ? (slice){ "", 0 } : event->bytes);
    json_object_end(w);
    if (r->legacy_functions) return;
    json_object_end(w);
    json_array_end(w);
}

static void start_stream(api_encoder *e, bytes *out)
{
    chat_encoder_state *s = (chat_encoder_state *)e;
    for (int i = 0; i < e->r->n && e->r->stream; i++) {
        json_writer w;
        chunk_begin(s, &w, i);
        json_put_text(&w, "role", "assistant");
        json_put_text(&w, "content", "");
        chunk_end(s, &w, NULL, NULL, out);
    }
}

static void stream_event(chat_encoder_state *s, const answer_event *event, bytes *out)
{
    const api_request *r = s->base.r;
    const bool hidden = event->kind == ANSWER_REASONING && s->base.c->reasoning_field == REASONING_FIELD_NONE;
    const char *finish = NULL;
    json_writer w;
    if (event->kind == ANSWER_CALL_END || hidden) return;
    if (event->kind <= ANSWER_TEXT && !event->bytes.len && !event->n_tokens) return;
    if (event->kind >= ANSWER_CALL_BEGIN && event->kind < ANSWER_FINISH && r->legacy_functions && event->call) return;

    chunk_begin(s, &w, event->choice);
    switch (event->kind) {
    case ANSWER_REASONING:  write_reasoning(&w, s->base.c, event->bytes);      break;
    case ANSWER_TEXT:       json_put_slice(&w, "content", event->bytes);      break;
    case ANSWER_CALL_BEGIN:
    case ANSWER_CALL_ARGS:  write_call_delta(&w, r, event);                   break;
    case ANSWER_FINISH:     finish = finish_name(r, event->finish);           break;
    case ANSWER_CALL_END:                                                     break;
    }
    chunk_end(s, &w, event, finish, out);
}

static void end_stream(chat_encoder_state *s, bytes *out)
{
    if (s->base.r->include_usage) {
        json_writer w;
        json_init(&w, &s->json);
        write_head(s, &w, "chat.completion.chunk");
        json_key(&w, "choices");
        json_array(&w);
        json_array_end(&w);
        json_key(&w, "usage");
        api_write_usage(&w, &s->base.usage);
        json_object_end(&w);
        api_data_event(out, NULL, &s->json);
    }
    sse_event(out, NULL, slice_of("[DONE]"));
}

/* ---- one object ----------------------------------------------------------------------------- */

static kept_call *call_of(chat_encoder_state *s, kept_choice *k, int call)
{
    if (call < k->n_calls) return &k->calls[call];
    if (call >= k->cap_calls) {
        const int cap = k->cap_calls ? k->cap_calls * 2 : 4;
        kept_call *calls = realloc(k->calls, (size_t)cap * sizeof *calls);
        if (!calls) {
            s->base.status = DS4_EMEMORY;
            return NULL;
        }
        k->calls = calls;
        k->cap_calls = cap;
    }
    k->calls[k->n_calls] = (kept_call){ .complete = false };
    return &k->calls[k->n_calls++];
}

static void keep_call_event(chat_encoder_state *s, kept_choice *k, const answer_event *event)
{
    kept_call *call = call_of(s, k, event->call);
    if (!call) return;
    if (event->kind == ANSWER_CALL_BEGIN) {
        api_keep(&s->base, &call->id, event->id);
        api_keep(&s->base, &call->name, event->name);
    } else if (event->kind == ANSWER_CALL_ARGS) {
        api_keep(&s->base, &call->arguments, event->bytes);
    } else {
        call->complete = true;
    }
}

static void keep_logprobs(chat_encoder_state *s, const answer_event *event, bytes *kept)
{
    if (!event->n_tokens) return;
    if (!kept->max) bytes_init(kept, 2 * API_TEXT_MAX);
    write_logprob_items(s->base.c, event, kept);
    if (kept->failed) s->base.status = DS4_EFULL;
}

static void keep_event(chat_encoder_state *s, const answer_event *event)
{
    kept_choice *k = &s->choices[event->choice];
    switch (event->kind) {
    case ANSWER_REASONING:
        api_keep(&s->base, &k->reasoning, event->bytes);
        keep_logprobs(s, event, &k->reasoning_logprobs);
        break;
    case ANSWER_TEXT:
        api_keep(&s->base, &k->text, event->bytes);
        keep_logprobs(s, event, &k->text_logprobs);
        break;
    case ANSWER_CALL_BEGIN:
    case ANSWER_CALL_ARGS:
    case ANSWER_CALL_END:
        keep_call_event(s, k, event);
        break;
    case ANSWER_FINISH:
        k->finish = event->finish;
        break;
    }
}

static slice kept_text(const bytes *b)
{
    return (slice){ b->data ? b->data : "", b->len };
}

static int complete_calls(const kept_choice *k)
{
    int n = 0;
    for (int i = 0; i < k->n_calls; i++) n += k->calls[i].complete;
    return n;
}

static void write_function(json_writer *w, const char *key, const kept_call *call)
{
    json_key(w, key);
    json_object(w);
    json_put_slice(w, "name", kept_text(&call->name));
    json_put_slice(w, "arguments", kept_text(&call->arguments));
    json_object_end(w);
}

/* Complete calls; one that was cut by the limit is left out. */
static void write_calls(json_writer *w, const api_request *r, const kept_choice *k)
{
    if (r->legacy_functions) {
        if (k->calls[0].complete) write_function(w, "function_call", &k->calls[0]);
        return;
    }
    json_key(w, "tool_calls");
    json_array(w);
    for (int i = 0; i < k->n_calls; i++) {
        if (!k->calls[i].complete) continue;
        json_object(w);
        json_put_slice(w, "id", kept_text(&k->calls[i].id));
        json_put_text(w, "type", "function");
        write_function(w, "function", &k->calls[i]);
        json_object_end(w);
    }
    json_array_end(w);
}

static void write_message(json_writer *w, const chat_encoder_state *s, const kept_choice *k)
{
    const bool calls = complete_calls(k) > 0;
    json_object(w);
    json_put_text(w, "role", "assistant");
    json_key(w, "content");
    if (calls && !k->text.len) json_null(w);
    else json_slice(w, kept_text(&k->text));
    if (!s->base.r->chat.no_thinking) write_reasoning(w, s->base.c, kept_text(&k->reasoning));
    json_key(w, "refusal");
    json_null(w);
    if (calls) write_calls(w, s->base.r, k);
    json_object_end(w);
}

static void write_choice(json_writer *w, const chat_encoder_state *s, int index)
{
    const kept_choice *k = &s->choices[index];
    json_object(w);
    json_put_int(w, "index", index);
    json_key(w, "message");
    write_message(w, s, k);
    if (s->base.r->logprobs) {
        const bool reasoning = k->reasoning_logprobs.len && s->base.c->reasoning_field != REASONING_FIELD_NONE;
        write_logprobs(w, &k->text_logprobs, true, &k->reasoning_logprobs, reasoning);
    } else {
        json_key(w, "logprobs");
        json_null(w);
    }
    json_put_text(w, "finish_reason", finish_name(s->base.r, k->finish));
    json_object_end(w);
}

static void write_whole(const chat_encoder_state *s, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    write_head(s, &w, "chat.completion");
    json_key(&w, "choices");
    json_array(&w);
    for (int i = 0; i < s->base.r->n; i++) write_choice(&w, s, i);
    json_array_end(&w);
    json_key(&w, "usage");
    api_write_usage(&w, &s->base.usage);
    json_object_end(&w);
}

/* ---- form ----------------------------------------------------------------------------------- */

static void encode_event(api_encoder *e, const answer_event *event, bytes *out)
{
    chat_encoder_state *s = (chat_encoder_state *)e;
    if (event->choice < 0 || event->choice >= e->r->n) return;
    if (e->r->stream) stream_event(s, event, out);
    else keep_event(s, event);
}

static void encode_end(api_encoder *e, bytes *out)
{
    chat_encoder_state *s = (chat_encoder_state *)e;
    if (e->r->stream) end_stream(s, out);
    else write_whole(s, out);
}

static void encode_failure(api_encoder *e, const api_error *why, bytes *out)
{
    (void)e;
    api_openai_failure(why, out);
}

static void free_choice(kept_choice *k)
{
    for (int i = 0; i < k->n_calls; i++) {
        bytes_free(&k->calls[i].id);
        bytes_free(&k->calls[i].name);
        bytes_free(&k->calls[i].arguments);
    }
    free(k->calls);
    bytes_free(&k->text);
    bytes_free(&k->reasoning);
    bytes_free(&k->text_logprobs);
    bytes_free(&k->reasoning_logprobs);
}

static void encoder_free(api_encoder *e)
{
    chat_encoder_state *s = (chat_encoder_state *)e;
    for (int i = 0; s->choices && i < e->r->n; i++) free_choice(&s->choices[i]);
    free(s->choices);
    bytes_free(&s->json);
    free(s);
}

api_encoder *chat_encoder(const api_request *r, const api_config *c)
{
    static const api_encoder_form form = {
        .start = start_stream, .event = encode_event, .end = encode_end, .failure = encode_failure,
        .free = encoder_free,
    };
    chat_encoder_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->base.form = &form;
    s->base.r = r;
    s->choices = calloc((size_t)r->n, sizeof *s->choices);
    if (!s->choices) {
        encoder_free(&s->base);
        return NULL;
    }
    bytes_init(&s->json, API_TEXT_MAX);
    api_hex_id(c, "chatcmpl-", 24, s->id, sizeof s->id);
    return &s->base;
}
