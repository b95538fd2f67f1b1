#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/numa.h"
#include "base/residency.h"
#include "runner.h"

enum { BYTES = 5 << 20 };

static const char *make_file(const char *name)
{
    const char *path = test_scratch(name);
    uint8_t *data = malloc(BYTES);
    if (!data) abort();
    for (int i = 0; i < BYTES; i++) data[i] = (uint8_t)(i * 2654435761u >> 24);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, BYTES, f) != BYTES) abort();
    fclose(f);
    free(data);
    return path;
}

static bool is_whole(const uint8_t *data)
{
    for (int i = 0; i < BYTES; i++)
        if (data[i] != (uint8_t)(i * 2654435761u >> 24)) return false;
    return true;
}

TEST(a_mapping_is_brought_in)
{
    file_map m;
    ds4_error err;
    REQUIRE_OK(file_map_open(&m, make_file("whole"), &err), err);
    REQUIRE_OK(residency_bring_in(m.data, m.size, "whole", 0, &err), err);
    unsigned char in[(BYTES + 4095) / 4096];
    REQUIRE(mincore((void *)(uintptr_t)m.data, BYTES, in) == 0);
    for (size_t i = 0; i < sizeof in; i += 4) EXPECT(in[i] & 1);
    EXPECT(is_whole(m.data));
    file_map_close(&m);
}

#ifdef MADV_POPULATE_READ
TEST(a_byte_that_cannot_be_read_is_named)
{
    file_map m;
    ds4_error err = { 0 };
    const char *path = make_file("cut");
    REQUIRE_OK(file_map_open(&m, path, &err), err);
    REQUIRE(truncate(path, 1 << 20) == 0);
    if (residency_bring_in(m.data, 1 << 20, path, 0, &err)) test_fail(__FILE__, __LINE__, "%s", err.message);
    EXPECT_INT(residency_bring_in(m.data + (512 << 10), 1 << 20, "cut", 512 << 10, &err), DS4_EIO);
    EXPECT(strcmp(err.message, "cut: byte 1048576 could not be read: the disk fails or the file became shorter") == 0);
    file_map_close(&m);
}
#endif

TEST(a_copy_stands_in_the_place_of_a_mapping)
{
    file_map m;
    ds4_error err;
    REQUIRE_OK(file_map_open(&m, make_file("copied"), &err), err);
    REQUIRE_OK(residency_empty(m.data, m.size, "copied", &err), err);
    EXPECT(m.data[BYTES / 2] == 0);
    REQUIRE_OK(residency_fill(m.data + (2 << 20), BYTES - (2 << 20), m.fd, "copied", 2 << 20, &err), err);
    REQUIRE_OK(residency_fill(m.data, 2 << 20, m.fd, "copied", 0, &err), err);
    residency_seal(m.data, m.size);
    EXPECT(is_whole(m.data));
    file_map_close(&m);
}

TEST(a_copy_of_a_shortened_file_fails_with_its_byte)
{
    file_map m;
    ds4_error err = { 0 };
    const char *path = make_file("short");
    REQUIRE_OK(file_map_open(&m, path, &err), err);
    REQUIRE(truncate(path, 1000) == 0);
    REQUIRE_OK(residency_empty(m.data, m.size, "short", &err), err);
    EXPECT_INT(residency_fill(m.data, m.size, m.fd, "short", 0, &err), DS4_EIO);
    EXPECT(strcmp(err.message, "short: byte 1000 could not be read: the disk fails or the file became shorter") == 0);
    file_map_close(&m);
}

TEST(counts_never_go_back)
{
    residency_counts before;
    residency_now(&before);
    const residency_counts d = residency_since(&before);
    EXPECT(d.page_ins < 1 << 30 && d.read_bytes < (uint64_t)1 << 50 && d.refaults < (uint64_t)1 << 50);
}

/* ---- nodes ------------------------------------------------------------------- */

static uint64_t nodes_of(const char *list)
{
    char path[1024];
    const char *root = test_scratch("numa");
    static const char *const folders[] = { "", "/sys", "/sys/devices", "/sys/devices/system",
                                           "/sys/devices/system/node" };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        mkdir(path, 0777);
    }
    snprintf(path, sizeof path, "%s/sys/devices/system/node/has_memory", root);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    fputs(list, f);
    fclose(f);
    return numa_nodes(root);
}

TEST(nodes_are_read_from_a_list)
{
    EXPECT(nodes_of("0\n") == 1);
    EXPECT(nodes_of("0-1\n") == 3);
    EXPECT(nodes_of("0,2-3\n") == 13);
    EXPECT(nodes_of("0-200\n") == UINT64_MAX);
    EXPECT(nodes_of("\n") == 0);
    EXPECT(nodes_of("all\n") == 0);
    EXPECT(numa_nodes("/nonexistent") == 0);
}

TEST(one_node_can_be_spread_over)
{
    ds4_error err = { 0 };
    const uint64_t nodes = numa_nodes("");
    if (nodes == 0) test_skip("this system does not tell its memory nodes");
    else if (numa_interleave(nodes, &err)) test_skip("%s", err.message);
}

#ifdef __linux__
#include <sys/vfs.h>

/* The page that others' bytes share stays; what went comes back from the file. */
TEST(what_is_dropped_leaves_memory_and_comes_back)
{
    file_map m;
    ds4_error err;
    struct statfs on;
    const char *path = make_file("dropped");
    REQUIRE_OK(file_map_open(&m, path, &err), err);
    const int fd = open(path, O_RDONLY);
    REQUIRE(fd >= 0 && fsync(fd) == 0 && fstatfs(fd, &on) == 0);
    REQUIRE_OK(residency_bring_in(m.data, m.size, path, 0, &err), err);
    residency_drop(m.data + 10, 4000, fd, 10);          /* no whole page */
    residency_drop(m.data + 1000, m.size - 1000, fd, 1000);
    unsigned char in[(BYTES + 4095) / 4096];
    REQUIRE(mincore((void *)(uintptr_t)m.data, BYTES, in) == 0);
    size_t gone = 0;
    for (size_t i = 0; i < sizeof in; i++) gone += !(in[i] & 1);
    EXPECT(in[0] & 1);
    EXPECT(gone > 0 || on.f_type == 0x01021994);        /* a file system in memory has nowhere to drop it to */
    EXPECT(is_whole(m.data));
    close(fd);
    file_map_close(&m);
}
#endif
