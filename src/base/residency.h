/* residency: where the bytes of a mapped file are, and bringing them in.
 *
 * A file that is mapped is read when it is touched. These functions read it before,
 * or put a copy into memory of its own in the mapping's place. Addresses begin a
 * page; path is for the message. Any thread. */
#ifndef BASE_RESIDENCY_H
#define BASE_RESIDENCY_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"

/* n bytes of the mapping, which begins at byte `offset` of the file, into memory
 * and into this process. DS4_EIO names the byte that the disk did not give. */
ds4_status residency_bring_in(const uint8_t *data, uint64_t n, const char *path, uint64_t offset, ds4_error *err);

/* Huge pages for memory that asks for them: does the system give any? */
bool residency_has_huge_pages(void);

/* Bytes of this process in anonymous huge pages; 0 where the system does not tell. */
uint64_t residency_huge_bytes(void);

/* Puts empty memory, in huge pages where possible, in the place of a mapping of n
 * bytes. It is filled with residency_fill, in any order, and then sealed against
 * writing. Unmapping it is as before. */
ds4_status residency_empty(const uint8_t *data, uint64_t n, const char *path, ds4_error *err);
ds4_status residency_fill(const uint8_t *data, uint64_t n, int fd, const char *path, uint64_t offset, ds4_error *err);
void       residency_seal(const uint8_t *data, uint64_t n);

/* n bytes of the mapping of a file, from byte `offset` of it, need not stay in memory; touched again, they are read
 * again. */
void       residency_drop(const uint8_t *data, uint64_t n, int fd, uint64_t offset);

/* Pages this process waited for. Differences of two readings mean something. */
typedef struct {
    uint64_t page_ins;          /* page faults that waited for a disk                          */
    uint64_t read_bytes;        /* from disks, for this process                                */
    uint64_t refaults;          /* file pages read again soon after they were dropped; of the
                                   whole system or control group                               */
} residency_counts;
void             residency_now(residency_counts *out);
residency_counts residency_since(const residency_counts *before);

#endif
