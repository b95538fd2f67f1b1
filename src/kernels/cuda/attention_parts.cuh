/* attention_parts: which rows a query sees, and how its parts become one. */
#ifndef KERNELS_CUDA_ATTENTION_PARTS_CUH
#define KERNELS_CUDA_ATTENTION_PARTS_CUH

#include "kernels/cuda/args_attention.h"
#include "kernels/cuda/kv_parts.cuh"

/* The rows that a query sees in the order of its sums: the window from the oldest on, then
 * compressed rows. */
typedef struct {
    const uint8_t *ring, *pool;
    const int32_t *blocks, *selected;
    int ring_rows, block_rows, bytes;
    int start;                  /* ring row of the oldest */
    int n_window, n;
} seen_rows;

/* What row t sees, to shared memory. A whole block calls it; ends with a barrier. room: 32 floats. */
DEVICE void rows_seen(seen_rows *seen, const attend_kernel_args &a, int t, float *room)
{
    const int pos = position_of(a.batch, t), oldest = max(0, pos - a.n_swa + 1);
    const int32_t *selected = a.selected.at ? gpu_at<const int32_t>(a.selected.at) + t * a.selected.stride : nullptr;
    int compressed = a.ratio > 0 ? (pos + 1) / a.ratio : 0;
    if (selected) {             /* the first -1 ends the list */
        int end = a.selected.cols;
        for (int i = (int)threadIdx.x; i < a.selected.cols; i += (int)blockDim.x)
            if (selected[i] < 0) end = min(end, i);
        compressed = (int)-block_max(-(float)end, room);
    }
    if (threadIdx.x == 0) {
        const int s = segment_of(a.batch, t);
        const gpu_kv_layer &l = layer_at(a.batch, s);
        seen->ring = gpu_at<const uint8_t>(l.ring);
        seen->pool = gpu_at<const uint8_t>(l.pool);
        seen->blocks = block_table(segment_at(a.batch, s), a.ratio);
        seen->selected = selected;
        seen->ring_rows = l.ring_rows;
        seen->block_rows = l.block_rows;
        seen->bytes = a.row.bytes;
        seen->start = oldest % l.ring_rows;
        seen->n_window = pos - oldest + 1;
        seen->n = seen->n_window + compressed;
    }
    __syncthreads();
}

DEVICE const uint8_t *row_seen(const seen_rows &s, int i)
{
    if (i < s.n_window) {
        const int row = s.start + i;
        return s.ring + (int64_t)(row < s.ring_rows ? row : row - s.ring_rows) * s.bytes;
    }
    const int r = i - s.n_window;
    return s.pool + pool_row(s.blocks, s.block_rows, s.selected ? s.selected[r] : r) * s.bytes;
}

/* Rows first..end-1 of a split: whole tiles, and no fewer than two, so that few parts are written. */
DEVICE void split_range(const attend_kernel_args &a, int n, int split, int *first, int *end)
{
    const int tiles = (n + ATTEND_TILE - 1) / ATTEND_TILE;
    const int each = a.splits == 1 ? tiles : max(2, (tiles + a.splits - 1) / a.splits);
    *first = min(n, split * each * ATTEND_TILE);
    *end = min(n, *first + each * ATTEND_TILE);
}

/* A running softmax takes a tile's logit of each lane; returns the lane's weight, and in *keep what
 * everything summed before must be multiplied by. */
DEVICE float take_logits(float logit, bool valid, float *top, float *sum, float *keep)
{
    const float most = fmaxf(*top, warp_max(valid ? logit : -INFINITY)), base = most == -INFINITY ? 0.0f : most;
    const float weight = valid ? expf(logit - base) : 0.0f;
    *keep = *top == most ? 1.0f : expf(*top - base);
    *sum = *sum * *keep + warp_sum(weight);
    *top = most;
    return weight;
}

/* The sink is a logit without a row. What the mixed rows must be multiplied by. */
DEVICE float closing(float top, float sum, float sink)
{
    const float most = fmaxf(top, sink), keep = expf(top - most);
    return keep / (sum * keep + expf(sink - most));
}

DEVICE int64_t part_at(const attend_kernel_args &a, int t, int split, int h)
{
    return ((int64_t)t * a.splits + split) * a.n_heads + h;
}

#endif
