#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"

void log_line(const log_sink *sink, log_level level, const char *fmt, ...)
{
    if (!sink || !sink->line) return;

    char raw[1024], line[1024];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);

    size_t len = n < 0 ? 0 : (size_t)n;
    if (len >= sizeof raw) {
        len = sizeof raw - 1;
        len -= (size_t)utf8_pending(raw, len);
    }
    utf8_printable(line, sizeof line, raw, len);
    sink->line(sink->ctx, level, line);
}
