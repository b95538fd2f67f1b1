/* sampling: from flags and the model's own wishes to sampler parameters. */
#ifndef CLI_SAMPLING_H
#define CLI_SAMPLING_H

#include "options.h"

/* Explicit flags win, then the file's general.sampling.*, then the defaults. */
ds4_sampling sampling_of(const cli_options *o, const ds4_shape *shape);

#endif
