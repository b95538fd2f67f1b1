#include "machine_run.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/options.h"
#include "base/status.h"
#include "bench/machine.h"
#include "output.h"
#include "../cli/model_path.h"
#include "../cli/signals.h"
#include "../version.h"

enum { MAX_FLAGS = 16, MAX_MODELS = 3 };
#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

typedef struct {
    const char *model, *json;
    int         threads;
    bool        fresh, quiet, verbose, help;
} machine_flags;

static void build_table(machine_flags *o, option table[MAX_FLAGS])
{
    int n = 0;
    ROW(.topic = "machine", .long_name = "model", .short_name = 'm', .kind = OPTION_TEXT, .target = &o->model,
        .value_name = "FILE", .help = "also read this model, warm and cold, and tell its ceiling; measures anew");
    ROW(.long_name = "threads", .short_name = 't', .kind = OPTION_POSITIVE, .target = &o->threads, .value_name = "N",
        .help = "threads of \"all\" (default: one per core); measures anew");
    ROW(.long_name = "fresh", .kind = OPTION_FLAG, .target = &o->fresh, .help = "measure again instead of what is kept");
    ROW(.long_name = "json", .kind = OPTION_TEXT, .target = &o->json, .value_name = "FILE",
        .help = "the record as JSON (- is standard output, in place of the text)");
    ROW(.long_name = "quiet", .short_name = 'q', .kind = OPTION_FLAG, .target = &o->quiet,
        .help = "only errors on stderr");
    ROW(.long_name = "verbose", .short_name = 'v', .kind = OPTION_FLAG, .target = &o->verbose,
        .help = "each part on stderr");
    ROW(.long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &o->help, .help = "this text");
    table[n] = (option){ 0 };
}

static exit_code print_help(console *c)
{
    machine_flags unused = { 0 };
    option table[MAX_FLAGS];
    bytes out;
    build_table(&unused, table);
    bytes_init(&out, 1 << 16);
    bytes_text(&out,
               "Usage: ds4-bench machine [options]\n\nMeasures memory, files, multiply-adds and kernels, and tells what "
                     "they allow.\n\n");
    options_help(table, NULL, &out);
    const exit_code code = output_standard(&out, c);
    bytes_free(&out);
    return code;
}

/* ---- where results are kept ------------------------------------------------------ */

/* $XDG_CACHE_HOME/ds4, else ~/.cache/ds4 (~/Library/Caches/ds4); made when absent. */
static bool cache_folder(char out[PATH_MAX])
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char parent[PATH_MAX];
#ifdef __APPLE__
    static const char below[] = "Library/Caches";
#else
    static const char below[] = ".cache";
#endif
    if (xdg && *xdg == '/') snprintf(parent, sizeof parent, "%s", xdg);
    else if (home && *home == '/') snprintf(parent, sizeof parent, "%s/%s", home, below);
    else return false;
    if (snprintf(out, PATH_MAX, "%s/ds4", parent) >= PATH_MAX) return false;
    if (mkdir(parent, 0700) && errno != EEXIST) return false;
    return mkdir(out, 0700) == 0 || errno == EEXIST;
}

typedef struct {
    char json[PATH_MAX + 64], text[PATH_MAX + 64], scratch[PATH_MAX + 64];
    bool there;                 /* a folder to keep them in */
} kept_paths;

static kept_paths kept_paths_of(const host_machine *m)
{
    kept_paths k = { 0 };
    char folder[PATH_MAX];
    if (!(k.there = cache_folder(folder))) return k;
    const uint64_t key = machine_key(m, version_commit());
    snprintf(k.json, sizeof k.json, "%s/machine-%016" PRIx64 ".json", folder, key);
    snprintf(k.text, sizeof k.text, "%s/machine-%016" PRIx64 ".txt", folder, key);
    snprintf(k.scratch, sizeof k.scratch, "%s/scratch-%ld", folder, (long)getpid());
    return k;
}

static bool read_into(bytes *out, const char *path)
{
    FILE *f = fopen(path, "re");
    char piece[4096];
    size_t n;
    if (!f) return false;
    while ((n = fread(piece, 1, sizeof piece, f)) > 0) bytes_append(out, piece, n);
    fclose(f);
    return out->len > 0 && !out->failed;
}

/* record[key].best; 0: there is none. */
static double best_of(struct json_object *record, const char *key)
{
    struct json_object *s, *v;
    if (!json_object_object_get_ex(record, key, &s) || !json_object_object_get_ex(s, "best", &v)) return 0;
    return json_object_get_double(v);
}

/* ---- telling ----------------------------------------------------------------------- */

/* What a user may want to run here: the published files, and the one at hand. */
static int models_of(const machine_flags *o, machine_model m[MAX_MODELS], console *c)
{
    static const char *const published[] = { "q2", "q4" };
    int n = 0;
    ds4_error err;
    for (int i = 0; i < 2; i++) {
        if (token_bytes_of_recipe(&m[n].bytes, published[i], &err)) continue;
        snprintf(m[n].name, sizeof m[n].name, "published flash, %s", published[i]);
        n++;
    }
    if (!o->model) return n;
    gguf *g = NULL;
    model_config *config = malloc(sizeof *config);
    ds4_status st = config ? gguf_open(&g, o->model, NULL, &err) : ds4_fail(&err, DS4_EMEMORY, "no memory for a shape");
    if (!st) st = config_read(config, g, &err);
    if (st) {
        console_warning(c, "%s", err.message);
    } else {
        const char *base = strrchr(o->model, '/');
        snprintf(m[n].name, sizeof m[n].name, "%.60s", base ? base + 1 : o->model);
        token_bytes_of_file(&m[n++].bytes, g, config);
    }
    gguf_close(g);
    free(config);
    return n;
}

/* text without the ceilings; json: the record, from which they follow. */
static exit_code tell(const machine_flags *o, bytes *text, const bytes *json, console *c)
{
    machine_model *m = calloc(MAX_MODELS, sizeof *m);
    struct json_object *record = json_tokener_parse(json->data);
    if (m && record)
        machine_ceilings(m, models_of(o, m, c), best_of(record, "read_all_GBps"), best_of(record, "int8_all_gmacs"),
                         text);
    json_object_put(record);
    free(m);
    const bool json_only = o->json && strcmp(o->json, "-") == 0;
    exit_code code = json_only ? CLI_OK : output_standard(text, c);
    const exit_code written = output_text(o->json, json, c);
    return code ? code : written;
}

/* ---- measuring ------------------------------------------------------------------------ */

static bool on_part(void *ctx, const char *part)
{
    console_detail(ctx, "measuring: %s", part);
    return !signals_interrupted();
}

static exit_code measure(const machine_flags *o, const kept_paths *kept, bytes *text, bytes *json, console *c)
{
    machine_report *r = calloc(1, sizeof *r);
    ds4_error err = { 0 };
    machine_options m = { .threads = o->threads, .file = o->model, .on_part = on_part, .ctx = c };
    if (!r) {
        console_error(c, "no memory");
        return CLI_FAILED;
    }
    const bool scratch = !o->model && kept->there && file_speed_make(kept->scratch, &err) == DS4_OK;
    if (scratch) m.file = kept->scratch;
    const ds4_status st = machine_measure(r, &m, &err);
    if (scratch) unlink(kept->scratch);
    if (!st) {
        machine_text(r, text);
        machine_json(r, version_commit(), version_flags(), json);
    }
    free(r);
    if (!st) return CLI_OK;
    if (st != DS4_ECANCELLED) console_error(c, "%s", err.message);
    return st == DS4_ECANCELLED ? CLI_INTERRUPTED : CLI_FAILED;
}

/* Results of flags that narrow or name something are not what the next user asks for. */
static bool is_plain(const machine_flags *o) { return !o->model && !o->threads; }

static exit_code run(const machine_flags *o, console *c)
{
    host_machine here;
    host_machine_read(&here, "");
    const kept_paths kept = kept_paths_of(&here);
    bytes text, json;
    bytes_init(&text, OUTPUT_MAX);
    bytes_init(&json, OUTPUT_MAX);
    exit_code code = CLI_OK;
    if (!o->fresh && is_plain(o) && kept.there && read_into(&text, kept.text) && read_into(&json, kept.json)) {
        console_note(c, "kept from an earlier measurement; --fresh measures again");
    } else {
        bytes_clear(&text);
        bytes_clear(&json);
        console_note(c, "measuring this machine, about half a minute");
        code = measure(o, &kept, &text, &json, c);
        if (!code && is_plain(o) && kept.there) {
            output_text(kept.text, &text, c);
            output_text(kept.json, &json, c);
        }
    }
    if (!code) code = tell(o, &text, &json, c);
    bytes_free(&text);
    bytes_free(&json);
    return code;
}

exit_code machine_run(int argc, char **argv, console *c)
{
    machine_flags o = { 0 };
    option table[MAX_FLAGS];
    ds4_error err = { 0 };
    build_table(&o, table);
    if (options_parse(table, argc, argv, NULL, &err)) {
        console_error(c, "%s", err.message);
        console_error(c, "try ds4-bench machine --help");
        return CLI_USAGE;
    }
    if (o.help) return print_help(c);
    c->level = o.quiet ? CONSOLE_QUIET : o.verbose ? CONSOLE_VERBOSE : CONSOLE_NORMAL;
    signals_catch_interrupt();
    return run(&o, c);
}
