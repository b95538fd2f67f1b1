#include "api/reader.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/utf8.h"

/* ---- memory --------------------------------------------------------------------------------- */

enum { BLOCK_BYTES = 16 * 1024, ALIGN = 16 };

typedef struct block {
    struct block *next;
    size_t        used, cap;        /* bytes of data */
    _Alignas(ALIGN) char data[];
} block;

typedef struct kept {
    struct kept *next;
    char        *strings;
} kept;

struct api_memory {
    block *blocks;                  /* the first is the one that is being filled */
    kept  *kept;                    /* decoded strings of trees                  */
    bool   failed;
};

api_memory *api_memory_new(void)
{
    return calloc(1, sizeof(api_memory));
}

void api_memory_free(api_memory *m)
{
    if (!m) return;
    for (kept *k = m->kept; k; k = k->next) free(k->strings);       /* k itself lies in a block */
    while (m->blocks) {
        block *next = m->blocks->next;
        free(m->blocks);
        m->blocks = next;
    }
    free(m);
}

bool api_memory_failed(const api_memory *m)
{
    return m->failed;
}

/* A large piece gets a block of its own behind the first, which stays in use. */
static void *take_bytes(api_memory *m, size_t n)
{
    block *b = m->blocks;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (b && n <= b->cap - b->used) {
        void *at = b->data + b->used;
        b->used += n;
        return at;
    }
    const bool large = n > BLOCK_BYTES / 4;
    const size_t cap = large ? n : BLOCK_BYTES;
    block *fresh = calloc(1, sizeof *fresh + cap);
    if (!fresh) return NULL;
    *fresh = (block){ .used = n, .cap = cap };
    if (large && b) {
        fresh->next = b->next;
        b->next = fresh;
    } else {
        fresh->next = b;
        m->blocks = fresh;
    }
    return fresh->data;
}

void *api_take(api_memory *m, size_t n, size_t item_bytes)
{
    size_t total;
    void *at = NULL;
    if (checked_mul_size(n, item_bytes, &total) && total < PTRDIFF_MAX / 2) at = take_bytes(m, total ? total : 1);
    if (!at) m->failed = true;
    return at;
}

slice api_copy(api_memory *m, slice text)
{
    char *at = api_take(m, text.len + 1, 1);
    if (!at) return (slice){ "", 0 };
    if (text.len) memcpy(at, text.data, text.len);
    return (slice){ at, text.len };
}

void *api_grow(api_memory *m, void *items, int n, int *cap, size_t item_bytes)
{
    if (n < *cap) return items;
    const int wanted = *cap ? *cap * 2 : 8;
    void *larger = api_take(m, (size_t)wanted, item_bytes);
    if (!larger) return NULL;
    if (n) memcpy(larger, items, (size_t)n * item_bytes);
    *cap = wanted;
    return larger;
}

void api_keep_strings(api_memory *m, json_tree *t)
{
    kept *k = api_take(m, 1, sizeof *k);
    if (k) {
        *k = (kept){ m->kept, t->strings };
        m->kept = k;
        t->strings = NULL;
    }
    json_tree_free(t);
}

/* ---- numbers -------------------------------------------------------------------------------- */

/* The value of a JSON number token of any length. Digits beyond the 40th can not matter, so a
 * token of megabytes costs one pass and no memory. */
static double number_value(slice token)
{
    char text[80];
    int n = 0, digits = 0;
    int64_t scale = 0;                          /* decimal exponent of the kept digits */
    bool fraction = false;
    size_t i = 0;
    if (token.len && token.data[0] == '-') text[n++] = token.data[i++];
    for (; i < token.len && token.data[i] != 'e' && token.data[i] != 'E'; i++) {
        const char c = token.data[i];
        if (c == '.') {
            fraction = true;
            continue;
        }
        const bool leading_zero = digits == 0 && c == '0';
        if (!leading_zero && digits < 40) {
            text[n++] = c;
            digits++;
            if (fraction) scale--;
        } else if (leading_zero ? fraction : !fraction) {
            scale += leading_zero ? -1 : 1;
        }
    }
    if (!digits) return 0;
    if (i < token.len) {
        const bool negative = ++i < token.len && token.data[i] == '-';
        int64_t exponent = 0;
        if (negative || (i < token.len && token.data[i] == '+')) i++;
        for (; i < token.len && exponent < INT32_MAX; i++) exponent = exponent * 10 + (token.data[i] - '0');
        scale += negative ? -exponent : exponent;
    }
    snprintf(text + n, sizeof text - (size_t)n, "e%" PRId64, scale);
    return strtod(text, NULL);
}

/* ---- the body ------------------------------------------------------------------------------- */

static bool numbers_are_finite(const json_tree *t, slice body, api_error *e)
{
    for (uint32_t i = 1; i < t->n; i++) {
        if (t->nodes[i].kind != JSON_TREE_NUMBER || isfinite(number_value(t->nodes[i].text))) continue;
        return api_refuse(e, 400, "invalid_request_error", NULL, NULL,
                          "The body holds a number beyond the range of a double at byte %zu.",
                          (size_t)(t->nodes[i].text.data - body.data));
    }
    return true;
}

bool api_read_body(json_tree *t, slice body, api_error *e)
{
    ds4_error err;
    const ds4_status st = json_tree_parse_bounded(t, body, API_MAX_VALUES, &err);
    if (st == DS4_EMEMORY) return api_refuse_failed(e, "There is no memory for this request.");
    if (st) {
        return api_refuse(e, 400, "invalid_request_error", NULL, NULL, "The body is not valid JSON: %s.", err.message);
    }
    const bool good = t->nodes[1].kind == JSON_TREE_OBJECT
        ? numbers_are_finite(t, body, e)
        : api_refuse(e, 400, "invalid_request_error", NULL, NULL, "The body is JSON, but not an object.");
    if (!good) json_tree_free(t);
    return good;
}

api_value api_body(void)
{
    return (api_value){ .node = 1, .index = -1 };
}

/* ---- walking -------------------------------------------------------------------------------- */

static const json_tree_node *node_of(const api_reader *rd, const api_value *v)
{
    static const json_tree_node absent = { .kind = JSON_TREE_NULL };
    return v->node ? &rd->tree->nodes[v->node] : &absent;
}

api_value api_field(const api_reader *rd, const api_value *object, const char *name)
{
    const uint32_t node = object->node ? json_tree_find(rd->tree, object->node, name) : 0;
    return (api_value){ .up = object, .name = name, .node = node, .index = -1 };
}

api_value api_first(const api_reader *rd, const api_value *container)
{
    const json_tree_node *n = node_of(rd, container);
    return (api_value){ .up = container, .node = n->first, .index = n->kind == JSON_TREE_ARRAY ? 0 : -1 };
}

api_value api_after(const api_reader *rd, api_value child)
{
    child.node = rd->tree->nodes[child.node].next;
    if (child.index >= 0) child.index++;
    return child;
}

int api_count(const api_reader *rd, const api_value *container)
{
    int n = 0;
    for (uint32_t c = node_of(rd, container)->first; c; c = rd->tree->nodes[c].next) n++;
    return n;
}

slice api_key(const api_reader *rd, const api_value *member)
{
    return node_of(rd, member)->key;
}

json_tree_kind api_kind(const api_reader *rd, const api_value *v)
{
    return node_of(rd, v)->kind;
}

bool api_given(const api_reader *rd, const api_value *v)
{
    return api_kind(rd, v) != JSON_TREE_NULL;
}

bool api_is_string(const api_reader *rd, const api_value *v) { return api_kind(rd, v) == JSON_TREE_STRING; }
bool api_is_array(const api_reader *rd, const api_value *v)  { return api_kind(rd, v) == JSON_TREE_ARRAY; }
bool api_is_object(const api_reader *rd, const api_value *v) { return api_kind(rd, v) == JSON_TREE_OBJECT; }

slice api_raw(const api_reader *rd, const api_value *v)
{
    return node_of(rd, v)->text;
}

/* ---- refusals with a path ------------------------------------------------------------------- */

int api_shown(slice text, int max)
{
    if (text.len <= (size_t)max) return (int)text.len;
    return max - utf8_pending(text.data, (size_t)max);
}

static void write_path(const api_reader *rd, const api_value *v, bytes *out)
{
    if (!v->up) return;
    write_path(rd, v->up, out);
    if (v->index >= 0) {
        bytes_printf(out, "[%d]", v->index);
        return;
    }
    if (out->len) bytes_char(out, '.');
    const slice key = v->name ? slice_of(v->name) : api_key(rd, v);
    bytes_append(out, key.data, (size_t)api_shown(key, 64));
}

bool api_wrong(const api_reader *rd, const api_value *v, const char *fmt, ...)
{
    char sentence[400];
    bytes path;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, ap);
    va_end(ap);

    bytes_init(&path, 4096);
    write_path(rd, v, &path);
    if (!path.len) return api_refuse(rd->error, 400, "invalid_request_error", NULL, NULL, "%s", sentence);
    api_refuse(rd->error, 400, "invalid_request_error", NULL, path.data, "%s: %s", path.data, sentence);
    bytes_free(&path);
    return false;
}

/* ---- typed fields --------------------------------------------------------------------------- */

bool api_need_string(const api_reader *rd, const api_value *v, slice *out)
{
    if (!v->node) return api_wrong(rd, v, "this field is required");
    if (!api_is_string(rd, v)) return api_wrong(rd, v, "a string is expected");
    *out = api_raw(rd, v);
    return true;
}

bool api_need_array(const api_reader *rd, const api_value *v)
{
    if (!v->node) return api_wrong(rd, v, "this field is required");
    return api_is_array(rd, v) || api_wrong(rd, v, "an array is expected");
}

bool api_need_object(const api_reader *rd, const api_value *v)
{
    if (!v->node) return api_wrong(rd, v, "this field is required");
    return api_is_object(rd, v) || api_wrong(rd, v, "an object is expected");
}

bool api_to_number(const api_reader *rd, const api_value *v, double min, double max, double *out)
{
    if (api_kind(rd, v) != JSON_TREE_NUMBER) return api_wrong(rd, v, "a number is expected");
    const double x = number_value(api_raw(rd, v));
    if (!(x >= min && x <= max)) return api_wrong(rd, v, "a number from %g to %g is expected", min, max);
    *out = x;
    return true;
}

/* Digits alone are read exactly; 1.0 and 1e3 count as whole too. */
static bool whole_number(slice token, int64_t *out)
{
    const bool negative = token.len && token.data[0] == '-';
    uint64_t v = 0;
    for (size_t i = negative; i < token.len; i++) {
        const unsigned digit = (unsigned)(token.data[i] - '0');
        if (digit > 9 || v > (UINT64_MAX - digit) / 10) {
            const double x = number_value(token);
            if (x != floor(x) || fabs(x) > 9007199254740992.0) return false;
            *out = (int64_t)x;
            return true;
        }
        v = v * 10 + digit;
    }
    if (v > (uint64_t)INT64_MAX) return false;
    *out = negative ? -(int64_t)v : (int64_t)v;
    return true;
}

bool api_to_int(const api_reader *rd, const api_value *v, int64_t min, int64_t max, int64_t *out)
{
    int64_t x;
    if (api_kind(rd, v) != JSON_TREE_NUMBER) return api_wrong(rd, v, "an integer is expected");
    if (!whole_number(api_raw(rd, v), &x) || x < min || x > max) {
        return api_wrong(rd, v, "an integer from %" PRId64 " to %" PRId64 " is expected", min, max);
    }
    *out = x;
    return true;
}

bool api_get_string(const api_reader *rd, const api_value *object, const char *name, slice *out)
{
    const api_value v = api_field(rd, object, name);
    return !api_given(rd, &v) || api_need_string(rd, &v, out);
}

bool api_get_bool(const api_reader *rd, const api_value *object, const char *name, bool *out)
{
    const api_value v = api_field(rd, object, name);
    const json_tree_kind kind = api_kind(rd, &v);
    if (kind == JSON_TREE_NULL) return true;
    if (kind != JSON_TREE_TRUE && kind != JSON_TREE_FALSE) return api_wrong(rd, &v, "true or false is expected");
    *out = kind == JSON_TREE_TRUE;
    return true;
}

bool api_get_number(const api_reader *rd, const api_value *object, const char *name,
                    double min, double max, double *out)
{
    const api_value v = api_field(rd, object, name);
    return !api_given(rd, &v) || api_to_number(rd, &v, min, max, out);
}

bool api_get_int(const api_reader *rd, const api_value *object, const char *name,
                 int64_t min, int64_t max, int64_t *out)
{
    const api_value v = api_field(rd, object, name);
    return !api_given(rd, &v) || api_to_int(rd, &v, min, max, out);
}

slice api_json(const api_reader *rd, const api_value *v)
{
    bytes text;
    bytes_init(&text, SIZE_MAX);
    if (v->node) json_tree_write_compact(rd->tree, v->node, &text);
    if (text.failed) rd->memory->failed = true;
    const slice copy = api_copy(rd->memory, (slice){ text.data, text.len });
    bytes_free(&text);
    return copy;
}
