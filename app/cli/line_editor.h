/* line_editor: reading what a user types, on libedit.
 *
 * Multi-line: a paste keeps its newlines (bracketed paste), Alt-Enter inserts
 * one, a backslash at the end of a line continues it. Holds the terminal's modes
 * only while it reads; a stop signal gives them back. One editor per program:
 * the two signals it listens to while reading have nowhere else to be noted. */
#ifndef CLI_LINE_EDITOR_H
#define CLI_LINE_EDITOR_H

#include <stdbool.h>
#include "complete.h"
#include "history.h"

typedef struct line_editor line_editor;

typedef enum {
    LINE_OK,
    LINE_END,               /* Ctrl-D on an empty line, or the terminal has gone */
    LINE_INTERRUPTED,       /* Ctrl-C; the line is lost                          */
    LINE_INTERRUPTED_EMPTY  /* Ctrl-C on an empty line                           */
} line_result;

/* history is borrowed. NULL: no memory, or the terminal can not be used. */
line_editor *line_editor_open(bool colors, line_history *history, command_name_fn *command);
void         line_editor_close(line_editor *e);

/* The line without its last newline; caller frees. Never NULL with LINE_OK. */
line_result  line_editor_read(line_editor *e, char **line);

#endif
