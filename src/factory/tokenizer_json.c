/* The tokenizer files of a checkpoint as a token table. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "factory/checkpoint.h"
#include "factory/json_input.h"
#include "factory/token_table.h"

#define MAX_TOKENIZER (256u << 20)  /* bytes; the release's has 8 MB */

typedef struct {
    token_table *t;
    const char  *path;
    ds4_error   *err;
} reader;

static slice text_of(json_object *value)
{
    return (slice){ json_object_get_string(value), (size_t)json_object_get_string_len(value) };
}

static ds4_status no_memory(const reader *r)
{
    return ds4_fail(r->err, DS4_EMEMORY, "%s: no memory for the vocabulary", r->path);
}

static ds4_status read_id(const reader *r, json_object *value, slice text, int *id)
{
    int64_t v;
    if (!json_input_int(value, &v) || v < 0)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: token \"%.*s\" has no id", r->path, (int)text.len, text.data);
    if (v >= r->t->n_tokens)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: token \"%.*s\" has id %lld, the vocabulary size is %d", r->path,
                        (int)text.len, text.data, (long long)v, r->t->n_tokens);
    *id = (int)v;
    return DS4_OK;
}

static ds4_status set_token(const reader *r, int id, slice text, int type)
{
    const slice old = r->t->tokens[id];
    if (old.data)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: tokens \"%.*s\" and \"%.*s\" share id %d", r->path,
                        (int)old.len, old.data, (int)text.len, text.data, id);
    return token_table_set(r->t, id, text, type) ? DS4_OK : no_memory(r);
}

/* An added token may stand in the base vocabulary too; the entry says how it is used. */
static ds4_status read_added(const reader *r, json_object *list)
{
    const size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++) {
        json_object *entry = json_object_array_get_idx(list, i);
        json_object *content = json_input_get(entry, "content");
        if (!json_object_is_type(content, json_type_string) || !json_object_get_string_len(content))
            return ds4_fail(r->err, DS4_EFORMAT, "%s: added token %zu has no content", r->path, i);

        int id;
        const slice text = text_of(content);
        const int type = json_object_get_boolean(json_input_get(entry, "special")) ? TOKEN_TYPE_CONTROL : TOKEN_TYPE_USER;
        ds4_status st = read_id(r, json_input_get(entry, "id"), text, &id);
        if (!st) st = set_token(r, id, text, type);
        if (st) return st;
    }
    return DS4_OK;
}

static ds4_status read_vocab(const reader *r, json_object *vocab)
{
    if (!json_object_is_type(vocab, json_type_object))
        return ds4_fail(r->err, DS4_EFORMAT, "%s: no model.vocab", r->path);
    json_object_object_foreach(vocab, key, value) {
        int id;
        const slice text = slice_of(key);
        ds4_status st = read_id(r, value, text, &id);
        if (st) return st;
        const bool added = r->t->types[id] != 0 && slice_equal(r->t->tokens[id], text);
        if (!added && (st = set_token(r, id, text, TOKEN_TYPE_NORMAL))) return st;
    }
    return DS4_OK;
}

/* "left right", or since 2024 ["left", "right"]. */
static bool split_merge(json_object *entry, slice *left, slice *right)
{
    if (json_object_is_type(entry, json_type_array)) {
        json_object *l = json_object_array_get_idx(entry, 0), *r = json_object_array_get_idx(entry, 1);
        if (json_object_array_length(entry) != 2 || !json_object_is_type(l, json_type_string) ||
            !json_object_is_type(r, json_type_string))
            return false;
        *left = text_of(l);
        *right = text_of(r);
    } else {
        if (!json_object_is_type(entry, json_type_string)) return false;
        const slice both = text_of(entry);
        const char *blank = memchr(both.data, ' ', both.len);
        if (!blank) return false;
        *left  = (slice){ both.data, (size_t)(blank - both.data) };
        *right = (slice){ blank + 1, both.len - left->len - 1 };
    }
    return left->len && right->len && !memchr(left->data, ' ', left->len) && !memchr(right->data, ' ', right->len);
}

static ds4_status read_merges(const reader *r, json_object *list)
{
    const size_t n = json_object_array_length(list);
    for (size_t i = 0; i < n; i++) {
        slice left, right;
        if (!split_merge(json_object_array_get_idx(list, i), &left, &right))
            return ds4_fail(r->err, DS4_EFORMAT, "%s: merge %zu is not a pair of tokens", r->path, i);
        if (!token_table_merge(r->t, left, right)) return no_memory(r);
    }
    return DS4_OK;
}

static ds4_status read_tokenizer(token_table *t, const char *path, int n_tokens, ds4_error *err)
{
    json_object *root;
    ds4_status st = json_input_file(&root, path, MAX_TOKENIZER, err);
    if (st) return st;

    const reader r = { t, path, err };
    json_object *model  = json_input_get(root, "model");
    json_object *type   = json_input_get(model, "type");
    json_object *merges = json_input_get(model, "merges");
    if (!json_object_is_type(merges, json_type_array) ||
        (type && (!json_object_is_type(type, json_type_string) || strcmp(json_object_get_string(type), "BPE")))) {
        st = ds4_fail(err, DS4_EUNSUPPORTED, "%s: not a byte-level BPE with merges", path);
        goto done;
    }
    if ((st = token_table_init(t, n_tokens, json_object_array_length(merges), err))) goto done;
    if ((st = read_added(&r, json_input_get(root, "added_tokens")))) goto done;
    if ((st = read_vocab(&r, json_input_get(model, "vocab")))) goto done;
    if ((st = read_merges(&r, merges))) goto done;
    st = token_table_fill(t, err);
done:
    json_object_put(root);
    return st;
}

/* ---- bos, eos, pad, chat template -------------------------------------- */

static int find_token(const token_table *t, slice text)
{
    for (int id = 0; id < t->n_tokens; id++)
        if (slice_equal(t->tokens[id], text)) return id;
    return -1;
}

/* "bos_token": "<text>", or an object with "content". -1: not told. */
static int named_token(const token_table *t, json_object *config, const char *key)
{
    json_object *value = json_input_get(config, key);
    if (json_object_is_type(value, json_type_object)) value = json_input_get(value, "content");
    return json_object_is_type(value, json_type_string) ? find_token(t, text_of(value)) : -1;
}

static ds4_status read_roles(token_table *t, const char *path, int bos, int eos, ds4_error *err)
{
    json_object *config = NULL;
    const ds4_status st = json_input_file(&config, path, MAX_TOKENIZER, err);
    if (st && st != DS4_ENOTFOUND) return st;

    t->bos = bos >= 0 ? bos : named_token(t, config, "bos_token");
    t->eos = eos >= 0 ? eos : named_token(t, config, "eos_token");
    t->pad = named_token(t, config, "pad_token");
    json_object *template = json_input_get(config, "chat_template");
    const bool has_template = json_object_is_type(template, json_type_string);
    if (has_template) t->chat_template = token_table_copy(t, text_of(template));
    json_object_put(config);

    if (has_template && !t->chat_template.data)
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for the chat template", path);
    if (t->bos < 0 || t->bos >= t->n_tokens || t->eos < 0 || t->eos >= t->n_tokens)
        return ds4_fail(err, DS4_EFORMAT, "%s: neither it nor config.json tells the bos and eos tokens", path);
    if (t->pad < 0) t->pad = t->eos;
    return DS4_OK;
}

ds4_status token_table_read(token_table *t, const char *dir, int n_tokens, int bos, int eos, ds4_error *err)
{
    *t = (token_table){ 0 };
    char *tokenizer = checkpoint_path(dir, "tokenizer.json");
    char *config    = checkpoint_path(dir, "tokenizer_config.json");
    ds4_status st = DS4_OK;
    if (!tokenizer || !config) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for a path", dir);
    if (!st) st = read_tokenizer(t, tokenizer, n_tokens, err);
    if (!st) st = read_roles(t, config, bos, eos, err);
    free(tokenizer);
    free(config);
    if (st) token_table_free(t);
    return st;
}
