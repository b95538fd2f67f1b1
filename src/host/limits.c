/* limits: what this process may take of the machine. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/checked.h"
#include "host/machine.h"
#include "host/text_file.h"

static void add(host_readings *r, const char *name, const char *value)
{
    if (r->n == HOST_READINGS) return;
    host_reading *x = &r->reading[r->n++];
    x->group = "limits";
    snprintf(x->name, sizeof x->name, "%s", name);
    snprintf(x->value, sizeof x->value, "%s", value);
}

/* A parent's limit holds for its children, so the walk goes up until a group
 * sets one. Inside a container the path may be the host's: what is absent says
 * nothing. */
static bool group_value(const char *root, const char *group, const char *file, char *out, size_t size)
{
    char folder[512], path[640];
    bool found = false;
    snprintf(folder, sizeof folder, "%s", group);
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", folder, file);
        if (text_file_line(root, path, out, size)) {
            found = true;
            if (strncmp(out, "max", 3) != 0) return true;
        }
        char *slash = strrchr(folder, '/');
        if (!slash) return found;
        *slash = 0;
    }
}

static void read_groups(host_readings *r, const char *root)
{
    static const char *const files[] = { "memory.max", "memory.high", "memory.swap.max", "cpu.max",
                                         "cpuset.cpus.effective" };
    char group[512], value[96];
    if (!text_file_field(root, "/proc/self/cgroup", "0:", group, sizeof group)) {
        host_note_missing(r, "cgroup", "no control group of version 2 holds this process", "");
        return;
    }
    if (strcmp(group, "/") == 0) *group = 0;
    int found = 0;
    for (size_t i = 0; i < countof(files); i++) {
        if (!group_value(root, group, files[i], value, sizeof value)) continue;
        add(r, files[i], value);
        found++;
    }
    if (!found) host_note_missing(r, "cgroup", "/sys/fs/cgroup shows no limits of this process",
                                  "mount the cgroup2 file system there");
}

static void read_rlimits(host_readings *r)
{
    static const struct { const char *name; int resource; } limits[] = {
        { "rlimit memlock", RLIMIT_MEMLOCK }, { "rlimit as", RLIMIT_AS }, { "rlimit data", RLIMIT_DATA },
    };
    for (size_t i = 0; i < countof(limits); i++) {
        struct rlimit l;
        char value[32] = "unlimited";
        if (getrlimit(limits[i].resource, &l)) continue;
        if (l.rlim_cur != RLIM_INFINITY) snprintf(value, sizeof value, "%" PRIu64 " bytes", (uint64_t)l.rlim_cur);
        add(r, limits[i].name, value);
    }
}

static void read_swaps(host_readings *r, const char *root)
{
    char value[96];
    if (text_file_field(root, "/proc/meminfo", "SwapTotal", value, sizeof value)) add(r, "swap", value);
    else host_note_missing(r, "swap", "/proc/meminfo does not tell", "");
    if (text_file_line(root, "/sys/module/zswap/parameters/enabled", value, sizeof value)) add(r, "zswap", value);
    if (text_file_field(root, "/proc/swaps", "/dev/zram", value, sizeof value)) add(r, "zram", value);
}

void host_read_limits(host_readings *r, const char *root)
{
    static const struct { const char *name, *path; } files[] = {
        { "overcommit", "/proc/sys/vm/overcommit_memory" },
        { "huge pages", "/sys/kernel/mm/transparent_hugepage/enabled" },
    };
    char value[96];
    read_groups(r, root);
    read_rlimits(r);
    for (size_t i = 0; i < countof(files); i++) {
        if (text_file_line(root, files[i].path, value, sizeof value)) add(r, files[i].name, value);
        else host_note_missing(r, files[i].name, "this system does not show it", "");
    }
    read_swaps(r, root);
}
