#include "text/replay.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/status.h"
#include "text/answer.h"
#include "text/dsml.h"

enum { SECTION_VERSION = 2, CLOSED = 1, ID_MAX = 1024 };

typedef struct record record;

/* An id in the table. */
typedef struct entry {
    struct entry *next;         /* in its bucket  */
    record       *owner;
    slice         id;           /* owner's bytes  */
} entry;

/* A record in one allocation: this, its slices, its entries, its bytes. */
struct record {
    replay_record view;         /* first, so that a view leads back here                 */
    record       *older, *newer;
    entry        *entries;      /* [view.n_calls]                                        */
    int           n_live;       /* ids that lead here; 0: not in the table any more      */
    int           n_held;       /* found and not yet released                            */
    size_t        size;         /* bytes of the allocation                               */
};

struct replay_memory {
    pthread_mutex_t lock;
    entry  **buckets;           /* [n_buckets], a power of two */
    size_t   n_buckets, n_ids, max_ids;
    size_t   n_bytes, max_bytes;
    record  *oldest, *newest;
};

/* ---- the table ---------------------------------------------------------------- */

/* Begun at a place that others do not know. */
static size_t bucket_of(const replay_memory *m, slice id)
{
    const uint64_t h = hash_bytes(HASH_BEGIN ^ (uint64_t)(uintptr_t)m, id.data, id.len);
    return (size_t)(h ^ h >> 32) & (m->n_buckets - 1);
}

/* The link that leads to the id's entry, or to the end of its bucket. */
static entry **find_link(const replay_memory *m, slice id)
{
    entry **link = &m->buckets[bucket_of(m, id)];
    while (*link && !slice_equal((*link)->id, id)) link = &(*link)->next;
    return link;
}

static void unlink_record(replay_memory *m, record *r)
{
    *(r->older ? &r->older->newer : &m->oldest) = r->newer;
    *(r->newer ? &r->newer->older : &m->newest) = r->older;
    r->older = r->newer = NULL;
}

static void link_newest(replay_memory *m, record *r)
{
    r->older = m->newest;
    *(m->newest ? &m->newest->newer : &m->oldest) = r;
    m->newest = r;
}

/* The record lost an id; without any it goes, unless somebody holds it. */
static void lose_id(replay_memory *m, record *r)
{
    m->n_ids--;
    if (--r->n_live > 0) return;
    unlink_record(m, r);
    m->n_bytes -= r->size;
    if (r->n_held == 0) free(r);
}

static void remove_id(replay_memory *m, slice id)
{
    entry **link = find_link(m, id), *e = *link;
    if (!e) return;
    *link = e->next;
    lose_id(m, e->owner);
}

static void evict_oldest(replay_memory *m)
{
    record *r = m->oldest;
    const int n = r->view.n_calls;
    r->n_held++;                /* it must not go while its ids are read */
    for (int i = 0; i < n; i++) {
        entry **link = find_link(m, r->view.ids[i]);
        if (*link && (*link)->owner == r) remove_id(m, r->view.ids[i]);
    }
    if (--r->n_held == 0) free(r);
}

ds4_status replay_open(replay_memory **out, int max_ids, size_t max_bytes, ds4_error *err)
{
    *out = NULL;
    replay_memory *m = calloc(1, sizeof *m);
    if (!m) return ds4_fail(err, DS4_EMEMORY, "no memory for tool calls");
    m->max_ids = max_ids > 0 ? (size_t)max_ids : 0;
    m->max_bytes = max_bytes;
    m->n_buckets = 64;
    while (m->n_buckets < m->max_ids && m->n_buckets < (size_t)1 << 20) m->n_buckets *= 2;
    m->buckets = calloc(m->n_buckets, sizeof *m->buckets);
    if (!m->buckets || pthread_mutex_init(&m->lock, NULL)) {
        free(m->buckets);
        free(m);
        return ds4_fail(err, DS4_EMEMORY, "no memory for tool calls");
    }
    *out = m;
    return DS4_OK;
}

void replay_close(replay_memory *m)
{
    if (!m) return;
    while (m->oldest) evict_oldest(m);
    pthread_mutex_destroy(&m->lock);
    free(m->buckets);
    free(m);
}

/* ---- records ------------------------------------------------------------------ */

static slice place(char **at, slice text)
{
    const slice placed = { *at, text.len };
    if (text.len) memcpy(*at, text.data, text.len);
    *at += text.len;
    return placed;
}

static record *copy_record(const replay_record *r)
{
    const size_t n = (size_t)r->n_calls, tables = n * (3 * sizeof(slice) + sizeof(entry));
    size_t size = sizeof(record) + tables + r->block.len;
    for (size_t i = 0; i < n; i++) size += r->ids[i].len + r->names[i].len + r->arguments[i].len;
    record *copy = calloc(1, size);
    if (!copy) return NULL;

    slice *ids = (slice *)(copy + 1), *names = ids + n, *arguments = names + n;
    copy->entries = (entry *)(arguments + n);
    char *at = (char *)(copy->entries + n);
    copy->size = size;
    copy->view = *r;
    copy->view.ids = ids;
    copy->view.names = names;
    copy->view.arguments = arguments;
    copy->view.block = place(&at, r->block);
    for (size_t i = 0; i < n; i++) {
        ids[i] = place(&at, r->ids[i]);
        names[i] = place(&at, r->names[i]);
        arguments[i] = place(&at, r->arguments[i]);
    }
    return copy;
}

static void insert(replay_memory *m, record *r)
{
    for (int i = 0; i < r->view.n_calls; i++) {
        const slice id = r->view.ids[i];
        entry **link = find_link(m, id), *e = &r->entries[i];
        if (*link && (*link)->owner == r) continue;             /* twice in one turn */
        remove_id(m, id);
        link = find_link(m, id);
        *e = (entry){ .next = *link, .owner = r, .id = id };
        *link = e;
        m->n_ids++;
        if (r->n_live++ == 0) {
            link_newest(m, r);
            m->n_bytes += r->size;
        }
    }
    while (m->oldest != r && (m->n_ids > m->max_ids || m->n_bytes > m->max_bytes)) evict_oldest(m);
}

ds4_status replay_add(replay_memory *m, const replay_record *r, ds4_error *err)
{
    if (r->n_calls <= 0) return ds4_fail(err, DS4_EARG, "a turn without call ids can not be found again");
    if (r->block.len == 0) return ds4_fail(err, DS4_EARG, "a turn that was cut off inside of a call is not kept");
    record *copy = copy_record(r);
    if (!copy) return ds4_fail(err, DS4_EMEMORY, "no memory for tool calls");
    if ((size_t)r->n_calls > m->max_ids || copy->size > m->max_bytes) {
        free(copy);
        return ds4_fail(err, DS4_EFULL, "%d tool calls are more than the memory for them takes", r->n_calls);
    }
    pthread_mutex_lock(&m->lock);
    insert(m, copy);
    pthread_mutex_unlock(&m->lock);
    return DS4_OK;
}

const replay_record *replay_find(replay_memory *m, slice id)
{
    pthread_mutex_lock(&m->lock);
    entry *e = *find_link(m, id);
    record *r = e ? e->owner : NULL;
    if (r) {
        r->n_held++;
        unlink_record(m, r);
        link_newest(m, r);
    }
    pthread_mutex_unlock(&m->lock);
    return r ? &r->view : NULL;
}

void replay_release(replay_memory *m, const replay_record *view)
{
    record *r = (record *)view;
    if (!r) return;
    pthread_mutex_lock(&m->lock);
    const bool gone = --r->n_held == 0 && r->n_live == 0;
    pthread_mutex_unlock(&m->lock);
    if (gone) free(r);
}

size_t replay_ids(replay_memory *m)
{
    pthread_mutex_lock(&m->lock);
    const size_t n = m->n_ids;
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* ---- the section --------------------------------------------------------------- */

static void put_u32(bytes *out, uint32_t v)
{
    for (int shift = 0; shift < 32; shift += 8) bytes_char(out, (char)(v >> shift));
}

static uint32_t get_u32(const char *data)
{
    const unsigned char *p = (const unsigned char *)data;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Where markup stands in a text: blocks that hold some are looked for nowhere else. */
typedef struct {
    slice   text;
    size_t *at;                 /* owned, [n]: of each "<" in front of a marker */
    size_t  n, cap;
} markup_places;

static const char *markup_in(slice text)
{
    static const char open[] = "<" DSML_MARKER;
    return text.len ? memmem(text.data, text.len, open, strlen(open)) : NULL;
}

static bool find_markup(markup_places *p)
{
    const slice text = p->text;
    for (const char *at = markup_in(text); at;) {
        if (p->n == p->cap) {
            p->cap = p->cap ? p->cap * 2 : 256;
            size_t *grown = realloc(p->at, p->cap * sizeof *grown);
            if (!grown) return false;
            p->at = grown;
        }
        const size_t begin = (size_t)(at - text.data);
        p->at[p->n++] = begin;
        at = markup_in((slice){ at + 1, text.len - begin - 1 });
    }
    return true;
}

/* Blocks differ late and end early, so their ends are compared first. */
static bool occurs(const markup_places *p, slice block)
{
    const char *first = markup_in(block);       /* not just its first "<": a tag may be spelled wrong */
    if (!first) return block.len && p->text.len && memmem(p->text.data, p->text.len, block.data, block.len);
    const size_t lead = (size_t)(first - block.data), tail = min_size(block.len, 16);
    for (size_t i = 0; i < p->n; i++) {
        if (p->at[i] < lead || block.len > p->text.len - (p->at[i] - lead)) continue;
        const char *begin = p->text.data + p->at[i] - lead;
        if (memcmp(begin + block.len - tail, block.data + block.len - tail, tail) != 0) continue;
        if (memcmp(begin, block.data, block.len) == 0) return true;
    }
    return false;
}

static uint32_t write_entries(const replay_record *r, bytes *out)
{
    for (int i = 0; i < r->n_calls; i++) {
        put_u32(out, (uint32_t)r->ids[i].len);
        put_u32(out, (uint32_t)r->block.len);
        bytes_char(out, r->reasoning_closed ? CLOSED : 0);
        bytes_append(out, r->ids[i].data, r->ids[i].len);
        bytes_append(out, r->block.data, r->block.len);
    }
    return (uint32_t)r->n_calls;
}

ds4_status replay_section_write(replay_memory *m, slice text, bytes *out, ds4_error *err)
{
    uint32_t n = 0;
    bytes entries;
    markup_places places = { .text = text };
    bytes_init(&entries, out->max);
    bool good = find_markup(&places);

    pthread_mutex_lock(&m->lock);
    for (const record *r = m->oldest; r; r = r->newer) {
        if (occurs(&places, r->view.block)) n += write_entries(&r->view, &entries);
    }
    pthread_mutex_unlock(&m->lock);
    if (n) {
        bytes_text(out, "KTM");
        bytes_char(out, SECTION_VERSION);
        put_u32(out, n);
        bytes_append(out, entries.data, entries.len);
    }
    good = good && !entries.failed && !out->failed;
    bytes_free(&entries);
    free(places.at);
    return good ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory for the tool calls of a checkpoint");
}

typedef struct {
    slice id, block;
    bool  closed;
} section_entry;

/* The entry at *at of version `version`; false: the bytes end before it does. */
static bool read_entry(slice section, int version, size_t *at, section_entry *e)
{
    const size_t head = version == 1 ? 8 : 9;
    if (section.len - *at < head) return false;
    const char *p = section.data + *at;
    const size_t id = get_u32(p), block = get_u32(p + 4), left = section.len - *at - head;
    if (id == 0 || id > ID_MAX || id > left || block > left - id) return false;
    *e = (section_entry){ { p + head, id }, { p + head + id, block }, version == 1 || (p[8] & CLOSED) };
    *at += head + id + block;
    return true;
}

static bool is_known(replay_memory *m, slice id)
{
    pthread_mutex_lock(&m->lock);
    const bool known = *find_link(m, id) != NULL;
    pthread_mutex_unlock(&m->lock);
    return known;
}

/* Adds the turn whose first entry is entries[0], if its ids follow. Returns the entries used. */
static size_t add_turn(replay_memory *m, const section_entry *entries, size_t n, ds4_status *st, ds4_error *err)
{
    answer *a;
    if (is_known(m, entries[0].id)) return 1;
    if ((*st = answer_read_block(&a, entries[0].block, NULL, 0, err))) return n;
    const answer_turn turn = answer_turn_of(a);
    const size_t n_calls = (size_t)turn.n_calls;
    size_t same = 0;
    while (same < n && same < n_calls && slice_equal(entries[same].block, entries[0].block)) same++;

    slice *texts = calloc(n_calls ? 3 * n_calls : 1, sizeof *texts);
    if (texts && same == n_calls && same > 0) {
        const replay_record r = {
            .block = entries[0].block, .reasoning_closed = entries[0].closed,
            .ids = texts, .names = texts + n_calls, .arguments = texts + 2 * n_calls, .n_calls = turn.n_calls,
        };
        for (size_t i = 0; i < n_calls; i++) {
            texts[i] = entries[i].id;
            texts[n_calls + i] = turn.calls[i].name;
            texts[2 * n_calls + i] = turn.calls[i].arguments;
        }
        *st = replay_add(m, &r, err);
        if (*st == DS4_EFULL) *st = DS4_OK;
    }
    if (!texts) *st = ds4_fail(err, DS4_EMEMORY, "no memory for tool calls");
    free(texts);
    answer_close(a);
    return *st ? n : same ? same : 1;
}

ds4_status replay_section_read(replay_memory *m, slice section, ds4_error *err)
{
    if (section.len < 8 || memcmp(section.data, "KTM", 3) != 0) {
        return ds4_fail(err, DS4_EFORMAT, "tool calls: the section does not begin with KTM");
    }
    const int version = section.data[3];
    const size_t n = get_u32(section.data + 4);
    if (version != 1 && version != SECTION_VERSION) {
        return ds4_fail(err, DS4_EFORMAT, "tool calls: version %d; 1 and %d are known", version, SECTION_VERSION);
    }
    if (n > section.len / 9) return ds4_fail(err, DS4_EFORMAT, "tool calls: %zu entries do not fit their section", n);
    section_entry *entries = calloc(n ? n : 1, sizeof *entries);
    if (!entries) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu tool calls", n);

    ds4_status st = DS4_OK;
    size_t at = 8;
    for (size_t i = 0; i < n && !st; i++) {
        if (read_entry(section, version, &at, &entries[i])) continue;
        st = ds4_fail(err, DS4_EFORMAT, "tool calls: entry %zu is cut", i);
    }
    if (!st && at != section.len) st = ds4_fail(err, DS4_EFORMAT, "tool calls: something follows the last entry");
    for (size_t i = 0; i < n && !st;) i += add_turn(m, entries + i, n - i, &st, err);
    free(entries);
    return st;
}
