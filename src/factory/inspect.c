#include "factory/inspect.h"

#include <stdio.h>

#include "base/json_writer.h"
#include "base/utf8.h"
#include "factory/tensors.h"

#define SHOWN_IN_TEXT  12       /* elements of an array */
#define SHOWN_IN_JSON  64
#define SHOWN_COLUMNS  72       /* of a string          */

static const char *const kind_names[] = {
    [GGUF_U8] = "u8", [GGUF_I8] = "i8", [GGUF_U16] = "u16", [GGUF_I16] = "i16", [GGUF_U32] = "u32",
    [GGUF_I32] = "i32", [GGUF_F32] = "f32", [GGUF_BOOL] = "bool", [GGUF_STRING] = "string",
    [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64", [GGUF_F64] = "f64",
};

/* ---- groups ------------------------------------------------------------ */

typedef struct {
    uint64_t tensors, weights, bytes;
} group;

typedef struct {
    group    by_class[CLASS_COUNT + 1][QUANT_COUNT];    /* the last row: strangers */
    uint64_t weights, bytes;                            /* aliases counted         */
} summary;

static int class_of(const gguf_tensor *t)
{
    int layer;
    const tensor_def *d = tensor_def_find(t->name, &layer);
    return d ? (int)d->class : CLASS_COUNT;
}

static uint64_t weights_of(const gguf_tensor *t)
{
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

static void summarise(summary *s, const gguf *g)
{
    *s = (summary){ 0 };
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        group *p = &s->by_class[class_of(t)][t->type];
        p->tensors++;
        p->weights += weights_of(t);
        p->bytes   += t->bytes;
        s->weights += weights_of(t);
        s->bytes   += t->bytes;
    }
}

static void size_text(char out[24], uint64_t n)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double v = (double)n;
    int unit = 0;
    while (v >= 1024 && unit < 4) { v /= 1024; unit++; }
    snprintf(out, 24, unit ? "%.1f %s" : "%.0f %s", v, units[unit]);
}

/* ---- values ------------------------------------------------------------ */

static slice string_of(const gguf_value *v)
{
    return (slice){ (const char *)v->data + 8, (size_t)v->bytes - 8 };
}

/* Printable characters as they are, others as \n, \t or '?'; cut at a width. */
static void put_quoted(bytes *out, slice s)
{
    int columns = 0;
    bytes_char(out, '"');
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        const int n = utf8_next(s.data + i, s.len - i, &cp);
        if (columns++ >= SHOWN_COLUMNS) {
            bytes_text(out, "...");
            break;
        }
        if (cp == '\n') bytes_text(out, "\\n");
        else if (cp == '\t') bytes_text(out, "\\t");
        else if (cp == UTF8_INVALID || cp < 32 || (cp >= 127 && cp < 160)) bytes_char(out, '?');
        else bytes_append(out, s.data + i, (size_t)n);
        i += (size_t)n;
    }
    bytes_char(out, '"');
}

/* A plain value as an array of one, so that numbers have one way of being read. */
static gguf_value as_array(const gguf_value *v)
{
    gguf_value a = *v;
    if (v->kind == GGUF_ARRAY) return a;
    a.kind    = GGUF_ARRAY;
    a.element = v->kind;
    a.count   = 1;
    return a;
}

static void put_number(bytes *out, const gguf_value *array, uint64_t i)
{
    int64_t whole;
    double  real;
    if (array->element == GGUF_BOOL) bytes_text(out, array->data[i] ? "true" : "false");
    else if (gguf_array_int(array, i, &whole)) bytes_printf(out, "%lld", (long long)whole);
    else if (gguf_array_float(array, i, &real)) bytes_printf(out, "%.9g", real);
    else bytes_char(out, '?');      /* beyond 2^63 */
}

static void put_array(bytes *out, const gguf_value *v)
{
    uint64_t cursor = 0;
    bytes_printf(out, "[%llu %s]", (unsigned long long)v->count, kind_names[v->element]);
    for (uint64_t i = 0; i < v->count && i < SHOWN_IN_TEXT; i++) {
        slice s;
        bytes_text(out, i ? ", " : " ");
        if (v->element != GGUF_STRING) put_number(out, v, i);
        else if (gguf_array_string(v, &cursor, &s)) put_quoted(out, s);
    }
    if (v->count > SHOWN_IN_TEXT) bytes_text(out, ", ...");
}

static void put_value(bytes *out, const gguf_value *v)
{
    const gguf_value one = as_array(v);
    if (v->kind == GGUF_STRING) put_quoted(out, string_of(v));
    else if (v->kind == GGUF_ARRAY) put_array(out, v);
    else put_number(out, &one, 0);
}

/* ---- text -------------------------------------------------------------- */

static void put_header(bytes *out, const gguf *g, const summary *s)
{
    char size[24];
    slice name;
    size_text(size, gguf_file_bytes(g));
    bytes_printf(out, "file      %s\n", gguf_shard_path(g, 0));
    bytes_printf(out, "size      %s (%llu bytes)", size, (unsigned long long)gguf_file_bytes(g));
    if (gguf_n_shards(g) > 1) bytes_printf(out, " in %d shards", gguf_n_shards(g));
    bytes_text(out, "\n");
    if (!gguf_get_string(g, "general.name", &name, NULL)) {
        bytes_text(out, "name      ");
        put_quoted(out, name);
        bytes_text(out, "\n");
    }
    size_text(size, gguf_tensor_bytes(g));
    bytes_printf(out, "weights   %.3f billion in %d tensors, %s, %.2f bits each\n", (double)s->weights * 1e-9,
                 gguf_n_tensors(g), size, s->weights ? 8.0 * (double)s->bytes / (double)s->weights : 0.0);
    if (gguf_aliased(g)) bytes_text(out, "aliased   layers of one kind share their data\n");
}

static void put_groups(bytes *out, const summary *s)
{
    bytes_printf(out, "\n%-24s %-8s %8s %12s %6s\n", "class", "type", "tensors", "bytes", "share");
    for (int c = 0; c <= CLASS_COUNT; c++) {
        for (int t = 0; t < QUANT_COUNT; t++) {
            const group *p = &s->by_class[c][t];
            char size[24];
            if (!p->tensors) continue;
            size_text(size, p->bytes);
            bytes_printf(out, "%-24s %-8s %8llu %12s %5.1f%%\n", tensor_class_name((tensor_class)c),
                         quant_get((uint32_t)t)->name, (unsigned long long)p->tensors, size,
                         100.0 * (double)p->bytes / (double)s->bytes);
        }
    }
}

static void put_keys(bytes *out, const gguf *g)
{
    bytes_printf(out, "\n%d keys\n", gguf_n_values(g));
    for (int i = 0; i < gguf_n_values(g); i++) {
        const gguf_value *v = gguf_value_at(g, i);
        bytes_printf(out, "%-48.*s ", (int)v->key.len, v->key.data);
        put_value(out, v);
        bytes_char(out, '\n');
    }
}

static void put_tensors(bytes *out, const gguf *g)
{
    bytes_printf(out, "\n%d tensors\n", gguf_n_tensors(g));
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        char size[24], shape[96];
        int  at = 0;
        for (int d = 0; d < t->n_dims; d++)
            at += snprintf(shape + at, sizeof shape - (size_t)at, d ? ", %llu" : "%llu", (unsigned long long)t->ne[d]);
        size_text(size, t->bytes);
        bytes_printf(out, "%-40s %-8s [%s]  %s\n", t->name, quant_get(t->type)->name, shape, size);
    }
}

void inspect_text(const gguf *g, bytes *out)
{
    summary s;
    summarise(&s, g);
    put_header(out, g, &s);
    put_groups(out, &s);
    put_keys(out, g);
    put_tensors(out, g);
}

/* ---- JSON -------------------------------------------------------------- */

static void json_number(json_writer *w, const gguf_value *array, uint64_t i)
{
    int64_t whole;
    double  real;
    if (array->element == GGUF_BOOL) json_bool(w, array->data[i] != 0);
    else if (gguf_array_int(array, i, &whole)) json_int(w, whole);
    else if (gguf_array_float(array, i, &real)) json_double(w, real, array->element == GGUF_F64 ? 17 : 9);
    else json_null(w);
}

static void json_array_value(json_writer *w, const gguf_value *v)
{
    uint64_t cursor = 0;
    json_object(w);
    json_put_text(w, "element", kind_names[v->element]);
    json_put_int(w, "count", (int64_t)v->count);
    json_key(w, "first");
    json_array(w);
    for (uint64_t i = 0; i < v->count && i < SHOWN_IN_JSON; i++) {
        slice s;
        if (v->element != GGUF_STRING) json_number(w, v, i);
        else if (gguf_array_string(v, &cursor, &s)) json_string(w, s.data, s.len);
    }
    json_array_end(w);
    json_object_end(w);
}

static void json_keys(json_writer *w, const gguf *g)
{
    json_key(w, "metadata");
    json_object(w);
    for (int i = 0; i < gguf_n_values(g); i++) {
        const gguf_value *v = gguf_value_at(g, i);
        const gguf_value one = as_array(v);
        char key[256];
        snprintf(key, sizeof key, "%.*s", (int)v->key.len, v->key.data);
        json_key(w, key);
        if (v->kind == GGUF_ARRAY) json_array_value(w, v);
        else if (v->kind == GGUF_STRING) json_string(w, string_of(v).data, string_of(v).len);
        else json_number(w, &one, 0);
    }
    json_object_end(w);
}

static void json_groups(json_writer *w, const summary *s)
{
    json_key(w, "groups");
    json_array(w);
    for (int c = 0; c <= CLASS_COUNT; c++) {
        for (int t = 0; t < QUANT_COUNT; t++) {
            const group *p = &s->by_class[c][t];
            if (!p->tensors) continue;
            json_object(w);
            json_put_text(w, "class", tensor_class_name((tensor_class)c));
            json_put_text(w, "type", quant_get((uint32_t)t)->name);
            json_put_int(w, "tensors", (int64_t)p->tensors);
            json_put_int(w, "weights", (int64_t)p->weights);
            json_put_int(w, "bytes", (int64_t)p->bytes);
            json_object_end(w);
        }
    }
    json_array_end(w);
}

static void json_tensors(json_writer *w, const gguf *g)
{
    json_key(w, "tensors");
    json_array(w);
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        json_object(w);
        json_put_text(w, "name", t->name);
        json_put_text(w, "type", quant_get(t->type)->name);
        json_key(w, "shape");
        json_array(w);
        for (int d = 0; d < t->n_dims; d++) json_int(w, (int64_t)t->ne[d]);
        json_array_end(w);
        json_put_int(w, "bytes", (int64_t)t->bytes);
        json_put_int(w, "offset", (int64_t)t->offset);
        json_put_int(w, "shard", t->shard);
        json_object_end(w);
    }
    json_array_end(w);
}

void inspect_json(const gguf *g, bytes *out)
{
    json_writer w;
    summary s;
    summarise(&s, g);
    json_init(&w, out);
    json_object(&w);
    json_put_text(&w, "file", gguf_shard_path(g, 0));
    json_put_int(&w, "bytes", (int64_t)gguf_file_bytes(g));
    json_put_int(&w, "tensor_bytes", (int64_t)gguf_tensor_bytes(g));
    json_put_int(&w, "weights", (int64_t)s.weights);
    json_put_int(&w, "shards", gguf_n_shards(g));
    json_put_bool(&w, "aliased", gguf_aliased(g));
    json_keys(&w, g);
    json_groups(&w, &s);
    json_tensors(&w, g);
    json_object_end(&w);
    bytes_char(out, '\n');
}
