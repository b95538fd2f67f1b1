/* iquants: super-blocks of 256 whose magnitudes come from codebooks.
 *
 *   x = f * d * (2s + 1) * sign * byte      f = 1/8 IQ2, 1/4 IQ3_XXS, 1 IQ3_S
 *
 * A codebook entry ("part") gives the bytes of 8 elements (IQ2) or 4 (IQ3); the
 * scale s belongs to 16 or 32 elements ("group"); signs are kept apart, eight
 * to a mask. The XXS and XS types store masks of even parity in seven bits. */
#include <math.h>
#include <string.h>
#include "quant/formats.h"
#include "quant/grid.h"
#include "quant/search.h"
#include "quant/tables.h"

/* ---- unpacking --------------------------------------------------------------- */

/* A block, its fields spread out. */
typedef struct {
    int8_t code[QK];        /* sign * byte                   */
    int    scale[16];       /* 2s + 1 of every 16 elements   */
} unpacked;

static void put_eight(int8_t *code, uint64_t entry, uint8_t signs)
{
    for (int j = 0; j < 8; j++) {
        const int v = (int)(entry >> 8 * j & 255);
        code[j] = (int8_t)(signs >> j & 1 ? -v : v);
    }
}

static void put_two_fours(int8_t *code, uint32_t first, uint32_t second, uint8_t signs)
{
    put_eight(code, first | (uint64_t)second << 32, signs);
}

/* Per 32 elements four 16-bit words: four grid indices of a byte each, then four
 * 7-bit sign indices and above them the 4-bit scale. */
static void unpack_iq2_xxs(unpacked *u, const block_iq2_xxs *b)
{
    for (int g = 0; g < 8; g++) {
        const uint16_t *w = b->groups + 4 * g;
        const uint32_t index = w[0] | (uint32_t)w[1] << 16, rest = w[2] | (uint32_t)w[3] << 16;
        for (int k = 0; k < 4; k++)
            put_eight(u->code + 32 * g + 8 * k, quant_iq2_xxs_grid[index >> 8 * k & 255],
                      quant_sign_mask(rest >> 7 * k & 127));
        u->scale[2 * g] = u->scale[2 * g + 1] = 2 * (int)(rest >> 28) + 1;
    }
}

/* Per 8 elements a 16-bit word: grid index in bits 0..8, sign index above it. */
static void unpack_iq2_xs(unpacked *u, const block_iq2_xs *b)
{
    for (int i = 0; i < 32; i++)
        put_eight(u->code + 8 * i, quant_iq2_xs_grid[b->parts[i] & 511],
                  quant_sign_mask(b->parts[i] >> 9));
    for (int g = 0; g < 16; g++) u->scale[g] = 2 * (b->scales[g / 2] >> g % 2 * 4 & 15) + 1;
}

/* Grid index of 10 bits: low eight in index[i], high two in bits 2(i%4) of
 * high[i/4]. Whole sign masks. */
static void unpack_iq2_s(unpacked *u, const block_iq2_s *b)
{
    for (int i = 0; i < 32; i++) {
        const int high = b->high[i / 4] >> i % 4 * 2 & 3;
        put_eight(u->code + 8 * i, quant_iq2_s_grid[b->index[i] | high << 8], b->signs[i]);
    }
    for (int g = 0; g < 16; g++) u->scale[g] = 2 * (b->scales[g / 2] >> g % 2 * 4 & 15) + 1;
}

/* Per 32 elements eight index bytes, and two words of signs: four 7-bit sign
 * indices and above them the scale. */
static void unpack_iq3_xxs(unpacked *u, const block_iq3_xxs *b)
{
    for (int g = 0; g < 8; g++) {
        const uint8_t *index = b->index + 8 * g;
        const uint32_t rest = b->signs[2 * g] | (uint32_t)b->signs[2 * g + 1] << 16;
        for (int k = 0; k < 4; k++)
            put_two_fours(u->code + 32 * g + 8 * k, quant_iq3_xxs_grid[index[2 * k]],
                          quant_iq3_xxs_grid[index[2 * k + 1]],
                          quant_sign_mask(rest >> 7 * k & 127));
        u->scale[2 * g] = u->scale[2 * g + 1] = 2 * (int)(rest >> 28) + 1;
    }
}

/* Grid index of 9 bits: low eight in index[i], the ninth is bit i%8 of high[i/8]. */
static void unpack_iq3_s(unpacked *u, const block_iq3_s *b)
{
    uint32_t entry[2];
    for (int i = 0; i < 64; i++) {
        const int high = b->high[i / 8] >> i % 8 & 1;
        entry[i % 2] = quant_iq3_s_grid[b->index[i] | high << 8];
        if (i % 2) put_two_fours(u->code + 4 * (i - 1), entry[0], entry[1], b->signs[i / 2]);
    }
    for (int g = 0; g < 16; g++) u->scale[g] = 2 * (b->scales[g / 4] >> g / 2 % 2 * 4 & 15) + 1;
}

/* ---- decoding and dot product ------------------------------------------------ */

static void decode(float *dst, const unpacked *u, float d)
{
    for (int e = 0; e < QK; e++) dst[e] = d * (float)u->scale[e / 16] * (float)u->code[e];
}

static int32_t bracket(const unpacked *u, const block_q8_k *a)
{
    int32_t sum = 0;
    for (int g = 0; g < 16; g++)
        sum += u->scale[g] * dot_i8(u->code + 16 * g, a->codes + 16 * g, 16);
    return sum;
}

/* to_float and dot of one type; f is a power of two, so where it stands in the
 * product does not matter. */
#define GRID_TYPE(type, f)                                                              \
    static void type##_to_float(float *dst, const void *src, int64_t n)                 \
    {                                                                                   \
        const block_##type *b = src;                                                    \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            decode(dst + i * QK, &u, f * half_to_float(b[i].d));                        \
        }                                                                               \
    }                                                                                   \
    static float type##_dot(const void *w, const void *x, int64_t n)                    \
    {                                                                                   \
        const block_##type *b = w;                                                      \
        const block_q8_k *a = x;                                                        \
        float sum = 0.0f;                                                               \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            sum += f * (a[i].d * half_to_float(b[i].d)) * (float)bracket(&u, &a[i]);    \
        }                                                                               \
        return sum;                                                                     \
    }

GRID_TYPE(iq2_xxs, 0.125f)
GRID_TYPE(iq2_xs, 0.125f)
GRID_TYPE(iq2_s, 0.125f)
GRID_TYPE(iq3_xxs, 0.25f)
GRID_TYPE(iq3_s, 1.0f)

/* ---- choosing entries, signs and scales --------------------------------------- */

/* When the winner of the candidates is snapped once more, at the fitted scale. */
typedef enum {
    AGAIN_OFF_GRID,         /* the parts that were not on the grid     */
    AGAIN_ALL_IF_ANY,       /* all parts, if one was not, or none won  */
    AGAIN_ALL               /* always all                              */
} again_rule;

typedef struct {
    int        group;       /* elements of a group                                     */
    bool       even_signs;  /* masks must have even parity                             */
    bool       fitted;      /* candidates around a fitted scale, not the largest value */
    float      tiny;        /* a group whose largest magnitude is below counts as zero */
    int        tries;       /* candidates k = -tries..tries                            */
    float      step;
    again_rule again;
    float      d_factor;    /* d is stored times this                                  */
} plan;

/* One group as chosen. Without a scale: entries 0, signs 0. */
typedef struct {
    float   scale;
    int     entry[8];
    uint8_t sign[4];        /* mask of every eight elements */
} group_choice;

typedef struct {
    int          stored[16];        /* s of each group */
    uint16_t     d;
    group_choice group[16];
} choice;

/* What is searched in one group: magnitudes, weights and their roots. */
typedef struct {
    float y[32], w[32], root[32];
} target;

/* Magnitudes and sign masks. Where parity must be even, the element that costs
 * least takes the wrong sign (its y becomes negative). */
static void split_signs(target *t, uint8_t *sign, const float *x, const plan *p)
{
    for (int part = 0; part < p->group / 8; part++) {
        float *y = t->y + 8 * part;
        const float *w = t->w + 8 * part;
        int mask = 0, odd = 0, cheapest = 0;
        for (int j = 0; j < 8; j++) {
            const float v = x[8 * part + j];
            y[j] = fabsf(v);
            if (v < 0.0f) {
                mask |= 1 << j;
                odd ^= 1;
            }
            if (w[j] * v * v < w[cheapest] * y[cheapest] * y[cheapest]) cheapest = j;
        }
        if (p->even_signs && odd) {
            mask ^= 1 << cheapest;
            y[cheapest] = -y[cheapest];
        }
        sign[part] = (uint8_t)mask;
    }
}

/* Least-squares scale for the chosen entries: false when it has no answer. */
static bool fit(const target *t, const quant_grid *g, const group_choice *c, int parts,
                float *wyq, float *wqq)
{
    *wyq = *wqq = 0.0f;
    for (int i = 0; i < parts; i++) {
        const float *q = g->q + c->entry[i] * g->width;
        const float *w = t->w + i * g->width, *y = t->y + i * g->width;
        for (int j = 0; j < g->width; j++) {
            *wyq += w[j] * y[j] * q[j];
            *wqq += w[j] * q[j] * q[j];
        }
    }
    return *wqq > 0.0f;
}

static int snap_part(const target *t, const quant_grid *g, int part, float s, float id, int *on_grid)
{
    const int at = part * g->width;
    return grid_snap(g, t->y + at, t->root + at, s, id, on_grid);
}

/* Tries inverse scales around (2*top + 1)/reach and keeps the best fit. */
static bool try_scales(group_choice *c, int *on_grid, const target *t, const quant_grid *g,
                       const plan *p, float reach)
{
    const int parts = p->group / g->width, most = 2 * g->top + 1;
    float best = 0.0f, wyq, wqq;
    bool won = false;
    for (int k = -p->tries; k <= p->tries; k++) {
        const float id = ((float)most + (float)k * p->step) / reach, s = 1.0f / id;
        group_choice now = *c;
        int on[8] = { 0 };
        for (int i = 0; i < parts; i++) now.entry[i] = snap_part(t, g, i, s, id, &on[i]);
        if (!fit(t, g, &now, parts, &wyq, &wqq) || !(wyq * wyq > best * wqq)) continue;

        now.scale = wyq / wqq;
        best = now.scale * wyq;
        memcpy(on_grid, on, sizeof on);
        *c = now;
        won = true;
    }
    return won;
}

static void snap_again(group_choice *c, const int *on_grid, bool won, const target *t,
                       const quant_grid *g, const plan *p)
{
    const int parts = p->group / g->width;
    bool any = !won;
    for (int i = 0; i < parts; i++) any |= !on_grid[i];
    if (!(c->scale > 0.0f) || (p->again != AGAIN_ALL && !any)) return;

    const float id = 1.0f / c->scale;
    int unused;
    for (int i = 0; i < parts; i++)
        if (p->again != AGAIN_OFF_GRID || !on_grid[i])
            c->entry[i] = snap_part(t, g, i, c->scale, id, &unused);

    float wyq, wqq;
    if (fit(t, g, c, parts, &wyq, &wqq)) c->scale = wyq / wqq;
}

/* Where the candidates start: false for a group that counts as zero. */
static bool first_scale(const target *t, const quant_grid *g, const plan *p, float *reach,
                        float *scale)
{
    *reach = 0.0f;
    for (int e = 0; e < p->group; e++) if (t->y[e] > *reach) *reach = t->y[e];
    if (!(*reach > 0.0f) || *reach < p->tiny) return false;

    *scale = *reach / (float)(2 * g->top + 1);
    if (p->fitted) {
        uint8_t unused[SEARCH_MAX];
        *scale = search_positive(p->group, g->top + 2, t->y, t->w, unused);
        *reach = (float)(g->top + 1) * *scale;
    }
    return *reach > 0.0f;
}

/* t->w must be set. */
static void choose_group(group_choice *c, target *t, const float *x, const quant_grid *g,
                         const plan *p)
{
    uint8_t sign[4] = { 0 };
    int on_grid[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    float reach;

    *c = (group_choice){ 0 };
    split_signs(t, sign, x, p);
    if (!first_scale(t, g, p, &reach, &c->scale)) {
        c->scale = 0.0f;
        return;
    }
    for (int e = 0; e < p->group; e++) t->root[e] = sqrtf(t->w[e]);
    const bool won = try_scales(c, on_grid, t, g, p, reach);
    snap_again(c, on_grid, won, t, g, p);

    const uint8_t flip = c->scale < 0.0f ? 255 : 0;
    c->scale = fabsf(c->scale);
    for (int i = 0; i < 4; i++) c->sign[i] = sign[i] ^ flip;
}

/* Whole scales for the groups' scales: x ~ d * (2s + 1), s in 0..15. False: the
 * block is zero. */
static bool choose_scales(choice *c, int groups, const plan *p)
{
    float most = 0.0f;
    for (int i = 0; i < groups; i++) if (c->group[i].scale > most) most = c->group[i].scale;
    if (most == 0.0f) return false;

    const float d = most / 31.0f, id = inverse(d);
    c->d = float_to_half(d * p->d_factor);
    for (int i = 0; i < groups; i++)
        c->stored[i] = level_of(0.5f * (id * c->group[i].scale - 1.0f), 0, 15);
    return true;
}

/* How elements of a block are weighted. */
typedef struct {
    float s2;           /* with importance: importance * sqrt(s2 + x^2) */
    float floor;        /* without: floor + x^2                         */
    float zero;         /* without, where that is 0                     */
} weighting;

static void weights(float *w, const float *x, const float *importance, weighting k, int n)
{
    if (importance) {
        importance_weights(w, x, importance, k.s2, n);
        return;
    }
    for (int e = 0; e < n; e++) {
        w[e] = k.floor + x[e] * x[e];
        if (w[e] == 0.0f) w[e] = k.zero;
    }
}

/* Groups and scales of one block. False: it is zero. */
static bool choose(choice *c, const float *x, const float *importance, weighting k,
                   const quant_grid *g, const plan *p)
{
    const int groups = QK / p->group;
    target t;
    for (int i = 0; i < groups; i++) {
        const int at = i * p->group;
        weights(t.w, x + at, importance ? importance + at : NULL, k, p->group);
        choose_group(&c->group[i], &t, x + at, g, p);
    }
    return choose_scales(c, groups, p);
}

/* ---- encoding ------------------------------------------------------------------ */

static void iq2_xxs_block(block_iq2_xxs *b, const float *x, const float *importance)
{
    static const plan p = { .group = 32, .even_signs = true, .fitted = true, .tiny = 1e-15f,
                            .tries = 6, .step = 0.1f, .again = AGAIN_ALL, .d_factor = 1.0f };
    const weighting k = { .s2 = mean_square(x, QK) };
    choice c;
    memset(b, 0, sizeof *b);
    if (!choose(&c, x, importance, k, grid_iq2_xxs(), &p)) return;

    b->d = c.d;
    for (int g = 0; g < 8; g++) {
        const group_choice *now = &c.group[g];
        uint32_t rest = (uint32_t)c.stored[g] << 28;
        for (int i = 0; i < 4; i++) rest |= (uint32_t)(now->sign[i] & 127) << 7 * i;
        b->groups[4 * g] = (uint16_t)(now->entry[0] | now->entry[1] << 8);
        b->groups[4 * g + 1] = (uint16_t)(now->entry[2] | now->entry[3] << 8);
        b->groups[4 * g + 2] = (uint16_t)(rest & 0xffff);
        b->groups[4 * g + 3] = (uint16_t)(rest >> 16);
    }
}

static void iq2_xs_block(block_iq2_xs *b, const float *x, const float *importance)
{
    static const plan p = { .group = 16, .even_signs = true, .tiny = 1e-15f,
                            .tries = 9, .step = 0.1f, .again = AGAIN_OFF_GRID, .d_factor = 1.0f };
    const weighting k = { .s2 = mean_square(x, QK) };
    choice c;
    memset(b, 0, sizeof *b);
    if (!choose(&c, x, importance, k, grid_iq2_xs(), &p)) return;

    b->d = c.d;
    for (int g = 0; g < 16; g++) {
        const group_choice *now = &c.group[g];
        for (int i = 0; i < 2; i++)
            b->parts[2 * g + i] = (uint16_t)(now->entry[i] | (now->sign[i] & 127) << 9);
        b->scales[g / 2] |= (uint8_t)(c.stored[g] << g % 2 * 4);
    }
}

static void iq2_s_block(block_iq2_s *b, const float *x, const float *importance)
{
    static const plan p = { .group = 16, .tiny = 1e-8f,
                            .tries = 9, .step = 0.1f, .again = AGAIN_OFF_GRID, .d_factor = 0.9875f };
    const float s2 = 2.0f * mean_square(x, QK);
    const weighting k = { .s2 = s2, .floor = 0.25f * s2 };
    choice c;
    memset(b, 0, sizeof *b);
    if (!choose(&c, x, importance, k, grid_iq2_s(), &p)) return;

    b->d = c.d;
    for (int g = 0; g < 16; g++) {
        const group_choice *now = &c.group[g];
        for (int i = 2 * g; i < 2 * g + 2; i++) {
            b->index[i] = (uint8_t)(now->entry[i % 2] & 255);
            b->high[i / 4] |= (uint8_t)((now->entry[i % 2] >> 8) << i % 4 * 2);
            b->signs[i] = now->sign[i % 2];
        }
        b->scales[g / 2] |= (uint8_t)(c.stored[g] << g % 2 * 4);
    }
}

static void iq3_xxs_block(block_iq3_xxs *b, const float *x, const float *importance)
{
    static const plan p = { .group = 32, .even_signs = true, .tiny = 1e-8f,
                            .tries = 15, .step = 0.2f, .again = AGAIN_OFF_GRID, .d_factor = 1.0125f };
    const weighting k = { .s2 = 2.0f * mean_square(x, QK) };
    choice c;
    memset(b, 0, sizeof *b);
    if (!choose(&c, x, importance, k, grid_iq3_xxs(), &p)) return;

    b->d = c.d;
    for (int g = 0; g < 8; g++) {
        const group_choice *now = &c.group[g];
        uint32_t rest = (uint32_t)c.stored[g] << 28;
        for (int i = 0; i < 4; i++) rest |= (uint32_t)(now->sign[i] & 127) << 7 * i;
        for (int i = 0; i < 8; i++) b->index[8 * g + i] = (uint8_t)now->entry[i];
        b->signs[2 * g] = (uint16_t)(rest & 0xffff);
        b->signs[2 * g + 1] = (uint16_t)(rest >> 16);
    }
}

static void iq3_s_block(block_iq3_s *b, const float *x, const float *importance)
{
    static const plan p = { .group = 32,
                            .tries = 9, .step = 0.2f, .again = AGAIN_ALL_IF_ANY, .d_factor = 1.033f };
    /* No level decodes to 0 here: an element that is 0 still has a nearest one. */
    const float mean = mean_square(x, QK);
    const weighting k = { .s2 = 2.0f * mean, .zero = 1e-3f * mean };
    choice c;
    memset(b, 0, sizeof *b);
    if (!choose(&c, x, importance, k, grid_iq3_s(), &p)) return;

    b->d = c.d;
    for (int g = 0; g < 8; g++) {
        const group_choice *now = &c.group[g];
        for (int i = 0; i < 8; i++) {
            b->index[8 * g + i] = (uint8_t)(now->entry[i] & 255);
            b->high[g] |= (uint8_t)((now->entry[i] >> 8) << i);
        }
        memcpy(b->signs + 4 * g, now->sign, 4);
        b->scales[g / 2] |= (uint8_t)(c.stored[g] << g % 2 * 4);
    }
}

#define ENCODER(type)                                                                   \
    static void type##_encode(void *dst, const float *src, const float *importance, int64_t n) \
    {                                                                                   \
        block_##type *b = dst;                                                          \
        for (int64_t i = 0; i < n / QK; i++)                                            \
            type##_block(&b[i], src + i * QK, importance ? importance + i * QK : NULL); \
    }

ENCODER(iq2_xxs)
ENCODER(iq2_xs)
ENCODER(iq2_s)
ENCODER(iq3_xxs)
ENCODER(iq3_s)
FROM_FLOAT_WITHOUT_IMPORTANCE(iq2_s)
FROM_FLOAT_WITHOUT_IMPORTANCE(iq3_xxs)
FROM_FLOAT_WITHOUT_IMPORTANCE(iq3_s)

/* Below 2.5 bits there is nothing to spare for unimportant columns: these two
 * have no encoder without importance. */
const quant_info quant_iq2_xxs = { "IQ2_XXS", QK, sizeof(block_iq2_xxs), QUANT_Q8_K,
                                   iq2_xxs_to_float, NULL, iq2_xxs_encode, iq2_xxs_dot };
const quant_info quant_iq2_xs = { "IQ2_XS", QK, sizeof(block_iq2_xs), QUANT_Q8_K,
                                  iq2_xs_to_float, NULL, iq2_xs_encode, iq2_xs_dot };
const quant_info quant_iq2_s = { "IQ2_S", QK, sizeof(block_iq2_s), QUANT_Q8_K,
                                 iq2_s_to_float, iq2_s_from_float, iq2_s_encode, iq2_s_dot };
const quant_info quant_iq3_xxs = { "IQ3_XXS", QK, sizeof(block_iq3_xxs), QUANT_Q8_K,
                                   iq3_xxs_to_float, iq3_xxs_from_float, iq3_xxs_encode, iq3_xxs_dot };
const quant_info quant_iq3_s = { "IQ3_S", QK, sizeof(block_iq3_s), QUANT_Q8_K,
                                 iq3_s_to_float, iq3_s_from_float, iq3_s_encode, iq3_s_dot };
