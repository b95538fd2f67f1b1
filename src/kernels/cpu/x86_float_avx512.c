/* x86_float_avx512: float rows: tiles of F32, F16 and BF16, and the loops over one row.
 *
 * A product's sum has sixteen lanes, lane i for the columns i + 16k, whatever the
 * tile's shape; a column that is not there multiplies zeros. Four rows by up to four
 * activations are in registers at a time, so that a load serves four products and
 * sixteen chains hide the latency of fma. Float sums of n/16 terms per lane are
 * assumed to be precise enough.
 *
 * Rows are read as they lie; those of the next group are fetched ahead in the order
 * of memory, into the second-level cache: into the first they would drive out what is
 * in use. More than four activations meet panels of columns, so that both sides stay
 * near, and partial sums are kept from one panel to the next. */
#include "kernels/cpu/x86_avx512.h"

/* The first `left` of sixteen elements. */
INLINE __mmask16 first(int left) { return (__mmask16)((1u << left) - 1u); }

INLINE int min_of(int a, int b) { return a < b ? a : b; }

/* ---- sixteen elements ----------------------------------------------------------- */

INLINE __m512 load_f32(const float *p)     { return _mm512_loadu_ps(p); }
INLINE __m512 load_f16(const uint16_t *p)  { return _mm512_cvtph_ps(load32(p)); }
INLINE __m512 part_f32(__mmask16 m, const float *p)     { return _mm512_maskz_loadu_ps(m, p); }
INLINE __m512 part_f16(__mmask16 m, const uint16_t *p)  { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
INLINE __m512 from_bf16(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

INLINE size_t size_of(quant_type type) { return type == QUANT_F32 ? 4 : 2; }

/* Elements i .. i+15 of a row. */
INLINE __m512 load(quant_type type, const uint8_t *row, int i)
{
    const uint8_t *p = row + (size_t)i * size_of(type);
    switch (type) {
    case QUANT_F32: return _mm512_loadu_ps(p);
    case QUANT_F16: return _mm512_cvtph_ps(load32(p));
    default:        return from_bf16(load32(p));
    }
}

INLINE __m512 load_part(quant_type type, __mmask16 m, const uint8_t *row, int i)
{
    const uint8_t *p = row + (size_t)i * size_of(type);
    switch (type) {
    case QUANT_F32: return _mm512_maskz_loadu_ps(m, p);
    case QUANT_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
    default:        return from_bf16(_mm256_maskz_loadu_epi16(m, p));
    }
}

/* ---- four rows times a few activations -------------------------------------------- */

/* s[c][r] += lanes of row r times activation c, n columns; `ahead`: what memory is
 * asked for meanwhile, as many bytes as the rows have, or NULL. */
INLINE void products(quant_type type, __m512 (*s)[4], const uint8_t *const *row, const float *const *x, int count,
                     int rows, int n, const uint8_t *ahead)
{
    enum { MOST = 4 };
    __m512 sum[MOST][4];
    UNROLL
    for (int c = 0; c < count; c++) {
        UNROLL
        for (int r = 0; r < rows; r++) sum[c][r] = s[c][r];
    }
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const int step = 64 * (int)size_of(type);
        UNROLL
        for (int line = 0; ahead && line < step; line += 64)
            _mm_prefetch((const char *)ahead + (size_t)(i / 16) * (size_t)step + line, _MM_HINT_T1);
        __m512 w[4];
        UNROLL
        for (int r = 0; r < rows; r++) w[r] = load(type, row[r], i);
        UNROLL
        for (int c = 0; c < count; c++) {
            const __m512 a = load_f32(x[c] + i);
            UNROLL
            for (int r = 0; r < rows; r++) sum[c][r] = _mm512_fmadd_ps(w[r], a, sum[c][r]);
        }
    }
    if (i < n) {
        const __mmask16 m = first(n - i);
        UNROLL
        for (int c = 0; c < count; c++) {
            UNROLL
            for (int r = 0; r < rows; r++)
                sum[c][r] = _mm512_fmadd_ps(load_part(type, m, row[r], i), part_f32(m, x[c] + i), sum[c][r]);
        }
    }
    UNROLL
    for (int c = 0; c < count; c++) {
        UNROLL
        for (int r = 0; r < rows; r++) s[c][r] = sum[c][r];
    }
}

/* Each vector's sum: lanes i, i+2 and i, i+1 of a quarter, then quarters i, i+2 and i, i+1. */
INLINE __m128 sums4(const __m512 s[4])
{
    const __m512 s01 = _mm512_add_ps(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
    const __m512 s23 = _mm512_add_ps(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
    const __m512d a = _mm512_castps_pd(s01), b = _mm512_castps_pd(s23);
    const __m512 q = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(q), _mm512_extractf32x8_ps(q, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

/* One vector's sum in the same order. */
INLINE float sum_lanes(__m512 v)
{
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}

INLINE float dot_row(quant_type type, const uint8_t *w, const float *x, int n)
{
    __m512 s[1][4] = { { _mm512_setzero_ps() } };
    products(type, s, &w, &x, 1, 1, n, NULL);
    return sum_lanes(s[0][0]);
}

/* products for a count that is not a constant. */
INLINE void products_of(quant_type type, __m512 (*s)[4], const uint8_t *const *row, const float *const *x, int count,
                        int n, const uint8_t *ahead)
{
    switch (count) {
    case 4:  products(type, s, row, x, 4, 4, n, ahead); break;
    case 3:  products(type, s, row, x, 3, 4, n, ahead); break;
    case 2:  products(type, s, row, x, 2, 4, n, ahead); break;
    default: products(type, s, row, x, 1, 4, n, ahead); break;
    }
}

/* ---- tiles --------------------------------------------------------------------------- */

enum { FEW = 4, BATCH = 64, PANEL_ROWS = 8, PANEL_COLS = 1024 };

typedef struct {
    __m512 sum[PANEL_ROWS / 4][BATCH][4];
} partial;

_Static_assert(sizeof(partial) <= TILE_SCRATCH, "partial sums fit the scratch");

/* Up to eight rows from r on times activations first .. first + batch - 1. */
INLINE void panel_rows(quant_type type, const tile_args *a, int r, int first, int batch)
{
    partial *p = (partial *)(void *)a->scratch;
    const int halves = a->rows - r > 4 ? 2 : 1, at_once = batch > FEW ? PANEL_COLS : a->n;
    const uint8_t *row[PANEL_ROWS];     /* the last one again for those that are not there */
    for (int i = 0; i < PANEL_ROWS; i++) row[i] = a->w + (uint64_t)min_of(r + i, a->rows - 1) * a->w_stride;
    for (int half = 0; half < halves; half++) memset(p->sum[half], 0, (size_t)batch * sizeof p->sum[half][0]);

    for (int i = 0; i < a->n; i += at_once) {
        const int cols = min_of(at_once, a->n - i);
        const size_t skip = (size_t)i * size_of(type);
        for (int c = 0; c < batch; c += FEW) {
            const int count = min_of(FEW, batch - c);
            const float *x[FEW];
            for (int k = 0; k < count; k++) x[k] = (const float *)(const void *)a->x[first + c + k] + i;
            for (int half = 0; half < halves; half++) {
                const uint8_t *four[4], *ahead = row[4 * half] + (batch > FEW ? 8 : 4) * a->w_stride + 4 * skip;
                for (int k = 0; k < 4; k++) four[k] = row[4 * half + k] + skip;
                products_of(type, p->sum[half] + c, four, x, count, cols, c == 0 ? ahead : NULL);
            }
        }
    }
    for (int half = 0; half < halves; half++) {
        const __mmask8 there = (__mmask8)((1 << min_of(4, a->rows - r - 4 * half)) - 1);
        for (int c = 0; c < batch; c++)
            _mm_mask_storeu_ps(a->y + (uint64_t)(first + c) * a->y_stride + (uint64_t)(r + 4 * half), there,
                               sums4(p->sum[half][c]));
    }
}

INLINE void tile(quant_type type, const tile_args *a)
{
    for (int c = 0; c < a->batch; c += BATCH)
        for (int r = 0; r < a->rows; r += PANEL_ROWS) panel_rows(type, a, r, c, min_of(BATCH, a->batch - c));
}

#define FLOAT_TYPE(name, type)                                                              \
    static float dot_row_##name(const void *restrict w, const void *restrict x, int n)      \
    {                                                                                       \
        return dot_row(type, w, x, n);                                                      \
    }                                                                                       \
    static void tile_##name(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        (void)k;                                                                            \
        tile(type, a);                                                                      \
    }

FLOAT_TYPE(f32, QUANT_F32)
FLOAT_TYPE(f16, QUANT_F16)
FLOAT_TYPE(bf16, QUANT_BF16)

/* ---- one row -------------------------------------------------------------------------- */

/* Faster: 64 products in flight, and the tail is one masked step. Assumes that a
 * float sum of n/64 terms per lane is precise enough. */
#define FLOAT_DOT(name, type, load, part)                                           \
    static float name(const type *restrict a, const float *restrict b, int n)       \
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
        return sum_lanes(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3))); \
    }

FLOAT_DOT(dot_f32, float, load_f32, part_f32)

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

/* Faster by width only, with the definition's bits: the product is rounded before it
 * is added. */
static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    const __m512 f = _mm512_set1_ps(a);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_add_ps(load_f32(y + i), _mm512_mul_ps(f, load_f32(x + i))));
    const __mmask16 m = first(n - i);
    _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(part_f32(m, y + i), _mm512_mul_ps(f, part_f32(m, x + i))));
}

void cpu_float_avx512(cpu_kernels *k)
{
    k->tile[QUANT_F32] = tile_f32;
    k->tile[QUANT_F16] = tile_f16;
    k->tile[QUANT_BF16] = tile_bf16;
    k->dot[QUANT_F32] = dot_row_f32;
    k->dot[QUANT_F16] = dot_row_f16;
    k->dot[QUANT_BF16] = dot_row_bf16;

    k->dot_f32 = dot_f32;
    k->sum_squares = sum_squares;
    k->axpy_f32 = axpy_f32;
}
