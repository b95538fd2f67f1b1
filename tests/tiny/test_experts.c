/* Routed experts that are read when needed: bits must be those of the mapped model,
 * whatever fits into memory. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "tiny/engines.h"

enum { CONTEXT = 320, N_PROMPT = 200, N_DECODE = 24, N_SESSIONS = 4 };

static ds4_engine_options options_for(const char *mix, uint64_t cache)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model(mix);
    o.n_threads = 2;
    o.max_tokens = CONTEXT;
    o.max_sessions = N_SESSIONS;
    o.max_batch_rows = 96;
    o.expert_cache = cache;
    return o;
}

static ds4_expert_metrics metrics_of(const ds4_engine *e)
{
    ds4_metrics m;
    ds4_engine_metrics(e, &m);
    return m.experts;
}

/* Bytes of the smallest cache that opens, as the refusal of a smaller one tells. */
static uint64_t smallest_cache(const char *mix)
{
    ds4_engine_options o = options_for(mix, 1);
    ds4_engine *e = NULL;
    ds4_error err = { 0 };
    double mib = 0;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
    const char *at = strstr(err.message, "at least ");
    if (at) mib = atof(at + strlen("at least "));
    if (mib <= 0) test_fail(__FILE__, __LINE__, "no size in \"%s\"", err.message);
    return (uint64_t)((mib + 0.1) * 1024 * 1024);
}

/* Everything that decides on reading: prompts in chunks, single rows, rows of several
 * sessions. Logits of each step are appended to out [steps][V]. */
enum { N_STEPS = N_SESSIONS + N_DECODE };

static bool run(ds4_engine *e, float *out)
{
    const int V = vocabulary(e);
    ds4_session *s[N_SESSIONS] = { 0 };
    ds4_batch *b = NULL;
    ds4_error err = { 0 };
    ds4_token t[N_SESSIONS][CONTEXT];
    ds4_status st = ds4_batch_new(&b, e, &err);
    for (int i = 0; i < N_SESSIONS && !st; i++) {
        random_prompt(t[i], CONTEXT, V, (uint64_t)i);
        st = ds4_session_open(&s[i], e, CONTEXT, &err);
        if (!st) st = ds4_session_feed(s[i], t[i], i == 1 ? 3 : N_PROMPT, NULL, NULL, &err);
        if (!st) memcpy(out + (size_t)i * (size_t)V, ds4_session_logits(s[i]), (size_t)V * sizeof *out);
    }
    for (int n = 0; n < N_DECODE && !st; n++) {
        const int rows = n % 3 == 0 ? N_SESSIONS : 1;
        ds4_batch_clear(b);
        for (int i = 0; i < rows && !st; i++)
            st = ds4_batch_add(b, s[i], t[i] + ds4_session_length(s[i]), 1, DS4_LOGITS_LAST, &err);
        if (!st) st = ds4_engine_step(e, b, &err);
        if (!st)
            memcpy(out + (size_t)(N_SESSIONS + n) * (size_t)V, ds4_batch_logits(b, rows - 1), (size_t)V * sizeof *out);
    }
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    ds4_batch_free(b);
    for (int i = 0; i < N_SESSIONS; i++) ds4_session_close(s[i]);
    return !st;
}

static float *logits_of(const ds4_engine_options *o, ds4_expert_metrics *m)
{
    ds4_engine *e = open_engine(o);
    if (!e) return NULL;
    float *out = calloc((size_t)N_STEPS * (size_t)vocabulary(e), sizeof *out);
    run(e, out);
    if (m) *m = metrics_of(e);
    ds4_engine_close(e);
    return out;
}

static int vocabulary_of(const ds4_engine_options *o)
{
    ds4_engine *e = open_engine(o);
    const int V = e ? vocabulary(e) : 0;
    ds4_engine_close(e);
    return V;
}

static void expect_same(const float *got, const float *want, int V, const char *what)
{
    for (int i = 0; got && want && i < N_STEPS * V; i++)
        if (memcmp(&got[i], &want[i], sizeof *got)) {
            test_fail(__FILE__, __LINE__, "%s: step %d logit %d is %.9g, mapped it is %.9g", what, i / V, i % V,
                      (double)got[i], (double)want[i]);
            return;
        }
}

TEST(every_budget_gives_the_bits_of_the_mapped_model)
{
    static const char *const mixes[] = { "q8_0", "q2", "f16" };
    for (size_t m = 0; m < sizeof mixes / sizeof mixes[0]; m++) {
        ds4_engine_options o = options_for(mixes[m], 0);
        const int V = vocabulary_of(&o);
        float *want = logits_of(&o, NULL);
        const uint64_t least = smallest_cache(mixes[m]);
        for (int times = 1; times <= 16; times *= 4) {
            char what[64];
            ds4_expert_metrics stats = { 0 };
            o.expert_cache = least * (uint64_t)times;
            snprintf(what, sizeof what, "%s, %d times the smallest cache", mixes[m], times);
            float *got = logits_of(&o, &stats);
            expect_same(got, want, V, what);
            free(got);
            EXPECT(stats.slots > 0 && stats.slots <= stats.experts);
            EXPECT(stats.misses > 0 && stats.bytes_read > 0);
            EXPECT(stats.ahead_used <= stats.ahead);
        }
        free(want);
    }
}

TEST(a_cache_of_everything_reads_everything_once)
{
    ds4_engine_options o = options_for("q8_0", 1ull << 40);
    o.memory_limit = 1ull << 41;
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    float *out = calloc((size_t)N_STEPS * (size_t)vocabulary(e), sizeof *out);
    if (run(e, out)) {
        const ds4_expert_metrics first = metrics_of(e);
        EXPECT_INT(first.slots, first.experts);
        EXPECT(run(e, out));
        const ds4_expert_metrics second = metrics_of(e);
        EXPECT_INT(second.misses, first.misses);
        EXPECT_INT(second.bytes_read, first.bytes_read);
        EXPECT(second.hits > first.hits);
    }
    free(out);
    ds4_engine_close(e);
}

TEST(what_is_used_often_stays)
{
    ds4_engine_options o = options_for("q8_0", smallest_cache("q8_0") * 11);
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_session *s;
    ds4_error err;
    ds4_token t[CONTEXT];
    random_prompt(t, N_PROMPT, vocabulary(e), 9);
    REQUIRE_OK(ds4_session_open(&s, e, CONTEXT, &err), err);
    for (int i = 0; i < 40; i++) {                  /* one token again and again: few experts */
        REQUIRE_OK(ds4_session_feed(s, t, 1, NULL, NULL, &err), err);
        if (i == 30) ds4_session_reset(s);
    }
    const ds4_expert_metrics before = metrics_of(e);
    ds4_session_reset(s);
    for (int i = 0; i < 8; i++) REQUIRE_OK(ds4_session_feed(s, t, 1, NULL, NULL, &err), err);
    const ds4_expert_metrics after = metrics_of(e);
    EXPECT(after.hits - before.hits > 4 * (after.misses - before.misses));

    ds4_session *prompt;                            /* all experts pass by and leave these alone */
    REQUIRE_OK(ds4_session_open(&prompt, e, CONTEXT, &err), err);
    random_prompt(t, N_PROMPT, vocabulary(e), 10);
    EXPECT_OK(ds4_session_feed(prompt, t, N_PROMPT, NULL, NULL, &err), err);
    ds4_session_close(prompt);
    ds4_session_reset(s);
    const ds4_expert_metrics passed = metrics_of(e);
    EXPECT(passed.misses - after.misses > passed.slots);
    random_prompt(t, 1, vocabulary(e), 9);
    for (int i = 0; i < 8; i++) REQUIRE_OK(ds4_session_feed(s, t, 1, NULL, NULL, &err), err);
    const ds4_expert_metrics again = metrics_of(e);
    EXPECT(again.hits - passed.hits > 4 * (again.misses - passed.misses));
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(every_op_agrees_with_its_definition_when_experts_are_read)
{
    ds4_engine_options o = options_for("q2", smallest_cache("q2"));
    o.backend = "check:cpu";
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_session *s;
    ds4_error err;
    ds4_token t[12];
    random_prompt(t, 12, vocabulary(e), 3);
    REQUIRE_OK(ds4_session_open(&s, e, CONTEXT, &err), err);
    EXPECT_OK(ds4_session_feed(s, t, 11, NULL, NULL, &err), err);
    EXPECT_OK(ds4_session_feed(s, t + 11, 1, NULL, NULL, &err), err);
    ds4_session_close(s);
    ds4_engine_close(e);
}

/* The smallest context leaves little besides the weights, so that a limit below the file is
 * one that experts decide. */
TEST(a_file_that_does_not_fit_is_streamed_by_itself)
{
    ds4_engine_options o = options_for("f32", 0);
    ds4_plan plan;
    ds4_error err;
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    const uint64_t rest = plan.total_bytes - plan.weight_bytes, experts = plan.weight_bytes - plan.dense_bytes;
    const int V = vocabulary_of(&o);
    float *want = logits_of(&o, NULL);
    o.memory_limit = (plan.dense_bytes + rest + experts / 2) / 15 * 16;     /* a margin of 1/16 stays free */
    if (o.memory_limit >= plan.total_bytes) {
        test_skip("the margin is larger than half of the experts: %llu of %llu bytes", (unsigned long long)o.memory_limit,
                  (unsigned long long)plan.total_bytes);
        free(want);
        return;
    }
    REQUIRE_OK(ds4_engine_plan(&o, &plan, &err), err);
    EXPECT(plan.expert_cache_bytes > 0 && plan.total_bytes <= o.memory_limit);
    ds4_expert_metrics stats = { 0 };
    float *got = logits_of(&o, &stats);
    EXPECT(stats.slots > 0 && stats.slots < stats.experts);
    expect_same(got, want, V, "automatic");
    free(got);
    free(want);
}

TEST(the_plan_makes_room_for_experts_when_the_file_does_not_fit)
{
    ds4_engine_options o = options_for("q8_0", 0);
    ds4_plan whole, cut = { 0 }, little;
    ds4_error err;
    REQUIRE_OK(ds4_engine_plan(&o, &whole, &err), err);
    EXPECT_INT(whole.expert_cache_bytes, 0);
    EXPECT_INT(whole.total_bytes, whole.weight_bytes + whole.kv_bytes + whole.scratch_bytes + whole.table_bytes);

    o.memory_limit = whole.total_bytes - whole.weight_bytes + 4096;     /* no room for any */
    REQUIRE_OK(ds4_engine_plan(&o, &little, &err), err);
    EXPECT_INT(little.expert_cache_bytes, 0);

    o.memory_limit = 0;
    o.expert_cache = smallest_cache("q8_0");
    REQUIRE_OK(ds4_engine_plan(&o, &cut, &err), err);
    EXPECT_INT(cut.expert_cache_bytes, o.expert_cache);
    EXPECT_INT(cut.total_bytes,
               cut.dense_bytes + cut.expert_cache_bytes + cut.kv_bytes + cut.scratch_bytes + cut.table_bytes);
}
