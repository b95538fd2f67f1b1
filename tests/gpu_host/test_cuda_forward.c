/* The forward pass on the CUDA backend, lane by lane, against the CPU's and against itself: prompts, decode
 * steps of one session and of many, recordings, points, steps that end early, a device that is lost. */
#include "pass_rig.h"

/* ---- the CPU's numbers ---------------------------------------------------------------------------------- */

TEST(prompt_and_answer_are_the_cpus)
{
    static const char *const mixes[] = { "q8_0", "f16" };
    for (int m = 0; m < 2; m++) {
        parts cpu, gpu = { 0 };
        if (open_parts(&cpu, mixes[m], "cpu", NULL) && open_parts(&gpu, mixes[m], "cuda", &(fake_options){ .seed = 7 })) {
            float *want = malloc(cpu.V * sizeof *want), *got = malloc(cpu.V * sizeof *got);
            kv *a = session(&cpu), *b = session(&gpu);
            const int chunks[] = { 3, m ? 2 : 17, 1, 1 };
            int at = 0, same = 0;
            for (int i = 0; i < 4; at += chunks[i++]) {
                feed(&cpu, a, text(0) + at, chunks[i], want);
                feed(&gpu, b, text(0) + at, chunks[i], got);
                const double off = distance(got, want, cpu.V);
                if (!(off < 0.1))
                    test_fail(__FILE__, __LINE__, "%s: after %d tokens logits are off by %g", mixes[m], at + chunks[i],
                              off);
                const int best = greedy(want, cpu.V), mine = greedy(got, cpu.V);       /* the same, or as good */
                EXPECT((double)want[best] - want[mine] <= 2.0 * off * rms(want, cpu.V));
                same += best == mine;
            }
            EXPECT(same >= 3);
            kv_close(a);
            kv_close(b);
            free(want);
            free(got);
        }
        close_parts(&cpu);
        close_parts(&gpu);
    }
}

TEST(sixty_four_tokens_of_the_bundled_model_are_the_cpus) { answer_as_the_cpu(64, 0.1); }

/* Without activations that may be rounded to the other side of a tie. */
TEST(with_float_activations_it_does_so_to_the_fifth_digit)
{
    exact_products = true;
    answer_as_the_cpu(4, 1e-5);
    exact_products = false;
}

TEST(every_op_of_a_prompt_and_its_answer_is_within_tolerance)
{
    parts p;
    if (open_parts(&p, "q8_0", "check:cuda", &(fake_options){ 0 })) {
        float *logits = malloc(p.V * sizeof *logits);
        kv *k = session(&p);
        static const int chunks[] = { 22, 2, 1, 1 };
        int at = 0;
        for (int i = 0; i < 4; at += chunks[i++]) feed(&p, k, text(1) + at, chunks[i], logits);
        kv_close(k);
        free(logits);
    }
    close_parts(&p);
}

/* ---- recordings ------------------------------------------------------------------------------------------- */

/* Logits of `n` decode steps after a prompt, all rows one after another. */
static void decode(parts *p, kv *k, int start, int n, float *logits)
{
    feed(p, k, text(2), start, logits);
    for (int i = 0; i < n; i++) feed(p, k, text(2) + start + i, 1, logits + (size_t)i * p->V);
}

TEST(steps_from_recordings_give_the_bits_of_steps_without)
{
    enum { START = 12, STEPS = 6 };      /* the indexer selects from the fourth on */
    float *logits[3] = { NULL };
    size_t n = 0;
    for (int i = 0; i < 3; i++) {           /* with, without, and compared launch by launch */
        parts p;
        if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .seed = (uint64_t)i, .no_graphs = i == 1 })) {
            n = p.V * STEPS;
            logits[i] = malloc(n * sizeof **logits);
            cuda_step_check(p.cuda, i == 2);
            kv *k = session(&p);
            decode(&p, k, START, STEPS, logits[i]);
            EXPECT_INT(cuda_step_recordings(p.cuda), i == 1 ? 0 : 2);       /* one that selects, one that does not */
            kv_close(k);
        }
        close_parts(&p);
    }
    for (int i = 1; i < 3 && logits[0] && logits[i]; i++) EXPECT(memcmp(logits[0], logits[i], n * sizeof **logits) == 0);
    for (int i = 0; i < 3; i++) free(logits[i]);
}

/* What a decoded token asks of the driver once its step is recorded: the rows' tables go up, the recording runs, the
 * largest logits come back. Of the other eleven calls five enter the context or record that the tables went, one asks
 * for the tables of two steps ago, and five wait when all has been asked for: for each stream, and for what is fetched. */
TEST(a_token_is_one_copy_one_recording_and_one_result_however_many_sessions_share_it)
{
    static const struct { const char *call; int n; } want[] = {
        { "cuMemcpyHtoDAsync_v2", 1 }, { "cuGraphLaunch", 1 }, { "cuMemcpyDtoHAsync_v2", 1 }, { "cuLaunchKernel", 0 },
        { "cuLaunchKernelEx", 0 }, { "cuMemsetD8Async", 0 }, { "cuMemcpyDtoDAsync_v2", 0 }, { "cuMemAlloc_v2", 0 },
        { "cuMemHostAlloc", 0 }, { "cuMemFree_v2", 0 } };
    mock_reset();
    by_driver = true;
    for (int sessions = 1; sessions <= 3; sessions += 2) {
        parts p;
        if (open_parts(&p, "q8_0", "cuda", &(fake_options){ 0 })) {
            kv *k[3];
            const int32_t *t[3];
            int n[3] = { 5, 5, 5 }, before[countof(want)];
            ds4_error err;
            for (int i = 0; i < sessions; i++) {
                k[i] = session(&p);
                t[i] = text(i);
            }
            for (int j = 0; j < 5; j++) {
                for (size_t c = 0; c < countof(want); c++) before[c] = mock_calls(want[c].call);
                const int all = mock_calls(NULL);
                EXPECT_OK(step(&p, k, t, n, sessions, NULL, &err), err);
                if (j >= 3) EXPECT_INT(mock_calls(NULL) - all, 14);
                for (size_t c = 0; c < countof(want); c++)
                    if (j >= 3 && mock_calls(want[c].call) - before[c] != want[c].n)
                        test_fail(__FILE__, __LINE__, "step %d calls %s %d times", j, want[c].call,
                                  mock_calls(want[c].call) - before[c]);
                for (int i = 0; i < sessions; i++) {
                    t[i] += n[i];
                    n[i] = 1;
                }
            }
            for (int i = 0; i < sessions; i++) kv_close(k[i]);
        }
        close_parts(&p);
    }
    by_driver = false;
}

TEST(sessions_that_share_steps_get_what_each_gets_alone)
{
    parts p;
    if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .seed = 11 })) {
        enum { STEPS = 3, TOGETHER = 5 };
        float *alone = malloc(TOGETHER * STEPS * p.V * sizeof *alone), *shared = malloc(TOGETHER * p.V * sizeof *shared);
        kv *k[TOGETHER];
        const int32_t *t[TOGETHER];
        int ones[TOGETHER];
        ds4_error err;
        for (int i = 0; i < TOGETHER; i++) {
            k[i] = session(&p);
            feed(&p, k[i], text(i), 1 + 4 * i, shared);
            uint8_t *point = malloc(kv_point_bytes(k[i], 1 + 4 * i));
            EXPECT_OK(kv_point_take(k[i], point, &err), err);
            for (int j = 0; j < STEPS; j++)
                feed(&p, k[i], text(i) + 1 + 4 * i + j, 1, alone + (size_t)(i * STEPS + j) * p.V);
            EXPECT_OK(kv_point_restore(k[i], 1 + 4 * i, point, &err), err);
            free(point);
        }
        for (int j = 0; j < STEPS; j++) {
            for (int i = 0; i < TOGETHER; i++) {
                t[i] = text(i) + 1 + 4 * i + j;
                ones[i] = 1;
            }
            EXPECT_OK(step(&p, k, t, ones, TOGETHER, shared, &err), err);
            for (int i = 0; i < TOGETHER; i++)
                EXPECT(memcmp(shared + (size_t)i * p.V, alone + (size_t)(i * STEPS + j) * p.V,
                              p.V * sizeof *shared) == 0);
        }
        for (int i = 0; i < TOGETHER; i++) kv_close(k[i]);
        free(alone);
        free(shared);
    }
    close_parts(&p);
}

/* ---- points, and steps that end early ------------------------------------------------------------------------ */

TEST(a_session_goes_back_to_a_point_and_on_from_there)
{
    parts p;
    if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .seed = 5 })) {
        float *want = malloc(p.V * sizeof *want), *got = malloc(p.V * sizeof *got);
        kv *k = session(&p);
        ds4_error err;
        feed(&p, k, text(0), 21, want);
        uint8_t *point = malloc(kv_point_bytes(k, 21));
        EXPECT_OK(kv_point_take(k, point, &err), err);
        feed(&p, k, text(0) + 21, 4, want);
        feed(&p, k, text(1), 44, got);                              /* somewhere else, past the ring's end */
        EXPECT_OK(kv_point_restore(k, 21, point, &err), err);
        EXPECT_INT(k->length, 21);
        feed(&p, k, text(0) + 21, 4, got);
        EXPECT(memcmp(got, want, p.V * sizeof *got) == 0);
        kv_close(k);
        free(point);
        free(want);
        free(got);
    }
    close_parts(&p);
}

TEST(interrupted_steps_leave_the_session_where_it_stood)
{
    parts p;
    if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .seed = 5 })) {
        float *want = malloc(6 * p.V * sizeof *want), *got = malloc(p.V * sizeof *got);
        kv *k = session(&p);
        ds4_error err;
        const int32_t *wrong = text(3);
        const int one = 1, many = 5;
        decode(&p, k, 9, 6, want);
        kv_clear(k);
        feed(&p, k, text(2), 9, got);
        for (int i = 0; i < 6; i++) {       /* of a prompt; then of every kind of decode step: plain, recorded, replayed */
            p.stop_after = 1 + i % 3;
            p.asked = 0;
            EXPECT_INT(step(&p, &k, &wrong, &many, 1, got, &err), DS4_ECANCELLED);
            EXPECT_TEXT(err.message, "the step was interrupted");
            p.asked = 0;
            const ds4_status st = step(&p, &k, (const int32_t *[]){ text(2) + 9 + i }, &one, 1, got, &err);
            p.stop_after = 0;
            if (st) EXPECT_INT(st, DS4_ECANCELLED);
            if (st) feed(&p, k, text(2) + 9 + i, 1, got);
            EXPECT(memcmp(got, want + (size_t)i * p.V, p.V * sizeof *got) == 0);
        }
        kv_close(k);
        free(want);
        free(got);
    }
    close_parts(&p);
}

/* Kernels of opening a model, and of a step of one token. */
static void count_kernels(int *opening, int *step_of_one)
{
    parts p;
    *opening = *step_of_one = 0;
    if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .eager = true, .no_graphs = true })) {
        float *logits = malloc(p.V * sizeof *logits);
        kv *k = session(&p);
        counted.n = 0;
        feed(&p, k, text(0), 1, logits);
        *step_of_one = counted.n;
        *opening = p.opening;
        kv_close(k);
        free(logits);
    }
    close_parts(&p);
}

TEST(a_device_that_is_lost_is_told_and_nothing_is_committed)
{
    int opening, each;
    count_kernels(&opening, &each);
    /* the first kernel of a step, some in the middle of one, in the second one, and in recordings */
    const int launches[] = { 1, 2, each / 2, each, each + 3, 2 * each + 1, 2 * each + each / 2, 3 * each + 7 };
    for (size_t i = 0; i < countof(launches) && each; i++) {
        parts p;
        if (open_parts(&p, "q8_0", "cuda", &(fake_options){ .seed = i, .fail_launch = opening + launches[i] })) {
            float *logits = malloc(p.V * sizeof *logits);
            kv *k = session(&p);
            ds4_error err;
            ds4_status st = DS4_OK;
            const int32_t *t = text(0);
            int length = 0;
            const int one = 1;
            for (int j = 0; j < 5 && !st; j++) {
                length = k->length;
                st = step(&p, &k, &t, &one, 1, logits, &err);
            }
            EXPECT_INT(st, DS4_EDEVICE);
            EXPECT(strlen(err.message) > 10);
            EXPECT_INT(k->length, length);
            EXPECT_INT(length, (launches[i] - 1) / each);
            uint8_t *point = malloc(kv_point_bytes(k, length) + 1);
            EXPECT_INT(length ? kv_point_take(k, point, &err) : DS4_EDEVICE, DS4_EDEVICE);      /* no garbage is saved */
            free(point);
            kv_close(k);
            free(logits);
        }
        close_parts(&p);
    }
}
