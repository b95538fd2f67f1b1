#include "base/log.h"

#include <stdarg.h>

#include "base/utf8.h"

void log_line(const log_sink *sink, log_level level, const char *fmt, ...)
{
    if (!sink || !sink->line) return;
    char line[1024];
    va_list args;
    va_start(args, fmt);
    utf8_vprintable(line, sizeof line, fmt, args);
    va_end(args);
    sink->line(sink->ctx, level, line);
}
