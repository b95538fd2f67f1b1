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

const char *ds4_status_name(ds4_status st)
{
    switch (st) {
    case DS4_OK:           return "success";
    case DS4_EARG:         return "invalid argument";
    case DS4_EMEMORY:      return "not enough memory";
    case DS4_EIO:          return "input or output error";
    case DS4_ENOTFOUND:    return "no such file";
    case DS4_EFORMAT:      return "malformed data";
    case DS4_EUNSUPPORTED: return "not supported";
    case DS4_EFULL:        return "limit reached";
    case DS4_EDEVICE:      return "device failed";
    case DS4_ECANCELLED:   return "cancelled";
    }
    return "unknown status";
}
