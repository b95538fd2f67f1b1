/* x86_q32_avx512: tiles of the types with blocks of 32: Q8_0, Q4_0 to Q5_1,
 * IQ4_NL, MXFP4; and NVFP4, whose blocks of 16 pair up.
 *
 * vpdpbusd adds products of unsigned by signed bytes to 32 bits without
 * saturation, so weights become unsigned by an offset and offset * sum a is taken
 * off again. Block sums are exact; floats follow in the definition's order, with
 * rows side by side in a vector.
 *
 * One activation: four rows by four blocks at a time as they lie in memory, the four
 * blocks in the quarters of a vector. The rows of the next group are fetched ahead in
 * the order of memory, which is what memory is fastest at. More: x86_panel32_avx512.h. */
#include "kernels/cpu/x86_panel32_avx512.h"
#include "quant/tables.h"

/* A type as constants: every function below is inlined for one of them. */
typedef struct {
    quant_type type;
    int        bytes, codes;    /* of a block; where its codes begin        */
    int        offset;          /* unsigned code - value                    */
    bool       affine;          /* has m; meets Q8_1                        */
    int        high;            /* where the fifth bits are, or 0           */
} format;

INLINE quant_type activation_of(const format f) { return f.affine ? QUANT_Q8_1 : QUANT_Q8_0; }

INLINE int min_of(int a, int b) { return a < b ? a : b; }

/* ---- one block ----------------------------------------------------------------- */

/* Unsigned codes of nibbles. */
INLINE __m512i from_nibbles(const format f, __m512i nibble)
{
    const __m128i doubled = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    const __m128i levels = _mm_xor_si128(load16(quant_iq4_levels), _mm_set1_epi8((char)0x80));
    switch (f.type) {
    case QUANT_MXFP4:
    case QUANT_NVFP4:  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(doubled), nibble);
    case QUANT_IQ4_NL: return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), nibble);
    default:           return nibble;
    }
}

INLINE __m512i low_nibbles(__m512i x)  { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE __m512i high_nibbles(__m512i x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }

/* Scales of sixteen blocks, and m of affine ones. */
INLINE __m512 scales16(const format f, const uint8_t *const block[16], size_t at, __m512 *m)
{
    *m = _mm512_setzero_ps();
    if (f.affine) {
        const __m512i both = dwords16(block, at);
        *m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
    }
    if (f.type != QUANT_MXFP4) return _mm512_cvtph_ps(words16(block, at));

    /* 2^(e-128), from the exponent field; e = 0 is below the normal range. */
    const __m512i e = _mm512_and_si512(_mm512_cvtepu16_epi32(words16(block, at)), _mm512_set1_epi32(255));
    __m512i bits = _mm512_slli_epi32(e, 23);
    bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(0x00400000));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    bits = _mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5f));
}

/* ---- one activation ---------------------------------------------------------------- */

/* Four blocks of an activation. */
typedef struct {
    __m512i codes[2];       /* Q8_0: in order; nibbles: first halves, second halves */
    __m512i start;          /* quarter b: -offset * sum a                           */
    __m512  d, s;           /* quarter b: the block's scale; its s where affine      */
} four_blocks;

/* Quarter b: element b of v. */
INLINE __m512i spread(__m128i v)
{
    const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(which, _mm512_castsi128_si512(v));
}

INLINE four_blocks load_four(const format f, const uint8_t *row, const activation_planes *x, int b, int n_blocks)
{
    four_blocks v = { .s = _mm512_setzero_ps() };
    const __m512i x01 = load64(x->codes + 32 * b), x23 = load64(x->codes + 32 * b + 64);
    v.codes[0] = f.type == QUANT_Q8_0 ? x01 : _mm512_shuffle_i64x2(x01, x23, 0x88);
    v.codes[1] = f.type == QUANT_Q8_0 ? x23 : _mm512_shuffle_i64x2(x01, x23, 0xdd);
    v.d = _mm512_castsi512_ps(spread(load16(x->d + b)));
    v.start = f.offset ? spread(_mm_mullo_epi32(load16(x->sums + b), _mm_set1_epi32(-f.offset)))
                       : _mm512_setzero_si512();
    if (f.affine) {
        const block_q8_1 *block = (const block_q8_1 *)(const void *)row;
        float s[4];
        UNROLL
        for (int i = 0; i < 4; i++) s[i] = half(block[min_of(b + i, n_blocks - 1)].s);
        v.s = _mm512_castsi512_ps(spread(load16(s)));
    }
    return v;
}

/* Bits 0..15 or 16..31 of the four blocks' words of fifth bits. */
INLINE __mmask64 fifth_bits(const format f, const uint8_t *row, const size_t at[4], int half_block)
{
    uint64_t bits = 0;
    UNROLL
    for (int b = 0; b < 4; b++) {
        uint16_t h;
        memcpy(&h, row + at[b] + f.high + 2 * half_block, sizeof h);
        bits |= (uint64_t)h << 16 * b;
    }
    return _cvtu64_mask64(bits);
}

/* Element r of quarter b: sum of unsigned codes times a, row r, the block at at[b]. */
INLINE __m512i sums_4x4(const format f, const uint8_t *const row[4], const size_t at[4], const four_blocks *x)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i s[4], t[4];
    if (f.type == QUANT_Q8_0) {
        const __m512i flip = _mm512_set1_epi8((char)0x80);
        UNROLL
        for (int r = 0; r < 4; r++) {
            const uint8_t *w = row[r] + f.codes;
            const __m512i w01 = _mm512_inserti64x4(_mm512_castsi256_si512(load32(w + at[0])), load32(w + at[1]), 1);
            const __m512i w23 = _mm512_inserti64x4(_mm512_castsi256_si512(load32(w + at[2])), load32(w + at[3]), 1);
            s[r] = _mm512_dpbusd_epi32(zero, _mm512_xor_si512(w01, flip), x->codes[0]);
            t[r] = _mm512_dpbusd_epi32(zero, _mm512_xor_si512(w23, flip), x->codes[1]);
        }
        const __m512i s01 = sums_of_quarters(s), s23 = sums_of_quarters(t);     /* halves of blocks */
        return _mm512_add_epi32(_mm512_shuffle_i64x2(s01, s23, 0x88), _mm512_shuffle_i64x2(s01, s23, 0xdd));
    }
    UNROLL
    for (int r = 0; r < 4; r++) {
        const uint8_t *w = row[r] + f.codes;
        const __m512i bits = quarters(w + at[0], w + at[1], w + at[2], w + at[3]);
        __m512i low = from_nibbles(f, low_nibbles(bits)), high = from_nibbles(f, high_nibbles(bits));
        if (f.high) {
            const __m512i bit = _mm512_set1_epi8(16);
            low = _mm512_mask_add_epi8(low, fifth_bits(f, row[r], at, 0), low, bit);
            high = _mm512_mask_add_epi8(high, fifth_bits(f, row[r], at, 1), high, bit);
        }
        s[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, low, x->codes[0]), high, x->codes[1]);
    }
    return sums_of_quarters(s);
}

/* sum += the terms of up to four blocks, in their order */
INLINE __m128 add_four(const format f, __m128 sum, const uint8_t *const row[4], const size_t at[4],
                       const four_blocks *x, int blocks)
{
    const uint8_t *block[16];
    UNROLL
    for (int i = 0; i < 16; i++) block[i] = row[i % 4] + at[i / 4];
    __m512 m;
    const __m512 d = _mm512_mul_ps(scales16(f, block, 0, &m), x->d);
    const __m512i isum = _mm512_add_epi32(sums_4x4(f, row, at, x), x->start);
    __m512 term = _mm512_mul_ps(d, _mm512_cvtepi32_ps(isum));
    if (f.affine) term = _mm512_add_ps(term, _mm512_mul_ps(m, x->s));

    sum = _mm_add_ps(sum, _mm512_castps512_ps128(term));
    if (blocks > 1) sum = _mm_add_ps(sum, _mm512_extractf32x4_ps(term, 1));
    if (blocks > 2) sum = _mm_add_ps(sum, _mm512_extractf32x4_ps(term, 2));
    if (blocks > 3) sum = _mm_add_ps(sum, _mm512_extractf32x4_ps(term, 3));
    return sum;
}

/* Four rows times one activation. */
INLINE __m128 four_rows(const format f, const uint8_t *const row[4], const uint8_t *x_row, int n, const uint8_t *ahead)
{
    const activation_planes x = activation_planes_of(x_row, activation_of(f), n);
    const size_t bytes = (size_t)f.bytes;
    const int n_blocks = n / 32;
    __m128 sum = _mm_setzero_ps();
    int b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        const size_t first = (size_t)b * bytes;
        const size_t at[4] = { first, first + bytes, first + 2 * bytes, first + 3 * bytes };
        UNROLL
        for (int i = 0; i < 16 * f.bytes; i += 64) _mm_prefetch((const char *)ahead + 4 * first + i, _MM_HINT_T1);
        const four_blocks v = load_four(f, x_row, &x, b, n_blocks);
        sum = add_four(f, sum, row, at, &v, 4);
    }
    if (b < n_blocks) {     /* the last block again for those that are not there */
        size_t at[4];
        for (int i = 0; i < 4; i++) at[i] = (size_t)min_of(b + i, n_blocks - 1) * bytes;
        const four_blocks v = load_four(f, x_row, &x, b, n_blocks);
        sum = add_four(f, sum, row, at, &v, n_blocks - b);
    }
    return sum;
}

INLINE void few(const format f, const tile_args *a)
{
    for (int r = 0; r < a->rows; r += 4) {
        const uint8_t *row[4];
        for (int i = 0; i < 4; i++) row[i] = a->w + (uint64_t)min_of(r + i, a->rows - 1) * a->w_stride;
        const __mmask8 there = (__mmask8)((1 << min_of(4, a->rows - r)) - 1);
        for (int c = 0; c < a->batch; c++) {
            const __m128 sum = four_rows(f, row, a->x[c], a->n, row[0] + 4 * a->w_stride);
            _mm_mask_storeu_ps(a->y + (uint64_t)c * a->y_stride + (uint64_t)r, there, sum);
        }
    }
}

/* ---- unpacking for many activations --------------------------------------------------- */

/* Sixteen rows at some column. */
typedef struct {
    const uint8_t *first[4];        /* rows 0, 4, 8, 12 */
    size_t         stride;
} rows16;

INLINE const uint8_t *row_at(const rows16 *w, int i) { return w->first[i / 4] + (size_t)(i % 4) * w->stride; }

INLINE void rows_at(const rows16 *w, const uint8_t *row[16])
{
    UNROLL
    for (int i = 0; i < 16; i++) row[i] = row_at(w, i);
}

/* Codes of one block, steps 128 bytes apart. */
INLINE void unpack_q8_0(uint8_t *out, const rows16 *w, size_t at)
{
    __m512i t[2][4];
    UNROLL
    for (int h = 0; h < 2; h++) {       /* quarters: halves of row i, halves of row 4 + i */
        __m512i z[4];
        UNROLL
        for (int i = 0; i < 4; i++)
            z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(load32(row_at(w, 8 * h + i) + at)),
                                      load32(row_at(w, 8 * h + 4 + i) + at), 1);
        transpose_quarters(t[h], z);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        const __m512i flip = _mm512_set1_epi8((char)0x80);
        _mm512_store_si512(out + 128 * j, _mm512_xor_si512(flip, _mm512_shuffle_i64x2(t[0][j], t[1][j], 0x88)));
        _mm512_store_si512(out + 128 * (j + 4), _mm512_xor_si512(flip, _mm512_shuffle_i64x2(t[0][j], t[1][j], 0xdd)));
    }
}

/* Element i of quarter q of t[j]: dword j of the 16 bytes at `at` of row 4q + i. */
INLINE void transposed_16_bytes(__m512i t[4], const rows16 *w, size_t at)
{
    __m512i z[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        z[i] = quarters(row_at(w, i) + at, row_at(w, 4 + i) + at, row_at(w, 8 + i) + at, row_at(w, 12 + i) + at);
    transpose_quarters(t, z);
}

INLINE void unpack_nibbles(const format f, uint8_t *out, const rows16 *w)
{
    __m512i t[4], fifth = _mm512_setzero_si512();
    transposed_16_bytes(t, w, (size_t)f.codes);

    /* Four bits of a word to the fifth bits of four bytes. */
    const __m512i four_bits = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(0x02040810));
    const __m512i fifths = _mm512_and_si512(four_bits, _mm512_set1_epi32(0x10101010));
    if (f.high) {
        const uint8_t *row[16];
        rows_at(w, row);
        fifth = dwords16(row, (size_t)f.high);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        __m512i low = from_nibbles(f, low_nibbles(t[j])), high = from_nibbles(f, high_nibbles(t[j]));
        if (f.high) {
            low = _mm512_or_si512(low, _mm512_permutexvar_epi32(_mm512_srli_epi32(fifth, (unsigned)(4 * j)), fifths));
            high = _mm512_or_si512(high, _mm512_permutexvar_epi32(_mm512_srli_epi32(fifth, (unsigned)(4 * j + 16)),
                                                                  fifths));
        }
        _mm512_store_si512(out + 128 * j, low);
        _mm512_store_si512(out + 128 * (j + 4), high);
    }
}

/* A block of 64 as four of 16: sub-block s has its low nibbles in elements 0..7, the
 * high ones in 8..15. */
INLINE void unpack_nvfp4(const format f, uint8_t *out, float (*d)[2][16], const rows16 *w)
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        __m512i t[4];
        transposed_16_bytes(t, w, (size_t)(f.codes + 16 * h));
        UNROLL
        for (int j = 0; j < 4; j++) {
            uint8_t *sub = out + 512 * (2 * h + j / 2) + 128 * (j % 2);
            _mm512_store_si512(sub, from_nibbles(f, low_nibbles(t[j])));
            _mm512_store_si512(sub + 256, from_nibbles(f, high_nibbles(t[j])));
        }
    }
    const uint8_t *row[16];
    rows_at(w, row);
    const __m512i scales = dwords16(row, 0);
    UNROLL
    for (int s = 0; s < 4; s++) {       /* seven bits in the place of exponent and mantissa, 2^120 too small */
        const __m512i c = _mm512_and_si512(_mm512_srli_epi32(scales, (unsigned)(8 * s)), _mm512_set1_epi32(127));
        const __mmask16 number = _mm512_cmpneq_epi32_mask(c, _mm512_set1_epi32(127));
        const __m512 bits = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(number, c, 20));
        _mm512_store_ps(d[s][0], _mm512_mul_ps(bits, _mm512_set1_ps(0x1p119f)));
    }
}

/* See panel32_type. */
INLINE void unpack(const format f, panel32 *p, const uint8_t *from, size_t stride, int g, int blocks, bool far)
{
    rows16 w = { { from, from + 4 * stride, from + 8 * stride, from + 12 * stride }, stride };
    for (int b = 0; b < blocks; b++) {
        if (far && (f.bytes > 24 || b % 2 == 0)) {
            UNROLL
            for (int i = 0; i < 16; i++)
                _mm_prefetch((const char *)row_at(&w, i) + PANEL_COLS / (f.type == QUANT_NVFP4 ? 64 : 32) * f.bytes,
                             _MM_HINT_T1);
        }
        if (f.type == QUANT_NVFP4) {
            unpack_nvfp4(f, p->codes + 2048 * b + 64 * g, (float (*)[2][16])p->d[4 * b][g], &w);
        } else {
            uint8_t *out = p->codes + 1024 * b + 64 * g;
            if (f.type == QUANT_Q8_0) unpack_q8_0(out, &w, (size_t)f.codes);
            else unpack_nibbles(f, out, &w);
            const uint8_t *row[16];
            rows_at(&w, row);
            __m512 m;
            _mm512_store_ps(p->d[b][g], scales16(f, row, 0, &m));
            if (f.affine) _mm512_store_ps(p->m[b][g], m);
        }
        UNROLL
        for (int i = 0; i < 4; i++) w.first[i] += f.bytes;
    }
}

/* ---- the tiles ---------------------------------------------------------------------- */

INLINE void tile(const format f, const panel32_type *panel, const cpu_kernels *k, const tile_args *a)
{
    if (a->rows < 16 && f.type == QUANT_NVFP4) {        /* one by one: no real matrix is so low */
        for (int c = 0; c < a->batch; c++)
            for (int r = 0; r < a->rows; r++)
                a->y[(uint64_t)c * a->y_stride + (uint64_t)r] =
                    k->dot[QUANT_NVFP4](a->w + (uint64_t)r * a->w_stride, a->x[c], a->n);
        return;
    }
    if (a->rows < 16 || (a->batch == 1 && f.type != QUANT_NVFP4)) {
        few(f, a);
        return;
    }
    panel32_tile(panel, a);
}

#define TILE(name, kind, len, ...)                                                                              \
    static void unpack_##name##_panel(panel32 *p, const uint8_t *w, size_t stride, int g, int n, bool far)     \
    {                                                                                                           \
        unpack((format){ __VA_ARGS__ }, p, w, stride, g, n, far);                                               \
    }                                                                                                           \
    static void tile_##name(const cpu_kernels *k, const tile_args *a)                                           \
    {                                                                                                           \
        const format f = { __VA_ARGS__ };                                                                       \
        const panel32_type panel = { unpack_##name##_panel, kind, len, f.bytes, f.offset };                     \
        tile(f, &panel, k, a);                                                                                  \
    }

TILE(q8_0,   PANEL_SYMMETRIC, 32, QUANT_Q8_0,   sizeof(block_q8_0),   2, 128, false, 0)
TILE(q4_0,   PANEL_SYMMETRIC, 32, QUANT_Q4_0,   sizeof(block_q4_0),   2, 8,   false, 0)
TILE(q4_1,   PANEL_AFFINE,    32, QUANT_Q4_1,   sizeof(block_q4_1),   4, 0,   true,  0)
TILE(q5_0,   PANEL_SYMMETRIC, 32, QUANT_Q5_0,   sizeof(block_q5_0),   6, 16,  false, 2)
TILE(q5_1,   PANEL_AFFINE,    32, QUANT_Q5_1,   sizeof(block_q5_1),   8, 0,   true,  4)
TILE(iq4_nl, PANEL_SYMMETRIC, 32, QUANT_IQ4_NL, sizeof(block_iq4_nl), 2, 128, false, 0)
TILE(mxfp4,  PANEL_SYMMETRIC, 32, QUANT_MXFP4,  sizeof(block_mxfp4),  1, 12,  false, 0)
TILE(nvfp4,  PANEL_SIXTEENS,  64, QUANT_NVFP4,  sizeof(block_nvfp4),  4, 12,  false, 0)

void cpu_q32_avx512(cpu_kernels *k)
{
    k->tile[QUANT_Q8_0] = tile_q8_0;
    k->tile[QUANT_Q4_0] = tile_q4_0;
    k->tile[QUANT_Q4_1] = tile_q4_1;
    k->tile[QUANT_Q5_0] = tile_q5_0;
    k->tile[QUANT_Q5_1] = tile_q5_1;
    k->tile[QUANT_IQ4_NL] = tile_iq4_nl;
    k->tile[QUANT_MXFP4] = tile_mxfp4;
    k->tile[QUANT_NVFP4] = tile_nvfp4;
}
