/* signals: Ctrl-C as a flag. The handler sets it and does nothing else; whoever
 * works looks at it between two steps. The flag is global because a handler has
 * no other way to tell. */
#ifndef CLI_SIGNALS_H
#define CLI_SIGNALS_H

#include <stdbool.h>

/* A closed pipe becomes a failed write (EPIPE) instead of a death. */
void signals_ignore_pipe(void);

/* From here on SIGINT is only noted. Before, it ends the program. */
void signals_catch_interrupt(void);

bool signals_interrupted(void);
void signals_clear(void);           /* the interrupt has been dealt with */

#endif
