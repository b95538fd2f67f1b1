/* load: the weights' way into memory before the first step, where it was asked for.
 *
 * Without it they are mapped and read when a step touches them. */
#ifndef ENGINE_LOAD_H
#define ENGINE_LOAD_H

#include "engine/engine.h"

/* Every page of the file, or as much of it as there is memory for. */
ds4_status load_warm(ds4_engine *e, ds4_error *err);

/* A copy in huge pages in the place of the file's mapping; views of the weights stay
 * good. `rest` bytes are needed besides. DS4_EMEMORY with figures when it does not fit. */
ds4_status load_huge_pages(ds4_engine *e, uint64_t rest, ds4_error *err);

#endif
