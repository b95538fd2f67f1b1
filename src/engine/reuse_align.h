/* reuse_align: a prompt laid beside what a slot remembers.
 *
 * Internal to reuse. The prompt is compared with the client's view of the session: base_key, and behind it the
 * session's own bytes. An assistant turn that differs in bytes but is the same turn (reasoning that a client
 * dropped, blanks, calls as the template writes them) becomes a gap and the comparison goes on behind it. */
#ifndef ENGINE_REUSE_ALIGN_H
#define ENGINE_REUSE_ALIGN_H

#include "engine/reuse.h"

typedef struct {
    reuse_gap *gaps;        /* owned; session tokens and bytes of the prompt                       */
    int        n_gaps, cap;
    int        n;           /* the session's first n tokens ...                                    */
    size_t     at;          /* ... stand for the prompt's first `at` bytes                         */
    size_t     same;        /* bytes of the prompt that the session says too: at, and part of a token */
    bool       whole;       /* n is the whole session                                              */
    bool       by_id;       /* its last turn answers to the ids that the prompt brings results for */
    bool       by_sight;    /* its last turn is there, as a client replays it                      */
    slice      rest;        /* what the client's view of the session goes on with behind `same`    */
    slice      view;        /* the part of that view `rest` ends: base_key, or the session's tail  */
} alignment;

/* strict: a turn whose reasoning the template drops is another turn. False: no memory. */
bool   align_open(alignment *a, const reuse_prompt *p, const reuse_slot *s, const vocab *v, bool strict);
void   align_close(alignment *a);

/* Bytes of the prompt for the session's first n tokens, n <= a->n; SIZE_MAX: n lies in a gap. */
size_t align_offset(const alignment *a, const reuse_slot *s, int n);

/* Whether the prompt has a token boundary at `at`, and between the control token before and this place the same tokens
 * as the session in front of n: computing goes on there as it would in a cold session. */
bool   align_tokens_meet(const reuse_prompt *p, const reuse_slot *s, int n, size_t at);

/* Session tokens for the first `at` bytes of the slot's client view; -1: no boundary there, or a gap. */
int    slot_tokens_at(const reuse_slot *s, size_t at);
/* The other way round; SIZE_MAX: n lies in a gap. */
size_t slot_offset_of(const reuse_slot *s, int n);

static inline slice slot_base(const reuse_slot *s) { return (slice){ s->base_key.data, s->base_key.len }; }

#endif
