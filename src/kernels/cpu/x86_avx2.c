/* x86_avx2: the AVX2 rung: float rows, activations, and the table. Needs AVX2, FMA
 * and F16C. Tiles of block formats are in x86_q32_avx2.c, x86_nvfp4_avx2.c,
 * x86_kq_avx2.c and x86_iq_avx2.c. */
#include "kernels/cpu/float_tiles.h"
#include "kernels/cpu/x86_tiles_avx2.h"
#include "quant/float_formats.h"

/* ---- float rows --------------------------------------------------------------- */

/* Faster: 32 products in flight, so that additions do not wait for each other, and
 * up to three activations share a loaded row: what else fits the registers. Assumes
 * that a float sum of n/32 terms per lane is precise enough. The order of a sum
 * does not depend on the number of activations, so a tile is the dot to the bit. */
#define FLOAT_ROWS(name, type, load, value)                                         \
    ALWAYS_INLINE void products_##name(float *y, const type *w, const float *const *x, const int count, int n) \
    {                                                                               \
        __m256 s[3][4];                                                             \
        int i = 0;                                                                  \
        UNROLL                                                                      \
        for (int c = 0; c < count; c++) s[c][0] = s[c][1] = s[c][2] = s[c][3] = _mm256_setzero_ps(); \
        for (; i + 32 <= n; i += 32) {                                              \
            UNROLL                                                                  \
            for (int k = 0; k < 4; k++) {                                           \
                const __m256 v = load(w + i + 8 * k);                               \
                UNROLL                                                              \
                for (int c = 0; c < count; c++)                                     \
                    s[c][k] = _mm256_fmadd_ps(v, _mm256_loadu_ps(x[c] + i + 8 * k), s[c][k]); \
            }                                                                       \
        }                                                                           \
        for (; i + 8 <= n; i += 8) {                                                \
            UNROLL                                                                  \
            for (int c = 0; c < count; c++)                                         \
                s[c][0] = _mm256_fmadd_ps(load(w + i), _mm256_loadu_ps(x[c] + i), s[c][0]); \
        }                                                                           \
        UNROLL                                                                      \
        for (int c = 0; c < count; c++) {                                           \
            y[c] = sum8(_mm256_add_ps(_mm256_add_ps(s[c][0], s[c][1]), _mm256_add_ps(s[c][2], s[c][3]))); \
            for (int j = i; j < n; j++) y[c] += value(w[j]) * x[c][j];              \
        }                                                                           \
    }                                                                               \
    FLOAT_TILE(name, type)

static inline float  same(float f)                 { return f; }
static inline __m256 load_f16(const uint16_t *p)   { return _mm256_cvtph_ps(load16(p)); }
static inline __m256 load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16));
}

FLOAT_ROWS(f32, float, _mm256_loadu_ps, same)
FLOAT_ROWS(f16, uint16_t, load_f16, half)
FLOAT_ROWS(bf16, uint16_t, load_bf16, bf16_to_float)

static float dot_f32(const float *restrict a, const float *restrict b, int n)    { return dot_row_f32(a, b, n); }

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

/* Faster by width only, with the definition's bits: the product is rounded before it
 * is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    const __m256 f = _mm256_set1_ps(a);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(f, _mm256_loadu_ps(x + i))));
    for (; i < n; i++) y[i] += a * x[i];
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

static inline int32_t sum_codes(__m256i codes)
{
    const __m256i lanes = unscaled(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Block i of 32 codes as Q8_0 and Q8_1 store them, in the block and in the planes;
 * returns d before rounding. Faster: eight codes at a time. Assumes finite x; gives
 * the definition's bytes. */
static inline float encode_signed(int8_t codes[32], uint16_t *d16, const activation_planes *p, int i, const float *x)
{
    const float d = largest_magnitude(x, 32) / 127.0f;
    const __m256 id = _mm256_set1_ps(quotient_or_0(1.0f, d));
    __m256i v[4];
    UNROLL
    for (int k = 0; k < 4; k++) v[k] = round_away(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), id));
    const __m256i all = pack_bytes(v[0], v[1], v[2], v[3]);
    put32(codes, all);
    *d16 = _cvtss_sh(d, _MM_FROUND_TO_NEAREST_INT);

    put32((int8_t *)(uintptr_t)p->codes + 32 * i, all);
    ((float *)(uintptr_t)p->d)[i] = half(*d16);
    ((int32_t *)(uintptr_t)p->sums)[i] = sum_codes(all);
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
        b[i].s = _cvtss_sh((float)p.sums[i] * d, _MM_FROUND_TO_NEAREST_INT);
    }
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
    k->tile[QUANT_F32] = tile_f32;
    k->tile[QUANT_F16] = tile_f16;
    k->tile[QUANT_BF16] = tile_bf16;
    cpu_tiles_q32_avx2(k);
    cpu_tiles_nvfp4_avx2(k);
    cpu_tiles_kq_avx2(k);
    cpu_tiles_iq_avx2(k);

    k->quantise[QUANT_Q8_0] = quantise_q8_0;
    k->quantise[QUANT_Q8_1] = quantise_q8_1;
    k->quantise[QUANT_Q8_K] = quantise_q8_k;

    k->dot_f32 = dot_f32;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
}
