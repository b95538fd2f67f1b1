/* expert_source: where the matrices of routed experts come from when they do not all
 * lie in memory. An op that multiplies with experts is given one instead of the
 * addresses in the weights' views.
 *
 *   announce  what a layer will want, as soon as its router has chosen
 *   acquire   a layer's experts, as many as there is room for; reading begins
 *   arrived   those that have come since, in any order; waits for one
 *   release   the room may be used again
 *
 * One group is acquired at a time. Engine thread only. */
#ifndef KERNELS_EXPERT_SOURCE_H
#define KERNELS_EXPERT_SOURCE_H

#include <stdint.h>
#include "ds4_status.h"

/* Where the matrices of one expert lie, in host memory. */
typedef struct {
    const uint8_t *gate, *up, *down;
} expert_data;

typedef struct expert_source expert_source;
struct expert_source {
    /* acquire will come with these n ids, here in any order and as often as rows chose them. */
    void       (*announce)(expert_source *s, int layer, const int32_t *ids, int n);
    /* The op will ask for these experts, ascending and each once, of `layer`. `weight` says
     * how many rows want each. Holds the first *taken >= 1 of them, until release. */
    ds4_status (*acquire)(expert_source *s, int layer, const int32_t *ids, const int32_t *weight, int n,
                          int *taken, ds4_error *err);
    /* Fills which[] with at least one number (of 0..taken-1) not given before since acquire,
     * and data[number] for each. Not called again when all have been given. */
    ds4_status (*arrived)(expert_source *s, int *which, int *n, expert_data *data, ds4_error *err);
    /* Also after a failure of arrived; without an acquire it does nothing. */
    void       (*release)(expert_source *s);
};

#endif
