#include "base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "base/status.h"

/* A loop is open while its caller still hands out tasks. One word says all that
 * a worker must know in one atomic step:
 *
 *   state = generation << 32 | open << 16 | workers inside
 *
 * A worker enters by adding 1 while `open` is set and the generation is new to
 * it; the caller clears `open` when the tasks are gone and waits until nobody is
 * inside. So a worker that wakes late simply misses the loop: nobody waits for
 * it. task, ctx and n_tasks are written only while nobody can be inside. */
#define OPEN        (UINT64_C(1) << 16)
#define INSIDE      (OPEN - 1)
#define GENERATION  (UINT64_C(1) << 32)

enum {
    MOST_THREADS = 1024,
    SPIN_NS = 50000,            /* longer than the gap between two ops of a step */
    QUOTA_SPIN_NS = 5000,       /* where spinning is paid for with time to work in */
    WAKE_NS = 30000,            /* a shorter loop is over before a sleeper has come */
    LOOK_NS = 2000000,          /* a worker looks that often what became of its time */
    MEMORY_NS = 64000000,       /* and forgets what is much older than that */
    SHORTEST_REST_NS = 20000000, LONGEST_REST_NS = 160000000,
    SETTLE_NS = 8000000,        /* until the system has spread what is left */
    STAY_NS = 1000000000        /* no rest for so long when resting did not help */
};

/* What became of a worker's time since its last rest, older time counting less. */
typedef struct {
    int         clock;          /* of cpus_clock_open       */
    cpus_time   at;             /* at the last look ...     */
    uint64_t    look_ns;        /* ... which was then       */
    cpus_time   sum;
    uint64_t    rest_ns;        /* length of the last rest  */
    uint64_t    stay_until_ns;  /* resting did not help     */
} account;

typedef struct {
    pool     *p;
    pthread_t thread;
    int       index;            /* 1..n_threads-1; the caller is 0 */
    account   time;             /* the worker's own */
} worker;

struct pool {
    _Alignas(64) _Atomic uint64_t state;
    _Alignas(64) atomic_uint next;          /* task to hand out */

    _Alignas(64) pool_task *task;
    void       *ctx;
    unsigned    n_tasks;
    uint64_t    usual_ns;                   /* length of the loops lately; the caller's own */

    worker     *workers;                    /* [n_threads-1] */
    int         n_threads, n_started;
    uint64_t    spin_ns;
    int         caller_clock;               /* of the thread that opened the pool */

    pthread_mutex_t lock;                   /* for sleeping only */
    pthread_cond_t  opened, left;
    atomic_int  sleepers;                   /* workers waiting for `opened`   */
    atomic_bool caller_sleeps;              /* the caller waits for `left`    */
    atomic_bool closing;
    _Atomic uint64_t next_rest_ns;          /* no worker goes to rest before */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- waiting ----------------------------------------------------------- */

static bool is_new(const pool *p, uint64_t seen)
{
    return atomic_load(&p->state) / GENERATION != seen || atomic_load(&p->closing);
}

static bool nobody_inside(const pool *p)
{
    return (atomic_load(&p->state) & INSIDE) == 0;
}

static bool spin_until_new(const pool *p, uint64_t seen)
{
    const uint64_t end = clock_ns() + p->spin_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (is_new(p, seen)) return true;
            relax();
        }
    } while (clock_ns() < end);
    return false;
}

/* Sleeping and waking cannot miss each other: one side counts itself asleep
 * and then looks at the state, the other changes the state and then looks at
 * the count, all in one sequentially consistent order. */
static void wait_for_new(pool *p, uint64_t seen)
{
    if (spin_until_new(p, seen)) return;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (!is_new(p, seen)) pthread_cond_wait(&p->opened, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void wait_until_left(pool *p)
{
    const uint64_t end = clock_ns() + p->spin_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (nobody_inside(p)) return;
            relax();
        }
    } while (clock_ns() < end);

    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (!nobody_inside(p)) pthread_cond_wait(&p->left, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

static void wake(pool *p, pthread_cond_t *who)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(who);
    pthread_mutex_unlock(&p->lock);
}

/* ---- stepping back ----------------------------------------------------- */

/* Where somebody else keeps a processor busy, the system takes it from a worker in
 * the middle of a task, and all the others wait for that task at the end of the
 * loop. So a worker keeps account of the time it ran and the time it was kept from
 * running, and when it costs more than it brings it rests for a while: the pool is
 * never slower than with fewer threads. On a machine so full that the caller is kept
 * waiting even without the worker, each thread brings a share of its own, and resting
 * would only give it away. */

static void start_account(account *a)
{
    a->sum = (cpus_time){ 0 };
    a->look_ns = clock_ns();
    cpus_clock_read(a->clock, &a->at);
}

static void look(account *a, uint64_t now)
{
    cpus_time t = a->at;
    cpus_clock_read(a->clock, &t);
    a->sum.ran_ns += t.ran_ns - a->at.ran_ns;
    a->sum.waited_ns += t.waited_ns - a->at.waited_ns;
    if (a->sum.ran_ns + a->sum.waited_ns > MEMORY_NS) {
        a->sum.ran_ns /= 2;
        a->sum.waited_ns /= 2;
    }
    a->at = t;
    a->look_ns = now;
}

/* While it ran the worker brought one thread's work; while it was kept waiting,
 * everybody else may have waited too. It should bring twice what it costs. (A CPU quota
 * stops all threads at once, and for less than that share of the time when threads are
 * not more than the quota rounded up.) Of several
 * that do not, one rests at a time: without it the others may do better. */
static bool costs_too_much(worker *w)
{
    account *a = &w->time;
    const uint64_t now = clock_ns();
    if (a->clock < 0 || now - a->look_ns < LOOK_NS || now < a->stay_until_ns) return false;
    look(a, now);
    const uint64_t others = (uint64_t)w->p->n_threads - 1;
    if (a->sum.waited_ns < LOOK_NS / 2 || 2 * others * a->sum.waited_ns < a->sum.ran_ns) return false;

    uint64_t from = atomic_load(&w->p->next_rest_ns);
    return now >= from && atomic_compare_exchange_strong(&w->p->next_rest_ns, &from, now + 2 * LOOK_NS);
}

static void nap(const pool *p, uint64_t ns)
{
    const uint64_t end = clock_ns() + ns;
    while (clock_ns() < end && !atomic_load(&p->closing))
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
}

/* Longer from time to time as long as coming back does not pay. */
static void rest(worker *w)
{
    const pool *p = w->p;
    account *a = &w->time;
    cpus_time before = { 0 }, after = { 0 };
    const bool soon = a->sum.ran_ns + a->sum.waited_ns < a->rest_ns;
    a->rest_ns = soon ? min_u64(2 * a->rest_ns, LONGEST_REST_NS) : SHORTEST_REST_NS;
    nap(p, SETTLE_NS);
    cpus_clock_read(p->caller_clock, &before);
    nap(p, a->rest_ns - SETTLE_NS);
    cpus_clock_read(p->caller_clock, &after);

    start_account(a);
    const uint64_t ran = after.ran_ns - before.ran_ns, waited = after.waited_ns - before.waited_ns;
    a->stay_until_ns = 4 * waited > ran ? a->look_ns + STAY_NS : 0;
}

/* ---- working ----------------------------------------------------------- */

static bool next_task(pool *p, unsigned *i)
{
    *i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
    return *i < p->n_tasks;
}

/* True when the worker had better rest; it leaves the other tasks to the others. */
static bool work(worker *w)
{
    pool *p = w->p;
    for (unsigned i; next_task(p, &i);) {
        p->task(p->ctx, (int)i, w->index);
        if (costs_too_much(w)) return true;
    }
    return false;
}

/* Enters the present loop, if it is open; *seen becomes its generation either way. */
static bool enter(pool *p, uint64_t *seen)
{
    uint64_t s = atomic_load(&p->state);
    do {
        *seen = s / GENERATION;
        if (!(s & OPEN)) return false;
    } while (!atomic_compare_exchange_weak(&p->state, &s, s + 1));
    return true;
}

static void leave(pool *p)
{
    const uint64_t before = atomic_fetch_sub(&p->state, 1);
    if ((before & INSIDE) == 1 && atomic_load(&p->caller_sleeps)) wake(p, &p->left);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    pool *p = w->p;
    uint64_t seen = 0;
    w->time.clock = cpus_clock_open();
    start_account(&w->time);
    for (;;) {
        wait_for_new(p, seen);
        if (atomic_load(&p->closing)) break;
        bool tired;
        if (enter(p, &seen)) {
            tired = work(w);
            leave(p);
        } else {
            tired = costs_too_much(w);      /* woken, and always too late */
        }
        if (tired) rest(w);
    }
    cpus_clock_close(w->time.clock);
    return NULL;
}

/* The caller's share. Waking costs it as much as a short loop takes, and on a busy
 * machine the sleeper may take its processor; so a loop that may be short wakes
 * nobody before it has proved to be long. */
static void lead(pool *p)
{
    const uint64_t start = clock_ns();
    bool asleep = atomic_load(&p->sleepers) > 0;
    if (asleep && p->usual_ns > WAKE_NS) {
        wake(p, &p->opened);
        asleep = false;
    }
    for (unsigned i; next_task(p, &i);) {
        p->task(p->ctx, (int)i, 0);
        if (!asleep || clock_ns() - start < WAKE_NS) continue;
        wake(p, &p->opened);
        asleep = false;
    }
    p->usual_ns = (3 * p->usual_ns + (clock_ns() - start)) / 4;
}

void pool_run(pool *p, pool_task *task, void *ctx, int n_tasks)
{
    if (p->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++) task(ctx, i, 0);
        return;
    }
    p->task = task;
    p->ctx = ctx;
    p->n_tasks = (unsigned)n_tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);

    /* Nobody is inside, so this is the only writer; it publishes the fields above. */
    const uint64_t s = atomic_load(&p->state);
    atomic_store(&p->state, (s / GENERATION + 1) * GENERATION | OPEN);
    lead(p);
    atomic_fetch_and(&p->state, ~OPEN);
    wait_until_left(p);
}

/* ---- life -------------------------------------------------------------- */

/* More threads than processors: whoever spins keeps another from working. */
static void suit_the_machine(pool *p)
{
    int cpu[MOST_THREADS];
    const int allowed = cpus_allowed(cpu, MOST_THREADS), quota = cpus_quota("");
    const int processors = allowed ? allowed : cpus_online();
    if (p->n_threads <= (quota ? min_int(quota, processors) : processors))
        p->spin_ns = quota ? QUOTA_SPIN_NS : SPIN_NS;
}

/* Workers inherit a mask that leaves signals to the program, save for those that
 * an instruction of their own raises: a page that the disk cannot give, above all. */
static ds4_status start_workers(pool *p, ds4_error *err)
{
    static const int own[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP };
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < countof(own); i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    for (int i = 0; i < p->n_threads - 1 && !failure; i++) {
        p->workers[i] = (worker){ .p = p, .index = i + 1 };
        failure = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
        if (!failure) p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failure) return DS4_OK;
    return ds4_fail(err, DS4_EMEMORY, "the system started only %d of %d threads: %s",
                    p->n_started + 1, p->n_threads, strerror(failure));
}

ds4_status pool_open(pool **out, int n_threads, ds4_error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > MOST_THREADS)
        return ds4_fail(err, DS4_EARG, "%d threads: a pool has 1 to %d", n_threads, MOST_THREADS);

    pool *p = aligned_alloc(_Alignof(pool), sizeof *p);
    if (!p) return ds4_fail(err, DS4_EMEMORY, "no memory for a pool of %d threads", n_threads);
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->opened, NULL);
    pthread_cond_init(&p->left, NULL);
    p->n_threads = n_threads;
    suit_the_machine(p);
    p->caller_clock = cpus_clock_open();
    p->workers = calloc((size_t)n_threads, sizeof *p->workers);

    const ds4_status st = p->workers
        ? start_workers(p, err)
        : ds4_fail(err, DS4_EMEMORY, "no memory for a pool of %d threads", n_threads);
    if (st) {
        pool_close(p);
        return st;
    }
    *out = p;
    return DS4_OK;
}

void pool_close(pool *p)
{
    if (!p) return;
    atomic_store(&p->closing, true);
    wake(p, &p->opened);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    cpus_clock_close(p->caller_clock);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->opened);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int pool_threads(const pool *p)
{
    return p->n_threads;
}

int pool_default_threads(void)
{
    int cpu[MOST_THREADS];
    const int allowed = cpus_allowed(cpu, MOST_THREADS);
    const int cores = allowed ? cpus_cores("", cpu, allowed) : cpus_online();
    const int quota = cpus_quota("");
    return max_int(1, min_int(quota ? quota : MOST_THREADS, cores));
}
