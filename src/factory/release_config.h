/* release_config: the configuration files of a checkpoint's folder as numbers.
 *
 * config.json with the released key names or with those of the release's own
 * inference program; generation_config.json for the sampling defaults. Sizes
 * must be there; constants that all releases share have them as defaults, and
 * how many were taken is told to notes (and which, as details). */
#ifndef FACTORY_RELEASE_CONFIG_H
#define FACTORY_RELEASE_CONFIG_H

#include "base/log.h"
#include "ds4_status.h"
#include "factory/shape.h"

typedef struct {
    model_shape shape;              /* checked                                  */
    char        name[128];          /* the model's, or the folder's             */
    float       temperature, top_p; /* NAN where the folder does not say        */
    int         bos, eos;           /* token ids; -1 where config.json has none */
} release_config;

ds4_status release_config_read(release_config *c, const char *dir, const log_sink *notes, ds4_error *err);

#endif
