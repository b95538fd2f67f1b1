/* scheduler_device: the device that was lost, and the way back.
 *
 * What ran ends with an error, and with it everything that sessions held. The slots' sessions are closed, the
 * engine is opened again and new sessions take their places; until then submissions are refused with the time
 * after which to come again. Who waited in the queue waits on, unless the first attempt fails.
 *
 * Attempts that fail have growing pauses between them, and so have losses between which no request was answered:
 * weights that go up for nothing are minutes of a bus. */
#include "engine/scheduler_internal.h"

#include <errno.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"

enum { FIRST_PAUSE_MS = 250, LONGEST_PAUSE_MS = 60000 };

/* The pause behind one of so many milliseconds. */
static int longer(int ms) { return ms ? min_int(2 * ms, LONGEST_PAUSE_MS) : FIRST_PAUSE_MS; }

ds4_status device_lost_error(const scheduler *s, ds4_error *out)
{
    return ds4_fail(out, DS4_EDEVICE, "the device was lost and is being opened again: %s", s->lost_why.message);
}

void device_lost(scheduler *s, const ds4_error *why)
{
    const ds4_error reason = *why;
    log_line(&s->o.log, LOG_ERROR, "the device was lost: %s", reason.message);
    pthread_mutex_lock(&s->lock);
    s->lost = true;
    s->lost_why = reason;
    s->pause_ms = s->answered ? 0 : longer(s->pause_ms);
    s->retry_s = max_int(5, s->pause_ms / 1000);
    s->answered = false;
    pthread_mutex_unlock(&s->lock);
    if (s->o.metrics) {
        counter_add(&s->o.metrics->device_losses, 1);
        counter_set(&s->o.metrics->device_away, 1);
    }

    if (s->pause_ms)
        log_line(&s->o.log, LOG_WARNING, "no request was answered since it was opened last: it is opened again in %.2g s",
                 s->pause_ms / 1e3);

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

/* Until the time has come (true) or the server shuts down. */
static bool wait_before_trying(scheduler *s, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    const long long ns = until.tv_nsec + (long long)ms * 1000000;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&s->lock);
    while (!s->draining && pthread_cond_timedwait(&s->work, &s->lock, &until) != ETIMEDOUT) { }
    const bool draining = s->draining;
    pthread_mutex_unlock(&s->lock);
    return !draining;
}

static void opened_again(scheduler *s, double seconds)
{
    pthread_mutex_lock(&s->lock);
    s->lost = false;
    pthread_mutex_unlock(&s->lock);
    if (s->o.metrics) counter_set(&s->o.metrics->device_away, 0);
    log_line(&s->o.log, LOG_WARNING, "the device is open again after %.1f s; what conversations held there is "
             "computed anew, or found on disk", seconds);
}

static void stays_away(scheduler *s, const ds4_error *why)
{
    pthread_mutex_lock(&s->lock);
    s->lost_why = *why;
    s->pause_ms = longer(s->pause_ms);
    s->retry_s = max_int(1, s->pause_ms / 1000);
    pthread_mutex_unlock(&s->lock);
    if (why->status == DS4_ECANCELLED) return;      /* the server shuts down */
    log_line(&s->o.log, LOG_ERROR, "the device could not be opened again, the next attempt is in %.2g s: %s",
             s->pause_ms / 1e3, why->message);
    ds4_error lost;
    device_lost_error(s, &lost);
    queue_refuse(s, &lost);
}

void device_recover(scheduler *s)
{
    if (s->pause_ms && !wait_before_trying(s, s->pause_ms)) return;
    ds4_error err;
    const uint64_t start = clock_ns();
    const ds4_status st = open_again(s, &err);
    if (s->o.tried) s->o.tried(s->o.tried_ctx);
    if (st) stays_away(s, &err);
    else opened_again(s, (double)(clock_ns() - start) * 1e-9);
}
