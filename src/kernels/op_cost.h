/* op_cost: what an op must read of weights and session memory, and how often it
 * multiplies and adds, whoever computes it.
 *
 * Activations are not counted: they stay in a cache. A stage costs what the
 * primitives of its definition cost. */
#ifndef KERNELS_OP_COST_H
#define KERNELS_OP_COST_H

#include "kernels/ops.h"

typedef struct {
    uint64_t read_bytes;
    uint64_t macs;              /* multiply-adds of dot products                     */
    uint64_t experts;           /* distinct routed experts that are read; else 0     */
} op_cost;

#define OP_COST_DECLARE(op) op_cost op_cost_##op(const op##_args *a);
OPS_PRIMITIVES(OP_COST_DECLARE)
OPS_STAGES(OP_COST_DECLARE)

#endif
