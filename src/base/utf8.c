#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/utf8_width.h"

/* How a sequence goes on after its first byte (table 3-7 of the Unicode
 * standard): the second byte's range excludes overlong forms, surrogates and
 * values above 10FFFF; all later bytes are 80..BF. len 0: no first byte. */
typedef struct {
    int           len;          /* bytes of the whole sequence */
    unsigned char low, high;    /* range of the second byte    */
} lead;

static lead lead_of(unsigned char c)
{
    if (c < 0x80)  return (lead){ 1, 0, 0 };
    if (c < 0xC2)  return (lead){ 0, 0, 0 };
    if (c < 0xE0)  return (lead){ 2, 0x80, 0xBF };
    if (c == 0xE0) return (lead){ 3, 0xA0, 0xBF };
    if (c == 0xED) return (lead){ 3, 0x80, 0x9F };
    if (c < 0xF0)  return (lead){ 3, 0x80, 0xBF };
    if (c == 0xF0) return (lead){ 4, 0x90, 0xBF };
    if (c < 0xF4)  return (lead){ 4, 0x80, 0xBF };
    if (c == 0xF4) return (lead){ 4, 0x80, 0x8F };
    return (lead){ 0, 0, 0 };
}

/* The bytes of data[0..n) that fit the sequence begun by data[0], at most l.len. */
static int fitting(lead l, const char *data, size_t n)
{
    int i = 1;
    for (; i < l.len && (size_t)i < n; i++) {
        const unsigned char c = (unsigned char)data[i];
        if (c < (i == 1 ? l.low : 0x80) || c > (i == 1 ? l.high : 0xBF)) break;
    }
    return i;
}

int utf8_next(const char *data, size_t n, uint32_t *cp)
{
    const unsigned char first = (unsigned char)data[0];
    const lead l = lead_of(first);
    const int len = fitting(l, data, n);

    *cp = UTF8_INVALID;
    if (len != l.len) return len;

    uint32_t v = len == 1 ? first : first & (0x7Fu >> len);
    for (int i = 1; i < len; i++) v = v << 6 | ((unsigned char)data[i] & 0x3Fu);
    *cp = v;
    return len;
}

int utf8_put(char *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    const int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)((0xF0u << (4 - len) & 0xF0u) | cp);
    return len;
}

bool utf8_valid(const char *data, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += (size_t)utf8_next(data + i, n - i, &cp);
        if (cp == UTF8_INVALID) return false;
    }
    return true;
}

int utf8_pending(const char *data, size_t n)
{
    for (int back = 1; back <= 3 && (size_t)back <= n; back++) {
        const char *at = data + n - back;
        const lead l = lead_of((unsigned char)*at);
        if (l.len > back) return fitting(l, at, (size_t)back) == back ? back : 0;
        if (l.len) return 0;
    }
    return 0;
}

static bool printable(uint32_t cp)
{
    if (cp == UTF8_INVALID || cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) return false;
    if (cp >= 0x2028 && cp <= 0x202E) return false;     /* line separators, embeddings */
    if (cp >= 0x2066 && cp <= 0x2069) return false;     /* isolates                    */
    return cp != 0x200E && cp != 0x200F;
}

size_t utf8_printable(char *dst, size_t cap, const char *src, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t took = (size_t)utf8_next(src + i, n - i, &cp);
        const bool good = printable(cp);
        const size_t give = good ? took : 1;
        if (give >= cap - len) break;
        memcpy(dst + len, good ? src + i : "?", give);
        len += give;
        i += took;
    }
    dst[len] = 0;
    return len;
}

size_t utf8_vprintable(char *dst, size_t cap, const char *fmt, va_list args)
{
    char raw[1024];
    const int n = vsnprintf(raw, sizeof raw, fmt, args);
    size_t len = n < 0 ? 0 : (size_t)n;
    if (len >= sizeof raw) {
        len = sizeof raw - 1;
        len -= (size_t)utf8_pending(raw, len);
    }
    return utf8_printable(dst, cap, raw, len);
}

static bool within(const utf8_range *r, size_t n, uint32_t cp)
{
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = (low + high) / 2;
        if (cp > r[mid].last) low = mid + 1;
        else high = mid;
    }
    return low < n && cp >= r[low].first;
}

int utf8_width(uint32_t cp)
{
    if (cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) return 0;
    if (cp < 0x300) return 1;
    if (within(no_column, countof(no_column), cp)) return 0;
    return within(two_columns, countof(two_columns), cp) ? 2 : 1;
}
