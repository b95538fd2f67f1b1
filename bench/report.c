#include "compare.h"

#include <stdio.h>
#include "base/clock.h"
#include "base/json_writer.h"

static void figure(const stats *s, bytes *out)
{
    if (s->n > 1) bytes_printf(out, " %.2f +- %.2f |", s->p50, s->mad);
    else bytes_printf(out, " %.2f, n=1 |", s->p50);
}

static void bar(const row *w, bool aim, bytes *out)
{
    const double plain = aim ? w->aim : w->reach, ratio = aim ? w->aim_ratio : w->reach_ratio;
    if (!plain) bytes_text(out, " - |");
    else if (w->ratio_only) bytes_printf(out, " %.2fx |", plain);
    else if (ratio) bytes_printf(out, " %.1f, %.2fx |", plain, ratio);
    else bytes_printf(out, " %.1f |", plain);
}

/* A speed depends on the machine of the minute and a ratio does not, so where a
 * row has a bar for both the ratio decides. */
static const char *verdict(const result *r)
{
    const row *w = r->row;
    const bool by_ratio = w->ratio_only || (w->reach_ratio > 0 && r->ratio_stat.n);
    const double got = by_ratio ? r->ratio_stat.p50 : r->a_stat.p50;
    const double aim = by_ratio && !w->ratio_only ? w->aim_ratio : w->aim;
    const double reach = by_ratio && !w->ratio_only ? w->reach_ratio : w->reach;
    if (!reach) return "";
    return got >= aim ? "aim" : got >= reach ? "reached" : "missed";
}

/* Arm a's part of what the machine gives. */
static void share_line(const result *r, bytes *out)
{
    const row *w = r->row;
    bytes_printf(out, "| %s: of the %.1f %s beside it | %.0f %% | %.0f %% | %.0f %% | | | | %s |\n", w->key, r->limit,
                 w->limit == LIMIT_READ ? "GB/s read" : "G int8 multiply-adds/s", 100 * w->reach_share,
                 100 * w->aim_share,
                 100 * r->share, r->share >= w->aim_share ? "aim" : r->share >= w->reach_share ? "reached" : "missed");
}

static const char *against(const result *r)
{
    const row *w = r->row;
    return !r->b_stat.n ? "" : w->b.engine == ENGINE_PEER ? "llama.cpp" : w->b.threads != w->a.threads ? "1 thread" :
           "short, alone";
}

static void facts_lines(const report_facts *f, int pairs, bytes *out)
{
    const host_machine *m = &f->machine;
    bytes_printf(out, "Machine: %s, %d processors (%d cores), %.0f GiB, %s.\n", m->cpu, m->n_allowed ? m->n_allowed :
                 m->n_cpus, m->n_cores, (double)m->memory_bytes / (1 << 30), m->os);
    bytes_printf(out, "ds4 %s, %s. Peer: %s.\n", f->commit, f->ours, f->peer[0] ? f->peer : "not installed");
    bytes_printf(out, "Model: %s%s%s. %d alternating pairs a row; tokens/s as median +- median absolute deviation,\n"
                 "the ratio from the pairs.\n", f->model, f->q4[0] ? ", " : "", f->q4, pairs);
    if (f->rank)
        bytes_printf(out, "Logits of a prompt of 24 tokens: correlation %.4f with the peer's, whose best token is our number %d.\n",
                     f->correlation, f->rank);
}

void report_table(const result *r, int n, const report_facts *f, bytes *out)
{
    facts_lines(f, n ? r[0].n : 0, out);
    bytes_text(out, "\n| measurement | reach | aim | ds4 | against | | ratio | |\n|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < n; i++) {
        const row *w = r[i].row;
        bytes_printf(out, "| %s |", w->title);
        bar(w, false, out);
        bar(w, true, out);
        figure(&r[i].a_stat, out);
        bytes_printf(out, " %s |", against(&r[i]));
        if (r[i].b_stat.n) figure(&r[i].b_stat, out);
        else bytes_text(out, " |");
        if (r[i].ratio_stat.n) figure(&r[i].ratio_stat, out);
        else bytes_text(out, " |");
        bytes_printf(out, " %s |\n", verdict(&r[i]));
        if (r[i].share > 0) share_line(&r[i], out);
    }
}

static void json_samples(json_writer *w, const char *key, const double *x, const stats *s)
{
    if (!s->n) return;
    json_key(w, key);
    json_object(w);
    json_key(w, "p50"), json_double(w, s->p50, 6);
    json_key(w, "mad"), json_double(w, s->mad, 4);
    json_key(w, "samples"), json_array(w);
    for (int i = 0; i < s->n; i++) json_double(w, x[i], 6);
    json_array_end(w);
    json_object_end(w);
}

static void json_arm(json_writer *w, const char *key, const arm *a)
{
    if (!a->command) return;
    json_key(w, key), json_object(w);
    json_key(w, "engine"), json_text(w, a->engine == ENGINE_PEER ? "llama.cpp" : "ds4");
    json_key(w, "threads"), json_int(w, a->threads);
    json_key(w, "command"), json_text(w, a->command);
    json_object_end(w);
}

static void json_row(json_writer *w, const result *r)
{
    json_object(w);
    json_key(w, "key"), json_text(w, r->row->key);
    json_key(w, "title"), json_text(w, r->row->title);
    json_arm(w, "arm", &r->row->a);
    json_arm(w, "against", &r->row->b);
    json_key(w, "busy"), json_bool(w, r->row->busy);
    json_key(w, "reach"), json_double(w, r->row->reach, 6);
    json_key(w, "aim"), json_double(w, r->row->aim, 6);
    json_samples(w, "tps", r->a, &r->a_stat);
    json_samples(w, "against_tps", r->b, &r->b_stat);
    json_samples(w, "ratio", r->ratio, &r->ratio_stat);
    json_key(w, "verdict"), json_text(w, verdict(r));
    if (r->share > 0) {
        json_key(w, r->row->limit == LIMIT_READ ? "read_GBps" : "int8_gmacs"), json_double(w, r->limit, 6);
        json_key(w, "share"), json_double(w, r->share, 4);
    }
    json_object_end(w);
}

void report_json(const result *r, int n, const report_facts *f, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_key(&w, "schema"), json_int(&w, 1);
    json_key(&w, "unix_time"), json_int(&w, (int64_t)clock_unix_seconds());
    json_key(&w, "commit"), json_text(&w, f->commit);
    json_key(&w, "cpu"), json_text(&w, f->machine.cpu);
    json_key(&w, "cores"), json_int(&w, f->machine.n_cores);
    json_key(&w, "memory_bytes"), json_int(&w, (int64_t)f->machine.memory_bytes);
    json_key(&w, "os"), json_text(&w, f->machine.os);
    json_key(&w, "ds4"), json_text(&w, f->ours);
    json_key(&w, "peer"), json_text(&w, f->peer);
    json_key(&w, "model"), json_text(&w, f->model);
    if (f->rank) {
        json_key(&w, "logits_correlation"), json_double(&w, f->correlation, 6);
        json_key(&w, "logits_rank"), json_int(&w, f->rank);
    }
    json_key(&w, "rows"), json_array(&w);
    for (int i = 0; i < n; i++) json_row(&w, &r[i]);
    json_array_end(&w);
    json_object_end(&w);
    bytes_char(out, '\n');
}
