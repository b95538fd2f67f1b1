/* scheduler_rig: a scheduler over the bundled model, with or without a folder of kept conversations. */
#ifndef TESTS_TINY_SCHEDULER_RIG_H
#define TESTS_TINY_SCHEDULER_RIG_H

#include "../server/asking.h"

typedef struct {
    ds4_engine     *e;
    scheduler      *s;
    kvstore        *store;
    replay_memory  *replay;
    server_metrics  metrics;
    asked           at;
} rig;

/* disk: the folder, or NULL. */
static inline bool rig_open(rig *r, const char *backend, int slots, const char *disk)
{
    ds4_error err;
    memset(r, 0, sizeof *r);
    ds4_engine_options eo = ds4_engine_defaults();
    eo.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    eo.backend = backend;
    eo.max_sessions = slots;
    eo.max_tokens = 4096;
    eo.max_batch_rows = 256;
    eo.rewind_points = 16;
    eo.n_threads = 1;
    server_metrics_init(&r->metrics);
    ds4_status st = ds4_engine_open(&r->e, &eo, &err);
    if (!st) st = replay_open(&r->replay, 1000, 1 << 20, &err);
    if (!st && disk) {
        const kvstore_options ko = { .dir = disk, .budget_bytes = 1u << 30, .metrics = &r->metrics };
        st = kvstore_open(&r->store, &ko, r->e, &err);
    }
    sched_options o = sched_defaults();
    o.n_slots = slots;
    o.store = r->store;
    o.replay = r->replay;
    o.metrics = &r->metrics;
    if (!st) st = sched_open(&r->s, r->e, &o, &err);
    if (!st) r->at = (asked){ r->s, ds4_engine_vocab(r->e) };
    else test_fail(__FILE__, __LINE__, "opening: %s", err.message);
    return !st;
}

static inline void rig_close(rig *r)
{
    sched_close(r->s);
    kvstore_close(r->store);
    replay_close(r->replay);
    ds4_engine_close(r->e);
}

#endif
