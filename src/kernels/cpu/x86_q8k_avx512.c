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

/* One block of the activations of a pass. */
typedef struct {
    const block_q8_k *x[ACTIVATIONS];
    int32_t start[ACTIVATIONS][16];     /* [group] */
} pass;

typedef struct {
    __m512i sum[ACTIVATIONS][PANELS];
} block_sums;

/* sum[m][r] = block of panel r times activation m. n_x, n_p, group: constants. */
INLINE
void multiply(block_sums *s, const q8k_panel *p, const pass *a, int n_x, int n_p, int group)
{
    const int step = group < 32 ? group : 32;       /* columns between two looks at the scales */
    __m512i sum[ACTIVATIONS][PANELS], dot[ACTIVATIONS][PANELS];

    UNROLL
    for (int m = 0; m < n_x; m++) {
        UNROLL
        for (int r = 0; r < n_p; r++) sum[m][r] = _mm512_setzero_si512();
    }
    for (int g = 0; g < QK / step; g++) {
        UNROLL
        for (int m = 0; m < n_x; m++) {
            UNROLL
            for (int r = 0; r < n_p; r++)
                dot[m][r] = group == QK ? sum[m][r] : _mm512_set1_epi32(a->start[m][g]);
        }
        UNROLL
        for (int u = 0; u < step / 4; u++) {
            UNROLL
            for (int m = 0; m < n_x; m++) {
                const __m512i x = q8k_four(a->x[m]->codes + g * step + 4 * u);
                UNROLL
                for (int r = 0; r < n_p; r++)
                    dot[m][r] = _mm512_dpbusd_epi32(dot[m][r], p[r].code[g * (step / 4) + u], x);
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
        for (int r = 0; r < n_p; r++) s->sum[m][r] = sum[m][r];
    }
}

typedef void multiply_fn(block_sums *s, const q8k_panel *p, const pass *a);

#define MULTIPLY(group, x, p)                                                           \
    static void multiply_##group##_##x##_##p(block_sums *s, const q8k_panel *panel, const pass *a) \
    { multiply(s, panel, a, x, p, group); }
#define MULTIPLY_ALL(group)                                                             \
    MULTIPLY(group, 1, 1) MULTIPLY(group, 2, 1) MULTIPLY(group, 3, 1) MULTIPLY(group, 4, 1) \
    MULTIPLY(group, 1, 2) MULTIPLY(group, 2, 2) MULTIPLY(group, 3, 2) MULTIPLY(group, 4, 2) \
    static multiply_fn *const multiply_##group[PANELS][ACTIVATIONS] = {                 \
        { multiply_##group##_1_1, multiply_##group##_2_1, multiply_##group##_3_1, multiply_##group##_4_1 }, \
        { multiply_##group##_1_2, multiply_##group##_2_2, multiply_##group##_3_2, multiply_##group##_4_2 } };

MULTIPLY_ALL(16)
MULTIPLY_ALL(32)
MULTIPLY_ALL(256)

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

/* Adds block i of n_p panels times n_x activations to y; the first block sets it. */
static void add_block(const q8k_type *t, const q8k_panel *p, int n_p, const tile_args *a, int first_x, int n_x, int i,
                      float *y, const __mmask16 *lanes)
{
    multiply_fn *const run = t->group == QK ? multiply_256[n_p - 1][n_x - 1]
                           : t->group == 32 ? multiply_32[n_p - 1][n_x - 1] : multiply_16[n_p - 1][n_x - 1];
    pass now;
    block_sums s;

    for (int m = 0; m < n_x; m++) {
        now.x[m] = (const block_q8_k *)(const void *)a->x[first_x + m] + i;
        q8k_set_starts(now.start[m], now.x[m], t);
    }
    run(&s, p, &now);
    for (int m = 0; m < n_x; m++)
        for (int r = 0; r < n_p; r++) {
            float *at = y + (uint64_t)(first_x + m) * a->y_stride + 16 * r;
            const __m512i offset = t->affine ? offset_sum(&p[r], now.x[m]) : _mm512_setzero_si512();
            const __m512 v = q8k_block_value(t, now.x[m]->d, p[r].d, s.sum[m][r], p[r].dmin, offset);
            const __m512 sum = i == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes[r], at);
            _mm512_mask_storeu_ps(at, lanes[r], _mm512_add_ps(sum, v));
        }
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
            add_block(t, p, n_p, a, from, to - from, i, a->y + first, lanes);
        }
    }
}

void q8k_tile_by_panels(const q8k_type *t, const tile_args *a)
{
    for (int r = 0; r < a->rows; r += 16 * PANELS) some_rows(t, a, r, a->rows - r > 16 ? PANELS : 1);
}
