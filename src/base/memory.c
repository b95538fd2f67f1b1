#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/checked.h"

/* The number behind a name that begins a line; 0: none. */
static uint64_t named_number(const char *text, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, n) == 0) return strtoull(at + n, NULL, 10);
    }
    return 0;
}

static uint64_t system_available(const char *root)
{
    char proc[1024];
    snprintf(proc, sizeof proc, "%s/proc", root);
    char *text = cgroup_read(proc, "meminfo");
    const uint64_t kib = named_number(text, "MemAvailable:");
    free(text);
    return kib * 1024;
}

/* A file of one number; `otherwise` where it is not there or "max". */
static uint64_t read_number(const char *folder, const char *name, uint64_t otherwise)
{
    uint64_t v = otherwise;
    char *text = cgroup_read(folder, name);
    if (text && sscanf(text, "%" SCNu64, &v) != 1) v = otherwise;
    free(text);
    return v;
}

static uint64_t file_pages(const char *folder, bool v2)
{
    char *text = cgroup_read(folder, "memory.stat");
    const uint64_t n = named_number(text, v2 ? "inactive_file " : "total_inactive_file ")
                     + named_number(text, v2 ? "active_file " : "total_active_file ");
    free(text);
    return n;
}

static void cut(void *ctx, const char *folder, bool v2)
{
    uint64_t *available = ctx;
    const uint64_t limit = v2 ? min_u64(read_number(folder, "memory.max", UINT64_MAX),
                                        read_number(folder, "memory.high", UINT64_MAX))
                              : read_number(folder, "memory.limit_in_bytes", UINT64_MAX);
    if (limit >= UINT64_MAX >> 1) return;           /* v1 says "none" with a number of that size */
    const uint64_t used = read_number(folder, v2 ? "memory.current" : "memory.usage_in_bytes", 0);
    const uint64_t files = file_pages(folder, v2), kept = used > files ? used - files : 0;
    *available = min_u64(*available, limit > kept ? limit - kept : 1);
}

uint64_t memory_available_below(const char *root)
{
    uint64_t available = system_available(root);
    if (available) cgroup_each(root, "memory", cut, &available);
    return available;
}

uint64_t memory_available(void)
{
    return memory_available_below("");
}
