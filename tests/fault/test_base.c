#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "base/options.h"
#include "base/pool.h"
#include "base/status.h"
#include "fault/alloc.h"
#include "runner.h"

/* ---- the harness itself ------------------------------------------------ */

TEST(the_nth_allocation_fails_and_later_ones_as_asked)
{
    if (!fault_available()) {
        test_skip("this system's linker cannot stand between the program and malloc");
        return;
    }
    void *volatile p[4];
    fault_fail_after(1);
    for (int i = 0; i < 4; i++) p[i] = malloc(8);
    EXPECT_INT(fault_stop(), 3);
    EXPECT(p[0] && !p[1] && !p[2] && !p[3]);
    free(p[0]);

    fault_fail_once(2);
    p[0] = malloc(8);
    p[1] = calloc(2, 8);
    p[2] = strdup("x");
    p[3] = realloc(NULL, 8);
    EXPECT_INT(fault_stop(), 1);
    EXPECT(p[0] && p[1] && !p[2] && p[3]);
    for (int i = 0; i < 4; i++) free(p[i]);
}

/* ---- no memory --------------------------------------------------------- */

static ds4_status fill_bytes(void *ctx, ds4_error *err)
{
    (void)ctx;
    bytes b;
    bytes_init(&b, 100000);
    for (int i = 0; i < 300; i++) bytes_printf(&b, "line %d\n", i);
    /* A failed buffer keeps what it had before, and says nothing later. */
    const bool failed = b.failed;
    EXPECT(b.len <= b.cap && b.cap <= b.max);
    EXPECT(!b.data || b.data[b.len] == 0);
    char *text = bytes_take(&b);
    EXPECT(!text == failed);
    free(text);
    return failed ? ds4_fail(err, DS4_EMEMORY, "no memory for the text") : DS4_OK;
}

TEST(bytes_without_memory)
{
    fault_each(fill_bytes, NULL);
}

static ds4_status write_json(void *ctx, ds4_error *err)
{
    (void)ctx;
    bytes b;
    json_writer w;
    bytes_init(&b, 100000);
    json_init(&w, &b);
    json_array(&w);
    for (int i = 0; i < 200; i++) json_text(&w, "a \"quoted\" text\n");
    json_array_end(&w);
    const bool failed = b.failed;
    bytes_free(&b);
    return failed ? ds4_fail(err, DS4_EMEMORY, "no memory for the JSON text") : DS4_OK;
}

TEST(json_without_memory)
{
    fault_each(write_json, NULL);
}

static ds4_status replace_file(void *ctx, ds4_error *err)
{
    const char *path = ctx;
    file_replace f;
    ds4_status st = file_replace_open(&f, path, true, err);
    if (st) return st;
    if ((st = file_write_all(f.fd, "new", 3, path, err))) {
        file_replace_abort(&f);
        return st;
    }
    return file_replace_commit(&f, err);
}

TEST(replacing_a_file_without_memory)
{
    char path[512];
    snprintf(path, sizeof path, "%s", test_scratch("replaced"));
    fault_each(replace_file, path);
    size_t n;
    char *text = test_read(path, &n);
    REQUIRE(text);
    EXPECT_TEXT(text, "new");
    free(text);
}

static ds4_status read_file(void *ctx, ds4_error *err)
{
    char *data = NULL;
    size_t n = 1;
    const ds4_status st = file_read_all(ctx, 1 << 20, &data, &n, err);
    EXPECT(!st == !!data);
    EXPECT(!st || n == 0);
    free(data);
    return st;
}

TEST(reading_a_file_without_memory)
{
    char path[512];
    snprintf(path, sizeof path, "%s", test_scratch("long"));
    FILE *f = fopen(path, "w");
    REQUIRE(f);
    for (int i = 0; i < 20000; i++) fputs("0123456789", f);
    fclose(f);
    fault_each(read_file, path);
}

static ds4_status parse_options(void *ctx, ds4_error *err)
{
    (void)ctx;
    option_list list = { 0 }, rest = { 0 };
    const option table[] = {
        { NULL, "stop", 0, NULL, OPTION_LIST, &list, "TEXT", "", NULL, 0, NULL, false },
        { 0 },
    };
    char *argv[41] = { "program" };
    for (int i = 1; i < 41; i++) argv[i] = i % 4 == 1 ? "--stop" : "x";
    const ds4_status st = options_parse(table, 41, argv, &rest, err);
    option_list_free(&list);
    option_list_free(&rest);
    return st;
}

TEST(options_without_memory)
{
    fault_each(parse_options, NULL);
}

static void add_one(void *ctx, int index, int thread)
{
    (void)index, (void)thread;
    atomic_fetch_add((atomic_int *)ctx, 1);
}

static ds4_status open_pool(void *ctx, ds4_error *err)
{
    (void)ctx;
    pool *p;
    const ds4_status st = pool_open(&p, 3, err);
    EXPECT(!st == !!p);
    if (st) return st;
    atomic_int sum = 0;
    pool_run(p, add_one, &sum, 100);
    EXPECT_INT(sum, 100);
    pool_close(p);
    return DS4_OK;
}

TEST(a_pool_without_memory)
{
    fault_each(open_pool, NULL);
}

/* ---- no disk ----------------------------------------------------------- */

TEST(a_full_disk_is_an_error_and_the_old_file_stays)
{
    char path[512], big[8192];
    ds4_error err;
    snprintf(path, sizeof path, "%s", test_scratch("full"));
    memset(big, 'x', sizeof big);
    REQUIRE_OK(replace_file(path, &err), err);

    /* The limit on a file's size refuses writes as a full disk does. */
    struct rlimit before, small;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);

    file_replace f;
    ds4_status st = file_replace_open(&f, path, true, &err);
    EXPECT_OK(st, err);
    if (st == DS4_OK) {
        st = file_write_all(f.fd, big, sizeof big, path, &err);
        EXPECT_INT(st, DS4_EIO);
        EXPECT(strstr(err.message, path));
        file_replace_abort(&f);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);

    size_t n;
    char *text = test_read(path, &n);
    REQUIRE(text);
    EXPECT_TEXT(text, "new");
    free(text);
}

/* ---- interrupted and short transfers ----------------------------------- */

static void on_alarm(int sig)
{
    (void)sig;
}

/* A pipe takes and gives small pieces, and a timer interrupts both ends. */
TEST(transfers_go_on_after_short_pieces_and_signals)
{
    enum { N = 1 << 20 };
    int ends[2];
    char *sent = malloc(N), *got = malloc(N);
    REQUIRE(sent && got);
    REQUIRE(pipe(ends) == 0);
    for (int i = 0; i < N; i++) sent[i] = (char)(i * 31 + i / 4096);

    struct sigaction act = { .sa_handler = on_alarm }, old;     /* no SA_RESTART */
    sigaction(SIGALRM, &act, &old);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        close(ends[0]);
        ualarm(500, 500);
        _exit(file_write_all(ends[1], sent, N, "pipe", NULL) ? 1 : 0);
    }
    close(ends[1]);
    ds4_error err;
    ualarm(500, 500);
    EXPECT_OK(file_read_exact(ends[0], got, N, "pipe", &err), err);
    ualarm(0, 0);
    sigaction(SIGALRM, &old, NULL);
    EXPECT(memcmp(sent, got, N) == 0);
    EXPECT_INT(file_read_exact(ends[0], got, 1, "pipe", &err), DS4_EIO);
    EXPECT_TEXT(err.message, "pipe: ends 1 bytes too early");
    close(ends[0]);
    free(sent);
    free(got);
}
