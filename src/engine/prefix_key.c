#include "engine/prefix_key.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/tokenizer.h"

#define MARK 0xFF

static bool is_mark_byte(slice key, size_t i)
{
    return (unsigned char)key.data[i] == MARK;
}

/* FFs in a row that end with byte i. */
static size_t run_to(slice key, size_t i)
{
    size_t n = 0;
    while (n <= i && is_mark_byte(key, i - n)) n++;
    return n;
}

/* Whether byte i, which is FF, begins a mark or a doubled FF: the FFs in front of it pair up. */
static bool begins(slice key, size_t i)
{
    return run_to(key, i) % 2 == 1;
}

/* ---- building -------------------------------------------------------------------------- */

void prefix_key_init(prefix_key *k)
{
    *k = (prefix_key){ .n = 0 };
    bytes_init(&k->data, SIZE_MAX);
}

void prefix_key_free(prefix_key *k)
{
    bytes_free(&k->data);
    free(k->end);
    prefix_key_init(k);
}

void prefix_key_cut(prefix_key *k, int n)
{
    if (n >= k->n) return;
    k->n = n;
    k->data.len = prefix_key_end(k, n);
}

static void append_mark(bytes *out, int32_t id)
{
    const unsigned char mark[PREFIX_KEY_MARK_BYTES] = {
        MARK, (unsigned char)(id >> 21 & 0x7F), (unsigned char)(id >> 14 & 0x7F), (unsigned char)(id >> 7 & 0x7F),
        (unsigned char)(id & 0x7F),
    };
    bytes_append(out, mark, sizeof mark);
}

static void append_text(bytes *out, slice text)
{
    while (text.len) {
        const char *ff = memchr(text.data, MARK, text.len);
        const size_t n = ff ? (size_t)(ff - text.data) + 1 : text.len;
        bytes_append(out, text.data, n);
        if (ff) bytes_char(out, (char)MARK);
        text = (slice){ text.data + n, text.len - n };
    }
}

static bool grow(prefix_key *k, int more)
{
    if (more <= k->cap - k->n) return true;
    const int want = max_int(k->n + more, k->cap > INT32_MAX / 2 ? INT32_MAX : k->cap * 2);
    size_t *end = realloc(k->end, (size_t)want * sizeof *end);
    if (!end) return false;
    k->end = end;
    k->cap = want;
    return true;
}

ds4_status prefix_key_push(prefix_key *k, const vocab *v, const int32_t *tokens, int n, ds4_error *err)
{
    const int before = k->n;
    if (n > INT32_MAX - k->n || !grow(k, n)) return ds4_fail(err, DS4_EMEMORY, "no memory for the key of %d tokens", n);
    for (int i = 0; i < n; i++) {
        size_t len;
        const char *text = vocab_bytes(v, tokens[i], &len);
        if (!text) {
            prefix_key_cut(k, before);
            return ds4_fail(err, DS4_EARG, "there is no token %d", (int)tokens[i]);
        }
        if (vocab_type(v, tokens[i]) == TOKEN_NORMAL) append_text(&k->data, (slice){ text, len });
        else append_mark(&k->data, tokens[i]);
        k->end[k->n++] = k->data.len;
    }
    if (!k->data.failed) return DS4_OK;
    k->data.failed = false;
    prefix_key_cut(k, before);
    return ds4_fail(err, DS4_EMEMORY, "no memory for the key of %d tokens", n);
}

int prefix_key_count(const prefix_key *k, size_t at)
{
    int lo = 0, hi = k->n;
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2;
        if (k->end[mid] <= at) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* ---- reading --------------------------------------------------------------------------- */

/* The id in the mark whose FF is byte `at`; -1: those are no digits. */
static int32_t id_at(slice key, size_t at)
{
    int32_t id = 0;
    if (key.len - at < PREFIX_KEY_MARK_BYTES) return -1;
    for (size_t i = 1; i < PREFIX_KEY_MARK_BYTES; i++) {
        const unsigned char digit = (unsigned char)key.data[at + i];
        if (digit > 0x7F) return -1;
        id = id << 7 | digit;
    }
    return id;
}

int32_t prefix_key_mark(slice key, size_t at)
{
    return at < key.len && is_mark_byte(key, at) && begins(key, at) ? id_at(key, at) : -1;
}

size_t prefix_key_find(slice key, size_t from, int32_t token)
{
    while (from < key.len) {
        const char *ff = memchr(key.data + from, MARK, key.len - from);
        if (!ff) return key.len;
        const size_t at = (size_t)(ff - key.data);
        const bool doubled = at + 1 < key.len && is_mark_byte(key, at + 1);
        if (!doubled && id_at(key, at) == token) return at;
        from = at + (doubled ? 2 : 1);
    }
    return key.len;
}

size_t prefix_key_find_back(slice key, size_t to, int32_t token)
{
    size_t end = key.len = min_size(to, key.len);
    while (end > 0) {
        const char *ff = memrchr(key.data, MARK, end);
        if (!ff) break;
        const size_t at = (size_t)(ff - key.data), run = run_to(key, at);
        if (run % 2 == 1 && id_at(key, at) == token) return at;
        end = at + 1 - run;
    }
    return SIZE_MAX;
}

/* The text up to the next mark, FFs single again; *at moves to the mark or the end. */
static void take_text(slice key, size_t *at, bytes *out)
{
    size_t i = *at;
    while (i < key.len) {
        const char *ff = memchr(key.data + i, MARK, key.len - i);
        const size_t n = ff ? (size_t)(ff - key.data) - i : key.len - i;
        bytes_append(out, key.data + i, n);
        i += n;
        if (i + 1 >= key.len || !is_mark_byte(key, i + 1)) break;
        bytes_char(out, (char)MARK);
        i += 2;
    }
    *at = i;
}

/* Where the mark or doubled FF begins that byte `at` would cut in two; `at` itself where it cuts none. */
static size_t whole_to(slice key, size_t at)
{
    for (size_t back = 1; back < PREFIX_KEY_MARK_BYTES && back <= at; back++) {
        if (is_mark_byte(key, at - back)) return begins(key, at - back) ? at - back : at;
    }
    return at;
}

static ds4_status bad_mark(size_t at, ds4_error *err)
{
    return ds4_fail(err, DS4_EARG, "byte %zu of a prefix key is no mark of a token", at);
}

ds4_status prefix_key_tokens(slice key, size_t from, const vocab *v, token_list *out, ds4_error *err)
{
    ds4_status st = DS4_OK;
    bytes text;
    if (from > key.len || whole_to(key, from) != from) return bad_mark(from, err);
    bytes_init(&text, SIZE_MAX);
    for (size_t at = from; at < key.len && !st; at += PREFIX_KEY_MARK_BYTES) {
        bytes_clear(&text);
        take_text(key, &at, &text);
        if (text.failed) st = ds4_fail(err, DS4_EMEMORY, "no memory for the text of a prompt");
        else if (text.len) st = tokenizer_encode(v, (slice){ text.data, text.len }, false, out, err);
        if (st || at == key.len) break;

        const int32_t id = prefix_key_mark(key, at);
        if (id < 0 || id >= vocab_size(v) || vocab_type(v, id) == TOKEN_NORMAL) st = bad_mark(at, err);
        else if (!token_list_push(out, id))
            st = ds4_fail(err, out->failed ? DS4_EMEMORY : DS4_EFULL, "no room for the tokens of a prompt");
    }
    bytes_free(&text);
    return st;
}

ds4_status prefix_key_text(slice key, const vocab *v, bytes *out, ds4_error *err)
{
    for (size_t at = 0; at < key.len; at += PREFIX_KEY_MARK_BYTES) {
        take_text(key, &at, out);
        if (at == key.len) break;
        size_t n;
        const int32_t id = prefix_key_mark(key, at);
        const char *spelled = id < 0 ? NULL : vocab_bytes(v, id, &n);
        if (!spelled) return bad_mark(at, err);
        bytes_append(out, spelled, n);
    }
    if (out->failed) return ds4_fail(err, DS4_EMEMORY, "no memory for the text of a prompt");
    return DS4_OK;
}

size_t prefix_key_common(slice a, slice b)
{
    const size_t n = min_size(a.len, b.len);
    size_t i = 0;
    while (i + 64 <= n && memcmp(a.data + i, b.data + i, 64) == 0) i += 64;
    while (i < n && a.data[i] == b.data[i]) i++;
    return whole_to(a, i);
}
