#include "base/bytes.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bytes_init(bytes *b, size_t max)
{
    /* One byte beyond max is for the terminating 0, so max + 1 must be allocatable. */
    *b = (bytes){ .max = max < PTRDIFF_MAX ? max : PTRDIFF_MAX - 1 };
}

void bytes_free(bytes *b)
{
    free(b->data);
    bytes_init(b, b->max);
}

void bytes_clear(bytes *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

bool bytes_reserve(bytes *b, size_t more)
{
    if (b->failed) return false;
    if (more > b->max - b->len) return !(b->failed = true);

    const size_t need = b->len + more;
    if (b->data && need <= b->cap) return true;

    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need) cap = cap > b->max / 2 ? b->max : cap * 2;
    if (cap > b->max) cap = b->max;

    char *data = realloc(b->data, cap + 1);
    if (!data) return !(b->failed = true);
    data[b->len] = 0;
    b->data = data;
    b->cap = cap;
    return true;
}

bool bytes_append(bytes *b, const void *data, size_t n)
{
    if (!bytes_reserve(b, n)) return false;
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool bytes_text(bytes *b, const char *text)
{
    return bytes_append(b, text, strlen(text));
}

bool bytes_char(bytes *b, char c)
{
    return bytes_append(b, &c, 1);
}

bool bytes_printf(bytes *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return !(b->failed = true);
    if (!bytes_reserve(b, (size_t)n)) return false;

    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return true;
}

char *bytes_take(bytes *b)
{
    char *data = NULL;
    if (bytes_reserve(b, 0)) {
        data = b->data;
        b->data = NULL;
    }
    bytes_free(b);
    return data;
}
