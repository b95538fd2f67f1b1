/* pool: threads that share one parallel loop at a time.
 *
 * The calling thread works too, so a pool of 1 starts no thread. Workers spin
 * briefly between loops and then sleep; one whose processor is busy with something
 * else stays away for a while. Tasks are handed out dynamically from one counter:
 * which thread runs a task never changes its result. One caller at a time; a task
 * must not call pool_run on the same pool. Threads are not pinned: on a shared
 * machine the system moves them out of the way better than we could. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include "ds4_status.h"

typedef struct pool pool;

/* Runs task `index` of a loop; `thread` is 0..n_threads-1, for scratch. */
typedef void pool_task(void *ctx, int index, int thread);

ds4_status pool_open(pool **out, int n_threads, ds4_error *err);
void       pool_close(pool *p);
int        pool_threads(const pool *p);
void       pool_run(pool *p, pool_task *task, void *ctx, int n_tasks);   /* returns when all are done */

/* Processors this process may use (affinity and cgroup quota, at least 1),
 * counting one per physical core. */
int pool_default_threads(void);

#endif
