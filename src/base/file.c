#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"

/* One system call's refusal as a status; errno as it stands. */
static ds4_status refused(ds4_error *err, const char *path, const char *what)
{
    const int e = errno;
    if (!*path) path = "\"\"";
    if (e == ENOENT || e == ENOTDIR)
        return ds4_fail(err, DS4_ENOTFOUND, "%s: no such file or directory", path);
    if (e == ENOMEM)
        return ds4_fail(err, DS4_EMEMORY, "%s: %s: not enough memory", path, what);
    return ds4_fail(err, DS4_EIO, "%s: %s: %s", path, what, strerror(e));
}

/* ---- mapping ----------------------------------------------------------- */

static ds4_status map_fd(file_map *m, const char *path, ds4_error *err)
{
    struct stat before, after;
    if (fstat(m->fd, &before)) return refused(err, path, "reading its size");
    if (S_ISDIR(before.st_mode)) return ds4_fail(err, DS4_EIO, "%s: is a directory", path);
    if (!S_ISREG(before.st_mode)) return ds4_fail(err, DS4_EIO, "%s: is not a regular file", path);
    if ((uint64_t)before.st_size > SIZE_MAX)
        return ds4_fail(err, DS4_EMEMORY, "%s: larger than this machine's address space", path);
    if (before.st_size == 0) return DS4_OK;

    const size_t size = (size_t)before.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, m->fd, 0);
    if (data == MAP_FAILED) return refused(err, path, "mapping it");
    m->data = data;
    m->size = size;

    /* Pages beyond the end of a file that shrinks would end the process. */
    if (fstat(m->fd, &after)) return refused(err, path, "reading its size");
    if (after.st_size < before.st_size)
        return ds4_fail(err, DS4_EIO, "%s: became shorter while it was opened", path);
    return DS4_OK;
}

/* Never 0..2, so that a zeroed object owns no descriptor and a program started
 * without standard streams does not print into its data. */
static int open_high(const char *path, int flags, mode_t mode)
{
    const int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    if (fd < 0 || fd > 2) return fd;
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    const int e = errno;
    close(fd);
    errno = e;
    return high;
}

ds4_status file_map_open(file_map *m, const char *path, ds4_error *err)
{
    /* NONBLOCK: a pipe without a writer is refused instead of waited for. */
    *m = (file_map){ .fd = open_high(path, O_RDONLY | O_NONBLOCK, 0) };
    if (m->fd < 0) return refused(err, path, "opening it");

    const ds4_status st = map_fd(m, path, err);
    if (st) file_map_close(m);
    return st;
}

void file_map_close(file_map *m)
{
    if (!m) return;
    if (m->data) munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    if (m->fd > 0) close(m->fd);
    *m = (file_map){ .fd = -1 };
}

/* ---- reading whole ----------------------------------------------------- */

static ds4_status read_stream(int fd, const char *name, bytes *b, ds4_error *err)
{
    for (;;) {
        /* One byte of room beyond max tells a full buffer from a longer stream. */
        const size_t room = min_size(b->max - b->len, b->len < 4096 ? 4096 : b->len);
        if (room == 0) return ds4_fail(err, DS4_EFULL, "%s: longer than %zu bytes", name, b->max - 1);
        if (!bytes_reserve(b, room)) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it", name);

        const ssize_t got = read(fd, b->data + b->len, room);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refused(err, name, "reading it");
        if (got == 0) return DS4_OK;
        b->len += (size_t)got;
        b->data[b->len] = 0;
    }
}

ds4_status file_read_all(const char *path, size_t max, char **data, size_t *len, ds4_error *err)
{
    const bool input = strcmp(path, "-") == 0;
    const char *name = input ? "standard input" : path;
    *data = NULL;
    *len = 0;

    const int fd = input ? 0 : open_high(path, O_RDONLY, 0);
    if (fd < 0) return refused(err, name, "opening it");

    bytes b;
    bytes_init(&b, max < SIZE_MAX ? max + 1 : max);
    ds4_status st = read_stream(fd, name, &b, err);
    if (!input) close(fd);

    if (st == DS4_OK) {
        *len = b.len;
        *data = bytes_take(&b);
        if (!*data) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it", name);
    }
    bytes_free(&b);
    return st;
}

ds4_status file_read_exact(int fd, void *data, size_t n, const char *name, ds4_error *err)
{
    char *at = data;
    while (n) {
        const ssize_t got = read(fd, at, min_size(n, 1u << 30));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refused(err, name, "reading it");
        if (got == 0) return ds4_fail(err, DS4_EIO, "%s: ends %zu bytes too early", name, n);
        at += got;
        n -= (size_t)got;
    }
    return DS4_OK;
}

/* ---- writing ----------------------------------------------------------- */

ds4_status file_write_all(int fd, const void *data, size_t n, const char *name, ds4_error *err)
{
    const char *at = data;
    while (n) {
        const ssize_t put = write(fd, at, min_size(n, 1u << 30));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return refused(err, name, "writing it");
        at += put;
        n -= (size_t)put;
    }
    return DS4_OK;
}

static ds4_status exists_already(const char *path, ds4_error *err)
{
    return ds4_fail(err, DS4_EARG, "%s: exists already", path);
}

/* Where the file will lie: behind a symbolic link, if path is one. Also tells
 * the mode an existing file has. */
static ds4_status target_of(file_replace *f, const char *path, mode_t *mode, ds4_error *err)
{
    struct stat s;
    const bool exists = stat(path, &s) == 0;
    if (!*path) return refused(err, path, "opening it");
    if (exists && !f->overwrite) return exists_already(path, err);
    if (exists && !S_ISREG(s.st_mode))
        return ds4_fail(err, DS4_EARG, "%s: is not a regular file", path);

    *mode = exists ? s.st_mode & 0777 : 0;
    f->path = exists ? realpath(path, NULL) : strdup(path);
    if (!f->path && exists) return refused(err, path, "resolving its name");
    if (!f->path) return ds4_fail(err, DS4_EMEMORY, "%s: not enough memory", path);
    return DS4_OK;
}

/* The process id and the time make a name that nobody else picks; EXCL is sure. */
static ds4_status open_temp(file_replace *f, ds4_error *err)
{
    const size_t size = strlen(f->path) + 48;
    f->temp_path = malloc(size);
    if (!f->temp_path) return ds4_fail(err, DS4_EMEMORY, "%s: not enough memory", f->path);

    for (int tries = 0; tries < 100; tries++) {
        snprintf(f->temp_path, size, "%s.%ld-%llx.tmp", f->path, (long)getpid(),
                 (unsigned long long)clock_ns());
        f->fd = open_high(f->temp_path, O_RDWR | O_CREAT | O_EXCL, 0666);
        if (f->fd >= 0) return DS4_OK;
        if (errno != EEXIST) break;
    }
    return refused(err, f->path, "creating it");
}

static void forget(file_replace *f)
{
    if (f->fd > 0) close(f->fd);
    free(f->path);
    free(f->temp_path);
    *f = (file_replace){ .fd = -1 };
}

ds4_status file_replace_open(file_replace *f, const char *path, bool overwrite, ds4_error *err)
{
    *f = (file_replace){ .fd = -1, .overwrite = overwrite };
    mode_t mode = 0;
    ds4_status st = target_of(f, path, &mode, err);
    if (st == DS4_OK) st = open_temp(f, err);
    if (st) {
        forget(f);
        return st;
    }
    if (mode) (void)fchmod(f->fd, mode);    /* a kindness; the file is good without */
    return DS4_OK;
}

/* A new name must not replace a file that appeared meanwhile; link refuses
 * that, where the file system has links. */
static ds4_status give_name(file_replace *f, ds4_error *err)
{
    if (!f->overwrite && link(f->temp_path, f->path) == 0) {
        unlink(f->temp_path);
        return DS4_OK;
    }
    if (!f->overwrite && errno == EEXIST) return exists_already(f->path, err);
    if (rename(f->temp_path, f->path)) return refused(err, f->path, "renaming it");
    return DS4_OK;
}

/* The new name reaches the disk with its folder. Some file systems refuse to
 * sync a folder; the rename has happened then and the data is safe. */
static void sync_folder(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    const int fd = open_high(slash ? folder : ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

ds4_status file_replace_commit(file_replace *f, ds4_error *err)
{
    ds4_status st = DS4_OK;
    if (fsync(f->fd)) st = refused(err, f->path, "flushing it to disk");
    const int closed = close(f->fd);
    f->fd = -1;
    if (st == DS4_OK && closed) st = refused(err, f->path, "closing it");
    if (st == DS4_OK) st = give_name(f, err);

    if (st == DS4_OK) sync_folder(f->path);
    else unlink(f->temp_path);
    forget(f);
    return st;
}

void file_replace_abort(file_replace *f)
{
    if (!f) return;
    if (f->temp_path) unlink(f->temp_path);
    forget(f);
}
