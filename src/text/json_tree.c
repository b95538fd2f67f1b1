#include "text/json_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"

/* ---- reading -------------------------------------------------------------- */

typedef struct {
    json_tree  *t;
    slice       text;
    size_t      pos;
    int         depth;
    uint32_t    max_values;
    ds4_status  status;
    const char *wrong;          /* what is wrong at pos */
} reader;

static bool refuse(reader *r, const char *wrong)
{
    r->status = DS4_EFORMAT;
    r->wrong = wrong;
    return false;
}

static int look(const reader *r)
{
    return r->pos < r->text.len ? (unsigned char)r->text.data[r->pos] : -1;
}

static void skip_blanks(reader *r)
{
    for (int c = look(r); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = look(r)) r->pos++;
}

static bool accept(reader *r, int c)
{
    if (look(r) != c) return false;
    r->pos++;
    return true;
}

/* A fresh node; 0: no memory. */
static uint32_t add_node(reader *r, json_tree_kind kind)
{
    json_tree *t = r->t;
    if (t->n > r->max_values) {
        refuse(r, "too many values");
        return 0;
    }
    if (t->n == t->cap) {
        size_t n_bytes = 0;
        const uint32_t cap = t->cap ? t->cap * 2 : 16;
        json_tree_node *nodes = NULL;
        if (cap > t->cap && checked_mul_size(cap, sizeof *nodes, &n_bytes)) nodes = realloc(t->nodes, n_bytes);
        if (!nodes) {
            r->status = DS4_EMEMORY;
            return 0;
        }
        t->nodes = nodes;
        t->cap = cap;
        if (t->n == 0) t->n = 1;        /* node 0 means none */
    }
    t->nodes[t->n] = (json_tree_node){ .kind = kind };
    return t->n++;
}

/* Four hexadecimal digits at pos; -1: they are not. */
static int32_t read_hex(reader *r)
{
    int32_t v = 0;
    for (int i = 0; i < 4; i++, r->pos++) {
        const int c = look(r);
        if (c >= '0' && c <= '9')      v = v * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') v = v * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') v = v * 16 + (c - 'A' + 10);
        else return -1;
    }
    return v;
}

/* The digits behind \u, and those of a second half where one follows. */
static bool read_unicode_escape(reader *r, uint32_t *cp)
{
    const int32_t high = read_hex(r);
    if (high < 0) return refuse(r, "four hexadecimal digits belong behind \\u");
    *cp = (uint32_t)high;
    if (high < 0xD800 || high > 0xDFFF) return true;

    *cp = 0xFFFD;
    if (high > 0xDBFF || r->text.len - r->pos < 6 || memcmp(r->text.data + r->pos, "\\u", 2) != 0) return true;
    const size_t second = r->pos;
    r->pos += 2;
    const int32_t low = read_hex(r);
    if (low >= 0xDC00 && low <= 0xDFFF) *cp = (uint32_t)(0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00));
    else r->pos = second;       /* a value of its own, or an error found there */
    return true;
}

static bool read_escape(reader *r, char *out, size_t *n)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const int c = look(r);
    const char *at = c > 0 ? strchr(names, c) : NULL;
    if (at) {
        r->pos++;
        out[(*n)++] = values[at - names];
        return true;
    }
    if (!accept(r, 'u')) return refuse(r, "no such escape");
    uint32_t cp;
    if (!read_unicode_escape(r, &cp)) return false;
    *n += (size_t)utf8_put(out + *n, cp);
    return true;
}

/* One raw character of a string. */
static bool read_raw(reader *r, char *out, size_t *n)
{
    uint32_t cp;
    const size_t len = (size_t)utf8_next(r->text.data + r->pos, r->text.len - r->pos, &cp);
    if (cp == UTF8_INVALID) return refuse(r, "not valid UTF-8");
    if (cp < 0x20) return refuse(r, "a control character stands in a string unescaped");
    memcpy(out + *n, r->text.data + r->pos, len);
    *n += len;
    r->pos += len;
    return true;
}

/* From the opening quote. Decoding never lengthens, so the room is there. */
static bool read_string(reader *r, slice *text)
{
    json_tree *t = r->t;
    if (!accept(r, '"')) return refuse(r, "a string was expected");
    char *out = t->strings + t->n_strings;
    size_t n = 0;
    while (!accept(r, '"')) {
        if (look(r) < 0) return refuse(r, "the string has no end");
        if (accept(r, '\\') ? !read_escape(r, out, &n) : !read_raw(r, out, &n)) return false;
    }
    *text = (slice){ out, n };
    t->n_strings += n;
    return true;
}

static bool read_digits(reader *r)
{
    const size_t start = r->pos;
    while (look(r) >= '0' && look(r) <= '9') r->pos++;
    return r->pos > start || refuse(r, "a digit was expected");
}

static bool read_number(reader *r, slice *text)
{
    const size_t start = r->pos;
    accept(r, '-');
    if (!accept(r, '0') && !read_digits(r)) return false;
    if (accept(r, '.') && !read_digits(r)) return false;
    if (accept(r, 'e') || accept(r, 'E')) {
        if (!accept(r, '+')) accept(r, '-');
        if (!read_digits(r)) return false;
    }
    *text = (slice){ r->text.data + start, r->pos - start };
    return true;
}

static bool read_word(reader *r, const char *word)
{
    const size_t len = strlen(word);
    if (r->text.len - r->pos < len || memcmp(r->text.data + r->pos, word, len) != 0) {
        return refuse(r, "a value was expected");
    }
    r->pos += len;
    return true;
}

/* ---- repeated keys -------------------------------------------------------- */

typedef struct {
    slice    key;
    uint32_t node;              /* nodes count upwards, so this is the order too */
} member;

static int by_key(const void *pa, const void *pb)
{
    const member *a = pa, *b = pb;
    const size_t n = min_size(a->key.len, b->key.len);
    const int order = n ? memcmp(a->key.data, b->key.data, n) : 0;
    if (order) return order;
    if (a->key.len != b->key.len) return a->key.len < b->key.len ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

/* The later of two equal keys gives its value to the earlier and becomes nameless
 * (node 0 in its parent's list). */
static void keep_last_values(json_tree *t, member *members, size_t n, uint32_t object)
{
    for (size_t i = 1, first = 0; i < n; i++) {
        if (!slice_equal(members[i].key, members[first].key)) {
            first = i;
            continue;
        }
        json_tree_node *keep = &t->nodes[members[first].node], *from = &t->nodes[members[i].node];
        keep->kind  = from->kind;
        keep->text  = from->text;
        keep->first = from->first;
        from->key.data = NULL;
    }
    for (uint32_t *link = &t->nodes[object].first; *link;) {
        if (t->nodes[*link].key.data) link = &t->nodes[*link].next;
        else *link = t->nodes[*link].next;
    }
}

static bool merge_repeated_keys(reader *r, uint32_t object, size_t n)
{
    json_tree *t = r->t;
    if (n < 2) return true;
    member *members = malloc(n * sizeof *members);
    if (!members) {
        r->status = DS4_EMEMORY;
        return false;
    }
    size_t i = 0;
    for (uint32_t c = t->nodes[object].first; c; c = t->nodes[c].next) {
        members[i++] = (member){ t->nodes[c].key, c };
    }
    qsort(members, n, sizeof *members, by_key);
    keep_last_values(t, members, n, object);
    free(members);
    return true;
}

/* ---- values --------------------------------------------------------------- */

static uint32_t read_value(reader *r);

static bool read_member_key(reader *r, slice *key)
{
    if (!read_string(r, key)) return false;
    skip_blanks(r);
    if (!accept(r, ':')) return refuse(r, "':' was expected");
    skip_blanks(r);
    return true;
}

/* Children up to the closing bracket; `parent` is an array or an object. */
static bool read_children(reader *r, uint32_t parent, bool object)
{
    const char close = object ? '}' : ']';
    uint32_t last = 0;
    size_t n = 0;
    skip_blanks(r);
    if (accept(r, close)) return true;
    do {
        slice key = { .len = 0 };
        skip_blanks(r);
        if (object && !read_member_key(r, &key)) return false;
        const uint32_t child = read_value(r);
        if (!child) return false;
        r->t->nodes[child].key = key;
        if (last) r->t->nodes[last].next = child;
        else r->t->nodes[parent].first = child;
        last = child;
        n++;
        skip_blanks(r);
    } while (accept(r, ','));
    if (!accept(r, close)) return refuse(r, object ? "',' or '}' was expected" : "',' or ']' was expected");
    return !object || merge_repeated_keys(r, parent, n);
}

static uint32_t read_container(reader *r, bool object)
{
    const uint32_t node = add_node(r, object ? JSON_TREE_OBJECT : JSON_TREE_ARRAY);
    if (!node) return 0;
    if (r->depth == JSON_TREE_DEPTH) {
        refuse(r, "nested too deeply");
        return 0;
    }
    r->depth++;
    r->pos++;
    if (!read_children(r, node, object)) return 0;
    r->depth--;
    return node;
}

static uint32_t read_scalar(reader *r)
{
    slice text = { .len = 0 };
    json_tree_kind kind;
    bool good;
    switch (look(r)) {
    case '"': kind = JSON_TREE_STRING; good = read_string(r, &text);  break;
    case 'n': kind = JSON_TREE_NULL;   good = read_word(r, "null");   break;
    case 't': kind = JSON_TREE_TRUE;   good = read_word(r, "true");   break;
    case 'f': kind = JSON_TREE_FALSE;  good = read_word(r, "false");  break;
    case '-': case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9':
              kind = JSON_TREE_NUMBER; good = read_number(r, &text);  break;
    default:  kind = JSON_TREE_NULL;   good = refuse(r, "a value was expected");
    }
    const uint32_t node = good ? add_node(r, kind) : 0;
    if (node) r->t->nodes[node].text = text;
    return node;
}

/* The node of the value at pos; 0: r->status tells. */
static uint32_t read_value(reader *r)
{
    const int c = look(r);
    return c == '{' || c == '[' ? read_container(r, c == '{') : read_scalar(r);
}

ds4_status json_tree_parse(json_tree *t, slice text, ds4_error *err)
{
    return json_tree_parse_bounded(t, text, UINT32_MAX, err);
}

ds4_status json_tree_parse_bounded(json_tree *t, slice text, uint32_t max_values, ds4_error *err)
{
    reader r = { .t = t, .text = text, .max_values = max_values };
    *t = (json_tree){ .nodes = NULL };
    t->strings = malloc(text.len ? text.len : 1);
    if (!t->strings) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu bytes of JSON", text.len);

    skip_blanks(&r);
    if (read_value(&r)) {
        skip_blanks(&r);
        if (look(&r) >= 0) refuse(&r, "something follows the value");
    }
    if (!r.status) return DS4_OK;
    json_tree_free(t);
    if (r.status == DS4_EMEMORY) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu bytes of JSON", text.len);
    return ds4_fail(err, r.status, "byte %zu: %s", r.pos, r.wrong);
}

void json_tree_free(json_tree *t)
{
    free(t->nodes);
    free(t->strings);
    *t = (json_tree){ .nodes = NULL };
}

uint32_t json_tree_find(const json_tree *t, uint32_t object, const char *key)
{
    if (t->nodes[object].kind != JSON_TREE_OBJECT) return 0;
    uint32_t child = t->nodes[object].first;
    while (child && !slice_is(t->nodes[child].key, key)) child = t->nodes[child].next;
    return child;
}

/* ---- comparing ------------------------------------------------------------ */

static double number_of(slice text)
{
    char copy[64];
    if (text.len >= sizeof copy) return 0;
    memcpy(copy, text.data, text.len);
    copy[text.len] = 0;
    return strtod(copy, NULL);
}

static bool equal_numbers(slice a, slice b)
{
    if (slice_equal(a, b)) return true;
    return a.len < 64 && b.len < 64 && number_of(a) == number_of(b);
}

static size_t count_children(const json_tree *t, uint32_t node)
{
    size_t n = 0;
    for (uint32_t c = t->nodes[node].first; c; c = t->nodes[c].next) n++;
    return n;
}

/* The children, members by key. Caller frees; NULL: no memory. */
static member *list_children(const json_tree *t, uint32_t node, size_t n)
{
    member *list = malloc((n ? n : 1) * sizeof *list);
    if (!list) return NULL;
    size_t i = 0;
    for (uint32_t c = t->nodes[node].first; c; c = t->nodes[c].next) list[i++] = (member){ t->nodes[c].key, c };
    if (t->nodes[node].kind == JSON_TREE_OBJECT) qsort(list, n, sizeof *list, by_key);
    return list;
}

static bool equal_children(const json_tree *a, uint32_t at_a, const json_tree *b, uint32_t at_b)
{
    const size_t n = count_children(a, at_a);
    if (count_children(b, at_b) != n) return false;
    member *list_a = list_children(a, at_a, n), *list_b = list_children(b, at_b, n);
    bool equal = list_a && list_b;
    for (size_t i = 0; i < n && equal; i++) {
        equal = slice_equal(list_a[i].key, list_b[i].key) && json_tree_equal(a, list_a[i].node, b, list_b[i].node);
    }
    free(list_a);
    free(list_b);
    return equal;
}

bool json_tree_equal(const json_tree *a, uint32_t at_a, const json_tree *b, uint32_t at_b)
{
    const json_tree_node *x = &a->nodes[at_a], *y = &b->nodes[at_b];
    if (x->kind != y->kind) return false;
    switch (x->kind) {
    case JSON_TREE_NUMBER: return equal_numbers(x->text, y->text);
    case JSON_TREE_STRING: return slice_equal(x->text, y->text);
    case JSON_TREE_ARRAY:
    case JSON_TREE_OBJECT: return equal_children(a, at_a, b, at_b);
    default:               return true;
    }
}

/* ---- writing -------------------------------------------------------------- */

static void write_escape(unsigned char c, bytes *out)
{
    switch (c) {
    case '"':  bytes_text(out, "\\\""); break;
    case '\\': bytes_text(out, "\\\\"); break;
    case '\n': bytes_text(out, "\\n");  break;
    case '\r': bytes_text(out, "\\r");  break;
    case '\t': bytes_text(out, "\\t");  break;
    case '\b': bytes_text(out, "\\b");  break;
    case '\f': bytes_text(out, "\\f");  break;
    default:   bytes_printf(out, "\\u%04x", c);
    }
}

void json_tree_escape(slice text, bytes *out)
{
    size_t done = 0;
    for (size_t i = 0; i < text.len; i++) {
        const unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        bytes_append(out, text.data + done, i - done);
        write_escape(c, out);
        done = i + 1;
    }
    if (done < text.len) bytes_append(out, text.data + done, text.len - done);
}

void json_tree_write_string(slice text, bytes *out)
{
    bytes_char(out, '"');
    json_tree_escape(text, out);
    bytes_char(out, '"');
}

static void write_value(const json_tree *t, uint32_t node, const char *blank, bytes *out);

/* `blank` follows commas and colons. */
static void write_children(const json_tree *t, const json_tree_node *parent, const char *blank, bytes *out)
{
    for (uint32_t c = parent->first; c; c = t->nodes[c].next) {
        if (c != parent->first) {
            bytes_char(out, ',');
            bytes_text(out, blank);
        }
        if (parent->kind == JSON_TREE_OBJECT) {
            json_tree_write_string(t->nodes[c].key, out);
            bytes_char(out, ':');
            bytes_text(out, blank);
        }
        write_value(t, c, blank, out);
    }
}

static void write_value(const json_tree *t, uint32_t node, const char *blank, bytes *out)
{
    const json_tree_node *v = &t->nodes[node];
    switch (v->kind) {
    case JSON_TREE_NULL:   bytes_text(out, "null");  break;
    case JSON_TREE_FALSE:  bytes_text(out, "false"); break;
    case JSON_TREE_TRUE:   bytes_text(out, "true");  break;
    case JSON_TREE_NUMBER: bytes_append(out, v->text.data, v->text.len); break;
    case JSON_TREE_STRING: json_tree_write_string(v->text, out); break;
    case JSON_TREE_ARRAY:
        bytes_char(out, '[');
        write_children(t, v, blank, out);
        bytes_char(out, ']');
        break;
    case JSON_TREE_OBJECT:
        bytes_char(out, '{');
        write_children(t, v, blank, out);
        bytes_char(out, '}');
        break;
    }
}

void json_tree_write(const json_tree *t, uint32_t node, bytes *out)
{
    write_value(t, node, " ", out);
}

void json_tree_write_compact(const json_tree *t, uint32_t node, bytes *out)
{
    write_value(t, node, "", out);
}
