#include "model.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/numa.h"
#include "signals.h"

exit_code model_exit_code(ds4_status st)
{
    switch (st) {
    case DS4_OK:           return CLI_OK;
    case DS4_ENOTFOUND:
    case DS4_EFORMAT:
    case DS4_EUNSUPPORTED: return CLI_NO_MODEL;
    case DS4_EARG:         return CLI_USAGE;
    default:               return exit_code_of(st);
    }
}

exit_code model_find(model_path *p, const model_flags *f, console *c)
{
    ds4_error err = { 0 };
    const ds4_status st = model_path_find(p, f->model, f->model_from_env, &err);
    if (st) console_error(c, "%s", err.message);
    return model_exit_code(st);
}

/* ---- callbacks of the engine ------------------------------------------------ */

static bool on_progress(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    console_progress_phase(ctx, phase, done, total);
    return !signals_interrupted();
}

static void on_log(void *ctx, int level, const char *line)
{
    console *c = ctx;
    switch (level) {
    case LOG_ERROR:
    case LOG_WARNING: console_warning(c, "%s", line); break;
    case LOG_INFO:    console_note(c, "%s", line);    break;
    default:          console_detail(c, "%s", line);  break;
    }
}

static bool on_layer(void *ctx)
{
    console_progress_part(ctx);
    return signals_interrupted();
}

static void on_trace(void *ctx, const char *line)
{
    console_print(ctx, "%s", line);
}

ds4_engine_options model_engine_options(const model_flags *f, const char *path, model_room room, console *c)
{
    ds4_engine_options e = ds4_engine_defaults();
    e.model_path = path;
    e.backend = f->backend;
    e.device = f->device;
    e.n_threads = f->threads;
    e.max_sessions = max_int(room.sessions, 1);
    e.max_tokens = room.ctx;
    e.other_tokens = min_int(room.other_tokens, room.ctx);
    e.side_tokens = min_int(room.side_tokens, room.ctx);
    e.max_batch_rows = min_int(f->prefill_chunk, room.ctx);     /* 0: the engine chooses */
    e.rewind_points = room.rewind_points;
    e.kv_type = strcmp(f->kv_type, "f32") == 0 ? DS4_KV_F32 : DS4_KV_PACKED;
    e.no_rounding = strcmp(f->rounding, "off") == 0;
    e.exact = f->quality;
    e.warm_weights = f->warm_weights;
    e.huge_pages = f->huge_pages;
    e.expert_cache = f->expert_cache;
    e.isa_mask = f->isa_mask;
    e.progress = on_progress;
    e.interrupted = on_layer;
    e.log = on_log;
    e.trace = on_trace;
    e.progress_ctx = e.interrupted_ctx = e.log_ctx = e.trace_ctx = c;
    return e;
}

/* ---- opening ---------------------------------------------------------------- */

static void print_device_plan(const ds4_plan *p, int ctx, const char *most, console *c)
{
    char weights[24], kv[24], scratch[24], total[24], available[24], experts[24], host[24];
    console_bytes(total, p->device_bytes);
    console_bytes(available, p->device_available_bytes);
    console_bytes(weights, p->weight_bytes - min_u64(p->weight_bytes, p->host_expert_bytes));
    console_bytes(kv, p->kv_bytes);
    console_bytes(scratch, p->scratch_bytes);
    console_bytes(experts, p->host_expert_bytes);
    console_bytes(host, p->total_bytes);
    console_note(c, "memory of %s: weights %s, KV %s for %d tokens, work space %s; %s of %s available%s", p->device,
                 weights, kv, ctx, scratch, total, available, most);
    if (p->host_expert_bytes) console_note(c, "memory of the host: routed experts %s; %s in all", experts, host);
}

void model_print_plan(const ds4_plan *p, int ctx, console *c)
{
    char most[64] = "";
    if (p->max_tokens_that_fit >= ctx)
        snprintf(most, sizeof most, "; contexts up to %d tokens fit", p->max_tokens_that_fit);
    if (p->device[0]) {
        print_device_plan(p, ctx, most, c);
        return;
    }
    char weights[24], kv[24], scratch[24], total[24], available[24], cache[24];
    console_bytes(weights, p->expert_cache_bytes ? p->dense_bytes : p->weight_bytes);
    console_bytes(cache, p->expert_cache_bytes);
    console_bytes(kv, p->kv_bytes);
    console_bytes(scratch, p->scratch_bytes + p->table_bytes);
    console_bytes(total, p->total_bytes);
    console_bytes(available, p->available_bytes);
    console_note(c, "memory: weights %s%s%s, KV %s for %d tokens, work space %s; %s of %s available%s", weights,
                 p->expert_cache_bytes ? ", expert cache " : "", p->expert_cache_bytes ? cache : "", kv, ctx, scratch,
                 total, available, most);
}

effort_profile model_profile(const model_flags *f, effort_profile of_file)
{
    if (strcmp(f->effort_profile, "0731") == 0) return EFFORT_PROFILE_0731;
    if (strcmp(f->effort_profile, "preview") == 0) return EFFORT_PROFILE_PREVIEW;
    return of_file;
}

prompt_mode model_prompt_mode(const model *m, const model_flags *f)
{
    return (prompt_mode){
        .mode = (think_mode)f->mode, .profile = m->profile,
        .ctx = m->engine_options.max_tokens, .think_max_min_ctx = f->think_max_min_ctx,
    };
}

/* *fit: tokens of the longest context that memory has room for. */
static ds4_status plan_and_open(model *m, int *fit, console *c, ds4_error *err)
{
    ds4_plan plan;
    ds4_status st = ds4_engine_plan(&m->engine_options, &plan, err);
    *fit = plan.max_tokens_that_fit;
    if (st) return st;
    model_print_plan(&plan, m->engine_options.max_tokens, c);
    st = ds4_engine_open(&m->engine, &m->engine_options, err);
    console_progress_end(c);
    return st;
}

static void report(const model *m, const model_flags *f, uint64_t ns, console *c)
{
    const int ctx = m->engine_options.max_tokens;
    console_note(c, "%s, %d layers, %d-bit experts, on %s", m->shape.name, m->shape.n_layer,
                 m->shape.expert_bits, m->shape.backend);
    console_detail(c, "loaded in %.2f s, chunks of %d rows", (double)ns / 1e9, m->shape.max_batch_rows);
    if (f->ctx_given && ctx > m->shape.n_ctx_train)
        console_warning(c, "--ctx %d is longer than the %d tokens this model was made for", ctx, m->shape.n_ctx_train);
}

/* A policy is of threads, so it comes before there are any. */
void model_set_numa(const model_flags *f, console *c)
{
    if (strcmp(f->numa, "interleave") != 0) return;
    ds4_error err = { 0 };
    const uint64_t nodes = numa_nodes("");
    const int n = __builtin_popcountll(nodes);
    if (n < 2)
        console_note(c, "--numa: this machine has one memory node; nothing to spread over");
    else if (numa_interleave(nodes, &err))  console_warning(c, "--numa: %s", err.message);
    else console_note(c, "--numa: new pages are spread over %d nodes; pages of the model that are in memory already stay "
                      "where they are", n);
}

exit_code model_open(model *m, const model_flags *f, model_room room, console *c)
{
    *m = (model){ 0 };
    const exit_code missing = model_find(&m->path, f, c);
    if (missing) return missing;
    console_note(c, "model %s (%s)", m->path.path, m->path.found_by);

    ds4_error err = { 0 };
    const uint64_t start = clock_ns();
    model_set_numa(f, c);
    m->engine_options = model_engine_options(f, m->path.path, room, c);
    int fit;
    const ds4_status st = plan_and_open(m, &fit, c, &err);
    if (st) {
        if (st != DS4_ECANCELLED) console_error(c, "%s", err.message);
        if (st == DS4_EMEMORY && fit > 0) console_note(c, "a smaller --ctx needs less memory");
        model_close(m);
        return model_exit_code(st);
    }
    ds4_engine_shape(m->engine, &m->shape);
    m->profile = model_profile(f, (effort_profile)m->shape.effort_profile);
    report(m, f, clock_ns() - start, c);
    return CLI_OK;
}

void model_close(model *m)
{
    ds4_engine_close(m->engine);
    m->engine = NULL;
}
