#include "text/call_args.h"

#include <string.h>

#include "text/utf8_repair.h"

void call_args_init(call_args *a, int *repairs, size_t max_bytes)
{
    *a = (call_args){ .repairs = repairs };
    bytes_init(&a->keys, max_bytes);
    bytes_init(&a->value, max_bytes);
    bytes_init(&a->wrapped, max_bytes);
}

void call_args_free(call_args *a)
{
    bytes_free(&a->keys);
    bytes_free(&a->value);
    bytes_free(&a->wrapped);
}

bool call_args_failed(const call_args *a)
{
    return a->no_memory || a->keys.failed || a->value.failed || a->wrapped.failed;
}

/* Clears it, but not that memory failed. */
static void forget(call_args *a, bytes *b)
{
    a->no_memory |= b->failed;
    bytes_clear(b);
}

void call_args_begin(call_args *a, const call_schema *schema)
{
    a->schema = schema;
    a->n_parameters = a->n_members = 0;
    a->has_wrapper = false;
    forget(a, &a->keys);
}

/* ---- keys ------------------------------------------------------------------- */

static slice key_at(const call_args *a, size_t at)
{
    uint32_t len;
    memcpy(&len, a->keys.data + at, sizeof len);
    return (slice){ a->keys.data + at + sizeof len, len };
}

static bool has_key(const call_args *a, slice key)
{
    for (size_t at = 0; at < a->keys.len;) {
        const slice k = key_at(a, at);
        if (slice_equal(k, key)) return true;
        at += sizeof(uint32_t) + k.len;
    }
    return false;
}

/* False: no memory, and no record. */
static bool add_key(call_args *a, slice key)
{
    const uint32_t len = (uint32_t)key.len;
    a->key = a->keys.len;
    return bytes_reserve(&a->keys, sizeof len + key.len) && bytes_append(&a->keys, &len, sizeof len) &&
           bytes_append(&a->keys, key.data, key.len);
}

bool call_args_awaits(const call_args *a, slice key)
{
    return a->schema && call_schema_declares(a->schema, key) && !has_key(a, key);
}

/* ---- members ---------------------------------------------------------------- */

static void write_key(call_args *a, slice key, bytes *out)
{
    bytes_char(out, a->n_members++ ? ',' : '{');
    json_tree_write_string(key, out);
    bytes_char(out, ':');
}

/* Some models wrap all arguments into one parameter of these names. */
static bool is_wrapper_name(const call_args *a, slice key)
{
    return a->schema && a->schema->properties && (slice_is(key, "arguments") || slice_is(key, "input")) &&
           !call_schema_declares(a->schema, key);
}

/* What might have been a wrapper is an ordinary member. */
static void settle_wrapper(call_args *a, bytes *out)
{
    if (!a->has_wrapper) return;
    a->has_wrapper = false;
    write_key(a, key_at(a, 0), out);
    bytes_append(out, a->wrapped.data, a->wrapped.len);
}

static value_mode mode_of(const call_args *a)
{
    if (a->may_wrap || a->string == DSML_STRING_FALSE) return VALUE_HELD;
    if (a->string == DSML_STRING_MISSING) return a->kinds == KIND_STRING ? VALUE_STREAMED : VALUE_HELD;
    return a->kinds & KIND_STRING ? VALUE_STREAMED : VALUE_HELD;
}

void call_args_parameter(call_args *a, slice key, dsml_string string, bytes *out)
{
    settle_wrapper(a, out);
    a->string = string;
    a->in_string = a->escaped = false;
    forget(a, &a->value);
    a->mode = VALUE_DROPPED;
    if (has_key(a, key)) {
        a->repairs[REPAIR_DUPLICATE]++;
        return;
    }
    if (!add_key(a, key)) return;
    a->kinds = a->schema ? call_schema_kinds(a->schema, key) : KIND_ANY;
    a->may_wrap = a->n_parameters++ == 0 && is_wrapper_name(a, key);
    a->mode = mode_of(a);
    if (string == DSML_STRING_MISSING) a->repairs[REPAIR_STRING_ATTRIBUTE]++;
    if (a->mode != VALUE_STREAMED) return;
    write_key(a, key, out);
    bytes_char(out, '"');
}

/* Where the strings of a JSON value are, for sampling only. */
static void follow_json(call_args *a, slice part)
{
    for (size_t i = 0; i < part.len; i++) {
        const char c = part.data[i];
        if (a->escaped) a->escaped = false;
        else if (c == '"') a->in_string = !a->in_string;
        else if (c == '\\' && a->in_string) a->escaped = true;
    }
}

void call_args_value(call_args *a, slice part, bytes *out)
{
    if (a->string == DSML_STRING_FALSE) follow_json(a, part);
    if (a->mode == VALUE_STREAMED) json_tree_escape(part, out);
    if (a->mode == VALUE_HELD) bytes_append(&a->value, part.data, part.len);
}

bool call_args_in_payload(const call_args *a)
{
    return a->string != DSML_STRING_FALSE || a->in_string;
}

/* ---- held values ------------------------------------------------------------ */

static slice trimmed(slice s)
{
    while (s.len && strchr(" \t\r\n", s.data[0])) s.data++, s.len--;
    while (s.len && strchr(" \t\r\n", s.data[s.len - 1])) s.len--;
    return s;
}

/* The literals of another language. */
static const char *python_literal(slice text)
{
    const slice word = trimmed(text);
    return slice_is(word, "True") ? "true" : slice_is(word, "False") ? "false" : slice_is(word, "None") ? "null" : NULL;
}

/* False: it is no JSON. */
static bool read_json(call_args *a, json_tree *tree, slice text)
{
    const ds4_status st = json_tree_parse(tree, text, NULL);
    a->no_memory |= st == DS4_EMEMORY;
    return st == DS4_OK;
}

/* The value as JSON where it is to be JSON; false: it is a string. */
static bool write_as_json(call_args *a, slice text, bytes *out)
{
    json_tree tree;
    const char *literal = a->string == DSML_STRING_FALSE ? python_literal(text) : NULL;
    if (literal) {
        a->repairs[REPAIR_JSON_LITERAL]++;
        bytes_text(out, literal);
        return true;
    }
    if (!read_json(a, &tree, text)) return false;
    const bool good = a->string != DSML_STRING_TRUE || call_schema_allows(a->kinds, &tree.nodes[1]);
    if (good) json_tree_write_compact(&tree, 1, out);
    json_tree_free(&tree);
    return good;
}

static void write_held(call_args *a, bytes *out)
{
    const slice text = { a->value.data, a->value.len };
    const bool may_be_json = a->string != DSML_STRING_TRUE || !(a->kinds & KIND_STRING);
    const bool json = may_be_json && write_as_json(a, text, out);
    if (!json) json_tree_write_string(text, out);
    const bool changed = json ? a->string == DSML_STRING_TRUE : a->string == DSML_STRING_FALSE;
    if (changed) a->repairs[REPAIR_TYPE]++;
}

void call_args_value_end(call_args *a, bytes *out)
{
    if (a->mode == VALUE_STREAMED) bytes_char(out, '"');
    if (a->mode != VALUE_HELD) return;
    utf8_repair(&a->value);             /* JSON is read strictly */
    if (a->may_wrap) {
        forget(a, &a->wrapped);
        write_held(a, &a->wrapped);
        a->has_wrapper = true;
        return;
    }
    write_key(a, key_at(a, a->key), out);
    write_held(a, out);
}

/* ---- the end ---------------------------------------------------------------- */

/* The whole object, when the only parameter holds one whose keys are all declared. */
static bool unwrap(call_args *a, bytes *out)
{
    json_tree tree;
    if (!a->has_wrapper || !read_json(a, &tree, (slice){ a->value.data, a->value.len })) return false;
    bool good = tree.nodes[1].kind == JSON_TREE_OBJECT;
    for (uint32_t m = tree.nodes[1].first; m && good; m = tree.nodes[m].next) {
        good = call_schema_declares(a->schema, tree.nodes[m].key);
    }
    if (good) {
        json_tree_write_compact(&tree, 1, out);
        a->repairs[REPAIR_WRAPPER]++;
        a->has_wrapper = false;
    }
    json_tree_free(&tree);
    return good;
}

void call_args_end(call_args *a, bytes *out)
{
    if (unwrap(a, out)) return;
    settle_wrapper(a, out);
    bytes_text(out, a->n_members ? "}" : "{}");
}
