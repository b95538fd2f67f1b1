/* cpu_internal: what the files of the CPU backend share. Private to them. */
#ifndef KERNELS_CPU_INTERNAL_H
#define KERNELS_CPU_INTERNAL_H

#include "base/pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/expert_source.h"

/* A thread's place for one tile of results and for the tile's kernel. */
enum {
    TILE_ROWS    = 256,         /* most output rows of an experts' tile */
    TILE_BATCH   = 64,          /* most activations of one tile         */
    TILE_OUTPUTS = 4096         /* most results of an experts' tile     */
};

typedef struct {
    _Alignas(64) uint8_t scratch[TILE_SCRATCH];
    float          y[2][TILE_OUTPUTS];
    const uint8_t *x[TILE_BATCH];
} thread_tile;

enum {
    CPU_MAX_STREAMS = 8,
    CPU_MAX_MIXES   = (2 + CPU_MAX_STREAMS) * CPU_MAX_STREAMS   /* outputs of a hyper-connection's fn */
};

/* Queries of the indexer that meet a tile of keys at once. */
enum { INDEX_QUERIES = 16 };

typedef struct {
    backend        base;
    cpu_kernels    k;
    pool          *pool;
    bool           exact;
    backend_limits limits;
    int            n_threads;

    /* Scratch, taken at open. */
    uint8_t *activations;       /* [max_rows] rows of max_cols, quantised                 */
    uint8_t *mid_activations;   /* [max_pairs] rows of max_expert_width, quantised        */
    int32_t *expert_first;      /* [n_experts + 1] into expert_pair                       */
    int32_t *expert_pair;       /* [max_pairs] pair numbers, grouped by expert            */
    int32_t *expert_active;     /* [n_experts] experts with at least one pair             */
    expert_data *expert_data;   /* [n_experts] of the active ones, in their order         */
    int32_t *expert_rows;       /* [n_experts] pairs of the active ones; for a source     */
    int     *expert_arrived;    /* [n_experts] of a source's group; then active ones      */
    float   *mixes;             /* [max_rows][CPU_MAX_MIXES]                              */
    thread_tile *thread_tile;   /* [n_threads]                                            */
    float   *thread_row;        /* [n_threads][max_cols]                                  */
    uint8_t *thread_attend;     /* [n_threads][cpu_attend_bytes]                          */
    uint8_t *thread_keys;       /* [n_threads][index_keys_bytes]                          */
    uint8_t *thread_top;        /* [n_threads][cpu_top_bytes]                             */
    uint8_t *index_queries;     /* [INDEX_QUERIES][index_query_bytes]                     */
} cpu_backend;

static inline cpu_backend *cpu_of(queue *dev) { return (cpu_backend *)dev->backend; }

/* Runs a loop of n_rows in tasks of a few rows each. */
typedef void row_task(void *ctx, int row, int thread);
void cpu_for_rows(cpu_backend *b, row_task *task, void *ctx, int n_rows);

/* y[t*y_stride + o] = w_o . x_t for all rows of w and x. */
void cpu_products(cpu_backend *b, view w, view x, float *y, uint64_t y_stride);

static inline const kv_layer *cpu_layer_of(const batch_rows *r, int t, int layer)
{
    return &r->segment[r->segment_of[t]].kv->layer[layer];
}

/* Row b of the compressed rows within its pool. */
static inline int64_t cpu_pool_row(const kv_layer *l, int b)
{
    return (int64_t)l->blocks[b / l->block_rows] * l->block_rows + b % l->block_rows;
}

/* A thread's scratch of `attend` for rows of K numbers; a multiple of 64. */
uint64_t cpu_attend_bytes(int K);

/* A thread's scratch of `top_k`. */
uint64_t cpu_top_bytes(int k);

/* Rounds one row in place [4.12]. */
void cpu_round_row(const cpu_backend *b, float *x, int width, int n_round, round_kind kind);

/* Rotates r.n_rot channels at `tail` of each head, heads `stride` floats apart [4.7]. */
void cpu_rope(float *tail, int stride, int n_heads, rope r, int pos, bool inverse);

void ops_cpu_rows(ops *o);      /* embed_rows .. hc_expand, router  */
void ops_cpu_matmul(ops *o);    /* matmul, expert_ffn               */
void ops_cpu_kv(ops *o);        /* kv_write, compress               */
void ops_cpu_indexer(ops *o);   /* index_scores, top_k              */
void ops_cpu_attention(ops *o); /* attend                           */
void ops_cpu_head(ops *o);      /* top_logits                       */

#endif
