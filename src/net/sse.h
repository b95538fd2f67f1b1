/* sse: server-sent events as bytes, and bytes as events [HTML, 9.2].
 *
 * Pure; the reader never allocates beyond the buffer it was given a limit for. */
#ifndef NET_SSE_H
#define NET_SSE_H

#include <stdbool.h>
#include "base/bytes.h"
#include "base/slice.h"

/* `event: NAME` (name NULL: none), `data: ...` and the empty line. data holds no newline. */
void sse_event(bytes *out, const char *name, slice data);
void sse_comment(bytes *out, const char *text);     /* ": text" and the empty line */

typedef struct {
    bytes line, event, data;
    bool  after_cr, has_data, begun;
} sse_reader;

void sse_reader_init(sse_reader *r, size_t max_event_bytes);
void sse_reader_free(sse_reader *r);
/* Calls `on_event` for each complete event (event empty: it has no name); slices are good during the
 * call. False: a line or an event is longer than the limit, or no memory; the stream can not go on. */
bool sse_reader_push(sse_reader *r, slice data, void (*on_event)(void *ctx, slice event, slice data), void *ctx);

#endif
