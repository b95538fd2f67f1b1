#include "bench/peak.h"

#include <stdbool.h>

#include "base/clock.h"
#include "base/pool.h"
#include "kernels/cpu/cpu_kernels.h"

#define PASS_NS 8000000u        /* of one repeat and thread */

const peak_loop *peak_int8(uint32_t isa)
{
#if defined(DS4_SCALAR)                 /* no rungs are built */
#elif defined(__x86_64__)
    if (isa & ISA_AVX512) return &peak_int8_avx512;
    if (isa & ISA_AVX2) return &peak_int8_avx2;
#elif defined(__aarch64__)
    if (isa & ISA_NEON_I8MM) return &peak_int8_neon_i8mm;
    if (isa & ISA_NEON) return &peak_int8_neon;
#endif
    (void)isa;
    return NULL;
}

const peak_loop *peak_f32(uint32_t isa)
{
#if defined(DS4_SCALAR)                 /* no rungs are built */
#elif defined(__x86_64__)
    if (isa & ISA_AVX512) return &peak_f32_avx512;
    if (isa & ISA_AVX2) return &peak_f32_avx2;
#elif defined(__aarch64__)
    if (isa & ISA_NEON) return &peak_f32_neon;
#endif
    (void)isa;
    return NULL;
}

typedef struct {
    const peak_loop *loop;
    uint64_t         rounds;
} peak_job;

static void run_share(void *ctx, int index, int thread)
{
    const peak_job *j = ctx;
    (void)index, (void)thread;
    j->loop->run(j->rounds);
}

/* Rounds that take one thread about PASS_NS; the search also warms it up. */
static uint64_t rounds_of_a_pass(const peak_loop *l)
{
    for (uint64_t rounds = 1 << 12;; rounds *= 2) {
        const uint64_t start = clock_ns();
        l->run(rounds);
        const uint64_t ns = clock_ns() - start;
        if (ns >= PASS_NS || rounds > UINT64_C(1) << 40) return rounds;
    }
}

/* Each thread's share is many small tasks: one that is held up by others then
 * does fewer of them, and the sum still says what the machine gave. */
ds4_status peak_measure(const peak_loop *l, int n_threads, stats *out, ds4_error *err)
{
    enum { TASKS = 32 };
    pool *threads;
    double rate[PEAK_REPEATS];
    const ds4_status st = pool_open(&threads, n_threads, err);
    if (st) return st;
    peak_job j = { .loop = l, .rounds = rounds_of_a_pass(l) / TASKS + 1 };
    const int tasks = TASKS * n_threads;
    for (int i = 0; i < PEAK_REPEATS; i++) {
        const uint64_t start = clock_ns();
        pool_run(threads, run_share, &j, tasks);
        rate[i] = (double)(j.rounds * l->macs * (uint64_t)tasks) / (double)(clock_ns() - start);
    }
    stats_of(rate, PEAK_REPEATS, out);
    pool_close(threads);
    return DS4_OK;
}
