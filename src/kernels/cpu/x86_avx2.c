/* x86_avx2: eight floats or 32 codes at a time. Needs AVX2, FMA and F16C.
 *
 * Integer parts are those of the definition, for every bit pattern of codes:
 *
 * - The multiply-add of unsigned by signed bytes saturates at 16 bits. Codes of
 *   at most 63 against 128 stay below (2*63*128 = 16128), and so do signed ones
 *   of at most 127 (2*127*128 = 32512) once their sign has moved: see pairs().
 * - Only Q8_0 against Q8_0 can have -128 on both sides; it is widened instead.
 * - A block's sum is kept in eight lanes. The greatest share of a lane, that of
 *   Q6_K and IQ4_XS, is 256/8 * 32*127*128 < 2^24, so its float is exact too.
 *
 * What differs from the definition is the order of float additions alone. */
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/x86_common.h"
#include "quant/float_formats.h"
#include "quant/tables.h"

/* ---- pieces ---------------------------------------------------------------- */

static inline __m256i bytes_and(__m256i x, int mask)
{
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

/* Sums of two products of signed bytes. The sign of a moves to c, so that |a|
 * can be the unsigned side: 128 fits there, and c is never -128. */
static inline __m256i pairs(__m256i c, __m256i a)
{
    return _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(c, a));
}

/* Sums of pairs, times one or two scales, to eight lanes of 32 bits. */
static inline __m256i scaled(__m256i pair_sums, __m256i scale)
{
    return _mm256_madd_epi16(pair_sums, scale);
}

static inline __m256i unscaled(__m256i pair_sums)
{
    return _mm256_madd_epi16(pair_sums, _mm256_set1_epi16(1));
}

/* acc += d * lanes */
static inline __m256 add_lanes(__m256 acc, float d, __m256i lanes)
{
    return _mm256_fmadd_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(lanes), acc);
}

/* Byte e is 0xff where bit e is set; the same 32 bits in all eight words. */
static inline __m256i spread(__m256i bits)
{
    const __m256i from = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    const __m256i x = _mm256_shuffle_epi8(bits, from);
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit);
}

static inline __m256i word_to_all(__m256i x, int k)
{
    return _mm256_permutevar8x32_epi32(x, _mm256_set1_epi32(k));
}

/* Bytes negated where the mask is 0xff. */
static inline __m256i negate_where(__m256i x, __m256i mask)
{
    return _mm256_sub_epi8(_mm256_xor_si256(x, mask), mask);
}

/* Groups of 16: scale number 2k for the first half, 2k + 1 for the second, out of
 * sixteen signed bytes that lie in both halves of s. */
static inline __m256i scale_pair(__m256i s, int k)
{
    const __m256i first = _mm256_setr_epi64x(
        (long long)0x0080008000800080ull, (long long)0x0080008000800080ull,
        (long long)0x0180018001800180ull, (long long)0x0180018001800180ull);
    const __m256i from = _mm256_add_epi8(first, _mm256_set1_epi16((short)(2 * k << 8)));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(s, from), 8);
}

/* ---- blocks of 32 against Q8_0 or Q8_1 -------------------------------------- */

/* Each returns the block's sum of code*a in eight lanes. */

/* Faster: 16 products an instruction. Assumes nothing: widened to 16 bits,
 * -128 times -128 is a product like any other. */
static inline __m256i lanes_q8_0(const block_q8_0 *w, const int8_t *a)
{
    const __m256i low = _mm256_madd_epi16(_mm256_cvtepi8_epi16(load16(w->codes)),
                                          _mm256_cvtepi8_epi16(load16(a)));
    const __m256i high = _mm256_madd_epi16(_mm256_cvtepi8_epi16(load16(w->codes + 16)),
                                           _mm256_cvtepi8_epi16(load16(a + 16)));
    return _mm256_add_epi32(low, high);
}

/* Faster: 32 products an instruction. Assumes codes below 128 for the unsigned
 * side; the shift by 8 is taken off the 16-bit sums, which stay below 2^12. */
static inline __m256i lanes_q4_0(const block_q4_0 *w, const int8_t *a)
{
    const __m256i x = load32(a);
    return unscaled(_mm256_sub_epi16(_mm256_maddubs_epi16(nibbles(w->codes), x),
                                     _mm256_maddubs_epi16(_mm256_set1_epi8(8), x)));
}

static inline __m256i lanes_q4_1(const block_q4_1 *w, const int8_t *a)
{
    return unscaled(_mm256_maddubs_epi16(nibbles(w->codes), load32(a)));
}

static inline __m256i five_bits(const uint8_t codes[16], const uint8_t high[4])
{
    return _mm256_or_si256(nibbles(codes), bytes_and(spread(_mm256_set1_epi32((int)word_at(high, 0))), 16));
}

/* As Q4_0; the fifth bits are spread to bytes by one shuffle. */
static inline __m256i lanes_q5_0(const block_q5_0 *w, const int8_t *a)
{
    const __m256i x = load32(a);
    return unscaled(_mm256_sub_epi16(_mm256_maddubs_epi16(five_bits(w->codes, w->high), x),
                                     _mm256_maddubs_epi16(_mm256_set1_epi8(16), x)));
}

static inline __m256i lanes_q5_1(const block_q5_1 *w, const int8_t *a)
{
    return unscaled(_mm256_maddubs_epi16(five_bits(w->codes, w->high), load32(a)));
}

/* Faster: a byte shuffle looks up 32 levels at once. Assumes no level is -128. */
static inline __m256i lanes_iq4_nl(const block_iq4_nl *w, const int8_t *a)
{
    const __m256i level = twice(load16(quant_iq4_levels));
    return unscaled(pairs(_mm256_shuffle_epi8(level, nibbles(w->codes)), load32(a)));
}

/* As IQ4_NL with the doubled E2M1 values. */
static inline __m256i lanes_mxfp4(const block_mxfp4 *w, const int8_t *a)
{
    const __m256i level = twice(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    return unscaled(pairs(_mm256_shuffle_epi8(level, nibbles(w->codes)), load32(a)));
}

#define DOT_SYMMETRIC(type, scale)                                                  \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_0 *a = x;                                                    \
        __m256 acc = _mm256_setzero_ps();                                           \
        for (int i = 0; i < n / 32; i++)                                            \
            acc = add_lanes(acc, (scale) * half(a[i].d), lanes_##type(&b[i], a[i].codes)); \
        return sum8(acc);                                                           \
    }

#define DOT_AFFINE(type)                                                            \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_1 *a = x;                                                    \
        __m256 acc = _mm256_setzero_ps();                                           \
        float offsets = 0.0f;                                                       \
        for (int i = 0; i < n / 32; i++) {                                          \
            acc = add_lanes(acc, half(b[i].d) * half(a[i].d), lanes_##type(&b[i], a[i].codes)); \
            offsets += half(b[i].m) * half(a[i].s);                                 \
        }                                                                           \
        return sum8(acc) + offsets;                                                 \
    }

DOT_SYMMETRIC(q8_0, half(b[i].d))
DOT_SYMMETRIC(q4_0, half(b[i].d))
DOT_SYMMETRIC(q5_0, half(b[i].d))
DOT_SYMMETRIC(iq4_nl, half(b[i].d))
DOT_SYMMETRIC(mxfp4, e8m0_to_float_halved(b[i].e))      /* exact below the normal range too */
DOT_AFFINE(q4_1)
DOT_AFFINE(q5_1)

/* ---- super-blocks of 256 against Q8_K ---------------------------------------- */

/* Each returns sum_g scale_g * sum code*a in eight lanes. */

/* Faster: 32 two-bit codes are a shift and a mask, and the multiplication by the
 * scales of two groups also widens the sums. Assumes codes below 64. */
static inline __m256i lanes_q2_k(const block_q2_k *w, const block_q8_k *a)
{
    const __m256i scale = bytes_and(twice(load16(w->scales)), 15);
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int k = 0; k < 8; k++) {
        const __m256i bits = load32(w->codes + k / 4 * 32);
        const __m256i code = bytes_and(_mm256_srli_epi16(bits, k % 4 * 2), 3);
        const __m256i p = _mm256_maddubs_epi16(code, load32(a->codes + k * 32));
        sum = _mm256_add_epi32(sum, scaled(p, scale_pair(scale, k)));
    }
    return sum;
}

/* As Q2_K; code - 4 where the high bit is clear, so codes are signed. */
static inline __m256i lanes_q3_k(const block_q3_k *w, const block_q8_k *a)
{
    uint8_t stored[16];
    unpack_q3_k_scales(stored, w->scales);
    const __m256i scale = _mm256_sub_epi8(twice(load16(stored)), _mm256_set1_epi8(32));
    const __m256i high = load32(w->high);
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int k = 0; k < 8; k++) {
        const __m256i bits = load32(w->codes + k / 4 * 32);
        const __m256i low = bytes_and(_mm256_srli_epi16(bits, k % 4 * 2), 3);
        const __m256i clear = _mm256_andnot_si256(_mm256_srli_epi16(high, k), _mm256_set1_epi8(1));
        const __m256i code = _mm256_sub_epi8(low, _mm256_slli_epi16(clear, 2));
        sum = _mm256_add_epi32(sum, scaled(pairs(code, load32(a->codes + k * 32)), scale_pair(scale, k)));
    }
    return sum;
}

/* Faster: a load gives the codes of two groups, one in each nibble. Assumes
 * codes below 64. */
static inline __m256i lanes_q4_k(const block_q4_k *w, const uint8_t scale[16], const block_q8_k *a)
{
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g += 2) {
        const __m256i bits = load32(w->codes + g * 16);
        const __m256i low = bytes_and(bits, 15), high = bytes_and(_mm256_srli_epi16(bits, 4), 15);
        const __m256i p = _mm256_maddubs_epi16(low, load32(a->codes + g * 32));
        const __m256i q = _mm256_maddubs_epi16(high, load32(a->codes + g * 32 + 32));
        sum = _mm256_add_epi32(sum, scaled(p, _mm256_set1_epi16(scale[g])));
        sum = _mm256_add_epi32(sum, scaled(q, _mm256_set1_epi16(scale[g + 1])));
    }
    return sum;
}

/* As Q4_K; the fifth bits of group g are bits g of the bytes in `high`. */
static inline __m256i lanes_q5_k(const block_q5_k *w, const uint8_t scale[16], const block_q8_k *a)
{
    const __m256i high = load32(w->high);
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i bits = load32(w->codes + g / 2 * 32);
        const __m256i low = bytes_and(_mm256_srli_epi16(bits, g % 2 * 4), 15);
        const __m256i fifth = _mm256_slli_epi16(bytes_and(_mm256_srli_epi16(high, g), 1), 4);
        const __m256i p = _mm256_maddubs_epi16(_mm256_or_si256(low, fifth), load32(a->codes + g * 32));
        sum = _mm256_add_epi32(sum, scaled(p, _mm256_set1_epi16(scale[g])));
    }
    return sum;
}

/* As Q2_K with six bits in two places; the scales are whole signed bytes. */
static inline __m256i lanes_q6_k(const block_q6_k *w, const block_q8_k *a)
{
    const __m256i scale = twice(load16(w->scales));
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int k = 0; k < 8; k++) {
        const int h = k / 4, q = k % 4;
        const __m256i low = _mm256_srli_epi16(load32(w->low + 64 * h + 32 * (q % 2)), q / 2 * 4);
        const __m256i high = _mm256_srli_epi16(load32(w->high + 32 * h), 2 * q);
        const __m256i code = _mm256_or_si256(bytes_and(low, 15),
                                             _mm256_slli_epi16(bytes_and(high, 3), 4));
        const __m256i p = pairs(_mm256_sub_epi8(code, _mm256_set1_epi8(32)), load32(a->codes + k * 32));
        sum = _mm256_add_epi32(sum, scaled(p, scale_pair(scale, k)));
    }
    return sum;
}

static inline __m256i four_words(const uint64_t *table, const uint8_t index[4])
{
    return _mm256_set_epi64x((long long)table[index[3]], (long long)table[index[2]],
                             (long long)table[index[1]], (long long)table[index[0]]);
}

/* Faster: four table words make 32 magnitudes, and the signs and scales of all
 * eight groups are unpacked together. Assumes grid bytes below 128. */
static inline __m256i lanes_iq2_xxs(const block_iq2_xxs *w, const block_q8_k *a)
{
    const uint8_t *bytes = (const uint8_t *)w->groups;
    const __m256i words = iq2_xxs_sign_words(bytes);
    const __m256i signs = sign_masks8(words), scales = odd_scales8(words);
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i grid = four_words(quant_iq2_xxs_grid, bytes + 8 * g);
        const __m256i value = negate_where(grid, spread(word_to_all(signs, g)));
        const __m256i p = pairs(value, load32(a->codes + g * 32));
        sum = _mm256_add_epi32(sum, scaled(p, word_to_all(scales, g)));
    }
    return sum;
}

/* As IQ4_NL; scales are signed. */
static inline __m256i lanes_iq4_xs(const block_iq4_xs *w, const block_q8_k *a)
{
    const __m256i level = twice(load16(quant_iq4_levels));
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i value = _mm256_shuffle_epi8(level, nibbles(w->codes + g * 16));
        const __m256i p = pairs(value, load32(a->codes + g * 32));
        sum = _mm256_add_epi32(sum, scaled(p, _mm256_set1_epi16((short)iq4_xs_scale(w, g))));
    }
    return sum;
}

#define DOT_SIGNED_K(type, factor)                                                  \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_k *a = x;                                                    \
        __m256 acc = _mm256_setzero_ps();                                           \
        for (int i = 0; i < n / QK; i++)                                            \
            acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_##type(&b[i], &a[i]));\
        return (factor) * sum8(acc);                                                \
    }

DOT_SIGNED_K(q3_k, 1.0f)
DOT_SIGNED_K(q6_k, 1.0f)
DOT_SIGNED_K(iq2_xxs, 0.125f)
DOT_SIGNED_K(iq4_xs, 1.0f)

/* sum_g o_g * sum a in eight lanes, from one offset per sum of 16. */
static inline __m256i lanes_offsets(__m128i offset, const block_q8_k *a)
{
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(offset), load32(a->sums));
}

static float dot_q2_k(const void *restrict w, const void *restrict x, int n)
{
    const block_q2_k *b = w;
    const block_q8_k *a = x;
    __m256 acc = _mm256_setzero_ps();
    for (int i = 0; i < n / QK; i++) {
        const __m128i offset = _mm_and_si128(_mm_srli_epi16(load16(b[i].scales), 4), _mm_set1_epi8(15));
        acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_q2_k(&b[i], &a[i]));
        acc = add_lanes(acc, -(a[i].d * half(b[i].dmin)), lanes_offsets(offset, &a[i]));
    }
    return sum8(acc);
}

#define DOT_AFFINE_K(type)                                                          \
    static float dot_##type(const void *restrict w, const void *restrict x, int n)  \
    {                                                                               \
        const block_##type *b = w;                                                  \
        const block_q8_k *a = x;                                                    \
        __m256 acc = _mm256_setzero_ps();                                           \
        for (int i = 0; i < n / QK; i++) {                                          \
            uint8_t scale[16];                                                      \
            unpack_6bit(scale, b[i].scales);                                        \
            const __m128i o = _mm_loadl_epi64((const __m128i *)(scale + 8));        \
            acc = add_lanes(acc, a[i].d * half(b[i].d), lanes_##type(&b[i], scale, &a[i])); \
            acc = add_lanes(acc, -(a[i].d * half(b[i].dmin)),                       \
                            lanes_offsets(_mm_unpacklo_epi8(o, o), &a[i]));         \
        }                                                                           \
        return sum8(acc);                                                           \
    }

DOT_AFFINE_K(q4_k)
DOT_AFFINE_K(q5_k)

/* ---- float rows --------------------------------------------------------------- */

/* Faster: 32 products in flight, so that additions do not wait for each other.
 * Assumes that a float sum of n/32 terms per lane is precise enough. */
#define FLOAT_DOT(name, type, load, value)                                          \
    static inline float name(const type *a, const float *b, int n)                  \
    {                                                                               \
        __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;                 \
        int i = 0;                                                                  \
        for (; i + 32 <= n; i += 32) {                                              \
            s0 = _mm256_fmadd_ps(load(a + i),      _mm256_loadu_ps(b + i),      s0);\
            s1 = _mm256_fmadd_ps(load(a + i + 8),  _mm256_loadu_ps(b + i + 8),  s1);\
            s2 = _mm256_fmadd_ps(load(a + i + 16), _mm256_loadu_ps(b + i + 16), s2);\
            s3 = _mm256_fmadd_ps(load(a + i + 24), _mm256_loadu_ps(b + i + 24), s3);\
        }                                                                           \
        for (; i + 8 <= n; i += 8)                                                  \
            s0 = _mm256_fmadd_ps(load(a + i), _mm256_loadu_ps(b + i), s0);          \
        float sum = sum8(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3))); \
        for (; i < n; i++) sum += value(a[i]) * b[i];                               \
        return sum;                                                                 \
    }

static inline float  same(float f)                 { return f; }
static inline __m256 load_f16(const uint16_t *p)   { return _mm256_cvtph_ps(load16(p)); }
static inline __m256 load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16));
}

FLOAT_DOT(products_f32, float, _mm256_loadu_ps, same)
FLOAT_DOT(products_f16, uint16_t, load_f16, half)
FLOAT_DOT(products_bf16, uint16_t, load_bf16, bf16_to_float)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return products_f32(a, b, n); }
static float dot_f16(const uint16_t *restrict a, const float *restrict b, int n) { return products_f16(a, b, n); }
static float dot_row_f32(const void *restrict w, const void *restrict x, int n)  { return products_f32(w, x, n); }
static float dot_row_f16(const void *restrict w, const void *restrict x, int n)  { return products_f16(w, x, n); }
static float dot_row_bf16(const void *restrict w, const void *restrict x, int n) { return products_bf16(w, x, n); }

/* Faster: eight squares at a time, in double as the definition: squares of
 * floats are exact there. Assumes nothing. */
static double sum_squares(const float *restrict x, int n)
{
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x + i)), b = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4));
        s0 = _mm256_fmadd_pd(a, a, s0);
        s1 = _mm256_fmadd_pd(b, b, s1);
    }
    double sum = sum4_double(_mm256_add_pd(s0, s1));
    for (; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

/* The four below are faster by width only and give the definition's bits: the
 * product in axpy is rounded before it is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    const __m256 f = _mm256_set1_ps(a);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(f, _mm256_loadu_ps(x + i))));
    for (; i < n; i++) y[i] += a * x[i];
}

static void axpy_f16(float *restrict y, float a, const uint16_t *restrict x, int n)
{
    const __m256 f = _mm256_set1_ps(a);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(f, load_f16(x + i))));
    for (; i < n; i++) y[i] += a * half(x[i]);
}

static void f16_to_f32(float *restrict y, const uint16_t *restrict x, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, load_f16(x + i));
    for (; i < n; i++) y[i] = half(x[i]);
}

static void f32_to_f16(uint16_t *restrict y, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) y[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

/* ---- activations ---------------------------------------------------------------- */

static inline __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

static inline float largest(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline float largest_magnitude(const float *x, int n)
{
    __m256 m = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) m = _mm256_max_ps(m, magnitude(_mm256_loadu_ps(x + i)));
    return largest(m);
}

/* Nearest whole number, halves away from zero: the largest float below 1/2 is
 * added with v's sign and the fraction dropped. 1/2 itself would carry the
 * number just below 1/2 up to 1. */
static inline __m256i round_away(__m256 v)
{
    const __m256 sign = _mm256_and_ps(v, _mm256_set1_ps(-0.0f));
    return _mm256_cvttps_epi32(_mm256_add_ps(v, _mm256_or_ps(sign, _mm256_set1_ps(0x1.fffffep-2f))));
}

/* Four vectors of eight integers to 32 bytes in order. */
static inline __m256i pack_bytes(__m256i a, __m256i b, __m256i c, __m256i d)
{
    const __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* 32 codes of one block as Q8_0 and Q8_1 store them; returns d before rounding.
 * Faster: eight codes at a time. Assumes finite x; gives the definition's bytes. */
static inline float encode_signed(int8_t codes[32], const float *x)
{
    const float d = largest_magnitude(x, 32) / 127.0f;
    const __m256 id = _mm256_set1_ps(quotient_or_0(1.0f, d));
    __m256i v[4];
    for (int k = 0; k < 4; k++) v[k] = round_away(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), id));
    _mm256_storeu_si256((__m256i *)codes, pack_bytes(v[0], v[1], v[2], v[3]));
    return d;
}

static inline int32_t sum_codes(const int8_t codes[32])
{
    const __m256i lanes = unscaled(_mm256_maddubs_epi16(_mm256_set1_epi8(1), load32(codes)));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void quantise_q8_0(void *restrict dst, const float *restrict src, int n)
{
    block_q8_0 *b = dst;
    for (int i = 0; i < n / 32; i++)
        b[i].d = _cvtss_sh(encode_signed(b[i].codes, src + i * 32), _MM_FROUND_TO_NEAREST_INT);
    activation_fill_planes(dst, QUANT_Q8_0, n);
}

static void quantise_q8_1(void *restrict dst, const float *restrict src, int n)
{
    block_q8_1 *b = dst;
    for (int i = 0; i < n / 32; i++) {
        const float d = encode_signed(b[i].codes, src + i * 32);
        b[i].d = _cvtss_sh(d, _MM_FROUND_TO_NEAREST_INT);
        b[i].s = _cvtss_sh((float)sum_codes(b[i].codes) * d, _MM_FROUND_TO_NEAREST_INT);
    }
    activation_fill_planes(dst, QUANT_Q8_1, n);
}

/* The first element of the greatest magnitude, with its sign; 0 if all are. */
static inline float signed_max(const float *x)
{
    const __m256 m = _mm256_set1_ps(largest_magnitude(x, QK));
    for (int i = 0; i < QK; i += 8) {
        const __m256 equal = _mm256_cmp_ps(magnitude(_mm256_loadu_ps(x + i)), m, _CMP_EQ_OQ);
        const int found = _mm256_movemask_ps(equal);
        if (found) return x[i + __builtin_ctz((unsigned)found)];
    }
    return 0.0f;
}

/* Limited before it is rounded: a code of NaN is -127, as in the definition. */
static inline __m256i q8_k_codes(const float *x, __m256 is)
{
    const __m256 v = _mm256_max_ps(_mm256_mul_ps(is, _mm256_loadu_ps(x)), _mm256_set1_ps(-127.0f));
    return _mm256_cvtps_epi32(_mm256_min_ps(v, _mm256_set1_ps(127.0f)));
}

/* Sums of 16 codes: pairs, then pairs of pairs, to two numbers per register. */
static inline void q8_k_sums(int16_t sums[16], const int8_t codes[QK])
{
    for (int g = 0; g < 16; g += 2) {
        __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load32(codes + g * 16));
        s = _mm256_hadd_epi16(s, s);
        s = _mm256_hadd_epi16(s, s);
        s = _mm256_hadd_epi16(s, s);
        sums[g] = (int16_t)_mm256_extract_epi16(s, 0);
        sums[g + 1] = (int16_t)_mm256_extract_epi16(s, 8);
    }
}

/* Faster: eight codes at a time. Assumes the default rounding mode; gives the
 * definition's bytes. */
static void quantise_q8_k(void *restrict dst, const float *restrict src, int n)
{
    block_q8_k *b = dst;
    for (int i = 0; i < n / QK; i++) {
        const float *x = src + i * QK;
        const float is = quotient_or_0(-127.0f, signed_max(x));
        const __m256 f = _mm256_set1_ps(is);
        for (int e = 0; e < QK; e += 32)
            _mm256_storeu_si256((__m256i *)(b[i].codes + e),
                                pack_bytes(q8_k_codes(x + e, f), q8_k_codes(x + e + 8, f),
                                           q8_k_codes(x + e + 16, f), q8_k_codes(x + e + 24, f)));
        q8_k_sums(b[i].sums, b[i].codes);
        b[i].d = quotient_or_0(1.0f, is);
    }
}

/* ---- the rung --------------------------------------------------------------------- */

void cpu_kernels_avx2(cpu_kernels *k)
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
