/* limit: what the machine gives now, and what a token takes of it.
 *
 * Bandwidth and clock of a shared machine change from minute to minute, so both
 * are measured around each row that is held against them. One thread. */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include "bench/token_bytes.h"
#include "compare.h"

/* Bytes and multiply-adds of one token, from the tensor table of a file. */
ds4_status limit_token(token_bytes *t, const char *model, ds4_error *err);

/* GB/s or G multiply-adds/s of so many threads; 0 where it cannot be measured. Takes a second. */
double limit_now(limit_kind kind, int threads);

/* The same unit: what `tps` tokens/s of a short context take. */
double limit_taken(limit_kind kind, const token_bytes *t, double tps);

#endif
