#include "host/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/memory.h"
#include "host/text_file.h"

void host_note_missing(host_readings *r, const char *name, const char *why, const char *remedy)
{
    if (r->n_missing == HOST_MISSING) return;
    host_missing *m = &r->missing[r->n_missing++];
    snprintf(m->name, sizeof m->name, "%s", name);
    snprintf(m->why, sizeof m->why, "%s", why);
    m->remedy = remedy;
}

/* "1024K" */
static uint64_t size_of(const char *text)
{
    char *end;
    const uint64_t n = strtoull(text, &end, 10);
    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : *end == 'G' ? n << 30 : n;
}

static void read_caches(host_machine *m, const char *root)
{
    for (int i = 0; i < 8; i++) {
        char path[96], level[16], type[32], size[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (!text_file_line(root, path, level, sizeof level)) return;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
        if (!text_file_line(root, path, type, sizeof type) || strcmp(type, "Instruction") == 0) continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        if (!text_file_line(root, path, size, sizeof size)) continue;
        uint64_t *const at[] = { &m->l1d_bytes, &m->l2_bytes, &m->l3_bytes };
        if (*level >= '1' && *level <= '3') *at[*level - '1'] = size_of(size);
    }
}

void host_machine_read(host_machine *m, const char *root)
{
    enum { MOST = 1024 };
    int cpu[MOST];
    struct utsname u;
    *m = (host_machine){ .cpu = "unknown processor", .os = "unknown system" };
    static const char *const keys[] = { "model name", "Model", "Hardware", "CPU part" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (text_file_field(root, "/proc/cpuinfo", keys[i], m->cpu, sizeof m->cpu)) break;
    if (uname(&u) == 0) {
        snprintf(m->os, sizeof m->os, "%.40s %.60s %.40s", u.sysname, u.release, u.machine);
        snprintf(m->release, sizeof m->release, "%.95s", u.release);
    }
    m->n_cpus = cpus_online();
    m->n_allowed = cpus_allowed(cpu, MOST);
    m->n_cores = m->n_allowed ? cpus_cores(root, cpu, m->n_allowed) : 0;
    m->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    m->available_bytes = memory_available();
    read_caches(m, root);
}
