/* json_writer: JSON text appended to a buffer, commas and escapes done right.
 *
 * Strings must be valid UTF-8; invalid bytes are written as U+FFFD. Numbers
 * are finite or become null. Nesting deeper than 64 fails the buffer. Key and
 * value calls must alternate inside an object; that is the caller's duty. */
#ifndef BASE_JSON_WRITER_H
#define BASE_JSON_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"

typedef struct {
    bytes   *out;               /* borrowed */
    uint64_t has_items;         /* bit d: something was written at depth d */
    int      depth;
    bool     after_key;
} json_writer;

void json_init(json_writer *w, bytes *out);
void json_object(json_writer *w);
void json_object_end(json_writer *w);
void json_array(json_writer *w);
void json_array_end(json_writer *w);
void json_key(json_writer *w, const char *key);
void json_string(json_writer *w, const char *data, size_t n);    /* n 0: data may be NULL */
void json_text(json_writer *w, const char *text);       /* NUL-terminated */
void json_int(json_writer *w, int64_t v);
void json_double(json_writer *w, double v, int digits);  /* %.*g */
void json_bool(json_writer *w, bool v);
void json_null(json_writer *w);
/* A member of an object: the key and its value. */
void json_put_text(json_writer *w, const char *key, const char *text);  /* NULL: null */
void json_put_int(json_writer *w, const char *key, int64_t v);
void json_put_double(json_writer *w, const char *key, double v, int digits);
void json_put_bool(json_writer *w, const char *key, bool v);
/* A value, or several values of an array joined by commas, that is JSON text already. Empty: nothing. */
void json_raw(json_writer *w, const char *data, size_t n);

#endif
