#include "text/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/dsml.h"
#include "text/json_tree.h"

/* ---- the block that offers tools ------------------------------------------ */

static const char block_head[] =
    "## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by "
    "writing a \"<｜DSML｜tool_calls>\" block like the following:\n"
    "\n"
    "<｜DSML｜tool_calls>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME\">\n"
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>\n"
    "\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, "
    "booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n"
    "\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n"
    "\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n";

static const char block_tail[] =
    "\n"
    "\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

static bool name_allowed(slice name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-";
    if (name.len < 1 || name.len > 128) return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!name.data[i] || !strchr(allowed, name.data[i])) return false;
    }
    return true;
}

static int by_name(const void *pa, const void *pb)
{
    const slice *a = pa, *b = pb;
    const int order = memcmp(a->data, b->data, min_size(a->len, b->len));
    if (order) return order;
    return a->len < b->len ? -1 : a->len > b->len;
}

static ds4_status check_names(const chat_tool *tools, int n, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < n; i++) {
        if (!name_allowed(tools[i].name)) {
            return ds4_fail(err, DS4_EARG,
                            "tools[%d].name: 1 to 128 characters of A-Z a-z 0-9 _ . : / - are expected", i);
        }
    }
    slice *names = malloc((size_t)n * sizeof *names);
    if (!names) return ds4_fail(err, DS4_EMEMORY, "no memory for %d tools", n);
    for (int i = 0; i < n; i++) names[i] = tools[i].name;
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 1; i < n && !st; i++) {
        if (slice_equal(names[i - 1], names[i])) {
            st = ds4_fail(err, DS4_EARG, "tools: two of them are named \"%.*s\"",
                          (int)names[i].len, names[i].data);
        }
    }
    free(names);
    return st;
}

/* JSON is made aside in a buffer without a limit of its own (it is at most six times
 * its source), so that only the prompt's limit counts. */
static void give(chat_prompt *p, bytes *written)
{
    p->failed |= written->failed;
    chat_prompt_text(p, (slice){ written->data, written->len });
    bytes_free(written);
}

static void write_string(chat_prompt *p, slice text)
{
    bytes quoted;
    bytes_init(&quoted, SIZE_MAX);
    json_tree_write_string(text, &quoted);
    give(p, &quoted);
}

ds4_status schema_write(chat_prompt *p, slice json, const char *field, ds4_error *err)
{
    json_tree tree;
    ds4_error inner;
    bytes written;
    const ds4_status st = json_tree_parse(&tree, json, &inner);
    if (st) return ds4_fail(err, st == DS4_EFORMAT ? DS4_EARG : st, "%s: %s", field, inner.message);

    bytes_init(&written, SIZE_MAX);
    json_tree_write(&tree, 1, &written);
    give(p, &written);
    json_tree_free(&tree);
    return DS4_OK;
}

/* {"name": ..., "description": ..., "parameters": ...} */
static ds4_status write_tool(chat_prompt *p, const chat_tool *tool, int i, ds4_error *err)
{
    ds4_status st = DS4_OK;
    char field[40];
    snprintf(field, sizeof field, "tools[%d].parameters", i);

    chat_prompt_text(p, slice_of("{\"name\": "));
    write_string(p, tool->name);
    if (tool->has_description) {
        chat_prompt_text(p, slice_of(", \"description\": "));
        write_string(p, tool->description);
    }
    if (tool->parameters.len) {
        chat_prompt_text(p, slice_of(", \"parameters\": "));
        st = schema_write(p, tool->parameters, field, err);
    }
    chat_prompt_text(p, slice_of("}"));
    return st;
}

ds4_status tools_write(chat_prompt *p, const chat_tool *tools, int n, ds4_error *err)
{
    ds4_status st = check_names(tools, n, err);
    chat_prompt_protocol(p, block_head);
    for (int i = 0; i < n && !st; i++) {
        if (i) chat_prompt_text(p, slice_of("\n"));
        st = write_tool(p, &tools[i], i, err);
    }
    chat_prompt_protocol(p, block_tail);
    return st;
}

/* ---- calls ---------------------------------------------------------------- */

#define PARAMETER_END "</｜DSML｜parameter>"

/* A name between quotes of a tag. */
static void write_attribute(chat_prompt *p, slice name)
{
    size_t done = 0;
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.data[i];
        const char *entity = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;"
                           : c == '"' ? "&quot;" : NULL;
        if (!entity) continue;
        chat_prompt_text(p, (slice){ name.data + done, i - done });
        chat_prompt_text(p, slice_of(entity));
        done = i + 1;
    }
    if (done < name.len) chat_prompt_text(p, (slice){ name.data + done, name.len - done });
}

static void begin_parameter(chat_prompt *p, slice name, bool string)
{
    chat_prompt_protocol(p, "<｜DSML｜parameter name=\"");
    write_attribute(p, name);
    chat_prompt_text(p, slice_of(string ? "\" string=\"true\">" : "\" string=\"false\">"));
}

/* A string goes in raw, anything else as JSON; neither may close the parameter. */
static void write_value(chat_prompt *p, const json_tree *t, uint32_t node)
{
    if (t->nodes[node].kind == JSON_TREE_STRING) {
        chat_prompt_guarded(p, t->nodes[node].text, PARAMETER_END, "&lt;/｜DSML｜parameter>");
        return;
    }
    bytes written;
    bytes_init(&written, SIZE_MAX);
    json_tree_write(t, node, &written);
    p->failed |= written.failed;
    chat_prompt_guarded(p, (slice){ written.data, written.len }, PARAMETER_END, "\\u003c/｜DSML｜parameter>");
    bytes_free(&written);
}

static void write_members(chat_prompt *p, const json_tree *t)
{
    for (uint32_t m = t->nodes[1].first; m; m = t->nodes[m].next) {
        begin_parameter(p, t->nodes[m].key, t->nodes[m].kind == JSON_TREE_STRING);
        write_value(p, t, m);
        chat_prompt_protocol(p, PARAMETER_END "\n");
    }
    if (!t->nodes[1].first) chat_prompt_text(p, slice_of("\n"));
}

/* Arguments that are not a JSON object: one parameter with the whole text. */
static void write_wrapped(chat_prompt *p, slice arguments)
{
    begin_parameter(p, slice_of("arguments"), true);
    chat_prompt_guarded(p, arguments, PARAMETER_END, "&lt;/｜DSML｜parameter>");
    chat_prompt_protocol(p, PARAMETER_END "\n");
}

void calls_begin(chat_prompt *p)
{
    chat_prompt_protocol(p, "\n\n<｜DSML｜tool_calls>\n");
}

ds4_status calls_write(chat_prompt *p, const chat_call *call, bool first, ds4_error *err)
{
    json_tree tree;
    const ds4_status st = json_tree_parse(&tree, call->arguments, NULL);
    if (st == DS4_EMEMORY) return ds4_fail(err, st, "no memory for the arguments of a call");

    if (!first) chat_prompt_text(p, slice_of("\n"));
    chat_prompt_protocol(p, "<｜DSML｜invoke name=\"");
    write_attribute(p, call->name);
    chat_prompt_text(p, slice_of("\">\n"));
    if (!st && tree.nodes[1].kind == JSON_TREE_OBJECT) write_members(p, &tree);
    else write_wrapped(p, call->arguments);
    chat_prompt_protocol(p, "</｜DSML｜invoke>");
    json_tree_free(&tree);
    return DS4_OK;
}

void calls_end(chat_prompt *p)
{
    chat_prompt_protocol(p, "\n</｜DSML｜tool_calls>");
}

/* ---- calls as they were sampled --------------------------------------------- */

/* A tag: its marker is the token. */
static void write_tag(chat_prompt *p, slice tag)
{
    const char *at = memmem(tag.data, tag.len, DSML_MARKER, strlen(DSML_MARKER));
    const size_t before = at ? (size_t)(at - tag.data) : tag.len, after = at ? before + strlen(DSML_MARKER) : tag.len;
    chat_prompt_text(p, (slice){ tag.data, before });
    if (at) chat_prompt_control(p, vocab_special(p->v)->dsml);
    chat_prompt_text(p, (slice){ tag.data + after, tag.len - after });
}

void calls_replay(chat_prompt *p, slice block)
{
    bool in_value = false;
    size_t done = 0;
    if (block.len == 0) return;
    for (size_t i = 0; i < block.len;) {
        dsml_tag tag;
        const slice rest = { block.data + i, block.len - i };
        if (rest.data[0] != '<' || dsml_read(rest, false, &tag) != DSML_TAG) {
            i++;
            continue;
        }
        const bool ends_value = tag.closing && (tag.kind == DSML_PARAMETER || tag.kind == DSML_OTHER);
        if (in_value && !ends_value) {
            i++;
            continue;
        }
        chat_prompt_text(p, (slice){ block.data + done, i - done });
        write_tag(p, (slice){ rest.data, tag.len });
        done = i += tag.len;
        in_value = tag.kind == DSML_PARAMETER && !tag.closing;
    }
    chat_prompt_text(p, (slice){ block.data + done, block.len - done });
}

bool calls_arguments_equal(slice a, slice b)
{
    json_tree tree_a, tree_b;
    if (a.len == 0) a = slice_of("{}");
    if (b.len == 0) b = slice_of("{}");
    if (slice_equal(a, b)) return true;
    const bool good_a = !json_tree_parse(&tree_a, a, NULL), good_b = !json_tree_parse(&tree_b, b, NULL);
    const bool equal = good_a && good_b && json_tree_equal(&tree_a, 1, &tree_b, 1);
    json_tree_free(&tree_a);
    json_tree_free(&tree_b);
    return equal;
}
