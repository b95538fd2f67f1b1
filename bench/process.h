/* process: a driver (driver.h) running as a child.
 *
 * Owns the child and its pipes. One thread. */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include "ds4_status.h"

typedef struct {
    pid_t pid;                  /* 0: not running */
    FILE *to, *from;
    char  line[512];            /* its last answer */
} process;

/* Starts argv[0] and waits until it is ready. A process that failed to start may be stopped. */
ds4_status process_start(process *p, char *const argv[], ds4_error *err);
void       process_stop(process *p);

/* One command, one answer in p->line. DS4_EIO: it ended, or answered an error. */
ds4_status process_ask(process *p, const char *command, ds4_error *err);

/* A member of the last answer. Text is cut to size; 0 and "" where there is none. */
double process_number(const process *p, const char *key);
void   process_text(const process *p, const char *key, char *out, size_t size);

/* A child that keeps one processor busy until it is killed; which one is only
 * ours to choose on Linux. */
pid_t process_burn(int cpu);
void  process_kill(pid_t pid);

#endif
