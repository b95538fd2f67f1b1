/* kv: kernels that rotate, round and store rows of K. */
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/kv_parts.cuh"

/* ---- rotation -------------------------------------------------------------------------- */

/* The last n_rot channels of each head at the row's position [4.7]. */
KERNEL(rope_tail, rope_kernel_args, 256)
{
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    const int t = (int)blockIdx.y, pairs = a.rope.n_rot / 2;
    launch_wait();
    launch_next();
    block_angles(angle, a.rope, gpu_at<const int32_t>(a.pos)[t]);
    __syncthreads();

    float *row = gpu_at<float>(a.x.at) + t * a.x.stride + a.width - a.rope.n_rot;
    const int step = (int)(gridDim.x * blockDim.x), n = a.n_heads * pairs;
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += step) {
        const float2 angle_of = angle[i % pairs];
        rotate(row + (int64_t)(i / pairs) * a.width + 2 * (i % pairs), angle_of.x, angle_of.y);
    }
}

KERNEL(rope_codes, rope_codes_args, 256)
{
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    const rope_kernel_args &r = a.rope;
    const int t = (int)blockIdx.y, block = (int)(blockIdx.x * blockDim.x), tail = r.width - r.rope.n_rot;
    const int column = block + warp_id() * WARP, within = column % r.width, lane = lane_id();
    launch_wait();
    launch_next();
    if (block % r.width + (int)blockDim.x > tail) block_angles(angle, r.rope, gpu_at<const int32_t>(r.pos)[t]);
    __syncthreads();
    if (column >= r.x.cols) return;

    float *at = gpu_at<float>(r.x.at) + t * r.x.stride + column + lane, x = *at;
    if (within >= tail) {
        const float other = __shfl_xor_sync(FULL_MASK, x, 1);
        float pair[2] = { lane % 2 ? other : x, lane % 2 ? x : other };
        const float2 by = angle[(within - tail + lane) / 2];
        rotate(pair, by.x, by.y);
        *at = x = pair[lane % 2];
    }
    codes_of_32(x, codes_at(a.q, t, column));
}

/* Each head normalised without a weight, then rotated [4.5]; a warp a head. */
KERNEL(head_norm_rope, rope_kernel_args, 256)
{
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    const int t = (int)blockIdx.y, h = (int)(blockIdx.x * blockDim.x / WARP) + warp_id(), lane = lane_id();
    launch_wait();
    launch_next();
    block_angles(angle, a.rope, gpu_at<const int32_t>(a.pos)[t]);
    __syncthreads();
    if (h >= a.n_heads) return;

    float *x = gpu_at<float>(a.x.at) + t * a.x.stride + (int64_t)h * a.width;
    float sum = 0.0f;
    for (int i = 2 * lane; i < a.width; i += 2 * WARP) {
        sum += x[i] * x[i];
        if (i + 1 < a.width) sum += x[i + 1] * x[i + 1];
    }
    const float scale = (float)(1.0 / sqrt((double)warp_sum(sum) / a.width + (double)a.eps));
    __syncwarp();                                   /* all have read what others write now */
    const int first = a.width - a.rope.n_rot;       /* pairs begin here, at an odd channel too where the width is odd */
    for (int i = lane; i < first; i += WARP) x[i] *= scale;
    for (int k = lane; k < a.rope.n_rot / 2; k += WARP) {
        float *pair = x + first + 2 * k;
        pair[0] *= scale;
        pair[1] *= scale;
        rotate(pair, angle[k].x, angle[k].y);
    }
}

/* ---- rounding --------------------------------------------------------------------------- */

KERNEL(kv_round_fp8, kv_round_kernel_args, 256)
{
    const int groups = (a.n_round + KV_FP8_GROUP - 1) / KV_FP8_GROUP;
    const int64_t item = (int64_t)blockIdx.x * (blockDim.x / WARP) + warp_id();
    launch_wait();
    launch_next();
    if (item >= (int64_t)a.x.rows * groups) return;
    const int first = (int)(item % groups) * KV_FP8_GROUP;
    warp_round_fp8(gpu_at<float>(a.x.at) + item / groups * a.x.stride + first, min(KV_FP8_GROUP, a.n_round - first));
}

KERNEL(kv_round_fp4, kv_round_kernel_args, 256)
{
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / WARP) + warp_id();
    launch_wait();
    launch_next();
    if (row >= a.x.rows) return;
    warp_round_fp4_any(gpu_at<float>(a.x.at) + row * a.x.stride, a.x.cols);
}

/* ---- the ring ---------------------------------------------------------------------------- */

DEVICE uint8_t *ring_row(const gpu_batch &batch, const gpu_kv_row &r, int t)
{
    const gpu_kv_layer &l = layer_at(batch, segment_of(batch, t));
    return gpu_at<uint8_t>(l.ring) + (int64_t)(position_of(batch, t) % l.ring_rows) * r.bytes;
}

KERNEL(kv_write, kv_write_kernel_args, 256)
{
    const int t = (int)blockIdx.x;
    launch_wait();
    launch_next();
    block_pack(a.row, ring_row(a.batch, a.row, t), gpu_at<const float>(a.x.at) + t * a.x.stride);
}

/* Norm, rotation, rounding; the row stays in x and goes into the ring [4.6]. */
KERNEL_RESIDENT(kv_store, kv_store_kernel_args, 512, 1)
{
    SHARED_DYNAMIC(float, z);
    SHARED(double, room, 32);
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    const int t = (int)blockIdx.x, tid = (int)threadIdx.x, n = (int)blockDim.x;
    float *x = gpu_at<float>(a.x.at) + t * a.x.stride;
    launch_wait();
    launch_next();
    for (int i = tid; i < a.x.cols; i += n) z[i] = x[i];
    block_finish(z, a.x.cols, a.finish, position_of(a.batch, t), room, angle);
    for (int i = tid; i < a.x.cols; i += n) x[i] = z[i];
    block_pack(a.row, ring_row(a.batch, a.row, t), z);
}

/* ---- the compressor ------------------------------------------------------------------------ */

DEVICE float bias_at(const compress_kernel_args &a, int p, int c)
{
    const int64_t i = p % a.ratio * a.ape.stride + c;
    if (a.ape_bits == 32) return gpu_at<const float>(a.ape.at)[i];
    const uint16_t h = gpu_at<const uint16_t>(a.ape.at)[i];
    return a.ape_bits == 16 ? half_bits_to_float(h) : bf16_to_float(h);
}

/* The projected tokens of one segment, wherever they are: in this batch, with the bias to come, or kept. */
typedef struct {
    const float *value, *score;         /* the batch's rows of the segment */
    const float *kept_value, *kept_score;
    int pos, end, state_rows;
} token_source;

DEVICE token_source source_of(const compress_kernel_args &a, const gpu_segment &s, const gpu_kv_layer &l)
{
    return { gpu_at<const float>(a.value.at) + s.first * a.value.stride,
             gpu_at<const float>(a.score.at) + s.first * a.score.stride,
             gpu_at<const float>(l.value[a.index][s.now]), gpu_at<const float>(l.score[a.index][s.now]),
             s.pos, s.pos + s.n, l.state_rows[a.index] };
}

DEVICE float token_value(const compress_kernel_args &a, const token_source &s, int p, int c)
{
    return p >= s.pos ? s.value[(p - s.pos) * a.value.stride + c]
                      : s.kept_value[(int64_t)(p % s.state_rows) * a.value.cols + c];
}
DEVICE float token_score(const compress_kernel_args &a, const token_source &s, int p, int c)
{
    return p >= s.pos ? s.score[(p - s.pos) * a.score.stride + c] + bias_at(a, p, c)
                      : s.kept_score[(int64_t)(p % s.state_rows) * a.score.cols + c];
}

/* Channel c of compressed row `block`: with overlap channel c of the block before joins channel width + c
 * of this one; before block 0 there is nothing to join. */
DEVICE float pooled(const compress_kernel_args &a, const token_source &s, int block, int c)
{
    const int overlap = a.ratio == 4 ? a.ratio : 0, begin = block * a.ratio, end = begin + a.ratio;
    const int first = max(0, begin - overlap);
    float top = -INFINITY, sum = 0.0f, acc = 0.0f;
#pragma unroll 4
    for (int p = first; p < end; p++) top = fmaxf(top, token_score(a, s, p, overlap && p >= begin ? a.width + c : c));
#pragma unroll 4
    for (int p = first; p < end; p++) {
        const int channel = overlap && p >= begin ? a.width + c : c;
        const float e = expf(token_score(a, s, p, channel) - top);
        sum += e;
        acc += e * token_value(a, s, p, channel);
    }
    return acc / sum;
}

/* Adds the bias to the segment's scores and keeps what a later block may still pool, tokens first,
 * first + step, ... A short step may be committed in part, so it keeps all of its tokens. */
DEVICE void keep_tokens(const compress_kernel_args &a, const gpu_segment &s, const gpu_kv_layer &l, int first, int step)
{
    const token_source src = source_of(a, s, l);
    const bool same = s.now == s.ahead;
    const int kept = a.ratio == 4 ? 2 * a.ratio : a.ratio, oldest = same ? s.pos : max(0, src.end - kept);
    float *to_value = gpu_at<float>(l.value[a.index][s.ahead]), *to_score = gpu_at<float>(l.score[a.index][s.ahead]);
    float *biased = gpu_at<float>(a.score.at) + s.first * a.score.stride;

    for (int p = min(oldest, s.pos) + first; p < src.end; p += step)
        for (int c = (int)threadIdx.x; c < a.score.cols; c += (int)blockDim.x) {
            const float score = token_score(a, src, p, c), value = token_value(a, src, p, c);
            const int64_t at = (int64_t)(p % src.state_rows) * a.score.cols + c;
            if (p >= s.pos) biased[(p - s.pos) * a.score.stride + c] = score;
            if (p < oldest) continue;
            to_value[at] = value;
            to_score[at] = score;
        }
}

KERNEL_RESIDENT(compress, compress_kernel_args, 512, 1)
{
    SHARED_DYNAMIC(float, z);
    SHARED(double, room, 32);
    SHARED(float2, angle, GPU_MAX_ROT / 2);
    launch_wait();
    launch_next();
    const gpu_segment &s = segment_at(a.batch, (int)blockIdx.y);
    const gpu_kv_layer &l = layer_at(a.batch, (int)blockIdx.y);
    const token_source src = source_of(a, s, l);
    uint8_t *pool = gpu_at<uint8_t>(a.index ? l.index_pool : l.pool);

    for (int block = s.pos / a.ratio + (int)blockIdx.x; block < src.end / a.ratio; block += (int)gridDim.x) {
        for (int c = (int)threadIdx.x; c < a.width; c += (int)blockDim.x) z[c] = pooled(a, src, block, c);
        block_finish(z, a.width, a.finish, block * a.ratio, room, angle);
        block_pack(a.row, pool + pool_row(block_table(s, a.ratio), l.block_rows, block) * a.row.bytes, z);
        __syncthreads();
    }
    if (a.keep) {
        __syncthreads();
        keep_tokens(a, s, l, 0, 1);
    }
}

KERNEL(compress_keep, compress_kernel_args, 512)
{
    launch_wait();
    launch_next();
    keep_tokens(a, segment_at(a.batch, (int)blockIdx.y), layer_at(a.batch, (int)blockIdx.y), (int)blockIdx.x,
                (int)gridDim.x);
}
