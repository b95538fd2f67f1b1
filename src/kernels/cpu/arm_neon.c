/* arm_neon: the NEON rung: float rows, activations, and the table. Needs ARMv8.2 with
 * the dot product instructions. Tiles of block formats are in arm_tiles_neon.c. */
#include "kernels/cpu/arm_tiles.h"
#include "kernels/cpu/float_tiles.h"

/* ---- float rows --------------------------------------------------------------- */

/* Faster: 32 products in flight, so that additions do not wait for each other, and
 * up to three activations share a loaded row: what else fits the registers. Assumes
 * that a float sum of n/32 terms per lane is precise enough. The order of a sum
 * does not depend on the number of activations, so a tile is the dot to the bit. */
#define FLOAT_ROWS(name, type, load, value)                                         \
    ALWAYS_INLINE void products_##name(float *y, const type *w, const float *const *x, const int count, int n) \
    {                                                                               \
        float32x4_t s[3][8];                                                        \
        int i = 0;                                                                  \
        UNROLL                                                                      \
        for (int c = 0; c < count; c++) {                                           \
            UNROLL                                                                  \
            for (int k = 0; k < 8; k++) s[c][k] = vdupq_n_f32(0.0f);                \
        }                                                                           \
        for (; i + 32 <= n; i += 32) {                                              \
            UNROLL                                                                  \
            for (int k = 0; k < 8; k++) {                                           \
                const float32x4_t v = load(w + i + 4 * k);                          \
                UNROLL                                                              \
                for (int c = 0; c < count; c++)                                     \
                    s[c][k] = vfmaq_f32(s[c][k], v, vld1q_f32(x[c] + i + 4 * k));   \
            }                                                                       \
        }                                                                           \
        for (; i + 4 <= n; i += 4) {                                                \
            UNROLL                                                                  \
            for (int c = 0; c < count; c++)                                         \
                s[c][0] = vfmaq_f32(s[c][0], load(w + i), vld1q_f32(x[c] + i));     \
        }                                                                           \
        UNROLL                                                                      \
        for (int c = 0; c < count; c++) {                                           \
            y[c] = sum_of_eight(s[c]);                                              \
            for (int j = i; j < n; j++) y[c] += value(w[j]) * x[c][j];              \
        }                                                                           \
    }                                                                               \
    FLOAT_TILE(name, type)

ALWAYS_INLINE float sum_of_eight(const float32x4_t s[8])
{
    const float32x4_t low = vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3]));
    const float32x4_t high = vaddq_f32(vaddq_f32(s[4], s[5]), vaddq_f32(s[6], s[7]));
    return vaddvq_f32(vaddq_f32(low, high));
}

static inline float       same(float f)              { return f; }
static inline float32x4_t load_f32(const float *p)   { return vld1q_f32(p); }
static inline float32x4_t load_f16(const uint16_t *p)  { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline float32x4_t load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

FLOAT_ROWS(f32, float, load_f32, same)
FLOAT_ROWS(f16, uint16_t, load_f16, half)
FLOAT_ROWS(bf16, uint16_t, load_bf16, bf16_to_float)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return dot_row_f32(a, b, n); }

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

/* Faster by width only, with the definition's bits: the product is rounded before it
 * is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(load_f32(y + i), vmulq_n_f32(load_f32(x + i), a)));
    for (; i < n; i++) y[i] += a * x[i];
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

/* Block i of 32 codes as Q8_0 and Q8_1 store them, in the block and in the planes,
 * halves away from zero; returns d before rounding. Faster: the conversion rounds so
 * by itself. Assumes finite x; gives the definition's bytes. */
static inline float encode_signed(int8_t codes[32], uint16_t *d16, const activation_planes *p, int i, const float *x)
{
    const float d = largest_magnitude(x, 32) / 127.0f, id = quotient_or_0(1.0f, d);
    int32_t sum = 0;
    for (int e = 0; e < 32; e += 16) {
        int32x4_t v[4];
        for (int k = 0; k < 4; k++) v[k] = vcvtaq_s32_f32(vmulq_n_f32(load_f32(x + e + 4 * k), id));
        const int8x16_t sixteen = pack_bytes(v);
        vst1q_s8(codes + e, sixteen);
        vst1q_s8((int8_t *)(uintptr_t)p->codes + 32 * i + e, sixteen);
        sum += vaddlvq_s8(sixteen);
    }
    *d16 = to_half(d);
    ((float *)(uintptr_t)p->d)[i] = half(*d16);
    ((int32_t *)(uintptr_t)p->sums)[i] = sum;
    return d;
}

static void quantise_q8_0(void *restrict dst, const float *restrict src, int n)
{
    block_q8_0 *b = dst;
    const activation_planes p = activation_planes_of(dst, QUANT_Q8_0, n);
    for (int i = 0; i < n / 32; i++) encode_signed(b[i].codes, &b[i].d, &p, i, src + i * 32);
}

static void quantise_q8_1(void *restrict dst, const float *restrict src, int n)
{
    block_q8_1 *b = dst;
    const activation_planes p = activation_planes_of(dst, QUANT_Q8_1, n);
    for (int i = 0; i < n / 32; i++) {
        const float d = encode_signed(b[i].codes, &b[i].d, &p, i, src + i * 32);
        b[i].s = to_half((float)p.sums[i] * d);
    }
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
    k->tile[QUANT_F32] = tile_f32;
    k->tile[QUANT_F16] = tile_f16;
    k->tile[QUANT_BF16] = tile_bf16;
    cpu_tiles_neon(k);

    k->quantise[QUANT_Q8_0] = quantise_q8_0;
    k->quantise[QUANT_Q8_1] = quantise_q8_1;
    k->quantise[QUANT_Q8_K] = quantise_q8_k;

    k->dot_f32 = dot_f32;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
}
