/* cpu_matmul: products of weights with the rows of the batch.
 *
 * Rows are first stored in the type that the weights' tiles want; then tasks of
 * neighbouring output rows are handed to the pool. Each output is one sum over
 * the whole input in an order that a tile's size does not change (cpu_kernels.h),
 * so neither the cut into tasks nor the other rows of the batch can change it. */
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/shared/formulas.h"

#define TASK_BYTES (512 * 1024) /* weights of one task: at its first rows nothing is fetched ahead, which
                                   costs some 3 %, and threads end within 50 us of each other */

/* How the activations that meet weights of this type are stored: F32 in exact mode and for float weights. */
static quant_type activation_type(const cpu_backend *b, quant_type weight)
{
    return b->exact ? QUANT_F32 : quant_get(weight)->dot_type;
}

/* Activations as the tiles read them: the view itself when it stays F32. */
typedef struct {
    const uint8_t *data;
    uint64_t       stride;
} activation_rows;

typedef struct {
    const cpu_backend *b;
    uint8_t           *dst;
    view               x;
    quant_type         type;
    uint64_t           stride;
    const int32_t     *rows;    /* which; NULL: all */
} quantise_ctx;

static void quantise_row(void *ctx, int index, int thread)
{
    (void)thread;
    const quantise_ctx *c = ctx;
    const int t = c->rows ? c->rows[index] : index;
    c->b->k.quantise[c->type](c->dst + (uint64_t)t * c->stride, view_f32(c->x, t), c->x.cols);
}

static activation_rows some_activations_of(cpu_backend *b, uint8_t *store, view x, quant_type weight,
                                           const int32_t *rows, int n)
{
    const quant_type type = activation_type(b, weight);
    if (type == QUANT_F32) return (activation_rows){ view_at(x, 0), x.stride };
    quantise_ctx c = { b, store, x, type, activation_bytes(type, x.cols), rows };
    cpu_for_rows(b, quantise_row, &c, n);
    return (activation_rows){ store, c.stride };
}

static activation_rows activations_of(cpu_backend *b, uint8_t *store, view x, quant_type weight)
{
    return some_activations_of(b, store, x, weight, NULL, (int)x.rows);
}

/* ---- tiles ------------------------------------------------------------------ */

/* The matrix that a tile's rows are taken from. */
typedef struct {
    const uint8_t *data;        /* row 0 */
    uint64_t       stride;
    quant_type     type;
    int            cols;
} matrix;

/* Rows of one task: TASK_BYTES at most, where that leaves every thread a few tasks, and
 * a multiple of what a tile's kernel takes at once. */
static int task_rows(const cpu_backend *b, view w, int rows)
{
    const int granule = quant_get(w.type)->dot_type == QUANT_F32 ? 4 : 16;
    const int by_bytes = (int)(TASK_BYTES / w.stride), by_thread = rows / (4 * b->n_threads);
    return max_int(granule, min_int(by_bytes, by_thread) / granule * granule);
}

/* Turn i of n tasks, so that the turns i, i + n_threads, ... are neighbours: threads in
 * step each walk through their own part of the weights, and what a tile fetches behind
 * its last row is what its thread wants next. */
static int task_of_turn(int i, int n, int n_threads)
{
    const int each = n / n_threads, more = n % n_threads;      /* the first `more` threads have one more */
    const int t = i < each * n_threads ? i % n_threads : i - each * n_threads;
    const int at = i < each * n_threads ? i / n_threads : each;
    return t * each + min_int(t, more) + at;
}

static float dot_expanded(const float *w, const float *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)w[i] * x[i];
    return (float)sum;
}

/* In exact mode types that would want rounded activations are expanded to floats. */
static void expanded_tile(const cpu_backend *b, quant_type type, const tile_args *a, int thread)
{
    float *row = b->thread_row + (size_t)thread * (size_t)b->limits.max_cols;
    for (int r = 0; r < a->rows; r++) {
        quant_get(type)->to_float(row, a->w + (uint64_t)r * a->w_stride, a->n);
        for (int c = 0; c < a->batch; c++)
            a->y[(uint64_t)c * a->y_stride + (uint64_t)r] = dot_expanded(row, (const float *)(const void *)a->x[c], a->n);
    }
}

/* y[c][r] = row first + r of m times x[c] */
static void run_tile(const cpu_backend *b, const matrix *m, int first, int rows, const uint8_t *const *x, int batch,
                     float *y, uint64_t y_stride, int thread)
{
    const tile_args a = { .w = m->data + (uint64_t)first * m->stride, .w_stride = m->stride, .rows = rows,
                          .n = m->cols, .x = x, .batch = batch, .y = y, .y_stride = y_stride,
                          .scratch = b->thread_tile[thread].scratch };
    if (b->exact && quant_get(m->type)->dot_type != QUANT_F32) expanded_tile(b, m->type, &a, thread);
    else b->k.tile[m->type](&b->k, &a);
}

/* ---- matmul ----------------------------------------------------------------- */

typedef struct {
    const cpu_backend *b;
    activation_rows    x;
    matrix             w;
    int                rows, batch, per_task, n_tasks;
    float             *y;
    uint64_t           y_stride;
} product_ctx;

static void product_task(void *ctx, int turn, int thread)
{
    const product_ctx *c = ctx;
    const int task = task_of_turn(turn, c->n_tasks, c->b->n_threads);
    const int first = task * c->per_task, rows = min_int(c->per_task, c->rows - first);
    const uint8_t **x = c->b->thread_tile[thread].x;

    for (int t0 = 0; t0 < c->batch; t0 += TILE_BATCH) {
        const int batch = min_int(TILE_BATCH, c->batch - t0);
        for (int t = 0; t < batch; t++) x[t] = c->x.data + (uint64_t)(t0 + t) * c->x.stride;
        run_tile(c->b, &c->w, first, rows, x, batch, c->y + (uint64_t)t0 * c->y_stride + first, c->y_stride, thread);
    }
}

void cpu_products(cpu_backend *b, view w, view x, float *y, uint64_t y_stride)
{
    assert(w.cols == x.cols);
    product_ctx c = { .b = b, .x = activations_of(b, b->activations, x, w.type),
                      .w = { view_at(w, 0), w.stride, w.type, w.cols },
                      .rows = (int)w.rows, .batch = (int)x.rows, .per_task = task_rows(b, w, (int)w.rows),
                      .y = y, .y_stride = y_stride };
    c.n_tasks = (c.rows + c.per_task - 1) / c.per_task;
    pool_run(b->pool, product_task, &c, c.n_tasks);
}

static ds4_status matmul(queue *dev, const matmul_args *a)
{
    assert(a->w.rows == a->y.cols && a->x.rows == a->y.rows);
    cpu_products(cpu_of(dev), a->w, a->x, view_f32(a->y, 0), a->y.stride / sizeof(float));
    return DS4_OK;
}

/* ---- routed experts --------------------------------------------------------- */

/* Pair p = t*k + slot. Sorting pairs by expert lets every weight row be read once
 * for all the tokens that chose it. */
static int group_by_expert(cpu_backend *b, const expert_ffn_args *a)
{
    const int T = (int)a->ids.rows, k = a->ids.cols, E = a->n_experts;
    int32_t *first = b->expert_first;
    int active = 0;

    memset(first, 0, (size_t)(E + 1) * sizeof *first);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < k; i++) first[view_i32(a->ids, t)[i] + 1]++;
    for (int e = 0; e < E; e++) {
        if (first[e + 1] > 0) b->expert_active[active++] = e;
        first[e + 1] += first[e];
    }
    for (int t = 0; t < T; t++)                     /* moves first[e] to the end of e ... */
        for (int i = 0; i < k; i++) b->expert_pair[first[view_i32(a->ids, t)[i]]++] = t * k + i;
    for (int e = E; e > 0; e--) first[e] = first[e - 1];    /* ... and back */
    first[0] = 0;
    return active;
}

/* Where each active expert's matrices are, in the order of expert_active, when all are mapped. */
static void locate_experts(cpu_backend *b, const expert_ffn_args *a, int n_active)
{
    const int64_t F = a->mid.cols, D = a->y.cols;
    for (int i = 0; i < n_active; i++) {
        const int64_t e = b->expert_active[i];
        b->expert_data[i] = (expert_data){ view_at(a->gate, e * F), view_at(a->up, e * F), view_at(a->down, e * D) };
    }
}

typedef struct {
    const cpu_backend     *b;
    const expert_ffn_args *a;
    activation_rows        x, mid;
    int                    begin, end;          /* active experts at hand                         */
    const int             *order;               /* of expert_up_tasks among them; NULL: as they are */
    int                    up_rows, up_tasks;   /* rows of an expert_up_task; tasks of one expert */
    int                    down_rows;
    int                    n_tasks;             /* of the loop that runs                          */
} expert_ctx;

/* mid[pair] = weight * swiglu(gate x, up x) for some rows of one expert */
static void expert_up_task(void *ctx, int turn, int thread)
{
    const expert_ctx *c = ctx;
    const cpu_backend *b = c->b;
    const expert_ffn_args *a = c->a;
    const int task = task_of_turn(turn, c->n_tasks, b->n_threads), nth = task / c->up_tasks;
    const int active = c->order ? c->order[nth] : c->begin + nth;
    const int e = b->expert_active[active];
    const int F = a->mid.cols, k = a->ids.cols;
    const int first = task % c->up_tasks * c->up_rows, rows = min_int(c->up_rows, F - first);
    const matrix gate = { b->expert_data[active].gate, a->gate.stride, a->gate.type, a->gate.cols };
    const matrix up = { b->expert_data[active].up, a->up.stride, a->up.type, a->up.cols };
    thread_tile *s = &b->thread_tile[thread];

    for (int i0 = b->expert_first[e]; i0 < b->expert_first[e + 1]; i0 += TILE_BATCH) {
        const int32_t *pair = b->expert_pair + i0;
        const int batch = min_int(TILE_BATCH, b->expert_first[e + 1] - i0);
        for (int i = 0; i < batch; i++) s->x[i] = c->x.data + (uint64_t)(pair[i] / k) * c->x.stride;
        run_tile(b, &gate, first, rows, s->x, batch, s->y[0], (uint64_t)rows, thread);
        run_tile(b, &up, first, rows, s->x, batch, s->y[1], (uint64_t)rows, thread);
        for (int i = 0; i < batch; i++) {
            const float weight = view_f32(a->weights, pair[i] / k)[pair[i] % k];
            const float *g = s->y[0] + i * rows, *u = s->y[1] + i * rows;
            float *mid = view_f32(a->mid, pair[i]) + first;
            for (int r = 0; r < rows; r++) mid[r] = weight * formula_swiglu(g[r], u[r], a->limit);
        }
    }
}

/* Some channels of y for all rows: experts in ascending order, so that a row's sum
 * has one order whatever else is in the batch. */
static void expert_down_task(void *ctx, int turn, int thread)
{
    const expert_ctx *c = ctx;
    const cpu_backend *b = c->b;
    const int task = task_of_turn(turn, c->n_tasks, b->n_threads);
    const expert_ffn_args *a = c->a;
    const int k = a->ids.cols, T = (int)a->x.rows;
    const int first = task * c->down_rows, rows = min_int(c->down_rows, a->y.cols - first);
    thread_tile *s = &b->thread_tile[thread];

    for (int t = 0; t < T && c->begin == 0; t++) memset(view_f32(a->y, t) + first, 0, (size_t)rows * sizeof(float));

    for (int n = c->begin; n < c->end; n++) {
        const int e = b->expert_active[n];
        const matrix down = { b->expert_data[n].down, a->down.stride, a->down.type, a->down.cols };
        for (int i0 = b->expert_first[e]; i0 < b->expert_first[e + 1]; i0 += TILE_BATCH) {
            const int32_t *pair = b->expert_pair + i0;
            const int batch = min_int(TILE_BATCH, b->expert_first[e + 1] - i0);
            for (int i = 0; i < batch; i++) s->x[i] = c->mid.data + (uint64_t)pair[i] * c->mid.stride;
            run_tile(b, &down, first, rows, s->x, batch, s->y[0], (uint64_t)rows, thread);
            for (int i = 0; i < batch; i++) {
                float *y = view_f32(a->y, pair[i] / k) + first;
                for (int r = 0; r < rows; r++) y[r] += s->y[0][i * rows + r];
            }
        }
    }
}

static void all_up(expert_ctx *c, int n)
{
    c->n_tasks = n * c->up_tasks;
    pool_run(c->b->pool, expert_up_task, c, c->n_tasks);
}

static void all_down(expert_ctx *c)
{
    c->n_tasks = (c->a->y.cols + c->down_rows - 1) / c->down_rows;
    pool_run(c->b->pool, expert_down_task, c, c->n_tasks);
}

/* One group of a source: gate and up as experts arrive, then down in their order. */
static ds4_status run_group(cpu_backend *b, expert_ctx *c, ds4_error *err)
{
    const expert_ffn_args *a = c->a;
    for (int done = 0, n; done < c->end - c->begin; done += n) {
        const ds4_status st = a->source->arrived(a->source, b->expert_arrived, &n, b->expert_data + c->begin, err);
        if (st) return st;
        for (int i = 0; i < n; i++) b->expert_arrived[i] += c->begin;
        c->order = b->expert_arrived;
        all_up(c, n);
    }
    const int first = b->expert_first[b->expert_active[c->begin]];
    c->mid = some_activations_of(b, b->mid_activations, a->mid, a->down.type, b->expert_pair + first,
                                 b->expert_first[b->expert_active[c->end - 1] + 1] - first);
    all_down(c);
    return DS4_OK;
}

/* As many experts at a time as the source holds. Groups ascend, so y is added up in the
 * order of ids as if all had been there at once. */
static ds4_status from_source(queue *dev, expert_ctx *c, int n_active)
{
    cpu_backend *b = cpu_of(dev);
    const expert_ffn_args *a = c->a;
    ds4_status st = DS4_OK;
    ds4_error err;
    for (int i = 0; i < n_active; i++)
        b->expert_rows[i] = b->expert_first[b->expert_active[i] + 1] - b->expert_first[b->expert_active[i]];
    for (int taken = 0; c->begin < n_active && !st; c->begin += taken) {
        st = a->source->acquire(a->source, a->layer, b->expert_active + c->begin, b->expert_rows + c->begin,
                                n_active - c->begin, &taken, &err);
        c->end = c->begin + taken;
        if (!st) st = run_group(b, c, &err);
        a->source->release(a->source);
    }
    return st ? queue_fail(dev, st, "%s", err.message) : DS4_OK;
}

/* Rows of one task: the fewer activations meet an expert, the more, since at the first
 * rows of a tile nothing is fetched ahead. */
static int expert_task_rows(const cpu_backend *b, view w, int rows, int n_active)
{
    int most = 1;
    for (int i = 0; i < n_active; i++) {
        const int e = b->expert_active[i];
        most = max_int(most, b->expert_first[e + 1] - b->expert_first[e]);
    }
    const int by_outputs = TILE_OUTPUTS / min_int(most, TILE_BATCH) / 16 * 16;
    return min_int(min_int(TILE_ROWS, by_outputs), task_rows(b, w, rows));
}

static ds4_status expert_ffn(queue *dev, const expert_ffn_args *a)
{
    cpu_backend *b = cpu_of(dev);
    const int F = a->mid.cols, D = a->y.cols;

    const int n_active = group_by_expert(b, a);
    expert_ctx c = { .b = b, .a = a, .end = n_active };
    c.x = activations_of(b, b->activations, a->x, a->gate.type);
    c.up_rows = expert_task_rows(b, a->gate, F, n_active);
    c.up_tasks = (F + c.up_rows - 1) / c.up_rows;
    c.down_rows = expert_task_rows(b, a->down, D, n_active);
    if (a->source) return from_source(dev, &c, n_active);

    locate_experts(b, a, n_active);
    all_up(&c, n_active);
    c.mid = activations_of(b, b->mid_activations, a->mid, a->down.type);
    all_down(&c);
    return DS4_OK;
}

void ops_cpu_matmul(ops *o)
{
    o->matmul = matmul;
    o->expert_ffn = expert_ffn;
}
