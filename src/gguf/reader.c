#include "gguf/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include "base/status.h"
#include "gguf/names.h"
#include "gguf/shard.h"

struct gguf {
    shard       *shards;        /* owned; at least one once open            */
    int          n_shards;
    gguf_tensor *tensors;       /* owned; those of all shards in file order */
    int          n_tensors;
    names        tensor_names, keys;
};

/* ---- split files ------------------------------------------------------------- *
 * PREFIX-00001-of-00003.gguf: every shard is a whole GGUF file with the keys
 * split.no (from 0), split.count and split.tensors.count. All other names are
 * made from the given one, never from what a file says. */

enum { SPLIT_DIGITS = 5, SPLIT_SUFFIX = 20, MAX_SUFFIX = 40 };

static int five_digits(const char *p)
{
    int v = 0;
    for (int i = 0; i < SPLIT_DIGITS; i++) {
        if (p[i] < '0' || p[i] > '9') return -1;
        v = v * 10 + p[i] - '0';
    }
    return v;
}

/* Number (from 1) and count that a path's name claims; false: other pattern. */
static bool split_name(const char *path, int *no, int *count)
{
    const size_t n = strlen(path);
    if (n < SPLIT_SUFFIX) return false;

    const char *p = path + n - SPLIT_SUFFIX;
    if (p[0] != '-' || memcmp(p + 6, "-of-", 4) || memcmp(p + 15, ".gguf", 5)) return false;
    *no = five_digits(p + 1);
    *count = five_digits(p + 10);
    return *no > 0 && *count > 0;
}

static char *shard_name(const char *path, int i, int count)
{
    const size_t prefix = strlen(path) - SPLIT_SUFFIX;
    char *name = malloc(prefix + MAX_SUFFIX);
    if (!name) return NULL;
    memcpy(name, path, prefix);
    snprintf(name + prefix, MAX_SUFFIX, "-%05d-of-%05d.gguf", i + 1, count);
    return name;
}

/* An integer key of one shard; `absent` if there is none. */
static ds4_status split_key(const shard *s, const char *key, int64_t hi, int64_t absent, int64_t *out,
                            ds4_error *err)
{
    const gguf_value *v = shard_find(s, key);
    *out = absent;
    if (!v) return DS4_OK;
    if (!gguf_value_int(v, out) || *out < 0 || *out > hi)
        return ds4_fail(err, DS4_EFORMAT, "%s: key %s is not an integer from 0 to %lld", s->label, key,
                        (long long)hi);
    return DS4_OK;
}

static ds4_status check_split(const shard *s, int i, int count, int64_t *total, ds4_error *err)
{
    int64_t no, n, tensors;
    ds4_status st;
    if ((st = split_key(s, "split.no", GGUF_MAX_SHARDS, -1, &no, err))) return st;
    if ((st = split_key(s, "split.count", GGUF_MAX_SHARDS, 0, &n, err))) return st;
    if ((st = split_key(s, "split.tensors.count", GGUF_MAX_TENSORS, *total, &tensors, err))) return st;
    if (no != i)
        return ds4_fail(err, DS4_EFORMAT, "%s: split.no is %lld, its name says %d", s->label,
                        (long long)no, i);
    if (n != count)
        return ds4_fail(err, DS4_EFORMAT, "%s: split.count is %lld, expected %d", s->label,
                        (long long)n, count);
    if (*total >= 0 && tensors != *total)
        return ds4_fail(err, DS4_EFORMAT, "%s: split.tensors.count is %lld, other shards say %lld",
                        s->label, (long long)tensors, (long long)*total);
    *total = tensors;
    return DS4_OK;
}

static ds4_status open_shard(shard *s, const char *path, ds4_error *err)
{
    ds4_status st;
    if ((st = shard_set_path(s, path, err))) return st;
    if ((st = file_map_open(&s->map, path, err))) return st;
    s->data = s->map.data;
    s->size = s->map.size;
    return shard_parse(s, err);
}

/* The shards that belong with the one that was opened as the first. */
static ds4_status open_split(gguf *g, const char *path, int count, ds4_error *err)
{
    int no, named;
    if (!split_name(path, &no, &named) || named != count)
        return ds4_fail(err, DS4_EFORMAT,
                        "%s: one of %d shards, but its name does not end in -NNNNN-of-%05d.gguf",
                        g->shards[0].label, count, count);

    shard_close(&g->shards[0]);
    shard *all = realloc(g->shards, (size_t)count * sizeof *all);
    if (!all) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for %d shards", path, count);
    memset(all, 0, (size_t)count * sizeof *all);
    g->shards = all;
    g->n_shards = count;

    int64_t total = -1;
    ds4_status st = DS4_OK;
    for (int i = 0; i < count && !st; i++) {
        char *name = shard_name(path, i, count);
        if (!name) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a name", path);
        st = open_shard(&g->shards[i], name, err);
        if (!st) st = check_split(&g->shards[i], i, count, &total, err);
        free(name);
    }
    if (st) return st;

    int64_t sum = 0;
    for (int i = 0; i < count; i++) sum += g->shards[i].n_tensors;
    if (total >= 0 && sum != total)
        return ds4_fail(err, DS4_EFORMAT, "%s: the shards hold %lld tensors, split.tensors.count is %lld",
                        g->shards[0].label, (long long)sum, (long long)total);
    return DS4_OK;
}

/* ---- opening ------------------------------------------------------------------- */

static ds4_status index_keys(names *x, const shard *s, ds4_error *err)
{
    if (!names_init(x, s->n_values))
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its keys", s->label);
    for (int i = 0; i < s->n_values; i++) x->entry[i] = (name_entry){ s->values[i].key, i };

    const name_entry *twice = names_sort(x);
    if (!twice) return DS4_OK;
    return ds4_fail(err, DS4_EFORMAT, "%s: key %.*s occurs twice", s->label,
                    (int)(twice->name.len < 80 ? twice->name.len : 80), twice->name.data);
}

/* Keys of the first shard are kept for finding; those of others only checked. */
static ds4_status index_all_keys(gguf *g, ds4_error *err)
{
    ds4_status st = index_keys(&g->keys, &g->shards[0], err);
    for (int i = 1; i < g->n_shards && !st; i++) {
        names x = { 0 };
        st = index_keys(&x, &g->shards[i], err);
        names_free(&x);
    }
    return st;
}

static ds4_status aliases_allowed(const shard *s, bool *allowed, ds4_error *err)
{
    const gguf_value *v = shard_find(s, GGUF_ALIASED_KEY);
    *allowed = v && v->kind == GGUF_BOOL && v->data[0];
    if (!v || v->kind == GGUF_BOOL) return DS4_OK;
    return ds4_fail(err, DS4_EFORMAT, "%s: key " GGUF_ALIASED_KEY " is %s, expected bool", s->label,
                    gguf_kind_name(v->kind));
}

static ds4_status place_all(gguf *g, const gguf_options *options, ds4_error *err)
{
    bool allowed;
    ds4_status st = aliases_allowed(&g->shards[0], &allowed, err);
    for (int i = 0; i < g->n_shards && !st; i++) st = shard_place(&g->shards[i], allowed, options, err);
    return st;
}

/* One list and one index over the tensors of all shards. */
static ds4_status collect_tensors(gguf *g, ds4_error *err)
{
    int64_t sum = 0;
    for (int i = 0; i < g->n_shards; i++) sum += g->shards[i].n_tensors;
    if (sum > GGUF_MAX_TENSORS)
        return ds4_fail(err, DS4_EFORMAT, "%s: %lld tensors, the most is %d", g->shards[0].label,
                        (long long)sum, GGUF_MAX_TENSORS);

    g->tensors = calloc((size_t)sum + 1, sizeof *g->tensors);
    if (!g->tensors || !names_init(&g->tensor_names, (int)sum))
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its tensors", g->shards[0].label);
    for (int i = 0; i < g->n_shards; i++)
        for (int k = 0; k < g->shards[i].n_tensors; k++) {
            gguf_tensor *t = &g->tensors[g->n_tensors];
            *t = g->shards[i].tensors[k];
            t->shard = i;
            g->tensor_names.entry[g->n_tensors] = (name_entry){ slice_of(t->name), g->n_tensors };
            g->n_tensors++;
        }

    const name_entry *twice = names_sort(&g->tensor_names);
    if (!twice) return DS4_OK;
    return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s occurs twice", g->shards[0].label,
                    g->tensors[twice->number].name);
}

/* What remains once all shards are parsed. */
static ds4_status finish(gguf *g, const gguf_options *options, ds4_error *err)
{
    static const gguf_options none = { 0 };
    ds4_status st;
    if ((st = index_all_keys(g, err))) return st;
    if ((st = place_all(g, options ? options : &none, err))) return st;
    return collect_tensors(g, err);
}

static gguf *new_reader(void)
{
    gguf *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->shards = calloc(1, sizeof *g->shards);
    g->n_shards = g->shards ? 1 : 0;
    return g;
}

ds4_status gguf_open(gguf **out, const char *path, const gguf_options *options, ds4_error *err)
{
    *out = NULL;
    gguf *g = new_reader();
    ds4_status st;
    int64_t count;
    if (!g || !g->n_shards) {
        st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for the reader", path);
        goto fail;
    }
    if ((st = open_shard(&g->shards[0], path, err))) goto fail;
    if ((st = split_key(&g->shards[0], "split.count", GGUF_MAX_SHARDS, 0, &count, err))) goto fail;
    if (count > 1 && (st = open_split(g, path, (int)count, err))) goto fail;
    if ((st = finish(g, options, err))) goto fail;

    *out = g;
    return DS4_OK;
fail:
    gguf_close(g);
    return st;
}

ds4_status gguf_open_memory(gguf **out, const void *data, size_t n, const gguf_options *options,
                            ds4_error *err)
{
    *out = NULL;
    gguf *g = new_reader();
    ds4_status st;
    int64_t count;
    if (!g || !g->n_shards) {
        st = ds4_fail(err, DS4_EMEMORY, "no memory for the reader");
        goto fail;
    }
    shard *s = &g->shards[0];
    s->data = data;
    s->size = n;
    if ((st = shard_set_path(s, "(memory)", err))) goto fail;
    if ((st = shard_parse(s, err))) goto fail;
    if ((st = split_key(s, "split.count", GGUF_MAX_SHARDS, 0, &count, err))) goto fail;
    if (count > 1) {
        st = ds4_fail(err, DS4_EUNSUPPORTED, "%s: one of %lld shards", s->label, (long long)count);
        goto fail;
    }
    if ((st = finish(g, options, err))) goto fail;

    *out = g;
    return DS4_OK;
fail:
    gguf_close(g);
    return st;
}

void gguf_close(gguf *g)
{
    if (!g) return;
    for (int i = 0; i < g->n_shards; i++) shard_close(&g->shards[i]);
    names_free(&g->tensor_names);
    names_free(&g->keys);
    free(g->tensors);
    free(g->shards);
    free(g);
}

/* ---- looking ---------------------------------------------------------------------- */

int gguf_n_tensors(const gguf *g) { return g->n_tensors; }
int gguf_n_values(const gguf *g)  { return g->shards[0].n_values; }
int gguf_n_shards(const gguf *g)  { return g->n_shards; }

const gguf_tensor *gguf_tensor_at(const gguf *g, int i)         { return &g->tensors[i]; }
const gguf_value  *gguf_value_at(const gguf *g, int i)          { return &g->shards[0].values[i]; }
const char        *gguf_shard_path(const gguf *g, int number)   { return g->shards[number].path; }

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name)
{
    const int i = names_find(&g->tensor_names, slice_of(name));
    return i < 0 ? NULL : &g->tensors[i];
}

const gguf_value *gguf_find(const gguf *g, const char *key)
{
    const int i = names_find(&g->keys, slice_of(key));
    return i < 0 ? NULL : &g->shards[0].values[i];
}

uint64_t gguf_file_bytes(const gguf *g)
{
    uint64_t sum = 0;
    for (int i = 0; i < g->n_shards; i++) sum += g->shards[i].size;
    return sum;
}

uint64_t gguf_tensor_bytes(const gguf *g)
{
    uint64_t sum = 0;
    for (int i = 0; i < g->n_shards; i++) sum += g->shards[i].tensor_bytes;
    return sum;
}

bool gguf_aliased(const gguf *g)
{
    bool any = false;
    for (int i = 0; i < g->n_shards; i++) any |= g->shards[i].aliased;
    return any;
}

const uint8_t *gguf_mapping(const gguf *g, int number, uint64_t *bytes)
{
    *bytes = g->shards[number].size;
    return g->shards[number].data;
}

int gguf_descriptor(const gguf *g, int number)
{
    const int fd = g->shards[number].map.fd;
    return fd > 0 ? fd : -1;
}
