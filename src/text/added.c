#include "text/added.h"

#include <stdlib.h>
#include <string.h>

static int by_text(const void *pa, const void *pb)
{
    const added_token *a = pa, *b = pb;
    const size_t n = a->text.len < b->text.len ? a->text.len : b->text.len;
    const int order = memcmp(a->text.data, b->text.data, n);
    if (order) return order;
    if (a->text.len != b->text.len) return a->text.len < b->text.len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void added_open(added *a, added_token *tokens, size_t n)
{
    *a = (added){ .tokens = tokens };
    if (n) qsort(tokens, n, sizeof *tokens, by_text);
    for (size_t i = 0; i < n; i++) {
        if (a->n && slice_equal(tokens[a->n - 1].text, tokens[i].text)) continue;
        a->first[(unsigned char)tokens[i].text.data[0]] = true;
        tokens[a->n++] = tokens[i];
    }
}

void added_close(added *a)
{
    free(a->tokens);
    *a = (added){ .tokens = NULL };
}

/* The first of tokens [lo, hi), which agree in their first `depth` bytes and are
 * longer, whose next byte is at least c. */
static size_t lower_bound(const added *a, size_t lo, size_t hi, size_t depth, int c)
{
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)a->tokens[mid].text.data[depth] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The longest token that data begins with, and its length; -1: none. */
static int32_t longest_prefix(const added *a, slice data, size_t *len)
{
    size_t lo = 0, hi = a->n;
    int32_t best = -1;
    for (size_t depth = 0; depth < data.len && lo < hi; depth++) {
        const int c = (unsigned char)data.data[depth];
        lo = lower_bound(a, lo, hi, depth, c);
        hi = lower_bound(a, lo, hi, depth, c + 1);
        if (lo < hi && a->tokens[lo].text.len == depth + 1) {       /* the shortest sorts first */
            best = a->tokens[lo++].id;
            *len = depth + 1;
        }
    }
    return best;
}

int32_t added_find(const added *a, slice data, size_t *pos, size_t *len)
{
    for (size_t i = *pos; i < data.len; i++) {
        if (!a->first[(unsigned char)data.data[i]]) continue;
        const int32_t id = longest_prefix(a, (slice){ data.data + i, data.len - i }, len);
        if (id < 0) continue;
        *pos = i;
        return id;
    }
    return -1;
}

int32_t added_exact(const added *a, slice text)
{
    size_t len = 0;
    const int32_t id = longest_prefix(a, text, &len);
    return id >= 0 && len == text.len ? id : -1;
}
