/* sse: server-sent events as bytes [HTML, 9.2]. */
#ifndef NET_SSE_H
#define NET_SSE_H

#include "base/bytes.h"
#include "base/slice.h"

/* `event: NAME` (name NULL: none), `data: ...` and the empty line. data holds no newline. */
void sse_event(bytes *out, const char *name, slice data);
void sse_comment(bytes *out, const char *text);     /* ": text" and the empty line */

#endif
