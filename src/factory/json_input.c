#include "factory/json_input.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/status.h"
#include "base/utf8.h"

/* A safetensors header or a tokenizer is four deep; more is not ours. */
#define MAX_DEPTH 16

/* Key-value pairs as written: outside of strings a colon occurs nowhere else.
 * False for what json-c takes and JSON does not have there: ' and comments. */
static bool pairs_in_text(const char *text, size_t n, size_t *pairs)
{
    bool in_string = false;
    *pairs = 0;
    for (size_t i = 0; i < n; i++) {
        if (in_string && text[i] == '\\') i++;
        else if (text[i] == '"') in_string = !in_string;
        else if (in_string) continue;
        else if (text[i] == ':') (*pairs)++;
        else if (text[i] == '\'' || text[i] == '/') return false;
    }
    return true;
}

/* Key-value pairs as kept by the parser, which lets a later key replace an earlier one. */
static size_t pairs_in_tree(json_object *value)
{
    size_t pairs = 0;
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, child) {
            (void)key;
            pairs += 1 + pairs_in_tree(child);
        }
    } else if (json_object_is_type(value, json_type_array)) {
        const size_t n = json_object_array_length(value);
        for (size_t i = 0; i < n; i++) pairs += pairs_in_tree(json_object_array_get_idx(value, i));
    }
    return pairs;
}

static bool only_blanks(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t') return false;
    return true;
}

ds4_status json_input_parse(json_object **out, const char *text, size_t n, const char *name, ds4_error *err)
{
    size_t pairs;
    *out = NULL;
    if (n > INT_MAX) return ds4_fail(err, DS4_EFORMAT, "%s: too long for a JSON text", name);
    if (!utf8_valid(text, n)) return ds4_fail(err, DS4_EFORMAT, "%s: not valid JSON: it is not UTF-8", name);
    if (!pairs_in_text(text, n, &pairs))
        return ds4_fail(err, DS4_EFORMAT, "%s: not valid JSON: a quote or a slash outside of strings", name);

    json_tokener *parser = json_tokener_new_ex(MAX_DEPTH);
    if (!parser) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for the JSON parser", name);
    json_tokener_set_flags(parser, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS);

    json_object *root = json_tokener_parse_ex(parser, text, (int)n);
    const enum json_tokener_error why = json_tokener_get_error(parser);
    const size_t end = json_tokener_get_parse_end(parser);
    json_tokener_free(parser);

    if (!root || why != json_tokener_success) {
        json_object_put(root);
        return ds4_fail(err, DS4_EFORMAT, "%s: not valid JSON at byte %zu: %s", name, end,
                        why == json_tokener_continue ? "it ends too early" : json_tokener_error_desc(why));
    }
    if (!only_blanks(text + end, n - end)) {
        json_object_put(root);
        return ds4_fail(err, DS4_EFORMAT, "%s: text after the JSON value at byte %zu", name, end);
    }
    if (pairs != pairs_in_tree(root)) {
        json_object_put(root);
        return ds4_fail(err, DS4_EFORMAT, "%s: a key occurs twice in one object", name);
    }
    *out = root;
    return DS4_OK;
}

ds4_status json_input_file(json_object **out, const char *path, size_t max_bytes, ds4_error *err)
{
    char  *text;
    size_t n;
    *out = NULL;
    ds4_status st = file_read_all(path, max_bytes, &text, &n, err);
    if (st) return st;
    st = json_input_parse(out, text, n, path, err);
    free(text);
    return st;
}

json_object *json_input_get(json_object *object, const char *key)
{
    json_object *value = NULL;
    if (!json_object_is_type(object, json_type_object)) return NULL;
    return json_object_object_get_ex(object, key, &value) ? value : NULL;
}

bool json_input_number(json_object *value, double *out)
{
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
        return false;
    const double v = json_object_get_double(value);
    if (!isfinite(v)) return false;
    *out = v;
    return true;
}

bool json_input_int(json_object *value, int64_t *out)
{
    if (json_object_is_type(value, json_type_int)) {
        *out = json_object_get_int64(value);
        return true;
    }
    double v;
    if (!json_input_number(value, &v) || v != floor(v) || fabs(v) > 9007199254740992.0) return false;
    *out = (int64_t)v;
    return true;
}
