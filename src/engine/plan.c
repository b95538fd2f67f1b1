#include "engine/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/status.h"

/* Bytes of one rewind point at most: window rows, frontiers, logits. */
static uint64_t point_bytes(const model_config *c, const kv_options *o)
{
    uint64_t n = (uint64_t)c->n_vocab * sizeof(float);
    for (int l = 0; l < c->n_layer; l++) {
        n += (uint64_t)min_int(c->n_swa, o->max_tokens) * (uint64_t)kv_row_bytes(kv_row_format(c, o->packed, false));
        if (c->ratio[l] == 0) continue;
        const int widths = c->head_dim + (c->ratio[l] == 4 ? c->index_dim : 0);
        n += 2ull * (uint64_t)config_kept_tokens(c->ratio[l]) * (uint64_t)(config_series(c->ratio[l]) * widths) * sizeof(float);
    }
    return n;
}

/* Vocabulary tables hold each string, its place and its merges: about four times
 * the strings as they stand in the file. */
uint64_t plan_tables(const gguf *g)
{
    uint64_t n = 0;
    static const char *const keys[] = { "tokenizer.ggml.tokens", "tokenizer.ggml.merges" };
    for (size_t i = 0; i < countof(keys); i++) {
        const gguf_value *v = gguf_find(g, keys[i]);
        if (v) n += v->bytes;
    }
    return 4 * n;
}

uint64_t plan_session_records(const ds4_engine_options *o, const model_config *c)
{
    const kv_options k = engine_kv_options(o);
    const uint64_t sessions = (uint64_t)engine_sessions(o), others = (uint64_t)o->max_sessions - 1;
    const uint64_t tokens = (uint64_t)o->max_tokens + others * (uint64_t)(o->other_tokens ? o->other_tokens : o->max_tokens)
                          + (uint64_t)o->side_tokens;
    return sessions * (uint64_t)o->rewind_points * point_bytes(c, &k) + 4u * (tokens + sessions * (uint64_t)c->n_vocab);
}

static uint64_t session_side(const ds4_engine_options *o, const model_config *c)
{
    const kv_options k = engine_kv_options(o);
    return kv_bytes(c, &k) + plan_session_records(o, c);
}

uint64_t plan_scratch(const ds4_engine_options *o, const model_config *c)
{
    const forward_options f = engine_forward_options(o);
    const backend_options b = engine_backend_options(o, c);
    return forward_bytes(c, &f) + backend_scratch_bytes(&b);
}

/* Everything but the weights, which the system can drop and read again. */
static uint64_t must_fit(const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    return session_side(o, c) + plan_scratch(o, c) + plan_tables(g);
}

int plan_tokens_that_fit(const ds4_engine_options *o, const model_config *c, const gguf *g, plan_need *need,
                         uint64_t budget)
{
    int lo = 0, hi = 1 << 24;                       /* lo fits, hi + 1 does not */
    while (lo < hi) {
        ds4_engine_options t = *o;
        t.max_tokens = lo + (hi - lo + 1) / 2;
        if (need(&t, c, g) <= budget) lo = t.max_tokens;
        else hi = t.max_tokens - 1;
    }
    return lo;
}

/* Large steps read each expert's weights for more tokens, but they are no reason to
 * fail, nor to push weights out of memory. */
static int choose_rows(const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    const uint64_t limit = o->memory_limit ? o->memory_limit : memory_available();
    ds4_engine_options t = *o;
    t.max_batch_rows = PLAN_FEWEST_ROWS;
    const uint64_t least = must_fit(&t, c, g), weights = gguf_tensor_bytes(g);
    const uint64_t room = limit > weights + least ? limit - weights - least : limit / 64;
    for (t.max_batch_rows = PLAN_MOST_ROWS; limit && t.max_batch_rows > PLAN_FEWEST_ROWS; t.max_batch_rows /= 2)
        if (must_fit(&t, c, g) - least <= room) break;
    return min_int(t.max_batch_rows, max_int(o->max_tokens, engine_sessions(o)));
}

static uint64_t limit_of(const ds4_plan *p, const ds4_engine_options *o)
{
    return o->memory_limit ? o->memory_limit : p->available_bytes;
}

/* Weights as they stay in memory. */
static uint64_t weights_held(const ds4_plan *p)
{
    return p->expert_cache_bytes ? p->dense_bytes + p->expert_cache_bytes : p->weight_bytes;
}

/* Bytes of the expert cache: what was asked for, or what the rest of the plan leaves when
 * the weights do not fit. A cache that could not hold one token's experts is none: the
 * weights are mapped then and the system drops and reads pages as it sees fit. */
static uint64_t plan_expert_cache(const ds4_plan *p, const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    const expert_sizes sizes = experts_measure(c, g);
    const uint64_t rest = p->kv_bytes + p->scratch_bytes + p->table_bytes, limit = limit_of(p, o);
    if (!sizes.slot_bytes) return 0;
    const uint64_t all = (uint64_t)sizes.n * sizes.slot_bytes;
    if (o->expert_cache) return o->expert_cache < all ? o->expert_cache : all;
    if (limit == 0 || p->weight_bytes + rest <= limit) return 0;

    const uint64_t gib = 1ull << 30, spare = limit / 16 < gib ? limit / 16 : gib;   /* for everybody else */
    if (limit < p->dense_bytes + rest + spare) return 0;
    const uint64_t cache = limit - p->dense_bytes - rest - spare;
    return cache >= (uint64_t)experts_fewest(c) * sizes.slot_bytes && cache < all ? cache : 0;
}

static void fill_plan(ds4_plan *p, const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    const uint64_t available = memory_available();
    *p = (ds4_plan){
        .dense_bytes = weights_dense_bytes(g),
        .weight_bytes = gguf_tensor_bytes(g),
        .file_bytes = gguf_file_bytes(g),
        .kv_bytes = session_side(o, c),
        .scratch_bytes = plan_scratch(o, c),
        .table_bytes = plan_tables(g),
        .available_bytes = available,
    };
    p->expert_cache_bytes = plan_expert_cache(p, o, c, g);
    p->total_bytes = weights_held(p) + p->kv_bytes + p->scratch_bytes + p->table_bytes;

    uint64_t budget = o->memory_limit ? o->memory_limit : available ? available : UINT64_MAX;
    if (budget > weights_held(p)) budget -= weights_held(p);    /* else they stream from the file */
    p->max_tokens_that_fit = plan_tokens_that_fit(o, c, g, must_fit, budget);
}

static ds4_status check_host(const ds4_plan *p, const ds4_engine_options *o, const log_sink *log, ds4_error *err)
{
    const uint64_t limit = limit_of(p, o), rest = p->kv_bytes + p->scratch_bytes + p->table_bytes;
    const double gib = 1024.0 * 1024.0 * 1024.0;
    if (limit == 0) return DS4_OK;
    if (rest > limit)
        return ds4_fail(err, DS4_EMEMORY,
                        "a context of %d tokens needs %.2f GiB besides the weights, %.2f GiB are there; "
                        "the largest context that fits is %d tokens", o->max_tokens, (double)rest / gib,
                        (double)limit / gib, p->max_tokens_that_fit);
    if (p->expert_cache_bytes && p->total_bytes > limit)
        return ds4_fail(err, DS4_EMEMORY, "an expert cache of %.2f GiB, the other weights of %.2f GiB and %.2f GiB for a "
                        "context of %d tokens do not fit the %.2f GiB that are there", (double)p->expert_cache_bytes / gib,
                        (double)p->dense_bytes / gib, (double)rest / gib, o->max_tokens, (double)limit / gib);
    if (p->total_bytes > limit)
        log_line(log, LOG_WARNING, "weights, KV and scratch need %.2f GiB, %.2f GiB are there: weights will be read "
                 "from disk again and again", (double)p->total_bytes / gib, (double)limit / gib);
    return DS4_OK;
}

/* ---- which backend -------------------------------------------------------------------- */

typedef struct { const char *name, *device, *host; } backend_choice;

/* What the name leaves open; NULL: nothing. */
static const backend_choice *choice_of(const char *name)
{
    static const backend_choice all[] = {
        { "auto", "cuda", "cpu" }, { "check:auto", "check:cuda", "check:cpu" },
        { "trace:auto", "trace:cuda", "trace:cpu" }, { "time:auto", "time:cuda", "time:cpu" },
    };
    for (size_t i = 0; i < countof(all); i++)
        if (strcmp(name ? name : "auto", all[i].name) == 0) return &all[i];
    return NULL;
}

/* A device is taken when there is one and all that must lie on it does; the line says why it is not. */
static bool take_device(ds4_plan *p, ds4_engine_options *o, const model_config *c, const gguf *g, const log_sink *log)
{
    ds4_error why;
    ds4_status st = plan_device(p, o, c, g, &why);
    if (!st) st = plan_device_check(p, o, &why);
    if (!st) return true;
    snprintf(p->why_cpu, sizeof p->why_cpu, "the CPU computes: %s", why.message);
    const bool usual = st == DS4_ENOTFOUND || st == DS4_EARG;
    log_line(log, st == DS4_EUNSUPPORTED ? LOG_DEBUG : usual ? LOG_INFO : LOG_WARNING, "%s", p->why_cpu);
    return false;
}

ds4_status plan_make(ds4_plan *p, ds4_engine_options *o, const model_config *c, const gguf *g, const log_sink *log,
                     ds4_error *err)
{
    const backend_choice *choice = choice_of(o->backend);
    ds4_plan on_device = { 0 };
    if (choice) {
        ds4_engine_options t = *o;
        t.backend = choice->device;
        if (take_device(&on_device, &t, c, g, log)) {
            *p = on_device;
            *o = t;
            return DS4_OK;
        }
        o->backend = choice->host;
    } else if (backend_has_device(o->backend)) {
        return plan_device(p, o, c, g, err);
    }
    if (!o->max_batch_rows) o->max_batch_rows = choose_rows(o, c, g);
    fill_plan(p, o, c, g);
    memcpy(p->why_cpu, on_device.why_cpu, sizeof p->why_cpu);
    return DS4_OK;
}

ds4_status plan_check(const ds4_plan *p, const ds4_engine_options *o, const log_sink *log, ds4_error *err)
{
    if (!p->device[0]) return check_host(p, o, log, err);
    const ds4_status st = plan_device_check(p, o, err);
    if (!st) plan_device_warn(p, log);
    return st;
}
