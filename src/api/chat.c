/* POST /v1/chat/completions: the request. Its answer is in chat_encode.c. */
#include <stdint.h>

#include "api/api_common.h"
#include "api/turns.h"
#include "base/checked.h"

/* ---- messages ------------------------------------------------------------------------------- */

static bool read_role(api_reader *rd, const api_value *v, chat_role *out)
{
    static const struct { const char *name; chat_role role; } roles[] = {
        { "system", CHAT_SYSTEM }, { "developer", CHAT_DEVELOPER }, { "user", CHAT_USER },
        { "assistant", CHAT_ASSISTANT }, { "tool", CHAT_TOOL }, { "function", CHAT_TOOL },
        { "latest_reminder", CHAT_LATEST_REMINDER },
    };
    slice role;
    if (!api_need_string(rd, v, &role)) return false;
    for (size_t i = 0; i < countof(roles); i++) {
        if (!slice_is(role, roles[i].name)) continue;
        *out = roles[i].role;
        return true;
    }
    return api_wrong(rd, v, "system, developer, user, assistant, tool, function or latest_reminder is expected");
}

/* An answer that came from here carries it under one name or the other. */
static slice reasoning_of(api_reader *rd, const api_value *message)
{
    static const char *const names[] = { "reasoning_content", "reasoning" };
    for (size_t i = 0; i < countof(names); i++) {
        const api_value v = api_field(rd, message, names[i]);
        if (api_is_string(rd, &v) && api_raw(rd, &v).len) return api_raw(rd, &v);
    }
    return (slice){ "", 0 };
}

/* {name, arguments}; arguments that are no string are taken as the JSON they are. */
static bool read_function(api_reader *rd, const api_value *function, chat_call *call)
{
    const api_value name = api_field(rd, function, "name"), arguments = api_field(rd, function, "arguments");
    if (!api_need_object(rd, function) || !api_need_string(rd, &name, &call->name)) return false;
    if (api_is_string(rd, &arguments)) call->arguments = api_raw(rd, &arguments);
    else call->arguments = api_given(rd, &arguments) ? api_json(rd, &arguments) : slice_of("{}");
    return true;
}

/* A custom tool's call carries plain text: the one string parameter of its function. */
static bool read_custom(api_reader *rd, const api_value *custom, chat_call *call)
{
    const api_value name = api_field(rd, custom, "name"), input = api_field(rd, custom, "input");
    slice text;
    bytes json;
    if (!api_need_object(rd, custom) || !api_need_string(rd, &name, &call->name)) return false;
    if (!api_need_string(rd, &input, &text)) return false;
    bytes_init(&json, SIZE_MAX);
    bytes_text(&json, "{\"input\":");
    json_tree_write_string(text, &json);
    bytes_char(&json, '}');
    call->arguments = api_copy(rd->memory, (slice){ json.data, json.failed ? 0 : json.len });
    bytes_free(&json);
    return true;
}

static bool read_call(api_reader *rd, const api_value *v, chat_call *call)
{
    const api_value function = api_field(rd, v, "function"), custom = api_field(rd, v, "custom");
    if (!api_need_object(rd, v) || !api_get_string(rd, v, "id", &call->id)) return false;
    return api_given(rd, &custom) ? read_custom(rd, &custom, call) : read_function(rd, &function, call);
}

static bool read_calls(api_reader *rd, const api_value *message, turn_list *turns)
{
    const api_value list = api_field(rd, message, "tool_calls"), legacy = api_field(rd, message, "function_call");
    if (api_given(rd, &list)) {
        if (!api_need_array(rd, &list)) return false;
        for (api_value v = api_first(rd, &list); v.node; v = api_after(rd, v)) {
            chat_call call = { .id = { "", 0 } };
            if (!read_call(rd, &v, &call)) return false;
            turns_call(turns, call.id, call.name, call.arguments);
        }
    } else if (api_given(rd, &legacy)) {
        chat_call call;
        if (!read_function(rd, &legacy, &call)) return false;
        turns_call(turns, call.name, call.name, call.arguments);    /* its result comes back under the name */
    }
    return true;
}

static bool read_assistant(api_reader *rd, const api_value *message, turn_list *turns)
{
    const api_value content = api_field(rd, message, "content");
    slice text = { "", 0 };
    if (api_given(rd, &content) && !api_content(rd, &content, &text)) return false;
    turns_reasoning(turns, reasoning_of(rd, message));
    turns_text(turns, text);
    return read_calls(rd, message, turns);
}

static bool read_message(api_reader *rd, const api_value *v, turn_list *turns)
{
    const api_value content = api_field(rd, v, "content"), role_at = api_field(rd, v, "role");
    chat_role role = CHAT_USER;
    slice text = { "", 0 }, call_id = { "", 0 };
    if (!api_need_object(rd, v) || !read_role(rd, &role_at, &role)) return false;
    if (role == CHAT_ASSISTANT) return read_assistant(rd, v, turns);
    if (role == CHAT_TOOL) {
        const bool legacy = slice_is(api_raw(rd, &role_at), "function");
        const api_value id = api_field(rd, v, legacy ? "name" : "tool_call_id");
        if (!api_need_string(rd, &id, &call_id)) return false;
    }
    if (!api_content(rd, &content, &text)) return false;
    turns_message(turns, role, text, call_id);
    return true;
}

static bool read_messages(api_reader *rd, const api_value *body)
{
    const api_value list = api_field(rd, body, "messages");
    turn_list turns;
    turns_begin(&turns, rd);
    if (!api_need_array(rd, &list)) return false;
    if (!api_first(rd, &list).node) return api_wrong(rd, &list, "at least one message is required");
    for (api_value v = api_first(rd, &list); v.node; v = api_after(rd, v)) {
        if (!read_message(rd, &v, &turns)) return false;
    }
    return turns_end(&turns, &list);
}

/* ---- tools ---------------------------------------------------------------------------------- */

/* A custom tool is a function with one string. */
static bool add_custom(api_reader *rd, const api_value *custom)
{
    const api_value name_at = api_field(rd, custom, "name"), description_at = api_field(rd, custom, "description");
    slice name, description = { "", 0 };
    if (!api_need_object(rd, custom) || !api_need_string(rd, &name_at, &name)) return false;
    if (!api_get_string(rd, custom, "description", &description)) return false;
    return api_add_tool(rd, custom, name, description, api_given(rd, &description_at), slice_of(
        "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},\"required\":[\"input\"]}"));
}

static bool add_tool(api_reader *rd, const api_value *tool)
{
    const api_value function = api_field(rd, tool, "function"), custom = api_field(rd, tool, "custom");
    slice type = slice_of("function");
    if (!api_need_object(rd, tool) || !api_get_string(rd, tool, "type", &type)) return false;
    if (slice_is(type, "custom")) return add_custom(rd, &custom);
    if (slice_is(type, "function")) {
        return api_need_object(rd, &function) && api_add_function(rd, &function, "parameters");
    }
    api_warn(rd, "a tool of type %.*s is left out", api_shown(type, 64), type.data);
    return true;
}

static bool read_tools(api_reader *rd, const api_value *body)
{
    const api_value tools = api_field(rd, body, "tools"), functions = api_field(rd, body, "functions");
    const bool legacy = !api_given(rd, &tools) && api_given(rd, &functions);
    const api_value *list = legacy ? &functions : &tools;
    if (!api_given(rd, list)) return true;
    if (!api_need_array(rd, list)) return false;
    for (api_value v = api_first(rd, list); v.node; v = api_after(rd, v)) {
        if (legacy ? !api_need_object(rd, &v) || !api_add_function(rd, &v, "parameters") : !add_tool(rd, &v)) {
            return false;
        }
    }
    rd->r->legacy_functions = legacy;
    rd->r->one_call = legacy;
    return true;
}

static bool read_mode(api_reader *rd, const api_value *v)
{
    api_request *r = rd->r;
    const slice mode = api_raw(rd, v);
    if (slice_is(mode, "auto"))          r->choice = API_TOOLS_AUTO;
    else if (slice_is(mode, "none"))     r->choice = API_TOOLS_NONE;
    else if (slice_is(mode, "required")) r->choice = API_TOOLS_REQUIRED;
    else return api_wrong(rd, v, "auto, none, required or an object that names a tool is expected");
    return true;
}

/* The name of a tool that stands under its type: {type: T, T: {name}}. */
static bool read_tool_name(api_reader *rd, const api_value *v, slice *out)
{
    const api_value function = api_field(rd, v, "function"), custom = api_field(rd, v, "custom");
    const api_value *at = api_given(rd, &custom) ? &custom : &function;
    const api_value name = api_field(rd, at, "name");
    return api_need_object(rd, v) && api_need_object(rd, at) && api_need_string(rd, &name, out);
}

static bool read_allowed(api_reader *rd, const api_value *allowed)
{
    const api_value mode = api_field(rd, allowed, "mode"), list = api_field(rd, allowed, "tools");
    if (!api_need_object(rd, allowed) || !api_need_array(rd, &list)) return false;
    if (api_given(rd, &mode) && !read_mode(rd, &mode)) return false;
    const int n = api_count(rd, &list);
    slice *names = api_take(rd->memory, (size_t)n, sizeof *names);
    if (!names) return true;
    if (n > API_MAX_TOOLS) return api_wrong(rd, &list, "at most %d tools are possible", API_MAX_TOOLS);
    int i = 0;
    for (api_value v = api_first(rd, &list); v.node; v = api_after(rd, v)) {
        if (!read_tool_name(rd, &v, &names[i++])) return false;
    }
    return api_allow_tools(rd, &list, names, n);
}

static bool read_choice(api_reader *rd, const api_value *body)
{
    const api_value v = api_field(rd, body, rd->r->legacy_functions ? "function_call" : "tool_choice");
    const api_value allowed = api_field(rd, &v, "allowed_tools"), legacy_name = api_field(rd, &v, "name");
    slice name;
    if (!api_given(rd, &v)) return true;
    if (api_is_string(rd, &v)) return read_mode(rd, &v);
    if (!api_is_object(rd, &v)) return api_wrong(rd, &v, "a string or an object that names a tool is expected");
    if (api_given(rd, &allowed)) return read_allowed(rd, &allowed);
    if (rd->r->legacy_functions ? !api_need_string(rd, &legacy_name, &name) : !read_tool_name(rd, &v, &name)) {
        return false;
    }
    return api_choose_tool(rd, &v, name);
}

/* ---- thinking ------------------------------------------------------------------------------- */

/* The places a chat client may say it in; the first of each kind counts. */
static bool read_thinking(api_reader *rd, const api_value *body, api_wish *w)
{
    const api_value kwargs = api_field(rd, body, "chat_template_kwargs");
    const api_value places[] = {
        api_field(rd, body, "thinking"), api_field(rd, body, "think"), api_field(rd, body, "enable_thinking"),
        api_field(rd, &kwargs, "thinking"), api_field(rd, &kwargs, "enable_thinking"),
    };
    const api_value effort = api_field(rd, body, "reasoning_effort");
    const api_value inner_effort = api_field(rd, &kwargs, "reasoning_effort");
    int64_t budget = 0;
    if (api_given(rd, &kwargs) && !api_need_object(rd, &kwargs)) return false;
    for (size_t i = 0; i < countof(places); i++) {
        if (!api_given(rd, &places[i])) continue;
        if (!api_thinking(rd, &places[i], w)) return false;
        break;
    }
    if (!api_effort(rd, api_given(rd, &effort) ? &effort : &inner_effort, w)) return false;
    if (!api_get_int(rd, body, "thinking_token_budget", 0, INT32_MAX, &budget)) return false;
    if (budget > 0) rd->r->think_budget = (int)budget;
    return true;
}

/* ---- the rest ------------------------------------------------------------------------------- */

static bool read_logprobs(api_reader *rd, const api_value *body)
{
    api_request *r = rd->r;
    int64_t top = 0;
    if (!api_get_bool(rd, body, "logprobs", &r->logprobs) || !api_get_int(rd, body, "top_logprobs", 0, 20, &top)) {
        return false;
    }
    const api_value v = api_field(rd, body, "top_logprobs");
    if (top && !r->logprobs) return api_wrong(rd, &v, "logprobs must be true for this");
    r->top_logprobs = (int)top;
    return true;
}

static bool refuse_audio(api_reader *rd, const api_value *body)
{
    const api_value modalities = api_field(rd, body, "modalities");
    if (!api_given(rd, &modalities)) return true;
    if (!api_need_array(rd, &modalities)) return false;
    for (api_value v = api_first(rd, &modalities); v.node; v = api_after(rd, v)) {
        if (!api_is_string(rd, &v) || !slice_is(api_raw(rd, &v), "text")) {
            return api_wrong(rd, &modalities, "answers are text only");
        }
    }
    return true;
}

bool api_stream_fields(api_reader *rd, const api_value *body)
{
    const api_value options = api_field(rd, body, "stream_options");
    api_request *r = rd->r;
    if (!api_get_bool(rd, body, "stream", &r->stream)) return false;
    if (!api_given(rd, &options)) return true;
    return api_need_object(rd, &options)
        && api_get_bool(rd, &options, "include_usage", &r->include_usage)
        && api_get_bool(rd, &options, "continuous_usage_stats", &r->continuous_usage);
}

bool api_no_constraints(api_reader *rd, const api_value *body)
{
    static const char *const fields[] = {
        "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
    };
    const api_value format = api_field(rd, body, "response_format");
    for (size_t i = 0; i < countof(fields); i++) {
        const api_value v = api_field(rd, body, fields[i]);
        if (!api_no_structured(rd, &v)) return false;
    }
    return api_format(rd, &format);
}

bool api_choices(api_reader *rd, const api_value *body)
{
    int64_t n = 1;
    if (!api_get_int(rd, body, "n", 1, API_MAX_CHOICES, &n)) return false;
    rd->r->n = (int)n;
    return true;
}

static bool read_parallel(api_reader *rd, const api_value *body)
{
    bool parallel = true;
    if (!api_get_bool(rd, body, "parallel_tool_calls", &parallel)) return false;
    if (!parallel) rd->r->one_call = true;
    return true;
}

bool chat_parse(api_reader *rd)
{
    static const char *const limits[] = { "max_completion_tokens", "max_tokens", NULL };
    const api_value body = api_body();
    api_wish wish = { .think = THINK_UNSAID };
    slice hint = { "", 0 };
    const bool good = api_model(rd) && read_messages(rd, &body)
        && api_sampling(rd, true) && api_stops(rd, "stop") && api_max_tokens(rd, limits, 1)
        && api_get_bool(rd, &body, "include_stop_str_in_output", &rd->r->include_stop)
        && api_choices(rd, &body) && read_logprobs(rd, &body) && api_stream_fields(rd, &body)
        && api_no_constraints(rd, &body) && refuse_audio(rd, &body)
        && read_tools(rd, &body) && read_choice(rd, &body) && read_parallel(rd, &body)
        && read_thinking(rd, &body, &wish)
        && api_get_string(rd, &body, "prompt_cache_key", &hint);
    if (!good) return false;
    api_hint(rd, hint);
    return api_settle(rd, &wish);
}
