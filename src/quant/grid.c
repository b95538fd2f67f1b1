#include "quant/grid.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include "quant/formats.h"
#include "quant/grids.h"

enum {
    MAX_ENTRIES = 2048,
    POINTS_8 = 6561,            /* 3^8 points of eight coordinates, two bits a level   */
    POINTS_4 = 4096             /* 8^4 points of four coordinates, three bits a level  */
};

/* What a grid is built from, and into. */
typedef struct {
    const uint16_t *packed;     /* entries, see grids.h                                */
    int             distances;  /* a list holds the entries at this many least distances */
    float          *q;
    int32_t        *slot;
    uint16_t       *near;
    int             near_cap, near_used;
} builder;

static void levels_of_point(int *level, const quant_grid *g, int point)
{
    for (int j = 0; j < g->width; j++, point /= g->top + 1) level[j] = point % (g->top + 1);
}

int grid_point(const quant_grid *g, const int *level)
{
    int point = 0;
    for (int j = g->width - 1; j >= 0; j--) point = point * (g->top + 1) + level[j];
    return point;
}

/* The least value in d[0..n) that is greater than `above`. */
static int next_distance(const int *d, int n, int above)
{
    int best = INT_MAX;
    for (int i = 0; i < n; i++) if (d[i] > above && d[i] < best) best = d[i];
    return best;
}

/* Lists the entries near a point that is none, ordered by (distance, entry). */
static void list_near(builder *b, const quant_grid *g, int point)
{
    int at[8], d[MAX_ENTRIES];

    levels_of_point(at, g, point);
    for (int i = 0; i < g->n; i++) {
        d[i] = 0;
        for (int j = 0; j < g->width; j++) {
            const int step = grid_level(g, i, j) - at[j];
            d[i] += step * step;
        }
    }

    const int start = b->near_used++;
    for (int t = 0, least = -1; t < b->distances; t++) {
        least = next_distance(d, g->n, least);
        for (int i = 0; i < g->n; i++) {
            if (d[i] != least) continue;
            assert(b->near_used < b->near_cap);
            b->near[b->near_used++] = (uint16_t)i;
        }
    }
    b->near[start] = (uint16_t)(b->near_used - start - 1);
    b->slot[point] = ~start;
}

static void build(quant_grid *g, int n, int width, builder b)
{
    const int bits = width == 8 ? 2 : 3, points = width == 8 ? POINTS_8 : POINTS_4;
    int level[8];

    *g = (quant_grid){ n, width, width == 8 ? 2 : 7, b.q, b.slot, b.near };
    for (int p = 0; p < points; p++) b.slot[p] = -1;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < width; j++) {
            level[j] = b.packed[i] >> bits * j & ((1 << bits) - 1);
            b.q[i * width + j] = (float)(2 * level[j] + 1);
        }
        b.slot[grid_point(g, level)] = i;
    }
    for (int p = 0; p < points; p++) if (b.slot[p] < 0) list_near(&b, g, p);
}

/* One codebook: its storage, its size of all lists together (known, since the
 * codebook is), and the function that builds it once. */
#define ENTRY(u) 0x##u,
#define CODEBOOK(name, NAME, n, width, distances, near_size)                            \
    static void build_##name(void);                                                     \
    static quant_grid built_##name;                                                     \
    static pthread_once_t once_##name = PTHREAD_ONCE_INIT;                              \
    const quant_grid *grid_##name(void)                                                 \
    {                                                                                   \
        pthread_once(&once_##name, build_##name);                                       \
        return &built_##name;                                                           \
    }                                                                                   \
    static void build_##name(void)                                                      \
    {                                                                                   \
        static const uint16_t packed[n] = { GRID_##NAME(ENTRY) };                       \
        static float q[n * width];                                                     \
        static int32_t slot[POINTS_##width];                                            \
        static uint16_t near[near_size];                                                \
        build(&built_##name, n, width,                                                  \
              (builder){ packed, distances, q, slot, near, near_size, 0 });             \
    }

CODEBOOK(iq2_xxs, IQ2_XXS, 256, 8, 2, 119462)
CODEBOOK(iq2_xs,  IQ2_XS,  512, 8, 2, 187770)
CODEBOOK(iq2_s,   IQ2_S,  1024, 8, 1,  50253)
CODEBOOK(iq1_s,   IQ1_S,  2048, 8, 3, 332234)
CODEBOOK(iq3_xxs, IQ3_XXS, 256, 4, 2,  22825)
CODEBOOK(iq3_s,   IQ3_S,   512, 4, 3,  28317)

static float snap_error(const quant_grid *g, int entry, const float *x, const float *a, float s)
{
    const float *q = g->q + entry * g->width;
    float error = 0.0f;
    for (int j = 0; j < g->width; j++) {
        const float d = s * q[j] - x[j];
        error += a[j] * d * d;
    }
    return error;
}

int grid_snap(const quant_grid *g, const float *x, const float *a, float s, float id, int *on_grid)
{
    int level[8];
    for (int j = 0; j < g->width; j++) level[j] = level_of(0.5f * (id * x[j] - 1.0f), 0, g->top);

    const int32_t slot = g->slot[grid_point(g, level)];
    *on_grid = slot >= 0;
    if (slot >= 0) return slot;

    const uint16_t *near = g->near + ~slot;
    int best = near[1];
    float best_error = snap_error(g, best, x, a, s);
    for (int i = 2; i <= near[0]; i++) {
        const float error = snap_error(g, near[i], x, a, s);
        if (error < best_error) {
            best_error = error;
            best = near[i];
        }
    }
    return best;
}
