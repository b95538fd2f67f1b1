#include "bench/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "bench/classes.h"
#include "engine/engine.h"

/* ---- the model ------------------------------------------------------------- */

static void list_types(report_context *c, const gguf *g)
{
    int count[QUANT_COUNT] = { 0 };
    size_t len = 0;
    for (int i = 0; i < gguf_n_tensors(g); i++) count[gguf_tensor_at(g, i)->type]++;
    c->model_types[0] = 0;
    for (int t = 0; t < QUANT_COUNT; t++) {
        if (!count[t]) continue;
        const size_t room = sizeof c->model_types - len;
        const int n = snprintf(c->model_types + len, room, "%s%s %d", len ? ", " : "", quant_get((uint32_t)t)->name,
                               count[t]);
        if ((size_t)n >= room) return;
        len += (size_t)n;
    }
}

/* The first MiB (metadata) and a page of every 64 MiB: tells files apart without
 * reading them whole. */
static void hash_sample(report_context *c, const gguf *g)
{
    enum { PAGE = 4096 };
    uint32_t crc = 0;
    for (int i = 0; i < gguf_n_shards(g); i++) {
        uint64_t size;
        const uint8_t *data = gguf_mapping(g, i, &size);
        crc = crc32c(crc, data, (size_t)(size < 1 << 20 ? size : 1 << 20));
        for (uint64_t at = 64u << 20; at + PAGE <= size; at += 64u << 20) crc = crc32c(crc, data + at, PAGE);
    }
    snprintf(c->model_hash, sizeof c->model_hash, "crc32c:%08x", crc);
}

void report_describe_model(report_context *c, const bench_arm *a)
{
    c->shape = a->shape;
    c->load_s = a->load_s;
    c->model_bytes = gguf_file_bytes(a->engine->file);
    arm_device(a, &c->device);
    list_types(c, a->engine->file);
    hash_sample(c, a->engine->file);
}

/* ---- columns ---------------------------------------------------------------- */

static int outliers(const speed_row *r)
{
    int n = 0;
    for (int i = 0; i < r->n; i++) n += r->outlier[i];
    return n;
}

/* "drift load outliers:2", empty when nothing is to be said. */
static void put_verdict(const speed_row *r, char *out, size_t size)
{
    size_t len = 0;
    out[0] = 0;
#define SAY(...) do { const int n_ = snprintf(out + len, size - len, __VA_ARGS__);                  \
                      len = min_size(len + (size_t)n_, size - 1); } while (0)
    if (r->cached) SAY("%sINVALID:cached", len ? " " : "");
    if (r->n == 1) SAY("%sn=1", len ? " " : "");
    if (r->drift)  SAY("%sdrift", len ? " " : "");
    if (r->others > REPORT_LOAD) SAY("%sload:%.0f%%", len ? " " : "", 100 * r->others);
    if (r->faults_per_token >= 1) SAY("%spage-in", len ? " " : "");
    if (outliers(r)) SAY("%soutliers:%d", len ? " " : "", outliers(r));
#undef SAY
}

static double milliseconds_per_token(const speed_row *r)
{
    return r->tps.p50 > 0 ? 1e3 / r->tps.p50 : 0;
}

static double mad_percent(const speed_row *r)
{
    return r->tps.p50 > 0 ? 100 * r->tps.mad / r->tps.p50 : 0;
}

void report_table_head(bytes *out)
{
    bytes_printf(out, "%-22s %3s %3s %9s %7s %9s %9s %9s %9s %9s %7s %6s  %s\n", "test", "thr", "n", "t/s", "mad %",
                 "p10", "p90", "ms/tok", "first ms", "p99 ms", "GB/s", "roof %", "notes");
}

static void cell_or_dash(bytes *out, double v, int width, int digits)
{
    if (v > 0) bytes_printf(out, " %*.*f", width, digits, v);
    else       bytes_printf(out, " %*s", width, "-");
}

void report_table_row(const speed_row *r, bytes *out)
{
    char name[CELL_NAME_BYTES], verdict[96];
    if (!r->n) return;
    cell_name(&r->cell, name);
    put_verdict(r, verdict, sizeof verdict);
    bytes_printf(out, "%-22s %3d %3d %9.2f", name, r->threads, r->n, r->tps.p50);
    if (r->n > 1) bytes_printf(out, " %7.2f %9.2f %9.2f", mad_percent(r), r->tps.p10, r->tps.p90);
    else          bytes_printf(out, " %7s %9s %9s", "-", "-", "-");
    cell_or_dash(out, milliseconds_per_token(r), 9, 2);
    cell_or_dash(out, r->first_ms, 9, 2);
    cell_or_dash(out, r->gap_p99_ms, 9, 2);
    cell_or_dash(out, r->eff_gbs, 7, 2);
    cell_or_dash(out, 100 * r->roofline, 6, 1);
    bytes_printf(out, "%s%s\n", *verdict ? "  " : "", verdict);
}

static class_times times_of(const speed_row *r, double dot_peak)
{
    class_times t = { .time = r->times, .n = r->n_times, .read_gbs = r->read.max, .dot_peak = dot_peak };
    for (int i = 0; i < r->n; i++) {
        t.tokens += r->samples[i].prompt_tokens + r->samples[i].gen_tokens;
        t.seconds += r->samples[i].prompt_s + r->samples[i].gen_s;
    }
    return t;
}

/* The same cell with one session, for the gain of several together. */
static const speed_row *alone(const speed_row *rows, int n, const speed_row *r)
{
    for (int i = 0; i < n; i++)
        if (rows[i].n && rows[i].cell.sessions == 1 && rows[i].threads == r->threads &&
            rows[i].cell.depth == r->cell.depth && rows[i].cell.prompt == r->cell.prompt &&
            rows[i].cell.gen == r->cell.gen)
            return &rows[i];
    return NULL;
}

void report_table_notes(const speed_row *rows, int n, const report_context *c, bytes *out)
{
    char name[CELL_NAME_BYTES];
    for (int i = 0; i < n; i++) {
        const speed_row *r = &rows[i], *one = r->cell.sessions > 1 && r->n ? alone(rows, n, r) : NULL;
        if (!one) continue;
        cell_name(&r->cell, name);
        bytes_printf(out, "%s, %d threads: %.2fx of one session in total\n", name, r->threads, r->tps.p50 / one->tps.p50);
    }
    for (int i = 0; i < n; i++) {
        const speed_row *r = &rows[i];
        if (!r->n || r->cell.gen || !c->dot_peak[i % c->n_arms]) continue;
        cell_name(&r->cell, name);
        bytes_printf(out, "%s, %d threads: %.1f G multiply-adds/s, %.1f %% of the int8 peak of %.0f\n", name, r->threads,
                     r->tps.p50 * (double)r->token_macs * 1e-9,
                     100 * r->tps.p50 * (double)r->token_macs * 1e-9 / c->dot_peak[i % c->n_arms],
                     c->dot_peak[i % c->n_arms]);
    }
    for (int i = 0; i < n; i++) {
        if (!rows[i].n || !rows[i].expert_slots) continue;
        cell_name(&rows[i].cell, name);
        bytes_printf(out,
                     "%s, %d threads: %.1f %% of the experts were in the cache, %.1f MB read a token, %.0f %% of the "
                     "time spent waiting for them\n", name, rows[i].threads, 100 * rows[i].expert_hits,
                     rows[i].expert_bytes * 1e-6, 100 * rows[i].expert_wait);
    }
    for (int i = 0; i < n && c->random_tokens; i++) {
        const class_times t = times_of(&rows[i], 0);
        if (!rows[i].n_times) continue;
        cell_name(&rows[i].cell, name);
        bytes_printf(out, "%s, %d threads: %.1f distinct experts a layer and step, chosen by random tokens\n", name,
                     rows[i].threads, classes_experts(&t));
    }
    if (c->drifted) {
        static const char *const when[] = { "start", "middle", "end" };
        bytes_text(out, "the machine drifted: a fixed decode ran at");
        for (size_t i = 0; i < countof(when); i++)
            if (c->sentinel[i] > 0) bytes_printf(out, "%s %.2f t/s at the %s", i ? "," : "", c->sentinel[i], when[i]);
        bytes_char(out, '\n');
    }
    bytes_printf(out, "t/s: median over n passes; roof %%: bytes a decoded token reads times t/s, against the memory\n"
                      "read speed measured right after %s\n", *c->device.name ? "on the device" : "with the same threads");
}

void report_classes(const speed_row *r, const report_context *c, double dot_peak, bytes *out)
{
    char name[CELL_NAME_BYTES];
    if (!r->n_times) return;
    const class_times t = times_of(r, dot_peak);
    cell_name(&r->cell, name);
    bytes_printf(out, "\n%s, %d threads, %s\n", name, r->threads, c->text);
    classes_table(&t, out);
    if (*c->device.name)
        bytes_text(out, "  the device is waited for after every operation: each pays a launch and a wait that a step does not\n");
}

/* ---- CSV and Markdown --------------------------------------------------------- */

/* One column of all formats but the table; "" where nothing was measured. */
typedef struct {
    const char *name;
    void      (*put)(const speed_row *r, char *out, size_t size);
} column;

#define NUMBER(id, fmt, condition, value)                                               \
    static void put_##id(const speed_row *r, char *out, size_t size)                    \
    {                                                                                   \
        out[0] = 0;                                                                     \
        if (condition) snprintf(out, size, fmt, value);                                 \
    }
NUMBER(depth, "%d", true, r->cell.depth)
NUMBER(n, "%d", true, r->n)
NUMBER(p50, "%.4f", true, r->tps.p50)
NUMBER(p10, "%.4f", r->n > 1, r->tps.p10)
NUMBER(p90, "%.4f", r->n > 1, r->tps.p90)
NUMBER(mad, "%.3f", r->n > 1, mad_percent(r))
NUMBER(ms, "%.4f", true, milliseconds_per_token(r))
NUMBER(first, "%.3f", r->cell.gen, r->first_ms)
NUMBER(p99, "%.3f", r->cell.gen, r->gap_p99_ms)
NUMBER(gbs, "%.3f", r->eff_gbs > 0, r->eff_gbs)
NUMBER(roof, "%.2f", r->roofline > 0, 100 * r->roofline)
NUMBER(kv, "%" PRIu64, true, r->kv_bytes)
NUMBER(rss, "%" PRIu64, r->rss_peak > 0, r->rss_peak)
NUMBER(device, "%" PRIu64, r->device_peak > 0, r->device_peak)
NUMBER(faults, "%.4f", true, r->faults_per_token)
NUMBER(swapin, "%.3f", true, r->swapin_mbs)
NUMBER(threads, "%d", true, r->threads)
NUMBER(sessions, "%d", true, r->cell.sessions)
NUMBER(read, "%.3f", r->read.n > 0, r->read.max)

static void put_test(const speed_row *r, char *out, size_t size)
{
    bench_cell c = r->cell;
    char name[CELL_NAME_BYTES];
    c.depth = 0;
    cell_name(&c, name);
    snprintf(out, size, "%s", name);
}

static void put_nothing(const speed_row *r, char *out, size_t size) { (void)r, (void)size; out[0] = 0; }

/* docs/bench.md explains them. Power is read by nothing yet. */
static const column columns[] = {
    { "test", put_test }, { "depth", put_depth }, { "n", put_n }, { "tps_p50", put_p50 }, { "tps_p10", put_p10 },
    { "tps_p90", put_p90 }, { "mad_pct", put_mad }, { "ms_per_tok", put_ms }, { "first_ms", put_first },
    { "itl_p99_ms", put_p99 }, { "eff_GBps", put_gbs }, { "roofline_pct", put_roof }, { "kv_bytes", put_kv },
    { "rss_peak", put_rss }, { "gpu_mem_peak", put_device }, { "majflt_per_tok", put_faults },
    { "swapin_MBps", put_swapin }, { "watts", put_nothing }, { "J_per_tok", put_nothing }, { "verdict", put_verdict },
    { "threads", put_threads }, { "sessions", put_sessions }, { "read_GBps", put_read },
};

void report_csv(const speed_row *rows, int n, bytes *out)
{
    char value[128];
    for (size_t k = 0; k < countof(columns); k++) bytes_printf(out, "%s%s", k ? "," : "", columns[k].name);
    bytes_char(out, '\n');
    for (int i = 0; i < n; i++) {
        if (!rows[i].n) continue;
        for (size_t k = 0; k < countof(columns); k++) {
            columns[k].put(&rows[i], value, sizeof value);
            bytes_printf(out, "%s%s", k ? "," : "", value);
        }
        bytes_char(out, '\n');
    }
}

void report_markdown(const speed_row *rows, int n, const report_context *c, bytes *out)
{
    char value[128];
    bytes_printf(out, "%s, %s, %s\n\n", c->shape.name, c->machine->cpu, c->shape.backend);
    if (c->shape.why_cpu[0]) bytes_printf(out, "%s\n\n", c->shape.why_cpu);
    for (size_t k = 0; k < countof(columns); k++)
        if (columns[k].put != put_nothing) bytes_printf(out, "| %s ", columns[k].name);
    bytes_text(out, "|\n");
    for (size_t k = 0; k < countof(columns); k++)
        if (columns[k].put != put_nothing) bytes_text(out, k ? "| ---: " : "| --- ");
    bytes_text(out, "|\n");
    for (int i = 0; i < n; i++) {
        if (!rows[i].n) continue;
        for (size_t k = 0; k < countof(columns); k++) {
            if (columns[k].put == put_nothing) continue;
            columns[k].put(&rows[i], value, sizeof value);
            bytes_printf(out, "| %s ", value);
        }
        bytes_text(out, "|\n");
    }
}

/* ---- JSON ----------------------------------------------------------------------- */

static void spread(json_writer *w, const char *key, const stats *s)
{
    json_key(w, key);
    json_object(w);
    json_put_int(w, "n", s->n);
    json_put_double(w, "p50", s->p50, 7);
    json_put_double(w, "p10", s->p10, 7);
    json_put_double(w, "p90", s->p90, 7);
    json_put_double(w, "mad", s->mad, 7);
    json_put_double(w, "min", s->min, 7);
    json_put_double(w, "max", s->max, 7);
    json_key(w, "ci95");
    json_array(w);
    json_double(w, s->ci_low, 7);
    json_double(w, s->ci_high, 7);
    json_array_end(w);
    json_object_end(w);
}

static void machine_part(json_writer *w, const report_context *c)
{
    const host_machine *m = c->machine;
    json_key(w, "machine");
    json_object(w);
    json_put_text(w, "cpu", m->cpu);
    json_put_int(w, "cpus", m->n_cpus);
    json_put_int(w, "cpus_allowed", m->n_allowed);
    json_put_int(w, "cores", m->n_cores);
    json_put_int(w, "mem", (int64_t)m->memory_bytes);
    json_put_int(w, "mem_available", (int64_t)m->available_bytes);
    json_put_int(w, "l3", (int64_t)m->l3_bytes);
    json_put_text(w, "gpu", *c->device.name ? c->device.name : NULL);
    json_put_text(w, "os", m->os);
    for (int i = 0; i < c->readings->n; i++) {
        const host_reading *r = &c->readings->reading[i];
        if (i == 0 || strcmp(r->group, r[-1].group) != 0) {
            json_key(w, r->group);
            json_object(w);
        }
        json_put_text(w, r->name, r->value);
        if (i + 1 == c->readings->n || strcmp(r->group, r[1].group) != 0) json_object_end(w);
    }
    json_object_end(w);
}

static void missing_part(json_writer *w, const report_context *c)
{
    json_key(w, "missing");
    json_array(w);
    for (int i = 0; i < c->readings->n_missing; i++) {
        const host_missing *m = &c->readings->missing[i];
        json_object(w);
        json_put_text(w, "name", m->name);
        json_put_text(w, "why", m->why);
        json_put_text(w, "remedy", m->remedy);
        json_object_end(w);
    }
    json_array_end(w);
}

static void model_part(json_writer *w, const report_context *c)
{
    json_key(w, "model");
    json_object(w);
    json_put_text(w, "name", c->shape.name);
    json_put_text(w, "path", c->model_path);
    json_put_int(w, "size", (int64_t)c->model_bytes);
    json_put_text(w, "types", c->model_types);
    json_put_int(w, "expert_bits", c->shape.expert_bits);
    json_put_text(w, "hash", c->model_hash);
    json_put_double(w, "load_s", c->load_s, 7);
    json_put_text(w, "backend", c->shape.backend);
    json_put_text(w, "why_cpu", c->shape.why_cpu[0] ? c->shape.why_cpu : NULL);
    json_object_end(w);
}

static void cell_part(json_writer *w, const speed_row *r, const report_context *c)
{
    char test[CELL_NAME_BYTES];
    put_test(r, test, sizeof test);
    json_key(w, "cell");
    json_object(w);
    json_put_text(w, "mode", "speed");
    json_put_text(w, "test", test);
    json_put_int(w, "depth", r->cell.depth);
    json_key(w, "params");
    json_object(w);
    json_put_int(w, "prompt", r->cell.prompt);
    json_put_int(w, "gen", r->cell.gen);
    json_put_int(w, "sessions", r->cell.sessions);
    json_put_int(w, "threads", r->threads);
    json_put_int(w, "chunk", c->shape.max_batch_rows);
    json_put_text(w, "text", c->text);
    json_put_text(w, "fill", c->fill);
    json_object_end(w);
    json_object_end(w);
}

static void samples_part(json_writer *w, const speed_row *r)
{
    json_key(w, "samples");
    json_array(w);
    for (int i = 0; i < r->n; i++) {
        const arm_sample *s = &r->samples[i];
        json_object(w);
        json_put_double(w, "tps", r->rate[i], 7);
        json_put_double(w, "prompt_s", s->prompt_s, 7);
        json_put_double(w, "gen_s", s->gen_s, 7);
        json_put_double(w, "first_s", s->first_s, 7);
        json_put_int(w, "majflt", (int64_t)s->major_faults);
        json_put_double(w, "others", s->others < 0 ? NAN : s->others, 7);
        json_put_bool(w, "outlier", r->outlier[i]);
        json_object_end(w);
    }
    json_array_end(w);
}

static void results_part(json_writer *w, const speed_row *r)
{
    json_put_int(w, "n", r->n);
    json_put_int(w, "warmups", r->warmups);
    samples_part(w, r);
    spread(w, "stat", &r->tps);
    json_put_int(w, "bytes_per_token", (int64_t)r->token_bytes);
    json_put_int(w, "macs_per_token", (int64_t)r->token_macs);
    json_put_double(w, "eff_GBps", r->eff_gbs > 0 ? r->eff_gbs : NAN, 7);
    json_put_double(w, "roofline", r->roofline > 0 ? r->roofline : NAN, 7);
    spread(w, "read_GBps", &r->read);
    if (r->cell.gen) {
        json_key(w, "decode");
        json_object(w);
        json_put_double(w, "first_ms", r->first_ms, 7);
        json_put_double(w, "steady_tps", r->steady_tps > 0 ? r->steady_tps : NAN, 7);
        json_put_double(w, "itl_p50_ms", r->gap_p50_ms, 7);
        json_put_double(w, "itl_p95_ms", r->gap_p95_ms, 7);
        json_put_double(w, "itl_p99_ms", r->gap_p99_ms, 7);
        json_put_double(w, "itl_max_ms", r->gap_max_ms, 7);
        json_object_end(w);
    }
    if (r->expert_slots) {
        json_key(w, "expert_cache");
        json_object(w);
        json_put_int(w, "slots", (int64_t)r->expert_slots);
        json_put_double(w, "hit_rate", r->expert_hits, 7);
        json_put_double(w, "bytes_per_token", r->expert_bytes, 7);
        json_put_double(w, "wait_share", r->expert_wait, 7);
        json_object_end(w);
    }
    json_key(w, "mem");
    json_object(w);
    json_put_int(w, "kv", (int64_t)r->kv_bytes);
    json_put_int(w, "rss", (int64_t)r->rss_peak);
    json_put_double(w, "gpu_peak", r->device_peak ? (double)r->device_peak : NAN, 7);
    json_put_double(w, "majflt", r->faults_per_token, 7);
    json_put_double(w, "swapin_MBps", r->swapin_mbs, 7);
    json_object_end(w);
}

void report_record(json_writer *w, const speed_row *r, const report_context *c)
{
    char verdict[96];
    put_verdict(r, verdict, sizeof verdict);
    json_object(w);
    json_put_int(w, "schema", 1);
    json_key(w, "tool");
    json_object(w);
    json_put_text(w, "build", c->build);
    json_put_text(w, "flags", c->flags);
    json_put_text(w, "command", c->command);
    json_object_end(w);
    json_key(w, "when");
    json_object(w);
    json_put_int(w, "start", (int64_t)r->start_unix);
    json_put_int(w, "end", (int64_t)r->end_unix);
    json_object_end(w);
    machine_part(w, c);
    model_part(w, c);
    cell_part(w, r, c);
    results_part(w, r);
    json_key(w, "sentinel_tps");
    json_array(w);
    for (size_t i = 0; i < countof(c->sentinel); i++) json_double(w, c->sentinel[i] > 0 ? c->sentinel[i] : NAN, 6);
    json_array_end(w);
    if (r->n_times) {
        const class_times t = times_of(r, 0);
        json_put_double(w, "experts_per_layer", classes_experts(&t), 7);
        json_key(w, "ops");
        classes_json(&t, w);
    }
    json_put_text(w, "verdict", verdict);
    missing_part(w, c);
    json_object_end(w);
}
