/* bench-ds4: this engine as a driver (driver.h).
 *
 *   bench-ds4 MODEL THREADS */
#include <stdio.h>
#include <stdlib.h>
#include "driver.h"
#include "ds4.h"

typedef struct {
    ds4_engine  *engine;
    ds4_batch   *batch;
    ds4_session *prefill, *slot[DRIVER_SLOTS];
    ds4_session *last;          /* the one that was fed */
} ours;

static bool said(ds4_status st, const ds4_error *err)
{
    if (st) fprintf(stderr, "bench-ds4: %s\n", err->message);
    return st != DS4_OK;
}

static bool feed(void *self, int slot, bool empty, const int32_t *token, int n)
{
    ours *o = self;
    ds4_error err;
    o->last = slot < 0 ? o->prefill : o->slot[slot];
    if (empty) ds4_session_reset(o->last);
    return !said(ds4_session_feed(o->last, token, n, NULL, NULL, &err), &err);
}

static bool step(void *self, int first, int n, const int32_t *token)
{
    ours *o = self;
    ds4_error err;
    ds4_batch_clear(o->batch);
    for (int i = 0; i < n; i++)
        if (said(ds4_batch_add(o->batch, o->slot[first + i], &token[i], 1, DS4_LOGITS_LAST, &err), &err))
            return false;
    return !said(ds4_engine_step(o->engine, o->batch, &err), &err);
}

static const float *logits(void *self)
{
    return ds4_session_logits(((ours *)self)->last);
}

static bool open_all(ours *o, const char *model, int threads)
{
    ds4_error err;
    ds4_engine_options options = ds4_engine_defaults();
    options.model_path     = model;
    options.n_threads      = threads;
    options.max_sessions   = DRIVER_SLOTS + 1;
    options.max_tokens     = DRIVER_CONTEXT;
    options.max_batch_rows = DRIVER_CHUNK;
    options.rewind_points  = 0;
    options.warm_weights   = true;
    if (said(ds4_engine_open(&o->engine, &options, &err), &err) ||
        said(ds4_batch_new(&o->batch, o->engine, &err), &err) ||
        said(ds4_session_open(&o->prefill, o->engine, DRIVER_CONTEXT, &err), &err)) return false;
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (said(ds4_session_open(&o->slot[i], o->engine, DRIVER_CONTEXT, &err), &err)) return false;
    return true;
}

static void close_all(ours *o)
{
    for (int i = 0; i < DRIVER_SLOTS; i++) ds4_session_close(o->slot[i]);
    ds4_session_close(o->prefill);
    ds4_batch_free(o->batch);
    ds4_engine_close(o->engine);
}

int main(int argc, char **argv)
{
    const int threads = argc == 3 ? atoi(argv[2]) : 0;
    if (threads < 1) {
        fprintf(stderr, "usage: bench-ds4 MODEL THREADS\n");
        return 2;
    }
    ours o = { 0 };
    int status = 1;
    if (open_all(&o, argv[1], threads)) {
        ds4_shape shape;
        ds4_engine_shape(o.engine, &shape);
        const driver d = { "ds4", shape.backend, threads, shape.n_vocab, DRIVER_SLOTS, &o, feed, step, logits };
        status = driver_run(&d);
    }
    close_all(&o);
    return status;
}
