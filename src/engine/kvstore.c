#include "engine/kvstore_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

#define FIRST_RATE     300e6            /* bytes/s, before the first load told a better  */
#define OLD_TEMP       (24 * 3600)      /* seconds                                       */
#define MAX_MAP_BYTES  (1u << 28)
#define MAX_DIR_CHARS  3900

/* ---- small things ------------------------------------------------------------------------------ */

void kv_lock(kvstore *s)   { pthread_mutex_lock(&s->lock); }
void kv_unlock(kvstore *s) { pthread_mutex_unlock(&s->lock); }

/* A list that can not be read again stays as it was. */
void kv_refresh(kvstore *s)
{
    (void)kv_index_refresh(&s->index, NULL);
    atomic_store_explicit(&s->bytes, s->index.bytes, memory_order_relaxed);
    atomic_store_explicit(&s->files, (uint64_t)s->index.n, memory_order_relaxed);
}

void kv_own_path(const kvstore *s, const uint8_t *sha, const char *ending, char out[KV_PATH_MAX])
{
    char hex[2 * KV_SHA_BYTES + 1];
    kv_hex(sha, KV_SHA_BYTES, hex);
    snprintf(out, KV_PATH_MAX, "%s/%s%s", s->own, hex, ending);
}

kvstore_size kvstore_counts(const kvstore *s)
{
    kvstore *k = (kvstore *)s;
    return (kvstore_size){ .bytes = atomic_load_explicit(&k->bytes, memory_order_relaxed),
                           .files = atomic_load_explicit(&k->files, memory_order_relaxed),
                           .budget_bytes = s->o.budget_bytes };
}

/* ---- putting aside --------------------------------------------------------------------------------- */

static void put_aside(kvstore *s, const uint8_t *sha, const char *why)
{
    char from[KV_PATH_MAX], to[KV_PATH_MAX];
    kv_own_path(s, sha, ".kv", from);
    kv_own_path(s, sha, ".kv.bad", to);
    if (rename(from, to)) (void)unlink(from);       /* gone already, or a folder that takes no new names */
    counter_add(&s->o.metrics->kv_corrupt, 1);
    log_line(&s->o.log, LOG_WARNING, "kv: %s is put aside: %s", from, why);
    kv_lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) kv_index_remove(&s->index, e);
    kv_refresh(s);
    kv_unlock(s);
}

void kvstore_reject(kvstore *s, const kvstore_hit *h) { put_aside(s, h->sha, "what was loaded from it did not run"); }

/* ---- find -------------------------------------------------------------------------------------------- */

static bool find_longest(kvstore *s, slice text, int max_tokens, size_t skip, kvstore_hit *out)
{
    int *list, n, i;
    kv_refresh(s);
    if (kv_index_prefixes(&s->index, text, &list, &n, NULL)) return false;
    for (i = n - 1; i >= 0; i--) {
        const kv_entry *e = &s->index.entries[list[i]];
        if (skip > 0 && e->h.text_bytes >= skip) continue;
        if (e->h.tokens > (uint32_t)max_int(max_tokens, 0)) continue;
        if (s->o.reject_different_quant && e->h.expert_bits != (uint8_t)s->shape.expert_bits) continue;
        *out = (kvstore_hit){ .tokens = (int)e->h.tokens, .text_bytes = e->h.text_bytes, .bytes = e->h.file_bytes,
                              .visible = (e->h.flags & (KVC_VISIBLE | KVC_VISIBLE_THINKING)) != 0 };
        memcpy(out->sha, e->sha, KV_SHA_BYTES);
        break;
    }
    free(list);
    return i >= 0;
}

bool kvstore_find(kvstore *s, slice text, int max_tokens, size_t skip, kvstore_hit *out)
{
    *out = (kvstore_hit){ 0 };
    kv_lock(s);
    s->has_hit = find_longest(s, text, max_tokens, skip, out);
    memcpy(s->hit, out->sha, KV_SHA_BYTES);
    kv_unlock(s);
    return out->tokens > 0;
}

int kvstore_covered(kvstore *s, slice text)
{
    kvstore_hit h = { 0 };
    kv_lock(s);
    (void)find_longest(s, text, INT32_MAX, 0, &h);
    kv_unlock(s);
    return h.tokens;
}

double kvstore_load_seconds(const kvstore *s, const kvstore_hit *h) { return (double)h->bytes / s->load_rate; }

/* ---- load ---------------------------------------------------------------------------------------------- */

static ds4_status text_of(int fd, const kvc_header *h, bytes *out, ds4_error *err)
{
    if (!bytes_reserve(out, h->text_bytes)) return ds4_fail(err, DS4_EMEMORY, "no memory for a stored session's text");
    if (lseek(fd, 52, SEEK_SET) != 52)
        return ds4_fail(err, DS4_EIO, "a stored session can not be read: %s", strerror(errno));
    const ds4_status st = file_read_exact(fd, out->data, h->text_bytes, "stored session", err);
    out->len = st ? 0 : h->text_bytes;
    if (!st && lseek(fd, 0, SEEK_SET) != 0)
        return ds4_fail(err, DS4_EIO, "a stored session can not be read: %s", strerror(errno));
    return st;
}

/* The name is a promise about the text. */
static ds4_status check_text(int fd, const kvc_header *h, const uint8_t *sha, ds4_error *err)
{
    bytes text;
    uint8_t own[KV_SHA_BYTES];
    bytes_init(&text, (size_t)h->text_bytes + 1);
    ds4_status st = text_of(fd, h, &text, err);
    if (!st) st = kv_text_sha((slice){ text.data, text.len }, own, err);
    if (!st && memcmp(own, sha, KV_SHA_BYTES)) st = ds4_fail(err, DS4_EFORMAT, "its name is not that of its text");
    bytes_free(&text);
    return st;
}

/* Calls that can not be read are no reason to refuse a session whose checksums agree; they will be spelled anew. */
static ds4_status learn(kvstore *s, const kvc_header *h, const bytes *map, replay_memory *replay, ds4_error *err)
{
    const ds4_status st = replay_section_read(replay, (slice){ map->data, map->len }, err);
    if (!st || (st == DS4_EFORMAT && !(h->flags & KVC_INTEGRITY))) return st;
    log_line(&s->o.log, LOG_WARNING, "kv: the tool calls of a stored session are left out: %s", err->message);
    return DS4_OK;
}

static ds4_status load_file(kvstore *s, int fd, const kvstore_hit *hit, kvc_header *h, ds4_session *session,
                            replay_memory *replay, ds4_error *err)
{
    ds4_status st = kvc_read_header(fd, h, err);
    if (st) return st;
    if (h->tokens != (uint32_t)hit->tokens || h->text_bytes != hit->text_bytes)
        return ds4_fail(err, DS4_ENOTFOUND, "the stored session was replaced meanwhile");
    if ((st = check_text(fd, h, hit->sha, err))) return st;

    bytes map;
    bytes_init(&map, MAX_MAP_BYTES);
    st = kvc_load(session, fd, replay ? &map : NULL, err);
    if (!st && map.len > 0) st = learn(s, h, &map, replay, err);
    bytes_free(&map);
    return st;
}

static void count_hit(kvstore *s, int fd, kvc_header *h, const uint8_t *sha, bool map_read)
{
    h->hits += h->hits < UINT32_MAX;
    h->used = clock_unix_seconds();
    (void)kvc_touch(fd, h, NULL);                   /* statistics; a folder that is read-only has none */
    kv_lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) {
        e->h.hits = h->hits;
        e->h.used = h->used;
        e->map_read = e->map_read || map_read;
    }
    kv_unlock(s);
}

static bool file_is_to_blame(ds4_status st)
{
    return st == DS4_EFORMAT || st == DS4_EIO || st == DS4_EUNSUPPORTED;
}

/* A file that is not what the list says: it is looked at again before the next find. */
static void forget(kvstore *s, const uint8_t *sha)
{
    kv_lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) kv_index_remove(&s->index, e);
    s->index.folders[0].settled = false;
    kv_unlock(s);
}

ds4_status kvstore_load(kvstore *s, const kvstore_hit *hit, ds4_session *session, replay_memory *replay, ds4_error *err)
{
    ds4_error own;
    ds4_error *e = err ? err : &own;
    char path[KV_PATH_MAX];
    kvc_header h;
    kvstore_wait(s, session);
    ds4_session_reset(session);
    kv_own_path(s, hit->sha, ".kv", path);
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        const ds4_status gone = ds4_fail(e, DS4_ENOTFOUND, "%s: %s", path, strerror(errno));
        forget(s, hit->sha);
        return gone;
    }

    const uint64_t start = clock_ns();
    const ds4_status st = load_file(s, fd, hit, &h, session, replay, e);
    if (!st) {
        const double seconds = (double)(clock_ns() - start) / 1e9;
        if (seconds > 0) s->load_rate = (s->load_rate + (double)h.file_bytes / seconds) / 2;
        histogram_add(&s->o.metrics->kv_load, seconds);
        count_hit(s, fd, &h, hit->sha, replay != NULL);
        log_line(&s->o.log, LOG_INFO, "kv: loaded %d tokens (%.1f MB) in %.3f s", hit->tokens,
                 (double)h.file_bytes / 1e6, seconds);
    } else {
        ds4_session_reset(session);
    }
    close(fd);
    if (file_is_to_blame(st)) put_aside(s, hit->sha, e->message);
    if (st == DS4_ENOTFOUND) forget(s, hit->sha);
    return st;
}

/* ---- tool maps --------------------------------------------------------------------------------------------- */

/* Names of files whose maps nobody has read, which are then marked as read. */
static int unread_maps(kvstore *s, sha_tokens **out)
{
    int n = 0;
    kv_lock(s);
    kv_refresh(s);
    *out = malloc((size_t)(s->index.n + 1) * sizeof **out);
    for (int i = 0; i < s->index.n && *out; i++) {
        kv_entry *e = &s->index.entries[i];
        if (!e->usable || e->map_read || !(e->h.flags & KVC_TOOL_MAP)) continue;
        e->map_read = true;
        memcpy((*out)[n++].sha, e->sha, KV_SHA_BYTES);
    }
    kv_unlock(s);
    return n;
}

void kvstore_read_tool_maps(kvstore *s, replay_memory *replay)
{
    sha_tokens *list;
    const int n = unread_maps(s, &list);
    for (int i = 0; i < n; i++) {
        char path[KV_PATH_MAX];
        ds4_error err;
        bytes map;
        bytes_init(&map, MAX_MAP_BYTES);
        kv_own_path(s, list[i].sha, ".kv", path);
        kvc_header h;
        const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ds4_status st = fd < 0 ? DS4_ENOTFOUND : kvc_read_header(fd, &h, &err);
        if (!st) st = kvc_tool_map(fd, &map, &err);
        if (!st && map.len > 0) st = learn(s, &h, &map, replay, &err);
        if (fd >= 0) close(fd);
        bytes_free(&map);
        if (file_is_to_blame(st)) put_aside(s, list[i].sha, err.message);
    }
    free(list);
}

/* ---- open and close ------------------------------------------------------------------------- */

ds4_status kv_make_folder(const char *path, ds4_error *err)
{
    char part[KV_PATH_MAX];
    const size_t n = strlen(path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0700) && errno != EEXIST && i == n)
            return ds4_fail(err, DS4_EIO, "%s: making it: %s", path, strerror(errno));
    }
    return DS4_OK;
}

static ds4_status check_writable(const char *dir, ds4_error *err)
{
    char path[KV_PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", dir);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return ds4_fail(err, DS4_EIO, "%s: writing it: %s", path, strerror(errno));
    close(fd);
    return DS4_OK;
}

/* A temporary file whose writer is gone: the lock is free, or it was forgotten long ago. */
static bool is_left_over(int dir, const char *name)
{
    struct stat f;
    const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return false;
    const bool alone = flock(fd, LOCK_EX | LOCK_NB) == 0;
    const bool old = fstat(fd, &f) == 0 && (int64_t)clock_unix_seconds() - (int64_t)f.st_mtime > OLD_TEMP;
    close(fd);
    return alone || old;
}

static bool ends_with(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);
    return n >= m && !strcmp(name + n - m, ending);
}

/* What dead processes were writing, and what was put aside before this start. */
static void clean(const kv_index *ix)
{
    for (int i = 0; i < ix->n_folders; i++) {
        char path[KV_PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", ix->dir, ix->folders[i].name);
        DIR *d = opendir(path);
        if (!d) continue;
        for (struct dirent *f; (f = readdir(d));) {
            const bool temp = f->d_name[0] == '.' && ends_with(f->d_name, ".tmp");
            if (temp ? is_left_over(dirfd(d), f->d_name) : ends_with(f->d_name, ".kv.bad"))
                (void)unlinkat(dirfd(d), f->d_name, 0);
        }
        closedir(d);
    }
}

ds4_status kvstore_check(const char *dir, ds4_error *err)
{
    if (strlen(dir) == 0 || strlen(dir) > MAX_DIR_CHARS)
        return ds4_fail(err, DS4_EARG, "the folder's name is empty or too long");
    const ds4_status st = kv_make_folder(dir, err);
    return st ? st : check_writable(dir, err);
}

static ds4_status open_index(kvstore *s, const char *dir, ds4_error *err)
{
    uint8_t id[KVC_ID_BYTES];
    char name[KV_ID_CHARS + 1];
    ds4_status st = kvstore_check(dir, err);
    if (st || (st = kvc_engine_id(s->engine, id, err))) return st;
    kv_hex(id, KVC_ID_BYTES, name);
    const size_t size = strlen(dir) + 1 + sizeof name;
    s->own = malloc(size);
    if (!s->own) return ds4_fail(err, DS4_EMEMORY, "no memory for the session store");
    snprintf(s->own, size, "%s/%s", dir, name);
    if ((st = kv_make_folder(s->own, err))) return st;
    if ((st = kv_index_open(&s->index, dir, name, err))) return st;
    s->o.dir = s->index.dir;
    clean(&s->index);
    kv_refresh(s);
    return DS4_OK;
}

ds4_status kvstore_open(kvstore **out, const kvstore_options *o, ds4_engine *e, ds4_error *err)
{
    *out = NULL;
    kvstore *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for the session store");
    s->o = *o;
    s->engine = e;
    s->load_rate = FIRST_RATE;
    ds4_engine_shape(e, &s->shape);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    ds4_status st = open_index(s, o->dir, err);
    if (!st) {
        const int failure = pthread_create(&s->thread, NULL, kv_saving_thread, s);
        s->has_thread = failure == 0;
        if (failure) st = ds4_fail(err, DS4_EMEMORY, "the saving thread can not be started: %s", strerror(failure));
    }
    if (st) {
        kvstore_close(s);
        return st;
    }
    log_line(&s->o.log, LOG_INFO, "kv: %d stored sessions, %.1f of %.1f MB in %s", s->index.n,
             (double)s->index.bytes / 1e6, (double)o->budget_bytes / 1e6, s->o.dir);
    *out = s;
    return DS4_OK;
}

void kvstore_close(kvstore *s)
{
    if (!s) return;
    if (s->has_thread) {
        kv_lock(s);
        s->stop = true;
        pthread_cond_broadcast(&s->changed);
        kv_unlock(s);
        pthread_join(s->thread, NULL);
    }
    kv_index_close(&s->index);
    free(s->own);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}
