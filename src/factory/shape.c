#include "factory/shape.h"

#include <stddef.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* DeepSeek V4 Flash, as its configuration says. */
static const model_shape flash = {
    .n_layer = 43, .n_embd = 4096, .n_vocab = 129280, .n_ctx = 1048576,
    .n_head = 64, .head_dim = 512, .n_rot = 64,
    .q_rank = 1024, .out_rank = 1024, .n_group = 8, .window = 128,
    .n_index_head = 64, .index_dim = 128, .index_top_k = 512,
    .n_expert = 256, .n_used = 6, .n_shared = 1, .expert_dim = 2048,
    .n_hash = 3, .n_stream = 4, .sinkhorn_steps = 20, .n_nextn = 1,
    .rope_base = 10000, .compress_rope_base = 160000, .rope_factor = 16,
    .rope_beta_fast = 32, .rope_beta_slow = 1, .rope_context = 65536,
    .norm_eps = 1e-6f, .hc_eps = 1e-6f, .expert_scale = 1.5f, .swiglu_limit = 10,
};

/* Seven layers hold every kind (hashed window, hashed CSA, HCA, scored CSA).
 * Widths that meet K-quants are 256; top-k, window, limit and rope context are
 * small so that short texts reach what they bound. */
static const model_shape tiny = {
    .n_layer = 7, .n_embd = 256, .n_vocab = 512, .n_ctx = 16384,
    .n_head = 4, .head_dim = 128, .n_rot = 64,
    .q_rank = 64, .out_rank = 32, .n_group = 2, .window = 16,
    .n_index_head = 2, .index_dim = 128, .index_top_k = 3,
    .n_expert = 8, .n_used = 2, .n_shared = 1, .expert_dim = 256,
    .n_hash = 3, .n_stream = 4, .sinkhorn_steps = 20, .n_nextn = 0,
    .rope_base = 10000, .compress_rope_base = 160000, .rope_factor = 16,
    .rope_beta_fast = 32, .rope_beta_slow = 1, .rope_context = 64,
    .norm_eps = 1e-6f, .hc_eps = 1e-6f, .expert_scale = 1.5f, .swiglu_limit = 1.5f,
};

bool shape_preset(model_shape *s, const char *name)
{
    if (!strcmp(name, "flash")) *s = flash;
    else if (!strcmp(name, "tiny")) *s = tiny;
    else return false;
    shape_default_ratios(s);
    return true;
}

void shape_default_ratios(model_shape *s)
{
    const int n = min_int(s->n_layer + s->n_nextn, SHAPE_MAX_RATIOS);
    for (int l = 0; l < n; l++)
        s->ratio[l] = l < 2 || l >= s->n_layer ? 0 : l % 2 == 0 ? 4 : 128;
    s->n_ratio = n;
}

typedef struct {
    const char *name;
    size_t      offset;
    int         lo, hi;
} int_bound;

#define BOUND(field, name, lo, hi) { name, offsetof(model_shape, field), lo, hi }

/* The upper bounds keep every product of two of these inside 2^48 and every
 * tensor inside 2^63 bytes. */
static const int_bound bounds[] = {
    BOUND(n_layer,        "number of layers",         1, SHAPE_MAX_LAYERS),
    BOUND(n_embd,         "hidden size",              1, 1 << 20),
    BOUND(n_vocab,        "vocabulary size",          1, 1 << 24),
    BOUND(n_ctx,          "context length",           1, 1 << 30),
    BOUND(n_head,         "number of heads",          1, 1 << 12),
    BOUND(head_dim,       "head width",               1, 1 << 14),
    BOUND(n_rot,          "rotary width",             2, 1 << 14),
    BOUND(q_rank,         "query rank",               1, 1 << 20),
    BOUND(out_rank,       "output rank",              1, 1 << 16),
    BOUND(n_group,        "number of output groups",  1, 1 << 12),
    BOUND(window,         "sliding window",           1, 1 << 24),
    BOUND(n_index_head,   "number of indexer heads",  1, 1 << 12),
    BOUND(index_dim,      "indexer width",            1, 1 << 14),
    BOUND(index_top_k,    "indexer top-k",            1, 1 << 24),
    BOUND(n_expert,       "number of experts",        1, 1 << 14),
    BOUND(n_used,         "experts per token",        1, 1 << 10),
    BOUND(n_shared,       "number of shared experts", 1, 64),
    BOUND(expert_dim,     "expert width",             1, 1 << 20),
    BOUND(n_hash,         "number of hash layers",    0, SHAPE_MAX_LAYERS),
    BOUND(n_stream,       "number of streams",        1, 64),
    BOUND(sinkhorn_steps, "number of Sinkhorn steps", 1, 1000),
    BOUND(n_nextn,        "number of drafter layers", 0, 8),
    BOUND(rope_context,   "rope's original context",  1, 1 << 30),
};

static ds4_status check_bounds(const model_shape *s, ds4_error *err)
{
    for (size_t i = 0; i < countof(bounds); i++) {
        const int v = *(const int *)((const char *)s + bounds[i].offset);
        if (v < bounds[i].lo || v > bounds[i].hi)
            return ds4_fail(err, DS4_EFORMAT, "%s is %d, possible are %d to %d", bounds[i].name, v,
                            bounds[i].lo, bounds[i].hi);
    }
    return DS4_OK;
}

static ds4_status check_ratios(const model_shape *s, ds4_error *err)
{
    if (s->n_ratio < s->n_layer || s->n_ratio > SHAPE_MAX_RATIOS)
        return ds4_fail(err, DS4_EFORMAT, "%d compress ratios for %d layers", s->n_ratio, s->n_layer);
    for (int l = 0; l < s->n_ratio; l++)
        if (s->ratio[l] < 0 || s->ratio[l] > 65536)
            return ds4_fail(err, DS4_EFORMAT, "compress ratio of layer %d is %d", l, s->ratio[l]);
    return DS4_OK;
}

ds4_status shape_check(const model_shape *s, ds4_error *err)
{
    ds4_status st;
    if ((st = check_bounds(s, err))) return st;
    if ((st = check_ratios(s, err))) return st;

    if (s->n_head % s->n_group)
        return ds4_fail(err, DS4_EFORMAT, "%d heads do not divide into %d output groups", s->n_head, s->n_group);
    if (s->n_rot % 2 || s->n_rot > s->head_dim)
        return ds4_fail(err, DS4_EFORMAT, "rotary width %d does not fit a head of %d", s->n_rot, s->head_dim);
    if (s->n_rot > s->index_dim)
        return ds4_fail(err, DS4_EFORMAT, "rotary width %d exceeds the indexer width %d", s->n_rot, s->index_dim);
    if (s->n_used > s->n_expert)
        return ds4_fail(err, DS4_EFORMAT, "%d experts per token of only %d", s->n_used, s->n_expert);
    if (s->n_hash > s->n_layer)
        return ds4_fail(err, DS4_EFORMAT, "%d hash layers of only %d layers", s->n_hash, s->n_layer);
    return DS4_OK;
}
