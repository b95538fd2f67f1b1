/* What answers: the scheduler with its memories, opened around an engine. */
#include "serve/server.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

#define REPLAY_BYTES ((size_t)256 << 20)

static void random_bytes(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    uv_random(NULL, NULL, out, n, 0, NULL);
}

static void fill_api(serve_model *m, const ds4_engine *e)
{
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    m->api = m->o.api;
    m->api.vocab = ds4_engine_vocab(e);
    m->api.vocab_size = shape.n_vocab;
    m->api.ctx = shape.max_tokens;
    snprintf(m->display_name, sizeof m->display_name, "%s", shape.name);
    snprintf(m->backend, sizeof m->backend, "%s", shape.backend);
    if (!m->api.display_name) m->api.display_name = m->display_name;
    if (!m->api.random) m->api.random = random_bytes;
}

static ds4_status open_parts(serve_model *m, server *s, ds4_engine *e, ds4_error *err)
{
    ds4_status st = replay_open(&m->replay, m->o.replay_max_ids, REPLAY_BYTES, err);
    if (!st && m->o.disk.dir) {
        kvstore_options disk = m->o.disk;
        disk.metrics = s->metrics;
        st = kvstore_open(&m->store, &disk, e, err);
    }
    if (st) return st;
    sched_options sched = m->o.sched;
    sched.store = m->store;
    sched.replay = m->replay;
    sched.metrics = s->metrics;
    return sched_open(&m->sched, e, &sched, err);
}

ds4_status serve_model_open(serve_model **out, server *s, ds4_engine *e, const serve_model_options *o, ds4_error *err)
{
    *out = NULL;
    serve_model *m = calloc(1, sizeof *m);
    if (!m) return ds4_fail(err, DS4_EMEMORY, "no memory for the server's model");
    m->o = *o;
    fill_api(m, e);
    const ds4_status st = open_parts(m, s, e, err);
    if (st) {
        serve_model_close(m);
        return st;
    }
    m->prepare = (prepare_context){
        .api = &m->api, .replay = o->sched.exact_replay ? m->replay : NULL, .store = m->store,
        .capacity = sched_capacity(m->sched),
        .trace = o->sched.trace, .trace_ctx = o->sched.trace_ctx,
    };
    m->metrics = s->metrics;
    s->metrics_kept = true;
    *out = m;
    return DS4_OK;
}

void serve_model_close(serve_model *m)
{
    if (!m) return;
    sched_close(m->sched);
    kvstore_close(m->store);
    replay_close(m->replay);
    free(m->metrics);
    free(m);
}

kvstore_size serve_model_disk(const serve_model *m)
{
    return m && m->store ? kvstore_counts(m->store) : (kvstore_size){ 0 };
}
