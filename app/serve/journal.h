/* journal: lines into a file that may be rotated under it. Any thread. */
#ifndef APP_SERVE_JOURNAL_H
#define APP_SERVE_JOURNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include "base/slice.h"
#include "ds4_status.h"

typedef struct {
    pthread_mutex_t lock;
    const char     *path;       /* borrowed; NULL: no journal */
    bool            secret;
    FILE           *file;
} journal;

/* Appends to the file. A new one may be read by its owner alone; so may a secret one that was there before. */
ds4_status journal_open(journal *j, const char *path, bool secret, ds4_error *err);
/* After a rotation: the path anew. On failure the former file stays. */
ds4_status journal_reopen(journal *j, ds4_error *err);
void       journal_close(journal *j);

void       journal_line(journal *j, const char *line);
/* "== TIME ID WHAT", the text, an empty line. */
void       journal_block(journal *j, const char *id, const char *what, slice text);

#endif
