#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "gguf/shard.h"

static const struct {
    const char *name;
    int         bytes;          /* 0: not of one size */
} kinds[] = {
    [GGUF_U8]   = { "u8", 1 },   [GGUF_I8]     = { "i8", 1 },     [GGUF_U16]   = { "u16", 2 },
    [GGUF_I16]  = { "i16", 2 },  [GGUF_U32]    = { "u32", 4 },    [GGUF_I32]   = { "i32", 4 },
    [GGUF_F32]  = { "f32", 4 },  [GGUF_BOOL]   = { "bool", 1 },   [GGUF_U64]   = { "u64", 8 },
    [GGUF_I64]  = { "i64", 8 },  [GGUF_F64]    = { "f64", 8 },
    [GGUF_STRING] = { "a string", 0 },         [GGUF_ARRAY] = { "an array", 0 },
};

int gguf_kind_bytes(gguf_kind kind)         { return kinds[kind].bytes; }
const char *gguf_kind_name(gguf_kind kind)  { return kinds[kind].name; }

/* ---- one number, wherever it stands ---------------------------------------- */

static bool load_int(const uint8_t *p, gguf_kind kind, int64_t *out)
{
    uint64_t u = 0;
    for (int i = 0; i < kinds[kind].bytes; i++) u |= (uint64_t)p[i] << 8 * i;

    switch (kind) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: *out = (int64_t)u; return true;
    case GGUF_I8:  *out = (int8_t)u;  return true;
    case GGUF_I16: *out = (int16_t)u; return true;
    case GGUF_I32: *out = (int32_t)u; return true;
    case GGUF_I64: *out = (int64_t)u; return true;
    case GGUF_U64: *out = (int64_t)u; return u <= INT64_MAX;
    default:       return false;
    }
}

static bool load_float(const uint8_t *p, gguf_kind kind, double *out)
{
    int64_t whole;
    if (kind == GGUF_F32) {
        const uint32_t bits = gguf_load_u32(p);
        float f;
        memcpy(&f, &bits, sizeof f);
        *out = f;
    } else if (kind == GGUF_F64) {
        const uint64_t bits = gguf_load_u64(p);
        memcpy(out, &bits, sizeof *out);
    } else if (load_int(p, kind, &whole)) {
        *out = (double)whole;
    } else {
        return false;
    }
    return *out - *out == 0.0;
}

bool gguf_value_int(const gguf_value *v, int64_t *out)
{
    return load_int(v->data, v->kind, out);
}

/* ---- by key ------------------------------------------------------------------- */

static ds4_status find(const gguf *g, const char *key, const gguf_value **v, ds4_error *err)
{
    *v = gguf_find(g, key);
    if (*v) return DS4_OK;
    return ds4_fail(err, DS4_ENOTFOUND, "%s: key %s is missing", gguf_shard_path(g, 0), key);
}

static ds4_status wrong(const gguf *g, const gguf_value *v, const char *key, const char *expected,
                        ds4_error *err)
{
    return ds4_fail(err, DS4_EFORMAT, "%s: key %s is %s, expected %s", gguf_shard_path(g, 0), key,
                    kinds[v->kind].name, expected);
}

ds4_status gguf_get_int(const gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out,
                        ds4_error *err)
{
    const gguf_value *v;
    int64_t x;
    const ds4_status st = find(g, key, &v, err);
    if (st) return st;
    if (!gguf_value_int(v, &x)) {
        if (v->kind != GGUF_U64) return wrong(g, v, key, "an integer", err);
        return ds4_fail(err, DS4_EFORMAT, "%s: key %s is beyond 2^63", gguf_shard_path(g, 0), key);
    }
    if (x < lo || x > hi)
        return ds4_fail(err, DS4_EFORMAT, "%s: key %s is %lld, expected %lld to %lld",
                        gguf_shard_path(g, 0), key, (long long)x, (long long)lo, (long long)hi);
    *out = x;
    return DS4_OK;
}

ds4_status gguf_get_float(const gguf *g, const char *key, double *out, ds4_error *err)
{
    const gguf_value *v;
    double x;
    const ds4_status st = find(g, key, &v, err);
    if (st) return st;
    if (!load_float(v->data, v->kind, &x)) {
        const bool number = v->kind == GGUF_F32 || v->kind == GGUF_F64 || v->kind == GGUF_U64;
        return wrong(g, v, key, number ? "a finite number" : "a number", err);
    }
    *out = x;
    return DS4_OK;
}

ds4_status gguf_get_bool(const gguf *g, const char *key, bool *out, ds4_error *err)
{
    const gguf_value *v;
    const ds4_status st = find(g, key, &v, err);
    if (st) return st;
    if (v->kind != GGUF_BOOL) return wrong(g, v, key, "bool", err);
    *out = v->data[0] != 0;
    return DS4_OK;
}

ds4_status gguf_get_string(const gguf *g, const char *key, slice *out, ds4_error *err)
{
    const gguf_value *v;
    const ds4_status st = find(g, key, &v, err);
    if (st) return st;
    if (v->kind != GGUF_STRING) return wrong(g, v, key, "a string", err);

    const slice text = { (const char *)v->data + 8, (size_t)(v->bytes - 8) };
    if (!utf8_valid(text.data, text.len))
        return ds4_fail(err, DS4_EFORMAT, "%s: key %s is not valid UTF-8", gguf_shard_path(g, 0), key);
    *out = text;
    return DS4_OK;
}

/* ---- arrays --------------------------------------------------------------------- */

ds4_status gguf_get_array(const gguf *g, const char *key, const gguf_value **out, ds4_error *err)
{
    const gguf_value *v;
    const ds4_status st = find(g, key, &v, err);
    if (st) return st;
    if (v->kind != GGUF_ARRAY) return wrong(g, v, key, "an array", err);
    if (v->count > GGUF_MAX_ELEMENTS)
        return ds4_fail(err, DS4_EFORMAT, "%s: key %s has %llu elements, the most is %d",
                        gguf_shard_path(g, 0), key, (unsigned long long)v->count, GGUF_MAX_ELEMENTS);
    *out = v;
    return DS4_OK;
}

static const uint8_t *element_at(const gguf_value *v, uint64_t i)
{
    if (v->kind != GGUF_ARRAY || i >= v->count) return NULL;
    return v->data + i * (uint64_t)kinds[v->element].bytes;
}

bool gguf_array_int(const gguf_value *v, uint64_t i, int64_t *out)
{
    const uint8_t *p = element_at(v, i);
    return p && load_int(p, v->element, out);
}

bool gguf_array_float(const gguf_value *v, uint64_t i, double *out)
{
    const uint8_t *p = element_at(v, i);
    return p && load_float(p, v->element, out);
}

bool gguf_array_string(const gguf_value *v, uint64_t *cursor, slice *out)
{
    if (v->kind != GGUF_ARRAY || v->element != GGUF_STRING || *cursor >= v->bytes) return false;

    /* The lengths were checked against the mapping when the file was opened. */
    const uint64_t len = gguf_load_u64(v->data + *cursor);
    const slice text = { (const char *)v->data + *cursor + 8, (size_t)len };
    if (!utf8_valid(text.data, text.len)) return false;
    *cursor += 8 + len;
    *out = text;
    return true;
}
