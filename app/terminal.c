#include "terminal.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/utf8.h"

/* ---- restoring ----------------------------------------------------------- */

static struct {
    struct termios        modes;        /* of standard input, as found             */
    volatile sig_atomic_t has_modes;
    volatile sig_atomic_t editing;
    volatile sig_atomic_t style_fd;     /* -1: no style is on                      */
    volatile sig_atomic_t paste_fd;     /* -1: bracketed paste is off              */
} guard = { .style_fd = -1, .paste_fd = -1 };

static const int fatal_signals[] = {
    SIGHUP, SIGTERM, SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL
};
static struct sigaction previous[countof(fatal_signals)];

static void put_back(int fd, const char *sequence, size_t n)
{
    /* Nothing to be done if it fails: the terminal may be gone. */
    const ssize_t ignored = write(fd, sequence, n);
    (void)ignored;
}

/* Async-signal-safe: write and tcsetattr are. */
void terminal_restore(void)
{
    if (guard.style_fd >= 0) put_back((int)guard.style_fd, "\033[0m", 4);
    if (guard.paste_fd >= 0) put_back((int)guard.paste_fd, "\033[?2004l", 8);
    guard.style_fd = guard.paste_fd = -1;
    /* From the background tcsetattr would stop us (SIGTTOU). */
    if (guard.editing && guard.has_modes && tcgetpgrp(STDIN_FILENO) == getpgrp())
        tcsetattr(STDIN_FILENO, TCSADRAIN, &guard.modes);
}

/* Whoever handled the signal before us (the default action, a sanitizer)
 * handles it now: a fault happens again on return, others are sent again. */
static void on_fatal(int sig)
{
    terminal_restore();
    for (size_t i = 0; i < countof(fatal_signals); i++)
        if (fatal_signals[i] == sig) sigaction(sig, &previous[i], NULL);
    if (sig != SIGSEGV && sig != SIGBUS && sig != SIGFPE && sig != SIGILL) raise(sig);
}

void terminal_guard(void)
{
    if (tcgetattr(STDIN_FILENO, &guard.modes) == 0) guard.has_modes = 1;
    atexit(terminal_restore);

    struct sigaction act = { .sa_handler = on_fatal };
    sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < countof(fatal_signals); i++) {
        sigaction(fatal_signals[i], NULL, &previous[i]);
        /* A signal our parent ignores (nohup) stays ignored. */
        if (previous[i].sa_handler != SIG_IGN) sigaction(fatal_signals[i], &act, NULL);
    }
}

void terminal_note_style(int fd, terminal_style s)
{
    guard.style_fd = s == STYLE_NONE ? -1 : fd;
}

void terminal_note_paste_mode(int fd, bool on)
{
    guard.paste_fd = on ? fd : -1;
}

void terminal_note_editing(bool on)
{
    guard.editing = on;
}

/* ---- what a stream is ---------------------------------------------------- */

static bool env_is_on(const char *name)
{
    const char *v = getenv(name);
    return v && *v && strcmp(v, "0") != 0;
}

bool terminal_is_smart(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}

int terminal_columns(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    const char *columns = getenv("COLUMNS");
    const int n = columns ? atoi(columns) : 0;
    return n > 0 ? n : 80;
}

bool terminal_colors(int fd, color_choice choice)
{
    if (choice != COLOR_AUTO) return choice == COLOR_ALWAYS;
    const char *no_color = getenv("NO_COLOR");
    if (no_color && *no_color) return false;
    return env_is_on("CLICOLOR_FORCE") || terminal_is_smart(fd);
}

const char *terminal_style_code(terminal_style s)
{
    switch (s) {
    case STYLE_DIM:    return "\033[2m";
    case STYLE_BOLD:   return "\033[1m";
    case STYLE_RED:    return "\033[31m";
    case STYLE_YELLOW: return "\033[33m";
    default:           return "\033[0m";
    }
}

void terminal_append_visible(bytes *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; ) {
        uint32_t cp;
        const int len = utf8_next(text + i, n - i, &cp);
        if ((cp < 0x20 && cp != '\n' && cp != '\t') || cp == 0x7F)
            bytes_printf(out, "^%c", (char)(cp ^ 0x40));
        else if (cp == UTF8_INVALID)
            bytes_text(out, "\xEF\xBF\xBD");
        else if (cp >= 0x80 && cp < 0xA0)
            bytes_printf(out, "<U+%04X>", (unsigned)cp);
        else
            bytes_append(out, text + i, (size_t)len);
        i += (size_t)len;
    }
}
