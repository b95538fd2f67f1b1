/* results: which views an op writes, so that wrapping backends can look at them
 * without knowing each op's struct. */
#ifndef KERNELS_RESULTS_H
#define KERNELS_RESULTS_H

#include "kernels/ops.h"

/* result: the field's name. Memory of sessions is told row by row, with the way
 * its rows are stored; NULL for plain elements. */
typedef void result_fn(void *ctx, const char *result, view v, const kv_row *stored);

typedef struct {
    int         layer;          /* -1 outside the layers */
    const char *name;           /* what tells calls of one op apart, or ""  */
    result_fn  *fn;
    void       *ctx;
} result_visit;

#define RESULTS_DECLARE(op) void results_##op(const op##_args *a, result_visit *v);
OPS_PRIMITIVES(RESULTS_DECLARE)
OPS_STAGES(RESULTS_DECLARE)

#endif
