/* settings: what the flags of the server say, as the options of its parts. Callbacks and what is opened by the
 * program are left to run.c. */
#ifndef APP_SERVE_SETTINGS_H
#define APP_SERVE_SETTINGS_H

#include "options.h"
#include "serve/serve.h"

/* Where neither --host nor --port is given a Unix socket is enough. */
bool          settings_wants_port(const server_flags *o);
serve_options settings_server(const server_flags *o);
sched_options settings_sched(const server_flags *o);
api_config    settings_api(const server_flags *o, const ds4_shape *shape);
unclosed_think settings_unclosed(const server_flags *o);

/* "q2", by the bits of routed experts. */
const char   *settings_quant(const ds4_shape *shape);

#endif
