/* prefill_weights: how a lane unpacks weights into what the matrix unit's `a` wants.
 *
 * A lane (g, i) of a warp holds rows g and g + 8 of the warp's sixteen, of each eight numbers of
 * every 32 columns, a unit. Which eight is free, as long as the activations are read in the same order, so
 * each type takes what lies together in its blocks: column(u, i) of a step is where word 0 of unit u
 * begins; word 1 follows it.
 *
 *   SCALES   how sums become numbers
 *     FOLDED   the group scale is multiplied into the codes, which stay within int8: sums of 256
 *     GROUPS   an integer scale for each unit
 *     BLOCKS   blocks of 32 with a float scale
 *   SUMS     how the activations' sums of 16 are wanted, of types with offsets: two bytes each, or whole
 *   HELD     units of which a lane keeps a row's bytes in registers at a time, a part
 *
 * raw is a part of one row; load fetches it, codes and scale take it apart. end is what a block's
 * sums are multiplied with, read last. */
#ifndef KERNELS_CUDA_PREFILL_WEIGHTS_CUH
#define KERNELS_CUDA_PREFILL_WEIGHTS_CUH

#include "kernels/cuda/unpack.cuh"

enum prefill_scales { FOLDED, GROUPS, BLOCKS };

enum prefill_sums { NO_SUMS, BYTE_SUMS, WHOLE_SUMS };

/* Shared memory of a type with a codebook, and of one without. */
struct no_room {};
struct codebook_room { uint64_t entry[256]; };

/* offsets: of the columns 64i.., four groups of 16. */
struct block_end {
    float    d, dmin;
    uint32_t offsets;
};

DEVICE float low_half(uint32_t w) { return half_bits_to_float((uint16_t)(w & 0xffffu)); }
DEVICE float high_half(uint32_t w) { return half_bits_to_float((uint16_t)(w >> 16)); }

/* 32 codes of a byte, one half. Lane i has bytes 8i.. of each block. */
struct fragments_q8_0 {
    typedef no_room room;
    static constexpr int TYPE = QUANT_Q8_0, HELD = 1;
    static constexpr prefill_scales SCALES = BLOCKS;
    static constexpr prefill_sums SUMS = NO_SUMS;
    DEVICE_MEMBER void prepare(room &) {}
    struct raw { uint2 code; float d; };
    DEVICE_MEMBER int column(int u, int i) { return 32 * u + 8 * i; }
    DEVICE_MEMBER void load(raw &r, const planes &m, int block, int part, int i)
    {
        (void)part;
        r.code = load_8(m.p[0] + (int64_t)32 * block + 8 * i);
        r.d = load_half(m.p[1] + (int64_t)2 * block);
    }
    DEVICE_MEMBER void codes(const raw &r, int u, int i, const room &table, uint32_t out[2])
    {
        (void)u, (void)i, (void)table;
        out[0] = r.code.x;
        out[1] = r.code.y;
    }
    DEVICE_MEMBER float d(const raw &r) { return r.d; }
};

/* 2-bit codes times 4-bit scales are at most 45. Lane i has 16 bytes of the 64, four numbers of 2 bits in
 * each: columns 128(i/2) + 16(i%2) + 32q, q the number in the byte. Lanes 2 and 3 take the halves of their
 * bytes the other way round, so that their activations lie in other banks than those of lanes 0 and 1. */
struct fragments_q2_k {
    typedef no_room room;
    static constexpr int TYPE = QUANT_Q2_K, HELD = 8;
    static constexpr prefill_scales SCALES = FOLDED;
    static constexpr prefill_sums SUMS = BYTE_SUMS;
    DEVICE_MEMBER void prepare(room &) {}
    struct raw { uint4 code; uint2 scale; };
    DEVICE_MEMBER int column(int u, int i) { return 128 * (i / 2) + 16 * (i % 2) + 32 * (u / 2) + 8 * (u % 2 ^ i / 2); }
    DEVICE_MEMBER void load(raw &r, const planes &m, int block, int part, int i)
    {
        (void)part;
        const uint4 c = load_16(m.p[0] + (int64_t)64 * block + 16 * i);
        r.code = i < 2 ? c : make_uint4(c.z, c.w, c.x, c.y);
        r.scale = load_8(m.p[1] + (int64_t)16 * block + 8 * (i / 2));
    }
    DEVICE_MEMBER void codes(const raw &r, int u, int i, const room &table, uint32_t out[2])
    {
        (void)table;
        const int q = u / 2;
        const uint32_t scale = (q < 2 ? r.scale.x : r.scale.y) >> (16 * (q % 2) + 8 * (i % 2)) & 15u;
        out[0] = ((u % 2 ? r.code.z : r.code.x) >> (2 * q) & 0x03030303u) * scale;
        out[1] = ((u % 2 ? r.code.w : r.code.y) >> (2 * q) & 0x03030303u) * scale;
    }
    DEVICE_MEMBER int scale(const raw &r, int u) { (void)r, (void)u; return 1; }
    DEVICE_MEMBER block_end end(const planes &m, int block, int i)
    {
        const uint32_t d = load_u32(m.p[2] + (int64_t)4 * block);
        const uint32_t four = load_u32(m.p[1] + (int64_t)16 * block + 4 * i);
        const block_end e = { low_half(d), high_half(d), four >> 4 & 0x0f0f0f0fu };
        return e;
    }
};

/* Two halves, eight scales and offsets of 6 bits, 4-bit codes: columns 64c + 32h + p are nibble h of byte
 * 32c + p. The 12 bytes of scales: kquants.c. */
struct fragments_q4_k {
    typedef no_room room;
    static constexpr int TYPE = QUANT_Q4_K, HELD = 2;
    static constexpr prefill_scales SCALES = GROUPS;
    static constexpr prefill_sums SUMS = BYTE_SUMS;
    DEVICE_MEMBER void prepare(room &) {}
    struct raw { uint32_t scale; uint2 code; };
    DEVICE_MEMBER int column(int u, int i) { return 32 * u + 8 * i; }
    DEVICE_MEMBER void load(raw &r, const planes &m, int block, int part, int i)
    {
        const uint8_t *p = m.p[0] + (int64_t)144 * block;
        const uint4 head = load_16(p);
        const uint32_t four = part < 2 ? head.y & 0x3f3f3f3fu : (head.w & 0x0f0f0f0fu) | (head.y >> 2 & 0x30303030u);
        r.scale = four >> (16 * (part % 2));
        r.code = load_8(p + 16 + 32 * part + 8 * i);
    }
    DEVICE_MEMBER void codes(const raw &r, int u, int i, const room &table, uint32_t out[2])
    {
        (void)i, (void)table;
        out[0] = r.code.x >> (4 * u) & 0x0f0f0f0fu;
        out[1] = r.code.y >> (4 * u) & 0x0f0f0f0fu;
    }
    DEVICE_MEMBER int scale(const raw &r, int u) { return (int)(r.scale >> (8 * u) & 255u); }
    DEVICE_MEMBER block_end end(const planes &m, int block, int i)
    {
        const uint4 head = load_16(m.p[0] + (int64_t)144 * block);
        const uint32_t all = i < 2 ? head.z & 0x3f3f3f3fu : (head.w >> 4 & 0x0f0f0f0fu) | (head.z >> 2 & 0x30303030u);
        const block_end e = { low_half(head.x), high_half(head.x), __byte_perm(all, 0, i % 2 ? 0x3322 : 0x1100) };
        return e;
    }
};

/* Per 32 columns four indices, four sign masks of 7 bits and a scale; lane i has the i-th. */
struct fragments_iq2_xxs {
    typedef codebook_room room;
    static constexpr int TYPE = QUANT_IQ2_XXS, HELD = 2;
    static constexpr prefill_scales SCALES = GROUPS;
    static constexpr prefill_sums SUMS = NO_SUMS;
    DEVICE_MEMBER void prepare(room &table)
    {
        for (int at = (int)threadIdx.x; at < 256; at += (int)blockDim.x) table.entry[at] = codebook_iq2_xxs[at];
    }
    struct raw { uint4 words; };
    DEVICE_MEMBER int column(int u, int i) { return 32 * u + 8 * i; }
    DEVICE_MEMBER void load(raw &r, const planes &m, int block, int part, int i)
    {
        (void)i;
        r.words = load_16(m.p[0] + (int64_t)64 * block + 16 * part);
    }
    DEVICE_MEMBER uint32_t rest(const raw &r, int u) { return u ? r.words.w : r.words.y; }
    DEVICE_MEMBER void codes(const raw &r, int u, int i, const room &table, uint32_t out[2])
    {
        const uint32_t index = u ? r.words.z : r.words.x;
        const uint32_t signs = even_signs(rest(r, u) >> (7 * i) & 127u);
        const uint64_t entry = table.entry[index >> (8 * i) & 255u];
        out[0] = bytes_signed((uint32_t)entry, signs);
        out[1] = bytes_signed((uint32_t)(entry >> 32), signs >> 4);
    }
    DEVICE_MEMBER int scale(const raw &r, int u) { return (int)(2u * (rest(r, u) >> 28) + 1u); }
    DEVICE_MEMBER block_end end(const planes &m, int block, int i)
    {
        (void)i;
        const block_end e = { 0.125f * load_half(m.p[1] + (int64_t)2 * block), 0.0f, 0 };
        return e;
    }
};

#endif
