#include "api/responses_tools.h"

typedef struct {
    api_reader        *rd;
    responses_request *q;
    int                cap_tools;
} tool_reader;

static const slice nothing = { "", 0 };

/* Its `type`, empty where that is no string. */
static slice type_of(const api_reader *rd, const api_value *v)
{
    const api_value type = api_field(rd, v, "type");
    return api_is_string(rd, &type) ? api_raw(rd, &type) : nothing;
}

slice responses_full_name(api_reader *rd, slice space, slice name)
{
    const slice parts[2] = { space, name };
    return space.len ? api_join(rd, parts, 2, ".") : name;
}

/* ---- what is offered ------------------------------------------------------------------------ */

static void remember_tool(tool_reader *p, responses_tool_kind kind, slice space, slice name, slice full)
{
    responses_tool *tools = api_grow(p->rd->memory, (responses_tool *)p->q->tools, p->q->n_tools, &p->cap_tools,
                                     sizeof *tools);
    if (!tools) return;
    tools[p->q->n_tools++] = (responses_tool){ .full = full, .name = name, .space = space, .kind = kind };
    p->q->tools = tools;
}

/* A function, or a custom tool as the function that stands for it; inside of a namespace or not. */
static bool read_named_tool(tool_reader *p, const api_value *tool, responses_tool_kind kind, slice space)
{
    static const char custom_schema[] =
        "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},\"required\":[\"input\"]}";
    api_reader *rd = p->rd;
    const api_value name_at = api_field(rd, tool, "name"), schema = api_field(rd, tool, "parameters");
    const api_value description_at = api_field(rd, tool, "description");
    slice name, description = nothing, parameters = nothing;
    if (!api_need_string(rd, &name_at, &name) || !api_get_string(rd, tool, "description", &description)) return false;
    if (kind == RESPONSES_CUSTOM) {
        parameters = slice_of(custom_schema);
    } else {
        if (!api_no_strict(rd, tool)) return false;
        if (api_given(rd, &schema)) {
            if (!api_need_object(rd, &schema)) return false;
            parameters = api_json(rd, &schema);
        }
    }
    const slice full = responses_full_name(rd, space, name);
    remember_tool(p, kind, space, name, full);
    return api_add_tool(rd, tool, full, description, api_given(rd, &description_at), parameters);
}

static bool read_namespace(tool_reader *p, const api_value *space)
{
    api_reader *rd = p->rd;
    const api_value name_at = api_field(rd, space, "name"), tools = api_field(rd, space, "tools");
    slice name;
    if (!api_need_string(rd, &name_at, &name) || !api_need_array(rd, &tools)) return false;
    for (api_value tool = api_first(rd, &tools); tool.node; tool = api_after(rd, tool)) {
        if (!api_need_object(rd, &tool)) return false;
        const slice type = type_of(rd, &tool);
        if (slice_is(type, "custom")) {
            if (!read_named_tool(p, &tool, RESPONSES_CUSTOM, name)) return false;
        } else if (!type.len || slice_is(type, "function")) {
            if (!read_named_tool(p, &tool, RESPONSES_FUNCTION, name)) return false;
        } else {
            api_warn(rd, "the tool of type %.*s is left out", api_shown(type, 64), type.data);
        }
    }
    return true;
}

static bool add_local_shell(tool_reader *p, const api_value *tool)
{
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"command\":{\"type\":\"array\",\"items\":"
                                 "{\"type\":\"string\"}}},\"required\":[\"command\"]}";
    const slice name = slice_of("local_shell");
    remember_tool(p, RESPONSES_LOCAL_SHELL, nothing, name, name);
    const slice description = slice_of("Runs a command, given as a list of its words, and returns its output.");
    return api_add_tool(p->rd, tool, name, description, true, slice_of(schema));
}

bool responses_read_tools(api_reader *rd, responses_request *q)
{
    tool_reader reader = { rd, q, 0 }, *p = &reader;
    const api_value body = api_body(), tools = api_field(rd, &body, "tools");
    if (!api_given(rd, &tools)) return true;
    if (!api_need_array(rd, &tools)) return false;
    for (api_value tool = api_first(rd, &tools); tool.node; tool = api_after(rd, tool)) {
        bool good = true;
        if (!api_need_object(rd, &tool)) return false;
        const slice type = type_of(rd, &tool);
        if (slice_is(type, "function"))         good = read_named_tool(p, &tool, RESPONSES_FUNCTION, nothing);
        else if (slice_is(type, "custom"))      good = read_named_tool(p, &tool, RESPONSES_CUSTOM, nothing);
        else if (slice_is(type, "namespace"))   good = read_namespace(p, &tool);
        else if (slice_is(type, "local_shell")) good = add_local_shell(p, &tool);
        else api_warn(rd, "the tool of type %.*s is left out", api_shown(type, 64), type.data);
        if (!good) return false;
    }
    return true;
}

/* ---- what is chosen ------------------------------------------------------------------------- */

/* The tool that {type, name, namespace} means. */
static bool read_choice_name(api_reader *rd, const api_value *choice, slice *full)
{
    const api_value name_at = api_field(rd, choice, "name");
    const slice type = type_of(rd, choice);
    slice name, space = nothing;
    if (slice_is(type, "local_shell")) {
        *full = type;
        return true;
    }
    if (!slice_is(type, "function") && !slice_is(type, "custom")) {
        const api_value type_at = api_field(rd, choice, "type");
        return api_wrong(rd, &type_at, "function, custom, local_shell or allowed_tools is expected");
    }
    if (!api_need_string(rd, &name_at, &name) || !api_get_string(rd, choice, "namespace", &space)) return false;
    *full = responses_full_name(rd, space, name);
    return true;
}

static bool read_mode(api_reader *rd, const api_value *at, slice mode)
{
    if (slice_is(mode, "auto"))          rd->r->choice = API_TOOLS_AUTO;
    else if (slice_is(mode, "required")) rd->r->choice = API_TOOLS_REQUIRED;
    else if (slice_is(mode, "none"))     rd->r->choice = API_TOOLS_NONE;
    else return api_wrong(rd, at, "auto, required or none is expected");
    return true;
}

static bool read_allowed_tools(api_reader *rd, const api_value *choice)
{
    const api_value mode_at = api_field(rd, choice, "mode"), tools = api_field(rd, choice, "tools");
    slice mode = slice_of("auto");
    int n = 0;
    if (!api_get_string(rd, choice, "mode", &mode) || !read_mode(rd, &mode_at, mode)) return false;
    if (!api_need_array(rd, &tools)) return false;
    slice *names = api_take(rd->memory, (size_t)api_count(rd, &tools), sizeof *names);
    for (api_value tool = api_first(rd, &tools); names && tool.node; tool = api_after(rd, tool)) {
        if (!api_need_object(rd, &tool) || !read_choice_name(rd, &tool, &names[n++])) return false;
    }
    return api_allow_tools(rd, &tools, names, n);
}

bool responses_read_tool_choice(api_reader *rd)
{
    const api_value body = api_body(), choice = api_field(rd, &body, "tool_choice");
    slice name;
    if (!api_given(rd, &choice)) return true;
    if (api_is_string(rd, &choice)) return read_mode(rd, &choice, api_raw(rd, &choice));
    if (!api_need_object(rd, &choice)) return false;
    if (slice_is(type_of(rd, &choice), "allowed_tools")) return read_allowed_tools(rd, &choice);
    return read_choice_name(rd, &choice, &name) && api_choose_tool(rd, &choice, name);
}
