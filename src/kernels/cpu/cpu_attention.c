/* cpu_attention: attend, in tiles of rows that many heads and queries share. */
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

#include "base/checked.h"

/* A task is some heads of a few neighbouring queries of one session. */
enum {
    TASK_QUERIES = 4,
    TASK_HEADS   = 32
};

/* A thread's place for one task; behind it float acc[TASK_QUERIES][TASK_HEADS][K]
 * and the tile [ATTN_TILE][attn_row_stride(K)]. */
typedef struct {
    _Alignas(64) float score[TASK_HEADS * ATTN_TILE];
    float keep[TASK_HEADS];
    float top[TASK_QUERIES][TASK_HEADS], sum[TASK_QUERIES][TASK_HEADS];
} attend_scratch;

static uint64_t acc_floats(int K) { return (uint64_t)TASK_QUERIES * TASK_HEADS * (uint64_t)K; }

uint64_t cpu_attend_bytes(int K)
{
    const uint64_t floats = acc_floats(K) + (uint64_t)ATTN_TILE * (uint64_t)attn_row_stride(K);
    return (sizeof(attend_scratch) + floats * sizeof(float) + 63) & ~(uint64_t)63;
}

typedef struct {
    const attend_args  *a;
    const attn_kernels *k;
    const kv_layer     *l;
    int                 t, n;           /* queries t .. t+n-1 of the batch */
    int                 h, n_heads, K;  /* heads h .. h+n_heads-1          */
    attend_scratch     *s;
    float              *acc, *tile;
} attend_work;

static float *acc_of(const attend_work *w, int query) { return w->acc + (size_t)query * TASK_HEADS * (size_t)w->K; }

static void unpack_to(const attend_work *w, int slot, view rows, int64_t row)
{
    w->k->unpack(w->l->row, w->tile + (size_t)slot * (size_t)attn_row_stride(w->K), view_at(rows, row));
}

/* Rows first .. first+n-1 of the tile join what a query has summed. */
static void attend_tile(const attend_work *w, int query, int first, int n)
{
    attend_scratch *s = w->s;
    const float *q = view_f32(w->a->q, w->t + query) + (size_t)w->h * (size_t)w->K;
    const float *rows = w->tile + (size_t)first * (size_t)attn_row_stride(w->K);

    w->k->scores(s->score, q, w->n_heads, rows, n, w->K);
    w->k->weigh(s->score, w->n_heads, n, w->a->scale, s->top[query], s->sum[query], s->keep);
    w->k->mix(acc_of(w, query), s->keep, s->score, w->n_heads, rows, n, w->K);
}

/* The sink is a logit without a row. */
static void start(const attend_work *w)
{
    const float *sinks = view_f32(w->a->sinks, 0) + w->h;
    for (int i = 0; i < w->n; i++) {
        for (int h = 0; h < w->n_heads; h++) {
            w->s->top[i][h] = sinks[h];
            w->s->sum[i][h] = 1.0f;
        }
        memset(acc_of(w, i), 0, (size_t)w->n_heads * (size_t)w->K * sizeof *w->acc);
    }
}

/* Tiles of the window begin at multiples of their length, so that a query meets
 * its rows in the same order whoever shares the task. */
static void attend_window(const attend_work *w)
{
    const int32_t *pos = w->a->rows->pos + w->t;
    const int n_swa = w->a->n_swa, oldest = max_int(0, pos[0] - n_swa + 1), newest = pos[w->n - 1];

    for (int tile = oldest / ATTN_TILE * ATTN_TILE; tile <= newest; tile += ATTN_TILE) {
        const int first = max_int(tile, oldest), end = min_int(tile + ATTN_TILE, newest + 1);
        for (int p = first; p < end; p++) unpack_to(w, p - first, w->l->ring, p % w->l->ring.rows);
        for (int i = 0; i < w->n; i++) {
            const int from = max_int(first, pos[i] - n_swa + 1), to = min_int(end, pos[i] + 1);
            if (from < to) attend_tile(w, i, from - first, to - from);
        }
    }
}

static void attend_all_compressed(const attend_work *w)
{
    const int32_t *pos = w->a->rows->pos + w->t;
    const int most = (pos[w->n - 1] + 1) / w->a->ratio;

    for (int tile = 0; tile < most; tile += ATTN_TILE) {
        const int end = min_int(tile + ATTN_TILE, most);
        for (int r = tile; r < end; r++) unpack_to(w, r - tile, w->l->pool, cpu_pool_row(w->l, r));
        for (int i = 0; i < w->n; i++) {
            const int to = min_int(end, (pos[i] + 1) / w->a->ratio);
            if (tile < to) attend_tile(w, i, 0, to - tile);
        }
    }
}

/* Chosen rows are a query's own, shared by its heads only. */
static void attend_selected(const attend_work *w)
{
    for (int i = 0; i < w->n; i++) {
        const int32_t *row = view_i32(w->a->selected, w->t + i), *end = row + w->a->selected.cols;
        while (row < end && *row >= 0) {
            int n = 0;
            for (; n < ATTN_TILE && row < end && *row >= 0; n++) unpack_to(w, n, w->l->pool, cpu_pool_row(w->l, *row++));
            attend_tile(w, i, 0, n);
        }
    }
}

static void finish(const attend_work *w)
{
    for (int i = 0; i < w->n; i++) {
        float *out = view_f32(w->a->heads, w->t + i) + (size_t)w->h * (size_t)w->K;
        for (int h = 0; h < w->n_heads; h++)
            w->k->scale(out + (size_t)h * (size_t)w->K, 1.0f / w->s->sum[i][h], acc_of(w, i) + (size_t)h * (size_t)w->K,
                        w->K);
    }
}

typedef struct {
    const cpu_backend *b;
    const attend_args *a;
    int                heads;   /* of a task                       */
    int                splits;  /* tasks of one group of queries   */
} attend_ctx;

static int groups_of(const segment *s) { return (s->n + TASK_QUERIES - 1) / TASK_QUERIES; }

static void attend_task(void *ctx, int task, int thread)
{
    const attend_ctx *c = ctx;
    const attend_args *a = c->a;
    int group = task / c->splits;
    const segment *seg = a->rows->segment;
    for (; group >= groups_of(seg); seg++) group -= groups_of(seg);

    const int first = group * TASK_QUERIES, h = task % c->splits * c->heads, K = a->q.cols / a->n_heads;
    attend_scratch *s = (attend_scratch *)(void *)(c->b->thread_attend +
                                                   (size_t)thread * cpu_attend_bytes(c->b->limits.max_head_width));
    float *acc = (float *)(void *)(s + 1);
    const attend_work w = {
        .a = a, .k = &c->b->k.attn, .l = &seg->kv->layer[a->layer],
        .t = seg->first + first, .n = min_int(TASK_QUERIES, seg->n - first),
        .h = h, .n_heads = min_int(c->heads, a->n_heads - h), .K = K,
        .s = s, .acc = acc, .tile = acc + acc_floats(K) };

    start(&w);
    attend_window(&w);
    if (view_present(a->selected)) attend_selected(&w);
    else if (a->ratio > 0) attend_all_compressed(&w);
    finish(&w);
}

static ds4_status attend(queue *dev, const attend_args *a)
{
    cpu_backend *b = cpu_of(dev);
    int groups = 0;
    for (int i = 0; i < a->rows->n_segments; i++) groups += groups_of(&a->rows->segment[i]);

    /* Fewer heads to a task while there are not two tasks for every thread. */
    attend_ctx c = { b, a, min_int(TASK_HEADS, a->n_heads), 0 };
    while (c.heads > 4 && groups * ((a->n_heads + c.heads - 1) / c.heads) < 2 * b->n_threads) c.heads = (c.heads + 1) / 2;
    c.splits = (a->n_heads + c.heads - 1) / c.heads;
    pool_run(b->pool, attend_task, &c, groups * c.splits);
    return DS4_OK;
}

void ops_cpu_attention(ops *o) { o->attend = attend; }
