/* exit_code: how the program ends, as docs/cli.md lists it. */
#ifndef CLI_EXIT_CODE_H
#define CLI_EXIT_CODE_H

#include "ds4_status.h"

typedef enum {
    CLI_OK          = 0,
    CLI_FAILED      = 1,        /* the model, the backend or a file failed at run time      */
    CLI_USAGE       = 2,
    CLI_NO_MODEL    = 3,        /* not found, or not the expected layout                    */
    CLI_NO_MEMORY   = 4,
    CLI_TOO_LONG    = 5,        /* the prompt does not fit the context                      */
    CLI_INTERRUPTED = 130,
    CLI_STDOUT_GONE = 141       /* nobody reads; said nothing                               */
} exit_code;

/* What a failed call means once the model is open. */
static inline exit_code exit_code_of(ds4_status st)
{
    switch (st) {
    case DS4_OK:         return CLI_OK;
    case DS4_EMEMORY:    return CLI_NO_MEMORY;
    case DS4_EFULL:      return CLI_TOO_LONG;
    case DS4_ECANCELLED: return CLI_INTERRUPTED;
    default:             return CLI_FAILED;
    }
}

#endif
