/* x86_q32_avx2: tiles of blocks of 32 against Q8_0 and Q8_1 activations. Layouts are
 * told in src/quant/q32.c, iq4.c and fp4.c.
 *
 * Integer sums are exact for every bit pattern: codes are unsigned with a bias, and
 * 16-bit sums keep to the bound of a run; signed eight-bit ones are taken apart into
 * two nibbles (wide). */
#include <stddef.h>
#include "kernels/cpu/x86_tiles_avx2.h"
#include "quant/tables.h"

/* A type, known where its functions are compiled. S = [sum value*a], D = d_w*d_a:
 * a block's term is D * S, and with `affine` D * S + m_w * s_a. */
typedef struct {
    __m256i (*codes)(const uint8_t *block);                     /* 32 of value + bias         */
    __m256i (*lanes)(const uint8_t *block, const int8_t *a);    /* [sum (value + left)*a]     */
    __m256  (*scales)(const uint8_t *const row[SIDE], size_t at);
    int     bytes, bias, left;
    int     run;                    /* vectors of four columns summed in 16 bits; 0: wide     */
    bool    affine;
} q32_type;

/* 256 columns of eight rows. */
typedef struct {
    __m256i codes[64];              /* four columns of each row; wide: their high four bits   */
    __m256i fine[64];               /* wide: the low four bits                                */
    __m256  d[8], m[8];
} q32_panel;

/* An activation: its row of blocks and its planes. */
typedef struct {
    const int8_t     *codes;
    const float      *d;
    const int32_t    *sums;
    const block_q8_1 *blocks;
} activation;

static activation activation_at(const uint8_t *row, quant_type type, int n)
{
    const activation_planes p = activation_planes_of(row, type, n);
    return (activation){ p.codes, p.d, p.sums, (const block_q8_1 *)(const void *)row };
}

/* The term of one block in eight rows. */
ALWAYS_INLINE __m256 term(const q32_type *t, const activation *x, int i, __m256 d, __m256 m, __m256i sum)
{
    const __m256 D = _mm256_mul_ps(d, _mm256_set1_ps(x->d[i]));
    const __m256 y = _mm256_mul_ps(D, _mm256_cvtepi32_ps(sum));
    return t->affine ? _mm256_add_ps(y, _mm256_mul_ps(m, _mm256_set1_ps(half(x->blocks[i].s)))) : y;
}

/* bias times the sum of 32 activations, which fits 16 bits. */
ALWAYS_INLINE __m256i biased_by(int bias, int32_t sum)
{
    return _mm256_madd_epi16(_mm256_set1_epi32(sum), _mm256_set1_epi32(bias));
}

/* ---- few activations ---------------------------------------------------------------- */

ALWAYS_INLINE __m256 eight_rows(const q32_type *t, const uint8_t *const row[SIDE], const activation *x, int n,
                                    const uint8_t *ahead)
{
    const size_t bytes = (size_t)t->bytes;
    __m256 y = _mm256_setzero_ps();
    for (int i = 0; i < n / 32; i++, ahead += SIDE * bytes) {
        const size_t at = (size_t)i * bytes;
        __m256i lanes[SIDE];
        ask_for(ahead, SIDE * bytes);
        UNROLL
        for (int r = 0; r < SIDE; r++) lanes[r] = t->lanes(row[r] + at, x->codes + 32 * i);
        __m256i sum = lanes_to_rows(lanes);
        if (t->left) sum = _mm256_sub_epi32(sum, biased_by(t->left, x->sums[i]));
        const __m256 m = t->affine ? halves_at(row, at + 2) : _mm256_setzero_ps();
        y = _mm256_add_ps(y, term(t, x, i, t->scales(row, at), m, sum));
    }
    return y;
}

/* ---- more activations ------------------------------------------------------------------- */

ALWAYS_INLINE void fill_panel(q32_panel *p, const q32_type *t, const uint8_t *const row[SIDE], int first, int blocks)
{
    for (int i = 0; i < blocks; i++) {
        const size_t at = (size_t)(first + i) * (size_t)t->bytes;
        __m256i v[SIDE];
        UNROLL
        for (int r = 0; r < SIDE; r++) v[r] = t->codes(row[r] + at);
        transpose8(v);
        UNROLL
        for (int j = 0; j < 8; j++) {
            if (!t->run) p->fine[8 * i + j] = bytes_and(v[j], 15);
            p->codes[8 * i + j] = t->run ? v[j] : bytes_and(_mm256_srli_epi16(v[j], 4), 15);
        }
        p->d[i] = t->scales(row, at);
        if (t->affine) p->m[i] = halves_at(row, at + 2);
    }
}

/* y[c] += the panel times `blocks` blocks of activation c from number `first` on, for c < n. */
ALWAYS_INLINE void multiply(const q32_panel *p, const q32_type *t, const activation *x, const int n, int first,
                            int blocks, __m256 *y)
{
    const int run = t->run ? t->run : 8;
    __m256 total[4];
    UNROLL
    for (int c = 0; c < n; c++) total[c] = y[c];
    for (int i = 0; i < blocks; i++) {
        const int block = first + i;
        __m256i sum[4], s[4], f[4];
        UNROLL
        for (int c = 0; c < n; c++) sum[c] = _mm256_setzero_si256();
        UNROLL
        for (int v = 0; v < 8; v++) {
            const __m256i w = p->codes[8 * i + v];
            UNROLL
            for (int c = 0; c < n; c++) {
                const __m256i a = word_of(x[c].codes + 32 * block + 4 * v);
                const __m256i product = _mm256_maddubs_epi16(w, a);
                s[c] = v % run ? add16_in_place(s[c], product) : product;
                if (v % run == run - 1) sum[c] = _mm256_add_epi32(sum[c], unscaled(s[c]));
                if (t->run) continue;
                const __m256i low = _mm256_maddubs_epi16(p->fine[8 * i + v], a);
                f[c] = v ? add16_in_place(f[c], low) : low;
            }
        }
        UNROLL
        for (int c = 0; c < n; c++) {
            if (!t->run) sum[c] = _mm256_add_epi32(_mm256_slli_epi32(sum[c], 4), unscaled(f[c]));
            if (t->bias) sum[c] = _mm256_sub_epi32(sum[c], biased_by(t->bias, x[c].sums[block]));
            total[c] = _mm256_add_ps(total[c], term(t, &x[c], block, p->d[i], p->m[i], sum[c]));
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) y[c] = total[c];
}

/* ---- tiles -------------------------------------------------------------------------------- */

ALWAYS_INLINE void panel_tile(const tile_args *a, const q32_type *t, const activation *x, int c0, int batch)
{
    q32_panel *p = (q32_panel *)(void *)a->scratch;
    const uint8_t *row[SIDE];
    __m256 y[PANEL_BATCH];
    for (int first = 0; first < a->rows; first += SIDE) {
        const uint8_t *ahead = rows_after(a, first);
        rows_at(row, a, first);
        for (int c = 0; c < batch; c++) y[c] = _mm256_setzero_ps();
        for (int i = 0; i < a->n / 32; i += 8, ahead += SIDE * 8 * t->bytes) {
            const int blocks = a->n / 32 - i < 8 ? a->n / 32 - i : 8;
            int c = 0;
            ask_for(ahead, SIDE * 8 * (size_t)t->bytes);
            fill_panel(p, t, row, i, blocks);
            for (; c + 4 <= batch; c += 4) multiply(p, t, x + c, 4, i, blocks, y + c);
            if (c + 3 == batch) multiply(p, t, x + c, 3, i, blocks, y + c);
            if (c + 2 == batch) multiply(p, t, x + c, 2, i, blocks, y + c);
            if (c + 1 == batch) multiply(p, t, x + c, 1, i, blocks, y + c);
        }
        for (int c = 0; c < batch; c++) store_rows(a, first, c0 + c, y[c]);
    }
}

ALWAYS_INLINE void q32_tile(const tile_args *a, const q32_type *t)
{
    const quant_type type = t->affine ? QUANT_Q8_1 : QUANT_Q8_0;
    const int few = t->run ? 1 : 2;         /* where a panel does not pay, by measurement */
    activation x[PANEL_BATCH];
    for (int c0 = 0; c0 < a->batch; c0 += PANEL_BATCH) {
        const int batch = a->batch - c0 < PANEL_BATCH ? a->batch - c0 : PANEL_BATCH;
        for (int c = 0; c < batch; c++) x[c] = activation_at(a->x[c0 + c], type, a->n);
        if (batch > few) panel_tile(a, t, x, c0, batch);
        for (int first = 0; batch <= few && first < a->rows; first += SIDE) {
            const uint8_t *row[SIDE];
            rows_at(row, a, first);
            for (int c = 0; c < batch; c++)
                store_rows(a, first, c0 + c, eight_rows(t, row, &x[c], a->n, rows_after(a, first)));
        }
    }
}

/* ---- the types ------------------------------------------------------------------------------ */

enum { Q4_BIAS = 8, Q5_BIAS = 16, E2M1_BIAS = 12, WIDE_BIAS = 128 };

ALWAYS_INLINE __m256i products(__m256i codes, const int8_t *a)
{
    return unscaled(_mm256_maddubs_epi16(codes, load32(a)));
}

ALWAYS_INLINE __m256i five_bits(const uint8_t nibble_pairs[16], const uint8_t high[4])
{
    return _mm256_or_si256(nibbles(nibble_pairs), bytes_and(spread(word_of(high)), 16));
}

ALWAYS_INLINE __m256i levels_at(__m128i table, const uint8_t nibble_pairs[16])
{
    return _mm256_shuffle_epi8(twice(table), nibbles(nibble_pairs));
}

ALWAYS_INLINE __m128i e2m1_plus(int bias)
{
    return _mm_add_epi8(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
                        _mm_set1_epi8((char)bias));
}

ALWAYS_INLINE __m256i wide(__m256i value) { return _mm256_xor_si256(value, _mm256_set1_epi8(-128)); }

/* 2^(e - 128) of eight rows, as half of 2^(e - 127): e = 0 has no exponent but the
 * highest bit of a mantissa, e = 255 is NaN. */
ALWAYS_INLINE __m256 halved_e8m0(const uint8_t *const row[SIDE], size_t at)
{
    const __m256i e = bytes_at(row, at), top = _mm256_set1_epi32(0x00400000);
    const __m256i nan = _mm256_and_si256(top, _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255)));
    const __m256i d = _mm256_or_si256(_mm256_max_epi32(_mm256_slli_epi32(e, 23), top), nan);
    return _mm256_mul_ps(_mm256_castsi256_ps(d), _mm256_set1_ps(0.5f));
}

#define BLOCK(type) const block_##type *w = (const block_##type *)(const void *)block

#define Q32_TILE(type, scales, bias, left, run, affine, code, lane)                                     \
    ALWAYS_INLINE __m256i codes_##type(const uint8_t *block) { BLOCK(type); return code; }              \
    ALWAYS_INLINE __m256i lanes_##type(const uint8_t *block, const int8_t *a) { BLOCK(type); return lane; } \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                                   \
    {                                                                                                   \
        static const q32_type t = { codes_##type, lanes_##type, scales, sizeof(block_##type),           \
                                    bias, left, run, affine };                                          \
        (void)k;                                                                                        \
        q32_tile(a, &t);                                                                                \
    }

/* Faster: 16 products an instruction, widened: -128 times -128 is one like any other. */
ALWAYS_INLINE __m256i widened(__m256i w, const int8_t *a)
{
    const __m256i x = load32(a);
    const __m256i low = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(w)),
                                          _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)));
    const __m256i high = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(w, 1)),
                                           _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1)));
    return _mm256_add_epi32(low, high);
}

Q32_TILE(q4_0, halves_at, Q4_BIAS, Q4_BIAS, 8, false, nibbles(w->codes), products(nibbles(w->codes), a))
Q32_TILE(q4_1, halves_at, 0, 0, 8, true, nibbles(w->codes), products(nibbles(w->codes), a))
Q32_TILE(q5_0, halves_at, Q5_BIAS, Q5_BIAS, 4, false, five_bits(w->codes, w->high),
         products(five_bits(w->codes, w->high), a))
Q32_TILE(q5_1, halves_at, 0, 0, 4, true, five_bits(w->codes, w->high), products(five_bits(w->codes, w->high), a))
Q32_TILE(q8_0, halves_at, WIDE_BIAS, 0, 0, false, wide(load32(w->codes)), widened(load32(w->codes), a))
Q32_TILE(iq4_nl, halves_at, WIDE_BIAS, 0, 0, false, wide(levels_at(load16(quant_iq4_levels), w->codes)),
         unscaled(pairs(levels_at(load16(quant_iq4_levels), w->codes), load32(a))))
Q32_TILE(mxfp4, halved_e8m0, E2M1_BIAS, E2M1_BIAS, 4, false, levels_at(e2m1_plus(E2M1_BIAS), w->codes),
         products(levels_at(e2m1_plus(E2M1_BIAS), w->codes), a))

void cpu_tiles_q32_avx2(cpu_kernels *k)
{
    k->tile[QUANT_Q4_0] = tile_q4_0;
    k->tile[QUANT_Q4_1] = tile_q4_1;
    k->tile[QUANT_Q5_0] = tile_q5_0;
    k->tile[QUANT_Q5_1] = tile_q5_1;
    k->tile[QUANT_Q8_0] = tile_q8_0;
    k->tile[QUANT_IQ4_NL] = tile_iq4_nl;
    k->tile[QUANT_MXFP4] = tile_mxfp4;
}
