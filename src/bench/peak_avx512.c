#include "bench/peak.h"

#include <immintrin.h>

/* Sixteen sums: four cycles of latency at two instructions a cycle need eight. */
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

#define SUM_INT(i) __m512i s##i = _mm512_setzero_si512();
#define DOT(i)     __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
static void run_int8(uint64_t rounds)
{
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    EACH_SUM(SUM_INT)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(DOT) }
}

#define SUM_F32(i) __m512 s##i = _mm512_setzero_ps();
#define FMA(i)     __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
static void run_f32(uint64_t rounds)
{
    const __m512 a = _mm512_set1_ps(1e-3f), b = _mm512_set1_ps(-1e-3f);
    EACH_SUM(SUM_F32)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(FMA) }
}

const peak_loop peak_int8_avx512 = { "vpdpbusd, 512 bits", 16 * 64, run_int8 };
const peak_loop peak_f32_avx512 = { "vfmadd231ps, 512 bits", 16 * 16, run_f32 };
