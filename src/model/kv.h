/* kv: the attention memory of one session [docs/model.md 4.13].
 *
 * Owns the ring of window rows, the compressed rows and the compressor states of
 * every layer. Knows positions and rows; knows nothing of tokens, text or files.
 * Engine thread only.
 *
 * Transactions: a step writes rows at positions >= length. kv_commit moves the
 * length; without it the next step simply writes them again. For that the ring
 * is a step longer than the window, and compressor states exist twice: short
 * runs use the slack in one copy, longer ones write the other. */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#include "kernels/backend.h"
#include "model/config.h"

/* Compressed rows of all sessions come from one pool per ratio, in blocks that
 * cover KV_BLOCK_TOKENS tokens. Layers of one ratio grow in step, so a session
 * needs one table of blocks per ratio. */
#define KV_BLOCK_TOKENS 1024
#define KV_STATE_SLACK  16      /* tokens a step may add within one copy of the states */

typedef struct kv_pool kv_pool;

typedef struct {
    int        max_sessions;
    int        max_tokens;      /* of one session                                 */
    int        other_tokens;    /* of all sessions but one; 0: as long            */
    int        side_tokens;     /* one session more, of this length; 0: none      */
    int        max_step;        /* most tokens one step adds to a session         */
    bool       packed;          /* rows as codes; only for rounded ones (kv_row.h) */
} kv_options;

/* How rows are stored: of attention, or of the indexer. */
kv_row     kv_row_format(const model_config *c, bool packed, bool index);

ds4_status kv_pool_open(kv_pool **out, const model_config *c, const kv_options *o, backend *b, ds4_error *err);
void       kv_pool_close(kv_pool *p);

/* Memory of all sessions at their full length, the side session too. */
uint64_t   kv_bytes(const model_config *c, const kv_options *o);
/* Of them, what grows with the tokens: compressed and indexer rows. */
uint64_t   kv_growing_bytes(const model_config *c, const kv_options *o);

typedef struct kv {
    kv_memory           memory; /* as the ops see it                        */
    kv_pool            *pool;   /* borrowed                                 */
    int                 length; /* committed tokens                         */
    int                 capacity;
    int32_t            *blocks[2];          /* [max blocks] for ratio 4 and 128 */
    int                 n_blocks[2];
    buf                *store;  /* rings and states of all layers           */
} kv;

ds4_status kv_open(kv **out, kv_pool *p, int capacity, ds4_error *err);
void       kv_close(kv *k);                     /* gives its blocks back */
void       kv_clear(kv *k);                     /* length 0, blocks given back */
uint64_t   kv_bytes_used(const kv *k);

/* Prepares for a step of n tokens: blocks for its rows, the states' copy to
 * write. DS4_EFULL: capacity or pool; nothing has changed then. */
ds4_status kv_begin(kv *k, int n, ds4_error *err);
/* The first n tokens of that step are now part of the timeline; fewer than the
 * step had only when it was no longer than KV_STATE_SLACK. */
void       kv_commit(kv *k, int n);

/* A point to come back to: everything at the present length that is not append
 * only, as one block of bytes. restore needs a point taken from this kv
 * and a length whose compressed rows are still there. */
uint64_t   kv_point_bytes(const kv *k, int length);
ds4_status kv_point_take(const kv *k, uint8_t *out, ds4_error *err);
/* A failure leaves the length; rows may be half written, so clear it. */
ds4_status kv_point_restore(kv *k, int length, const uint8_t *point, ds4_error *err);

/* Rows between the session and the host, for checkpoints and points: add what is to be moved, then run, which
 * is one transfer for a device. Rows are as they are stored, frontiers floats; the host's lie one after another.
 *
 *     kv_move m = { .k = k };
 *     kv_move_ring(&m, layer, pos, n, out);
 *     st = kv_move_run(&m, err);               // ends it; m may be filled again
 *
 * Ring rows must be among the last n_swa, compressed rows below length / ratio, frontier tokens among those
 * the compressor keeps. Compressed rows below the committed length do not change until the kv is cleared,
 * restored or filled: another thread may read those. */
typedef struct {
    const kv   *k;
    bool        writes;         /* from the host into the session */
    move_piece *piece;          /* owned until run */
    int         n, cap;
    bool        no_memory;
} kv_move;

void       kv_move_ring(kv_move *m, int layer, int pos, int n, void *host);
void       kv_move_compressed(kv_move *m, int layer, bool index, int row, int n, void *host);
void       kv_move_frontier(kv_move *m, int layer, bool index, bool score, int pos, int n, void *host);
ds4_status kv_move_run(kv_move *m, ds4_error *err);

/* For filling an empty kv: kv_grow to the length first, then every row. */
ds4_status kv_grow(kv *k, int length, ds4_error *err);
/* The timeline ends at length; its states must be those of that length. */
void       kv_cut(kv *k, int length);
bool       kv_is_packed(const kv *k);
backend   *kv_backend(const kv *k);
const model_config *kv_config(const kv *k);

#endif
