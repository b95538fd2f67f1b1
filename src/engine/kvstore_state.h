/* kvstore_state: what kvstore.c (finding, loading) and kvstore_save.c (saving, making room) share. */
#ifndef ENGINE_KVSTORE_STATE_H
#define ENGINE_KVSTORE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/kvstore.h"
#include "engine/kvstore_index.h"

typedef struct {
    uint8_t sha[KV_SHA_BYTES];
    int     tokens;
} sha_tokens;

/* One save. Its lists are made when it begins: the texts are known then. */
typedef struct {
    kvc               *content;     /* owned; NULL: none runs                               */
    const ds4_session *reading;     /* whose rows are still to be read; NULL: none          */
    uint8_t            sha[KV_SHA_BYTES];
    uint64_t           size;        /* bytes                                                */
    kv_save_reason     reason;
    int                tokens;
    sha_tokens        *kept;        /* owned: prefixes of the conversation, not to be evicted */
    int                n_kept;
    uint64_t           kept_bytes;  /* of those, and of the last find's hit                 */
    sha_tokens        *chain;       /* owned: continued files of shorter prefixes, ascending */
    int                n_chain;
    int64_t            max_gap;     /* tokens                                               */
} save_job;

struct kvstore {
    kvstore_options    o;           /* dir: that of index                                   */
    char              *own;         /* owned: the folder of this engine's files             */
    ds4_engine        *engine;      /* borrowed                                             */
    ds4_shape          shape;
    pthread_t          thread;
    bool               has_thread;
    double             load_rate;   /* bytes/s; engine thread                               */
    _Atomic uint64_t   bytes, files;
    pthread_mutex_t    lock;        /* guards what follows                                  */
    pthread_cond_t     changed;
    kv_index           index;
    bool               has_hit;
    uint8_t            hit[KV_SHA_BYTES];   /* of the last find                             */
    save_job           job;         /* its fields belong to the saving thread while it runs */
    bool               stop;
    uint64_t           paused_until_ns;
    unsigned           n_temp;
};

/* Guards the index and the job; held for milliseconds, by the engine thread and the saving one. */
void       kv_lock(kvstore *s);
void       kv_unlock(kvstore *s);
/* With the lock: reads again what changed in the folders. */
void       kv_refresh(kvstore *s);
void       kv_own_path(const kvstore *s, const uint8_t *sha, const char *ending, char out[KV_PATH_MAX]);
/* A folder and those above it. */
ds4_status kv_make_folder(const char *path, ds4_error *err);

void      *kv_saving_thread(void *store);

#endif
