/* Kernels of indexer*.cu on the lane runner, against the scalar definitions. */
#include "scene.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/wrap.h"

/* ---- scores ------------------------------------------------------------------------------------ */

/* Every row of the indexer's pool becomes a row that compress might have stored. */
static void fill_keys(scene *s, uint64_t seed)
{
    ds4_error err;
    const kv_layer *l = &s->k[0]->memory.layer[1];
    const view pool = l->index_pool;
    const int width = l->index_row.width, bytes = kv_row_bytes(l->index_row);
    uint8_t *rows = malloc((size_t)pool.rows * (size_t)bytes);
    float *x = malloc((size_t)width * sizeof *x);
    random_stream r;
    random_seed(&r, seed);
    for (int64_t i = 0; i < pool.rows; i++) {
        for (int j = 0; j < width; j++) x[j] = (float)(random_normal(&r) * (i % 5 == 3 ? 1e-3 : 1.0));
        kv_row_pack(l->index_row, rows + (size_t)i * (size_t)bytes, x);
    }
    EXPECT_OK(s->b->upload(s->b, pool, rows, &err), err);
    free(rows);
    free(x);
}

/* Sessions grow by steps of at most SCENE_ROWS rows. */
static void grow(scene *s, const int *to)
{
    for (bool more = true; more;) {
        int n[SCENE_SESSIONS] = { 0 };
        more = false;
        for (int i = 0; i < s->n_sessions; i++) {
            n[i] = to[i] - s->k[i]->length;
            if (n[i] > SCENE_ROWS / SCENE_SESSIONS) n[i] = SCENE_ROWS / SCENE_SESSIONS;
            more |= n[i] > 0;
        }
        if (!more) return;
        scene_begin(s, n);
        scene_commit(s, n);
    }
}

typedef struct { int heads, width; bool packed; } indexer_shape;

static void check_scores(indexer_shape h, lane_order order)
{
    const scene_shape shape = { .ratio = 4, .K = 64, .n_rot = 16, .n_swa = 32, .index_dim = h.width, .n_heads = 4,
                                .packed = h.packed,
                                .max_tokens = 700, .index_heads = h.heads };
    scene s;
    scene_open(&s, &shape, 3, order);
    fill_keys(&s, 7);
    grow(&s, (int[]){ 2, 60, 530 });
    /* rows that see nothing, few, many; the last rows see whole tiles and more */
    const int n[] = { 6, 1, 3 };
    scene_begin(&s, n);
    const view q = checked_random(s.b, 10, h.heads * h.width, 1.0f, 1), w = checked_random(s.b, 10, h.heads, 1.0f, 2);
    view scores = checked_random(s.b, 10, 180, 1.0f, 3);
    const view selected = checked_view(s.b, 10, 24, QUANT_I32);
    CHECKED(s.b, index_scores, .q = q, .weights = w, .scores = scores, .rows = &s.rows, .n_heads = h.heads,
            .scale = 0.01f,
            .layer = 1, .ratio = 4);
    CHECKED(s.b, top_k, .scores = scores, .selected = selected, .rows = &s.rows, .ratio = 4, .layer = 1);
    /* Some of them, as a tile of a longer batch. */
    CHECKED(s.b, index_scores, .q = view_rows(q, 5, 3), .weights = view_rows(w, 5, 3),
            .scores = view_rows(scores, 0, 3),
            .rows = &s.rows, .first = 5, .n_heads = h.heads, .scale = 0.01f, .layer = 1, .ratio = 4);
    CHECKED(s.b, top_k, .scores = view_rows(scores, 0, 3), .selected = view_rows(selected, 0, 3), .rows = &s.rows,
            .first = 5,
            .ratio = 4, .layer = 1);
    scene_commit(&s, n);
    checked_free(s.b, q);
    checked_free(s.b, w);
    checked_free(s.b, scores);
    checked_free(s.b, selected);
    scene_close(&s);
}

TEST(scores_of_packed_rows_agree_for_every_shape)
{
    static const indexer_shape shapes[] = { { 64, 128, true }, { 4, 128, true }, { 9, 64, true }, { 3, 32, true },
                                            { 8, 256, true } };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++)
        for (int i = 0; i < 5; i++)
            if (i > 0 || order == LANES_SHUFFLED) check_scores(shapes[i], (lane_order)order);
}

TEST(scores_of_floats_and_of_narrow_rows_agree)
{
    static const indexer_shape shapes[] = { { 5, 64, false }, { 2, 16, false }, { 3, 16, true }, { 1, 8, true } };
    for (int i = 0; i < 4; i++) check_scores(shapes[i], i % 2 ? LANES_BACKWARD : LANES_SHUFFLED);
}

/* Queries far from one and without numbers become codes by the definition's rule. */
TEST(rough_queries_agree)
{
    const scene_shape shape = { .ratio = 4, .K = 64, .n_rot = 16, .n_swa = 32, .index_dim = 64, .n_heads = 4,
                                .packed = true,
                                .max_tokens = 200 };
    ds4_error err;
    scene s;
    scene_open(&s, &shape, 1, LANES_FORWARD);
    fill_keys(&s, 9);
    grow(&s, (int[]){ 100 });
    scene_begin(&s, (int[]){ 5 });
    const view q = checked_view(s.b, 5, 4 * 64, QUANT_F32), w = checked_random(s.b, 5, 4, 1.0f, 2);
    const view scores = checked_view(s.b, 5, 60, QUANT_F32);
    float x[5][256];
    random_stream r;
    random_seed(&r, 11);
    for (int i = 0; i < 5 * 256; i++) {
        const double v = random_normal(&r);
        (&x[0][0])[i] = (float)ldexp(v, i / 256 == 1 ? -100 : i / 256 == 2 ? 90 : i % 7);
        if (i / 256 == 3 && i % 40 == 5) (&x[0][0])[i] = NAN;
        if (i / 256 == 4) (&x[0][0])[i] = 0.0f;
    }
    EXPECT_OK(s.b->upload(s.b, q, x, &err), err);
    for (int t = 0; t < 5; t++)                 /* one by one: the tolerance is one over all rows */
        CHECKED(s.b, index_scores, .q = view_rows(q, t, 1), .weights = view_rows(w, t, 1),
                .scores = view_rows(scores, t, 1),
                .rows = &s.rows, .first = t, .n_heads = 4, .scale = 1.0f, .layer = 1, .ratio = 4);
    scene_commit(&s, (int[]){ 5 });
    checked_free(s.b, q);
    checked_free(s.b, w);
    checked_free(s.b, scores);
    scene_close(&s);
}

/* ---- the stage ---------------------------------------------------------------------------------- */

static void *kept(const view *v, int n)
{
    uint8_t *all = NULL;
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
        const size_t more = (size_t)v[i].rows * (size_t)v[i].cols * 4;
        all = realloc(all, bytes + more);
        memcpy(all + bytes, view_at(v[i], 0), more);
        bytes += more;
    }
    return all;
}

/* Under check: the stage is its definition; here it is put in, judged as a whole (products in floats differ too
 * little to round elsewhere), and compared to the bit with the ops that it replaces, five rows at a time. */
static void check_stage(indexer_shape h, int tile, lane_order order)
{
    enum { D = 64, RANK = 96, K = 20, T = 20 };
    const scene_shape shape = { .ratio = 4, .K = 64, .n_rot = 16, .n_swa = 32, .index_dim = h.width, .n_heads = 4,
                                .packed = h.packed,
                                .max_tokens = 400, .index_heads = h.heads };
    scene s;
    scene_open(&s, &shape, 3, order);
    backend *inner = ((wrapper *)s.b)->inner;
    cuda_backend *cuda = (cuda_backend *)inner;
    cuda->o.mirrored = false;
    cuda_indexer_stages(cuda);
    cuda->o.mirrored = true;

    fill_keys(&s, 13);
    grow(&s, (int[]){ 0, 350, 90 });
    const int n[] = { 9, 10, 1 };
    scene_begin(&s, n);
    const view x = checked_random(s.b, T, D, 1.0f, 1), latent = checked_random(s.b, T, RANK, 1.0f, 2);
    const view q = checked_view(s.b, T, h.heads * h.width, QUANT_F32), w = checked_view(s.b, T, h.heads, QUANT_F32);
    const view scores = checked_view(s.b, tile, 101, QUANT_F32), selected = checked_view(s.b, T, K, QUANT_I32);
    const select_rows_args a = {
        .x = x, .latent = latent, .q_b = checked_weight(s.b, h.heads * h.width, RANK, QUANT_F16, WEIGHT_MATRIX,
                                                        h.heads * h.width, 3),
        .proj = checked_weight(s.b, h.heads, D, QUANT_F16, WEIGHT_MATRIX, h.heads, 4), .q = q, .weights = w,
        .scores = scores,
        .selected = selected, .rows = &s.rows, .n_heads = h.heads, .ratio = 4, .scale = 0.02f, .rope = scene_rope(&s),
        .kind = h.packed ? ROUND_HADAMARD_FP4 : ROUND_NONE, .layer = 1 };
    EXPECT_OK(s.b->ops.select_rows(&s.b->queue, &a), s.b->queue.error);

    const view results[] = { q, selected };
    ds4_error err;
    void *fused = kept(results, 2);
    ops defaults;
    ops_default_stages(&defaults);
    select_rows_args few = a;
    few.scores = view_rows(scores, 0, 5);
    EXPECT_OK(defaults.select_rows(&inner->queue, &few), inner->queue.error);
    for (int i = 0; i < 2; i++) EXPECT_OK(inner->mirror(inner, results[i], &err), err);
    void *composed = kept(results, 2);
    EXPECT(!memcmp(fused, composed, (size_t)T * (size_t)(q.cols + K) * 4));
    free(fused);
    free(composed);
    scene_commit(&s, n);
    const view all[] = { x, latent, a.q_b, a.proj, q, w, scores, selected };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) checked_free(s.b, all[i]);
    scene_close(&s);
}

TEST(the_stage_is_its_definition_and_the_ops_it_replaces_to_the_bit)
{
    check_stage((indexer_shape){ 9, 64, true }, 16, LANES_SHUFFLED);
    check_stage((indexer_shape){ 4, 128, true }, 20, LANES_BACKWARD);
    check_stage((indexer_shape){ 3, 32, false }, 20, LANES_FORWARD);
}

/* ---- the choice ---------------------------------------------------------------------------------- */

enum { ROWS = 20 };

/* Scores of these kinds: distinct, few values, all equal, NaN, infinities, descending. */
static float score_of(random_stream *r, int kind, int i)
{
    switch (kind % 6) {
    case 0: return (float)random_normal(r);
    case 1: return (float)(int)(random_double(r) * 4.0) - 1.0f;
    case 2: return i % 2 ? 0.0f : -0.0f;
    case 3: return i % 4 ? NAN : (float)(i % 100);
    case 4: return i % 3 == 0 ? -INFINITY : i % 50 == 1 ? INFINITY : 1.0f;
    default: return 1.0f - (float)i * 1e-4f;
    }
}

static void check_top_k(backend *b, int cols, int k, int n, const int *visible)
{
    ds4_error err;
    const view scores = checked_view(b, n, cols, QUANT_F32), selected = checked_view(b, n, k, QUANT_I32);
    float *x = malloc((size_t)n * (size_t)cols * sizeof *x);
    int32_t pos[ROWS + 1] = { 0 }, token[ROWS + 1] = { 0 }, of[ROWS + 1] = { 0 };
    random_stream r;
    random_seed(&r, (uint64_t)(cols + k));
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < cols; i++) x[t * cols + i] = score_of(&r, t, i);
        pos[t + 1] = 4 * visible[t] + t % 3;
        if (visible[t] > 0) pos[t + 1]--;
    }
    const segment one = { .n = n + 1 };
    const batch_rows rows = { .n = n + 1, .pos = pos, .token = token, .segment_of = of, .segment = &one,
                              .n_segments = 1 };
    EXPECT_OK(b->upload(b, scores, x, &err), err);
    CHECKED(b, top_k, .scores = scores, .selected = selected, .rows = &rows, .first = 1, .ratio = 4);
    checked_free(b, scores);
    checked_free(b, selected);
    free(x);
}

static const backend_limits top_limits = { .max_rows = ROWS + 1, .max_cols = 64, .max_pairs = 1,
                                           .max_expert_width = 64, .n_experts = 1,
                                           .max_head_width = 64, .index_top_k = 512, .max_tokens = 4 * 20000 };

TEST(the_choice_agrees_at_its_edges_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&top_limits, false, (lane_order)order);
        const int small[12] = { 0, 1, 15, 16, 17, 40, 39, 40, 18, 40, 40, 16 };
        check_top_k(b, 40, 16, 12, small);
        const int some[6] = { 1000, 1000, 1000, 999, 1000, 700 };
        check_top_k(b, 1000, 512, 6, some);
        b->close(b);
    }
}

TEST(long_sessions_are_cut_into_slices_and_agree)
{
    backend *b = checked_open(&top_limits, false, LANES_SHUFFLED);
    const int visible[6] = { 20000, 8192, 8193, 20000, 16500, 20000 };
    check_top_k(b, 20000, 100, 6, visible);
    const int few[6] = { 0, 50, 512, 513, 8191, 16384 };
    check_top_k(b, 20000, 512, 6, few);
    b->close(b);
}

TEST(more_rows_than_candidates_fit_are_chosen_in_turns)
{
    backend *b = checked_open(&top_limits, false, LANES_FORWARD);
    int visible[ROWS];
    for (int t = 0; t < ROWS; t++) visible[t] = 8190 + 300 * t;
    check_top_k(b, 20000, 512, ROWS, visible);
    b->close(b);
}

TEST(a_choice_that_was_not_planned_for_is_refused)
{
    backend_limits small = top_limits;
    small.max_tokens = 400;
    backend *b = checked_open(&small, false, LANES_FORWARD);
    const view scores = checked_view(b, 1, 9000, QUANT_F32), selected = checked_view(b, 1, 8, QUANT_I32);
    const int32_t pos[1] = { 20 }, zero[1] = { 0 };
    const segment one = { .n = 1 };
    const batch_rows rows = { .n = 1, .pos = pos, .token = zero, .segment_of = zero, .segment = &one, .n_segments = 1 };
    EXPECT_INT(b->ops.top_k(&b->queue, &(top_k_args){ .scores = scores, .selected = selected, .rows = &rows,
                                                      .ratio = 4 }),
               DS4_EUNSUPPORTED);
    checked_free(b, scores);
    checked_free(b, selected);
    b->close(b);
}
