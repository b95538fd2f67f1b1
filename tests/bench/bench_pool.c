/* The thread pool under the conditions that hurt it.
 *
 *   bench_pool [BUSY] [SECONDS] [REPEATS]
 *
 * BUSY processes (default 0) keep a core each busy meanwhile. For 1, 2, 4 ... threads
 * up to twice the processors: empty loops per second (the price of a barrier), steps
 * of a decode's shape per second over weights that no cache holds, and the same
 * over arithmetic alone, much of it and little. Median and spread of REPEATS
 * (default 5) turns of SECONDS (default 0.5); the thread counts take turns, so that
 * a change of the machine meets them all. The last column is the gain over one
 * thread. Run it below a CPU quota or `taskset` to see those. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "base/pool.h"

enum {
    TASK_BYTES = 256 << 10,
    WEIGHT_TASKS = 1024,            /* 256 MiB in all */
    ADDS = 16384,                   /* of an arithmetic task: some 16 us */
    MAX_SIZES = 16, MAX_REPEATS = 101
};

/* Tasks per loop of one layer: projections, attention, output, router, experts. */
static const int layer[] = { 8, 36, 16, 34, 34, 2, 40, 16 };

typedef struct {
    const uint64_t *weights;        /* [WEIGHT_TASKS][TASK_BYTES/8] */
    int             first;          /* task of the loop that runs   */
    _Alignas(64) uint64_t sink[1024][8];    /* [thread], a line each */
} bench;

static void nothing(void *ctx, int index, int thread)
{
    (void)ctx, (void)index, (void)thread;
}

static void stream(void *ctx, int index, int thread)
{
    bench *b = ctx;
    const uint64_t *w = b->weights + (size_t)((b->first + index) % WEIGHT_TASKS) * (TASK_BYTES / 8);
    uint64_t s[8] = { 0 };
    for (int i = 0; i < TASK_BYTES / 8; i += 8)
        for (int k = 0; k < 8; k++) s[k] += w[i + k];
    for (int k = 0; k < 8; k++) b->sink[thread][k] += s[k];
}

static void add(bench *b, int n, int index, int thread)
{
    volatile uint64_t *v = b->sink[thread];
    for (int i = 0; i < n; i++) v[0] += (uint64_t)index;
}

static void add_many(void *ctx, int index, int thread) { add(ctx, ADDS, index, thread); }
static void add_few(void *ctx, int index, int thread)  { add(ctx, ADDS / 64, index, thread); }

/* Loops of a step follow each other after a little work of the caller alone. */
static void step(bench *b, pool *p, pool_task *task)
{
    for (size_t i = 0; i < countof(layer); i++) {
        pool_run(p, task, b, layer[i]);
        b->first = (b->first + layer[i]) % WEIGHT_TASKS;
        volatile int alone = 0;
        while (alone < 2000) alone = alone + 1;
    }
}

static void loop_of_none(bench *b, pool *p, pool_task *task)
{
    for (int i = 0; i < 100; i++) pool_run(p, task, b, pool_threads(p));
}

static const struct {
    const char *name;
    void      (*run)(bench *b, pool *p, pool_task *task);
    pool_task  *task;
    int         loops;              /* in one call of run */
} kinds[] = {
    { "barriers", loop_of_none, nothing,  100 },
    { "weights",  step,         stream,   countof(layer) },
    { "sums",     step,         add_many, countof(layer) },
    { "short",    step,         add_few,  countof(layer) },     /* a small model's */
};

static double loops_per_second(bench *b, pool *p, size_t kind, double seconds)
{
    const uint64_t start = clock_ns(), end = start + (uint64_t)(seconds * 1e9);
    uint64_t now, runs = 0;
    do {
        kinds[kind].run(b, p, kinds[kind].task);
        runs++;
        now = clock_ns();
    } while (now < end);
    return (double)runs * kinds[kind].loops / ((double)(now - start) / 1e9);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(bench *b, pool **pools, int n_pools, size_t kind, int busy, double seconds, int repeats)
{
    static double rate[MAX_SIZES][MAX_REPEATS];
    for (int r = 0; r < repeats; r++)
        for (int i = 0; i < n_pools; i++) rate[i][r] = loops_per_second(b, pools[i], kind, seconds);
    for (int i = 0; i < n_pools; i++) {
        qsort(rate[i], (size_t)repeats, sizeof rate[i][0], by_value);
        const double median = rate[i][repeats / 2];
        printf("%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t%.2f\n", kinds[kind].name, pool_threads(pools[i]), busy,
               rate[i][0], median, rate[i][repeats - 1], median / rate[0][repeats / 2]);
    }
    fflush(stdout);
}

static pid_t keep_busy(void)
{
    const pid_t parent = getpid(), child = fork();
    if (child) return child;
    for (volatile uint64_t i = 0;; i = i + 1)
        if (i % (1 << 24) == 0 && getppid() != parent) _exit(0);
}

int main(int argc, char **argv)
{
    const int busy = argc > 1 ? atoi(argv[1]) : 0, repeats = argc > 3 ? atoi(argv[3]) : 5;
    const double seconds = argc > 2 ? atof(argv[2]) : 0.5;
    if (busy < 0 || busy > 64 || !(seconds > 0) || repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "bench_pool: [BUSY 0 to 64] [SECONDS] [REPEATS 1 to %d]\n", MAX_REPEATS);
        return 2;
    }
    bench *b = calloc(1, sizeof *b);
    uint64_t *weights = mmap(NULL, (size_t)WEIGHT_TASKS * TASK_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!b || weights == MAP_FAILED) return 1;
    memset(weights, 1, (size_t)WEIGHT_TASKS * TASK_BYTES);
    b->weights = weights;

    pool *pools[MAX_SIZES];
    int n_pools = 0;
    for (int n = 1; n <= 2 * cpus_online() && n_pools < MAX_SIZES; n *= 2)
        if (pool_open(&pools[n_pools], n, NULL) == DS4_OK) n_pools++;
    pid_t children[64];
    for (int i = 0; i < busy; i++) children[i] = keep_busy();

    printf("# %d processors, default %d threads; %d KiB of weights a task\n", cpus_online(),
           pool_default_threads(), TASK_BYTES >> 10);
    printf("loop\tthreads\tbusy\tmin/s\tmedian/s\tmax/s\tgain\n");
    for (size_t k = 0; k < countof(kinds); k++) measure(b, pools, n_pools, k, busy, seconds, repeats);

    for (int i = 0; i < busy; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    for (int i = 0; i < n_pools; i++) pool_close(pools[i]);
    munmap(weights, (size_t)WEIGHT_TASKS * TASK_BYTES);
    free(b);
    return 0;
}
