/* The whole engine against logits that another implementation computed in
 * float64 (tests/data/golden). Rounding steps are off here: the numbers have
 * none, but for the last tests, which are about the roundings themselves. */
#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ds4.h"
#include "factory/convert.h"
#include "golden/golden.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/shared/formulas.h"

static const char *const models[] = { "tiny-a", "tiny-b", "tiny-c" };
#define N_MODELS ((int)(sizeof models / sizeof models[0]))
#define MAX_IDS 1024

/* The checkpoint as a GGUF of floats; made once per name. */
static const char *converted(const char *name)
{
    static char path[512];
    char scratch[64], dir[64];
    ds4_error err;
    snprintf(scratch, sizeof scratch, "%s.gguf", name);
    snprintf(path, sizeof path, "%s", test_scratch(scratch));
    FILE *f = fopen(path, "rb");
    if (f) {
        fclose(f);
        return path;
    }
    snprintf(dir, sizeof dir, "golden/%s", name);
    convert_options o = convert_defaults();
    o.dir = test_data(dir);
    o.out = path;
    o.recipe = "f32";
    const ds4_status st = convert_run(&o, &err);
    if (st) test_fail(__FILE__, __LINE__, "converting %s: %s", name, err.message);
    return st ? NULL : path;
}

static bool open_golden(golden *g, const char *name)
{
    char dir[64];
    ds4_error err;
    snprintf(dir, sizeof dir, "golden/%s", name);
    const ds4_status st = golden_open(g, test_data(dir), &err);
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    return st == DS4_OK;
}

static ds4_engine *open_engine(const char *name, uint32_t isa, int threads, int rows, bool rounding)
{
    ds4_engine *e = NULL;
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = converted(name);
    o.isa_mask = isa;
    o.n_threads = threads;
    o.max_tokens = MAX_IDS;
    o.max_batch_rows = rows;
    o.no_rounding = !rounding;
    o.backend = getenv("DS4_TEST_DEVICE");      /* "cuda": a card, in a program with the kernels inside */
    const ds4_status st = ds4_engine_open(&e, &o, &err);
    if (st) test_fail(__FILE__, __LINE__, "opening %s: %s", name, err.message);
    return e;
}

/* Logits at all positions, tokens fed in pieces of the given sizes (repeated). */
static float *all_logits(ds4_engine *e, const int32_t *ids, int n, const int *pieces, int n_pieces)
{
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    const size_t V = (size_t)shape.n_vocab;
    float *out = malloc((size_t)n * V * sizeof *out);
    ds4_error err;
    ds4_session *s = NULL;
    ds4_batch *b = NULL;
    ds4_status st = ds4_session_open(&s, e, MAX_IDS, &err);
    if (!st) st = ds4_batch_new(&b, e, &err);
    for (int done = 0, i = 0; done < n && !st; i++) {
        const int count = pieces[i % n_pieces] < n - done ? pieces[i % n_pieces] : n - done;
        st = ds4_batch_add(b, s, ids + done, count, DS4_LOGITS_ALL, &err);
        if (!st) st = ds4_engine_step(e, b, &err);
        for (int j = 0; j < count && !st; j++)
            memcpy(out + (size_t)(done + j) * V, ds4_batch_logits(b, j), V * sizeof *out);
        ds4_batch_clear(b);
        done += count;
    }
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    ds4_batch_free(b);
    ds4_session_close(s);
    return out;
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) if (x[i] > x[best]) best = i;
    return best;
}

static int vocabulary(ds4_engine *e)
{
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    return shape.n_vocab;
}

static void check_sequence(const golden *g, json_object *s, ds4_engine *e, const char *what)
{
    int32_t ids[MAX_IDS], at[MAX_IDS], best[MAX_IDS];
    const int n = golden_list(golden_get(s, "ids"), ids, MAX_IDS), V = vocabulary(e);
    const int n_at = golden_list(golden_get(s, "positions"), at, MAX_IDS);
    const int n_best = golden_list(golden_get(s, "argmax_all_positions"), best, MAX_IDS);
    /* eight times the noise of the library's own float32 evaluation */
    const double tolerance = 8.0 * json_object_get_double(golden_get(s, "noise_max"));
    size_t have;
    const float *want = golden_floats(g, golden_get(s, "logits"), &have);
    REQUIRE(want && have == (size_t)n_at * (size_t)V);

    const int whole = n;
    float *got = all_logits(e, ids, n, &whole, 1);
    for (int i = 0; i < n_at; i++)
        EXPECT_NEAR(got + (size_t)at[i] * (size_t)V, want + (size_t)i * (size_t)V, (size_t)V, tolerance,
                    "%s, length %d, position %d", what, n, at[i]);
    for (int i = 0; i < n_best; i++) EXPECT_INT(argmax(got + (size_t)i * (size_t)V, V), best[i]);
    free(got);
}

TEST(logits_agree_for_every_instruction_set)
{
    const uint32_t masks[] = { 0, ISA_AVX2 | ISA_NEON, ~0u };
    for (int m = 0; m < N_MODELS; m++) {
        golden g;
        if (!open_golden(&g, models[m])) continue;
        json_object *sequences = golden_get(g.index, "sequences");
        for (size_t k = 0; k < sizeof masks / sizeof masks[0]; k++) {
            ds4_engine *e = open_engine(models[m], masks[k], k == 0 ? 1 : 2, MAX_IDS, false);
            if (!e) break;
            char what[64];
            snprintf(what, sizeof what, "%s, isa mask %x", models[m], (unsigned)(masks[k] & cpu_isa_present()));
            for (size_t i = 0; i < json_object_array_length(sequences); i++)
                check_sequence(&g, json_object_array_get_idx(sequences, i), e, what);
            ds4_engine_close(e);
        }
        golden_close(&g);
    }
}

TEST(any_cut_into_chunks_gives_the_same_bits)
{
    static const int cuts[][8] = { { 1 }, { 2, 1 }, { 64, 3, 1, 61, 2, 130, 7, 50 }, { 127 }, { 128 }, { 16, 17 },
                                   { 5, 4, 3 } };
    static const int n_cuts[] = { 1, 2, 8, 1, 1, 2, 3 };
    for (int m = 0; m < N_MODELS; m++) {
        golden g;
        if (!open_golden(&g, models[m])) continue;
        ds4_engine *e = open_engine(models[m], ~0u, 2, MAX_IDS, false);
        json_object *sequences = golden_get(g.index, "sequences");
        json_object *longest = json_object_array_get_idx(sequences, json_object_array_length(sequences) - 1);
        int32_t ids[MAX_IDS];
        const int n = golden_list(golden_get(longest, "ids"), ids, MAX_IDS), V = e ? vocabulary(e) : 0;
        float *want = e ? all_logits(e, ids, n, &n, 1) : NULL;
        for (size_t c = 0; e && c < sizeof n_cuts / sizeof n_cuts[0]; c++) {
            float *got = all_logits(e, ids, n, cuts[c], n_cuts[c]);
            int first = -1;
            for (int i = 0; i < n && first < 0; i++)
                if (memcmp(got + (size_t)i * (size_t)V, want + (size_t)i * (size_t)V, (size_t)V * sizeof *got)) first = i;
            if (first >= 0)
                test_fail(__FILE__, __LINE__, "%s: cut number %d differs from one pass from position %d on", models[m],
                          (int)c, first);
            free(got);
        }
        free(want);
        ds4_engine_close(e);
        golden_close(&g);
    }
}

TEST(greedy_continuations_are_exact)
{
    for (int m = 0; m < N_MODELS; m++) {
        golden g;
        if (!open_golden(&g, models[m])) continue;
        ds4_engine *e = open_engine(models[m], ~0u, 2, 64, false);
        json_object *greedy = golden_get(g.index, "greedy");
        for (size_t i = 0; e && i < json_object_array_length(greedy); i++) {
            json_object *c = json_object_array_get_idx(greedy, i);
            int32_t prompt[MAX_IDS], want[MAX_IDS];
            const int n = golden_list(golden_get(c, "prompt"), prompt, MAX_IDS);
            const int n_want = golden_list(golden_get(c, "tokens"), want, MAX_IDS);
            ds4_session *s;
            ds4_error err;
            REQUIRE_OK(ds4_session_open(&s, e, MAX_IDS, &err), err);
            ds4_status st = ds4_session_feed(s, prompt, n, NULL, NULL, &err);
            for (int k = 0; k < n_want && !st; k++) {
                const ds4_token t = argmax(ds4_session_logits(s), vocabulary(e));
                if (t != want[k])
                    test_fail(__FILE__, __LINE__, "%s: continuation %d, token %d is %d, want %d", models[m], (int)i, k,
                              t, want[k]);
                st = ds4_session_feed(s, &want[k], 1, NULL, NULL, &err);
            }
            EXPECT_OK(st, err);
            ds4_session_close(s);
        }
        ds4_engine_close(e);
        golden_close(&g);
    }
}

TEST(every_traced_tensor_agrees)
{
    golden g;
    gguf *model;
    ds4_error err;
    golden_verdict v;
    if (!open_golden(&g, "tiny-a")) return;
    REQUIRE_OK(gguf_open(&model, converted("tiny-a"), NULL, &err), err);
    const uint32_t masks[] = { 0, ~0u };
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(golden_trace(&g, model, masks[i], &v, &err), err);
        if (!v.agrees)
            test_fail(__FILE__, __LINE__, "%s differs by %.3g, tolerance %.3g", v.tensor, v.difference, v.tolerance);
        EXPECT(v.compared > 1000);
    }
    gguf_close(model);
    golden_close(&g);
}

/* Changes one weight of a file in memory by a tenth of its matrix's size. */
static void plant_error(uint8_t *file, const gguf *g, const uint8_t *base, const char *tensor)
{
    const gguf_tensor *t = gguf_find_tensor(g, tensor);
    REQUIRE(t != NULL);
    float *w = (float *)(void *)(file + (t->data - base));
    for (uint64_t i = 0; i < t->ne[0]; i++) w[i] += 0.05f;
}

TEST(a_planted_error_is_named_with_its_layer)
{
    static const struct { const char *tensor, *named; } cases[] = {
        { "blk.0.attn_kv.weight", "L0/kv" },
        { "blk.2.indexer_compressor_kv.weight", "L2/index_k" },
        { "blk.3.attn_compressor_gate.weight", "L3/kv_comp" },
        { "blk.4.attn_output_b.weight", "L4/attn_out" },
        { "blk.5.ffn_gate_inp.weight", "L5/router_logits" },
        { "blk.6.ffn_down_shexp.weight", "L6/shared_out" },
        { "output_norm.weight", "final_normed" },
    };
    golden g;
    ds4_error err;
    if (!open_golden(&g, "tiny-a")) return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n;
        char *file = test_read(converted("tiny-a"), &n);
        gguf *model;
        golden_verdict v;
        REQUIRE_OK(gguf_open_memory(&model, file, n, NULL, &err), err);
        plant_error((uint8_t *)file, model, (const uint8_t *)file, cases[i].tensor);
        REQUIRE_OK(golden_trace(&g, model, ~0u, &v, &err), err);
        EXPECT(!v.agrees);
        EXPECT_TEXT(v.tensor, cases[i].named);
        gguf_close(model);
        free(file);
    }
    golden_close(&g);
}

/* ---- roundings -------------------------------------------------------------------- */

static void round_rows(round_kind kind, float *x, int rows, int cols, int n_round)
{
    ds4_error err;
    backend *b;
    buf *m;
    const backend_options o = { .name = "cpu", .n_threads = 1, .limits = { 1, 64, 1, 1, 1, 1, 1 } };
    REQUIRE_OK(backend_open(&b, &o, &err), err);
    REQUIRE_OK(b->buf_map(b, x, (uint64_t)rows * (uint64_t)cols * 4, &m, &err), err);
    const view v = { .buf = m, .rows = rows, .cols = cols, .type = QUANT_F32, .stride = (uint64_t)cols * 4 };
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .n_round = n_round, .kind = kind }));
    b->buf_free(b, m);
    b->close(b);
}

/* Rows before and after; inputs that sit on a rounding boundary may go either way. */
static void check_rounding(const golden *g, const char *key, round_kind kind, double allowed_share)
{
    json_object *o = golden_get(golden_get(g->index, "rounding"), key);
    json_object *shape = golden_get(golden_get(o, "in"), "shape");
    const int rows = json_object_get_int(json_object_array_get_idx(shape, 0));
    const int cols = json_object_get_int(json_object_array_get_idx(shape, 1));
    const int tail = golden_get(o, "untouched_tail") ? json_object_get_int(golden_get(o, "untouched_tail")) : 0;
    size_t n, n_want;
    const float *in = golden_floats(g, golden_get(o, "in"), &n), *want = golden_floats(g, golden_get(o, "out"), &n_want);
    REQUIRE(in && want && n == n_want && n == (size_t)(rows * cols));
    float *x = malloc(n * sizeof *x);
    memcpy(x, in, n * sizeof *x);
    round_rows(kind, x, rows, cols, cols - tail);
    size_t different = 0;
    for (size_t i = 0; i < n; i++) different += x[i] != want[i];
    if ((double)different > allowed_share * (double)n)
        test_fail(__FILE__, __LINE__, "%s: %d of %d values differ", key, (int)different, (int)n);
    free(x);
}

TEST(rounded_rows_are_equal)
{
    golden g;
    if (!open_golden(&g, "tiny-a")) return;
    check_rounding(&g, "e4m3_rows", ROUND_FP8, 0.0);
    check_rounding(&g, "hadamard_e2m1_rows", ROUND_HADAMARD_FP4, 0.002);
    golden_close(&g);
}

TEST(rounded_logits_are_nearer_to_rounded_ones_than_to_others)
{
    golden g;
    if (!open_golden(&g, "tiny-a")) return;
    ds4_engine *e = open_engine("tiny-a", ~0u, 2, MAX_IDS, true);
    json_object *list = golden_get(golden_get(g.index, "rounding"), "logits");
    json_object *sequences = golden_get(g.index, "sequences");
    for (size_t i = 0; e && i < json_object_array_length(list); i++) {
        json_object *r = json_object_array_get_idx(list, i);
        const int length = json_object_get_int(golden_get(r, "length"));
        if (length < 100) continue;                 /* too few values for a mean to say anything */
        int32_t ids[MAX_IDS], at[MAX_IDS];
        int n = 0;
        for (size_t k = 0; k < json_object_array_length(sequences); k++) {
            json_object *s = json_object_array_get_idx(sequences, k);
            if (json_object_get_int(golden_get(s, "length")) == length)
                n = golden_list(golden_get(s, "ids"), ids, MAX_IDS);
        }
        const int n_at = golden_list(golden_get(r, "positions"), at, MAX_IDS), V = vocabulary(e);
        size_t have;
        const float *want = golden_floats(&g, golden_get(r, "logits"), &have);
        float *got = all_logits(e, ids, n, &n, 1);
        double sum = 0.0;
        for (int p = 0; p < n_at; p++)
            for (int v = 0; v < V; v++) {
                const double d = (double)got[(size_t)at[p] * (size_t)V + (size_t)v] - want[(size_t)p * (size_t)V + (size_t)v];
                sum += d * d;
            }
        const double rms = sqrt(sum / ((double)n_at * V));
        const double noise = json_object_get_double(golden_get(r, "fp32_vs_fp64_rms"));
        const double unrounded = json_object_get_double(golden_get(r, "rms_from_unrounded"));
        if (rms > 2 * noise || rms > unrounded)
            test_fail(__FILE__, __LINE__,
                      "length %d: rms %.4g, two float evaluations differ by %.4g, unrounded is %.4g away", length, rms,
                          noise, unrounded);
        free(got);
    }
    ds4_engine_close(e);
    golden_close(&g);
}
