#include <assert.h>
#include <stdlib.h>
#include "base/bytes.h"
#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "gguf/names.h"
#include "gguf/shard.h"

enum { MAX_METADATA = 1 << 30 };        /* bytes of keys that a writer keeps */

typedef struct {
    char       name[GGUF_MAX_NAME + 1];
    quant_type type;
    int        n_dims;
    uint64_t   ne[4];
    uint64_t   bytes;
    uint64_t   offset;          /* in the data section                      */
    int        alias_of;        /* -1: data of its own                      */
} tensor;

typedef struct {
    size_t at, len;             /* in the buffer of keys                    */
} key_place;

struct gguf_writer {
    file_replace file;
    bytes        keys;          /* key records as they go into the file     */
    key_place   *key;
    int          n_keys, cap_keys;
    tensor      *tensors;
    int          n_tensors, cap_tensors;
    uint32_t     alignment;
    bool         aliased;

    bool         begun;         /* metadata written                         */
    int          current;       /* tensor whose data comes next             */
    uint64_t     written;       /* bytes of it                              */
    ds4_error    kept;          /* first error of a put; status 0: none     */
};

/* Keeps the first error: the puts return nothing. */
#define KEEP(w, st, ...) ((w)->kept.status ? (void)0 : (void)ds4_fail(&(w)->kept, st, __VA_ARGS__))

ds4_status gguf_writer_open(gguf_writer **out, const char *path, bool overwrite, ds4_error *err)
{
    *out = NULL;
    gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for the writer", path);

    const ds4_status st = file_replace_open(&w->file, path, overwrite, err);
    if (st) {
        free(w);
        return st;
    }
    bytes_init(&w->keys, MAX_METADATA);
    w->alignment = GGUF_ALIGNMENT;
    *out = w;
    return DS4_OK;
}

static void writer_free(gguf_writer *w)
{
    bytes_free(&w->keys);
    free(w->key);
    free(w->tensors);
    free(w);
}

void gguf_writer_abort(gguf_writer *w)
{
    if (!w) return;
    file_replace_abort(&w->file);
    writer_free(w);
}

/* Room for one more in an array that doubles. */
static bool grow(void **array, int n, int *cap, size_t element)
{
    if (n < *cap) return true;
    const int more = *cap ? *cap * 2 : 64;
    void *p = realloc(*array, (size_t)more * element);
    if (!p) return false;
    *array = p;
    *cap = more;
    return true;
}

/* ---- keys -------------------------------------------------------------------- */

static void append_le(bytes *b, uint64_t v, int n)
{
    char p[8];
    for (int i = 0; i < n; i++) p[i] = (char)(v >> 8 * i & 255);
    bytes_append(b, p, (size_t)n);
}

static void append_string(bytes *b, const char *data, size_t n)
{
    append_le(b, n, 8);
    if (n) bytes_append(b, data, n);
}

static bool add_key(gguf_writer *w, slice key, gguf_kind kind)
{
    assert(!w->begun);
    if (w->kept.status) return false;
    if (!gguf_key_valid(key)) {
        KEEP(w, DS4_EARG, "key \"%.*s\" is empty, too long or not printable ASCII",
             (int)min_size(key.len, 80), key.data);
        return false;
    }
    if (w->n_keys == GGUF_MAX_KEYS
        || !grow((void **)&w->key, w->n_keys, &w->cap_keys, sizeof *w->key)) {
        KEEP(w, DS4_EMEMORY, "%s: too many keys", w->file.path);
        return false;
    }
    w->key[w->n_keys++] = (key_place){ w->keys.len + 8, key.len };
    append_string(&w->keys, key.data, key.len);
    append_le(&w->keys, kind, 4);
    return true;
}

/* Whether tensors share data is known from their descriptions, so a key that
 * says it (copied from another file) is left out. */
static bool begin_key(gguf_writer *w, slice key, gguf_kind kind)
{
    return !slice_is(key, GGUF_ALIASED_KEY) && add_key(w, key, kind);
}

static void put_le(gguf_writer *w, slice key, gguf_kind kind, uint64_t v)
{
    if (begin_key(w, key, kind)) append_le(&w->keys, v, gguf_kind_bytes(kind));
}

static void set_alignment(gguf_writer *w, slice key, gguf_kind kind, uint64_t v)
{
    if (!slice_is(key, "general.alignment")) return;
    if (kind != GGUF_U32 || v < GGUF_MIN_ALIGNMENT || v > GGUF_MAX_ALIGNMENT || (v & (v - 1)))
        KEEP(w, DS4_EARG, "general.alignment must be a u32 and a power of two from %d to %d",
             GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT);
    else
        w->alignment = (uint32_t)v;
}

void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v)
{
    set_alignment(w, slice_of(key), GGUF_U32, v);
    put_le(w, slice_of(key), GGUF_U32, v);
}

void gguf_put_u64(gguf_writer *w, const char *key, uint64_t v) { put_le(w, slice_of(key), GGUF_U64, v); }
void gguf_put_i32(gguf_writer *w, const char *key, int32_t v)  { put_le(w, slice_of(key), GGUF_I32, (uint32_t)v); }
void gguf_put_u16(gguf_writer *w, const char *key, uint16_t v) { put_le(w, slice_of(key), GGUF_U16, v); }
void gguf_put_bool(gguf_writer *w, const char *key, bool v)    { put_le(w, slice_of(key), GGUF_BOOL, v); }

static uint32_t float_word(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

void gguf_put_f32(gguf_writer *w, const char *key, float v)
{
    put_le(w, slice_of(key), GGUF_F32, float_word(v));
}

void gguf_put_string(gguf_writer *w, const char *key, const char *data, size_t n)
{
    if (n > GGUF_MAX_STRING || !utf8_valid(data, n)) {
        KEEP(w, DS4_EARG, "key %s: its text is not UTF-8 or too long", key);
        return;
    }
    if (begin_key(w, slice_of(key), GGUF_STRING)) append_string(&w->keys, data, n);
}

static bool begin_array(gguf_writer *w, const char *key, gguf_kind element, uint64_t n)
{
    if (!begin_key(w, slice_of(key), GGUF_ARRAY)) return false;
    append_le(&w->keys, element, 4);
    append_le(&w->keys, n, 8);
    return true;
}

void gguf_put_i32_array(gguf_writer *w, const char *key, const int32_t *v, uint64_t n)
{
    if (!begin_array(w, key, GGUF_I32, n)) return;
    for (uint64_t i = 0; i < n && !w->keys.failed; i++) append_le(&w->keys, (uint32_t)v[i], 4);
}

void gguf_put_f32_array(gguf_writer *w, const char *key, const float *v, uint64_t n)
{
    if (!begin_array(w, key, GGUF_F32, n)) return;
    for (uint64_t i = 0; i < n && !w->keys.failed; i++) append_le(&w->keys, float_word(v[i]), 4);
}

void gguf_put_string_array(gguf_writer *w, const char *key, const slice *v, uint64_t n)
{
    if (!begin_array(w, key, GGUF_STRING, n)) return;
    for (uint64_t i = 0; i < n && !w->keys.failed; i++) {
        if (v[i].len > GGUF_MAX_STRING || !utf8_valid(v[i].data, v[i].len)) {
            KEEP(w, DS4_EARG, "key %s: element %llu is not UTF-8 or too long", key,
                 (unsigned long long)i);
            return;
        }
        append_string(&w->keys, v[i].data, v[i].len);
    }
}

void gguf_put_value(gguf_writer *w, const gguf_value *v)
{
    set_alignment(w, v->key, v->kind, v->kind == GGUF_U32 ? gguf_load_u32(v->data) : 0);
    if (!begin_key(w, v->key, v->kind)) return;
    if (v->kind == GGUF_ARRAY) {
        append_le(&w->keys, v->element, 4);
        append_le(&w->keys, v->count, 8);
    }
    if (v->bytes) bytes_append(&w->keys, v->data, (size_t)v->bytes);
}

/* ---- tensors ------------------------------------------------------------------- */

static bool same_shape(const tensor *a, const tensor *b)
{
    return a->type == b->type && a->n_dims == b->n_dims && !memcmp(a->ne, b->ne, sizeof a->ne);
}

/* Fills t; false with a kept error. */
static bool describe(gguf_writer *w, tensor *t, const char *name, int n_dims, const uint64_t *ne)
{
    const char *why;
    if (!gguf_name_valid(slice_of(name))) {
        KEEP(w, DS4_EARG, "tensor name \"%.80s\" is empty, longer than %d bytes or not text", name,
             GGUF_MAX_NAME);
        return false;
    }
    memcpy(t->name, name, strlen(name));
    t->n_dims = n_dims;
    for (int i = 0; i < 4; i++) t->ne[i] = i < n_dims ? ne[i] : 1;
    if (!gguf_shape_bytes(t->type, n_dims, t->ne, &t->bytes, &why)) {
        KEEP(w, DS4_EARG, "tensor %s: %s", name, why);
        return false;
    }
    return true;
}

int gguf_put_tensor(gguf_writer *w, const char *name, quant_type type, int n_dims,
                    const uint64_t *ne, int alias_of)
{
    assert(!w->begun);
    if (w->n_tensors == GGUF_MAX_TENSORS
        || !grow((void **)&w->tensors, w->n_tensors, &w->cap_tensors, sizeof *w->tensors)) {
        KEEP(w, DS4_EMEMORY, "%s: too many tensors", w->file.path);
        return -1;
    }
    tensor *t = &w->tensors[w->n_tensors];
    *t = (tensor){ .type = type, .alias_of = -1 };
    if (!describe(w, t, name, n_dims, ne)) return w->n_tensors++;

    if (alias_of >= 0) {
        if (alias_of >= w->n_tensors || !same_shape(t, &w->tensors[alias_of]))
            KEEP(w, DS4_EARG, "tensor %s: can not share the data of tensor number %d", name, alias_of);
        else
            t->alias_of = w->tensors[alias_of].alias_of >= 0 ? w->tensors[alias_of].alias_of : alias_of;
        w->aliased = true;
    }
    return w->n_tensors++;
}

/* ---- metadata into the file ------------------------------------------------------ */

static ds4_status check_names(const gguf_writer *w, ds4_error *err)
{
    names keys = { 0 }, tensors = { 0 };
    const name_entry *twice = NULL;
    ds4_status st = DS4_OK;
    if (!names_init(&keys, w->n_keys) || !names_init(&tensors, w->n_tensors)) {
        st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for its names", w->file.path);
        goto done;
    }
    for (int i = 0; i < w->n_keys; i++)
        keys.entry[i].name = (slice){ w->keys.data + w->key[i].at, w->key[i].len };
    for (int i = 0; i < w->n_tensors; i++) tensors.entry[i].name = slice_of(w->tensors[i].name);

    if ((twice = names_sort(&keys)) || (twice = names_sort(&tensors)))
        st = ds4_fail(err, DS4_EARG, "%s: %.*s was put twice", w->file.path,
                      (int)min_size(twice->name.len, 80), twice->name.data);
done:
    names_free(&keys);
    names_free(&tensors);
    return st;
}

static ds4_status assign_offsets(gguf_writer *w, ds4_error *err)
{
    uint64_t next = 0;
    for (int i = 0; i < w->n_tensors; i++) {
        tensor *t = &w->tensors[i];
        if (t->alias_of >= 0) {
            t->offset = w->tensors[t->alias_of].offset;
            continue;
        }
        t->offset = next;
        if (!checked_add_u64(next, t->bytes, &next) || !checked_align_u64(next, w->alignment, &next))
            return ds4_fail(err, DS4_EARG, "%s: tensors of more than 2^64 bytes", w->file.path);
    }
    return DS4_OK;
}

static void append_tensor(bytes *b, const tensor *t)
{
    append_string(b, t->name, strlen(t->name));
    append_le(b, (uint64_t)t->n_dims, 4);
    for (int d = 0; d < t->n_dims; d++) append_le(b, t->ne[d], 8);
    append_le(b, (uint64_t)t->type, 4);
    append_le(b, t->offset, 8);
}

static ds4_status write_zeros(gguf_writer *w, uint64_t n, ds4_error *err)
{
    static const char zeros[4096];
    ds4_status st = DS4_OK;
    for (; n && !st; n -= n < sizeof zeros ? n : sizeof zeros)
        st = file_write_all(w->file.fd, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros,
                            w->file.path, err);
    return st;
}

/* From position n to the next multiple of the alignment. */
static uint64_t padding(const gguf_writer *w, uint64_t n)
{
    return (w->alignment - n % w->alignment) % w->alignment;
}

static ds4_status write_metadata(gguf_writer *w, bytes *head, bytes *tail, ds4_error *err)
{
    bytes_append(head, "GGUF", 4);
    append_le(head, 3, 4);
    append_le(head, (uint64_t)w->n_tensors, 8);
    append_le(head, (uint64_t)w->n_keys, 8);
    for (int i = 0; i < w->n_tensors; i++) append_tensor(tail, &w->tensors[i]);
    if (head->failed || tail->failed)
        return ds4_fail(err, DS4_EMEMORY, "%s: its metadata does not fit in memory", w->file.path);

    const int fd = w->file.fd;
    ds4_status st;
    if ((st = file_write_all(fd, head->data, head->len, w->file.path, err))) return st;
    if ((st = file_write_all(fd, w->keys.data, w->keys.len, w->file.path, err))) return st;
    if ((st = file_write_all(fd, tail->data, tail->len, w->file.path, err))) return st;
    return write_zeros(w, padding(w, (uint64_t)head->len + w->keys.len + tail->len), err);
}

ds4_status gguf_writer_begin_data(gguf_writer *w, ds4_error *err)
{
    assert(!w->begun);
    if (w->aliased && add_key(w, slice_of(GGUF_ALIASED_KEY), GGUF_BOOL)) append_le(&w->keys, 1, 1);
    if (w->keys.failed) KEEP(w, DS4_EMEMORY, "%s: its keys do not fit in memory", w->file.path);
    if (w->kept.status) return ds4_fail(err, w->kept.status, "%s", w->kept.message);

    ds4_status st;
    if ((st = check_names(w, err))) return st;
    if ((st = assign_offsets(w, err))) return st;

    bytes head, tail;
    bytes_init(&head, 64);
    bytes_init(&tail, MAX_METADATA);
    st = write_metadata(w, &head, &tail, err);
    bytes_free(&head);
    bytes_free(&tail);
    w->begun = !st;
    return st;
}

/* ---- data -------------------------------------------------------------------------- */

static void skip_aliases(gguf_writer *w)
{
    while (w->current < w->n_tensors && w->tensors[w->current].alias_of >= 0) w->current++;
}

ds4_status gguf_writer_data(gguf_writer *w, int i, const void *data, size_t n, ds4_error *err)
{
    assert(w->begun);
    skip_aliases(w);
    if (i != w->current || i >= w->n_tensors)
        return ds4_fail(err, DS4_EARG, "%s: data of tensor number %d, expected number %d",
                        w->file.path, i, w->current);

    const tensor *t = &w->tensors[i];
    if (n > t->bytes - w->written)
        return ds4_fail(err, DS4_EARG, "%s: tensor %s: more than its %llu bytes", w->file.path,
                        t->name, (unsigned long long)t->bytes);
    ds4_status st = file_write_all(w->file.fd, data, n, w->file.path, err);
    if (st) return st;

    w->written += n;
    if (w->written < t->bytes) return DS4_OK;
    w->current++;
    w->written = 0;
    return write_zeros(w, padding(w, t->bytes), err);
}

ds4_status gguf_writer_commit(gguf_writer *w, ds4_error *err)
{
    ds4_status st;
    skip_aliases(w);
    if (!w->begun)
        st = ds4_fail(err, DS4_EARG, "%s: its metadata was never written", w->file.path);
    else if (w->current < w->n_tensors)
        st = ds4_fail(err, DS4_EARG, "%s: the data of tensor %s is incomplete", w->file.path,
                      w->tensors[w->current].name);
    else
        st = file_replace_commit(&w->file, err);

    gguf_writer_abort(w);       /* after a commit there is nothing left to remove */
    return st;
}
