/* terminal: what the streams are, and leaving them as they were found.
 *
 * Knows widths, colours and control characters; knows nothing of prompts or
 * models. terminal_guard is called once, first thing in main: it remembers the
 * modes of the controlling terminal and puts them back at exit and on fatal
 * signals. That memory is the one global of this file, since a signal handler
 * has nothing else to look at. */
#ifndef APP_TERMINAL_H
#define APP_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"

typedef enum { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER } color_choice;

void terminal_guard(void);
void terminal_restore(void);        /* what it does then; async-signal-safe */

/* A terminal that can move its cursor (TERM is set and not "dumb"). */
bool terminal_is_smart(int fd);
int  terminal_columns(int fd);      /* the window's, else COLUMNS, else 80 */

/* Honours NO_COLOR, CLICOLOR_FORCE and TERM when the choice is auto. */
bool terminal_colors(int fd, color_choice choice);

/* Escape sequences that must be taken back on every way out. fd is where they
 * were written. */
typedef enum { STYLE_NONE, STYLE_DIM, STYLE_BOLD, STYLE_RED, STYLE_YELLOW } terminal_style;
const char *terminal_style_code(terminal_style s);
void terminal_note_style(int fd, terminal_style s);
void terminal_note_paste_mode(int fd, bool on);     /* bracketed paste (xterm, ?2004) */
void terminal_note_editing(bool on);                /* a line editor holds the modes  */

/* Appends text with control characters other than newline and tab made visible
 * ("^[" for escape, "<U+009B>" for the 8-bit ones) and what is not UTF-8 replaced,
 * so that a model or a file name can not drive the terminal. */
void terminal_append_visible(bytes *out, const char *text, size_t n);

#endif
