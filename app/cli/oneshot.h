/* oneshot: one prompt, one answer on standard output, and the exit code. */
#ifndef CLI_ONESHOT_H
#define CLI_ONESHOT_H

#include "exit_code.h"
#include "model.h"
#include "prompt.h"

exit_code oneshot_run(const cli_options *o, const prompt_source *prompt, console *c);

#endif
