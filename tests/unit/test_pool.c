#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "base/pool.h"
#include "runner.h"
#include "tree.h"

typedef struct {
    int       *times;           /* [n_tasks]: how often each task ran */
    int        n_threads;
    atomic_int wrong_thread;
    int        nap_us;          /* of every 16th task */
} counting;

static void count(void *ctx, int index, int thread)
{
    counting *c = ctx;
    c->times[index]++;
    if (thread < 0 || thread >= c->n_threads) atomic_fetch_add(&c->wrong_thread, 1);
    if (c->nap_us && index % 16 == 0) usleep((useconds_t)c->nap_us);
}

static void run_and_check(pool *p, int n_tasks, int nap_us)
{
    counting c = { .n_threads = pool_threads(p), .nap_us = nap_us };
    c.times = calloc((size_t)n_tasks + 1, sizeof *c.times);
    REQUIRE(c.times);
    pool_run(p, count, &c, n_tasks);
    for (int i = 0; i < n_tasks; i++)
        if (c.times[i] != 1)
            test_fail(__FILE__, __LINE__, "task %d of %d ran %d times", i, n_tasks, c.times[i]);
    EXPECT_INT(c.times[n_tasks], 0);
    EXPECT_INT(c.wrong_thread, 0);
    free(c.times);
}

TEST(every_task_runs_once_in_each_loop)
{
    static const int threads[] = { 1, 2, 3, 8 }, tasks[] = { 0, 1, 2, 3, 7, 64, 1000 };
    for (size_t t = 0; t < countof(threads); t++) {
        pool *p;
        ds4_error err;
        REQUIRE_OK(pool_open(&p, threads[t], &err), err);
        EXPECT_INT(pool_threads(p), threads[t]);
        for (int turn = 0; turn < 20; turn++)
            for (size_t n = 0; n < countof(tasks); n++) run_and_check(p, tasks[n], 0);
        pool_close(p);
    }
}

TEST(loops_follow_each_other_without_a_pause)
{
    pool *p;
    ds4_error err;
    REQUIRE_OK(pool_open(&p, 4, &err), err);
    for (int turn = 0; turn < 3000; turn++) run_and_check(p, 5, 0);
    pool_close(p);
}

TEST(sleeping_workers_wake_and_a_waiting_caller_too)
{
    pool *p;
    ds4_error err;
    REQUIRE_OK(pool_open(&p, 3, &err), err);
    for (int turn = 0; turn < 5; turn++) {
        usleep(3000);                               /* longer than the workers spin */
        run_and_check(p, 48, 2000);                 /* and than the caller does     */
    }
    pool_close(p);
}

/* Results of one loop are plain memory that the next one reads. */
static void square(void *ctx, int index, int thread)
{
    (void)thread;
    long *v = ctx;
    v[index] = (long)index * index;
}

static void difference(void *ctx, int index, int thread)
{
    (void)thread;
    long *v = ctx;
    v[1000 + index] = v[index + 1] - v[index];
}

TEST(a_loop_sees_what_the_loop_before_wrote)
{
    pool *p;
    ds4_error err;
    REQUIRE_OK(pool_open(&p, 4, &err), err);
    for (int turn = 0; turn < 50; turn++) {
        long v[1999] = { 0 };
        pool_run(p, square, v, 1000);
        pool_run(p, difference, v, 999);
        for (int i = 0; i < 999; i++) EXPECT_INT(v[1000 + i], 2 * i + 1);
    }
    pool_close(p);
}

TEST(a_pool_may_close_unused_and_at_once)
{
    for (int n = 1; n < 6; n++) {
        pool *p;
        ds4_error err;
        REQUIRE_OK(pool_open(&p, n, &err), err);
        pool_close(p);
    }
    pool_close(NULL);
}

TEST(impossible_sizes_are_refused)
{
    static const int sizes[] = { 0, -1, 1025, 1 << 30 };
    for (size_t i = 0; i < countof(sizes); i++) {
        pool *p = (pool *)&p;
        ds4_error err;
        EXPECT_INT(pool_open(&p, sizes[i], &err), DS4_EARG);
        EXPECT(p == NULL);
    }
}

/* A worker that took the program's signal would run its handler off the main thread. */
static atomic_int   signals;
static atomic_bool  elsewhere;
static pthread_t    here;

static void on_signal(int sig)
{
    (void)sig;
    atomic_fetch_add(&signals, 1);
    if (!pthread_equal(pthread_self(), here)) atomic_store(&elsewhere, true);
}

TEST(workers_leave_signals_to_the_program)
{
    pool *p;
    ds4_error err;
    here = pthread_self();
    REQUIRE_OK(pool_open(&p, 4, &err), err);
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 20; i++) kill(getpid(), SIGUSR1);
    EXPECT(signals > 0);
    EXPECT(!elsewhere);
    signal(SIGUSR1, SIG_DFL);
    pool_close(p);
}

/* A worker that blocks what its own instructions raise would die without a word. */
static void read_mask(void *ctx, int index, int thread)
{
    (void)thread;
    usleep(1000);                                   /* so that the workers come too */
    pthread_sigmask(SIG_SETMASK, NULL, (sigset_t *)ctx + index);
}

TEST(workers_do_not_block_what_they_raise_themselves)
{
    pool *p;
    ds4_error err;
    sigset_t mask[64];
    REQUIRE_OK(pool_open(&p, 4, &err), err);
    pool_run(p, read_mask, mask, (int)countof(mask));
    int workers = 0;
    for (size_t i = 0; i < countof(mask); i++) {
        EXPECT(!sigismember(&mask[i], SIGBUS) && !sigismember(&mask[i], SIGSEGV));
        workers += sigismember(&mask[i], SIGINT) == 1;
    }
    EXPECT(workers > 0);
    pool_close(p);
}

/* ---- a processor for too many ------------------------------------------- */

static void toil(void *ctx, int index, int thread)
{
    (void)thread;
    int *times = ctx;
    for (volatile int i = 0; i < 20000; i = i + 1) {}
    times[index]++;
}

/* Long enough that workers are taken off the processor, go to rest and come back. */
static void toil_with(int threads, uint64_t ns)
{
    pool *p;
    ds4_error err;
    REQUIRE_OK(pool_open(&p, threads, &err), err);
    int times[40], loops = 0;
    for (const uint64_t end = clock_ns() + ns; clock_ns() < end; loops++) {
        memset(times, 0, sizeof times);
        pool_run(p, toil, times, (int)countof(times));
        for (size_t i = 0; i < countof(times); i++) EXPECT_INT(times[i], 1);
    }
    EXPECT(loops > 0);
    pool_close(p);
}

#ifdef __linux__
TEST(threads_that_share_one_processor_do_every_task_once)
{
    cpu_set_t before, one;
    CPU_ZERO(&one);
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    toil_with(2, 150000000);
    toil_with(5, 150000000);
    sched_setaffinity(0, sizeof before, &before);
}

TEST(a_thread_knows_how_long_it_ran)
{
    const int c = cpus_clock_open();
    if (c < 0) {
        test_skip("this kernel keeps no account of threads");
        return;
    }
    cpus_time a = { 0 }, b = { 0 };
    cpus_clock_read(c, &a);
    const uint64_t start = clock_ns();
    while (clock_ns() < start + 20000000) {}
    cpus_clock_read(c, &b);
    const uint64_t wall = clock_ns() - start, told = b.ran_ns - a.ran_ns + b.waited_ns - a.waited_ns;
    EXPECT(told > wall / 2 && told < wall + wall / 2);      /* ticks of the system are 1 to 10 ms */
    cpus_clock_close(c);
}
#endif

TEST(a_clock_that_is_not_there_changes_nothing)
{
    cpus_time t = { 1, 2 };
    cpus_clock_read(-1, &t);
    EXPECT_INT(t.ran_ns, 1);
    EXPECT_INT(t.waited_ns, 2);
    cpus_clock_close(-1);
}

TEST(more_threads_than_processors_do_every_task_once)
{
    toil_with(2 * cpus_online() + 1, 150000000);
}

/* ---- how many processors ----------------------------------------------- */

TEST(default_threads_are_at_least_one_and_can_be_opened)
{
    const int n = pool_default_threads();
    EXPECT(n >= 1 && n <= cpus_online());
    int cpu[4096];
    const int allowed = cpus_allowed(cpu, (int)countof(cpu));
    EXPECT(allowed >= 0 && allowed <= (int)countof(cpu));
    EXPECT(allowed == 0 || n <= allowed);
}

TEST(hardware_threads_of_one_core_count_once)
{
    const char *root = tree_root("smt");
    for (int i = 0; i < 8; i++) {
        char path[128], list[32];
        snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
        snprintf(list, sizeof list, i < 4 ? "%d,%d\n" : "%d-%d\n", i < 4 ? i : i & ~1, i < 4 ? i + 8 : i | 1);
        tree_put(root, path, list);
    }
    static const int all[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }, odd[] = { 5, 7 }, pair[] = { 4, 5 }, strange[] = { 90 };
    /* 0-3 with siblings 8-11; 4,5 and 6,7 are pairs; 8 and 9 have no file */
    EXPECT_INT(cpus_cores(root, all, 8), 6);
    EXPECT_INT(cpus_cores(root, all, 10), 8);
    EXPECT_INT(cpus_cores(root, odd, 2), 2);
    EXPECT_INT(cpus_cores(root, pair, 2), 1);
    EXPECT_INT(cpus_cores(root, strange, 1), 1);
    EXPECT_INT(cpus_cores(root, NULL, 0), 0);
}

TEST(small_cores_do_not_count)
{
    const char *root = tree_root("hybrid");
    static const char *const capacity[] = { "1024\n", "1024\n", "700\n", "512\n", "400\n", "250\n" };
    static const int all[] = { 0, 1, 2, 3, 4, 5 }, small[] = { 4, 5 };
    for (int i = 0; i < 6; i++) {
        char path[128];
        snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%d/cpu_capacity", i);
        tree_put(root, path, capacity[i]);
    }
    EXPECT_INT(cpus_cores(root, all, 6), 4);
    EXPECT_INT(cpus_cores(root, small, 2), 2);
}

TEST(quota_of_a_v2_group_and_its_parents)
{
    const char *root = tree_root("v2");
    EXPECT_INT(cpus_quota(root), 0);
    tree_put(root, "proc/self/cgroup", "0::/a/b\n");
    EXPECT_INT(cpus_quota(root), 0);
    tree_put(root, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    EXPECT_INT(cpus_quota(root), 0);
    tree_put(root, "sys/fs/cgroup/a/b/cpu.max", "800000 100000\n");
    EXPECT_INT(cpus_quota(root), 8);
    tree_put(root, "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    EXPECT_INT(cpus_quota(root), 3);
    tree_put(root, "sys/fs/cgroup/cpu.max", "20000 100000\n");
    EXPECT_INT(cpus_quota(root), 1);
}

TEST(quota_of_a_container_that_sees_only_its_own_group)
{
    const char *root = tree_root("container");
    tree_put(root, "proc/self/cgroup", "0::/host.slice/docker-1234.scope\n");
    tree_put(root, "sys/fs/cgroup/cpu.max", "150000 100000\n");
    EXPECT_INT(cpus_quota(root), 2);
}

TEST(quota_of_a_v1_group)
{
    const char *root = tree_root("v1");
    tree_put(root, "proc/self/cgroup", "12:cpuset:/c\n4:cpuacct,cpu:/job\n1:name=systemd:/x\n");
    tree_put(root, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "50000\n");
    tree_put(root, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    EXPECT_INT(cpus_quota(root), 0);
    tree_put(root, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "200000\n");
    EXPECT_INT(cpus_quota(root), 4);
}

TEST(strange_quota_files_are_no_limit)
{
    static const char *texts[] = { "", "\n", "max", "-5 100000", "100000 0", "x y", "100000", "0 100000" };
    const char *root = tree_root("strange");
    tree_put(root, "proc/self/cgroup", "nothing\n0::\n::::\n0::/\n");
    for (size_t i = 0; i < countof(texts); i++) {
        tree_put(root, "sys/fs/cgroup/cpu.max", texts[i]);
        EXPECT_INT(cpus_quota(root), 0);
    }
    tree_put(root, "sys/fs/cgroup/cpu.max", "9223372036854775807 1\n");
    EXPECT_INT(cpus_quota(root), 1 << 20);
}
