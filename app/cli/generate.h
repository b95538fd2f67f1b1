/* generate: the decode loop. Samples, splits the tokens into reasoning and text,
 * stops where an answer ends, and leaves the sampled tokens in the timeline. */
#ifndef CLI_GENERATE_H
#define CLI_GENERATE_H

#include "printer.h"
#include "base/residency.h"
#include "text/stream.h"
#include "timeline.h"

typedef enum {
    FINISH_STOP,            /* the model ended its turn               */
    FINISH_STOP_STRING,
    FINISH_LENGTH,          /* -n                                     */
    FINISH_CONTEXT,         /* the session is full                    */
    FINISH_INTERRUPTED,     /* Ctrl-C                                 */
    FINISH_OUTPUT,          /* standard output failed                 */
    FINISH_ERROR            /* the engine failed; see the error       */
} finish_reason;

typedef struct {
    int          max_tokens, think_budget;
    const option_list *stops;
    printer_section start;  /* where the prompt leaves the model      */
} generate_options;

typedef struct {
    finish_reason  finish;
    printer_section ended_in;
    int            tokens, reasoning_tokens;    /* sampled, without the end of turn */
    uint64_t       ns;
    ds4_expert_metrics experts;                 /* of the tokens' steps; slots 0: all are mapped */
    ds4_card_expert_metrics card_experts;       /* of the tokens' steps; misses 0: all lie on the card */
    residency_counts pages;                     /* of the same time */
} generate_result;

/* The timeline must be synced. On FINISH_ERROR err is filled. */
void generate_answer(timeline *t, const vocab *v, ds4_sampler *sampler, const generate_options *o,
                     printer *out, generate_result *r, ds4_error *err);

const char *finish_name(finish_reason f);       /* "stop" or "length", as JSON says it */

#endif
