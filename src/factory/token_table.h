/* token_table: a vocabulary as a GGUF file stores it.
 *
 * Strings in id order (base tokens spelled in the byte alphabet, added tokens
 * literal), a type for each, merges "left right" in rank order. Made from a
 * tokenizer.json or synthesised; owns all its strings. */
#ifndef FACTORY_TOKEN_TABLE_H
#define FACTORY_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/log.h"
#include "base/slice.h"
#include "ds4_status.h"

enum { TOKEN_TYPE_NORMAL = 1, TOKEN_TYPE_CONTROL = 3, TOKEN_TYPE_USER = 4, TOKEN_TYPE_UNUSED = 5 };

typedef struct {
    slice   *tokens;        /* [n_tokens] */
    int32_t *types;         /* [n_tokens] */
    slice   *merges;        /* [n_merges] */
    int      n_tokens, n_merges;
    int      bos, eos, pad; /* ids        */
    slice    chat_template; /* data NULL: none; kept for other readers of the file */
    char   **blocks;        /* [n_blocks] where the strings are */
    int      n_blocks;
    size_t   used;          /* bytes of the last block          */
} token_table;

/* Reads dir/tokenizer.json and, when there, dir/tokenizer_config.json (names of
 * the bos, eos and pad tokens, chat template). bos and eos: ids from config.json, or -1. The
 * vocabulary is filled up to n_tokens with unused tokens "[PAD<id>]". */
ds4_status token_table_read(token_table *t, const char *dir, int n_tokens, int bos, int eos, ds4_error *err);

/* n_tokens synthetic tokens: bos, eos, pad, the 256 bytes, syllables and words
 * made of them with a merge each, the markers of the chat format (at the
 * released ids when the vocabulary is as large, else at the end), unused ones.
 * DS4_EARG below 272 tokens. */
ds4_status token_table_synth(token_table *t, int n_tokens, ds4_error *err);

void token_table_free(token_table *t);

/* ---- for the makers ---- */

/* Room for n_tokens empty tokens (all NULL) and up to max_merges merges. */
ds4_status token_table_init(token_table *t, int n_tokens, size_t max_merges, ds4_error *err);
/* A copy that lives as long as the table; data NULL: no memory. */
slice token_table_copy(token_table *t, slice text);
/* Copies the text. false: no memory, or the id is taken (tokens[id].data tells). */
bool token_table_set(token_table *t, int id, slice text, int type);
bool token_table_merge(token_table *t, slice left, slice right);
/* Fills what is still empty. */
ds4_status token_table_fill(token_table *t, ds4_error *err);

#endif
