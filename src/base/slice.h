/* slice: bytes that somebody else owns. Not NUL-terminated. */
#ifndef BASE_SLICE_H
#define BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct {
    const char *data;
    size_t      len;
} slice;

static inline slice slice_of(const char *text)
{
    return (slice){ text, strlen(text) };
}

/* n is at most s.len. Without bytes there may be no address either, and none is made of it. */
static inline slice slice_behind(slice s, size_t n)
{
    return n ? (slice){ s.data + n, s.len - n } : s;
}

static inline slice slice_between(slice s, size_t begin, size_t end)
{
    return (slice){ slice_behind(s, begin).data, end - begin };
}

static inline bool slice_equal(slice a, slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool slice_is(slice a, const char *text)
{
    return slice_equal(a, slice_of(text));
}

#endif
