/* The plan where a device has memory of its own: weights, KV and scratch there, as many routed experts as
 * still fit, and the rest of these in host memory that the device reads. */
#include "engine/plan.h"

#include <stdio.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/status.h"

#define MIB ((uint64_t)1 << 20)

/* KV and scratch. */
static uint64_t must_lie_there(const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    (void)g;
    const kv_options k = engine_kv_options(o);
    return kv_bytes(c, &k) + plan_scratch(o, c);
}

/* The same, and what the host keeps: on a device that shares its memory all of it must lie there. */
static uint64_t must_lie_anywhere(const ds4_engine_options *o, const model_config *c, const gguf *g)
{
    return must_lie_there(o, c, g) + plan_session_records(o, c) + plan_tables(g);
}

static plan_need *need_of(const ds4_plan *p) { return p->device_unified ? must_lie_anywhere : must_lie_there; }

static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static uint64_t host_limit(const ds4_plan *p, const ds4_engine_options *o)
{
    return o->memory_limit ? o->memory_limit : p->available_bytes;
}

/* What the plan may fill: the driver, recordings, the upload and gaps between allocations need some. */
static uint64_t room_of(const ds4_plan *p)
{
    const uint64_t available = p->device_available_bytes, spare = min_u64(32 * MIB + available / 32, 512 * MIB);
    return less(available, spare);
}

/* Large steps are worth less than experts on the device: they may take what these leave, or a sixteenth. */
static int choose_rows(const ds4_plan *p, const ds4_engine_options *o, const model_config *c, const gguf *g,
                       const weights_device_bytes *w)
{
    ds4_engine_options t = *o;
    t.max_batch_rows = PLAN_FEWEST_ROWS;
    plan_need *need = need_of(p);
    const uint64_t room = room_of(p), least = need(&t, c, g), all = w->dense + w->experts + least;
    const uint64_t extra = room > all ? room - all : room / 16;
    for (t.max_batch_rows = PLAN_MOST_ROWS; t.max_batch_rows > PLAN_FEWEST_ROWS; t.max_batch_rows /= 2)
        if (need(&t, c, g) - least <= extra) break;
    return min_int(t.max_batch_rows, max_int(o->max_tokens, engine_sessions(o)));
}

static ds4_status check_flags(const ds4_engine_options *o, ds4_error *err)
{
    if (o->expert_cache)
        return ds4_fail(err, DS4_EARG, "an expert cache is the CPU's; a GPU keeps as many experts as its memory "
                        "holds, and the others in the host's");
    if (o->huge_pages)
        return ds4_fail(err, DS4_EARG, "huge pages are for weights that the CPU reads; a GPU has its own copy");
    return DS4_OK;
}

ds4_status plan_device(ds4_plan *p, ds4_engine_options *o, const model_config *c, const gguf *g, ds4_error *err)
{
    backend_device d;
    const backend_options asked = { .name = o->backend, .device = o->device };
    ds4_status st = check_flags(o, err);
    if (!st) st = backend_device_probe(&d, &asked, err);
    if (st) return st;

    const weights_device_bytes w = weights_on_device(g);
    const kv_options k = engine_kv_options(o);
    *p = (ds4_plan){ .device_total_bytes = d.total, .device_available_bytes = d.available, .device_unified = d.unified,
                     .dense_bytes = weights_dense_bytes(g), .weight_bytes = gguf_tensor_bytes(g),
                     .file_bytes = gguf_file_bytes(g),
                     .table_bytes = plan_tables(g), .available_bytes = memory_available() };
    snprintf(p->device, sizeof p->device, "%s", d.name);
    if (!o->max_batch_rows) o->max_batch_rows = choose_rows(p, o, c, g, &w);
    p->scratch_bytes = plan_scratch(o, c);
    p->kv_bytes = kv_bytes(c, &k);

    plan_need *need = need_of(p);
    const uint64_t room = room_of(p), fixed = w.dense + need(o, c, g);
    p->device_expert_bytes = d.unified ? w.experts : min_u64(w.experts, less(room, fixed));
    p->host_expert_bytes = w.experts - p->device_expert_bytes;
    p->device_bytes = fixed + p->device_expert_bytes;
    const double elsewhere = w.experts ? (double)p->host_expert_bytes / (double)w.experts : 0;
    p->bus_token_bytes = (uint64_t)((double)experts_measure(c, g).token_bytes * elsewhere);
    p->total_bytes = p->host_expert_bytes + p->table_bytes + plan_session_records(o, c);

    /* Where experts are in both memories a longer context moves some more of them to the host's. */
    const uint64_t all = w.dense + w.experts, limit = host_limit(p, o);
    p->max_tokens_that_fit = plan_tokens_that_fit(o, c, g, need, less(room, p->host_expert_bytes ? w.dense : all));
    if (p->host_expert_bytes && limit)
        p->max_tokens_that_fit = min_int(p->max_tokens_that_fit,
                                         plan_tokens_that_fit(o, c, g, must_lie_anywhere,
                                                              less(room + limit, all)));
    return DS4_OK;
}

/* "; other processes hold 60.00 GiB of it", when they hold much. */
static void tell_of_others(const ds4_plan *p, char *out, size_t n)
{
    const uint64_t held = p->device_total_bytes - min_u64(p->device_available_bytes, p->device_total_bytes);
    out[0] = 0;
    if (held > p->device_total_bytes / 8)
        snprintf(out, n, "; other processes hold %.2f GiB of its %.2f", in_gib(held), in_gib(p->device_total_bytes));
}

ds4_status plan_device_check(const ds4_plan *p, const ds4_engine_options *o, ds4_error *err)
{
    const uint64_t room = room_of(p), experts = p->device_expert_bytes, fixed = p->device_bytes - experts;
    const uint64_t limit = host_limit(p, o);
    char others[96];
    tell_of_others(p, others, sizeof others);
    if (p->device_bytes > room && p->max_tokens_that_fit > 0)
        return ds4_fail(err, DS4_EMEMORY, "a context of %d tokens and the weights that must lie there need %.2f GiB on "
                        "%s, %.2f GiB can be had%s; the largest context that fits is %d tokens", o->max_tokens,
                        in_gib(p->device_bytes), p->device, in_gib(room), others, p->max_tokens_that_fit);
    if (p->device_bytes > room && p->device_unified)
        return ds4_fail(err, DS4_EMEMORY, "%s shares the memory of the host: %.2f GiB can be had, %.2f GiB are needed%s; "
                        "a smaller model fits, and --backend cpu reads experts from the file", p->device, in_gib(room),
                        in_gib(p->device_bytes), others);
    if (p->device_bytes > room)
        return ds4_fail(err, DS4_EMEMORY, "%s has %.2f GiB that can be had, and %.2f GiB must lie there even with all "
                        "routed experts in host memory%s; a smaller model or --backend cpu works", p->device,
                        in_gib(room), in_gib(fixed), others);
    if (!p->host_expert_bytes || !limit || p->total_bytes <= limit) return DS4_OK;
    char remedy[64] = "";
    if (p->max_tokens_that_fit > 0)
        snprintf(remedy, sizeof remedy, "a context of %d tokens leaves them room, ", p->max_tokens_that_fit);
    return ds4_fail(err, DS4_EMEMORY, "%.2f GiB of routed experts do not fit on %s and would stay in host memory, where "
                    "%.2f GiB can be had%s; %s--backend cpu reads them from the file", in_gib(p->host_expert_bytes),
                    p->device, in_gib(limit), others, remedy);
}

void plan_device_warn(const ds4_plan *p, const log_sink *log)
{
    if (!p->host_expert_bytes) return;
    char others[96];
    const uint64_t all = p->device_expert_bytes + p->host_expert_bytes;
    tell_of_others(p, others, sizeof others);
    log_line(log, LOG_WARNING, "%.0f %% of the routed experts fit on %s (%.2f of %.2f GiB)%s; a token reads about "
             "%.2f GB of the others over the bus", 100.0 * (double)p->device_expert_bytes / (double)all, p->device,
             in_gib(p->device_expert_bytes), in_gib(all), others, (double)p->bus_token_bytes / 1e9);
}
