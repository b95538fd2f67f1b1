#include "base/status.h"

#include <stdarg.h>

#include "base/utf8.h"

ds4_status ds4_fail(ds4_error *err, ds4_status st, const char *fmt, ...)
{
    if (!err) return st;
    err->status = st;
    va_list args;
    va_start(args, fmt);
    utf8_vprintable(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return st;
}
