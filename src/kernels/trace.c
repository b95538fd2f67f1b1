/* trace: a backend that tells a listener of every op's results. Device memory needs a mirror in the host's. */
#include "kernels/backend.h"

#include <stdlib.h>

#include "base/status.h"
#include "kernels/results.h"
#include "kernels/wrap.h"

typedef struct {
    wrapper      w;
    backend_tap *tap;
    void        *tap_ctx;
} trace_backend;

typedef struct {
    trace_backend *t;
    const char    *op;
    result_visit   visit;
    ds4_status     st;          /* of bringing results to the host */
} trace_visit;

static void tell(void *ctx, const char *result, view v, const kv_row *stored)
{
    (void)stored;
    trace_visit *c = ctx;
    backend *b = &c->t->w.base;
    if (!c->st && b->mirror && view_present(v)) c->st = b->mirror(b, v, &b->queue.error);
    if (c->st) return;
    c->t->tap(c->t->tap_ctx, c->op, c->visit.name, c->visit.layer, result, v);
}

#define TRACE_OP(op)                                                          \
    static ds4_status trace_##op(queue *dev, const op##_args *a)              \
    {                                                                         \
        const ds4_status st = WRAP_CALL(op, dev, a);                          \
        if (st) return st;                                                    \
        trace_visit c = { (trace_backend *)dev->backend, #op, { .fn = tell }, DS4_OK }; \
        c.visit.ctx = &c;                                                     \
        results_##op(a, &c.visit);                                            \
        return c.st;                                                          \
    }
OPS_PRIMITIVES(TRACE_OP)
OPS_STAGES(TRACE_OP)

static void trace_close(backend *b)
{
    if (!b) return;
    wrapper *w = (wrapper *)b;
    w->inner->close(w->inner);
    free(b);
}

ds4_status backend_trace_open(backend **out, backend *inner, backend_tap *tap, void *ctx, ds4_error *err)
{
    *out = NULL;
    trace_backend *t = calloc(1, sizeof *t);
    if (!t) {
        inner->close(inner);
        return ds4_fail(err, DS4_EMEMORY, "trace: no memory for the backend");
    }
    wrap_init(&t->w, inner, "trace");
    t->tap = tap;
    t->tap_ctx = ctx;
#define TRACE_SET(op) t->w.base.ops.op = trace_##op;
    OPS_PRIMITIVES(TRACE_SET)
    OPS_STAGES(TRACE_SET)
    t->w.base.close = trace_close;
    *out = &t->w.base;
    return DS4_OK;
}
