/* engine: what the files of this module share. The contract is ds4.h. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <pthread.h>

#include "base/log.h"
#include "ds4.h"
#include "gguf/gguf.h"
#include "model/forward.h"
#include "text/vocab.h"

struct ds4_engine {
    ds4_engine_options o;       /* model_path is not kept */
    backend_options    backend_o;
    gguf              *file;
    vocab             *vocab;
    model_config       config;
    backend           *backend;
    model_weights      weights;
    expert_store      *experts; /* NULL: all are mapped */
    kv_pool           *pool;
    forward           *forward;
    ds4_batch         *feed;    /* for ds4_session_feed */
    ds4_shape          shape;
    log_sink           log;
    int                n_sessions;
    bool               keeps_logits;        /* on the device (FORWARD_KEPT rows), until somebody asks     */
    ds4_session       *kept[FORWARD_KEPT];  /* whose logits the rows of the last step are; NULL: nobody's */
    uint64_t           n_passes;            /* run so far: rows of an earlier one are gone                */
    uint64_t           passes_at_open;      /* of the backend                                             */
    bool               lost;                /* the device, and with it all that follows weights           */
    pthread_mutex_t    metrics_lock;        /* guards metrics only */
    ds4_metrics        metrics;
};

/* A position to come back to. */
typedef struct {
    int      length;
    bool     has_logits;
    uint8_t *state;             /* owned: kv_point_bytes, then logits [V] */
    uint64_t state_bytes;
} rewind_point;

struct ds4_session {
    ds4_engine   *engine;
    kv           *kv;
    ds4_token    *tokens;       /* [capacity] */
    float        *logits;       /* [V]        */
    bool          has_logits;
    int           logits_row;   /* has_logits: row of the last pass where they still lie, -1: in `logits` */
    ds4_top_logits top;         /* logits_row >= 0: what is known of them       */
    forward_top   top_store;    /* what `top` points into                       */
    rewind_point *points;       /* [engine->o.rewind_points], ascending */
    int           n_points;
    int           pinned;       /* length of the point that stays; 0: none */
    int           in_batch;     /* rows waiting in a batch; the session can not be in two */
};

static inline int engine_sessions(const ds4_engine_options *o) { return o->max_sessions + (o->side_tokens > 0); }

kv_options      engine_kv_options(const ds4_engine_options *o);
backend_options engine_backend_options(const ds4_engine_options *o, const model_config *c);
forward_options engine_forward_options(const ds4_engine_options *o);

/* Passes st on; notes when it means that the device is lost. */
ds4_status engine_note(ds4_engine *e, ds4_status st);

/* The session's tokens after a step of n, as yet without logits. */
void session_advance(ds4_session *s, const ds4_token *t, int n);
/* Its logits: a copy, or row i of the last pass. */
void session_take_logits(ds4_session *s, const void *logits);
void session_keep_logits(ds4_session *s, int row);
void session_drop_logits(ds4_session *s);
/* Afterwards `logits` holds them, if there are any. */
ds4_status session_fetch_logits(ds4_session *s, ds4_error *err);

#endif
