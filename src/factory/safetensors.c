#include "factory/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/status.h"
#include "factory/json_input.h"

/* The format's own limit on the header. */
#define MAX_HEADER  100000000u
#define MAX_NAME    4096

typedef struct {
    const char *name;
    int         bytes;
} type_row;

static const type_row types[STORED_COUNT] = {
    [STORED_F64] = { "F64", 8 }, [STORED_F32] = { "F32", 4 }, [STORED_F16] = { "F16", 2 },
    [STORED_BF16] = { "BF16", 2 }, [STORED_F8_E4M3] = { "F8_E4M3", 1 }, [STORED_F8_E5M2] = { "F8_E5M2", 1 },
    [STORED_F8_E8M0] = { "F8_E8M0", 1 }, [STORED_I64] = { "I64", 8 }, [STORED_I32] = { "I32", 4 },
    [STORED_I16] = { "I16", 2 }, [STORED_I8] = { "I8", 1 }, [STORED_U64] = { "U64", 8 },
    [STORED_U32] = { "U32", 4 }, [STORED_U16] = { "U16", 2 }, [STORED_U8] = { "U8", 1 },
    [STORED_BOOL] = { "BOOL", 1 },
};

const char *stored_type_name(stored_type t)
{
    return (unsigned)t < STORED_COUNT ? types[t].name : "unknown";
}

void stored_shape_text(const stored_tensor *t, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, i ? ", %llu" : "%llu", (unsigned long long)t->dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

/* ---- one entry --------------------------------------------------------- */

typedef struct {
    safetensors   *s;
    char          *name_at;         /* free place in s->names      */
    const uint8_t *data;            /* first byte after the header */
    uint64_t       data_bytes;
    ds4_error     *err;
} header;

static ds4_status bad(const header *h, const char *tensor, const char *what)
{
    return ds4_fail(h->err, DS4_EFORMAT, "%s: tensor %s: %s", h->s->path, tensor, what);
}

static ds4_status read_type(const header *h, stored_tensor *t, json_object *entry)
{
    json_object *value = json_input_get(entry, "dtype");
    if (!json_object_is_type(value, json_type_string)) return bad(h, t->name, "no dtype");
    for (int i = 0; i < STORED_COUNT; i++) {
        if (strcmp(types[i].name, json_object_get_string(value))) continue;
        t->type = (stored_type)i;
        return DS4_OK;
    }
    return ds4_fail(h->err, DS4_EUNSUPPORTED, "%s: tensor %s: unknown dtype \"%.32s\"", h->s->path, t->name,
                    json_object_get_string(value));
}

/* A count as the format writes it: a plain integer, not a float that happens to be one. */
static bool read_count(json_object *value, uint64_t *out)
{
    if (!json_object_is_type(value, json_type_int)) return false;
    const int64_t v = json_object_get_int64(value);
    if (v < 0) return false;
    *out = (uint64_t)v;
    return true;
}

static ds4_status read_shape(const header *h, stored_tensor *t, json_object *entry)
{
    json_object *value = json_input_get(entry, "shape");
    if (!json_object_is_type(value, json_type_array)) return bad(h, t->name, "no shape");
    const size_t n = json_object_array_length(value);
    if (n > STORED_MAX_DIMS) return bad(h, t->name, "more than 8 dimensions");

    t->n_dims = (int)n;
    t->bytes  = (uint64_t)types[t->type].bytes;
    for (size_t i = 0; i < n; i++) {
        if (!read_count(json_object_array_get_idx(value, i), &t->dims[i]))
            return bad(h, t->name, "a dimension is not a count");
        if (!checked_mul_u64(t->bytes, t->dims[i], &t->bytes))
            return bad(h, t->name, "the product of its dimensions overflows");
    }
    return DS4_OK;
}

static ds4_status read_range(const header *h, stored_tensor *t, json_object *entry)
{
    uint64_t begin, end;
    json_object *value = json_input_get(entry, "data_offsets");
    if (!json_object_is_type(value, json_type_array) || json_object_array_length(value) != 2 ||
        !read_count(json_object_array_get_idx(value, 0), &begin) ||
        !read_count(json_object_array_get_idx(value, 1), &end) || begin > end)
        return bad(h, t->name, "data_offsets is not a range");
    if (end > h->data_bytes)
        return ds4_fail(h->err, DS4_EFORMAT, "%s: tensor %s ends at byte %llu of the data, the file holds %llu "
                        "(a truncated shard?)", h->s->path, t->name, (unsigned long long)end,
                        (unsigned long long)h->data_bytes);
    if (end - begin != t->bytes) {
        char shape[160];
        stored_shape_text(t, shape, sizeof shape);
        return ds4_fail(h->err, DS4_EFORMAT, "%s: tensor %s: %s of %s take %llu bytes, its range holds %llu",
                        h->s->path, t->name, shape, types[t->type].name, (unsigned long long)t->bytes,
                        (unsigned long long)(end - begin));
    }
    t->data = h->data + begin;
    return DS4_OK;
}

static ds4_status read_entry(header *h, stored_tensor *t, const char *name, json_object *entry)
{
    ds4_status st;
    const size_t n = strlen(name);
    if (n == 0 || n > MAX_NAME)
        return ds4_fail(h->err, DS4_EFORMAT, "%s: a tensor's name has %zu bytes", h->s->path, n);
    *t = (stored_tensor){ .name = memcpy(h->name_at, name, n + 1), .path = h->s->path,
                            .mapped = h->s->map.data != NULL };
    h->name_at += n + 1;

    if (!json_object_is_type(entry, json_type_object)) return bad(h, name, "its entry is not an object");
    if ((st = read_type(h, t, entry))) return st;
    if ((st = read_shape(h, t, entry))) return st;
    return read_range(h, t, entry);
}

/* ---- the header -------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const stored_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    const stored_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The format allows neither shared bytes nor bytes that belong to nobody. */
static ds4_status check_cover(const header *h)
{
    const safetensors *s = h->s;
    const uint8_t *at = h->data;
    qsort(s->items, (size_t)s->n, sizeof *s->items, by_place);
    for (int i = 0; i < s->n; i++) {
        if (s->items[i].data < at) return bad(h, s->items[i].name, "shares bytes with another tensor");
        if (s->items[i].data > at) return bad(h, s->items[i].name, "there is a gap in front of its data");
        at += s->items[i].bytes;
    }
    if (at != h->data + h->data_bytes)
        return ds4_fail(h->err, DS4_EFORMAT, "%s: %llu bytes after the last tensor", s->path,
                        (unsigned long long)(h->data + h->data_bytes - at));
    return DS4_OK;
}

static ds4_status read_entries(header *h, json_object *root)
{
    safetensors *s = h->s;
    if (!json_object_is_type(root, json_type_object))
        return ds4_fail(h->err, DS4_EFORMAT, "%s: its header is not a JSON object", s->path);
    const int n = json_object_object_length(root);
    s->items = calloc((size_t)n + 1, sizeof *s->items);
    if (!s->items) return ds4_fail(h->err, DS4_EMEMORY, "%s: no memory for %d tensors", s->path, n);

    json_object_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) continue;
        const ds4_status st = read_entry(h, &s->items[s->n++], name, entry);
        if (st) return st;
    }
    const ds4_status st = check_cover(h);
    qsort(s->items, (size_t)s->n, sizeof *s->items, by_name);
    return st;
}

static ds4_status read_header(safetensors *s, const uint8_t *file, uint64_t size, ds4_error *err)
{
    uint64_t n = 0;
    if (size < 8) return ds4_fail(err, DS4_EFORMAT, "%s: %llu bytes are too few for a safetensors file",
                                  s->path, (unsigned long long)size);
    for (int i = 0; i < 8; i++) n |= (uint64_t)file[i] << (8 * i);
    if (n > MAX_HEADER || n > size - 8)
        return ds4_fail(err, DS4_EFORMAT, "%s: a header of %llu bytes in a file of %llu: not a safetensors "
                        "file, or cut", s->path, (unsigned long long)n, (unsigned long long)size);

    json_object *root;
    ds4_status st = json_input_parse(&root, (const char *)file + 8, (size_t)n, s->path, err);
    if (st) return st;
    /* A name with its NUL is never longer than it was with its quotes. */
    s->names = malloc((size_t)n + 1);
    if (!s->names) {
        json_object_put(root);
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its header", s->path);
    }
    header h = { .s = s, .name_at = s->names, .data = file + 8 + n, .data_bytes = size - 8 - n, .err = err };
    st = read_entries(&h, root);
    json_object_put(root);
    return st;
}

static ds4_status begin(safetensors *s, const char *path, ds4_error *err)
{
    *s = (safetensors){ .map.fd = -1 };
    s->path = strdup(path);
    return s->path ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "%s: no memory for the reader", path);
}

ds4_status safetensors_open(safetensors *s, const char *path, ds4_error *err)
{
    ds4_status st;
    if ((st = begin(s, path, err))) return st;
    if ((st = file_map_open(&s->map, path, err))) goto fail;
    if ((st = read_header(s, s->map.data, s->map.size, err))) goto fail;
    return DS4_OK;
fail:
    safetensors_close(s);
    return st;
}

ds4_status safetensors_open_memory(safetensors *s, const void *data, size_t n, const char *name, ds4_error *err)
{
    ds4_status st;
    if ((st = begin(s, name, err))) return st;
    if ((st = read_header(s, data, n, err))) safetensors_close(s);
    return st;
}

void safetensors_close(safetensors *s)
{
    if (!s) return;
    free(s->items);
    free(s->names);
    free(s->path);
    file_map_close(&s->map);
    *s = (safetensors){ .map.fd = -1 };
}

void stored_release(const stored_tensor *t, uint64_t first, uint64_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)t->data + first) & ~(page - 1), end = (uintptr_t)t->data + first + n;
    if (t->mapped && n) madvise((void *)begin, end - begin, MADV_DONTNEED);
}
