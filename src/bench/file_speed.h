/* file_speed: how fast a file is read, from the page cache and from the disk.
 *
 * Reading cold means to have the system drop the file's pages first. Whether it
 * did is looked up; where it did not, the figures are of the cache and are marked
 * as unverified. */
#ifndef BENCH_FILE_SPEED_H
#define BENCH_FILE_SPEED_H

#include <stdbool.h>
#include <stdint.h>
#include "base/pool.h"
#include "bench/stats.h"

typedef struct {
    stats  mapped;              /* GB/s through a mapping, warm, all threads      */
    double sequential;          /* GB/s cold, in order                            */
    double random;              /* GB/s cold, pieces of 4 MiB in random order     */
    bool   verified;            /* no page was in the cache before either         */
    uint64_t bytes;             /* of the file that were used                     */
} file_speed;

enum { FILE_SPEED_BYTES = 256 << 20 };

/* The last FILE_SPEED_BYTES of the file, or all of it. */
ds4_status file_speed_measure(const char *path, int n_threads, file_speed *out, ds4_error *err);

/* A file of FILE_SPEED_BYTES to measure with; the caller removes it. */
ds4_status file_speed_make(const char *path, ds4_error *err);

#endif
