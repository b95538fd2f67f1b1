#include "host/usage.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpus.h"

static uint64_t time_ns(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000u;
}

/* user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait. */
static uint64_t busy_ns(void)
{
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    uint64_t t[8] = { 0 };
    const int n = fscanf(f, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
                         &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    fclose(f);
    const long hz = sysconf(_SC_CLK_TCK);
    if (n < 7 || hz <= 0) return 0;
    return (t[0] + t[1] + t[2] + t[5] + t[6] + t[7]) * (1000000000u / (uint64_t)hz);
}

static uint64_t swapped_in(void)
{
    FILE *f = fopen("/proc/vmstat", "re");
    if (!f) return 0;
    char line[128];
    uint64_t pages = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "pswpin %" SCNu64, &pages) == 1) break;
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The second number of /proc/self/statm. */
static uint64_t resident(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    uint64_t pages = 0;
    const int n = fscanf(f, "%*s %" SCNu64, &pages);
    fclose(f);
    return n == 1 ? pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

void host_usage_read(host_usage *u)
{
    struct rusage r;
    *u = (host_usage){ .wall_ns = clock_ns(), .machine_ns = busy_ns(), .n_cpus = cpus_online(),
                       .swapped_in = swapped_in(), .rss = resident() };
    if (getrusage(RUSAGE_SELF, &r)) return;
    u->process_ns = time_ns(r.ru_utime) + time_ns(r.ru_stime);
    u->major_faults = (uint64_t)r.ru_majflt;
}

double host_usage_others(const host_usage *from, const host_usage *to)
{
    const double wall = (double)(to->wall_ns - from->wall_ns) * to->n_cpus;
    if (!to->machine_ns || wall <= 0) return -1;
    const double others = (double)(to->machine_ns - from->machine_ns) - (double)(to->process_ns - from->process_ns);
    return others <= 0 ? 0 : others >= wall ? 1 : others / wall;
}
