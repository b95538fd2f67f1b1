/* wrap: the common part of backends that stand around another backend.
 *
 * Memory calls go straight through; step_begin does not, since every op is to be seen. A stage whose inner entry
 * is the default is run from the wrapper's own table, so that its primitives are seen too. */
#ifndef KERNELS_WRAP_H
#define KERNELS_WRAP_H

#include "kernels/backend.h"

typedef struct {
    backend  base;
    backend *inner;             /* owned */
    ops      defaults;          /* the stages' definitions */
} wrapper;

static inline wrapper *wrapper_of(queue *dev) { return (wrapper *)dev->backend; }

/* Fills base's calls and name ("check of cpu ..."); takes inner. */
void wrap_init(wrapper *w, backend *inner, const char *prefix);

/* Fails the wrapper's queue as the inner one failed. */
ds4_status wrap_status(queue *dev, ds4_status st);

/* One op on the inner backend, or a default stage on this one. */
#define WRAP_CALL(op, dev, a)                                                 \
    (wrapper_of(dev)->inner->ops.op == wrapper_of(dev)->defaults.op           \
         ? wrapper_of(dev)->defaults.op(dev, a)                               \
         : wrap_status(dev, wrapper_of(dev)->inner->ops.op(&wrapper_of(dev)->inner->queue, a)))

#endif
