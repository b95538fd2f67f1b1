/* arena: memory of one life, given out in order and taken back at once.
 *
 * Owns one block sized at open (no growth: a running engine allocates nothing
 * per token). Pointers are good until arena_reset or arena_close. One thread. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>
#include "ds4_status.h"

typedef struct {
    char  *base;
    size_t used, cap;   /* bytes */
    size_t high;        /* the most ever used */
} arena;

#define ARENA_ALIGN 64

ds4_status arena_open(arena *a, size_t cap, ds4_error *err);
void       arena_close(arena *a);            /* NULL-safe, closes a zeroed one too */
void      *arena_take(arena *a, size_t n);   /* 64-byte aligned, not cleared; NULL: full */
void       arena_reset(arena *a);

#endif
