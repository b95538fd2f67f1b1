/* ops: what a backend must be able to compute.
 *
 * Seventeen primitives and eight stages. A stage's default (ops_default.c) is
 * composed from primitives and is the definition that judges any replacement.
 * Each op takes one plain struct. All activations are F32 rows of the batch,
 * [T][...], which may come from many sessions; sections in brackets name the
 * formula's place in docs/model.md. Outputs never overlap inputs unless said.
 *
 * Results of a row depend on that row and its session alone, never on which
 * other rows share the batch: cutting a prompt into chunks changes nothing. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"
#include "kernels/kv_row.h"
#include "kernels/view.h"

struct backend;
struct ops;

/* An ordered stream of ops on one device. Stage defaults call back into its
 * table, so that a wrapping backend sees the primitives inside them. */
typedef struct queue {
    const struct ops *ops;
    struct backend   *backend;
    ds4_error         error;    /* of the op that failed last */
} queue;

/* ---- the rows of a step, and the memory they attend to ------------------ */

/* Projected tokens of one compressor that later rows still need [4.8, 4.13]:
 * token p sits in row p % rows of both views. Two copies, so that a long chunk
 * can be dropped: `now` in kv_memory says which one is committed. */
typedef struct {
    view value[2];              /* [rows][overlap*width] F32 */
    view score[2];              /* the same, position bias included */
} compressor_state;

/* One session's memory of one layer. Row b of the compressed rows lies in row
 * blocks[b / block_rows] * block_rows + b % block_rows of the pool. Packed rows
 * are views of bytes (I8), others of F32. */
typedef struct {
    int              ratio;     /* 0, 4 or 128                                       */
    kv_row           row;       /* how ring and pool hold their rows of K            */
    kv_row           index_row; /* and index_pool its of the indexer's width         */
    view             ring;      /* [ring rows]; token p in row p % rows              */
    view             pool;      /* [pool rows], ratio > 0                            */
    view             index_pool;/* [pool rows], ratio 4                              */
    const int32_t   *blocks;    /* shared by all layers of this ratio                */
    int              block_rows;
    compressor_state main, index;
} kv_layer;

typedef struct {
    kv_layer *layer;            /* [n_layer] */
    int       now;              /* copy of the compressor states that is committed   */
    int       ahead;            /* copy that this step writes; == now for short runs */
} kv_memory;

/* Consecutive rows of a batch that continue one session. */
typedef struct {
    kv_memory *kv;
    int        first, n;        /* rows of the batch                        */
    int        pos;             /* position of the first; the rest follow   */
} segment;

typedef struct {
    int            n;           /* T                                        */
    const int32_t *pos;         /* [T] position in its session              */
    const int32_t *token;       /* [T]                                      */
    const int32_t *segment_of;  /* [T]                                      */
    const segment *segment;
    int            n_segments;
} batch_rows;

/* Rotation of the last n_rot channels of a row in interleaved pairs [4.7]. */
typedef struct {
    const float *freq;          /* [n_rot/2] host memory */
    int          n_rot;
} rope;

/* Rounding that the model was trained with [4.12]. */
typedef enum {
    ROUND_NONE,
    ROUND_FP8,                  /* E4M3 in blocks of 64 with power-of-two scales       */
    ROUND_HADAMARD_FP4          /* Hadamard over the row, then E2M1 in blocks of 32    */
} round_kind;

/* ---- primitives ---------------------------------------------------------- */

/* streams[t,s,:] = table[token[t],:] for every stream s [4.1] */
typedef struct {
    view        table;          /* [V][D]                     */
    view        streams;        /* [T][S*D]                   */
    const batch_rows *rows;
    int         n_streams;
} embed_rows_args;

/* y = x / sqrt(mean(x^2) + eps) * weight [4.2] */
typedef struct {
    view        x, y;           /* [n][cols]; y may be x      */
    view        weight;         /* [1][cols] F32; absent: 1   */
    float       eps;
    int         layer;
    const char *name;
} rms_norm_args;

/* y[t,o] = sum_i w[o,i] * x[t,i] */
typedef struct {
    view        w;              /* [n_out][n_in], any weight type        */
    view        x;              /* [T][n_in]                             */
    view        y;              /* [T][n_out]                            */
    int         layer;          /* -1 outside the layers                 */
    const char *name;           /* the weight's GGUF name without prefix */
} matmul_args;

/* y = silu(min(gate, limit)) * clamp(up, -limit, limit) [4.14]; limit 0: no clamp */
typedef struct {
    view  gate, up, y;          /* [T][F]; y may be gate or up */
    float limit;
    int   layer;
} swiglu_args;

/* y = a + b */
typedef struct {
    view a, b, y;               /* [T][D]; y may be a or b */
    int  layer;
} add_args;

/* Rotates the last n_rot channels of every head at the row's position, or back. */
typedef struct {
    view        x;              /* [T][n_heads*width], in place */
    int         n_heads;
    rope        rope;
    bool        inverse;
    const batch_rows *rows;
    int         layer;
} rope_tail_args;

/* Rounds channels 0..n_round-1 of each row in place. */
typedef struct {
    view       x;               /* [n][width]; ROUND_HADAMARD_FP4: width is a power of two */
    int        n_round;         /* ROUND_FP8 only                                          */
    round_kind kind;
    int        layer;
} kv_round_args;

/* The control of one hyper-connection [4.3], and its collapsed input:
 * x = sum_s pre[s] * streams[s], with post and the doubly stochastic comb kept
 * for hc_expand. */
typedef struct {
    view  streams;              /* [T][S*D]                          */
    view  fn;                   /* [(2+S)*S][S*D], a float type      */
    view  base;                 /* [1][(2+S)*S] F32                  */
    view  scale;                /* [1][3] F32                        */
    view  x;                    /* [T][D]                            */
    view  post;                 /* [T][S]                            */
    view  comb;                 /* [T][S*S], row = source stream     */
    float eps, hc_eps;
    int   n_streams, n_iterations;
    bool  head;                 /* the head's form [4.15]: fn [S][S*D], scale [1][1],
                                   only x is written                 */
    int   layer;
    const char *name;
} hc_mix_args;

/* streams[c] = post[c]*y + sum_a comb[a,c] * streams[a], in place [4.4] */
typedef struct {
    view y;                     /* [T][D]    */
    view streams;               /* [T][S*D]  */
    view post, comb;
    int  n_streams;
    int  layer;
    const char *name;
} hc_expand_args;

/* Stores the rows of the batch in their sessions' rings. */
typedef struct {
    view        x;              /* [T][K]    */
    const batch_rows *rows;
    int         layer;
} kv_write_args;

/* Adds the batch's tokens to a compressor and stores every row that becomes
 * complete [4.8]: per-channel softmax pooling, norm, rotation at the block's
 * first position, rounding. Overlap (two series) exactly when ratio is 4. */
typedef struct {
    view        value, score;   /* [T][overlap*width]: projections, no bias yet     */
    view        ape;            /* [ratio][overlap*width] position bias             */
    view        norm;           /* [1][width] F32                                   */
    const batch_rows *rows;
    bool        index;          /* the indexer's compressor instead of the main one */
    int         ratio, width;
    float       eps;
    rope        rope;
    round_kind  kind;
    int         n_round;
    int         layer;
} compress_args;

/* scores[t,b] = sum_h weights[t,h] * scale * max(0, q[t,h,:] . row b) for the rows b
 * visible at pos[t], i.e. b < (pos+1)/ratio [4.9]; the rest is not written. */
typedef struct {
    view        q;              /* [n][H*width], rows first..first+n-1 of the batch */
    view        weights;        /* [n][H]                                           */
    view        scores;         /* [n][max rows]                                    */
    const batch_rows *rows;
    int         first;          /* row of the batch that q's row 0 is               */
    int         n_heads;
    float       scale;
    int         layer, ratio;
} index_scores_args;

/* selected[t,:] = the k largest of the visible scores, ascending by row number;
 * ties go to the lower row; -1 fills up. */
typedef struct {
    view        scores;         /* [n][max rows]  */
    view        selected;       /* [n][k] I32     */
    const batch_rows *rows;
    int         first, ratio;
    int         layer;
} top_k_args;

/* heads[t,h,:] = softmax(q . [window | chosen rows], one sink logit per head) @ rows [4.10].
 * Window: positions max(0, pos-n_swa+1)..pos. selected absent: all visible compressed rows. */
typedef struct {
    view        q, heads;       /* [T][H*K]; heads may be q    */
    view        sinks;          /* [1][H] F32                  */
    view        selected;       /* [T][k] I32                  */
    const batch_rows *rows;
    int         n_heads, n_swa, ratio;
    float       scale;
    int         layer;
} attend_args;

/* Scores sqrt(softplus(logit)), the chosen experts in ascending order and their
 * weights: score / sum * scale [4.14]. Hash layers take the choice from a table. */
typedef struct {
    view        logits;         /* [T][E]                          */
    view        bias;           /* [1][E] F32, selection only; may be absent */
    view        hash;           /* [V][k] I32; absent: by score    */
    view        ids;            /* [T][k] I32                      */
    view        weights;        /* [T][k]                          */
    const batch_rows *rows;
    float       scale;
    int         layer;
} router_args;

/* y[t] = sum_k down[e] * (w * swiglu(gate[e]*x, up[e]*x)), e = ids[t,k] [4.14];
 * terms are added in the order of ids. */
typedef struct {
    view  x, y;                 /* [T][D]                          */
    view  gate, up;             /* [E*F][D]                        */
    view  down;                 /* [E*D][F]                        */
    view  ids, weights;         /* [T][k]                          */
    view  mid;                  /* [T*k][F] scratch                */
    struct expert_source *source;   /* NULL: the matrices lie where their views say */
    int   n_experts;
    float limit;
    int   layer;
} expert_ffn_args;

/* What a sampler needs of a row: its k largest logits, descending, ties to the lower id, and for
 * the probabilities of all norm = { m, sum exp(logit - m) }, m the largest. NaN is
 * ordered as -infinity and adds nothing to the sum, -0 as 0; a logit that equals an infinite m adds 1.
 * values are the logits as they are. Where k > V ids are -1 and values -infinity. */
typedef struct {
    view  logits;               /* [n][V]         */
    view  ids;                  /* [n][k] I32     */
    view  values;               /* [n][k]         */
    view  norm;                 /* [n][2]         */
} top_logits_args;

/* ---- stages -------------------------------------------------------------- */

/* hc_mix, then the sublayer's RMS norm: normed = norm(x). */
typedef struct {
    hc_mix_args   mix;
    rms_norm_args norm;         /* of mix.x */
    quant_type    next[2];      /* types of weights that multiply norm.y next, for those who round it for
                                   them at once; F32: none */
} hc_pre_args;

/* latent = norm(q_a x); q = rope(norm_heads(q_b latent)) [4.5] */
typedef struct {
    view        x;              /* [T][D]         */
    view        q_a, q_a_norm, q_b;
    view        latent;         /* [T][q rank]    */
    view        q;              /* [T][H*K]       */
    const batch_rows *rows;
    int         n_heads;
    float       eps;
    rope        rope;
    int         layer;
} q_path_args;

/* row = round(rope(norm(kv x))), stored in the ring [4.6] */
typedef struct {
    view        x;              /* [T][D]         */
    view        kv, norm;
    view        row;            /* [T][K]         */
    const batch_rows *rows;
    float       eps;
    rope        rope;
    round_kind  kind;
    int         n_round;
    int         layer;
} kv_path_args;

/* selected = top k of the indexer's scores [4.9], for rows that see more than k. */
typedef struct {
    view        x;              /* [T][D]                          */
    view        latent;         /* [T][q rank]                     */
    view        q_b, proj;
    view        q;              /* [T][H*width] scratch            */
    view        weights;        /* [T][H] scratch                  */
    view        scores;         /* [tile][max rows] scratch        */
    view        selected;       /* [T][k] I32                      */
    const batch_rows *rows;
    int         n_heads, ratio;
    float       scale;
    rope        rope;
    round_kind  kind;
    int         layer;
} select_rows_args;

/* y = output_b(concat_g output_a[g] heads[g]) after the inverse rotation [4.11] */
typedef struct {
    view        heads;          /* [T][H*K], rotated back in place */
    view        a, b;
    view        low;            /* [T][groups*rank] scratch        */
    view        y;              /* [T][D]                          */
    const batch_rows *rows;
    int         n_heads, n_groups;
    rope        rope;
    int         layer;
} attn_out_args;

/* y = down(swiglu(gate x, up x)) [4.14] */
typedef struct {
    view  x, y;                 /* [T][D]         */
    view  gate, up, down;
    view  gate_out, up_out;     /* [T][F] scratch */
    float limit;
    int   layer;
} shared_ffn_args;

/* y = routed experts + shared expert [4.14] */
typedef struct {
    view            x, y;       /* [T][D]               */
    view            gate_inp;   /* [E][D]               */
    router_args     router;
    expert_ffn_args experts;
    shared_ffn_args shared;     /* its y is scratch     */
    int             layer;
} moe_block_args;

/* logits = output * norm(head mix of the streams) [4.15] */
typedef struct {
    hc_mix_args   mix;          /* head form            */
    rms_norm_args norm;
    matmul_args   output;
} head_args;

/* All entries: primitives, then stages. X(name) once for each. */
#define OPS_PRIMITIVES(X)                                                     \
    X(embed_rows) X(rms_norm) X(matmul) X(swiglu) X(add) X(rope_tail)         \
    X(kv_round) X(hc_mix) X(hc_expand) X(kv_write) X(compress)                \
    X(index_scores) X(top_k) X(attend) X(router) X(expert_ffn) X(top_logits)
#define OPS_STAGES(X)                                                         \
    X(hc_pre) X(q_path) X(kv_path) X(select_rows) X(attn_out) X(shared_ffn)   \
    X(moe_block) X(head)

#define OPS_FIELD(op) ds4_status (*op)(queue *dev, const op##_args *a);
typedef struct ops {
    OPS_PRIMITIVES(OPS_FIELD)
    OPS_STAGES(OPS_FIELD)
} ops;

/* Fills the eight stages with their definitions. */
void ops_default_stages(ops *o);

#endif
