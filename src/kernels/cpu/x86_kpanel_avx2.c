/* x86_kpanel_avx2: tiles of super-blocks of 256 against Q8_K activations.
 *
 * Integer sums are exact for every bit pattern: 16-bit sums by the bound of a run
 * (k_type), 32-bit ones since 256 * 128*128 * 128 < 2^31 covers every type. */
#include "kernels/cpu/x86_tiles_avx2.h"

/* 256 columns of eight rows. */
typedef struct {
    __m256i codes[64];              /* four columns of each row; wide: their high four bits */
    __m256i fine[64];               /* wide: the low four bits                              */
    __m256i scale[16];              /* of 16 columns, twice in each lane                    */
    __m256i bias[8], offset[8];     /* factors of the activation's sums, two to a lane      */
    __m256  d, dmin;
} k_panel;

/* ---- several activations -------------------------------------------------------------- */

static void pack_codes(k_panel *p, const k_row w[SIDE], bool wide)
{
    for (int g = 0; g < 8; g++) {
        __m256i v[SIDE];
        UNROLL
        for (int r = 0; r < SIDE; r++) v[r] = load32(w[r].codes + 32 * g);
        transpose8(v);
        for (int j = 0; j < 8; j++) {
            if (wide) p->fine[8 * g + j] = bytes_and(v[j], 15);
            p->codes[8 * g + j] = wide ? bytes_and(_mm256_srli_epi16(v[j], 4), 15) : v[j];
        }
    }
}

static void pack_scales(k_panel *p, const k_row w[SIDE], const k_type *t)
{
    const __m256i bias = _mm256_set1_epi16((short)-t->bias);
    __m256i v[SIDE];
    UNROLL
    for (int r = 0; r < SIDE; r++) v[r] = load32(w[r].scale);
    transpose8(v);
    for (int j = 0; j < 8; j++) {
        p->scale[2 * j] = _mm256_blend_epi16(v[j], _mm256_slli_epi32(v[j], 16), 0xaa);
        p->scale[2 * j + 1] = _mm256_blend_epi16(_mm256_srli_epi32(v[j], 16), v[j], 0xaa);
        p->bias[j] = _mm256_mullo_epi16(v[j], bias);
    }
    if (t->formula == SIGNED) return;
    UNROLL
    for (int r = 0; r < SIDE; r++) v[r] = load32(w[r].offset);
    transpose8(v);
    for (int j = 0; j < 8; j++) p->offset[j] = v[j];
}

static void fill_panel(k_panel *p, const k_type *t, const uint8_t *const row[SIDE], int block)
{
    k_row w[SIDE];
    for (int r = 0; r < SIDE; r++) t->unpack(&w[r], row[r] + (size_t)block * (size_t)t->bytes);
    pack_codes(p, w, t->run == 0);
    pack_scales(p, w, t);
    p->d = k_d(t, row, block);
    if (t->formula == AFFINE) p->dmin = k_dmin(t, row, block);
}

/* y[c] += the panel times activation c, for n of them (1..4). */
ALWAYS_INLINE void multiply(const k_panel *p, const block_q8_k *const *x, const int n, const int run,
                            const k_formula formula, const bool biased, __m256 factor, __m256 *y)
{
    __m256i sum[4], offset[4];
    UNROLL
    for (int c = 0; c < n; c++) sum[c] = offset[c] = _mm256_setzero_si256();

    const int step = run ? run : 8;
    for (int v = 0; v < 64; v += step) {
        const __m256i scale = p->scale[v / 4];
        __m256i s[4], f[4];
        UNROLL
        for (int i = 0; i < step; i++) {
            const __m256i w = p->codes[v + i];
            UNROLL
            for (int c = 0; c < n; c++) {
                const __m256i a = word_of(x[c]->codes + 4 * (v + i));
                const __m256i product = _mm256_maddubs_epi16(w, a);
                s[c] = i ? add16_in_place(s[c], product) : product;
                if (run) continue;
                const __m256i low = _mm256_maddubs_epi16(p->fine[v + i], a);
                f[c] = i ? add16_in_place(f[c], low) : low;
            }
        }
        UNROLL
        for (int c = 0; c < n; c++) {
            const __m256i times = run ? scale : _mm256_slli_epi16(scale, 4);
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(s[c], times));
            if (!run) sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(f[c], scale));
        }
    }
    for (int j = 0; j < 8; j++) {
        UNROLL
        for (int c = 0; c < n; c++) {
            const __m256i sums = word_of(&x[c]->sums[2 * j]);
            if (biased) sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(p->bias[j], sums));
            if (formula != SIGNED) offset[c] = _mm256_add_epi32(offset[c], _mm256_madd_epi16(p->offset[j], sums));
        }
    }
    UNROLL
    for (int c = 0; c < n; c++)
        y[c] = _mm256_add_ps(y[c], k_term(formula, factor, _mm256_set1_ps(x[c]->d), p->d, p->dmin, sum[c], offset[c]));
}

typedef void multiply_fn(const k_panel *p, const block_q8_k *const *x, int n, __m256 factor, __m256 *y);

#define MULTIPLY(name, run, formula, biased)                                                                \
    static void name(const k_panel *p, const block_q8_k *const *x, int n, __m256 factor, __m256 *y)         \
    {                                                                                                       \
        for (; n >= 4; n -= 4, x += 4, y += 4) multiply(p, x, 4, run, formula, biased, factor, y);          \
        if (n == 3) multiply(p, x, 3, run, formula, biased, factor, y);                                     \
        if (n == 2) multiply(p, x, 2, run, formula, biased, factor, y);                                     \
        if (n == 1) multiply(p, x, 1, run, formula, biased, factor, y);                                     \
    }

MULTIPLY(affine_8, 8, AFFINE, false)
MULTIPLY(affine_4, 4, AFFINE, false)
MULTIPLY(shifted_4, 4, SHIFTED, true)
MULTIPLY(signed_4, 4, SIGNED, true)
MULTIPLY(signed_2, 2, SIGNED, true)
MULTIPLY(signed_1, 1, SIGNED, true)
MULTIPLY(signed_wide, 0, SIGNED, true)

static multiply_fn *multiply_of(const k_type *t)
{
    switch (t->formula) {
    case AFFINE:  return t->run == 8 ? affine_8 : affine_4;
    case SHIFTED: return shifted_4;
    default:      return t->run == 4 ? signed_4 : t->run == 2 ? signed_2 : t->run == 1 ? signed_1 : signed_wide;
    }
}

/* ---- tiles ------------------------------------------------------------------------- */

/* Some activations of the tile, from number c0 on. */
static void panel_tile(const tile_args *a, const k_type *t, int c0, int batch)
{
    k_panel *p = (k_panel *)(void *)a->scratch;
    multiply_fn *product = multiply_of(t);
    const uint8_t *row[SIDE];
    const block_q8_k *x[PANEL_BATCH];
    __m256 y[PANEL_BATCH];

    for (int first = 0; first < a->rows; first += SIDE) {
        const uint8_t *ahead = rows_after(a, first);
        rows_at(row, a, first);
        for (int c = 0; c < batch; c++) y[c] = _mm256_setzero_ps();
        for (int i = 0; i < a->n / QK; i++, ahead += SIDE * t->bytes) {
            ask_for(ahead, SIDE * (size_t)t->bytes);
            for (int c = 0; c < batch; c++) x[c] = (const block_q8_k *)(const void *)a->x[c0 + c] + i;
            fill_panel(p, t, row, i);
            product(p, x, batch, _mm256_set1_ps(t->factor), y);
        }
        for (int c = 0; c < batch; c++) store_rows(a, first, c0 + c, y[c]);
    }
}

void k_panels(const tile_args *a, const k_type *t)
{
    for (int c = 0; c < a->batch; c += PANEL_BATCH)
        panel_tile(a, t, c, a->batch - c < PANEL_BATCH ? a->batch - c : PANEL_BATCH);
}
