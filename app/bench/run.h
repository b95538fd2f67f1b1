/* run: an engine per thread count, open on one model, with the text to feed. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "bench/report.h"
#include "options.h"
#include "../cli/exit_code.h"
#include "../cli/model_path.h"
#include "../console.h"

typedef struct {
    const bench_options *options;
    console       *console;
    model_path     path;
    bench_arm      arm[ARMS_MAX];
    int            n_arms;
    ds4_token     *text;                    /* owned */
    int            n_text;
    char           text_name[160];
    host_machine   machine;
    host_readings  readings;
    double         dot_peak[ARMS_MAX];      /* G int8 multiply-adds/s with an arm's threads */
    report_context context;
    char           command[512];
    char           backend[64];             /* with time: in front where it is taken apart */
} bench_run;

/* Finds the model, opens the arms for sessions of max_tokens, reads the text. On
 * failure the reason has been printed; close it in any case. */
exit_code run_open(bench_run *r, const bench_options *o, int n_sessions, int max_tokens, console *c);
void      run_close(bench_run *r);

/* What a failed measurement means; prints the sentence. */
exit_code run_failed(bench_run *r, ds4_status st, const ds4_error *err);

/* argv as one line, for the records. */
void      run_note_command(bench_run *r, int argc, char **argv);

exit_code cells_run(const bench_options *o, int argc, char **argv, console *c);
exit_code sweep_run(const bench_options *o, console *c);

#endif
