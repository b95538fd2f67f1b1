/* unicode: the character classes that cut text into pieces.
 *
 * General categories L, M, N, P, S and the property White_Space of Unicode 15.0,
 * plus the two ranges that the pre-tokenizer keeps apart. Constant tables; any thread. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stdint.h>

/* A code point has at most one of the first six, and none when it is a control,
 * format, private or unassigned one. */
enum {
    UNICODE_LETTER = 1,
    UNICODE_MARK   = 2,
    UNICODE_NUMBER = 4,
    UNICODE_PUNCT  = 8,
    UNICODE_SYMBOL = 16,
    UNICODE_SPACE  = 32,
    UNICODE_CJK    = 64     /* U+4E00..9FA5, U+3040..30FF: besides its class */
};

extern const uint8_t unicode_page_of[0x1100];   /* by code point / 256 */
extern const uint8_t unicode_pages[][256];

/* 0 for anything that is not a code point. */
static inline unsigned unicode_class(uint32_t cp)
{
    return cp < 0x110000 ? unicode_pages[unicode_page_of[cp >> 8]][cp & 255] : 0;
}

#endif
