/* scene: sessions with memory of one layer on a checked backend, and steps over them. */
#ifndef TESTS_GPU_HOST_SCENE_H
#define TESTS_GPU_HOST_SCENE_H

#include "checked.h"

#include <string.h>

#include "model/kv.h"

enum { SCENE_SESSIONS = 5, SCENE_ROWS = 160 };

typedef struct {
    backend     *b;
    kv_pool     *pool;
    kv          *k[SCENE_SESSIONS];
    model_config c;
    int          n_sessions;
    /* the step under way */
    int32_t      pos[SCENE_ROWS], token[SCENE_ROWS], segment_of[SCENE_ROWS];
    segment      segments[SCENE_SESSIONS];
    batch_rows   rows;
    float        freq[GPU_MAX_ROT / 2];
} scene;

typedef struct {
    int  ratio, K, n_rot, n_swa, index_dim, n_heads;
    bool packed, exact;         /* rows as codes; float activations */
    int  max_tokens;
    int  index_heads;           /* 0: 4 */
} scene_shape;

static inline void scene_open(scene *s, const scene_shape *h, int n_sessions, lane_order order)
{
    ds4_error err;
    memset(s, 0, sizeof *s);
    s->c = (model_config){ .n_layer = 2, .head_dim = h->K, .n_rot = h->n_rot, .n_swa = h->n_swa,
                           .index_dim = h->index_dim };
    s->c.ratio[1] = h->ratio;
    s->n_sessions = n_sessions;
    const backend_limits limits = { .max_rows = SCENE_ROWS, .max_cols = 4096, .max_pairs = SCENE_ROWS,
                                    .max_expert_width = 256,
                                    .n_experts = 4, .max_head_width = h->K,
                                    .index_heads = h->index_heads ? h->index_heads : 4, .index_width = h->index_dim,
                                    .index_top_k = 64, .n_layer = 2, .max_segments = SCENE_SESSIONS,
                                    .max_tokens = h->max_tokens,
                                    .n_streams = 4, .n_heads = h->n_heads, .n_vocab = 64,
                                    .block_tokens = KV_BLOCK_TOKENS };
    s->b = checked_open(&limits, h->exact, order);
    const kv_options o = { .max_sessions = n_sessions, .max_tokens = h->max_tokens, .max_step = SCENE_ROWS,
                           .packed = h->packed };
    EXPECT_OK(kv_pool_open(&s->pool, &s->c, &o, s->b, &err), err);
    for (int i = 0; i < n_sessions; i++) EXPECT_OK(kv_open(&s->k[i], s->pool, h->max_tokens, &err), err);
    for (int i = 0; i < h->n_rot / 2; i++) s->freq[i] = 1.0f / (float)(1 + i * i);
}

static inline void scene_close(scene *s)
{
    for (int i = 0; i < s->n_sessions; i++) kv_close(s->k[i]);
    kv_pool_close(s->pool);
    s->b->close(s->b);
}

/* Stored rows of layer 1: of token p, and compressed row r. */
static inline view scene_ring_row(const scene *s, int session, int p)
{
    const view v = s->k[session]->memory.layer[1].ring;
    return view_rows(v, p % v.rows, 1);
}
static inline view scene_pool_row(const scene *s, int session, int r)
{
    const kv_layer *l = &s->k[session]->memory.layer[1];
    return view_rows(l->pool, (int64_t)l->blocks[r / l->block_rows] * l->block_rows + r % l->block_rows, 1);
}
static inline void scene_store(scene *s, view row, const void *data)
{
    ds4_error err;
    EXPECT_OK(s->b->upload(s->b, row, data, &err), err);
}

static inline rope scene_rope(const scene *s) { return (rope){ s->freq, s->c.n_rot }; }

/* A step of n[i] tokens of session i; those without tokens are left out. */
static inline void scene_begin(scene *s, const int *n)
{
    ds4_error err;
    s->rows = (batch_rows){ 0, s->pos, s->token, s->segment_of, s->segments, 0 };
    for (int i = 0; i < s->n_sessions; i++) {
        if (!n[i]) continue;
        EXPECT_OK(kv_begin(s->k[i], n[i], &err), err);
        s->segments[s->rows.n_segments] = (segment){ &s->k[i]->memory, s->rows.n, n[i], s->k[i]->length };
        for (int j = 0; j < n[i]; j++) {
            s->pos[s->rows.n] = s->k[i]->length + j;
            s->segment_of[s->rows.n++] = s->rows.n_segments;
        }
        s->rows.n_segments++;
    }
}

static inline void scene_commit(scene *s, const int *n)
{
    for (int i = 0; i < s->n_sessions; i++)
        if (n[i]) kv_commit(s->k[i], n[i]);
}

#endif
