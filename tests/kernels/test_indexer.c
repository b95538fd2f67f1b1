/* The indexer: integers against floats, every rung to the bit, the choice of rows
 * against a sort. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_kernels.h"
#include "model/kv.h"

static const uint32_t isas[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_NEON };

static bool lacks(uint32_t isa) { return (isa & ~cpu_isa_present()) != 0; }

static backend *open_cpu(uint32_t isa, int threads)
{
    backend *b = NULL;
    ds4_error err;
    const backend_options o = { .name = "cpu", .n_threads = threads, .isa_mask = isa, .limits = {
        .max_rows = 32, .max_cols = 8192, .max_pairs = 1, .max_expert_width = 256, .n_experts = 1, .max_head_width = 64,
        .index_heads = 64, .index_width = 128, .index_top_k = 512 } };
    EXPECT_OK(backend_open(&b, &o, &err), err);
    return b;
}

static view over(backend *b, buf **store, void *data, int64_t n, int cols, quant_type type)
{
    ds4_error err;
    EXPECT_OK(b->buf_map(b, data, (uint64_t)n * (uint64_t)cols * 4, store, &err), err);
    return (view){ .buf = *store, .rows = n, .cols = cols, .type = type, .stride = (uint64_t)cols * 4 };
}

/* Rows as the model makes them: random, then Hadamard and FP4. */
static void rounded_rows(backend *b, random_stream *r, float *x, int n, int width)
{
    buf *m;
    for (int i = 0; i < n * width; i++) x[i] = (float)(random_normal(r) * (i / width % 7 ? 1.0 : 1e-3));
    const view v = over(b, &m, x, n, width, QUANT_F32);
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .kind = ROUND_HADAMARD_FP4 }));
    b->buf_free(b, m);
}

TEST(integer_scores_are_the_float_ones_and_equal_on_every_rung)
{
    static const struct { int heads, width; } shapes[] = { { 1, 32 }, { 3, 64 }, { 8, 128 }, { 9, 128 }, { 64, 128 },
                                                           { 5, 256 } };
    static const int counts[] = { 1, 2, 7, 8, 9, 15, 16, 17, 33, 63, 64 };
    backend *b = open_cpu(0, 1);
    cpu_kernels ref;
    cpu_kernels_init(&ref, 0);
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            const int H = shapes[s].heads, width = shapes[s].width, n = counts[c];
            const kv_row f = { KV_ROW_FP4, width, 0 };
            const uint64_t stride = (uint64_t)kv_row_bytes(f);
            float *q = malloc((size_t)(H * width) * sizeof *q), *key = malloc((size_t)(n * width) * sizeof *key), w[64];
            uint8_t *rows = malloc(stride * (uint64_t)n);
            rounded_rows(b, &r, q, H, width);
            rounded_rows(b, &r, key, n, width);
            for (int h = 0; h < H; h++) w[h] = (float)random_normal(&r);
            for (int k = 0; k < n; k++) kv_row_pack(f, rows + stride * (uint64_t)k, key + k * width);

            void *query_memory = aligned_alloc(64, index_query_bytes(H, width));
            memset(query_memory, 0, index_query_bytes(H, width));
            const index_query iq = index_query_at(query_memory, H, width);
            ref.attn.index_fill(&iq, q, w, 0.01f);
            float want[INDEX_TILE], got[INDEX_TILE + 1];
            for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
                if (lacks(isas[i])) continue;
                cpu_kernels fast;
                cpu_kernels_init(&fast, isas[i]);
                void *keys_memory = aligned_alloc(64, index_keys_bytes(width));
                const index_keys keys = index_keys_at(keys_memory, width);
                got[n] = 5.0f;
                void *other_memory = aligned_alloc(64, index_query_bytes(H, width));
                const index_query other = index_query_at(other_memory, H, width);
                memset(other_memory, 0, index_query_bytes(H, width));
                fast.attn.index_fill(&other, q, w, 0.01f);
                EXPECT(!memcmp(other_memory, query_memory, index_query_bytes(H, width)));
                free(other_memory);
                fast.attn.index_unpack(&keys, f, rows, stride, n);
                fast.attn.index_scores(got, &iq, &keys, n);
                EXPECT(got[n] == 5.0f);
                if (i == 0) memcpy(want, got, sizeof want);
                if (memcmp(want, got, (size_t)n * sizeof *got))
                    test_fail(__FILE__, __LINE__, "%s: %d heads of %d, %d keys: other bits", cpu_isa_name(isas[i]), H,
                              width, n);
                free(keys_memory);
            }
            for (int k = 0; k < n; k++) {
                double sum = 0, size = 0;
                for (int h = 0; h < H; h++) {
                    double dot = 0;
                    for (int j = 0; j < width; j++) dot += (double)q[h * width + j] * key[k * width + j];
                    if (dot < 0) continue;
                    sum += (double)w[h] * 0.01f * dot;
                    size += fabs((double)w[h]) * 0.01f * dot;
                }
                if (fabs(sum - want[k]) > 1e-6 * size + 1e-30)
                    test_fail(__FILE__, __LINE__, "%d heads of %d, key %d: %.9g, want %.9g", H, width, k,
                              (double)want[k], sum);
            }
            free(query_memory);
            free(q);
            free(key);
            free(rows);
        }
    b->close(b);
}

/* ---- the op --------------------------------------------------------------------- */

enum { H = 5, WIDTH = 64, LENGTH = 1900, QUERIES = 19 };

typedef struct {
    backend *b;
    kv_pool *pool;
    kv      *k[2];              /* of different lengths */
    model_config c;
} scene;

static void set_scene(scene *s, uint32_t isa, int threads, bool packed)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, test_seed());
    *s = (scene){ .b = open_cpu(isa, threads), .c = { .n_layer = 1, .head_dim = 32, .n_rot = 16, .n_swa = 8,
                                                      .index_dim = WIDTH, .ratio = { 4 } } };
    const kv_options o = { .max_sessions = 2, .max_tokens = LENGTH, .max_step = 16, .packed = packed };
    REQUIRE_OK(kv_pool_open(&s->pool, &s->c, &o, s->b, &err), err);
    const kv_row f = kv_row_format(&s->c, packed, true);
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(kv_open(&s->k[i], s->pool, LENGTH, &err), err);
        REQUIRE_OK(kv_grow(s->k[i], i ? LENGTH / 2 : LENGTH, &err), err);
        for (int row = 0; row < s->k[i]->length / 4; row++) {
            float x[WIDTH];
            uint8_t bytes[WIDTH * 4];
            rounded_rows(s->b, &r, x, 1, WIDTH);
            kv_row_pack(f, bytes, x);
            kv_move m = { .k = s->k[i], .writes = true };
            kv_move_compressed(&m, 0, true, row, 1, bytes);
            EXPECT_OK(kv_move_run(&m, &err), err);
        }
    }
}

static void strike_scene(scene *s)
{
    for (int i = 0; i < 2; i++) kv_close(s->k[i]);
    kv_pool_close(s->pool);
    s->b->close(s->b);
}

/* Scores of queries first .. first+n-1 of a batch: the ends of both sessions. */
static void run_scores(scene *s, float *q, float *w, int first, int n, float *out)
{
    int32_t pos[QUERIES], segment_of[QUERIES];
    const int half = QUERIES / 2;
    for (int t = 0; t < QUERIES; t++) {
        segment_of[t] = t >= half;
        pos[t] = t < half ? s->k[0]->length - half + t : s->k[1]->length - QUERIES + t;
    }
    const segment seg[2] = { { &s->k[0]->memory, 0, half, pos[0] },
                             { &s->k[1]->memory, half, QUERIES - half, pos[half] } };
    const batch_rows rows = { QUERIES, pos, pos, segment_of, seg, 2 };
    buf *m[3];
    EXPECT(!s->b->ops.index_scores(&s->b->queue, &(index_scores_args){
        .q = over(s->b, &m[0], q + first * H * WIDTH, n, H * WIDTH, QUANT_F32),
        .weights = over(s->b, &m[1], w + first * H, n, H, QUANT_F32),
        .scores = over(s->b, &m[2], out + first * LENGTH / 4, n, LENGTH / 4, QUANT_F32), .rows = &rows, .first = first,
        .n_heads = H, .scale = 0.05f, .ratio = 4 }));
    for (int i = 0; i < 3; i++) s->b->buf_free(s->b, m[i]);
}

TEST(scores_do_not_depend_on_the_cut_and_packing_changes_no_order)
{
    static float q[QUERIES * H * WIDTH], w[QUERIES * H];
    static float floats[QUERIES * LENGTH / 4], all[QUERIES * LENGTH / 4], cut[QUERIES * LENGTH / 4];
    static scene s;
    random_stream r;
    random_seed(&r, test_seed() + 1);
    set_scene(&s, 0, 1, false);
    rounded_rows(s.b, &r, q, QUERIES * H, WIDTH);
    for (int i = 0; i < QUERIES * H; i++) w[i] = (float)random_normal(&r);
    memset(floats, 0, sizeof floats);
    run_scores(&s, q, w, 0, QUERIES, floats);
    strike_scene(&s);
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if (lacks(isas[i])) continue;
        set_scene(&s, isas[i], 1 + (int)i % 3, true);
        memset(all, 0, sizeof all);                 /* what is not visible stays */
        memset(cut, 0, sizeof cut);
        run_scores(&s, q, w, 0, QUERIES, all);
        for (int t = 0; t < QUERIES; t += 3) run_scores(&s, q, w, t, t + 3 <= QUERIES ? 3 : QUERIES - t, cut);
        EXPECT(!memcmp(all, cut, sizeof all));
        EXPECT_NEAR(all, floats, QUERIES * LENGTH / 4, 1e-5, "%s against the float path", cpu_isa_name(isas[i]));
        strike_scene(&s);
    }
}

typedef struct {
    float score;
    int   row;
} candidate;

/* NaN is the smallest, ties go to the lower row. */
static int better_first(const void *pa, const void *pb)
{
    const candidate *a = pa, *b = pb;
    const float x = isnan(a->score) ? -INFINITY : a->score, y = isnan(b->score) ? -INFINITY : b->score;
    return x > y ? -1 : x < y ? 1 : a->row - b->row;
}

static int by_row(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

static void top_k_is_a_sort(uint32_t isa)
{
    enum { MOST = 5000 };
    static float scores[MOST];
    static candidate sorted[MOST];
    backend *b = open_cpu(isa, 2);
    random_stream r;
    random_seed(&r, test_seed());
    for (int round = 0; round < 300; round++) {
        const int n = 1 + (int)random_below(&r, round % 3 ? 700 : MOST);
        const int k = round % 5 ? 512 : 1 + (int)random_below(&r, 40);
        const int kind = (int)random_below(&r, 5);
        for (int i = 0; i < n; i++) {
            const double x = random_normal(&r);
            scores[i] = (float)(kind == 0 ? x : kind == 1 ? floor(x * 3) : kind == 2 ? ldexp(x, (int)random_below(&r, 200) - 100)
                                        : kind == 3 ? (x > 0 ? 0.0 : -0.0) : 1 + x * 1e-6);
            if (random_below(&r, 50) == 0)
                scores[i] = random_below(&r, 2) ? NAN : random_below(&r, 2) ? INFINITY : -INFINITY;
            sorted[i] = (candidate){ scores[i], i };
        }
        qsort(sorted, (size_t)n, sizeof *sorted, better_first);
        int32_t want[512], got[512];
        for (int i = 0; i < k; i++) want[i] = i < n ? sorted[i].row : -1;
        qsort(want, (size_t)(k < n ? k : n), sizeof *want, by_row);

        buf *m[2];
        const int32_t pos = 4 * n - 1, zero = 0;
        const batch_rows rows = { .n = 1, .pos = &pos, .token = &zero, .segment_of = &zero };
        EXPECT(!b->ops.top_k(&b->queue, &(top_k_args){ .scores = over(b, &m[0], scores, 1, n, QUANT_F32),
                                                       .selected = over(b, &m[1], got, 1, k, QUANT_I32), .rows = &rows,
                                                       .ratio = 4 }));
        b->buf_free(b, m[0]);
        b->buf_free(b, m[1]);
        if (memcmp(want, got, (size_t)k * sizeof *want)) {
            test_fail(__FILE__, __LINE__, "%s, round %d: the %d largest of %d scores of kind %d", cpu_isa_name(isa),
                      round, k, n, kind);
            break;
        }
    }
    b->close(b);
}

TEST(top_k_is_a_sort)
{
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
        if (!lacks(isas[i])) top_k_is_a_sort(isas[i]);
}
