/* stats: what a turn took, for people and for JSON. */
#ifndef CLI_STATS_H
#define CLI_STATS_H

#include "conversation.h"

typedef struct {
    size_t   prompt_tokens, prefilled;      /* the whole prompt; those computed now */
    uint64_t prefill_ns;
    residency_counts prefill_pages;
    generate_result answer;
    int      used, capacity;                /* context */
} turn_stats;

turn_stats turn_stats_of(const conversation *c, size_t prompt_tokens, const generate_result *r);

enum { TURN_STATS_TEXT = 512 };             /* room for turn_stats_text */

/* "prefill 512 tokens in 1.24 s (412.90 t/s), generation 87 tokens in ..., ctx 599/32768",
 * and how the experts of the answer came into memory where they are not all mapped */
void turn_stats_text(const turn_stats *s, char *out, size_t size);

/* What the disk cost where it cost much, and what to do; false: it did not. */
bool turn_stats_paging(const turn_stats *s, char *out, size_t size);

/* content, reasoning, finish_reason, usage, timings; with a final newline. */
bool turn_stats_json(const turn_stats *s, const printer *p, bytes *out);

#endif
