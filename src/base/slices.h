/* slices: a long range of bytes, worked off in pieces by threads that mostly wait
 * for a disk, while the caller tells how far they are.
 *
 * Unlike a pool's loop it may take minutes, reports progress and can be stopped. */
#ifndef BASE_SLICES_H
#define BASE_SLICES_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"

/* Bytes first..first+n of the range; any of the threads. */
typedef ds4_status slice_task(void *ctx, uint64_t first, uint64_t n, ds4_error *err);

typedef struct {
    uint64_t total, slice;      /* bytes in all, bytes of a piece */
    int      n_threads;
    slice_task *task;
    void    *ctx;
    /* Called on the caller's thread some twenty times a second; false stops with
     * DS4_ECANCELLED when the pieces in work are done. May be NULL. */
    bool   (*progress)(void *ctx, uint64_t done);
    void    *progress_ctx;
} slices;

/* The first failure of a piece ends the others; its status and sentence are returned. */
ds4_status slices_run(const slices *s, ds4_error *err);

#endif
