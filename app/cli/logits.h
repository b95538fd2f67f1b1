/* logits: one formula that two diagnostics need. */
#ifndef CLI_LOGITS_H
#define CLI_LOGITS_H

#include <math.h>

/* ln sum_i exp(logits[i]), in double over the whole vocabulary. */
static inline double log_sum_exp(const float *logits, int n)
{
    double best = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) best = logits[i] > best ? (double)logits[i] : best;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - best);
    return best + log(sum);
}

#endif
