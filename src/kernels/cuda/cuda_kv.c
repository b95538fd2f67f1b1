/* cuda_kv: launches of the ops that rotate, round and store rows of K, and the stages around attention. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

static const int32_t rounding[] = { [ROUND_NONE] = GPU_ROUND_NONE, [ROUND_FP8] = GPU_ROUND_FP8,
                                    [ROUND_HADAMARD_FP4] = GPU_ROUND_FP4 };

static unsigned whole_warps(int n) { return (unsigned)(max_int(n, 1) + 31) / 32u * 32u; }

/* Memory of a row as this session keeps it; all sessions of a batch keep it alike. */
static const kv_layer *layer_of(const batch_rows *rows, int layer) { return &rows->segment[0].kv->layer[layer]; }

static ds4_status hadamard_width(queue *dev, int width)
{
    if (width <= GPU_MAX_HADAMARD) return DS4_OK;
    return queue_fail(dev, DS4_EUNSUPPORTED, "an indexer of width %d; the CUDA backend rounds rows of up to %d", width,
                      GPU_MAX_HADAMARD);
}

/* ---- rotation and rounding ---------------------------------------------------------------- */

/* Within an op. Blocks of 256 pairs, so that one row keeps several multiprocessors busy. next: the type of a weight
 * that multiplies whole rows of x next; F32 where there is none. */
static ds4_status rotate(queue *dev, view x, int n_heads, rope r, bool inverse, const batch_rows *rows, quant_type next)
{
    gpu_batch batch;
    gpu_codes codes[2] = { { 0 } };
    const bool whole = x.cols / n_heads % 32 == 0 && r.n_rot % 32 == 0 && quant_get(next)->dot_type != QUANT_Q8_K;
    ds4_status st = cuda_batch(dev, rows, -1, &batch);
    if (!st && whole) st = cuda_codes_beside(dev, x, &next, 1, codes);
    if (st) return st;
    const rope_kernel_args k = { .x = cuda_rows(x), .pos = batch.pos, .rope = cuda_rope(r, inverse), .n_heads = n_heads,
                                 .width = x.cols / n_heads };
    const rope_codes_args both = { k, codes[0] };
    if (both.q.codes) return CUDA_LAUNCH(dev, rope_codes, cuda_grid((x.cols + 255) / 256, rows->n, 1), 256, 0, both);
    const int pairs = n_heads * (r.n_rot / 2), blocks = min_int((pairs + 255) / 256, 8);
    return CUDA_LAUNCH(dev, rope_tail, cuda_grid(blocks, rows->n, 1), pairs < 256 ? whole_warps(pairs) : 256, 0, k);
}

static ds4_status rope_tail(queue *dev, const rope_tail_args *a)
{
    cuda_backend *b = cuda_of(dev);
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->x);
    return cuda_done(dev, rotate(dev, a->x, a->n_heads, a->rope, a->inverse, a->rows, QUANT_F32));
}

static ds4_status kv_round(queue *dev, const kv_round_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const kv_round_kernel_args k = { cuda_rows(a->x), a->n_round };
    const bool fp4 = a->kind == ROUND_HADAMARD_FP4;
    const int64_t items = a->x.rows * (fp4 ? 1 : (a->n_round + KV_FP8_GROUP - 1) / KV_FP8_GROUP);
    if (a->kind == ROUND_NONE) return DS4_OK;
    ds4_status st = fp4 ? hadamard_width(dev, a->x.cols) : DS4_OK;
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->x);
    if (!st && fp4) st = CUDA_LAUNCH(dev, kv_round_fp4, cuda_grid((items + 7) / 8, 1, 1), 256, 0, k);
    if (!st && !fp4) st = CUDA_LAUNCH(dev, kv_round_fp8, cuda_grid((items + 7) / 8, 1, 1), 256, 0, k);
    return cuda_done(dev, st);
}

/* ---- the ring ------------------------------------------------------------------------------- */

static ds4_status kv_write(queue *dev, const kv_write_args *a)
{
    cuda_backend *b = cuda_of(dev);
    kv_write_kernel_args k = { .x = cuda_rows(a->x), .row = cuda_kv_row(layer_of(a->rows, a->layer)->row) };
    cuda_op(b);
    ds4_status st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    cuda_reads(b, a->x);
    cuda_writes_memory(b, a->layer, CUDA_RING);
    if (!st) st = CUDA_LAUNCH(dev, kv_write, cuda_grid(a->rows->n, 1, 1), 256, 0, k);
    return cuda_done(dev, st);
}

/* ---- the compressor --------------------------------------------------------------------------- */

/* Up to so many rows one block does all of a segment's work, in one launch. */
enum { SHORT_STEP = 16 };

static ds4_status compress(queue *dev, const compress_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const kv_layer *l = layer_of(a->rows, a->layer);
    const int n = a->rows->n, segments = a->rows->n_segments;
    const bool one = n <= SHORT_STEP;
    ds4_status st = a->kind == ROUND_HADAMARD_FP4 ? hadamard_width(dev, a->width) : DS4_OK;
    if (st) return st;
    compress_kernel_args k = {
        .value = cuda_rows(a->value), .score = cuda_rows(a->score), .ape = cuda_rows(a->ape),
        .ape_bits = a->ape.type == QUANT_F32 ? 32 : a->ape.type == QUANT_F16 ? 16 : 17, .index = a->index,
        .ratio = a->ratio,
        .width = a->width, .keep = one, .row = cuda_kv_row(a->index ? l->index_row : l->row),
        .finish = { cuda_rows(a->norm).at, cuda_rope(a->rope, false), a->eps, rounding[a->kind], a->n_round } };
    cuda_op(b);
    st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    cuda_reads(b, a->value);
    cuda_reads(b, a->score);
    cuda_reads(b, a->ape);
    cuda_reads(b, a->norm);
    cuda_writes(b, a->score);
    cuda_reads_memory(b, a->layer, a->index ? CUDA_INDEX_STATE : CUDA_STATE);
    cuda_writes_memory(b, a->layer, a->index ? CUDA_INDEX_POOL | CUDA_INDEX_STATE : CUDA_POOL | CUDA_STATE);

    const unsigned threads = (unsigned)min_int((int)whole_warps(a->width), 512);
    const int64_t blocks = one ? 1 : n / a->ratio + 1;      /* as many as a segment of all rows can complete */
    if (!st) st = CUDA_LAUNCH(dev, compress, cuda_grid(blocks, segments, 1), threads, (unsigned)a->width * 4u, k);
    if (!st && !one) st = CUDA_LAUNCH(dev, compress_keep, cuda_grid(max_int(16, 1024 / segments), segments, 1),
                                      threads, 0, k);
    return cuda_done(dev, st);
}

/* ---- stages ------------------------------------------------------------------------------------ */

/* The products and the norm between them as ops of their own; norm and rotation of the heads in one pass. */
static ds4_status q_path(queue *dev, const q_path_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const int warps = a->rows->n <= CUDA_FEW_ROWS ? 2 : 8;  /* a head each: one row on many multiprocessors */
    gpu_batch batch;
    ds4_status st = dev->ops->matmul(dev, &(matmul_args){ .w = a->q_a, .x = a->x, .y = a->latent, .layer = a->layer,
                                                          .name = "attn_q_a" });
    if (!st)
        st = cuda_rms_norm(dev, &(rms_norm_args){ .x = a->latent, .y = a->latent, .weight = a->q_a_norm, .eps = a->eps,
                                                  .layer = a->layer, .name = "attn_q_a_norm" }, &a->q_b.type, 1);
    if (!st)
        st = dev->ops->matmul(dev, &(matmul_args){ .w = a->q_b, .x = a->latent, .y = a->q, .layer = a->layer,
                                                   .name = "attn_q_b" });
    if (st) return st;

    cuda_op(b);
    st = cuda_batch(dev, a->rows, -1, &batch);
    cuda_reads(b, a->q);
    cuda_writes(b, a->q);
    const rope_kernel_args k = { .x = cuda_rows(a->q), .pos = batch.pos, .rope = cuda_rope(a->rope, false),
                                 .n_heads = a->n_heads,
                                 .width = a->q.cols / a->n_heads, .eps = a->eps };
    if (!st) st = CUDA_LAUNCH(dev, head_norm_rope, cuda_grid((a->n_heads + warps - 1) / warps, a->rows->n, 1),
                              32u * (unsigned)warps, 0, k);
    return cuda_done(dev, st);
}

static ds4_status kv_path(queue *dev, const kv_path_args *a)
{
    cuda_backend *b = cuda_of(dev);
    ds4_status st = a->kind == ROUND_HADAMARD_FP4 ? hadamard_width(dev, a->row.cols) : DS4_OK;
    if (!st) st = dev->ops->matmul(dev, &(matmul_args){ .w = a->kv, .x = a->x, .y = a->row, .layer = a->layer,
                                                        .name = "attn_kv" });
    if (st) return st;

    kv_store_kernel_args k = { .x = cuda_rows(a->row), .row = cuda_kv_row(layer_of(a->rows, a->layer)->row),
                               .finish = { cuda_rows(a->norm).at, cuda_rope(a->rope, false), a->eps, rounding[a->kind],
                                           a->n_round } };
    cuda_op(b);
    st = cuda_batch(dev, a->rows, a->layer, &k.batch);
    cuda_reads(b, a->row);
    cuda_reads(b, a->norm);
    cuda_writes(b, a->row);
    cuda_writes_memory(b, a->layer, CUDA_RING);
    const unsigned threads = (unsigned)min_int((int)whole_warps(a->row.cols), 512);
    if (!st) st = CUDA_LAUNCH(dev, kv_store, cuda_grid(a->rows->n, 1, 1), threads, (unsigned)a->row.cols * 4u, k);
    return cuda_done(dev, st);
}

/* One op, so that all groups' products are one launch and their codes are made once. */
static ds4_status attn_out(queue *dev, const attn_out_args *a)
{
    cuda_backend *b = cuda_of(dev);
    cuda_op(b);
    cuda_reads(b, a->heads);
    cuda_writes(b, a->heads);
    cuda_writes(b, a->low);
    cuda_writes(b, a->y);
    const quant_type next = a->rows->n <= CUDA_FEW_ROWS ? a->a.type : QUANT_F32;    /* else a group's columns each time */
    ds4_status st = rotate(dev, a->heads, a->n_heads, a->rope, true, a->rows, next);
    if (!st) st = cuda_products_grouped(dev, a->a, a->low.cols / a->n_groups, a->heads, a->low);
    if (!st) st = cuda_products(dev, a->b, a->low, a->y);
    return cuda_done(dev, st);
}

void cuda_kv_ops(ops *o)
{
    o->rope_tail = rope_tail;
    o->kv_round = kv_round;
    o->kv_write = kv_write;
    o->compress = compress;
    o->q_path = q_path;
    o->kv_path = kv_path;
    o->attn_out = attn_out;
}
