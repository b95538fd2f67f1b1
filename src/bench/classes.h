/* classes: where the time of a token goes, by kind of matrix and of work.
 *
 * Sums of what a time: backend counted. Time between ops, sampling and the like are
 * the difference to the measured whole and have a line of their own. */
#ifndef BENCH_CLASSES_H
#define BENCH_CLASSES_H

#include "base/bytes.h"
#include "base/json_writer.h"
#include "kernels/backend.h"

typedef struct {
    const op_time *time;        /* [n] borrowed                                   */
    int            n;
    int            tokens;      /* that they were spent on                        */
    double         seconds;     /* the measured whole                             */
    double         read_gbs;    /* of memory with as many threads; 0: unknown     */
    double         dot_peak;    /* G int8 multiply-adds/s; 0: unknown             */
} class_times;

void   classes_table(const class_times *t, bytes *out);
void   classes_json(const class_times *t, json_writer *w);

/* Distinct routed experts that a layer's call read, on average; 0: no calls. */
double classes_experts(const class_times *t);

/* "attention projections"; of a stage that a backend replaced, what it is mostly. */
const char *class_of_op(const char *op, const char *name);

#endif
