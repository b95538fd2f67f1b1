/* scheduler: the queue, the engine thread, admission and shutdown. */
#include "engine/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"

sched_options sched_defaults(void)
{
    return (sched_options){ .n_slots = 1, .max_queue = 64, .exact_replay = true, .save = kv_save_policy_defaults() };
}

uint64_t sched_now(const scheduler *s) { return s->o.now_ns ? s->o.now_ns() : clock_ns(); }

int sched_capacity(const scheduler *s) { return s->capacity; }

bool sched_lost(const scheduler *constant, int *retry_s)
{
    scheduler *s = (scheduler *)constant;           /* only the lock is written */
    pthread_mutex_lock(&s->lock);
    const bool lost = s->lost;
    if (retry_s) *retry_s = lost ? s->retry_s : 0;
    pthread_mutex_unlock(&s->lock);
    return lost;
}

void sched_count_seconds(scheduler *s, double seconds)
{
    pthread_mutex_lock(&s->lock);
    s->mean_seconds = s->mean_seconds > 0 ? 0.8 * s->mean_seconds + 0.2 * seconds : seconds;
    pthread_mutex_unlock(&s->lock);
}

/* ---- what others see ---------------------------------------------------------------------- */

static void describe(const scheduler *s, const slot *sl, sched_slot_status *out)
{
    const sched_ticket *t = sl->job;
    *out = (sched_slot_status){ .slot = sl->index, .side = sl->side, .n_past = ds4_session_length(sl->session),
                                .n_ctx = sl->capacity,
                                .session = sl->memory.n_hints ? sl->memory.hints[0] : 0,
                                .last_used_ns = sl->memory.last_used_ns };
    out->state = sl->phase == PHASE_PROMPT ? SLOT_PREFILL : sl->phase != PHASE_IDLE ? SLOT_DECODE
               : out->n_past ? SLOT_IDLE : SLOT_EMPTY;
    if (!t) return;
    memcpy(out->request_id, t->id, sizeof out->request_id);
    if (sl->phase == PHASE_PROMPT) {
        out->done = (int)sl->fed;
        out->total = (int)sl->feed.n;
    }
    const uint64_t since = t->prefilled_ns ? t->prefilled_ns : t->started_ns, now = sched_now(s);
    const int tokens = t->prefilled_ns ? t->usage.completion_tokens : out->done;
    if (now > since) out->tokens_per_second = tokens / ((double)(now - since) * 1e-9);
}

static void publish_status(scheduler *s)
{
    uint64_t used = 0, running = 0;
    pthread_mutex_lock(&s->status_lock);
    for (int i = 0; i < s->n_slots; i++) {
        describe(s, &s->slots[i], &s->status[i]);
        if (!s->slots[i].side) used += (uint64_t)s->status[i].n_past;
        running += s->slots[i].job != NULL;
    }
    pthread_mutex_unlock(&s->status_lock);
    if (!s->o.metrics) return;
    counter_set(&s->o.metrics->kv_rows_used, used);
    counter_set(&s->o.metrics->running, running);
    ds4_metrics m;
    ds4_engine_metrics(s->engine, &m);
    counter_set(&s->o.metrics->expert_hits, m.card_experts.hits);
    counter_set(&s->o.metrics->expert_misses, m.card_experts.misses);
    counter_set(&s->o.metrics->expert_bus_bytes, m.card_experts.bus_bytes);
    counter_set(&s->o.metrics->expert_exchanges, m.card_experts.exchanges);
}

int sched_status(const scheduler *constant, sched_slot_status *out, int cap)
{
    scheduler *s = (scheduler *)constant;           /* only the lock is written */
    const int n = min_int(cap, s->n_slots);
    pthread_mutex_lock(&s->status_lock);
    memcpy(out, s->status, (size_t)n * sizeof *out);
    pthread_mutex_unlock(&s->status_lock);
    return n;
}

/* ---- the queue ---------------------------------------------------------------------------- */

static int retry_seconds(const scheduler *s)
{
    const double wait = s->mean_seconds * (s->waiting + 1) / s->o.n_slots;
    return wait < 1 ? 1 : wait > 60 ? 60 : (int)(wait + 0.5);
}

ds4_status sched_submit(scheduler *s, const sched_request *r, sched_ticket **out, int *retry_s, ds4_error *err)
{
    *out = NULL;
    *retry_s = 0;
    sched_ticket *t;
    ds4_status st = ticket_open(&t, s, r, err);
    if (st) return st;

    pthread_mutex_lock(&s->lock);
    if (s->draining) {
        st = ds4_fail(err, DS4_ECANCELLED, "the server is shutting down");
    } else if (s->lost) {
        *retry_s = s->retry_s;
        st = device_lost_error(s, err);
    } else if (s->waiting >= s->o.max_queue) {
        *retry_s = retry_seconds(s);
        st = ds4_fail(err, DS4_EFULL, "%d requests are waiting; try again in %d s", s->waiting, *retry_s);
    } else {
        t->queued = true;
        if (s->last) s->last->next = t;
        else s->first = t;
        s->last = t;
        s->waiting++;
        if (s->o.metrics) counter_set(&s->o.metrics->waiting, (uint64_t)s->waiting);
        *out = t;
        if (s->gives_way && t->prompt.tokens.n <= SCHED_SHORT_TOKENS && s->o.abandon) {
            s->gives_way = false;
            s->gave_way = true;
            atomic_store(s->o.abandon, true);
        }
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    if (st) ticket_free(t);
    return st;
}

/* ---- admission ---------------------------------------------------------------------------- */

/* A title or the like that is small enough to be asked beside the conversations. */
static bool fits_side(const scheduler *s, const sched_ticket *t)
{
    return s->side && t->side && 2 * t->prompt.tokens.n <= (size_t)s->side->capacity;
}

/* Slots that could hold the prompt; the scratch arrays then hold what reuse needs. */
static int gather_eligible(scheduler *s, const sched_ticket *t, bool *idle)
{
    int n = 0;
    *idle = false;
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        if (sl->side || t->prompt.tokens.n >= (size_t)sl->capacity) continue;
        s->memories[n] = &sl->memory;
        s->sessions[n] = slot_reuse_session(sl, s);
        s->eligible[n++] = i;
        *idle |= sl->phase == PHASE_IDLE;
    }
    return n;
}

/* Looked at once, when a slot could take it. */
static bool is_short(scheduler *s, sched_ticket *t, int n)
{
    if (t->max_tokens > SCHED_SHORT_ANSWER) return false;
    if (t->uncached < 0) {
        int kept = 0;
        for (int i = 0; i < n; i++) {
            const reuse_match m = reuse_match_slot(&t->prompt, s->memories[i], &s->sessions[i], s->v);
            kept = max_int(kept, m.keep);
        }
        t->uncached = max_int(0, (int)t->prompt.tokens.n - kept);
    }
    return t->uncached <= SCHED_SHORT_TOKENS;
}

/* The request that goes next: the first that a free slot can hold, or a short one behind it that may overtake.
 * Taken out of the queue; NULL: none. */
static sched_ticket *pick(scheduler *s)
{
    sched_ticket *chosen = NULL, *head = NULL;
    bool idle;
    pthread_mutex_lock(&s->lock);
    for (sched_ticket *t = s->first; t; t = t->next) {
        const int n = gather_eligible(s, t, &idle);
        if (t->waits_for_side) idle = false;
        if (!idle && !(fits_side(s, t) && s->side->phase == PHASE_IDLE)) continue;
        const bool brief = is_short(s, t, n);
        if (!head) {
            head = chosen = t;
            if (brief || head->overtaken >= SCHED_OVERTAKE) break;
        } else if (brief) {
            head->overtaken++;
            chosen = t;
            break;
        }
    }
    if (chosen) ticket_leave_queue(chosen);
    pthread_mutex_unlock(&s->lock);
    return chosen;
}

/* Back to the front of the queue, until the side slot is free. */
static void wait_for_side(scheduler *s, sched_ticket *t)
{
    pthread_mutex_lock(&s->lock);
    t->waits_for_side = t->queued = true;
    t->next = s->first;
    s->first = t;
    if (!s->last) s->last = t;
    s->waiting++;
    if (s->o.metrics) counter_set(&s->o.metrics->waiting, (uint64_t)s->waiting);
    pthread_mutex_unlock(&s->lock);
}

/* The slot for t, and what of it serves; NULL: it waits. A conversation does not make room for a side request that the
 * side slot can take (docs/scheduler.md). */
static slot *choose_slot(scheduler *s, sched_ticket *t, reuse_choice *c)
{
    bool idle;
    const int n = gather_eligible(s, t, &idle);
    const reuse_request r = { .side = t->side, .now_ns = sched_now(s) };
    *c = reuse_choose(&t->prompt, &r, s->memories, s->sessions, n, s->v);
    if (c->slot >= 0 && !((c->side || (t->side && c->foreign)) && fits_side(s, t))) {
        c->foreign |= c->side;
        return &s->slots[s->eligible[c->slot]];
    }
    if (!s->side || s->side->phase != PHASE_IDLE) return NULL;
    const reuse_session session = slot_reuse_session(s->side, s);
    *c = (reuse_choice){ .match = reuse_match_slot(&t->prompt, &s->side->memory, &session, s->v) };
    return s->side;
}

static void start(scheduler *s, sched_ticket *t)
{
    reuse_choice c;
    slot *sl = choose_slot(s, t, &c);
    if (!sl) {
        wait_for_side(s, t);
        return;
    }
    t->started_ns = sched_now(s);
    ds4_error err;
    const ds4_status st = slot_begin(sl, s, t, &c, &err);
    if (!st) {
        ticket_publish(t, false);
        return;
    }
    log_line(&s->o.log, LOG_ERROR, "id=%s failed: %s", t->id, err.message);
    if (s->o.metrics) counter_add(&s->o.metrics->ended[ENDED_ERROR], 1);
    ticket_stage(t, &(sched_event){ .kind = SCHED_FAILED, .usage = t->usage, .error = err });
    ticket_publish(t, true);
}

/* A slot that still feeds its last token would be taken for busy, and its conversation for a new one. */
static bool any_tail(const scheduler *s)
{
    for (int i = 0; i < s->n_slots; i++)
        if (s->slots[i].phase == PHASE_TAIL) return true;
    return false;
}

static void admit(scheduler *s)
{
    for (sched_ticket *t; !any_tail(s) && (t = pick(s));) start(s, t);
}

/* ---- the engine thread -------------------------------------------------------------------- */

static int running(const scheduler *s)
{
    int n = 0;
    for (int i = 0; i < s->n_slots; i++) n += s->slots[i].phase != PHASE_IDLE;
    return n;
}

static bool nobody_waits(scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    const bool nobody = !s->first && !s->draining;
    pthread_mutex_unlock(&s->lock);
    return nobody;
}

/* Requests that nobody wants any more. With finish_orphans a lone prompt is still computed to its end, so that a
 * client with a fixed deadline finds it done when it asks again. */
static void reap(scheduler *s)
{
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        if (!sl->job || sl->phase == PHASE_TAIL || !ticket_cancelled(sl->job)) continue;
        sl->orphan = s->o.finish_orphans && sl->phase == PHASE_PROMPT && running(s) == 1 && nobody_waits(s);
        if (!sl->orphan) answers_end(s, sl, FINISH_CANCELLED);
    }
}

void queue_refuse(scheduler *s, const ds4_error *why)
{
    for (;;) {
        pthread_mutex_lock(&s->lock);
        sched_ticket *t = s->first;
        if (t) ticket_leave_queue(t);
        pthread_mutex_unlock(&s->lock);
        if (!t) return;
        const sched_event e = { .kind = SCHED_FAILED, .usage = t->usage, .error = *why };
        if (s->o.metrics) counter_add(&s->o.metrics->ended[why->status == DS4_ECANCELLED ? ENDED_ABORT : ENDED_ERROR], 1);
        ticket_stage(t, &e);
        ticket_publish(t, true);
    }
}

/* False: shut down, and nothing runs any more. */
static bool wait_for_work(scheduler *s)
{
    const bool busy = running(s) > 0;
    pthread_mutex_lock(&s->lock);
    while (!busy && !s->first && !s->draining && !s->lost) pthread_cond_wait(&s->work, &s->lock);
    const bool draining = s->draining;
    const uint64_t deadline = s->deadline_ns;
    pthread_mutex_unlock(&s->lock);
    if (!draining) return true;

    ds4_error ending;
    ds4_fail(&ending, DS4_ECANCELLED, "the server is shutting down");
    queue_refuse(s, &ending);
    if (sched_now(s) >= deadline)
        for (int i = 0; i < s->n_slots; i++)
            if (s->slots[i].job && s->slots[i].phase != PHASE_TAIL) answers_end(s, &s->slots[i], FINISH_LENGTH);
    return running(s) > 0;
}

static void *engine_thread(void *arg)
{
    scheduler *s = arg;
    while (wait_for_work(s)) {
        if (s->lost) {
            device_recover(s);
            continue;
        }
        reap(s);
        admit(s);
        publish_status(s);
        step_run(s);
        publish_status(s);
    }
    for (int i = 0; i < s->n_slots && !s->lost; i++) slot_save_whole(&s->slots[i], s, KV_SAVE_SHUTDOWN, 0, true);
    return NULL;
}

/* ---- opening and closing ------------------------------------------------------------------ */

/* The end of a block behind its first call. */
static ds4_status make_closers(scheduler *s, ds4_error *err)
{
    static const char *const texts[2] = { "\n</｜DSML｜tool_calls>", "</｜DSML｜tool_calls>" };
    for (int i = 0; i < 2; i++) {
        chat_prompt p;
        chat_prompt_init(&p, s->v, 256);
        chat_prompt_protocol(&p, texts[i]);
        ds4_status st = chat_prompt_status(&p, err);
        if (!st) st = chat_tokens(&p, &s->closer[i], err);
        chat_prompt_free(&p);
        if (st) return st;
    }
    return DS4_OK;
}

static ds4_status open_slots(scheduler *s, int max_tokens, int side_tokens, ds4_error *err)
{
    for (int i = 0; i < s->o.n_slots; i++) {
        const int capacity = i > 0 && s->o.slot_ctx > 0 ? min_int(s->o.slot_ctx, max_tokens) : max_tokens;
        s->n_slots++;
        const ds4_status st = slot_open(&s->slots[i], s, i, capacity, err);
        if (st) return st;
        s->capacity = max_int(s->capacity, capacity);
        if (s->o.metrics) counter_add(&s->o.metrics->kv_rows, (uint64_t)capacity);
    }
    if (side_tokens == 0) return DS4_OK;
    s->side = &s->slots[s->n_slots];
    const ds4_status st = slot_open(s->side, s, s->n_slots++, side_tokens, err);
    s->side->side = true;
    return st;
}

static ds4_status open_rest(scheduler *s, ds4_error *err)
{
    ds4_shape shape;
    ds4_engine_shape(s->engine, &shape);
    s->v = ds4_engine_vocab(s->engine);
    s->special = vocab_special(s->v);
    s->n_vocab = shape.n_vocab;
    s->chunk = shape.max_batch_rows;
    s->interval = s->o.store ? kv_continued_interval(&s->o.save) : 0;

    const size_t n = (size_t)s->o.n_slots + 1;
    s->slots = calloc(n, sizeof *s->slots);
    s->memories = calloc(n, sizeof *s->memories);
    s->sessions = calloc(n, sizeof *s->sessions);
    s->eligible = calloc(n, sizeof *s->eligible);
    s->status = calloc(n, sizeof *s->status);
    if (!s->slots || !s->memories || !s->sessions || !s->eligible || !s->status)
        return ds4_fail(err, DS4_EMEMORY, "no memory for %zu slots", n);
    ds4_status st = make_closers(s, err);
    if (!st) st = open_slots(s, shape.max_tokens, shape.side_tokens, err);
    if (!st) st = ds4_batch_new(&s->batch, s->engine, err);
    if (st) return st;
    publish_status(s);
    if (pthread_create(&s->thread, NULL, engine_thread, s)) return ds4_fail(err, DS4_EMEMORY, "no thread for the engine");
    s->started = true;
    return DS4_OK;
}

ds4_status sched_open(scheduler **out, ds4_engine *e, const sched_options *o, ds4_error *err)
{
    *out = NULL;
    if (o->n_slots < 1) return ds4_fail(err, DS4_EARG, "%d slots; at least one is needed", o->n_slots);
    scheduler *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for the scheduler");
    s->engine = e;
    s->o = *o;
    s->answered = true;                             /* a first loss is nobody's habit */
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->wake_lock, NULL);
    pthread_mutex_init(&s->status_lock, NULL);
    pthread_cond_init(&s->work, NULL);
    for (int i = 0; i < 2; i++) token_list_init(&s->closer[i], 64);
    const ds4_status st = open_rest(s, err);
    if (st) {
        sched_close(s);
        return st;
    }
    *out = s;
    return DS4_OK;
}

void sched_drain(scheduler *s, uint64_t deadline_ns)
{
    if (!s || !s->started) return;
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    s->deadline_ns = deadline_ns;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->started = false;
}

void sched_close(scheduler *s)
{
    if (!s) return;
    sched_drain(s, 0);
    for (int i = 0; i < s->n_slots; i++) slot_close(&s->slots[i], s);
    ds4_batch_free(s->batch);
    for (int i = 0; i < 2; i++) token_list_free(&s->closer[i]);
    free(s->slots);
    free(s->memories);
    free(s->sessions);
    free(s->eligible);
    free(s->status);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->wake_lock);
    pthread_mutex_destroy(&s->status_lock);
    pthread_cond_destroy(&s->work);
    free(s);
}
