/* cuda_indexer: launches of the indexer's scores and of the choice of rows.
 *
 * Scratch: the queries of a call as integers, then the candidates of top_k. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

enum {
    TOP_ROWS     = 16,          /* rows whose candidates fit at the largest k of the model */
    SCORE_THREADS = 128,
    BLOCKS_EACH  = 4            /* blocks of index_scores that a multiprocessor holds      */
};

static int div_up(int64_t n, int64_t by) { return (int)((n + by - 1) / by); }

/* ---- scratch ------------------------------------------------------------------------------- */

static uint64_t query_bytes(int n_heads, int width)
{
    return INDEX_QUERY_BYTES(div_up(n_heads, INDEX_HEADS_TILE), width / INDEX_GROUP);
}

static uint64_t queries_bytes(const backend_limits *l)
{
    return (uint64_t)l->max_rows * query_bytes(l->index_heads, l->index_width);
}

/* Candidates of one row; one slice needs none. */
static uint64_t candidates_bytes(int slices, int k) { return slices > 1 ? (uint64_t)slices * (uint64_t)k * 8 : 0; }

static uint64_t all_candidates_bytes(const backend_limits *l)
{
    return TOP_ROWS * candidates_bytes(div_up(l->max_tokens / 4 + 1, TOP_SLICE), l->index_top_k);
}

uint64_t cuda_indexer_scratch(const backend_limits *l) { return queries_bytes(l) + all_candidates_bytes(l); }

/* ---- scores -------------------------------------------------------------------------------- */

/* How the sessions of a batch keep the indexer's rows: all alike. */
static kv_row key_of(const batch_rows *rows, int layer) { return rows->segment[0].kv->layer[layer].index_row; }

static bool in_integers(kv_row r) { return r.kind == KV_ROW_FP4 && r.width % INDEX_GROUP == 0 && r.width <= 8 * INDEX_GROUP; }

static int scores_kernel(const index_scores_kernel_args *k)
{
    if (!k->query) return CUDA_index_scores_floats;
    if (k->groups == 4) return k->tiles == 8 ? CUDA_index_scores_full : CUDA_index_scores_4;
    return k->groups == 1 ? CUDA_index_scores_1 : k->groups == 2 ? CUDA_index_scores_2 : CUDA_index_scores_8;
}

static ds4_status index_scores(queue *dev, const index_scores_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int n = (int)a->q.rows, width = a->q.cols / a->n_heads;
    const kv_row key = key_of(a->rows, a->layer);
    index_scores_kernel_args k = { .q = cuda_rows(a->q), .weights = cuda_rows(a->weights), .scores = cuda_rows(a->scores),
                                   .key = cuda_kv_row(key), .first = a->first, .ratio = a->ratio, .n_heads = a->n_heads,
                                   .tiles = div_up(a->n_heads, INDEX_HEADS_TILE), .groups = width / INDEX_GROUP, .scale = a->scale };
    const uint64_t room = queries_bytes(&b->o.limits);
    cuda_op(b);
    ds4_status st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    if (st) return cuda_done(dev, st);
    cuda_reads(b, a->q);
    cuda_reads(b, a->weights);
    cuda_reads_memory(b, a->rows, a->layer, CUDA_INDEX_POOL);
    cuda_writes(b, a->scores);

    if (in_integers(key)) {
        const int heads = k.tiles * INDEX_HEADS_TILE;
        k.query = b->scratch[CUDA_FAMILY_INDEXER];
        if ((uint64_t)n * query_bytes(a->n_heads, width) > room)
            st = queue_fail(dev, DS4_EUNSUPPORTED, "%s: %d queries of %d heads of %d; it was opened for less", b->base.name, n, a->n_heads, width);
        cuda_writes_at(b, k.query, room);
        const index_query_kernel_args q = { k.q, k.query, a->n_heads, k.tiles, k.groups };
        if (!st) st = CUDA_LAUNCH(dev, index_query, cuda_grid(div_up(heads * k.groups, 8), n, 1), 256, 0, q);
    }
    /* Blocks for the longest session there may be, no more than the card holds at once. */
    const int most = div_up(a->scores.cols, INDEX_KEYS_TILE * (SCORE_THREADS / 32));
    const int blocks = min_int(most, max_int(1, BLOCKS_EACH * b->device->info.n_sm / max_int(n, 1)));
    const unsigned shared = (unsigned)(k.tiles * INDEX_HEADS_TILE * (8 * k.groups + 4));
    if (!st) st = cuda_launch(dev, scores_kernel(&k), cuda_grid(blocks, n, 1), SCORE_THREADS, k.query ? shared : 0, &k, sizeof k);
    return cuda_done(dev, st);
}

/* ---- the choice ------------------------------------------------------------------------------ */

static ds4_status top_k(queue *dev, const top_k_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int n = (int)a->selected.rows, k = a->selected.cols, slices = div_up(a->scores.cols, TOP_SLICE);
    const uint64_t room = all_candidates_bytes(&b->o.limits), each = candidates_bytes(slices, k);
    const int at_once = each ? min_int(n, (int)min_u64(room / each, INT32_MAX)) : n;
    if (k < 1 || k > TOP_SLICE || (n > 0 && at_once < 1))
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: the %d largest of %d scores; it was opened for %d of sessions of %d tokens",
                          b->base.name, k, a->scores.cols, b->o.limits.index_top_k, b->o.limits.max_tokens);
    gpu_batch batch;
    cuda_op(b);
    ds4_status st = cuda_batch(dev, a->rows, -1, &batch);
    const gpu_ptr candidates = b->scratch[CUDA_FAMILY_INDEXER] + queries_bytes(&b->o.limits);
    cuda_reads(b, a->scores);
    cuda_writes(b, a->selected);
    if (each) cuda_writes_at(b, candidates, room);
    for (int first = 0; first < n && !st; first += at_once) {
        const int rows = min_int(at_once, n - first);
        const top_k_kernel_args args = { .scores = cuda_rows(view_rows(a->scores, first, rows)),
                                         .selected = cuda_rows(view_rows(a->selected, first, rows)),
                                         .pos = batch.pos + (uint64_t)(a->first + first) * sizeof(int32_t), .key = candidates,
                                         .row = candidates + (uint64_t)rows * each / 2, .ratio = a->ratio, .slices = slices };
        st = CUDA_LAUNCH(dev, top_k_slice, cuda_grid(slices, rows, 1), 1024, 0, args);
        if (!st && slices > 1) st = CUDA_LAUNCH(dev, top_k_merge, cuda_grid(rows, 1, 1), 1024, 0, args);
    }
    return cuda_done(dev, st);
}

void cuda_indexer_ops(ops *o)
{
    o->index_scores = index_scores;
    o->top_k = top_k;
}
