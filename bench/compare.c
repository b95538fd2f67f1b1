/* bench-compare: runs the rows of rows.c and prints the table.
 *
 *   bench-compare --drivers DIR -m FILE [--peer DIR] [--q4 FILE] [options] [ROW...]
 *
 * Every engine stays loaded between its measurements, and the arms of a row take
 * turns A B B A, so that whatever else the machine does meets both alike. */
#include "compare.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/cpus.h"
#include "base/file.h"
#include "base/options.h"
#include "limit.h"
#include "process.h"

enum { THREADS_MAX = 2 };

typedef struct {
    const char *drivers, *peer, *model, *q4, *json, *markdown, *peer_name, *commit;
    int         pairs;
    bool        no_check, help;
    option_list rows;

    process     running[2][THREADS_MAX];        /* [engine_kind][threads - 1] */
    file_kind   loaded;
    report_facts facts;
} bench;

static void stop_all(bench *b)
{
    for (int e = 0; e < 2; e++)
        for (int t = 0; t < THREADS_MAX; t++) process_stop(&b->running[e][t]);
}

/* The driver of an arm, started when it is first wanted. */
static ds4_status driver_for(bench *b, engine_kind engine, int threads, file_kind file, process **out, ds4_error *err)
{
    if (file != b->loaded) stop_all(b);         /* two files at once may not fit into memory */
    b->loaded = file;
    process *p = *out = &b->running[engine][threads - 1];
    if (p->pid) return DS4_OK;

    char program[4096], count[16];
    char *model = (char *)(file == FILE_Q4 ? b->q4 : b->model);
    snprintf(program, sizeof program, "%s/%s", b->drivers, engine == ENGINE_PEER ? "bench-llama" : "bench-ds4");
    snprintf(count, sizeof count, "%d", threads);
    char *ours[] = { program, model, count, NULL };
    char *theirs[] = { program, (char *)b->peer, model, count, NULL };
    const ds4_status st = process_start(p, engine == ENGINE_PEER ? theirs : ours, err);
    if (st) {
        process_stop(p);
        return st;
    }
    char build[64];
    process_text(p, "build", build, sizeof build);
    if (engine == ENGINE_PEER) snprintf(b->facts.peer, sizeof b->facts.peer, "%s, %s", b->peer_name, build);
    else if (threads == THREADS_MAX) snprintf(b->facts.ours, sizeof b->facts.ours, "%s", build);
    return DS4_OK;
}

static ds4_status measure(bench *b, const row *w, const arm *a, double *tps, ds4_error *err)
{
    process *p;
    ds4_status st = driver_for(b, a->engine, a->threads, w->file, &p, err);
    if (!st) st = process_ask(p, a->command, err);
    if (!st) *tps = process_number(p, "tps");
    return st;
}

/* Pages and threads awake; a short prefill does it for a long one. */
static ds4_status warm_up(bench *b, const row *w, const arm *a, ds4_error *err)
{
    arm warm = *a;
    double ignored;
    if (!strncmp(a->command, "pp ", 3)) warm.command = "pp 64";
    return measure(b, w, &warm, &ignored, err);
}

static ds4_status run_pairs(bench *b, result *r, bool paired, ds4_error *err)
{
    const row *w = r->row;
    fprintf(stderr, "  waking up, filling contexts\n");
    ds4_status st = warm_up(b, w, &w->a, err);
    if (!st && paired) st = warm_up(b, w, &w->b, err);
    for (r->n = 0; !st && r->n < b->pairs; ) {
        double a = 0, other = 0;
        const bool b_first = r->n % 2;
        if (paired && b_first) st = measure(b, w, &w->b, &other, err);
        if (!st) st = measure(b, w, &w->a, &a, err);
        if (!st && paired && !b_first) st = measure(b, w, &w->b, &other, err);
        if (st) break;

        r->a[r->n] = a;
        r->b[r->n] = other;
        r->ratio[r->n] = paired ? a / other : 0;
        r->n++;
        fprintf(stderr, "  %d of %d: %.2f", r->n, b->pairs, a);
        if (paired) fprintf(stderr, " against %.2f tokens/s, ratio %.2f", other, a / other);
        fputc('\n', stderr);
    }
    return st;
}

static void summarise(result *r, bool paired)
{
    double sorted[PAIRS_MAX];
    memcpy(sorted, r->a, sizeof sorted);
    stats_of(sorted, r->n, &r->a_stat);
    if (!paired) return;
    memcpy(sorted, r->b, sizeof sorted);
    stats_of(sorted, r->n, &r->b_stat);
    memcpy(sorted, r->ratio, sizeof sorted);
    stats_of(sorted, r->n, &r->ratio_stat);
}

/* The mean of before and after; a machine that changed in between shows in the samples. */
static void find_share(const bench *b, result *r, double before)
{
    const row *w = r->row;
    token_bytes t;
    ds4_error err;
    const double after = before > 0 ? limit_now(w->limit, w->a.threads) : 0;
    if (after <= 0 || limit_token(&t, w->file == FILE_Q4 ? b->q4 : b->model, &err)) return;
    r->limit = (before + after) / 2;
    r->share = limit_taken(w->limit, &t, r->a_stat.p50) / r->limit;
}

static ds4_status run_row(bench *b, result *r, ds4_error *err)
{
    const row *w = r->row;
    const bool paired = w->b.command && (w->b.engine == ENGINE_DS4 || b->peer);
    fprintf(stderr, "%s\n", w->title);

    int cpu[1024];
    const int n = cpus_allowed(cpu, 1024);
    const double limit = w->limit ? limit_now(w->limit, w->a.threads) : 0;
    const pid_t burner = w->busy && n ? process_burn(cpu[n - 1]) : 0;
    const ds4_status st = run_pairs(b, r, paired, err);
    process_kill(burner);
    if (st) return st;
    summarise(r, paired);
    find_share(b, r, limit);
    return DS4_OK;
}

/* ---- do both compute the same? -------------------------------------------- */

static ds4_status logits_of(bench *b, engine_kind engine, float **out, int *n, ds4_error *err)
{
    process *p;
    char path[] = "/tmp/ds4-bench-XXXXXX", command[512] = "", *text = NULL;
    size_t bytes_read = 0;
    ds4_status st = driver_for(b, engine, THREADS_MAX, FILE_Q2, &p, err);
    if (st) return st;
    const int fd = mkstemp(path);
    if (fd < 0) return DS4_EIO;
    close(fd);

    int at = snprintf(command, sizeof command, "logits %s", path);
    for (int i = 0; i < 24; i++) at += snprintf(command + at, sizeof command - (size_t)at, " %d", 20 + 13 * i);
    st = process_ask(p, command, err);
    if (!st) st = file_read_all(path, (size_t)1 << 24, &text, &bytes_read, err);
    unlink(path);
    *out = (float *)text;
    *n = (int)(bytes_read / sizeof **out);
    return st;
}

static double correlation(const float *x, const float *y, int n)
{
    double sx = 0, sy = 0, xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < n; i++) sx += x[i], sy += y[i];
    for (int i = 0; i < n; i++) {
        const double dx = x[i] - sx / n, dy = y[i] - sy / n;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xy / sqrt(xx * yy);
}

static int rank_of_best(const float *ours, const float *theirs, int n)
{
    int best = 0, rank = 1;
    for (int i = 1; i < n; i++)
        if (theirs[i] > theirs[best]) best = i;
    for (int i = 0; i < n; i++) rank += ours[i] > ours[best];
    return rank;
}

static ds4_status check_logits(bench *b, ds4_error *err)
{
    float *ours = NULL, *theirs = NULL;
    int n = 0, n_theirs = 0;
    fprintf(stderr, "logits of both engines\n");
    ds4_status st = logits_of(b, ENGINE_DS4, &ours, &n, err);
    if (!st) st = logits_of(b, ENGINE_PEER, &theirs, &n_theirs, err);
    if (!st && n == n_theirs) {
        b->facts.correlation = correlation(ours, theirs, n);
        b->facts.rank = rank_of_best(ours, theirs, n);
        fprintf(stderr, "  correlation %.4f, the peer's best token is our number %d of %d\n",
                b->facts.correlation, b->facts.rank, n);
    }
    free(ours);
    free(theirs);
    return st;
}

/* Another release of the peer may refuse the file; ours is measured all the same. */
static bool peer_answers(bench *b)
{
    ds4_error err;
    process *p;
    const ds4_status st = driver_for(b, ENGINE_PEER, THREADS_MAX, FILE_Q2, &p, &err);
    if (st) fprintf(stderr, "bench-compare: no peer: %s\n", err.message);
    return !st;
}

/* ---- the command line ------------------------------------------------------ */

static bool wanted(const bench *b, const row *w)
{
    if (w->file == FILE_Q4 && !b->q4) return false;
    if (!strcmp(w->key, "busy-peer") && !b->peer) return false;
    for (int i = 0; i < b->rows.n; i++)
        if (!strcmp(b->rows.items[i], w->key)) return true;
    return !b->rows.n;
}

/* A name that is no row's, or NULL. */
static const char *unknown_row(const bench *b)
{
    for (int i = 0; i < b->rows.n; i++) {
        const row *w = bench_rows;
        while (w->key && strcmp(w->key, b->rows.items[i])) w++;
        if (!w->key) return b->rows.items[i];
    }
    return NULL;
}

static bool write_text(const char *path, const bytes *text)
{
    ds4_error err;
    file_replace f;
    if (!path) return true;
    ds4_status st = file_replace_open(&f, path, true, &err);
    if (!st) st = file_write_all(f.fd, text->data, text->len, path, &err);
    if (!st) st = file_replace_commit(&f, &err);
    else file_replace_abort(&f);
    if (st) fprintf(stderr, "bench-compare: %s\n", err.message);
    return !st;
}

static const char *base_name(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "";
}

static int run(bench *b)
{
    static result results[ROWS_MAX];            /* too large for a stack of any size */
    ds4_error err = { 0 };
    int n = 0;
    ds4_status st = DS4_OK;
    if (b->peer && !peer_answers(b)) b->peer = NULL;
    if (b->peer && !b->no_check) st = check_logits(b, &err);
    for (const row *w = bench_rows; !st && w->key; w++) {
        if (!wanted(b, w)) continue;
        results[n].row = w;
        if (!(st = run_row(b, &results[n], &err))) n++;
    }
    stop_all(b);
    if (st) fprintf(stderr, "bench-compare: %s\n", err.message);
    if (!n) return 1;

    bytes text, json;
    bytes_init(&text, (size_t)1 << 20);
    bytes_init(&json, (size_t)1 << 20);
    report_table(results, n, &b->facts, &text);
    report_json(results, n, &b->facts, &json);
    fwrite(text.data, 1, text.len, stdout);
    const bool written = write_text(b->markdown, &text) && write_text(b->json, &json);
    bytes_free(&text);
    bytes_free(&json);
    return st || !written;
}

int main(int argc, char **argv)
{
    bench b = { .pairs = 5, .drivers = "build/release/bin", .peer_name = "llama.cpp", .commit = "unknown" };
    const option table[] = {
        { .topic = "measuring", .long_name = "model", .short_name = 'm', .kind = OPTION_TEXT, .target = &b.model,
          .value_name = "FILE", .help = "the model, q2 mix of the full shape" },
        { .long_name = "q4", .kind = OPTION_TEXT, .target = &b.q4, .value_name = "FILE",
          .help = "the same of the q4 mix, for the row q4" },
        { .long_name = "drivers", .kind = OPTION_TEXT, .target = &b.drivers, .value_name = "DIR",
          .help = "where bench-ds4 and bench-llama are" },
        { .long_name = "peer", .kind = OPTION_TEXT, .target = &b.peer, .value_name = "DIR",
          .help = "the peer's libraries; without them ds4 runs alone" },
        { .long_name = "peer-name", .kind = OPTION_TEXT, .target = &b.peer_name, .value_name = "TEXT",
          .help = "what the table calls the peer" },
        { .long_name = "pairs", .kind = OPTION_POSITIVE, .target = &b.pairs, .value_name = "N",
          .help = "alternating pairs a row (default 5, at most 32)" },
        { .long_name = "no-check", .kind = OPTION_FLAG, .target = &b.no_check, .help = "do not compare logits first" },
        { .topic = "results", .long_name = "json", .kind = OPTION_TEXT, .target = &b.json, .value_name = "FILE",
          .help = "all samples" },
        { .long_name = "md", .kind = OPTION_TEXT, .target = &b.markdown, .value_name = "FILE", .help = "the table" },
        { .long_name = "commit", .kind = OPTION_TEXT, .target = &b.commit, .value_name = "TEXT",
          .help = "build that is measured" },
        { .long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &b.help, .help = "this text" },
        { .long_name = NULL }
    };
    ds4_error err;
    if (options_parse(table, argc, argv, &b.rows, &err)) {
        fprintf(stderr, "bench-compare: %s\n", err.message);
        return 2;
    }
    if (b.help || !b.model || b.pairs > PAIRS_MAX) {
        bytes help;
        bytes_init(&help, 1 << 16);
        options_help(table, NULL, &help);
        fprintf(stderr, "usage: bench-compare -m FILE [options] [ROW...]\n\n%.*s", (int)help.len,
                (const char *)help.data);
        fprintf(stderr, "\nrows:\n");
        for (const row *w = bench_rows; w->key; w++) fprintf(stderr, "  %-12s %s\n", w->key, w->title);
        bytes_free(&help);
        return b.help ? 0 : 2;
    }
    const char *stranger = unknown_row(&b);
    if (stranger) {
        fprintf(stderr, "bench-compare: no row is called %s; --help lists them\n", stranger);
        return 2;
    }
    /* An interrupt ends the drivers; what was measured before it is still printed. */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    host_machine_read(&b.facts.machine, "");
    snprintf(b.facts.model, sizeof b.facts.model, "%s", base_name(b.model));
    snprintf(b.facts.q4, sizeof b.facts.q4, "%s", base_name(b.q4));
    snprintf(b.facts.commit, sizeof b.facts.commit, "%s", b.commit);
    const int status = run(&b);
    option_list_free(&b.rows);
    return status;
}
