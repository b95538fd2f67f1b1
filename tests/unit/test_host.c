/* What a machine tells about itself, read from folders that look like one. */
#include "host/machine.h"

#include <stdlib.h>
#include <string.h>

#include "host/usage.h"
#include "runner.h"
#include "tree.h"

static const char *value_of(const host_readings *r, const char *name)
{
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->reading[i].name, name) == 0) return r->reading[i].value;
    return "";
}

static bool is_missing(const host_readings *r, const char *name)
{
    for (int i = 0; i < r->n_missing; i++)
        if (strcmp(r->missing[i].name, name) == 0) return *r->missing[i].why != 0;
    return false;
}

TEST(a_parents_limit_is_told_when_the_group_has_none)
{
    const char *root = tree_root("groups");
    host_readings r = { 0 };
    tree_put(root, "proc/self/cgroup", "0::/user/job\n");
    tree_put(root, "sys/fs/cgroup/user/job/memory.max", "max\n");
    tree_put(root, "sys/fs/cgroup/user/memory.max", "8589934592\n");
    tree_put(root, "sys/fs/cgroup/user/job/memory.high", "max\n");
    tree_put(root, "sys/fs/cgroup/user/job/cpu.max", "50000 100000\n");
    tree_put(root, "sys/fs/cgroup/user/cpu.max", "max 100000\n");
    tree_put(root, "proc/sys/vm/overcommit_memory", "1\n");
    tree_put(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    tree_put(root, "proc/meminfo", "MemTotal:  100 kB\nSwapTotal:       2048 kB\n");
    tree_put(root, "sys/module/zswap/parameters/enabled", "Y\n");
    host_read_limits(&r, root);
    EXPECT_TEXT(value_of(&r, "memory.max"), "8589934592");
    EXPECT_TEXT(value_of(&r, "memory.high"), "max");
    EXPECT_TEXT(value_of(&r, "cpu.max"), "50000 100000");
    EXPECT_TEXT(value_of(&r, "overcommit"), "1");
    EXPECT_TEXT(value_of(&r, "huge pages"), "always [madvise] never");
    EXPECT_TEXT(value_of(&r, "swap"), "2048 kB");
    EXPECT_TEXT(value_of(&r, "zswap"), "Y");
    EXPECT_INT(r.n_missing, 0);
}

TEST(what_is_absent_is_listed_with_a_reason)
{
    const char *root = tree_root("empty");
    host_readings r = { 0 };
    host_read_limits(&r, root);
    host_read_clock(&r, root);
    host_read_heat(&r, root);
    EXPECT(is_missing(&r, "cgroup"));
    EXPECT(is_missing(&r, "swap"));
    EXPECT(is_missing(&r, "overcommit"));
    EXPECT(is_missing(&r, "clock"));
    EXPECT(is_missing(&r, "heat"));
    EXPECT(is_missing(&r, "power source"));
}

TEST(clock_and_heat_have_units)
{
    const char *root = tree_root("laptop");
    host_readings r = { 0 };
    tree_put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2100000\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3700000\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    tree_put(root, "sys/class/thermal/thermal_zone0/temp", "48500\n");
    tree_put(root, "sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n");
    tree_put(root, "sys/class/power_supply/AC/online", "0\n");
    host_read_clock(&r, root);
    host_read_heat(&r, root);
    EXPECT_TEXT(value_of(&r, "clock now"), "2100 MHz");
    EXPECT_TEXT(value_of(&r, "clock most"), "3700 MHz");
    EXPECT_TEXT(value_of(&r, "governor"), "powersave");
    EXPECT_TEXT(value_of(&r, "x86_pkg_temp"), "48.5 C");
    EXPECT_TEXT(value_of(&r, "power source"), "battery");
    EXPECT(!is_missing(&r, "clock"));
}

TEST(processor_and_caches_come_from_the_system)
{
    const char *root = tree_root("processor");
    host_machine m;
    tree_put(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Some Processor 9000\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index0/level", "1\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index0/size", "32K\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index1/level", "1\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index1/type", "Instruction\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index1/size", "64K\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index2/level", "3\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index2/type", "Unified\n");
    tree_put(root, "sys/devices/system/cpu/cpu0/cache/index2/size", "32M\n");
    host_machine_read(&m, root);
    EXPECT_TEXT(m.cpu, "Some Processor 9000");
    EXPECT_INT(m.l1d_bytes, 32 << 10);
    EXPECT_INT(m.l2_bytes, 0);
    EXPECT_INT(m.l3_bytes, 32 << 20);
    EXPECT(m.memory_bytes > 0 && m.n_cpus >= 1);
}

TEST(others_share_is_what_is_left_of_the_busy_time)
{
    const host_usage from = { .wall_ns = 1000, .process_ns = 100, .machine_ns = 500, .n_cpus = 2 };
    host_usage to = { .wall_ns = 2000, .process_ns = 600, .machine_ns = 1500, .n_cpus = 2 };
    EXPECT(host_usage_others(&from, &to) == 0.25);      /* 1000 busy, 500 ours, of 2000 */
    to.process_ns = 1200;                               /* ticks are coarse: never below nothing */
    EXPECT(host_usage_others(&from, &to) == 0);
    to.machine_ns = 0;
    EXPECT(host_usage_others(&from, &to) < 0);
    host_usage u;
    host_usage_read(&u);
    EXPECT(u.wall_ns > 0 && u.n_cpus >= 1);
}

TEST(long_lists_of_readings_stop_at_their_end)
{
    host_readings r = { .n = HOST_READINGS };
    const char *root = tree_root("laptop");
    host_read_clock(&r, root);
    EXPECT_INT(r.n, HOST_READINGS);
    for (int i = 0; i < HOST_MISSING + 5; i++) host_note_missing(&r, "x", "because", "");
    EXPECT_INT(r.n_missing, HOST_MISSING);
}
