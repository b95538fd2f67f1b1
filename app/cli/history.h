/* history: the lines a user typed, kept between runs.
 *
 * One entry a line in a file of mode 0600, newlines and backslashes escaped, at
 * most 512 entries. Not kept: a repetition of the entry before, and lines that
 * begin with a blank. A file that can not be read or written costs the memory
 * of old lines and nothing else. */
#ifndef CLI_HISTORY_H
#define CLI_HISTORY_H

#include <stddef.h>
#include <histedit.h>

#define HISTORY_MAX 512

typedef struct {
    char    *path;              /* owned; NULL: kept in memory only */
    History *list;              /* owned, what the editor walks     */
    char    *last;              /* owned, entry added last          */
} line_history;

/* DS4_HISTORY names the file and, when empty, disables it; else ~/.ds4_history. */
void history_open(line_history *h);
void history_close(line_history *h);
void history_add(line_history *h, const char *line);

#endif
