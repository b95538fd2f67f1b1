/* plan: what an engine will need, and what of it goes where. Reads a file's header only. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "engine/engine.h"

/* Decides what the options leave open (which backend "auto" is, rows of a step) and fills the plan. */
ds4_status plan_make(ds4_plan *p, ds4_engine_options *o, const model_config *c, const gguf *g, const log_sink *log,
                     ds4_error *err);
/* DS4_EMEMORY: more than there is, with figures and the remedy. What is slow but works is logged. */
ds4_status plan_check(const ds4_plan *p, const ds4_engine_options *o, const log_sink *log, ds4_error *err);

/* ---- plan.c and plan_device.c -------------------------------------------------------- */

enum { PLAN_FEWEST_ROWS = 256, PLAN_MOST_ROWS = 4096 };

uint64_t plan_scratch(const ds4_engine_options *o, const model_config *c);
/* Of sessions, in host memory whatever the backend: tokens, logits, rewind points. */
uint64_t plan_session_records(const ds4_engine_options *o, const model_config *c);
uint64_t plan_tables(const gguf *g);
/* The longest max_tokens for which need stays within budget. */
typedef uint64_t plan_need(const ds4_engine_options *o, const model_config *c, const gguf *g);
int      plan_tokens_that_fit(const ds4_engine_options *o, const model_config *c, const gguf *g, plan_need *need,
                              uint64_t budget);

ds4_status plan_device(ds4_plan *p, ds4_engine_options *o, const model_config *c, const gguf *g, ds4_error *err);
ds4_status plan_device_check(const ds4_plan *p, const ds4_engine_options *o, ds4_error *err);
void       plan_device_warn(const ds4_plan *p, const log_sink *log);

#endif
