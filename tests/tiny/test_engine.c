/* The whole engine on a small model of every layer kind: what must not depend
 * on how the work is cut, and what must survive failure. Bits are compared, not
 * distances: a row's result depends on the row and its session alone. */
#include "runner.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/random.h"
#include "tiny/engines.h"

#define N_PROMPT 300
#define CONTEXT  640

static ds4_engine_options options_for(const char *mix)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model(mix);
    o.n_threads = 2;
    o.max_tokens = CONTEXT;
    o.max_sessions = 8;
    o.max_batch_rows = 128;
    return o;
}

static ds4_engine *engine(const char *mix)
{
    const ds4_engine_options o = options_for(mix);
    return open_engine(&o);
}

static bool feed(ds4_session *s, const ds4_token *t, int n)
{
    ds4_error err;
    const ds4_status st = ds4_session_feed(s, t, n, NULL, NULL, &err);
    if (st) test_fail(__FILE__, __LINE__, "feed: %s", err.message);
    return !st;
}

static void expect_same_logits(const ds4_session *s, const float *want, int V, const char *what)
{
    const float *got = ds4_session_logits(s);
    if (!got) {
        test_fail(__FILE__, __LINE__, "%s: no logits", what);
        return;
    }
    for (int i = 0; i < V; i++)
        if (memcmp(&got[i], &want[i], sizeof *got)) {
            test_fail(__FILE__, __LINE__, "%s: logit %d is %.9g, want %.9g", what, i, (double)got[i], (double)want[i]);
            return;
        }
}

/* Logits after the first n tokens, in one session of its own. */
static float *logits_after(ds4_engine *e, const ds4_token *t, int n)
{
    const int V = vocabulary(e);
    ds4_session *s = open_session(e, CONTEXT);
    float *out = malloc((size_t)V * sizeof *out);
    if (feed(s, t, n)) memcpy(out, ds4_session_logits(s), (size_t)V * sizeof *out);
    ds4_session_close(s);
    return out;
}

TEST(logits_are_finite_in_every_mix)
{
    static const char *const mixes[] = { "f32", "f16", "bf16", "q8_0", "q2", "q4" };
    for (size_t m = 0; m < sizeof mixes / sizeof mixes[0]; m++) {
        ds4_engine *e = engine(mixes[m]);
        if (!e) continue;
        const int V = vocabulary(e);
        ds4_token t[N_PROMPT];
        random_prompt(t, N_PROMPT, V, 0);
        float *logits = logits_after(e, t, N_PROMPT);
        int bad = 0;
        for (int i = 0; i < V; i++) bad += !isfinite(logits[i]);
        if (bad) test_fail(__FILE__, __LINE__, "%s: %d logits are not finite", mixes[m], bad);
        free(logits);
        ds4_engine_close(e);
    }
}

TEST(a_batch_of_8_equals_8_alone)
{
    ds4_engine *e = engine("q8_0");
    if (!e) return;
    const int V = vocabulary(e);
    static const int lengths[8] = { 1, 3, 4, 127, 128, 129, 5, 260 };
    ds4_token t[8][N_PROMPT];
    ds4_session *s[8];
    ds4_batch *b;
    ds4_error err;
    REQUIRE_OK(ds4_batch_new(&b, e, &err), err);
    for (int i = 0; i < 8; i++) {
        random_prompt(t[i], N_PROMPT, V, (uint64_t)i);
        s[i] = open_session(e, CONTEXT);
        if (!feed(s[i], t[i], lengths[i])) return;
    }
    for (int round = 0; round < 12; round++) {      /* decode together, one of them with a draft's three rows */
        ds4_batch_clear(b);
        for (int i = 0; i < 8; i++)
            EXPECT_OK(ds4_batch_add(b, s[i], t[i] + ds4_session_length(s[i]), i == 5 ? 3 : 1, DS4_LOGITS_LAST, &err),
                      err);
        REQUIRE_OK(ds4_engine_step(e, b, &err), err);
    }
    float last[8][2048];
    int length[8];
    REQUIRE(V <= 2048);
    for (int i = 0; i < 8; i++) {
        length[i] = ds4_session_length(s[i]);
        memcpy(last[i], ds4_session_logits(s[i]), (size_t)V * sizeof(float));
        ds4_session_close(s[i]);
    }
    for (int i = 0; i < 8; i++) {
        float *alone = logits_after(e, t[i], length[i]);
        if (memcmp(alone, last[i], (size_t)V * sizeof(float)))
            test_fail(__FILE__, __LINE__, "session %d differs from the run alone", i);
        free(alone);
    }
    ds4_batch_free(b);
    ds4_engine_close(e);
}

TEST(save_anywhere_load_elsewhere_and_continue_alike)
{
    /* edges of blocks (4, 128), of the states' slack (16) and of the window */
    static const int at[] = { 0, 1, 3, 4, 5, 8, 16, 17, 127, 128, 129, 200, 299 };
    for (int f32 = 0; f32 < 2; f32++) {
        ds4_engine_options o = options_for("q8_0");
        o.kv_type = f32 ? DS4_KV_F32 : DS4_KV_PACKED;
        ds4_engine *a = open_engine(&o), *b = open_engine(&o);
        if (!a || !b) return;
        const int V = vocabulary(a);
        ds4_token t[N_PROMPT];
        random_prompt(t, N_PROMPT, V, 7);
        float *want = logits_after(a, t, N_PROMPT);
        for (size_t i = f32 ? 8 : 0; i < sizeof at / sizeof at[0]; i++) {
            ds4_error err;
            ds4_session *from = open_session(a, CONTEXT), *to = open_session(b, CONTEXT);
            if (at[i] > 0) feed(from, t, at[i]);
            const int fd = open(test_scratch("s.kvc"), O_RDWR | O_CREAT | O_TRUNC, 0600);
            EXPECT_OK(ds4_session_save(from, fd, 6, &err), err);
            lseek(fd, 0, SEEK_SET);
            EXPECT_OK(ds4_session_load(to, fd, &err), err);
            close(fd);
            EXPECT_INT(ds4_session_length(to), at[i]);
            if (at[i] > 0) expect_same_logits(to, ds4_session_logits(from), V, "loaded logits");
            feed(to, t + at[i], N_PROMPT - at[i]);
            expect_same_logits(to, want, V, "continued after load");
            ds4_session_close(from);
            ds4_session_close(to);
        }
        free(want);
        ds4_engine_close(a);
        ds4_engine_close(b);
    }
}

TEST(a_damaged_checkpoint_is_refused_and_leaves_an_empty_session)
{
    ds4_engine *e = engine("q8_0");
    if (!e) return;
    const int V = vocabulary(e);
    ds4_token t[N_PROMPT];
    ds4_error err;
    random_prompt(t, N_PROMPT, V, 3);
    ds4_session *s = open_session(e, CONTEXT);
    feed(s, t, 150);
    const char *path = test_scratch("damaged.kvc");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_OK(ds4_session_save(s, fd, 6, &err), err);
    close(fd);

    size_t n;
    char *whole = test_read(path, &n);
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < 400; i++) {
        const size_t keep = i % 2 ? n : (size_t)random_below(&r, n);       /* cut, or one bit changed */
        char *bad = malloc(n);
        memcpy(bad, whole, n);
        size_t where = i < 200 ? (size_t)random_below(&r, 200) : (size_t)random_below(&r, n);
        /* the context size for statistics and the save times may change unnoticed by design */
        if (where >= 12 && where < 16) where = 20;
        if (where >= 32 && where < 40) where = 24;
        if (i % 2) bad[where] = (char)(bad[where] ^ (1 << random_below(&r, 8)));
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        EXPECT(write(fd, bad, keep) == (ssize_t)keep);
        lseek(fd, 0, SEEK_SET);
        const ds4_status st = ds4_session_load(s, fd, &err);
        close(fd);
        free(bad);
        if (st == DS4_OK)
            test_fail(__FILE__, __LINE__, "case %d: damage at byte %zu, %zu of %zu bytes, was not seen", i, where, keep,
                      n);
        EXPECT_INT(ds4_session_length(s), 0);
        EXPECT(ds4_session_logits(s) == NULL);
    }
    feed(s, t, 20);                                 /* and the session still works */
    free(whole);
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(rewind_stops_at_a_kept_point_and_continues_alike)
{
    ds4_engine *e = engine("q8_0");
    if (!e) return;
    const int V = vocabulary(e);
    static const int marks[] = { 4, 30, 127, 128, 200 };
    ds4_token t[N_PROMPT], other[64];
    ds4_error err;
    random_prompt(t, N_PROMPT, V, 11);
    random_prompt(other, 64, V, 12);
    float *want = logits_after(e, t, N_PROMPT);
    ds4_session *s = open_session(e, CONTEXT);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        feed(s, t + ds4_session_length(s), marks[i] - ds4_session_length(s));
        EXPECT_OK(ds4_session_mark(s, &err), err);
    }
    EXPECT_INT(ds4_session_rewind_point(s, 199), 128);
    feed(s, other, 64);
    static const int wants[] = { 263, 210, 200, 199, 127, 60, 4, 3 }, gets[] = { 200, 200, 200, 128, 127, 30, 4, 0 };
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
        if (i == 0) EXPECT_INT(ds4_session_rewind(s, 264), 264);    /* nothing to do */
        EXPECT_INT(ds4_session_rewind(s, wants[i]), gets[i]);
        const int from = ds4_session_length(s);
        ds4_session *copy = open_session(e, CONTEXT); /* continue here without losing the points */
        const int fd = open(test_scratch("r.kvc"), O_RDWR | O_CREAT | O_TRUNC, 0600);
        EXPECT_OK(ds4_session_save(s, fd, 6, &err), err);
        lseek(fd, 0, SEEK_SET);
        EXPECT_OK(ds4_session_load(copy, fd, &err), err);
        close(fd);
        feed(copy, t + from, N_PROMPT - from);
        expect_same_logits(copy, want, V, "continued after rewind");
        ds4_session_close(copy);
    }
    feed(s, t, N_PROMPT);
    expect_same_logits(s, want, V, "from the start again");
    free(want);
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(old_points_are_given_up_one_by_one)
{
    ds4_engine_options o = options_for("q8_0");
    o.rewind_points = 4;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_token t[N_PROMPT];
    ds4_error err;
    random_prompt(t, N_PROMPT, vocabulary(e), 2);
    ds4_session *s = open_session(e, CONTEXT);
    for (int i = 0; i < 20; i++) {
        feed(s, t + 10 * i, 10);
        EXPECT_OK(ds4_session_mark(s, &err), err);
    }
    EXPECT_INT(ds4_session_rewind_point(s, 199), 190);
    EXPECT_INT(ds4_session_rewind_point(s, 189), 180);
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(a_pinned_point_stays_and_points_tell_whether_they_hold_logits)
{
    ds4_engine_options o = options_for("f32");
    o.rewind_points = 5;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_error err;
    ds4_token t[N_PROMPT];
    random_prompt(t, N_PROMPT, vocabulary(e), 3);
    ds4_session *s = open_session(e, CONTEXT);
    for (int i = 0; i < 20; i++) {
        feed(s, t + 10 * i, 10);
        EXPECT_OK(ds4_session_mark(s, &err), err);
        if (i == 2) ds4_session_pin(s, 30);
    }
    EXPECT_INT(ds4_session_rewind_point(s, 39), 30);
    EXPECT(ds4_session_has_logits(s, 30) && ds4_session_has_logits(s, 200));
    EXPECT(!ds4_session_has_logits(s, 35));
    EXPECT_INT(ds4_session_rewind(s, 31), 30);
    EXPECT(ds4_session_has_logits(s, 30) && !ds4_session_has_logits(s, 200));
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(shorter_sessions_are_planned_and_all_can_be_full)
{
    ds4_engine_options o = options_for("f32");
    ds4_plan equal, shorter;
    ds4_error err;
    o.max_sessions = 3;
    o.max_tokens = 2048;
    REQUIRE_OK(ds4_engine_plan(&o, &equal, &err), err);
    o.other_tokens = 1024;
    REQUIRE_OK(ds4_engine_plan(&o, &shorter, &err), err);
    EXPECT(shorter.kv_bytes < equal.kv_bytes);
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_token t[1024];
    ds4_session *s[3];
    random_prompt(t, 1024, vocabulary(e), 5);
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(ds4_session_open(&s[i], e, i ? 1024 : 2048, &err), err);
        for (int n = 0; n < (i ? 1 : 2); n++) feed(s[i], t, 1024);
    }
    for (int i = 0; i < 3; i++) ds4_session_close(s[i]);
    ds4_engine_close(e);
}

TEST(a_side_session_has_room_beside_full_ones)
{
    ds4_engine_options o = options_for("f32");
    o.max_sessions = 1;
    o.side_tokens = 200;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_error err;
    ds4_token t[CONTEXT];
    random_prompt(t, CONTEXT, vocabulary(e), 4);
    ds4_session *s = open_session(e, CONTEXT), *side = NULL, *third = NULL;
    EXPECT_OK(ds4_session_open(&side, e, 200, &err), err);
    EXPECT_INT(ds4_session_open(&third, e, 10, &err), DS4_EFULL);
    feed(s, t, CONTEXT);
    feed(side, t, 200);
    ds4_session_close(side);
    ds4_session_close(s);
    ds4_engine_close(e);

    o.side_tokens = CONTEXT + 1;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
}

TEST(a_failed_step_changes_nothing)
{
    ds4_engine *e = engine("q8_0");
    if (!e) return;
    const int V = vocabulary(e);
    ds4_token t[CONTEXT + 1];
    ds4_error err;
    random_prompt(t, CONTEXT + 1, V, 5);
    ds4_session *s = open_session(e, CONTEXT), *full = open_session(e, CONTEXT);
    ds4_batch *b;
    REQUIRE_OK(ds4_batch_new(&b, e, &err), err);
    feed(s, t, 50);
    feed(full, t, CONTEXT);
    float *want = logits_after(e, t, 60);

    t[55] = V;                                      /* no such token */
    EXPECT_INT(ds4_batch_add(b, s, t + 50, 10, DS4_LOGITS_LAST, &err), DS4_EARG);
    t[55] = -1;
    EXPECT_INT(ds4_batch_add(b, s, t + 50, 10, DS4_LOGITS_LAST, &err), DS4_EARG);
    EXPECT_INT(ds4_batch_rows(b), 0);
    EXPECT_INT(ds4_batch_add(b, full, t, 1, DS4_LOGITS_LAST, &err), DS4_EFULL);
    EXPECT(strstr(err.message, "context is full") != NULL);
    EXPECT_INT(ds4_engine_step(e, b, &err), DS4_EARG);              /* empty */
    random_prompt(t, CONTEXT + 1, V, 5);
    EXPECT_OK(ds4_batch_add(b, s, t + 50, 10, DS4_LOGITS_LAST, &err), err);
    EXPECT_INT(ds4_batch_add(b, s, t + 60, 1, DS4_LOGITS_LAST, &err), DS4_EARG);        /* twice */
    ds4_session *more = open_session(e, CONTEXT);
    EXPECT_INT(ds4_batch_add(b, more, t, 120, DS4_LOGITS_NONE, &err), DS4_EFULL);       /* rows */
    EXPECT_INT(ds4_session_length(s), 50);
    REQUIRE_OK(ds4_engine_step(e, b, &err), err);
    expect_same_logits(s, want, V, "after refused additions");
    EXPECT(ds4_batch_logits(b, 9) != NULL && ds4_batch_logits(b, 8) == NULL && ds4_batch_logits(b, 10) == NULL);
    free(want);
    ds4_batch_free(b);
    ds4_session_close(s);
    ds4_session_close(more);
    ds4_session_close(full);
    ds4_engine_close(e);
}

static bool after_some_layers(void *ctx)
{
    int *left = ctx;
    return (*left)-- == 0;
}

TEST(a_step_stops_between_layers_and_leaves_the_session_alone)
{
    int left = -1;                                  /* counts down past 0 for ever */
    ds4_engine_options o = options_for("q8_0");
    o.interrupted = after_some_layers;
    o.interrupted_ctx = &left;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_token t[N_PROMPT];
    ds4_error err;
    random_prompt(t, N_PROMPT, vocabulary(e), 8);
    float *want = logits_after(e, t, 200);
    ds4_session *s = open_session(e, CONTEXT);
    feed(s, t, 70);
    static const int sizes[] = { 1, 5, 100 };
    for (int i = 0; i < 3; i++) {
        left = 3;
        EXPECT_INT(ds4_session_feed(s, t + 70, sizes[i], NULL, NULL, &err), DS4_ECANCELLED);
        EXPECT_INT(ds4_session_length(s), 70);
    }
    feed(s, t + 70, 130);
    expect_same_logits(s, want, vocabulary(e), "continued after interruptions");
    free(want);
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(sessions_are_limited_and_given_back)
{
    ds4_engine_options o = options_for("q8_0");
    o.max_sessions = 2;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_error err;
    ds4_session *a = open_session(e, CONTEXT), *b = open_session(e, CONTEXT), *c = NULL;
    EXPECT_INT(ds4_session_open(&c, e, CONTEXT, &err), DS4_EFULL);
    EXPECT(c == NULL);
    ds4_session_close(a);
    EXPECT_INT(ds4_session_open(&c, e, CONTEXT + 1, &err), DS4_EARG);
    EXPECT_OK(ds4_session_open(&c, e, CONTEXT, &err), err);
    ds4_token t[CONTEXT];
    random_prompt(t, CONTEXT, vocabulary(e), 1);
    for (int i = 0; i < 3; i++) {                   /* blocks return to the pool */
        feed(b, t, CONTEXT);
        feed(c, t, CONTEXT);
        ds4_session_reset(b);
        ds4_session_reset(c);
    }
    ds4_session_close(b);
    ds4_session_close(c);
    ds4_engine_close(e);
}

TEST(check_finds_no_difference_over_a_prompt)
{
    static const char *const mixes[] = { "q8_0", "q2", "q4" };
    for (size_t m = 0; m < sizeof mixes / sizeof mixes[0]; m++) {
        ds4_engine_options o = options_for(mixes[m]);
        o.backend = "check:cpu";
        ds4_engine *e = open_engine(&o);
        if (!e) continue;
        ds4_token t[N_PROMPT];
        random_prompt(t, N_PROMPT, vocabulary(e), 9);
        ds4_session *s = open_session(e, CONTEXT);
        feed(s, t, 40);                             /* the definitions are slow; selection begins here */
        for (int i = 40; i < 43; i++) feed(s, t + i, 1);
        ds4_session_close(s);
        ds4_engine_close(e);
    }
}

typedef struct {
    char  *text;
    size_t n;
} tape;

static void add_line(void *ctx, const char *line)
{
    tape *t = ctx;
    const size_t len = strlen(line);
    t->text = realloc(t->text, t->n + len + 2);
    memcpy(t->text + t->n, line, len);
    t->text[t->n + len] = '\n';
    t->text[t->n + len + 1] = 0;
    t->n += len + 1;
}

static tape record(int threads)
{
    tape out = { 0 };
    ds4_engine_options o = options_for("q8_0");
    o.backend = "trace:cpu";
    o.n_threads = threads;
    o.trace = add_line;
    o.trace_ctx = &out;
    ds4_engine *e = open_engine(&o);
    if (!e) return out;
    ds4_token t[64];
    random_prompt(t, 64, vocabulary(e), 4);
    ds4_session *s = open_session(e, CONTEXT);
    feed(s, t, 40);
    feed(s, t + 40, 1);
    ds4_session_close(s);
    ds4_engine_close(e);
    return out;
}

TEST(the_tape_does_not_depend_on_threads)
{
    tape a = record(1), b = record(3);
    REQUIRE(a.text && b.text);
    EXPECT(a.n > 10000);
    EXPECT(strstr(a.text, "attend") && strstr(a.text, "moe_block") && strstr(a.text, "indexer_compressor_kv"));
    EXPECT(strcmp(a.text, b.text) == 0);
    free(a.text);
    free(b.text);
}

/* Mapped memory of this process in bytes. */
static double address_space(void)
{
    double pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%lf", &pages) != 1) pages = 0;
    fclose(f);
    return pages * (double)sysconf(_SC_PAGESIZE);
}

TEST(the_plan_is_what_opening_takes)
{
    if (access("/proc/self/statm", R_OK)) {
        test_skip("no /proc/self/statm here");
        return;
    }
    ds4_engine_options o = options_for("q8_0");
    o.max_tokens = 1 << 20;                         /* large enough that small change does not matter */
    o.max_sessions = 1;
    o.rewind_points = 0;                            /* those are taken when marked */
    o.n_threads = 1;                                /* a thread's stack is address space too */
    ds4_error err;
    ds4_plan plan;
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    const double before = address_space();
    ds4_engine *e = open_engine(&o);
    REQUIRE(e != NULL);
    ds4_session *s = NULL;
    EXPECT_OK(ds4_session_open(&s, e, o.max_tokens, &err), err);
    const double taken = address_space() - before, planned = (double)plan.total_bytes;
    if (fabs(taken - planned) > 0.05 * planned)
        test_fail(__FILE__, __LINE__, "planned %.1f MB, took %.1f MB", planned / 1e6, taken / 1e6);
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(a_plan_over_the_limit_names_the_context_that_fits)
{
    ds4_engine_options o = options_for("q8_0");
    o.max_sessions = 1;
    o.max_tokens = 1 << 20;
    o.memory_limit = 200u << 20;
    ds4_error err;
    ds4_engine *e = NULL;
    ds4_plan plan;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT(e == NULL && strstr(err.message, "largest context that fits") != NULL);
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    EXPECT(plan.max_tokens_that_fit > 0 && plan.max_tokens_that_fit < o.max_tokens);
    o.max_tokens = plan.max_tokens_that_fit;
    EXPECT_OK(ds4_engine_open(&e, &o, &err), err);
    ds4_engine_close(e);
}

TEST(bad_options_are_refused_with_a_sentence)
{
    ds4_error err;
    ds4_engine *e;
    ds4_engine_options o = options_for("q8_0");
    o.backend = "abacus";
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EUNSUPPORTED);
    EXPECT(strstr(err.message, "abacus") != NULL);
    o = options_for("q8_0");
    o.model_path = "/nowhere/at.gguf";
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_ENOTFOUND);
    EXPECT(strstr(err.message, "/nowhere/at.gguf") != NULL);
    o = options_for("q8_0");
    o.max_tokens = 0;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
}

TEST(exact_mode_stays_close_to_rounded_activations)
{
    ds4_engine_options o = options_for("q8_0");
    ds4_engine *e = open_engine(&o);
    o.exact = true;
    ds4_engine *x = open_engine(&o);
    if (!e || !x) return;
    ds4_token t[N_PROMPT];
    random_prompt(t, N_PROMPT, vocabulary(e), 6);
    float *a = logits_after(e, t, 5), *b = logits_after(x, t, 5);
    double dot = 0, aa = 0, bb = 0;
    for (int i = 0; i < vocabulary(e); i++) {
        dot += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    EXPECT(dot / sqrt(aa * bb) > 0.99);             /* 8-bit activations: about half a percent of noise each */
    EXPECT(memcmp(a, b, (size_t)vocabulary(e) * sizeof *a) != 0);
    free(a);
    free(b);
    ds4_engine_close(e);
    ds4_engine_close(x);
}
