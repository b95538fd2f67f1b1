#include "bench/stretch.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "engine/engine.h"

typedef struct {
    const model_config *c;
    kv_move  move;
    int      real;              /* tokens that were computed             */
    int      length;            /* of the session that is written        */
    uint8_t *at;                /* into the kept rows, in one fixed order */
} walk;

static int row_bytes(const walk *w, bool index)
{
    return kv_row_bytes(kv_row_format(w->c, kv_is_packed(w->move.k), index));
}

static int frontier_bytes(const walk *w, int ratio, bool index)
{
    return config_series(ratio) * (index ? w->c->index_dim : w->c->head_dim) * (int)sizeof(float);
}

/* The window moves to the end; its positions keep their place within every block,
 * since lengths differ by whole units. */
static void ring(walk *w, int layer)
{
    const int n = min_int(w->c->n_swa, w->real);
    kv_move_ring(&w->move, layer, (w->move.writes ? w->length : w->real) - n, n, w->at);
    w->at += (size_t)n * (size_t)row_bytes(w, false);
}

static void frontier(walk *w, int layer, int ratio, bool index, bool score)
{
    const int kept = min_int(config_kept_tokens(ratio), w->real);
    kv_move_frontier(&w->move, layer, index, score, (w->move.writes ? w->length : w->real) - kept, kept, w->at);
    w->at += (size_t)kept * (size_t)frontier_bytes(w, ratio, index);
}

static void compressed(walk *w, int layer, int ratio, bool index)
{
    const int kept = w->real / ratio, n = w->move.writes ? w->length / ratio : kept;
    for (int r = 0; r < n; r += kept) kv_move_compressed(&w->move, layer, index, r, min_int(kept, n - r), w->at);
    w->at += (size_t)kept * (size_t)row_bytes(w, index);
    frontier(w, layer, ratio, index, false);
    frontier(w, layer, ratio, index, true);
}

static void each_layer(walk *w)
{
    for (int l = 0; l < w->c->n_layer; l++) {
        const int ratio = w->c->ratio[l];
        ring(w, l);
        if (ratio > 0)  compressed(w, l, ratio, false);
        if (ratio == 4) compressed(w, l, ratio, true);
        w->at = (uint8_t *)(((uintptr_t)w->at + 15) & ~(uintptr_t)15);
    }
}

/* At most: every row as wide as the widest. */
static size_t kept_bytes(const walk *w)
{
    const size_t row = (size_t)max_int(row_bytes(w, false), row_bytes(w, true));
    const size_t front = 2u * (size_t)max_int(w->c->head_dim, w->c->index_dim) * sizeof(float);
    const size_t layer = ((size_t)w->c->n_swa + 2u * (size_t)w->real / 4u) * row + 4u * STRETCH_UNIT * front + 64u;
    return (size_t)w->c->n_layer * layer;
}

int stretch_real_tokens(const ds4_engine *e)
{
    const int window = max_int(e->config.n_swa, STRETCH_UNIT);
    return max_int(2 * STRETCH_UNIT, (window + STRETCH_UNIT - 1) / STRETCH_UNIT * STRETCH_UNIT);
}

ds4_status stretch_session(ds4_session *s, int length, ds4_error *err)
{
    const int real = s->kv->length;
    walk w = { .c = &s->engine->config, .move = { .k = s->kv }, .real = real, .length = length };
    if (real % STRETCH_UNIT || length % STRETCH_UNIT || length < real || real < stretch_real_tokens(s->engine))
        return ds4_fail(err, DS4_EARG, "%d computed tokens can not be stretched to %d", real, length);
    uint8_t *kept = aligned_alloc(64, (kept_bytes(&w) + 63) / 64 * 64);
    ds4_token *tokens = malloc((size_t)real * sizeof *tokens);
    ds4_status st = kept && tokens ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory for the rows of %d tokens", real);
    if (!st) {
        memcpy(tokens, s->tokens, (size_t)real * sizeof *tokens);
        w.at = kept;
        each_layer(&w);
        st = kv_move_run(&w.move, err);
    }
    if (!st) {
        ds4_session_reset(s);
        st = kv_grow(s->kv, length, err);
    }
    if (!st) {
        for (int i = 0; i < length; i++) s->tokens[i] = tokens[i % real];
        w.at = kept;
        w.move.writes = true;
        each_layer(&w);
        st = kv_move_run(&w.move, err);
    }
    free(kept);
    free(tokens);
    return st;
}
