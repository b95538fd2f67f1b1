/* arm_q32: tiles of blocks of 32 against Q8_0 and Q8_1 activations, and of NVFP4's of
 * 64. Included once by each NEON rung, after what arm_tiles.h asks of it. Layouts are
 * told in src/quant/q32.c, iq4.c and fp4.c. */

/* A type, known where its functions are compiled. S = [sum value*a], D = d_w*d_a: a
 * term is D * S, and with `affine` D * S + m_w * s_a. There is a term for every 32
 * columns, or for each 16 (halves). */
typedef struct {
    codes32     (*codes)(const uint8_t *row, int i);                            /* columns 32i on */
    float32x4_t (*scales)(const uint8_t *const row[QUAD], int i, int part);     /* of their half  */
    int           bytes;                /* of a block, where the second scale is needed */
    bool          affine, halves;
} q32_type;

enum { UNITS = 8 };                     /* 32 columns each */

/* 256 columns of eight rows. */
typedef struct {
    int8x16_t   codes[2][UNITS][8];
    float32x4_t d[2][UNITS][2], m[2][UNITS];
} q32_panel;

/* An activation: its row of blocks and its planes. */
typedef struct {
    const int8_t     *codes;
    const float      *d;
    const block_q8_1 *blocks;
} activation;

static activation activation_at(const uint8_t *row, quant_type type, int n)
{
    const activation_planes p = activation_planes_of(row, type, n);
    return (activation){ p.codes, p.d, (const block_q8_1 *)(const void *)row };
}

ALWAYS_INLINE float32x4_t q32_m(const q32_type *t, const uint8_t *const row[QUAD], int i)
{
    return t->affine ? halves_at(row, (size_t)i * (size_t)t->bytes + 2) : vdupq_n_f32(0.0f);
}

/* y plus the term of 32 columns, or 16, in four rows. */
ALWAYS_INLINE float32x4_t add_term(const q32_type *t, float32x4_t y, const activation *x, int i, float32x4_t d,
                                   float32x4_t m, int32x4_t sum)
{
    const float32x4_t product = vmulq_f32(vmulq_n_f32(d, x->d[i]), vcvtq_f32_s32(sum));
    return vaddq_f32(y, t->affine ? vaddq_f32(product, vmulq_n_f32(m, half(x->blocks[i].s))) : product);
}

/* ---- one activation ------------------------------------------------------------ */

/* Faster: 16 products an instruction, and rows as they lie. */
ALWAYS_INLINE float32x4_t q32_quad(const q32_type *t, const uint8_t *const row[QUAD], const activation *x, int n)
{
    float32x4_t y = vdupq_n_f32(0.0f);
    for (int i = 0; i < n / 32; i++) {
        int32x4_t first[QUAD], second[QUAD];
        UNROLL
        for (int r = 0; r < QUAD; r++) {
            const codes32 c = t->codes(row[r], i);
            first[r] = t->halves ? dot16(c.low, x->codes + 32 * i) : dot32(c, x->codes + 32 * i);
            if (t->halves) second[r] = dot16(c.high, x->codes + 32 * i + 16);
        }
        y = add_term(t, y, x, i, t->scales(row, i, 0), q32_m(t, row, i), lanes_to_rows(first));
        if (t->halves) y = add_term(t, y, x, i, t->scales(row, i, 1), y, lanes_to_rows(second));
    }
    return y;
}

/* ---- more ---------------------------------------------------------------------- */

ALWAYS_INLINE void q32_fill(q32_panel *p, const q32_type *t, const uint8_t *const row[SIDE], int first, int units)
{
    for (int q = 0; q < 2; q++)
        for (int i = 0; i < units; i++) {
            const uint8_t *const *four = row + QUAD * q;
            int8x16_t low[QUAD], high[QUAD];
            UNROLL
            for (int r = 0; r < QUAD; r++) {
                const codes32 c = t->codes(four[r], first + i);
                low[r] = c.low;
                high[r] = c.high;
            }
            pack_columns(p->codes[q][i], low);
            pack_columns(p->codes[q][i] + 4, high);
            p->d[q][i][0] = t->scales(four, first + i, 0);
            if (t->halves) p->d[q][i][1] = t->scales(four, first + i, 1);
            p->m[q][i] = q32_m(t, four, first + i);
        }
}

/* y[c] += the panel times `units` times 32 columns of activation c from number `first`
 * on, for c < n (1..4). Faster: what is loaded of an activation meets eight rows. */
ALWAYS_INLINE void q32_multiply(const q32_panel *p, const q32_type *t, const activation *x, const int n, int first,
                                int units, float32x4_t y[][2])
{
    const int8_t *codes[4];
    float32x4_t total[4][2];
    UNROLL
    for (int c = 0; c < n; c++) {
        codes[c] = x[c].codes;
        total[c][0] = y[c][0];
        total[c][1] = y[c][1];
    }
    for (int i = 0; i < units; i++) {
        const int unit = first + i;
        UNROLL
        for (int q = 0; q < 2; q++) {
            quad_sums s = { 0 };
            add_products(&s, p->codes[q][i], codes, 32 * unit, n);
            if (t->halves) {
                UNROLL
                for (int c = 0; c < n; c++)
                    total[c][q] = add_term(t, total[c][q], &x[c], unit, p->d[q][i][0], p->m[q][i], sums_of(&s, c));
                s = (quad_sums){ 0 };
            }
            add_products(&s, p->codes[q][i] + 4, codes, 32 * unit + 16, n);
            UNROLL
            for (int c = 0; c < n; c++)
                total[c][q] = add_term(t, total[c][q], &x[c], unit, p->d[q][i][t->halves], p->m[q][i], sums_of(&s, c));
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) {
        y[c][0] = total[c][0];
        y[c][1] = total[c][1];
    }
}

/* ---- tiles ----------------------------------------------------------------------- */

ALWAYS_INLINE void q32_panels(const tile_args *a, const q32_type *t, const activation *x, int c0, int batch)
{
    q32_panel *p = (q32_panel *)(void *)a->scratch;
    const uint8_t *row[SIDE];
    float32x4_t y[PANEL_BATCH][2];
    for (int first = 0; first < a->rows; first += SIDE) {
        rows_at(row, SIDE, a, first);
        for (int c = 0; c < batch; c++) y[c][0] = y[c][1] = vdupq_n_f32(0.0f);
        for (int i = 0; i < a->n / 32; i += UNITS) {
            const int units = a->n / 32 - i < UNITS ? a->n / 32 - i : UNITS;
            int c = 0;
            q32_fill(p, t, row, i, units);
            for (; c + 4 <= batch; c += 4) q32_multiply(p, t, x + c, 4, i, units, y + c);
            if (c + 3 == batch) q32_multiply(p, t, x + c, 3, i, units, y + c);
            if (c + 2 == batch) q32_multiply(p, t, x + c, 2, i, units, y + c);
            if (c + 1 == batch) q32_multiply(p, t, x + c, 1, i, units, y + c);
        }
        for (int c = 0; c < batch; c++) {
            store_quad(a, first, c0 + c, y[c][0]);
            if (first + QUAD < a->rows) store_quad(a, first + QUAD, c0 + c, y[c][1]);
        }
    }
}

ALWAYS_INLINE void q32_rows(const tile_args *a, const q32_type *t, const activation *x)
{
    const uint8_t *row[QUAD];
    for (int first = 0; first < a->rows; first += QUAD) {
        rows_at(row, QUAD, a, first);
        store_quad(a, first, 0, q32_quad(t, row, x, a->n));
    }
}

ALWAYS_INLINE void q32_tile(const tile_args *a, const q32_type *t)
{
    const quant_type type = t->affine ? QUANT_Q8_1 : QUANT_Q8_0;
    activation x[PANEL_BATCH];
    for (int c0 = 0; c0 < a->batch; c0 += PANEL_BATCH) {
        const int batch = a->batch - c0 < PANEL_BATCH ? a->batch - c0 : PANEL_BATCH;
        for (int c = 0; c < batch; c++) x[c] = activation_at(a->x[c0 + c], type, a->n);
        if (a->batch == 1) q32_rows(a, t, x);
        else q32_panels(a, t, x, c0, batch);
    }
}

/* ---- the types --------------------------------------------------------------------- */

static const int8_t e2m1_levels[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

static inline codes32 five_bits(const uint8_t codes[16], const uint8_t high[4])
{
    const codes32 c = nibbles(codes);
    const uint8x16_t low5 = bytes_and(spread(high[0], high[1]), 16);
    const uint8x16_t high5 = bytes_and(spread(high[2], high[3]), 16);
    return (codes32){ vorrq_s8(c.low, vreinterpretq_s8_u8(low5)), vorrq_s8(c.high, vreinterpretq_s8_u8(high5)) };
}

/* Half a block of NVFP4, two groups of eight bytes: low nibbles are the first half of
 * a group. */
static inline codes32 nvfp4_values(const uint8_t bytes[16])
{
    const codes32 c = looked_up(e2m1_levels, bytes);
    const int64x2_t low = vreinterpretq_s64_s8(c.low), high = vreinterpretq_s64_s8(c.high);
    return (codes32){ vreinterpretq_s8_s64(vzip1q_s64(low, high)), vreinterpretq_s8_s64(vzip2q_s64(low, high)) };
}

/* d = the scale of four rows, one after the other. */
#define EACH_ROW(d, scale)                                                              \
    float d[QUAD];                                                                      \
    UNROLL                                                                              \
    for (int r = 0; r < QUAD; r++) d[r] = scale

ALWAYS_INLINE float32x4_t scales_mxfp4(const uint8_t *const row[QUAD], int i, int part)
{
    (void)part;
    EACH_ROW(d, e8m0_to_float_halved(row[r][(size_t)i * sizeof(block_mxfp4)]));
    return vld1q_f32(d);
}

ALWAYS_INLINE float32x4_t scales_nvfp4(const uint8_t *const row[QUAD], int i, int part)
{
    const size_t at = (size_t)(i / 2) * sizeof(block_nvfp4) + (size_t)(i % 2 * 2 + part);
    EACH_ROW(d, 0.5f * ue4m3_to_float(row[r][at]));
    return vld1q_f32(d);
}

#define HALF_SCALES(type)                                                                               \
    ALWAYS_INLINE float32x4_t scales_##type(const uint8_t *const row[QUAD], int i, int part)            \
    {                                                                                                   \
        (void)part;                                                                                     \
        return halves_at(row, (size_t)i * sizeof(block_##type));                                        \
    }

#define Q32_TILE(type, affine, halves, code)                                                            \
    ALWAYS_INLINE codes32 codes_##type(const uint8_t *row, int i)                                       \
    {                                                                                                   \
        const block_##type *w = (const block_##type *)(const void *)row + (halves ? i / 2 : i);         \
        return code;                                                                                    \
    }                                                                                                   \
    static void tile_##type(const cpu_kernels *k, const tile_args *a)                                   \
    {                                                                                                   \
        static const q32_type t = { codes_##type, scales_##type, sizeof(block_##type), affine, halves };\
        (void)k;                                                                                        \
        q32_tile(a, &t);                                                                                \
    }

HALF_SCALES(q4_0)   HALF_SCALES(q4_1)   HALF_SCALES(q5_0)
HALF_SCALES(q5_1)   HALF_SCALES(q8_0)   HALF_SCALES(iq4_nl)

Q32_TILE(q4_0, false, false, less(nibbles(w->codes), 8))
Q32_TILE(q4_1, true, false, nibbles(w->codes))
Q32_TILE(q5_0, false, false, less(five_bits(w->codes, w->high), 16))
Q32_TILE(q5_1, true, false, five_bits(w->codes, w->high))
Q32_TILE(q8_0, false, false, ((codes32){ vld1q_s8(w->codes), vld1q_s8(w->codes + 16) }))
Q32_TILE(iq4_nl, false, false, looked_up(quant_iq4_levels, w->codes))
Q32_TILE(mxfp4, false, false, looked_up(e2m1_levels, w->codes))
Q32_TILE(nvfp4, false, true, nvfp4_values(w->codes + i % 2 * 16))

static void q32_tiles(cpu_kernels *k)
{
    k->tile[QUANT_Q4_0] = tile_q4_0;
    k->tile[QUANT_Q4_1] = tile_q4_1;
    k->tile[QUANT_Q5_0] = tile_q5_0;
    k->tile[QUANT_Q5_1] = tile_q5_1;
    k->tile[QUANT_Q8_0] = tile_q8_0;
    k->tile[QUANT_IQ4_NL] = tile_iq4_nl;
    k->tile[QUANT_MXFP4] = tile_mxfp4;
    k->tile[QUANT_NVFP4] = tile_nvfp4;
}
