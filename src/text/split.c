#include "text/split.h"

#include <stdint.h>

#include "base/utf8.h"
#include "text/unicode.h"

/* Every match of passes 1 and 2 is a maximal run of numbers (cut into threes) or of
 * CJK characters, so the text falls into segments by these two bits, and pass 3 sees
 * one segment at a time: its end is the end of text. Pass 1 goes first, but no number
 * is in the CJK ranges. */
#define SEGMENT_BITS (UNICODE_NUMBER | UNICODE_CJK)
#define WORD         (UNICODE_LETTER | UNICODE_MARK)
#define SIGN         (UNICODE_PUNCT | UNICODE_SYMBOL)

typedef struct {
    uint32_t cp;
    unsigned kind;      /* UNICODE_* bits                                 */
    unsigned len;       /* bytes; 0: the text or the segment ends here    */
} unit;

static inline unit unit_at(slice text, size_t pos)
{
    if (pos >= text.len) return (unit){ UTF8_INVALID, 0, 0 };
    const unsigned char b = (unsigned char)text.data[pos];
    if (b < 0x80) return (unit){ b, unicode_pages[0][b], 1 };

    unit u;
    u.len  = (unsigned)utf8_next(text.data + pos, text.len - pos, &u.cp);
    u.kind = unicode_class(u.cp);
    return u;
}

/* As unit_at, within a segment. */
static inline unit peek(slice text, size_t pos, unsigned segment)
{
    unit u = unit_at(text, pos);
    if ((u.kind & SEGMENT_BITS) != segment) u = (unit){ UTF8_INVALID, 0, 0 };
    return u;
}

/* End of the run of characters with a class in `kinds`. */
static size_t run_end(slice text, size_t pos, unsigned segment, unsigned kinds)
{
    for (;;) {
        const unit u = peek(text, pos, segment);
        if (!(u.kind & kinds)) return pos;
        pos += u.len;
    }
}

static bool is_break(uint32_t cp)
{
    return cp == '\r' || cp == '\n';
}

static bool is_ascii_letter(uint32_t cp)
{
    return cp < 0x80 && (unicode_pages[0][cp] & UNICODE_LETTER);
}

static size_t ascii_letters_end(slice text, size_t pos)
{
    while (pos < text.len && is_ascii_letter((unsigned char)text.data[pos])) pos++;
    return pos;
}

/* No line break is in the CJK ranges. */
static size_t breaks_end(slice text, size_t pos, unsigned segment)
{
    while (segment == 0 && pos < text.len && is_break((unsigned char)text.data[pos])) pos++;
    return pos;
}

/* White space at pos: up to and with the last line break of the run; without one the
 * whole run when it ends the segment, else all but its last character; at least one. */
static size_t space_end(slice text, size_t pos, unsigned segment)
{
    size_t after_break = 0, last = pos, end = pos;
    unit u;
    for (u = peek(text, end, segment); u.kind & UNICODE_SPACE; u = peek(text, end, segment)) {
        last = end;
        end += u.len;
        if (is_break(u.cp)) after_break = end;
    }
    if (after_break) return after_break;
    if (u.len == 0)  return end;
    return last > pos ? last : end;
}

/* End of the match of pass 3 that begins with c0 at pos; pos when there is none. The
 * order of the four cases is part of the definition. */
static size_t match_end(slice text, size_t pos, unsigned segment, unit c0)
{
    const size_t after = pos + c0.len;
    const unit   c1    = peek(text, after, segment);

    if (c0.cp < 0x80 && (c0.kind & SIGN) && is_ascii_letter(c1.cp)) {
        return ascii_letters_end(text, after);
    }
    if ((c0.kind & WORD) || (!(c0.kind & SIGN) && !is_break(c0.cp) && (c1.kind & WORD))) {
        return run_end(text, after, segment, WORD);
    }
    if ((c0.kind & SIGN) || (c0.cp == ' ' && (c1.kind & SIGN))) {
        return breaks_end(text, run_end(text, after, segment, SIGN), segment);
    }
    if (c0.kind & UNICODE_SPACE) return space_end(text, pos, segment);
    return pos;
}

/* One to three numbers. */
static size_t numbers_end(slice text, size_t pos)
{
    for (int i = 0; i < 3; i++) {
        const unit u = unit_at(text, pos);
        if (!(u.kind & UNICODE_NUMBER)) break;
        pos += u.len;
    }
    return pos;
}

/* The match at pos, or the unmatched text in front of the next match. */
static size_t piece_end(slice text, size_t pos)
{
    unit u = unit_at(text, pos);
    const unsigned segment = u.kind & SEGMENT_BITS;
    if (segment == UNICODE_NUMBER) return numbers_end(text, pos);

    size_t gap = pos;
    while (u.len > 0) {
        const size_t end = match_end(text, gap, segment, u);
        if (end > gap) return gap > pos ? gap : end;
        gap += u.len;
        u = peek(text, gap, segment);
    }
    return gap;
}

bool split_next(splitter *s, slice *piece)
{
    if (s->pos >= s->text.len) return false;
    const size_t end = piece_end(s->text, s->pos);
    *piece = (slice){ s->text.data + s->pos, end - s->pos };
    s->pos = end;
    return true;
}
