/* cuda_head: launches of what comes behind the last layer. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

/* Candidates of this many rows fit at the usual k; fewer rows at once where k is larger. */
enum { TOP_ROWS = 64, TOP_K = 256 };

static int slices_of(int n_vocab) { return (n_vocab + TOP_LOGITS_SLICE - 1) / TOP_LOGITS_SLICE; }

/* Bytes of candidates and of parts of one row. */
static uint64_t candidate_bytes(int slices, int k) { return (uint64_t)slices * (uint64_t)k * sizeof(uint32_t); }
static uint64_t row_bytes(int slices, int k)
{
    return 2 * candidate_bytes(slices, k) + (uint64_t)slices * 2 * sizeof(float);
}

uint64_t cuda_head_scratch(const backend_limits *l)
{
    return TOP_ROWS * row_bytes(max_int(slices_of(l->n_vocab), 1), TOP_K);
}

static ds4_status top_logits(queue *dev, const top_logits_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int k = a->ids.cols, slices = slices_of(a->logits.cols);
    const int64_t at_once = (int64_t)(cuda_head_scratch(&b->o.limits) / row_bytes(slices, k < 1 ? 1 : k));
    if (k < 1 || k > TOP_LOGITS_MOST || at_once < 1)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: the %d largest of %d logits; there is room for 1 to %d of %d",
                          b->base.name, k, a->logits.cols,
                          TOP_LOGITS_MOST, b->o.limits.n_vocab);
    cuda_op(b);
    cuda_reads(b, a->logits);
    cuda_writes(b, a->ids);
    cuda_writes(b, a->values);
    cuda_writes(b, a->norm);
    cuda_writes_at(b, b->scratch[CUDA_FAMILY_HEAD], cuda_head_scratch(&b->o.limits));

    ds4_status st = DS4_OK;
    for (int64_t first = 0; first < a->logits.rows && !st; first += at_once) {
        const int64_t n = a->logits.rows - first < at_once ? a->logits.rows - first : at_once;
        const gpu_ptr part = b->scratch[CUDA_FAMILY_HEAD];
        const gpu_ptr key = part + (uint64_t)n * (uint64_t)slices * 2 * sizeof(float);
        const top_logits_kernel_args args = {
            .logits = cuda_rows(view_rows(a->logits, first, n)), .ids = cuda_rows(view_rows(a->ids, first, n)),
            .values = cuda_rows(view_rows(a->values, first, n)), .norm = cuda_rows(view_rows(a->norm, first, n)),
            .key = key, .id = key + (uint64_t)n * candidate_bytes(slices, k), .part = part, .k = k, .slices = slices };
        st = CUDA_LAUNCH(dev, top_logits_slice, cuda_grid(slices, n, 1), 1024, 0, args);
        if (!st) st = CUDA_LAUNCH(dev, top_logits_merge, cuda_grid(n, 1, 1), 1024, 0, args);
    }
    return cuda_done(dev, st);
}

static ds4_status head(queue *dev, const head_args *a)
{
    const ds4_status st = cuda_hc_mix(dev, &a->mix, &a->norm, &a->output.w.type, 1);
    return st ? st : dev->ops->matmul(dev, &a->output);
}

void cuda_head_ops(ops *o)
{
    o->top_logits = top_logits;
    o->head = head;
}
