/* synth: model files of any shape with seeded random weights.
 *
 * For whole-engine tests and for measuring speed at the released shape without
 * the released weights. Activations stay finite and sensible. Same options,
 * same bytes, on any machine and with any number of threads; a tensor's numbers
 * depend on seed, name and shape only, so that the f32, f16 and bf16 files of
 * one seed are the same model. */
#ifndef FACTORY_SYNTH_H
#define FACTORY_SYNTH_H

#include <stdbool.h>
#include <stdint.h>
#include "base/log.h"
#include "ds4_status.h"
#include "factory/tensors.h"

typedef struct {
    model_shape shape;
    const char *mix;                /* recipe_make's names                            */
    file_layout layout;
    uint64_t    seed;
    bool        alias_layers;       /* layers of one kind share their data            */
    float       branch_gain;        /* on the last matrix of every residual branch:
                                       small values keep two engines from drifting apart */
    const char *name;               /* general.name                                   */
    const char *out;
    bool        overwrite;
    int         n_threads;          /* 0: one per core                                */
    log_sink    log;
    bool      (*progress)(void *ctx, const char *tensor, uint64_t done, uint64_t total);
    void       *progress_ctx;
} synth_options;

synth_options synth_defaults(void);     /* the tiny shape, q8_0, seed 1, gain 1 */

/* What the file will hold, without writing it; free with tensor_plan_free. */
ds4_status synth_plan(tensor_plan *p, const synth_options *o, ds4_error *err);

ds4_status synth_run(const synth_options *o, ds4_error *err);

#endif
