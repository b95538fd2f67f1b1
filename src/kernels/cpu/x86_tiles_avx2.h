/* x86_tiles_avx2: eight rows of weights side by side, for the tiles of the AVX2
 * rung. Private to its files.
 *
 * A vector of 32-bit lanes holds one number of each of eight rows, so that after
 * exact integer sums one conversion, two products and one addition in the
 * definition's order serve eight results. There are two ways to the sums:
 *
 * - Few activations: a row's block is multiplied as it lies, and the partial lanes
 *   of eight rows are added crosswise (lanes_to_rows).
 * - More: 256 columns of eight rows are unpacked once into unsigned bytes, four
 *   columns of each row to a vector (a panel), and meet four broadcast columns of
 *   each activation. Products of unsigned by signed bytes are summed in 16 bits as
 *   long as no activation can make them overflow ("run"), then in 32. */
#ifndef KERNELS_CPU_X86_TILES_AVX2_H
#define KERNELS_CPU_X86_TILES_AVX2_H

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/x86_common.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { SIDE = 8, PANEL_BATCH = 64 };    /* rows of a vector; activations that share a panel */

/* ---- pieces ---------------------------------------------------------------- */

/* The next eight rows of a tile; the last one again where there are fewer. */
static inline void rows_at(const uint8_t *row[SIDE], const tile_args *a, int first)
{
    for (int r = 0; r < SIDE; r++) {
        const int at = first + r < a->rows ? first + r : a->rows - 1;
        row[r] = a->w + (uint64_t)at * a->w_stride;
    }
}

static inline void store_rows(const tile_args *a, int first, int c, __m256 v)
{
    float *y = a->y + (uint64_t)c * a->y_stride + (uint64_t)first;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(y, _mm256_cmpgt_epi32(_mm256_set1_epi32(a->rows - first), lane), v);
}

/* Eight rows' partial sums to eight sums. */
ALWAYS_INLINE __m256i lanes_to_rows(const __m256i v[SIDE])
{
    __m256i two[4], four[2];
    UNROLL
    for (int i = 0; i < 4; i++)
        two[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                  _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    UNROLL
    for (int i = 0; i < 2; i++)
        four[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(two[2 * i], two[2 * i + 1]),
                                   _mm256_unpackhi_epi64(two[2 * i], two[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                            _mm256_permute2x128_si256(four[0], four[1], 0x31));
}

/* Row r's word j becomes lane r of vector j. */
ALWAYS_INLINE void transpose8(__m256i v[SIDE])
{
    __m256i two[8], four[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        two[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        two[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        four[i] = _mm256_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm256_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm256_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm256_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
    }
}

/* Eight rows' binary16 numbers, `at` bytes from where each row begins. */
ALWAYS_INLINE __m256 halves_at(const uint8_t *const row[SIDE], size_t at)
{
    __m128i h = _mm_setzero_si128();
    uint16_t x;
#define HALF_OF(r) memcpy(&x, row[r] + at, sizeof x); h = _mm_insert_epi16(h, x, r)
    HALF_OF(0); HALF_OF(1); HALF_OF(2); HALF_OF(3); HALF_OF(4); HALF_OF(5); HALF_OF(6); HALF_OF(7);
#undef HALF_OF
    return _mm256_cvtph_ps(h);
}

/* Eight rows' bytes as words. */
ALWAYS_INLINE __m256i bytes_at(const uint8_t *const row[SIDE], size_t at)
{
    return _mm256_setr_epi32(row[0][at], row[1][at], row[2][at], row[3][at],
                             row[4][at], row[5][at], row[6][at], row[7][at]);
}

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

static inline __m256i word_of(const void *p)
{
    return _mm256_set1_epi32((int)word_at(p, 0));
}

/* s + x in s's register: left alone, compilers reorder such sums to trees whose many
 * products do not fit the registers. */
ALWAYS_INLINE __m256i add16_in_place(__m256i s, __m256i x)
{
    s = _mm256_add_epi16(s, x);
    __asm__("" : "+x"(s));
    return s;
}

static inline void put32(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

/* Rows of the next eight are asked for in the order of memory, `bytes` of them while
 * one step's worth is computed: eight streams at once lie beyond what the
 * processor foresees. To the second level, since eight rows can fill the first.
 * Inlined by force: compilers take a function that only prefetches for one that
 * does nothing. */
ALWAYS_INLINE void ask_for(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + i, _MM_HINT_T1);
}

/* What comes after the rows in hand; the tile's own start where nothing does. */
static inline const uint8_t *rows_after(const tile_args *a, int first)
{
    return first + 2 * SIDE <= a->rows ? a->w + (uint64_t)(first + SIDE) * a->w_stride : a->w;
}

/* ---- super-blocks of 256 against Q8_K (x86_kpanel_avx2.c) -------------------- */

/* A row's super-block, spread out: value = code - bias, scales of every 16 columns. */
typedef struct {
    _Alignas(32) uint8_t codes[QK];
    _Alignas(32) int16_t scale[16];
    _Alignas(32) int16_t offset[16];
} k_row;

/* How the exact sums become a float. With D = d_a*d, S = [sum scale*value*a]:
 *   SIGNED   factor*D * S
 *   AFFINE   D * S - d_a*dmin * [sum offset*a]
 *   SHIFTED  D * (S + 1/8 * [sum offset*a]) */
typedef enum { SIGNED, AFFINE, SHIFTED } k_formula;

/* Codes reach 127 at most, or 255 when wide. `run` vectors of four columns are
 * summed in 16 bits: run * 2 * 128 * (greatest code) < 2^15; a run does not pass
 * a scale's columns. */
typedef struct {
    void    (*unpack)(k_row *out, const void *block);
    int       bytes, d, dmin;       /* of a block; where it keeps its scales        */
    k_formula formula;
    int       run;                  /* 1, 2, 4, 8; 0: wide                          */
    int       bias;
    float     factor;
    int       few;                  /* most activations that meet blocks as they lie, by measurement */
} k_type;

ALWAYS_INLINE __m256 k_d(const k_type *t, const uint8_t *const row[SIDE], int block)
{
    return halves_at(row, (size_t)block * (size_t)t->bytes + (size_t)t->d);
}

ALWAYS_INLINE __m256 k_dmin(const k_type *t, const uint8_t *const row[SIDE], int block)
{
    return halves_at(row, (size_t)block * (size_t)t->bytes + (size_t)t->dmin);
}

/* The term of one block in eight rows; d_a is the activation's scale. */
ALWAYS_INLINE __m256 k_term(k_formula formula, __m256 factor, __m256 d_a, __m256 d, __m256 dmin,
                            __m256i scaled_sum, __m256i offset_sum)
{
    const __m256 D = _mm256_mul_ps(d_a, d), S = _mm256_cvtepi32_ps(scaled_sum);
    if (formula == SIGNED) return _mm256_mul_ps(_mm256_mul_ps(factor, D), S);

    const __m256 O = _mm256_cvtepi32_ps(offset_sum);
    if (formula == AFFINE)
        return _mm256_sub_ps(_mm256_mul_ps(D, S), _mm256_mul_ps(_mm256_mul_ps(d_a, dmin), O));
    return _mm256_mul_ps(D, _mm256_add_ps(S, _mm256_mul_ps(_mm256_set1_ps(0.125f), O)));
}

/* Scale 2g for the columns of the first half of group g, 2g + 1 for the second; even
 * scales lie in the first half of s, odd ones in the second. */
ALWAYS_INLINE __m256i scales_of_group(__m256i s, int g)
{
    return _mm256_shuffle_epi8(s, _mm256_set1_epi16((short)(0x0100 + 0x0202 * g)));
}

static inline __m256i even_then_odd(__m256i s)
{
    const __m256i apart = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(s, apart), 0xd8);
}

/* [sum scale*value*a] in eight lanes. Wide codes move their sign: no value is -128. */
ALWAYS_INLINE __m256i k_lanes(const k_row *w, const block_q8_k *a, const k_type *t)
{
    const __m256i scale = load32(w->scale), by_group = even_then_odd(scale);
    __m256i sum = _mm256_setzero_si256();
    if (t->run == 0) {
        UNROLL
        for (int g = 0; g < 8; g++) {
            const __m256i value = _mm256_xor_si256(load32(w->codes + 32 * g), _mm256_set1_epi8(-128));
            sum = _mm256_add_epi32(sum, scaled(pairs(value, load32(a->codes + 32 * g)), scales_of_group(by_group, g)));
        }
        return sum;
    }
    UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i p = _mm256_maddubs_epi16(load32(w->codes + 32 * g), load32(a->codes + 32 * g));
        sum = _mm256_add_epi32(sum, scaled(p, scales_of_group(by_group, g)));
    }
    if (!t->bias) return sum;
    const __m256i bias = _mm256_mullo_epi16(scale, _mm256_set1_epi16((short)t->bias));
    return _mm256_sub_epi32(sum, _mm256_madd_epi16(bias, load32(a->sums)));
}

/* Eight rows with one activation. */
ALWAYS_INLINE __m256 k_eight(const k_type *t, const uint8_t *const row[SIDE], const block_q8_k *a, int blocks,
                             const uint8_t *ahead)
{
    const size_t step = SIDE * (size_t)t->bytes;
    __m256 y = _mm256_setzero_ps();
    __m256i lanes[SIDE], offsets[SIDE];
    k_row w;
    for (int i = 0; i < blocks; i++, ahead += step) {
        __m256i offset_sum = _mm256_setzero_si256();
        ask_for(ahead, step);
        for (int r = 0; r < SIDE; r++) {
            const void *block = row[r] + (size_t)i * (size_t)t->bytes;
            t->unpack(&w, block);
            lanes[r] = k_lanes(&w, &a[i], t);
            if (t->formula != SIGNED) offsets[r] = _mm256_madd_epi16(load32(w.offset), load32(a[i].sums));
        }
        if (t->formula != SIGNED) offset_sum = lanes_to_rows(offsets);
        const __m256 dmin = t->formula == AFFINE ? k_dmin(t, row, i) : _mm256_setzero_ps();
        y = _mm256_add_ps(y, k_term(t->formula, _mm256_set1_ps(t->factor), _mm256_set1_ps(a[i].d), k_d(t, row, i),
                                  dmin, lanes_to_rows(lanes), offset_sum));
    }
    return y;
}

/* Tiles of few activations: compiled for each type, unpacking and all. */
ALWAYS_INLINE void k_rows(const tile_args *a, const k_type *t)
{
    const uint8_t *row[SIDE];
    for (int first = 0; first < a->rows; first += SIDE) {
        rows_at(row, a, first);
        for (int c = 0; c < a->batch; c++) {
            const block_q8_k *x = (const block_q8_k *)(const void *)a->x[c];
            store_rows(a, first, c, k_eight(t, row, x, a->n / QK, rows_after(a, first)));
        }
    }
}

/* Tiles of more. */
void k_panels(const tile_args *a, const k_type *t);

#define K_TILE(name, ...)                                                           \
    static void tile_##name(const cpu_kernels *k, const tile_args *a)               \
    {                                                                               \
        static const k_type type = { unpack_##name, sizeof(block_##name), __VA_ARGS__ }; \
        (void)k;                                                                    \
        if (a->batch > type.few) k_panels(a, &type);                                \
        else k_rows(a, &type);                                                      \
    }

/* ---- the parts of the rung ---------------------------------------------------- */

void cpu_tiles_q32_avx2(cpu_kernels *k);
void cpu_tiles_nvfp4_avx2(cpu_kernels *k);
void cpu_tiles_kq_avx2(cpu_kernels *k);
void cpu_tiles_iq_avx2(cpu_kernels *k);

#endif
