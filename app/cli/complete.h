/* complete: what the Tab key can add to a command line. Pure, save for reading
 * folders. */
#ifndef CLI_COMPLETE_H
#define CLI_COMPLETE_H

#include <stddef.h>

typedef struct {
    char **items;               /* owned; whole words that fit, sorted          */
    size_t n;
    size_t word;                /* where the word begins in the line            */
    char   after;               /* what follows a single match: ' ' or 0        */
} completions;

/* Name i of the commands without the slash; NULL behind the last. */
typedef const char *command_name_fn(size_t i);

/* line: what stands before the cursor. Commands are completed at the start, file names behind /read,
 * /save and /load. */
void complete_line(completions *c, const char *line, command_name_fn *command);
void completions_free(completions *c);

/* Bytes that all items have in common. */
size_t completions_common(const completions *c);

#endif
