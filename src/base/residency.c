#include "base/residency.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/status.h"

enum { PAGE = 4096 };           /* the smallest there are */

/* ---- bringing in ----------------------------------------------------------- */

static ds4_status lost(const char *path, uint64_t offset, ds4_error *err)
{
    return ds4_fail(err, DS4_EIO, "%s: byte %" PRIu64 " could not be read: the disk fails or the file became shorter",
                    path, offset);
}

#ifdef MADV_POPULATE_READ
/* Reads and maps in one call, and tells of a failing disk where a touch would end the
 * process. EINVAL: the kernel is older than that. */
static int populate(const uint8_t *data, uint64_t n)
{
    void *at = (void *)(uintptr_t)data;
    int failed;
    do failed = madvise(at, (size_t)n, MADV_POPULATE_READ);
    while (failed && (errno == EINTR || errno == EAGAIN));
    return failed ? errno : 0;
}
#else
static int populate(const uint8_t *data, uint64_t n)
{
    (void)data, (void)n;
    return EINVAL;
}
#endif

static void touch(const uint8_t *data, uint64_t n)
{
    madvise((void *)(uintptr_t)data, (size_t)n, MADV_WILLNEED);
    for (uint64_t at = 0; at < n; at += PAGE) (void)*(const volatile uint8_t *)(data + at);
}

ds4_status residency_bring_in(const uint8_t *data, uint64_t n, const char *path, uint64_t offset, ds4_error *err)
{
    madvise((void *)(uintptr_t)data, (size_t)n, MADV_WILLNEED);     /* all of it at once, then wait */
    const int e = populate(data, n);
    if (e == 0) return DS4_OK;
    if (e == ENOMEM) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it into", path);
    if (e == EINVAL) {
        touch(data, n);
        return DS4_OK;
    }
    uint64_t bad = 0;
    while (bad < n && populate(data + bad, min_u64(PAGE, n - bad)) == 0) bad += PAGE;
    return bad < n ? lost(path, offset + bad, err) : DS4_OK;
}

/* ---- huge pages -------------------------------------------------------------- */

bool residency_has_huge_pages(void)
{
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    char text[64] = { 0 };
    if (!f) return false;
    const bool read = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    return read && !strstr(text, "[never]");
}

uint64_t residency_huge_bytes(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[128];
    uint64_t kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "AnonHugePages: %" SCNu64 " kB", &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

ds4_status residency_empty(const uint8_t *data, uint64_t n, const char *path, ds4_error *err)
{
    void *at = mmap((void *)(uintptr_t)data, (size_t)n, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a copy: %s", path, strerror(errno));
#ifdef MADV_HUGEPAGE
    madvise(at, (size_t)n, MADV_HUGEPAGE);
#endif
    return DS4_OK;
}

/* What was read is dropped from the page cache at once: two copies would not fit. */
static void drop_cached(int fd, uint64_t offset, uint64_t n)
{
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
#else
    (void)fd, (void)offset, (void)n;
#endif
}

ds4_status residency_fill(const uint8_t *data, uint64_t n, int fd, const char *path, uint64_t offset, ds4_error *err)
{
    uint8_t *to = (uint8_t *)(uintptr_t)data;
    for (uint64_t got = 0; got < n; ) {
        const ssize_t r = pread(fd, to + got, (size_t)(n - got), (off_t)(offset + got));
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return lost(path, offset + got, err);
        got += (uint64_t)r;
    }
    drop_cached(fd, offset, n);
    return DS4_OK;
}

void residency_seal(const uint8_t *data, uint64_t n)
{
    mprotect((void *)(uintptr_t)data, (size_t)n, PROT_READ);
}

/* Whole pages alone, and others' beside them never: those would be read again at once. */
void residency_drop(const uint8_t *data, uint64_t n, int fd, uint64_t offset)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), lead = (page - offset % page) % page;
    if (n < lead + page) return;
    const uint64_t whole = (n - lead) / page * page;
    madvise((void *)(uintptr_t)(data + lead), (size_t)whole, MADV_DONTNEED);
    drop_cached(fd, offset + lead, whole);
}

/* ---- counting ------------------------------------------------------------------ */

/* The number behind a name that begins a line. */
static uint64_t named_number(const char *path, const char *name)
{
    FILE *f = fopen(path, "re");
    char line[256];
    const size_t len = strlen(name);
    uint64_t v = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, len) == 0 && sscanf(line + len, " %" SCNu64, &v) == 1) break;
    if (f) fclose(f);
    return v;
}

void residency_now(residency_counts *out)
{
    struct rusage r = { 0 };
    getrusage(RUSAGE_SELF, &r);
    *out = (residency_counts){
        .page_ins = (uint64_t)r.ru_majflt,
        .read_bytes = named_number("/proc/self/io", "read_bytes:"),
        .refaults = named_number("/proc/vmstat", "workingset_refault_file "),
    };
}

residency_counts residency_since(const residency_counts *before)
{
    residency_counts now;
    residency_now(&now);
    now.page_ins -= before->page_ins;
    now.read_bytes -= before->read_bytes;
    now.refaults -= before->refaults;
    return now;
}
