/* Order of ops on streams, recordings and tables of a step, on a device whose streams advance as chance
 * has it: what was not ordered, or not in a table, shows as wrong numbers. */
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
    ds4_status (*graph_end)(gpu_device *d, gpu_graph **out, ds4_error *err);
    ds4_status (*sync)(gpu_device *d, int stream, ds4_error *err);
    int work[GPU_STREAMS], syncs;
} spy;

static ds4_status spy_launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    spy.work[stream]++;
    return spy.launch(d, stream, l, err);
}

static ds4_status spy_copy(gpu_device *d, int stream, gpu_ptr to, gpu_ptr from, uint64_t bytes, ds4_error *err)
{
    spy.work[stream]++;
    return spy.copy(d, stream, to, from, bytes, err);
}

static ds4_status spy_sync(gpu_device *d, int stream, ds4_error *err)
{
    spy.syncs++;
    return spy.sync(d, stream, err);
}

static ds4_status no_graph_end(gpu_device *d, gpu_graph **out, ds4_error *err)
{
    *out = NULL;
    d->graph_abandon(d);
    return ds4_fail(err, DS4_EMEMORY, "no memory for a recording");
}

static cuda_backend *open_step(const fake_options *o)
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

static view floats(cuda_backend *b, int rows, uint64_t seed)
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

static void fetch(cuda_backend *b, view v, float *out)
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
static void set_decoders(decoders *d, int n, int pos)
{
    *d = (decoders){ .rows = { .n = n, .pos = d->pos, .token = d->token, .segment_of = d->segment_of,
                               .segment = d->segment, .n_segments = n } };
    for (int i = 0; i < n; i++) {
        d->pos[i] = pos + i;
        d->segment_of[i] = d->logits[i] = i;
        d->segment[i] = (segment){ .first = i, .n = 1, .pos = pos + i };
    }
}

static bool begin(cuda_backend *b, const decoders *d, bool selects)
{
    ds4_error err;
    bool done = false;
    const step_shape s = { .rows = &d->rows, .logits_rows = d->logits, .n_logits = d->rows.n, .selects = selects };
    EXPECT_OK(b->base.step_begin(&b->base, &s, &done, &err), err);
    return done;
}

static bool end(cuda_backend *b, bool complete)
{
    ds4_error err;
    bool again = false;
    EXPECT_OK(b->base.step_end(&b->base, complete, &again, &err), err);
    return again;
}

static ds4_status norm(cuda_backend *b, view x, view y)
{
    return b->base.ops.rms_norm(&b->base.queue, &(rms_norm_args){ .x = x, .y = y, .eps = 1e-6f, .name = "test" });
}

static const float freq[COLS / 2] = { 1.0f, 0.5f, 0.25f, 0.125f, 0.0625f };

/* Its result depends on the positions of the step. */
static ds4_status turn(cuda_backend *b, view x, const batch_rows *rows)
{
    return b->base.ops.rope_tail(&b->base.queue, &(rope_tail_args){ .x = x, .n_heads = 1, .rope = { freq, COLS }, .rows = rows });
}

/* ---- order ----------------------------------------------------------------------------------------- */

/* A random program over rows of v: copies and norms of ranges that may follow from each other or not. */
static void run_program(cuda_backend *b, view v, uint64_t seed, int n_ops)
{
    ds4_error err;
    random_stream r;
    random_seed(&r, seed);
    for (int i = 0; i < n_ops; i++) {
        const int n = 1 + (int)random_below(&r, 3), half = ROWS / 2;
        const int from = (int)random_below(&r, (uint64_t)(half - n)), to = half + (int)random_below(&r, (uint64_t)(half - n));
        const bool back = random_below(&r, 2) != 0;
        const view x = view_rows(v, back ? to : from, n), y = view_rows(v, back ? from : to, n);
        if (random_below(&r, 3)) EXPECT_OK(b->base.copy(&b->base, y, x, &err), err);
        else EXPECT_OK(norm(b, x, y), b->base.queue.error);
    }
}

TEST(ops_on_several_streams_give_what_they_give_one_after_another)
{
    static float want[ROWS * COLS], got[ROWS * COLS];
    int beside = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = seed });
        const int n_ops = seed % 3 ? 20 : 150;              /* fewer and more than are remembered */
        decoders d;
        set_decoders(&d, 2, 5);
        const view plain = floats(b, ROWS, seed), v = floats(b, ROWS, seed);
        run_program(b, plain, seed, n_ops);
        fetch(b, plain, want);
        memset(spy.work, 0, sizeof spy.work);
        EXPECT(!begin(b, &d, false));
        run_program(b, v, seed, n_ops);
        end(b, true);
        beside += spy.work[1] + spy.work[2];
        EXPECT_INT(spy.work[0] + spy.work[1] + spy.work[2] >= n_ops, 1);
        fetch(b, v, got);
        EXPECT(memcmp(got, want, sizeof got) == 0);
        b->base.buf_free(&b->base, plain.buf);
        b->base.buf_free(&b->base, v.buf);
        b->base.close(&b->base);
    }
    EXPECT(beside > 200);
}

/* y = x as an op of its own that may forget to say what it reads or writes. */
static ds4_status say(cuda_backend *b, view x, view y, bool reads, bool writes, bool late)
{
    queue *dev = &b->base.queue;
    int stream;
    ds4_error err;
    cuda_op(b);
    if (late) {                                             /* something small before the declarations */
        ds4_status st = cuda_op_stream(dev, &stream);
        if (st) return cuda_done(dev, st);
    }
    if (reads) cuda_reads(b, x);
    if (writes) cuda_writes(b, y);
    ds4_status st = cuda_op_stream(dev, &stream);
    if (!st) st = b->device->copy(b->device, stream, cuda_at(y), cuda_at(x), x.stride * (uint64_t)x.rows, &err);
    return cuda_done(dev, st);
}

/* A chain of copies with something unrelated between its links; how often chance breaks it. */
static int broken_chains(bool reads, bool writes, bool late)
{
    static float want[COLS], got[COLS];
    int broken = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = seed });
        decoders d;
        set_decoders(&d, 1, 5);
        const view v = floats(b, ROWS, seed);
        fetch(b, view_rows(v, 0, 1), want);
        begin(b, &d, false);
        for (int i = 0; i < 6; i++) {
            EXPECT_OK(say(b, view_rows(v, i, 1), view_rows(v, i + 1, 1), reads || i != 3, writes || i != 3, late),
                      b->base.queue.error);
            EXPECT_OK(norm(b, view_rows(v, 20, 1), view_rows(v, 21 + i % 3, 1)), b->base.queue.error);
        }
        end(b, true);
        fetch(b, view_rows(v, 6, 1), got);
        broken += memcmp(got, want, sizeof got) != 0;
        b->base.buf_free(&b->base, v.buf);
        b->base.close(&b->base);
    }
    return broken;
}

TEST(an_op_that_keeps_a_range_to_itself_is_found_out)
{
    EXPECT_INT(broken_chains(true, true, false), 0);
    EXPECT(broken_chains(false, true, false) > 0);
    EXPECT(broken_chains(true, false, false) > 0);
}

TEST(a_range_that_is_declared_within_an_op_still_waits) { EXPECT_INT(broken_chains(true, true, true), 0); }

TEST(work_that_nobody_declared_comes_after_all_and_before_all)
{
    static float want[COLS], got[COLS];
    for (uint64_t seed = 0; seed < 20; seed++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = seed });
        decoders d;
        set_decoders(&d, 1, 5);
        const view v = floats(b, ROWS, seed);
        fetch(b, view_rows(v, 0, 1), want);
        begin(b, &d, false);
        for (int i = 0; i < 5; i++) {
            int stream;
            ds4_error err;
            EXPECT_OK(norm(b, view_rows(v, 20, 1), view_rows(v, 21, 1)), b->base.queue.error);
            EXPECT_OK(b->base.copy(&b->base, view_rows(v, 2 * i + 1, 1), view_rows(v, 2 * i, 1), &err), err);
            EXPECT_OK(cuda_op_stream(&b->base.queue, &stream), b->base.queue.error);
            EXPECT_OK(b->device->copy(b->device, stream, cuda_at(view_rows(v, 2 * i + 2, 1)), cuda_at(view_rows(v, 2 * i + 1, 1)),
                                      v.stride, &err), err);
        }
        end(b, true);
        fetch(b, view_rows(v, 10, 1), got);
        EXPECT(memcmp(got, want, sizeof got) == 0);
        b->base.buf_free(&b->base, v.buf);
        b->base.close(&b->base);
    }
}

/* y = x by way of `between`, which others may want. */
static ds4_status two_parts(cuda_backend *b, view x, view between, view y, int stream[2])
{
    ds4_error err;
    ds4_status st = DS4_OK;
    const view way[] = { x, between, y };
    cuda_op(b);
    cuda_reads(b, x);
    cuda_writes_at(b, cuda_at(between), between.stride);
    cuda_writes(b, y);
    for (int i = 0; i < 2 && !st; i++) {
        st = cuda_op_stream(&b->base.queue, &stream[i]);
        if (!st) st = b->device->copy(b->device, stream[i], cuda_at(way[i + 1]), cuda_at(way[i]), x.stride, &err);
        if (!st) cuda_op_made(b, cuda_at(between), between.stride);
    }
    return cuda_done(&b->base.queue, st);
}

TEST(what_an_op_makes_first_can_be_used_beside_the_rest_of_it)
{
    static float want[COLS], got[3][COLS];
    for (uint64_t seed = 0; seed < 30; seed++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = seed, .no_graphs = true });
        decoders d;
        int where[3];
        ds4_error err;
        set_decoders(&d, 1, 5);
        const view v = floats(b, ROWS, seed);
        fetch(b, view_rows(v, 0, 1), want);
        begin(b, &d, false);
        EXPECT_OK(b->base.copy(&b->base, view_rows(v, 1, 1), view_rows(v, 0, 1), &err), err);
        EXPECT_OK(two_parts(b, view_rows(v, 1, 1), view_rows(v, 2, 1), view_rows(v, 3, 1), where), b->base.queue.error);
        cuda_op(b);
        cuda_reads(b, view_rows(v, 2, 1));
        cuda_writes(b, view_rows(v, 4, 1));
        EXPECT_OK(cuda_op_stream(&b->base.queue, &where[2]), b->base.queue.error);
        EXPECT_OK(b->device->copy(b->device, where[2], cuda_at(view_rows(v, 4, 1)), cuda_at(view_rows(v, 2, 1)), v.stride, &err), err);
        EXPECT_OK(cuda_done(&b->base.queue, DS4_OK), b->base.queue.error);
        EXPECT_OK(b->base.copy(&b->base, view_rows(v, 5, 1), view_rows(v, 3, 1), &err), err);
        end(b, true);
        EXPECT(where[0] == GPU_MAIN && where[1] == GPU_MAIN && where[2] != GPU_MAIN);
        for (int i = 0; i < 3; i++) {
            fetch(b, view_rows(v, 3 + i, 1), got[i]);
            EXPECT(memcmp(got[i], want, sizeof want) == 0);
        }
        b->base.buf_free(&b->base, v.buf);
        b->base.close(&b->base);
    }
}

TEST(memory_of_a_layer_is_told_apart_by_what_it_is)
{
    static const struct { int layer; unsigned which; bool writes, follows; } second[] = {
        { 3, CUDA_RING | CUDA_INDEX_POOL, false, false },
        { 4, CUDA_POOL, true, false },
        { 3, CUDA_POOL, false, true },
        { 3, CUDA_RING | CUDA_POOL | CUDA_STATE, false, true },
        { 3, CUDA_POOL, true, true },
    };
    cuda_backend *b = open_step(&(fake_options){ .seed = 1, .no_graphs = true });
    const view v = floats(b, ROWS, 1);
    for (size_t i = 0; i < sizeof second / sizeof *second; i++) {
        decoders d;
        int where[2];
        set_decoders(&d, 1, 5);
        begin(b, &d, false);
        EXPECT_OK(norm(b, view_rows(v, 0, 1), view_rows(v, 1, 1)), b->base.queue.error);
        cuda_op(b);
        cuda_writes_memory(b, &d.rows, 3, CUDA_POOL);
        EXPECT_OK(cuda_op_stream(&b->base.queue, &where[0]), b->base.queue.error);
        EXPECT_OK(cuda_done(&b->base.queue, DS4_OK), b->base.queue.error);
        cuda_op(b);
        if (second[i].writes) cuda_writes_memory(b, &d.rows, second[i].layer, second[i].which);
        else cuda_reads_memory(b, &d.rows, second[i].layer, second[i].which);
        EXPECT_OK(cuda_op_stream(&b->base.queue, &where[1]), b->base.queue.error);
        EXPECT_OK(cuda_done(&b->base.queue, DS4_OK), b->base.queue.error);
        end(b, true);
        EXPECT(where[0] != GPU_MAIN && where[1] != GPU_MAIN);
        EXPECT_INT(where[1] == where[0], second[i].follows);
    }
    b->base.buf_free(&b->base, v.buf);
    b->base.close(&b->base);
}

/* ---- recordings -------------------------------------------------------------------------------------- */

/* A step of n decoders: rows of x are turned by their positions into y. */
static bool run_step(cuda_backend *b, view x, view y, int n, int pos)
{
    ds4_error err;
    static decoders d;
    set_decoders(&d, n, pos);
    for (bool again = true; again;) {
        const bool done = begin(b, &d, false);
        if (!done) {
            EXPECT_OK(b->base.copy(&b->base, view_rows(y, 0, n), view_rows(x, 0, n), &err), err);
            EXPECT_OK(turn(b, view_rows(y, 0, n), &d.rows), b->base.queue.error);
        }
        again = end(b, true);
        if (done) return true;
    }
    return false;
}

/* What a step gives, from a backend that has no recordings. */
static void expect_step(view y, cuda_backend *b, uint64_t seed, int n, int pos)
{
    static float got[MOST * COLS], want[MOST * COLS];
    fetch(b, view_rows(y, 0, n), got);
    cuda_backend *plain = open_step(&(fake_options){ .eager = true, .no_graphs = true });
    const view px = floats(plain, MOST, seed), py = floats(plain, MOST, 0);
    run_step(plain, px, py, n, pos);
    fetch(plain, view_rows(py, 0, n), want);
    EXPECT(memcmp(got, want, (size_t)n * COLS * sizeof *got) == 0);
    plain->base.buf_free(&plain->base, px.buf);
    plain->base.buf_free(&plain->base, py.buf);
    plain->base.close(&plain->base);
}

static void close_two(cuda_backend *b, view x, view y)
{
    b->base.buf_free(&b->base, x.buf);
    b->base.buf_free(&b->base, y.buf);
    b->base.close(&b->base);
}

TEST(the_third_step_of_a_shape_is_one_launch_at_its_own_positions)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 6; step++) {
        memset(spy.work, 0, sizeof spy.work);
        EXPECT_INT(run_step(b, x, y, 3, 10 + 7 * step), step >= 2);
        EXPECT_INT(spy.work[0] + spy.work[1] + spy.work[2] > 0, step < 2);
        EXPECT_INT(cuda_step_recordings(b), step >= 1);
        expect_step(y, b, 7, 3, 10 + 7 * step);
    }
    close_two(b, x, y);
}

TEST(steps_that_nobody_waited_for_do_not_share_their_tables)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = seed });
        const view x = floats(b, MOST, 7), y = floats(b, 4 * MOST, 0);
        for (int step = 0; step < 2; step++) run_step(b, x, y, 3, 1);
        ds4_error err;
        EXPECT_OK(b->base.wait(&b->base, &err), err);
        const int syncs = spy.syncs;
        for (int step = 0; step < 2; step++) run_step(b, x, view_rows(y, step * MOST, MOST), 4 + step, 100 * step);
        EXPECT_INT(spy.syncs, syncs);
        for (int step = 2; step < 4; step++) run_step(b, x, view_rows(y, step * MOST, MOST), 4 + step, 100 * step);
        for (int step = 0; step < 4; step++) expect_step(view_rows(y, step * MOST, MOST), b, 7, 4 + step, 100 * step);
        close_two(b, x, y);
    }
}

TEST(a_device_without_recordings_runs_every_step)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3, .no_graphs = true });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 4; step++) {
        EXPECT(!run_step(b, x, y, 3, 10 + step));
        expect_step(y, b, 7, 3, 10 + step);
    }
    close_two(b, x, y);
}

TEST(a_recording_that_can_not_be_kept_is_run_once_more_as_ops)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    b->device->graph_end = no_graph_end;
    for (int step = 0; step < 4; step++) {
        EXPECT(!run_step(b, x, y, 3, 10 + step));
        expect_step(y, b, 7, 3, 10 + step);
    }
    EXPECT_INT(cuda_step_recordings(b), 0);
    close_two(b, x, y);
}

TEST(a_step_that_ended_early_is_neither_kept_nor_in_the_way)
{
    for (int fails = 0; fails < 2; fails++) {
        cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
        const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
        decoders d;
        run_step(b, x, y, 3, 10);
        set_decoders(&d, 3, 11);
        EXPECT(!begin(b, &d, false));
        EXPECT_OK(norm(b, view_rows(x, 0, 3), view_rows(y, 0, 3)), b->base.queue.error);
        if (fails) {
            cuda_op(b);
            EXPECT_INT(cuda_done(&b->base.queue, DS4_EARG), DS4_EARG);
        }
        EXPECT(!end(b, false));
        EXPECT_INT(cuda_step_recordings(b), 0);
        for (int step = 0; step < 3; step++) {              /* an op that failed would fail again */
            EXPECT_INT(run_step(b, x, y, 3, 20 + step), !fails && step > 0);
            expect_step(y, b, 7, 3, 20 + step);
        }
        close_two(b, x, y);
    }
}

TEST(a_step_that_can_not_be_begun_is_told_and_the_next_one_runs)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    decoders d;
    ds4_error err;
    bool done;
    run_step(b, x, y, 3, 10);
    set_decoders(&d, 3, 10);
    d.rows.n_segments = MOST + 1;
    EXPECT_INT(b->base.step_begin(&b->base, &(step_shape){ .rows = &d.rows }, &done, &err), DS4_EARG);
    EXPECT(strstr(err.message, "71 sessions in a step made for") != NULL);
    set_decoders(&d, 3, 10);                                /* one of them ends behind the largest context */
    kv_layer layer = { .ratio = 4, .block_rows = 256 };
    kv_memory memory = { .layer = &layer };
    const int32_t blocks[8] = { 0 };
    layer.blocks = blocks;
    d.segment[2].kv = &memory;
    const step_shape s = { .rows = &d.rows, .logits_rows = d.logits, .n_logits = 3 };
    d.segment[2].pos = 6 * 1024;
    EXPECT_INT(b->base.step_begin(&b->base, &s, &done, &err), DS4_EARG);
    EXPECT(strstr(err.message, "the backend was opened for 4096") != NULL);
    for (int step = 1; step < 4; step++) {
        EXPECT_INT(run_step(b, x, y, 3, 10 + step), step >= 2);
        expect_step(y, b, 7, 3, 10 + step);
    }
    close_two(b, x, y);
}

TEST(only_decode_steps_are_recorded)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 3; step++) EXPECT(!run_step(b, x, y, 65, 10));    /* too many rows */
    expect_step(y, b, 7, 65, 10);
    decoders d;
    for (int step = 0; step < 3; step++) {
        set_decoders(&d, 3, 10);
        d.rows.n_segments = 1;                              /* a prompt */
        d.segment[0].n = 3;
        memset(d.segment_of, 0, sizeof d.segment_of);
        EXPECT(!begin(b, &d, false));
        end(b, true);
    }
    EXPECT_INT(cuda_step_recordings(b), 0);
    close_two(b, x, y);
}

TEST(shapes_beyond_the_room_for_recordings_take_the_oldest_ones_place)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    decoders d;
    ds4_error err;
    for (int selects = 0; selects < 2; selects++)
        for (int n = 1; n <= 64; n++)
            for (int step = 0; step < 2; step++) {
                set_decoders(&d, n, n);
                EXPECT(!begin(b, &d, selects));
                EXPECT_OK(b->base.copy(&b->base, view_rows(y, 0, n), view_rows(x, 0, n), &err), err);
                end(b, true);
            }
    EXPECT_INT(cuda_step_recordings(b), 64);
    set_decoders(&d, 64, 1);
    EXPECT(begin(b, &d, true));
    end(b, true);
    set_decoders(&d, 64, 1);
    EXPECT(!begin(b, &d, false));
    end(b, true);
    close_two(b, x, y);
}

TEST(a_launch_whose_arguments_depend_on_the_position_is_found_out)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    cuda_step_check(b, true);
    for (int step = 0; step < 4; step++) EXPECT(!run_step(b, x, y, 3, 10 + step));     /* what is right stays right */
    expect_step(y, b, 7, 3, 13);
#if defined __has_builtin && __has_builtin(__builtin_clear_padding)
    enum { FIRST = 0 };
#else
    enum { FIRST = 1 };                                     /* only launches and their grids are compared */
#endif
    for (int wrong = FIRST; wrong < 2; wrong++)
        for (int step = 0; step < 3; step++) {
            decoders d;
            ds4_error err;
            bool again;
            set_decoders(&d, 5 + wrong, 10 + step);
            EXPECT(!begin(b, &d, false));
            EXPECT_OK(norm(b, view_rows(x, wrong ? 0 : step, 2), view_rows(y, 0, 2)), b->base.queue.error);
            if (wrong && step < 2) EXPECT_OK(norm(b, view_rows(x, 4, 2), view_rows(y, 4, 2)), b->base.queue.error);
            const ds4_status st = b->base.step_end(&b->base, true, &again, &err);
            EXPECT_INT(st, step == 2 ? DS4_EDEVICE : DS4_OK);
            if (st) EXPECT(strstr(err.message, "not what was recorded") != NULL);
        }
    close_two(b, x, y);
}
