#include "sampling.h"

#include <math.h>

#include "base/clock.h"

ds4_sampling sampling_of(const cli_options *o, const ds4_shape *shape)
{
    ds4_sampling s = ds4_sampling_defaults();
    s.temperature = o->flags.temp_given || isnan(shape->default_temperature) ? o->flags.temp : shape->default_temperature;
    s.top_p = o->flags.top_p_given || isnan(shape->default_top_p) ? o->flags.top_p : shape->default_top_p;
    s.min_p = o->flags.min_p;
    s.top_k = o->flags.top_k;
    s.seed = o->seed_given ? o->seed : clock_unix_seconds() ^ clock_ns();
    return s;
}
