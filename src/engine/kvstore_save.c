/* kvstore_save: writing sessions in the background, and making room for them. */
#include "engine/kvstore_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "text/tokenizer.h"

#define PAUSE_NS       (60 * 1000000000ull)
#define LEAVE_FREE     (1ull << 30)     /* on the file system                       */
#define MAX_GAP        4                /* intervals between continued files that stay */
#define MAX_MAP_BYTES  (1u << 28)

/* ---- making room ------------------------------------------------------------------------------------------- */

static bool hit_is(const kvstore *s, const uint8_t *sha)
{
    return s->has_hit && !memcmp(s->hit, sha, KV_SHA_BYTES);
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
    kv_refresh(s);
    while (!fits(s, j)) {
        char path[KV_PATH_MAX];
        kv_entry *e = least(s, j);
        if (!e) return false;
        kv_index_path(&s->index, e->folder, e->sha, kv_entry_ending(e), path);
        if (used_since(e, path)) continue;
        if (unlink(path) && errno != ENOENT) return false;
        counter_add(&s->o.metrics->kv_evictions, 1);
        log_line(&s->o.log, LOG_INFO, "kv: evicted %u tokens (%.1f MB)", (unsigned)e->h.tokens,
                 (double)e->h.file_bytes / 1e6);
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
        kv_own_path(s, j->chain[i].sha, ".kv", path);
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

/* A new file that is ours as long as we live: the lock tells others so, and goes with the process. */
static int open_temp(kvstore *s, const save_job *j, char path[KV_PATH_MAX], ds4_error *err)
{
    int fd = -1;
    kv_lock(s);
    for (int tries = 0; tries < 100 && fd < 0; tries++) {
        temp_path(s, j, path);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 || (errno != EEXIST && errno != ENOENT)) break;
        if (errno == ENOENT && kv_make_folder(s->own, NULL)) break;
    }
    if (fd < 0) ds4_fail(err, DS4_EIO, "%s: creating it: %s", path, strerror(errno));
    else (void)flock(fd, LOCK_EX | LOCK_NB);
    kv_unlock(s);
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
    kv_own_path(s, j->sha, ".kv", path);
    const int folder = lock_folder(s);
    kv_lock(s);
    ds4_status st = DS4_OK;
    if (!make_room(s, j)) st = ds4_fail(err, DS4_EFULL, "the files that must stay leave no room in the budget");
    else if (rename(temp, path)) st = ds4_fail(err, DS4_EIO, "%s: renaming it: %s", temp, strerror(errno));
    if (!st) thin_chain(s, j);
    kv_refresh(s);
    kv_entry *e = st ? NULL : kv_index_own(&s->index, j->sha);
    if (e) e->map_read = true;                      /* its records come from this memory */
    kv_unlock(s);
    unlock_folder(folder);
    if (!st) sync_folder(s);
    return st;
}

static void stop_reading(kvstore *s)
{
    kv_lock(s);
    s->job.reading = NULL;
    pthread_cond_broadcast(&s->changed);
    kv_unlock(s);
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
        kv_lock(s);
        s->paused_until_ns = clock_ns() + PAUSE_NS;
        kv_unlock(s);
    } else {
        log_line(&s->o.log, LOG_WARNING, "kv: %d tokens were not saved: %s", j->tokens, err.message);
    }
}

void *kv_saving_thread(void *arg)
{
    kvstore *s = arg;
    kv_lock(s);
    for (;;) {
        while (!s->job.content && !s->stop) pthread_cond_wait(&s->changed, &s->lock);
        if (!s->job.content) break;
        kv_unlock(s);
        run_job(s);
        kvc_free(s->job.content);
        free(s->job.kept);
        free(s->job.chain);
        kv_lock(s);
        s->job = (save_job){ 0 };
        pthread_cond_broadcast(&s->changed);
    }
    kv_unlock(s);
    return NULL;
}

void kvstore_wait(kvstore *s, const ds4_session *session)
{
    kv_lock(s);
    while (s->job.content && (!session || s->job.reading == session)) pthread_cond_wait(&s->changed, &s->lock);
    kv_unlock(s);
}

/* ---- save ----------------------------------------------------------------------------------- */

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
    kv_lock(s);
    ds4_status st = DS4_OK;
    *there = false;
    if (clock_ns() < s->paused_until_ns)
        st = ds4_fail(err, DS4_EIO, "saving pauses for a minute after a failure of the disk");
    if (!st) {
        kv_refresh(s);
        const kv_entry *same = kv_index_own(&s->index, j->sha);
        *there = same && same->h.tokens == (uint32_t)j->tokens;
        st = list_prefixes(s, o->conversation, false, &j->kept, &j->n_kept, err);
    }
    for (int i = 0; i < s->index.n && !st; i++) {
        const kv_entry *e = &s->index.entries[i];
        if (is_kept(s, j, e) && memcmp(j->sha, e->sha, KV_SHA_BYTES)) j->kept_bytes += e->h.file_bytes;
    }
    if (!st && o->reason == KV_SAVE_CONTINUED) st = list_prefixes(s, o->text, true, &j->chain, &j->n_chain, err);
    kv_unlock(s);
    return st;
}

/* The sampled blocks of the conversation. A visible transcript may spell them otherwise, so its tokens are searched
 * too. */
static ds4_status make_tool_map(kvstore *s, const ds4_session *session, const kvstore_save_options *o, bytes *out,
                                ds4_error *err)
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
        return ds4_fail(err, DS4_EFULL,
                        "a session of %.1f MB does not fit the budget of %.1f MB, of which %.1f MB must stay",
                        (double)size / 1e6, (double)s->o.budget_bytes / 1e6, (double)kept_bytes / 1e6);
    if (statvfs(s->o.dir, &f)) return DS4_OK;
    const uint64_t block = f.f_frsize ? f.f_frsize : f.f_bsize, available = (uint64_t)f.f_bavail * block;
    if (available < want || available - want < LEAVE_FREE)
        return ds4_fail(err, DS4_EFULL, "%s: %.1f MB are free; a session of %.1f MB must leave 1 GiB", s->o.dir,
                        (double)available / 1e6, (double)size / 1e6);
    return DS4_OK;
}

static ds4_status copy_session(kvstore *s, save_job *j, ds4_session *session, const kvstore_save_options *o,
                               ds4_error *err)
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
    kv_lock(s);
    const bool busy = s->job.content != NULL;
    kv_unlock(s);
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
    kv_lock(s);
    s->job = j;
    pthread_cond_broadcast(&s->changed);
    kv_unlock(s);
    return DS4_OK;
}
