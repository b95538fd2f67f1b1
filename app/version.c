#include "version.h"

#include <stdio.h>

/* The Makefile tells these two to this file only, so that a new commit
 * compiles one object again and not the tree. */
#ifndef DS4_COMMIT
#define DS4_COMMIT "unknown"
#endif
#ifndef DS4_FLAGS
#define DS4_FLAGS "unknown"
#endif

const char *version_commit(void) { return DS4_COMMIT; }
const char *version_flags(void)  { return DS4_FLAGS; }

void version_text(char *out, unsigned long size, const char *program)
{
    snprintf(out, size, "%s %s (commit %s)\nbackends: cpu, cuda, also as check:, trace:, time:\nbuild: %s, %s",
             program, DS4_VERSION, DS4_COMMIT, DS4_FLAGS, __VERSION__);
}
