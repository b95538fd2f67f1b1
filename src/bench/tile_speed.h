/* tile_speed: the engine's own product kernels, type by type, on a matrix that
 * stays in cache and on one that comes from memory.
 *
 * Rows of TILE_SPEED_COLS weights against one activation (decode) and against
 * TILE_SPEED_BATCH of them (prefill). */
#ifndef BENCH_TILE_SPEED_H
#define BENCH_TILE_SPEED_H

#include "ds4_status.h"
#include "quant/quant.h"

enum { TILE_SPEED_COLS = 4096, TILE_SPEED_BATCH = 64 };

typedef struct {
    double gmacs;               /* G multiply-adds/s, the best of a few passes; 0: not measured */
    double gbs;                 /* G bytes of weights/s                                         */
} tile_rate;

typedef struct {
    quant_type type;
    tile_rate  cached[2], memory[2];    /* [0] one activation, [1] TILE_SPEED_BATCH; cached: of
                                           one thread, memory: of all together                  */
} tile_speed;

/* weights: any bytes of 0x20..0x2f, which are small numbers in every format, at
 * least as many as do not fit the caches. out: [QUANT_COUNT]; *n types are filled. */
ds4_status tile_speed_measure(const void *weights, uint64_t bytes, int n_threads, uint32_t isa,
                              tile_speed *out, int *n, ds4_error *err);

#endif
