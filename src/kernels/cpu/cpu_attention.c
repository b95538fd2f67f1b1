/* cpu_attention: the ops that read and write a session's memory. */
#include "kernels/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

static const kv_layer *layer_of(const batch_rows *r, int t, int layer)
{
    return &r->segment[r->segment_of[t]].kv->layer[layer];
}

/* Row b of the compressed rows within its pool. */
static int64_t pool_row(const kv_layer *l, int b)
{
    return (int64_t)l->blocks[b / l->block_rows] * l->block_rows + b % l->block_rows;
}

/* ---- kv_write ------------------------------------------------------------- */

static void write_row(void *ctx, int t, int thread)
{
    (void)thread;
    const kv_write_args *a = ctx;
    const kv_layer *l = layer_of(a->rows, t, a->layer);
    kv_row_pack(l->row, view_at(l->ring, a->rows->pos[t] % l->ring.rows), view_f32(a->x, t));
}

static ds4_status kv_write(queue *dev, const kv_write_args *a)
{
    cpu_for_rows(cpu_of(dev), write_row, (void *)a, a->rows->n);
    return DS4_OK;
}

/* ---- compress ------------------------------------------------------------- */

/* A projected token of the sequence, wherever it is: in this batch, or kept from
 * an earlier step. */
typedef struct {
    const compress_args *a;
    const segment       *s;
    compressor_state    *state;
} token_source;

static const float *token_value(const token_source *src, int p, bool score)
{
    if (p >= src->s->pos)
        return view_f32(score ? src->a->score : src->a->value, src->s->first + (p - src->s->pos));
    const view kept = (score ? src->state->score : src->state->value)[src->s->kv->now];
    return view_f32(kept, p % kept.rows);
}

#define MAX_POOLED 128          /* tokens whose rows one compressed row joins */

/* z[c] = sum_i softmax_i(score[i,c]) * value[i,c]: one softmax per channel over the
 * block's tokens. With overlap, channels 0..d-1 of the previous block's tokens join
 * channels d..2d-1 of this block's; before block 0 there is nothing to join. */
static void pool_block(const token_source *src, int block, float *z)
{
    const int R = src->a->ratio, d = src->a->width;
    const bool overlap = R == 4;
    const float *value[MAX_POOLED], *score[MAX_POOLED];
    int n = 0;

    for (int p = max_int(0, (block - overlap) * R); p < (block + 1) * R; p++, n++) {
        const int series = overlap && p >= block * R ? d : 0;
        value[n] = token_value(src, p, false) + series;
        score[n] = token_value(src, p, true) + series;
    }
    for (int c = 0; c < d; c++) {
        float top = -INFINITY, sum = 0.0f, acc = 0.0f;
        for (int i = 0; i < n; i++) top = fmaxf(top, score[i][c]);
        for (int i = 0; i < n; i++) {
            const float e = expf(score[i][c] - top);
            sum += e;
            acc += e * value[i][c];
        }
        z[c] = acc / sum;
    }
}

typedef struct {
    cpu_backend         *b;
    const compress_args *a;
    token_source         src;
    int                  first_block;
} block_ctx;

static void compress_block(void *ctx, int i, int thread)
{
    const block_ctx *c = ctx;
    const compress_args *a = c->a;
    const kv_layer *l = &c->src.s->kv->layer[a->layer];
    const int d = a->width, block = c->first_block + i;
    float *z = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;

    pool_block(&c->src, block, z);
    const float scale = (float)(1.0 / sqrt(c->b->k.sum_squares(z, d) / d + (double)a->eps));
    const float *g = view_f32(a->norm, 0);
    for (int j = 0; j < d; j++) z[j] = z[j] * scale * g[j];
    cpu_rope(z + d - a->rope.n_rot, d, 1, a->rope, block * a->ratio, false);
    cpu_round_row(z, d, a->n_round, a->kind);

    kv_row_pack(a->index ? l->index_row : l->row, view_at(a->index ? l->index_pool : l->pool, pool_row(l, block)), z);
}

/* Keeps the tokens that a later block may still pool: those of the unfinished block
 * and, with overlap, of the one before. A short step may be committed in part, so
 * it keeps all of its tokens; the slack of the one copy has room for them. */
static void keep_tokens(const token_source *src)
{
    const compress_args *a = src->a;
    const segment *s = src->s;
    const int end = s->pos + s->n, kept = a->ratio * (a->ratio == 4 ? 2 : 1);
    const bool same = s->kv->ahead == s->kv->now;   /* earlier tokens are where they have to be */

    for (int p = same ? s->pos : max_int(0, end - kept); p < end; p++)
        for (int score = 0; score < 2; score++) {
            const view to = (score ? src->state->score : src->state->value)[s->kv->ahead];
            memcpy(view_f32(to, p % to.rows), token_value(src, p, score),
                   (size_t)to.cols * sizeof(float));
        }
}

static void add_bias_row(void *ctx, int t, int thread)
{
    (void)thread;
    const compress_args *a = ctx;
    float *score = view_f32(a->score, t);
    const int row = a->rows->pos[t] % a->ratio;

    if (a->ape.type == QUANT_F32) {
        const float *bias = view_f32(a->ape, row);
        for (int i = 0; i < a->score.cols; i++) score[i] += bias[i];
        return;
    }
    float bias[64];                                 /* other float types: in pieces */
    const quant_info *q = quant_get(a->ape.type);
    const uint8_t *data = view_at(a->ape, row);
    for (int i = 0; i < a->score.cols; i += (int)countof(bias)) {
        const int n = min_int((int)countof(bias), a->score.cols - i);
        q->to_float(bias, data + (size_t)i * (size_t)q->block_bytes, n);
        for (int j = 0; j < n; j++) score[i + j] += bias[j];
    }
}

static ds4_status compress(queue *dev, const compress_args *a)
{
    cpu_backend *b = cpu_of(dev);
    if (a->ratio * (a->ratio == 4 ? 2 : 1) > MAX_POOLED)
        return queue_fail(dev, DS4_EUNSUPPORTED, "compression ratio %d; the CPU backend has room for %d tokens",
                          a->ratio, MAX_POOLED);
    cpu_for_rows(b, add_bias_row, (void *)a, a->rows->n);

    for (int i = 0; i < a->rows->n_segments; i++) {
        const segment *s = &a->rows->segment[i];
        kv_layer *l = &s->kv->layer[a->layer];
        block_ctx c = { b, a, { a, s, a->index ? &l->index : &l->main }, s->pos / a->ratio };
        const int n_blocks = (s->pos + s->n) / a->ratio - c.first_block;
        cpu_for_rows(b, compress_block, &c, n_blocks);
        keep_tokens(&c.src);
    }
    return DS4_OK;
}

/* ---- indexer --------------------------------------------------------------- */

#define SCORE_ROWS 64           /* compressed rows per task */

typedef struct {
    const cpu_backend       *b;
    const index_scores_args *a;
    int                      tasks_per_row;
} scores_ctx;

static void scores_task(void *ctx, int task, int thread)
{
    const scores_ctx *c = ctx;
    const index_scores_args *a = c->a;
    const int i = task / c->tasks_per_row, t = a->first + i;
    const kv_layer *l = layer_of(a->rows, t, a->layer);
    const int visible = (a->rows->pos[t] + 1) / a->ratio, width = l->index_row.width;
    const int first = (task % c->tasks_per_row) * SCORE_ROWS;
    const float *q = view_f32(a->q, i), *w = view_f32(a->weights, i);
    float *scores = view_f32(a->scores, i), *key = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;

    for (int r = first; r < min_int(first + SCORE_ROWS, visible); r++) {
        kv_row_unpack(l->index_row, key, view_at(l->index_pool, pool_row(l, r)));
        float sum = 0.0f;
        for (int h = 0; h < a->n_heads; h++)
            sum += w[h] * a->scale * fmaxf(0.0f, c->b->k.dot_f32(key, q + (size_t)h * width, width));
        scores[r] = sum;
    }
}

static ds4_status index_scores(queue *dev, const index_scores_args *a)
{
    cpu_backend *b = cpu_of(dev);
    int most = 0;
    for (int i = 0; i < (int)a->q.rows; i++)
        most = max_int(most, (a->rows->pos[a->first + i] + 1) / a->ratio);

    scores_ctx c = { b, a, (most + SCORE_ROWS - 1) / SCORE_ROWS };
    pool_run(b->pool, scores_task, &c, (int)a->q.rows * c.tasks_per_row);
    return DS4_OK;
}

/* Larger keys are better: the score's bits made monotonic, then the lower row. */
static uint64_t score_key(float score, int row)
{
    uint32_t u;
    if (!(score == score)) score = -INFINITY;
    if (score == 0.0f) score = 0.0f;                /* -0 and +0 tie */
    memcpy(&u, &score, sizeof u);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)~row;
}

/* Moves the k largest keys to the front (quickselect; keys are distinct). */
static void select_largest(uint64_t *keys, int n, int k)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        const uint64_t pivot = keys[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (keys[i] > pivot) i++;
            while (keys[j] < pivot) j--;
            if (i <= j) {
                const uint64_t t = keys[i];
                keys[i++] = keys[j];
                keys[j--] = t;
            }
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else return;
    }
}

typedef struct {
    const cpu_backend *b;
    const top_k_args  *a;
} top_k_ctx;

static void top_k_row(void *ctx, int i, int thread)
{
    const top_k_ctx *c = ctx;
    const top_k_args *a = c->a;
    const int n = (a->rows->pos[a->first + i] + 1) / a->ratio, k = a->selected.cols;
    int32_t *out = view_i32(a->selected, i);
    int count = 0;

    if (n <= k) {
        for (int r = 0; r < n; r++) out[count++] = r;
    } else {
        uint64_t *keys = c->b->thread_keys + (size_t)thread * c->b->limits.max_index_rows;
        const float *scores = view_f32(a->scores, i);
        for (int r = 0; r < n; r++) keys[r] = score_key(scores[r], r);
        select_largest(keys, n, k);

        uint64_t least = keys[0];                   /* emit all at or above it, in row order */
        for (int r = 1; r < k; r++) least = keys[r] < least ? keys[r] : least;
        for (int r = 0; r < n; r++)
            if (score_key(scores[r], r) >= least) out[count++] = r;
    }
    while (count < k) out[count++] = -1;
}

static ds4_status top_k(queue *dev, const top_k_args *a)
{
    top_k_ctx c = { cpu_of(dev), a };
    cpu_for_rows(cpu_of(dev), top_k_row, &c, (int)a->selected.rows);
    return DS4_OK;
}

/* ---- attend ----------------------------------------------------------------- */

typedef struct {
    const cpu_backend *b;
    const attend_args *a;
    int                tasks_per_row;
} attend_ctx;

/* The rows one query sees, oldest window row first. */
typedef struct {
    const kv_layer *l;
    const int32_t  *selected;   /* NULL: all visible */
    int             pos, n_window, n_rows;
} row_set;

static row_set rows_seen(const attend_args *a, int t)
{
    row_set s = { .l = layer_of(a->rows, t, a->layer), .pos = a->rows->pos[t] };
    s.n_window = min_int(s.pos + 1, a->n_swa);
    int n = a->ratio ? (s.pos + 1) / a->ratio : 0;
    if (view_present(a->selected)) {
        s.selected = view_i32(a->selected, t);
        int listed = 0;
        while (listed < a->selected.cols && s.selected[listed] >= 0) listed++;
        n = listed;
    }
    s.n_rows = s.n_window + n;
    return s;
}

static const void *row_seen(const row_set *s, int i)
{
    if (i < s->n_window)
        return view_at(s->l->ring, (s->pos - s->n_window + 1 + i) % s->l->ring.rows);
    i -= s->n_window;
    return view_at(s->l->pool, pool_row(s->l, s->selected ? s->selected[i] : i));
}

/* Turns logits into weights in place; the sink only adds to the denominator. */
static void softmax_with_sink(float *x, int n, float sink)
{
    float top = sink, sum;
    for (int i = 0; i < n; i++) top = fmaxf(top, x[i]);
    sum = expf(sink - top);
    for (int i = 0; i < n; i++) sum += x[i] = expf(x[i] - top);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

/* Two passes over the rows for a few heads: scores, then the weighted sum. */
static void attend_task(void *ctx, int task, int thread)
{
    const attend_ctx *c = ctx;
    const attend_args *a = c->a;
    const cpu_kernels *k = &c->b->k;
    const int t = task / c->tasks_per_row, h0 = (task % c->tasks_per_row) * ATTEND_HEADS;
    const int n_heads = min_int(ATTEND_HEADS, a->n_heads - h0), K = a->q.cols / a->n_heads;
    const row_set seen = rows_seen(a, t);
    const float *q = view_f32(a->q, t) + (size_t)h0 * K, *sinks = view_f32(a->sinks, 0) + h0;
    float *out = view_f32(a->heads, t) + (size_t)h0 * K;
    float *row = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;
    float *w = c->b->thread_scores + (size_t)thread * ATTEND_HEADS * c->b->limits.max_attended;

    for (int i = 0; i < seen.n_rows; i++) {
        kv_row_unpack(seen.l->row, row, row_seen(&seen, i));
        for (int h = 0; h < n_heads; h++) w[h * seen.n_rows + i] = a->scale * k->dot_f32(row, q + (size_t)h * K, K);
    }
    for (int h = 0; h < n_heads; h++) softmax_with_sink(w + h * seen.n_rows, seen.n_rows, sinks[h]);

    memset(out, 0, (size_t)n_heads * K * sizeof *out);
    for (int i = 0; i < seen.n_rows; i++) {
        kv_row_unpack(seen.l->row, row, row_seen(&seen, i));
        for (int h = 0; h < n_heads; h++) k->axpy_f32(out + (size_t)h * K, w[h * seen.n_rows + i], row, K);
    }
}

static ds4_status attend(queue *dev, const attend_args *a)
{
    cpu_backend *b = cpu_of(dev);
    attend_ctx c = { b, a, (a->n_heads + ATTEND_HEADS - 1) / ATTEND_HEADS };
    pool_run(b->pool, attend_task, &c, a->rows->n * c.tasks_per_row);
    return DS4_OK;
}

void ops_cpu_attention(ops *o)
{
    o->kv_write = kv_write;
    o->compress = compress;
    o->index_scores = index_scores;
    o->top_k = top_k;
    o->attend = attend;
}
