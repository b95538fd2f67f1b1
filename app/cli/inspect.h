/* inspect: what is in a model file and what running it would take. Reads the
 * header only. */
#ifndef CLI_INSPECT_H
#define CLI_INSPECT_H

#include "exit_code.h"
#include "options.h"
#include "../console.h"

exit_code inspect_run(const cli_options *o, console *c);

#endif
