/* x86_q8k_avx512: tiles of the types whose super-blocks of 256 meet Q8_K.
 *
 * Sixteen rows lie side by side, one in each 32-bit lane. A type spreads one block
 * of each row out into a panel; the rest is common to all: products with every
 * activation of the tile, exact sums per block, then the floats of the definition
 * in its order, so that a lane holds the bits of quant_get(type)->dot. */
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

/* Row r of the block starts at row[r]; bytes beyond it may not be read. */
typedef void q8k_unpack(q8k_panel *p, const uint8_t *const row[16]);

typedef struct {
    q8k_unpack *unpack;
    int         block_bytes;
    int         group;      /* 16, 32, or QK where the codes contain the scales   */
    int         shift;      /* what makes the codes of a panel unsigned           */
    bool        affine;
    float       factor;     /* of every d                                         */
} q8k_type;

void q8k_tile(const q8k_type *t, const tile_args *a);

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
