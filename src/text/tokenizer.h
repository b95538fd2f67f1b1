/* tokenizer: text to tokens and back (byte-level BPE of DeepSeek V3 and V4).
 *
 * Adds nothing: no BOS, no blanks, no normalisation. For every byte string x,
 * decode(encode(x)) == x, valid UTF-8 or not, with and without added tokens.
 * Keeps no state besides the vocabulary it is given, so any thread may call;
 * a token_list belongs to one thread. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "text/token_list.h"
#include "text/vocab.h"

/* Appends the tokens of `text` to out. parse_added: tokens of type control or user
 * that stand in the text become their ids (leftmost, then longest); text that came
 * from a user or a tool must be encoded without. DS4_EFULL: out's max is too small
 * (out->wanted tells); DS4_EMEMORY. */
ds4_status tokenizer_encode(const vocab *v, slice text, bool parse_added, token_list *out, ds4_error *err);

/* Appends the bytes of n tokens; those a user does not see (vocab_hidden) only when
 * show_control. DS4_EARG: an id is out of range; DS4_EFULL: out's limit;
 * DS4_EMEMORY. */
ds4_status tokenizer_decode(const vocab *v, const int32_t *ids, size_t n, bool show_control,
                            bytes *out, ds4_error *err);

#endif
