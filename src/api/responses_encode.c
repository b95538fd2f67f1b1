/* The Responses dialect, outwards [server.md 5.1, 5.2]: items one after another. Clients rebuild the answer
 * from deltas or from done items, so each item is announced, filled, told again whole and closed, and
 * the numbers of the events have no gaps. */
#include <stdio.h>
#include <stdlib.h>

#include "api/api_common.h"
#include "api/custom_input.h"
#include "api/responses.h"
#include "api/responses_store.h"
#include "api/seal.h"
#include "net/sse.h"
#include "text/json_tree.h"

typedef enum { ITEM_NONE, ITEM_REASONING, ITEM_TEXT, ITEM_FUNCTION, ITEM_CUSTOM, ITEM_LOCAL_SHELL } item_kind;

/* How much of an item is written: as announced (empty), as far as it has come, or whole. */
typedef enum { ANNOUNCED, SO_FAR, DONE } item_stage;

typedef struct {
    api_encoder   base;
    const responses_request *q;
    char          id[48];           /* resp_ and HEX                                             */
    char          item_id[64];      /* of the open item: PREFIX_HEX_INDEX                        */
    int           sequence;         /* of the next event                                         */
    item_kind     open;
    int           index;            /* of the open item, or of the next one                      */
    bytes         text;             /* of the open item: text, reasoning or arguments            */
    bytes         logprobs;         /* of the open text: entries joined with commas              */
    bytes         call_id, call_name;
    custom_input  input;            /* of the open custom tool call                              */
    bytes         items;            /* done items, joined with commas                            */
    answer_finish finish;
    /* The event being written. */
    json_writer   w;
    bytes         event;
    const char   *event_name;
} encoder;

static slice held_in(const bytes *b)
{
    return (slice){ b->data, b->len };
}

static void put_raw(json_writer *w, const char *key, slice json)
{
    json_key(w, key);
    if (json.len) json_raw(w, json.data, json.len);
    else          json_null(w);
}

static void put_array(json_writer *w, const char *key, const bytes *items)
{
    json_key(w, key);
    json_array(w);
    if (items) json_raw(w, items->data, items->len);
    json_array_end(w);
}

/* ---- events ------------------------------------------------------------------------------- */

static bool streams(const encoder *e)
{
    return e->base.r->stream;
}

static json_writer *begin_event(encoder *e, const char *name)
{
    bytes_clear(&e->event);
    e->event_name = name;
    json_init(&e->w, &e->event);
    json_object(&e->w);
    json_put_text(&e->w, "type", name);
    json_put_int(&e->w, "sequence_number", e->sequence++);
    return &e->w;
}

static void end_event(encoder *e, bytes *out)
{
    json_object_end(&e->w);
    if (e->event.failed) e->base.status = DS4_EMEMORY;
    else                 sse_event(out, e->event_name, held_in(&e->event));
}

/* An event about the open item. */
static json_writer *begin_item_event(encoder *e, const char *name)
{
    json_writer *w = begin_event(e, name);
    json_put_text(w, "item_id", e->item_id);
    json_put_int(w, "output_index", e->index);
    return w;
}

static void write_item(encoder *e, json_writer *w, const char *status, item_stage stage);

/* ---- the response object ------------------------------------------------------------------ */

static void put_error(json_writer *w, const api_error *why)
{
    json_key(w, "error");
    if (!why) {
        json_null(w);
        return;
    }
    const char *code = "server_error";
    if (why->code && strcmp(why->code, "context_length_exceeded") == 0) code = why->code;
    else if (why->status == 429)                                        code = "rate_limit_exceeded";
    json_object(w);
    json_put_text(w, "code", code);
    json_put_text(w, "message", why->message);
    json_object_end(w);
}

static void put_usage(json_writer *w, const answer_usage *u)
{
    json_key(w, "usage");
    json_object(w);
    json_put_int(w, "input_tokens", u->prompt_tokens);
    json_key(w, "input_tokens_details");
    json_object(w);
    json_put_int(w, "cached_tokens", u->cached_tokens);
    json_object_end(w);
    json_put_int(w, "output_tokens", u->completion_tokens);
    json_key(w, "output_tokens_details");
    json_object(w);
    json_put_int(w, "reasoning_tokens", u->reasoning_tokens);
    json_object_end(w);
    json_put_int(w, "total_tokens", u->prompt_tokens + u->completion_tokens);
    json_object_end(w);
}

typedef enum { IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED } response_status;

/* Helpers of SDKs take the whole state from any response object, also in the middle of an item. */
static void put_output(encoder *e, json_writer *w, response_status status)
{
    json_key(w, "output");
    json_array(w);
    json_raw(w, e->items.data, e->items.len);
    if (status == IN_PROGRESS && e->open != ITEM_NONE) write_item(e, w, "in_progress", SO_FAR);
    json_array_end(w);
}

static void write_response(encoder *e, json_writer *w, response_status status, const api_error *why)
{
    static const char *const names[] = { "in_progress", "completed", "incomplete", "failed" };
    const responses_request *q = e->q;
    json_object(w);
    json_put_text(w, "id", e->id);
    json_put_text(w, "object", "response");
    json_put_int(w, "created_at", e->base.created);
    json_put_text(w, "status", names[status]);
    json_put_bool(w, "background", false);
    put_error(w, why);
    json_key(w, "incomplete_details");
    if (status == INCOMPLETE) {
        json_object(w);
        json_put_text(w, "reason", "max_output_tokens");
        json_object_end(w);
    } else {
        json_null(w);
    }
    put_raw(w, "instructions", q->instructions);
    put_raw(w, "max_output_tokens", q->max_output_tokens);
    json_put_slice(w, "model", e->base.r->model);
    put_output(e, w, status);
    put_raw(w, "parallel_tool_calls", q->parallel_tool_calls);
    put_raw(w, "previous_response_id", q->previous_response_id);
    put_raw(w, "reasoning", q->reasoning);
    json_put_bool(w, "store", q->store);
    put_raw(w, "temperature", q->temperature);
    put_raw(w, "text", q->text);
    put_raw(w, "tool_choice", q->tool_choice);
    put_raw(w, "tools", q->tools_json);
    put_raw(w, "top_p", q->top_p);
    put_raw(w, "truncation", q->truncation);
    if (status == COMPLETED || status == INCOMPLETE) {
        put_usage(w, &e->base.usage);
    } else {
        json_key(w, "usage");
        json_null(w);
    }
    put_raw(w, "metadata", q->metadata);
    json_object_end(w);
}

static void send_response(encoder *e, const char *name, response_status status, const api_error *why, bytes *out)
{
    json_writer *w = begin_event(e, name);
    json_key(w, "response");
    write_response(e, w, status, why);
    end_event(e, out);
}

/* ---- items as JSON ------------------------------------------------------------------------ */

static bool summarises(const encoder *e)
{
    return e->base.c->responses_summary && e->q->summary;
}

/* The tool of the open call; a name that was not offered is a function of that name. */
static responses_tool tool_of_call(const encoder *e)
{
    const slice name = held_in(&e->call_name);
    for (int i = 0; i < e->q->n_tools; i++) {
        if (slice_equal(e->q->tools[i].full, name)) return e->q->tools[i];
    }
    return (responses_tool){ .full = name, .name = name, .kind = RESPONSES_FUNCTION };
}

static void put_tool_name(const encoder *e, json_writer *w)
{
    const responses_tool tool = tool_of_call(e);
    json_put_slice(w, "name", tool.name);
    if (tool.space.len) json_put_slice(w, "namespace", tool.space);
}

/* The command of local_shell: an array of strings; anything else becomes the one word of a command. */
static void put_command(const encoder *e, json_writer *w)
{
    json_tree t;
    const bool good = json_tree_parse(&t, held_in(&e->text), NULL) == DS4_OK;
    const uint32_t at = good && t.nodes[1].kind == JSON_TREE_OBJECT ? json_tree_find(&t, 1, "command") : 0;
    bool words = at && t.nodes[at].kind == JSON_TREE_ARRAY;
    for (uint32_t c = words ? t.nodes[at].first : 0; c; c = t.nodes[c].next) {
        words = words && t.nodes[c].kind == JSON_TREE_STRING;
    }
    json_key(w, "command");
    json_array(w);
    for (uint32_t c = words ? t.nodes[at].first : 0; c; c = t.nodes[c].next) json_slice(w, t.nodes[c].text);
    if (!words) json_slice(w, held_in(&e->text));
    json_array_end(w);
    if (good) json_tree_free(&t);
}

/* `whole`: the item is done and its arguments are complete. */
static void put_action(const encoder *e, json_writer *w, bool whole)
{
    json_key(w, "action");
    json_object(w);
    json_put_text(w, "type", "exec");
    if (whole) put_command(e, w);
    else       put_array(w, "command", NULL);
    json_key(w, "env");
    json_object(w);
    json_object_end(w);
    json_object_end(w);
}

static void put_reasoning_part(const encoder *e, json_writer *w)
{
    json_object(w);
    json_put_text(w, "type", summarises(e) ? "summary_text" : "reasoning_text");
    json_put_slice(w, "text", held_in(&e->text));
    json_object_end(w);
}

static void put_text_part(const encoder *e, json_writer *w)
{
    json_object(w);
    json_put_text(w, "type", "output_text");
    json_put_slice(w, "text", held_in(&e->text));
    put_array(w, "annotations", NULL);
    put_array(w, "logprobs", &e->logprobs);
    json_object_end(w);
}

static void put_encrypted(encoder *e, json_writer *w)
{
    uint8_t nonce[SEAL_NONCE_BYTES];
    bytes sealed;
    bytes_init(&sealed, SIZE_MAX);
    e->base.c->random(e->base.c->random_ctx, nonce, sizeof nonce);
    if (!seal_text(e->base.c->state_key, nonce, held_in(&e->text), &sealed)) e->base.status = DS4_EMEMORY;
    json_put_slice(w, "encrypted_content", held_in(&sealed));
    bytes_free(&sealed);
}

static void write_reasoning(encoder *e, json_writer *w, const char *status, item_stage stage)
{
    json_put_text(w, "type", "reasoning");
    json_key(w, "summary");
    json_array(w);
    if (stage != ANNOUNCED && summarises(e)) put_reasoning_part(e, w);
    json_array_end(w);
    json_key(w, "content");
    json_array(w);
    if (stage != ANNOUNCED && !summarises(e)) put_reasoning_part(e, w);
    json_array_end(w);
    if (stage == DONE && e->q->encrypt) put_encrypted(e, w);
    json_put_text(w, "status", status);
}

static void write_message(encoder *e, json_writer *w, const char *status, item_stage stage)
{
    json_put_text(w, "type", "message");
    json_put_text(w, "status", status);
    json_put_text(w, "role", "assistant");
    json_key(w, "content");
    json_array(w);
    if (stage != ANNOUNCED) put_text_part(e, w);
    json_array_end(w);
}

static void write_call(encoder *e, json_writer *w, const char *status, item_stage stage)
{
    static const char *const types[] = {
        [ITEM_FUNCTION] = "function_call", [ITEM_CUSTOM] = "custom_tool_call", [ITEM_LOCAL_SHELL] = "local_shell_call",
    };
    const bool whole = stage == DONE && strcmp(status, "completed") == 0;
    json_put_text(w, "type", types[e->open]);
    json_put_text(w, "status", status);
    json_put_slice(w, "call_id", held_in(&e->call_id));
    if (e->open == ITEM_LOCAL_SHELL) {
        put_action(e, w, whole);
        return;
    }
    put_tool_name(e, w);
    if (e->open == ITEM_FUNCTION)      json_put_slice(w, "arguments", held_in(&e->text));
    else if (whole || stage == SO_FAR) json_put_slice(w, "input", held_in(&e->input.text));
    else json_put_text(w, "input", "");      /* half a script would run: clients act on done items of any status */
}

/* The open item. */
static void write_item(encoder *e, json_writer *w, const char *status, item_stage stage)
{
    json_object(w);
    json_put_text(w, "id", e->item_id);
    switch (e->open) {
    case ITEM_REASONING: write_reasoning(e, w, status, stage); break;
    case ITEM_TEXT:      write_message(e, w, status, stage); break;
    default:             write_call(e, w, status, stage); break;
    }
    json_object_end(w);
}

/* ---- the events of an item ---------------------------------------------------------------- */

static void announce_item(encoder *e, bytes *out)
{
    json_writer *w = begin_event(e, "response.output_item.added");
    json_put_int(w, "output_index", e->index);
    json_key(w, "item");
    write_item(e, w, "in_progress", ANNOUNCED);
    end_event(e, out);
}

static void send_item_done(encoder *e, slice item, bytes *out)
{
    json_writer *w = begin_event(e, "response.output_item.done");
    json_put_int(w, "output_index", e->index);
    put_raw(w, "item", item);
    end_event(e, out);
}

/* Begins an event of the one part of a reasoning or message item. */
static json_writer *begin_part_event(encoder *e, const char *name)
{
    json_writer *w = begin_item_event(e, name);
    json_put_int(w, e->open == ITEM_REASONING && summarises(e) ? "summary_index" : "content_index", 0);
    return w;
}

static void send_part(encoder *e, bool done, bytes *out)
{
    const bool reasoning = e->open == ITEM_REASONING;
    const char *name = reasoning && summarises(e)
        ? (done ? "response.reasoning_summary_part.done" : "response.reasoning_summary_part.added")
        : (done ? "response.content_part.done" : "response.content_part.added");
    json_writer *w = begin_part_event(e, name);
    json_key(w, "part");
    if (reasoning) put_reasoning_part(e, w);
    else           put_text_part(e, w);
    end_event(e, out);
}

static void send_delta(encoder *e, slice text, const bytes *logprobs, bytes *out)
{
    json_writer *w;
    if (e->open == ITEM_TEXT)          w = begin_part_event(e, "response.output_text.delta");
    else if (e->open == ITEM_FUNCTION) w = begin_item_event(e, "response.function_call_arguments.delta");
    else if (e->open == ITEM_CUSTOM)   w = begin_item_event(e, "response.custom_tool_call_input.delta");
    else if (summarises(e))            w = begin_part_event(e, "response.reasoning_summary_text.delta");
    else                               w = begin_part_event(e, "response.reasoning_text.delta");
    json_put_slice(w, "delta", text);
    if (e->open == ITEM_TEXT) put_array(w, "logprobs", logprobs);
    end_event(e, out);
}

static void send_text_done(encoder *e, bytes *out)
{
    json_writer *w = begin_part_event(e, "response.output_text.done");
    json_put_slice(w, "text", held_in(&e->text));
    put_array(w, "logprobs", &e->logprobs);
    end_event(e, out);
}

static void send_reasoning_done(encoder *e, bytes *out)
{
    json_writer *w = begin_part_event(e, summarises(e) ? "response.reasoning_summary_text.done"
                                                       : "response.reasoning_text.done");
    json_put_slice(w, "text", held_in(&e->text));
    end_event(e, out);
}

static void send_arguments_done(encoder *e, bytes *out)
{
    json_writer *w = begin_item_event(e, "response.function_call_arguments.done");
    put_tool_name(e, w);
    json_put_slice(w, "arguments", held_in(&e->text));
    end_event(e, out);
}

static void send_input_done(encoder *e, bytes *out)
{
    json_put_slice(begin_item_event(e, "response.custom_tool_call_input.done"), "input", held_in(&e->input.text));
    end_event(e, out);
}

static void send_parts_done(encoder *e, const char *status, bytes *out)
{
    switch (e->open) {
    case ITEM_REASONING:
        send_reasoning_done(e, out);
        send_part(e, true, out);
        break;
    case ITEM_TEXT:
        send_text_done(e, out);
        send_part(e, true, out);
        break;
    case ITEM_FUNCTION:
        send_arguments_done(e, out);
        break;
    case ITEM_CUSTOM:
        if (strcmp(status, "completed") == 0) send_input_done(e, out);
        break;
    case ITEM_LOCAL_SHELL:
    case ITEM_NONE:
        break;
    }
}

static void close_item(encoder *e, const char *status, bytes *out)
{
    if (e->open == ITEM_NONE) return;
    if (streams(e)) send_parts_done(e, status, out);

    json_writer w;
    if (e->items.len) bytes_char(&e->items, ',');
    const size_t begin = e->items.len;
    json_init(&w, &e->items);
    write_item(e, &w, status, DONE);
    if (e->items.failed)  e->base.status = DS4_EMEMORY;
    else if (streams(e))  send_item_done(e, (slice){ e->items.data + begin, e->items.len - begin }, out);
    e->open = ITEM_NONE;
    e->index++;
}

static void open_item(encoder *e, item_kind kind, bytes *out)
{
    static const char *const prefixes[] = {
        [ITEM_NONE] = "", [ITEM_REASONING] = "rs", [ITEM_TEXT] = "msg", [ITEM_FUNCTION] = "fc", [ITEM_CUSTOM] = "ctc",
        [ITEM_LOCAL_SHELL] = "lsh",
    };
    close_item(e, "completed", out);
    e->open = kind;
    snprintf(e->item_id, sizeof e->item_id, "%s%s_%d", prefixes[kind], strchr(e->id, '_'), e->index);
    bytes_clear(&e->text);
    bytes_clear(&e->logprobs);
    custom_input_clear(&e->input);
    if (!streams(e)) return;
    announce_item(e, out);
    if (kind == ITEM_REASONING || kind == ITEM_TEXT) send_part(e, false, out);
}

static item_kind kind_of_call(const encoder *e)
{
    switch (tool_of_call(e).kind) {
    case RESPONSES_CUSTOM:      return ITEM_CUSTOM;
    case RESPONSES_LOCAL_SHELL: return ITEM_LOCAL_SHELL;
    case RESPONSES_FUNCTION:    break;
    }
    return ITEM_FUNCTION;
}

/* ---- log probabilities -------------------------------------------------------------------- */

static void write_logprob(const encoder *e, json_writer *w, const answer_logprob *p)
{
    const slice text = api_token_text(e->base.c, p->token);
    size_t n;
    const char *data = vocab_bytes(e->base.c->vocab, p->token, &n);
    json_put_slice(w, "token", text);
    json_key(w, "bytes");
    json_array(w);
    for (size_t i = 0; i < n; i++) json_int(w, (unsigned char)data[i]);
    json_array_end(w);
    json_put_double(w, "logprob", api_logprob(p->logprob), 8);
}

/* Entries of the tokens, joined with commas. */
static void write_logprobs(const encoder *e, const answer_event *event, bytes *out)
{
    for (int i = 0; i < event->n_tokens; i++) {
        const answer_token *t = &event->tokens[i];
        json_writer w;
        if (out->len) bytes_char(out, ',');
        json_init(&w, out);
        json_object(&w);
        write_logprob(e, &w, &t->self);
        json_key(&w, "top_logprobs");
        json_array(&w);
        for (int k = 0; k < t->n_top; k++) {
            json_object(&w);
            write_logprob(e, &w, &t->top[k]);
            json_object_end(&w);
        }
        json_array_end(&w);
        json_object_end(&w);
    }
}

/* ---- the encoder -------------------------------------------------------------------------- */

static void start(api_encoder *base, bytes *out)
{
    encoder *e = (encoder *)base;
    if (!streams(e)) return;
    send_response(e, "response.created", IN_PROGRESS, NULL, out);
    send_response(e, "response.in_progress", IN_PROGRESS, NULL, out);
}

/* Clients of this dialect drop comments; an event that they know keeps the connection alive. */
static void keepalive(api_encoder *base, bytes *out)
{
    send_response((encoder *)base, "response.in_progress", IN_PROGRESS, NULL, out);
}

static void take_text(encoder *e, const answer_event *event, bytes *out)
{
    const item_kind kind = event->kind == ANSWER_TEXT ? ITEM_TEXT : ITEM_REASONING;
    if (event->bytes.len == 0) return;
    if (e->open != kind) open_item(e, kind, out);

    bytes logprobs;
    bytes_init(&logprobs, API_TEXT_MAX);
    if (kind == ITEM_TEXT && e->q->logprobs) write_logprobs(e, event, &logprobs);
    if (streams(e)) send_delta(e, event->bytes, &logprobs, out);
    if (e->logprobs.len && logprobs.len) api_keep(&e->base, &e->logprobs, slice_of(","));
    api_keep(&e->base, &e->logprobs, held_in(&logprobs));
    api_keep(&e->base, &e->text, event->bytes);
    bytes_free(&logprobs);
}

/* What the arguments so far add to a custom tool's input. */
static void take_input(encoder *e, slice more, bytes *out)
{
    if (streams(e) && more.len) send_delta(e, more, NULL, out);
    if (e->input.json.failed || e->input.text.failed) e->base.status = DS4_EMEMORY;
}

static void take_arguments(encoder *e, slice json, bytes *out)
{
    if (e->open == ITEM_CUSTOM) {
        take_input(e, custom_input_push(&e->input, json), out);
        return;
    }
    if (streams(e) && e->open == ITEM_FUNCTION && json.len) send_delta(e, json, NULL, out);
    api_keep(&e->base, &e->text, json);
}

static void take_finish(encoder *e, const answer_event *event, bytes *out)
{
    e->finish = event->finish;
    const bool call = e->open == ITEM_FUNCTION || e->open == ITEM_CUSTOM || e->open == ITEM_LOCAL_SHELL;
    /* A call that was cut: a stream has announced it, a whole answer leaves it out. */
    if (call && !streams(e)) e->open = ITEM_NONE;
    const bool stopped = event->finish == FINISH_STOP || event->finish == FINISH_STOP_STRING;
    close_item(e, stopped ? "completed" : "incomplete", out);
}

static void take(api_encoder *base, const answer_event *event, bytes *out)
{
    encoder *e = (encoder *)base;
    switch (event->kind) {
    case ANSWER_REASONING:
    case ANSWER_TEXT:
        take_text(e, event, out);
        break;
    case ANSWER_CALL_BEGIN:
        close_item(e, "completed", out);
        bytes_clear(&e->call_id);
        bytes_clear(&e->call_name);
        api_keep(&e->base, &e->call_id, event->id);
        api_keep(&e->base, &e->call_name, event->name);
        open_item(e, kind_of_call(e), out);
        break;
    case ANSWER_CALL_ARGS:
        take_arguments(e, event->bytes, out);
        break;
    case ANSWER_CALL_END:
        if (e->open == ITEM_CUSTOM) take_input(e, custom_input_end(&e->input), out);
        close_item(e, "completed", out);
        break;
    case ANSWER_FINISH:
        take_finish(e, event, out);
        break;
    }
}

static void keep_in_store(encoder *e, slice response)
{
    bytes output;
    bytes_init(&output, SIZE_MAX);
    bytes_char(&output, '[');
    bytes_append(&output, e->items.data, e->items.len);
    bytes_char(&output, ']');
    const stored_response kept = { .id = slice_of(e->id), .response = response, .context = e->q->context_json,
                                   .input = e->q->input_json, .output = held_in(&output) };
    /* An answer too large for the store is only not found later. */
    if (!output.failed) responses_store_put(e->base.c->responses, &kept);
    bytes_free(&output);
}

static void end(api_encoder *base, bytes *out)
{
    encoder *e = (encoder *)base;
    const bool whole = e->finish == FINISH_STOP || e->finish == FINISH_STOP_STRING || e->finish == FINISH_TOOL_CALLS;
    const response_status status = whole ? COMPLETED : INCOMPLETE;
    if (e->q->store || !streams(e)) {
        bytes response;
        json_writer w;
        bytes_init(&response, SIZE_MAX);
        json_init(&w, &response);
        write_response(e, &w, status, NULL);
        if (response.failed) e->base.status = DS4_EMEMORY;
        else if (e->q->store) keep_in_store(e, held_in(&response));
        if (!streams(e)) bytes_append(out, response.data, response.len);
        bytes_free(&response);
    }
    if (streams(e)) send_response(e, whole ? "response.completed" : "response.incomplete", status, NULL, out);
}

static void failure(api_encoder *base, const api_error *why, bytes *out)
{
    send_response((encoder *)base, "response.failed", FAILED, why, out);
}

static void free_encoder(api_encoder *base)
{
    encoder *e = (encoder *)base;
    bytes_free(&e->text);
    bytes_free(&e->logprobs);
    bytes_free(&e->call_id);
    bytes_free(&e->call_name);
    custom_input_free(&e->input);
    bytes_free(&e->items);
    bytes_free(&e->event);
    free(e);
}

api_encoder *responses_encoder(const api_request *r, const api_config *c)
{
    static const api_encoder_form form = {
        .start = start, .event = take, .keepalive = keepalive, .end = end, .failure = failure, .free = free_encoder,
    };
    encoder *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->base.form = &form;
    e->q = r->own;
    api_hex_id(c, "resp_", 32, e->id, sizeof e->id);
    bytes_init(&e->text, API_TEXT_MAX);
    bytes_init(&e->logprobs, API_TEXT_MAX);
    bytes_init(&e->call_id, API_TEXT_MAX);
    bytes_init(&e->call_name, API_TEXT_MAX);
    custom_input_init(&e->input, API_TEXT_MAX);
    bytes_init(&e->items, SIZE_MAX);
    bytes_init(&e->event, SIZE_MAX);
    return &e->base;
}
