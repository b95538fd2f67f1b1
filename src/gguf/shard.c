#include "gguf/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "gguf/names.h"

/* A GGUF file, little-endian, nothing aligned before the data:
 *
 *   "GGUF" | version u32 | n_tensors u64 | n_keys u64
 *   n_keys x     key string | kind u32 | value
 *   n_tensors x  name string | n_dims u32 | dims u64[n_dims] | type u32 | offset u64
 *   padding to the alignment | data
 *
 * A string is a u64 length and its bytes; an array value is its element kind
 * u32, count u64 and the elements. Offsets count from the start of the data. */

enum {
    HEADER_BYTES     = 24,
    MIN_KEY_BYTES    = 8 + 1 + 4 + 1,               /* the least a key can take    */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8        /* the least a tensor can take */
};

/* Where the parser stands. Nothing is read that was not compared with what
 * remains, and counts are compared before they are used. */
typedef struct {
    const shard *s;
    uint64_t     pos;
    ds4_error   *err;
} cursor;

#define BAD(c, at, fmt, ...) \
    ds4_fail((c)->err, DS4_EFORMAT, "%s: byte %llu: " fmt, (c)->s->label, \
             (unsigned long long)(at), ##__VA_ARGS__)

/* A name inside a message: enough to recognise it. */
#define SHOW(x) (int)min_size((x).len, 80), (x).data

static uint64_t remaining(const cursor *c)
{
    return c->s->size - c->pos;
}

/* The next n bytes; NULL after the failure was told. */
static const uint8_t *take(cursor *c, uint64_t n, const char *field)
{
    if (n > remaining(c)) {
        (void)BAD(c, c->pos, "the file ends inside %s", field);
        return NULL;
    }
    const uint8_t *p = c->s->data + c->pos;
    c->pos += n;
    return p;
}

static ds4_status take_u32(cursor *c, uint32_t *out, const char *field)
{
    const uint8_t *p = take(c, 4, field);
    if (!p) return DS4_EFORMAT;
    *out = gguf_load_u32(p);
    return DS4_OK;
}

static ds4_status take_u64(cursor *c, uint64_t *out, const char *field)
{
    const uint8_t *p = take(c, 8, field);
    if (!p) return DS4_EFORMAT;
    *out = gguf_load_u64(p);
    return DS4_OK;
}

static ds4_status take_string(cursor *c, slice *out, uint64_t max, const char *field)
{
    const uint64_t at = c->pos;
    uint64_t len = 0;
    const ds4_status st = take_u64(c, &len, field);
    if (st) return st;
    if (len > max)
        return BAD(c, at, "%s has a length of %llu, the most is %llu", field,
                   (unsigned long long)len, (unsigned long long)max);
    const uint8_t *p = take(c, len, field);
    if (!p) return DS4_EFORMAT;
    *out = (slice){ (const char *)p, (size_t)len };
    return DS4_OK;
}

/* ---- names -------------------------------------------------------------- */

bool gguf_key_valid(slice key)
{
    if (key.len == 0 || key.len > GGUF_MAX_KEY_BYTES) return false;
    for (size_t i = 0; i < key.len; i++)
        if (key.data[i] <= ' ' || key.data[i] > '~') return false;
    return true;
}

bool gguf_name_valid(slice name)
{
    if (name.len == 0 || name.len > GGUF_MAX_NAME) return false;
    for (size_t i = 0; i < name.len; i++)
        if ((unsigned char)name.data[i] < ' ' || name.data[i] == 127) return false;
    return utf8_valid(name.data, name.len);
}

/* ---- header ---------------------------------------------------------------- */

static ds4_status check_version(cursor *c, uint32_t version)
{
    if (version == 3 || version == 2) return DS4_OK;
    if (version && (version & 0xffff) == 0)
        return ds4_fail(c->err, DS4_EUNSUPPORTED, "%s: the file is in big-endian byte order",
                        c->s->label);
    if (version == 1)
        return ds4_fail(c->err, DS4_EUNSUPPORTED,
                        "%s: GGUF version 1 is too old, convert the file to version 3", c->s->label);
    if (version == 0) return BAD(c, 4, "the version is 0");
    return ds4_fail(c->err, DS4_EUNSUPPORTED, "%s: GGUF version %u is not known, 2 and 3 are",
                    c->s->label, version);
}

/* Both counts are believed only as far as the file's size allows. */
static ds4_status check_counts(cursor *c, uint64_t tensors, uint64_t keys)
{
    if (keys > remaining(c) / MIN_KEY_BYTES || keys > GGUF_MAX_KEYS)
        return BAD(c, 16, "a key count of %llu is too large for the file",
                   (unsigned long long)keys);
    if (tensors > remaining(c) / MIN_TENSOR_BYTES || tensors > GGUF_MAX_TENSORS)
        return BAD(c, 8, "a tensor count of %llu is too large for the file",
                   (unsigned long long)tensors);
    return DS4_OK;
}

static ds4_status parse_header(cursor *c, shard *s)
{
    if (s->size < HEADER_BYTES)
        return BAD(c, 0, "the file has %llu bytes, a GGUF file at least %d",
                   (unsigned long long)s->size, HEADER_BYTES);
    if (memcmp(s->data, "GGUF", 4)) return BAD(c, 0, "this is not a GGUF file");

    uint64_t tensors = 0, keys = 0;
    uint32_t version = 0;
    ds4_status st;
    c->pos = 4;
    if ((st = take_u32(c, &version, "the version"))) return st;
    if ((st = check_version(c, version))) return st;
    if ((st = take_u64(c, &tensors, "the tensor count"))) return st;
    if ((st = take_u64(c, &keys, "the key count"))) return st;
    if ((st = check_counts(c, tensors, keys))) return st;

    s->n_values = (int)keys;
    s->n_tensors = (int)tensors;
    return DS4_OK;
}

/* ---- keys ------------------------------------------------------------------- */

/* Text that is shown or tokenised must be UTF-8 from the start; other strings
 * are looked at when they are read. */
static bool is_text(slice key)
{
    return (key.len > 8 && !memcmp(key.data, "general.", 8))
        || (key.len > 10 && !memcmp(key.data, "tokenizer.", 10));
}

static ds4_status parse_string(cursor *c, slice key)
{
    const uint64_t at = c->pos;
    slice text = { 0 };
    const ds4_status st = take_string(c, &text, GGUF_MAX_STRING, "a string value");
    if (st) return st;
    if (is_text(key) && !utf8_valid(text.data, text.len))
        return BAD(c, at, "a string of %.*s is not valid UTF-8", SHOW(key));
    return DS4_OK;
}

static ds4_status check_bools(cursor *c, uint64_t at, uint64_t n, slice key)
{
    for (uint64_t i = 0; i < n; i++)
        if (c->s->data[at + i] > 1)
            return BAD(c, at + i, "%.*s: a bool is %u, not 0 or 1", SHOW(key), c->s->data[at + i]);
    return DS4_OK;
}

static ds4_status parse_elements(cursor *c, gguf_value *v)
{
    uint64_t bytes = 0;
    if (v->element == GGUF_STRING) {
        if (v->count > remaining(c) / 8 || v->count > GGUF_MAX_ELEMENTS)
            return BAD(c, c->pos - 8, "%.*s: an array of %llu strings is too large for the file",
                       SHOW(v->key), (unsigned long long)v->count);
        ds4_status st = DS4_OK;
        for (uint64_t i = 0; i < v->count && !st; i++) st = parse_string(c, v->key);
        return st;
    }
    if (!checked_mul_u64(v->count, (uint64_t)gguf_kind_bytes(v->element), &bytes)
        || bytes > remaining(c))
        return BAD(c, c->pos - 8, "%.*s: an array of %llu elements is too large for the file",
                   SHOW(v->key), (unsigned long long)v->count);
    c->pos += bytes;
    return v->element == GGUF_BOOL ? check_bools(c, c->pos - bytes, bytes, v->key) : DS4_OK;
}

static ds4_status parse_array(cursor *c, gguf_value *v)
{
    const uint64_t at = c->pos;
    uint32_t element = 0;
    ds4_status st;
    if ((st = take_u32(c, &element, "an array's element kind"))) return st;
    if ((st = take_u64(c, &v->count, "an array's count"))) return st;
    if (element == GGUF_ARRAY) return BAD(c, at, "%.*s: arrays of arrays are refused", SHOW(v->key));
    if (element > GGUF_F64)
        return BAD(c, at, "%.*s: element kind %u is not known", SHOW(v->key), element);

    v->element = (gguf_kind)element;
    v->data = c->s->data + c->pos;
    return parse_elements(c, v);
}

static ds4_status parse_scalar(cursor *c, gguf_value *v)
{
    const uint64_t at = c->pos;
    if (!take(c, (uint64_t)gguf_kind_bytes(v->kind), "a value")) return DS4_EFORMAT;
    return v->kind == GGUF_BOOL ? check_bools(c, at, 1, v->key) : DS4_OK;
}

static ds4_status parse_value(cursor *c, gguf_value *v)
{
    const uint64_t at = c->pos;
    uint32_t kind = 0;
    ds4_status st;
    if ((st = take_string(c, &v->key, GGUF_MAX_KEY_BYTES, "a key"))) return st;
    if (!gguf_key_valid(v->key)) return BAD(c, at, "a key is empty or not printable ASCII");
    if ((st = take_u32(c, &kind, "a value's kind"))) return st;
    if (kind > GGUF_F64) return BAD(c, c->pos - 4, "%.*s: kind %u is not known", SHOW(v->key), kind);

    v->kind = v->element = (gguf_kind)kind;
    v->count = 1;
    v->data = c->s->data + c->pos;
    if (v->kind == GGUF_ARRAY) st = parse_array(c, v);
    else if (v->kind == GGUF_STRING) st = parse_string(c, v->key);
    else st = parse_scalar(c, v);
    v->bytes = (uint64_t)(c->s->data + c->pos - v->data);
    return st;
}

static ds4_status parse_keys(cursor *c, shard *s)
{
    s->values = calloc((size_t)s->n_values + 1, sizeof *s->values);
    if (!s->values) return ds4_fail(c->err, DS4_EMEMORY, "%s: no memory for its keys", s->label);

    ds4_status st = DS4_OK;
    for (int i = 0; i < s->n_values && !st; i++) st = parse_value(c, &s->values[i]);
    return st;
}

static ds4_status parse_alignment(cursor *c, shard *s)
{
    const gguf_value *v = shard_find(s, "general.alignment");
    s->alignment = GGUF_ALIGNMENT;
    if (!v) return DS4_OK;

    const uint64_t at = (uint64_t)(v->data - s->data);
    if (v->kind != GGUF_U32)
        return BAD(c, at, "general.alignment is %s, expected u32", gguf_kind_name(v->kind));
    s->alignment = gguf_load_u32(v->data);
    if (s->alignment < GGUF_MIN_ALIGNMENT || s->alignment > GGUF_MAX_ALIGNMENT
        || (s->alignment & (s->alignment - 1)))
        return BAD(c, at, "general.alignment is %u, expected a power of two from %d to %d",
                   s->alignment, GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT);
    return DS4_OK;
}

/* ---- tensors ------------------------------------------------------------------ */

bool gguf_shape_bytes(quant_type type, int n_dims, const uint64_t *ne, uint64_t *bytes,
                      const char **why)
{
    const quant_info *q = quant_get((uint32_t)type);
    uint64_t n = 1, row = 0;

    *why = "its type is unknown or retired";
    if (!q) return false;
    *why = "it must have 1 to 4 dimensions";
    if (n_dims < 1 || n_dims > 4) return false;
    *why = "its dimensions must be at least 1 and their product below 2^63";
    for (int i = 0; i < n_dims; i++)
        if (ne[i] == 0 || !checked_mul_u64(n, ne[i], &n) || n > INT64_MAX) return false;
    *why = "its row is not a whole number of blocks";
    if (ne[0] % (uint64_t)q->block_len) return false;
    *why = "its size is beyond 2^64 bytes";
    return quant_row_bytes(type, ne[0], &row) && checked_mul_u64(n / ne[0], row, bytes);
}

static ds4_status parse_tensor(cursor *c, gguf_tensor *t, char *name)
{
    const uint64_t at = c->pos;
    uint32_t n_dims = 0, type = 0;
    slice text = { 0 };
    const char *why;
    ds4_status st;

    if ((st = take_string(c, &text, GGUF_MAX_NAME, "a tensor's name"))) return st;
    if (!gguf_name_valid(text))
        return BAD(c, at, "a tensor's name is empty, not UTF-8 or has control characters");
    memcpy(name, text.data, text.len);          /* the rest is zero */

    const uint64_t shape_at = c->pos;
    if ((st = take_u32(c, &n_dims, "a tensor's dimensions"))) return st;
    if (n_dims < 1 || n_dims > 4)
        return BAD(c, shape_at, "tensor %s: %u dimensions, must be 1 to 4", name, n_dims);
    for (int i = 0; i < 4; i++) t->ne[i] = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        if ((st = take_u64(c, &t->ne[i], "a tensor's dimensions"))) return st;
    if ((st = take_u32(c, &type, "a tensor's type"))) return st;
    if (!quant_get(type))
        return BAD(c, c->pos - 4, "tensor %s: type %u is unknown or retired", name, type);
    if ((st = take_u64(c, &t->offset, "a tensor's offset"))) return st;

    t->name = name;
    t->type = (quant_type)type;
    t->n_dims = (int)n_dims;
    if (!gguf_shape_bytes(t->type, t->n_dims, t->ne, &t->bytes, &why))
        return BAD(c, shape_at, "tensor %s: %s", name, why);
    return DS4_OK;
}

static ds4_status parse_tensors(cursor *c, shard *s)
{
    s->tensors = calloc((size_t)s->n_tensors + 1, sizeof *s->tensors);
    s->names = calloc((size_t)s->n_tensors + 1, GGUF_MAX_NAME + 1);
    if (!s->tensors || !s->names)
        return ds4_fail(c->err, DS4_EMEMORY, "%s: no memory for its tensors", s->label);

    ds4_status st = DS4_OK;
    for (int i = 0; i < s->n_tensors && !st; i++)
        st = parse_tensor(c, &s->tensors[i], s->names + (size_t)i * (GGUF_MAX_NAME + 1));
    return st;
}

static ds4_status find_data(cursor *c, shard *s)
{
    if (!checked_align_u64(c->pos, s->alignment, &s->data_start) || s->data_start > s->size) {
        if (s->n_tensors) return BAD(c, c->pos, "the file ends before its tensor data");
        s->data_start = s->size;        /* no data: its padding may be missing too */
    }
    return DS4_OK;
}

ds4_status shard_parse(shard *s, ds4_error *err)
{
    cursor c = { s, 0, err };
    ds4_status st;
    if ((st = parse_header(&c, s))) return st;
    if ((st = parse_keys(&c, s))) return st;
    if ((st = parse_alignment(&c, s))) return st;
    if ((st = parse_tensors(&c, s))) return st;
    return find_data(&c, s);
}

/* ---- the data section ------------------------------------------------------------ */

/* Where a tensor lies in the data section. */
typedef struct {
    uint64_t start, end;
    int      number;
} span;

static int span_order(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->start != y->start) return x->start < y->start ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static ds4_status place_tensor(cursor *c, gguf_tensor *t, span *where, int number)
{
    const shard *s = c->s;
    const uint64_t room = s->size - s->data_start, start = t->offset;
    if (start % s->alignment)
        return BAD(c, s->data_start, "tensor %s: offset %llu is not a multiple of %u", t->name,
                   (unsigned long long)start, s->alignment);
    if (start > room || t->bytes > room - start)
        return BAD(c, s->data_start, "tensor %s: its %llu bytes at offset %llu are beyond the file",
                   t->name, (unsigned long long)t->bytes, (unsigned long long)start);

    *where = (span){ start, start + t->bytes, number };
    t->offset = s->data_start + start;
    t->data = s->data + t->offset;
    return DS4_OK;
}

static bool same_shape(const gguf_tensor *a, const gguf_tensor *b)
{
    return a->type == b->type && a->n_dims == b->n_dims && !memcmp(a->ne, b->ne, sizeof a->ne);
}

/* Two tensors in one place: allowed only when the file says that it means it
 * and they are the same in everything but the name. */
static ds4_status check_shared(cursor *c, const gguf_tensor *a, const gguf_tensor *b, bool same_range,
                               bool allowed)
{
    if (!same_range || !same_shape(a, b))
        return BAD(c, b->offset, "tensors %s and %s overlap", a->name, b->name);
    if (!allowed)
        return BAD(c, b->offset, "tensors %s and %s share their bytes without " GGUF_ALIASED_KEY,
                   a->name, b->name);
    return DS4_OK;
}

/* What the layout has that a careful writer would not write. */
typedef struct {
    int      disorder;          /* tensors out of order or after a gap */
    int      first;             /* number of the first such            */
    uint64_t extra;             /* bytes after the last tensor         */
} layout;

/* One walk over the tensors in the order of their places. */
static ds4_status walk_spans(cursor *c, shard *s, const span *sorted, bool aliases_allowed, layout *l)
{
    uint64_t expected = 0;
    const span *owner = NULL;       /* of the bytes that were walked last */

    *l = (layout){ 0, -1, 0 };
    for (int i = 0; i < s->n_tensors; i++) {
        const span *p = &sorted[i];
        if (owner && p->start < owner->end) {
            const ds4_status st = check_shared(c, &s->tensors[owner->number], &s->tensors[p->number],
                                               p->start == owner->start && p->end == owner->end,
                                               aliases_allowed);
            if (st) return st;
            s->aliased = true;
            continue;
        }
        if (p->start != expected || (owner && p->number < owner->number)) {
            if (l->first < 0) l->first = p->number;
            l->disorder++;
        }
        s->tensor_bytes += p->end - p->start;
        expected = (p->end + s->alignment - 1) & ~(uint64_t)(s->alignment - 1);
        owner = p;
    }
    const uint64_t room = s->size - s->data_start;
    l->extra = room > expected ? room - expected : 0;
    return DS4_OK;
}

static void warn(const gguf_options *o, const ds4_error *line)
{
    if (o->warn) o->warn(o->warn_ctx, line->message);
}

static ds4_status report_layout(const shard *s, const layout *l, const gguf_options *o, ds4_error *err)
{
    ds4_error line;
    if (l->disorder) {
        ds4_fail(&line, DS4_EFORMAT,
                 "%s: %d tensors are out of order or leave gaps, the first is %s",
                 s->label, l->disorder, s->tensors[l->first].name);
        if (o->strict) return ds4_fail(err, DS4_EFORMAT, "%s", line.message);
        warn(o, &line);
    }
    if (l->extra) {
        ds4_fail(&line, DS4_EFORMAT, "%s: %llu bytes follow the last tensor", s->label,
                 (unsigned long long)l->extra);
        warn(o, &line);
    }
    return DS4_OK;
}

ds4_status shard_place(shard *s, bool aliases_allowed, const gguf_options *options, ds4_error *err)
{
    cursor c = { s, s->data_start, err };
    span *spans = calloc((size_t)s->n_tensors + 1, sizeof *spans);
    if (!spans) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its layout", s->label);

    layout l;
    ds4_status st = DS4_OK;
    for (int i = 0; i < s->n_tensors && !st; i++) st = place_tensor(&c, &s->tensors[i], &spans[i], i);
    if (!st) {
        qsort(spans, (size_t)s->n_tensors, sizeof *spans, span_order);
        st = walk_spans(&c, s, spans, aliases_allowed, &l);
    }
    if (!st) st = report_layout(s, &l, options, err);
    free(spans);
    return st;
}

/* ---- the object --------------------------------------------------------------------- */

ds4_status shard_set_path(shard *s, const char *path, ds4_error *err)
{
    const size_t n = strlen(path), room = sizeof s->label - 1;
    s->path = strdup(path);
    if (!s->path) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its name", path);
    if (n <= room) memcpy(s->label, path, n + 1);
    else snprintf(s->label, sizeof s->label, "...%s", path + n - (room - 3));
    return DS4_OK;
}

void shard_close(shard *s)
{
    file_map_close(&s->map);
    free(s->path);
    free(s->values);
    free(s->tensors);
    free(s->names);
    *s = (shard){ 0 };
}

const gguf_value *shard_find(const shard *s, const char *key)
{
    const slice want = slice_of(key);
    for (int i = 0; i < s->n_values; i++)
        if (slice_equal(s->values[i].key, want)) return &s->values[i];
    return NULL;
}
