/* arm_k: tiles of super-blocks of 256 against Q8_K activations. Included once by each
 * NEON rung, after what arm_tiles.h asks of it and before arm_k_types.h, which has the types.
 *
 * 32-bit sums are exact for every type: 256 * 128*128 * 128 < 2^31. */

/* Of a row's super-block, for every 16 or 32 columns; and the signs of its codes, a
 * bit each, where the block has them in another form. */
typedef struct {
    int32_t scale[16];
    int16_t offset[16];
    uint8_t signs[32];
} k_scales;

/* How the exact sums become a float. With D = d_a*d, S = [sum scale*value*a]:
 *   SIGNED   factor*D * S
 *   AFFINE   D * S - d_a*dmin * [sum offset*a]
 *   SHIFTED  D * (S + 1/8 * [sum offset*a]) */
typedef enum { SIGNED, AFFINE, SHIFTED } k_formula;

typedef struct {
    void    (*scales)(k_scales *out, const void *block);
    codes32 (*codes)(const void *block, const k_scales *s, int g);  /* columns 32g on        */
    int       bytes, d, dmin;                       /* of a block; where it keeps its scales */
    k_formula formula;
    int       group;                                /* columns of a scale: 16 or 32          */
    float     factor;
} k_type;

/* 256 columns of eight rows. */
typedef struct {
    int8x16_t   codes[2][16][4];
    int32x4_t   scale[2][16];
    int16_t     offset[2][16][QUAD];
    float32x4_t d[2], dmin[2];
} k_panel;

ALWAYS_INLINE float32x4_t k_d(const k_type *t, const uint8_t *const row[QUAD], int block)
{
    return halves_at(row, (size_t)block * (size_t)t->bytes + (size_t)t->d);
}

ALWAYS_INLINE float32x4_t k_dmin(const k_type *t, const uint8_t *const row[QUAD], int block)
{
    if (t->formula != AFFINE) return vdupq_n_f32(0.0f);
    return halves_at(row, (size_t)block * (size_t)t->bytes + (size_t)t->dmin);
}

/* The term of one block in four rows; d_a is the activation's scale. */
ALWAYS_INLINE float32x4_t k_term(k_formula formula, float factor, float d_a, float32x4_t d, float32x4_t dmin,
                                 int32x4_t scaled_sum, int32x4_t offset_sum)
{
    const float32x4_t D = vmulq_n_f32(d, d_a), S = vcvtq_f32_s32(scaled_sum);
    if (formula == SIGNED) return vmulq_f32(vmulq_n_f32(D, factor), S);

    const float32x4_t O = vcvtq_f32_s32(offset_sum);
    if (formula == AFFINE) return vsubq_f32(vmulq_f32(D, S), vmulq_f32(vmulq_n_f32(dmin, d_a), O));
    return vmulq_f32(D, vaddq_f32(S, vmulq_n_f32(O, 0.125f)));
}

/* An activation's sums of 16 columns, or of 32 in the first eight lanes. */
ALWAYS_INLINE int16x8x2_t sums_by(int group, const block_q8_k *a)
{
    const int16x8_t low = vld1q_s16(a->sums), high = vld1q_s16(a->sums + 8);
    return group == 16 ? (int16x8x2_t){ { low, high } } : (int16x8x2_t){ { vpaddq_s16(low, high), vdupq_n_s16(0) } };
}

/* ---- one activation ------------------------------------------------------------ */

/* [sum scale*value*a] in four lanes. */
ALWAYS_INLINE int32x4_t k_lanes(const k_type *t, const void *block, const k_scales *w, const block_q8_k *a)
{
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int g = 0; g < 8; g++) {
        const codes32 c = t->codes(block, w, g);
        if (t->group == 32) {
            sum = vmlaq_n_s32(sum, dot32(c, a->codes + 32 * g), w->scale[g]);
        } else {
            sum = vmlaq_n_s32(sum, dot16(c.low, a->codes + 32 * g), w->scale[2 * g]);
            sum = vmlaq_n_s32(sum, dot16(c.high, a->codes + 32 * g + 16), w->scale[2 * g + 1]);
        }
    }
    return sum;
}

/* [sum offset*a] in four lanes. */
ALWAYS_INLINE int32x4_t k_offsets(const k_type *t, const k_scales *w, int16x8x2_t sums)
{
    const int16x8_t o = vld1q_s16(w->offset);
    int32x4_t sum = vmull_s16(vget_low_s16(o), vget_low_s16(sums.val[0]));
    sum = vmlal_high_s16(sum, o, sums.val[0]);
    if (t->group == 32) return sum;
    const int16x8_t p = vld1q_s16(w->offset + 8);
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(p), vget_low_s16(sums.val[1])), p, sums.val[1]);
}

/* Faster: 16 products an instruction, and rows as they lie. */
ALWAYS_INLINE float32x4_t k_quad(const k_type *t, const uint8_t *const row[QUAD], const block_q8_k *a, int blocks)
{
    float32x4_t y = vdupq_n_f32(0.0f);
    for (int i = 0; i < blocks; i++) {
        const int16x8x2_t sums = sums_by(t->group, &a[i]);
        int32x4_t lanes[QUAD], offsets[QUAD] = { vdupq_n_s32(0) };
        for (int r = 0; r < QUAD; r++) {
            const void *block = row[r] + (size_t)i * (size_t)t->bytes;
            k_scales w;
            t->scales(&w, block);
            lanes[r] = k_lanes(t, block, &w, &a[i]);
            if (t->formula != SIGNED) offsets[r] = k_offsets(t, &w, sums);
        }
        y = vaddq_f32(y, k_term(t->formula, t->factor, a[i].d, k_d(t, row, i), k_dmin(t, row, i), lanes_to_rows(lanes),
                                t->formula == SIGNED ? offsets[0] : lanes_to_rows(offsets)));
    }
    return y;
}

ALWAYS_INLINE void k_rows(const tile_args *a, const k_type *t)
{
    const block_q8_k *x = (const block_q8_k *)(const void *)a->x[0];
    const uint8_t *row[QUAD];
    for (int first = 0; first < a->rows; first += QUAD) {
        rows_at(row, QUAD, a, first);
        store_quad(a, first, 0, k_quad(t, row, x, a->n / QK));
    }
}

/* ---- more ---------------------------------------------------------------------- */

static void pack_scales(k_panel *p, int q, const k_scales w[QUAD], const k_type *t)
{
    for (int g = 0; g < QK / t->group; g += 4) {
        int32x4_t v[QUAD];
        UNROLL
        for (int r = 0; r < QUAD; r++) v[r] = vld1q_s32(w[r].scale + g);
        transpose4(v);
        UNROLL
        for (int j = 0; j < 4; j++) p->scale[q][g + j] = v[j];
    }
    if (t->formula == SIGNED) return;
    for (int g = 0; g < QK / t->group; g += 4) {
        int32x4_t v[QUAD];
        UNROLL
        for (int r = 0; r < QUAD; r++) v[r] = vmovl_s16(vld1_s16(w[r].offset + g));
        transpose4(v);
        UNROLL
        for (int j = 0; j < 4; j++) vst1_s16(p->offset[q][g + j], vmovn_s32(v[j]));
    }
}

ALWAYS_INLINE void k_fill(k_panel *p, const k_type *t, const uint8_t *const row[SIDE], int block)
{
    for (int q = 0; q < 2; q++) {
        const uint8_t *at[QUAD];
        k_scales w[QUAD];
        for (int r = 0; r < QUAD; r++) {
            at[r] = row[QUAD * q + r] + (size_t)block * (size_t)t->bytes;
            t->scales(&w[r], at[r]);
        }
        pack_scales(p, q, w, t);
        UNROLL
        for (int g = 0; g < 8; g++) {
            int8x16_t low[QUAD], high[QUAD];
            UNROLL
            for (int r = 0; r < QUAD; r++) {
                const codes32 c = t->codes(at[r], &w[r], g);
                low[r] = c.low;
                high[r] = c.high;
            }
            pack_columns(p->codes[q][2 * g], low);
            pack_columns(p->codes[q][2 * g + 1], high);
        }
        p->d[q] = k_d(t, row + QUAD * q, block);
        p->dmin[q] = k_dmin(t, row + QUAD * q, block);
    }
}

/* y[c] += the panel times activation c, for n of them (1..4). Faster: what is loaded of
 * an activation meets eight rows. */
ALWAYS_INLINE void k_multiply(const k_panel *p, const block_q8_k *const *x, const int n, const k_formula formula,
                              const int group, float factor, float32x4_t y[][2])
{
    const int8_t *codes[4];
    int32x4_t sum[2][4], offset[2][4];
    UNROLL
    for (int c = 0; c < n; c++) {
        codes[c] = x[c]->codes;
        sum[0][c] = sum[1][c] = offset[0][c] = offset[1][c] = vdupq_n_s32(0);
    }
    for (int g = 0; g < QK / group; g++) {
        UNROLL
        for (int q = 0; q < 2; q++) {
            quad_sums s = { 0 };
            add_products(&s, p->codes[q][g * group / 16], codes, group * g, n);
            if (group == 32) add_products(&s, p->codes[q][2 * g + 1], codes, 32 * g + 16, n);
            UNROLL
            for (int c = 0; c < n; c++) sum[q][c] = vmlaq_s32(sum[q][c], sums_of(&s, c), p->scale[q][g]);
        }
    }
    for (int g = 0; g < QK / group && formula != SIGNED; g++) {
        UNROLL
        for (int c = 0; c < n; c++) {
            const int16_t a = group == 16 ? x[c]->sums[g] : (int16_t)(x[c]->sums[2 * g] + x[c]->sums[2 * g + 1]);
            UNROLL
            for (int q = 0; q < 2; q++) offset[q][c] = vmlal_n_s16(offset[q][c], vld1_s16(p->offset[q][g]), a);
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) {
        UNROLL
        for (int q = 0; q < 2; q++)
            y[c][q] = vaddq_f32(y[c][q], k_term(formula, factor, x[c]->d, p->d[q], p->dmin[q], sum[q][c], offset[q][c]));
    }
}

typedef void k_multiply_fn(const k_panel *p, const block_q8_k *const *x, int n, float factor, float32x4_t y[][2]);
typedef void k_fill_fn(k_panel *p, const uint8_t *const row[SIDE], int block);

#define MULTIPLY(name, formula, group)                                                                      \
    static void name(const k_panel *p, const block_q8_k *const *x, int n, float factor, float32x4_t y[][2]) \
    {                                                                                                       \
        for (; n >= 4; n -= 4, x += 4, y += 4) k_multiply(p, x, 4, formula, group, factor, y);              \
        if (n == 3) k_multiply(p, x, 3, formula, group, factor, y);                                         \
        if (n == 2) k_multiply(p, x, 2, formula, group, factor, y);                                         \
        if (n == 1) k_multiply(p, x, 1, formula, group, factor, y);                                         \
    }

MULTIPLY(affine_16, AFFINE, 16)
MULTIPLY(affine_32, AFFINE, 32)
MULTIPLY(signed_16, SIGNED, 16)
MULTIPLY(signed_32, SIGNED, 32)
MULTIPLY(shifted_32, SHIFTED, 32)

static k_multiply_fn *multiply_of(const k_type *t)
{
    switch (t->formula) {
    case AFFINE:  return t->group == 16 ? affine_16 : affine_32;
    case SHIFTED: return shifted_32;
    default:      return t->group == 16 ? signed_16 : signed_32;
    }
}

/* Some activations of the tile, from number c0 on. */
static void k_panel_tile(const tile_args *a, const k_type *t, k_fill_fn *fill, int c0, int batch)
{
    k_panel *p = (k_panel *)(void *)a->scratch;
    k_multiply_fn *multiply = multiply_of(t);
    const uint8_t *row[SIDE];
    const block_q8_k *x[PANEL_BATCH];
    float32x4_t y[PANEL_BATCH][2];

    for (int first = 0; first < a->rows; first += SIDE) {
        rows_at(row, SIDE, a, first);
        for (int c = 0; c < batch; c++) y[c][0] = y[c][1] = vdupq_n_f32(0.0f);
        for (int i = 0; i < a->n / QK; i++) {
            for (int c = 0; c < batch; c++) x[c] = (const block_q8_k *)(const void *)a->x[c0 + c] + i;
            fill(p, row, i);
            multiply(p, x, batch, t->factor, y);
        }
        for (int c = 0; c < batch; c++) {
            store_quad(a, first, c0 + c, y[c][0]);
            if (first + QUAD < a->rows) store_quad(a, first + QUAD, c0 + c, y[c][1]);
        }
    }
}

static void k_panels(const tile_args *a, const k_type *t, k_fill_fn *fill)
{
    for (int c = 0; c < a->batch; c += PANEL_BATCH)
        k_panel_tile(a, t, fill, c, a->batch - c < PANEL_BATCH ? a->batch - c : PANEL_BATCH);
}
