/* cuda_step: what the parts of a step share. Private to cuda_step.c, cuda_tables.c, cuda_order.c and
 * cuda_record.c.
 *
 * A step is: tables of its rows to the device, its ops on three streams in an order that their declared
 * memory gives, all streams joined. A step of a shape that came before is one launch of a recording of
 * those ops, which can be run again because all that differs lies in the tables. */
#ifndef KERNELS_CUDA_CUDA_STEP_H
#define KERNELS_CUDA_CUDA_STEP_H

#include "kernels/cuda/cuda_internal.h"

/* Steps of more rows keep the card full with one op at a time. */
enum { CUDA_STEP_ROWS = 64 };

/* ---- tables of rows: cuda_tables.c -------------------------------------------------------- */

typedef struct {
    uint64_t pos, token, segment_of, segment, layer, blocks;    /* offsets */
    uint64_t bytes;
} table_layout;

typedef struct {
    gpu_ptr at;
    uint8_t *host;
    bool    under_way;          /* may still be read by a copy to the device */
} table_copy;

typedef struct {
    gpu_ptr      store;
    table_copy   copy[2];       /* pinned, taken in turns */
    int          turn, blocks_each;
    table_layout layout;        /* of the rows that are in the store */
    const batch_rows *rows;     /* those, within a step; else NULL    */
} cuda_tables;

uint64_t   tables_bytes(const backend_limits *l);
ds4_status tables_open(cuda_backend *b, cuda_tables *t, ds4_error *err);
void       tables_close(cuda_backend *b, cuda_tables *t);
/* Rows and layers first..end-1 of their sessions, on GPU_MAIN. */
ds4_status tables_fill(cuda_backend *b, cuda_tables *t, const batch_rows *rows, int first, int end, ds4_error *err);

/* ---- order of ops: cuda_order.c ------------------------------------------------------------ *
 * Ops of a stream are numbered from 1. Each stream remembers its latest ops, and an event for each. */

enum { ORDER_RANGES = 32, ORDER_MAIN_OPS = 32, ORDER_SIDE_OPS = 8, ORDER_OPS = CUDA_OP_EVENTS };

typedef struct { uint64_t first, end; bool writes; } order_range;

typedef struct {
    uint64_t    over[GPU_COMPUTE_STREAMS];  /* of each stream: its latest op that is over when this one is */
    int         n;
    bool        everything;                 /* more ranges than can be told apart, or not declared */
    order_range range[ORDER_RANGES];
} order_op;

typedef struct {
    bool     on;                            /* else all ops follow each other on GPU_MAIN */
    bool     open, placed;                  /* an op is under way; it has its stream      */
    bool     failed;                        /* an op of this step failed                  */
    ds4_status late;                        /* a declaration's own error, for cuda_done   */
    ds4_error  late_error;
    int      stream, pieces;                /* of the op under way: where, launches and copies */
    uint64_t latest[GPU_COMPUTE_STREAMS];
    uint64_t forgotten[GPU_COMPUTE_STREAMS];/* ops up to here are not told apart          */
    uint64_t over[GPU_COMPUTE_STREAMS][GPU_COMPUTE_STREAMS];    /* what each stream's next op comes after */
    uint64_t used[GPU_COMPUTE_STREAMS], clock;                  /* when each stream was last chosen */
    order_op now;
    order_op ops[ORDER_OPS];
} cuda_order;

/* What has been put on GPU_MAIN so far is before every op of the step. */
ds4_status order_begin(cuda_backend *b, bool on, ds4_error *err);
/* GPU_MAIN comes after every op of the step. */
ds4_status order_end(cuda_backend *b, ds4_error *err);
/* The stream for work of the op under way; its waits have been put there. */
ds4_status order_place(cuda_backend *b, int *stream, ds4_error *err);

/* ---- recordings: cuda_record.c -------------------------------------------------------------- */

enum { RECORDINGS = 64 };

/* One launch or copy, as it was recorded: where it went and what it was given. */
typedef struct {
    int      kernel;            /* of kernels.h; -1: a copy */
    uint64_t hash;
} record_note;

typedef struct {
    int          rows;          /* 0: unused. Each of a session of its own, all with logits */
    bool         selects;
    int          failures;      /* to make it, or to run it          */
    gpu_graph   *graph;         /* NULL: the shape was seen once     */
    uint64_t     used;
    record_note *note;          /* owned */
    int          n_notes, cap_notes;
} recording;

typedef struct {
    bool       unsupported;     /* the device has no graphs, or none that run; or it is treated with care */
    bool       kept;            /* some recording has run                          */
    bool       check;           /* run plainly what was recorded and compare       */
    bool       checking;        /* this step is                                    */
    recording *now;             /* being made or checked; else NULL                */
    int        n_checked;
    bool       differs;
    uint64_t   clock;
    recording  all[RECORDINGS];
} cuda_records;

/* Runs the shape's recording (*done), or begins one, or does neither. */
ds4_status records_begin(cuda_backend *b, const step_shape *s, bool *done, ds4_error *err);
/* Ends what begin began, after order_end. *again: nothing has been done, and the step is to be begun once more. */
ds4_status records_end(cuda_backend *b, bool complete, bool *again, ds4_error *err);
void       records_close(cuda_backend *b, cuda_records *r);
/* A launch of this step. */
ds4_status records_note(cuda_backend *b, int kernel, int stream, const void *what, size_t n, const void *args,
                        size_t args_n, ds4_error *err);

/* A sentence for a user, where somebody listens. */
void       cuda_warn(const cuda_backend *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct cuda_step {
    cuda_tables  tables;
    cuda_order   order;
    cuda_records records;
};

#endif
