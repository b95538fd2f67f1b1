#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "text/added.h"
#include "text/alphabet.h"
#include "text/bpe.h"
#include "text/token_map.h"

/* A token's flag beside its type: BPE of its bytes gives the token itself. */
#define WHOLE 0x80

/* The published vocabulary's longest token has 128. */
#define MAX_TOKEN_BYTES 65536

struct vocab {
    int32_t        n;
    char          *data;        /* bytes of all tokens, one after the other   */
    uint32_t      *at;          /* [n + 1] token i is data[at[i]..at[i + 1])  */
    uint8_t       *kind;        /* [n] token_type, WHOLE                      */
    size_t         longest;
    token_map      map;
    bpe            merges;
    added          added;
    special_tokens special;
};

static bool is_added(token_type t)
{
    return t == TOKEN_CONTROL || t == TOKEN_USER;
}

/* ---- building ------------------------------------------------------------- */

/* Bytes spelled in the alphabet; never more than spelled.len of them. */
static bool unspell(slice spelled, char *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < spelled.len;) {
        uint32_t cp;
        i += (size_t)utf8_next(spelled.data + i, spelled.len - i, &cp);
        const int byte = alphabet_byte(cp);
        if (byte < 0) return false;
        out[(*n)++] = (char)byte;
    }
    return true;
}

/* Token i of the source to bytes at `out`. */
static ds4_status take_token(vocab *v, const vocab_source *source, size_t i, char *out, size_t *n,
                             ds4_error *err)
{
    const slice text = source->tokens[i];
    const int32_t type = source->types[i];
    if (type < TOKEN_NORMAL || type > TOKEN_UNUSED) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: token %zu has type %d; 1 to 5 are known", i, (int)type);
    }
    v->kind[i] = (uint8_t)type;
    if (text.len == 0 && (type == TOKEN_NORMAL || is_added((token_type)type))) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: token %zu is empty", i);
    }
    if (text.len > MAX_TOKEN_BYTES) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: token %zu has %zu bytes; %d are the most",
                        i, text.len, MAX_TOKEN_BYTES);
    }
    if (type == TOKEN_NORMAL) {
        if (!unspell(text, out, n)) {
            return ds4_fail(err, DS4_EFORMAT,
                            "vocabulary: token %zu (\"%.*s\") has a character that spells no byte",
                            i, (int)min_size(text.len, 64), text.data);
        }
        return DS4_OK;
    }
    if (!utf8_valid(text.data, text.len)) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: token %zu is not valid UTF-8", i);
    }
    if (text.len) memcpy(out, text.data, text.len);
    *n = text.len;
    return DS4_OK;
}

static ds4_status take_tokens(vocab *v, const vocab_source *source, ds4_error *err)
{
    uint64_t total = 0;
    if (source->n_tokens == 0 || source->n_tokens > 1u << 24) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: %zu tokens; 1 to 16777216 can be handled",
                        source->n_tokens);
    }
    for (size_t i = 0; i < source->n_tokens; i++) total += source->tokens[i].len;   /* lengths within a file */
    if (total > INT32_MAX) return ds4_fail(err, DS4_EFORMAT, "vocabulary: its tokens are longer than 2 GiB");

    v->n = (int32_t)source->n_tokens;
    v->data = malloc(total ? (size_t)total : 1);
    v->at = malloc((source->n_tokens + 1) * sizeof *v->at);
    v->kind = malloc(source->n_tokens);
    if (!v->data || !v->at || !v->kind) {
        return ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary of %zu tokens", source->n_tokens);
    }
    v->at[0] = 0;
    for (int32_t i = 0; i < v->n; i++) {
        size_t len = 0;
        const ds4_status st = take_token(v, source, (size_t)i, v->data + v->at[i], &len, err);
        if (st) return st;
        v->at[i + 1] = v->at[i] + (uint32_t)len;
        if (len > v->longest) v->longest = len;
    }
    return DS4_OK;
}

static slice token_text(const vocab *v, int32_t id)
{
    return (slice){ v->data + v->at[id], v->at[id + 1] - v->at[id] };
}

/* Base tokens go in first, so that they win where an added token spells the same. */
static ds4_status map_tokens(vocab *v, ds4_error *err)
{
    const ds4_status st = token_map_open(&v->map, v->data, v->at, (size_t)v->n, err);
    if (st) return st;
    for (int32_t i = 0; i < v->n; i++) if (v->kind[i] == TOKEN_NORMAL) token_map_add(&v->map, i);
    for (int32_t i = 0; i < v->n; i++) if (v->kind[i] != TOKEN_NORMAL) token_map_add(&v->map, i);
    return DS4_OK;
}

static int32_t find_base(const vocab *v, slice text)
{
    const int32_t id = token_map_find(&v->map, text);
    return id >= 0 && v->kind[id] == TOKEN_NORMAL ? id : -1;
}

static ds4_status find_byte_tokens(const vocab *v, int32_t byte_id[256], ds4_error *err)
{
    for (int b = 0; b < 256; b++) {
        const char byte = (char)b;
        byte_id[b] = find_base(v, (slice){ &byte, 1 });
        if (byte_id[b] < 0) return ds4_fail(err, DS4_EFORMAT, "vocabulary: no token for the byte 0x%02X", b);
    }
    return DS4_OK;
}

/* "left right": both sides and what they make together are base tokens. `raw` holds
 * the bytes of a merge. */
static ds4_status take_merge(vocab *v, size_t i, slice merge, char *raw, ds4_error *err)
{
    const char *blank = merge.len ? memchr(merge.data, ' ', merge.len) : NULL;
    const size_t left_len = blank ? (size_t)(blank - merge.data) : 0;
    size_t n_left = 0, n_right = 0;
    int32_t left = -1, right = -1, both = -1;
    if (blank
        && unspell((slice){ merge.data, left_len }, raw, &n_left)
        && unspell((slice){ blank + 1, merge.len - left_len - 1 }, raw + n_left, &n_right)) {
        left  = find_base(v, (slice){ raw, n_left });
        right = find_base(v, (slice){ raw + n_left, n_right });
        both  = find_base(v, (slice){ raw, n_left + n_right });
    }
    if (left < 0 || right < 0 || both < 0) {
        return ds4_fail(err, DS4_EFORMAT,
                        "vocabulary: merge %zu (\"%.*s\") is not of two tokens that make a third",
                        i, (int)min_size(merge.len, 64), merge.data);
    }
    bpe_add(&v->merges, left, right, both);
    return DS4_OK;
}

static ds4_status take_merges(vocab *v, const vocab_source *source, ds4_error *err)
{
    int32_t byte_id[256];
    size_t longest = 1;
    ds4_status st;
    if ((st = find_byte_tokens(v, byte_id, err))) return st;
    if (source->n_merges > 1u << 24) {
        return ds4_fail(err, DS4_EFORMAT, "vocabulary: %zu merges; 16777216 can be handled", source->n_merges);
    }
    if ((st = bpe_open(&v->merges, byte_id, source->n_merges, err))) return st;

    for (size_t i = 0; i < source->n_merges; i++) {
        if (source->merges[i].len > longest) longest = source->merges[i].len;
    }
    char *raw = malloc(longest);
    if (!raw) return ds4_fail(err, DS4_EMEMORY, "no memory to read merges");
    for (size_t i = 0; !st && i < source->n_merges; i++) st = take_merge(v, i, source->merges[i], raw, err);
    free(raw);
    return st;
}

/* Marks the base tokens that the merges rebuild from their own bytes: a piece equal to
 * one of these needs no merging. In the published vocabulary all of them do. */
static ds4_status prove_whole_tokens(vocab *v, ds4_error *err)
{
    ds4_status st = DS4_OK;
    bpe_work work = { .nodes = NULL };
    token_list made;
    token_list_init(&made, 2);
    for (int32_t i = 0; !st && i < v->n; i++) {
        if (v->kind[i] != TOKEN_NORMAL) continue;
        token_list_clear(&made);
        st = bpe_encode(&v->merges, &work, token_text(v, i), &made, err);
        if (made.failed) st = ds4_fail(err, DS4_EMEMORY, "no memory to check the vocabulary");
        if (!st && made.wanted == 1 && made.ids[0] == i) v->kind[i] |= WHOLE;
    }
    token_list_free(&made);
    bpe_work_free(&work);
    return st;
}

static ds4_status collect_added(vocab *v, ds4_error *err)
{
    size_t n = 0;
    for (int32_t i = 0; i < v->n; i++) n += is_added(vocab_type(v, i));
    added_token *tokens = malloc((n ? n : 1) * sizeof *tokens);
    if (!tokens) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu added tokens", n);

    n = 0;
    for (int32_t i = 0; i < v->n; i++) {
        if (is_added(vocab_type(v, i))) tokens[n++] = (added_token){ token_text(v, i), i };
    }
    added_open(&v->added, tokens, n);
    return DS4_OK;
}

static ds4_status find_special(vocab *v, ds4_error *err)
{
    special_tokens *s = &v->special;
    const struct { const char *text; int32_t *id; } required[] = {
        { "<｜begin▁of▁sentence｜>", &s->bos  },  { "<｜end▁of▁sentence｜>", &s->eos       },
        { "<｜User｜>",              &s->user },  { "<｜Assistant｜>",       &s->assistant },
        { "<think>",                 &s->think }, { "</think>",              &s->end_think },
        { "｜DSML｜",                &s->dsml },
    };
    for (size_t i = 0; i < countof(required); i++) {
        *required[i].id = added_exact(&v->added, slice_of(required[i].text));
        if (*required[i].id < 0) {
            return ds4_fail(err, DS4_EFORMAT, "vocabulary: no control or user-defined token %s; this is not "
                            "a DeepSeek V4 chat vocabulary", required[i].text);
        }
    }
    s->reminder = added_exact(&v->added, slice_of("<｜latest_reminder｜>"));
    return DS4_OK;
}

ds4_status vocab_from_arrays(vocab **out, const vocab_source *source, ds4_error *err)
{
    ds4_status st;
    *out = NULL;
    vocab *v = calloc(1, sizeof *v);
    if (!v) return ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary");

    if ((st = take_tokens(v, source, err))) goto fail;
    if ((st = map_tokens(v, err))) goto fail;
    if ((st = take_merges(v, source, err))) goto fail;
    if ((st = prove_whole_tokens(v, err))) goto fail;
    if ((st = collect_added(v, err))) goto fail;
    if ((st = find_special(v, err))) goto fail;
    *out = v;
    return DS4_OK;
fail:
    vocab_close(v);
    return st;
}

void vocab_close(vocab *v)
{
    if (!v) return;
    added_close(&v->added);
    bpe_close(&v->merges);
    token_map_close(&v->map);
    free(v->kind);
    free(v->at);
    free(v->data);
    free(v);
}

/* ---- asking --------------------------------------------------------------- */

int32_t vocab_size(const vocab *v)
{
    return v->n;
}

size_t vocab_memory_bytes(const vocab *v)
{
    const size_t n = (size_t)v->n;
    return sizeof *v + v->at[n] + (n + 1) * sizeof *v->at + n
         + v->map.n_slots * sizeof *v->map.slots
         + v->merges.n_slots * sizeof *v->merges.slots
         + v->added.n * sizeof *v->added.tokens;
}

const special_tokens *vocab_special(const vocab *v)
{
    return &v->special;
}

int32_t vocab_find(const vocab *v, const char *data, size_t n)
{
    return token_map_find(&v->map, (slice){ data, n });
}

int32_t vocab_whole(const vocab *v, slice piece)
{
    if (piece.len > v->longest) return -1;
    const int32_t id = token_map_find(&v->map, piece);
    return id >= 0 && (v->kind[id] & WHOLE) ? id : -1;
}

static bool in_range(const vocab *v, int32_t id)
{
    return id >= 0 && id < v->n;
}

const char *vocab_bytes(const vocab *v, int32_t id, size_t *n)
{
    *n = 0;
    if (!in_range(v, id)) return NULL;
    const slice text = token_text(v, id);
    *n = text.len;
    return text.data;
}

token_type vocab_type(const vocab *v, int32_t id)
{
    return in_range(v, id) ? (token_type)(v->kind[id] & ~WHOLE) : TOKEN_UNUSED;
}

bool vocab_hidden(const vocab *v, int32_t id)
{
    const special_tokens *s = &v->special;
    if (!in_range(v, id) || id == s->dsml) return false;
    return vocab_type(v, id) == TOKEN_CONTROL || id == s->bos || id == s->eos || id == s->user
        || id == s->assistant || id == s->think || id == s->end_think || id == s->reminder;
}

const bpe *vocab_bpe(const vocab *v)
{
    return &v->merges;
}

const added *vocab_added(const vocab *v)
{
    return &v->added;
}
