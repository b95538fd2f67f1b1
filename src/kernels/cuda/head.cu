/* head: what a sampler needs of the logits. */
#include "kernels/cuda/select.cuh"

#include "kernels/cuda/args_head.h"

/* One term of the sum that makes probabilities of logits. */
DEVICE float share_of(float logit, float top)
{
    return logit != logit ? 0.0f : logit == top ? 1.0f : expf(logit - top);
}

/* The k best of a slice, in order of their ids, its largest logit and its sum. */
KERNEL_RESIDENT(top_logits_slice, top_logits_kernel_args, 1024, 1)
{
    SHARED(select_room, room, 1);
    SHARED(uint32_t, key, TOP_LOGITS_SLICE);
    SHARED(float, sums, WARP);
    const int row = (int)blockIdx.y, first = (int)blockIdx.x * TOP_LOGITS_SLICE;
    const int n = min(a.logits.cols - first, (int)TOP_LOGITS_SLICE);
    const float *logit = gpu_at<const float>(a.logits.at) + row * a.logits.stride + first;
    const int64_t to = ((int64_t)row * a.slices + blockIdx.x) * a.k;
    uint32_t *best_key = gpu_at<uint32_t>(a.key) + to;
    int32_t *best_id = gpu_at<int32_t>(a.id) + to;
    launch_wait();

    float top = -INFINITY;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        const float v = logit[i];
        key[i] = select_key(v);
        if (v > top) top = v;
    }
    top = block_max(top, sums);
    launch_next();
    float sum = 0.0f;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) sum += share_of(logit[i], top);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) gpu_at<float2>(a.part)[row * a.slices + (int)blockIdx.x] = make_float2(top, sum);
    __syncthreads();

    select_best(key, n, a.k, room, [&](int at, int i) {
        best_key[at] = key[i];
        best_id[at] = first + i;
    });
}

/* The k best of all slices in descending order, and the row's largest logit and sum. */
KERNEL_RESIDENT(top_logits_merge, top_logits_kernel_args, 1024, 1)
{
    SHARED(select_room, room, 1);
    SHARED(uint32_t, best_key, TOP_LOGITS_MOST);
    SHARED(int32_t, best_id, TOP_LOGITS_MOST);
    SHARED(float, sums, WARP);
    const int row = (int)blockIdx.x;
    const float *logit = gpu_at<const float>(a.logits.at) + row * a.logits.stride;
    const uint32_t *key = gpu_at<const uint32_t>(a.key) + (int64_t)row * a.slices * a.k;
    const int32_t *id = gpu_at<const int32_t>(a.id) + (int64_t)row * a.slices * a.k;
    const float2 *part = gpu_at<const float2>(a.part) + row * a.slices;
    int32_t *out_id = gpu_at<int32_t>(a.ids.at) + row * a.ids.stride;
    float *out_value = gpu_at<float>(a.values.at) + row * a.values.stride;
    float *norm = gpu_at<float>(a.norm.at) + row * a.norm.stride;
    launch_wait();
    launch_next();

    float top = -INFINITY, sum = 0.0f;
    for (int s = (int)threadIdx.x; s < a.slices; s += (int)blockDim.x) top = fmaxf(top, part[s].x);
    top = block_max(top, sums);
    for (int s = (int)threadIdx.x; s < a.slices; s += (int)blockDim.x) sum += part[s].y * share_of(part[s].x, top);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        norm[0] = top;
        norm[1] = sum;
    }

    const int candidates = select_candidates(a.logits.cols, a.k, TOP_LOGITS_SLICE);
    const int n = select_best(key, candidates, a.k, room, [&](int at, int i) {
        best_key[at] = key[i];
        best_id[at] = id[i];
    });
    __syncthreads();
    /* They are in the order of ids: a place is the number of those that come before. */
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        int at = 0;
        for (int j = 0; j < n; j++) at += best_key[j] > best_key[i] || (best_key[j] == best_key[i] && j < i);
        out_id[at] = best_id[i];
        out_value[at] = logit[best_id[i]];
    }
    for (int i = n + (int)threadIdx.x; i < a.k; i += (int)blockDim.x) {
        out_id[i] = -1;
        out_value[i] = -INFINITY;
    }
}
