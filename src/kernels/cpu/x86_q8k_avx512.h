/* x86_q8k_avx512: tiles of the types whose super-blocks of 256 meet Q8_K.
 *
 * Sixteen rows lie side by side, one in each 32-bit lane, so that block sums are
 * exact and a lane holds the bits of quant_get(type)->dot: the floats of sixteen rows
 * follow in the definition's order. A type tells how a block of each row is spread out
 * into vectors of four columns; that one function serves two sinks. One activation
 * takes a vector as soon as it is made. For more of them vectors go to a panel, which
 * all activations of the tile then read. */
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

/* Where the vectors of a block go. */
typedef struct {
    q8k_panel        *panel;    /* or NULL:                        */
    const block_q8_k *x;        /* the one activation              */
    const int32_t    *start;    /* [group] where its sums start    */
    __m512i           sum;      /* sum_g scale * sum code*a        */
    __m512i           offset;   /* sum_g o * sum a, in affine ones */
    __m512            d, dmin;
} q8k_sink;

/* Block of sixteen rows; row r starts at row[r]; bytes beyond it may not be read. */
typedef void q8k_spread(q8k_sink *s, const uint8_t *const row[16]);
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

/* The sum of a group begins; */
INLINE __m512i q8k_begin(const q8k_sink *s, int group, int shift)
{
    return s->panel || shift == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(s->start[group]);
}

/* takes the vector of columns 4u .. 4u + 3; */
INLINE __m512i q8k_take(q8k_sink *s, __m512i dot, int u, __m512i code)
{
    if (!s->panel) return _mm512_dpbusd_epi32(dot, code, q8k_four(s->x->codes + 4 * u));
    s->panel->code[u] = code;
    return dot;
}

/* ends. */
INLINE void q8k_end(q8k_sink *s, __m512i dot, int group, __m512i scale)
{
    if (s->panel) s->panel->scale[group] = scale;
    else s->sum = _mm512_add_epi32(s->sum, _mm512_mullo_epi32(dot, scale));
}

/* Offsets of the columns 32i .. 32i + 31: 16-bit numbers for each 16. */
INLINE void q8k_offsets(q8k_sink *s, int i, __m512i offsets)
{
    if (s->panel) s->panel->offset[i] = offsets;
    else s->offset = _mm512_dpwssd_epi32(s->offset, offsets, _mm512_set1_epi32((int)word_at(s->x->sums, i)));
}

/* ---- one activation --------------------------------------------------------------- */

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

/* Sixteen rows and one activation. The rows of the next sixteen are asked for in the
 * order of memory: it is fastest so, and sixteen streams are more than the processor
 * follows. */
INLINE void q8k_sixteen_rows(const q8k_type *t, q8k_spread *spread, const tile_args *a, int first)
{
    const block_q8_k *x = (const block_q8_k *)(const void *)a->x[0];
    const uint8_t *row[16], *ahead = a->w + (uint64_t)(first + 16) * a->w_stride;
    const uint8_t *const end = a->w + (uint64_t)a->rows * a->w_stride;
    int32_t start[16];
    __m512 sum = _mm512_setzero_ps();

    q8k_rows_from(row, a, first);
    for (int i = 0; i < a->n / QK; i++) {
        for (int at = 0; at < 16 * t->block_bytes && ahead < end; at += 64, ahead += 64)
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        q8k_sink s = { .x = x + i, .start = start };
        if (t->shift) q8k_set_starts(start, x + i, t);
        spread(&s, row);
        q8k_next_block(row, t->block_bytes);
        sum = _mm512_add_ps(sum, q8k_block_value(t, x[i].d, s.d, s.sum, s.dmin, s.offset));
    }
    _mm512_mask_storeu_ps(a->y + first, q8k_lanes_of(a->rows - first), sum);
}

/* The tile of a type from its spread_TYPE. */
#define Q8K_TILE(type, group_, shift_, affine_, factor_)                                    \
    static void unpack_##type(q8k_panel *p, const uint8_t *const row[16])                   \
    {                                                                                       \
        q8k_sink s = { .panel = p };                                                        \
        spread_##type(&s, row);                                                             \
        p->d = s.d;                                                                         \
        p->dmin = s.dmin;                                                                   \
    }                                                                                       \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        (void)k;                                                                            \
        static const q8k_type t = { unpack_##type, sizeof(block_##type), group_, shift_, affine_, factor_ }; \
        if (a->batch > 1) q8k_tile_by_panels(&t, a);                                        \
        else for (int r = 0; r < a->rows; r += 16) q8k_sixteen_rows(&t, spread_##type, a, r); \
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
