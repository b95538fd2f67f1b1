/* time: a backend that adds up how long every kind of op took, and what it read. Device memory needs a mirror in the
 * host's. */
#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "kernels/op_cost.h"
#include "kernels/results.h"
#include "kernels/wrap.h"

enum { MOST_TIMES = 128 };      /* pairs of op and name; what comes after is added to the last */

typedef struct {
    wrapper w;
    op_time time[MOST_TIMES];
    int     n;
} time_backend;

static op_time *entry_of(time_backend *t, const char *op, const char *name)
{
    for (int i = 0; i < t->n; i++)
        if (t->time[i].op == op && strcmp(t->time[i].name, name) == 0) return &t->time[i];
    if (t->n == MOST_TIMES) return &t->time[MOST_TIMES - 1];
    t->time[t->n] = (op_time){ .op = op, .name = name };
    return &t->time[t->n++];
}

static void no_result(void *ctx, const char *result, view v, const kv_row *stored)
{
    (void)ctx, (void)result, (void)v, (void)stored;
}

/* Which experts a router chose, for the ops whose cost depends on it. */
static view choice_of(const char *op, const void *args)
{
    if (strcmp(op, "expert_ffn") == 0) return ((const expert_ffn_args *)args)->ids;
    if (strcmp(op, "moe_block") == 0)  return ((const moe_block_args *)args)->experts.ids;
    return (view){ 0 };
}

static void add_time(queue *dev, const char *op, const char *name, uint64_t ns, op_cost c)
{
    op_time *e = entry_of((time_backend *)dev->backend, op, name);
    e->calls++;
    e->ns += ns;
    e->read_bytes += c.read_bytes;
    e->macs += c.macs;
    e->experts += c.experts;
}

/* A default stage is entered, so that its primitives are told one by one. The device
 * is waited for, or a queued op would seem to take no time. */
#define TIME_OP(op)                                                                                   \
    static ds4_status time_##op(queue *dev, const op##_args *a)                                       \
    {                                                                                                 \
        wrapper *w = wrapper_of(dev);                                                                 \
        if (w->inner->ops.op == w->defaults.op) return w->defaults.op(dev, a);                        \
        const uint64_t start = clock_ns();                                                            \
        ds4_status st = wrap_status(dev, w->inner->ops.op(&w->inner->queue, a));                      \
        if (!st) st = w->inner->wait(w->inner, &dev->error);                                          \
        const uint64_t ns = clock_ns() - start;                                                       \
        if (st) return st;                                                                            \
        const view choice = choice_of(#op, a);                                                        \
        if (view_present(choice) && w->base.mirror) st = w->base.mirror(&w->base, choice, &dev->error); \
        if (st) return st;                                                                            \
        result_visit at = { .name = "", .fn = no_result };                                            \
        results_##op(a, &at);                                                                         \
        add_time(dev, #op, at.name, ns, op_cost_##op(a));                                             \
        return DS4_OK;                                                                                \
    }
OPS_PRIMITIVES(TIME_OP)
OPS_STAGES(TIME_OP)

static void time_close(backend *b)
{
    if (!b) return;
    wrapper *w = (wrapper *)b;
    w->inner->close(w->inner);
    free(b);
}

ds4_status backend_time_open(backend **out, backend *inner, ds4_error *err)
{
    *out = NULL;
    time_backend *t = calloc(1, sizeof *t);
    if (!t) {
        inner->close(inner);
        return ds4_fail(err, DS4_EMEMORY, "time: no memory for the backend");
    }
    wrap_init(&t->w, inner, "time");
#define TIME_SET(op) t->w.base.ops.op = time_##op;
    OPS_PRIMITIVES(TIME_SET)
    OPS_STAGES(TIME_SET)
    t->w.base.close = time_close;
    *out = &t->w.base;
    return DS4_OK;
}

const op_time *backend_times(const backend *b, int *n)
{
    const bool timed = b->close == time_close;
    *n = timed ? ((const time_backend *)b)->n : 0;
    return timed ? ((const time_backend *)b)->time : NULL;
}

void backend_times_clear(backend *b)
{
    if (b->close == time_close) ((time_backend *)b)->n = 0;
}
