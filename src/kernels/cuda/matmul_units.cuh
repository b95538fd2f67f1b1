/* matmul_units: what one lane takes of a row of weights at a time.
 *
 * unit_of<W> cuts a row into units of `groups` groups of 16 weights. load() fetches a
 * unit, 16 bytes of codes at neighbouring addresses in neighbouring lanes where the type
 * is one of the tuned ones; code() and the rest look into it. A unit never leaves a block
 * of activations with one scale, so that its sum is one of whole numbers:
 *
 *     product = da * (d * sum_k scale_k * dot_k + m * sum_k offset_k * sum of 16)
 *
 * The general unit is 32 weights of unpack.cuh. */
#ifndef KERNELS_CUDA_MATMUL_UNITS_CUH
#define KERNELS_CUDA_MATMUL_UNITS_CUH

#include "kernels/cuda/unpack.cuh"

template <class W> struct unit_of {
    static constexpr int groups = 2;
    typedef weights32 raw;
    DEVICE_MEMBER raw load(const planes &at, int u) { return W::load(at, u / W::subs, u % W::subs, W::grid()); }
    DEVICE_MEMBER int column(int u, int k) { return 32 * u + 16 * k; }
    DEVICE_MEMBER void code(const raw &r, int, int k, uint32_t (&c)[4])
    {
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] = r.code[4 * k + i];
    }
    DEVICE_MEMBER int scale(const raw &r, int, int k) { return r.scale[k]; }
    DEVICE_MEMBER int offset(const raw &r, int, int k) { return r.offset[k]; }
    DEVICE_MEMBER float d(const raw &r) { return r.d; }
    DEVICE_MEMBER float m(const raw &r) { return r.m; }
};

/* Half a block. */
template <> struct unit_of<weight_Q8_0> {
    static constexpr int groups = 1;
    struct raw {
        uint4    q;
        uint32_t d;
    };
    DEVICE_MEMBER raw load(const planes &at, int u)
    {
        return { load_once(at.p[0] + 16 * u), load_u16(at.p[1] + u / 2 * 2) };
    }
    DEVICE_MEMBER int column(int u, int) { return 16 * u; }
    DEVICE_MEMBER void code(const raw &r, int, int, uint32_t (&c)[4]) { words_of(c, r.q); }
    DEVICE_MEMBER int scale(const raw &, int, int) { return 1; }
    DEVICE_MEMBER int offset(const raw &, int, int) { return 0; }
    DEVICE_MEMBER float d(const raw &r) { return half_bits_to_float((uint16_t)r.d); }
    DEVICE_MEMBER float m(const raw &) { return 0.0f; }
};

/* A quarter of a block's codes: the same half of four sub-blocks of 32. */
template <> struct unit_of<weight_Q2_K> {
    static constexpr int groups = 4;
    struct raw {
        uint4    q;
        uint2    scales;
        uint32_t d;
    };
    DEVICE_MEMBER raw load(const planes &at, int u)
    {
        return { load_once(at.p[0] + 16 * u), load_8(at.p[1] + u / 4 * 16 + u % 4 / 2 * 8),
                 load_u32(at.p[2] + u / 4 * 4) };
    }
    DEVICE_MEMBER int column(int u, int k) { return u / 2 * 128 + 32 * k + u % 2 * 16; }
    DEVICE_MEMBER void code(const raw &r, int, int k, uint32_t (&c)[4])
    {
        words_of(c, r.q);
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] = c[i] >> 2 * k & 0x03030303u;
    }
    DEVICE_MEMBER uint32_t group(const raw &r, int u, int k)
    {
        return (k < 2 ? r.scales.x : r.scales.y) >> (16 * (k % 2) + u % 2 * 8);
    }
    DEVICE_MEMBER int scale(const raw &r, int u, int k) { return (int)(group(r, u, k) & 15u); }
    DEVICE_MEMBER int offset(const raw &r, int u, int k) { return (int)(group(r, u, k) >> 4 & 15u); }
    DEVICE_MEMBER float d(const raw &r) { return half_bits_to_float((uint16_t)r.d); }
    DEVICE_MEMBER float m(const raw &r) { return -half_bits_to_float((uint16_t)(r.d >> 16)); }
};

/* The same half of two sub-blocks of 32. */
template <> struct unit_of<weight_Q4_K> {
    static constexpr int groups = 2;
    struct raw { uint4 q, header; };
    DEVICE_MEMBER raw load(const planes &at, int u)
    {
        const uint8_t *p = at.p[0] + u / 8 * 144;
        return { load_once(p + 16 + u % 8 * 16), load_16(p) };
    }
    DEVICE_MEMBER int column(int u, int k) { return u / 2 * 64 + 32 * k + u % 2 * 16; }
    DEVICE_MEMBER void code(const raw &r, int, int k, uint32_t (&c)[4])
    {
        words_of(c, r.q);
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] = c[i] >> 4 * k & 0x0f0f0f0fu;
    }
    DEVICE_MEMBER int scale(const raw &r, int u, int k)
    {
        weights32 w;
        six_bits(w, r.header, u % 8 / 2 * 2 + k);
        return w.scale[0];
    }
    DEVICE_MEMBER int offset(const raw &r, int u, int k)
    {
        weights32 w;
        six_bits(w, r.header, u % 8 / 2 * 2 + k);
        return w.offset[0];
    }
    DEVICE_MEMBER float d(const raw &r) { return half_bits_to_float((uint16_t)r.header.x); }
    DEVICE_MEMBER float m(const raw &r) { return -half_bits_to_float((uint16_t)(r.header.x >> 16)); }
};

/* Two sub-blocks of 32. */
template <> struct unit_of<weight_IQ2_XXS> {
    static constexpr int groups = 4;
    struct raw {
        uint4    q;
        uint32_t d;
    };
    DEVICE_MEMBER raw load(const planes &at, int u)
    {
        return { load_once(at.p[0] + 16 * u), load_u16(at.p[1] + u / 4 * 2) };
    }
    DEVICE_MEMBER int column(int u, int k) { return 64 * u + 16 * k; }
    DEVICE_MEMBER uint32_t rest(const raw &r, int k) { return k < 2 ? r.q.y : r.q.w; }
    DEVICE_MEMBER void code(const raw &r, int, int k, uint32_t (&c)[4])
    {
        const uint32_t index = (k < 2 ? r.q.x : r.q.z) >> 16 * (k % 2), signs = rest(r, k) >> 14 * (k % 2);
        put_eight(c, codebook_iq2_xxs[index & 255u], even_signs(signs & 127u));
        put_eight(c + 2, codebook_iq2_xxs[index >> 8 & 255u], even_signs(signs >> 7 & 127u));
    }
    DEVICE_MEMBER int scale(const raw &r, int, int k) { return 2 * (int)(rest(r, k) >> 28) + 1; }
    DEVICE_MEMBER int offset(const raw &, int, int) { return 0; }
    DEVICE_MEMBER float d(const raw &r) { return 0.125f * half_bits_to_float((uint16_t)r.d); }
    DEVICE_MEMBER float m(const raw &) { return 0.0f; }
};

/* sum[t][r] += unit u of ROWS rows of a weight times columns from `column` on of TOKENS rows of x: sum_k scale_k *
 * dot_k and sum_k offset_k * sum of 16, in whole numbers where they have room. */
template <class W, int TOKENS, int ROWS>
DEVICE void add_units(float (&sum)[TOKENS * ROWS], const typename unit_of<W>::raw (&from)[ROWS], const gpu_codes &x,
                      const int (&x_row)[TOKENS], int column, int u)
{
    typedef unit_of<W> U;
    int   whole[TOKENS * ROWS], offsets[TOKENS * ROWS];
    float wide[TOKENS * ROWS];
#pragma unroll
    for (int i = 0; i < TOKENS * ROWS; i++) {
        whole[i] = offsets[i] = 0;
        wide[i] = 0.0f;
    }
#pragma unroll (TOKENS < 16 ? U::groups : 1)
    for (int k = 0; k < U::groups; k++) {
        const int here = column + U::column(u, k);
        uint32_t c[ROWS][4];
        int scale[ROWS], offset[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            U::code(from[r], u, k, c[r]);
            scale[r] = U::scale(from[r], u, k);
            offset[r] = U::offset(from[r], u, k);
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const int64_t element = (int64_t)x_row[t] * x.cols + here;
            const uint4 a = *gpu_at<const uint4>(x.codes, element);
            const int s16 = W::affine ? *gpu_at<const int16_t>(x.sum, element / 16 * 2) : 0;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int dot = __dp4a((int)c[r][0], (int)a.x, 0);
                dot = __dp4a((int)c[r][1], (int)a.y, dot);
                dot = __dp4a((int)c[r][2], (int)a.z, dot);
                dot = __dp4a((int)c[r][3], (int)a.w, dot);
                if (W::wide) wide[t * ROWS + r] = fmaf((float)scale[r], (float)dot, wide[t * ROWS + r]);
                else whole[t * ROWS + r] += scale[r] * dot;
                if (W::affine) offsets[t * ROWS + r] += offset[r] * s16;
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const int64_t element = (int64_t)x_row[t] * x.cols + column + U::column(u, 0);
        const float da = *gpu_at<const float>(x.scale, element / 32 * 4);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float &to = sum[t * ROWS + r];
            to = fmaf(da * U::d(from[r]), W::wide ? wide[t * ROWS + r] : (float)whole[t * ROWS + r], to);
            if (W::affine) to = fmaf(da * U::m(from[r]), (float)offsets[t * ROWS + r], to);
        }
    }
}

#endif
