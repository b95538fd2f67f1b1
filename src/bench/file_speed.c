#include "bench/file_speed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status.h"
#include "bench/read_speed.h"

enum { RANDOM_PIECE = 4 << 20, MOST_PIECES = FILE_SPEED_BYTES / RANDOM_PIECE };

typedef struct {
    const char *path;
    int         fd;
    uint64_t    first;          /* of the part that is used, a multiple of the page */
    uint64_t    bytes;
    uint8_t    *buffer;         /* [RANDOM_PIECE] */
} cold_file;

/* 1: some page is in memory, 0: none, -1: the system does not tell. */
static int in_memory(const cold_file *f)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (size_t)(f->bytes + page - 1) / page;
    void *map = mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, f->fd, (off_t)f->first);
    if (map == MAP_FAILED) return -1;
    int found = -1;
#ifdef __linux__
    unsigned char *there = malloc(n);
    if (there && mincore(map, f->bytes, there) == 0) {
        found = 0;
        for (size_t i = 0; i < n && !found; i++) found = there[i] & 1;
    }
    free(there);
#else
    (void)n;
#endif
    munmap(map, f->bytes);
    return found;
}

static bool evict(const cold_file *f)
{
#ifdef POSIX_FADV_DONTNEED
    fdatasync(f->fd);
    posix_fadvise(f->fd, (off_t)f->first, (off_t)f->bytes, POSIX_FADV_DONTNEED);
#endif
    return in_memory(f) == 0;
}

static ds4_status read_piece(const cold_file *f, uint64_t at, ds4_error *err)
{
    uint64_t left = f->bytes - at < RANDOM_PIECE ? f->bytes - at : RANDOM_PIECE;
    while (left > 0) {
        const ssize_t n = pread(f->fd, f->buffer, (size_t)left, (off_t)(f->first + at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return ds4_fail(err, DS4_EIO, "%.200s: %s", f->path, n ? strerror(errno) : "shorter than it was");
        at += (uint64_t)n;
        left -= (uint64_t)n;
    }
    return DS4_OK;
}

static ds4_status read_cold(const cold_file *f, bool shuffled, double *gbs, ds4_error *err)
{
    int order[MOST_PIECES];
    const int n = (int)((f->bytes + RANDOM_PIECE - 1) / RANDOM_PIECE);
    random_stream r;
    random_seed(&r, 1);
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0 && shuffled; i--) {
        const int j = (int)random_below(&r, (uint64_t)i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    ds4_status st = DS4_OK;
    const uint64_t start = clock_ns();
    for (int i = 0; i < n && !st; i++) st = read_piece(f, (uint64_t)order[i] * RANDOM_PIECE, err);
    *gbs = (double)f->bytes / (double)(clock_ns() - start);
    return st;
}

static ds4_status read_mapped(const cold_file *f, int n_threads, stats *out, ds4_error *err)
{
    pool *threads;
    void *map = mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, f->fd, (off_t)f->first);
    if (map == MAP_FAILED) return ds4_fail(err, DS4_EIO, "%.200s: %s", f->path, strerror(errno));
    const ds4_status st = pool_open(&threads, n_threads, err);
    if (!st) read_speed_of(map, f->bytes, threads, out);     /* its first pass fetches what is missing */
    pool_close(threads);
    munmap(map, f->bytes);
    return st;
}

ds4_status file_speed_measure(const char *path, int n_threads, file_speed *out, ds4_error *err)
{
    struct stat s;
    cold_file f = { .path = path, .fd = open(path, O_RDONLY | O_CLOEXEC) };
    *out = (file_speed){ 0 };
    if (f.fd < 0) return ds4_fail(err, DS4_EIO, "%.200s: %s", path, strerror(errno));
    ds4_status st = DS4_OK;
    if (fstat(f.fd, &s) || s.st_size <= 0) st = ds4_fail(err, DS4_EIO, "%.200s: no size is known", path);
    f.buffer = malloc(RANDOM_PIECE);
    if (!st && !f.buffer) st = ds4_fail(err, DS4_EMEMORY, "no memory to read %.200s", path);
    if (!st) {
        const uint64_t size = (uint64_t)s.st_size, page = (uint64_t)sysconf(_SC_PAGESIZE);
        f.first = size > FILE_SPEED_BYTES ? (size - FILE_SPEED_BYTES + page - 1) / page * page : 0;
        out->bytes = f.bytes = size - f.first;
        out->verified = evict(&f);
        st = read_cold(&f, false, &out->sequential, err);
    }
    if (!st) {
        out->verified &= evict(&f);
        st = read_cold(&f, true, &out->random, err);
    }
    if (!st) st = read_mapped(&f, n_threads, &out->mapped, err);
    free(f.buffer);
    close(f.fd);
    return st;
}

ds4_status file_speed_make(const char *path, ds4_error *err)
{
    file_replace f = { .fd = -1 };
    uint64_t *piece = malloc(RANDOM_PIECE);
    ds4_status st = piece ? file_replace_open(&f, path, true, err) : ds4_fail(err, DS4_EMEMORY, "no memory for a file");
    random_stream r;
    random_seed(&r, 1);
    for (int i = 0; i < MOST_PIECES && !st; i++) {      /* random, so that no file system compresses it */
        for (size_t k = 0; k < RANDOM_PIECE / sizeof *piece; k++) piece[k] = random_u64(&r);
        st = file_write_all(f.fd, piece, RANDOM_PIECE, path, err);
    }
    if (!st) st = file_replace_commit(&f, err);
    else     file_replace_abort(&f);
    free(piece);
    return st;
}
