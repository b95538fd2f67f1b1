/* iq1: IQ1_S, super-blocks of 256 at 1.56 bits a weight.
 *
 *   x = d * (2s + 1) * (g + delta)      g in -1, 0, 1;  delta = +-1/8
 *
 * A codebook entry gives the g of 8 elements; s and the sign of delta belong
 * to 32. Entry indices have 11 bits: low eight in index[], high three in bits
 * 3k of the group's word; bits 12..14 of the word are s, bit 15 says -1/8. */
#include <math.h>
#include <string.h>
#include "quant/formats.h"
#include "quant/grid.h"
#include "quant/tables.h"

enum { N = 32, GROUPS = QK / N, PARTS = N / 8 };

static int group_scale(uint16_t word) { return 2 * (word >> 12 & 7) + 1; }
static int shift_sign(uint16_t word)  { return word >> 15 ? -1 : 1; }

/* The 32 grid values of group g. */
static void unpack(int8_t value[N], const block_iq1_s *b, int g)
{
    for (int k = 0; k < PARTS; k++) {
        const int high = b->groups[g] >> 3 * k & 7;
        const uint64_t entry = quant_iq1_s_grid[b->index[PARTS * g + k] | high << 8];
        for (int j = 0; j < 8; j++) value[8 * k + j] = (int8_t)(entry >> 8 * j & 255);
    }
}

static void iq1_s_to_float(float *dst, const void *src, int64_t n)
{
    const block_iq1_s *b = src;
    int8_t value[N];
    for (int64_t i = 0; i < n / N; i++) {
        const block_iq1_s *block = b + i / GROUPS;
        const int g = (int)(i % GROUPS);
        const float d = half_to_float(block->d) * (float)group_scale(block->groups[g]);
        const float delta = 0.125f * (float)shift_sign(block->groups[g]);
        unpack(value, block, g);
        for (int e = 0; e < N; e++) dst[i * N + e] = d * ((float)value[e] + delta);
    }
}

/* d_a*d * ([sum (2s+1) * sum g*a] + 1/8 * [sum (2s+1) * +-(sum a)]) */
static float iq1_s_dot(const void *w, const void *x, int64_t n)
{
    const block_iq1_s *b = w;
    const block_q8_k *a = x;
    int8_t value[N];
    float sum = 0.0f;
    for (int64_t i = 0; i < n / QK; i++) {
        int32_t grid = 0, shift = 0;
        for (int g = 0; g < GROUPS; g++) {
            const uint16_t word = b[i].groups[g];
            unpack(value, &b[i], g);
            grid += group_scale(word) * dot_i8(value, a[i].codes + g * N, N);
            shift += group_scale(word) * shift_sign(word) * (a[i].sums[2 * g] + a[i].sums[2 * g + 1]);
        }
        sum += a[i].d * half_to_float(b[i].d) * ((float)grid + 0.125f * (float)shift);
    }
    return sum;
}

/* ---- encoding ------------------------------------------------------------------ */

/* One group as chosen. */
typedef struct {
    float scale;
    int   shift;            /* sign of delta         */
    int   entry[PARTS];
} group_choice;

/* The value of level 0, 1, 2. */
static float value_of(int level, int shift)
{
    return (float)(level - 1) + 0.125f * (float)shift;
}

/* Elements of x in ascending order, equal ones in place. */
static void sort_order(int order[N], const float *x)
{
    for (int e = 0; e < N; e++) {
        int at = e;
        for (; at > 0 && x[order[at - 1]] > x[e]; at--) order[at] = order[at - 1];
        order[at] = e;
    }
}

/* Sums of a sorted group from element i to j are prefix[j] - prefix[i]. */
typedef struct {
    float wx[N + 1], w[N + 1];
} prefix;

/* Scale numerator and denominator when the first i elements have level 0, the
 * next ones up to j level 1 and the rest level 2. */
static void split_fit(const prefix *p, int i, int j, int shift, float *wxv, float *wvv)
{
    const float v0 = value_of(0, shift), v1 = value_of(1, shift), v2 = value_of(2, shift);
    *wxv = (p->wx[i] - p->wx[0]) * v0 + (p->wx[j] - p->wx[i]) * v1 + (p->wx[N] - p->wx[j]) * v2;
    *wvv = (p->w[i] - p->w[0]) * v0 * v0 + (p->w[j] - p->w[i]) * v1 * v1
         + (p->w[N] - p->w[j]) * v2 * v2;
}

/* The best of all three-way splits of the sorted elements, under both shifts. */
static void best_split(int level[N], float *scale, int *shift, const float *x, const float *w)
{
    int order[N], first = N, second = N;
    prefix p;

    sort_order(order, x);
    p.wx[0] = p.w[0] = 0.0f;
    for (int e = 0; e < N; e++) {
        p.wx[e + 1] = p.wx[e] + w[order[e]] * x[order[e]];
        p.w[e + 1] = p.w[e] + w[order[e]];
    }

    float best = -INFINITY, wxv, wvv;
    *scale = 0.0f;
    *shift = 1;
    for (int i = 0; i <= N; i++)
        for (int j = i; j <= N; j++)
            for (int s = 1; s >= -1; s -= 2) {
                split_fit(&p, i, j, s, &wxv, &wvv);
                if (!(wvv > 0.0f) || !(wxv * wxv > best * wvv)) continue;
                *scale = wxv / wvv;
                best = *scale * wxv;
                *shift = s;
                first = i;
                second = j;
            }
    for (int e = 0; e < N; e++) level[order[e]] = e < first ? 0 : e < second ? 1 : 2;

    if (*scale < 0.0f) {
        for (int e = 0; e < N; e++) level[e] = 2 - level[e];
        *scale = -*scale;
        *shift = -*shift;
    }
}

static float entry_error(const quant_grid *g, int entry, const float *x, const float *w,
                         float scale, int shift)
{
    float error = 0.0f;
    for (int j = 0; j < 8; j++) {
        const float d = scale * value_of(grid_level(g, entry, j), shift) - x[j];
        error += w[j] * d * d;
    }
    return error;
}

/* The entry of a part's levels, or the best of the near ones. */
static int part_entry(const quant_grid *g, const int *level, const float *x, const float *w,
                      float scale, int shift, bool *off_grid)
{
    const int32_t slot = g->slot[grid_point(g, level)];
    if (slot >= 0) return slot;

    *off_grid = true;
    const uint16_t *near = g->near + ~slot;
    int best = near[1];
    float best_error = entry_error(g, best, x, w, scale, shift);
    for (int i = 2; i <= near[0]; i++) {
        const float error = entry_error(g, near[i], x, w, scale, shift);
        if (error < best_error) {
            best_error = error;
            best = near[i];
        }
    }
    return best;
}

static void refit(group_choice *c, const quant_grid *g, const float *x, const float *w)
{
    float wxv = 0.0f, wvv = 0.0f;
    for (int e = 0; e < N; e++) {
        const float v = value_of(grid_level(g, c->entry[e / 8], e % 8), c->shift);
        wxv += w[e] * x[e] * v;
        wvv += w[e] * v * v;
    }
    if (wxv > 0.0f && wvv > 0.0f) c->scale = wxv / wvv;
}

static void choose_group(group_choice *c, const quant_grid *g, const float *x, const float *w)
{
    int level[N];
    bool off_grid = false;

    *c = (group_choice){ .shift = 1 };
    if (fabsf(signed_max(x, N)) < 1e-12f) return;

    best_split(level, &c->scale, &c->shift, x, w);
    for (int k = 0; k < PARTS; k++)
        c->entry[k] = part_entry(g, level + 8 * k, x + 8 * k, w + 8 * k, c->scale, c->shift, &off_grid);
    if (off_grid) refit(c, g, x, w);
}

static void iq1_s_block(block_iq1_s *b, const float *x, const float *importance)
{
    const quant_grid *grid = grid_iq1_s();
    const float s2 = 2.0f * mean_square(x, QK);
    group_choice c[GROUPS];
    float w[N], most = 0.0f;

    for (int g = 0; g < GROUPS; g++) {
        importance_weights(w, x + g * N, importance + g * N, s2, N);
        choose_group(&c[g], grid, x + g * N, w);
        if (c[g].scale > most) most = c[g].scale;
    }
    memset(b, 0, sizeof *b);
    if (most == 0.0f) return;

    const float d = most / 15.0f, id = inverse(d);
    b->d = float_to_half(d * 1.125f);
    for (int g = 0; g < GROUPS; g++) {
        const int s = level_of(0.5f * (id * c[g].scale - 1.0f), 0, 7);
        int word = s << 12 | (c[g].shift < 0 ? 0x8000 : 0);
        for (int k = 0; k < PARTS; k++) {
            b->index[g * PARTS + k] = (uint8_t)(c[g].entry[k] & 255);
            word |= c[g].entry[k] >> 8 << 3 * k;
        }
        b->groups[g] = (uint16_t)word;
    }
}

/* Importance is needed: there is no encoder without. */
static void iq1_s_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_iq1_s *b = dst;
    for (int64_t i = 0; i < n / QK; i++) iq1_s_block(&b[i], src + i * QK, importance + i * QK);
}

const quant_info quant_iq1_s = { "IQ1_S", QK, sizeof(block_iq1_s), QUANT_Q8_K,
                                 iq1_s_to_float, NULL, iq1_s_encode, iq1_s_dot };
