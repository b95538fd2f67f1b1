/* cpu_matmul: products of weights with the rows of the batch.
 *
 * Rows are first stored in the type that the weights' dot product wants; then
 * tasks of neighbouring output rows are handed to the pool. Each output is one
 * dot product over the whole input, so neither the cut into tasks nor the other
 * rows of the batch can change it. */
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/shared/formulas.h"

#define ROWS_PER_TASK 16        /* output rows; small enough to balance two threads */
#define BATCH_TILE    16        /* batch rows that meet a tile of weights while it is in cache */

quant_type cpu_activation_type(const cpu_backend *b, quant_type weight)
{
    return b->exact ? QUANT_F32 : quant_get(weight)->dot_type;
}

uint64_t cpu_activation_bytes(quant_type type, int cols)
{
    const quant_info *q = quant_get(type);
    return (uint64_t)((cols + q->block_len - 1) / q->block_len) * (uint64_t)q->block_bytes;
}

typedef struct {
    const cpu_backend *b;
    uint8_t           *dst;
    view               x;
    quant_type         type;
    uint64_t           stride;
} quantise_ctx;

static void quantise_row(void *ctx, int t, int thread)
{
    (void)thread;
    const quantise_ctx *c = ctx;
    c->b->k.quantise[c->type](c->dst + (uint64_t)t * c->stride, view_f32(c->x, t), c->x.cols);
}

void cpu_quantise_rows(cpu_backend *b, uint8_t *dst, view x, quant_type type)
{
    if (type == QUANT_F32) return;
    quantise_ctx c = { b, dst, x, type, cpu_activation_bytes(type, x.cols) };
    cpu_for_rows(b, quantise_row, &c, (int)x.rows);
}

/* Activations as the dot products read them: the view itself when it stays F32. */
typedef struct {
    const uint8_t *data;
    uint64_t       stride;
} activation_rows;

static activation_rows activations_of(cpu_backend *b, uint8_t *store, view x, quant_type weight)
{
    const quant_type type = cpu_activation_type(b, weight);
    if (type == QUANT_F32) return (activation_rows){ view_at(x, 0), x.stride };
    cpu_quantise_rows(b, store, x, type);
    return (activation_rows){ store, cpu_activation_bytes(type, x.cols) };
}

/* A row of weights, ready to be multiplied with many activations. In exact mode
 * types that would want rounded activations are expanded to floats instead. */
typedef struct {
    const void *row;
    dot_fn     *dot;
} weight_row;

static float dot_expanded(const void *restrict w, const void *restrict x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)((const float *)w)[i] * ((const float *)x)[i];
    return (float)sum;
}

static weight_row weight_row_at(const cpu_backend *b, view w, int64_t row, int thread)
{
    const quant_info *q = quant_get(w.type);
    const void *data = view_at(w, row);
    if (!b->exact || q->dot_type == QUANT_F32) return (weight_row){ data, b->k.dot[w.type] };

    float *expanded = b->thread_row + (size_t)thread * b->limits.max_cols;
    q->to_float(expanded, data, w.cols);
    return (weight_row){ expanded, dot_expanded };
}

/* ---- matmul ---------------------------------------------------------------- */

typedef struct {
    const cpu_backend *b;
    const matmul_args *a;
    activation_rows    x;
} matmul_ctx;

static void matmul_task(void *ctx, int task, int thread)
{
    const matmul_ctx *c = ctx;
    const matmul_args *a = c->a;
    const int first = task * ROWS_PER_TASK, end = min_int(first + ROWS_PER_TASK, (int)a->w.rows);
    const int T = (int)a->x.rows;

    for (int t0 = 0; t0 < T; t0 += BATCH_TILE)
        for (int o = first; o < end; o++) {
            const weight_row w = weight_row_at(c->b, a->w, o, thread);
            for (int t = t0; t < min_int(t0 + BATCH_TILE, T); t++)
                view_f32(a->y, t)[o] = w.dot(w.row, c->x.data + (uint64_t)t * c->x.stride, a->w.cols);
        }
}

static ds4_status matmul(queue *dev, const matmul_args *a)
{
    cpu_backend *b = cpu_of(dev);
    assert(a->w.cols == a->x.cols && a->w.rows == a->y.cols && a->x.rows == a->y.rows);
    matmul_ctx c = { b, a, activations_of(b, b->activations, a->x, a->w.type) };
    pool_run(b->pool, matmul_task, &c, ((int)a->w.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
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

typedef struct {
    const cpu_backend     *b;
    const expert_ffn_args *a;
    activation_rows        x, mid;
    int                    n_active;
    int                    tasks_per_expert;    /* of expert_up_task */
} expert_ctx;

/* mid[pair] = weight * swiglu(gate x, up x) for some rows of one expert */
static void expert_up_task(void *ctx, int task, int thread)
{
    const expert_ctx *c = ctx;
    const expert_ffn_args *a = c->a;
    const int e = c->b->expert_active[task / c->tasks_per_expert];
    const int F = a->mid.cols, D = a->x.cols, k = a->ids.cols;
    const int first = (task % c->tasks_per_expert) * ROWS_PER_TASK;

    for (int f = first; f < min_int(first + ROWS_PER_TASK, F); f++) {
        for (int half = 0; half < 2; half++) {      /* up first: it waits in mid for its gate */
            const weight_row w = weight_row_at(c->b, half ? a->gate : a->up, (int64_t)e * F + f, thread);
            for (int i = c->b->expert_first[e]; i < c->b->expert_first[e + 1]; i++) {
                const int pair = c->b->expert_pair[i], t = pair / k;
                float *mid = view_f32(a->mid, pair) + f;
                const float v = w.dot(w.row, c->x.data + (uint64_t)t * c->x.stride, D);
                *mid = half ? view_f32(a->weights, t)[pair % k] * formula_swiglu(v, *mid, a->limit) : v;
            }
        }
    }
}

/* Some channels of y for all rows: experts in ascending order, so that a row's sum
 * has one order whatever else is in the batch. */
static void expert_down_task(void *ctx, int task, int thread)
{
    const expert_ctx *c = ctx;
    const expert_ffn_args *a = c->a;
    const int D = a->y.cols, F = a->mid.cols, k = a->ids.cols, T = (int)a->x.rows;
    const int first = task * ROWS_PER_TASK, end = min_int(first + ROWS_PER_TASK, D);

    for (int t = 0; t < T; t++)
        memset(view_f32(a->y, t) + first, 0, (size_t)(end - first) * sizeof(float));

    for (int n = 0; n < c->n_active; n++) {
        const int e = c->b->expert_active[n];
        for (int d = first; d < end; d++) {
            const weight_row w = weight_row_at(c->b, a->down, (int64_t)e * D + d, thread);
            for (int i = c->b->expert_first[e]; i < c->b->expert_first[e + 1]; i++) {
                const int pair = c->b->expert_pair[i];
                view_f32(a->y, pair / k)[d] +=
                    w.dot(w.row, c->mid.data + (uint64_t)pair * c->mid.stride, F);
            }
        }
    }
}

static ds4_status expert_ffn(queue *dev, const expert_ffn_args *a)
{
    cpu_backend *b = cpu_of(dev);
    const int F = a->mid.cols, D = a->y.cols;

    expert_ctx c = { .b = b, .a = a, .n_active = group_by_expert(b, a) };
    c.x = activations_of(b, b->activations, a->x, a->gate.type);
    c.tasks_per_expert = (F + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    pool_run(b->pool, expert_up_task, &c, c.n_active * c.tasks_per_expert);

    c.mid = activations_of(b, b->mid_activations, a->mid, a->down.type);
    pool_run(b->pool, expert_down_task, &c, (D + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
    return DS4_OK;
}

void ops_cpu_matmul(ops *o)
{
    o->matmul = matmul;
    o->expert_ffn = expert_ffn;
}
