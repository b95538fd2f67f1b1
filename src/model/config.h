/* config: the shape of a model, read from its metadata once and validated.
 *
 * Plain numbers; nothing below asks the file again. Section numbers are those
 * of docs/model.md. Immutable after config_read; any thread. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "ds4_status.h"
#include "gguf/gguf.h"

#define CONFIG_MAX_LAYERS 256
#define CONFIG_MAX_ROT    512

typedef struct {
    int n_layer;                /* decoder layers that are run (a draft layer is not)    */
    int n_embd;                 /* D */
    int n_vocab;                /* V */
    int n_ctx_train;
    int n_head;                 /* H */
    int head_dim;               /* K, also the width of a KV row                         */
    int n_rot;                  /* rotary channels, the last of a head                   */
    int q_rank, out_rank, out_groups;
    int n_swa;                  /* window                                                */
    int ratio[CONFIG_MAX_LAYERS];       /* 0 window only, 4 CSA, 128 HCA                 */
    int index_heads, index_dim, index_top_k;
    int n_expert;               /* E */
    int n_expert_used;          /* k */
    int expert_width;           /* F, of routed and shared experts                       */
    int n_hash_layers;          /* the first layers choose experts by token              */
    int n_streams;              /* S */
    int sinkhorn_iterations;
    float expert_scale;
    float clamp_routed[CONFIG_MAX_LAYERS], clamp_shared[CONFIG_MAX_LAYERS];   /* 0: no clamp */
    float rms_eps, hc_eps;
    float rope_base, compress_rope_base;
    float rope_factor, rope_beta_fast, rope_beta_slow;
    int   rope_original_ctx;
    /* [n_rot/2] for layers without and with compression [4.7] */
    float rope_plain[CONFIG_MAX_ROT / 2], rope_scaled[CONFIG_MAX_ROT / 2];
} model_config;

/* DS4_EFORMAT or DS4_EUNSUPPORTED with a sentence that names the key. */
ds4_status config_read(model_config *c, const gguf *g, ds4_error *err);

/* The rope tables from the other numbers [4.7]; config_read does it. */
void config_fill_rope(model_config *c);

/* Tokens that a compressor of this ratio must keep: 2*4 with overlap, else ratio. */
int config_kept_tokens(int ratio);
/* Series a compressor of this ratio projects: 2 with overlap, else 1. */
int config_series(int ratio);

#endif
