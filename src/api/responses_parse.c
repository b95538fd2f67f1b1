/* The Responses dialect, inwards (docs/api.md). */
#include <stdio.h>
#include <stdlib.h>

#include "api/responses_store.h"
#include "api/responses_tools.h"
#include "api/seal.h"
#include "api/turns.h"
#include "base/checked.h"

typedef struct {
    api_reader        *rd;
    responses_request *q;
    turn_list          turns;
    /* Call ids of the input: of calls, and of outputs. */
    slice             *calls, *outputs;
    int                n_calls, cap_calls, n_outputs, cap_outputs;
} reader;

static const slice nothing = { "", 0 };

/* ---- items -------------------------------------------------------------------------------- */

static void remember_id(reader *p, slice **ids, int *n, int *cap, slice id)
{
    slice *grown = api_grow(p->rd->memory, *ids, *n, cap, sizeof id);
    if (!grown) return;
    *ids = grown;
    grown[(*n)++] = id;
}

static bool read_message(reader *p, const api_value *item)
{
    static const struct { const char *name; chat_role role; } roles[] = {
        { "user", CHAT_USER }, { "assistant", CHAT_ASSISTANT },
        { "system", CHAT_SYSTEM }, { "developer", CHAT_DEVELOPER },
    };
    api_reader *rd = p->rd;
    const api_value role_at = api_field(rd, item, "role"), content = api_field(rd, item, "content");
    slice role, text;
    if (!api_need_string(rd, &role_at, &role) || !api_content(rd, &content, &text)) return false;
    for (size_t i = 0; i < countof(roles); i++) {
        if (!slice_is(role, roles[i].name)) continue;
        if (roles[i].role == CHAT_ASSISTANT) turns_text(&p->turns, text);
        else                                 turns_message(&p->turns, roles[i].role, text, nothing);
        return true;
    }
    return api_wrong(rd, &role_at, "user, assistant, system or developer is expected");
}

/* The `text` of each element of a list such as content or summary; false: there was none. */
static bool add_reasoning_texts(reader *p, const api_value *item, const char *field)
{
    api_reader *rd = p->rd;
    const api_value list = api_field(rd, item, field);
    bool some = false;
    if (!api_is_array(rd, &list)) return false;
    for (api_value part = api_first(rd, &list); part.node; part = api_after(rd, part)) {
        const api_value text = api_field(rd, &part, "text");
        if (!api_is_object(rd, &part) || !api_is_string(rd, &text) || !api_raw(rd, &text).len) continue;
        turns_reasoning(&p->turns, api_raw(rd, &text));
        some = true;
    }
    return some;
}

/* What was thought, from the fullest source that is there. */
static void read_reasoning(reader *p, const api_value *item)
{
    api_reader *rd = p->rd;
    const api_value sealed_at = api_field(rd, item, "encrypted_content");
    turns_reasoning(&p->turns, nothing);
    if (add_reasoning_texts(p, item, "content")) return;
    if (api_is_string(rd, &sealed_at)) {
        const slice sealed = api_raw(rd, &sealed_at);
        bytes opened;
        bytes_init(&opened, sealed.len);
        const bool ours = seal_open(rd->config->state_key, sealed, &opened);
        if (ours) turns_reasoning(&p->turns, api_copy(rd->memory, (slice){ opened.data, opened.len }));
        else      api_warn(rd, "an encrypted reasoning is not of this server, or damaged");
        bytes_free(&opened);
        if (ours) return;
    }
    add_reasoning_texts(p, item, "summary");
}

static bool read_call_id(reader *p, const api_value *item, slice *id)
{
    api_reader *rd = p->rd;
    const api_value call_id = api_field(rd, item, "call_id"), own_id = api_field(rd, item, "id");
    /* Items of local_shell may carry their id alone. */
    return api_need_string(rd, !call_id.node && own_id.node ? &own_id : &call_id, id);
}

static void add_call(reader *p, slice id, slice name, slice arguments)
{
    turns_call(&p->turns, id, name, arguments);
    remember_id(p, &p->calls, &p->n_calls, &p->cap_calls, id);
}

static bool read_function_call(reader *p, const api_value *item, bool custom)
{
    api_reader *rd = p->rd;
    const api_value name_at = api_field(rd, item, "name");
    const api_value input_at = api_field(rd, item, custom ? "input" : "arguments");
    slice id, name, input, space = nothing;
    if (!read_call_id(p, item, &id) || !api_need_string(rd, &name_at, &name)) return false;
    if (!api_get_string(rd, item, "namespace", &space) || !api_need_string(rd, &input_at, &input)) return false;
    if (custom) {
        const slice quoted = api_json(rd, &input_at);
        const slice parts[3] = { slice_of("{\"input\":"), quoted, slice_of("}") };
        input = api_join(rd, parts, 3, "");
    }
    add_call(p, id, responses_full_name(rd, space, name), input);
    return true;
}

static bool read_shell_call(reader *p, const api_value *item)
{
    api_reader *rd = p->rd;
    const api_value action = api_field(rd, item, "action"), command = api_field(rd, &action, "command");
    slice id;
    if (!read_call_id(p, item, &id)) return false;
    if (!api_need_object(rd, &action) || !api_need_array(rd, &command)) return false;
    const slice parts[3] = { slice_of("{\"command\":"), api_json(rd, &command), slice_of("}") };
    add_call(p, id, slice_of("local_shell"), api_join(rd, parts, 3, ""));
    return true;
}

static bool read_output(reader *p, const api_value *item)
{
    api_reader *rd = p->rd;
    const api_value output = api_field(rd, item, "output");
    slice id, text;
    if (!read_call_id(p, item, &id) || !api_content(rd, &output, &text)) return false;
    turns_message(&p->turns, CHAT_TOOL, text, id);
    remember_id(p, &p->outputs, &p->n_outputs, &p->cap_outputs, id);
    return true;
}

static bool read_item(reader *p, const api_value *item)
{
    api_reader *rd = p->rd;
    if (!api_need_object(rd, item)) return false;
    const api_value type_at = api_field(rd, item, "type"), role_at = api_field(rd, item, "role");
    slice type = slice_of("message");
    if (!api_get_string(rd, item, "type", &type)) return false;
    if (!api_given(rd, &type_at) && !api_given(rd, &role_at)) return api_wrong(rd, &type_at, "this field is required");

    if (slice_is(type, "message"))          return read_message(p, item);
    if (slice_is(type, "function_call"))    return read_function_call(p, item, false);
    if (slice_is(type, "custom_tool_call")) return read_function_call(p, item, true);
    if (slice_is(type, "local_shell_call")) return read_shell_call(p, item);
    if (slice_is(type, "function_call_output") || slice_is(type, "custom_tool_call_output")
        || slice_is(type, "local_shell_call_output")) {
        return read_output(p, item);
    }
    if (slice_is(type, "item_reference")) {
        return api_wrong(rd, item, "items are not kept by this server; send the item itself instead of a reference");
    }
    if (slice_is(type, "reasoning")) read_reasoning(p, item);
    else api_warn(rd, "an item of type %.*s is left out", api_shown(type, 64), type.data);
    return true;
}

static bool read_items(reader *p, const api_value *items)
{
    for (api_value item = api_first(p->rd, items); item.node; item = api_after(p->rd, item)) {
        if (!read_item(p, &item)) return false;
    }
    return true;
}

static int by_bytes(const void *pa, const void *pb)
{
    const slice *a = pa, *b = pb;
    const size_t n = min_size(a->len, b->len);
    const int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* Outputs whose call is not in the input: whether a session still waits for them is not known here. */
static void find_orphans(reader *p)
{
    api_request *r = p->rd->r;
    if (p->n_calls) qsort(p->calls, (size_t)p->n_calls, sizeof *p->calls, by_bytes);
    int n = 0;
    for (int i = 0; i < p->n_outputs; i++) {
        const slice id = p->outputs[i];
        if (p->n_calls && bsearch(&id, p->calls, (size_t)p->n_calls, sizeof id, by_bytes)) continue;
        p->outputs[n++] = id;
    }
    r->orphans = p->outputs;
    r->n_orphans = n;
}

/* ---- earlier responses -------------------------------------------------------------------- */

/* The items of the response that this one continues, in front of its own. */
static bool read_previous(reader *p)
{
    api_reader *rd = p->rd;
    const api_value body = api_body(), at = api_field(rd, &body, "previous_response_id");
    slice id;
    bytes items;
    if (!api_given(rd, &at)) return true;
    if (!api_need_string(rd, &at, &id)) return false;
    bytes_init(&items, SIZE_MAX);
    if (!rd->config->responses || !responses_store_get(rd->config->responses, id, STORED_CONVERSATION, &items)) {
        bytes_free(&items);
        return api_refuse(rd->error, 400, "invalid_request_error", "previous_response_not_found",
                          "previous_response_id", "Previous response with id '%.*s' not found. This server %s; "
                          "send the whole conversation as input.", api_shown(id, 64), id.data,
                          rd->config->responses ? "keeps only the latest responses" : "does not keep responses");
    }
    p->q->context_json = api_copy(rd->memory, (slice){ items.data, items.len });
    p->q->previous_response_id = api_json(rd, &at);
    bytes_free(&items);

    json_tree tree;
    ds4_error err;
    if (json_tree_parse(&tree, p->q->context_json, &err)) return api_refuse_failed(rd->error, err.message);
    const json_tree *own = rd->tree;
    const api_value list = api_body();
    rd->tree = &tree;
    const bool good = read_items(p, &list);
    rd->tree = own;
    api_keep_strings(rd->memory, &tree);
    return good && !api_memory_failed(rd->memory);
}

/* ---- input -------------------------------------------------------------------------------- */

/* The request's items as the store keeps them. */
static void keep_input(reader *p, const api_value *input)
{
    api_reader *rd = p->rd;
    if (!p->q->store) return;
    p->q->input_json = api_json(rd, input);
    if (!api_is_string(rd, input)) return;
    const slice parts[3] = {
        slice_of("[{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":"),
        p->q->input_json, slice_of("}]}]"),
    };
    p->q->input_json = api_join(rd, parts, 3, "");
}

static bool read_input(reader *p)
{
    api_reader *rd = p->rd;
    const api_value body = api_body(), input = api_field(rd, &body, "input");
    const api_value instructions = api_field(rd, &body, "instructions");
    slice text = nothing;
    if (!api_get_string(rd, &body, "instructions", &text)) return false;
    if (api_given(rd, &instructions)) {
        p->q->instructions = api_json(rd, &instructions);
        turns_message(&p->turns, CHAT_SYSTEM, text, nothing);
    }
    if (!read_previous(p)) return false;
    if (api_is_string(rd, &input)) turns_message(&p->turns, CHAT_USER, api_raw(rd, &input), nothing);
    else if (!api_need_array(rd, &input) || !read_items(p, &input)) return false;
    keep_input(p, &input);
    find_orphans(p);
    return turns_end(&p->turns, &input);
}

/* ---- the rest ----------------------------------------------------------------------------- */

static bool refuse_unsupported(api_reader *rd)
{
    const api_value body = api_body();
    const api_value conversation = api_field(rd, &body, "conversation"), prompt = api_field(rd, &body, "prompt");
    const api_value background_at = api_field(rd, &body, "background");
    const api_value truncation_at = api_field(rd, &body, "truncation");
    bool background = false;
    slice truncation = slice_of("disabled");
    if (api_given(rd, &conversation)) {
        return api_wrong(rd, &conversation,
                         "conversations are not kept by this server; send the whole conversation as input");
    }
    if (api_given(rd, &prompt)) return api_wrong(rd, &prompt, "prompt templates are not kept by this server");
    if (!api_get_bool(rd, &body, "background", &background)) return false;
    if (background) return api_wrong(rd, &background_at, "this server does not answer in the background");
    if (!api_get_string(rd, &body, "truncation", &truncation)) return false;
    if (!slice_is(truncation, "disabled") && !slice_is(truncation, "auto")) {
        return api_wrong(rd, &truncation_at, "auto or disabled is expected");
    }
    return true;
}

static bool read_include(reader *p)
{
    api_reader *rd = p->rd;
    const api_value body = api_body(), include = api_field(rd, &body, "include");
    int64_t top = 0;
    if (!api_get_int(rd, &body, "top_logprobs", 0, 20, &top)) return false;
    if (api_given(rd, &include)) {
        if (!api_need_array(rd, &include)) return false;
        for (api_value what = api_first(rd, &include); what.node; what = api_after(rd, what)) {
            slice name;
            if (!api_need_string(rd, &what, &name)) return false;
            if (slice_is(name, "reasoning.encrypted_content"))  p->q->encrypt = true;
            if (slice_is(name, "message.output_text.logprobs")) p->q->logprobs = true;
        }
    }
    if (top > 0) p->q->logprobs = true;
    rd->r->logprobs = p->q->logprobs;
    rd->r->top_logprobs = (int)top;
    return true;
}

static slice json_or_null(api_reader *rd, const api_value *v)
{
    return api_given(rd, v) ? api_json(rd, v) : slice_of("null");
}

static bool read_reasoning_wish(reader *p, api_wish *wish)
{
    api_reader *rd = p->rd;
    const api_value body = api_body(), reasoning = api_field(rd, &body, "reasoning");
    const api_value effort = api_field(rd, &reasoning, "effort");
    const api_value newer = api_field(rd, &reasoning, "summary"), older = api_field(rd, &reasoning, "generate_summary");
    const api_value *summary = api_given(rd, &newer) ? &newer : &older;
    if (api_given(rd, &reasoning) && !api_need_object(rd, &reasoning)) return false;
    if (!api_effort(rd, &effort, wish)) return false;
    if (api_given(rd, &effort)) wish->think = wish->effort_none ? THINK_NO : THINK_YES;
    p->q->summary = api_is_string(rd, summary) && !slice_is(api_raw(rd, summary), "none");
    const slice parts[5] = { slice_of("{\"effort\":"), json_or_null(rd, &effort), slice_of(",\"summary\":"),
                             json_or_null(rd, summary), slice_of("}") };
    p->q->reasoning = api_join(rd, parts, 5, "");
    return true;
}

static bool read_text_format(reader *p)
{
    api_reader *rd = p->rd;
    const api_value body = api_body(), text = api_field(rd, &body, "text");
    const api_value format = api_field(rd, &text, "format"), verbosity = api_field(rd, &text, "verbosity");
    if (api_given(rd, &text) && !api_need_object(rd, &text)) return false;
    if (!api_format(rd, &format)) return false;
    const slice parts[3] = { slice_of("{\"format\":{\"type\":\"text\"},\"verbosity\":"), json_or_null(rd, &verbosity),
                             slice_of("}") };
    p->q->text = api_given(rd, &verbosity) ? api_join(rd, parts, 3, "") : slice_of("{\"format\":{\"type\":\"text\"}}");
    return true;
}

/* A field as the client wrote it, else `otherwise`. */
static slice echo(api_reader *rd, const char *name, slice otherwise)
{
    const api_value body = api_body(), v = api_field(rd, &body, name);
    return api_given(rd, &v) ? api_json(rd, &v) : otherwise;
}

/* 1 is written as 1.0. */
static slice number_json(api_reader *rd, double v)
{
    char text[40];
    const int n = snprintf(text, sizeof text, "%.6g", v);
    const bool whole = n > 0 && !strpbrk(text, ".en");
    const slice parts[2] = { api_copy(rd->memory, slice_of(text)), slice_of(".0") };
    return api_join(rd, parts, whole ? 2 : 1, "");
}

static void keep_echoes(reader *p)
{
    api_reader *rd = p->rd;
    responses_request *q = p->q;
    const api_value body = api_body(), metadata = api_field(rd, &body, "metadata");
    q->max_output_tokens = echo(rd, "max_output_tokens", slice_of("null"));
    q->parallel_tool_calls = echo(rd, "parallel_tool_calls", slice_of("true"));
    q->temperature = echo(rd, "temperature", number_json(rd, rd->config->temperature));
    q->top_p = echo(rd, "top_p", number_json(rd, rd->config->top_p));
    q->tool_choice = echo(rd, "tool_choice", slice_of("\"auto\""));
    q->tools_json = echo(rd, "tools", slice_of("[]"));
    q->truncation = echo(rd, "truncation", slice_of("\"disabled\""));
    q->metadata = api_is_object(rd, &metadata) ? api_json(rd, &metadata) : slice_of("{}");
}

static bool read_settings(reader *p)
{
    static const char *const limits[] = { "max_output_tokens", NULL };
    api_reader *rd = p->rd;
    const api_value body = api_body();
    bool parallel = true, store = true;
    slice hint = nothing;
    if (!refuse_unsupported(rd) || !api_get_bool(rd, &body, "stream", &rd->r->stream)) return false;
    if (!api_get_bool(rd, &body, "parallel_tool_calls", &parallel)) return false;
    if (!api_get_bool(rd, &body, "store", &store)) return false;
    if (!api_get_string(rd, &body, "prompt_cache_key", &hint)) return false;
    rd->r->one_call = !parallel;
    p->q->store = store && rd->config->responses;
    api_hint(rd, hint);
    return api_max_tokens(rd, limits, 1) && api_sampling(rd, false) && api_stops(rd, "stop") && read_include(p);
}

bool responses_parse(api_reader *rd)
{
    responses_request *q = api_take(rd->memory, 1, sizeof *q);
    api_wish wish = { .think = THINK_UNSAID };
    if (!q) return true;                /* api_parse answers for the memory */
    *q = (responses_request){ .context_json = slice_of("[]") };
    rd->r->own = q;
    reader p = { .rd = rd, .q = q };
    turns_begin(&p.turns, rd);
    if (!api_model(rd) || !read_settings(&p) || !read_input(&p)) return false;
    if (!responses_read_tools(rd, p.q) || !responses_read_tool_choice(rd)) return false;
    if (!read_reasoning_wish(&p, &wish) || !read_text_format(&p)) return false;
    keep_echoes(&p);
    return api_settle(rd, &wish);
}
