/* weights: the tensors of a model as views, each checked against the shape.
 *
 * Owns the backend's buffers over the file mapping, or those in the memory of a device
 * of its own, and a few small matrices that are kept as floats. The gguf must outlive it.
 * Immutable after open. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "kernels/backend.h"
#include "model/config.h"

typedef struct {
    view fn, base, scale;       /* [(2+S)*S][S*D], [1][(2+S)*S], [1][3] */
} hc_weights;

typedef struct {
    view value, gate;           /* [series*width][D]        */
    view ape;                   /* [ratio][series*width]    */
    view norm;                  /* [1][width]               */
} compressor_weights;

typedef struct {
    hc_weights hc_attn, hc_ffn;
    view attn_norm, ffn_norm;   /* [1][D]                   */
    view q_a, q_a_norm, q_b;    /* [rank][D], [1][rank], [H*K][rank] */
    view kv, kv_norm;           /* [K][D], [1][K]           */
    view sinks;                 /* [1][H]                   */
    view out_a, out_b;          /* [groups*rank][H*K/groups], [D][groups*rank] */
    compressor_weights compressor;          /* ratio > 0 */
    compressor_weights index_compressor;    /* ratio 4   */
    view index_q_b, index_proj; /* ratio 4: [heads*width][rank], [heads][D] */
    view gate_inp;              /* [E][D]                   */
    view router_bias;           /* [1][E]; absent in hash layers            */
    view hash;                  /* [V][k] I32; hash layers  */
    view gate_exps, up_exps;    /* [E*F][D]                 */
    view down_exps;             /* [E*D][F]                 */
    view gate_shared, up_shared;/* [F][D]                   */
    view down_shared;           /* [D][F]                   */
} layer_weights;

typedef struct {
    view embed;                 /* [V][D]                   */
    view output;                /* [V][D]                   */
    view output_norm;           /* [1][D]                   */
    hc_weights hc_head;         /* [S][S*D], [1][S], [1][1] */
    layer_weights *layer;       /* [n_layer]                */

    backend *backend;           /* borrowed                 */
    buf    **shard;             /* [n_shards] over the mappings */
    int      n_shards;
    buf    **adopted;           /* [n_adopted] weights in the device's memory */
    int      n_adopted;
    buf     *expanded;          /* small matrices that were stored in blocks, as floats */
    buf     *dense;             /* experts apart: a copy of all that is not one */
    uint64_t dense_bytes;       /* read for it, and                     */
    uint64_t dense_ns;          /* the time that took                   */
} model_weights;

typedef struct {
    /* Routed experts are read by somebody else (model/experts.h), so that nothing but them
     * is ever dropped from memory and no step waits for a page: their views keep shape and
     * type, and their bytes are never touched. All other tensors are copied. Not for a
     * backend that adopts weights: it decides itself which experts it holds. */
    bool  experts_apart;
    /* Of the copy or the upload; may be NULL. */
    bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total);
    void  *progress_ctx;
} weights_options;

/* DS4_EFORMAT names the tensor that is missing or has the wrong shape or type. o NULL:
 * every tensor is a view into the mapping, or is adopted by a backend with memory of its own. */
ds4_status weights_open(model_weights *w, const model_config *c, const gguf *g, backend *b,
                        const weights_options *o, ds4_error *err);
void       weights_close(model_weights *w);     /* a zeroed or half-open one too */

/* Bytes of the copy that experts_apart makes; 0 when the file's tensors are not as the
 * shape asks for. */
uint64_t   weights_dense_bytes(const gguf *g);

/* Bytes that a device of its own memory needs for the tensors, at most. */
typedef struct { uint64_t dense, experts; } weights_device_bytes;
weights_device_bytes weights_on_device(const gguf *g);

/* Bits per weight of the routed experts, rounded. */
int        weights_expert_bits(const model_weights *w);

#endif
