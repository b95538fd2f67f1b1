/* cpu_kv: the ops that write a session's memory. */
#include "kernels/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

/* ---- kv_write ------------------------------------------------------------- */

static void write_row(void *ctx, int t, int thread)
{
    (void)thread;
    const kv_write_args *a = ctx;
    const kv_layer *l = cpu_layer_of(a->rows, t, a->layer);
    kv_row_pack(l->row, view_at(l->ring, a->rows->pos[t] % l->ring.rows), view_f32(a->x, t));
}

static ds4_status kv_write(queue *dev, const kv_write_args *a)
{
    cpu_for_rows(cpu_of(dev), write_row, (void *)a, a->rows->n);
    return DS4_OK;
}

/* ---- compress ------------------------------------------------------------- */

/* A projected token of the sequence, wherever it is: in this batch, or kept from
 * an earlier step. */
typedef struct {
    const compress_args *a;
    const segment       *s;
    compressor_state    *state;
} token_source;

static const float *token_value(const token_source *src, int p, bool score)
{
    if (p >= src->s->pos)
        return view_f32(score ? src->a->score : src->a->value, src->s->first + (p - src->s->pos));
    const view kept = (score ? src->state->score : src->state->value)[src->s->kv->now];
    return view_f32(kept, p % kept.rows);
}

#define MAX_POOLED 128          /* tokens whose rows one compressed row joins */

/* z[c] = sum_i softmax_i(score[i,c]) * value[i,c]: one softmax per channel over the
 * block's tokens. With overlap, channels 0..d-1 of the previous block's tokens join
 * channels d..2d-1 of this block's; before block 0 there is nothing to join. */
static void pool_block(const attn_kernels *k, const token_source *src, int block, float *z)
{
    const int R = src->a->ratio, d = src->a->width;
    const bool overlap = R == 4;
    const float *value[MAX_POOLED], *score[MAX_POOLED];
    int n = 0;

    for (int p = max_int(0, (block - overlap) * R); p < (block + 1) * R; p++, n++) {
        const int series = overlap && p >= block * R ? d : 0;
        value[n] = token_value(src, p, false) + series;
        score[n] = token_value(src, p, true) + series;
    }
    k->pool(z, value, score, n, d);
}

typedef struct {
    cpu_backend         *b;
    const compress_args *a;
    token_source         src;
    int                  first_block;
} block_ctx;

static void compress_block(void *ctx, int i, int thread)
{
    const block_ctx *c = ctx;
    const compress_args *a = c->a;
    const kv_layer *l = &c->src.s->kv->layer[a->layer];
    const int d = a->width, block = c->first_block + i;
    float *z = c->b->thread_row + (size_t)thread * c->b->limits.max_cols;

    pool_block(&c->b->k.attn, &c->src, block, z);
    const float scale = (float)(1.0 / sqrt(c->b->k.sum_squares(z, d) / d + (double)a->eps));
    const float *g = view_f32(a->norm, 0);
    for (int j = 0; j < d; j++) z[j] = z[j] * scale * g[j];
    cpu_rope(z + d - a->rope.n_rot, d, 1, a->rope, block * a->ratio, false);
    cpu_round_row(c->b, z, d, a->n_round, a->kind);

    kv_row_pack(a->index ? l->index_row : l->row, view_at(a->index ? l->index_pool : l->pool, cpu_pool_row(l, block)), z);
}

/* Keeps the tokens that a later block may still pool: those of the unfinished block
 * and, with overlap, of the one before. A short step may be committed in part, so
 * it keeps all of its tokens; the slack of the one copy has room for them. */
static void keep_tokens(const token_source *src)
{
    const compress_args *a = src->a;
    const segment *s = src->s;
    const int end = s->pos + s->n, kept = a->ratio * (a->ratio == 4 ? 2 : 1);
    const bool same = s->kv->ahead == s->kv->now;   /* earlier tokens are where they have to be */

    for (int p = same ? s->pos : max_int(0, end - kept); p < end; p++)
        for (int score = 0; score < 2; score++) {
            const view to = (score ? src->state->score : src->state->value)[s->kv->ahead];
            memcpy(view_f32(to, p % to.rows), token_value(src, p, score),
                   (size_t)to.cols * sizeof(float));
        }
}

static void add_bias_row(void *ctx, int t, int thread)
{
    (void)thread;
    const compress_args *a = ctx;
    float *score = view_f32(a->score, t);
    const int row = a->rows->pos[t] % a->ratio;

    if (a->ape.type == QUANT_F32) {
        const float *bias = view_f32(a->ape, row);
        for (int i = 0; i < a->score.cols; i++) score[i] += bias[i];
        return;
    }
    float bias[64];                                 /* other float types: in pieces */
    const quant_info *q = quant_get(a->ape.type);
    const uint8_t *data = view_at(a->ape, row);
    for (int i = 0; i < a->score.cols; i += (int)countof(bias)) {
        const int n = min_int((int)countof(bias), a->score.cols - i);
        q->to_float(bias, data + (size_t)i * (size_t)q->block_bytes, n);
        for (int j = 0; j < n; j++) score[i + j] += bias[j];
    }
}

static ds4_status compress(queue *dev, const compress_args *a)
{
    cpu_backend *b = cpu_of(dev);
    if (a->ratio * (a->ratio == 4 ? 2 : 1) > MAX_POOLED)
        return queue_fail(dev, DS4_EUNSUPPORTED, "compression ratio %d; the CPU backend has room for %d tokens",
                          a->ratio, MAX_POOLED);
    cpu_for_rows(b, add_bias_row, (void *)a, a->rows->n);

    for (int i = 0; i < a->rows->n_segments; i++) {
        const segment *s = &a->rows->segment[i];
        kv_layer *l = &s->kv->layer[a->layer];
        block_ctx c = { b, a, { a, s, a->index ? &l->index : &l->main }, s->pos / a->ratio };
        const int n_blocks = (s->pos + s->n) / a->ratio - c.first_block;
        cpu_for_rows(b, compress_block, &c, n_blocks);
        keep_tokens(&c.src);
    }
    return DS4_OK;
}

void ops_cpu_kv(ops *o)
{
    o->kv_write = kv_write;
    o->compress = compress;
}
