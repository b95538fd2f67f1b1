/* names: finding a name among many without trusting them.
 *
 * A sorted list, so that no choice of names makes building or searching slow
 * (a hash could be attacked). Owns its list, not the names. */
#ifndef GGUF_NAMES_H
#define GGUF_NAMES_H

#include <stdbool.h>
#include "base/slice.h"

typedef struct {
    slice name;
    int   number;       /* what the caller calls it */
} name_entry;

typedef struct {
    name_entry *entry;  /* owned; sorted after names_sort */
    int         n;
} names;

/* Room for n names, entries zeroed; false: no memory. */
bool names_init(names *x, int n);
void names_free(names *x);

/* Sorts by name. Returns an entry whose name occurs twice, or NULL. */
const name_entry *names_sort(names *x);

int names_find(const names *x, slice name);     /* its number; -1: none */

#endif
