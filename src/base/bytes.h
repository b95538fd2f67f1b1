/* bytes: a growable buffer that is born with the size it may never pass.
 *
 * Always true: data[len] is 0 once anything was appended (not counted in len),
 * len <= cap <= max. A failed append sets `failed` and changes nothing else;
 * later appends then do nothing, so a long chain is checked once at its end. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char  *data;        /* owned; NULL while nothing was appended */
    size_t len, cap;
    size_t max;         /* bytes; an append beyond it fails       */
    bool   failed;      /* no memory, or max would be passed      */
} bytes;

void bytes_init(bytes *b, size_t max);
void bytes_free(bytes *b);
void bytes_clear(bytes *b);                  /* keeps the memory, forgets failure */

bool bytes_append(bytes *b, const void *data, size_t n);
bool bytes_text(bytes *b, const char *text); /* NUL-terminated */
bool bytes_char(bytes *b, char c);
bool bytes_printf(bytes *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool bytes_reserve(bytes *b, size_t more);   /* room for more appended bytes */

/* Gives the memory away (caller frees; NUL-terminated, never NULL unless out
 * of memory or failed) and leaves b empty. */
char *bytes_take(bytes *b);

#endif
