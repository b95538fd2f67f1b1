/* Every allocation of opening, running, marking and saving fails once: the call
 * says so and nothing leaks (which the sanitizer tells). */
#include "runner.h"

#include <fcntl.h>
#include <unistd.h>

#include "ds4.h"
#include "fault/alloc.h"
#include "tiny/model.h"

static ds4_status run(ds4_engine *e, ds4_error *err)
{
    static const ds4_token tokens[] = { 3, 7, 11, 3, 7, 11, 200, 201, 5 };
    ds4_session *s = NULL;
    ds4_sampler *p = NULL;
    const ds4_sampling sampling = ds4_sampling_defaults();
    ds4_status st = ds4_session_open(&s, e, 64, err);
    if (!st) st = ds4_session_feed(s, tokens, 9, NULL, NULL, err);
    if (!st) st = ds4_session_mark(s, err);
    if (!st) st = ds4_sampler_new(&p, &sampling, 64, err);
    const int fd = open(test_scratch("fault.kvc"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (!st) st = ds4_session_save(s, fd, 6, err);
    lseek(fd, 0, SEEK_SET);
    if (!st) st = ds4_session_load(s, fd, err);
    close(fd);
    ds4_sampler_free(p);
    ds4_session_close(s);
    return st;
}

static ds4_status body(void *ctx, ds4_error *err)
{
    ds4_engine_options o = ds4_engine_defaults();
    ds4_engine *e = NULL;
    o.model_path = ctx;
    o.n_threads = 1;
    o.max_tokens = 64;
    o.max_batch_rows = 4;
    ds4_status st = ds4_engine_open(&e, &o, err);
    if (!st) st = run(e, err);
    ds4_engine_close(e);
    return st;
}

TEST(every_allocation_of_an_engine_may_fail)
{
    const char *path = tiny_model("q8_0");
    if (path) fault_each(body, (void *)path);
}

TEST(a_full_disk_is_said_and_harms_nothing)
{
    const int fd = open("/dev/full", O_WRONLY);
    if (fd < 0) {
        test_skip("no /dev/full here");
        return;
    }
    ds4_engine_options o = ds4_engine_defaults();
    ds4_engine *e = NULL;
    ds4_session *s = NULL;
    ds4_error err;
    const ds4_token t[] = { 3, 4, 5 };
    o.model_path = tiny_model("q8_0");
    o.max_tokens = 64;
    REQUIRE_OK(ds4_engine_open(&e, &o, &err), err);
    REQUIRE_OK(ds4_session_open(&s, e, 64, &err), err);
    EXPECT_OK(ds4_session_feed(s, t, 3, NULL, NULL, &err), err);
    EXPECT_INT(ds4_session_save(s, fd, 6, &err), DS4_EIO);
    EXPECT_INT(ds4_session_length(s), 3);
    EXPECT_OK(ds4_session_feed(s, t, 3, NULL, NULL, &err), err);
    close(fd);
    ds4_session_close(s);
    ds4_engine_close(e);
}
