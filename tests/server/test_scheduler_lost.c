/* A scheduler whose engine loses its device. */
#include "sched_rig.h"

#include "base/clock.h"

/* ---- a device that is lost ------------------------------------------------------------------ */

/* Until it is open again; false: it is not. */
static bool wait_until_back(rig *r)
{
    for (int i = 0; i < 20000 && sched_lost(r->s, NULL); i++) pause_ms(1);
    return !sched_lost(r->s, NULL);
}

/* A finished request's last token is in its slot too. */
static bool wait_until_idle(rig *r)
{
    sched_slot_status slots[4];
    for (int i = 0; i < 20000; i++, pause_ms(1)) {
        int busy = 0;
        for (int k = sched_status(r->s, slots, 4); k > 0; k--)
            busy += slots[k - 1].state == SLOT_PREFILL || slots[k - 1].state == SLOT_DECODE;
        if (!busy) return true;
    }
    return false;
}

TEST(a_lost_device_ends_what_runs_and_is_opened_again)
{
    rig r;
    client first, second, waiting, after;
    if (!rig_open(&r, &(rig_options){ .slots = 2 })) return;
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &first, lines, 1, &plain, NULL);
    submit_lines(&r.at, &second, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);  /* no slot is free: it waits through the loss */
    fake_lose_device(r.e, 0);
    fake_allow_steps(r.e, -1);
    client_wait(&first);
    EXPECT_INT(first.end, SCHED_FAILED);
    EXPECT_INT(first.error.status, DS4_EDEVICE);
    client_wait(&waiting);
    EXPECT_INT(waiting.end, SCHED_DONE);
    EXPECT_TEXT(waiting.text[0].data, "ok");
    client_wait(&second);
    EXPECT(wait_until_back(&r));
    EXPECT_INT(fake_reopenings(r.e), 1);
    if (ask(&r.at, &after, lines, 1, &plain)) EXPECT_TEXT(after.text[0].data, "ok");
    client_close(&first);
    client_close(&second);
    client_close(&waiting);
    client_close(&after);
    rig_close(&r);
}

TEST(while_the_device_stays_away_submissions_are_refused_and_the_next_attempts_go_on)
{
    rig r;
    client running, waiting, after;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &running, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);
    fake_lose_device(r.e, 2);
    fake_allow_steps(r.e, -1);
    client_wait(&running);
    client_wait(&waiting);                          /* the first attempt failed */
    EXPECT_INT(running.end, SCHED_FAILED);
    EXPECT_INT(waiting.end, SCHED_FAILED);
    EXPECT_INT(waiting.error.status, DS4_EDEVICE);
    EXPECT(strstr(waiting.error.message, "opened again") && strstr(waiting.error.message, "does not come back"));
    EXPECT_INT(counter_get(&r.metrics.device_losses), 1);
    EXPECT_INT(counter_get(&r.metrics.device_away), 1);

    reuse_prompt p;
    sched_ticket *t = NULL;
    ds4_error err;
    int retry_s = 0;
    EXPECT(sched_lost(r.s, &retry_s));
    EXPECT(retry_s >= 1);
    retry_s = 0;
    chat_start start;
    EXPECT(render(&r.at, lines, 1, &plain, &p, &start));
    const sched_request q = request(&p, start);
    EXPECT_INT(sched_submit(r.s, &q, &t, &retry_s, &err), DS4_EDEVICE);
    EXPECT(retry_s >= 1 && strstr(err.message, "opened again"));
    EXPECT(wait_until_back(&r));
    EXPECT_INT(fake_reopenings(r.e), 3);
    if (ask(&r.at, &after, lines, 1, &plain)) EXPECT_TEXT(after.text[0].data, "ok");
    client_close(&running);
    client_close(&waiting);
    client_close(&after);
    rig_close(&r);
}

TEST(a_device_that_is_lost_again_with_no_request_answered_between_is_opened_after_growing_pauses)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    EXPECT_INT(counter_get(&r.metrics.device_losses), 0);
    for (int i = 0; i < 3; i++) {
        fake_lose_device(r.e, 0);
        ask(&r.at, &c, lines, 1, &plain);
        const uint64_t failed = clock_ns();
        EXPECT_INT(c.end, SCHED_FAILED);
        EXPECT_INT(c.error.status, DS4_EDEVICE);
        client_close(&c);
        EXPECT(wait_until_back(&r));
        if (i > 0) EXPECT(clock_ns() - failed > (i == 1 ? 200 : 400) * UINT64_C(1000000));
        EXPECT_INT(r.hesitations, i);
        EXPECT_INT(counter_get(&r.metrics.device_losses), i + 1);
        EXPECT_INT(counter_get(&r.metrics.device_away), 0);
    }
    if (ask(&r.at, &c, lines, 1, &plain)) EXPECT_TEXT(c.text[0].data, "ok");
    client_close(&c);
    EXPECT(wait_until_idle(&r));
    fake_lose_device(r.e, 0);
    ask(&r.at, &c, lines, 1, &plain);
    client_close(&c);
    EXPECT(wait_until_back(&r));
    EXPECT_INT(r.hesitations, 2);
    EXPECT_INT(fake_reopenings(r.e), 4);
    rig_close(&r);
}

TEST(a_scheduler_whose_device_does_not_come_back_can_be_closed)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    fake_lose_device(r.e, 1000000);
    ask(&r.at, &c, lines, 1, &plain);
    EXPECT_INT(c.end, SCHED_FAILED);
    client_close(&c);
    rig_close(&r);
}

static void *drain_now(void *arg)
{
    rig *r = arg;
    sched_drain(r->s, 0);
    return NULL;
}

/* What comes later is refused then. */
static bool wait_until_draining(rig *r)
{
    const line lines[] = { USER("late") };
    ds4_status st = DS4_OK;
    for (int i = 0; i < 20000 && st != DS4_ECANCELLED; i++, pause_ms(1)) {
        reuse_prompt p;
        chat_start start;
        client late;
        client_open(&late);
        if (!render(&r->at, lines, 1, &plain, &p, &start)) return false;
        sched_request q = request(&p, start);
        st = submit(&r->at, &late, &q);
        client_close(&late);
    }
    return st == DS4_ECANCELLED;
}

TEST(draining_refuses_who_waits_and_ends_who_runs_by_length)
{
    rig r;
    client running, waiting;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "a long answer 0123456789012345678901234567890123456789");
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &running, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);
    fake_allow_steps(r.e, 4);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    pthread_t drainer;
    pthread_create(&drainer, NULL, drain_now, &r);
    EXPECT(wait_until_draining(&r));
    fake_allow_steps(r.e, -1);
    pthread_join(drainer, NULL);
    client_wait(&waiting);
    client_wait(&running);
    EXPECT_INT(waiting.end, SCHED_FAILED);
    EXPECT_INT(waiting.error.status, DS4_ECANCELLED);
    EXPECT_INT(running.end, SCHED_DONE);
    EXPECT_INT(running.finish, FINISH_LENGTH);
    EXPECT(running.text[0].len > 0);
    client_close(&waiting);
    client_close(&running);
    rig_close(&r);
}
