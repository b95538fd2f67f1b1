/* api_tools: tools that a request brings, and which of them may or must be called. */
#include "api/api_common.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static bool name_allowed(slice name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-";
    if (name.len < 1 || name.len > 128) return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!memchr(allowed, name.data[i], sizeof allowed - 1)) return false;
    }
    return true;
}

bool api_add_tool(api_reader *rd, const api_value *at, slice name, slice description, bool has_description,
                  slice parameters)
{
    if (!name_allowed(name)) {
        const api_value v = api_field(rd, at, "name");
        return api_wrong(rd, &v, "1 to 128 characters of A-Z a-z 0-9 _ . : / - are expected");
    }
    if (rd->n_tools == API_MAX_TOOLS) {
        return api_wrong(rd, at, "at most %d tools are possible", API_MAX_TOOLS);
    }
    chat_tool *tools = api_grow(rd->memory, rd->tools, rd->n_tools, &rd->cap_tools, sizeof *tools);
    if (!tools) return true;
    tools[rd->n_tools++] = (chat_tool){ name, has_description, description, parameters };
    rd->tools = tools;
    return true;
}

bool api_no_strict(api_reader *rd, const api_value *tool)
{
    const api_value strict = api_field(rd, tool, "strict");
    bool wanted = false;
    if (!api_get_bool(rd, tool, "strict", &wanted)) return false;
    if (!wanted) return true;
    api_wrong(rd, &strict, "arguments can not be held to a schema by this version; leave strict out or false");
    if (rd->error) rd->error->code = "unsupported_schema";
    return false;
}

bool api_add_function(api_reader *rd, const api_value *function, const char *schema_field)
{
    const api_value name_at = api_field(rd, function, "name"), schema = api_field(rd, function, schema_field);
    const api_value description_at = api_field(rd, function, "description");
    slice name, description = { "", 0 }, parameters = { "", 0 };
    if (!api_need_string(rd, &name_at, &name) || !api_no_strict(rd, function)) return false;
    if (!api_get_string(rd, function, "description", &description)) return false;
    if (api_given(rd, &schema)) {
        if (!api_need_object(rd, &schema)) return false;
        parameters = api_json(rd, &schema);
    }
    return api_add_tool(rd, function, name, description, api_given(rd, &description_at), parameters);
}

static const chat_tool *find_tool(const api_reader *rd, slice name)
{
    for (int i = 0; i < rd->n_tools; i++) {
        if (slice_equal(rd->tools[i].name, name)) return &rd->tools[i];
    }
    return NULL;
}

bool api_choose_tool(api_reader *rd, const api_value *at, slice name)
{
    if (!find_tool(rd, name)) {
        return api_wrong(rd, at, "no tool is named \"%.*s\"", api_shown(name, 128), name.data);
    }
    rd->r->choice = API_TOOLS_NAMED;
    rd->r->chosen_tool = name;
    return true;
}

bool api_allow_tools(api_reader *rd, const api_value *at, const slice *names, int n)
{
    chat_tool *callable = api_take(rd->memory, (size_t)n, sizeof *callable);
    if (n == 0) return api_wrong(rd, at, "at least one tool is expected");
    if (!callable) return true;
    for (int i = 0; i < n; i++) {
        const chat_tool *tool = find_tool(rd, names[i]);
        if (!tool) {
            return api_wrong(rd, at, "no tool is named \"%.*s\"", api_shown(names[i], 128), names[i].data);
        }
        callable[i] = *tool;
    }
    rd->r->callable = callable;
    rd->r->n_callable = n;
    return n > 1 || rd->r->choice != API_TOOLS_REQUIRED || api_choose_tool(rd, at, names[0]);
}

static int by_name(const void *pa, const void *pb)
{
    const slice *a = pa, *b = pb;
    const size_t n = min_size(a->len, b->len);
    const int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static bool names_differ(api_reader *rd)
{
    slice names[API_MAX_TOOLS];
    for (int i = 0; i < rd->n_tools; i++) names[i] = rd->tools[i].name;
    qsort(names, (size_t)rd->n_tools, sizeof *names, by_name);
    for (int i = 1; i < rd->n_tools; i++) {
        if (!slice_equal(names[i - 1], names[i])) continue;
        return api_refuse(rd->error, 400, "invalid_request_error", NULL, "tools",
                          "tools: two of them are named \"%.*s\"", (int)names[i].len, names[i].data);
    }
    return true;
}

bool api_settle_tools(api_reader *rd)
{
    api_request *r = rd->r;
    if (!names_differ(rd)) return false;
    r->chat.tools = rd->tools;
    r->chat.n_tools = rd->n_tools;
    if (!r->callable) {
        r->callable = rd->tools;
        r->n_callable = rd->n_tools;
    }
    if (r->choice == API_TOOLS_REQUIRED && r->n_callable == 0) {
        return api_refuse(rd->error, 400, "invalid_request_error", NULL, "tool_choice",
                          "tool_choice: a call is required, but the request offers no tools");
    }
    return true;
}
