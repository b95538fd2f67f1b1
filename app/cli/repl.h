/* repl: the conversation at a terminal. */
#ifndef CLI_REPL_H
#define CLI_REPL_H

#include "conversation.h"
#include "exit_code.h"
#include "model.h"
#include "stats.h"

typedef struct {
    cli_options  options;       /* a copy; /set and the modes change it */
    console     *console;
    model        model;
    conversation talk;
    ds4_sampling sampling;
    ds4_sampler *sampler;
    printer      out;
    char        *system;        /* owned */
    turn_stats   last;          /* of the last turn */
    bool         has_last, leave;
    exit_code    code;
} repl;

exit_code repl_run(const cli_options *o, const prompt_source *prompt, console *c);

/* ---- for the commands (repl_commands.c) -------------------------------------- */

/* Runs "/name arguments". */
void repl_command(repl *r, const char *line);

/* Name i without the slash, NULL behind the last; for completion. */
const char *repl_command_name(size_t i);

/* Appends a user turn and answers it. */
void repl_send(repl *r, const char *text, size_t n);

/* Answers what the conversation ends with. */
void repl_answer(repl *r);

/* The sampler again, after sampling changed. false: it was refused and said so. */
bool repl_renew_sampler(repl *r);

/* Opens engine and session for ctx tokens; the conversation is kept. */
exit_code repl_open(repl *r, int ctx);

#endif
