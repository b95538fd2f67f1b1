/* indexer_query: the indexer's queries as whole numbers (args_indexer.h). */
#include "kernels/cuda/kv_parts.cuh"

#include "kernels/cuda/args_indexer.h"

/* A lane holds number `lane` of group g of a head. The definition's rule: attn_kernels.h, index_fill. */
DEVICE void put_group(float x, gpu_ptr query, int tiles, int groups, int head, int g)
{
    const int lane = lane_id(), tile = head / INDEX_HEADS_TILE, in_tile = head % INDEX_HEADS_TILE;
    const float s = formula_fp4_scale(warp_max(fabsf(x))), v = x * (2.0f / s);
    uint32_t word = (uint32_t)(int8_t)(v > 12.0f ? 12.0f : v > -12.0f ? v : -12.0f) & 255u;
    word <<= 8 * (lane % 4);
    word |= __shfl_xor_sync(FULL_MASK, word, 1);
    word |= __shfl_xor_sync(FULL_MASK, word, 2);
    if (lane % 4 == 0) {                                    /* columns lane .. lane+3 */
        const int to_lane = in_tile * 4 + lane / 4 % 4, half = lane / 16;
        gpu_at<uint32_t>(query)[((tile * WARP + to_lane) * groups + g) * 2 + half] = word;
    }
    if (lane == 0)
        gpu_at<float2>(query, INDEX_CODES_BYTES(tiles, groups))[(tile * groups + g) * INDEX_HEADS_TILE + in_tile] =
            make_float2(0.25f * s, -INDEX_MAGIC * (0.25f * s));
}

/* Of rows that were rounded before. A warp a group; grid: groups of all heads, rows. */
KERNEL(index_query, index_query_kernel_args, 256)
{
    const int item = (int)blockIdx.x * ((int)blockDim.x / WARP) + warp_id();
    const int head = item / a.groups, g = item % a.groups;
    launch_wait();
    launch_next();
    if (head >= a.tiles * INDEX_HEADS_TILE) return;
    const float *q = gpu_at<const float>(a.q.at) + blockIdx.y * a.q.stride + (int64_t)item * INDEX_GROUP;
    put_group(head < a.n_heads ? q[lane_id()] : 0.0f, a.query + blockIdx.y * INDEX_QUERY_BYTES(a.tiles, a.groups),
              a.tiles, a.groups, head, g);
}

/* Rotates and rounds the rows too, as rope_tail and kv_round_fp4 would to the bit. A warp a head; grid: tiles, rows. */
KERNEL(index_query_round, index_query_round_kernel_args, 256)
{
    SHARED_DYNAMIC(float, heads);                           /* [8][width] */
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    const int head = (int)blockIdx.x * INDEX_HEADS_TILE + warp_id();
    const int lane = lane_id(), width = a.to.groups * INDEX_GROUP;
    const gpu_ptr query = a.to.query + blockIdx.y * INDEX_QUERY_BYTES(a.to.tiles, a.to.groups);
    float *q = gpu_at<float>(a.to.q.at) + blockIdx.y * a.to.q.stride + (int64_t)head * width;
    float *x = heads + warp_id() * width;
    const bool real = head < a.to.n_heads;
    launch_wait();
    launch_next();
    block_angles(angle, a.rope, gpu_at<const int32_t>(a.pos)[blockIdx.y]);
    for (int i = lane; i < width; i += WARP) x[i] = real ? q[i] : 0.0f;
    __syncthreads();
    for (int k = lane; k < a.rope.n_rot / 2; k += WARP)
        rotate(x + width - a.rope.n_rot + 2 * k, angle[k].x, angle[k].y);
    __syncwarp();
    warp_round_fp4_any(x, width);
    for (int g = 0; g < a.to.groups; g++) {                 /* the lane's own numbers */
        const float v = x[g * INDEX_GROUP + lane];
        if (real) q[g * INDEX_GROUP + lane] = v;
        put_group(v, query, a.to.tiles, a.to.groups, head, g);
    }
}
