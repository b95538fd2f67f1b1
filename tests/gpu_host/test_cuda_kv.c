/* Kernels of kv.cu on the lane runner, against the scalar definitions. */
#include "scene.h"

#include "kernels/wrap.h"

#include <math.h>
#include <stdlib.h>

static const scene_shape plain = { .ratio = 4, .K = 64, .n_rot = 16, .n_swa = 32, .index_dim = 32, .n_heads = 4,
                                   .packed = true,
                                   .max_tokens = 600 };

TEST(rotation_agrees_with_its_definition_both_ways)
{
    static const struct { int heads, width, n_rot; } shapes[] = { { 1, 64, 16 }, { 5, 24, 2 }, { 64, 128, 64 },
                                                                  { 3, 33, 32 } };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++)
        for (int i = 0; i < 4; i++) {
            scene s;
            scene_shape h = plain;
            h.n_rot = shapes[i].n_rot;
            scene_open(&s, &h, 2, (lane_order)order);
            scene_begin(&s, (int[]){ 3, 2 });
            s.pos[3] = 77777;
            s.pos[4] = 1000000;
            const view x = checked_random(s.b, 5, shapes[i].heads * shapes[i].width, 2.0f, 3);
            for (int inverse = 0; inverse < 2; inverse++)
                CHECKED(s.b, rope_tail, .x = x, .n_heads = shapes[i].heads, .rope = scene_rope(&s), .inverse = inverse,
                        .rows = &s.rows);
            checked_free(s.b, x);
            scene_close(&s);
        }
}

/* Whole and half numbers make ties; some magnitudes are far out, some rows hold NaN. */
static void fill_rough(backend *b, view v, uint64_t seed)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, seed);
    float *x = malloc((size_t)v.rows * (size_t)v.cols * sizeof *x);
    for (int64_t i = 0; i < v.rows * v.cols; i++) {
        const int64_t row = i / v.cols;
        const double n = random_normal(&r);
        x[i] = (float)ldexp(row % 3 == 1 ? floor(n * 8) / 2 : n, row % 4 == 2 ? (int)random_below(&r, 60) - 40 : 0);
        if (row % 5 == 4) x[i] = i % 2 ? 0.0f : -0.0f;
        if (row == 6 && i % 17 == 3) x[i] = i % 2 ? NAN : INFINITY;
    }
    EXPECT_OK(b->upload(b, v, x, &err), err);
    free(x);
}

TEST(rounding_agrees_with_its_definition)
{
    static const struct { round_kind kind; int width, n_round; } shapes[] = {
        { ROUND_FP8, 64, 48 }, { ROUND_FP8, 512, 448 }, { ROUND_FP8, 96, 80 }, { ROUND_FP8, 70, 1 },
        { ROUND_NONE, 32, 32 },
        { ROUND_HADAMARD_FP4, 8, 0 }, { ROUND_HADAMARD_FP4, 16, 0 }, { ROUND_HADAMARD_FP4, 32, 0 },
        { ROUND_HADAMARD_FP4, 64, 0 },
        { ROUND_HADAMARD_FP4, 128, 0 }, { ROUND_HADAMARD_FP4, 256, 0 }, { ROUND_HADAMARD_FP4, 512, 0 } };
    scene s;
    scene_open(&s, &plain, 1, LANES_SHUFFLED);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const view x = checked_view(s.b, 9, shapes[i].width, QUANT_F32);
        fill_rough(s.b, x, 40 + i);
        CHECKED(s.b, kv_round, .x = x, .n_round = shapes[i].n_round, .kind = shapes[i].kind);
        checked_free(s.b, x);
    }
    scene_close(&s);
}

/* Bytes, not numbers: what one backend packs another must read, and files hold it. */
TEST(stored_rows_have_the_bytes_of_the_definition)
{
    static const struct { int K, n_rot; bool packed; } shapes[] = { { 64, 16, true }, { 512, 64, true },
                                                                    { 96, 20, true }, { 64, 16, false } };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        scene s;
        scene_shape h = plain;
        h.K = shapes[i].K;
        h.n_rot = shapes[i].n_rot;
        h.packed = shapes[i].packed;
        scene_open(&s, &h, 2, LANES_BACKWARD);
        uint8_t want[4096];
        for (int step = 0; step < 2; step++) {
            const int n[] = { 7, 2 };
            scene_begin(&s, n);
            const view x = checked_view(s.b, 9, h.K, QUANT_F32);
            fill_rough(s.b, x, 3 + (uint64_t)step);
            CHECKED(s.b, kv_write, .x = x, .rows = &s.rows, .layer = 1);
            const kv_row f = s.k[0]->memory.layer[1].row;
            for (int t = 0; t < 9; t++) {
                const uint8_t *got = view_at(scene_ring_row(&s, t >= 7, s.pos[t]), 0);
                kv_row_pack(f, want, view_f32(x, t));
                EXPECT(memcmp(got, want, (size_t)kv_row_bytes(f)) == 0 || t == 6);     /* NaN has many codes */
            }
            checked_free(s.b, x);
            scene_commit(&s, n);
        }
        scene_close(&s);
    }
}

/* ---- the compressor -------------------------------------------------------------------- */

static void compress_step(scene *s, const scene_shape *h, bool index, quant_type ape_type, uint64_t seed)
{
    const int width = index ? h->index_dim : h->K, cols = (h->ratio == 4 ? 2 : 1) * width;
    const view value = checked_random(s->b, s->rows.n, cols, 2.0f, seed),
        score = checked_random(s->b, s->rows.n, cols, 3.0f, seed + 1);
    const view norm = checked_random(s->b, 1, width, 1.0f, 5);
    view ape = checked_weight(s->b, h->ratio, cols, ape_type, WEIGHT_VECTOR, h->ratio, 6);
    CHECKED(s->b, compress, .value = value, .score = score, .ape = ape, .norm = norm, .rows = &s->rows, .index = index,
            .ratio = h->ratio, .width = width, .eps = 1e-6f, .rope = scene_rope(s),
            .kind = !h->packed ? ROUND_NONE : index ? ROUND_HADAMARD_FP4 : ROUND_FP8, .n_round = width - h->n_rot,
            .layer = 1);
    checked_free(s->b, value);
    checked_free(s->b, score);
    checked_free(s->b, norm);
    checked_free(s->b, ape);
}

static void compress_run(const scene_shape *h, lane_order order, quant_type ape_type)
{
    /* From nothing, within a block, across blocks, one by one, by more than a state holds, sessions apart. */
    static const int steps[][3] = { { 3, 1, 0 }, { 1, 0, 5 }, { 1, 12, 3 }, { 70, 1, 20 }, { 1, 1, 1 }, { 0, 128, 30 },
                                    { 5, 4, 1 },
                                    { 130, 2, 3 }, { 1, 1, 1 } };
    scene s;
    scene_open(&s, h, 3, order);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        scene_begin(&s, steps[i]);
        compress_step(&s, h, false, ape_type, 100 + 10 * i);
        if (h->ratio == 4) compress_step(&s, h, true, ape_type, 500 + 10 * i);
        scene_commit(&s, steps[i]);
    }
    scene_close(&s);
}

TEST(the_compressor_of_ratio_4_agrees_over_chunked_steps)
{
    compress_run(&plain, LANES_FORWARD, QUANT_F32);
    compress_run(&plain, LANES_SHUFFLED, QUANT_F16);
}

TEST(the_compressor_of_ratio_128_agrees_over_chunked_steps)
{
    scene_shape h = plain;
    h.ratio = 128;
    compress_run(&h, LANES_BACKWARD, QUANT_BF16);
}

TEST(the_compressor_keeps_floats_where_nothing_is_rounded)
{
    scene_shape h = plain;
    h.packed = false;
    compress_run(&h, LANES_SHUFFLED, QUANT_F32);
}

TEST(compressed_rows_of_the_full_width_agree)
{
    scene_shape h = plain;
    h.K = 512;
    h.n_rot = 64;
    h.index_dim = 128;
    scene s;
    scene_open(&s, &h, 2, LANES_SHUFFLED);
    for (int i = 0; i < 3; i++) {
        const int n[] = { 4 + 15 * (i == 1), 3 };
        scene_begin(&s, n);
        compress_step(&s, &h, false, QUANT_F32, 7 + (uint64_t)i);
        compress_step(&s, &h, true, QUANT_F32, 9 + (uint64_t)i);
        scene_commit(&s, n);
    }
    scene_close(&s);
}

/* ---- stages -------------------------------------------------------------------------------- */

static view matrix(scene *s, int rows, int cols, quant_type type, uint64_t seed)
{
    return checked_weight(s->b, rows, cols, type, WEIGHT_MATRIX, rows, seed);
}

typedef struct { int D, rank, groups, out_rank; quant_type type; } stage_shape;

/* kept: codes are, as within a step. */
static void stages(const scene_shape *h, const stage_shape *g, const int *n, lane_order order, bool kept)
{
    scene s;
    scene_open(&s, h, 2, order);
    cuda_codes_keep((cuda_backend *)((wrapper *)s.b)->inner, kept);
    scene_begin(&s, n);
    for (int t = n[0]; t < s.rows.n; t++) s.pos[t] += 500;         /* far on; the ring does not mind */
    const int T = s.rows.n, K = h->K, H = h->n_heads;
    const view x = checked_random(s.b, T, g->D, 1.0f, 1), latent = checked_view(s.b, T, g->rank, QUANT_F32);
    const view q = checked_view(s.b, T, H * K, QUANT_F32), row = checked_view(s.b, T, K, QUANT_F32);
    const view low = checked_view(s.b, T, g->groups * g->out_rank, QUANT_F32),
        y = checked_view(s.b, T, g->D, QUANT_F32);
    const view q_norm = checked_random(s.b, 1, g->rank, 1.0f, 2), norm = checked_random(s.b, 1, K, 1.0f, 3);
    const view weights[] = { matrix(&s, g->rank, g->D, g->type, 4), matrix(&s, H * K, g->rank, g->type, 5),
                             matrix(&s, K, g->D, g->type, 6),
                             matrix(&s, g->groups * g->out_rank, H * K / g->groups, g->type, 7),
                             matrix(&s, g->D, g->groups * g->out_rank, g->type, 8) };

    CHECKED(s.b, q_path, .x = x, .q_a = weights[0], .q_a_norm = q_norm, .q_b = weights[1], .latent = latent, .q = q,
            .rows = &s.rows,
            .n_heads = H, .eps = 1e-6f, .rope = scene_rope(&s), .layer = 1);
    CHECKED(s.b, kv_path, .x = x, .kv = weights[2], .norm = norm, .row = row, .rows = &s.rows, .eps = 1e-6f,
            .rope = scene_rope(&s),
            .kind = h->packed ? ROUND_FP8 : ROUND_NONE, .n_round = K - h->n_rot, .layer = 1);
    CHECKED(s.b, attn_out, .heads = q, .a = weights[3], .b = weights[4], .low = low, .y = y, .rows = &s.rows,
            .n_heads = H,
            .n_groups = g->groups, .rope = scene_rope(&s), .layer = 1);

    const view all[] = { x, latent, q, row, low, y, q_norm, norm, weights[0], weights[1], weights[2], weights[3],
                         weights[4] };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) checked_free(s.b, all[i]);
    scene_close(&s);
}

TEST(the_stages_around_attention_agree_with_their_compositions)
{
    static const stage_shape small = { .D = 256, .rank = 64, .groups = 2, .out_rank = 32, .type = QUANT_Q8_0 };
    static const stage_shape odd = { .D = 96, .rank = 32, .groups = 3, .out_rank = 10, .type = QUANT_F16 };
    scene_shape h = plain;
    for (int kept = 0; kept < 2; kept++) stages(&h, &small, (int[]){ 1, 0 }, LANES_FORWARD, kept);
    for (int kept = 0; kept < 2; kept++) stages(&h, &small, (int[]){ 3, 17 }, LANES_SHUFFLED, kept);
    h.exact = true;
    for (int kept = 0; kept < 2; kept++) stages(&h, &small, (int[]){ 2, 1 }, LANES_BACKWARD, kept);
    h.packed = false;
    h.n_heads = 9;
    for (int kept = 0; kept < 2; kept++) stages(&h, &odd, (int[]){ 0, 5 }, LANES_SHUFFLED, kept);
    h.K = 512;
    h.n_rot = 64;
    h.n_heads = 3;
    h.packed = true;
    for (int kept = 0; kept < 2; kept++) stages(&h, &odd, (int[]){ 1, 1 }, LANES_SHUFFLED, kept);
    h.n_heads = 4;
    h.exact = false;
    for (int kept = 0; kept < 2; kept++) stages(&h, &small, (int[]){ 2, 1 }, LANES_SHUFFLED, kept);
    h.K = 96;                                           /* a block of 256 numbers ends within a head */
    h.n_rot = 32;
    h.packed = false;
    for (int kept = 0; kept < 2; kept++) stages(&h, &small, (int[]){ 1, 2 }, LANES_BACKWARD, kept);
}
