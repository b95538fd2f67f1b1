/* run: the life of a ds4-server process: listen, load, serve, drain. */
#ifndef APP_SERVE_RUN_H
#define APP_SERVE_RUN_H

#include "options.h"
#include "../cli/exit_code.h"
#include "../console.h"

enum { SERVER_ADDRESS_IN_USE = 6 };     /* beside the exit codes of ds4 */

int server_run(const server_flags *o, console *c);

/* --check: the model's header and the memory plan. */
int server_check(const server_flags *o, console *c);

#endif
