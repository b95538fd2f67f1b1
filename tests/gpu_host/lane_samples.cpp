#include "kernels/cuda/dialect.cuh"

#include "lane_samples.h"

/* Sums and maxima of in[] over the block: int, float, double, warp's; by every thread. */
KERNEL(sample_sums, sample_args, 1024)
{
    SHARED(int, whole, 32);
    SHARED(float, room, 32);
    SHARED(double, wide, 32);
    const int t = (int)threadIdx.x, n = (int)blockDim.x;
    const float x = gpu_at<const float>(a.in)[t];
    float *out = gpu_at<float>(a.out) + (int)blockIdx.x * 5 * n;
    launch_wait();
    out[t] = (float)block_sum((int)x, whole);
    out[n + t] = block_sum(x, room);
    out[2 * n + t] = (float)block_sum((double)x, wide);
    out[3 * n + t] = block_max(x, room);
    out[4 * n + t] = warp_sum(x);
}

/* out = in backward, through shared memory. */
KERNEL(sample_turn, sample_args, 1024)
{
    SHARED_DYNAMIC(float, x);
    const int t = (int)threadIdx.x, n = (int)blockDim.x;
    x[t] = gpu_at<const float>(a.in)[t];
    if (a.mode == TURN_WITH_BARRIER) __syncthreads();
    if (a.mode == TURN_WITH_SYNCWARP) __syncwarp();
    if (a.mode == TURN_WITH_SHUFFLE) __shfl_sync(FULL_MASK, t, 0);
    gpu_at<float>(a.out)[t] = x[n - 1 - t];
}

/* Every second warp has nothing to do; out: the sum of in over the thread's warp. */
KERNEL(sample_idle_warps, sample_args, 128)
{
    const int t = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (warp_id() % 2 == a.mode) return;
    gpu_at<float>(a.out)[t] = warp_sum(gpu_at<const float>(a.in)[t]);
}

/* out: when the thread came by, before and behind a warp operation; the counter of both lies behind them. */
KERNEL(sample_order, sample_args, 128)
{
    int *out = gpu_at<int>(a.out);
    const int t = (int)threadIdx.x, n = (int)blockDim.x;
    out[t] = atomicAdd(&out[2 * n], 1);
    __shfl_sync(FULL_MASK, t, 0);
    out[n + t] = atomicAdd(&out[2 * n], 1);
}

KERNEL(sample_shuffles, sample_args, 32)
{
    int *out = gpu_at<int>(a.out);
    const int l = lane_id();
    out[l] = __shfl_sync(FULL_MASK, l, 5);
    out[32 + l] = __shfl_sync(FULL_MASK, l, 5, 8);
    out[64 + l] = __shfl_xor_sync(FULL_MASK, l, 9);
    out[96 + l] = __shfl_up_sync(FULL_MASK, l, 3);
    out[128 + l] = __shfl_up_sync(FULL_MASK, l, 3, 8);
    out[160 + l] = __shfl_down_sync(FULL_MASK, l, 3);
    out[192 + l] = __shfl_down_sync(FULL_MASK, l, 3, 8);
}

KERNEL(sample_votes, sample_args, 32)
{
    int *out = gpu_at<int>(a.out);
    const int l = lane_id();
    out[l] = (int)__ballot_sync(FULL_MASK, l % 3 == 0);
    out[32 + l] = __any_sync(FULL_MASK, l == 7) + 2 * __any_sync(FULL_MASK, 0);
    out[64 + l] = __all_sync(FULL_MASK, 1) + 2 * __all_sync(FULL_MASK, l != 7);
    atomicAdd(&out[96], l);
}

KERNEL(sample_integers, sample_args, 32)
{
    unsigned *out = gpu_at<unsigned>(a.out);
    if (lane_id() != 0) return;
    out[0] = (unsigned)__dp4a((int)0x80017fff, (int)0x02ff02ff, 10);   /* -128*2 + 1*-1 + 127*2 + -1*-1 + 10 */
    out[1] = __byte_perm(0x33221100u, 0x77665544u, 0x7250u);
    out[2] = __byte_perm(0x80000000u, 0, 0xbbbbu);
    out[3] = (unsigned)__popc(0xf0f0u) | (unsigned)__ffs(8) << 16;
}

KERNEL(sample_numbers, sample_args, 32)
{
    unsigned *out = gpu_at<unsigned>(a.out);
    const float *in = gpu_at<const float>(a.in);
    const int l = lane_id();
    out[l] = float_to_half_bits(in[l]);
    out[32 + l] = as_bits(half_bits_to_float(float_to_half_bits(in[l])));
    out[64 + l] = float_to_tf32(in[l]);
}

/* Two groups of copies; mode: how many may be under way when they are read. */
KERNEL(sample_copies, sample_args, 32)
{
    SHARED(uint4, x, 64);
    const uint4 *in = gpu_at<const uint4>(a.in);
    uint4 *out = gpu_at<uint4>(a.out);
    const int l = lane_id();
    async_copy16(&x[l], in + l);
    async_commit();
    async_copy16(&x[32 + l], in + 32 + l);
    async_commit();
    if (a.mode == 0) async_wait<0>();
    else if (a.mode == 1) async_wait<1>();
    __syncthreads();
    out[l] = x[l];
    out[32 + l] = x[32 + l];
}

KERNEL(sample_matrices, sample_args, 32)
{
    SHARED(uint4, rows, 32);
    uint32_t *out = gpu_at<uint32_t>(a.out);
    const int l = lane_id();
    uint32_t d[4];
    rows[l] = gpu_at<const uint4>(a.in)[l];
    __syncthreads();
    if (a.mode) load_matrices_turned(d, &rows[l]);
    else load_matrices(d, &rows[l]);
    for (int m = 0; m < 4; m++) out[4 * l + m] = d[m];
}

/* d = 2 a b by fragments that are gathered as dialect.cuh tells their layouts. in: a [16][depth] then
 * b [depth][8] as raw numbers of the kind's width, in 32-bit words each. */
static uint32_t packed(const uint32_t *x, int step, int n, int bits)
{
    uint32_t w = 0;
    for (int k = 0; k < n; k++) w |= (bits == 32 ? x[k * step] : x[k * step] & ((1u << bits) - 1)) << (k * bits % 32);
    return w;
}

KERNEL(sample_mma, sample_args, 32)
{
    const int depth = a.mode == MMA_S8_K32 ? 32 : a.mode == MMA_TF32 ? 8 : 16;
    const int each = a.mode <= MMA_S8_K16 ? 4 : a.mode == MMA_TF32 ? 1 : 2;     /* numbers of a register */
    const int g = lane_id() / 4, i = lane_id() % 4, bits = 32 / each;
    const uint32_t *x = gpu_at<const uint32_t>(a.in), *y = x + 16 * depth;
    uint32_t fa[4] = {}, fb[2] = {};
    int32_t di[4] = { 1, 2, 3, 4 };
    float df[4] = { 1, 2, 3, 4 };
    for (int r = 0; r < depth / (2 * each); r++) {      /* registers of a: rows g and g+8, columns in steps of 4 registers */
        const int col = each * i + 4 * each * (r / 2);
        fa[r] = packed(x + (g + 8 * (r % 2)) * depth + col, 1, each, bits);
    }
    for (int r = 0; r < depth / (4 * each); r++) fb[r] = packed(y + (each * i + 4 * each * r) * 8 + g, 8, each, bits);
    const uint32_t zeros[4] = {};
    for (int turn = 0; turn < 3; turn++) {          /* a b, nothing, a b: neighbours are not to be confused */
        const uint32_t *left = turn == 1 ? zeros : fa;
        if (a.mode == MMA_S8_K32) mma_s8_k32(di, left, fb);
        if (a.mode == MMA_S8_K16) mma_s8_k16(di, left, fb);
        if (a.mode == MMA_F16) mma_f16_k16(df, left, fb);
        if (a.mode == MMA_BF16) mma_bf16_k16(df, left, fb);
        if (a.mode == MMA_TF32) mma_tf32_k8(df, left, fb);
    }
    float *out = gpu_at<float>(a.out);
    for (int k = 0; k < 4; k++) out[(g + 8 * (k / 2)) * 8 + 2 * i + k % 2] = (a.mode <= MMA_S8_K16 ? (float)di[k] : df[k]) - (float)(k + 1);
}

KERNEL(sample_wrong, sample_args, 64)
{
    SHARED(uint4, x, 4);
    const int t = (int)threadIdx.x;
    const uint8_t *in = gpu_at<const uint8_t>(a.in);
    if (a.mode == WRONG_HALF_A_WARP && t % 32 < 16) warp_sum(t);
    if (a.mode == WRONG_OPERATION) {
        if (t % 2) __ballot_sync(FULL_MASK, 1);
        else __shfl_sync(FULL_MASK, t, 0);
    }
    if (a.mode == WRONG_EARLY_END && t == 5) return;
    if (a.mode == WRONG_WARP_ENDS && t >= 32) return;
    if (a.mode == WRONG_ALIGNMENT) load_once(in + 4);
    if (a.mode == WRONG_ASYNC_ALIGNMENT) async_copy16(x, in + 8);
    if (a.mode == WRONG_HOST_ADDRESS) gpu_at<int>(4096);
    if (a.mode == WRONG_STATIC_SIZE) {
        SHARED(char, large, 50000);
        large[t] = 0;
    }
    if (a.mode == WRONG_NO_DYNAMIC) {
        SHARED_DYNAMIC(float, dynamic);
        dynamic[t] = 0;
    }
    __syncthreads();
}

extern "C" {
#define ENTRY(name) const lane_kernel_entry name##_entry = { #name, name, sizeof(sample_args) };
LANE_SAMPLES(ENTRY)
}
