/* token_map: from the bytes of a token to its id.
 *
 * A hash over bytes that the vocabulary owns: token i is data[at[i]..at[i + 1]).
 * Immutable once filled; any thread. */
#ifndef TEXT_TOKEN_MAP_H
#define TEXT_TOKEN_MAP_H

#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"

typedef struct {
    const char     *data;       /* borrowed                                     */
    const uint32_t *at;         /* borrowed, [n_tokens + 1]                     */
    uint64_t       *slots;      /* hash bits << 32 | id + 1; 0: empty           */
    size_t          n_slots;    /* a power of two, at least twice the tokens    */
} token_map;

ds4_status token_map_open(token_map *m, const char *data, const uint32_t *at, size_t n_tokens,
                          ds4_error *err);
void       token_map_close(token_map *m);               /* closes a zeroed one too */
void       token_map_add(token_map *m, int32_t id);     /* the first of equal tokens stays */
int32_t    token_map_find(const token_map *m, slice text);      /* -1: none */

#endif
