/* cuda_indexer: launches of the indexer's scores and of the choice of rows.
 *
 * Scratch: the queries of a call as integers, then the candidates of top_k. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

enum {
    TOP_ROWS      = 16,         /* rows whose candidates fit at the largest k of the model, at least */
    SCORE_THREADS = 128,
    BLOCKS_EACH   = 3,          /* blocks of index_scores that a multiprocessor holds                */
    SCORE_TURNS   = 4           /* times that more rows than that fill the card, so that all of it ends together */
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
    return (uint64_t)max_int(TOP_ROWS, l->score_rows) *
           candidates_bytes(div_up(l->max_tokens / 4 + 1, TOP_SLICE), l->index_top_k);
}

uint64_t cuda_indexer_scratch(const backend_limits *l) { return queries_bytes(l) + all_candidates_bytes(l); }

/* ---- scores -------------------------------------------------------------------------------- */

/* How the sessions of a batch keep the indexer's rows: all alike. */
static kv_row key_of(const batch_rows *rows, int layer) { return rows->segment[0].kv->layer[layer].index_row; }

static bool in_integers(kv_row r)
{
    return r.kind == KV_ROW_FP4 && r.width % INDEX_GROUP == 0 && r.width <= 8 * INDEX_GROUP;
}

static int scores_kernel(const index_scores_kernel_args *k)
{
    if (!k->query) return CUDA_index_scores_floats;
    if (k->groups == 4) return k->tiles == 8 ? CUDA_index_scores_full : CUDA_index_scores_4;
    return k->groups == 1 ? CUDA_index_scores_1 : k->groups == 2 ? CUDA_index_scores_2 : CUDA_index_scores_8;
}

/* The integers of n queries of heads of `width`. */
static index_query_kernel_args query_of(const cuda_backend *b, view q, int n_heads)
{
    return (index_query_kernel_args){ cuda_rows(q), b->scratch[CUDA_FAMILY_INDEXER], n_heads,
                                      div_up(n_heads, INDEX_HEADS_TILE),
                                      q.cols / n_heads / INDEX_GROUP };
}

static ds4_status queries_fit(queue *dev, view q, int n_heads)
{
    cuda_backend *b = cuda_of(dev);
    if ((uint64_t)q.rows * query_bytes(n_heads, q.cols / n_heads) <= queries_bytes(&b->o.limits)) return DS4_OK;
    return queue_fail(dev, DS4_EUNSUPPORTED, "%s: %lld queries of %d heads in %d numbers; it was opened for less",
                      b->base.name,
                      (long long)q.rows, n_heads, q.cols);
}

/* made: the rows' integers lie at `made` already; 0: they are made here. */
static ds4_status scores(queue *dev, const index_scores_args *a, gpu_ptr made)
{
    cuda_backend *b = cuda_of(dev);
    const int n = (int)a->q.rows;
    const kv_row key = key_of(a->rows, a->layer);
    const index_query_kernel_args q = query_of(b, a->q, a->n_heads);
    index_scores_kernel_args k = { .q = q.q, .weights = cuda_rows(a->weights), .scores = cuda_rows(a->scores),
                                   .key = cuda_kv_row(key), .first = a->first, .ratio = a->ratio,
                                   .n_heads = a->n_heads, .tiles = q.tiles, .groups = q.groups,
                                   .scale = a->scale };
    ds4_status st = in_integers(key) ? queries_fit(dev, a->q, a->n_heads) : DS4_OK;
    if (st) return st;
    cuda_op(b);
    st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    cuda_reads(b, a->weights);
    cuda_reads_memory(b, a->layer, CUDA_INDEX_POOL);
    cuda_writes(b, a->scores);
    if (made) {
        k.query = made;
        cuda_reads_at(b, made, (uint64_t)n * INDEX_QUERY_BYTES(q.tiles, q.groups));
    } else {
        cuda_reads(b, a->q);
    }
    if (!made && in_integers(key)) {
        k.query = q.query;
        cuda_writes_at(b, q.query, (uint64_t)n * INDEX_QUERY_BYTES(q.tiles, q.groups));
        if (!st) st = CUDA_LAUNCH(dev, index_query, cuda_grid(div_up(q.tiles * INDEX_HEADS_TILE * q.groups, 8), n, 1),
                                  256, 0, q);
    }
    /* Blocks for the longest session there may be, no more than the card holds at once. */
    const int most = div_up(a->scores.cols, INDEX_KEYS_TILE * (SCORE_THREADS / 32));
    const int at_once = BLOCKS_EACH * b->device->info.n_sm;
    const int each = n <= TOP_ROWS ? at_once / max_int(n, 1) : div_up(SCORE_TURNS * at_once, n);
    const int blocks = min_int(most, max_int(1, each));
    const unsigned shared = (unsigned)(k.tiles * INDEX_HEADS_TILE * (8 * k.groups + 4));
    if (!st) st = cuda_launch(dev, scores_kernel(&k), cuda_grid(blocks, n, 1), SCORE_THREADS, k.query ? shared : 0,
                              &k, sizeof k);
    return cuda_done(dev, st);
}

static ds4_status index_scores(queue *dev, const index_scores_args *a) { return scores(dev, a, 0); }

/* ---- the choice ------------------------------------------------------------------------------ */

static ds4_status top_k(queue *dev, const top_k_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int n = (int)a->selected.rows, k = a->selected.cols, slices = div_up(a->scores.cols, TOP_SLICE);
    const uint64_t room = all_candidates_bytes(&b->o.limits), each = candidates_bytes(slices, k);
    const int at_once = each ? min_int(n, (int)min_u64(room / each, INT32_MAX)) : n;
    if (k < 1 || k > TOP_SLICE || (n > 0 && at_once < 1))
        return queue_fail(dev, DS4_EUNSUPPORTED,
                          "%s: the %d largest of %d scores; it was opened for %d of sessions of %d tokens",
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
                                         .pos = batch.pos + (uint64_t)(a->first + first) * sizeof(int32_t),
                                         .key = candidates, .row = candidates + (uint64_t)rows * each / 2,
                                         .ratio = a->ratio, .slices = slices };
        st = CUDA_LAUNCH(dev, top_k_slice, cuda_grid(slices, rows, 1), 1024, 0, args);
        if (!st && slices > 1) st = CUDA_LAUNCH(dev, top_k_merge, cuda_grid(rows, 1, 1), 1024, 0, args);
    }
    return cuda_done(dev, st);
}

/* ---- the stage ------------------------------------------------------------------------------- */

/* q rotated, rounded, and as integers at scratch's front, in one pass. */
static ds4_status round_queries(queue *dev, const select_rows_args *a)
{
    cuda_backend *b = cuda_of(dev);
    gpu_batch batch;
    cuda_op(b);
    const ds4_status st = cuda_batch(dev, a->rows, -1, &batch);
    const index_query_round_kernel_args k = { query_of(b, a->q, a->n_heads), batch.pos, cuda_rope(a->rope, false) };
    cuda_reads(b, a->q);
    cuda_writes(b, a->q);
    cuda_writes_at(b, k.to.query, (uint64_t)a->q.rows * INDEX_QUERY_BYTES(k.to.tiles, k.to.groups));
    const unsigned shared = (unsigned)(INDEX_HEADS_TILE * k.to.groups * INDEX_GROUP) * (unsigned)sizeof(float);
    return cuda_done(dev, st ? st : CUDA_LAUNCH(dev, index_query_round, cuda_grid(k.to.tiles, a->q.rows, 1), 256,
                                                shared, k));
}

/* What the default does, with one kernel between q's product and the scores. */
static ds4_status select_rows(queue *dev, const select_rows_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int T = a->rows->n, tile = (int)a->scores.rows;
    if (a->kind != ROUND_HADAMARD_FP4 || !in_integers(key_of(a->rows, a->layer))) {
        ops defaults;
        ops_default_stages(&defaults);
        return defaults.select_rows(dev, a);
    }
    ds4_status st = queries_fit(dev, a->q, a->n_heads);
    if (!st) st = dev->ops->matmul(dev, &(matmul_args){ .w = a->q_b, .x = a->latent, .y = a->q, .layer = a->layer,
                                                        .name = "indexer.attn_q_b" });
    if (!st) st = round_queries(dev, a);
    if (!st) st = dev->ops->matmul(dev, &(matmul_args){ .w = a->proj, .x = a->x, .y = a->weights, .layer = a->layer,
                                                        .name = "indexer.proj" });

    const index_query_kernel_args q = query_of(b, a->q, a->n_heads);
    for (int first = 0; first < T && !st; first += tile) {
        const int n = min_int(tile, T - first);
        const view of_tile = view_rows(a->scores, 0, n);
        st = scores(dev, &(index_scores_args){ .q = view_rows(a->q, first, n),
                                               .weights = view_rows(a->weights, first, n), .scores = of_tile,
                                               .rows = a->rows, .first = first, .n_heads = a->n_heads,
                                               .scale = a->scale, .layer = a->layer, .ratio = a->ratio },
                    q.query + (uint64_t)first * INDEX_QUERY_BYTES(q.tiles, q.groups));
        if (!st) st = top_k(dev, &(top_k_args){ .scores = of_tile, .selected = view_rows(a->selected, first, n),
                                                .rows = a->rows,
                                                .first = first, .ratio = a->ratio, .layer = a->layer });
    }
    return st;
}

/* Rounding makes steps of tiny differences, and a choice makes others of those: products that differ in
 * their last bits may choose other rows, rightly. check: can judge the parts alone, each on equal numbers,
 * so under it (and in a trace) the stage stays its definition. */
void cuda_indexer_stages(cuda_backend *b)
{
    if (!b->o.mirrored) b->base.ops.select_rows = select_rows;
}

void cuda_indexer_ops(ops *o)
{
    o->index_scores = index_scores;
    o->top_k = top_k;
}
