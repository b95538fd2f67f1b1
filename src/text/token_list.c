#include "text/token_list.h"

#include <stdlib.h>

#define FIRST_CAP 64

void token_list_init(token_list *l, size_t max)
{
    *l = (token_list){ .max = max < SIZE_MAX / sizeof *l->ids ? max : SIZE_MAX / sizeof *l->ids };
}

void token_list_free(token_list *l)
{
    free(l->ids);
    token_list_init(l, l->max);
}

void token_list_clear(token_list *l)
{
    l->n = l->wanted = 0;
    l->failed = false;
}

bool token_list_grow(token_list *l)
{
    if (l->failed || l->cap == l->max) return false;
    size_t cap = l->cap ? l->cap : FIRST_CAP / 2;
    cap = cap > l->max / 2 ? l->max : cap * 2;
    int32_t *ids = realloc(l->ids, cap * sizeof *ids);
    if (!ids) return !(l->failed = true);
    l->ids = ids;
    l->cap = cap;
    return true;
}
