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

/* ---- scratch: results that are yet to be added up ------------------------------------------ */

/* Columns of y for which the experts of a row are kept apart, until they are added: 50 MB of a chunk of 4,096
 * rows of six experts, about the second-level cache of a large card. */
enum { PART_COLS = 512 };
/* Numbers of a product's splits: what 512 blocks make, as many as the largest card runs at a time. */
enum { SPLIT_NUMBERS = 512 * PREFILL_ROWS * PREFILL_TOKENS };

uint64_t cuda_prefill_scratch(const backend_limits *l)
{
    const uint64_t experts = (uint64_t)l->max_pairs * PART_COLS;
    return (experts > SPLIT_NUMBERS ? experts : SPLIT_NUMBERS) * sizeof(float);
}

static gpu_ptr scratch_of(cuda_backend *b)
{
    cuda_writes_at(b, b->scratch[CUDA_FAMILY_PREFILL], cuda_prefill_scratch(&b->o.limits));
    return b->scratch[CUDA_FAMILY_PREFILL];
}

/* Adds up `used` neighbouring rows of part for each of y. */
static ds4_status add_up(queue *dev, gpu_rows part, gpu_rows y, int used)
{
    const prefill_sum_args k = { .part = part, .y = y, .used = used };
    const cuda_dim grid = cuda_grid(tiles_of(y.cols, PREFILL_SUM_THREADS), y.rows, 1);
    return CUDA_LAUNCH(dev, prefill_sum, grid, PREFILL_SUM_THREADS, 0, k);
}

/* ---- one matrix --------------------------------------------------------------------------- */

/* A few rows of activations make too few blocks for the card, so that several work on parts of the columns,
 * 512 at least. */
static int splits_for(const cuda_backend *b, view w, int64_t tokens, int64_t tiles)
{
    const int64_t by_blocks = (int64_t)PREFILL_BLOCKS * b->device->info.n_sm / tiles;
    const int64_t by_room = SPLIT_NUMBERS / (tokens * w.rows), by_cols = w.cols / 512;
    const int64_t n = by_blocks < by_room ? by_blocks : by_room;
    return (int)(n < 1 || by_cols < 1 ? 1 : n < by_cols ? n : by_cols);
}

ds4_status cuda_prefill_products(queue *dev, view w, view x, view y)
{
    cuda_backend *b = cuda_of(dev);
    const bool floats = quant_get(w.type)->dot_type == QUANT_F32;
    const int64_t tiles = tiles_of(x.rows, PREFILL_TOKENS) * tiles_of(w.rows, PREFILL_ROWS);
    if (tiles == 0) return DS4_OK;
    const int splits = splits_for(b, w, x.rows, tiles);
    const int split_cols = (int)tiles_of(w.cols, (int64_t)splits * 256) * 256;
    const int n = (int)tiles_of(w.cols, split_cols);
    assert(w.cols == x.cols && w.rows == y.cols && x.rows == y.rows);

    cuda_writes(b, y);
    gpu_rows to = cuda_rows(y);
    if (n > 1) to = (gpu_rows){ scratch_of(b), n * w.rows, (int32_t)x.rows, (int32_t)w.rows };
    const kernels_of_type kernels = kernels_of(w.type);
    const cuda_dim grid = cuda_grid(tiles_of(x.rows, PREFILL_TOKENS), tiles_of(w.rows, PREFILL_ROWS), n);
    ds4_status st = DS4_OK;
    if (floats) {
        const prefill_float_args k = { .w = cuda_weight(w), .x = cuda_rows(x), .y = to, .split_cols = split_cols,
                                       .split_step = (int32_t)w.rows };
        cuda_reads(b, x);
        st = cuda_launch(dev, kernels.products, grid, PREFILL_THREADS, 0, &k, sizeof k);
    } else {
        prefill_args k = { .w = cuda_weight(w), .y = to, .split_cols = split_cols, .split_step = (int32_t)w.rows };
        st = cuda_codes_of(dev, x, w.type, &k.x);
        if (!st) st = cuda_launch(dev, kernels.products, grid, PREFILL_THREADS, kernels.shared, &k, sizeof k);
    }
    if (st || n == 1) return st;
    return add_up(dev, (gpu_rows){ to.at, w.rows, (int32_t)x.rows * n, (int32_t)w.rows }, cuda_rows(y), n);
}

/* ---- experts ------------------------------------------------------------------------------ */

/* Columns c0.. of y, `cols` of them. */
static ds4_status down_part(queue *dev, const expert_ffn_args *a, prefill_down_args *k, int64_t n_tiles, int c0,
                            int cols)
{
    k->row0 = c0;
    k->part.stride = k->part.cols = cols;
    const cuda_dim grid = cuda_grid(n_tiles, tiles_of(cols, PREFILL_ROWS), 1);
    const kernels_of_type kernels = kernels_of(a->down.type);
    const ds4_status st = cuda_launch(dev, kernels.down, grid, PREFILL_THREADS, kernels.shared, k, sizeof *k);
    return st ? st : add_up(dev, k->part, cuda_rows(view_cols(a->y, c0, cols)), a->ids.cols);
}

ds4_status cuda_prefill_experts(queue *dev, const expert_ffn_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int64_t pairs = a->ids.rows * a->ids.cols, n_tiles = pairs / PREFILL_TOKENS + a->n_experts;
    assert(a->gate.type == a->up.type && pairs <= b->o.limits.max_pairs);

    cuda_reads(b, a->weights);
    cuda_writes(b, a->mid);
    cuda_writes(b, a->y);
    const gpu_ptr part = scratch_of(b);

    prefill_up_args up = { .gate = cuda_experts(a->gate), .up = cuda_experts(a->up), .weights = cuda_rows(a->weights),
                           .mid = cuda_rows(a->mid), .limit = a->limit };
    const cuda_dim up_grid = cuda_grid(n_tiles, tiles_of(up.gate.rows, PREFILL_UP_ROWS), 1);
    ds4_status st = cuda_group_pairs(dev, a->n_experts, a->ids, &up.groups);
    if (!st) st = cuda_codes_of(dev, a->x, a->gate.type, &up.x);
    const kernels_of_type kernels = kernels_of(a->gate.type);
    if (!st) st = cuda_launch(dev, kernels.up, up_grid, PREFILL_THREADS, kernels.shared, &up, sizeof up);

    prefill_down_args down = { .down = cuda_experts(a->down), .groups = up.groups,
                               .part = { .at = part, .rows = (int32_t)pairs } };
    if (!st) st = cuda_codes_of(dev, a->mid, a->down.type, &down.mid);
    for (int c0 = 0; c0 < a->y.cols && !st; c0 += PART_COLS)
        st = down_part(dev, a, &down, n_tiles, c0, min_int(PART_COLS, a->y.cols - c0));
    return st;
}
