/* sweep_run: one text to growing contexts, a line of CSV as soon as it is measured. */
#include "run.h"

#include "base/checked.h"
#include "output.h"

/* With --csv the lines are kept for the file and shown as well. */
static exit_code put_line(bytes *all, size_t from, console *c)
{
    if (all->failed) {
        console_error(c, "no memory for the output");
        return CLI_FAILED;
    }
    const bytes line = { .data = all->data + from, .len = all->len - from };
    return output_standard(&line, c);
}

static exit_code walk(bench_run *r, const frontier_plan *p, bytes *csv)
{
    ds4_error err = { 0 };
    frontier_csv_head(csv);
    exit_code code = put_line(csv, 0, r->console);
    for (int from = 0, to = frontier_next(p, 0); to && !code; from = to, to = frontier_next(p, to)) {
        frontier_row row;
        const size_t at = csv->len;
        const ds4_status st = frontier_measure(&r->arm[0], p, from, to, &row, &err);
        console_progress_end(r->console);
        if (st) return run_failed(r, st, &err);
        frontier_csv_row(&row, csv);
        code = put_line(csv, at, r->console);
    }
    return code;
}

exit_code sweep_run(const bench_options *o, console *c)
{
    bench_run r;
    bytes csv;
    bytes_init(&csv, OUTPUT_MAX);
    exit_code code = run_open(&r, o, 1, o->frontier.max + o->frontier.gen, c);
    if (!code) {
        code = walk(&r, &o->frontier, &csv);
        const exit_code written = output_text(o->csv, &csv, c);
        if (!code) code = written;
    }
    run_close(&r);
    bytes_free(&csv);
    return code;
}
