/* timeline: the tokens a conversation consists of, and the session that holds
 * them computed.
 *
 * The token list is the truth; the session follows. Whoever edits the list
 * (a new turn, /undo, another prefix) just edits it: timeline_sync finds what
 * the session has in common with it, goes back to a kept point if it must, and
 * computes the rest. */
#ifndef CLI_TIMELINE_H
#define CLI_TIMELINE_H

#include "ds4.h"
#include "text/tokenizer.h"
#include "../console.h"

typedef struct {
    ds4_engine  *engine;        /* borrowed while attached */
    ds4_session *session;       /* owned */
    token_list   tokens;
    console     *console;       /* progress of prefills; borrowed */
    size_t       fed;           /* tokens computed by the last sync */
    uint64_t     fed_ns;
} timeline;

/* t is zeroed, or was detached and keeps its tokens (they must fit ctx). */
ds4_status timeline_attach(timeline *t, ds4_engine *e, int ctx, console *c, ds4_error *err);
void       timeline_detach(timeline *t);        /* closes the session, keeps the tokens */
void       timeline_close(timeline *t);

/* How many tokens of [0, upto) the session holds already. */
size_t timeline_common(const timeline *t, size_t upto);

/* Makes the session hold exactly tokens[0, upto). DS4_ECANCELLED: interrupted
 * between two chunks; what was computed stays. Logits of the last token are
 * there afterwards. */
ds4_status timeline_sync(timeline *t, size_t upto, ds4_error *err);

/* The same and keeps the point, so that a later edit comes back to it cheaply. */
ds4_status timeline_sync_and_mark(timeline *t, size_t upto, ds4_error *err);

/* Computes what was pushed since the last sync; the decode step. */
ds4_status timeline_advance(timeline *t, ds4_error *err);

#endif
