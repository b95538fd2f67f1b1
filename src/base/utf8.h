/* utf8: stepping through bytes that may not be UTF-8 at all (RFC 3629;
 * overlong forms, surrogates and values above 10FFFF are invalid). */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_INVALID  0xFFFFFFFFu

/* Decodes one code point at data[0..n), n >= 1. Returns the bytes it takes
 * and sets *cp; for an invalid or cut sequence returns the length of the
 * maximal invalid part (>= 1, Unicode 15 section 3.9) and UTF8_INVALID. */
int utf8_next(const char *data, size_t n, uint32_t *cp);

/* Bytes written to out[4]; cp must be a scalar value. */
int utf8_put(char *out, uint32_t cp);

bool utf8_valid(const char *data, size_t n);

/* Bytes at the end of data[0..n) that begin a sequence which more bytes could
 * complete: 0..3. */
int utf8_pending(const char *data, size_t n);

/* Copies what may go to a terminal and cuts at a code point boundary: control
 * characters, direction marks and invalid sequences become '?'. dst (cap >= 1)
 * is NUL-terminated; returns its length. */
size_t utf8_printable(char *dst, size_t cap, const char *src, size_t n);
/* The same of what is formatted, up to 1023 bytes of it; an argument may be dst. */
size_t utf8_vprintable(char *dst, size_t cap, const char *fmt, va_list args);

/* Columns a terminal gives to cp: 0, 1 or 2. */
int utf8_width(uint32_t cp);

#endif
