/* boxes: memory with poison around it, for tests of kernels. */
#ifndef TESTS_KERNELS_BOXES_H
#define TESTS_KERNELS_BOXES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { POISON = 0xa5 };

/* n bytes that end `slack` bytes before a page nobody may touch: without slack a
 * read or a write beyond them ends the test, under an emulator too. */
typedef struct {
    uint8_t *data;
    size_t   n;
    uint8_t *map;
    size_t   map_bytes;
} box;

static inline box box_new(size_t n, size_t slack)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t body = (n + slack + page - 1) / page * page;
    uint8_t *map = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + body, page, PROT_NONE)) abort();
    memset(map, POISON, body);
    return (box){ map + body - slack - n, n, map, body + page };
}

static inline void box_free(box *b) { munmap(b->map, b->map_bytes); }

/* The bytes after the first n of an output are untouched. */
static inline bool box_guarded(const box *b, size_t n)
{
    for (size_t i = n; i < b->n; i++) if (b->data[i] != POISON) return false;
    return true;
}

#endif
