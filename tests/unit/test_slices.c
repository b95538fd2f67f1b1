#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/slices.h"
#include "base/status.h"
#include "runner.h"

typedef struct {
    uint8_t   *times;           /* [total] */
    uint64_t   total, fails_at; /* UINT64_MAX: never */
    int        nap_us;
    atomic_int pieces;
    uint64_t   told;
    int        calls, stop_after;
} counting;

static ds4_status count(void *ctx, uint64_t first, uint64_t n, ds4_error *err)
{
    counting *c = ctx;
    atomic_fetch_add(&c->pieces, 1);
    if (c->nap_us) usleep((useconds_t)c->nap_us);
    if (c->fails_at >= first && c->fails_at < first + n)
        return ds4_fail(err, DS4_EIO, "byte %llu is bad", (unsigned long long)c->fails_at);
    for (uint64_t i = first; i < first + n; i++) c->times[i]++;
    return DS4_OK;
}

static bool tell(void *ctx, uint64_t done)
{
    counting *c = ctx;
    EXPECT(done >= c->told && done <= c->total);
    c->told = done;
    return ++c->calls != c->stop_after;
}

static ds4_status run(counting *c, uint64_t total, uint64_t slice, int n_threads, ds4_error *err)
{
    c->total = total;
    c->times = calloc(total + 1, 1);
    if (!c->times) abort();
    const slices s = { .total = total, .slice = slice, .n_threads = n_threads, .task = count, .ctx = c,
                       .progress = tell, .progress_ctx = c };
    return slices_run(&s, err);
}

TEST(every_byte_is_in_one_piece)
{
    static const struct { uint64_t total, slice; int threads; } cases[] = {
        { 0, 10, 2 }, { 1, 10, 1 }, { 10, 10, 3 }, { 11, 10, 8 }, { 5000, 7, 4 }, { 5000, 1, 64 }, { 100, 1000, 500 },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        counting c = { .fails_at = UINT64_MAX };
        ds4_error err;
        REQUIRE_OK(run(&c, cases[i].total, cases[i].slice, cases[i].threads, &err), err);
        for (uint64_t b = 0; b < c.total; b++) EXPECT_INT(c.times[b], 1);
        EXPECT_INT(c.told, c.total);
        free(c.times);
    }
}

TEST(the_first_failure_ends_the_others_with_its_sentence)
{
    counting c = { .fails_at = 20, .nap_us = 200 };
    ds4_error err = { 0 };
    EXPECT_INT(run(&c, 100000, 10, 4, &err), DS4_EIO);
    EXPECT(strcmp(err.message, "byte 20 is bad") == 0);
    EXPECT(c.pieces < 1000);
    free(c.times);
}

TEST(a_caller_may_stop_it)
{
    counting c = { .fails_at = UINT64_MAX, .nap_us = 1000, .stop_after = 2 };
    ds4_error err = { 0 };
    EXPECT_INT(run(&c, 1000000, 1, 4, &err), DS4_ECANCELLED);
    EXPECT(c.calls == 2 && c.pieces < 100000);
    free(c.times);
}
