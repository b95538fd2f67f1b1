/* attention: attend in plain floats for any shape and row, the judge of the faster one; and the joining of
 * splits. */
#include "kernels/cuda/attention_parts.cuh"

DEVICE float stored_number(const gpu_kv_row &r, const uint8_t *row, int i)
{
    if (r.kind == KV_ROW_F32) return reinterpret_cast<const float *>(row)[i];
    if (i >= r.n_round) return half_bits_to_float(reinterpret_cast<const uint16_t *>(row + r.tail)[i - r.n_round]);
    return e4m3_to_float(row[i]) * as_float((uint32_t)row[r.scales + i / KV_FP8_GROUP] << 23);
}

/* A warp a head; its lanes are rows of the tile for the logits, channels l + 32j for the mixing. */
template <int J> DEVICE void attend_plain(const attend_kernel_args &a)
{
    SHARED_DYNAMIC(float, tile);
    SHARED(float, weights, ATTEND_PLAIN_HEADS * ATTEND_TILE);
    SHARED(float, room, 32);
    SHARED(seen_rows, seen, 1);
    const int K = a.width, padded = (K + 3) / 4 * 4, stride = padded + 4;
    const int t = (int)blockIdx.z, split = (int)blockIdx.y, tid = (int)threadIdx.x, lane = lane_id(), warp = warp_id();
    const int h0 = (int)blockIdx.x * ATTEND_PLAIN_HEADS, h = h0 + warp;
    float *q = tile + ATTEND_TILE * stride;
    launch_wait();
    launch_next();

    rows_seen(seen, a, t, room);
    int first, end;
    split_range(a, seen->n, split, &first, &end);
    for (int i = tid; i < ATTEND_PLAIN_HEADS * padded; i += (int)blockDim.x) {
        const int c = i % padded, head = h0 + i / padded;
        q[i] = c < K && head < a.n_heads ? gpu_at<const float>(a.q.at)[t * a.q.stride + (int64_t)head * K + c] : 0.0f;
    }

    float top = -INFINITY, sum = 0.0f, acc[J];
#pragma unroll
    for (int j = 0; j < J; j++) acc[j] = 0.0f;

    for (int base = first; base < end; base += ATTEND_TILE) {
        const int n = min(ATTEND_TILE, end - base), threads = (int)blockDim.x / ATTEND_TILE;
        const uint8_t *row = tid / threads < n ? row_seen(*seen, base + tid / threads) : nullptr;
        __syncthreads();
        for (int i = tid % threads; i < padded; i += threads)
            tile[tid / threads * stride + i] = row && i < K ? stored_number(a.row, row, i) : 0.0f;
        __syncthreads();

        const float4 *x = reinterpret_cast<const float4 *>(tile + lane * stride),
            *y = reinterpret_cast<const float4 *>(q + warp * padded);
        float dot = 0.0f;
        for (int i = 0; i < padded / 4; i++)
            dot += x[i].x * y[i].x + x[i].y * y[i].y + (x[i].z * y[i].z + x[i].w * y[i].w);
        float keep;
        weights[warp * ATTEND_TILE + lane] = take_logits(a.scale * dot, lane < n, &top, &sum, &keep);
        __syncwarp();
#pragma unroll
        for (int j = 0; j < J; j++) acc[j] *= keep;
        for (int r = 0; r < n; r++) {
            const float w = weights[warp * ATTEND_TILE + r];
#pragma unroll
            for (int j = 0; j < J; j++)
                if (lane + WARP * j < K) acc[j] += w * tile[r * stride + lane + WARP * j];
        }
    }

    if (h >= a.n_heads) return;
    float *out, factor = 1.0f;
    if (a.splits == 1) {
        out = gpu_at<float>(a.heads.at) + t * a.heads.stride + (int64_t)h * K;
        factor = closing(top, sum, gpu_at<const float>(a.sinks)[h]);
    } else {
        out = gpu_at<float>(a.mixed) + part_at(a, t, split, h) * K;
        if (lane == 0) gpu_at<float2>(a.norm)[part_at(a, t, split, h)] = make_float2(top, sum);
        if (first == end) return;
    }
#pragma unroll
    for (int j = 0; j < J; j++)
        if (lane + WARP * j < K) out[lane + WARP * j] = acc[j] * factor;
}

KERNEL_RESIDENT(attend_narrow, attend_kernel_args, 256, 2) { attend_plain<4>(a); }
KERNEL_RESIDENT(attend_wide, attend_kernel_args, 256, 2) { attend_plain<16>(a); }

/* Joins the splits of a head in their order; blocks (head, row). */
KERNEL(attend_join, attend_kernel_args, 256)
{
    const int h = (int)blockIdx.x, t = (int)blockIdx.y;
    launch_wait();
    launch_next();
    const float2 *norm = gpu_at<const float2>(a.norm) + part_at(a, t, 0, h);
    const float sink = gpu_at<const float>(a.sinks)[h];
    float weight[ATTEND_SPLITS], top = sink;
#pragma unroll
    for (int s = 0; s < ATTEND_SPLITS; s++) {
        weight[s] = s < a.splits ? norm[s * a.n_heads].x : -INFINITY;
        top = fmaxf(top, weight[s]);
    }
    float sum = expf(sink - top);
#pragma unroll
    for (int s = 0; s < ATTEND_SPLITS; s++) {
        const float n = s < a.splits ? norm[s * a.n_heads].y : 0.0f;
        weight[s] = expf(weight[s] - top);
        if (n != 0.0f) sum += weight[s] * n;
        else weight[s] = -1.0f;                 /* no rows: nothing was written */
    }
    const float *mixed = gpu_at<const float>(a.mixed) + part_at(a, t, 0, h) * a.width;
    float *out = gpu_at<float>(a.heads.at) + t * a.heads.stride + (int64_t)h * a.width;
    const int step = (int)(gridDim.z * blockDim.x);
    for (int c = (int)(blockIdx.z * blockDim.x + threadIdx.x); c < a.width; c += step) {
        float v = 0.0f;
#pragma unroll
        for (int s = 0; s < ATTEND_SPLITS; s++)
            if (!(weight[s] < 0.0f)) v += weight[s] * mixed[(int64_t)s * a.n_heads * a.width + c];
        out[c] = v / sum;
    }
}
