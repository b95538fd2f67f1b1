/* scheduler_slot: a session and what is known of it.
 *
 * Decides what of a session stays for a request, plans where the rest of its prompt stops for rewind points and
 * checkpoints, and remembers the finished turn the way clients will send it back [kvcache.md 1-4]. */
#include "engine/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/tools.h"

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
    prefix_key_cut(&sl->memory.key, length);
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
        .reason = reason, .text = slice_of_bytes(text), .visible = visible, .thinking = visible && sl->memory.reasoning.len > 0,
        .wait = wait, .replay = s->o.replay, .conversation = conversation_of(sl) };
    ds4_error err;
    const ds4_status st = kvstore_save(s->o.store, sl->session, &o, &err);
    if (st && st != DS4_EIO) log_line(&s->o.log, LOG_DEBUG, "slot=%d not saved: %s", sl->index, err.message);
    return !st;
}

/* The session as it stands within a turn: its own text. */
static void save_here(slot *sl, scheduler *s, kv_save_reason reason)
{
    bytes text;
    bytes_init(&text, TEXT_BYTES);
    const slice key = slice_of_bytes(&sl->memory.key.data);
    if (!prefix_key_text(key, s->v, &text, NULL) && save(sl, s, reason, &text, false, false) && sl->job) {
        answer_usage *u = &sl->job->usage;
        const int stored = min_int(ds4_session_length(sl->session), u->prompt_tokens) - u->cached_tokens;
        u->stored_tokens = max_int(u->stored_tokens, stored);
    }
    bytes_free(&text);
}

void slot_save_whole(slot *sl, scheduler *s, kv_save_reason reason, int worth, bool wait)
{
    const int length = ds4_session_length(sl->session);
    if (!s->o.store || length < s->o.save.min_tokens) return;
    bytes text;
    bytes_init(&text, TEXT_BYTES);
    const bool visible = reuse_visible_text(&sl->memory, sl->memory.tools_hash != 0, s->v, &text);
    const slice key = slice_of_bytes(&sl->memory.key.data);
    if (!visible && prefix_key_text(key, s->v, &text, NULL)) bytes_clear(&text);
    if (text.len > 0 && length - kvstore_covered(s->o.store, slice_of_bytes(&text)) > worth)
        save(sl, s, reason, &text, visible, wait);
    bytes_free(&text);
}

/* The place in the key behind the first `text_bytes` of the prompt as text. */
static size_t key_offset(const reuse_prompt *p, const vocab *v, size_t text_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < p->tokens.n; i++) {
        size_t n;
        vocab_bytes(v, p->tokens.ids[i], &n);
        if (at + n >= text_bytes) {
            const size_t begin = i ? p->key.end[i - 1] : 0;
            return at + n == text_bytes ? p->key.end[i] : begin + (text_bytes - at);
        }
        at += n;
    }
    return p->key.end[p->tokens.n - 1];
}

/* What a loaded session is for the prompt; false: nothing, it covers all of it and has no logits. */
static bool match_loaded(slot *sl, scheduler *s, sched_ticket *t)
{
    const reuse_prompt *p = &t->prompt;
    const int n = ds4_session_length(sl->session);
    const ds4_token *tokens = ds4_session_tokens(sl->session);
    const bool aligned = (size_t)n <= p->tokens.n && memcmp(tokens, p->tokens.ids, (size_t)n * sizeof *tokens) == 0;
    const size_t from = aligned ? p->key.end[n - 1] : key_offset(p, s->v, t->hit.text_bytes);
    t->match = (reuse_match){ .method = REUSE_DISK, .keep = n, .from = from, .aligned = aligned };
    if (prefix_key_push(&sl->memory.key, s->v, tokens, n, NULL)) return false;
    return from < p->key.end[p->tokens.n - 1] || ds4_session_has_logits(sl->session, n);
}

/* Loads a checkpoint when it saves enough over what is live. True: t->match is of it. False: t->match is what
 * is left, cold when a load failed. */
static bool load_checkpoint(slot *sl, scheduler *s, sched_ticket *t)
{
    if (!s->o.store || t->retried || prefix_key_text(slice_of_bytes(&t->prompt.key.data), s->v, &t->text, NULL)) return false;
    const slice text = slice_of_bytes(&t->text);
    for (size_t skip = text.len + 1; kvstore_find(s->o.store, text, sl->capacity - 1, skip, &t->hit); skip = t->hit.text_bytes) {
        const int gain = t->hit.tokens - t->match.keep;
        if (gain < SCHED_DISK_GAIN) return false;
        const double saved = (double)gain * (double)s->row_ns * 1e-9;
        if (s->row_ns && kvstore_load_seconds(s->o.store, &t->hit) > saved) return false;

        if (ds4_session_length(sl->session) > 0) {
            slot_save_whole(sl, s, KV_SAVE_EVICT, SCHED_EVICT_TOKENS, true);
            slot_reset(sl, s);
        }
        t->match = (reuse_match){ .method = REUSE_COLD };
        ds4_error err;
        if (!kvstore_load(s->o.store, &t->hit, sl->session, s->o.replay, &err) && match_loaded(sl, s, t)) return t->from_disk = true;
        slot_reset(sl, s);
        t->match = (reuse_match){ .method = REUSE_COLD };
    }
    return false;
}

/* ---- beginning a request ------------------------------------------------------------------ */

/* Brings the session to where the match says. */
static void apply(slot *sl, scheduler *s, sched_ticket *t)
{
    const int keep = t->match.keep;
    if (keep > 0 && slot_rewind(sl, s, keep) == keep) return;
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
        if (!token_list_push(&sl->feed, t->prompt.tokens.ids[i])) return ds4_fail(err, DS4_EMEMORY, "no memory for a prompt");
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
 * what lies before; all of them begin with a control token, behind which nothing is spelled twice. */
static void plan_stops(slot *sl, scheduler *s, sched_ticket *t)
{
    const int n = (int)t->prompt.tokens.n, end = t->match.keep + (int)sl->feed.n;
    sl->marks[0] = end - (n - reuse_system_end(&t->prompt, s->v));
    sl->marks[1] = end - (n - reuse_generation_begin(&t->prompt, s->v));
    sl->anchor = -1;
    if (s->o.store && (t->match.keep == 0 || t->match.aligned)) {
        const int anchor = kv_cold_anchor(&s->o.save, n, first_user_turn(&t->prompt, s->special));
        if (anchor > t->match.keep) sl->anchor = anchor;
    }
    t->prompt_end = end;
}

static void count_reuse(scheduler *s, sched_ticket *t, reuse_miss miss)
{
    server_metrics *m = s->o.metrics;
    if (!m) return;
    counter_add(&m->prefix_queries, (uint64_t)t->usage.prompt_tokens);
    counter_add(&m->prefix_hits, (uint64_t)t->usage.cached_tokens);
    const cache_source source = t->match.method == REUSE_DISK ? SOURCE_DISK
        : t->match.method == REUSE_LIVE_VISIBLE || t->match.method == REUSE_LIVE_ID ? SOURCE_VISIBLE : SOURCE_LIVE;
    counter_add(&m->cached_tokens[source], (uint64_t)t->usage.cached_tokens);
    if (miss != MISS_NONE && miss < METRIC_MISS_REASONS) counter_add(&m->misses[miss], 1);
}

static void tell(scheduler *s, const slot *sl, sched_ticket *t, reuse_miss miss, const bytes *why)
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
        bytes_printf(&line, "%s tokens=%d suffix=%zu slot=%d miss=%s %s", reuse_method_name(t->match.method), t->match.keep,
                     suffix, sl->index, reuse_miss_name(miss), why->len ? why->data : "");
        s->o.trace(s->o.trace_ctx, t->id, "reuse", slice_of_bytes(&line));
        bytes_free(&line);
    }
    ticket_stage(t, &(sched_event){ .kind = SCHED_ADMITTED, .usage = t->usage });
}

/* From now on the session is this request's conversation. The last turn stays known until there is a new one. */
static void take_over(slot *sl, scheduler *s, const sched_ticket *t)
{
    reuse_slot *m = &sl->memory;
    const reuse_prompt *p = &t->prompt;
    m->ambiguous = p->ambiguous;
    m->tools_hash = p->tools_hash;
    bytes_clear(&m->tool_names);
    bytes_append(&m->tool_names, p->tool_names.data, p->tool_names.len);
    memcpy(m->hints, p->hints, sizeof m->hints);
    m->n_hints = p->n_hints;
    m->busy = true;
    m->last_used_ns = sched_now(s);
}

static void run(slot *sl, scheduler *s, sched_ticket *t)
{
    plan_stops(sl, s, t);
    take_over(sl, s, t);
    sl->job = t;
    sl->phase = PHASE_PROMPT;
}

ds4_status slot_begin(slot *sl, scheduler *s, sched_ticket *t, const reuse_choice *c, ds4_error *err)
{
    bytes why;
    bytes_init(&why, 4096);
    reuse_miss miss = MISS_NONE;
    t->match = t->prompt_logprobs ? (reuse_match){ .method = REUSE_COLD } : c->match;

    /* Explained before anything moves. */
    if (t->match.method == REUSE_COLD || t->match.method == REUSE_REWIND)
        miss = reuse_explain(&t->prompt, &sl->memory, &t->match, s->v, &why);
    if (t->prompt_logprobs || !load_checkpoint(sl, s, t)) {
        if (c->foreign) slot_save_whole(sl, s, KV_SAVE_EVICT, SCHED_EVICT_TOKENS, true);
        apply(sl, s, t);
    }
    const ds4_status st = plan_rest(sl, s, t, err);
    if (!st) {
        tell(s, sl, t, miss, &why);
        run(sl, s, t);
    }
    bytes_free(&why);
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
    log_line(&s->o.log, LOG_WARNING, "id=%s reuse=cold prompt=%d slot=%d: the checkpoint was bad", t->id, t->usage.prompt_tokens,
             sl->index);
    run(sl, s, t);
    return DS4_OK;
}

/* ---- on the way --------------------------------------------------------------------------- */

static int next_multiple(int at, int of) { return (at / of + 1) * of; }

int slot_next_stop(const slot *sl, const scheduler *s)
{
    const int at = ds4_session_length(sl->session);
    int stop = next_multiple(at, SCHED_MARK_TOKENS);
    if (sl->phase == PHASE_PROMPT) {
        stop = min_int(stop, next_multiple(at, s->chunk));
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
    const ds4_status st = prefix_key_push(&sl->memory.key, s->v, sl->feed.ids + sl->fed, n, err);
    if (st) return st;
    sl->fed += (size_t)n;
    const int length = ds4_session_length(sl->session);
    if (is_marked(sl, length)) slot_mark(sl);
    if (!s->o.store) return DS4_OK;
    if (sl->phase == PHASE_PROMPT && length == sl->anchor) save_here(sl, s, KV_SAVE_COLD);
    else if (s->interval && length % s->interval == 0) save_here(sl, s, KV_SAVE_CONTINUED);
    return DS4_OK;
}

/* ---- the end of a turn -------------------------------------------------------------------- */

static void set_bytes(bytes *b, slice from)
{
    bytes_clear(b);
    bytes_append(b, from.data, from.len);
}

static bool remember_ids(reuse_slot *m, const chat_call *calls, int n)
{
    for (int i = 0; i < m->n_calls; i++) free((char *)m->call_ids[i].data);
    free(m->call_ids);
    m->call_ids = NULL;
    m->n_calls = 0;
    if (n == 0) return true;
    m->call_ids = calloc((size_t)n, sizeof *m->call_ids);
    if (!m->call_ids) return false;
    for (int i = 0; i < n; i++) {
        char *copy = malloc(calls[i].id.len + 1);
        if (!copy) return false;
        memcpy(copy, calls[i].id.data, calls[i].id.len);
        m->call_ids[m->n_calls++] = (slice){ copy, calls[i].id.len };
    }
    return true;
}

/* The block as the template would write it from what the client got. */
static bool write_canonical(const vocab *v, const chat_call *calls, int n, bytes *out)
{
    bytes_clear(out);
    if (n == 0) return true;
    chat_prompt p;
    chat_prompt_init(&p, v, TEXT_BYTES);
    ds4_status st = DS4_OK;
    calls_begin(&p);
    for (int i = 0; i < n && !st; i++) st = calls_write(&p, &calls[i], i == 0, NULL);
    calls_end(&p);
    if (!st) st = chat_prompt_status(&p, NULL);
    if (!st) bytes_append(out, p.text.data, p.text.len);
    chat_prompt_free(&p);
    return !st && !out->failed;
}

/* Index behind the last ASSISTANT token of the prompt in the session, -1: none. */
static int turn_begin(const slot *sl, const scheduler *s, int prompt_end)
{
    const ds4_token *tokens = ds4_session_tokens(sl->session);
    int i = prompt_end - 1;
    while (i >= 0 && tokens[i] != s->special->assistant) i--;
    return i < 0 ? -1 : i + 1;
}

void slot_remember(slot *sl, scheduler *s, sched_ticket *t, const answer *a, answer_finish how)
{
    reuse_slot *m = &sl->memory;
    m->base = -1;
    remember_ids(m, NULL, 0);
    const int begin = turn_begin(sl, s, t->prompt_end), generation = reuse_generation_begin(&t->prompt, s->v);
    const bool whole = how == FINISH_STOP || how == FINISH_TOOL_CALLS
                    || ((how == FINISH_LENGTH || how == FINISH_CONTEXT) && answer_in(a) != SECTION_TOOLS);
    /* A turn that continues the client's own text, or of which less was sent than was sampled, is known by its tokens. */
    if (t->raw || !whole || begin != t->prompt_end - 1 || generation >= (int)t->prompt.tokens.n) return;

    const answer_turn turn = answer_turn_of(a);
    set_bytes(&m->base_key, (slice){ t->prompt.key.data.data, t->prompt.key.end[generation] });
    set_bytes(&m->reasoning, turn.reasoning);
    set_bytes(&m->text, turn.text);
    set_bytes(&m->calls, turn.block);
    if (!write_canonical(s->v, turn.calls, turn.n_calls, &m->canonical) || !remember_ids(m, turn.calls, turn.n_calls)
        || m->base_key.failed || m->reasoning.failed || m->text.failed || m->calls.failed) {
        remember_ids(m, NULL, 0);
        return;
    }
    m->base = begin;
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
