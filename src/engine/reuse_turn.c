#include "engine/reuse_turn.h"

#include "base/checked.h"
#include "base/utf8.h"
#include "engine/prefix_key.h"

#define QUOTED_BYTES 80

turn_parts turn_parse(slice turn, const vocab *v)
{
    const special_tokens *special = vocab_special(v);
    const int32_t first = prefix_key_mark(turn, 0);
    turn_parts t = { .rest = turn };
    if (first == special->end_think) {
        t.rest = slice_behind(turn, PREFIX_KEY_MARK_BYTES);
    } else if (first == special->think) {
        const slice inside = slice_behind(turn, PREFIX_KEY_MARK_BYTES);
        const size_t end = prefix_key_find(inside, 0, special->end_think);
        t.think = true;
        t.closed = end < inside.len;
        t.reasoning = (slice){ inside.data, end };
        t.rest = t.closed ? slice_behind(inside, end + PREFIX_KEY_MARK_BYTES) : (slice){ NULL, 0 };
    }
    return t;
}

bool turn_text_open(turn_text *t, slice turn, const vocab *v)
{
    const turn_parts parts = turn_parse(turn, v);
    *t = (turn_text){ .think = parts.think, .closed = parts.closed };
    bytes_init(&t->reasoning, SIZE_MAX);
    bytes_init(&t->rest, SIZE_MAX);
    if (prefix_key_text(parts.reasoning, v, &t->reasoning, NULL) == DS4_OK
        && prefix_key_text(parts.rest, v, &t->rest, NULL) == DS4_OK) return true;
    turn_text_close(t);
    return false;
}

void turn_text_close(turn_text *t)
{
    bytes_free(&t->reasoning);
    bytes_free(&t->rest);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

slice turn_trimmed(slice text)
{
    while (text.len && is_blank(text.data[0])) text = slice_behind(text, 1);
    while (text.len && is_blank(text.data[text.len - 1])) text.len--;
    return text;
}

bool turn_is(slice whole, slice text, slice calls)
{
    whole = turn_trimmed(whole);
    calls = turn_trimmed(calls);
    if (calls.len > whole.len) return false;
    const slice end = slice_behind(whole, whole.len - calls.len);
    whole.len -= calls.len;
    return slice_equal(end, calls) && slice_equal(turn_trimmed(whole), turn_trimmed(text));
}

static void escape(slice text, bytes *out)
{
    while (text.len) {
        uint32_t cp;
        const int n = utf8_next(text.data, text.len, &cp);
        const unsigned char c = (unsigned char)text.data[0];
        if (c == '\n') bytes_text(out, "\\n");
        else if (c == '"' || c == '\\') bytes_printf(out, "\\%c", c);
        else if (cp == UTF8_INVALID || cp < 0x20 || (cp >= 0x7F && cp < 0xA0))
            for (int i = 0; i < n; i++) bytes_printf(out, "\\x%02x", (unsigned char)text.data[i]);
        else bytes_append(out, text.data, (size_t)n);
        text = slice_behind(text, (size_t)n);
    }
}

void turn_quote(slice key, size_t from, const vocab *v, bytes *out)
{
    bytes text;
    bytes_init(&text, SIZE_MAX);
    slice piece = slice_behind(key, min_size(from, key.len));
    piece.len = min_size(piece.len, 2 * QUOTED_BYTES);
    piece.len = prefix_key_common(piece, piece);            /* whole marks only */
    bytes_char(out, '"');
    if (prefix_key_text(piece, v, &text, NULL) == DS4_OK) {
        slice shown = { text.data, min_size(text.len, QUOTED_BYTES) };
        if (shown.len < text.len) shown.len -= (size_t)utf8_pending(shown.data, shown.len);
        escape(shown, out);
    }
    bytes_char(out, '"');
    bytes_free(&text);
}
