
#include "base/memory.h"
#include "runner.h"
#include "tree.h"

#define MIB (UINT64_C(1) << 20)

static const char *fresh_root(const char *name)
{
    const char *root = tree_root(name);
    tree_put(root, "proc/meminfo", "MemTotal:  16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n");
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
    tree_put(root, "proc/self/cgroup", "0::/a/b\n");
    tree_put(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
    EXPECT(memory_available_below(root) == 8192 * MIB);
    tree_put(root, "sys/fs/cgroup/a/b/memory.max", "4294967296\n");
    EXPECT(memory_available_below(root) == 4096 * MIB);
    tree_put(root, "sys/fs/cgroup/a/b/memory.current", "3221225472\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
    tree_put(root, "sys/fs/cgroup/a/b/memory.stat",
             "anon 1\nfile 1073741824\ninactive_file 536870912\nactive_file 536870912\n");
    EXPECT(memory_available_below(root) == 2048 * MIB);
    tree_put(root, "sys/fs/cgroup/a/b/memory.high", "3221225472\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
    tree_put(root, "sys/fs/cgroup/a/memory.max", "104857600\n");           /* a parent's limit holds too */
    EXPECT(memory_available_below(root) == 100 * MIB);
}

TEST(a_group_that_is_full_leaves_next_to_nothing)
{
    const char *root = fresh_root("full");
    tree_put(root, "proc/self/cgroup", "0::/\n");
    tree_put(root, "sys/fs/cgroup/memory.max", "1048576\n");
    tree_put(root, "sys/fs/cgroup/memory.current", "2097152\n");
    EXPECT(memory_available_below(root) == 1);      /* 0 would mean that nobody knows */
}

TEST(a_v1_group_too)
{
    const char *root = fresh_root("v1");
    tree_put(root, "proc/self/cgroup", "5:cpu:/x\n4:memory:/job\n");
    tree_put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    EXPECT(memory_available_below(root) == 8192 * MIB);
    tree_put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2147483648\n");
    tree_put(root, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1610612736\n");
    tree_put(root, "sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 0\ntotal_active_file 536870912\n");
    EXPECT(memory_available_below(root) == 1024 * MIB);
}
