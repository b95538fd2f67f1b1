/* attention_units: attend for packed rows of 512 numbers on the matrix units.
 *
 * An E4M3 code times a power of two is a bfloat16 to the bit, and an F16 is the sum of two; q and the weights
 * are split into two bfloat16 as well, 16 bits of each. A block takes 16 heads of one row, which share every
 * tile of 32 stored rows; of its eight warps each owns 64 channels: their part of every logit, and
 * their results. */
#include "kernels/cuda/attention_parts.cuh"

enum {
    WIDTH = ATTEND_UNIT_WIDTH, CODES = ATTEND_UNIT_ROUND, TAIL = WIDTH - CODES, SLICE = 64, WARPS = WIDTH / SLICE,
    HEADS = ATTEND_UNIT_HEADS, TILE = ATTEND_TILE,
    ROW = WIDTH + 8, LOW = TAIL + 8,            /* numbers of a row in shared memory: no two rows in one bank */
    PART = TILE + 8,
    /* a stored row in words of 8 bytes, as kv_row.h has it: codes, scales, tail */
    SCALES_AT = CODES / 8, TAIL_AT = SCALES_AT + 1, WORDS = TAIL_AT + TAIL / 4
};

typedef struct {
    uint2    stored[TILE * WORDS];
    uint16_t row[TILE * ROW];           /* bfloat16                                 */
    uint16_t low[TILE * LOW];           /* what the tails' bfloat16 leave out       */
    float    part[WARPS * HEADS * PART];/* each warp's logits                       */
    uint16_t weight[2][HEADS * PART];   /* bfloat16 of the softmax, and their rests */
    float    keep[HEADS];
    float2   norm[HEADS];
} shared_tile;
static_assert(sizeof(shared_tile) == ATTEND_UNIT_SHARED, "the launch's shared memory");

/* ---- numbers ---------------------------------------------------------------------------- */

/* The upper halves of two floats: their bfloat16 where nothing is behind them. */
DEVICE uint32_t upper_halves(float low, float high) { return __byte_perm(as_bits(low), as_bits(high), 0x7632); }

DEVICE void split_bf16(float x, uint16_t *high, uint16_t *rest)
{
    *high = float_to_bf16(x);
    *rest = float_to_bf16(x - bf16_to_float(*high));
}

DEVICE void split_pair(float2 x, uint32_t *high, uint32_t *rest)
{
    uint16_t h0, h1, r0, r1;
    split_bf16(x.x, &h0, &r0);
    split_bf16(x.y, &h1, &r1);
    *high = h0 | (uint32_t)h1 << 16;
    *rest = r0 | (uint32_t)r1 << 16;
}

/* Two E4M3 codes at the upper ends of halves, as bfloat16 that are 2^-120 of them: exponent and mantissa of
 * a code are where a bfloat16's end is, subnormal codes become subnormal numbers. */
DEVICE uint32_t tiny_codes(uint32_t x) { return (x & 0x80008000u) | (x & 0x7f007f00u) >> 4; }

/* Four codes of a group whose scale has this exponent byte. */
DEVICE uint2 four_codes(uint32_t codes, uint32_t scale)
{
    const uint32_t nan = ((codes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
    if (nan || scale > 134 || scale == 0) {     /* 2^120 times the scale is no float, or a code no number */
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = e4m3_to_float((uint8_t)(codes >> (8 * i))) * as_float(scale << 23);
        return make_uint2(upper_halves(v[0], v[1]), upper_halves(v[2], v[3]));
    }
    const float factor = as_float((scale + 120u) << 23);
    const uint32_t a = tiny_codes(__byte_perm(codes, 0, 0x1404)), b = tiny_codes(__byte_perm(codes, 0, 0x3424));
    return make_uint2(upper_halves(as_float(a << 16) * factor, as_float(a & 0xffff0000u) * factor),
                      upper_halves(as_float(b << 16) * factor, as_float(b & 0xffff0000u) * factor));
}

/* ---- stored rows -------------------------------------------------------------------------- */

/* Row i of those seen begins its way to this thread's row of the tile. Eight threads of one warp take a row, each
 * the words s + 8j that it unpacks itself, so that only the scales pass between lanes. */
DEVICE void fetch(shared_tile *tile, const seen_rows &seen, int i, int end)
{
    const int s = (int)threadIdx.x % 8;
    uint2 *to = tile->stored + (int)threadIdx.x / 8 * WORDS;
    if (i < end) {
        const uint2 *from = reinterpret_cast<const uint2 *>(row_seen(seen, i));
#pragma unroll
        for (int j = 0; j < SCALES_AT / 8; j++) async_copy8(to + s + 8 * j, from + s + 8 * j);
#pragma unroll
        for (int j = TAIL_AT; j < WORDS; j += 8) async_copy8(to + s + j, from + s + j);
        if (s == 0) async_copy8(to + SCALES_AT, from + SCALES_AT);
    } else {                    /* zeros, of scale 1 */
        for (int j = s; j < WORDS; j += 8) {
            const uint32_t all = j == SCALES_AT ? 0x7f7f7f7fu : 0;
            to[j] = make_uint2(all, all);
        }
    }
    async_commit();
}

/* What was fetched becomes bfloat16. */
DEVICE void unpack(shared_tile *tile)
{
    const int row = (int)threadIdx.x / 8, s = (int)threadIdx.x % 8;
    const uint2 *from = tile->stored + row * WORDS;
    async_wait<0>();
    __syncwarp();
    const uint2 scales = from[SCALES_AT];
#pragma unroll
    for (int j = 0; j < CODES / 64; j++) {
        const uint32_t scale = (j < 4 ? scales.x : scales.y) >> (8 * (j % 4)) & 0xffu;
        const uint2 codes = from[s + 8 * j], a = four_codes(codes.x, scale), b = four_codes(codes.y, scale);
        *reinterpret_cast<uint4 *>(tile->row + row * ROW + 8 * (s + 8 * j)) = make_uint4(a.x, a.y, b.x, b.y);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint2 halves = from[TAIL_AT + s + 8 * j];
        uint32_t high[2], rest[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint32_t two = k ? halves.y : halves.x;
            split_pair(make_float2(half_bits_to_float((uint16_t)two), half_bits_to_float((uint16_t)(two >> 16))),
                       &high[k], &rest[k]);
        }
        *reinterpret_cast<uint2 *>(tile->row + row * ROW + CODES + 4 * (s + 8 * j)) = make_uint2(high[0], high[1]);
        *reinterpret_cast<uint2 *>(tile->low + row * LOW + 4 * (s + 8 * j)) = make_uint2(rest[0], rest[1]);
    }
    __syncwarp();
}

/* ---- products ------------------------------------------------------------------------------- */

/* A warp's slice of q: fragments of 16 heads x 16 channels, and their rests. */
typedef struct {
    uint32_t high[SLICE / 16][4], rest[SLICE / 16][4];
} query_slice;

DEVICE void load_query(query_slice *q, const attend_kernel_args &a, int t, int h0)
{
    const int g = lane_id() / 4, i = lane_id() % 4;
    const float *x = gpu_at<const float>(a.q.at) + t * a.q.stride;
#pragma unroll
    for (int k = 0; k < SLICE / 16; k++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int h = h0 + g + 8 * (r % 2), c = warp_id() * SLICE + 16 * k + 8 * (r / 2) + 2 * i;
            const float2 v = h < a.n_heads
                ? *reinterpret_cast<const float2 *>(x + (int64_t)h * WIDTH + c) : make_float2(0.0f, 0.0f);
            split_pair(v, &q->high[k][r], &q->rest[k][r]);
        }
}

/* This warp's part of the tile's logits. */
DEVICE void part_of_logits(shared_tile *tile, const query_slice &q)
{
    const int lane = lane_id(), g = lane / 4, i = lane % 4, warp = warp_id();
    float d[TILE / 8][4];
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
        const int row = 8 * n + lane % 8;
#pragma unroll
        for (int k = 0; k < SLICE / 16; k += 2) {
            uint32_t b[4];
            load_matrices(b, tile->row + row * ROW + warp * SLICE + 16 * k + 8 * (lane / 8));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                mma_bf16_k16(d[n], q.high[k + j], b + 2 * j);
                mma_bf16_k16(d[n], q.rest[k + j], b + 2 * j);
            }
            if (warp < CODES / SLICE) continue;
            load_matrices(b, tile->low + row * LOW + 16 * k + 8 * (lane / 8));
#pragma unroll
            for (int j = 0; j < 2; j++) mma_bf16_k16(d[n], q.high[k + j], b + 2 * j);
        }
    }
    float *part = tile->part + warp * HEADS * PART;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        *reinterpret_cast<float2 *>(part + g * PART + 8 * n + 2 * i) = make_float2(d[n][0], d[n][1]);
        *reinterpret_cast<float2 *>(part + (g + 8) * PART + 8 * n + 2 * i) = make_float2(d[n][2], d[n][3]);
    }
}

/* acc = keep * acc + weights * this warp's channels of the rows. */
DEVICE void mix(shared_tile *tile, float acc[SLICE / 8][4])
{
    const int lane = lane_id(), g = lane / 4, i = lane % 4, warp = warp_id();
    const float keep[2] = { tile->keep[g], tile->keep[g + 8] };
#pragma unroll
    for (int n = 0; n < SLICE / 8; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) acc[n][r] *= keep[r / 2];

#pragma unroll
    for (int k = 0; k < TILE; k += 16) {
        uint32_t w[2][4];
#pragma unroll
        for (int p = 0; p < 2; p++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const uint16_t *at = tile->weight[p] + (g + 8 * (r % 2)) * PART + k + 8 * (r / 2) + 2 * i;
                w[p][r] = *reinterpret_cast<const uint32_t *>(at);
            }
        const int row = k + 8 * (lane / 8 % 2) + lane % 8, channel = 8 * (lane / 16);
#pragma unroll
        for (int n = 0; n < SLICE / 8; n += 2) {
            uint32_t b[4];
            load_matrices_turned(b, tile->row + row * ROW + warp * SLICE + 8 * n + channel);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                mma_bf16_k16(acc[n + j], w[0], b + 2 * j);
                mma_bf16_k16(acc[n + j], w[1], b + 2 * j);
            }
            if (warp < CODES / SLICE) continue;
            load_matrices_turned(b, tile->low + row * LOW + 8 * n + channel);
#pragma unroll
            for (int j = 0; j < 2; j++) mma_bf16_k16(acc[n + j], w[0], b + 2 * j);
        }
    }
}

/* Two blocks side by side, so that one computes while the other's rows are on their way. */
KERNEL_RESIDENT(attend_units, attend_kernel_args, 256, 2)
{
    SHARED_DYNAMIC(shared_tile, tile);
    SHARED(float, room, 32);
    SHARED(seen_rows, seen, 1);
    const int t = (int)blockIdx.z, split = (int)blockIdx.y, h0 = (int)blockIdx.x * HEADS;
    const int lane = lane_id(), warp = warp_id(), slot = (int)threadIdx.x / 8;
    launch_wait();
    launch_next();
    rows_seen(seen, a, t, room);
    int first, end;
    split_range(a, seen->n, split, &first, &end);
    if (first == end) {         /* only a row's later splits are empty */
        if (threadIdx.x < HEADS && h0 + (int)threadIdx.x < a.n_heads)
            gpu_at<float2>(a.norm)[part_at(a, t, split, h0 + (int)threadIdx.x)] = make_float2(-INFINITY, 0.0f);
        return;
    }
    fetch(tile, *seen, first + slot, end);
    query_slice q;
    load_query(&q, a, t, h0);

    float acc[SLICE / 8][4], top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f };
#pragma unroll
    for (int n = 0; n < SLICE / 8; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;

    for (int base = first; base < end; base += TILE) {
        unpack(tile);
        if (base + TILE < end) fetch(tile, *seen, base + TILE + slot, end);
        __syncthreads();
        part_of_logits(tile, q);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < HEADS / WARPS; j++) {
            const int h = warp * (HEADS / WARPS) + j;
            float logit = 0.0f, keep;
#pragma unroll
            for (int w = 0; w < WARPS; w++) logit += tile->part[(w * HEADS + h) * PART + lane];
            const float weight = take_logits(a.scale * logit, base + lane < end, &top[j], &sum[j], &keep);
            split_bf16(weight, &tile->weight[0][h * PART + lane], &tile->weight[1][h * PART + lane]);
            if (lane == 0) tile->keep[h] = keep;
        }
        __syncthreads();
        mix(tile, acc);
        __syncthreads();
    }

#pragma unroll
    for (int j = 0; j < HEADS / WARPS; j++)
        if (lane == 0) tile->norm[warp * (HEADS / WARPS) + j] = make_float2(top[j], sum[j]);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int g = lane / 4 + 8 * r, h = h0 + g;
        if (h >= a.n_heads) continue;
        const float2 norm = tile->norm[g];
        float *out, factor = 1.0f;
        if (a.splits == 1) {
            out = gpu_at<float>(a.heads.at) + t * a.heads.stride + (int64_t)h * WIDTH;
            factor = closing(norm.x, norm.y, gpu_at<const float>(a.sinks)[h]);
        } else {
            out = gpu_at<float>(a.mixed) + part_at(a, t, split, h) * WIDTH;
            if (warp == 0 && lane % 4 == 0) gpu_at<float2>(a.norm)[part_at(a, t, split, h)] = norm;
        }
        out += warp * SLICE + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < SLICE / 8; n++)
            *reinterpret_cast<float2 *>(out + 8 * n) = make_float2(acc[n][2 * r] * factor, acc[n][2 * r + 1] * factor);
    }
}
