/* backend: where data lives and who computes on it.
 *
 * Owns the device memory it hands out. Engine thread only. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stddef.h>
#include "kernels/ops.h"

typedef struct backend backend;

/* The largest sizes any op of a step will have; scratch is taken at open. */
typedef struct {
    int max_rows;               /* T                                              */
    int max_cols;               /* widest input of a matrix product               */
    int max_pairs;              /* T * experts used                               */
    int max_expert_width;       /* F                                              */
    int n_experts;
    int max_head_width;         /* K                                              */
    int index_heads;            /* of the indexer                                 */
    int index_width;
    int index_top_k;            /* most rows that top_k chooses                   */
    int score_rows;             /* rows of a step that it chooses for at once     */
    int n_layer, max_segments;  /* sessions of a step                             */
    int max_tokens;             /* of one session                                 */
    int n_streams;              /* S                                              */
    int n_heads;                /* H                                              */
    int n_vocab;                /* V                                              */
    int block_tokens;           /* tokens that a block of compressed rows covers  */
} backend_limits;

/* What a tensor is for. */
typedef enum {
    WEIGHT_VECTOR,              /* read whole as floats or integers: norms, biases, small matrices */
    WEIGHT_ROWS,                /* single rows are decoded: the embedding, hash tables             */
    WEIGHT_MATRIX,              /* multiplied                                                      */
    WEIGHT_EXPERTS              /* the same, a stack of them                                       */
} weight_use;

/* What decides which ops a pass over these rows will call, and with which sizes. */
typedef struct {
    const batch_rows *rows;
    const int32_t    *logits_rows;      /* [n_logits] ascending                               */
    int               n_logits;         /* 0 also where the head's ops follow outside          */
    bool              selects;          /* some row sees more compressed rows than top-k      */
} step_shape;

/* Rows in a backend's memory, and their place in the host's, where they lie one after another. */
typedef struct {
    view  at;
    void *host;                 /* only read when it goes to the device */
} move_piece;

/* The device of a backend that has memory of its own. */
typedef struct {
    char     name[96];          /* "NVIDIA H200"                                              */
    uint64_t available, total;  /* bytes that can be had now, and of the whole device         */
    bool     unified;           /* it is the host's memory                                    */
} backend_device;

/* Reads of routed experts by decode steps since the backend was opened, where some lie in host memory. */
typedef struct {
    uint64_t hits, misses;      /* on the device, and over the bus     */
    uint64_t bus_bytes;         /* what kernels read over the bus      */
    uint64_t exchanges;         /* experts that changed places         */
} backend_expert_counts;

struct backend {
    char    name[64];           /* "cpu (avx512, 2 threads)" */
    ops     ops;
    queue   queue;
    /* A new buffer, cleared, committed lazily where the system can. */
    ds4_status (*buf_alloc)(backend *b, uint64_t bytes, buf **out, ds4_error *err);
    /* A buffer over host memory that outlives it (weights in a file mapping). */
    ds4_status (*buf_map)(backend *b, const void *host, uint64_t bytes, buf **out, ds4_error *err);
    void       (*buf_free)(backend *b, buf *m);
    ds4_status (*upload)(backend *b, view to, const void *from, ds4_error *err);     /* dense rows */
    ds4_status (*download)(backend *b, void *to, view from, ds4_error *err);
    /* Uploads or downloads all of them at once. Any thread, for rows that no step under way touches. */
    ds4_status (*move)(backend *b, bool to_device, const move_piece *pieces, int n, ds4_error *err);
    /* Of one shape; takes an op's place in the queue. */
    ds4_status (*copy)(backend *b, view to, view from, ds4_error *err);
    ds4_status (*wait)(backend *b, ds4_error *err);     /* until all submitted ops are done */
    void       (*close)(backend *b);

    /* The rest is NULL for backends whose memory is the host's. */

    /* Takes a weight into device memory: *w, a view of a file's mapping, becomes one with the same shape,
     * type and stride in a buffer of its own (buf_free). rows_each: rows of one expert's matrix. */
    ds4_status (*adopt)(backend *b, view *w, weight_use use, int64_t rows_each, ds4_error *err);
    /* Around the ops of a pass. *done: the backend has run them all itself, from a recording of an
     * earlier pass of this shape. step_end is called after a failed op too, with complete false.
     * *again: a recording was begun that can not be kept, so nothing has been computed, whatever an op
     * said; begin once more. */
    ds4_status (*step_begin)(backend *b, const step_shape *s, bool *done, ds4_error *err);
    ds4_status (*step_end)(backend *b, bool complete, bool *again, ds4_error *err);
    /* Brings the host's copy of these rows up to date; only with backend_options.mirrored. */
    ds4_status (*mirror)(backend *b, view v, ds4_error *err);
    /* The device as it is now. */
    ds4_status (*device_now)(backend *b, backend_device *out, ds4_error *err);
    /* gbs[n]: 10^9 bytes a second at which the device reads memory of its own, `bytes` of it or as much as little
     * room allows, many times over; between steps. DS4_EMEMORY: the room is so little that caches would be measured. */
    ds4_status (*read_speed)(backend *b, uint64_t bytes, double *gbs, int n, ds4_error *err);
    /* All 0 where every expert lies on the device. */
    backend_expert_counts (*expert_counts)(const backend *b);
};

typedef struct {
    const char    *name;        /* "auto" "cpu" "cuda" "check:cuda" "trace:cpu" "time:cpu" */
    int            n_threads;   /* 0: pool_default_threads                           */
    uint32_t       isa_mask;    /* CPU: instruction sets that may be used            */
    bool           exact;       /* float activations in every matrix product         */
    bool           mirrored;    /* device memory has a copy in the host's (buf.host), so that check:,
                                   trace: and time: can look at it                   */
    int            device;      /* which one of several                              */
    bool           careful;     /* a device is given one op after another, and no recordings: it was lost before */
    uint64_t       expert_bytes;/* device memory for routed experts; the others stay in host
                                   memory; 0: room for all                           */
    backend_limits limits;
    void         (*line)(void *ctx, const char *line);  /* check: differences, trace: ops */
    void          *line_ctx;
    void         (*warn)(void *ctx, const char *line);  /* what a device does not do as it should, and is done otherwise */
    void          *warn_ctx;
} backend_options;

/* DS4_EUNSUPPORTED names the backends that exist. For a trace: backend the options
 * must outlive it. */
ds4_status backend_open(backend **out, const backend_options *o, ds4_error *err);
bool       backend_exists(const char *name);

/* Whether backends of this name compute on one ("cuda", "check:cuda"). */
bool       backend_has_device(const char *name);
/* o->name and o->device. DS4_EUNSUPPORTED: not built into this program; DS4_ENOTFOUND: no driver, or no such
 * device; DS4_EDEVICE: it can not be used. */
ds4_status backend_device_probe(backend_device *out, const backend_options *o, ds4_error *err);

/* The architectures that this program has CUDA kernels for, "80 90a ptx120"; "" where it was built without. */
const char *backend_cuda_archs(void);

/* Bytes of scratch that backend_open takes for these options. */
uint64_t   backend_scratch_bytes(const backend_options *o);

ds4_status backend_cpu_open(backend **out, const backend_options *o, ds4_error *err);
ds4_status backend_cuda_open(backend **out, const backend_options *o, ds4_error *err);
ds4_status backend_cuda_probe(backend_device *out, const backend_options *o, ds4_error *err);
uint64_t   backend_cpu_scratch_bytes(const backend_options *o);
uint64_t   backend_cuda_scratch_bytes(const backend_options *o);

/* Runs `inner` and the scalar definitions side by side, op by op; a difference
 * above tolerance is an error that names op, layer and element. Takes `inner`
 * (also when it fails). */
ds4_status backend_check_open(backend **out, backend *inner, const backend_options *o, ds4_error *err);

/* Tells a listener of every op's results. Takes `inner` (also when it fails). */
typedef void backend_tap(void *ctx, const char *op, const char *name, int layer,
                         const char *result, view v);
ds4_status backend_trace_open(backend **out, backend *inner, backend_tap *tap, void *ctx, ds4_error *err);

/* Adds up time and cost of every kind of op. Takes `inner` (also when it fails). */
ds4_status backend_time_open(backend **out, backend *inner, ds4_error *err);

typedef struct {
    const char *op, *name;      /* "matmul" "attn_q_b"; name may be ""                */
    uint64_t    calls, ns;
    uint64_t    read_bytes;     /* weights and session memory, as op_cost.h counts    */
    uint64_t    macs;           /* multiply-adds of dot products                      */
    uint64_t    experts;        /* distinct routed experts, summed over calls         */
} op_time;

/* In order of first appearance, good until the next step or clear; NULL and 0 for
 * a backend that is not a time: one. */
const op_time *backend_times(const backend *b, int *n);
void           backend_times_clear(backend *b);

/* ops_run's common ending: keeps the sentence where the queue's owner finds it. */
ds4_status queue_fail(queue *dev, ds4_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
