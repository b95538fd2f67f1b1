/* speed: cells measured with discipline, and what the figures mean.
 *
 * Warm-up until two passes agree, repetitions until the median is known, arms
 * that are compared taken in turn (A B B A), every row set against the memory
 * bandwidth measured beside it. Engine thread only. */
#ifndef BENCH_SPEED_H
#define BENCH_SPEED_H

#include "bench/arm.h"
#include "bench/stats.h"
#include "kernels/backend.h"

enum { SPEED_LEAST = 5, SPEED_MOST = 15, SPEED_CAP = 1000, ARMS_MAX = 16 };

typedef struct {
    int    repetitions;         /* exactly so many; 0: SPEED_LEAST to SPEED_MOST, until settled */
    int    warmup_max;          /* passes after the first while they differ by 2 % or more      */
    double budget_s;            /* per cell and arm, warm-up included; at least one repetition is made */
    uint64_t last_level_bytes;  /* of cache; 0: unknown                                 */
    /* A pass begins (0: warm-up). May be NULL. */
    void (*on_pass)(void *ctx, const bench_cell *c, int threads, int repetition);
    void  *ctx;
} speed_rules;

typedef struct {
    bench_cell  cell;
    int         threads;
    int         warmups;
    arm_sample *samples;        /* [n] owned */
    double     *rate;           /* [n] owned: tokens per second, in the order of measuring   */
    bool       *outlier;        /* [n] owned */
    int         n;
    stats       tps;
    double      first_ms;       /* median of the first decoding step; 0: none decoded        */
    double      gap_p50_ms, gap_p95_ms, gap_p99_ms, gap_max_ms;    /* between tokens, all repetitions */
    double      steady_tps;     /* median without the first step                             */
    stats       read;           /* GB/s of the memory that holds the weights, just after     */
    uint64_t    token_bytes;    /* per token of one session; of a batch, its share           */
    uint64_t    token_macs;
    double      eff_gbs;        /* decode: tokens/s times bytes                              */
    double      roofline;       /* eff_gbs / read.max                                        */
    uint64_t    kv_bytes, rss_peak, device_peak;
    double      faults_per_token, swapin_mbs, others;
    uint64_t    expert_slots;   /* 0: all experts are mapped, the next three mean nothing    */
    double      expert_hits;    /* share of wanted experts that were kept, 0..1              */
    double      expert_bytes;   /* read from the file, per token                             */
    double      expert_wait;    /* share of the time that steps stood still for reads        */
    bool        cached, drift;
    op_time    *times;          /* [n_times] owned; of a time: backend, over the timed passes */
    int         n_times;
    uint64_t    start_unix, end_unix;
} speed_row;

/* One row per arm. On failure (a cancelled one too) every row holds what was
 * measured before; rows are to be freed in any case. */
ds4_status speed_measure(bench_arm *arms, int n_arms, const bench_cell *c, const speed_rules *rules,
                         speed_row *rows, ds4_error *err);
void       speed_row_free(speed_row *r);

#endif
