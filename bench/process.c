#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/status.h"

static ds4_status read_answer(process *p, ds4_error *err)
{
    if (!fgets(p->line, sizeof p->line, p->from))
        return ds4_fail(err, DS4_EIO, "the driver ended without an answer");
    char why[200];
    process_text(p, "error", why, sizeof why);
    return why[0] ? ds4_fail(err, DS4_EIO, "the driver says: %s", why) : DS4_OK;
}

/* Closed in other children: a driver sees the end of its input when we close it,
 * not when the last driver that was started after it has gone. */
static bool private_pipe(int end[2])
{
    return !pipe(end) && !fcntl(end[0], F_SETFD, FD_CLOEXEC) && !fcntl(end[1], F_SETFD, FD_CLOEXEC);
}

ds4_status process_start(process *p, char *const argv[], ds4_error *err)
{
    int to[2] = { -1, -1 }, from[2] = { -1, -1 };
    *p = (process){ 0 };
    if (!private_pipe(to) || !private_pipe(from)) return ds4_fail(err, DS4_EIO, "pipe: %s", strerror(errno));
    p->pid = fork();
    if (p->pid == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGPIPE, SIG_DFL);
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        execv(argv[0], argv);
        fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    if (p->pid < 0) {
        p->pid = 0;
        close(to[1]);
        close(from[0]);
        return ds4_fail(err, DS4_EIO, "fork: %s", strerror(errno));
    }
    p->to = fdopen(to[1], "w");
    p->from = fdopen(from[0], "r");
    if (!p->to || !p->from) return ds4_fail(err, DS4_EMEMORY, "no memory for a pipe");
    return read_answer(p, err);
}

void process_stop(process *p)
{
    if (p->to) fclose(p->to);           /* end of input ends a driver */
    if (p->from) fclose(p->from);
    if (p->pid) waitpid(p->pid, NULL, 0);
    *p = (process){ 0 };
}

ds4_status process_ask(process *p, const char *command, ds4_error *err)
{
    if (fprintf(p->to, "%s\n", command) < 0 || fflush(p->to))
        return ds4_fail(err, DS4_EIO, "the driver has ended");
    return read_answer(p, err);
}

/* Answers are flat objects that this project's drivers write, so the text after
 * "key": is the value. */
static const char *value_of(const process *p, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(p->line, quoted);
    return at ? at + strlen(quoted) : NULL;
}

double process_number(const process *p, const char *key)
{
    const char *v = value_of(p, key);
    return v ? strtod(v, NULL) : 0;
}

void process_text(const process *p, const char *key, char *out, size_t size)
{
    const char *v = value_of(p, key);
    out[0] = 0;
    if (v && *v == '"') snprintf(out, size, "%.*s", (int)strcspn(v + 1, "\""), v + 1);
}

pid_t process_burn(int cpu)
{
    const pid_t pid = fork();
    if (pid) return pid;

#ifdef CPU_SET
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
#else
    (void)cpu;
#endif
    for (volatile uint64_t n = 0;; n++)
        if (!(n & 0xfffffff) && getppid() == 1) _exit(0);        /* the parent is gone */
}

void process_kill(pid_t pid)
{
    if (pid <= 0) return;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
