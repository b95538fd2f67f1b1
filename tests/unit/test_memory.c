#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "runner.h"

#define MIB (UINT64_C(1) << 20)

static void put(const char *root, const char *path, const char *text)
{
    char at[1024];
    snprintf(at, sizeof at, "%s/%s", root, path);
    for (char *slash = strchr(at + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(at, 0777);
        *slash = '/';
    }
    FILE *f = fopen(at, "w");
    REQUIRE(f);
    fputs(text, f);
    fclose(f);
}

static const char *fresh_root(const char *name)
{
    const char *root = test_scratch(name);
    mkdir(root, 0777);
    put(root, "proc/meminfo", "MemTotal:  16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n");
    return root;
}

TEST(without_groups_the_system_decides)
{
    const char *root = fresh_root("plain");
    EXPECT(memory_available_below(root) == 8192 * MIB);
    EXPECT(memory_available_below("/nonexistent") == 0);
    EXPECT(memory_available() > 0);
}

TEST(a_group_allows_what_it_has_not_used_and_its_file_pages)
{
    const char *root = fresh_root("v2");
    put(root, "proc/self/cgroup", "0::/a/b\n");
    put(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
    EXPECT(memory_available_below(root) == 8192 * MIB);
    put(root, "sys/fs/cgroup/a/b/memory.max", "4294967296\n");
    EXPECT(memory_available_below(root) == 4096 * MIB);
    put(root, "sys/fs/cgroup/a/b/memory.current", "3221225472\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
    put(root, "sys/fs/cgroup/a/b/memory.stat", "anon 1\nfile 1073741824\ninactive_file 536870912\nactive_file 536870912\n");
    EXPECT(memory_available_below(root) == 2048 * MIB);
    put(root, "sys/fs/cgroup/a/b/memory.high", "3221225472\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
    put(root, "sys/fs/cgroup/a/memory.max", "104857600\n");           /* a parent's limit holds too */
    EXPECT(memory_available_below(root) == 100 * MIB);
}

TEST(a_group_that_is_full_leaves_next_to_nothing)
{
    const char *root = fresh_root("full");
    put(root, "proc/self/cgroup", "0::/\n");
    put(root, "sys/fs/cgroup/memory.max", "1048576\n");
    put(root, "sys/fs/cgroup/memory.current", "2097152\n");
    EXPECT(memory_available_below(root) == 1);      /* 0 would mean that nobody knows */
}

TEST(a_v1_group_too)
{
    const char *root = fresh_root("v1");
    put(root, "proc/self/cgroup", "5:cpu:/x\n4:memory:/job\n");
    put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    EXPECT(memory_available_below(root) == 8192 * MIB);
    put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2147483648\n");
    put(root, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1610612736\n");
    put(root, "sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 0\ntotal_active_file 536870912\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
}
