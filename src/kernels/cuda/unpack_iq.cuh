/* unpack_iq: super-blocks of 256 with codebooks (unpack.cuh includes this). How they are
 * packed is told in src/quant/iquants.c and iq1.c.
 *
 * The codebooks lie in the device's memory; grid_copy brings one into shared memory,
 * where 32 lanes can read 32 entries at once. */
#ifndef KERNELS_CUDA_UNPACK_IQ_CUH
#define KERNELS_CUDA_UNPACK_IQ_CUH

#include "quant/grids.h"

/* A level of an entry as its byte, in place: as in src/quant/tables.c. */
#define GRID_LEVEL2(u, j)  (0x##u##ull >> 2 * (j) & 3)
#define GRID_LEVEL3(e, j)  (0x##e##u >> 3 * (j) & 7)
#define GRID_IQ2(u, j)     (8 + 17 * GRID_LEVEL2(u, j) + GRID_LEVEL2(u, j) / 2) << 8 * (j)
#define GRID_IQ1(u, j)     ((GRID_LEVEL2(u, j) + 255) & 255) << 8 * (j)
#define GRID_IQ3X(u, j)    (4 + 8 * GRID_LEVEL3(u, j) + GRID_LEVEL3(u, j) / 7 * 2) << 8 * (j)
#define GRID_IQ3(u, j)     (1 + 2 * GRID_LEVEL3(u, j)) << 8 * (j)
#define GRID_FOUR(B, u)    (B(u, 0) | B(u, 1) | B(u, 2) | B(u, 3))
#define GRID_EIGHT(B, u)   (GRID_FOUR(B, u) | B(u, 4) | B(u, 5) | B(u, 6) | B(u, 7))
#define GRID_ENTRY_IQ2(u)  GRID_EIGHT(GRID_IQ2, u),
#define GRID_ENTRY_IQ1(u)  GRID_EIGHT(GRID_IQ1, u),
#define GRID_ENTRY_IQ3X(u) GRID_FOUR(GRID_IQ3X, u),
#define GRID_ENTRY_IQ3(u)  GRID_FOUR(GRID_IQ3, u),

CONSTANT_TABLE uint64_t codebook_iq2_xxs[256] = { GRID_IQ2_XXS(GRID_ENTRY_IQ2) };
CONSTANT_TABLE uint64_t codebook_iq2_xs[512]  = { GRID_IQ2_XS(GRID_ENTRY_IQ2) };
CONSTANT_TABLE uint64_t codebook_iq2_s[1024]  = { GRID_IQ2_S(GRID_ENTRY_IQ2) };
CONSTANT_TABLE uint64_t codebook_iq1_s[2048]  = { GRID_IQ1_S(GRID_ENTRY_IQ1) };
CONSTANT_TABLE uint32_t codebook_iq3_xxs[256] = { GRID_IQ3_XXS(GRID_ENTRY_IQ3X) };
CONSTANT_TABLE uint32_t codebook_iq3_s[512]   = { GRID_IQ3_S(GRID_ENTRY_IQ3) };

template <int TYPE, int ENTRIES, class ENTRY> struct weight_of_grid {
    static constexpr int type = TYPE, subs = 8, entries = ENTRIES;
    static constexpr bool super = true, affine = false, wide = false;
    typedef ENTRY entry;
};

/* The codebook of W in `room`, W::entries of shared memory, by all threads; a barrier must follow. */
template <class W> DEVICE const typename W::entry *grid_copy(typename W::entry *room)
{
    for (int i = (int)threadIdx.x; i < W::entries; i += (int)blockDim.x) room[i] = W::grid()[i];
    return room;
}

/* Eight weights: an entry with signs. */
DEVICE void put_eight(uint32_t *code, uint64_t entry, uint32_t signs)
{
    code[0] = bytes_signed((uint32_t)entry, signs);
    code[1] = bytes_signed((uint32_t)(entry >> 32), signs >> 4);
}

DEVICE void odd_scales(weights32 &w, uint32_t first, uint32_t second, float d)
{
    w.scale[0] = 2 * (int)first + 1;
    w.scale[1] = 2 * (int)second + 1;
    w.d = d;
    no_offsets(w);
}

struct weight_IQ2_XXS : weight_of_grid<QUANT_IQ2_XXS, 256, uint64_t> {
    DEVICE_MEMBER const entry *grid() { return codebook_iq2_xxs; }
    /* 32 weights of the two words that hold them. */
    DEVICE_MEMBER weights32 of(uint32_t index, uint32_t rest, float d, const entry *book)
    {
        weights32 w;
#pragma unroll
        for (int k = 0; k < 4; k++)
            put_eight(w.code + 2 * k, book[index >> 8 * k & 255u], even_signs(rest >> 7 * k & 127u));
        odd_scales(w, rest >> 28, rest >> 28, 0.125f * d);
        return w;
    }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        const uint2 v = load_8(at.p[0] + 64 * block + 8 * sub);
        return of(v.x, v.y, load_half(at.p[1] + 2 * block), book);
    }
};

struct weight_IQ2_XS : weight_of_grid<QUANT_IQ2_XS, 512, uint64_t> {
    DEVICE_MEMBER const entry *grid() { return codebook_iq2_xs; }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        weights32 w;
        const uint2 v = load_8(at.p[0] + 64 * block + 8 * sub);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t part = (k < 2 ? v.x : v.y) >> 16 * (k % 2) & 0xffffu;
            put_eight(w.code + 2 * k, book[part & 511u], even_signs(part >> 9));
        }
        const uint32_t scales = load_u8(at.p[1] + 8 * block + sub);
        odd_scales(w, scales & 15u, scales >> 4, 0.125f * load_half(at.p[2] + 2 * block));
        return w;
    }
};

struct weight_IQ2_S : weight_of_grid<QUANT_IQ2_S, 1024, uint64_t> {
    DEVICE_MEMBER const entry *grid() { return codebook_iq2_s; }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        weights32 w;
        const uint8_t *p = at.p[0] + 64 * block + 4 * sub;
        const uint32_t index = load_u32(p), signs = load_u32(p + 32), high = load_u8(at.p[1] + 16 * block + sub);
#pragma unroll
        for (int k = 0; k < 4; k++)
            put_eight(w.code + 2 * k, book[(index >> 8 * k & 255u) | (high >> 2 * k & 3u) << 8], signs >> 8 * k);
        const uint32_t scales = load_u8(at.p[1] + 16 * block + 8 + sub);
        odd_scales(w, scales & 15u, scales >> 4, 0.125f * load_half(at.p[2] + 2 * block));
        return w;
    }
};

struct weight_IQ3_XXS : weight_of_grid<QUANT_IQ3_XXS, 256, uint32_t> {
    DEVICE_MEMBER const entry *grid() { return codebook_iq3_xxs; }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        weights32 w;
        const uint2 v = load_8(at.p[0] + 64 * block + 8 * sub);
        const uint32_t rest = load_u32(at.p[1] + 32 * block + 4 * sub);
#pragma unroll
        for (int i = 0; i < 8; i++)
            w.code[i] = bytes_signed(book[(i < 4 ? v.x : v.y) >> 8 * (i % 4) & 255u],
                                     even_signs(rest >> 7 * (i / 2) & 127u) >> 4 * (i % 2));
        odd_scales(w, rest >> 28, rest >> 28, 0.25f * load_half(at.p[2] + 2 * block));
        return w;
    }
};

struct weight_IQ3_S : weight_of_grid<QUANT_IQ3_S, 512, uint32_t> {
    DEVICE_MEMBER const entry *grid() { return codebook_iq3_s; }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        weights32 w;
        const uint2 v = load_8(at.p[0] + 64 * block + 8 * sub);
        const uint32_t signs = load_u32(at.p[1] + 32 * block + 4 * sub), high = load_u8(at.p[2] + 8 * block + sub);
#pragma unroll
        for (int i = 0; i < 8; i++)
            w.code[i] = bytes_signed(book[((i < 4 ? v.x : v.y) >> 8 * (i % 4) & 255u) | (high >> i & 1u) << 8],
                                     signs >> 4 * i);
        const uint32_t scale = load_u8(at.p[3] + 4 * block + sub / 2) >> 4 * (sub % 2) & 15u;
        odd_scales(w, scale, scale, load_half(at.p[4] + 2 * block));
        return w;
    }
};

/* -1, 0, 1 and a shift of an eighth: offsets are scales with the shift's sign. */
struct weight_IQ1_S : weight_of_grid<QUANT_IQ1_S, 2048, uint64_t> {
    static constexpr bool affine = true;
    DEVICE_MEMBER const entry *grid() { return codebook_iq1_s; }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        weights32 w;
        const uint32_t index = load_u32(at.p[0] + 32 * block + 4 * sub);
        const uint32_t word = load_u16(at.p[1] + 16 * block + 2 * sub);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint64_t e = book[(index >> 8 * k & 255u) | (word >> 3 * k & 7u) << 8];
            w.code[2 * k] = (uint32_t)e;
            w.code[2 * k + 1] = (uint32_t)(e >> 32);
        }
        const int scale = 2 * (int)(word >> 12 & 7u) + 1;
        w.scale[0] = w.scale[1] = scale;
        w.offset[0] = w.offset[1] = word >> 15 ? -scale : scale;
        w.d = load_half(at.p[2] + 2 * block);
        w.m = 0.125f * w.d;
        return w;
    }
};

#endif
