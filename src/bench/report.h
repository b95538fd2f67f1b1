/* report: rows of `speed` as a table, CSV, Markdown and JSON records.
 *
 * Appends text to buffers; opens nothing. Any thread. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "base/bytes.h"
#include "base/json_writer.h"
#include "bench/speed.h"
#include "host/machine.h"

/* What holds for every row of a run and makes a record understandable alone. */
typedef struct {
    const char *build, *flags;              /* of the program                             */
    const char *command;                    /* as it was called                           */
    const char *model_path;
    ds4_shape   shape;
    uint64_t    model_bytes;
    double      load_s;                     /* until the first arm's engine was open      */
    char        model_types[256];           /* "Q8_0 301, IQ2_XXS 86": tensors of a type  */
    char        model_hash[20];             /* of the header and a sample of the data     */
    backend_device device;                  /* name "": computed in the host's memory     */
    const char *text;                       /* what was fed: a file, or "random tokens"   */
    bool        random_tokens;
    const char *fill;                       /* how depths were filled: "real" or "fast"   */
    const host_machine  *machine;
    const host_readings *readings;          /* limits, clock, heat, and what is missing   */
    double      dot_peak[ARMS_MAX];         /* G int8 multiply-adds/s of each arm's threads; 0: unknown */
    int         n_arms;
    bool        drifted;
    double      sentinel[3];                /* tokens/s at start, middle, end; 0: not run */
} report_context;

/* Reads names, types and samples of the engine's file. */
void report_describe_model(report_context *c, const bench_arm *a);

void report_table_head(bytes *out);
void report_table_row(const speed_row *r, bytes *out);
void report_table_notes(const speed_row *rows, int n, const report_context *c, bytes *out);

/* Where the time of a row's tokens went; nothing for a row that was not taken apart. */
void report_classes(const speed_row *r, const report_context *c, double dot_peak, bytes *out);

void report_csv(const speed_row *rows, int n, bytes *out);
void report_markdown(const speed_row *rows, int n, const report_context *c, bytes *out);

/* One record of docs/bench.md, without a newline behind it. */
void report_record(json_writer *w, const speed_row *r, const report_context *c);

/* Beyond this share of the machine used by others a row is marked. */
#define REPORT_LOAD 0.05

#endif
