#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

#define ARCH "deepseek4."

int config_series(int ratio)      { return ratio == 4 ? 2 : 1; }
int config_kept_tokens(int ratio) { return ratio * config_series(ratio); }

/* ---- plain numbers --------------------------------------------------------- */

typedef struct {
    const char *key;
    size_t      offset;         /* of an int in model_config */
    int64_t     lo, hi;
    int64_t     standard;       /* when the key is absent; 0: it must be there */
} int_key;

#define INT(key, field, lo, hi, standard) { ARCH key, offsetof(model_config, field), lo, hi, standard }

/* The upper bounds keep every product of two of them far from overflow. */
static const int_key int_keys[] = {
    INT("block_count",                       n_layer,             1, CONFIG_MAX_LAYERS, 0),
    INT("embedding_length",                  n_embd,              1, 1 << 16, 0),
    INT("vocab_size",                        n_vocab,             1, 1 << 22, 0),
    INT("context_length",                    n_ctx_train,         1, 1 << 27, 1 << 20),
    INT("attention.head_count",              n_head,              1, 1 << 12, 0),
    INT("attention.key_length",              head_dim,            2, 1 << 13, 0),
    INT("rope.dimension_count",              n_rot,               2, CONFIG_MAX_ROT, 0),
    INT("attention.q_lora_rank",             q_rank,              1, 1 << 16, 0),
    INT("attention.output_lora_rank",        out_rank,            1, 1 << 16, 0),
    INT("attention.output_group_count",      out_groups,          1, 1 << 10, 0),
    INT("attention.sliding_window",          n_swa,               1, 1 << 20, 0),
    INT("attention.indexer.head_count",      index_heads,         1, 1 << 12, 0),
    INT("attention.indexer.key_length",      index_dim,           2, 1 << 12, 0),
    INT("attention.indexer.top_k",           index_top_k,         1, 1 << 20, 0),
    INT("expert_count",                      n_expert,            1, 1 << 16, 0),
    INT("expert_used_count",                 n_expert_used,       1, 64, 0),
    INT("expert_feed_forward_length",        expert_width,        1, 1 << 16, 0),
    INT("hash_layer_count",                  n_hash_layers,       0, CONFIG_MAX_LAYERS, 0),
    INT("hyper_connection.count",            n_streams,           1, 8, 0),
    INT("hyper_connection.sinkhorn_iterations", sinkhorn_iterations, 1, 1000, 0),
    INT("rope.scaling.original_context_length", rope_original_ctx, 1, 1 << 30, 0),
};

typedef struct {
    const char *key;
    size_t      offset;         /* of a float in model_config; all are positive */
} float_key;

#define FLOAT(key, field) { ARCH key, offsetof(model_config, field) }

static const float_key float_keys[] = {
    FLOAT("attention.layer_norm_rms_epsilon", rms_eps),
    FLOAT("hyper_connection.epsilon",         hc_eps),
    FLOAT("rope.freq_base",                   rope_base),
    FLOAT("attention.compress_rope_freq_base", compress_rope_base),
    FLOAT("rope.scaling.factor",              rope_factor),
    FLOAT("rope.scaling.yarn_beta_fast",      rope_beta_fast),
    FLOAT("rope.scaling.yarn_beta_slow",      rope_beta_slow),
    FLOAT("expert_weights_scale",             expert_scale),
};

static ds4_status read_numbers(model_config *c, const gguf *g, ds4_error *err)
{
    for (size_t i = 0; i < countof(int_keys); i++) {
        const int_key *k = &int_keys[i];
        int64_t v;
        ds4_status st = gguf_get_int(g, k->key, k->lo, k->hi, &v, err);
        if (st == DS4_ENOTFOUND && k->standard) {
            v = k->standard;
            st = DS4_OK;
        }
        if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %s is missing", k->key);
        if (st) return st;
        *(int *)((char *)c + k->offset) = (int)v;
    }
    for (size_t i = 0; i < countof(float_keys); i++) {
        const float_key *k = &float_keys[i];
        double v;
        const ds4_status st = gguf_get_float(g, k->key, &v, err);
        if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %s is missing", k->key);
        if (st) return st;
        if (!(v > 0) || v > 1e12) return ds4_fail(err, DS4_EFORMAT, "key %s is %g; it must be positive", k->key, v);
        *(float *)((char *)c + k->offset) = (float)v;
    }
    return DS4_OK;
}

/* Keys that must have one value for this architecture to be what is computed. */
static ds4_status check_fixed(const gguf *g, ds4_error *err)
{
    static const struct { const char *key; int64_t want; bool required; } fixed[] = {
        { ARCH "attention.head_count_kv",   1, true  },
        { ARCH "expert_shared_count",       1, true  },
        { ARCH "expert_gating_func",        4, false },
        { ARCH "expert_group_count",        0, false },
        { ARCH "expert_group_used_count",   0, false },
    };
    for (size_t i = 0; i < countof(fixed); i++) {
        int64_t v;
        const ds4_status st = gguf_get_int(g, fixed[i].key, INT32_MIN, INT32_MAX, &v, err);
        if (st == DS4_ENOTFOUND && !fixed[i].required) continue;
        if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %s is missing", fixed[i].key);
        if (st) return st;
        if (v != fixed[i].want)
            return ds4_fail(err, DS4_EUNSUPPORTED, "key %s is %lld; only %lld is supported", fixed[i].key,
                            (long long)v, (long long)fixed[i].want);
    }
    bool norm;
    const ds4_status st = gguf_get_bool(g, ARCH "expert_weights_norm", &norm, err);
    if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %sexpert_weights_norm is missing", ARCH);
    if (st) return st;
    if (!norm) return ds4_fail(err, DS4_EUNSUPPORTED, "key %sexpert_weights_norm is false; only true is supported", ARCH);
    return DS4_OK;
}

/* ---- one value per layer ------------------------------------------------------ */

static ds4_status read_ratios(model_config *c, const gguf *g, ds4_error *err)
{
    const char *key = ARCH "attention.compress_ratios";
    const gguf_value *v;
    ds4_status st = gguf_get_array(g, key, &v, err);
    if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %s is missing", key);
    if (st) return st;
    if (v->count < (uint64_t)c->n_layer)            /* entries behind belong to draft layers */
        return ds4_fail(err, DS4_EFORMAT, "key %s has %llu entries for %d layers", key,
                        (unsigned long long)v->count, c->n_layer);
    for (int l = 0; l < c->n_layer; l++) {
        int64_t r;
        if (!gguf_array_int(v, (uint64_t)l, &r))
            return ds4_fail(err, DS4_EFORMAT, "key %s is not an array of integers", key);
        if (r != 0 && r != 4 && r != 128)
            return ds4_fail(err, DS4_EUNSUPPORTED, "layer %d has compression ratio %lld; only 0, 4 and 128 are supported",
                            l, (long long)r);
        c->ratio[l] = (int)r;
    }
    return DS4_OK;
}

static ds4_status read_clamps(model_config *c, const gguf *g, const char *key, float *out, ds4_error *err)
{
    const gguf_value *v;
    const ds4_status st = gguf_get_array(g, key, &v, err);
    if (st) return st;
    if (v->count < (uint64_t)c->n_layer)
        return ds4_fail(err, DS4_EFORMAT, "key %s has %llu entries for %d layers", key,
                        (unsigned long long)v->count, c->n_layer);
    for (int l = 0; l < c->n_layer; l++) {
        double x;
        if (!gguf_array_float(v, (uint64_t)l, &x) || !isfinite(x))
            return ds4_fail(err, DS4_EFORMAT, "key %s is not an array of finite numbers", key);
        out[l] = x > 0 ? (float)x : 0.0f;
    }
    return DS4_OK;
}

static ds4_status read_layers(model_config *c, const gguf *g, ds4_error *err)
{
    ds4_status st = read_ratios(c, g, err);
    if (st) return st;

    const char *routed = ARCH "swiglu_clamp_exp", *shared = ARCH "swiglu_clamp_shexp";
    st = read_clamps(c, g, routed, c->clamp_routed, err);
    if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key %s is missing", routed);
    if (st) return st;
    st = read_clamps(c, g, shared, c->clamp_shared, err);
    if (st == DS4_ENOTFOUND) {
        memcpy(c->clamp_shared, c->clamp_routed, sizeof c->clamp_shared);
        return DS4_OK;
    }
    return st;
}

/* llama.cpp's files may append draft layers to the decoder's; what tells is not the
 * announced number but whether their tensors are there. */
static void leave_out_draft_layers(model_config *c, const gguf *g)
{
    for (; c->n_layer > 1; c->n_layer--) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.nextn.eh_proj.weight", c->n_layer - 1);
        if (!gguf_find_tensor(g, name)) return;
    }
}

/* ---- rope ----------------------------------------------------------------------- */

/* Pair at which the wavelength makes `turns` turns over the original context. */
static double yarn_pair(const model_config *c, double turns)
{
    const double pi = 3.14159265358979323846;
    return c->n_rot * log(c->rope_original_ctx / (turns * 2.0 * pi)) / (2.0 * log((double)c->compress_rope_base));
}

void config_fill_rope(model_config *c)
{
    const double lo = fmax(floor(yarn_pair(c, c->rope_beta_fast)), 0.0);
    double hi = fmin(ceil(yarn_pair(c, c->rope_beta_slow)), c->n_rot - 1.0);
    if (hi == lo) hi += 0.001;

    for (int k = 0; k < c->n_rot / 2; k++) {
        const double exponent = -2.0 * k / c->n_rot;
        const double plain = pow((double)c->rope_base, exponent);
        const double g = pow((double)c->compress_rope_base, exponent);
        const double ramp = fmin(fmax((k - lo) / (hi - lo), 0.0), 1.0);
        c->rope_plain[k] = (float)plain;
        c->rope_scaled[k] = (float)(g / c->rope_factor * ramp + g * (1.0 - ramp));
    }
}

/* ---- relations -------------------------------------------------------------------- */

static ds4_status check_relations(const model_config *c, const gguf *g, ds4_error *err)
{
    int64_t value_length;
    const char *key = ARCH "attention.value_length";
    const ds4_status st = gguf_get_int(g, key, 1, 1 << 13, &value_length, err);
    if (st && st != DS4_ENOTFOUND) return st;
    if (!st && value_length != c->head_dim)
        return ds4_fail(err, DS4_EFORMAT, "value_length %lld differs from key_length %d; rows serve as both",
                        (long long)value_length, c->head_dim);
    if (c->n_rot > c->head_dim)
        return ds4_fail(err, DS4_EFORMAT, "n_rot %d exceeds head width %d", c->n_rot, c->head_dim);
    if (c->n_rot % 2) return ds4_fail(err, DS4_EFORMAT, "n_rot %d is odd", c->n_rot);
    if (c->n_head % c->out_groups)
        return ds4_fail(err, DS4_EFORMAT, "%d heads do not divide into %d output groups", c->n_head, c->out_groups);
    if (c->n_expert_used > c->n_expert)
        return ds4_fail(err, DS4_EFORMAT, "%d experts used of %d", c->n_expert_used, c->n_expert);
    if (c->n_hash_layers > c->n_layer)
        return ds4_fail(err, DS4_EFORMAT, "%d hash layers of %d layers", c->n_hash_layers, c->n_layer);
    if (c->index_dim & (c->index_dim - 1))
        return ds4_fail(err, DS4_EFORMAT, "indexer width %d is not a power of two", c->index_dim);
    if (c->n_rot > c->index_dim)
        return ds4_fail(err, DS4_EFORMAT, "n_rot %d exceeds indexer width %d", c->n_rot, c->index_dim);
    return DS4_OK;
}

ds4_status config_read(model_config *c, const gguf *g, ds4_error *err)
{
    memset(c, 0, sizeof *c);
    slice arch;
    ds4_status st = gguf_get_string(g, "general.architecture", &arch, err);
    if (st == DS4_ENOTFOUND) return ds4_fail(err, DS4_EFORMAT, "key general.architecture is missing");
    if (st) return st;
    if (!slice_is(arch, "deepseek4"))
        return ds4_fail(err, DS4_EUNSUPPORTED, "the file holds a model of architecture \"%.*s\"; ds4 runs deepseek4 only",
                        (int)min_size(arch.len, 60), arch.data);

    if ((st = read_numbers(c, g, err))) return st;
    leave_out_draft_layers(c, g);
    if ((st = check_fixed(g, err))) return st;
    if ((st = read_layers(c, g, err))) return st;
    if ((st = check_relations(c, g, err))) return st;
    config_fill_rope(c);
    return DS4_OK;
}
