/* options: the flags of `ds4-bench speed`, their defaults and what goes together. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include "base/bytes.h"
#include "base/options.h"
#include "bench/cells.h"
#include "bench/frontier.h"
#include "bench/speed.h"
#include "../console.h"

typedef struct {
    /* model and machine */
    const char *model;
    bool        model_from_env;
    const char *backend, *kv_type, *isa, *threads_text;
    int_list    threads;
    uint32_t    isa_mask;
    int         prefill_chunk, device;
    bool        warm_weights;
    uint64_t    expert_cache;

    /* cells */
    const char *fill;
    const char *prompt_text, *gen_text, *depth_text, *sessions_text;
    option_list pairs;
    cell_lists  lists;
    bool        default_cells;

    /* sweep */
    frontier_plan frontier;
    bool        sweep, ctx_start_given, ctx_max_given;

    /* text */
    const char *text_file;
    uint64_t    random_seed;
    bool        random_given;

    speed_rules rules;
    float       budget;

    /* output */
    const char *json, *jsonl, *csv, *md;
    bool        classes;
    bool        help, version, quiet, verbose;
} bench_options;

/* bare: called without a mode word, as a sweep. */
ds4_status bench_options_parse(bench_options *o, int argc, char **argv, bool bare, ds4_error *err);
void       bench_options_free(bench_options *o);
void       bench_options_help(bytes *out);

#endif
