#include "bench/speed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/read_speed.h"
#include "engine/engine.h"

#define AGREEMENT 0.02          /* of two warm-up passes            */
#define SETTLED   0.01          /* half-width of the median's 95 %  */

typedef struct {
    double  *gaps;              /* [most][gen] of every repetition, one after the other */
    uint64_t spent_ns;
} measuring;

/* Tokens per second of what the cell is about: all of its tokens. */
static double rate_of(const arm_sample *s)
{
    const double seconds = s->prompt_s + s->gen_s;
    return seconds > 0 ? (s->prompt_tokens + s->gen_tokens) / seconds : 0;
}

static void pass_begins(const speed_rules *rules, const bench_cell *c, int threads, int repetition)
{
    if (rules->on_pass) rules->on_pass(rules->ctx, c, threads, repetition);
}

static bool spent(const speed_rules *rules, const measuring *m)
{
    return rules->budget_s > 0 && (double)m->spent_ns * 1e-9 >= rules->budget_s;
}

static ds4_status warm_up(bench_arm *a, const bench_cell *c, const speed_rules *rules, speed_row *row,
                          measuring *m, ds4_error *err)
{
    double before = 0;
    const uint64_t start = clock_ns();
    for (int i = 0; i <= rules->warmup_max; i++) {
        arm_sample s;
        pass_begins(rules, c, a->threads, 0);
        const ds4_status st = arm_run(a, c, &s, NULL, err);
        if (st) return st;
        row->warmups++;
        m->spent_ns = clock_ns() - start;
        const double now = rate_of(&s);
        if (i > 0 && fabs(now - before) < AGREEMENT * now) break;
        if (spent(rules, m)) break;
        before = now;
    }
    return DS4_OK;
}

static ds4_status repeat(bench_arm *a, const bench_cell *c, const speed_rules *rules, speed_row *row,
                         measuring *m, ds4_error *err)
{
    const uint64_t start = clock_ns();
    pass_begins(rules, c, a->threads, row->n + 1);
    const ds4_status st = arm_run(a, c, &row->samples[row->n], m->gaps + (size_t)row->n * (size_t)c->gen, err);
    if (st) return st;
    row->rate[row->n] = rate_of(&row->samples[row->n]);
    row->n++;
    m->spent_ns += clock_ns() - start;
    return DS4_OK;
}

static bool enough(const speed_row *row, const speed_rules *rules, const measuring *m)
{
    if (rules->repetitions) return row->n >= rules->repetitions;
    if (row->n >= SPEED_MOST || (row->n >= 1 && spent(rules, m))) return true;
    if (row->n < SPEED_LEAST) return false;
    double x[SPEED_MOST];
    stats s;
    for (int i = 0; i < row->n; i++) x[i] = row->rate[i];
    stats_of(x, row->n, &s);
    return stats_settled(&s, SETTLED);
}

/* ---- what it means -------------------------------------------------------- */

static double median(double *x, int n)
{
    stats s;
    stats_of(x, n, &s);
    return s.p50;
}

static void fill_gaps(speed_row *row, double *gaps, double *x)
{
    const bench_cell *c = &row->cell;
    const int n = row->n * c->gen;
    stats s;
    for (int i = 0; i < row->n; i++) x[i] = row->samples[i].first_s * 1e3;
    row->first_ms = median(x, row->n);
    for (int i = 0; i < row->n && c->gen > 1; i++) {
        const arm_sample *a = &row->samples[i];
        x[i] = (c->gen - 1) * c->sessions / (a->gen_s - a->first_s);
    }
    if (c->gen > 1) row->steady_tps = median(x, row->n);
    stats_of(gaps, n, &s);
    row->gap_p50_ms = s.p50 * 1e3;
    row->gap_p95_ms = stats_percentile(gaps, n, 0.95) * 1e3;
    row->gap_p99_ms = stats_percentile(gaps, n, 0.99) * 1e3;
    row->gap_max_ms = s.max * 1e3;
}

static void fill_bytes(speed_row *row, const bench_arm *a)
{
    const bench_cell *c = &row->cell;
    const int depth = c->depth + c->prompt + c->gen / 2;
    row->token_bytes = token_bytes_step(&a->bytes, c->sessions, depth) / (uint64_t)c->sessions
                     + token_bytes_kv(&a->bytes, depth, a->kv_row_bytes, a->index_row_bytes);
    row->token_macs = a->bytes.matrix_macs;
    if (c->prompt || !c->gen) return;           /* a prompt's tokens share their reads */
    row->eff_gbs = row->tps.p50 * (double)row->token_bytes * 1e-9;
    if (row->read.max > 0) row->roofline = row->eff_gbs / row->read.max;
}

static void fill_samples(speed_row *row, double *x)
{
    double faults = 0, seconds = 0, tokens = 0, swapped = 0;
    for (int i = 0; i < row->n; i++) {
        const arm_sample *s = &row->samples[i];
        x[i] = row->rate[i];
        faults += (double)s->major_faults;
        swapped += (double)s->swapped_in;
        seconds += s->prompt_s + s->gen_s;
        tokens += s->prompt_tokens + s->gen_tokens;
        row->cached |= s->cached;
        if (s->rss > row->rss_peak) row->rss_peak = s->rss;
        if (s->device_used > row->device_peak) row->device_peak = s->device_used;
        if (s->others > row->others) row->others = s->others;
    }
    stats_of(x, row->n, &row->tps);
    const double deviation = stats_mean_deviation(row->rate, row->n, row->tps.p50);
    for (int i = 0; i < row->n; i++) row->outlier[i] = stats_outlier(&row->tps, deviation, row->rate[i]);
    row->faults_per_token = faults / tokens;
    row->swapin_mbs = seconds > 0 ? swapped / seconds * 1e-6 : 0;
}

static void fill_experts(speed_row *row)
{
    double hits = 0, wanted = 0, read = 0, wait = 0, tokens = 0, seconds = 0;
    for (int i = 0; i < row->n; i++) {
        const arm_sample *s = &row->samples[i];
        row->expert_slots = s->experts.slots;
        hits += (double)s->experts.hits;
        wanted += (double)(s->experts.hits + s->experts.misses);
        read += (double)s->experts.bytes_read;
        wait += (double)s->experts.wait_ns * 1e-9;
        tokens += s->prompt_tokens + s->gen_tokens;
        seconds += s->prompt_s + s->gen_s;
    }
    row->expert_hits = wanted > 0 ? hits / wanted : 0;
    row->expert_bytes = read / tokens;
    row->expert_wait = seconds > 0 ? wait / seconds : 0;
}

/* Without memory for the copy the row simply has none. */
static void keep_times(speed_row *row, const bench_arm *a)
{
    int n;
    const op_time *t = backend_times(a->engine->backend, &n);
    if (n && (row->times = malloc((size_t)n * sizeof *t))) {
        memcpy(row->times, t, (size_t)n * sizeof *t);
        row->n_times = n;
    }
}

static void conclude(speed_row *row, const bench_arm *a, double *gaps)
{
    double x[SPEED_CAP];
    row->end_unix = clock_unix_seconds();
    if (!row->n) return;
    fill_samples(row, x);
    if (row->cell.gen) fill_gaps(row, gaps, x);
    fill_bytes(row, a);
    fill_experts(row);
    keep_times(row, a);
    row->kv_bytes = arm_kv_bytes(a, row->cell.sessions);
}

/* ---- a cell --------------------------------------------------------------- */

static ds4_status row_open(speed_row *row, const bench_cell *c, int threads, int most, measuring *m, ds4_error *err)
{
    *row = (speed_row){ .cell = *c, .threads = threads, .others = -1, .start_unix = clock_unix_seconds() };
    row->samples = calloc((size_t)most, sizeof *row->samples);
    row->rate = calloc((size_t)most, sizeof *row->rate);
    row->outlier = calloc((size_t)most, sizeof *row->outlier);
    m->gaps = calloc((size_t)most, (size_t)max_int(c->gen, 1) * sizeof *m->gaps);
    if (row->samples && row->rate && row->outlier && m->gaps) return DS4_OK;
    return ds4_fail(err, DS4_EMEMORY, "no memory for %d samples", most);
}

void speed_row_free(speed_row *r)
{
    free(r->samples);
    free(r->rate);
    free(r->outlier);
    free(r->times);
    *r = (speed_row){ 0 };
}

/* With as many threads as the arm has, or of a device's own memory; without room there is no figure. */
static ds4_status read_speed(bench_arm *a, const speed_rules *rules, stats *out, ds4_error *err)
{
    backend *b = a->engine->backend;
    if (!b->read_speed)
        return read_speed_memory(read_speed_bytes(256u << 20, rules->last_level_bytes), a->threads, out, err);
    double gbs[READ_SPEED_REPEATS];
    const ds4_status st = b->read_speed(b, (uint64_t)4 << 30, gbs, READ_SPEED_REPEATS, err);
    if (!st) stats_of(gbs, READ_SPEED_REPEATS, out);
    return st == DS4_EMEMORY ? DS4_OK : st;
}

static ds4_status measure_arms(bench_arm *arms, int n_arms, const bench_cell *c, const speed_rules *rules,
                               speed_row *rows, measuring *m, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int k = 0; k < n_arms && !st; k++) st = warm_up(&arms[k], c, rules, &rows[k], &m[k], err);
    for (int k = 0; k < n_arms; k++) backend_times_clear(arms[k].engine->backend);
    bool more = true;
    for (int round = 0; more && !st; round++) {
        more = false;
        for (int i = 0; i < n_arms && !st; i++) {
            const int k = round % 2 ? n_arms - 1 - i : i;
            if (enough(&rows[k], rules, &m[k])) continue;
            st = repeat(&arms[k], c, rules, &rows[k], &m[k], err);
            more = true;
        }
    }
    /* Behind the passes: the memory this takes may push a model's pages out. */
    for (int k = 0; k < n_arms && !st; k++) st = read_speed(&arms[k], rules, &rows[k].read, err);
    return st;
}

ds4_status speed_measure(bench_arm *arms, int n_arms, const bench_cell *c, const speed_rules *rules,
                         speed_row *rows, ds4_error *err)
{
    measuring m[ARMS_MAX] = { 0 };
    const int most = rules->repetitions ? min_int(rules->repetitions, SPEED_CAP) : SPEED_MOST;
    ds4_status st = DS4_OK;
    for (int k = 0; k < n_arms; k++) rows[k] = (speed_row){ 0 };
    for (int k = 0; k < n_arms && !st; k++) st = row_open(&rows[k], c, arms[k].threads, most, &m[k], err);
    if (!st) st = measure_arms(arms, n_arms, c, rules, rows, m, err);
    for (int k = 0; k < n_arms; k++) {
        if (m[k].gaps) conclude(&rows[k], &arms[k], m[k].gaps);
        free(m[k].gaps);
    }
    return st;
}
