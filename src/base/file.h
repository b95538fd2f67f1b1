/* file: reading by mapping or whole, writing by atomic replacement.
 *
 * Messages start with the path. Any thread; one object belongs to one thread. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"

/* A read-only private mapping of a regular file. Closing invalidates data;
 * a zeroed object may be closed, an object after a failed open too. */
typedef struct {
    const uint8_t *data;        /* NULL for an empty file */
    uint64_t       size;        /* bytes, as fstat told after mapping */
    int            fd;
} file_map;

ds4_status file_map_open(file_map *m, const char *path, ds4_error *err);  /* DS4_ENOTFOUND, DS4_EIO */
void       file_map_close(file_map *m);

/* The whole file or stream, NUL-terminated (caller frees). "-" is standard
 * input. More than max bytes is DS4_EFULL. */
ds4_status file_read_all(const char *path, size_t max, char **data, size_t *len, ds4_error *err);

/* A file that appears complete or not at all: written beside `path` under a
 * temporary name, flushed to disk and renamed by file_replace_commit. */
typedef struct {
    int   fd;                   /* for plain writes; -1 when closed */
    char *path, *temp_path;     /* owned */
    bool  overwrite;
} file_replace;

/* overwrite false: an existing path is DS4_EARG, also one that appears before
 * the commit. A symbolic link stays and its target is replaced; devices, pipes
 * and folders are DS4_EARG. A zeroed or failed object may be aborted. */
ds4_status file_replace_open(file_replace *f, const char *path, bool overwrite, ds4_error *err);
ds4_status file_replace_commit(file_replace *f, ds4_error *err);   /* closes in any case */
void       file_replace_abort(file_replace *f);                    /* removes the temporary file */

/* All n bytes or an error; retries short writes and EINTR. `name` is for the message. */
ds4_status file_write_all(int fd, const void *data, size_t n, const char *name, ds4_error *err);
ds4_status file_read_exact(int fd, void *data, size_t n, const char *name, ds4_error *err);

#endif
