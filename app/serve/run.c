/* Start-up order: bind, so that a taken port is told in a second; answer /health with `loading`; load on a
 * worker; open the scheduler; serve. SIGTERM and SIGINT drain, a second one ends at once; SIGHUP opens the log and
 * trace files anew and reads the key file again. */
#include "run.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "api/responses_store.h"
#include "api/scrub.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "journal.h"
#include "notify.h"
#include "secrets.h"
#include "settings.h"
#include "serve/access.h"
#include "serve/request_log.h"
#include "serve/serve.h"
#include "../cli/model.h"

#define RESPONSES_BYTES ((size_t)256 << 20)
enum { MAX_DESCRIPTORS = 16384 };
#define SIDE_TOKENS     8192            /* titles and the like, beside the conversations */

typedef struct {
    const server_flags *o;
    console            *console;
    uv_loop_t           loop;
    uv_signal_t         signals[3];     /* SIGTERM, SIGINT, SIGHUP */
    server             *server;
    bool                server_gone;
    int                 port;

    journal             log, trace;
    option_list         keys;           /* those in force */
    char               *key_text;       /* what the file's keys point into */

    uv_work_t           load;
    bool                loading;
    atomic_bool         stop;           /* cancels the load */
    atomic_bool         abandon;        /* nobody wants the step at work */
    model_path          path;
    ds4_engine_options  engine_options;
    ds4_engine         *engine;
    serve_model        *model;
    ds4_shape           shape;
    uint8_t             state_key[32];
    scrub_list         *scrubs;
    responses_store    *responses;
    ds4_status          load_status;
    ds4_error           load_error;
    double              load_seconds;
    int                 fit;            /* tokens of the longest context that memory has room for */

    bool                ending;
    int                 code;
} process;

/* ---- where lines go --------------------------------------------------------------------- */

static void on_request_line(void *ctx, const char *line)
{
    process *p = ctx;
    if (p->log.path) journal_line(&p->log, line);
    else if (!p->o->say.quiet) console_print(p->console, "%s", line);
}

static bool wants_json(const process *p) { return strcmp(p->o->log_format, "json") == 0; }

/* A reader of the log's file, or of JSON lines, wants all lines in one form. */
static void log_note(process *p, const char *line)
{
    bytes out;
    if (!p->log.path && !wants_json(p)) {
        console_note(p->console, "%s", line);
        return;
    }
    bytes_init(&out, (size_t)1 << 16);
    request_log_note(line, wants_json(p), (int64_t)clock_unix_seconds(), &out);
    if (!out.failed) on_request_line(p, out.data);
    bytes_free(&out);
}

static void on_log(void *ctx, int level, const char *line)
{
    process *p = ctx;
    switch (level) {
    case LOG_ERROR:   console_error(p->console, "%s", line);   break;
    case LOG_WARNING: console_warning(p->console, "%s", line); break;
    case LOG_INFO:    log_note(p, line);                       break;
    default:          console_detail(p->console, "%s", line);  break;
    }
}

static void on_trace(void *ctx, const char *id, const char *what, slice text)
{
    process *p = ctx;
    journal_block(&p->trace, id, what, text);
}

/* ---- keys --------------------------------------------------------------------------------- */

/* Those of the flags and those of the file. On failure the former ones stay. */
static ds4_status read_keys(process *p, ds4_error *err)
{
    option_list keys = { 0 };
    char *text = NULL;
    ds4_status st = DS4_OK;
    for (int i = 0; !st && i < p->o->keys.n; i++) {
        if (!option_list_add(&keys, p->o->keys.items[i])) st = DS4_EMEMORY;
    }
    if (!st && p->o->key_file) st = secrets_read_keys(p->o->key_file, &text, &keys, err);
    if (st) {
        option_list_free(&keys);
        free(text);
        return st;
    }
    option_list_free(&p->keys);
    free(p->key_text);
    p->keys = keys;
    p->key_text = text;
    return DS4_OK;
}

static void reread_keys(process *p)
{
    ds4_error err = { 0 };
    ds4_status st = read_keys(p, &err);
    if (!st) st = serve_set_keys(p->server, p->keys.items, p->keys.n, &err);
    if (st) console_warning(p->console, "%s; the keys stay as they were", err.message);
    else console_note(p->console, "%d API keys are in force", p->keys.n);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void on_server_gone(void *ctx)
{
    process *p = ctx;
    p->server_gone = true;
}

static void on_drained(void *ctx)
{
    process *p = ctx;
    for (int i = 0; i < 3; i++) uv_close((uv_handle_t *)&p->signals[i], NULL);
    serve_close(p->server, on_server_gone, p);
}

static void end(process *p, int code, int drain_secs)
{
    if (p->ending) return;
    p->ending = true;
    p->code = code;
    atomic_store(&p->stop, true);
    notify("STOPPING=1");
    /* The engine can not be closed under the loading thread: on_loaded goes on. */
    if (p->loading) serve_refuse_all(p->server);
    else serve_drain(p->server, drain_secs * 1000, on_drained, p);
}

/* ---- loading ----------------------------------------------------------------------------------- */

/* On the loading thread; on the engine's while it opens a lost device again. */
static bool on_progress(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    process *p = ctx;
    console *c = p->console;
    console_progress_phase(c, phase, done, total);
    if (done == total) console_progress_end(c);
    if (total) serve_loading(p->server, (double)done / (double)total);
    return !atomic_load(&p->stop);
}

/* An upload may have ended before it was whole. */
static void on_tried(void *ctx) { console_progress_end(((process *)ctx)->console); }

static api_config api_options(const process *p)
{
    api_config a = settings_api(p->o, &p->shape);
    memcpy(a.state_key, p->state_key, sizeof a.state_key);
    a.scrubs = p->scrubs;
    a.responses = p->responses;
    return a;
}

static sched_options scheduler_options(process *p)
{
    sched_options s = settings_sched(p->o);
    s.abandon = &p->abandon;
    s.tried = on_tried;
    s.tried_ctx = p;
    s.log = (log_sink){ on_log, p };
    s.trace = p->trace.file ? on_trace : NULL;
    s.trace_ctx = p;
    return s;
}

static ds4_status open_model(process *p, ds4_error *err)
{
    const server_flags *o = p->o;
    const serve_model_options m = {
        .api = api_options(p), .sched = scheduler_options(p),
        .disk = { .dir = o->kv_dir, .budget_bytes = (uint64_t)o->kv_space_mb << 20,
                  .reject_different_quant = o->reject_different_quant, .log = { on_log, p } },
        .replay_max_ids = o->tool_memory_max_ids, .unclosed = settings_unclosed(o), .load_seconds = p->load_seconds,
    };
    return serve_model_open(&p->model, p->server, p->engine, &m, err);
}

/* Prints the plan before the memory is taken. */
static ds4_status plan_and_open(process *p, ds4_error *err)
{
    ds4_plan plan;
    const uint64_t start = clock_ns();
    ds4_status st = ds4_engine_plan(&p->engine_options, &plan, err);
    if (st) return st;
    p->fit = plan.max_tokens_that_fit;
    model_print_plan(&plan, p->engine_options.max_tokens, p->console);
    st = ds4_engine_open(&p->engine, &p->engine_options, err);
    console_progress_end(p->console);
    if (st) return st;
    ds4_engine_shape(p->engine, &p->shape);
    p->load_seconds = (double)(clock_ns() - start) / 1e9;
    return open_model(p, err);
}

static void load(uv_work_t *work)
{
    process *p = work->data;
    p->load_status = plan_and_open(p, &p->load_error);
}

static void print_serving(const process *p)
{
    const server_flags *o = p->o;
    console *c = p->console;
    char origin[300];
    console_note(c, "%s, %d layers, %s experts, on %s; context %d, %d slot%s", p->shape.name, p->shape.n_layer,
                 settings_quant(&p->shape), p->shape.backend, p->shape.max_tokens, o->slots, o->slots == 1 ? "" : "s");
    if (o->kv_dir) {
        const kvstore_size disk = serve_model_disk(p->model);
        char used[24], budget[24];
        console_bytes(used, disk.bytes);
        console_bytes(budget, disk.budget_bytes);
        console_note(c, "conversations in %s: %llu files, %s of %s", o->kv_dir, (unsigned long long)disk.files, used,
                     budget);
    }
    if (p->port <= 0) return;
    const bool v6 = strchr(o->host, ':') != NULL;
    snprintf(origin, sizeof origin, "http://%s%s%s:%d", v6 ? "[" : "", o->host, v6 ? "]" : "", p->port);
    console_note(c, "OpenAI chat, completions and Responses: base URL %s/v1 (opencode, Pi, Codex, SDKs)", origin);
    console_note(c, "Anthropic Messages: base URL %s (Claude Code: ANTHROPIC_BASE_URL=%s)", origin, origin);
    console_note(c, "health and figures: %s/health, %s/metrics", origin, origin);
}

static void on_loaded(uv_work_t *work, int status)
{
    (void)status;
    process *p = work->data;
    p->loading = false;
    if (p->ending) {
        serve_drain(p->server, 0, on_drained, p);
        return;
    }
    if (p->load_status) {
        console_error(p->console, "%s", p->load_error.message);
        if (p->load_status == DS4_EMEMORY && p->fit > 0)
            console_note(p->console, "a smaller --ctx or fewer --slots need less memory");
        end(p, (int)model_exit_code(p->load_status), 0);
        return;
    }
    serve_attach(p->server, p->model);
    print_serving(p);
    notify("READY=1");
}

/* ---- signals -------------------------------------------------------------------------------- */

static void on_hangup(process *p)
{
    ds4_error err = { 0 };
    if (journal_reopen(&p->log, &err)) console_warning(p->console, "%s", err.message);
    if (journal_reopen(&p->trace, &err)) console_warning(p->console, "%s", err.message);
    reread_keys(p);
}

static void on_signal(uv_signal_t *handle, int number)
{
    process *p = handle->data;
    if (number == SIGHUP) {
        on_hangup(p);
        return;
    }
    if (p->ending) {
        terminal_restore();
        _exit(128 + number);
    }
    if (p->loading) console_note(p->console, "shutting down; a second signal ends at once");
    else console_note(p->console, "shutting down; running requests have %d s, a second signal ends at once",
                      p->o->drain_secs);
    end(p, CLI_OK, p->o->drain_secs);
}

static void catch_signals(process *p)
{
    static const int numbers[] = { SIGTERM, SIGINT, SIGHUP };
    for (int i = 0; i < 3; i++) {
        uv_signal_init(&p->loop, &p->signals[i]);
        p->signals[i].data = p;
        uv_signal_start(&p->signals[i], on_signal, numbers[i]);
        uv_unref((uv_handle_t *)&p->signals[i]);
    }
}

/* ---- the start ---------------------------------------------------------------------------------- */

static serve_options server_options(process *p)
{
    serve_options s = settings_server(p->o);
    s.keys = p->keys.items;
    s.n_keys = p->keys.n;
    s.log_json = wants_json(p);
    s.request_line = on_request_line;
    s.request_line_ctx = p;
    s.log = (log_sink){ on_log, p };
    return s;
}

static ds4_status listen_all(process *p, ds4_error *err)
{
    const server_flags *o = p->o;
    ds4_status st = DS4_OK;
    if (settings_wants_port(o)) {
        st = serve_listen(p->server, o->host, o->port, &p->port, err);
        if (st) return st;
        const bool v6 = strchr(o->host, ':') != NULL;
        console_note(p->console, "listening on http://%s%s%s:%d", v6 ? "[" : "", o->host, v6 ? "]" : "", p->port);
        if (p->keys.n == 0 && !access_is_loopback(slice_of(o->host)))
            console_warning(p->console, "%s can be reached from other machines and there is no --api-key: "
                            "everybody may ask", o->host);
    }
    if (o->unix_path) st = serve_listen_unix(p->server, o->unix_path, err);
    if (!st && o->unix_path) console_note(p->console, "listening on %s", o->unix_path);
    return st;
}

static int find_model(process *p)
{
    const int missing = (int)model_find(&p->path, &p->o->flags, p->console);
    if (missing) return missing;
    console_note(p->console, "model %s (%s)", p->path.path, p->path.found_by);
    const model_room room = { .ctx = p->o->flags.ctx, .rewind_points = p->o->rewind_points, .sessions = p->o->slots,
                              .other_tokens = p->o->slot_ctx, .side_tokens = SIDE_TOKENS };
    p->engine_options = model_engine_options(&p->o->flags, p->path.path, room, p->console);
    return CLI_OK;
}

/* Between the layers of a step; engine thread. */
static bool on_layer(void *ctx)
{
    return atomic_load_explicit(&((process *)ctx)->abandon, memory_order_relaxed);
}

static void begin_loading(process *p)
{
    model_set_numa(&p->o->flags, p->console);
    p->engine_options.progress = on_progress;
    p->engine_options.progress_ctx = p;
    p->engine_options.interrupted = on_layer;
    p->engine_options.interrupted_ctx = p;
    p->engine_options.log = on_log;
    p->engine_options.log_ctx = p;
    p->load.data = p;
    p->loading = true;
    uv_queue_work(&p->loop, &p->load, load, on_loaded);
}

static int failed(const process *p, const ds4_error *err, int code)
{
    console_error(p->console, "%s", err->message);
    return code;
}

/* Journals and keys are there; listens, and lives until the end. */
static int serve(process *p)
{
    ds4_error err = { 0 };
    const serve_options so = server_options(p);
    const int missing = find_model(p);
    if (missing) return missing;
    if (serve_open(&p->server, &p->loop, &so, &err)) return failed(p, &err, CLI_FAILED);
    const ds4_status st = listen_all(p, &err);
    if (st) {
        failed(p, &err, 0);
        serve_close(p->server, on_server_gone, p);
        uv_run(&p->loop, UV_RUN_DEFAULT);
        return st == DS4_EARG ? CLI_USAGE : SERVER_ADDRESS_IN_USE;
    }
    catch_signals(p);
    begin_loading(p);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    return p->code;
}

/* The folder of kept conversations, before a model of many gigabytes is read for nothing. */
static ds4_status check_folder(const server_flags *o, ds4_error *err)
{
    ds4_error why = { 0 };
    const ds4_status st = o->kv_dir ? kvstore_check(o->kv_dir, &why) : DS4_OK;
    return st ? ds4_fail(err, st, "--kv-disk-dir: %s", why.message) : DS4_OK;
}

static ds4_status open_files(process *p, ds4_error *err)
{
    ds4_status st = journal_open(&p->log, p->o->log_file, false, err);
    if (!st) st = journal_open(&p->trace, p->o->trace, true, err);
    if (!st) st = secrets_state_key(p->o->state_key, p->state_key, err);
    if (!st && p->o->scrubs.n) st = scrub_open(&p->scrubs, p->o->scrubs.items, p->o->scrubs.n, err);
    if (!st && p->o->responses_store)
        st = responses_store_open(&p->responses, p->o->responses_store, RESPONSES_BYTES, err);
    if (!st) st = check_folder(p->o, err);
    return st ? st : read_keys(p, err);
}

/* Each connection is a descriptor; the usual soft limit of 1,024 is meant for select(). */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    const rlim_t wanted = limit.rlim_max < MAX_DESCRIPTORS ? limit.rlim_max : MAX_DESCRIPTORS;
    if (limit.rlim_cur >= wanted) return;
    limit.rlim_cur = wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int server_run(const server_flags *o, console *c)
{
    ds4_error err = { 0 };
    process p = { .o = o, .console = c };
    if (uv_loop_init(&p.loop)) {
        console_error(c, "the system gives no event loop");
        return CLI_FAILED;
    }
    raise_descriptors();
    const ds4_status st = open_files(&p, &err);
    const int code = st ? failed(&p, &err, st == DS4_EARG ? CLI_USAGE : CLI_FAILED) : serve(&p);
    serve_model_close(p.model);
    ds4_engine_close(p.engine);
    scrub_close(p.scrubs);
    responses_store_close(p.responses);
    uv_run(&p.loop, UV_RUN_DEFAULT);
    uv_loop_close(&p.loop);
    option_list_free(&p.keys);
    free(p.key_text);
    journal_close(&p.log);
    journal_close(&p.trace);
    return code;
}

int server_check(const server_flags *o, console *c)
{
    ds4_error err = { 0 };
    ds4_plan plan;
    process p = { .o = o, .console = c };
    scrub_list *scrubs = NULL;
    ds4_status st = read_keys(&p, &err);
    option_list_free(&p.keys);
    free(p.key_text);
    if (!st && o->scrubs.n) st = scrub_open(&scrubs, o->scrubs.items, o->scrubs.n, &err);
    scrub_close(scrubs);
    if (!st) st = check_folder(o, &err);
    if (st) return failed(&p, &err, st == DS4_EARG ? CLI_USAGE : CLI_FAILED);
    const int missing = find_model(&p);
    if (missing) return missing;
    st = ds4_engine_plan(&p.engine_options, &plan, &err);
    if (st) return failed(&p, &err, (int)model_exit_code(st));
    model_print_plan(&plan, p.engine_options.max_tokens, c);
    if (plan.why_cpu[0]) console_note(c, "%s", plan.why_cpu);
    if (plan.no_room.status) return failed(&p, &plan.no_room, CLI_NO_MEMORY);
    if (!plan.device[0] && plan.available_bytes && plan.total_bytes > plan.available_bytes) {
        console_error(c, "this needs more memory than there is; the largest --ctx that fits is %d",
                      plan.max_tokens_that_fit);
        return CLI_NO_MEMORY;
    }
    console_note(c, "flags, model and memory are in order");
    return CLI_OK;
}
