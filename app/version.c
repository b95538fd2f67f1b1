#include "version.h"

#include <stdio.h>

#include "kernels/backend.h"

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
    const char *archs = backend_cuda_archs();
    const bool cuda = *archs != 0;
    snprintf(out, size, "%s %s (commit %s)\nbackends: cpu%s%s%s, also as check:, trace:, time:\nbuild: %s, %s", program,
             DS4_VERSION, DS4_COMMIT, cuda ? ", cuda (kernels for " : "", archs, cuda ? ")" : "", DS4_FLAGS, __VERSION__);
}
