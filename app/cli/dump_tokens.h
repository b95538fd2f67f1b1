/* dump_tokens: what the tokenizer makes of a prompt. Reads the file's header
 * only; no weights, no memory for a model. */
#ifndef CLI_DUMP_TOKENS_H
#define CLI_DUMP_TOKENS_H

#include "exit_code.h"
#include "options.h"
#include "prompt.h"
#include "../console.h"

exit_code dump_tokens_run(const cli_options *o, const prompt_source *prompt, console *c);

#endif
