#include "options.h"

#include <stdlib.h>

#include "base/pool.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "../isa_names.h"

enum { MAX_FLAGS = 64 };
#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

static int model_rows(bench_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "model", .long_name = "model", .short_name = 'm', .kind = OPTION_TEXT, .target = &o->model,
        .value_name = "FILE", .help = "model file; else DS4_MODEL, else ./ds4flash.gguf, else the bundled tiny model");
    ROW(.long_name = "backend", .kind = OPTION_TEXT, .target = &o->backend, .value_name = "NAME",
        .help = "auto (a GPU that the model fits, else the CPU), cuda, cpu (default auto)");
    ROW(.long_name = "device", .kind = OPTION_COUNT, .target = &o->device, .value_name = "N",
        .help = "which GPU, counted from 0 (default 0)");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_TEXT, .target = &o->threads_text, .value_name = "LIST",
        .help = "host threads; several, such as 1,2, are measured in turn (default: one per core)");
    ROW(.long_name = "isa", .kind = OPTION_TEXT, .target = &o->isa, .value_name = "LIST",
        .help = "instruction sets the kernels may use: auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm");
    ROW(.long_name = "kv-type", .kind = OPTION_CHOICE, .target = &o->kv_type, .value_name = "TYPE",
        .choices = "packed|f32", .help = "how attention rows are stored: packed or f32 (default packed)");
    ROW(.long_name = "expert-cache", .kind = OPTION_BYTES, .target = &o->expert_cache, .value_name = "SIZE",
        .help = "memory for routed experts, such as 8g; the others are read when needed (default: what there is)");
    ROW(.long_name = "prefill-chunk", .kind = OPTION_POSITIVE, .target = &o->prefill_chunk, .value_name = "N",
        .help = "most prompt tokens of one step (default 2048)");
    ROW(.long_name = "warm-weights", .kind = OPTION_FLAG, .target = &o->warm_weights,
        .help = "touch all weight pages before the start");
    return n;
}

static int cell_rows(bench_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "cells", .long_name = "prompt", .short_name = 'p', .kind = OPTION_TEXT, .target = &o->prompt_text,
        .value_name = "LIST",
        .help = "prompt lengths to time, such as 128,512 or 128-1024*2; 0: none (default 512,2048)");
    ROW(.long_name = "gen", .short_name = 'n', .kind = OPTION_TEXT, .target = &o->gen_text, .value_name = "LIST",
        .help = "numbers of decoded tokens to time; 0: none (default 128)");
    ROW(.long_name = "prompt-gen", .alias = "pg", .kind = OPTION_LIST, .target = &o->pairs, .value_name = "P,N",
        .help = "a prompt and then decoding, timed together; may be repeated");
    ROW(.long_name = "depth", .short_name = 'd', .kind = OPTION_TEXT, .target = &o->depth_text, .value_name = "LIST",
        .help = "tokens already in the context, filled without being timed (default 0, and 4096 and 32768 where they fit)");
    ROW(.long_name = "fill", .kind = OPTION_CHOICE, .target = &o->fill, .value_name = "HOW", .choices = "real|fast",
        .help = "real computes every token of a depth; fast repeats the rows of the first ones (default real)");
    ROW(.long_name = "sessions", .kind = OPTION_TEXT, .target = &o->sessions_text, .value_name = "LIST",
        .help = "sessions that decode together, in total t/s (default 1)");
    return n;
}

static int rule_rows(bench_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "timing", .long_name = "repetitions", .short_name = 'r', .kind = OPTION_POSITIVE,
        .target = &o->rules.repetitions, .value_name = "N",
        .help = "exactly N timed passes of every cell (default: 5 to 15, until the median is known to 1 %)");
    ROW(.long_name = "warmup-max", .kind = OPTION_COUNT, .target = &o->rules.warmup_max, .value_name = "N",
        .help = "untimed passes after the first one, while they differ by 2 % or more (default 4)");
    ROW(.long_name = "budget", .kind = OPTION_FLOAT, .target = &o->budget, .value_name = "SECONDS",
        .help = "stop repeating a cell after this time (default 300; 0: never)");
    ROW(.topic = "text", .long_name = "prompt-file", .short_name = 'f', .kind = OPTION_TEXT, .target = &o->text_file,
        .value_name = "FILE", .help = "text that is fed (default: the bundled novel), repeated where it is too short");
    ROW(.long_name = "random-tokens", .kind = OPTION_U64, .target = &o->random_seed, .seen = &o->random_given,
        .value_name = "SEED", .help = "feed random tokens; they choose experts as no real text does");
    return n;
}

static int sweep_rows(bench_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "sweep", .long_name = "ctx-start", .kind = OPTION_POSITIVE, .target = &o->frontier.start,
        .seen = &o->ctx_start_given, .value_name = "N",
        .help = "walk one text to growing contexts instead of cells, first N tokens (default 2048)");
    ROW(.long_name = "ctx-max", .kind = OPTION_POSITIVE, .target = &o->frontier.max, .value_name = "N",
        .seen = &o->ctx_max_given, .help = "last context (default 32768)");
    ROW(.long_name = "step-incr", .kind = OPTION_POSITIVE, .target = &o->frontier.incr, .value_name = "N",
        .help = "tokens from one context to the next (default 2048)");
    ROW(.long_name = "step-mul", .kind = OPTION_FLOAT, .target = &o->frontier.mul, .value_name = "F",
        .help = "factor from one context to the next, instead of --step-incr");
    ROW(.long_name = "gen-tokens", .kind = OPTION_COUNT, .target = &o->frontier.gen, .value_name = "N",
        .help = "tokens decoded at each context (default 128)");
    return n;
}

static int output_rows(bench_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "output", .long_name = "classes", .kind = OPTION_FLAG, .target = &o->classes,
        .help = "take every cell apart by kind of matrix: time, bytes, GB/s, multiply-adds");
    ROW(.long_name = "json", .kind = OPTION_TEXT, .target = &o->json, .value_name = "FILE",
        .help = "the records as one JSON array (- is standard output, in place of the table)");
    ROW(.long_name = "jsonl", .kind = OPTION_TEXT, .target = &o->jsonl, .value_name = "FILE",
        .help = "a record per line");
    ROW(.long_name = "csv", .kind = OPTION_TEXT, .target = &o->csv, .value_name = "FILE", .help = "the columns as CSV");
    ROW(.long_name = "md", .kind = OPTION_TEXT, .target = &o->md, .value_name = "FILE",
        .help = "the columns as a Markdown table");
    ROW(.long_name = "quiet", .short_name = 'q', .kind = OPTION_FLAG, .target = &o->quiet,
        .help = "only errors on stderr");
    ROW(.long_name = "verbose", .short_name = 'v', .kind = OPTION_FLAG, .target = &o->verbose,
        .help = "every pass on stderr");
    ROW(.long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &o->help, .help = "this text");
    ROW(.long_name = "version", .kind = OPTION_FLAG, .target = &o->version,
        .help = "version, commit, backends and build flags");
    return n;
}

static void build_table(bench_options *o, option table[MAX_FLAGS])
{
    int n = model_rows(o, table);
    n += cell_rows(o, table + n);
    n += rule_rows(o, table + n);
    n += sweep_rows(o, table + n);
    n += output_rows(o, table + n);
    table[n] = (option){ 0 };
}

static bench_options defaults(void)
{
    return (bench_options){
        .backend = "auto", .kv_type = "packed", .isa = "auto", .isa_mask = ~0u, .prefill_chunk = 2048, .fill = "real",
        .rules = { .warmup_max = 4 }, .budget = 300,
        .frontier = { .start = 2048, .max = 32768, .incr = 2048, .gen = 128 },
    };
}

void bench_options_help(bytes *out)
{
    bench_options unused = defaults();
    option table[MAX_FLAGS];
    build_table(&unused, table);
    options_help(table, NULL, out);
}

/* ---- lists ------------------------------------------------------------------ */

static ds4_status lists_of(bench_options *o, ds4_error *err)
{
    o->default_cells = !o->prompt_text && !o->gen_text && !o->pairs.n;
    const struct { const char *option, *text, *fallback; int least; int_list *list; } given[] = {
        { "prompt",   o->prompt_text,   o->default_cells ? "512,2048" : "0",     0, &o->lists.prompt },
        { "gen",      o->gen_text,      o->default_cells ? "128" : "0",          0, &o->lists.gen },
        { "depth",    o->depth_text,    o->default_cells ? "0,4096,32768" : "0", 0, &o->lists.depth },
        { "sessions", o->sessions_text, "1",                                     1, &o->lists.sessions },
    };
    ds4_status st = DS4_OK;
    for (size_t i = 0; i < sizeof given / sizeof *given && !st; i++)
        st = int_list_parse(given[i].list, given[i].option, given[i].text ? given[i].text : given[i].fallback,
                            given[i].least, err);
    for (int i = 0; i < o->pairs.n && !st; i++) st = cell_pair_parse(&o->lists, o->pairs.items[i], err);
    if (st) return st;

    if (!o->threads_text) {
        o->threads = (int_list){ .n = 1, .at = { pool_default_threads() } };
        return DS4_OK;
    }
    st = int_list_parse(&o->threads, "threads", o->threads_text, 1, err);
    if (!st && o->threads.n > ARMS_MAX) st = ds4_fail(err, DS4_EARG, "--threads: at most %d numbers", ARMS_MAX);
    return st;
}

static ds4_status check(bench_options *o, ds4_error *err)
{
    if (!isa_mask_parse(o->isa, &o->isa_mask))
        return ds4_fail(err, DS4_EARG,
                        "--isa: expected auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm, got \"%s\"",
                        o->isa);
    if (!backend_exists(o->backend)) return ds4_fail(err, DS4_EARG, "--backend: \"%s\" is not built in", o->backend);
    if (o->text_file && o->random_given)
        return ds4_fail(err, DS4_EARG, "--random-tokens: the text is already given with --prompt-file");
    if (o->budget < 0) return ds4_fail(err, DS4_EARG, "--budget: expected seconds, got %g", (double)o->budget);
    if (o->sweep && (!o->default_cells || o->depth_text || o->sessions_text))
        return ds4_fail(err, DS4_EARG, "--ctx-start: a sweep takes no -p, -n, -pg, -d or --sessions");
    if (o->sweep && o->threads.n > 1) return ds4_fail(err, DS4_EARG, "--threads: a sweep takes one number");
    if (o->sweep && (o->json || o->jsonl || o->md))
        return ds4_fail(err, DS4_EARG, "%s: a sweep is written as CSV only",
                        o->json ? "--json" : o->jsonl ? "--jsonl" : "--md");
    if (o->rules.repetitions > SPEED_CAP)
        return ds4_fail(err, DS4_EARG, "--repetitions: at most %d", SPEED_CAP);
    return o->sweep ? frontier_check(&o->frontier, err) : DS4_OK;
}

ds4_status bench_options_parse(bench_options *o, int argc, char **argv, bool bare, ds4_error *err)
{
    option table[MAX_FLAGS];
    *o = defaults();
    build_table(o, table);
    ds4_status st = options_parse(table, argc, argv, NULL, err);
    if (st || o->help || o->version) return st;

    const char *env = getenv("DS4_MODEL");
    if (!o->model && env && *env) o->model = env, o->model_from_env = true;
    o->sweep = bare || o->ctx_start_given || o->ctx_max_given;
    o->rules.budget_s = (double)o->budget;
    if ((st = lists_of(o, err))) return st;
    return check(o, err);
}

void bench_options_free(bench_options *o) { option_list_free(&o->pairs); }
