#include "engine/load.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/residency.h"
#include "base/slices.h"
#include "base/status.h"

#define GIB (1ull << 30)

enum {
    SLICE = 4 << 20,            /* bytes that are asked for at once: far more than one turn of a disk */
    READERS = 8                 /* as many requests keep a solid-state disk busy */
};

typedef struct {
    ds4_engine    *e;
    const uint8_t *data;        /* of the shard in work */
    const char    *path;
    int            fd;
    const char    *phase;
    uint64_t       before, total;       /* bytes of the shards before; of all */
} loading;

static bool tell(void *ctx, uint64_t done)
{
    const loading *l = ctx;
    const ds4_engine_options *o = &l->e->o;
    return !o->progress || o->progress(o->progress_ctx, l->phase, l->before + done, l->total);
}

static ds4_status bring_in(void *ctx, uint64_t first, uint64_t n, ds4_error *err)
{
    const loading *l = ctx;
    return residency_bring_in(l->data + first, n, l->path, first, err);
}

static ds4_status fill(void *ctx, uint64_t first, uint64_t n, ds4_error *err)
{
    const loading *l = ctx;
    return residency_fill(l->data + first, n, l->fd, l->path, first, err);
}

/* The next n bytes of the whole, all in one shard. */
static ds4_status run(loading *l, slice_task *task, uint64_t n, ds4_error *err)
{
    const slices s = { .total = n, .slice = SLICE, .n_threads = READERS, .task = task, .ctx = l,
                       .progress = tell, .progress_ctx = l };
    const ds4_status st = slices_run(&s, err);
    if (st == DS4_ECANCELLED) return ds4_fail(err, st, "loading was cancelled");
    l->before += n;
    return st;
}

static void enter_shard(loading *l, int i, uint64_t *size)
{
    l->data = gguf_mapping(l->e->file, i, size);
    l->path = gguf_shard_path(l->e->file, i);
    l->fd = gguf_descriptor(l->e->file, i);
}

/* Pages of the file that are in memory already count as available. */
ds4_status load_warm(ds4_engine *e, ds4_error *err)
{
    const uint64_t file = gguf_file_bytes(e->file), available = memory_available();
    loading l = { .e = e, .phase = "warming", .total = file };
    if (available && available < file) {
        l.total = available;
        log_line(&e->log, LOG_WARNING, "warming: the file has %.2f GiB, %.2f GiB of memory are free: only that much is "
                 "read now, and the rest will be read again and again; a smaller file or --expert-cache avoids it",
                 in_gib(file), in_gib(available));
    }
    for (int i = 0; i < gguf_n_shards(e->file) && l.before < l.total; i++) {
        uint64_t size;
        enter_shard(&l, i, &size);
        const ds4_status st = run(&l, bring_in, min_u64(size, l.total - l.before), err);
        if (st) return st;
    }
    return DS4_OK;
}

static ds4_status check_huge(const ds4_engine *e, uint64_t rest, ds4_error *err)
{
    const uint64_t file = gguf_file_bytes(e->file), available = memory_available();
    const uint64_t spare = file / 16 < GIB ? file / 16 : GIB;          /* for everybody else */
    if (!residency_has_huge_pages())
        return ds4_fail(err, DS4_EUNSUPPORTED, "this system gives no huge pages; "
                        "/sys/kernel/mm/transparent_hugepage/enabled must say madvise or always");
    if (available && available < file + rest + spare)
        return ds4_fail(err, DS4_EMEMORY, "a copy of the weights in huge pages needs %.2f GiB and the session %.2f GiB; "
                        "%.2f GiB are free", in_gib(file + spare), in_gib(rest), in_gib(available));
    return DS4_OK;
}

ds4_status load_huge_pages(ds4_engine *e, uint64_t rest, ds4_error *err)
{
    ds4_status st = check_huge(e, rest, err);
    const uint64_t before = residency_huge_bytes();
    loading l = { .e = e, .phase = "copying", .total = gguf_file_bytes(e->file) };
    for (int i = 0; i < gguf_n_shards(e->file) && !st; i++) {
        uint64_t size;
        enter_shard(&l, i, &size);
        st = residency_empty(l.data, size, l.path, err);
        if (!st) st = run(&l, fill, size, err);
        if (!st) residency_seal(l.data, size);
    }
    if (st) return st;
    log_line(&e->log, LOG_INFO, "weights: a copy of %.2f GiB, %.2f GiB of it in huge pages; ds4-bench speed with and "
             "without --huge-pages tells what that gains", in_gib(l.total), in_gib(residency_huge_bytes() - before));
    return DS4_OK;
}
