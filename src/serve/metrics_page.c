#include "serve/metrics_page.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "engine/kvstore.h"

/* The last one stands for all others. */
static const int codes[HTTP_CODES] = { 200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 417, 429, 431, 500, 501, 503,
                                       529, 0 };

_Static_assert(HTTP_ROUTES >= 18, "every route has a row");

static int code_index(int status)
{
    int i = 0;
    while (i < HTTP_CODES - 1 && codes[i] != status) i++;
    return i;
}

void http_metrics_count(http_metrics *m, const route *r, int status)
{
    counter_add(&m->requests[route_index(r)][code_index(status)], 1);
}

/* ---- lines ------------------------------------------------------------------------------ */

typedef struct {
    bytes      *out;
    const char *model;
    int64_t     created;
} page;

static void label_value(bytes *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') bytes_char(out, '\\');
        if (*text == '\n') bytes_text(out, "\\n");
        else bytes_char(out, *text);
    }
}

static void head(page *p, const char *name, const char *type, const char *help)
{
    bytes_printf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void label(page *p, const char *key, const char *value)
{
    bytes_printf(p->out, ",%s=\"", key);
    label_value(p->out, value);
    bytes_char(p->out, '"');
}

/* name{model_name="...",key="value" */
static void open_series(page *p, const char *name, const char *suffix, const char *key, const char *value)
{
    bytes_printf(p->out, "%s%s{model_name=\"", name, suffix);
    label_value(p->out, p->model);
    bytes_char(p->out, '"');
    if (key) label(p, key, value);
}

static void series(page *p, const char *name, const char *suffix, const char *key, const char *value)
{
    open_series(p, name, suffix, key, value);
    bytes_text(p->out, "} ");
}

static void count_line(page *p, const char *name, const char *key, const char *value, uint64_t n)
{
    series(p, name, "", key, value);
    bytes_printf(p->out, "%" PRIu64 "\n", n);
}

static void counter_of(page *p, const char *name, const char *help, uint64_t n)
{
    head(p, name, "counter", help);
    count_line(p, name, NULL, NULL, n);
}

static void gauge_of(page *p, const char *name, const char *help, double v)
{
    head(p, name, "gauge", help);
    series(p, name, "", NULL, NULL);
    bytes_printf(p->out, "%.12g\n", v);
}

/* Values that come meanwhile: the count is that of the last bucket. */
static void histogram_lines(page *p, const char *name, const char *key, const char *value, const histogram *h)
{
    uint64_t below = 0;
    for (int i = 0; i <= h->n; i++) {
        char bound[32] = "+Inf";
        if (i < h->n) snprintf(bound, sizeof bound, "%g", h->bounds[i]);
        open_series(p, name, "_bucket", key, value);
        label(p, "le", bound);
        below = histogram_below(h, i);
        bytes_printf(p->out, "} %" PRIu64 "\n", below);
    }
    series(p, name, "_sum", key, value);
    bytes_printf(p->out, "%.6f\n", histogram_sum(h));
    series(p, name, "_count", key, value);
    bytes_printf(p->out, "%" PRIu64 "\n", below);
}

static void histogram_of(page *p, const char *name, const char *help, const histogram *h)
{
    head(p, name, "histogram", help);
    histogram_lines(p, name, NULL, NULL, h);
}

/* A family of fleet, with the time it began. */
static void histogram_created(page *p, const char *name, const char *help, const histogram *h)
{
    char created[128];
    histogram_of(p, name, help, h);
    snprintf(created, sizeof created, "%s_created", name);
    head(p, created, "gauge", "Unix time of the first count.");
    series(p, created, "", NULL, NULL);
    bytes_printf(p->out, "%" PRId64 "\n", p->created);
}

/* ---- families ----------------------------------------------------------------------------- */

static const char *const ended_names[ENDED_KINDS] = { "stop", "length", "abort", "error", "tool_calls" };
static const char *const source_names[SOURCE_KINDS] = { "live", "visible", "disk" };
static const char *const phase_names[PHASE_KINDS] = { "queue", "prefill", "decode" };
static const char *const save_names[METRIC_SAVE_REASONS] = {
    "unknown", "cold", "continued", "evict", "shutdown", "agent_system", "agent_session"
};

static void labelled(page *p, const char *name, const char *help, const char *key, const char *const *values,
                     const counter *c, int n)
{
    head(p, name, "counter", help);
    for (int i = 0; i < n; i++) count_line(p, name, key, values[i], counter_get(&c[i]));
}

/* Names that dashboards made for vLLM know. */
static void common(page *p, const server_metrics *m)
{
    const uint64_t rows = counter_get(&m->kv_rows);
    counter_of(p, "vllm:prompt_tokens_total", "Prompt tokens of all requests.", counter_get(&m->prompt_tokens));
    counter_of(p, "vllm:generation_tokens_total", "Tokens generated.", counter_get(&m->generation_tokens));
    labelled(p, "vllm:request_success_total", "Finished requests by reason.", "finished_reason", ended_names,
             m->ended, ENDED_KINDS);
    counter_of(p, "vllm:prefix_cache_queries_total", "Prompt tokens looked up in the KV.",
               counter_get(&m->prefix_queries));
    counter_of(p, "vllm:prefix_cache_hits_total", "Prompt tokens found there.", counter_get(&m->prefix_hits));
    gauge_of(p, "vllm:num_requests_running", "Requests in a slot.", (double)counter_get(&m->running));
    gauge_of(p, "vllm:num_requests_waiting", "Requests in the queue.", (double)counter_get(&m->waiting));
    gauge_of(p, "vllm:kv_cache_usage_perc", "Share of the slots' tokens in use, 0 to 1.",
             rows ? (double)counter_get(&m->kv_rows_used) / (double)rows : 0);
    histogram_of(p, "vllm:time_to_first_token_seconds", "Arrival to first token.", &m->ttft.usual);
    histogram_of(p, "vllm:inter_token_latency_seconds", "Between two tokens of an answer.", &m->inter_token.usual);
    histogram_of(p, "vllm:request_time_per_output_token_seconds", "Mean time of an answer's tokens.",
                 &m->per_output_token.usual);
    histogram_of(p, "vllm:e2e_request_latency_seconds", "Arrival to the end.", &m->e2e.usual);
    histogram_of(p, "vllm:request_queue_time_seconds", "Waiting for a slot.", &m->queue.usual);
    histogram_of(p, "vllm:request_prefill_time_seconds", "Slot to first token.", &m->prefill.usual);
    histogram_of(p, "vllm:request_decode_time_seconds", "First token to the end.", &m->decode.usual);
    histogram_of(p, "vllm:request_prompt_tokens", "Tokens of a prompt.", &m->prompt_sizes);
    histogram_of(p, "vllm:request_generation_tokens", "Tokens of an answer.", &m->generation_sizes);
}

static void cache(page *p, const server_metrics *m, kvstore_size disk)
{
    const char *misses[METRIC_MISS_REASONS];
    for (int i = 0; i < METRIC_MISS_REASONS; i++) misses[i] = reuse_miss_name((reuse_miss)i);

    counter_of(p, "ds4_prefill_tokens_total", "Prompt tokens really computed.", counter_get(&m->prefill_tokens));
    labelled(p, "ds4_cached_tokens_total", "Prompt tokens that were not computed, by where they were.", "source",
             source_names,
             m->cached_tokens, SOURCE_KINDS);
    labelled(p, "ds4_cache_miss_total", "Why a longer prefix was not there.", "reason", misses + 1, m->misses + 1,
             METRIC_MISS_REASONS - 1);
    gauge_of(p, "ds4_kv_disk_bytes", "Bytes of checkpoints on disk.", (double)disk.bytes);
    gauge_of(p, "ds4_kv_disk_files", "Checkpoints on disk.", (double)disk.files);
    gauge_of(p, "ds4_kv_disk_budget_bytes", "Bytes that checkpoints may take.", (double)disk.budget_bytes);
    counter_of(p, "ds4_kv_disk_hits_total", "Checkpoints loaded.", histogram_below(&m->kv_load, m->kv_load.n));
    head(p, "ds4_kv_save_seconds", "histogram", "Saving a checkpoint.");
    for (int i = 0; i < METRIC_SAVE_REASONS; i++)
        histogram_lines(p, "ds4_kv_save_seconds", "reason", save_names[i], &m->kv_save[i]);
    head(p, "ds4_kv_load_seconds", "histogram", "Loading a checkpoint.");
    histogram_lines(p, "ds4_kv_load_seconds", "reason", "disk", &m->kv_load);
    counter_of(p, "ds4_kv_evictions_total", "Checkpoints removed for the budget.", counter_get(&m->kv_evictions));
    counter_of(p, "ds4_kv_corrupt_total", "Checkpoints that failed their check.", counter_get(&m->kv_corrupt));
}

static void experts(page *p, const server_metrics *m)
{
    head(p, "ds4_expert_reads_total", "counter", "Routed experts that a card read, by where they lay; 0: all lie on it.");
    count_line(p, "ds4_expert_reads_total", "place", "card", counter_get(&m->expert_hits));
    count_line(p, "ds4_expert_reads_total", "place", "host", counter_get(&m->expert_misses));
    counter_of(p, "ds4_expert_bus_bytes_total", "Bytes of them read over the bus.", counter_get(&m->expert_bus_bytes));
    counter_of(p, "ds4_expert_exchanges_total", "Experts that changed places.", counter_get(&m->expert_exchanges));
}

static void answers(page *p, const server_metrics *m)
{
    const char *repairs[REPAIR_KINDS];
    for (int i = 0; i < REPAIR_KINDS; i++) repairs[i] = answer_repair_name((answer_repair)i);

    counter_of(p, "ds4_tool_calls_total", "Tool calls given to clients.", counter_get(&m->tool_calls));
    labelled(p, "ds4_tool_repairs_total", "Mended markup of tool calls.", "kind", repairs, m->tool_repairs,
             REPAIR_KINDS);
    counter_of(p, "ds4_tool_parse_failures_total", "Tool blocks of which nothing was usable.",
               counter_get(&m->tool_failures));
    counter_of(p, "ds4_forced_tokens_total", "Tokens that were not sampled.", counter_get(&m->forced_tokens));
    labelled(p, "ds4_cancelled_total", "Requests whose client went away, by phase.", "phase", phase_names,
             m->cancelled, PHASE_KINDS);
    counter_of(p, "ds4_spec_draft_tokens_total", "Drafted tokens; 0: nothing drafts.", 0);
    counter_of(p, "ds4_spec_accepted_tokens_total", "Drafted tokens that stood.", 0);
}

/* fleet's names for a ds4-server. */
static void fleet(page *p, const metrics_view *v)
{
    const server_metrics *m = v->engine;
    uint64_t busy = 0, cached = 0;
    int slots = 0;
    for (int i = 0; i < v->n_slots; i++) {
        if (v->slots[i].side) continue;
        slots++;
        busy += v->slots[i].state == SLOT_PREFILL || v->slots[i].state == SLOT_DECODE;
    }
    for (int i = 0; i < SOURCE_KINDS; i++) cached += counter_get(&m->cached_tokens[i]);

    gauge_of(p, "ds4_requests_running", "Requests in a slot.", (double)counter_get(&m->running));
    gauge_of(p, "ds4_requests_waiting", "Requests in the queue.", (double)counter_get(&m->waiting));
    labelled(p, "ds4_requests_total", "Finished requests by outcome.", "outcome", ended_names, m->ended, ENDED_KINDS);
    counter_of(p, "ds4_prompt_tokens_total", "Prompt tokens of all requests.", counter_get(&m->prompt_tokens));
    counter_of(p, "ds4_prompt_tokens_cached_total", "Prompt tokens that were not computed.", cached);
    counter_of(p, "ds4_generation_tokens_total", "Tokens generated.", counter_get(&m->generation_tokens));
    counter_of(p, "ds4_reasoning_tokens_total", "Of those, reasoning.", counter_get(&v->http->reasoning_tokens));
    gauge_of(p, "ds4_kv_used_tokens", "Tokens that slots hold.", (double)counter_get(&m->kv_rows_used));
    gauge_of(p, "ds4_kv_capacity_tokens", "Tokens that slots can hold.", (double)counter_get(&m->kv_rows));
    gauge_of(p, "ds4_slots_busy", "Slots at work.", (double)busy);
    gauge_of(p, "ds4_slots_total", "Slots.", slots);
    counter_of(p, "ds4_preemptions_total", "Requests that had to give up their slot; 0: none ever does.", 0);
    histogram_created(p, "ds4_time_to_first_token_seconds", "Arrival to first token.", &m->ttft.narrow);
    histogram_created(p, "ds4_inter_token_latency_seconds", "Between two tokens of an answer.", &m->inter_token.narrow);
    histogram_created(p, "ds4_request_time_per_output_token_seconds", "Mean time of an answer's tokens.",
                      &m->per_output_token.narrow);
    histogram_created(p, "ds4_queue_seconds", "Waiting for a slot.", &m->queue.narrow);
    histogram_created(p, "ds4_prefill_seconds", "Slot to first token.", &m->prefill.narrow);
    histogram_created(p, "ds4_decode_seconds", "First token to the end.", &m->decode.narrow);
    histogram_created(p, "ds4_request_seconds", "Arrival to the end.", &m->e2e.narrow);
}

static void http(page *p, const http_metrics *m)
{
    head(p, "ds4_http_requests_total", "counter", "Answers by path and status.");
    for (int i = 0; i < route_count(); i++) {
        for (int c = 0; c < HTTP_CODES; c++) {
            const uint64_t n = counter_get(&m->requests[i][c]);
            if (!n) continue;
            char code[16];
            snprintf(code, sizeof code, codes[c] ? "%d" : "other", codes[c]);
            open_series(p, "ds4_http_requests_total", "", "path", route_at(i)->label);
            label(p, "code", code);
            bytes_printf(p->out, "} %" PRIu64 "\n", n);
        }
    }
}

static void device(page *p, const server_metrics *m)
{
    gauge_of(p, "ds4_device_up", "0 while a lost device is not open again.", counter_get(&m->device_away) ? 0 : 1);
    counter_of(p, "ds4_device_losses_total", "How often the device failed and had to be opened again.",
               counter_get(&m->device_losses));
}

static void process(page *p, const metrics_view *v)
{
    head(p, "ds4_build_info", "gauge", "What this server is.");
    open_series(p, "ds4_build_info", "", "version", v->version);
    label(p, "backend", v->backend);
    label(p, "quant", v->quant);
    bytes_text(p->out, "} 1\n");
    head(p, "ds4_model_info", "gauge", "What it serves.");
    open_series(p, "ds4_model_info", "", "model", p->model);
    label(p, "quant", v->quant);
    bytes_printf(p->out, ",ctx=\"%d\"} 1\n", v->ctx);
    gauge_of(p, "ds4_model_load_seconds", "Opening the model took.", v->load_seconds);
    gauge_of(p, "process_start_time_seconds", "Unix time of the start.", (double)v->started);
    gauge_of(p, "process_resident_memory_bytes", "Memory in use.", (double)v->resident_bytes);
}

void metrics_page(const metrics_view *v, bytes *out)
{
    page p = { .out = out, .model = v->model, .created = v->started };
    common(&p, v->engine);
    cache(&p, v->engine, v->disk);
    experts(&p, v->engine);
    answers(&p, v->engine);
    fleet(&p, v);
    http(&p, v->http);
    device(&p, v->engine);
    process(&p, v);
}
