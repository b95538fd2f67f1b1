/* The scheduler over the bundled model on a device with memory of its own, which is lost and comes back. */
#include "tiny/scheduler_rig.h"

#include "base/checked.h"
#include "tiny/far_memory.h"

/* Two conversations of two turns at the same time, one drawn with log-probabilities and more choices. */
static void converse(const char *name, bytes *out, float *logprob)
{
    rig r;
    client c[2];
    char said[4096];
    line lines[2][4] = { { SYSTEM("You are a helpful assistant"), USER("What is ds4?") },
                         { SYSTEM("You are a helpful assistant"), USER("What is 12 + 30?") } };
    if (!rig_open(&r, name, 2, NULL)) return;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < 2; i++) {
            sched_request q = { .id = "req_far", .sampling = ds4_sampling_defaults(), .n = 1 + i, .max_tokens = 60 };
            q.sampling.seed = 7;
            q.sampling.temperature = 0.8f;
            q.logprobs = i == 1;
            q.top_logprobs = 3;
            submit_lines(&r.at, &c[i], lines[i], 2 + 2 * turn, &(render_options){ .think = true }, &q);
        }
        for (int i = 0; i < 2; i++) {
            client_wait(&c[i]);
            EXPECT_INT(c[i].end, SCHED_DONE);
            bytes_append(out, c[i].reasoning.data, c[i].reasoning.len);
            for (int k = 0; k <= i; k++) bytes_append(out, c[i].text[k].data, c[i].text[k].len);
            if (i == 1) *logprob += c[i].first_logprob;
            client_close(&c[i]);
        }
        snprintf(said, sizeof said, "turn %d", turn);
        for (int i = 0; i < 2 && turn == 0; i++) {
            lines[i][2] = (line)ASSISTANT(said);
            lines[i][3] = (line)USER("And now?");
        }
    }
    rig_close(&r);
}

TEST(requests_say_what_they_say_on_the_cpu)
{
    bytes here, there;
    float here_logprob = 0, there_logprob = 0;
    bytes_init(&here, 1 << 20);
    bytes_init(&there, 1 << 20);
    far_reset();
    converse("cpu", &here, &here_logprob);
    converse("cuda", &there, &there_logprob);
    EXPECT_INT(far.opened, 1);
    EXPECT(here.len > 20);
    EXPECT_TEXT(there.data, here.data);
    EXPECT(there_logprob == here_logprob && here_logprob < 0);
    bytes_free(&here);
    bytes_free(&there);
}

TEST(what_a_lost_device_held_is_computed_anew_or_found_on_disk)
{
    char dir[512], first[4096] = "", live[4096] = "";
    snprintf(dir, sizeof dir, "%s", test_scratch("far-kv"));
    rig r;
    client c;
    char *text = malloc(8000);
    int at = 0;
    for (int i = 0; i < 90; i++) at += sprintf(text + at, "Sentence number %d of a long instruction. ", i);
    line lines[4] = { SYSTEM(text), USER("What is ds4?") };
    far_reset();
    if (!rig_open(&r, "cuda", 2, dir)) return;
    if (ask(&r.at, &c, lines, 2, &(render_options){ 0 })) snprintf(first, sizeof first, "%s", c.text[0].data);
    client_close(&c);
    lines[2] = (line)ASSISTANT(first);
    lines[3] = (line)USER("What is 12 + 30?");
    if (ask(&r.at, &c, lines, 4, &(render_options){ 0 })) snprintf(live, sizeof live, "%s", c.text[0].data);
    EXPECT(live[0] != 0);
    client_close(&c);

    kvstore_wait(r.store, NULL);
    far.fail_step = 2;
    far.fail_opens = 1;
    ask(&r.at, &c, lines, 4, &(render_options){ .think = true });
    EXPECT_INT(c.end, SCHED_FAILED);
    EXPECT_INT(c.error.status, DS4_EDEVICE);
    client_close(&c);
    for (int i = 0; i < 20000 && sched_lost(r.s, NULL); i++) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    EXPECT(!sched_lost(r.s, NULL));

    const uint64_t before = counter_get(&r.metrics.cached_tokens[SOURCE_DISK]);
    if (ask(&r.at, &c, lines, 4, &(render_options){ 0 })) {
        EXPECT_TEXT(c.text[0].data, live);
        EXPECT(counter_get(&r.metrics.cached_tokens[SOURCE_DISK]) > before);
    }
    client_close(&c);
    EXPECT_INT(far.opened, 2);
    rig_close(&r);
    free(text);
}
