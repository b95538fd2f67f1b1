/* prefix_key: a timeline as bytes, in which equal bytes mean equal prompts.
 *
 * Base tokens are their bytes; a control or added token is a mark that no text can
 * contain, so text that quotes `<|User|>` never equals the token. Prefixes of timelines are
 * compared as keys: two tokenisations of one text have one key.
 *
 *   text byte        itself, FF as FF FF
 *   token `id`       FF, then the id in four digits of 7 bits, highest first
 *
 * Example: "a", byte FF, token 300:  61  FF FF  FF 00 00 02 2C
 * A digit is below 80, so an FF behind an even run of FF begins a mark or a doubled byte, wherever one
 * starts to read.
 *
 * Always true: end[i] is the key's length after token i. One thread. */
#ifndef ENGINE_PREFIX_KEY_H
#define ENGINE_PREFIX_KEY_H

#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "text/token_list.h"
#include "text/vocab.h"

#define PREFIX_KEY_MARK_BYTES 5

typedef struct {
    bytes   data;
    size_t *end;                /* owned, [n] */
    int     n, cap;
} prefix_key;

void       prefix_key_init(prefix_key *k);
void       prefix_key_free(prefix_key *k);
void       prefix_key_cut(prefix_key *k, int n);        /* keeps the first n tokens */
/* Appends all n tokens or, on failure, none. DS4_EARG: no such token; DS4_EMEMORY. */
ds4_status prefix_key_push(prefix_key *k, const vocab *v, const int32_t *tokens, int n, ds4_error *err);

static inline slice prefix_key_bytes(const prefix_key *k) { return (slice){ k->data.data, k->data.len }; }
/* Bytes of the first n tokens. */
static inline size_t prefix_key_end(const prefix_key *k, int n) { return n > 0 ? k->end[n - 1] : 0; }
/* The most tokens that lie within the first `at` bytes. */
int        prefix_key_count(const prefix_key *k, size_t at);

/* Tokens of the key bytes from `from` on: text runs are tokenised on their own, marks become their ids.
 * Appends. DS4_EARG: `from` splits a mark, or a mark names no token; DS4_EFULL, DS4_EMEMORY. */
ds4_status prefix_key_tokens(slice key, size_t from, const vocab *v, token_list *out, ds4_error *err);

/* As plain text, marks spelled out: what a checkpoint's name hashes. Appends. */
ds4_status prefix_key_text(slice key, const vocab *v, bytes *out, ds4_error *err);

size_t     prefix_key_common(slice a, slice b);         /* bytes that are equal; never half a mark */

/* The token whose mark begins at `at`; -1: none does. */
int32_t    prefix_key_mark(slice key, size_t at);
/* Where the first mark of this token at or behind `from`, which splits no mark, begins; key.len: nowhere. */
size_t     prefix_key_find(slice key, size_t from, int32_t token);
/* The same backwards: the last one that ends at or before `to`; SIZE_MAX: nowhere. */
size_t     prefix_key_find_back(slice key, size_t to, int32_t token);

#endif
