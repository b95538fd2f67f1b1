/* perplexity: how surprised the model is by a text, token by token.
 *
 * The text is tokenised once, control tokens not recognised, and cut into
 * windows of ctx - 1 tokens; each window starts a new timeline with BOS in
 * front, so every token of the text is predicted exactly once. */
#ifndef CLI_PERPLEXITY_H
#define CLI_PERPLEXITY_H

#include "exit_code.h"
#include "options.h"
#include "../console.h"

exit_code perplexity_run(const cli_options *o, console *c);

#endif
