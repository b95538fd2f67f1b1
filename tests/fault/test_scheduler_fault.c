/* Each allocation of a request fails once, alone and with all later ones: the request says so or goes well, the next
 * one is answered, and nothing leaks (which the sanitizer tells). */
#include "../server/asking.h"

#include "fault/alloc.h"

typedef struct {
    ds4_engine    *e;
    scheduler     *s;
    replay_memory *replay;
    asked          at;
} rig;

static bool rig_open(rig *r)
{
    ds4_error err;
    memset(r, 0, sizeof *r);
    ds4_engine_options eo = ds4_engine_defaults();
    eo.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    eo.max_tokens = 512;
    eo.max_batch_rows = 64;
    eo.n_threads = 1;
    sched_options o = sched_defaults();
    ds4_status st = ds4_engine_open(&r->e, &eo, &err);
    if (!st) st = replay_open(&r->replay, 100, 1 << 20, &err);
    o.replay = r->replay;
    if (!st) st = sched_open(&r->s, r->e, &o, &err);
    if (st) test_fail(__FILE__, __LINE__, "opening: %s", err.message);
    else r->at = (asked){ r->s, ds4_engine_vocab(r->e) };
    return !st;
}

static void rig_close(rig *r)
{
    sched_close(r->s);
    replay_close(r->replay);
    ds4_engine_close(r->e);
}

/* One request under failures; how many there were. */
static int ask_failing(rig *r, int n, bool once, int round)
{
    client c;
    reuse_prompt p;
    chat_start start;
    char text[32];
    snprintf(text, sizeof text, "What is %d?", round % 7);
    const line lines[] = { USER(text) };
    client_open(&c);
    if (!render(&r->at, lines, 1, &(render_options){ .think = true }, &p, &start)) return 0;
    sched_request q = request(&p, start);
    q.max_tokens = 5;
    q.n = 2;
    q.logprobs = true;
    q.top_logprobs = 3;
    if (once) fault_fail_once(n);
    else fault_fail_after(n);
    if (submit(&r->at, &c, &q)) EXPECT(c.t == NULL);
    else client_wait(&c);
    const int failures = fault_stop();
    EXPECT(p.tokens.n == 0);
    if (c.t) EXPECT(c.end == SCHED_DONE || c.error.status == DS4_EMEMORY || c.finish == FINISH_CANCELLED);
    client_close(&c);
    return failures;
}

TEST(every_allocation_of_a_request_may_fail)
{
    rig r;
    client c;
    char *want = NULL;
    const line lines[] = { USER("What is ds4?") };
    if (!fault_available()) {
        test_skip("allocations can not be made to fail here");
        return;
    }
    if (!rig_open(&r)) return;
    if (ask(&r.at, &c, lines, 1, &(render_options){ 0 })) want = strdup(c.text[0].data);
    client_close(&c);
    int n = 0;
    for (int failures = 1; failures && n < 2000; n++) {
        failures = ask_failing(&r, n, true, n);
        failures += ask_failing(&r, n, false, n);
        if (n % 16) continue;
        if (ask(&r.at, &c, lines, 1, &(render_options){ 0 })) EXPECT_TEXT(c.text[0].data, want);
        client_close(&c);
    }
    EXPECT(n > 50);                             /* it was met at all */
    free(want);
    rig_close(&r);
}
