/* Why a session did not serve a prompt any further. */
#include "engine/reuse.h"

#include <string.h>

#include "engine/reuse_align.h"
#include "engine/reuse_turn.h"

const char *reuse_miss_name(reuse_miss m)
{
    static const char *const names[] = {
        [MISS_NONE] = "none", [MISS_EMPTY] = "empty", [MISS_SYSTEM_CHANGED] = "system-changed",
        [MISS_TOOLS_CHANGED] = "tools-changed",
        [MISS_REASONING_DROPPED] = "reasoning-dropped", [MISS_TOOLCALL_RESERIALISED] = "toolcall-reserialised",
        [MISS_TEXT_TRIMMED] = "text-trimmed", [MISS_HISTORY_EDITED] = "history-edited",
        [MISS_OTHER_SESSION] = "other-session",
    };
    return names[m];
}

/* ---- kinds of conversations -------------------------------------------------------------- */

typedef enum { HINTS_UNKNOWN, HINTS_SAME, HINTS_OTHER } hint_relation;

static hint_relation compare_hints(const reuse_prompt *p, const reuse_slot *s)
{
    if (p->n_hints == 0 || s->n_hints == 0) return HINTS_UNKNOWN;
    for (int i = 0; i < p->n_hints; i++) {
        for (int k = 0; k < s->n_hints; k++) if (p->hints[i] == s->hints[k]) return HINTS_SAME;
    }
    return HINTS_OTHER;
}

static reuse_miss in_system_part(const reuse_prompt *p, const reuse_slot *s, const alignment *a, size_t system_end)
{
    const hint_relation hints = compare_hints(p, s);
    if (hints == HINTS_OTHER) return MISS_OTHER_SESSION;
    if (p->tools_hash != s->tools_hash) return MISS_TOOLS_CHANGED;
    return hints == HINTS_SAME || a->same >= system_end / 2 ? MISS_SYSTEM_CHANGED : MISS_OTHER_SESSION;
}

/* ---- turns ------------------------------------------------------------------------------- */

/* The turn in which byte `at` lies; the end of the key ends it too. */
static slice turn_around(slice key, size_t assistant, const vocab *v)
{
    const size_t begin = assistant + PREFIX_KEY_MARK_BYTES, end = prefix_key_find(key, begin, vocab_special(v)->eos);
    return slice_between(key, begin, end);
}

/* The assistant token of the turn in which byte `at` lies; SIZE_MAX: it is no assistant's. */
static size_t assistant_before(slice key, size_t at, const vocab *v)
{
    const size_t assistant = prefix_key_find_back(key, at, vocab_special(v)->assistant);
    const size_t eos = prefix_key_find_back(key, at, vocab_special(v)->eos);
    return assistant != SIZE_MAX && eos != SIZE_MAX && eos > assistant ? SIZE_MAX : assistant;
}

/* Up to where calls begin: the last byte in front of the block's markers. */
static slice text_before_calls(slice rest, const vocab *v, bool *calls)
{
    size_t n;
    const char *dsml = vocab_bytes(v, vocab_special(v)->dsml, &n);
    const char *at = rest.len ? memmem(rest.data, rest.len, dsml, n) : NULL;
    *calls = at != NULL;
    if (at) rest.len = (size_t)(at - rest.data);
    if (at && rest.len && rest.data[rest.len - 1] == '<') rest.len--;
    return turn_trimmed(rest);
}

static reuse_miss compare_turns(slice now, slice before, const vocab *v)
{
    turn_text a, b;
    reuse_miss why = MISS_HISTORY_EDITED;
    if (!turn_text_open(&a, now, v)) return why;
    if (turn_text_open(&b, before, v)) {
        bool calls_now, calls_before;
        const slice text_now = text_before_calls(turn_bytes(&a.rest), v, &calls_now);
        const slice text_before = text_before_calls(turn_bytes(&b.rest), v, &calls_before);
        const slice thought = turn_trimmed(turn_bytes(&b.reasoning)), thinks = turn_trimmed(turn_bytes(&a.reasoning));
        if (thought.len && !thinks.len) why = MISS_REASONING_DROPPED;
        else if (!slice_equal(thinks, thought) || !slice_equal(text_now, text_before)) why = MISS_HISTORY_EDITED;
        else if (calls_now && calls_before) why = MISS_TOOLCALL_RESERIALISED;
        else why = calls_now == calls_before ? MISS_TEXT_TRIMMED : MISS_HISTORY_EDITED;
        turn_text_close(&b);
    }
    turn_text_close(&a);
    return why;
}

static reuse_miss in_turns(const reuse_prompt *p, const reuse_slot *s, const alignment *a, const vocab *v)
{
    const slice prompt = prefix_key_bytes(&p->key);
    if (prefix_key_find_back(prompt, a->same, vocab_special(v)->eos) == SIZE_MAX
        && prefix_key_find_back(prompt, a->same, vocab_special(v)->assistant) == SIZE_MAX)
        return compare_hints(p, s) == HINTS_SAME ? MISS_HISTORY_EDITED : MISS_OTHER_SESSION;    /* the first question */

    const size_t assistant = assistant_before(prompt, a->same, v);
    if (assistant == SIZE_MAX) return MISS_HISTORY_EDITED;
    const size_t behind = a->same - assistant, at = a->view.len - a->rest.len;
    slice view = a->view;
    if (at < behind) view = prefix_key_bytes(&s->key);      /* base_key ended with the ASSISTANT token */
    const size_t view_at = view.len - a->rest.len;
    if (view_at < behind) return MISS_HISTORY_EDITED;
    return compare_turns(turn_around(prompt, assistant, v), turn_around(view, view_at - behind, v), v);
}

/* ---- the sentence ------------------------------------------------------------------------ */

static bool next_line(slice *text, slice *line)
{
    if (text->len == 0) return false;
    const char *end = memchr(text->data, '\n', text->len);
    const size_t n = end ? (size_t)(end - text->data) : text->len;
    *line = (slice){ text->data, n };
    *text = end ? (slice){ end + 1, text->len - n - 1 } : (slice){ NULL, 0 };
    return true;
}

/* Names of `of` that are not in `in`, each with the sign in front. */
static void list_others(slice of, slice in, char sign, bytes *out)
{
    slice name, other;
    while (next_line(&of, &name)) {
        slice rest = in;
        bool found = false;
        while (!found && next_line(&rest, &other)) found = slice_equal(name, other);
        if (!found) bytes_printf(out, " %c%.*s", sign, (int)name.len, name.data);
    }
}

/* Only a strict reading of the template keeps this session from serving. */
static bool strictly_another(const reuse_prompt *p, const reuse_slot *s, const vocab *v)
{
    alignment a;
    if (!align_open(&a, p, s, v, true)) return false;
    const bool another = !a.whole;
    align_close(&a);
    return another;
}

reuse_miss reuse_explain(const reuse_prompt *p, const reuse_slot *s, const reuse_match *m, const vocab *v,
                         bytes *sentence, bytes *texts)
{
    const slice prompt = prefix_key_bytes(&p->key);
    alignment a;
    if (s->key.n == 0) {
        bytes_text(sentence, "the slot is empty");
        return MISS_EMPTY;
    }
    if (m->keep == s->key.n || !align_open(&a, p, s, v, false)) return MISS_NONE;
    const size_t system_end = prefix_key_end(&p->key, reuse_system_end(p, v));
    reuse_miss why;
    if (a.whole && a.at < prompt.len) why = strictly_another(p, s, v) ? MISS_REASONING_DROPPED : MISS_NONE;
    else if (a.same == prompt.len) why = MISS_NONE;
    else if (p->raw) why = MISS_HISTORY_EDITED;
    else if (a.same < system_end) why = in_system_part(p, s, &a, system_end);
    else why = in_turns(p, s, &a, v);

    if (why != MISS_NONE) {
        bytes_printf(sentence, "%d of the session's %d tokens are in the prompt", a.n, s->key.n);
        const slice had = { s->tool_names.data, s->tool_names.len };
        if (why == MISS_TOOLS_CHANGED) {
            bytes_text(sentence, "; tools");
            list_others(p->tool_names, had, '+', sentence);
            list_others(had, p->tool_names, '-', sentence);
        }
        bytes_text(texts, "; then the session says ");
        turn_quote(a.rest, 0, v, texts);
        bytes_text(texts, ", the prompt ");
        turn_quote(prompt, a.same, v, texts);
    }
    align_close(&a);
    return why;
}
