#include "factory/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* Sources: the released checkpoint's names, the published files' names. Rows
 * stand in the order in which files hold them. */
static const tensor_def defs[] = {
    /* class          place          look            GGUF                     checkpoint                              in               out */
    { CLASS_EMBEDDING, IN_MODEL,      LOOK_EMBEDDING, "token_embd.weight",     "embed.weight",                         SIZE_EMBD,       SIZE_VOCAB },
    { CLASS_OUTPUT,    IN_MODEL,      LOOK_MATRIX,    "output.weight",         "head.weight",                          SIZE_EMBD,       SIZE_VOCAB },
    { CLASS_VECTOR,    IN_MODEL,      LOOK_GAIN,      "output_norm.weight",    "norm.weight",                          SIZE_EMBD,       SIZE_NONE },
    { CLASS_HC,        IN_MODEL,      LOOK_MATRIX,    "output_hc_fn.weight",   "hc_head_fn",                           SIZE_HC,         SIZE_STREAMS },
    { CLASS_VECTOR,    IN_MODEL,      LOOK_OFFSET,    "output_hc_base.weight", "hc_head_base",                         SIZE_STREAMS,    SIZE_NONE },
    { CLASS_VECTOR,    IN_MODEL,      LOOK_GAIN,      "output_hc_scale.weight", "hc_head_scale",                       SIZE_1,          SIZE_NONE },

    { CLASS_HC,        IN_EVERY,      LOOK_MATRIX,    "hc_attn_fn.weight",     "hc_attn_fn",                           SIZE_HC,         SIZE_HC_MIX },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_OFFSET,    "hc_attn_base.weight",   "hc_attn_base",                         SIZE_HC_MIX,     SIZE_NONE },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "hc_attn_scale.weight",  "hc_attn_scale",                        SIZE_3,          SIZE_NONE },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "attn_norm.weight",      "attn_norm.weight",                     SIZE_EMBD,       SIZE_NONE },
    { CLASS_ATTENTION, IN_EVERY,      LOOK_MATRIX,    "attn_q_a.weight",       "attn.wq_a.weight",                     SIZE_EMBD,       SIZE_Q_RANK },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "attn_q_a_norm.weight",  "attn.q_norm.weight",                   SIZE_Q_RANK,     SIZE_NONE },
    { CLASS_ATTENTION, IN_EVERY,      LOOK_MATRIX,    "attn_q_b.weight",       "attn.wq_b.weight",                     SIZE_Q_RANK,     SIZE_HEADS_WIDE },
    { CLASS_ATTENTION, IN_EVERY,      LOOK_MATRIX,    "attn_kv.weight",        "attn.wkv.weight",                      SIZE_EMBD,       SIZE_HEAD_DIM },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "attn_kv_a_norm.weight", "attn.kv_norm.weight",                  SIZE_HEAD_DIM,   SIZE_NONE },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_OFFSET,    "attn_sinks.weight",     "attn.attn_sink",                       SIZE_HEADS,      SIZE_NONE },
    { CLASS_ATTENTION, IN_EVERY,      LOOK_MATRIX,    "attn_output_a.weight",  "attn.wo_a.weight",                     SIZE_GROUP_IN,   SIZE_GROUPS_OUT },
    { CLASS_ATTENTION, IN_EVERY,      LOOK_BRANCH,    "attn_output_b.weight",  "attn.wo_b.weight",                     SIZE_GROUPS_OUT, SIZE_EMBD },

    { CLASS_COMPRESSOR, IN_COMPRESSED, LOOK_MATRIX,   "attn_compressor_kv.weight",   "attn.compressor.wkv.weight",     SIZE_EMBD,       SIZE_ROW },
    { CLASS_COMPRESSOR, IN_COMPRESSED, LOOK_MATRIX,   "attn_compressor_gate.weight", "attn.compressor.wgate.weight",   SIZE_EMBD,       SIZE_ROW },
    { CLASS_APE,       IN_COMPRESSED, LOOK_OFFSET,    "attn_compressor_ape.weight",  "attn.compressor.ape",            SIZE_ROW,        SIZE_RATIO },
    { CLASS_VECTOR,    IN_COMPRESSED, LOOK_GAIN,      "attn_compressor_norm.weight", "attn.compressor.norm.weight",    SIZE_HEAD_DIM,   SIZE_NONE },

    { CLASS_INDEXER,   IN_INDEXED,    LOOK_MATRIX,    "indexer.attn_q_b.weight",     "attn.indexer.wq_b.weight",       SIZE_Q_RANK,     SIZE_INDEX_WIDE },
    { CLASS_INDEXER,   IN_INDEXED,    LOOK_MATRIX,    "indexer.proj.weight",         "attn.indexer.weights_proj.weight", SIZE_EMBD,     SIZE_INDEX_HEADS },
    { CLASS_INDEXER,   IN_INDEXED,    LOOK_MATRIX,    "indexer_compressor_kv.weight",   "attn.indexer.compressor.wkv.weight",   SIZE_EMBD, SIZE_INDEX_ROW },
    { CLASS_INDEXER,   IN_INDEXED,    LOOK_MATRIX,    "indexer_compressor_gate.weight", "attn.indexer.compressor.wgate.weight", SIZE_EMBD, SIZE_INDEX_ROW },
    { CLASS_APE,       IN_INDEXED,    LOOK_OFFSET,    "indexer_compressor_ape.weight",  "attn.indexer.compressor.ape",          SIZE_INDEX_ROW, SIZE_RATIO },
    { CLASS_VECTOR,    IN_INDEXED,    LOOK_GAIN,      "indexer_compressor_norm.weight", "attn.indexer.compressor.norm.weight",  SIZE_INDEX_DIM, SIZE_NONE },

    { CLASS_HC,        IN_EVERY,      LOOK_MATRIX,    "hc_ffn_fn.weight",      "hc_ffn_fn",                            SIZE_HC,         SIZE_HC_MIX },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_OFFSET,    "hc_ffn_base.weight",    "hc_ffn_base",                          SIZE_HC_MIX,     SIZE_NONE },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "hc_ffn_scale.weight",   "hc_ffn_scale",                         SIZE_3,          SIZE_NONE },
    { CLASS_VECTOR,    IN_EVERY,      LOOK_GAIN,      "ffn_norm.weight",       "ffn_norm.weight",                      SIZE_EMBD,       SIZE_NONE },
    { CLASS_ROUTER,    IN_EVERY,      LOOK_MATRIX,    "ffn_gate_inp.weight",   "ffn.gate.weight",                      SIZE_EMBD,       SIZE_EXPERTS },
    { CLASS_VECTOR,    IN_SCORED,     LOOK_BIAS,      "exp_probs_b.bias",      "ffn.gate.bias",                        SIZE_EXPERTS,    SIZE_NONE },
    { CLASS_TABLE,     IN_HASHED,     LOOK_EXPERT_IDS, "ffn_gate_tid2eid.weight", "ffn.gate.tid2eid",                  SIZE_USED,       SIZE_VOCAB },
    { CLASS_GATE_UP,   IN_EVERY,      LOOK_MATRIX,    "ffn_gate_exps.weight",  "ffn.experts.%d.w1.weight",             SIZE_EMBD,       SIZE_EXPERT_DIM },
    { CLASS_GATE_UP,   IN_EVERY,      LOOK_MATRIX,    "ffn_up_exps.weight",    "ffn.experts.%d.w3.weight",             SIZE_EMBD,       SIZE_EXPERT_DIM },
    { CLASS_DOWN,      IN_EVERY,      LOOK_BRANCH,    "ffn_down_exps.weight",  "ffn.experts.%d.w2.weight",             SIZE_EXPERT_DIM, SIZE_EMBD },
    { CLASS_SHARED,    IN_EVERY,      LOOK_MATRIX,    "ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight",         SIZE_EMBD,       SIZE_SHARED_DIM },
    { CLASS_SHARED,    IN_EVERY,      LOOK_MATRIX,    "ffn_up_shexp.weight",   "ffn.shared_experts.w3.weight",         SIZE_EMBD,       SIZE_SHARED_DIM },
    { CLASS_SHARED,    IN_EVERY,      LOOK_BRANCH,    "ffn_down_shexp.weight", "ffn.shared_experts.w2.weight",         SIZE_SHARED_DIM, SIZE_EMBD },
};

const char *tensor_class_name(tensor_class c)
{
    static const char *const names[CLASS_COUNT] = {
        [CLASS_EMBEDDING] = "token embedding", [CLASS_OUTPUT] = "output", [CLASS_ATTENTION] = "attention",
        [CLASS_SHARED] = "shared experts", [CLASS_GATE_UP] = "routed gate+up", [CLASS_DOWN] = "routed down",
        [CLASS_ROUTER] = "router", [CLASS_HC] = "hyper-connections", [CLASS_COMPRESSOR] = "compressors",
        [CLASS_INDEXER] = "indexers", [CLASS_APE] = "position biases", [CLASS_VECTOR] = "vectors",
        [CLASS_TABLE] = "token-to-expert tables",
    };
    return (unsigned)c < CLASS_COUNT ? names[c] : "other";
}

const tensor_def *tensor_def_at(int i)
{
    return i >= 0 && i < (int)countof(defs) ? &defs[i] : NULL;
}

/* "blk.12.rest" -> 12 and rest; other names are their own rest, layer -1. */
static const char *split_layer(const char *name, int *layer)
{
    int used = 0, n = -1;
    *layer = -1;
    if (sscanf(name, "blk.%5d.%n", &n, &used) != 1 || used == 0 || n < 0) return name;
    *layer = n;
    return name + used;
}

const tensor_def *tensor_def_find(const char *gguf_name, int *layer)
{
    const char *rest = split_layer(gguf_name, layer);
    for (size_t i = 0; i < countof(defs); i++)
        if ((defs[i].place == IN_MODEL) == (*layer < 0) && !strcmp(defs[i].gguf, rest)) return &defs[i];
    return NULL;
}

bool tensor_in_layer(const tensor_def *d, const model_shape *s, int layer)
{
    switch (d->place) {
    case IN_MODEL:      return false;
    case IN_EVERY:      return true;
    case IN_COMPRESSED: return s->ratio[layer] > 0;
    case IN_INDEXED:    return s->ratio[layer] == 4;
    case IN_HASHED:     return shape_hashed(s, layer);
    case IN_SCORED:     return !shape_hashed(s, layer);
    }
    return false;
}

uint64_t tensor_size_of(tensor_size size, const model_shape *s, int layer)
{
    const int ratio  = layer < 0 ? 0 : s->ratio[layer];
    const int series = ratio == 4 ? 2 : 1;      /* overlapping blocks keep two series */
    switch (size) {
    case SIZE_NONE:        return 1;
    case SIZE_1:           return 1;
    case SIZE_3:           return 3;
    case SIZE_EMBD:        return (uint64_t)s->n_embd;
    case SIZE_VOCAB:       return (uint64_t)s->n_vocab;
    case SIZE_HC:          return (uint64_t)s->n_stream * (uint64_t)s->n_embd;
    case SIZE_HC_MIX:      return (2 + (uint64_t)s->n_stream) * (uint64_t)s->n_stream;
    case SIZE_STREAMS:     return (uint64_t)s->n_stream;
    case SIZE_Q_RANK:      return (uint64_t)s->q_rank;
    case SIZE_HEADS_WIDE:  return (uint64_t)s->n_head * (uint64_t)s->head_dim;
    case SIZE_HEADS:       return (uint64_t)s->n_head;
    case SIZE_HEAD_DIM:    return (uint64_t)s->head_dim;
    case SIZE_GROUP_IN:    return (uint64_t)(s->n_head / s->n_group) * (uint64_t)s->head_dim;
    case SIZE_GROUPS_OUT:  return (uint64_t)s->n_group * (uint64_t)s->out_rank;
    case SIZE_EXPERTS:     return (uint64_t)s->n_expert;
    case SIZE_USED:        return (uint64_t)s->n_used;
    case SIZE_EXPERT_DIM:  return (uint64_t)s->expert_dim;
    case SIZE_SHARED_DIM:  return (uint64_t)s->n_shared * (uint64_t)s->expert_dim;
    case SIZE_RATIO:       return (uint64_t)ratio;
    case SIZE_ROW:         return (uint64_t)series * (uint64_t)s->head_dim;
    case SIZE_INDEX_WIDE:  return (uint64_t)s->n_index_head * (uint64_t)s->index_dim;
    case SIZE_INDEX_HEADS: return (uint64_t)s->n_index_head;
    case SIZE_INDEX_DIM:   return (uint64_t)s->index_dim;
    case SIZE_INDEX_ROW:   return (uint64_t)series * (uint64_t)s->index_dim;
    }
    return 0;
}

bool tensor_is_stack(const tensor_def *d)
{
    return d->class == CLASS_GATE_UP || d->class == CLASS_DOWN;
}

static void name_in_gguf(const tensor_def *d, int layer, char out[TENSOR_NAME_MAX])
{
    if (layer < 0) snprintf(out, TENSOR_NAME_MAX, "%s", d->gguf);
    else snprintf(out, TENSOR_NAME_MAX, "blk.%d.%s", layer, d->gguf);
}

void tensor_checkpoint_name(const tensor_def *d, int layer, int expert, char out[TENSOR_NAME_MAX])
{
    const char *number = strstr(d->checkpoint, "%d");
    const int   before = number ? (int)(number - d->checkpoint) : 0;
    int at = layer < 0 ? 0 : snprintf(out, TENSOR_NAME_MAX, "layers.%d.", layer);
    if (number) at += snprintf(out + at, TENSOR_NAME_MAX - (size_t)at, "%.*s%d", before, d->checkpoint, expert);
    snprintf(out + at, TENSOR_NAME_MAX - (size_t)at, "%s", number ? number + 2 : d->checkpoint);
}

/* ---- recipes ----------------------------------------------------------- */

/* The published layout; its routed experts are the recipe's. */
static const quant_type published[CLASS_COUNT] = {
    [CLASS_EMBEDDING] = QUANT_F16, [CLASS_OUTPUT] = QUANT_Q8_0, [CLASS_ATTENTION] = QUANT_Q8_0,
    [CLASS_SHARED] = QUANT_Q8_0, [CLASS_GATE_UP] = QUANT_Q8_0, [CLASS_DOWN] = QUANT_Q8_0,
    [CLASS_ROUTER] = QUANT_F16, [CLASS_HC] = QUANT_F16, [CLASS_COMPRESSOR] = QUANT_F16,
    [CLASS_INDEXER] = QUANT_F16, [CLASS_APE] = QUANT_F16, [CLASS_VECTOR] = QUANT_F32,
    [CLASS_TABLE] = QUANT_I32,
};

typedef struct {
    const char *name;
    quant_type  gate_up, down;      /* of the routed experts                         */
    bool        all;                /* gate_up is the type of every matrix           */
    uint32_t    file_type;          /* the general tool's number of the nearest mix  */
} recipe_row;

static const recipe_row recipes[] = {
    { "q2",      QUANT_IQ2_XXS, QUANT_Q2_K,    false, 19 },
    { "q4",      QUANT_Q4_K,    QUANT_Q4_K,    false, 14 },
    { "f32",     QUANT_F32,     QUANT_F32,     true,   0 },
    { "f16",     QUANT_F16,     QUANT_F16,     true,   1 },
    { "bf16",    QUANT_BF16,    QUANT_BF16,    true,  32 },
    { "q8_0",    QUANT_Q8_0,    QUANT_Q8_0,    false,  7 },
    { "q4_0",    QUANT_Q4_0,    QUANT_Q4_0,    false,  2 },
    { "q4_1",    QUANT_Q4_1,    QUANT_Q4_1,    false,  3 },
    { "q5_0",    QUANT_Q5_0,    QUANT_Q5_0,    false,  8 },
    { "q5_1",    QUANT_Q5_1,    QUANT_Q5_1,    false,  9 },
    { "q2_k",    QUANT_Q2_K,    QUANT_Q2_K,    false, 10 },
    { "q3_k",    QUANT_Q3_K,    QUANT_Q3_K,    false, 11 },
    { "q4_k",    QUANT_Q4_K,    QUANT_Q4_K,    false, 14 },
    { "q5_k",    QUANT_Q5_K,    QUANT_Q5_K,    false, 16 },
    { "q6_k",    QUANT_Q6_K,    QUANT_Q6_K,    false, 18 },
    { "iq1_s",   QUANT_IQ1_S,   QUANT_IQ1_S,   false, 24 },
    { "iq2_xxs", QUANT_IQ2_XXS, QUANT_IQ2_XXS, false, 19 },
    { "iq2_xs",  QUANT_IQ2_XS,  QUANT_IQ2_XS,  false, 20 },
    { "iq2_s",   QUANT_IQ2_S,   QUANT_IQ2_S,   false, 29 },
    { "iq3_xxs", QUANT_IQ3_XXS, QUANT_IQ3_XXS, false, 23 },
    { "iq3_s",   QUANT_IQ3_S,   QUANT_IQ3_S,   false, 26 },
    { "iq4_nl",  QUANT_IQ4_NL,  QUANT_IQ4_NL,  false, 25 },
    { "iq4_xs",  QUANT_IQ4_XS,  QUANT_IQ4_XS,  false, 30 },
    { "mxfp4",   QUANT_MXFP4,   QUANT_MXFP4,   false, 38 },
    { "nvfp4",   QUANT_NVFP4,   QUANT_NVFP4,   false, 38 },
};

/* Other engines read any type everywhere; ours keeps what is small and
 * delicate in F16. They want F32 where a plain addition takes the tensor. */
static void apply_llamacpp(recipe *r, const recipe_row *row)
{
    r->type[CLASS_HC] = r->type[CLASS_ROUTER] = r->type[CLASS_APE] = QUANT_F32;
    if (row->gate_up == QUANT_Q8_0)
        r->type[CLASS_EMBEDDING] = r->type[CLASS_COMPRESSOR] = r->type[CLASS_INDEXER] = QUANT_Q8_0;
}

ds4_status recipe_make(recipe *r, const char *name, file_layout layout, ds4_error *err)
{
    const recipe_row *row = NULL;
    for (size_t i = 0; i < countof(recipes) && !row; i++)
        if (!strcmp(recipes[i].name, name)) row = &recipes[i];
    if (!row) return ds4_fail(err, DS4_EARG, "there is no recipe \"%s\"; there are q2, q4, f32, f16, bf16, q8_0 and "
                              "quant types such as q5_k or mxfp4", name);

    *r = (recipe){ .layout = layout, .file_type = row->file_type };
    snprintf(r->name, sizeof r->name, "%s", row->name);
    memcpy(r->type, published, sizeof r->type);
    if (row->all)
        for (int c = 0; c < CLASS_COUNT; c++)
            if (c != CLASS_VECTOR && c != CLASS_TABLE) r->type[c] = row->gate_up;
    r->type[CLASS_GATE_UP] = row->gate_up;
    r->type[CLASS_DOWN]    = row->down;
    if (layout == LAYOUT_LLAMACPP) apply_llamacpp(r, row);
    return DS4_OK;
}

/* ---- plan -------------------------------------------------------------- */

static quant_type fitting_type(quant_type want, uint64_t row)
{
    static const quant_type after[] = { QUANT_Q8_0, QUANT_F16 };
    uint64_t bytes;
    if (quant_row_bytes(want, row, &bytes)) return want;
    for (size_t i = 0; i < countof(after); i++)
        if (quant_row_bytes(after[i], row, &bytes)) return after[i];
    return QUANT_F32;
}

/* The first layer of the same kind, when an earlier one exists. */
static int twin_layer(const model_shape *s, int layer)
{
    for (int l = 0; l < layer; l++)
        if (s->ratio[l] == s->ratio[layer] && shape_hashed(s, l) == shape_hashed(s, layer)) return l;
    return -1;
}

static int find_planned(const tensor_plan *p, const tensor_def *d, int layer)
{
    for (int i = 0; i < p->n; i++)
        if (p->items[i].def == d && p->items[i].layer == layer) return i;
    return -1;
}

static bool add_planned(tensor_plan *p, const planned_tensor *t)
{
    if (p->n == p->cap) {
        const int cap = p->cap ? 2 * p->cap : 256;
        planned_tensor *items = realloc(p->items, (size_t)cap * sizeof *items);
        if (!items) return false;
        p->items = items;
        p->cap   = cap;
    }
    p->items[p->n++] = *t;
    return true;
}

typedef struct {
    tensor_plan       *plan;
    const model_shape *shape;
    const recipe      *recipe;
    bool               alias_layers;
    const log_sink    *notes;
    bool               noted[CLASS_COUNT];      /* one line per class is enough */
    ds4_error         *err;
} planner;

static void choose_type(planner *p, planned_tensor *t)
{
    const tensor_class class = t->def->class;
    const quant_type   want = p->recipe->type[class];
    t->type = fitting_type(want, t->ne[0]);
    if (t->type == want || p->noted[class]) return;
    p->noted[class] = true;
    log_line(p->notes, LOG_WARNING, "%s: rows of %llu do not fill %s blocks; stored as %s, as are others like it",
             t->name, (unsigned long long)t->ne[0], quant_get(want)->name, quant_get(t->type)->name);
}

static ds4_status plan_tensor(planner *p, const tensor_def *d, int layer)
{
    planned_tensor t = { .def = d, .layer = layer, .alias_of = -1 };
    uint64_t row_bytes, rows;
    const int twin = layer >= 0 && p->alias_layers ? twin_layer(p->shape, layer) : -1;

    name_in_gguf(d, layer, t.name);
    t.ne[0]  = tensor_size_of(d->in, p->shape, layer);
    t.ne[1]  = tensor_size_of(d->out, p->shape, layer);
    t.ne[2]  = tensor_is_stack(d) ? (uint64_t)p->shape->n_expert : 1;
    t.n_dims = tensor_is_stack(d) ? 3 : d->out == SIZE_NONE ? 1 : 2;
    choose_type(p, &t);

    if (!quant_row_bytes(t.type, t.ne[0], &row_bytes) || !checked_mul_u64(t.ne[1], t.ne[2], &rows) ||
        !checked_mul_u64(row_bytes, rows, &t.bytes) || t.bytes > INT64_MAX)
        return ds4_fail(p->err, DS4_EFORMAT, "%s: too large", t.name);
    if (twin >= 0) t.alias_of = find_planned(p->plan, d, twin);

    p->plan->n_weights += t.ne[0] * rows;
    if (t.alias_of < 0 && !checked_add_u64(p->plan->data_bytes, t.bytes, &p->plan->data_bytes))
        return ds4_fail(p->err, DS4_EFORMAT, "%s: the model is too large", t.name);
    if (!add_planned(p->plan, &t)) return ds4_fail(p->err, DS4_EMEMORY, "no memory for the list of tensors");
    return DS4_OK;
}

ds4_status tensor_plan_make(tensor_plan *plan, const model_shape *s, const recipe *r, bool alias_layers,
                            const log_sink *notes, ds4_error *err)
{
    planner p = { .plan = plan, .shape = s, .recipe = r, .alias_layers = alias_layers, .notes = notes, .err = err };
    *plan = (tensor_plan){ 0 };
    for (int l = -1; l < s->n_layer; l++) {
        for (size_t i = 0; i < countof(defs); i++) {
            const bool here = l < 0 ? defs[i].place == IN_MODEL : tensor_in_layer(&defs[i], s, l);
            if (!here) continue;
            const ds4_status st = plan_tensor(&p, &defs[i], l);
            if (!st) continue;
            tensor_plan_free(plan);
            return st;
        }
    }
    return DS4_OK;
}

void tensor_plan_free(tensor_plan *p)
{
    free(p->items);
    *p = (tensor_plan){ 0 };
}
