/* peak: the most multiply-adds a processor does when nothing else is asked of it.
 *
 * Loops over registers alone: at least twelve sums that do not wait for each
 * other, no memory. The instructions are written out, because a compiler that
 * keeps one of the sums in memory halves the figure. Any thread. */
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

#include <stdint.h>
#include "bench/stats.h"
#include "ds4_status.h"

typedef struct {
    const char *name;           /* "vpdpbusd, 512 bits"                       */
    uint64_t    macs;           /* multiply-adds of a round                   */
    void      (*run)(uint64_t rounds);
} peak_loop;

enum { PEAK_REPEATS = 9 };

/* The fastest loop for these instruction sets; NULL: none is written for them. */
const peak_loop *peak_int8(uint32_t isa);
const peak_loop *peak_f32(uint32_t isa);

/* G multiply-adds/s of all threads together. */
ds4_status peak_measure(const peak_loop *l, int n_threads, stats *out, ds4_error *err);

/* The rungs, each in a file compiled for its instruction set. */
extern const peak_loop peak_int8_avx2, peak_f32_avx2, peak_int8_avx512, peak_f32_avx512;
extern const peak_loop peak_int8_neon, peak_f32_neon, peak_int8_neon_i8mm;

#endif
