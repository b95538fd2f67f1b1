/* cpu_backend: memory, scratch and the table of ops on the host processor. */
#include "kernels/cpu/cpu_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/status.h"

typedef struct {
    row_task *task;
    void     *ctx;
    int       n_rows, per_task;
} row_loop;

static void run_rows(void *ctx, int index, int thread)
{
    const row_loop *l = ctx;
    const int first = index * l->per_task, end = min_int(first + l->per_task, l->n_rows);
    for (int row = first; row < end; row++) l->task(l->ctx, row, thread);
}

void cpu_for_rows(cpu_backend *b, row_task *task, void *ctx, int n_rows)
{
    row_loop l = { task, ctx, n_rows, max_int(1, n_rows / (8 * b->n_threads)) };
    pool_run(b->pool, run_rows, &l, (n_rows + l.per_task - 1) / l.per_task);
}

/* ---- memory ----------------------------------------------------------------- */

/* Pages come zeroed and are committed when first written, so a long context costs
 * what is used of it. */
static ds4_status buf_alloc(backend *b, uint64_t bytes, buf **out, ds4_error *err)
{
    *out = NULL;
    buf *m = calloc(1, sizeof *m);
    void *p = MAP_FAILED;
    if (m && bytes <= SIZE_MAX)
        p = mmap(NULL, bytes ? (size_t)bytes : 1, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        free(m);
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a buffer of %llu bytes", b->name,
                        (unsigned long long)bytes);
    }
    *m = (buf){ .host = p, .bytes = bytes };
    *out = m;
    return DS4_OK;
}

static ds4_status buf_map(backend *b, const void *host, uint64_t bytes, buf **out, ds4_error *err)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a buffer record", b->name);
    **out = (buf){ .host = (uint8_t *)(uintptr_t)host, .bytes = bytes, .mapped = 1 };
    return DS4_OK;
}

static void buf_free(backend *b, buf *m)
{
    (void)b;
    if (!m) return;
    if (!m->mapped) munmap(m->host, m->bytes ? (size_t)m->bytes : 1);
    free(m);
}

static ds4_status upload(backend *b, view to, const void *from, ds4_error *err)
{
    (void)b;
    (void)err;
    const uint64_t row = view_row_bytes(to);
    for (int64_t i = 0; i < to.rows; i++)
        memcpy(view_at(to, i), (const uint8_t *)from + (uint64_t)i * row, row);
    return DS4_OK;
}

static ds4_status download(backend *b, void *to, view from, ds4_error *err)
{
    (void)b;
    (void)err;
    const uint64_t row = view_row_bytes(from);
    for (int64_t i = 0; i < from.rows; i++)
        memcpy((uint8_t *)to + (uint64_t)i * row, view_at(from, i), row);
    return DS4_OK;
}

static ds4_status move(backend *b, bool to_device, const move_piece *p, int n, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < n && !st; i++)
        st = to_device ? upload(b, p[i].at, p[i].host, err) : download(b, p[i].host, p[i].at, err);
    return st;
}

static ds4_status copy_rows(backend *b, view to, view from, ds4_error *err)
{
    (void)b;
    (void)err;
    const uint64_t row = view_row_bytes(to);
    for (int64_t i = 0; i < to.rows; i++) memcpy(view_at(to, i), view_at(from, i), row);
    return DS4_OK;
}

static ds4_status wait_done(backend *b, ds4_error *err)
{
    (void)b;
    (void)err;
    return DS4_OK;                                  /* every op returns finished */
}

/* ---- scratch ------------------------------------------------------------------ */

/* The widest store of a row in any activation type. */
static uint64_t widest_row(int cols)
{
    const uint64_t q8_0 = activation_bytes(QUANT_Q8_1, cols);
    const uint64_t q8_k = activation_bytes(QUANT_Q8_K, cols);
    return q8_0 > q8_k ? q8_0 : q8_k;
}

typedef struct {
    uint64_t activations, mid_activations, thread_row, thread_attend, thread_keys, thread_top, index_queries, thread_tile, mixes;   /* bytes */
} scratch_sizes;

static scratch_sizes scratch_of(const backend_limits *l, int n_threads)
{
    const uint64_t n = (uint64_t)n_threads;
    return (scratch_sizes){
        .activations = (uint64_t)l->max_rows * widest_row(l->max_cols),
        .mid_activations = (uint64_t)l->max_pairs * widest_row(l->max_expert_width),
        .thread_row = n * (uint64_t)l->max_cols * sizeof(float),
        .thread_attend = n * cpu_attend_bytes(l->max_head_width),
        .thread_keys = 64 + n * index_keys_bytes(l->index_width),
        .thread_top = 64 + n * cpu_top_bytes(l->index_top_k),
        .index_queries = 64 + INDEX_QUERIES * index_query_bytes(l->index_heads, l->index_width),
        .thread_tile = n * sizeof(thread_tile),
        .mixes = (uint64_t)l->max_rows * CPU_MAX_MIXES * sizeof(float),
    };
}

static int threads_of(const backend_options *o)
{
    return o->n_threads > 0 ? o->n_threads : pool_default_threads();
}

uint64_t backend_cpu_scratch_bytes(const backend_options *o)
{
    const scratch_sizes s = scratch_of(&o->limits, threads_of(o));
    const uint64_t ints = (uint64_t)(4 * o->limits.n_experts + 1 + o->limits.max_pairs);
    return s.activations + s.mid_activations + ints * sizeof(int32_t) +
           (uint64_t)o->limits.n_experts * sizeof(expert_data) + s.thread_row +
           s.thread_attend + s.thread_keys + s.thread_top + s.index_queries + s.thread_tile + s.mixes;
}

static void cpu_close(backend *base)
{
    cpu_backend *b = (cpu_backend *)base;
    if (!b) return;
    pool_close(b->pool);
    free(b->activations);
    free(b->mid_activations);
    free(b->expert_first);
    free(b->expert_pair);
    free(b->expert_active);
    free(b->expert_data);
    free(b->expert_rows);
    free(b->expert_arrived);
    free(b->thread_row);
    free(b->thread_attend);
    free(b->thread_keys);
    free(b->thread_top);
    free(b->index_queries);
    free(b->thread_tile);
    free(b->mixes);
    free(b);
}

static bool take_scratch(cpu_backend *b)
{
    const backend_limits *l = &b->limits;
    const scratch_sizes s = scratch_of(l, b->n_threads);
    b->activations = aligned_alloc(64, s.activations);
    b->mid_activations = aligned_alloc(64, s.mid_activations);
    b->expert_first = malloc((size_t)(l->n_experts + 1) * sizeof(int32_t));
    b->expert_active = malloc((size_t)l->n_experts * sizeof(int32_t));
    b->expert_data = malloc((size_t)l->n_experts * sizeof *b->expert_data);
    b->expert_rows = malloc((size_t)l->n_experts * sizeof *b->expert_rows);
    b->expert_arrived = malloc((size_t)l->n_experts * sizeof *b->expert_arrived);
    b->expert_pair = malloc((size_t)l->max_pairs * sizeof(int32_t));
    b->thread_row = malloc(s.thread_row);
    b->thread_attend = aligned_alloc(64, s.thread_attend);
    b->thread_keys = aligned_alloc(64, s.thread_keys);
    b->thread_top = malloc(s.thread_top);
    b->index_queries = aligned_alloc(64, s.index_queries);
    b->thread_tile = aligned_alloc(64, s.thread_tile);
    b->mixes = malloc(s.mixes);
    return b->activations && b->mid_activations && b->expert_first && b->expert_active &&
           b->expert_pair && b->thread_row && b->thread_attend && b->thread_keys && b->thread_top && b->index_queries &&
           b->thread_tile && b->mixes && b->expert_data && b->expert_rows && b->expert_arrived;
}

ds4_status backend_cpu_open(backend **out, const backend_options *o, ds4_error *err)
{
    *out = NULL;
    cpu_backend *b = calloc(1, sizeof *b);
    if (!b) return ds4_fail(err, DS4_EMEMORY, "cpu: no memory for the backend");
    b->exact = o->exact;
    b->limits = o->limits;
    b->n_threads = threads_of(o);

    ds4_status st = pool_open(&b->pool, b->n_threads, err);
    if (!st && !take_scratch(b))
        st = ds4_fail(err, DS4_EMEMORY, "cpu: no memory for %llu bytes of scratch",
                      (unsigned long long)backend_cpu_scratch_bytes(o));
    if (st) {
        cpu_close(&b->base);
        return st;
    }

    const uint32_t isa = o->isa_mask & cpu_isa_present();
    cpu_kernels_init(&b->k, isa);
    snprintf(b->base.name, sizeof b->base.name, "cpu (%s, %d thread%s)", cpu_isa_name(isa),
             b->n_threads, b->n_threads == 1 ? "" : "s");
    ops_cpu_rows(&b->base.ops);
    ops_cpu_matmul(&b->base.ops);
    ops_cpu_kv(&b->base.ops);
    ops_cpu_indexer(&b->base.ops);
    ops_cpu_attention(&b->base.ops);
    ops_cpu_head(&b->base.ops);
    ops_default_stages(&b->base.ops);
    b->base.queue = (queue){ .ops = &b->base.ops, .backend = &b->base };
    b->base.buf_alloc = buf_alloc;
    b->base.buf_map = buf_map;
    b->base.buf_free = buf_free;
    b->base.upload = upload;
    b->base.download = download;
    b->base.move = move;
    b->base.copy = copy_rows;
    b->base.wait = wait_done;
    b->base.close = cpu_close;
    *out = &b->base;
    return DS4_OK;
}
