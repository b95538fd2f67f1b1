/* direct_file: reading pieces of an open file past the page cache.
 *
 * Direct reads go by whole blocks of DIRECT_BLOCK in file and memory, so a piece
 * arrives with its neighbours' bytes around it, and is found behind the address
 * that was given by what its offset lacks to a block. Where the file system
 * refuses direct reads the same call reads through the page cache.
 *
 * Owns a descriptor of its own. Reading: any number of threads. */
#ifndef BASE_DIRECT_FILE_H
#define BASE_DIRECT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"

#define DIRECT_BLOCK 4096u

typedef struct {
    int         fd;             /* through the page cache; -1: closed    */
    int         direct_fd;      /* past it; -1: refused                  */
    const char *name;           /* borrowed, for messages                */
} direct_file;

/* The file behind fd, which stays open and the caller's. */
ds4_status direct_file_open(direct_file *f, int fd, const char *name, ds4_error *err);
void       direct_file_close(direct_file *f);   /* a failed one too; a zeroed one owns nothing */

/* Room that a piece of n bytes needs wherever it lies in the file. */
size_t     direct_room(size_t n);

/* Where in its room a piece lies. */
static inline size_t direct_lead(uint64_t offset) { return (size_t)(offset % DIRECT_BLOCK); }

/* Room of n bytes that will be filled altogether: the system is asked for large pages,
 * which cost a fraction of the faults. */
void       direct_expect(uint8_t *room, size_t n);

/* n bytes from offset to room + direct_lead(offset). room is on a block's boundary and
 * direct_room(n) long. All n bytes or DS4_EIO. */
ds4_status direct_read(const direct_file *f, uint64_t offset, size_t n, uint8_t *room, ds4_error *err);

#endif
