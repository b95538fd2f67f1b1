/* What a backend tells of its card's memory. */
#include "checked.h"

#include <string.h>

static const backend_limits limits = { .max_rows = 4, .max_cols = 256, .max_pairs = 8, .max_expert_width = 256,
                                       .n_experts = 4, .max_head_width = 64, .index_top_k = 8 };

static backend *open_with(uint64_t total_bytes, bool unified)
{
    gpu_device *d;
    backend *b;
    ds4_error err;
    const backend_options o = { .name = "cuda", .n_threads = 1, .limits = limits };
    EXPECT_OK(fake_device_open(&d, &(fake_options){ .total_bytes = total_bytes, .unified = unified }, &err), err);
    EXPECT_OK(cuda_open_on(&b, d, &o, &err), err);
    return b;
}

TEST(the_device_tells_its_name_and_what_is_taken)
{
    backend *b = open_with((uint64_t)256 << 20, false);
    backend_device before, after;
    ds4_error err;
    buf *m;
    EXPECT_OK(b->device_now(b, &before, &err), err);
    EXPECT(before.name[0] && !before.unified);
    EXPECT_INT(before.total, (uint64_t)256 << 20);
    EXPECT_OK(b->buf_alloc(b, 1 << 20, &m, &err), err);
    EXPECT_OK(b->device_now(b, &after, &err), err);
    EXPECT(before.available - after.available >= 1 << 20);
    b->buf_free(b, m);
    b->close(b);
}

/* The driver calls pages of files taken, which the system gives back: 64 MiB of them are there on any machine. */
TEST(a_device_in_the_memory_of_the_host_has_what_the_system_can_give)
{
    backend *b = open_with((uint64_t)64 << 20, true);
    backend_device now;
    ds4_error err;
    buf *m;
    EXPECT_OK(b->buf_alloc(b, 16 << 20, &m, &err), err);
    EXPECT_OK(b->device_now(b, &now, &err), err);
    EXPECT(now.unified);
    EXPECT_INT(now.available, (uint64_t)64 << 20);
    b->buf_free(b, m);
    b->close(b);
}

TEST(memory_is_read_and_given_back)
{
    backend *b = open_with((uint64_t)256 << 20, false);
    backend_device before, after;
    ds4_error err;
    double gbs[3] = { 0 };
    EXPECT_OK(b->device_now(b, &before, &err), err);
    EXPECT_OK(b->read_speed(b, (4 << 20) + 16 * 7, gbs, 3, &err), err);
    for (int i = 0; i < 3; i++) EXPECT(gbs[i] > 0 && gbs[i] < 1e6);
    EXPECT_OK(b->device_now(b, &after, &err), err);
    EXPECT_INT(before.available, after.available);
    b->close(b);
}

TEST(every_piece_is_read_and_no_other)
{
    enum { PIECES = 4 * 2 * READ_THREADS + 5 };
    gpu_device *d;
    ds4_error err;
    gpu_ptr at;
    EXPECT_OK(fake_device_open(&d, &(fake_options){ 0 }, &err), err);
    EXPECT_OK(d->alloc(d, GPU_LOCAL, 16 * (PIECES + 1), &at, NULL, &err), err);
    static const int marked[] = { 0, 1, READ_THREADS, PIECES - 6, PIECES - 1, PIECES };
    for (size_t k = 0; k < sizeof marked / sizeof *marked; k++) {
        uint8_t *host = fake_device_at(at);
        memset(host, 0, 16 * (PIECES + 1));
        host[16 * marked[k] + 9] = 1;
        uint32_t sum = 0;
        gpu_ptr to;
        EXPECT_OK(d->alloc(d, GPU_LOCAL, sizeof sum, &to, NULL, &err), err);
        EXPECT_OK(d->fill(d, GPU_MAIN, to, 0, sizeof sum, &err), err);
        const read_memory_args a = { at, to, PIECES };
        const gpu_launch l = { CUDA_read_memory, { 2, 1, 1 }, READ_THREADS, 0, &a, sizeof a };
        EXPECT_OK(d->launch(d, GPU_MAIN, &l, &err), err);
        EXPECT_OK(d->to_host(d, GPU_MAIN, &sum, to, sizeof sum, &err), err);
        EXPECT_OK(d->sync(d, GPU_MAIN, &err), err);
        EXPECT_INT(sum != 0, marked[k] < PIECES);
        d->free(d, GPU_LOCAL, to);
    }
    d->free(d, GPU_LOCAL, at);
    d->close(d);
}

TEST(too_little_room_is_said_instead_of_a_cache_being_measured)
{
    backend *b = open_with((uint64_t)24 << 20, false);
    ds4_error err;
    double gbs[1];
    EXPECT_INT(b->read_speed(b, (uint64_t)1 << 30, gbs, 1, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "too little"));
    b->close(b);
}

TEST(wrappers_pass_it_on)
{
    backend *b = open_with((uint64_t)256 << 20, false), *timed;
    backend_device now;
    ds4_error err;
    double gbs[1];
    EXPECT_OK(backend_time_open(&timed, b, &err), err);
    EXPECT_OK(timed->device_now(timed, &now, &err), err);
    EXPECT_OK(timed->read_speed(timed, 4 << 20, gbs, 1, &err), err);
    timed->close(timed);
}
