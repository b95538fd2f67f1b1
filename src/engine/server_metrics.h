/* server_metrics: what a server counts while it serves (docs/server.md, Figures).
 *
 * Plain atomics, relaxed: any thread adds, any thread reads, nobody waits. */
#ifndef ENGINE_SERVER_METRICS_H
#define ENGINE_SERVER_METRICS_H

#include "base/histogram.h"
#include "text/answer.h"

#define METRIC_MISS_REASONS 9           /* reuse_miss */
#define METRIC_SAVE_REASONS 7           /* kv_save_reason */

typedef enum { SOURCE_LIVE, SOURCE_VISIBLE, SOURCE_DISK, SOURCE_KINDS } cache_source;
typedef enum { PHASE_QUEUE, PHASE_PREFILL, PHASE_DECODE, PHASE_KINDS } request_phase;
typedef enum { ENDED_STOP, ENDED_LENGTH, ENDED_ABORT, ENDED_ERROR, ENDED_TOOL_CALLS, ENDED_KINDS } request_end;

typedef _Atomic uint64_t counter;

static inline void counter_add(counter *c, uint64_t n) { atomic_fetch_add_explicit(c, n, memory_order_relaxed); }
static inline void counter_set(counter *c, uint64_t n) { atomic_store_explicit(c, n, memory_order_relaxed); }
static inline uint64_t counter_get(const counter *c) { return atomic_load_explicit((counter *)c, memory_order_relaxed); }

/* One measurement in the buckets that vLLM has, and in narrow ones of which a quantile can be read within 13 %. */
typedef struct {
    histogram usual, narrow;
} timing;

void timing_add(timing *t, double seconds);

typedef struct {
    counter prompt_tokens, generation_tokens, forced_tokens;
    counter ended[ENDED_KINDS];
    counter prefix_queries, prefix_hits;                /* tokens */
    counter prefill_tokens;                             /* really computed */
    counter cached_tokens[SOURCE_KINDS];
    counter misses[METRIC_MISS_REASONS];
    counter cancelled[PHASE_KINDS];
    counter tool_calls, tool_repairs[REPAIR_KINDS], tool_failures;
    counter kv_evictions, kv_corrupt;
    counter running, waiting;                           /* now */
    counter device_losses, device_away;                 /* so often; now: 1 until it is open again */
    counter expert_hits, expert_misses, expert_bus_bytes, expert_exchanges;     /* as in ds4_card_expert_metrics */
    counter kv_rows_used, kv_rows;                      /* now: tokens held, tokens of all slots */
    timing    ttft, inter_token, per_output_token, e2e, queue, prefill, decode;     /* seconds */
    histogram prompt_sizes, generation_sizes;           /* tokens */
    histogram kv_save[METRIC_SAVE_REASONS], kv_load;    /* seconds */
} server_metrics;

void server_metrics_init(server_metrics *m);

#endif
