#include "run.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "bench/peak.h"
#include "kernels/cpu/cpu_kernels.h"
#include "../cli/signals.h"
#include "../version.h"

#define BUNDLED_TEXT "persuasion.txt"
enum { RANDOM_TOKENS = 1 << 16 };

exit_code run_failed(bench_run *r, ds4_status st, const ds4_error *err)
{
    if (st == DS4_ECANCELLED) return CLI_INTERRUPTED;
    console_error(r->console, "%s", err->message);
    if (st == DS4_EMEMORY) console_note(r->console, "smaller depths or fewer sessions need less memory");
    return st == DS4_EARG ? CLI_USAGE : CLI_FAILED;
}

void run_note_command(bench_run *r, int argc, char **argv)
{
    size_t len = 0;
    for (int i = 0; i < argc && len < sizeof r->command; i++)
        len += (size_t)snprintf(r->command + len, sizeof r->command - len, "%s%s", i ? " " : "", argv[i]);
}

/* ---- text ------------------------------------------------------------------- */

static ds4_status random_text(bench_run *r, uint64_t seed, ds4_error *err)
{
    random_stream s;
    random_seed(&s, seed);
    r->n_text = RANDOM_TOKENS;
    r->text = malloc((size_t)r->n_text * sizeof *r->text);
    if (!r->text) return ds4_fail(err, DS4_EMEMORY, "no memory for %d tokens", r->n_text);
    for (int i = 0; i < r->n_text; i++) r->text[i] = (ds4_token)random_below(&s, (uint64_t)r->arm[0].shape.n_vocab);
    snprintf(r->text_name, sizeof r->text_name, "random tokens, seed %llu", (unsigned long long)seed);
    r->context.random_tokens = true;
    return DS4_OK;
}

static ds4_status tokens_of_file(bench_run *r, const char *path, ds4_error *err)
{
    char *text;
    size_t len, n = 0;
    ds4_status st = file_read_all(path, (size_t)1 << 28, &text, &len, err);
    if (st) return st;
    r->text = malloc((len + 1) * sizeof *r->text);
    st = r->text ? ds4_tokenize(r->arm[0].engine, text, len, false, r->text, len + 1, &n, err)
                 : ds4_fail(err, DS4_EMEMORY, "no memory for the tokens of %.100s", path);
    free(text);
    if (!st && n == 0) st = ds4_fail(err, DS4_EARG, "%.100s: the text is empty", path);
    r->n_text = (int)n;
    const char *base = strrchr(path, '/');
    snprintf(r->text_name, sizeof r->text_name, "%.120s (%d tokens)", base ? base + 1 : path, r->n_text);
    return st;
}

static ds4_status read_text(bench_run *r, int needed, ds4_error *err)
{
    char bundled[PATH_MAX];
    const bench_options *o = r->options;
    ds4_status st;
    if (o->random_given) return random_text(r, o->random_seed, err);
    if (o->text_file) {
        st = tokens_of_file(r, o->text_file, err);
    } else if (model_path_bundled(bundled, BUNDLED_TEXT)) {
        st = tokens_of_file(r, bundled, err);
    } else {
        console_note(r->console, "the text that comes with this program was not found; random tokens are fed");
        st = random_text(r, 1, err);
    }
    if (!st && r->n_text < needed)
        console_note(r->console, "the text has %d tokens, the longest session %d: it is repeated", r->n_text, needed);
    return st;
}

/* ---- engines ---------------------------------------------------------------- */

static bool on_progress(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    console_progress_phase(ctx, phase, done, total);
    return !signals_interrupted();
}

/* All engines of a run have the same to say; warnings can be of one. */
static void on_log(void *ctx, int level, const char *line)
{
    const bench_run *r = ctx;
    if (level <= LOG_WARNING) console_warning(r->console, "%s", line);
    else if (level == LOG_INFO && r->n_arms == 0) console_note(r->console, "%s", line);
    else console_detail(r->console, "%s", line);
}

static bool on_layer(void *ctx)
{
    (void)ctx;
    return signals_interrupted();
}

static bool on_fill(void *ctx, int done, int total)
{
    console *c = ctx;
    if (!c->progress.running) console_progress_begin(c, "filling", PROGRESS_TOKENS, (uint64_t)total);
    console_progress(c, (uint64_t)done, (uint64_t)total);
    if (done >= total) console_progress_end(c);
    return !signals_interrupted();
}

/* Random tokens choose experts as no text does, so their number is told beside. */
static bool takes_apart(const bench_options *o)
{
    return (o->classes || o->random_given) && !strchr(o->backend, ':');
}

static ds4_engine_options engine_options(bench_run *r)
{
    const bench_options *o = r->options;
    ds4_engine_options e = ds4_engine_defaults();
    e.model_path = r->path.path;
    snprintf(r->backend, sizeof r->backend, "%s%.50s", takes_apart(o) ? "time:" : "", o->backend);
    e.backend = r->backend;
    e.device = o->device;
    e.max_batch_rows = o->prefill_chunk;
    e.kv_type = strcmp(o->kv_type, "f32") == 0 ? DS4_KV_F32 : DS4_KV_PACKED;
    e.warm_weights = o->warm_weights;
    e.expert_cache = o->expert_cache;
    e.isa_mask = o->isa_mask;
    e.progress = on_progress;
    e.interrupted = on_layer;
    e.log = on_log;
    e.progress_ctx = r->console;
    e.log_ctx = r;
    return e;
}

/* A share of the peak is told where a loop is written for this machine, and for the processor alone. */
static ds4_status find_peak(bench_run *r, int k, ds4_error *err)
{
    backend_device device;
    const peak_loop *l = arm_device(&r->arm[k], &device) ? NULL : peak_int8(cpu_isa_present());
    stats s = { 0 };
    const ds4_status st = l ? peak_measure(l, r->arm[k].threads, &s, err) : DS4_OK;
    r->dot_peak[k] = s.max;
    return st;
}

static exit_code open_failed(bench_run *r, ds4_status st, const ds4_error *err)
{
    const exit_code code = run_failed(r, st, err);
    const bool no_model = st == DS4_ENOTFOUND || st == DS4_EFORMAT || st == DS4_EUNSUPPORTED;
    return no_model ? CLI_FAILED : code;
}

static void describe(bench_run *r)
{
    host_machine_read(&r->machine, "");
    host_read_limits(&r->readings, "");
    host_read_clock(&r->readings, "");
    host_read_heat(&r->readings, "");
    host_note_missing(&r->readings, "watts", "this version reads no power sensor", "");
    r->context = (report_context){ .build = version_commit(), .flags = version_flags(), .command = r->command,
                                   .model_path = r->path.path, .text = r->text_name, .machine = &r->machine,
                                   .readings = &r->readings, .n_arms = r->n_arms,
                                   .random_tokens = r->context.random_tokens, .fill = r->options->fill };
    memcpy(r->context.dot_peak, r->dot_peak, sizeof r->dot_peak);
    report_describe_model(&r->context, &r->arm[0]);
    if (!*r->context.device.name)
        host_note_missing(&r->readings, "gpu_mem_peak", "the backend computes in the memory of the host", "");
}

exit_code run_open(bench_run *r, const bench_options *o, int n_sessions, int max_tokens, console *c)
{
    ds4_error err = { 0 };
    *r = (bench_run){ .options = o, .console = c };
    ds4_status st = model_path_find(&r->path, o->model, o->model_from_env, &err);
    if (st) return open_failed(r, st, &err);
    console_note(c, "model %s (%s)", r->path.path, r->path.found_by);

    ds4_engine_options e = engine_options(r);
    e.max_batch_rows = min_int(e.max_batch_rows, max_int(max_tokens, n_sessions));
    for (int k = 0; k < o->threads.n && !st; k++) {
        e.n_threads = o->threads.at[k];
        e.warm_weights = o->warm_weights && k == 0;
        st = arm_open(&r->arm[k], &e, n_sessions, max_tokens, &err);
        r->n_arms = k + !st;
    }
    for (int k = 0; k < r->n_arms && !st; k++) st = find_peak(r, k, &err);
    console_progress_end(c);
    if (!st) st = read_text(r, max_tokens, &err);
    if (st) return open_failed(r, st, &err);
    for (int k = 0; k < r->n_arms; k++) {
        arm_set_text(&r->arm[k], r->text, r->n_text);
        r->arm[k].fill_fast = strcmp(o->fill, "fast") == 0;
        r->arm[k].on_fill = on_fill;
        r->arm[k].on_fill_ctx = c;
    }
    describe(r);
    console_note(c, "%s on %s; text: %s", r->context.shape.name, r->context.shape.backend, r->text_name);
    return CLI_OK;
}

void run_close(bench_run *r)
{
    for (int k = 0; k < r->n_arms; k++) arm_close(&r->arm[k]);
    free(r->text);
}
