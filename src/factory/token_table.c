#include "factory/token_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

ds4_status token_table_init(token_table *t, int n_tokens, size_t max_merges, ds4_error *err)
{
    *t = (token_table){ .n_tokens = n_tokens };
    t->tokens = calloc((size_t)n_tokens + 1, sizeof *t->tokens);
    t->types  = calloc((size_t)n_tokens + 1, sizeof *t->types);
    t->merges = calloc(max_merges + 1, sizeof *t->merges);
    if (t->tokens && t->types && t->merges) return DS4_OK;
    token_table_free(t);
    return ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary of %d tokens", n_tokens);
}

void token_table_free(token_table *t)
{
    for (int i = 0; t->tokens && i < t->n_tokens; i++) free((char *)t->tokens[i].data);
    for (int i = 0; t->merges && i < t->n_merges; i++) free((char *)t->merges[i].data);
    free(t->tokens);
    free(t->types);
    free(t->merges);
    *t = (token_table){ 0 };
}

bool token_table_set(token_table *t, int id, slice text, int type)
{
    if (t->tokens[id].data) return false;
    char *copy = malloc(text.len + 1);
    if (!copy) return false;
    memcpy(copy, text.data, text.len);
    copy[text.len] = 0;
    t->tokens[id] = (slice){ copy, text.len };
    t->types[id]  = type;
    return true;
}

bool token_table_merge(token_table *t, slice left, slice right)
{
    char *text = malloc(left.len + right.len + 2);
    if (!text) return false;
    memcpy(text, left.data, left.len);
    text[left.len] = ' ';
    memcpy(text + left.len + 1, right.data, right.len);
    text[left.len + 1 + right.len] = 0;
    t->merges[t->n_merges++] = (slice){ text, left.len + 1 + right.len };
    return true;
}

ds4_status token_table_fill(token_table *t, ds4_error *err)
{
    char text[32];
    for (int id = 0; id < t->n_tokens; id++) {
        if (t->tokens[id].data) continue;
        snprintf(text, sizeof text, "[PAD%d]", id);
        if (!token_table_set(t, id, slice_of(text), TOKEN_TYPE_UNUSED))
            return ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary of %d tokens", t->n_tokens);
    }
    return DS4_OK;
}
