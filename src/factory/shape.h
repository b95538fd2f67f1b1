/* shape: the numbers that describe one model, as a file is made from them.
 *
 * Plain values, filled from a checkpoint's configuration (release_config.h), a
 * preset or flags, and checked once by shape_check; everything after that may
 * multiply them freely. Knows no files. */
#ifndef FACTORY_SHAPE_H
#define FACTORY_SHAPE_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"

#define SHAPE_MAX_LAYERS 512
#define SHAPE_MAX_RATIOS (SHAPE_MAX_LAYERS + 8)     /* drafter layers follow the decoder's */

typedef struct {
    int n_layer, n_embd, n_vocab, n_ctx;
    int n_head, head_dim, n_rot;
    int q_rank, out_rank, n_group;          /* low-rank query; grouped low-rank output       */
    int window;
    int n_index_head, index_dim, index_top_k;
    int n_expert, n_used, n_shared, expert_dim;
    int n_hash;                             /* the first n_hash layers route by token id     */
    int n_stream, sinkhorn_steps;
    int n_nextn;                            /* drafter layers of the checkpoint, not written */

    float   rope_base, compress_rope_base, rope_factor, rope_beta_fast, rope_beta_slow;
    int     rope_context;                   /* tokens the rope was made for before YaRN      */
    float   norm_eps, hc_eps;
    float   expert_scale;
    float   swiglu_limit;                   /* one for all layers                            */

    int32_t ratio[SHAPE_MAX_RATIOS];        /* 0 window, 4 CSA, other HCA                    */
    int     n_ratio;                        /* >= n_layer                                    */
} model_shape;

/* "flash": the released model; "tiny": every path of it in a few megabytes.
 * False: no such preset. */
bool shape_preset(model_shape *s, const char *name);

/* DS4_EFORMAT with a sentence when the numbers contradict each other. */
ds4_status shape_check(const model_shape *s, ds4_error *err);

/* Sets the released pattern: two window layers, then 4 and 128 in turn. */
void shape_default_ratios(model_shape *s);

static inline bool shape_hashed(const model_shape *s, int layer) { return layer < s->n_hash; }

#endif
