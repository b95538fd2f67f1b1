#include "runner.h"

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* A test program is one process with one runner, so its state may be static. */
static struct {
    test_case  *first, **last;
    test_case  *now;
    atomic_int  failures, skips;        /* of the test that runs; threads may fail it */
    uint64_t    seed;
    const char *program;
    char        scratch[PATH_MAX];
    pid_t       pid;
} run = { .last = &run.first, .seed = 1 };

void test_register(test_case *t)
{
    *run.last = t;
    run.last = &t->next;
}

/* ---- what a test may say ----------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void fail_line(const char *file, int line, const char *fmt, va_list ap)
{
    char text[2048];
    vsnprintf(text, sizeof text, fmt, ap);
    printf("FAIL %s: %s:%d: %s (seed %llu)\n", run.now ? run.now->name : "?", base_name(file), line,
           text, (unsigned long long)run.seed);
    atomic_fetch_add(&run.failures, 1);
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_line(file, line, fmt, ap);
    va_end(ap);
}

void test_skip(const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("SKIP %s: %s\n", run.now ? run.now->name : "?", text);
    atomic_fetch_add(&run.skips, 1);
}

uint64_t test_seed(void)
{
    return run.seed;
}

void test_expect_text(const char *file, int line, const char *what, const char *got, const char *want)
{
    if (got == want || (got && want && strcmp(got, want) == 0)) return;
    test_fail(file, line, "%s is \"%s\", want \"%s\"", what, got ? got : "(null)", want ? want : "(null)");
}

bool test_expect_near(const char *file, int line, const float *got, const float *want, size_t n,
                      double tol, const char *fmt, ...)
{
    for (size_t i = 0; i < n; i++) {
        const double off = fabs((double)got[i] - (double)want[i]);
        if (off <= tol || got[i] == want[i]) continue;      /* equal infinities are near */

        char label[512];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(label, sizeof label, fmt, ap);
        va_end(ap);
        test_fail(file, line, "%s: [%zu] is %.9g, want %.9g, off by %.3g, allowed %.3g", label, i,
                  (double)got[i], (double)want[i], off, tol);
        return false;
    }
    return true;
}

/* ---- files ------------------------------------------------------------- */

/* Callers may hold a few paths at a time. */
static char *next_path(void)
{
    static char paths[8][PATH_MAX];
    static int turn;
    return paths[turn++ % 8];
}

/* Looks for tests/data in `from` and in every folder above it. */
static bool find_data(const char *from, char *out)
{
    char folder[PATH_MAX];
    if (!realpath(from, folder)) return false;
    for (;;) {
        struct stat s;
        snprintf(out, PATH_MAX, "%.*s/tests/data", PATH_MAX - 16, folder);
        if (stat(out, &s) == 0 && S_ISDIR(s.st_mode)) return true;
        char *slash = strrchr(folder, '/');
        if (!slash || !folder[0]) return false;
        *slash = 0;
    }
}

const char *test_data(const char *name)
{
    static char root[PATH_MAX];
    if (!root[0] && !find_data(run.program, root) && !find_data(".", root))
        snprintf(root, sizeof root, "tests/data");
    char *path = next_path();
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX / 2, root, name);
    return path;
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *at)
{
    (void)s, (void)kind, (void)at;
    return remove(path);
}

static void remove_scratch(void)
{
    if (run.scratch[0] && run.pid == getpid()) nftw(run.scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_scratch(const char *name)
{
    if (!run.scratch[0]) {
        const char *tmp = getenv("TMPDIR");
        snprintf(run.scratch, sizeof run.scratch, "%s/ds4-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (!mkdtemp(run.scratch)) {
            printf("cannot make a folder like %s: %s\n", run.scratch, strerror(errno));
            exit(1);
        }
        run.pid = getpid();
        atexit(remove_scratch);
    }
    char *path = next_path();
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX / 2, run.scratch, name);
    return path;
}

char *test_read(const char *path, size_t *n)
{
    *n = 0;
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    size_t cap = 0;
    while (f) {
        if (*n + 1 >= cap) {
            cap = cap ? cap * 2 : 4096;
            data = realloc(data, cap);
            if (!data) abort();
        }
        const size_t got = fread(data + *n, 1, cap - *n - 1, f);
        if (got == 0) break;
        *n += got;
    }
    if (!f || ferror(f)) {
        test_fail(__FILE__, __LINE__, "cannot read %s: %s", path, strerror(errno));
        free(data);
        data = NULL;
        *n = 0;
    }
    if (f) fclose(f);
    if (data) data[*n] = 0;
    return data;
}

/* ---- main -------------------------------------------------------------- */

/* Says which test ended the process; the signal then does what it would have. */
static void on_crash(int sig)
{
    static const char text[] = "CRASH in test ";
    const char *name = run.now ? run.now->name : "?";
    ssize_t ignored = write(1, text, sizeof text - 1);
    ignored = write(1, name, strlen(name));
    ignored = write(1, "\n", 1);
    (void)ignored;
    remove_scratch();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void watch_crashes(void)
{
    signal(SIGABRT, on_crash);
    signal(SIGTERM, on_crash);          /* the time limit of tools/run_tests.sh */
#ifndef SANITIZED                       /* a sanitizer tells more about these   */
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    signal(SIGFPE, on_crash);
    signal(SIGILL, on_crash);
#endif
}

static int usage(const char *program)
{
    printf("usage: %s [-f NAME] [-s SEED] [-l]\n"
           "  -f NAME  only tests whose name contains NAME\n"
           "  -s SEED  of the tests' random streams (1)\n"
           "  -l       list the tests\n", program);
    return 2;
}

int main(int argc, char **argv)
{
    const char *filter = "";
    bool list = false;
    run.program = argv[0];
    for (int opt; (opt = getopt(argc, argv, "f:s:lh")) != -1;) {
        if (opt == 'f') filter = optarg;
        else if (opt == 's') run.seed = strtoull(optarg, NULL, 0);
        else if (opt == 'l') list = true;
        else return usage(argv[0]);
    }
    if (optind < argc) return usage(argv[0]);

    /* Lines already said survive a crash, and a child does not repeat them. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    watch_crashes();

    int passed = 0, failed = 0, skipped = 0;
    for (test_case *t = run.first; t; t = t->next) {
        if (!strstr(t->name, filter)) continue;
        if (list) {
            printf("%s (%s:%d)\n", t->name, base_name(t->file), t->line);
            continue;
        }
        run.now = t;
        run.failures = run.skips = 0;
        t->run();
        if (run.failures)   failed++;
        else if (run.skips) skipped++;
        else                passed++;
    }
    run.now = NULL;
    if (!list) printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
