/* ends: what must end the process, tried in a child. */
#ifndef TESTS_GPU_HOST_ENDS_H
#define TESTS_GPU_HOST_ENDS_H

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"

/* Whether f(ctx) ends the process that calls it; what it says goes nowhere. */
static bool ends(void (*f)(void *ctx), void *ctx)
{
    const pid_t child = fork();
    if (child == 0) {
        const int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, 1);
        dup2(nowhere, 2);
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        f(ctx);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return child > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define EXPECT_ENDS(f, ctx) EXPECT(ends(f, ctx))

#endif
