/* The CPU ops against numbers that were computed elsewhere: the golden values of
 * docs/model.md section 6 (made with numpy, float64 unless a rounding is tested). */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/shared/formulas.h"
#include "model/config.h"

static backend *open_cpu(uint32_t isa)
{
    backend *b = NULL;
    ds4_error err;
    const backend_options o = { .name = "cpu", .n_threads = 2, .isa_mask = isa,
                                .limits = { .max_rows = 8, .max_cols = 2048, .max_pairs = 16, .max_expert_width = 512,
                                            .n_experts = 8, .max_head_width = 64, .index_top_k = 8 } };
    EXPECT_OK(backend_open(&b, &o, &err), err);
    return b;
}

/* A view over floats of the test. */
static view over(backend *b, buf **store, float *data, int64_t n, int cols)
{
    ds4_error err;
    EXPECT_OK(b->buf_map(b, data, (uint64_t)n * (uint64_t)cols * sizeof *data, store, &err), err);
    return (view){ .buf = *store, .rows = n, .cols = cols, .type = QUANT_F32, .stride = (uint64_t)cols * 4 };
}

TEST(fp8_rounding_matches_published_values)
{
    backend *b = open_cpu(0);
    buf *m;
    float x[64];
    for (int i = 0; i < 64; i++) x[i] = ((float)i - 31.5f) * 0.013f;
    const view v = over(b, &m, x, 1, 64);
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .n_round = 64, .kind = ROUND_FP8 }));
    const float got[] = { x[0], x[1], x[5], x[20], x[31] };
    const float want[] = { -0.40625f, -0.40625f, -0.34375f, -0.15625f, -0.00634766f };
    EXPECT_NEAR(got, want, 5, 1e-8, "FP8 of (i-31.5)*0.013");
    b->buf_free(b, m);
    b->close(b);
}

TEST(fp8_blocks_that_do_not_divide_the_width_are_shorter)
{
    backend *b = open_cpu(0);
    buf *m;
    float x[96];
    for (int i = 0; i < 96; i++) x[i] = i < 64 ? 448.0f : 0.001f;   /* one scale would flush the tail */
    const view v = over(b, &m, x, 1, 96);
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .n_round = 80, .kind = ROUND_FP8 }));
    EXPECT(x[0] == 448.0f);
    EXPECT(fabsf(x[70] - 0.001f) < 0.0001f && x[70] != 0.0f);
    EXPECT(x[80] == 0.001f && x[95] == 0.001f);                     /* beyond n_round: untouched */
    b->buf_free(b, m);
    b->close(b);
}

TEST(hadamard_matches_published_values)
{
    backend *b = open_cpu(0);
    buf *m;
    float x[128];
    for (int i = 0; i < 128; i++) x[i] = (float)i;
    const view v = over(b, &m, x, 1, 128);
    /* The transform is followed by FP4, whose grid these magnitudes reach within 1/6. */
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .kind = ROUND_HADAMARD_FP4 }));
    static const struct { int at; float y; } want[] = {
        { 0, 718.4205f }, { 32, -181.01933f }, { 64, -362.03867f } };
    for (int i = 0; i < 3; i++) EXPECT(fabsf(x[want[i].at] - want[i].y) <= fabsf(want[i].y) / 6);
    EXPECT(x[3] == 0.0f && x[127] == 0.0f);
    b->buf_free(b, m);
    b->close(b);
}

TEST(fp4_rounding_goes_to_the_even_code)
{
    static const float in[]   = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f, 0.26f, 4.9f, 5.1f };
    static const float want[] = { 0.0f,  1.0f,  1.0f,  2.0f,  2.0f, 4.0f, 4.0f, 6.0f, 0.5f,  4.0f, 6.0f };
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) {
        EXPECT(formula_round_e2m1(in[i]) == want[i]);
        EXPECT(formula_round_e2m1(-in[i]) == -want[i]);
    }
}

/* Nearest of all E4M3 values by search, ties to the even code. */
static float nearest_e4m3(float x)
{
    float best = 0.0f;
    int best_code = 0;
    for (int code = 0; code < 127; code++) {
        const int e = code >> 3, m = code & 7;
        const float v = e ? ldexpf(1.0f + (float)m / 8.0f, e - 7) : ldexpf((float)m, -9);
        const float d = fabsf(v - x), db = fabsf(best - x);
        if (d < db || (d == db && code % 2 == 0 && best_code % 2 == 1)) {
            best = v;
            best_code = code;
        }
    }
    return best;
}

TEST(fp8_rounding_equals_a_search_over_all_values)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < 20000; i++) {
        float x = (float)(random_double(&r) * exp2(random_double(&r) * 20 - 11));
        if (i % 4 == 0) x = (float)i / 8192.0f;                     /* many exact ties */
        if (x > 448.0f) continue;
        EXPECT(formula_round_e4m3(x) == nearest_e4m3(x));
        EXPECT(formula_round_e4m3(-x) == -nearest_e4m3(x));
    }
}

TEST(rope_matches_published_values)
{
    model_config *c = calloc(1, sizeof *c);
    *c = (model_config){ .n_rot = 64, .rope_base = 10000, .compress_rope_base = 160000, .rope_factor = 16,
                         .rope_beta_fast = 32, .rope_beta_slow = 1, .rope_original_ctx = 65536 };
    config_fill_rope(c);
    static const struct { int k; double scaled; } yarn[] = {
        { 0, 1.0 }, { 1, 0.68765604 }, { 14, 0.0052868561 }, { 15, 0.0036355385 }, { 16, 0.0022656249 },
        { 17, 0.0013968013 }, { 20, 0.00029697779 }, { 24, 1.9531249e-05 }, { 25, 5.3723129e-06 }, { 31, 5.6805288e-07 } };
    static const struct { int k; double plain; } base[] = {
        { 1, 0.74989420 }, { 15, 0.013335215 }, { 16, 0.01 }, { 20, 0.0031622779 }, { 31, 0.00013335215 } };
    for (size_t i = 0; i < sizeof yarn / sizeof yarn[0]; i++)
        EXPECT(fabs(c->rope_scaled[yarn[i].k] / yarn[i].scaled - 1) < 2e-7);
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++)
        EXPECT(fabs(c->rope_plain[base[i].k] / base[i].plain - 1) < 2e-7);

    /* x[448+j] = j/64 at position 1000; channels 0,1 30,31 62,63 of the tail */
    static const int at[6] = { 0, 1, 30, 31, 62, 63 };
    static const float want[2][6] = {
        { -0.01291999f, 0.00878717f, -0.18307577f, -0.6487133f, 0.96819067f, 0.98492515f },
        { -0.01291999f, 0.00878717f, 0.00010997f, 0.6740517f, 0.8292694f, 1.1044378f } };
    backend *b = open_cpu(0);
    for (int plain = 0; plain < 2; plain++) {
        float x[512] = { 0 };
        for (int j = 0; j < 64; j++) x[448 + j] = (float)j / 64;
        buf *m;
        const int32_t pos = 1000, token = 0, seg = 0;
        const batch_rows rows = { .n = 1, .pos = &pos, .token = &token, .segment_of = &seg };
        rope_tail_args a = { .x = over(b, &m, x, 1, 512), .n_heads = 1, .rows = &rows,
                             .rope = { plain ? c->rope_plain : c->rope_scaled, 64 } };
        EXPECT(!b->ops.rope_tail(&b->queue, &a));
        float got[6];
        for (int i = 0; i < 6; i++) got[i] = x[448 + at[i]];
        EXPECT_NEAR(got, want[plain], 6, 5e-7, "rope at 1000, %s", plain ? "plain" : "scaled");
        a.inverse = true;                           /* and back */
        EXPECT(!b->ops.rope_tail(&b->queue, &a));
        float start[64];
        for (int j = 0; j < 64; j++) start[j] = (float)j / 64;
        EXPECT_NEAR(x + 448, start, 64, 2e-7, "rotated back");
        b->buf_free(b, m);
    }
    b->close(b);
    free(c);
}

TEST(sinkhorn_matches_published_values)
{
    /* fn = 0 leaves comb = base: Z of the published example. */
    static const float z[16] = { .1f, -.3f, .5f, .2f, 1, 0, -1, .4f, .3f, .3f, -.2f, .9f, -.6f, .8f, .1f, 0 };
    static const float want[16] = {
        0.20577530f, 0.14669958f, 0.43446198f, 0.21306213f, 0.47687913f, 0.18658119f, 0.09134113f, 0.24519754f,
        0.21602682f, 0.22975246f, 0.18543983f, 0.36877990f, 0.10131775f, 0.43696577f, 0.28875605f, 0.17295943f };
    backend *b = open_cpu(0);
    float streams[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, fn[24 * 8] = { 0 }, base[24] = { 0 }, scale[3] = { 1, 1, 1 };
    float x[2], post[4], comb[16];
    memcpy(base + 8, z, sizeof z);
    buf *m[7];
    const hc_mix_args a = {
        .streams = over(b, &m[0], streams, 1, 8), .fn = over(b, &m[1], fn, 24, 8), .base = over(b, &m[2], base, 1, 24),
        .scale = over(b, &m[3], scale, 1, 3), .x = over(b, &m[4], x, 1, 2), .post = over(b, &m[5], post, 1, 4),
        .comb = over(b, &m[6], comb, 1, 16), .eps = 1e-6f, .hc_eps = 1e-6f, .n_streams = 4, .n_iterations = 20,
        .name = "" };
    EXPECT(!b->ops.hc_mix(&b->queue, &a));
    EXPECT_NEAR(comb, want, 16, 2e-7, "sinkhorn");
    const float pre = 0.5f + 1e-6f, sums[2] = { pre * (1 + 3 + 5 + 7), pre * (2 + 4 + 6 + 8) };
    EXPECT_NEAR(x, sums, 2, 1e-5, "collapsed streams");
    EXPECT(post[0] == 1.0f);
    for (int i = 0; i < 7; i++) b->buf_free(b, m[i]);
    b->close(b);
}

TEST(router_keeps_ties_low_and_weights_without_bias)
{
    backend *b = open_cpu(0);
    float logits[8] = { 0, 3, 3, 3, -5, -30, 25, 0 }, bias[8] = { 0, 0, 0, 0, 0, 0, -100, 0 }, w[3];
    int32_t ids[3];
    buf *m[4];
    view iv = over(b, &m[0], (float *)ids, 1, 3);
    iv.type = QUANT_I32;
    const int32_t pos = 0, token = 0, seg = 0;
    const batch_rows rows = { .n = 1, .pos = &pos, .token = &token, .segment_of = &seg };
    const router_args a = { .logits = over(b, &m[1], logits, 1, 8), .bias = over(b, &m[2], bias, 1, 8), .ids = iv,
                            .weights = over(b, &m[3], w, 1, 3), .rows = &rows, .scale = 1.5f };
    EXPECT(!b->ops.router(&b->queue, &a));
    EXPECT_INT(ids[0], 1);
    EXPECT_INT(ids[1], 2);
    EXPECT_INT(ids[2], 3);
    const float want[3] = { 0.5f, 0.5f, 0.5f };
    EXPECT_NEAR(w, want, 3, 1e-6, "three equal weights times 1.5");

    /* sqrt(softplus) at published points, through the weights of two experts */
    static const struct { float z, y; } points[] = { { -30, 3.0590232e-07f }, { -5, 0.08194723f }, { 0, 0.83255461f },
                                                     { 3, 1.7460204f }, { 25, 5.0f } };
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        logits[0] = points[i].z;
        bias[0] = 1000;
        EXPECT(!b->ops.router(&b->queue, &a));
        const double other = 1.7460204, sum = points[i].y + 2 * other;
        const float got = w[0], expect = (float)(points[i].y / sum * 1.5);
        EXPECT_NEAR(&got, &expect, 1, 2e-7, "score of %g", (double)points[i].z);
    }
    for (int i = 0; i < 4; i++) b->buf_free(b, m[i]);
    b->close(b);
}

TEST(top_k_takes_lower_rows_on_ties_and_visible_rows_only)
{
    backend *b = open_cpu(0);
    float scores[2][20];
    int32_t chosen[2][4];
    for (int i = 0; i < 20; i++) scores[0][i] = scores[1][i] = i == 15 ? 9.0f : i % 2 ? 0.0f : -0.0f;
    scores[1][3] = -1.0f;
    buf *m[2];
    view sel = over(b, &m[0], (float *)chosen, 2, 4);
    sel.type = QUANT_I32;
    const int32_t pos[2] = { 39, 11 }, token[2] = { 0 }, seg[2] = { 0 };
    const batch_rows rows = { .n = 2, .pos = pos, .token = token, .segment_of = seg };
    EXPECT(!b->ops.top_k(&b->queue, &(top_k_args){ .scores = over(b, &m[1], scores[0], 2, 20), .selected = sel,
                                                   .rows = &rows, .ratio = 4 }));
    /* row 0 sees 10 rows, all tied: the first four */
    for (int i = 0; i < 4; i++) EXPECT_INT(chosen[0][i], i);
    /* row 1 sees 3 rows: all of them, then nothing */
    static const int32_t want[4] = { 0, 1, 2, -1 };
    for (int i = 0; i < 4; i++) EXPECT_INT(chosen[1][i], want[i]);
    for (int i = 0; i < 2; i++) b->buf_free(b, m[i]);
    b->close(b);
}

TEST(top_logits_descend_with_ties_to_the_lower_id_and_no_regard_for_nan)
{
    backend *b = open_cpu(0);
    float logits[4][6] = { { 1.0f, 3.0f, -2.0f, 3.0f, NAN, 2.0f }, { NAN, NAN, NAN, NAN, NAN, NAN },
                           { 0.0f, -0.0f, INFINITY, 0.0f, INFINITY, -INFINITY }, { -0.0f, 0.0f, -1.0f, -1.0f, -1.0f, -1.0f } };
    int32_t ids[4][3];
    float values[4][3], norm[4][2];
    buf *m[4];
    view id = over(b, &m[1], (float *)ids, 4, 3);
    id.type = QUANT_I32;
    EXPECT(!b->ops.top_logits(&b->queue, &(top_logits_args){ .logits = over(b, &m[0], logits[0], 4, 6), .ids = id,
                                                             .values = over(b, &m[2], values[0], 4, 3),
                                                             .norm = over(b, &m[3], norm[0], 4, 2) }));
    static const int32_t want[4][3] = { { 1, 3, 5 }, { 0, 1, 2 }, { 2, 4, 0 }, { 0, 1, 2 } };
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < 3; j++) {
            EXPECT_INT(ids[t][j], want[t][j]);
            EXPECT(!memcmp(&values[t][j], &logits[t][want[t][j]], 4));
        }
    const float sums[4] = { (float)(2.0 + exp(-1.0) + exp(-2.0) + exp(-5.0)), 0.0f, 2.0f,
                            (float)(2.0 + 4.0 * exp(-1.0)) };
    const float most[4] = { 3.0f, -INFINITY, INFINITY, 0.0f };
    for (int t = 0; t < 4; t++) EXPECT(norm[t][0] == most[t] && fabsf(norm[t][1] - sums[t]) < 1e-6f);
    for (int i = 0; i < 4; i++) b->buf_free(b, m[i]);
    b->close(b);
}

/* An add that is off in one element. */
static ds4_status wrong_add(queue *dev, const add_args *a)
{
    (void)dev;
    for (int i = 0; i < a->y.cols; i++)
        view_f32(a->y, 0)[i] = view_f32(a->a, 0)[i] + view_f32(a->b, 0)[i] + (float)(i == 6);
    return DS4_OK;
}

TEST(a_planted_difference_is_named_by_check)
{
    ds4_error err;
    backend_options o = { .name = "cpu", .n_threads = 1, .isa_mask = ~0u,
                          .limits = { .max_rows = 4, .max_cols = 64, .max_pairs = 4, .max_expert_width = 64,
                                      .n_experts = 2, .max_head_width = 8 } };
    backend *cpu, *check;
    EXPECT_OK(backend_cpu_open(&cpu, &o, &err), err);
    cpu->ops.add = wrong_add;
    REQUIRE_OK(backend_check_open(&check, cpu, &o, &err), err);
    float a[8], c[8], y[8];
    for (int i = 0; i < 8; i++) a[i] = c[i] = (float)i;
    buf *m[3];
    const add_args args = { .a = over(check, &m[0], a, 1, 8), .b = over(check, &m[1], c, 1, 8),
                            .y = over(check, &m[2], y, 1, 8), .layer = 5 };
    EXPECT_INT(check->ops.add(&check->queue, &args), DS4_EDEVICE);
    EXPECT(strstr(check->queue.error.message, "add") && strstr(check->queue.error.message, "layer 5"));
    EXPECT(strstr(check->queue.error.message, "y[0][6]") != NULL);
    for (int i = 0; i < 3; i++) check->buf_free(check, m[i]);
    check->close(check);
}
