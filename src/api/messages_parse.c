/* The Messages dialect, inwards (docs/api.md). */
#include "api/api_common.h"
#include "api/seal.h"
#include "api/turns.h"

/* ---- content blocks ----------------------------------------------------------------------- */

static slice block_type(const api_reader *rd, const api_value *block)
{
    const api_value type = api_field(rd, block, "type");
    return api_is_string(rd, &type) ? api_raw(rd, &type) : (slice){ "", 0 };
}

/* The reasoning of a thinking block. An empty one may carry it sealed in the signature (anthropic_redact). A signature
 * that does not fit is told and changes nothing: other servers' blocks are welcome. */
static bool read_thinking(api_reader *rd, const api_value *block, turn_list *turns)
{
    slice text = { "", 0 }, signature = { "", 0 };
    if (!api_get_string(rd, block, "thinking", &text)) return false;
    if (!api_get_string(rd, block, "signature", &signature)) return false;
    if (!text.len && seal_looks_sealed(signature)) {
        bytes opened;
        bytes_init(&opened, signature.len);
        if (seal_open(rd->config->state_key, signature, &opened)) {
            text = api_copy(rd->memory, (slice){ opened.data, opened.len });
        } else {
            api_warn(rd, "a thinking block is sealed with a key that this server does not have");
        }
        bytes_free(&opened);
    } else if (signature.len && !seal_verify(rd->config->state_key, text, signature)) {
        api_warn(rd, "the signature of a thinking block is not of this server, or its text was changed");
    }
    turns_reasoning(turns, text);
    return true;
}

static bool read_tool_use(api_reader *rd, const api_value *block, turn_list *turns)
{
    const api_value id = api_field(rd, block, "id"), name = api_field(rd, block, "name");
    const api_value input = api_field(rd, block, "input");
    slice id_text, name_text;
    if (!api_need_string(rd, &id, &id_text) || !api_need_string(rd, &name, &name_text)) return false;
    if (api_given(rd, &input) && !api_need_object(rd, &input)) return false;
    turns_call(turns, id_text, name_text, api_given(rd, &input) ? api_json(rd, &input) : slice_of("{}"));
    return true;
}

static bool read_assistant_block(api_reader *rd, const api_value *block, turn_list *turns)
{
    const slice type = block_type(rd, block);
    if (slice_is(type, "thinking")) return read_thinking(rd, block, turns);
    if (slice_is(type, "tool_use")) return read_tool_use(rd, block, turns);
    if (slice_is(type, "text")) {
        slice text;
        if (!api_part(rd, block, &text)) return false;
        turns_text(turns, text);
        return true;
    }
    if (!slice_is(type, "redacted_thinking")) {
        api_warn(rd, "an assistant's block of type %.*s is left out", api_shown(type, 64), type.data);
    }
    return true;
}

static bool read_assistant(api_reader *rd, const api_value *content, turn_list *turns)
{
    turns_text(turns, (slice){ "", 0 });        /* an empty message is a turn too */
    if (api_is_string(rd, content)) {
        turns_text(turns, api_raw(rd, content));
        return true;
    }
    if (!api_need_array(rd, content)) return false;
    for (api_value block = api_first(rd, content); block.node; block = api_after(rd, block)) {
        if (!api_need_object(rd, &block) || !read_assistant_block(rd, &block, turns)) return false;
    }
    return true;
}

static bool read_tool_result(api_reader *rd, const api_value *block, turn_list *turns)
{
    const api_value id = api_field(rd, block, "tool_use_id"), content = api_field(rd, block, "content");
    slice id_text, text = { "", 0 };
    if (!api_need_string(rd, &id, &id_text)) return false;
    if (api_given(rd, &content) && !api_content(rd, &content, &text)) return false;
    turns_message(turns, CHAT_TOOL, text, id_text);
    return true;
}

/* Each block is a message of its own: the renderer joins neighbours as it joins the parts of one. */
static bool read_user(api_reader *rd, const api_value *content, turn_list *turns)
{
    const slice none = { "", 0 };
    slice text = none;
    if (!api_is_array(rd, content) || !api_count(rd, content)) {
        if (!api_content(rd, content, &text)) return false;
        turns_message(turns, CHAT_USER, text, none);
        return true;
    }
    for (api_value block = api_first(rd, content); block.node; block = api_after(rd, block)) {
        if (api_is_object(rd, &block) && slice_is(block_type(rd, &block), "tool_result")) {
            if (!read_tool_result(rd, &block, turns)) return false;
        } else {
            if (!api_part(rd, &block, &text)) return false;
            turns_message(turns, CHAT_USER, text, none);
        }
    }
    return true;
}

static bool read_message(api_reader *rd, const api_value *m, turn_list *turns)
{
    const api_value role = api_field(rd, m, "role"), content = api_field(rd, m, "content");
    slice name, text;
    if (!api_need_object(rd, m) || !api_need_string(rd, &role, &name)) return false;
    if (slice_is(name, "user"))      return read_user(rd, &content, turns);
    if (slice_is(name, "assistant")) return read_assistant(rd, &content, turns);
    if (!slice_is(name, "system"))   return api_wrong(rd, &role, "user, assistant or system is expected");
    if (!api_content(rd, &content, &text)) return false;
    turns_message(turns, CHAT_SYSTEM, text, (slice){ "", 0 });
    return true;
}

/* ---- system ------------------------------------------------------------------------------- */

/* A client's first block with the version and a value that changes from request to request; in the prompt it would
 * cost all reuse (docs/reuse.md). */
static bool is_billing_line(slice text)
{
    static const char begin[] = "x-anthropic-billing-header:";
    return text.len >= sizeof begin - 1 && memcmp(text.data, begin, sizeof begin - 1) == 0;
}

static bool read_system(api_reader *rd, turn_list *turns)
{
    const api_value body = api_body(), system = api_field(rd, &body, "system");
    slice text;
    if (!api_given(rd, &system)) return true;
    if (!api_is_array(rd, &system)) {
        if (!api_content(rd, &system, &text)) return false;
        turns_message(turns, CHAT_SYSTEM, text, (slice){ "", 0 });
        return true;
    }
    slice *parts = api_take(rd->memory, (size_t)api_count(rd, &system), sizeof *parts);
    int n = 0;
    for (api_value block = api_first(rd, &system); parts && block.node; block = api_after(rd, block)) {
        if (!api_part(rd, &block, &parts[n])) return false;
        if (block.index > 0 || !is_billing_line(parts[n])) n++;
    }
    if (n) turns_message(turns, CHAT_SYSTEM, api_join(rd, parts, n, "\n\n"), (slice){ "", 0 });
    return true;
}

/* ---- tools -------------------------------------------------------------------------------- */

static bool read_tools(api_reader *rd)
{
    const api_value body = api_body(), tools = api_field(rd, &body, "tools");
    if (!api_given(rd, &tools)) return true;
    if (!api_need_array(rd, &tools)) return false;
    for (api_value tool = api_first(rd, &tools); tool.node; tool = api_after(rd, tool)) {
        if (!api_need_object(rd, &tool)) return false;
        const slice type = block_type(rd, &tool);
        if (type.len && !slice_is(type, "custom")) {
            api_warn(rd, "the tool of type %.*s is left out: it runs on its vendor's servers",
                     api_shown(type, 64), type.data);
        } else if (!api_add_function(rd, &tool, "input_schema")) {
            return false;
        }
    }
    return true;
}

static bool read_tool_choice(api_reader *rd)
{
    const api_value body = api_body(), choice = api_field(rd, &body, "tool_choice");
    if (!api_given(rd, &choice)) return true;
    const api_value type = api_field(rd, &choice, "type"), name = api_field(rd, &choice, "name");
    slice kind, tool;
    if (!api_need_object(rd, &choice) || !api_need_string(rd, &type, &kind)) return false;
    if (!api_get_bool(rd, &choice, "disable_parallel_tool_use", &rd->r->one_call)) return false;
    if (slice_is(kind, "tool")) return api_need_string(rd, &name, &tool) && api_choose_tool(rd, &name, tool);
    if (slice_is(kind, "auto"))      rd->r->choice = API_TOOLS_AUTO;
    else if (slice_is(kind, "any"))  rd->r->choice = API_TOOLS_REQUIRED;
    else if (slice_is(kind, "none")) rd->r->choice = API_TOOLS_NONE;
    else return api_wrong(rd, &type, "auto, any, tool or none is expected");
    return true;
}

/* ---- the rest ----------------------------------------------------------------------------- */

/* The session in metadata.user_id: {"session_id":...} as text, or ..._session_ID. A user without one is no hint. */
static bool read_session(api_reader *rd)
{
    const api_value body = api_body(), metadata = api_field(rd, &body, "metadata");
    if (!api_is_object(rd, &metadata)) return true;
    const api_value user = api_field(rd, &metadata, "user_id");
    if (!api_is_string(rd, &user)) return true;
    const slice text = api_raw(rd, &user);
    static const char mark[] = "_session_";
    json_tree t;
    if (text.len && text.data[0] == '{' && json_tree_parse(&t, text, NULL) == DS4_OK) {
        const uint32_t at = json_tree_find(&t, 1, "session_id");
        if (at && t.nodes[at].kind == JSON_TREE_STRING) api_hint(rd, api_copy(rd->memory, t.nodes[at].text));
        json_tree_free(&t);
        return true;
    }
    const char *at = text.len ? memmem(text.data, text.len, mark, sizeof mark - 1) : NULL;
    if (at) api_hint(rd, (slice){ at + sizeof mark - 1, (size_t)(text.data + text.len - at) - (sizeof mark - 1) });
    return true;
}

/* Structured output in both spellings. A prompt that is only counted has the schema in it. */
static bool read_format(api_reader *rd, const api_value *format, bool counting, api_wish *wish)
{
    if (!api_given(rd, format)) return true;
    if (!counting) return api_format(rd, format);
    const api_value schema = api_field(rd, format, "schema");
    if (api_is_object(rd, &schema)) rd->r->chat.format_schema = api_json(rd, &schema);
    wish->structured = true;
    return true;
}

static bool read_thinking_wish(api_reader *rd, bool counting, api_wish *wish)
{
    const api_value body = api_body();
    const api_value thinking = api_field(rd, &body, "thinking"), output = api_field(rd, &body, "output_config");
    const api_value older = api_field(rd, &body, "output_format");
    if (api_given(rd, &thinking) && !api_thinking(rd, &thinking, wish)) return false;
    if (api_given(rd, &output)) {
        const api_value effort = api_field(rd, &output, "effort"), format = api_field(rd, &output, "format");
        if (!api_need_object(rd, &output) || !api_effort(rd, &effort, wish)) return false;
        if (!read_format(rd, &format, counting, wish)) return false;
    }
    return read_format(rd, &older, counting, wish);
}

static bool read_messages(api_reader *rd, bool counting)
{
    const api_value body = api_body(), messages = api_field(rd, &body, "messages");
    turn_list turns;
    turns_begin(&turns, rd);
    if (!read_system(rd, &turns) || !api_need_array(rd, &messages)) return false;
    for (api_value m = api_first(rd, &messages); m.node; m = api_after(rd, m)) {
        if (!read_message(rd, &m, &turns)) return false;
    }
    /* What is only counted may be a system text or tools alone. */
    if (counting && !turns_has_turn(&turns)) turns_message(&turns, CHAT_USER, (slice){ "", 0 }, (slice){ "", 0 });
    return turns_end(&turns, &messages);
}

/* What a generation needs beyond its prompt. */
static bool read_generation(api_reader *rd)
{
    static const char *const limits[] = { "max_tokens", NULL };
    const api_value body = api_body(), limit = api_field(rd, &body, "max_tokens");
    if (!api_given(rd, &limit)) return api_wrong(rd, &limit, "this field is required");
    return api_max_tokens(rd, limits, 1) && api_get_bool(rd, &body, "stream", &rd->r->stream)
        && api_sampling(rd, false) && api_stops(rd, "stop_sequences") && read_session(rd);
}

static bool parse(api_reader *rd, bool counting)
{
    api_wish wish = { .think = THINK_UNSAID };
    return api_model(rd) && read_messages(rd, counting) && read_tools(rd) && read_tool_choice(rd)
        && read_thinking_wish(rd, counting, &wish) && (counting || read_generation(rd)) && api_settle(rd, &wish);
}

bool messages_parse(api_reader *rd)
{
    return parse(rd, false);
}

bool count_tokens_parse(api_reader *rd)
{
    return parse(rd, true);
}

void api_count_tokens_body(int n, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_int(&w, "input_tokens", n);
    json_object_end(&w);
}
