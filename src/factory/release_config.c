#include "factory/release_config.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "factory/checkpoint.h"
#include "factory/json_input.h"

#define MAX_CONFIG (16u << 20)

typedef struct {
    const char  *path;              /* of config.json, for messages */
    json_object *root;
    json_object *rope;              /* rope_scaling, or NULL        */
    const log_sink *notes;
    int         absent;             /* keys that took their default */
    ds4_error   *err;
} reader;

#define REQUIRED INT32_MIN

typedef struct {
    const char *key, *other;        /* released name; the inference program's, or NULL */
    size_t      offset;             /* int in model_shape                              */
    int32_t     otherwise;          /* value when absent, or REQUIRED                  */
} int_key;

#define INT_KEY(field, key, other, otherwise) { key, other, offsetof(model_shape, field), otherwise }

static const int_key int_keys[] = {
    INT_KEY(n_layer,        "num_hidden_layers",        "n_layers",            REQUIRED),
    INT_KEY(n_embd,         "hidden_size",              "dim",                 REQUIRED),
    INT_KEY(n_vocab,        "vocab_size",               NULL,                  REQUIRED),
    INT_KEY(n_ctx,          "max_position_embeddings",  "max_seq_len",         1048576),
    INT_KEY(n_head,         "num_attention_heads",      "n_heads",             REQUIRED),
    INT_KEY(head_dim,       "head_dim",                 NULL,                  REQUIRED),
    INT_KEY(n_rot,          "qk_rope_head_dim",         "rope_head_dim",       REQUIRED),
    INT_KEY(q_rank,         "q_lora_rank",              NULL,                  REQUIRED),
    INT_KEY(out_rank,       "o_lora_rank",              NULL,                  REQUIRED),
    INT_KEY(n_group,        "o_groups",                 NULL,                  REQUIRED),
    INT_KEY(window,         "sliding_window",           "window_size",         REQUIRED),
    INT_KEY(n_index_head,   "index_n_heads",            NULL,                  REQUIRED),
    INT_KEY(index_dim,      "index_head_dim",           NULL,                  REQUIRED),
    INT_KEY(index_top_k,    "index_topk",               NULL,                  REQUIRED),
    INT_KEY(n_expert,       "n_routed_experts",         NULL,                  REQUIRED),
    INT_KEY(n_used,         "num_experts_per_tok",      "n_activated_experts", REQUIRED),
    INT_KEY(n_shared,       "n_shared_experts",         NULL,                  1),
    INT_KEY(expert_dim,     "moe_intermediate_size",    "moe_inter_dim",       REQUIRED),
    INT_KEY(n_hash,         "num_hash_layers",          "n_hash_layers",       REQUIRED),
    INT_KEY(n_stream,       "hc_mult",                  NULL,                  4),
    INT_KEY(sinkhorn_steps, "hc_sinkhorn_iters",        NULL,                  20),
    INT_KEY(n_nextn,        "num_nextn_predict_layers", "n_mtp_layers",        0),
};

typedef struct {
    const char *key, *other;
    size_t      offset;             /* float in model_shape */
    float       otherwise;
    bool        may_be_off;         /* 0 and less switch it off and are kept as 0 */
} float_key;

#define FLOAT_KEY(field, key, other, otherwise) { key, other, offsetof(model_shape, field), otherwise, false }

/* The defaults are the values every release ships (not the inference program's
 * own class defaults, which are placeholders). */
static const float_key float_keys[] = {
    FLOAT_KEY(rope_base,          "rope_theta",            NULL,          10000),
    FLOAT_KEY(compress_rope_base, "compress_rope_theta",   NULL,          160000),
    FLOAT_KEY(norm_eps,           "rms_norm_eps",          "norm_eps",    1e-6f),
    FLOAT_KEY(hc_eps,             "hc_eps",                NULL,          1e-6f),
    FLOAT_KEY(expert_scale,       "routed_scaling_factor", "route_scale", 1.5f),
    { "swiglu_limit", NULL, offsetof(model_shape, swiglu_limit), 10, true },
};

/* In rope_scaling under the first name, at top level under the second. */
static const float_key rope_keys[] = {
    FLOAT_KEY(rope_factor,    "factor",    "rope_factor", 16),
    FLOAT_KEY(rope_beta_fast, "beta_fast", "beta_fast",   32),
    FLOAT_KEY(rope_beta_slow, "beta_slow", "beta_slow",   1),
};
static const int_key rope_context_key =
    INT_KEY(rope_context, "original_max_position_embeddings", "original_seq_len", 65536);

static json_object *get(json_object *first, const char *key, json_object *second, const char *other)
{
    json_object *value = json_input_get(first, key);
    return value || !other ? value : json_input_get(second, other);
}

static ds4_status take_int(reader *r, const int_key *k, json_object *value, int *out)
{
    int64_t v;
    if (!value && k->otherwise == REQUIRED)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: no %s", r->path, k->key);
    if (!value) {
        r->absent++;
        log_line(r->notes, LOG_DEBUG, "%s: no %s, taking %d", r->path, k->key, k->otherwise);
        *out = k->otherwise;
        return DS4_OK;
    }
    if (!json_input_int(value, &v) || v < 0 || v > INT32_MAX)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: %s is not a count", r->path, k->key);
    *out = (int)v;
    return DS4_OK;
}

static ds4_status take_float(reader *r, const float_key *k, json_object *value, float *out)
{
    double v;
    if (!value) {
        r->absent++;
        log_line(r->notes, LOG_DEBUG, "%s: no %s, taking %g", r->path, k->key, (double)k->otherwise);
        *out = k->otherwise;
        return DS4_OK;
    }
    if (!json_input_number(value, &v) || !(v > 0 || (k->may_be_off && v <= 0)) || v > 1e30)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: %s is not a positive number", r->path, k->key);
    *out = v > 0 ? (float)v : 0.0f;
    return DS4_OK;
}

static ds4_status read_numbers(reader *r, model_shape *s)
{
    ds4_status st;
    for (size_t i = 0; i < countof(int_keys); i++) {
        const int_key *k = &int_keys[i];
        if ((st = take_int(r, k, get(r->root, k->key, r->root, k->other), (int *)((char *)s + k->offset)))) return st;
    }
    for (size_t i = 0; i < countof(float_keys); i++) {
        const float_key *k = &float_keys[i];
        if ((st = take_float(r, k, get(r->root, k->key, r->root, k->other), (float *)((char *)s + k->offset)))) return st;
    }
    for (size_t i = 0; i < countof(rope_keys); i++) {
        const float_key *k = &rope_keys[i];
        if ((st = take_float(r, k, get(r->rope, k->key, r->root, k->other), (float *)((char *)s + k->offset)))) return st;
    }
    const int_key *k = &rope_context_key;
    return take_int(r, k, get(r->rope, k->key, r->root, k->other), &s->rope_context);
}

static ds4_status read_ratios(const reader *r, model_shape *s)
{
    json_object *list = json_input_get(r->root, "compress_ratios");
    if (!json_object_is_type(list, json_type_array))
        return ds4_fail(r->err, DS4_EFORMAT, "%s: no compress_ratios", r->path);
    const size_t n = json_object_array_length(list);
    if (n < (size_t)s->n_layer || n > SHAPE_MAX_RATIOS)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: %zu compress_ratios for %d layers", r->path, n, s->n_layer);
    for (size_t i = 0; i < n; i++) {
        int64_t v;
        if (!json_input_int(json_object_array_get_idx(list, i), &v) || v < 0 || v > INT32_MAX)
            return ds4_fail(r->err, DS4_EFORMAT, "%s: entry %zu of compress_ratios is not a count", r->path, i);
        s->ratio[i] = (int32_t)v;
    }
    s->n_ratio = (int)n;
    return DS4_OK;
}

/* Variants of the architecture that this family of files can not express. */
static ds4_status check_variant(const reader *r)
{
    static const struct { const char *key, *other, *only; } texts[] = {
        { "scoring_func", "score_func", "sqrtsoftplus" },
        { "hidden_act", NULL, "silu" },
    };
    static const struct { const char *key; bool only; } flags[] = {
        { "norm_topk_prob", true }, { "tie_word_embeddings", false }, { "attention_bias", false },
    };
    int64_t heads;
    for (size_t i = 0; i < countof(texts); i++) {
        json_object *v = get(r->root, texts[i].key, r->root, texts[i].other);
        if (v && (!json_object_is_type(v, json_type_string) || strcmp(json_object_get_string(v), texts[i].only)))
            return ds4_fail(r->err, DS4_EUNSUPPORTED, "%s: %s is not \"%s\"", r->path, texts[i].key, texts[i].only);
    }
    for (size_t i = 0; i < countof(flags); i++) {
        json_object *v = json_input_get(r->root, flags[i].key);
        if (v && (!json_object_is_type(v, json_type_boolean) || !!json_object_get_boolean(v) != flags[i].only))
            return ds4_fail(r->err, DS4_EUNSUPPORTED, "%s: %s is not %s", r->path, flags[i].key,
                            flags[i].only ? "true" : "false");
    }
    json_object *v = json_input_get(r->root, "num_key_value_heads");
    if (v && (!json_input_int(v, &heads) || heads != 1))
        return ds4_fail(r->err, DS4_EUNSUPPORTED, "%s: num_key_value_heads is not 1", r->path);
    v = get(r->rope, "type", r->rope, "rope_type");
    if (v && (!json_object_is_type(v, json_type_string) || strcmp(json_object_get_string(v), "yarn")))
        return ds4_fail(r->err, DS4_EUNSUPPORTED, "%s: rope_scaling is not of type yarn", r->path);
    return DS4_OK;
}

static ds4_status read_token_id(const reader *r, const char *key, int *out)
{
    int64_t v;
    json_object *value = json_input_get(r->root, key);
    *out = -1;
    if (!value || json_object_is_type(value, json_type_array)) return DS4_OK;
    if (!json_input_int(value, &v) || v < 0 || v > INT32_MAX)
        return ds4_fail(r->err, DS4_EFORMAT, "%s: %s is not a token id", r->path, key);
    *out = (int)v;
    return DS4_OK;
}

/* The last part of the model's path or of the folder's; never empty. */
static void take_name(const reader *r, const char *dir, char *out, size_t size)
{
    json_object *value = json_input_get(r->root, "_name_or_path");
    const char  *text = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
    if (!*text || !utf8_valid(text, strlen(text))) text = dir;

    size_t end = strlen(text);
    while (end > 1 && text[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && text[start - 1] != '/') start--;
    const bool usable = end > start && text[start] != '.' && utf8_valid(text + start, end - start);
    snprintf(out, size, "%.*s", usable ? (int)min_size(end - start, size - 1) : 5, usable ? text + start : "model");
    out[strlen(out) - (size_t)utf8_pending(out, strlen(out))] = 0;
}

static ds4_status read_config(release_config *c, const char *dir, const char *path, const log_sink *notes,
                              ds4_error *err)
{
    reader r = { .path = path, .notes = notes, .err = err };
    ds4_status st = json_input_file(&r.root, path, MAX_CONFIG, err);
    if (st) return st;
    r.rope = json_input_get(r.root, "rope_scaling");

    if ((st = check_variant(&r))) goto done;
    if ((st = read_numbers(&r, &c->shape))) goto done;
    if ((st = read_ratios(&r, &c->shape))) goto done;
    if ((st = read_token_id(&r, "bos_token_id", &c->bos))) goto done;
    if ((st = read_token_id(&r, "eos_token_id", &c->eos))) goto done;
    take_name(&r, dir, c->name, sizeof c->name);
    if (r.absent)
        log_line(notes, LOG_INFO, "%s: %d keys are absent and taken as every release has them", path, r.absent);

    ds4_error why;
    if ((st = shape_check(&c->shape, &why))) ds4_fail(err, st, "%s: %s", path, why.message);
done:
    json_object_put(r.root);
    return st;
}

/* Sampling defaults are a courtesy: a folder without the file has none. */
static ds4_status read_generation(release_config *c, const char *path, ds4_error *err)
{
    json_object *root;
    double v;
    const ds4_status st = json_input_file(&root, path, MAX_CONFIG, err);
    if (st) return st == DS4_ENOTFOUND ? DS4_OK : st;
    if (json_input_number(json_input_get(root, "temperature"), &v)) c->temperature = (float)v;
    if (json_input_number(json_input_get(root, "top_p"), &v)) c->top_p = (float)v;
    json_object_put(root);
    return DS4_OK;
}

ds4_status release_config_read(release_config *c, const char *dir, const log_sink *notes, ds4_error *err)
{
    *c = (release_config){ .temperature = NAN, .top_p = NAN, .bos = -1, .eos = -1 };
    char *config = checkpoint_path(dir, "config.json");
    char *generation = checkpoint_path(dir, "generation_config.json");
    ds4_status st = DS4_OK;
    if (!config || !generation) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for a path", dir);
    if (!st) st = read_config(c, dir, config, notes, err);
    if (!st) st = read_generation(c, generation, err);
    free(config);
    free(generation);
    return st;
}
