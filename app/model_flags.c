#include "model_flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "isa_names.h"
#include "kernels/backend.h"
#include "text/chat.h"

/* ---- the table ------------------------------------------------------------- */

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

int model_flags_model_rows(model_flags *f, option *table)
{
    int n = 0;
    ROW(.topic = "model", .long_name = "model", .short_name = 'm', .kind = OPTION_TEXT, .target = &f->model,
        .value_name = "FILE", .help = "model file; else DS4_MODEL, else ./ds4flash.gguf, else the bundled tiny model");
    ROW(.long_name = "ctx", .short_name = 'c', .kind = OPTION_POSITIVE, .target = &f->ctx, .value_name = "N",
        .seen = &f->ctx_given, .help = "context in tokens, such as 32768 or 100k (default 32768)");
    ROW(.long_name = "backend", .kind = OPTION_TEXT, .target = &f->backend, .value_name = "NAME",
        .seen = &f->backend_given,
        .help = "auto (a GPU that the model fits, else the CPU), cuda, cpu; check:NAME (every op against the definitions), "
                "trace:NAME (a line per op)");
    ROW(.long_name = "device", .kind = OPTION_COUNT, .target = &f->device, .value_name = "N",
        .help = "which GPU, counted from 0 (default 0)");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_POSITIVE, .target = &f->threads, .value_name = "N",
        .help = "host threads (default: one per core)");
    ROW(.long_name = "isa", .kind = OPTION_TEXT, .target = &f->isa, .value_name = "LIST",
        .help = "instruction sets the kernels may use: auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm");
    ROW(.long_name = "kv-type", .kind = OPTION_CHOICE, .target = &f->kv_type, .value_name = "TYPE",
        .choices = "packed|f32", .help = "how attention rows are stored: packed or f32 (default packed)");
    ROW(.long_name = "rounding", .kind = OPTION_CHOICE, .target = &f->rounding, .value_name = "on|off",
        .choices = "on|off", .help = "the low-precision roundings the model was trained with (default on)");
    ROW(.long_name = "quality", .kind = OPTION_FLAG, .target = &f->quality,
        .help = "exact kernels instead of faster approximate ones");
    ROW(.long_name = "warm-weights", .kind = OPTION_FLAG, .target = &f->warm_weights,
        .help = "read all weights before the start");
    ROW(.long_name = "huge-pages", .kind = OPTION_FLAG, .target = &f->huge_pages,
        .help = "copy the weights into huge pages; needs memory for all of the file");
    ROW(.long_name = "numa", .kind = OPTION_CHOICE, .target = &f->numa, .value_name = "POLICY",
        .choices = "off|interleave", .help = "interleave spreads memory over the nodes of the machine (default off)");
    ROW(.long_name = "expert-cache", .kind = OPTION_TEXT, .target = &f->expert_cache_text, .value_name = "SIZE",
        .help = "memory for routed experts, such as 8g; the others are read when needed (default auto: what there is)");
    ROW(.long_name = "prefill-chunk", .kind = OPTION_POSITIVE, .target = &f->prefill_chunk, .value_name = "N",
        .help = "most prompt tokens of one step (default: up to 4096, as memory allows)");
    ROW(.long_name = "chdir", .kind = OPTION_TEXT, .target = &f->chdir_to, .value_name = "DIR",
        .help = "go there before opening anything");
    return n;
}

int model_flags_thinking_rows(model_flags *f, option *table)
{
    int n = 0;
    ROW(.topic = "thinking", .long_name = "think", .kind = OPTION_CALL, .target = &f->mode, .value = MODE_THINK,
        .help = "reason before answering (default)");
    ROW(.long_name = "think-max", .kind = OPTION_CALL, .target = &f->mode, .value = MODE_THINK_MAX,
        .help = "reason at length; needs a large context");
    ROW(.long_name = "nothink", .kind = OPTION_CALL, .target = &f->mode, .value = MODE_NOTHINK,
        .help = "answer at once");
    ROW(.long_name = "think-budget", .kind = OPTION_COUNT, .target = &f->think_budget, .value_name = "N",
        .help = "close the reasoning after about N tokens (default 0: no limit)");
    ROW(.long_name = "think-max-min-ctx", .kind = OPTION_COUNT, .target = &f->think_max_min_ctx, .value_name = "N",
        .help = "context that --think-max needs (default 393216; 0: any)");
    ROW(.long_name = "effort-profile", .kind = OPTION_CHOICE, .target = &f->effort_profile, .value_name = "NAME",
        .choices = "auto|preview|0731", .help = "which checkpoints' effort prefixes to use: auto, preview or 0731");
    return n;
}

int model_flags_sampling_rows(model_flags *f, option *table)
{
    int n = 0;
    ROW(.topic = "sampling", .long_name = "temp", .kind = OPTION_FLOAT, .target = &f->temp, .value_name = "F",
        .seen = &f->temp_given, .help = "temperature; 0 always takes the best token (default: the model's, else 1)");
    ROW(.long_name = "top-p", .kind = OPTION_FLOAT, .target = &f->top_p, .value_name = "F", .seen = &f->top_p_given,
        .help = "keep the likeliest tokens up to this share (default: the model's, else 1)");
    ROW(.long_name = "min-p", .kind = OPTION_FLOAT, .target = &f->min_p, .value_name = "F",
        .help = "drop tokens less likely than this share of the best (default 0.05)");
    ROW(.long_name = "top-k", .kind = OPTION_COUNT, .target = &f->top_k, .value_name = "N",
        .help = "keep the N likeliest tokens (default 0: all)");
    return n;
}

model_flags model_flags_defaults(void)
{
    return (model_flags){
        .backend = "auto", .kv_type = "packed", .rounding = "on", .isa = "auto", .isa_mask = ~0u,
        .expert_cache_text = "auto", .numa = "off", .ctx = 32768,
        .mode = MODE_THINK, .effort_profile = "auto", .think_max_min_ctx = CHAT_THINK_MAX_MIN_CTX,
        .temp = 1, .top_p = 1, .min_p = 0.05f,
    };
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
ds4_status model_flags_parse_ctx(const char *text, int *ctx, ds4_error *err)
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

ds4_status model_flags_check(model_flags *f, ds4_error *err)
{
    if (!sampling_in_range("temp", f->temp))
        return ds4_fail(err, DS4_EARG, "--temp: expected a number from 0 to 100, got %g", (double)f->temp);
    if (!sampling_in_range("top-p", f->top_p))
        return ds4_fail(err, DS4_EARG, "--top-p: expected a number above 0 and at most 1, got %g", (double)f->top_p);
    if (!sampling_in_range("min-p", f->min_p))
        return ds4_fail(err, DS4_EARG, "--min-p: expected a number from 0 to 1, got %g", (double)f->min_p);
    if (!isa_mask_parse(f->isa, &f->isa_mask))
        return ds4_fail(err, DS4_EARG,
                        "--isa: expected auto, ref, or a list of avx2, avx512, avx512vbmi, neon, neon_i8mm, got \"%s\"",
                        f->isa);
    if (!backend_exists(f->backend))
        return ds4_fail(err, DS4_EARG,
                        "--backend: \"%s\" is not built in; there are auto, cuda and cpu, also as check:, trace: and time:",
                        f->backend);
    return parse_expert_cache(f->expert_cache_text, &f->expert_cache, err);
}

/* ---- environment ----------------------------------------------------------- */

/* The sentence of --ctx, about the variable. */
static ds4_status env_ctx(model_flags *f, ds4_error *err)
{
    const char *text = getenv("DS4_CTX");
    if (f->ctx_given || !text || !*text) return DS4_OK;
    ds4_error inner = { 0 };
    if (model_flags_parse_ctx(text, &f->ctx, &inner) == DS4_OK) return DS4_OK;
    return ds4_fail(err, DS4_EARG, "DS4_CTX%s", inner.message + strlen("--ctx"));
}

ds4_status model_flags_environment(model_flags *f, ds4_error *err)
{
    const char *model = getenv("DS4_MODEL"), *name = getenv("DS4_BACKEND");
    if (!f->model && model && *model) f->model = model, f->model_from_env = true;
    if (!f->backend_given && name && *name) f->backend = name;
    return env_ctx(f, err);
}
