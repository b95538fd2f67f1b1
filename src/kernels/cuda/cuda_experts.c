/* cuda_experts: launches of the router and of the routed experts. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

/* ---- scratch ------------------------------------------------------------------------------- */

/* What a group's pointers are, from 0 on; *bytes of all. */
static gpu_groups lay_out(const backend_limits *l, uint64_t *bytes)
{
    gpu_groups g = { 0 };
    const uint64_t E = (uint64_t)l->n_experts;
    *bytes = 0;
    g.first = cuda_take(bytes, E + 1, sizeof(int32_t));
    g.pair = cuda_take(bytes, (uint64_t)l->max_pairs, sizeof(int32_t));
    g.active = cuda_take(bytes, E, sizeof(int32_t));
    g.n_active = cuda_take(bytes, 1, sizeof(int32_t));
    return g;
}

uint64_t cuda_experts_scratch(const backend_limits *l)
{
    uint64_t n;
    lay_out(l, &n);
    return n;
}

static gpu_groups groups_of(cuda_backend *b, int n_experts, view ids)
{
    uint64_t bytes;
    const gpu_ptr at = b->scratch[CUDA_FAMILY_EXPERTS];
    gpu_groups g = lay_out(&b->o.limits, &bytes);
    g.first += at;
    g.pair += at;
    g.active += at;
    g.n_active += at;
    g.n_experts = n_experts;
    g.used = ids.cols;
    g.n_pairs = (int32_t)ids.rows * ids.cols;
    return g;
}

static void uses_groups(cuda_backend *b, bool writes)
{
    uint64_t bytes;
    lay_out(&b->o.limits, &bytes);
    if (writes) cuda_writes_at(b, b->scratch[CUDA_FAMILY_EXPERTS], bytes);
    else cuda_reads_at(b, b->scratch[CUDA_FAMILY_EXPERTS], bytes);
}

static ds4_status in_limits(queue *dev, int n_experts, view ids)
{
    const backend_limits *l = &cuda_of(dev)->o.limits;
    if (n_experts <= l->n_experts && ids.rows * ids.cols <= l->max_pairs && ids.cols <= EXPERTS_MOST_USED) return DS4_OK;
    return queue_fail(dev, DS4_EUNSUPPORTED,
                      "%s: %lld rows of %d of %d experts; the backend was opened for %d pairs of %d experts, "
                      "at most %d a row", dev->backend->name, (long long)ids.rows, ids.cols, n_experts, l->max_pairs, l->n_experts,
                      EXPERTS_MOST_USED);
}

static ds4_status launch_groups(queue *dev, int n_experts, view ids, gpu_ptr uses)
{
    group_pairs_args k = { cuda_rows(ids), groups_of(cuda_of(dev), n_experts, ids) };
    k.groups.uses = uses;
    const int by_pairs = (k.groups.n_pairs + 63) / 64, by_room = 48 * 1024 / (n_experts * (int)sizeof(int32_t));
    const int warps = max_int(min_int(min_int(by_pairs, by_room), 32), 1);
    return CUDA_LAUNCH(dev, group_pairs, cuda_grid(1, 1, 1), (unsigned)warps * 32, (unsigned)(warps * n_experts) * 4u, k);
}

ds4_status cuda_group_pairs(queue *dev, int n_experts, view ids, gpu_groups *out)
{
    cuda_backend *b = cuda_of(dev);
    const ds4_status st = in_limits(dev, n_experts, ids);
    if (st) return st;
    *out = groups_of(b, n_experts, ids);
    cuda_reads(b, ids);
    uses_groups(b, true);
    return launch_groups(dev, n_experts, ids, 0);
}

/* ---- router --------------------------------------------------------------------------------- */

/* Few rows: one block routes them all and groups their pairs, so that the experts can begin. */
static bool groups_at_once(int64_t rows) { return rows <= ROUTER_ROWS; }

/* An op. grouped: also the groups, with as many launches as it takes, counting in `uses`. */
static ds4_status route(queue *dev, const router_args *a, bool grouped, gpu_ptr uses)
{
    cuda_backend *b = cuda_of(dev);
    const int64_t T = a->logits.rows;
    const int E = a->logits.cols, warps = groups_at_once(T) ? (int)T : ROUTER_ROWS / 2;
    ds4_status st = in_limits(dev, E, a->ids);
    if (st || T == 0) return st;

    const bool at_once = grouped && groups_at_once(T);
    router_kernel_args k = { .logits = cuda_rows(a->logits), .ids = cuda_rows(a->ids), .weights = cuda_rows(a->weights),
                             .bias = cuda_rows(a->bias).at, .hash = cuda_rows(a->hash), .scale = a->scale };
    cuda_op(b);
    cuda_reads(b, a->logits);
    cuda_writes(b, a->ids);
    cuda_writes(b, a->weights);
    if (grouped) uses_groups(b, true);
    if (view_present(a->hash)) {
        gpu_batch batch;
        st = cuda_batch(dev, a->rows, -1, &batch);
        k.token = batch.token;
    }
    if (at_once) k.groups = groups_of(b, E, a->ids);
    k.groups.uses = uses;
    if (!st) st = CUDA_LAUNCH(dev, router, cuda_grid((T + warps - 1) / warps, 1, 1), (unsigned)(warps * 32),
                              (unsigned)(warps * E) * (unsigned)sizeof(uint64_t), k);
    if (!st && grouped && !at_once) st = launch_groups(dev, E, a->ids, uses);
    return cuda_done(dev, st);
}

static ds4_status router(queue *dev, const router_args *a) { return route(dev, a, false, 0); }

/* ---- the experts ------------------------------------------------------------------------------- */

#define KERNELS_OF(X, type) [QUANT_##type] = { CUDA_experts_up_##type, CUDA_experts_down_##type },
static const struct { int up, down; } kernels[QUANT_COUNT] = { EXPERTS_BLOCK_TYPES(KERNELS_OF, ) };

/* Kernels made for a type (experts_tuned.cu), for rows of at least so many columns: 16 bytes for every lane. */
static const struct { int up, down, cols; } tuned[QUANT_COUNT] = {
    [QUANT_Q2_K] = { 0, CUDA_experts_down_tuned_Q2_K, 2048 },
    [QUANT_Q4_K] = { CUDA_experts_up_tuned_Q4_K, CUDA_experts_down_tuned_Q4_K, 1024 },
};

static bool up_is_tuned(view gate) { return tuned[gate.type].up && gate.cols >= tuned[gate.type].cols; }
static bool down_is_tuned(view down) { return tuned[down.type].down && down.cols >= tuned[down.type].cols; }

static bool has_blocks(view w) { return quant_get(w.type)->block_len > 1; }

/* Products in whole numbers: not where float activations are wanted or weights are floats. gate and up share
 * one set of codes and one kernel. */
static bool up_by_codes(const cuda_backend *b, const expert_ffn_args *a)
{
    return !b->o.exact && a->gate.type == a->up.type && has_blocks(a->gate);
}
static bool down_by_codes(const cuda_backend *b, const expert_ffn_args *a) { return !b->o.exact && has_blocks(a->down); }

static bool by_prefill(const cuda_backend *b, const expert_ffn_args *a)
{
    return a->x.rows > EXPERTS_MOST_ROWS && up_by_codes(b, a) && down_by_codes(b, a);
}

/* Rows of gate and up per block: those of IQ2_XXS fill large tables first, so there are as many of them as
 * the card has room for at once, each with as many rows as that leaves. */
static int up_rows(const cuda_backend *b, int rows, int active, bool wide)
{
    if (!wide) return EXPERTS_UP_ROWS;
    const int slots = 2 * max_int(b->device->info.n_sm, 1), each = (int)(((int64_t)rows * active + slots - 1) / slots);
    return min_int((each + EXPERTS_WIDE_WARPS - 1) / EXPERTS_WIDE_WARPS * EXPERTS_WIDE_WARPS,
                   max_int(rows, EXPERTS_WIDE_WARPS));
}

static int up_kernel(const expert_ffn_args *a, bool by_codes, bool wide)
{
    if (!by_codes) return CUDA_experts_up_exact;
    if (wide) return CUDA_experts_up_wide_IQ2_XXS;
    return up_is_tuned(a->gate) ? tuned[a->gate.type].up : kernels[a->gate.type].up;
}

static int down_kernel(const expert_ffn_args *a, bool by_codes)
{
    if (!by_codes) return CUDA_experts_down_exact;
    return down_is_tuned(a->down) ? tuned[a->down.type].down : kernels[a->down.type].down;
}

/* An op: mid = weight * swiglu(gate x, up x). */
static ds4_status gate_up(queue *dev, const expert_ffn_args *a, bool grouped)
{
    cuda_backend *b = cuda_of(dev);
    const bool by_codes = up_by_codes(b, a), wide = by_codes && a->gate.type == QUANT_IQ2_XXS;
    experts_up_args k = { .gate = cuda_experts(a->gate), .up = cuda_experts(a->up), .x = cuda_rows(a->x),
                          .weights = cuda_rows(a->weights), .mid = cuda_rows(a->mid),
                          .groups = groups_of(b, a->n_experts, a->ids), .limit = a->limit };
    const int active = min_int(k.groups.n_pairs, a->n_experts);
    k.rows_each = up_rows(b, k.gate.rows, active, wide);
    const cuda_dim grid = cuda_grid((k.gate.rows + k.rows_each - 1) / k.rows_each, active, 1);
    ds4_status st = DS4_OK;
    cuda_op(b);
    cuda_reads(b, a->ids);
    cuda_reads(b, a->weights);
    cuda_writes(b, a->mid);
    uses_groups(b, !grouped);
    if (by_codes) st = cuda_codes_of(dev, a->x, a->gate.type, &k.codes);
    else cuda_reads(b, a->x);
    if (!st && !grouped) st = launch_groups(dev, a->n_experts, a->ids, cuda_residency_uses(b, a->gate));
    if (!st)
        st = cuda_launch(dev, up_kernel(a, by_codes, wide), grid, (wide ? EXPERTS_WIDE_WARPS : EXPERTS_WARPS) * 32u, 0,
                         &k, sizeof k);
    return cuda_done(dev, st);
}

/* An op: y = the sum of down mid over a row's experts, + add where it is there. */
static ds4_status down(queue *dev, const expert_ffn_args *a, view add, view y)
{
    cuda_backend *b = cuda_of(dev);
    const bool by_codes = down_by_codes(b, a);
    experts_down_args k = { .down = cuda_experts(a->down), .mid = cuda_rows(a->mid), .ids = cuda_rows(a->ids),
                            .y = cuda_rows(y), .add = cuda_rows(add) };
    const int each = by_codes && down_is_tuned(a->down) ? EXPERTS_TUNED_DOWN_ROWS : EXPERTS_DOWN_ROWS;
    const cuda_dim grid = cuda_grid(y.rows, (k.down.rows + each - 1) / each, 1);
    ds4_status st = DS4_OK;
    cuda_op(b);
    cuda_reads(b, a->ids);
    cuda_reads(b, add);
    cuda_writes(b, y);
    if (by_codes) st = cuda_codes_of(dev, view_rows(a->mid, 0, a->ids.rows * a->ids.cols), a->down.type, &k.codes);
    else cuda_reads(b, a->mid);
    if (!st) st = cuda_launch(dev, down_kernel(a, by_codes), grid, EXPERTS_WARPS * 32, 0, &k, sizeof k);
    return cuda_done(dev, st);
}

static ds4_status few_rows(queue *dev, const expert_ffn_args *a, bool grouped, view add, view y)
{
    const ds4_status st = gate_up(dev, a, grouped);
    return st ? st : down(dev, a, add, y);
}

static ds4_status many_rows(queue *dev, const expert_ffn_args *a)
{
    cuda_op(cuda_of(dev));
    return cuda_done(dev, cuda_prefill_experts(dev, a));
}

static ds4_status expert_ffn(queue *dev, const expert_ffn_args *a)
{
    const ds4_status st = in_limits(dev, a->n_experts, a->ids);
    if (st || a->x.rows == 0) return st;
    return by_prefill(cuda_of(dev), a) ? many_rows(dev, a) : few_rows(dev, a, false, (view){ 0 }, a->y);
}

/* The shared expert depends on x alone: it may run beside the router and the routed experts, whose last
 * launch adds it. */
static ds4_status moe_block(queue *dev, const moe_block_args *a)
{
    const bool many = by_prefill(cuda_of(dev), &a->experts);
    ds4_status st = dev->ops->matmul(dev, &(matmul_args){ .w = a->gate_inp, .x = a->x, .y = a->router.logits,
                                                          .layer = a->layer, .name = "ffn_gate_inp" });
    if (!st) st = route(dev, &a->router, !many, cuda_residency_uses(cuda_of(dev), a->experts.gate));
    if (!st) st = dev->ops->shared_ffn(dev, &a->shared);
    if (st || a->x.rows == 0) return st;
    if (!many) return few_rows(dev, &a->experts, true, a->shared.y, a->y);
    st = many_rows(dev, &a->experts);
    return st ? st : dev->ops->add(dev, &(add_args){ .a = a->experts.y, .b = a->shared.y, .y = a->y, .layer = a->layer });
}

void cuda_experts_ops(ops *o)
{
    o->router = router;
    o->expert_ffn = expert_ffn;
    o->moe_block = moe_block;
}
