/* split: cutting text into the pieces within which merges work (pre-tokenizer of
 * DeepSeek V3 and V4).
 *
 * Three passes of regular expressions define it, each cutting out its matches and
 * keeping what is between them:
 *
 *   1  \p{N}{1,3}
 *   2  [一-龥぀-ゟ゠-ヿ]+
 *   3  [!-/:-@\[-`{-~][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
 *      | ?[\p{P}\p{S}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
 *
 * Here one walk does the same in linear time. The pieces joined are the text, for
 * any bytes: an invalid UTF-8 part counts as one character without a class. A
 * splitter is a plain value. */
#ifndef TEXT_SPLIT_H
#define TEXT_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include "base/slice.h"

typedef struct {
    slice  text;        /* borrowed                */
    size_t pos;         /* where the next piece is */
} splitter;

static inline splitter split_begin(slice text)
{
    return (splitter){ text, 0 };
}

/* The next piece, never empty; false at the end. */
bool split_next(splitter *s, slice *piece);

#endif
