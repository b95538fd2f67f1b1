#include "base/cpus.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/file.h"

enum { PATH_BYTES = 1024 + 64, FILE_BYTES = 1 << 16 };

/* A small system file's text (caller frees), or NULL. */
static char *read_text(const char *path)
{
    char *text;
    size_t n;
    return file_read_all(path, FILE_BYTES, &text, &n, NULL) ? NULL : text;
}

/* ---- cores ------------------------------------------------------------- */

/* Is any member of a list such as "0-3,8" a processor among cpu[0..n)? */
static bool list_meets(const char *list, const int *cpu, int n)
{
    for (const char *at = list; *at >= '0' && *at <= '9';) {
        char *end;
        const long first = strtol(at, &end, 10);
        const long last = *end == '-' ? strtol(end + 1, &end, 10) : first;
        for (int i = 0; i < n; i++)
            if (cpu[i] >= first && cpu[i] <= last) return true;
        at = *end == ',' ? end + 1 : end;
    }
    return false;
}

/* Relative speed as the system rates it; 0: it does not. */
static int capacity(const char *root, int cpu)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/cpu_capacity", root, cpu);
    char *text = read_text(path);
    const int c = text ? atoi(text) : 0;
    free(text);
    return c;
}

int cpus_cores(const char *root, const int *cpu, int n)
{
    int cores = 0, largest = 0;
    for (int i = 0; i < n; i++) {
        const int c = capacity(root, cpu[i]);
        if (c > largest) largest = c;
    }
    for (int i = 0; i < n; i++) {
        if (2 * capacity(root, cpu[i]) < largest) continue;
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 root, cpu[i]);
        char *siblings = read_text(path);
        if (!siblings || !list_meets(siblings, cpu, i)) cores++;
        free(siblings);
    }
    return cores;
}

/* ---- quota ------------------------------------------------------------- */

/* The smaller of two limits, where 0 is none. */
static int tighter(int a, int b)
{
    if (!a || !b) return a ? a : b;
    return a < b ? a : b;
}

static int processors(long long quota, long long period)
{
    if (quota <= 0 || period <= 0) return 0;
    const long long n = quota / period + (quota % period >= (period + 1) / 2);
    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (int)n;
}

/* "200000 100000" or "max 100000" */
static int quota_v2(const char *folder)
{
    char *text = cgroup_read(folder, "cpu.max");
    long long quota = 0, period = 0;
    if (text && sscanf(text, "%lld %lld", &quota, &period) != 2) quota = 0;
    free(text);
    return processors(quota, period);
}

static long long read_number(const char *folder, const char *name)
{
    char *text = cgroup_read(folder, name);
    const long long v = text ? strtoll(text, NULL, 10) : 0;
    free(text);
    return v;
}

static int quota_v1(const char *folder)
{
    return processors(read_number(folder, "cpu.cfs_quota_us"), read_number(folder, "cpu.cfs_period_us"));
}

static void tighten(void *ctx, const char *folder, bool v2)
{
    int *limit = ctx;
    *limit = tighter(*limit, v2 ? quota_v2(folder) : quota_v1(folder));
}

int cpus_quota(const char *root)
{
    int limit = 0;
    cgroup_each(root, "cpu", tighten, &limit);
    return limit;
}

/* ---- the system's own answers ------------------------------------------ */

#ifdef __linux__
int cpus_allowed(int *cpu, int cap)
{
    enum { MOST = 8192 };
    cpu_set_t *set = CPU_ALLOC(MOST);
    const size_t size = CPU_ALLOC_SIZE(MOST);
    int n = 0;
    if (set && sched_getaffinity(0, size, set) == 0)
        for (int i = 0; i < MOST && n < cap; i++)
            if (CPU_ISSET_S(i, size, set)) cpu[n++] = i;
    CPU_FREE(set);
    return n;
}
#else
int cpus_allowed(int *cpu, int cap)
{
    (void)cpu, (void)cap;
    return 0;
}
#endif

int cpus_online(void)
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (int)n;
}

/* "ran waited turns", in nanoseconds, of the thread that opens it. */
int cpus_clock_open(void)
{
    return open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

void cpus_clock_read(int clock, cpus_time *t)
{
    char text[96];
    cpus_time now;
    const ssize_t n = clock < 0 ? -1 : pread(clock, text, sizeof text - 1, 0);
    if (n <= 0) return;
    text[n] = 0;
    if (sscanf(text, "%" SCNu64 " %" SCNu64, &now.ran_ns, &now.waited_ns) == 2) *t = now;
}

void cpus_clock_close(int clock)
{
    if (clock >= 0) close(clock);
}
