/* cuda_rows: launches of the ops that treat each row on its own. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

enum {
    FEW_ROWS   = 16,            /* up to so many rows the slices of hyper-connections are short       */
    SLICE_FEW  = 128,           /* columns: a row of 16384 is read by 128 blocks                      */
    SLICE_MANY = 1024,          /* rows fill the card: fewer sums to write and to add                 */
    SUM_ROWS   = 8,             /* rows of a block of hc_sums_8                                       */
    EMBED_ROWS = 256            /* rows of a quantised table that are decoded at once                 */
};

/* Rows of floats may be read four at a time. */
static bool is_wide(gpu_rows r) { return r.at % 16 == 0 && r.stride % 4 == 0 && r.cols % 4 == 0; }

/* Whole warps for n numbers, at most `most`. */
static unsigned threads_for(int n, int least, int most)
{
    return (unsigned)max_int(least, min_int((n + 31) / 32 * 32, most));
}

static int slices_of(int n, int slice) { return (n + slice - 1) / slice; }

/* ---- scratch ------------------------------------------------------------------------------- */

static int slice_of(int rows) { return rows <= FEW_ROWS ? SLICE_FEW : SLICE_MANY; }

/* Bytes of the sums of one row. */
static uint64_t sums_bytes(int n_mix, int slices) { return (uint64_t)(n_mix + 1) * (uint64_t)slices * sizeof(float); }

/* Sums of the most rows of either kind at this width. */
static uint64_t hc_scratch(const backend_limits *l, int cols)
{
    const int S = max_int(l->n_streams, 1), n_mix = (2 + S) * S;
    const uint64_t few = (uint64_t)min_int(l->max_rows, FEW_ROWS) * sums_bytes(n_mix, slices_of(cols, SLICE_FEW));
    const uint64_t many = (uint64_t)l->max_rows * sums_bytes(n_mix, slices_of(cols, SLICE_MANY));
    return max_u64(few, many);
}

/* Bytes of the sums; planes of embedded rows lie behind them. A stream is at most as wide as the widest
 * input of a product. */
static uint64_t sums_room(const backend_limits *l)
{
    return round_up(hc_scratch(l, max_int(l->n_streams, 1) * l->max_cols), PLANE_ALIGN);
}

/* Planes of EMBED_ROWS rows: no type with blocks takes more than 9 bits a number. */
static uint64_t embed_bytes(const backend_limits *l)
{
    return (uint64_t)EMBED_ROWS * (uint64_t)l->max_cols / 8 * 9 + PLANES_MAX * PLANE_ALIGN;
}

uint64_t cuda_rows_scratch(const backend_limits *l) { return sums_room(l) + embed_bytes(l); }

/* ---- norm, activation, sum ----------------------------------------------------------------- */

ds4_status cuda_rms_norm(queue *dev, const rms_norm_args *a, const quant_type *next, int n)
{
    cuda_backend *b = cuda_of(dev);
    rms_norm_kernel_args k = { .x = cuda_rows(a->x), .y = cuda_rows(a->y), .weight = cuda_rows(a->weight).at,
                               .eps = a->eps };
    k.wide = is_wide(k.x) && is_wide(k.y) && k.weight % 16 == 0;
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_reads(b, a->weight);
    cuda_writes(b, a->y);
    gpu_codes codes[2];
    const ds4_status st = cuda_codes_beside(dev, a->y, next, n, codes);
    k.by_32 = codes[0];
    k.by_256 = codes[1];
    const unsigned threads = threads_for(k.wide ? a->x.cols / 4 : a->x.cols, 32, 1024);
    return cuda_done(dev, st ? st : CUDA_LAUNCH(dev, rms_norm, cuda_grid(a->x.rows, 1, 1), threads, 0, k));
}

static ds4_status rms_norm(queue *dev, const rms_norm_args *a) { return cuda_rms_norm(dev, a, NULL, 0); }

static ds4_status pairs(queue *dev, int kernel, view u, view v, view y, float limit)
{
    cuda_backend *b = cuda_of(dev);
    pair_kernel_args k = { .a = cuda_rows(u), .b = cuda_rows(v), .y = cuda_rows(y), .limit = limit };
    k.wide = is_wide(k.a) && is_wide(k.b) && is_wide(k.y);
    cuda_op(b);
    cuda_reads(b, u);
    cuda_reads(b, v);
    cuda_writes(b, y);
    /* Rows go into the grid's second dimension, which ends at 65535. */
    ds4_status st = DS4_OK;
    const int n = k.wide ? y.cols / 4 : y.cols;
    const unsigned threads = threads_for(n, 32, 256);
    for (int64_t first = 0; first < y.rows && !st; first += 65535) {
        pair_kernel_args part = k;
        part.a.at += (uint64_t)first * u.stride;
        part.b.at += (uint64_t)first * v.stride;
        part.y.at += (uint64_t)first * y.stride;
        const int64_t rows = y.rows - first < 65535 ? y.rows - first : 65535;
        st = cuda_launch(dev, kernel, cuda_grid((n + (int)threads - 1) / (int)threads, rows, 1), threads, 0, &part,
                         sizeof part);
    }
    return cuda_done(dev, st);
}

static ds4_status swiglu(queue *dev, const swiglu_args *a)
{
    return pairs(dev, CUDA_swiglu, a->gate, a->up, a->y, a->limit);
}

static ds4_status add(queue *dev, const add_args *a) { return pairs(dev, CUDA_add, a->a, a->b, a->y, 0.0f); }

/* ---- embedding ------------------------------------------------------------------------------- */

#define EMBED_OF_TYPE(X, type) [QUANT_##type] = CUDA_embed_##type,
static const int embed_kernels[QUANT_COUNT] = { EMBED_TYPES(EMBED_OF_TYPE, ) };

/* n rows from the batch's row `first` on. */
static ds4_status embed_blocks(queue *dev, embed_kernel_args k, int first, int n)
{
    cuda_backend *b = cuda_of(dev);
    const planes_of_type *t = planes_of(k.type);
    const int blocks = k.cols / t->block_len;
    k.cut = b->scratch[CUDA_FAMILY_ROWS] + sums_room(&b->o.limits);
    k.token += (uint64_t)first * sizeof(int32_t);
    k.streams.at += (uint64_t)first * (uint64_t)k.streams.stride * sizeof(float);
    embed_cut_kernel_args cut = { .table = k.table, .token = k.token, .row_bytes = k.row_bytes, .planes = t->n,
                                  .blocks = blocks,
                                  .block_bytes = t->block_bytes };
    for (int p = 0; p < t->n; p++) {
        cut.plane[p] = k.cut + planes_offset(t, (int64_t)n * blocks, p);
        cut.first[p] = t->plane[p].first;
        cut.len[p] = t->plane[p].len;
    }
    const ds4_status st = CUDA_LAUNCH(dev, embed_cut, cuda_grid(n, 1, 1), 256, 0, cut);
    return st ? st : cuda_launch(dev, embed_kernels[k.type], cuda_grid(slices_of(k.cols, 32 * 64), n, 1), 64, 0, &k,
                                 sizeof k);
}

static ds4_status embed_rows(queue *dev, const embed_rows_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const quant_info *type = quant_get(a->table.type);
    const int T = a->rows->n;
    gpu_batch rows;
    if (!planes_of((int)a->table.type) || a->table.cols > b->o.limits.max_cols)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: an embedding of %s in rows of %d", b->base.name, type->name,
                          a->table.cols);
    cuda_op(b);
    ds4_status st = cuda_batch(dev, a->rows, -1, &rows);
    if (st) return cuda_done(dev, st);
    cuda_writes(b, a->streams);
    const embed_kernel_args k = { .table = cuda_at(a->table), .token = rows.token,
                                  .row_bytes = (int64_t)a->table.stride,
                                  .streams = cuda_rows(a->streams), .cols = a->table.cols, .n_streams = a->n_streams,
                                  .type = (int32_t)a->table.type };
    if (type->block_len == 1) {
        st = CUDA_LAUNCH(dev, embed_floats, cuda_grid(slices_of(k.cols, 256), T, 1), 256, 0, k);
        return cuda_done(dev, st);
    }
    cuda_writes_at(b, b->scratch[CUDA_FAMILY_ROWS] + sums_room(&b->o.limits), embed_bytes(&b->o.limits));
    for (int first = 0; first < T && !st; first += EMBED_ROWS)
        st = embed_blocks(dev, k, first, min_int(EMBED_ROWS, T - first));
    return cuda_done(dev, st);
}

/* ---- hyper-connections ------------------------------------------------------------------------ */

static hc_expand_kernel_args expand_args(const cuda_expansion *e)
{
    hc_expand_kernel_args k = { .y = cuda_rows(e->y), .streams = cuda_rows(e->streams), .post = cuda_rows(e->post),
                                .comb = cuda_rows(e->comb), .n_streams = e->n_streams };
    k.wide = is_wide(k.y) && is_wide(k.streams);
    return k;
}

static void declare_expansion(cuda_backend *b, const cuda_expansion *e)
{
    cuda_reads(b, e->y);
    cuda_reads(b, e->post);
    cuda_reads(b, e->comb);
    cuda_writes(b, e->streams);
}

/* A step's few rows, of the shape that has a kernel for both. Where the host looks at every op nothing waits. */
static bool may_wait(const cuda_backend *b, const cuda_expansion *e)
{
    return b->codes.on && !b->o.mirrored && e->streams.rows <= FEW_ROWS && e->n_streams == HC_BOTH_STREAMS &&
           e->y.cols % HC_BOTH_CHANNELS == 0 && expand_args(e).wide;
}

ds4_status cuda_expand_now(cuda_backend *b)
{
    queue *dev = &b->base.queue;
    const cuda_expansion e = b->expansion;
    if (!e.waits) return DS4_OK;
    b->expansion.waits = false;
    const hc_expand_kernel_args k = expand_args(&e);
    cuda_op(b);
    declare_expansion(b, &e);
    const int n = k.wide ? e.y.cols / 4 : e.y.cols;
    return cuda_done(dev, CUDA_LAUNCH(dev, hc_expand, cuda_grid(slices_of(n, 128), e.y.rows, 1), 128, 0, k));
}

/* The sums of a mix; `wide` says how its rows may be read. e: the expansion that makes its streams; e->waits false:
 * they are there. */
static ds4_status launch_sums(queue *dev, const hc_sums_kernel_args *sums, const cuda_expansion *e, bool wide)
{
    cuda_backend *b = cuda_of(dev);
    const int T = sums->streams.rows;
    if (e->waits) {
        const hc_both_kernel_args k = { expand_args(e), *sums };
        return CUDA_LAUNCH(dev, hc_expand_sums, cuda_grid(sums->slices, min_int(T, HC_BOTH_ROWS), 1), 256, 0, k);
    }
    const unsigned threads = threads_for(slices_of(sums->n_mix, 3) * 32, 32, 256);
    /* Two blocks of long slices on a multiprocessor have their parts of fn in its L1. */
    const int groups = wide && T > 1 ? slices_of(T, SUM_ROWS) : T;
    const int beside = max_int(1, 2 * b->device->info.n_sm / sums->slices);
    const cuda_dim grid = cuda_grid(sums->slices, T <= FEW_ROWS ? groups : min_int(groups, beside), 1);
    return cuda_launch(dev, !wide ? CUDA_hc_sums_any : T > 1 ? CUDA_hc_sums_8 : CUDA_hc_sums_1, grid, threads, 0, sums,
                       sizeof *sums);
}

/* Whether the mix can expand its streams itself. */
static bool takes_expansion(const cuda_backend *b, const hc_mix_args *a, bool wide)
{
    enum { MOST_MIX = 256 / 32 * 3 };           /* rows of fn that one block meets */
    const cuda_expansion *e = &b->expansion;
    return e->waits && wide && a->streams.buf == e->streams.buf && a->streams.offset == e->streams.offset &&
           a->streams.rows == e->streams.rows && a->streams.cols == e->streams.cols &&
           a->streams.stride == e->streams.stride && a->n_streams == e->n_streams && a->fn.rows <= MOST_MIX;
}

/* The collapsed input, its norm into y where that is asked for, and the control. */
ds4_status cuda_hc_mix(queue *dev, const hc_mix_args *a, const rms_norm_args *norm, const quant_type *next, int n)
{
    cuda_backend *b = cuda_of(dev);
    const int S = a->n_streams, n_mix = (int)a->fn.rows, cols = a->streams.cols, T = (int)a->streams.rows;
    const int slice = slice_of(T), slices = slices_of(cols, slice);     /* as many where channels are cut */
    if (S > HC_MAX_STREAMS)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: %d streams; there is room for %d", b->base.name, S,
                          HC_MAX_STREAMS);
    const uint64_t room = sums_room(&b->o.limits);
    if ((uint64_t)T * sums_bytes(n_mix, slices) > room)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: %d rows of %d numbers in %d streams; it was opened for less",
                          b->base.name, T,
                          cols, S);

    hc_sums_kernel_args sums = { .streams = cuda_rows(a->streams), .fn = cuda_at(a->fn),
                                 .fn_stride = (int64_t)(a->fn.stride / (uint64_t)quant_get(a->fn.type)->block_bytes),
                                 .fn_type = (int32_t)a->fn.type, .n_mix = n_mix, .part = b->scratch[CUDA_FAMILY_ROWS],
                                 .slice = slice, .slices = slices };
    hc_mix_kernel_args k = { .streams = sums.streams, .x = cuda_rows(a->x), .post = cuda_rows(a->post),
                             .comb = cuda_rows(a->comb), .base = cuda_rows(a->base).at,
                             .scale = cuda_rows(a->scale).at, .part = sums.part, .eps = a->eps, .hc_eps = a->hc_eps,
                             .n_streams = S, .n_iterations = a->n_iterations, .n_mix = n_mix, .slices = slices };
    if (norm) {
        k.y = cuda_rows(norm->y);
        k.weight = cuda_rows(norm->weight).at;
        k.norm_eps = norm->eps;
    }
    k.wide = is_wide(k.x) && is_wide(k.streams) && (!norm || (is_wide(k.y) && k.weight % 16 == 0));
    const bool wide_sums = is_wide(sums.streams) && sums.fn % 16 == 0 && sums.fn_stride % 4 == 0;

    cuda_expansion e = b->expansion;
    e.waits = takes_expansion(b, a, wide_sums);
    if (e.waits) b->expansion.waits = false;
    cuda_op(b);
    if (e.waits) declare_expansion(b, &e);
    cuda_reads(b, a->streams);
    cuda_writes(b, a->x);
    if (norm) cuda_writes(b, norm->y);
    if (!a->head) {
        cuda_writes(b, a->post);
        cuda_writes(b, a->comb);
    }
    cuda_writes_at(b, sums.part, room);
    gpu_codes codes[2] = { { 0 } };
    ds4_status st = norm ? cuda_codes_beside(dev, norm->y, next, n, codes) : DS4_OK;
    k.by_32 = codes[0];
    k.by_256 = codes[1];
    if (st) return cuda_done(dev, st);

    st = launch_sums(dev, &sums, &e, wide_sums);
    const int each = k.wide ? 4 : 1;
    if (!st) st = CUDA_LAUNCH(dev, hc_mix, cuda_grid(T, a->head ? 1 : 2, 1), threads_for(k.x.cols / each, 64, 1024),
                              0, k);
    return cuda_done(dev, st);
}

static ds4_status hc_mix(queue *dev, const hc_mix_args *a) { return cuda_hc_mix(dev, a, NULL, NULL, 0); }

static ds4_status hc_pre(queue *dev, const hc_pre_args *a)
{
    const view x = a->norm.x;
    assert(x.buf == a->mix.x.buf && x.offset == a->mix.x.offset && x.rows == a->mix.x.rows);
    (void)x;
    return cuda_hc_mix(dev, &a->mix, &a->norm, a->next, (int)countof(a->next));
}

static ds4_status hc_expand(queue *dev, const hc_expand_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const cuda_expansion e = { .waits = true, .y = a->y, .streams = a->streams, .post = a->post, .comb = a->comb,
                               .n_streams = a->n_streams };
    if (a->n_streams > HC_MAX_STREAMS)
        return queue_fail(dev, DS4_EUNSUPPORTED, "%s: %d streams; there is room for %d", b->base.name, a->n_streams,
                          HC_MAX_STREAMS);
    const ds4_status st = cuda_expand_now(b);
    if (st) return st;
    b->expansion = e;
    return may_wait(b, &e) ? DS4_OK : cuda_expand_now(b);
}

void cuda_rows_ops(ops *o)
{
    o->embed_rows = embed_rows;
    o->rms_norm = rms_norm;
    o->swiglu = swiglu;
    o->add = add;
    o->hc_mix = hc_mix;
    o->hc_pre = hc_pre;
    o->hc_expand = hc_expand;
}
