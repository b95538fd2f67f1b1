#include "conversation.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"

/* ---- editing the token list ------------------------------------------------- */

static void truncate_to(token_list *l, size_t n)
{
    l->n = l->wanted = n;
    l->failed = false;
}

static bool push(conversation *c, ds4_token id)
{
    return token_list_push(&c->line.tokens, id);
}

/* Index of the first such token at or above `from`; l->n: none. */
static size_t find(const token_list *l, size_t from, ds4_token id)
{
    while (from < l->n && l->ids[from] != id) from++;
    return from;
}

/* Where the last turn begins; SIZE_MAX: there is none. A turn's USER stands behind
 * the header or an EOS; one that the model wrote itself stands elsewhere. */
static size_t last_turn(const conversation *c)
{
    const special_tokens *s = vocab_special(c->vocab);
    const token_list *l = &c->line.tokens;
    const size_t first = find(l, 0, s->user);
    if (first == l->n) return SIZE_MAX;
    size_t i = l->n - 1;
    while (i > first && !(l->ids[i] == s->user && l->ids[i - 1] == s->eos)) i--;
    return i;
}

/* An answer that has not ended; a header alone holds none. */
static bool is_open(const conversation *c)
{
    const token_list *l = &c->line.tokens;
    return last_turn(c) != SIZE_MAX && l->ids[l->n - 1] != vocab_special(c->vocab)->eos;
}

printer_section conversation_section(const conversation *c)
{
    const special_tokens *s = vocab_special(c->vocab);
    const token_list *l = &c->line.tokens;
    size_t n = l->n;
    while (n && l->ids[n - 1] != s->think && l->ids[n - 1] != s->end_think) n--;
    return n && l->ids[n - 1] == s->think ? PRINT_REASONING : PRINT_TEXT;
}

/* ---- turns ------------------------------------------------------------------ */

ds4_status conversation_attach(conversation *c, ds4_engine *e, int ctx, console *out, ds4_error *err)
{
    c->vocab = ds4_engine_vocab(e);
    c->mode.ctx = ctx;
    return timeline_attach(&c->line, e, ctx, out, err);
}

void conversation_detach(conversation *c)
{
    timeline_detach(&c->line);
}

void conversation_close(conversation *c)
{
    timeline_close(&c->line);
}

void conversation_reset(conversation *c)
{
    truncate_to(&c->line.tokens, 0);
    ds4_session_reset(c->line.session);
    c->loaded = false;
}

ds4_status conversation_add_turn(conversation *c, slice user, size_t *wanted, ds4_error *err)
{
    token_list *l = &c->line.tokens;
    const size_t before = l->n;
    if (is_open(c)) conversation_end_turn(c);
    ds4_status st = l->n == 0
        ? prompt_tokens_chat(c->vocab, &c->mode, c->system, user, l, err)
        : prompt_tokens_next(c->vocab, &c->mode, user, l, err);

    *wanted = l->wanted + 1;            /* and one token of an answer */
    if (!st && *wanted > l->max)
        st = ds4_fail(err, DS4_EFULL, "the prompt fills the context of %zu tokens", l->max);
    if (st) truncate_to(l, before);
    return st;
}

void conversation_end_turn(conversation *c)
{
    const special_tokens *s = vocab_special(c->vocab);
    if (!is_open(c)) return;
    if (conversation_section(c) == PRINT_REASONING) push(c, s->end_think);
    push(c, s->eos);
}

static ds4_status prefill_to(conversation *c, size_t upto, bool keep, ds4_error *err)
{
    const ds4_status st = keep ? timeline_sync_and_mark(&c->line, upto, err)
                               : timeline_sync(&c->line, upto, err);
    c->prefilled += c->line.fed;
    c->prefill_ns += c->line.fed_ns;
    return st;
}

static ds4_status prefill_turn(conversation *c, ds4_error *err)
{
    c->prefilled = 0;
    c->prefill_ns = 0;
    const size_t turn = last_turn(c);
    /* Once computed, the turn's beginning is a kept point; going there again would
     * drop the points behind it. */
    if (c->keep_points && turn != SIZE_MAX && timeline_common(&c->line, turn) < turn) {
        const ds4_status st = prefill_to(c, turn, true, err);
        if (st) return st;
    }
    return prefill_to(c, c->line.tokens.n, c->keep_points, err);
}

ds4_status conversation_prefill(conversation *c, ds4_error *err)
{
    residency_counts before;
    residency_now(&before);
    const ds4_status st = prefill_turn(c, err);
    c->pages = residency_since(&before);
    return st;
}

bool conversation_undo(conversation *c)
{
    token_list *l = &c->line.tokens;
    const size_t turn = last_turn(c);
    if (turn == SIZE_MAX) return false;
    /* A header of ours can be written again; a loaded one is all there is. */
    const bool only_header = turn == find(l, 0, vocab_special(c->vocab)->user) && !c->loaded;
    truncate_to(l, only_header ? 0 : turn);
    return true;
}

bool conversation_retry(conversation *c)
{
    const special_tokens *s = vocab_special(c->vocab);
    const size_t turn = last_turn(c);
    if (turn == SIZE_MAX) return false;
    const size_t opening = find(&c->line.tokens, turn, s->assistant);
    if (opening == c->line.tokens.n) return false;
    truncate_to(&c->line.tokens, opening + 1);
    return push(c, c->mode.mode == MODE_NOTHINK ? s->end_think : s->think);
}

/* ---- the header ------------------------------------------------------------- */

/* Replaces what stands before the first USER token by what the present mode
 * would write there. */
static ds4_status replace_header(conversation *c, bool *changed, ds4_error *err)
{
    token_list *l = &c->line.tokens, fresh;
    const ds4_token user = vocab_special(c->vocab)->user;
    token_list_init(&fresh, l->max + 65536);
    ds4_status st = prompt_tokens_chat(c->vocab, &c->mode, c->system, slice_of(""), &fresh, err);
    if (!st) {
        const size_t old_n = find(l, 0, user), new_n = find(&fresh, 0, user);
        truncate_to(&fresh, new_n);
        for (size_t i = old_n; i < l->n; i++) token_list_push(&fresh, l->ids[i]);
        *changed = old_n != new_n || memcmp(fresh.ids, l->ids, new_n * sizeof *l->ids) != 0;
        if (fresh.failed) st = ds4_fail(err, DS4_EMEMORY, "no memory for the conversation");
        else if (fresh.n > l->max) st = ds4_fail(err, DS4_EFULL, "the longer header does not fit the context");
    }
    if (!st && *changed) {
        truncate_to(l, 0);
        for (size_t i = 0; i < fresh.n; i++) token_list_push(l, fresh.ids[i]);
    }
    token_list_free(&fresh);
    return st;
}

ds4_status conversation_set_mode(conversation *c, think_mode mode, bool *changed, ds4_error *err)
{
    const think_mode before = c->mode.mode;
    *changed = false;
    c->mode.mode = mode;
    if (c->line.tokens.n == 0 || c->loaded) return DS4_OK;
    const ds4_status st = replace_header(c, changed, err);
    if (st) c->mode.mode = before;
    return st;
}

/* <think> ... </think> becomes </think>: how the template writes an old answer. */
size_t conversation_drop_reasoning(conversation *c)
{
    const special_tokens *s = vocab_special(c->vocab);
    token_list *l = &c->line.tokens;
    const size_t before = l->n;
    size_t to = 0;
    bool reasoning = false;
    conversation_end_turn(c);
    for (size_t i = 0; i < l->n; i++) {
        const ds4_token id = l->ids[i];
        if (id == s->think) reasoning = true;
        if (id == s->end_think || id == s->eos || id == s->user) reasoning = false;
        if (!reasoning) l->ids[to++] = id;
    }
    truncate_to(l, to);
    return before > to ? before - to : 0;
}

/* ---- checkpoints ------------------------------------------------------------ */

enum { REASON_USER_SESSION = 6 };       /* docs/formats.md */

ds4_status conversation_save(conversation *c, const char *path, ds4_error *err)
{
    file_replace f;
    ds4_status st = timeline_sync(&c->line, c->line.tokens.n, err);
    if (!st) st = file_replace_open(&f, path, true, err);
    if (st) return st;
    st = ds4_session_save(c->line.session, f.fd, REASON_USER_SESSION, err);
    if (!st) return file_replace_commit(&f, err);
    file_replace_abort(&f);
    return st;
}

static ds4_status take_session(conversation *c, ds4_error *err)
{
    const ds4_token *ids = ds4_session_tokens(c->line.session);
    const int n = ds4_session_length(c->line.session);
    truncate_to(&c->line.tokens, 0);
    for (int i = 0; i < n; i++)
        if (!token_list_push(&c->line.tokens, ids[i]))
            return ds4_fail(err, DS4_EMEMORY, "no memory for the conversation");
    c->loaded = true;
    return DS4_OK;
}

ds4_status conversation_load(conversation *c, const char *path, ds4_error *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ds4_fail(err, errno == ENOENT ? DS4_ENOTFOUND : DS4_EIO, "%s: %s", path, strerror(errno));
    ds4_error inner = { 0 };
    ds4_status st = ds4_session_load(c->line.session, fd, &inner);
    close(fd);
    if (st) {
        conversation_reset(c);
        return ds4_fail(err, st, "%.100s: %s", path, inner.message);
    }
    return take_session(c, err);
}
