/* Kernels of rows*.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/wrap.h"

static const backend_limits limits = { .max_rows = 40, .max_cols = 4096, .max_pairs = 16, .max_expert_width = 512,
                                       .n_experts = 8, .max_head_width = 64, .index_top_k = 8, .n_streams = 8 };

/* Columns skip.. of rows that are `gap` columns further apart than they are long. */
static view gapped(backend *b, int64_t rows, int cols, int skip, int gap, uint64_t seed)
{
    return view_cols(checked_random(b, rows, cols + skip + gap, 2.0f, seed), skip, cols);
}

TEST(rms_norm_agrees_with_its_definition_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        const int widths[] = { 1, 64, 100, 1022, 4096, 5000 };
        for (int i = 0; i < 6; i++) {
            const view x = gapped(b, 3, widths[i], i % 2, i % 3, 1), y = checked_view(b, 3, widths[i], QUANT_F32);
            const view w = checked_random(b, 1, widths[i], 1.0f, 2);
            CHECKED(b, rms_norm, .x = x, .y = y, .weight = w, .eps = 1e-6f, .name = "test");
            CHECKED(b, rms_norm, .x = x, .y = x, .eps = 1e-6f, .name = "in place");
            checked_free(b, x);
            checked_free(b, y);
            checked_free(b, w);
        }
        b->close(b);
    }
}

/* The check's tolerance is wide; the sum of squares has to be right to a few last bits. */
TEST(rms_norm_in_floats_is_within_a_millionth)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    const int n = 4096;
    const view x = checked_random(b, 1, n, 3.0f, 5), y = checked_view(b, 1, n, QUANT_F32);
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)view_f32(x, 0)[i] * view_f32(x, 0)[i];
    CHECKED(b, rms_norm, .x = x, .y = y, .eps = 1e-6f, .name = "test");
    for (int i = 0; i < n; i++) {
        const double want = view_f32(x, 0)[i] / sqrt(sum / n + 1e-6);
        EXPECT(fabs(view_f32(y, 0)[i] - want) <= 1e-6 * fabs(want));
    }
    checked_free(b, x);
    checked_free(b, y);
    b->close(b);
}

TEST(pairs_of_rows_agree_wherever_they_begin)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        const int widths[] = { 1, 33, 128, 2048 };
        for (int i = 0; i < 4; i++)
            for (int skip = 0; skip < 2; skip++) {
                const view u = gapped(b, 5, widths[i], skip, 3 * skip, 1), v = gapped(b, 5, widths[i], 0, 4, 2);
                const view y = gapped(b, 5, widths[i], 4, 0, 3);
                CHECKED(b, swiglu, .gate = u, .up = v, .y = y, .limit = 0.5f);
                CHECKED(b, swiglu, .gate = u, .up = v, .y = u);
                CHECKED(b, add, .a = u, .b = v, .y = y);
                CHECKED(b, add, .a = u, .b = v, .y = v);
                checked_free(b, u);
                checked_free(b, v);
                checked_free(b, y);
            }
        b->close(b);
    }
}

TEST(an_infinite_gate_is_clamped_like_in_the_definition)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    ds4_error err;
    const float odd[8] = { INFINITY, -INFINITY, NAN, 100.0f, -100.0f, 0.0f, -0.0f, 1.0f };
    const view g = checked_view(b, 1, 8, QUANT_F32), u = checked_random(b, 1, 8, 9.0f, 1);
    const view y = checked_view(b, 1, 8, QUANT_F32);
    EXPECT_OK(b->upload(b, g, odd, &err), err);
    CHECKED(b, swiglu, .gate = g, .up = u, .y = y, .limit = 7.0f);
    CHECKED(b, swiglu, .gate = g, .up = u, .y = y);
    checked_free(b, g);
    checked_free(b, u);
    checked_free(b, y);
    b->close(b);
}

TEST(embedded_rows_agree_for_every_type_of_table)
{
#define TYPE_OF(name, ...) QUANT_##name,
    static const quant_type types[] = { PLANES_TYPES(TYPE_OF) };
    const int32_t token[5] = { 3, 0, 6, 3, 1 }, pos[5] = { 0, 1, 2, 3, 4 }, of[5] = { 0 };
    const segment one = { .n = 5 };
    const batch_rows rows = { .n = 5, .token = token, .pos = pos, .segment_of = of, .segment = &one, .n_segments = 1 };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
            const view table = checked_weight(b, 7, 512, types[i], WEIGHT_ROWS, 7, i + 1);
            const view streams = checked_view(b, 5, 3 * 512, QUANT_F32);
            CHECKED(b, embed_rows, .table = table, .streams = streams, .rows = &rows, .n_streams = 3);
            checked_free(b, table);
            checked_free(b, streams);
        }
        b->close(b);
    }
}

TEST(more_embedded_rows_than_are_decoded_at_once_agree)
{
    enum { T = 300 };
    backend_limits many = limits;
    many.max_rows = T;
    many.max_cols = 64;
    int32_t token[T], pos[T], of[T] = { 0 };
    for (int t = 0; t < T; t++) token[t] = (pos[t] = t) * 7 % 11;
    const segment one = { .n = T };
    const batch_rows rows = { .n = T, .token = token, .pos = pos, .segment_of = of, .segment = &one, .n_segments = 1 };
    backend *b = checked_open(&many, false, LANES_BACKWARD);
    const view table = checked_weight(b, 11, 64, QUANT_Q5_1, WEIGHT_ROWS, 11, 1);
    const view streams = checked_view(b, T, 2 * 64, QUANT_F32);
    CHECKED(b, embed_rows, .table = table, .streams = streams, .rows = &rows, .n_streams = 2);
    checked_free(b, table);
    checked_free(b, streams);
    b->close(b);
}

/* ---- hyper-connections ----------------------------------------------------------------------- */

typedef struct {
    view streams, fn, base, scale, x, post, comb, y, weight;
    int  S, D;
} hc_case;

static hc_case hc_open(backend *b, int T, int S, int D, quant_type type, bool head)
{
    const int n_mix = head ? S : (2 + S) * S;
    return (hc_case){ .streams = checked_random(b, T, S * D, 1.0f, 1), .S = S, .D = D,
                      .fn = checked_weight(b, n_mix, S * D, type, WEIGHT_VECTOR, n_mix, 2),
                      .base = checked_random(b, 1, n_mix, 1.0f, 3),
                      .scale = checked_random(b, 1, head ? 1 : 3, 0.2f, 4),
                      .x = checked_view(b, T, D, QUANT_F32), .post = checked_view(b, T, S, QUANT_F32),
                      .comb = checked_view(b, T, S * S, QUANT_F32), .y = checked_random(b, T, D, 1.0f, 5),
                      .weight = checked_random(b, 1, D, 1.0f, 6) };
}

static void hc_close(backend *b, const hc_case *c)
{
    const view all[] = { c->streams, c->fn, c->base, c->scale, c->x, c->post, c->comb, c->y, c->weight };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) checked_free(b, all[i]);
}

#define MIX(c, iterations, is_head)                                                                            \
    .streams = (c).streams, .fn = (c).fn, .base = (c).base, .scale = (c).scale, .x = (c).x, .post = (c).post,  \
    .comb = (c).comb, .eps = 1e-6f, .hc_eps = 1e-3f, .n_streams = (c).S, .n_iterations = (iterations), \
    .head = (is_head), .name = "test"

static void check_hc(backend *b, int T, int S, int D, quant_type type)
{
    hc_case c = hc_open(b, T, S, D, type, false);
    CHECKED(b, hc_mix, MIX(c, 1, false));               /* before all ways of iterating meet */
    CHECKED(b, hc_pre, .mix = { MIX(c, 20, false) }, .norm = { .x = c.x, .y = c.y, .weight = c.weight, .eps = 1e-6f,
                                                               .name = "test" });
    CHECKED(b, hc_expand, .y = c.y, .streams = c.streams, .post = c.post, .comb = c.comb, .n_streams = S,
            .name = "test");
    hc_close(b, &c);
    c = hc_open(b, T, S, D, type, true);
    CHECKED(b, hc_mix, MIX(c, 0, true));
    hc_close(b, &c);
}

TEST(hyper_connections_agree_for_any_number_of_streams_and_rows)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        check_hc(b, 1, 4, 256, QUANT_F32);
        check_hc(b, 1, 4, 256, QUANT_F16);
        check_hc(b, 3, 4, 320, QUANT_BF16);
        check_hc(b, 2, 1, 64, QUANT_F32);
        check_hc(b, 2, 3, 30, QUANT_F32);                       /* rows that can not be read four at a time */
        check_hc(b, 1, 5, 33, QUANT_F16);
        check_hc(b, 9, 8, 32, QUANT_F32);
        check_hc(b, 17, 2, 600, QUANT_BF16);                    /* long slices, three groups of eight rows  */
        b->close(b);
    }
}

/* A row's numbers are the same bits alone and among others, up to sixteen. */
TEST(a_rows_control_does_not_depend_on_the_other_rows)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    hc_case c = hc_open(b, 16, 4, 128, QUANT_F32, false);
    CHECKED(b, hc_pre, .mix = { MIX(c, 20, false) }, .norm = { .x = c.x, .y = c.y, .weight = c.weight, .eps = 1e-6f,
                                                               .name = "test" });
    float x[16][128], comb[16][16];
    for (int t = 0; t < 16; t++) {
        memcpy(x[t], view_f32(c.y, t), sizeof x[t]);
        memcpy(comb[t], view_f32(c.comb, t), sizeof comb[t]);
    }
    for (int t = 0; t < 16; t += 5) {
        hc_case one = c;
        view *const rows[] = { &one.streams, &one.x, &one.post, &one.comb, &one.y };
        for (int i = 0; i < 5; i++) *rows[i] = view_rows(*rows[i], t, 1);
        CHECKED(b, hc_pre, .mix = { MIX(one, 20, false) },
                .norm = { .x = one.x, .y = one.y, .weight = one.weight, .eps = 1e-6f, .name = "test" });
        EXPECT(!memcmp(x[t], view_f32(one.y, 0), sizeof x[t]));
        EXPECT(!memcmp(comb[t], view_f32(one.comb, 0), sizeof comb[t]));
    }
    hc_close(b, &c);
    b->close(b);
}

/* Codes of rows, those that are kept or else new ones, as bytes. */
static size_t codes_bytes(backend *b, view x, quant_type weight, uint8_t *out)
{
    cuda_backend *cuda = (cuda_backend *)b;
    ds4_error err;
    gpu_codes q;
    cuda_op(cuda);
    EXPECT_OK(cuda_done(&b->queue, cuda_codes_of(&b->queue, x, weight, &q)), b->queue.error);
    EXPECT_OK(b->wait(b, &err), err);
    const uint64_t n = (uint64_t)x.rows * (uint64_t)x.cols;
    const gpu_piece pieces[] = { { q.codes, out, n }, { q.scale, out + n, n / 8 }, { q.sum, out + n + n / 8, n / 8 } };
    EXPECT_OK(cuda->device->transfer(cuda->device, false, pieces, 3, &err), err);
    return n + n / 4;
}

static int kept_sets(const backend *b)
{
    int n = 0;
    for (int i = 0; i < CUDA_CODES_SETS; i++) n += ((const cuda_backend *)b)->codes.set[i].at != 0;
    return n;
}

/* Those that a norm has left must be those that a launch of their own makes. */
static void expect_codes(backend *b, view y, int wanted_sets)
{
    static uint8_t kept[2][1 << 16], made[1 << 16];
    const quant_type types[] = { QUANT_Q8_0, QUANT_IQ2_XXS };
    size_t n[2];
    EXPECT_INT(kept_sets(b), wanted_sets);
    for (int i = 0; i < wanted_sets; i++) n[i] = codes_bytes(b, y, types[i], kept[i]);
    EXPECT_INT(kept_sets(b), wanted_sets);
    cuda_codes_keep((cuda_backend *)b, false);
    for (int i = 0; i < wanted_sets; i++) {
        codes_bytes(b, y, types[i], made);
        EXPECT(!memcmp(kept[i], made, n[i]));
    }
}

TEST(a_norm_leaves_the_codes_that_the_next_products_want)
{
    const int widths[] = { 96, 512, 1280 };
    const quant_type next[] = { QUANT_Q8_0, QUANT_IQ2_XXS };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *check = checked_open(&limits, false, (lane_order)order), *b = ((wrapper *)check)->inner;
        for (int i = 0; i < 3; i++) {
            const int sets = widths[i] % 256 ? 1 : 2;
            hc_case c = hc_open(check, 3, 4, widths[i], QUANT_F16, false);
            cuda_codes_keep((cuda_backend *)b, true);
            CHECKED(check, hc_pre, .mix = { MIX(c, 20, false) },
                    .norm = { .x = c.x, .y = c.y, .weight = c.weight, .eps = 1e-6f, .name = "test" },
                    .next = { QUANT_Q8_0, QUANT_IQ2_XXS });
            expect_codes(b, c.y, sets);

            cuda_codes_keep((cuda_backend *)b, true);
            const rms_norm_args norm = { .x = c.x, .y = c.x, .weight = c.weight, .eps = 1e-6f, .name = "test" };
            EXPECT_OK(cuda_rms_norm(&b->queue, &norm, next, 2), b->queue.error);
            expect_codes(b, c.x, sets);
            hc_close(check, &c);
        }
        check->close(check);
    }
}

/* ---- an expansion and the mix behind it ------------------------------------------------------ */

/* Rows of streams, x, y, post and comb as they are on the device, one after another. */
static int brought(backend *b, const hc_case *c, float *out)
{
    const view all[] = { c->streams, c->x, c->y, c->post, c->comb };
    ds4_error err;
    int n = 0;
    EXPECT_OK(b->wait(b, &err), err);
    for (int i = 0; i < 5; i++) {
        EXPECT_OK(b->download(b, out + n, all[i], &err), err);
        n += (int)all[i].rows * all[i].cols;
    }
    return n;
}

/* Expansion with what an earlier mix left, then the next mix. together: as within a step. */
static int expand_and_mix(backend *b, hc_case c, bool together, bool head, float *out)
{
    const view y = checked_random(b, c.y.rows, c.y.cols, 1.0f, 9);
    const hc_expand_args expand = { .y = y, .streams = c.streams, .post = c.post, .comb = c.comb, .n_streams = c.S };
    ds4_error err;
    float *numbers = calloc((size_t)c.streams.rows * (size_t)c.streams.cols, sizeof *numbers);
    for (int64_t i = 0; i < c.streams.rows * c.streams.cols; i++) numbers[i] = (float)(i % 23) / 11.0f - 1.0f;
    EXPECT_OK(b->upload(b, c.streams, numbers, &err), err);
    EXPECT_OK(b->upload(b, c.post, numbers, &err), err);
    EXPECT_OK(b->upload(b, c.comb, numbers + 5, &err), err);
    free(numbers);
    cuda_codes_keep((cuda_backend *)b, together);
    EXPECT_OK(b->ops.hc_expand(&b->queue, &expand), b->queue.error);
    EXPECT_INT(((cuda_backend *)b)->expansion.waits, together);
    const hc_pre_args pre = { .mix = { MIX(c, 3, head) }, .norm = { .x = c.x, .y = c.y, .weight = c.weight, .eps = 1e-6f,
                                                                    .name = "test" } };
    EXPECT_OK(b->ops.hc_pre(&b->queue, &pre), b->queue.error);
    EXPECT(!((cuda_backend *)b)->expansion.waits);
    cuda_codes_keep((cuda_backend *)b, false);
    const int n = brought(b, &c, out);
    checked_free(b, y);
    return n;
}

TEST(an_expansion_with_the_mix_behind_it_is_the_two_one_after_the_other)
{
    enum { MOST = 1 << 17 };
    static float one[MOST], two[MOST];
    const struct { int T, D; quant_type type; bool head; } cases[] = {
        { 1, 64, QUANT_F16, false }, { 3, 96, QUANT_F32, false }, { 16, 160, QUANT_BF16, false }, { 1, 1024, QUANT_F16, false },
        { 2, 32, QUANT_F16, true },
    };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            ds4_error err;
            gpu_device *d;
            backend *b;
            EXPECT_OK(fake_device_open(&d, &(fake_options){ .order = (lane_order)order, .seed = i }, &err), err);
            EXPECT_OK(cuda_open_on(&b, d, &(backend_options){ .name = "cuda", .limits = limits }, &err), err);
            hc_case c = hc_open(b, cases[i].T, 4, cases[i].D, cases[i].type, cases[i].head);
            const int n = expand_and_mix(b, c, false, cases[i].head, one);
            EXPECT_INT(expand_and_mix(b, c, true, cases[i].head, two), n);
            const int streams = cases[i].T * 4 * cases[i].D;
            EXPECT(!memcmp(one, two, (size_t)streams * sizeof *one));
            for (int k = streams; k < n; k++) EXPECT(fabsf(one[k] - two[k]) <= 1e-4f * (1.0f + fabsf(one[k])));
            hc_close(b, &c);
            b->close(b);
        }
}

/* Alone and among fifteen others, to the bit; and any other op first has the expansion that waits done. */
TEST(an_expansion_that_waits_is_done_before_any_other_op)
{
    enum { T = 16, D = 64 };
    static float all[1 << 15], alone[1 << 12];
    ds4_error err;
    gpu_device *d;
    backend *b;
    EXPECT_OK(fake_device_open(&d, &(fake_options){ 0 }, &err), err);
    EXPECT_OK(cuda_open_on(&b, d, &(backend_options){ .name = "cuda", .limits = limits }, &err), err);
    hc_case c = hc_open(b, T, 4, D, QUANT_F16, false);
    expand_and_mix(b, c, true, false, all);
    hc_case one = c;
    view *const rows[] = { &one.streams, &one.x, &one.post, &one.comb, &one.y };
    for (int i = 0; i < 5; i++) *rows[i] = view_rows(*rows[i], 0, 1);
    expand_and_mix(b, one, true, false, alone);
    EXPECT(!memcmp(all, alone, 4 * D * sizeof *all));
    EXPECT(!memcmp(all + T * 4 * D, alone + 4 * D, D * sizeof *all));

    cuda_codes_keep((cuda_backend *)b, true);
    const view y = checked_random(b, T, D, 1.0f, 9), sum = checked_view(b, T, 4 * D, QUANT_F32);
    EXPECT_OK(b->ops.hc_expand(&b->queue, &(hc_expand_args){ .y = y, .streams = c.streams, .post = c.post, .comb = c.comb,
                                                             .n_streams = 4 }), b->queue.error);
    EXPECT_OK(b->copy(b, sum, c.streams, &err), err);
    EXPECT(!((cuda_backend *)b)->expansion.waits);
    EXPECT_OK(b->wait(b, &err), err);
    EXPECT_OK(b->download(b, all, c.streams, &err), err);
    EXPECT_OK(b->download(b, all + T * 4 * D, sum, &err), err);
    EXPECT(!memcmp(all, all + T * 4 * D, T * 4 * D * sizeof *all));
    checked_free(b, y);
    checked_free(b, sum);
    hc_close(b, &c);
    b->close(b);
}

TEST(more_streams_than_there_is_room_for_are_refused)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    const view none = checked_view(b, 1, 128, QUANT_F32);
    EXPECT_INT(b->ops.hc_expand(&b->queue, &(hc_expand_args){ .y = none, .streams = none, .n_streams = 9, .name = "" }),
               DS4_EUNSUPPORTED);
    checked_free(b, none);
    b->close(b);
}
