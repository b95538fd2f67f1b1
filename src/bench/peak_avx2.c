#include "bench/peak.h"

#include <immintrin.h>

/* Sixteen registers hold twelve sums, the operands and a place for products. */
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

/* Bytes to pairs in 16 bits, pairs to sums of four in 32 bits, added up: what a dot
 * product without vpdpbusd consists of. */
#define SUM_INT(i) __m256i s##i = _mm256_setzero_si256();
#define DOT(i)                                                                  \
    __asm__ volatile("vpmaddubsw %2, %1, %%ymm15\n\t"                           \
                     "vpmaddwd   %3, %%ymm15, %%ymm15\n\t"                      \
                     "vpaddd     %%ymm15, %0, %0"                               \
                     : "+x"(s##i) : "x"(a), "x"(b), "x"(ones) : "xmm15");
static void run_int8(uint64_t rounds)
{
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2), ones = _mm256_set1_epi16(1);
    EACH_SUM(SUM_INT)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(DOT) }
}

#define SUM_F32(i) __m256 s##i = _mm256_setzero_ps();
#define FMA(i)     __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(s##i) : "x"(a), "x"(b));
static void run_f32(uint64_t rounds)
{
    const __m256 a = _mm256_set1_ps(1e-3f), b = _mm256_set1_ps(-1e-3f);
    EACH_SUM(SUM_F32)
    for (uint64_t r = 0; r < rounds; r++) { EACH_SUM(FMA) }
}

const peak_loop peak_int8_avx2 = { "vpmaddubsw + vpmaddwd, 256 bits", 12 * 32, run_int8 };
const peak_loop peak_f32_avx2 = { "vfmadd231ps, 256 bits", 12 * 8, run_f32 };
