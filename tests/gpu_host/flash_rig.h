/* flash_rig: forward.c and the CUDA backend at the released shape over a device that only counts (counting_device.h),
 * with a model file of the q2 mix whose data are holes. For one program a file: it stands before file_write_all.
 *
 * A failure ends the program with a sentence. */
#ifndef TESTS_GPU_HOST_FLASH_RIG_H
#define TESTS_GPU_HOST_FLASH_RIG_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "counting_device.h"
#include "factory/metadata.h"
#include "factory/synth.h"
#include "kernels/cuda/cuda_internal.h"
#include "model/forward.h"

enum { RIG_SESSIONS = 64, RIG_ROWS = 4096 };  /* the most that a step may have */

static inline void need(ds4_status st, const ds4_error *err)
{
    if (!st) return;
    fprintf(stderr, "flash_rig: %s\n", err->message);
    exit(1);
}

/* ---- the model ------------------------------------------------------------------------------ */

ds4_status __real_file_write_all(int fd, const void *data, size_t n, const char *name, ds4_error *err);
ds4_status __wrap_file_write_all(int fd, const void *data, size_t n, const char *name, ds4_error *err);

static const void *hole;        /* data of tensors, which nobody reads: address space alone */

ds4_status __wrap_file_write_all(int fd, const void *data, size_t n, const char *name, ds4_error *err)
{
    if (data != hole) return __real_file_write_all(fd, data, n, name, err);
    const off_t end = lseek(fd, (off_t)n, SEEK_CUR);
    return end < 0 || ftruncate(fd, end) ? ds4_fail(err, DS4_EIO, "%s: no room for a hole", name) : DS4_OK;
}

static inline void write_model(const char *path, ds4_error *err)
{
    gguf_writer *w;
    recipe r;
    token_table tokens;
    tensor_plan plan;
    synth_options o = synth_defaults();
    o.mix = "q2";
    shape_preset(&o.shape, "flash");
    need(recipe_make(&r, o.mix, o.layout, err), err);
    need(synth_plan(&plan, &o, err), err);
    need(token_table_synth(&tokens, o.shape.n_vocab, err), err);
    need(gguf_writer_open(&w, path, true, err), err);
    metadata_put(w, &(file_metadata){ &o.shape, &r, &tokens, "holes", NAN, NAN });
    metadata_put_tensors(w, &plan);
    need(gguf_writer_begin_data(w, err), err);
    uint64_t most = 0;
    for (int i = 0; i < plan.n; i++) most = plan.items[i].bytes > most ? plan.items[i].bytes : most;
    void *zeros = mmap(NULL, most, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED) need(ds4_fail(err, DS4_EMEMORY, "no address space"), err);
    hole = zeros;
    for (int i = 0; i < plan.n; i++) need(gguf_writer_data(w, i, zeros, plan.items[i].bytes, err), err);
    need(gguf_writer_commit(w, err), err);
    munmap(zeros, most);
    token_table_free(&tokens);
    tensor_plan_free(&plan);
}

/* As cuda_adopt, but for the bytes. */
static inline ds4_status adopt_address(backend *base, view *w, weight_use use, int64_t rows_each, ds4_error *err)
{
    gpu_device *d = ((cuda_backend *)base)->device;
    cuda_buf *m = calloc(1, sizeof *m);
    if (!m) return ds4_fail(err, DS4_EMEMORY, "no memory for a weight");
    const bool matrix = use == WEIGHT_MATRIX || use == WEIGHT_EXPERTS;
    const planes_of_type *t = matrix ? planes_of((int)w->type) : NULL;
    const uint64_t bytes = t ? (uint64_t)(w->rows / rows_each) * planes_bytes(t, rows_each * (w->cols / t->block_len))
                             : (uint64_t)w->rows * w->stride;
    *m = (cuda_buf){ .base = { .bytes = bytes, .mapped = 1 }, .planes = matrix, .rows_each = rows_each };
    ds4_status st = d->alloc(d, GPU_LOCAL, bytes, &m->at, NULL, err);
    if (!st && use == WEIGHT_EXPERTS)
        st = d->alloc(d, GPU_LOCAL, 8 * (uint64_t)(w->rows / rows_each), &m->table, NULL, err);
    w->buf = &m->base;
    w->offset = 0;
    return st;
}

/* ---- a card and its steps ------------------------------------------------------------------- */

typedef struct {
    gpu_info info;
    int      sessions, context;     /* most of a step; tokens of each */
    void   (*cost)(void *ctx, const gpu_launch *l, counted_work *w);
    void    *ctx;
} rig_options;

typedef struct {
    gpu_device   *device;
    backend      *b;
    gguf         *file;
    model_config  config;
    model_weights weights;
    kv_pool      *pool;
    forward      *pass;
    uint64_t      weights_taken, planned;   /* bytes of weights; what the plan says of all else */
    int           context, layer;
    int32_t       pos[RIG_ROWS];    /* of the step under way */
} rig;

/* Asked at the beginning of the step and before every layer but the first. */
static bool next_layer(void *ctx)
{
    rig *r = ctx;
    counting_layer(r->device, r->layer++);
    return false;
}

/* path: of write_model. */
static inline void rig_open(rig *r, const char *path, const rig_options *o, ds4_error *err)
{
    const forward_options fo = { .max_rows = RIG_ROWS, .max_tokens = o->context, .max_sessions = o->sessions,
                                 .rounding = true, .on_device = true, .stop = next_layer, .stop_ctx = r };
    const kv_options ko = { .max_sessions = o->sessions, .max_tokens = o->context, .max_step = RIG_ROWS, .packed = true };
    const counting_options co = { .info = o->info, .cost = o->cost, .ctx = o->ctx };
    r->context = o->context;
    need(gguf_open(&r->file, path, NULL, err), err);
    need(config_read(&r->config, r->file, err), err);
    need(counting_device_open(&r->device, &co, err), err);
    const backend_options bo = { .name = "cuda", .limits = forward_limits(&r->config, &fo) };
    need(cuda_open_on(&r->b, r->device, &bo, err), err);
    r->b->adopt = adopt_address;
    r->weights_taken = counting_taken(r->device);
    need(weights_open(&r->weights, &r->config, r->file, r->b, NULL, err), err);
    r->weights_taken = counting_taken(r->device) - r->weights_taken;
    r->planned = backend_scratch_bytes(&bo) + forward_bytes(&r->config, &fo) + kv_bytes(&r->config, &ko);
    need(kv_pool_open(&r->pool, &r->config, &ko, r->b, err), err);
    need(forward_open(&r->pass, &r->config, &r->weights, r->b, &fo, err), err);
}

static inline void rig_close(rig *r)
{
    forward_close(r->pass);
    kv_pool_close(r->pool);
    weights_close(&r->weights);
    r->b->close(r->b);
    gguf_close(r->file);
}

/* n sessions of `length` tokens each go on by `each` tokens. */
static inline void rig_step(rig *r, int n, int length, int each, ds4_error *err)
{
    static int32_t token[RIG_ROWS], segment_of[RIG_ROWS], last[RIG_SESSIONS];
    kv *k[RIG_SESSIONS];
    segment segments[RIG_SESSIONS];
    for (int i = 0; i < n; i++) {
        need(kv_open(&k[i], r->pool, r->context, err), err);
        need(kv_grow(k[i], length, err), err);
        need(kv_begin(k[i], each, err), err);
        segments[i] = (segment){ .kv = &k[i]->memory, .first = i * each, .n = each, .pos = length };
        for (int j = 0; j < each; j++) {
            r->pos[i * each + j] = length + j;
            segment_of[i * each + j] = i;
        }
        last[i] = (i + 1) * each - 1;
    }
    r->layer = 0;
    counting_clear(r->device);
    const batch_rows rows = { .n = n * each, .pos = r->pos, .token = token, .segment_of = segment_of, .segment = segments,
                              .n_segments = n };
    need(forward_run(r->pass, &rows, last, n, NULL, err), err);
    for (int i = 0; i < n; i++) kv_close(k[i]);
}

#endif
