/* Order of ops on streams, on a device whose streams advance as chance has it: what was not ordered shows as
 * wrong numbers. */
#include "step_rig.h"

TEST(a_step_of_more_rows_than_a_grid_has_is_refused_with_both_numbers)
{
    ds4_error err;
    gpu_device *d;
    backend *b = NULL;
    backend_options o = { .name = "cuda", .limits = limits };
    o.limits.max_rows = 65536;
    EXPECT_OK(fake_device_open(&d, &(fake_options){ .n_sm = 4 }, &err), err);
    EXPECT_INT(cuda_open_on(&b, d, &o, &err), DS4_EUNSUPPORTED);
    EXPECT(strstr(err.message, "65536") && strstr(err.message, "65535"));
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
        const int from = (int)random_below(&r, (uint64_t)(half - n));
        const int to = half + (int)random_below(&r, (uint64_t)(half - n));
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
            EXPECT_OK(b->device->copy(b->device, stream, cuda_at(view_rows(v, 2 * i + 2, 1)),
                                      cuda_at(view_rows(v, 2 * i + 1, 1)), v.stride, &err), err);
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
        EXPECT_OK(b->device->copy(b->device, where[2], cuda_at(view_rows(v, 4, 1)), cuda_at(view_rows(v, 2, 1)),
                                  v.stride, &err), err);
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
        cuda_writes_memory(b, 3, CUDA_POOL);
        EXPECT_OK(cuda_op_stream(&b->base.queue, &where[0]), b->base.queue.error);
        EXPECT_OK(cuda_done(&b->base.queue, DS4_OK), b->base.queue.error);
        cuda_op(b);
        if (second[i].writes) cuda_writes_memory(b, second[i].layer, second[i].which);
        else cuda_reads_memory(b, second[i].layer, second[i].which);
        EXPECT_OK(cuda_op_stream(&b->base.queue, &where[1]), b->base.queue.error);
        EXPECT_OK(cuda_done(&b->base.queue, DS4_OK), b->base.queue.error);
        end(b, true);
        EXPECT(where[0] != GPU_MAIN && where[1] != GPU_MAIN);
        EXPECT_INT(where[1] == where[0], second[i].follows);
    }
    b->base.buf_free(&b->base, v.buf);
    b->base.close(&b->base);
}
