#include "fault/alloc.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "runner.h"

/* Allocations left until the first failure; failures left; failures done.
 * The three belong to the one steering thread, but any thread may count. */
static atomic_int before_failure = INT_MAX, failures_left, failures_done;

static void steer(int n, int failures)
{
    atomic_store(&failures_done, 0);
    atomic_store(&failures_left, failures);
    atomic_store(&before_failure, n);
}

void fault_fail_after(int n) { steer(n, INT_MAX); }
void fault_fail_once(int n)  { steer(n, 1); }

int fault_stop(void)
{
    const int done = atomic_load(&failures_done);
    steer(INT_MAX, 0);
    return done;
}

#if defined(__APPLE__)

bool fault_available(void)
{
    return false;
}

#else

bool fault_available(void)
{
    return true;
}

static bool fails(void)
{
    if (atomic_load(&failures_left) <= 0) return false;
    if (atomic_load(&before_failure) > 0) {
        atomic_fetch_sub(&before_failure, 1);
        return false;
    }
    atomic_fetch_sub(&failures_left, 1);
    atomic_fetch_add(&failures_done, 1);
    errno = ENOMEM;
    return true;
}

/* The linker sends calls of X to __wrap_X and those of __real_X to X. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);

void *__wrap_malloc(size_t n)                 { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size)    { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n)       { return fails() ? NULL : __real_realloc(p, n); }
void *__wrap_aligned_alloc(size_t a, size_t n){ return fails() ? NULL : __real_aligned_alloc(a, n); }
char *__wrap_strdup(const char *s)            { return fails() ? NULL : __real_strdup(s); }

#endif

/* Returns false when the failure at allocation n was never met. */
static bool try_one(fault_body *body, void *ctx, int n, bool once)
{
    ds4_error err = { 0 };
    if (once) fault_fail_once(n);
    else      fault_fail_after(n);
    const ds4_status st = body(ctx, &err);
    if (fault_stop() == 0) {
        EXPECT_OK(st, err);
        return false;
    }
    if (st != DS4_OK && (st != DS4_EMEMORY || !err.message[0]))
        test_fail(__FILE__, __LINE__, "allocation %d fails%s: status %d \"%s\"", n,
                  once ? " alone" : " and all later ones", st, err.message);
    return true;
}

void fault_each(fault_body *body, void *ctx)
{
    if (!fault_available()) {
        test_skip("this system's linker cannot stand between the program and malloc");
        return;
    }
    enum { MOST = 1000000 };
    for (int once = 0; once < 2; once++) {
        int n = 0;
        while (n < MOST && try_one(body, ctx, n, once)) n++;
        if (n == MOST) test_fail(__FILE__, __LINE__, "still failing after %d allocations", n);
        if (n == 0) test_fail(__FILE__, __LINE__, "the body allocates nothing");
    }
}
