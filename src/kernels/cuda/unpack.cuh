/* unpack: the numbers in a weight's planes, for kernels that multiply with them.
 *
 * Every type of planes.h that has blocks is a struct weight_NAME. Its load() turns 32
 * consecutive weights, sub-block `sub` of block `block`, into eight words of four int8
 * codes in the order of the columns, with whole scales and offsets per 16:
 *
 *     w[i] = d * scale[i/16] * code[i] + m * offset[i/16]
 *
 * so that a product with quantised activations stays in whole numbers over those 32.
 * What a type does not have (offsets, scales within the block) is the constant 0 or 1,
 * which the compiler removes. Blocks count from the one that `planes` point at; a row's
 * begin at planes_from. Nothing is read beyond the 32 weights and the block's header. */
#ifndef KERNELS_CUDA_UNPACK_CUH
#define KERNELS_CUDA_UNPACK_CUH

#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/planes.h"
#include "quant/quant.h"

/* ---- planes ------------------------------------------------------------------------ */

template <int type> struct plane_table;
#define PLANE_TABLE(name, length, bytes, count, f0, l0, f1, l1, f2, l2, f3, l3, f4, l4) \
    template <> struct plane_table<QUANT_##name> {                            \
        static constexpr int block_len = length, n = count;                   \
        static constexpr int len0 = l0, len1 = l1, len2 = l2, len3 = l3, len4 = l4; \
    };
PLANES_TYPES(PLANE_TABLE)
#undef PLANE_TABLE

/* Where a block's bytes lie, by plane. */
struct planes { const uint8_t *p[PLANES_MAX]; };

DEVICE uint64_t plane_aligned(uint64_t bytes) { return (bytes + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN; }

/* Block `first` of a matrix of `blocks` blocks at `at`. */
template <int type> DEVICE planes planes_from(gpu_ptr at, uint64_t blocks, uint64_t first)
{
    typedef plane_table<type> t;
    planes r = { { gpu_at<const uint8_t>(at, first * t::len0) } };
    uint64_t begin = at + plane_aligned(blocks * t::len0);
    if (t::n > 1) r.p[1] = gpu_at<const uint8_t>(begin, first * t::len1);
    begin += plane_aligned(blocks * t::len1);
    if (t::n > 2) r.p[2] = gpu_at<const uint8_t>(begin, first * t::len2);
    begin += plane_aligned(blocks * t::len2);
    if (t::n > 3) r.p[3] = gpu_at<const uint8_t>(begin, first * t::len3);
    begin += plane_aligned(blocks * t::len3);
    if (t::n > 4) r.p[4] = gpu_at<const uint8_t>(begin, first * t::len4);
    return r;
}

/* Row `row` of the rows that `w` means. */
template <int type> DEVICE planes planes_of_row(const gpu_weight &w, int row)
{
    const uint64_t each = (uint64_t)(w.cols / plane_table<type>::block_len);
    return planes_from<type>(w.at, (uint64_t)w.matrix_rows * each, (uint64_t)(w.row0 + row) * each);
}

DEVICE uint32_t load_u8(const uint8_t *p)  { return __ldg(p); }
DEVICE uint32_t load_u16(const uint8_t *p) { return __ldg(reinterpret_cast<const uint16_t *>(p)); }
DEVICE uint32_t load_u32(const uint8_t *p) { return __ldg(reinterpret_cast<const uint32_t *>(p)); }
DEVICE uint2    load_8(const uint8_t *p)   { return __ldg(reinterpret_cast<const uint2 *>(p)); }
/* 16 bytes that other lanes want too. */
DEVICE uint4    load_16(const uint8_t *p)  { return __ldg(reinterpret_cast<const uint4 *>(p)); }
DEVICE float    load_half(const uint8_t *p) { return half_bits_to_float((uint16_t)load_u16(p)); }

/* ---- words of four bytes ------------------------------------------------------------ */

/* Bytes 0..127 less c <= 128, each by itself. */
DEVICE uint32_t bytes_minus(uint32_t x, uint32_t c) { return ((x | 0x80808080u) - c * 0x01010101u) ^ 0x80808080u; }

/* Bytes 1..127, negated where the bit of signs (0..3) is set. */
DEVICE uint32_t bytes_signed(uint32_t x, uint32_t signs)
{
    const uint32_t ones = (signs & 15u) * 0x00204081u & 0x01010101u;
    return (x ^ ones * 255u) + ones;
}

/* The sign mask of eight for a seven-bit sign index: an even number of ones. */
DEVICE uint32_t even_signs(uint32_t index) { return index | ((uint32_t)__popc(index) & 1u) << 7; }

/* 16 bytes of a table by the eight nibbles of q: those of low nibbles, those of high ones. */
DEVICE void by_nibble(uint32_t q, const uint32_t (&table)[4], uint32_t &low, uint32_t &high)
{
    const uint32_t at = q & 0x77777777u, upper = (q & 0x88888888u) >> 1 | 0x32103210u;
    const uint32_t a = __byte_perm(__byte_perm(table[0], table[1], at), __byte_perm(table[2], table[3], at), upper);
    const uint32_t b = __byte_perm(__byte_perm(table[0], table[1], at >> 16), __byte_perm(table[2], table[3], at >> 16),
                                   upper >> 16);
    low = __byte_perm(a, b, 0x6420);
    high = __byte_perm(a, b, 0x7531);
}

/* ---- 32 weights ------------------------------------------------------------------------ */

struct weights32 {
    uint32_t code[8];
    int      scale[2], offset[2];
    float    d, m;
};

/* w[0..15] (half 0) and w[16..31] as float factors of code, and what is added. */
DEVICE float weights_scale(const weights32 &w, int half) { return w.d * (float)w.scale[half]; }
DEVICE float weights_min(const weights32 &w, int half) { return w.m * (float)w.offset[half]; }

/* What a struct weight_NAME says of its type:
 *   type, subs       quant_type; sub-blocks of 32 in a block
 *   super            activations are rounded by blocks of 256 (Q8_K), else of 32
 *   affine           offsets are not all 0
 *   wide             scales up to 2^18: their products with sums of 16 are for floats
 *   entries, entry   the codebook, if there is one; load()'s last argument points at it or at a copy */
template <int TYPE, bool AFFINE> struct weight_of_32 {
    static constexpr int type = TYPE, subs = 1, entries = 0;
    static constexpr bool super = false, affine = AFFINE, wide = false;
    typedef uint32_t entry;
    DEVICE_MEMBER const entry *grid() { return nullptr; }
};
template <int TYPE, bool AFFINE> struct weight_of_256 {
    static constexpr int type = TYPE, subs = 8, entries = 0;
    static constexpr bool super = true, affine = AFFINE, wide = false;
    typedef uint32_t entry;
    DEVICE_MEMBER const entry *grid() { return nullptr; }
};

DEVICE void plain_scales(weights32 &w, float d)
{
    w.d = d;
    w.m = 0.0f;
    w.scale[0] = w.scale[1] = 1;
    w.offset[0] = w.offset[1] = 0;
}

DEVICE void no_offsets(weights32 &w)
{
    w.m = 0.0f;
    w.offset[0] = w.offset[1] = 0;
}

DEVICE void words_of(uint32_t *to, uint4 v)
{
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
}

#include "kernels/cuda/unpack_32.cuh"
#include "kernels/cuda/unpack_k.cuh"
#include "kernels/cuda/unpack_iq.cuh"

/* ---- products -------------------------------------------------------------------------- */

/* sum += the product of 32 weights with 32 activation codes of scale da, whose sums by 16 are in `sums`. */
template <class W> DEVICE float add_product(float sum, const weights32 &w, const uint32_t (&a)[8], float da,
                                            const int (&sums)[2])
{
    int dot[2] = { 0, 0 };
#pragma unroll
    for (int i = 0; i < 8; i++) dot[i / 4] = __dp4a((int)w.code[i], (int)a[i], dot[i / 4]);
    if (W::wide) sum = fmaf(da * w.d, fmaf((float)w.scale[0], (float)dot[0], (float)w.scale[1] * (float)dot[1]), sum);
    else sum = fmaf(da * w.d, (float)(w.scale[0] * dot[0] + w.scale[1] * dot[1]), sum);
    if (W::affine) sum = fmaf(da * w.m, (float)(w.offset[0] * sums[0] + w.offset[1] * sums[1]), sum);
    return sum;
}

/* Code i of 32. */
DEVICE float code_of(const weights32 &w, int i) { return (float)(int8_t)(w.code[i / 4] >> 8 * (i % 4)); }

#endif
