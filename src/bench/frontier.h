/* frontier: one token sequence walked to growing contexts, a decode probe at each.
 *
 * Each row times only the newly added stretch of the prompt; the probe starts
 * from a kept point and is taken back, outside of all times. The CSV has the
 * columns of published sweeps of this model, so that they can be compared. */
#ifndef BENCH_FRONTIER_H
#define BENCH_FRONTIER_H

#include "base/bytes.h"
#include "bench/arm.h"

typedef struct {
    int   start, max, incr;     /* tokens                                   */
    float mul;                  /* above 1: takes incr's place              */
    int   gen;                  /* tokens of a probe, greedy, never EOS     */
} frontier_plan;

typedef struct {
    int      ctx_tokens, prefill_tokens;
    double   prefill_tps;
    int      gen_tokens;
    double   gen_tps, gen_first_ms;
    int      gen_steady_tokens; /* all but the first                        */
    double   gen_steady_tps;
    uint64_t kv_bytes;
} frontier_row;

/* DS4_EARG: the sentence begins with the option at fault. */
ds4_status frontier_check(const frontier_plan *p, ds4_error *err);

/* The context after `ctx` (0: the first), 0 when there is none. */
int  frontier_next(const frontier_plan *p, int ctx);

/* From one context to the next. */
ds4_status frontier_measure(bench_arm *a, const frontier_plan *p, int from, int to, frontier_row *row, ds4_error *err);

void frontier_csv_head(bytes *out);
void frontier_csv_row(const frontier_row *r, bytes *out);

#endif
