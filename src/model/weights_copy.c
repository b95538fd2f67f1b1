#include "model/weights_copy.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/direct_file.h"
#include "base/status.h"

enum { N_READERS = 8 };                     /* flash answers many reads as fast as one */
#define SLICE ((size_t)8 << 20)             /* of one read; a multiple of DIRECT_BLOCK */

ds4_status weights_copy_init(weights_copy *c, const gguf *g, ds4_error *err)
{
    const size_t n = (size_t)gguf_n_tensors(g) + 1;
    *c = (weights_copy){ .file = g, .tensor = malloc(n * sizeof *c->tensor), .room = malloc(n * sizeof *c->room) };
    if (c->tensor && c->room) return DS4_OK;
    weights_copy_free(c);
    return ds4_fail(err, DS4_EMEMORY, "no memory for the list of tensors");
}

void weights_copy_free(weights_copy *c)
{
    free(c->tensor);
    free(c->room);
    *c = (weights_copy){ 0 };
}

uint64_t weights_copy_place(weights_copy *c, const gguf_tensor *t)
{
    int i = 0;
    while (i < c->n && (c->tensor[i]->shard != t->shard || c->tensor[i]->offset != t->offset)) i++;
    if (i == c->n) {
        c->tensor[c->n] = t;
        c->room[c->n++] = c->bytes;
        c->bytes += direct_room((size_t)t->bytes);
        c->data_bytes += t->bytes;
    }
    return c->room[i] + direct_lead(t->offset);
}

/* ---- reading ---------------------------------------------------------------------- */

typedef struct {
    const weights_copy *c;
    direct_file        *file;       /* [shards] */
    uint8_t            *to;
    pthread_mutex_t     lock;       /* guards what follows */
    int                 tensor;     /* the next slice      */
    uint64_t            at;
    uint64_t            done;
    ds4_error           error;      /* of the first that failed; the others then stop */
} copying;

typedef struct {
    int      tensor;
    uint64_t at;
    size_t   n;
} slice_of_copy;

static bool next_slice(copying *k, slice_of_copy *s)
{
    pthread_mutex_lock(&k->lock);
    const bool more = k->tensor < k->c->n && !k->error.status;
    if (more) {
        const gguf_tensor *t = k->c->tensor[k->tensor];
        const uint64_t bytes = t->bytes;
        const size_t lead = direct_lead(t->offset + k->at);
        *s = (slice_of_copy){ k->tensor, k->at, min_size((size_t)(bytes - k->at), SLICE - lead) };
        k->at += s->n;
        if (k->at == bytes) {
            k->tensor++;
            k->at = 0;
        }
    }
    pthread_mutex_unlock(&k->lock);
    return more;
}

/* Slices meet on blocks' boundaries, so no two reads touch the same block of the copy. */
static void read_slice(copying *k, const slice_of_copy *s)
{
    const gguf_tensor *t = k->c->tensor[s->tensor];
    const uint64_t from = t->offset + s->at;
    uint8_t *place = k->to + k->c->room[s->tensor] + direct_lead(t->offset) + s->at;
    ds4_error err = { 0 };
    const ds4_status st = direct_read(&k->file[t->shard], from, s->n, place - direct_lead(from), &err);

    pthread_mutex_lock(&k->lock);
    if (st && !k->error.status) k->error = err;
    k->done += s->n;
    pthread_mutex_unlock(&k->lock);
}

static void *read_slices(void *arg)
{
    copying *k = arg;
    for (slice_of_copy s; next_slice(k, &s); ) read_slice(k, &s);
    return NULL;
}

static uint64_t done_so_far(copying *k)
{
    pthread_mutex_lock(&k->lock);
    const uint64_t done = k->done;
    pthread_mutex_unlock(&k->lock);
    return done;
}

static void end_early(copying *k, ds4_status st, const char *why)
{
    pthread_mutex_lock(&k->lock);
    if (!k->error.status) ds4_fail(&k->error, st, "%s", why);
    pthread_mutex_unlock(&k->lock);
}

static ds4_status open_files(copying *k, int n, ds4_error *err)
{
    k->file = calloc((size_t)n, sizeof *k->file);
    if (!k->file) return ds4_fail(err, DS4_EMEMORY, "no memory for %d file records", n);
    for (int i = 0; i < n; i++) {
        const gguf *g = k->c->file;
        const ds4_status st = direct_file_open(&k->file[i], gguf_descriptor(g, i), gguf_shard_path(g, i), err);
        if (st) return st;
    }
    return DS4_OK;
}

ds4_status weights_copy_read(const weights_copy *c, uint8_t *to,
                             bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total), void *ctx,
                             ds4_error *err)
{
    copying k = { .c = c, .to = to };
    const int n_files = gguf_n_shards(c->file);
    pthread_mutex_init(&k.lock, NULL);
    ds4_status st = open_files(&k, n_files, err);
    direct_expect(to, (size_t)c->bytes);

    pthread_t reader[N_READERS];
    int n = 0;
    while (!st && n < N_READERS - 1 && !pthread_create(&reader[n], NULL, read_slices, &k)) n++;
    for (slice_of_copy s; !st && next_slice(&k, &s); ) {
        read_slice(&k, &s);
        if (progress && !progress(ctx, "reading", done_so_far(&k), c->data_bytes))
            end_early(&k, DS4_ECANCELLED, "loading was cancelled");
    }
    for (int i = 0; i < n; i++) pthread_join(reader[i], NULL);
    if (!st && (st = k.error.status) != DS4_OK && err) *err = k.error;

    for (int i = 0; k.file && i < n_files; i++) direct_file_close(&k.file[i]);
    free(k.file);
    pthread_mutex_destroy(&k.lock);
    return st;
}
