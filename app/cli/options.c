#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "kernels/backend.h"
#include "text/stream.h"
#include "../isa_names.h"

enum { MAX_FLAGS = 64 };

/* ---- the table ------------------------------------------------------------- */

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

static int model_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "model", .long_name = "model", .short_name = 'm', .kind = OPTION_TEXT, .target = &o->model,
        .value_name = "FILE", .help = "model file; else DS4_MODEL, else ./ds4flash.gguf, else the bundled tiny model");
    ROW(.long_name = "ctx", .short_name = 'c', .kind = OPTION_POSITIVE, .target = &o->ctx, .value_name = "N",
        .seen = &o->ctx_given, .help = "context in tokens, such as 32768 or 100k (default 32768)");
    ROW(.long_name = "backend", .kind = OPTION_TEXT, .target = &o->backend, .value_name = "NAME",
        .seen = &o->backend_given,
        .help = "auto, cpu, check:cpu (every op against the definitions) or trace:cpu (a line per op)");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_POSITIVE, .target = &o->threads, .value_name = "N",
        .help = "host threads (default: one per core)");
    ROW(.long_name = "isa", .kind = OPTION_TEXT, .target = &o->isa, .value_name = "LIST",
        .help = "instruction sets the kernels may use: auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm");
    ROW(.long_name = "kv-type", .kind = OPTION_CHOICE, .target = &o->kv_type, .value_name = "TYPE",
        .choices = "packed|f32", .help = "how attention rows are stored: packed or f32 (default packed)");
    ROW(.long_name = "rounding", .kind = OPTION_CHOICE, .target = &o->rounding, .value_name = "on|off",
        .choices = "on|off", .help = "the low-precision roundings the model was trained with (default on)");
    ROW(.long_name = "quality", .kind = OPTION_FLAG, .target = &o->quality,
        .help = "exact kernels instead of faster approximate ones");
    ROW(.long_name = "warm-weights", .kind = OPTION_FLAG, .target = &o->warm_weights,
        .help = "read all weights before the start");
    ROW(.long_name = "huge-pages", .kind = OPTION_FLAG, .target = &o->huge_pages,
        .help = "copy the weights into huge pages; needs memory for all of the file");
    ROW(.long_name = "numa", .kind = OPTION_CHOICE, .target = &o->numa, .value_name = "POLICY",
        .choices = "off|interleave", .help = "interleave spreads memory over the nodes of the machine (default off)");
    ROW(.long_name = "expert-cache", .kind = OPTION_TEXT, .target = &o->expert_cache_text, .value_name = "SIZE",
        .help = "memory for routed experts, such as 8g; the others are read when needed (default auto: what there is)");
    ROW(.long_name = "prefill-chunk", .kind = OPTION_POSITIVE, .target = &o->prefill_chunk, .value_name = "N",
        .help = "most prompt tokens of one step (default: up to 4096, as memory allows)");
    ROW(.long_name = "chdir", .kind = OPTION_TEXT, .target = &o->chdir_to, .value_name = "DIR",
        .help = "go there before opening anything");
    return n;
}

static int prompt_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "prompt", .long_name = "prompt", .short_name = 'p', .kind = OPTION_TEXT, .target = &o->prompt,
        .value_name = "TEXT", .help = "answer this and leave; piped input is added behind it");
    ROW(.long_name = "prompt-file", .kind = OPTION_TEXT, .target = &o->prompt_file, .value_name = "FILE",
        .help = "the prompt is in a file (- is standard input)");
    ROW(.long_name = "system", .alias = "sys", .kind = OPTION_TEXT, .target = &o->system, .value_name = "TEXT",
        .help = "system message (default \"You are a helpful assistant\"); empty for none");
    ROW(.long_name = "system-file", .kind = OPTION_TEXT, .target = &o->system_file, .value_name = "FILE",
        .help = "the system message is in a file");
    ROW(.long_name = "raw", .kind = OPTION_FLAG, .target = &o->raw,
        .help = "no template: the text is the protocol, control tokens are recognised in it");
    ROW(.long_name = "load", .kind = OPTION_TEXT, .target = &o->load, .value_name = "FILE",
        .help = "continue the session of a checkpoint");
    ROW(.long_name = "save", .kind = OPTION_TEXT, .target = &o->save, .value_name = "FILE",
        .help = "write a checkpoint of the session at the end");
    return n;
}

static int thinking_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "thinking", .long_name = "think", .kind = OPTION_CALL, .target = &o->mode, .value = MODE_THINK,
        .help = "reason before answering (default)");
    ROW(.long_name = "think-max", .kind = OPTION_CALL, .target = &o->mode, .value = MODE_THINK_MAX,
        .help = "reason at length; needs a large context");
    ROW(.long_name = "nothink", .kind = OPTION_CALL, .target = &o->mode, .value = MODE_NOTHINK,
        .help = "answer at once");
    ROW(.long_name = "show-thinking", .kind = OPTION_CHOICE, .target = &o->show_thinking, .value_name = "WHEN",
        .choices = "auto|yes|no", .help = "auto shows the reasoning on a terminal only");
    ROW(.long_name = "think-budget", .kind = OPTION_COUNT, .target = &o->think_budget, .value_name = "N",
        .help = "close the reasoning after about N tokens (default 0: no limit)");
    ROW(.long_name = "think-max-min-ctx", .kind = OPTION_COUNT, .target = &o->think_max_min_ctx, .value_name = "N",
        .help = "context that --think-max needs (default 393216; 0: any)");
    ROW(.long_name = "effort-profile", .kind = OPTION_CHOICE, .target = &o->effort_profile, .value_name = "NAME",
        .choices = "auto|preview|0731", .help = "which checkpoints' effort prefixes to use: auto, preview or 0731");
    return n;
}

static int sampling_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "sampling", .long_name = "temp", .kind = OPTION_FLOAT, .target = &o->temp, .value_name = "F",
        .seen = &o->temp_given, .help = "temperature; 0 always takes the best token (default: the model's, else 1)");
    ROW(.long_name = "top-p", .kind = OPTION_FLOAT, .target = &o->top_p, .value_name = "F", .seen = &o->top_p_given,
        .help = "keep the likeliest tokens up to this share (default: the model's, else 1)");
    ROW(.long_name = "min-p", .kind = OPTION_FLOAT, .target = &o->min_p, .value_name = "F",
        .help = "drop tokens less likely than this share of the best (default 0.05)");
    ROW(.long_name = "top-k", .kind = OPTION_COUNT, .target = &o->top_k, .value_name = "N",
        .help = "keep the N likeliest tokens (default 0: all)");
    ROW(.long_name = "seed", .kind = OPTION_U64, .target = &o->seed, .value_name = "N", .seen = &o->seed_given,
        .help = "start of the random stream (default: the time)");
    ROW(.long_name = "tokens", .short_name = 'n', .kind = OPTION_POSITIVE, .target = &o->n, .value_name = "N",
        .seen = &o->n_given, .help = "most tokens of an answer (default 50000)");
    ROW(.long_name = "stop", .kind = OPTION_LIST, .target = &o->stops, .value_name = "STRING",
        .help = "end the answer before this text; may be repeated");
    return n;
}

static int output_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "output", .long_name = "json", .kind = OPTION_FLAG, .target = &o->json,
        .help = "one JSON object: content, reasoning, finish_reason, usage, timings");
    ROW(.long_name = "color", .kind = OPTION_CHOICE, .target = &o->color, .value_name = "WHEN",
        .choices = "auto|always|never", .help = "auto, always or never (default auto)");
    ROW(.long_name = "quiet", .short_name = 'q', .kind = OPTION_FLAG, .target = &o->quiet,
        .help = "only errors on stderr");
    ROW(.long_name = "verbose", .short_name = 'v', .kind = OPTION_FLAG, .target = &o->verbose,
        .help = "details of every phase on stderr");
    ROW(.long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &o->help,
        .help = "this text, or one topic of it: --help sampling");
    ROW(.long_name = "version", .kind = OPTION_FLAG, .target = &o->version,
        .help = "version, commit, backends and build flags");
    return n;
}

static int diagnostic_rows(cli_options *o, option *table)
{
    int n = 0;
    ROW(.topic = "diagnostics", .long_name = "inspect", .kind = OPTION_FLAG, .target = &o->inspect,
        .help = "summary of the model file and the memory it needs");
    ROW(.long_name = "dump-tokens", .kind = OPTION_CHOICE, .target = &o->dump_tokens, .value_name = "chat",
        .choices = "chat", .optional_value = true, .seen = &o->dump_tokens_given,
        .help = "tokens of the prompt as it stands; =chat applies the template first");
    ROW(.long_name = "dump-logprobs", .kind = OPTION_TEXT, .target = &o->dump_logprobs, .value_name = "FILE",
        .help = "greedy continuation with the likeliest tokens of every step, as JSON");
    ROW(.long_name = "logprobs-top-k", .kind = OPTION_POSITIVE, .target = &o->logprobs_top_k, .value_name = "K",
        .help = "how many of them, 1 to 128 (default 20)");
    ROW(.long_name = "dump-logits", .kind = OPTION_TEXT, .target = &o->dump_logits, .value_name = "FILE",
        .help = "logits behind the prompt: JSON, or raw float32 when FILE ends in .f32");
    ROW(.long_name = "all-positions", .kind = OPTION_FLAG, .target = &o->all_positions,
        .help = "with --dump-logits FILE.f32: of every position, [n][vocabulary]");
    ROW(.long_name = "token-ids", .kind = OPTION_TEXT, .target = &o->token_ids, .value_name = "FILE",
        .help = "prompt as a JSON array of token ids, or of such arrays, used as they are");
    ROW(.long_name = "print-ids", .kind = OPTION_FLAG, .target = &o->print_ids,
        .help = "print the ids of the continuation instead of its text, one JSON array per prompt");
    ROW(.long_name = "perplexity-file", .kind = OPTION_TEXT, .target = &o->perplexity_file, .value_name = "FILE",
        .help = "negative log-likelihood of a text in windows of the context");
    return n;
}

static void build_table(cli_options *o, option table[MAX_FLAGS])
{
    int n = model_rows(o, table);
    n += prompt_rows(o, table + n);
    n += thinking_rows(o, table + n);
    n += sampling_rows(o, table + n);
    n += output_rows(o, table + n);
    n += diagnostic_rows(o, table + n);
    table[n] = (option){ 0 };
}

static cli_options defaults(void)
{
    return (cli_options){
        .backend = "auto", .kv_type = "packed", .rounding = "on", .isa = "auto", .isa_mask = ~0u,
        .expert_cache_text = "auto",
        .numa = "off", .ctx = 32768,
        .mode = MODE_THINK, .effort_profile = "auto", .think_max_min_ctx = CHAT_THINK_MAX_MIN_CTX,
        .temp = 1, .top_p = 1, .min_p = 0.05f, .n = 50000,
        .show_thinking = "auto", .color = "auto", .logprobs_top_k = 20,
    };
}

bool cli_options_help(const char *topic, bytes *out)
{
    cli_options unused = defaults();
    option table[MAX_FLAGS];
    build_table(&unused, table);
    return options_help(table, topic, out);
}

/* ---- values ---------------------------------------------------------------- */

bool sampling_in_range(const char *key, double v)
{
    if (strcmp(key, "temp") == 0)  return v >= 0 && v <= 100;
    if (strcmp(key, "top-p") == 0) return v > 0 && v <= 1;
    if (strcmp(key, "min-p") == 0) return v >= 0 && v <= 1;
    return true;
}

/* Through the parser of the flag, so that all three spell numbers alike. */
ds4_status cli_parse_ctx(const char *text, int *ctx, ds4_error *err)
{
    const option table[] = {
        { .long_name = "ctx", .kind = OPTION_POSITIVE, .target = ctx, .value_name = "N" }, { 0 }
    };
    char name[] = "ds4", flag[] = "--ctx", value[32];
    char *argv[] = { name, flag, value, NULL };
    snprintf(value, sizeof value, "%s", text);
    return options_parse(table, 3, argv, NULL, err);
}

static ds4_status parse_expert_cache(const char *text, uint64_t *size, ds4_error *err)
{
    const option table[] = {
        { .long_name = "expert-cache", .kind = OPTION_BYTES, .target = size, .value_name = "SIZE" }, { 0 }
    };
    char name[] = "ds4", flag[] = "--expert-cache", value[64];
    char *argv[] = { name, flag, value, NULL };
    *size = 0;
    if (strcmp(text, "auto") == 0) return DS4_OK;
    snprintf(value, sizeof value, "%s", text);
    const ds4_status st = options_parse(table, 3, argv, NULL, err);
    if (st || *size) return st;
    return ds4_fail(err, DS4_EARG, "--expert-cache: expected auto or a size above 0, got \"%s\"", value);
}

color_choice cli_color(const cli_options *o)
{
    if (strcmp(o->color, "always") == 0) return COLOR_ALWAYS;
    return strcmp(o->color, "never") == 0 ? COLOR_NEVER : COLOR_AUTO;
}

/* ---- environment ----------------------------------------------------------- */

/* The sentence of --ctx, about the variable. */
static ds4_status env_ctx(cli_options *o, ds4_error *err)
{
    const char *text = getenv("DS4_CTX");
    if (o->ctx_given || !text || !*text) return DS4_OK;
    ds4_error inner = { 0 };
    if (cli_parse_ctx(text, &o->ctx, &inner) == DS4_OK) return DS4_OK;
    return ds4_fail(err, DS4_EARG, "DS4_CTX%s", inner.message + strlen("--ctx"));
}

static ds4_status read_environment(cli_options *o, ds4_error *err)
{
    const char *model = getenv("DS4_MODEL"), *name = getenv("DS4_BACKEND");
    if (!o->model && model && *model) o->model = model, o->model_from_env = true;
    if (!o->backend_given && name && *name) o->backend = name;
    return env_ctx(o, err);
}

/* ---- what goes together ---------------------------------------------------- */

static ds4_status choose_job(cli_options *o, ds4_error *err)
{
    const struct { bool given; cli_job job; const char *flag; } jobs[] = {
        { o->inspect,                 JOB_INSPECT,       "--inspect" },
        { o->dump_tokens_given,       JOB_DUMP_TOKENS,   "--dump-tokens" },
        { o->dump_logprobs != NULL,   JOB_DUMP_LOGPROBS, "--dump-logprobs" },
        { o->dump_logits != NULL,     JOB_DUMP_LOGITS,   "--dump-logits" },
        { o->print_ids,               JOB_PRINT_IDS,     "--print-ids" },
        { o->perplexity_file != NULL, JOB_PERPLEXITY,    "--perplexity-file" },
    };
    const char *first = NULL;
    for (size_t i = 0; i < countof(jobs); i++) {
        if (!jobs[i].given) continue;
        if (first) return ds4_fail(err, DS4_EARG, "%s: can not be combined with %s", jobs[i].flag, first);
        first = jobs[i].flag;
        o->job = jobs[i].job;
    }
    return DS4_OK;
}

static bool ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), t = strlen(tail);
    return n >= t && strcmp(text + n - t, tail) == 0;
}

static ds4_status check_prompt(const cli_options *o, ds4_error *err)
{
    if (o->prompt && o->prompt_file)
        return ds4_fail(err, DS4_EARG, "--prompt-file: the prompt is already given with --prompt");
    if (o->token_ids && (o->prompt || o->prompt_file))
        return ds4_fail(err, DS4_EARG, "--token-ids: the prompt is already given with %s",
                        o->prompt ? "--prompt" : "--prompt-file");
    if (o->system && o->system_file)
        return ds4_fail(err, DS4_EARG, "--system-file: the system message is already given with --system");
    if (o->raw && (o->system || o->system_file))
        return ds4_fail(err, DS4_EARG, "--raw: there is no template that could hold a system message");
    if (o->token_ids && o->job != JOB_DUMP_LOGITS && o->job != JOB_PRINT_IDS)
        return ds4_fail(err, DS4_EARG, "--token-ids: needs --dump-logits or --print-ids");
    if (o->all_positions && !(o->dump_logits && ends_with(o->dump_logits, ".f32")))
        return ds4_fail(err, DS4_EARG, "--all-positions: needs --dump-logits FILE.f32");
    if ((o->load || o->save) && o->job != JOB_CHAT)
        return ds4_fail(err, DS4_EARG, "%s: works with an answer, not with a dump", o->load ? "--load" : "--save");
    if (o->json && o->job != JOB_CHAT)
        return ds4_fail(err, DS4_EARG, "--json: works with an answer, not with a dump");
    return DS4_OK;
}

static ds4_status check_stops(const option_list *stops, ds4_error *err)
{
    if (stops->n > STOPS_MAX)
        return ds4_fail(err, DS4_EARG, "--stop: at most %d stop strings", STOPS_MAX);
    for (int i = 0; i < stops->n; i++) {
        const size_t n = strlen(stops->items[i]);
        if (n == 0 || n > STOPS_MAX_BYTES || !utf8_valid(stops->items[i], n))
            return ds4_fail(err, DS4_EARG, "--stop: expected UTF-8 of 1 to %d bytes", STOPS_MAX_BYTES);
    }
    return DS4_OK;
}

static ds4_status check_values(cli_options *o, ds4_error *err)
{
    if (!sampling_in_range("temp", o->temp))
        return ds4_fail(err, DS4_EARG, "--temp: expected a number from 0 to 100, got %g", (double)o->temp);
    if (!sampling_in_range("top-p", o->top_p))
        return ds4_fail(err, DS4_EARG, "--top-p: expected a number above 0 and at most 1, got %g", (double)o->top_p);
    if (!sampling_in_range("min-p", o->min_p))
        return ds4_fail(err, DS4_EARG, "--min-p: expected a number from 0 to 1, got %g", (double)o->min_p);
    if (o->logprobs_top_k > 128)
        return ds4_fail(err, DS4_EARG, "--logprobs-top-k: expected a number from 1 to 128, got %d", o->logprobs_top_k);
    if (!isa_mask_parse(o->isa, &o->isa_mask))
        return ds4_fail(err, DS4_EARG, "--isa: expected auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm, got \"%s\"",
                        o->isa);
    if (!backend_exists(o->backend))
        return ds4_fail(err, DS4_EARG, "--backend: \"%s\" is not built in; there are auto, cpu, check:cpu, trace:cpu, time:cpu",
                        o->backend);
    if (o->quiet && o->verbose)
        return ds4_fail(err, DS4_EARG, "--verbose: contradicts --quiet");
    const ds4_status st = parse_expert_cache(o->expert_cache_text, &o->expert_cache, err);
    if (st) return st;
    return check_stops(&o->stops, err);
}

/* Operands are a mistake, save for the topic behind --help. */
static ds4_status check_operands(cli_options *o, const option_list *rest, ds4_error *err)
{
    o->action = o->version ? ACTION_VERSION : o->help ? ACTION_HELP : ACTION_RUN;
    if (o->help && rest->n == 1) o->help_topic = rest->items[0];
    else if (rest->n)
        return ds4_fail(err, DS4_EARG, "%s: unexpected argument; a prompt is given with -p", rest->items[0]);
    return DS4_OK;
}

ds4_status cli_options_parse(cli_options *o, int argc, char **argv, ds4_error *err)
{
    option table[MAX_FLAGS];
    option_list rest = { 0 };
    *o = defaults();
    build_table(o, table);

    ds4_status st = options_parse(table, argc, argv, &rest, err);
    if (!st) st = check_operands(o, &rest, err);
    option_list_free(&rest);
    if (st || o->action != ACTION_RUN) return st;

    if ((st = read_environment(o, err))) return st;
    if ((st = choose_job(o, err))) return st;
    if ((st = check_prompt(o, err))) return st;
    return check_values(o, err);
}

void cli_options_free(cli_options *o)
{
    option_list_free(&o->stops);
}
