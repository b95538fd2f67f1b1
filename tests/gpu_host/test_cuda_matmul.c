/* Matrix products on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/wrap.h"
#include "quant/blocks.h"
#include "quant/float_formats.h"

static const backend_limits limits = { .max_rows = 40, .max_cols = 2048, .max_pairs = 16, .max_expert_width = 512,
                                       .n_experts = 8, .n_heads = 8, .max_head_width = 512, .index_top_k = 8 };

/* Every type that can be multiplied. */
static bool next_type(int *type)
{
    while (++*type < QUANT_COUNT)
        if (planes_of(*type)) return true;
    return false;
}

static void one_product(backend *b, int64_t w_rows, int cols, int64_t rows, quant_type type, uint64_t seed)
{
    const view w = checked_weight(b, w_rows, cols, type, WEIGHT_MATRIX, w_rows, seed);
    const view x = checked_random(b, rows, cols, 2.0f, seed + 1), y = checked_view(b, rows, (int)w_rows, QUANT_F32);
    CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = quant_get(type)->name);
    checked_free(b, w);
    checked_free(b, x);
    checked_free(b, y);
}

TEST(products_of_every_type_agree_with_their_definitions)
{
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    const int rows[] = { 1, 2, 3, 5, 8, 16 };
    for (int type = -1; next_type(&type);)
        for (int i = 0; i < 6; i++)
            one_product(b, 13 + 6 * i, i % 2 ? 256 : 768, rows[i], (quant_type)type, (uint64_t)(100 * type + i));
    b->close(b);
}

TEST(products_with_float_activations_agree_with_their_definitions)
{
    backend *b = checked_open(&limits, true, LANES_BACKWARD);
    for (int type = -1; next_type(&type);) one_product(b, 11, 512, type % 3 + 1, (quant_type)type, (uint64_t)type);
    b->close(b);
}

TEST(long_and_short_rows_agree_whatever_is_cut_along_the_columns)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    const quant_type types[] = { QUANT_Q8_0, QUANT_F16, QUANT_F32, QUANT_Q4_K, QUANT_IQ2_XXS, QUANT_Q2_K };
    for (int i = 0; i < 6; i++) {
        one_product(b, 3, 2048, 2, types[i], 7);
        one_product(b, 300, 256, 1, types[i], 8);
    }
    one_product(b, 5, 32, 3, QUANT_Q8_0, 9);            /* one block */
    one_product(b, 1, 96, 1, QUANT_Q4_0, 10);
    one_product(b, 7, 100, 2, QUANT_F16, 11);           /* rows that begin anywhere */
    one_product(b, 7, 37, 9, QUANT_BF16, 12);
    one_product(b, 2, 1, 1, QUANT_F32, 13);
    b->close(b);
}

TEST(rows_of_a_weight_and_columns_of_activations_may_begin_anywhere)
{
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    const quant_type types[] = { QUANT_Q8_0, QUANT_F16, QUANT_Q6_K, QUANT_F32 };
    for (int i = 0; i < 4; i++) {
        const view w = checked_weight(b, 40, 256, types[i], WEIGHT_MATRIX, 40, 3);
        const view x = checked_random(b, 3, 600, 1.0f, 4);
        const view y = checked_view(b, 3, 50, QUANT_F32);
        CHECKED(b, matmul, .w = view_rows(w, 17, 9), .x = view_cols(x, 129, 256), .y = view_cols(y, 5, 9),
                .name = "part");
        EXPECT(view_f32(y, 0)[4] == 0.0f && view_f32(y, 2)[14] == 0.0f);
        checked_free(b, w);
        checked_free(b, x);
        checked_free(b, y);
    }
    b->close(b);
}

/* A row's result is the same bits with any number of other rows, up to 16. */
TEST(a_row_does_not_see_its_neighbours)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    const quant_type types[] = { QUANT_Q8_0, QUANT_F16, QUANT_Q2_K, QUANT_IQ2_XXS, QUANT_Q4_K, QUANT_Q5_1,
                                 QUANT_NVFP4 };
    for (int i = 0; i < 7; i++) {
        enum { ROWS = 16, OUT = 22, COLS = 1024 };
        const view w = checked_weight(b, OUT, COLS, types[i], WEIGHT_MATRIX, OUT, 5);
        const view x = checked_random(b, ROWS, COLS, 1.0f, 6), all = checked_view(b, ROWS, OUT, QUANT_F32);
        const view some = checked_view(b, ROWS, OUT, QUANT_F32);
        CHECKED(b, matmul, .w = w, .x = x, .y = all, .name = "all");
        const int sizes[] = { 1, 2, 3, 7, 13 };
        for (int k = 0; k < 5; k++) {
            const int first = ROWS - sizes[k] - k % 2;
            CHECKED(b, matmul, .w = w, .x = view_rows(x, first, sizes[k]), .y = view_rows(some, first, sizes[k]),
                    .name = "some");
            for (int t = first; t < first + sizes[k]; t++)
                EXPECT(!memcmp(view_f32(all, t), view_f32(some, t), OUT * sizeof(float)));
        }
        checked_free(b, w);
        checked_free(b, x);
        checked_free(b, all);
        checked_free(b, some);
    }
    b->close(b);
}

TEST(more_rows_than_the_kernels_here_are_made_for_agree_too)
{
    for (int exact = 0; exact < 2; exact++) {
        backend *b = checked_open(&limits, exact, LANES_FORWARD);
        one_product(b, 20, 256, 37, QUANT_Q8_0, 21);
        one_product(b, 20, 256, 20, QUANT_F16, 22);
        one_product(b, 20, 256, 18, QUANT_IQ1_S, 23);
        b->close(b);
    }
}

static int kept_sets(const cuda_backend *b)
{
    int n = 0;
    for (int i = 0; i < CUDA_CODES_SETS; i++) n += b->codes.set[i].at != 0;
    return n;
}

TEST(kept_codes_are_void_when_their_rows_change)
{
    backend *b = checked_open(&limits, false, LANES_FORWARD);
    cuda_backend *cuda = (cuda_backend *)((wrapper *)b)->inner;
    const view w = checked_weight(b, 8, 256, QUANT_Q8_0, WEIGHT_MATRIX, 8, 1);
    const view k = checked_weight(b, 8, 256, QUANT_Q4_K, WEIGHT_MATRIX, 8, 2);
    const view x = checked_random(b, 4, 256, 1.0f, 3), other = checked_random(b, 4, 256, 1.0f, 4);
    const view y = checked_view(b, 4, 8, QUANT_F32);
    cuda_codes_keep(cuda, true);
    for (int turn = 0; turn < 3; turn++) {
        CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = "made");
        CHECKED(b, matmul, .w = k, .x = x, .y = y, .name = "the other rule");
        CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = "kept");
        CHECKED(b, matmul, .w = w, .x = view_rows(x, 0, 3), .y = view_rows(y, 0, 3), .name = "fewer rows");
        CHECKED(b, add, .a = x, .b = other, .y = x);
        CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = "written by an op");
        CHECKED(b, matmul, .w = k, .x = x, .y = y, .name = "the other rule again");
        EXPECT_INT(kept_sets(cuda), 2);
    }
    cuda_codes_keep(cuda, false);
    EXPECT_INT(kept_sets(cuda), 0);
    checked_free(b, w);
    checked_free(b, k);
    checked_free(b, x);
    checked_free(b, other);
    checked_free(b, y);
    b->close(b);
}

/* Ties and zeros: the greatest magnitude twice with both signs, rows of zeros, halves. */
TEST(codes_follow_the_definitions_at_ties_and_zeros)
{
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    ds4_error err;
    const quant_type types[] = { QUANT_Q8_0, QUANT_Q4_1, QUANT_Q6_K, QUANT_Q2_K };
    const view x = checked_view(b, 4, 512, QUANT_F32);
    float *numbers = calloc(4 * 512, sizeof *numbers);
    for (int i = 0; i < 512; i++) {
        numbers[i] = i % 64 == 5 ? -127.0f : i % 64 == 40 ? 127.0f : (float)(i % 13) - 6.5f;
        numbers[512 + i] = i % 32 == 31 ? 3.0f : -3.0f;
        numbers[3 * 512 + i] = 1e-39f * (float)(i % 3);
    }
    EXPECT_OK(b->upload(b, x, numbers, &err), err);
    for (int i = 0; i < 4; i++) {
        const view w = checked_weight(b, 6, 512, types[i], WEIGHT_MATRIX, 6, 31), y = checked_view(b, 4, 6, QUANT_F32);
        CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = "ties");
        checked_free(b, w);
        checked_free(b, y);
    }
    free(numbers);
    checked_free(b, x);
    b->close(b);
}

/* Codes, scales and sums of rows as the definition has them, from a type's own blocks. */
static void want_codes(quant_type rule, const float *x, int n, int8_t *code, float *scale, int16_t *sum)
{
    uint64_t bytes = 0;
    EXPECT(quant_row_bytes(rule, (uint64_t)n, &bytes));
    uint8_t *blocks = malloc(bytes);
    quant_get(rule)->from_float(blocks, x, n);
    for (int i = 0; i < n; i++) {
        if (rule == QUANT_Q8_K) {
            const block_q8_k *b = (const block_q8_k *)(const void *)blocks + i / QK;
            code[i] = b->codes[i % QK];
            scale[i / 32] = b->d;
        } else {
            const block_q8_0 *b = (const block_q8_0 *)(const void *)blocks + i / 32;
            code[i] = b->codes[i % 32];
            scale[i / 32] = half_to_float(b->d);
        }
    }
    memset(sum, 0, (size_t)(n / 16) * sizeof *sum);
    for (int i = 0; i < n; i++) sum[i / 16] = (int16_t)(sum[i / 16] + code[i]);
    free(blocks);
}

TEST(codes_are_the_definitions_to_the_bit)
{
    enum { ROWS = 3, COLS = 512, N = ROWS * COLS };
    backend *check = checked_open(&limits, false, LANES_SHUFFLED);
    backend *b = ((wrapper *)check)->inner;
    cuda_backend *cuda = (cuda_backend *)b;
    ds4_error err;
    random_stream r;
    random_seed(&r, test_seed());
    const view x = checked_view(check, ROWS, COLS, QUANT_F32);
    static float numbers[N], scale[N / 32], wanted_scale[COLS / 32];
    static int8_t code[N], wanted[COLS];
    static int16_t sum[N / 16], wanted_sum[COLS / 16];
    for (int turn = 0; turn < 8; turn++) {
        for (int i = 0; i < N; i++) {
            const float v = (float)random_normal(&r);
            /* plain numbers; few values with ties between signs; very small ones; a zero block */
            const float kinds[] = { v, roundf(2.0f * v) / 2.0f, 1e-30f * v, i % COLS < 256 ? 0.0f : v };
            numbers[i] = kinds[turn % 4];
        }
        EXPECT_OK(b->upload(b, x, numbers, &err), err);
        const bool super = turn >= 4;
        gpu_codes q;
        cuda_op(cuda);
        EXPECT_OK(cuda_done(&b->queue, cuda_codes_of(&b->queue, x, super ? QUANT_Q4_K : QUANT_Q8_0, &q)),
                  b->queue.error);
        EXPECT_OK(cuda->device->sync(cuda->device, -1, &err), err);
        const gpu_piece pieces[] = { { q.codes, code, sizeof code }, { q.scale, scale, sizeof scale },
                                     { q.sum, sum, sizeof sum } };
        EXPECT_OK(cuda->device->transfer(cuda->device, false, pieces, 3, &err), err);
        for (int t = 0; t < ROWS; t++) {
            want_codes(super ? QUANT_Q8_K : QUANT_Q8_0, numbers + t * COLS, COLS, wanted, wanted_scale, wanted_sum);
            EXPECT(!memcmp(code + t * COLS, wanted, sizeof wanted));
            EXPECT(!memcmp(scale + t * (COLS / 32), wanted_scale, sizeof wanted_scale));
            EXPECT(!memcmp(sum + t * (COLS / 16), wanted_sum, sizeof wanted_sum));
        }
    }
    checked_free(check, x);
    check->close(check);
}

TEST(the_shared_expert_agrees_with_its_definition)
{
    const quant_type types[][2] = { { QUANT_Q8_0, QUANT_Q8_0 }, { QUANT_IQ2_XXS, QUANT_Q2_K },
                                    { QUANT_Q4_K, QUANT_Q4_K },
                                    { QUANT_F16, QUANT_Q8_0 }, { QUANT_Q8_0, QUANT_F16 } };
    for (int exact = 0; exact < 2; exact++) {
        backend *b = checked_open(&limits, exact, LANES_SHUFFLED);
        for (int i = 0; i < 5; i++) {
            const int rows[] = { 1, 3, 16, 18 };
            const int T = rows[i % 4];
            const view gate = checked_weight(b, 256, 512, types[i][0], WEIGHT_MATRIX, 256, 1);
            const view up = checked_weight(b, 256, 512, types[i][0], WEIGHT_MATRIX, 256, 2);
            const view down = checked_weight(b, 512, 256, types[i][1], WEIGHT_MATRIX, 512, 3);
            const view x = checked_random(b, T, 512, 1.0f, 4), y = checked_view(b, T, 512, QUANT_F32);
            const view g = checked_view(b, T, 256, QUANT_F32), u = checked_view(b, T, 256, QUANT_F32);
            CHECKED(b, shared_ffn, .x = x, .y = y, .gate = gate, .up = up, .down = down, .gate_out = g, .up_out = u,
                    .limit = i % 2 ? 0.0f : 7.0f);
            checked_free(b, gate);
            checked_free(b, up);
            checked_free(b, down);
            checked_free(b, x);
            checked_free(b, y);
            checked_free(b, g);
            checked_free(b, u);
        }
        b->close(b);
    }
}

/* Groups and pairs are the products that they are made of, but for the order of sums. */
TEST(groups_with_columns_of_their_own_equal_single_products)
{
    backend *check = checked_open(&limits, false, LANES_SHUFFLED);
    backend *b = ((wrapper *)check)->inner;
    const quant_type types[] = { QUANT_Q8_0, QUANT_Q4_K, QUANT_F16, QUANT_MXFP4 };
    ds4_error err;
    for (int i = 0; i < 4; i++) {
        const int rows[] = { 1, 3, 17 }, groups = 4, rank = i == 3 ? 6 : 12, in = 256;
        for (int k = 0; k < 3; k++) {
            const int T = rows[k];
            const view w = checked_weight(check, groups * rank, in, types[i], WEIGHT_MATRIX, groups * rank, 1);
            const view x = checked_random(check, T, groups * in, 1.0f, 2);
            const view y = checked_view(check, T, groups * rank, QUANT_F32);
            const view one = checked_view(check, T, groups * rank, QUANT_F32);
            for (int g = 0; g < groups; g++)
                CHECKED(check, matmul, .w = view_rows(w, g * rank, rank), .x = view_cols(x, g * in, in),
                        .y = view_cols(one, g * rank, rank), .name = "one group");
            cuda_op((cuda_backend *)b);
            EXPECT_OK(cuda_done(&b->queue, cuda_products_grouped(&b->queue, w, rank, x, y)), b->queue.error);
            EXPECT_OK(b->mirror(b, y, &err), err);
            for (int t = 0; t < T; t++)
                EXPECT_NEAR(view_f32(y, t), view_f32(one, t), (size_t)(groups * rank), 1e-4, "row %d", t);
            checked_free(check, w);
            checked_free(check, x);
            checked_free(check, y);
            checked_free(check, one);
        }
    }
    check->close(check);
}

TEST(a_pair_of_products_equals_both)
{
    backend *check = checked_open(&limits, false, LANES_BACKWARD);
    backend *b = ((wrapper *)check)->inner;
    const quant_type types[][2] = { { QUANT_Q8_0, QUANT_Q8_0 }, { QUANT_F16, QUANT_F16 }, { QUANT_F32, QUANT_Q8_0 } };
    ds4_error err;
    for (int i = 0; i < 3; i++) {
        view w[2], y[2], one[2];
        const view x = checked_random(check, 5, 512, 1.0f, 2);
        for (int k = 0; k < 2; k++) {
            const int rows = k ? 20 : 33;
            w[k] = checked_weight(check, rows, 512, types[i][k], WEIGHT_MATRIX, rows, (uint64_t)(3 + k));
            y[k] = checked_view(check, 5, rows, QUANT_F32);
            one[k] = checked_view(check, 5, rows, QUANT_F32);
            CHECKED(check, matmul, .w = w[k], .x = x, .y = one[k], .name = "one");
        }
        cuda_op((cuda_backend *)b);
        EXPECT_OK(cuda_done(&b->queue, cuda_products_pair(&b->queue, w, x, y)), b->queue.error);
        for (int k = 0; k < 2; k++) {
            EXPECT_OK(b->mirror(b, y[k], &err), err);
            for (int t = 0; t < 5; t++) EXPECT_NEAR(view_f32(y[k], t), view_f32(one[k], t), (size_t)w[k].rows, 1e-4,
                                                    "row %d", t);
            checked_free(check, w[k]);
            checked_free(check, y[k]);
            checked_free(check, one[k]);
        }
        checked_free(check, x);
    }
    check->close(check);
}
