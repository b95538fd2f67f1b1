/* The way of weights onto a card, and experts that have no room there. */
#include "checked.h"

#include <stdlib.h>
#include <string.h>

static const backend_limits limits = { .max_rows = 16, .max_cols = 512, .max_pairs = 96, .max_expert_width = 256,
                                       .n_experts = 16, .max_head_width = 64, .index_top_k = 8, .n_layer = 4 };

static backend *open_with(const fake_options *f, const backend_options *o, ds4_error *err)
{
    gpu_device *d;
    backend *b = NULL;
    EXPECT_OK(fake_device_open(&d, f, err), *err);
    EXPECT_OK(cuda_open_on(&b, d, o, err), *err);
    return b;
}

/* Random bytes as blocks of a type: nothing here looks at numbers. */
static view mapped(backend *b, uint8_t *data, int64_t rows, int cols, quant_type type)
{
    ds4_error err;
    view v = { .rows = rows, .cols = cols, .type = type };
    EXPECT(quant_row_bytes(type, (uint64_t)cols, &v.stride));
    EXPECT_OK(b->buf_map(b, data, (uint64_t)rows * v.stride, &v.buf, &err), err);
    return v;
}

static void random_bytes(uint8_t *to, size_t n, uint64_t seed)
{
    random_stream r;
    random_seed(&r, seed);
    for (size_t i = 0; i < n; i++) to[i] = (uint8_t)random_u64(&r);
}

/* The planes of each matrix lie where planes.h says. */
static void expect_planes(backend *b, view w, const uint8_t *data, int64_t rows_each, bool stack)
{
    const planes_of_type *t = planes_of((int)w.type);
    const cuda_buf *m = (const cuda_buf *)w.buf;
    const int64_t blocks = rows_each * (w.cols / t->block_len);
    gpu_device *d = ((cuda_backend *)b)->device;
    ds4_error err;
    gpu_ptr table[64];
    EXPECT_OK(b->wait(b, &err), err);
    if (stack)
        EXPECT_OK(d->transfer(d, false, &(gpu_piece){ m->table, table, sizeof *table * (size_t)(w.rows / rows_each) },
                              1, &err), err);
    else table[0] = m->at;
    for (int64_t e = 0; e < w.rows / rows_each; e++)
        for (int p = 0; p < t->n; p++) {
            const size_t len = (size_t)t->plane[p].len;
            uint8_t *got = malloc((size_t)blocks * len);
            const gpu_piece piece = { table[e] + planes_offset(t, blocks, p), got, (uint64_t)blocks * len };
            int bad = 0;
            EXPECT_OK(d->transfer(d, false, &piece, 1, &err), err);
            for (int64_t i = 0; i < blocks; i++)
                bad += memcmp(got + (size_t)i * len, data + ((e * blocks + i) * t->block_bytes) + t->plane[p].first,
                              len) != 0;
            EXPECT_INT(bad, 0);
            free(got);
        }
}

TEST(weights_of_every_type_are_cut_into_planes)
{
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    backend *b = open_with(&(fake_options){ .order = LANES_SHUFFLED }, &o, &err);
    for (int type = 0; type < QUANT_COUNT; type++) {
        if (!planes_of(type)) continue;
        const int64_t rows[] = { 1, 67, 3 * 5 };
        for (int i = 0; i < 3; i++) {
            const int cols = i == 1 ? 256 : 512;
            uint64_t stride = 0;
            EXPECT(quant_row_bytes((quant_type)type, (uint64_t)cols, &stride));
            uint8_t *data = malloc((size_t)rows[i] * stride);
            random_bytes(data, (size_t)rows[i] * stride, (uint64_t)(type * 3 + i));
            const view map = mapped(b, data, rows[i], cols, (quant_type)type);
            view w = map;
            const int64_t each = i == 2 ? 5 : rows[i];
            EXPECT_OK(b->adopt(b, &w, i == 2 ? WEIGHT_EXPERTS : WEIGHT_MATRIX, each, &err), err);
            expect_planes(b, w, data, each, i == 2);
            b->buf_free(b, w.buf);
            b->buf_free(b, map.buf);
            free(data);
        }
    }
    b->close(b);
}

TEST(weights_of_many_slices_arrive_whole_while_the_mapping_may_go_away)
{
    enum { ROWS = 50000, COLS = 512 };                  /* 24 MB of Q6_K: staging goes round and round */
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    uint64_t stride = 0;
    backend *b = open_with(&(fake_options){ .seed = 3 }, &o, &err);
    EXPECT(quant_row_bytes(QUANT_Q6_K, COLS, &stride));
    uint8_t *data = malloc(ROWS * stride), *gone = malloc(ROWS * stride);
    random_bytes(data, ROWS * stride, 1);
    memcpy(gone, data, ROWS * stride);
    const view map = mapped(b, gone, ROWS, COLS, QUANT_Q6_K);
    view w = map, plain = map;
    EXPECT_OK(b->adopt(b, &w, WEIGHT_MATRIX, ROWS, &err), err);
    EXPECT_OK(b->adopt(b, &plain, WEIGHT_ROWS, ROWS, &err), err);
    memset(gone, 0, ROWS * stride);
    expect_planes(b, w, data, ROWS, false);
    uint8_t *got = malloc(ROWS * stride);
    EXPECT_OK(b->download(b, got, plain, &err), err);
    EXPECT(memcmp(got, data, ROWS * stride) == 0);
    const view all[] = { map, w, plain };
    for (int i = 0; i < 3; i++) checked_free(b, all[i]);
    free(got);
    free(gone);
    free(data);
    b->close(b);
}

TEST(a_card_that_is_full_is_told_with_figures)
{
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    backend *b = open_with(&(fake_options){ .total_bytes = 40u << 20 }, &o, &err);
    enum { ROWS = 20000, COLS = 1024 };
    uint8_t *data = calloc(ROWS, COLS);
    const view map = mapped(b, data, ROWS, COLS, QUANT_Q4_K);
    view w[4];
    int n = 0;
    for (; n < 4; n++) {
        w[n] = map;
        if (b->adopt(b, &w[n], WEIGHT_MATRIX, ROWS, &err)) break;
    }
    EXPECT(n > 0 && n < 4);
    EXPECT_INT(err.status, DS4_EMEMORY);
    EXPECT(strstr(err.message, "GiB of weights are on the card") != NULL);
    for (int i = 0; i < n; i++) checked_free(b, w[i]);
    checked_free(b, map);
    b->close(b);
    free(data);
}

/* ---- experts in parts ------------------------------------------------------------------------------- */

enum { E = 16, D = 64, F = 32, LAYERS = 3, USED = 4, STEPS = 40, TYPES = 3 };

typedef struct {
    backend *b;
    view     gate[LAYERS], up[LAYERS], down[LAYERS];
    view     x, y, ids, weights, mid;
    view     all_ids, all_y;            /* of every step: going in and coming out is work in order, too */
} engine;

/* A stack whose numbers the seed decides. */
static view stack_of(backend *b, int64_t rows, int cols, quant_type type, int64_t each, uint64_t seed)
{
    return checked_weight(b, rows, cols, type, WEIGHT_EXPERTS, each, seed);
}

static engine engine_open(uint64_t expert_bytes, bool unified, uint64_t seed)
{
    ds4_error err;
    const backend_options o = { .name = "cuda", .limits = limits, .expert_bytes = expert_bytes };
    engine g = { .b = open_with(&(fake_options){ .seed = seed, .unified = unified }, &o, &err) };
    for (int l = 0; l < LAYERS; l++) {
        g.gate[l] = stack_of(g.b, E * F, D, QUANT_Q8_0, F, (uint64_t)l + 1);
        g.up[l] = stack_of(g.b, E * F, D, QUANT_Q8_0, F, (uint64_t)l + 11);
        g.down[l] = stack_of(g.b, E * D, F, QUANT_Q5_0, D, (uint64_t)l + 21);
    }
    g.x = checked_random(g.b, 2, D, 1.0f, 5);
    g.y = checked_view(g.b, 2 * LAYERS, D, QUANT_F32);
    g.ids = checked_view(g.b, 2 * LAYERS, USED, QUANT_I32);
    g.all_ids = checked_view(g.b, STEPS * 2 * LAYERS, USED, QUANT_I32);
    g.all_y = checked_view(g.b, STEPS * 2 * LAYERS, D, QUANT_F32);
    g.weights = checked_random(g.b, 2, USED, 1.0f, 6);
    g.mid = checked_view(g.b, 2 * USED, F, QUANT_F32);
    return g;
}

static void engine_close(engine *g)
{
    for (int l = 0; l < LAYERS; l++) {
        checked_free(g->b, g->gate[l]);
        checked_free(g->b, g->up[l]);
        checked_free(g->b, g->down[l]);
    }
    const view views[] = { g->x, g->y, g->ids, g->all_ids, g->all_y, g->weights, g->mid };
    for (int i = 0; i < 7; i++) checked_free(g->b, views[i]);
    g->b->close(g->b);
}

/* Step `step` of `rows` rows over all layers; waits for nothing. */
static void engine_step(engine *g, int step, int rows)
{
    ds4_error err;
    backend *b = g->b;
    const int32_t pos[2] = { 0 }, token[2] = { 0 }, of[2] = { 0 };
    const segment s = { .n = rows };
    const batch_rows batch = { rows, pos, token, of, &s, 1 };
    const step_shape shape = { .rows = &batch };
    bool done, again;
    EXPECT_OK(b->copy(b, g->ids, view_rows(g->all_ids, step * 2 * LAYERS, 2 * LAYERS), &err), err);
    do {
        EXPECT_OK(b->step_begin(b, &shape, &done, &err), err);
        for (int l = 0; l < LAYERS && !done; l++) {
            const ds4_status st = b->ops.expert_ffn(&b->queue, &(expert_ffn_args){
                .x = view_rows(g->x, 0, rows), .y = view_rows(g->y, 2 * l, rows), .gate = g->gate[l], .up = g->up[l],
                .down = g->down[l], .ids = view_rows(g->ids, 2 * l, rows), .weights = view_rows(g->weights, 0, rows),
                .mid = view_rows(g->mid, 0, rows * USED), .n_experts = E, .limit = 7.0f, .layer = l });
            EXPECT_OK(st, b->queue.error);
        }
        EXPECT_OK(b->step_end(b, true, &again, &err), err);
    } while (again);
    EXPECT_OK(b->copy(b, view_rows(g->all_y, step * 2 * LAYERS, 2 * LAYERS), g->y, &err), err);
}

/* Waits when counters have been sent for, so that experts are chosen with steps still to run; from there on copies
 * and steps are only held in order by what the backend says itself. */
static void engine_run(engine *g, const int32_t *ids, float *y)
{
    ds4_error err;
    EXPECT_OK(g->b->upload(g->b, g->all_ids, ids, &err), err);
    for (int step = 0; step < STEPS; step++) {
        engine_step(g, step, 1 + step / 3 % 2);
        if (step % 8 == 0) EXPECT_OK(g->b->wait(g->b, &err), err);
    }
    EXPECT_OK(g->b->wait(g->b, &err), err);
    EXPECT_OK(g->b->download(g->b, y, g->all_y, &err), err);
}

/* A few experts are hot, and not for ever the same. */
static void skewed_ids(int32_t *ids, int step, random_stream *r)
{
    for (int i = 0; i < 2 * LAYERS; i++) {
        const int hot = step < STEPS / 2 ? E - USED - 1 : 3;
        for (int k = 0; k < USED; k++) ids[i * USED + k] = random_below(r, 8) ? hot + k : (int32_t)(k * (E / USED) + (int)random_below(r, E / USED));
        for (int k = 1; k < USED; k++)
            if (ids[i * USED + k] <= ids[i * USED + k - 1]) ids[i * USED + k] = ids[i * USED + k - 1] + 1;
        for (int k = USED - 1, most = E - 1; k >= 0; k--, most--)
            if (ids[i * USED + k] > most) ids[i * USED + k] = most;
    }
}

TEST(where_experts_lie_does_not_change_results_while_they_change_places)
{
    const uint64_t each = planes_bytes(planes_of(QUANT_Q8_0), F * D / 32);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        engine all = engine_open(0, false, seed);
        engine some[] = { engine_open(1, false, seed), engine_open(40 * each, false, seed),
                          engine_open(90 * each, false, seed + 9), engine_open(1, true, seed) };
        static float want[STEPS][2 * LAYERS][D], got[STEPS][2 * LAYERS][D];
        int32_t ids[STEPS][2 * LAYERS * USED];
        random_stream r;
        random_seed(&r, seed);
        for (int step = 0; step < STEPS; step++) skewed_ids(ids[step], step, &r);
        engine_run(&all, ids[0], want[0][0]);
        for (int i = 0; i < 4; i++) {
            engine_run(&some[i], ids[0], got[0][0]);
            EXPECT(memcmp(got, want, sizeof got) == 0);
        }
        for (int i = 0; i < 4; i++) {
            const backend_expert_counts n = some[i].b->expert_counts(some[i].b);
            EXPECT((n.misses > 0) == (i < 3));
            EXPECT((n.hits > 0) == (i == 1 || i == 2));
            EXPECT((n.exchanges > 4) == (i == 1 || i == 2));
            EXPECT(n.bus_bytes == 0 || n.bus_bytes >= n.misses * each);
            engine_close(&some[i]);
        }
        EXPECT_INT(all.b->expert_counts(all.b).misses, 0);
        engine_close(&all);
    }
}

TEST(an_allocation_that_fails_is_told_and_nothing_stays_behind)
{
    enum { ROWS = 8 * 32 };
    static uint8_t data[ROWS * 2 * 34];                 /* Q8_0, 64 columns */
    int told = 0, pinned = 0;
    for (int nth = 1; nth <= 16; nth++) {
        ds4_error err;
        gpu_device *d;
        backend *b = NULL;
        const backend_options o = { .name = "cuda", .limits = limits, .expert_bytes = 3 * 8 * 34 * 64 };
        EXPECT_OK(fake_device_open(&d, &(fake_options){ .fail_alloc = nth }, &err), err);
        ds4_status st = cuda_open_on(&b, d, &o, &err);
        view map[3], w[3];
        int n = 0;
        for (int i = 0; i < 3 && !st; i++, n++) {
            w[i] = map[i] = mapped(b, data, ROWS, 64, QUANT_Q8_0);
            st = b->adopt(b, &w[i], WEIGHT_EXPERTS, 32, &err);
        }
        told += st == DS4_EMEMORY;
        pinned += st && strstr(err.message, "stay in host memory") != NULL;
        for (int i = 0; i < n; i++) {
            if (w[i].buf != map[i].buf) b->buf_free(b, w[i].buf);
            b->buf_free(b, map[i].buf);
        }
        if (b) b->close(b);
    }
    EXPECT(told > 8);
    EXPECT(pinned > 0);
}
