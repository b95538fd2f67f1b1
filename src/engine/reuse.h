/* reuse: how much of a prompt a session already holds, and which session takes it.
 *
 * What the model sampled and what lies in the KV is the truth; a client's JSON only
 * selects it (docs/reuse.md). A slot remembers, beside the tokens of its session, how the client spelled the
 * same conversation in its latest request: the two differ where a client dropped reasoning or
 * wrote calls anew. Pure decisions over what slots remember: sessions are not touched here.
 * Engine thread (reuse_prompt_open: any).
 *
 * A request's life, for the scheduler:
 *
 *   reuse_choose           which slot, and the match
 *   (rewind the session to match.keep)
 *   reuse_slot_take        the slot belongs to the prompt now
 *   reuse_slot_push        whatever enters the session: the suffix, sampled and forced tokens
 *   reuse_slot_finish      the turn is complete */
#ifndef ENGINE_REUSE_H
#define ENGINE_REUSE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/prefix_key.h"
#include "text/answer.h"

/* ---- prompts ----------------------------------------------------------------------------- */

/* What a request brings. Offsets of turns are found by the control tokens, which only the renderer writes. */
typedef struct {
    token_list  tokens;
    prefix_key  key;            /* of tokens                                                     */
    bool        ambiguous;      /* text spells a control token (chat_prompt.ambiguous)           */
    slice      *result_ids;     /* owned array, owned bytes: call ids that the messages after the last assistant
                                   turn answer, in call order                                    */
    int         n_results;
    uint64_t    hints[8];       /* hashes of session hints (prompt_cache_key, session-id, ...)   */
    int         n_hints;
    uint64_t    tools_hash;     /* of the tool names offered; 0: none                            */
    slice       tool_names;     /* owned, joined with newlines; for naming what came or went     */
    bool        raw;            /* no chat template: only token and text prefixes are compared   */
} reuse_prompt;

/* Takes the tokens and makes the key; the rest is zero for the caller to fill (owned memory from malloc).
 * On failure p is empty. */
ds4_status reuse_prompt_open(reuse_prompt *p, const vocab *v, token_list *take, ds4_error *err);
void       reuse_prompt_close(reuse_prompt *p);

/* Token index of the end of the system part (the first USER or ASSISTANT token), and of the final ASSISTANT
 * token; n where there is none. */
int        reuse_system_end(const reuse_prompt *p, const vocab *v);
int        reuse_generation_begin(const reuse_prompt *p, const vocab *v);

/* ---- slots ------------------------------------------------------------------------------- */

/* Session tokens [n0, n1) and the client's bytes [at0, at1) are two spellings of one turn: neither has a place
 * inside that the other has too. */
typedef struct {
    int    n0, n1;
    size_t at0, at1;
} reuse_gap;

/* What a slot remembers beside its session. Read by all; changed only by the functions below. */
typedef struct {
    prefix_key  key;            /* of the session's tokens                                       */
    int         base;           /* tokens up to and with the last turn's ASSISTANT token; -1: no finished turn */
    bytes       base_key;       /* the client's spelling of the session's first `stands` tokens:
                                   the same bytes but for the gaps                               */
    int         stands;         /* == base when a turn is finished                               */
    reuse_gap  *gaps;           /* owned, ascending                                              */
    int         n_gaps;
    bytes       reasoning, text, calls, canonical;  /* the last turn: as sent; block as sampled; as the template
                                   writes it                                                     */
    slice      *call_ids;       /* owned; of the last turn                                       */
    int         n_calls;
    bool        ambiguous;
    uint64_t    hints[8];
    int         n_hints;
    uint64_t    tools_hash;
    bytes       tool_names;
    uint64_t    last_used_ns;   /* the scheduler's                                               */
    bool        busy;           /* the scheduler's                                               */
} reuse_slot;

void reuse_slot_init(reuse_slot *s);
void reuse_slot_free(reuse_slot *s);
void reuse_slot_clear(reuse_slot *s);           /* as after ds4_session_reset */

typedef enum {
    REUSE_COLD, REUSE_LIVE_ID, REUSE_LIVE_TOKEN, REUSE_LIVE_VISIBLE, REUSE_LIVE_TEXT, REUSE_REWIND, REUSE_DISK
} reuse_method;
const char *reuse_method_name(reuse_method m);  /* "live-id", as logs and metrics say it */

typedef struct {
    reuse_method method;
    int          keep;          /* tokens of the session that stay                               */
    size_t       from;          /* of the prompt's key: bytes that those stand for; the rest is the suffix */
    bool         aligned;       /* the session's first `keep` tokens are the prompt's: the suffix is
                                   prompt.tokens[keep..)                                         */
} reuse_match;

/* The prompt has the session now, which stands at m->keep tokens: forgets what lay behind, takes over hints, tools and
 * the client's spelling of what stays. m REUSE_DISK: see reuse_match_loaded. DS4_EMEMORY: the slot is as after
 * reuse_slot_clear, and the session must be reset too. */
ds4_status reuse_slot_take(reuse_slot *s, const reuse_prompt *p, const reuse_match *m, const vocab *v, ds4_error *err);
/* Tokens entered the session. */
ds4_status reuse_slot_push(reuse_slot *s, const vocab *v, const int32_t *tokens, int n, ds4_error *err);
/* The session went back to n tokens (a further choice of the same prompt, a retry). */
void       reuse_slot_cut(reuse_slot *s, int n);
/* The session stands at the end of this turn, the answer to p, which took the slot. unsent: it also holds text that the
 * client did not get (a stop string): the turn is then not expected back as it stands. */
ds4_status reuse_slot_finish(reuse_slot *s, const reuse_prompt *p, const answer_turn *turn, bool unsent, const vocab *v,
                             ds4_error *err);

/* ---- matching ---------------------------------------------------------------------------- */

/* The best way to use one slot. rewind_point(ctx, want) tells where ds4_session_rewind would go; has_logits(ctx, n)
 * whether the point at n (or the session's end) holds logits, so that a prompt that matches whole needs no step. */
typedef struct {
    int  (*rewind_point)(void *ctx, int want);
    bool (*has_logits)(void *ctx, int length);
    void  *ctx;
    bool   strict_drop_reasoning;
} reuse_session;
/* Its suffix is empty only where logits are: the answer can be sampled at once. */
reuse_match reuse_match_slot(const reuse_prompt *p, const reuse_slot *s, const reuse_session *session, const vocab *v);

/* For a session that was loaded because its text is the first text_bytes of the prompt's (prefix_key_text); s was
 * cleared and its tokens pushed. False: it does not serve this prompt after all. */
bool        reuse_match_loaded(const reuse_prompt *p, const reuse_slot *s, size_t text_bytes, const vocab *v,
                               reuse_match *out);

/* Tokens to compute after a match, appended to out. */
ds4_status  reuse_suffix(const reuse_prompt *p, const reuse_match *m, const vocab *v, token_list *out, ds4_error *err);

/* Why a longer prefix was not there (docs/reuse.md, Reading a miss). */
typedef enum {
    MISS_NONE, MISS_EMPTY, MISS_SYSTEM_CHANGED, MISS_TOOLS_CHANGED, MISS_REASONING_DROPPED, MISS_TOOLCALL_RESERIALISED,
    MISS_TEXT_TRIMMED, MISS_HISTORY_EDITED, MISS_OTHER_SESSION
} reuse_miss;
const char *reuse_miss_name(reuse_miss m);      /* "system-changed" */

/* Why the slot's session did not serve this prompt further, before the prompt takes the slot. Appends a sentence that
 * may be logged, and to `texts` what session and prompt say where they part, which is private; both may be the same.
 * MISS_NONE: the whole session serves, nothing is appended. */
reuse_miss  reuse_explain(const reuse_prompt *p, const reuse_slot *s, const reuse_match *m, const vocab *v,
                          bytes *sentence, bytes *texts);

/* ---- choosing ---------------------------------------------------------------------------- */

/* Which slot takes the prompt; -1: all are busy. */
typedef struct {
    int         slot;
    reuse_match match;
    bool        side;           /* a side request would take a slot that holds another conversation: better
                                   run elsewhere                                                 */
    bool        foreign;        /* the slot's conversation is given up: save it first            */
} reuse_choice;
typedef struct {
    bool side;                  /* a title, a summary, a probe (docs/scheduler.md)               */
    uint64_t now_ns;
} reuse_request;
reuse_choice reuse_choose(const reuse_prompt *p, const reuse_request *r, const reuse_slot *const *slots,
                          const reuse_session *sessions, int n_slots, const vocab *v);

/* ---- disk -------------------------------------------------------------------------------- */

/* The text under which the session is expected back: for the text of a checkpoint. Appends the client's
 * spelling; a finished turn as this client replayed its last one, or, for a first one, as most do
 * (keeps_reasoning: the template keeps reasoning of old turns). False, and nothing: the session's own text is what
 * comes back. */
bool        reuse_visible_text(const reuse_slot *s, bool keeps_reasoning, const vocab *v, bytes *out);

#endif
