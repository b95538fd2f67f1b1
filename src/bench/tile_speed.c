#include "bench/tile_speed.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/pool.h"
#include "base/random.h"
#include "base/status.h"
#include "kernels/cpu/cpu_kernels.h"

enum {
    CACHED_BYTES = 256 << 10,   /* stays in a second-level cache            */
    TASK_BYTES   = 256 << 10,   /* as the engine hands rows out             */
    MOST_ROWS    = 2048         /* of a task: rows of one byte do not exist */
};
#define PASS_NS  20000000u      /* about a pass                             */
#define TYPE_PASSES 4

typedef struct {
    _Alignas(64) uint8_t scratch[TILE_SCRATCH];
    float y[TILE_SPEED_BATCH * MOST_ROWS];
} thread_place;

typedef struct {
    const cpu_kernels *k;
    quant_type      type;
    const uint8_t  *w;
    uint64_t        row_bytes;
    int             rows, task_rows, batch;
    const uint8_t  *x[TILE_SPEED_BATCH];
    thread_place   *place;      /* [threads] */
} tile_job;

static void run_task(void *ctx, int index, int thread)
{
    const tile_job *j = ctx;
    const int first = index * j->task_rows, rows = min_int(j->task_rows, j->rows - first);
    j->k->tile[j->type](j->k, &(tile_args){
        .w = j->w + (uint64_t)first * j->row_bytes, .w_stride = j->row_bytes, .rows = rows, .n = TILE_SPEED_COLS,
        .x = j->x, .batch = j->batch, .y = j->place[thread].y, .y_stride = (uint64_t)rows,
        .scratch = j->place[thread].scratch });
}

static tile_rate rate_of(const tile_job *j, double ns)
{
    const double bytes = (double)j->rows * (double)j->row_bytes;
    return (tile_rate){ .gmacs = (double)j->rows * TILE_SPEED_COLS * j->batch / ns, .gbs = bytes / ns };
}

static double pass_ns(pool *threads, tile_job *j, int passes)
{
    const uint64_t start = clock_ns();
    for (int i = 0; i < passes; i++) pool_run(threads, run_task, j, (j->rows + j->task_rows - 1) / j->task_rows);
    return (double)(clock_ns() - start) / passes;
}

/* The same few rows again and again, as often as fills a pass. */
static tile_rate cached(pool *one, tile_job *j)
{
    j->rows = max_int(1, CACHED_BYTES / (int)j->row_bytes);
    const double once = pass_ns(one, j, 1);
    if (once > 4 * PASS_NS) return rate_of(j, once);        /* definitions are slow enough to be exact */
    const int passes = once >= PASS_NS ? 1 : (int)(PASS_NS / once) + 1;
    double best = once;
    for (int i = 0; i < TYPE_PASSES; i++) {
        const double ns = pass_ns(one, j, passes);
        if (ns < best) best = ns;
    }
    return rate_of(j, best);
}

/* Rows that a pass of PASS_NS takes, but always from another part of memory, so
 * that what a pass left in the caches is not what the next one reads. */
static tile_rate from_memory(pool *all, tile_job *j, const uint8_t *w, uint64_t bytes, tile_rate in_cache, int n_threads)
{
    const double expected = in_cache.gbs * n_threads * PASS_NS;     /* bytes of a pass */
    const uint64_t most = bytes / j->row_bytes;
    const uint64_t wanted = (uint64_t)(expected / (double)j->row_bytes) + 1;
    j->rows = (int)(wanted < most ? wanted : most);
    tile_rate best = { 0 };
    uint64_t at = 0;
    for (int i = 0; i < TYPE_PASSES; i++) {
        if (at + (uint64_t)j->rows > most) at = 0;
        j->w = w + at * j->row_bytes;
        at += (uint64_t)j->rows;
        const tile_rate r = rate_of(j, pass_ns(all, j, 1));
        if (r.gmacs > best.gmacs) best = r;
    }
    return best;
}

/* Activations in the form this type meets; false: no memory. */
static bool make_activations(tile_job *j, uint8_t **owned)
{
    const quant_type type = quant_get(j->type)->dot_type;
    const uint64_t bytes = activation_bytes(type, TILE_SPEED_COLS);
    random_stream r;
    random_seed(&r, 1);
    float *x = malloc(TILE_SPEED_COLS * sizeof *x);
    *owned = aligned_alloc(64, bytes * TILE_SPEED_BATCH);
    for (int i = 0; x && *owned && i < TILE_SPEED_BATCH; i++) {
        uint8_t *row = *owned + bytes * (uint64_t)i;
        float *to = j->k->quantise[type] ? x : (float *)(void *)row;
        for (int c = 0; c < TILE_SPEED_COLS; c++) to[c] = (float)random_normal(&r);
        if (to == x) j->k->quantise[type](row, x, TILE_SPEED_COLS);
        j->x[i] = row;
    }
    const bool made = x && *owned;
    free(x);
    return made;
}

static bool measure_type(pool *one, pool *all, tile_job *j, const uint8_t *w, uint64_t bytes, int n_threads,
                         tile_speed *out)
{
    uint8_t *activations = NULL;
    *out = (tile_speed){ .type = j->type };
    quant_row_bytes(j->type, TILE_SPEED_COLS, &j->row_bytes);
    j->task_rows = min_int(max_int(1, TASK_BYTES / (int)j->row_bytes), MOST_ROWS);
    const bool made = make_activations(j, &activations);
    for (int i = 0; i < 2 && made; i++) {
        j->batch = i ? TILE_SPEED_BATCH : 1;
        j->w = w;
        out->cached[i] = cached(one, j);
        out->memory[i] = from_memory(all, j, w, bytes, out->cached[i], n_threads);
    }
    free(activations);
    return made;
}

ds4_status tile_speed_measure(const void *weights, uint64_t bytes, int n_threads, uint32_t isa,
                              tile_speed *out, int *n, ds4_error *err)
{
    cpu_kernels k;
    pool *one = NULL, *all = NULL;
    cpu_kernels_init(&k, isa);
    tile_job j = { .k = &k, .place = aligned_alloc(64, (size_t)n_threads * sizeof *j.place) };
    *n = 0;
    ds4_status st = j.place ? pool_open(&one, 1, err) : ds4_fail(err, DS4_EMEMORY, "no memory to time the kernels");
    if (!st) st = pool_open(&all, n_threads, err);
    for (int t = 0; t < QUANT_COUNT && !st; t++) {
        if (!k.tile[t]) continue;
        j.type = (quant_type)t;
        if (!measure_type(one, all, &j, weights, bytes, n_threads, &out[*n]))
            st = ds4_fail(err, DS4_EMEMORY, "no memory to time the kernels");
        ++*n;
    }
    pool_close(one);
    pool_close(all);
    free(j.place);
    return st;
}
