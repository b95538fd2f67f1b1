#include "net/sse.h"

/* ---- writing --------------------------------------------------------------- */

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

/* ---- reading --------------------------------------------------------------- */

typedef void event_fn(void *ctx, slice event, slice data);

void sse_reader_init(sse_reader *r, size_t max_event_bytes)
{
    *r = (sse_reader){ .after_cr = false };
    bytes_init(&r->line, max_event_bytes);
    bytes_init(&r->event, max_event_bytes);
    bytes_init(&r->data, max_event_bytes);
}

void sse_reader_free(sse_reader *r)
{
    bytes_free(&r->line);
    bytes_free(&r->event);
    bytes_free(&r->data);
}

static void dispatch(sse_reader *r, event_fn *on_event, void *ctx)
{
    if (r->has_data) on_event(ctx, (slice){ r->event.data, r->event.len }, (slice){ r->data.data, r->data.len });
    bytes_clear(&r->event);
    bytes_clear(&r->data);
    r->has_data = false;
}

/* Lines of data are joined by newlines; of an event's names the last one holds. */
static void field(sse_reader *r, slice name, slice value)
{
    if (slice_is(name, "data")) {
        if (r->has_data) bytes_char(&r->data, '\n');
        bytes_append(&r->data, value.data, value.len);
        r->has_data = true;
    } else if (slice_is(name, "event")) {
        bytes_clear(&r->event);
        bytes_append(&r->event, value.data, value.len);
    }
}

static void whole_line(sse_reader *r, event_fn *on_event, void *ctx)
{
    static const char byte_order_mark[] = "\xEF\xBB\xBF";
    slice line = { r->line.data, r->line.len };
    if (!r->begun && line.len >= 3 && memcmp(line.data, byte_order_mark, 3) == 0) {
        line.data += 3;
        line.len -= 3;
    }
    r->begun = true;
    if (!line.len) {
        dispatch(r, on_event, ctx);
        return;
    }
    const char *colon = memchr(line.data, ':', line.len);
    const slice name = { line.data, colon ? (size_t)(colon - line.data) : line.len };
    slice value = { name.data + name.len, 0 };
    if (colon) value = (slice){ colon + 1, line.len - name.len - 1 };
    if (value.len && value.data[0] == ' ') {
        value.data++;
        value.len--;
    }
    field(r, name, value);
}

static bool failed(const sse_reader *r)
{
    return r->line.failed || r->event.failed || r->data.failed;
}

bool sse_reader_push(sse_reader *r, slice data, event_fn *on_event, void *ctx)
{
    size_t i = 0;
    while (i < data.len && !failed(r)) {
        if (r->after_cr && data.data[i] == '\n') i++;       /* CR LF is one end of a line */
        r->after_cr = false;

        const size_t from = i;
        while (i < data.len && data.data[i] != '\n' && data.data[i] != '\r') i++;
        bytes_append(&r->line, data.data + from, i - from);
        if (i < data.len && !r->line.failed) {
            r->after_cr = data.data[i++] == '\r';
            whole_line(r, on_event, ctx);
            bytes_clear(&r->line);
        }
    }
    return !failed(r);
}
