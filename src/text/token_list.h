/* token_list: tokens in a row, never more than max of them.
 *
 * Always true: n <= cap <= max, n <= wanted. What is pushed beyond max is counted
 * and dropped, so a caller learns how much room it would have needed. */
#ifndef TEXT_TOKEN_LIST_H
#define TEXT_TOKEN_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t *ids;       /* owned; [n]                                 */
    size_t   n, cap, max;
    size_t   wanted;    /* tokens pushed, the dropped ones too        */
    bool     failed;    /* no memory; later pushes are only counted   */
} token_list;

void token_list_init(token_list *l, size_t max);
void token_list_free(token_list *l);
void token_list_clear(token_list *l);           /* keeps the memory, forgets failure */
bool token_list_grow(token_list *l);            /* room for one more; for token_list_push */

/* False: full, or no memory. */
static inline bool token_list_push(token_list *l, int32_t id)
{
    l->wanted++;
    if (l->n == l->cap && !token_list_grow(l)) return false;
    l->ids[l->n++] = id;
    return true;
}

#endif
