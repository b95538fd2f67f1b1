/* indexer: scores of compressed rows [4.9].
 *
 * Packed rows meet the queries in whole numbers: a group of 32 E2M1 codes, doubled, is one
 * step of the matrix unit, and its scale a power of two. The unit starts at the bits of
 * 1.5 * 2^23 as a float, so that what it returns is that float plus the sum, and one
 * multiply-add takes the offset off and the query's scale in, exactly. A lane has two keys
 * and two heads of each tile; heads are added in the order of tiles, then over four lanes,
 * whatever else is in the batch. */
#include "kernels/cuda/kv_parts.cuh"
#include "kernels/cuda/unpack.cuh"

#include "kernels/cuda/args_indexer.h"

#define MAGIC_BITS 0x4b400000   /* INDEX_MAGIC */

/* ---- packed keys ---------------------------------------------------------------------------- */

/* Rows of one and two groups do not have a whole number of words. */
template <int G> DEVICE uint32_t key_word(const uint8_t *p)
{
    if (G >= 4) return *reinterpret_cast<const uint32_t *>(p);
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Fragments a of 16 keys of G groups, and the scales of the lane's two. */
template <int G> struct key_tile {
    uint32_t code[G][4];
    float    scale[G][2];
};

template <int G> DEVICE void load_keys(key_tile<G> &t, const uint8_t *rows, int bytes)
{
    const int g = lane_id() / 4, i = lane_id() % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint8_t *row = rows + (g + 8 * half) * bytes;
#pragma unroll
        for (int k = 0; k < G; k++)
            e2m1_doubled(key_word<G>(row + 16 * k + 4 * i), t.code[k][half], t.code[k][2 + half]);
#pragma unroll
        for (int k = 0; k < G; k++) t.scale[k][half] = as_float((uint32_t)row[16 * G + k] << 23);
    }
}

/* A lane's part of a query's tile of heads. */
template <int G> DEVICE void load_heads(uint32_t (&b)[G][2], const uint32_t *codes, int tile)
{
    const uint32_t *from = codes + (tile * WARP + lane_id()) * G * 2;
    if constexpr (G == 1) {
        b[0][0] = from[0];
        b[0][1] = from[1];
    } else {
#pragma unroll
        for (int k = 0; k < G; k += 2) {
            const uint4 v = *reinterpret_cast<const uint4 *>(from + 2 * k);
            b[k][0] = v.x, b[k][1] = v.y, b[k + 1][0] = v.z, b[k + 1][1] = v.w;
        }
    }
}

/* total[key] += sum of the lane's two heads of a tile. scale: of the tile, {scale, offset} by head. */
template <int G> DEVICE void add_heads(float (&total)[2], const key_tile<G> &keys, const uint32_t (&b)[G][2],
                                       const float2 *scale, const float *weight)
{
    const int i = lane_id() % 4;
    float dot[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
#pragma unroll
    for (int k = 0; k < G; k++) {
        int32_t d[4] = { MAGIC_BITS, MAGIC_BITS, MAGIC_BITS, MAGIC_BITS };
        mma_s8_k32(d, keys.code[k], b[k]);
        const float4 s = *reinterpret_cast<const float4 *>(scale + k * INDEX_HEADS_TILE + 2 * i);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float exact = fmaf(as_float((uint32_t)d[j]), j % 2 ? s.z : s.x, j % 2 ? s.w : s.y);
            dot[j] = fmaf(exact, keys.scale[k][j / 2], dot[j]);
        }
    }
    const float2 w = *reinterpret_cast<const float2 *>(weight + 2 * i);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        total[j] = fmaf(w.x, fmaxf(dot[2 * j], 0.0f), total[j]);
        total[j] = fmaf(w.y, fmaxf(dot[2 * j + 1], 0.0f), total[j]);
    }
}

/* NT tiles of heads that stay in registers; 0: a.tiles that are read for every tile of keys. */
template <int NT, int G> DEVICE void score_keys(const index_scores_kernel_args &a)
{
    SHARED_DYNAMIC(float2, scale);
    const int row = (int)blockIdx.y, tiles = NT ? NT : a.tiles, lane = lane_id(), warps = (int)blockDim.x / WARP;
    float *weight = reinterpret_cast<float *>(scale + tiles * G * INDEX_HEADS_TILE);
    const gpu_ptr query = a.query + row * INDEX_QUERY_BYTES(tiles, G);
    const uint32_t *codes = gpu_at<const uint32_t>(query);
    const float2 *from = gpu_at<const float2>(query, INDEX_CODES_BYTES(tiles, G));
    float *out = gpu_at<float>(a.scores.at) + row * a.scores.stride;
    launch_wait();
    launch_next();

    const int visible = (position_of(a.batch, a.first + row) + 1) / a.ratio;
    if ((int)blockIdx.x * warps * INDEX_KEYS_TILE >= visible) return;
    const int s = segment_of(a.batch, a.first + row);
    const int32_t *blocks = block_table(segment_at(a.batch, s), a.ratio);
    const uint8_t *pool = gpu_at<const uint8_t>(layer_at(a.batch, s).index_pool);
    const int block_rows = layer_at(a.batch, s).block_rows;
    for (int i = (int)threadIdx.x; i < tiles * G * INDEX_HEADS_TILE; i += (int)blockDim.x) scale[i] = from[i];
    const float *given = gpu_at<const float>(a.weights.at) + row * a.weights.stride;
    for (int h = (int)threadIdx.x; h < tiles * INDEX_HEADS_TILE; h += (int)blockDim.x)
        weight[h] = h < a.n_heads ? given[h] * a.scale : 0.0f;
    __syncthreads();

    uint32_t b[NT ? NT : 1][G][2];
    if constexpr (NT > 0) {
#pragma unroll
        for (int t = 0; t < NT; t++) load_heads<G>(b[t], codes, t);
    }
    const int step = (int)gridDim.x * warps * INDEX_KEYS_TILE;
    for (int first = ((int)blockIdx.x * warps + warp_id()) * INDEX_KEYS_TILE; first < visible; first += step) {
        key_tile<G> keys;
        load_keys<G>(keys, pool + pool_row(blocks, block_rows, first) * a.key.bytes, a.key.bytes);
        float total[2] = { 0.0f, 0.0f };
        if constexpr (NT > 0) {
#pragma unroll
            for (int t = 0; t < NT; t++)
                add_heads<G>(total, keys, b[t], scale + t * G * INDEX_HEADS_TILE, weight + t * INDEX_HEADS_TILE);
        } else {
            for (int t = 0; t < tiles; t++) {
                load_heads<G>(b[0], codes, t);
                add_heads<G>(total, keys, b[0], scale + t * G * INDEX_HEADS_TILE, weight + t * INDEX_HEADS_TILE);
            }
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            total[j] += __shfl_xor_sync(FULL_MASK, total[j], 1);
            total[j] += __shfl_xor_sync(FULL_MASK, total[j], 2);
        }
        const int key = first + lane / 4 + 8 * (lane % 4);
        if (lane % 4 < 2 && key < visible) out[key] = lane % 4 ? total[1] : total[0];
    }
}

/* 64 heads of 128. From 10.0 on the compiler has no room for all of them in registers. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
enum { RESIDENT_TILES = 0 };
#else
enum { RESIDENT_TILES = 8 };
#endif
KERNEL_RESIDENT(index_scores_full, index_scores_kernel_args, 128, 3) { score_keys<RESIDENT_TILES, 4>(a); }
KERNEL_RESIDENT(index_scores_1, index_scores_kernel_args, 128, 4) { score_keys<0, 1>(a); }
KERNEL_RESIDENT(index_scores_2, index_scores_kernel_args, 128, 4) { score_keys<0, 2>(a); }
KERNEL_RESIDENT(index_scores_4, index_scores_kernel_args, 128, 4) { score_keys<0, 4>(a); }
KERNEL_RESIDENT(index_scores_8, index_scores_kernel_args, 128, 4) { score_keys<0, 8>(a); }

/* ---- other keys ------------------------------------------------------------------------------- */

/* Number i of a stored row: floats, or E2M1 codes in groups that may be shorter than 32. */
DEVICE float key_number(const gpu_kv_row &r, const uint8_t *row, int i)
{
    if (r.kind == KV_ROW_F32) return reinterpret_cast<const float *>(row)[i];
    const int group = min(r.width, (int)KV_FP4_GROUP), half = group / 2, byte = row[i / group * half + i % half];
    const float scale = as_float((uint32_t)row[r.scales + i / group] << 23);
    return e2m1_to_float(i % group < half ? byte & 15 : byte >> 4) * scale;
}

/* A warp a key after another. */
KERNEL_RESIDENT(index_scores_floats, index_scores_kernel_args, 128, 4)
{
    const int row = (int)blockIdx.y, warps = (int)blockDim.x / WARP, width = a.key.width;
    const float *q = gpu_at<const float>(a.q.at) + row * a.q.stride;
    const float *weight = gpu_at<const float>(a.weights.at) + row * a.weights.stride;
    float *out = gpu_at<float>(a.scores.at) + row * a.scores.stride;
    launch_wait();
    launch_next();
    const int visible = (position_of(a.batch, a.first + row) + 1) / a.ratio, s = segment_of(a.batch, a.first + row);
    const int32_t *blocks = block_table(segment_at(a.batch, s), a.ratio);
    const gpu_kv_layer &layer = layer_at(a.batch, s);
    const uint8_t *pool = gpu_at<const uint8_t>(layer.index_pool);
    for (int r = (int)blockIdx.x * warps + warp_id(); r < visible; r += (int)gridDim.x * warps) {
        const uint8_t *key = pool + pool_row(blocks, layer.block_rows, r) * a.key.bytes;
        float total = 0.0f;
        for (int h = 0; h < a.n_heads; h++) {
            float dot = 0.0f;
            for (int i = lane_id(); i < width; i += WARP)
                dot = fmaf(key_number(a.key, key, i), q[(int64_t)h * width + i], dot);
            total += weight[h] * a.scale * fmaxf(0.0f, warp_sum(dot));
        }
        if (lane_id() == 0) out[r] = total;
    }
}
