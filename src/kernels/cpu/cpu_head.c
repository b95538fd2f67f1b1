/* cpu_head: what a sampler needs of a row of logits. */
#include "kernels/cpu/cpu_internal.h"

#include <math.h>

/* NaN has no place in an order: it counts as the smallest number. */
static float ordered(float logit) { return logit == logit ? logit : -INFINITY; }

static void top_logits_row(void *ctx, int row, int thread)
{
    (void)thread;
    const top_logits_args *a = ctx;
    const float *logits = view_f32(a->logits, row);
    float *values = view_f32(a->values, row), *norm = view_f32(a->norm, row);
    int32_t *ids = view_i32(a->ids, row);
    const int V = a->logits.cols, k = a->ids.cols;
    float top = -INFINITY;
    int count = 0;

    for (int t = 0; t < V; t++) {
        const float v = ordered(logits[t]);
        if (v > top) top = v;
        if (count == k && !(v > ordered(values[k - 1]))) continue;
        int at = count < k ? count++ : k - 1;
        for (; at > 0 && v > ordered(values[at - 1]); at--) {
            values[at] = values[at - 1];
            ids[at] = ids[at - 1];
        }
        values[at] = logits[t];
        ids[at] = t;
    }
    for (; count < k; count++) {
        values[count] = -INFINITY;
        ids[count] = -1;
    }

    double sum = 0.0;
    for (int t = 0; t < V; t++)
        if (logits[t] == logits[t]) sum += logits[t] == top ? 1.0 : exp((double)logits[t] - top);
    norm[0] = top;
    norm[1] = (float)sum;
}

static ds4_status top_logits(queue *dev, const top_logits_args *a)
{
    if (a->ids.cols < 1) return queue_fail(dev, DS4_EARG, "top_logits: %d ids are asked for", a->ids.cols);
    cpu_for_rows(cpu_of(dev), top_logits_row, (void *)a, (int)a->logits.rows);
    return DS4_OK;
}

void ops_cpu_head(ops *o) { o->top_logits = top_logits; }
