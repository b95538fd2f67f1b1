/* scheduler_slot: a session and what is known of it.
 *
 * Brings the session to where a request can go on, plans where the rest of its prompt stops for rewind points and
 * checkpoints, and keeps what reuse.h remembers in step with the session (docs/reuse.md). */
#include "engine/scheduler_internal.h"

#include "base/checked.h"
#include "base/status.h"

#define TEXT_BYTES ((size_t)1 << 30)

ds4_status slot_open(slot *sl, scheduler *s, int index, int capacity, ds4_error *err)
{
    *sl = (slot){ .index = index, .capacity = capacity };
    reuse_slot_init(&sl->memory);
    token_list_init(&sl->feed, (size_t)capacity + SCHED_FORCED_TOKENS);
    return ds4_session_open(&sl->session, s->engine, capacity, err);
}

void slot_close(slot *sl, scheduler *s)
{
    if (sl->session && s->o.store) kvstore_wait(s->o.store, sl->session);
    ds4_session_close(sl->session);
    reuse_slot_free(&sl->memory);
    token_list_free(&sl->feed);
}

/* A checkpoint in work reads the rows that are about to change. */
static void wait_for_save(slot *sl, const scheduler *s)
{
    if (s->o.store) kvstore_wait(s->o.store, sl->session);
}

void slot_reset(slot *sl, scheduler *s)
{
    wait_for_save(sl, s);
    ds4_session_reset(sl->session);
    reuse_slot_clear(&sl->memory);
}

int slot_rewind(slot *sl, scheduler *s, int want)
{
    if (want >= ds4_session_length(sl->session)) return ds4_session_length(sl->session);
    wait_for_save(sl, s);
    const int length = ds4_session_rewind(sl->session, want);
    reuse_slot_cut(&sl->memory, length);
    return length;
}

void slot_mark(slot *sl)
{
    ds4_session_mark(sl->session, NULL);            /* without points a rewind goes further back */
}

static int  rewind_point(void *ctx, int want)  { return ds4_session_rewind_point(((slot *)ctx)->session, want); }
static bool has_logits(void *ctx, int length)  { return ds4_session_has_logits(((slot *)ctx)->session, length); }

reuse_session slot_reuse_session(slot *sl, const scheduler *s)
{
    return (reuse_session){ .rewind_point = rewind_point, .has_logits = has_logits, .ctx = sl,
                            .strict_drop_reasoning = s->o.strict_drop_reasoning };
}

/* ---- checkpoints -------------------------------------------------------------------------- */

static slice slice_of_bytes(const bytes *b) { return (slice){ b->data, b->len }; }

/* The request's prompt, under which entries are kept that it could still need. */
static slice conversation_of(const slot *sl)
{
    return sl->job ? slice_of_bytes(&sl->job->text) : (slice){ 0 };
}

static bool save(slot *sl, scheduler *s, kv_save_reason reason, const bytes *text, bool visible, bool wait)
{
    const kvstore_save_options o = {
        .reason = reason, .text = slice_of_bytes(text), .visible = visible,
        .thinking = visible && sl->memory.reasoning.len > 0, .wait = wait, .replay = s->o.replay,
        .interval = kv_continued_interval(&s->o.save), .conversation = conversation_of(sl) };
    ds4_error err;
    const ds4_status st = kvstore_save(s->o.store, sl->session, &o, &err);
    if (st && st != DS4_EIO)
        log_line(&s->o.log, st == DS4_EDEVICE ? LOG_WARNING : LOG_DEBUG, "slot=%d not saved: %s", sl->index, err.message);
    return !st;
}

/* The text under which the session comes back, none when there is no memory for it; true: it is not the session's
 * own. */
static bool text_of(const slot *sl, const scheduler *s, bytes *text)
{
    const bool visible = reuse_visible_text(&sl->memory, sl->memory.tools_hash != 0, s->v, text);
    if (!visible && prefix_key_text(prefix_key_bytes(&sl->memory.key), s->v, text, NULL)) bytes_clear(text);
    return visible;
}

/* The session as it stands within a turn. */
static void save_here(slot *sl, scheduler *s, kv_save_reason reason)
{
    bytes text;
    bytes_init(&text, TEXT_BYTES);
    const bool visible = text_of(sl, s, &text);
    if (text.len > 0 && save(sl, s, reason, &text, visible, false) && sl->job) {
        answer_usage *u = &sl->job->usage;
        const int stored = min_int(ds4_session_length(sl->session), u->prompt_tokens) - u->cached_tokens;
        u->stored_tokens = max_int(u->stored_tokens, stored);
    }
    bytes_free(&text);
}

void slot_save_whole(slot *sl, scheduler *s, kv_save_reason reason, int worth, bool wait)
{
    const int length = ds4_session_length(sl->session);
    if (!s->o.store || sl->side || length < s->o.save.min_tokens) return;
    bytes text;
    bytes_init(&text, TEXT_BYTES);
    const bool visible = text_of(sl, s, &text);
    if (text.len > 0 && length - kvstore_covered(s->o.store, slice_of_bytes(&text)) > worth)
        save(sl, s, reason, &text, visible, wait);
    bytes_free(&text);
}

/* What a loaded session is for the prompt; false: nothing. */
static bool recall_loaded(slot *sl, scheduler *s, sched_ticket *t)
{
    const int n = ds4_session_length(sl->session);
    return !reuse_slot_push(&sl->memory, s->v, ds4_session_tokens(sl->session), n, NULL)
        && reuse_match_loaded(&t->prompt, &sl->memory, t->hit.text_bytes, s->v, &t->match)
        && ((size_t)t->match.from < t->prompt.key.data.len || ds4_session_has_logits(sl->session, n));
}

/* A checkpoint that is being written may be the one: a long prompt waits for it while nobody else has to. */
static void wait_for_checkpoints(const scheduler *s, const sched_ticket *t)
{
    for (int i = 0; i < s->n_slots; i++)
        if (s->slots[i].phase != PHASE_IDLE) return;
    if ((int)t->prompt.tokens.n - t->match.keep > SCHED_EVICT_TOKENS) kvstore_wait(s->o.store, NULL);
}

/* Loads a checkpoint when it saves enough over what is live. True: t->match is of it. False: t->match is what
 * is left, cold when a load failed. */
static bool load_checkpoint(slot *sl, scheduler *s, sched_ticket *t)
{
    if (!s->o.store || sl->side || t->retried) return false;
    if (prefix_key_text(prefix_key_bytes(&t->prompt.key), s->v, &t->text, NULL)) return false;
    const slice text = slice_of_bytes(&t->text);
    wait_for_checkpoints(s, t);
    const int most = sl->capacity - 1;
    for (size_t skip = text.len + 1; kvstore_find(s->o.store, text, most, skip, &t->hit); skip = t->hit.text_bytes) {
        /* It may hold what the client left out; and where text spells control tokens it would be refused once
         * loaded. */
        if (t->hit.visible && (s->o.strict_drop_reasoning || t->prompt.ambiguous)) continue;
        const int gain = t->hit.tokens - t->match.keep;
        if (gain < SCHED_DISK_GAIN) return false;
        const double saved = (double)gain * (double)s->row_ns * 1e-9;
        if (s->row_ns && kvstore_load_seconds(s->o.store, &t->hit) > saved) return false;

        if (ds4_session_length(sl->session) > 0) {
            slot_save_whole(sl, s, KV_SAVE_EVICT, SCHED_EVICT_TOKENS, true);
            slot_reset(sl, s);
        }
        t->match = (reuse_match){ .method = REUSE_COLD };
        t->from_disk = !kvstore_load(s->o.store, &t->hit, sl->session, s->o.replay, NULL) && recall_loaded(sl, s, t);
        if (t->from_disk) return true;
        slot_reset(sl, s);
        t->match = (reuse_match){ .method = REUSE_COLD };
    }
    return false;
}

/* ---- beginning a request ------------------------------------------------------------------ */

/* Brings the session to where the match says; what the slot remembers follows in run. */
static void apply(slot *sl, scheduler *s, sched_ticket *t)
{
    const int keep = t->match.keep;
    if (keep == ds4_session_length(sl->session)) return;
    wait_for_save(sl, s);
    if (keep > 0 && ds4_session_rewind(sl->session, keep) == keep) return;
    slot_reset(sl, s);
    t->match = (reuse_match){ .method = REUSE_COLD };
}

/* Fills feed with what the match leaves to compute. A session may spell the history with more tokens than the
 * prompt has; when that does not fit, the prompt as it is does. */
static ds4_status plan_rest(slot *sl, scheduler *s, sched_ticket *t, ds4_error *err)
{
    token_list_clear(&sl->feed);
    sl->fed = 0;
    if (t->match.keep > 0) {
        const ds4_status st = reuse_suffix(&t->prompt, &t->match, s->v, &sl->feed, err);
        if (!st && (size_t)t->match.keep + sl->feed.n < (size_t)sl->capacity) return DS4_OK;
        slot_reset(sl, s);
        t->match = (reuse_match){ .method = REUSE_COLD };
        token_list_clear(&sl->feed);
    }
    for (size_t i = 0; i < t->prompt.tokens.n; i++)
        if (!token_list_push(&sl->feed, t->prompt.tokens.ids[i]))
            return ds4_fail(err, DS4_EMEMORY, "no memory for a prompt of %zu tokens", t->prompt.tokens.n);
    return DS4_OK;
}

/* The last USER token before the first ASSISTANT token, -1: none. */
static int first_user_turn(const reuse_prompt *p, const special_tokens *special)
{
    int user = -1;
    for (size_t i = 0; i < p->tokens.n && p->tokens.ids[i] != special->assistant; i++)
        if (p->tokens.ids[i] == special->user) user = (int)i;
    return user;
}

/* Where the rest stops. Places of the prompt are counted from its end, which the session shares however it spells
 * what lies before; all of them begin with a control token, behind which nothing is spelled twice, but for a prompt
 * without turns: the last tokens of one that grows by a letter are others. A point costs a step of its own, so what is
 * computed again as quickly gets none. */
static void plan_stops(slot *sl, scheduler *s, sched_ticket *t)
{
    const int n = (int)t->prompt.tokens.n, end = t->match.keep + (int)sl->feed.n;
    const int begin = reuse_generation_begin(&t->prompt, s->v);
    const int tail = max_int(0, n - s->o.save.boundary_trim_tokens);
    const int places[SCHED_MARKS] = { begin == n ? tail : reuse_system_end(&t->prompt, s->v), begin };
    int last = t->match.keep;
    for (int i = 0; i < SCHED_MARKS; i++) {
        const int at = end - (n - places[i]);
        sl->marks[i] = at - last >= SCHED_MARK_WORTH ? at : -1;
        if (sl->marks[i] >= 0) last = at;
    }
    sl->anchor = -1;
    if (s->o.store && !sl->side && (t->match.keep == 0 || t->match.aligned)) {
        const int anchor = kv_cold_anchor(&s->o.save, n, first_user_turn(&t->prompt, s->special));
        if (anchor > t->match.keep) sl->anchor = anchor;
    }
    t->prompt_end = end;
}

static void count_reuse(scheduler *s, sched_ticket *t, reuse_miss miss)
{
    server_metrics *m = s->o.metrics;
    if (!m) return;
    counter_add(&m->prompt_tokens, (uint64_t)t->usage.prompt_tokens);
    counter_add(&m->prefix_queries, (uint64_t)t->usage.prompt_tokens);
    counter_add(&m->prefix_hits, (uint64_t)t->usage.cached_tokens);
    const cache_source source = t->match.method == REUSE_DISK ? SOURCE_DISK
        : t->match.method == REUSE_LIVE_VISIBLE || t->match.method == REUSE_LIVE_ID ? SOURCE_VISIBLE : SOURCE_LIVE;
    counter_add(&m->cached_tokens[source], (uint64_t)t->usage.cached_tokens);
    if (miss != MISS_NONE && miss < METRIC_MISS_REASONS) counter_add(&m->misses[miss], 1);
}

/* The log holds no text of prompts: what session and prompt say where they part goes to the trace alone. */
static void tell(scheduler *s, const slot *sl, sched_ticket *t, reuse_miss miss, const bytes *why, const bytes *texts)
{
    const size_t suffix = sl->feed.n;
    t->usage.cached_tokens = max_int(0, t->usage.prompt_tokens - (int)suffix);
    count_reuse(s, t, miss);
    log_line(&s->o.log, LOG_INFO, "id=%s reuse=%s tokens=%d prompt=%d suffix=%zu slot=%d%s%s%s%s", t->id,
             reuse_method_name(t->match.method), t->match.keep, t->usage.prompt_tokens, suffix, sl->index,
             miss ? " miss=" : "", miss ? reuse_miss_name(miss) : "", why->len ? " " : "", why->len ? why->data : "");
    if (s->o.trace) {
        bytes line;
        bytes_init(&line, (size_t)1 << 16);
        bytes_printf(&line, "%s tokens=%d suffix=%zu slot=%d miss=%s %s%s", reuse_method_name(t->match.method),
                     t->match.keep, suffix, sl->index, reuse_miss_name(miss), why->len ? why->data : "",
                     texts->len ? texts->data : "");
        s->o.trace(s->o.trace_ctx, t->id, "reuse", slice_of_bytes(&line));
        bytes_free(&line);
    }
    ticket_stage(t, &(sched_event){ .kind = SCHED_ADMITTED, .usage = t->usage, .method = t->match.method });
}

static ds4_status run(slot *sl, scheduler *s, sched_ticket *t, ds4_error *err)
{
    const ds4_status st = reuse_slot_take(&sl->memory, &t->prompt, &t->match, s->v, err);
    if (st) {
        slot_reset(sl, s);
        return st;
    }
    plan_stops(sl, s, t);
    sl->memory.busy = true;
    sl->memory.last_used_ns = sched_now(s);
    sl->job = t;
    sl->orphan = false;
    sl->phase = PHASE_PROMPT;
    return DS4_OK;
}

ds4_status slot_begin(slot *sl, scheduler *s, sched_ticket *t, const reuse_choice *c, ds4_error *err)
{
    bytes why, texts;
    bytes_init(&why, 4096);
    bytes_init(&texts, 4096);
    reuse_miss miss = MISS_NONE;
    t->match = t->prompt_logprobs ? (reuse_match){ .method = REUSE_COLD } : c->match;

    /* Explained before anything moves. */
    if (t->match.method == REUSE_COLD || t->match.method == REUSE_REWIND)
        miss = reuse_explain(&t->prompt, &sl->memory, &t->match, s->v, &why, &texts);
    if (t->prompt_logprobs || !load_checkpoint(sl, s, t)) {
        if (c->foreign) slot_save_whole(sl, s, KV_SAVE_EVICT, SCHED_EVICT_TOKENS, true);
        apply(sl, s, t);
    }
    ds4_status st = plan_rest(sl, s, t, err);
    if (!st) st = run(sl, s, t, err);
    if (!st) tell(s, sl, t, miss, &why, &texts);
    bytes_free(&why);
    bytes_free(&texts);
    return st;
}

ds4_status slot_begin_cold(slot *sl, scheduler *s, sched_ticket *t, ds4_error *err)
{
    slot_reset(sl, s);
    t->match = (reuse_match){ .method = REUSE_COLD };
    t->from_disk = false;
    t->retried = true;
    const ds4_status st = plan_rest(sl, s, t, err);
    if (st) return st;
    t->usage.cached_tokens = 0;
    log_line(&s->o.log, LOG_WARNING, "id=%s reuse=cold prompt=%d slot=%d: the checkpoint was bad", t->id,
             t->usage.prompt_tokens, sl->index);
    return run(sl, s, t, err);
}

/* ---- on the way --------------------------------------------------------------------------- */

static int next_multiple(int at, int of) { return (at / of + 1) * of; }

int slot_next_stop(const slot *sl, const scheduler *s)
{
    const int at = ds4_session_length(sl->session);
    int stop = next_multiple(at, SCHED_MARK_TOKENS);
    if (sl->phase == PHASE_PROMPT) {
        if (sl->feed.n - sl->fed > (size_t)s->chunk) stop = min_int(stop, next_multiple(at, s->chunk));
        for (int i = 0; i < SCHED_MARKS; i++)
            if (sl->marks[i] > at) stop = min_int(stop, sl->marks[i]);
        if (sl->anchor > at) stop = min_int(stop, sl->anchor);
    }
    if (s->interval) stop = min_int(stop, next_multiple(at, s->interval));
    return stop;
}

static bool is_marked(const slot *sl, int length)
{
    if (length % SCHED_MARK_TOKENS == 0) return true;
    for (int i = 0; i < SCHED_MARKS && sl->phase == PHASE_PROMPT; i++)
        if (sl->marks[i] == length) return true;
    return false;
}

ds4_status slot_fed(slot *sl, scheduler *s, int n, ds4_error *err)
{
    const ds4_status st = reuse_slot_push(&sl->memory, s->v, sl->feed.ids + sl->fed, n, err);
    if (st) return st;
    sl->fed += (size_t)n;
    const int length = ds4_session_length(sl->session);
    if (is_marked(sl, length)) slot_mark(sl);
    if (sl->phase == PHASE_PROMPT && length == sl->marks[0]) ds4_session_pin(sl->session, length);
    if (!s->o.store || sl->side) return DS4_OK;
    if (sl->phase == PHASE_PROMPT && length == sl->anchor) save_here(sl, s, KV_SAVE_COLD);
    else if (s->interval && length % s->interval == 0) save_here(sl, s, KV_SAVE_CONTINUED);
    return DS4_OK;
}

/* ---- the end of a turn -------------------------------------------------------------------- */

void slot_remember(slot *sl, scheduler *s, sched_ticket *t, const answer *a)
{
    /* Of a turn that was cut off, or inside of a call, the client may not have got what the session holds. */
    const answer_finish how = t->finish;
    const bool cut = how == FINISH_LENGTH || how == FINISH_CONTEXT;
    const bool unsent = how == FINISH_STOP_STRING || how == FINISH_CANCELLED || (cut && answer_in(a) == SECTION_TOOLS);
    const answer_turn turn = answer_turn_of(a);
    ds4_error err;
    if (reuse_slot_finish(&sl->memory, &t->prompt, &turn, unsent, s->v, &err))
        log_line(&s->o.log, LOG_WARNING, "id=%s slot=%d: %s", t->id, sl->index, err.message);
}

void slot_idle(slot *sl, scheduler *s)
{
    if (sl->phase != PHASE_PROMPT) slot_mark(sl);
    sl->memory.busy = false;
    sl->memory.last_used_ns = sched_now(s);
    sl->phase = PHASE_IDLE;
    sl->job = NULL;
    token_list_clear(&sl->feed);
    sl->fed = 0;
    if (s->o.save.turn_tokens > 0) slot_save_whole(sl, s, KV_SAVE_EVICT, s->o.save.turn_tokens, false);
}
