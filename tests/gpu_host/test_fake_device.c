/* The fake device: what it defers, what it mixes up, what it finds. */
#include "ends.h"
#include "fake_device.h"
#include "kernels/cuda/kernels.h"

#include <pthread.h>
#include <string.h>

static ds4_error err;
enum { N = 64, SEEDS = 24 };

static gpu_device *opened(fake_options o)
{
    gpu_device *d = NULL;
    EXPECT_OK(fake_device_open(&d, &o, &err), err);
    return d;
}

static gpu_ptr local(gpu_device *d, uint64_t bytes)
{
    gpu_ptr p = 0;
    EXPECT_OK(d->alloc(d, GPU_LOCAL, bytes, &p, NULL, &err), err);
    return p;
}

static int byte_at(gpu_ptr p) { return *(const uint8_t *)fake_device_at(p); }

TEST(work_waits_for_somebody_who_waits_for_it)
{
    gpu_device *d = opened((fake_options){ 0 });
    const gpu_ptr p = local(d, N);
    EXPECT_INT(byte_at(p), 0xee);
    EXPECT_OK(d->fill(d, GPU_MAIN, p, 7, N, &err), err);
    EXPECT_INT(byte_at(p), 0xee);
    EXPECT_OK(d->sync(d, GPU_MAIN, &err), err);
    EXPECT_INT(byte_at(p), 7);
    d->free(d, GPU_LOCAL, p);
    d->close(d);
}

TEST(an_eager_device_does_everything_at_once)
{
    gpu_device *d = opened((fake_options){ .eager = true });
    const gpu_ptr p = local(d, N);
    EXPECT_OK(d->fill(d, 1, p, 7, N, &err), err);
    EXPECT_INT(byte_at(p), 7);
    d->free(d, GPU_LOCAL, p);
    d->close(d);
}

/* Stream 1 writes 1 then 2, the main stream copies what it finds; with and without a wait. */
static int found_by_main(uint64_t seed, bool waits)
{
    gpu_device *d = opened((fake_options){ .seed = seed });
    const gpu_ptr p = local(d, N), q = local(d, N);
    d->fill(d, 1, p, 1, N, &err);
    d->fill(d, 1, p, 2, N, &err);
    d->record(d, 1, 5, &err);
    if (waits) d->wait(d, GPU_MAIN, 5, &err);
    d->copy(d, GPU_MAIN, q, p, N, &err);
    EXPECT_OK(d->sync(d, -1, &err), err);
    const int found = byte_at(q);
    d->free(d, GPU_LOCAL, p);
    d->free(d, GPU_LOCAL, q);
    d->close(d);
    return found;
}

TEST(a_missing_wait_shows_and_a_wait_is_kept)
{
    int early = 0, late = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const int found = found_by_main(seed, false);
        early += found == 0xee;
        late += found == 2;
        EXPECT_INT(found_by_main(seed, true), 2);
    }
    EXPECT(early > 0);
    EXPECT(late > 0);
}

TEST(a_wait_is_for_the_record_that_was_latest_when_it_was_called)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        gpu_device *d = opened((fake_options){ .seed = seed });
        const gpu_ptr p = local(d, N), q = local(d, N);
        d->fill(d, 1, p, 1, N, &err);
        d->record(d, 1, 0, &err);
        d->wait(d, 2, 0, &err);
        d->copy(d, 2, q, p, N, &err);
        d->record(d, 2, 1, &err);
        d->wait(d, GPU_MAIN, 1, &err);
        d->fill(d, GPU_MAIN, p, 9, N, &err);
        d->record(d, GPU_MAIN, 0, &err);
        d->wait(d, 1, 40, &err);                /* never recorded: over */
        EXPECT_OK(d->sync(d, -1, &err), err);
        EXPECT_INT(byte_at(q), 1);
        EXPECT_INT(byte_at(p), 9);
        float ms = -1.0f;
        EXPECT_OK(d->elapsed(d, 1, 0, &ms, &err), err);
        EXPECT(ms > 0.0f);
        d->free(d, GPU_LOCAL, p);
        d->free(d, GPU_LOCAL, q);
        d->close(d);
    }
}

TEST(pinned_memory_is_read_when_the_copy_runs_and_other_memory_at_the_call)
{
    gpu_device *d = opened((fake_options){ 0 });
    const gpu_ptr p = local(d, N), q = local(d, N);
    gpu_ptr at;
    uint8_t *pinned, plain[N];
    EXPECT_OK(d->alloc(d, GPU_PINNED, N, &at, (void **)&pinned, &err), err);
    EXPECT(at != (gpu_ptr)(uintptr_t)pinned);
    memset(pinned, 1, N);
    memset(plain, 1, N);
    d->to_device(d, GPU_MAIN, p, pinned, N, &err);
    d->to_device(d, GPU_MAIN, q, plain, N, &err);
    memset(pinned, 2, N);
    memset(plain, 2, N);
    EXPECT_OK(d->to_host(d, GPU_MAIN, plain, q, N, &err), err);
    EXPECT_INT(plain[0], 1);
    EXPECT_OK(d->sync(d, GPU_MAIN, &err), err);
    EXPECT_INT(byte_at(p), 2);
    d->to_host(d, GPU_COPY, pinned, q, N, &err);
    EXPECT_INT(pinned[0], 2);
    EXPECT_OK(d->sync(d, GPU_COPY, &err), err);
    EXPECT_INT(pinned[0], 1);
    d->free(d, GPU_LOCAL, p);
    d->free(d, GPU_LOCAL, q);
    d->free(d, GPU_PINNED, at);
    d->close(d);
}

TEST(a_transfer_waits_for_nobody)
{
    gpu_device *d = opened((fake_options){ 0 });
    const gpu_ptr p = local(d, N);
    uint8_t host[N] = { 5 };
    d->fill(d, GPU_MAIN, p, 7, N, &err);
    EXPECT_OK(d->transfer(d, true, &(gpu_piece){ p, host, N }, 1, &err), err);
    EXPECT_INT(byte_at(p), 5);
    d->sync(d, -1, &err);
    EXPECT_INT(byte_at(p), 7);
    EXPECT_OK(d->transfer(d, false, &(gpu_piece){ p, host, N }, 1, &err), err);
    EXPECT_INT(host[0], 7);
    d->free(d, GPU_LOCAL, p);
    d->close(d);
}

/* ---- recordings --------------------------------------------------------------------------- */

/* Main fills p, stream 1 copies it to q, main copies it to r and, joined, q to s. */
static ds4_status record_fork(gpu_device *d, gpu_ptr p, const void *value, bool join, gpu_graph **g)
{
    EXPECT_OK(d->graph_begin(d, &err), err);
    d->to_device(d, GPU_MAIN, p, value, N, &err);
    d->record(d, GPU_MAIN, 0, &err);
    d->wait(d, 1, 0, &err);
    d->copy(d, 1, p + N, p, N, &err);
    d->record(d, 1, 1, &err);
    d->copy(d, GPU_MAIN, p + 2 * N, p, N, &err);
    if (join) {
        d->wait(d, GPU_MAIN, 1, &err);
        d->copy(d, GPU_MAIN, p + 3 * N, p + N, N, &err);
    }
    return d->graph_end(d, g, &err);
}

TEST(a_recording_does_nothing_until_it_is_run_and_then_the_same_every_time)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        gpu_device *d = opened((fake_options){ .seed = seed });
        const gpu_ptr p = local(d, 4 * N);
        gpu_ptr at;
        uint8_t *value;
        gpu_graph *g;
        EXPECT_OK(d->alloc(d, GPU_PINNED, N, &at, (void **)&value, &err), err);
        EXPECT_OK(record_fork(d, p, value, true, &g), err);
        EXPECT_OK(d->sync(d, -1, &err), err);
        EXPECT_INT(byte_at(p), 0xee);
        for (int i = 1; i <= 3; i++) {
            memset(value, i, N);
            EXPECT_OK(d->graph_run(d, g, &err), err);
            EXPECT_OK(d->sync(d, GPU_MAIN, &err), err);
            for (int part = 0; part < 4; part++) EXPECT_INT(byte_at(p + (gpu_ptr)part * N), i);
        }
        d->graph_free(d, g);
        d->free(d, GPU_LOCAL, p);
        d->free(d, GPU_PINNED, at);
        d->close(d);
    }
}

TEST(a_recording_whose_streams_are_not_joined_fails_and_so_does_one_that_was_waited_for)
{
    gpu_device *d = opened((fake_options){ 0 });
    const gpu_ptr p = local(d, 4 * N);
    gpu_ptr at;
    uint8_t *value;
    gpu_graph *g;
    EXPECT_OK(d->alloc(d, GPU_PINNED, N, &at, (void **)&value, &err), err);
    EXPECT_INT(record_fork(d, p, value, false, &g), DS4_EDEVICE);
    EXPECT(strstr(err.message, "stream 1 was not joined") != NULL);
    EXPECT(g == NULL);
    EXPECT_OK(d->graph_begin(d, &err), err);
    EXPECT_INT(d->sync(d, -1, &err), DS4_EDEVICE);
    EXPECT_INT(d->graph_end(d, &g, &err), DS4_EDEVICE);
    EXPECT_OK(d->graph_begin(d, &err), err);
    d->fill(d, GPU_MAIN, p, 1, N, &err);
    d->graph_abandon(d);
    EXPECT_OK(d->fill(d, 2, p, 3, N, &err), err);
    EXPECT_OK(d->sync(d, -1, &err), err);
    EXPECT_INT(byte_at(p), 3);
    d->free(d, GPU_LOCAL, p);
    d->free(d, GPU_PINNED, at);
    d->close(d);
}

TEST(a_device_without_graphs_says_so)
{
    gpu_device *d = opened((fake_options){ .no_graphs = true, .unified = true });
    EXPECT_INT(d->graph_begin(d, &err), DS4_EUNSUPPORTED);
    EXPECT(d->info.unified);
    d->close(d);
}

/* ---- failures ----------------------------------------------------------------------------- */

TEST(memory_ends_where_the_options_say)
{
    gpu_device *d = opened((fake_options){ .total_bytes = 1000, .fail_alloc = 3 });
    const gpu_ptr p = local(d, 600);
    gpu_ptr q;
    uint64_t available, total;
    EXPECT_INT(d->alloc(d, GPU_LOCAL, 401, &q, NULL, &err), DS4_EMEMORY);
    EXPECT_OK(d->memory(d, &available, &total, &err), err);
    EXPECT_INT(available, 400);
    EXPECT_INT(total, 1000);
    EXPECT_INT(d->alloc(d, GPU_LOCAL, 1, &q, NULL, &err), DS4_EMEMORY);
    EXPECT_OK(d->alloc(d, GPU_LOCAL, 400, &q, NULL, &err), err);
    d->free(d, GPU_LOCAL, p);
    d->free(d, GPU_LOCAL, q);
    d->close(d);
}

static ds4_status norm(gpu_device *d, int stream, gpu_ptr x)
{
    const rms_norm_kernel_args k = { .x = { x, 16, 1, 16 }, .y = { x, 16, 1, 16 }, .eps = 1e-6f };
    return d->launch(d, stream, &(gpu_launch){ CUDA_rms_norm, { 1, 1, 1 }, 32, 0, &k, sizeof k }, &err);
}

TEST(a_kernel_that_fails_shows_at_the_next_wait_and_then_always)
{
    gpu_device *d = opened((fake_options){ .fail_launch = 2 });
    const gpu_ptr p = local(d, N);
    d->fill(d, GPU_MAIN, p, 0, N, &err);
    EXPECT_OK(norm(d, GPU_MAIN, p), err);
    EXPECT_OK(d->sync(d, -1, &err), err);
    EXPECT_OK(norm(d, GPU_MAIN, p), err);
    EXPECT_INT(d->sync(d, -1, &err), DS4_EDEVICE);
    EXPECT_INT(norm(d, GPU_MAIN, p), DS4_EDEVICE);
    EXPECT_INT(d->transfer(d, true, NULL, 0, &err), DS4_EDEVICE);
    EXPECT_INT(d->record(d, 0, 0, &err), DS4_EDEVICE);
    d->free(d, GPU_LOCAL, p);
    d->close(d);
}

/* ---- mistakes ----------------------------------------------------------------------------- */

static gpu_device *D;
static gpu_ptr     P;

static void read_on_the_host(void *ctx) { (void)ctx; volatile int v = *(const volatile uint8_t *)(uintptr_t)P; (void)v; }
static void free_under_work(void *ctx)
{
    (void)ctx;
    D->fill(D, GPU_MAIN, P, 0, N, &err);
    D->free(D, GPU_LOCAL, P);
}
static void free_twice(void *ctx)
{
    (void)ctx;
    D->free(D, GPU_LOCAL, P);
    D->free(D, GPU_LOCAL, P + 256);
}
static void host_address_to_a_kernel(void *ctx)
{
    float x[16] = { 0 };
    (void)ctx;
    norm(D, GPU_MAIN, (gpu_ptr)(uintptr_t)x);
    D->sync(D, -1, &err);
}
static void too_much_shared(void *ctx)
{
    const rms_norm_kernel_args k = { .eps = 1.0f };
    (void)ctx;
    D->launch(D, 0, &(gpu_launch){ CUDA_rms_norm, { 1, 1, 1 }, 32, 228 * 1024, &k, sizeof k }, &err);
}
static void record_plain_memory(void *ctx)
{
    (void)ctx;
    D->graph_begin(D, &err);
    D->to_device(D, GPU_MAIN, P, &err, 16, &err);
}
static void wait_for_outside(void *ctx)
{
    (void)ctx;
    D->record(D, 1, 0, &err);
    D->graph_begin(D, &err);
    D->wait(D, GPU_MAIN, 0, &err);
}
static void stream_from_outside(void *ctx)
{
    (void)ctx;
    D->graph_begin(D, &err);
    D->fill(D, 1, P, 0, N, &err);
}

TEST(our_own_mistakes_end_the_process)
{
    D = opened((fake_options){ 0 });
    P = local(D, N);
    EXPECT_ENDS(read_on_the_host, NULL);
    EXPECT_ENDS(free_under_work, NULL);
    EXPECT_ENDS(free_twice, NULL);
    EXPECT_ENDS(host_address_to_a_kernel, NULL);
    EXPECT_ENDS(too_much_shared, NULL);
    EXPECT_ENDS(record_plain_memory, NULL);
    EXPECT_ENDS(wait_for_outside, NULL);
    EXPECT_ENDS(stream_from_outside, NULL);
    D->free(D, GPU_LOCAL, P);
    D->close(D);
}

static void *move_bytes(void *ctx)
{
    uint8_t host[N];
    ds4_error e;
    for (int i = 0; i < 100; i++) {
        memset(host, i, N);
        EXPECT_OK(D->transfer(D, true, &(gpu_piece){ (gpu_ptr)(uintptr_t)ctx, host, N }, 1, &e), e);
    }
    return NULL;
}

TEST(transfers_come_from_any_thread_beside_work)
{
    D = opened((fake_options){ 0 });
    const gpu_ptr p = local(D, N), q = local(D, N);
    pthread_t t;
    EXPECT_INT(pthread_create(&t, NULL, move_bytes, (void *)(uintptr_t)q), 0);
    for (int i = 0; i < 100; i++) {
        D->fill(D, GPU_MAIN, p, (uint8_t)i, N, &err);
        EXPECT_OK(D->sync(D, -1, &err), err);
    }
    pthread_join(t, NULL);
    EXPECT_INT(byte_at(p), 99);
    EXPECT_INT(byte_at(q), 99);
    D->free(D, GPU_LOCAL, p);
    D->free(D, GPU_LOCAL, q);
    D->close(D);
}
