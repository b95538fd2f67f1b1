/* prefix_key: a timeline as bytes, in which equal bytes mean equal prompts.
 *
 * Base tokens are their bytes; a control or added token is a mark that no text can
 * contain, so text that quotes `<|User|>` never equals the token. Prefixes of timelines are
 * compared as keys: two tokenisations of one text have one key.
 * Always true: end[i] is the key's length after token i. One thread. */
#ifndef ENGINE_PREFIX_KEY_H
#define ENGINE_PREFIX_KEY_H

#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "ds4_status.h"
#include "text/token_list.h"
#include "text/vocab.h"

typedef struct {
    bytes   data;
    size_t *end;                /* owned, [n] */
    int     n, cap;
} prefix_key;

void       prefix_key_init(prefix_key *k);
void       prefix_key_free(prefix_key *k);
void       prefix_key_cut(prefix_key *k, int n);        /* keeps the first n tokens */
ds4_status prefix_key_push(prefix_key *k, const vocab *v, const int32_t *tokens, int n, ds4_error *err);

/* Tokens of the key bytes from `from` on: text runs are tokenised on their own, marks become their ids. */
ds4_status prefix_key_tokens(slice key, size_t from, const vocab *v, token_list *out, ds4_error *err);

/* As plain text, marks spelled out: what a checkpoint's name hashes. Appends. */
ds4_status prefix_key_text(slice key, const vocab *v, bytes *out, ds4_error *err);

size_t     prefix_key_common(slice a, slice b);         /* bytes that are equal; never half a mark */

#endif
