/* responses_object: the response of the Responses dialect and its items, as JSON. */
#include "api/responses_encode.h"

#include "api/seal.h"
#include "text/json_tree.h"

/* ---- items ----------------------------------------------------------------------------------- */

bool responses_summarises(const encoder *e)
{
    return e->base.c->responses_summary && e->q->summary;
}

responses_tool responses_tool_of_call(const encoder *e)
{
    const slice name = held_in(&e->call_name);
    for (int i = 0; i < e->q->n_tools; i++) {
        if (slice_equal(e->q->tools[i].full, name)) return e->q->tools[i];
    }
    return (responses_tool){ .full = name, .name = name, .kind = RESPONSES_FUNCTION };
}

void responses_put_tool_name(const encoder *e, json_writer *w)
{
    const responses_tool tool = responses_tool_of_call(e);
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

void responses_put_reasoning(const encoder *e, json_writer *w)
{
    json_object(w);
    json_put_text(w, "type", responses_summarises(e) ? "summary_text" : "reasoning_text");
    json_put_slice(w, "text", held_in(&e->text));
    json_object_end(w);
}

void responses_put_text(const encoder *e, json_writer *w)
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
    if (stage != ANNOUNCED && responses_summarises(e)) responses_put_reasoning(e, w);
    json_array_end(w);
    json_key(w, "content");
    json_array(w);
    if (stage != ANNOUNCED && !responses_summarises(e)) responses_put_reasoning(e, w);
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
    if (stage != ANNOUNCED) responses_put_text(e, w);
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
    responses_put_tool_name(e, w);
    if (e->open == ITEM_FUNCTION)      json_put_slice(w, "arguments", held_in(&e->text));
    else if (whole || stage == SO_FAR) json_put_slice(w, "input", held_in(&e->input.text));
    else json_put_text(w, "input", "");      /* half a script would run: clients act on done items of any status */
}

void responses_write_item(encoder *e, json_writer *w, const char *status, item_stage stage)
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

/* ---- the response ---------------------------------------------------------------------------- */

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

/* Helpers of SDKs take the whole state from any response object, also in the middle of an item. */
static void put_output(encoder *e, json_writer *w, response_status status)
{
    json_key(w, "output");
    json_array(w);
    json_raw(w, e->items.data, e->items.len);
    if (status == IN_PROGRESS && e->open != ITEM_NONE) responses_write_item(e, w, "in_progress", SO_FAR);
    json_array_end(w);
}

void responses_write(encoder *e, json_writer *w, response_status status, const api_error *why)
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
