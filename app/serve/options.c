#include "options.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "config.h"

enum { MAX_FLAGS = 96, MAX_SECONDS = 86400 };

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

static int address_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "address", .long_name = "host", .kind = OPTION_TEXT, .target = &o->host, .value_name = "H",
        .seen = &o->host_given, .help = "address to listen on (default 127.0.0.1: this machine only)");
    ROW(.long_name = "port", .kind = OPTION_COUNT, .target = &o->port, .value_name = "N", .seen = &o->port_given,
        .help = "port (default 8000); 0: any free one, which is printed");
    ROW(.long_name = "unix", .kind = OPTION_TEXT, .target = &o->unix_path, .value_name = "PATH",
        .help = "a socket file, instead of a port unless --host or --port asks for one too");
    ROW(.long_name = "api-key", .kind = OPTION_LIST, .target = &o->keys, .value_name = "KEY",
        .help = "who asks must show it; may be repeated (default: DS4_API_KEY, else everybody may ask)");
    ROW(.long_name = "api-key-file", .kind = OPTION_TEXT, .target = &o->key_file, .value_name = "FILE",
        .help = "keys, one a line; read again on SIGHUP");
    ROW(.long_name = "cors", .kind = OPTION_TEXT, .target = &o->cors, .value_name = "ORIGIN", .optional_value = true,
        .seen = &o->cors_given, .help = "let pages of other sites use the server: all of them, or one origin");
    ROW(.long_name = "allow-origin", .kind = OPTION_LIST, .target = &o->origins, .value_name = "ORIGIN",
        .help = "do not refuse this origin; may be repeated");
    return n;
}

static int limit_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "limits", .long_name = "max-body-mb", .kind = OPTION_POSITIVE, .target = &o->max_body_mb,
        .value_name = "N",
        .help = "largest request (default 64)");
    ROW(.long_name = "max-queue", .kind = OPTION_COUNT, .target = &o->max_queue, .value_name = "N",
        .help = "requests that may wait; beyond it clients are told to come again (default 64)");
    ROW(.long_name = "keepalive-secs", .kind = OPTION_POSITIVE, .target = &o->keepalive_secs, .value_name = "N",
        .help = "a stream is never silent for longer (default 5)");
    ROW(.long_name = "write-timeout", .kind = OPTION_POSITIVE, .target = &o->write_timeout, .value_name = "SECS",
        .help = "a client that reads nothing for so long is dropped (default 30)");
    ROW(.long_name = "drain-secs", .kind = OPTION_COUNT, .target = &o->drain_secs, .value_name = "N",
        .help = "time for running requests at shutdown (default 30)");
    ROW(.long_name = "stream-defer-ms", .kind = OPTION_COUNT, .target = &o->stream_defer_ms, .value_name = "N",
        .help = "headers of a stream wait so long for an early error (default 300)");
    ROW(.long_name = "nonstream-keepalive", .kind = OPTION_FLAG, .target = &o->nonstream_keepalive,
        .help = "send blanks while an answer that is not streamed is made");
    ROW(.long_name = "finish-orphans", .kind = OPTION_FLAG, .target = &o->finish_orphans,
        .help = "finish the prefill of a client that left, if nobody else waits");
    return n;
}

static int slot_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "slots", .long_name = "slots", .kind = OPTION_POSITIVE, .target = &o->slots, .value_name = "N",
        .help = "conversations computed at the same time (default 1)");
    ROW(.long_name = "slot-ctx", .kind = OPTION_COUNT, .target = &o->slot_ctx, .value_name = "N",
        .help = "context of all slots but the first (default: --ctx)");
    ROW(.long_name = "prefill-quantum", .kind = OPTION_COUNT, .target = &o->prefill_quantum, .value_name = "N",
        .help = "prompt tokens computed beside answers in one step (default: measured)");
    ROW(.long_name = "batch-invariant", .kind = OPTION_FLAG, .target = &o->batch_invariant,
        .help = "the same answer whatever else is computed; on the CPU it always is");
    ROW(.long_name = "rewind-points", .kind = OPTION_COUNT, .target = &o->rewind_points, .value_name = "N",
        .help = "points a slot can go back to (default 16)");
    return n;
}

static int cache_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "cache", .long_name = "kv-disk-dir", .kind = OPTION_TEXT, .target = &o->kv_dir, .value_name = "DIR",
        .help = "keep conversations on disk here (default: DS4_KV_DIR, else not)");
    ROW(.long_name = "kv-disk-space-mb", .kind = OPTION_POSITIVE, .target = &o->kv_space_mb, .value_name = "N",
        .help = "room for them (default 4096)");
    ROW(.long_name = "kv-cache-min-tokens", .kind = OPTION_COUNT, .target = &o->save.min_tokens, .value_name = "N",
        .help = "shorter ones are not kept (default 512)");
    ROW(.long_name = "kv-cache-cold-max-tokens", .kind = OPTION_COUNT, .target = &o->save.cold_max_tokens,
        .value_name = "N",
        .help = "longest first prompt of which an anchor is kept (default 30000; 0: none)");
    ROW(.long_name = "kv-cache-continued-interval-tokens", .kind = OPTION_COUNT,
        .target = &o->save.continued_interval_tokens,
        .value_name = "N", .help = "keep a growing conversation every so many tokens (default 10000; 0: not)");
    ROW(.long_name = "kv-cache-boundary-trim-tokens", .kind = OPTION_COUNT, .target = &o->save.boundary_trim_tokens,
        .value_name = "N", .help = "tokens cut from the end of an anchor (default 32)");
    ROW(.long_name = "kv-cache-boundary-align-tokens", .kind = OPTION_COUNT, .target = &o->save.boundary_align_tokens,
        .value_name = "N", .help = "anchors lie on multiples of it (default 2048)");
    ROW(.long_name = "kv-cache-turn-tokens", .kind = OPTION_COUNT, .target = &o->save.turn_tokens, .value_name = "N",
        .help = "keep every turn that brings so many new tokens (default 0: not)");
    ROW(.long_name = "kv-cache-reject-different-quant", .kind = OPTION_FLAG, .target = &o->reject_different_quant,
        .help = "do not take up what another quantisation of the model has written");
    ROW(.long_name = "tool-memory-max-ids", .kind = OPTION_POSITIVE, .target = &o->tool_memory_max_ids,
        .value_name = "N",
        .help = "tool calls remembered as they were sampled (default 100000)");
    ROW(.long_name = "disable-exact-dsml-tool-replay", .kind = OPTION_FLAG, .target = &o->no_exact_replay,
        .help = "write earlier tool calls in the template's form only");
    ROW(.long_name = "strict-drop-reasoning", .kind = OPTION_FLAG, .target = &o->strict_drop_reasoning,
        .help = "reasoning that a client leaves out is out of the prompt too");
    return n;
}

static int answer_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "answers", .long_name = "tokens", .short_name = 'n', .kind = OPTION_POSITIVE, .target = &o->tokens,
        .value_name = "N", .help = "most tokens of an answer when the request does not say (default 393216)");
    ROW(.long_name = "alias", .kind = OPTION_LIST, .target = &o->aliases, .value_name = "NAME",
        .help = "one more id of the model; may be repeated");
    ROW(.long_name = "strict-model", .kind = OPTION_FLAG, .target = &o->strict_model,
        .help = "refuse requests that name another model");
    ROW(.long_name = "sampling-policy", .kind = OPTION_CHOICE, .target = &o->sampling_policy, .value_name = "WHO",
        .choices = "client|official",
        .help = "client: its fields count; official: not while it reasons (default client)");
    ROW(.long_name = "unclosed-think", .kind = OPTION_CHOICE, .target = &o->unclosed, .value_name = "HOW",
        .choices = "force|stop|text",
        .help = "an answer that ends in its reasoning: force, stop or text (default force)");
    ROW(.long_name = "reasoning-field", .kind = OPTION_CHOICE, .target = &o->reasoning_field, .value_name = "NAME",
        .choices = "reasoning_content|reasoning|both|none",
        .help = "where chat completions carry reasoning (default reasoning_content)");
    ROW(.long_name = "responses-store", .kind = OPTION_COUNT, .target = &o->responses_store, .value_name = "N",
        .help = "keep so many answers for previous_response_id (default 0)");
    ROW(.long_name = "responses-summary", .kind = OPTION_FLAG, .target = &o->responses_summary,
        .help = "give reasoning as a summary in Responses");
    ROW(.long_name = "anthropic-redact", .kind = OPTION_FLAG, .target = &o->anthropic_redact,
        .help = "seal the reasoning in Messages");
    ROW(.long_name = "state-key", .kind = OPTION_TEXT, .target = &o->state_key, .value_name = "FILE",
        .help = "32 bytes that seal it, so that it stays readable after a restart; made when missing");
    ROW(.long_name = "reject-media", .kind = OPTION_FLAG, .target = &o->reject_media,
        .help = "refuse images and files instead of telling the model of them");
    ROW(.long_name = "scrub", .kind = OPTION_LIST, .target = &o->scrubs, .value_name = "REGEX=TEXT",
        .help = "rewrite changing parts of system texts, such as dates; may be repeated");
    return n;
}

static int running_rows(server_flags *o, option *table)
{
    int n = 0;
    ROW(.topic = "running", .long_name = "config", .kind = OPTION_TEXT, .target = &o->config, .value_name = "FILE",
        .help = "flags without their dashes, one `key = value` a line");
    ROW(.long_name = "check", .kind = OPTION_FLAG, .target = &o->check,
        .help = "check flags, the model's header and the memory plan, and leave");
    ROW(.long_name = "log-file", .kind = OPTION_TEXT, .target = &o->log_file, .value_name = "FILE",
        .help = "lines of requests go here instead of stderr; opened again on SIGHUP");
    ROW(.long_name = "log-format", .kind = OPTION_CHOICE, .target = &o->log_format, .value_name = "FORM",
        .choices = "text|json", .help = "their form (default text)");
    ROW(.long_name = "trace", .kind = OPTION_TEXT, .target = &o->trace, .value_name = "FILE",
        .help = "write prompts, answers and decisions of the cache here (they are private)");
    ROW(.long_name = "metrics-public", .kind = OPTION_FLAG, .target = &o->metrics_public,
        .help = "/metrics needs no key");
    ROW(.long_name = "no-debug-endpoints", .kind = OPTION_FLAG, .target = &o->no_debug_endpoints,
        .help = "hide /props, /slots, /tokenize, /detokenize and /apply-template");
    return n + console_flags_rows(&o->say, table + n);
}

static void build_table(server_flags *o, option table[MAX_FLAGS])
{
    int n = address_rows(o, table);
    n += model_flags_model_rows(&o->flags, table + n);
    n += slot_rows(o, table + n);
    n += cache_rows(o, table + n);
    n += answer_rows(o, table + n);
    n += model_flags_thinking_rows(&o->flags, table + n);
    n += model_flags_sampling_rows(&o->flags, table + n);
    n += limit_rows(o, table + n);
    n += running_rows(o, table + n);
    table[n] = (option){ 0 };
}

static server_flags defaults(void)
{
    return (server_flags){
        .flags = model_flags_defaults(), .host = "127.0.0.1", .port = 8000,
        .max_body_mb = 64, .max_queue = 64, .keepalive_secs = 5, .write_timeout = 30, .drain_secs = 30,
        .stream_defer_ms = 300,
        .slots = 1, .rewind_points = 16, .kv_space_mb = 4096, .save = kv_save_policy_defaults(),
        .tool_memory_max_ids = 100000, .tokens = 393216, .unclosed = "force", .reasoning_field = "reasoning_content",
        .sampling_policy = "client", .log_format = "text", .say = console_flags_defaults(),
    };
}

bool server_flags_help(const char *topic, bytes *out)
{
    server_flags unused = defaults();
    option table[MAX_FLAGS];
    build_table(&unused, table);
    return options_help(table, topic, out);
}

/* ---- what goes together ---------------------------------------------------------------- */

/* Milliseconds are counted in ints. */
static ds4_status check_times(const server_flags *o, ds4_error *err)
{
    const struct { const char *flag; int seconds; } times[] = {
        { "--keepalive-secs", o->keepalive_secs }, { "--write-timeout", o->write_timeout },
        { "--drain-secs", o->drain_secs }, { "--stream-defer-ms", o->stream_defer_ms / 1000 },
    };
    for (size_t i = 0; i < countof(times); i++)
        if (times[i].seconds > MAX_SECONDS)
            return ds4_fail(err, DS4_EARG, "%s: a day is the most, %d s", times[i].flag, MAX_SECONDS);
    return DS4_OK;
}

/* What a browser sends: "http://host:port", nothing behind it. */
static ds4_status check_origin(const char *flag, const char *text, ds4_error *err)
{
    const char *host = strstr(text, "://");
    const bool good = host && host > text && host[3] && !strpbrk(host + 3, "/?#") && !strpbrk(text, " \t\r\n,");
    if (good || strcmp(text, "*") == 0 || strcmp(text, "null") == 0) return DS4_OK;
    return ds4_fail(err, DS4_EARG, "%s: expected an origin such as http://localhost:3000, got \"%s\"", flag, text);
}

static ds4_status check_origins(const server_flags *o, ds4_error *err)
{
    if (o->cors && check_origin("--cors", o->cors, err)) return DS4_EARG;
    for (int i = 0; i < o->origins.n; i++)
        if (check_origin("--allow-origin", o->origins.items[i], err)) return DS4_EARG;
    return DS4_OK;
}

static ds4_status check(server_flags *o, ds4_error *err)
{
    if (o->port > 65535) return ds4_fail(err, DS4_EARG, "--port: expected a number up to 65535, got %d", o->port);
    if (check_times(o, err) || check_origins(o, err)) return DS4_EARG;
    if (o->slots > 256) return ds4_fail(err, DS4_EARG, "--slots: expected a number up to 256, got %d", o->slots);
    if (o->slot_ctx > o->flags.ctx)
        return ds4_fail(err, DS4_EARG, "--slot-ctx: %d is more than the context, %d", o->slot_ctx, o->flags.ctx);
    if (console_flags_check(&o->say, err)) return DS4_EARG;
    for (int i = 0; i < o->keys.n; i++) {
        if (!*o->keys.items[i]) return ds4_fail(err, DS4_EARG, "--api-key: an empty key is no key");
    }
    return model_flags_check(&o->flags, err);
}

static bool environment(server_flags *o)
{
    const char *key = getenv("DS4_API_KEY"), *dir = getenv("DS4_KV_DIR");
    if (!o->kv_dir && dir && *dir) o->kv_dir = dir;
    if (o->keys.n || o->key_file || !key || !*key) return true;
    return option_list_add(&o->keys, key);
}

static ds4_status parse(server_flags *o, int argc, char **argv, ds4_error *err)
{
    option table[MAX_FLAGS];
    option_list rest = { 0 };
    build_table(o, table);
    ds4_status st = options_parse(table, argc, argv, &rest, err);
    if (!st) st = console_flags_operands(&o->say, &rest, "", err);
    option_list_free(&rest);
    return st;
}

/* A mistake is told with the file's name. */
static ds4_status parse_file(const option *table, const char *path, const option_list *flags, ds4_error *err)
{
    ds4_error why = { 0 };
    char **argv = calloc((size_t)flags->n + 2, sizeof *argv);
    if (!argv) return ds4_fail(err, DS4_EMEMORY, "no memory for the flags of %s", path);
    for (int i = 0; i < flags->n; i++) argv[i + 1] = (char *)flags->items[i];
    const ds4_status st = options_parse(table, flags->n + 1, argv, NULL, &why);
    free(argv);
    return st ? ds4_fail(err, st, "%s: %s", path, why.message) : DS4_OK;
}

/* Once more, with the file's flags first: what comes later wins. */
static ds4_status parse_with_file(server_flags *o, int argc, char **argv, ds4_error *err)
{
    option table[MAX_FLAGS];
    const char *path = o->config;
    option_list flags = { 0 };
    char *text = NULL;
    server_flags_free(o);
    *o = defaults();
    build_table(o, table);
    ds4_status st = server_config_read(path, table, &text, &flags, err);
    o->config_text = text;
    if (!st) st = parse_file(table, path, &flags, err);
    if (!st) st = parse(o, argc, argv, err);
    option_list_free(&flags);
    return st;
}

ds4_status server_flags_parse(server_flags *o, int argc, char **argv, ds4_error *err)
{
    *o = defaults();
    ds4_status st = parse(o, argc, argv, err);
    if (st || o->say.help || o->say.version) return st;
    if (o->config && (st = parse_with_file(o, argc, argv, err))) return st;
    if ((st = model_flags_environment(&o->flags, err))) return st;
    if (!environment(o)) return ds4_fail(err, DS4_EMEMORY, "no memory for the key of DS4_API_KEY");
    return check(o, err);
}

void server_flags_free(server_flags *o)
{
    option_list_free(&o->keys);
    option_list_free(&o->origins);
    option_list_free(&o->aliases);
    option_list_free(&o->scrubs);
    free(o->config_text);
    o->config_text = NULL;
}
