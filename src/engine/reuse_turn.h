/* reuse_turn: an assistant turn inside of a key, and whether two spellings are one turn.
 *
 * Internal to reuse. A turn's bytes lie between its ASSISTANT token and its EOS (or the key's end);
 * what is inside is told by the marks. */
#ifndef ENGINE_REUSE_TURN_H
#define ENGINE_REUSE_TURN_H

#include <stdbool.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "text/vocab.h"

typedef struct {
    bool  think;            /* it begins with <think>                                          */
    bool  closed;           /* ... and </think> follows                                        */
    slice reasoning;        /* key bytes                                                       */
    slice rest;             /* text and calls; empty when reasoning was never closed           */
} turn_parts;
turn_parts turn_parse(slice turn, const vocab *v);

/* Both in plain text (prefix_key_text); parts that fail to convert are empty. */
typedef struct {
    bool  think, closed;
    bytes reasoning, rest;
} turn_text;
bool turn_text_open(turn_text *t, slice turn, const vocab *v);     /* false: no memory, or no key */
void turn_text_close(turn_text *t);

slice turn_trimmed(slice text);             /* without blanks and newlines at both ends */
static inline slice turn_bytes(const bytes *b) { return (slice){ b->data, b->len }; }

/* text, then the block `calls`, with any blanks around and between. */
bool  turn_is(slice whole, slice text, slice calls);

/* The key's bytes from `from`, at most some 80 characters of text, escaped and in quotes. */
void  turn_quote(slice key, size_t from, const vocab *v, bytes *out);

#endif
