/* answer: what the model samples, split into reasoning, text and tool calls.
 *
 * A state machine over tokens (docs/answers.md): REASONING -> TEXT -> TOOLS -> DONE. Markers
 * may straddle tokens; whatever may still become a marker, half a character or a stop
 * string is held back, so the events are the same however the bytes were cut into tokens,
 * and the same for streaming and not. Malformed markup is repaired or given out as the
 * text it is; raw DSML never reaches a client. Knows no model: the caller samples, asks
 * how to (answer_sampling), and pushes. One thread at a time; vocabulary outlives it. */
#ifndef TEXT_ANSWER_H
#define TEXT_ANSWER_H

#include <stdbool.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "text/answer_event.h"
#include "text/chat.h"
#include "text/vocab.h"

typedef struct answer answer;

typedef enum { UNCLOSED_FORCE, UNCLOSED_STOP, UNCLOSED_TEXT } unclosed_think;   /* --unclosed-think, docs/server.md */
typedef enum { CALL_ID_OPENAI, CALL_ID_ANTHROPIC } call_id_form;   /* call_ + 32 hex, toolu_ + 24 base62 */

typedef struct {
    chat_start       start;             /* where the prompt leaves the model                     */
    const chat_tool *tools;             /* offered and allowed; what is needed is copied         */
    int              n_tools;           /* 0: tool markup is text                                */
    bool             raw;               /* no reasoning, no calls: all is TEXT; control tokens are not shown */
    const slice     *stops;             /* copied; in TEXT only                                  */
    int              n_stops;
    bool             include_stop;      /* the stop string itself is given out too               */
    unclosed_think   unclosed;
    call_id_form     ids;
    int              choice;            /* for the events                                        */
    /* 16 random bytes for a call's id; from a CSPRNG, or a counter in tests. */
    void           (*random)(void *ctx, uint8_t out[16]);
    void            *random_ctx;
    /* Called within push and finish; the event's slices are good during the call. */
    void           (*event)(void *ctx, const answer_event *e);
    void            *event_ctx;
} answer_options;

ds4_status answer_open(answer **out, const vocab *v, const answer_options *o, ds4_error *err);
void       answer_close(answer *a);     /* NULL is fine */

typedef enum {
    ANSWER_MORE,                /* taken; sample the next one                                    */
    ANSWER_END,                 /* the answer is complete: EOS, a stop string, the end of a tool block;
                                   call answer_finish. EOS itself does not enter the timeline    */
    ANSWER_END_THINK            /* not taken: an EOS inside of reasoning. Feed </think> to the session in its
                                   place, push that, and go on                                   */
} answer_verdict;

answer_verdict answer_push(answer *a, int32_t token);

/* Gives out what is held and one FINISH event. `why` when the caller ended it (LENGTH, CONTEXT,
 * CANCELLED); FINISH_STOP to let the machine say (stop, stop string, tool calls). */
void answer_finish_with(answer *a, answer_finish why);

/* DS4_OK, or why an event could not be made (memory). */
ds4_status answer_status(const answer *a, ds4_error *err);

typedef enum { SECTION_REASONING, SECTION_TEXT, SECTION_TOOLS } answer_section;
answer_section answer_in(const answer *a);

/* Inside a tool block's structure sampling is greedy; in its string values and everywhere else
 * the request's own parameters count. */
bool answer_wants_greedy(const answer *a);

/* What the turn was, for replaying it when the client sends it back (replay.h, engine/reuse.h).
 * Good until answer_close. */
typedef struct {
    slice        reasoning, text;       /* as sampled; text as sent (cut at a stop string)       */
    slice        block;                 /* separator and tool block exactly as sampled; empty when it was cut
                                           off inside of a call                                  */
    bool         reasoning_closed;      /* </think> was there before the block                   */
    const chat_call *calls;             /* complete calls with ids and final arguments           */
    int          n_calls;
} answer_turn;
answer_turn answer_turn_of(const answer *a);

/* Reads a block that was sampled once more: names and arguments of its calls (no ids) are in the turn. The
 * tools tell the types; there may be none. answer_close frees it. */
ds4_status answer_read_block(answer **out, slice block, const chat_tool *tools, int n_tools, ds4_error *err);

typedef enum {
    REPAIR_STRING_ATTRIBUTE, REPAIR_JSON_LITERAL, REPAIR_TYPE, REPAIR_DUPLICATE, REPAIR_WRAPPER,
    REPAIR_SPELLING, REPAIR_CLOSER, REPAIR_OUTER_TAG, REPAIR_STRAY, REPAIR_KINDS
} answer_repair;
const char *answer_repair_name(answer_repair r);        /* "string_attribute", as metrics label it */

typedef struct {
    int repairs[REPAIR_KINDS];
    int failures;               /* blocks of which nothing was usable                            */
} answer_counts;
const answer_counts *answer_counts_of(const answer *a);

#endif
