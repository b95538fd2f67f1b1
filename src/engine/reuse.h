/* reuse: how much of a prompt a session already holds, and which session takes it.
 *
 * What the model sampled and what lies in the KV is the truth; a client's JSON only
 * selects it [kvcache.md 1, 7, 8]. Pure decisions over what slots remember: nothing is moved
 * here. Engine thread. */
#ifndef ENGINE_REUSE_H
#define ENGINE_REUSE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/prefix_key.h"

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

ds4_status reuse_prompt_open(reuse_prompt *p, const vocab *v, token_list *take, ds4_error *err);
void       reuse_prompt_close(reuse_prompt *p);

/* Token index of the end of the system part (the first USER or ASSISTANT token), and of the final ASSISTANT
 * token; n where there is none. */
int        reuse_system_end(const reuse_prompt *p, const vocab *v);
int        reuse_generation_begin(const reuse_prompt *p, const vocab *v);

/* What a slot remembers beside its session. The scheduler keeps it in step with the session. */
typedef struct {
    prefix_key  key;            /* of the session's tokens                                       */
    int         base;           /* tokens up to and with the last turn's ASSISTANT token; -1: no finished turn */
    bytes       base_key;       /* the key of the request that made that turn, up to there: as the client spelled
                                   the history, which may differ from the session's              */
    bytes       reasoning, text, calls, canonical;  /* the last turn: as sent; block as sampled; as the template writes it */
    slice      *call_ids;       /* owned; of the last turn                                       */
    int         n_calls;
    bool        ambiguous;
    uint64_t    hints[8];
    int         n_hints;
    uint64_t    tools_hash;
    bytes       tool_names;
    uint64_t    last_used_ns;
    bool        busy;
} reuse_slot;

void reuse_slot_init(reuse_slot *s);
void reuse_slot_free(reuse_slot *s);
void reuse_slot_clear(reuse_slot *s);           /* as after ds4_session_reset */

typedef enum {
    REUSE_COLD, REUSE_LIVE_ID, REUSE_LIVE_TOKEN, REUSE_LIVE_VISIBLE, REUSE_LIVE_TEXT, REUSE_REWIND, REUSE_DISK
} reuse_method;
const char *reuse_method_name(reuse_method m);  /* "live-id", as logs and metrics say it */

/* Why a longer prefix was not there [kvcache.md 1.C]. */
typedef enum {
    MISS_NONE, MISS_EMPTY, MISS_SYSTEM_CHANGED, MISS_TOOLS_CHANGED, MISS_REASONING_DROPPED, MISS_TOOLCALL_RESERIALISED,
    MISS_TEXT_TRIMMED, MISS_HISTORY_EDITED, MISS_OTHER_SESSION
} reuse_miss;
const char *reuse_miss_name(reuse_miss m);

typedef struct {
    reuse_method method;
    int          keep;          /* tokens of the session that stay                               */
    size_t       from;          /* of the prompt's key: bytes that those stand for; the rest is the suffix */
    bool         aligned;       /* the session's first `keep` tokens are the prompt's: the suffix is prompt.tokens[keep..) */
} reuse_match;

/* The best way to use one slot. rewind_point(ctx, want) tells where ds4_session_rewind would go; has_logits(ctx, n) whether
 * the point at n holds logits, so that a prompt that matches whole needs no step. */
typedef struct {
    int  (*rewind_point)(void *ctx, int want);
    bool (*has_logits)(void *ctx, int length);
    void  *ctx;
    bool   strict_drop_reasoning;
} reuse_session;
reuse_match reuse_match_slot(const reuse_prompt *p, const reuse_slot *s, const reuse_session *session, const vocab *v);

/* Tokens to compute after a match, appended to out. */
ds4_status  reuse_suffix(const reuse_prompt *p, const reuse_match *m, const vocab *v, token_list *out, ds4_error *err);

/* Why the slot's session did not serve this prompt further, and the two texts where they part, for the log. */
reuse_miss  reuse_explain(const reuse_prompt *p, const reuse_slot *s, const reuse_match *m, const vocab *v, bytes *sentence);

/* Which slot takes the prompt; -1: all are busy. */
typedef struct {
    int         slot;
    reuse_match match;
    bool        side;           /* a side request on a slot that holds another conversation: what the slot holds is to be
                                   put back afterwards [kvcache.md 7.3]                          */
    bool        foreign;        /* the slot's conversation is given up: save it first            */
} reuse_choice;
typedef struct {
    bool side;                  /* a title, a summary, a probe [kvcache.md 7.3]                  */
    uint64_t now_ns;
} reuse_request;
reuse_choice reuse_choose(const reuse_prompt *p, const reuse_request *r, const reuse_slot *const *slots, const reuse_session *sessions,
                          int n_slots, const vocab *v);

/* Keys under which a finished turn is expected back [kvcache.md 1.3]: for the text of a checkpoint. Appends base and
 * turn as most clients replay it; false: the session's own text is what comes back. */
bool        reuse_visible_text(const reuse_slot *s, bool keeps_reasoning, const vocab *v, bytes *out);

#endif
