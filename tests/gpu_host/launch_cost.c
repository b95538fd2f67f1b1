#include "launch_cost.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cuda/kernels.h"
#include "quant/quant.h"

#define NAME_OF(name, args) [CUDA_##name] = #name,
static const char *const names[CUDA_KERNEL_COUNT] = { CUDA_KERNELS(NAME_OF) };

const char *launch_name(int kernel) { return kernel < 0 ? "copy" : names[kernel]; }

static bool begins(const char *name, const char *with) { return !strncmp(name, with, strlen(with)); }

/* Multiply-adds per microsecond: those of docs/backend-cuda.md; the first name that fits. */
static const struct { const char *name; double rate; } rates[] = {
    { "prefill_up_iq2", 135e6 }, { "prefill_up_", 140e6 }, { "prefill_down_q2", 240e6 }, { "prefill_down_", 160e6 },
    { "prefill_q8", 148e6 }, { "prefill_f", 60e6 }, { "prefill_bf", 60e6 }, { "prefill_", 60e6 },
    { "attend_units", 69e6 }, { "attend_", 10e6 }, { "index_scores", 210e6 }, { "matmul_F", 25e6 },
    { "top_k_", 53 },            /* blocks instead: 2.5 us each, 132 at a time */
    { "matmul_", 50e6 }, { "experts_", 40e6 }, { "hc_", 16e6 },
};

/* ---- sizes ---------------------------------------------------------------------------------- */

static double row_bytes(int type, int cols)
{
    const quant_info *q = quant_get((quant_type)type);
    return (double)cols / q->block_len * q->block_bytes;
}

static double rows_bytes(gpu_rows r) { return r.at ? 4.0 * r.rows * r.cols : 0.0; }
static double codes_bytes(gpu_codes q) { return 1.25 * q.rows * q.cols; }

/* Experts of E that n independent pairs of `used` different ones a row choose. */
static double distinct(int E, int used, int n_pairs)
{
    return E * (1.0 - pow(1.0 - (double)used / E, (double)n_pairs / used));
}

/* Rows of session memory that all rows of the step see. */
static double visible(const launch_rows *r, int n_swa, int ratio)
{
    double n = 0.0;
    for (int i = 0; i < r->n; i++) {
        const int seen = r->pos[i] + 1, compressed = ratio ? seen / ratio : 0;
        n += min_int(seen, n_swa) + (ratio == 4 && r->selects ? min_int(compressed, r->top_k) : compressed);
    }
    return n;
}

/* ---- kernels ---------------------------------------------------------------------------------- */

typedef struct { double bytes, macs; } cost;

static cost products(const gpu_weight *w, const gpu_rows *y, int jobs)
{
    cost c = { 0 };
    for (int i = 0; i < jobs; i++) {
        c.bytes += w[i].rows * row_bytes(w[i].type, w[i].cols) + rows_bytes(y[i]);
        c.macs += (double)w[i].rows * w[i].cols * y[i].rows;
    }
    return c;
}

static cost of_experts(gpu_experts w, int matrices, int rows, const gpu_groups *g)
{
    return (cost){ distinct(g->n_experts, g->used, g->n_pairs) * matrices * rows * row_bytes(w.type, w.cols),
                   (double)matrices * g->n_pairs * rows * w.cols };
}

static cost matmul_cost(const char *name, const gpu_launch *l)
{
    const matmul_exact_args *exact = l->args;
    const matmul_args_codes *codes = l->args;      /* the float kernels' begin alike */
    return begins(name, "matmul_exact_") ? products(&exact->w, &exact->y, 1)
                                         : products(codes->w, codes->y, (int)l->grid[2]);
}

static cost prefill_cost(const char *name, const gpu_launch *l)
{
    if (begins(name, "prefill_sum")) {
        const prefill_sum_args *a = l->args;
        return (cost){ rows_bytes(a->part) + rows_bytes(a->y), 0.0 };
    }
    if (begins(name, "prefill_up_")) {
        const prefill_up_args *a = l->args;
        return of_experts(a->gate, 2, a->gate.rows, &a->groups);
    }
    if (begins(name, "prefill_down_")) {
        const prefill_down_args *a = l->args;
        return of_experts(a->down, 1, a->part.cols, &a->groups);
    }
    const prefill_args *a = l->args;
    const prefill_float_args *f = l->args;
    const gpu_rows y = l->args_bytes == sizeof *f ? f->y : a->y;
    return (cost){ a->w.rows * row_bytes(a->w.type, a->w.cols) + rows_bytes(y),
                   (double)a->w.rows * a->w.cols * y.rows };
}

static cost experts_cost(const char *name, const gpu_launch *l, const launch_rows *rows)
{
    const experts_up_args *up = l->args;
    const experts_down_args *down = l->args;
    if (begins(name, "experts_up_")) return of_experts(up->gate, 2, up->gate.rows, &up->groups);
    /* Its own arguments do not tell how many experts there are to choose from: the other rows find a part of
     * theirs in the cache, as gate and up count them. */
    const gpu_groups g = { .n_experts = 256, .used = down->ids.cols, .n_pairs = rows->n * down->ids.cols };
    return of_experts(down->down, 1, down->down.rows, &g);
}

static cost hc_sums_cost(const hc_sums_kernel_args *a)
{
    return (cost){ a->n_mix * row_bytes(a->fn_type, a->streams.cols) + rows_bytes(a->streams),
                   (double)a->n_mix * a->streams.cols * a->streams.rows };
}

static cost hc_cost(const char *name, const gpu_launch *l)
{
    if (begins(name, "hc_sums")) return hc_sums_cost(l->args);
    if (begins(name, "hc_expand_sums")) {
        const hc_both_kernel_args *a = l->args;
        const cost c = hc_sums_cost(&a->sums);
        return (cost){ c.bytes + rows_bytes(a->expand.y) + rows_bytes(a->expand.streams), c.macs };
    }
    if (begins(name, "hc_mix")) {
        const hc_mix_kernel_args *a = l->args;
        return (cost){ rows_bytes(a->streams) + rows_bytes(a->x) + rows_bytes(a->y) +
                       4.0 * a->streams.rows * (a->n_mix + 1) * a->slices, 0.0 };
    }
    const hc_expand_kernel_args *a = l->args;
    return (cost){ rows_bytes(a->y) + 2 * rows_bytes(a->streams), 0.0 };
}

static cost attend_cost(const char *name, const gpu_launch *l, const launch_rows *rows)
{
    const attend_kernel_args *a = l->args;
    const double seen = visible(rows, a->n_swa, a->ratio);
    if (begins(name, "attend_join"))
        return (cost){ rows_bytes(a->heads) * (1.0 + fmin(a->splits, seen / rows->n / (2 * ATTEND_TILE))), 0.0 };
    return (cost){ rows->n <= ATTEND_SHORT_ROWS ? seen * a->row.bytes + rows_bytes(a->q) : rows_bytes(a->q),
                   2.0 * seen * a->n_heads * a->width };
}

static cost index_cost(const gpu_launch *l, const launch_rows *rows)
{
    const index_scores_kernel_args *a = l->args;
    const launch_rows some = { rows->pos + a->first, a->q.rows, false, 0 };
    const double seen = visible(&some, 0, a->ratio);
    return (cost){ seen * a->key.bytes, seen * a->q.cols };
}

/* A row's slice, or its merge, is a block that has a multiprocessor for itself; slices that see nothing end at once. */
static cost top_k_cost(const char *name, const gpu_launch *l, const launch_rows *rows)
{
    const top_k_kernel_args *a = l->args;
    const int slices = (rows->pos[rows->n - 1] + 1) / a->ratio / TOP_SLICE + 1;
    return (cost){ rows_bytes(a->selected), (double)a->selected.rows * (begins(name, "top_k_slice") ? slices : 1) };
}

static cost cost_of(const gpu_launch *l, const launch_rows *rows)
{
    const char *name = names[l->kernel];
    if (begins(name, "matmul_")) return matmul_cost(name, l);
    if (begins(name, "prefill_")) return prefill_cost(name, l);
    if (begins(name, "experts_")) return experts_cost(name, l, rows);
    if (begins(name, "hc_")) return hc_cost(name, l);
    if (begins(name, "attend_")) return attend_cost(name, l, rows);
    if (begins(name, "index_scores")) return index_cost(l, rows);
    if (begins(name, "top_k_")) return top_k_cost(name, l, rows);
    if (begins(name, "codes_by_") || begins(name, "swiglu_codes_")) {
        const codes_args *a = l->args;
        return (cost){ rows_bytes(a->x) + rows_bytes(a->up) + codes_bytes(a->q), 0.0 };
    }
    if (begins(name, "rms_norm")) {
        const rms_norm_kernel_args *a = l->args;
        return (cost){ 2 * rows_bytes(a->x), 0.0 };
    }
    if (begins(name, "rope_tail") || begins(name, "head_norm_rope")) {
        const rope_kernel_args *a = l->args;
        return (cost){ 2 * rows_bytes(a->x) * (begins(name, "rope") ? (double)a->rope.n_rot / a->width : 1.0), 0.0 };
    }
    if (begins(name, "embed_floats")) {
        const embed_kernel_args *a = l->args;
        return (cost){ rows_bytes(a->streams) * 1.125, 0.0 };
    }
    if (begins(name, "top_logits_slice")) {
        const top_logits_kernel_args *a = l->args;
        return (cost){ rows_bytes(a->logits), 0.0 };
    }
    if (begins(name, "add") || begins(name, "swiglu")) {
        const pair_kernel_args *a = l->args;
        return (cost){ 3 * rows_bytes(a->y), 0.0 };
    }
    return (cost){ 0 };         /* a few kilobytes: the launch is what it takes */
}

void launch_cost(void *ctx, const gpu_launch *l, counted_work *w)
{
    const cost c = cost_of(l, ctx);
    double rate = 40e6;
    for (size_t i = 0; i < countof(rates); i++)
        if (begins(names[l->kernel], rates[i].name)) {
            rate = rates[i].rate;
            break;
        }
    w->bytes = (uint64_t)c.bytes;
    w->macs = (uint64_t)c.macs;
    w->us = fmax(fmax(c.bytes / LAUNCH_BANDWIDTH, c.macs / rate), w->joins ? LAUNCH_JOINS_US : LAUNCH_US);
}
