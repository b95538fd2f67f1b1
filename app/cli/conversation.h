/* conversation: turns on a timeline.
 *
 * A turn appends USER + text + ASSISTANT + think token, and EOS behind the
 * answer; nothing before it is rendered again. Turns are found by the control
 * tokens that open them, so a loaded checkpoint needs no record of its own. */
#ifndef CLI_CONVERSATION_H
#define CLI_CONVERSATION_H

#include "generate.h"
#include "prompt.h"
#include "timeline.h"

typedef struct {
    timeline     line;
    const vocab *vocab;         /* borrowed from the engine */
    prompt_mode  mode;
    slice        system;        /* borrowed */
    bool         keep_points;   /* make /undo and /retry cheap */
    bool         loaded;        /* the header came from a checkpoint and stays */
    size_t       prefilled;     /* tokens and time of the last turn's prompt */
    uint64_t     prefill_ns;
    residency_counts pages;     /* that came in meanwhile */
} conversation;

/* c is zeroed, or was detached from another engine and goes on with this one. */
ds4_status conversation_attach(conversation *c, ds4_engine *e, int ctx, console *out, ds4_error *err);
void       conversation_detach(conversation *c);
void       conversation_close(conversation *c);
void       conversation_reset(conversation *c);

/* Appends a user turn without computing it. DS4_EFULL: it does not fit; the
 * conversation stands as before and *wanted is the context it would need. */
ds4_status conversation_add_turn(conversation *c, slice user, size_t *wanted, ds4_error *err);

/* Computes what was appended, so that an answer can be sampled. */
ds4_status conversation_prefill(conversation *c, ds4_error *err);

/* Where the open answer stands. */
printer_section conversation_section(const conversation *c);

/* Ends the open answer: </think> if it is still reasoning, then EOS. */
void conversation_end_turn(conversation *c);

/* Drops the last exchange; false: there is none. */
bool conversation_undo(conversation *c);
/* Back to the point where the last answer began, in the present mode. */
bool conversation_retry(conversation *c);

/* Another mode for the next turns. Sets *changed when the header became another,
 * so that everything has to be computed again. */
ds4_status conversation_set_mode(conversation *c, think_mode mode, bool *changed, ds4_error *err);

/* Removes the reasoning of all finished answers; returns the tokens dropped. */
size_t conversation_drop_reasoning(conversation *c);

ds4_status conversation_save(conversation *c, const char *path, ds4_error *err);
ds4_status conversation_load(conversation *c, const char *path, ds4_error *err);

#endif
