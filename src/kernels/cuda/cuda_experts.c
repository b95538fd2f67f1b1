/* cuda_experts: launches of the router and of the routed experts. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

/* ---- scratch ------------------------------------------------------------------------------- */

static uint64_t take(uint64_t *used, uint64_t n, uint64_t size)
{
    const uint64_t at = *used;
    *used += (n * size + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
    return at;
}

/* What a group's pointers are, from 0 on; *bytes of all. */
static gpu_groups lay_out(const backend_limits *l, uint64_t *bytes)
{
    gpu_groups g = { 0 };
    const uint64_t E = (uint64_t)l->n_experts;
    *bytes = 0;
    g.first = take(bytes, E + 1, sizeof(int32_t));
    g.pair = take(bytes, (uint64_t)l->max_pairs, sizeof(int32_t));
    g.active = take(bytes, E, sizeof(int32_t));
    g.n_active = take(bytes, 1, sizeof(int32_t));
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
    return queue_fail(dev, DS4_EUNSUPPORTED, "%s: %lld rows of %d of %d experts; the backend was opened for %d pairs of %d experts, "
                      "at most %d a row", dev->backend->name, (long long)ids.rows, ids.cols, n_experts, l->max_pairs, l->n_experts,
                      EXPERTS_MOST_USED);
}

static ds4_status launch_groups(queue *dev, int n_experts, view ids)
{
    const group_pairs_args k = { cuda_rows(ids), groups_of(cuda_of(dev), n_experts, ids) };
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
    return launch_groups(dev, n_experts, ids);
}

/* ---- router --------------------------------------------------------------------------------- */

/* Few rows: one block routes them all and groups their pairs, so that the experts can begin. */
static bool groups_at_once(int64_t rows) { return rows <= ROUTER_ROWS; }

/* An op. grouped: also the groups, with as many launches as it takes. */
static ds4_status route(queue *dev, const router_args *a, bool grouped)
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
    if (!st) st = CUDA_LAUNCH(dev, router, cuda_grid((T + warps - 1) / warps, 1, 1), (unsigned)(warps * 32),
                              (unsigned)(warps * E) * (unsigned)sizeof(uint64_t), k);
    if (!st && grouped && !at_once) st = launch_groups(dev, E, a->ids);
    return cuda_done(dev, st);
}

static ds4_status router(queue *dev, const router_args *a) { return route(dev, a, false); }

void cuda_experts_ops(ops *o) { o->router = router; }
