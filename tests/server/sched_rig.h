/* sched_rig: the inside of a server over the scripted engine: slots, a store, requests. */
#ifndef TESTS_SERVER_SCHED_RIG_H
#define TESTS_SERVER_SCHED_RIG_H

#include "asking.h"

#include "base/checked.h"
#include "fake_engine.h"
#include "text/tokenizer.h"

/* ---- a server's inside --------------------------------------------------------------------- */

typedef struct {
    ds4_engine     *e;
    scheduler      *s;
    asked           at;
    replay_memory  *replay;
    server_metrics  metrics;
    kvstore        *store;
    sched_options   o;
    char            order[256];
    atomic_bool     abandon;
    atomic_bool log_is_private;             /* who said PRIVATE; lines also come from the saving thread */
    bool trace_quotes;
    int  hesitations;                       /* lost devices that were not opened again at once */
} rig;

/* Notes who was admitted: the last letter of each id. */
static inline void note_line(void *ctx, int level, const char *said)
{
    rig *r = ctx;
    const char *at = strstr(said, " reuse=");
    (void)level;
    if (strstr(said, "PRIVATE")) r->log_is_private = true;
    if (strstr(said, "no request was answered")) r->hesitations++;
    if (at && at > said && strlen(r->order) + 1 < sizeof r->order) r->order[strlen(r->order)] = at[-1];
}

static inline void note_trace(void *ctx, const char *id, const char *what, slice text)
{
    rig *r = ctx;
    (void)id;
    if (strcmp(what, "reuse") == 0) r->trace_quotes |= memmem(text.data, text.len, "PRIVATE", 7) != NULL;
}

static bool abandoned(void *ctx) { return atomic_load(&((rig *)ctx)->abandon); }

typedef struct {
    int  slots, ctx, chunk, queue;
    const char *disk;
    bool orphans, strict;
    int  side;
} rig_options;

static inline bool rig_open(rig *r, const rig_options *o)
{
    ds4_error err;
    memset(r, 0, sizeof *r);
    ds4_engine_options eo = ds4_engine_defaults();
    eo.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    eo.max_sessions = max_int(o->slots, 1);
    eo.max_tokens = o->ctx ? o->ctx : 8192;
    eo.max_batch_rows = o->chunk ? o->chunk : 512;
    eo.rewind_points = 16;
    eo.side_tokens = o->side;
    eo.interrupted = abandoned;
    eo.interrupted_ctx = r;
    server_metrics_init(&r->metrics);
    ds4_status st = ds4_engine_open(&r->e, &eo, &err);
    if (!st) st = replay_open(&r->replay, 1000, 1 << 20, &err);
    r->o = sched_defaults();
    r->o.n_slots = max_int(o->slots, 1);
    if (o->queue) r->o.max_queue = o->queue;
    r->o.replay = r->replay;
    r->o.metrics = &r->metrics;
    r->o.log = (log_sink){ note_line, r };
    r->o.trace = note_trace;
    r->o.trace_ctx = r;
    r->o.now_ns = fake_now_ns;
    r->o.finish_orphans = o->orphans;
    r->o.strict_drop_reasoning = o->strict;
    r->o.abandon = &r->abandon;
    if (!st && o->disk) {
        const kvstore_options ko = { .dir = o->disk, .budget_bytes = 1u << 30, .metrics = &r->metrics, .log = r->o.log };
        st = kvstore_open(&r->store, &ko, r->e, &err);
        r->o.store = r->store;
    }
    if (!st) st = sched_open(&r->s, r->e, &r->o, &err);
    if (!st) r->at = (asked){ r->s, ds4_engine_vocab(r->e) };
    if (st) test_fail(__FILE__, __LINE__, "opening: %s", err.message);
    return !st;
}

static inline void rig_close(rig *r)
{
    if (r->e) fake_allow_steps(r->e, -1);
    sched_close(r->s);
    kvstore_close(r->store);
    replay_close(r->replay);
    ds4_engine_close(r->e);
}

/* Text of about n tokens; the vocabulary is small, so a word is several. */
static inline char *long_text(int n)
{
    char *text = malloc((size_t)n * 2 + 16);
    int at = 0;
    for (int i = 0; i < n; i++) at += sprintf(text + at, "%d", i % 10);
    return text;
}

static inline uint64_t prefilled(rig *r) { return counter_get(&r->metrics.prefill_tokens); }

static inline void pause_ms(int ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
}

static inline int busy_slots(rig *r)
{
    sched_slot_status st[8];
    int busy = 0;
    const int n = sched_status(r->s, st, 8);
    for (int i = 0; i < n; i++) busy += st[i].state == SLOT_PREFILL || st[i].state == SLOT_DECODE;
    return busy;
}

static const render_options plain = { 0 };

/* What each method leads to is what a cold session says: the answer spells the state at the prompt's end. */
static inline void expect_as_cold(const line *lines, int n, const render_options *o, const char *got)
{
    rig cold;
    client c;
    if (!rig_open(&cold, &(rig_options){ 0 })) return;
    fake_rule(cold.e, "", 0, "state $STATE");
    if (ask(&cold.at, &c, lines, n, o)) EXPECT_TEXT(got, c.text[0].data);
    client_close(&c);
    rig_close(&cold);
}

#endif
