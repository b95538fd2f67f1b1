#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"

ds4_status ds4_fail(ds4_error *err, ds4_status st, const char *fmt, ...)
{
    if (!err) return st;

    /* Formatted aside first: an argument may be err->message itself. */
    char raw[1024];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);

    size_t len = n < 0 ? 0 : (size_t)n;
    if (len >= sizeof raw) {
        len = sizeof raw - 1;
        len -= (size_t)utf8_pending(raw, len);
    }
    err->status = st;
    utf8_printable(err->message, sizeof err->message, raw, len);
    return st;
}
