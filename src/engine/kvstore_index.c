#include "engine/kvstore_index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/status.h"

#if defined(__APPLE__)
#define st_mtim st_mtimespec
#endif

/* ---- names ----------------------------------------------------------------------------------- */

void kv_hex(const uint8_t *data, int n, char *out)
{
    for (int i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", data[i]);
}

static int digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool from_hex(const char *text, int n, uint8_t *out)
{
    for (int i = 0; i < n; i++) {
        const int high = digit(text[2 * i]), low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

const char *kv_entry_ending(const kv_entry *e) { return e->set_aside ? ".kv.bad" : ".kv"; }

/* A file's name; false: not one of ours. */
static bool parse_name(const char *name, kv_entry *e)
{
    if (!from_hex(name, KV_SHA_BYTES, e->sha)) return false;
    e->set_aside = strcmp(name + 2 * KV_SHA_BYTES, ".kv.bad") == 0;
    return e->set_aside || strcmp(name + 2 * KV_SHA_BYTES, ".kv") == 0;
}

static bool is_folder_name(const char *name)
{
    uint8_t id[KVC_ID_BYTES];
    return from_hex(name, KVC_ID_BYTES, id) && name[KV_ID_CHARS] == 0;
}

void kv_index_path(const kv_index *ix, int folder, const uint8_t *sha, const char *ending, char out[KV_PATH_MAX])
{
    char hex[2 * KV_SHA_BYTES + 1];
    kv_hex(sha, KV_SHA_BYTES, hex);
    snprintf(out, KV_PATH_MAX, "%s/%s/%s%s", ix->dir, ix->folders[folder].name, hex, ending);
}

/* ---- order ------------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const kv_entry *x = a, *y = b;
    if (x->folder != y->folder) return x->folder < y->folder ? -1 : 1;
    if (x->set_aside != y->set_aside) return x->set_aside ? 1 : -1;
    return memcmp(x->sha, y->sha, KV_SHA_BYTES);
}

static int by_text(const void *a, const void *b)
{
    const kv_entry *x = a, *y = b;
    if (x->h.text_bytes != y->h.text_bytes) return x->h.text_bytes < y->h.text_bytes ? -1 : 1;
    return by_name(a, b);
}

static void sort(kv_entry *list, int n, int (*order)(const void *, const void *))
{
    if (n > 1) qsort(list, (size_t)n, sizeof *list, order);
}

/* ---- reading folders ---------------------------------------------------------------------------- */

typedef struct {
    kv_entry *list;
    int       n, cap;
} entry_list;

static bool push(entry_list *l, const kv_entry *e)
{
    if (l->n == l->cap) {
        const int cap = l->cap ? 2 * l->cap : 64;
        kv_entry *more = realloc(l->list, (size_t)cap * sizeof *more);
        if (!more) return false;
        l->list = more;
        l->cap = cap;
    }
    l->list[l->n++] = *e;
    return true;
}

/* What the file says of itself. One that can not be opened or is no file does not count. */
static bool read_entry(int dir, const char *name, kv_entry *e)
{
    const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return false;
    struct stat f;
    const bool file = fstat(fd, &f) == 0 && S_ISREG(f.st_mode);
    if (file) {
        const bool sound = kvc_read_header(fd, &e->h, NULL) == DS4_OK;
        e->h.file_bytes = (uint64_t)f.st_size;
        e->usable = sound && !e->set_aside && e->folder == 0 && e->h.tokens > 0 && e->h.text_bytes > 0;
    }
    close(fd);
    return file;
}

/* The files of one folder; known: entries by name, whose headers need not be read again. */
static ds4_status read_folder(const kv_index *ix, int folder, const kv_entry *known, int n_known, entry_list *out,
                              ds4_error *err)
{
    char path[KV_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", ix->dir, ix->folders[folder].name);
    DIR *d = opendir(path);
    if (!d) return errno == ENOMEM ? ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it", path) : DS4_OK;
    ds4_status st = DS4_OK;
    for (struct dirent *f; !st && (f = readdir(d));) {
        kv_entry e = { .folder = folder };
        if (!parse_name(f->d_name, &e)) continue;
        const kv_entry *k = n_known ? bsearch(&e, known, (size_t)n_known, sizeof e, by_name) : NULL;
        if (k && k->inode == f->d_ino && (k->usable || k->set_aside || folder != 0)) e = *k;
        else if (!read_entry(dirfd(d), f->d_name, &e)) continue;
        e.inode = f->d_ino;
        if (!push(out, &e)) st = ds4_fail(err, DS4_EMEMORY, "no memory for the list of stored sessions");
    }
    closedir(d);
    return st;
}

/* Whether a folder changed since it was read; remembers that it will be read now. File systems tick slowly: a
 * change right after another one may leave the same time, so a folder is read until its time is old. */
static bool changed(kv_folder *f, const char *path)
{
    enum { TICK_NS = 1000000000 };
    struct stat s;
    struct timespec now;
    const int64_t ns = stat(path, &s) ? -1 : (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec;
    if (f->settled && ns == f->changed_ns) return false;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t age = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - ns;
    f->settled = ns >= 0 && age > TICK_NS;
    f->changed_ns = ns;
    return true;
}

static ds4_status add_folder(kv_index *ix, const char *name, ds4_error *err)
{
    for (int i = 0; i < ix->n_folders; i++)
        if (!strcmp(ix->folders[i].name, name)) return DS4_OK;
    kv_folder *more = realloc(ix->folders, (size_t)(ix->n_folders + 1) * sizeof *more);
    if (!more) return ds4_fail(err, DS4_EMEMORY, "no memory for the list of stored sessions");
    ix->folders = more;
    more[ix->n_folders] = (kv_folder){ 0 };
    snprintf(more[ix->n_folders++].name, sizeof more->name, "%s", name);
    return DS4_OK;
}

/* Folders that go stay in the list, empty. */
static ds4_status refresh_folders(kv_index *ix, ds4_error *err)
{
    if (!changed(&ix->root, ix->dir)) return DS4_OK;
    DIR *d = opendir(ix->dir);
    ds4_status st = DS4_OK;
    if (!d) return DS4_OK;
    for (struct dirent *f; !st && (f = readdir(d));)
        if (is_folder_name(f->d_name)) st = add_folder(ix, f->d_name, err);
    closedir(d);
    return st;
}

static ds4_status read_again(kv_index *ix, const bool *stale, ds4_error *err)
{
    entry_list fresh = { 0 };
    ds4_status st = DS4_OK;
    sort(ix->entries, ix->n, by_name);
    for (int i = 0; i < ix->n && !st; i++)
        if (!stale[ix->entries[i].folder] && !push(&fresh, &ix->entries[i]))
            st = ds4_fail(err, DS4_EMEMORY, "no memory for the list of stored sessions");
    for (int i = 0; i < ix->n_folders && !st; i++)
        if (stale[i]) st = read_folder(ix, i, ix->entries, ix->n, &fresh, err);
    if (st) {                                       /* the old list is still good, and read again next time */
        free(fresh.list);
        sort(ix->entries, ix->n, by_text);
        for (int i = 0; i < ix->n_folders; i++) ix->folders[i].settled = false;
        return st;
    }
    free(ix->entries);
    ix->entries = fresh.list;
    ix->n = fresh.n;
    ix->cap = fresh.cap;
    ix->bytes = 0;
    for (int i = 0; i < ix->n; i++) ix->bytes += ix->entries[i].h.file_bytes;
    sort(ix->entries, ix->n, by_text);
    return DS4_OK;
}

ds4_status kv_index_refresh(kv_index *ix, ds4_error *err)
{
    ds4_status st = refresh_folders(ix, err);
    if (st) return st;
    bool any = false, *stale = calloc((size_t)ix->n_folders, sizeof *stale);
    if (!stale) return ds4_fail(err, DS4_EMEMORY, "no memory for the list of stored sessions");
    for (int i = 0; i < ix->n_folders; i++) {
        char path[KV_PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", ix->dir, ix->folders[i].name);
        stale[i] = changed(&ix->folders[i], path);
        any = any || stale[i];
    }
    if (any) st = read_again(ix, stale, err);
    free(stale);
    return st;
}

ds4_status kv_index_open(kv_index *ix, const char *dir, const char *own, ds4_error *err)
{
    *ix = (kv_index){ .dir = strdup(dir) };
    if (!ix->dir) return ds4_fail(err, DS4_EMEMORY, "no memory for the list of stored sessions");
    const ds4_status st = add_folder(ix, own, err);
    return st ? st : kv_index_refresh(ix, err);
}

void kv_index_close(kv_index *ix)
{
    free(ix->dir);
    free(ix->folders);
    free(ix->entries);
    *ix = (kv_index){ 0 };
}

/* ---- looking up ------------------------------------------------------------------------------------ */

kv_entry *kv_index_own(kv_index *ix, const uint8_t *sha)
{
    for (int i = 0; i < ix->n; i++)
        if (ix->entries[i].usable && !memcmp(ix->entries[i].sha, sha, KV_SHA_BYTES)) return &ix->entries[i];
    return NULL;
}

void kv_index_remove(kv_index *ix, kv_entry *e)
{
    const int i = (int)(e - ix->entries);
    ix->bytes -= e->h.file_bytes;
    memmove(e, e + 1, (size_t)(ix->n - i - 1) * sizeof *e);
    ix->n--;
}

/* SHA-1 of a text as far as it was read. */
typedef struct {
    EVP_MD_CTX *sum, *copy;
    bool        failed;
} text_sha;

static void sha_open(text_sha *s)
{
    *s = (text_sha){ EVP_MD_CTX_new(), EVP_MD_CTX_new(), false };
    s->failed = !s->sum || !s->copy || EVP_DigestInit_ex(s->sum, EVP_sha1(), NULL) != 1;
}

static void sha_add(text_sha *s, const char *data, size_t n)
{
    if (!s->failed && n > 0 && EVP_DigestUpdate(s->sum, data, n) != 1) s->failed = true;
}

static void sha_so_far(text_sha *s, uint8_t *out)
{
    if (!s->failed && (EVP_MD_CTX_copy_ex(s->copy, s->sum) != 1 || EVP_DigestFinal_ex(s->copy, out, NULL) != 1))
        s->failed = true;
}

static ds4_status sha_close(text_sha *s, ds4_error *err)
{
    EVP_MD_CTX_free(s->sum);
    EVP_MD_CTX_free(s->copy);
    return s->failed ? ds4_fail(err, DS4_EMEMORY, "SHA-1 of a text can not be computed") : DS4_OK;
}

ds4_status kv_text_sha(slice text, uint8_t out[KV_SHA_BYTES], ds4_error *err)
{
    text_sha s;
    sha_open(&s);
    sha_add(&s, text.data, text.len);
    sha_so_far(&s, out);
    return sha_close(&s, err);
}

ds4_status kv_index_prefixes(const kv_index *ix, slice text, int **out, int *n, ds4_error *err)
{
    *n = 0;
    *out = malloc((size_t)(ix->n + 1) * sizeof **out);
    if (!*out) return ds4_fail(err, DS4_EMEMORY, "no memory to look for stored sessions");
    text_sha s;
    sha_open(&s);
    uint8_t sha[KV_SHA_BYTES] = { 0 };
    size_t at = 0;
    for (int i = 0; i < ix->n && !s.failed && ix->entries[i].h.text_bytes <= text.len; i++) {
        const kv_entry *e = &ix->entries[i];
        if (!e->usable) continue;
        if (e->h.text_bytes > at) {                 /* a length that was not looked at yet */
            sha_add(&s, text.data + at, e->h.text_bytes - at);
            at = e->h.text_bytes;
            sha_so_far(&s, sha);
        }
        if (!s.failed && !memcmp(sha, e->sha, KV_SHA_BYTES)) (*out)[(*n)++] = i;
    }
    const ds4_status st = sha_close(&s, err);
    if (st) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return st;
}
