/* prefill_tile: products of some rows of weights with PREFILL_TOKENS rows of codes, on the integer matrix
 * unit.
 *
 * A warp has sixteen rows of weights, so that every weight is unpacked once in a block, in the
 * registers of the lane that multiplies it. Codes go through shared memory, 256 columns a step, fetched
 * while the step before is worked on. A result is one sum over the columns in an order that neither the
 * tile nor its other rows can change. */
#ifndef KERNELS_CUDA_PREFILL_TILE_CUH
#define KERNELS_CUDA_PREFILL_TILE_CUH

#include "kernels/cuda/prefill_weights.cuh"

#include "kernels/cuda/args_prefill.h"

enum {
    STEP = 256, UNITS = STEP / 32,
    ROW_BYTES = STEP + 32,              /* of a token's codes in shared memory: four rows of 8-byte loads by
                                           four lanes meet all banks once */
    TOKEN_TILES = PREFILL_TOKENS / 8, FEW_TILES = 2,
    PARTS = PREFILL_THREADS / PREFILL_TOKENS,   /* threads that fetch a token's scales and sums            */
    PART_UNITS = UNITS / PARTS
};

/* What one step reads of the activations. */
struct prefill_stage {
    uint8_t  codes[PREFILL_TOKENS * ROW_BYTES];
    float    scale[UNITS * PREFILL_TOKENS];
    uint32_t sums[PREFILL_TOKENS * 8];  /* per token 16 low bytes, then per token 16 high ones; or 16 whole ones */
};

/* A step's scales and sums on their way from memory. */
struct prefill_held {
    float    scale[PART_UNITS];
    uint32_t sum[PART_UNITS];           /* two of 16 codes in each */
};

struct prefill_codes {
    const int8_t  *codes;
    const float   *scale;
    const int16_t *sum;
    int            cols, begin, end;    /* columns of a row; those that are multiplied */
};

DEVICE prefill_codes codes_of(const gpu_codes &x)
{
    prefill_codes c;
    c.codes = gpu_at<const int8_t>(x.codes);
    c.scale = gpu_at<const float>(x.scale);
    c.sum = gpu_at<const int16_t>(x.sum);
    c.cols = x.cols;
    c.begin = 0;
    c.end = x.cols;
    return c;
}

/* Codes of the step at column k, of TILES times eight tokens, on their way to s. */
template <int TILES> DEVICE void fetch_codes(prefill_stage &s, const prefill_codes &x, const int32_t *row_of, int k)
{
#pragma unroll 4       /* eight addresses at once take registers that sums need */
    for (int j = 0; j < 8 * TILES * STEP / 16 / PREFILL_THREADS; j++) {
        const int at = (int)threadIdx.x + PREFILL_THREADS * j, token = at / (STEP / 16), c = at % (STEP / 16) * 16;
        if (k + c < x.end)
            async_copy16(s.codes + token * ROW_BYTES + c, x.codes + (int64_t)row_of[token] * x.cols + k + c);
    }
    async_commit();
}

/* A thread holds a part of a token's of a step; of super-blocks' scales, which are all the same, one. */
template <class W> DEVICE void hold(prefill_held &h, const prefill_codes &x, const int32_t *row_of, int k)
{
    const int token = (int)threadIdx.x / PARTS, u0 = (int)threadIdx.x % PARTS * PART_UNITS;
    const float *scale = x.scale + (int64_t)row_of[token] * (x.cols / 32) + k / 32;
#pragma unroll
    for (int j = 0; j < (W::SCALES == BLOCKS ? PART_UNITS : 1); j++) {
        const int u = W::SCALES == BLOCKS ? u0 + j : 0;
        h.scale[j] = k + 32 * u < x.end ? scale[u] : 0.0f;
    }
    if (W::SUMS == NO_SUMS) return;
    const int16_t *at = x.sum + (int64_t)row_of[token] * (x.cols / 16) + k / 16 + 2 * u0;
    const uint32_t *sum = reinterpret_cast<const uint32_t *>(at);
#pragma unroll
    for (int j = 0; j < PART_UNITS; j++) h.sum[j] = k + 32 * (u0 + j) < x.end ? sum[j] : 0;
}

/* Two sums of 16 codes (at most 2032) as 16 * high + low, both int8: low bytes in bits 0..15, high above. */
DEVICE uint32_t two_sums(uint32_t both)
{
    const int a = (int16_t)(both & 0xffffu), b = (int16_t)(both >> 16);
    const int high_a = (a + 8) >> 4, high_b = (b + 8) >> 4;
    const uint32_t low = (uint32_t)((a - 16 * high_a) & 255) | (uint32_t)((b - 16 * high_b) & 255) << 8;
    return low | (uint32_t)(high_a & 255) << 16 | (uint32_t)(high_b & 255) << 24;
}

template <class W> DEVICE void keep(prefill_stage &s, const prefill_held &h)
{
    const int token = (int)threadIdx.x / PARTS, u0 = (int)threadIdx.x % PARTS * PART_UNITS;
    if (W::SCALES == BLOCKS) {
#pragma unroll
        for (int j = 0; j < PART_UNITS; j++) s.scale[(u0 + j) * PREFILL_TOKENS + token] = h.scale[j];
    } else if (u0 == 0) {
        s.scale[token] = h.scale[0];
    }
    if (W::SUMS == WHOLE_SUMS) {
#pragma unroll
        for (int j = 0; j < PART_UNITS; j++) s.sums[8 * token + u0 + j] = h.sum[j];
    } else if (W::SUMS == BYTE_SUMS) {
#pragma unroll
        for (int j = 0; j < PART_UNITS; j += 2) {
            const uint32_t a = two_sums(h.sum[j]), b = two_sums(h.sum[j + 1]);
            s.sums[4 * token + (u0 + j) / 2] = __byte_perm(a, b, 0x5410);
            s.sums[4 * token + (u0 + j) / 2 + 4 * PREFILL_TOKENS] = __byte_perm(a, b, 0x7632);
        }
    }
}

/* The `b` of eight tokens and unit u. */
template <class W> DEVICE void token_codes(uint32_t b[2], const prefill_stage &s, int tile, int u)
{
    const int g = lane_id() / 4, i = lane_id() % 4;
    const uint2 v = *reinterpret_cast<const uint2 *>(s.codes + (8 * tile + g) * ROW_BYTES + W::column(u, i));
    b[0] = v.x;
    b[1] = v.y;
}

/* acc += scales of the rows * scales of the tokens * sums: d of rows g and g+8. */
DEVICE void add_scaled(float acc[4], const float v[4], const float *scale, int tile)
{
    const float2 a = *reinterpret_cast<const float2 *>(scale + 8 * tile + 2 * (lane_id() % 4));
    acc[0] += a.x * v[0];
    acc[1] += a.y * v[1];
    acc[2] += a.x * v[2];
    acc[3] += a.y * v[3];
}

/* Rows g and g+8 of this warp: their block 0, and the part of each that is worked on next, fetched ahead. */
template <class W> struct prefill_rows {
    int             block[2], part, n_parts;
    typename W::raw raw[2];
};

template <class W>
DEVICE void fetch_part(typename W::raw raw[2], const planes &m, const prefill_rows<W> &rows, int part)
{
    const int each = plane_table<W::TYPE>::block_len / (32 * W::HELD), at = min(part, rows.n_parts - 1);
#pragma unroll
    for (int r = 0; r < 2; r++) W::load(raw[r], m, rows.block[r] + at / each, at % each, lane_id() % 4);
}

/* One step of a super-block type: integer sums of 256. */
template <class W, int TILES> DEVICE void step_of(float acc[TILES][4], const prefill_stage &s, const planes &m,
                                       prefill_rows<W> &rows, int k, const typename W::room &table)
{
    const int g = lane_id() / 4, i = lane_id() % 4;
    int32_t sum[TILES][4] = {};
#pragma unroll 1
    for (int u0 = 0; u0 < UNITS; u0 += W::HELD) {
        typename W::raw next[2];
        fetch_part<W>(next, m, rows, ++rows.part);
#pragma unroll
        for (int u = 0; u < W::HELD; u++) {
            uint32_t first[2], second[2], b[2];
            W::codes(rows.raw[0], u, i, table, first);
            W::codes(rows.raw[1], u, i, table, second);
            const uint32_t a[4] = { first[0], second[0], first[1], second[1] };
            const int scale[2] = { W::scale(rows.raw[0], u), W::scale(rows.raw[1], u) };
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                token_codes<W>(b, s, t, u0 + u);
                if (W::SCALES == FOLDED) {
                    mma_s8_k32(sum[t], a, b);
                } else {
                    int32_t part[4] = {};
                    mma_s8_k32(part, a, b);
#pragma unroll
                    for (int e = 0; e < 4; e++) sum[t][e] += scale[e / 2] * part[e];
                }
            }
        }
        rows.raw[0] = next[0];
        rows.raw[1] = next[1];
    }

    const block_end end[2] = { W::end(m, rows.block[0] + k / STEP, i), W::end(m, rows.block[1] + k / STEP, i) };
    const uint32_t offsets[2] = { end[0].offsets, end[1].offsets };
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] = end[e / 2].d * (float)sum[t][e];
        if (W::SUMS == BYTE_SUMS) {
            const uint32_t *at = s.sums + 4 * (8 * t + g) + i;
            int32_t low[4] = {}, high[4] = {};
            mma_s8_k16(low, offsets, at);
            mma_s8_k16(high, offsets, at + 4 * PREFILL_TOKENS);
#pragma unroll
            for (int e = 0; e < 4; e++) v[e] -= end[e / 2].dmin * (float)(16 * high[e] + low[e]);
        }
        add_scaled(acc[t], v, s.scale, t);
        if (t % 2) __syncwarp();        /* so that the compiler does not begin with all tiles at once */
    }
}

/* One step of a type with blocks of 32. */
template <class W, int TILES> DEVICE void step_of_blocks(float acc[TILES][4], const prefill_stage &s, const planes &m,
                                              prefill_rows<W> &rows, int units, const typename W::room &table)
{
    const int i = lane_id() % 4;
#pragma unroll 2
    for (int u = 0; u < units; u++) {
        typename W::raw next[2];
        uint32_t first[2], second[2], b[2];
        fetch_part<W>(next, m, rows, ++rows.part);
        W::codes(rows.raw[0], u, i, table, first);
        W::codes(rows.raw[1], u, i, table, second);
        const uint32_t a[4] = { first[0], second[0], first[1], second[1] };
        const float d[2] = { W::d(rows.raw[0]), W::d(rows.raw[1]) };
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            int32_t sum[4] = {};
            float v[4];
            token_codes<W>(b, s, t, u);
            mma_s8_k32(sum, a, b);
#pragma unroll
            for (int e = 0; e < 4; e++) v[e] = d[e / 2] * (float)sum[e];
            add_scaled(acc[t], v, s.scale + u * PREFILL_TOKENS, t);
        }
        rows.raw[0] = next[0];
        rows.raw[1] = next[1];
    }
}

/* Calls step(stage, column, units of it) for all columns, while the next ones are fetched. All threads. */
template <class W, int TILES, class F>
DEVICE void each_step(const prefill_codes &x, const int32_t *row_of, prefill_stage *stage, F step)
{
    prefill_held held;
    fetch_codes<TILES>(stage[0], x, row_of, x.begin);
    hold<W>(held, x, row_of, x.begin);
    keep<W>(stage[0], held);
    for (int k = x.begin, now = 0; k < x.end; k += STEP, now ^= 1) {
        const bool more = k + STEP < x.end;
        async_wait<0>();
        __syncthreads();                /* this step is there, and nobody reads the other stage any more */
        if (more) {
            fetch_codes<TILES>(stage[now ^ 1], x, row_of, k + STEP);
            hold<W>(held, x, row_of, k + STEP);
        }
        step(stage[now], k, min(UNITS, (x.end - k) / 32));
        if (more) keep<W>(stage[now ^ 1], held);
    }
}

/* Where a warp's rows are: the sixteen from `first` on of the matrix at `at`; rows beyond the last one
 * stand in for it. */
struct prefill_matrix {
    gpu_ptr at;
    int     type, rows, cols, first, last;
};

/* products: acc = sums of this warp's rows for the tokens whose rows of x are row_of[], TILES times eight of
 * them. All threads of the block. */
template <class W, int TILES> struct prefill_work {
    DEVICE_MEMBER void products(float acc[TILES][4], const prefill_matrix &w, const prefill_codes &x,
                                const int32_t *row_of, prefill_stage *stage, typename W::room &room)
    {
        const int row = w.first + lane_id() / 4, blocks = w.cols / plane_table<W::TYPE>::block_len;
        const planes m = planes_from<W::TYPE>(w.at, (uint64_t)w.rows * (uint64_t)blocks, 0);
        prefill_rows<W> rows;
        rows.block[0] = min(row, w.last) * blocks;
        rows.block[1] = min(row + 8, w.last) * blocks;
        rows.part = x.begin / (32 * W::HELD);
        rows.n_parts = x.end / (32 * W::HELD);
        fetch_part<W>(rows.raw, m, rows, rows.part);
        each_step<W, TILES>(x, row_of, stage, [&](const prefill_stage &s, int k, int units) {
            if constexpr (W::SCALES == BLOCKS) step_of_blocks<W, TILES>(acc, s, m, rows, units, room);
            else step_of<W, TILES>(acc, s, m, rows, k, room);
        });
    }
};

/* A block's shared memory. */
struct pair_tile { int32_t expert, first, n; };
template <class W> struct prefill_room {
    prefill_stage    stage[2];
    int32_t          row_of[PREFILL_TOKENS], pair[PREFILL_TOKENS];
    float            weight[PREFILL_TOKENS];
    pair_tile        tile;
    typename W::room own;
};

/* Calls f(token of the tile, row, index in acc: tile, element) for what this lane has of sixteen rows from
 * `first` on, where there are n tokens and `rows` rows. */
template <int TILES, class F> DEVICE void each_result(int n, int first, int rows, F f)
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = 8 * t + 2 * (lane_id() % 4) + e % 2, row = first + lane_id() / 4 + 8 * (e / 2);
            if (token < n && row < rows) f(token, row, t, e);
        }
}

#endif
