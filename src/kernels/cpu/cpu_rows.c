/* cpu_rows: the ops that treat each row of the batch on its own. */
#include "kernels/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/shared/formulas.h"

#define MAX_USED    64

/* ---- embedding ----------------------------------------------------------- */

typedef struct {
    const embed_rows_args *a;
    const quant_info      *type;
} embed_ctx;

static void embed_row(void *ctx, int t, int thread)
{
    (void)thread;
    const embed_ctx *c = ctx;
    const embed_rows_args *a = c->a;
    const int D = a->table.cols;
    float *out = view_f32(a->streams, t);

    c->type->to_float(out, view_at(a->table, a->rows->token[t]), D);
    for (int s = 1; s < a->n_streams; s++)
        memcpy(out + (size_t)s * D, out, (size_t)D * sizeof *out);
}

static ds4_status embed_rows(queue *dev, const embed_rows_args *a)
{
    embed_ctx c = { a, quant_get(a->table.type) };
    cpu_for_rows(cpu_of(dev), embed_row, &c, a->rows->n);
    return DS4_OK;
}

/* ---- norm, activation, sum ----------------------------------------------- */

typedef struct {
    const cpu_backend   *b;
    const rms_norm_args *a;
} norm_ctx;

static void norm_row(void *ctx, int t, int thread)
{
    (void)thread;
    const norm_ctx *c = ctx;
    const int n = c->a->x.cols;
    const float *x = view_f32(c->a->x, t);
    float *y = view_f32(c->a->y, t);
    const float scale = (float)(1.0 / sqrt(c->b->k.sum_squares(x, n) / n + (double)c->a->eps));

    if (!view_present(c->a->weight)) {
        for (int i = 0; i < n; i++) y[i] = x[i] * scale;
        return;
    }
    const float *g = view_f32(c->a->weight, 0);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * g[i];
}

static ds4_status rms_norm(queue *dev, const rms_norm_args *a)
{
    norm_ctx c = { cpu_of(dev), a };
    cpu_for_rows(cpu_of(dev), norm_row, &c, (int)a->x.rows);
    return DS4_OK;
}

static void swiglu_row(void *ctx, int t, int thread)
{
    (void)thread;
    const swiglu_args *a = ctx;
    const float *g = view_f32(a->gate, t), *u = view_f32(a->up, t);
    float *y = view_f32(a->y, t);
    for (int i = 0; i < a->y.cols; i++) y[i] = formula_swiglu(g[i], u[i], a->limit);
}

static ds4_status swiglu(queue *dev, const swiglu_args *a)
{
    cpu_for_rows(cpu_of(dev), swiglu_row, (void *)a, (int)a->y.rows);
    return DS4_OK;
}

static void add_row(void *ctx, int t, int thread)
{
    (void)thread;
    const add_args *args = ctx;
    const float *a = view_f32(args->a, t), *b = view_f32(args->b, t);
    float *y = view_f32(args->y, t);
    for (int i = 0; i < args->y.cols; i++) y[i] = a[i] + b[i];
}

static ds4_status add(queue *dev, const add_args *a)
{
    cpu_for_rows(cpu_of(dev), add_row, (void *)a, (int)a->y.rows);
    return DS4_OK;
}

/* ---- rotation and rounding ----------------------------------------------- */

void cpu_rope(float *tail, int stride, int n_heads, rope r, int pos, bool inverse)
{
    for (int k = 0; k < r.n_rot / 2; k++) {
        float cosine, sine;
        formula_rope_angle(pos, r.freq[k], &cosine, &sine);
        if (inverse) sine = -sine;
        for (int h = 0; h < n_heads; h++) {
            float *pair = tail + (size_t)h * stride + 2 * k;
            const float even = pair[0], odd = pair[1];
            pair[0] = even * cosine - odd * sine;
            pair[1] = even * sine + odd * cosine;
        }
    }
}

static void rope_row(void *ctx, int t, int thread)
{
    (void)thread;
    const rope_tail_args *a = ctx;
    const int width = a->x.cols / a->n_heads;
    cpu_rope(view_f32(a->x, t) + width - a->rope.n_rot, width, a->n_heads, a->rope,
             a->rows->pos[t], a->inverse);
}

static ds4_status rope_tail(queue *dev, const rope_tail_args *a)
{
    cpu_for_rows(cpu_of(dev), rope_row, (void *)a, a->rows->n);
    return DS4_OK;
}

void cpu_round_row(const cpu_backend *b, float *x, int width, int n_round, round_kind kind)
{
    static const kv_row_kind stored[] = { [ROUND_NONE] = KV_ROW_F32, [ROUND_FP8] = KV_ROW_FP8,
                                          [ROUND_HADAMARD_FP4] = KV_ROW_FP4 };
    b->k.attn.round((kv_row){ stored[kind], width, n_round }, x);
}

typedef struct {
    const cpu_backend   *b;
    const kv_round_args *a;
} round_ctx;

static void round_row(void *ctx, int t, int thread)
{
    (void)thread;
    const round_ctx *c = ctx;
    cpu_round_row(c->b, view_f32(c->a->x, t), c->a->x.cols, c->a->n_round, c->a->kind);
}

static ds4_status kv_round(queue *dev, const kv_round_args *a)
{
    round_ctx c = { cpu_of(dev), a };
    if (a->kind != ROUND_NONE) cpu_for_rows(cpu_of(dev), round_row, &c, (int)a->x.rows);
    return DS4_OK;
}

/* ---- hyper-connections --------------------------------------------------- */

/* comb: softmax along each row, then alternating normalisation; the last step is
 * a column step [4.3]. */
static void sinkhorn(float *m, int S, int n_iterations, float eps)
{
    for (int a = 0; a < S; a++) {
        float *row = m + a * S, top = row[0], sum = 0.0f;
        for (int c = 1; c < S; c++) top = fmaxf(top, row[c]);
        for (int c = 0; c < S; c++) sum += row[c] = expf(row[c] - top);
        for (int c = 0; c < S; c++) row[c] = row[c] / sum + eps;
    }
    for (int it = 0; it < n_iterations; it++) {
        for (int a = 0; a < S && it > 0; a++) {
            float sum = 0.0f;
            for (int c = 0; c < S; c++) sum += m[a * S + c];
            for (int c = 0; c < S; c++) m[a * S + c] /= sum + eps;
        }
        for (int c = 0; c < S; c++) {
            float sum = 0.0f;
            for (int a = 0; a < S; a++) sum += m[a * S + c];
            for (int a = 0; a < S; a++) m[a * S + c] /= sum + eps;
        }
    }
}

typedef struct {
    const cpu_backend *b;
    const hc_mix_args *a;
} hc_ctx;

/* From a row's products with fn (cpu_backend.mixes) to its collapsed input and control. */
static void hc_mix_row(void *ctx, int t, int thread)
{
    (void)thread;
    const hc_ctx *c = ctx;
    const hc_mix_args *a = c->a;
    const int S = a->n_streams, n = a->streams.cols, D = n / S;
    const float *x = view_f32(a->streams, t);
    const float *base = view_f32(a->base, 0), *scale = view_f32(a->scale, 0);
    const float norm = (float)(1.0 / sqrt(c->b->k.sum_squares(x, n) / n + (double)a->eps));
    float *m = c->b->mixes + (size_t)t * CPU_MAX_MIXES;

    for (int j = 0; j < (int)a->fn.rows; j++) m[j] *= norm;

    float *out = view_f32(a->x, t);
    memset(out, 0, (size_t)D * sizeof *out);
    for (int s = 0; s < S; s++)
        c->b->k.axpy_f32(out, formula_sigmoid(m[s] * scale[0] + base[s]) + a->hc_eps, x + (size_t)s * D, D);
    if (a->head) return;

    float *post = view_f32(a->post, t), *comb = view_f32(a->comb, t);
    for (int s = 0; s < S; s++)
        post[s] = 2.0f * formula_sigmoid(m[S + s] * scale[1] + base[S + s]);
    for (int j = 0; j < S * S; j++)
        comb[j] = m[2 * S + j] * scale[2] + base[2 * S + j];
    sinkhorn(comb, S, a->n_iterations, a->hc_eps);
}

static ds4_status hc_mix(queue *dev, const hc_mix_args *a)
{
    cpu_backend *b = cpu_of(dev);
    if (a->n_streams > CPU_MAX_STREAMS)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%d streams; the CPU backend has room for %d",
                          a->n_streams, CPU_MAX_STREAMS);
    cpu_products(b, a->fn, a->streams, b->mixes, CPU_MAX_MIXES);
    hc_ctx c = { b, a };
    cpu_for_rows(b, hc_mix_row, &c, (int)a->streams.rows);
    return DS4_OK;
}

#define HC_CHUNK 1024            /* channels whose old streams are kept while new ones are written */

typedef struct {
    const cpu_backend    *b;
    const hc_expand_args *a;
    int                   chunks;       /* of a row */
} expand_ctx;

static void hc_expand_chunk(void *ctx, int task, int thread)
{
    (void)thread;
    const expand_ctx *c = ctx;
    const hc_expand_args *a = c->a;
    const int t = task / c->chunks, first = task % c->chunks * HC_CHUNK;
    const int S = a->n_streams, D = a->y.cols, n = min_int(HC_CHUNK, D - first);
    const float *y = view_f32(a->y, t) + first, *post = view_f32(a->post, t), *comb = view_f32(a->comb, t);
    float *x = view_f32(a->streams, t) + first;
    float old[CPU_MAX_STREAMS][HC_CHUNK];

    for (int s = 0; s < S; s++) {
        memcpy(old[s], x + (size_t)s * D, (size_t)n * sizeof *x);
        memset(x + (size_t)s * D, 0, (size_t)n * sizeof *x);
    }
    for (int s = 0; s < S; s++) {
        c->b->k.axpy_f32(x + (size_t)s * D, post[s], y, n);
        for (int from = 0; from < S; from++)
            c->b->k.axpy_f32(x + (size_t)s * D, comb[from * S + s], old[from], n);
    }
}

static ds4_status hc_expand(queue *dev, const hc_expand_args *a)
{
    cpu_backend *b = cpu_of(dev);
    if (a->n_streams > CPU_MAX_STREAMS)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%d streams; the CPU backend has room for %d",
                          a->n_streams, CPU_MAX_STREAMS);
    expand_ctx c = { b, a, (a->y.cols + HC_CHUNK - 1) / HC_CHUNK };
    cpu_for_rows(b, hc_expand_chunk, &c, (int)a->y.rows * c.chunks);
    return DS4_OK;
}

/* ---- router --------------------------------------------------------------- */

static void sort_ids(int32_t *ids, int k)
{
    for (int i = 1; i < k; i++)
        for (int j = i; j > 0 && ids[j] < ids[j - 1]; j--) {
            const int32_t t = ids[j];
            ids[j] = ids[j - 1];
            ids[j - 1] = t;
        }
}

/* The k best by key, ties to the lower index. Any NaN counts as the smallest. */
static void choose_experts(const float *logits, const float *bias, int n, int k, int32_t *ids)
{
    float best[MAX_USED];
    int count = 0;

    for (int e = 0; e < n; e++) {
        float key = formula_sqrt_softplus(logits[e]) + (bias ? bias[e] : 0.0f);
        if (!(key == key)) key = -INFINITY;
        if (count == k && !(key > best[k - 1])) continue;
        int at = count < k ? count++ : k - 1;
        for (; at > 0 && key > best[at - 1]; at--) {
            best[at] = best[at - 1];
            ids[at] = ids[at - 1];
        }
        best[at] = key;
        ids[at] = e;
    }
}

static void router_row(void *ctx, int t, int thread)
{
    (void)thread;
    const router_args *a = ctx;
    const int k = a->ids.cols;
    const float *logits = view_f32(a->logits, t);
    int32_t *ids = view_i32(a->ids, t);
    float *w = view_f32(a->weights, t), sum = 0.0f;

    if (view_present(a->hash))
        memcpy(ids, view_i32(a->hash, a->rows->token[t]), (size_t)k * sizeof *ids);
    else
        choose_experts(logits, view_present(a->bias) ? view_f32(a->bias, 0) : NULL,
                       a->logits.cols, k, ids);
    sort_ids(ids, k);

    for (int i = 0; i < k; i++) sum += w[i] = formula_sqrt_softplus(logits[ids[i]]);
    sum = fmaxf(sum, 6.103515625e-05f);             /* 2^-14 [4.14] */
    for (int i = 0; i < k; i++) w[i] = w[i] / sum * a->scale;
}

static ds4_status router(queue *dev, const router_args *a)
{
    if (a->ids.cols > MAX_USED)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%d experts per token; the CPU backend has room for %d",
                          a->ids.cols, MAX_USED);
    cpu_for_rows(cpu_of(dev), router_row, (void *)a, (int)a->logits.rows);
    return DS4_OK;
}

void ops_cpu_rows(ops *o)
{
    o->embed_rows = embed_rows;
    o->rms_norm = rms_norm;
    o->swiglu = swiglu;
    o->add = add;
    o->rope_tail = rope_tail;
    o->kv_round = kv_round;
    o->hc_mix = hc_mix;
    o->hc_expand = hc_expand;
    o->router = router;
}
