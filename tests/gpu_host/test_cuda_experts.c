/* Kernels of experts*.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

#include <math.h>
#include <string.h>

enum { E = 40, USED = 6, ROWS = 40, VOCAB = 50 };

static const backend_limits limits = { .max_rows = ROWS, .max_cols = 1024, .max_pairs = ROWS * USED, .max_expert_width = 512,
                                       .n_experts = E, .max_head_width = 64, .index_top_k = 8, .n_layer = 4 };

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
        CHECKED(b, router, .logits = logits, .hash = hash, .ids = c.ids, .weights = c.weights, .rows = &batch, .scale = 1.5f);
        drop(b, c);
    }
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
