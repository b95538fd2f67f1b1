/* cuda_attention: launches of attend. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

static uint64_t split_heads(const backend_limits *l)
{
    return (uint64_t)ATTEND_SPLIT_ROWS * (uint64_t)max_int(l->n_heads, 1);
}

static uint64_t norm_bytes(const backend_limits *l) { return split_heads(l) * 2 * sizeof(float); }

uint64_t cuda_attention_scratch(const backend_limits *l)
{
    return split_heads(l) * (uint64_t)l->max_head_width * sizeof(float) + norm_bytes(l);
}

/* How many blocks share a row. A few rows are always cut alike, whatever their number, so that a row's sums
 * are those that it has alone; many fill the GPU as they are. */
static int splits_of(int rows)
{
    return rows <= ATTEND_SHORT_ROWS ? ATTEND_SPLITS : rows <= 32 ? 4 : rows <= 64 ? 2 : 1;
}

/* In shared memory: a tile, and q. */
static unsigned plain_shared(int K)
{
    const int padded = (K + 3) / 4 * 4;
    return (unsigned)(ATTEND_TILE * (padded + 4) + ATTEND_PLAIN_HEADS * padded) * 4u;
}

static ds4_status attend(queue *dev, const attend_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int n = a->rows->n, H = a->n_heads, K = a->q.cols / H, splits = splits_of(n);
    const kv_row row = a->rows->segment[0].kv->layer[a->layer].row;
    const bool units = row.kind == KV_ROW_FP8 && K == ATTEND_UNIT_WIDTH && row.n_round == ATTEND_UNIT_ROUND &&
                       b->device->info.shared_bytes >= ATTEND_UNIT_SHARED;
    if (K > ATTEND_PLAIN_WIDTH || row.kind == KV_ROW_FP4)
        return queue_fail(dev, DS4_EUNSUPPORTED, "heads of %d numbers; the CUDA backend has room for %d", K,
                          ATTEND_PLAIN_WIDTH);

    attend_kernel_args k = {
        .q = cuda_rows(a->q), .heads = cuda_rows(a->heads), .selected = cuda_rows(a->selected),
        .sinks = cuda_at(a->sinks),
        .norm = b->scratch[CUDA_FAMILY_ATTENTION],
        .mixed = b->scratch[CUDA_FAMILY_ATTENTION] + norm_bytes(&b->o.limits),
        .row = cuda_kv_row(row), .n_heads = H, .width = K, .n_swa = a->n_swa, .ratio = a->ratio, .splits = splits,
        .scale = a->scale };
    cuda_op(b);
    ds4_status st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    cuda_reads(b, a->q);
    cuda_reads(b, a->sinks);
    cuda_reads(b, a->selected);
    cuda_reads_memory(b, a->layer, a->ratio > 0 ? CUDA_RING | CUDA_POOL : CUDA_RING);
    cuda_writes(b, a->heads);
    if (splits > 1) cuda_writes_at(b, k.norm, cuda_attention_scratch(&b->o.limits));

    const int heads = units ? ATTEND_UNIT_HEADS : ATTEND_PLAIN_HEADS;
    const cuda_dim grid = cuda_grid((H + heads - 1) / heads, splits, n);
    if (!st && units) st = CUDA_LAUNCH(dev, attend_units, grid, 256, ATTEND_UNIT_SHARED, k);
    else if (!st && K <= 128) st = CUDA_LAUNCH(dev, attend_narrow, grid, 256, plain_shared(K), k);
    else if (!st) st = CUDA_LAUNCH(dev, attend_wide, grid, 256, plain_shared(K), k);
    const int parts = K > 256 ? 2 : 1;          /* of a head: one row is joined by more than half of the card */
    if (!st && splits > 1) st = CUDA_LAUNCH(dev, attend_join, cuda_grid(H, n, parts), K > 128 ? 256 : 128, 0, k);
    return cuda_done(dev, st);
}

void cuda_attention_ops(ops *o) { o->attend = attend; }
