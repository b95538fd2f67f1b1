/* indexer_top: the rows with the largest scores, ascending. */
#include "kernels/cuda/select.cuh"

#include "kernels/cuda/args_indexer.h"

DEVICE int visible_of(const top_k_kernel_args &a, int row) { return (gpu_at<const int32_t>(a.pos)[row] + 1) / a.ratio; }

DEVICE void fill_up(const top_k_kernel_args &a, int row, int n)
{
    int32_t *out = gpu_at<int32_t>(a.selected.at) + row * a.selected.stride;
    for (int i = n + (int)threadIdx.x; i < a.selected.cols; i += (int)blockDim.x) out[i] = -1;
}

/* The k best of a slice; where it is the only one, the row's. */
KERNEL_RESIDENT(top_k_slice, top_k_kernel_args, 1024, 1)
{
    SHARED(select_room, room, 1);
    SHARED(uint32_t, key, TOP_SLICE);
    const int row = (int)blockIdx.y, first = (int)blockIdx.x * TOP_SLICE, k = a.selected.cols;
    const float *score = gpu_at<const float>(a.scores.at) + row * a.scores.stride + first;
    const int64_t to = ((int64_t)row * a.slices + blockIdx.x) * k;
    uint32_t *best_key = gpu_at<uint32_t>(a.key) + to;
    int32_t *best_row = a.slices > 1 ? gpu_at<int32_t>(a.row) + to
                                     : gpu_at<int32_t>(a.selected.at) + row * a.selected.stride;
    launch_wait();

    const int n = max(0, min(visible_of(a, row) - first, (int)TOP_SLICE));
    if (n == 0 && a.slices > 1) return;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) key[i] = select_key(score[i]);
    launch_next();
    __syncthreads();
    const int kept = select_best(key, n, k, room, [&](int at, int i) {
        if (a.slices > 1) best_key[at] = key[i];
        best_row[at] = first + i;
    });
    if (a.slices == 1) fill_up(a, row, kept);
}

KERNEL_RESIDENT(top_k_merge, top_k_kernel_args, 1024, 1)
{
    SHARED(select_room, room, 1);
    const int row = (int)blockIdx.x, k = a.selected.cols;
    const uint32_t *key = gpu_at<const uint32_t>(a.key) + (int64_t)row * a.slices * k;
    const int32_t *from = gpu_at<const int32_t>(a.row) + (int64_t)row * a.slices * k;
    int32_t *out = gpu_at<int32_t>(a.selected.at) + row * a.selected.stride;
    launch_wait();
    launch_next();
    const int n = select_candidates(visible_of(a, row), k, TOP_SLICE);
    fill_up(a, row, select_best(key, n, k, room, [&](int at, int i) { out[at] = from[i]; }));
}
