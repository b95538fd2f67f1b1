#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "engine/load.h"
#include "engine/plan.h"
#include "text/chat.h"
#include "text/tokenizer.h"

ds4_engine_options ds4_engine_defaults(void)
{
    return (ds4_engine_options){ .backend = "auto", .max_sessions = 1, .max_tokens = 32768,
                                 .max_batch_rows = 512, .rewind_points = 8, .kv_type = DS4_KV_PACKED,
                                 .isa_mask = ~0u };
}

kv_options engine_kv_options(const ds4_engine_options *o)
{
    return (kv_options){ .max_sessions = o->max_sessions, .max_tokens = o->max_tokens,
                         .other_tokens = o->other_tokens, .side_tokens = o->side_tokens,
                         .max_step = min_int(o->max_batch_rows, o->max_tokens),
                         .packed = o->kv_type == DS4_KV_PACKED && !o->no_rounding };
}

forward_options engine_forward_options(const ds4_engine_options *o)
{
    return (forward_options){ .max_rows = o->max_batch_rows, .max_tokens = o->max_tokens,
                              .max_sessions = o->max_sessions + (o->side_tokens > 0),
                              .rounding = !o->no_rounding, .on_device = o->backend && backend_has_device(o->backend),
                              .stop = o->interrupted, .stop_ctx = o->interrupted_ctx };
}

backend_options engine_backend_options(const ds4_engine_options *o, const model_config *c)
{
    const forward_options f = engine_forward_options(o);
    return (backend_options){ .name = o->backend ? o->backend : "auto", .n_threads = o->n_threads, .device = o->device,
                              .isa_mask = o->isa_mask, .exact = o->exact, .limits = forward_limits(c, &f),
                              .line = o->trace, .line_ctx = o->trace_ctx };
}

static ds4_status check_options(const ds4_engine_options *o, ds4_error *err)
{
    if (!o->model_path) return ds4_fail(err, DS4_EARG, "no model path was given");
    if (o->backend && !backend_exists(o->backend))
        return ds4_fail(err, DS4_EUNSUPPORTED,
                        "backend \"%s\" is not built into this program; there are cpu and cuda, also as check:, trace: and time:",
                        o->backend);
    if (o->device < 0) return ds4_fail(err, DS4_EARG, "device %d; they count from 0", o->device);
    if (o->max_sessions < 1 || o->max_sessions > 4096)
        return ds4_fail(err, DS4_EARG, "max_sessions is %d; it must be 1 to 4096", o->max_sessions);
    if (o->max_tokens < 1 || o->max_tokens > 1 << 24)
        return ds4_fail(err, DS4_EARG, "a context of %d tokens; it must be 1 to %d", o->max_tokens, 1 << 24);
    if (o->other_tokens < 0 || o->other_tokens > o->max_tokens)
        return ds4_fail(err, DS4_EARG, "other_tokens is %d; it must be 0 to max_tokens, %d", o->other_tokens,
                        o->max_tokens);
    if (o->side_tokens < 0 || o->side_tokens > o->max_tokens)
        return ds4_fail(err, DS4_EARG, "side_tokens is %d; it must be 0 to max_tokens, %d", o->side_tokens,
                        o->max_tokens);
    if (o->max_batch_rows < 0 || o->max_batch_rows > 1 << 16)
        return ds4_fail(err, DS4_EARG, "a step of %d rows; it must be 1 to %d, or 0 for what memory allows",
                        o->max_batch_rows, 1 << 16);
    if (o->rewind_points < 0 || o->rewind_points > 4096)
        return ds4_fail(err, DS4_EARG, "%d rewind points; there may be 0 to 4096", o->rewind_points);
    if (o->n_threads < 0 || o->n_threads > 1024)
        return ds4_fail(err, DS4_EARG, "%d threads; there may be 1 to 1024", o->n_threads);
    return DS4_OK;
}

/* ---- plan -------------------------------------------------------------------------- */

static void warn_line(void *ctx, const char *line) { log_line(ctx, LOG_WARNING, "%s", line); }

static ds4_status open_file(gguf **g, model_config *c, const ds4_engine_options *o, log_sink *log, ds4_error *err)
{
    const gguf_options go = { .warn = warn_line, .warn_ctx = log };
    ds4_status st = gguf_open(g, o->model_path, &go, err);
    if (st) return st;
    if ((st = config_read(c, *g, err))) {
        gguf_close(*g);
        *g = NULL;
    }
    return st;
}

ds4_status ds4_engine_plan(const ds4_engine_options *o, ds4_plan *out, ds4_error *err)
{
    memset(out, 0, sizeof *out);
    ds4_status st = check_options(o, err);
    if (st) return st;

    gguf *g = NULL;
    log_sink silent = { 0 };
    model_config *c = malloc(sizeof *c);
    if (!c) return ds4_fail(err, DS4_EMEMORY, "no memory to read the model's shape");
    if (!(st = open_file(&g, c, o, &silent, err))) {
        ds4_engine_options chosen = *o;
        st = plan_make(out, &chosen, c, g, &silent, err);
        if (!st) plan_check(out, &chosen, &silent, &out->no_room);
    }
    gguf_close(g);
    free(c);
    return st;
}

/* ---- open ----------------------------------------------------------------------------- */

static void copy_name(ds4_engine *e)
{
    slice name;
    if (gguf_get_string(e->file, "general.name", &name, NULL) || name.len == 0) {
        const char *path = gguf_shard_path(e->file, 0), *base = strrchr(path, '/');
        name = slice_of(base ? base + 1 : path);
    }
    snprintf(e->shape.name, sizeof e->shape.name, "%.*s", (int)min_size(name.len, sizeof e->shape.name - 1), name.data);
}

static float default_of(const gguf *g, const char *key)
{
    double v;
    return gguf_get_float(g, key, &v, NULL) ? NAN : (float)v;
}

static void fill_shape(ds4_engine *e, const ds4_plan *p)
{
    const model_config *c = &e->config;
    e->shape = (ds4_shape){
        .n_layer = c->n_layer, .n_embd = c->n_embd, .n_head = c->n_head, .head_dim = c->head_dim,
        .n_expert = c->n_expert, .n_expert_used = c->n_expert_used, .n_vocab = c->n_vocab, .n_swa = c->n_swa,
        .n_ctx_train = c->n_ctx_train, .max_tokens = e->o.max_tokens, .max_batch_rows = e->o.max_batch_rows,
        .side_tokens = e->o.side_tokens,
        .expert_bits = weights_expert_bits(&e->weights), .effort_profile = chat_profile_of(e->file),
        .default_temperature = default_of(e->file, "general.sampling.temp"),
        .default_top_p = default_of(e->file, "general.sampling.top_p"),
    };
    snprintf(e->shape.backend, sizeof e->shape.backend, "%s", e->backend->name);
    memcpy(e->shape.why_cpu, p->why_cpu, sizeof e->shape.why_cpu);
    copy_name(e);
}

static ds4_status check_vocab(const ds4_engine *e, ds4_error *err)
{
    if (vocab_size(e->vocab) > e->config.n_vocab)
        return ds4_fail(err, DS4_EFORMAT, "the vocabulary has %d tokens but the model has rows for %d",
                        vocab_size(e->vocab), e->config.n_vocab);
    return DS4_OK;
}

/* The formula of docs/streaming.md; what is used often stays, so a text does better than
 * the chance of meeting an expert that is there. */
static void warn_of_streaming(const ds4_engine *e)
{
    const expert_sizes sizes = experts_measure(&e->config, e->file);
    expert_stats s;
    experts_stats(e->experts, &s);
    const double hit = (double)s.slots / (double)s.experts, gb = 1e9;
    const double rate = e->weights.dense_ns ? (double)e->weights.dense_bytes / (double)e->weights.dense_ns : 0;   /* GB/s */
    if (s.slots == s.experts || rate <= 0) return;
    log_line(&e->log, LOG_WARNING,
             "%llu of %llu experts fit into memory: a token reads up to %.2f GB of them; with %.0f %% "
             "there and the %.2f GB/s that this disk just gave, not more than about %.2f tokens/s",
             (unsigned long long)s.slots, (unsigned long long)s.experts, (double)sizes.token_bytes / gb, 100 * hit, rate,
             rate * gb / ((double)sizes.token_bytes * (1 - hit)));
}

static ds4_status open_experts(ds4_engine *e, uint64_t cache_bytes, ds4_error *err)
{
    const ds4_status st = experts_open(&e->experts, &e->config, &e->weights, e->file, e->backend, cache_bytes, err);
    if (!st) warn_of_streaming(e);
    return st;
}

static ds4_status copy_weights(ds4_engine *e, const ds4_plan *p, ds4_error *err)
{
    if (p->expert_cache_bytes)
        return ds4_fail(err, DS4_EARG,
                        "huge pages are for weights that stay in memory; with an expert cache they do not");
    return load_huge_pages(e, p->kv_bytes + p->scratch_bytes + p->table_bytes, err);
}

/* What lies on the backend, or is cut to it. */
static ds4_status open_backend(ds4_engine *e, const weights_options *w, ds4_error *err)
{
    ds4_status st;
    if ((st = backend_open(&e->backend, &e->backend_o, err))) return st;
    e->keeps_logits = e->backend->adopt != NULL;
    if ((st = weights_open(&e->weights, &e->config, e->file, e->backend, w, err))) return st;
    const kv_options k = engine_kv_options(&e->o);
    return kv_pool_open(&e->pool, &e->config, &k, e->backend, err);
}

static ds4_status open_forward(ds4_engine *e, ds4_error *err)
{
    forward_options f = engine_forward_options(&e->o);
    f.experts = e->experts;
    return forward_open(&e->forward, &e->config, &e->weights, e->backend, &f, err);
}

static void close_backend(ds4_engine *e)
{
    forward_close(e->forward);
    kv_pool_close(e->pool);
    experts_close(e->experts);
    if (e->weights.backend) weights_close(&e->weights);
    if (e->backend) e->backend->close(e->backend);
    e->forward = NULL;
    e->pool = NULL;
    e->experts = NULL;
    e->backend = NULL;
}

static ds4_status open_parts(ds4_engine *e, ds4_error *err)
{
    ds4_status st;
    ds4_plan plan;
    if ((st = open_file(&e->file, &e->config, &e->o, &e->log, err))) return st;
    if ((st = plan_make(&plan, &e->o, &e->config, e->file, &e->log, err))) return st;
    if ((st = plan_check(&plan, &e->o, &e->log, err))) return st;
    if (e->o.huge_pages && (st = copy_weights(e, &plan, err))) return st;
    if ((st = vocab_open(&e->vocab, e->file, err))) return st;
    if ((st = check_vocab(e, err))) return st;

    e->backend_o = engine_backend_options(&e->o, &e->config);
    e->backend_o.warn = warn_line;
    e->backend_o.warn_ctx = &e->log;
    if (plan.host_expert_bytes) e->backend_o.expert_bytes = plan.device_expert_bytes ? plan.device_expert_bytes : 1;
    const weights_options w = { .experts_apart = plan.expert_cache_bytes > 0, .progress = e->o.progress,
                                .progress_ctx = e->o.progress_ctx };
    if ((st = open_backend(e, &w, err))) return st;
    if (w.experts_apart && (st = open_experts(e, plan.expert_cache_bytes, err))) return st;
    if ((st = open_forward(e, err))) return st;
    if ((st = ds4_batch_new(&e->feed, e, err))) return st;
    fill_shape(e, &plan);
    return e->o.warm_weights && !e->o.huge_pages && !e->experts && !plan.device[0] ? load_warm(e, err) : DS4_OK;
}

ds4_status ds4_engine_open(ds4_engine **out, const ds4_engine_options *o, ds4_error *err)
{
    *out = NULL;
    ds4_status st = check_options(o, err);
    if (st) return st;
    ds4_engine *e = calloc(1, sizeof *e);
    if (!e) return ds4_fail(err, DS4_EMEMORY, "no memory for the engine");
    e->o = *o;
    e->log = (log_sink){ o->log, o->log_ctx };
    if (pthread_mutex_init(&e->metrics_lock, NULL)) {
        free(e);
        return ds4_fail(err, DS4_EMEMORY, "no memory for the engine's lock");
    }
    if ((st = open_parts(e, err))) {
        ds4_engine_close(e);
        return st;
    }
    e->o.model_path = NULL;
    *out = e;
    return DS4_OK;
}

void ds4_engine_close(ds4_engine *e)
{
    if (!e) return;
    ds4_batch_free(e->feed);
    close_backend(e);
    vocab_close(e->vocab);
    gguf_close(e->file);
    pthread_mutex_destroy(&e->metrics_lock);
    free(e);
}

/* ---- a lost device ------------------------------------------------------------------------ */

ds4_status engine_note(ds4_engine *e, ds4_status st)
{
    if (st == DS4_EDEVICE && e->keeps_logits) e->lost = true;
    return st;
}

bool ds4_engine_lost(const ds4_engine *e) { return e->lost; }

/* A device that is lost again and again as soon as it works may be lost by how it is driven. */
static void take_care(ds4_engine *e)
{
    enum { SOON = 100 };        /* steps */
    if (!e->lost || e->backend_o.careful || e->n_passes - e->passes_at_open >= SOON) return;
    e->backend_o.careful = true;
    log_line(&e->log, LOG_WARNING, "%s was lost after %llu steps: from now on it is given one operation after another, "
             "which is slower", e->shape.backend, (unsigned long long)(e->n_passes - e->passes_at_open));
}

ds4_status ds4_engine_reopen(ds4_engine *e, ds4_error *err)
{
    if (e->n_sessions > 0) return ds4_fail(err, DS4_EARG, "%d sessions are open; they go with the device", e->n_sessions);
    if (!e->keeps_logits) return ds4_fail(err, DS4_EUNSUPPORTED, "%s has no device that could be lost", e->shape.backend);
    const weights_options w = { .progress = e->o.progress, .progress_ctx = e->o.progress_ctx };
    take_care(e);
    e->lost = true;
    close_backend(e);
    ds4_status st = open_backend(e, &w, err);
    if (!st) st = open_forward(e, err);
    if (st) close_backend(e);
    else e->lost = false;
    if (!st) e->passes_at_open = e->n_passes;
    return st;
}

/* ---- questions -------------------------------------------------------------------------- */

void ds4_engine_shape(const ds4_engine *e, ds4_shape *out) { *out = e->shape; }

void ds4_engine_metrics(const ds4_engine *e, ds4_metrics *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&e->metrics_lock;
    pthread_mutex_lock(lock);
    *out = e->metrics;
    pthread_mutex_unlock(lock);
    if (!e->experts) return;
    expert_stats s;
    experts_stats(e->experts, &s);
    out->experts = (ds4_expert_metrics){ .slots = s.slots, .experts = s.experts, .hits = s.hits, .misses = s.misses,
                                         .bytes_read = s.bytes_read, .ahead = s.ahead, .ahead_used = s.ahead_used,
                                         .wait_ns = s.wait_ns, .busy_ns = s.busy_ns };
}

const vocab *ds4_engine_vocab(const ds4_engine *e) { return e->vocab; }

ds4_status ds4_tokenize(const ds4_engine *e, const char *utf8, size_t n, bool parse_control,
                        ds4_token *out, size_t cap, size_t *n_out, ds4_error *err)
{
    token_list list;
    token_list_init(&list, cap);
    const ds4_status st = tokenizer_encode(e->vocab, (slice){ utf8, n }, parse_control, &list, err);
    *n_out = list.wanted;
    if (!st && list.n > 0) memcpy(out, list.ids, list.n * sizeof *out);
    token_list_free(&list);
    return st;
}
