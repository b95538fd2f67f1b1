/* step_rig: steps of decoders on a device that is listened to, for the tests of order and recordings. */
#ifndef TESTS_GPU_HOST_STEP_RIG_H
#define TESTS_GPU_HOST_STEP_RIG_H

#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/status.h"
#include "fake_device.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_internal.h"

enum { ROWS = 24, COLS = 64, MOST = 70 };

static const backend_limits limits = { .max_rows = MOST, .max_cols = COLS, .max_pairs = MOST, .max_expert_width = COLS,
                                       .n_experts = 4, .max_head_width = COLS, .n_layer = 1, .max_segments = MOST,
                                       .max_tokens = 4096, .block_tokens = 1024 };

/* ---- a device that is listened to ------------------------------------------------------------- */

static struct {
    ds4_status (*launch)(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err);
    ds4_status (*copy)(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err);
    ds4_status (*sync)(gpu_device *d, int stream, ds4_error *err);
    int work[GPU_STREAMS], syncs;
} spy;

static inline ds4_status spy_launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    spy.work[stream]++;
    return spy.launch(d, stream, l, err);
}

static inline ds4_status spy_copy(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    spy.work[stream]++;
    return spy.copy(d, stream, to, from, bytes, err);
}

static inline ds4_status spy_sync(gpu_device *d, int stream, ds4_error *err)
{
    spy.syncs++;
    return spy.sync(d, stream, err);
}

static inline cuda_backend *open_step(const fake_options *o)
{
    ds4_error err;
    gpu_device *d;
    backend *b = NULL;
    const backend_options bo = { .name = "cuda", .limits = limits };
    EXPECT_OK(fake_device_open(&d, o, &err), err);
    memset(&spy, 0, sizeof spy);
    spy.launch = d->launch;
    spy.copy = d->copy;
    spy.sync = d->sync;
    d->launch = spy_launch;
    d->copy = spy_copy;
    d->sync = spy_sync;
    EXPECT_OK(cuda_open_on(&b, d, &bo, &err), err);
    return (cuda_backend *)b;
}

static inline view floats(cuda_backend *b, int rows, uint64_t seed)
{
    ds4_error err;
    view v = { .rows = rows, .cols = COLS, .type = QUANT_F32, .stride = COLS * sizeof(float) };
    float *x = malloc((size_t)rows * COLS * sizeof *x);
    random_stream r;
    random_seed(&r, seed);
    for (int i = 0; i < rows * COLS; i++) x[i] = (float)random_normal(&r);
    EXPECT_OK(b->base.buf_alloc(&b->base, (uint64_t)rows * v.stride, &v.buf, &err), err);
    EXPECT_OK(b->base.upload(&b->base, v, x, &err), err);
    free(x);
    return v;
}

static inline void fetch(cuda_backend *b, view v, float *out)
{
    ds4_error err;
    EXPECT_OK(b->base.wait(&b->base, &err), err);
    EXPECT_OK(b->base.download(&b->base, out, v, &err), err);
}

/* ---- steps of decoders --------------------------------------------------------------------------- */

typedef struct {
    int32_t    pos[MOST], token[MOST], segment_of[MOST], logits[MOST];
    segment    segment[MOST];
    batch_rows rows;
} decoders;

/* n sessions, a row of each, at pos and the next ones. */
static inline void set_decoders(decoders *d, int n, int pos)
{
    *d = (decoders){ .rows = { .n = n, .pos = d->pos, .token = d->token, .segment_of = d->segment_of,
                               .segment = d->segment, .n_segments = n } };
    for (int i = 0; i < n; i++) {
        d->pos[i] = pos + i;
        d->segment_of[i] = d->logits[i] = i;
        d->segment[i] = (segment){ .first = i, .n = 1, .pos = pos + i };
    }
}

static inline bool begin(cuda_backend *b, const decoders *d, bool selects)
{
    ds4_error err;
    bool done = false;
    const step_shape s = { .rows = &d->rows, .logits_rows = d->logits, .n_logits = d->rows.n, .selects = selects };
    EXPECT_OK(b->base.step_begin(&b->base, &s, &done, &err), err);
    return done;
}

static inline bool end(cuda_backend *b, bool complete)
{
    ds4_error err;
    bool again = false;
    EXPECT_OK(b->base.step_end(&b->base, complete, &again, &err), err);
    return again;
}

static inline ds4_status norm(cuda_backend *b, view x, view y)
{
    return b->base.ops.rms_norm(&b->base.queue, &(rms_norm_args){ .x = x, .y = y, .eps = 1e-6f, .name = "test" });
}

static const float freq[COLS / 2] = { 1.0f, 0.5f, 0.25f, 0.125f, 0.0625f };

/* Its result depends on the positions of the step. */
static inline ds4_status turn(cuda_backend *b, view x, const batch_rows *rows)
{
    return b->base.ops.rope_tail(&b->base.queue, &(rope_tail_args){ .x = x, .n_heads = 1, .rope = { freq, COLS },
                                                                    .rows = rows });
}

#endif
