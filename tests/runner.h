/* runner: the tests' frame. One binary per test file:
 *
 *   test_gguf [-f NAME] [-s SEED] [-l]
 *
 * TEST(name) { ... } registers itself; a failed EXPECT prints one line with
 * the values and the test goes on; REQUIRE leaves the test. The last line is
 * `N passed, N failed, N skipped`; a skip says why, aloud. */
#ifndef TESTS_RUNNER_H
#define TESTS_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ds4_status.h"

typedef struct test_case {
    const char       *name;
    void            (*run)(void);
    const char       *file;
    int               line;
    struct test_case *next;
} test_case;

void test_register(test_case *t);
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
uint64_t test_seed(void);           /* of this run; printed when something fails */
const char *test_data(const char *name);    /* tests/data/NAME, from any working directory */
const char *test_scratch(const char *name); /* a path in a folder that is removed at exit   */
char *test_read(const char *path, size_t *n);   /* whole file, caller frees; fails the test when absent */

#define TEST(id)                                                              \
    static void test_##id(void);                                              \
    static test_case case_##id = { #id, test_##id, __FILE__, __LINE__, NULL };\
    __attribute__((constructor)) static void register_##id(void)              \
    { test_register(&case_##id); }                                            \
    static void test_##id(void)

#define EXPECT(c)                                                             \
    do { if (!(c)) test_fail(__FILE__, __LINE__, "%s", #c); } while (0)
#define REQUIRE(c)                                                            \
    do { if (!(c)) { test_fail(__FILE__, __LINE__, "%s", #c); return; } } while (0)
#define EXPECT_INT(got, want)                                                 \
    do { long long g_ = (long long)(got), w_ = (long long)(want);             \
         if (g_ != w_) test_fail(__FILE__, __LINE__, "%s is %lld, want %lld", #got, g_, w_); } while (0)
#define EXPECT_TEXT(got, want) test_expect_text(__FILE__, __LINE__, #got, got, want)
/* Status and, when it fails, the sentence. */
#define EXPECT_OK(st, err)                                                    \
    do { ds4_status s_ = (st);                                                \
         if (s_) test_fail(__FILE__, __LINE__, "%s: status %d: %s", #st, s_, (err).message); } while (0)
#define REQUIRE_OK(st, err)                                                   \
    do { ds4_status s_ = (st);                                                \
         if (s_) { test_fail(__FILE__, __LINE__, "%s: status %d: %s", #st, s_, (err).message); return; } } while (0)

void test_expect_text(const char *file, int line, const char *what, const char *got, const char *want);

/* |got - want| <= tol for all n; prints the first index that differs. */
bool test_expect_near(const char *file, int line, const float *got, const float *want, size_t n,
                      double tol, const char *fmt, ...) __attribute__((format(printf, 7, 8)));
#define EXPECT_NEAR(got, want, n, tol, ...) \
    test_expect_near(__FILE__, __LINE__, got, want, n, tol, __VA_ARGS__)

#endif
