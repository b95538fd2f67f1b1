/* launch_cost: what one launch reads, multiplies and by prediction takes on an H200.
 *
 * Weights, session memory and rows of activations are counted from the launch's own arguments. The time is the
 * largest of the bytes at BANDWIDTH, the products at a rate for the kernel, and what any launch takes. No
 * number here was measured. */
#ifndef TESTS_GPU_HOST_LAUNCH_COST_H
#define TESTS_GPU_HOST_LAUNCH_COST_H

#include "counting_device.h"

#define LAUNCH_BANDWIDTH 4.3e6  /* bytes per microsecond                                         */
#define LAUNCH_US        1.5    /* in a recording, begun early behind the launch before it       */
#define LAUNCH_JOINS_US  2.5    /* behind another stream                                         */

/* The rows of the step under way. */
typedef struct {
    const int32_t *pos;         /* [n] */
    int            n;
    bool           selects;     /* the indexer does */
    int            top_k;
} launch_rows;

const char *launch_name(int kernel);            /* "copy" for -1 */
/* counting_options.cost; ctx: launch_rows. */
void        launch_cost(void *ctx, const gpu_launch *l, counted_work *w);

#endif
