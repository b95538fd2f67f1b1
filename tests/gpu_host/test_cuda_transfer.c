/* Transfers of the driver's device over a driver that is none. */
#include "kernels/cuda/cuda_driver.h"
#include "mock_cuda.h"
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"

static ds4_error err;
enum { ROOM = 20 << 20 };

static gpu_device *opened(gpu_ptr *p)
{
    const cuda_api api = mock_cuda();
    gpu_device *d = NULL;
    mock_reset();
    EXPECT_OK(driver_open(&d, &api, &mock_images, 0, &err), err);
    EXPECT_OK(d->alloc(d, GPU_LOCAL, ROOM, p, NULL, &err), err);
    return d;
}

static void closed(gpu_device *d, gpu_ptr p)
{
    d->free(d, GPU_LOCAL, p);
    d->close(d);
    EXPECT_INT(mock_alive(), 0);
}

static uint8_t *noise(size_t n)
{
    uint8_t *x = malloc(n);
    random_stream r;
    random_seed(&r, 7);
    for (size_t i = 0; i < n; i++) x[i] = (uint8_t)random_u64(&r);
    return x;
}

TEST(bytes_of_any_number_come_back_as_they_went)
{
    gpu_ptr p;
    gpu_device *d = opened(&p);
    uint8_t *x = noise(ROOM), *y = malloc(ROOM);
    const uint64_t sizes[] = { 0, 1, 255, BOUNCE_BYTES - 1, BOUNCE_BYTES, BOUNCE_BYTES + 1, 3 * BOUNCE_BYTES,
                               4 * BOUNCE_BYTES + 77, ROOM };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memset(y, 0, ROOM);
        EXPECT_OK(d->transfer(d, true, &(gpu_piece){ p, x, sizes[i] }, 1, &err), err);
        EXPECT_OK(d->transfer(d, false, &(gpu_piece){ p, y, sizes[i] }, 1, &err), err);
        EXPECT(memcmp(x, y, sizes[i]) == 0);
        EXPECT(sizes[i] == ROOM || y[sizes[i]] == 0);
    }
    free(x);
    free(y);
    closed(d, p);
}

/* n pieces of random sizes; gap: bytes between them on the card. */
static gpu_piece *cut(gpu_ptr p, uint8_t *host, int n, uint64_t largest, uint64_t gap, uint64_t seed)
{
    gpu_piece *pieces = malloc((size_t)n * sizeof *pieces);
    random_stream r;
    uint64_t at = 0, on_host = 0;
    random_seed(&r, seed);
    for (int i = 0; i < n; i++) {
        const uint64_t bytes = random_below(&r, largest + 1);
        pieces[i] = (gpu_piece){ p + at, host + on_host, bytes };
        at += bytes + gap;
        on_host += bytes;
    }
    return pieces;
}

TEST(many_pieces_come_back_whether_they_are_neighbours_or_not)
{
    gpu_ptr p;
    gpu_device *d = opened(&p);
    uint8_t *x = noise(ROOM), *y = calloc(1, ROOM);
    static const struct { int n; uint64_t largest, gap; } cases[] = { { 5000, 100, 0 }, { 5000, 100, 3 }, { 9, 2 << 20, 0 }, { 9, 2 << 20, 5 }, { 3000, 6000, 1 } };
    for (int i = 0; i < 5; i++) {
        gpu_piece *to = cut(p, x, cases[i].n, cases[i].largest, cases[i].gap, (uint64_t)i);
        gpu_piece *from = cut(p, y, cases[i].n, cases[i].largest, cases[i].gap, (uint64_t)i);
        const gpu_piece *last = &to[cases[i].n - 1];
        const size_t total = (size_t)((uint8_t *)last->host - x) + last->bytes;
        memset(y, 0, ROOM);
        EXPECT_OK(d->transfer(d, true, to, cases[i].n, &err), err);
        EXPECT_OK(d->transfer(d, false, from, cases[i].n, &err), err);
        EXPECT(memcmp(x, y, total) == 0);
        free(to);
        free(from);
    }
    free(x);
    free(y);
    closed(d, p);
}

TEST(neighbours_on_the_card_are_one_copy)
{
    gpu_ptr p;
    gpu_device *d = opened(&p);
    uint8_t x[1000] = { 0 };
    gpu_piece pieces[10];
    for (int i = 0; i < 10; i++) pieces[i] = (gpu_piece){ p + (gpu_ptr)i * 100, x + 900 - i * 100, 100 };
    EXPECT_OK(d->transfer(d, true, pieces, 10, &err), err);
    EXPECT_INT(mock_calls("cuMemcpyHtoDAsync_v2"), 1);
    closed(d, p);
}

TEST(pinned_memory_goes_without_a_detour)
{
    gpu_ptr p, at;
    gpu_device *d = opened(&p);
    uint8_t *pinned;
    EXPECT_OK(d->alloc(d, GPU_PINNED, ROOM, &at, (void **)&pinned, &err), err);
    memset(pinned, 3, ROOM);
    EXPECT_OK(d->transfer(d, true, &(gpu_piece){ p, pinned, ROOM }, 1, &err), err);
    EXPECT_INT(mock_calls("cuMemcpyHtoDAsync_v2"), 1);
    memset(pinned, 0, ROOM);
    EXPECT_OK(d->transfer(d, false, &(gpu_piece){ p, pinned, ROOM }, 1, &err), err);
    EXPECT_INT(pinned[ROOM - 1], 3);
    d->free(d, GPU_PINNED, at);
    closed(d, p);
}

TEST(a_transfer_that_fails_leaves_the_next_one_sound)
{
    gpu_ptr p;
    gpu_device *d = opened(&p);
    uint8_t *x = noise(ROOM), *y = calloc(1, ROOM);
    for (int i = 1; i <= 5; i++) {
        mock_fail("cuMemcpyDtoHAsync_v2", i, CU_NOT_SUPPORTED, false);
        EXPECT_OK(d->transfer(d, true, &(gpu_piece){ p, x, ROOM }, 1, &err), err);
        EXPECT_INT(d->transfer(d, false, &(gpu_piece){ p, y, ROOM }, 1, &err), DS4_EDEVICE);
        EXPECT(strstr(err.message, "bytes from the card") != NULL);
        memset(y, 0, 1000);
        EXPECT_OK(d->transfer(d, false, &(gpu_piece){ p, y, 500 }, 1, &err), err);
        EXPECT(memcmp(x, y, 500) == 0);
        EXPECT_INT(y[500], 0);
    }
    free(x);
    free(y);
    closed(d, p);
}

typedef struct { gpu_device *d; gpu_ptr at; uint8_t value; } mover;

static void *move_bytes(void *ctx)
{
    const mover *m = ctx;
    uint8_t x[4096], y[4096];
    ds4_error e;
    for (int i = 0; i < 50; i++) {
        memset(x, m->value + i, sizeof x);
        EXPECT_OK(m->d->transfer(m->d, true, &(gpu_piece){ m->at, x, sizeof x }, 1, &e), e);
        EXPECT_OK(m->d->transfer(m->d, false, &(gpu_piece){ m->at, y, sizeof y }, 1, &e), e);
        EXPECT(memcmp(x, y, sizeof x) == 0);
    }
    return NULL;
}

TEST(threads_that_never_saw_the_device_may_transfer_at_once)
{
    gpu_ptr p, q;
    gpu_device *d = opened(&p);
    mover m[3];
    pthread_t t[3];
    for (int i = 0; i < 3; i++) {
        m[i] = (mover){ d, p + (gpu_ptr)i * 4096, (uint8_t)(50 * i) };
        EXPECT_INT(pthread_create(&t[i], NULL, move_bytes, &m[i]), 0);
    }
    for (int i = 0; i < 50; i++) {              /* beside the thread that drives the device */
        EXPECT_OK(d->alloc(d, GPU_PINNED, 4096, &q, NULL, &err), err);
        EXPECT_OK(d->fill(d, GPU_MAIN, p + (1 << 20), 0, 4096, &err), err);
        EXPECT_OK(d->sync(d, -1, &err), err);
        d->free(d, GPU_PINNED, q);
    }
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    closed(d, p);
}
