/* The harness on a small model: what a token reads by the file's table is what the
 * ops say they read; cells and sweeps run, and a stretched session is a session. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/arm.h"
#include "bench/classes.h"
#include "bench/report.h"
#include "bench/speed.h"
#include "bench/stretch.h"
#include "engine/engine.h"
#include "tiny/model.h"

static const ds4_token text[] = { 5, 9, 12, 7, 30, 41, 3, 8, 22, 17, 11, 6, 29, 33, 14 };

static ds4_engine_options options_for(const char *device)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q8_0");
    o.backend = device;
    o.n_threads = 2;
    o.max_batch_rows = 128;
    return o;
}

static bool open_arm(bench_arm *a, const char *device, int sessions, int tokens)
{
    ds4_error err;
    const ds4_engine_options o = options_for(device);
    const ds4_status st = arm_open(a, &o, sessions, tokens, &err);
    if (st) test_fail(__FILE__, __LINE__, "open: %s", err.message);
    else    arm_set_text(a, text, sizeof text / sizeof *text);
    return st == DS4_OK;
}

/* Two ways to the same number: from the tensor table, and from what was computed. */
static void bytes_agree_at(int depth)
{
    bench_arm a;
    ds4_error err;
    arm_sample s;
    const bench_cell warm = { .gen = 1, .depth = depth, .sessions = 1 };
    REQUIRE(open_arm(&a, "time:cpu", 1, depth + 8));
    EXPECT_OK(arm_run(&a, &warm, &s, NULL, &err), err);
    backend_times_clear(a.engine->backend);
    EXPECT_OK(arm_run(&a, &warm, &s, NULL, &err), err);

    int n;
    uint64_t read = 0, macs = 0, experts = 0;
    const op_time *t = backend_times(a.engine->backend, &n);
    REQUIRE(n > 0);
    for (int i = 0; i < n; i++) {
        read += t[i].read_bytes;
        experts += t[i].experts;
        if (strcmp(t[i].op, "attend") && strcmp(t[i].op, "index_scores")) macs += t[i].macs;
    }
    const double table = (double)(token_bytes_step(&a.bytes, 1, depth)
                                  + token_bytes_kv(&a.bytes, depth, a.kv_row_bytes, a.index_row_bytes));
    EXPECT(fabs((double)read - table) < 0.01 * table);
    /* The table counts the indexer's query, which short contexts leave out. */
    EXPECT((double)macs <= (double)a.bytes.matrix_macs && (double)macs > 0.9 * (double)a.bytes.matrix_macs);
    EXPECT_INT(experts, a.bytes.n_used * a.bytes.n_layer);
    arm_close(&a);
}

TEST(bytes_of_a_token_agree_with_the_ops)         { bytes_agree_at(0); }
TEST(bytes_of_a_token_agree_deep_in_a_context)    { bytes_agree_at(500); }

/* The published table of this model: 9.56 and 11.39 GB. */
TEST(bytes_of_the_published_files)
{
    static const struct { const char *recipe; double gb; } known[] = { { "q2", 9.56 }, { "q4", 11.39 } };
    for (int i = 0; i < 2; i++) {
        token_bytes *t = calloc(1, sizeof *t);
        ds4_error err;
        REQUIRE(t);
        EXPECT_OK(token_bytes_of_recipe(t, known[i].recipe, &err), err);
        EXPECT(fabs((double)token_bytes_step(t, 1, 1 << 16) * 1e-9 - known[i].gb) < 0.02);
        EXPECT(fabs((double)t->matrix_macs * 1e-9 - 13.25) < 0.1);
        const double eight = (double)token_bytes_step(t, 8, 1 << 16) * 1e-9;
        if (i == 0) EXPECT(fabs(eight - 21.2) < 0.1);
        EXPECT(token_bytes_step(t, 1, 0) < token_bytes_step(t, 1, 1 << 16));
        free(t);
    }
}

TEST(cells_give_rows_with_all_columns)
{
    bench_arm arms[2];
    ds4_error err;
    speed_row rows[2];
    static const bench_cell cells[] = {
        { .prompt = 40, .sessions = 1 }, { .gen = 6, .sessions = 1 }, { .prompt = 20, .gen = 4, .depth = 70, .sessions = 1 },
        { .gen = 4, .depth = 30, .sessions = 3 },
    };
    const speed_rules rules = { .repetitions = 3 };
    REQUIRE(open_arm(&arms[0], "cpu", 3, 200));
    if (!open_arm(&arms[1], "time:cpu", 3, 200)) {
        arm_close(&arms[0]);
        return;
    }
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        EXPECT_OK(speed_measure(arms, 2, &cells[i], &rules, rows, &err), err);
        for (int k = 0; k < 2; k++) {
            const speed_row *r = &rows[k];
            EXPECT_INT(r->n, 3);
            EXPECT(r->warmups >= 1 && r->tps.p50 > 0 && r->tps.min <= r->tps.p50 && r->tps.p50 <= r->tps.max);
            EXPECT(!r->cached);
            EXPECT(r->token_bytes > 0 && r->kv_bytes > 0 && r->read.max > 0);
            EXPECT((r->eff_gbs > 0) == (r->cell.prompt == 0));
            EXPECT((r->first_ms > 0) == (r->cell.gen > 0));
            EXPECT((r->n_times > 0) == (k == 1));
            bytes out;
            bytes_init(&out, 1 << 16);
            report_csv(r, 1, &out);
            EXPECT(out.data &&
                   strncmp(out.data, "test,depth,n,tps_p50,tps_p10,tps_p90,mad_pct,ms_per_tok,first_ms,itl_p99_ms,"
                                       "eff_GBps,roofline_pct,kv_bytes,rss_peak,gpu_mem_peak,majflt_per_tok,swapin_MBps,watts,"
                                       "J_per_tok,verdict,", 170) == 0);
            bytes_free(&out);
        }
        speed_row_free(&rows[0]);
        speed_row_free(&rows[1]);
    }
    arm_close(&arms[0]);
    arm_close(&arms[1]);
}

static bool stop_at_once(void *ctx)
{
    (void)ctx;
    return true;
}

TEST(an_interrupted_cell_is_a_status_and_leaks_nothing)
{
    bench_arm a;
    ds4_error err;
    speed_row row;
    ds4_engine_options o = options_for("cpu");
    o.interrupted = stop_at_once;
    REQUIRE_OK(arm_open(&a, &o, 1, 64, &err), err);
    arm_set_text(&a, text, sizeof text / sizeof *text);
    const bench_cell c = { .prompt = 16, .sessions = 1 };
    EXPECT_INT(speed_measure(&a, 1, &c, &(speed_rules){ .repetitions = 2 }, &row, &err), DS4_ECANCELLED);
    EXPECT_INT(row.n, 0);
    speed_row_free(&row);
    arm_close(&a);
}

TEST(a_walk_leaves_the_session_at_its_frontier)
{
    bench_arm a;
    ds4_error err;
    arm_sample s;
    REQUIRE(open_arm(&a, "cpu", 1, 120));
    EXPECT_OK(arm_walk(&a, 0, 50, 5, &s, &err), err);
    EXPECT_INT(ds4_session_length(a.session[0]), 50);
    EXPECT_OK(arm_walk(&a, 50, 100, 5, &s, &err), err);
    EXPECT_INT(ds4_session_length(a.session[0]), 100);
    EXPECT_INT(s.prompt_tokens, 50);
    EXPECT(s.prompt_s > 0 && s.gen_s >= s.first_s && s.first_s > 0);
    for (int i = 0; i < 100; i++)
        EXPECT_INT(ds4_session_tokens(a.session[0])[i], text[i % (int)(sizeof text / sizeof *text)]);
    arm_close(&a);
}

/* A session that is not longer than it was computed must not change at all. */
TEST(stretching_to_the_same_length_changes_no_bit)
{
    bench_arm a;
    ds4_error err;
    REQUIRE(open_arm(&a, "cpu", 1, 700));
    ds4_session *s = a.session[0];
    const int n = stretch_real_tokens(a.engine), V = a.shape.n_vocab;
    ds4_token *t = malloc((size_t)n * sizeof *t);
    float *want = malloc((size_t)V * sizeof *want);
    REQUIRE(t && want);
    for (int i = 0; i < n; i++) t[i] = text[i % 13];
    for (int pass = 0; pass < 2; pass++) {
        ds4_session_reset(s);
        EXPECT_OK(ds4_session_feed(s, t, n, NULL, NULL, &err), err);
        if (pass) EXPECT_OK(stretch_session(s, n, &err), err);
        EXPECT_OK(ds4_session_feed(s, text, 5, NULL, NULL, &err), err);
        if (!pass) memcpy(want, ds4_session_logits(s), (size_t)V * sizeof *want);
        else EXPECT(memcmp(want, ds4_session_logits(s), (size_t)V * sizeof *want) == 0);
    }
    free(t);
    free(want);
    arm_close(&a);
}

TEST(a_stretched_session_goes_on_and_is_finite)
{
    bench_arm a;
    ds4_error err;
    arm_sample s;
    REQUIRE(open_arm(&a, "cpu", 1, 2400));
    a.fill_fast = true;
    const bench_cell c = { .gen = 3, .depth = 2300, .sessions = 1 };     /* not a whole number of units */
    EXPECT_OK(arm_run(&a, &c, &s, NULL, &err), err);
    EXPECT_OK(arm_run(&a, &c, &s, NULL, &err), err);                       /* rewinds to the mark */
    EXPECT_INT(ds4_session_length(a.session[0]), 2303);
    const float *logits = ds4_session_logits(a.session[0]);
    REQUIRE(logits);
    for (int i = 0; i < a.shape.n_vocab; i++) EXPECT(isfinite(logits[i]));
    EXPECT_INT(stretch_session(a.session[0], 5000, NULL), DS4_EARG);
    arm_close(&a);
}

TEST(every_op_has_a_class)
{
    EXPECT_TEXT(class_of_op("matmul", "attn_q_b"), "attention projections");
    EXPECT_TEXT(class_of_op("matmul", "attn_compressor_kv"), "compressors");
    EXPECT_TEXT(class_of_op("matmul", "indexer.proj"), "indexer");
    EXPECT_TEXT(class_of_op("matmul", "ffn_down_shexp"), "shared expert");
    EXPECT_TEXT(class_of_op("matmul", "output"), "output head");
    EXPECT_TEXT(class_of_op("expert_ffn", ""), "routed experts");
    EXPECT_TEXT(class_of_op("hc_expand", "attn"), "hyper-connections");
    EXPECT_TEXT(class_of_op("rms_norm", "head_norm"), "norms and the rest");
}
