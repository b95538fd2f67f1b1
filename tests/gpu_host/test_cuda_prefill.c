/* Kernels of prefill*.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <stdlib.h>

#include "base/checked.h"

static const backend_limits limits = { .max_rows = 160, .max_cols = 2048, .max_pairs = 480, .max_expert_width = 512,
                                       .n_experts = 6, .max_head_width = 64, .index_top_k = 8 };

/* The ops that the kernels are for, whatever the number of rows. */
static ds4_status matmul(queue *dev, const matmul_args *a)
{
    cuda_op(cuda_of(dev));
    return cuda_done(dev, cuda_prefill_products(dev, a->w, a->x, a->y));
}
static ds4_status expert_ffn(queue *dev, const expert_ffn_args *a)
{
    cuda_op(cuda_of(dev));
    return cuda_done(dev, cuda_prefill_experts(dev, a));
}

static backend *open_prefill(lane_order order)
{
    ds4_error err;
    gpu_device *d;
    backend *cuda = NULL, *b = NULL;
    const backend_options o = { .name = "check:cuda", .n_threads = 1, .limits = limits, .mirrored = true };
    EXPECT_OK(fake_device_open(&d, &(fake_options){ .order = order }, &err), err);
    EXPECT_OK(cuda_open_on(&cuda, d, &o, &err), err);
    cuda->ops.matmul = matmul;
    cuda->ops.expert_ffn = expert_ffn;
    EXPECT_OK(backend_check_open(&b, cuda, &o, &err), err);
    return b;
}

/* y = w x with T rows, in the middle of larger ones. */
static void check_products(backend *b, quant_type type, int rows, int cols, int T)
{
    const view w = checked_weight(b, rows + 3, cols, type, WEIGHT_MATRIX, rows + 3, 1 + (uint64_t)type);
    const view x = checked_random(b, T, cols, 2.0f, 2), y = checked_view(b, T, rows + 1, QUANT_F32);
    CHECKED(b, matmul, .w = view_rows(w, 2, rows), .x = x, .y = view_cols(y, 1, rows), .name = quant_get(type)->name);
    for (int t = 0; t < T; t++) EXPECT(view_f32(y, t)[0] == 0.0f);
    checked_free(b, w);
    checked_free(b, x);
    checked_free(b, y);
}

static const quant_type own[] = { QUANT_Q8_0, QUANT_Q2_K, QUANT_Q4_K, QUANT_IQ2_XXS, QUANT_F16, QUANT_BF16, QUANT_F32 };

TEST(products_agree_with_their_definition_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = open_prefill((lane_order)order);
        for (size_t i = 0; i < countof(own); i++) check_products(b, own[i], 48, 512, 33);
        b->close(b);
    }
}

TEST(products_of_types_without_fragments_of_their_own_agree_with_their_definition)
{
    static const quant_type others[] = {
        QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_IQ4_NL, QUANT_MXFP4, QUANT_NVFP4, QUANT_Q3_K, QUANT_Q5_K,
        QUANT_Q6_K, QUANT_IQ2_XS, QUANT_IQ2_S, QUANT_IQ3_XXS, QUANT_IQ3_S, QUANT_IQ1_S, QUANT_IQ4_XS };
    backend *b = open_prefill(LANES_SHUFFLED);
    for (size_t i = 0; i < countof(others); i++) check_products(b, others[i], 20, 512, 20);
    check_products(b, QUANT_Q5_1, 150, 288, 70);
    check_products(b, QUANT_MXFP4, 3, 96, 66);
    check_products(b, QUANT_NVFP4, 17, 320, 17);
    b->close(b);
}

TEST(products_of_ragged_shapes_agree_with_their_definition)
{
    static const int rows[] = { 1, 64, 70, 130 }, tokens[] = { 17, 64, 65, 130 };
    backend *b = open_prefill(LANES_FORWARD);
    for (int i = 0; i < 4; i++)
        for (size_t j = 0; j < countof(own); j++) check_products(b, own[j], rows[i], 256, tokens[(i + (int)j) % 4]);
    for (int cols = 32; cols <= 352; cols += 64) check_products(b, QUANT_Q8_0, 20, cols, 20);
    for (int cols = 1; cols <= 100; cols += 33) {
        check_products(b, QUANT_F16, 20, cols, 20);
        check_products(b, QUANT_F32, 20, cols, 20);
    }
    b->close(b);
}

/* Few tiles and many columns: several blocks share a result. */
TEST(products_that_are_split_by_columns_agree_with_their_definition)
{
    backend *b = open_prefill(LANES_SHUFFLED);
    for (size_t i = 0; i < countof(own); i++) check_products(b, own[i], 20, 1536, 18);
    check_products(b, QUANT_MXFP4, 20, 1824, 18);
    check_products(b, QUANT_Q8_0, 70, 1888, 66);
    check_products(b, QUANT_F16, 70, 1111, 66);
    b->close(b);
}

/* The first row of x is the same each time, the others are not. */
TEST(a_row_does_not_depend_on_the_rows_beside_it)
{
    ds4_error err;
    float row[512], first[40];
    for (int i = 0; i < 512; i++) row[i] = (float)(i % 37) - 18.0f;
    backend *b = open_prefill(LANES_FORWARD);
    for (size_t i = 0; i < countof(own); i++) {
        const view w = checked_weight(b, 40, 512, own[i], WEIGHT_MATRIX, 40, 1), y = checked_view(b, 20, 40, QUANT_F32);
        for (int turn = 0; turn < 2; turn++) {
            const view x = checked_random(b, 20, 512, turn ? 100.0f : 1.0f, (uint64_t)turn);
            EXPECT_OK(b->upload(b, view_rows(x, 0, 1), row, &err), err);
            CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = quant_get(own[i])->name);
            for (int r = 0; r < 40; r++) {
                if (turn) EXPECT(view_f32(y, 0)[r] == first[r]);
                first[r] = view_f32(y, 0)[r];
            }
            checked_free(b, x);
        }
        checked_free(b, w);
        checked_free(b, y);
    }
    b->close(b);
}

/* ---- routed experts ------------------------------------------------------------------------- */

enum { USED = 3, EXPERTS = 6 };

/* Which experts the slots of row t choose, ascending: all the same, spread, or one for nearly all. */
static void choose(int spread, int t, int32_t *ids)
{
    for (int i = 0; i < USED; i++) ids[i] = spread == 0 ? i + 1 : spread == 1 ? (t % 2) + 2 * i : i;
    if (spread == 2 && t % 17 == 5) ids[USED - 1] = EXPERTS - 1;
}

static void check_experts(backend *b, quant_type up_type, quant_type down_type, int T, int D, int F, int spread)
{
    ds4_error err;
    const view gate = checked_weight(b, EXPERTS * F, D, up_type, WEIGHT_EXPERTS, F, 1);
    const view up = checked_weight(b, EXPERTS * F, D, up_type, WEIGHT_EXPERTS, F, 2);
    const view down = checked_weight(b, EXPERTS * D, F, down_type, WEIGHT_EXPERTS, D, 3);
    const view x = checked_random(b, T, D, 0.5f, 4), y = checked_random(b, T, D, 1.0f, 5);
    const view weights = checked_random(b, T, USED, 1.0f, 6), ids = checked_view(b, T, USED, QUANT_I32);
    const view mid = checked_view(b, (int64_t)T * USED, F, QUANT_F32);
    int32_t *chosen = malloc((size_t)T * USED * sizeof *chosen);
    for (int t = 0; t < T; t++) choose(spread, t, chosen + t * USED);
    EXPECT_OK(b->upload(b, ids, chosen, &err), err);
    CHECKED(b, expert_ffn, .x = x, .y = y, .gate = gate, .up = up, .down = down, .ids = ids, .weights = weights,
            .mid = mid, .n_experts = EXPERTS, .limit = 7.0f);
    free(chosen);
    const view all[] = { gate, up, down, x, y, weights, ids, mid };
    for (size_t i = 0; i < countof(all); i++) checked_free(b, all[i]);
}

TEST(experts_agree_with_their_definition_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = open_prefill((lane_order)order);
        check_experts(b, QUANT_IQ2_XXS, QUANT_Q2_K, 40, 256, 256, order % 3);
        b->close(b);
    }
}

TEST(experts_of_other_types_and_loads_agree_with_their_definition)
{
    backend *b = open_prefill(LANES_FORWARD);
    check_experts(b, QUANT_Q4_K, QUANT_Q4_K, 17, 256, 256, 1);
    check_experts(b, QUANT_Q8_0, QUANT_Q8_0, 70, 96, 160, 2);
    check_experts(b, QUANT_Q2_K, QUANT_IQ2_XXS, 130, 768, 256, 0);
    check_experts(b, QUANT_MXFP4, QUANT_Q6_K, 20, 256, 256, 2);
    b->close(b);
}
