#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/residency.h"
#include "base/status.h"
#include "model/weights_copy.h"

/* What a tensor is used for decides the types it may have. */
typedef enum {
    USE_VECTOR,         /* read as floats: F32                                        */
    USE_SMALL,          /* read as floats in rows: float types as they are, blocks
                           are expanded at open                                       */
    USE_ROWS,           /* single rows are decoded: any weight type                   */
    USE_MATRIX,         /* multiplied: any type with a dot product                    */
    USE_EXPERTS,        /* the same, of all routed experts                            */
    USE_TABLE           /* I32                                                        */
} tensor_use;

typedef struct {
    model_weights      *w;
    const model_config *c;
    const gguf         *g;
    const weights_options *o;
    weights_copy        dense;              /* experts_apart: first pass lists, second finds  */
    uint64_t            expanded_bytes;     /* of the buffer: first pass counts, second fills */
    uint64_t            adopt_bytes, adopted_bytes;     /* in all; taken over so far */
    int                 n_adopt;
    bool                drop;               /* the file and the device share a memory too small for both */
    bool                counting;
    ds4_error          *err;
    ds4_status          st;                 /* first failure; later finds do nothing */
} loader;

static bool is_float(quant_type t) { return t == QUANT_F32 || t == QUANT_F16 || t == QUANT_BF16; }

static bool type_fits(quant_type t, tensor_use use)
{
    const quant_info *q = quant_get(t);
    switch (use) {
    case USE_VECTOR: return t == QUANT_F32;
    case USE_SMALL:
    case USE_ROWS:   return q->to_float != NULL;
    case USE_MATRIX:
    case USE_EXPERTS: return q->dot != NULL;
    case USE_TABLE:  return t == QUANT_I32;
    }
    return false;
}

static const char *type_wanted(tensor_use use)
{
    return use == USE_VECTOR ? "F32" : use == USE_TABLE ? "I32" : "a weight type";
}

/* The view of a tensor in the mapping: rows of ne[0] elements. */
static view mapped_view(const loader *ld, const gguf_tensor *t, int64_t rows, int cols)
{
    const quant_info *q = quant_get(t->type);
    uint64_t bytes;
    const uint8_t *base = gguf_mapping(ld->g, t->shard, &bytes);
    return (view){ .buf = ld->w->shard[t->shard], .offset = (uint64_t)(t->data - base), .rows = rows,
                   .cols = cols, .type = t->type,
                   .stride = (uint64_t)cols / (uint64_t)q->block_len * (uint64_t)q->block_bytes };
}

/* The view of a tensor in the copy. */
static view dense_view(loader *ld, const gguf_tensor *t, int64_t rows, int cols)
{
    view v = mapped_view(ld, t, rows, cols);
    v.buf = ld->w->dense;
    v.offset = weights_copy_place(&ld->dense, t);
    return v;
}

/* A small matrix stored in blocks, as floats in the buffer of our own. */
static view expanded_view(loader *ld, const gguf_tensor *t, int64_t rows, int cols)
{
    const uint64_t offset = ld->expanded_bytes;
    const uint64_t stride = (uint64_t)cols * sizeof(float);
    ld->expanded_bytes += (uint64_t)rows * stride;
    if (ld->counting) return (view){ 0 };

    view v = { .buf = ld->w->expanded, .offset = offset, .rows = rows, .cols = cols,
               .type = QUANT_F32, .stride = stride };
    float *row = malloc(stride);
    if (!row) {
        ld->st = ds4_fail(ld->err, DS4_EMEMORY, "%s: no memory to expand it", t->name);
        return v;
    }
    const view from = mapped_view(ld, t, rows, cols);
    for (int64_t r = 0; r < rows && !ld->st; r++) {
        quant_get(t->type)->to_float(row, t->data + (uint64_t)r * from.stride, cols);
        ld->st = ld->w->backend->upload(ld->w->backend, view_rows(v, r, 1), row, ld->err);
    }
    free(row);
    return v;
}

static weight_use use_of(tensor_use use)
{
    switch (use) {
    case USE_ROWS:
    case USE_TABLE:   return WEIGHT_ROWS;
    case USE_MATRIX:  return WEIGHT_MATRIX;
    case USE_EXPERTS: return WEIGHT_EXPERTS;
    case USE_VECTOR:
    case USE_SMALL:   break;
    }
    return WEIGHT_VECTOR;
}

/* The view of a tensor in the device's memory. Tensors that share bytes in the file do not there. */
static view adopted_view(loader *ld, const gguf_tensor *t, tensor_use use, int64_t rows, int cols, int64_t rows_each)
{
    model_weights *w = ld->w;
    backend *b = w->backend;
    view v = mapped_view(ld, t, rows, cols);
    if (ld->counting) {
        ld->n_adopt++;
        ld->adopt_bytes += t->bytes;
        return v;
    }
    const weights_options *o = ld->o;
    ld->st = b->adopt(b, &v, use_of(use), rows_each, ld->err);
    if (ld->st) return v;
    if (ld->drop) residency_drop(t->data, t->bytes, gguf_descriptor(ld->g, t->shard), t->offset);
    w->adopted[w->n_adopted++] = v.buf;
    ld->adopted_bytes += t->bytes;
    if (o->progress && !o->progress(o->progress_ctx, "uploading", ld->adopted_bytes, ld->adopt_bytes))
        ld->st = ds4_fail(ld->err, DS4_ECANCELLED, "loading was cancelled");
    return v;
}

/* Finds blk.N.NAME (layer >= 0) or NAME; ne0 x ne1 x ne2 elements, 1 where absent. */
static view find(loader *ld, int layer, const char *name, tensor_use use, int64_t ne0, int64_t ne1, int64_t ne2)
{
    if (ld->st) return (view){ 0 };
    char full[80];
    if (layer >= 0) snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    else snprintf(full, sizeof full, "%s", name);

    const gguf_tensor *t = gguf_find_tensor(ld->g, full);
    if (!t) {
        ld->st = ds4_fail(ld->err, DS4_EFORMAT, "tensor %s is missing", full);
        return (view){ 0 };
    }
    if (t->ne[0] != (uint64_t)ne0 || t->ne[1] != (uint64_t)ne1 || t->ne[2] != (uint64_t)ne2 || t->ne[3] != 1) {
        ld->st = ds4_fail(ld->err, DS4_EFORMAT,
                          "tensor %s is %llu x %llu x %llu, the model's shape asks for %lld x %lld x %lld",
                          full, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                          (unsigned long long)t->ne[2], (long long)ne0, (long long)ne1, (long long)ne2);
        return (view){ 0 };
    }
    if (!type_fits(t->type, use)) {
        ld->st = ds4_fail(ld->err, DS4_EFORMAT, "tensor %s has type %s; this place takes %s", full,
                          quant_get(t->type)->name, type_wanted(use));
        return (view){ 0 };
    }
    if (use == USE_SMALL && !is_float(t->type)) return expanded_view(ld, t, ne1 * ne2, (int)ne0);
    if (ld->w->backend->adopt)
        return adopted_view(ld, t, use, ne1 * ne2, (int)ne0, use == USE_EXPERTS ? ne1 : ne1 * ne2);
    if (ld->o->experts_apart && use != USE_EXPERTS) return dense_view(ld, t, ne1 * ne2, (int)ne0);
    return mapped_view(ld, t, ne1 * ne2, (int)ne0);
}

static bool has(const loader *ld, int layer, const char *name)
{
    char full[80];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return gguf_find_tensor(ld->g, full) != NULL;
}

#define VECTOR(name, n)        find(ld, l, name, USE_VECTOR, n, 1, 1)
#define SMALL(name, in, out)   find(ld, l, name, USE_SMALL, in, out, 1)
#define MATRIX(name, in, out)  find(ld, l, name, USE_MATRIX, in, out, 1)
#define STACK(name, in, out)   find(ld, l, name, USE_EXPERTS, in, out, ld->c->n_expert)

static compressor_weights find_compressor(loader *ld, int l, bool index, int ratio, int width)
{
    const int D = ld->c->n_embd, n = config_series(ratio) * width;
    if (index)
        return (compressor_weights){
            .value = MATRIX("indexer_compressor_kv.weight", D, n),
            .gate = MATRIX("indexer_compressor_gate.weight", D, n),
            .ape = SMALL("indexer_compressor_ape.weight", n, ratio),
            .norm = VECTOR("indexer_compressor_norm.weight", width) };
    return (compressor_weights){
        .value = MATRIX("attn_compressor_kv.weight", D, n),
        .gate = MATRIX("attn_compressor_gate.weight", D, n),
        .ape = SMALL("attn_compressor_ape.weight", n, ratio),
        .norm = VECTOR("attn_compressor_norm.weight", width) };
}

static void find_attention(loader *ld, int l)
{
    const model_config *c = ld->c;
    layer_weights *L = &ld->w->layer[l];
    const int D = c->n_embd, HK = c->n_head * c->head_dim, low = c->out_groups * c->out_rank;

    L->attn_norm = VECTOR("attn_norm.weight", D);
    L->q_a = MATRIX("attn_q_a.weight", D, c->q_rank);
    L->q_a_norm = VECTOR("attn_q_a_norm.weight", c->q_rank);
    L->q_b = MATRIX("attn_q_b.weight", c->q_rank, HK);
    L->kv = MATRIX("attn_kv.weight", D, c->head_dim);
    L->kv_norm = VECTOR("attn_kv_a_norm.weight", c->head_dim);
    L->sinks = VECTOR("attn_sinks.weight", c->n_head);
    L->out_a = MATRIX("attn_output_a.weight", HK / c->out_groups, low);
    L->out_b = MATRIX("attn_output_b.weight", low, D);
    if (c->ratio[l] > 0) L->compressor = find_compressor(ld, l, false, c->ratio[l], c->head_dim);
    if (c->ratio[l] == 4) {
        L->index_compressor = find_compressor(ld, l, true, c->ratio[l], c->index_dim);
        L->index_q_b = MATRIX("indexer.attn_q_b.weight", c->q_rank, c->index_heads * c->index_dim);
        L->index_proj = MATRIX("indexer.proj.weight", D, c->index_heads);
    }
}

static void find_ffn(loader *ld, int l)
{
    const model_config *c = ld->c;
    layer_weights *L = &ld->w->layer[l];
    const int D = c->n_embd, F = c->expert_width;

    L->ffn_norm = VECTOR("ffn_norm.weight", D);
    L->gate_inp = MATRIX("ffn_gate_inp.weight", D, c->n_expert);
    if (l < c->n_hash_layers)
        L->hash = find(ld, l, "ffn_gate_tid2eid.weight", USE_TABLE, c->n_expert_used, c->n_vocab, 1);
    else if (has(ld, l, "exp_probs_b.bias"))
        L->router_bias = VECTOR("exp_probs_b.bias", c->n_expert);
    L->gate_exps = STACK("ffn_gate_exps.weight", D, F);
    L->up_exps = STACK("ffn_up_exps.weight", D, F);
    L->down_exps = STACK("ffn_down_exps.weight", F, D);
    L->gate_shared = MATRIX("ffn_gate_shexp.weight", D, F);
    L->up_shared = MATRIX("ffn_up_shexp.weight", D, F);
    L->down_shared = MATRIX("ffn_down_shexp.weight", F, D);
    if (!ld->st && L->gate_exps.type != L->up_exps.type)
        ld->st = ds4_fail(ld->err, DS4_EFORMAT,
                          "layer %d: ffn_gate_exps is %s but ffn_up_exps is %s; they share one type",
                          l, quant_get(L->gate_exps.type)->name, quant_get(L->up_exps.type)->name);
}

static void find_all(loader *ld)
{
    const model_config *c = ld->c;
    model_weights *w = ld->w;
    const int D = c->n_embd, S = c->n_streams, mixes = (2 + S) * S;
    ld->expanded_bytes = 0;

    for (int l = -1; l < 0; l++) {                  /* outside the layers */
        w->embed = find(ld, l, "token_embd.weight", USE_ROWS, D, c->n_vocab, 1);
        w->output = MATRIX("output.weight", D, c->n_vocab);
        w->output_norm = VECTOR("output_norm.weight", D);
        w->hc_head = (hc_weights){ SMALL("output_hc_fn.weight", S * D, S),
                                   VECTOR("output_hc_base.weight", S), VECTOR("output_hc_scale.weight", 1) };
    }
    for (int l = 0; l < c->n_layer; l++) {
        layer_weights *L = &w->layer[l];
        L->hc_attn = (hc_weights){ SMALL("hc_attn_fn.weight", S * D, mixes),
                                   VECTOR("hc_attn_base.weight", mixes), VECTOR("hc_attn_scale.weight", 3) };
        L->hc_ffn = (hc_weights){ SMALL("hc_ffn_fn.weight", S * D, mixes),
                                  VECTOR("hc_ffn_base.weight", mixes), VECTOR("hc_ffn_scale.weight", 3) };
        find_attention(ld, l);
        find_ffn(ld, l);
    }
}

/* A hash table comes from the file, so every entry is checked once. */
static ds4_status check_hash(const model_config *c, const gguf *g, ds4_error *err)
{
    for (int l = 0; l < c->n_hash_layers; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_tid2eid.weight", l);
        const gguf_tensor *t = gguf_find_tensor(g, name);
        const uint64_t n = (uint64_t)c->n_vocab * (uint64_t)c->n_expert_used;
        for (uint64_t i = 0; i < n; i++) {
            int32_t e;
            memcpy(&e, t->data + i * sizeof e, sizeof e);
            if (e < 0 || e >= c->n_expert)
                return ds4_fail(err, DS4_EFORMAT, "tensor %s: token %llu names expert %d of %d", name,
                                (unsigned long long)(i / (uint64_t)c->n_expert_used), e, c->n_expert);
        }
    }
    return DS4_OK;
}

static ds4_status map_shards(model_weights *w, const gguf *g, ds4_error *err)
{
    w->n_shards = gguf_n_shards(g);
    w->shard = calloc((size_t)w->n_shards, sizeof *w->shard);
    if (!w->shard) return ds4_fail(err, DS4_EMEMORY, "no memory for %d file records", w->n_shards);
    for (int i = 0; i < w->n_shards; i++) {
        uint64_t bytes;
        const uint8_t *data = gguf_mapping(g, i, &bytes);
        const ds4_status st = w->backend->buf_map(w->backend, data, bytes, &w->shard[i], err);
        if (st) return st;
    }
    return DS4_OK;
}

/* ---- the copy of everything but routed experts ----------------------------------- */

static ds4_status copy_dense(loader *ld)
{
    backend *b = ld->w->backend;
    const uint64_t start = clock_ns();
    ds4_status st = b->buf_alloc(b, ld->dense.bytes, &ld->w->dense, ld->err);
    if (!st && !ld->w->dense->host)
        st = ds4_fail(ld->err, DS4_EUNSUPPORTED, "%s: weights can not be read into this backend's memory", b->name);
    if (!st) st = weights_copy_read(&ld->dense, ld->w->dense->host, ld->o->progress, ld->o->progress_ctx, ld->err);
    ld->w->dense_bytes = ld->dense.data_bytes;
    ld->w->dense_ns = clock_ns() - start;
    return st;
}

uint64_t weights_dense_bytes(const gguf *g)
{
    weights_copy c;
    if (weights_copy_init(&c, g, NULL)) return 0;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (!strstr(t->name, "_exps.")) weights_copy_place(&c, t);
    }
    const uint64_t n = c.bytes;
    weights_copy_free(&c);
    return n;
}

/* Allocations come in whole pages of the device; blocks cut up have gaps between their parts. */
weights_device_bytes weights_on_device(const gguf *g)
{
    const uint64_t page = (uint64_t)2 << 20, gaps = 2048;
    weights_device_bytes n = { 0 };
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        const uint64_t bytes = t->bytes + gaps * t->ne[2];
        *(strstr(t->name, "_exps.") ? &n.experts : &n.dense) += bytes < page / 2 ? bytes : round_up(bytes, page);
    }
    return n;
}

/* ---- open, close ------------------------------------------------------------------ */

static ds4_status room_for_adopted(loader *ld)
{
    if (ld->n_adopt == 0) return DS4_OK;
    ld->w->adopted = calloc((size_t)ld->n_adopt, sizeof *ld->w->adopted);
    return ld->w->adopted ? DS4_OK : ds4_fail(ld->err, DS4_EMEMORY, "no memory for %d weight records", ld->n_adopt);
}

/* A device that shares the host's memory has a copy beside the pages of the file. */
static bool too_small_for_both(const loader *ld)
{
    backend *b = ld->w->backend;
    backend_device d;
    return b->device_now && b->device_now(b, &d, NULL) == DS4_OK && d.unified && d.available / 2 < ld->adopt_bytes;
}

/* The first look at all tensors finds out how much room they want, the second makes views of it. */
static ds4_status find_twice(loader *ld)
{
    backend *b = ld->w->backend;
    ld->counting = true;
    find_all(ld);
    if (!ld->st) ld->st = check_hash(ld->c, ld->g, ld->err);    /* before the work begins */
    if (!ld->st) ld->st = room_for_adopted(ld);
    if (!ld->st && ld->o->experts_apart) ld->st = copy_dense(ld);
    if (!ld->st && ld->expanded_bytes > 0) ld->st = b->buf_alloc(b, ld->expanded_bytes, &ld->w->expanded, ld->err);
    if (ld->st || (!ld->w->dense && !ld->w->expanded && !ld->w->adopted)) return ld->st;
    ld->counting = false;
    ld->drop = too_small_for_both(ld);
    find_all(ld);
    return ld->st;
}

ds4_status weights_open(model_weights *w, const model_config *c, const gguf *g, backend *b,
                        const weights_options *o, ds4_error *err)
{
    const weights_options mapped = { 0 };
    memset(w, 0, sizeof *w);
    w->backend = b;
    w->layer = calloc((size_t)c->n_layer, sizeof *w->layer);
    if (!w->layer) return ds4_fail(err, DS4_EMEMORY, "no memory for %d layer records", c->n_layer);

    loader ld = { .w = w, .c = c, .g = g, .o = o ? o : &mapped, .err = err, .st = map_shards(w, g, err) };
    if (!ld.st && ld.o->experts_apart) ld.st = weights_copy_init(&ld.dense, g, err);
    if (!ld.st) ld.st = find_twice(&ld);
    weights_copy_free(&ld.dense);
    if (ld.st) weights_close(w);
    return ld.st;
}

void weights_close(model_weights *w)
{
    for (int i = 0; i < w->n_adopted; i++) w->backend->buf_free(w->backend, w->adopted[i]);
    for (int i = 0; w->shard && i < w->n_shards; i++) w->backend->buf_free(w->backend, w->shard[i]);
    if (w->expanded) w->backend->buf_free(w->backend, w->expanded);
    if (w->dense) w->backend->buf_free(w->backend, w->dense);
    free(w->adopted);
    free(w->shard);
    free(w->layer);
    memset(w, 0, sizeof *w);
}

int weights_expert_bits(const model_weights *w)
{
    const quant_info *up = quant_get(w->layer[0].up_exps.type);
    const quant_info *down = quant_get(w->layer[0].down_exps.type);
    const double bits = 8.0 * (2.0 * up->block_bytes / up->block_len + (double)down->block_bytes / down->block_len) / 3.0;
    return (int)(bits + 0.5);
}
