#include "model/forward.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/status.h"

#define HEAD_TILE FORWARD_KEPT  /* rows that pass the vocabulary matrix at once */

/* Rows whose indexer scores are in memory at once: few, or on a device as many as its cache can hold until they
 * are chosen from, since every tile of rows is two or three launches. */
enum { SCORE_ROWS = 16, SCORE_ROWS_DEVICE = 512, SCORE_BYTES_DEVICE = 32 << 20 };

/* Views of the workspace at full size; a step uses the first T rows of each. */
typedef struct {
    view streams;               /* [T][S*D] the residual                           */
    view x, normed, y;          /* [T][D]   sublayer input, its norm, its output   */
    view post, comb;            /* [T][S], [T][S*S]                                */
    view latent, q;             /* [T][q rank], [T][H*K]; q becomes the heads      */
    view row;                   /* [T][K]                                          */
    view value, score;          /* [T][widest compressor]                          */
    view index_value, index_score;      /* the indexer's, so that both may be under way */
    view index_q, index_w;      /* [T][IH*ID], [T][IH]                             */
    view scores;                /* [score_rows][compressed rows of a full session] */
    view selected;              /* [T][top k] I32                                  */
    view low;                   /* [T][groups*rank]                                */
    view router, ids, weights;  /* [T][E], [T][k] I32, [T][k]                      */
    view mid;                   /* [T*k][F]                                        */
    view gate, up, shared;      /* [T][F], [T][F], [T][D]                          */
    view head_streams, head_x, logits;      /* [HEAD_TILE][S*D], [..][D], [..][V]  */
    view tops;                  /* [HEAD_TILE] forward_top, as floats              */
} workspace;

struct forward {
    const model_config  *c;     /* borrowed */
    const model_weights *w;
    backend             *b;
    forward_options      o;
    buf                 *store;
    workspace            ws;
    forward_top         *tops;  /* [HEAD_TILE] owned; NULL: the host sees the workspace itself */
};

/* ---- workspace ------------------------------------------------------------------ */

static view place(buf *store, uint64_t *used, int64_t rows, int cols, quant_type type)
{
    const view v = { .buf = store, .offset = *used, .rows = rows, .cols = cols, .type = type,
                     .stride = (uint64_t)cols * 4u };
    *used += ((uint64_t)rows * v.stride + 63u) & ~(uint64_t)63u;
    return v;
}

static int widest_compressor(const model_config *c, int width)
{
    int n = 1;
    for (int l = 0; l < c->n_layer; l++)
        if (c->ratio[l] > 0) n = max_int(n, config_series(c->ratio[l]) * width);
    return n;
}

/* Compressed rows that a layer of this ratio can hold. */
static int most_rows(const forward_options *o, int ratio) { return o->max_tokens / ratio + 1; }

static int score_rows(const forward_options *o)
{
    const int fit = SCORE_BYTES_DEVICE / (4 * most_rows(o, 4));
    const int n = o->on_device ? max_int(SCORE_ROWS, min_int(SCORE_ROWS_DEVICE, fit)) : SCORE_ROWS;
    return min_int(n, o->max_rows);
}

/* The one list of everything that a step needs; store NULL only adds it up. */
static workspace lay_out(const model_config *c, const forward_options *o, buf *store, uint64_t *used)
{
    const int T = o->max_rows, D = c->n_embd, S = c->n_streams, k = c->n_expert_used;
    const int comp = widest_compressor(c, c->head_dim), index = widest_compressor(c, c->index_dim);
    const int tile = min_int(HEAD_TILE, T);
    *used = 0;
#define F32_ROWS(n, cols) place(store, used, n, cols, QUANT_F32)
#define I32_ROWS(n, cols) place(store, used, n, cols, QUANT_I32)
    return (workspace){
        .streams = F32_ROWS(T, S * D),
        .x = F32_ROWS(T, D), .normed = F32_ROWS(T, D), .y = F32_ROWS(T, D),
        .post = F32_ROWS(T, S), .comb = F32_ROWS(T, S * S),
        .latent = F32_ROWS(T, c->q_rank), .q = F32_ROWS(T, c->n_head * c->head_dim),
        .row = F32_ROWS(T, c->head_dim),
        .value = F32_ROWS(T, comp), .score = F32_ROWS(T, comp),
        .index_value = F32_ROWS(T, index), .index_score = F32_ROWS(T, index),
        .index_q = F32_ROWS(T, c->index_heads * c->index_dim), .index_w = F32_ROWS(T, c->index_heads),
        .scores = F32_ROWS(score_rows(o), most_rows(o, 4)),
        .selected = I32_ROWS(T, c->index_top_k),
        .low = F32_ROWS(T, c->out_groups * c->out_rank),
        .router = F32_ROWS(T, c->n_expert), .ids = I32_ROWS(T, k), .weights = F32_ROWS(T, k),
        .mid = F32_ROWS((int64_t)T * k, c->expert_width),
        .gate = F32_ROWS(T, c->expert_width), .up = F32_ROWS(T, c->expert_width), .shared = F32_ROWS(T, D),
        .head_streams = F32_ROWS(tile, S * D), .head_x = F32_ROWS(tile, D), .logits = F32_ROWS(tile, c->n_vocab),
        .tops = F32_ROWS(tile, (int)(sizeof(forward_top) / sizeof(float))),
    };
}

uint64_t forward_bytes(const model_config *c, const forward_options *o)
{
    uint64_t n;
    lay_out(c, o, NULL, &n);
    return n;
}

backend_limits forward_limits(const model_config *c, const forward_options *o)
{
    int cols = c->n_embd;
    cols = max_int(cols, c->q_rank);
    cols = max_int(cols, c->n_head * c->head_dim / c->out_groups);
    cols = max_int(cols, c->out_groups * c->out_rank);
    cols = max_int(cols, c->expert_width);
    cols = max_int(cols, widest_compressor(c, max_int(c->head_dim, c->index_dim)));
    cols = max_int(cols, max_int(c->head_dim, c->index_dim));
    return (backend_limits){
        .max_rows = o->max_rows,
        .max_cols = cols,
        .max_pairs = o->max_rows * c->n_expert_used,
        .max_expert_width = c->expert_width,
        .n_experts = c->n_expert,
        .max_head_width = c->head_dim,
        .index_heads = c->index_heads,
        .index_width = c->index_dim,
        .index_top_k = c->index_top_k,
        .score_rows = score_rows(o),
        .n_layer = c->n_layer,
        .max_segments = min_int(max_int(o->max_sessions, 1), o->max_rows),
        .max_tokens = o->max_tokens,
        .n_streams = c->n_streams,
        .n_heads = c->n_head,
        .n_vocab = c->n_vocab,
        .block_tokens = KV_BLOCK_TOKENS,
    };
}

ds4_status forward_open(forward **out, const model_config *c, const model_weights *w, backend *b,
                        const forward_options *o, ds4_error *err)
{
    *out = NULL;
    forward *f = calloc(1, sizeof *f);
    if (!f) return ds4_fail(err, DS4_EMEMORY, "no memory for the forward pass");
    *f = (forward){ .c = c, .w = w, .b = b, .o = *o };

    ds4_status st = b->buf_alloc(b, forward_bytes(c, o), &f->store, err);
    if (!st && b->adopt && !(f->tops = calloc(HEAD_TILE, sizeof *f->tops)))
        st = ds4_fail(err, DS4_EMEMORY, "no memory for the forward pass");
    if (st) {
        forward_close(f);
        return st;
    }
    uint64_t used;
    f->ws = lay_out(c, o, f->store, &used);
    *out = f;
    return DS4_OK;
}

void forward_close(forward *f)
{
    if (!f) return;
    if (f->store) f->b->buf_free(f->b, f->store);
    free(f->tops);
    free(f);
}

/* ---- one layer -------------------------------------------------------------------- */

/* What the stages of one layer share. */
typedef struct {
    const forward       *f;
    const model_config  *c;
    const layer_weights *L;
    queue               *dev;
    const batch_rows    *rows;
    workspace            ws;    /* cut to T rows */
    int                  layer, ratio;
    rope                 rope;
} pass;

/* Runs one op and leaves the pass when it fails. */
#define RUN(op, ...)                                                          \
    do {                                                                      \
        const ds4_status st_ = p->dev->ops->op(p->dev, &(__VA_ARGS__));       \
        if (st_) return st_;                                                  \
    } while (0)

static round_kind rounding(const pass *p, round_kind kind) { return p->f->o.rounding ? kind : ROUND_NONE; }

static ds4_status hc_pre(const pass *p, const hc_weights *hc, view norm, quant_type next, quant_type other,
                         const char *name)
{
    const model_config *c = p->c;
    RUN(hc_pre, (hc_pre_args){
        .mix = { .streams = p->ws.streams, .fn = hc->fn, .base = hc->base, .scale = hc->scale,
                 .x = p->ws.x, .post = p->ws.post, .comb = p->ws.comb, .eps = c->rms_eps,
                 .hc_eps = c->hc_eps, .n_streams = c->n_streams, .n_iterations = c->sinkhorn_iterations,
                 .layer = p->layer, .name = name },
        .norm = { .x = p->ws.x, .y = p->ws.normed, .weight = norm, .eps = c->rms_eps,
                  .layer = p->layer, .name = name },
        .next = { next, other } });
    return DS4_OK;
}

static ds4_status hc_expand(const pass *p, const char *name)
{
    RUN(hc_expand, (hc_expand_args){ .y = p->ws.y, .streams = p->ws.streams, .post = p->ws.post,
                                     .comb = p->ws.comb, .n_streams = p->c->n_streams,
                                     .layer = p->layer, .name = name });
    return DS4_OK;
}

/* The first cols columns of a wide scratch view, packed. */
static view narrowed(view v, int cols)
{
    v.cols = cols;
    v.stride = (uint64_t)cols * 4u;
    return v;
}

static ds4_status compress(const pass *p, const compressor_weights *w, bool index)
{
    const model_config *c = p->c;
    const int width = index ? c->index_dim : c->head_dim;
    const view value = narrowed(index ? p->ws.index_value : p->ws.value, config_series(p->ratio) * width);
    const view score = narrowed(index ? p->ws.index_score : p->ws.score, config_series(p->ratio) * width);

    RUN(matmul, (matmul_args){ .w = w->value, .x = p->ws.normed, .y = value, .layer = p->layer,
                               .name = index ? "indexer_compressor_kv" : "attn_compressor_kv" });
    RUN(matmul, (matmul_args){ .w = w->gate, .x = p->ws.normed, .y = score, .layer = p->layer,
                               .name = index ? "indexer_compressor_gate" : "attn_compressor_gate" });
    RUN(compress, (compress_args){
        .value = value, .score = score, .ape = w->ape, .norm = w->norm, .rows = p->rows, .index = index,
        .ratio = p->ratio, .width = width, .eps = c->rms_eps, .rope = p->rope,
        .kind = rounding(p, index ? ROUND_HADAMARD_FP4 : ROUND_FP8), .n_round = width - c->n_rot,
        .layer = p->layer });
    return DS4_OK;
}

/* Whether any row sees more compressed rows than the indexer lets through. */
static bool must_select(const model_config *c, const batch_rows *rows)
{
    for (int t = 0; t < rows->n; t++)
        if ((rows->pos[t] + 1) / 4 > c->index_top_k) return true;
    return false;
}

static ds4_status select_rows(const pass *p)
{
    const model_config *c = p->c;
    RUN(select_rows, (select_rows_args){
        .x = p->ws.normed, .latent = p->ws.latent, .q_b = p->L->index_q_b, .proj = p->L->index_proj,
        .q = p->ws.index_q, .weights = p->ws.index_w, .scores = p->ws.scores, .selected = p->ws.selected,
        .rows = p->rows, .n_heads = c->index_heads, .ratio = p->ratio,
        .scale = (float)(1.0 / sqrt((double)c->index_dim * c->index_heads)), .rope = p->rope,
        .kind = rounding(p, ROUND_HADAMARD_FP4), .layer = p->layer });
    return DS4_OK;
}

static ds4_status attention(const pass *p)
{
    const model_config *c = p->c;
    const layer_weights *L = p->L;
    ds4_status st;

    RUN(q_path, (q_path_args){ .x = p->ws.normed, .q_a = L->q_a, .q_a_norm = L->q_a_norm, .q_b = L->q_b,
                               .latent = p->ws.latent, .q = p->ws.q, .rows = p->rows, .n_heads = c->n_head,
                               .eps = c->rms_eps, .rope = p->rope, .layer = p->layer });
    RUN(kv_path, (kv_path_args){ .x = p->ws.normed, .kv = L->kv, .norm = L->kv_norm, .row = p->ws.row,
                                 .rows = p->rows, .eps = c->rms_eps, .rope = p->rope,
                                 .kind = rounding(p, ROUND_FP8), .n_round = c->head_dim - c->n_rot,
                                 .layer = p->layer });
    if (p->ratio > 0 && (st = compress(p, &L->compressor, false))) return st;
    if (p->ratio == 4 && (st = compress(p, &L->index_compressor, true))) return st;

    const bool select = p->ratio == 4 && must_select(c, p->rows);
    if (select && (st = select_rows(p))) return st;

    RUN(attend, (attend_args){ .q = p->ws.q, .heads = p->ws.q, .sinks = L->sinks,
                               .selected = select ? p->ws.selected : (view){ 0 }, .rows = p->rows,
                               .n_heads = c->n_head, .n_swa = c->n_swa, .ratio = p->ratio,
                               .scale = (float)(1.0 / sqrt((double)c->head_dim)), .layer = p->layer });
    RUN(attn_out, (attn_out_args){ .heads = p->ws.q, .a = L->out_a, .b = L->out_b, .low = p->ws.low,
                                   .y = p->ws.y, .rows = p->rows, .n_heads = c->n_head,
                                   .n_groups = c->out_groups, .rope = p->rope, .layer = p->layer });
    return DS4_OK;
}

static ds4_status ffn(const pass *p)
{
    const model_config *c = p->c;
    const layer_weights *L = p->L;
    const int l = p->layer;

    RUN(moe_block, (moe_block_args){
        .x = p->ws.normed, .y = p->ws.y, .gate_inp = L->gate_inp,
        .router = { .logits = p->ws.router, .bias = L->router_bias, .hash = L->hash, .ids = p->ws.ids,
                    .weights = p->ws.weights, .rows = p->rows, .scale = c->expert_scale, .layer = l },
        .experts = { .x = p->ws.normed, .y = p->ws.y, .gate = L->gate_exps, .up = L->up_exps,
                     .down = L->down_exps, .ids = p->ws.ids, .weights = p->ws.weights, .mid = p->ws.mid,
                     .source = p->f->o.experts ? experts_source(p->f->o.experts) : NULL,
                     .n_experts = c->n_expert, .limit = c->clamp_routed[l], .layer = l },
        .shared = { .x = p->ws.normed, .y = p->ws.shared, .gate = L->gate_shared, .up = L->up_shared,
                    .down = L->down_shared, .gate_out = p->ws.gate, .up_out = p->ws.up,
                    .limit = c->clamp_shared[l], .layer = l },
        .layer = l });
    return DS4_OK;
}

/* What the next layer's router would choose if this layer's FFN added nothing: known a
 * layer early, so that reading can begin. Leaves nothing that this layer does not write anew. */
static ds4_status guess_experts(const pass *p)
{
    const model_config *c = p->c;
    const int l = p->layer + 1;
    if (l >= c->n_layer || l < c->n_hash_layers) return DS4_OK;
    const layer_weights *L = &p->f->w->layer[l];
    const view ids = p->ws.ids;
    pass next = *p;
    next.layer = l;

    const ds4_status st = hc_pre(&next, &L->hc_ffn, L->ffn_norm, L->gate_inp.type, QUANT_F32, "guess");
    if (st) return st;
    RUN(matmul, (matmul_args){ .w = L->gate_inp, .x = p->ws.normed, .y = p->ws.router, .layer = l, .name = "guess" });
    RUN(router, (router_args){ .logits = p->ws.router, .bias = L->router_bias, .ids = ids,
                               .weights = p->ws.weights, .rows = p->rows, .scale = c->expert_scale, .layer = l });
    experts_guess(p->f->o.experts, l, view_i32(ids, 0), view_f32(p->ws.weights, 0),
                  (int)ids.rows * ids.cols);
    return DS4_OK;
}

static ds4_status one_layer(const pass *p)
{
    ds4_status st;
    const layer_weights *L = p->L;
    if ((st = hc_pre(p, &L->hc_attn, L->attn_norm, L->q_a.type, L->kv.type, "attn"))) return st;
    if ((st = attention(p))) return st;
    if ((st = hc_expand(p, "attn"))) return st;

    if (p->f->o.experts && (st = guess_experts(p))) return st;
    if ((st = hc_pre(p, &L->hc_ffn, L->ffn_norm, L->gate_shared.type, L->gate_exps.type, "ffn"))) return st;
    if ((st = ffn(p))) return st;
    return hc_expand(p, "ffn");
}

/* ---- the pass ---------------------------------------------------------------------- */

static workspace cut_to(workspace ws, int T, int n_used)
{
    view *const per_row[] = { &ws.streams, &ws.x, &ws.normed, &ws.y, &ws.post, &ws.comb, &ws.latent, &ws.q,
                              &ws.row, &ws.value, &ws.score, &ws.index_value, &ws.index_score, &ws.index_q, &ws.index_w,
                              &ws.selected, &ws.low, &ws.router, &ws.ids, &ws.weights, &ws.gate, &ws.up, &ws.shared };
    for (size_t i = 0; i < countof(per_row); i++) *per_row[i] = view_rows(*per_row[i], 0, T);
    ws.mid = view_rows(ws.mid, 0, (int64_t)T * n_used);
    return ws;
}

/* The streams of some rows, side by side: gathered, a copy for every run of neighbours, where they are not. */
static ds4_status gather(const pass *p, const int32_t *rows, int n, view *out)
{
    backend *b = p->f->b;
    ds4_status st = DS4_OK;
    *out = view_rows(p->ws.head_streams, 0, n);
    if (rows[n - 1] - rows[0] == n - 1) {
        *out = view_rows(p->ws.streams, rows[0], n);
        return DS4_OK;
    }
    for (int first = 0, count; first < n && !st; first += count) {
        for (count = 1; first + count < n && rows[first + count] == rows[first] + count;) count++;
        st = b->copy(b, view_rows(*out, first, count), view_rows(p->ws.streams, rows[first], count), &p->dev->error);
    }
    return st;
}

/* Columns of a row of tops, which has the layout of forward_top. */
static view in_tops(view tops, size_t offset, int cols, quant_type type)
{
    tops.offset += offset;
    tops.cols = cols;
    tops.type = type;
    return tops;
}

/* What the host is told of n rows of logits. */
static ds4_status find_tops(const pass *p, int n)
{
    const view tops = view_rows(p->ws.tops, 0, n);
    RUN(top_logits, (top_logits_args){ .logits = view_rows(p->ws.logits, 0, n),
                                       .ids = in_tops(tops, offsetof(forward_top, id), FORWARD_TOP, QUANT_I32),
                                       .values = in_tops(tops, offsetof(forward_top, value), FORWARD_TOP, QUANT_F32),
                                       .norm = in_tops(tops, offsetof(forward_top, norm), 2, QUANT_F32) });
    return DS4_OK;
}

/* Takes at most a tile of rows to the vocabulary. */
static ds4_status head(const pass *p, const int32_t *rows, int n)
{
    const model_config *c = p->c;
    const model_weights *w = p->f->w;
    const view x = view_rows(p->ws.head_x, 0, n);
    view streams;
    const ds4_status st = gather(p, rows, n, &streams);
    if (st) return st;
    RUN(head, (head_args){
        .mix = { .streams = streams, .fn = w->hc_head.fn, .base = w->hc_head.base, .scale = w->hc_head.scale,
                 .x = x, .eps = c->rms_eps, .hc_eps = c->hc_eps, .n_streams = c->n_streams, .head = true,
                 .layer = -1, .name = "head" },
        .norm = { .x = x, .y = x, .weight = w->output_norm, .eps = c->rms_eps, .layer = -1, .name = "output_norm" },
        .output = { .w = w->output, .x = x, .y = view_rows(p->ws.logits, 0, n), .layer = -1, .name = "output" } });
    return p->f->tops ? find_tops(p, n) : DS4_OK;
}

static ds4_status stopped(const pass *p)
{
    const forward_options *o = &p->f->o;
    return o->stop && o->stop(o->stop_ctx) ? queue_fail(p->dev, DS4_ECANCELLED, "the step was interrupted") : DS4_OK;
}

static ds4_status run_layers(pass *p)
{
    const model_config *c = p->c;
    ds4_status st;
    RUN(embed_rows, (embed_rows_args){ .table = p->f->w->embed, .streams = p->ws.streams, .rows = p->rows,
                                       .n_streams = c->n_streams });
    for (int l = 0; l < c->n_layer; l++) {
        if (l > 0 && (st = stopped(p))) return st;
        p->layer = l;
        p->L = &p->f->w->layer[l];
        p->ratio = c->ratio[l];
        p->rope = (rope){ p->ratio > 0 ? c->rope_scaled : c->rope_plain, c->n_rot };
        if ((st = one_layer(p))) return st;
    }
    return DS4_OK;
}

static ds4_status run_ops(pass *p, const int32_t *logits_rows, int n_logits)
{
    const ds4_status st = run_layers(p);
    return st || n_logits == 0 ? st : head(p, logits_rows, n_logits);
}

/* The ops of a step, n_logits at most a tile; a backend with recordings may know them already. It may also
 * fail to keep the recording that it was making: then nothing has been computed, and the ops are called again. */
static ds4_status run_step(pass *p, const int32_t *logits_rows, int n_logits)
{
    backend *b = p->f->b;
    const step_shape shape = { .rows = p->rows, .logits_rows = logits_rows, .n_logits = n_logits,
                               .selects = must_select(p->c, p->rows) };
    ds4_status st = stopped(p);
    if (st || !b->step_begin) return st ? st : run_ops(p, logits_rows, n_logits);
    for (bool again = true; again && !st;) {
        bool done;
        st = b->step_begin(b, &shape, &done, &p->dev->error);
        if (st) return st;
        if (!done) st = run_ops(p, logits_rows, n_logits);
        ds4_error err;
        const ds4_status ended = b->step_end(b, st == DS4_OK, &again, &err);
        if (again) st = DS4_OK;
        else if (ended && !st) p->dev->error = err;
        if (ended && !st) st = ended;
    }
    return st;
}

ds4_status forward_run(forward *f, const batch_rows *rows, const int32_t *logits_rows, int n_logits,
                       float *logits, ds4_error *err)
{
    backend *b = f->b;
    pass p = { .f = f, .c = f->c, .dev = &b->queue, .rows = rows, .ws = cut_to(f->ws, rows->n, f->c->n_expert_used) };
    const int tile = (int)p.ws.logits.rows;
    const bool at_once = n_logits <= tile;
    if (f->o.experts) experts_begin_step(f->o.experts, rows);

    ds4_status st = run_step(&p, logits_rows, at_once ? n_logits : 0);
    for (int first = 0; first < n_logits && !st; first += tile) {
        const int n = min_int(tile, n_logits - first);
        if (!at_once) st = head(&p, logits_rows + first, n);
        if (!st) st = b->wait(b, &p.dev->error);
        if (!st && !logits) st = b->download(b, f->tops, view_rows(p.ws.tops, 0, n), &p.dev->error);
        else if (!st) st = b->download(b, logits + (size_t)first * (size_t)f->c->n_vocab, view_rows(p.ws.logits, 0, n),
                                       &p.dev->error);
    }
    if (!st && n_logits == 0) st = b->wait(b, &p.dev->error);
    if (st && err) *err = p.dev->error;
    return st;
}

const forward_top *forward_tops(const forward *f) { return f->tops; }

ds4_status forward_logits(forward *f, int i, float *out, ds4_error *err)
{
    return f->b->download(f->b, out, view_rows(f->ws.logits, i, 1), err);
}
