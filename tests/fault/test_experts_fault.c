/* Reads of experts that fail, stop short, come late or find the file cut off: a step then
 * ends with a sentence and has changed nothing, or it gives the bits of the mapped model. */
#include "runner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ds4.h"
#include "fault/alloc.h"
#include "fault/reads.h"
#include "tiny/model.h"

enum { N = 40, CONTEXT = 64, CACHE = 1 << 20 };

static ds4_engine_options options_for(const char *path, uint64_t cache)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = path;
    o.n_threads = 2;
    o.max_tokens = CONTEXT;
    o.max_batch_rows = 24;
    o.expert_cache = cache;
    return o;
}

/* The smallest cache that opens. */
static uint64_t smallest(const char *path)
{
    uint64_t n = 4096;
    for (; n < 1ull << 32; n *= 2) {
        const ds4_engine_options o = options_for(path, n);
        ds4_engine *e = NULL;
        ds4_error err;
        const ds4_status st = ds4_engine_open(&e, &o, &err);
        ds4_engine_close(e);
        if (!st) break;
    }
    return n;
}

typedef struct {
    ds4_engine  *e;
    ds4_session *s;
    int          V;
} running;

static bool start(running *r, const char *path, uint64_t cache)
{
    ds4_error err = { 0 };
    ds4_shape shape;
    const ds4_engine_options o = options_for(path, cache);
    *r = (running){ 0 };
    ds4_status st = ds4_engine_open(&r->e, &o, &err);
    if (!st) st = ds4_session_open(&r->s, r->e, CONTEXT, &err);
    if (st) {
        test_fail(__FILE__, __LINE__, "%s", err.message);
        return false;
    }
    ds4_engine_shape(r->e, &shape);
    r->V = shape.n_vocab;
    return true;
}

static void stop(running *r)
{
    ds4_session_close(r->s);
    ds4_engine_close(r->e);
}

static ds4_token token_at(const running *r, int i) { return (ds4_token)(i * 37 % r->V); }

/* Rows from..to-1 in one chunk or, when single, one by one. */
static ds4_status go(running *r, int to, ds4_error *err)
{
    ds4_token t[N];
    for (int i = 0; i < N; i++) t[i] = token_at(r, i);
    const int from = ds4_session_length(r->s);
    return ds4_session_feed(r->s, t + from, to - from, NULL, NULL, err);
}

/* Logits of the mapped model after 20 tokens and after each of the next (caller frees). */
static float *mapped(const char *path)
{
    running r;
    ds4_error err;
    if (!start(&r, path, 0)) return NULL;
    float *out = malloc((size_t)N * (size_t)r.V * sizeof *out);
    for (int n = 20; n < N; n++) {
        EXPECT_OK(go(&r, n, &err), err);
        memcpy(out + (size_t)n * (size_t)r.V, ds4_session_logits(r.s), (size_t)r.V * sizeof *out);
    }
    stop(&r);
    return out;
}

static void expect_bits(const running *r, const float *want, int n, const char *what)
{
    const float *got = ds4_session_logits(r->s);
    if (!got || memcmp(got, want + (size_t)n * (size_t)r->V, (size_t)r->V * sizeof *got))
        test_fail(__FILE__, __LINE__, "%s: logits after %d tokens are not those of the mapped model", what, n);
}

static void expect_run(const char *path, uint64_t cache, const float *want, const char *what)
{
    running r;
    ds4_error err;
    if (!start(&r, path, cache)) return;
    for (int n = 20; n < N; n++) {
        EXPECT_OK(go(&r, n, &err), err);
        expect_bits(&r, want, n, what);
    }
    stop(&r);
}

static bool ready(void)
{
    if (!fault_reads_available()) test_skip("this system's linker cannot stand between the program and pread");
    return fault_reads_available();
}

TEST(short_late_and_indirect_reads_give_the_same_bits)
{
    if (!ready()) return;
    const char *path = tiny_model("q2");
    float *want = mapped(path);
    REQUIRE(want);
    const uint64_t cache = smallest(path);

    fault_reads_short(true);
    expect_run(path, cache, want, "short reads");
    EXPECT(fault_reads_stop() > 0);
    fault_reads_not_direct(true);
    expect_run(path, cache, want, "direct reads refused");
    EXPECT(fault_reads_stop() > 0);
    fault_reads_slow(true);
    expect_run(path, cache * 3, want, "slow reads");
    EXPECT(fault_reads_stop() > 0);
    free(want);
}

/* One read of a step fails. It may have been a guess that nobody wanted. */
static void fail_one(running *r, const float *want, int n, int after, int error)
{
    ds4_error err = { 0 };
    const int before = ds4_session_length(r->s);
    fault_read_fails(after, error);
    const ds4_status st = go(r, n, &err);
    fault_reads_stop();
    if (st) {
        EXPECT_INT(st, DS4_EIO);
        EXPECT(strstr(err.message, "tiny-q2"));
        EXPECT_INT(ds4_session_length(r->s), before);
        EXPECT_OK(go(r, n, &err), err);             /* the next try finds a disk in order */
    }
    expect_bits(r, want, n, "after a failed read");
}

TEST(a_read_that_fails_ends_the_step_and_nothing_else)
{
    if (!ready()) return;
    const char *path = tiny_model("q2");
    float *want = mapped(path);
    REQUIRE(want);
    running r;
    REQUIRE(start(&r, path, smallest(path)));
    ds4_error err;
    for (int after = 0; after < 30; after += 3) {   /* in a prompt */
        ds4_session_reset(r.s);
        fail_one(&r, want, 20, after, after % 2 ? EIO : ENXIO);
    }
    for (int n = 21; n < N; n++) fail_one(&r, want, n, n % 7, n % 2 ? EIO : ENOMEM);    /* in decoding */
    stop(&r);

    const ds4_engine_options o = options_for(path, smallest(path));
    ds4_engine *e = NULL;
    fault_read_fails(3, EIO);                       /* while opening */
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EIO);
    fault_reads_stop();
    free(want);
}

static bool copy_file(const char *from, const char *to)
{
    size_t n;
    char *data = test_read(from, &n);
    FILE *f = fopen(to, "wb");
    const bool ok = data && f && fwrite(data, 1, n, f) == n;
    if (f) fclose(f);
    free(data);
    return ok;
}

TEST(a_file_cut_off_under_a_running_engine_is_said)
{
    const char *path = tiny_model("q2");
    float *want = mapped(path);
    REQUIRE(want);
    char cut[512];
    snprintf(cut, sizeof cut, "%s", test_scratch("cut.gguf"));
    REQUIRE(copy_file(path, cut));
    running r;
    ds4_error err = { 0 };
    REQUIRE(start(&r, cut, smallest(path)));
    EXPECT_OK(go(&r, 20, &err), err);
    expect_bits(&r, want, 20, "before");
    REQUIRE(truncate(cut, 4096) == 0);

    /* Sooner or later a step wants what is gone. Those before are right. */
    ds4_status st = DS4_OK;
    int n = 21;
    for (; n < N && !(st = go(&r, n, &err)); n++) expect_bits(&r, want, n, "cut, all in memory");
    EXPECT_INT(st, DS4_EIO);
    EXPECT(strstr(err.message, "became shorter"));
    EXPECT_INT(ds4_session_length(r.s), n - 1);

    REQUIRE(copy_file(path, cut));                  /* and when it is whole again */
    EXPECT_OK(go(&r, n, &err), err);
    expect_bits(&r, want, n, "whole again");
    stop(&r);
    free(want);
}

static ds4_status open_and_run(void *ctx, ds4_error *err)
{
    const ds4_engine_options o = options_for(ctx, CACHE);
    ds4_engine *e = NULL;
    ds4_session *s = NULL;
    const ds4_token t[] = { 3, 4, 5 };
    ds4_status st = ds4_engine_open(&e, &o, err);
    if (!st) st = ds4_session_open(&s, e, CONTEXT, err);
    if (!st) st = ds4_session_feed(s, t, 3, NULL, NULL, err);
    ds4_session_close(s);
    ds4_engine_close(e);
    return st;
}

TEST(every_allocation_of_an_expert_cache_may_fail)
{
    const char *path = tiny_model("q2");
    if (path) fault_each(open_and_run, (void *)path);
}
