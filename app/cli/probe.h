/* probe: what the diagnostics that run the model have in common: an open model,
 * one timeline, and the prompts as token sequences (from --token-ids, or the one
 * rendered prompt). */
#ifndef CLI_PROBE_H
#define CLI_PROBE_H

#include "exit_code.h"
#include "model.h"
#include "prompt.h"
#include "timeline.h"
#include "token_ids.h"

typedef struct {
    const cli_options *options;
    console           *console;
    model              model;
    timeline           line;
    token_sequences    prompts;
} probe;

exit_code probe_open(probe *p, const cli_options *o, const prompt_source *prompt, console *c);
void      probe_close(probe *p);

/* Prints the sentence, if it is worth one. */
exit_code probe_failed(probe *p, ds4_status st, const ds4_error *err);

/* Makes the timeline hold prompt i, with the logits behind it. */
ds4_status probe_prefill(probe *p, size_t i, ds4_error *err);

/* Forgets the timeline and feeds n tokens; visit gets the logits of each
 * position in order. A status from visit stops and is returned. */
typedef ds4_status probe_visit(void *ctx, int position, const float *logits, ds4_error *err);
ds4_status probe_every_position(probe *p, const ds4_token *ids, int n, probe_visit *visit, void *ctx,
                                ds4_error *err);

/* Greedy continuation from the timeline's end, at most n tokens, EOS included
 * and last. */
typedef ds4_status probe_step(void *ctx, int step, ds4_token id, const float *logits, ds4_error *err);
ds4_status probe_continue(probe *p, int n, probe_step *step, void *ctx, ds4_error *err);

/* The jobs. */
exit_code dump_logprobs_run(probe *p);
exit_code dump_logits_run(probe *p);
exit_code print_ids_run(probe *p);

#endif
