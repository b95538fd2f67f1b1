#include "engine/reuse_align.h"

#include <stdlib.h>

#include "base/checked.h"
#include "engine/reuse_turn.h"

/* ---- places ------------------------------------------------------------------------------ */

/* The last gap that ends at or before n tokens; before the first one a gap of nothing. */
static reuse_gap gap_before(const reuse_gap *gaps, int n_gaps, int n)
{
    while (n_gaps > 0 && gaps[n_gaps - 1].n1 > n) n_gaps--;
    return n_gaps > 0 ? gaps[n_gaps - 1] : (reuse_gap){ 0, 0, 0, 0 };
}

static size_t offset_of(const reuse_gap *gaps, int n_gaps, const reuse_slot *s, int n)
{
    for (int i = 0; i < n_gaps; i++) {
        if (gaps[i].n0 < n && n < gaps[i].n1) return SIZE_MAX;
    }
    const reuse_gap g = gap_before(gaps, n_gaps, n);
    return g.at1 + (prefix_key_end(&s->key, n) - prefix_key_end(&s->key, g.n1));
}

size_t align_offset(const alignment *a, const reuse_slot *s, int n)
{
    return offset_of(a->gaps, a->n_gaps, s, n);
}

size_t slot_offset_of(const reuse_slot *s, int n)
{
    return offset_of(s->gaps, s->n_gaps, s, n);
}

/* The most session tokens within the first *at bytes of the client's view; *at becomes where they end. */
static int tokens_within(const reuse_slot *s, size_t *at)
{
    int i = 0;
    while (i < s->n_gaps && s->gaps[i].at1 <= *at) i++;
    if (i < s->n_gaps && s->gaps[i].at0 <= *at) {
        *at = s->gaps[i].at0;
        return s->gaps[i].n0;
    }
    const reuse_gap g = i > 0 ? s->gaps[i - 1] : (reuse_gap){ 0, 0, 0, 0 };
    const size_t start = prefix_key_end(&s->key, g.n1);
    const int n = prefix_key_count(&s->key, start + (*at - g.at1));
    *at = g.at1 + (prefix_key_end(&s->key, n) - start);
    return n;
}

int slot_tokens_at(const reuse_slot *s, size_t at)
{
    size_t reached = at;
    const int n = tokens_within(s, &reached);
    return reached == at ? n : -1;
}

bool align_tokens_meet(const reuse_prompt *p, const reuse_slot *s, int n, size_t at)
{
    int i = prefix_key_count(&p->key, at);
    const slice key = prefix_key_bytes(&p->key);
    if (prefix_key_end(&p->key, i) != at) return false;
    if (prefix_key_mark(key, at) >= 0) return true;
    for (; i > 0 && n > 0; i--, n--) {
        const size_t begin = prefix_key_end(&p->key, i - 1), own = prefix_key_end(&s->key, n - 1);
        if (prefix_key_mark(key, begin) >= 0) return true;
        if (prefix_key_end(&p->key, i) - begin != prefix_key_end(&s->key, n) - own) return false;
    }
    return i == 0 && n == 0;
}

/* ---- walking ----------------------------------------------------------------------------- */

typedef struct {
    alignment            *a;
    const reuse_prompt   *p;
    const reuse_slot     *s;
    const vocab          *v;
    const special_tokens *special;
    bool                  strict;
    slice                 prompt, base;
    size_t                x, y;         /* compared so far, of prompt and base                     */
    int                   carried;      /* gaps of the slot that are behind y                      */
    bool                  failed;       /* no memory                                               */
} walk;

static void add_gap(walk *w, reuse_gap g)
{
    alignment *a = w->a;
    if (a->n_gaps == a->cap) {
        const int cap = a->cap ? a->cap * 2 : 16;
        reuse_gap *gaps = realloc(a->gaps, (size_t)cap * sizeof *gaps);
        if (!gaps) {
            w->failed = true;
            return;
        }
        a->gaps = gaps;
        a->cap = cap;
    }
    a->gaps[a->n_gaps++] = g;
}

/* The slot's gaps up to y are the prompt's too, at other bytes. */
static void carry_gaps(walk *w)
{
    for (; w->carried < w->s->n_gaps && w->s->gaps[w->carried].at1 <= w->y; w->carried++) {
        const reuse_gap g = w->s->gaps[w->carried];
        add_gap(w, (reuse_gap){ g.n0, g.n1, g.at0 + w->x - w->y, g.at1 + w->x - w->y });
    }
}

/* Both turns as a client may spell one and the same: `old` what it sent before. */
static bool alike(const walk *w, slice now, slice old)
{
    turn_text a, b;
    bool same = false;
    if (!turn_text_open(&a, now, w->v)) return false;
    if (turn_text_open(&b, old, w->v)) {
        const slice mine = turn_trimmed(turn_bytes(&a.reasoning)), before = turn_trimmed(turn_bytes(&b.reasoning));
        const bool dropped = !a.think && before.len > 0;
        same = slice_equal(turn_trimmed(turn_bytes(&a.rest)), turn_trimmed(turn_bytes(&b.rest)))
            && (mine.len == 0 || slice_equal(mine, before)) && !(dropped && w->strict);
        turn_text_close(&b);
    }
    turn_text_close(&a);
    return same;
}

/* The end of the assistant turn that begins at `begin`; key.len: it has none. */
static size_t turn_end(const walk *w, slice key, size_t begin)
{
    const size_t end = prefix_key_find(key, begin, w->special->eos);
    return prefix_key_find((slice){ key.data, end }, begin, w->special->user) < end ? key.len : end;
}

/* x and y stand where the prompt and base part. When that is in an assistant turn which is the same one for a client,
 * both move to its end. */
static bool skip_turn(walk *w)
{
    const size_t assistant = prefix_key_find_back(w->base, w->y, w->special->assistant);
    if (assistant == SIZE_MAX) return false;
    const size_t eos = prefix_key_find_back(w->base, w->y, w->special->eos);
    if (eos != SIZE_MAX && eos > assistant) return false;

    const size_t begin = assistant + PREFIX_KEY_MARK_BYTES, end = turn_end(w, w->base, begin);
    const size_t p_begin = w->x - (w->y - begin), p_end = turn_end(w, w->prompt, p_begin);
    const int n0 = slot_tokens_at(w->s, begin), n1 = slot_tokens_at(w->s, end);
    if (end == w->base.len || p_end == w->prompt.len || n0 < 0 || n1 < n0) return false;
    const slice now = slice_between(w->prompt, p_begin, p_end), old = slice_between(w->base, begin, end);
    if (!alike(w, now, old)) return false;

    while (w->carried < w->s->n_gaps && w->s->gaps[w->carried].at1 <= end) w->carried++;
    add_gap(w, (reuse_gap){ n0, n1, p_begin, p_end });
    w->x = p_end;
    w->y = end;
    return !w->failed;
}

/* Through all that the client has sent before. False: the prompt leaves it. */
static bool walk_base(walk *w)
{
    do {
        const size_t same = prefix_key_common(slice_behind(w->prompt, w->x), slice_behind(w->base, w->y));
        w->x += same;
        w->y += same;
        carry_gaps(w);
        if (w->y == w->base.len) return true;
    } while (!w->p->raw && skip_turn(w));

    alignment *a = w->a;
    size_t at = w->y;
    a->n = tokens_within(w->s, &at);
    a->at = w->x - (w->y - at);
    a->same = w->x;
    a->rest = slice_behind(w->base, w->y);
    a->view = w->base;
    return false;
}

/* ---- the last turn ----------------------------------------------------------------------- */

static bool has_id(const reuse_slot *s, slice id)
{
    for (int i = 0; i < s->n_calls; i++) if (slice_equal(s->call_ids[i], id)) return true;
    return false;
}

/* The prompt's results are those of the slot's calls, all of them. */
static bool answers_calls(const reuse_prompt *p, const reuse_slot *s)
{
    if (s->n_calls == 0 || p->n_results != s->n_calls) return false;
    for (int i = 0; i < p->n_results; i++) {
        if (!has_id(s, p->result_ids[i])) return false;
        for (int k = 0; k < i; k++) if (slice_equal(p->result_ids[i], p->result_ids[k])) return false;
    }
    return true;
}

/* Whether this turn of the prompt is the slot's last one, as a client replays it. */
static bool looks_like_last(const walk *w, slice turn)
{
    const reuse_slot *s = w->s;
    const slice reasoning = turn_trimmed(turn_bytes(&s->reasoning)), text = turn_bytes(&s->text);
    const slice calls = turn_bytes(&s->calls), canonical = turn_bytes(&s->canonical);
    turn_text t;
    if (!turn_text_open(&t, turn, w->v)) return false;

    const slice kept = turn_trimmed(turn_bytes(&t.reasoning)), rest = turn_bytes(&t.rest);
    bool same;
    if (t.think && !t.closed) {                     /* calls that came without </think> are written so */
        same = text.len == 0 && turn_is(kept, reasoning, calls);
    } else {
        same = (kept.len == 0 || slice_equal(kept, reasoning)) && !(w->strict && !t.think && reasoning.len > 0)
            && (turn_is(rest, text, calls) || (s->n_calls > 0 && turn_is(rest, text, canonical)));
    }
    turn_text_close(&t);
    return same;
}

/* Whether the session ends inside of reasoning: its turn was cut there. */
static bool ends_in_reasoning(const walk *w)
{
    const slice key = prefix_key_bytes(&w->s->key);
    const turn_parts t = turn_parse(slice_behind(key, prefix_key_end(&w->s->key, w->s->base)), w->v);
    return t.think && !t.closed && w->s->n_calls == 0;
}

/* The prompt goes on from `begin` with the slot's last turn: the whole session stands for it, up to *end. */
static bool match_last_turn(walk *w, size_t begin, size_t *end)
{
    alignment *a = w->a;
    const size_t eos = turn_end(w, w->prompt, begin);
    if (eos == w->prompt.len) return false;
    const size_t next = prefix_key_find(w->prompt, eos + PREFIX_KEY_MARK_BYTES, w->special->eos);
    a->by_id = next == w->prompt.len && answers_calls(w->p, w->s);
    a->by_sight = looks_like_last(w, slice_between(w->prompt, begin, eos));
    if (!a->by_id && !a->by_sight) return false;

    *end = eos;
    if (!ends_in_reasoning(w)) return true;
    *end -= PREFIX_KEY_MARK_BYTES;                  /* the </think> that the session lacks */
    if (*end >= begin && prefix_key_mark(w->prompt, *end) == w->special->end_think) return true;
    return a->by_id = a->by_sight = false;
}

/* Behind what the client has sent before: what the session holds beyond. */
static void walk_tail(walk *w)
{
    alignment *a = w->a;
    const reuse_slot *s = w->s;
    const slice key = prefix_key_bytes(&s->key);
    const size_t first = w->p->raw ? 0 : prefix_key_end(&s->key, s->stands);
    const size_t begin = w->x, same = prefix_key_common(slice_behind(w->prompt, begin), slice_behind(key, first));
    size_t end = 0;

    w->x += same;
    a->same = w->x;
    a->rest = slice_behind(key, first + same);
    a->view = slice_behind(key, first);
    if (!w->p->raw && s->base >= 0 && match_last_turn(w, begin, &end)) {
        if (a->rest.len || end != w->x) add_gap(w, (reuse_gap){ s->base, s->key.n, begin, end });
        a->same = end;
        a->whole = true;
    } else if (a->rest.len == 0) {
        end = w->x;
        a->whole = true;
    }
    if (a->whole) {
        a->n = s->key.n;
        a->at = end;
        return;
    }
    a->n = prefix_key_count(&s->key, first + same);
    a->at = w->x - (first + same - prefix_key_end(&s->key, a->n));
}

bool align_open(alignment *a, const reuse_prompt *p, const reuse_slot *s, const vocab *v, bool strict)
{
    *a = (alignment){ .n = 0 };
    walk w = { .a = a, .p = p, .s = s, .v = v, .special = vocab_special(v), .strict = strict,
               .prompt = prefix_key_bytes(&p->key) };
    if (!p->raw) w.base = slot_base(s);
    if (walk_base(&w)) walk_tail(&w);
    if (w.failed) align_close(a);
    return !w.failed;
}

void align_close(alignment *a)
{
    free(a->gaps);
    *a = (alignment){ .n = 0 };
}
