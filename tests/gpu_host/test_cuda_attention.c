/* Kernels of attention*.cu on the lane runner, against the scalar definition. */
#include "scene.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_K = 512 };

static void random_row(kv_row f, random_stream *r, uint8_t *out)
{
    float x[MOST_K];
    for (int i = 0; i < f.width; i++) x[i] = (float)random_normal(r);
    kv_row_pack(f, out, x);
}

/* Session i has `length` tokens, with all that attention may look at. */
static void fill_session(scene *s, int i, int length, uint64_t seed)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, seed);
    kv *k = s->k[i];
    const kv_layer *l = &k->memory.layer[1];
    uint8_t row[4 * MOST_K];
    EXPECT_OK(kv_grow(k, length, &err), err);
    k->length = length;
    for (int p = length > s->c.n_swa ? length - s->c.n_swa : 0; p < length; p++) {
        random_row(l->row, &r, row);
        scene_store(s, scene_ring_row(s, i, p), row);
    }
    for (int b = 0; l->ratio && b < length / l->ratio; b++) {
        random_row(l->row, &r, row);
        scene_store(s, scene_pool_row(s, i, b), row);
    }
}

/* The step's own rows: of the ring, and the compressed rows that it completes. */
static void write_step(scene *s, uint64_t seed)
{
    random_stream r;
    random_seed(&r, seed);
    uint8_t row[4 * MOST_K];
    for (int t = 0; t < s->rows.n; t++) {
        const segment *g = &s->segments[s->segment_of[t]];
        const kv_layer *l = &g->kv->layer[1];
        for (int i = 0; i < s->n_sessions; i++) {
            if (&s->k[i]->memory != g->kv) continue;
            random_row(l->row, &r, row);
            scene_store(s, scene_ring_row(s, i, s->pos[t]), row);
            if (!l->ratio || (s->pos[t] + 1) % l->ratio) continue;
            random_row(l->row, &r, row);
            scene_store(s, scene_pool_row(s, i, s->pos[t] / l->ratio), row);
        }
    }
}

/* Ascending rows that each query sees; every third list is full, others end early, one is empty. */
static view random_lists(scene *s, int k, uint64_t seed)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, seed);
    const view v = checked_view(s->b, s->rows.n, k, QUANT_I32);
    int32_t *list = malloc((size_t)s->rows.n * (size_t)k * sizeof *list);
    for (int t = 0; t < s->rows.n; t++) {
        const int visible = (s->pos[t] + 1) / s->c.ratio[1],
            most = t % 3 == 0 ? k : t % 3 == 1 ? k - 1 - t % k : (int)random_below(&r, 4);
        int n = 0;
        for (int b = 0; b < visible && n < most; b++)
            if (random_below(&r, (uint64_t)visible) < (uint64_t)most) list[t * k + n++] = b;
        for (; n < k; n++) list[t * k + n] = -1;
    }
    EXPECT_OK(s->b->upload(s->b, v, list, &err), err);
    free(list);
    return v;
}

static void attend(scene *s, const scene_shape *h, const int *n, int top_k, float sink, uint64_t seed)
{
    scene_begin(s, n);
    write_step(s, seed);
    const view q = checked_random(s->b, s->rows.n, h->n_heads * h->K, 2.0f, seed + 1);
    const view heads = checked_view(s->b, s->rows.n, h->n_heads * h->K, QUANT_F32),
        sinks = checked_random(s->b, 1, h->n_heads, sink, seed + 2);
    const view selected = top_k ? random_lists(s, top_k, seed + 3) : (view){ 0 };
    if (h->K < MOST_K)
        CHECKED(s->b, attend, .q = q, .heads = heads, .sinks = sinks, .selected = selected, .rows = &s->rows,
                .n_heads = h->n_heads,
                .n_swa = h->n_swa, .ratio = h->ratio, .scale = 1.0f / sqrtf((float)h->K), .layer = 1);
    CHECKED(s->b, attend, .q = q, .heads = q, .sinks = sinks, .selected = selected, .rows = &s->rows,
            .n_heads = h->n_heads,
            .n_swa = h->n_swa, .ratio = h->ratio, .scale = 1.0f / sqrtf((float)h->K), .layer = 1);
    checked_free(s->b, q);
    checked_free(s->b, heads);
    checked_free(s->b, sinks);
    if (top_k) checked_free(s->b, selected);
    scene_commit(s, n);
}

/* Positions 0 and 1, below and beyond the window, around the ring's end; sessions apart in one batch. */
static void attend_run(const scene_shape *h, lane_order order, int top_k)
{
    scene s;
    scene_open(&s, h, 4, order);
    fill_session(&s, 1, h->n_swa - 2, 21);
    fill_session(&s, 2, h->n_swa + SCENE_ROWS - 3, 22);
    fill_session(&s, 3, h->max_tokens - 60, 23);
    attend(&s, h, (int[]){ 1, 0, 0, 0 }, top_k, 1.0f, 31);
    attend(&s, h, (int[]){ 1, 4, 5, 6 }, top_k, 1.0f, 32);      /* cut into splits */
    attend(&s, h, (int[]){ 3, 2, 1, 12 }, top_k, 5.0f, 33);     /* into fewer */
    attend(&s, h, (int[]){ 7, 30, 0, 9 }, top_k, 1.0f, 34);
    attend(&s, h, (int[]){ 9, 33, 11, 17 }, top_k, 1.0f, 35);   /* into none */
    scene_close(&s);
}

static const scene_shape small = { .ratio = 4, .K = 64, .n_rot = 16, .n_swa = 40, .index_dim = 32, .n_heads = 4,
                                   .packed = true,
                                   .max_tokens = 1500 };

TEST(narrow_heads_agree_with_the_definition_at_every_ratio)
{
    static const struct { int ratio, top_k; } kinds[] = { { 0, 0 }, { 4, 0 }, { 4, 48 }, { 128, 0 } };
    for (int i = 0; i < 4; i++) {
        scene_shape h = small;
        h.ratio = kinds[i].ratio;
        attend_run(&h, (lane_order)(i % 3), kinds[i].top_k);
    }
}

TEST(other_shapes_and_plain_floats_agree)
{
    static const struct { int K, n_rot, heads, ratio, top_k; bool packed; } kinds[] = {
        { 64, 16, 4, 4, 20, false }, { 128, 64, 9, 4, 33, true }, { 80, 15, 8, 128, 0, true },
        { 33, 8, 1, 4, 0, false } };
    for (int i = 0; i < 4; i++) {
        scene_shape h = small;
        h.K = kinds[i].K;
        h.n_rot = kinds[i].n_rot;
        h.n_heads = kinds[i].heads;
        h.ratio = kinds[i].ratio;
        h.packed = kinds[i].packed;
        attend_run(&h, (lane_order)(i % 3), kinds[i].top_k);
    }
}

/* ---- the full width ----------------------------------------------------------------------- */

static const scene_shape full = { .ratio = 4, .K = 512, .n_rot = 64, .n_swa = 128, .index_dim = 32, .n_heads = 16,
                                  .packed = true,
                                  .max_tokens = 1500 };

static void full_step(const scene_shape *h, lane_order order, int length, int n, int top_k)
{
    scene s;
    scene_open(&s, h, 1, order);
    fill_session(&s, 0, length, 77);
    attend(&s, h, &n, top_k, 2.0f, 41);
    scene_close(&s);
}

TEST(heads_of_512_agree_with_the_definition)
{
    scene_shape h = full;
    full_step(&h, LANES_FORWARD, 0, 2, 0);
    full_step(&h, LANES_SHUFFLED, 1300, 1, 200);
    full_step(&h, LANES_BACKWARD, 300, 17, 60);
    h.n_heads = 64;
    full_step(&h, LANES_SHUFFLED, 700, 1, 0);
    h.n_heads = 8;
    h.ratio = 128;
    full_step(&h, LANES_SHUFFLED, 1400, 2, 0);
    h.ratio = 0;
    full_step(&h, LANES_BACKWARD, 100, 66, 0);
}

TEST(floats_of_512_agree_with_the_definition)
{
    scene_shape h = full;
    h.packed = false;
    full_step(&h, LANES_SHUFFLED, 500, 2, 50);
}

/* Of every scale, subnormal codes, ends of the range: what the matrix units see is what the definition
 * unpacks. One row is seen, so that heads are half its numbers. At last a code that is no number. */
TEST(any_stored_bytes_mean_the_same)
{
    scene s;
    scene_shape h = full;
    h.ratio = 0;
    scene_open(&s, &h, 1, LANES_FORWARD);
    const view sinks = checked_view(s.b, 1, h.n_heads, QUANT_F32), q = checked_view(s.b, 1, h.n_heads * h.K, QUANT_F32);
    const view heads = checked_view(s.b, 1, h.n_heads * h.K, QUANT_F32);
    const kv_row f = s.k[0]->memory.layer[1].row;
    scene_begin(&s, (int[]){ 1 });
    for (int round = 0; round < 8; round++) {
        uint8_t row[1024];
        float want[MOST_K];
        for (int i = 0; i < f.n_round; i++) row[i] = (uint8_t)(37 * i + round) & (i % 37 ? 0xfe : 0x87);
        for (int g = 0; g < 7; g++) row[kv_row_scales(f) + g] = (uint8_t)(100 + 7 * round + g % 3);
        row[455] = 0;
        if (round == 7) row[100] = 0xff;
        for (int i = 0; i < 64; i++) {
            const uint16_t half = (uint16_t)((i * 977 + round * 4099) & 0xfbff);
            memcpy(row + kv_row_tail(f) + 2 * i, &half, 2);
        }
        scene_store(&s, scene_ring_row(&s, 0, 0), row);
        kv_row_unpack(f, want, row);
        CHECKED(s.b, attend, .q = q, .heads = heads, .sinks = sinks, .rows = &s.rows, .n_heads = h.n_heads,
                .n_swa = h.n_swa, .layer = 1);
        for (int i = 0; i < h.K && round < 7; i++) {
            const float got = view_f32(heads, 0)[i] * 2.0f;
            if (!(fabsf(got - want[i]) <= 3e-5f * fabsf(want[i])))
                test_fail(__FILE__, __LINE__, "round %d, number %d: %.9g, want %.9g", round, i, (double)got,
                          (double)want[i]);
        }
    }
    checked_free(s.b, q);
    checked_free(s.b, heads);
    checked_free(s.b, sinks);
    scene_close(&s);
}

/* ---- company ------------------------------------------------------------------------------- */

/* Up to 16 rows give each the bits that it has alone. */
static void alone_and_together(const scene_shape *h)
{
    ds4_error err;
    scene s;
    float *together = malloc((size_t)(h->n_heads * h->K) * sizeof *together),
        *alone = malloc((size_t)(h->n_heads * h->K) * sizeof *alone);
    scene_open(&s, h, 2, LANES_FORWARD);
    fill_session(&s, 0, 400, 51);
    fill_session(&s, 1, 90, 52);
    scene_begin(&s, (int[]){ 1, 9 });
    write_step(&s, 53);
    const view q = checked_random(s.b, 10, h->n_heads * h->K, 2.0f, 54),
        heads = checked_view(s.b, 10, h->n_heads * h->K, QUANT_F32);
    const view sinks = checked_random(s.b, 1, h->n_heads, 1.0f, 55);
    CHECKED(s.b, attend, .q = q, .heads = heads, .sinks = sinks, .rows = &s.rows, .n_heads = h->n_heads,
            .n_swa = h->n_swa,
            .ratio = h->ratio, .scale = 0.1f, .layer = 1);
    EXPECT_OK(s.b->download(s.b, together, view_rows(heads, 0, 1), &err), err);
    scene_begin(&s, (int[]){ 1, 0 });
    CHECKED(s.b, attend, .q = view_rows(q, 0, 1), .heads = view_rows(heads, 0, 1), .sinks = sinks, .rows = &s.rows,
            .n_heads = h->n_heads, .n_swa = h->n_swa, .ratio = h->ratio, .scale = 0.1f, .layer = 1);
    EXPECT_OK(s.b->download(s.b, alone, view_rows(heads, 0, 1), &err), err);
    EXPECT(memcmp(alone, together, (size_t)(h->n_heads * h->K) * sizeof *alone) == 0);
    checked_free(s.b, q);
    checked_free(s.b, heads);
    checked_free(s.b, sinks);
    free(together);
    free(alone);
    scene_close(&s);
}

TEST(a_row_has_the_same_bits_in_company)
{
    alone_and_together(&small);
    alone_and_together(&full);
}
