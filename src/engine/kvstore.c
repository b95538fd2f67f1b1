#include "engine/kvstore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "engine/kvstore_index.h"
#include "text/tokenizer.h"

#define PAUSE_NS       (60 * 1000000000ull)
#define LEAVE_FREE     (1ull << 30)     /* on the file system                            */
#define FIRST_RATE     300e6            /* bytes/s, before the first load told a better  */
#define OLD_TEMP       (24 * 3600)      /* seconds                                       */
#define MAX_GAP        4                /* intervals between continued files that stay   */
#define MAX_MAP_BYTES  (1u << 28)
#define MAX_DIR_CHARS  3900

typedef struct {
    uint8_t sha[KV_SHA_BYTES];
    int     tokens;
} sha_tokens;

/* One save. The list is made when it begins, because the texts are known then. */
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

/* ---- small things ------------------------------------------------------------------------------ */

static void lock(kvstore *s)   { pthread_mutex_lock(&s->lock); }
static void unlock(kvstore *s) { pthread_mutex_unlock(&s->lock); }

/* With the lock. A list that can not be read again stays as it was. */
static void refresh(kvstore *s)
{
    (void)kv_index_refresh(&s->index, NULL);
    atomic_store_explicit(&s->bytes, s->index.bytes, memory_order_relaxed);
    atomic_store_explicit(&s->files, (uint64_t)s->index.n, memory_order_relaxed);
}

static void own_path(const kvstore *s, const uint8_t *sha, const char *ending, char out[KV_PATH_MAX])
{
    char hex[2 * KV_SHA_BYTES + 1];
    kv_hex(sha, KV_SHA_BYTES, hex);
    snprintf(out, KV_PATH_MAX, "%s/%s%s", s->own, hex, ending);
}

/* Other processes wait while we evict or rename. Where the file can not be locked we go on: the worst
 * is a budget that two processes pass together. */
static int lock_folder(const kvstore *s)
{
    char path[KV_PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", s->o.dir);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    while (fd >= 0 && flock(fd, LOCK_EX) && errno == EINTR) { }
    return fd;
}

static void unlock_folder(int fd) { if (fd >= 0) close(fd); }

static bool hit_is(const kvstore *s, const uint8_t *sha)
{
    return s->has_hit && !memcmp(s->hit, sha, KV_SHA_BYTES);
}

kvstore_size kvstore_counts(const kvstore *s)
{
    kvstore *k = (kvstore *)s;
    return (kvstore_size){ .bytes = atomic_load_explicit(&k->bytes, memory_order_relaxed),
                           .files = atomic_load_explicit(&k->files, memory_order_relaxed), .budget_bytes = s->o.budget_bytes };
}

/* ---- putting aside --------------------------------------------------------------------------------- */

static void put_aside(kvstore *s, const uint8_t *sha, const char *why)
{
    char from[KV_PATH_MAX], to[KV_PATH_MAX];
    own_path(s, sha, ".kv", from);
    own_path(s, sha, ".kv.bad", to);
    if (rename(from, to)) (void)unlink(from);       /* gone already, or a folder that takes no new names */
    counter_add(&s->o.metrics->kv_corrupt, 1);
    log_line(&s->o.log, LOG_WARNING, "kv: %s is put aside: %s", from, why);
    lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) kv_index_remove(&s->index, e);
    refresh(s);
    unlock(s);
}

void kvstore_reject(kvstore *s, const kvstore_hit *h) { put_aside(s, h->sha, "what was loaded from it did not run"); }

/* ---- find -------------------------------------------------------------------------------------------- */

static bool find_longest(kvstore *s, slice text, int max_tokens, size_t skip, kvstore_hit *out)
{
    int *list, n, i;
    refresh(s);
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
    lock(s);
    s->has_hit = find_longest(s, text, max_tokens, skip, out);
    memcpy(s->hit, out->sha, KV_SHA_BYTES);
    unlock(s);
    return out->tokens > 0;
}

int kvstore_covered(kvstore *s, slice text)
{
    kvstore_hit h = { 0 };
    lock(s);
    (void)find_longest(s, text, INT32_MAX, 0, &h);
    unlock(s);
    return h.tokens;
}

double kvstore_load_seconds(const kvstore *s, const kvstore_hit *h) { return (double)h->bytes / s->load_rate; }

/* ---- load ---------------------------------------------------------------------------------------------- */

static ds4_status text_of(int fd, const kvc_header *h, bytes *out, ds4_error *err)
{
    if (!bytes_reserve(out, h->text_bytes)) return ds4_fail(err, DS4_EMEMORY, "no memory for a stored session's text");
    if (lseek(fd, 52, SEEK_SET) != 52) return ds4_fail(err, DS4_EIO, "a stored session can not be read: %s", strerror(errno));
    const ds4_status st = file_read_exact(fd, out->data, h->text_bytes, "stored session", err);
    out->len = st ? 0 : h->text_bytes;
    if (!st && lseek(fd, 0, SEEK_SET) != 0) return ds4_fail(err, DS4_EIO, "a stored session can not be read: %s", strerror(errno));
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
    if (!st && map.len > 0) {
        st = replay_section_read(replay, (slice){ map.data, map.len }, err);
        if (st == DS4_EMEMORY) {                    /* the session is good without it */
            log_line(&s->o.log, LOG_WARNING, "kv: no memory for the tool calls of a stored session");
            st = DS4_OK;
        }
    }
    bytes_free(&map);
    return st;
}

static void count_hit(kvstore *s, int fd, kvc_header *h, const uint8_t *sha, bool map_read)
{
    h->hits += h->hits < UINT32_MAX;
    h->used = clock_unix_seconds();
    (void)kvc_touch(fd, h, NULL);                   /* statistics; a folder that is read-only has none */
    lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) {
        e->h.hits = h->hits;
        e->h.used = h->used;
        e->map_read = e->map_read || map_read;
    }
    unlock(s);
}

static bool file_is_to_blame(ds4_status st)
{
    return st == DS4_EFORMAT || st == DS4_EIO || st == DS4_EUNSUPPORTED;
}

/* A file that is not what the list says: it is looked at again before the next find. */
static void forget(kvstore *s, const uint8_t *sha)
{
    lock(s);
    kv_entry *e = kv_index_own(&s->index, sha);
    if (e) kv_index_remove(&s->index, e);
    s->index.folders[0].settled = false;
    unlock(s);
}

ds4_status kvstore_load(kvstore *s, const kvstore_hit *hit, ds4_session *session, replay_memory *replay, ds4_error *err)
{
    ds4_error own;
    ds4_error *e = err ? err : &own;
    char path[KV_PATH_MAX];
    kvc_header h;
    kvstore_wait(s, session);
    ds4_session_reset(session);
    own_path(s, hit->sha, ".kv", path);
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
        log_line(&s->o.log, LOG_INFO, "kv: loaded %d tokens (%.1f MB) in %.3f s", hit->tokens, (double)h.file_bytes / 1e6, seconds);
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
    lock(s);
    refresh(s);
    *out = malloc((size_t)(s->index.n + 1) * sizeof **out);
    for (int i = 0; i < s->index.n && *out; i++) {
        kv_entry *e = &s->index.entries[i];
        if (!e->usable || e->map_read || !(e->h.flags & KVC_TOOL_MAP)) continue;
        e->map_read = true;
        memcpy((*out)[n++].sha, e->sha, KV_SHA_BYTES);
    }
    unlock(s);
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
        own_path(s, list[i].sha, ".kv", path);
        const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ds4_status st = fd < 0 ? DS4_ENOTFOUND : kvc_tool_map(fd, &map, &err);
        if (!st && map.len > 0) st = replay_section_read(replay, (slice){ map.data, map.len }, &err);
        if (fd >= 0) close(fd);
        bytes_free(&map);
        if (file_is_to_blame(st)) put_aside(s, list[i].sha, err.message);
    }
    free(list);
}

/* ---- making room ------------------------------------------------------------------------------------------- */

static bool is_kept(const kvstore *s, const save_job *j, const kv_entry *e)
{
    if (e->folder != 0 || e->set_aside) return false;
    if (hit_is(s, e->sha) || !memcmp(j->sha, e->sha, KV_SHA_BYTES)) return true;
    for (int i = 0; i < j->n_kept; i++)
        if (!memcmp(j->kept[i].sha, e->sha, KV_SHA_BYTES)) return true;
    return false;
}

/* Files that nobody can load go first. Of other engines' files we do not know the constant part. */
static double score_of(const kvstore *s, const kv_entry *e, uint64_t now)
{
    if (e->set_aside || (e->folder == 0 && !e->usable)) return -1;
    const uint64_t constant = e->folder == 0 ? kvc_constant_bytes(s->engine, (int)e->h.tokens) : 0;
    const uint64_t growing = e->h.file_bytes > constant ? e->h.file_bytes - constant : 1;
    const int tokens = e->h.tokens > INT32_MAX ? INT32_MAX : (int)e->h.tokens;
    return kv_score((kv_save_reason)e->h.reason, e->h.hits, now > e->h.used ? now - e->h.used : 0, tokens, growing);
}

static kv_entry *least(kvstore *s, const save_job *j)
{
    const uint64_t now = clock_unix_seconds();
    kv_entry *worst = NULL;
    double lowest = 0;
    for (int i = 0; i < s->index.n; i++) {
        kv_entry *e = &s->index.entries[i];
        if (is_kept(s, j, e)) continue;
        const double score = score_of(s, e, now);
        if (worst && (score > lowest || (score == lowest && e->h.used >= worst->h.used))) continue;
        worst = e;
        lowest = score;
    }
    return worst;
}

/* Another process may have used the file since we read its header. */
static bool used_since(kv_entry *e, const char *path)
{
    kvc_header h;
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    const bool newer = fd >= 0 && !kvc_read_header(fd, &h, NULL) && (h.hits != e->h.hits || h.used != e->h.used);
    if (newer) {
        e->h.hits = h.hits;
        e->h.used = h.used;
    }
    if (fd >= 0) close(fd);
    return newer;
}

/* Bytes that must go for the new file to fit; the one it replaces goes anyway. */
static bool fits(kvstore *s, const save_job *j)
{
    const kv_entry *same = kv_index_own(&s->index, j->sha);
    const uint64_t rest = s->index.bytes - (same ? same->h.file_bytes : 0);
    return j->size <= s->o.budget_bytes && rest <= s->o.budget_bytes - j->size;
}

/* With the lock, and the folder's. False: what is protected leaves no room. */
static bool make_room(kvstore *s, const save_job *j)
{
    refresh(s);
    while (!fits(s, j)) {
        char path[KV_PATH_MAX];
        kv_entry *e = least(s, j);
        if (!e) return false;
        kv_index_path(&s->index, e->folder, e->sha, kv_entry_ending(e), path);
        if (used_since(e, path)) continue;
        if (unlink(path) && errno != ENOENT) return false;
        counter_add(&s->o.metrics->kv_evictions, 1);
        log_line(&s->o.log, LOG_INFO, "kv: evicted %u tokens (%.1f MB)", (unsigned)e->h.tokens, (double)e->h.file_bytes / 1e6);
        kv_index_remove(&s->index, e);
    }
    return true;
}

/* A chain of continued files needs few links: each goes whose neighbours are close to each other. */
static void thin_chain(kvstore *s, const save_job *j)
{
    int64_t before = 0;
    for (int i = 0; i < j->n_chain; i++) {
        const int after = i + 1 < j->n_chain ? j->chain[i + 1].tokens : j->tokens;
        char path[KV_PATH_MAX];
        if (after - before > j->max_gap || hit_is(s, j->chain[i].sha)) {
            before = j->chain[i].tokens;
            continue;
        }
        own_path(s, j->chain[i].sha, ".kv", path);
        (void)unlink(path);
    }
}

/* ---- the saving thread ----------------------------------------------------------------------------------------- */

static void temp_path(kvstore *s, const save_job *j, char out[KV_PATH_MAX])
{
    char hex[2 * KV_SHA_BYTES + 1];
    kv_hex(j->sha, KV_SHA_BYTES, hex);
    snprintf(out, KV_PATH_MAX, "%s/.%s.%ld.%u.tmp", s->own, hex, (long)getpid(), s->n_temp++);
}

/* The folder and those above it. */
static ds4_status make_folder(const char *path, ds4_error *err)
{
    char part[KV_PATH_MAX];
    const size_t n = strlen(path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0700) && errno != EEXIST && i == n) return ds4_fail(err, DS4_EIO, "%s: making it: %s", path, strerror(errno));
    }
    return DS4_OK;
}

/* A new file that is ours as long as we live: the lock tells others so, and goes with the process. */
static int open_temp(kvstore *s, const save_job *j, char path[KV_PATH_MAX], ds4_error *err)
{
    int fd = -1;
    lock(s);
    for (int tries = 0; tries < 100 && fd < 0; tries++) {
        temp_path(s, j, path);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 || (errno != EEXIST && errno != ENOENT)) break;
        if (errno == ENOENT && make_folder(s->own, NULL)) break;
    }
    if (fd < 0) ds4_fail(err, DS4_EIO, "%s: creating it: %s", path, strerror(errno));
    else (void)flock(fd, LOCK_EX | LOCK_NB);
    unlock(s);
    return fd;
}

static void sync_folder(const kvstore *s)
{
    const int fd = open(s->own, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);                                /* some file systems refuse; the data is safe */
    close(fd);
}

/* Gives the finished file its name. */
static ds4_status publish(kvstore *s, const save_job *j, const char *temp, ds4_error *err)
{
    char path[KV_PATH_MAX];
    own_path(s, j->sha, ".kv", path);
    const int folder = lock_folder(s);
    lock(s);
    ds4_status st = DS4_OK;
    if (!make_room(s, j)) st = ds4_fail(err, DS4_EFULL, "the files that must stay leave no room in the budget");
    else if (rename(temp, path)) st = ds4_fail(err, DS4_EIO, "%s: renaming it: %s", temp, strerror(errno));
    if (!st) thin_chain(s, j);
    refresh(s);
    kv_entry *e = st ? NULL : kv_index_own(&s->index, j->sha);
    if (e) e->map_read = true;                      /* its records come from this memory */
    unlock(s);
    unlock_folder(folder);
    if (!st) sync_folder(s);
    return st;
}

static void stop_reading(kvstore *s)
{
    lock(s);
    s->job.reading = NULL;
    pthread_cond_broadcast(&s->changed);
    unlock(s);
}

static ds4_status write_file(kvstore *s, const save_job *j, ds4_error *err)
{
    char temp[KV_PATH_MAX];
    const int fd = open_temp(s, j, temp, err);
    if (fd < 0) return DS4_EIO;
    ds4_status st = kvc_write(j->content, fd, err);
    stop_reading(s);
    if (!st && fsync(fd)) st = ds4_fail(err, DS4_EIO, "%s: flushing it to disk: %s", temp, strerror(errno));
    if (!st) st = publish(s, j, temp, err);
    if (st) (void)unlink(temp);
    close(fd);                                      /* only now: an unlocked temporary file is nobody's */
    return st;
}

static const char *const reason_names[METRIC_SAVE_REASONS] = { "unknown", "cold", "continued", "evict", "shutdown",
                                                               "agent-system", "agent-session" };

static void run_job(kvstore *s)
{
    const save_job *j = &s->job;
    const uint64_t start = clock_ns();
    ds4_error err = { 0 };
    const ds4_status st = write_file(s, j, &err);
    const double seconds = (double)(clock_ns() - start) / 1e9;
    if (!st) {
        histogram_add(&s->o.metrics->kv_save[j->reason], seconds);
        log_line(&s->o.log, LOG_INFO, "kv: saved %d tokens (%s, %.1f MB) in %.3f s", j->tokens, reason_names[j->reason],
                 (double)j->size / 1e6, seconds);
    } else if (st == DS4_EIO) {
        log_line(&s->o.log, LOG_WARNING, "kv: a save failed, the next is tried in a minute: %s", err.message);
        lock(s);
        s->paused_until_ns = clock_ns() + PAUSE_NS;
        unlock(s);
    } else {
        log_line(&s->o.log, LOG_WARNING, "kv: %d tokens were not saved: %s", j->tokens, err.message);
    }
}

static void *saving_thread(void *arg)
{
    kvstore *s = arg;
    lock(s);
    for (;;) {
        while (!s->job.content && !s->stop) pthread_cond_wait(&s->changed, &s->lock);
        if (!s->job.content) break;
        unlock(s);
        run_job(s);
        kvc_free(s->job.content);
        free(s->job.kept);
        free(s->job.chain);
        lock(s);
        s->job = (save_job){ 0 };
        pthread_cond_broadcast(&s->changed);
    }
    unlock(s);
    return NULL;
}

void kvstore_wait(kvstore *s, const ds4_session *session)
{
    lock(s);
    while (s->job.content && (!session || s->job.reading == session)) pthread_cond_wait(&s->changed, &s->lock);
    unlock(s);
}

/* ---- save --------------------------------------------------------------------------------------------------------- */

/* With the lock: entries whose text begins `text`; of the own kind of continued files only, if so wanted. */
static ds4_status list_prefixes(kvstore *s, slice text, bool continued, sha_tokens **out, int *n, ds4_error *err)
{
    int *list, n_list;
    *n = 0;
    const ds4_status st = kv_index_prefixes(&s->index, text, &list, &n_list, err);
    if (st) return st;
    *out = malloc((size_t)(n_list + 1) * sizeof **out);
    for (int i = 0; i < n_list && *out; i++) {
        const kv_entry *e = &s->index.entries[list[i]];
        if (continued && (e->h.reason != KV_SAVE_CONTINUED || e->h.text_bytes == text.len)) continue;
        (*out)[*n].tokens = (int)e->h.tokens;
        memcpy((*out)[(*n)++].sha, e->sha, KV_SHA_BYTES);
    }
    free(list);
    return *out ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory for a list of stored sessions");
}

/* What must stay of the index and what goes, as far as texts decide it. */
static ds4_status plan_job(kvstore *s, save_job *j, const kvstore_save_options *o, bool *there, ds4_error *err)
{
    lock(s);
    ds4_status st = DS4_OK;
    *there = false;
    if (clock_ns() < s->paused_until_ns) st = ds4_fail(err, DS4_EIO, "saving pauses for a minute after a failure of the disk");
    if (!st) {
        refresh(s);
        const kv_entry *same = kv_index_own(&s->index, j->sha);
        *there = same && same->h.tokens == (uint32_t)j->tokens;
        st = list_prefixes(s, o->conversation, false, &j->kept, &j->n_kept, err);
    }
    for (int i = 0; i < s->index.n && !st; i++) {
        const kv_entry *e = &s->index.entries[i];
        if (is_kept(s, j, e) && memcmp(j->sha, e->sha, KV_SHA_BYTES)) j->kept_bytes += e->h.file_bytes;
    }
    if (!st && o->reason == KV_SAVE_CONTINUED) st = list_prefixes(s, o->text, true, &j->chain, &j->n_chain, err);
    unlock(s);
    return st;
}

/* The sampled blocks of the conversation. A visible transcript may spell them otherwise, so its tokens are searched too. */
static ds4_status make_tool_map(kvstore *s, const ds4_session *session, const kvstore_save_options *o, bytes *out, ds4_error *err)
{
    if (!o->replay) return DS4_OK;
    if (!o->visible) return replay_section_write(o->replay, o->text, out, err);
    bytes both;
    bytes_init(&both, 1u << 30);
    bytes_append(&both, o->text.data, o->text.len);
    bytes_char(&both, 0);
    ds4_status st = both.failed ? ds4_fail(err, DS4_EMEMORY, "no memory for the text of a session") : DS4_OK;
    if (!st) st = tokenizer_decode(ds4_engine_vocab(s->engine), ds4_session_tokens(session),
                                   (size_t)ds4_session_length(session), true, &both, err);
    if (!st) st = replay_section_write(o->replay, (slice){ both.data, both.len }, out, err);
    bytes_free(&both);
    return st;
}

/* Five percent more than the file: what the file system adds. */
static ds4_status check_size(const kvstore *s, uint64_t size, uint64_t kept_bytes, ds4_error *err)
{
    struct statvfs f;
    const uint64_t want = size + size / 20;
    if (want > s->o.budget_bytes || kept_bytes > s->o.budget_bytes - size)
        return ds4_fail(err, DS4_EFULL, "a session of %.1f MB does not fit the budget of %.1f MB, of which %.1f MB must stay",
                        (double)size / 1e6, (double)s->o.budget_bytes / 1e6, (double)kept_bytes / 1e6);
    if (statvfs(s->o.dir, &f)) return DS4_OK;
    const uint64_t block = f.f_frsize ? f.f_frsize : f.f_bsize, available = (uint64_t)f.f_bavail * block;
    if (available < want || available - want < LEAVE_FREE)
        return ds4_fail(err, DS4_EFULL, "%s: %.1f MB are free; a session of %.1f MB must leave 1 GiB", s->o.dir,
                        (double)available / 1e6, (double)size / 1e6);
    return DS4_OK;
}

static ds4_status copy_session(kvstore *s, save_job *j, ds4_session *session, const kvstore_save_options *o, ds4_error *err)
{
    bytes map;
    bytes_init(&map, MAX_MAP_BYTES);
    ds4_status st = make_tool_map(s, session, o, &map, err);
    if (st) {                                       /* the session is worth saving without */
        bytes_clear(&map);
        st = DS4_OK;
    }
    const kvc_about a = { .reason = (int)o->reason, .text = o->text, .tool_map = { map.data, map.len },
                          .flags = !o->visible ? 0 : o->thinking ? KVC_VISIBLE_THINKING : KVC_VISIBLE };
    st = kvc_take(&j->content, session, &a, err);
    if (!st) {
        j->size = kvc_bytes(j->content);
        st = check_size(s, j->size, j->kept_bytes, err);
    }
    bytes_free(&map);
    return st;
}

static ds4_status make_job(kvstore *s, save_job *j, ds4_session *session, const kvstore_save_options *o, ds4_error *err)
{
    const kv_save_policy p = kv_save_policy_defaults();
    const int interval = o->interval > 0 ? o->interval : kv_continued_interval(&p);
    bool there = false;
    *j = (save_job){ .reading = session, .reason = o->reason, .tokens = ds4_session_length(session),
                     .max_gap = (int64_t)MAX_GAP * interval };
    ds4_status st = kv_text_sha(o->text, j->sha, err);
    if (!st) st = plan_job(s, j, o, &there, err);
    if (!st && !there) st = copy_session(s, j, session, o, err);
    return st;
}

static void drop_job(save_job *j)
{
    kvc_free(j->content);
    free(j->kept);
    free(j->chain);
}

static bool is_saving(kvstore *s)
{
    lock(s);
    const bool busy = s->job.content != NULL;
    unlock(s);
    return busy;
}

ds4_status kvstore_save(kvstore *s, ds4_session *session, const kvstore_save_options *o, ds4_error *err)
{
    if (ds4_session_length(session) == 0 || o->text.len == 0 || (unsigned)o->reason >= METRIC_SAVE_REASONS)
        return ds4_fail(err, DS4_EARG, "an empty session or text can not be stored");
    if (o->wait) kvstore_wait(s, NULL);
    else if (is_saving(s)) return ds4_fail(err, DS4_EFULL, "another save is running");

    save_job j;
    const ds4_status st = make_job(s, &j, session, o, err);
    if (st || !j.content) {
        drop_job(&j);
        return st;
    }
    lock(s);
    s->job = j;
    pthread_cond_broadcast(&s->changed);
    unlock(s);
    return DS4_OK;
}

/* ---- open and close --------------------------------------------------------------------------------------------------- */

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
            if (temp ? is_left_over(dirfd(d), f->d_name) : ends_with(f->d_name, ".kv.bad")) (void)unlinkat(dirfd(d), f->d_name, 0);
        }
        closedir(d);
    }
}

static ds4_status open_index(kvstore *s, const char *dir, ds4_error *err)
{
    uint8_t id[KVC_ID_BYTES];
    char name[KV_ID_CHARS + 1];
    if (strlen(dir) == 0 || strlen(dir) > MAX_DIR_CHARS) return ds4_fail(err, DS4_EARG, "the folder's name is empty or too long");
    ds4_status st = kvc_engine_id(s->engine, id, err);
    if (st) return st;
    kv_hex(id, KVC_ID_BYTES, name);
    const size_t size = strlen(dir) + 1 + sizeof name;
    s->own = malloc(size);
    if (!s->own) return ds4_fail(err, DS4_EMEMORY, "no memory for the session store");
    snprintf(s->own, size, "%s/%s", dir, name);
    if ((st = make_folder(s->own, err)) || (st = check_writable(dir, err))) return st;
    if ((st = kv_index_open(&s->index, dir, name, err))) return st;
    s->o.dir = s->index.dir;
    clean(&s->index);
    refresh(s);
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
        const int failure = pthread_create(&s->thread, NULL, saving_thread, s);
        s->has_thread = failure == 0;
        if (failure) st = ds4_fail(err, DS4_EMEMORY, "the saving thread can not be started: %s", strerror(failure));
    }
    if (st) {
        kvstore_close(s);
        return st;
    }
    log_line(&s->o.log, LOG_INFO, "kv: %d stored sessions, %.1f of %.1f MB in %s", s->index.n, (double)s->index.bytes / 1e6,
             (double)o->budget_bytes / 1e6, s->o.dir);
    *out = s;
    return DS4_OK;
}

void kvstore_close(kvstore *s)
{
    if (!s) return;
    if (s->has_thread) {
        lock(s);
        s->stop = true;
        pthread_cond_broadcast(&s->changed);
        unlock(s);
        pthread_join(s->thread, NULL);
    }
    kv_index_close(&s->index);
    free(s->own);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}
