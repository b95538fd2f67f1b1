#include "factory/token_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

#define BLOCK_BYTES ((size_t)256 * 1024)

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
    for (int i = 0; i < t->n_blocks; i++) free(t->blocks[i]);
    free(t->blocks);
    free(t->tokens);
    free(t->types);
    free(t->merges);
    *t = (token_table){ 0 };
}

/* n bytes that live as long as the table; strings never move. */
static char *take(token_table *t, size_t n)
{
    if (t->n_blocks == 0 || n > BLOCK_BYTES - t->used) {
        char **blocks = realloc(t->blocks, ((size_t)t->n_blocks + 1) * sizeof *blocks);
        if (!blocks) return NULL;
        t->blocks = blocks;
        t->blocks[t->n_blocks] = malloc(n > BLOCK_BYTES ? n : BLOCK_BYTES);
        if (!t->blocks[t->n_blocks]) return NULL;
        t->n_blocks++;
        t->used = 0;
    }
    char *text = t->blocks[t->n_blocks - 1] + t->used;
    t->used = n > BLOCK_BYTES ? BLOCK_BYTES : t->used + n;
    return text;
}

slice token_table_copy(token_table *t, slice text)
{
    char *copy = take(t, text.len + 1);     /* an empty text has a place too */
    if (copy) memcpy(copy, text.data, text.len);
    return (slice){ copy, copy ? text.len : 0 };
}

bool token_table_set(token_table *t, int id, slice text, int type)
{
    if (t->tokens[id].data) return false;
    t->tokens[id] = token_table_copy(t, text);
    t->types[id]  = type;
    return t->tokens[id].data != NULL;
}

bool token_table_merge(token_table *t, slice left, slice right)
{
    char *text = take(t, left.len + 1 + right.len);
    if (!text) return false;
    memcpy(text, left.data, left.len);
    text[left.len] = ' ';
    memcpy(text + left.len + 1, right.data, right.len);
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
