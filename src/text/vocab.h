/* vocab: the model's tokens as bytes, and how pieces of text become tokens.
 *
 * Owns the bytes and types of all tokens, the merge table and the matcher of
 * added tokens. Knows ids and bytes; knows nothing of models, prompts or files
 * beyond the tokenizer keys of a GGUF. Nothing in here assumes an id or a size:
 * control tokens are looked up by their text. Immutable once open, so any
 * thread may use it. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "gguf/gguf.h"

typedef struct vocab vocab;

/* tokenizer.ggml.token_type */
typedef enum {
    TOKEN_NORMAL  = 1,      /* base token, spelled in the byte alphabet in the file   */
    TOKEN_UNKNOWN = 2,      /* literal text, never made from text                     */
    TOKEN_CONTROL = 3,      /* added token: literal text, hidden from the user        */
    TOKEN_USER    = 4,      /* added token: literal text, shown                       */
    TOKEN_UNUSED  = 5       /* literal text, never made from text                     */
} token_type;

/* Ids of the tokens that carry the chat protocol. */
typedef struct {
    int32_t bos, eos, user, assistant, think, end_think, dsml;     /* every vocabulary has these */
    int32_t reminder;                                              /* -1: this one has not       */
} special_tokens;

/* Reads tokenizer.ggml.{model,pre,tokens,token_type,merges,*_token_id}. DS4_EFORMAT:
 * a key is missing or wrong, a byte has no token, a merge names a token that does not
 * exist, a control token the chat layer needs is missing; DS4_EUNSUPPORTED: another
 * kind of tokenizer. Keeps nothing of g. */
ds4_status vocab_open(vocab **out, const gguf *g, ds4_error *err);

/* The same from arrays, spelled as in the file (base tokens in the byte alphabet,
 * merges "left right" in rank order). Everything is copied. */
typedef struct {
    const slice   *tokens;      /* [n_tokens] in id order */
    const int32_t *types;       /* [n_tokens] token_type  */
    size_t         n_tokens;
    const slice   *merges;      /* [n_merges]             */
    size_t         n_merges;
} vocab_source;
ds4_status vocab_from_arrays(vocab **out, const vocab_source *source, ds4_error *err);

void vocab_close(vocab *v);                         /* NULL is fine */

int32_t    vocab_size(const vocab *v);              /* ids are [0, vocab_size) */
size_t     vocab_memory_bytes(const vocab *v);      /* all it has allocated    */
const special_tokens *vocab_special(const vocab *v);

/* The token with these bytes (text of an added token, raw bytes of a base token);
 * -1: none. Where several spell the same, the base token wins, then the lowest id. */
int32_t    vocab_find(const vocab *v, const char *data, size_t n);

/* Raw bytes of a token, not terminated, good until vocab_close; a base token may hold
 * half a character. An id out of range gives NULL and *n = 0. */
const char *vocab_bytes(const vocab *v, int32_t id, size_t *n);
token_type  vocab_type(const vocab *v, int32_t id); /* TOKEN_UNUSED when out of range   */

/* Tokens a user does not get to see: those of type control and the protocol tokens
 * above, whatever their type. Not DSML, which is a marker inside of text. */
bool       vocab_hidden(const vocab *v, int32_t id);

/* For the tokenizer: the merges, the matcher, and the token that the merges make of
 * this piece where it is proven to be just one (-1: unknown). */
const struct bpe   *vocab_bpe(const vocab *v);
const struct added *vocab_added(const vocab *v);
int32_t             vocab_whole(const vocab *v, slice piece);

#endif
