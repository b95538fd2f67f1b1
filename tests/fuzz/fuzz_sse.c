/* Any bytes, as an event stream: in one piece and byte by byte they are the same events, and
 * events of one line, written again, read the same. */
#include <stdint.h>
#include <stdlib.h>

#include "net/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    bytes log, stream;      /* what was read, and the same written again */
    bool  one_line;         /* all data: fit for the writer              */
} reading;

static void on_event(void *ctx, slice event, slice data)
{
    reading *r = ctx;
    bytes_append(&r->log, event.data, event.len);
    bytes_char(&r->log, 0);
    bytes_append(&r->log, data.data, data.len);
    bytes_char(&r->log, 0);
    if (data.len && memchr(data.data, '\n', data.len)) r->one_line = false;
    if (event.len && memchr(event.data, 0, event.len)) r->one_line = false;
    sse_event(&r->stream, event.len ? event.data : NULL, data);
}

static reading read_all(slice in, size_t step)
{
    sse_reader s;
    reading r = { .one_line = true };
    bytes_init(&r.log, SIZE_MAX);
    bytes_init(&r.stream, SIZE_MAX);
    sse_reader_init(&s, 4096);
    bool good = true;
    for (size_t i = 0; i < in.len && good; i += step)
        good = sse_reader_push(&s, (slice){ in.data + i, step < in.len - i ? step : in.len - i }, on_event, &r);
    if (!good) r.one_line = false;
    sse_reader_free(&s);
    return r;
}

static void free_reading(reading *r)
{
    bytes_free(&r->log);
    bytes_free(&r->stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const slice in = { (const char *)data, size };
    reading whole = read_all(in, size + 1), bytewise = read_all(in, 1);
    if (!slice_equal((slice){ whole.log.data, whole.log.len }, (slice){ bytewise.log.data, bytewise.log.len })) abort();
    if (whole.one_line) {
        reading again = read_all((slice){ whole.stream.data, whole.stream.len }, 7);
        if (!slice_equal((slice){ whole.log.data, whole.log.len }, (slice){ again.log.data, again.log.len })) abort();
        free_reading(&again);
    }
    free_reading(&whole);
    free_reading(&bytewise);
    return 0;
}
