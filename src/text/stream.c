#include "text/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "base/utf8.h"

/* One stop string as the automaton of Knuth, Morris and Pratt (1977). */
typedef struct {
    char    *text;              /* owned, [len]                                         */
    int      len;
    int     *fall;              /* owned, [len]: where to go on when byte i mismatches  */
    int      seen;              /* bytes at the end of the output that begin this string */
} stop;

struct stream {
    const vocab *v;
    bool         show_control, raw;
    char         pending[4];                    /* a character not yet complete */
    size_t       n_pending;
    char         held[STREAM_MAX_STOP_BYTES];   /* the longest half-seen stop string */
    size_t       n_held;
    stop         stops[STREAM_MAX_STOPS];
    int          n_stops;
    int          stopped;                       /* -1: not yet */
};

static ds4_status take_stop(stop *s, slice text, ds4_error *err)
{
    if (text.len == 0 || text.len > STREAM_MAX_STOP_BYTES || !utf8_valid(text.data, text.len)) {
        return ds4_fail(err, DS4_EARG, "a stop string must be valid UTF-8 of 1 to %d bytes",
                        STREAM_MAX_STOP_BYTES);
    }
    s->len = (int)text.len;
    s->text = malloc(text.len);
    s->fall = malloc(text.len * sizeof *s->fall);
    if (!s->text || !s->fall) return ds4_fail(err, DS4_EMEMORY, "no memory for a stop string");

    memcpy(s->text, text.data, text.len);
    s->fall[0] = -1;
    for (int i = 1, k = -1; i < s->len; i++) {
        while (k >= 0 && s->text[k] != s->text[i - 1]) k = s->fall[k];
        s->fall[i] = ++k;
    }
    return DS4_OK;
}

ds4_status stream_open(stream **out, const vocab *v, const stream_options *options, ds4_error *err)
{
    static const stream_options defaults = { .n_stops = 0 };
    if (!options) options = &defaults;
    *out = NULL;
    if (options->n_stops < 0 || options->n_stops > STREAM_MAX_STOPS) {
        return ds4_fail(err, DS4_EARG, "%d stop strings; %d are the most", options->n_stops, STREAM_MAX_STOPS);
    }
    stream *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for an output stream");
    s->v = v;
    s->show_control = options->show_control;
    s->raw = options->raw;
    s->stopped = -1;
    for (; s->n_stops < options->n_stops; s->n_stops++) {
        const ds4_status st = take_stop(&s->stops[s->n_stops], options->stops[s->n_stops], err);
        if (st) {
            s->n_stops++;
            stream_close(s);
            return st;
        }
    }
    *out = s;
    return DS4_OK;
}

void stream_close(stream *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_stops; i++) {
        free(s->stops[i].text);
        free(s->stops[i].fall);
    }
    free(s);
}

/* ---- second filter: stop strings ------------------------------------------ */

/* Feeds a byte; true when it completes the string. */
static bool stop_advance(stop *s, char byte)
{
    while (s->seen >= 0 && s->text[s->seen] != byte) s->seen = s->fall[s->seen];
    return ++s->seen == s->len;
}

static void emit_byte(stream *s, char byte, bytes *out)
{
    int longest = 0, hit = -1;
    if (s->stopped >= 0) return;
    for (int i = 0; i < s->n_stops; i++) {
        stop *t = &s->stops[i];
        if (stop_advance(t, byte) && (hit < 0 || t->len > s->stops[hit].len)) hit = i;
        if (t->seen > longest) longest = t->seen;
    }
    if (hit >= 0) {
        bytes_append(out, s->held, s->n_held + 1 - (size_t)s->stops[hit].len);
        s->n_held = 0;
        s->stopped = hit;
        return;
    }
    if (longest == 0 && s->n_held == 0) {
        bytes_char(out, byte);
        return;
    }
    /* What no half-seen string covers any more can go. */
    const size_t gone = s->n_held + 1 - (size_t)longest;
    s->held[s->n_held++] = byte;
    bytes_append(out, s->held, gone);
    s->n_held -= gone;
    memmove(s->held, s->held + gone, s->n_held);
}

static void release_held(stream *s, bytes *out)
{
    if (s->stopped < 0) bytes_append(out, s->held, s->n_held);
    s->n_held = 0;
    for (int i = 0; i < s->n_stops; i++) s->stops[i].seen = 0;
}

/* ---- first filter: complete characters ------------------------------------ */

/* The first character, or maximal invalid part, of the pending bytes goes on. */
static void emit_character(stream *s, bytes *out)
{
    uint32_t cp;
    const size_t len = (size_t)utf8_next(s->pending, s->n_pending, &cp);
    if (cp == UTF8_INVALID && !s->raw) {
        for (const char *p = "\xEF\xBF\xBD"; *p; p++) emit_byte(s, *p, out);
    } else {
        for (size_t i = 0; i < len; i++) emit_byte(s, s->pending[i], out);
    }
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
    if (out->max - out->len > STREAM_MAX_STOP_BYTES) {
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
        release_held(s, out);
        return check_out(out, err);
    }
    for (size_t i = 0; i < n; i++) feed_byte(s, data[i], out);
    return check_out(out, err);
}

ds4_status stream_flush(stream *s, bytes *out, ds4_error *err)
{
    flush_pending(s, out);
    release_held(s, out);
    return check_out(out, err);
}

int stream_stopped(const stream *s)
{
    return s->stopped;
}

void stream_reset(stream *s)
{
    s->n_pending = s->n_held = 0;
    s->stopped = -1;
    for (int i = 0; i < s->n_stops; i++) s->stops[i].seen = 0;
}
