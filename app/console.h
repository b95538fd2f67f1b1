/* console: everything a program says on stderr: messages and one progress line.
 *
 * The progress line is drawn by a thread of its own, so that it moves (and
 * follows the window's width) while the work is inside one long step. It is
 * erased before anything else is printed. Knows nothing of models. Any thread
 * prints; one at a time has the progress line. */
#ifndef APP_CONSOLE_H
#define APP_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "terminal.h"

typedef enum { CONSOLE_QUIET, CONSOLE_NORMAL, CONSOLE_VERBOSE } console_level;
typedef enum { PROGRESS_BYTES, PROGRESS_TOKENS } progress_unit;

typedef struct {
    char            phase[24];
    progress_unit   unit;
    uint64_t        done, total;
    uint64_t        stride;                 /* of one step ...                          */
    int             parts, parts_done;      /* ... that tells when a part of it is done */
    uint64_t        start_ns, drawn_ns;     /* drawn_ns: of the last plain line in a pipe */
    bool            running, visible;
} progress_state;

typedef struct {
    const char     *program;                /* in front of every message */
    console_level   level;
    bool            smart, colors;
    pthread_mutex_t lock;                   /* guards what follows and stderr */
    pthread_cond_t  wake;
    pthread_t       thread;
    progress_state  progress;
} console;

void console_open(console *c, const char *program, console_level level, color_choice color);
void console_close(console *c);

/* One line each, "ds4: " in front. Errors always, warnings and notes not with
 * -q, details only with -v. */
void console_error(console *c, const char *fmt, ...)   __attribute__((format(printf, 2, 3)));
void console_warning(console *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void console_note(console *c, const char *fmt, ...)    __attribute__((format(printf, 2, 3)));
void console_detail(console *c, const char *fmt, ...)  __attribute__((format(printf, 2, 3)));

/* A line of its own without the program's name: what a user asked for. */
void console_print(console *c, const char *fmt, ...)   __attribute__((format(printf, 2, 3)));

/* Between begin and end of a phase; shown when it lasts longer than a second,
 * in a pipe as one plain line every ten seconds. */
void console_progress_begin(console *c, const char *phase, progress_unit unit, uint64_t total);
void console_progress(console *c, uint64_t done, uint64_t total);
void console_progress_end(console *c);
/* Bytes of phases that come one after the other, as the engine tells them: begins each by itself. */
void console_progress_phase(console *c, const char *phase, uint64_t done, uint64_t total);

/* Long steps move the line in parts: a step of `stride` has so many, and each call of
 * the second tells of one. console_progress begins the next step. */
void console_progress_steps(console *c, uint64_t stride, int parts);
void console_progress_part(console *c);

/* "52.1 GiB", "12.0 MiB", "512 B". */
void console_bytes(char out[24], uint64_t n);

#endif
