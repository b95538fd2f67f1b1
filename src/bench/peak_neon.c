#include "bench/peak.h"

#include <arm_neon.h>

/* Sixteen sums: enough for four cycles of latency at four instructions a cycle. */
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

#define SUM_INT(i) int32x4_t s##i = vdupq_n_s32(0);
#define DOT(i)     __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(s##i) : "w"(a), "w"(b));
static void run_int8(uint64_t rounds)
{
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
    EACH_SUM(SUM_INT)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(DOT) }
}

#define SUM_F32(i) float32x4_t s##i = vdupq_n_f32(0);
#define FMA(i)     __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(s##i) : "w"(a), "w"(b));
static void run_f32(uint64_t rounds)
{
    const float32x4_t a = vdupq_n_f32(1e-3f), b = vdupq_n_f32(-1e-3f);
    EACH_SUM(SUM_F32)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(FMA) }
}

const peak_loop peak_int8_neon = { "sdot, 128 bits", 16 * 16, run_int8 };
const peak_loop peak_f32_neon = { "fmla, 128 bits", 16 * 4, run_f32 };
