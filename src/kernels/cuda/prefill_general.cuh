/* prefill_general: the types without fragments of their own, taken apart by unpack.cuh.
 *
 * A warp's lanes each unpack 32 weights, two such units of its sixteen rows at a time, into the warp's part
 * of shared memory, and read from there what the matrix unit wants. Every 16 columns have a float scale and
 * a float offset, whatever the type's own are. */
#ifndef KERNELS_CUDA_PREFILL_GENERAL_CUH
#define KERNELS_CUDA_PREFILL_GENERAL_CUH

#include "kernels/cuda/prefill_tile.cuh"

/* One unit of a row, as floats where it is not codes. */
struct general_unit {
    uint32_t code[8];
    float4   factor;            /* scales of the two halves, then their offsets */
};

template <class W> DEVICE void unpack_unit(general_unit &u, const prefill_matrix &m, int row, int unit)
{
    const int each = m.cols / plane_table<W::type>::block_len;
    const planes at = planes_from<W::type>(m.at, (uint64_t)m.rows * (uint64_t)each, (uint64_t)row * (uint64_t)each);
    const weights32 w = W::load(at, unit / W::subs, unit % W::subs, W::grid());
#pragma unroll
    for (int j = 0; j < 8; j++) u.code[j] = w.code[j];
    u.factor = make_float4(weights_scale(w, 0), weights_scale(w, 1), weights_min(w, 0), weights_min(w, 1));
}

DEVICE void unpack_any(general_unit &u, const prefill_matrix &m, int row, int unit)
{
#define UNPACK_CASE(name) case QUANT_##name: unpack_unit<weight_##name>(u, m, row, unit); break;
    switch (m.type) {
        UNPACK_CASE(Q4_0) UNPACK_CASE(Q4_1) UNPACK_CASE(Q5_0) UNPACK_CASE(Q5_1) UNPACK_CASE(IQ4_NL) UNPACK_CASE(MXFP4)
        UNPACK_CASE(NVFP4) UNPACK_CASE(Q3_K) UNPACK_CASE(Q5_K) UNPACK_CASE(Q6_K) UNPACK_CASE(IQ2_XS) UNPACK_CASE(IQ2_S)
        UNPACK_CASE(IQ3_XXS) UNPACK_CASE(IQ3_S) UNPACK_CASE(IQ1_S) UNPACK_CASE(IQ4_XS)
    }
#undef UNPACK_CASE
}

/* What a warp has unpacked. A row's two units are 64 bytes; with 16 more, eight rows by four lanes meet all
 * banks. */
enum { GENERAL_PITCH = 80 };
struct general_warp {
    uint8_t code[16 * GENERAL_PITCH];
    float4  factor[16][2];
};

struct fragments_general {
    struct room { general_warp warp[PREFILL_THREADS / WARP]; };
    static constexpr prefill_scales SCALES = BLOCKS;
    static constexpr prefill_sums SUMS = WHOLE_SUMS;
    DEVICE_MEMBER void prepare(room &) {}
};

static_assert(sizeof(prefill_room<fragments_general>) == PREFILL_GENERAL_BYTES, "as much as the host asks for");

/* Units u and u + 1 of the step at column k into the warp's room; 0 where the row has ended. */
DEVICE void unpack_two(general_warp &room, const prefill_matrix &m, int k, int u, int units)
{
    const int row = lane_id() / 2, nth = lane_id() % 2;
    general_unit w = {};
    if (u + nth < units) unpack_any(w, m, min(m.first + row, m.last), k / 32 + u + nth);
    uint4 *to = reinterpret_cast<uint4 *>(room.code + row * GENERAL_PITCH + 32 * nth);
    to[0] = make_uint4(w.code[0], w.code[1], w.code[2], w.code[3]);
    to[1] = make_uint4(w.code[4], w.code[5], w.code[6], w.code[7]);
    room.factor[row][nth] = w.factor;
}

/* v = scaled sums of both halves of a unit, with their offsets, of rows g and g + 8 and two tokens. */
DEVICE void unit_sums(float v[4], const prefill_stage &s, int tile, int u, const uint32_t a[4], const float4 factor[2])
{
    const int g = lane_id() / 4, i = lane_id() % 4;
    const uint32_t *b = reinterpret_cast<const uint32_t *>(s.codes + (8 * tile + g) * ROW_BYTES + 32 * u) + i;
    const uint32_t *sums = s.sums + 8 * (8 * tile + 2 * i) + u;
    const uint32_t sum[2] = { sums[0], sums[8] };
    int32_t first[4] = {}, second[4] = {};
    mma_s8_k16(first, a, b);
    mma_s8_k16(second, a + 2, b + 4);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float4 f = factor[e / 2];
        v[e] = f.x * (float)first[e] + f.y * (float)second[e] +
               f.z * (float)(int16_t)(sum[e % 2] & 0xffffu) + f.w * (float)(int16_t)(sum[e % 2] >> 16);
    }
}

template <int TILES> struct prefill_work<fragments_general, TILES> {
    DEVICE_MEMBER void products(float acc[TILES][4], const prefill_matrix &m, const prefill_codes &x,
                                const int32_t *row_of, prefill_stage *stage, fragments_general::room &room)
    {
        const int g = lane_id() / 4, i = lane_id() % 4;
        general_warp &own = room.warp[warp_id()];
        each_step<fragments_general, TILES>(x, row_of, stage, [&](const prefill_stage &s, int k, int units) {
    #pragma unroll 1
            for (int u = 0; u < UNITS; u++) {
                if (u >= units) break;
                if (u % 2 == 0) {
                    __syncwarp();           /* all have read the two before */
                    unpack_two(own, m, k, u, units);
                    __syncwarp();
                }
                const uint8_t *code = own.code + g * GENERAL_PITCH + 32 * (u % 2);
                const uint32_t *at = reinterpret_cast<const uint32_t *>(code) + i;
                const uint32_t a[4] = { at[0], at[8 * GENERAL_PITCH / 4], at[4], at[8 * GENERAL_PITCH / 4 + 4] };
                const float4 factor[2] = { own.factor[g][u % 2], own.factor[g + 8][u % 2] };
    #pragma unroll
                for (int t = 0; t < TILES; t++) {
                    float v[4];
                    unit_sums(v, s, t, u, a, factor);
                    add_scaled(acc[t], v, s.scale + u * PREFILL_TOKENS, t);
                }
            }
        });
    }
};

#endif
