/* token_bytes: what one decoded token reads from memory, tensor by tensor.
 *
 * Summed over a tensor table, never taken from a file's size: routed experts
 * count by how many a token uses, tables by the one row that is read, and the
 * indexer's query only where a context is long enough that it chooses. KV rows
 * are added for a given length of the context. Any thread. */
#ifndef BENCH_TOKEN_BYTES_H
#define BENCH_TOKEN_BYTES_H

#include <stdint.h>
#include "factory/tensors.h"
#include "gguf/gguf.h"
#include "model/config.h"

typedef struct {
    uint64_t weights[CLASS_COUNT];  /* bytes of a step of one token                       */
    uint64_t index_query;           /* part of CLASS_INDEXER that short contexts leave out */
    uint64_t matrix_macs;           /* multiply-adds of the matrix products, per token    */
    /* what KV and batches need to know of the shape */
    int      n_layer, ratio[CONFIG_MAX_LAYERS];
    int      n_swa, index_top_k, n_expert, n_used;
} token_bytes;

/* From the table of a file. */
void token_bytes_of_file(token_bytes *t, const gguf *g, const model_config *c);

/* From a published recipe, "q2" or "q4", of the released shape. */
ds4_status token_bytes_of_recipe(token_bytes *t, const char *recipe, ds4_error *err);

/* KV bytes that one token reads behind `depth` others, with stored rows of so many
 * bytes for attention and for the indexer. */
uint64_t token_bytes_kv(const token_bytes *t, int depth, int row_bytes, int index_row_bytes);

/* Weight bytes of a step with one token in each of `sessions` sessions that are
 * `depth` tokens long, when the routers choose independently: each expert that
 * anybody chose is read once. */
uint64_t token_bytes_step(const token_bytes *t, int sessions, int depth);

#endif
