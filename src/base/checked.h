/* checked: arithmetic on numbers that came from outside, and small helpers.
 * Each function returns false, leaving *out alone, when the result does not fit. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define countof(a) (sizeof(a) / sizeof((a)[0]))

static inline bool checked_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool checked_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool checked_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* v rounded up to a multiple of align, a power of two. */
static inline bool checked_align_u64(uint64_t v, uint64_t align, uint64_t *out)
{
    uint64_t r;
    if (!checked_add_u64(v, align - 1, &r)) return false;
    *out = r & ~(align - 1);
    return true;
}

/* For sizes that are known to be small. */
static inline uint64_t round_up(uint64_t v, uint64_t multiple) { return (v + multiple - 1) / multiple * multiple; }
static inline double   in_gib(uint64_t n)                      { return (double)n / (double)(1u << 30); }

static inline int      min_int(int a, int b)            { return a < b ? a : b; }
static inline int      max_int(int a, int b)            { return a > b ? a : b; }
static inline int64_t  min_i64(int64_t a, int64_t b)    { return a < b ? a : b; }
static inline uint64_t min_u64(uint64_t a, uint64_t b)  { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b)  { return a > b ? a : b; }
static inline size_t   min_size(size_t a, size_t b)     { return a < b ? a : b; }

#endif
