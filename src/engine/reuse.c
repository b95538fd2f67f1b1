/* The decisions: how a slot serves a prompt, and which slot does. */
#include "engine/reuse.h"

#include "base/checked.h"
#include "base/status.h"
#include "engine/reuse_align.h"

#define STALE_NS      (600 * UINT64_C(1000000000))
#define SMALL_TOKENS  1024          /* a conversation that is soon computed again */

const char *reuse_method_name(reuse_method m)
{
    static const char *const names[] = {
        [REUSE_COLD] = "cold", [REUSE_LIVE_ID] = "live-id", [REUSE_LIVE_TOKEN] = "live-token",
        [REUSE_LIVE_VISIBLE] = "live-visible", [REUSE_LIVE_TEXT] = "live-text", [REUSE_REWIND] = "rewind",
        [REUSE_DISK] = "disk",
    };
    return names[m];
}

/* ---- one slot ---------------------------------------------------------------------------- */

/* Tokens at the beginning that both have. */
static int common_tokens(const prefix_key *a, const prefix_key *b)
{
    const size_t same = prefix_key_common(prefix_key_bytes(a), prefix_key_bytes(b));
    int n = 0;
    while (n < a->n && n < b->n && a->end[n] == b->end[n] && a->end[n] <= same) n++;
    return n;
}

static bool logits_at(const reuse_session *session, int n)
{
    return session->rewind_point(session->ctx, n) == n && session->has_logits(session->ctx, n);
}

/* The whole session stays, or keep 0. */
static reuse_match match_whole(const alignment *a, const reuse_prompt *p, const reuse_slot *s,
                               const reuse_session *session)
{
    const reuse_match none = { REUSE_COLD, 0, 0, true };
    const bool aligned = common_tokens(&p->key, &s->key) == a->n && a->at == prefix_key_end(&p->key, a->n);
    /* What was sampled is the truth, not just one spelling; yet what follows must not have been one token with it. */
    const bool sampled = (p->raw || s->base >= 0) && prefix_key_end(&p->key, prefix_key_count(&p->key, a->at)) == a->at;
    if (a->at == p->key.data.len) {
        if (!logits_at(session, a->n)) return none;
    } else if (!sampled && !aligned && !align_tokens_meet(p, s, a->n, a->at)) {
        return none;
    }
    const reuse_method how = a->by_id ? REUSE_LIVE_ID : aligned ? REUSE_LIVE_TOKEN
                           : a->by_sight || a->n_gaps > 0 ? REUSE_LIVE_VISIBLE : REUSE_LIVE_TEXT;
    return (reuse_match){ how, a->n, a->at, aligned };
}

/* The largest point from which computing goes on as in a cold session. A prompt that ends there needs logits. */
static reuse_match match_rewind(const alignment *a, const reuse_prompt *p, const reuse_slot *s,
                                const reuse_session *session)
{
    const int aligned = common_tokens(&p->key, &s->key);
    for (int want = a->n; want > 0; want--) {
        want = session->rewind_point(session->ctx, want);
        if (want <= 0) break;
        const size_t at = align_offset(a, s, want);
        if (at == SIZE_MAX || at > a->at) continue;
        if (at == p->key.data.len && !session->has_logits(session->ctx, want)) continue;
        if (align_tokens_meet(p, s, want, at)) {
            const bool is_prompt = want <= aligned && at == prefix_key_end(&p->key, want);
            return (reuse_match){ REUSE_REWIND, want, at, is_prompt };
        }
    }
    return (reuse_match){ REUSE_COLD, 0, 0, true };
}

reuse_match reuse_match_slot(const reuse_prompt *p, const reuse_slot *s, const reuse_session *session, const vocab *v)
{
    reuse_match m = { REUSE_COLD, 0, 0, true };
    alignment a;
    if (s->key.n == 0 || !align_open(&a, p, s, v, session->strict_drop_reasoning)) return m;
    if (a.whole) m = match_whole(&a, p, s, session);
    if (m.keep == 0) m = match_rewind(&a, p, s, session);
    align_close(&a);
    return m;
}

ds4_status reuse_suffix(const reuse_prompt *p, const reuse_match *m, const vocab *v, token_list *out, ds4_error *err)
{
    const slice key = prefix_key_bytes(&p->key);
    ds4_status st = DS4_OK;
    int i = m->aligned ? m->keep : prefix_key_count(&p->key, m->from);
    const size_t boundary = prefix_key_end(&p->key, i);
    if (boundary < m->from) {                   /* inside of a token: up to the next control token it is made anew */
        while (i < p->key.n && prefix_key_mark(key, prefix_key_end(&p->key, i)) < 0) i++;
        st = prefix_key_tokens((slice){ key.data, prefix_key_end(&p->key, i) }, m->from, v, out, err);
    }
    for (; i < p->key.n && !st; i++) {
        if (!token_list_push(out, p->tokens.ids[i]))
            st = ds4_fail(err, out->failed ? DS4_EMEMORY : DS4_EFULL, "no room for the tokens of a prompt");
    }
    return st;
}

/* ---- loaded sessions --------------------------------------------------------------------- */

/* Where the first n bytes of the prompt's text end in its key; SIZE_MAX: inside of a mark, or there are not as many. */
static size_t key_offset(slice key, size_t n, const vocab *v)
{
    size_t at = 0;
    while (at < key.len && n > 0) {
        const int32_t mark = (unsigned char)key.data[at] == 0xFF ? prefix_key_mark(key, at) : -1;
        size_t spelled = 1;
        if (mark >= 0) vocab_bytes(v, mark, &spelled);
        if (spelled > n) return SIZE_MAX;
        n -= spelled;
        at += mark >= 0 ? PREFIX_KEY_MARK_BYTES : (unsigned char)key.data[at] == 0xFF ? 2 : 1;
    }
    return n ? SIZE_MAX : at;
}

bool reuse_match_loaded(const reuse_prompt *p, const reuse_slot *s, size_t text_bytes, const vocab *v, reuse_match *out)
{
    const slice prompt = prefix_key_bytes(&p->key), key = prefix_key_bytes(&s->key);
    const size_t at = key_offset(prompt, text_bytes, v);
    if (at == SIZE_MAX || s->key.n == 0) return false;
    const bool same = slice_equal(key, (slice){ prompt.data, at });
    const bool aligned = same && common_tokens(&p->key, &s->key) == s->key.n;
    if (p->ambiguous && !same) return false;            /* equal texts need not be equal prompts */
    if (!aligned && at < prompt.len && !align_tokens_meet(p, s, s->key.n, at)) return false;
    *out = (reuse_match){ REUSE_DISK, s->key.n, at, aligned };
    return true;
}

/* ---- choosing ---------------------------------------------------------------------------- */

static bool shares_hint(const reuse_prompt *p, const reuse_slot *s)
{
    for (int i = 0; i < p->n_hints; i++) {
        for (int k = 0; k < s->n_hints; k++) if (p->hints[i] == s->hints[k]) return true;
    }
    return false;
}

/* Both tell whose conversation they are, and it is not the same one. */
static bool is_other_session(const reuse_prompt *p, const reuse_slot *s)
{
    return p->n_hints > 0 && s->n_hints > 0 && !shares_hint(p, s);
}

/* Ranks of slots, the best first. */
typedef enum {
    RANK_SAME_SESSION,          /* a hint says so, and there is more than the system part in common */
    RANK_CONTINUES,             /* most of what it holds is of use                               */
    RANK_EMPTY,
    RANK_STALE,                 /* another conversation, not used for long, or a short one       */
    RANK_FOREIGN                /* another conversation                                          */
} slot_rank;

typedef struct {
    int         slot;
    slot_rank   rank;
    reuse_match match;
    uint64_t    last_used_ns;
} candidate;

static candidate rank_slot(const reuse_prompt *p, const reuse_request *r, const reuse_slot *s, const reuse_match *m,
                           int system_end)
{
    candidate c = { .match = *m, .last_used_ns = s->last_used_ns };
    const bool stale = r->now_ns > s->last_used_ns && r->now_ns - s->last_used_ns > STALE_NS;
    const bool whole = m->keep == s->key.n;
    /* Two conversations on one system prompt would else take the same slot in turn, and each compute its own again. */
    const int64_t of_use = is_other_session(p, s) ? 80 : 50;
    if (s->key.n == 0) c.rank = RANK_EMPTY;
    else if (r->side && !whole) c.rank = stale ? RANK_STALE : RANK_FOREIGN;
    else if (shares_hint(p, s) && m->keep > system_end) c.rank = RANK_SAME_SESSION;
    else if (100 * (int64_t)m->keep >= of_use * s->key.n) c.rank = RANK_CONTINUES;
    else c.rank = stale || s->key.n - m->keep <= SMALL_TOKENS ? RANK_STALE : RANK_FOREIGN;
    return c;
}

static bool better(const candidate *a, const candidate *b, bool side)
{
    if (a->rank != b->rank) return a->rank < b->rank;
    const bool shortest = side && a->rank == RANK_FOREIGN;      /* a guest takes the shortest way */
    const bool by_use = a->rank >= RANK_EMPTY && !shortest;
    if (!by_use && a->match.keep != b->match.keep) return a->match.keep > b->match.keep;
    if (!by_use && a->match.method != b->match.method) return a->match.method < b->match.method;
    return a->last_used_ns < b->last_used_ns;
}

reuse_choice reuse_choose(const reuse_prompt *p, const reuse_request *r, const reuse_slot *const *slots,
                          const reuse_session *sessions, int n_slots, const vocab *v)
{
    const int system_end = reuse_system_end(p, v);
    candidate best = { .slot = -1 };
    for (int i = 0; i < n_slots; i++) {
        if (slots[i]->busy) continue;
        const reuse_match m = reuse_match_slot(p, slots[i], &sessions[i], v);
        candidate c = rank_slot(p, r, slots[i], &m, system_end);
        c.slot = i;
        if (best.slot < 0 || better(&c, &best, r->side)) best = c;
    }
    reuse_choice choice = { .slot = best.slot, .match = best.match };
    if (best.slot < 0) return choice;
    choice.side = r->side && best.rank == RANK_FOREIGN;
    choice.foreign = !choice.side && best.rank >= RANK_STALE;
    return choice;
}
