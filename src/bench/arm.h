/* arm: one engine with its sessions, made to run a cell once.
 *
 * Sessions are brought to the cell's depth by real tokens, or by copies of their
 * rows where that is asked for, and marked there, so that a repetition begins with
 * a rewind instead of the whole way. Filling and
 * rewinding are never part of a measured time. Owns engine and sessions; engine
 * thread only. */
#ifndef BENCH_ARM_H
#define BENCH_ARM_H

#include <stdbool.h>
#include "bench/cells.h"
#include "bench/token_bytes.h"
#include "ds4.h"
#include "host/usage.h"
#include "kernels/backend.h"

typedef struct {
    ds4_engine   *engine;
    ds4_shape     shape;
    double        load_s;       /* ds4_engine_open                            */
    int           threads;
    token_bytes   bytes;
    int           kv_row_bytes, index_row_bytes;

    ds4_session **session;      /* [n_sessions], then the sentinel's          */
    int          *depth;        /* [n_sessions] where the session has a mark  */
    ds4_token    *next;         /* [n_sessions] token to decode               */
    int           n_sessions;
    ds4_batch    *batch;
    ds4_sampler  *likeliest;    /* takes the best token that does not end the text */
    const ds4_token *text;      /* borrowed; read in a circle                 */
    int           n_text;
    ds4_token    *piece;        /* [max_tokens] what is fed                   */
    bool          fill_fast;    /* depths are computed only in part (stretch.h)      */
    /* Told the tokens done while a depth is filled; false stops. May be NULL. */
    bool        (*on_fill)(void *ctx, int done, int total);
    void         *on_fill_ctx;
} bench_arm;

typedef struct {
    int      prompt_tokens, gen_tokens;     /* of all sessions together          */
    double   prompt_s, gen_s;
    double   first_s;                       /* the first decoding step           */
    uint64_t major_faults, swapped_in;
    uint64_t rss;                           /* after the pass                            */
    uint64_t device_used;                   /* of its memory, by all; 0: the memory is the host's */
    double   others;                        /* share of the machine, -1: unknown */
    ds4_expert_metrics experts;             /* of this pass; slots 0: all are mapped     */
    bool     cached;                        /* the engine computed fewer tokens than it was given */
} arm_sample;

enum { SENTINEL_TOKENS = 4 };

/* o: threads, backend and the like; sessions, tokens and rewind points are set
 * here. text stays the caller's. Closing a failed or zeroed arm is fine. */
ds4_status arm_open(bench_arm *a, const ds4_engine_options *o, int n_sessions, int max_tokens,
                    ds4_error *err);
void       arm_close(bench_arm *a);

/* text must be set before the first run. */
void       arm_set_text(bench_arm *a, const ds4_token *text, int n);

/* gaps: [cell.gen] seconds of each decoding step; NULL: not wanted. */
ds4_status arm_run(bench_arm *a, const bench_cell *c, arm_sample *out, double *gaps, ds4_error *err);

/* One step of a sweep: session 0, which stands at `from`, is fed to `to` (timed),
 * then decodes gen tokens (timed) and is taken back to `to`. From 0 it starts anew. */
ds4_status arm_walk(bench_arm *a, int from, int to, int gen, arm_sample *out, ds4_error *err);

/* A short decode that is always the same: tokens per second. Leaves the depths
 * of the other sessions alone. */
ds4_status arm_sentinel(bench_arm *a, double *rate, ds4_error *err);

/* The device that it computes on, as it is now; false: it computes in the host's memory. */
bool       arm_device(const bench_arm *a, backend_device *out);

/* Bytes of all sessions of the cell that ran last. */
uint64_t   arm_kv_bytes(const bench_arm *a, int n_sessions);

#endif
