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
typedef void q8k_unpack(q8k_panel *p, const uint8_t *const row[16]);
typedef void q8k_one(q8k_sink *one, const uint8_t *const row[16]);

typedef struct {
    q8k_unpack *unpack;
    q8k_one    *one;
    int         block_bytes;
    int         group;      /* 16, 32, or QK where the codes of a panel contain the scales */
    int         shift;      /* what makes the codes unsigned                               */
    bool        affine;
    float       factor;     /* of every d                                                  */
} q8k_type;

void q8k_tile(const q8k_type *t, const tile_args *a);

/* The two functions of a type from `spread(sink, row)`, and its tile. */
#define Q8K_TILE(type, group_, shift_, affine_, factor_)                                    \
    static void unpack_##type(q8k_panel *p, const uint8_t *const row[16])                   \
    {                                                                                       \
        q8k_sink s = { .panel = p };                                                        \
        spread_##type(&s, row);                                                             \
        p->d = s.d;                                                                         \
        p->dmin = s.dmin;                                                                   \
    }                                                                                       \
    static void one_##type(q8k_sink *out, const uint8_t *const row[16])                     \
    {                                                                                       \
        q8k_sink s = { .x = out->x, .start = out->start };                                  \
        spread_##type(&s, row);                                                             \
        *out = s;                                                                           \
    }                                                                                       \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        (void)k;                                                                            \
        static const q8k_type t = { unpack_##type, one_##type, sizeof(block_##type), group_, shift_, affine_, factor_ }; \
        q8k_tile(&t, a);                                                                    \
    }

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
