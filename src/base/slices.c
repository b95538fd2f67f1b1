#include "base/slices.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "base/checked.h"
#include "base/status.h"

enum { MOST_THREADS = 64, LOOK_NS = 2000000, TELL_EVERY = 25 };

typedef struct {
    const slices    *s;
    _Atomic uint64_t next, done;        /* bytes handed out; finished */
    atomic_bool      stop;
    atomic_int       working;
    pthread_mutex_t  lock;              /* guards what follows */
    ds4_status       failure;
    ds4_error        error;
} job;

static void fail(job *j, ds4_status st, const ds4_error *err)
{
    pthread_mutex_lock(&j->lock);
    if (!j->failure) {
        j->failure = st;
        j->error = *err;
    }
    pthread_mutex_unlock(&j->lock);
    atomic_store(&j->stop, true);
}

static void *work(void *arg)
{
    job *j = arg;
    const slices *s = j->s;
    while (!atomic_load(&j->stop)) {
        const uint64_t first = atomic_fetch_add(&j->next, s->slice);
        if (first >= s->total) break;
        const uint64_t n = min_u64(s->slice, s->total - first);
        ds4_error err = { 0 };
        const ds4_status st = s->task(s->ctx, first, n, &err);
        if (st) fail(j, st, &err);
        else atomic_fetch_add(&j->done, n);
    }
    atomic_fetch_sub(&j->working, 1);
    return NULL;
}

/* Looks often, so that a short job ends at once, and tells less often. */
static bool watch(job *j)
{
    bool go = true;
    for (int i = 0; atomic_load(&j->working) > 0; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
        if (i % TELL_EVERY || !go || !j->s->progress) continue;
        go = j->s->progress(j->s->progress_ctx, atomic_load(&j->done));
        if (!go) atomic_store(&j->stop, true);
    }
    return go;
}

/* As in a pool, signals are the program's, save for those that a page raises. */
static int start(job *j, pthread_t *thread)
{
    sigset_t all, before;
    int n = 0;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (n < min_int(j->s->n_threads, MOST_THREADS)) {
        atomic_fetch_add(&j->working, 1);
        if (pthread_create(&thread[n], NULL, work, j)) {
            atomic_fetch_sub(&j->working, 1);
            break;
        }
        n++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n;
}

ds4_status slices_run(const slices *s, ds4_error *err)
{
    job j = { .s = s };
    pthread_t thread[MOST_THREADS];
    pthread_mutex_init(&j.lock, NULL);
    const int n = start(&j, thread);
    bool go = watch(&j);
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    pthread_mutex_destroy(&j.lock);

    if (n == 0) return ds4_fail(err, DS4_EMEMORY, "the system starts no thread to read with");
    if (j.failure) return ds4_fail(err, j.failure, "%s", j.error.message);
    if (go && s->progress) go = s->progress(s->progress_ctx, s->total);     /* a short job's only call */
    return go ? DS4_OK : ds4_fail(err, DS4_ECANCELLED, "it was cancelled");
}
