/* kvstore_case: an engine, a session and a folder for tests of the session store. */
#ifndef TESTS_SERVER_KVSTORE_CASE_H
#define TESTS_SERVER_KVSTORE_CASE_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/kvstore.h"
#include "engine/kvstore_index.h"
#include "runner.h"
#include "tiny/model.h"

enum { CASE_CONTEXT = 2048, CASE_BUDGET = 1 << 30 };

typedef struct {
    ds4_engine     *engine;
    ds4_session    *session;
    server_metrics *metrics;
    char            dir[512];
    kvstore_options o;
} kv_case;

static inline ds4_engine *case_engine(const char *mix, bool no_rounding, int context)
{
    ds4_engine *e = NULL;
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model(mix);
    o.n_threads = 1;
    o.max_tokens = context;
    o.max_sessions = 2;
    o.max_batch_rows = 128;
    o.no_rounding = no_rounding;
    if (ds4_engine_open(&e, &o, &err)) test_fail(__FILE__, __LINE__, "open: %s", err.message);
    return e;
}

static inline bool case_open(kv_case *c, const char *dir)
{
    ds4_error err;
    memset(c, 0, sizeof *c);
    c->engine = case_engine("q8_0", false, CASE_CONTEXT);
    if (!c->engine || ds4_session_open(&c->session, c->engine, CASE_CONTEXT, &err)) return false;
    c->metrics = malloc(sizeof *c->metrics);
    server_metrics_init(c->metrics);
    snprintf(c->dir, sizeof c->dir, "%s", test_scratch(dir));
    c->o = (kvstore_options){ .dir = c->dir, .budget_bytes = CASE_BUDGET, .metrics = c->metrics };
    return true;
}

static inline void case_close(kv_case *c)
{
    ds4_session_close(c->session);
    ds4_engine_close(c->engine);
    free(c->metrics);
}

static inline kvstore *case_store(kv_case *c)
{
    kvstore *s = NULL;
    ds4_error err;
    if (kvstore_open(&s, &c->o, c->engine, &err)) test_fail(__FILE__, __LINE__, "kvstore_open: %s", err.message);
    return s;
}

/* The session holds n tokens of timeline `which`. */
static inline void case_fill(kv_case *c, int which, int n)
{
    ds4_error err;
    ds4_shape shape;
    ds4_token t[CASE_CONTEXT];
    ds4_engine_shape(c->engine, &shape);
    for (int i = 0; i < n; i++) t[i] = (i * (31 + 2 * which) + 7) % shape.n_vocab;
    ds4_session_reset(c->session);
    EXPECT_OK(ds4_session_feed(c->session, t, n, NULL, NULL, &err), err);
}

/* Saves the session under a text and waits for the file. */
static inline ds4_status case_save(kv_case *c, kvstore *s, kv_save_reason reason, const char *text)
{
    ds4_error err = { 0 };
    const kvstore_save_options o = { .reason = reason, .text = slice_of(text), .wait = true };
    const ds4_status st = kvstore_save(s, c->session, &o, &err);
    kvstore_wait(s, NULL);
    return st;
}

/* The folder of an engine's files. */
static inline void engine_folder(const ds4_engine *e, const char *dir, char out[600])
{
    uint8_t id[KVC_ID_BYTES];
    char hex[2 * KVC_ID_BYTES + 1];
    EXPECT_INT(kvc_engine_id(e, id, NULL), DS4_OK);
    kv_hex(id, KVC_ID_BYTES, hex);
    snprintf(out, 600, "%s/%s", dir, hex);
}

static inline void case_folder(const kv_case *c, char out[600]) { engine_folder(c->engine, c->dir, out); }

static inline void case_file(const kv_case *c, const char *text, const char *ending, char out[700])
{
    uint8_t sha[KV_SHA_BYTES];
    char hex[2 * KV_SHA_BYTES + 1], folder[600];
    case_folder(c, folder);
    EXPECT_INT(kv_text_sha(slice_of(text), sha, NULL), DS4_OK);
    kv_hex(sha, KV_SHA_BYTES, hex);
    snprintf(out, 700, "%s/%s%s", folder, hex, ending);
}

static inline bool case_exists(const kv_case *c, const char *text, const char *ending)
{
    char path[700];
    case_file(c, text, ending, path);
    return access(path, F_OK) == 0;
}

/* Files of a folder whose names end so, and their bytes. */
static inline int case_count(const char *folder, const char *ending, uint64_t *size)
{
    int n = 0;
    DIR *d = opendir(folder);
    if (size) *size = 0;
    for (struct dirent *f; d && (f = readdir(d));) {
        const size_t len = strlen(f->d_name), m = strlen(ending);
        struct stat st;
        if (len < m || strcmp(f->d_name + len - m, ending)) continue;
        if (size && !fstatat(dirfd(d), f->d_name, &st, 0)) *size += (uint64_t)st.st_size;
        n++;
    }
    if (d) closedir(d);
    return n;
}

static inline bool found(kvstore *s, const char *text, kvstore_hit *h)
{
    return kvstore_find(s, slice_of(text), INT32_MAX, 0, h);
}

#endif
