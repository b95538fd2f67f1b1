/* Kernels of head.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <math.h>
#include <stdlib.h>

static const backend_limits limits = { .max_rows = 8, .max_cols = 1024, .max_pairs = 16, .max_expert_width = 512,
                                       .n_experts = 8, .max_head_width = 64, .index_top_k = 8, .n_vocab = 20000 };

/* What a row of logits may look like. */
static float logit_of(random_stream *r, int kind, int i)
{
    switch (kind) {
    case 0: return (float)(8.0 * random_double(r) - 4.0);
    case 1: return (float)(int)(5.0 * random_double(r)) - 2.0f;         /* many ties, zeros of both signs */
    case 2: return i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : (float)i;
    case 3: return NAN;
    case 4: return i % 1000 == 7 ? INFINITY : -0.0f;
    default: return -(float)i * 1e-3f;                                  /* already in order */
    }
}
enum { KINDS = 6 };

static void check_top(backend *b, int V, int k, int stride)
{
    ds4_error err;
    view logits = checked_view(b, KINDS, stride, QUANT_F32);
    const view ids = checked_view(b, KINDS, k, QUANT_I32), values = checked_view(b, KINDS, k, QUANT_F32);
    const view norm = checked_view(b, KINDS, 2, QUANT_F32);
    float *x = malloc((size_t)KINDS * (size_t)stride * sizeof *x);
    random_stream r;
    random_seed(&r, (uint64_t)(V + k));
    for (int t = 0; t < KINDS; t++)
        for (int i = 0; i < stride; i++) x[t * stride + i] = i < V ? logit_of(&r, t, i) : 1e9f;
    EXPECT_OK(b->upload(b, logits, x, &err), err);
    logits = view_cols(logits, 0, V);
    CHECKED(b, top_logits, .logits = logits, .ids = ids, .values = values, .norm = norm);
    for (int t = 0; t < KINDS; t++) {                           /* the tolerance of a check is one over all rows */
        double sum = 0.0;
        float top = -INFINITY;
        for (int i = 0; i < V; i++) top = fmaxf(top, x[t * stride + i]);
        for (int i = 0; i < V; i++) {
            const float v = x[t * stride + i];
            sum += isnan(v) ? 0.0 : v == top ? 1.0 : exp((double)v - top);
        }
        EXPECT(view_f32(norm, t)[0] == top);
        /* sums of floats in a tree, exponentials within 2 ulp */
        EXPECT(fabs(view_f32(norm, t)[1] - sum) <= 4e-6 * sum);
        for (int j = 0; j < k && j < V; j++) {
            const float got = view_f32(values, t)[j], want = x[t * stride + view_i32(ids, t)[j]];
            EXPECT(got == want || (isnan(got) && isnan(want)));
        }
    }
    checked_free(b, (view){ .buf = logits.buf });
    checked_free(b, ids);
    checked_free(b, values);
    checked_free(b, norm);
    free(x);
}

TEST(top_logits_agree_with_their_definition_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        check_top(b, 1, 1, 1);
        check_top(b, 7, 10, 9);
        check_top(b, 1000, 64, 1000);
        check_top(b, 8192, 20, 8192);
        check_top(b, 17001, 256, 17004);
        b->close(b);
    }
}

TEST(the_head_agrees_with_its_definition)
{
    const int S = 4, D = 256, V = 100, T = 3;
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend_limits l = limits;
        l.n_streams = S;
        backend *b = checked_open(&l, true, (lane_order)order);
        const view streams = checked_random(b, T, S * D, 1.0f, 1), base = checked_random(b, 1, S, 1.0f, 2);
        const view scale = checked_random(b, 1, 1, 0.3f, 3), weight = checked_random(b, 1, D, 1.0f, 4);
        const view fn = checked_weight(b, S, S * D, QUANT_F32, WEIGHT_VECTOR, S, 5);
        const view w = checked_weight(b, V, D, QUANT_Q8_0, WEIGHT_MATRIX, V, 6);
        const view x = checked_view(b, T, D, QUANT_F32), logits = checked_view(b, T, V, QUANT_F32);
        CHECKED(b, head,
                .mix = { .streams = streams, .fn = fn, .base = base, .scale = scale, .x = x, .eps = 1e-6f,
                         .hc_eps = 1e-3f,
                         .n_streams = S, .head = true, .layer = -1, .name = "head" },
                .norm = { .x = x, .y = x, .weight = weight, .eps = 1e-6f, .layer = -1, .name = "output_norm" },
                .output = { .w = w, .x = x, .y = logits, .layer = -1, .name = "output" });
        const view all[] = { streams, base, scale, weight, fn, w, x, logits };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) checked_free(b, all[i]);
        b->close(b);
    }
}

TEST(many_candidates_take_fewer_rows_at_once_and_too_many_are_refused)
{
    backend_limits small = limits;
    small.n_vocab = 1;
    backend *b = checked_open(&small, false, LANES_FORWARD);
    check_top(b, 20000, 1024, 20000);             /* five of six rows fit */
    const view logits = checked_random(b, 1, 64, 1.0f, 1), ids = checked_view(b, 1, 1025, QUANT_I32);
    const view values = checked_view(b, 1, 1025, QUANT_F32), norm = checked_view(b, 1, 2, QUANT_F32);
    EXPECT_INT(b->ops.top_logits(&b->queue, &(top_logits_args){ .logits = logits, .ids = ids, .values = values,
                                                                .norm = norm }),
               DS4_EUNSUPPORTED);
    checked_free(b, logits);
    checked_free(b, ids);
    checked_free(b, values);
    checked_free(b, norm);
    b->close(b);
}
