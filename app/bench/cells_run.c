/* cells_run: `ds4-bench speed`: cells one after the other, then every output. */
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "output.h"

#define DRIFT 0.03              /* of the sentinel, beyond which rows are marked */

typedef struct {
    bench_run  run;
    bench_cell cell[CELLS_MAX];
    int        n_cells;
    speed_row *rows;            /* [n_cells * n_arms], cell by cell */
    int        n_rows;
} cells_job;

static void on_pass(void *ctx, const bench_cell *c, int threads, int repetition)
{
    char name[CELL_NAME_BYTES];
    cell_name(c, name);
    if (repetition) console_detail(ctx, "%s, %d threads: pass %d", name, threads, repetition);
    else            console_detail(ctx, "%s, %d threads: warm-up", name, threads);
}

static void show_row(const speed_row *r, console *c)
{
    bytes line;
    bytes_init(&line, 1024);
    report_table_row(r, &line);
    if (line.data && line.len) console_note(c, "%.*s", (int)line.len - 1, line.data);
    bytes_free(&line);
}

static ds4_status sentinel(cells_job *j, int when, ds4_error *err)
{
    return arm_sentinel(&j->run.arm[0], &j->run.context.sentinel[when], err);
}

static ds4_status measure(cells_job *j, ds4_error *err)
{
    speed_rules rules = j->run.options->rules;
    rules.on_pass = on_pass;
    rules.ctx = j->run.console;
    rules.last_level_bytes = j->run.machine.l3_bytes;
    const int n_arms = j->run.n_arms;
    ds4_status st = sentinel(j, 0, err);
    for (int i = 0; i < j->n_cells && !st; i++) {
        speed_row *rows = j->rows + i * n_arms;
        if (i == j->n_cells / 2 && i > 0) st = sentinel(j, 1, err);
        if (!st) {
            st = speed_measure(j->run.arm, n_arms, &j->cell[i], &rules, rows, err);
            j->n_rows += n_arms;
        }
        for (int k = 0; k < n_arms && j->n_rows > i * n_arms; k++) show_row(&rows[k], j->run.console);
    }
    return st ? st : sentinel(j, 2, err);
}

/* A machine that changed under way makes every row of the run doubtful. */
static void mark_drift(cells_job *j)
{
    report_context *c = &j->run.context;
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < countof(c->sentinel); i++) {
        if (c->sentinel[i] <= 0) continue;
        low = fmin(low, c->sentinel[i]);
        high = fmax(high, c->sentinel[i]);
    }
    c->drifted = high > low * (1 + DRIFT);
    for (int i = 0; i < j->n_rows; i++) j->rows[i].drift = c->drifted;
}

static void warn_of_load(const cells_job *j)
{
    double most = 0;
    for (int i = 0; i < j->n_rows; i++) most = fmax(most, j->rows[i].others);
    if (most > REPORT_LOAD)
        console_warning(j->run.console, "other programs used up to %.0f %% of the processors: the figures are too low",
                        100 * most);
}

/* ---- output ----------------------------------------------------------------- */

static void put_table(const cells_job *j, bytes *out)
{
    report_table_head(out);
    for (int i = 0; i < j->n_rows; i++) report_table_row(&j->rows[i], out);
    report_table_notes(j->rows, j->n_rows, &j->run.context, out);
    for (int i = 0; i < j->n_rows && j->run.options->classes; i++)
        report_classes(&j->rows[i], &j->run.context, j->run.dot_peak[i % j->run.n_arms], out);
}

/* One array, or a line for each. */
static void put_records(const cells_job *j, bool lines, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    if (!lines) json_array(&w);
    for (int i = 0; i < j->n_rows; i++) {
        if (!j->rows[i].n) continue;
        if (lines) json_init(&w, out);
        report_record(&w, &j->rows[i], &j->run.context);
        if (lines) bytes_char(out, '\n');
    }
    if (!lines) {
        json_array_end(&w);
        bytes_char(out, '\n');
    }
}

static bool is_standard(const char *path) { return path && strcmp(path, "-") == 0; }

static exit_code write_outputs(const cells_job *j)
{
    const bench_options *o = j->run.options;
    console *c = j->run.console;
    bytes table, json, jsonl, csv, md;
    bytes *const all[] = { &table, &json, &jsonl, &csv, &md };
    for (size_t i = 0; i < countof(all); i++) bytes_init(all[i], OUTPUT_MAX);
    put_table(j, &table);
    if (o->json)  put_records(j, false, &json);
    if (o->jsonl) put_records(j, true, &jsonl);
    if (o->csv)   report_csv(j->rows, j->n_rows, &csv);
    if (o->md)    report_markdown(j->rows, j->n_rows, &j->run.context, &md);

    const bool quiet = is_standard(o->json) || is_standard(o->jsonl) || is_standard(o->csv) || is_standard(o->md);
    exit_code code = quiet ? CLI_OK : output_standard(&table, c);
    const struct { const char *path; const bytes *text; } files[] = {
        { o->json, &json }, { o->jsonl, &jsonl }, { o->csv, &csv }, { o->md, &md },
    };
    for (size_t i = 0; i < countof(files); i++) {
        const exit_code written = output_text(files[i].path, files[i].text, c);
        if (!code) code = written;
    }
    for (size_t i = 0; i < countof(all); i++) bytes_free(all[i]);
    return code;
}

/* ---- the job ------------------------------------------------------------------ */

/* Default depths that this machine or model has no room for are left out, aloud. */
static void drop_what_does_not_fit(cells_job *j, const bench_options *o, console *c)
{
    ds4_plan plan;
    model_path path;
    if (!o->default_cells || o->depth_text) return;
    if (model_path_find(&path, o->model, o->model_from_env, NULL)) return;
    ds4_engine_options e = ds4_engine_defaults();
    e.model_path = path.path;
    e.backend = o->backend;
    e.device = o->device;
    for (int i = 0; i < j->n_cells; i++) e.max_sessions = max_int(e.max_sessions, j->cell[i].sessions + 1);
    if (ds4_engine_plan(&e, &plan, NULL)) return;
    int kept = 0;
    for (int i = 0; i < j->n_cells; i++) {
        char name[CELL_NAME_BYTES];
        cell_name(&j->cell[i], name);
        if (cell_tokens(&j->cell[i]) <= plan.max_tokens_that_fit) j->cell[kept++] = j->cell[i];
        else console_note(c, "%s is left out: there is memory for %d tokens", name, plan.max_tokens_that_fit);
    }
    j->n_cells = kept;
}

/* The same for depths that the model was never made for. */
static void drop_what_is_too_long(cells_job *j)
{
    const bench_options *o = j->run.options;
    const int longest = j->run.context.shape.n_ctx_train;
    if (!o->default_cells || o->depth_text) return;
    int kept = 0;
    for (int i = 0; i < j->n_cells; i++) {
        char name[CELL_NAME_BYTES];
        cell_name(&j->cell[i], name);
        if (cell_tokens(&j->cell[i]) <= longest) j->cell[kept++] = j->cell[i];
        else console_note(j->run.console, "%s is left out: the model was made for %d tokens", name, longest);
    }
    j->n_cells = kept;
}

static exit_code measure_and_write(cells_job *j)
{
    ds4_error err = { 0 };
    j->rows = calloc((size_t)(j->n_cells * j->run.n_arms) + 1, sizeof *j->rows);
    if (!j->rows) {
        console_error(j->run.console, "no memory for %d rows", j->n_cells * j->run.n_arms);
        return CLI_FAILED;
    }
    const ds4_status st = measure(j, &err);
    console_progress_end(j->run.console);
    mark_drift(j);
    warn_of_load(j);
    const exit_code failed = st ? run_failed(&j->run, st, &err) : CLI_OK;
    const exit_code written = write_outputs(j);     /* what there is, also after a failure */
    for (int i = 0; i < j->n_cells * j->run.n_arms; i++) speed_row_free(&j->rows[i]);
    free(j->rows);
    return failed ? failed : written;
}

exit_code cells_run(const bench_options *o, int argc, char **argv, console *c)
{
    cells_job *j = calloc(1, sizeof *j);
    ds4_error err = { 0 };
    exit_code code = CLI_OK;
    int sessions = 1, tokens = 1;
    if (!j) {
        console_error(c, "no memory");
        return CLI_FAILED;
    }
    if (cells_make(&o->lists, j->cell, &j->n_cells, &err)) {
        console_error(c, "%s", err.message);
        free(j);
        return CLI_USAGE;
    }
    drop_what_does_not_fit(j, o, c);
    for (int i = 0; i < j->n_cells; i++) {
        sessions = max_int(sessions, j->cell[i].sessions);
        tokens = max_int(tokens, cell_tokens(&j->cell[i]));
    }
    code = run_open(&j->run, o, sessions, tokens, c);
    run_note_command(&j->run, argc, argv);
    if (!code) drop_what_is_too_long(j);
    if (!code) code = measure_and_write(j);
    run_close(&j->run);
    free(j);
    return code;
}
