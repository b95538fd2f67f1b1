#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "text/stream.h"

enum { MAX_FLAGS = 64 };

/* ---- the table ------------------------------------------------------------- */

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

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
    int n = model_flags_thinking_rows(&o->flags, table);
    ROW(.long_name = "show-thinking", .kind = OPTION_CHOICE, .target = &o->show_thinking, .value_name = "WHEN",
        .choices = "auto|yes|no", .help = "auto shows the reasoning on a terminal only");
    return n;
}

static int sampling_rows(cli_options *o, option *table)
{
    int n = model_flags_sampling_rows(&o->flags, table);
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
    return n + console_flags_rows(&o->say, table + n);
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
    int n = model_flags_model_rows(&o->flags, table);
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
        .flags = model_flags_defaults(), .n = 50000, .show_thinking = "auto", .say = console_flags_defaults(),
        .logprobs_top_k = 20,
    };
}

bool cli_options_help(const char *topic, bytes *out)
{
    cli_options unused = defaults();
    option table[MAX_FLAGS];
    build_table(&unused, table);
    return options_help(table, topic, out);
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
    const ds4_status st = model_flags_check(&o->flags, err);
    if (st) return st;
    if (o->logprobs_top_k > 128)
        return ds4_fail(err, DS4_EARG, "--logprobs-top-k: expected a number from 1 to 128, got %d", o->logprobs_top_k);
    if (console_flags_check(&o->say, err)) return DS4_EARG;
    return check_stops(&o->stops, err);
}

ds4_status cli_options_parse(cli_options *o, int argc, char **argv, ds4_error *err)
{
    option table[MAX_FLAGS];
    option_list rest = { 0 };
    *o = defaults();
    build_table(o, table);

    ds4_status st = options_parse(table, argc, argv, &rest, err);
    if (!st) st = console_flags_operands(&o->say, &rest, "; a prompt is given with -p", err);
    option_list_free(&rest);
    o->action = o->say.version ? ACTION_VERSION : o->say.help ? ACTION_HELP : ACTION_RUN;
    if (st || o->action != ACTION_RUN) return st;

    if ((st = model_flags_environment(&o->flags, err))) return st;
    if ((st = choose_job(o, err))) return st;
    if ((st = check_prompt(o, err))) return st;
    return check_values(o, err);
}

void cli_options_free(cli_options *o)
{
    option_list_free(&o->stops);
}
