/* read_speed: how fast this machine's threads read memory.
 *
 * A sum over a large array in the engine's own pool, so that threads sit where
 * they sit in a product. Vectorised and with prefetch: it shows what memory
 * gives, which a single dependent stream does not reach. */
#ifndef BENCH_READ_SPEED_H
#define BENCH_READ_SPEED_H

#include <stdint.h>
#include "base/pool.h"
#include "bench/stats.h"

enum { READ_SPEED_REPEATS = 9 };

/* GB/s (10^9 bytes) over data[0..bytes), once unmeasured and then REPEATS times. */
void read_speed_of(const void *data, uint64_t bytes, pool *threads, stats *out);

/* The same over fresh memory of its own: `bytes`, or less where little is free. */
ds4_status read_speed_memory(uint64_t bytes, int n_threads, stats *out, ds4_error *err);

/* Large enough that no cache helps: four times the last level, at least `least`, at
 * most a quarter of what is free. The topology's figure is one core's share of the
 * socket; sysconf adds up dies whose caches this process will not get. */
uint64_t read_speed_bytes(uint64_t least, uint64_t last_level_bytes);

#endif
