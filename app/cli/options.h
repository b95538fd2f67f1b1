/* options: the flags of ds4, their defaults, and which of them go together.
 *
 * Flags beat the environment (DS4_MODEL, DS4_BACKEND, DS4_CTX), which beats the
 * defaults. Everything is borrowed from argv and the environment. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/options.h"
#include "ds4.h"
#include "../console_flags.h"
#include "../model_flags.h"

typedef enum { ACTION_RUN, ACTION_HELP, ACTION_VERSION } cli_action;

/* What is done with the prompt. */
typedef enum {
    JOB_CHAT,                   /* one answer, or the REPL                           */
    JOB_INSPECT, JOB_DUMP_TOKENS, JOB_DUMP_LOGPROBS, JOB_DUMP_LOGITS, JOB_PRINT_IDS,
    JOB_PERPLEXITY
} cli_job;

typedef struct {
    cli_action  action;
    cli_job     job;

    model_flags flags;
    console_flags say;

    /* prompt */
    const char *prompt, *prompt_file, *system, *system_file, *token_ids;
    bool        raw;

    /* sampling */
    int         n;
    bool        seed_given;
    bool        n_given;
    uint64_t    seed;
    option_list stops;          /* owned list of borrowed texts */

    /* output */
    const char *show_thinking;
    bool        json;
    const char *save, *load;

    /* diagnostics */
    bool        inspect, print_ids, all_positions;
    const char *dump_tokens;
    bool        dump_tokens_given;
    const char *dump_logprobs, *dump_logits, *perplexity_file;
    int         logprobs_top_k;

} cli_options;

/* DS4_EARG: the sentence says which flag and why. */
ds4_status cli_options_parse(cli_options *o, int argc, char **argv, ds4_error *err);
void       cli_options_free(cli_options *o);
bool       cli_options_help(const char *topic, bytes *out);    /* false: no such topic */

#endif
