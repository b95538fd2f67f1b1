#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/status.h"

ds4_status arena_open(arena *a, size_t cap, ds4_error *err)
{
    *a = (arena){ 0 };
    uint64_t rounded;
    if (!checked_align_u64(cap ? cap : 1, ARENA_ALIGN, &rounded) || rounded > PTRDIFF_MAX)
        return ds4_fail(err, DS4_EMEMORY, "no memory for %zu bytes of scratch", cap);

    a->base = aligned_alloc(ARENA_ALIGN, (size_t)rounded);
    if (!a->base)
        return ds4_fail(err, DS4_EMEMORY, "no memory for %zu bytes of scratch", cap);
    a->cap = (size_t)rounded;
    return DS4_OK;
}

void arena_close(arena *a)
{
    if (!a) return;
    free(a->base);
    *a = (arena){ 0 };
}

void *arena_take(arena *a, size_t n)
{
    /* used and cap are multiples of the alignment, so what is left is one too. */
    if (n > a->cap - a->used) return NULL;
    char *p = a->base + a->used;
    a->used += (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (a->used > a->high) a->high = a->used;
    return p;
}

void arena_reset(arena *a)
{
    a->used = 0;
}
