#include "bench/token_bytes.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

/* One tensor's share. rows: all but the first dimension. */
static void add_tensor(token_bytes *t, const tensor_def *d, uint64_t bytes, uint64_t cols, uint64_t rows)
{
    uint64_t read = bytes, macs = cols * rows;
    switch (d->class) {
    case CLASS_EMBEDDING:
    case CLASS_TABLE:
    case CLASS_APE:
        read = bytes / rows;
        macs = 0;
        break;
    case CLASS_GATE_UP:
    case CLASS_DOWN:
        read = bytes / (uint64_t)t->n_expert * (uint64_t)t->n_used;
        macs = macs / (uint64_t)t->n_expert * (uint64_t)t->n_used;
        break;
    case CLASS_VECTOR:
        macs = 0;
        break;
    default:
        break;
    }
    t->weights[d->class] += read;
    t->matrix_macs += macs;
    if (d->class == CLASS_INDEXER && !strstr(d->gguf, "compressor")) t->index_query += read;
}

void token_bytes_of_file(token_bytes *t, const gguf *g, const model_config *c)
{
    *t = (token_bytes){ .n_layer = c->n_layer, .n_swa = c->n_swa,
                        .index_top_k = c->index_top_k, .n_expert = c->n_expert, .n_used = c->n_expert_used };
    memcpy(t->ratio, c->ratio, sizeof t->ratio);
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *x = gguf_tensor_at(g, i);
        int layer;
        const tensor_def *d = tensor_def_find(x->name, &layer);
        if (d && layer < c->n_layer) add_tensor(t, d, x->bytes, x->ne[0], x->ne[1] * x->ne[2] * x->ne[3]);
    }
}

ds4_status token_bytes_of_recipe(token_bytes *t, const char *recipe_name, ds4_error *err)
{
    model_shape s;
    recipe r;
    tensor_plan p = { 0 };
    shape_preset(&s, "flash");
    ds4_status st = recipe_make(&r, recipe_name, LAYOUT_DS4, err);
    if (!st) st = tensor_plan_make(&p, &s, &r, false, &(log_sink){ 0 }, err);
    if (st) return st;

    *t = (token_bytes){ .n_layer = s.n_layer, .n_swa = s.window,
                        .index_top_k = s.index_top_k, .n_expert = s.n_expert, .n_used = s.n_used };
    for (int l = 0; l < s.n_layer; l++) t->ratio[l] = s.ratio[l];
    for (int i = 0; i < p.n; i++)
        add_tensor(t, p.items[i].def, p.items[i].bytes, p.items[i].ne[0], p.items[i].ne[1] * p.items[i].ne[2]);
    tensor_plan_free(&p);
    return DS4_OK;
}

static bool indexer_chooses(const token_bytes *t, int depth)
{
    return (depth + 1) / 4 > t->index_top_k;
}

uint64_t token_bytes_kv(const token_bytes *t, int depth, int row_bytes, int index_row_bytes)
{
    uint64_t n = 0;
    for (int l = 0; l < t->n_layer; l++) {
        const int ratio = t->ratio[l], rows = ratio ? (depth + 1) / ratio : 0;
        const bool chosen = ratio == 4 && indexer_chooses(t, depth);
        const int seen = min_int(depth + 1, t->n_swa) + (chosen ? t->index_top_k : rows);
        n += (uint64_t)seen * (uint64_t)row_bytes;
        if (chosen) n += (uint64_t)rows * (uint64_t)index_row_bytes;
    }
    return n;
}

uint64_t token_bytes_step(const token_bytes *t, int sessions, int depth)
{
    uint64_t one = 0, experts = t->weights[CLASS_GATE_UP] + t->weights[CLASS_DOWN];
    for (int c = 0; c < CLASS_COUNT; c++) one += t->weights[c];
    if (!indexer_chooses(t, depth)) one -= t->index_query;
    const double missed = pow(1.0 - (double)t->n_used / t->n_expert, sessions);
    const double distinct = t->n_expert * (1.0 - missed) / t->n_used;      /* in units of one token's */
    return one - experts + (uint64_t)((double)experts * distinct);
}
