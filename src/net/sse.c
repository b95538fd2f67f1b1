#include "net/sse.h"

void sse_event(bytes *out, const char *name, slice data)
{
    if (name) {
        bytes_text(out, "event: ");
        bytes_text(out, name);
        bytes_text(out, "\n");
    }
    bytes_text(out, "data: ");
    bytes_append(out, data.data, data.len);
    bytes_text(out, "\n\n");
}

void sse_comment(bytes *out, const char *text)
{
    bytes_text(out, ": ");
    bytes_text(out, text);
    bytes_text(out, "\n\n");
}
