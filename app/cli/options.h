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
#include "text/chat.h"
#include "../terminal.h"

typedef enum { MODE_THINK, MODE_THINK_MAX, MODE_NOTHINK } think_mode;
typedef enum { ACTION_RUN, ACTION_HELP, ACTION_VERSION } cli_action;

/* What is done with the prompt. */
typedef enum {
    JOB_CHAT,                   /* one answer, or the REPL                           */
    JOB_INSPECT, JOB_DUMP_TOKENS, JOB_DUMP_LOGPROBS, JOB_DUMP_LOGITS, JOB_PRINT_IDS,
    JOB_PERPLEXITY
} cli_job;

typedef struct {
    cli_action  action;
    const char *help_topic;     /* NULL: all */
    cli_job     job;

    /* model and machine */
    const char *model;          /* NULL: search                                      */
    bool        model_from_env;
    const char *backend, *kv_type, *rounding, *isa, *numa;
    uint32_t    isa_mask;
    int         ctx, threads;
    int         prefill_chunk;  /* 0: as memory allows                               */
    const char *expert_cache_text;
    uint64_t    expert_cache;   /* bytes; 0: auto                                    */
    bool        quality, warm_weights, huge_pages;

    /* prompt */
    const char *prompt, *prompt_file, *system, *system_file, *token_ids;
    bool        raw;
    const char *chdir_to;

    /* thinking */
    int         mode;           /* think_mode */
    const char *effort_profile;
    int         think_max_min_ctx, think_budget;

    /* sampling */
    float       temp, top_p, min_p;
    bool        temp_given, top_p_given, seed_given;
    int         top_k, n;
    bool        n_given;
    uint64_t    seed;
    option_list stops;          /* owned list of borrowed texts */

    /* output */
    const char *show_thinking, *color;
    bool        json, quiet, verbose;
    const char *save, *load;

    /* diagnostics */
    bool        inspect, print_ids, all_positions;
    const char *dump_tokens;
    bool        dump_tokens_given;
    const char *dump_logprobs, *dump_logits, *perplexity_file;
    int         logprobs_top_k;

    bool        help, version, backend_given, ctx_given;
} cli_options;

/* DS4_EARG: the sentence says which flag and why. */
ds4_status cli_options_parse(cli_options *o, int argc, char **argv, ds4_error *err);
void       cli_options_free(cli_options *o);
bool       cli_options_help(const char *topic, bytes *out);    /* false: no such topic */

/* A context size as --ctx, DS4_CTX and /ctx take it: "32768", "100k". */
ds4_status cli_parse_ctx(const char *text, int *ctx, ds4_error *err);

color_choice cli_color(const cli_options *o);

/* A sampling value as /set and the flags accept it. */
bool sampling_in_range(const char *key, double v);

#endif
