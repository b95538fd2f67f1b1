#include "text/utf8_repair.h"

#include <stdint.h>

#include "base/utf8.h"

void utf8_append_repaired(slice text, bytes *out)
{
    if (utf8_valid(text.data, text.len)) {
        bytes_append(out, text.data, text.len);
        return;
    }
    for (size_t at = 0; at < text.len;) {
        uint32_t cp;
        const size_t n = (size_t)utf8_next(text.data + at, text.len - at, &cp);
        if (cp == UTF8_INVALID) bytes_text(out, "\xEF\xBF\xBD");
        else bytes_append(out, text.data + at, n);
        at += n;
    }
}

void utf8_repair(bytes *b)
{
    bytes clean;
    if (b->failed || utf8_valid(b->data, b->len)) return;
    bytes_init(&clean, b->max);
    utf8_append_repaired((slice){ b->data, b->len }, &clean);
    bytes_free(b);
    *b = clean;
}
