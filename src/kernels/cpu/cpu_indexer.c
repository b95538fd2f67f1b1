/* cpu_indexer: which compressed rows a query of a ratio-4 layer sees.
 *
 * Packed rows are scored in integers (attn_kernels.h), F32 rows in floats. A task is
 * a tile of rows with all queries of one session, so that a row is unpacked once. */
#include "kernels/cpu/cpu_internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"

/* ---- scores ----------------------------------------------------------------- */

/* Neighbouring queries of one session, and the number of their first task. */
typedef struct {
    const kv_layer *l;
    int             first, n;   /* queries of the call */
    int             first_task;
} query_run;

typedef struct {
    const cpu_backend       *b;
    const index_scores_args *a;
    int                      first, n;          /* rows of a's views in this round      */
    query_run                run[INDEX_QUERIES];
    int                      n_runs;
} scores_ctx;

static int visible_rows(const index_scores_args *a, int i) { return (a->rows->pos[a->first + i] + 1) / a->ratio; }

static bool in_integers(const kv_layer *l)
{
    return l->index_row.kind == KV_ROW_FP4 && l->index_row.width % KV_FP4_GROUP == 0;
}

static index_query query_of(const scores_ctx *c, int i)
{
    const int width = c->a->q.cols / c->a->n_heads;
    return index_query_at(c->b->index_queries + (size_t)(i - c->first) * index_query_bytes(c->a->n_heads, width),
                          c->a->n_heads, width);
}

static void prepare_query(void *ctx, int i, int thread)
{
    (void)thread;
    const scores_ctx *c = ctx;
    const int at = c->first + i;
    if (!in_integers(cpu_layer_of(c->a->rows, c->a->first + at, c->a->layer))) return;
    const index_query q = query_of(c, at);
    c->b->k.attn.index_fill(&q, view_f32(c->a->q, at), view_f32(c->a->weights, at), c->a->scale);
}

/* Rows of a tile lie in one block of the pool, one after another. */
static void score_integers(const scores_ctx *c, const query_run *run, int first, int end, int thread)
{
    const kv_layer *l = run->l;
    const uint64_t bytes = index_keys_bytes(l->index_row.width);
    const index_keys keys = index_keys_at(c->b->thread_keys + (uint64_t)thread * bytes, l->index_row.width);

    assert(l->block_rows % INDEX_TILE == 0);
    c->b->k.attn.index_unpack(&keys, l->index_row, view_at(l->index_pool, cpu_pool_row(l, first)), l->index_pool.stride,
                              end - first);
    for (int i = run->first; i < run->first + run->n; i++) {
        const index_query q = query_of(c, i);
        const int n = min_int(end, visible_rows(c->a, i)) - first;
        if (n > 0) c->b->k.attn.index_scores(view_f32(c->a->scores, i) + first, &q, &keys, n);
    }
}

static void score_floats(const scores_ctx *c, const query_run *run, int first, int end, int thread)
{
    const index_scores_args *a = c->a;
    const kv_layer *l = run->l;
    const int width = l->index_row.width;
    float *key = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;

    for (int r = first; r < end; r++) {
        kv_row_unpack(l->index_row, key, view_at(l->index_pool, cpu_pool_row(l, r)));
        for (int i = run->first; i < run->first + run->n; i++) {
            if (r >= visible_rows(a, i)) continue;
            const float *q = view_f32(a->q, i), *w = view_f32(a->weights, i);
            float sum = 0.0f;
            for (int h = 0; h < a->n_heads; h++)
                sum += w[h] * a->scale * fmaxf(0.0f, c->b->k.dot_f32(key, q + (size_t)h * width, width));
            view_f32(a->scores, i)[r] = sum;
        }
    }
}

static void scores_task(void *ctx, int task, int thread)
{
    const scores_ctx *c = ctx;
    const query_run *run = c->run + c->n_runs - 1;
    while (run->first_task > task) run--;

    const int first = (task - run->first_task) * INDEX_TILE;
    const int end = min_int(first + INDEX_TILE, visible_rows(c->a, run->first + run->n - 1));
    if (in_integers(run->l)) score_integers(c, run, first, end, thread);
    else score_floats(c, run, first, end, thread);
}

/* Positions ascend within a run, so its last query sees the most. */
static int cut_into_runs(scores_ctx *c)
{
    const index_scores_args *a = c->a;
    int n_tasks = 0;
    c->n_runs = 0;
    for (int i = c->first; i < c->first + c->n;) {
        query_run *run = &c->run[c->n_runs++];
        const int32_t *segment_of = a->rows->segment_of + a->first;
        *run = (query_run){ .l = cpu_layer_of(a->rows, a->first + i, a->layer), .first = i, .first_task = n_tasks };
        while (i < c->first + c->n && segment_of[i] == segment_of[run->first]) i++;
        run->n = i - run->first;
        n_tasks += (visible_rows(a, i - 1) + INDEX_TILE - 1) / INDEX_TILE;
    }
    return n_tasks;
}

static ds4_status index_scores(queue *dev, const index_scores_args *a)
{
    cpu_backend *b = cpu_of(dev);
    scores_ctx c = { .b = b, .a = a };
    for (; c.first < (int)a->q.rows; c.first += c.n) {
        c.n = min_int(INDEX_QUERIES, (int)a->q.rows - c.first);
        cpu_for_rows(b, prepare_query, &c, c.n);
        pool_run(b->pool, scores_task, &c, cut_into_runs(&c));
    }
    return DS4_OK;
}

/* ---- top k --------------------------------------------------------------------- */

enum {
    TOP_ROOM = 3,               /* candidates that are kept, in units of k */
    TOP_STEP = 256              /* scores that are compared at once        */
};

uint64_t cpu_top_bytes(int k) { return (uint64_t)TOP_ROOM * (uint64_t)k * (sizeof(int32_t) + sizeof(float)); }

typedef struct {
    const cpu_backend *b;
    const top_k_args  *a;
} top_k_ctx;

/* A score's bits so that larger numbers are larger; NaN is the smallest, both zeros
 * are one. */
static uint32_t score_key(float score)
{
    uint32_t u;
    if (!(score == score)) score = -INFINITY;
    score += 0.0f;
    memcpy(&u, &score, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Candidates for the k largest, by row. */
typedef struct {
    int      n, k;
    int32_t *row;               /* [TOP_ROOM * k] */
    float   *score;
    float    least;             /* what a later row must exceed: -infinity until there are k */
} top_rows;

/* The k-th largest key of n > k, and how many of those that equal it belong to the k:
 * the key's bits are settled from the top, a histogram for each part. */
static uint32_t least_key(const float *scores, int n, int k, int *n_equal)
{
    static const struct { int shift, bits; } part[3] = { { 21, 11 }, { 10, 11 }, { 0, 10 } };
    uint32_t found = 0, settled = 0;                /* bits, and which of them are known */
    for (int p = 0; p < 3; p++) {
        int count[1 << 11] = { 0 };
        const uint32_t mask = (1u << part[p].bits) - 1;
        for (int r = 0; r < n; r++) {
            const uint32_t key = score_key(scores[r]);
            count[key >> part[p].shift & mask] += (key & settled) == found;
        }
        uint32_t bin = mask;
        while (count[bin] < k) k -= count[bin--];
        found |= bin << part[p].shift;
        settled |= mask << part[p].shift;
    }
    *n_equal = k;
    return found;
}

/* Keeps the k best; rows stay in order, so the lower ones of a tie are met first. */
static void prune(top_rows *c)
{
    int n_equal, kept = 0;
    const uint32_t least = least_key(c->score, c->n, c->k, &n_equal);
    for (int i = 0; i < c->n; i++) {
        const uint32_t key = score_key(c->score[i]);
        if (key < least || (key == least && n_equal-- <= 0)) continue;
        if (key == least) c->least = c->score[i];
        c->row[kept] = c->row[i];
        c->score[kept++] = c->score[i];
    }
    if (!(c->least == c->least)) c->least = -INFINITY;
    c->n = kept;
}

/* Once k rows are known, most later ones are below all of them and only compared. */
static void top_k_row(void *ctx, int i, int thread)
{
    const top_k_ctx *x = ctx;
    const top_k_args *a = x->a;
    const int n = (a->rows->pos[a->first + i] + 1) / a->ratio, k = a->selected.cols;
    const float *scores = view_f32(a->scores, i);
    int32_t *out = view_i32(a->selected, i);
    uint8_t *room = x->b->thread_top + (size_t)thread * cpu_top_bytes(x->b->limits.index_top_k);
    top_rows c = { .k = k, .row = (int32_t *)(void *)room,
                   .score = (float *)(void *)(room + (size_t)TOP_ROOM * (size_t)k * 4), .least = -INFINITY };

    for (; c.n < min_int(n, k); c.n++) {
        c.row[c.n] = c.n;
        c.score[c.n] = scores[c.n];
    }
    for (int first = k; first < n; first += TOP_STEP) {
        int32_t index[TOP_STEP];
        const int found = x->b->k.attn.above(index, scores, first, min_int(first + TOP_STEP, n), c.least);
        for (int j = 0; j < found; j++) {
            if (!(scores[index[j]] > c.least)) continue;
            c.row[c.n] = index[j];
            c.score[c.n++] = scores[index[j]];
            if (c.n == TOP_ROOM * k) prune(&c);
        }
    }
    if (c.n > k) prune(&c);
    memcpy(out, c.row, (size_t)c.n * sizeof *out);
    for (int j = c.n; j < k; j++) out[j] = -1;
}

static ds4_status top_k(queue *dev, const top_k_args *a)
{
    top_k_ctx c = { cpu_of(dev), a };
    cpu_for_rows(cpu_of(dev), top_k_row, &c, (int)a->selected.rows);
    return DS4_OK;
}

void ops_cpu_indexer(ops *o)
{
    o->index_scores = index_scores;
    o->top_k = top_k;
}
