#include "base/direct_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/status.h"

#define MOST_AT_ONCE ((size_t)1 << 30)      /* systems cut longer reads, not always to a block */

#ifdef O_DIRECT
/* Another description of the same file: no flag of the caller's descriptor changes, and
 * a file that was renamed or replaced meanwhile is not mistaken for it. */
static int open_direct(int fd)
{
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return open(self, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY);
}
#else
static int open_direct(int fd)
{
    (void)fd;
    return -1;
}
#endif

ds4_status direct_file_open(direct_file *f, int fd, const char *name, ds4_error *err)
{
    *f = (direct_file){ .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), .direct_fd = -1, .name = name };
    if (f->fd < 0) return ds4_fail(err, DS4_EIO, "%s: opening it again: %s", name, strerror(errno));
    f->direct_fd = open_direct(fd);
    return DS4_OK;
}

void direct_file_close(direct_file *f)
{
    if (f->fd > 0) close(f->fd);
    if (f->fd > 0 && f->direct_fd > 0) close(f->direct_fd);
    *f = (direct_file){ .fd = -1, .direct_fd = -1 };
}

size_t direct_room(size_t n)
{
    return (n + 2 * DIRECT_BLOCK - 2) / DIRECT_BLOCK * DIRECT_BLOCK;
}

#ifdef MADV_HUGEPAGE
void direct_expect(uint8_t *room, size_t n)
{
    (void)madvise(room, n, MADV_HUGEPAGE);          /* small pages do as well */
}
#else
void direct_expect(uint8_t *room, size_t n)
{
    (void)room, (void)n;
}
#endif

/* Bytes read of n: fewer at the end of the file, after an error (its errno in *error) or
 * where a read does not end on a multiple of `unit`. */
static size_t read_some(int fd, uint64_t from, size_t n, uint8_t *to, size_t unit, int *error)
{
    size_t got = 0;
    while (got < n && got % unit == 0) {
        const ssize_t now = pread(fd, to + got, min_size(n - got, MOST_AT_ONCE), (off_t)(from + got));
        if (now < 0 && errno == EINTR) continue;
        if (now < 0) *error = errno;
        if (now <= 0) break;
        got += (size_t)now;
    }
    return got;
}

ds4_status direct_read(const direct_file *f, uint64_t offset, size_t n, uint8_t *room, ds4_error *err)
{
    const uint64_t from = offset - direct_lead(offset);
    const size_t wanted = direct_lead(offset) + n;
    const size_t blocks = (wanted + DIRECT_BLOCK - 1) / DIRECT_BLOCK * DIRECT_BLOCK;
    size_t got = 0;
    int error = 0;

    if (f->direct_fd >= 0) got = read_some(f->direct_fd, from, blocks, room, DIRECT_BLOCK, &error);
    if (error == EINVAL) error = 0;                 /* refused after all; the page cache takes any read */
    if (!error && got < wanted) got += read_some(f->fd, from + got, wanted - got, room + got, 1, &error);

    if (error)
        return ds4_fail(err, DS4_EIO, "%s: reading %zu bytes at %llu: %s", f->name, n, (unsigned long long)offset,
                        strerror(error));
    if (got < wanted)
        return ds4_fail(err, DS4_EIO, "%s: ends at byte %llu, %zu bytes too early; it became shorter after it was opened",
                        f->name, (unsigned long long)(from + got), wanted - got);
    return DS4_OK;
}
