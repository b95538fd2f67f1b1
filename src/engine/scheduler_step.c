/* scheduler_step: the rows of one step.
 *
 * First one row per decoding slot (more where tokens are forced), then rows of prompts. With decoders beside it a
 * prompt gets as many rows as keep the step within twice a decoder's own, or 150 ms; alone it gets a chunk, or
 * what takes two seconds, so that whoever comes is noticed (docs/scheduler.md). */
#include "engine/scheduler_internal.h"

#include "base/checked.h"
#include "base/status.h"

#define DECODER_WAIT_NS     UINT64_C(150000000)
#define LONG_STEP_NS        UINT64_C(300000000)
#define CHUNK_NS            UINT64_C(2000000000)
#define FIRST_QUANTUM       128         /* until something was measured           */
#define LEAST_QUANTUM       4           /* also where a row takes longer than allowed */
#define LEAST_CHUNK         128         /* fewer rows waste weights that were read */
#define MOST_QUANTUM        2048
#define MEASURED_ROWS       4096        /* half of the weight lies in the latest  */
#define ECHO_ROWS           32          /* with logits for each of them           */

static int rows_in(uint64_t ns, uint64_t row_ns, int least, int most)
{
    const uint64_t rows = ns / row_ns;
    return rows > (uint64_t)most ? most : max_int(least, (int)rows);
}

static int quantum_of(const scheduler *s, int decoders)
{
    if (decoders > 0 && s->o.prefill_quantum > 0) return min_int(s->o.prefill_quantum, s->chunk);
    if (s->row_ns == 0) return min_int(FIRST_QUANTUM, s->chunk);
    if (decoders == 0) return rows_in(CHUNK_NS, s->row_ns, min_int(LEAST_CHUNK, s->chunk), s->chunk);
    uint64_t room = s->decode_ns;
    if (room + s->decode_ns < DECODER_WAIT_NS) room = DECODER_WAIT_NS - s->decode_ns;
    return rows_in(room, s->row_ns, min_int(LEAST_QUANTUM, s->chunk), min_int(MOST_QUANTUM, s->chunk));
}

/* Rows weigh alike, so that a step of a few, which costs almost what a step costs, says little about them. */
static void measure(scheduler *s, int decode_rows, int prompt_rows, uint64_t ns)
{
    if (prompt_rows == 0) {
        s->decode_ns = s->decode_ns ? (3 * s->decode_ns + ns) / 4 : ns;
        return;
    }
    const uint64_t others = decode_rows ? s->decode_ns : 0;
    s->sum_ns += ns > others ? ns - others : 0;
    s->sum_rows += (uint64_t)prompt_rows;
    if (s->sum_rows >= MEASURED_ROWS) {
        s->sum_ns /= 2;
        s->sum_rows /= 2;
    }
    s->row_ns = s->sum_ns / s->sum_rows + 1;
}

static int tokens_left(const slot *sl) { return (int)(sl->feed.n - sl->fed); }

/* Adds up to n tokens of the slot's feed. */
static ds4_status add(scheduler *s, slot *sl, int n, ds4_error *err)
{
    const int left = tokens_left(sl);
    n = min_int(min_int(n, left), slot_next_stop(sl, s) - ds4_session_length(sl->session));
    const bool echo = sl->phase == PHASE_PROMPT && sl->job->prompt_logprobs;
    if (echo) n = min_int(n, ECHO_ROWS);
    if (n <= 0) return DS4_OK;
    const bool last = n == left && sl->phase != PHASE_TAIL;
    const ds4_logits logits = echo ? DS4_LOGITS_ALL : last ? DS4_LOGITS_LAST : DS4_LOGITS_NONE;
    const int first = ds4_batch_rows(s->batch);
    const ds4_status st = ds4_batch_add(s->batch, sl->session, sl->feed.ids + sl->fed, n, logits, err);
    if (st) return st;
    sl->rows = n;
    sl->first_row = first;
    return DS4_OK;
}

static bool decodes(const slot *sl) { return sl->phase == PHASE_ANSWER || sl->phase == PHASE_TAIL; }

static bool is_short(const slot *sl) { return tokens_left(sl) <= SCHED_SHORT_TOKENS; }

static bool goes_before(const slot *a, const slot *b, bool by_age)
{
    if (!by_age && is_short(a) != is_short(b)) return is_short(a);
    if (!by_age && is_short(a)) return tokens_left(a) < tokens_left(b);
    return a->job->started_ns < b->job->started_ns;
}

/* The prompt whose turn it is: the shortest rest of the short ones, so that a small request does not wait for a long
 * one, else the oldest; by_age: the oldest anyway. *n: how many there are. */
static slot *next_prompt(scheduler *s, bool by_age, int *n)
{
    slot *best = NULL;
    *n = 0;
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        if (sl->phase != PHASE_PROMPT || sl->rows || sl->passed) continue;
        (*n)++;
        if (!best || goes_before(sl, best, by_age)) best = sl;
    }
    return best;
}

/* A slot whose rows can not be added ends with an error. */
static void add_or_fail(scheduler *s, slot *sl, int n)
{
    ds4_error err;
    if (add(s, sl, n, &err)) answers_fail(s, sl, &err);
}

static void collect(scheduler *s, int *decode_rows, int *prompt_rows)
{
    ds4_batch_clear(s->batch);
    int decoders = 0;
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        sl->rows = 0;
        sl->passed = false;
        if (!decodes(sl) || tokens_left(sl) == 0) continue;
        add_or_fail(s, sl, s->chunk - ds4_batch_rows(s->batch));
        decoders += sl->rows > 0;
    }
    *decode_rows = ds4_batch_rows(s->batch);

    int waiting, room = min_int(quantum_of(s, decoders), s->chunk - *decode_rows);
    bool by_age = ++s->turns % 4 == 0;              /* so that a long one is not passed for ever */
    for (slot *sl; room > 0 && (sl = next_prompt(s, by_age, &waiting)); by_age = false) {
        const bool shares = by_age && waiting > 1;
        add_or_fail(s, sl, shares ? min_int(room, quantum_of(s, 1)) : room);
        sl->passed = true;
        room -= sl->rows;
        /* Who gets its first token in this step waits like a decoder for the prompts behind it. */
        const bool speaks = sl->rows > 0 && sl->rows == tokens_left(sl);
        if (shares || speaks) room = min_int(room, quantum_of(s, 1) - (speaks ? sl->rows : 0));
    }
    *prompt_rows = ds4_batch_rows(s->batch) - *decode_rows;
}

/* ---- after a step ------------------------------------------------------------------------- */

static void echo_rows(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    for (int i = 0; i < sl->rows; i++) {
        const int next = (int)sl->fed + i + 1;      /* echo starts cold: feed is the prompt */
        const float *logits = ds4_batch_logits(s->batch, sl->first_row + i);
        if (logits && next < (int)t->prompt.tokens.n) ticket_note_echo(t, next, logits);
    }
}

static void fed(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    const slot_phase phase = sl->phase;
    if (phase == PHASE_PROMPT && t->prompt_logprobs) echo_rows(s, sl);
    ds4_error err;
    if (slot_fed(sl, s, sl->rows, &err)) {
        answers_fail(s, sl, &err);
        return;
    }
    if (phase == PHASE_PROMPT) {
        if (s->o.metrics) counter_add(&s->o.metrics->prefill_tokens, (uint64_t)sl->rows);
        const sched_event e = { .kind = SCHED_PREFILL, .done = (int)sl->fed, .total = (int)sl->feed.n };
        if (!sl->orphan) ticket_stage(t, &e);
    }
}

static void after(scheduler *s)
{
    for (int i = 0; i < s->n_slots; i++)
        if (s->slots[i].rows) fed(s, &s->slots[i]);
}

/* The step was broken off: its rows are collected anew, beside whoever has come. */
static void put_back(scheduler *s)
{
    for (int i = 0; i < s->n_slots; i++) s->slots[i].rows = 0;
}

/* The step failed as a whole and changed nothing: each slot goes alone, and those that fail so are to blame. */
static void run_alone(scheduler *s, const ds4_error *why)
{
    int n = 0;
    for (int i = 0; i < s->n_slots; i++) n += s->slots[i].rows > 0;
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        const int rows = sl->rows;
        if (rows == 0) continue;
        sl->rows = 0;
        ds4_error err = *why;
        ds4_batch_clear(s->batch);
        ds4_status st = n > 1 ? add(s, sl, rows, &err) : why->status;
        if (!st) st = ds4_engine_step(s->engine, s->batch, &err);
        if (!st) {
            fed(s, sl);
            sl->rows = 0;
        } else {
            answers_fail(s, sl, &err);
        }
    }
}

/* A step of one request is broken off when that request is cancelled; a long one of prompts alone also for a short
 * request that has come, but not twice in a row. */
static void begin_step(scheduler *s, int decode_rows, int prompt_rows)
{
    sched_ticket *only = NULL;
    int n = 0, idle = 0;
    for (int i = 0; i < s->n_slots; i++) {
        idle += s->slots[i].phase == PHASE_IDLE && !s->slots[i].side;
        if (s->slots[i].rows == 0) continue;
        only = s->slots[i].phase != PHASE_TAIL ? s->slots[i].job : NULL;    /* a finished turn is completed */
        n++;
    }
    pthread_mutex_lock(&s->lock);
    s->alone = n == 1 && !s->o.finish_orphans ? only : NULL;
    s->gives_way = decode_rows == 0 && idle > 0 && !s->gave_way && (uint64_t)prompt_rows * s->row_ns > LONG_STEP_NS;
    if (s->alone && s->alone->cancelled && s->o.abandon) atomic_store(s->o.abandon, true);
    pthread_mutex_unlock(&s->lock);
}

static void end_step(scheduler *s, ds4_status st)
{
    pthread_mutex_lock(&s->lock);
    s->alone = NULL;
    s->gives_way = false;
    if (!st) s->gave_way = false;
    if (s->o.abandon) atomic_store(s->o.abandon, false);
    pthread_mutex_unlock(&s->lock);
}

void step_run(scheduler *s)
{
    int decode_rows, prompt_rows;
    s->failed_why.status = DS4_OK;
    collect(s, &decode_rows, &prompt_rows);
    if (ds4_batch_rows(s->batch) > 0) {
        ds4_error err = { 0 };
        const uint64_t start = sched_now(s);
        begin_step(s, decode_rows, prompt_rows);
        err.status = ds4_engine_step(s->engine, s->batch, &err);
        end_step(s, err.status);
        if (err.status == DS4_ECANCELLED) {
            put_back(s);
        } else if (ds4_engine_lost(s->engine)) {
            device_lost(s, &err);
            return;
        } else if (err.status) {
            run_alone(s, &err);
        } else {
            measure(s, decode_rows, prompt_rows, sched_now(s) - start);
            after(s);
        }
    }
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        if (sl->phase != PHASE_IDLE && sl->fed == sl->feed.n) answers_advance(s, sl);
        if (sl->job) ticket_publish(sl->job, false);
    }
    if (!ds4_engine_lost(s->engine)) return;
    ds4_error late = s->failed_why;                 /* behind the step, or when its slots went alone */
    if (!late.status) ds4_fail(&late, DS4_EDEVICE, "the device failed after a step");
    device_lost(s, &late);
}
