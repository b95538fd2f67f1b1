/* kv_parts: how a row of session memory is found, rotated, rounded and packed.
 *
 * Functions of a whole block say so; they begin and end without a barrier, and all
 * threads call them. */
#ifndef KERNELS_CUDA_KV_PARTS_CUH
#define KERNELS_CUDA_KV_PARTS_CUH

#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_kv.h"
#define restrict __restrict__   /* C's word, in a header of C */
#include "kernels/kv_row.h"
#undef restrict
#include "quant/float_formats.h"

/* ---- finding ------------------------------------------------------------------------ */

DEVICE const gpu_segment &segment_at(const gpu_batch &b, int s) { return gpu_at<const gpu_segment>(b.segment)[s]; }
DEVICE const gpu_kv_layer &layer_at(const gpu_batch &b, int s)
{
    return gpu_at<const gpu_kv_layer>(b.layer)[(int64_t)s * b.layer_step];
}
DEVICE int segment_of(const gpu_batch &b, int t) { return gpu_at<const int32_t>(b.segment_of)[t]; }
DEVICE int position_of(const gpu_batch &b, int t) { return gpu_at<const int32_t>(b.pos)[t]; }

/* Compressed row r within its pool. */
DEVICE int64_t pool_row(const int32_t *blocks, int block_rows, int r)
{
    return (int64_t)blocks[r / block_rows] * block_rows + r % block_rows;
}
DEVICE const int32_t *block_table(const gpu_segment &s, int ratio)
{
    return gpu_at<const int32_t>(s.blocks[ratio != 4]);
}

/* ---- rotation ------------------------------------------------------------------------ */

DEVICE void rotate(float *pair, float c, float s)
{
    const float even = pair[0], odd = pair[1];
    pair[0] = even * c - odd * s;
    pair[1] = even * s + odd * c;
}

/* formula_rope_angle's numbers: the angle is a float of up to a million or so, and a double of it in half turns
 * is off by 1e-10, far below a float's cosine. The library's own cosine would bring a second way for large angles,
 * with a call and a stack. */
DEVICE float2 rope_angle(int pos, float freq, bool inverse)
{
    double s, c;
    sine_cosine_of_pi((double)((float)pos * freq) * 0.31830988618379067154, &s, &c);
    return make_float2((float)c, inverse ? -(float)s : (float)s);
}

/* The angles of a position, by the block's first threads: angle[k] = cosine, sine. */
DEVICE void block_angles(float2 *angle, const gpu_rope &r, int pos)
{
    for (int k = (int)threadIdx.x; k < r.n_rot / 2; k += (int)blockDim.x)
        angle[k] = rope_angle(pos, r.freq[k], r.inverse);
}

/* ---- rounding: one warp -------------------------------------------------------------- */

/* Up to 64 numbers, their scale chosen from them. */
DEVICE void warp_round_fp8(float *x, int n)
{
    const int i = lane_id();
    const float a = i < n ? x[i] : 0.0f, b = i + WARP < n ? x[i + WARP] : 0.0f;
    const float scale = formula_fp8_scale(warp_max(fmaxf(fabsf(a), fabsf(b))));
    if (i < n) x[i] = scale * formula_round_e4m3(formula_clamp(a / scale, 448.0f));
    if (i + WARP < n) x[i + WARP] = scale * formula_round_e4m3(formula_clamp(b / scale, 448.0f));
}

/* The Hadamard transform of a row and its E2M1 groups. Lane l holds numbers l + 32j, so that
 * a group is one j. M = ceil(width / 32). */
template <int M> DEVICE void warp_round_fp4(float *x, int width)
{
    const int lane = lane_id();
    const float norm = (float)(1.0 / sqrt((double)width));
    float v[M];
#pragma unroll
    for (int j = 0; j < M; j++) v[j] = lane + WARP * j < width ? x[lane + WARP * j] : 0.0f;

    for (int m = 1; m < WARP && m < width; m *= 2) {
#pragma unroll
        for (int j = 0; j < M; j++) {
            const float other = __shfl_xor_sync(FULL_MASK, v[j], m);
            v[j] = lane & m ? other - v[j] : v[j] + other;
        }
    }
#pragma unroll
    for (int m = 1; m < M; m *= 2) {
#pragma unroll
        for (int j = 0; j < M; j++)
            if (!(j & m)) {
                const float a = v[j], b = v[j + m];
                v[j] = a + b;
                v[j + m] = a - b;
            }
    }
#pragma unroll
    for (int j = 0; j < M; j++) {
        v[j] *= norm;
        const float scale = formula_fp4_scale(warp_max(fabsf(v[j])));
        if (lane + WARP * j < width)
            x[lane + WARP * j] = scale * formula_round_e2m1(formula_clamp(v[j] / scale, 6.0f));
    }
}

DEVICE void warp_round_fp4_any(float *x, int width)
{
    if (width <= 32) warp_round_fp4<1>(x, width);
    else if (width == 64) warp_round_fp4<2>(x, width);
    else if (width == 128) warp_round_fp4<4>(x, width);
    else if (width == 256) warp_round_fp4<8>(x, width);
    else warp_round_fp4<16>(x, width);
}

/* ---- storing: a block ----------------------------------------------------------------- */

/* kv_row_pack's bytes; x is complete and nobody writes it. */
DEVICE void block_pack(const gpu_kv_row &r, uint8_t *to, const float *x)
{
    const int tid = (int)threadIdx.x, n = (int)blockDim.x, lane = lane_id(), warps = n / WARP;
    if (r.kind == KV_ROW_F32) {
        for (int i = tid; i < r.width; i += n) reinterpret_cast<float *>(to)[i] = x[i];
        return;
    }
    if (r.kind == KV_ROW_FP4) {
        const int group = r.width < KV_FP4_GROUP ? r.width : KV_FP4_GROUP, half = group / 2;
        for (int g = warp_id(); g < r.width / group; g += warps) {
            const float v = lane < group ? x[g * group + lane] : 0.0f;
            const float scale = formula_fp4_scale(warp_max(fabsf(v)));
            const int code = float_to_e2m1(v / scale), upper = __shfl_sync(FULL_MASK, code, (lane + half) % WARP);
            if (lane < half) to[g * half + lane] = (uint8_t)(code | upper << 4);
            if (lane == 0) to[r.scales + g] = (uint8_t)(as_bits(scale) >> 23);
        }
        return;
    }
    const int groups = (r.n_round + KV_FP8_GROUP - 1) / KV_FP8_GROUP;
    for (int g = warp_id(); g < groups; g += warps) {
        const int i = g * KV_FP8_GROUP + lane, k = i + WARP;
        const float a = i < r.n_round ? x[i] : 0.0f, b = k < r.n_round ? x[k] : 0.0f;
        const float scale = formula_fp8_scale(warp_max(fmaxf(fabsf(a), fabsf(b))));
        if (i < r.n_round) to[i] = float_to_e4m3(a / scale);
        if (k < r.n_round) to[k] = float_to_e4m3(b / scale);
        if (lane == 0) to[r.scales + g] = (uint8_t)(as_bits(scale) >> 23);
    }
    for (int i = r.scales + groups + tid; i < r.tail; i += n) to[i] = 0;
    const int n_tail = r.width - r.n_round;
    uint16_t *tail = reinterpret_cast<uint16_t *>(to + r.tail);
    for (int i = tid; i < n_tail; i += n) tail[i] = float_to_half_bits(x[r.n_round + i]);
    for (int i = r.tail + 2 * n_tail + tid; i < r.bytes; i += n) to[i] = 0;
}

/* z of `width` shared numbers becomes round(rope(norm(z))). Begins with a barrier, so that z may just have
 * been written, and ends with one. room: 32 doubles; angle: n_rot/2, both shared. */
DEVICE void block_finish(float *z, int width, const kv_finish &f, int pos, double *room, float2 *angle)
{
    const int tid = (int)threadIdx.x, n = (int)blockDim.x;
    const float *weight = gpu_at<const float>(f.norm);
    block_angles(angle, f.rope, pos);
    __syncthreads();

    double sum = 0.0;
    for (int i = tid; i < width; i += n) sum += (double)z[i] * z[i];
    const float scale = (float)(1.0 / sqrt(block_sum(sum, room) / width + (double)f.eps));
    for (int i = tid; i < width; i += n) z[i] = z[i] * scale * weight[i];
    __syncthreads();

    for (int k = tid; k < f.rope.n_rot / 2; k += n) rotate(z + width - f.rope.n_rot + 2 * k, angle[k].x, angle[k].y);
    __syncthreads();

    if (f.kind == GPU_ROUND_FP8)
        for (int g = warp_id() * KV_FP8_GROUP; g < f.n_round; g += n / WARP * KV_FP8_GROUP)
            warp_round_fp8(z + g, min(KV_FP8_GROUP, f.n_round - g));
    if (f.kind == GPU_ROUND_FP4 && warp_id() == 0) warp_round_fp4_any(z, width);
    __syncthreads();
}

#endif
