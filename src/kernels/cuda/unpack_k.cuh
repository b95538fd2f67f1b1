/* unpack_k: super-blocks of 256 with whole scales inside (unpack.cuh includes this). How
 * they are packed is told in src/quant/kquants.c. */
#ifndef KERNELS_CUDA_UNPACK_K_CUH
#define KERNELS_CUDA_UNPACK_K_CUH

/* 32 bytes that neighbouring sub-blocks read too. */
DEVICE void words8(uint32_t (&to)[8], const uint8_t *p)
{
    words_of(to, load_16(p));
    words_of(to + 4, load_16(p + 16));
}

struct weight_Q2_K : weight_of_256<QUANT_Q2_K, true> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        words8(w.code, at.p[0] + 64 * block + 32 * (sub / 4));
#pragma unroll
        for (int i = 0; i < 8; i++) w.code[i] = w.code[i] >> 2 * (sub % 4) & 0x03030303u;
        const uint32_t groups = load_u16(at.p[1] + 16 * block + 2 * sub), d = load_u32(at.p[2] + 4 * block);
        w.d = half_bits_to_float((uint16_t)d);
        w.m = -half_bits_to_float((uint16_t)(d >> 16));
        w.scale[0] = (int)(groups & 15u);
        w.scale[1] = (int)(groups >> 8 & 15u);
        w.offset[0] = (int)(groups >> 4 & 15u);
        w.offset[1] = (int)(groups >> 12);
        return w;
    }
};

struct weight_Q3_K : weight_of_256<QUANT_Q3_K, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        uint32_t high[8];
        words8(w.code, at.p[0] + 64 * block + 32 * (sub / 4));
        words8(high, at.p[1] + 32 * block);
#pragma unroll
        for (int i = 0; i < 8; i++)
            w.code[i] = bytes_minus((w.code[i] >> 2 * (sub % 4) & 0x03030303u)
                                    | (high[i] >> sub & 0x01010101u) << 2, 4);
        const uint8_t *scales = at.p[2] + 12 * block;
        const uint32_t low = load_u16(scales + 2 * sub % 8) >> sub / 4 * 4;
        const uint32_t top = load_u16(scales + 8 + 2 * sub % 4) >> sub / 2 * 2;
        w.scale[0] = (int)((low & 15u) | (top & 3u) << 4) - 32;
        w.scale[1] = (int)((low >> 8 & 15u) | (top >> 8 & 3u) << 4) - 32;
        w.d = load_half(at.p[3] + 2 * block);
        no_offsets(w);
        return w;
    }
};

/* Scale and offset of sub-block g from the header of Q4_K and Q5_K. */
DEVICE void six_bits(weights32 &w, uint4 header, int g)
{
    const uint32_t at = 8 * (g & 3), s = header.y >> at, o = header.z >> at, rest = header.w >> at;
    w.d = half_bits_to_float((uint16_t)header.x);
    w.m = -half_bits_to_float((uint16_t)(header.x >> 16));
    w.scale[0] = w.scale[1] = (int)(g < 4 ? s & 63u : (rest & 15u) | (s >> 2 & 0x30u));
    w.offset[0] = w.offset[1] = (int)(g < 4 ? o & 63u : (rest >> 4 & 15u) | (o >> 2 & 0x30u));
}

struct weight_Q4_K : weight_of_256<QUANT_Q4_K, true> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        const uint8_t *p = at.p[0] + 144 * block;
        words8(w.code, p + 16 + 32 * (sub / 2));
#pragma unroll
        for (int i = 0; i < 8; i++) w.code[i] = w.code[i] >> 4 * (sub % 2) & 0x0f0f0f0fu;
        six_bits(w, load_16(p), sub);
        return w;
    }
};

struct weight_Q5_K : weight_of_256<QUANT_Q5_K, true> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        uint32_t high[8];
        const uint8_t *p = at.p[0] + 176 * block;
        words8(w.code, p + 48 + 32 * (sub / 2));
        words8(high, p + 16);
#pragma unroll
        for (int i = 0; i < 8; i++)
            w.code[i] = (w.code[i] >> 4 * (sub % 2) & 0x0f0f0f0fu) | (high[i] >> sub & 0x01010101u) << 4;
        six_bits(w, load_16(p), sub);
        return w;
    }
};

struct weight_Q6_K : weight_of_256<QUANT_Q6_K, false> {
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *)
    {
        weights32 w;
        uint32_t high[8];
        const int half = sub / 4, k = sub % 4;
        words8(w.code, at.p[0] + 128 * block + 64 * half + 32 * (k % 2));
        words8(high, at.p[1] + 64 * block + 32 * half);
#pragma unroll
        for (int i = 0; i < 8; i++)
            w.code[i] = bytes_minus((w.code[i] >> k / 2 * 4 & 0x0f0f0f0fu) | (high[i] >> 2 * k & 0x03030303u) << 4, 32);
        const uint32_t scales = load_u16(at.p[2] + 16 * block + 2 * sub);
        w.scale[0] = (int8_t)scales;
        w.scale[1] = (int8_t)(scales >> 8);
        w.d = load_half(at.p[3] + 2 * block);
        no_offsets(w);
        return w;
    }
};

#endif
