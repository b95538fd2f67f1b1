/* What the tiles of super-blocks share. Needs AVX-512 F, BW, VL and VNNI.
 *
 * vpdpbusd adds four products of unsigned by signed bytes to 32 bits and never
 * saturates, so any codes give exact sums. Where a type adds `shift` to its codes
 * to make them unsigned, a sum starts at -shift times the sum of the activations. */
#include "kernels/cpu/x86_q8k_avx512.h"

enum {
    ACTIVATIONS = 4,        /* that meet a panel in one pass: 8 sums in flight, and more would not
                               fit the registers */
    PANELS = 2              /* that one load of four activations serves */
};

/* One block of one or two panels, and the activations from first_x on. */
typedef struct {
    const q8k_type  *t;
    const q8k_panel *p;
    const tile_args *a;
    int              first_x, block;
    float           *y;                 /* of the panels' first row */
    const __mmask16 *lanes;             /* [panel] */
} pass;

/* sum_g o_g * sum a */
static inline __m512i offset_sum(const q8k_panel *p, const block_q8_k *x)
{
    __m512i even = _mm512_setzero_si512(), odd = even;
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        even = _mm512_dpwssd_epi32(even, p->offset[i], _mm512_set1_epi32((int)word_at(x->sums, i)));
        odd = _mm512_dpwssd_epi32(odd, p->offset[i + 1], _mm512_set1_epi32((int)word_at(x->sums, i + 1)));
    }
    return _mm512_add_epi32(even, odd);
}

/* Adds the block's products to y; the first block sets it. n_x, n_p, group: constants. */
INLINE void add_block(const pass *c, int n_x, int n_p, int group)
{
    const int step = group < 32 ? group : 32;       /* columns between two looks at the scales */
    __m512i sum[ACTIVATIONS][PANELS], dot[ACTIVATIONS][PANELS];
    const block_q8_k *x[ACTIVATIONS];
    int32_t start[ACTIVATIONS][16];                 /* [group] */
    const q8k_panel *p = c->p;

    UNROLL
    for (int m = 0; m < n_x; m++) {
        x[m] = (const block_q8_k *)(const void *)c->a->x[c->first_x + m] + c->block;
        q8k_set_starts(start[m], x[m], c->t);
        UNROLL
        for (int r = 0; r < n_p; r++) sum[m][r] = _mm512_setzero_si512();
    }
    for (int g = 0; g < QK / step; g++) {
        UNROLL
        for (int m = 0; m < n_x; m++) {
            UNROLL
            for (int r = 0; r < n_p; r++)
                dot[m][r] = group == QK ? sum[m][r] : _mm512_set1_epi32(start[m][g]);
        }
        UNROLL
        for (int u = 0; u < step / 4; u++) {
            UNROLL
            for (int m = 0; m < n_x; m++) {
                const __m512i four = q8k_four(x[m]->codes + g * step + 4 * u);
                UNROLL
                for (int r = 0; r < n_p; r++)
                    dot[m][r] = _mm512_dpbusd_epi32(dot[m][r], p[r].code[g * (step / 4) + u], four);
            }
        }
        UNROLL
        for (int m = 0; m < n_x; m++) {
            UNROLL
            for (int r = 0; r < n_p; r++)
                sum[m][r] = group == QK ? dot[m][r]
                          : _mm512_add_epi32(sum[m][r], _mm512_mullo_epi32(dot[m][r], p[r].scale[g]));
        }
    }
    UNROLL
    for (int m = 0; m < n_x; m++) {
        UNROLL
        for (int r = 0; r < n_p; r++) {
            float *at = c->y + (uint64_t)(c->first_x + m) * c->a->y_stride + 16 * r;
            const __m512i offset = c->t->affine ? offset_sum(&p[r], x[m]) : _mm512_setzero_si512();
            const __m512 v = q8k_block_value(c->t, x[m]->d, p[r].d, sum[m][r], p[r].dmin, offset);
            const __m512 before = c->block == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(c->lanes[r], at);
            _mm512_mask_storeu_ps(at, c->lanes[r], _mm512_add_ps(before, v));
        }
    }
}

typedef void add_block_fn(const pass *c);

#define ADD(group, x, p) static void add_##group##_##x##_##p(const pass *c) { add_block(c, x, p, group); }
#define ADD_ALL(group)                                                                          \
    ADD(group, 1, 1) ADD(group, 2, 1) ADD(group, 3, 1) ADD(group, 4, 1)                         \
    ADD(group, 1, 2) ADD(group, 2, 2) ADD(group, 3, 2) ADD(group, 4, 2)                         \
    static add_block_fn *const add_##group[PANELS][ACTIVATIONS] = {                             \
        { add_##group##_1_1, add_##group##_2_1, add_##group##_3_1, add_##group##_4_1 },         \
        { add_##group##_1_2, add_##group##_2_2, add_##group##_3_2, add_##group##_4_2 } };

ADD_ALL(16)
ADD_ALL(32)
ADD_ALL(256)

static add_block_fn *add_of(int group, int n_p, int n_x)
{
    return group == QK ? add_256[n_p - 1][n_x - 1]
         : group == 32 ? add_32[n_p - 1][n_x - 1]
         : add_16[n_p - 1][n_x - 1];
}

/* One or two panels of rows. */
static void some_rows(const q8k_type *t, const tile_args *a, int first, int n_p)
{
    q8k_panel *p = (q8k_panel *)(void *)a->scratch;
    const uint8_t *row[PANELS][16];
    __mmask16 lanes[PANELS];
    for (int r = 0; r < n_p; r++) {
        q8k_rows_from(row[r], a, first + 16 * r);
        lanes[r] = q8k_lanes_of(a->rows - first - 16 * r);
    }
    const int passes = (a->batch + ACTIVATIONS - 1) / ACTIVATIONS;
    q8k_ahead ahead = { .at = a->w + (uint64_t)(first + 16 * n_p) * a->w_stride,
                        .end = a->w + (uint64_t)a->rows * a->w_stride,
                        .step = 16 * n_p * t->block_bytes / passes };
    for (int i = 0; i < a->n / QK; i++) {
        for (int r = 0; r < n_p; r++) {
            t->unpack(&p[r], row[r]);
            q8k_next_block(row[r], t->block_bytes);
            if (first == 0) q8k_ask_rows(row[r], t->block_bytes);
        }
        for (int k = 0; k < passes; k++) {          /* of equal size, as far as it goes */
            const int from = a->batch * k / passes, to = a->batch * (k + 1) / passes;
            q8k_ask(&ahead);
            add_of(t->group, n_p, to - from)(&(pass){ t, p, a, from, i, a->y + first, lanes });
        }
    }
}

void q8k_tile_by_panels(const q8k_type *t, const tile_args *a)
{
    for (int r = 0; r < a->rows; r += 16 * PANELS) some_rows(t, a, r, a->rows - r > 16 ? PANELS : 1);
}
