/* Attention's inner loops against their definitions, and the op against the
 * formula in double; bits across the ways to cut the work. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_kernels.h"
#include "model/kv.h"

static const uint32_t rungs[] = { ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_NEON };

/* Calls f for each rung of this machine. */
static void each_rung(void (*f)(const attn_kernels *k, uint32_t isa))
{
    for (size_t i = 0; i < sizeof rungs / sizeof rungs[0]; i++) {
        if (rungs[i] & ~cpu_isa_present()) continue;
        cpu_kernels k;
        cpu_kernels_init(&k, rungs[i]);
        f(&k.attn, rungs[i]);
    }
}

static float *normals(random_stream *r, size_t n)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)random_normal(r);
    return x;
}

static void unpack_gives_the_definition(const attn_kernels *k, uint32_t isa)
{
    static const kv_row formats[] = { { KV_ROW_FP8, 512, 448 }, { KV_ROW_FP8, 128, 64 }, { KV_ROW_FP8, 96, 80 },
                                      { KV_ROW_FP8, 72, 64 },   { KV_ROW_FP4, 128, 0 },  { KV_ROW_F32, 40, 0 } };
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (int round = 0; round < 400; round++) {
            uint8_t *row = malloc((size_t)kv_row_bytes(formats[f]));        /* exact, so that a sanitizer sees the end */
            float want[512], got[513];
            for (int i = 0; i < kv_row_bytes(formats[f]); i++) {
                row[i] = (uint8_t)random_below(&r, 256);
                if (round < 256 && i >= kv_row_scales(formats[f]) && i < kv_row_tail(formats[f])) row[i] = (uint8_t)round;
                if (round % 2 && (row[i] & 127) == 127) row[i] = 0;         /* without NaN: the fast way */
            }
            got[formats[f].width] = 0.5f;
            kv_row_unpack(formats[f], want, row);
            k->unpack(formats[f], got, row);
            EXPECT(got[formats[f].width] == 0.5f);
            for (int i = 0; i < formats[f].width; i++)
                if (memcmp(&want[i], &got[i], 4) && !(isnan(want[i]) && isnan(got[i]))) {
                    test_fail(__FILE__, __LINE__, "%s, format %zu, number %d: %.9g, want %.9g", cpu_isa_name(isa), f, i,
                              (double)got[i], (double)want[i]);
                    break;
                }
            free(row);
        }
}

TEST(unpacking_gives_the_definitions_bits) { each_rung(unpack_gives_the_definition); }

static void round_gives_the_definition(const attn_kernels *k, uint32_t isa)
{
    static const kv_row formats[] = { { KV_ROW_FP8, 512, 448 }, { KV_ROW_FP8, 96, 64 }, { KV_ROW_FP8, 96, 80 },
                                      { KV_ROW_F32, 32, 0 },
                                      { KV_ROW_FP4, 128, 0 },   { KV_ROW_FP4, 32, 0 },  { KV_ROW_FP4, 16, 0 },  { KV_ROW_FP4, 512, 0 } };
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (int round = 0; round < 300; round++) {
            float want[513], got[513];
            const int n = formats[f].width, power = round % 3 ? 0 : (int)random_below(&r, 250) - 130;
            for (int i = 0; i < n; i++) {           /* whole and half numbers make ties */
                const double x = random_normal(&r);
                want[i] = (float)ldexp(round % 4 == 1 ? floor(x * 8) / 2 : x,
                                       power - (int)random_below(&r, 1 + (uint64_t)(round % 20)));
                if (random_below(&r, 40) == 0) want[i] = i % 2 ? 0.0f : -0.0f;
                if (round % 10 == 9 && random_below(&r, 30) == 0) want[i] = i % 3 ? NAN : INFINITY;
            }
            want[n] = 0.5f;
            memcpy(got, want, sizeof got);
            attn_round(formats[f], want);
            k->round(formats[f], got);
            EXPECT(got[n] == 0.5f);
            for (int i = 0; i < n; i++)
                if (memcmp(&want[i], &got[i], 4) && !(isnan(want[i]) && isnan(got[i]))) {
                    test_fail(__FILE__, __LINE__, "%s, format %zu, number %d: %.9g, want %.9g", cpu_isa_name(isa), f, i,
                              (double)got[i], (double)want[i]);
                    break;
                }
        }
}

TEST(rounding_gives_the_definitions_bits) { each_rung(round_gives_the_definition); }

/* A card's NaN is all ones but for its sign, a CPU's has one bit more than infinity. */
static void nan_stays_nan(const attn_kernels *k, uint32_t isa)
{
    static const uint32_t bits[] = { 0x7fc00000, 0xffc00000, 0x7fffffff, 0xffffffff, 0x7ff80000 };
    (void)isa;
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        float row[2][96] = { { 1.0f, 2.0f }, { 1.0f, 2.0f } };
        for (int j = 0; j < 2; j++) memcpy(&row[j][7], &bits[i], 4);
        attn_round((kv_row){ KV_ROW_FP8, 96, 80 }, row[0]);
        k->round((kv_row){ KV_ROW_FP8, 96, 80 }, row[1]);
        for (int j = 0; j < 2; j++)
            EXPECT(isnan(row[j][7]) && row[j][0] == 1.0f && row[j][1] == 2.0f && row[j][8] == 0.0f);
    }
}

TEST(a_rounded_nan_is_one_whatever_its_bits) { each_rung(nan_stays_nan); }

#define MOST_HEADS 9

/* n terms of size 1 in another order: sqrt(n) roundings of the sum, with room. */
static float near_sum(int n) { return 4e-7f * sqrtf((float)n) * (1 + sqrtf((float)n)); }

static void loops_stay_near(const attn_kernels *k, uint32_t isa)
{
    static const int widths[] = { 8, 16, 20, 64, 128, 200, 512 }, row_counts[] = { 1, 3, 4, 7, 8, 17, 31, 32 };
    cpu_kernels ref;
    cpu_kernels_init(&ref, 0);
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (size_t c = 0; c < sizeof row_counts / sizeof row_counts[0]; c++)
            for (int H = 1; H <= MOST_HEADS; H += 2) {
                const int K = widths[w], n = row_counts[c], stride = attn_row_stride(K);
                float *q = normals(&r, (size_t)(H * K)), *rows = normals(&r, (size_t)(ATTN_TILE * stride));
                float *acc = normals(&r, (size_t)(H * K)), *want_acc = malloc((size_t)(H * K) * sizeof *acc);
                float *one_acc = malloc((size_t)(H * K) * sizeof *acc);
                float s[(MOST_HEADS + 1) * ATTN_TILE], want[MOST_HEADS * ATTN_TILE], one[ATTN_TILE], keep[MOST_HEADS];
                float top[MOST_HEADS], sum[MOST_HEADS], want_top[MOST_HEADS], want_sum[MOST_HEADS], want_keep[MOST_HEADS];
                for (int i = 0; i < n * stride; i++)
                    if (i % stride >= K) rows[i] = NAN;                     /* the gap */
                for (int i = n * stride; i < ATTN_TILE * stride; i++) rows[i] = NAN;
                for (int i = 0; i < (MOST_HEADS + 1) * ATTN_TILE; i++) s[i] = 77.0f;
                memcpy(want_acc, acc, (size_t)(H * K) * sizeof *acc);
                memcpy(one_acc, acc, (size_t)(H * K) * sizeof *acc);

                ref.attn.scores(want, q, H, rows, n, K);
                k->scores(s, q, H, rows, n, K);
                for (int h = 0; h < H; h++) {
                    EXPECT_NEAR(s + h * ATTN_TILE, want + h * ATTN_TILE, n, near_sum(K), "%s scores K %d rows %d",
                                cpu_isa_name(isa), K, n);
                    for (int i = 0; i < n; i++) {                           /* alone: the same bits */
                        k->scores(one, q + h * K, 1, rows + i * stride, 1, K);
                        EXPECT(!memcmp(one, &s[h * ATTN_TILE + i], 4));
                    }
                }
                EXPECT(s[H * ATTN_TILE] == 77.0f);

                for (int h = 0; h < H; h++) {
                    top[h] = want_top[h] = (float)h - 3;
                    sum[h] = want_sum[h] = 1.0f + (float)h;
                }
                memcpy(want, s, sizeof want);
                ref.attn.weigh(want, H, n, 0.5f, want_top, want_sum, want_keep);
                k->weigh(s, H, n, 0.5f, top, sum, keep);
                for (int h = 0; h < H; h++) {
                    EXPECT(top[h] == want_top[h]);
                    EXPECT_NEAR(s + h * ATTN_TILE, want + h * ATTN_TILE, n, 3e-7f, "%s weights of %d rows",
                                cpu_isa_name(isa), n);
                }
                EXPECT_NEAR(keep, want_keep, H, 3e-7f, "%s keep", cpu_isa_name(isa));
                EXPECT_NEAR(sum, want_sum, H, 1e-5f, "%s sum", cpu_isa_name(isa));

                ref.attn.mix(want_acc, keep, s, H, rows, n, K);
                k->mix(acc, keep, s, H, rows, n, K);
                EXPECT_NEAR(acc, want_acc, H * K, near_sum(n + 1), "%s mix K %d rows %d", cpu_isa_name(isa), K, n);
                for (int h = 0; h < H; h++) k->mix(one_acc + h * K, keep + h, s + h * ATTN_TILE, 1, rows, n, K);
                EXPECT(!memcmp(acc, one_acc, (size_t)(H * K) * sizeof *acc));
                free(q);
                free(rows);
                free(acc);
                free(want_acc);
                free(one_acc);
            }
}

TEST(loops_stay_near_the_definitions_and_keep_their_bits) { each_rung(loops_stay_near); }

static void pooling(const attn_kernels *k, uint32_t isa)
{
    static const int counts[] = { 1, 4, 8, 128 }, widths[] = { 3, 16, 37, 128, 512 };
    cpu_kernels ref;
    cpu_kernels_init(&ref, 0);
    random_stream r;
    random_seed(&r, test_seed());
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 5; b++) {
            const int n = counts[a], d = widths[b];
            float *values = normals(&r, (size_t)(n * d)), *scores = normals(&r, (size_t)(n * d)), want[513], got[513];
            const float *value[128], *score[128];
            for (int i = 0; i < n; i++) {
                value[i] = values + i * d;
                score[i] = scores + i * d;
            }
            for (int i = 0; i < n * d; i++)
                scores[i] = random_below(&r, 9) || i >= (n - 1) * d ? 6 * scores[i] : -INFINITY;
            got[d] = 0.5f;
            ref.attn.pool(want, value, score, n, d);
            k->pool(got, value, score, n, d);
            EXPECT(got[d] == 0.5f);
            EXPECT_NEAR(got, want, d, near_sum(n + 3), "%s pooling of %d tokens, %d channels", cpu_isa_name(isa), n, d);
            values[0] = NAN;
            k->pool(got, value, score, n, d);
            EXPECT(isnan(got[0]));
            free(values);
            free(scores);
        }
}

TEST(pooling_stays_near_the_definition) { each_rung(pooling); }

static void exponential(const attn_kernels *k, uint32_t isa)
{
    for (int i = 0; i <= 9000; i++) {
        const float x = -0.01f * (float)i;
        float s[ATTN_TILE] = { x }, top = 0.0f, sum = 0.0f, keep;
        k->weigh(s, 1, 1, 1.0f, &top, &sum, &keep);
        const float want = expf(x), off = fabsf(s[0] - want);
        if (off > want * 2.4e-7f && !(want < 2e-38f && off < 2e-38f))
            test_fail(__FILE__, __LINE__, "%s: e^%g is %.9g, want %.9g", cpu_isa_name(isa), (double)x, (double)s[0],
                      (double)want);
    }
    float s[ATTN_TILE] = { -INFINITY, NAN, 1.0f }, top = -INFINITY, sum = 0.0f, keep;
    k->weigh(s, 1, 3, 1.0f, &top, &sum, &keep);
    EXPECT(s[0] == 0.0f && isnan(s[1]) && isnan(sum) && keep == 0.0f);
}

TEST(the_exponential_is_within_two_steps) { each_rung(exponential); }

/* ---- the op ------------------------------------------------------------------------- */

enum { K = 80, HEADS = 6, WINDOW = 40, LENGTH = 300, LAST = 37, TOP = 48 };

typedef struct {
    backend *b;
    kv_pool *pool;
    kv      *k;
    float   *ring[LENGTH], *compressed[LENGTH / 4];      /* as unpacked */
    float    q[LAST][HEADS * K], sinks[HEADS];
    int32_t  chosen[LAST][TOP];
    model_config c;
} scene;

static void set_scene(scene *s, uint32_t isa, int ratio, int threads)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, test_seed());
    memset(s, 0, sizeof *s);
    s->c = (model_config){ .n_layer = 1, .head_dim = K, .n_rot = 16, .n_swa = WINDOW, .index_dim = 32 };
    s->c.ratio[0] = ratio;
    const backend_options bo = { .name = "cpu", .n_threads = threads, .isa_mask = isa,
                                 .limits = { .max_rows = LAST, .max_cols = HEADS * K,
                                 .max_pairs = 1, .max_expert_width = 256, .n_experts = 1, .max_head_width = K } };
    const kv_options ko = { .max_sessions = 1, .max_tokens = LENGTH, .max_step = LENGTH, .packed = true };
    REQUIRE_OK(backend_open(&s->b, &bo, &err), err);
    REQUIRE_OK(kv_pool_open(&s->pool, &s->c, &ko, s->b, &err), err);
    REQUIRE_OK(kv_open(&s->k, s->pool, LENGTH, &err), err);
    REQUIRE_OK(kv_grow(s->k, LENGTH, &err), err);
    const kv_row f = s->k->memory.layer[0].row;
    uint8_t row[1024];
    kv_move m = { .k = s->k, .writes = true };
    for (int p = 0; p < LENGTH; p++) {
        s->ring[p] = normals(&r, K);
        kv_row_pack(f, row, s->ring[p]);
        kv_row_unpack(f, s->ring[p], row);
        kv_move_ring(&m, 0, p, 1, row);
        EXPECT_OK(kv_move_run(&m, &err), err);
    }
    for (int b = 0; ratio && b < LENGTH / ratio; b++) {
        s->compressed[b] = normals(&r, K);
        kv_row_pack(f, row, s->compressed[b]);
        kv_row_unpack(f, s->compressed[b], row);
        kv_move_compressed(&m, 0, false, b, 1, row);
        EXPECT_OK(kv_move_run(&m, &err), err);
    }
    for (int t = 0; t < LAST; t++) {
        for (int i = 0; i < HEADS * K; i++) s->q[t][i] = (float)random_normal(&r);
        for (int i = 0; i < TOP; i++) s->chosen[t][i] = i < TOP - t % 5 ? i + t % 7 + i / 9 : -1;
    }
    for (int h = 0; h < HEADS; h++) s->sinks[h] = (float)random_normal(&r);
}

static void strike_scene(scene *s)
{
    for (int p = 0; p < LENGTH; p++) free(s->ring[p]);
    for (int i = 0; i < LENGTH / 4; i++) free(s->compressed[i]);
    kv_close(s->k);
    kv_pool_close(s->pool);
    s->b->close(s->b);
}

static view over(backend *b, buf **store, void *data, int64_t n, int cols, quant_type type)
{
    ds4_error err;
    EXPECT_OK(b->buf_map(b, data, (uint64_t)n * (uint64_t)cols * 4, store, &err), err);
    return (view){ .buf = *store, .rows = n, .cols = cols, .type = type, .stride = (uint64_t)cols * 4 };
}

/* The last queries t .. t+n-1 of the sequence. */
static void run_attend(scene *s, int t, int n, bool select, float *out)
{
    int32_t pos[LAST], zero[LAST] = { 0 };
    for (int i = 0; i < n; i++) pos[i] = LENGTH - LAST + t + i;
    const segment seg = { &s->k->memory, 0, n, pos[0] };
    const batch_rows rows = { n, pos, zero, zero, &seg, 1 };
    buf *m[4];
    const attend_args a = {
        .q = over(s->b, &m[0], s->q[t], n, HEADS * K, QUANT_F32), .heads = over(s->b, &m[1], out, n, HEADS * K, QUANT_F32),
        .sinks = over(s->b, &m[2], s->sinks, 1, HEADS, QUANT_F32),
        .selected = select ? over(s->b, &m[3], s->chosen[t], n, TOP, QUANT_I32) : (view){ 0 }, .rows = &rows,
        .n_heads = HEADS, .n_swa = WINDOW, .ratio = s->c.ratio[0], .scale = 0.3f };
    EXPECT(!s->b->ops.attend(&s->b->queue, &a));
    for (int i = 0; i < (select ? 4 : 3); i++) s->b->buf_free(s->b, m[i]);
}

static void formula(const scene *s, int t, int h, bool select, float *out)
{
    const int pos = LENGTH - LAST + t, ratio = s->c.ratio[0];
    const float *row[WINDOW + LENGTH];
    int n = 0;
    for (int p = pos - WINDOW + 1; p <= pos; p++) row[n++] = s->ring[p];
    if (select) for (int i = 0; i < TOP && s->chosen[t][i] >= 0; i++) row[n++] = s->compressed[s->chosen[t][i]];
    else if (ratio) for (int b = 0; b < (pos + 1) / ratio; b++) row[n++] = s->compressed[b];

    double sum = exp((double)s->sinks[h]), acc[K] = { 0 };
    for (int i = 0; i < n; i++) {
        double dot = 0;
        for (int j = 0; j < K; j++) dot += (double)s->q[t][h * K + j] * row[i][j];
        const double e = exp((double)0.3f * dot);
        sum += e;
        for (int j = 0; j < K; j++) acc[j] += e * row[i][j];
    }
    for (int j = 0; j < K; j++) out[j] = (float)(acc[j] / sum);
}

TEST(attend_is_the_formula_however_the_queries_are_cut)
{
    static const uint32_t isas[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_NEON };
    static const struct { int ratio; bool select; } kinds[] = { { 0, false }, { 4, false }, { 4, true }, { 128, false } };
    static scene s;
    static float all[LAST][HEADS * K], cut[LAST][HEADS * K];
    for (size_t i = 0; i < 4; i++)
        for (size_t kind = 0; kind < 4; kind++) {
            if (isas[i] & ~cpu_isa_present()) continue;
            set_scene(&s, isas[i], kinds[kind].ratio, 1 + (int)kind % 3);
            run_attend(&s, 0, LAST, kinds[kind].select, all[0]);
            for (int t = 0; t < LAST; t += 3)
                for (int h = 0; h < HEADS; h++) {
                    float want[K];
                    formula(&s, t, h, kinds[kind].select, want);
                    EXPECT_NEAR(all[t] + h * K, want, K, 3e-6f, "%s ratio %d query %d head %d", cpu_isa_name(isas[i]),
                                kinds[kind].ratio, t, h);
                }
            for (int step = 1; step <= 8; step += step == 1 ? 2 : 5) {
                for (int t = 0; t < LAST; t += step)
                    run_attend(&s, t, t + step <= LAST ? step : LAST - t, kinds[kind].select, cut[t]);
                EXPECT(!memcmp(all, cut, sizeof all));
            }
            strike_scene(&s);
        }
}
