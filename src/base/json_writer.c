#include "base/json_writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

enum { MAX_DEPTH = 64 };

void json_init(json_writer *w, bytes *out)
{
    *w = (json_writer){ .out = out };
}

/* Before each key, and before each value that has none: the comma. */
static void separate(json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth < 1 || w->depth > MAX_DEPTH) return;
    const uint64_t bit = UINT64_C(1) << (w->depth - 1);
    if (w->has_items & bit) bytes_char(w->out, ',');
    w->has_items |= bit;
}

static void open_level(json_writer *w, char c)
{
    separate(w);
    bytes_char(w->out, c);
    w->depth++;
    if (w->depth > MAX_DEPTH) w->out->failed = true;
    else w->has_items &= ~(UINT64_C(1) << (w->depth - 1));
}

static void close_level(json_writer *w, char c)
{
    bytes_char(w->out, c);
    w->depth--;
    w->after_key = false;
}

void json_object(json_writer *w)     { open_level(w, '{'); }
void json_object_end(json_writer *w) { close_level(w, '}'); }
void json_array(json_writer *w)      { open_level(w, '['); }
void json_array_end(json_writer *w)  { close_level(w, ']'); }

static void escape(bytes *out, unsigned char c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = c ? strchr(plain, c) : NULL;
    if (at) bytes_printf(out, "\\%c", letter[at - plain]);
    else    bytes_printf(out, "\\u%04x", c);
}

/* Copies runs of bytes that stand for themselves in one piece. */
static void quoted(bytes *out, const char *data, size_t n)
{
    bytes_char(out, '"');
    size_t run = 0, i = 0;
    while (i < n) {
        const unsigned char c = (unsigned char)data[i];
        uint32_t cp = c;
        const int len = c < 0x80 ? 1 : utf8_next(data + i, n - i, &cp);
        const bool as_is = cp != UTF8_INVALID && c >= 0x20 && c != '"' && c != '\\';
        if (!as_is) {
            bytes_append(out, data + run, i - run);
            if (cp == UTF8_INVALID) bytes_text(out, "\xEF\xBF\xBD");
            else                    escape(out, c);
            run = i + (size_t)len;
        }
        i += (size_t)len;
    }
    if (n > run) bytes_append(out, data + run, n - run);    /* nothing may come as NULL */
    bytes_char(out, '"');
}

void json_key(json_writer *w, const char *key)
{
    separate(w);
    quoted(w->out, key, strlen(key));
    bytes_char(w->out, ':');
    w->after_key = true;
}

void json_string(json_writer *w, const char *data, size_t n)
{
    separate(w);
    quoted(w->out, data, n);
}

void json_text(json_writer *w, const char *text)
{
    json_string(w, text, strlen(text));
}

void json_int(json_writer *w, int64_t v)
{
    separate(w);
    bytes_printf(w->out, "%" PRId64, v);
}

void json_double(json_writer *w, double v, int digits)
{
    if (!isfinite(v)) {
        json_null(w);
        return;
    }
    char text[40];
    digits = digits < 1 ? 1 : digits > 17 ? 17 : digits;
    snprintf(text, sizeof text, "%.*g", digits, v);
    char *comma = strchr(text, ',');        /* some locales' decimal point */
    if (comma) *comma = '.';
    separate(w);
    bytes_text(w->out, text);
}

void json_bool(json_writer *w, bool v)
{
    separate(w);
    bytes_text(w->out, v ? "true" : "false");
}

void json_null(json_writer *w)
{
    separate(w);
    bytes_text(w->out, "null");
}

void json_raw(json_writer *w, const char *data, size_t n)
{
    if (n == 0) return;
    separate(w);
    bytes_append(w->out, data, n);
}

/* ---- members ----------------------------------------------------------------- */

void json_put_text(json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    if (text) json_text(w, text);
    else      json_null(w);
}

void json_put_int(json_writer *w, const char *key, int64_t v)
{
    json_key(w, key);
    json_int(w, v);
}

void json_put_double(json_writer *w, const char *key, double v, int digits)
{
    json_key(w, key);
    json_double(w, v, digits);
}

void json_put_bool(json_writer *w, const char *key, bool v)
{
    json_key(w, key);
    json_bool(w, v);
}
