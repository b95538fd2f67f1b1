/* compare: the table of measurements, taken in alternating pairs.
 *
 * An arm is one way to run one command: an engine, its threads, its file. A row
 * is an arm measured against another one, or alone. */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <stdbool.h>
#include "base/bytes.h"
#include "bench/stats.h"
#include "host/machine.h"

enum { ROWS_MAX = 16, PAIRS_MAX = 32 };

typedef enum { ENGINE_DS4, ENGINE_PEER } engine_kind;
typedef enum { FILE_Q2, FILE_Q4 } file_kind;

/* What the machine itself gives in the same minutes, measured before and after a row. */
typedef enum { LIMIT_NONE, LIMIT_READ /* bytes of a token, GB/s */, LIMIT_INT8 /* multiply-adds, G/s */ } limit_kind;

typedef struct {
    engine_kind engine;
    int         threads;
    const char *command;
} arm;

typedef struct {
    const char *key, *title;
    file_kind   file;
    arm         a, b;           /* b.command NULL: a is measured alone                */
    bool        busy;           /* while something else keeps one processor busy      */
    bool        ratio_only;     /* the bars below are for a/b, else for a and for a/b */
    double      reach, aim;             /* tokens/s, or a/b                           */
    double      reach_ratio, aim_ratio; /* a/b against a peer; 0: no bar              */
    limit_kind  limit;
    double      reach_share, aim_share; /* of the limit                               */
} row;

extern const row bench_rows[];          /* ends with key NULL */

typedef struct {
    const row *row;
    int        n;               /* pairs                                              */
    double     a[PAIRS_MAX], b[PAIRS_MAX], ratio[PAIRS_MAX];    /* in order of time   */
    stats      a_stat, b_stat, ratio_stat;
    double     limit, share;    /* the machine's figure, and arm a's part of it; 0: unknown */
} result;

typedef struct {
    host_machine machine;
    char model[128], q4[128];   /* file names                                         */
    char ours[96], peer[96];    /* kernels in use; peer empty: not there              */
    char commit[64];
    double correlation;         /* of the peer's logits with ours; 0: not compared    */
    int  rank;                  /* of the peer's best token in our logits, from 1     */
} report_facts;

void report_table(const result *r, int n, const report_facts *f, bytes *out);   /* Markdown */
void report_json(const result *r, int n, const report_facts *f, bytes *out);

#endif
