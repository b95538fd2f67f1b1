/* The Responses dialect, outwards: items one after another. Clients rebuild the answer
 * from deltas or from done items, so each item is announced, filled, told again whole and closed, and
 * the numbers of the events have no gaps. */
#include "api/responses_encode.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/responses_store.h"
#include "net/sse.h"

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

static void send_response(encoder *e, const char *name, response_status status, const api_error *why, bytes *out)
{
    json_writer *w = begin_event(e, name);
    json_key(w, "response");
    responses_write(e, w, status, why);
    end_event(e, out);
}

/* ---- the events of an item ---------------------------------------------------------------- */

static void announce_item(encoder *e, bytes *out)
{
    json_writer *w = begin_event(e, "response.output_item.added");
    json_put_int(w, "output_index", e->index);
    json_key(w, "item");
    responses_write_item(e, w, "in_progress", ANNOUNCED);
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
    json_put_int(w, e->open == ITEM_REASONING && responses_summarises(e) ? "summary_index" : "content_index", 0);
    return w;
}

static void send_part(encoder *e, bool done, bytes *out)
{
    const bool reasoning = e->open == ITEM_REASONING;
    const char *name = reasoning && responses_summarises(e)
        ? (done ? "response.reasoning_summary_part.done" : "response.reasoning_summary_part.added")
        : (done ? "response.content_part.done" : "response.content_part.added");
    json_writer *w = begin_part_event(e, name);
    json_key(w, "part");
    if (reasoning) responses_put_reasoning(e, w);
    else           responses_put_text(e, w);
    end_event(e, out);
}

static void send_delta(encoder *e, slice text, const bytes *logprobs, bytes *out)
{
    json_writer *w;
    if (e->open == ITEM_TEXT)          w = begin_part_event(e, "response.output_text.delta");
    else if (e->open == ITEM_FUNCTION) w = begin_item_event(e, "response.function_call_arguments.delta");
    else if (e->open == ITEM_CUSTOM)   w = begin_item_event(e, "response.custom_tool_call_input.delta");
    else if (responses_summarises(e))            w = begin_part_event(e, "response.reasoning_summary_text.delta");
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
    json_writer *w = begin_part_event(e, responses_summarises(e) ? "response.reasoning_summary_text.done"
                                                       : "response.reasoning_text.done");
    json_put_slice(w, "text", held_in(&e->text));
    end_event(e, out);
}

static void send_arguments_done(encoder *e, bytes *out)
{
    json_writer *w = begin_item_event(e, "response.function_call_arguments.done");
    responses_put_tool_name(e, w);
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
    responses_write_item(e, &w, status, DONE);
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
    switch (responses_tool_of_call(e).kind) {
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
        responses_write(e, &w, status, NULL);
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
