/* cuda_weights: the way of weights onto the card.
 *
 * A weight goes up in slices: the host copies a slice of the file into pinned memory, the card's copy engine
 * fetches it, a kernel cuts its blocks into planes where they belong. The three work on different
 * slices at a time; nothing waits for a weight to end. */
#include "kernels/cuda/cuda_residency.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

enum { SLICE_BYTES = 4 << 20 };

/* ---- slices --------------------------------------------------------------------------------- */

static int copied(int slice) { return CUDA_EVENT_RESIDENCY + 1 + 2 * slice; }
static int cut(int slice) { return copied(slice) + 1; }

static ds4_status staging_open(cuda_backend *b, ds4_error *err)
{
    upload_staging *s = &b->residency->staging;
    gpu_device *d = b->device;
    if (s->card) return DS4_OK;
    ds4_status st = DS4_OK;
    if (!s->pinned) st = d->alloc(d, GPU_PINNED, UPLOAD_SLICES * SLICE_BYTES, &s->pinned, (void **)&s->host, err);
    return st ? st : d->alloc(d, GPU_LOCAL, UPLOAD_SLICES * SLICE_BYTES, &s->card, NULL, err);
}

ds4_status upload_end(cuda_backend *b, ds4_error *err)
{
    upload_staging *s = &b->residency->staging;
    gpu_device *d = b->device;
    if (!s->pinned) return DS4_OK;
    const ds4_status st = d->sync(d, -1, err);
    if (s->card) d->free(d, GPU_LOCAL, s->card);
    d->free(d, GPU_PINNED, s->pinned);
    s->card = s->pinned = 0;
    s->next = 0;
    return st;
}

/* A slice that the card has fetched; *at: the same on the card, free as well. */
static ds4_status slice_begin(cuda_backend *b, int *slice, uint8_t **host, gpu_ptr *at, ds4_error *err)
{
    upload_staging *s = &b->residency->staging;
    gpu_device *d = b->device;
    ds4_status st = staging_open(b, err);
    if (st) return st;
    *slice = s->next++ % UPLOAD_SLICES;
    if (*slice == 0) st = d->sync(d, GPU_COPY, err);                /* all were fetched */
    if (!st) st = d->wait(d, GPU_COPY, cut(*slice), err);
    *host = s->host + *slice * SLICE_BYTES;
    *at = s->card + (uint64_t)*slice * SLICE_BYTES;
    return st;
}

static ds4_status send_plain(cuda_backend *b, gpu_ptr to, const uint8_t *from, uint64_t bytes, ds4_error *err)
{
    gpu_device *d = b->device;
    ds4_status st = DS4_OK;
    for (uint64_t done = 0; done < bytes && !st; done += SLICE_BYTES) {
        const uint64_t n = bytes - done < SLICE_BYTES ? bytes - done : SLICE_BYTES;
        int slice;
        uint8_t *host;
        gpu_ptr at;
        st = slice_begin(b, &slice, &host, &at, err);
        if (st) return st;
        memcpy(host, from + done, n);
        st = d->to_device(d, GPU_COPY, to + done, host, n, err);
    }
    return st;
}

/* Blocks of one matrix, into its planes at `to`: on the card, or in host memory that the card writes. */
static ds4_status send_blocks(cuda_backend *b, const planes_of_type *t, int64_t blocks, gpu_ptr to, const uint8_t *from,
                              ds4_error *err)
{
    gpu_device *d = b->device;
    const int64_t at_once = SLICE_BYTES / t->block_bytes / CUT_BLOCKS * CUT_BLOCKS;
    ds4_status st = DS4_OK;
    for (int64_t first = 0; first < blocks && !st; first += at_once) {
        cut_planes_args k = { .planes = t->n, .block_bytes = t->block_bytes,
                              .blocks = blocks - first < at_once ? blocks - first : at_once };
        const uint64_t bytes = (uint64_t)k.blocks * (uint64_t)t->block_bytes;
        for (int p = 0; p < t->n; p++) {
            k.first[p] = t->plane[p].first;
            k.len[p] = t->plane[p].len;
            k.to[p] = to + planes_offset(t, blocks, p) + (uint64_t)first * (uint64_t)t->plane[p].len;
        }
        int slice;
        uint8_t *host;
        st = slice_begin(b, &slice, &host, &k.from, err);
        if (st) return st;
        memcpy(host, from + first * t->block_bytes, bytes);
        const gpu_launch l = { CUDA_cut_planes, { (unsigned)((k.blocks + CUT_BLOCKS - 1) / CUT_BLOCKS), 1, 1 },
                               CUT_THREADS, 0, &k, sizeof k };
        st = d->to_device(d, GPU_COPY, k.from, host, bytes, err);
        if (!st) st = d->record(d, GPU_COPY, copied(slice), err);
        if (!st) st = d->wait(d, GPU_MAIN, copied(slice), err);
        if (!st) st = d->launch(d, GPU_MAIN, &l, err);
        if (!st) st = d->record(d, GPU_MAIN, cut(slice), err);
    }
    return st;
}

/* ---- weights ---------------------------------------------------------------------------------- */

typedef struct {
    const planes_of_type *t;    /* NULL: bytes as they are */
    uint64_t              file_each, each;
    int64_t               n, blocks;
} parts;

static parts parts_of(view w, weight_use use, int64_t rows_each)
{
    parts p = { .t = use == WEIGHT_MATRIX || use == WEIGHT_EXPERTS ? planes_of((int)w.type) : NULL, .n = 1 };
    p.each = p.file_each = (uint64_t)w.rows * w.stride;
    if (!p.t) return p;
    p.n = w.rows / rows_each;
    p.file_each = (uint64_t)rows_each * w.stride;
    p.blocks = rows_each * (w.cols / p.t->block_len);
    p.each = planes_bytes(p.t, p.blocks);
    return p;
}

static ds4_status send_part(cuda_backend *b, const parts *p, expert_place to, const uint8_t *from, ds4_error *err)
{
    if (p->t && p->t->n > 1) return send_blocks(b, p->t, p->blocks, to.at, from, err);
    if (!to.host) return send_plain(b, to.at, from, p->file_each, err);
    memcpy(to.host, from, p->file_each);
    return DS4_OK;
}

static ds4_status no_room(cuda_backend *b, uint64_t bytes, ds4_error *err)
{
    uint64_t available = 0, total = 0;
    b->device->memory(b->device, &available, &total, NULL);
    return ds4_fail(err, DS4_EMEMORY,
                    "%s: no room for the next weight: %.2f GiB of weights are on the card, %.2f GiB more are wanted, "
                    "%.2f of %.2f GiB are free; a shorter context, fewer sessions or the end of other programs on the card "
                    "(nvidia-smi lists them) make room",
                    b->base.name, in_gib(b->residency->staging.bytes), in_gib(bytes), in_gib(available), in_gib(total));
}

/* All parts in one allocation of the weight's own. */
static ds4_status send_whole(cuda_backend *b, cuda_buf *m, const parts *p, const uint8_t *from, gpu_ptr *table,
                             ds4_error *err)
{
    const uint64_t bytes = p->each * (uint64_t)p->n;
    ds4_error why;
    ds4_status st = b->device->alloc(b->device, GPU_LOCAL, bytes ? bytes : 1, &m->at, NULL, &why);
    if (st) return st == DS4_EMEMORY ? no_room(b, bytes, err) : ds4_fail(err, st, "%s", why.message);
    for (int64_t i = 0; i < p->n && !st; i++) {
        table[i] = m->at + (uint64_t)i * p->each;
        st = send_part(b, p, (expert_place){ table[i], NULL }, from + (uint64_t)i * p->file_each, err);
    }
    return st;
}

/* Each part where the budget of the card has it. */
static ds4_status send_in_parts(cuda_backend *b, cuda_buf *m, const parts *p, const uint8_t *from, gpu_ptr *table,
                                ds4_error *err)
{
    expert_stack *s;
    ds4_error why;
    ds4_status st = residency_add(b, (int)p->n, p->each, &s, &why);
    if (st) return ds4_fail(err, st, "%s", why.message);
    m->stack = b->residency->n_stacks;
    for (int64_t i = 0; i < p->n && !st; i++) {
        table[i] = s->place[i].at;
        st = send_part(b, p, s->place[i], from + (uint64_t)i * p->file_each, err);
    }
    return st;
}

static ds4_status send_table(cuda_backend *b, cuda_buf *m, const gpu_ptr *table, int64_t n, ds4_error *err)
{
    const gpu_piece piece = { 0, (void *)(uintptr_t)table, (uint64_t)n * sizeof *table };
    gpu_piece to = piece;
    const ds4_status st = b->device->alloc(b->device, GPU_LOCAL, piece.bytes, &m->table, NULL, err);
    to.device = m->table;
    if (m->stack) b->residency->stack[m->stack - 1].table = m->table;
    return st ? st : b->device->transfer(b->device, true, &to, 1, err);
}

ds4_status cuda_adopt(backend *base, view *w, weight_use use, int64_t rows_each, ds4_error *err)
{
    cuda_backend *b = (cuda_backend *)base;
    gpu_device *d = b->device;
    const parts p = parts_of(*w, use, rows_each);
    const uint8_t *from = view_at(*w, 0);
    gpu_ptr *table = calloc((size_t)p.n, sizeof *table);
    cuda_buf *m = calloc(1, sizeof *m);
    if (!m || !table) {
        free(m);
        free(table);
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory to take a weight over", base->name);
    }
    *m = (cuda_buf){ .base = { .host = (uint8_t *)(uintptr_t)from, .bytes = (uint64_t)w->rows * w->stride, .mapped = 1 },
                     .planes = p.t != NULL, .rows_each = rows_each };
    const bool in_parts = use == WEIGHT_EXPERTS && p.t && b->residency->partial;
    ds4_status st = in_parts ? send_in_parts(b, m, &p, from, table, err) : send_whole(b, m, &p, from, table, err);
    if (!st && use == WEIGHT_EXPERTS) st = send_table(b, m, table, p.n, err);
    if (!st) st = d->record(d, GPU_COPY, CUDA_EVENT_RESIDENCY, err);        /* ops read it on streams after GPU_MAIN */
    if (!st) st = d->wait(d, GPU_MAIN, CUDA_EVENT_RESIDENCY, err);
    free(table);
    if (st) {
        d->sync(d, -1, NULL);
        cuda_buf_release(b, m);
        return st;
    }
    b->residency->staging.bytes += p.each * (uint64_t)p.n;
    w->buf = &m->base;
    w->offset = 0;
    return DS4_OK;
}
