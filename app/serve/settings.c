#include "settings.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "serve/access.h"
#include "../cli/model.h"
#include "../version.h"

bool settings_wants_port(const server_flags *o)
{
    return !o->unix_path || o->host_given || o->port_given;
}

serve_options settings_server(const server_flags *o)
{
    serve_options s = serve_defaults();
    s.limits.max_body_bytes = (size_t)o->max_body_mb << 20;
    s.limits.write_timeout_ms = o->write_timeout * 1000;
    s.cors = o->cors_given ? (o->cors ? o->cors : "*") : NULL;
    s.origins = o->origins.items;
    s.n_origins = o->origins.n;
    s.loopback = !settings_wants_port(o) || access_is_loopback(slice_of(o->host));
    s.metrics_public = o->metrics_public;
    s.no_debug_endpoints = o->no_debug_endpoints;
    s.nonstream_keepalive = o->nonstream_keepalive;
    s.keepalive_ms = o->keepalive_secs * 1000;
    s.stream_defer_ms = o->stream_defer_ms;
    s.version = DS4_VERSION;
    return s;
}

sched_options settings_sched(const server_flags *o)
{
    sched_options s = sched_defaults();
    s.n_slots = o->slots;
    s.slot_ctx = o->slot_ctx;
    s.max_queue = o->max_queue;
    s.prefill_quantum = o->prefill_quantum;
    s.strict_drop_reasoning = o->strict_drop_reasoning;
    s.finish_orphans = o->finish_orphans;
    s.exact_replay = !o->no_exact_replay;
    s.save = o->save;
    return s;
}

unclosed_think settings_unclosed(const server_flags *o)
{
    if (strcmp(o->unclosed, "stop") == 0) return UNCLOSED_STOP;
    return strcmp(o->unclosed, "text") == 0 ? UNCLOSED_TEXT : UNCLOSED_FORCE;
}

const char *settings_quant(const ds4_shape *shape)
{
    /* Rounded up from what scales add: Q4_K has 4.5 bits a weight, Q8_0 8.5. */
    static const char *const names[] = { "", "q1", "q2", "q3", "q4", "q4", "q5", "q6", "q8", "q8" };
    return shape->expert_bits > 0 && shape->expert_bits < (int)countof(names) ? names[shape->expert_bits] : "f";
}

api_config settings_api(const server_flags *o, const ds4_shape *shape)
{
    const model_flags *f = &o->flags;
    static const char *const fields[] = {
        [REASONING_FIELD_CONTENT] = "reasoning_content", [REASONING_FIELD_REASONING] = "reasoning",
        [REASONING_FIELD_BOTH] = "both", [REASONING_FIELD_NONE] = "none",
    };
    api_config a = {
        .model = "deepseek-v4-flash", .aliases = o->aliases.items, .n_aliases = o->aliases.n,
        .strict_model = o->strict_model, .quant = settings_quant(shape),
        .started = (int64_t)clock_unix_seconds(), .default_tokens = o->tokens, .mode = f->mode,
        .profile = model_profile(f, (effort_profile)shape->effort_profile), .think_max_min_ctx = f->think_max_min_ctx,
        .think_budget = f->think_budget, .min_p = f->min_p, .top_k = f->top_k,
        .temperature = f->temp_given || isnan(shape->default_temperature) ? f->temp : shape->default_temperature,
        .top_p = f->top_p_given || isnan(shape->default_top_p) ? f->top_p : shape->default_top_p,
        .official_sampling = strcmp(o->sampling_policy, "official") == 0, .reject_media = o->reject_media,
        .responses_summary = o->responses_summary, .anthropic_redact = o->anthropic_redact,
    };
    for (int i = 0; i < (int)countof(fields); i++) {
        if (strcmp(o->reasoning_field, fields[i]) == 0) a.reasoning_field = i;
    }
    return a;
}
