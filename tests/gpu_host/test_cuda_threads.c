/* Transfers of other threads, as savers of sessions make them, beside steps: on the fake device and on the
 * driver's over the mock. What is not locked shows under ThreadSanitizer. */
#include "step_rig.h"

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/cuda/cuda_driver.h"
#include "mock_cuda.h"

enum { SAVERS = 2, STEPS = 12, SAVED = 8 };

typedef struct {
    cuda_backend *b;
    view          v;
    uint64_t      seed;
    atomic_bool  *over;
    int           rounds, wrong, failed;
} saver;

/* Every other row there and back. */
static void *save(void *ctx)
{
    saver *s = ctx;
    backend *b = &s->b->base;
    float to[SAVED / 2][COLS], from[SAVED / 2][COLS];
    move_piece in[SAVED / 2], out[SAVED / 2];
    random_stream r;
    ds4_error err;
    random_seed(&r, s->seed);
    do {
        for (int i = 0; i < SAVED / 2; i++) {
            for (int j = 0; j < COLS; j++) to[i][j] = (float)random_normal(&r);
            in[i] = (move_piece){ view_rows(s->v, 2 * i, 1), to[i] };
            out[i] = (move_piece){ view_rows(s->v, 2 * i, 1), from[i] };
        }
        s->failed += b->move(b, true, in, SAVED / 2, &err) || b->move(b, false, out, SAVED / 2, &err);
        s->wrong += memcmp(from, to, sizeof to) != 0;
        s->rounds++;
    } while (!atomic_load(s->over));
    return NULL;
}

/* Rows of x, turned by their positions, into y. */
static void steps(cuda_backend *b, view x, view y, float *got)
{
    static decoders d;
    ds4_error err;
    for (int i = 0; i < STEPS; i++) {
        set_decoders(&d, 3, 10 + i);
        for (bool again = true; again;) {
            if (!begin(b, &d, false)) {
                EXPECT_OK(b->base.copy(&b->base, view_rows(y, 0, 3), view_rows(x, 0, 3), &err), err);
                EXPECT_OK(turn(b, view_rows(y, 0, 3), &d.rows), b->base.queue.error);
            }
            again = end(b, true);
        }
        fetch(b, view_rows(y, 0, 3), got + i * 3 * COLS);
    }
    EXPECT_INT(cuda_step_recordings(b), 1);
}

/* Takes the device. */
static void beside(gpu_device *d)
{
    ds4_error err;
    backend *base = NULL;
    const backend_options o = { .name = "cuda", .limits = limits };
    REQUIRE_OK(cuda_open_on(&base, d, &o, &err), err);
    cuda_backend *b = (cuda_backend *)base;
    const view x = floats(b, 3, 7), y = floats(b, 3, 0);
    static float want[STEPS * 3 * COLS], got[STEPS * 3 * COLS];
    saver s[SAVERS];
    pthread_t thread[SAVERS];
    atomic_bool over = false;
    steps(b, x, y, want);
    for (int i = 0; i < SAVERS; i++) {
        s[i] = (saver){ .b = b, .v = floats(b, SAVED, 0), .seed = (uint64_t)i, .over = &over };
        EXPECT_INT(pthread_create(&thread[i], NULL, save, &s[i]), 0);
    }
    for (int round = 0; round < 4; round++) {
        steps(b, x, y, got);
        EXPECT(memcmp(got, want, sizeof got) == 0);
    }
    atomic_store(&over, true);
    for (int i = 0; i < SAVERS; i++) {
        pthread_join(thread[i], NULL);
        EXPECT(s[i].rounds > 0);
        EXPECT_INT(s[i].wrong, 0);
        EXPECT_INT(s[i].failed, 0);
        base->buf_free(base, s[i].v.buf);
    }
    base->buf_free(base, x.buf);
    base->buf_free(base, y.buf);
    base->close(base);
}

TEST(other_threads_transfer_while_steps_run_on_the_fake_device)
{
    gpu_device *d;
    ds4_error err;
    REQUIRE_OK(fake_device_open(&d, &(fake_options){ .seed = 9 }, &err), err);
    beside(d);
}

TEST(other_threads_transfer_while_steps_run_on_the_driver_s_device)
{
    gpu_device *d;
    ds4_error err;
    mock_reset();
    const cuda_api api = mock_cuda();
    REQUIRE_OK(driver_open(&d, &api, &mock_images, 0, &err), err);
    beside(d);
    EXPECT_INT(mock_alive(), 0);
}
