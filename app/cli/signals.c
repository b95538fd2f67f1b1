#include "signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

void signals_ignore_pipe(void)
{
    signal(SIGPIPE, SIG_IGN);
}

void signals_catch_interrupt(void)
{
    /* No SA_RESTART: a read at the prompt returns and sees the flag. */
    struct sigaction act = { .sa_handler = on_interrupt }, before;
    sigemptyset(&act.sa_mask);
    /* `ds4 ... &` in a script: the shell ignores the interrupt for us. */
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler == SIG_IGN) return;
    sigaction(SIGINT, &act, NULL);
}

bool signals_interrupted(void) { return interrupted; }
void signals_clear(void)       { interrupted = 0; }
