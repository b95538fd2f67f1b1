/* Recordings and tables of steps, on a device whose streams advance as chance has it: what does not lie in a
 * table shows as wrong numbers. */
#include "step_rig.h"

#include <stdio.h>

/* What runs beside a step's other ops, on a side stream. */
static ds4_status beside(cuda_backend *b, view x, view y)
{
    return norm(b, view_rows(x, MOST - 1, 1), view_rows(y, MOST - 1, 1));
}

/* A step of n decoders: rows of x are turned by their positions into y. */
static bool run_step(cuda_backend *b, view x, view y, int n, int pos)
{
    ds4_error err;
    static decoders d;
    set_decoders(&d, n, pos);
    for (bool again = true; again;) {
        const bool done = begin(b, &d, false);
        ds4_status st = DS4_OK;
        if (!done) st = b->base.copy(&b->base, view_rows(y, 0, n), view_rows(x, 0, n), &err);
        if (!done && !st && ((st = turn(b, view_rows(y, 0, n), &d.rows)) || (st = beside(b, x, y))))
            err = b->base.queue.error;
        again = end(b, !st);
        if (!again) EXPECT_OK(st, err);
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

TEST(a_device_that_is_treated_with_care_gets_one_op_after_another)
{
    ds4_error err;
    gpu_device *d;
    backend *base = NULL;
    const backend_options o = { .name = "cuda", .careful = true, .limits = limits };
    EXPECT_OK(fake_device_open(&d, &(fake_options){ .seed = 3 }, &err), err);
    memset(&spy, 0, sizeof spy);
    spy.launch = d->launch, d->launch = spy_launch;
    spy.copy = d->copy, d->copy = spy_copy;
    EXPECT_OK(cuda_open_on(&base, d, &o, &err), err);
    cuda_backend *b = (cuda_backend *)base;
    EXPECT(d->careful);
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 3; step++) {
        memset(spy.work, 0, sizeof spy.work);
        EXPECT(!run_step(b, x, y, 3, 10 + step));
        EXPECT(spy.work[0] > 0 && spy.work[1] + spy.work[2] == 0);
        expect_step(y, b, 7, 3, 10 + step);
    }
    close_two(b, x, y);
}

/* ---- a device that refuses recordings ---------------------------------------------------------- */

enum { BEGIN, RECORD, LAUNCH, WAIT, END, RUN, CALLS };
static struct {
    gpu_device real;
    int  call, times;           /* what is refused, and how often */
    bool recording, lost;
    int  warnings;
    char warning[640];
} picky;

static ds4_status refuses(int call, ds4_error *err)
{
    if (call != picky.call || (call != BEGIN && call != RUN && !picky.recording) || picky.times == 0) return DS4_OK;
    picky.times--;
    return ds4_fail(err, DS4_EDEVICE, "call %d is refused", call);
}
static ds4_status picky_begin(gpu_device *d, ds4_error *err)
{
    const ds4_status st = refuses(BEGIN, err);
    picky.recording = !st;
    return st ? st : picky.real.graph_begin(d, err);
}
static ds4_status picky_record(gpu_device *d, int stream, int event, ds4_error *err)
{
    const ds4_status st = refuses(RECORD, err);
    return st ? st : picky.real.record(d, stream, event, err);
}
static ds4_status picky_launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    const ds4_status st = refuses(LAUNCH, err);
    return st ? st : picky.real.launch(d, stream, l, err);
}
static ds4_status picky_wait(gpu_device *d, int stream, int event, ds4_error *err)
{
    const ds4_status st = refuses(WAIT, err);
    return st ? st : picky.real.wait(d, stream, event, err);
}
static ds4_status picky_end(gpu_device *d, gpu_graph **out, ds4_error *err)
{
    const ds4_status st = refuses(END, err);
    picky.recording = false;
    if (!st) return picky.real.graph_end(d, out, err);
    *out = NULL;
    picky.real.graph_abandon(d);
    return st;
}
static void picky_abandon(gpu_device *d)
{
    picky.recording = false;
    picky.real.graph_abandon(d);
}
static ds4_status picky_run(gpu_device *d, gpu_graph *g, ds4_error *err)
{
    const ds4_status st = refuses(RUN, err);
    return st ? st : picky.real.graph_run(d, g, err);
}
static ds4_status picky_sync(gpu_device *d, int stream, ds4_error *err)
{
    return picky.lost ? ds4_fail(err, DS4_EDEVICE, "the device is lost") : picky.real.sync(d, stream, err);
}

static void hear(void *ctx, const char *line)
{
    (void)ctx;
    picky.warnings++;
    snprintf(picky.warning, sizeof picky.warning, "%s", line);
}

static cuda_backend *open_picky(int call, int times)
{
    cuda_backend *b = open_step(&(fake_options){ .seed = 3 });
    gpu_device *d = b->device;
    memset(&picky, 0, sizeof picky);
    picky.real = *d;
    picky.call = call;
    picky.times = times;
    d->graph_begin = picky_begin;
    d->record = picky_record;
    d->launch = picky_launch;
    d->wait = picky_wait;
    d->graph_end = picky_end;
    d->graph_abandon = picky_abandon;
    d->graph_run = picky_run;
    d->sync = picky_sync;
    b->o.warn = hear;
    return b;
}

TEST(a_step_whose_recording_is_refused_in_any_call_is_recorded_once_more_and_then_runs_as_ops)
{
    for (int call = 0; call < CALLS; call++)
        for (int times = 0; times < 4; times++) {
            cuda_backend *b = open_picky(call, times == 3 ? 1000 : times);
            const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
            for (int step = 0; step < 5; step++) {
                const bool done = run_step(b, x, y, 3, 10 + step);
                expect_step(y, b, 7, 3, 10 + step);
                if (step == 4) EXPECT_INT(done, times < 2);
            }
            EXPECT_INT(picky.warnings, times >= 2);
            if (times >= 2) EXPECT(strstr(picky.warning, ": steps are slower than they could be, since they can not be "
                                                         "recorded: call ") != NULL);
            EXPECT_INT(cuda_step_recordings(b), times < 2);
            for (int step = 0; step < 3; step++)            /* another shape */
                EXPECT_INT(run_step(b, x, y, 2, 10), times < 2 && step == 2);
            EXPECT_INT(picky.warnings, times >= 2);
            close_two(b, x, y);
        }
}

TEST(where_other_recordings_run_only_the_shape_that_is_refused_goes_without)
{
    cuda_backend *b = open_picky(END, 0);
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 3; step++) EXPECT_INT(run_step(b, x, y, 3, 10 + step), step == 2);
    picky.times = 1000;
    for (int step = 0; step < 4; step++) {
        EXPECT(!run_step(b, x, y, 2, 10 + step));
        expect_step(y, b, 7, 2, 10 + step);
    }
    EXPECT(picky.warnings == 1 && strstr(picky.warning, "steps of 2 rows are slower") != NULL);
    EXPECT(run_step(b, x, y, 3, 20));
    picky.times = 0;
    for (int step = 0; step < 3; step++) EXPECT_INT(run_step(b, x, y, 4, 10 + step), step == 2);
    EXPECT_INT(picky.warnings, 1);
    close_two(b, x, y);
}

TEST(a_recording_that_runs_no_more_makes_room_for_a_new_one)
{
    cuda_backend *b = open_picky(RUN, 0);
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 6; step++) {
        picky.times = step == 3;
        EXPECT_INT(run_step(b, x, y, 3, 10 + step), step == 2 || step == 5);
        expect_step(y, b, 7, 3, 10 + step);
    }
    EXPECT_INT(picky.warnings, 0);
    close_two(b, x, y);
}

TEST(a_device_that_is_lost_in_a_recording_ends_the_step_with_its_sentence)
{
    for (int call = 0; call < CALLS; call++) {
        cuda_backend *b = open_picky(call, 1);
        const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
        decoders d;
        ds4_error err;
        bool done = false, again = true;
        run_step(b, x, y, 3, 10);
        set_decoders(&d, 3, 11);
        const step_shape s = { .rows = &d.rows, .logits_rows = d.logits, .n_logits = 3 };
        picky.lost = true;
        ds4_status st = b->base.step_begin(&b->base, &s, &done, &err), ended = DS4_OK;
        if (!st) {
            if ((st = turn(b, view_rows(y, 0, 3), &d.rows)) || (st = beside(b, x, y))) err = b->base.queue.error;
            ds4_error last;
            ended = b->base.step_end(&b->base, !st, &again, &last);
            if (!st) err = last;
            EXPECT(!again);
        }
        EXPECT_INT(st ? st : ended, DS4_EDEVICE);
        EXPECT(strncmp(err.message, "call ", 5) == 0);
        picky.lost = false;
        close_two(b, x, y);
    }
}

TEST(what_a_device_gave_up_is_told_with_the_step)
{
    cuda_backend *b = open_picky(CALLS, 0);
    const view x = floats(b, MOST, 7), y = floats(b, MOST, 0);
    for (int step = 0; step < 3; step++) {
        if (step == 1) strcpy(b->device->remark, "cuda: something");
        run_step(b, x, y, 3, 10);
        EXPECT_INT(picky.warnings, step >= 1);
    }
    EXPECT_TEXT(picky.warning, "cuda: something");
    close_two(b, x, y);
}

/* ---- other ends --------------------------------------------------------------------------------- */

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
        EXPECT_INT(end(b, false), fails);                   /* the recording may be why the op failed */
        EXPECT_INT(cuda_step_recordings(b), 0);
        for (int step = 0; step < 3; step++) {
            EXPECT_INT(run_step(b, x, y, 3, 20 + step), step > 0);
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
