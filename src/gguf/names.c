#include "gguf/names.h"

#include <stdlib.h>
#include "base/checked.h"

bool names_init(names *x, int n)
{
    *x = (names){ calloc((size_t)(n ? n : 1), sizeof *x->entry), n };
    return x->entry != NULL;
}

void names_free(names *x)
{
    free(x->entry);
    *x = (names){ 0 };
}

static int order(slice a, slice b)
{
    const size_t n = min_size(a.len, b.len);
    const int c = n ? memcmp(a.data, b.data, n) : 0;
    if (c) return c;
    return (a.len > b.len) - (a.len < b.len);
}

static int entry_order(const void *a, const void *b)
{
    return order(((const name_entry *)a)->name, ((const name_entry *)b)->name);
}

const name_entry *names_sort(names *x)
{
    qsort(x->entry, (size_t)x->n, sizeof *x->entry, entry_order);
    for (int i = 1; i < x->n; i++)
        if (slice_equal(x->entry[i - 1].name, x->entry[i].name)) return &x->entry[i];
    return NULL;
}

int names_find(const names *x, slice name)
{
    int lo = 0, hi = x->n;
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2, c = order(x->entry[mid].name, name);
        if (c == 0) return x->entry[mid].number;
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return -1;
}
