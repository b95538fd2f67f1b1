/* cpu_indexer: which compressed rows a query of a ratio-4 layer sees. */
#include "kernels/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

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
    const kv_layer *l = cpu_layer_of(a->rows, t, a->layer);
    const int visible = (a->rows->pos[t] + 1) / a->ratio, width = l->index_row.width;
    const int first = (task % c->tasks_per_row) * SCORE_ROWS;
    const float *q = view_f32(a->q, i), *w = view_f32(a->weights, i);
    float *scores = view_f32(a->scores, i), *key = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;

    for (int r = first; r < min_int(first + SCORE_ROWS, visible); r++) {
        kv_row_unpack(l->index_row, key, view_at(l->index_pool, cpu_pool_row(l, r)));
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

void ops_cpu_indexer(ops *o)
{
    o->index_scores = index_scores;
    o->top_k = top_k;
}
