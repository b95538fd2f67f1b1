#include "bench/peak.h"

#include <arm_neon.h>

/* Sixteen sums, as in peak_neon.c. */
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

#define SUM(i) int32x4_t s##i = vdupq_n_s32(0);
#define DOT(i) __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(s##i) : "w"(a), "w"(b));
static void run_int8(uint64_t rounds)
{
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
    EACH_SUM(SUM)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(DOT) }
}

const peak_loop peak_int8_neon_i8mm = { "smmla, 128 bits", 16 * 32, run_int8 };
