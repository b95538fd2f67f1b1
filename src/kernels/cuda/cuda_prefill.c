/* cuda_prefill: products with many rows, and the routed experts of many rows. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

/* ---- which kernel ------------------------------------------------------------------------- */

typedef struct { int products, up, down; unsigned shared; } kernels_of_type;

#define KERNELS(name) CUDA_prefill_##name, CUDA_prefill_up_##name, CUDA_prefill_down_##name
static kernels_of_type kernels_of(quant_type type)
{
    switch (type) {
    case QUANT_F32:     return (kernels_of_type){ .products = CUDA_prefill_f32 };
    case QUANT_F16:     return (kernels_of_type){ .products = CUDA_prefill_f16 };
    case QUANT_BF16:    return (kernels_of_type){ .products = CUDA_prefill_bf16 };
    case QUANT_Q8_0:    return (kernels_of_type){ KERNELS(q8_0), 0 };
    case QUANT_Q2_K:    return (kernels_of_type){ KERNELS(q2_k), 0 };
    case QUANT_Q4_K:    return (kernels_of_type){ KERNELS(q4_k), 0 };
    case QUANT_IQ2_XXS: return (kernels_of_type){ KERNELS(iq2_xxs), 0 };
    default:            return (kernels_of_type){ KERNELS(general), PREFILL_GENERAL_BYTES };
    }
}

static int64_t tiles_of(int64_t n, int64_t each) { return (n + each - 1) / each; }

/* ---- one matrix --------------------------------------------------------------------------- */

ds4_status cuda_prefill_products(queue *dev, view w, view x, view y)
{
    const kernels_of_type kernels = kernels_of(w.type);
    const int64_t tokens = tiles_of(x.rows, PREFILL_TOKENS);
    assert(w.cols == x.cols && w.rows == y.cols && x.rows == y.rows);

    cuda_writes(cuda_of(dev), y);
    if (quant_get(w.type)->dot_type == QUANT_F32) {
        const prefill_float_args k = { cuda_weight(w), cuda_rows(x), cuda_rows(y) };
        const cuda_dim grid = cuda_grid(tokens, tiles_of(w.rows, PREFILL_FLOAT_ROWS), 1);
        cuda_reads(cuda_of(dev), x);
        return cuda_launch(dev, kernels.products, grid, PREFILL_FLOAT_THREADS, 0, &k, sizeof k);
    }
    prefill_args k = { .w = cuda_weight(w), .y = cuda_rows(y) };
    const ds4_status st = cuda_codes_of(dev, x, w.type, &k.x);
    const cuda_dim grid = cuda_grid(tokens, tiles_of(w.rows, PREFILL_ROWS), 1);
    return st ? st : cuda_launch(dev, kernels.products, grid, PREFILL_THREADS, kernels.shared, &k, sizeof k);
}

/* ---- experts ------------------------------------------------------------------------------ */

/* Columns of y that are added up at once: what the experts of a row give is kept apart until then, and
 * fits in the second-level cache of a large card in such parts. */
enum { PART_COLS = 512 };

uint64_t cuda_prefill_scratch(const backend_limits *l) { return (uint64_t)l->max_pairs * PART_COLS * sizeof(float); }

/* Columns c0.. of y, `cols` of them. */
static ds4_status down_part(queue *dev, const expert_ffn_args *a, prefill_down_args *k, int64_t n_tiles, int c0, int cols)
{
    k->row0 = c0;
    k->part.stride = k->part.cols = cols;
    const cuda_dim grid = cuda_grid(n_tiles, tiles_of(cols, PREFILL_ROWS), 1);
    const kernels_of_type kernels = kernels_of(a->down.type);
    const ds4_status st = cuda_launch(dev, kernels.down, grid, PREFILL_THREADS, kernels.shared, k, sizeof *k);
    if (st) return st;
    const prefill_sum_args sum = { .part = k->part, .y = cuda_rows(view_cols(a->y, c0, cols)), .used = a->ids.cols };
    return CUDA_LAUNCH(dev, prefill_sum, cuda_grid(tiles_of(cols, PREFILL_SUM_THREADS), a->y.rows, 1), PREFILL_SUM_THREADS, 0, sum);
}

ds4_status cuda_prefill_experts(queue *dev, const expert_ffn_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int64_t pairs = a->ids.rows * a->ids.cols, n_tiles = pairs / PREFILL_TOKENS + a->n_experts;
    assert(a->gate.type == a->up.type && pairs <= b->o.limits.max_pairs);

    cuda_reads(b, a->weights);
    cuda_writes(b, a->mid);
    cuda_writes(b, a->y);
    cuda_writes_at(b, b->scratch[CUDA_FAMILY_PREFILL], cuda_prefill_scratch(&b->o.limits));

    prefill_up_args up = { .gate = cuda_experts(a->gate), .up = cuda_experts(a->up), .weights = cuda_rows(a->weights),
                           .mid = cuda_rows(a->mid), .limit = a->limit };
    const cuda_dim up_grid = cuda_grid(n_tiles, tiles_of(up.gate.rows, PREFILL_UP_ROWS), 1);
    ds4_status st = cuda_group_pairs(dev, a->n_experts, a->ids, &up.groups);
    if (!st) st = cuda_codes_of(dev, a->x, a->gate.type, &up.x);
    const kernels_of_type kernels = kernels_of(a->gate.type);
    if (!st) st = cuda_launch(dev, kernels.up, up_grid, PREFILL_THREADS, kernels.shared, &up, sizeof up);

    prefill_down_args down = { .down = cuda_experts(a->down), .groups = up.groups,
                               .part = { .at = b->scratch[CUDA_FAMILY_PREFILL], .rows = (int32_t)pairs } };
    if (!st) st = cuda_codes_of(dev, a->mid, a->down.type, &down.mid);
    for (int c0 = 0; c0 < a->y.cols && !st; c0 += PART_COLS)
        st = down_part(dev, a, &down, n_tiles, c0, min_int(PART_COLS, a->y.cols - c0));
    return st;
}
