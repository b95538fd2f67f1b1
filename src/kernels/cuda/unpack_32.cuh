/* unpack_32: blocks of 32 and of 64 (unpack.cuh includes this). How the codes are
 * packed is told in src/quant/q32.c, iq4.c and fp4.c. */
#ifndef KERNELS_CUDA_UNPACK_32_CUH
#define KERNELS_CUDA_UNPACK_32_CUH

/* Low nibbles are elements 0..15, high ones 16..31. */
DEVICE void nibbles(uint32_t (&code)[8], uint4 v)
{
    uint32_t q[4];
    words_of(q, v);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        code[i] = q[i] & 0x0f0f0f0fu;
        code[i + 4] = q[i] >> 4 & 0x0f0f0f0fu;
    }
}

/* Fifth bits: bit e of `high` is element e's. */
DEVICE void fifth_bits(uint32_t (&code)[8], uint32_t high)
{
#pragma unroll
    for (int i = 0; i < 8; i++) code[i] |= ((high >> 4 * i & 15u) * 0x00204081u & 0x01010101u) << 4;
}

struct weight_Q4_0 : weight_of_32<QUANT_Q4_0, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        nibbles(w.code, load_once(at.p[0] + 16 * block));
#pragma unroll
        for (int i = 0; i < 8; i++) w.code[i] = bytes_minus(w.code[i], 8);
        plain_scales(w, load_half(at.p[1] + 2 * block));
        return w;
    }
};

struct weight_Q4_1 : weight_of_32<QUANT_Q4_1, true> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        nibbles(w.code, load_once(at.p[0] + 16 * block));
        plain_scales(w, load_half(at.p[1] + 4 * block));
        w.m = load_half(at.p[1] + 4 * block + 2);
        w.offset[0] = w.offset[1] = 1;
        return w;
    }
};

struct weight_Q5_0 : weight_of_32<QUANT_Q5_0, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        nibbles(w.code, load_once(at.p[0] + 16 * block));
        fifth_bits(w.code, load_u32(at.p[1] + 4 * block));
#pragma unroll
        for (int i = 0; i < 8; i++) w.code[i] = bytes_minus(w.code[i], 16);
        plain_scales(w, load_half(at.p[2] + 2 * block));
        return w;
    }
};

struct weight_Q5_1 : weight_of_32<QUANT_Q5_1, true> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        nibbles(w.code, load_once(at.p[0] + 16 * block));
        fifth_bits(w.code, load_u32(at.p[1] + 4 * block));
        plain_scales(w, load_half(at.p[2] + 4 * block));
        w.m = load_half(at.p[2] + 4 * block + 2);
        w.offset[0] = w.offset[1] = 1;
        return w;
    }
};

struct weight_Q8_0 : weight_of_32<QUANT_Q8_0, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        words_of(w.code, load_16(at.p[0] + 32 * block));
        words_of(w.code + 4, load_16(at.p[0] + 32 * block + 16));
        plain_scales(w, load_half(at.p[1] + 2 * block));
        return w;
    }
};

/* Sixteen uneven levels, -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113. */
DEVICE void iq4_levels(uint32_t (&code)[8], uint4 v)
{
    const uint32_t table[4] = { 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u };
    uint32_t q[4];
    words_of(q, v);
#pragma unroll
    for (int i = 0; i < 4; i++) by_nibble(q[i], table, code[i], code[i + 4]);
}

struct weight_IQ4_NL : weight_of_32<QUANT_IQ4_NL, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        iq4_levels(w.code, load_once(at.p[0] + 16 * block));
        plain_scales(w, load_half(at.p[1] + 2 * block));
        return w;
    }
};

struct weight_IQ4_XS : weight_of_256<QUANT_IQ4_XS, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        iq4_levels(w.code, load_once(at.p[0] + 128 * block + 16 * sub));
        const uint2 header = load_8(at.p[1] + 8 * block);       /* d, high bits of scales; low nibbles */
        w.d = half_bits_to_float((uint16_t)header.x);
        w.scale[0] = w.scale[1] = (int)((header.y >> 4 * sub & 15u) | (header.x >> (16 + 2 * sub) & 3u) << 4) - 32;
        no_offsets(w);
        return w;
    }
};

/* Twice the values of E2M1: 0 1 2 3 4 6 8 12 and the same negated. */
DEVICE void e2m1_doubled(uint32_t q, uint32_t &low, uint32_t &high)
{
    const uint32_t table[4] = { 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu };
    by_nibble(q, table, low, high);
}

struct weight_MXFP4 : weight_of_32<QUANT_MXFP4, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int, const entry *)
    {
        weights32 w;
        uint32_t q[4];
        words_of(q, load_once(at.p[0] + 16 * block));
#pragma unroll
        for (int i = 0; i < 4; i++) e2m1_doubled(q[i], w.code[i], w.code[i + 4]);
        const uint32_t e = load_u8(at.p[1] + block);            /* 2^(e-128) */
        plain_scales(w, as_float(e == 255u ? 0x7fc00000u : e < 2u ? 0x00200000u << e : (e - 1u) << 23));
        return w;
    }
};

/* An unsigned E4M3 in steps of 2^-9, the smallest there is; NaN counts as 0. */
DEVICE int ue4m3_steps(uint32_t c)
{
    const int e = (int)(c >> 3 & 15u), mantissa = (int)(c & 7u);
    return (c & 0x7fu) == 0x7fu ? 0 : e == 0 ? mantissa : (8 + mantissa) << (e - 1);
}

struct weight_NVFP4 : weight_of_32<QUANT_NVFP4, false> {
    static constexpr int subs = 2;
    static constexpr bool wide = true;
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        uint32_t q[4];                                          /* two words hold 16: low nibbles first */
        words_of(q, load_once(at.p[0] + 32 * block + 16 * sub));
#pragma unroll
        for (int i = 0; i < 4; i++) e2m1_doubled(q[i], w.code[i / 2 * 4 + i % 2], w.code[i / 2 * 4 + i % 2 + 2]);
        const uint32_t scales = load_u16(at.p[1] + 4 * block + 2 * sub);
        w.d = 0.0009765625f;                                    /* half a step of 2^-9: codes are doubled */
        w.scale[0] = ue4m3_steps(scales & 255u);
        w.scale[1] = ue4m3_steps(scales >> 8);
        no_offsets(w);
        return w;
    }
};

#endif
