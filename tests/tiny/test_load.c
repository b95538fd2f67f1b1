/* The ways of the weights into memory: every one gives the same logits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/residency.h"
#include "ds4.h"
#include "runner.h"
#include "tiny/model.h"

enum { PROMPT = 150 };

typedef struct {
    int      calls, cancel_at;
    uint64_t done, total;
    char     phase[32];
} watcher;

static bool watch(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    watcher *w = ctx;
    snprintf(w->phase, sizeof w->phase, "%s", phase);
    w->done = done;
    w->total = total;
    return ++w->calls != w->cancel_at;
}

static ds4_engine_options options(watcher *w)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q2");
    o.n_threads = 2;
    o.max_tokens = 256;
    o.progress = watch;
    o.progress_ctx = w;
    return o;
}

/* Logits behind a prompt, [n_vocab] (caller frees); NULL: it failed. */
static float *logits_with(const ds4_engine_options *o, int *n_vocab)
{
    ds4_engine *e = NULL;
    ds4_session *s = NULL;
    ds4_shape shape;
    ds4_error err = { 0 };
    ds4_token t[PROMPT];
    float *out = NULL;
    for (int i = 0; i < PROMPT; i++) t[i] = 3 + i * 7 % 200;

    ds4_status st = ds4_engine_open(&e, o, &err);
    if (!st) st = ds4_session_open(&s, e, o->max_tokens, &err);
    if (!st) st = ds4_session_feed(s, t, PROMPT, NULL, NULL, &err);
    if (st) {
        test_fail(__FILE__, __LINE__, "%s", err.message);
    } else {
        ds4_engine_shape(e, &shape);
        *n_vocab = shape.n_vocab;
        out = malloc((size_t)shape.n_vocab * sizeof *out);
        if (out) memcpy(out, ds4_session_logits(s), (size_t)shape.n_vocab * sizeof *out);
    }
    ds4_session_close(s);
    ds4_engine_close(e);
    return out;
}

static void expect_same(const ds4_engine_options *a, const ds4_engine_options *b)
{
    int n = 0, m = 0;
    float *x = logits_with(a, &n), *y = logits_with(b, &m);
    EXPECT(x && y && n == m && memcmp(x, y, (size_t)n * sizeof *x) == 0);
    free(x);
    free(y);
}

TEST(warmed_weights_give_the_same_logits_and_progress_ends_whole)
{
    watcher w = { 0 };
    const ds4_engine_options plain = options(&w);
    ds4_engine_options warm = plain;
    warm.warm_weights = true;
    expect_same(&plain, &warm);
    EXPECT(strcmp(w.phase, "warming") == 0 && w.done == w.total && w.total > 100000);
}

TEST(weights_in_huge_pages_give_the_same_logits)
{
    watcher w = { 0 };
    const ds4_engine_options plain = options(&w);
    ds4_engine_options huge = plain;
    if (!residency_has_huge_pages()) {
        test_skip("this system gives no huge pages");
        return;
    }
    huge.huge_pages = true;
    expect_same(&plain, &huge);
    EXPECT(strcmp(w.phase, "copying") == 0 && w.done == w.total && w.total > 100000);
}

TEST(warming_and_copying_can_be_cancelled)
{
    for (int huge = 0; huge < 2; huge++) {
        if (huge && !residency_has_huge_pages()) continue;
        watcher w = { .cancel_at = 1 };
        ds4_engine_options o = options(&w);
        o.warm_weights = !huge;
        o.huge_pages = huge;
        ds4_engine *e = NULL;
        ds4_error err = { 0 };
        EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_ECANCELLED);
        EXPECT(!e && strcmp(err.message, "loading was cancelled") == 0);
    }
}

TEST(huge_pages_and_an_expert_cache_exclude_each_other)
{
    watcher w = { 0 };
    ds4_engine_options o = options(&w);
    ds4_engine *e = NULL;
    ds4_error err = { 0 };
    o.huge_pages = true;
    o.expert_cache = 1 << 20;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
    EXPECT(!e);
}

static int rows_with(ds4_engine_options o, uint64_t limit, int max_tokens)
{
    ds4_engine *e = NULL;
    ds4_shape shape = { 0 };
    ds4_error err = { 0 };
    o.max_batch_rows = 0;
    o.max_tokens = max_tokens;
    o.memory_limit = limit;
    if (ds4_engine_open(&e, &o, &err)) test_fail(__FILE__, __LINE__, "%s", err.message);
    else ds4_engine_shape(e, &shape);
    ds4_engine_close(e);
    return shape.max_batch_rows;
}

TEST(a_step_is_as_large_as_memory_allows)
{
    watcher w = { 0 };
    ds4_engine_options o = options(&w);
    ds4_plan plan;
    ds4_error err;
    EXPECT_INT(rows_with(o, 0, 8192), 4096);
    EXPECT_INT(rows_with(o, 0, 100), 100);

    o.max_tokens = 8192;
    o.max_batch_rows = 1024;
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    EXPECT_INT(rows_with(o, plan.total_bytes, 8192), 1024);
    EXPECT_INT(rows_with(o, plan.total_bytes - 1, 8192), 512);
    o.max_batch_rows = 256;
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    EXPECT_INT(rows_with(o, plan.total_bytes, 8192), 256);
}
