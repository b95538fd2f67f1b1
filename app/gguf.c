/* ds4-gguf: makes model files and tells what is in them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus_error.h"
#include "base/bytes.h"
#include "base/options.h"
#include "base/status.h"
#include "console.h"
#include "factory/convert.h"
#include "factory/inspect.h"
#include "factory/synth.h"
#include "terminal.h"
#include "version.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_MODEL = 3, EXIT_MEMORY = 4,
       EXIT_INTERRUPTED = 130, EXIT_STDOUT_GONE = 141 };

#define MAX_OUTPUT ((size_t)1 << 30)    /* bytes of text a command may print */

/* Set by SIGINT and SIGTERM, read between blocks: the file under way is then
 * removed before the program leaves. A handler has nothing else to write to. */
static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static int exit_code(ds4_status st)
{
    switch (st) {
    case DS4_OK:           return EXIT_OK;
    case DS4_EARG:         return EXIT_USAGE;
    case DS4_ENOTFOUND:
    case DS4_EFORMAT:
    case DS4_EUNSUPPORTED: return EXIT_MODEL;
    case DS4_EMEMORY:      return EXIT_MEMORY;
    case DS4_ECANCELLED:   return EXIT_INTERRUPTED;
    default:               return EXIT_FAILED;
    }
}

static int failed(console *c, ds4_status st, const ds4_error *err)
{
    console_error(c, "%s", err->message);
    return exit_code(st);
}

static int usage(console *c, const char *message)
{
    console_error(c, "%s", message);
    console_error(c, "try --help");
    return EXIT_USAGE;
}

/* What the user asked for goes to standard output, whole or with an error. */
static int print(console *c, const bytes *text)
{
    if (text->failed) {
        console_error(c, "no memory for the output");
        return EXIT_MEMORY;
    }
    if (fwrite(text->data, 1, text->len, stdout) == text->len && fflush(stdout) == 0) return EXIT_OK;
    if (errno == EPIPE) return EXIT_STDOUT_GONE;
    console_error(c, "standard output: %s", strerror(errno));
    return EXIT_FAILED;
}

/* Told before the work instead of after it; the writer looks again. */
static bool may_write(console *c, const char *path, bool overwrite)
{
    if (overwrite || access(path, F_OK) != 0) return true;
    console_error(c, "%s exists already; --force replaces it", path);
    return false;
}

static bool on_progress(void *ctx, const char *tensor, uint64_t done, uint64_t total)
{
    (void)tensor;
    console_progress(ctx, done, total);
    return !interrupted;
}

static void on_log(void *ctx, int level, const char *line)
{
    if (level <= LOG_WARNING) console_warning(ctx, "%s", line);
    else if (level <= LOG_INFO) console_note(ctx, "%s", line);
    else console_detail(ctx, "%s", line);
}

/* ---- options shared by the commands ------------------------------------ */

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }
enum { MAX_ROWS = 64 };

typedef struct {
    bool help, quiet, verbose;
    option_list rest;
} common;

static int common_rows(common *o, option *table)
{
    int n = 0;
    ROW(.topic = "general", .long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &o->help,
        .help = "this text");
    ROW(.long_name = "quiet", .short_name = 'q', .kind = OPTION_FLAG, .target = &o->quiet, .help = "only errors");
    ROW(.long_name = "verbose", .short_name = 'v', .kind = OPTION_FLAG, .target = &o->verbose, .help = "more details");
    return n;
}

/* Parses argv behind the command's name. -1: go on; else the exit code. */
static int parse(console *c, const option *table, common *o, int argc, char **argv, const char *synopsis,
                 int n_operands)
{
    ds4_error err;
    if (options_parse(table, argc, argv, &o->rest, &err)) return usage(c, err.message);
    if (o->help) {
        bytes text;
        bytes_init(&text, MAX_OUTPUT);
        bytes_printf(&text, "%s\n\n", synopsis);
        options_help(table, NULL, &text);
        const int code = print(c, &text);
        bytes_free(&text);
        return code;
    }
    if (o->rest.n != n_operands) return usage(c, synopsis);
    if (o->quiet) c->level = CONSOLE_QUIET;
    else if (o->verbose) c->level = CONSOLE_VERBOSE;
    return -1;
}

/* ---- inspect ----------------------------------------------------------- */

static void on_warning(void *ctx, const char *line)
{
    console_warning(ctx, "%s", line);
}

static int run_inspect(console *c, int argc, char **argv)
{
    common o = { 0 };
    bool json = false;
    option table[MAX_ROWS] = { 0 };
    int n = 0;
    ROW(.topic = "output", .long_name = "json", .kind = OPTION_FLAG, .target = &json,
        .help = "one JSON object instead of text");
    n += common_rows(&o, table + n);

    int code = parse(c, table, &o, argc, argv, "usage: ds4-gguf inspect FILE [--json]", 1);
    if (code < 0) {
        ds4_error err;
        gguf *g;
        const gguf_options how = { .warn = on_warning, .warn_ctx = c };
        const ds4_status st = gguf_open(&g, o.rest.items[0], &how, &err);
        if (st) code = failed(c, st, &err);
        else {
            bytes text;
            bytes_init(&text, MAX_OUTPUT);
            if (json) inspect_json(g, &text);
            else inspect_text(g, &text);
            code = print(c, &text);
            bytes_free(&text);
        }
        gguf_close(g);
    }
    option_list_free(&o.rest);
    return code;
}

/* ---- convert ----------------------------------------------------------- */

static const char *const recipe_help =
    "q2 or q4: the published mixes; f32, f16, bf16: all matrices; q8_0 or another quant type: "
    "the published layout with routed experts of that type (default q8_0)";

static file_layout layout_of(const char *name)
{
    return name && !strcmp(name, "llamacpp") ? LAYOUT_LLAMACPP : LAYOUT_DS4;
}

static int write_converted(console *c, convert_options *run)
{
    ds4_error err;
    run->progress = on_progress;
    run->progress_ctx = c;
    console_progress_begin(c, "converting", PROGRESS_BYTES, 0);
    const ds4_status st = convert_run(run, &err);
    console_progress_end(c);
    if (st) return failed(c, st, &err);
    console_note(c, "wrote %s", run->out);
    return EXIT_OK;
}

static int run_convert(console *c, int argc, char **argv)
{
    common o = { 0 };
    convert_options run = convert_defaults();
    const char *layout = NULL;
    option table[MAX_ROWS] = { 0 };
    int n = 0;
    ROW(.topic = "conversion", .long_name = "recipe", .alias = "type", .kind = OPTION_TEXT, .target = &run.recipe,
        .value_name = "NAME", .help = recipe_help);
    ROW(.long_name = "layout", .kind = OPTION_CHOICE, .target = &layout, .value_name = "NAME", .choices = "ds4|llamacpp",
        .help = "ds4: as the published files (default); llamacpp: small matrices as other engines want them");
    ROW(.long_name = "force", .short_name = 'f', .kind = OPTION_FLAG, .target = &run.overwrite,
        .help = "replace an existing file");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_POSITIVE, .target = &run.n_threads, .value_name = "N",
        .help = "threads that encode (default: one per core)");
    n += common_rows(&o, table + n);

    int code = parse(c, table, &o, argc, argv, "usage: ds4-gguf convert DIR OUT.gguf [options]", 2);
    if (code < 0) {
        run.dir = o.rest.items[0];
        run.out = o.rest.items[1];
        run.layout = layout_of(layout);
        run.log = (log_sink){ on_log, c };
        code = may_write(c, run.out, run.overwrite) ? write_converted(c, &run) : EXIT_USAGE;
    }
    option_list_free(&o.rest);
    return code;
}

/* ---- synth ------------------------------------------------------------- */

/* Numbers that replace the preset's where they are given. */
typedef struct {
    const char *shape;
    int layers, hidden, vocab, ctx, heads, head_dim, rope_dim, q_rank, out_rank, groups, window,
        index_heads, index_dim, index_top_k, experts, used, expert_dim, hash_layers;
    option_list ratios;
} shape_flags;

static int shape_rows(shape_flags *s, option *table)
{
    int n = 0;
    ROW(.topic = "shape", .long_name = "shape", .kind = OPTION_CHOICE, .target = &s->shape, .value_name = "NAME",
        .choices = "flash|tiny", .help = "where the numbers come from that no flag gives (default tiny)");
    const struct { const char *name; int *target; const char *help; } rows[] = {
        { "layers",      &s->layers,      "layers; the ratios then follow the released pattern" },
        { "hidden",      &s->hidden,      "hidden size" },
        { "vocab",       &s->vocab,       "vocabulary, at least 272" },
        { "ctx",         &s->ctx,         "longest context" },
        { "heads",       &s->heads,       "attention heads" },
        { "head-dim",    &s->head_dim,    "width of a head" },
        { "rope-dim",    &s->rope_dim,    "rotary channels of a head" },
        { "q-rank",      &s->q_rank,      "query rank" },
        { "out-rank",    &s->out_rank,    "output rank of a group" },
        { "groups",      &s->groups,      "output groups" },
        { "window",      &s->window,      "sliding window" },
        { "index-heads", &s->index_heads, "indexer heads" },
        { "index-dim",   &s->index_dim,   "width of an indexer head" },
        { "index-top-k", &s->index_top_k, "compressed rows the indexer picks" },
        { "experts",     &s->experts,     "routed experts" },
        { "used",        &s->used,        "experts per token" },
        { "expert-dim",  &s->expert_dim,  "width of an expert" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        ROW(.long_name = rows[i].name, .kind = OPTION_POSITIVE, .target = rows[i].target, .value_name = "N",
            .help = rows[i].help);
    ROW(.long_name = "hash-layers", .kind = OPTION_COUNT, .target = &s->hash_layers, .value_name = "N",
        .help = "layers routed by token id");
    ROW(.long_name = "ratio", .kind = OPTION_LIST, .target = &s->ratios, .value_name = "R",
        .help = "compress ratio of the next layer; once per layer");
    return n;
}

static void replace(int *target, int given)
{
    if (given > 0) *target = given;
}

static ds4_status apply_ratios(const shape_flags *s, model_shape *shape, ds4_error *err)
{
    if (s->ratios.n == 0) return DS4_OK;
    if (s->ratios.n > SHAPE_MAX_RATIOS) return ds4_fail(err, DS4_EARG, "--ratio: too many layers");
    for (int i = 0; i < s->ratios.n; i++) {
        char *end;
        const long v = strtol(s->ratios.items[i], &end, 10);
        if (end == s->ratios.items[i] || *end || v < 0 || v > 65536)
            return ds4_fail(err, DS4_EARG, "--ratio: expected a count, got \"%s\"", s->ratios.items[i]);
        shape->ratio[i] = (int32_t)v;
    }
    shape->n_ratio = s->ratios.n;
    return DS4_OK;
}

static ds4_status apply_shape(const shape_flags *s, model_shape *shape, ds4_error *err)
{
    shape_preset(shape, s->shape ? s->shape : "tiny");
    const struct { int *target; int given; } rows[] = {
        { &shape->n_embd, s->hidden },           { &shape->n_vocab, s->vocab },
        { &shape->n_ctx, s->ctx },               { &shape->n_head, s->heads },
        { &shape->head_dim, s->head_dim },       { &shape->n_rot, s->rope_dim },
        { &shape->q_rank, s->q_rank },           { &shape->out_rank, s->out_rank },
        { &shape->n_group, s->groups },          { &shape->window, s->window },
        { &shape->n_index_head, s->index_heads }, { &shape->index_dim, s->index_dim },
        { &shape->index_top_k, s->index_top_k }, { &shape->n_expert, s->experts },
        { &shape->n_used, s->used },             { &shape->expert_dim, s->expert_dim },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) replace(rows[i].target, rows[i].given);
    if (s->layers > 0) {
        shape->n_layer = s->layers;
        shape_default_ratios(shape);
        if (shape->n_hash > s->layers) shape->n_hash = s->layers;
    }
    if (s->hash_layers >= 0) shape->n_hash = s->hash_layers;
    return apply_ratios(s, shape, err);
}

/* No file is read here: a shape that contradicts itself came from the flags,
 * and a path that is not there is the output's. */
static int synth_failed(console *c, ds4_status st, const ds4_error *err)
{
    const int code = failed(c, st, err);
    return st == DS4_EFORMAT ? EXIT_USAGE : st == DS4_ENOTFOUND ? EXIT_FAILED : code;
}

/* What would be written. */
static int print_plan(console *c, const synth_options *run)
{
    ds4_error err;
    tensor_plan p;
    char size[24];
    const ds4_status st = synth_plan(&p, run, &err);
    if (st) return synth_failed(c, st, &err);

    bytes text;
    bytes_init(&text, MAX_OUTPUT);
    for (int i = 0; i < p.n; i++) {
        const planned_tensor *t = &p.items[i];
        if (t->alias_of >= 0) continue;
        console_bytes(size, t->bytes);
        bytes_printf(&text, "%-40s %-8s %12s\n", t->name, quant_get(t->type)->name, size);
    }
    console_bytes(size, p.data_bytes);
    bytes_printf(&text, "%d tensors, %.3f billion weights, %s of data (%llu bytes)\n", p.n,
                 (double)p.n_weights * 1e-9, size, (unsigned long long)p.data_bytes);
    const int code = print(c, &text);
    bytes_free(&text);
    tensor_plan_free(&p);
    return code;
}

static int write_synth(console *c, synth_options *run)
{
    ds4_error err;
    if (!run->out) return usage(c, "--out: which file?");
    if (!may_write(c, run->out, run->overwrite)) return EXIT_USAGE;
    run->progress = on_progress;
    run->progress_ctx = c;
    console_progress_begin(c, "writing", PROGRESS_BYTES, 0);
    const ds4_status st = synth_run(run, &err);
    console_progress_end(c);
    if (st) return synth_failed(c, st, &err);
    console_note(c, "wrote %s", run->out);
    return EXIT_OK;
}

static int run_synth(console *c, int argc, char **argv)
{
    common o = { 0 };
    shape_flags shape = { .hash_layers = -1 };
    synth_options run = synth_defaults();
    const char *layout = NULL;
    bool dry_run = false;
    char name[64];
    option table[MAX_ROWS] = { 0 };
    int n = 0;
    ROW(.topic = "file", .long_name = "out", .short_name = 'o', .kind = OPTION_TEXT, .target = &run.out,
        .value_name = "FILE", .help = "where to write");
    ROW(.long_name = "mix", .alias = "recipe", .kind = OPTION_TEXT, .target = &run.mix, .value_name = "NAME",
        .help = recipe_help);
    ROW(.long_name = "layout", .kind = OPTION_CHOICE, .target = &layout, .value_name = "NAME", .choices = "ds4|llamacpp",
        .help = "ds4: as the published files (default); llamacpp: small matrices as other engines want them");
    ROW(.long_name = "seed", .kind = OPTION_U64, .target = &run.seed, .value_name = "N",
        .help = "of all numbers (default 1)");
    ROW(.long_name = "alias-layers", .kind = OPTION_FLAG, .target = &run.alias_layers,
        .help = "layers of one kind share their data: a complete model in a small file");
    ROW(.long_name = "branch-gain", .kind = OPTION_FLOAT, .target = &run.branch_gain, .value_name = "G",
        .help = "scales the last matrix of every residual branch (default 1)");
    ROW(.long_name = "dry-run", .kind = OPTION_FLAG, .target = &dry_run,
        .help = "print the tensors and sizes, write nothing");
    ROW(.long_name = "force", .short_name = 'f', .kind = OPTION_FLAG, .target = &run.overwrite,
        .help = "replace an existing file");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_POSITIVE, .target = &run.n_threads, .value_name = "N",
        .help = "threads that fill (default: one per core)");
    n += shape_rows(&shape, table + n);
    n += common_rows(&o, table + n);

    int code = parse(c, table, &o, argc, argv, "usage: ds4-gguf synth --out FILE [options]", 0);
    if (code < 0) {
        ds4_error err;
        snprintf(name, sizeof name, "synthetic %s %s", shape.shape ? shape.shape : "tiny", run.mix);
        run.name = name;
        run.layout = layout_of(layout);
        run.log = (log_sink){ on_log, c };
        const ds4_status st = apply_shape(&shape, &run.shape, &err);
        code = st ? failed(c, st, &err) : dry_run ? print_plan(c, &run) : write_synth(c, &run);
    }
    option_list_free(&shape.ratios);
    option_list_free(&o.rest);
    return code;
}

/* ---- main -------------------------------------------------------------- */

static const struct {
    const char *name;
    int       (*run)(console *c, int argc, char **argv);
    const char *help;
} commands[] = {
    { "inspect", run_inspect, "inspect FILE            keys, tensors, types and sizes of a model file" },
    { "convert", run_convert, "convert DIR OUT.gguf    a released checkpoint into a model file" },
    { "synth",   run_synth,   "synth --out FILE        a model file of any shape with random weights" },
};

static int general_help(console *c)
{
    bytes text;
    bytes_init(&text, MAX_OUTPUT);
    bytes_text(&text, "usage: ds4-gguf COMMAND [options]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) bytes_printf(&text, "  %s\n", commands[i].help);
    bytes_text(&text, "\nds4-gguf COMMAND --help lists a command's options; --version tells the build.\n");
    const int code = print(c, &text);
    bytes_free(&text);
    return code;
}

static int run_command(console *c, int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return general_help(c);
    if (!strcmp(name, "--version")) {
        char text[512];
        version_text(text, sizeof text, "ds4-gguf");
        puts(text);
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].name, name)) return commands[i].run(c, argc - 1, argv + 1);

    char message[128];
    snprintf(message, sizeof message, *name ? "no command \"%.40s\"" : "which command: inspect, convert or synth?", name);
    return usage(c, message);
}

int main(int argc, char **argv)
{
    console c;
    struct sigaction stop = { .sa_handler = on_signal };
    terminal_guard();
    bus_error_catch("ds4-gguf");
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    console_open(&c, "ds4-gguf", CONSOLE_NORMAL, COLOR_AUTO);
    const int code = run_command(&c, argc, argv);
    console_close(&c);
    return code;
}
