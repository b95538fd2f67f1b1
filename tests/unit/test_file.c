#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "runner.h"

/* A file in the scratch folder; the path stays good for this test. */
typedef struct {
    char path[512];
} named;

static named scratch(const char *name)
{
    named n;
    snprintf(n.path, sizeof n.path, "%s", test_scratch(name));
    return n;
}

static named put(const char *name, const char *text, size_t len)
{
    const named n = scratch(name);
    FILE *f = fopen(n.path, "wb");
    EXPECT(f && fwrite(text, 1, len, f) == len);
    if (f) fclose(f);
    return n;
}

static void expect_content(const char *path, const char *want)
{
    size_t n;
    char *text = test_read(path, &n);
    if (text) EXPECT_TEXT(text, want);
    free(text);
}

/* No temporary file may stay beside path. */
static void expect_no_litter(const char *path)
{
    char command[1100];
    snprintf(command, sizeof command, "! ls '%s'.*.tmp >/dev/null 2>&1", path);
    EXPECT_INT(system(command), 0);
}

/* ---- mapping ----------------------------------------------------------- */

TEST(a_mapping_shows_the_bytes)
{
    const named n = put("map", "hello\0world", 11);
    file_map m;
    ds4_error err;
    REQUIRE_OK(file_map_open(&m, n.path, &err), err);
    EXPECT_INT(m.size, 11);
    EXPECT(memcmp(m.data, "hello\0world", 11) == 0);
    EXPECT(m.fd > 2);
    file_map_close(&m);
    EXPECT(!m.data && m.size == 0);
    file_map_close(&m);
    file_map_close(NULL);
}

TEST(an_empty_file_maps_to_nothing)
{
    const named n = put("empty", "", 0);
    file_map m;
    ds4_error err;
    REQUIRE_OK(file_map_open(&m, n.path, &err), err);
    EXPECT(!m.data && m.size == 0);
    file_map_close(&m);
}

TEST(what_cannot_be_mapped_is_told_by_name)
{
    const named absent = scratch("absent"), folder = scratch("folder"), pipe_ = scratch("pipe");
    const named file = put("plain", "x", 1);
    named below;
    snprintf(below.path, sizeof below.path, "%.400s/below", file.path);
    mkdir(folder.path, 0777);
    mkfifo(pipe_.path, 0666);

    const struct { const char *path; ds4_status status; const char *message; } rows[] = {
        { absent.path, DS4_ENOTFOUND, "no such file or directory" },
        { below.path,  DS4_ENOTFOUND, "no such file or directory" },
        { "",          DS4_ENOTFOUND, "no such file or directory" },
        { folder.path, DS4_EIO,       "is a directory" },
        { pipe_.path,  DS4_EIO,       "is not a regular file" },
        { "/dev/null", DS4_EIO,       "is not a regular file" },
    };
    for (size_t i = 0; i < countof(rows); i++) {
        char want[1024];
        file_map m;
        ds4_error err = { 0 };
        EXPECT_INT(file_map_open(&m, rows[i].path, &err), rows[i].status);
        snprintf(want, sizeof want, "%s: %s", *rows[i].path ? rows[i].path : "\"\"", rows[i].message);
        EXPECT_TEXT(err.message, want);
        file_map_close(&m);
    }
}

TEST(a_zeroed_object_owns_no_descriptor)
{
    file_map m = { 0 };
    file_replace f = { 0 };
    file_map_close(&m);
    file_replace_abort(&f);
    file_replace_abort(NULL);
    EXPECT(fcntl(0, F_GETFD) != -1 || errno != EBADF || isatty(0) == 0);
    const int fd = dup(2);
    EXPECT(fd > 2);
    close(fd);
}

TEST(descriptors_never_take_the_place_of_a_standard_stream)
{
    const named n = put("high", "x", 1);
    const int keep = fcntl(0, F_DUPFD, 10);
    close(0);
    file_map m;
    ds4_error err;
    EXPECT_OK(file_map_open(&m, n.path, &err), err);
    EXPECT(m.fd > 2);
    file_map_close(&m);
    if (keep >= 0) {
        dup2(keep, 0);
        close(keep);
    }
}

/* ---- reading whole ----------------------------------------------------- */

TEST(reading_whole_up_to_the_limit)
{
    enum { N = 100000 };
    char *text = malloc(N);
    REQUIRE(text);
    for (int i = 0; i < N; i++) text[i] = (char)i;
    static const int sizes[] = { 0, 1, 4095, 4096, 4097, 65536, N };
    for (size_t i = 0; i < countof(sizes); i++) {
        const size_t size = (size_t)sizes[i];
        const named n = put("whole", text, size);
        char *data;
        size_t len;
        ds4_error err;
        REQUIRE_OK(file_read_all(n.path, size, &data, &len, &err), err);
        EXPECT_INT(len, size);
        EXPECT(memcmp(data, text, size) == 0 && data[size] == 0);
        free(data);
        REQUIRE_OK(file_read_all(n.path, SIZE_MAX, &data, &len, &err), err);
        EXPECT_INT(len, size);
        free(data);

        if (size == 0) continue;
        EXPECT_INT(file_read_all(n.path, size - 1, &data, &len, &err), DS4_EFULL);
        EXPECT(!data && len == 0);
        EXPECT(strstr(err.message, n.path) && strstr(err.message, "longer than"));
    }
    free(text);
}

TEST(reading_what_is_not_there)
{
    const named absent = scratch("absent");
    char *data;
    size_t len;
    ds4_error err;
    EXPECT_INT(file_read_all(absent.path, 10, &data, &len, &err), DS4_ENOTFOUND);
    EXPECT(!data);
    EXPECT_INT(file_read_all("/", 10, &data, &len, &err), DS4_EIO);
    EXPECT_TEXT(err.message, "/: reading it: Is a directory");
    EXPECT_INT(file_read_all("/dev/zero", 100000, &data, &len, &err), DS4_EFULL);
    EXPECT_TEXT(err.message, "/dev/zero: longer than 100000 bytes");
}

TEST(a_dash_reads_standard_input)
{
    const named n = put("input", "typed\n", 6);
    const int keep = fcntl(0, F_DUPFD, 10), fd = open(n.path, O_RDONLY);
    REQUIRE(fd >= 0);
    dup2(fd, 0);
    char *data;
    size_t len;
    ds4_error err;
    EXPECT_OK(file_read_all("-", 100, &data, &len, &err), err);
    EXPECT_TEXT(data, "typed\n");
    free(data);
    EXPECT(fcntl(0, F_GETFD) != -1);
    lseek(0, 0, SEEK_SET);
    EXPECT_INT(file_read_all("-", 5, &data, &len, &err), DS4_EFULL);
    EXPECT_TEXT(err.message, "standard input: longer than 5 bytes");
    if (fd) close(fd);
    if (keep >= 0) {
        dup2(keep, 0);
        close(keep);
    }
}

TEST(reading_exactly_and_ending_too_early)
{
    const named n = put("exact", "0123456789", 10);
    const int fd = open(n.path, O_RDONLY);
    char b[10];
    ds4_error err;
    EXPECT_OK(file_read_exact(fd, b, 4, n.path, &err), err);
    EXPECT_OK(file_read_exact(fd, b + 4, 6, n.path, &err), err);
    EXPECT(memcmp(b, "0123456789", 10) == 0);
    EXPECT_OK(file_read_exact(fd, b, 0, n.path, &err), err);
    EXPECT_INT(file_read_exact(fd, b, 3, n.path, &err), DS4_EIO);
    EXPECT(strstr(err.message, "ends 3 bytes too early"));
    close(fd);
    EXPECT_INT(file_read_exact(-1, b, 1, "nothing", &err), DS4_EIO);
    EXPECT_INT(file_write_all(-1, b, 1, "nothing", &err), DS4_EIO);
}

/* ---- replacing --------------------------------------------------------- */

static ds4_status replace(const char *path, bool overwrite, const char *text, ds4_error *err)
{
    file_replace f;
    ds4_status st = file_replace_open(&f, path, overwrite, err);
    if (st) return st;
    if ((st = file_write_all(f.fd, text, strlen(text), path, err))) {
        file_replace_abort(&f);
        return st;
    }
    return file_replace_commit(&f, err);
}

TEST(a_file_appears_whole_at_commit)
{
    const named n = scratch("appears");
    file_replace f;
    ds4_error err;
    REQUIRE_OK(file_replace_open(&f, n.path, false, &err), err);
    REQUIRE_OK(file_write_all(f.fd, "text", 4, n.path, &err), err);
    EXPECT(access(n.path, F_OK) != 0);
    REQUIRE_OK(file_replace_commit(&f, &err), err);
    EXPECT(f.fd == -1 && !f.path && !f.temp_path);
    expect_content(n.path, "text");
    expect_no_litter(n.path);
}

TEST(an_aborted_file_never_was)
{
    const named n = put("aborted", "old", 3);
    file_replace f;
    ds4_error err;
    REQUIRE_OK(file_replace_open(&f, n.path, true, &err), err);
    REQUIRE_OK(file_write_all(f.fd, "new", 3, n.path, &err), err);
    file_replace_abort(&f);
    file_replace_abort(&f);
    expect_content(n.path, "old");
    expect_no_litter(n.path);
}

TEST(overwriting_only_when_asked)
{
    const named n = scratch("twice");
    ds4_error err;
    REQUIRE_OK(replace(n.path, false, "one", &err), err);
    EXPECT_INT(replace(n.path, false, "two", &err), DS4_EARG);
    EXPECT(strstr(err.message, "exists already"));
    expect_content(n.path, "one");
    REQUIRE_OK(replace(n.path, true, "two", &err), err);
    expect_content(n.path, "two");
    expect_no_litter(n.path);
}

TEST(a_file_that_appears_meanwhile_is_not_overwritten)
{
    const named n = scratch("race");
    file_replace f;
    ds4_error err;
    REQUIRE_OK(file_replace_open(&f, n.path, false, &err), err);
    put("race", "theirs", 6);
    EXPECT_INT(file_replace_commit(&f, &err), DS4_EARG);
    EXPECT(strstr(err.message, "exists already"));
    expect_content(n.path, "theirs");
    expect_no_litter(n.path);
}

TEST(two_writers_of_one_path_do_not_mix)
{
    const named n = scratch("both");
    file_replace a, b;
    ds4_error err;
    REQUIRE_OK(file_replace_open(&a, n.path, true, &err), err);
    REQUIRE_OK(file_replace_open(&b, n.path, true, &err), err);
    EXPECT(strcmp(a.temp_path, b.temp_path) != 0);
    file_write_all(a.fd, "aaa", 3, n.path, &err);
    file_write_all(b.fd, "b", 1, n.path, &err);
    REQUIRE_OK(file_replace_commit(&a, &err), err);
    expect_content(n.path, "aaa");
    REQUIRE_OK(file_replace_commit(&b, &err), err);
    expect_content(n.path, "b");
}

TEST(a_link_stays_and_its_target_is_replaced)
{
    const named target = put("target", "old", 3), link_ = scratch("link");
    ds4_error err;
    struct stat s;
    chmod(target.path, 0640);
    REQUIRE(symlink(target.path, link_.path) == 0);
    REQUIRE_OK(replace(link_.path, true, "new", &err), err);
    EXPECT(lstat(link_.path, &s) == 0 && S_ISLNK(s.st_mode));
    EXPECT(stat(target.path, &s) == 0 && (s.st_mode & 0777) == 0640);
    expect_content(target.path, "new");
}

TEST(devices_and_folders_are_never_replaced)
{
    const named folder = scratch("a-folder");
    ds4_error err;
    mkdir(folder.path, 0777);
    EXPECT_INT(replace("/dev/null", true, "x", &err), DS4_EARG);
    EXPECT_TEXT(err.message, "/dev/null: is not a regular file");
    EXPECT_INT(replace(folder.path, true, "x", &err), DS4_EARG);
    EXPECT_INT(replace("", true, "x", &err), DS4_ENOTFOUND);
    char deep[600];
    snprintf(deep, sizeof deep, "%s/none/file", folder.path);
    EXPECT_INT(replace(deep, true, "x", &err), DS4_ENOTFOUND);
    struct stat s;
    EXPECT(stat("/dev/null", &s) == 0 && S_ISCHR(s.st_mode));
}

TEST(a_name_without_folder_lies_in_the_present_one)
{
    const named folder = scratch("here");
    char before[1024];
    ds4_error err;
    REQUIRE(getcwd(before, sizeof before));
    mkdir(folder.path, 0777);
    REQUIRE(chdir(folder.path) == 0);
    EXPECT_OK(replace("plain-name", false, "x", &err), err);
    expect_content("plain-name", "x");
    REQUIRE(chdir(before) == 0);
}
