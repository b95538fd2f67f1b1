#include "token_ids.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/status.h"

#define MAX_FILE_BYTES ((size_t)256 << 20)

void token_sequences_free(token_sequences *s)
{
    free(s->ids);
    free(s->begin);
    *s = (token_sequences){ 0 };
}

static ds4_status reserve(token_sequences *s, size_t n_sequences, size_t n_ids, ds4_error *err)
{
    size_t begin_bytes, id_bytes;
    if (checked_mul_size(n_sequences + 1, sizeof *s->begin, &begin_bytes) &&
        checked_mul_size(n_ids + 1, sizeof *s->ids, &id_bytes)) {
        s->begin = calloc(1, begin_bytes);
        s->ids = malloc(id_bytes);
    }
    if (s->begin && s->ids) return DS4_OK;
    token_sequences_free(s);
    return ds4_fail(err, DS4_EMEMORY, "no memory for the token ids");
}

ds4_status token_sequences_single(token_sequences *s, const ds4_token *ids, size_t n, ds4_error *err)
{
    *s = (token_sequences){ 0 };
    const ds4_status st = reserve(s, 1, n, err);
    if (st) return st;
    if (n) memcpy(s->ids, ids, n * sizeof *ids);
    s->begin[1] = n;
    s->n = 1;
    return DS4_OK;
}

/* One array of ids behind those there are; room has been made. */
static ds4_status append(token_sequences *s, json_object *array, const char *path, int n_vocab, ds4_error *err)
{
    size_t at = s->begin[s->n];
    const size_t n = json_object_array_length(array);
    if (n == 0) return ds4_fail(err, DS4_EFORMAT, "%.100s: sequence %zu is empty", path, s->n);
    for (size_t i = 0; i < n; i++) {
        json_object *item = json_object_array_get_idx(array, i);
        if (!json_object_is_type(item, json_type_int))
            return ds4_fail(err, DS4_EFORMAT, "%.100s: sequence %zu, position %zu: expected a token id", path, s->n, i);
        const int64_t id = json_object_get_int64(item);
        if (id < 0 || id >= n_vocab)
            return ds4_fail(err, DS4_EFORMAT, "%.100s: sequence %zu, position %zu: id %lld is outside the "
                            "vocabulary of %d", path, s->n, i, (long long)id, n_vocab);
        s->ids[at++] = (ds4_token)id;
    }
    s->begin[++s->n] = at;
    return DS4_OK;
}

static bool is_list_of_lists(json_object *root)
{
    return json_object_is_type(json_object_array_get_idx(root, 0), json_type_array);
}

static ds4_status take_list(token_sequences *s, json_object *root, const char *path, int n_vocab, ds4_error *err)
{
    const size_t n = json_object_array_length(root);
    size_t ids = 0;
    for (size_t i = 0; i < n; i++) {
        json_object *item = json_object_array_get_idx(root, i);
        if (!json_object_is_type(item, json_type_array))
            return ds4_fail(err, DS4_EFORMAT, "%.100s: element %zu: expected an array of token ids", path, i);
        ids += json_object_array_length(item);
    }
    ds4_status st = reserve(s, n, ids, err);
    for (size_t i = 0; i < n && !st; i++)
        st = append(s, json_object_array_get_idx(root, i), path, n_vocab, err);
    return st;
}

static ds4_status take_root(token_sequences *s, json_object *root, const char *path, int n_vocab, ds4_error *err)
{
    if (!json_object_is_type(root, json_type_array) || json_object_array_length(root) == 0)
        return ds4_fail(err, DS4_EFORMAT, "%.100s: expected a JSON array of token ids, or of such arrays", path);
    if (is_list_of_lists(root)) return take_list(s, root, path, n_vocab, err);
    const ds4_status st = reserve(s, 1, json_object_array_length(root), err);
    return st ? st : append(s, root, path, n_vocab, err);
}

ds4_status token_sequences_read(token_sequences *s, const char *path, int n_vocab, ds4_error *err)
{
    char *text;
    size_t n;
    *s = (token_sequences){ 0 };
    ds4_status st = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (st) return st;

    json_tokener *parser = json_tokener_new();
    json_object *root = parser && n ? json_tokener_parse_ex(parser, text, (int)n) : NULL;
    if (!parser) st = ds4_fail(err, DS4_EMEMORY, "no memory for the token ids");
    else if (!root) st = ds4_fail(err, DS4_EFORMAT, "%.100s: not JSON: %s", path,
                                  json_tokener_error_desc(json_tokener_get_error(parser)));
    else st = take_root(s, root, path, n_vocab, err);

    json_object_put(root);
    if (parser) json_tokener_free(parser);
    free(text);
    if (st) token_sequences_free(s);
    return st;
}
