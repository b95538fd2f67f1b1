/* The page that Prometheus reads. */
#include "prometheus.h"

#include "serve/metrics_page.h"

static prom_page page;

static const char *read_page(const metrics_view *v)
{
    bytes out;
    bytes_init(&out, 1 << 22);
    metrics_page(v, &out);
    EXPECT(!out.failed);
    const char *why = prom_read(&page, out.data ? out.data : "");
    bytes_free(&out);
    return why;
}

static server_metrics counted;
static http_metrics   asked;

static metrics_view view(void)
{
    server_metrics_init(&counted);
    memset(&asked, 0, sizeof asked);
    return (metrics_view){ .model = "m", .version = "1", .backend = "cpu", .quant = "q2", .ctx = 4096,
                           .started = 1767225600, .engine = &counted, .http = &asked };
}

#define EXPECT_PAGE(v) do { const char *why_ = read_page(v); EXPECT_TEXT(why_ ? why_ : "", ""); } while (0)
#define EXPECT_VALUE(name, label, want) \
    do { const double v_ = prom_value(&page, name, label); \
         if (fabs(v_ - (want)) > 1e-9) test_fail(__FILE__, __LINE__, "%s %s is %g", name, label, v_); } while (0)

TEST(a_page_of_zeros_is_whole)
{
    const metrics_view v = view();
    EXPECT_PAGE(&v);
    EXPECT_VALUE("vllm:prompt_tokens_total", "", 0);
    EXPECT_VALUE("ds4_request_seconds_count", "", 0);
    EXPECT_VALUE("ds4_build_info", "quant=\"q2\"", 1);
    EXPECT(page.n_families > 60);
}

/* Names that dashboards and fleet look for. */
TEST(every_family_of_the_contract_is_there)
{
    static const char *const names[] = {
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
        "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:num_requests_running",
        "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds", "vllm:request_time_per_output_token_seconds",
        "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
        "ds4_prefill_tokens_total", "ds4_cached_tokens_total", "ds4_cache_miss_total", "ds4_kv_disk_bytes",
        "ds4_kv_disk_files", "ds4_kv_disk_budget_bytes", "ds4_kv_save_seconds", "ds4_kv_load_seconds",
        "ds4_kv_evictions_total", "ds4_kv_corrupt_total", "ds4_tool_calls_total", "ds4_tool_repairs_total",
        "ds4_tool_parse_failures_total", "ds4_forced_tokens_total", "ds4_cancelled_total",
        "ds4_spec_draft_tokens_total", "ds4_spec_accepted_tokens_total", "ds4_http_requests_total",
        "ds4_model_load_seconds", "ds4_build_info", "process_start_time_seconds", "process_resident_memory_bytes",
        "ds4_model_info", "ds4_requests_running", "ds4_requests_waiting", "ds4_requests_total",
        "ds4_prompt_tokens_total", "ds4_prompt_tokens_cached_total", "ds4_generation_tokens_total",
        "ds4_reasoning_tokens_total", "ds4_kv_used_tokens", "ds4_kv_capacity_tokens", "ds4_kv_disk_hits_total",
        "ds4_slots_busy", "ds4_slots_total", "ds4_preemptions_total", "ds4_time_to_first_token_seconds",
        "ds4_inter_token_latency_seconds", "ds4_request_time_per_output_token_seconds", "ds4_queue_seconds",
        "ds4_prefill_seconds", "ds4_decode_seconds", "ds4_request_seconds",
    };
    const metrics_view v = view();
    EXPECT_PAGE(&v);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bool there = false;
        for (int k = 0; k < page.n_families; k++) there |= strcmp(page.families[k].text, names[i]) == 0;
        if (!there) test_fail(__FILE__, __LINE__, "no family %s", names[i]);
    }
}

TEST(reads_of_experts_are_told_by_place)
{
    const metrics_view v = view();
    counter_set(&counted.expert_hits, 30);
    counter_set(&counted.expert_misses, 4);
    counter_set(&counted.expert_bus_bytes, 5000000000);
    counter_set(&counted.expert_exchanges, 2);
    EXPECT_PAGE(&v);
    EXPECT_VALUE("ds4_expert_reads_total", "place=\"card\"", 30);
    EXPECT_VALUE("ds4_expert_reads_total", "place=\"host\"", 4);
    EXPECT_VALUE("ds4_expert_bus_bytes_total", "", 5e9);
    EXPECT_VALUE("ds4_expert_exchanges_total", "", 2);
}

TEST(labels_are_escaped)
{
    metrics_view v = view();
    v.model = "a\\b \"c\"\nd";
    v.backend = "cpu (\"x\", 2 threads)";
    EXPECT_PAGE(&v);
    EXPECT_VALUE("vllm:prompt_tokens_total", "model_name=\"a\\\\b \\\"c\\\"\\nd\"", 0);
}

TEST(a_measurement_is_in_the_usual_and_in_the_narrow_buckets)
{
    const metrics_view v = view();
    timing_add(&counted.ttft, 0.3);
    timing_add(&counted.ttft, 5000);
    timing_add(&counted.inter_token, 0.0005);
    EXPECT_PAGE(&v);
    EXPECT_VALUE("vllm:time_to_first_token_seconds_bucket", "le=\"0.25\"", 0);
    EXPECT_VALUE("vllm:time_to_first_token_seconds_bucket", "le=\"0.5\"", 1);
    EXPECT_VALUE("vllm:time_to_first_token_seconds_bucket", "le=\"1280\"", 1);
    EXPECT_VALUE("vllm:time_to_first_token_seconds_count", "", 2);
    EXPECT_VALUE("ds4_time_to_first_token_seconds_bucket", "le=\"0.256\"", 0);
    EXPECT_VALUE("ds4_time_to_first_token_seconds_bucket", "le=\"0.32254\"", 1);
    EXPECT_VALUE("ds4_time_to_first_token_seconds_bucket", "le=\"131.072\"", 1);
    EXPECT_VALUE("ds4_time_to_first_token_seconds_sum", "", 5000.3);
    EXPECT_VALUE("ds4_inter_token_latency_seconds_bucket", "le=\"0.001\"", 1);
}

/* The reader that judges the page sees what is wrong. */
TEST(broken_pages_are_told)
{
    static const char *const broken[] = {
        "a{model_name=\"m\"} 1\n", "# HELP a x\n# TYPE a gauge\na 1\n",
        "# HELP a x\n# TYPE a gauge\na{model_name=\"m\"} x\n",
        "# HELP a x\n# TYPE a counter\n", "# HELP a x\n# HELP a x\n",
        "# HELP a x\n# TYPE a gauge\na{model_name=\"m\"} 1",
        "# HELP a x\n# TYPE a gauge\nb{model_name=\"m\"} 1\n", "# HELP a x\n# TYPE a gauge\na{model_name=\"\\m\"} 1\n",
        "# HELP a x\n# TYPE a gauge\na{model_name=\"m\"} 1\na{model_name=\"m\"} 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{model_name=\"m\",le=\"1\"} 2\na_sum{model_name=\"m\"} 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{model_name=\"m\",le=\"1\"} 2\n"
            "a_bucket{model_name=\"m\",le=\"+Inf\"} 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{model_name=\"m\",le=\"+Inf\"} 2\na_count{model_name=\"m\"} 1\n",
        "# HELP a x\n# TYPE a histogram\na_bucket{model_name=\"m\",le=\"+Inf\"} 2\n",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        if (!prom_read(&page, broken[i])) test_fail(__FILE__, __LINE__, "nobody minds: %s", broken[i]);
}
