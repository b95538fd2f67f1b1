/* x86_q8k_avx512: tiles of the types whose super-blocks of 256 meet Q8_K.
 *
 * Sixteen rows lie side by side, one in each 32-bit lane, so that block sums are
 * exact and a lane holds the bits of quant_get(type)->dot: the floats of sixteen rows
 * follow in the definition's order. A type tells how a block of each row is spread out
 * into vectors of four columns, in one function that serves two sinks. A few activations
 * take a vector as soon as it is made. For many, vectors go to a panel that all
 * activations of the tile then read. */
#ifndef KERNELS_CPU_X86_Q8K_AVX512_H
#define KERNELS_CPU_X86_Q8K_AVX512_H

#include "kernels/cpu/x86_avx512.h"

/* One block of sixteen rows. A group is the columns that share a scale. */
typedef struct {
    __m512i code[QK / 4];   /* [column / 4] four columns of each row, as bytes 0..255 */
    __m512i scale[16];      /* [group] int32; none where the group is the block       */
    __m512i offset[8];      /* int16 for the columns' sums 2i and 2i + 1; affine only */
    __m512  d, dmin;
} q8k_panel;

enum { Q8K_FEW = 4 };       /* activations that take vectors as they are made */

/* Rows to come are asked for in the order of memory: it is fastest so, and sixteen
 * streams are more than the processor follows. A few lines at a time, since it also
 * has few places for lines on their way; to the second level, since sixteen rows can
 * fill the first. */
typedef struct {
    const uint8_t *at, *end;
    int            step, owed;      /* bytes, for every q8k_ask */
} q8k_ahead;

INLINE void q8k_ask(q8k_ahead *a)
{
    for (a->owed += a->step; a->owed > 0 && a->at < a->end; a->owed -= 64, a->at += 64)
        _mm_prefetch((const char *)a->at, _MM_HINT_T1);
}

/* Where the vectors of a block go: to the panel when n_x is 0, else to n_x activations.
 * Functions that are given n_x are copies for a constant one. */
typedef struct {
    q8k_panel        *panel;
    q8k_ahead        *ahead;
    const block_q8_k *x[Q8K_FEW];
    int32_t           start[Q8K_FEW][16];   /* [group] where sums start        */
    __m512i           sum[Q8K_FEW];         /* sum_g scale * sum code*a        */
    __m512i           offset[Q8K_FEW];      /* sum_g o * sum a, in affine ones */
    __m512            d, dmin;
} q8k_sink;

/* Block of sixteen rows; row r starts at row[r]; bytes beyond it may not be read. */
typedef void q8k_spread(q8k_sink *s, int n_x, const uint8_t *const row[16]);
typedef void q8k_unpack(q8k_panel *p, const uint8_t *const row[16]);

typedef struct {
    q8k_unpack *unpack;
    int         block_bytes;
    int         group;      /* 16, 32, or QK where the codes of a panel contain the scales */
    int         shift;      /* what makes the codes unsigned                               */
    bool        affine;
    float       factor;     /* of every d                                                  */
} q8k_type;

/* The tile for any batch. */
void q8k_tile_by_panels(const q8k_type *t, const tile_args *a);

/* ---- what a spread calls ------------------------------------------------------- */

INLINE __m512i q8k_four(const int8_t *codes) { return _mm512_set1_epi32((int)word_at(codes, 0)); }

/* Sums of a group, one for each activation. */
typedef struct {
    __m512i of[Q8K_FEW];
} q8k_dots;

INLINE q8k_dots q8k_zero(int n_x)
{
    q8k_dots dots;
    UNROLL
    for (int m = 0; m < n_x; m++) dots.of[m] = _mm512_setzero_si512();
    return dots;
}

INLINE q8k_dots q8k_begin(const q8k_sink *s, int n_x, int group, int shift)
{
    q8k_dots dots = q8k_zero(n_x);
    UNROLL
    for (int m = 0; m < n_x; m++)
        if (shift) dots.of[m] = _mm512_set1_epi32(s->start[m][group]);
    return dots;
}

/* The vector of columns 4u .. 4u + 3. */
INLINE void q8k_take(q8k_sink *s, int n_x, q8k_dots *dots, int u, __m512i code)
{
    if (n_x == 0) s->panel->code[u] = code;
    UNROLL
    for (int m = 0; m < n_x; m++)
        dots->of[m] = _mm512_dpbusd_epi32(dots->of[m], code, q8k_four(s->x[m]->codes + 4 * u));
}

INLINE void q8k_end(q8k_sink *s, int n_x, const q8k_dots *dots, int group, __m512i scale)
{
    if (n_x == 0) s->panel->scale[group] = scale;
    else q8k_ask(s->ahead);
    UNROLL
    for (int m = 0; m < n_x; m++)
        s->sum[m] = _mm512_add_epi32(s->sum[m], _mm512_mullo_epi32(dots->of[m], scale));
}

/* Offsets of the columns 32i .. 32i + 31: 16-bit numbers for each 16. */
INLINE void q8k_offsets(q8k_sink *s, int n_x, int i, __m512i offsets)
{
    if (n_x == 0) s->panel->offset[i] = offsets;
    UNROLL
    for (int m = 0; m < n_x; m++)
        s->offset[m] = _mm512_dpwssd_epi32(s->offset[m], offsets, _mm512_set1_epi32((int)word_at(s->x[m]->sums, i)));
}

/* ---- few activations --------------------------------------------------------------- */

/* Without fused operations: the roundings are those of the definition. */
INLINE __m512 q8k_block_value(const q8k_type *t, float d_a, __m512 d, __m512i sum, __m512 dmin, __m512i offset)
{
    const __m512 a = _mm512_set1_ps(d_a), factor = _mm512_set1_ps(t->factor);
    const __m512 v = _mm512_mul_ps(_mm512_mul_ps(factor, _mm512_mul_ps(a, d)), _mm512_cvtepi32_ps(sum));
    if (!t->affine) return v;
    return _mm512_sub_ps(v, _mm512_mul_ps(_mm512_mul_ps(a, dmin), _mm512_cvtepi32_ps(offset)));
}

/* Where the sums of one activation start: [16] or [8] groups. */
INLINE void q8k_set_starts(int32_t start[16], const block_q8_k *x, const q8k_type *t)
{
    const __m256i shift = _mm256_set1_epi16((short)-t->shift), sums = load32(x->sums);
    if (t->group == 32) _mm256_storeu_si256((__m256i *)start, _mm256_madd_epi16(sums, shift));
    else _mm512_storeu_si512(start, _mm512_mullo_epi32(_mm512_cvtepi16_epi32(sums), _mm512_set1_epi32(-t->shift)));
}

/* Rows from `first` on, the last one again where there are fewer. */
INLINE void q8k_rows_from(const uint8_t *row[16], const tile_args *a, int first)
{
    for (int r = 0; r < 16; r++)
        row[r] = a->w + (uint64_t)(first + r < a->rows ? first + r : a->rows - 1) * a->w_stride;
}

INLINE __mmask16 q8k_lanes_of(int rows) { return (__mmask16)(rows >= 16 ? 0xffff : (1 << rows) - 1); }

INLINE void q8k_next_block(const uint8_t *row[16], int bytes)
{
    for (int r = 0; r < 16; r++) row[r] += bytes;
}

/* For the first rows of a tile, which none before them asked for. */
INLINE void q8k_ask_rows(const uint8_t *const row[16], int block_bytes)
{
    for (int at = 0; at < block_bytes - 16; at += 64)
        for (int r = 0; r < 16; r++) _mm_prefetch((const char *)row[r] + 3 * block_bytes + at, _MM_HINT_T0);
}

/* Sixteen rows and n_x activations. */
INLINE void q8k_sixteen_rows(const q8k_type *t, q8k_spread *spread, const tile_args *a, int first, int n_x)
{
    const int asks = t->group == 32 ? 8 : 16;               /* in a block */
    q8k_ahead ahead = { .at = a->w + (uint64_t)(first + 16) * a->w_stride, .end = a->w + (uint64_t)a->rows * a->w_stride,
                        .step = 16 * t->block_bytes / asks };
    const uint8_t *row[16];
    __m512 y[Q8K_FEW];

    q8k_rows_from(row, a, first);
    UNROLL
    for (int m = 0; m < n_x; m++) y[m] = _mm512_setzero_ps();

    for (int i = 0; i < a->n / QK; i++) {
        q8k_sink s;
        s.ahead = &ahead;
        UNROLL
        for (int m = 0; m < n_x; m++) {
            s.x[m] = (const block_q8_k *)(const void *)a->x[m] + i;
            s.sum[m] = s.offset[m] = _mm512_setzero_si512();
            if (t->shift) q8k_set_starts(s.start[m], s.x[m], t);
        }
        spread(&s, n_x, row);
        q8k_next_block(row, t->block_bytes);
        if (first == 0) q8k_ask_rows(row, t->block_bytes);
        UNROLL
        for (int m = 0; m < n_x; m++)
            y[m] = _mm512_add_ps(y[m], q8k_block_value(t, s.x[m]->d, s.d, s.sum[m], s.dmin, s.offset[m]));
    }
    UNROLL
    for (int m = 0; m < n_x; m++)
        _mm512_mask_storeu_ps(a->y + (uint64_t)m * a->y_stride + first, q8k_lanes_of(a->rows - first), y[m]);
}

/* From spread_TYPE: a panel; sixteen rows times 1 .. Q8K_FEW activations. */
#define Q8K_FUNCTIONS(type, group_, shift_, affine_, factor_)                               \
    static void unpack_##type(q8k_panel *p, const uint8_t *const row[16])                   \
    {                                                                                       \
        q8k_sink s;                                                                         \
        s.panel = p;                                                                        \
        spread_##type(&s, 0, row);                                                          \
        p->d = s.d;                                                                         \
        if (affine_) p->dmin = s.dmin;                                                      \
    }                                                                                       \
    static const q8k_type type_##type =                                                     \
        { unpack_##type, sizeof(block_##type), group_, shift_, affine_, factor_ };          \
    static void few_##type(const tile_args *a)                                              \
    {                                                                                       \
        for (int r = 0; r < a->rows; r += 16)                                               \
            switch (a->batch) {                                                             \
            case 1:  q8k_sixteen_rows(&type_##type, spread_##type, a, r, 1); break;         \
            case 2:  q8k_sixteen_rows(&type_##type, spread_##type, a, r, 2); break;         \
            case 3:  q8k_sixteen_rows(&type_##type, spread_##type, a, r, 3); break;         \
            default: q8k_sixteen_rows(&type_##type, spread_##type, a, r, 4); break;         \
            }                                                                               \
    }

#define Q8K_TILE(type, group, shift, affine, factor)                                        \
    Q8K_FUNCTIONS(type, group, shift, affine, factor)                                       \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        (void)k;                                                                            \
        if (a->batch > Q8K_FEW) q8k_tile_by_panels(&type_##type, a);                        \
        else few_##type(a);                                                                 \
    }

/* ---- pieces of an unpack ------------------------------------------------------ */

static inline __m512i bytes_and(__m512i x, int mask)
{
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

/* out[j]: word j of the sixteen bytes at `at` of every row. */
static inline void words_of_rows(__m512i out[4], const uint8_t *const row[16], int at)
{
    __m512i four[4];        /* rows i, i + 4, i + 8, i + 12 */
    UNROLL
    for (int i = 0; i < 4; i++)
        four[i] = quarters(row[i] + at, row[i + 4] + at, row[i + 8] + at, row[i + 12] + at);
    transpose_quarters(out, four);
}

static inline __m512 low_halves(__m512i words)  { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
static inline __m512 high_halves(__m512i words) { return low_halves(_mm512_srli_epi32(words, 16)); }

#endif
