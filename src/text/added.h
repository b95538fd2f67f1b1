/* added: finding the added tokens (control and user-defined ones) in text.
 *
 * Owns a sorted list of their texts, whose bytes it borrows. Leftmost match first, at
 * one place the longest; literal, wherever they stand. Immutable; any thread. */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"

typedef struct {
    slice   text;           /* borrowed, not empty */
    int32_t id;
} added_token;

typedef struct added {
    added_token *tokens;    /* owned; sorted by text, no text twice */
    size_t       n;
    bool         first[256];/* some token begins with this byte     */
} added;

/* Takes `tokens` (malloc), in any order; of equal texts the lowest id stays. */
void    added_open(added *a, added_token *tokens, size_t n);
void    added_close(added *a);                      /* closes a zeroed one too */

/* The first token in data at or after *pos: sets *pos to where it begins. -1: none. */
int32_t added_find(const added *a, slice data, size_t *pos, size_t *len);

/* The token with exactly this text; -1: none. */
int32_t added_exact(const added *a, slice text);

#endif
