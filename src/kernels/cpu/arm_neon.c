/* arm_neon: four floats or sixteen codes at a time. Needs ARMv8.2 with the dot
 * product instructions.
 *
 * Integer parts are those of the definition, for every bit pattern of codes: the
 * dot product adds four products of signed bytes to 32 bits, and nothing on the
 * way is narrower. A lane's share of a block may pass 2^24 (Q6_K and IQ4_XS at
 * the ends of their ranges), so its float is rounded once; otherwise what differs
 * from the definition is the order of float additions alone. */
#include <arm_neon.h>
#include "kernels/cpu/block_bits.h"
#include "kernels/cpu/cpu_kernels.h"
#include "quant/float_formats.h"
#include "quant/tables.h"

/* ---- pieces ---------------------------------------------------------------- */

/* The compiler's half type converts in one instruction, ties to even. */
static inline float half(uint16_t h)
{
    __fp16 f;
    memcpy(&f, &h, sizeof f);
    return (float)f;
}

static inline uint16_t to_half(float f)
{
    const __fp16 narrow = (__fp16)f;
    uint16_t h;
    memcpy(&h, &narrow, sizeof h);
    return h;
}

/* 32 codes, the first sixteen and the others. */
typedef struct { int8x16_t low, high; } codes32;

static inline codes32 signed_codes(uint8x16_t low, uint8x16_t high)
{
    return (codes32){ vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high) };
}

/* Low nibbles of 16 bytes first, then the high ones. */
static inline codes32 nibbles(const uint8_t bytes[16])
{
    const uint8x16_t x = vld1q_u8(bytes);
    return signed_codes(vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4));
}

static inline codes32 less(codes32 c, int shift)
{
    const int8x16_t s = vdupq_n_s8((int8_t)shift);
    return (codes32){ vsubq_s8(c.low, s), vsubq_s8(c.high, s) };
}

static inline codes32 looked_up(const int8_t levels[16], const uint8_t bytes[16])
{
    const int8x16_t table = vld1q_s8(levels);
    const codes32 c = nibbles(bytes);
    return (codes32){ vqtbl1q_s8(table, vreinterpretq_u8_s8(c.low)),
                      vqtbl1q_s8(table, vreinterpretq_u8_s8(c.high)) };
}

/* Byte e is 0xff where bit e of the two bytes is set. */
static inline uint8x16_t spread(uint8_t b0, uint8_t b1)
{
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    return vtstq_u8(vcombine_u8(vdup_n_u8(b0), vdup_n_u8(b1)), bit);
}

/* Bytes shifted right by a number that is no constant. */
static inline uint8x16_t shifted(uint8x16_t x, int right)
{
    return vshlq_u8(x, vdupq_n_s8((int8_t)-right));
}

static inline uint8x16_t bytes_and(uint8x16_t x, int mask)
{
    return vandq_u8(x, vdupq_n_u8((uint8_t)mask));
}

/* Sum of products of 16 and of 32 codes in four lanes. */
static inline int32x4_t dot16(int8x16_t c, const int8_t *a)
{
    return vdotq_s32(vdupq_n_s32(0), c, vld1q_s8(a));
}

static inline int32x4_t dot32(codes32 c, const int8_t *a)
{
    return vdotq_s32(dot16(c.low, a), c.high, vld1q_s8(a + 16));
}

/* acc += d * lanes */
static inline float32x4_t add_lanes(float32x4_t acc, float d, int32x4_t lanes)
{
    return vfmaq_n_f32(acc, vcvtq_f32_s32(lanes), d);
}

/* ---- blocks of 32 against Q8_0 or Q8_1 -------------------------------------- */

/* Each returns the block's sum of code*a in four lanes. Faster: 16 products an
 * instruction. Assumes codes that fit a signed byte, which all do. */

static inline int32x4_t lanes_q8_0(const block_q8_0 *w, const int8_t *a)
{
    return dot32((codes32){ vld1q_s8(w->codes), vld1q_s8(w->codes + 16) }, a);
}

static inline int32x4_t lanes_q4_0(const block_q4_0 *w, const int8_t *a)
{
    return dot32(less(nibbles(w->codes), 8), a);
}

static inline int32x4_t lanes_q4_1(const block_q4_1 *w, const int8_t *a)
{
    return dot32(nibbles(w->codes), a);
}

static inline codes32 five_bits(const uint8_t codes[16], const uint8_t high[4])
{
    const codes32 c = nibbles(codes);
    const uint8x16_t low5 = bytes_and(spread(high[0], high[1]), 16);
    const uint8x16_t high5 = bytes_and(spread(high[2], high[3]), 16);
    return (codes32){ vorrq_s8(c.low, vreinterpretq_s8_u8(low5)), vorrq_s8(c.high, vreinterpretq_s8_u8(high5)) };
}

static inline int32x4_t lanes_q5_0(const block_q5_0 *w, const int8_t *a)
{
    return dot32(less(five_bits(w->codes, w->high), 16), a);
}

static inline int32x4_t lanes_q5_1(const block_q5_1 *w, const int8_t *a)
{
    return dot32(five_bits(w->codes, w->high), a);
}

static inline int32x4_t lanes_iq4_nl(const block_iq4_nl *w, const int8_t *a)
{
    return dot32(looked_up(quant_iq4_levels, w->codes), a);
}

static inline int32x4_t lanes_mxfp4(const block_mxfp4 *w, const int8_t *a)
{
    static const int8_t doubled[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
    return dot32(looked_up(doubled, w->codes), a);
}

#define DOT_SYMMETRIC(type, scale)                                                  \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_0 *a = x;                                                    \
        float32x4_t acc = vdupq_n_f32(0.0f);                                        \
        for (int i = 0; i < n / 32; i++)                                            \
            acc = add_lanes(acc, (scale) * half(a[i].d), lanes_##type(&b[i], a[i].codes)); \
        return vaddvq_f32(acc);                                                     \
    }

#define DOT_AFFINE(type)                                                            \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_1 *a = x;                                                    \
        float32x4_t acc = vdupq_n_f32(0.0f);                                        \
        float offsets = 0.0f;                                                       \
        for (int i = 0; i < n / 32; i++) {                                          \
            acc = add_lanes(acc, half(b[i].d) * half(a[i].d), lanes_##type(&b[i], a[i].codes)); \
            offsets += half(b[i].m) * half(a[i].s);                                 \
        }                                                                           \
        return vaddvq_f32(acc) + offsets;                                           \
    }

DOT_SYMMETRIC(q8_0, half(b[i].d))
DOT_SYMMETRIC(q4_0, half(b[i].d))
DOT_SYMMETRIC(q5_0, half(b[i].d))
DOT_SYMMETRIC(iq4_nl, half(b[i].d))
DOT_SYMMETRIC(mxfp4, e8m0_to_float_halved(b[i].e))      /* exact below the normal range too */
DOT_AFFINE(q4_1)
DOT_AFFINE(q5_1)

/* ---- super-blocks of 256 against Q8_K ---------------------------------------- */

/* Each returns sum_g scale_g * sum code*a in four lanes. Faster: 16 codes are a
 * shift and a mask, and a group's four lanes are scaled by one instruction.
 * Assumes codes that fit a signed byte. */

static inline int32x4_t lanes_q2_k(const block_q2_k *w, const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 16; g++) {
        const uint8x16_t bits = vld1q_u8(w->codes + g / 8 * 32 + g % 2 * 16);
        const uint8x16_t code = bytes_and(shifted(bits, g % 8 / 2 * 2), 3);
        sum = vmlaq_n_s32(sum, dot16(vreinterpretq_s8_u8(code), a->codes + g * 16), w->scales[g] & 15);
    }
    return sum;
}

static inline int32x4_t lanes_q3_k(const block_q3_k *w, const block_q8_k *a)
{
    uint8_t scale[16];
    unpack_q3_k_scales(scale, w->scales);
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 16; g++) {
        const uint8x16_t bits = vld1q_u8(w->codes + g / 8 * 32 + g % 2 * 16);
        const uint8x16_t low = bytes_and(shifted(bits, g % 8 / 2 * 2), 3);
        const uint8x16_t set = vtstq_u8(vld1q_u8(w->high + g % 2 * 16), vdupq_n_u8((uint8_t)(1 << g / 2)));
        const uint8x16_t code = vsubq_u8(low, vbicq_u8(vdupq_n_u8(4), set));
        sum = vmlaq_n_s32(sum, dot16(vreinterpretq_s8_u8(code), a->codes + g * 16), scale[g] - 32);
    }
    return sum;
}

static inline int32x4_t lanes_q4_k(const block_q4_k *w, const uint8_t scale[16], const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 8; g += 2) {
        const codes32 first = nibbles(w->codes + g * 16), second = nibbles(w->codes + g * 16 + 16);
        sum = vmlaq_n_s32(sum, dot32((codes32){ first.low, second.low }, a->codes + g * 32), scale[g]);
        sum = vmlaq_n_s32(sum, dot32((codes32){ first.high, second.high }, a->codes + g * 32 + 32), scale[g + 1]);
    }
    return sum;
}

/* Sixteen codes: nibbles at their place, the fifth bit from bit g of `high`. */
static inline int8x16_t q5_k_codes(const uint8_t *nibble, const uint8_t *high, int g)
{
    const uint8x16_t low = bytes_and(shifted(vld1q_u8(nibble), g % 2 * 4), 15);
    const uint8x16_t set = vtstq_u8(vld1q_u8(high), vdupq_n_u8((uint8_t)(1 << g)));
    return vreinterpretq_s8_u8(vorrq_u8(low, bytes_and(set, 16)));
}

static inline int32x4_t lanes_q5_k(const block_q5_k *w, const uint8_t scale[16], const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *nibble = w->codes + g / 2 * 32;
        const codes32 c = { q5_k_codes(nibble, w->high, g), q5_k_codes(nibble + 16, w->high + 16, g) };
        sum = vmlaq_n_s32(sum, dot32(c, a->codes + g * 32), scale[g]);
    }
    return sum;
}

static inline int32x4_t lanes_q6_k(const block_q6_k *w, const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 16; g++) {
        const int h = g / 8, q = g % 8 / 2, p = g % 2 * 16;
        const uint8x16_t low = bytes_and(shifted(vld1q_u8(w->low + 64 * h + 32 * (q % 2) + p), q / 2 * 4), 15);
        const uint8x16_t high = bytes_and(shifted(vld1q_u8(w->high + 32 * h + p), 2 * q), 3);
        const uint8x16_t code = vsubq_u8(vorrq_u8(low, vshlq_n_u8(high, 4)), vdupq_n_u8(32));
        sum = vmlaq_n_s32(sum, dot16(vreinterpretq_s8_u8(code), a->codes + g * 16), w->scales[g]);
    }
    return sum;
}

/* Two table words with the signs of two masks. */
static inline int8x16_t signed_words(const uint64_t *table, const uint8_t index[2], uint32_t masks)
{
    const uint8x16_t grid = vcombine_u8(vcreate_u8(table[index[0]]), vcreate_u8(table[index[1]]));
    const uint8x16_t minus = spread((uint8_t)masks, (uint8_t)(masks >> 8));
    return vreinterpretq_s8_u8(vsubq_u8(veorq_u8(grid, minus), minus));
}

static inline int32x4_t lanes_iq2_xxs(const block_iq2_xxs *w, const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 8; g++) {
        const uint8_t *index = (const uint8_t *)(w->groups + 4 * g);
        const uint32_t bits = word_at(index, 1), masks = sign_masks(bits);
        const codes32 c = { signed_words(quant_iq2_xxs_grid, index, masks),
                            signed_words(quant_iq2_xxs_grid, index + 2, masks >> 16) };
        sum = vmlaq_n_s32(sum, dot32(c, a->codes + g * 32), (int32_t)(bits >> 28 << 1 | 1));
    }
    return sum;
}

static inline int32x4_t lanes_iq4_xs(const block_iq4_xs *w, const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 8; g++)
        sum = vmlaq_n_s32(sum, dot32(looked_up(quant_iq4_levels, w->codes + g * 16), a->codes + g * 32),
                          iq4_xs_scale(w, g));
    return sum;
}

#define DOT_SIGNED_K(type, factor)                                                  \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_k *a = x;                                                    \
        float32x4_t acc = vdupq_n_f32(0.0f);                                        \
        for (int i = 0; i < n / QK; i++)                                            \
            acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_##type(&b[i], &a[i]));\
        return (factor) * vaddvq_f32(acc);                                          \
    }

DOT_SIGNED_K(q3_k, 1.0f)
DOT_SIGNED_K(q6_k, 1.0f)
DOT_SIGNED_K(iq2_xxs, 0.125f)
DOT_SIGNED_K(iq4_xs, 1.0f)

/* sum_g o_g * sum a in four lanes, from one offset per sum of 16. */
static inline int32x4_t lanes_offsets(uint8x16_t offset, const block_q8_k *a)
{
    const int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(offset)));
    const int16x8_t second = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(offset)));
    const int16x8_t s = vld1q_s16(a->sums), t = vld1q_s16(a->sums + 8);
    const int32x4_t sum = vmlal_high_s16(vmull_s16(vget_low_s16(first), vget_low_s16(s)), first, s);
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(second), vget_low_s16(t)), second, t);
}

static float dot_q2_k(const void *restrict w, const void *restrict x, int n)
{
    const block_q2_k *b = w;
    const block_q8_k *a = x;
    float32x4_t acc = vdupq_n_f32(0.0f);
    for (int i = 0; i < n / QK; i++) {
        acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_q2_k(&b[i], &a[i]));
        acc = add_lanes(acc, -(a[i].d * half(b[i].dmin)),
                        lanes_offsets(vshrq_n_u8(vld1q_u8(b[i].scales), 4), &a[i]));
    }
    return vaddvq_f32(acc);
}

#define DOT_AFFINE_K(type)                                                          \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_k *a = x;                                                    \
        float32x4_t acc = vdupq_n_f32(0.0f);                                        \
        for (int i = 0; i < n / QK; i++) {                                          \
            uint8_t scale[16];                                                      \
            unpack_6bit(scale, b[i].scales);                                        \
            const uint8x16_t s = vld1q_u8(scale);       /* an offset serves two sums */ \
            acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_##type(&b[i], scale, &a[i])); \
            acc = add_lanes(acc, -(a[i].d * half(b[i].dmin)),                       \
                            lanes_offsets(vzip2q_u8(s, s), &a[i]));                 \
        }                                                                           \
        return vaddvq_f32(acc);                                                     \
    }

DOT_AFFINE_K(q4_k)
DOT_AFFINE_K(q5_k)

/* ---- float rows --------------------------------------------------------------- */

static inline float       same(float f)              { return f; }
static inline float32x4_t load_f32(const float *p)   { return vld1q_f32(p); }
static inline float32x4_t load_f16(const uint16_t *p)  { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline float32x4_t load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

/* Faster: 16 products in flight, so that additions do not wait for each other.
 * Assumes that a float sum of n/16 terms per lane is precise enough. */
#define FLOAT_DOT(name, type, load, value)                                          \
    static inline float name(const type *a, const float *b, int n)                  \
    {                                                                               \
        float32x4_t s0 = vdupq_n_f32(0.0f), s1 = s0, s2 = s0, s3 = s0;              \
        int i = 0;                                                                  \
        for (; i + 16 <= n; i += 16) {                                              \
            s0 = vfmaq_f32(s0, load(a + i),      load_f32(b + i));                  \
            s1 = vfmaq_f32(s1, load(a + i + 4),  load_f32(b + i + 4));              \
            s2 = vfmaq_f32(s2, load(a + i + 8),  load_f32(b + i + 8));              \
            s3 = vfmaq_f32(s3, load(a + i + 12), load_f32(b + i + 12));             \
        }                                                                           \
        for (; i + 4 <= n; i += 4) s0 = vfmaq_f32(s0, load(a + i), load_f32(b + i));\
        float sum = vaddvq_f32(vaddq_f32(vaddq_f32(s0, s1), vaddq_f32(s2, s3)));    \
        for (; i < n; i++) sum += value(a[i]) * b[i];                               \
        return sum;                                                                 \
    }

FLOAT_DOT(products_f32, float, load_f32, same)
FLOAT_DOT(products_f16, uint16_t, load_f16, half)
FLOAT_DOT(products_bf16, uint16_t, load_bf16, bf16_to_float)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return products_f32(a, b, n); }
static float dot_f16(const uint16_t *restrict a, const float *restrict b, int n) { return products_f16(a, b, n); }
static float dot_row_f32(const void *restrict w, const void *restrict x, int n)  { return products_f32(w, x, n); }
static float dot_row_f16(const void *restrict w, const void *restrict x, int n)  { return products_f16(w, x, n); }
static float dot_row_bf16(const void *restrict w, const void *restrict x, int n) { return products_bf16(w, x, n); }

/* Faster: four squares at a time, in double as the definition: squares of floats
 * are exact there. Assumes nothing. */
static double sum_squares(const float *restrict x, int n)
{
    float64x2_t s0 = vdupq_n_f64(0.0), s1 = s0;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t v = load_f32(x + i);
        const float64x2_t a = vcvt_f64_f32(vget_low_f32(v)), b = vcvt_high_f64_f32(v);
        s0 = vfmaq_f64(s0, a, a);
        s1 = vfmaq_f64(s1, b, b);
    }
    double sum = vaddvq_f64(vaddq_f64(s0, s1));
    for (; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

/* The four below are faster by width only and give the definition's bits: the
 * product in axpy is rounded before it is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(load_f32(y + i), vmulq_n_f32(load_f32(x + i), a)));
    for (; i < n; i++) y[i] += a * x[i];
}

static void axpy_f16(float *restrict y, float a, const uint16_t *restrict x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(load_f32(y + i), vmulq_n_f32(load_f16(x + i), a)));
    for (; i < n; i++) y[i] += a * half(x[i]);
}

static void f16_to_f32(float *restrict y, const uint16_t *restrict x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, load_f16(x + i));
    for (; i < n; i++) y[i] = half(x[i]);
}

static void f32_to_f16(uint16_t *restrict y, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(load_f32(x + i))));
    for (; i < n; i++) y[i] = to_half(x[i]);
}

/* ---- activations ---------------------------------------------------------------- */

static inline float largest_magnitude(const float *x, int n)
{
    float32x4_t m = vdupq_n_f32(0.0f);
    for (int i = 0; i < n; i += 4) m = vmaxnmq_f32(m, vabsq_f32(load_f32(x + i)));
    return vmaxvq_f32(m);
}

/* Sixteen integers to sixteen bytes in order. */
static inline int8x16_t pack_bytes(const int32x4_t v[4])
{
    const int16x8_t low = vcombine_s16(vqmovn_s32(v[0]), vqmovn_s32(v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(v[2]), vqmovn_s32(v[3]));
    return vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

/* 32 codes of one block as Q8_0 and Q8_1 store them, halves away from zero; returns
 * d before rounding. Faster: the conversion rounds so by itself. Assumes finite x;
 * gives the definition's bytes. */
static inline float encode_signed(int8_t codes[32], const float *x)
{
    const float d = largest_magnitude(x, 32) / 127.0f, id = quotient_or_0(1.0f, d);
    for (int e = 0; e < 32; e += 16) {
        int32x4_t v[4];
        for (int k = 0; k < 4; k++) v[k] = vcvtaq_s32_f32(vmulq_n_f32(load_f32(x + e + 4 * k), id));
        vst1q_s8(codes + e, pack_bytes(v));
    }
    return d;
}

static void quantise_q8_0(void *restrict dst, const float *restrict src, int n)
{
    block_q8_0 *b = dst;
    for (int i = 0; i < n / 32; i++) b[i].d = to_half(encode_signed(b[i].codes, src + i * 32));
    activation_fill_planes(dst, QUANT_Q8_0, n);
}

static void quantise_q8_1(void *restrict dst, const float *restrict src, int n)
{
    block_q8_1 *b = dst;
    for (int i = 0; i < n / 32; i++) {
        const float d = encode_signed(b[i].codes, src + i * 32);
        const int sum = vaddlvq_s8(vld1q_s8(b[i].codes)) + vaddlvq_s8(vld1q_s8(b[i].codes + 16));
        b[i].d = to_half(d);
        b[i].s = to_half((float)sum * d);
    }
    activation_fill_planes(dst, QUANT_Q8_1, n);
}

/* The first element of the greatest magnitude, with its sign; 0 if all are. */
static inline float signed_max(const float *x)
{
    const float m = largest_magnitude(x, QK);
    for (int i = 0; i < QK; i += 4) {
        if (!vmaxvq_u32(vceqq_f32(vabsq_f32(load_f32(x + i)), vdupq_n_f32(m)))) continue;
        while (x[i] != m && x[i] != -m) i++;
        return x[i];
    }
    return 0.0f;
}

/* Limited before it is rounded: a code of NaN is -127, as in the definition. */
static inline int32x4_t q8_k_codes(const float *x, float is)
{
    const float32x4_t v = vmaxnmq_f32(vmulq_n_f32(load_f32(x), is), vdupq_n_f32(-127.0f));
    return vcvtnq_s32_f32(vminq_f32(v, vdupq_n_f32(127.0f)));
}

/* Faster: four codes at a time. Assumes nothing; gives the definition's bytes. */
static void quantise_q8_k(void *restrict dst, const float *restrict src, int n)
{
    block_q8_k *b = dst;
    for (int i = 0; i < n / QK; i++) {
        const float *x = src + i * QK, is = quotient_or_0(-127.0f, signed_max(x));
        for (int g = 0; g < 16; g++, x += 16) {
            const int32x4_t v[4] = { q8_k_codes(x, is), q8_k_codes(x + 4, is),
                                     q8_k_codes(x + 8, is), q8_k_codes(x + 12, is) };
            const int8x16_t codes = pack_bytes(v);
            vst1q_s8(b[i].codes + g * 16, codes);
            b[i].sums[g] = vaddlvq_s8(codes);
        }
        b[i].d = quotient_or_0(1.0f, is);
    }
}

/* ---- the rung --------------------------------------------------------------------- */

void cpu_kernels_neon(cpu_kernels *k)
{
    k->dot[QUANT_F32] = dot_row_f32;
    k->dot[QUANT_F16] = dot_row_f16;
    k->dot[QUANT_BF16] = dot_row_bf16;
    k->dot[QUANT_Q4_0] = dot_q4_0;
    k->dot[QUANT_Q4_1] = dot_q4_1;
    k->dot[QUANT_Q5_0] = dot_q5_0;
    k->dot[QUANT_Q5_1] = dot_q5_1;
    k->dot[QUANT_Q8_0] = dot_q8_0;
    k->dot[QUANT_Q2_K] = dot_q2_k;
    k->dot[QUANT_Q3_K] = dot_q3_k;
    k->dot[QUANT_Q4_K] = dot_q4_k;
    k->dot[QUANT_Q5_K] = dot_q5_k;
    k->dot[QUANT_Q6_K] = dot_q6_k;
    k->dot[QUANT_IQ2_XXS] = dot_iq2_xxs;
    k->dot[QUANT_IQ4_NL] = dot_iq4_nl;
    k->dot[QUANT_IQ4_XS] = dot_iq4_xs;
    k->dot[QUANT_MXFP4] = dot_mxfp4;

    k->quantise[QUANT_Q8_0] = quantise_q8_0;
    k->quantise[QUANT_Q8_1] = quantise_q8_1;
    k->quantise[QUANT_Q8_K] = quantise_q8_k;

    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->f16_to_f32 = f16_to_f32;
    k->f32_to_f16 = f32_to_f16;
}
