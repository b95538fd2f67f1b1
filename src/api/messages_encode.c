/* The Messages dialect, outwards: content blocks one after another, each opened, filled and closed. */
#include <stdlib.h>

#include "api/api_common.h"
#include "api/seal.h"
#include "base/json_writer.h"
#include "net/sse.h"

typedef enum { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL } block_kind;

typedef struct {
    api_encoder  base;
    char         id[40];
    block_kind   open;
    int          index;             /* of the open block, or of the next one                     */
    bytes        held;              /* of the open block: text, reasoning or arguments           */
    bytes        call_id, call_name;
    bytes        content;           /* not streaming: finished blocks, joined with commas        */
    answer_finish finish;
    bytes        stop;              /* the stop string                                           */
    /* The event being written. */
    json_writer  w;
    bytes        event;
    const char  *event_name;
} encoder;

static slice held_in(const bytes *b)
{
    return (slice){ b->data, b->len };
}

/* ---- events ------------------------------------------------------------------------------- */

static json_writer *begin_event(encoder *e, const char *name)
{
    bytes_clear(&e->event);
    e->event_name = name;
    json_init(&e->w, &e->event);
    json_object(&e->w);
    json_put_text(&e->w, "type", name);
    return &e->w;
}

static void end_event(encoder *e, bytes *out)
{
    json_object_end(&e->w);
    if (e->event.failed) e->base.status = DS4_EMEMORY;
    else                 sse_event(out, e->event_name, held_in(&e->event));
}

static void ping(encoder *e, bytes *out)
{
    begin_event(e, "ping");
    end_event(e, out);
}

/* ---- the message object ------------------------------------------------------------------- */

/* The three kinds of input sum up to the rendered prompt. */
static void put_usage(json_writer *w, const answer_usage *u, int output_tokens)
{
    const int fresh = u->prompt_tokens - u->cached_tokens;
    const int stored = u->stored_tokens < fresh ? u->stored_tokens : fresh;
    json_key(w, "usage");
    json_object(w);
    json_put_int(w, "input_tokens", fresh - stored);
    json_put_int(w, "cache_creation_input_tokens", stored);
    json_put_int(w, "cache_read_input_tokens", u->cached_tokens);
    json_put_int(w, "output_tokens", output_tokens);
    json_object_end(w);
}

static const char *stop_reason(const encoder *e)
{
    switch (e->finish) {
    case FINISH_STOP:        return "end_turn";
    case FINISH_STOP_STRING: return "stop_sequence";
    case FINISH_CONTEXT:     return "model_context_window_exceeded";
    case FINISH_TOOL_CALLS:  return "tool_use";
    case FINISH_LENGTH:
    case FINISH_CANCELLED:   break;
    }
    return "max_tokens";
}

static void put_stop(encoder *e, json_writer *w)
{
    json_put_text(w, "stop_reason", stop_reason(e));
    json_key(w, "stop_sequence");
    if (e->finish == FINISH_STOP_STRING) json_string(w, e->stop.data, e->stop.len);
    else                                 json_null(w);
}

/* The members of the message up to its content. */
static void put_head(encoder *e, json_writer *w)
{
    json_put_text(w, "id", e->id);
    json_put_text(w, "type", "message");
    json_put_text(w, "role", "assistant");
    json_put_slice(w, "model", e->base.r->model);
}

/* ---- blocks ------------------------------------------------------------------------------- */

static bool redacts(const encoder *e)
{
    return e->base.c->anthropic_redact;
}

/* What the client sends back to prove or to bring the reasoning. */
static void put_signature(encoder *e, json_writer *w)
{
    bytes sig;
    bytes_init(&sig, SIZE_MAX);
    bool good;
    if (redacts(e)) {
        uint8_t nonce[SEAL_NONCE_BYTES];
        e->base.c->random(e->base.c->random_ctx, nonce, sizeof nonce);
        good = seal_text(e->base.c->state_key, nonce, held_in(&e->held), &sig);
    } else {
        good = seal_sign(e->base.c->state_key, held_in(&e->held), &sig);
    }
    if (!good) e->base.status = DS4_EMEMORY;
    json_put_slice(w, "signature", held_in(&sig));
    bytes_free(&sig);
}

static json_writer *begin_delta(encoder *e, const char *kind)
{
    json_writer *w = begin_event(e, "content_block_delta");
    json_put_int(w, "index", e->index);
    json_key(w, "delta");
    json_object(w);
    json_put_text(w, "type", kind);
    return w;
}

static void end_delta(encoder *e, bytes *out)
{
    json_object_end(&e->w);
    end_event(e, out);
}

static void stream_delta(encoder *e, const char *kind, const char *key, slice text, bytes *out)
{
    json_put_slice(begin_delta(e, kind), key, text);
    end_delta(e, out);
}

static void stream_open(encoder *e, bytes *out)
{
    json_writer *w = begin_event(e, "content_block_start");
    json_put_int(w, "index", e->index);
    json_key(w, "content_block");
    json_object(w);
    if (e->open == BLOCK_THINKING) {
        json_put_text(w, "type", "thinking");
        json_put_text(w, "thinking", "");
        json_put_text(w, "signature", "");
    } else if (e->open == BLOCK_TEXT) {
        json_put_text(w, "type", "text");
        json_put_text(w, "text", "");
    } else {
        json_put_text(w, "type", "tool_use");
        json_put_slice(w, "id", held_in(&e->call_id));
        json_put_slice(w, "name", held_in(&e->call_name));
        json_key(w, "input");
        json_object(w);
        json_object_end(w);
    }
    json_object_end(w);
    end_event(e, out);
}

static void stream_close(encoder *e, bytes *out)
{
    if (e->open == BLOCK_THINKING) {
        put_signature(e, begin_delta(e, "signature_delta"));
        end_delta(e, out);
    }
    json_put_int(begin_event(e, "content_block_stop"), "index", e->index);
    end_event(e, out);
}

/* The open block as an element of `content`. */
static void collect(encoder *e)
{
    json_writer w;
    if (e->content.len) bytes_char(&e->content, ',');
    json_init(&w, &e->content);
    json_object(&w);
    if (e->open == BLOCK_THINKING) {
        json_put_text(&w, "type", "thinking");
        json_put_slice(&w, "thinking", redacts(e) ? slice_of("") : held_in(&e->held));
        put_signature(e, &w);
    } else if (e->open == BLOCK_TEXT) {
        json_put_text(&w, "type", "text");
        json_put_slice(&w, "text", held_in(&e->held));
    } else {
        json_put_text(&w, "type", "tool_use");
        json_put_slice(&w, "id", held_in(&e->call_id));
        json_put_slice(&w, "name", held_in(&e->call_name));
        json_key(&w, "input");
        if (e->held.len) json_raw(&w, e->held.data, e->held.len);
        else            json_raw(&w, "{}", 2);
    }
    json_object_end(&w);
}

static void close_block(encoder *e, bytes *out)
{
    if (e->open == BLOCK_NONE) return;
    if (e->base.r->stream) stream_close(e, out);
    else                   collect(e);
    e->open = BLOCK_NONE;
    e->index++;
}

static void open_block(encoder *e, block_kind kind, bytes *out)
{
    close_block(e, out);
    e->open = kind;
    bytes_clear(&e->held);
    if (e->base.r->stream) stream_open(e, out);
}

/* Bytes of the open block. What a stream has sent is kept only where its end needs it: reasoning, for its
 * signature. */
static void add(encoder *e, slice text, bytes *out)
{
    if (!e->base.r->stream || e->open == BLOCK_THINKING) api_keep(&e->base, &e->held, text);
    if (!e->base.r->stream) return;
    switch (e->open) {
    case BLOCK_THINKING:
        if (!redacts(e)) stream_delta(e, "thinking_delta", "thinking", text, out);
        break;
    case BLOCK_TEXT:
        stream_delta(e, "text_delta", "text", text, out);
        break;
    case BLOCK_TOOL:
        stream_delta(e, "input_json_delta", "partial_json", text, out);
        break;
    case BLOCK_NONE:
        break;
    }
}

static void set(encoder *e, bytes *kept, slice text)
{
    bytes_clear(kept);
    api_keep(&e->base, kept, text);
}

/* ---- the encoder -------------------------------------------------------------------------- */

static void start(api_encoder *base, bytes *out)
{
    encoder *e = (encoder *)base;
    if (!base->r->stream) return;
    json_writer *w = begin_event(e, "message_start");
    json_key(w, "message");
    json_object(w);
    put_head(e, w);
    json_key(w, "content");
    json_array(w);
    json_array_end(w);
    json_key(w, "stop_reason");
    json_null(w);
    json_key(w, "stop_sequence");
    json_null(w);
    put_usage(w, &base->usage, 1);
    json_object_end(w);
    end_event(e, out);
    ping(e, out);
}

static void take(api_encoder *base, const answer_event *event, bytes *out)
{
    encoder *e = (encoder *)base;
    switch (event->kind) {
    case ANSWER_REASONING:
    case ANSWER_TEXT: {
        const block_kind kind = event->kind == ANSWER_TEXT ? BLOCK_TEXT : BLOCK_THINKING;
        if (event->bytes.len == 0) break;           /* an empty block is never opened */
        if (kind == BLOCK_THINKING && e->base.r->chat.no_thinking) break;
        if (e->open != kind) open_block(e, kind, out);
        add(e, event->bytes, out);
        break;
    }
    case ANSWER_CALL_BEGIN:
        close_block(e, out);
        set(e, &e->call_id, event->id);
        set(e, &e->call_name, event->name);
        open_block(e, BLOCK_TOOL, out);
        break;
    case ANSWER_CALL_ARGS:
        if (event->bytes.len) add(e, event->bytes, out);
        break;
    case ANSWER_CALL_END:
        close_block(e, out);
        break;
    case ANSWER_FINISH:
        e->finish = event->finish;
        set(e, &e->stop, event->stop);
        /* A call that was cut: a stream has sent its beginning, a whole answer leaves it out. */
        if (e->open == BLOCK_TOOL && !e->base.r->stream) e->open = BLOCK_NONE;
        close_block(e, out);
        break;
    }
    if (e->content.failed) e->base.status = DS4_EMEMORY;
}

static void keepalive(api_encoder *base, bytes *out)
{
    ping((encoder *)base, out);
}

static void end(api_encoder *base, bytes *out)
{
    encoder *e = (encoder *)base;
    if (e->base.r->stream) {
        json_writer *w = begin_event(e, "message_delta");
        json_key(w, "delta");
        json_object(w);
        put_stop(e, w);
        json_object_end(w);
        put_usage(w, &base->usage, base->usage.completion_tokens);
        end_event(e, out);
        begin_event(e, "message_stop");
        end_event(e, out);
        return;
    }
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    put_head(e, &w);
    json_key(&w, "content");
    json_array(&w);
    json_raw(&w, e->content.data, e->content.len);
    json_array_end(&w);
    put_stop(e, &w);
    put_usage(&w, &base->usage, base->usage.completion_tokens);
    json_object_end(&w);
}

static void failure(api_encoder *base, const api_error *why, bytes *out)
{
    encoder *e = (encoder *)base;
    bytes_clear(&e->event);
    api_error_body(API_MESSAGES, why, base->request_id, &e->event);
    sse_event(out, "error", held_in(&e->event));
}

static void free_encoder(api_encoder *base)
{
    encoder *e = (encoder *)base;
    bytes_free(&e->held);
    bytes_free(&e->call_id);
    bytes_free(&e->call_name);
    bytes_free(&e->content);
    bytes_free(&e->stop);
    bytes_free(&e->event);
    free(e);
}

api_encoder *messages_encoder(const api_request *r, const api_config *c)
{
    static const api_encoder_form form = {
        .start = start, .event = take, .keepalive = keepalive, .end = end, .failure = failure, .free = free_encoder,
    };
    (void)r;
    encoder *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->base.form = &form;
    api_hex_id(c, "msg_", 24, e->id, sizeof e->id);
    bytes_init(&e->held, API_TEXT_MAX);
    bytes_init(&e->call_id, API_TEXT_MAX);
    bytes_init(&e->call_name, API_TEXT_MAX);
    bytes_init(&e->content, SIZE_MAX);
    bytes_init(&e->stop, API_TEXT_MAX);
    bytes_init(&e->event, SIZE_MAX);
    return &e->base;
}
