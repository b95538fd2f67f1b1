#include "base/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A file that holds one number ("max" is none). */
static bool read_number(const char *path, uint64_t *out)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    const bool ok = fscanf(f, "%" SCNu64, out) == 1;
    fclose(f);
    return ok;
}

static uint64_t system_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return 0;
    char line[128];
    uint64_t kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}

/* What the cgroup still allows: beyond `high` it is slowed down, beyond `max` ended. Page cache counts as used there but can be had
 * back, so only the files' inactive part is added again. */
static uint64_t cgroup_available(void)
{
    uint64_t limit, high, used, inactive = 0;
    if (!read_number("/sys/fs/cgroup/memory.max", &limit)) limit = UINT64_MAX;
    if (read_number("/sys/fs/cgroup/memory.high", &high) && high < limit) limit = high;
    if (limit == UINT64_MAX) return limit;
    if (!read_number("/sys/fs/cgroup/memory.current", &used)) return UINT64_MAX;
    FILE *f = fopen("/sys/fs/cgroup/memory.stat", "re");
    if (f) {
        char line[128];
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "inactive_file %" SCNu64, &inactive) == 1) break;
        fclose(f);
    }
    const uint64_t kept = used > inactive ? used - inactive : 0;
    return limit > kept ? limit - kept : 0;
}

uint64_t memory_available(void)
{
    const uint64_t system = system_available(), group = cgroup_available();
    return system < group ? system : group;
}
