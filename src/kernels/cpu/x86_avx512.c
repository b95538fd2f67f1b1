/* x86_avx512: sixteen floats or 64 codes at a time, masks for tails and signs.
 * Needs AVX-512 F, BW, VL, DQ and VNNI; what is not here stays with AVX2.
 *
 * Integer parts are those of the definition, for every bit pattern of codes:
 * vpdpbusd adds four products of unsigned by signed bytes to 32 bits without
 * saturation, vpdpwssd two of 16 bits. The 16-bit sums made on the way, codes of
 * at most 43 against 128, stay below 2*43*128 = 11008. A lane's share of a block
 * is below 2^24 (see x86_avx2.c), so its float is exact; what differs from the
 * definition is the order of float additions alone. */
#include "kernels/cpu/x86_avx512.h"
#include "quant/float_formats.h"
#include "quant/tables.h"

/* ---- pieces ---------------------------------------------------------------- */

static inline __m512i bytes_and(__m512i x, int mask)
{
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

static inline __m512i two_halves(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* acc += d * lanes */
static inline __m256 add_lanes8(__m256 acc, float d, __m256i lanes)
{
    return _mm256_fmadd_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(lanes), acc);
}

static inline __m512 add_lanes16(__m512 acc, float d, __m512i lanes)
{
    return _mm512_fmadd_ps(_mm512_set1_ps(d), _mm512_cvtepi32_ps(lanes), acc);
}

static inline float sum16(__m512 v)
{
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

/* Quarter i: scale number k_i in all eight 16-bit places, out of sixteen bytes
 * 0..127 that lie in every quarter of s. */
static inline __m512i quarter_scales(__m512i s, int k0, int k1, int k2, int k3)
{
    const __m512i from = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi16((short)(0x8000 | k1)),
                                                _mm_set1_epi16((short)(0x8000 | k0)))),
        _mm256_set_m128i(_mm_set1_epi16((short)(0x8000 | k3)), _mm_set1_epi16((short)(0x8000 | k2))), 1);
    return _mm512_shuffle_epi8(s, from);
}

/* ---- super-blocks of 256 against Q8_K ------------------------------------------- */

/* Each returns sum_g scale_g * sum code*a in sixteen lanes. */

/* Faster: 64 codes are a shift and a mask of one load; the scales multiply, widen
 * and add in one instruction. Assumes codes below 64. */
static inline __m512i lanes_q2_k(const block_q2_k *w, const block_q8_k *a)
{
    const __m512i bits = load64(w->codes);
    const __m512i scale = bytes_and(_mm512_broadcast_i32x4(load16(w->scales)), 15);
    __m512i sum = _mm512_setzero_si512();
    UNROLL
    for (int q = 0; q < 4; q++) {       /* groups 2q, 2q + 1 of both halves of 128 */
        const __m512i code = bytes_and(_mm512_srli_epi16(bits, 2 * q), 3);
        const __m512i x = two_halves(load32(a->codes + 32 * q), load32(a->codes + 128 + 32 * q));
        sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(code, x),
                                  quarter_scales(scale, 2 * q, 2 * q + 1, 2 * q + 8, 2 * q + 9));
    }
    return sum;
}

/* Faster: a load gives the codes of four groups. Assumes codes below 64. */
static inline __m512i lanes_q4_k(const block_q4_k *w, __m128i scales, const block_q8_k *a)
{
    const __m512i scale = _mm512_broadcast_i32x4(scales);
    __m512i sum = _mm512_setzero_si512();
    UNROLL
    for (int g = 0; g < 8; g += 4) {    /* low nibbles: groups g, g + 2; high: g + 1, g + 3 */
        const __m512i bits = load64(w->codes + g * 16);
        const __m512i x01 = load64(a->codes + g * 32), x23 = load64(a->codes + g * 32 + 64);
        const __m512i p = _mm512_maddubs_epi16(bytes_and(bits, 15), _mm512_shuffle_i64x2(x01, x23, 0x44));
        const __m512i q = _mm512_maddubs_epi16(bytes_and(_mm512_srli_epi16(bits, 4), 15),
                                               _mm512_shuffle_i64x2(x01, x23, 0xee));
        sum = _mm512_dpwssd_epi32(sum, p, quarter_scales(scale, g, g, g + 2, g + 2));
        sum = _mm512_dpwssd_epi32(sum, q, quarter_scales(scale, g + 1, g + 1, g + 3, g + 3));
    }
    return sum;
}

static inline __m512i eight_words(const uint64_t *table, const uint8_t i[4], const uint8_t j[4])
{
    return _mm512_set_epi64((long long)table[j[3]], (long long)table[j[2]], (long long)table[j[1]],
                            (long long)table[j[0]], (long long)table[i[3]], (long long)table[i[2]],
                            (long long)table[i[1]], (long long)table[i[0]]);
}

/* Faster: the sign bits of two groups are a mask register as they stand, and one
 * masked subtraction applies them together with the activation's. Assumes grid
 * bytes of at most 43. */
static inline __m512i lanes_iq2_xxs(const block_iq2_xxs *w, const block_q8_k *a)
{
    const uint8_t *bytes = (const uint8_t *)w->groups;
    const __m256i words = iq2_xxs_sign_words(bytes), scales = odd_scales8(words);
    const __m512i zero = _mm512_setzero_si512();
    uint64_t signs[4];
    _mm256_storeu_si256((__m256i *)signs, sign_masks8(words));

    __m512i sum = zero;
    UNROLL
    for (int g = 0; g < 8; g += 2) {
        const __m512i x = load64(a->codes + g * 32);
        const __m512i grid = eight_words(quant_iq2_xxs_grid, bytes + 8 * g, bytes + 8 * g + 8);
        const __mmask64 minus = _cvtu64_mask64(signs[g / 2]) ^ _mm512_movepi8_mask(x);
        const __m512i value = _mm512_mask_sub_epi8(grid, minus, zero, grid);
        const __m512i which = two_halves(_mm256_set1_epi32(g), _mm256_set1_epi32(g + 1));
        const __m512i scale = _mm512_permutexvar_epi32(which, _mm512_castsi256_si512(scales));
        sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(_mm512_abs_epi8(x), value), scale);
    }
    return sum;
}

static float dot_iq2_xxs(const void *restrict w, const void *restrict x, int n)
{
    const block_iq2_xxs *b = w;
    const block_q8_k *a = x;
    __m512 acc = _mm512_setzero_ps();
    for (int i = 0; i < n / QK; i++)
        acc = add_lanes16(acc, a[i].d * half(b[i].d), lanes_iq2_xxs(&b[i], &a[i]));
    return 0.125f * sum16(acc);
}

/* sum_g o_g * sum a in eight lanes, from one offset per sum of 16. */
static inline __m256i lanes_offsets(__m128i offset, const block_q8_k *a)
{
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(offset), load32(a->sums));
}

static float dot_q2_k(const void *restrict w, const void *restrict x, int n)
{
    const block_q2_k *b = w;
    const block_q8_k *a = x;
    __m512 acc = _mm512_setzero_ps();
    __m256 offsets = _mm256_setzero_ps();
    for (int i = 0; i < n / QK; i++) {
        const __m128i offset = _mm_and_si128(_mm_srli_epi16(load16(b[i].scales), 4), _mm_set1_epi8(15));
        acc = add_lanes16(acc, a[i].d * half(b[i].d), lanes_q2_k(&b[i], &a[i]));
        offsets = add_lanes8(offsets, a[i].d * half(b[i].dmin), lanes_offsets(offset, &a[i]));
    }
    return sum16(acc) - sum8(offsets);
}

static float dot_q4_k(const void *restrict w, const void *restrict x, int n)
{
    const block_q4_k *b = w;
    const block_q8_k *a = x;
    __m512 acc = _mm512_setzero_ps();
    __m256 offsets = _mm256_setzero_ps();
    for (int i = 0; i < n / QK; i++) {
        uint8_t bytes[16];
        unpack_6bit(bytes, b[i].scales);
        const __m128i scales = load16(bytes);
        acc = add_lanes16(acc, a[i].d * half(b[i].d), lanes_q4_k(&b[i], scales, &a[i]));
        offsets = add_lanes8(offsets, a[i].d * half(b[i].dmin),
                             lanes_offsets(_mm_unpackhi_epi8(scales, scales), &a[i]));
    }
    return sum16(acc) - sum8(offsets);
}

/* ---- float rows ------------------------------------------------------------------- */

/* The first `left` of sixteen elements. */
static inline __mmask16 first(int left) { return (__mmask16)((1u << left) - 1u); }

static inline __m512 load_f32(const float *p)     { return _mm512_loadu_ps(p); }
static inline __m512 load_f16(const uint16_t *p)  { return _mm512_cvtph_ps(load32(p)); }
static inline __m512 load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load32(p)), 16));
}

static inline __m512 part_f32(__mmask16 m, const float *p)     { return _mm512_maskz_loadu_ps(m, p); }
static inline __m512 part_f16(__mmask16 m, const uint16_t *p)  { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
static inline __m512 part_bf16(__mmask16 m, const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

/* Faster: 64 products in flight, and the tail is one masked step. Assumes that a
 * float sum of n/64 terms per lane is precise enough. */
#define FLOAT_DOT(name, type, load, part)                                           \
    static inline float name(const type *a, const float *b, int n)                  \
    {                                                                               \
        __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;                 \
        int i = 0;                                                                  \
        for (; i + 64 <= n; i += 64) {                                              \
            s0 = _mm512_fmadd_ps(load(a + i),      load_f32(b + i),      s0);       \
            s1 = _mm512_fmadd_ps(load(a + i + 16), load_f32(b + i + 16), s1);       \
            s2 = _mm512_fmadd_ps(load(a + i + 32), load_f32(b + i + 32), s2);       \
            s3 = _mm512_fmadd_ps(load(a + i + 48), load_f32(b + i + 48), s3);       \
        }                                                                           \
        for (; i + 16 <= n; i += 16)                                                \
            s0 = _mm512_fmadd_ps(load(a + i), load_f32(b + i), s0);                 \
        const __mmask16 m = first(n - i);                                           \
        s1 = _mm512_fmadd_ps(part(m, a + i), part_f32(m, b + i), s1);               \
        return sum16(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));  \
    }

FLOAT_DOT(products_f32, float, load_f32, part_f32)
FLOAT_DOT(products_f16, uint16_t, load_f16, part_f16)
FLOAT_DOT(products_bf16, uint16_t, load_bf16, part_bf16)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return products_f32(a, b, n); }
static float dot_f16(const uint16_t *restrict a, const float *restrict b, int n) { return products_f16(a, b, n); }
static float dot_row_f32(const void *restrict w, const void *restrict x, int n)  { return products_f32(w, x, n); }
static float dot_row_f16(const void *restrict w, const void *restrict x, int n)  { return products_f16(w, x, n); }
static float dot_row_bf16(const void *restrict w, const void *restrict x, int n) { return products_bf16(w, x, n); }

/* Faster: sixteen squares at a time, in double as the definition. Assumes nothing. */
static double sum_squares(const float *restrict x, int n)
{
    __m512d s0 = _mm512_setzero_pd(), s1 = s0;
    for (int i = 0; i < n; i += 16) {
        const __m512 v = n - i >= 16 ? load_f32(x + i) : part_f32(first(n - i), x + i);
        const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
        const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        s0 = _mm512_fmadd_pd(a, a, s0);
        s1 = _mm512_fmadd_pd(b, b, s1);
    }
    const __m512d s = _mm512_add_pd(s0, s1);
    return sum4_double(_mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1)));
}

/* The four below are faster by width only and give the definition's bits: the
 * product in axpy is rounded before it is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    const __m512 f = _mm512_set1_ps(a);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_add_ps(load_f32(y + i), _mm512_mul_ps(f, load_f32(x + i))));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(part_f32(m, y + i), _mm512_mul_ps(f, part_f32(m, x + i))));
}

static void axpy_f16(float *restrict y, float a, const uint16_t *restrict x, int n)
{
    const __m512 f = _mm512_set1_ps(a);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_add_ps(load_f32(y + i), _mm512_mul_ps(f, load_f16(x + i))));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(part_f32(m, y + i), _mm512_mul_ps(f, part_f16(m, x + i))));
}

static void f16_to_f32(float *restrict y, const uint16_t *restrict x, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, load_f16(x + i));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, part_f16(m, x + i));
}

static void f32_to_f16(uint16_t *restrict y, const float *restrict x, int n)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtps_ph(load_f32(x + i), _MM_FROUND_TO_NEAREST_INT));
    const __mmask16 m = first(n - i);
    _mm256_mask_storeu_epi16(y + i, m, _mm512_cvtps_ph(part_f32(m, x + i), _MM_FROUND_TO_NEAREST_INT));
}

/* ---- the rung ----------------------------------------------------------------------- */

void cpu_kernels_avx512(cpu_kernels *k)
{
    k->dot[QUANT_F32] = dot_row_f32;
    k->dot[QUANT_F16] = dot_row_f16;
    k->dot[QUANT_BF16] = dot_row_bf16;
    k->dot[QUANT_Q2_K] = dot_q2_k;
    k->dot[QUANT_Q4_K] = dot_q4_k;
    k->dot[QUANT_IQ2_XXS] = dot_iq2_xxs;

    cpu_q32_avx512(k);

    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->f16_to_f32 = f16_to_f32;
    k->f32_to_f16 = f32_to_f16;
}
