#include "kernels/backend.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/status.h"

ds4_status queue_fail(queue *dev, ds4_status st, const char *fmt, ...)
{
    char text[sizeof dev->error.message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return ds4_fail(&dev->error, st, "%s", text);
}
