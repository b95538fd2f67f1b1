/* kv_rows: rows of a session's memory between its backend and the host. */
#include "model/kv.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/status.h"

/* ---- moves ---------------------------------------------------------------------- */

static void add(kv_move *m, view v, void *host)
{
    if (m->n == m->cap) {
        const int cap = m->cap ? 2 * m->cap : 64;
        move_piece *more = realloc(m->piece, (size_t)cap * sizeof *more);
        if (!more) {
            m->no_memory = true;
            return;
        }
        m->piece = more;
        m->cap = cap;
    }
    m->piece[m->n++] = (move_piece){ v, host };
}

/* Tokens pos..pos+n-1 of rows that token p shares with p + rows: at most two runs where n is no more. */
static void add_ring(kv_move *m, view v, int pos, int n, uint8_t *host)
{
    for (int count; n > 0; pos += count, n -= count, host += (uint64_t)count * v.stride) {
        const int at = pos % (int)v.rows;
        count = min_int(n, (int)v.rows - at);
        add(m, view_rows(v, at, count), host);
    }
}

void kv_move_ring(kv_move *m, int layer, int pos, int n, void *host)
{
    add_ring(m, m->k->memory.layer[layer].ring, pos, n, host);
}

void kv_move_compressed(kv_move *m, int layer, bool index, int row, int n, void *host)
{
    const kv_layer *L = &m->k->memory.layer[layer];
    const view pool = index ? L->index_pool : L->pool;
    uint8_t *at = host;
    for (int count; n > 0; row += count, n -= count, at += (uint64_t)count * pool.stride) {
        count = min_int(n, L->block_rows - row % L->block_rows);
        add(m, view_rows(pool, (int64_t)L->blocks[row / L->block_rows] * L->block_rows + row % L->block_rows, count), at);
    }
}

void kv_move_frontier(kv_move *m, int layer, bool index, bool score, int pos, int n, void *host)
{
    const kv_layer *L = &m->k->memory.layer[layer];
    const compressor_state *s = index ? &L->index : &L->main;
    add_ring(m, score ? s->score[m->k->memory.now] : s->value[m->k->memory.now], pos, n, host);
}

ds4_status kv_move_run(kv_move *m, ds4_error *err)
{
    backend *b = kv_backend(m->k);
    const ds4_status st = m->no_memory ? ds4_fail(err, DS4_EMEMORY, "no memory to move rows of a session")
                        : m->n > 0     ? b->move(b, m->writes, m->piece, m->n, err) : DS4_OK;
    free(m->piece);
    m->piece = NULL;
    m->n = m->cap = 0;
    m->no_memory = false;
    return st;
}

/* ---- points ----------------------------------------------------------------------- */

/* A point's parts in their order: layers' rings, then values and scores of their compressors. */
static void add_point(kv_move *m, int length, uint8_t *host)
{
    const kv *k = m->k;
    const model_config *c = kv_config(k);
    const int window = min_int(length, c->n_swa);
    for (int l = 0; l < c->n_layer; l++) {
        const kv_layer *L = &k->memory.layer[l];
        kv_move_ring(m, l, length - window, window, host);
        host += (uint64_t)window * L->ring.stride;
        if (L->ratio == 0) continue;
        const int kept = min_int(length, config_kept_tokens(L->ratio));
        for (int index = 0; index < (L->ratio == 4 ? 2 : 1); index++)
            for (int score = 0; score < 2; score++) {
                kv_move_frontier(m, l, index, score, length - kept, kept, host);
                host += (uint64_t)kept * (index ? L->index : L->main).value[0].stride;
            }
    }
}

uint64_t kv_point_bytes(const kv *k, int length)
{
    const model_config *c = kv_config(k);
    uint64_t n = 0;
    for (int l = 0; l < c->n_layer; l++) {
        const kv_layer *L = &k->memory.layer[l];
        n += (uint64_t)min_int(length, c->n_swa) * L->ring.stride;
        if (L->ratio == 0) continue;
        const uint64_t kept = (uint64_t)min_int(length, config_kept_tokens(L->ratio));
        n += 2 * kept * L->main.value[0].stride;
        if (L->ratio == 4) n += 2 * kept * L->index.value[0].stride;
    }
    return n;
}

ds4_status kv_point_take(const kv *k, uint8_t *out, ds4_error *err)
{
    kv_move m = { .k = k };
    add_point(&m, k->length, out);
    return kv_move_run(&m, err);
}

ds4_status kv_point_restore(kv *k, int length, const uint8_t *point, ds4_error *err)
{
    kv_move m = { .k = k, .writes = true };
    add_point(&m, length, (uint8_t *)(uintptr_t)point);
    const ds4_status st = kv_move_run(&m, err);
    if (!st) kv_cut(k, length);
    return st;
}
