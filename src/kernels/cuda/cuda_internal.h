/* cuda_internal: what the files of the CUDA backend share. Private to them.
 *
 * The backend is plain C over device.h; kernels are named by id. One file per family of
 * ops holds the functions that turn an op's arguments into launches, its scratch and its
 * part of the table. An op reads like this:
 *
 *     cuda_op(b);                                  begins; nothing declared yet
 *     cuda_reads(b, a->x);                         every range it reads or writes, so that the
 *     cuda_writes(b, a->y);                        backend knows what may run beside it
 *     st = CUDA_LAUNCH(dev, rms_norm, cuda_grid(n, 1, 1), 256, 0, args);
 *     return cuda_done(dev, st);
 *
 * Streams, events and recordings are the business of cuda_step.c alone. */
#ifndef KERNELS_CUDA_INTERNAL_H
#define KERNELS_CUDA_INTERNAL_H

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/planes.h"

/* A buffer on the device, or a weight that was adopted. */
typedef struct {
    buf        base;            /* host: the mirror, or the mapping that a weight came from */
    gpu_ptr    at;
    gpu_memory kind;
    bool       owns_host;       /* base.host is a mirror of ours                          */
    bool       planes;          /* a weight cut into planes: offsets of views are the file's */
    int64_t    rows_each;       /* rows of one matrix; fewer than all in a stack          */
    gpu_ptr    table;           /* stacks: gpu_ptr[n] of the experts' matrices            */
    int        stack;           /* 1 + its number among stacks in parts (cuda_residency.c); 0: none */
} cuda_buf;

/* Scratch and private state of one family. */
typedef enum {
    CUDA_FAMILY_ROWS, CUDA_FAMILY_MATMUL, CUDA_FAMILY_PREFILL, CUDA_FAMILY_EXPERTS, CUDA_FAMILY_KV,
    CUDA_FAMILY_INDEXER, CUDA_FAMILY_ATTENTION, CUDA_FAMILY_HEAD, CUDA_FAMILIES
} cuda_family;

/* Rows in codes, kept for the ops that read the same rows next (cuda_codes.c). */
enum { CUDA_CODES_SETS = 3 };
typedef struct {
    gpu_ptr at;                 /* the rows; 0: nothing is kept */
    int64_t stride;
    int32_t rows, cols;
    bool    super;              /* rounded by 256               */
} cuda_codes_set;
typedef struct {
    cuda_codes_set set[CUDA_CODES_SETS];
    int            next;        /* that is made anew next       */
    bool           on;          /* within a step                */
} cuda_codes_kept;

/* An expansion of hyper-connections that waits for the op behind it (cuda_rows.c): the mix of the same streams
 * does both in one launch, any other op has it launched before. Only within a step. */
typedef struct {
    bool waits;
    view y, streams, post, comb;
    int  n_streams;
} cuda_expansion;

typedef struct cuda_step cuda_step;             /* cuda_step.c: tables of rows, streams, recordings */
typedef struct cuda_residency cuda_residency;   /* cuda_residency.h: which experts are on the card  */

typedef struct {
    backend         base;
    gpu_device     *device;     /* owned */
    backend_options o;          /* name and line are not kept */
    gpu_ptr         scratch[CUDA_FAMILIES];     /* each at a multiple of 256 bytes */
    gpu_ptr         scratch_store;
    cuda_codes_kept codes;
    cuda_expansion  expansion;
    cuda_step      *step;
    cuda_residency *residency;
} cuda_backend;

static inline cuda_backend *cuda_of(queue *dev) { return (cuda_backend *)dev->backend; }
static inline cuda_buf     *cuda_buf_of(view v) { return (cuda_buf *)v.buf; }

/* The backend over an open device, which it takes also when it fails: backend_cuda_open opens the
 * driver's, tests one of their own. */
ds4_status cuda_open_on(backend **out, gpu_device *d, const backend_options *o, ds4_error *err);

/* ---- addresses ------------------------------------------------------------------------ */

gpu_ptr    cuda_at(view v);                     /* of row 0; plain rows only */
gpu_rows   cuda_rows(view v);                   /* stride in elements; an absent view has at 0 */
gpu_weight cuda_weight(view v);                 /* of an adopted matrix or some of its rows */
gpu_experts cuda_experts(view v);               /* of an adopted stack */
gpu_rope   cuda_rope(rope r, bool inverse);
gpu_kv_row cuda_kv_row(kv_row r);

/* Events of the device by number: 0..CUDA_OP_EVENTS-1 are those of ops (cuda_order.c). */
enum { CUDA_OP_EVENTS = 48, CUDA_EVENT_RESIDENCY = CUDA_OP_EVENTS /* and the rest: cuda_weights.c */ };

/* ---- ops: cuda_step.c ------------------------------------------------------------------ */

typedef struct { unsigned x, y, z; } cuda_dim;
static inline cuda_dim cuda_grid(int64_t x, int64_t y, int64_t z)
{
    return (cuda_dim){ (unsigned)x, (unsigned)y, (unsigned)z };
}

void       cuda_op(cuda_backend *b);
void       cuda_reads(cuda_backend *b, view v);         /* absent views are ignored */
void       cuda_writes(cuda_backend *b, view v);
void       cuda_reads_at(cuda_backend *b, gpu_ptr at, uint64_t bytes);
void       cuda_writes_at(cuda_backend *b, gpu_ptr at, uint64_t bytes);
/* The session memory of one layer, of all segments. */
typedef enum { CUDA_RING = 1, CUDA_POOL = 2, CUDA_INDEX_POOL = 4, CUDA_STATE = 8, CUDA_INDEX_STATE = 16 } cuda_memory;
void       cuda_reads_memory(cuda_backend *b, int layer, unsigned which);
void       cuda_writes_memory(cuda_backend *b, int layer, unsigned which);

ds4_status cuda_launch(queue *dev, int kernel, cuda_dim grid, unsigned block, unsigned shared, const void *args,
                       size_t n);
#define CUDA_LAUNCH(dev, name, grid, block, shared, args) \
    cuda_launch(dev, CUDA_##name, grid, block, shared, &(args), sizeof(args))
/* The stream of the op under way, for a fill or a copy that is part of it. Ask before each. */
ds4_status cuda_op_stream(queue *dev, int *stream);
/* The op's only launch so far has made these bytes, as declared, and nothing else: ops that need no more of
 * it may run beside the rest. */
void       cuda_op_made(cuda_backend *b, gpu_ptr at, uint64_t bytes);
/* Ends the op; st is what the launches gave. */
ds4_status cuda_done(queue *dev, ds4_status st);
/* Launches that stand in no op come after every op before it and before every op after it. */

/* The rows as kernels see them. Within step_begin and step_end at addresses that only the numbers of rows
 * and segments decide, so that a recording can be run again; elsewhere uploaded anew by every call.
 * layer < 0: no session memory. */
ds4_status cuda_batch(queue *dev, const batch_rows *rows, int layer, gpu_batch *out);

ds4_status cuda_step_open(cuda_backend *b, ds4_error *err);
void       cuda_step_close(cuda_backend *b);
uint64_t   cuda_step_bytes(const backend_limits *l);    /* of device memory */
ds4_status cuda_step_begin(backend *b, const step_shape *s, bool *done, ds4_error *err);
ds4_status cuda_step_end(backend *b, bool complete, bool *again, ds4_error *err);
/* All streams have been waited for. */
void       cuda_step_waited(cuda_backend *b);
/* Tests: steps that have a recording are run plainly instead, and what they launch is compared with it.
 * A difference fails the step: it would have been replayed with arguments that are not its own. */
void       cuda_step_check(cuda_backend *b, bool on);
int        cuda_step_recordings(const cuda_backend *b);
/* Copies between rows on the device, as an op. */
ds4_status cuda_copy(backend *b, view to, view from, ds4_error *err);

/* ---- weights: cuda_weights.c, cuda_residency.c ------------------------------------------ */

ds4_status cuda_adopt(backend *b, view *w, weight_use use, int64_t rows_each, ds4_error *err);
ds4_status cuda_device_now(backend *b, backend_device *out, ds4_error *err);
/* What can be had where the driver calls `available` bytes free: where memory is the host's, pages of files count
 * too, which the driver leaves out and the system gives back. */
uint64_t   cuda_available(const gpu_info *info, uint64_t available);
ds4_status cuda_read_speed(backend *b, uint64_t bytes, double *gbs, int n, ds4_error *err);
ds4_status cuda_residency_open(cuda_backend *b, ds4_error *err);
void       cuda_residency_close(cuda_backend *b);
/* Before the work of a step: lets experts change places. Cheap where all are on the card. */
ds4_status cuda_residency_step(cuda_backend *b, ds4_error *err);
/* A stack in parts is freed; all streams have been waited for. */
void       cuda_residency_release(cuda_backend *b);
/* Counters of reads of this stack's experts, uint32 [n_experts]; 0 where nobody asks. */
gpu_ptr    cuda_residency_uses(cuda_backend *b, view gate);

backend_expert_counts cuda_residency_counts(const backend *b);
/* Frees a buffer's record and all that it owns; all streams have been waited for. */
void       cuda_buf_release(cuda_backend *b, cuda_buf *m);

/* ---- families ---------------------------------------------------------------------------- *
 * scratch: bytes that the family wants in scratch[], where it wants any; ops: fills its part of the table. A stage that
 * is not filled keeps its default. */

/* `x` as integer products with weights of this type want it; valid until x is written or two more
 * sets of rows have been made. Part of the op under way: declares what it uses. x was written by earlier
 * ops, or by this one before (cuda_codes.c). */
ds4_status cuda_codes_of(queue *dev, view x, quant_type weight, gpu_codes *out);
/* The same of swiglu(gate, up), which is not kept. */
ds4_status cuda_codes_of_swiglu(queue *dev, view gate, view up, float limit, quant_type weight, gpu_codes *out);
/* Codes of the rows x, which this op's next launch writes and codes beside them as weights of these types want
 * it: [0] by 32, [1] by 256, codes at 0 where they are not wanted or not kept. x has been declared as written. */
ds4_status cuda_codes_beside(queue *dev, view x, const quant_type *weights, int n, gpu_codes out[2]);
/* These bytes will be written: what is kept of rows there is void. cuda_writes and cuda_writes_at call it. */
void       cuda_codes_forget(cuda_backend *b, gpu_ptr at, uint64_t bytes);
/* From here on codes are kept, or not, and none are of before: within a step only ops change rows, and what a
 * recording reads it has made. */
void       cuda_codes_keep(cuda_backend *b, bool on);

/* A hyper-connection's mix, and the norm of its x where that is not NULL: an op (cuda_rows.c). next, here and
 * below: types of n weights that multiply what is normed. */
ds4_status cuda_hc_mix(queue *dev, const hc_mix_args *a, const rms_norm_args *norm, const quant_type *next, int n);
/* Launches the expansion that waits. cuda_op calls it. */
ds4_status cuda_expand_now(cuda_backend *b);
ds4_status cuda_rms_norm(queue *dev, const rms_norm_args *a, const quant_type *next, int n);
/* y = w x for any weight type and number of rows, within an op under way. */
ds4_status cuda_products(queue *dev, view w, view x, view y);
/* Two weights of one type and width with the same x, at once where x has few rows. */
ds4_status cuda_products_pair(queue *dev, const view w[2], view x, const view y[2]);
/* y[t][o] = row o of w times columns (o / group_rows) * w.cols .. of x[t]: groups that each have columns
 * of their own. */
ds4_status cuda_products_grouped(queue *dev, view w, int group_rows, view x, view y);
/* Rows of x up to which a row's result does not depend on how many there are; beyond, products are
 * cuda_prefill.c's. */
enum { CUDA_FEW_ROWS = 16 };

/* The pairs of ids [T][k] by expert, made on the device: part of the op under way, of which it declares
 * what it uses. Addresses are those of every op's groups: good until the next op that makes some
 * (cuda_experts.c). */
ds4_status cuda_group_pairs(queue *dev, int n_experts, view ids, gpu_groups *out);

/* The same, and all of expert_ffn, on the matrix units: for more than 16 rows, and not for exact mode. Within
 * an op under way; they declare what they read and write. gate and up of one type, all three with
 * blocks (cuda_prefill.c). */
ds4_status cuda_prefill_products(queue *dev, view w, view x, view y);
ds4_status cuda_prefill_experts(queue *dev, const expert_ffn_args *a);

uint64_t cuda_rows_scratch(const backend_limits *l);
uint64_t cuda_matmul_scratch(const backend_limits *l);
uint64_t cuda_prefill_scratch(const backend_limits *l);
uint64_t cuda_experts_scratch(const backend_limits *l);
uint64_t cuda_indexer_scratch(const backend_limits *l);
uint64_t cuda_attention_scratch(const backend_limits *l);
uint64_t cuda_head_scratch(const backend_limits *l);
void     cuda_rows_ops(ops *o);
void     cuda_matmul_ops(ops *o);
void     cuda_experts_ops(ops *o);
void     cuda_kv_ops(ops *o);
void     cuda_indexer_ops(ops *o);
void     cuda_indexer_stages(cuda_backend *b);  /* those that stand back where ops are looked at */
void     cuda_attention_ops(ops *o);
void     cuda_head_ops(ops *o);

/* Lays out memory: where n elements of this size begin, behind what is used of it so far. */
uint64_t   cuda_take(uint64_t *used, uint64_t n, uint64_t size);

/* Fails the queue with a device's error. */
ds4_status cuda_fail(queue *dev, ds4_status st, const ds4_error *err);

#endif
