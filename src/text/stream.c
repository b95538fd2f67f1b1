#include "text/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "base/utf8.h"
#include "text/stop_filter.h"

struct stream {
    const vocab *v;
    bool         show_control, raw;
    char         pending[4];                    /* a character not yet complete */
    size_t       n_pending;
    stop_filter *stops;                         /* owned */
};

ds4_status stream_open(stream **out, const vocab *v, const stream_options *options, ds4_error *err)
{
    static const stream_options defaults = { .n_stops = 0 };
    if (!options) options = &defaults;
    *out = NULL;
    stream *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for an output stream");
    s->v = v;
    s->show_control = options->show_control;
    s->raw = options->raw;
    const ds4_status st = stop_filter_open(&s->stops, options->stops, options->n_stops, err);
    if (st) stream_close(s);
    else *out = s;
    return st;
}

void stream_close(stream *s)
{
    if (!s) return;
    stop_filter_close(s->stops);
    free(s);
}

/* ---- complete characters -------------------------------------------------- */

/* The first character, or maximal invalid part, of the pending bytes goes on. */
static void emit_character(stream *s, bytes *out)
{
    uint32_t cp;
    const size_t len = (size_t)utf8_next(s->pending, s->n_pending, &cp);
    if (cp == UTF8_INVALID && !s->raw) stop_filter_push(s->stops, slice_of("\xEF\xBF\xBD"), out);
    else stop_filter_push(s->stops, (slice){ s->pending, len }, out);
    s->n_pending -= len;
    memmove(s->pending, s->pending + len, s->n_pending);
}

static void feed_byte(stream *s, char byte, bytes *out)
{
    s->pending[s->n_pending++] = byte;
    while (s->n_pending > (size_t)utf8_pending(s->pending, s->n_pending)) emit_character(s, out);
}

static void flush_pending(stream *s, bytes *out)
{
    while (s->n_pending > 0) emit_character(s, out);
}

/* No append is longer than what may be held, so a buffer that failed with more room
 * than that had no memory. */
static ds4_status check_out(const bytes *out, ds4_error *err)
{
    if (!out->failed) return DS4_OK;
    if (out->max - out->len > STOPS_MAX_BYTES) {
        return ds4_fail(err, DS4_EMEMORY, "no memory for the answer");
    }
    return ds4_fail(err, DS4_EFULL, "the answer does not fit %zu bytes", out->max);
}

ds4_status stream_push(stream *s, int32_t token, bytes *out, ds4_error *err)
{
    size_t n;
    const char *data = vocab_bytes(s->v, token, &n);
    if (!data) {
        return ds4_fail(err, DS4_EARG, "token %d is outside the vocabulary of %d",
                        (int)token, (int)vocab_size(s->v));
    }
    const bool hidden = vocab_hidden(s->v, token);
    if (hidden || vocab_type(s->v, token) == TOKEN_CONTROL) flush_pending(s, out);
    if (hidden && !s->show_control) {
        stop_filter_release(s->stops, out);
        return check_out(out, err);
    }
    for (size_t i = 0; i < n; i++) feed_byte(s, data[i], out);
    return check_out(out, err);
}

ds4_status stream_flush(stream *s, bytes *out, ds4_error *err)
{
    flush_pending(s, out);
    stop_filter_release(s->stops, out);
    return check_out(out, err);
}

int stream_stopped(const stream *s)
{
    return stop_filter_seen(s->stops);
}

void stream_reset(stream *s)
{
    s->n_pending = 0;
    stop_filter_reset(s->stops);
}
