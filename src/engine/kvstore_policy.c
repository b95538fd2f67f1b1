/* kvstore_policy: when to save and what to give up, as numbers. */
#include "engine/kvstore.h"

#include <math.h>

#include "base/checked.h"

kv_save_policy kv_save_policy_defaults(void)
{
    return (kv_save_policy){ .min_tokens = 512, .cold_max_tokens = 30000, .continued_interval_tokens = 10000,
                             .boundary_trim_tokens = 32, .boundary_align_tokens = 2048 };
}

int kv_continued_interval(const kv_save_policy *p)
{
    const int64_t align = max_int(p->boundary_align_tokens, 1), wanted = p->continued_interval_tokens;
    if (wanted <= 0) return 0;
    const int64_t interval = (wanted + align - 1) / align * align;
    return interval > INT32_MAX ? 0 : (int)interval;
}

int kv_cold_anchor(const kv_save_policy *p, int n, int last_user)
{
    const int least = max_int(p->min_tokens, 1), align = max_int(p->boundary_align_tokens, 1);
    if (n < least || n > p->cold_max_tokens) return 0;
    if (last_user >= least && last_user < n) return last_user;
    const int trimmed = n - max_int(p->boundary_trim_tokens, 0);
    return trimmed < least ? 0 : max_int(trimmed / align * align, least);
}

double kv_score(kv_save_reason reason, uint32_t hits, uint64_t age_seconds, int tokens, uint64_t growing_bytes)
{
    double base = 1, effective = (double)hits * exp2(-(double)age_seconds / (6.0 * 3600));
    if (reason == KV_SAVE_COLD) base = 4;
    if (reason == KV_SAVE_EVICT || reason == KV_SAVE_SHUTDOWN) base = 2;
    if (effective < 0.01) effective = 0;
    return (effective + base) * tokens / (double)(growing_bytes > 0 ? growing_bytes : 1);
}
