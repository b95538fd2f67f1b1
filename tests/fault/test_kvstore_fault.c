/* Allocations and reads of the session store fail once each: a save or a find may then
 * come to nothing, but says so, leaks nothing and leaves the folder in order. */
#include "runner.h"

#include <errno.h>

#include "fault/alloc.h"
#include "fault/reads.h"
#include "server/kvstore_case.h"

static ds4_status body(void *ctx, ds4_error *err)
{
    kv_case *c = ctx;
    kvstore *s = NULL;
    kvstore_hit h;
    char text[40];
    static int round;
    snprintf(text, sizeof text, "text of round %d", round++);
    ds4_status st = kvstore_open(&s, &c->o, c->engine, err);
    if (st) return st;
    const kvstore_save_options o = { .reason = KV_SAVE_CONTINUED, .text = slice_of(text), .wait = true,
                                     .conversation = slice_of(text) };
    st = kvstore_save(s, c->session, &o, err);
    kvstore_wait(s, NULL);
    (void)kvstore_covered(s, slice_of(text));
    ds4_session *to = NULL;
    if (!st) st = ds4_session_open(&to, c->engine, 64, err);
    if (!st && kvstore_find(s, slice_of(text), 64, 0, &h)) {
        st = kvstore_load(s, &h, to, NULL, err);
        if (ds4_session_length(to) != (st ? 0 : 20))
            test_fail(__FILE__, __LINE__, "a session of %d tokens", ds4_session_length(to));
    }
    ds4_session_close(to);
    kvstore_close(s);
    return st;
}

TEST(every_allocation_of_a_save_and_a_load_may_fail)
{
    kv_case c;
    REQUIRE(case_open(&c, "fault"));
    case_fill(&c, 0, 20);
    c.o.budget_bytes = 8 << 20;
    fault_each(body, &c);
    char folder[600];
    case_folder(&c, folder);
    EXPECT_INT(case_count(folder, ".tmp", NULL), 0);
    EXPECT_INT(case_count(folder, ".bad", NULL), 0);
    EXPECT_INT(counter_get(&c.metrics->kv_corrupt), 0);
    case_close(&c);
}

TEST(reads_that_fail_are_misses)
{
    if (!fault_reads_available()) {
        test_skip("no wrapped reads here");
        return;
    }
    kv_case c;
    REQUIRE(case_open(&c, "reads"));
    case_fill(&c, 0, 20);
    kvstore *s = case_store(&c);
    REQUIRE(s);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    kvstore_close(s);
    for (int error = 0; error <= EIO; error += EIO)
        for (int n = 0; n < 12; n++) {
            kvstore_hit h;
            ds4_error err;
            fault_read_fails(n, error);
            s = case_store(&c);
            const bool hit = kvstore_find(s, slice_of("text"), 100, 0, &h);
            const ds4_status st = hit ? kvstore_load(s, &h, c.session, NULL, &err) : DS4_OK;
            fault_reads_stop();
            if (hit) EXPECT_INT(ds4_session_length(c.session), st ? 0 : 20);
            case_fill(&c, 0, 20);
            EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
            EXPECT(kvstore_find(s, slice_of("text"), 100, 0, &h));
            kvstore_close(s);
        }
    case_close(&c);
}
