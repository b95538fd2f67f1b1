/* scheduler_device: the device that was lost, and the way back.
 *
 * What ran ends with an error, and with it everything that sessions held. The slots' sessions are closed, the
 * engine is opened again and new sessions take their places; until then submissions are refused with the time
 * after which to come again. Who waited in the queue waits on, unless the first attempt fails. */
#include "engine/scheduler_internal.h"

#include <errno.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"

enum { FIRST_PAUSE_MS = 250, LONGEST_PAUSE_MS = 60000 };

void device_lost(scheduler *s, const ds4_error *why)
{
    const ds4_error reason = *why;
    log_line(&s->o.log, LOG_ERROR, "the device was lost: %s", reason.message);
    pthread_mutex_lock(&s->lock);
    s->lost = true;
    s->lost_why = reason;
    s->retry_s = 5;
    s->pause_ms = FIRST_PAUSE_MS;
    pthread_mutex_unlock(&s->lock);

    ds4_batch_clear(s->batch);
    for (int i = 0; i < s->n_slots; i++) {
        slot *sl = &s->slots[i];
        if (sl->job) answers_fail(s, sl, &reason);
        slot_reset(sl, s);
    }
}

static ds4_status open_again(scheduler *s, ds4_error *err)
{
    for (int i = 0; i < s->n_slots; i++) {
        ds4_session_close(s->slots[i].session);
        s->slots[i].session = NULL;
    }
    ds4_status st = ds4_engine_reopen(s->engine, err);
    for (int i = 0; i < s->n_slots && !st; i++)
        st = ds4_session_open(&s->slots[i].session, s->engine, s->slots[i].capacity, err);
    return st;
}

/* Until the time has come or the server shuts down. */
static void wait_before_trying(scheduler *s, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    const long long ns = until.tv_nsec + (long long)ms * 1000000;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&s->lock);
    while (!s->draining && pthread_cond_timedwait(&s->work, &s->lock, &until) != ETIMEDOUT) { }
    pthread_mutex_unlock(&s->lock);
}

void device_recover(scheduler *s)
{
    ds4_error err;
    const uint64_t start = clock_ns();
    const ds4_status st = open_again(s, &err);
    pthread_mutex_lock(&s->lock);
    s->lost = st != DS4_OK;
    const int pause = s->pause_ms;
    if (st) {
        s->lost_why = err;
        s->pause_ms = min_int(2 * pause, LONGEST_PAUSE_MS);
        s->retry_s = max_int(1, pause / 1000);
    }
    pthread_mutex_unlock(&s->lock);
    if (!st) {
        log_line(&s->o.log, LOG_WARNING, "the device is open again after %.1f s; what conversations held there is "
                 "computed anew, or found on disk", (double)(clock_ns() - start) * 1e-9);
        return;
    }
    log_line(&s->o.log, LOG_ERROR, "the device could not be opened again: %s", err.message);
    queue_refuse(s, &err);
    wait_before_trying(s, pause);
}
