/* experts: which experts a row goes to, and with what weight [4.14]. */
#include "kernels/cuda/experts_route.cuh"

/* Larger for the better expert: by score, NaN the smallest, ties to the lower index. Never 0. */
DEVICE uint64_t choice_key(float score, int expert)
{
    uint32_t u = as_bits(score);
    if (!(score == score)) u = 0xff800000u;         /* -infinity */
    if (u == 0x80000000u) u = 0;
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (0xffffffffu - (uint32_t)expert);
}

/* The k best of n keys, which are used up, in no order of use. */
DEVICE void choose_experts(uint64_t *key, int n, int k, int32_t *chosen)
{
    for (int i = 0; i < k; i++) {
        uint64_t best = 0;
        for (int e = lane_id(); e < n; e += WARP) best = key[e] > best ? key[e] : best;
        for (int m = WARP / 2; m > 0; m /= 2) {
            const uint64_t other = __shfl_xor_sync(FULL_MASK, best, m);
            best = other > best ? other : best;
        }
        const int e = (int)(0xffffffffu - (uint32_t)best);
        if (e % WARP == lane_id()) {
            key[e] = 0;
            chosen[i] = e;
        }
    }
    __syncwarp();
}

/* One warp: ids ascending, weights in the order of ids. */
DEVICE void route_row(const router_kernel_args &a, int t, uint64_t *key, int32_t *chosen, float *score)
{
    const int lane = lane_id(), n = a.logits.cols, k = a.ids.cols;
    const float *logits = gpu_at<const float>(a.logits.at) + t * a.logits.stride;
    const float *bias = gpu_at<const float>(a.bias);
    int32_t *ids = gpu_at<int32_t>(a.ids.at) + t * a.ids.stride;
    float *weights = gpu_at<float>(a.weights.at) + t * a.weights.stride;

    if (a.hash.at) {
        const int32_t *row = gpu_at<const int32_t>(a.hash.at) + gpu_at<const int32_t>(a.token)[t] * a.hash.stride;
        for (int i = lane; i < k; i += WARP) chosen[i] = row[i];
        __syncwarp();
    } else {
        for (int e = lane; e < n; e += WARP)
            key[e] = choice_key(formula_sqrt_softplus(logits[e]) + (a.bias ? bias[e] : 0.0f), e);
        choose_experts(key, n, k, chosen);
    }
    for (int i = lane; i < k; i += WARP) {
        int place = 0;
        for (int j = 0; j < k; j++) place += chosen[j] < chosen[i] || (chosen[j] == chosen[i] && j < i);
        ids[place] = chosen[i];
        score[place] = formula_sqrt_softplus(logits[chosen[i]]);
    }
    __syncwarp();
    float sum = 0.0f;
    for (int i = 0; i < k; i++) sum += score[i];
    sum = fmaxf(sum, 6.103515625e-05f);             /* 2^-14 [4.14] */
    for (int i = lane; i < k; i += WARP) weights[i] = score[i] / sum * a.scale;
}

KERNEL(router, router_kernel_args, ROUTER_ROWS * WARP)
{
    SHARED_DYNAMIC(uint64_t, keys);
    SHARED(int32_t, chosen, ROUTER_ROWS * EXPERTS_MOST_USED);
    SHARED(float, score, ROUTER_ROWS * EXPERTS_MOST_USED);
    const int warps = (int)blockDim.x / WARP, w = warp_id(), t = (int)blockIdx.x * warps + w;
    launch_wait();
    launch_next();

    if (t < a.logits.rows)
        route_row(a, t, keys + w * a.logits.cols, chosen + w * EXPERTS_MOST_USED, score + w * EXPERTS_MOST_USED);
    if (!a.groups.first) return;
    __threadfence_block();
    __syncthreads();
    group_pairs_of(a.ids, a.groups, reinterpret_cast<int32_t *>(keys));
}

KERNEL(group_pairs, group_pairs_args, 1024)
{
    SHARED_DYNAMIC(int32_t, count);
    launch_wait();
    launch_next();
    group_pairs_of(a.ids, a.groups, count);
}
