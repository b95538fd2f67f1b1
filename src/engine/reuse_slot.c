/* What prompts bring and slots remember: the memory behind reuse.h. */
#include "engine/reuse.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "engine/reuse_align.h"
#include "engine/reuse_turn.h"
#include "text/tools.h"

/* ---- prompts ----------------------------------------------------------------------------- */

ds4_status reuse_prompt_open(reuse_prompt *p, const vocab *v, token_list *take, ds4_error *err)
{
    *p = (reuse_prompt){ .tokens = *take };
    token_list_init(take, take->max);
    prefix_key_init(&p->key);
    ds4_status st = DS4_OK;
    if (p->tokens.n > INT32_MAX) st = ds4_fail(err, DS4_EFULL, "a prompt of %zu tokens is too long", p->tokens.n);
    else st = prefix_key_push(&p->key, v, p->tokens.ids, (int)p->tokens.n, err);
    if (st) reuse_prompt_close(p);
    return st;
}

static void free_ids(slice **ids, int *n)
{
    for (int i = 0; i < *n; i++) free((char *)(*ids)[i].data);
    free(*ids);
    *ids = NULL;
    *n = 0;
}

void reuse_prompt_close(reuse_prompt *p)
{
    token_list_free(&p->tokens);
    prefix_key_free(&p->key);
    free_ids(&p->result_ids, &p->n_results);
    free((char *)p->tool_names.data);
    *p = (reuse_prompt){ .n_hints = 0 };
}

int reuse_system_end(const reuse_prompt *p, const vocab *v)
{
    const special_tokens *special = vocab_special(v);
    int i = 0;
    while (i < p->key.n && p->tokens.ids[i] != special->user && p->tokens.ids[i] != special->assistant) i++;
    return i;
}

int reuse_generation_begin(const reuse_prompt *p, const vocab *v)
{
    const int32_t assistant = vocab_special(v)->assistant;
    for (int i = p->key.n - 1; i >= 0; i--) if (p->tokens.ids[i] == assistant) return i;
    return p->key.n;
}

/* ---- slots ------------------------------------------------------------------------------- */

#define N_TEXTS 6

static void list_texts(reuse_slot *s, bytes *out[N_TEXTS])
{
    bytes *const texts[N_TEXTS] = { &s->base_key, &s->reasoning, &s->text, &s->calls, &s->canonical, &s->tool_names };
    memcpy(out, texts, sizeof texts);
}

void reuse_slot_init(reuse_slot *s)
{
    bytes *texts[N_TEXTS];
    *s = (reuse_slot){ .base = -1 };
    prefix_key_init(&s->key);
    list_texts(s, texts);
    for (int i = 0; i < N_TEXTS; i++) bytes_init(texts[i], SIZE_MAX);
}

void reuse_slot_free(reuse_slot *s)
{
    bytes *texts[N_TEXTS];
    list_texts(s, texts);
    for (int i = 0; i < N_TEXTS; i++) bytes_free(texts[i]);
    prefix_key_free(&s->key);
    free_ids(&s->call_ids, &s->n_calls);
    free(s->gaps);
    reuse_slot_init(s);
}

static void forget_turn(reuse_slot *s)
{
    s->base = -1;
    bytes_clear(&s->reasoning);
    bytes_clear(&s->text);
    bytes_clear(&s->calls);
    bytes_clear(&s->canonical);
    free_ids(&s->call_ids, &s->n_calls);
}

void reuse_slot_clear(reuse_slot *s)
{
    forget_turn(s);
    prefix_key_cut(&s->key, 0);
    bytes_clear(&s->base_key);
    bytes_clear(&s->tool_names);
    s->stands = s->n_gaps = s->n_hints = 0;
    s->tools_hash = 0;
    s->ambiguous = false;
}

static bool set(bytes *b, slice text)
{
    bytes_clear(b);
    return bytes_append(b, text.data, text.len);
}

/* ---- the life of a request --------------------------------------------------------------- */

/* The session was found by its text: up to where its tokens and the prompt say the same it is the prompt, the rest
 * stands as a whole for the prompt's bytes up to m->from. */
static bool gap_of_loaded(alignment *a, const reuse_prompt *p, const reuse_slot *s, const reuse_match *m)
{
    const slice key = prefix_key_bytes(&s->key), prompt = prefix_key_bytes(&p->key);
    const size_t same = prefix_key_common(key, (slice){ prompt.data, m->from });
    *a = (alignment){ .n = m->keep };
    if (same == key.len && same == m->from) return true;
    a->gaps = malloc(sizeof *a->gaps);
    if (!a->gaps) return false;

    int n0 = prefix_key_count(&s->key, same);
    while (n0 > 0 && prefix_key_mark(key, prefix_key_end(&s->key, n0 - 1)) < 0) n0--;     /* behind a control token */
    const size_t at0 = prefix_key_end(&s->key, n0);
    a->gaps[a->n_gaps++] = (reuse_gap){ n0, m->keep, at0, m->from };
    return true;
}

/* Keeps the gaps within the first n tokens and `at` bytes; either side of a gap may be empty. */
static void drop_gaps(reuse_slot *s, int n, size_t at)
{
    while (s->n_gaps > 0 && (s->gaps[s->n_gaps - 1].n1 > n || s->gaps[s->n_gaps - 1].at1 > at)) s->n_gaps--;
}

ds4_status reuse_slot_take(reuse_slot *s, const reuse_prompt *p, const reuse_match *m, const vocab *v, ds4_error *err)
{
    alignment a;
    const bool aligned = m->method == REUSE_DISK ? gap_of_loaded(&a, p, s, m) : align_open(&a, p, s, v, false);
    const slice spelled = { p->key.data.data, m->from };
    if (!aligned || !set(&s->base_key, spelled) || !set(&s->tool_names, p->tool_names)) {
        if (aligned) align_close(&a);
        reuse_slot_clear(s);
        return ds4_fail(err, DS4_EMEMORY, "no memory for what a slot remembers");
    }
    forget_turn(s);
    prefix_key_cut(&s->key, m->keep);
    s->stands = m->keep;
    free(s->gaps);
    s->gaps = a.gaps;
    s->n_gaps = a.n_gaps;
    drop_gaps(s, m->keep, m->from);
    memcpy(s->hints, p->hints, sizeof s->hints);
    s->n_hints = p->n_hints;
    s->tools_hash = p->tools_hash;
    s->ambiguous = p->ambiguous;
    return DS4_OK;
}

ds4_status reuse_slot_push(reuse_slot *s, const vocab *v, const int32_t *tokens, int n, ds4_error *err)
{
    return prefix_key_push(&s->key, v, tokens, n, err);
}

/* The client's view of the first n tokens, which end[] still knows. Of half a gap the client has no spelling. */
static void cut_view(reuse_slot *s, int n)
{
    if (n >= s->stands) return;
    while (s->n_gaps > 0 && s->gaps[s->n_gaps - 1].n0 >= n) s->n_gaps--;
    const bool half = s->n_gaps > 0 && s->gaps[s->n_gaps - 1].n1 > n;
    s->stands = half ? s->gaps[--s->n_gaps].n0 : n;
    s->base_key.len = slot_offset_of(s, s->stands);
}

void reuse_slot_cut(reuse_slot *s, int n)
{
    if (n >= s->key.n) return;
    forget_turn(s);
    cut_view(s, n);
    prefix_key_cut(&s->key, n);
}

/* Where the answer to p begins: behind its last ASSISTANT token. SIZE_MAX: nowhere. */
static size_t answer_begin(const reuse_prompt *p, const vocab *v)
{
    const slice key = prefix_key_bytes(&p->key);
    const size_t at = prefix_key_find_back(key, key.len, vocab_special(v)->assistant);
    return at == SIZE_MAX || p->raw ? SIZE_MAX : at + PREFIX_KEY_MARK_BYTES;
}

/* Session tokens for the prompt's first `at` bytes. */
static int tokens_of_prompt(const reuse_slot *s, size_t at)
{
    if (at <= s->base_key.len) return slot_tokens_at(s, at);
    const size_t own = prefix_key_end(&s->key, s->stands) + (at - s->base_key.len);
    const int n = prefix_key_count(&s->key, own);
    return prefix_key_end(&s->key, n) == own ? n : -1;
}

/* Calls as the template writes them. */
static bool set_canonical(bytes *out, const answer_turn *turn, const vocab *v)
{
    bool good = true;
    chat_prompt p;
    bytes_clear(out);
    if (turn->n_calls == 0) return true;
    chat_prompt_init(&p, v, SIZE_MAX);
    calls_begin(&p);
    for (int i = 0; i < turn->n_calls && good; i++) good = calls_write(&p, &turn->calls[i], i == 0, NULL) == DS4_OK;
    calls_end(&p);
    good = good && chat_prompt_status(&p, NULL) == DS4_OK && bytes_append(out, p.text.data, p.text.len);
    chat_prompt_free(&p);
    return good;
}

static bool set_ids(reuse_slot *s, const answer_turn *turn)
{
    if (turn->n_calls == 0) return true;
    s->call_ids = calloc((size_t)turn->n_calls, sizeof *s->call_ids);
    for (int i = 0; s->call_ids && i < turn->n_calls; i++) {
        const slice id = turn->calls[i].id;
        char *copy = malloc(id.len + 1);
        if (!copy) return false;
        if (id.len) memcpy(copy, id.data, id.len);
        s->call_ids[s->n_calls++] = (slice){ copy, id.len };
    }
    return s->call_ids != NULL;
}

/* What the prompt had put into the model's mouth is part of the turn that comes back. */
static bool set_turn(reuse_slot *s, slice begun, const answer_turn *turn, const vocab *v)
{
    turn_text t;
    if (!turn_text_open(&t, begun, v)) return false;
    const bool good = set(&s->reasoning, turn_bytes(&t.reasoning)) && set(&s->text, turn_bytes(&t.rest))
                   && bytes_append(&s->reasoning, turn->reasoning.data, turn->reasoning.len)
                   && bytes_append(&s->text, turn->text.data, turn->text.len) && set(&s->calls, turn->block)
                   && set_canonical(&s->canonical, turn, v) && set_ids(s, turn);
    turn_text_close(&t);
    return good;
}

ds4_status reuse_slot_finish(reuse_slot *s, const reuse_prompt *p, const answer_turn *turn, bool unsent, const vocab *v,
                             ds4_error *err)
{
    const slice key = prefix_key_bytes(&p->key);
    const size_t at = answer_begin(p, v);
    forget_turn(s);
    if (at == SIZE_MAX) return DS4_OK;
    const int base = tokens_of_prompt(s, at);
    if (base < 0) return DS4_OK;
    if (!bytes_reserve(&s->base_key, at)) {
        s->base_key.failed = false;
        return ds4_fail(err, DS4_EMEMORY, "no memory for what a slot remembers");
    }
    set(&s->base_key, (slice){ key.data, at });     /* there is room */
    s->stands = base;
    drop_gaps(s, base, at);
    if (unsent) return DS4_OK;
    if (!set_turn(s, slice_behind(key, at), turn, v)) {
        forget_turn(s);
        return ds4_fail(err, DS4_EMEMORY, "no memory for what a slot remembers");
    }
    s->base = base;
    return DS4_OK;
}

/* ---- disk -------------------------------------------------------------------------------- */

/* How this client replays reasoning of older turns. */
typedef enum { REPLAYS_ALL, REPLAYS_EMPTY, REPLAYS_NONE } replay_style;

static replay_style style_of_client(const reuse_slot *s, bool keeps_reasoning, const vocab *v)
{
    const slice base = slot_base(s);
    const replay_style unknown = keeps_reasoning ? REPLAYS_ALL : REPLAYS_NONE;
    if (base.len < PREFIX_KEY_MARK_BYTES) return unknown;
    const size_t at = prefix_key_find_back(base, base.len - PREFIX_KEY_MARK_BYTES, vocab_special(v)->assistant);
    if (at == SIZE_MAX) return unknown;

    const size_t begin = at + PREFIX_KEY_MARK_BYTES, end = prefix_key_find(base, begin, vocab_special(v)->eos);
    const turn_parts t = turn_parse(slice_between(base, begin, end), v);
    const bool differs = s->n_gaps > 0 && s->gaps[s->n_gaps - 1].at0 == begin;
    if (t.reasoning.len) return REPLAYS_ALL;
    return !differs ? unknown : t.think ? REPLAYS_EMPTY : REPLAYS_NONE;
}

/* The last turn without its reasoning. */
static void spell_turn(const reuse_slot *s, replay_style style, const vocab *v, bytes *out)
{
    size_t n;
    const special_tokens *special = vocab_special(v);
    const char *think = vocab_bytes(v, special->think, &n);
    if (style == REPLAYS_EMPTY) bytes_append(out, think, n);
    const char *end_think = vocab_bytes(v, special->end_think, &n);
    bytes_append(out, end_think, n);
    bytes_append(out, s->text.data, s->text.len);
    bytes_append(out, s->calls.data, s->calls.len);
}

bool reuse_visible_text(const reuse_slot *s, bool keeps_reasoning, const vocab *v, bytes *out)
{
    const slice key = prefix_key_bytes(&s->key);
    const size_t begin = prefix_key_end(&s->key, s->stands), before = out->len;
    const slice own = slice_behind(key, begin);
    replay_style style = REPLAYS_ALL;
    if (s->base >= 0 && turn_parse(own, v).think && turn_trimmed(turn_bytes(&s->reasoning)).len > 0)
        style = style_of_client(s, keeps_reasoning, v);
    if (style == REPLAYS_ALL && s->n_gaps == 0) return false;

    ds4_status st = prefix_key_text(slot_base(s), v, out, NULL);
    if (style != REPLAYS_ALL) spell_turn(s, style, v, out);
    else if (!st) st = prefix_key_text(own, v, out, NULL);
    if (!st && !out->failed) return true;
    out->len = before;
    return false;
}
