#include "model/kv.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/status.h"

/* Index of a ratio among those that compress. */
static int kind_of(int ratio)       { return ratio == 4 ? 0 : 1; }
static int block_rows_of(int ratio) { return KV_BLOCK_TOKENS / ratio; }

struct kv_pool {
    const model_config *c;      /* borrowed */
    kv_options options;
    backend   *backend;         /* borrowed */
    int        blocks_per_session;
    int        n_blocks;        /* per ratio */
    int32_t   *free_blocks[2];  /* stacks */
    int        n_free[2];
    buf       *store;           /* compressed and indexer rows of all layers */
    view       rows[CONFIG_MAX_LAYERS], index_rows[CONFIG_MAX_LAYERS];
};

/* ---- sizes ------------------------------------------------------------------- */

kv_row kv_row_format(const model_config *c, bool packed, bool index)
{
    const int width = index ? c->index_dim : c->head_dim;
    if (!packed) return (kv_row){ KV_ROW_F32, width, 0 };
    return index ? (kv_row){ KV_ROW_FP4, width, 0 } : (kv_row){ KV_ROW_FP8, width, width - c->n_rot };
}

static uint64_t row_bytes(const model_config *c, const kv_options *o, bool index)
{
    return (uint64_t)kv_row_bytes(kv_row_format(c, o->packed, index));
}

static int blocks_for(int tokens) { return (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; }

/* A window and a step; a session that is shorter than that needs less. */
static int ring_rows(const model_config *c, const kv_options *o, int capacity)
{
    return min_int(c->n_swa + o->max_step, max_int(capacity, 1));
}

static int state_rows(int ratio) { return config_kept_tokens(ratio) + KV_STATE_SLACK; }

/* One compressor's two copies of values and scores. */
static uint64_t state_bytes(int ratio, int width)
{
    return 4ull * (uint64_t)state_rows(ratio) * (uint64_t)(config_series(ratio) * width) * sizeof(float);
}

static uint64_t session_bytes(const model_config *c, const kv_options *o, int capacity)
{
    uint64_t n = 0;
    for (int l = 0; l < c->n_layer; l++) {
        n += (uint64_t)ring_rows(c, o, capacity) * row_bytes(c, o, false);
        if (c->ratio[l] > 0) n += state_bytes(c->ratio[l], c->head_dim);
        if (c->ratio[l] == 4) n += state_bytes(c->ratio[l], c->index_dim);
    }
    return n;
}

static int other_tokens(const kv_options *o) { return o->other_tokens ? o->other_tokens : o->max_tokens; }

static int64_t pool_blocks(const kv_options *o)
{
    return blocks_for(o->max_tokens) + (int64_t)(o->max_sessions - 1) * blocks_for(other_tokens(o)) + blocks_for(o->side_tokens);
}

static uint64_t pool_bytes(const model_config *c, const kv_options *o)
{
    const uint64_t blocks = (uint64_t)pool_blocks(o);
    uint64_t n = 0;
    for (int l = 0; l < c->n_layer; l++) {
        if (c->ratio[l] == 0) continue;
        const uint64_t rows = blocks * (uint64_t)block_rows_of(c->ratio[l]);
        n += rows * row_bytes(c, o, false);
        if (c->ratio[l] == 4) n += rows * row_bytes(c, o, true);
    }
    return n;
}

uint64_t kv_growing_bytes(const model_config *c, const kv_options *o) { return pool_bytes(c, o); }

uint64_t kv_bytes(const model_config *c, const kv_options *o)
{
    return pool_bytes(c, o) + session_bytes(c, o, o->max_tokens)
         + (uint64_t)(o->max_sessions - 1) * session_bytes(c, o, other_tokens(o))
         + (o->side_tokens ? session_bytes(c, o, o->side_tokens) : 0);
}

/* ---- pool ---------------------------------------------------------------------- */

/* Cuts the next n rows out of a buffer. */
static view take_rows(buf *store, uint64_t *used, int64_t n, kv_row r)
{
    const bool floats = r.kind == KV_ROW_F32;
    const view v = { .buf = store, .offset = *used, .rows = n, .cols = floats ? r.width : kv_row_bytes(r),
                     .type = floats ? QUANT_F32 : QUANT_I8, .stride = (uint64_t)kv_row_bytes(r) };
    *used += (uint64_t)n * v.stride;
    return v;
}

ds4_status kv_pool_open(kv_pool **out, const model_config *c, const kv_options *o, backend *b, ds4_error *err)
{
    *out = NULL;
    kv_pool *p = calloc(1, sizeof *p);
    if (!p) return ds4_fail(err, DS4_EMEMORY, "no memory for the KV pool");
    p->c = c;
    p->options = *o;
    p->backend = b;
    p->blocks_per_session = blocks_for(o->max_tokens);
    p->n_blocks = (int)pool_blocks(o);

    for (int i = 0; i < 2; i++) {
        p->free_blocks[i] = malloc((size_t)p->n_blocks * sizeof **p->free_blocks);
        if (!p->free_blocks[i]) {
            const int n = p->n_blocks;
            kv_pool_close(p);
            return ds4_fail(err, DS4_EMEMORY, "no memory for %d KV blocks", n);
        }
        for (int j = 0; j < p->n_blocks; j++) p->free_blocks[i][j] = p->n_blocks - 1 - j;
        p->n_free[i] = p->n_blocks;
    }
    const ds4_status st = b->buf_alloc(b, pool_bytes(c, o), &p->store, err);
    if (st) {
        kv_pool_close(p);
        return st;
    }
    uint64_t used = 0;
    for (int l = 0; l < c->n_layer; l++) {
        if (c->ratio[l] == 0) continue;
        const int64_t rows = (int64_t)p->n_blocks * block_rows_of(c->ratio[l]);
        p->rows[l] = take_rows(p->store, &used, rows, kv_row_format(c, o->packed, false));
        if (c->ratio[l] == 4) p->index_rows[l] = take_rows(p->store, &used, rows, kv_row_format(c, o->packed, true));
    }
    *out = p;
    return DS4_OK;
}

void kv_pool_close(kv_pool *p)
{
    if (!p) return;
    if (p->store) p->backend->buf_free(p->backend, p->store);
    free(p->free_blocks[0]);
    free(p->free_blocks[1]);
    free(p);
}

static void give_blocks_back(kv *k, int kind, int keep)
{
    while (k->n_blocks[kind] > keep)
        k->pool->free_blocks[kind][k->pool->n_free[kind]++] = k->blocks[kind][--k->n_blocks[kind]];
}

/* Blocks for a timeline of this length, in both kinds or in none. */
static ds4_status take_blocks(kv *k, int length, ds4_error *err)
{
    const int want = blocks_for(length);
    for (int kind = 0; kind < 2; kind++)
        if (want - k->n_blocks[kind] > k->pool->n_free[kind])
            return ds4_fail(err, DS4_EFULL, "the KV pool is full: %d tokens would need %d more blocks, %d are free",
                            length, want - k->n_blocks[kind], k->pool->n_free[kind]);
    for (int kind = 0; kind < 2; kind++)
        while (k->n_blocks[kind] < want)
            k->blocks[kind][k->n_blocks[kind]++] = k->pool->free_blocks[kind][--k->pool->n_free[kind]];
    return DS4_OK;
}

/* ---- session --------------------------------------------------------------------- */

static compressor_state take_state(kv *k, uint64_t *used, int ratio, int width)
{
    const kv_row r = { KV_ROW_F32, config_series(ratio) * width, 0 };
    compressor_state s;
    for (int copy = 0; copy < 2; copy++) {
        s.value[copy] = take_rows(k->store, used, state_rows(ratio), r);
        s.score[copy] = take_rows(k->store, used, state_rows(ratio), r);
    }
    return s;
}

static void lay_out(kv *k)
{
    const model_config *c = k->pool->c;
    uint64_t used = 0;
    for (int l = 0; l < c->n_layer; l++) {
        kv_layer *L = &k->memory.layer[l];
        const int ratio = c->ratio[l];
        L->ratio = ratio;
        L->row = kv_row_format(c, k->pool->options.packed, false);
        L->index_row = kv_row_format(c, k->pool->options.packed, true);
        L->ring = take_rows(k->store, &used, ring_rows(c, &k->pool->options, k->capacity), L->row);
        if (ratio == 0) continue;
        L->pool = k->pool->rows[l];
        L->blocks = k->blocks[kind_of(ratio)];
        L->block_rows = block_rows_of(ratio);
        L->main = take_state(k, &used, ratio, c->head_dim);
        if (ratio != 4) continue;
        L->index_pool = k->pool->index_rows[l];
        L->index = take_state(k, &used, ratio, c->index_dim);
    }
}

ds4_status kv_open(kv **out, kv_pool *p, int capacity, ds4_error *err)
{
    *out = NULL;
    if (capacity < 1 || capacity > p->options.max_tokens)
        return ds4_fail(err, DS4_EARG, "a session of %d tokens; this engine was opened for up to %d", capacity,
                        p->options.max_tokens);
    kv *k = calloc(1, sizeof *k);
    if (!k) return ds4_fail(err, DS4_EMEMORY, "no memory for a session");
    k->pool = p;
    k->capacity = capacity;
    k->memory.layer = calloc((size_t)p->c->n_layer, sizeof *k->memory.layer);
    for (int i = 0; i < 2; i++) k->blocks[i] = malloc((size_t)p->blocks_per_session * sizeof **k->blocks);
    ds4_status st = k->memory.layer && k->blocks[0] && k->blocks[1]
                        ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory for a session");
    if (!st) st = p->backend->buf_alloc(p->backend, session_bytes(p->c, &p->options, capacity), &k->store, err);
    if (st) {
        kv_close(k);
        return st;
    }
    lay_out(k);
    *out = k;
    return DS4_OK;
}

void kv_close(kv *k)
{
    if (!k) return;
    for (int kind = 0; kind < 2; kind++) give_blocks_back(k, kind, 0);
    if (k->store) k->pool->backend->buf_free(k->pool->backend, k->store);
    free(k->memory.layer);
    free(k->blocks[0]);
    free(k->blocks[1]);
    free(k);
}

/* Nothing needs to be wiped: no row or state of an earlier timeline is read before
 * this one has written it. */
void kv_clear(kv *k)
{
    for (int kind = 0; kind < 2; kind++) give_blocks_back(k, kind, 0);
    k->length = 0;
}

uint64_t kv_bytes_used(const kv *k)
{
    const model_config *c = k->pool->c;
    const kv_options *o = &k->pool->options;
    uint64_t n = session_bytes(c, o, k->capacity);
    for (int l = 0; l < c->n_layer; l++) {
        if (c->ratio[l] == 0) continue;
        const uint64_t rows = (uint64_t)(k->length / c->ratio[l]);
        n += rows * row_bytes(c, o, false);
        if (c->ratio[l] == 4) n += rows * row_bytes(c, o, true);
    }
    return n;
}

ds4_status kv_begin(kv *k, int n, ds4_error *err)
{
    if (n > k->pool->options.max_step)
        return ds4_fail(err, DS4_EARG, "%d tokens in one step; this engine was opened for up to %d", n,
                        k->pool->options.max_step);
    if (n > k->capacity - k->length)
        return ds4_fail(err, DS4_EFULL, "the context is full: %d of %d tokens are used and %d more were to come",
                        k->length, k->capacity, n);
    const ds4_status st = take_blocks(k, k->length + n, err);
    if (st) return st;
    k->memory.ahead = n <= KV_STATE_SLACK ? k->memory.now : 1 - k->memory.now;
    return DS4_OK;
}

void kv_commit(kv *k, int n)
{
    k->length += n;
    k->memory.now = k->memory.ahead;
}

void kv_cut(kv *k, int length)
{
    k->length = length;
    for (int kind = 0; kind < 2; kind++) give_blocks_back(k, kind, blocks_for(length));
}

ds4_status kv_grow(kv *k, int length, ds4_error *err)
{
    kv_clear(k);
    if (length > k->capacity)
        return ds4_fail(err, DS4_EFULL, "%d tokens do not fit a session of %d", length, k->capacity);
    const ds4_status st = take_blocks(k, length, err);
    if (!st) k->length = length;
    return st;
}

bool kv_is_packed(const kv *k) { return k->pool->options.packed; }
backend *kv_backend(const kv *k) { return k->pool->backend; }
const model_config *kv_config(const kv *k) { return k->pool->c; }
