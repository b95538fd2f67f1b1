/* Kernels of experts*.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <math.h>
#include <string.h>

enum { E = 40, USED = 6, ROWS = 40, VOCAB = 50 };

static const backend_limits limits = { .max_rows = ROWS, .max_cols = 1024, .max_pairs = ROWS * USED,
                                       .max_expert_width = 512, .n_experts = E, .max_head_width = 64,
                                       .index_top_k = 8, .n_layer = 4 };

static view filled(backend *b, int64_t rows, int cols, quant_type type, const void *data)
{
    ds4_error err;
    const view v = checked_view(b, rows, cols, type);
    EXPECT_OK(b->upload(b, v, data, &err), err);
    return v;
}

typedef struct { view ids, weights; } chosen;

static chosen room(backend *b, int64_t rows, int used)
{
    return (chosen){ checked_view(b, rows, used, QUANT_I32), checked_view(b, rows, used, QUANT_F32) };
}

static void drop(backend *b, chosen c)
{
    checked_free(b, c.ids);
    checked_free(b, c.weights);
}

TEST(router_chooses_and_weighs_as_its_definition_for_any_number_of_rows)
{
    const int rows[] = { 1, 2, 7, 16, 17, 40 }, experts[] = { 8, 32, 40 };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        for (int i = 0; i < 6; i++)
            for (int j = 0; j < 3; j++) {
                const view logits = checked_random(b, rows[i], experts[j], 4.0f, (uint64_t)(i + 7));
                const view bias = checked_random(b, 1, experts[j], 0.5f, 9);
                const chosen c = room(b, rows[i], USED);
                CHECKED(b, router, .logits = logits, .bias = bias, .ids = c.ids, .weights = c.weights, .scale = 1.5f);
                CHECKED(b, router, .logits = logits, .ids = c.ids, .weights = c.weights, .scale = 2.5f);
                checked_free(b, logits);
                checked_free(b, bias);
                drop(b, c);
            }
        b->close(b);
    }
}

TEST(router_gives_ties_to_the_lower_index_and_takes_nan_last)
{
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    float x[4][E];
    for (int e = 0; e < E; e++) {
        x[0][e] = 1.0f;
        x[1][e] = e % 3 ? NAN : 1.0f;
        x[2][e] = NAN;
        x[3][e] = e % 2 ? -INFINITY : INFINITY;
    }
    for (int e = 0; e < E - 3; e++) x[1][e] = NAN;
    const float zeros[E] = { [0] = -0.0f, [5] = 0.0f, [7] = -1.0f };
    const view logits = filled(b, 4, E, QUANT_F32, x), bias = filled(b, 1, E, QUANT_F32, zeros);
    const chosen c = room(b, 4, USED);
    CHECKED(b, router, .logits = logits, .ids = c.ids, .weights = c.weights, .scale = 1.0f);
    CHECKED(b, router, .logits = logits, .bias = bias, .ids = c.ids, .weights = c.weights, .scale = 1.0f);
    EXPECT_INT(view_i32(c.ids, 0)[0], 0);
    EXPECT_INT(view_i32(c.ids, 0)[5], 5);
    checked_free(b, logits);
    checked_free(b, bias);
    drop(b, c);
    b->close(b);
}

TEST(router_of_a_hash_layer_takes_the_choice_of_the_table)
{
    backend *b = checked_open(&limits, false, LANES_BACKWARD);
    int32_t table[VOCAB][USED], token[20], pos[20] = { 0 }, of[20] = { 0 };
    for (int v = 0; v < VOCAB; v++)
        for (int i = 0; i < USED; i++) table[v][i] = (v * 7 + i * 31) % E;
    table[3][2] = table[3][0];          /* twice the same */
    const int rows[] = { 1, 4, 20 };
    for (int i = 0; i < 20; i++) token[i] = i < 2 ? 3 : (i * 11) % VOCAB;
    const view hash = filled(b, VOCAB, USED, QUANT_I32, table);
    for (int i = 0; i < 3; i++) {
        const segment s = { .n = rows[i] };
        const batch_rows batch = { rows[i], pos, token, of, &s, 1 };
        const view logits = checked_random(b, rows[i], E, 4.0f, 3);
        const chosen c = room(b, rows[i], USED);
        CHECKED(b, router, .logits = logits, .hash = hash, .ids = c.ids, .weights = c.weights, .rows = &batch,
                .scale = 1.5f);
        checked_free(b, logits);
        drop(b, c);
    }
    checked_free(b, hash);
    b->close(b);
}

/* ---- grouping ------------------------------------------------------------------------------------ */

/* The pairs as a simple loop sorts them. */
static void expect_grouped(backend *b, const gpu_groups *g, const int32_t *ids, int pairs, int n_experts)
{
    ds4_error err;
    int32_t first[E + 1], pair[ROWS * USED], active[E], n;
    const gpu_piece pieces[] = { { g->first, first, sizeof *first * (size_t)(n_experts + 1) },
                                 { g->pair, pair, sizeof *pair * (size_t)pairs },
                                 { g->active, active, sizeof *active * (size_t)n_experts }, { g->n_active, &n, sizeof n } };
    gpu_device *d = ((cuda_backend *)b)->device;
    int at = 0, n_active = 0;
    EXPECT_OK(b->wait(b, &err), err);
    EXPECT_OK(d->transfer(d, false, pieces, 4, &err), err);
    for (int e = 0; e < n_experts; e++) {
        EXPECT_INT(first[e], at);
        for (int p = 0; p < pairs; p++)
            if (ids[p] == e) {
                EXPECT_INT(pair[at], p);
                at++;
            }
        if (at > first[e]) {
            EXPECT_INT(active[n_active], e);
            n_active++;
        }
    }
    EXPECT_INT(first[n_experts], pairs);
    EXPECT_INT(n, n_active);
}

TEST(pairs_are_grouped_by_expert_in_their_order)
{
    const int rows[] = { 1, 3, 16, 33, 40 };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        ds4_error err;
        gpu_device *d;
        backend *b;
        const backend_options o = { .name = "cuda", .limits = limits, .mirrored = true };
        EXPECT_OK(fake_device_open(&d, &(fake_options){ .order = (lane_order)order }, &err), err);
        EXPECT_OK(cuda_open_on(&b, d, &o, &err), err);
        for (int i = 0; i < 5; i++)
            for (int kind = 0; kind < 3; kind++) {
                int32_t ids[ROWS * USED];
                random_stream r;
                random_seed(&r, (uint64_t)(order * 10 + i));
                for (int p = 0; p < rows[i] * USED; p++)
                    ids[p] = kind == 0 ? (int32_t)random_below(&r, E) : kind == 1 ? E - 1 : p % USED;
                const view v = filled(b, rows[i], USED, QUANT_I32, ids);
                gpu_groups g;
                cuda_op((cuda_backend *)b);
                EXPECT_OK(cuda_done(&b->queue, cuda_group_pairs(&b->queue, E, v, &g)), b->queue.error);
                expect_grouped(b, &g, ids, rows[i] * USED, E);
                checked_free(b, v);
            }
        b->close(b);
    }
}

/* ---- the experts ----------------------------------------------------------------------------------- */

typedef struct { int n_experts, D, F; quant_type gate, up, down; } stack_shape;
typedef struct { view gate, up, down; int n_experts; } stack;

static stack stack_of(backend *b, stack_shape s)
{
    const int n = s.n_experts;
    return (stack){ checked_weight(b, (int64_t)n * s.F, s.D, s.gate, WEIGHT_EXPERTS, s.F, 11),
                    checked_weight(b, (int64_t)n * s.F, s.D, s.up, WEIGHT_EXPERTS, s.F, 12),
                    checked_weight(b, (int64_t)n * s.D, s.F, s.down, WEIGHT_EXPERTS, s.D, 13), n };
}

static void drop_stack(backend *b, stack s)
{
    checked_free(b, s.gate);
    checked_free(b, s.up);
    checked_free(b, s.down);
}

/* Distinct experts a row, ascending: every row its own, all rows the same, or from a few. */
typedef enum { IDS_ANY, IDS_SAME, IDS_FEW } ids_kind;
static view some_ids(backend *b, int rows, int used, int n_experts, ids_kind kind, uint64_t seed)
{
    int32_t ids[ROWS * USED];
    random_stream r;
    random_seed(&r, seed);
    for (int t = 0; t < rows; t++) {
        const int range = kind == IDS_FEW ? used + 1 : n_experts;
        const int skip = (int)random_below(&r, (uint64_t)(range - used + 1));
        for (int i = 0; i < used; i++)
            ids[t * used + i] = kind == IDS_SAME ? i : i + (i < (int)random_below(&r, USED) ? 0 : skip);
        for (int i = 1; i < used; i++)
            if (ids[t * used + i] <= ids[t * used + i - 1]) ids[t * used + i] = ids[t * used + i - 1] + 1;
    }
    return filled(b, rows, used, QUANT_I32, ids);
}

static void run_experts(backend *b, stack s, int rows, int used, ids_kind kind, float limit)
{
    const int D = s.gate.cols, F = s.down.cols;
    const view x = checked_random(b, rows, D, 1.0f, (uint64_t)(rows + 3)), y = checked_view(b, rows, D, QUANT_F32);
    const view mid = checked_view(b, (int64_t)rows * used, F, QUANT_F32);
    const view weights = checked_random(b, rows, used, 1.0f, 5);
    const view ids = some_ids(b, rows, used, s.n_experts, kind, (uint64_t)rows);
    CHECKED(b, expert_ffn, .x = x, .y = y, .gate = s.gate, .up = s.up, .down = s.down, .ids = ids, .weights = weights,
            .mid = mid, .n_experts = s.n_experts, .limit = limit);
    checked_free(b, x);
    checked_free(b, y);
    checked_free(b, mid);
    checked_free(b, weights);
    checked_free(b, ids);
}

static const quant_type all_types[] = {
    QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_Q8_0, QUANT_IQ4_NL,
    QUANT_MXFP4, QUANT_NVFP4, QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K, QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ2_XXS, QUANT_IQ2_XS,
    QUANT_IQ2_S, QUANT_IQ3_XXS, QUANT_IQ3_S, QUANT_IQ1_S, QUANT_IQ4_XS };
enum { N_TYPES = sizeof all_types / sizeof *all_types };

static void run_type(backend *b, quant_type up, quant_type down, bool exact)
{
    const stack s = stack_of(b, (stack_shape){ 2, 256, 256, up, up, down });
    if (!exact) run_experts(b, s, 1, 2, IDS_ANY, 2.0f);
    run_experts(b, s, 3, 2, IDS_SAME, 0.0f);
    drop_stack(b, s);
}

/* Activations of affine blocks of 32 have a sum that is rounded by itself, which the kernels leave out; that is
 * enough to round numbers of mid to the other side, so the two halves of the op are looked at apart. */
static void run_all_types(bool exact)
{
    backend *b = checked_open(&limits, exact, LANES_SHUFFLED);
    for (int i = 0; i < N_TYPES; i++) {
        const quant_type t = all_types[i];
        const bool apart = quant_get(t)->dot_type == QUANT_Q8_1;
        run_type(b, t, apart ? QUANT_F32 : t, exact);
        if (apart) run_type(b, QUANT_F32, t, exact);
    }
    b->close(b);
}

TEST(experts_of_every_type_agree_with_their_definition_with_float_activations) { run_all_types(true); }
TEST(experts_of_every_type_agree_with_their_definition) { run_all_types(false); }

TEST(experts_agree_for_few_and_many_rows_that_choose_alike_or_apart)
{
    const int rows[] = { 1, 2, 8, 16 };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        const stack s = stack_of(b, (stack_shape){ 12, 256, 256, QUANT_IQ2_XXS, QUANT_IQ2_XXS, QUANT_Q2_K });
        for (int i = 0; i < 4; i++)
            for (int kind = IDS_ANY; kind <= IDS_FEW; kind++)
                if ((i + kind) % 3 == order % 3) run_experts(b, s, rows[i], USED, (ids_kind)kind, 7.0f);
        drop_stack(b, s);
        b->close(b);
    }
}

TEST(experts_of_ragged_shapes_and_mixed_types_agree)
{
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    const stack_shape shapes[] = {
        { 8, 288, 96, QUANT_Q8_0, QUANT_Q8_0, QUANT_Q4_0 },         /* neither is a multiple of 256 */
        { 8, 256, 160, QUANT_Q4_K, QUANT_Q4_K, QUANT_Q5_1 },
        { 5, 100, 36, QUANT_F16, QUANT_F16, QUANT_F32 },            /* nor of 32 */
    };
    for (int i = 0; i < 3; i++) {
        const stack s = stack_of(b, shapes[i]);
        run_experts(b, s, 1, 3, IDS_ANY, 7.0f);
        run_experts(b, s, 5, 3, IDS_FEW, 7.0f);
        drop_stack(b, s);
    }
    b->close(b);
}

/* max_expert_width is that of these shapes. */
static backend *open_wide(lane_order order)
{
    backend_limits l = limits;
    l.max_cols = l.max_expert_width = 2560;
    return checked_open(&l, false, order);
}

TEST(experts_whose_rows_fill_a_warp_agree_where_they_end_raggedly_too)
{
    const stack_shape shapes[] = {
        { 3, 100, 2048, QUANT_F16, QUANT_F16, QUANT_Q2_K }, { 3, 50, 2304, QUANT_F16, QUANT_F16, QUANT_Q2_K },
        { 3, 99, 1024, QUANT_F16, QUANT_F16, QUANT_Q4_K }, { 3, 50, 2304, QUANT_F16, QUANT_F16, QUANT_Q4_K },
        { 4, 1024, 32, QUANT_Q4_K, QUANT_Q4_K, QUANT_F16 }, { 4, 1280, 33, QUANT_Q4_K, QUANT_Q4_K, QUANT_F16 },
    };
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = open_wide((lane_order)order);
        for (int i = 0; i < 6; i++) {
            if (i % 3 != order) continue;
            const stack s = stack_of(b, shapes[i]);
            run_experts(b, s, 1, 3, IDS_ANY, 7.0f);
            run_experts(b, s, i < 4 ? 2 : 5, 2, IDS_FEW, 7.0f);
            drop_stack(b, s);
        }
        b->close(b);
    }
}

/* Numbers of y on the device itself. */
static void fetched(backend *b, view y, float *to)
{
    ds4_error err;
    EXPECT_OK(b->wait(b, &err), err);
    EXPECT_OK(b->download(b, to, y, &err), err);
}

TEST(a_row_of_experts_does_not_depend_on_the_rows_beside_it)
{
    enum { D = 256, F = 256, T = 16 };
    backend *b = checked_open(&limits, false, LANES_SHUFFLED);
    const stack s = stack_of(b, (stack_shape){ 12, D, F, QUANT_IQ2_XXS, QUANT_IQ2_XXS, QUANT_Q2_K });
    const view x = checked_random(b, T, D, 1.0f, 1), y = checked_view(b, T, D, QUANT_F32);
    const view mid = checked_view(b, T * USED, F, QUANT_F32), weights = checked_random(b, T, USED, 1.0f, 5);
    const view ids = some_ids(b, T, USED, s.n_experts, IDS_FEW, 2);
    static float together[T][D], alone[D];
    CHECKED(b, expert_ffn, .x = x, .y = y, .gate = s.gate, .up = s.up, .down = s.down, .ids = ids, .weights = weights,
            .mid = mid, .n_experts = s.n_experts, .limit = 7.0f);
    fetched(b, y, together[0]);
    for (int t = 0; t < T; t += 5) {
        const view one = view_rows(y, t, 1);
        CHECKED(b, expert_ffn, .x = view_rows(x, t, 1), .y = one, .gate = s.gate, .up = s.up, .down = s.down,
                .ids = view_rows(ids, t, 1), .weights = view_rows(weights, t, 1), .mid = mid, .n_experts = s.n_experts,
                .limit = 7.0f);
        fetched(b, one, alone);
        EXPECT(memcmp(alone, together[t], sizeof alone) == 0);
    }
    const view own[] = { x, y, mid, weights, ids };
    for (int i = 0; i < 5; i++) checked_free(b, own[i]);
    drop_stack(b, s);
    b->close(b);
}

/* ---- the whole block -------------------------------------------------------------------------------- */

static void run_block(backend *b, int rows, bool hash)
{
    enum { D = 256, F = 128, N = 12 };
    const stack s = stack_of(b, (stack_shape){ N, D, F, QUANT_Q8_0, QUANT_Q8_0, QUANT_Q8_0 });
    const view inp = checked_weight(b, N, D, QUANT_F32, WEIGHT_MATRIX, N, 31);
    const view gate = checked_weight(b, F, D, QUANT_Q8_0, WEIGHT_MATRIX, F, 32);
    const view up = checked_weight(b, F, D, QUANT_Q8_0, WEIGHT_MATRIX, F, 33);
    const view down = checked_weight(b, D, F, QUANT_Q8_0, WEIGHT_MATRIX, D, 34);
    const view x = checked_random(b, rows, D, 1.0f, (uint64_t)rows), y = checked_view(b, rows, D, QUANT_F32);
    const view logits = checked_view(b, rows, N, QUANT_F32);
    const view bias = checked_random(b, 1, N, 0.3f, 36), mid = checked_view(b, (int64_t)rows * USED, F, QUANT_F32);
    const view own = checked_view(b, rows, D, QUANT_F32), shared = checked_view(b, rows, D, QUANT_F32);
    const view gate_out = checked_view(b, rows, F, QUANT_F32), up_out = checked_view(b, rows, F, QUANT_F32);
    const chosen c = room(b, rows, USED);
    int32_t table[VOCAB][USED], token[ROWS], pos[ROWS] = { 0 }, of[ROWS] = { 0 };
    for (int v = 0; v < VOCAB; v++)
        for (int i = 0; i < USED; i++) table[v][i] = (v + 2 * i) % N;
    for (int t = 0; t < ROWS; t++) token[t] = t * 7 % VOCAB;
    const view by_token = filled(b, VOCAB, USED, QUANT_I32, table);
    const segment one = { .n = rows };
    const batch_rows batch = { rows, pos, token, of, &one, 1 };
    const view none = { 0 };
    CHECKED(b, moe_block, .x = x, .y = y, .gate_inp = inp,
            .router = { .logits = logits, .bias = hash ? none : bias, .hash = hash ? by_token : none, .ids = c.ids,
                        .weights = c.weights, .rows = &batch, .scale = 1.5f },
            .experts = { .x = x, .y = own, .gate = s.gate, .up = s.up, .down = s.down, .ids = c.ids,
                         .weights = c.weights, .mid = mid, .n_experts = N, .limit = 7.0f },
            .shared = { .x = x, .y = shared, .gate = gate, .up = up, .down = down, .gate_out = gate_out,
                        .up_out = up_out, .limit = 7.0f });
    const view all[] = { inp, gate, up, down, x, y, logits, bias, mid, own, shared, gate_out, up_out, by_token };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) checked_free(b, all[i]);
    drop(b, c);
    drop_stack(b, s);
}

TEST(the_block_of_experts_adds_the_shared_one_for_few_and_many_rows)
{
    const int rows[] = { 1, 3, 16, 17, 33 };
    for (int i = 0; i < 5; i++) {
        backend *b = checked_open(&limits, i == 1, i % 2 ? LANES_SHUFFLED : LANES_BACKWARD);
        run_block(b, rows[i], i % 2 == 0);
        b->close(b);
    }
}
